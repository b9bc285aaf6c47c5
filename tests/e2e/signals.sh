#!/usr/bin/env bash
# Timeouts, signals and what they leave: nothing.
# shellcheck source=lib.sh disable=SC2119
. "$(dirname "$0")/lib.sh"

# A word that makes this case's sleeps recognisable: sleep $MARK.
new_mark() {
  MARK=987$((RANDOM % 900 + 100)).$$
}

assert_mark_is_gone() {
  local alive
  alive=$(pids_running sleep "$MARK")
  [[ -z $alive ]] || fail "alive after hm: $alive"
}

# assert_step_end KEY CODE
assert_step_end() {
  step_events "$1" | jq -e -n --argjson code "$2" \
    'any(inputs; .kind == "step_end" and .exit_code == $code)' >/dev/null ||
    fail "$1 does not end with $2: $(step_events "$1" | jq -c 'select(.kind == "step_end")')"
}

assert_build_end() {
  jq -e -n --argjson code "$1" '[inputs] | last | .kind == "build_end" and .exit_code == $code' \
    "$OUT" >/dev/null || fail "build_end does not say $1: $(tail -n 1 "$OUT")"
}

# hm run in the background; HM_PID. A shell's background job ignores SIGINT, hm must not.
start_hm() {
  RUNS=$((RUNS + 1))
  OUT=$T/run$RUNS.jsonl
  ERR=$T/run$RUNS.stderr
  env --default-signal=INT,QUIT,TERM "$HM" run "$PIPELINE" --format json -d "$W" \
    >"$OUT" 2>"$ERR" &
  HM_PID=$!
}

# Waits for hm; sets RC.
end_hm() {
  RC=0
  wait "$HM_PID" || RC=$?
}

has_logged() {
  grep -q "\"line\": *\"$1\"" "$OUT"
}

sleeping_step() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "echo started; sleep $MARK & sleep $MARK"
TOML
}

# signal_running_hm NAME: sends it once the step runs, and waits for hm.
signal_running_hm() {
  start_hm
  wait_until 30 has_logged started || fail 'the step did not start'
  kill -s "$1" "$HM_PID"
  local began=$SECONDS
  end_hm
  ((SECONDS - began < 30)) || fail "hm took $((SECONDS - began)) s to go"
}

test_whole_build_timeout_exits_124() {
  new_mark
  pipeline_toml <<TOML
timeout = "2s"
[[step]]
key = "s"
run = "sleep $MARK & sleep $MARK"
TOML
  run_rc 124
  assert_mark_is_gone
  assert_build_end 124
  ((SECONDS < 40)) || fail "it took $SECONDS s"
}

test_whole_build_timeout_of_the_ir_exits_124() {
  new_mark
  cat >"$W/.hm/ci.json" <<JSON
{"version":"0","timeout_seconds":2,"graph":{"nodes":[
 {"step":{"key":"s","cmd":"sleep $MARK"},"env":{}}],"edge_property":"directed","edges":[]}}
JSON
  run_rc 124
  assert_mark_is_gone
}

test_step_timeout_is_124_on_the_step_and_1_on_the_build() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key     = "s"
run     = "sleep $MARK"
timeout = "2s"
TOML
  run_rc 1
  assert_mark_is_gone
  assert_step_end s 124
  assert_build_end 1
  ((SECONDS < 40)) || fail "it took $SECONDS s"
}

test_timed_out_step_is_not_recorded() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key     = "s"
run     = "sleep $MARK"
timeout = "1s"
TOML
  run_rc 1
  run_rc 1
  assert_ran s
}

test_sigint_exits_130_with_nothing_left() {
  sleeping_step
  signal_running_hm INT
  assert_mark_is_gone
  [[ $RC == 130 ]] || fail "hm exited $RC"
}

test_sigint_ends_the_events_with_130() {
  sleeping_step
  signal_running_hm INT
  assert_build_end 130
}

test_sigterm_leaves_nothing() {
  sleeping_step
  signal_running_hm TERM
  assert_mark_is_gone
  [[ $RC == 130 || $RC == 143 ]] || fail "hm exited $RC"
}

test_sighup_leaves_nothing() {
  sleeping_step
  signal_running_hm HUP
  assert_mark_is_gone
  [[ $RC != 0 ]] || fail 'hm says the build passed'
}

test_run_after_a_cancelled_one_is_right() {
  write f.txt one
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "cat f.txt; echo started; test -e quick || sleep $MARK"
TOML
  signal_running_hm INT
  [[ $RC == 130 ]] || fail "hm exited $RC"
  write quick yes
  run_ok
  assert_ran s
  assert_log s one started
}

test_step_that_ignores_term_is_killed() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key     = "s"
run     = "trap '' TERM; echo started; while :; do sleep $MARK; done"
timeout = "2s"
TOML
  run_rc 1
  assert_mark_is_gone
  assert_step_end s 124
  ((SECONDS < 60)) || fail "it took $SECONDS s"
}

test_step_gets_term_before_kill() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key     = "s"
run     = "trap 'echo goodbye; exit 0' TERM; echo started; sleep $MARK & wait"
timeout = "2s"
TOML
  run_rc 1
  [[ $(logged s) == *goodbye* ]] || fail "the step was killed without TERM: $(logged s)"
  assert_step_end s 124
  assert_mark_is_gone
}

test_sigint_ends_a_step_that_ignores_term() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "trap '' TERM INT; echo started; while :; do sleep $MARK; done"
TOML
  signal_running_hm INT
  assert_mark_is_gone
  [[ $RC == 130 ]] || fail "hm exited $RC"
}

# killed_step_ends NAME CODE
killed_step_ends() {
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "kill -$1 \$\$; sleep 5; echo survived"
TOML
  run_rc 1
  assert_step_end s "$2"
  [[ $(logged s) != *survived* ]] || fail "the step survived SIG$1"
}

test_step_killed_by_kill_ends_with_137() {
  killed_step_ends KILL 137
}

test_step_killed_by_term_ends_with_143() {
  killed_step_ends TERM 143
}

test_step_killed_by_segv_ends_with_139() {
  killed_step_ends SEGV 139
}

test_exit_code_of_a_step_is_its_own() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "exit 77"
TOML
  run_rc 1
  assert_step_end s 77
}

test_background_child_dies_with_its_step() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "sleep $MARK >/dev/null 2>&1 & echo done"
TOML
  run_ok
  assert_mark_is_gone
  assert_log s 'done'
}

# The child holds the pipe that hm reads; the step ends with its shell all the same.
test_background_child_that_holds_stdout_dies_with_its_step() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "sleep $MARK & echo done"
TOML
  run_ok
  assert_mark_is_gone
  assert_log s 'done'
  ((SECONDS < 40)) || fail "it took $SECONDS s"
}

test_daemon_of_a_step_dies_with_it() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "setsid nohup sh -c 'trap \"\" TERM HUP; sleep $MARK' >/dev/null 2>&1 & sleep 1; echo done"
TOML
  run_ok
  assert_mark_is_gone
}

# Its child would otherwise find the daemon of its parent.
test_daemon_of_a_parent_is_gone_when_the_child_starts() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "parent"
run = "setsid nohup sleep $MARK >/dev/null 2>&1 & sleep 1; echo made > made"
[[step]]
key  = "child"
from = "parent"
run  = "cat made; echo started; sleep 3"
TOML
  start_hm
  wait_until 30 has_logged started || fail 'the child did not start'
  assert_mark_is_gone
  end_hm
  [[ $RC == 0 ]] || fail "hm exited $RC"
}

test_failing_step_stops_its_sibling_and_leaves_nothing() {
  new_mark
  pipeline_toml <<TOML
[[step]]
key = "long"
run = "sleep $MARK & sleep $MARK"
[[step]]
key = "bad"
run = "sleep 1; exit 3"
TOML
  run_rc 1 --parallelism 2
  assert_mark_is_gone
  assert_step_end bad 3
  ((SECONDS < 40)) || fail "it took $SECONDS s"
}

run_tests "$@"
