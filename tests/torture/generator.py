"""Random cases: the same seed gives the same case.

Names are few, so that operations and edits meet. Besides operations at random there are motifs:
a few related operations over several steps, without which some mistakes would take long to meet.
"""

import random

from case import Case, Step, escape

LONG_NAME = "n" * 255
ODD_NAME = escape(b"\xff\xfe odd%")
FILE_NAMES = ["a", "b", "c", "e"] * 5 + [ODD_NAME, LONG_NAME, "x.o"]
DIR_NAMES = ["d"] * 4 + ["f"] * 2 + ["g"]
TEXTS = ["%", "1", "2", "one", "two", "a", "b", "d/a", "longer-text", "another-txt", "x" * 40]
SIZES = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 200000]
MODES = ["0644", "0600", "0755", "0444", "0000", "4755", "1777", "2755", "0711"]
XATTRS = ["user.a", "user.b", "user.overlay.opaque", "user.overlay.x", "trusted.a",
          "security.a", "user." + "x" * 40]
IGNORE_LINES = ["*.o", "b", "/a", "d/", "!a", "g/*", "!g/a", "**/c", "#", "f"]
IMAGE_FILES = ["/data/a", "/data/b", "/data/empty", "/data/big", "/data/link", "/data/loop",
               "/data/hard1", "/data/hard2", "/data/attr", "/data/d/a", "/data/d/b", "/data/d",
               "/data", "/data/ro", "/data/suid", "/o/a", "/o/d/b"]
OPEN_MODES = ["r", "rn", "p", "pn", "d", "w", "rw", "wa", "rN", "rs", "wt", "wc", "wcx", "rwc", "wn"]


class Generator:
    def __init__(self, seed, times=True):
        self.rng = random.Random(seed)
        self.seed = seed
        self.used = []  # workspace paths that operations name: edits prefer them
        self.written = ["/o/a"]  # what operations wrote, for comparing times
        # Times that are set by hand compare with others as they did when the step ran (LIMITS in
        # hm-design(7)): a case either sets times or compares them.
        self.compares_times = self.chance(0.35) and times
        self.is_live = False
        self.flips = []  # edits on which a motif depends
        self.flights = []  # lists of edits that a motif waits for

    def pick(self, items):
        return self.rng.choice(items)

    def chance(self, probability):
        return self.rng.random() < probability

    # --- paths

    def relative(self):
        path = self.new_relative()
        self.used.append(path)
        return path

    def hot(self):
        """A workspace path that edits often meet."""
        path = self.new_relative()
        self.used += [path] * 12
        return path

    def new_relative(self):
        parts = [self.pick(DIR_NAMES) for _ in range(self.pick([0, 0, 0, 0, 1, 1, 1, 2]))]
        return "/".join(parts + [self.pick(FILE_NAMES if self.chance(0.85) else DIR_NAMES)])

    def out_path(self):
        if self.chance(0.3):
            return "/o/" + self.pick("abc")
        return self.pick(["/o/", "/o/", "/o/", "/tmp/", "/var/tmp/", "/", "/etc/"]) + self.relative()

    def path(self):
        """Any path; most in the workspace."""
        r = self.rng.random()
        if r < 0.55:
            return self.relative()
        if r < 0.60:
            return "/workspace/" + self.relative()
        if r < 0.80:
            return self.out_path()
        if r < 0.95:
            return self.pick(IMAGE_FILES)
        return self.pick(["/", "/workspace", "/etc", "/etc/hosts", "/tmp", "/bin/sh", "/nowhere/a",
                          ".git", ".hm", ".gitignore", "../data/a", "d/../a", "/o", "/var/tmp",
                          "/" + "/".join([LONG_NAME] * 8)])

    def writable(self):
        path = self.new_writable()
        self.written.append(path)
        return path

    def new_writable(self):
        r = self.rng.random()
        if r < 0.45:
            return self.relative()
        if r < 0.85:
            return self.out_path()
        return self.pick(IMAGE_FILES)

    def directory(self):
        return self.pick([".", ".", "d", "f", "g", "d/d", "/o", "/o/d", "/data", "/data/d", "/",
                          "/tmp", "/workspace", "/etc", "d/f"])

    def target(self):
        return self.pick(["a", "b", "d", "d/a", "../a", "/data/a", "/workspace/b", "nowhere",
                          "e", "c", "/o/a", ".", "x" * 300])

    # --- operations

    def look(self):
        p = self.path()
        d = self.directory()
        return self.pick([
            f"stat {p}", f"lstat {p}", f"stat {p}", f"lstat {p}",
            f"statx {p} {self.pick(['t', 'm', 's', 'ls', 'tmlos', 'fs', 'dms'])}",
            f"open {p} {self.pick(OPEN_MODES)}",
            f"read {p} r", f"read {p} r", f"read {p} r", f"read {p} {self.pick(['rn', 'rw', 'd'])}",
            f"pread {p} {self.pick([0, 1, 3, 4096, 65536])} {self.pick([0, 1, 4096])}",
            f"mmap {p} {self.pick('sp')} {self.pick([0, 1, 4096])} {self.pick([1, 4096, 65536])}",
            f"seek {p} {self.pick(['data', 'hole'])} {self.pick([0, 1, 5000])}",
            f"opath {p} {self.pick(['-', 'n', 'd'])}",
            f"access {p} {self.pick([0, 1, 2, 4, 7])}", f"access {p} 0 n",
            f"readlink {p}", f"readlink {p}",
            f"list {d}", f"list {d}",
            f"{self.pick(['listsome', 'listagain'])} {d} {self.pick([0, 1, 2])}",
            f"statall {d}", f"catall {d}",
            f"getxattr {p} {self.pick(XATTRS)}", f"listxattr {p}",
            f"openat2 {self.relative()} {self.pick(['b', 'bs', 'bx', 'r', 's', 'm', '-'])}",
            f"exec {self.pick(['./x.o', './a', 'd/a', '/o/a', self.path()])}",
            f"follow {p}", f"follow {self.relative()}",
            f"newer {p} {self.path()}" if self.compares_times else f"stat {p}",
        ])

    def change(self):
        p, q, d = self.writable(), self.writable(), self.directory()
        text = self.pick(TEXTS)
        subdir = self.pick(["d", "f", "g", "d/d", "/o/d", "/o/f", "/data/d", "/o"])
        return self.pick([
            f"write {p} {text}", f"write {p} {text}", f"write {p} {text}",
            f"create {p} {text}", f"append {p} {text}", f"append {p} {text}",
            f"pwrite {p} {self.pick([0, 1, 2, 5000])} {text}",
            f"fill {p} {self.pick(SIZES)} {self.pick([1, 2])}",
            f"mapwrite {p} {self.pick('sp')} {self.pick([0, 1])} {self.pick(['X', 'YY'])}",
            f"truncate {p} {self.pick([0, 1, 2, 4096, 70000])}",
            f"copy {self.path()} {p}", f"copy {self.path()} {p}", f"copy {self.path()} {p}",
            f"listto {d} {p}", f"statto {self.path()} {p}",
            f"{self.pick(['copyrange', 'sendfile'])} {self.path()} {p}",
            f"fallocate {p} {self.pick(['punch', 'zero', 'keep', 'plain'])} 0 {self.pick([1, 5000])}",
            f"tmpfile {d} {p} {text}", f"unlinked {p} {text}", f"renamed {p} {q} {text}",
            f"rename {p} {q} {self.pick(['-', '-', 'x', 'n'])}",
            f"rename {p} {q} {self.pick(['-', '-', 'x', 'n'])}",
            f"rename {d} {self.pick(['/o/f', 'f', 'd/g', '/o/d'])} {self.pick(['-', 'x', 'n'])}",
            f"link {self.path()} {p}", f"link {p} {q}", f"linkfollow {p} {q}",
            f"symlink {self.target()} {p}", f"symlink {self.target()} {p}",
            f"unlink {p}", f"unlink {p}", f"unlink {p}", f"rmdir {d}", f"clear {d}",
            f"rmtree {subdir}", f"rmtree {subdir}",
            f"copytree {subdir} {self.pick(['/o/e', 'e', 'c'])} "
            + ("t" if self.compares_times else "-"),
            f"mkdir {p} {self.pick(['0755', '0700', '1777'])}",
            f"mkdir {self.pick(['/o', '/o/d', 'd', 'd/d', 'f', 'g', '/o/f'])} 0755",
            f"mknod {p} {self.pick(['fifo', 'sock', 'char'])}", f"socket {p}", f"fsync {p}",
            f"chmod {p} {self.pick(MODES)}", f"chmod {d} {self.pick(['0755', '0700', '0711'])}",
            f"chown {p} {self.pick([0, 1, 1000])} {self.pick([0, 5])}",
            f"setxattr {p} {self.pick(XATTRS)} {text} {self.pick('--cr')}",
            f"setxattr {d} {self.pick(XATTRS)} {text} -",
            f"removexattr {p} {self.pick(XATTRS)}",
            f"append {p} {text}" if self.compares_times
            else f"utimens {p} {self.pick(['1', '489024000', '900000000', 'now'])}",
        ])

    def operation(self):
        is_look = self.chance(0.5)
        line = self.look() if is_look else self.change()
        if self.compares_times and self.chance(0.15):
            is_look, line = True, f"newer {self.pick(self.written)} {self.pick(self.written)}"
        if self.chance(0.12):
            condition = self.pick(["ifexists", "ifmissing", "ifodd", "iflarge"])
            line = f"{condition} {self.relative() if self.chance(0.7) else self.path()} {line}"
        elif self.compares_times and self.chance(0.05):
            line = f"ifnewer {self.pick(self.written)} {self.path()} {line}"
        elif self.chance(0.03):
            line = f"in {self.directory()} {line}"
        # Files of one step are told apart by time only with a tick of the clock between them.
        return [line] if is_look or not self.compares_times else ["tick", line]

    def operations(self):
        lines = []
        if self.chance(0.4):
            lines.append(f"mkdir {self.pick(['/o/d/d', '/o/f', 'd', 'f', 'd/d'])} 0755")
        for _ in range(self.rng.randint(3, 10 if self.compares_times else 24)):
            lines += self.operation()
            if self.is_live and self.chance(0.2):
                lines.append(f"pause {self.pick([1, 3, 8])}")
        return lines

    # --- motifs: lines for several steps

    def linked_names(self):
        """One file under two names; a later step takes the second away, or not."""
        a, b = self.pick(["/o/a", "d/a", "/o/d/c"]), self.pick(["/o/b", "b", "/o/e"])
        gone = self.pick([f"unlink {b}", f"write {b} {self.pick(TEXTS)}", f"append {b} x"])
        condition = self.pick(["ifexists", "ifexists", "ifmissing", "ifodd", "iflarge"])
        when = self.hot()
        self.flips += [["delete", when], ["write", when, "a"], ["write", when, "longer-text"]]
        return [[f"copy {self.relative()} {a}", f"unlink {b}", f"link {a} {b}"],
                [f"{condition} {when} {gone}"],
                [f"read {a} r", f"read {b} r"]]

    def two_looks(self):
        """Two looks with time between them for edits."""
        p, q = self.hot(), self.hot()
        if self.chance(0.5):
            self.flights.append([self.fresh_swap(p)])
            return [[self.pick([f"stat {p}", "statall ."]), "pause 60", f"read {p} r"]]
        self.flights.append([self.fresh_swap(p), self.fresh_swap(q)])
        return [[f"read {p} r", "pause 60", "pause 60", f"read {q} r"]]

    def fresh_swap(self, path):
        text = self.pick("stuvw") * self.pick([9, 9, 9, self.rng.randint(1, 30)])
        return ["swap", path, text, "0755"]

    def deep(self):
        where = self.pick(["/o", "d", "."])
        levels = self.pick([3, 15, 16, 17])
        return [[f"makedeep {where} {levels} {self.pick(TEXTS)}"],
                [f"lookdeep {where} {self.pick([levels, 20])}"]]

    def interpreter(self):
        """A script that a script's first line names."""
        inner = escape(f"#!/bin/sh\nstat {self.relative()}\n")
        outer = escape(f"#!{self.pick(['/o/run', './a', '/workspace/x.o'])}\n")
        return [[f"write /o/run {inner}", "chmod /o/run 0755", f"write x.o {outer}",
                 "chmod x.o 0755"],
                ["exec ./x.o", "exec /o/run"]]

    def add_motif(self, steps):
        motifs = [self.linked_names, self.linked_names, self.deep, self.interpreter]
        if self.is_live:
            motifs = [self.two_looks]
        parts = self.pick(motifs)()
        while len(steps) < len(parts):
            steps.append(Step(f"s{len(steps)}", None, self.operations(), False))
        if self.flights and self.chance(0.7):  # its pauses are the first
            steps[0].ops[0:0] = parts[0]
            return
        at = self.rng.randint(0, len(steps) - len(parts))
        for i, lines in enumerate(parts):
            step = steps[at + i]
            if i > 0:
                step.parent = steps[at + i - 1].key
            if self.flips and self.chance(0.7):
                del step.ops[3:]  # little else that could make it run again
            where = self.rng.randint(0, len(step.ops))
            step.ops[where:where] = lines

    def steps(self):
        steps = []
        for i in range(self.pick([1, 2, 2, 3, 3, 4])):
            # The nearest step is the likeliest parent; some are roots.
            candidates = [step.key for step in steps]
            parent = None
            if candidates and self.chance(0.85):
                parent = candidates[-1] if self.chance(0.7) else self.pick(candidates)
            steps.append(Step(f"s{i}", parent, self.operations(), self.chance(0.25)))
        for _ in range(self.pick([1, 2] if self.is_live else [0, 1, 1])):
            if not self.compares_times:
                self.add_motif(steps)
        for step in steps:
            if self.chance(0.3):
                step.ops.append(f"results /r-{step.key}")
        return steps

    # --- edits

    def script(self):
        lines = [line for _ in range(self.pick([1, 2, 3])) for line in self.operation()]
        lines = [line for line in lines if "exec " not in line]
        interpreter = self.pick(["#!/bin/sh", "#!/bin/sh", "#! /bin/sh", "#!/nowhere", "#!./a"])
        return escape("\n".join([interpreter] + lines) + "\n")

    def edited_path(self):
        return self.pick(self.used) if self.used and self.chance(0.8) else self.new_relative()

    def edit(self):
        p = self.edited_path()
        return self.pick([
            ["write", p, self.pick(TEXTS)], ["write", p, self.pick(TEXTS)],
            ["write", p, self.pick(TEXTS)], ["inplace", p, self.pick(TEXTS)],
            ["poke", p], ["poke", p], ["mapstore", p],
            ["fill", p, self.pick(SIZES), self.pick([1, 2, 3])],
            ["mkdir", self.pick(["d", "f", "g", "d/d", "d/f"])],
            ["delete", p], ["delete", p], ["delete", self.pick(["d", "f", "g", "d/d"])],
            ["rename", p, self.edited_path()],
            ["rename", self.pick(["d", "f", "g"]), self.pick(["d", "f", "g", "d/g"])],
            ["chmod", p, self.pick(["0755", "0644", "0600", "0000", "0111"])],
            ["symlink", self.target(), p], ["symlink", self.target(), p],
            ["hardlink", p, self.edited_path()],
            ["fifo", p],
            ["script", p, self.script()], ["script", self.pick(["x.o", "a"]), self.script()],
            ["touch", p], ["rewrite", p],
            ["write", self.pick([".gitignore", ".gitignore", "d/.gitignore", ".hmignore"]),
             escape("\n".join(self.pick(IGNORE_LINES) for _ in range(self.pick([0, 1, 2]))) + "\n")],
            ["deep", self.pick([".", "d"]), self.pick([2, 15, 16, 17]), self.pick(TEXTS)]
            if self.chance(0.1) else ["write", p, "late"],
        ])

    def atomic_edit(self):
        p = self.edited_path()
        swap = ["swap", p, self.pick(TEXTS), self.pick(["0644", "0755"])]
        return self.pick([
            swap, swap, swap, ["swaplink", self.target(), p], ["poke", p], ["poke", p],
            ["unlink", p], ["rename", p, self.edited_path()], ["chmod", p, self.pick(MODES[:3])],
            ["mkdir1", self.pick(["d", "f", "g", "d/f"])],
        ])

    def live_round(self):
        if self.flights and self.chance(0.6):
            edits = self.pick(self.flights)
            before = [["write", edits[0][1], f"before-{self.rng.randint(10, 99)}"]]
            # What an earlier run has recorded is pinned before the step begins.
            if self.chance(0.7):
                before.append(["forget"])
            return before + [["live"], *edits]
        edits = [self.edit() for _ in range(self.pick([1, 2, 3]))] + [["live"]]
        if self.chance(0.15):
            return edits + [["mapstore", self.edited_path()], self.edit()]
        return edits + [self.atomic_edit() for _ in range(self.pick([1, 1, 2]))]

    def round(self):
        if self.is_live and self.chance(0.7):
            return self.live_round()
        if self.flips and self.chance(0.5):
            return [self.pick(self.flips)]
        if self.chance(0.1):
            return [["touch", "."]]
        if self.chance(0.1):
            return [["undo"]]
        return [self.edit() for _ in range(self.pick([1, 1, 2, 3, 5]))]

    def case(self, rounds):
        # A step that compares times waits for the clock: its run would be all waiting.
        self.is_live = not self.compares_times and self.chance(0.2)
        workspace = [["mkdir", "d"], ["mkdir", "d/d"], ["mkdir", "f"], ["write", "a", "one"]]
        workspace += [["write", self.new_relative(), self.pick(TEXTS)] for _ in range(12)]
        workspace += [edit for edit in (self.edit() for _ in range(self.rng.randint(3, 16)))
                      if "ignore" not in edit[1] or self.chance(0.25)]
        self.used = []
        steps = self.steps()
        return Case(self.seed, workspace, steps, [[]] + [self.round() for _ in range(rounds - 1)])
