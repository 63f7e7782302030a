"""Images become disks: every format in every compression, made by the programs that people use; then hostile and broken ones."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import itertools
import lzma
import os
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti import formats
from zfsganeti.errors import BadInput, Full, Missing, NoSpace, Refused, ZfsGanetiError
from zfsganeti.files import content_digest, told
from zfsganeti.formats import FORMATS, Raw, convert, to_raw

KIB, MIB, SECTOR = 1 << 10, 1 << 20, 512
SIZE = 8 * MIB
LIMIT = 16 * MIB
CANARY = b"canary: what only the host's root may read. " * 400
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can shut a program up")


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=data, stdout=subprocess.PIPE, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": bz2.compress,
    "zst": zstd,
}


def disk_bytes() -> bytes:
    """Data at the beginning, in the middle, across two MiB, and holes."""
    data = bytearray(SIZE)
    data[:KIB] = hashlib.sha256(b"boot").digest() * 32
    data[3 * MIB - 100 : 3 * MIB + 100] = b"x" * 200
    data[5 * MIB + 7] = 1
    return bytes(data)


DISK = disk_bytes()


def qemu_img(*command: object) -> None:
    subprocess.run(["qemu-img", *map(str, command)], check=True, stdout=subprocess.DEVNULL)


class Bench:
    """A directory with images and with what becomes of them."""

    def __init__(self, path: Path) -> None:
        self.path, self.target = path, path / "out" / "disk.raw"
        self.target.parent.mkdir()
        self.image = path / "image"

    def make(self, kind: str, *options: str, content: bytes = DISK) -> bytes:
        """The image is in that format; return its bytes."""
        plain = self.path / "plain"
        plain.write_bytes(content)
        qemu_img("convert", "-f", "raw", "-O", kind, *options, plain, self.image)
        return self.image.read_bytes()

    def patch(self, offset: int, data: bytes) -> None:
        with self.image.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def run(self, *, format: str = "", sha256: str = "") -> Raw:  # noqa: A002
        return to_raw(str(self.image), str(self.target), name="debian", limit=LIMIT, format=format, sha256=sha256)

    def refused(self, why: str, *, format: str = "", sha256: str = "") -> None:  # noqa: A002
        """It is refused in these words, and nothing is left."""
        with pytest.raises(Refused) as caught:
            self.run(format=format, sha256=sha256)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)
        assert list(self.target.parent.iterdir()) == []

    def bypassed(self, kind: str) -> bytes:
        """What qemu-img makes of the image when nobody has looked at it."""
        with self.image.open("rb") as source, self.target.open("w+b") as disk:
            try:
                convert(source.fileno(), disk.fileno(), kind, SIZE, "debian")
            except Refused:
                pass
        return self.target.read_bytes()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "STUCK_SECONDS", 5)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def canary() -> Iterator[Path]:
    """A file that a hostile image names, and that everybody may read."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory, "canary")
        path.write_bytes(CANARY + bytes(SIZE - len(CANARY)))
        path.chmod(0o644)
        yield path


# what becomes a disk


@pytest.mark.parametrize(("kind", "packer"), [*itertools.product(FORMATS[:2], PACKERS), *itertools.product(FORMATS[2:], ("", "zst"))])
def test_every_format_in_every_compression_is_the_same_disk(bench: Bench, kind: str, packer: str) -> None:
    image = PACKERS[packer](bench.make(kind))
    bench.image.write_bytes(image)
    raw = bench.run(sha256=hashlib.sha256(image).hexdigest())
    assert bench.target.read_bytes() == DISK
    assert (raw.size, raw.format, raw.sha256) == (SIZE, kind, hashlib.sha256(image).hexdigest())
    assert raw.content == content_digest(str(bench.path / "plain"))
    assert bench.target.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qcow2", ("-c",)),
        ("qcow2", ("-c", "-o", "compression_type=zstd")),
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow2", ("-o", "extended_l2=on")),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vdi", ("-o", "static=on")),
        ("vhdx", ("-o", "subformat=fixed")),
    ],
)
def test_what_qemu_img_can_write_is_read(bench: Bench, kind: str, options: tuple[str, ...]) -> None:
    bench.make(kind, *options)
    assert bench.run().size == SIZE
    assert bench.target.read_bytes() == DISK


def test_a_raw_image_is_made_of_whole_sectors(bench: Bench) -> None:
    bench.image.write_bytes(b"x" * 1000)
    assert bench.run().size == 1024
    assert bench.target.read_bytes() == b"x" * 1000 + bytes(24)


def test_a_format_that_is_given_is_believed(bench: Bench) -> None:
    image = bench.make("qcow2")
    assert bench.run(format="raw").format == "raw"
    assert bench.target.read_bytes() == image
    bench.target.unlink()
    bench.refused("not the header of a vdi", format="vdi")
    with pytest.raises(BadInput, match="'qed': is none of raw, qcow2, vmdk, vdi, vhdx"):
        bench.run(format="qed")


@pytest.mark.parametrize("packer", ["gz", "xz", "bz2", "zst"])
def test_streams_one_after_the_other_are_one(bench: Bench, packer: str) -> None:
    pack = PACKERS[packer]
    bench.image.write_bytes(pack(DISK[:MIB]) + pack(b"") + pack(DISK[MIB:]))
    bench.run()
    assert bench.target.read_bytes() == DISK


def test_equal_content_has_one_digest_however_sparse(tmp_path: Path) -> None:
    full, sparse, longer = (str(tmp_path / name) for name in ("full", "sparse", "longer"))
    Path(full).write_bytes(DISK)
    with open(sparse, "wb") as file:
        file.write(DISK[:KIB])
        for start, end in ((3 * MIB - 100, 3 * MIB + 100), (5 * MIB + 7, 5 * MIB + 8)):
            file.seek(start)
            file.write(DISK[start:end])
        file.truncate(SIZE)
    Path(longer).write_bytes(DISK + bytes(512))
    assert content_digest(full) == content_digest(sparse) != content_digest(longer)
    expected = hashlib.sha256()
    for number in (0, 2, 3, 5):
        expected.update((number * MIB).to_bytes(8, "little") + DISK[number * MIB : (number + 1) * MIB])
    expected.update(SIZE.to_bytes(8, "little"))
    assert content_digest(full) == expected.hexdigest()


def test_an_empty_disk_is_looked_at_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, 100 << 30)
    assert content_digest(str(path)) == hashlib.sha256((100 << 30).to_bytes(8, "little")).hexdigest()


def test_progress_ends_where_all_is_done(bench: Bench) -> None:
    image = gzip.compress(bench.make("qcow2"))
    bench.image.write_bytes(image)
    told: dict[str, tuple[int, int]] = {}
    to_raw(str(bench.image), str(bench.target), limit=LIMIT, progress=lambda what, done, total: told.update({what: (done, total)}))
    assert told == {"unpack": (len(image), len(image)), "convert": (SIZE, SIZE), "verify": (SIZE, SIZE)}


# what does not


def test_what_is_no_file_is_not_opened(bench: Bench) -> None:
    with pytest.raises(Missing, match="debian does not exist"):
        bench.run()
    os.mkfifo(bench.image)
    bench.refused("debian: is not a regular file")
    bench.image.unlink()
    bench.image.symlink_to("/dev/zero")
    bench.refused("debian: is a symbolic link: name the file itself")
    bench.image.unlink()
    bench.image.mkdir()
    bench.refused("debian: is not a regular file")
    with pytest.raises(Refused, match="is not a regular file"):
        to_raw("/dev/zero", str(bench.target), limit=LIMIT)


def test_a_target_that_exists_stays(bench: Bench) -> None:
    bench.make("raw")
    bench.target.write_bytes(b"mine")
    with pytest.raises(Refused, match="exists already"):
        bench.run()
    assert bench.target.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", FORMATS)
def test_another_checksum_leaves_nothing(bench: Bench, kind: str) -> None:
    image = bench.make(kind)
    bench.refused(f"debian: has sha256 {hashlib.sha256(image).hexdigest()}, not {'0' * 64}", sha256="0" * 64)


@pytest.mark.parametrize("packer", ["gz", "xz", "bz2", "zst"])
def test_a_bomb_goes_off_in_a_small_room(bench: Bench, packer: str) -> None:
    bench.image.write_bytes(PACKERS[packer](bytes(LIMIT + MIB)))
    bench.refused("debian: is larger than 16.0M")


def test_a_disk_larger_than_allowed_is_not_begun(bench: Bench) -> None:
    qemu_img("create", "-q", "-f", "qcow2", bench.image, "1T")
    bench.refused("debian: holds a disk of 1.00T, more than 16.0M")
    bench.image.unlink()
    bench.image.touch()
    os.truncate(bench.image, LIMIT + 1)
    bench.refused("debian: is larger than 16.0M")


@pytest.mark.parametrize("packer", PACKERS)
def test_nothing_is_refused(bench: Bench, packer: str) -> None:
    bench.image.write_bytes(PACKERS[packer](b""))
    bench.refused("debian: is empty")


@pytest.mark.parametrize("packer", ["gz", "xz", "bz2", "zst"])
def test_a_compressed_file_that_is_cut_or_followed_by_garbage_is_refused(bench: Bench, packer: str) -> None:
    whole = PACKERS[packer](DISK)
    for broken in (whole[:7], whole[: len(whole) // 2], whole[:-1], whole + b"garbage behind it, of some length"):
        bench.image.write_bytes(broken)
        bench.refused("debian: is truncated or damaged")
    bench.image.write_bytes(PACKERS[packer](whole))
    bench.refused(f"debian: is compressed twice, {packer} in {packer}: unpack it first")


@pytest.mark.parametrize("subformat", ["", "streamOptimized"])
def test_a_hole_at_the_end_of_a_vmdk_is_no_cut(bench: Bench, subformat: str) -> None:
    bench.make("vmdk", *(("-o", f"subformat={subformat}") if subformat else ()), content=DISK[: 6 * MIB] + b"end" + bytes(SECTOR * 3 - 3))
    assert bench.run().size == 6 * MIB + 3 * SECTOR


@pytest.mark.parametrize("kind", FORMATS[1:])
def test_an_image_that_is_cut_is_refused(bench: Bench, kind: str) -> None:
    whole = bench.make(kind)
    for length in (10, 100, 600, 4096, 70_000):
        bench.image.write_bytes(whole[: min(length, len(whole) // 2)])
        bench.refused("debian: ", format=kind)


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "vhdx"])
def test_data_that_is_cut_off_is_never_taken_for_zeros(bench: Bench, kind: str) -> None:
    content = os.urandom(4 * MIB)
    whole = bench.make(kind, content=content)
    end = whole.rindex(content[-SECTOR:]) + SECTOR
    for length in (end - 2 * MIB, end - MIB - 12345):
        bench.image.write_bytes(whole[:length])
        bench.refused("debian: is truncated or damaged (it ends before what it holds does)", format=kind)


def test_a_table_that_lies_far_beyond_the_end_is_no_empty_disk(bench: Bench) -> None:
    whole = bytearray(bench.make("qcow2"))
    (table,) = struct.unpack_from(">Q", whole, 40)
    for offset in (1 << 30, 1 << 50):
        struct.pack_into(">Q", whole, table, 1 << 63 | offset)
        bench.image.write_bytes(whole)
        bench.refused("debian: is truncated or damaged (it ends before what it holds does)")


@pytest.mark.parametrize("kind", ["qed", "vpc", "parallels", "qcow"])
def test_other_formats_are_named(bench: Bench, kind: str) -> None:
    bench.make(kind)
    bench.refused(f"debian: format {kind.replace('vpc', 'vhd')} is not supported: convert it first with qemu-img")


def test_a_page_an_archive_and_a_vhd_by_its_tail_are_named(bench: Bench) -> None:
    bench.image.write_bytes(b"\n<!DOCTYPE HTML><title>404</title>")
    bench.refused("debian: is a web page and no image")
    bench.image.write_bytes(b"PK\3\4" + bytes(100))
    bench.refused("debian: format zip is not supported: unpack it first")
    bench.make("vpc", "-o", "subformat=fixed")
    bench.refused("debian: format vhd is not supported")


def test_without_qemu_img_only_raw_is_made(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench.make("qcow2")
    monkeypatch.setitem(__import__("zfsganeti.process").process.ENVIRONMENT, "PATH", str(tmp_path))
    with pytest.raises(ZfsGanetiError) as caught:
        bench.run()
    assert str(caught.value) == "qemu-img: is not installed: apt install qemu-utils"
    bench.make("raw")
    assert bench.run().size == SIZE


# images that name other files


def patched_qcow2(bench: Bench, offset: int, layout: str, value: int) -> None:
    bench.make("qcow2")
    bench.patch(offset, struct.pack(layout, value))


@pytest.mark.parametrize(
    ("offset", "layout", "value", "why"),
    [
        (32, ">I", 1, "is encrypted"),
        (32, ">I", 2, "is encrypted"),
        (79, ">B", 4, "needs another file (data file)"),
        (79, ">B", 2, "is truncated or damaged (it is marked as corrupt)"),
        (72, ">Q", 1 << 40, "needs what is not known here (qcow2 features 0x10000000000)"),
        (24, ">Q", 0, "holds a disk of no size"),
        (24, ">Q", 1 << 62, "holds a disk of 4096P"),
        (36, ">I", 1 << 20, "its table lies outside"),
        (40, ">Q", 1 << 40, "its table lies outside"),
        (20, ">I", 63, "not the header of a qcow2"),
        (4, ">I", 9, "not the header of a qcow2"),
        (4, ">I", 1, "format qcow is not supported"),
    ],
)
def test_a_qcow2_that_wants_more_or_lies_is_refused(bench: Bench, offset: int, layout: str, value: int, why: str) -> None:
    patched_qcow2(bench, offset, layout, value)
    bench.refused(why)


@pytest.mark.parametrize("packer", ["", "gz"])
def test_a_backing_file_is_never_read(bench: Bench, canary: Path, packer: str) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-b", canary, "-F", "raw", bench.image)
    bench.image.write_bytes(PACKERS[packer](bench.image.read_bytes()))
    bench.refused("debian: needs another file (backing file): convert it first with qemu-img, where that file is")


def test_a_backing_file_is_not_read_even_when_nobody_looked(bench: Bench, canary: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-b", canary, "-F", "raw", bench.image)
    assert bench.bypassed("qcow2") == bytes(SIZE)


@root
def test_a_data_file_is_not_read_even_when_nobody_looked(bench: Bench, canary: Path) -> None:
    named = canary.with_name("data")
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={named},data_file_raw=on", bench.image, SIZE)
    canary.replace(named)
    bench.refused("debian: needs another file (data file)")
    assert b"canary" not in bench.bypassed("qcow2")


@root
def test_an_extent_is_not_read_even_when_nobody_looked(bench: Bench, canary: Path) -> None:
    text = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    bench.image.write_text(f'{text}RW {SIZE // SECTOR} FLAT "{canary}" 0\n')
    bench.refused("debian: is but the descriptor of a vmdk")
    assert b"canary" not in bench.bypassed("vmdk")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("parentCID=ffffffff", "parentCID=12345678", "needs another file (parent)"),
        ("# The Disk Data Base", 'parentFileNameHint="/x"', "needs another file (parent)"),
        (" SPARSE ", " FLAT   ", "needs another file (extent)"),
        ('"image"', '"/a:/b"', "needs another file (extent)"),
    ],
)
@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_a_vmdk_that_names_others_is_refused(bench: Bench, subformat: str, old: str, new: str, why: str) -> None:
    data = bench.make("vmdk", "-o", f"subformat={subformat}")
    assert old.encode() in data
    bench.image.write_bytes(data.replace(old.encode(), new.encode()[: len(old)].ljust(len(old)) if len(new) <= len(old) else new.encode()))
    bench.refused(why)


def test_a_vmdk_without_a_size_is_a_descriptor_in_disguise(bench: Bench) -> None:
    bench.make("vmdk")
    bench.patch(12, bytes(8))
    bench.refused("holds a disk of no size")


@pytest.mark.parametrize(
    ("offset", "data", "why"),
    [
        (0x4C, b"\4\0\0\0", "needs another file (vdi of type 4"),
        (0x1B8, b"parent", "needs another file (parent)"),
        (0x1A8, b"linked", "needs another file (parent)"),
    ],
)
def test_a_vdi_that_is_a_difference_is_refused(bench: Bench, offset: int, data: bytes, why: str) -> None:
    bench.make("vdi")
    bench.patch(offset, data)
    bench.refused(why)


def test_a_vhdx_that_is_a_difference_is_refused(bench: Bench) -> None:
    image = bench.make("vhdx")
    place = image.index(b"metadata")
    (offset,) = struct.unpack("<I", image[place + 48 : place + 52])  # of the first item, the file's parameters
    bench.patch(place + offset + 4, b"\2\0\0\0")
    bench.refused("needs another file (parent)")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Bench(tmp_path_factory.mktemp("small")).make("qcow2")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(flips=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 7)), min_size=1, max_size=4))
def test_any_header_makes_a_disk_or_a_line(small: bytes, flips: list[tuple[int, int]]) -> None:
    image = bytearray(small)
    for offset, bit in flips:
        image[offset] ^= 1 << bit
    with tempfile.TemporaryDirectory() as name:
        path, target = f"{name}/image", f"{name}/disk"
        Path(path).write_bytes(image)
        try:
            raw = to_raw(path, target, limit=LIMIT)
        except ZfsGanetiError as error:
            assert "\n" not in str(error)
            assert os.listdir(name) == ["image"]
        else:
            assert raw.size == os.path.getsize(target) <= LIMIT


def test_a_full_disk_is_said_in_a_line() -> None:
    with pytest.raises(Full) as caught, told("debian", "/srv"):
        raise OSError(errno.ENOSPC, "whatever")
    assert str(caught.value) == "debian: no space left on /srv: gnt-zfs trash empty may make room"
    assert caught.value.exit_code == NoSpace.exit_code
