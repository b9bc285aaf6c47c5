#!/usr/bin/env bash
# Every command and every flag of hm, one behaviour a case.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# hm ARG… in the workspace; sets RC, OUT and ERR.
hm() {
  RUNS=$((RUNS + 1))
  OUT=$T/run$RUNS.stdout
  ERR=$T/run$RUNS.stderr
  RC=0
  (cd "$W/${SUBDIR:-.}" && exec "$HM" "$@") >"$OUT" 2>"$ERR" </dev/null || RC=$?
}

# hm_rc CODE ARG…
hm_rc() {
  local expected=$1
  shift
  hm "$@"
  [[ $RC == "$expected" ]] || fail "hm $* exited $RC, expected $expected; $(head -c 600 "$ERR")"
}

# hm_fails ARG…: any failure that is said on stderr and is no crash.
hm_fails() {
  hm "$@"
  [[ $RC != 0 && $RC -lt 126 ]] || fail "hm $* exited $RC"
  [[ -s $ERR ]] || fail "hm $* failed without a word"
}

assert_out() {
  local want got
  want=$(printf '%s\n' "$@")
  got=$(cat "$OUT")
  [[ $got == "$want" ]] || fail "stdout is '$got', expected '$want'"
}

# assert_says REGEX: on stdout or stderr.
assert_says() {
  cat "$OUT" "$ERR" | grep -qE -- "$1" ||
    fail "nothing like '$1' in: $(cat "$OUT" "$ERR" | head -c 1500)"
}

# assert_err REGEX: on stderr.
assert_err() {
  grep -qE -- "$1" "$ERR" || fail "nothing like '$1' on stderr: $(head -c 1500 "$ERR")"
}

# copy_program NAME: the host's program and its libraries, into the root $T/image.
copy_program() {
  local path library
  path=$(realpath "$(command -v "$1")")
  mkdir -p "$T/image/bin"
  cp "$path" "$T/image/bin/$1"
  for library in $(ldd "$path" | grep -o '/[^ ]*'); do
    mkdir -p "$T/image$(dirname "$library")"
    cp -L "$library" "$T/image$library"
  done
}

# KEY has not been executed, skipped or not mentioned at all.
assert_not_run() {
  local key
  for key in "$@"; do
    [[ $(step_kinds "$key") != *" step_start "* ]] || fail "$key ran: $(step_kinds "$key")"
  done
}

# A chain of two, one step beside it.
three_steps() {
  write a.txt one
  write c.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat a.txt > from-a"
[[step]]
key  = "b"
from = "a"
run  = "cat from-a"
[[step]]
key = "c"
run = "cat c.txt"
TOML
}

one_step_ir() {
  jq -n --arg cmd "$1" '{version: "0", graph: {nodes: [{step: {key: "s", cmd: $cmd}, env: {}}],
                         edge_property: "directed", edges: []}}'
}

one_step_toml() {
  printf '[[step]]\nkey = "s"\nrun = %s\n' "$(printf %s "$1" | quoted)"
}

# --- hm run: which pipeline ------------------------------------------------------------------

test_run_with_a_name_reads_only_that_pipeline() {
  one_step_toml 'echo good' >"$W/.hm/good.toml"
  printf 'this is [[ no toml\n' >"$W/.hm/broken.toml"
  hm_rc 0 run good --format json
  [[ $(logged s) == good ]] || fail "it logged '$(logged s)'"
}

test_run_without_a_name_takes_the_only_pipeline() {
  one_step_toml 'echo only' >"$W/.hm/whatever.toml"
  hm_rc 0 run --format json
  [[ $(logged s) == only ]] || fail "it logged '$(logged s)'"
}

test_run_without_a_name_and_several_pipelines_lists_them() {
  one_step_toml 'echo ran' >"$W/.hm/first.toml"
  one_step_ir 'echo ran' >"$W/.hm/second.json"
  hm_rc 2 run
  assert_err first
  assert_err second
}

test_run_without_any_pipeline_exits_2() {
  hm_rc 2 run
  [[ -s $ERR ]] || fail 'no message'
}

test_run_of_an_unknown_pipeline_exits_2() {
  one_step_toml 'echo ran' >"$W/.hm/known.toml"
  hm_rc 2 run unknown
  assert_err unknown
}

test_run_of_a_name_with_two_documents_exits_7() {
  one_step_toml 'echo ran' >"$W/.hm/x.toml"
  one_step_ir 'echo ran' >"$W/.hm/x.json"
  hm_rc 7 run x
  assert_err 'x\.json'
  assert_err 'x\.toml'
}

test_python_pipeline_is_pointed_to_hm_render() {
  printf 'import harmont\n' >"$W/.hm/ci.py"
  hm_rc 2 run ci
  [[ $(wc -l <"$ERR") == 1 ]] || fail "not one line: $(cat "$ERR")"
  grep -q 'hm render' "$ERR" || fail "no hm render in: $(cat "$ERR")"
}

test_file_takes_a_json_document() {
  one_step_ir 'echo from-file' >"$T/doc.json"
  hm_rc 0 run --file "$T/doc.json" --format json
  [[ $(logged s) == from-file ]] || fail "it logged '$(logged s)'"
}

test_file_takes_a_toml_document() {
  one_step_toml 'echo from-file' >"$T/doc.toml"
  hm_rc 0 run --file "$T/doc.toml" --format json
  [[ $(logged s) == from-file ]] || fail "it logged '$(logged s)'"
}

test_file_dash_reads_json_from_stdin() {
  OUT=$T/events
  one_step_ir 'echo from-stdin' | (cd "$W" && "$HM" run --file - --format json) >"$OUT"
  [[ $(logged s) == from-stdin ]] || fail "it logged '$(logged s)'"
}

test_file_that_is_not_there_is_an_error() {
  hm_fails run --file "$T/no-such-document.json"
  assert_err no-such-document
}

test_dir_is_the_root_from_anywhere() {
  write f.txt here
  one_step_toml 'cat f.txt' >"$W/.hm/ci.toml"
  (cd / && "$HM" run ci --format json -d "$W") >"$T/events"
  [[ $(logged s "$T/events") == here ]] || fail 'the step did not see the workspace'
}

test_run_walks_up_to_the_project_root() {
  write f.txt here
  one_step_toml 'pwd; cat f.txt' >"$W/.hm/ci.toml"
  mkdir -p "$W/sub/deep"
  SUBDIR=sub/deep
  hm_rc 0 run ci --format json
  [[ $(logged s) == $'/workspace\nhere' ]] || fail "it logged '$(logged s)'"
}

# --- hm run: what the steps get --------------------------------------------------------------

test_image_gives_the_steps_their_root() {
  copy_program sh
  copy_program cat
  echo 'in the image' >"$T/image/mark"
  one_step_toml 'cat /mark' >"$W/.hm/ci.toml"
  run_ok --image "$T/image"
  assert_log s 'in the image'
}

test_env_reaches_the_steps() {
  # shellcheck disable=SC2016  # for the step's shell
  one_step_toml 'echo "$ONE/$TWO"' >"$W/.hm/ci.toml"
  run_ok -e ONE=1 -e 'TWO=a b=c'
  assert_log s '1/a b=c'
}

test_env_without_a_value_is_refused() {
  one_step_toml true >"$W/.hm/ci.toml"
  hm_rc 2 run ci -e NOVALUE
  assert_err NOVALUE
}

# --- hm run: which steps ---------------------------------------------------------------------

test_step_runs_it_and_its_ancestors_only() {
  three_steps
  run_ok --step b
  assert_ran a b
  assert_not_run c
}

test_step_twice_runs_both() {
  three_steps
  run_ok --step a --step c
  assert_ran a c
  assert_not_run b
}

test_step_unknown_exits_2() {
  three_steps
  hm_rc 2 run ci --step nowhere
  assert_err nowhere
}

test_rerun_runs_only_that_step_again() {
  three_steps
  first_run_then_hits a b c
  run_ok --rerun c
  assert_ran c
  assert_hit a b
}

test_rerun_unknown_exits_2() {
  three_steps
  hm_rc 2 run ci --rerun nowhere
  assert_err nowhere
}

test_dry_run_executes_nothing() {
  one_step_toml 'sleep 60' >"$W/.hm/ci.toml"
  hm_rc 0 run ci --dry-run
  ((SECONDS < 40)) || fail 'it executed the step'
  assert_says '\bs\b'
}

test_dry_run_records_nothing() {
  three_steps
  hm_rc 0 run ci --dry-run
  run_ok
  assert_ran a b c
}

test_dry_run_says_what_would_run_and_why() {
  three_steps
  first_run_then_hits a b c
  write c.txt two
  hm_rc 0 run ci --dry-run
  cat "$OUT" "$ERR" | grep -E '\bc\b' | grep -q 'c\.txt' || fail \
    "no line says that c would run for c.txt: $(cat "$OUT" "$ERR")"
  run_ok
  assert_hit a b
  assert_ran c
}

test_no_cache_executes_every_step() {
  three_steps
  first_run_then_hits a b c
  run_ok --no-cache
  assert_ran a b c
}

# --- hm run: how -----------------------------------------------------------------------------

two_independent_steps() {
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "sleep 3; echo a"
[[step]]
key = "b"
run = "sleep 3; echo b"
TOML
}

# The kinds of all starts and ends, in order.
starts_and_ends() {
  jq -r -n '[inputs.kind | select(. == "step_start" or . == "step_end")] | join(" ")' "$OUT"
}

test_parallelism_1_runs_one_step_at_a_time() {
  two_independent_steps
  run_ok --parallelism 1
  [[ $(starts_and_ends) == 'step_start step_end step_start step_end' ]] || fail "$(starts_and_ends)"
}

test_parallelism_2_runs_two_steps_at_a_time() {
  two_independent_steps
  run_ok --parallelism 2
  [[ $(starts_and_ends) == 'step_start step_start step_end step_end' ]] || fail "$(starts_and_ends)"
}

test_parallelism_that_is_no_number_exits_2() {
  two_independent_steps
  hm_rc 2 run ci --parallelism many
}

failing_beside_a_chain() {
  pipeline_toml <<'TOML'
[[step]]
key = "bad"
run = "exit 3"
[[step]]
key = "slow"
run = "sleep 2"
[[step]]
key  = "slow-child"
from = "slow"
run  = "echo reached"
[[step]]
key  = "bad-child"
from = "bad"
run  = "true"
TOML
}

test_failing_step_stops_the_build() {
  failing_beside_a_chain
  run_rc 1 --parallelism 2
  assert_not_run slow-child bad-child
}

test_keep_going_runs_what_does_not_depend_on_the_failure() {
  failing_beside_a_chain
  run_rc 1 --parallelism 2 -k
  assert_ran slow slow-child
  assert_not_run bad-child
}

test_keep_going_has_a_long_name() {
  failing_beside_a_chain
  run_rc 1 --parallelism 2 --keep-going
  assert_ran slow-child
}

test_logs_prefixes_lines_with_the_key_on_stderr() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  hm_rc 0 run ci --logs
  grep -qxF '[s] hello' "$ERR" || fail "no '[s] hello' in: $(cat "$ERR")"
}

test_human_format_leaves_stdout_empty() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  hm_rc 0 run ci --format human
  [[ ! -s $OUT ]] || fail "stdout: $(cat "$OUT")"
  [[ -s $ERR ]] || fail 'nothing on stderr'
}

test_human_format_is_the_default() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  hm_rc 0 run ci
  [[ ! -s $OUT && -s $ERR ]] || fail "stdout: $(cat "$OUT")"
}

test_human_output_says_why_a_step_ran() {
  three_steps
  run_ok
  write c.txt two
  hm_rc 0 run ci
  grep -E '\bc\b' "$ERR" | grep -q 'c\.txt' || fail "no line about c and c.txt: $(cat "$ERR")"
}

test_json_format_prints_only_objects() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  hm_rc 0 run ci --format json
  jq -e -n '[inputs] | length > 3 and all(.[]; type == "object")' "$OUT" >/dev/null ||
    fail "stdout: $(cat "$OUT")"
}

test_unknown_format_exits_2() {
  one_step_toml true >"$W/.hm/ci.toml"
  hm_rc 2 run ci --format yaml
}

test_backend_namespace_is_accepted() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  run_ok --backend namespace
  assert_ran s
}

test_unknown_backend_exits_2() {
  one_step_toml true >"$W/.hm/ci.toml"
  hm_rc 2 run ci --backend docker
  assert_err docker
}

test_harmonts_flags_are_accepted_with_one_note() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  run_ok
  hm_rc 0 run ci
  local plain
  plain=$(wc -l <"$ERR")
  hm_rc 0 run ci -b main -m 'a message' --no-watch --org acme
  (($(wc -l <"$ERR") == plain + 1)) || fail "not one line more than $plain: $(cat "$ERR")"
}

test_harmonts_long_flags_are_accepted() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  run_ok --branch main --message 'a message'
  assert_ran s
}

test_harmonts_flags_do_not_change_a_key() {
  one_step_toml 'echo hello' >"$W/.hm/ci.toml"
  run_ok
  run_ok -b main -m message --no-watch --org acme
  assert_hit s
}

test_unknown_flag_exits_2() {
  one_step_toml true >"$W/.hm/ci.toml"
  hm_rc 2 run ci --no-such-flag
  assert_err no-such-flag
}

test_unknown_command_exits_2() {
  hm_rc 2 no-such-command
  assert_err no-such-command
}

test_no_arguments_is_help() {
  hm
  [[ $RC == 0 || $RC == 2 ]] || fail "hm exited $RC"
  assert_says '\brun\b'
  assert_says '\bexec\b'
}

# --- hm exec ---------------------------------------------------------------------------------

# exec_ok ARG…: hm exec ARG…
exec_ok() {
  hm_rc 0 exec "$@"
}

test_exec_passes_its_arguments_verbatim() {
  # shellcheck disable=SC2016  # no expansion is the point
  local words=('a b' "it's" '"q"' '$HOME' '' '*' 'back\slash' $'two\nlines' '--')
  exec_ok -- printf '<%s>\n' "${words[@]}"
  [[ $(cat "$OUT") == "$(printf '<%s>\n' "${words[@]}")" ]] || fail "stdout: $(cat "$OUT")"
}

test_exec_prints_the_same_again_without_executing() {
  exec_ok -- date +%N
  local first
  first=$(cat "$OUT")
  [[ $first =~ ^[0-9]+$ ]] || fail "stdout: $first"
  exec_ok -- date +%N
  assert_out "$first"
}

test_exec_executes_again_when_what_it_read_changed() {
  write f.txt one
  exec_ok -- sh -c 'cat f.txt; date +%N'
  local first
  first=$(tail -n 1 "$OUT")
  write f.txt two
  exec_ok -- sh -c 'cat f.txt; date +%N'
  [[ $(head -n 1 "$OUT") == two && $(tail -n 1 "$OUT") != "$first" ]] || fail "$(cat "$OUT")"
}

test_exec_does_not_execute_for_what_it_did_not_read() {
  write f.txt one
  write README.md one
  exec_ok -- sh -c 'cat f.txt; date +%N'
  local first
  first=$(cat "$OUT")
  [[ $first == one* ]] || fail "stdout: $first"
  write README.md two
  exec_ok -- sh -c 'cat f.txt; date +%N'
  [[ $(cat "$OUT") == "$first" ]] || fail "$(cat "$OUT")"
}

test_exec_arguments_are_not_joined_for_the_cache() {
  exec_ok -- printf '%s,' 'a b' c
  exec_ok -- printf '%s,' a 'b c'
  [[ $(cat "$OUT") == 'a,b c,' ]] || fail "stdout: $(cat "$OUT")"
}

test_exec_passes_an_exit_code_through() {
  hm_rc 7 exec -- sh -c 'exit 7'
}

test_exec_does_not_cache_a_failure() {
  hm_rc 7 exec -- sh -c 'date +%N; exit 7'
  local first
  first=$(cat "$OUT")
  hm_rc 7 exec -- sh -c 'date +%N; exit 7'
  [[ $(cat "$OUT") != "$first" ]] || fail 'the failure was replayed'
}

test_exec_of_a_missing_command_exits_127() {
  hm_rc 127 exec -- no-such-command-anywhere
}

test_exec_of_a_killed_command_exits_128_and_more() {
  hm_rc 137 exec -- sh -c 'kill -KILL $$; sleep 5'
}

test_exec_own_failure_exits_125() {
  hm_rc 125 exec -d "$T/nowhere" -- true
  [[ -s $ERR ]] || fail 'no message'
}

test_exec_unwritable_store_exits_125() {
  : >"$T/file"
  HM_HOME=$T/file/store hm_rc 125 exec -- true
  [[ -s $ERR ]] || fail 'no message'
}

test_exec_without_a_command_is_an_error() {
  hm exec --
  [[ $RC == 125 || $RC == 2 ]] || fail "hm exec -- exited $RC"
}

test_exec_keeps_stdout_and_stderr_apart() {
  exec_ok -- sh -c 'echo to-out; echo to-err >&2'
  assert_out to-out
  grep -qx to-err "$ERR" || fail "stderr: $(cat "$ERR")"
}

test_exec_keeps_stdout_and_stderr_apart_on_a_hit() {
  exec_ok -- sh -c 'echo to-out; echo to-err >&2'
  exec_ok -- sh -c 'echo to-out; echo to-err >&2'
  assert_out to-out
  grep -qx to-err "$ERR" || fail "stderr: $(cat "$ERR")"
}

test_exec_output_without_a_newline_stays_so() {
  exec_ok -- printf no-newline
  [[ $(wc -c <"$OUT") == 10 ]] || fail "stdout has $(wc -c <"$OUT") bytes"
  exec_ok -- printf no-newline
  [[ $(wc -c <"$OUT") == 10 ]] || fail "on the hit stdout has $(wc -c <"$OUT") bytes"
}

test_exec_output_of_any_bytes_is_replayed_as_it_was() {
  exec_ok -- printf 'a\000b\377\n'
  local first
  first=$(sha256sum <"$OUT")
  [[ $first == "$(printf 'a\000b\377\n' | sha256sum)" ]] || fail 'the bytes were changed'
  exec_ok -- printf 'a\000b\377\n'
  [[ $first == "$(sha256sum <"$OUT")" ]] || fail 'the bytes were changed on the hit'
}

test_exec_runs_in_the_callers_subdirectory() {
  write sub/f.txt here
  SUBDIR=sub
  exec_ok -- sh -c 'pwd; cat f.txt'
  assert_out /workspace/sub here
}

test_exec_subdirectory_is_part_of_the_key() {
  mkdir "$W/one" "$W/two"
  SUBDIR=one
  exec_ok -- pwd
  SUBDIR=two
  exec_ok -- pwd
  assert_out /workspace/two
}

test_exec_without_hm_directory_takes_the_directory_as_root() {
  rmdir "$W/.hm"
  write f.txt here
  exec_ok -- sh -c 'pwd; cat f.txt'
  assert_out /workspace here
}

test_exec_dir_without_hm_is_the_root() {
  mkdir "$T/plain"
  echo here >"$T/plain/f.txt"
  exec_ok -d "$T/plain" -- cat /workspace/f.txt
  assert_out here
}

test_exec_env_reaches_the_command() {
  exec_ok -e 'GREETING=hello there' -- printenv GREETING
  assert_out 'hello there'
  exec_ok -e 'GREETING=goodbye' -- printenv GREETING
  assert_out goodbye
}

test_exec_writes_stay_inside() {
  write f.txt one
  exec_ok -- sh -c 'echo two > f.txt; echo made > made.txt; cat f.txt'
  assert_out two
  [[ $(cat "$W/f.txt") == one && ! -e $W/made.txt ]] || fail 'the workspace was written'
}

test_exec_output_comes_back() {
  write f.txt one
  exec_ok -o made.txt -- sh -c 'cat f.txt > made.txt'
  [[ $(cat "$W/made.txt") == one ]] || fail 'made.txt did not come back'
}

test_exec_output_comes_back_on_a_hit() {
  exec_ok -o made.txt -- sh -c 'date +%N > made.txt'
  local first
  first=$(cat "$W/made.txt")
  rm "$W/made.txt"
  exec_ok -o made.txt -- sh -c 'date +%N > made.txt'
  [[ $(cat "$W/made.txt") == "$first" ]] || fail 'made.txt is another one'
}

test_exec_output_comes_back_into_the_callers_directory() {
  mkdir "$W/sub"
  SUBDIR=sub
  exec_ok -o out -- sh -c 'mkdir -p out/deep; echo made > out/deep/f'
  [[ $(cat "$W/sub/out/deep/f") == made ]] || fail 'sub/out/deep/f did not come back'
}

test_exec_output_that_was_not_made_is_an_error() {
  hm_rc 125 exec -o made.txt -- true
  assert_err 'made\.txt'
}

# --- of the last run -------------------------------------------------------------------------

test_why_names_the_step_and_the_changed_path() {
  three_steps
  run_ok
  write c.txt two
  run_ok
  hm_rc 0 why c
  assert_says 'c\.txt'
}

test_why_without_a_step_speaks_of_all_steps() {
  three_steps
  run_ok
  write c.txt two
  run_ok
  hm_rc 0 why
  local key
  for key in a b c; do assert_says "\\b$key\\b"; done
  assert_says 'c\.txt'
}

test_why_of_an_unknown_step_is_an_error() {
  three_steps
  run_ok
  hm_fails why nowhere
}

test_why_before_any_run_is_an_error() {
  three_steps
  hm_fails why
}

test_trace_prints_kind_path_and_value() {
  three_steps
  run_ok
  hm_rc 0 trace c
  grep -qE '^content[[:space:]]+[^[:space:]]*c\.txt[[:space:]]+[^[:space:]]' "$OUT" ||
    fail "no content of c.txt: $(cat "$OUT")"
  ! grep -vE '^(probe|content|list|order)[[:space:]]+[^[:space:]]' "$OUT" ||
    fail 'there are lines without a kind'
}

test_trace_of_a_hit_is_that_of_its_execution() {
  three_steps
  run_ok
  hm_rc 0 trace c
  cp "$OUT" "$T/executed"
  run_ok
  assert_hit c
  hm_rc 0 trace c
  cmp "$OUT" "$T/executed" || fail 'the traces differ'
}

test_trace_of_an_unknown_step_is_an_error() {
  three_steps
  run_ok
  hm_fails trace nowhere
}

test_log_prints_what_the_step_printed() {
  one_step_toml 'echo one; echo two >&2; sleep 0.2; printf three' >"$W/.hm/ci.toml"
  run_ok
  hm_rc 0 log s
  local line
  for line in one two three; do assert_says "^$line\$"; done
}

test_log_of_a_failed_step_is_there() {
  one_step_toml 'echo before; exit 3' >"$W/.hm/ci.toml"
  run_rc 1
  hm_rc 0 log s
  assert_says '^before$'
}

test_log_of_an_unknown_step_is_an_error() {
  three_steps
  run_ok
  hm_fails log nowhere
}

test_export_of_a_file() {
  three_steps
  run_ok
  hm_rc 0 export a from-a "$T/dest"
  [[ -f $T/dest && $(cat "$T/dest") == one ]] || fail 'the file is not there'
}

test_export_of_an_absolute_path() {
  one_step_toml 'echo made > /opt/made' >"$W/.hm/ci.toml"
  run_ok
  hm_rc 0 export s /opt/made "$T/dest"
  [[ $(cat "$T/dest") == made ]] || fail 'the file is not there'
}

test_export_of_a_directory() {
  one_step_toml 'mkdir -p out/deep; echo made > out/deep/f; ln -s deep out/link; chmod 755 out/deep/f' \
    >"$W/.hm/ci.toml"
  run_ok
  hm_rc 0 export s out "$T/dest"
  [[ $(cat "$T/dest/deep/f") == made && $(readlink "$T/dest/link") == deep ]] ||
    fail "$(find "$T/dest")"
  [[ -x $T/dest/deep/f ]] || fail 'the x bit is lost'
}

test_export_from_a_hit() {
  three_steps
  first_run_then_hits a b c
  hm_rc 0 export b from-a "$T/dest"
  [[ $(cat "$T/dest") == one ]] || fail 'the file is not there'
}

test_export_onto_something_is_refused() {
  three_steps
  run_ok
  echo precious >"$T/dest"
  hm_fails export a from-a "$T/dest"
  [[ $(cat "$T/dest") == precious ]] || fail 'DEST was overwritten'
}

test_export_into_an_existing_directory_is_refused() {
  three_steps
  run_ok
  mkdir "$T/dest"
  hm_fails export a from-a "$T/dest"
  [[ -z $(ls -A "$T/dest") ]] || fail 'something was put into DEST'
}

test_export_of_a_missing_path_is_an_error() {
  three_steps
  run_ok
  hm_fails export a not-made "$T/dest"
  assert_err not-made
  [[ ! -e $T/dest ]] || fail 'DEST was made'
}

test_export_of_an_unknown_step_is_an_error() {
  three_steps
  run_ok
  hm_fails export nowhere from-a "$T/dest"
}

# --- render, pipelines, cache, version -------------------------------------------------------

test_render_prints_ir() {
  three_steps
  hm_rc 0 render ci
  jq -e -n 'input | [.graph.nodes[].step.key] == ["a", "b", "c"]
         and (.graph.edges | map(select(. == [0, 1, "builds_in"])) | length == 1)' "$OUT" \
    >/dev/null || fail "$(cat "$OUT")"
}

test_render_round_trips_to_hits() {
  three_steps
  cat >>"$W/.hm/ci.toml" <<'TOML'
[[step]]
key     = "d"
after   = ["c"]
run     = "pwd; echo $MODE"
cwd     = "sub"
env     = { MODE = "unit" }
cache   = { ttl = "1d" }
timeout = "1m"
network = "none"
TOML
  write sub/keep x
  run_ok
  assert_ran a b c d
  local before
  before=$(for key in a b c d; do logged "$key"; done)
  OUT=$T/rendered-run
  (cd "$W" && "$HM" render ci | "$HM" run --file - --format json) >"$OUT"
  assert_hit a b c d
  [[ $before == "$(for key in a b c d; do logged "$key"; done)" ]] || fail 'the logs differ'
}

# key and parent of each queued step.
queued() {
  jq -c -n '[inputs | select(.kind == "step_queued") | {key, parent_key}] | sort_by(.key)' "$1"
}

test_render_round_trips_the_graph() {
  three_steps
  run_ok
  (cd "$W" && "$HM" render ci | "$HM" run --file - --format json) >"$T/rendered-run"
  [[ $(queued "$OUT") == "$(queued "$T/rendered-run")" ]] || fail "$(queued "$T/rendered-run")"
}

test_render_of_ir_gives_the_same_steps() {
  one_step_ir 'echo one' >"$W/.hm/ci.json"
  run_ok
  (cd "$W" && "$HM" render ci | "$HM" run --file - --format json) >"$T/rendered-run"
  OUT=$T/rendered-run
  assert_hit s
}

test_render_of_an_unknown_pipeline_exits_2() {
  three_steps
  hm_rc 2 render nowhere
}

test_pipelines_lists_both_kinds_of_documents() {
  one_step_toml true >"$W/.hm/first.toml"
  one_step_ir true >"$W/.hm/second.json"
  hm_rc 0 pipelines
  jq -e -n 'input | .schema_version == "1" and ([.pipelines[].slug] | sort) == ["first", "second"]' "$OUT" \
    >/dev/null || fail "stdout: $(cat "$OUT")"
}

test_pipelines_without_any_is_no_error() {
  hm_rc 0 pipelines
}

test_cache_stats_grows_with_a_record() {
  hm_rc 0 cache stats
  cp "$OUT" "$T/before"
  one_step_toml 'echo made > made' >"$W/.hm/ci.toml"
  run_ok
  hm_rc 0 cache stats
  grep -q '[0-9]' "$OUT" || fail "no number: $(cat "$OUT")"
  ! cmp -s "$OUT" "$T/before" || fail "a run changed no number: $(cat "$OUT")"
}

test_cache_clear_forgets_everything() {
  three_steps
  first_run_then_hits a b c
  hm_rc 0 cache clear
  run_ok
  assert_ran a b c
}

test_cache_clear_gives_the_space_back() {
  one_step_toml 'head -c 20000000 /dev/urandom > big' >"$W/.hm/ci.toml"
  run_ok
  local before after
  before=$(du -sk "$HM_HOME" | cut -f1)
  ((before > 15000)) || fail "the store takes only $before KiB"
  hm_rc 0 cache clear
  after=$(du -sk "$HM_HOME" | cut -f1)
  ((after < 5000)) || fail "the store still takes $after KiB"
}

test_version_prints_a_number() {
  hm_rc 0 version
  grep -qE '^hm.*[0-9]+\.[0-9]+' "$OUT" || fail "stdout: $(cat "$OUT")"
}

run_tests "$@"
