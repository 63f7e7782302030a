"""Volumes, verb by verb, on the fake ZFS with real files; that each is killed at every point is told in tests/unit/test_killed.py."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deaths.volumes import DISK0, MIB, Bench, removed
from tests.fakeloop import FakeLoop
from tests.node import CLUSTER_NAME, Node
from zfsganeti.contents import PARAMETERS, dataset_properties, parameters_list, parse_parameters, reservation
from zfsganeti.datasets import BACK, CLUSTER, COPIES, DETACH, INSTANCE, OLD, OPENED, READY, RECORD, RESTORING, ROLLBACK, SIZE, VOLUME, Store
from zfsganeti.errors import BadInput, BadName, Busy, Foreign, Missing, NoSpace, Refused, Unavailable
from zfsganeti.images import Images
from zfsganeti.rollback_plan import DECIDED, State
from zfsganeti.roots import make_parent
from zfsganeti.volumes import Volumes, check_volume

GIB = 1 << 30
OURS = {VOLUME: DISK0, CLUSTER: CLUSTER_NAME}
HOUSE = Path(__file__).parents[2]
quick = settings(max_examples=200, deadline=None, derandomize=True)


@pytest.fixture
def bench(node: Node) -> Bench:
    return Bench(node)


# names and parameters


@quick
@given(st.text(max_size=40))
def test_any_name_is_a_volumes_or_bad(name: str) -> None:
    try:
        assert check_volume(name) == name
    except BadName:
        return
    assert "/" not in name
    assert not name.startswith(".")


@pytest.mark.parametrize("name", ["", ".trash", "..", "a/b", "a..b", "a b", "a@b", "x" * 201])
def test_what_is_no_volume_name_reaches_nothing(bench: Bench, name: str) -> None:
    before = bench.state()
    for attempt in (bench.create, bench.volumes.attach, bench.volumes.detach, bench.volumes.remove, bench.volumes.close):
        with pytest.raises(BadName):
            attempt(name)
    assert bench.state() == before


def test_parameters_become_properties() -> None:
    values = parse_parameters({"recordsize": "16k", "compression": "zstd", "reserve": "yes"})
    assert dataset_properties(values, GIB) == {"recordsize": 16384, "compression": "zstd", "refreservation": reservation(GIB)}
    assert dataset_properties(parse_parameters({"reserve": "no"}), GIB) == {}
    assert reservation(GIB) > GIB


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"colour": "red"}, f"disk parameter colour: there are {', '.join(PARAMETERS)}"),
        ({"recordsize": "100K"}, "disk parameter recordsize: '100K' is not a power of two from 512 to 1M"),
        ({"compression": "gzip"}, "disk parameter compression: 'gzip' is none of off, on, lz4, zstd, zle"),
        ({"reserve": "maybe"}, "disk parameter reserve: 'maybe' is neither yes nor no"),
        ({"trash": "entry"}, "disk parameter trash: is given by gnt-zfs trash restore alone"),
        ({"trash": "../x@y"}, "disk parameter trash: is given by gnt-zfs trash restore alone"),
    ],
)
def test_an_unknown_or_bad_parameter_is_refused_with_the_good_ones(given_: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_parameters(given_)
    assert str(caught.value) == said


def test_the_shipped_list_of_parameters_is_the_one_made_from_the_table() -> None:
    assert (HOUSE / "extstorage/zfs/parameters.list").read_text(encoding="utf-8") == parameters_list()


# create


def test_a_volume_is_a_sparse_disk_in_a_dataset_of_its_own(bench: Bench) -> None:
    assert bench.create() == f"/dev/zfsganeti/{DISK0}"
    assert bench.node.marks(f"zfs/vm/{DISK0}") == OURS
    status = os.stat(bench.volumes.disk(DISK0))
    assert (status.st_size, status.st_mode & 0o777) == (MIB, 0o600)
    assert os.stat(bench.volumes.home(DISK0)).st_mode & 0o777 == 0o700
    assert bench.loop.find(DISK0)


def test_a_volume_that_exists_is_never_made_again(bench: Bench) -> None:
    bench.use()
    before = bench.state()
    with pytest.raises(Refused) as caught:
        bench.create()
    assert str(caught.value) == f"volume {DISK0}: exists already: gnt-zfs check says whose it is"
    assert bench.state() == before


def test_what_a_killed_create_left_is_used_but_never_what_was_written_to(bench: Bench) -> None:
    bench.create(size=MIB)
    bench.create(size=2 * MIB)
    assert bench.volumes.size(DISK0) == 2 * MIB
    bench.write(b"data" * 4096)
    with pytest.raises(Refused):
        bench.create()


def test_a_dataset_that_is_not_ours_is_not_touched(bench: Bench) -> None:
    bench.node.fake.foreign(f"zfs/vm/{DISK0}", {VOLUME: DISK0, CLUSTER: "other.example.com"})
    before = bench.state()
    for attempt in (bench.create, lambda: bench.volumes.attach(DISK0), lambda: bench.volumes.remove(DISK0)):
        with pytest.raises(Foreign):
            attempt()
    assert bench.state() == before


def test_an_instance_dataset_is_no_volume_and_a_volume_no_instance_dataset(bench: Bench) -> None:
    bench.node.has("web1", disk0=b"data")
    with pytest.raises(Foreign):
        bench.volumes.remove("web1")
    bench.create("db1")
    with pytest.raises(Foreign):
        bench.node.store.find("db1")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda fake: setattr(fake, "available", MIB - 1), NoSpace),
        (lambda fake: setattr(fake, "health", "DEGRADED"), Unavailable),
    ],
)
def test_a_create_that_fails_leaves_nothing(bench: Bench, change: Callable[[Any], None], error: type[Exception]) -> None:
    change(bench.node.fake)
    before = bench.state()
    with pytest.raises(error):
        bench.create()
    assert bench.state() == before


def test_a_create_whose_device_fails_leaves_nothing(bench: Bench) -> None:
    def fail(volume: str, path: str) -> str:
        raise Unavailable(f"a loop device for {volume}", f"{path} cannot be attached")

    before = bench.state()
    bench.loop.attach = fail  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        bench.create()
    assert bench.state() == before


@pytest.mark.parametrize("grows", [False, True])
def test_of_two_that_ask_for_the_last_room_at_once_the_second_counts_the_first(bench: Bench, grows: bool) -> None:
    """While one is being made, or grown, another waits until its disk is there to be counted."""
    bench.node.fake.available = 100 * MIB
    if grows:
        bench.create(size=MIB)
    ended: list[object] = []

    def ask() -> None:
        try:
            if grows:
                bench.volumes.grow(DISK0, 150 * MIB)
            else:
                bench.create(size=90 * MIB)
            ended.append(None)
        except NoSpace as error:
            ended.append(error)

    second = threading.Thread(target=ask)
    with bench.volumes.counted():
        second.start()
        second.join(0.2)
        assert ended == [], "it did not wait"
        other = Path(bench.node.root.path, "other")
        other.mkdir()
        (other / "disk.raw").touch()
        os.truncate(other / "disk.raw", 190 * MIB)
    second.join()
    assert len(ended) == 1
    assert isinstance(ended[0], NoSpace)
    assert grows or bench.node.datasets() == []


def test_more_than_the_root_could_ever_hold_is_not_promised(bench: Bench) -> None:
    bench.node.fake.available = 100 * MIB
    bench.create(size=90 * MIB)
    bench.create("second", size=90 * MIB)
    with pytest.raises(NoSpace) as caught:
        bench.create("third", size=90 * MIB)
    assert "20.0M available: 180M are promised already and overcommit = 200 allows 200M in all" in str(caught.value)
    with pytest.raises(NoSpace):
        bench.volumes.grow(DISK0, 150 * MIB)
    bench.node.config.overcommit = 0
    bench.create("third", size=90 * MIB)


def coming_back(bench: Bench) -> None:
    """A rollback of the volume, killed between its two renames, has left what the disk is to hold beside its place."""
    fake, beside = bench.node.fake, f"zfs/vm/{BACK}/{DISK0}"
    bench.use()
    bench.volumes.detach(DISK0)
    fake.snapshot([f"zfs/vm/{DISK0}@s"])
    state = State("web1", "s", "s 1", DECIDED, ((DISK0, DISK0, {}, ""),), new=True)
    make_parent(fake, f"zfs/vm/{BACK}")
    fake.clone(f"zfs/vm/{DISK0}@s", beside, {**OURS, INSTANCE: "web1", ROLLBACK: state.pack()}, {"canmount": "noauto"})
    fake.promote(beside)
    bench.node.trash.put_aside(f"zfs/vm/{DISK0}", DISK0)


def taking_place(bench: Bench) -> None:
    """The independent copy of a volume is to take its place, and what it is a copy of has just left it."""
    fake, copies = bench.node.fake, f"zfs/vm/{COPIES}"
    bench.use()
    bench.volumes.detach(DISK0)
    fake.unmount(bench.volumes.home(DISK0))
    make_parent(fake, copies)
    fake.rename(f"zfs/vm/{DISK0}", f"{copies}/{DISK0}{OLD}")
    fake.create(f"{copies}/{DISK0}", {}, {**OURS, INSTANCE: "web1", DETACH: READY})


@pytest.mark.parametrize("left", [coming_back, taking_place])
def test_a_volume_that_is_about_to_be_back_is_neither_made_anew_nor_said_to_be_gone(bench: Bench, left: Callable[[Bench], None]) -> None:
    left(bench)
    before = bench.node.claims(), bench.node.datasets()
    with pytest.raises(Refused) as caught:
        bench.create()
    if left is coming_back:
        assert str(caught.value).startswith("web1: a rollback to s was interrupted: gnt-zfs snapshot rollback web1 s finishes it")
        assert (bench.node.claims(), bench.node.datasets()) == before
        with pytest.raises(Busy):
            bench.volumes.attach(DISK0)
    assert sum(bench.node.marks(f"zfs/vm/{name}").get(VOLUME) == DISK0 for name in bench.node.datasets() if name[0] != ".") <= 1
    assert sum(name.endswith(DISK0) for name in bench.node.datasets()) == 1


# the other verbs


def test_attach_tells_what_is_gone_and_what_was_never_finished(bench: Bench) -> None:
    with pytest.raises(Missing) as caught:
        bench.volumes.attach(DISK0)
    assert str(caught.value) == f"volume {DISK0} on this node does not exist: gnt-zfs check says where it is"
    bench.node.fake.create(f"zfs/vm/{DISK0}", {}, OURS)
    with pytest.raises(Missing):
        bench.volumes.attach(DISK0)
    bench.volumes.remove(DISK0)
    assert bench.node.datasets() == []


def test_after_a_boot_the_device_is_made_again(bench: Bench) -> None:
    bench.use()
    bench.node.boot()
    bench.node.fake.unmount(bench.volumes.home(DISK0))
    assert bench.volumes.attach(DISK0) == f"/dev/zfsganeti/{DISK0}"
    assert bench.read() == b"data"


def test_a_volume_in_use_stays(bench: Bench) -> None:
    bench.use()
    bench.loop.users.add(DISK0)
    for verb in (bench.volumes.detach, bench.volumes.remove):
        with pytest.raises(Busy):
            verb(DISK0)
    assert bench.read() == b"data"


def test_a_removed_volume_is_whole_in_the_trash(bench: Bench) -> None:
    bench.use()
    bench.volumes.keep_record(DISK0, {"name": "web1", "uuid": "u", "disk": 0, "disks": [{"size": MIB}]})
    bench.volumes.open(DISK0, True)
    for _again in range(2):
        bench.volumes.remove(DISK0)
    (entry,) = bench.node.trash.entries()
    assert (entry.volume, entry.instance, entry.size) == (DISK0, "web1", MIB)
    assert bench.node.fake.files(entry.dataset.name)["disk.raw"].rstrip(b"\0") == b"data"
    assert set(bench.node.marks(entry.dataset.name)) == {VOLUME, CLUSTER, INSTANCE, RECORD, SIZE}
    assert bench.loop.attached == {}


def test_with_no_days_in_the_trash_it_is_gone(bench: Bench) -> None:
    bench.node.config.trash_days = 0
    bench.use()
    bench.volumes.remove(DISK0)
    assert bench.node.datasets() == [".trash"]


def test_a_disk_grows_with_its_device_and_never_shrinks(bench: Bench) -> None:
    bench.create(reserve=True)
    for _again in range(2):
        bench.volumes.grow(DISK0, 2 * MIB)
    assert bench.loop.attached[DISK0][1] == 2 * MIB
    assert bench.node.fake.local(f"zfs/vm/{DISK0}")["refreservation"] == str(reservation(2 * MIB))
    with pytest.raises(Refused) as caught:
        bench.volumes.grow(DISK0, MIB)
    assert str(caught.value) == f"volume {DISK0}: has 2.00M and cannot shrink to 1.00M"


def test_a_volume_knows_its_instance_also_after_a_rename(bench: Bench) -> None:
    bench.create()
    for name in ("web1", "web1", "web2"):
        bench.volumes.set_instance(DISK0, name)
        assert bench.node.marks(f"zfs/vm/{DISK0}")[INSTANCE] == name


def test_what_is_installed_over_is_in_a_snapshot_that_goes_when_its_days_are_over(bench: Bench) -> None:
    bench.create()
    bench.use()
    for _time in range(2):  # of one second
        bench.volumes.keep(DISK0)
    ((snapshot, _created, _used),) = bench.node.fake.snapshots(f"zfs/vm/{DISK0}", depth=1)
    assert snapshot.startswith(f"zfs/vm/{DISK0}@zfsganeti-removed-")
    bench.write(b"gone")
    assert bench.node.fake.snapshot_files(snapshot)["disk.raw"].startswith(b"data")
    bench.node.store.forget_disks()
    assert bench.node.fake.snapshots(f"zfs/vm/{DISK0}", depth=1) != []
    bench.node.fake.clock += 86400 * (bench.node.store.config.trash_days + 1)
    bench.node.store.forget_disks()
    assert bench.node.fake.snapshots(f"zfs/vm/{DISK0}", depth=1) == []


def test_a_snapshot_is_a_volume_that_can_be_removed(bench: Bench) -> None:
    bench.use(content=b"then")
    snapshot = f"{DISK0}.snap"
    for _export_that_was_killed in range(2):
        bench.volumes.snapshot(DISK0, snapshot)
        assert bench.loop.flushed
        bench.volumes.attach(snapshot)
    bench.write(b"now!")
    assert bench.read(snapshot) == b"then"
    for _again in range(2):
        bench.volumes.remove(snapshot)
    assert bench.node.datasets() == [DISK0]
    assert bench.node.fake.snapshots("zfs/vm") == []
    assert bench.read() == b"now!"
    with pytest.raises(BadInput):
        bench.volumes.snapshot(DISK0, "other")


def test_exclusive_use_is_recorded_and_sharing_refused(bench: Bench) -> None:
    bench.create()
    for _again in range(2):
        bench.volumes.open(DISK0, True)
        assert bench.node.marks(f"zfs/vm/{DISK0}")[OPENED] == "exclusive"
    with pytest.raises(Refused):
        bench.volumes.open(DISK0, False)
    for _again in range(2):
        bench.volumes.close(DISK0)
        assert OPENED not in bench.node.marks(f"zfs/vm/{DISK0}")
    bench.volumes.close("gone")
    with pytest.raises(Missing):
        bench.volumes.open("gone", True)


# out of the trash


def test_a_reserved_volume_comes_back_under_a_new_name(bench: Bench) -> None:
    entry = removed(bench)
    bench.node.trash.reserve(entry, f"{entry}@secret")
    for _again in range(2):
        bench.create("new", trash=f"{entry}@secret")
    assert bench.read("new") == b"data"
    assert bench.entries() == []
    bench.volumes.set_instance("new", "web2")
    assert RESTORING not in bench.node.marks("zfs/vm/new")
    with pytest.raises(Refused):
        bench.create("new", trash=f"{entry}@secret")


def test_nothing_comes_back_without_its_token_or_with_another_size(bench: Bench) -> None:
    entry = removed(bench)
    before = bench.state()
    with pytest.raises(Refused):
        bench.create("new", trash=f"{entry}@guess")
    with pytest.raises(Missing):
        bench.create("new", trash="nothing:20231114T221320Z@guess")
    assert bench.state() == before
    bench.node.trash.reserve(entry, f"{entry}@secret")
    with pytest.raises(BadInput) as caught:
        bench.create("new", size=2 * MIB, trash=f"{entry}@secret")
    assert "holds 1.00M" in str(caught.value)
    assert bench.node.datasets() == [".trash", f".trash/{entry}"]


def test_a_disk_whose_file_was_moved_away_is_not_taken_for_an_unfinished_one(bench: Bench) -> None:
    """Only the file is missing: the volume is an instance's, and what lies beside it may be all that there is."""
    bench.use()
    os.rename(bench.volumes.disk(DISK0), f"{bench.volumes.home(DISK0)}/disk.raw.bak")
    with pytest.raises(Refused):
        bench.create()
    bench.volumes.remove(DISK0)
    (entry,) = bench.entries()
    assert bench.node.fake.files(f"zfs/vm/.trash/{entry}")["disk.raw.bak"].startswith(b"data")


def test_what_is_being_restored_is_not_destroyed(bench: Bench) -> None:
    entry = removed(bench)
    bench.node.trash.reserve(entry, f"{entry}@secret")
    with pytest.raises(Busy):
        bench.node.trash.destroy(entry)
    bench.node.trash.unmark(entry)
    bench.node.trash.destroy(entry)


def test_a_volume_follows_the_cluster_that_was_renamed(bench: Bench) -> None:
    bench.use()
    renamed = Volumes(Store(bench.node.fake, bench.node.root, "new.example.com", bench.node.config), bench.loop)
    with pytest.raises(Foreign):
        renamed.attach(DISK0)
    renamed.claim(DISK0)
    assert renamed.attach(DISK0)
    bench.node.fake.foreign("zfs/vm/other")
    with pytest.raises(Foreign):
        renamed.claim("other")


class Asked:
    """A backend that writes down what zfs(8) or zpool(8) would be started for."""

    PROGRAMS = ("datasets", "filesystems", "snapshots", "with_snapshot", "local", "pool", "set", "clear")

    def __init__(self, zfs: Any) -> None:
        self.zfs = zfs
        self.programs: list[str] = []

    def __getattr__(self, name: str) -> Any:
        known = getattr(self.zfs, name)
        return known if not callable(known) else lambda *arguments, **options: self.call(name, known, arguments, options)

    def call(self, name: str, method: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = method(*arguments, **options)
        if name in self.PROGRAMS or (name == "get" and result is not None):  # what is not there the kernel says itself
            self.programs.append(name)
        return result


@pytest.mark.parametrize(("parameters", "programs"), [({}, []), ({"recordsize": 4096}, []), ({"image": "gold"}, ["with_snapshot"])])
def test_a_new_disk_starts_no_program_but_one_that_reads_the_catalogue(node: Node, parameters: dict[str, Any], programs: list[str]) -> None:
    def fill(home: str) -> dict[str, str]:
        Path(home, "disk.raw").write_bytes(b"gold")
        return {}

    Images(node.store).make("gold", "file:/gold", fill)
    asked: Any = Asked(node.fake)
    volumes = Volumes(Store(asked, node.root, CLUSTER_NAME, node.config, now=node.store.now), FakeLoop(node.fake.reaper))
    volumes.create(DISK0, MIB, parameters)
    assert asked.programs == programs


def test_what_is_used_is_asked_for_only_when_free_space_alone_is_too_little(node: Node) -> None:
    asked: Any = Asked(node.fake)
    volumes = Volumes(Store(asked, node.root, CLUSTER_NAME, node.config, now=node.store.now), FakeLoop(node.fake.reaper))
    volumes.check_room(DISK0, node.fake.available)
    assert asked.programs == []
    with pytest.raises(NoSpace):
        volumes.check_room(DISK0, node.fake.available + 1)
    assert asked.programs == ["get"]
