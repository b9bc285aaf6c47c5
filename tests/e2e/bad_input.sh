#!/usr/bin/env bash
# Bad input and a bad machine: one clear line on stderr, the right exit code, nothing changed.
# shellcheck source=lib.sh disable=SC2119
. "$(dirname "$0")/lib.sh"

# What a workspace is, to tell whether it changed.
state_of() {
  find "$1" -printf '%p %y %i %C@ %T@ %s %m %U %G %l\n' | sort
}

# refused CODE REGEX COMMAND…: COMMAND exits with CODE, says one line that matches, prints nothing,
# and leaves the workspace as it was.
refused() {
  local code=$1 regex=$2 before
  shift 2
  RUNS=$((RUNS + 1))
  OUT=$T/run$RUNS.jsonl
  ERR=$T/run$RUNS.stderr
  RC=0
  before=$(state_of "$W")
  "$@" >"$OUT" 2>"$ERR" </dev/null || RC=$?
  [[ $RC == "$code" ]] || fail "exit $RC, expected $code; stderr: $(head -c 1000 "$ERR")"
  [[ $(wc -l <"$ERR") == 1 ]] || fail "not one line on stderr: $(head -c 1000 "$ERR")"
  grep -qE -- "$regex" "$ERR" || fail "nothing like '$regex' in: $(cat "$ERR")"
  [[ $before == "$(state_of "$W")" ]] ||
    fail "the workspace changed: $(diff <(echo "$before") <(state_of "$W"))"
}

sound_pipeline() {
  write f.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat f.txt"
TOML
}

# --- broken documents ------------------------------------------------------------------------

declare -A DOC_BODY=() DOC_KIND=() DOC_CODE=() DOC_REGEX=()

# doc NAME KIND CODE REGEX <DOCUMENT: a case. KIND is toml or json.
doc() {
  local name=$2_$1
  ! declare -F "test_$name" >/dev/null || bail_out "two documents are called $name"
  DOC_KIND[$name]=$2
  DOC_CODE[$name]=$3
  DOC_REGEX[$name]=$4
  DOC_BODY[$name]=$(cat)
  eval "test_$name() { refused_document $name; }"
}

refused_document() {
  write f.txt one
  printf '%s\n' "${DOC_BODY[$1]}" >"$W/.hm/ci.${DOC_KIND[$1]}"
  refused "${DOC_CODE[$1]}" "${DOC_REGEX[$1]}" "$HM" run ci -d "$W"
}

# ir NODES EDGES: an IR document. n KEY CMD: a node.
ir() {
  printf '{"version":"0","graph":{"nodes":[%s],"edge_property":"directed","edges":[%s]}}\n' "$1" "$2"
}

n() {
  printf '{"step":{"key":"%s","cmd":"%s"},"env":{}}' "$1" "$2"
}

AT='ci\.toml:' # FILE:LINE:COL: follows

doc table_left_open toml 7 "${AT}1:[0-9]+" <<'DOC'
[[step]
key = "a"
run = "true"
DOC
doc string_left_open toml 7 "${AT}3:[0-9]+" <<'DOC'
[[step]]
key = "a"
run = "true
DOC
doc value_given_twice toml 7 "${AT}3:[0-9]+.*key" <<'DOC'
[[step]]
key = "a"
key = "b"
run = "true"
DOC
doc unknown_key_at_the_top toml 7 "${AT}1:1\b.*imgae" <<'DOC'
imgae = "host"
[[step]]
key = "a"
run = "true"
DOC
doc unknown_key_in_a_step toml 7 "${AT}4:1\b.*command" <<'DOC'
[[step]]
key = "a"
run = "true"
command = "false"
DOC
doc run_of_the_wrong_type toml 7 "${AT}3:[0-9]+.*run" <<'DOC'
[[step]]
key = "a"
run = ["true"]
DOC
doc key_of_the_wrong_type toml 7 "${AT}2:[0-9]+.*key" <<'DOC'
[[step]]
key = 5
run = "true"
DOC
doc after_of_the_wrong_type toml 7 "${AT}4:[0-9]+.*after" <<'DOC'
[[step]]
key   = "a"
run   = "true"
after = 3
DOC
doc env_of_the_wrong_type toml 7 "${AT}2:[0-9]+.*LEVEL" <<'DOC'
[env]
LEVEL = 3
[[step]]
key = "a"
run = "true"
DOC
doc missing_from toml 7 "${AT}4:[0-9]+.*nowhere" <<'DOC'
[[step]]
key  = "a"
run  = "true"
from = "nowhere"
DOC
doc missing_after toml 7 "${AT}4:[0-9]+.*nowhere" <<'DOC'
[[step]]
key   = "a"
run   = "true"
after = ["nowhere"]
DOC
doc step_without_key toml 7 "${AT}1:[0-9]+.*key" <<'DOC'
[[step]]
run = "true"
DOC
doc step_without_run toml 7 "${AT}[12]:[0-9]+.*run" <<'DOC'
[[step]]
key = "a"
DOC
doc empty_run toml 7 "${AT}3:[0-9]+.*run" <<'DOC'
[[step]]
key = "a"
run = ""
DOC
doc duplicate_key toml 7 "${AT}[45]:[0-9]+.*twin" <<'DOC'
[[step]]
key = "twin"
run = "true"
[[step]]
key = "twin"
run = "false"
DOC
doc cycle_of_from toml 7 'cycle.*\b(chicken|egg)\b' <<'DOC'
[[step]]
key  = "chicken"
run  = "true"
from = "egg"
[[step]]
key  = "egg"
run  = "true"
from = "chicken"
DOC
doc cycle_of_from_and_after toml 7 'cycle.*\b(chicken|egg)\b' <<'DOC'
[[step]]
key  = "chicken"
run  = "true"
from = "egg"
[[step]]
key   = "egg"
run   = "true"
after = ["chicken"]
DOC
doc from_itself toml 7 'narcissus' <<'DOC'
[[step]]
key  = "narcissus"
run  = "true"
from = "narcissus"
DOC
doc timeout_that_is_no_duration toml 7 "${AT}4:[0-9]+.*(timeout|soon)" <<'DOC'
[[step]]
key     = "a"
run     = "true"
timeout = "soon"
DOC
doc timeout_of_zero toml 7 "${AT}1:[0-9]+.*(timeout|0s)" <<'DOC'
timeout = "0s"
[[step]]
key = "a"
run = "true"
DOC
doc cwd_above_the_workspace toml 7 "${AT}4:[0-9]+.*(cwd|\.\.)" <<'DOC'
[[step]]
key = "a"
run = "true"
cwd = "../etc"
DOC
doc unknown_cache_policy toml 7 "${AT}4:[0-9]+.*(cache|sometimes)" <<'DOC'
[[step]]
key   = "a"
run   = "true"
cache = "sometimes"
DOC
doc ttl_that_is_no_duration toml 7 "${AT}4:[0-9]+.*(ttl|a while)" <<'DOC'
[[step]]
key   = "a"
run   = "true"
cache = { ttl = "a while" }
DOC
doc unknown_key_in_cache toml 7 "${AT}4:[0-9]+.*onchange" <<'DOC'
[[step]]
key   = "a"
run   = "true"
cache = { onchange = ["f.txt"] }
DOC
doc unknown_network toml 7 "${AT}4:[0-9]+.*(network|bridge)" <<'DOC'
[[step]]
key     = "a"
run     = "true"
network = "bridge"
DOC
doc unknown_image toml 4 'debian:12' <<'DOC'
image = "debian:12"
[[step]]
key = "a"
run = "true"
DOC

doc not_json json 7 'ci\.json' <<'DOC'
{"version": "0", "graph": {
DOC
doc list_instead_of_object json 7 'ci\.json' <<'DOC'
[]
DOC
doc no_graph json 7 'graph' <<'DOC'
{"version": "0"}
DOC
doc no_nodes json 7 'nodes' <<'DOC'
{"graph": {"edge_property": "directed", "edges": []}}
DOC
doc no_edges json 7 'edges' <<<'{"graph": {"nodes": [], "edge_property": "directed"}}'
doc no_edge_property json 7 'edge_property' <<<'{"graph": {"nodes": [], "edges": []}}'
doc undirected json 7 'undirected|directed' <<DOC
{"graph": {"nodes": [$(n a true)], "edge_property": "undirected", "edges": []}}
DOC
doc node_holes json 7 'node_holes' <<DOC
{"graph": {"nodes": [$(n a true)], "node_holes": [1], "edge_property": "directed", "edges": []}}
DOC
doc node_without_env json 7 'env' <<<"$(ir '{"step":{"key":"a","cmd":"true"}}' '')"
doc env_value_that_is_no_string json 7 'LEVEL|env' \
  <<<"$(ir '{"step":{"key":"a","cmd":"true"},"env":{"LEVEL":3}}' '')"
doc node_without_step json 7 'step' <<<"$(ir '{"env":{}}' '')"
doc step_without_key json 7 'key' <<<"$(ir '{"step":{"cmd":"true"},"env":{}}' '')"
doc step_without_cmd json 7 'alone' <<<"$(ir '{"step":{"key":"alone"},"env":{}}' '')"
doc empty_cmd json 7 'hollow' <<<"$(ir "$(n hollow '')" '')"
doc field_given_twice json 7 'cmd' \
  <<<"$(ir '{"step":{"key":"a","cmd":"true","cmd":"false"},"env":{}}' '')"
doc timeout_of_zero json 7 'timeout_seconds' \
  <<<"$(ir '{"step":{"key":"a","cmd":"true","timeout_seconds":0},"env":{}}' '')"
doc timeout_that_is_a_string json 7 'timeout_seconds' <<DOC
{"timeout_seconds":"5m","graph":{"nodes":[$(n a true)],"edge_property":"directed","edges":[]}}
DOC
doc timeout_that_is_negative json 7 'timeout_seconds' <<DOC
{"timeout_seconds":-1,"graph":{"nodes":[$(n a true)],"edge_property":"directed","edges":[]}}
DOC
doc cache_without_policy json 7 'policy' \
  <<<"$(ir '{"step":{"key":"a","cmd":"true","cache":{"key":"00"}},"env":{}}' '')"
doc unknown_edge_kind json 7 'follows.*\b(lower|upper)\b|\b(lower|upper)\b.*follows' \
  <<<"$(ir "$(n lower true),$(n upper true)" '[0,1,"follows"]')"
doc edge_to_a_missing_node json 7 'edge|node|7' <<<"$(ir "$(n a true)" '[0,7,"builds_in"]')"
doc edge_that_is_null json 7 'edge|null' <<<"$(ir "$(n a true)" 'null')"
doc cycle json 7 'cycle.*\b(chicken|egg)\b' \
  <<<"$(ir "$(n chicken true),$(n egg true)" '[0,1,"builds_in"],[1,0,"depends_on"]')"
doc duplicate_key json 7 'twin' <<<"$(ir "$(n twin true),$(n twin false)" '')"
doc two_parents json 7 'orphan' \
  <<<"$(ir "$(n a true),$(n b true),$(n orphan true)" '[0,2,"builds_in"],[1,2,"builds_in"]')"
doc dynamic_step json 7 'dynamic' \
  <<<"$(ir '{"step":{"key":"d","eval":{"type":"dynamic","target_name":"t"}},"env":{}}' '')"
doc mount_step json 7 'mount' \
  <<<"$(ir '{"step":{"key":"m","action":{"from":"a","to":"b"}},"env":{}}' '')"
doc flat_with_an_unknown_parent json 7 'nowhere' <<'DOC'
{"version":"0","steps":[{"type":"command","key":"a","cmd":"true","builds_in":"nowhere"}]}
DOC
doc flat_with_an_unknown_type json 7 'ballet' <<'DOC'
{"version":"0","steps":[{"type":"ballet","key":"a","cmd":"true","builds_in":null}]}
DOC
doc unknown_image json 4 'ubuntu:24\.04' \
  <<<"$(ir '{"step":{"key":"a","cmd":"true","image":"ubuntu:24.04"},"env":{}}' '')"

# --- a bad workspace, a bad name ---------------------------------------------------------------

test_broken_document_on_stdin_is_refused() {
  # shellcheck disable=SC2016  # a script of its own
  refused 7 'graph' bash -c 'echo "{}" | "$HM" run --file - -d "$0"' "$W"
}

test_a_broken_document_does_not_hide_a_sound_one() {
  sound_pipeline
  printf '[[step]\n' >"$W/.hm/broken.toml"
  run_ok
  assert_ran s
}

test_no_step_of_a_broken_document_runs() {
  pipeline_toml <<'TOML'
[[step]]
key = "sound"
run = "echo ran"
[[step]]
key  = "unsound"
run  = "true"
from = "nowhere"
TOML
  refused 7 nowhere "$HM" run ci -d "$W" --format json
  ! grep -q step_start "$OUT" || fail "a step ran: $(cat "$OUT")"
}

test_unknown_pipeline_is_refused() {
  sound_pipeline
  refused 2 nowhere "$HM" run nowhere -d "$W"
}

test_workspace_that_is_a_file_is_refused() {
  echo contents >"$W/file"
  refused 2 "$W/file" "$HM" run ci -d "$W/file"
  [[ $(cat "$W/file") == contents ]] || fail 'the file was changed'
}

test_workspace_that_is_missing_is_refused() {
  refused 2 "$W/missing" "$HM" run ci -d "$W/missing"
  [[ ! -e $W/missing ]] || fail 'it was made'
}

test_document_that_is_a_directory_is_refused() {
  mkdir "$W/.hm/ci.toml"
  refused 2 'ci\.toml' "$HM" run ci -d "$W"
}

# --- a bad store -------------------------------------------------------------------------------

test_store_below_a_file_is_refused() {
  sound_pipeline
  : >"$T/file"
  HM_HOME=$T/file/store refused 4 "$T/file" "$HM" run ci -d "$W"
}

test_store_that_is_read_only_is_refused() {
  [[ $(id -u) != 0 ]] || skip 'root writes where modes forbid it'
  sound_pipeline
  mkdir "$T/closed"
  chmod 555 "$T/closed"
  HM_HOME=$T/closed/store refused 4 "$T/closed" "$HM" run ci -d "$W"
}

test_store_on_a_read_only_file_system_is_refused() {
  needs_root 'mounts a read-only tmpfs'
  sound_pipeline
  mkdir "$T/readonly"
  # shellcheck disable=SC2016  # a script of its own
  HM_HOME=$T/readonly/store refused 4 "$T/readonly" \
    unshare -m sh -c 'mount -t tmpfs -o ro tmpfs "$0" && exec "$HM" run ci -d "$1"' \
    "$T/readonly" "$W"
}

test_store_database_that_is_no_database_is_refused() {
  sound_pipeline
  mkdir -p "$HM_HOME"
  head -c 8192 /dev/urandom >"$HM_HOME/hm.db"
  local before
  before=$(sha256sum <"$HM_HOME/hm.db")
  refused 4 'hm\.db' "$HM" run ci -d "$W"
  [[ $before == "$(sha256sum <"$HM_HOME/hm.db")" ]] || fail 'the file was changed'
}

# on_database CODE: runs the Python statement on the store's database, db.
on_database() {
  python3 -c "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
$1
db.commit()
db.close()" "$HM_HOME/hm.db"
}

test_store_of_a_newer_version_is_refused() {
  sound_pipeline
  run_ok
  on_database 'db.execute("PRAGMA user_version = 9999")'
  refused 4 'newer|version' "$HM" run ci -d "$W"
  [[ $(on_database 'print(db.execute("PRAGMA user_version").fetchone()[0])') == 9999 ]] ||
    fail 'the version was changed'
}

test_store_of_a_newer_version_keeps_its_records() {
  sound_pipeline
  run_ok
  local version
  version=$(on_database 'print(db.execute("PRAGMA user_version").fetchone()[0])')
  on_database 'db.execute("PRAGMA user_version = 9999")'
  refused 4 'newer|version' "$HM" run ci -d "$W"
  on_database "db.execute('PRAGMA user_version = $version')"
  run_ok
  assert_hit s
}

# --- a bad machine -----------------------------------------------------------------------------

# In a mount namespace of our own, as root of it.
UNSHARE=(unshare -m)
if [[ $(id -u) != 0 ]]; then UNSHARE=(unshare -rm); fi

# A tmpfs over /dev, with what is in the list and without fuse.
# shellcheck disable=SC2016  # a script of its own
WITHOUT_FUSE='
  set -e
  mkdir "$0"
  mount -t tmpfs tmpfs "$0"
  for name in null zero full random urandom tty; do
    : >"$0/$name"
    mount --bind "/dev/$name" "$0/$name"
  done
  mkdir "$0/shm" "$0/pts"
  mount --rbind "$0" /dev
  test ! -e /dev/fuse
  exec "$HM" run ci -d "$1"'

test_no_dev_fuse_is_refused() {
  sound_pipeline
  refused 4 '/dev/fuse' "${UNSHARE[@]}" sh -c "$WITHOUT_FUSE" "$T/dev" "$W"
}

test_dev_fuse_that_is_another_device_is_refused() {
  sound_pipeline
  # shellcheck disable=SC2016  # a script of its own
  refused 4 'fuse|FUSE' "${UNSHARE[@]}" \
    sh -c 'mount --bind /dev/null /dev/fuse && exec "$HM" run ci -d "$0"' "$W"
}

# All hits need neither mount nor process.
test_all_hits_need_no_dev_fuse() {
  sound_pipeline
  run_ok
  [[ $(id -u) == 0 ]] || skip 'root of a user namespace has another id mode, so other records'
  RC=0
  unshare -m sh -c "$WITHOUT_FUSE" "$T/dev" "$W" >"$T/out" 2>&1 || RC=$?
  [[ $RC == 0 ]] || fail "exit $RC: $(cat "$T/out")"
}

# All programs of PATH but one, in $T/bin.
path_without() {
  local dir
  mkdir "$T/bin"
  local -a dirs
  IFS=: read -r -a dirs <<<"$PATH"
  for dir in "${dirs[@]}"; do
    find "$dir" -mindepth 1 -maxdepth 1 -exec ln -s -t "$T/bin" {} + 2>/dev/null || true
  done
  rm -f "$T/bin/$1"
}

test_no_bwrap_is_refused() {
  sound_pipeline
  path_without bwrap
  PATH=$T/bin refused 4 'bwrap|bubblewrap' "$HM" run ci -d "$W"
}

test_bwrap_that_fails_is_refused() {
  sound_pipeline
  path_without bwrap
  printf '#!/bin/sh\necho "bwrap: no permissions to create a new namespace" >&2\nexit 1\n' \
    >"$T/bin/bwrap"
  chmod 755 "$T/bin/bwrap"
  PATH=$T/bin refused 4 'bwrap|bubblewrap' "$HM" run ci -d "$W"
}

# A store on an overlay, as in a container without a volume: the kernel takes no upper directory
# there, which to hm is the same as having no overlay at all.
test_no_overlay_is_refused() {
  sound_pipeline
  mkdir "$T/lower" "$T/upper" "$T/work" "$T/over"
  local option=
  if [[ $(id -u) != 0 ]]; then option=,userxattr; fi
  local mount="lowerdir=$T/lower,upperdir=$T/upper,workdir=$T/work$option"
  "${UNSHARE[@]}" mount -t overlay overlay -o "$mount" "$T/over" || skip 'no overlay to stand on'
  # shellcheck disable=SC2016  # a script of its own
  HM_HOME=$T/over/store refused 4 'overlay' "${UNSHARE[@]}" sh -c \
    'mount -t overlay overlay -o "$0" "$1" && exec "$HM" run ci -d "$2"' "$mount" "$T/over" "$W"
}

has_its_own_user_namespace() {
  [[ $(readlink "/proc/$1/ns/user") != "$(readlink /proc/self/ns/user)" ]]
}

# COMMAND… as nobody, in a user namespace that allows no further one. The inner shell is started
# when the ids are mapped, so that it has the right to set the limit.
without_user_namespaces() {
  local pid
  mkfifo "$T/go"
  # shellcheck disable=SC2016  # scripts of their own
  unshare -U sh -c 'read -r _ <"$0"; exec sh -c "$1" "$@"' "$T/go" '
    echo 0 >/proc/sys/user/max_user_namespaces
    exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"' "$@" &
  pid=$!
  wait_until 5 has_its_own_user_namespace "$pid"
  echo '0 0 65536' >"/proc/$pid/uid_map"
  echo '0 0 65536' >"/proc/$pid/gid_map"
  echo go >"$T/go"
  wait "$pid"
}

test_no_user_namespaces_is_refused() {
  needs_root 'limits user namespaces, then becomes nobody'
  sound_pipeline
  mkdir "$HM_HOME"
  chown -R 65534:65534 "$W" "$HM_HOME"
  setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$HM" -a -r "$W/f.txt" ||
    skip "nobody cannot reach $HM or $W"
  refused 4 'namespace' without_user_namespaces "$HM" run ci -d "$W"
}

run_tests "$@"
