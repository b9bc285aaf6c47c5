"""Rows, bars and rounds: what is measured, what it is held against, and how it is printed."""

import dataclasses
import statistics
import subprocess
import sys
import time
from typing import Callable

HM, NATIVE = "hm", "native"
TRIPS = 10_000  # round trips, to time one


class Unavailable(Exception):
    """This cannot be measured here; says why. Not a failure."""


class Broken(Exception):
    """The measurement itself failed."""


@dataclasses.dataclass
class Bar:
    """A claim about a row's medians. `holds` returns None where nothing is there to compare."""

    text: str
    holds: Callable


@dataclasses.dataclass
class Row:
    id: str
    text: str
    unit: str = "ms"
    more_is_better: bool = False
    bars: tuple = ()
    cold: bool = False  # means something only with empty caches, which only root can ask for
    trips: int = None  # FUSE round trips that nobody can do without; gives the row a floor
    trip_us: list = dataclasses.field(default_factory=list)  # a round trip, in each round
    samples: dict = dataclasses.field(default_factory=dict)  # contestant → values
    missing: dict = dataclasses.field(default_factory=dict)  # contestant → why

    def median(self, contestant):
        values = self.samples.get(contestant)
        return statistics.median(values) if values else None

    def ratio(self, contestant):
        value, base = self.median(contestant), self.median(NATIVE)
        return value / base if value is not None and base else None


@dataclasses.dataclass
class Group:
    """Rows that are measured together. A contestant is a function that does the work once and
    returns {row id: value}. In a `cold` group each turn begins with empty caches."""

    rows: list
    contestants: dict
    prepare: Callable = lambda: None
    clean: Callable = lambda: None
    cold: bool = False
    rounds: int = None  # instead of what the command line says
    warm_up: bool = True

    def name(self):
        return "…".join(dict.fromkeys([self.rows[0].id, self.rows[-1].id]))


class Results:
    """All rows of a run, and what was measured once: the round trip, requests, remarks."""

    def __init__(self):
        self.rows = {}
        self.requests = {}  # rows → {kind: requests} of each session in the warm-up
        self.notes = []
        self.broken = []

    def median(self, row, contestant=HM):
        return self.rows[row].median(contestant) if row in self.rows else None

    def round_trip_us(self):
        """The median of all that were measured, or None."""
        values = [value for row in self.rows.values() for value in row.trip_us]
        return statistics.median(values) if values else None

    @staticmethod
    def floor(row):
        """Milliseconds: necessary round trips × one in the same rounds + the native time."""
        native = row.median(NATIVE)
        if row.trips is None or native is None or not row.trip_us:
            return None
        return row.trips * statistics.median(row.trip_us) / 1000 + native

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)


# --- bars -------------------------------------------------------------------------------------


def _compare(value, limit, more=False):
    if value is None or limit is None:
        return None
    return value >= limit if more else value <= limit


def within(limit):
    return Bar(f"≤ {limit} × native", lambda results, row: _compare(row.ratio(HM), limit))


def at_least(limit):
    return Bar(f"≥ {limit} × native", lambda results, row: _compare(row.ratio(HM), limit, True))


def of_floor(limit):
    def holds(results, row):
        floor = results.floor(row)
        return _compare(row.median(HM), floor and limit * floor)
    return Bar(f"≤ {limit} × floor", holds)


def below(limit, unit):
    return Bar(f"≤ {limit} {unit}", lambda results, row: _compare(row.median(HM), limit))


def above_native(limit, unit):
    def holds(results, row):
        native = row.median(NATIVE)
        return _compare(row.median(HM), None if native is None else native + limit)
    return Bar(f"≤ native + {limit} {unit}", holds)


def times(limit, contestant, more=False):
    sign = "≥" if more else "≤"
    def holds(results, row):
        other = row.median(contestant)
        return _compare(row.median(HM), other and limit * other, more)
    return Bar(f"{sign} {limit} × {contestant}", holds)


def times_row(limit, other):
    def holds(results, row):
        base = results.median(other)
        return _compare(row.median(HM), base and limit * base)
    return Bar(f"≤ {limit} × {other}", holds)


def faster_than(*contestants):
    def holds(results, row):
        others = [row.median(name) for name in contestants if row.median(name) is not None]
        return _compare(row.median(HM), min(others)) if others else None
    return Bar("faster than " + ", ".join(contestants), holds)


# --- rounds -----------------------------------------------------------------------------------


class Runner:
    """Runs groups: a warm-up, then rounds in which the contestants take turns."""

    def __init__(self, place, rounds):
        self.place = place
        self.rounds = rounds
        self.results = Results()

    def run(self, name, make):
        """`make` returns the group."""
        began = time.time()
        try:
            self._run(make())
        except Unavailable as reason:
            self.results.note(f"{name}: skipped: {reason}")
        except (Broken, OSError, subprocess.SubprocessError) as error:
            self.results.broken.append(f"{name}: {error}")
        print(f" {time.time() - began:.0f} s", file=sys.stderr)

    def _run(self, group):
        for row in group.rows:
            self.results.rows[row.id] = row
        print(f"bench: {group.name()}", end="", file=sys.stderr, flush=True)
        try:
            group.prepare()
            self._rounds(group)
        except Unavailable as reason:
            for row in group.rows:
                row.missing[HM] = f"skipped: {reason}"
        except Broken as error:
            self._break(group, HM, error)
        finally:
            group.clean()

    def _rounds(self, group):
        left = dict(group.contestants)
        rounds = group.rounds or self.rounds
        for number in range(0 if group.warm_up else 1, rounds + 1):
            if number > 0:
                self._round_trip([row for row in group.rows if row.trips is not None])
            for name in list(left):
                if not self._once(group, name, left[name], number):
                    del left[name]
        said = self.place.take_requests()
        if said:
            self.results.requests[group.name()] = said

    def _round_trip(self, rows):
        """What one round trip takes now, for the rows that have a floor."""
        if rows:
            command = [self.place.program("bench_rtt"), self.place.fresh("rtt"), TRIPS]
            out = self.place.run(command)[0]
            for row in rows:
                row.trip_us.append(int(out.split()[1]) / 1000)

    def _once(self, group, name, work, number):
        """False when the contestant is out."""
        self.place.counting = number == 0 and name == HM
        if group.cold:
            self.place.drop_caches()
        try:
            values = work()
        except Unavailable as reason:
            self.results.note(f"{name}: {reason}")
            for row in group.rows:
                row.missing.setdefault(name, str(reason))
            return False
        except Broken as error:
            self._break(group, name, error)
            return False
        finally:
            self.place.counting = False
        if number > 0:
            for row in group.rows:
                if row.cold and not self.place.can_drop_caches():
                    row.missing[HM] = "skipped: only root can drop the caches"
                elif row.id in values:
                    row.samples.setdefault(name, []).append(values[row.id])
        return True

    def _break(self, group, name, error):
        """A peer that fails is left out; hm or the native limit failing breaks the row."""
        if name in (HM, NATIVE):
            self.results.broken.append(f"{group.rows[0].id}: {name}: {error}")
        for row in group.rows:
            row.missing[name] = f"failed: {error}".splitlines()[0]


# --- output -----------------------------------------------------------------------------------


def number(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table_of(results):
    lines = [("row", "contestant", "median", "spread", "unit", "× native", "bar", "holds")]
    for row in results.rows.values():
        lines.append((row.id, row.text, "", "", "", "", "", ""))
        for name, values in row.samples.items():
            ratio = row.ratio(name)
            lines.append(("", name, number(row.median(name)),
                          f"{number(min(values))}-{number(max(values))}", row.unit,
                          f"{ratio:.2f}" if ratio is not None else "-", "", ""))
        if row.trips is not None:
            lines.append(("", "floor", number(results.floor(row)), "", row.unit, "",
                          f"{row.trips} round trips + native", ""))
        for bar in row.bars:
            lines.append(("", "", "", "", "", "", bar.text, verdict(bar.holds(results, row))))
        for name, why in row.missing.items():
            if why.startswith(("failed", "skipped")):
                lines.append(("", name, why, "", "", "", "", ""))
    return lines


def verdict(holds):
    return {None: "not known", True: "yes", False: "NO"}[holds]


def print_table(results, machine):
    print("\n" + ", ".join(f"{key}: {value}" for key, value in machine.items()))
    lines = table_of(results)
    full = [line for line in lines if line[3]]  # those with all columns
    widths = [max(len(line[i]) for line in full) for i in range(8)]
    for line in lines:
        if line[0] and not line[2]:
            print(f"{line[0]}  {line[1]}")
        else:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    trip = results.round_trip_us()
    print(f"\nFUSE round trip: {number(trip)} us" if trip else "\nFUSE round trip: not known")
    print("requests that hm served" + ("" if any(results.requests.values()) else ": not known"))
    for rows, said in results.requests.items():
        for counts in said:
            print(f"  {rows}: " + ", ".join(f"{counts[name]} {name}" for name in counts))
    for text in results.notes + [f"BROKEN {text}" for text in results.broken]:
        print(text)


def as_json(results, machine):
    return {
        "machine": machine, "round_trip_us": results.round_trip_us(),
        "requests": results.requests, "notes": results.notes, "broken": results.broken,
        "rows": [{
            "id": row.id, "text": row.text, "unit": row.unit, "trips": row.trips,
            "trip_us": row.trip_us,
            "floor": results.floor(row),
            "contestants": {name: {"samples": values, "median": row.median(name),
                                   "ratio": row.ratio(name)}
                            for name, values in row.samples.items()},
            "missing": row.missing,
            "bars": [{"text": bar.text, "holds": bar.holds(results, row)} for bar in row.bars],
        } for row in results.rows.values()]}
