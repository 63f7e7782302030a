"""Clones that become independent, on the fake ZFS: nothing that was written meanwhile is lost, wherever it is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakeloop import FakeLoop
from tests.fakestreams import FakeStreams
from tests.killing import dies
from tests.node import Node, nodes_at
from zfsganeti.datasets import DETACH, INTENT, OLD, REMOVED
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

    def is_killed_before_the_exchange(self) -> None:
        """The copy is whole and marked, and nothing was renamed yet."""
        self.independent._copy(NAME)
        dataset = self.independent._must_be_idle(NAME)
        self.independent._unmount(dataset)
        self.independent._pass(dataset)
        self.independent._mark_copy(dataset)

    def is_killed_within_the_exchange(self) -> None:
        """The dataset was renamed, and its copy has not taken its place."""
        self.is_killed_before_the_exchange()
        self.node.fake.rename(NAME, f"zfs/vm/.copies/{DISK0}{OLD}")

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
    assert sorted(bench.node.datasets()) == sorted([DISK0, ".copies", ".images", ".images/.partial"])
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


def test_what_was_kept_for_an_undo_is_not_destroyed(bench: Bench) -> None:
    """A disk that was formatted or installed anew holds what it was in a snapshot of ours, which its copy lacks."""
    bench.node.fake.snapshot([f"{NAME}@{bench.node.fake.ours}{REMOVED}20231114T221320Z"])
    bench.independent.want(DISK0)
    bench.stop()
    assert bench.independent.work() == {DISK0: ""}
    (entry,) = bench.node.trash.entries()
    (kept,) = [name for name, _created, _used in bench.node.fake.snapshots(entry.dataset.name) if REMOVED in name]
    assert bench.node.fake.snapshot_files(kept)["disk.raw"].startswith(b"mine")


def test_an_operation_of_ganetis_is_not_disturbed(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.stop()
    bench.node.fake.set(NAME, {INTENT: "remove 1"})
    assert bench.independent.work()[DISK0].startswith(f"{DISK0}: an operation is at work on it (remove)")
    assert bench.origin()


def test_marks_of_the_last_moment_are_kept(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.independent.work()
    bench.volumes.set_instance(DISK0, "renamed")
    bench.stop()
    assert bench.independent.work() == {DISK0: ""}
    assert bench.node.marks(NAME)["org.zfsganeti:instance"] == "renamed"


def test_a_rest_that_was_cut_is_sent_again(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.independent.work()
    bench.write(b"late", MIB)
    bench.stop()
    bench.is_killed_before_the_exchange()
    bench.independent.work()
    content = bench.read()
    assert (content[:4], content[MIB : MIB + 4]) == (b"mine", b"late")
    assert bench.origin() == ""


def test_an_exchange_that_was_cut_is_done_by_the_next_attach_or_run(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.stop()
    bench.is_killed_within_the_exchange()
    assert bench.independent.begun() == [DISK0]
    assert bench.read().startswith(b"mine")
    bench.stop()
    bench.independent.work()
    assert (bench.origin(), bench.independent.begun()) == ("", [])


def test_what_was_made_in_the_place_of_a_cut_exchange_loses_nothing(bench: Bench) -> None:
    """Somebody has made the volume again, empty, before the exchange was finished: both stay."""
    bench.independent.want(DISK0)
    bench.stop()
    bench.is_killed_within_the_exchange()
    bench.node.fake.create(NAME, {}, bench.volumes.marks(DISK0))
    bench.independent.work()
    assert bench.independent.begun() == []
    (entry,) = bench.node.trash.entries()
    assert bench.node.fake.files(entry.dataset.name)["disk.raw"].startswith(b"mine")


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
    bench.is_killed_before_the_exchange()
    bench.volumes.attach(DISK0)
    bench.write(b"later")
    bench.stop()
    bench.independent.work()
    assert bench.read().startswith(b"later")
    assert bench.origin() == ""


def test_a_copy_of_what_was_removed_does_not_bring_it_back(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.stop()
    bench.is_killed_before_the_exchange()
    bench.volumes.remove(DISK0)
    with pytest.raises(Missing):
        bench.volumes.attach(DISK0)
    bench.independent.work()
    assert DISK0 not in bench.node.datasets()


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
def test_killed_anywhere_the_next_run_ends_it(tmp_path: Path, boot: bool) -> None:
    fresh = nodes_at(tmp_path)

    def another() -> Bench:
        bench = Bench(fresh())
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


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
def test_an_instance_of_files_is_whole_wherever_its_exchange_is_killed(tmp_path: Path, boot: bool) -> None:
    point, died = 0, True
    while died:
        point += 1
        place = tmp_path / f"node{point}"
        place.mkdir()
        bench = Bench(Node(place))
        node = bench.node
        bench.images.clone(bench.images.must("debian-12"), "zfs/vm/web2", node.store.marks("web2"))
        node.store.bring_home("web2")
        Path(node.home("web2"), "disk.raw").write_bytes(b"web2")
        bench.independent.want("web2")
        died = dies(node.fake.reaper, point, lambda bench=bench: bench.independent.work())  # type: ignore[misc]
        if boot:
            node.fake.boot()
        if point % 2:  # what the hook before a start does
            if node.store.find("web2") is None:
                bench.independent.finish("web2")
            node.store.bring_home("web2")
            assert node.reads("web2")["disk.raw"] == b"web2", f"lost at point {point}"
        bench.independent.work()
        node.store.bring_home("web2")
        assert node.reads("web2")["disk.raw"] == b"web2", f"lost at point {point}"
        dataset = node.fake.get("zfs/vm/web2")
        assert dataset is not None
        assert (dataset.origin, bench.independent.begun(), node.trash.entries()) == ("", [], [])
