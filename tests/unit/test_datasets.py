"""Instance datasets through Ganeti's operations, on the fake ZFS with real files."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakezfs import unguard
from tests.node import CLUSTER_NAME, Node
from zfsganeti.config import Config
from zfsganeti.datasets import (
    CLUSTER,
    INSTANCE,
    INTENT,
    RECORD,
    RECORD_LIMIT,
    RESTORING,
    Store,
    locked,
    pack_record,
    parse_intent,
    unpack_record,
)
from zfsganeti.errors import BadInput, BadName, Busy, Foreign, Missing, NoSpace, Refused, Unavailable
from zfsganeti.files import copy_sparse, plain_files
from zfsganeti.roots import find_root, guard, is_guarded

quick = settings(max_examples=100, deadline=None, derandomize=True)
GIB = 1 << 30
OURS = {INSTANCE: "web1", CLUSTER: CLUSTER_NAME}

# the root


def test_the_root_is_the_dataset_mounted_at_the_storage_directory(node: Node) -> None:
    root = find_root(node.fake, node.root.path, Config())
    assert (root.name, root.path) == ("zfs/vm", node.root.path)


def test_a_root_that_is_not_mounted_is_mounted(node: Node) -> None:
    node.fake.unmount(node.root.path)
    assert find_root(node.fake, node.root.path, Config()).name == "zfs/vm"
    assert node.fake.mounted_at(node.root.path) == "zfs/vm"


def test_a_cluster_without_a_storage_directory_has_no_root(node: Node) -> None:
    with pytest.raises(Missing) as caught:
        find_root(node.fake, "", Config())
    assert str(caught.value) == "a file storage directory of this cluster does not exist: gnt-zfs setup ROOT makes one"


def test_a_directory_without_a_dataset_has_no_root(node: Node) -> None:
    os.mkdir(f"{node.place}/plain")
    with pytest.raises(Missing) as caught:
        find_root(node.fake, f"{node.place}/plain", Config())
    assert str(caught.value) == f"a dataset mounted at {node.place}/plain does not exist: gnt-zfs setup ROOT makes one"


def test_a_configured_root_that_is_not_there_is_unavailable(node: Node) -> None:
    os.mkdir(f"{node.place}/plain")
    with pytest.raises(Unavailable) as caught:
        find_root(node.fake, f"{node.place}/plain", Config(root="tank/vm"))
    assert str(caught.value) == (
        f"{node.place}/plain: the root dataset is not there: its pool is not imported: zpool import, then zfs mount -a"
    )
    with pytest.raises(Unavailable) as caught:
        find_root(node.fake, f"{node.place}/plain", Config(root=node.root.name))
    assert str(caught.value) == (
        f"root {node.root.name}: is not mounted at {node.place}/plain: gnt-zfs setup mounts it, or correct the configuration file"
    )


@pytest.fixture
def guarded(node: Node) -> Iterator[str]:
    """The root's directory as setup left it, while its dataset is not there."""
    directory = f"{node.place}/guarded"
    guard(directory)
    yield directory
    unguard(directory)


def test_a_guarded_directory_without_its_dataset_is_unavailable(node: Node, guarded: str) -> None:
    """Only where the file system of the test's directory knows the flag, and as root; else it is as any other directory."""
    with pytest.raises(Unavailable if is_guarded(guarded) else Missing) as caught:
        find_root(node.fake, guarded, Config())
    said = {
        Unavailable: f"{guarded}: the root dataset is not there: its pool is not imported: zpool import, then zfs mount -a",
        Missing: f"a dataset mounted at {guarded} does not exist: gnt-zfs setup ROOT makes one",
    }
    assert str(caught.value) == said[type(caught.value)]


def test_another_root_than_the_configured_one_is_unavailable(node: Node) -> None:
    with pytest.raises(Unavailable) as caught:
        find_root(node.fake, node.root.path, Config(root="tank/vm"))
    assert str(caught.value) == f"{node.root.path}: dataset zfs/vm is mounted there, the configuration says tank/vm"


def test_two_datasets_meant_for_the_directory_are_told(node: Node) -> None:
    node.fake.unmount(node.root.path)
    node.fake.foreign("zfs/old", mountpoint=node.root.path)
    with pytest.raises(Unavailable) as caught:
        find_root(node.fake, node.root.path, Config())
    assert str(caught.value) == (
        f"{node.root.path}: several datasets have it as mountpoint: zfs/old, zfs/vm: set root in the configuration file"
    )
    assert find_root(node.fake, node.root.path, Config(root="zfs/vm")).name == "zfs/vm"


# before an operation


def test_an_instance_gets_a_dataset_of_its_own_at_home(node: Node) -> None:
    node.store.admit("web1", [GIB])
    assert node.marks("zfs/vm/web1") == OURS
    assert node.fake.mounted_at(node.home("web1")) == "zfs/vm/web1"
    assert os.stat(node.home("web1")).st_mode & 0o777 == 0o750
    assert node.paths() == ["web1"]


def test_again_is_fine_and_keeps_the_files(node: Node) -> None:
    node.has("web1", disk0=b"data")
    node.store.admit("web1", [GIB])
    node.store.admit("web1", [])
    assert node.reads("web1") == {"disk0": b"data"}


def test_a_dry_run_makes_nothing(node: Node) -> None:
    before = node.whole_state()
    node.store.admit("web1", [GIB], create=False)
    assert node.whole_state() == before


def test_recreating_disks_needs_no_room_and_brings_home(node: Node) -> None:
    node.has("web1", disk0=b"data")
    node.put_aside("web1", "remove")
    node.fake.available = 0
    node.store.admit("web1", [])
    assert node.fake.mounted_at(node.home("web1")) == "zfs/vm/web1"
    assert node.marks("zfs/vm/web1") == OURS


VETOES = {
    "foreign": "dataset zfs/vm/web1: was not made by zfsganeti: rename it or choose another instance name",
    "other instance": "dataset zfs/vm/web1: belongs to db1 of cluster.example.com: rename it or choose another instance name",
    "other cluster": "dataset zfs/vm/web1: belongs to web1 of other.example.com: rename it or choose another instance name",
    "no cluster": "dataset zfs/vm/web1: belongs to web1 of no cluster: rename it or choose another instance name",
    "files": "{home}: is in the way and not empty: move it away",
    "file": "{home}: is in the way and not empty: move it away",
    "link": "{home}: is in the way and not empty: move it away",
    "faulted": "pool zfs: is FAULTED: zpool status zfs",
    "degraded": "pool zfs: is DEGRADED: zpool status zfs",
    "space": "web1 on zfs/vm: 2.00G asked for, 1.00G available: gnt-zfs trash empty may make room",
}


def in_the_way(node: Node, what: str) -> None:
    marks = {"foreign": {}, "other instance": {**OURS, INSTANCE: "db1"}, "other cluster": {**OURS, CLUSTER: "other.example.com"}}
    marks["no cluster"] = {INSTANCE: "web1"}
    if what in marks:
        node.fake.foreign("zfs/vm/web1", marks[what])
    elif what == "files":
        node.ganeti_writes("web1", disk0=b"plain")
    elif what == "file":
        Path(node.home("web1")).write_bytes(b"")
    elif what == "link":
        os.symlink(node.place, node.home("web1"))
    elif what in ("faulted", "degraded"):
        node.fake.health = what.upper()
    else:
        node.fake.available = GIB


@pytest.mark.parametrize("what", VETOES)
def test_what_is_in_the_way_of_an_add_is_named_and_nothing_is_changed(node: Node, what: str) -> None:
    in_the_way(node, what)
    before = node.whole_state()
    with pytest.raises((Foreign, Unavailable, NoSpace)) as caught:
        node.store.admit("web1", [GIB, GIB])
    assert str(caught.value) == VETOES[what].format(home=node.home("web1"))
    assert node.whole_state() == before


def test_a_degraded_pool_can_be_allowed(tmp_path: Path) -> None:
    node = Node(tmp_path, allow_degraded=1)
    node.fake.health = "DEGRADED"
    node.store.admit("web1", [GIB])
    assert node.claims() == ["web1"]


def test_an_empty_directory_is_not_in_the_way(node: Node) -> None:
    os.mkdir(node.home("web1"))
    node.store.admit("web1", [GIB])
    assert node.fake.mounted_at(node.home("web1")) == "zfs/vm/web1"


def test_links_left_by_an_unfinished_removal_are_not_in_the_way(node: Node) -> None:
    os.mkdir(node.home("web1"))
    os.symlink(f"{node.aside('web1')}/disk0", f"{node.home('web1')}/disk0")
    node.store.admit("web1", [GIB])
    assert node.reads("web1") == {}


def test_a_restore_needs_no_room_since_the_data_is_there_already(node: Node) -> None:
    node.has("web1", disk0=b"data")
    entry = node.trash.put("web1")
    assert entry is not None
    node.trash.mark_restoring(entry, "web1")
    node.fake.available = 0
    node.store.admit("web1", [GIB])
    assert "web1" in node.datasets()
    with pytest.raises(NoSpace):
        node.store.admit("web2", [GIB])


LEFT = {"file": "disk0", "unmounted file": "disk0", "aside": "disk0", "snapshot": "autosnap"}


def leave(node: Node, what: str) -> None:
    node.has("web1", **({} if what == "snapshot" else {"disk1": b"x", "disk0": b"x"}))
    if what == "snapshot":
        node.fake.snapshot(["zfs/vm/web1@autosnap"])
    elif what == "unmounted file":
        node.fake.unmount(node.home("web1"))
    elif what == "aside":
        node.put_aside("web1", "rename web2")
        node.ganeti_renames("web1", "web2")


@pytest.mark.parametrize("what", LEFT)
def test_a_new_instance_never_finds_what_another_left_and_changes_nothing_of_it(node: Node, what: str) -> None:
    leave(node, what)
    before = node.whole_state()
    for create in (True, False):
        with pytest.raises(Foreign) as caught:
            node.store.admit("web1", [GIB], create=create, fresh=True)
        assert str(caught.value) == (
            f"dataset zfs/vm/web1: holds {LEFT[what]} of an instance that is gone: gnt-zfs check --repair puts it into the trash"
        )
    after = node.whole_state()
    after["paths"] = [path for path in after["paths"] if path != ".aside" or path in before["paths"]]
    assert after == before


def test_a_new_instance_takes_over_an_empty_leftover(node: Node) -> None:
    node.store.admit("web1", [GIB], fresh=True)
    node.fake.unmount(node.home("web1"))
    node.store.admit("web1", [GIB], fresh=True)
    assert node.fake.mounted_at(node.home("web1")) == "zfs/vm/web1"


def test_a_new_instance_takes_no_plain_files_for_its_own(node: Node) -> None:
    node.store.admit("web1", [GIB], fresh=True)
    node.fake.unmount(node.home("web1"))
    node.ganeti_writes("web1", disk0=b"plain")
    with pytest.raises(Foreign) as caught:
        node.store.admit("web1", [GIB], fresh=True)
    assert str(caught.value) == f"{node.home('web1')}: is in the way and not empty: move it away"


@pytest.mark.parametrize("name", [".trash", "..", "a/b", "Web1", ""])
def test_no_other_name_reaches_zfs(node: Node, name: str) -> None:
    before = node.whole_state()
    store = node.store
    for attempt in (lambda name: store.admit(name, []), store.find, store.bring_home, store.sweep, store.absorb, node.trash.put):
        with pytest.raises(BadName):
            attempt(name)
    assert node.whole_state() == before


def test_only_what_is_ours_is_listed(node: Node) -> None:
    node.has("web1")
    node.has("web2")
    node.fake.foreign("zfs/vm/iso")
    node.fake.foreign("zfs/vm/theirs", {**OURS, CLUSTER: "other.example.com"})
    node.fake.foreign("zfs/vm/web1/child", OURS)
    assert node.claims() == ["web1", "web2"]


# aside and home


def test_aside_the_files_are_links_that_ganeti_can_remove(node: Node) -> None:
    node.has("web1", disk0=b"zero", disk1=b"one")
    assert node.put_aside("web1", "remove", {"name": "web1"})
    assert node.reads("web1") == {"disk0": b"zero", "disk1": b"one"}
    assert node.marks("zfs/vm/web1") == {**OURS, INTENT: f"remove {node.fake.clock}", RECORD: '{"name":"web1"}'}
    assert node.fake.mounted_at(node.home("web1")) is None
    assert node.fake.mounted_at(node.aside("web1")) == "zfs/vm/web1"
    node.ganeti_removes("web1")
    assert node.fake.files("zfs/vm/web1") == {"disk0": b"zero", "disk1": b"one"}


def test_what_was_put_aside_comes_home_with_but_a_snapshot_more(node: Node) -> None:
    node.has("web1", disk0=b"data")
    node.store.keep_disks("web1")
    before = node.whole_state()
    for _again in range(2):
        node.put_aside("web1", "remove", {"name": "web1"})
        node.put_aside("web1", "remove")
        node.store.bring_home("web1")
        node.store.bring_home("web1")
        after = node.whole_state()
        after["paths"].remove(".aside")
        assert after == before


def test_only_disks_are_linked_and_stale_links_are_not_left(node: Node) -> None:
    node.has("web1", disk0=b"data", note=b"the administrator's")
    for disks in (["disk0", "disk1"], ["disk0"]):
        assert node.store.put_aside("web1", "remove", disks)
        assert os.listdir(node.home("web1")) == ["disk0"]
    node.ganeti_removes("web1")
    assert node.fake.files("zfs/vm/web1") == {"disk0": b"data", "note": b"the administrator's"}


def test_what_ganeti_may_unlink_is_in_a_snapshot_first(node: Node) -> None:
    node.has("web1", disk0=b"data")
    node.put_aside("web1", "remove")
    ((name, _created, _used),) = node.fake.snapshots("zfs/vm/web1")
    assert name.startswith("zfs/vm/web1@zfsganeti-removed-")
    assert node.fake.snapshot_files(name) == {"disk0": b"data"}
    node.fake.clock += node.config.trash_days * 86400 - 1
    node.store.forget_disks()
    assert len(node.fake.snapshots("zfs/vm/web1")) == 1
    node.fake.snapshot(["zfs/vm/web1@autosnap"])
    node.fake.clock += 1
    node.store.forget_disks()
    assert [name for name, _created, _used in node.fake.snapshots("zfs/vm/web1")] == ["zfs/vm/web1@autosnap"]


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("jump", [3650 * 86400, -3650 * 86400])
def test_what_ganeti_has_unlinked_is_kept_by_a_clock_that_jumps(node: Node, jump: int, seen: bool) -> None:
    """A clock that is ahead jumps before it is looked at, one that was behind when it is set right."""
    node.has("web1", disk0=b"data")
    node.trash.give_up()
    if jump < 0:
        node.fake.clock += jump
    node.put_aside("web1", "remove")
    if seen:
        node.trash.give_up()
    node.fake.clock += abs(jump)
    for _day in range(node.config.trash_days):
        node.trash.give_up()
        node.store.forget_disks()
        assert len(node.fake.snapshots("zfs/vm/web1")) == 1
        node.fake.clock += 86400
    node.trash.give_up()
    node.store.forget_disks()
    assert node.fake.snapshots("zfs/vm/web1") == []


OF_OTHERS = {"a copy by other tools": {}, "another cluster's": {INSTANCE: "web1", CLUSTER: "other.example.com"}}


@pytest.mark.parametrize("place", ["zfs/vm/web2", "zfs/vm/backup/web1"])
@pytest.mark.parametrize("whose", OF_OTHERS)
def test_snapshots_named_like_ours_stay_in_datasets_that_are_not(node: Node, place: str, whose: str) -> None:
    node.fake.foreign("zfs/vm/backup")
    node.fake.foreign(place, OF_OTHERS[whose])
    names = [f"{place}@zfsganeti-{kind}-20231101T000000Z" for kind in ("removed", "save")]
    node.fake.snapshot(names[:1])
    node.fake.snapshot(names[1:])
    node.fake.clock += 30 * 86400
    node.store.forget_disks()
    assert [name for name, _created, _used in node.fake.snapshots(place)] == names


# what was not ours


def test_what_other_hooks_made_is_claimed_by_the_disks_in_it(node: Node) -> None:
    node.fake.foreign("zfs/vm/web1")
    node.fake.mount("zfs/vm/web1", node.home("web1"))
    node.ganeti_writes("web1", disk0=b"data")
    before = node.whole_state()
    for files in (["disk0", "disk1"], []):
        with pytest.raises(Foreign):
            node.store.claim("web1", files)
    assert node.whole_state() == before
    node.store.claim("web1", ["disk0"])
    assert node.marks("zfs/vm/web1") == OURS
    assert node.reads("web1") == {"disk0": b"data"}


def test_nothing_is_claimed_that_is_not_mounted_at_home(node: Node) -> None:
    node.fake.foreign("zfs/vm/web1")
    node.ganeti_writes("web1", disk0=b"data")
    with pytest.raises(Foreign):
        node.store.claim("web1", ["disk0"])
    with pytest.raises(Missing):
        node.store.claim("web2", ["disk0"])


def test_a_disk_written_while_aside_is_written(node: Node) -> None:
    node.has("web1", disk0=b"old")
    with open(f"{node.home('web1')}/disk0", "r+b") as running, node.fake.held_open("zfs/vm/web1", "process kvm (7)"):
        node.put_aside("web1", "remove")
        running.write(b"new")
    node.store.bring_home("web1")
    assert node.reads("web1") == {"disk0": b"new"}


def test_an_instance_without_a_dataset_is_not_put_aside(node: Node) -> None:
    node.ganeti_writes("web1", disk0=b"plain")
    assert not node.put_aside("web1", "remove")
    assert node.reads("web1") == {"disk0": b"plain"}


def test_a_foreign_dataset_is_neither_put_aside_nor_brought_home(node: Node) -> None:
    node.fake.foreign("zfs/vm/web1")
    before = node.whole_state()
    with pytest.raises(Foreign):
        node.put_aside("web1", "remove")
    with pytest.raises(Foreign):
        node.store.bring_home("web1")
    with pytest.raises(Foreign):
        node.store.sweep("web1")
    assert node.whole_state() == before


def test_what_does_not_exist_cannot_come_home(node: Node) -> None:
    with pytest.raises(Missing) as caught:
        node.store.bring_home("web1")
    assert str(caught.value) == "dataset zfs/vm/web1 does not exist"


def test_after_a_boot_in_the_middle_it_comes_home(node: Node) -> None:
    node.has("web1", disk0=b"data")
    node.put_aside("web1", "remove")
    node.fake.boot()
    assert node.fake.mounted_at(node.home("web1")) == "zfs/vm/web1"
    node.store.bring_home("web1")
    assert node.reads("web1") == {"disk0": b"data"}
    assert node.marks("zfs/vm/web1") == OURS


def test_after_a_boot_in_the_middle_of_a_removal_it_can_still_be_removed(node: Node) -> None:
    node.has("web1", disk0=b"data")
    node.put_aside("web1", "remove")
    node.fake.boot()
    node.put_aside("web1", "remove")
    node.ganeti_removes("web1")
    entry = node.trash.discard("web1")
    assert node.fake.files(f"zfs/vm/.trash/{entry}") == {"disk0": b"data"}


def test_files_in_the_way_home_move_into_the_dataset(node: Node) -> None:
    """A node that could not mount at boot, and an instance whose disks were recreated meanwhile."""
    node.has("web1")
    node.fake.unmount(node.home("web1"))
    node.ganeti_writes("web1", disk0=b"plain")
    node.store.bring_home("web1")
    assert node.reads("web1") == {"disk0": b"plain"}
    assert node.fake.files("zfs/vm/web1") == {"disk0": b"plain"}


def test_two_files_of_one_name_are_never_guessed_at(node: Node) -> None:
    node.has("web1", disk0=b"old")
    node.fake.unmount(node.home("web1"))
    node.ganeti_writes("web1", disk0=b"new")
    for _again in range(2):
        with pytest.raises(Foreign) as caught:
            node.store.bring_home("web1")
        assert str(caught.value) == (
            f"{node.home('web1')}: disk0 is there and in dataset zfs/vm/web1 as well: compare them and move one away"
        )
    assert node.reads("web1") == {"disk0": b"new"}
    assert node.fake.files("zfs/vm/web1") == {"disk0": b"old"}


# absorb


def test_another_dataset_that_is_mounted_at_home_keeps_its_files(node: Node) -> None:
    """A boot mounts what bears that place as its own, and its files are no plain files of the instance."""
    node.has("web1", disk0=b"zero")
    node.has("web2", other0=b"other")
    for name in ("web1", "web2"):
        node.fake.unmount(node.home(name))
    node.fake.mount("zfs/vm/web2", node.home("web1"))
    before = node.fake.state()
    for attempt in (node.store.bring_home, node.store.absorb):
        with pytest.raises(Foreign, match=f"dataset zfs/vm/web2 is mounted there, not zfs/vm/web1: umount {node.home('web1')}"):
            attempt("web1")
    assert node.fake.state() == before


def test_plain_files_get_a_dataset(node: Node) -> None:
    node.ganeti_writes("web1", disk0=b"zero", disk1=b"one")
    node.store.absorb("web1")
    assert node.fake.files("zfs/vm/web1") == {"disk0": b"zero", "disk1": b"one"}
    assert node.reads("web1") == {"disk0": b"zero", "disk1": b"one"}
    assert node.marks("zfs/vm/web1") == OURS


def test_absorbing_what_is_in_order_changes_nothing(node: Node) -> None:
    node.has("web1", disk0=b"data")
    before = node.whole_state()
    node.store.absorb("web1")
    assert node.whole_state() == before


def test_a_hook_does_not_copy_what_takes_too_long(node: Node) -> None:
    node.ganeti_writes("web1", disk0=b"x" * 100_000)
    with pytest.raises(Refused) as caught:
        node.store.absorb("web1", 50_000)
    assert str(caught.value) == (
        f"{node.home('web1')}: holds 100K of plain files where the dataset belongs: gnt-zfs check --repair moves them in"
    )
    assert node.reads("web1") == {"disk0": b"x" * 100_000}
    node.store.absorb("web1", None)
    assert node.fake.files("zfs/vm/web1") == {"disk0": b"x" * 100_000}


def test_what_is_moved_in_leaves_the_guests_of_the_pool_their_room(node: Node) -> None:
    node.ganeti_writes("web1", disk0=os.urandom(1 << 20))
    node.fake.available = 1 << 19
    with pytest.raises(NoSpace, match="plain files of web1 on zfs/vm"):
        node.store.absorb("web1", None)
    assert node.reads("web1").keys() == {"disk0"}
    node.fake.available = 1 << 30
    node.store.absorb("web1", None)
    assert node.reads("web1").keys() == {"disk0"}
    assert node.fake.files("zfs/vm/web1").keys() == {"disk0"}


def test_there_is_nothing_to_absorb_without_a_directory(node: Node) -> None:
    with pytest.raises(Missing) as caught:
        node.store.absorb("web1")
    assert str(caught.value) == f"{node.home('web1')} does not exist"
    assert node.datasets() == []


@quick
@given(st.lists(st.tuples(st.integers(0, 64), st.booleans()), max_size=5), st.integers(0, 4096))
def test_a_sparse_copy_has_the_same_bytes_and_no_more_blocks(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, bool]], tail: int
) -> None:
    place = tmp_path_factory.mktemp("sparse")
    source, target = place / "source", place / "target"
    dice = random.Random(len(parts))
    with open(source, "wb") as file:
        for pages, written in parts:
            if written:
                file.write(dice.randbytes(pages << 12))
            else:
                file.seek(pages << 12, os.SEEK_CUR)
        file.truncate(file.tell() + tail)
    os.chmod(source, 0o640)
    copy_sparse(str(source), str(target))
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks
    assert target.stat().st_mode == source.stat().st_mode
    assert sorted(os.listdir(place)) == ["source", "target"]


def test_only_regular_files_are_plain(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert plain_files(str(tmp_path)) == ["a", "b"]
    assert plain_files(str(tmp_path / "none")) == []
    assert plain_files(str(tmp_path / "a")) == []


# rename


def test_a_renamed_instance_has_its_files_under_the_new_name(node: Node) -> None:
    node.has("old", disk0=b"data")
    node.store.refuse_taken("new")
    node.put_aside("old", "rename new")
    node.ganeti_renames("old", "new")
    for _again in range(2):
        node.store.finish_rename("old", "new")
        assert node.reads("new") == {"disk0": b"data"}
        assert node.datasets() == ["new"]
        assert node.marks("zfs/vm/new") == {**OURS, INSTANCE: "new"}
        assert node.paths() == [".aside", "new", "new/disk0"]


def test_a_rename_of_a_plain_instance_is_none_of_our_business(node: Node) -> None:
    node.ganeti_writes("new", disk0=b"plain")
    before = node.whole_state()
    node.store.finish_rename("old", "new")
    assert node.whole_state() == before


def test_a_name_that_is_taken_is_refused_beforehand(node: Node) -> None:
    node.has("new")
    with pytest.raises(Foreign) as caught:
        node.store.refuse_taken("new")
    assert str(caught.value) == "dataset zfs/vm/new: exists already: gnt-zfs check says whose it is"
    node.ganeti_writes("plain", disk0=b"x")
    with pytest.raises(Foreign):
        node.store.refuse_taken("plain")
    node.store.refuse_taken("free")


@pytest.mark.parametrize(
    "marks", [{}, {CLUSTER: CLUSTER_NAME}, {INSTANCE: "new"}, {INSTANCE: "new", CLUSTER: "other.example.com"}, {**OURS, INSTANCE: "third"}]
)
def test_a_rename_never_takes_over_a_strangers_dataset(node: Node, marks: dict[str, str]) -> None:
    node.has("old", disk0=b"data")
    node.put_aside("old", "rename new")
    node.ganeti_renames("old", "new")
    node.fake.foreign("zfs/vm/new", marks)
    before = node.whole_state()
    with pytest.raises(Foreign) as caught:
        node.store.finish_rename("old", "new")
    assert str(caught.value) == "dataset zfs/vm/new: stands where the renamed instance's dataset belongs: rename it"
    assert node.whole_state() == before


# snapshots before disks go, and leftovers


def test_disks_that_ganeti_is_about_to_unlink_are_kept_in_a_snapshot(node: Node) -> None:
    node.has("web1", disk0=b"zero", disk1=b"one")
    for _again in range(2):
        assert node.store.keep_disks("web1") == "zfs/vm/web1@zfsganeti-removed-20231114T221320Z"
    os.unlink(f"{node.home('web1')}/disk1")
    assert node.fake.snapshot_files("zfs/vm/web1@zfsganeti-removed-20231114T221320Z") == {"disk0": b"zero", "disk1": b"one"}
    with pytest.raises(Missing):
        node.store.keep_disks("web2")


def test_an_empty_leftover_is_swept(node: Node) -> None:
    node.has("web1")
    for _again in range(2):
        node.store.sweep("web1")
        assert node.datasets() == []
        assert node.paths() in ([], [".aside"])


def test_an_unmounted_leftover_is_looked_into_before_it_is_swept(node: Node) -> None:
    node.has("web1")
    node.has("web2", disk0=b"data")
    for name in ("web1", "web2"):
        node.fake.unmount(node.home(name))
    node.store.sweep("web1")
    with pytest.raises(Refused) as caught:
        node.store.sweep("web2")
    assert str(caught.value) == "dataset zfs/vm/web2: is not empty"
    assert node.datasets() == ["web2"]
    assert node.fake.files("zfs/vm/web2") == {"disk0": b"data"}
    assert node.fake.mounted_at(node.aside("web2")) is None


@pytest.mark.parametrize("snapshot", ["zfsganeti-removed-1", "autosnap"])
def test_a_leftover_with_a_snapshot_is_not_swept(node: Node, snapshot: str) -> None:
    node.has("web1")
    node.fake.snapshot([f"zfs/vm/web1@{snapshot}"])
    with pytest.raises(Refused):
        node.store.sweep("web1")
    assert node.datasets() == ["web1"]


def test_a_leftover_in_use_is_not_swept(node: Node) -> None:
    node.has("web1")
    with node.fake.held_open("zfs/vm/web1", "process bash (9)"), pytest.raises(Busy) as caught:
        node.store.sweep("web1")
    assert "process bash (9)" in str(caught.value)
    assert node.claims() == ["web1"]


# records, intents, locks

records = st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=30)), max_size=8)


@quick
@given(records)
def test_a_record_comes_back_as_it_was_packed(record: dict[str, object]) -> None:
    packed = pack_record(record)
    assert unpack_record(packed) == record
    assert packed.isprintable()
    assert "\t" not in packed


@pytest.mark.parametrize("length", [RECORD_LIMIT - 40, RECORD_LIMIT, 100_000])
def test_a_long_record_is_compressed_and_fits(length: int) -> None:
    record = {"name": "web1", "os": "x" * length}
    packed = pack_record(record)
    assert len(packed.encode()) <= RECORD_LIMIT
    assert packed.startswith("z:") == (length >= RECORD_LIMIT)
    assert unpack_record(packed) == record


def test_a_record_that_does_not_fit_is_refused() -> None:
    noise = random.Random(1).randbytes(20_000).hex()
    with pytest.raises(Refused) as caught:
        pack_record({"name": "web1", "noise": noise})
    assert str(caught.value) == (
        "instance web1: its settings are too long to be kept with its dataset: "
        "gnt-instance modify web1 with shorter OS parameters or hypervisor parameters first"
    )


@quick
@given(st.one_of(st.text(), st.text(max_size=20).map(lambda text: f"z:{text}")))
def test_a_property_that_holds_no_record_is_none(value: str) -> None:
    assert unpack_record(value) is None or isinstance(unpack_record(value), dict)


@pytest.mark.parametrize("value", ["", "z:", "z:AAAA", "z:\x80", "{", "[]", "7", "null", "z:eNqLVgIAALkAeg=="])
def test_garbage_is_no_record(value: str) -> None:
    assert unpack_record(value) is None


def test_intents_are_read_back() -> None:
    assert parse_intent("remove 17") == ("remove", "", 17)
    assert parse_intent("rename web2 17") == ("rename", "web2", 17)
    for value in ("", "remove", "remove now", "rename a b 17", "17"):
        with pytest.raises(BadInput, match="is not understood"):
            parse_intent(value)


def test_what_the_store_writes_as_intent_is_understood(node: Node) -> None:
    node.has("web1")
    node.put_aside("web1", "rename web2")
    assert parse_intent(node.marks("zfs/vm/web1")[INTENT]) == ("rename", "web2", node.fake.clock)


def test_only_one_works_on_an_instance(tmp_path: Path) -> None:
    with locked("web1", directory=str(tmp_path)):
        with pytest.raises(Unavailable) as caught, locked("web1", seconds=0, directory=str(tmp_path)):
            pytest.fail("two at once")
        assert str(caught.value) == "instance web1: another operation of ours is at work on it"
        with locked("web2", seconds=0, directory=str(tmp_path)):
            pass
    with locked("web1", seconds=0, directory=str(tmp_path)):
        pass


def test_a_lock_is_not_inherited_by_programs(tmp_path: Path) -> None:
    with locked("web1", directory=str(tmp_path)):
        ours = [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
        held = [number for number in ours if os.readlink(f"/proc/self/fd/{number}") == f"{tmp_path}/web1.lock"]
        assert len(held) == 1
        assert fcntl.fcntl(held[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_store_of_another_cluster_sees_nothing_of_ours(node: Node) -> None:
    node.has("web1", disk0=b"data")
    theirs = Store(node.fake, node.root, "other.example.com", node.config)
    with pytest.raises(Foreign):
        theirs.find("web1")


def test_marks_of_a_restore_are_cleared_at_home(node: Node) -> None:
    node.has("web1")
    node.fake.set("zfs/vm/web1", {RESTORING: "web1", RECORD: "{}", INTENT: "remove 1"})
    node.store.bring_home("web1")
    assert node.marks("zfs/vm/web1") == OURS
