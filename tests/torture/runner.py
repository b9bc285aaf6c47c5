"""Runs one case with hm and says where a cached run and one from scratch differ."""

import dataclasses
import json
import os
import queue
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time

from case import split_live
from edits import (ATOMIC, UNSEEN, apply_edit, apply_in_flight, apply_round, build_workspace,
                   next_tick, remove)

OLD_TIME = 631152000  # 1990: every file of the image
MOVED = "workspace changed while running"
RESTARTED = "changed while running: starting over"
# What an overlay can do since Linux 6.3 and 6.7, but not with the kernel of Debian 12's guests.
NOT_IN_MACHINES = ("tmpfile", "user.overlay.", "zero")


@dataclasses.dataclass
class Outcome:
    exit_code: int
    output: dict  # key → the lines that the step printed
    views: dict  # key → the lines of a dump of the view that the step left, of checked steps
    ran: dict  # key → (reason, path) of each step that executed
    ended: dict  # key → exit code
    layers: dict  # key → digest of what the step wrote
    stderr: str
    seconds: float

    def gave_up(self):
        return self.exit_code == 1 and MOVED in self.stderr


@dataclasses.dataclass
class Report:
    divergences: list = dataclasses.field(default_factory=list)  # (round, text)
    unstable: list = dataclasses.field(default_factory=list)  # two runs from scratch differ
    imprecise: list = dataclasses.field(default_factory=list)
    pairs: int = 0
    ran: int = 0
    hits: int = 0
    live: int = 0  # runs with edits in flight
    noticed: int = 0  # … that started over or gave up
    compared: int = 0  # steps whose trace and layer were compared with those of a namespace

    def failed(self):
        return bool(self.divergences or self.unstable or self.imprecise)


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


class Hm:
    """The program under test, an image, and what a pipeline of a case looks like.

    With a `kernel`, runs that use a cache are in virtual machines; runs from scratch never.
    """

    def __init__(self, hm, ops, base, kernel=None):
        self.hm = hm
        self.base = base
        self.kernel = kernel
        self.image = base / "image"
        make_image(self.image, ops)
        (base / "guests").mkdir()  # booted once for all cases

    def write_pipeline(self, workspace, steps, is_scratch):
        """From scratch a step prints itself what it leaves; with a cache another step looks.

        So what is compared went through hm's layers once, and once only through the kernel.
        """
        lines = [f"image = {json.dumps(str(self.image))}", 'timeout = "2m"']
        parents = {step.parent for step in steps}
        for step in steps:
            is_checked = step.checked or step.key not in parents
            last = ["final /"] if is_checked and is_scratch else []
            todo = [(step.key, step.parent, "\n".join(step.ops + last) or "#", "auto")]
            if is_checked and not is_scratch:
                todo.append((f"check-{step.key}", step.key, "final /", "none"))
            for key, parent, run, cache in todo:
                lines += ["[[step]]", f'key = "{key}"', f"run = {json.dumps(run)}",
                          f'cache = "{cache}"', 'network = "none"']
                if parent is not None:
                    lines.append(f'from = "{parent}"')
        (workspace / ".hm").mkdir(exist_ok=True)
        (workspace / ".hm/t.toml").write_text("\n".join(lines) + "\n")

    def use_machines(self, workspace, home):
        """Options for a run in virtual machines."""
        (workspace / ".hm/config.toml").write_text(
            f"[vm]\nkernel = {json.dumps(self.kernel)}\nmemory = \"512M\"\ncpus = 1\n")
        home.mkdir(mode=0o700, exist_ok=True)
        if not (home / "vm").is_symlink():
            (home / "vm").symlink_to(self.base / "guests")
        return ["--backend", "vm"]

    def run(self, workspace, home, steps, is_scratch=False, pauses=None, in_machines=True):
        """`pauses`: a queue that gets an item for each pause of a step."""
        self.write_pipeline(workspace, steps, is_scratch)
        options = []
        if self.kernel and in_machines and not is_scratch:
            options = self.use_machines(workspace, home)
        begin = time.monotonic()
        out = Outcome(0, {}, {}, {}, {}, {}, "", 0)
        keys = {}  # step id → key
        with tempfile.TemporaryFile(dir=self.base) as stderr, subprocess.Popen(
                [self.hm, "run", "t", "-k", "--logs", "--format", "json", "-d", workspace,
                 *options],
                env={"PATH": os.environ["PATH"], "HM_HOME": str(home)}, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=stderr) as child:
            try:
                for line in child.stdout:
                    event = json.loads(line)
                    if event["kind"] == "step_queued":
                        keys[event["step_id"]] = event["key"]
                    self.take_event(out, event, keys.get(event.get("step_id")))
                    if pauses is not None and event.get("line") == "pausing":
                        pauses.put(event)
            except BaseException:
                child.kill()
                raise
            out.exit_code = child.wait()
            stderr.seek(0)
            out.stderr = stderr.read().decode(errors="replace")
        out.seconds = time.monotonic() - begin
        for key, lines in list(out.output.items()):
            if "final:" not in lines:
                continue
            at = lines.index("final:")
            out.views[key.removeprefix("check-")] = lines[at + 1 :]
            out.output[key] = lines[:at]
        return out

    @staticmethod
    def take_event(out, event, key):
        kind = event["kind"]
        if kind == "step_start":
            out.output[key] = []  # a run that starts over prints again
        elif kind == "step_log":
            out.output[key].append(event["line"])
        elif kind == "step_cache_miss":
            out.ran[key] = (event["reason"], event["path"])
        elif kind == "step_end":
            out.ended[key] = event["exit_code"]
            out.layers[key] = event["snapshot"]

    def scratch(self, workspace, steps):
        home = self.base / "fresh"
        remove(home)
        return self.run(workspace, home, steps, True)

    def trace(self, workspace, home, key):
        """As lines."""
        done = subprocess.run([self.hm, "trace", "-d", workspace, key],
                              env={"PATH": os.environ["PATH"], "HM_HOME": str(home)},
                              capture_output=True, text=True, errors="replace", check=True)
        return done.stdout.splitlines()


def comparable(got, want):
    """Two dumps without the link groups that one of them could not tell."""
    unsure = {line.split(" ")[0] for line in [*got, *want] if line.endswith(" group=?")}
    if not unsure:
        return got, want
    return tuple([line.split(" group=")[0] if line.split(" ")[0] in unsure else line
                  for line in lines] for lines in (got, want))


def first_difference(cached, scratch, keys):
    """One line about the first thing in which two outcomes differ, or None."""
    if cached.exit_code != scratch.exit_code:
        return f"exit code {cached.exit_code} instead of {scratch.exit_code}: " \
               + (cached.stderr or scratch.stderr).strip()[-300:]
    for key in keys:
        if cached.ended.get(key) != scratch.ended.get(key):
            return f"{key} ended {cached.ended.get(key)} instead of {scratch.ended.get(key)}"
    for what in ("output", "views"):
        for key in keys:
            got, want = getattr(cached, what).get(key), getattr(scratch, what).get(key)
            if got == want:
                continue
            got, want = got or ["nothing"], want or ["nothing"]
            got, want = comparable(got, want)
            extra = [line for line in got if line not in want]
            missing = [line for line in want if line not in got]
            if not extra and not missing:
                continue
            where = key if what == "output" else f"the view of {key}"
            return f"{where}: has {extra[:1]} instead of {missing[:1]}"
    return None


class Traces:
    """What each step of a case's store has observed so far."""

    def __init__(self, home):
        self.home = home
        self.seen = set()  # (static key, trace)

    def repeated(self):
        """Keys of the steps that the last run executed on what an earlier run had recorded."""
        database = sqlite3.connect(f"file:{self.home}/hm.db?mode=ro", uri=True)
        try:
            last = database.execute(
                "SELECT key, outcome, static_key, trace FROM run_steps"
                " WHERE run = (SELECT max(id) FROM runs)").fetchall()
            recorded = set(database.execute("SELECT static_key, trace FROM records"))
        finally:
            database.close()
        again = [key.decode() if isinstance(key, bytes) else key
                 for key, outcome, static_key, trace in last
                 if outcome in ("ran", b"ran") and (static_key, trace) in self.seen]
        self.seen = recorded
        return again


def for_machines(case):
    """Without what a guest's kernel, or ext4, answers otherwise than this machine's and tmpfs."""
    steps = [dataclasses.replace(step, ops=[line for line in step.ops if not any(
        word.startswith(NOT_IN_MACHINES) for word in line.split())]) for step in case.steps]
    return dataclasses.replace(case, steps=steps)


class Twin:
    """A case's cached pipeline once more, in namespaces: what a step observed and wrote in a virtual
    machine has to be the same, bit for bit. It starts from the store that the machines had: what
    is served at once depends on what the step looked at before."""

    def __init__(self, hm, case, root, home):
        self.hm, self.case, self.root, self.home = hm, case, root, home
        self.own = hm.base / "twin"
        self.keys = [step.key for step in case.steps]

    @staticmethod
    def recorded(home):
        """{key: (static key, trace, layer)} of the last run's steps that have results."""
        database = sqlite3.connect(f"file:{home}/hm.db?mode=ro", uri=True)
        try:
            rows = database.execute(
                "SELECT key, static_key, trace, layer FROM run_steps"
                " WHERE run = (SELECT max(id) FROM runs) AND exit_code = 0"
                " AND length(trace) > 0 AND length(layer) > 0").fetchall()
        finally:
            database.close()
        return {key.decode() if isinstance(key, bytes) else key: rest for key, *rest in rows}

    def begin(self):
        """Before the run in machines."""
        remove(self.own)
        if self.home.exists():
            shutil.copytree(self.home, self.own, symlinks=True)

    def differences(self, ran):
        """(how many of the steps that ran were compared, one line for each that differs)."""
        again = self.hm.run(self.root, self.own, self.case.steps, in_machines=False)
        here, there = self.recorded(self.home), self.recorded(self.own)
        keys = [key for key in self.keys if key in here and key in there]
        lines = [line for key in keys for line in self.of_step(key, here[key], there[key])]
        lines += [f"{key} ran {'here' if key in ran else 'in a namespace'} only"
                  for key in self.keys if (key in ran) != (key in again.ran)]
        return len([key for key in keys if key in ran]), lines

    def of_step(self, key, here, there):
        names = ("static key", "trace", "layer")
        for name, one, other in zip(names, here, there):
            if one == other:
                continue
            text = f"the {name} of {key} differs between machine and namespace"
            if name == "trace":
                traces = [self.hm.trace(self.root, home, key) for home in (self.home, self.own)]
                only = [[line for line in got if line not in want]
                        for got, want in (traces, reversed(traces))]
                text += f": {only[0][:2]} instead of {only[1][:2]}"
            yield text


class CaseRun:
    def __init__(self, hm, case, stop_at_first=False):
        self.hm = hm
        self.case = case
        self.keys = [step.key for step in case.steps]
        self.root, self.home = hm.base / "w", hm.base / "home"
        self.traces = Traces(self.home)
        # Without privileges a namespace has one id and a machine all: their traces differ in that.
        comparable_ids = os.geteuid() == 0
        self.twin = Twin(hm, case, self.root, self.home) if hm.kernel and comparable_ids else None
        self.report = Report()
        self.stop_at_first = stop_at_first

    def run(self):
        case, report = self.case, self.report
        remove(self.home)
        build_workspace(self.root, case)
        if self.twin is not None:
            self.twin.begin()
        first = self.hm.run(self.root, self.home, case.steps)
        if first.exit_code not in (0, 1):
            report.divergences.append((-1, "first run: " + first.stderr.strip()[-300:]))
            return report
        self.compare_with_twin(-1, first)
        self.traces.repeated()
        self.seconds = first.seconds
        for at, edits in enumerate(case.rounds):
            before, in_flight = split_live(edits)
            apply_round(self.root, case, before)
            if ["forget"] in before:
                remove(self.home)
                self.traces.seen.clear()
            states = None
            if in_flight is not None:
                states = self.live(at, in_flight)
            self.quiet(at, edits, states)
            report.pairs += 1
            if self.stop_at_first and report.failed():
                break
        return report

    # --- a workspace that rests

    def quiet(self, at, edits, scratch):
        if self.twin is not None:
            self.twin.begin()
        cached = self.hm.run(self.root, self.home, self.case.steps)
        scratch = scratch or self.hm.scratch(self.root, self.case.steps)
        difference = first_difference(cached, scratch, self.keys)
        if difference is not None:
            again = self.hm.scratch(self.root, self.case.steps)
            if first_difference(again, scratch, self.keys) is None:
                self.report.divergences.append((at, difference))
            else:
                self.report.unstable.append((at, difference))
        ran = [key for key in self.keys if key in cached.ran]
        self.report.ran += len(ran)
        self.report.hits += len(self.keys) - len(ran)
        repeated = self.traces.repeated()
        self.compare_with_twin(at, cached)
        unseen = all(edit[0] in UNSEEN for edit in edits)
        for key in ran:
            uncached = f"step '{key}' is not cached" in cached.stderr
            if key in repeated or (unseen and cached.ended.get(key) == 0 and not uncached):
                reason, path = cached.ran[key]
                self.report.imprecise.append((at, f"{key} ran: {reason} {path or ''}"))

    def compare_with_twin(self, at, cached):
        if self.twin is None:
            return
        compared, lines = self.twin.differences(cached.ran)
        self.report.compared += compared
        self.report.divergences += [(at, line) for line in lines]

    # --- edits in flight

    def live(self, at, edits):
        """Runs while edits are made, and checks that each step saw one state of the workspace.

        Returns the outcome from scratch on the last state.
        """
        self.report.live += 1
        next_tick()
        pauses = queue.Queue()
        seed = f"{self.case.seed} {at}"
        writer = threading.Thread(target=apply_in_flight,
                                  args=(self.root, edits, seed, self.seconds * 1.2, pauses))
        writer.start()
        outcome = self.hm.run(self.root, self.home, self.case.steps, pauses=pauses)
        writer.join()
        self.seconds = outcome.seconds
        self.traces.repeated()
        if RESTARTED in outcome.stderr or outcome.gave_up():
            self.report.noticed += 1
        if outcome.exit_code != 0 and not outcome.gave_up():
            self.report.divergences.append((at, f"edits in flight: exit code {outcome.exit_code}: "
                                            + outcome.stderr.strip()[-300:]))
        if outcome.gave_up() or any(edit[0] not in ATOMIC for edit in edits):
            return None
        states = self.scratch_of_each_state(at, edits)
        for text in self.no_state_of(outcome, states):
            self.report.divergences.append((at, "edits in flight: " + text))
        return None

    def scratch_of_each_state(self, at, edits):
        replay = self.hm.base / "r"
        build_workspace(replay, self.case)
        for earlier in self.case.rounds[:at]:
            apply_round(replay, self.case, earlier)
        apply_round(replay, self.case, split_live(self.case.rounds[at])[0])
        states = [self.hm.scratch(replay, self.case.steps)]
        for edit in edits:
            apply_edit(replay, edit)
            states.append(self.hm.scratch(replay, self.case.steps))
        return states

    def no_state_of(self, outcome, states):
        """Steps that did what they do in none of the states.

        A step is judged where its parent did the same in all states: else parent and child may
        have seen different ones, each of them rightly.
        """
        for step in self.case.steps:
            parent = step.parent
            if parent is not None and len({s.layers.get(parent) for s in [outcome, *states]}) > 1:
                continue
            got = outcome.output.get(step.key)
            if got in [state.output.get(step.key) for state in states]:
                continue
            want = states[-1].output.get(step.key) or []
            extra = [line for line in got or ["nothing"] if line not in want]
            missing = [line for line in want if line not in (got or [])]
            yield f"{step.key} saw no state of the workspace: {extra[:1]}, at last {missing[:1]}"
