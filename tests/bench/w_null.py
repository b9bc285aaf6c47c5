"""W6, W9: runs in which every step is cached."""

import shutil
import time

from contestants import Hm, Native, Step, installed, ms
from measure import HM, NATIVE, Broken, Group, Row, below, faster_than, times, times_row
from place import remove
from w_files import OPS, make_repository, make_tree, new_case

LSTAT, TUP, GIT = "lstat loop", "tup", "git status"
FULL_FILES = 100_000  # as many as any step looks at; the files after them are empty


# --- W6 -------------------------------------------------------------------------------------------


class Tree:
    """One workspace, and what the steps look at in it."""

    def __init__(self, place, sizes, files):
        self.place, self.sizes, self.files = place, sizes, files
        self.case = new_case(place, "null")
        self.workspace = self.case / "workspace"
        self.made = None

    def make(self):
        """Once, for all the rows of this workspace."""
        if self.made is None:
            make_tree(self.place, self.workspace / "tree", self.files, 4, 64, FULL_FILES)
            if shutil.which("git"):
                make_repository(self.place, self.workspace, self.files)
            self.made = time.time()
        self.place.settle(self.made)

    def commands(self, looks):
        """No two are alike, even if they look at the same files."""
        among = self.among(looks)
        return [f"{OPS} look look{i} tree {i * looks % among} {looks} {among}"
                for i in range(self.sizes.null_steps)]

    def among(self, looks):
        """Few looks: within the same first files in every workspace, whatever its size."""
        small = self.sizes.null_trees[0]
        return small if looks <= small else min(self.files, looks * self.sizes.null_steps)


def null_group(place, sizes, tree, looks):
    hm = Hm(place, tree.case, place.image())
    commands, among = tree.commands(looks), tree.among(looks)
    steps = [Step(command, f"s{i}") for i, command in enumerate(commands)]
    seen = min(among, looks * len(steps))
    name = f"W6-{looks}-{tree.files}"

    def prepare():
        tree.make()
        hm.run(steps)
        hm.run(steps)  # old files only now get into the stat cache

    def with_hm():
        outcome = hm.run_file(hm.home / "bench.toml")
        if outcome.hits != len(steps):
            raise Broken(f"{outcome.hits} of {len(steps)} steps were cached")
        return {name: ms(outcome.wall_ns)}

    def with_lstat():
        return {name: ms(place.ops("lstat", "lstat", tree.workspace / "tree", 0, seen,
                                   among)["lstat"])}

    def with_git():
        installed("git")
        return {name: ms(place.run(["git", "-C", tree.workspace, "status", "--porcelain"])[2])}

    contestants = {HM: with_hm, LSTAT: with_lstat, GIT: with_git}
    if looks == sizes.null_looks[0]:
        contestants[TUP] = TupTree(place, tree, commands).update
    text = (f"{len(steps)} cached steps, {looks} observed files each ({seen} distinct ones), "
            f"in a workspace of {tree.files} files: whole process")
    return Group([Row(name, text, bars=bars(sizes, looks, tree.files))], contestants, prepare,
                 hm.drop_home)


def bars(sizes, looks, files):
    few = looks == sizes.null_looks[0]
    out = [faster_than(TUP, GIT)] if few else [times(3, LSTAT), faster_than(GIT)]
    if few:
        out.append(below(60, "ms"))
    if few and files == sizes.null_trees[-1]:
        out.append(times_row(1.15, f"W6-{looks}-{sizes.null_trees[0]}"))
    return tuple(out)


class TupTree:
    """The same steps as tup rules, on a tree of its own, since tup writes into it."""

    def __init__(self, place, tree, commands):
        self.place, self.tree, self.commands = place, tree, commands
        self.directory = None

    def make(self):
        installed("tup")
        self.directory = self.place.fresh("tup")
        files = self.tree.files
        make_tree(self.place, self.directory / "tree", files, 4, 64, FULL_FILES)
        program = self.place.program("bench_ops")
        rules = [f": |> {command.replace(OPS, program, 1)} > %o |> out{i}"
                 for i, command in enumerate(self.commands)]
        (self.directory / "Tupfile").write_text("\n".join(rules) + "\n")
        self.place.run(["tup", "init"], cwd=self.directory)
        self.place.run(["tup"], cwd=self.directory)

    def update(self):
        if self.directory is None:
            self.make()
        row = f"W6-{self.tree.sizes.null_looks[0]}-{self.tree.files}"
        return {row: ms(self.place.run(["tup"], cwd=self.directory)[2])}


def null_groups(place, sizes):
    trees = [Tree(place, sizes, files) for files in sizes.null_trees]
    return [lambda tree=tree, looks=looks: null_group(place, sizes, tree, looks)
            for tree in trees for looks in sizes.null_looks
            if looks <= tree.files]


# --- W6: what copying the workspace would cost --------------------------------------------------


def copy_group(place, sizes):
    """The first step's start, without and with a copy of the workspace for it (Harmont's way)."""
    case, image = new_case(place, "copied"), place.image()
    hm, native = Hm(place, case, image), Native(place, case, image)
    command = "cat /workspace/tree/d0000/f000000 >/dev/null"

    def prepare():
        make_tree(place, case / "workspace/tree", sizes.copy_tree, 1024, 8192)

    def with_copy(*options):
        def once():
            copy = place.fresh("copy")
            try:
                took = place.run(["cp", "-a", *options, case / "workspace", copy])[2]
                took += sum(Native(place, copy, image).run(command)["runs"])
            finally:
                remove(copy)
            return {"W6-copy": ms(took)}
        return once

    return Group([
        Row("W6-copy", f"a step that reads one file, in a workspace of {sizes.copy_tree} files: "
            "whole process", bars=(faster_than("cp -a", "cp --reflink"),)),
    ], {HM: lambda: {"W6-copy": ms(hm.step(command).wall_ns)},
        NATIVE: lambda: {"W6-copy": ms(sum(native.run(command)["runs"]))},
        "cp -a": with_copy("--reflink=never"), "cp --reflink": with_copy("--reflink=auto")},
        prepare, hm.drop_home)


# --- W9 -------------------------------------------------------------------------------------------


class Values:
    """A step whose inputs had so many values, all of them recorded, over so many path sets."""

    def __init__(self, place, values, sets):
        self.values, self.sets = values, sets
        self.hm = Hm(place, new_case(place, "values"), place.image())
        self.turn = 0

    def show(self, value):
        """Which file the step reads depends on another: each is a path set of its own."""
        chosen = value % self.sets
        (self.hm.workspace / "which").write_text(f"{chosen}\n")
        (self.hm.workspace / f"in{chosen}").write_text(f"value {value}\n")

    def make(self):
        steps = [Step("read which <which; cat in$which")]
        for value in range(self.values):
            self.show(value)
            self.hm.run(steps)

    def look_up(self):
        self.turn += 1
        self.show(self.turn * 7919 % self.values)
        outcome = self.hm.run_file(self.hm.home / "bench.toml")
        if outcome.hits != 1:
            raise Broken(f"not cached: value {self.turn * 7919 % self.values} of {self.values}")
        return ms(outcome.wall_ns)


def values_group(place, sizes):
    one, most = sizes.values[0], sizes.values[-1]
    cases = {f"W9-{count}": Values(place, count, 1) for count in sizes.values}
    cases[f"W9-{most}-sets"] = Values(place, most, min(most, 16))

    def text(case):
        return (f"a cached step whose inputs had {case.values} recorded values, over {case.sets} "
                "path sets: whole process")

    def prepare():
        for case in cases.values():
            case.make()

    def clean():
        for case in cases.values():
            case.hm.drop_home()

    return Group([Row(name, text(case),
                      bars=() if case.values == one else (times_row(1.5, f"W9-{one}"),))
                  for name, case in cases.items()],
                 {HM: lambda: {name: case.look_up() for name, case in cases.items()}},
                 prepare, clean)


def groups(place, sizes, _options):
    return {"W6": [*null_groups(place, sizes), lambda: copy_group(place, sizes)],
            "W9": [lambda: values_group(place, sizes)]}
