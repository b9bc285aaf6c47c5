#!/usr/bin/env bash
# Limits of a step: memory, processes, time, disk. What is over them ends, is told, is not recorded.
# shellcheck source=lib.sh disable=SC2119
. "$(dirname "$0")/lib.sh"

# Skips the case when hm cannot enforce this machine's and user's limits; a run said so.
skip_without_cgroups() {
  ! grep -q 'limits are not enforced' "$ERR" || skip "no cgroups here: $(grep -m1 -o 'not enforced.*' "$ERR")"
}

assert_told() {
  grep -qF -- "$1" "$ERR" || fail "stderr does not say '$1': $(cat "$ERR")"
}

assert_step_exit() {
  step_events "$1" | jq -e -n --argjson code "$2" \
    'any(inputs; .kind == "step_end" and .exit_code == $code)' >/dev/null ||
    fail "$1 does not end with $2: $(step_events "$1" | jq -c 'select(.kind == "step_end")')"
}

# cgroups_of PID: those that this hm made.
cgroups_of() {
  find /sys/fs/cgroup -type d -name "hm-step-$1-*" 2>/dev/null
}

# Those whose hm has ended; others run beside these tests.
cgroups_left() {
  local dir pid
  find /sys/fs/cgroup -type d -name 'hm-step-*' 2>/dev/null | while read -r dir; do
    pid=${dir##*/hm-step-}
    if [[ ! -d /proc/${pid%%-*} && -d $dir ]]; then printf '%s\n' "$dir"; fi
  done
}

# The shell would go on: the step must not.
test_step_over_its_memory_is_killed() {
  pipeline_toml <<'TOML'
[[step]]
key    = "hog"
memory = "64M"
run    = '''
python3 -c 'x = bytearray(400 << 20); print("got", len(x))' || true
sleep 60; echo went on'''
TOML
  run_hm
  skip_without_cgroups
  [[ $RC == 1 ]] || fail "hm exited $RC"
  assert_step_exit hog 137
  assert_told "step 'hog' was killed: over its memory limit of 64M"
  assert_log_lacks hog 'got'
  assert_log_lacks hog 'went on'
  [[ -z $(cgroups_left) ]] || fail "left: $(cgroups_left)"
  run_rc 1
  assert_ran hog
}

test_step_within_its_limits_is_a_hit() {
  pipeline_toml <<'TOML'
[[step]]
key    = "s"
memory = "256m"
pids   = 100
run    = "for i in 1 2 3; do sleep 0.1 & done; wait; echo fine"
TOML
  first_run_then_hits s
  assert_log s fine
  sed -i 's/256m/255m/' "$W/.hm/ci.toml"
  run_ok
  assert_reason s 'resource limits'
  [[ -z $(cgroups_left) ]] || fail "left: $(cgroups_left)"
}

# Bounded by pids; ended by the timeout, since a fork bomb never ends by itself.
test_fork_bomb_is_bounded() {
  pipeline_toml <<'TOML'
[[step]]
key  = "probe"
pids = 10
run  = "true"
TOML
  run_ok
  skip_without_cgroups
  pipeline_toml <<'TOML'
[[step]]
key     = "bomb"
pids    = 40
timeout = "3s"
run     = "bomb() { bomb | bomb & }; bomb & exec sleep 60"
TOML
  run_hm &
  local hm=$! most=0 now
  while kill -0 "$hm" 2>/dev/null; do
    now=$(find /sys/fs/cgroup -path '*/hm-step-*/pids.current' -exec cat {} + 2>/dev/null |
      sort -n | tail -1 || true)
    if ((${now:-0} > most)); then most=$now; fi
    sleep 0.1
  done
  wait "$hm" || fail 'hm itself failed'
  OUT=$T/run2.jsonl
  ERR=$T/run2.stderr
  ((most <= 42)) || fail "there were $most processes"
  assert_step_exit bomb 124
  assert_told "step 'bomb': reached its limit of 40 processes"
  [[ -z $(cgroups_left) ]] || fail "left: $(cgroups_left)"
}

test_step_that_met_its_process_limit_is_not_recorded() {
  pipeline_toml <<'TOML'
[[step]]
key  = "s"
pids = 8
run  = '''
python3 -c '
import os, time
children = []
try:
    for i in range(50):
        pid = os.fork()
        if pid == 0: time.sleep(60)
        children.append(pid)
except OSError as error: print(error.strerror)
for pid in children: os.kill(pid, 9)
' '''
TOML
  run_ok
  skip_without_cgroups
  assert_log s 'Resource temporarily unavailable'
  assert_told "step 's' is not cached: pids: it reached its limit of 8 processes"
  run_ok
  assert_ran s
}

# The killed hm leaves a cgroup; the next one that makes its own removes it.
test_cgroups_of_a_killed_hm_are_removed() {
  pipeline_toml <<'TOML'
[[step]]
key  = "s"
pids = 50
run  = "echo started; sleep 60"
TOML
  RUNS=1 OUT=$T/run1.jsonl ERR=$T/run1.stderr
  "$HM" run ci --format json -d "$W" >"$OUT" 2>"$ERR" &
  local hm=$!
  wait_until 30 grep -q '"line": *"started"' "$OUT" || fail 'the step did not start'
  if [[ -z $(cgroups_of "$hm") ]]; then
    kill "$hm"
    wait "$hm" || true
    skip "no cgroups here: $(cat "$ERR")"
  fi
  kill -9 "$hm"
  wait "$hm" || true
  sed -i 's/echo started.*"/true"/' "$W/.hm/ci.toml"
  if ! wait_until 10 no_case_processes "$T"; then
    show_case_processes "$T"
    fail 'processes of the killed hm are left'
  fi
  run_ok
  [[ -z $(cgroups_of "$hm") ]] || fail "left: $(cgroups_of "$hm")"
}

# Where a limit cannot be enforced, one line says so and the step runs.
test_limit_that_cannot_be_enforced_is_told() {
  pipeline_toml <<'TOML'
[[step]]
key    = "s"
memory = "64M"
run    = "echo ran"
TOML
  run_ok
  if ! grep -q 'not enforced' "$ERR"; then skip 'the limit is enforced here'; fi
  [[ $(grep -c 'not enforced' "$ERR") == 1 ]] || fail "not one line: $(cat "$ERR")"
  assert_log s ran
  run_ok
  assert_hit s
}

test_mistakes_in_limits_are_refused() {
  local line
  for line in 'memory = "64"' 'memory = "1K"' 'memory = 64' 'memory = "64MB"' 'memory = "9999999T"' \
    'pids = 0' 'pids = "8"' 'pids = -1' 'pids = 1.5' 'pids = 99999999'; do
    printf '[[step]]\nkey = "s"\nrun = "true"\n%s\n' "$line" | pipeline_toml
    run_rc 7
    [[ $(wc -l <"$ERR") == 1 ]] || fail "$line: not one line: $(cat "$ERR")"
    assert_told ':4:'
  done
}

# ---------------------------------------------------------------------------------------------
# A disk that is full: the store on a small tmpfs, in a mount namespace of its own.

on_small_disk() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  unshare -m sh -ec 'mkdir -p "$HM_HOME"; mount -t tmpfs -o size=24m small "$HM_HOME"; exec "$@"' \
    sh "$@"
}

test_full_disk_is_told_and_nothing_is_recorded() {
  needs_root 'mounts a small filesystem'
  pipeline_toml <<'TOML'
[[step]]
key = "before"
run = "echo kept >kept; cat kept"
[[step]]
key  = "fill"
from = "before"
run  = "head -c 100000000 /dev/zero >big && echo written"
TOML
  # shellcheck disable=SC2016
  on_small_disk bash -c '
    rc=0; "$HM" run ci -d "$1" >"$2/out" 2>&1 || rc=$?; echo "first $rc"
    "$HM" log -d "$1" before
    rc=0; "$HM" run ci -d "$1" >"$2/out2" 2>&1 || rc=$?; echo "second $rc"
    sed -i s/100000000/1000/ "$1/.hm/ci.toml"
    rc=0; "$HM" run ci -d "$1" >"$2/out3" 2>&1 || rc=$?; echo "third $rc"
    "$HM" log -d "$1" fill; ls "$HM_HOME/scratch"' bash "$W" "$T" >"$T/result"
  [[ $(cat "$T/result") == $'first 1\nkept\nsecond 1\nthird 0\nwritten' ]] ||
    fail "$(cat "$T/result" "$T"/out*)"
  grep -q 'No space left on device' "$T/out" || fail "the step did not say why: $(cat "$T/out")"
  grep -q '^before.*cached' "$T/out3" || fail "what was recorded is gone: $(cat "$T/out3")"
}

# A step that fills what hm itself needs: an error of the machine, in one line, and no record.
test_full_disk_while_output_is_kept() {
  needs_root 'mounts a small filesystem'
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "head -c 100000000 /dev/zero"
TOML
  # shellcheck disable=SC2016
  on_small_disk bash -c '
    rc=0; "$HM" run ci -d "$1" >/dev/null 2>"$2/err" || rc=$?; echo "first $rc"
    ls "$HM_HOME/scratch"
    sed -i s/100000000/1000/ "$1/.hm/ci.toml"
    rc=0; "$HM" run ci -d "$1" >/dev/null 2>&1 || rc=$?; echo "second $rc"' bash "$W" "$T" >"$T/result"
  [[ $(cat "$T/result") == $'first 4\nsecond 0' ]] || fail "$(cat "$T/result" "$T/err")"
  grep -a -q 'No space left on device' "$T/err" || fail "$(tail -c 500 "$T/err")"
}

# ---------------------------------------------------------------------------------------------
# Much of something

test_export_to_another_filesystem() {
  needs_root 'mounts another filesystem'
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "mkdir -p out/d; head -c 3000000 /dev/urandom >out/d/f; ln out/d/f out/l; ln -s l out/s"
TOML
  run_ok
  mkdir "$T/other"
  # shellcheck disable=SC2016
  unshare -m bash -ec 'mount -t tmpfs other "$2"; "$HM" export -d "$1" s /workspace/out "$2/out"
    cd "$2/out"; stat -c "%s %h" d/f; readlink s; cmp d/f l
    cd "$1"; "$HM" exec -d "$1" -o made -- sh -c "echo hi >made"; cat made' \
    bash "$W" "$T/other" >"$T/result"
  [[ $(cat "$T/result") == $'3000000 2\nl\nhi' ]] || fail "$(cat "$T/result")"
}

# A tree deeper than a path can name: told as such, not recorded, and removed.
test_very_deep_tree_is_removed() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = '''python3 -c '
import os
for i in range(10000):
    os.mkdir("deepdeep"); os.chdir("deepdeep")
' '''
TOML
  run_hm
  [[ $RC != 0 ]] || fail 'the tree cannot be recorded'
  assert_told 'nested deeper than 2048 directories'
  [[ -z $(ls "$HM_HOME/scratch") ]] || fail "left in scratch: $(ls "$HM_HOME/scratch")"
}

# 300 MB of output, run, replayed and printed, in far less memory.
test_long_log_is_not_held_in_memory() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 300000000"
TOML
  python3 -c '
import resource, subprocess, sys
hm, workspace = sys.argv[1:]
for words in (["run", "ci"], ["run", "ci"], ["log", "s"]):
    with subprocess.Popen([hm, *words, "-d", workspace], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        size = sum(len(part) for part in iter(lambda: process.stdout.read(1 << 20), b""))
    if process.returncode != 0: sys.exit(f"hm {words[0]} exited {process.returncode}")
print(size, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 150_000)
' "$HM" "$W" >"$T/result"
  [[ $(cat "$T/result") == '300000000 True' ]] || fail "$(cat "$T/result")"
}

run_tests "$@"
