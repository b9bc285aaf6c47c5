"""tools/bench: see README.md beside this file."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import measure
import w_compile
import w_data
import w_files
import w_names
import w_null
import w_start
import w_vm
from place import Place
from sizes import FULL, QUICK

MODULES = (w_compile, w_files, w_data, w_null, w_start, w_names, w_vm)
ROWS = [f"W{i}" for i in range(1, 11)]
MACHINES = "VM"  # only where asked for: it says nothing of the rest, and takes minutes without KVM


def arguments():
    parser = argparse.ArgumentParser(prog="tools/bench", description="Measures hm, the native "
                                     "limit and the peers that are installed, in one run.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, two rounds: no figures")
    parser.add_argument("--row", default="", help="only these, as W2,W6; VM: machines")
    parser.add_argument("--rounds", type=int, help="after a warm-up; default 5")
    parser.add_argument("--json", metavar="FILE", help="writes all samples there")
    parser.add_argument("--dir", default="/var/tmp", help="works below it; not a tmpfs")
    parser.add_argument("--npm", action="store_true", help="adds npm ci to W3; needs a registry")
    parser.add_argument("--self", action="store_true", help="adds this project itself to W1")
    parser.add_argument("--install", action="store_true", help="installs the peers first")
    parser.add_argument("--build", default="build", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rows = args.row.upper().split(",") if args.row else ROWS
    unknown = set(args.rows) - {*ROWS, MACHINES}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    args.rounds = args.rounds or (2 if args.quick else 5)
    return args


def machine_of(place):
    done = subprocess.run(["stat", "-f", "-c", "%T", place.root], capture_output=True, text=True,
                          check=False)
    return {"cores": os.cpu_count(), "kernel": ".".join(platform.release().split(".")[:2]),
            "filesystem": done.stdout.strip(), "user": "root" if os.geteuid() == 0 else "not root"}


def measure_all(place, args, runner):
    results = args.results = runner.results
    results.requests["an empty step"] = w_start.requests_of_empty_step(place)
    groups = {}
    for module in MODULES:
        groups |= module.groups(place, QUICK if args.quick else FULL, args)
    for row in args.rows:
        for make in groups[row]:
            runner.run(row, make)


def stop_on_signals():
    """The first one ends the run; the clean-up that follows is not to be disturbed."""
    def stop(*_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def main():
    args = arguments()
    stop_on_signals()
    began = time.time()
    place = Place(args.dir, args.build)
    place.patient = not args.quick
    runner = measure.Runner(place, args.rounds)
    machine = machine_of(place)
    interrupted = False
    try:
        measure_all(place, args, runner)
    except KeyboardInterrupt:
        interrupted = True
        runner.results.note("interrupted: rows and rounds are missing")
    finally:
        place.clean()
    report(args, runner, machine, time.time() - began)
    if interrupted:
        return 130
    return 1 if runner.results.broken else 0


def report(args, runner, machine, seconds):
    """Also of a run that was interrupted: the rows that it has."""
    if args.quick:
        runner.results.note("--quick: tiny sizes, nothing is cold, files are too young for "
                            "hm's stat cache: no figure here means anything")
    runner.results.note(f"{args.rounds} rounds in {seconds:.0f} s")
    measure.print_table(runner.results, machine)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(measure.as_json(runner.results, machine), file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
