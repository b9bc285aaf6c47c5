"""What crash.py and faults.py share: a tiny pipeline whose results are known, a store that is
examined from outside, and the search for what a dead hm left behind.

The oracle: a step's output and the digest of its layer depend on the state of its workspace only,
so each state is run once from scratch on an empty store, and every later run is compared with that.
"""

import argparse
import dataclasses
import errno
import hashlib
import json
import os
import pwd
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ["dash", "cat", "ln"]
PATIENCE = 180  # seconds until something counts as hanging: the machine may be very slow
GOOD_EXITS = {0, 1, 4, 130}  # passed, step failed, infrastructure, cancelled


class Failure(Exception):
    """One of the checks failed."""


# ---------------------------------------------------------------------------------------------
# The pipeline and the states of its workspace


STEPS = {
    "a": (None, "auto", "cat in1; cat in1 > a.out; for n in 1 2 3 4; do echo $n > d.$n; done;"
                        "cat big > e.big; ln a.out a.hard; ln -s a.out a.sym"),
    "b": ("a", "auto", "read x < in2; echo $x; cat a.out sub/x in2 > b.out; cat b.out;"
                       "cat a.out > sub/new; echo more >> d.1"),
    "c": ("a", "auto", "if [ -e opt ]; then cat opt; else echo absent; fi > c.out;"
                       "cat c.out a.hard; for n in 1 2 3 4 5 6; do cat in1 > c.$n; done"),
    "see-b": ("b", "none", "cat a.out a.hard a.sym b.out d.* sub/*; cat e.big"),
    "see-c": ("c", "none", "cat a.out a.hard a.sym c.* d.* sub/*; cat e.big"),
}
# Few operations, for trying each of them.
SMALL_STEPS = {
    "a": (None, "auto", "cat in1; cat in1 > a.out; cat big > e.big; ln a.out a.hard"),
    "b": ("a", "auto", "cat in2; cat a.hard in2 > b.out"),
    "see-b": ("b", "none", "cat a.out a.hard b.out; cat e.big"),
}
CHOICES = {"in1": ["one\n", "two\n", "three\n"], "in2": ["x\n", "y\n"],
           "opt": [None, "there\n"], "big": ["line of a big file\n" * 9000, "other\n" * 50]}


def random_state(rng):
    return {name: rng.choice(values) for name, values in CHOICES.items()}


def state_key(state):
    return json.dumps(state, sort_keys=True)


def make_image(image):
    """An image of three programs and what they are linked against."""
    files = [Path("/bin") / name for name in PROGRAMS]
    for program in list(files):
        text = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        files += [Path(found) for found in re.findall(r"(/\S+) \(0x", text)]
    for file in files:
        target = image / str(file).lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    os.symlink("dash", image / "bin/sh")
    for path in [image, *image.rglob("*")]:
        os.utime(path, (631152000, 631152000), follow_symlinks=False)


def write_pipeline(workspace, image, mark, steps):
    lines = [f"image = {json.dumps(str(image))}"]
    for key, (parent, cache, run) in steps.items():
        lines += ["[[step]]", f'key = "{key}"', f'cache = "{cache}"',
                  f"run = {json.dumps(f': {mark}; {run}')}"]
        if parent is not None:
            lines.append(f'from = "{parent}"')
    (workspace / ".hm").mkdir(parents=True, exist_ok=True)
    (workspace / ".hm/ci.toml").write_text("\n".join(lines) + "\n")


@dataclasses.dataclass
class Result:
    exit_code: int
    logs: dict  # step → what it printed
    layers: dict  # step → digest of its layer
    hits: set
    stderr: str


def parse_events(exit_code, stdout, stderr):
    result = Result(exit_code, {}, {}, set(), stderr)
    keys = {}
    for line in stdout.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut off by the death of hm
        kind = event["kind"]
        if kind == "step_queued":
            keys[event["step_id"]] = event["key"]
        key = keys.get(event.get("step_id"))
        if kind == "step_log":
            result.logs.setdefault(key, []).append(event["line"])
        elif kind == "step_cache_hit":
            result.hits.add(key)
        elif kind == "step_end":
            result.layers[key] = event.get("snapshot")
    return result


# ---------------------------------------------------------------------------------------------
# Processes, mounts and connections that belong to a directory


def read_proc(pid, name):
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def tasks_of(pid):
    """The process itself and each thread: of a process that is half dead only threads tell."""
    try:
        return [f"{pid}", *(f"{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task"))]
    except OSError:
        return []


def leftovers(mark):
    """Processes that have to do with the directory or the steps named `mark`, but for ours."""
    needle = mark.encode()
    ours = {os.getpid(), os.getppid()}
    return [pid for pid in pids() if pid not in ours and any(
        needle in read_proc(task, name)
        for name in ("cmdline", "environ", "mountinfo")
        for task in (tasks_of(pid) if not read_proc(pid, "cmdline") else [pid]))]


def describe(pid):
    command = read_proc(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")[:120]
    state = read_proc(pid, "status").decode(errors="replace")
    lines = [f"  {pid}: {command or read_proc(pid, 'comm').decode().strip()} " +
             " ".join(re.findall(r"^(?:State|PPid|NSpid):.*$", state, re.M))]
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        tasks = []
    for task in tasks:
        stack = read_proc(pid, f"task/{task}/stack").decode()
        names = [line.split()[-1].split("+")[0] for line in stack.splitlines()[:6]]
        lines.append(f"    {task} " + (read_proc(pid, f"task/{task}/wchan").decode() or "?") + ": " +
                     " < ".join(names))
    return "\n".join(lines)


def children_of(pid):
    out = []
    for other in pids():
        match = re.match(rb".*\) \S (\d+)", read_proc(other, "stat"), re.S)
        if match and int(match.group(1)) == pid:
            out.append(other)
    return out


def descendants(pid):
    out, todo = [], [pid]
    while todo:
        below = children_of(todo.pop())
        out += below
        todo += below
    return out


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPERM):
            raise


def abort_fuse_connections_of(mark):
    """What only an unkillable process of ours needs."""
    lines = {line for pid in leftovers(mark) for task in tasks_of(pid)
             for line in read_proc(task, "mountinfo").decode(errors="replace").splitlines()
             if mark in line and " - fuse" in line}
    with tempfile.TemporaryDirectory() as control:
        subprocess.run(["mount", "-t", "fusectl", "none", control], check=False)
        for line in lines:
            minor = line.split()[2].split(":")[1]
            try:
                Path(control, minor, "abort").write_text("1")
            except OSError:
                pass
        subprocess.run(["umount", control], check=False)


def wait_until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    pause = 0.002
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
    return True


# ---------------------------------------------------------------------------------------------
# The store, seen from outside


def damaged_blobs(home):
    bad = []
    for blob in (home / "blobs").glob("*/*"):
        if not stat.S_ISREG(blob.lstat().st_mode):
            bad.append(f"{blob.name} is no file")
        elif hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name:
            bad.append(f"blob {blob.name} does not hash to its name")
    return bad


def damaged_database(home):
    uri = f"file:{home}/hm.db"
    with sqlite3.connect(uri, uri=True, timeout=60) as database:
        bad = [row[0] for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"]
        names = {bytes(value).hex() for row in database.execute(
            "SELECT path_set,trace,layer,log FROM records UNION ALL "
            "SELECT layer,mtimes,NULL,NULL FROM layers") for value in row if value}
        known = {bytes(row[0]) for row in database.execute("SELECT layer FROM layers")}
        bad += [f"record of an unknown layer {bytes(row[0]).hex()}" for row in
                database.execute("SELECT layer FROM records") if bytes(row[0]) not in known]
    database.close()
    return bad + [f"blob {name} is missing" for name in sorted(names)
                  if not (home / "blobs" / name[:2] / name).exists()]


class Bench:
    """A directory with workspaces, one store, and what runs from scratch give."""

    def __init__(self, args, workspaces=1, steps=None):
        self.steps = steps or STEPS
        # Resolved, since mounts are searched for by this name.
        self.base = Path(tempfile.mkdtemp(prefix="hm-torture-",
                                          dir="/dev/shm" if args.tmpfs else None)).resolve()
        self.hm = Path(args.hm).resolve()
        if args.user:
            self.hm = shutil.copy(self.hm, self.base)  # the user may not reach a checkout of ours
            become(args.user, self.base)
        self.mark = self.base.name
        self.home = self.base / "store"
        self.image = self.base / "image"
        make_image(self.image)
        self.states = [{} for _ in range(workspaces)]
        self.workspaces = [self.base / f"w{i}" for i in range(workspaces)]
        self.expected = {}
        self.verifies = self.has_verify()
        for i in range(workspaces):
            write_pipeline(self.workspaces[i], self.image, self.mark, self.steps)
            (self.workspaces[i] / "sub").mkdir()
            (self.workspaces[i] / "sub/x").write_text("of sub\n")
            self.set_state(i, {name: values[0] for name, values in CHOICES.items()})

    def close(self):
        for pid in leftovers(self.mark):
            kill(pid)
        shutil.rmtree(self.base, ignore_errors=True)

    def has_verify(self):
        text = subprocess.run([self.hm, "cache", "--help"], capture_output=True, text=True,
                              check=False).stdout
        return "verify" in text

    def set_state(self, index, state):
        """Like an editor: each changed file is replaced whole."""
        for name, content in state.items():
            path = self.workspaces[index] / name
            if self.states[index].get(name, "") == content:
                continue
            if content is None:
                path.unlink(missing_ok=True)
            else:
                fresh = self.base / "fresh"
                fresh.write_text(content)
                os.replace(fresh, path)
        self.states[index] = dict(state)

    def start(self, index=0, home=None, extra_env=(), options=()):
        """hm run in a process group of its own; its output goes to files."""
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        process = subprocess.Popen(
            [self.hm, "run", "ci", "--format", "json", "-d", str(self.workspaces[index]), *options],
            env={"PATH": os.environ["PATH"], "HM_HOME": str(home or self.home), **dict(extra_env)},
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        process.files = out, err
        return process

    def result(self, process):
        texts = []
        for file in process.files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return parse_events(process.returncode, *texts)

    def finish(self, process):
        """Waits for hm; a hang is a failure, and is ended."""
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            text = "\n".join(describe(pid) for pid in leftovers(self.mark))
            abort_fuse_connections_of(self.mark)
            kill(process.pid)
            raise Failure(f"hm hangs:\n{text}") from None
        return self.result(process)

    def run(self, index=0, home=None, extra_env=(), options=()):
        return self.finish(self.start(index, home, extra_env, options))

    def scratch_result(self, index):
        """What a run from scratch in this workspace gives; each state is run once."""
        key = state_key(self.states[index])
        if key not in self.expected:
            home = self.base / "scratch-store"
            shutil.rmtree(home, ignore_errors=True)
            result = self.run(index, home)
            shutil.rmtree(home)
            if result.exit_code != 0:
                raise Failure(f"a run from scratch exits {result.exit_code}: {result.stderr}")
            self.expected[key] = result.logs, result.layers
        return self.expected[key]

    # --- the four checks

    def check_ended_well(self, result):
        """An exit code that hm has, and for each failure of the machine a line that says which."""
        said = result.stderr.strip()
        if result.exit_code not in GOOD_EXITS:
            raise Failure(f"hm ended with {result.exit_code}: {said[-800:]}")
        if not all(line.startswith("hm: ") for line in said.splitlines()):
            raise Failure(f"hm said: {said[-800:]!r}")
        if result.exit_code == 4 and not said:
            raise Failure("exit 4 without a word")

    def check_outcome(self, index, result):
        """What hm says to be missing, the output of a cached step, may be missing."""
        want_logs, want_layers = self.scratch_result(index)
        for key in self.steps:
            log, want = result.logs.get(key), want_logs.get(key)
            said = key in result.hits and f"hm: step '{key}': " in result.stderr
            if log != want and not said:
                raise Failure(f"WRONG RESULT: {key} printed {log}"[:400] + f", not {want}"[:400])
            if result.layers.get(key) != want_layers.get(key):
                raise Failure(f"WRONG RESULT: another layer of {key}, " +
                              ("hit" if key in result.hits else "ran"))

    def check_nothing_survives(self):
        if not wait_until(lambda: not leftovers(self.mark)):
            text = "\n".join(describe(pid) for pid in leftovers(self.mark))
            abort_fuse_connections_of(self.mark)
            raise Failure(f"processes left:\n{text}")
        own = Path("/proc/self/mountinfo").read_text()
        if self.mark in own:
            raise Failure("mounts left in the machine's own namespace")

    def check_store(self):
        bad = damaged_blobs(self.home) + damaged_database(self.home)
        if bad:
            raise Failure("corrupt store: " + "; ".join(bad)[:600])
        if self.verifies:
            done = self.verify()
            if done.returncode != 0:
                raise Failure(f"hm cache verify: {(done.stdout + done.stderr).strip()[:600]}")

    def verify(self, *options):
        return subprocess.run([self.hm, "cache", "verify", *options], capture_output=True,
                              env={"PATH": os.environ["PATH"], "HM_HOME": str(self.home)},
                              text=True, timeout=PATIENCE, check=False)

    def check_clean_run(self, index):
        """A run without disturbance is right, and leaves no scratch, whoever died before."""
        result = self.run(index)
        if result.exit_code != 0:
            raise Failure(f"the run after it exits {result.exit_code}: {result.stderr[-600:]}")
        self.check_outcome(index, result)
        left = os.listdir(self.home / "scratch")
        if left:
            raise Failure(f"left in scratch: {left}")
        return result

    def check_all_hits(self, index):
        result = self.check_clean_run(index)
        wanted = {key for key, (_, cache, _) in self.steps.items() if cache == "auto"}
        if not wanted <= result.hits:
            raise Failure(f"not cached: {sorted(wanted - result.hits)}")


def become(name, directory):
    user = pwd.getpwnam(name)
    os.chown(directory, user.pw_uid, user.pw_gid)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def common_options(doc):
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    build = Path(__file__).resolve().parents[2] / "build"
    parser.add_argument("--hm", default=build / "tools/hm")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, help="begin nothing new after that long")
    parser.add_argument("--tmpfs", action="store_true", help="the store is in /dev/shm")
    parser.add_argument("--user", help="run everything as this user (for root)")
    return parser


class Watch:
    def __init__(self, seconds):
        self.started = time.monotonic()
        self.seconds = seconds

    def passed(self):
        return time.monotonic() - self.started

    def is_over(self):
        return self.seconds is not None and self.passed() > self.seconds
