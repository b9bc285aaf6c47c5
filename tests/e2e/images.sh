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

# Where the last execution met no extended attributes the kernel is told that there are none.
test_attributes_that_are_met_later_are_seen() {
  build_image
  cp "$(command -v getfattr)" "$IMAGE/bin/" 2>/dev/null || skip 'needs getfattr (package attr)'
  ldd "$IMAGE/bin/getfattr" | grep -o '/[^ ]*' | while read -r path; do
    mkdir -p "$IMAGE$(dirname "$path")" && cp "$path" "$IMAGE$path"
  done
  echo x >"$IMAGE/marked"
  setfattr -n user.mark -v seen "$IMAGE/marked" || skip 'no user attributes on this filesystem'
  write which none
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "s"
run = '''
read which <which
echo started
test \$which = none || getfattr --absolute-names --only-values -n user.mark /\$which
'''
TOML
  run_ok
  assert_log s 'started'
  write which marked
  run_ok
  assert_ran s
  assert_log_has s 'seen'
  grep -q 'starts over: /marked has extended attributes' "$OUT" "$ERR" || fail 'no word of it'
  run_ok
  assert_hit s
  assert_log s 'started' 'seen'
  write which none
  run_ok
  assert_hit s
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

# set_acl ENTRY… PATH: entries of an access control list, for a file or directory of the image.
set_acl() {
  needs_command setfacl
  setfacl -m "$@" 2>/dev/null || skip "no access control lists on the filesystem of $T"
}

# as ID COMMAND: a line of a step that runs the command as another user, named u and its id.
as() {
  printf "busybox su -s /bin/sh u%s -c '%s' 2>/dev/null || echo u%s may not\n" "$1" "$2" "$1"
}

test_acl_of_the_image_is_enforced_and_kept() {
  needs_root 'other users in a step'
  build_image
  mkdir -p "$IMAGE/etc" "$IMAGE/srv/drop"
  printf '%s\n' root:x:0:0::/:/bin/sh u7:x:7:7::/:/bin/sh u8:x:8:8::/:/bin/sh >"$IMAGE/etc/passwd"
  printf 'for u7\n' >"$IMAGE/srv/file"
  chmod 640 "$IMAGE/srv/file"
  set_acl u:7:r "$IMAGE/srv/file"
  set_acl u:7:rwx,d:u:8:r,d:o::- "$IMAGE/srv/drop"
  local look
  look="$(as 7 'cat /srv/file')
$(as 8 'cat /srv/file')
$(as 7 'echo again >/srv/file')
$(as 7 'cat /srv/drop/new')
$(as 8 'cat /srv/drop/new')"
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "parent"
run = """
$(as 7 'echo dropped >/srv/drop/new; busybox chmod 640 /srv/drop/new')
$(as 8 'echo dropped >/srv/drop/other')
$look
echo more >>/srv/file
"""
[[step]]
key = "child"
from = "parent"
run = """
$look
"""
TOML
  first_run_then_hits parent child
  assert_log parent 'u8 may not' 'for u7' 'u8 may not' 'u7 may not' dropped dropped
  assert_log child 'for u7' more 'u8 may not' 'u7 may not' dropped dropped
  set_acl u:8:r "$IMAGE/srv/file"
  run_ok
  assert_ran parent
  assert_log parent 'u8 may not' 'for u7' 'for u7' 'u7 may not' dropped dropped
}

test_acl_for_others_does_not_get_in_the_way() {
  build_image
  mkdir -p "$IMAGE/srv/dir"
  printf 'one\n' >"$IMAGE/srv/file"
  set_acl u:12345:rw,g:12345:r "$IMAGE/srv/file"
  set_acl u:12345:rwx,d:u:12345:rwx "$IMAGE/srv/dir"
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "parent"
run = "echo two >>/srv/file; echo new >/srv/dir/new; cat /srv/file /srv/dir/new"
[[step]]
key = "child"
from = "parent"
run = "echo three >>/srv/file; echo four >>/srv/dir/new; cat /srv/file /srv/dir/new"
TOML
  first_run_then_hits parent child
  assert_log child one two three new four
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
