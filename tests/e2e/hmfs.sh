#!/usr/bin/env bash
# hmfs mount: a workspace's view by hand, read-only, printing what is looked at.
# shellcheck source=lib.sh disable=SC2119
. "$(dirname "$0")/lib.sh"

# start_hmfs: mounts the view of $W on $M; its lines go to $T/seen.
start_hmfs() {
  M=$T/mnt
  mkdir -p "$M"
  "$HMFS" mount "$M" -d "$W" >"$T/seen" 2>"$T/hmfs.err" &
  HMFS_PID=$!
  for _ in $(seq 100); do
    if test -d "$M/workspace"; then return; fi
    sleep 0.1
  done
  fail "hmfs did not mount: $(cat "$T/hmfs.err")"
}

stop_hmfs() {
  kill -INT "$HMFS_PID" 2>/dev/null
  wait "$HMFS_PID"
}

test_mounted_view_shows_the_workspace_and_the_host() {
  write read.txt hello
  start_hmfs
  grep -q hello "$M/workspace/read.txt" || fail 'the workspace is not served'
  test -x "$M/bin/sh" || fail 'the host root is not served'
  if test -e "$M/workspace/.hm"; then fail '.hm is visible'; fi
  stop_hmfs
}

test_what_is_looked_at_is_printed() {
  write read.txt hello
  write other.txt other
  start_hmfs
  cat "$M/workspace/read.txt" >/dev/null
  if test -e "$M/workspace/missing.txt"; then fail "missing.txt exists"; fi
  ls "$M/workspace" >/dev/null
  stop_hmfs
  grep -qP '^content\t/workspace/read.txt\tfile .*sha256=' "$T/seen" || fail "no read: $(cat "$T/seen")"
  grep -qP '^probe\t/workspace/missing.txt\tabsent$' "$T/seen" || fail "no absence: $(cat "$T/seen")"
  grep -qP '^list\t/workspace\tdir ' "$T/seen" || fail "no listing: $(cat "$T/seen")"
  if grep -q '^content.*other.txt' "$T/seen"; then fail 'other.txt was not read'; fi
}

test_mounted_view_is_read_only() {
  write read.txt hello
  start_hmfs
  if sh -c "echo x >'$M/workspace/read.txt'" 2>/dev/null; then fail 'it can be written'; fi
  if sh -c "echo x >'$M/workspace/new.txt'" 2>/dev/null; then fail 'it can be created in'; fi
  stop_hmfs
}

test_requests_are_counted_for_whoever_measures() {
  local count='\(lookup\|getattr\|readlink\|open\|read\|opendir\|readdir\|readdirplus\)=[0-9]*'
  write read.txt hello
  export HM_LOG=debug
  start_hmfs
  cat "$M/workspace/read.txt" >/dev/null
  stop_hmfs
  unset HM_LOG
  grep -q "fuse requests: \($count \)*getxattr=[0-9]* listxattr=[0-9]* statfs=[0-9]* other=[0-9]*$" \
    "$T/hmfs.err" || fail "not counted: $(cat "$T/hmfs.err")"
  grep -q ' read=1 ' "$T/hmfs.err" || fail "not one read: $(cat "$T/hmfs.err")"
}

test_interrupt_unmounts() {
  start_hmfs
  stop_hmfs
  if grep -q " $M " /proc/mounts; then fail 'still mounted'; fi
}

test_wrong_arguments_are_refused_with_2() {
  local rc=0
  "$HMFS" 2>"$T/err" || rc=$?
  [[ $rc == 2 ]] || fail "exit $rc"
  rc=0
  "$HMFS" mount "$T/nowhere" -d "$W" 2>"$T/err" || rc=$?
  [[ $rc == 2 ]] || fail "exit $rc for a mount point that does not exist"
}

run_tests "$@"
