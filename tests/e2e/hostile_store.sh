#!/usr/bin/env bash
# A store that somebody wrote into: never a wrong hit, a crash or a hang; one clear line, or a miss.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

case_timeout test_flipped_bytes_of_the_database 600

# The step's log says its input, so that a wrong hit shows.
two_steps() {
  write input.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat input.txt > aaa; cat input.txt > bbb; cat input.txt"
[[step]]
key  = "b"
from = "a"
run  = "cat aaa bbb"
TOML
}

right_logs() {
  assert_log a one
  assert_log b one one
}

# no_wrong_log KEY LINE…: the log is right, or hm log says why there is none: a lost log is no
# reason to run a step again.
no_wrong_log() {
  local key=$1 want got
  shift
  got=$("$HM" log -d "$W" "$key" 2>"$T/why") || return 0
  want=$(printf '%s\n' "$@")
  [[ $got == "$want" ]] || fail "$key logged '$got', expected '$want'"
}

# recorded: a store with both steps in it, all of it in hm.db itself; kept for `again`.
recorded() {
  needs_command python3
  two_steps
  run_ok
  sql 'PRAGMA wal_checkpoint(TRUNCATE)'
  rm -f "$HM_HOME"/hm.db-*
  cp -r "$HM_HOME" "$T/pristine"
}

again() {
  chmod -R u+w "$HM_HOME"
  rm -rf "$HM_HOME"
  cp -r "$T/pristine" "$HM_HOME"
}

# survives WHAT: a run ends in time, right or with one line that names the database and the repair;
# the repair repairs, and a run after it is right.
survives() {
  RC=0
  timeout -k 5 100 "$HM" run "$PIPELINE" -d "$W" >"$T/out" 2>"$T/err" || RC=$?
  case $RC in
    0)
      no_wrong_log a one
      no_wrong_log b one one
      ;;
    4)
      [[ $(grep -c "^hm: " "$T/err") == 1 ]] || fail "$1: not one line: $(cat "$T/err")"
      grep -q "hm\.db" "$T/err" || fail "$1: no file is named: $(cat "$T/err")"
      ;;
    *) fail "$1: hm run exited $RC: $(cat "$T/err")" ;;
  esac
  timeout -k 5 100 "$HM" cache verify --repair >"$T/out" 2>&1 ||
    fail "$1: hm cache verify --repair exited $?: $(cat "$T/out")"
  timeout -k 5 100 "$HM" cache verify >"$T/out" 2>&1 ||
    fail "$1: it is not clean after the repair: $(cat "$T/out")"
  run_ok
  right_logs
}

test_planted_trigger_view_and_table_never_act() {
  recorded
  sql 'CREATE TRIGGER t AFTER INSERT ON runs BEGIN UPDATE records SET layer=zeroblob(32); END'
  run_rc 4
  grep -q "hm.db.*trigger 't'.*verify --repair" "$ERR" || fail "it said: $(cat "$ERR")"
  survives trigger
  run_ok
  assert_hit a b
  sql 'CREATE VIEW v AS SELECT 1'
  survives view
  sql 'CREATE TABLE "odd "" name" (a)'
  survives table
  sql 'CREATE INDEX more ON records(log)'
  survives index
  run_ok
  assert_hit a b
}

test_database_that_is_none() {
  recorded
  local db=$HM_HOME/hm.db
  rm -rf "$db"*
  mkdir "$db"
  survives directory
  rm -rf "$db"*
  echo 'some text' >"$db"
  survives text
  rm -f "$db" "$db"-*
  mkfifo "$db"
  survives fifo
  rm -f "$db" "$db"-*
  ln -s /etc/passwd "$db"
  survives link
  [[ -f /etc/passwd ]] || fail 'the link was followed'
  again
  rm -f "$db"-wal
  mkfifo "$db-wal"
  survives 'fifo as log'
  compgen -G "$db.damaged-*" >/dev/null || fail 'what was there is gone'
}

test_truncated_database() {
  recorded
  local size bytes
  size=$(stat -c %s "$HM_HOME/hm.db")
  for bytes in 0 1 99 4095 4096 $((size / 2)) $((size - 1)); do
    again
    truncate -s "$bytes" "$HM_HOME/hm.db"
    survives "$bytes of $size bytes"
  done
}

test_wrong_format_number() {
  recorded
  local version
  for version in -5 0 1; do
    again
    sql "PRAGMA user_version=$version"
    survives "format $version"
  done
  sql 'PRAGMA user_version=77'
  run_rc 4
  grep -q 'hm\.db.*newer hm' "$ERR" || fail "it said: $(cat "$ERR")"
  RC=0
  "$HM" cache verify --repair >"$T/out" 2>&1 || RC=$?
  [[ $RC == 4 ]] || fail "a store of a newer format must be left alone: $RC"
}

# flip PAGE OFFSET
flip() {
  python3 - "$HM_HOME/hm.db" "$(($1 * 4096 + $2))" <<'PY'
import sys
with open(sys.argv[1], "r+b") as db:
    db.seek(int(sys.argv[2]))
    byte = db.read(1)[0]
    db.seek(int(sys.argv[2]))
    db.write(bytes([byte ^ (1 << int(sys.argv[2]) % 8)]))
PY
}

test_flipped_bytes_of_the_database() {
  recorded
  local pages page
  RANDOM=${SEED:-1}
  pages=$(($(stat -c %s "$HM_HOME/hm.db") / 4096))
  for ((page = 0; page < pages; page++)); do
    again
    flip "$page" $((RANDOM % 100))
    survives "page $page, near its start"
    again
    flip "$page" $((RANDOM % 4096))
    flip "$page" $((4095 - RANDOM % 300))
    survives "page $page, anywhere"
  done
}

test_records_that_name_wrong_digests() {
  recorded
  local column
  for column in path_set trace layer log; do
    again
    sql "UPDATE records SET $column=randomblob(32)"
    survives "records: $column"
    again
    sql "UPDATE records SET $column=x'00ff'"
    survives "records: short $column"
  done
  again
  sql 'UPDATE layers SET mtimes=randomblob(32)'
  survives 'layers: mtimes'
  again
  sql 'UPDATE records SET trace=(SELECT trace FROM records ORDER BY strong_key LIMIT 1)'
  survives 'a trace of another record'
  again
  sql 'UPDATE files SET digest=randomblob(32)'
  survives 'files: digest'
}

test_something_else_in_the_place_of_a_blob() {
  recorded
  local hex path kind
  for kind in fifo link directory; do
    for column in path_set layer trace log; do
      again
      for hex in $(sql "SELECT $column FROM records"); do
        path=$HM_HOME/blobs/${hex:0:2}/$hex
        [[ -e $path || -p $path ]] || continue
        [[ $kind != link ]] || cp "$path" "$T/elsewhere-$hex"
        rm -rf "$path"
        case $kind in
          fifo) mkfifo "$path" ;;
          link) ln -s "$T/elsewhere-$hex" "$path" ;;
          directory) mkdir "$path" ;;
        esac
      done
      "$HM" cache verify >"$T/out" 2>&1 && fail "$kind as $column was not found"
      "$HM" cache verify --repair >"$T/out" 2>&1 || fail "$kind as $column: $(cat "$T/out")"
      survives "$kind as $column"
    done
  done
  again
  path=$(find "$HM_HOME/blobs" -mindepth 1 -maxdepth 1 | head -n 1)
  mv "$path" "$T/shard"
  ln -s "$T/shard" "$path"
  "$HM" cache verify >"$T/out" 2>&1 && fail 'a shard that is a link was not found'
  "$HM" cache verify --repair >"$T/out" 2>&1 || fail "a shard that is a link: $(cat "$T/out")"
  survives shard
  [[ -n $(ls "$T/shard") ]] || fail 'the link was followed'
}

# A fifo where a file of a layer should be: the step that reads it must not hang.
test_fifo_as_a_file_of_a_layer() {
  recorded
  local hex path
  hex=$(printf 'one\n' | sha256sum | cut -d' ' -f1)
  path=$HM_HOME/blobs/${hex:0:2}/$hex
  rm -f "$path"
  mkfifo "$path"
  run_ok --rerun b
  right_logs
  survives 'fifo as content'
}

# craft FROM TO: the layer of step a with bytes replaced, under its right name, in its place.
craft() {
  python3 - "$HM_HOME" "$1" "$2" <<'PY'
import hashlib, os, sqlite3, sys
home, old, new = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
db = sqlite3.connect(home + "/hm.db")
done = 0
for (layer,) in db.execute("SELECT layer FROM layers").fetchall():
    path = home + "/blobs/%s/%s" % (layer.hex()[:2], layer.hex())
    data = open(path, "rb").read()
    if b"workspace/aaa" not in data or old not in data:
        continue
    data = data.replace(old, new)
    digest = hashlib.sha256(data).digest()
    os.makedirs(home + "/blobs/" + digest.hex()[:2], exist_ok=True)
    with open(home + "/blobs/%s/%s" % (digest.hex()[:2], digest.hex()), "wb") as out:
        out.write(data)
    db.execute("UPDATE layers SET layer=? WHERE layer=?", (digest, layer))
    db.execute("UPDATE records SET layer=? WHERE layer=?", (digest, layer))
    done += 1
db.commit()
sys.exit(0 if done else 1)
PY
}

hex_of() {
  printf '%s' "$1" | od -An -tx1 | tr -d ' \n'
}

test_crafted_layers_are_refused() {
  recorded
  local name from to
  local -A crafted=(
    [dotdot]="workspace/aaa|../../etc/pwn" [absolute]="workspace/aaa|/orkspace/aaa"
    [empty_name]="workspace/aaa|workspace//aa" [dot]="workspace/aaa|workspace/./a"
    [duplicate]="workspace/bbb|workspace/aaa" [unsorted]="workspace/aaa|workspace/zzz"
    [no_parent]="workspace/aaa|workspacf/aaa" [magic]="hmlayer|hmlayes")
  for name in "${!crafted[@]}"; do
    again
    from=${crafted[$name]%|*}
    to=${crafted[$name]#*|}
    craft "$(hex_of "$from")" "$(hex_of "$to")" || fail "$name: nothing was crafted"
    "$HM" cache verify >"$T/out" 2>&1 && fail "$name was not found: $(cat "$T/out")"
    survives "$name"
  done
  # The size of a file, before its device number and its digest; and a length of everything.
  local digest
  digest=$(printf 'one\n' | sha256sum | cut -d' ' -f1)
  again
  craft "04000000000000000000000000000000$digest" "ffffffffffffff7f0000000000000000$digest" ||
    fail 'no size was crafted'
  survives 'absurd size'
  again
  craft "0d00000000000000$(hex_of workspace/aaa)" "ffffffffffffffff$(hex_of workspace/aaa)" ||
    fail 'no length was crafted'
  survives 'absurd length'
}

run_tests "$@"
