#!/usr/bin/env bash
# What Harmont's cache and runner get wrong (COMPAT.md 4.2, flaws 1-16 and 19-21), shown right here.
# Flaws 17, 18 and 22 are about eviction and the cloud; they have no case yet.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

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

# A root of sh and two tools in $T/image.
build_image() {
  IMAGE=$T/image
  copy_program sh
  write_tool used one
  write_tool unused one
}

# write_tool NAME WORD: a script of the image that prints WORD, made anew.
write_tool() {
  rm -f "$IMAGE/bin/$1"
  printf '#!/bin/sh\necho %s\n' "$2" >"$IMAGE/bin/$1"
  chmod 755 "$IMAGE/bin/$1"
}

# Stdin becomes the pipeline, as IR.
pipeline_ir() {
  cat >"$W/.hm/$PIPELINE.json"
}

# Kilobytes on disk below DIR.
kilobytes() {
  du -sk "$1" | cut -f1
}

# 1. A cached step is judged by declared paths only.
test_flaw_01_a_read_file_the_author_did_not_declare_counts() {
  write CMakeLists.txt project
  write src/main.c 'int main;'
  pipeline_toml <<'TOML'
[[step]]
key   = "build"
run   = "cat CMakeLists.txt src/main.c > binary; cat binary"
cache = { on_change = ["CMakeLists.txt"] }
TOML
  first_run_then_hits build
  write src/main.c 'int main2;'
  run_ok
  assert_ran build
  assert_log build project 'int main2;'
}

# 2. on_change leaves the command out of the key.
test_flaw_02_on_change_with_another_command_runs() {
  write lock 1
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
run   = "echo first"
cache = { on_change = ["lock"] }
TOML
  first_run_then_hits s
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
run   = "echo second"
cache = { on_change = ["lock"] }
TOML
  run_ok
  assert_ran s
  assert_log s second
}

# 3. Neither the pipeline's nor the step's environment is in a key.
cflags_pipeline() {
  pipeline_toml <<TOML
[env]
CFLAGS = "$1"
[[step]]
key   = "s"
run   = "echo \$CFLAGS \$LDFLAGS"
env   = { LDFLAGS = "$2" }
cache = "forever"
TOML
}

test_flaw_03_environment_of_pipeline_and_step_counts() {
  cflags_pipeline -O0 -s
  first_run_then_hits s
  cflags_pipeline -O3 -s
  run_ok
  assert_ran s
  assert_log s '-O3 -s'
  cflags_pipeline -O3 -g
  run_ok
  assert_ran s
  assert_log s '-O3 -g'
}

# 4. A misspelt on_change path is skipped without a word.
test_flaw_04_missing_on_change_path_is_warned_of_and_observed() {
  write lock 1
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
run   = "echo ran"
cache = { on_change = ["lokc.txt"] }
TOML
  "$HM" run ci -d "$W" >"$T/human" 2>&1 || fail "the run exited $?"
  grep -q 'lokc\.txt' "$T/human" || fail "no warning names lokc.txt: $(cat "$T/human")"
  run_ok
  assert_hit s
  write lokc.txt 'now it is there'
  run_ok
  assert_ran s
  assert_reason s 'lokc\.txt'
}

# 5. Names are not hashed for globs.
test_flaw_05_rename_inside_an_on_change_glob_runs() {
  write src/a.rs same
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
run   = "echo ran"
cache = { on_change = ["src/**"] }
TOML
  first_run_then_hits s
  mv "$W/src/a.rs" "$W/src/b.rs"
  run_ok
  assert_ran s
}

# 6. A file deleted in the repository lives on below a cached parent.
test_flaw_06_deleted_file_is_gone_below_a_cached_parent() {
  write gone.txt here
  write stays.txt here
  pipeline_toml <<'TOML'
[[step]]
key   = "base"
run   = "cat stays.txt > made-by-base"
cache = "forever"
[[step]]
key  = "child"
from = "base"
run  = "ls"
TOML
  first_run_then_hits base child
  assert_log child gone.txt made-by-base stays.txt
  rm "$W/gone.txt"
  run_ok
  assert_hit base
  assert_ran child
  assert_log child made-by-base stays.txt
}

# 7. What a parent did to a tracked file is overwritten for its child.
test_flaw_07_child_sees_what_its_parent_did_to_a_tracked_file() {
  write f.c 'int  x ;'
  pipeline_toml <<'TOML'
[[step]]
key = "format"
run = "sed -i 's/int  x ;/int x;/' f.c"
[[step]]
key  = "child"
from = "format"
run  = "cat f.c"
TOML
  run_ok
  assert_log child 'int x;'
  run_ok
  assert_hit format child
  assert_log child 'int x;'
}

# 8. What a cached parent made in /workspace is thrown away.
test_flaw_08_node_modules_of_a_cached_parent_are_there() {
  write package.json '{}'
  write test.js one
  pipeline_toml <<'TOML'
[[step]]
key   = "deps"
run   = "mkdir node_modules; cat package.json > node_modules/dep.js"
cache = { on_change = ["package.json"] }
[[step]]
key  = "test"
from = "deps"
run  = "cat node_modules/dep.js test.js"
TOML
  first_run_then_hits deps test
  write test.js two
  run_ok
  assert_hit deps
  assert_ran test
  assert_log test '{}' two
}

# 9. Keys hold the image's name, not what is in it.
test_flaw_09_same_image_path_with_a_changed_tool_runs() {
  build_image
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key   = "s"
run   = "used"
cache = "forever"
TOML
  first_run_then_hits s
  write_tool unused two
  run_ok
  assert_hit s
  write_tool used two
  run_ok
  assert_ran s
  assert_reason s 'bin/used'
  assert_log s two
}

# 10. Keys are made from the tree of one moment, the archive from that of another …
test_flaw_10_file_edited_during_the_run_agrees_with_its_record() {
  write early.txt early
  write late.txt old
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat early.txt; sleep 3; cat late.txt"
TOML
  (sleep 1.5 && write late.txt new) &
  run_ok
  wait $!
  local first
  first=$(logged s | tail -n 1)
  run_ok
  [[ $(logged s | tail -n 1) == new ]] || fail "late.txt is new, the step says $(logged s)"
  if [[ $first == new ]]; then assert_hit s; else assert_ran s; fi
  write late.txt old
  run_ok
  [[ $(logged s | tail -n 1) == old ]] || fail "late.txt is old, the step says $(logged s)"
}

# … and a glob catches ignored files the archive leaves out.
test_flaw_10_on_change_glob_does_not_catch_ignored_files() {
  write .gitignore target/
  write src/lib.rs one
  write target/gen.rs one
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
run   = "echo ran"
cache = { on_change = ["**/*.rs"] }
TOML
  first_run_then_hits s
  write target/gen.rs two
  run_ok
  assert_hit s
  write src/lib.rs two
  run_ok
  assert_ran s
}

# 11. Leaves have no cache: a README re-runs every test.
test_flaw_11_readme_touched_leaves_are_hits() {
  write README.md one
  write main.c one
  pipeline_toml <<'TOML'
[[step]]
key = "base"
run = "echo tools > /opt/tools"
[[step]]
key  = "build"
from = "base"
run  = "cat main.c > binary"
[[step]]
key  = "test"
from = "build"
run  = "cat binary /opt/tools"
[[step]]
key  = "lint"
from = "base"
run  = "cat main.c"
TOML
  first_run_then_hits base build test lint
  write README.md 'two, and longer'
  run_ok
  assert_hit base build test lint
  write main.c two
  run_ok
  assert_ran build test lint
}

# 12. ttl is a fixed bucket: a record made just before its end is dead just after.
test_flaw_12_ttl_counts_from_the_making_of_the_record() {
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
run   = "date +%N"
cache = { ttl = "8s" }
TOML
  while (($(date +%s) % 8 != 6)); do sleep 0.1; done
  local started=$SECONDS
  run_ok
  assert_ran s
  while (($(date +%s) % 8 > 5)); do sleep 0.1; done
  run_ok
  ((SECONDS - started < 7)) || skip 'this machine is too slow for a ttl of 8 s'
  assert_hit s
  sleep 9
  run_ok
  assert_ran s
}

# 13. A step's place in the list is in its key.
test_flaw_13_step_with_another_name_and_place_is_a_hit() {
  write f.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "step-1"
run = "cat f.txt > copy"
[[step]]
key  = "step-2"
from = "step-1"
run  = "cat copy"
TOML
  first_run_then_hits step-1 step-2
  pipeline_toml <<'TOML'
[[step]]
key = "step-1"
run = "echo unrelated"
[[step]]
key = "step-2"
run = "cat f.txt > copy"
[[step]]
key  = "step-3"
from = "step-2"
run  = "cat copy"
TOML
  run_ok
  assert_ran step-1
  assert_hit step-2 step-3
}

# 14. One uncached step ends caching below it.
test_flaw_14_cached_child_of_an_uncached_parent_is_a_hit() {
  write src.txt one
  pipeline_toml <<'TOML'
[[step]]
key   = "uncached"
run   = "cat src.txt > made"
cache = "none"
[[step]]
key   = "cached"
from  = "uncached"
run   = "cat made"
cache = "forever"
TOML
  run_ok
  run_ok
  assert_ran uncached
  assert_hit cached
  write src.txt two
  run_ok
  assert_ran uncached cached
}

# 15. The whole tree is packed and copied for every executing step.
test_flaw_15_unread_bytes_of_the_workspace_are_not_copied() {
  local free
  free=$(df -k --output=avail "$T" | tail -n 1)
  ((free > 2000000)) || skip "less than 2 GB free at $T"
  head -c 314572800 /dev/urandom >"$W/big.bin"
  pipeline_toml <<'TOML'
[[step]]
key = "one"
run = "ls -l big.bin > listing"
[[step]]
key  = "two"
from = "one"
run  = "cat listing; echo two > made"
TOML
  run_ok
  assert_ran one two
  assert_log_has two 314572800
  local used
  used=$(kilobytes "$HM_HOME")
  ((used < 30000)) || fail "the store takes $used KiB after two steps that read no file"
}

# 16. An upstream change re-runs all below even if its output is the same.
test_flaw_16_parent_ran_again_with_identical_output_child_hits() {
  write src.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "generate"
run = "cat src.txt; echo generated > out"
[[step]]
key  = "child"
from = "generate"
run  = "cat out"
TOML
  first_run_then_hits generate child
  write src.txt two
  run_ok
  assert_ran generate
  assert_hit child
}

# 19. A failing build is reported as cancelled …
test_flaw_19_failing_build_exits_1_beside_a_running_sibling() {
  pipeline_toml <<'TOML'
[[step]]
key = "long"
run = "sleep 100"
[[step]]
key = "bad"
run = "sleep 1; exit 3"
TOML
  run_rc 1 --parallelism 2
  ((SECONDS < 60)) || fail "fail-fast took $SECONDS s"
  jq -e -n '[inputs] | last | .kind == "build_end" and .exit_code == 1' "$OUT" >/dev/null ||
    fail 'build_end does not say 1'
  step_events bad | jq -e -n 'any(inputs; .kind == "step_end" and .exit_code == 3)' >/dev/null ||
    fail 'the step does not end with its own code 3'
}

# … -e never reaches a step …
test_flaw_19_environment_of_the_command_line_reaches_steps() {
  pipeline_toml <<'TOML'
[env]
MODE = "from the pipeline"
[[step]]
key = "s"
run = "echo $MODE"
env = { MODE = "from the step" }
TOML
  run_ok -e MODE=given
  assert_ran s
  assert_log s given
}

# … skipped steps are silent …
test_flaw_19_skipped_steps_are_reported_with_reason_and_cause() {
  pipeline_toml <<'TOML'
[[step]]
key = "bad"
run = "exit 3"
[[step]]
key  = "child"
from = "bad"
run  = "true"
[[step]]
key   = "later"
after = ["child"]
run   = "true"
TOML
  run_rc 1
  local key
  for key in child later; do
    [[ $(step_kinds "$key") == *" step_skipped "* ]] || fail "$key: $(step_kinds "$key")"
    [[ $(step_kinds "$key") != *" step_start "* ]] || fail "$key started all the same"
    [[ $(step_kinds "$key") != *" step_end "* ]] || fail "$key ended all the same"
  done
  local bad
  bad=$(step_events bad | jq -r -n 'first(inputs.step_id)')
  step_events child | jq -e -n --arg bad "$bad" '
    any(inputs; .kind == "step_skipped" and (.reason | type == "string" and length > 0)
                and (.cause == "bad" or .cause == $bad))' >/dev/null ||
    fail "the skip of child names no reason or not its cause: $(step_events child)"
}

# … and continue_on_failure is lost.
flat_with_wait() {
  pipeline_ir <<JSON
{"version":"0","steps":[
 {"type":"command","key":"bad","cmd":"exit 3","builds_in":null},
 {"type":"wait","continue_on_failure":$1},
 {"type":"command","key":"after","cmd":"echo reached","builds_in":null}]}
JSON
}

test_flaw_19_continue_on_failure_of_the_flat_form_is_kept() {
  flat_with_wait true
  run_rc 1
  assert_ran after
  assert_log after reached
}

test_flaw_19_wait_without_continue_on_failure_skips() {
  flat_with_wait false
  run_rc 1
  [[ $(step_kinds after) == *" step_skipped "* ]] || fail "after: $(step_kinds after)"
}

# 20. No way to switch the cache off, to learn why, to see what a step depends on.
test_flaw_20_no_cache_runs_every_step() {
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
run   = "date +%N"
cache = "forever"
TOML
  run_ok
  local first
  first=$(logged s)
  run_ok
  assert_hit s
  [[ $(logged s) == "$first" ]] || fail 'the hit has another log'
  run_ok --no-cache
  assert_ran s
  [[ $(logged s) != "$first" ]] || fail 'a step under --no-cache has the old log'
}

test_flaw_20_why_names_the_path_that_changed() {
  write read.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat read.txt"
TOML
  run_ok
  write read.txt 'one more'
  run_ok
  local why
  why=$(cd "$W" && "$HM" why s)
  [[ $why == *read.txt* ]] || fail "hm why says: $why"
}

test_flaw_20_trace_shows_what_a_step_looked_at() {
  write read.txt one
  write unread.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat read.txt; test -e missing.txt || echo missing"
TOML
  run_ok
  local trace
  trace=$(cd "$W" && "$HM" trace s)
  grep -qE '^content[[:space:]]+[^[:space:]]*read\.txt[[:space:]]' <<<"$trace" ||
    fail "no content of read.txt in: $trace"
  grep -qE '^probe[[:space:]]+[^[:space:]]*missing\.txt[[:space:]]+absent' <<<"$trace" ||
    fail "no absent missing.txt in: $trace"
  ! grep -q 'unread\.txt' <<<"$trace" || fail "unread.txt is in: $trace"
}

# 21. Nobody waits for a step that timed out to be gone.
test_flaw_21_nothing_of_a_timed_out_step_is_alive_after_hm() {
  local mark=98701.$$
  pipeline_toml <<TOML
[[step]]
key     = "s"
run     = "trap '' TERM; sleep $mark & sleep $mark; sleep $mark"
timeout = "2s"
TOML
  run_rc 1
  local alive
  alive=$(pids_running sleep "$mark")
  [[ -z $alive ]] || fail "alive after hm: $alive"
  step_events s | jq -e -n 'any(inputs; .kind == "step_end" and .exit_code == 124)' >/dev/null ||
    fail "the step does not end with 124: $(step_events s)"
}

run_tests "$@"
