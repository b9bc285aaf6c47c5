#!/usr/bin/env bash
# What a hostile step can try, tried for real: each attempt is refused and the host stays as it was.
# The tries themselves are in attempts.py, which the step runs.
# shellcheck source=lib.sh disable=SC2119
. "$(dirname "$0")/lib.sh"

# attempts_in NETWORK NAME…: runs attempts.py NAME… in a step; every try must be refused.
attempts_in() {
  local network=$1
  shift
  cp "$E2E_DIR/attempts.py" "$W/attempts.py"
  pipeline_toml <<TOML
[[step]]
key = "hostile"
run = "python3 attempts.py $*"
network = "$network"
cache = "none"
TOML
  run_ok
  assert_all_refused "$1"
}

attempts() {
  attempts_in host "$@"
}

# assert_all_refused NAME: of the last run's step; and all of the tries were made.
assert_all_refused() {
  local log
  log=$(log_of hostile)
  if grep -F 'GOT IN' <<<"$log"; then fail "$1: not everything was refused"; fi
  [[ $log == *$'\nend of the attempts' ]] || fail "$1: the attempts did not end: $log"
  (($(grep -c '^refused: ' <<<"$log") >= 2)) || fail "$1: hardly anything was tried: $log"
}

# ---------------------------------------------------------------------------------------------
# Processes, devices, mounts, the kernel

test_processes_outside() {
  sleep 98765 &
  local pid=$! priority
  priority=$(ps -o ni= -p "$pid")
  attempts processes "$pid"
  kill -0 "$pid" || fail 'the process outside was ended'
  [[ $(ps -o ni= -p "$pid") == "$priority" ]] || fail 'its priority was changed'
  kill "$pid"
}

test_files_shared_with_the_host() {
  local before paths=(/usr/bin/bwrap /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
    /etc/hosts /etc/resolv.conf /proc/cpuinfo /proc/meminfo)
  before=$(stat -L -c '%n %a %u %g %Z' "${paths[@]}" 2>/dev/null || true)
  attempts shared_inodes
  [[ $(stat -L -c '%n %a %u %g %Z' "${paths[@]}" 2>/dev/null || true) == "$before" ]] ||
    fail 'a file of the host was changed'
}

test_devices() {
  attempts devices
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = 'ls /dev; echo written >/dev/null; head -c 2 /dev/zero | wc -c'
TOML
  run_ok
  assert_log s core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero 2
}

test_mounts() {
  attempts mounts
}

test_namespaces() {
  attempts namespaces
}

test_settings_of_the_kernel() {
  local pattern
  pattern=$(cat /proc/sys/kernel/core_pattern)
  attempts settings
  [[ $(cat /proc/sys/kernel/core_pattern) == "$pattern" ]] || fail 'core_pattern was changed'
}

test_kernel_interfaces() {
  attempts kernel
}

# The caller has a session keyring with a key in it; hm and its steps inherit it.
test_keyrings() {
  cp "$E2E_DIR/attempts.py" "$W/attempts.py"
  pipeline_toml <<'TOML'
[[step]]
key = "hostile"
run = "python3 attempts.py keyrings"
cache = "none"
TOML
  OUT=$T/run.jsonl
  python3 -c '
import ctypes, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
if libc.syscall(keyctl, 1, None) == -1: sys.exit(77)  # KEYCTL_JOIN_SESSION_KEYRING
if libc.syscall(add_key, b"user", b"hm-escape", b"secret", 6, -3) == -1: sys.exit(77)
if libc.syscall(keyctl, 10, -3, b"user", b"hm-escape", 0) == -1: sys.exit("no key to steal")
os.execv(sys.argv[1], sys.argv[1:])' "$HM" run ci --format json -d "$W" >"$OUT" || RC=$?
  [[ $RC != 77 ]] || skip 'no keyrings here'
  [[ $RC == 0 ]] || fail "hm exited $RC"
  assert_all_refused keyrings
}

# hm has a terminal: it is its controlling one, and it is all that hm has on 0 to 2.
test_terminal_of_the_caller() {
  cp "$E2E_DIR/attempts.py" "$W/attempts.py"
  pipeline_toml <<'TOML'
[[step]]
key = "hostile"
run = "python3 attempts.py terminal"
cache = "none"
TOML
  python3 -c '
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))' \
    "$HM" run ci -d "$W" </dev/null >"$T/terminal" || fail "hm failed: $(cat "$T/terminal")"
  assert_all_refused terminal
}

test_ipc_of_the_host() {
  local key=$((0x5e000000 + $$))
  python3 -c '
import ctypes, sys
libc, key = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
flags = 0o1000 | 0o666
made = [libc.shmget(key, 4096, flags), libc.msgget(key, flags), libc.semget(key, 1, flags)]
if -1 in made or libc.mq_open(sys.argv[2].encode(), 0o100, 0o666, None) == -1: sys.exit(77)
' "$key" "/hm-$key" || skip 'no System V or POSIX message queues here'
  REMOVE_AT_END+=("/dev/mqueue/hm-$key")
  attempts ipc "$key" "/hm-$key"
  python3 -c '
import ctypes, sys
libc, key = ctypes.CDLL(None), int(sys.argv[1])
libc.shmctl(libc.shmget(key, 0, 0), 0, None)
libc.msgctl(libc.msgget(key, 0), 0, None)
libc.semctl(libc.semget(key, 0, 0), 0, 0)
if libc.mq_unlink(sys.argv[2].encode()) == -1: sys.exit("the queue is gone")' "$key" "/hm-$key"
}

test_network_none_reaches_nothing_of_the_host() {
  python3 -c '
import socket, sys, time
name = socket.socket(socket.AF_UNIX); name.bind("\0" + sys.argv[1]); name.listen()
port = socket.socket(); port.bind(("127.0.0.1", 0)); port.listen()
print(port.getsockname()[1], flush=True)
time.sleep(300)' "hm-$$" >"$T/port" &
  wait_until 10 test -s "$T/port" || fail 'no listener'
  pipeline_toml <<TOML
[[step]]
key = "reaches"
run = '''python3 -c 'import socket; socket.create_connection(("127.0.0.1", $(cat "$T/port")))' '''
TOML
  run_ok
  attempts_in none network "hm-$$" "$(cat "$T/port")"
}

# ---------------------------------------------------------------------------------------------
# What a step inherits and what it leaves

test_descriptors_and_environment_of_the_caller() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = '''
for fd in /proc/self/fd/*; do readlink "$fd"; done | sed 's/[0-9]//g' | sort -u
for fd in /proc/1/fd/*; do readlink "$fd"; done | grep -v -e pipe: -e /dev/null -e eventfd
cat /proc/*/environ | tr '\0' '\n' | grep HM_E2E_PRIVATE
head -c 20 /proc/1/cmdline | tr '\0' ' '; echo'''
TOML
  mkdir -p "$HM_HOME"
  HM_E2E_PRIVATE=value-of-the-caller run_ok 7<"$HM_HOME" 8</ 9>"$T/written"
  assert_log s /dev/null 'pipe:[]' 'bwrap --args 3 -- /b'
}

test_background_processes_die_with_the_step() {
  local mark=9876$((RANDOM % 900 + 100)).$$
  pipeline_toml <<TOML
[[step]]
key = "s"
run = '''
nohup sleep $mark >/dev/null 2>&1 &
setsid sleep $mark &
(setsid sh -c 'trap "" TERM HUP INT; sleep $mark' &) &
python3 -c 'import os, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 32):
            if number not in (9, 19): signal.signal(number, signal.SIG_IGN)
        os.execvp("sleep", ["sleep", "$mark"])
'
sleep 0.2; echo ended'''
TOML
  run_ok
  assert_log s ended
  [[ -z $(pids_running sleep "$mark") ]] || fail 'a process of the step is still there'
  ((SECONDS < 60)) || fail 'hm waited for them'
}

test_set_user_id_files_stay_in_the_sandbox() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = '''
cp /bin/true su; chmod 6755 su; mkdir d; chmod 3777 d; ln su d/su2
test -u su && setpriv --reuid 65534 --clear-groups ./su 2>/dev/null; sleep 1; echo made'''
TOML
  run_hm &
  local run=$!
  wait_until 30 has_upper_file su || fail 'the file was not seen in the scratch directory'
  assert_private_directories
  wait "$run"
  OUT=$T/run1.jsonl
  assert_log s made
  [[ -z $(find "$HM_HOME" -perm /6000 -type f) ]] || fail 'a set-user-id file is in the store'
  [[ -z $(find "$HM_HOME/blobs" -type f -perm /0333) ]] || fail 'a blob can be written or run'
  assert_private_directories
  [[ -z $(find "$(exported s /workspace)" -perm /6000) ]] || fail 'set-user-id bits were exported'
}

has_upper_file() {
  [[ -n $(find "$HM_HOME/scratch" -name "$1" 2>/dev/null) ]]
}

assert_private_directories() {
  [[ $(stat -c %a "$HM_HOME/scratch" "$HM_HOME/blobs" | sort -u) == 700 ]] ||
    fail 'others can look into the store'
}

# ---------------------------------------------------------------------------------------------
# Files of the host, the store, other steps

# The host's root as the image, and a directory with the store in it as another.
test_outside_files_and_the_store() {
  echo secret >"$T/outside"
  attempts outside "$T/outside" "$HM_HOME/hm.db" "$HM_HOME" "$T"
  mkdir -p "$T/image/bin" "$T/image/home" "$T/image/proc" "$T/image/dev"
  cp "$(command -v busybox)" "$T/image/bin/sh" || skip 'no busybox'
  export HM_HOME=$T/image/home/store
  pipeline_toml <<TOML
image = "$T/image"
[[step]]
key = "s"
run = '''
echo in /home: /home/*
for dir in /home/store /home/store/blobs; do test -e \$dir && echo seen; done
cd /home/store 2>/dev/null && echo entered
true'''
TOML
  run_ok
  assert_log s 'in /home: /home/*'
}

# Both steps run; neither sees a trace of the other's files.
test_files_of_a_step_that_runs_beside() {
  local mark=beside-${T##*.}
  pipeline_toml <<TOML
[[step]]
key = "a"
run = '''
for d in . /tmp /dev/shm /run; do echo $mark >\$d/$mark-a; done
sleep 1; ls -d /*/$mark-* $mark-* /dev/shm/* | sort'''
[[step]]
key = "b"
run = '''
for d in . /tmp /dev/shm /run; do echo $mark >\$d/$mark-b; done
sleep 1; ls -d /*/$mark-* $mark-* /dev/shm/* | sort'''
TOML
  run_ok --parallelism 2
  local step
  for step in a b; do
    assert_log "$step" "/dev/shm/$mark-$step" "/run/$mark-$step" "/tmp/$mark-$step" \
      "/workspace/$mark-$step" "$mark-$step"
  done
}

test_links_of_the_workspace_are_not_followed() {
  local secret=secret-${T##*.}
  echo "$secret" >"$T/outside"
  mkdir "$T/folder"
  echo "$secret" >"$T/folder/file"
  ln -s "$T/outside" "$W/absolute"
  ln -s ../outside "$W/relative"
  ln -s /proc/1/root "$W/proc"
  ln -s "$T/folder" "$W/folder"
  ln -s /etc/shadow "$W/shadow"
  pipeline_toml <<'TOML'
[[step]]
key   = "s"
cache = { on_change = ["absolute", "relative", "folder/**", "shadow"] }
run   = '''
cat absolute relative folder/file shadow proc/etc/shadow 2>/dev/null; ls folder/ 2>/dev/null
mkdir copies; cp -a absolute relative folder copies
sh -c 'echo through >absolute' 2>/dev/null; sh -c 'echo through >relative' 2>/dev/null
readlink absolute relative | wc -l'''
TOML
  run_ok
  assert_log s 2
  [[ $(cat "$T/outside" "$T/folder/file") == "$secret"$'\n'"$secret" ]] || fail 'written through'
  ! grep -rqF "$secret" "$HM_HOME" || fail 'the store has bytes from outside'
}

# Links, names with dots and newlines, a directory where the parent had a link to the host.
test_export_never_leaves_its_destination() {
  mkdir "$T/victim"
  echo old >"$T/victim/file"
  pipeline_toml <<TOML
[[step]]
key = "a"
run = '''
mkdir out; cd out; ln -s $T/victim dir; ln -s $T/victim/file file; ln -s ../../../../.. up
printf x >'...' ; printf x >'..x'; printf x >'-rf'; printf x >"\$(printf 'a\nb')"; ln -s . self
mkdir -p deep/deep; ln -s $T/victim deep/deep/dir'''
[[step]]
key  = "b"
from = "a"
run  = '''
cd out; rm dir; mkdir dir; echo new >dir/file; rm file; echo new >file
rm deep/deep/dir; mkdir deep/deep/dir; echo new >deep/deep/dir/file'''
TOML
  run_ok
  local before dest
  before=$(find "$T/victim" -printf '%p %i %C@ %s\n'; cat "$T/victim/file")
  dest=$(exported a /workspace/out)
  [[ $(readlink "$dest/dir") == "$T/victim" && -e $dest/... && -e $dest/..x ]] || fail 'not exported'
  dest=$(exported b /workspace/out)
  [[ $(cat "$dest/dir/file" "$dest/file" "$dest/deep/deep/dir/file") == $'new\nnew\nnew' ]] ||
    fail 'the second step is not exported as it is'
  local rc path
  for path in /workspace/out/dir/file /workspace/out/up/etc/shadow /workspace/out/file/../../x; do
    rc=0
    "$HM" export -d "$W" a "$path" "$T/dest" 2>"$T/error" || rc=$?
    [[ $rc == 2 && ! -e $T/dest ]] || fail "export of $path: exit $rc, $(cat "$T/error")"
  done
  ln -s "$T/victim" "$T/link"
  rc=0
  "$HM" export -d "$W" b /workspace/out "$T/link" 2>"$T/error" || rc=$?
  [[ $rc == 2 ]] || fail "export onto a link: exit $rc, $(cat "$T/error")"
  [[ $(find "$T/victim" -printf '%p %i %C@ %s\n'; cat "$T/victim/file") == "$before" ]] ||
    fail 'the victim was changed'
}

run_tests "$@"
