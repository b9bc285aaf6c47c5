#!/usr/bin/env bash
# One case for each hole that was found and closed: what it once did is in the case's comment.
# shellcheck source=lib.sh disable=SC2119,SC2016
. "$(dirname "$0")/lib.sh"

# one_step COMMAND: a pipeline of the step s.
one_step() {
  printf '[[step]]\nkey = "s"\nrun = %s\n' "$(printf '%s' "$1" | quoted)" | pipeline_toml
}

# The absence of d/x was dropped as implied by a later listing that showed it: a stale hit.
test_file_that_appears_between_lookup_and_listing_is_no_stale_hit() {
  write d/a one
  one_step 'test -e d/x && echo yes >/out || echo no >/out; sleep 2; ls d; cat /out'
  (sleep 1.2; echo x >"$W/d/x") &
  run_hm
  wait
  run_ok
  assert_log_has s yes
}

# A hit's lookup and an executed step's listing of one directory showed two states in one run.
test_listing_and_lookup_of_one_run_agree() {
  write d/a one
  pipeline_toml <<'TOML'
[[step]]
key = "b"
run = "test -e d/x && echo x-exists || echo x-missing"
TOML
  write d/x x
  run_ok
  rm "$W/d/x"
  pipeline_toml <<'TOML'
[[step]]
key = "a"
cache = "none"
run = "ls d"
[[step]]
key = "wait"
after = ["a"]
cache = "none"
run = "sleep 2"
[[step]]
key = "b"
after = ["wait"]
run = "test -e d/x && echo x-exists || echo x-missing"
TOML
  (sleep 1; echo x >"$W/d/x") &
  run_hm --parallelism 1
  wait
  if [[ $RC == 0 && $(log_of a) != *x* && $(log_of b) == x-exists ]]; then
    fail 'a saw no x, b saw it'
  fi
}

# The second name of a link group was looked at after the first had become a read-only blob.
test_hard_links_keep_mode_and_group() {
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "echo uniq >/a1; chmod 755 /a1; ln /a1 /b1; ln /a1 /opt/c1"
[[step]]
key = "b"
from = "a"
run = "stat -c '%a %h' /a1 /b1 /opt/c1; stat -c %i /a1 /b1 /opt/c1 | sort -u | wc -l"
TOML
  run_ok
  assert_log b '755 3' '755 3' '755 3' 1
  run_ok --rerun a
  assert_hit b
}

# core_pattern could be written as root: a way to run programs on the host.
test_kernel_settings_are_read_only() {
  needs_root 'an unprivileged user cannot write them anyway'
  one_step 'c=$(cat /proc/sys/kernel/core_pattern); if echo "$c" >/proc/sys/kernel/core_pattern; then echo written; else echo refused; fi'
  run_ok
  assert_log_has s refused
}

# What hm's caller left open reached the step: an input that nobody recorded, and a way out.
test_inherited_descriptors_do_not_reach_a_step() {
  one_step 'ls /proc/self/fd | tr "\n" " "'
  echo secret >"$T/secret"
  "$HM" run "$PIPELINE" -d "$W" 7<"$T/secret" 9</ 2>/dev/null || fail 'the run failed'
  assert_log s '0 1 2 3 '
}

# An error that only spoiled the record hid one that spoiled the run.
test_file_rewritten_under_a_step_with_an_unreadable_input() {
  [[ $(id -u) != 0 ]] || skip 'root reads everything'
  write secret s
  write late one
  chmod 000 "$W/secret"
  one_step 'cat secret; test -f late; sleep 2; cat late; echo end'
  (sleep 1; printf 'two\n' >"$W/late") &
  run_hm
  wait
  if [[ $RC == 0 ]]; then
    [[ $(log_of s) == *two*end* || $(log_of s) == *one*end* ]] || fail "it ran on: $(log_of s)"
  fi
}

# The store's thread could miss its wake-up at exit: 9 hangs in 1,500 starts.
test_short_commands_never_hang() {
  one_step 'true'
  run_ok
  local i
  for i in $(seq 300); do
    timeout 10 "$HM" why -d "$W" >/dev/null || fail "start $i: exit $?"
  done
}

# An equal layer of an unrelated step lent its times: v looked as old as the other one made it.
test_times_come_from_the_own_step() {
  pipeline_toml <<'TOML'
[[step]]
key = "old"
run = "mkdir /o; echo v >/o/out; touch -d 2001-01-01 /o/out"
[[step]]
key = "a"
after = ["old"]
run = "mkdir /o; echo v >/o/out"
[[step]]
key = "b"
from = "a"
run = "if [ /o/out -nt /usr/bin/env ]; then echo newer; else echo older; fi"
[[step]]
key = "c"
from = "old"
run = "stat -c %Y /o/out"
TOML
  run_ok
  assert_log b newer
  assert_log c 978307200
}

# After a restart a step that had failed on the old state stayed failed.
test_restart_runs_failed_steps_again() {
  write F v1
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat F >/f"
[[step]]
key = "b"
from = "a"
run = "grep -q v2 /f"
[[step]]
key = "c"
run = "sleep 2; cat F"
TOML
  (sleep 1; printf 'v2\n' >"$W/F") &
  run_hm -k --parallelism 2
  wait
  [[ $RC == 0 ]] || fail "exit $RC: b stayed failed on v1"
}

# A store inside the workspace was hidden only when spelled canonically.
test_store_inside_the_workspace_is_hidden() {
  ln -s store "$W/link"
  local home
  for home in "$W/store/" "$W/./store" "$W/link"; do
    one_step 'ls -A; ls store 2>/dev/null || echo hidden'
    HM_HOME=$home run_ok --no-cache
    HM_HOME=$home assert_log_has s hidden
  done
}

# What a step called user.overlay.* on /var was obeyed by the overlay of its child.
test_overlay_attributes_of_a_parent_are_data() {
  needs_command python3
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "python3 -c \"import os; os.setxattr('/var', 'user.overlay.opaque', b'y')\""
[[step]]
key = "b"
from = "a"
run = "ls /var | wc -l; python3 -c \"import os; print(os.getxattr('/var', 'user.overlay.opaque'))\""
TOML
  run_ok
  [[ $(log_of b | head -1) -gt 1 ]] || fail "/var is hidden: $(log_of b)"
  assert_log_has b "b'y'"
}

# A damaged blob of a layer's times was a miss for ever.
test_damaged_blobs_are_repaired_by_one_run() {
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "echo unique-a >/a"
[[step]]
key = "b"
from = "a"
run = "cat /a; echo unique-b >/b"
[[step]]
key = "c"
from = "b"
run = "cat /a /b README; echo unique-c >/c"
TOML
  write README one
  run_ok
  chmod -R u+w "$HM_HOME/blobs"
  find "$HM_HOME/blobs" -type f -size -1000c -delete
  write README two
  run_ok
  assert_log c unique-a unique-b two
  run_ok
  assert_hit a b c
}

# A directory that is not there was the machine's fault and stopped everything.
test_missing_cwd_fails_the_step_only() {
  pipeline_toml <<'TOML'
[[step]]
key = "lost"
run = "true"
cwd = "nowhere"
[[step]]
key = "fine"
run = "echo fine"
TOML
  run_rc 1 -k
  assert_ran fine
}

# /etc/hostname could be written and was then dropped without a word.
test_sandbox_files_are_not_writable() {
  one_step 'cat /etc/hostname; for f in hostname hosts resolv.conf; do if echo x >/etc/$f; then echo "wrote $f"; fi; done; true'
  run_ok
  assert_log_has s hm
  assert_log_lacks s wrote
}

# on_change did not follow symbolic links.
test_on_change_follows_links() {
  write real.lock one
  ln -s real.lock "$W/a.lock"
  mkdir "$W/dir"
  write dir/x one
  ln -s dir "$W/link"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "true"
cache = { on_change = ["a.lock", "link/x"] }
TOML
  first_run_then_hits s
  write real.lock two
  run_ok
  assert_ran s
  write dir/x two
  run_ok
  assert_ran s
}

# The caller's limits reached the step and were in no key.
test_limits_are_the_same_whoever_calls() {
  one_step 'ulimit -n; ulimit -c'
  (ulimit -S -n 777; run_ok) || exit 1
  assert_log_lacks s 777
  (ulimit -S -n 888; run_ok; assert_hit s) || exit 1
}

# Most limits reached the step as the caller had them, and were in no key.
test_limit_that_cannot_be_raised_is_in_the_key() {
  local usual
  one_step 'ulimit -l; ulimit -v'
  run_ok
  usual=$(log_of s)
  (ulimit -l 32; run_ok) || exit 1
  [[ $(log_of s) == 32* ]] || fail "with a limit of 32 KiB it logged '$(log_of s)'"
  (ulimit -S -v 16000000; run_ok) || exit 1
  [[ $(log_of s) == "$usual" ]] || fail "it logged '$(log_of s)', at first '$usual'"
}

# ':' and ',' in the store's path broke the mount.
test_store_path_may_hold_anything() {
  one_step 'echo fine'
  HM_HOME="$T/a:b,c\\d e" run_ok
}

# Nested deeper than one path can name: the machine was blamed.
test_deep_trees_are_captured() {
  needs_command python3
  cat >"$W/deep.py" <<'PYTHON'
import os, sys
name = "d" * 200
for _ in range(30):
    if sys.argv[1] == "make":
        os.mkdir(name)
    os.chdir(name)
if sys.argv[1] == "make":
    open("file", "w").write("bottom\n")
print(open("file").read(), end="")
PYTHON
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "mkdir /deep && cp deep.py /deep.py && cd /deep && python3 /deep.py make"
[[step]]
key = "b"
from = "a"
run = "cd /deep && python3 /deep.py read"
TOML
  first_run_then_hits a b
  assert_log b bottom
}

# exec -o followed a link of the workspace and replaced what was outside.
test_exec_output_does_not_leave_the_workspace() {
  mkdir "$T/elsewhere"
  ln -s "$T/elsewhere" "$W/lnk"
  local rc=0
  (cd "$W" && "$HM" exec -o lnk/x -- sh -c 'rm lnk; mkdir lnk; echo pwn >lnk/x') 2>"$T/err" || rc=$?
  [[ $rc == 125 ]] || fail "exit $rc"
  [[ ! -e $T/elsewhere/x ]] || fail 'it wrote outside'
}

# A name that is no UTF-8 ended the run after its step.
test_environment_names_that_are_no_utf8() {
  one_step 'true'
  run_ok -e $'\xffA=1'
}

run_tests "$@"
