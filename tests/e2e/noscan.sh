#!/usr/bin/env bash
# The workspace is never scanned: with 200,000 tracked files an all-hit run costs what the steps
# observed. Both workspaces and their stores are made once, by the first case that needs them.
# shellcheck source=lib.sh disable=SC2119
. "$(dirname "$0")/lib.sh"

MANY=200000
FEW=200

# Made before the cases run, as the user who runs them, removed after the last.
before_cases() {
  NOSCAN_DIR=$(mktemp -d "${TMPDIR:-/tmp}/hm-noscan.XXXXXX") || bail_out 'mktemp failed'
  export NOSCAN_DIR
  if ((${#E2E_AS[@]} > 0)); then chown "$HM_TEST_USER:" "$NOSCAN_DIR"; fi
  trap 'rm -rf --one-file-system "$NOSCAN_DIR"' EXIT
}

# A git repository with COUNT unrelated tracked files in 200 directories, and src with 20.
make_repository() {
  local dir=$1 count=$2
  git init -q "$dir"
  python3 -c '
import sys
out = sys.stdout.buffer
count = int(sys.argv[1])
files = [("unrelated/d%03d/f%06d.txt" % (i % 200, i), "%d\n" % i) for i in range(count)]
files += [("src/f%02d.txt" % i, "source %d\n" % i) for i in range(20)]
files += [(".gitignore", "*.o\nbuild/\n")]
out.write(b"commit refs/heads/noscan\ncommitter T <t@example.org> 1700000000 +0000\ndata 1\nm\n")
for name, text in files:
    out.write(("M 100644 inline %s\ndata %d\n%s\n" % (name, len(text), text)).encode())
out.write(b"done\n")' "$count" | git -C "$dir" fast-import --quiet --done
  git -C "$dir" checkout -q noscan
  mkdir "$dir/.hm"
  cat >"$dir/.hm/ci.toml" <<'TOML'
[[step]]
key = "reads"
run = "cat src/*.txt > /opt/all; wc -l /opt/all"
[[step]]
key  = "child"
from = "reads"
run  = "cat /opt/all src/f01.txt; test -e src/missing.txt || echo missing"
[[step]]
key = "lists"
run = "ls -l src"
[[step]]
key = "one"
run = "git --version; cat src/f19.txt"
TOML
}

KEYS=(reads child lists one)

# prepared COUNT: $W and HM_HOME are those of COUNT files, and everything is recorded.
prepared() {
  needs_command git python3
  local free
  free=$(df --output=iavail "$NOSCAN_DIR" | tail -n 1)
  local base=$NOSCAN_DIR/$1
  W=$base/ws
  export HM_HOME=$base/home
  if [[ -e $base/ready ]]; then return 0; fi
  if [[ $free =~ ^[0-9]+$ ]] && ((free < 2 * MANY)); then skip "too few inodes at $NOSCAN_DIR"; fi
  rm -rf "$base"
  mkdir -p "$base"
  make_repository "$W" "$1"
  [[ $(git -C "$W" ls-files | wc -l) == $(($1 + 21)) ]] || fail 'the repository is not as meant'
  run_ok
  assert_ran "${KEYS[@]}"
  run_ok
  assert_hit "${KEYS[@]}"
  touch "$base/ready"
}

# The lines of hm trace over all steps.
observed_paths() {
  local key
  for key in "${KEYS[@]}"; do (cd "$W" && "$HM" trace "$key"); done | wc -l
}

# Sets CALLS: the path-naming system calls of an all-hit run; those with an empty path, which stat
# a descriptor, do not count. Their text is in $T/calls.
count_path_calls() {
  RUNS=$((RUNS + 1))
  OUT=$T/run$RUNS.jsonl
  ERR=$T/run$RUNS.stderr
  RC=0
  strace -f -qq -s 256 -e trace=%file -e signal=none -o "$T/strace" \
    "$HM" run ci --format json -d "$W" >"$OUT" 2>"$ERR" || RC=$?
  [[ $RC == 0 ]] || fail "hm exited $RC under strace: $(head -c 600 "$ERR")"
  assert_hit "${KEYS[@]}"
  grep -vE 'resumed>|, "", ' "$T/strace" | grep '"' >"$T/calls" || fail 'strace saw nothing'
  CALLS=$(wc -l <"$T/calls")
}

case_timeout test_all_hits_with_many_files_name_few_paths 600
test_all_hits_with_many_files_name_few_paths() {
  needs_command strace
  strace -f true 2>/dev/null || skip 'strace may not trace here'
  prepared "$MANY"
  local observed
  observed=$(observed_paths)
  ((observed > 40)) || fail "hm trace shows only $observed observations"
  count_path_calls
  printf 'path-naming calls: %s, observations: %s, allowed: %s\n' \
    "$CALLS" "$observed" $((4 * observed + 2000))
  ((CALLS <= 4 * observed + 2000)) ||
    fail "$CALLS path-naming calls for $observed observations: $(
      grep -o '"[^"]*"' "$T/calls" | sort | uniq -c | sort -rn | head -n 10)"
}

case_timeout test_all_hits_never_name_or_list_what_no_step_looked_at 600
test_all_hits_never_name_or_list_what_no_step_looked_at() {
  needs_command strace
  strace -f true 2>/dev/null || skip 'strace may not trace here'
  prepared "$MANY"
  count_path_calls
  ! grep -m 3 'unrelated/d' "$T/calls" || fail 'the run names unrelated files'
}

# milliseconds: how long an all-hit run takes.
milliseconds() {
  local began ended
  began=$(date +%s%N)
  "$HM" run ci --format json -d "$W" >"$T/timed.jsonl" 2>/dev/null
  ended=$(date +%s%N)
  jq -e -n '[inputs | select(.kind == "step_cache_hit")] | length == 4' "$T/timed.jsonl" >/dev/null ||
    fail 'a timed run was not all hits'
  printf '%s\n' $(((ended - began) / 10000))
}

# Of five runs, in hundredths of milliseconds: FEW_MEDIAN and MANY_MEDIAN, taken in turns.
take_medians() {
  : >"$T/few"
  : >"$T/many"
  for _ in 1 2 3 4 5; do
    prepared "$FEW"
    milliseconds >>"$T/few"
    prepared "$MANY"
    milliseconds >>"$T/many"
  done
  FEW_MEDIAN=$(sort -n "$T/few" | sed -n 3p)
  MANY_MEDIAN=$(sort -n "$T/many" | sed -n 3p)
  printf 'medians of 5 runs, 1/100 ms: %s with %s files, %s with %s files\n' \
    "$FEW_MEDIAN" "$FEW" "$MANY_MEDIAN" "$MANY"
}

# Up to three tries: other work on the machine makes single medians jump.
case_timeout test_all_hits_with_many_files_take_at_most_1_3_times_as_long 900
test_all_hits_with_many_files_take_at_most_1_3_times_as_long() {
  prepared "$FEW"
  prepared "$MANY"
  local try
  for try in 1 2 3; do
    take_medians
    if ((10 * MANY_MEDIAN <= 13 * FEW_MEDIAN)); then return 0; fi
    printf 'try %s is over 1.3\n' "$try"
  done
  fail "$MANY_MEDIAN is more than 1.3 times $FEW_MEDIAN"
}

run_tests "$@"
