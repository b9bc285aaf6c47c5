#!/usr/bin/env bash
# A distribution's own tools at work in steps: packages are installed into a Debian image.
# Needs Debian's archive, and takes minutes.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

case_timeout test_apt_install_build_test 1700

# A bookworm of mmdebstrap's, imported as the image `bookworm`.
import_bookworm() {
  local archive=${HM_TEST_BOOKWORM:-$T/bookworm.tar}
  if [[ ! -e $archive ]]; then
    needs_command mmdebstrap
    mmdebstrap --quiet --variant=minbase bookworm "$archive" >"$T/mmdebstrap.log" 2>&1 ||
      skip "mmdebstrap cannot make a bookworm here: $(tail -n 1 "$T/mmdebstrap.log")"
  fi
  "$HM" image import bookworm "$archive" >/dev/null
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
  import_bookworm
  write_project
  project_pipeline
  run_ok
  if [[ $(id -u) != 0 ]] && grep -q "without other ids" "$ERR"; then skip 'no subordinate ids'; fi
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

run_tests "$@"
