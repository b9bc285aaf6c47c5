#!/usr/bin/env bash
# A directory as the steps' image: its files are inputs like all others.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# A root of busybox and two tools in $T/image.
build_image() {
  local busybox name
  busybox=$(command -v busybox) || skip 'needs busybox (package busybox-static)'
  ! ldd "$busybox" >/dev/null 2>&1 || skip 'busybox here is not static (package busybox-static)'
  IMAGE=$T/image
  mkdir -p "$IMAGE/bin" "$IMAGE/usr/local/bin"
  cp "$busybox" "$IMAGE/bin/busybox"
  for name in sh cat ls echo test; do ln -s busybox "$IMAGE/bin/$name"; done
  write_tool alpha 'echo alpha one'
  write_tool beta 'echo beta one'
}

# write_tool NAME LINE: an executable script of the image, made anew.
write_tool() {
  local path=$IMAGE/usr/local/bin/$1
  rm -f "$path"
  printf '#!/bin/sh\n%s\n' "$2" >"$path"
  chmod 755 "$path"
}

two_tool_steps() {
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "runs-alpha"
run = "/usr/local/bin/alpha"
[[step]]
key = "runs-beta"
run = "/usr/local/bin/beta"
TOML
}

test_steps_see_the_image_and_the_workspace() {
  build_image
  write f.txt 'from the workspace'
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "s"
run = "/usr/local/bin/alpha; cat /workspace/f.txt; test -e /usr/bin/env || echo no host"
TOML
  run_ok
  assert_log s 'alpha one' 'from the workspace' 'no host'
}

test_tool_changed_runs_only_the_steps_that_ran_it() {
  build_image
  two_tool_steps
  first_run_then_hits runs-alpha runs-beta
  write_tool alpha 'echo alpha two'
  run_ok
  assert_ran runs-alpha
  assert_reason runs-alpha 'usr/local/bin/alpha'
  assert_hit runs-beta
  assert_log runs-alpha 'alpha two'
  assert_log runs-beta 'beta one'
}

test_tool_changed_to_the_same_size_runs_the_step_that_ran_it() {
  build_image
  two_tool_steps
  first_run_then_hits runs-alpha runs-beta
  write_tool alpha 'echo ALPHA ONE'
  run_ok
  assert_ran runs-alpha
  assert_hit runs-beta
  assert_log runs-alpha 'ALPHA ONE'
}

test_tool_with_only_a_new_mtime_is_a_hit() {
  build_image
  two_tool_steps
  first_run_then_hits runs-alpha runs-beta
  touch -d '2001-02-03 04:05:06' "$IMAGE/usr/local/bin/alpha"
  run_ok
  assert_hit runs-alpha runs-beta
  write_tool alpha 'echo alpha two'
  run_ok
  assert_ran runs-alpha
}

test_unused_tool_added_is_a_hit() {
  build_image
  two_tool_steps
  first_run_then_hits runs-alpha runs-beta
  write_tool gamma 'echo gamma'
  run_ok
  assert_hit runs-alpha runs-beta
}

test_tool_found_earlier_on_the_path_runs() {
  build_image
  pipeline_toml <<TOML
image = "$IMAGE"
[env]
PATH = "/opt/first:/usr/local/bin:/bin"
[[step]]
key = "s"
run = "alpha"
TOML
  first_run_then_hits s
  mkdir -p "$IMAGE/opt/first"
  printf '#!/bin/sh\necho alpha in front\n' >"$IMAGE/opt/first/alpha"
  chmod 755 "$IMAGE/opt/first/alpha"
  run_ok
  assert_ran s
  assert_log s 'alpha in front'
}

test_xattr_added_runs_the_step_that_touched_the_file() {
  build_image
  needs_command setfattr
  two_tool_steps
  first_run_then_hits runs-alpha runs-beta
  setfattr -n user.note -v one "$IMAGE/usr/local/bin/alpha" 2>/dev/null ||
    skip "no user xattrs on the filesystem of $T"
  run_ok
  assert_ran runs-alpha
  assert_reason runs-alpha 'usr/local/bin/alpha'
  assert_hit runs-beta
  run_ok
  assert_hit runs-alpha runs-beta
  setfattr -n user.note -v two "$IMAGE/usr/local/bin/alpha"
  run_ok
  assert_ran runs-alpha
  assert_hit runs-beta
}

test_tool_lost_its_x_bit_runs() {
  build_image
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "s"
run = "/usr/local/bin/alpha || echo cannot"
TOML
  first_run_then_hits s
  chmod 644 "$IMAGE/usr/local/bin/alpha"
  run_ok
  assert_ran s
  assert_log_has s cannot
}

test_the_image_itself_is_not_written() {
  build_image
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "s"
run = "echo broken > /usr/local/bin/alpha; echo new > /bin/new; cat /usr/local/bin/alpha /bin/new"
[[step]]
key  = "child"
from = "s"
run  = "cat /usr/local/bin/alpha /bin/new"
TOML
  local before after
  before=$(find "$IMAGE" -printf '%p %i %C@ %s %m\n' | sort)
  run_ok
  after=$(find "$IMAGE" -printf '%p %i %C@ %s %m\n' | sort)
  assert_log child broken new
  [[ $before == "$after" ]] || fail "the image changed: $(diff <(echo "$before") <(echo "$after"))"
}

run_tests "$@"
