#!/usr/bin/env bash
# Several hm at once on one store, and hm killed in the middle of its work.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# start_run NAME [OPTION…]: hm run in the background, events in $T/NAME.jsonl; sets PID.
start_run() {
  local name=$1
  shift
  "$HM" run "$PIPELINE" --format json -d "$W" "$@" >"$T/$name.jsonl" 2>"$T/$name.stderr" &
  PID=$!
}

# finish_run NAME PID: waits for it, expects success.
finish_run() {
  RC=0
  wait "$2" || RC=$?
  OUT=$T/$1.jsonl
  ERR=$T/$1.stderr
  [[ $RC == 0 ]] || fail "run $1 exited $RC"
  assert_events_whole
}

# A sleep nobody else has: its argument names our case in the process table.
# choose_sleep [SECONDS]: an hour, unless told otherwise.
choose_sleep() {
  SLEEP=${1:-3600}.000$((RANDOM % 9000 + 1000))$((RANDOM % 9000 + 1000))
}

# Nothing of the killed run is left: not its step, not a mount, not a process of hm.
assert_all_gone() {
  wait_until 10 is_not_running sleep "$SLEEP" || fail 'a step survived its hm'
  [[ -z $(mounts_below "$T") ]] || fail "mounts left: $(mounts_below "$T")"
}

assert_scratch_is_empty() {
  local left
  left=$(find "$HM_HOME/scratch" -mindepth 1 2>/dev/null || true)
  [[ -z $left ]] || fail "left in scratch: $left"
}

# kill_mid_step: starts a run, waits until its step sleeps, kills hm with -9.
kill_mid_step() {
  start_run killed "$@"
  wait_until 60 is_running sleep "$SLEEP" || fail 'the step did not start'
  kill -9 "$PID"
  wait "$PID" 2>/dev/null || true
}

slow_uuid_pipeline() {
  pipeline_toml <<'TOML'
[[step]]
key = "slow"
run = "cat input.txt; cat /proc/sys/kernel/random/uuid; sleep 2"
TOML
}

test_identical_step_in_two_runs_is_executed_once() {
  write input.txt input
  slow_uuid_pipeline
  local first second
  start_run first
  first=$PID
  start_run second
  second=$PID
  finish_run first "$first"
  finish_run second "$second"
  [[ -n $(logged slow "$T/first.jsonl") ]] || fail 'no log in the first run'
  [[ $(logged slow "$T/first.jsonl") == "$(logged slow "$T/second.jsonl")" ]] ||
    fail 'the step was executed twice'
}

test_identical_step_of_two_checkouts_is_executed_once() {
  write input.txt input
  slow_uuid_pipeline
  cp -r "$W" "$T/other"
  local first second
  start_run first
  first=$PID
  W=$T/other start_run second
  second=$PID
  finish_run first "$first"
  finish_run second "$second"
  [[ $(logged slow "$T/first.jsonl") == "$(logged slow "$T/second.jsonl")" ]] ||
    fail 'the step was executed twice'
}

test_two_runs_of_different_checkouts_are_both_right() {
  write input.txt 'of the first'
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "sleep 0.5; cat input.txt > copy"
[[step]]
key  = "child"
from = "parent"
run  = "cat copy input.txt"
TOML
  cp -r "$W" "$T/other"
  echo 'of the second' >"$T/other/input.txt"
  local first second
  start_run first
  first=$PID
  W=$T/other start_run second
  second=$PID
  finish_run first "$first"
  finish_run second "$second"
  [[ $(logged child "$T/first.jsonl") == $'of the first\nof the first' ]] ||
    fail "the first run saw $(logged child "$T/first.jsonl")"
  [[ $(logged child "$T/second.jsonl") == $'of the second\nof the second' ]] ||
    fail "the second run saw $(logged child "$T/second.jsonl")"
  run_ok
  assert_hit parent child
  assert_log child 'of the first' 'of the first'
}

test_many_runs_at_once_all_succeed() {
  write input.txt input
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat input.txt > a.out"
[[step]]
key  = "b"
from = "a"
run  = "cat a.out"
TOML
  local i
  local -a pids=()
  for i in 1 2 3 4 5 6; do
    start_run "run-$i"
    pids+=("$PID")
  done
  for i in 1 2 3 4 5 6; do
    finish_run "run-$i" "${pids[i - 1]}"
    [[ $(logged b) == input ]] || fail "run $i logged '$(logged b)'"
  done
  run_ok
  assert_hit a b
  assert_scratch_is_empty
}

killable_pipeline() {
  write input.txt one
  choose_sleep
  pipeline_toml <<TOML
[[step]]
key = "parent"
run = "cat input.txt > copy"
[[step]]
key  = "child"
from = "parent"
run  = "echo half > half; if test -e go.txt; then cat copy go.txt; else sleep $SLEEP; fi"
TOML
}

test_nothing_survives_kill_9_in_a_step() {
  killable_pipeline
  kill_mid_step
  assert_all_gone
  wait_until 5 no_case_processes "$T" || fail "processes left: $(show_case_processes "$T")"
}

# Killed just before its child asks to die with it: no signal comes, the child has to see by itself.
test_kill_9_while_a_sandbox_starts() {
  needs_command strace
  strace -f true 2>/dev/null || skip 'strace may not trace here'
  killable_pipeline
  : >"$T/strace"
  # shellcheck disable=SC2016 # expanded by the inner shell
  strace -f -q -o "$T/strace" -e trace=prctl,execve,execveat -e signal=none \
    -e inject=prctl:delay_enter=1000000 \
    sh -c '"$@"; sleep 3' sh "$HM" run ci -d "$W" >"$T/out" 2>&1 &
  # The first one is the child that mounts, the second one is to become bubblewrap.
  wait_until 20 awk '/PR_SET_PDEATHSIG/ { n += 1 } END { exit n < 2 }' "$T/strace" ||
    fail "no sandbox started: $(cat "$T/strace" "$T/out")"
  local hm child
  hm=$(awk '/execve\(/ && / "run"/ && / = 0/ && !/"sh"/ { print $1; exit }' "$T/strace")
  child=$(awk '/PR_SET_PDEATHSIG/ { pid = $1 } END { print pid }' "$T/strace")
  kill -9 "$hm"
  wait
  ! grep -qE "^$child +execve" "$T/strace" || fail 'bubblewrap started without its hm'
  grep -qE "^$child .*exited with 127" "$T/strace" || fail "$(cat "$T/strace")"
}

test_run_after_kill_9_is_right_and_cleans_up() {
  killable_pipeline
  kill_mid_step
  assert_all_gone
  write go.txt go
  run_ok
  assert_ran child
  assert_log child one go
  assert_scratch_is_empty
  [[ -z $(mounts_below "$T") ]] || fail "mounts left: $(mounts_below "$T")"
  run_ok
  assert_hit parent child
}

test_killed_step_leaves_no_record() {
  killable_pipeline
  kill_mid_step
  assert_all_gone
  start_run again
  wait_until 60 is_running sleep "$SLEEP" || fail 'a step that was killed counts as done'
  kill -9 "$PID"
  wait "$PID" 2>/dev/null || true
  assert_all_gone
}

# A waiter on a step that is in flight elsewhere takes over when that hm dies.
test_waiter_takes_over_from_a_killed_run() {
  write input.txt one
  choose_sleep 4
  pipeline_toml <<TOML
[[step]]
key = "slow"
run = "cat input.txt; sleep $SLEEP"
TOML
  local killed
  start_run killed
  killed=$PID
  wait_until 60 is_running sleep "$SLEEP" || fail 'the step did not start'
  start_run waiter
  local waiter=$PID
  sleep 1
  kill -9 "$killed"
  wait "$killed" 2>/dev/null || true
  finish_run waiter "$waiter"
  [[ $(logged slow) == one ]] || fail "the waiter logged '$(logged slow)'"
  run_ok
  assert_hit slow
  assert_scratch_is_empty
}

# Kills at many moments: before the step, in it, at its capture, at the commit.
test_kill_9_at_any_moment_leaves_a_right_store() {
  write input.txt start
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "cat input.txt > copy; for i in 1 2 3 4 5 6 7 8 9; do cat input.txt > out.$i; done"
[[step]]
key  = "child"
from = "parent"
run  = "cat copy out.9"
TOML
  local delay
  for delay in 0.01 0.03 0.06 0.1 0.15 0.2 0.3 0.4 0.6; do
    write input.txt "input $delay"
    start_run killed
    sleep "$delay"
    kill -9 "$PID" 2>/dev/null || true
    wait "$PID" 2>/dev/null || true
    run_ok
    assert_log child "input $delay" "input $delay"
  done
  assert_scratch_is_empty
  [[ -z $(mounts_below "$T") ]] || fail "mounts left: $(mounts_below "$T")"
  run_ok
  assert_hit parent child
}

test_killed_run_does_not_disturb_another_one() {
  killable_pipeline
  local other
  mkdir -p "$T/other/.hm"
  cat >"$T/other/.hm/$PIPELINE.toml" <<'TOML'
[[step]]
key = "s"
run = "sleep 3; echo undisturbed"
TOML
  W=$T/other start_run other
  other=$PID
  kill_mid_step
  finish_run other "$other"
  [[ $(logged s) == undisturbed ]] || fail "the other run logged '$(logged s)'"
  assert_all_gone
}

run_tests "$@"
