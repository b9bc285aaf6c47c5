#!/usr/bin/env python3
"""The torture oracle: a cached run must leave what a run from scratch leaves.

A case is a workspace, a pipeline of steps that execute random operations (torture_ops.cc), and a
list of rounds of edits to the workspace. After each round the pipeline runs on the case's own
store, and once more on an empty one; what every step printed, and every entry of the views they
left, must be equal. It also counts precision: what ran although nothing that it saw had changed.

    torture.py --hm build/tools/hm --ops build/tests/torture_ops --tmpfs --seed 1 --cases 300

A case counts as one (pipeline, edit) pair. Exit code 1 when there was a divergence.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OLD_TIME = 631152000  # 1990: every file of the image


# ---------------------------------------------------------------------------------------------
# Cases. Names and words are escaped as in torture_ops.cc, so a case is plain JSON.


def escape(data):
    if isinstance(data, str):
        data = data.encode()
    out = "".join(chr(c) if 32 < c < 127 and c != 37 else f"%{c:02x}" for c in data)
    return out or "%"


def unescape(word):
    if word == "%":
        return b""
    out = bytearray()
    i = 0
    while i < len(word):
        if word[i] == "%":
            out.append(int(word[i + 1 : i + 3], 16))
            i += 3
        else:
            out.append(ord(word[i]))
            i += 1
    return bytes(out)


@dataclasses.dataclass
class Step:
    key: str
    parent: str | None
    ops: list  # lines of the operation language
    checked: bool  # whether the view that it leaves is compared; its leaves' always are

    def command(self):
        return "\n".join(self.ops) or "#"


@dataclasses.dataclass
class Case:
    seed: int
    workspace: list  # edits that make it
    steps: list
    rounds: list  # each a list of edits; an empty one changes nothing

    def to_json(self):
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text):
        data = json.loads(text)
        data["steps"] = [Step(**step) for step in data["steps"]]
        return Case(**data)


# ---------------------------------------------------------------------------------------------
# The generator


LONG_NAME = "n" * 255
ODD_NAME = escape(b"\xff\xfe odd%")
FILE_NAMES = ["a", "b", "c", "e"] * 5 + [ODD_NAME, LONG_NAME, "x.o"]
DIR_NAMES = ["d"] * 4 + ["f"] * 2 + ["g"]
TEXTS = ["%", "1", "2", "one", "two", "a", "b", "d/a", "longer-text", "another-txt", "x" * 40]
SIZES = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 200000]
MODES = ["0644", "0600", "0755", "0444", "0000", "4755", "1777", "2755", "0711"]
XATTRS = ["user.a", "user.b", "user.overlay.opaque", "user.overlay.x", "trusted.a",
          "security.a", "user." + "x" * 40]
IGNORE_LINES = ["*.o", "b", "/a", "d/", "!a", "g/*", "!g/a", "**/c", "#", "f"]
LOOKS = ("stat", "lstat", "open", "read ", "pread", "mmap", "access", "readlink", "list ", "listsome",
         "catall", "getxattr", "listxattr", "newer", "follow")
IMAGE_FILES = ["/data/a", "/data/b", "/data/empty", "/data/big", "/data/link", "/data/loop",
               "/data/hard1", "/data/hard2", "/data/attr", "/data/d/a", "/data/d/b", "/data/d",
               "/data", "/data/ro", "/data/suid", "/o/a", "/o/d/b"]


class Generator:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.seed = seed
        self.used = []  # workspace paths that operations name: edits prefer them
        self.written = ["/o/a"]  # what operations wrote, for comparing times
        self.times = "compared" if self.rng.random() < 0.5 else "set"

    def pick(self, items):
        return self.rng.choice(items)

    def chance(self, probability):
        return self.rng.random() < probability

    def relative(self):
        path = self.new_relative()
        self.used.append(path)
        return path

    def new_relative(self):
        parts = [self.pick(DIR_NAMES) for _ in range(self.pick([0, 0, 0, 0, 1, 1, 1, 2]))]
        return "/".join(parts + [self.pick(FILE_NAMES if self.chance(0.85) else DIR_NAMES)])

    def out_path(self):
        if self.chance(0.3):
            return "/o/" + self.pick("abc")
        return self.pick(["/o/", "/o/", "/o/", "/tmp/", "/var/tmp/", "/", "/etc/"]) + self.relative()

    def path(self):
        """Any path; most in the workspace."""
        r = self.rng.random()
        if r < 0.55:
            return self.relative()
        if r < 0.60:
            return "/workspace/" + self.relative()
        if r < 0.80:
            return self.out_path()
        if r < 0.95:
            return self.pick(IMAGE_FILES)
        return self.pick(["/", "/workspace", "/etc", "/etc/hosts", "/tmp", "/bin/sh", "/nowhere/a",
                          ".git", ".hm", ".gitignore", "../data/a", "d/../a", "/o", "/var/tmp",
                          "/" + "/".join([LONG_NAME] * 8)])

    def writable(self):
        path = self.new_writable()
        self.written.append(path)
        return path

    def new_writable(self):
        r = self.rng.random()
        if r < 0.45:
            return self.relative()
        if r < 0.85:
            return self.out_path()
        return self.pick(IMAGE_FILES)

    def directory(self):
        return self.pick([".", ".", "d", "f", "g", "d/d", "/o", "/o/d", "/data", "/data/d", "/",
                          "/tmp", "/workspace", "/etc", "d/f"])

    def target(self):
        return self.pick(["a", "b", "d", "d/a", "../a", "/data/a", "/workspace/b", "nowhere",
                          "e", "c", "/o/a", ".", "x" * 300])

    def look(self):
        p = self.path()
        d = self.directory()
        return self.pick([
            f"stat {p}", f"lstat {p}", f"stat {p}", f"lstat {p}",
            f"open {p} {self.pick(['r', 'rn', 'p', 'pn', 'd', 'w', 'rw', 'wa', 'rN', 'rs'])}",
            f"read {p} r", f"read {p} r", f"read {p} r", f"read {p} {self.pick(['rn', 'rw', 'd'])}",
            f"pread {p} {self.pick([0, 1, 3, 4096, 65536])} {self.pick([0, 1, 4096])}",
            f"mmap {p} {self.pick('sp')} {self.pick([0, 1, 4096])} {self.pick([1, 4096, 65536])}",
            f"access {p} {self.pick([0, 1, 2, 4, 7])}",
            f"readlink {p}", f"readlink {p}",
            f"list {d}", f"list {d}", f"listsome {d} {self.pick([0, 1, 2])}",
            f"statall {d}", f"catall {d}",
            f"getxattr {p} {self.pick(XATTRS)}", f"listxattr {p}",
            f"openat2 {self.relative()} {self.pick(['b', 'bs', 'bx', 'r', 's', '-'])}",
            f"exec {self.pick(['./x.o', './a', 'd/a', '/o/a', self.path()])}",
            f"follow {p}", f"follow {self.relative()}",
            f"newer {p} {self.path()}" if self.times == "compared" else f"stat {p}",
        ])

    def change(self):
        p, q, d = self.writable(), self.writable(), self.directory()
        text = self.pick(TEXTS)
        subdir = self.pick(["d", "f", "g", "d/d", "/o/d", "/o/f", "/data/d", "/o"])
        return self.pick([
            f"write {p} {text}", f"write {p} {text}", f"write {p} {text}",
            f"create {p} {text}", f"append {p} {text}", f"append {p} {text}",
            f"pwrite {p} {self.pick([0, 1, 2, 5000])} {text}",
            f"fill {p} {self.pick(SIZES)} {self.pick([1, 2])}",
            f"mapwrite {p} {self.pick([0, 1])} {self.pick(['X', 'YY'])}",
            f"truncate {p} {self.pick([0, 1, 2, 4096, 70000])}",
            f"copy {self.path()} {p}", f"copy {self.path()} {p}", f"copy {self.path()} {p}",
            f"listto {d} {p}", f"statto {self.path()} {p}", f"copyrange {self.path()} {p}",
            f"fallocate {p} {self.pick(['punch', 'zero', 'keep', 'plain'])} 0 {self.pick([1, 5000])}",
            f"tmpfile {d} {p} {text}",
            f"rename {p} {q} {self.pick(['-', '-', 'x', 'n'])}",
            f"rename {p} {q} {self.pick(['-', '-', 'x', 'n'])}",
            f"rename {d} {self.pick(['/o/f', 'f', 'd/g', '/o/d'])} {self.pick(['-', 'x', 'n'])}",
            f"link {self.path()} {p}", f"link {p} {q}",
            f"symlink {self.target()} {p}", f"symlink {self.target()} {p}",
            f"unlink {p}", f"unlink {p}", f"unlink {p}", f"rmdir {d}", f"clear {d}",
            f"rmtree {subdir}", f"rmtree {subdir}", f"copytree {subdir} {self.pick(['/o/e', 'e', 'c'])}",
            f"mkdir {p} {self.pick(['0755', '0700', '1777'])}",
            f"mkdir {self.pick(['/o', '/o/d', 'd', 'd/d', 'f', 'g', '/o/f'])} 0755",
            f"mknod {p} {self.pick(['fifo', 'sock', 'char'])}", f"socket {p}",
            f"chmod {p} {self.pick(MODES)}", f"chmod {d} {self.pick(['0755', '0700', '0711'])}",
            f"chown {p} {self.pick([0, 1, 1000])} {self.pick([0, 5])}",
            f"setxattr {p} {self.pick(XATTRS)} {text}", f"removexattr {p} {self.pick(XATTRS)}",
            f"utimens {p} {self.pick([1, 489024000, 900000000])}" if self.times == "set"
            else f"append {p} {text}",
        ])

    def operation(self):
        line = self.look() if self.chance(0.5) else self.change()
        if self.times == "compared" and self.chance(0.15):
            line = f"newer {self.pick(self.written)} {self.pick(self.written)}"
        if self.chance(0.12):
            condition = self.pick(["ifexists", "ifmissing", "ifodd", "iflarge"])
            line = f"{condition} {self.relative() if self.chance(0.7) else self.path()} {line}"
        return line

    def operations(self):
        lines = []
        if self.chance(0.4):
            lines.append(f"mkdir {self.pick(['/o/d/d', '/o/f', 'd', 'f', 'd/d'])} 0755")
        for _ in range(self.rng.randint(3, 24)):
            line = self.operation()
            # Files of one step are told apart by time only with a tick of the clock between them.
            if self.times == "compared" and not line.startswith(LOOKS):
                lines.append("tick")
            lines.append(line)
        return lines

    def steps(self):
        steps = []
        for i in range(self.pick([1, 2, 2, 3, 3, 4])):
            # The nearest step is the likeliest parent; some are roots.
            candidates = [step.key for step in steps]
            parent = None
            if candidates and self.chance(0.85):
                parent = candidates[-1] if self.chance(0.7) else self.pick(candidates)
            step = Step(f"s{i}", parent, self.operations(), self.chance(0.25))
            if self.chance(0.3):
                step.ops.append(f"results /r{i}")
            steps.append(step)
        return steps

    def script(self):
        lines = [self.operation() for _ in range(self.pick([1, 2, 3]))]
        lines = [line for line in lines if "exec " not in line]
        interpreter = self.pick(["#!/bin/sh", "#!/bin/sh", "#! /bin/sh", "#!/nowhere", "#!./a"])
        return escape("\n".join([interpreter] + lines) + "\n")

    def edited_path(self):
        return self.pick(self.used) if self.used and self.chance(0.8) else self.new_relative()

    def edit(self):
        p = self.edited_path()
        return self.pick([
            ["write", p, self.pick(TEXTS)], ["write", p, self.pick(TEXTS)],
            ["write", p, self.pick(TEXTS)], ["inplace", p, self.pick(TEXTS)],
            ["samesize", p], ["samesize", p],
            ["fill", p, self.pick(SIZES), self.pick([1, 2, 3])],
            ["mkdir", self.pick(["d", "f", "g", "d/d", "d/f"])],
            ["delete", p], ["delete", p], ["delete", self.pick(["d", "f", "g", "d/d"])],
            ["rename", p, self.edited_path()],
            ["rename", self.pick(["d", "f", "g"]), self.pick(["d", "f", "g", "d/g"])],
            ["chmod", p, self.pick(["0755", "0644", "0600", "0000", "0111"])],
            ["symlink", self.target(), p], ["symlink", self.target(), p],
            ["hardlink", p, self.edited_path()],
            ["fifo", p],
            ["script", p, self.script()], ["script", self.pick(["x.o", "a"]), self.script()],
            ["touch", p], ["rewrite", p],
            ["write", self.pick([".gitignore", ".gitignore", "d/.gitignore", ".hmignore"]),
             escape("\n".join(self.pick(IGNORE_LINES) for _ in range(self.pick([0, 1, 2]))) + "\n")],
        ])

    def case(self, rounds):
        workspace = [["mkdir", "d"], ["mkdir", "d/d"], ["mkdir", "f"], ["write", "a", "one"]]
        workspace += [["write", self.new_relative(), self.pick(TEXTS)] for _ in range(12)]
        workspace += [edit for edit in (self.edit() for _ in range(self.rng.randint(3, 16)))
                      if "ignore" not in edit[1] or self.chance(0.25)]
        self.used = []
        steps = self.steps()
        plan = [[]]
        for _ in range(rounds - 1):
            if self.chance(0.1):
                plan.append([["touch", "."]])
            elif self.chance(0.1):
                plan.append([["undo"]])  # back to the workspace of the beginning
            else:
                plan.append([self.edit() for _ in range(self.pick([1, 1, 2, 3, 5]))])
        return Case(self.seed, workspace, steps, plan)


# ---------------------------------------------------------------------------------------------
# Edits


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def touch_all(root):
    for path in [root, *root.rglob("*")]:
        if ".hm" not in path.parts:
            os.utime(path, (1e9, 1e8 + sum(os.fsencode(path))), follow_symlinks=False)


def apply_edit(root, edit):
    """One edit. What does not apply (any more) is left out, so that edits can be shrunk away."""
    try:
        apply_edit_or_raise(root, edit)
    except (OSError, shutil.Error):
        pass


def apply_edit_or_raise(root, edit):
    kind, *words = edit

    def path(word):
        return Path(os.fsdecode(os.path.join(os.fsencode(root), unescape(word))))

    if kind == "touch" and words[0] == ".":
        touch_all(root)
        return
    p = path(words[1] if kind == "symlink" else words[0])
    if not os.path.realpath(p.parent).startswith(str(root)):
        return  # through a symlink, out of the workspace
    if kind in ("write", "script", "fill", "fifo", "symlink"):
        p.parent.mkdir(parents=True, exist_ok=True)
        remove(p)
    if kind == "write":
        p.write_bytes(unescape(words[1]))
    elif kind == "script":
        p.write_bytes(unescape(words[1]))
        p.chmod(0o755)
    elif kind == "fill":
        size, seed = words[1:]
        p.write_bytes(bytes((i * 31 + seed * 17) % 256 for i in range(256)) * (size // 256 + 1))
        os.truncate(p, size)
    elif kind == "symlink":
        p.symlink_to(os.fsdecode(unescape(words[0])))
    elif kind == "fifo":
        os.mkfifo(p)
    elif kind == "mkdir":
        p.mkdir(parents=True, exist_ok=True)
    elif kind == "delete":
        remove(p)
    elif kind == "rename":
        p.rename(path(words[1]))
    elif kind == "hardlink":
        os.link(p, path(words[1]), follow_symlinks=False)
    elif not stat.S_ISREG(p.lstat().st_mode):
        pass
    elif kind == "inplace":
        p.write_bytes(unescape(words[1]))
    elif kind == "samesize":
        old = p.read_bytes()
        times = p.stat()
        p.write_bytes(bytes((c + 1) % 256 for c in old))
        os.utime(p, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif kind == "chmod":
        p.chmod(int(words[1], 8))
    elif kind == "touch":
        os.utime(p, (1e9, 1e9))
    elif kind == "rewrite":
        old, mode = p.read_bytes(), p.stat().st_mode
        p.unlink()
        p.write_bytes(old)
        p.chmod(mode & 0o7777)


def same_state(edits):
    return all(edit[0] in ("touch", "rewrite") for edit in edits)


# ---------------------------------------------------------------------------------------------
# Running a case


@dataclasses.dataclass
class Outcome:
    exit_code: int
    output: dict  # key → what the step printed; a checker's: the view that the step left
    ran: dict  # key → (reason, path) of each step that executed
    ended: dict  # key → exit code
    stderr: str


def make_image(image, ops):
    (image / "bin").mkdir(parents=True)
    shutil.copy(ops, image / "bin/sh")
    data = image / "data"
    (data / "d").mkdir(parents=True)
    (image / "o/d").mkdir(parents=True)
    (image / "o/a").write_text("out a")
    (image / "o/d/b").write_text("out b")
    (data / "a").write_text("image a")
    (data / "b").write_text("image b")
    (data / "empty").write_text("")
    (data / "big").write_bytes(bytes(range(256)) * 256 * 3)
    (data / "d/a").write_text("deep")
    (data / "d/b").write_text("deeper")
    (data / "hard1").write_text("hard")
    os.link(data / "hard1", data / "hard2")
    (data / "link").symlink_to("d/a")
    (data / "loop").symlink_to("loop")
    (data / "ro").write_text("read only")
    (data / "ro").chmod(0o444)
    (data / "suid").write_text("suid")
    (data / "suid").chmod(0o4755)
    (data / "attr").write_text("attr")
    try:
        os.setxattr(data / "attr", "user.a", b"image")
    except OSError:
        pass  # a tmpfs before Linux 6.6
    for path in [image, *image.rglob("*")]:
        os.utime(path, (OLD_TIME, OLD_TIME), follow_symlinks=False)


class Runner:
    def __init__(self, hm, ops, base):
        self.hm = hm
        self.base = base
        self.image = base / "image"
        self.runs = 0
        make_image(self.image, ops)

    def write_pipeline(self, workspace, steps):
        lines = [f"image = {json.dumps(str(self.image))}", 'timeout = "1m"']
        parents = {step.parent for step in steps}
        for step in steps:
            todo = [(step.key, step.parent, step.command(), "auto")]
            if step.checked or step.key not in parents:
                todo.append((f"check-{step.key}", step.key, "dump /", "none"))
            for key, parent, run, cache in todo:
                lines += ["[[step]]", f'key = "{key}"', f"run = {json.dumps(run)}",
                          f'cache = "{cache}"', 'network = "none"']
                if parent is not None:
                    lines.append(f'from = "{parent}"')
        (workspace / ".hm").mkdir(exist_ok=True)
        (workspace / ".hm/t.toml").write_text("\n".join(lines) + "\n")

    def run(self, workspace, home):
        self.runs += 1
        done = subprocess.run(
            [self.hm, "run", "t", "-k", "--logs", "--format", "json", "-d", workspace],
            env={"PATH": os.environ["PATH"], "HM_HOME": str(home)}, stdin=subprocess.DEVNULL,
            capture_output=True, check=False)
        outcome = Outcome(done.returncode, {}, {}, {}, done.stderr.decode(errors="replace"))
        keys = {}
        for line in done.stdout.splitlines():
            event = json.loads(line)
            kind = event["kind"]
            if kind == "step_queued":
                keys[event["step_id"]] = event["key"]
            key = keys.get(event.get("step_id"))
            if kind == "step_log":
                outcome.output.setdefault(key, []).append(event["line"])
            elif kind == "step_cache_miss":
                outcome.ran[key] = (event["reason"], event["path"])
            elif kind == "step_end":
                outcome.ended[key] = event["exit_code"]
        return outcome


def build_workspace(root, case):
    remove(root)
    root.mkdir()
    for edit in case.workspace:
        apply_edit(root, edit)


def first_difference(cached, scratch):
    """One line about the first thing in which two outcomes differ, or None."""
    if cached.exit_code != scratch.exit_code:
        return f"exit code {cached.exit_code} instead of {scratch.exit_code}: " \
               + (cached.stderr or scratch.stderr).strip()[-300:]
    for key in scratch.ended:
        if cached.ended.get(key) != scratch.ended[key]:
            return f"{key} ended {cached.ended.get(key)} instead of {scratch.ended[key]}"
    for key in scratch.ended:
        got, want = cached.output.get(key, []), scratch.output.get(key, [])
        if got == want:
            continue
        extra = [line for line in got if line not in want]
        missing = [line for line in want if line not in got]
        return f"{key}: has {extra[:1]} instead of {missing[:1]}"
    return None


@dataclasses.dataclass
class Report:
    divergences: list  # (round, text)
    imprecise: list
    pairs: int = 0
    ran: int = 0
    hits: int = 0


def run_case(runner, case, stop_at_first=False):
    root, home = runner.base / "w", runner.base / "home"
    fresh = runner.base / "fresh"
    remove(home)
    build_workspace(root, case)
    report = Report([], [])
    real = {step.key for step in case.steps}
    runner.write_pipeline(root, case.steps)
    before = runner.run(root, home)
    if before.exit_code not in (0, 1):
        report.divergences.append((-1, "first run: " + before.stderr.strip()[-300:]))
    for at, edits in enumerate(case.rounds):
        if edits == [["undo"]]:
            build_workspace(root, case)
            runner.write_pipeline(root, case.steps)
        else:
            for edit in edits:
                apply_edit(root, edit)
        cached = runner.run(root, home)
        remove(fresh)
        scratch = runner.run(root, fresh)
        report.pairs += 1
        report.ran += len(real & cached.ran.keys())
        report.hits += len(real) - len(real & cached.ran.keys())
        difference = first_difference(cached, scratch)
        if difference is not None:
            remove(fresh)
            if first_difference(runner.run(root, fresh), scratch) is not None:
                difference = "(from scratch differs, too) " + difference
            report.divergences.append((at, difference))
            if stop_at_first:
                return report
        for key in sorted(real & cached.ran.keys()):
            reason, path = cached.ran[key]
            # A failed or unrecorded step has no record to hit.
            if cached.ended.get(key) == 0 and (same_state(edits) or path is None):
                report.imprecise.append((at, f"{key} ran: {reason} {path or ''}"))
    return report


# ---------------------------------------------------------------------------------------------
# Shrinking


def smaller_cases(case):
    """Every case with one thing less, coarse things first."""
    parents = {step.parent for step in case.steps}
    for i in range(len(case.rounds)):
        yield dataclasses.replace(case, rounds=case.rounds[:i] + case.rounds[i + 1 :])
    for i, step in enumerate(case.steps):
        if step.key not in parents:
            yield dataclasses.replace(case, steps=case.steps[:i] + case.steps[i + 1 :])
    for i, step in enumerate(case.steps):
        for size in (8, 4, 2, 1):
            for at in range(0, len(step.ops), size):
                less = dataclasses.replace(step, ops=step.ops[:at] + step.ops[at + size :])
                if len(step.ops) > 0:
                    yield dataclasses.replace(
                        case, steps=case.steps[:i] + [less] + case.steps[i + 1 :])
    for i, step in enumerate(case.steps):
        if step.parent is not None:
            grand = next(s.parent for s in case.steps if s.key == step.parent)
            less = dataclasses.replace(step, parent=grand)
            yield dataclasses.replace(case, steps=case.steps[:i] + [less] + case.steps[i + 1 :])
    for i in range(len(case.workspace)):
        yield dataclasses.replace(case, workspace=case.workspace[:i] + case.workspace[i + 1 :])
    for i, edits in enumerate(case.rounds):
        for j in range(len(edits)):
            less = edits[:j] + edits[j + 1 :]
            yield dataclasses.replace(case, rounds=case.rounds[:i] + [less] + case.rounds[i + 1 :])


def shrink(case, still_fails):
    progress = True
    while progress:
        progress = False
        for smaller in smaller_cases(case):
            if smaller.steps and smaller.rounds and still_fails(smaller):
                case, progress = smaller, True
                break
    return case


# ---------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hm", default="build/tools/hm")
    parser.add_argument("--ops", default="build/tests/torture_ops", help="the static program")
    parser.add_argument("--seed", type=int, help="default: random, and printed")
    parser.add_argument("--cases", type=int, default=300, help="(pipeline, edit) pairs")
    parser.add_argument("--rounds", type=int, default=5, help="pairs a pipeline")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--tmpfs", action="store_true", help="work in /dev/shm")
    parser.add_argument("--shrink", action="store_true", help="write failing cases to found/")
    parser.add_argument("--replay", type=Path, help="run one case of found/")
    parser.add_argument("--show", action="store_true", help="print the case of --seed")
    args = parser.parse_args()
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(10**9)
    if args.show:
        print(Generator(args.seed).case(args.rounds).to_json(), end="")
        return 0

    base = Path(tempfile.mkdtemp(prefix="torture.", dir="/dev/shm" if args.tmpfs else None))
    try:
        return torture(args, Runner(os.path.abspath(args.hm), args.ops, base))
    finally:
        shutil.rmtree(base)


def torture(args, runner):
    begin = time.monotonic()
    pairs = ran = hits = failures = imprecise = 0
    seed = args.seed
    print(f"seed {args.seed}", flush=True)
    while pairs < args.cases:
        if args.seconds and time.monotonic() - begin > args.seconds:
            break
        case = Case.from_json(args.replay.read_text()) if args.replay \
            else Generator(seed).case(args.rounds)
        report = run_case(runner, case)
        for at, text in report.divergences:
            print(f"DIVERGENCE seed={case.seed} edit={at} {text}", flush=True)
        for at, text in report.imprecise:
            print(f"IMPRECISE seed={case.seed} edit={at} {text}", flush=True)
        if args.shrink and report.divergences:
            small = shrink(case, lambda one: bool(run_case(runner, one, True).divergences))
            found = HERE / "found" / f"seed-{case.seed}.json"
            found.parent.mkdir(exist_ok=True)
            found.write_text(small.to_json())
            print(f"  shrunk to {found}", flush=True)
        failures += len(report.divergences)
        imprecise += len(report.imprecise)
        pairs += report.pairs
        ran += report.ran
        hits += report.hits
        seed += 1
        if args.replay:
            break
    seconds = time.monotonic() - begin
    print(f"{pairs} cases, {failures} divergences, {imprecise} imprecise; {hits} hits, {ran} runs; "
          f"{pairs / seconds:.1f} cases/s", flush=True)
    return 1 if failures or imprecise else 0


if __name__ == "__main__":
    sys.exit(main())
