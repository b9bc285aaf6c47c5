#!/usr/bin/env bash
# Edits while steps run: a finished run has seen one state of each file, and no record is made of
# a state that was not served.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# set_state FILE LETTER: the file becomes 50 lines of LETTER, in one rename; always the same size.
set_state() {
  local new=$T/new-state.$BASHPID i
  for ((i = 0; i < 50; i++)); do printf '%s line\n' "$2"; done >"$new"
  mv "$new" "$W/$1"
}

# start_writer FILE SECONDS: sets A, B and C in turn, in the background.
start_writer() {
  (
    trap - EXIT ERR
    end=$((SECONDS + $2))
    while ((SECONDS < end)); do
      for letter in A B C; do
        set_state "$1" "$letter"
        sleep 0.02
      done
    done
  ) &
  WRITER=$!
}

# The run is over: the writer ends now, not at the end of its time.
stop_writer() {
  kill "$WRITER" 2>/dev/null || true
  wait "$WRITER" || true
}

# A run that gives up must say why.
assert_finished_or_gave_up() {
  [[ $RC == 0 ]] && return 0
  [[ $RC == 1 ]] || fail "exit $RC under a writer, expected 0 or 1"
  grep -qF 'workspace changed while running' "$ERR" "$OUT" ||
    fail 'the run failed without saying that the workspace changed'
}

# The letters all these steps logged, each once.
letters() {
  local key
  for key in "$@"; do log_of "$key"; done | sort -u | tr -d '\n'
}

# one_state_only KEY…: all logs of this finished run show the same one letter.
one_state_only() {
  local seen
  seen=$(letters "$@")
  [[ $seen == [ABC] ]] || fail "one run saw the states '$seen' of the file"
}

# Runs as from scratch, in a store of its own, and compares the steps' logs.
assert_equals_from_scratch() {
  local key cached scratch
  cached=$(for key in "$@"; do log_of "$key"; done)
  local home=$HM_HOME
  HM_HOME=$T/scratch-home$RUNS
  run_ok
  assert_ran "$@"
  scratch=$(for key in "$@"; do log_of "$key"; done)
  HM_HOME=$home
  [[ $cached == "$scratch" ]] || fail "cached '$cached', from scratch '$scratch'"
}

# records_are_true FILE KEY…: in each state, what the cache gives is that state.
records_are_true() {
  local file=$1 letter
  shift
  for letter in A B C; do
    set_state "$file" "$letter"
    run_ok
    [[ $(letters "$@") == "$letter" ]] ||
      fail "a record of another state: the file is $letter, the logs say $(letters "$@")"
  done
  assert_equals_from_scratch "$@"
}

late_readers() {
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "sleep 0.3; cut -c1 f.txt | sort -u; sleep 0.3; cut -c1 f.txt | sort -u"
[[step]]
key   = "b"
after = ["a"]
run   = "sleep 0.3; cut -c1 f.txt | sort -u"
[[step]]
key = "c"
run = "sleep 0.5; cut -c1 f.txt | sort -u"
TOML
}

test_file_read_late_under_a_writer_is_one_state() {
  late_readers
  set_state f.txt A
  local round
  for round in 1 2 3; do
    start_writer f.txt "$((round * 2))"
    run_hm
    assert_finished_or_gave_up
    if [[ $RC == 0 ]]; then one_state_only a b c; fi
    stop_writer
  done
  records_are_true f.txt a b c
}

# One edit between two readers must not make the run fail: at worst the earlier one runs again.
test_file_edited_once_between_two_readers_is_one_state() {
  pipeline_toml <<'TOML'
[[step]]
key = "early"
run = "cut -c1 f.txt | sort -u"
[[step]]
key   = "late"
after = ["early"]
run   = "sleep 2; cut -c1 f.txt | sort -u"
TOML
  set_state f.txt A
  OUT=$T/background.jsonl
  ERR=$T/background.stderr
  "$HM" run "$PIPELINE" --format json -d "$W" >"$OUT" 2>"$ERR" &
  local hm=$!
  wait_until 30 grep -q '"step_end"' "$OUT" || fail 'the first step did not end'
  set_state f.txt B
  RC=0
  wait "$hm" || RC=$?
  [[ $RC == 0 ]] || fail "one edit made the run fail with $RC"
  one_state_only early late
  records_are_true f.txt early late
}

test_file_two_ancestors_read_under_a_writer_is_one_state() {
  pipeline_toml <<'TOML'
[[step]]
key = "first"
run = "cut -c1 f.txt | sort -u | tee out.first"
[[step]]
key  = "second"
from = "first"
run  = "sleep 0.4; cut -c1 f.txt | sort -u | tee out.second"
[[step]]
key  = "third"
from = "second"
run  = "sleep 0.2; cat out.first out.second"
TOML
  set_state f.txt A
  local round
  for round in 1 2 3; do
    start_writer f.txt "$((round * 2))"
    run_hm
    assert_finished_or_gave_up
    if [[ $RC == 0 ]]; then one_state_only first second third; fi
    stop_writer
  done
  records_are_true f.txt first second third
}

# Always one of x.txt and y.txt is ignored, never both, never none.
start_gitignore_writer() {
  (
    trap - EXIT ERR
    end=$((SECONDS + $1))
    while ((SECONDS < end)); do
      for name in x.txt y.txt; do
        printf '%s\n' "$name" >"$T/new-ignore"
        mv "$T/new-ignore" "$W/.gitignore"
        sleep 0.05
      done
    done
  ) &
  WRITER=$!
}

test_gitignore_under_a_writer_is_one_state() {
  write x.txt x
  write y.txt y
  write .gitignore x.txt
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "sleep 0.2; ls"
[[step]]
key   = "b"
after = ["a"]
run   = "sleep 0.4; ls; for name in x.txt y.txt; do test ! -e $name || echo $name; done"
TOML
  local round seen
  for round in 1 2 3; do
    start_gitignore_writer "$((round * 2))"
    run_hm
    assert_finished_or_gave_up
    if [[ $RC == 0 ]]; then
      seen=$( { log_of a; log_of b; } | sort -u | tr '\n' ' ')
      [[ $seen == 'x.txt ' || $seen == 'y.txt ' ]] || fail "one run saw '$seen'"
    fi
    stop_writer
  done
  write .gitignore x.txt
  run_ok
  assert_log a y.txt
  assert_log b y.txt y.txt
  write .gitignore y.txt
  run_ok
  assert_log a x.txt
  assert_log b x.txt x.txt
  assert_equals_from_scratch a b
}

# Writes in place, so that a reader can meet any prefix; what ends up recorded must be true.
test_file_written_in_place_leaves_no_false_record() {
  late_readers
  set_state f.txt A
  (
    trap - EXIT ERR
    end=$((SECONDS + 4))
    while ((SECONDS < end)); do
      for letter in A B C; do
        for ((i = 0; i < 50; i++)); do printf '%s line\n' "$letter"; done >"$W/f.txt"
      done
    done
  ) &
  WRITER=$!
  run_hm
  assert_finished_or_gave_up
  stop_writer
  records_are_true f.txt a b c
}

test_directory_listed_under_a_writer_leaves_no_false_record() {
  write dir/keep.txt keep
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "sleep 0.2; ls dir"
[[step]]
key   = "b"
after = ["a"]
run   = "sleep 0.3; ls dir"
TOML
  (
    trap - EXIT ERR
    end=$((SECONDS + 4))
    while ((SECONDS < end)); do
      : >"$W/dir/more.txt"
      sleep 0.03
      rm "$W/dir/more.txt"
      sleep 0.03
    done
  ) &
  WRITER=$!
  run_hm
  assert_finished_or_gave_up
  if [[ $RC == 0 ]]; then
    [[ $(log_of a) == "$(log_of b)" ]] || fail "a saw $(log_of a), b saw $(log_of b)"
  fi
  stop_writer
  rm -f "$W/dir/more.txt"
  run_ok
  assert_log a keep.txt
  assert_log b keep.txt
  write dir/more.txt ''
  run_ok
  assert_log a keep.txt more.txt
  assert_log b keep.txt more.txt
  assert_equals_from_scratch a b
}

run_tests "$@"
