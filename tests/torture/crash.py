#!/usr/bin/env python3
"""Kills hm at random moments; afterwards the store must be whole and every result right.

A round edits the workspaces at random, starts one to three hm on one store, and at a random moment
kills one of them, its process group or one of its children, or asks it to stop. Then: hm has ended
and nothing of it is left; the store is whole; the next run gives what a run from scratch gives, and
leaves no scratch; every few rounds a second run must be all hits.

    tests/torture/crash.py --tmpfs --rounds 500 --seed 1

Exit code 1 when a check failed. A round depends on its moment: the seed repeats what was tried, not
what happened.
"""

import os
import random
import signal
import sys
import time

import workload

# By our signals; those that ask hm to stop kill it only before it has begun.
DEATHS = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
FULL_RUN = 0.6  # seconds that a run takes at first; measured from then on


def kill_hm(rng, hm):
    workload.kill(hm.pid)


def kill_group(rng, hm):
    signal_group(hm, signal.SIGKILL)


def kill_child(rng, hm):
    """bubblewrap, its child, a program of the step, or whatever hm just started."""
    below = workload.descendants(hm.pid)
    if below:
        workload.kill(rng.choice(below))


def kill_bubblewrap(rng, hm):
    for pid in workload.children_of(hm.pid)[:1]:
        workload.kill(pid)


def signal_hm(rng, hm):
    workload.kill(hm.pid, rng.choice([signal.SIGTERM, signal.SIGINT]))


def stop_group(rng, hm):
    signal_group(hm, rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))


def signal_group(hm, number):
    try:
        os.killpg(hm.pid, number)
    except ProcessLookupError:
        pass


# How often each is chosen.
ATTACKS = {kill_hm: 6, kill_group: 2, kill_child: 2, kill_bubblewrap: 1, signal_hm: 1,
           stop_group: 2}


def starts_a_child(hm):
    return lambda: hm.poll() is not None or workload.children_of(hm.pid)


class Crash:
    def __init__(self, bench, rng):
        self.bench = bench
        self.rng = rng
        self.duration = FULL_RUN
        self.counts = {}

    def pick_attack(self):
        return self.rng.choices(list(ATTACKS), list(ATTACKS.values()))[0]

    def edit(self):
        for index in range(len(self.bench.workspaces)):
            if self.rng.random() < 0.7:
                self.bench.set_state(index, workload.random_state(self.rng))

    def wait_for_the_moment(self, hm):
        if self.rng.random() < 0.3:  # while a sandbox starts: the shortest and busiest moment
            workload.wait_until(starts_a_child(hm), 10)
            time.sleep(self.rng.random() ** 2 * 0.05)
        else:
            time.sleep(self.rng.random() * self.duration * 1.2)

    def round(self):
        rng, bench = self.rng, self.bench
        self.edit()
        index = rng.randrange(len(bench.workspaces))
        options = ["--parallelism", str(rng.choice([1, 2, 4]))]
        victim = bench.start(index, options=options)
        others = []
        while len(others) < 2 and rng.random() < 0.35:
            where = rng.randrange(len(bench.workspaces))
            others.append((where, bench.start(where)))
        edits_in_flight = rng.random() < 0.15
        self.wait_for_the_moment(victim)
        if edits_in_flight:
            self.edit()
        attack = self.pick_attack()
        what = f"{attack.__name__} with {len(others)} others" + ", edited" * edits_in_flight
        in_time = victim.poll() is None
        name = attack.__name__ if in_time else "too late"
        self.counts[name] = self.counts.get(name, 0) + 1
        attack(rng, victim)
        try:
            self.check(victim, attack, index, others, edits_in_flight)
        except workload.Failure as failure:
            raise workload.Failure(f"{what}: {failure}") from None
        return in_time

    def check(self, victim, attack, index, others, edits_in_flight):
        bench = self.bench
        result = bench.finish(victim)
        if result.exit_code not in DEATHS:
            bench.check_ended_well(result)
        if result.exit_code == 0 and not edits_in_flight:
            bench.check_outcome(index, result)
        for where, other in others:
            result = bench.finish(other)
            if edits_in_flight and result.exit_code == 1:
                continue  # its workspace changed while it ran
            if result.exit_code != 0:
                raise workload.Failure(f"another run exits {result.exit_code}: {result.stderr}")
            if not edits_in_flight:
                bench.check_outcome(where, result)
        bench.check_nothing_survives()
        started = time.monotonic()
        for where in range(len(bench.workspaces)):
            bench.check_clean_run(where)
        took = (time.monotonic() - started) / len(bench.workspaces)
        self.duration = 0.8 * self.duration + 0.2 * took
        bench.check_store()
        if self.rng.random() < 0.2:
            bench.check_all_hits(index)


def main():
    parser = workload.common_options(__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--keep-going", action="store_true", help="on after a failure")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    bench = workload.Bench(args, workspaces=2)
    crash = Crash(bench, random.Random(args.seed))
    rounds, failures, watch = 0, 0, workload.Watch(args.seconds)
    try:
        while rounds < args.rounds and not watch.is_over():
            try:
                rounds += crash.round()  # one that came too late shows nothing
            except workload.Failure as failure:
                failures += 1
                rounds += 1
                print(f"FAILED round {rounds} (seed {args.seed}): {failure}", flush=True)
                if not args.keep_going:
                    break
    finally:
        bench.close()
    print(f"{rounds} rounds in {watch.passed():.0f} s, {failures} failures; " +
          ", ".join(f"{count} {name}" for name, count in sorted(crash.counts.items())))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
