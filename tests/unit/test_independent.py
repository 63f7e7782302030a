"""Clones that become independent, on the fake ZFS: nothing that was written meanwhile is lost, wherever it is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deaths.copies import DISK0, MIB, NAME, Bench, work
from tests.deaths.operation import comparable
from tests.killing import dies
from tests.node import Node, nodes_at
from zfsganeti.datasets import DETACH, INTENT, REMOVED
from zfsganeti.errors import Busy, Missing, NoSpace


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
    assert entry.size == 2 * MIB


@pytest.mark.parametrize("removed", [False, True])
def test_snapshots_that_others_take_of_a_copy_are_in_nobodys_way(bench: Bench, removed: bool) -> None:
    bench.independent.want(DISK0)
    bench.independent.work()
    bench.node.fake.snapshot([f"zfs/vm/.copies/{DISK0}@autosnap_daily"])
    bench.write(b"late", MIB)
    bench.stop()
    if removed:
        bench.volumes.remove(DISK0)
    assert bench.independent.work() == ({} if removed else {DISK0: ""})
    assert bench.independent.begun() == []
    assert removed or (bench.origin(), bench.read()[MIB : MIB + 4]) == ("", b"late")


def test_a_copy_that_others_have_taken_a_snapshot_of_can_begin_anew(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.independent.work()
    bench.node.fake.snapshot([f"zfs/vm/.copies/{DISK0}@autosnap_daily"])
    bench.node.fake.destroy_snapshots([name for name, _created, _used in bench.node.fake.snapshots(NAME, depth=1)])
    bench.stop()
    assert bench.independent.work() == {DISK0: ""}
    assert bench.origin() == ""


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


def elsewhere(bench: Bench) -> list[str]:
    return [path for path in bench.node.paths() if path != ".copies" and not path.startswith(DISK0)]


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
def test_killed_anywhere_the_next_run_ends_it(tmp_path: Path, boot: bool) -> None:
    fresh = nodes_at(tmp_path)

    def another() -> Bench:
        bench = Bench(fresh())
        bench.independent.want(DISK0)
        bench.stop()
        return bench

    bench = another()
    work(bench)
    goal, paths = comparable(bench.node, places=False), elsewhere(bench)
    point, died = 0, True
    while died:
        point += 1
        bench = another()
        died = dies(bench.node.fake.reaper, point, lambda bench=bench: bench.independent.work())  # type: ignore[misc]
        if boot:
            bench.node.boot()
            bench.node.fake.unmount(bench.volumes.home(DISK0))
        if point % 2:
            assert bench.read().startswith(b"mine"), f"lost at point {point}"  # attach takes the copy when the place is empty
            bench.stop()
        work(bench)
        assert (comparable(bench.node, places=False), elsewhere(bench)) == (goal, paths), point


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
