"""VM: steps in virtual machines, and the same guest with virtiofsd over a mount of hmfs."""

import glob
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

from contestants import Hm, ms, wait_for_mount
from measure import HM, Broken, Group, Row, Unavailable, below, times
from place import labels, unmount
from w_compile import compiler_image
from w_files import OPS, in_ms, make_tree, new_case

PEER = "virtiofsd"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
QEMU = "qemu-system-x86_64"
MEMORY, CPUS = 1024, 2  # MiB
KERNELS = ("/boot/vmlinuz-*-amd64", "/var/lib/hmtest/kernel/boot/vmlinuz-*-amd64")
# As hm starts its own guests (src/runner/vm/qemu.cc, scratch_disk.cc), without KVM.
APPEND = ("console=ttyS0 quiet panic=-1 cryptomgr.notests apparmor=0 audit=0 selinux=0 "
          "8250.nr_uarts=1 norandmaps no_timer_check mitigations=off init_on_alloc=0")
FILESYSTEM = ("^has_journal,^resize_inode,^metadata_csum,uninit_bg,flex_bg,sparse_super2")
PATIENCE = 600  # seconds
INCLUDES = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
FLAGS = ("-O1",)


def kernel():
    for pattern in KERNELS:
        for path in sorted(glob.glob(pattern)):
            if os.access(path, os.R_OK):
                return path
    raise Unavailable("no kernel for virtual machines (tools/setup fetches one)")


def needed(program):
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if path is None:
        raise Unavailable(f"{program} is not installed")
    return path


# --- what is done in each guest -------------------------------------------------------------------


def c_source(i):
    functions = "".join(
        f"static int f{j}(const char *s, int n) {{ char b[64]; "
        f"snprintf(b, sizeof b, \"%s%d\", s, n + {i}); return (int)strlen(b) * {j + 1}; }}\n"
        for j in range(20))
    calls = " + ".join(f"f{j}(s, {j})" for j in range(20))
    return f"{INCLUDES}{functions}int g{i}(const char *s) {{ return {calls}; }}\n"


def make_sources(workspace, count):
    (workspace / "src").mkdir()
    for i in range(count):
        (workspace / f"src/f{i}.c").write_text(c_source(i))
    (workspace / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard src/*.c))\nall: $(OBJECTS)\n"
        f"%.o: %.c\n\tgcc {' '.join(FLAGS)} -c $< -o $@\n")


def work_of(sizes):
    """The command, and which label is which row."""
    command = (f"{OPS} lstat names /workspace/names 0 {sizes.vm_names} {sizes.vm_names} && "
               f"{OPS} read files /workspace/files {sizes.vm_files} && "
               f"{OPS} seq bulk /workspace/big0 && {OPS} time compile make -j{CPUS}")
    return command, {"VM-names": "names", "VM-files": "files", "VM-bulk": "bulk",
                     "VM-compile": "compile"}


# --- the guest with virtiofsd ---------------------------------------------------------------------


class Guest:
    """One life: hmfs, virtiofsd, QEMU. `run` once, then `end`."""

    def __init__(self, place, hm):
        if os.geteuid() != 0:
            raise Unavailable("virtiofsd needs root")
        if not os.access(VIRTIOFSD, os.X_OK):
            raise Unavailable("virtiofsd is not installed (qemu-system-common)")
        self.place, self.hm = place, hm
        self.directory = place.fresh("guest")
        self.mount = self.directory / "view"
        self.mount.mkdir()
        self.log = open(self.directory / "log", "w+", encoding="utf-8")
        self.servers = []

    def serve(self):
        hmfs = self.place.start([self.place.program("hmfs"), "mount", self.mount, "-d",
                                 self.hm.workspace, "--image", self.hm.image],
                                env={"HM_HOME": str(self.hm.home)}, stdout=self.log,
                                stderr=self.log)
        self.servers.append(hmfs)
        wait_for_mount(hmfs, self.mount, self.log)
        sock = self.directory / "socket"
        self.servers.append(self.place.start(
            [VIRTIOFSD, f"--socket-path={sock}", "-f", "-o", f"source={self.mount}",
             "-o", "cache=always,sandbox=chroot"], stdout=self.log, stderr=self.log))
        until = time.monotonic() + 10
        while not sock.exists():
            if time.monotonic() > until:
                raise Broken("virtiofsd does not listen")
            time.sleep(0.002)
        return sock

    def prepare(self, command):
        """What is not a part of the guest's life."""
        self.place.run([self.place.program("bench_guest_image"), kernel(),
                        self.place.program("bench_guest_init"), command, self.directory / "initrd"])
        self.place.run(["truncate", "-s", "64G", self.directory / "disk"])
        self.place.run([needed("mke2fs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256",
                        "-m", "0", "-O", FILESYSTEM, "-G", "4096", "-E",
                        "lazy_itable_init=1,nodiscard,num_backup_sb=0", self.directory / "disk"])

    def qemu(self, control, sock):
        return [needed(QEMU), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-M", "q35,memory-backend=mem", "-m", MEMORY, "-smp", CPUS,
                "-object", f"memory-backend-memfd,id=mem,size={MEMORY}M,share=on",
                "-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm",
                "-kernel", kernel(), "-initrd", self.directory / "initrd", "-append", APPEND,
                "-serial", f"file:{self.directory / 'console'}",
                "-device", "virtio-serial-pci,max_ports=4",
                "-chardev", f"socket,id=control,fd={control}",
                "-device", "virtserialport,chardev=control,name=hm.control,nr=1",
                "-blockdev", "driver=file,node-name=scratch,cache.no-flush=on,filename="
                f"{self.directory / 'disk'}", "-device", "virtio-blk-pci,drive=scratch",
                "-chardev", f"socket,id=fs,path={sock}",
                "-device", "vhost-user-fs-pci,chardev=fs,tag=bench,queue-size=1024"]

    def run(self, command):
        """(label → nanoseconds, nanoseconds of the whole life)."""
        self.prepare(command)
        began = time.perf_counter_ns()
        sock = self.serve()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            machine = self.place.start(self.qemu(theirs.fileno(), sock), stdout=self.log,
                                       stderr=self.log, pass_fds=(theirs.fileno(),))
            self.servers.append(machine)
            theirs.close()
            ours.settimeout(PATIENCE)
            said = self.listen(ours)
            ours.sendall(b"\n")
            machine.wait(PATIENCE)
        return labels(said), time.perf_counter_ns() - began

    def listen(self, control):
        said = b""
        while not re.search(rb"^status \d+\n", said, re.M):
            part = control.recv(1 << 16)
            if not part:
                console = (self.directory / "console").read_text(errors="replace")
                raise Broken("the guest ended: " + " / ".join(console.splitlines()[-3:]))
            said += part
        text = said.decode(errors="replace")
        if not text.endswith("status 0\n"):
            raise Broken("the command failed in the guest: " + " / ".join(text.splitlines()[-4:]))
        return text

    def end(self):
        for server in reversed(self.servers[1:]):
            self.place.end(server)
        unmount(str(self.mount))
        for server in self.servers[:1]:
            self.place.end(server)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def in_guest(place, hm, command):
    guest = Guest(place, hm)
    try:
        return guest.run(command)
    finally:
        guest.end()


# --- rows -----------------------------------------------------------------------------------------


def machine_group(place, sizes):
    case = new_case(place, "machines")
    image = compiler_image(place, "gcc", "cc1", FLAGS, INCLUDES)
    hm = Hm(place, case, image, as_directory=True)
    command, rows = work_of(sizes)

    def prepare():
        for program in (QEMU, "mke2fs"):
            needed(program)
        (hm.workspace / ".hm/config.toml").write_text(
            f"[vm]\nkernel = {json.dumps(kernel())}\nmemory = \"{MEMORY}M\"\ncpus = {CPUS}\n")
        make_tree(place, hm.workspace / "names", sizes.vm_names, 1, 64)
        make_tree(place, hm.workspace / "files", sizes.vm_files)
        place.ops("write", "write", hm.workspace / "big", 1, sizes.vm_bulk_mib)
        make_sources(hm.workspace, sizes.vm_sources)
        hm.fresh_home()
        place.settle(time.time())

    def life():
        return ms(hm.step("echo hi", "--backend", "vm").wall_ns)

    def with_hm():
        for saved in Path(hm.home).glob("vm/guest-*"):
            saved.unlink()
        cold = life()
        return {"VM-cold": cold, "VM-saved": life()} | in_ms(
            hm.step(command, "--backend", "vm").values, rows)

    def with_virtiofsd():
        return {"VM-cold": ms(in_guest(place, hm, "echo hi")[1])} | in_ms(
            in_guest(place, hm, command)[0], rows)

    return Group([
        Row("VM-cold", "`echo hi` in a machine: whole life, and no machine has booted yet; hm "
            "boots one, saves it and starts another from it"),
        Row("VM-saved", "the same from the saved machine: whole process", bars=(below(600, "ms"),)),
        Row("VM-names", f"lstat of {sizes.vm_names} names, in the guest", bars=(times(2, PEER),)),
        Row("VM-files", f"first read of {sizes.vm_files} files of 1-8 KiB, in the guest",
            bars=(times(2, PEER),)),
        Row("VM-bulk", f"first read of a file of {sizes.vm_bulk_mib} MiB, in the guest",
            bars=(times(2.5, PEER),)),
        Row("VM-compile", f"make -j{CPUS} of {sizes.vm_sources} C files, in the guest",
            bars=(times(1.1, PEER),)),
    ], {HM: with_hm, PEER: with_virtiofsd}, prepare, hm.drop_home)


def groups(place, sizes, _options):
    return {"VM": [lambda: machine_group(place, sizes)]}
