"""Moves, rollbacks, copies and removals on the same disks: whoever comes second is told, and nobody leaves what cannot go away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rig import Rig
from tests.unit.test_move import DISKS, KINDS, VOLUMES, go
from zfsganeti import datasets, departure, move
from zfsganeti.datasets import MOVE, ROLLBACK
from zfsganeti.errors import Busy
from zfsganeti.node import PeerFailed
from zfsganeti.rollback import BACK, State

NAMES = {"file": ["web1"], "ext": list(VOLUMES)}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(datasets, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(departure, "WAIT_SECONDS", 0.0)
    made = Rig(tmp_path)
    monkeypatch.setattr(move, "run", made.ganeti.gnt)
    yield made


def state(kind: str) -> State:
    return State("web1", "gnt-x", "gnt-x 1", "begun", tuple((name, name if kind == "ext" else "", {}, "") for name in NAMES[kind]))


def is_half_back(rig: Rig, kind: str, name: str) -> None:
    """One of the instance's datasets takes part in a rollback that was interrupted."""
    rig.master.fake.set(f"zfs/vm/{name}", {ROLLBACK: state(kind).pack()})


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
