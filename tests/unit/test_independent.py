"""Clones that become independent, on the fake ZFS: nothing that was written meanwhile is lost, wherever it is killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakeloop import FakeLoop
from tests.fakestreams import FakeStreams
from tests.killing import dies
from tests.node import Node
from zfsganeti.datasets import DETACH
from zfsganeti.errors import Busy, Missing, NoSpace
from zfsganeti.images import Images
from zfsganeti.independent import Independent
from zfsganeti.volumes import Volumes

MIB = 1 << 20
DISK0 = "0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c11.ext.disk0"
NAME = f"zfs/vm/{DISK0}"


class Bench:
    """A node with an image and a volume that is a clone of it."""

    def __init__(self, node: Node) -> None:
        self.node, self.loop = node, FakeLoop(node.fake.reaper)
        self.volumes, self.images = Volumes(node.store, self.loop), Images(node.store)
        self.independent = Independent(self.volumes, FakeStreams(node.fake))
        self.images.make("debian-12", "file:/x", self._fill)
        self.volumes.create(DISK0, 2 * MIB, {"image": "debian-12", "recordsize": 16384})
        self.volumes.set_instance(DISK0, "web1")
        self.write(b"mine")

    @staticmethod
    def _fill(home: str) -> dict[str, str]:
        Path(home, "disk.raw").write_bytes(b"golden".ljust(MIB, b"\0"))
        return {}

    def write(self, content: bytes, offset: int = 0) -> None:
        with open(self.volumes.disk(DISK0), "r+b") as disk:
            disk.seek(offset)
            disk.write(content)

    def read(self) -> bytes:
        self.volumes.attach(DISK0)
        return Path(self.volumes.disk(DISK0)).read_bytes()

    def stop(self) -> None:
        self.volumes.detach(DISK0)

    def origin(self) -> str:
        dataset = self.node.fake.get(NAME)
        assert dataset is not None
        return dataset.origin

    def state(self) -> dict[str, Any]:
        state = {name: dataset for name, dataset in self.node.fake.state().items() if not name.endswith(".copies")}
        for dataset in state.values():
            dataset["properties"] = {key: value for key, value in dataset["properties"].items() if (key, value) != ("canmount", "on")}
        return {"datasets": state, "paths": [path for path in self.node.paths() if path != ".copies"]}


@pytest.fixture
def bench(node: Node) -> Bench:
    return Bench(node)


def test_what_is_written_while_it_is_copied_is_not_lost(bench: Bench) -> None:
    assert bench.independent.want(DISK0)
    left = bench.independent.work()
    assert left == {DISK0: f"{DISK0}: is in use; all but the latest changes are copied: the rest follows when web1 is stopped"}
    bench.write(b"late", MIB)
    bench.stop()
    assert bench.independent.work() == {DISK0: ""}
    assert bench.origin() == ""
    content = bench.read()
    assert (content[:4], content[MIB : MIB + 4], len(content)) == (b"mine", b"late", 2 * MIB)
    assert bench.images.must("debian-12").clones == []
    assert bench.images.delete("debian-12", now=True)
    settings = bench.node.fake.state()[NAME]
    assert settings["properties"]["recordsize"] == "16384"
    assert DETACH not in settings["marks"]
    assert settings["snapshots"] == {}
    assert bench.node.datasets() == [DISK0, ".copies", ".images", ".images/.partial"] or DISK0 in bench.node.datasets()
    assert not bench.independent.want(DISK0)
    assert bench.independent.work() == {}


def test_snapshots_of_others_go_to_the_trash_with_what_was_replaced(bench: Bench) -> None:
    bench.node.fake.snapshot([f"{NAME}@autosnap_daily"])
    bench.independent.want(DISK0)
    bench.stop()
    bench.independent.work()
    assert bench.origin() == ""
    (entry,) = bench.node.trash.entries()
    assert any(name.endswith("@autosnap_daily") for name, _created, _used in bench.node.fake.snapshots(entry.dataset.name))


def test_a_half_made_copy_of_what_was_removed_goes(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.independent.work()
    bench.stop()
    bench.volumes.remove(DISK0)
    assert bench.node.datasets().count(f".copies/{DISK0}") == 1
    bench.independent.work()
    assert f".copies/{DISK0}" not in bench.node.datasets()


def test_an_instance_of_files_becomes_independent_too(bench: Bench) -> None:
    node = bench.node
    bench.images.clone(bench.images.must("debian-12"), "zfs/vm/web2", node.store.marks("web2"))
    node.store.bring_home("web2")
    bench.independent.want("web2")
    with open(f"{node.home('web2')}/disk.raw", "r+b") as disk:
        disk.write(b"web2")
        disk.flush()
        with pytest.raises(Busy):
            bench.independent.detach(bench.independent.wanted()[0])
    assert bench.independent.work() == {"web2": ""}
    assert node.reads("web2")["disk.raw"].startswith(b"web2")


def test_what_is_not_there_or_does_not_fit_is_refused(bench: Bench) -> None:
    with pytest.raises(Missing):
        bench.independent.want("nothing")
    bench.node.fake.foreign("zfs/vm/theirs")
    with pytest.raises(Missing):
        bench.independent.want("theirs")
    bench.independent.want(DISK0)
    bench.node.fake.available = 0
    with pytest.raises(NoSpace):
        bench.independent.detach(bench.independent.wanted()[0])


def test_a_copy_that_grew_old_never_replaces_what_was_written_since(bench: Bench) -> None:
    """Killed just before the exchange; the instance runs again, or is removed, before the next try."""
    bench.independent.want(DISK0)
    bench.stop()
    dataset = bench.independent.wanted()[0]
    bench.independent._copy(dataset)
    bench.independent._copy_rest(dataset)
    bench.independent._mark_copy(dataset)
    bench.volumes.attach(DISK0)
    bench.write(b"later")
    bench.stop()
    bench.independent.work()
    assert bench.read().startswith(b"later")
    assert bench.origin() == ""


def test_a_copy_of_what_was_removed_does_not_bring_it_back(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.stop()
    dataset = bench.independent.wanted()[0]
    bench.independent._copy(dataset)
    bench.independent._copy_rest(dataset)
    bench.independent._mark_copy(dataset)
    bench.volumes.remove(DISK0)
    with pytest.raises(Missing):
        bench.volumes.attach(DISK0)
    bench.independent.work()
    assert DISK0 not in bench.node.datasets()


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
def test_killed_anywhere_the_next_run_ends_it(tmp_path: Path, boot: bool) -> None:
    count = 0

    def another() -> Bench:
        nonlocal count
        if count:
            os.rename(tmp_path / "node", tmp_path / f"before{count}")
        count += 1
        (tmp_path / "node").mkdir()
        bench = Bench(Node(tmp_path / "node"))
        bench.independent.want(DISK0)
        bench.stop()
        return bench

    bench = another()
    bench.independent.work()
    goal = bench.state()
    point, died = 0, True
    while died:
        point += 1
        bench = another()
        died = dies(bench.node.fake.reaper, point, lambda bench=bench: bench.independent.work())  # type: ignore[misc]
        if boot:
            bench.node.fake.boot()
            bench.node.fake.unmount(bench.volumes.home(DISK0))
        if point % 2:
            assert bench.read().startswith(b"mine"), f"lost at point {point}"  # attach takes the copy when the place is empty
            bench.stop()
        bench.independent.work()
        bench.node.fake.unmount(bench.volumes.home(DISK0))
        after = bench.state()
        for state in (goal, after):
            state["datasets"][NAME]["mounted"] = []
            state["paths"] = [path for path in state["paths"] if not path.startswith(DISK0)]
        assert after["paths"] == goal["paths"], point
        assert sorted(after["datasets"]) == sorted(goal["datasets"]), point
        for name, dataset in goal["datasets"].items():
            assert after["datasets"][name] == dataset, (point, name)
