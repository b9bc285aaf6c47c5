#!/usr/bin/env bash
# hm run --verify, hm cache verify, hm cache prune: what is found, repaired, and removed.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# cache RC ACTION [OPTION…]: hm cache; its output goes to $SAID.
cache() {
  local expected=$1 rc=0
  shift
  SAID=$T/said
  timeout 60 "$HM" cache "$@" >"$SAID" 2>&1 || rc=$?
  [[ $rc == "$expected" ]] || fail "hm cache $* exited $rc, expected $expected: $(cat "$SAID")"
}

said() {
  grep -qE -- "$1" "$SAID" || fail "no '$1' in: $(cat "$SAID")"
}

# blob COLUMN: path of the blob that the only record names there.
blob() {
  local hex
  hex=$(sql "SELECT $1 FROM records")
  printf '%s\n' "$HM_HOME/blobs/${hex:0:2}/$hex"
}

one_step() {
  write input.txt "${1:-one}"
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat input.txt > out; echo said"
TOML
}

# verified KEY: "same" and the differences of the step, on one line.
verified() {
  step_events "$1" | jq -r 'select(.kind == "step_verified")
    | [.same] + [.differences[] | .path + " " + .how] | map(tostring) | join(" ")'
}

test_verify_of_a_deterministic_step_is_clean() {
  one_step
  first_run_then_hits a
  run_ok --verify
  assert_hit a
  [[ $(verified a) == true ]] || fail "verified: $(verified a)"
}

test_verify_names_the_file_that_the_date_went_to() {
  write input.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat input.txt > same; date +%s.%N > stamp; chmod 600 same"
[[step]]
key  = "b"
from = "a"
run  = "cat stamp"
TOML
  first_run_then_hits a b
  local before
  before=$(log_of b)
  run_rc 1 --verify
  assert_hit a b
  [[ $(verified a) == 'false /workspace/stamp content' ]] || fail "verified: $(verified a)"
  [[ $(verified b) == true ]] || fail "b does not go on from the recorded layer: $(verified b)"
  # The record stays.
  run_ok
  assert_hit a b
  assert_log b "$before"
  run_rc 1 --verify --step a
  "$HM" run "$PIPELINE" -d "$W" --verify 2>"$T/human" && fail 'a difference must fail the run'
  grep -q '/workspace/stamp: content' "$T/human" || fail "it said: $(cat "$T/human")"
}

test_verify_names_what_appears_and_what_goes() {
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "n=$(cat /proc/sys/kernel/random/uuid); mkdir d; echo > d/$n"
TOML
  run_ok
  run_rc 1 --verify
  [[ $(verified a) =~ ^false\ .*/workspace/d/[0-9a-f-]+\ (gone|appeared)\ /workspace/d/[0-9a-f-]+\ (gone|appeared)$ ]] ||
    fail "verified: $(verified a)"
}

test_verify_finds_a_read_from_the_network() {
  needs_command python3
  python3 - "$T/port" <<'PY' &
import http.server, itertools, os, sys
count = itertools.count()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"answer %d\n" % next(count))
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
with open(sys.argv[1] + ".new", "w") as out:
    out.write(str(server.server_port))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
PY
  local server=$!
  wait_until 30 test -s "$T/port" || fail 'the server did not start'
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "bash fetch.sh"
TOML
  write fetch.sh 'set -e' "exec 3<>/dev/tcp/127.0.0.1/$(cat "$T/port")" 'printf "GET / HTTP/1.0\r\n\r\n" >&3' \
    'cat <&3 | tail -n 1 >fetched'
  run_ok
  run_rc 1 --verify
  kill "$server"
  wait "$server" || true
  [[ $(verified a) == 'false /workspace/fetched content' ]] || fail "verified: $(verified a)"
  run_rc 1 --verify # the server is gone: the step fails now
  [[ $(verified a) == false && $(grep -c 'exit 1, where it had passed' "$OUT") == 1 ]] ||
    fail "a step that fails when it is run again is not reported: $(verified a)"
}

test_fresh_store_is_clean() {
  one_step
  first_run_then_hits a
  cache 0 verify
  said '1 records, 1 layers, [0-9]+ blobs: 0 problems'
}

# Each kind of damage to a blob: found, repaired, and the step made again.
test_damage_to_each_blob_of_a_record_is_found_and_repaired() {
  local column path
  one_step
  for column in path_set trace layer log; do
    run_ok
    path=$(blob "$column")
    chmod u+w "$path"
    printf x >>"$path"
    cache 4 verify
    said "$(basename "$path"): has other bytes"
    cache 0 verify --repair
    cache 0 verify
    run_ok
    assert_ran a
    cache 0 verify
    run_ok
    assert_hit a
  done
}

test_lost_blob_makes_one_miss_and_no_more() {
  local column
  one_step
  for column in path_set trace layer; do
    run_ok
    rm -f "$(blob "$column")"
    run_ok
    assert_ran a
    assert_reason a 'damaged'
    run_ok
    assert_hit a
  done
}

# A content of the right size and the wrong bytes must not reach a step, nor a record.
test_changed_content_of_a_layer_is_not_served() {
  local hex path
  write input.txt one
  write second.txt 1
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "tr a-z A-Z < input.txt > out"
[[step]]
key  = "b"
from = "a"
run  = "cat out second.txt"
TOML
  run_ok
  hex=$(printf 'ONE\n' | sha256sum | cut -d' ' -f1)
  path=$HM_HOME/blobs/${hex:0:2}/$hex
  [[ -f $path ]] || fail 'no such blob'
  chmod u+w "$path"
  printf 'XXX\n' >"$path"
  write second.txt 2
  run_ok
  assert_log b ONE 2
  run_ok
  assert_hit a b
  cache 0 verify
}

test_what_does_not_belong_into_blobs_is_named_and_removed() {
  one_step
  run_ok
  local blobs=$HM_HOME/blobs
  echo text >"$blobs/README"
  mkdir "$blobs/zz"
  ln -s / "$blobs/link"
  echo text >"$(find "$blobs" -mindepth 1 -maxdepth 1 -name '[0-9a-f][0-9a-f]' | head -n 1)/note"
  cache 4 verify
  said README
  said zz
  said link
  said note
  said '4 problems, 0 repaired'
  cache 0 verify --repair
  cache 0 verify
  [[ -d / && ! -e $blobs/link ]] || fail 'the link was followed, or is there'
}

test_prune_removes_only_what_nothing_names() {
  one_step
  run_ok
  run_ok --verify
  cache 0 prune
  cache 0 verify
  run_ok
  assert_hit a
  "$HM" log -d "$W" a >/dev/null || fail 'the log is gone'
  [[ $(cat "$(exported a /workspace/out)") == one ]] || fail 'the layer is gone'
}

test_prune_to_nothing_leaves_nothing() {
  one_step
  run_ok
  cache 0 prune --max-size 0
  said 'removed 1 records, 1 reports, 1 layers'
  [[ -z $(find "$HM_HOME/blobs" -type f) ]] || fail 'blobs are left'
  cache 0 verify
  run_ok
  assert_ran a
  assert_reason a 'dropped from the store'
}

test_prune_forgets_the_least_recently_used() {
  local n
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat input.txt; head -c 1000000 /dev/zero | tr '\\0' \"$(cat input.txt)\" > out"
TOML
  for n in 1 2 3; do
    write input.txt "$n"
    run_ok
  done
  write input.txt 1
  run_ok
  assert_hit a
  # Room for two of them, not for three.
  cache 0 prune --max-size 2500K
  write input.txt 1
  run_ok
  assert_hit a
  write input.txt 3
  run_ok
  assert_hit a
  write input.txt 2
  run_ok
  assert_ran a
  cache 0 verify
}

test_prune_keeps_what_a_run_in_progress_uses() {
  # A sleep nobody else has.
  NAP=4.0000$((RANDOM % 9000 + 1000))$((RANDOM % 9000 + 1000))
  write input.txt one
  pipeline_toml <<TOML
[[step]]
key = "cached"
run = "head -c 100000 /dev/zero > out; cat input.txt >> out"
[[step]]
key  = "waits"
from = "cached"
run  = "cat second.txt > early; sleep $NAP; cat out early"
TOML
  write second.txt first
  "$HM" run "$PIPELINE" -d "$W" --step cached >"$T/prepare" 2>&1 || fail "$(cat "$T/prepare")"
  "$HM" run "$PIPELINE" --format json -d "$W" >"$T/live.jsonl" 2>"$T/live.stderr" &
  local pid=$! rc=0
  wait_until 60 is_running sleep "$NAP" || fail 'the step did not start'
  cache 0 prune --max-size 0
  said 'removed'
  wait "$pid" || rc=$?
  [[ $rc == 0 ]] || fail "the run exited $rc: $(cat "$T/live.stderr")"
  OUT=$T/live.jsonl
  [[ $(step_kinds waits | grep -o step_start | wc -l) == 1 ]] || fail 'it was started over'
  cache 0 verify
  run_ok
  assert_hit waits
}

test_wrong_use_is_told() {
  one_step
  cache 2 prune --max-size 10X
  cache 2 prune --repair
  cache 2 verify --max-size 1
  cache 2 sweep
}

run_tests "$@"
