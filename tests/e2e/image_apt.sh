#!/usr/bin/env bash
# A distribution's own tools at work in steps: packages are installed into a Debian image.
# Needs Debian's archive, and takes minutes.
#
# Environment
#   HM_TEST_CACHE     a directory in which the image's archive is kept for a day
#   HM_TEST_BOOKWORM  the image's archive
#   HM_TEST_LONG      not empty: also the case that takes a minute more
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=registry.sh
. "$(dirname "$0")/registry.sh"

case_timeout test_apt_install_build_test 1700
case_timeout test_one_bookworm_from_everywhere 600

# As Docker's image of it: without what only a machine of its own needs. dpkg's waits for the disk
# are most of an installation's time.
BOOKWORM=(mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io
  '--aptopt=Acquire::Languages "none"' bookworm)

# make_bookworm FILE: false, having said why, when it cannot be made.
make_bookworm() {
  "${BOOKWORM[@]}" "$1.part.tar" >"$1.log" 2>&1 && mv "$1.part.tar" "$1" && return
  printf 'mmdebstrap cannot make a bookworm here: %s\n' "$(tail -n 1 "$1.log")"
  return 1
}

# Whether nobody else can change what is in the directory.
is_ours() {
  [[ -O $1 && $((8#$(stat -c %a "$1") & 8#022)) == 0 ]]
}

# The archive of the cache, made when it is missing, a day old or made otherwise. The cases, which
# may be of another user, get it as a descriptor.
before_cases() {
  if [[ -n ${HM_TEST_BOOKWORM:-} || -z ${HM_TEST_CACHE:-} ]]; then return; fi
  command -v mmdebstrap >/dev/null || return 0
  local archive
  mkdir -p "$HM_TEST_CACHE"
  is_ours "$HM_TEST_CACHE" || return 0
  exec 8>"$HM_TEST_CACHE/lock"
  flock 8 # this script may run as several users at once
  archive=$HM_TEST_CACHE/bookworm-$(printf '%s\n' "${BOOKWORM[@]}" | sha256sum | head -c 16).tar
  if [[ -z $(find "$archive" -mmin -1440 2>/dev/null) ]]; then
    rm -f "$HM_TEST_CACHE"/bookworm-*
    make_bookworm "$archive" >/dev/null || { exec 8>&-; return 0; }
  fi
  exec 9<"$archive" 8>&-
  export HM_TEST_BOOKWORM=/proc/self/fd/9
}

# Sets ARCHIVE.
bookworm_archive() {
  local reason
  ARCHIVE=${HM_TEST_BOOKWORM:-$T/bookworm.tar}
  if [[ -e $ARCHIVE ]]; then return; fi
  needs_command mmdebstrap
  reason=$(make_bookworm "$ARCHIVE") || skip "$reason"
}

write_project() {
  printf '#include <stdio.h>\n#include "sum.h"\nint main(void) { printf("%%d\\n", sum(2, 3)); }\n' \
    >"$W/main.c"
  printf '#include "sum.h"\nint sum(int a, int b) { return a + b; }\n' >"$W/sum.c"
  printf 'int sum(int a, int b);\n' >"$W/sum.h"
  printf '/root/sum: main.c sum.c sum.h\n\tgcc -o $@ main.c sum.c\n' >"$W/Makefile"
  printf 'import subprocess\nassert subprocess.check_output(["/root/sum"]) == b"5\\n"\n' \
    >"$W/check.py"
}

# project_pipeline PACKAGE…: besides those that it needs.
project_pipeline() {
  pipeline_toml <<TOML
image = "bookworm"
[env]
DEBIAN_FRONTEND = "noninteractive"
[[step]]
key = "apt-base"
run = "apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make python3 git $*"
[[step]]
key = "build"
from = "apt-base"
run = "make && git --version"
[[step]]
key = "test"
from = "build"
run = "python3 check.py && stat -c '%U %a' /var/cache/apt/archives/partial /usr/bin/passwd"
TOML
}

test_apt_install_build_test() {
  has_ids || skip 'no subordinate ids'
  bookworm_archive
  "$HM" image import bookworm "$ARCHIVE" >/dev/null
  write_project
  project_pipeline
  run_ok
  if grep -q 'without other ids' "$ERR"; then fail 'the subordinate ids are not used'; fi
  assert_ran apt-base build test
  assert_log test '_apt 700' 'root 4755'
  run_ok
  assert_hit apt-base build test
  project_pipeline tree
  run_ok
  assert_ran apt-base
  if [[ $(step_kinds build) == *step_cache_miss* ]]; then
    "$HM" why -d "$W" build | grep -E '/(etc|usr|var|bin|lib)' || fail 'hm why names no path'
  else
    assert_hit build test
  fi
}

test_without_ids_one_line_says_so() {
  if has_ids; then skip 'there are subordinate ids'; fi
  local busybox
  busybox=$(command -v busybox) || skip 'needs busybox (package busybox-static)'
  mkdir -p "$T/root/bin"
  cp "$busybox" "$T/root/bin/busybox"
  ln -s busybox "$T/root/bin/sh"
  "$HM" image import small "$T/root" >/dev/null
  pipeline_toml <<<$'image = "small"\n[[step]]\nkey = "s"\nrun = "busybox chown 1:1 /bin/sh"'
  run_rc 1
  [[ $(grep -c 'without other ids' "$ERR") == 1 ]] || fail "says $(<"$ERR")"
  grep -qE '(apt-get install uidmap|usermod --add-subuids).*--backend vm' "$ERR" ||
    fail "says $(<"$ERR")"
}

tree_of() {
  "$HM" image inspect "$1" | awk '$1 == "tree" { print $2 }'
}

# The tree of bookworm as directory, tar, compressed tar, layout and from a registry.
test_one_bookworm_from_everywhere() {
  local name want
  [[ -n ${HM_TEST_LONG:-} ]] || skip 'takes a minute: HM_TEST_LONG=1 asks for it'
  needs_root 'owners and capabilities'
  needs_command umoci skopeo zstd docker-registry
  bookworm_archive
  cp "$ARCHIVE" "$T/bookworm.tar.plain"
  mkdir "$T/directory"
  tar -C "$T/directory" --xattrs --xattrs-include='*' --numeric-owner -xpf "$T/bookworm.tar.plain"
  zstd -q -1 "$T/bookworm.tar.plain" -o "$T/bookworm.tar.zst"
  umoci init --layout "$T/layout"
  umoci new --image "$T/layout:bookworm"
  umoci raw add-layer --image "$T/layout:bookworm" "$T/bookworm.tar.plain"
  start_registry
  skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$T/layout:bookworm" \
    "docker://$REGISTRY/bookworm:one"
  for name in bookworm.tar.plain directory bookworm.tar.zst layout:bookworm; do
    "$HM" image import "$name" "$T/$name"
  done
  "$HM" image pull "$REGISTRY/bookworm:one" --name pulled
  want=$(tree_of bookworm.tar.plain)
  for name in directory bookworm.tar.zst layout:bookworm pulled; do
    [[ -n $want && $(tree_of "$name") == "$want" ]] || fail "$name: another tree"
  done
}

run_tests "$@"
