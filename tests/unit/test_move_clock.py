"""Clocks of nodes that jump by a year while an instance is on its way: nothing is lost, it starts on one node only, and its move ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.rig import NODES, Knot, Rig, go, make_rig
from tests.unit.test_move import DISKS, FILES, KINDS, VOLUMES, Died, arrived
from zfsganeti import cli, fence, moving, retreat, upkeep, variants
from zfsganeti.datasets import MOVE
from zfsganeti.errors import Busy
from zfsganeti.route import FENCED, LEASE_SECONDS, LEFT, PRESYNC, STOPPING, Leaving

YEAR = 365 * 86400
JUMPS = pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["ahead", "back"])
WHOSE = pytest.mark.parametrize("whose", [NODES, NODES[:1], NODES[1:2]], ids=["all", "source", "target"])


class Clocks:
    """Each node's clock, by which it does what it is asked for, and looks after itself."""

    def __init__(self, rig: Rig, patch: pytest.MonkeyPatch) -> None:
        self.rig, self.whose = rig, threading.local()
        self.at = dict.fromkeys(NODES, time.time())
        patch.setattr(time, "time", self._time)
        call = Knot.call

        def by_its_own_clock(knot: Knot, peer: str, verb: str, **request: Any) -> Any:
            return self.by(peer, lambda: call(knot, peer, verb, **request))

        patch.setattr(Knot, "call", by_its_own_clock)
        for knot in rig.knots.values():
            doors = {name: self._door(name, door) for name, door in knot.net.doors.items()}
            patch.setattr(knot.net, "doors", doors)
        self.jump(0, NODES)

    def _door(self, name: str, door: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *words: self.by(name, lambda: door(*words))

    def _time(self) -> float:
        return self.at[getattr(self.whose, "name", NODES[0])]

    def by(self, node: str, does: Callable[[], Any]) -> Any:
        """Something is done on a node."""
        before, self.whose.name = getattr(self.whose, "name", NODES[0]), node
        try:
            return does()
        finally:
            self.whose.name = before

    def jump(self, seconds: float, whose: tuple[str, ...]) -> None:
        for node in whose:
            self.at[node] += seconds
            self.rig.knots[node].fake.clock = int(self.at[node])

    def look(self, *, repair: bool = False) -> list[str]:
        """Every node looks after itself, and on the master somebody has repaired what can be; return what was found there."""
        for node, knot in self.rig.knots.items():
            vars(knot.ssconf)["instances"] = list(self.rig.ganeti.data)
            self.by(node, partial(upkeep.watch, knot))
        found = cli._findings(self.rig.master)[0]
        for finding in found if repair else ():
            if finding.repairable:
                self.rig.master.call(finding.node, finding.verb, **finding.request)
        return [finding.text for finding in found]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(variants, "LIST", str(tmp_path / "variants.list"))
    yield make_rig(tmp_path, monkeypatch)


@pytest.fixture
def clocks(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(rig, monkeypatch)


def go_until(rig: Rig, who: str, verb: str) -> None:
    """A mover dies just before it asks for something."""

    def before(whom: str, what: str) -> None:
        if (whom, what) == (who, verb):
            raise Died

    rig.before = before
    with pytest.raises(Died):
        go(rig)
    rig.before = lambda _who, _verb: None


@KINDS
@JUMPS
@WHOSE
@pytest.mark.parametrize("right", [False, True], ids=["stays", "set right"])
def test_a_clock_that_jumps_after_all_was_sent_ahead(
    rig: Rig, clocks: Clocks, kind: str, jump: int, whose: tuple[str, ...], right: bool
) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go(rig, presync_only=True)
    clocks.look()
    clocks.jump(jump, whose)
    clocks.look(repair=right)
    if right:
        clocks.jump(-jump, whose)
        clocks.look(repair=True)
    assert (rig.ganeti.data["web1"]["up"], rig.content("web1")) == (True, DISKS[kind])
    go(rig)
    arrived(rig, kind)


@JUMPS
@WHOSE
def test_a_clock_that_jumps_while_a_pass_is_sent(
    rig: Rig, clocks: Clocks, monkeypatch: pytest.MonkeyPatch, jump: int, whose: tuple[str, ...]
) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    clocks.look()
    pump, jumps = rig.knots["node1"].net.pump, iter([jump, -jump])

    def slowly(*words: Any, **options: Any) -> Any:
        clocks.jump(next(jumps), whose)
        clocks.look(repair=True)
        return pump(*words, **options)

    monkeypatch.setattr(rig.knots["node1"].net, "pump", slowly)
    go(rig)
    arrived(rig, "file")
    assert list(jumps) == []


STOPS = pytest.mark.parametrize(("who", "verb"), [("ganeti", "modify"), ("node2", "move-land"), ("node1", "move-leave")])


@JUMPS
@WHOSE
@STOPS
@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
def test_a_clock_that_jumps_while_it_is_fenced_and_the_same_command(
    rig: Rig, clocks: Clocks, jump: int, whose: tuple[str, ...], who: str, verb: str, seen: bool
) -> None:
    kind = "file" if seen else "ext"
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    clocks.look()
    go_until(rig, who, verb)
    clocks.jump(jump, whose)
    if seen:
        clocks.look(repair=True)
    go(rig)
    arrived(rig, kind)
    clocks.jump(-jump, whose)
    clocks.look(repair=True)
    arrived(rig, kind)  # what was left on the source is in its trash yet


@KINDS
@JUMPS
@WHOSE
@STOPS
def test_a_clock_that_jumps_while_it_is_fenced_and_a_start(
    rig: Rig, clocks: Clocks, kind: str, jump: int, whose: tuple[str, ...], who: str, verb: str
) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go_until(rig, who, verb)
    clocks.jump(jump, whose)
    clocks.look(repair=True)
    primary = rig.ganeti.data["web1"]["primary"]
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.content("web1") == DISKS[kind]
    rig.ganeti.write("web1", next(iter(DISKS[kind])), b"newer")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    clocks.look(repair=True)
    assert [node for node in NODES if node != primary and rig.starts_on("web1", node)] == []
    assert rig.starts_on("web1", primary)
    assert b"newer" in rig.content("web1").values()


@KINDS
@JUMPS
def test_a_clock_that_jumps_while_it_is_fenced_and_the_way_back(rig: Rig, clocks: Clocks, kind: str, jump: int) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go_until(rig, "ganeti", "modify")
    clocks.jump(jump, NODES)
    clocks.look()
    retreat.Back(rig.master, "web1", lambda _text: None).run()
    assert (rig.ganeti.data["web1"]["up"], rig.content("web1")) == (True, DISKS[kind])
    assert rig.knots["node1"].holds() == rig.knots["node2"].holds() == []
    assert rig.knots["node2"].datasets() == [".moving"]


@KINDS
@WHOSE
@pytest.mark.parametrize("jump", [YEAR, 0, -YEAR], ids=["ahead", "steady", "back"])
def test_what_nobody_goes_on_with_is_told_whatever_the_time(rig: Rig, clocks: Clocks, kind: str, jump: int, whose: tuple[str, ...]) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go_until(rig, "ganeti", "modify")
    clocks.jump(jump, whose)
    stopped = "web1 was stopped for a move to node2 that has not ended"
    assert len([text for text in clocks.look() if text.startswith(stopped)]) == (2 if kind == "ext" else 1)


@pytest.mark.parametrize(("phase", "kept"), [(PRESYNC, False), (STOPPING, True), (FENCED, True), (LEFT, True)])
def test_what_was_stopped_for_a_move_is_kept_for_it_whatever_the_time(rig: Rig, clocks: Clocks, phase: str, kept: bool) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES, up=False)
    here = rig.knots["node1"]
    here.fake.set("zfs/vm/web1", {MOVE: Leaving("node2", phase, True, int(time.time()) + LEASE_SECONDS).pack()})
    for jump in (0, YEAR):
        clocks.jump(jump, NODES)
        with pytest.raises(Busy) if kept or not jump else contextlib.nullcontext():
            moving.refuse_leaving(fence.get(here, "web1"))


@KINDS
@JUMPS
def test_what_was_sent_ahead_by_a_clock_that_was_wrong_can_be_given_up(rig: Rig, clocks: Clocks, kind: str, jump: int) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    clocks.jump(jump, NODES)
    go(rig, presync_only=True)
    clocks.jump(-jump, NODES)
    clocks.look()
    retreat.Back(rig.master, "web1", lambda _text: None).run()
    clocks.look()
    names = ["web1"] if kind == "file" else list(VOLUMES)
    assert all(MOVE not in rig.knots["node1"].marks(name) for name in names)
    assert rig.knots["node1"].holds() == rig.knots["node2"].holds() == []
    go(rig, "node3")
    arrived(rig, kind, target="node3")
