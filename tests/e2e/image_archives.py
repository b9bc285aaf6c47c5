#!/usr/bin/env python3
"""Archives for the cases of image_import.sh.

  image_archives.py hostile DIR   archives that no image may be made from, one of each kind
  image_archives.py layers DIR    for each NAME an OCI layout NAME, and a NAME.tar of the tree that
                                  its layers mean
  image_archives.py large DIR     1 GiB of files of usual sizes in large.tar
"""
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


# --- tar archives -------------------------------------------------------------------------------

def entry(name, kind=tarfile.REGTYPE, data=b"", link="", **fields):
    """One entry as tarfile writes it, whatever it is."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name, **fields):
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name, target):
    return entry(name, tarfile.SYMTYPE, link=target)


def hard_link(name, target, **fields):
    return entry(name, tarfile.LNKTYPE, link=target, **fields)


def tar(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


SOME = entry("etc/name", data=b"some bytes\n" * 1000)
END = 2 * 512


def header(name, size_field=b"00000000000\0", kind=b"0"):
    """A raw header, for what tarfile does not write."""
    block = bytearray(512)
    block[0:len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[156:157] = size_field, b"00000000000\0", kind
    block[257:265] = b"ustar\00000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@case
def climbs_out(): return tar(SOME, entry("../evil"))


@case
def climbs_out_in_the_middle(): return tar(SOME, entry("a/b/../../../evil"))


@case
def absolute_path(): return tar(SOME, entry("/etc/evil"))


@case
def through_an_absolute_symlink(): return tar(SOME, symlink("a", "/etc"), entry("a/passwd"))


@case
def through_a_relative_symlink(): return tar(SOME, symlink("a", ".."), entry("a/b/evil"))


@case
def hard_link_to_an_absolute_path(): return tar(SOME, hard_link("a", "/etc/passwd"))


@case
def hard_link_out_of_the_tree(): return tar(SOME, hard_link("a", "../../etc/passwd"))


@case
def hard_link_to_nothing(): return tar(SOME, hard_link("a", "etc/missing"))


@case
def hard_link_to_what_comes_later(): return tar(SOME, hard_link("a", "b"), entry("b"))


@case
def hard_link_to_a_directory(): return tar(SOME, hard_link("a", "etc"))


@case
def hard_link_to_itself(): return tar(SOME, hard_link("a", "a"))


@case
def file_twice(): return tar(SOME, entry("a", data=b"1"), entry("a", data=b"2"))


@case
def symlink_then_file(): return tar(SOME, symlink("a", "/etc/passwd"), entry("a", data=b"2"))


@case
def file_then_directory(): return tar(SOME, entry("a", data=b"1"), directory("a"))


@case
def directory_then_file(): return tar(SOME, directory("a"), entry("a/b"), entry("a", data=b"1"))


@case
def below_a_file(): return tar(SOME, entry("a", data=b"1"), entry("a/b", data=b"2"))


@case
def root_is_a_symlink(): return tar(symlink("./", "/"), SOME)


@case
def device_of_a_whiteout(): return tar(SOME, entry("a", tarfile.CHRTYPE, devmajor=0, devminor=0))


@case
def name_too_long(): return tar(SOME, entry("n" * 256))


@case
def path_too_long(): return tar(SOME, entry("/".join(["d" * 200] * 30)))


@case
def symlink_too_long(): return tar(SOME, symlink("a", "t" * 5000))


@case
def symlink_to_nothing(): return header(b"a", kind=b"2") + bytes(END)


@case
def size_beyond_all_limits(): return header(b"a", b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7) + bytes(END)


@case
def size_below_zero(): return header(b"a", b"\xff" * 12) + bytes(END)


@case
def owner_that_cannot_be(): return tar(SOME, entry("a", uid=1 << 32))


@case
def attributes_too_large():
    info, data = entry("a")
    info.pax_headers = {"SCHILY.xattr.user.big": "x" * 100000}
    return tar(SOME, (info, data))


@case
def cut_off_in_a_file(): return tar(SOME)[:2000]


@case
def cut_off_before_the_end():
    whole = tar(directory("etc"), entry("etc/a", data=b"x" * 512))
    return whole[:3 * 512]


@case
def cut_off_gzip(): return gzip.compress(tar(entry("a", data=os.urandom(50000))))[:-20000]


@case
def cut_off_zstd():
    packed = subprocess.run(["zstd", "-q"], input=tar(entry("a", data=os.urandom(50000))),
                            stdout=subprocess.PIPE, check=True).stdout
    return packed[:-20000]


@case
def header_damaged():
    whole = bytearray(tar(SOME, entry("b", data=b"2")))
    whole[0] ^= 1
    return bytes(whole)


@case
def not_an_archive(): return b"This is a text.\n" * 1000


@case
def empty(): return b""


@case
def bomb(): return gzip.compress(tar(SOME, entry("zeros", data=bytes(64 << 20))))


@case
def sparse_bomb():
    info, data = entry("a")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a",
                        "GNU.sparse.realsize": str(1 << 42)}
    info.size = 512
    return tar((info, b"1\n%d\n0\n" % (1 << 42) + bytes(512)))


# --- layouts ------------------------------------------------------------------------------------

def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class LayoutWriter:
    """An OCI layout of one image. What is set in `wrong` is said of a part instead of the truth."""

    def __init__(self, path, layers, config=None, wrong=None, media_type=None):
        self.path, self.wrong = path, wrong or {}
        os.makedirs(path + "/blobs/sha256")
        diff_ids = self.wrong.get("diff_ids", [sha256(layer) for layer in layers])
        packed = [gzip.compress(layer, mtime=0) for layer in layers]
        packed = self.wrong.get("packed", lambda blobs: blobs)(packed)
        document = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
                    "config": config or {}}
        manifest = {
            "schemaVersion": 2,
            "config": self.blob("config", self.wrong.get("config_text", json.dumps(document)).encode()),
            "layers": [self.blob("layer", blob, media_type or
                                 "application/vnd.oci.image.layer.v1.tar+gzip") for blob in packed]}
        index = {"schemaVersion": 2, "manifests": [
            self.blob("manifest", json.dumps(manifest).encode())]}
        self.file("index.json", self.wrong.get("index", json.dumps(index)).encode())
        self.file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')

    def file(self, name, data):
        with open(self.path + "/" + name, "wb") as out:
            out.write(data)

    def blob(self, part, data, media_type="application/vnd.oci.image.x"):
        digest = sha256(data)
        damage = self.wrong.get("bytes of " + part, bytes)
        self.file("blobs/" + digest.replace(":", "/"), damage(data))
        size = len(data) + self.wrong.get("size of " + part, 0)
        return {"mediaType": media_type, "size": size,
                "digest": self.wrong.get("digest of " + part, digest)}


BASE = tar(directory("d"), entry("d/a", data=b"a"), symlink("link", "d"))


def last_byte_changed(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def layout_case(name, *layers, **options):
    CASES[name] = lambda path: LayoutWriter(path, [BASE, *layers], **options)


def upper_case(name, *entries):
    layout_case(name, tar(*entries))


layout_case("layer_of_another_digest", wrong={"bytes of layer": last_byte_changed})
layout_case("config_of_another_digest", wrong={"bytes of config": last_byte_changed})
layout_case("manifest_of_another_digest", wrong={"bytes of manifest": last_byte_changed})
layout_case("layer_longer_than_said", wrong={"bytes of layer": lambda data: data + b"x"})
layout_case("layer_of_another_size", wrong={"size of layer": 1})
layout_case("layer_unpacks_to_another_digest", wrong={"diff_ids": [sha256(b"x")]})
layout_case("layer_missing_in_the_config", wrong={"diff_ids": []})
layout_case("layer_cut_off", wrong={"packed": lambda blobs: [blob[:-30] for blob in blobs]})
layout_case("layer_cut_off_in_a_file_before_it_was_hashed",
            tar(entry("a", data=b"x" * 700))[:512 + 512 + 100])
layout_case("layer_is_no_tar", media_type="application/vnd.example.wasm")
layout_case("layer_is_encrypted", media_type="application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
layout_case("digest_is_a_path", wrong={"digest of layer": "sha256:../../../../etc/passwd"})
layout_case("digest_of_another_kind", wrong={"digest of layer": "md5:00"})
layout_case("config_is_no_json", wrong={"config_text": "{"})
layout_case("index_is_deep", wrong={"index": "[" * 100000})
layout_case("variable_without_a_name", config={"Env": ["=x"]})
upper_case("whiteout_of_the_parent", entry("d/.wh..."))
upper_case("whiteout_of_the_directory", entry("d/.wh.."))
upper_case("whiteout_of_nothing", entry("d/.wh."))
upper_case("whiteout_of_a_whiteout", entry("d/.wh..wh.a"))
upper_case("whiteout_with_bytes", entry("d/.wh.a", data=b"x"))
upper_case("whiteout_is_a_directory", directory("d/.wh.a"))
upper_case("whiteout_is_a_hard_link", entry("x"), hard_link("d/.wh.a", "x"))
upper_case("below_a_whiteout", entry(".wh.d/a"))
upper_case("whiteout_twice", entry("d/.wh.a"), entry("d/.wh.a"))
upper_case("opaque_twice", entry("d/.wh..wh..opq"), entry("d/.wh..wh..opq"))
upper_case("whiteout_through_a_symlink", entry("link/.wh.a"))
upper_case("opaque_through_a_symlink", entry("link/.wh..wh..opq"))
upper_case("file_through_a_symlink_of_a_lower_layer", entry("link/b", data=b"b"))
upper_case("hard_link_to_what_is_deleted", entry("d/.wh.a"), hard_link("b", "d/a"))


@case
def blob_is_a_link_out_of_the_layout(path):
    LayoutWriter(path, [BASE])
    blobs = path + "/blobs/sha256/"
    secret = os.path.dirname(path) + "/secret"
    for name in os.listdir(blobs):
        os.rename(blobs + name, secret)
        os.symlink(secret, blobs + name)


def docker_archive(layers):
    config = json.dumps({"rootfs": {"diff_ids": [sha256(BASE)]}}).encode()
    manifest = json.dumps([{"Config": "config.json", "Layers": layers}]).encode()
    return [entry("manifest.json", data=manifest), entry("config.json", data=config)]


@case
def docker_layer_out_of_the_archive(): return tar(*docker_archive(["../../../etc/passwd"]))


@case
def docker_layer_is_a_link_out(): return tar(*docker_archive(["l"]), symlink("l", "../../../etc/passwd"))


@case
def docker_layer_missing(): return tar(*docker_archive(["a/layer.tar"]))


@case
def docker_layer_of_another_digest(): return tar(*docker_archive(["l"]), entry("l", data=tar(SOME)))


# --- layers and what they mean ------------------------------------------------------------------

ROOT = directory("./")
ODD = b"e\xcc\x81-\xff".decode("utf-8", "surrogateescape")  # decomposed, and no UTF-8 either

# name → (layers, tree): lists of entries.
MEANINGS = {
    "plain": ([[ROOT, directory("a"), entry("a/b", data=b"1")]],
              [ROOT, directory("a"), entry("a/b", data=b"1")]),
    "implied_directories": ([[entry("a/b/c", data=b"1")]],
                            [ROOT, directory("a"), directory("a/b"), entry("a/b/c", data=b"1")]),
    "file_replaced": ([[entry("a", data=b"1")], [entry("a", data=b"22", mode=0o600)]],
                      [entry("a", data=b"22", mode=0o600)]),
    "whiteout_of_a_file": ([[entry("d/a"), entry("d/b")], [entry("d/.wh.a")]],
                           [directory("d"), entry("d/b")]),
    "whiteout_of_a_tree": ([[entry("d/e/a"), entry("d-e"), entry("x")], [entry(".wh.d")]],
                           [entry("d-e"), entry("x")]),
    "whiteout_of_nothing": ([[entry("a")], [entry("d/.wh.b"), entry(".wh.c")]],
                            [entry("a"), directory("d")]),
    "whiteout_spares_its_own_layer": (
        [[entry("d/old"), entry("f", data=b"1")],
         [entry("d/new"), entry(".wh.d"), entry("f", data=b"2"), entry(".wh.f")]],
        [directory("d"), entry("d/new"), entry("f", data=b"2")]),
    "opaque": ([[directory("d", mode=0o700), entry("d/old"), entry("d/e/old")],
                [entry("d/e/new"), entry("d/.wh..wh..opq"), entry("d/new")]],
               [directory("d", mode=0o700), directory("d/e"), entry("d/e/new"), entry("d/new")]),
    "opaque_root": ([[entry("a"), entry("d/b")], [entry(".wh..wh..opq"), entry("c")]],
                    [entry("c")]),
    "directory_merges": ([[directory("d", mode=0o700), entry("d/a")],
                          [directory("d", mode=0o711), entry("d/b")]],
                         [directory("d", mode=0o711), entry("d/a"), entry("d/b")]),
    "directory_twice": ([[directory("d", mode=0o700), entry("d/a"), directory("d")]],
                        [directory("d"), entry("d/a")]),
    "file_over_directory": ([[entry("d/a"), entry("d/e/b")], [entry("d", data=b"1")]],
                            [entry("d", data=b"1")]),
    "directory_over_symlink": ([[symlink("d", "/etc"), entry("x")], [directory("d"), entry("d/a")]],
                               [directory("d"), entry("d/a"), entry("x")]),
    "hard_links": ([[entry("a", data=b"1"), hard_link("b", "a"), hard_link("d/c", "./b")]],
                   [directory("d"), entry("d/c", data=b"1"), hard_link("b", "d/c"),
                    hard_link("a", "d/c")]),
    "hard_link_deleted": ([[entry("a", data=b"1"), hard_link("b", "a")], [entry(".wh.a")]],
                          [entry("b", data=b"1")]),
    "hard_link_replaced": ([[entry("a", data=b"1"), hard_link("b", "a")], [entry("a", data=b"2")]],
                           [entry("a", data=b"2"), entry("b", data=b"1")]),
    "sandbox_paths_left_out": (
        [[entry("dev/x"), entry("etc/resolv.conf", data=b"1"), hard_link("etc/same", "etc/resolv.conf"),
          directory("proc/1"), entry("run/x")]],
        [directory("etc"), entry("etc/same", data=b"1")]),
    "names_are_bytes": ([[entry(ODD, data=b"1"), symlink("l", ODD)]],
                        [entry(ODD, data=b"1"), symlink("l", ODD)]),
    "no_layers": ([], [ROOT]),
}
# As umoci-insert(1) leaves a layer: nothing behind the bytes of its last file.
WITHOUT_END = {"without_end": ([tar(entry("a", data=b"x" * 700))[:512 + 700]],
                               [ROOT, entry("a", data=b"x" * 700)])}


def write_meanings(target):
    packed = {name: ([tar(*layer) for layer in layers], tree)
              for name, (layers, tree) in MEANINGS.items()}
    for name, (layers, tree) in (packed | WITHOUT_END).items():
        LayoutWriter(f"{target}/{name}", layers)
        with open(f"{target}/{name}.tar", "wb") as out:
            out.write(tar(*tree))


def write_hostile(target):
    for name, make in CASES.items():
        path = f"{target}/{name}"
        if make.__code__.co_argcount == 1:
            make(path)
            continue
        with open(path + ".tar", "wb") as out:
            out.write(make())


def write_large(target):
    rng, pool = random.Random(1), os.urandom(8 << 20)
    sizes = ((0.75, 200, 8000), (0.97, 8000, 200000), (1, 1 << 20, 6 << 20))
    with tarfile.open(target + "/large.tar", "w") as archive:
        total = number = 0
        while total < 1 << 30:
            share = rng.random()
            _, least, most = next(row for row in sizes if share < row[0])
            size = rng.randint(least, most)
            start = rng.randrange(len(pool) - size)
            info, data = entry(f"d{number % 400}/f{number}", data=pool[start:start + size])
            archive.addfile(info, io.BytesIO(data))
            total, number = total + size, number + 1


if __name__ == "__main__":
    {"hostile": write_hostile, "layers": write_meanings, "large": write_large}[sys.argv[1]](sys.argv[2])
