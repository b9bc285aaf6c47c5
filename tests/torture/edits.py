"""What happens to a workspace between runs, and during them.

An edit is a list: its kind and its words. One that does not apply (any more) is left out, so that
edits can be shrunk away. The kinds in ATOMIC take one system call, or one rename at the end: a
workspace is in one state before and in another after, never in a third.
"""

import mmap
import os
import queue
import random
import shutil
import stat
import time
from pathlib import Path

from case import unescape

ATOMIC = ("swap", "swaplink", "poke", "unlink", "rename", "chmod", "mkdir1")
UNSEEN = ("touch", "rewrite")  # change nothing that a step can see


def next_tick():
    """What is stamped after this is newer than all that was stamped before (see ops/change.cc)."""
    for _ in range(2):
        begin = time.clock_gettime_ns(5)  # CLOCK_REALTIME_COARSE
        while time.clock_gettime_ns(5) <= begin:
            time.sleep(0.0005)


def remove(path):
    """A symlink's target may be anything, names too long to be followed included."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def touch_all(root):
    for path in [root, *root.rglob("*")]:
        if ".hm" not in path.parts:
            os.utime(path, (1e9, 1e8 + sum(os.fsencode(path))), follow_symlinks=False)


def make_deep(path, levels, data):
    """Directories with names of 255 bytes in each other, beyond PATH_MAX, and a file at the end."""
    path.mkdir(parents=True, exist_ok=True)
    at = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        try:
            os.mkdir("n" * 255, dir_fd=at)
        except FileExistsError:
            pass
        below = os.open("n" * 255, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    fd = os.open("a", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=at)
    os.write(fd, data)
    os.close(fd)
    os.close(at)


def poke(path, mapped):
    """Other bytes of the same number in the same file, and the mtime it had."""
    old = path.read_bytes()
    times = path.stat()
    if not 0 < len(old) <= 4096:
        return
    new = bytes((c + 1) % 256 for c in old)
    with open(path, "r+b", buffering=0) as file:
        if mapped:
            with mmap.mmap(file.fileno(), 0) as memory:
                memory[:] = new
        else:
            os.pwrite(file.fileno(), new, 0)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def apply_edit(root, edit):
    try:
        Edit(root, edit).apply()
    except (OSError, shutil.Error):
        pass


class Edit:
    def __init__(self, root, edit):
        self.root = root
        self.kind, *self.words = edit

    def path(self, at):
        return Path(os.fsdecode(os.path.join(os.fsencode(self.root), unescape(self.words[at]))))

    def text(self, at):
        return unescape(self.words[at])

    def apply(self):
        if self.kind == "touch" and self.words[0] == ".":
            touch_all(self.root)
            return
        p = self.path(1 if self.kind in ("symlink", "swaplink") else 0)
        if not os.path.realpath(p.parent).startswith(str(self.root)):
            return  # through a symlink, out of the workspace
        if self.kind in ("write", "script", "fill", "fifo", "symlink"):
            p.parent.mkdir(parents=True, exist_ok=True)
            remove(p)
            getattr(self, self.kind)(p)
        elif self.kind in ("swap", "swaplink", "unlink", "mkdir", "mkdir1", "delete", "rename",
                           "hardlink", "deep"):
            getattr(self, self.kind)(p)
        elif stat.S_ISREG(p.lstat().st_mode):
            getattr(self, self.kind)(p)

    # Made anew.
    def write(self, p):
        p.write_bytes(self.text(1))

    def script(self, p):
        p.write_bytes(self.text(1))
        p.chmod(0o755)

    def fill(self, p):
        size, seed = self.words[1:]
        p.write_bytes(bytes((i * 31 + seed * 17) % 256 for i in range(256)) * (size // 256 + 1))
        os.truncate(p, size)

    def fifo(self, p):
        os.mkfifo(p)

    def symlink(self, p):
        p.symlink_to(os.fsdecode(self.text(0)))

    # In one rename.
    def swap(self, p):
        new = self.fresh()
        new.write_bytes(self.text(1))
        new.chmod(int(self.words[2], 8))
        os.rename(new, p)

    def swaplink(self, p):
        new = self.fresh()
        new.symlink_to(os.fsdecode(self.text(0)))
        os.rename(new, p)

    def fresh(self):
        new = self.root.parent / "swap"
        remove(new)  # of one that did not apply
        return new

    # Names.
    def mkdir(self, p):
        p.mkdir(parents=True, exist_ok=True)

    def mkdir1(self, p):
        p.mkdir()

    def unlink(self, p):
        p.unlink()

    def delete(self, p):
        remove(p)

    def rename(self, p):
        p.rename(self.path(1))

    def hardlink(self, p):
        os.link(p, self.path(1), follow_symlinks=False)

    def deep(self, p):
        make_deep(p, self.words[1], self.text(2))

    # Of a file that is there.
    def inplace(self, p):
        p.write_bytes(self.text(1))

    def poke(self, p):
        poke(p, False)

    def mapstore(self, p):
        poke(p, True)

    def chmod(self, p):
        p.chmod(int(self.words[1], 8))

    def touch(self, p):
        os.utime(p, (1e9, 1e9))

    def rewrite(self, p):
        old, mode = p.read_bytes(), p.stat().st_mode
        p.unlink()
        p.write_bytes(old)
        p.chmod(mode & 0o7777)


def build_workspace(root, case):
    remove(root)
    root.mkdir()
    for edit in case.workspace:
        apply_edit(root, edit)


def apply_round(root, case, edits):
    """All edits of a round, in a workspace that nobody looks at."""
    if edits == [["undo"]]:  # back to the workspace of the beginning
        build_workspace(root, case)
        return
    for edit in edits:
        if edit not in (["live"], ["forget"]):
            apply_edit(root, edit)


def apply_in_flight(root, edits, seed, window, pauses):
    """Applies edits at random moments of the next `window` seconds, or when a step pauses.

    `pauses` is a queue with an item for each pause of a step.
    """
    rng = random.Random(seed)
    waits_for_pauses = rng.random() < 0.85
    moments = sorted(rng.uniform(0, window) for _ in edits)
    begin = time.monotonic()
    for moment, edit in zip(moments, edits):
        if waits_for_pauses:
            try:
                pauses.get(timeout=max(0.01, begin + 2 * window - time.monotonic()))
            except queue.Empty:
                pass
        else:
            time.sleep(max(0, begin + moment - time.monotonic()))
        apply_edit(root, edit)
        next_tick()
