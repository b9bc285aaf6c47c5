#!/usr/bin/env python3
"""Lets each file operation of hm fail, one at a time; and tears its database.

A case is a scenario (an empty store, a store with every result, a store with the results of another
state), a kind of operation, its n-th occurrence and a fault (tests/faults/faults.cc). hm runs under
the fault: it must succeed or say in one line what failed, and leave nothing. Then, without faults:
the store is whole or can be repaired, and a run gives what a run from scratch gives.

    tests/torture/faults.py --tmpfs                                the whole matrix
    tests/torture/faults.py --tmpfs --sample 60 --torn 20 --seed 1    some, taken at random
    tests/torture/faults.py --tmpfs --only cold:write:7:EIO        one case

Exit code 1 when a check failed.
"""

import collections
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import workload

ALL = ["cold", "hit", "edited"]
# Kind of operation, fault, and where it is tried. `change` is any operation that leaves something
# on the disk: to die at each of them is to die everywhere.
FAULTS = [
    ("open", "EIO", ["hit", "edited"]),
    ("create", "EIO", ALL),
    ("create", "ENOSPC+", ALL),
    ("read", "EIO", ["hit", "edited"]),
    ("read", "short", ["hit"]),
    ("write", "EIO", ALL),
    ("write", "ENOSPC+", ALL),
    ("write", "short", ["edited"]),
    ("write", "die-torn", ["cold", "edited"]),
    ("sync", "EIO", ALL),
    ("sync", "EIO+", ALL),
    ("rename", "EIO", ALL),
    ("unlink", "EIO", ["edited"]),
    ("truncate", "ENOSPC", ALL),
    ("mkdir", "ENOSPC", ["edited"]),
    ("lock", "ENOLCK", ["edited"]),
    ("map", "ENOMEM", ALL),
    ("change", "die", ["cold", "edited"]),
    ("change", "EROFS+", ["edited"]),
]
STATES = [{"in1": "one\n", "in2": "x\n", "opt": None, "big": workload.CHOICES["big"][0]},
          {"in1": "two\n", "in2": "x\n", "opt": None, "big": workload.CHOICES["big"][1]}]
WAL_BLOCK = 4096
LIBRARY = Path(__file__).resolve().parents[2] / "build/tests/libfaults.so"


class Faults:
    def __init__(self, bench, lib, verbose):
        self.bench = bench
        self.verbose = verbose
        self.lib = lib
        self.saved = bench.base / "saved-store"
        self.log = bench.base / "faults.log"
        bench.set_state(0, STATES[0])
        bench.check_clean_run(0)
        shutil.copytree(bench.home, self.saved)

    def prepare(self, scenario):
        """The store and the workspace as they are before the run that fails."""
        bench = self.bench
        shutil.rmtree(bench.home, ignore_errors=True)
        if scenario != "cold":
            shutil.copytree(self.saved, bench.home)
        bench.set_state(0, STATES[1 if scenario == "edited" else 0])

    def run(self, fault):
        self.log.unlink(missing_ok=True)
        env = {"LD_PRELOAD": str(self.lib), "HM_FAULT_DIR": str(self.bench.home),
               "HM_FAULT_LOG": str(self.log)}
        if fault:
            env["HM_FAULT"] = fault
        return self.bench.run(extra_env=env, options=["--parallelism", "1"])

    def count(self, scenario):
        self.prepare(scenario)
        result = self.run(None)
        if result.exit_code != 0:
            raise workload.Failure(f"without a fault: {result.stderr}")
        counts = [line.split() for line in self.log.read_text().splitlines()]
        return {kind: int(number) for kind, number in counts}

    def matrix(self):
        counts = {scenario: self.count(scenario) for scenario in ALL}
        return [(scenario, kind, n, fault) for kind, fault, scenarios in FAULTS
                for scenario in scenarios for n in range(1, counts[scenario][kind] + 1)]

    def case(self, scenario, kind, n, fault):
        self.prepare(scenario)
        before = set(blobs_of(self.bench.home))
        result = self.run(f"{kind}:{n}:{fault}")
        if (kind, n, fault) == ("sync", 1, "EIO+"):  # a disk that failed may lose what is not synced
            for blob in set(blobs_of(self.bench.home)) - before:
                blob.chmod(0o600)
                blob.write_bytes(bytes(blob.stat().st_size))
        fired = self.log.exists() and "fired" in self.log.read_text()
        if self.verbose:
            text = self.log.read_text().splitlines()[0] if fired else "not reached"
            print(f"{scenario}:{kind}:{n}:{fault} {text}: exit {result.exit_code} "
                  f"{result.stderr.strip()!r}".replace(str(self.bench.home), "HOME"), flush=True)
        if result.exit_code != -signal.SIGKILL or not fault.startswith("die"):
            self.bench.check_ended_well(result)
        if result.exit_code == 0:
            self.bench.check_outcome(0, result)
        self.check_afterwards()
        return fired

    def check_afterwards(self):
        bench = self.bench
        bench.check_nothing_survives()
        self.repair()
        bench.check_clean_run(0)
        bench.check_store()

    def repair(self):
        bench = self.bench
        if not bench.verifies or not (bench.home / "hm.db").exists():
            return
        if bench.verify().returncode != 0:
            done = bench.verify("--repair")
            again = bench.verify()
            if again.returncode != 0:
                raise workload.Failure("cannot be repaired: " + (
                    done.stdout + done.stderr + again.stdout + again.stderr).strip()[:900])

    # --- states of the files that only a lost disk cache, or a bad disk, leaves

    def tear(self, rng):
        """Damages one file of the store; (what was done, whether hm may refuse the store)."""
        self.prepare("edited")
        home = self.bench.home
        log, database = home / "hm.db-wal", home / "hm.db"
        tears = {"cut the log": lambda: cut(rng, log),
                 "zero blocks of the log": lambda: zero_blocks(rng, log),
                 "zero the log's tail": lambda: zero_tail(rng, log),
                 "lose the log": lambda: log.unlink(missing_ok=True),
                 "lose the index": lambda: (home / "hm.db-shm").unlink(missing_ok=True),
                 "scramble the index": lambda: scramble(rng, home / "hm.db-shm"),
                 "cut a blob": lambda: cut(rng, rng.choice(blobs_of(home))),
                 "lose a blob": lambda: rng.choice(blobs_of(home)).unlink(),
                 "lose all blobs": lambda: [blob.unlink() for blob in blobs_of(home)],
                 "cut the database": lambda: cut(rng, database),
                 "zero blocks of the database": lambda: zero_blocks(rng, database),
                 "scramble the database": lambda: scramble(rng, database),
                 "lose the database": database.unlink}
        what = rng.choice(list(tears))
        if rng.random() < 0.5 and "database" in what:
            merge_log(database)
            what += ", log merged"
        tears[what.split(",")[0]]()
        return what

    def torn_case(self, seed):
        """A torn log costs results at most; a broken database may have to be repaired."""
        bench = self.bench
        what = self.tear(random.Random(seed))
        result = bench.run()
        try:
            bench.check_ended_well(result)
            if result.exit_code == 0:
                bench.check_outcome(0, result)
            elif "database" not in what:
                raise workload.Failure(f"exit {result.exit_code}: {result.stderr}")
            if bench.verifies:
                self.check_afterwards()
            elif "database" not in what:
                bench.check_clean_run(0)
        except workload.Failure as failure:
            raise workload.Failure(f"{what}: {failure}") from None
        return what

    def stall_case(self):
        """hm is killed while it mounts an overlay whose server answers nothing any more."""
        self.prepare("cold")
        self.log.unlink(missing_ok=True)
        env = {"LD_PRELOAD": str(self.lib), "HM_FAULT_DIR": str(self.bench.home),
               "HM_FAULT_LOG": str(self.log), "HM_FAULT": "stall"}
        hm = self.bench.start(extra_env=env)
        if not workload.wait_until(lambda: self.log.exists() and "mount" in self.log.read_text()):
            raise workload.Failure("no overlay was mounted")
        time.sleep(0.3)  # into the wait; too short on a slow machine makes the case a mere kill
        workload.kill(hm.pid)
        if not workload.wait_until(lambda: hm.poll() is not None, 60):
            workload.abort_fuse_connections_of(self.bench.mark)
            self.bench.finish(hm)
            raise workload.Failure("a killed hm waits for its own server")
        self.bench.finish(hm)
        self.check_afterwards()


def blobs_of(home):
    return sorted((home / "blobs").glob("*/*"))


def cut(rng, path):
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[: rng.randrange(max(1, len(data)))])


def zero_tail(rng, path):
    data = path.read_bytes()
    at = rng.randrange(max(1, len(data)))
    path.write_bytes(data[:at] + bytes(len(data) - at))


def zero_blocks(rng, path):
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), WAL_BLOCK):
        if rng.random() < 0.3:
            data[at : at + WAL_BLOCK] = bytes(len(data[at : at + WAL_BLOCK]))
    path.write_bytes(data)


def scramble(rng, path):
    if not path.exists():
        return
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 40)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)


def merge_log(database):
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def parse_case(text):
    scenario, kind, n, fault = text.split(":")
    return scenario, kind, int(n), fault


def main():
    parser = workload.common_options(__doc__)
    parser.add_argument("--lib", default=LIBRARY, help="the library to preload")
    parser.add_argument("--verbose", action="store_true", help="say what hm said")
    parser.add_argument("--kinds", help="only these kinds of operations, separated by commas")
    parser.add_argument("--part", default="1/1", help="K/N: the K-th of N parts of the matrix")
    parser.add_argument("--sample", type=int, help="only that many cases of the matrix")
    parser.add_argument("--torn", type=int, default=200, help="cases with a torn store")
    parser.add_argument("--only", help="SCENARIO:KIND:N:FAULT, or torn:SEED, or stall")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    args.lib = shutil.copy(args.lib, library := tempfile.mkdtemp())
    os.chmod(library, 0o755)
    bench = workload.Bench(args, steps=workload.SMALL_STEPS)
    failures, counts, watch = 0, collections.Counter(), workload.Watch(args.seconds)
    try:
        faults = Faults(bench, args.lib, args.verbose)
        for case in chosen_cases(faults, args, random.Random(args.seed)):
            if watch.is_over():
                break
            try:
                counts[do(faults, case)] += 1
            except workload.Failure as failure:
                failures += 1
                name = ":".join(map(str, case))
                print(f"FAILED {name} (seed {args.seed}): {failure}", flush=True)
    finally:
        bench.close()
        shutil.rmtree(library, ignore_errors=True)
    print(f"{counts.total() + failures} cases in {watch.passed():.0f} s, {failures} failures; " +
          ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return 1 if failures else 0


def chosen_cases(faults, args, rng):
    if args.only:
        first = args.only.split(":")[0]
        return [("torn", int(args.only.split(":")[1])) if first == "torn" else
                ("stall",) if first == "stall" else parse_case(args.only)]
    matrix = faults.matrix()
    print(f"the matrix has {len(matrix)} cases", flush=True)
    if args.kinds:
        matrix = [case for case in matrix if case[1] in args.kinds.split(",")]
    part, parts = map(int, args.part.split("/"))
    matrix = matrix[part - 1 :: parts]
    if args.sample is not None:
        matrix = rng.sample(matrix, min(args.sample, len(matrix)))
    torn = [("torn", rng.randrange(1 << 32)) for _ in range(args.torn)]
    if args.sample is not None:
        matrix += torn
        rng.shuffle(matrix)
        torn = []
    return [("stall",), ("edited", "sync", 1, "EIO+"), *torn, *matrix]


def do(faults, case):
    if case[0] == "stall":
        faults.stall_case()
        return "stalled"
    if case[0] == "torn":
        faults.torn_case(case[1])
        return "torn"
    return "fired" if faults.case(*case) else "not reached"


if __name__ == "__main__":
    sys.exit(main())
