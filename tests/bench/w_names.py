"""W10: what hm keeps in memory for each name that it served."""

import os
import re
from pathlib import Path

from contestants import wait_for_mount
from measure import HM, Group, Row, below
from place import mounts_below, unmount
from w_files import directories, make_tree, new_case


def resident_bytes(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def names_group(place, sizes):
    case = new_case(place, "names")
    image = place.image()
    count = sizes.names + directories(sizes.names)

    def measured():
        target, home = place.fresh("names-mount"), place.fresh("home")
        log = open(target.with_suffix(".log"), "w+", encoding="utf-8")
        server = place.start(
            [place.program("hmfs"), "mount", target, "-d", case / "workspace", "--image", image],
            stdout=open(os.devnull, "w"), stderr=log, env={"HM_HOME": str(home)})
        try:
            wait_for_mount(server, target, log)
            tree = target / "workspace/tree"
            before = resident_bytes(server.pid)
            took = place.ops("lstat", "lstat", tree, 0, sizes.names, sizes.names)["lstat"]
            after, open_now = resident_bytes(server.pid), descriptors(server.pid)
        finally:
            for mount in mounts_below(target):
                unmount(mount)
            place.end(server)
            log.close()
        return {"W10": (after - before) / count, "W10-fds": open_now,
                "W10-time": took / 1000 / sizes.names}

    text = f"hmfs that has served {count} present names (of 7 characters on average)"
    return Group([
        Row("W10", f"{text}: growth of its memory for each", "bytes", bars=(below(200, "bytes"),)),
        Row("W10-fds", f"{text}: its descriptors", "", bars=(below(1024, ""),)),
        Row("W10-time", f"{text}: stat of each", "us"),
    ], {HM: measured}, lambda: make_tree(place, case / "workspace/tree", sizes.names, 0, 0),
        rounds=1, warm_up=False)


def groups(place, sizes, _options):
    return {"W10": [lambda: names_group(place, sizes)]}
