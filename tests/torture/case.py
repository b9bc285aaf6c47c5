"""A torture case: a workspace, a pipeline and rounds of edits; plain data, kept as JSON.

Names and words are escaped as in ops/main.cc, so whatever bytes a name has, a case is plain text.
"""

import dataclasses
import json


def escape(data):
    if isinstance(data, str):
        data = data.encode()
    out = "".join(chr(c) if 32 < c < 127 and c != 37 else f"%{c:02x}" for c in data)
    return out or "%"


def unescape(word):
    if word == "%":
        return b""
    out = bytearray()
    i = 0
    while i < len(word):
        if word[i] == "%":
            out.append(int(word[i + 1 : i + 3], 16))
            i += 3
        else:
            out.append(ord(word[i]))
            i += 1
    return bytes(out)


@dataclasses.dataclass
class Step:
    key: str
    parent: str | None
    ops: list  # lines of the operation language
    checked: bool  # whether the view that it leaves is compared; its leaves' always are


@dataclasses.dataclass
class Case:
    seed: int
    workspace: list  # edits that make it
    steps: list
    # Each a list of edits; an empty one changes nothing. What follows an edit ["live"] is applied
    # while hm runs; ["forget"] empties the store.
    rounds: list
    limit: str = ""  # the named limit of hm that this case shows: its divergences do not count

    def to_json(self):
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text):
        data = json.loads(text)
        data["steps"] = [Step(**step) for step in data["steps"]]
        return Case(**data)


def split_live(edits):
    """The edits before a run, and those while it runs (None: it is left alone)."""
    if ["live"] not in edits:
        return edits, None
    at = edits.index(["live"])
    return edits[:at], edits[at + 1 :]


# ---------------------------------------------------------------------------------------------
# Shrinking


def without(items, at, count=1):
    return items[:at] + items[at + count :]


def smaller_cases(case):
    """Every case with one thing less, coarse things first."""

    def with_step(i, step):
        return dataclasses.replace(case, steps=case.steps[:i] + [step] + case.steps[i + 1 :])

    parents = {step.parent for step in case.steps}
    for i in range(len(case.rounds)):
        yield dataclasses.replace(case, rounds=without(case.rounds, i))
    for i, step in enumerate(case.steps):
        if step.key not in parents:
            yield dataclasses.replace(case, steps=without(case.steps, i))
    for size in (8, 4, 2, 1):
        for i, step in enumerate(case.steps):
            for at in range(0, len(step.ops), size):
                yield with_step(i, dataclasses.replace(step, ops=without(step.ops, at, size)))
    for i, step in enumerate(case.steps):
        if step.parent is not None:
            grand = next(s.parent for s in case.steps if s.key == step.parent)
            yield with_step(i, dataclasses.replace(step, parent=grand))
        for j, line in enumerate(step.ops):
            words = line.split()
            if words[0].startswith("if"):  # what a condition guards, without it
                rest = " ".join(words[3 if words[0] == "ifnewer" else 2 :])
                yield with_step(i, dataclasses.replace(
                    step, ops=step.ops[:j] + [rest] + step.ops[j + 1 :]))
    for size in (4, 1):
        for i in range(0, len(case.workspace), size):
            yield dataclasses.replace(case, workspace=without(case.workspace, i, size))
    for i, edits in enumerate(case.rounds):
        for j in range(len(edits)):
            yield dataclasses.replace(
                case, rounds=case.rounds[:i] + [without(edits, j)] + case.rounds[i + 1 :])


def shrink(case, still_fails):
    progress = True
    while progress:
        progress = False
        for smaller in smaller_cases(case):
            if smaller.steps and smaller.rounds and still_fails(smaller):
                case, progress = smaller, True
                break
    return case
