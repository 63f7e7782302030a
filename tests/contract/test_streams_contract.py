"""What zfsganeti.streams.Streams promises, on the fake and, where there is one, on real ZFS, as in test_zfs_contract."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_zfs_contract import DIRECTORY, KINDS, ROOT, Bench, FakeBench, RealBench, own_root
from tests.fakestreams import FakeStreams
from tests.fakezfs import FakeZfs
from zfsganeti.datasets import CLUSTER
from zfsganeti.errors import CommandFailed, Missing, Refused
from zfsganeti.streams import PROPERTIES, Streams, receive_command, send_command
from zfsganeti.zfs import Zfs

RANDOM = os.urandom(2 << 20)
WITH = {**PROPERTIES, CLUSTER: "cluster.example.com"}


class Sluice:
    """A bench, its streams, and a file through which they go."""

    def __init__(self, bench: Bench, streams: Streams, file: Path) -> None:
        self.bench, self.streams, self.file = bench, streams, file

    def make(self, **files: bytes) -> str:
        """A filesystem with files and their snapshot @one."""
        name = self.bench.make()
        self.change(name, "one", **files)
        return name

    def change(self, name: str, short: str, **files: bytes) -> None:
        self.write(name, **files)
        self.bench.zfs.snapshot([f"{name}@{short}"])

    def write(self, name: str, **files: bytes) -> None:
        path = self.bench.path(name.rpartition("/")[2])
        self.bench.zfs.mount(name, path)
        for file, content in files.items():
            Path(path, file).write_bytes(content)
        self.bench.zfs.unmount(path)

    def files(self, name: str) -> dict[str, bytes]:
        path = self.bench.path("look")
        self.bench.zfs.mount(name, path)
        try:
            return {entry.name: entry.read_bytes() for entry in Path(path).iterdir()}
        finally:
            self.bench.zfs.unmount(path)

    def stream(self, send: list[str]) -> bytes:
        if isinstance(self.streams, FakeStreams):
            return self.streams.stream(send)
        return subprocess.run(send, check=True, capture_output=True).stdout

    def receive(self, stream: bytes, short: str = "copy") -> str:
        self.file.write_bytes(stream)
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            self.streams.receive(receive_command(self.bench.name(short), WITH), descriptor, seconds=60)
        finally:
            os.close(descriptor)
        return self.bench.name(short)

    def receive_half(self, send: list[str], short: str = "copy") -> str:
        stream = self.stream(send)
        with pytest.raises(CommandFailed, match="incomplete stream|partial"):
            self.receive(stream[: len(stream) // 2], short)
        return self.bench.name(short)

    def guids(self, name: str) -> list[str]:
        return [snap.guid for snap in self.streams.snapshots(name)]


@pytest.fixture(params=KINDS)
def sluice(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sluice]:
    if request.param == "fake":
        fake = FakeZfs(str(tmp_path / "pool"))
        fake.foreign("zfs/contract", mountpoint=str(tmp_path / "contract"))
        yield Sluice(FakeBench(fake, *own_root(fake, "zfs/contract", str(tmp_path / "contract"))), FakeStreams(fake), tmp_path / "stream")
        return
    zfs = Zfs()
    real = RealBench(zfs, *own_root(zfs, ROOT, DIRECTORY))
    yield Sluice(real, Streams(), tmp_path / "stream")
    real.clean()


def test_snapshots_have_their_names_guids_and_order(sluice: Sluice) -> None:
    name = sluice.make(a=b"1")
    sluice.change(name, "another", a=b"2")
    found = sluice.streams.snapshots(name)
    assert [snap.name for snap in found] == ["one", "another"]
    assert found[0].createtxg < found[1].createtxg
    assert len({snap.guid for snap in found}) == 2
    assert sluice.streams.snapshots(sluice.bench.make("empty")) == []
    assert sluice.streams.token(name) == ""


def test_what_does_not_exist_is_missing(sluice: Sluice) -> None:
    with pytest.raises(Missing, match=f"dataset {sluice.bench.name('none')} does not exist"):
        sluice.streams.snapshots(sluice.bench.name("none"))
    with pytest.raises(Missing):
        sluice.streams.token(sluice.bench.name("none"))


def test_what_is_received_has_the_guid_and_the_files_and_is_not_mounted(sluice: Sluice) -> None:
    name = sluice.make(disk=RANDOM, other=b"x")
    assert sluice.streams.size(send_command(f"{name}@one")) > len(RANDOM)
    copy = sluice.receive(sluice.stream(send_command(f"{name}@one")))
    assert sluice.guids(copy) == sluice.guids(name)
    assert copy not in [mount.dataset for mount in sluice.bench.zfs.mounts()]
    assert sluice.bench.look(copy).marks == {CLUSTER: WITH[CLUSTER]}
    assert sluice.bench.zfs.local(copy).items() >= PROPERTIES.items()
    assert sluice.files(copy) == {"disk": RANDOM, "other": b"x"}


def test_what_changed_follows(sluice: Sluice) -> None:
    name = sluice.make(disk=RANDOM)
    sluice.receive(sluice.stream(send_command(f"{name}@one")))
    sluice.change(name, "two", other=b"new")
    copy = sluice.receive(sluice.stream(send_command(f"{name}@two", base="@one")))
    assert sluice.guids(copy) == sluice.guids(name)
    assert sluice.files(copy) == {"disk": RANDOM, "other": b"new"}


def test_what_was_half_received_is_continued(sluice: Sluice) -> None:
    name = sluice.make(disk=RANDOM)
    copy = sluice.receive_half(send_command(f"{name}@one"))
    token = sluice.streams.token(copy)
    rest = sluice.streams.resumable(token)
    assert rest is not None
    assert rest.guid == sluice.guids(name)[0]
    assert 0 < rest.left < sluice.streams.size(send_command(f"{name}@one"))
    assert sluice.guids(copy) == []
    with pytest.raises(Refused, match="exists already"):
        sluice.receive(sluice.stream(send_command(f"{name}@one")))
    sluice.receive(sluice.stream(send_command(f"{name}@one", token=token)))
    assert (sluice.guids(copy), sluice.streams.token(copy)) == (sluice.guids(name), "")
    assert sluice.bench.zfs.local(copy).items() >= PROPERTIES.items()
    assert sluice.files(copy) == {"disk": RANDOM}


def test_what_was_half_received_can_be_given_up(sluice: Sluice) -> None:
    name = sluice.make(disk=RANDOM)
    copy = sluice.receive_half(send_command(f"{name}@one"))
    sluice.streams.abort(copy)
    assert sluice.bench.zfs.get(copy) is None
    sluice.receive(sluice.stream(send_command(f"{name}@one")))
    with pytest.raises(CommandFailed):
        sluice.streams.abort(copy)
    assert sluice.guids(copy) == sluice.guids(name)


def test_giving_up_half_of_a_change_leaves_what_was_there(sluice: Sluice) -> None:
    name = sluice.make(disk=b"old")
    sluice.receive(sluice.stream(send_command(f"{name}@one")))
    sluice.change(name, "two", disk=RANDOM)
    copy = sluice.receive_half(send_command(f"{name}@two", base="@one"))
    assert sluice.streams.token(copy)
    sluice.streams.abort(copy)
    assert (sluice.guids(copy), sluice.streams.token(copy)) == (sluice.guids(name)[:1], "")
    assert sluice.files(copy) == {"disk": b"old"}


def test_a_token_whose_snapshot_is_gone_is_worth_nothing(sluice: Sluice) -> None:
    name = sluice.make(disk=RANDOM)
    token = sluice.streams.token(sluice.receive_half(send_command(f"{name}@one")))
    sluice.bench.zfs.destroy_snapshots([f"{name}@one"])
    assert sluice.streams.resumable(token) is None
    assert sluice.streams.resumable("1-2-3-4") is None
    assert sluice.streams.resumable("no token") is None


def test_a_filesystem_that_exists_is_never_overwritten(sluice: Sluice) -> None:
    name = sluice.make(disk=b"new")
    other = sluice.bench.make("copy")
    sluice.change(other, "mine", disk=b"mine")
    with pytest.raises(Refused, match=f"^dataset {other}: exists already$"):
        sluice.receive(sluice.stream(send_command(f"{name}@one")))
    assert sluice.files(other) == {"disk": b"mine"}


def test_a_filesystem_that_was_changed_refuses_what_follows(sluice: Sluice) -> None:
    name = sluice.make(disk=b"one")
    copy = sluice.receive(sluice.stream(send_command(f"{name}@one")))
    sluice.bench.zfs.set(copy, {"readonly": "off"})
    sluice.write(copy, mine=b"mine")
    sluice.change(name, "two", disk=b"two")
    with pytest.raises(Refused, match="was changed since the snapshot that both nodes have"):
        sluice.receive(sluice.stream(send_command(f"{name}@two", base="@one")))
    assert sluice.files(copy) == {"disk": b"one", "mine": b"mine"}


def test_a_newer_snapshot_of_its_own_stays(sluice: Sluice) -> None:
    """ZFS receives on top of it as long as nothing was written; it is `plan` that is stricter."""
    name = sluice.make(disk=b"one")
    copy = sluice.receive(sluice.stream(send_command(f"{name}@one")))
    sluice.bench.zfs.snapshot([f"{copy}@mine"])
    sluice.change(name, "two", disk=b"two")
    sluice.receive(sluice.stream(send_command(f"{name}@two", base="@one")))
    assert [snap.name for snap in sluice.streams.snapshots(copy)] == ["one", "mine", "two"]
    sluice.bench.zfs.set(copy, {"readonly": "off"})
    sluice.change(copy, "changed", mine=b"mine")
    sluice.change(name, "three", disk=b"three")
    with pytest.raises(Refused, match="was changed since the snapshot that both nodes have"):
        sluice.receive(sluice.stream(send_command(f"{name}@three", base="@two")))
    assert [snap.name for snap in sluice.streams.snapshots(copy)] == ["one", "mine", "two", "changed"]


def test_a_snapshot_that_is_called_so_already_refuses_another_one(sluice: Sluice) -> None:
    """Of whatever it was taken, and before anything else is looked at."""
    name = sluice.make(disk=b"one")
    copy = sluice.receive(sluice.stream(send_command(f"{name}@one")))
    sluice.bench.zfs.snapshot([f"{copy}@two"])
    sluice.change(name, "two", disk=RANDOM)
    with pytest.raises(Refused, match=f"^dataset {copy}: exists already$"):
        sluice.receive(sluice.stream(send_command(f"{name}@two", base="@one")))
    assert sluice.files(copy) == {"disk": b"one"}
    sluice.bench.zfs.destroy_snapshots([f"{copy}@two"])
    sluice.receive(sluice.stream(send_command(f"{name}@two", base="@one")))
    assert sluice.guids(copy) == sluice.guids(name)


def test_what_is_no_stream_leaves_nothing(sluice: Sluice) -> None:
    for stream in (b"", b"{}"):
        with pytest.raises(CommandFailed):
            sluice.receive(stream)
        assert sluice.bench.zfs.get(sluice.bench.name("copy")) is None


# what a move asks for


def test_what_was_written_after_a_snapshot(sluice: Sluice) -> None:
    name = sluice.make(a=b"1")
    assert sluice.streams.written_since(name, "one") == 0
    sluice.bench.zfs.set(name, {"readonly": "on"})
    assert sluice.streams.written_since(name, "one") == 0
    sluice.bench.zfs.clear(name, ["readonly"])
    assert "readonly" not in sluice.bench.zfs.local(name)
    sluice.write(name, a=RANDOM)
    assert sluice.streams.written_since(name, "one") > 0
    with pytest.raises(Missing):
        sluice.streams.written_since(name, "never")


def test_properties_and_features_by_name(sluice: Sluice) -> None:
    name = sluice.make(a=b"1")
    assert sluice.streams.values(name, ("encryption", "no-such")) == {"encryption": "off"}
    assert sluice.streams.values(f"{name}@one", ("guid",)) == {"guid": sluice.guids(name)[0]}
    assert sluice.streams.features(name)["lz4_compress"] in ("active", "enabled")


def test_a_clone_is_sent_as_its_delta_and_is_a_clone_again(sluice: Sluice) -> None:
    image = sluice.make(a=RANDOM)
    there = sluice.receive(sluice.stream(send_command(f"{image}@one")), "image")
    clone = sluice.bench.name("clone")
    sluice.bench.zfs.clone(f"{image}@one", clone, {})
    sluice.change(clone, "two", b=b"new")
    stream = sluice.stream(send_command(f"{clone}@two", base=f"{image}@one"))
    assert len(stream) < len(RANDOM) // 2 or isinstance(sluice.streams, FakeStreams)
    sluice.file.write_bytes(stream)
    target = sluice.bench.name("moved")
    with sluice.file.open("rb") as file:
        sluice.streams.receive(receive_command(target, WITH, origin=f"{there}@one"), file.fileno(), seconds=60)
    found = sluice.bench.zfs.get(target)
    assert found is not None
    assert found.origin == f"{there}@one"
    assert sluice.files(target) == {"a": RANDOM, "b": b"new"}
    assert sluice.guids(target) == sluice.guids(clone)


def test_a_clone_half_received_is_gone_on_with(sluice: Sluice) -> None:
    """On the source, the origin that is nearest is found by its GUID: here both nodes are one pool, so each has a parent of its own."""
    parent, made = sluice.bench.make("source"), sluice.make(a=b"1")
    image, clone = f"{parent}/image", f"{parent}/clone"
    sluice.bench.zfs.rename(made, image)
    there = sluice.receive(sluice.stream(send_command(f"{image}@one")), "image")
    sluice.bench.zfs.clone(f"{image}@one", clone, {})
    sluice.change(clone, "two", b=RANDOM)
    stream = sluice.stream(send_command(f"{clone}@two", base=f"{image}@one", embedded=False))
    sluice.file.write_bytes(stream[: len(stream) // 2])
    target = sluice.bench.name("moved")
    with sluice.file.open("rb") as file, pytest.raises(CommandFailed, match="incomplete stream|partial"):
        sluice.streams.receive(receive_command(target, WITH, origin=f"{there}@one"), file.fileno(), seconds=60)
    token = sluice.streams.token(target)
    resumable = sluice.streams.resumable(token)
    assert resumable is not None
    assert [resumable.guid] == sluice.guids(clone)
    sluice.file.write_bytes(sluice.stream(send_command("", token=token)))
    with sluice.file.open("rb") as file:
        sluice.streams.receive(receive_command(target, WITH), file.fileno(), seconds=60)
    found = sluice.bench.zfs.get(target)
    assert found is not None
    assert found.origin == f"{there}@one"
    assert sluice.files(target) == {"a": b"1", "b": RANDOM}


def test_what_comes_after_needs_no_properties_and_keeps_those_that_there_are(sluice: Sluice) -> None:
    name = sluice.make(a=b"1")
    copy = sluice.receive(sluice.stream(send_command(f"{name}@one")))
    sluice.bench.zfs.hold(f"{copy}@one", "keep")
    sluice.change(name, "two", a=b"2")
    sluice.file.write_bytes(sluice.stream(send_command(f"{name}@two", base="@one")))
    with sluice.file.open("rb") as file:
        sluice.streams.receive(receive_command(copy, {}), file.fileno(), seconds=60)
    local = sluice.bench.zfs.local(copy)
    assert (local["readonly"], local["canmount"], local[CLUSTER]) == ("on", "noauto", "cluster.example.com")
    assert sluice.guids(copy) == sluice.guids(name)
    sluice.bench.zfs.release(f"{copy}@one", "keep")
