"""W4, W8: big files; what it costs to keep what a step wrote."""

import os
import re
import statistics
import time
from pathlib import Path

from contestants import Hm, Native, fuse_peers
from measure import HM, NATIVE, Broken, Group, Row, Unavailable, at_least, times
from w_files import OPS, new_case

KIB, MIB = 1 << 10, 1 << 20
SHA256 = "sha256"


def rate(size, nanoseconds):
    """MB/s."""
    return size / 1e6 / (nanoseconds / 1e9)


def data_group(place, sizes):
    case, image = new_case(place, "data"), place.image()
    hm, native = Hm(place, case, image), Native(place, case, image)
    size, random = sizes.big_mib * MIB, sizes.random_reads * 4 * KIB
    file = case / "workspace/big0"
    in_order = f"{OPS} seq first big0 && {OPS} seq again big0 && {OPS} rand rand big0 " \
               f"{sizes.random_reads}"
    random_first = f"{OPS} rand rand big0 {sizes.random_reads}"

    def prepare():
        place.ops("write", "big", str(file)[:-1], 1, sizes.big_mib)
        place.settle(time.time())

    def rates(first, cold_random, known=None):
        return {"W4-seq": rate(size, first["first"]),
                "W4-seq-known": rate(size, (known or first)["first"]),
                "W4-seq-again": rate(size, first["again"]),
                "W4-rand": rate(random, cold_random["rand"]),
                "W4-rand-again": rate(random, first["rand"])}

    def with_hm():
        hm.fresh_home()
        first = hm.step(in_order).values
        place.drop_caches()
        known = hm.step(in_order).values
        place.drop_caches()
        return rates(first, hm.step(random_first).values, known)

    def with_native():
        first = native.run(f"cd /workspace && {in_order}")
        place.drop_caches()
        return rates(first, native.run(f"cd /workspace && {random_first}"))

    def on_peer(directory):
        first = {}
        for words in (("seq", "first"), ("seq", "again"), ("rand", "rand")):
            more = [sizes.random_reads] if words[0] == "rand" else []
            first |= place.ops(*words, directory / "big0", *more)
        values = rates(first, first)
        return {row: values[row] for row in values if row != "W4-rand"}

    text = f"a file of {sizes.big_mib} MiB"

    def row(name, what, *bars):
        return Row(name, what, "MB/s", True, bars, cold="caches dropped" in what)

    return Group([
        row("W4-seq", f"reading {text} in order, first; caches dropped, empty store",
            at_least(0.5)),
        row("W4-seq-known", f"reading {text} in order, first; caches dropped, file in the store",
            at_least(0.5)),
        row("W4-seq-again", f"reading {text} in order, again", at_least(0.95)),
        row("W4-rand", f"4 KiB at random of {text}, first; caches dropped, file in the store",
            at_least(0.5)),
        row("W4-rand-again", f"4 KiB at random of {text} that was read", at_least(0.9)),
    ], {HM: with_hm, NATIVE: with_native, **fuse_peers(place, case / "workspace", on_peer)},
        prepare, hm.drop_home, cold=True)


def through_group(place, sizes):
    """The same with `--passthrough`: the kernel reads the copy in the store itself."""
    case, image = new_case(place, "through"), place.image()
    hm, native = Hm(place, case, image), Native(place, case, image)
    size, random = sizes.big_mib * MIB, sizes.random_reads * 4 * KIB
    command = f"{OPS} seq first big0 && {OPS} rand rand big0 {sizes.random_reads}"

    def prepare():
        place.ops("write", "big", str(case / "workspace/big"), 1, sizes.big_mib)
        place.settle(time.time())

    def step():
        try:
            return hm.step(command, "--passthrough=require").values
        except Broken as error:
            if "passthrough: " not in str(error):
                raise
            raise Unavailable(str(error).split("passthrough: ")[-1].strip()) from error

    def with_hm():
        hm.fresh_home()
        first = step()
        place.drop_caches()
        known = step()
        return {"W4-through": rate(size, first["first"]),
                "W4-through-known": rate(size, known["first"]),
                "W4-through-rand": rate(random, known["rand"])}

    def with_native():
        values = native.run(f"cd /workspace && {command}")
        first = rate(size, values["first"])
        return {"W4-through": first, "W4-through-known": first,
                "W4-through-rand": rate(random, values["rand"])}

    text = f"passthrough, a file of {sizes.big_mib} MiB"
    return Group([
        Row("W4-through", f"{text}: in order, first; caches dropped, empty store", "MB/s", True,
            cold=True),
        Row("W4-through-known", f"{text}: in order, first; caches dropped, file in the store",
            "MB/s", True, (at_least(0.9),), cold=True),
        Row("W4-through-rand", f"{text}: 4 KiB at random of what was read", "MB/s", True,
            (at_least(0.9),)),
    ], {HM: with_hm, NATIVE: with_native}, prepare, hm.drop_home, cold=True)


def write_group(place, sizes):
    case, image = new_case(place, "write-big"), place.image()
    hm, native = Hm(place, case, image), Native(place, case, image)
    size = sizes.big_mib * MIB
    command = f"{OPS} write write big 1 {sizes.big_mib}"

    def settled(values):
        place.sync()  # the next one does not write this one's pages
        return {"W4-write": rate(size, values["write"])}

    def with_hm():
        hm.fresh_home()
        return settled(hm.step(command).values)

    def on_peer(directory):
        return settled(place.ops("write", "write", directory / "big", 1, sizes.big_mib))

    return Group([Row("W4-write", f"writing a file of {sizes.big_mib} MiB, in the step", "MB/s",
                      True, (at_least(0.95),))],
                 {HM: with_hm,
                  NATIVE: lambda: settled(native.run(f"cd /workspace && {command}")),
                  **fuse_peers(place, place.fresh("peer-target"), on_peer, cold=False)},
                 clean=hm.drop_home)


# --- W8 -------------------------------------------------------------------------------------------


def sha256_rate(place):
    """What one core hashes with OpenSSL, MB/s."""
    out, _, _ = place.run(["openssl", "speed", "-mr", "-seconds", "1", "-bytes", MIB, "-evp",
                           "sha256"])
    found = re.search(r"^\+F:.*:([\d.]+)$", out, re.M)
    if not found:
        raise Unavailable("openssl speed prints something unknown")
    return float(found.group(1)) / 1e6


def written_bytes(path):
    """What the filesystem's device has written since it came up, or None."""
    device = os.stat(path).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(stat.read_text().split()[6]) * 512 if stat.exists() else None


def free_bytes(path):
    status = os.statvfs(path)
    return status.f_bfree * status.f_frsize


class Capture:
    """What `hm run` takes beyond the command's own time and an empty step."""

    def __init__(self, place):
        self.place = place
        self.hm = Hm(place, new_case(place, "capture"), place.image())
        self.empty_ns = 0  # what hm takes for a step that does nothing

    def once(self, command):
        """Into an empty store: (nanoseconds, nanoseconds of that for hashing if hm says so)."""
        self.hm.fresh_home()
        self.place.sync()
        self.place.counting = True
        outcome = self.hm.step(command)
        return outcome.wall_ns - outcome.values["write"] - self.empty_ns, outcome.capture_ns

    def measure_empty(self):
        self.hm.fresh_home()
        self.empty_ns = statistics.median(self.hm.step("true").wall_ns for _ in range(5))

    def count(self, command):
        """Says how much the disk took and how much the store grew by."""
        self.hm.fresh_home()
        self.place.sync()
        before, free = written_bytes(self.hm.home), free_bytes(self.hm.home)
        self.hm.step(command)
        self.place.sync()
        after = written_bytes(self.hm.home)
        written = "not known" if before is None else f"{(after - before) / MIB:.0f} MiB"
        grown = (free - free_bytes(self.hm.home)) / MIB
        return f"the disk wrote {written} (others' writes included), {grown:.0f} MiB less are free"


def capture_group(place, sizes, results):
    capture = Capture(place)
    few = 4
    big = f"{OPS} write write big {few} {sizes.big_mib // few}"
    small = f"{OPS} tree write tree {sizes.files} 4096 4096"
    small_size, big_size = sizes.files * 4096, sizes.big_mib * MIB

    def prepare():
        capture.measure_empty()
        results.note(f"W8-big: {capture.count(big)}")
        results.note(f"W8: {capture.count(small)}")

    def with_hm():
        values = {}
        for row, size, command in (("W8", small_size, small), ("W8-big", big_size, big)):
            whole, hashing = capture.once(command)
            values[row + "-whole"] = rate(size, whole)
            if hashing is not None:
                values[row] = rate(size, hashing)
        return values

    def with_openssl():
        value = sha256_rate(place)
        return {row.id: value for row in rows}

    small_text = f"{sizes.files} files of 4 KiB"
    big_text = f"{sizes.big_mib} MiB in {few} files"
    hashing = "capturing {} that a step wrote, as hm times it"
    whole = "keeping {} that a step wrote: whole process, less the step and what an empty one takes"
    bars = (times(0.8, SHA256, True),)
    rows = [Row("W8", hashing.format(small_text), "MB/s", True, bars),
            Row("W8-whole", whole.format(small_text), "MB/s", True),
            Row("W8-big", hashing.format(big_text), "MB/s", True, bars),
            Row("W8-big-whole", whole.format(big_text), "MB/s", True)]
    return Group(rows, {HM: with_hm, SHA256: with_openssl}, prepare, capture.hm.drop_home)


def groups(place, sizes, options):
    return {"W4": [lambda: data_group(place, sizes), lambda: through_group(place, sizes),
                   lambda: write_group(place, sizes)],
            "W8": [lambda: capture_group(place, sizes, options.results)]}
