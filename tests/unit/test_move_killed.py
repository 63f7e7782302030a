"""A move whose source or target dies at any change that it makes, with or without a boot after it, ends right when it is repeated.

The mover dies with the node: `test_move.py` lets it die alone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.killing import Reaper, dies
from tests.rig import Rig, go
from tests.unit.test_move import DISKS, arrived
from zfsganeti import datasets, departure
from zfsganeti.datasets import MOVE
from zfsganeti.errors import Refused, ZfsGanetiError
from zfsganeti.route import Coming


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
@pytest.mark.parametrize("node", ["node1", "node2"])
@pytest.mark.parametrize("kind", list(DISKS))
def test_wherever_a_node_dies_the_same_command_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, node: str, boot: bool
) -> None:
    monkeypatch.setattr(datasets, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(departure, "WAIT_SECONDS", 0.0)
    point, died = 0, True
    while died:
        point += 1 if point < 30 else 3
        rig = Rig(tmp_path / str(point))
        rig.ganeti.speak(monkeypatch)
        rig.ganeti.add("web1", kind, "node1", DISKS[kind])
        died = dies(rig.knots[node].fake.reaper, point, lambda rig=rig: go(rig))  # type: ignore[misc]
        if boot:
            knot = rig.knots[node]
            knot.fake.boot()
            knot.loop.attached.clear()
            if rig.ganeti.data["web1"]["primary"] == node and rig.ganeti.data["web1"]["up"]:
                rig.ganeti.gnt("gnt-instance", "startup", "web1")  # as Ganeti's watcher does
        try:
            go(rig)
        except Refused as error:
            assert "is on node2 already" in str(error)
        arrived(rig, kind)
    assert point > 20


@pytest.mark.parametrize("start", [False, True], ids=["", "start"])
@pytest.mark.parametrize("node", ["node1", "node2"])
@pytest.mark.parametrize("kind", list(DISKS))
def test_wherever_a_node_dies_while_a_move_goes_back_a_start_or_the_same_command_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, node: str, start: bool
) -> None:
    monkeypatch.setattr(datasets, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(departure, "WAIT_SECONDS", 0.0)
    point, died = 0, True
    while died:
        point += 1
        rig = Rig(tmp_path / str(point))
        rig.ganeti.speak(monkeypatch)
        rig.ganeti.add("web1", kind, "node1", DISKS[kind])
        reaper = rig.knots[node].fake.reaper

        def before(_who: str, verb: str, point: int = point, reaper: Reaper = reaper) -> None:
            if verb == "modify":
                reaper.passed, reaper.chosen = 0, point
            elif verb == "startup" and not start:
                reaper.chosen = None  # a start that dies is repeated by whoever has asked for it

        rig.before, rig.ganeti.fails = before, {"modify"}
        died = dies(reaper, 1 << 30, lambda rig=rig: refused(rig))  # type: ignore[misc]
        rig.before, rig.ganeti.fails = lambda _who, _verb: None, set()
        if start:
            rig.ganeti.gnt("gnt-instance", "startup", "web1")
            assert rig.content("web1") == DISKS[kind]
            names = ["web1"] if kind == "file" else list(DISKS[kind])
            marks = [Coming.parse(rig.knots["node2"].marks(f".moving/{name}")[MOVE]) for name in names]
            assert [mark.ready for mark in marks if mark is not None] == [""] * len(names)
        go(rig)
        arrived(rig, kind)
    assert point > 2


def refused(rig: Rig) -> None:
    with contextlib.suppress(ZfsGanetiError):
        go(rig)
