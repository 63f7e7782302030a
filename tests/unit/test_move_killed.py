"""A move whose source or target dies at any change that it makes, with or without a boot after it, ends right when it is repeated.

The mover dies with the node: `test_move.py` lets it die alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.killing import dies
from tests.rig import Rig, go
from tests.unit.test_move import DISKS, arrived
from zfsganeti import datasets, departure
from zfsganeti.errors import Refused


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
