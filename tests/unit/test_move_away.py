"""Nodes that cannot be reached while an instance is on its way, or answer what nobody understands, and those of an evacuation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, make_rig
from tests.unit.test_move import DISKS, FILES, KINDS, VOLUMES, arrived, go
from zfsganeti import move
from zfsganeti.cli import parser
from zfsganeti.errors import Unavailable


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield make_rig(tmp_path, monkeypatch)


AFTER_THE_SWITCH = pytest.mark.parametrize(("node", "verb"), [("node2", "move-land"), ("node1", "move-check")])


@KINDS
@AFTER_THE_SWITCH
def test_a_link_that_is_gone_for_a_moment_right_after_the_switch(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, node: str, verb: str
) -> None:
    monkeypatch.setattr(move, "LINK_SECONDS", 60.0)
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    asked = []

    def before(who: str, what: str) -> None:
        if (who, what) == (node, verb):
            asked.append(who)
            rig.knots[node].away = len(asked) < 4

    rig.before = before
    said: list[str] = []
    assert go(rig, said=said).down is not None
    arrived(rig, kind)
    tried = f"web1: {node}: cannot be reached (no route to host): it is tried again for 60 s"
    assert [text for text in said if "cannot be reached" in text] == [tried]


@KINDS
@AFTER_THE_SWITCH
@pytest.mark.parametrize("starts", [True, False])
def test_a_link_that_stays_away_right_after_the_switch(rig: Rig, kind: str, node: str, verb: str, starts: bool) -> None:
    """Its start asks for itself; without it, it is said where the instance is, and the same command goes on."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])

    def before(who: str, what: str) -> None:
        if (who, what) == (node, verb):
            rig.knots[node].away = True
            rig.ganeti.fails = set() if starts else {"startup"}

    rig.before = before
    runs = starts and node == "node2"  # the start there asks the source, which answers
    state = "runs" if runs else "is stopped"
    said: list[str] = []
    line = rf"^web1: is on node2 now and {state} \({node}: cannot be reached \(no route to host\)\): gnt-zfs move web1 node2 goes on$"
    with pytest.raises(Unavailable, match=line):
        go(rig, said=said)
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node2", runs)
    assert not any("--abort" in text for text in said), "there is no way back after the switch"
    rig.before = lambda _who, _verb: None
    rig.knots[node].away, rig.ganeti.fails = False, set()
    go(rig)
    arrived(rig, kind)


@pytest.mark.parametrize("answer", [{}, {"moved": "much"}, {"moved": 1, "seconds": 1, "written": None, "guids": {}}, []])
def test_an_answer_that_is_not_understood_leaves_it_running_where_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    listen = rig.master.listen

    def garbled(peer: str, verb: str, hear: Any, **request: Any) -> Any:
        return answer if request["last"] else listen(peer, verb, hear, **request)

    monkeypatch.setattr(rig.master, "listen", garbled)
    with pytest.raises(
        Unavailable, match=r"^node1: gnt-zfs there answers in a way not known here \(.*\): install the same version on every node$"
    ):
        go(rig)
    assert rig.ganeti.typed == ["shutdown web1", "startup web1"]
    monkeypatch.setattr(rig.master, "listen", listen)
    go(rig)
    arrived(rig, "file")


def evacuate(rig: Rig, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(rig.master, "is_master", lambda: True)
    options = parser().parse_args(["move", "--yes", "--parallel", "1", *words])
    return int(options.run(rig.master, options))


def test_a_node_that_does_not_answer_is_given_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.knots["node3"].away = True
    assert evacuate(rig, monkeypatch, "--from", "node1") == 0
    assert "node3: nothing is moved there (cannot be reached (no route to host))\n" in capsys.readouterr().out
    arrived(rig, "file")


def test_where_no_node_answers_it_is_said_why(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.knots["node3"].away = True
    with pytest.raises(Unavailable, match="^node3: cannot be reached"):
        evacuate(rig, monkeypatch, "--from", "node1", "node3")


def test_a_source_that_does_not_answer_keeps_no_other_from_being_emptied(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.ganeti.add("web2", "ext", "node2", VOLUMES, up=False)
    rig.knots["node2"].away = True
    assert evacuate(rig, monkeypatch, "--from", "node1", "--from", "node2") == Unavailable.exit_code
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[:3] for row in rows] == [["web1", "node1", "node3"], ["web2", "node2", "node3"]]
    assert rows[0][-1] == "moved"
    assert "reached" in rows[1]
    assert rig.ganeti.data["web1"]["primary"] == "node3"
