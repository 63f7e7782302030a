"""An image becomes an instance's first disk on the fake ZFS: by a clone that costs nothing, else by a copy, and never by halves."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deaths.images import GOLD, MIB, holding
from tests.deaths.installs import FIRST, SECOND, Bench
from tests.node import Node
from zfsganeti import check, install, loop, osdefinition
from zfsganeti.datasets import RESTORING
from zfsganeti.errors import BadEnvironment, BadInput, BadName, Foreign, Missing, Refused
from zfsganeti.install import Installer, can_share, clear, copy_data, dump, load
from zfsganeti.look import Look

VOLUME = "0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c11.ext.disk0"


@pytest.fixture
def bench(node: Node) -> Bench:
    return Bench(node)


# an instance that is added


def test_the_first_disk_is_a_clone_of_the_image(bench: Bench) -> None:
    bench.hook()
    assert bench.files() == {"disk.raw": GOLD}
    bench.ganeti_creates(FIRST, SECOND)
    assert bench.script() == "disk 0 of web1 is a clone of image debian-12:1"
    assert bench.files() == {FIRST: GOLD, SECOND: b""}
    made = os.stat(bench.path())
    assert (made.st_size, stat.S_IMODE(made.st_mode)) == (2 * MIB, 0o700)
    assert bench.clones() == ["zfs/vm/web1"]
    bench.post()
    assert bench.files() == {FIRST: GOLD, SECOND: b""}


@pytest.mark.parametrize("image", ["debian-12", "debian-12:1"])
def test_a_volume_that_was_made_of_the_image_is_left_as_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch, image: str) -> None:
    volume = "0.ext.disk0"
    bench.here.volumes.create(volume, 4 * MIB, {"image": "debian-12"})
    monkeypatch.setattr(stat, "S_ISREG", lambda _mode: False)
    monkeypatch.setattr(stat, "S_ISBLK", lambda _mode: True)
    monkeypatch.setattr(os, "stat", lambda _path: os.lstat("/"))
    said = Installer(bench.node.store, bench.here.volumes).install("web1", image, f"{loop.LINKS}/{volume}", again=False)
    assert said == "disk 0 of web1 is a clone of image debian-12:1 already"


def test_an_image_that_is_not_here_or_too_large_vetoes_and_leaves_nothing(bench: Bench) -> None:
    before = bench.node.whole_state()
    with pytest.raises(Missing) as missing:
        bench.hook(GANETI_INSTANCE_OS_TYPE="zfs-image+debian-14")
    assert str(missing.value) == (
        "image debian-14 on this node does not exist: gnt-zfs image push debian-14 on a node that has it brings it here"
    )
    bench.images.make("large", "file:/large", holding(size=3 * MIB))
    before = bench.node.whole_state()
    with pytest.raises(Refused) as large:
        bench.hook(GANETI_INSTANCE_OS_TYPE="zfs-image+large")
    assert str(large.value) == "image large: has 3.00M and does not fit on a disk of 2.00M: size=3M or more"
    with pytest.raises(BadName):
        bench.hook(GANETI_INSTANCE_OS_TYPE="zfs-image+../etc")
    assert bench.node.whole_state() == before


@pytest.mark.parametrize(
    "environ",
    [
        {"GANETI_INSTANCE_OS_TYPE": "debootstrap+default"},
        {"GANETI_INSTANCE_OS_TYPE": "zfs-image"},
        {"GANETI_INSTANCE_OS_TYPE": ""},
        {"GANETI_ADD_MODE": "import"},
        {"GANETI_INSTANCE_DISK_COUNT": "0"},
    ],
)
def test_other_instances_begin_empty(bench: Bench, environ: dict[str, str]) -> None:
    bench.hook(**environ)
    assert (bench.files(), bench.origin()) == ({}, "")
    assert bench.here.questions == int("DISK_COUNT" in str(environ)), "the master is asked for nothing but an image"


@pytest.mark.parametrize("knows", [True, False], ids=["candidate", "other node"])
def test_what_only_the_job_queue_knows_is_known(bench: Bench, knows: bool) -> None:
    def tell(**opcode: bool) -> None:
        bench.here.known, bench.here.asked = (opcode, None) if knows else ({}, opcode)

    before = bench.node.whole_state()
    tell(dry_run=True, no_install=False)
    bench.hook()
    assert bench.node.whole_state() == before
    tell(dry_run=False, no_install=True)
    bench.hook()
    assert (bench.files(), bench.origin()) == ({}, "")


def test_a_clone_that_was_made_for_nothing_is_dropped(bench: Bench) -> None:
    """The master was not to be asked, and it was an add with --no-install."""
    bench.here.asked = None
    bench.hook()
    bench.post()
    assert bench.files() == {"disk.raw": GOLD}, "a forthcoming instance has no disks yet"
    bench.ganeti_creates()
    bench.post()
    assert bench.files() == {FIRST: b""}
    bench.node.store.admit("other", [])
    bench.node.ganeti_writes("other", **{"disk.raw": b"mine"})
    bench.installer.drop_unused("other")
    assert bench.node.reads("other") == {"disk.raw": b"mine"}


def test_an_instance_that_is_restored_begins_empty(bench: Bench) -> None:
    bench.add()
    bench.node.put_aside("web1", "remove", {"name": "web1"})
    bench.node.ganeti_removes("web1")
    entry = bench.node.trash.discard("web1")
    assert entry is not None
    bench.node.trash.mark_restoring(entry, "web1")
    bench.images.retire("debian-12:1")
    bench.hook()
    assert (bench.files(), bench.origin()) == ({}, "")
    bench.ganeti_creates("new.file.disk0")
    bench.node.trash.swap_in(entry, "web1", [(FIRST, "new.file.disk0")])
    assert bench.files() == {"new.file.disk0": GOLD}
    assert RESTORING not in bench.node.marks("zfs/vm/web1")


# what an add that failed later has left


@pytest.mark.parametrize(
    ("image", "origin", "files"),
    [
        ("zfs-image+debian-12", "debian-12:1@golden", {"disk.raw": GOLD}),
        ("zfs-image+debian-13", "debian-13@golden", {"disk.raw": b"newer"}),
        ("noop", "", {}),
    ],
)
def test_the_next_add_finds_nothing_of_the_one_that_failed(bench: Bench, image: str, origin: str, files: dict[str, bytes]) -> None:
    bench.hook()
    bench.hook(GANETI_INSTANCE_OS_TYPE=image)
    assert (bench.files(), bench.origin().rpartition("/")[2]) == (files, origin)
    assert len(bench.clones()) == (origin == "debian-12:1@golden")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (lambda bench: bench.node.ganeti_writes("web1", other=b"x"), "disk.raw"),
        (lambda bench: Path(bench.path("disk.raw")).write_bytes(b"x" * (MIB + 1)), "disk.raw"),
        (lambda bench: bench.node.fake.snapshot(["zfs/vm/web1@autosnap"]), "autosnap"),
    ],
)
def test_a_clone_that_was_used_is_kept(bench: Bench, does: Callable[[Bench], object], said: str) -> None:
    bench.hook()
    does(bench)
    before = bench.node.whole_state()
    for image in ("noop", "zfs-image+debian-12"):
        with pytest.raises(Foreign) as caught:
            bench.hook(GANETI_INSTANCE_OS_TYPE=image)
        assert f"holds {said} of an instance that is gone" in str(caught.value)
    with pytest.raises(Refused):
        bench.node.store.sweep("web1")
    assert bench.node.whole_state() == before
    assert bench.node.trash.discard("web1") is not None


def test_a_clone_that_nobody_used_is_an_empty_leftover(bench: Bench) -> None:
    bench.hook()
    (found,) = check._datasets(Look(bench.node.store))
    assert found["files"] == []
    finding = check._without_instance("node2", found, bench.node.fake.clock + 3600, {})
    assert finding is not None
    assert (finding.text, finding.verb) == ("empty leftover zfs/vm/web1 without an instance", "sweep")
    bench.node.store.sweep("web1")
    assert (bench.node.store.find("web1"), bench.clones()) == (None, [])


# installed without a clone, and again


def test_a_reinstallation_copies(bench: Bench) -> None:
    bench.add()
    Path(bench.path()).write_bytes(b"mine".ljust(2 * MIB, b"\0"))
    os.chmod(bench.path(), 0o700)
    assert re.fullmatch(
        r"disk 0 of web1 is a copy of image debian-13 \(\S+ by ZFS, which shares blocks where it can\)", bench.again("debian-13")
    )
    assert bench.files() == {FIRST: b"newer"}
    made = os.stat(bench.path())
    assert (made.st_size, stat.S_IMODE(made.st_mode)) == (2 * MIB, 0o700)


def test_what_cannot_be_installed_is_refused_before_anything_is_written(bench: Bench) -> None:
    bench.hook(GANETI_INSTANCE_OS_TYPE="noop")
    bench.ganeti_creates(size=MIB - 512)
    before = bench.node.whole_state()
    for image, error in (("debian-12", Refused), ("debian-14", Missing), ("../x", BadName), ("", BadInput)):
        with pytest.raises(error):
            bench.again(image)
    with pytest.raises(BadInput) as caught:
        bench.script(DISK_COUNT="0")
    assert str(caught.value) == "web1: has no disk to install image debian-12 on"
    with pytest.raises(BadInput):
        bench.script(DISK_0_PATH="/dev/null")
    with pytest.raises(BadEnvironment):
        bench.script(DISK_0_PATH="")
    assert bench.node.whole_state() == before


def test_a_clone_of_another_image_is_not_taken_for_the_wanted_one(bench: Bench) -> None:
    bench.hook(GANETI_INSTANCE_OS_TYPE="zfs-image+debian-13")
    bench.ganeti_creates()
    assert " is a copy of image debian-12:1 " in bench.script()
    assert bench.files() == {FIRST: GOLD}


def test_an_instance_without_a_dataset_gets_a_copy(bench: Bench) -> None:
    bench.ganeti_creates()
    assert " is a copy of image debian-12:1 " in bench.script()
    assert bench.files() == {FIRST: GOLD}
    bench.node.fake.foreign("zfs/vm/theirs")
    bench.node.ganeti_writes("theirs", **{"disk.raw": b"theirs", FIRST: b"\0" * MIB})
    path = f"{bench.node.home('theirs')}/{FIRST}"
    assert " is a copy of image " in bench.script(INSTANCE_NAME="theirs", DISK_0_PATH=path, INSTANCE_REINSTALL="1")
    assert bench.node.reads("theirs")["disk.raw"] == b"theirs"


def test_a_copy_that_fails_leaves_the_disk_as_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.hook(GANETI_INSTANCE_OS_TYPE="noop")
    bench.ganeti_creates()

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(install, "_shared", full)
    with pytest.raises(OSError, match="No space left"):
        bench.script()
    assert bench.files() == {FIRST: b""}


# bytes


@pytest.mark.parametrize(
    ("version", "safe"),
    [((2, 1, 11), False), ((2, 3, 2), False), ((2, 3, 9), True), ((2, 4, 0), False), ((2, 4, 3), False), ((2, 4, 4), True), ((2, 5), True)],
)
def test_blocks_are_shared_only_where_that_is_safe(version: tuple[int, ...], safe: bool) -> None:
    assert can_share(version) is safe


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("written", [[], [(0, 5000)], [(70000, 9000), (500000, 100)], [(1 << 20, 1 << 20)], [(3000000 - 7, 7)]])
def test_a_device_holds_the_same_bytes_whatever_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[int, int]], share: bool
) -> None:
    held, size = 3000000, 4 << 20
    discarded = []

    def ioctl(descriptor: int, request: int, argument: bytes) -> None:
        start, length = struct.unpack("QQ", argument)
        assert start % 512 == length % 512 == 0
        assert length > 0
        assert start + length <= size
        if request == install.BLKZEROOUT:
            os.pwrite(descriptor, bytes(length), start)
        else:
            discarded.append((start, length))
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for offset, length in written:
            file.seek(offset)
            file.write(b"x" * length)
        file.truncate(held)
    target.write_bytes(b"\xff" * size)
    with source.open("rb") as reader, target.open("r+b") as writer:
        clear(reader.fileno(), writer.fileno(), held, size)
        how = copy_data(reader.fileno(), writer.fileno(), share=share)
    assert how == ("0B were copied" if not written else how)
    assert ("by ZFS" in how, "were copied" in how) == ((True, False) if share and written else (False, True))
    content = target.read_bytes()
    assert content[:held] == source.read_bytes()
    assert content[held + 512 :] == b"\xff" * (size - held - 512)
    assert discarded == [(3000320, size - 3000320)]


def lent(bench: Bench, name: str = "data:2") -> str:
    """An instance has the newest `data` for itself; return its device."""
    for version in ("data:1", name):
        bench.images.make(version, "file:/x", holding(version.encode()))
        bench.node.fake.clock += 1
    bench.images.set_lendable(name, True)
    bench.here.volumes.create(VOLUME, MIB, {"image": name, "use": "persistent"})
    bench.here.volumes.set_instance(VOLUME, "web1")
    return f"{loop.LINKS}/{VOLUME}"


@pytest.mark.parametrize("wanted", ["data", "data:2"])
def test_an_image_that_an_instance_has_for_itself_is_installed_already(bench: Bench, wanted: str) -> None:
    disk = lent(bench)
    before = bench.node.whole_state()
    installer = Installer(bench.node.store, bench.here.volumes)
    assert installer._install_device("web1", wanted, disk, again=False) == "disk 0 of web1 is image data:2 itself already"
    assert bench.node.whole_state() == before


@pytest.mark.parametrize(("wanted", "again"), [("data", True), ("data:2", True), ("data:1", False), ("debian-13", True)])
def test_nothing_is_installed_over_an_image_that_an_instance_has_for_itself(bench: Bench, wanted: str, again: bool) -> None:
    disk = lent(bench)
    before = bench.node.whole_state()
    with pytest.raises(Refused) as caught:
        Installer(bench.node.store, bench.here.volumes)._install_device("web1", wanted, disk, again=again)
    assert str(caught.value) == (
        "disk 0 of web1: is image data:2 itself, which nothing is installed over: "
        "gnt-zfs snapshot rollback web1 golden takes it back to what it was lent with"
    )
    assert bench.node.whole_state() == before


def test_what_was_copied_is_told_from_what_may_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * (2 * MIB))

    def half(_reader: int, _writer: int, offset: int, _length: int) -> int:
        return MIB if offset == 0 else 0  # from there on another pool, as it were

    monkeypatch.setattr(install, "_shared", half)
    with source.open("rb") as reader, target.open("w+b") as writer:
        said = copy_data(reader.fileno(), writer.fileno(), share=True)
        assert said == "1.00M by ZFS, which shares blocks where it can; 1.00M were copied"
        assert copy_data(reader.fileno(), writer.fileno()) == "2.00M were copied"


def test_a_dump_comes_back_as_it_was_and_zeros_are_not_written(tmp_path: Path) -> None:
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.write_bytes(b"begin".ljust(3 * MIB, b"\0") + b"end" + bytes(100))
    sink = io.BytesIO()
    dump(str(disk), sink)
    assert sink.getvalue() == disk.read_bytes()
    other.touch()
    os.truncate(other, 8 * MIB)
    load(io.BytesIO(sink.getvalue()), str(other))
    assert other.read_bytes() == disk.read_bytes().ljust(8 * MIB, b"\0")
    assert os.stat(other).st_blocks * 512 < 3 * MIB
    other.write_bytes(b"\xff" * (4 * MIB))
    load(io.BytesIO(sink.getvalue()), str(other))
    assert other.read_bytes()[: os.stat(disk).st_size] == disk.read_bytes()
    os.truncate(other, MIB)
    with pytest.raises(BadInput, match=r"has 1\.00M, and the dump is larger"):
        load(io.BytesIO(sink.getvalue()), str(other))
    assert os.stat(other).st_size == MIB


# the other scripts


def test_a_variant_must_be_able_to_be_an_image(bench: Bench) -> None:
    verify = osdefinition.SCRIPTS["verify"]
    assert verify(bench.here, {"OS_VARIANT": "debian-12:2026-11-01"}) == ""
    with pytest.raises(BadName):
        verify(bench.here, {"OS_VARIANT": "a/b"})
    with pytest.raises(BadInput) as caught:
        verify(bench.here, {"OS_VARIANT": ""})
    assert str(caught.value) == "zfs-image is given with an image, such as zfs-image+NAME: gnt-zfs image list shows what there is"


def test_the_scripts_are_those_that_are_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/share/ganeti/os/zfs-image/destroy"])
    assert osdefinition.main() == 2
    assert capsys.readouterr().err.endswith(": script 'destroy': there are create, import, export, rename, verify\n")
    with contextlib.suppress(KeyError):
        monkeypatch.delenv("OS_VARIANT")
    monkeypatch.setattr("sys.argv", ["/usr/share/ganeti/os/zfs-image/rename"])
    assert osdefinition.main() == 0
    assert capsys.readouterr().out == ""
