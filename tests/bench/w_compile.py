"""W1: compiling, in a step and in the plain sandbox."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from contestants import Hm, Native, ms
from measure import HM, NATIVE, Group, Row, Unavailable, within
from place import below, copy_program, unmount

FLAGS = ("-std=c++17", "-O1")
MAKEFILE = """\
OBJECTS := $(patsubst %.cc,%.o,$(wildcard src/*.cc))
all: $(OBJECTS)
%.o: %.cc
\tg++ FLAGS -Iinclude -c $< -o $@
clean:
\trm -f $(OBJECTS)
""".replace("FLAGS", " ".join(FLAGS))
PROJECT = Path(__file__).resolve().parents[2]
INCLUDED = 10  # of our headers, by each source


def header(i):
    return (f"#pragma once\n#include <string>\n#include <vector>\n"
            f"struct S{i} {{ std::string name; std::vector<int> items; }};\n"
            f"inline std::size_t size_{i}(const S{i}& s) {{ return s.items.size() + {i}; }}\n")


def source(i, headers):
    used = sorted({(i * 7 + j * 3) % headers for j in range(INCLUDED)})
    lines = [f'#include "h{h}.h"' for h in used]
    lines += [f"std::size_t f{i}_{h}(const S{h}& s) {{ return size_{h}(s) * {i + 1}; }}"
              for h in used]
    return "\n".join(lines) + "\n"


def make_project(workspace, sizes):
    for name in (".hm", "src", "include"):
        (workspace / name).mkdir(parents=True)
    (workspace / "Makefile").write_text(MAKEFILE)
    for i in range(sizes.headers):
        (workspace / f"include/h{i}.h").write_text(header(i))
    for i in range(sizes.sources):
        (workspace / f"src/f{i}.cc").write_text(source(i, sizes.headers))


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compiler_image(place, driver="g++", stage="cc1plus", flags=FLAGS, probe_text=None):
    """An image with the compiler, make, and the headers that the sources need."""
    base, image = place.image("make"), place.fresh("compiler")
    shutil.copytree(base, image, dirs_exist_ok=True)
    copy_program(image, shutil.which(driver), f"/usr/bin/{driver}")
    for program in (stage, "as"):
        path = output_of(driver, f"-print-prog-name={program}")
        path = path if "/" in path else shutil.which(path)
        copy_program(image, path, os.path.normpath(path))
    probe = place.fresh("probe") / ("probe.cc" if driver == "g++" else "probe.c")
    probe.write_text(probe_text or header(0).replace("#pragma once\n", ""))
    for path in re.findall(r"(/\S+)", output_of(driver, *flags, "-M", probe)):
        path = os.path.normpath(path)
        if not below(path, probe.parent):
            target = image / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return image


def compile_group(place, sizes):
    case, image = place.fresh("compile"), compiler_image(place)
    hm, native = Hm(place, case, image), Native(place, case, image)
    build = "bench_ops time {} make -j2"
    both = f"{build.format('cold')} && make clean >/dev/null && {build.format('warm')}"

    def prepare():
        make_project(case / "workspace", sizes)
        place.settle(time.time())

    def with_hm():
        hm.fresh_home()
        place.drop_caches()
        first = hm.step(both).values
        place.drop_caches()
        known = hm.step(build.format("cold")).values
        return {"W1": ms(first["cold"]), "W1-warm": ms(first["warm"]),
                "W1-known": ms(known["cold"])}

    def with_native():
        values = native.run("cd /workspace && " + both)
        return {"W1": ms(values["cold"]), "W1-warm": ms(values["warm"]),
                "W1-known": ms(values["cold"])}

    text = f"make -j2 of {sizes.sources} C++ files, in the step"
    return Group([
        Row("W1", f"{text}; caches dropped, empty store", cold=True, bars=(within(1.05),)),
        Row("W1-known", f"{text}; caches dropped, sources and compiler in the store", cold=True,
            bars=(within(1.05),)),
        Row("W1-warm", f"{text}; once more after make clean", bars=(within(1.02),)),
    ], {HM: with_hm, NATIVE: with_native}, prepare, hm.drop_home, cold=True)


# --- this project ---------------------------------------------------------------------------------


def own_disk(place):
    """A filesystem of its own: the kernel lays no overlay over a root that holds its upper."""
    if os.geteuid() != 0:
        raise Unavailable("only root can mount a filesystem to build the project in")
    disk = place.fresh("disk")
    file = disk.with_suffix(".img")
    place.run(["truncate", "-s", "6G", file])
    place.run(["mkfs.ext4", "-q", "-F", file])
    place.run(["mount", "-o", "loop", file, disk])
    return disk


def project_group(place):
    """hm builds itself, with the compiler of the host's root."""
    disk = own_disk(place)
    case = place.fresh("project", disk)
    hm, native = Hm(place, case, "host", disk), Native(place, case, "/", base=disk)
    command = ("meson setup --buildtype=plain build >/dev/null && "
               "./bench_ops time build ninja -j2 -C build tools/hm")

    def prepare():
        (case / "workspace/.hm").mkdir(parents=True)
        files = place.run(["git", "-C", PROJECT, "ls-files", "-z"])[0].split("\0")[:-1]
        place.run(["cp", "--parents", *files, case / "workspace"], cwd=PROJECT)
        shutil.copy(place.program("bench_ops"), case / "workspace/bench_ops")
        place.settle(time.time())

    def with_hm():
        hm.fresh_home()
        return {"W1-self": ms(hm.step(command).values["build"])}

    def clean():
        hm.drop_home()
        unmount(str(disk))
        disk.with_suffix(".img").unlink()

    return Group([Row("W1-self", "ninja -j2 of this project without optimization, in the step; "
                      "caches dropped, empty store", bars=(within(1.05),), cold=True)],
                 {HM: with_hm, NATIVE: lambda: {
                     "W1-self": ms(native.run(f"cd /workspace && {command}")["build"])}},
                 prepare, clean, cold=True, warm_up=False)


def groups(place, sizes, options):
    out = [lambda: compile_group(place, sizes)]
    if options.self:
        out.append(lambda: project_group(place))
    return {"W1": out}
