#!/usr/bin/env python3
"""The torture oracle: a cached run must leave what a run from scratch leaves.

A case is a workspace, a pipeline of steps that execute random operations (ops/main.cc), and rounds
of edits to the workspace. After each round the pipeline runs on the case's own store, and once more
on an empty one; what every step printed, and every entry of the views they left, must be equal. In
some rounds edits are made while hm runs, too: it must notice, or have seen one state of the
workspace. What ran although nothing that it saw had changed is an error as well.

    torture.py --hm build/tools/hm --ops build/tests/torture_ops --tmpfs --seed 1 --cases 300

A case counts as one (pipeline, edit) pair. Exit code 1 when something was found.
"""

import argparse
import multiprocessing
import os
import pwd
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

from case import Case, shrink
from generator import Generator
from runner import CaseRun, Hm, Report, for_machines

HERE = Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hm", default="build/tools/hm")
    parser.add_argument("--ops", default="build/tests/torture_ops", help="the image's program")
    parser.add_argument("--seed", type=int, help="default: random, and printed")
    parser.add_argument("--cases", type=int, default=300, help="(pipeline, edit) pairs")
    parser.add_argument("--rounds", type=int, default=5, help="pairs a pipeline")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--tmpfs", action="store_true", help="work in /dev/shm")
    parser.add_argument("--backend", choices=("namespace", "vm"), default="namespace",
                        help="vm: cached runs are in virtual machines, and their traces and layers "
                        "compared with those of namespaces")
    parser.add_argument("--user", help="run everything as this user (for root)")
    parser.add_argument("--no-times", action="store_true", help="never compare file times")
    parser.add_argument("--until-found", action="store_true", help="stop at the first finding")
    parser.add_argument("--shrink", action="store_true", help="write failing cases, made small")
    parser.add_argument("--found", type=Path, default=HERE / "found", help="where --shrink writes")
    parser.add_argument("--replay", type=Path, nargs="+", help="run these files, or directories")
    parser.add_argument("--show", action="store_true", help="print the case of --seed")
    args = parser.parse_args()
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(10**9)
    args.hm = os.path.abspath(args.hm)
    args.kernel = kernel_for_guests(parser) if args.backend == "vm" else None
    return args


def kernel_for_guests(parser):
    """An installed one, or the one that tools/setup has unpacked."""
    for directory in ("/boot", "/var/lib/hmtest/kernel/boot"):
        for image in sorted(Path(directory).glob("vmlinuz-*-amd64")):
            if os.access(image, os.R_OK):
                return str(image)
    parser.error("no kernel for virtual machines: run tools/setup")


class Worker:
    """A process with a directory of its own, which runs one case after the other."""

    hm = None
    args = None

    @classmethod
    def start(cls, args, base):
        cls.args = args
        own = Path(tempfile.mkdtemp(dir=base))
        if args.user:
            user = pwd.getpwnam(args.user)
            os.chown(own, user.pw_uid, user.pw_gid)
            become(user)
        cls.hm = Hm(args.hm, args.ops, own, args.kernel)

    @classmethod
    def run(cls, item):
        """`item`: a case, or the seed of one."""
        args = cls.args
        case = item if isinstance(item, Case) \
            else Generator(item, not args.no_times).case(args.rounds)
        if args.kernel:
            case = for_machines(case)
        report = CaseRun(cls.hm, case).run()
        if args.shrink and report.failed() and not case.limit:
            cls.shrink(case, report)
        return case, report

    @classmethod
    def shrink(cls, case, report):
        # What depends on the moment of an edit is tried more than once.
        tries = 8 if report.live else 1

        def fails(one):
            return any(CaseRun(cls.hm, one, True).run().divergences for _ in range(tries))

        small = shrink(case, fails) if report.divergences else case
        cls.args.found.mkdir(exist_ok=True)
        (cls.args.found / f"seed-{case.seed}.json").write_text(small.to_json())


class Sum:
    def __init__(self):
        self.total = Report()
        self.begin = time.monotonic()

    def add(self, case, report):
        for field in ("pairs", "ran", "hits", "live", "noticed", "compared"):
            setattr(self.total, field, getattr(self.total, field) + getattr(report, field))
        for word, kind in (("DIVERGENCE", "divergences"), ("UNSTABLE", "unstable"),
                           ("IMPRECISE", "imprecise")):
            found = getattr(report, kind)
            for at, text in found:
                print(f"{'LIMIT' if case.limit else word} seed={case.seed} edit={at} {text}",
                      flush=True)
            if not case.limit:
                getattr(self.total, kind).extend(found)

    def seconds(self):
        return time.monotonic() - self.begin

    def __str__(self):
        t = self.total
        compared = f"{t.compared} traces as in a namespace; " if t.compared else ""
        return (f"{t.pairs} cases, {len(t.divergences)} divergences, {len(t.unstable)} unstable, "
                f"{len(t.imprecise)} imprecise; {t.hits} hits, {t.ran} runs; {t.live} with edits "
                f"in flight, {t.noticed} of them noticed; {compared}"
                f"{t.pairs / self.seconds():.1f} cases/s")


def items(args):
    if args.replay:
        for path in args.replay:
            files = sorted(path.glob("*.json")) if path.is_dir() else [path]
            yield from (Case.from_json(file.read_text()) for file in files)
        return
    yield from range(args.seed, args.seed + (args.cases + args.rounds - 1) // args.rounds)


def torture(args, base):
    total = Sum()
    print(f"seed {args.seed}", flush=True)
    with multiprocessing.Pool(args.jobs, Worker.start, (args, base)) as pool:
        for case, report in pool.imap_unordered(Worker.run, items(args)):
            total.add(case, report)
            if args.until_found and total.total.failed():
                break
            if args.seconds and total.seconds() > args.seconds:
                print(f"stopped after {args.seconds:.0f} s of {args.cases} cases", flush=True)
                break
        else:
            pool.close()
            pool.join()
    print(total, flush=True)
    return 1 if total.total.failed() else 0


def make_reachable(args, base):
    """The user may not be able to reach a checkout of ours."""
    for name in ("hm", "ops"):
        setattr(args, name, shutil.copy(getattr(args, name), base))
    base.chmod(0o755)


def become(user):
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def main():
    args = arguments()
    if args.show:
        print(Generator(args.seed, not args.no_times).case(args.rounds).to_json(), end="")
        return 0
    # A worker that is stopped ends its hm, and the directory goes.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    base = Path(tempfile.mkdtemp(prefix="torture.", dir="/dev/shm" if args.tmpfs else None))
    try:
        if args.user:
            make_reachable(args, base)
        return torture(args, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
