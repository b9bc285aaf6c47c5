"""Who is measured: hm, the native limit, and FUSE filesystems that serve the same directory."""

import contextlib
import dataclasses
import glob
import gzip
import json
import os
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

from measure import Broken, Unavailable
from place import labels, mounts_below, remove, unmount


# --- hm ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    wall_ns: int
    values: dict  # label → nanoseconds, as bench_ops printed them in the steps
    hits: int
    capture_ns: int  # all captures, or None where hm does not say (HM_LOG=debug only)


@dataclasses.dataclass
class Step:
    run: str
    key: str = "step"
    parent: str = None
    cache: str = None


def write_pipeline(path, image, steps):
    lines = [f"image = {json.dumps(str(image))}"]
    for step in steps:
        lines += ["[[step]]", f"key = {json.dumps(step.key)}", f"run = {json.dumps(step.run)}"]
        if step.parent:
            lines.append(f"from = {json.dumps(step.parent)}")
        if step.cache:
            lines.append(f"cache = {json.dumps(step.cache)}")
    path.write_text("\n".join(lines) + "\n")


class Hm:
    """`hm run` on one workspace, with stores of its own.

    An image that is a directory is imported into each store, as images are that have names, unless
    `as_directory`. What its files are is known from then on; of the workspace nothing is.
    """

    def __init__(self, place, case, image, base=None, as_directory=False):
        self.place = place
        self.base = base  # where stores are, if not where everything is
        self.workspace = Path(case) / "workspace"
        self.image = image
        self.imported = not as_directory and os.path.isabs(image)
        self.home = None

    def fresh_home(self):
        """An empty store, but for the image; the one before is removed."""
        self.drop_home()
        self.home = self.place.fresh("home", self.base)
        if self.imported:
            self.place.run([self.place.program("hm"), "image", "import", "bench", self.image],
                           env={"HM_HOME": str(self.home)})

    def drop_home(self):
        if self.home:
            remove(self.home)
        self.home = None

    def run(self, steps, *options):
        if self.home is None:
            self.fresh_home()
        pipeline = self.home / "bench.toml"
        write_pipeline(pipeline, "bench" if self.imported else self.image, steps)
        return self.run_file(pipeline, *options)

    def run_file(self, pipeline, *options):
        environment = {"HM_HOME": str(self.home)}
        if self.place.counting:
            environment["HM_LOG"] = "debug"
        out, err, took = self.place.run(
            [self.place.program("hm"), "run", "-d", self.workspace, "--file", pipeline,
             "--format", "json", *options], env=environment)
        self.place.heard(err)
        events = [json.loads(line) for line in out.splitlines()]
        lines = "\n".join(e["line"] for e in events if e["kind"] == "step_log")
        hits = sum(e["kind"] == "step_cache_hit" for e in events)
        return Outcome(took, labels(lines), hits, capture_time(err))

    def step(self, command, *options):
        """One step that is run, cached or not."""
        return self.run([Step(command)], "--no-cache", *options)


def capture_time(stderr):
    found = re.findall(r"capture: \d+ files, \d+ bytes in ([\d.]+) ms", stderr)
    return round(sum(map(float, found)) * 1e6) if found else None


# --- the native limit ---------------------------------------------------------------------------


class Native:
    """The same command on an overlay of plain directories, topmost first (native.cc)."""

    def __init__(self, place, *lowers, base=None):
        self.place = place
        self.base = base
        self.lowers = lowers

    def run(self, command, times=1):
        """{label: nanoseconds}; "runs" lists how long each run took as a whole."""
        directory = self.place.fresh("native", self.base)
        try:
            out, _, _ = self.place.run([self.place.program("bench_native"), directory, times,
                                        *self.lowers, "--", "/bin/sh", "-c", command])
        finally:
            remove(directory)
        values = labels(out)
        values["runs"] = [int(line.split()[1]) for line in out.splitlines()
                          if line.startswith("run ")]
        return values


# --- FUSE peers -----------------------------------------------------------------------------------


def installed(program):
    path = shutil.which(program)
    if path is None:
        raise Unavailable("not installed")
    return path


def passthrough_program(place):
    """libfuse's own example, from the source that its package documents itself with."""
    program = place.root / "passthrough_ll"
    if program.exists():
        return program
    found = glob.glob("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c*")
    if not found or not shutil.which("cc"):
        raise Unavailable("not installed (libfuse3-dev's examples, and cc)")
    source = place.fresh("passthrough")
    for path in glob.glob(os.path.dirname(found[0]) + "/passthrough*"):
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rb") as text:
            (source / os.path.basename(path).removesuffix(".gz")).write_bytes(text.read())
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True,
                           text=True, check=False).stdout.split()
    place.run(["cc", "-O2", "-w", source / "passthrough_ll.c", "-o", program, *flags])
    return program


# name → the command that serves `source` at `target` in the foreground.
FUSE_PEERS = {
    "fuse-overlayfs": lambda place, source, target: [
        installed("fuse-overlayfs"), "-f", "-o", overlay_options(place, source), target],
    "bindfs": lambda place, source, target: [
        installed("bindfs"), "-f", "--no-allow-other", source, target],
    "passthrough_ll": lambda place, source, target: [
        passthrough_program(place), "-f", "-o", f"source={source},cache=always", target],
}


def overlay_options(place, source):
    upper = place.fresh("peer-upper")
    for name in ("upper", "work"):
        (upper / name).mkdir()
    return f"lowerdir={source},upperdir={upper}/upper,workdir={upper}/work"


def raise_descriptors():
    """Some peers keep one descriptor for each file that they were asked for."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def served(place, peer, source):
    """The directory, as this peer serves it."""
    target = place.fresh("peer")
    command = FUSE_PEERS[peer](place, source, target)
    log = open(target.with_suffix(".log"), "w+", encoding="utf-8")
    server = place.start(command, stdout=log, stderr=log, preexec_fn=raise_descriptors)
    try:
        wait_for_mount(server, target, log)
        yield target
    finally:
        for mount in mounts_below(target):
            unmount(mount)
        place.end(server)
        log.close()


def wait_for_mount(server, target, log):
    for _ in range(1000):
        if mounts_below(target):
            return
        if server.poll() is not None:
            break
        time.sleep(0.01)
    log.seek(0)
    raise Broken("did not mount: " + log.read().strip()[-300:])


def fuse_peers(place, source, work, cold=True):
    """Contestants: `work(directory)` on what each FUSE peer serves, freshly mounted each time."""
    def contestant(peer):
        def once():
            with served(place, peer, source) as target:
                if cold:
                    place.drop_caches()
                return work(target)
        return once
    return {peer: contestant(peer) for peer in FUSE_PEERS}


def ms(nanoseconds):
    return nanoseconds / 1e6

