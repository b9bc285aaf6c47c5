#!/usr/bin/env bash
# Soundness: a step runs again when anything it looked at, or its own definition, has changed.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

test_read_file_edited_runs() {
  write f.txt old
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat f.txt"
TOML
  first_run_then_hits s
  write f.txt 'new and longer'
  run_ok
  assert_ran s
  assert_reason s 'f\.txt'
  assert_log s 'new and longer'
}

test_read_file_edited_to_the_same_size_runs() {
  write f.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat f.txt"
TOML
  first_run_then_hits s
  write f.txt two
  run_ok
  assert_ran s
  assert_reason s 'f\.txt'
  assert_log s two
}

# In place, same size, and the old mtime put back: only ctime tells.
test_read_file_edited_with_its_mtime_put_back_runs() {
  write f.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat f.txt"
TOML
  touch -d '2020-01-01 00:00:00' "$W/f.txt"
  first_run_then_hits s
  printf 'two\n' >"$W/f.txt"
  touch -d '2020-01-01 00:00:00' "$W/f.txt"
  run_ok
  assert_ran s
  assert_log s two
}

test_edit_taken_back_is_a_hit_again() {
  write f.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat f.txt"
TOML
  first_run_then_hits s
  write f.txt two
  run_ok
  assert_ran s
  write f.txt one
  run_ok
  assert_hit s
  assert_log s one
}

test_read_file_deleted_runs() {
  write f.txt here
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat f.txt || echo gone"
TOML
  first_run_then_hits s
  rm "$W/f.txt"
  run_ok
  assert_ran s
  assert_log_has s gone
  assert_log_lacks s here
}

test_listed_directory_gains_a_file_runs() {
  write dir/a.txt a
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "ls dir"
TOML
  first_run_then_hits s
  write dir/b.txt b
  run_ok
  assert_ran s
  assert_reason s 'dir'
  assert_log s a.txt b.txt
}

test_listed_directory_loses_a_file_runs() {
  write dir/a.txt a
  write dir/b.txt b
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "ls dir"
TOML
  first_run_then_hits s
  rm "$W/dir/a.txt"
  run_ok
  assert_ran s
  assert_reason s 'dir'
  assert_log s b.txt
}

test_file_of_a_listed_directory_renamed_runs() {
  write dir/a.txt a
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "ls dir"
TOML
  first_run_then_hits s
  mv "$W/dir/a.txt" "$W/dir/c.txt"
  run_ok
  assert_ran s
  assert_reason s 'dir'
  assert_log s c.txt
}

test_file_matched_by_a_glob_renamed_runs() {
  write src/a.c same
  write src/z.h same
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "echo src/*.c"
TOML
  first_run_then_hits s
  mv "$W/src/a.c" "$W/src/b.c"
  run_ok
  assert_ran s
  assert_log s src/b.c
}

test_missing_name_that_was_looked_up_now_exists_runs() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "if test -e opt.conf; then cat opt.conf; else echo none; fi"
TOML
  first_run_then_hits s
  assert_log s none
  write opt.conf configured
  run_ok
  assert_ran s
  assert_reason s 'opt\.conf'
  assert_log s configured
}

test_missing_directory_on_a_path_now_exists_runs() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat conf/deep/opt.conf 2>/dev/null || echo none"
TOML
  first_run_then_hits s
  write conf/deep/opt.conf configured
  run_ok
  assert_ran s
  assert_log s configured
}

test_x_bit_of_a_read_file_changed_runs() {
  write tool.sh 'echo hello'
  chmod 644 "$W/tool.sh"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat tool.sh; if test -x tool.sh; then echo executable; else echo plain; fi"
TOML
  first_run_then_hits s
  assert_log s 'echo hello' plain
  chmod 755 "$W/tool.sh"
  run_ok
  assert_ran s
  assert_reason s 'tool\.sh'
  assert_log s 'echo hello' executable
}

test_symlink_retargeted_runs() {
  write a.txt 'from a'
  write other-name.txt 'from the other'
  ln -s a.txt "$W/link"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat link"
TOML
  first_run_then_hits s
  ln -sfn other-name.txt "$W/link"
  run_ok
  assert_ran s
  assert_reason s 'link'
  assert_log s 'from the other'
}

test_symlink_retargeted_to_the_same_length_runs() {
  write a.txt 'from a'
  write b.txt 'from b'
  ln -s a.txt "$W/link"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "readlink link; cat link"
TOML
  first_run_then_hits s
  ln -sfn b.txt "$W/link"
  run_ok
  assert_ran s
  assert_reason s 'link'
  assert_log s b.txt 'from b'
}

test_file_replaced_by_a_symlink_to_equal_bytes_runs() {
  write a.txt same
  write f same
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "if test -L f; then echo symlink; else echo file; fi; cat f"
TOML
  first_run_then_hits s
  ln -sfn a.txt "$W/f"
  run_ok
  assert_ran s
  assert_log s symlink same
}

# Two names of one inode must be two inputs: reading the second may not be answered from the first.
test_second_of_two_hard_linked_names_replaced_runs() {
  write a.txt old
  ln "$W/a.txt" "$W/b.txt"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat a.txt; cat b.txt"
TOML
  first_run_then_hits s
  write b.txt new
  run_ok
  assert_ran s
  assert_reason s 'b\.txt'
  assert_log s old new
}

test_first_of_two_hard_linked_names_replaced_runs() {
  write a.txt old
  ln "$W/a.txt" "$W/b.txt"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat a.txt; cat b.txt"
TOML
  first_run_then_hits s
  write a.txt new
  run_ok
  assert_ran s
  assert_reason s 'a\.txt'
  assert_log s new old
}

test_command_changed_runs() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "echo one"
TOML
  first_run_then_hits s
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "echo two"
TOML
  run_ok
  assert_ran s
  assert_log s two
}

test_step_env_changed_runs() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "echo $MODE"
env = { MODE = "one" }
TOML
  first_run_then_hits s
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "echo $MODE"
env = { MODE = "two" }
TOML
  run_ok
  assert_ran s
  assert_log s two
}

test_pipeline_env_changed_runs() {
  pipeline_toml <<'TOML'
[env]
MODE = "one"
[[step]]
key = "s"
run = "echo $MODE"
TOML
  first_run_then_hits s
  pipeline_toml <<'TOML'
[env]
MODE = "two"
[[step]]
key = "s"
run = "echo $MODE"
TOML
  run_ok
  assert_ran s
  assert_log s two
}

test_env_option_changed_runs() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "echo $MODE"
TOML
  run_ok -e MODE=one
  assert_ran s
  run_ok -e MODE=one
  assert_hit s
  run_ok -e MODE=two
  assert_ran s
  assert_log s two
}

test_cwd_changed_runs() {
  write a/f.txt 'from a'
  write b/f.txt 'from b'
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "pwd; cat f.txt"
cwd = "a"
TOML
  first_run_then_hits s
  assert_log s /workspace/a 'from a'
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "pwd; cat f.txt"
cwd = "b"
TOML
  run_ok
  assert_ran s
  assert_log s /workspace/b 'from b'
}

test_network_changed_runs() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "sed -n 's/^ *\\([^ :]*\\):.*/\\1/p' /proc/net/dev"
TOML
  first_run_then_hits s
  local host
  host=$(log_of s)
  pipeline_toml <<'TOML'
[[step]]
key     = "s"
run     = "sed -n 's/^ *\\([^ :]*\\):.*/\\1/p' /proc/net/dev"
network = "none"
TOML
  run_ok
  assert_ran s
  if [[ $host == *eth* || $host == *en* ]]; then
    assert_log_lacks s eth
    assert_log_lacks s en
  fi
}

run_tests "$@"
