#!/usr/bin/env bash
# hm image: what becomes an image of the store, from what, and what is refused.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

ARCHIVES=$E2E_DIR/image_archives.py

# image_rc CODE ARG…: hm image ARG…; sets OUT and ERR.
image_rc() {
  local expected=$1 rc=0
  shift
  RUNS=$((RUNS + 1))
  OUT=$T/run$RUNS.stdout
  ERR=$T/run$RUNS.stderr
  "$HM" image "$@" >"$OUT" 2>"$ERR" </dev/null || rc=$?
  [[ $rc == "$expected" ]] ||
    fail "hm image $* exited $rc, expected $expected: $(head -c 600 "$ERR")"
}

# field NAME FIELD: of hm image inspect.
field() {
  "$HM" image inspect "$1" | awk -v field="$2" '$1 == field { print $2 }'
}

tree_of() {
  field "$1" tree
}

assert_nothing_in_the_store() {
  local left
  left=$(find "$HM_HOME/blobs" "$HM_HOME/scratch" -type f)
  [[ -z $left ]] || fail "$1 left in the store: $left"
  [[ -z $("$HM" image ls) ]] || fail "$1 is an image"
}

# A root of busybox in $T/root.
make_root() {
  local busybox name
  busybox=$(command -v busybox) || skip 'needs busybox (package busybox-static)'
  ! ldd "$busybox" >/dev/null 2>&1 || skip 'busybox here is not static (package busybox-static)'
  mkdir -p "$T/root/bin" "$T/root/etc" "$T/root/root"
  chmod 755 "$T/root" "$T/root"/*
  cp "$busybox" "$T/root/bin/busybox"
  for name in sh cat ls stat find echo test env pwd id readlink rm mkdir touch; do
    ln -s busybox "$T/root/bin/$name"
  done
  echo one >"$T/root/etc/one"
  echo two >"$T/root/etc/two"
}

test_hostile_archives_are_refused_and_leave_nothing() {
  local path count=0
  needs_command python3 zstd
  mkdir "$T/hostile"
  python3 "$ARCHIVES" hostile "$T/hostile"
  for path in "$T"/hostile/*; do
    [[ $path == */secret ]] && continue
    image_rc 1 import x "$path" --max-size 32M
    [[ $(wc -l <"$ERR") == 1 && $(<"$ERR") == "hm: $path: "* ]] ||
      fail "$path is refused like this: $(head -c 600 "$ERR")"
    [[ ! -s $OUT ]] || fail "$path printed $(head -c 600 "$OUT")"
    printf '# %s\n' "$(<"$ERR")"
    assert_nothing_in_the_store "$path"
    count=$((count + 1))
  done
  ((count >= 60)) || fail "only $count archives"
}

test_layers_mean_what_oci_says() {
  local tar name
  needs_command python3
  mkdir "$T/layers"
  python3 "$ARCHIVES" layers "$T/layers"
  for tar in "$T"/layers/*.tar; do
    name=$(basename "$tar" .tar)
    image_rc 0 import layers "$T/layers/$name"
    image_rc 0 import tree "$tar"
    [[ $(tree_of layers) == "$(tree_of tree)" ]] || fail "$name: another tree"
  done
}

test_one_tree_however_it_is_packed() {
  local name
  needs_command tar zstd
  make_root
  ln "$T/root/etc/one" "$T/root/etc/hard"
  ln -s ../etc/one "$T/root/bin/soft"
  tar -C "$T/root" --numeric-owner --sort=name -cf "$T/root.tar" .
  for name in gzip bzip2 xz zstd; do
    if command -v "$name" >/dev/null; then "$name" -k -c "$T/root.tar" >"$T/root.tar.$name"; fi
  done
  image_rc 0 import directory "$T/root"
  for path in "$T"/root.tar*; do
    image_rc 0 import "x:${path##*.}" "$path"
    [[ $(tree_of "x:${path##*.}") == "$(tree_of directory)" ]] || fail "$path: another tree"
  done
}

test_one_image_may_be_chosen_of_several() {
  needs_command umoci
  make_root
  umoci init --layout "$T/layout"
  umoci new --image "$T/layout:empty"
  umoci new --image "$T/layout:one"
  umoci insert --rootless --image "$T/layout:one" "$T/root/etc/one" /one
  image_rc 1 import x "$T/layout"
  grep -q 'several images.*empty, one' "$ERR" || fail "says $(<"$ERR")"
  image_rc 0 import empty "$T/layout:empty"
  image_rc 0 import one "$T/layout:one"
  [[ $(field empty entries) == 1 && $(field one entries) == 2 ]] || fail 'other entries'
  image_rc 1 import x "$T/layout:three"
}

# A layout and its archives, as Docker and others write them.
test_archives_of_layouts() {
  local want name
  needs_command skopeo umoci
  make_root
  umoci init --layout "$T/layout"
  umoci new --image "$T/layout:one"
  umoci insert --rootless --image "$T/layout:one" "$T/root/bin" /bin
  umoci insert --rootless --image "$T/layout:one" "$T/root/etc" /etc
  image_rc 0 import layout "$T/layout"
  want=$(tree_of layout)
  skopeo --insecure-policy copy -q "oci:$T/layout:one" "docker-archive:$T/docker.tar:one:latest"
  skopeo --insecure-policy copy -q "oci:$T/layout:one" "oci-archive:$T/oci.tar"
  gzip -k "$T/docker.tar"
  for name in docker.tar oci.tar docker.tar.gz; do
    image_rc 0 import x "$T/$name"
    [[ $(tree_of x) == "$want" ]] || fail "$name: another tree"
  done
}

test_steps_run_on_an_image() {
  make_root
  write f.txt 'of the workspace'
  image_rc 0 import base:1 "$T/root"
  rm -r "$T/root"
  pipeline_toml <<'TOML'
image = "base:1"
[[step]]
key = "a"
run = "cat /etc/one f.txt; echo three > /etc/three"
[[step]]
key = "b"
from = "a"
run = "cat /etc/two /etc/three"
TOML
  first_run_then_hits a b
  assert_log a one 'of the workspace'
  assert_log b two three
  grep -q "^hm: image base:1 is $(tree_of base:1 | head -c 12)" "$ERR" || fail "says $(<"$ERR")"
  "$HM" export -d "$W" b /etc/two "$T/two"
  [[ $(<"$T/two") == two ]] || fail 'exported something else'
}

test_rebuilt_image_runs_only_what_looked_at_the_change() {
  make_root
  image_rc 0 import base "$T/root"
  pipeline_toml <<'TOML'
image = "base"
[[step]]
key = "one"
run = "cat /etc/one"
[[step]]
key = "two"
run = "cat /etc/two"
TOML
  first_run_then_hits one two
  echo 2 >"$T/root/etc/two"
  echo new >"$T/root/etc/new"
  image_rc 0 import base "$T/root"
  run_ok
  assert_hit one
  assert_ran two
  assert_reason two etc/two
  "$HM" why -d "$W" two | grep -q '/etc/two' || fail 'hm why does not name the file'
  echo two >"$T/root/etc/two"
  image_rc 0 import base "$T/root"
  run_ok
  assert_hit one two
}

test_defaults_of_an_image() {
  needs_command umoci
  make_root
  umoci init --layout "$T/layout"
  umoci new --image "$T/layout:one"
  umoci insert --rootless --image "$T/layout:one" "$T/root/bin" /bin
  umoci config --image "$T/layout:one" --config.env A=image --config.env B=image \
    --config.workingdir /bin
  image_rc 0 import base "$T/layout"
  pipeline_toml <<'TOML'
image = "base"
[[step]]
key = "s"
run = "echo $A $B; pwd"
env = { B = "step" }
[[step]]
key = "child"
from = "s"
run = "echo $A; pwd"
[[step]]
key = "t"
run = "pwd"
cwd = "."
TOML
  run_ok
  assert_log s 'image step' /bin
  assert_log child image /bin
  assert_log t /workspace
}

# user_image USER: the image `base`, whose User that is; app is in it, and in a second group.
user_image() {
  local dir
  needs_command umoci
  make_root
  mkdir -p "$T/root/home/app"
  printf '%s\n' root:x:0:0::/root:/bin/sh app:x:1000:1000::/home/app:/bin/sh >"$T/root/etc/passwd"
  printf '%s\n' root:x:0: app:x:1000: wheel:x:10:app >"$T/root/etc/group"
  umoci init --layout "$T/layout"
  umoci new --image "$T/layout:one"
  for dir in bin etc home; do
    umoci insert --rootless --image "$T/layout:one" "$T/root/$dir" "/$dir"
  done
  umoci config --image "$T/layout:one" --config.user "$1"
  image_rc 0 import base "$T/layout"
}

test_steps_run_as_the_user_of_the_image() {
  user_image app
  pipeline_toml <<'TOML'
image = "base"
[[step]]
key = "s"
run = """
id -u; id -G; echo $HOME; echo new >made; echo out >/dev/stdout
(echo x >/bin/new) 2>/dev/null || echo may not
busybox grep ^Cap /proc/self/status | busybox grep -v Bnd | busybox tr -d '\\t'
"""
[[step]]
key = "child"
from = "s"
run = "cat made; stat -c '%u:%g' made seen ."
TOML
  echo seen >"$W/seen"
  run_ok
  if has_ids; then
    assert_log s 1000 '1000 10' /home/app out 'may not' CapInh:0000000000000000 \
      CapPrm:0000000000000000 CapEff:0000000000000000 CapAmb:0000000000000000
    assert_log child new 1000:1000 1000:1000 1000:1000
    grep -q "image base is [0-9a-f]*, its steps run as 'app'" "$ERR" || fail "says $(<"$ERR")"
  else
    assert_log_has s /root
    grep -q "user 'app', who has no id here: its steps run as root" "$ERR" || fail "says $(<"$ERR")"
  fi
  run_ok
  assert_hit s child
  umoci config --image "$T/layout:one" --config.user 0
  image_rc 0 import base "$T/layout"
  run_ok
  if has_ids; then
    assert_ran s
    assert_reason s 'HOME|the user'
  else
    assert_hit s child
  fi
  assert_log_has s /root
  assert_log child new 0:0 0:0 0:0
}

test_users_by_number_and_users_that_are_not_there() {
  has_ids || skip 'there are no other ids'
  user_image 7:8
  pipeline_toml <<'TOML'
image = "base"
[[step]]
key = "s"
run = "id -u; id -g; echo $HOME"
TOML
  run_ok
  assert_log s 7 8 /
  umoci config --image "$T/layout:one" --config.user nobody
  image_rc 0 import base "$T/layout"
  run_rc 4
  grep -q "image base is made for the user 'nobody', whom its /etc/passwd" "$ERR" ||
    fail "says $(<"$ERR")"
}

test_unknown_image_is_one_line_that_says_what_to_do() {
  pipeline_toml <<'TOML'
image = "debian:12"
[[step]]
key = "s"
run = "true"
TOML
  run_rc 4
  [[ $(wc -l <"$ERR") == 1 ]] || fail "says $(<"$ERR")"
  grep -q "image 'debian:12' is not known: .*hm image import debian:12" "$ERR" ||
    fail "says $(<"$ERR")"
}

test_images_are_listed_shown_and_removed() {
  make_root
  image_rc 0 import b:1 "$T/root"
  image_rc 0 import a "$T/root"
  image_rc 0 ls
  [[ $(awk '{ print $1 }' "$OUT") == $'a\nb:1' ]] || fail "lists $(<"$OUT")"
  image_rc 0 inspect b:1
  grep -q "^source  *$T/root$" "$OUT" || fail "shows $(<"$OUT")"
  image_rc 2 inspect c
  image_rc 2 rm a c
  image_rc 0 rm a
  image_rc 0 ls
  [[ $(awk '{ print $1 }' "$OUT") == b:1 ]] || fail "lists $(<"$OUT")"
}

test_wrong_arguments() {
  local name
  make_root
  for name in host /abs .dot 'with space' '' 'a;b'; do image_rc 2 import "$name" "$T/root"; done
  image_rc 2 import x "$T/missing"
  image_rc 2 import x
  image_rc 2 pull-up
  image_rc 2 ls --max-size 1G
  image_rc 2 import x "$T/root" --max-size big
  image_rc 1 import x /dev/null
}

test_prune_keeps_images_and_verify_checks_them() {
  local blob
  make_root
  image_rc 0 import base "$T/root"
  image_rc 0 import gone "$T/root/etc"
  image_rc 0 rm gone
  "$HM" cache prune --max-size 0 >"$T/prune"
  "$HM" cache verify >"$T/verify" || fail "verify: $(<"$T/verify")"
  [[ $("$HM" image ls | wc -l) == 1 ]] || fail 'the image is gone'
  blob=$(printf 'one\n' | sha256sum | head -c 64)
  rm -f "$HM_HOME/blobs/${blob:0:2}/$blob"
  "$HM" cache verify >"$T/verify" && fail 'a lost file is not found'
  grep -q '^image base: .*import it again' "$T/verify" || fail "verify: $(<"$T/verify")"
  "$HM" cache verify --repair >"$T/verify" || fail "repair: $(<"$T/verify")"
  [[ -z $("$HM" image ls) ]] || fail 'a damaged image is still there'
  "$HM" cache prune >"$T/prune"
  [[ -z $(find "$HM_HOME/blobs" -type f) ]] || fail 'prune left blobs of no image'
}

test_file_lost_by_the_store_is_one_line() {
  local blob
  make_root
  image_rc 0 import base "$T/root"
  blob=$(printf 'two\n' | sha256sum | head -c 64)
  rm -f "$HM_HOME/blobs/${blob:0:2}/$blob"
  pipeline_toml <<'TOML'
image = "base"
[[step]]
key = "one"
run = "cat /etc/one"
[[step]]
key = "two"
from = "one"
run = "cat /etc/two"
TOML
  run_rc 4
  assert_ran one
  grep -q "/etc/two of the image base is damaged in the store: import it again" "$ERR" ||
    fail "says $(<"$ERR")"
  image_rc 0 import base "$T/root"
  run_ok
  assert_hit one
  assert_ran two
}

# What only root can put into an image, and what nothing may lose.
test_special_files_reach_a_grandchild() {
  local root=$T/root name
  needs_root 'devices and owners'
  needs_command setcap getfattr tar
  make_root
  mkdir "$root/x"
  for name in cap setuid; do cp "$root/bin/busybox" "$root/x/$name"; done
  setcap cap_net_raw+ep "$root/x/cap"
  chown 33:44 "$root/x/setuid"
  chmod 6755 "$root/x/setuid"
  mkfifo -m 620 "$root/x/fifo"
  mknod -m 640 "$root/x/null" c 1 3
  mknod -m 600 "$root/x/disk" b 7 200
  echo linked >"$root/x/l1"
  for name in 2 3 4 5; do ln "$root/x/l1" "$root/x/l$name"; done
  name=$(printf 'n%.0s' {1..253})$(printf '\xff\xfe')
  echo odd >"$root/x/$name"
  setfattr -n user.note -v text "$root/x/l1"
  tar -C "$root" --xattrs --xattrs-include='*' --format=pax --numeric-owner --sort=name \
    -cf "$T/root.tar" .
  image_rc 0 import directory "$root"
  image_rc 0 import archive "$T/root.tar"
  [[ $(tree_of directory) == "$(tree_of archive)" ]] || fail 'directory and archive differ'
  cat >"$T/look" <<'SH'
cd /x
for f in *; do
  stat -c '%f %u:%g %s %t:%T %h' "$f"
done
[ "$(stat -c %i l1)" = "$(stat -c %i l5)" ] && echo 'one inode'
cat l3 nn*
SH
  cp "$T/look" "$root/x-look"
  image_rc 0 import archive "$root"
  pipeline_toml <<'TOML'
image = "archive"
[[step]]
key = "a"
run = "echo a > /a"
[[step]]
key = "b"
from = "a"
run = "echo b > /b"
[[step]]
key = "c"
from = "b"
run = "sh /x-look"
TOML
  run_ok
  (
    cd "$root/x" && for f in *; do stat -c '%f %u:%g %s %t:%T %h' "$f"; done
    echo 'one inode'
    cat l3 nn*
  ) >"$T/want"
  log_of c >"$T/got"
  diff "$T/want" "$T/got" || fail 'the grandchild sees something else'
  [[ $(wc -l <"$T/want") == 14 ]] || fail "too few: $(<"$T/want")"
}

# The capability is one that a grandchild's process really gets.
test_file_capability_reaches_a_grandchild() {
  local library
  needs_root 'file capabilities'
  needs_command setcap getfattr
  make_root
  cp "$(command -v getfattr)" "$T/root/bin/getfattr"
  for library in $(ldd "$(command -v getfattr)" | grep -o '/[^ ]*'); do
    mkdir -p "$T/root$(dirname "$library")"
    cp -L "$library" "$T/root$library"
  done
  cp "$T/root/bin/busybox" "$T/root/bin/capable"
  setcap cap_net_raw+ep "$T/root/bin/capable"
  image_rc 0 import base "$T/root"
  pipeline_toml <<'TOML'
image = "base"
[[step]]
key = "a"
run = "echo a > /a"
[[step]]
key = "b"
from = "a"
run = "echo b > /b"
[[step]]
key = "c"
from = "b"
run = "getfattr -e hex -n security.capability /bin/capable"
TOML
  run_ok
  (cd "$T/root" && getfattr -e hex -n security.capability bin/capable) | grep '^security' >"$T/want"
  log_of c | grep '^security' >"$T/got"
  diff "$T/want" "$T/got" || fail 'another capability'
}

# measured COMMAND…: prints its seconds, and the most KiB of memory that it had.
measured() {
  python3 -c '
import resource, subprocess, sys, time
started = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
took = time.monotonic() - started
print(f"{took:.3f}", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)' "$@"
}

# The best of three rounds each: what a disk takes differs from moment to moment.
case_timeout test_a_large_archive_takes_little_memory_and_not_long 900
test_a_large_archive_takes_little_memory_and_not_long() {
  local round native ours
  needs_command tar python3
  [[ -z ${HM_TEST_USER:-} ]] || skip 'a minute of disk, the same for every user: as root only'
  python3 "$ARCHIVES" large "$T"
  for round in 1 2 3; do
    mkdir "$T/native"
    native=$(measured tar -C "$T/native" -xf "$T/large.tar")
    rm -r "$T/native"
    ours=$(HM_HOME=$T/store$round measured "$HM" image import large "$T/large.tar")
    rm -r "$T/store$round"
    printf '%s %s\n' "$native" "$ours"
  done | tee "$T/figures"
  awk '{ if (!n || $1 < n) n = $1; if (!o || $3 < o) o = $3; if ($4 > m) m = $4 }
    END {
      printf "tar %.2f s, hm %.2f s with at most %d MiB\n", n, o, m / 1024
      exit !(o <= 2 * n && m < 200 * 1024)
    }' "$T/figures" || fail 'too slow, or too much memory'
}

run_tests "$@"
