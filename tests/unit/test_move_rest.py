"""What a move meets that was there before, or came to be in the middle: holds of others, old settings, other names, other roots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Rig, go, make_rig
from tests.unit.test_move import DISKS, KINDS, VOLUMES, Died, arrived
from tests.unit.test_move_interrupted import offline
from zfsganeti import arrival, moving, retreat
from zfsganeti.datasets import KEPT, MOVE
from zfsganeti.errors import ZfsGanetiError
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


# the way back


@KINDS
def test_disks_that_were_given_up_and_not_put_away_can_be_taken_back(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])

    def die(*_words: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Trash, "put", die)
        patch.setattr(Trash, "put_volume", die)
        with pytest.raises(Died):
            go(rig, keep=True)
    offline(rig, "node2")
    rig.ganeti.data["web1"].update(up=False, primary="node1")
    retreat.Back(rig.master, "web1", print).run()
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    rig.ganeti.write("web1", next(iter(DISKS[kind])), b"newer")
    marks = rig.knots["node1"].marks(names(kind)[0])
    assert (KEPT in marks, MOVE in marks) == (False, False)
