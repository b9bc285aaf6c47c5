# shellcheck shell=bash
# End-to-end test harness. A script sources this file, defines functions named test_*, and ends
# with `run_tests "$@"`. Output is TAP.
#
#   HM=build/tools/hm tests/e2e/soundness.sh                    every case
#   HM=build/tools/hm tests/e2e/soundness.sh read_file_edited   one case (a `test_` prefix is fine)
#   tests/e2e/soundness.sh -l                                   list the cases
#   … -v …                     show what passing cases printed, too
#
# Environment
#   HM            the hm binary (required); HMFS: the hmfs binary (default: beside HM)
#   HM_TEST_USER  when we are root: run every case as this user; root-only cases then skip
#   HM_TEST_BACKEND  vm: every run in virtual machines (guests.sh)
#   HM_TEST_KEEP  not empty: keep the case directories and say where they are
#   TMPDIR        case directories are made below it (default /tmp)
#
# Each case is a bash process of its own (this script again, with --case), in a private directory
# $T, with a private store $HM_HOME and an empty workspace $W, under a timeout. After it, nothing
# may be left: a process or a mount that outlives its case makes the case fail.

E2E_SCRIPT=$(realpath "$0")
E2E_DIR=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
E2E_DEFAULT_TIMEOUT=120
declare -A E2E_TIMEOUT=()
# shellcheck source=tap.sh
. "$E2E_DIR/tap.sh"
# shellcheck source=guests.sh
. "$E2E_DIR/guests.sh"

# ---------------------------------------------------------------------------------------------
# Ending a case

fail() {
  printf 'FAIL: %s\n' "$*"
  exit 1
}

# A case that cannot run here. Never a pass: the reason is printed on the TAP line.
skip() {
  printf '%s\n' "$*" >"$T/skip-reason"
  exit 77
}

needs_root() {
  [[ $(id -u) == 0 ]] || skip "needs root: $*"
}

needs_command() {
  local name
  for name in "$@"; do
    command -v "$name" >/dev/null || skip "needs the command $name"
  done
}

# Whether steps have other ids than root's.
has_ids() {
  [[ $(id -u) == 0 || ${HM_TEST_BACKEND:-} == vm ]] || grep -qs "^$(id -un):" /etc/subuid
}

# case_timeout test_name SECONDS; at file level.
case_timeout() {
  E2E_TIMEOUT[$1]=$2
}

# ---------------------------------------------------------------------------------------------
# Workspace and pipeline

workspace() {
  mkdir -p "$W/.hm"
  if [[ ${HM_TEST_BACKEND:-} == vm ]]; then use_vm; fi
}

# write PATH [LINE…]: a workspace file, one argument a line; made anew, not written in place.
write() {
  local path=$W/$1
  shift
  mkdir -p "$(dirname "$path")"
  rm -f "$path"
  printf '%s\n' "$@" >"$path"
}

# Stdin becomes the pipeline.
pipeline_toml() {
  cat >"$W/.hm/$PIPELINE.toml"
}

# Stdin as one quoted string, valid in TOML and in JSON.
quoted() {
  jq -Rs .
}

# ---------------------------------------------------------------------------------------------
# Running hm

# Runs the pipeline; sets RC, OUT (events) and ERR (stderr).
run_hm() {
  RUNS=$((RUNS + 1))
  OUT=$T/run$RUNS.jsonl
  ERR=$T/run$RUNS.stderr
  RC=0
  "$HM" run "$PIPELINE" --format json -d "$W" ${HM_TEST_BACKEND:+--backend "$HM_TEST_BACKEND"} \
    "$@" >"$OUT" 2>"$ERR" || RC=$?
}

run_rc() {
  local expected=$1
  shift
  run_hm "$@"
  [[ $RC == "$expected" ]] || fail "hm run $* exited $RC, expected $expected"
}

run_ok() {
  run_rc 0 "$@"
  assert_events_whole
}

# Every line an object with a kind; the last one says the build ended well.
assert_events_whole() {
  jq -e -n '[inputs] | all(.[]; type == "object" and has("kind"))
            and (last | .kind == "build_end" and .exit_code == 0)' "$OUT" >/dev/null ||
    fail "the events of run $RUNS are not whole"
}

# first_run_then_hits KEY…: everything runs, and unchanged everything is a hit.
first_run_then_hits() {
  run_ok
  assert_ran "$@"
  run_ok
  assert_hit "$@"
}

# ---------------------------------------------------------------------------------------------
# Events of the last run

# step_events KEY [FILE]: the events of one step, one a line.
step_events() {
  jq -c -n --arg key "$1" '
    [inputs] as $all
    | ($all | map(select(.kind == "step_queued" and .key == $key) | .step_id)) as $ids
    | $all[] | select(.step_id as $id | $ids | index($id))' "${2:-$OUT}"
}

# The kinds of a step's events on one line, in order, framed by spaces.
step_kinds() {
  step_events "$@" | jq -r -n '" " + ([inputs.kind] | join(" ")) + " "'
}

assert_ran() {
  local key kinds
  for key in "$@"; do
    kinds=$(step_kinds "$key")
    [[ $kinds == *" step_start "* && $kinds == *" step_cache_miss "* &&
      $kinds != *" step_cache_hit "* ]] || fail "$key did not run; its events:$kinds"
  done
}

assert_hit() {
  local key kinds
  for key in "$@"; do
    kinds=$(step_kinds "$key")
    [[ $kinds == *" step_cache_hit "* && $kinds != *" step_cache_miss "* ]] ||
      fail "$key is no hit; its events:$kinds $(miss_of "$key")"
    step_events "$key" | jq -e -n --arg key "$key" \
      '[inputs | select(.kind == "step_cache_hit")] | all(.[]; .key == $key)' >/dev/null ||
      fail "step_cache_hit of $key does not carry the step's key"
  done
}

# Reason, path and change of a step's miss, on one line.
miss_of() {
  step_events "$@" | jq -r 'select(.kind == "step_cache_miss")
    | [.reason, .path, .change] | map(. // "-" | tostring) | join(" | ")'
}

# assert_reason KEY REGEX: reason, path or change of the miss match.
assert_reason() {
  local miss
  miss=$(miss_of "$1")
  [[ $miss =~ $2 ]] || fail "$1 ran because of '$miss', expected something like '$2'"
}

# logged KEY [FILE]: the step's lines in the event stream.
logged() {
  step_events "$@" | jq -r 'select(.kind == "step_log") | .line'
}

# ---------------------------------------------------------------------------------------------
# What the last run left

log_of() {
  "$HM" log -d "$W" "$1"
}

# assert_log KEY [LINE…]: hm log prints exactly these lines.
assert_log() {
  local key=$1 want got
  shift
  want=$(printf '%s\n' "$@")
  got=$(log_of "$key")
  [[ $got == "$want" ]] || fail "$key logged '$got', expected '$want'"
}

assert_log_has() {
  local got
  got=$(log_of "$1")
  [[ $got == *"$2"* ]] || fail "$1 logged '$got', expected '$2' in it"
}

assert_log_lacks() {
  local got
  got=$(log_of "$1")
  [[ $got != *"$2"* ]] || fail "$1 logged '$got', expected no '$2' in it"
}

# sql STATEMENT: on the store's database; the rows, digests in hex, columns separated by |.
sql() {
  python3 - "$HM_HOME/hm.db" "$1" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for row in db.execute(sys.argv[2]):
    print("|".join(v.hex() if isinstance(v, bytes) else str(v) for v in row))
db.commit()
PY
}

# exported KEY PATH: exports PATH out of the step's root and prints where it is now.
exported() {
  local dest
  dest=$(mktemp -u "$T/export.XXXXXX")
  "$HM" export -d "$W" "$1" "$2" "$dest" >&2 || fail "hm export $1 $2 failed"
  printf '%s\n' "$dest"
}

# ---------------------------------------------------------------------------------------------
# Waiting, and looking at processes and mounts

# wait_until SECONDS COMMAND…: polls until COMMAND succeeds; fails after SECONDS.
wait_until() {
  local tries=$(($1 * 20))
  shift
  while ((tries-- > 0)); do
    if "$@"; then return 0; fi
    sleep 0.05
  done
  return 1
}

# pids_running WORD…: processes whose argument vector is exactly these words.
pids_running() {
  local want got dir
  local -a argv
  want=$(printf '%s|' "$@")
  for dir in /proc/[0-9]*; do
    { mapfile -d '' -t argv <"$dir/cmdline"; } 2>/dev/null || continue
    printf -v got '%s|' "${argv[@]}"
    if [[ $got == "$want" ]]; then printf '%s\n' "${dir#/proc/}"; fi
  done
}

is_running() {
  [[ -n $(pids_running "$@") ]]
}

is_not_running() {
  ! is_running "$@"
}

# Processes of the case in DIR: started with its environment, or in a mount namespace of their own
# that still shows the case's directory. Asked from within the case, its own shells do not count.
case_processes() {
  local proc own found
  own=$(readlink /proc/self/ns/mnt)
  # The commands that look have the case's environment, too: all of them have ended when the
  # processes found are looked at.
  found=$({
    grep -lszxF "HM_E2E_CASE=$1" /proc/[0-9]*/environ
    grep -lsF "$1/" /proc/[0-9]*/mountinfo | while read -r proc; do
      if [[ $(readlink "${proc%/*}/ns/mnt") != "$own" ]]; then printf '%s\n' "$proc"; fi
    done
  } 2>/dev/null | cut -d/ -f3 | sort -nu)
  for proc in $found; do
    if [[ -d /proc/$proc ]] && ! is_shell_of_this_case "$proc"; then printf '%s\n' "$proc"; fi
  done
}

# The same for people, with what they are and what they wait for.
show_case_processes() {
  case_processes "$1" | xargs -r ps -o pid,ppid,stat,wchan:30,args -p
}

# is_shell_of_this_case PID: one of the case's own shells, or the timeout above them.
is_shell_of_this_case() {
  [[ -n ${HM_E2E_CASE:-} ]] || return 1
  local -a argv
  { mapfile -d '' -t argv <"/proc/$1/cmdline"; } 2>/dev/null || return 0
  [[ " ${argv[*]} " == *" $E2E_SCRIPT --case "* ]]
}

no_case_processes() {
  [[ -z $(case_processes "$1") ]]
}

mounts_below() {
  awk -v dir="$1/" 'index($2, dir) == 1 { print $2 }' /proc/self/mounts
}
