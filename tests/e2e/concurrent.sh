#!/usr/bin/env bash
# Many hm processes on one store at once: the same and other pipelines, in one and in several
# workspaces, with edits in flight, and with those that do the work killed.
# shellcheck source=lib.sh disable=SC2153
. "$(dirname "$0")/lib.sh"

# project DIR: two pipelines that begin with the same step.
project() {
  mkdir -p "$1/.hm" "$1/src"
  cat >"$1/.hm/ci.toml" <<'TOML'
[[step]]
key = "gather"
run = "cat src/*.txt >all.txt; ls src >names.txt"
[[step]]
key  = "show"
from = "gather"
run  = "cat all.txt names.txt src/a.txt; test -e src/more.txt && echo more || echo no more"
TOML
  cat >"$1/.hm/other.toml" <<'TOML'
[[step]]
key = "gather"
run = "cat src/*.txt >all.txt; ls src >names.txt"
[[step]]
key  = "upper"
from = "gather"
run  = "tr a-z A-Z <all.txt; cat src/b.txt"
TOML
  printf 'a\n' | tee "$1/src/a.txt" "$1/src/b.txt" "$1/src/c.txt" >/dev/null
}

# edit_until_stopped DIR: few states, so that they come back and their records are used.
edit_until_stopped() {
  trap - EXIT ERR
  local name
  while [[ ! -e $T/stop ]]; do
    name=$(shuf -n1 -e a b c)
    case $((RANDOM % 4)) in
      0) shuf -n1 -e a b >"$1/src/$name.txt" ;;
      1) shuf -n1 -e a b >"$1/new" && mv "$1/new" "$1/src/$name.txt" ;;
      2) : >"$1/src/more.txt" ;;
      3) rm -f "$1/src/more.txt" ;;
    esac
    sleep 0.04
  done
}

# run_thrice DIR PIPELINE NAME: passes, or says that the workspace moved.
run_thrice() {
  trap - EXIT ERR
  local i rc
  for i in 1 2 3; do
    rc=0
    "$HM" run "$2" --format json -d "$1" >"$T/$3.$i.jsonl" 2>"$T/$3.$i.stderr" || rc=$?
    if ((rc == 0)); then continue; fi
    ((rc == 1)) && grep -qF 'workspace changed while running' "$T/$3.$i".* || return 1
  done
}

# logs_of_quiet_run: what each step of the last run printed.
logs_of_quiet_run() {
  local key
  for key in gather show upper; do
    printf '%s:\n' "$key"
    logged "$key"
  done
}

# What the shared store gives is what a run from scratch gives.
assert_equals_from_scratch() {
  local cached home=$HM_HOME
  run_ok
  cached=$(logs_of_quiet_run)
  HM_HOME=$T/scratch-home.$RUNS
  run_ok
  HM_HOME=$home
  [[ $cached == "$(logs_of_quiet_run)" ]] ||
    fail "$W $PIPELINE: cached '$cached', from scratch '$(logs_of_quiet_run)'"
}

case_timeout test_many_runs_with_edits_in_flight_leave_no_false_record 300
test_many_runs_with_edits_in_flight_leave_no_false_record() {
  local dir pipeline pid
  local -a runs=() editors=()
  for dir in "$T/one" "$T/two"; do
    project "$dir"
    edit_until_stopped "$dir" &
    editors+=($!)
    for pipeline in ci other; do
      run_thrice "$dir" "$pipeline" "${dir##*/}-$pipeline" &
      runs+=($!)
    done
  done
  run_thrice "$T/one" ci again & # the same pipeline in the same workspace
  runs+=($!)
  for pid in "${runs[@]}"; do
    wait "$pid" || fail "a run failed: $(cat "$T"/*.stderr)"
  done
  : >"$T/stop"
  wait "${editors[@]}"
  for W in "$T/one" "$T/two"; do
    for PIPELINE in ci other; do assert_equals_from_scratch; done
  done
}

# start_runs COUNT COMMAND: as many runs of one step, each in a workspace of its own. PIDS by name.
declare -A PIDS=()
start_runs() {
  local i dir
  for ((i = 1; i <= $1; i++)); do
    dir=$T/w$i
    mkdir -p "$dir/.hm"
    echo input >"$dir/input.txt"
    printf '[[step]]\nkey = "s"\nrun = %s\n' "$(printf '%s' "$2" | quoted)" >"$dir/.hm/ci.toml"
    "$HM" run ci --format json -d "$dir" >"$T/w$i.jsonl" 2>"$T/w$i.stderr" &
    PIDS[w$i]=$!
  done
}

# The runs of these names that execute the step, or have: those who wait announce no miss.
executing() {
  local name
  for name; do
    if step_kinds s "$T/$name.jsonl" 2>/dev/null | grep -qF ' step_cache_miss '; then
      printf '%s\n' "$name"
    fi
  done
}

one_executes() {
  [[ $(executing "${!PIDS[@]}" | wc -l) == 1 ]]
}

finish_all() {
  local name
  for name; do
    wait "${PIDS[$name]}" || fail "run $name failed: $(cat "$T/$name.stderr")"
  done
}

one_result() {
  local name
  for name; do logged s "$T/$name.jsonl" | tr '\n' ' ' && echo; done | sort -u | wc -l
}

test_one_of_many_identical_steps_runs() {
  start_runs 8 'cat input.txt >/dev/null; cat /proc/sys/kernel/random/uuid; sleep 1'
  finish_all "${!PIDS[@]}"
  [[ $(executing "${!PIDS[@]}" | wc -l) == 1 ]] || fail "executed by: $(executing "${!PIDS[@]}")"
  [[ $(one_result "${!PIDS[@]}") == 1 ]] || fail 'they have different results'
}

# Whoever runs it is killed, twice: one of those who wait takes over each time. The step of the last
# one ends when its sleep, which nobody else has, is ended from outside.
test_waiters_take_over_from_the_killed() {
  local round name sleep=3600.000$((RANDOM % 9000 + 1000))$((RANDOM % 9000 + 1000))
  start_runs 5 "cat input.txt >/dev/null; cat /proc/sys/kernel/random/uuid; sleep $sleep; true"
  for round in 1 2; do
    wait_until 60 one_executes || fail "nobody runs it in round $round"
    name=$(executing "${!PIDS[@]}")
    kill -9 "${PIDS[$name]}"
    wait "${PIDS[$name]}" 2>/dev/null || true
    unset "PIDS[$name]"
    wait_until 60 is_not_running sleep "$sleep" || fail 'a step survived its hm'
  done
  wait_until 60 is_running sleep "$sleep" || fail 'nobody took over'
  # shellcheck disable=SC2046
  kill $(pids_running sleep "$sleep")
  finish_all "${!PIDS[@]}"
  [[ $(executing "${!PIDS[@]}" | wc -l) == 1 ]] || fail "executed by: $(executing "${!PIDS[@]}")"
  [[ $(one_result "${!PIDS[@]}") == 1 ]] || fail 'they have different results'
}

run_tests "$@"
