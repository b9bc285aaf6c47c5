#!/usr/bin/env bash
# `hm run --format json`: which events come, in which order, with which fields; none is ever lost.
# shellcheck source=lib.sh disable=SC2119
. "$(dirname "$0")/lib.sh"

# assert_events WHAT FILTER: FILTER, over the array of all events, gives true.
assert_events() {
  jq -e -n "[inputs] | $2" "$OUT" >/dev/null || fail "$1"
}

# assert_all KIND FILTER: there are events of the kind, and FILTER holds for each.
assert_all() {
  assert_events "an event of kind $1 is not as expected: $(
    jq -c "select(.kind == \"$1\") | select(($2) | not)" "$OUT" | head -n 3)" \
    "map(select(.kind == \"$1\")) | length > 0 and all(.[]; $2)"
}

# A chain of three, a step beside it, and one after all.
five_steps() {
  write read.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "first"
run = "cat read.txt > copy; echo to-out; echo to-err >&2"
[[step]]
key  = "second"
from = "first"
run  = "cat copy"
[[step]]
key  = "third"
from = "second"
run  = "true"
[[step]]
key = "beside"
run = "echo beside"
[[step]]
key   = "last"
after = ["third", "beside"]
run   = "echo last"
TOML
}

failing_chain() {
  pipeline_toml <<'TOML'
[[step]]
key = "bad"
run = "echo before; exit 3"
[[step]]
key  = "child"
from = "bad"
run  = "true"
TOML
}

one_step() {
  pipeline_toml <<TOML
[[step]]
key = "s"
run = $(printf %s "$1" | quoted)
TOML
}

test_every_line_is_one_object_with_a_kind() {
  five_steps
  run_ok
  local lines objects
  lines=$(wc -l <"$OUT")
  objects=$(while IFS= read -r line; do
    jq -c 'select(type == "object" and (.kind | type == "string")) | 1' <<<"$line"
  done <"$OUT" | wc -l)
  [[ $lines == "$objects" ]] || fail "$lines lines, $objects of them one object with a kind"
  [[ -z $(tail -c 1 "$OUT" | tr -d '\n') ]] || fail 'the last line has no newline'
}

test_build_start_is_first_and_build_end_last() {
  five_steps
  run_ok
  assert_events 'build_start is not first, or not once' \
    '.[0].kind == "build_start" and (map(select(.kind == "build_start")) | length == 1)'
  assert_events 'build_end is not last, or not once' \
    '.[-1].kind == "build_end" and (map(select(.kind == "build_end")) | length == 1)'
}

test_all_steps_are_queued_before_any_starts() {
  five_steps
  run_ok
  assert_events 'step_queued does not follow build_start for every step' \
    '.[1:6] | map(.kind == "step_queued") | all and length == 5'
  assert_events 'not each step is queued once' \
    'map(select(.kind == "step_queued") | .key) | sort
     == ["beside", "first", "last", "second", "third"]'
}

test_all_steps_are_queued_first_on_hits_too() {
  five_steps
  run_ok
  run_ok
  assert_events 'step_queued does not follow build_start for every step' \
    '.[1:6] | map(.kind == "step_queued") | all and length == 5'
}

test_a_step_starts_after_its_parent_and_predecessors_ended() {
  five_steps
  run_ok --parallelism 4
  local order
  order=$(jq -r -n '[inputs] as $all
    | ($all | map(select(.kind == "step_queued") | {(.step_id): .key}) | add) as $keys
    | [$all[] | select(.kind == "step_start" or .kind == "step_end")
       | "\(.kind):\($keys[.step_id])"] | join(" ")' "$OUT")
  local pair
  for pair in first:second second:third third:last beside:last; do
    [[ $order == *"step_end:${pair%:*} "*"step_start:${pair#*:} "* ]] ||
      fail "${pair#*:} started before ${pair%:*} ended: $order"
  done
}

test_events_of_an_executed_step_are_in_order() {
  five_steps
  run_ok
  local kinds
  kinds=$(step_kinds first)
  [[ $kinds =~ ^\ step_queued\ .*step_end\ $ ]] || fail "$kinds"
  [[ $kinds =~ step_start\ .*step_log\ .*step_end ]] || fail "$kinds"
  [[ $kinds =~ step_cache_miss\ .*step_log ]] || fail "$kinds"
}

test_build_start_fields() {
  five_steps
  run_ok
  assert_all build_start '(.run_id | type == "string" and length > 0)
    and .plan.step_count == 5 and (.plan.chain_count | type == "number" and . >= 1)
    and (.plan | has("default_runner")) and (.started_at | type == "string" and length > 0)'
}

test_chain_count_is_the_number_of_single_lines() {
  five_steps
  run_ok
  assert_all build_start '.plan.chain_count == 3'
}

test_step_queued_fields() {
  five_steps
  run_ok
  assert_all step_queued '(.step_id | type == "string" and length > 0)
    and (.key | type == "string") and (.chain_idx | type == "number")
    and has("parent_key") and (.display_name | type == "string" and length > 0)'
  assert_events 'parent_key is not the parent by from' \
    'map(select(.kind == "step_queued") | {(.key): .parent_key}) | add
     == {first: null, second: "first", third: "second", beside: null, last: null}'
}

test_step_ids_are_unique() {
  five_steps
  run_ok
  assert_events 'two steps have one id' \
    'map(select(.kind == "step_queued") | .step_id) | length == 5 and (unique | length) == 5'
}

test_run_ids_differ() {
  five_steps
  run_ok
  local first
  first=$(jq -r 'select(.kind == "build_start") | .run_id' "$OUT")
  run_ok
  [[ $(jq -r 'select(.kind == "build_start") | .run_id' "$OUT") != "$first" ]] ||
    fail "two runs are both $first"
}

test_step_start_fields() {
  five_steps
  run_ok
  assert_all step_start '(.step_id | type == "string") and (.runner | type == "string")
    and has("image")'
}

test_step_log_fields() {
  five_steps
  run_ok
  assert_all step_log '(.step_id | type == "string") and (.line | type == "string")
    and (.stream == "stdout" or .stream == "stderr") and (.ts | type == "string")'
}

test_step_end_fields() {
  five_steps
  run_ok
  assert_all step_end '(.step_id | type == "string") and .exit_code == 0
    and (.duration_ms | type == "number" and . >= 0)
    and (.snapshot | type == "string" and test("^[0-9a-f]{64}$"))'
}

test_snapshot_is_the_digest_of_what_was_written() {
  pipeline_toml <<'TOML'
[[step]]
key = "x"
run = "echo same > f; echo talk"
[[step]]
key = "y"
run = "echo other > f"
[[step]]
key = "z"
run = "printf 'sa'; printf 'same\n' > f"
TOML
  run_ok
  snapshot() { step_events "$1" | jq -r 'select(.kind == "step_end") | .snapshot'; }
  [[ $(snapshot x) != "$(snapshot y)" ]] || fail 'different layers, one snapshot'
  [[ $(snapshot x) == "$(snapshot z)" ]] || fail 'equal layers, two snapshots'
}

test_snapshot_of_a_hit_is_that_of_the_execution() {
  five_steps
  run_ok
  local first
  first=$(step_events first | jq -r 'select(.kind == "step_end") | .snapshot')
  run_ok
  assert_hit first
  [[ $(step_events first | jq -r 'select(.kind == "step_end") | .snapshot') == "$first" ]] ||
    fail 'the hit has another snapshot'
}

test_step_cache_miss_fields_of_a_new_step() {
  five_steps
  run_ok
  assert_all step_cache_miss '(.step_id | type == "string") and (.key | type == "string")
    and (.reason | type == "string" and length > 0) and has("path") and has("change")'
  # shellcheck disable=SC2016  # jq's variables
  assert_events 'the key of a miss is not that of its step' '. as $all
    | ($all | map(select(.kind == "step_queued") | {(.step_id): .key}) | add) as $keys
    | $all | map(select(.kind == "step_cache_miss")) | length == 5
      and all(.[]; .key == $keys[.step_id])'
}

test_step_cache_miss_names_the_changed_path() {
  five_steps
  run_ok
  write read.txt two
  run_ok
  assert_events 'the miss of first has no path and change' \
    'any(.[]; .kind == "step_cache_miss" and .key == "first"
              and (.path | type == "string" and endswith("read.txt"))
              and (.change | type == "string" and length > 0))'
}

test_step_cache_hit_fields() {
  five_steps
  run_ok
  run_ok
  assert_all step_cache_hit '(.step_id | type == "string") and has("tag")'
  assert_events 'step_cache_hit.key is not the key of the step' \
    'map(select(.kind == "step_cache_hit") | .key) | sort
     == ["beside", "first", "last", "second", "third"]'
}

test_no_step_is_both_hit_and_miss() {
  five_steps
  run_ok
  write read.txt two
  run_ok
  assert_events 'a step is both, or neither' \
    'map(select(.kind == "step_cache_hit" or .kind == "step_cache_miss") | .step_id)
     | length == 5 and (unique | length) == 5'
}

test_log_is_replayed_on_a_hit() {
  five_steps
  run_ok
  local first
  first=$(step_events first | jq -c 'select(.kind == "step_log") | {stream, line}' | sort)
  [[ -n $first ]] || fail 'nothing logged'
  run_ok
  assert_hit first
  [[ $(step_events first | jq -c 'select(.kind == "step_log") | {stream, line}' | sort) == \
    "$first" ]] || fail "the hit replayed: $(step_events first)"
}

test_step_skipped_fields_and_no_start_or_end() {
  failing_chain
  run_rc 1
  assert_all step_skipped '(.step_id | type == "string") and .key == "child"
    and (.reason | type == "string" and length > 0) and (.cause | type == "string")'
  [[ $(step_kinds child) == ' step_queued step_skipped ' ]] || fail "child: $(step_kinds child)"
}

test_step_end_of_a_failed_step() {
  failing_chain
  run_rc 1
  assert_all step_end '.exit_code == 3 and .snapshot == null'
  [[ $(logged bad) == before ]] || fail "bad logged '$(logged bad)'"
}

test_chain_failed_fields() {
  failing_chain
  run_rc 1
  local id
  id=$(step_events bad | jq -r -n 'first(inputs.step_id)')
  assert_all chain_failed "(.chain_idx | type == \"number\") and .failed_step_id == \"$id\"
    and .failed_step_key == \"bad\" and .exit_code == 3
    and (.message | type == \"string\" and length > 0) and (.ts | type == \"string\")"
}

test_build_end_fields() {
  five_steps
  run_ok
  assert_all build_end '.exit_code == 0 and (.duration_ms | type == "number" and . >= 0)'
}

test_build_end_of_a_failed_build_says_1() {
  failing_chain
  run_rc 1
  assert_all build_end '.exit_code == 1'
}

test_reader_that_goes_away_does_not_stop_the_run() {
  five_steps
  ("$HM" run ci --format json -d "$W" 2>"$T/stderr"; echo $? >"$T/rc") | head -n 1 >"$T/first"
  wait_until 60 test -s "$T/rc" || fail 'hm did not end'
  [[ $(cat "$T/rc") == 0 ]] || fail "hm exited $(cat "$T/rc"): $(cat "$T/stderr")"
  jq -e -n 'input | .kind == "build_start"' "$T/first" >/dev/null || fail "$(cat "$T/first")"
  run_ok
  assert_hit first second third beside last
}

test_reader_that_goes_away_under_much_output_does_not_stop_the_run() {
  one_step 'seq 1 50000; echo done > made'
  ("$HM" run ci --format json -d "$W" 2>"$T/stderr"; echo $? >"$T/rc") | head -n 1 >/dev/null
  wait_until 60 test -s "$T/rc" || fail 'hm did not end'
  [[ $(cat "$T/rc") == 0 ]] || fail "hm exited $(cat "$T/rc"): $(cat "$T/stderr")"
  run_ok
  assert_hit s
}

test_closed_stdout_does_not_fail_the_build() {
  five_steps
  local rc=0
  "$HM" run ci --format json -d "$W" >&- 2>"$T/stderr" || rc=$?
  [[ $rc == 0 ]] || fail "hm exited $rc: $(cat "$T/stderr")"
  run_ok
  assert_hit first second third beside last
}

test_slow_reader_loses_nothing() {
  one_step 'seq 1 20000'
  OUT=$T/slow.jsonl
  "$HM" run ci --format json -d "$W" | (
    sleep 3
    while IFS= read -r -N 65536 chunk || [[ -n $chunk ]]; do
      printf %s "$chunk"
      sleep 0.02
    done
  ) >"$OUT"
  logged s | cmp - <(seq 1 20000) || fail "$(logged s | wc -l) of 20000 lines came"
  assert_events_whole
}

test_slow_reader_of_a_replay_loses_nothing() {
  one_step 'seq 1 20000'
  run_ok
  OUT=$T/slow.jsonl
  "$HM" run ci --format json -d "$W" | (sleep 3; cat) >"$OUT"
  assert_hit s
  logged s | cmp - <(seq 1 20000) || fail "$(logged s | wc -l) of 20000 lines came"
}

test_events_come_while_the_step_runs() {
  one_step 'echo early; sleep 30'
  "$HM" run ci --format json -d "$W" >"$T/events" 2>/dev/null &
  local pid=$!
  wait_until 15 grep -q '"early"' "$T/events" || fail 'the line did not come while the step ran'
  kill -TERM "$pid"
  wait "$pid" || true
}

test_log_order_within_a_stream_is_kept() {
  # shellcheck disable=SC2016  # for the step's shell
  one_step 'for i in $(seq 1 500); do echo out-$i; echo err-$i >&2; done'
  run_ok
  local stream
  for stream in out err; do
    step_events s | jq -r --arg s "std$stream" 'select(.kind == "step_log" and .stream == $s) | .line' |
      cmp - <(seq -f "$stream-%.0f" 1 500) || fail "std$stream is out of order"
  done
}

test_stdout_and_stderr_are_told_apart() {
  one_step 'echo to-out; echo to-err >&2'
  run_ok
  assert_events 'the streams are mixed up' \
    'map(select(.kind == "step_log") | "\(.stream) \(.line)") | sort
     == ["stderr to-err", "stdout to-out"]'
}

test_stdout_and_stderr_are_told_apart_on_a_hit() {
  one_step 'echo to-out; echo to-err >&2'
  run_ok
  run_ok
  assert_hit s
  assert_events 'the streams are mixed up' \
    'map(select(.kind == "step_log") | "\(.stream) \(.line)") | sort
     == ["stderr to-err", "stdout to-out"]'
}

# Bytes that are no UTF-8: a lone continuation byte, a cut sequence, a surrogate, an overlong slash.
test_output_that_is_no_utf8_is_valid_json() {
  one_step "printf 'a\\200b\\n\\342\\202\\n\\355\\240\\200\\n\\300\\257\\nlast\\n'"
  run_ok
  python3 -c '
import json, sys
lines = [json.loads(line.decode("utf-8", "strict")) for line in open(sys.argv[1], "rb")]
logs = [event["line"] for event in lines if event["kind"] == "step_log"]
assert len(logs) == 5, logs
assert logs[0][0] == "a" and logs[0][-1] == "b" and logs[4] == "last", logs
json.dumps(logs).encode("ascii")
for log in logs: log.encode("utf-8", "strict")
' "$OUT" || fail 'the events are no valid JSON in UTF-8'
}

test_control_characters_and_quotes_survive() {
  one_step "printf 'tab\\there \\033[31mred \\001 \"quoted\" back\\\\slash\\n'"
  run_ok
  [[ $(logged s) == $'tab\there \033[31mred \001 "quoted" back\\slash' ]] ||
    fail "it logged $(logged s | od -c | head)"
}

test_unicode_survives() {
  one_step 'echo "grün 日本 🚀"'
  run_ok
  [[ $(logged s) == 'grün 日本 🚀' ]] || fail "it logged $(logged s)"
}

test_last_line_without_newline_is_there() {
  one_step 'echo one; printf two'
  run_ok
  [[ $(logged s) == $'one\ntwo' ]] || fail "it logged '$(logged s)'"
  run_ok
  assert_hit s
  [[ $(logged s) == $'one\ntwo' ]] || fail "the hit logged '$(logged s)'"
}

test_empty_lines_are_events() {
  one_step 'echo one; echo; echo; echo four'
  run_ok
  assert_events 'not four lines' 'map(select(.kind == "step_log") | .line) == ["one", "", "", "four"]'
}

test_silent_step_logs_nothing() {
  one_step 'true'
  run_ok
  assert_events 'there is a log' 'all(.[]; .kind != "step_log")'
}

test_very_long_line_is_whole() {
  one_step 'head -c 1000000 /dev/zero | tr "\0" x; echo'
  run_ok
  [[ $(logged s | tr -d '\n' | wc -c) == 1000000 ]] || fail "$(logged s | wc -c) bytes came"
}

run_tests "$@"
