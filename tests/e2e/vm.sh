#!/usr/bin/env bash
# Steps in virtual machines: the same results as in namespaces, and nothing left behind.
#
#   tests/e2e/vm.sh                   what tools/check runs: a few minutes where there is no KVM
#   HM_TEST_LONG=1 tests/e2e/vm.sh    also what takes long
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

E2E_DEFAULT_TIMEOUT=600

needs_long() {
  [[ -n ${HM_TEST_LONG:-} ]] || skip 'takes long: set HM_TEST_LONG=1'
}

run_vm() {
  run_rc "$1" --backend vm "${@:2}"
}

# same_in_both KEY…: everything runs in namespaces and then again in machines: traces and layers
# are equal.
same_in_both() {
  local key layers
  run_ok
  layers=$(layers_of)
  for key in "$@"; do "$HM" trace -d "$W" "$key" >"$T/$key.namespace"; done
  run_vm 0 --no-cache
  assert_ran "$@"
  for key in "$@"; do
    "$HM" trace -d "$W" "$key" >"$T/$key.vm"
    diff "$T/$key.namespace" "$T/$key.vm" || fail "the trace of $key differs"
  done
  [[ $(layers_of) == "$layers" ]] || fail 'the layers differ'
}

layers_of() {
  jq -r 'select(.kind == "step_end") | .snapshot' "$OUT" | sort
}

test_output_and_exit_codes() {
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "both"
run = "echo out; echo err >&2; pwd; echo $HOME $GREETING; exit 3"
env = { GREETING = "hello" }
[[step]]
key = "signal"
run = "kill -9 $$"
TOML
  run_vm 1 -k
  [[ $(step_events both | jq -r 'select(.kind == "step_log") | "\(.stream) \(.line)"' | sort) == \
    $'stderr err\nstdout /root hello\nstdout /workspace\nstdout out' ]] || fail 'wrong output'
  [[ $(step_events both | jq 'select(.kind == "step_end") | .exit_code') == 3 ]] || fail 'not 3'
  [[ $(step_events signal | jq 'select(.kind == "step_end") | .exit_code') == 137 ]] || fail 'not 137'
}

# Names, contents, whiteouts, opaque directories, links, modes, owners, attributes, devices' absence.
test_traces_and_layers_are_those_of_a_namespace() {
  needs_root 'owners differ without'
  use_vm
  write read.txt one
  write docs/a a
  write docs/b b
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = """
cat read.txt; ls docs; test -e absent; test -e /etc/hostname
mkdir -p made/deep && echo x > made/deep/file && ln made/deep/file made/link && ln -s file made/soft
mkfifo made/fifo; touch made/empty; chmod 4750 made/empty; chown 12:34 made/empty
cp -p read.txt made/copied; echo more >> docs/b; echo t > /tmp/t
"""
[[step]]
key = "child"
from = "parent"
run = """
rm -r docs && mkdir docs && echo new > docs/a && rm made/link read.txt
mv made/deep made/moved; find made docs -printf '%p %y %m %U:%G %l\\n' | sort; cat made/moved/file
"""
TOML
  same_in_both parent child
}

test_results_are_shared_with_namespaces() {
  needs_root 'without, a namespace has one id and a machine all'
  use_vm
  write a.txt a
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "cat a.txt; echo a > made"
[[step]]
key = "b"
from = "a"
run = "cat made"
TOML
  run_ok
  assert_ran a b
  run_vm 0
  assert_hit a b
  write a.txt 'another a'
  run_vm 0
  assert_ran a
  assert_hit b
  run_ok
  assert_hit a b
}

# What is mounted where and how; capabilities, limits, and the like. Below /proc and /sys each
# kernel has its own.
test_sandbox_is_that_of_a_namespace() {
  needs_root 'without, a namespace lacks what a machine has'
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "s"
cache = "none"
run = """
awk '$2 !~ "^/(proc|sys)/" { split($4, o, ","); print $2, $3 == "ext4" || $2 ~ "^/etc/" ? "-" : $3, o[1], $4 ~ /nosuid/, $4 ~ /nodev/, $4 ~ /noexec/ }' /proc/self/mounts | sort
grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp|Groups|Umask|Uid|Gid)' /proc/self/status | tr -s '\\t ' ' '
ulimit -a; id; hostname; cat /etc/hostname; stat -c '%n %A %s %Y' /etc/hosts; ls -A / /dev /run /tmp /sys/firmware; env | sort; echo $$
readlink /proc/self/fd/0; test -w /proc/sys/kernel/core_pattern || echo read-only
"""
TOML
  run_ok
  log_of s >"$T/namespace"
  run_vm 0
  log_of s >"$T/vm"
  diff "$T/namespace" "$T/vm" || fail 'they differ'
}

# Less would be a request for every piece of a program that is mapped.
test_a_megabyte_is_read_ahead() {
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "s"
cache = "none"
run = "cat /sys/class/bdi/*/read_ahead_kb | sort -n | tail -n 1"
TOML
  run_vm 0
  assert_log s 1024
}

# A session that cannot go on ends the machine at once: what the command does then does not count.
test_an_attempt_that_starts_over_is_ended_early() {
  use_vm
  setfattr -n user.mark -v seen "$T" 2>/dev/null || skip 'no user attributes on this filesystem'
  local root=$T/root
  mkdir -p "$root/bin"
  cp "$(command -v busybox)" "$root/bin/sh"
  echo x >"$root/marked"
  setfattr -n user.mark -v seen "$root/marked"
  write which none
  write minutes 0
  pipeline_toml <<TOML
image = "$root"
[[step]]
key = "s"
run = '''
read which <which
test \$which = none || { cat /marked || { trap "" TERM; echo stuck; sleep 3600; }; }
'''
TOML
  run_vm 0
  write which marked
  local began=$SECONDS
  run_vm 0
  assert_log s x
  grep -q 'starts over: /marked has extended attributes' "$OUT" "$ERR" || fail 'no word of it'
  ((SECONDS - began < 300)) || fail 'it was not ended early'
}

test_passthrough_cannot_be_required() {
  use_vm
  printf '[[step]]\nkey = "s"\nrun = "true"\n' | pipeline_toml
  run_vm 2 --passthrough=require
  grep -q -e '^hm: --passthrough=require: steps in virtual machines' "$ERR" || fail 'it says something else'
  run_vm 0 --passthrough=auto
}

test_temporary_files_and_what_is_empty() {
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "ls -A /tmp /var/tmp; mktemp /tmp/XXXXXX > /dev/null; echo made"
TOML
  run_vm 0
  run_vm 0
  assert_hit s
}

test_timeout_ends_the_machine() {
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "trap 'echo told; exit 0' TERM; echo started; while true; do sleep 0.1; done"
timeout = "15s"
TOML
  run_vm 1
  [[ $(step_events s | jq 'select(.kind == "step_end") | .exit_code') == 124 ]] || fail 'not 124'
  assert_log_has s told
  wait_until 5 no_machines_of "$T" || fail 'a machine is left'
}

# killed SIGNAL STEPS: hm gets it while so many steps run, each in a machine of its own.
killed() {
  local i
  use_vm
  for ((i = 0; i < $2; i++)); do
    printf '[[step]]\nkey = "s%d"\nrun = "echo started; : %d; sleep 3600"\n' "$i" "$i"
  done | pipeline_toml
  "$HM" run "$PIPELINE" --backend vm --parallelism "$2" --format json -d "$W" \
    >"$T/killed.jsonl" 2>"$T/killed.stderr" &
  local pid=$!
  wait_until 300 have_started "$2" || fail 'the steps did not start'
  [[ $(machines_of "$T" | wc -l) == "$2" ]] || fail 'the machines cannot be seen'
  kill "-$1" "$pid"
  RC=0
  wait "$pid" || RC=$?
  wait_until 10 no_machines_of "$T" || fail 'a machine is left'
}

have_started() {
  [[ $(grep -c '"started"' "$T/killed.jsonl") == "$1" ]]
}

nothing_in_scratch() {
  local left
  left=$(find "$HM_HOME/scratch" -mindepth 1)
  [[ -z $left ]] || fail "left in scratch: $left"
}

test_killed_hm_leaves_nothing_behind() {
  killed KILL 1
  printf '[[step]]\nkey = "s"\nrun = "echo again"\n' | pipeline_toml
  run_vm 0
  nothing_in_scratch
}

test_killed_hm_with_two_machines_leaves_nothing_behind() {
  (($(nproc) > 1)) || skip 'needs two processors'
  killed KILL 2
  printf '[[step]]\nkey = "s"\nrun = "echo again"\n' | pipeline_toml
  run_vm 0
  nothing_in_scratch
}

test_interrupted_hm_ends_with_130() {
  killed INT 1
  [[ $RC == 130 ]] || fail "exit code $RC"
}

# The one drive is a file that has no name, and what a step did not read is nowhere.
test_there_is_no_image() {
  use_vm
  write read.txt read
  write marker.txt hm-marker-0123456789
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "cat read.txt"
TOML
  run_vm 0 -v
  local line
  line=$(grep -F qemu-system "$ERR") || fail 'no command line'
  [[ $(grep -oE -- '-(drive|hd[a-d]|cdrom|fsdev|virtfs|pflash|blockdev)' <<<"$line") == -blockdev ]] ||
    fail "more than one drive: $line"
  [[ $line == *"filename=/dev/fdset/1"* ]] || fail "the drive has a name: $line"
  if grep -rlF hm-marker-0123456789 "$HM_HOME/"; then fail 'the marker is in the store'; fi
  if grep -lF hm-marker-0123456789 "$E2E_GUESTS"/*; then fail 'the marker is in a saved guest'; fi
}

# Its memory is mapped by every machine that starts from it.
test_a_step_leaves_the_saved_guest_as_it_was() {
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "head -c 8M /dev/urandom > big; echo hm-marker-of-a-step > f; sort big f > /tmp/sorted; cat f"
TOML
  run_vm 0
  local guest before
  guest=$(find "$E2E_GUESTS" -name 'guest-*' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)
  before=$(sha256sum "$guest")
  run_vm 0 --no-cache
  assert_log s hm-marker-of-a-step
  [[ $(sha256sum "$guest") == "$before" ]] || fail 'the saved guest was written to'
  if grep -qaF hm-marker-of-a-step "$guest"; then fail 'the step is in the saved guest'; fi
}

test_what_is_missing_is_said() {
  use_vm
  printf '[[step]]\nkey = "s"\nrun = "true"\n' | pipeline_toml
  printf '[vm]\nkernel = "/nowhere/vmlinuz"\n' >"$W/.hm/config.toml"
  run_vm 4
  local line
  line=$("$HM" vm check -d "$W" | grep ^kernel) || true
  grep -qF "${line:-no line}" "$ERR" || fail "the run says something else than '$line'"
  if "$HM" vm check -d "$W" >/dev/null; then fail 'hm vm check is content'; fi
  printf '[vm]\nkernal = "/nowhere/vmlinuz"\n' >"$W/.hm/config.toml"
  run_vm 7
}

test_a_guest_that_cannot_be_saved_is_said() {
  use_vm
  rm "$HM_HOME/vm"
  mkdir -m 700 "$HM_HOME/vm"
  mkdir "$HM_HOME/vm/lock" # not a file
  pipeline_toml <<'TOML'
[[step]]
key = "a"
run = "echo one"
[[step]]
key = "b"
run = "echo two"
TOML
  run_vm 0 --parallelism 1
  assert_log a one
  assert_log b two
  [[ $(grep -hc "^hm: steps wait for .*none could be saved: .*/vm/lock: Is a directory" "$ERR") == 1 ]] ||
    fail 'not said once'
}

test_network_of_the_host_and_none() {
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "none"
network = "none"
run = "ls /sys/class/net; cat /proc/net/route | wc -l"
[[step]]
key = "host"
run = "ls /sys/class/net; grep nameserver /etc/resolv.conf"
[[step]]
key = "name"
run = "getent hosts deb.debian.org > /dev/null && echo resolved"
TOML
  run_hm --backend vm -k
  assert_log none lo 1
  assert_log_has host eth0
  assert_log_has host 10.0.2.3
  if timeout 10 getent hosts deb.debian.org >/dev/null; then assert_log name resolved; fi
}

test_memory_limit() {
  use_vm
  pipeline_toml <<'TOML'
[[step]]
key = "s"
memory = "64M"
run = "python3 -c 'b = bytearray(200 << 20); print(len(b))'; echo survived"
TOML
  run_vm 1
  [[ $(step_events s | jq 'select(.kind == "step_end") | .exit_code') == 137 ]] || fail 'not 137'
}

test_many_steps_leave_nothing_behind() {
  needs_long
  use_vm
  local i
  for ((i = 0; i < 20; i++)); do
    printf '[[step]]\nkey = "s%d"\nrun = "echo %d > out; cat out"\n' "$i" "$i"
  done | pipeline_toml
  run_vm 0 --parallelism 2
  no_machines_of "$T" || fail 'a machine is left'
  nothing_in_scratch
}

# Boots do hang now and then where they are emulated; then one is tried again, which counts as well.
case_timeout test_boots_come_to_an_end 3600
test_boots_come_to_an_end() {
  needs_long
  use_vm
  rm "$HM_HOME/vm"
  mkdir -m 700 "$HM_HOME/vm"
  printf '[[step]]\nkey = "s"\ncache = "none"\nrun = "true"\n' | pipeline_toml
  local i again=0
  for ((i = 0; i < ${HM_TEST_BOOTS:-200}; i++)); do
    rm -f "$HM_HOME"/vm/guest-*
    run_vm 0
    if grep -q 'trying once more' "$OUT" "$ERR" || ! compgen -G "$HM_HOME/vm/guest-*" >/dev/null; then
      again=$((again + 1))
    fi
    rm "$OUT" "$ERR"
  done
  printf '%d boots, %d of them tried again\n' "$i" "$again"
}

test_more_is_written_than_there_is_memory() {
  needs_long
  use_vm
  sed -i 's/512M/1G/' "$W/.hm/config.toml"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "head -c 5G /dev/zero > big; stat -c %s big; rm big"
TOML
  run_vm 0
  assert_log s 5368709120
}

run_tests "$@"
