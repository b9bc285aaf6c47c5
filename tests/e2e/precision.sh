#!/usr/bin/env bash
# Precision: a step does not run again for what it did not look at. Every case ends with a change
# that does matter, so that a cache that always hits fails here.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# The usual step: reads read.txt and nothing else of the workspace.
reading_step() {
  write read.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat read.txt"
TOML
}

control_edit_runs() {
  write read.txt 'one more'
  run_ok
  assert_ran s
  assert_log s 'one more'
}

test_unread_file_edited_is_a_hit() {
  write README.md readme
  reading_step
  first_run_then_hits s
  write README.md 'another readme'
  run_ok
  assert_hit s
  assert_log s one
  control_edit_runs
}

test_unread_file_added_is_a_hit() {
  reading_step
  first_run_then_hits s
  write added.txt added
  write new-directory/deep/added.txt added
  run_ok
  assert_hit s
  assert_log s one
  control_edit_runs
}

test_unread_file_deleted_is_a_hit() {
  write README.md readme
  write docs/page.md page
  reading_step
  first_run_then_hits s
  rm -r "$W/README.md" "$W/docs"
  run_ok
  assert_hit s
  assert_log s one
  control_edit_runs
}

test_hit_replays_the_log_in_the_events() {
  reading_step
  first_run_then_hits s
  [[ $(logged s) == one ]] || fail "the hit replayed '$(logged s)'"
  control_edit_runs
  [[ $(logged s) == 'one more' ]] || fail "the run logged '$(logged s)'"
}

test_mtime_of_a_read_file_changed_is_a_hit() {
  reading_step
  first_run_then_hits s
  touch -d '2001-02-03 04:05:06' "$W/read.txt"
  run_ok
  assert_hit s
  touch "$W/read.txt"
  run_ok
  assert_hit s
  control_edit_runs
}

# The same bytes in a new inode, as a git checkout leaves them.
test_read_file_rewritten_with_equal_bytes_is_a_hit() {
  reading_step
  first_run_then_hits s
  write read.txt one
  run_ok
  assert_hit s
  control_edit_runs
}

test_owner_of_a_read_file_changed_is_a_hit() {
  needs_root 'gives files to another owner'
  reading_step
  first_run_then_hits s
  chown 1234:2345 "$W/read.txt" "$W"
  run_ok
  assert_hit s
  control_edit_runs
}

# A checkout made under another umask.
test_modes_that_differ_by_umask_are_a_hit() {
  write dir/tool.sh '#!/bin/sh' 'echo tool'
  chmod 755 "$W/dir/tool.sh"
  write read.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat read.txt; ls dir; dir/tool.sh"
TOML
  first_run_then_hits s
  chmod 600 "$W/read.txt"
  chmod 700 "$W/dir/tool.sh" "$W/dir"
  run_ok
  assert_hit s
  chmod 664 "$W/read.txt"
  chmod 775 "$W/dir/tool.sh" "$W/dir"
  run_ok
  assert_hit s
  chmod 644 "$W/dir/tool.sh"
  run_hm
  assert_ran s
  [[ $RC != 0 ]] || fail 'a tool without its x bit was executed'
}

test_umask_of_the_caller_is_no_input() {
  write read.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat read.txt; umask; touch made; stat -c %a made"
TOML
  first_run_then_hits s
  assert_log s one 0022 644
  umask 077
  run_ok
  assert_hit s
  write read.txt 'one more'
  run_ok
  assert_ran s
  assert_log s 'one more' 0022 644
}

test_file_only_stat_ed_and_edited_to_the_same_size_is_a_hit() {
  write f.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "stat -c 'size %s' f.txt"
TOML
  first_run_then_hits s
  write f.txt two
  run_ok
  assert_hit s
  assert_log s 'size 4'
  write f.txt four
  run_ok
  assert_ran s
  assert_log s 'size 5'
}

test_file_in_a_listed_directory_edited_is_a_hit() {
  write dir/a.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "for name in dir/*; do echo $name; done"
TOML
  first_run_then_hits s
  write dir/a.txt 'one and more'
  run_ok
  assert_hit s
  write dir/b.txt two
  run_ok
  assert_ran s
  assert_log s dir/a.txt dir/b.txt
}

test_written_then_read_is_no_input() {
  write out.txt 'from the workspace'
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "rm -f out.txt; echo made > out.txt; cat out.txt read.txt"
TOML
  write read.txt one
  first_run_then_hits s
  write out.txt 'FROM THE WORKSPACE'
  run_ok
  assert_hit s
  assert_log s made one
  write read.txt 'one more'
  run_ok
  assert_ran s
  assert_log s made 'one more'
}

test_another_checkout_of_the_same_bytes_is_a_hit() {
  reading_step
  first_run_then_hits s
  cp -r "$W" "$T/other-checkout"
  W=$T/other-checkout
  run_ok
  assert_hit s
  assert_log s one
  control_edit_runs
}

test_parent_ran_again_with_equal_output_children_hit() {
  write src.txt a b
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "wc -l < src.txt > count; rm -f scratch"
[[step]]
key  = "child"
from = "parent"
run  = "cat count"
[[step]]
key  = "grandchild"
from = "child"
run  = "cat ./count"
TOML
  first_run_then_hits parent child grandchild
  write src.txt c d
  run_ok
  assert_ran parent
  assert_hit child grandchild
  assert_log child 2
  write src.txt c d e
  run_ok
  assert_ran parent child grandchild
  assert_log grandchild 3
}

test_forced_rerun_of_a_parent_leaves_children_hits() {
  write read.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "cat read.txt > out"
[[step]]
key  = "child"
from = "parent"
run  = "cat out"
TOML
  first_run_then_hits parent child
  run_ok --rerun parent
  assert_ran parent
  assert_hit child
  write read.txt 'one more'
  run_ok
  assert_ran parent child
  assert_log child 'one more'
}

test_only_the_step_that_read_the_edited_file_runs() {
  write a.txt a
  write b.txt b
  pipeline_toml <<'TOML'
[[step]]
key = "reads-a"
run = "cat a.txt"
[[step]]
key = "reads-b"
run = "cat b.txt"
TOML
  first_run_then_hits reads-a reads-b
  write b.txt 'b changed'
  run_ok
  assert_hit reads-a
  assert_ran reads-b
  assert_log reads-a a
  assert_log reads-b 'b changed'
}

run_tests "$@"
