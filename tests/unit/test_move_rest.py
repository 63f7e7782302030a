"""What a move meets that was there before, or came to be in the middle: holds of others, old settings, other names, other roots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node import CLUSTER_NAME
from tests.rig import Knot, Rig, go, make_rig
from tests.unit.test_move import DISKS, KINDS, VOLUMES, Died, arrived
from tests.unit.test_move_interrupted import offline, switched
from zfsganeti import arrival, hooks, moving, retreat
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER, INSTANCE, KEPT, MOVE
from zfsganeti.errors import Busy, Missing, Refused, ZfsGanetiError
from zfsganeti.ganeti import Event
from zfsganeti.route import LEFT, Leaving
from zfsganeti.trash import Trash


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield make_rig(tmp_path, monkeypatch)


def names(kind: str) -> list[str]:
    return ["web1"] if kind == "file" else list(VOLUMES)


# what others hold


@KINDS
def test_a_pass_that_others_hold_keeps_nothing_down_and_goes_once_it_is_free(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    there, first = rig.knots["node2"], names(kind)[0]

    def before(_who: str, verb: str) -> None:
        if verb == "move-check":
            for short in list(there.fake.state()[f"zfs/vm/.moving/{first}"]["snapshots"]):
                there.fake.hold(f"zfs/vm/.moving/{first}@{short}", "zrepl_last_received")

    rig.before = before
    go(rig)
    assert rig.ganeti.data["web1"]["up"]
    (held,) = there.holds()
    arrival.release_expired(there, time.time())
    assert there.holds() == [held]
    there.fake.release(held, "zrepl_last_received")
    arrival.release_expired(there, time.time())
    arrived(rig, kind)


def test_the_watcher_leaves_the_passes_of_a_move_alone(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", DISKS["file"])
    go(rig, presync_only=True)
    for knot in rig.knots.values():
        for name, state in knot.fake.state().items():
            moving.release(knot.fake, name)
            passes = list(state["snapshots"])
            arrival.release_expired(knot, time.time())
            assert list(knot.fake.state()[name]["snapshots"]) == passes
    go(rig)
    arrived(rig, "file")


# what was set


@KINDS
@pytest.mark.parametrize("refused", [False, True], ids=["sent ahead", "refused"])
@pytest.mark.parametrize(("key", "value"), [("com.sun:auto-snapshot", "false"), ("refquota", str(1 << 40)), ("atime", "off")])
def test_what_is_not_set_any_more_is_not_set_on_the_target(rig: Rig, kind: str, key: str, value: str, refused: bool) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    here, dataset = rig.knots["node1"].fake, f"zfs/vm/{names(kind)[0]}"
    here.set(dataset, {key: value})
    if refused:
        rig.ganeti.fails.add("modify")
        with pytest.raises(ZfsGanetiError):
            go(rig)
        rig.ganeti.fails.clear()
    else:
        go(rig, presync_only=True)
    here.set(dataset, {key: "none"}) if key == "refquota" else here.clear(dataset, [key])
    go(rig)
    assert rig.knots["node2"].fake.local(dataset).get(key, "none") == "none"
    arrived(rig, kind)


# disks that come to be meanwhile


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(("at", "node"), [("modify", "node1"), ("move-land", "node2")])
def test_a_disk_that_is_added_during_the_last_pass_goes_along_with_the_same_command(rig: Rig, up: bool, at: str, node: str) -> None:
    """What tells of the move stays until all disks are on one node."""
    rig.ganeti.add("web1", "ext", "node1", VOLUMES, up=up)
    added = ["w.ext.disk2"]

    def before(_who: str, verb: str) -> None:
        if verb == at and added:
            name, volumes = added.pop(), rig.knots[node].volumes
            volumes.create(name, 1 << 20, {})
            volumes.set_instance(name, "web1")
            volumes.detach(name)
            rig.ganeti.data["web1"]["disks"].append(name)

    rig.before = before
    with pytest.raises(Busy, match="^web1: is on node2 and has got other disks since: gnt-zfs move web1 node2 goes on$"):
        go(rig)
    go(rig)
    assert rig.ganeti.data["web1"]["up"] is up
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.content("web1") == {**VOLUMES, "w.ext.disk2": b""}
    assert [name for name in rig.knots["node1"].datasets() if not name.startswith(".trash")] == []
    with pytest.raises(Refused, match="^web1: is on node2 already$"):
        go(rig)


# the way back


def not_put_away(rig: Rig, kind: str, monkeypatch: pytest.MonkeyPatch, *, keep: bool = False) -> None:
    """web1 is on node2, and node1 was killed right before its disks, which it has given up, came into the trash."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])

    def die(*_words: object, **_options: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Trash, "put", die)
        patch.setattr(Trash, "put_volume", die)
        with pytest.raises(Died):
            go(rig, keep=keep)


@KINDS
def test_disks_that_were_given_up_for_a_node_that_is_lost_say_how_they_are_taken_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    not_put_away(rig, kind, monkeypatch)
    fake = rig.knots["node1"].fake
    for name in names(kind):  # each of them
        mark = Leaving.parse(rig.knots["node1"].marks(name)[MOVE])
        assert mark is not None
        fake.set(f"zfs/vm/{name}", {MOVE: Leaving(mark.to, LEFT, mark.ran, mark.until).pack()})
    offline(rig, "node2")
    rig.ganeti.data["web1"].update(up=False, primary="node1")
    back = "web1: its newer disks are on node2, which is offline: gnt-zfs move --abort web1 goes back to those here$"
    with pytest.raises(ZfsGanetiError, match=back):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    with pytest.raises(ZfsGanetiError, match=back):
        go(rig, "node3")
    retreat.Back(rig.master, "web1", print).run()
    assert rig.ganeti.data["web1"]["up"]
    assert rig.content("web1") == DISKS[kind]


@KINDS
@pytest.mark.parametrize("away", ["unreachable", "offline", ""])
def test_the_way_back_says_what_is_not_known_to_be_gone(rig: Rig, kind: str, away: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go(rig, presync_only=True)
    said, node2 = list[str](), rig.knots["node2"]
    if away == "offline":
        offline(rig, "node2")
    node2.away = bool(away)
    retreat.Back(rig.master, "web1", said.append).run()
    but = " but what node2 may have: the same command once it is back" if away else ""
    assert said[-1] == f"web1: is on node1, nothing is left of the move{but}"
    node2.away = False
    for knot in rig.knots.values():
        knot.ssconf.offline_nodes.clear()
    retreat.Back(rig.master, "web1", said.append).run()
    assert said[-1] == "web1: is on node1, nothing is left of the move"
    assert node2.datasets() == [".moving"]


@KINDS
def test_disks_that_were_given_up_and_not_put_away_can_be_taken_back(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    not_put_away(rig, kind, monkeypatch, keep=True)
    offline(rig, "node2")
    rig.ganeti.data["web1"].update(up=False, primary="node1")
    retreat.Back(rig.master, "web1", print).run()
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    rig.ganeti.write("web1", next(iter(DISKS[kind])), b"newer")
    marks = rig.knots["node1"].marks(names(kind)[0])
    assert (KEPT in marks, MOVE in marks) == (False, False)


# other names


def renamed(rig: Rig, at: str) -> None:
    """The instance is called web2 since its mover died."""
    switched(rig, "ext", at)
    rig.ganeti.data["web2"] = rig.ganeti.data.pop("web1")


@pytest.mark.parametrize("how", ["move", "startup"])
def test_volumes_land_although_their_instance_has_another_name_by_now(rig: Rig, how: str) -> None:
    renamed(rig, "move-check")
    with pytest.raises(
        Missing, match="^instance web1 does not exist: what has come of it is of web2 now: gnt-zfs move --abort with that name"
    ):
        retreat.Gone(rig.master, "web1", print)
    if how == "move":
        go(rig, "node2", "web2")
    else:
        rig.ganeti.gnt("gnt-instance", "startup", "web2")
    assert rig.ganeti.data["web2"]["up"]
    assert rig.content("web2") == VOLUMES
    assert {rig.knots["node2"].marks(name)[INSTANCE] for name in VOLUMES} == {"web2"}


def test_what_was_sent_ahead_of_volumes_is_of_use_under_another_name(rig: Rig) -> None:
    rig.ganeti.add("web1", "ext", "node1", VOLUMES)
    go(rig, presync_only=True)
    rig.ganeti.data["web2"] = rig.ganeti.data.pop("web1")
    go(rig, "node2", "web2")
    assert rig.content("web2") == VOLUMES


def test_what_has_become_of_another_instance_meanwhile_is_not_destroyed(rig: Rig) -> None:
    rig.ganeti.add("web1", "ext", "node1", VOLUMES)
    go(rig, presync_only=True)
    known = rig.ganeti.data.pop("web1")
    gone = retreat.Gone(rig.master, "web1", print)
    rig.ganeti.data["web2"] = known
    with pytest.raises(Busy, match="^web1: has become disks of another instance this moment: the same command looks again$"):
        gone.run()


# other roots


class TwoRoots(Knot):
    """A node with a datastore as well, which is another root."""

    def __init__(self, rig: Rig, name: str, seed: int) -> None:
        super().__init__(rig, name, seed)
        self.__dict__["config"] = Config(busy_seconds=0, datastores={"ssd": "zfs/fast"})
        path = f"{rig.place}/{name}/fast"
        self.fake.foreign("zfs/fast", {CLUSTER: CLUSTER_NAME}, mountpoint=path)
        self.fake.mount("zfs/fast", path)


class TwoRootsRig(Rig):
    kind = TwoRoots


def test_what_has_come_below_another_root_is_given_up_before_more_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(tmp_path, monkeypatch, TwoRootsRig)
    (name, content), *_rest = VOLUMES.items()
    rig.ganeti.add("web1", "ext", "node1", {name: content}, up=False)
    go(rig, presync_only=True)
    for node in ("node1", "node2"):
        fake = rig.knots[node].fake
        if mounted := fake.mounted_at(f"{rig.knots[node].root.path}/{name}"):
            fake.unmount(f"{rig.knots[node].root.path}/{name}")
            fake.rename(mounted, f"zfs/fast/{name}")
    old = (
        f"dataset zfs/vm/.moving/{name} on node2: has come of {name} when that was in another datastore: gnt-zfs move --abort web1 gives it"
    )
    with pytest.raises(Refused, match=old):
        go(rig)
    retreat.Back(rig.master, "web1", print).run()
    go(rig)
    state = rig.knots["node2"].fake.state()
    assert f"zfs/fast/{name}" in state
    assert not [one for one in state if "/.moving/" in one]


# what is made anew


@KINDS
def test_what_has_not_landed_is_not_made_anew_once_its_source_is_lost(rig: Rig, kind: str) -> None:
    """It may be all that there is: recreate-disks makes no empty disks beside it, and a start brings it in."""
    switched(rig, kind, "move-land")
    offline(rig, "node1")
    node2, before = rig.knots["node2"], rig.knots["node2"].datasets()
    with pytest.raises(Refused, match=r" below \.moving: comes from another node: .*gnt-zfs move --abort web1 gives that up"):
        if kind == "file":
            node2.store.admit("web1", [])
        else:
            node2.volumes.create(names(kind)[0], 1 << 20, {})
    assert node2.datasets() == before
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.content("web1") == DISKS[kind]


# what is told


def test_who_goes_on_after_the_stop_is_told_that_it_is_started(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", DISKS["file"])

    def before(_who: str, verb: str) -> None:
        if verb == "modify":
            raise Died

    rig.before = before
    with pytest.raises(Died):
        go(rig)
    rig.before = lambda _who, _verb: None
    said: list[str] = []
    go(rig, said=said)
    assert "it is stopped, and is started on node2 since it ran when it was moved; --no-start leaves it stopped" in said
    assert "it is stopped and stays so" not in said
    assert rig.ganeti.data["web1"]["up"]


@KINDS
def test_without_a_trash_nothing_stays_but_what_snapshots_of_others_keep(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    node1 = rig.knots["node1"]
    node1.store.config.trash_days = 0
    kept = names(kind)[0]
    node1.fake.snapshot([f"zfs/vm/{kept}@autosnap_1"])
    said: list[str] = []
    go(rig, said=said)
    (entry,) = [each.entry for each in node1.trash.entries()]
    assert entry.startswith(f"{kept}:")
    assert [line for line in said if "is kept on node1" in line] == [f"web1: {entry} is kept on node1 for the days of the trash"]
    assert rig.content("web1") == DISKS[kind]


def test_what_is_removed_before_it_has_landed_can_be_restored_from_where_it_was(rig: Rig) -> None:
    switched(rig, "file", "move-land")
    environ = rig.ganeti._environ("web1", rig.ganeti.data["web1"], "instance-remove")
    before = rig.master.files("web1")
    for phase in ("pre", "post"):
        for knot in (rig.knots["node2"], rig.master):
            paths = {f"GANETI_INSTANCE_DISK{index}_ID": f"{knot.store.home('web1')}/{disk}" for index, disk in enumerate(before)}
            for handler in hooks.HANDLERS[f"instance-remove-{phase}"]:
                handler(knot, Event({**environ, **paths, "GANETI_OP_CODE": "OP_INSTANCE_REMOVE"}))
    record = rig.ganeti.instances()["web1"].record()
    del rig.ganeti.data["web1"]
    rig.master.call("node1", "move-leave", datasets=["web1"], keep=True)
    (entry,) = rig.master.trash.entries()
    assert entry.record == record
    assert rig.master.fake.files(entry.dataset.name) == before


# what it is called meanwhile


@pytest.mark.parametrize(("at", "primary", "said"), [("move-land", "node2", "has not landed wholly"), ("move-leave", "node1", "is fenced")])
def test_an_instance_keeps_its_name_until_its_move_has_ended(rig: Rig, at: str, primary: str, said: str) -> None:
    """Under another name nothing would bring in what has come, nor know what is fenced for what was moved."""
    switched(rig, "file", at)
    rig.ganeti.data["web1"]["primary"] = primary  # of the second one somebody has set it back
    environ = rig.ganeti._environ("web1", rig.ganeti.data["web1"], "instance-rename")
    event = Event({**environ, "GANETI_OP_CODE": "OP_INSTANCE_RENAME", "GANETI_INSTANCE_NEW_NAME": "web2"})
    before = {name: knot.fake.state() for name, knot in rig.knots.items()}
    (rename,) = hooks.HANDLERS["instance-rename-pre"]
    with pytest.raises((Busy, Refused), match=f"^web1: {said}"):
        rename(rig.knots[primary], event)
    assert {name: knot.fake.state() for name, knot in rig.knots.items()} == before
