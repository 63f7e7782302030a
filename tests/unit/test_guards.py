"""Moves, rollbacks, copies and removals on the same disks: whoever comes second is told, and nobody leaves what cannot go away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, go, make_rig
from tests.unit.test_move import DISKS, FILES, KINDS, VOLUMES
from zfsganeti import arrival, fence, transfer
from zfsganeti.datasets import BACK, DETACH, KEPT, MOVE, ROLLBACK, locked
from zfsganeti.disks import Disk
from zfsganeti.errors import Busy, Refused, Unavailable
from zfsganeti.here import Here
from zfsganeti.node import PeerFailed
from zfsganeti.rollback import Rollback
from zfsganeti.rollback_plan import DECIDED, State
from zfsganeti.route import LEASE_SECONDS, Coming, Leaving, tag_until
from zfsganeti.snapshots import handed_on, parts_of

NAMES = {"file": ["web1"], "ext": list(VOLUMES)}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield make_rig(tmp_path, monkeypatch)


def state(kind: str) -> State:
    return State("web1", "gnt-x", "gnt-x 1", "begun", tuple((name, name if kind == "ext" else "", {}, "") for name in NAMES[kind]))


def is_half_back(rig: Rig, kind: str, name: str) -> None:
    """One of the instance's datasets takes part in a rollback that was interrupted."""
    rig.master.fake.set(f"zfs/vm/{name}", {ROLLBACK: state(kind).pack()})


def asked(kind: str) -> dict[str, Any]:
    """Return how web1 is asked about."""
    disks = [{"volume": disk if kind == "ext" else "", "file": disk, "size": len(content)} for disk, content in DISKS[kind].items()]
    return {"instance": "web1", "disks": disks}


def begin(rig: Rig, kind: str, phase: str = "presync") -> None:
    rig.master.call("node1", "move-begin", datasets=NAMES[kind], to="node2", phase=phase, ran=False)


# a rollback that was interrupted


@KINDS
def test_what_is_half_back_is_not_moved(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    is_half_back(rig, kind, NAMES[kind][-1])
    with pytest.raises(Busy, match=r"on node1: an operation is at work on it \(rollback\): gnt-zfs check --repair"):
        go(rig)
    with pytest.raises(PeerFailed, match="web1: a rollback to gnt-x was interrupted: gnt-zfs snapshot rollback web1 gnt-x finishes it"):
        begin(rig, kind)
    assert all(MOVE not in rig.master.marks(name) for name in NAMES[kind])


@KINDS
def test_what_is_half_back_is_not_fenced(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    begin(rig, kind)
    is_half_back(rig, kind, NAMES[kind][-1])
    with pytest.raises(PeerFailed, match="a rollback to gnt-x was interrupted"):
        rig.master.call("node1", "move-fence", datasets=NAMES[kind])
    assert all(rig.master.fake.local(f"zfs/vm/{name}").get("readonly", "off") == "off" for name in NAMES[kind])


@KINDS
def test_what_a_rollback_could_bring_back_is_not_given_up(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    begin(rig, kind)
    rig.master.call("node1", "move-fence", datasets=NAMES[kind])
    rig.master.fake.create(f"zfs/vm/{BACK}", {"canmount": "off"}, {})
    mark = replace(state(kind), new=True).pack()
    rig.master.fake.create(f"zfs/vm/{BACK}/{NAMES[kind][0]}", {"canmount": "noauto"}, {ROLLBACK: mark})
    with pytest.raises(PeerFailed, match="a rollback to gnt-x was interrupted"):
        rig.master.call("node1", "move-leave", datasets=NAMES[kind])
    assert set(NAMES[kind]) < set(rig.master.datasets())


# what is removed, replaced or rolled back while it is moved


def is_on_its_way(rig: Rig, kind: str, *, fenced: bool) -> None:
    """All of the instance has been sent, and is held here for the next pass; the fence stands if it is to."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    go(rig, presync_only=True)
    if fenced:
        rig.master.call("node1", "move-fence", datasets=NAMES[kind])
    assert rig.master.holds()


def assert_free(rig: Rig) -> None:
    """What is in the trash can be restored and be emptied."""
    entries = rig.master.trash.entries()
    assert rig.master.holds() == []
    for entry in entries:
        assert MOVE not in entry.dataset.marks
        assert rig.master.fake.local(entry.dataset.name).get("readonly", "off") == "off"
        rig.master.trash.destroy(entry.entry)
    assert entries


FENCES = pytest.mark.parametrize("fenced", [False, True], ids=["sent", "fenced"])


@KINDS
@FENCES
def test_what_is_removed_while_it_is_moved_can_be_emptied(rig: Rig, kind: str, fenced: bool) -> None:
    is_on_its_way(rig, kind, fenced=fenced)
    if kind == "file":
        rig.master.call("node1", "discard", instance="web1")
    else:
        rig.master.call("node1", "remove-volumes", volumes=list(VOLUMES))
    assert len(rig.master.trash.entries()) == len(NAMES[kind])
    assert_free(rig)


@FENCES
def test_what_is_put_aside_while_it_is_moved_can_be_emptied(rig: Rig, fenced: bool) -> None:
    is_on_its_way(rig, "file", fenced=fenced)
    rig.master.fake.unmount(rig.master.store.home("web1"))
    rig.master.trash.put_aside("zfs/vm/web1", "web1")
    assert_free(rig)


def test_what_a_fence_has_left_is_restored(rig: Rig) -> None:
    is_on_its_way(rig, "file", fenced=True)
    rig.master.call("node1", "discard", instance="web1")
    (entry,) = rig.master.trash.entries()
    rig.master.trash.swap_in(entry.entry, "web1", [("a.disk0", "new.disk0")])
    assert rig.master.files("web1") == {"new.disk0": FILES["a.disk0"], "b.disk1": FILES["b.disk1"]}


def test_what_is_replaced_by_its_past_hands_no_hold_on(rig: Rig) -> None:
    """A rollback that was killed when a move was begun; what the move holds would stay on what takes the place."""
    rig.ganeti.add("web1", "file", "node1", FILES, up=False)
    go(rig, presync_only=True)
    pass_of_move = rig.master.holds()[0].partition("@")[2]
    _instance, parts = parts_of(rig.master, asked("file"))
    half = Rollback(State("web1", pass_of_move, "x 1", "begun", (("web1", "", parts[0].files, ""),)), parts)
    rig.master.fake.unmount(parts[0].home)
    rig.master.fake.set("zfs/vm/web1", {ROLLBACK: half.state.pack()})
    half._prepare(parts[0])
    half._mark(parts[0], f"zfs/vm/{BACK}/web1", DECIDED, new=True)
    half.forward()
    assert rig.content("web1") == FILES
    assert MOVE not in rig.master.marks("web1")
    assert_free(rig)


# what would be lost by a move, or lose it


WAYS_OUT = "gnt-zfs move web1 node2 goes on, gnt-zfs move --abort web1 goes back"


@KINDS
def test_what_is_sent_can_have_snapshots_but_nothing_else_in_its_place(rig: Rig, kind: str) -> None:
    is_on_its_way(rig, kind, fenced=False)
    request = asked(kind)
    for name in ("gnt-x", "gnt-y"):
        rig.master.call("node1", "snapshot-create", **request, snapshot=name)
    rig.master.call("node1", "snapshot-delete", **request, snapshot="gnt-y")
    for verb in ("rollback", "rollback-plan", "snapshot-clone"):
        with pytest.raises(PeerFailed, match=f"is being moved to node2: {WAYS_OUT}"):
            rig.master.call("node1", verb, **request, snapshot="gnt-x", name="web2", record={})
    assert not [name for name in rig.master.datasets() if name.startswith((".trash", BACK))]
    go(rig)
    assert rig.content("web1") == DISKS[kind]


def lease_is_over(rig: Rig, kind: str) -> None:
    """Nobody has gone on with the move since days: neither its marks nor its holds mean anything."""
    for name in NAMES[kind]:
        leaving = Leaving.parse(rig.master.marks(name)[MOVE])
        assert leaving is not None
        rig.master.fake.set(f"zfs/vm/{name}", {MOVE: replace(leaving, until=1).pack()})
        for snapshot, tags in rig.master.fake.held(f"zfs/vm/{name}").items():
            for tag in tags:
                rig.master.fake.release(snapshot, tag)
                rig.master.fake.hold(snapshot, tag_until(1 - LEASE_SECONDS))


@KINDS
@pytest.mark.parametrize("discard", [False, True], ids=["", "discard"])
def test_what_nobody_goes_on_to_move_can_go_back(rig: Rig, kind: str, discard: bool) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    request = asked(kind)
    rig.master.call("node1", "snapshot-create", **request, snapshot="gnt-x")
    for disk in DISKS[kind]:
        Path(rig.ganeti.path("web1", disk)).write_bytes(b"later")
    go(rig, presync_only=True)
    held = rig.master.holds()[0].rpartition("@")[2]
    lease_is_over(rig, kind)
    assert rig.master.holds()
    wanted = {**request, "snapshot": "gnt-x", "discard": discard, "record": {}}
    newer = rig.master.call("node1", "rollback-plan", **wanted)["newer"]
    assert [name.rpartition("@")[2] for name in newer] == [held] * len(NAMES[kind])
    rig.master.call("node1", "rollback", **wanted, newer=newer)
    assert rig.content("web1") == DISKS[kind]
    assert rig.master.holds() == []
    go(rig)
    assert rig.content("web1") == DISKS[kind]


@KINDS
def test_a_snapshot_of_a_move_that_nobody_goes_on_with_can_be_deleted(rig: Rig, kind: str) -> None:
    is_on_its_way(rig, kind, fenced=False)
    rig.master.call("node1", "snapshot-create", **asked(kind), snapshot="gnt-x")
    for name in NAMES[kind]:
        rig.master.fake.hold(f"zfs/vm/{name}@gnt-x", tag_until(1 - LEASE_SECONDS))
    rig.master.call("node1", "snapshot-delete", **asked(kind), snapshot="gnt-x")
    assert not [name for name in rig.master.holds() if name.endswith("gnt-x")]


def test_a_clone_that_nobody_goes_on_to_move_becomes_independent(rig: Rig) -> None:
    is_a_clone(rig)
    begin(rig, "file")
    lease_is_over(rig, "file")
    assert rig.master.independent.want("web1")
    assert rig.master.independent.work() == {"web1": ""}
    assert not rig.master.independent.want("web1")
    assert MOVE not in rig.master.marks("web1")


@KINDS
def test_what_is_fenced_has_no_new_snapshot(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    request = asked(kind)
    rig.master.call("node1", "snapshot-create", **request, snapshot="gnt-x")
    begin(rig, kind)
    rig.master.call("node1", "move-fence", datasets=NAMES[kind])
    before = rig.master.fake.state()
    for verb, name in (("snapshot-create", "gnt-y"), ("snapshot-delete", "gnt-x"), ("rollback", "gnt-x")):
        with pytest.raises(PeerFailed, match=f"is fenced, node2 is about to have it: {WAYS_OUT}"):
            rig.master.call("node1", verb, **request, snapshot=name)
    assert rig.master.fake.state() == before


def is_a_clone(rig: Rig) -> None:
    """web1 is a clone of something."""
    rig.ganeti.add("golden", "file", "node1", {"a.disk0": b"golden"}, up=False)
    rig.master.fake.snapshot(["zfs/vm/golden@one"])
    rig.master.fake.clone("zfs/vm/golden@one", "zfs/vm/web1", rig.master.store.marks("web1"))
    rig.master.store.bring_home("web1")


def test_a_clone_that_is_moved_does_not_become_independent(rig: Rig) -> None:
    is_a_clone(rig)
    here = rig.master.independent
    begin(rig, "file")
    with pytest.raises(Busy, match=f"^web1: is being moved to node2: {WAYS_OUT}$"):
        here.want("web1")
    assert DETACH not in rig.master.marks("web1")
    rig.master.fake.set("zfs/vm/web1", {DETACH: "1"})  # which was wanted before
    assert here.work() == {"web1": f"web1: is being moved to node2: {WAYS_OUT}"}
    assert not here.want("golden")


def test_a_clone_that_is_half_back_does_not_become_independent(rig: Rig) -> None:
    is_a_clone(rig)
    is_half_back(rig, "file", "web1")
    with pytest.raises(Busy, match="a rollback to gnt-x was interrupted"):
        rig.master.independent.want("web1")
    rig.master.fake.set("zfs/vm/web1", {DETACH: "1"})
    assert "a rollback to gnt-x was interrupted" in rig.master.independent.work()["web1"]


def test_what_a_move_has_said_of_a_disk_is_not_said_of_another(rig: Rig) -> None:
    is_a_clone(rig)
    marks = {MOVE: "x", KEPT: "1", ROLLBACK: state("file").pack(), "org.example:mine": "yes", "readonly": "on"}
    rig.master.fake.set("zfs/vm/web1", marks)
    (part,) = parts_of(rig.master, asked("file"))[1]
    assert set(handed_on(part)) & {*marks} == {"org.example:mine"}
    rig.master.independent._copy("zfs/vm/web1")
    rig.master.independent._mark_copy(part.dataset)
    assert set(rig.master.fake.local("zfs/vm/.copies/web1")) & {*marks} == {"org.example:mine"}


def test_a_disk_that_is_fenced_or_half_back_is_neither_saved_nor_formatted(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES, up=False)
    disk = Disk(rig.master, {"instance": "web1", "disk": 0, "volume": "", "file": "a.disk0"})
    begin(rig, "file")
    rig.master.call("node1", "move-fence", datasets=["web1"])
    for does in (disk.make_swap, lambda: disk.save("image")):
        with pytest.raises(Busy, match="is fenced, node2 is about to have it"):
            does()
    rig.master.call("node1", "move-abort", datasets=["web1"])
    is_half_back(rig, "file", "web1")
    for does in (disk.make_swap, lambda: disk.save("image")):
        with pytest.raises(Busy, match="a rollback to gnt-x was interrupted"):
            does()
    assert rig.content("web1") == FILES


def test_what_is_moved_or_half_back_gets_no_other_name(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES, up=False)
    request: dict[str, Any] = {"old": "web1", "new": "web2", "paths": [f"{rig.master.store.home('web1')}/a.disk0"]}
    begin(rig, "file")
    with pytest.raises(PeerFailed, match="web1: is being moved to node2"):
        rig.master.call("node1", "adopt-loosen", **request)
    rig.master.call("node1", "move-abort", datasets=["web1"])
    is_half_back(rig, "file", "web1")
    with pytest.raises(PeerFailed, match="a rollback to gnt-x was interrupted"):
        rig.master.call("node1", "adopt-loosen", **request)
    assert rig.content("web1") == FILES


def change_disks(rig: Rig, node: str) -> None:
    """What the master asks of the primary before Ganeti adds a disk, and before it removes one."""
    rig.master.call(node, "check-space", instance="web1", bytes=1)
    rig.master.call(node, "keep-disks", instance="web1")


def test_no_disk_comes_to_lie_beside_what_is_fenced(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES, up=False)
    begin(rig, "file")
    change_disks(rig, "node1")
    rig.master.call("node1", "move-fence", datasets=["web1"])
    for verb in ("check-space", "keep-disks"):
        with pytest.raises(PeerFailed, match=f"web1: is fenced, node2 is about to have it: {WAYS_OUT}"):
            rig.master.call("node1", verb, instance="web1", bytes=1)
    rig.master.call("node1", "move-abort", datasets=["web1"])
    change_disks(rig, "node1")


def test_no_disk_comes_to_lie_beside_what_has_not_landed(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES, up=False)
    seen = []

    def before(_who: str, verb: str) -> None:
        if verb == "move-land":
            seen.append("is coming")
        elif verb == "move-leave":
            seen.append("is there")
            rig.knots["node2"].fake.set("zfs/vm/web1", {MOVE: Coming("node1", "web1", 0, "1").pack()})
        else:
            return
        rig.before = lambda _who, _verb: None
        for verb in ("check-space", "keep-disks"):
            with pytest.raises(PeerFailed, match="web1: has not landed wholly: the same gnt-zfs move, or gnt-instance startup web1, ends"):
                rig.master.call("node2", verb, instance="web1", bytes=1)
        rig.knots["node2"].fake.clear("zfs/vm/web1", [MOVE]) if seen[1:] else None
        rig.before = before

    rig.before = before
    go(rig)
    assert seen == ["is coming", "is there"]
    change_disks(rig, "node2")


# who waits for whom


@KINDS
def test_a_start_that_ends_a_move_is_alone_with_the_disks(rig: Rig, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    begin(rig, kind)
    rig.master.call("node1", "move-fence", datasets=NAMES[kind])
    lift, lifted = fence.lift, []

    def alone(here: Here, name: str) -> None:
        with pytest.raises(Unavailable, match="another operation of ours is at work on it"), locked(name, seconds=0):
            pass
        lifted.append(name)
        lift(here, name)

    monkeypatch.setattr(fence, "lift", alone)
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert lifted == NAMES[kind]
    assert rig.content("web1") == DISKS[kind]


@KINDS
def test_what_lands_is_locked_as_a_start_locks_it(rig: Rig, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the dataset, then its arrival: a start and a mover that come at the same moment do not wait for each other."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    taken: list[str] = []

    @contextlib.contextmanager
    def tells(name: str, **options: Any) -> Iterator[None]:
        taken.append(name)
        with locked(name, **options):
            yield

    def before(_who: str, verb: str) -> None:
        if verb == "move-land":
            monkeypatch.setattr(arrival, "locked", tells)
            monkeypatch.setattr(transfer, "locked", tells)

    rig.before = before
    go(rig)
    assert taken == [lock for name in NAMES[kind] for lock in (name, f".arrival.{name}")]


# what the kernel refuses


def test_what_a_read_only_dataset_refuses_is_a_line_with_the_way_out(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES, up=False)
    rig.master.fake.set("zfs/vm/web1", {"readonly": "on"})
    with pytest.raises(PeerFailed) as caught:
        rig.master.call("node1", "home", instance="web1")
    home = f"{rig.master.root.path}/web1"
    assert caught.value.exit_code == Refused.exit_code
    assert f"{home}: is read-only: zfs get readonly says whether that was set, gnt-zfs check" in str(caught.value)


def test_a_name_that_would_be_too_long_on_the_target_is_told_before_anything_is_sent(rig: Rig) -> None:
    assert rig.master.call("node2", "move-target", datasets={"n" * 151: ""})["placed"] == {"n" * 151: None}
    with pytest.raises(PeerFailed, match="is too long, 151 characters are the most below zfs/vm"):
        rig.master.call("node2", "move-target", datasets={"n" * 152: ""})
