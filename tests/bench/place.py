"""Place: the one directory that a run works in, and everything that has to be ended with it."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from measure import Broken

TREE_AGE = 62  # seconds; hm trusts the stat of a file only when it is older than 60
DEADLINE = 3600  # seconds until one command counts as hanging


def below(path, directory):
    return path == str(directory) or path.startswith(f"{directory}/")


class Place:
    def __init__(self, parent, build):
        self.root = Path(tempfile.mkdtemp(prefix="hm-bench-", dir=parent)).resolve()
        self.root.chmod(0o755)
        self.build = Path(build).resolve()
        self.counting = False  # hm is to say how many requests it served
        self.patient = True  # empties caches, waits for files to age: figures are wanted
        self._requests = []
        self._children = []
        self._number = 0
        self._images = {}

    def program(self, name):
        return str(self.build / ("tools" if name in ("hm", "hmfs") else "tests") / name)

    def fresh(self, name, base=None):
        """A new empty directory."""
        self._number += 1
        path = (base or self.root) / f"{name}-{self._number}"
        path.mkdir()
        return path

    # --- processes ----------------------------------------------------------------------------

    def start(self, command, **options):
        """In a session of its own: what the terminal sends is for us, and we end it (clean)."""
        environment = dict(os.environ, LC_ALL="C", GIT_CONFIG_GLOBAL="/dev/null",
                           GIT_CONFIG_SYSTEM="/dev/null", **options.pop("env", {}))
        child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                 text=True, env=environment, start_new_session=True, **options)
        self._children.append(child)
        return child

    def run(self, command, **options):
        """Runs to the end; returns (stdout, stderr, nanoseconds). Any failure is Broken."""
        began = time.perf_counter_ns()
        child = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        try:
            out, err = child.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired as error:
            raise Broken(f"{command[0]} did not end within {DEADLINE} s") from error
        took = time.perf_counter_ns() - began
        self._children.remove(child)
        if child.returncode != 0:
            said = [line for line in err.splitlines() if "[debug]" not in line]
            said = said or re.findall(r'"line":"(.*?)"', out) or out.splitlines()
            raise Broken(f"{os.path.basename(command[0])} ended with {child.returncode}: "
                         + " / ".join(said[-4:]).replace(f"{self.root}/", ""))
        return out, err, took

    def ops(self, *words):
        """What bench_ops printed, outside of any sandbox: {label: nanoseconds}."""
        return labels(self.run([self.program("bench_ops"), *words])[0])

    def end(self, child):
        """Ends a process that we started."""
        for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            if child.poll() is not None:
                break
            child.send_signal(number)
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                pass
        if child in self._children:
            self._children.remove(child)

    # --- what hm says of itself ---------------------------------------------------------------

    def heard(self, stderr):
        if self.counting:
            self._requests += map(request_counts, re.findall(r"fuse requests: (.*)", stderr))

    def take_requests(self):
        """One dictionary for each session that served something, none twice."""
        said, self._requests = self._requests, []
        return [counts for i, counts in enumerate(said)
                if counts.keys() - {"statfs", "other"} and counts not in said[:i]]

    # --- caches -------------------------------------------------------------------------------

    @staticmethod
    def can_drop_caches():
        return os.access("/proc/sys/vm/drop_caches", os.W_OK)

    def drop_caches(self):
        """Does nothing where it is not allowed: then the rows that need it are skipped."""
        if not self.patient or not self.can_drop_caches():
            return
        self.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def sync(self):
        if self.patient:
            os.sync()

    def settle(self, since):
        """Waits until files made at `since` (time.time()) are old enough for hm's stat cache."""
        if self.patient:
            time.sleep(max(0, since + TREE_AGE - time.time()))

    # --- images -------------------------------------------------------------------------------

    def image(self, *programs):
        """A small image: a shell, bench_ops, and these programs with what they are linked to."""
        if programs not in self._images:
            image = self.fresh("image")
            for program in ("sh", "cat", "mkdir", "rm", "true", *programs):
                copy_program(image, shutil.which(program), f"bin/{program}")
            shutil.copy(self.program("bench_ops"), image / "bin/bench_ops")
            (image / "tmp").mkdir(mode=0o1777)
            (image / "root").mkdir()
            self._images[programs] = image
        return self._images[programs]

    # --- the end ------------------------------------------------------------------------------

    def clean(self):
        for child in list(self._children):
            self.end(child)
        for mount in sorted(mounts_below(self.root), reverse=True):
            unmount(mount)
        remove(self.root)


def copy_program(image, source, target):
    """The file, and what it is linked to, into the image."""
    target = image / target.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(os.path.realpath(source), target)
    linked = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
    for file in re.findall(r"(/\S+) \(0x", linked):
        copy = image / file.lstrip("/")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def request_counts(text):
    """"lookup=3 read=0 …" as a dictionary without the zeros."""
    pairs = (word.split("=") for word in text.split())
    return {name: int(count) for name, count in pairs if count != "0"}


def labels(text):
    """Lines "LABEL NUMBER" as a dictionary of lists' last values; others are ignored."""
    return {label: int(value) for label, value in re.findall(r"^(\w+) (\d+)$", text, re.M)}


def mounts_below(directory):
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [point for point in points if below(point, directory)]


def unmount(point):
    return quietly(["umount", "-l", point]) or quietly(["fusermount3", "-uz", point])


def remove(path):
    """Removes a tree, also what an overlay or a store left closed to its owner. No signal from the
    terminal stops it half-way."""
    if os.geteuid() != 0:
        quietly(["chmod", "-R", "u+rwX", path])
    quietly(["rm", "-rf", path])


def quietly(command):
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False,
                          start_new_session=True).returncode == 0
