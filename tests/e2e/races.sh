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

# start_run: a run in the background, its process in HM_PID; end_run waits for it and sets RC.
start_run() {
  OUT=$T/background.jsonl
  ERR=$T/background.stderr
  "$HM" run "$PIPELINE" --format json -d "$W" "$@" >"$OUT" 2>"$ERR" &
  HM_PID=$!
}

end_run() {
  RC=0
  wait "$HM_PID" || RC=$?
}

has_started() {
  step_kinds "$1" 2>/dev/null | grep -qF ' step_start '
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
  start_run
  wait_until 30 grep -q '"step_end"' "$OUT" || fail 'the first step did not end'
  set_state f.txt B
  end_run
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

# Was: a hit's inputs were never looked at again, so a run passed with the old f and the new g.
test_input_of_a_hit_edited_before_the_run_ends_is_one_state() {
  pipeline_toml <<'TOML'
[[step]]
key = "f"
run = "cat f.txt"
[[step]]
key   = "g"
after = ["f"]
cache = "none"
run   = "sleep 1.5; cat g.txt"
TOML
  write f.txt 1
  write g.txt 1
  run_ok
  start_run
  wait_until 30 has_started g || fail 'g did not start'
  write f.txt 2
  write g.txt 2
  end_run
  [[ $RC == 0 ]] || fail "two edits made the run fail with $RC"
  [[ $(log_of f)/$(log_of g) == 2/2 ]] || fail "f is $(log_of f), g is $(log_of g)"
  run_ok
  assert_hit f
}

# Was: a run went on, and passed, with a workspace that had been replaced as a whole.
test_replaced_workspace_is_seen() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "sleep 1.5; cat f.txt"
TOML
  write f.txt 1
  start_run
  wait_until 30 has_started s || fail 's did not start'
  cp -a "$W" "$W.new"
  echo 2 >"$W.new/f.txt"
  mv "$W" "$W.old"
  mv "$W.new" "$W"
  end_run
  [[ $RC == 0 ]] || fail "the run failed with $RC"
  assert_log s 2
}

# Was: an equal stamp was believed, and a store through a mapping changes none.
test_store_through_a_mapping_is_one_state() {
  needs_command python3
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat f.bin; sleep 2; cat f.bin"
TOML
  cat >"$T/mapper.py" <<'PYTHON'
import mmap, os, sys, time
with open(sys.argv[1], 'w+b') as f:
    f.write(b'1\n')
    f.flush()
    page = mmap.mmap(f.fileno(), 2)
    page[0:1] = b'1'
    stamp = lambda: (lambda s: (s.st_size, s.st_mtime_ns, s.st_ctime_ns))(os.stat(f.fileno()))
    before = stamp()
    open(sys.argv[2] + '/ready', 'w').close()
    while not os.path.exists(sys.argv[2] + '/go'):
        time.sleep(0.02)
    page[0:1] = b'2'
    open(sys.argv[2] + ('/done' if stamp() == before else '/told'), 'w').close()
PYTHON
  python3 "$T/mapper.py" "$W/f.bin" "$T" &
  wait_until 30 test -e "$T/ready" || fail 'the mapper did not start'
  start_run
  wait_until 30 grep -q '"line":"1"' "$OUT" || fail 's did not read f.bin'
  : >"$T/go"
  end_run
  [[ -e $T/done ]] || skip 'here a store through a mapping changes the times at once'
  [[ $RC == 0 ]] || fail "one edit made the run fail with $RC"
  assert_log s 2 2
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
