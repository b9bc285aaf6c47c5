"""W2, W3, W5: small files: reading, writing, looking."""

import json
import os
import re
import shutil
import time
from pathlib import Path

from contestants import FUSE_PEERS, Hm, Native, Step, fuse_peers, ms
from measure import HM, NATIVE, Broken, Group, Row, Unavailable, faster_than, of_floor, within

PER_DIRECTORY = 100  # as in ops.cc
OPS = "bench_ops"


def directories(files):
    return -(-files // PER_DIRECTORY)


def new_case(place, name):
    case = place.fresh(name)
    (case / "workspace/.hm").mkdir(parents=True)
    return case


def make_tree(place, directory, files, smallest=1024, largest=8192, full=None):
    more = [] if full is None else [full]
    place.ops("tree", "tree", directory, files, smallest, largest, *more)


def in_ms(values, names):
    """`names`: row → label."""
    return {row: ms(values[label]) for row, label in names.items() if label in values}


def step_twice(place, hm, in_step, rows, again):
    """With an empty store, then with what that left: the first look of the second as row `again`."""
    hm.fresh_home()
    place.drop_caches()
    values = in_ms(hm.step(in_step).values, rows)
    place.drop_caches()
    return values | {again: ms(hm.step(in_step).values["first"])}


# --- W2 -------------------------------------------------------------------------------------------


def read_group(place, sizes):
    case, image = new_case(place, "read"), place.image()
    hm, native = Hm(place, case, image), Native(place, case, image)
    words = ["read {} {} " + str(sizes.files)] * 2
    in_step = " && ".join(f"{OPS} " + w.format(label, "/workspace/tree")
                          for w, label in zip(words, ("first", "again")))
    rows = {"W2": "first", "W2-again": "again"}

    def prepare():
        make_tree(place, case / "workspace/tree", sizes.files)
        place.settle(time.time())

    def with_hm():
        return step_twice(place, hm, in_step, rows, "W2-known")

    def with_native():
        values = native.run(in_step)
        return in_ms(values, rows | {"W2-known": "first"})

    def on_peer(directory):
        values = {}
        for label in ("first", "again"):
            values |= place.ops("read", label, directory / "tree", sizes.files)
        return in_ms(values, rows | {"W2-known": "first"})

    text = f"reading {sizes.files} files of 1-8 KiB in {directories(sizes.files)} directories"
    # LOOKUP and READ of each file.
    trips = 2 * sizes.files + directories(sizes.files)
    first = (within(2.0), of_floor(1.25), faster_than(*FUSE_PEERS))
    return Group([
        Row("W2", f"{text}, first; caches dropped, empty store", cold=True, bars=first,
            trips=trips),
        Row("W2-known", f"{text}, first; caches dropped, the step has run before", cold=True,
            bars=first, trips=trips),
        Row("W2-again", f"{text}, again", bars=(within(1.1), faster_than(*FUSE_PEERS))),
    ], {HM: with_hm, NATIVE: with_native, **fuse_peers(place, case / "workspace", on_peer)},
        prepare, hm.drop_home, cold=True)


def layer_group(place, sizes):
    """The files are what the step before wrote."""
    case, image = new_case(place, "layer"), place.image()
    layer = place.fresh("layer-native")
    hm, native = Hm(place, case, image), Native(place, layer, case, image)
    read = f"{OPS} read first tree {sizes.files} && {OPS} read again tree {sizes.files}"
    steps = [Step(f"{OPS} tree made tree {sizes.files} 1024 8192", "make"),
             Step(read, "read", parent="make")]
    rows = {"W2-layer": "first", "W2-layer-again": "again"}

    def prepare():
        (layer / "workspace").mkdir()
        make_tree(place, layer / "workspace/tree", sizes.files)
        hm.run(steps, "--step", "make")

    text = f"reading {sizes.files} files of 1-8 KiB that the step before wrote"
    return Group([
        Row("W2-layer", f"{text}, first; caches dropped", cold=True,
            bars=(within(2.0), of_floor(1.25)),
            trips=2 * sizes.files + directories(sizes.files)),
        Row("W2-layer-again", f"{text}, again", bars=(within(1.1),)),
    ], {HM: lambda: in_ms(hm.run(steps, "--rerun", "read").values, rows),
        NATIVE: lambda: in_ms(native.run(f"cd /workspace && {read}"), rows)},
        prepare, hm.drop_home, cold=True)


# --- W3 -------------------------------------------------------------------------------------------


def write_group(place, sizes):
    case, image = new_case(place, "write"), place.image("tar")
    hm, native = Hm(place, case, image), Native(place, case, image)
    command = f"mkdir out && {OPS} time extract tar xf files.tar --no-same-owner -C out"
    rows = {"W3": "extract"}

    def prepare():
        tree = place.fresh("tar") / "tree"
        make_tree(place, tree, sizes.files)
        place.run(["tar", "cf", case / "workspace/files.tar", "-C", tree.parent, "tree"])
        place.settle(time.time())

    def on_peer(directory):
        return in_ms(place.ops("time", "extract", "tar", "xf", case / "workspace/files.tar",
                               "--no-same-owner", "-C", emptied(directory / "out")), rows)

    target = place.fresh("peer-target")
    (target / "out").mkdir()
    return Group([
        Row("W3", f"tar x of {sizes.files} files of 1-8 KiB, in the step", bars=(within(1.05),)),
    ], {HM: lambda: in_ms(hm.step(command).values, rows),
        NATIVE: lambda: in_ms(native.run(f"cd /workspace && {command}"), rows),
        **fuse_peers(place, target, on_peer, cold=False)}, prepare, hm.drop_home)


def emptied(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(exist_ok=True)
    return directory


NPM_PACKAGES = {"eslint": "^8", "webpack": "^5", "typescript": "^5", "express": "^4"}


def npm_image(place):
    """An image with node and npm; and the npm in it."""
    npm = os.path.realpath(shutil.which("npm") or "")
    modules = re.match(r"(.*?/(?:node_modules|nodejs))/", npm)
    if not modules or not shutil.which("node"):
        raise Unavailable("no npm")
    image = place.fresh("npm-image")
    shutil.copytree(place.image("node", "env"), image, dirs_exist_ok=True)
    shutil.copytree(modules[1], image / modules[1].lstrip("/"), symlinks=True, dirs_exist_ok=True)
    return image, npm


def npm_group(place):
    """npm ci from a cache in the workspace, filled from the registry before."""
    image, npm = npm_image(place)
    case = new_case(place, "npm")
    hm, native = Hm(place, case, image), Native(place, case, image)
    workspace = case / "workspace"
    command = (f"{OPS} time npm node {npm} ci --offline --ignore-scripts --no-audit --no-fund "
               "--cache ./npm-cache")

    def prepare():
        wanted = ", ".join(f'"{name}": "{version}"' for name, version in NPM_PACKAGES.items())
        (workspace / "package.json").write_text(
            f'{{"name": "bench", "version": "1.0.0", "dependencies": {{{wanted}}}}}\n')
        try:
            for task in ("install", "ci"):  # the second one finds what the first did not keep
                place.run(["npm", task, "--ignore-scripts", "--no-audit", "--no-fund", "--cache",
                           "./npm-cache"], cwd=workspace)
        except Broken as error:
            raise Unavailable(f"the npm registry does not answer ({error})") from error
        packages = len(json.loads((workspace / "package-lock.json").read_text())["packages"]) - 1
        row.text = row.text.format(packages)
        shutil.rmtree(workspace / "node_modules")
        place.settle(time.time())

    row = Row("W3-npm", "npm ci of {} packages from a cache, in the step", bars=(within(1.05),))
    return Group([row],
                 {HM: lambda: {"W3-npm": ms(hm.step(command).values["npm"])},
                  NATIVE: lambda: {"W3-npm": ms(native.run(f"cd /workspace && {command}")["npm"])}},
                 prepare, hm.drop_home)


# --- W5 -------------------------------------------------------------------------------------------


def walk_group(place, sizes):
    case, image = new_case(place, "walk"), place.image()
    hm, native = Hm(place, case, image), Native(place, case, image)
    command = f"{OPS} walk first tree && {OPS} walk again tree"
    rows = {"W5": "first", "W5-again": "again"}

    def prepare():
        make_tree(place, case / "workspace/tree", sizes.files, 8, 64)  # an empty one takes more
        place.settle(time.time())

    def with_hm():
        return step_twice(place, hm, command, rows, "W5-traced")

    def with_native():
        values = native.run(f"cd /workspace && {command}")
        return in_ms(values, rows | {"W5-traced": "first"})

    def on_peer(directory):
        values = {}
        for label in ("first", "again"):
            values |= place.ops("walk", label, directory / "tree")
        return in_ms(values, rows | {"W5-traced": "first"})

    text = f"listing and stat of {sizes.files} files in {directories(sizes.files)} directories"
    # LOOKUP of each name; of each directory a READDIR with its names and one that says it is all.
    trips = sizes.files + directories(sizes.files) + 1 + 2 * (directories(sizes.files) + 1)
    return Group([
        Row("W5", f"{text}, first; caches dropped, no trace known", cold=True,
            bars=(of_floor(1.25), faster_than(*FUSE_PEERS)),
            trips=trips),
        Row("W5-traced", f"{text}, first; caches dropped, the step has run before", cold=True,
            bars=(within(2.0),)),
        Row("W5-again", f"{text}, again", bars=(within(1.1),)),
    ], {HM: with_hm, NATIVE: with_native, **fuse_peers(place, case / "workspace", on_peer)},
        prepare, hm.drop_home, cold=True)


def git_group(place, sizes):
    """The repository is in the image: a step's workspace has no .git, and no times that an index
    made outside could agree with. As a directory, since importing it takes longer than the rest."""
    image = place.fresh("git-image")
    case = new_case(place, "git")
    hm, native = Hm(place, case, image, as_directory=True), Native(place, case, image)
    status = "git -C /repo --no-optional-locks status --porcelain"
    command = f"{OPS} time first {status} && {OPS} time again {status}"
    rows = {"W5-git": "first", "W5-git-again": "again"}

    def prepare():
        base = place.image("git")
        shutil.copytree(base, image, dirs_exist_ok=True)
        make_repository(place, image / "repo", sizes.repository)

    return Group([
        Row("W5-git", f"git status of {sizes.repository} files, first; caches dropped", cold=True),
        Row("W5-git-again", f"git status of {sizes.repository} files, again", bars=(within(1.1),)),
    ], {HM: lambda: in_ms(hm.step(command).values, rows),
        NATIVE: lambda: in_ms(native.run(command), rows)}, prepare, hm.drop_home, cold=True)


def make_repository(place, directory, files, smallest=8, largest=64, full=None):
    """A tree with everything in one commit. What another mount shows differently (inode numbers,
    change times) is not compared by its git."""
    if not Path(directory).exists():
        make_tree(place, directory, files, smallest, largest, full)
    git = ["git", "-C", directory]
    place.run([*git, "init", "-q"])
    for name, value in {"core.checkStat": "minimal", "core.trustctime": "false", "gc.auto": "0",
                        "user.name": "bench", "user.email": "bench@localhost",
                        "safe.directory": "*"}.items():
        place.run([*git, "config", name, value])
    # One pack instead of a file for each object.
    place.run([*git, "-c", "core.bigFileThreshold=1", "add", "."])
    place.run([*git, "commit", "-q", "-m", "all"])


def groups(place, sizes, options):
    out = {"W2": [lambda: read_group(place, sizes), lambda: layer_group(place, sizes)],
           "W3": [lambda: write_group(place, sizes)],
           "W5": [lambda: walk_group(place, sizes), lambda: git_group(place, sizes)]}
    if options.npm:
        out["W3"].append(lambda: npm_group(place))
    return out
