#!/usr/bin/env bash
# Images of a registry: pulled by name, or because a pipeline names them.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=registry.sh
. "$(dirname "$0")/registry.sh"

# A layout of two layers in $T/layout:one, and its tree as a tar archive.
make_layout() {
  local busybox name
  needs_command umoci skopeo zstd
  busybox=$(command -v busybox) || skip 'needs busybox (package busybox-static)'
  mkdir -p "$T/root/bin" "$T/root/etc"
  chmod 755 "$T/root" "$T/root"/*
  cp "$busybox" "$T/root/bin/busybox"
  for name in sh cat echo; do ln -s busybox "$T/root/bin/$name"; done
  echo one >"$T/root/etc/one"
  umoci init --layout "$T/layout"
  umoci new --image "$T/layout:one"
  umoci insert --rootless --image "$T/layout:one" "$T/root/bin" /bin
  umoci insert --rootless --image "$T/layout:one" "$T/root/etc" /etc
}

push() {
  skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$T/layout:one" \
    "docker://$REGISTRY/team/image:one"
}

tree_of() {
  "$HM" image inspect "$1" | awk '$1 == "tree" { print $2 }'
}

test_pulled_image_has_the_tree_of_its_layout() {
  make_layout
  start_registry
  push
  "$HM" image import layout "$T/layout:one" >/dev/null
  "$HM" image import directory "$T/root" >/dev/null
  "$HM" image pull "$REGISTRY/team/image:one" --name pulled >/dev/null
  [[ $(tree_of pulled) == "$(tree_of layout)" ]] || fail 'another tree than the layout'
  if [[ $(id -u) == 0 ]]; then
    [[ $(tree_of pulled) == "$(tree_of directory)" ]] || fail 'another tree than the directory'
  fi
  "$HM" image inspect pulled | grep -q "^source  *docker://$REGISTRY/team/image:one" ||
    fail 'the source is not said'
  [[ -z $(find "$HM_HOME/scratch" -mindepth 1) ]] || fail 'something is left in the scratch'
}

# A directory, its archives, a layout of it and the same pulled from a registry are one tree.
test_one_tree_from_everywhere() {
  local name want
  needs_root 'owners and capabilities'
  needs_command setcap tar
  make_layout
  setcap cap_net_raw+ep "$T/root/bin/busybox"
  cp "$T/root/bin/busybox" "$T/root/bin/setuid"
  chown 33:44 "$T/root/bin/setuid"
  chmod 6755 "$T/root/bin/setuid"
  ln "$T/root/etc/one" "$T/root/etc/hard"
  mkfifo "$T/root/etc/fifo"
  mkdir -m 1777 "$T/root/tmp"
  tar -C "$T/root" --xattrs --xattrs-include='*' --format=pax --numeric-owner -cf "$T/root.tar" .
  zstd -q -k "$T/root.tar"
  umoci new --image "$T/layout:tree"
  umoci unpack --image "$T/layout:tree" "$T/bundle"
  cp -a "$T/root/." "$T/bundle/rootfs/"
  umoci repack --image "$T/layout:tree" "$T/bundle"
  start_registry
  skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$T/layout:tree" \
    "docker://$REGISTRY/tree:one"
  for name in root root.tar root.tar.zst layout:tree; do
    "$HM" image import "$name" "$T/$name" >/dev/null
  done
  "$HM" image pull "$REGISTRY/tree:one" --name pulled >/dev/null
  want=$(tree_of root)
  for name in root.tar root.tar.zst layout:tree pulled; do
    [[ -n $want && $(tree_of "$name") == "$want" ]] || fail "$name: another tree"
  done
}

test_missing_image_is_pulled_by_the_run() {
  make_layout
  start_registry
  push
  pipeline_toml <<TOML
image = "$REGISTRY/team/image:one"
[[step]]
key = "s"
run = "cat /etc/one"
TOML
  HM_IMAGE__PULL=never run_rc 4
  grep -q 'is not known' "$ERR" || fail "says $(<"$ERR")"
  printf '[image]\npull = "never"\n' >"$W/.hm/config.toml"
  HM_IMAGE__PULL='' run_rc 4
  run_rc 4 --pull never
  HM_IMAGE__PULL='' run_ok --pull missing
  grep -q "^hm: image $REGISTRY/team/image:one is not here: pulling it" "$ERR" ||
    fail "says $(<"$ERR")"
  assert_log s one
  stop_registry
  run_ok
  assert_hit s
}

test_image_that_the_registry_lacks_is_one_line() {
  make_layout
  start_registry
  pipeline_toml <<TOML
image = "$REGISTRY/team/missing"
[[step]]
key = "s"
run = "true"
TOML
  HM_IMAGE__PULL='' run_rc 4
  [[ $(grep -c '' "$ERR") == 2 ]] || fail "says $(<"$ERR")"
  grep -q "^hm: cannot pull $REGISTRY/team/missing: " "$ERR" || fail "says $(<"$ERR")"
  [[ -z $(find "$HM_HOME/scratch" "$HM_HOME/blobs" -type f) ]] || fail 'something is left'
}

# A pull that takes a while, on a terminal: a skopeo that is slow, and gives up.
test_pull_shows_how_far_it_is() {
  needs_command script
  mkdir "$T/slow"
  cat >"$T/slow/skopeo" <<'SH'
#!/bin/sh
for last; do :; done
layout=${last#oci:}
mkdir -p "${layout%:*}/blobs"
head -c 3145728 /dev/zero >"${layout%:*}/blobs/part"
sleep 1.5
echo no more >&2
exit 1
SH
  chmod +x "$T/slow/skopeo"
  PATH=$T/slow:$PATH script -qec "$HM image pull slow:1" "$T/screen" >/dev/null </dev/null || true
  grep -q '3 MiB fetched' "$T/screen" || fail "shows $(cat -v "$T/screen")"
  grep -q 'cannot pull slow:1: no more' "$T/screen" || fail "shows $(cat -v "$T/screen")"
  PATH=$T/slow:$PATH "$HM" image pull slow:1 2>"$T/err" || true
  [[ $(grep -c '' "$T/err") == 1 ]] || fail "says $(<"$T/err")"
}

test_without_skopeo_pull_says_what_to_install() {
  local rc=0
  PATH=/nowhere "$HM" image pull debian:12 2>"$T/err" || rc=$?
  [[ $rc == 4 ]] || fail "exit $rc"
  grep -q 'skopeo is not in PATH (apt-get install skopeo)' "$T/err" || fail "says $(<"$T/err")"
}

test_settings_that_cannot_be_are_refused() {
  pipeline_toml <<<$'[[step]]\nkey = "s"\nrun = "true"'
  printf '[image]\npul = "never"\n' >"$W/.hm/config.toml"
  run_rc 7
  grep -q "config.toml:2: image.pul is no setting of hm" "$ERR" || fail "says $(<"$ERR")"
  printf '[cloud]\norg = "x"\n[image]\npull = "missing"\n' >"$W/.hm/config.toml"
  run_ok
  printf '[image]\npull = "often"\n' >"$W/.hm/config.toml"
  run_rc 2
  grep -q "config.toml:2: image.pull is missing or never, not 'often'" "$ERR" ||
    fail "says $(<"$ERR")"
  rm "$W/.hm/config.toml"
  mkdir -p "$T/config/hm"
  printf '[image\n' >"$T/config/hm/config.toml"
  XDG_CONFIG_HOME=$T/config run_rc 7
  grep -q "^hm: $T/config/hm/config.toml:1: " "$ERR" || fail "says $(<"$ERR")"
}

run_tests "$@"
