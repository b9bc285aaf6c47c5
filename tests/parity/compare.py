#!/usr/bin/env python3
"""Compares what parity_ops printed in a plain directory and in a step.

usage: compare.py TREE EXPECTED ACTUAL ACCEPTED

ACCEPTED is the table of differences that are meant: TREES | OPERATION KIND | EXPECTED => ACTUAL,
regular expressions that must match whole, below a comment that says why. Prints every other
difference, and fails if there is one.
"""

import re
import sys


def read_results(path):
    results = {}
    with open(path, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            name, bar, value = line.rstrip("\n").partition(" | ")
            if not bar:
                sys.exit(f"{path}: not a result: {line!r}")
            if name in results:
                sys.exit(f"{path}: twice: {name}")
            results[name] = value
    return results


def read_accepted(path):
    rows = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                rows.append([re.compile(cell) for cell in re.split(r"\s+\|\s+", line.strip())])
    return rows


def main():
    tree, expected_path, actual_path, accepted_path = sys.argv[1:]
    expected, actual = read_results(expected_path), read_results(actual_path)
    rows = read_accepted(accepted_path)
    accepted = unmeant = 0
    for name in list(expected) + [name for name in actual if name not in expected]:
        plain, step = expected.get(name, "nothing"), actual.get(name, "nothing")
        if plain == step:
            continue
        cells = (tree, name, f"{plain} => {step}")
        if any(all(cell.fullmatch(text) for cell, text in zip(row, cells)) for row in rows):
            accepted += 1
            continue
        unmeant += 1
        print(f"{name}\n    plain: {plain}\n    step:  {step}")
    print(f"{tree}: {len(expected)} operations, {accepted} accepted differences, {unmeant} others")
    return 1 if unmeant or len(expected) < 1000 else 0


if __name__ == "__main__":
    sys.exit(main())
