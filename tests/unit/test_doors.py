"""Doors: a verb that a peer has begun with before it is asked for anything."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.rig import make_rig
from zfsganeti import answer, cli
from zfsganeti.config import Config
from zfsganeti.errors import Unavailable
from zfsganeti.here import Here
from zfsganeti.node import Door, PeerFailed
from zfsganeti.streams import Streams

ECHO = "import json, sys; print(json.dumps({'answer': sys.stdin.read()}))"
SECONDS = 30.0


def door(text: str, *, talks: bool = False) -> Door:
    return Door("node2", ["/usr/bin/python3", "-u", "-c", text], talks=talks)


def until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_waits_is_asked_and_answers() -> None:
    with door(ECHO) as opened:
        assert opened.is_open()
        assert opened.ask({"a": 1}, seconds=SECONDS) == '{"a": 1}'
        assert not opened.is_open()


@pytest.mark.parametrize("talks", [False, True])
def test_who_comes_early_is_told_when_all_is_ready(tmp_path: Path, *, talks: bool) -> None:
    go = tmp_path / "go"
    text = (
        f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "print('{\"told\": {}}', flush=True)\ninput()\nprint('{\"answer\": 3}')"
    )
    with door(text, talks=talks) as opened:
        assert not opened.is_ready()
        go.touch()
        until(opened.is_ready)
        assert opened.is_open()
        assert (opened.listen({}, lambda _told: None, seconds=SECONDS) if talks else opened.ask({}, seconds=SECONDS)) == 3
        assert opened.is_ready()


@pytest.mark.parametrize("talks", [False, True])
def test_what_ends_is_not_waited_for(*, talks: bool) -> None:
    with door("pass", talks=talks) as opened:
        until(opened.is_ready)
        until(lambda: not opened.is_open())


def test_the_command_says_that_it_is_ready_and_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("nonsense"))
    assert cli.main(["node", "move-check", "early"]) == 2
    assert capsys.readouterr().out.splitlines() == ['{"told": {}}', '{"error": "the request is no JSON", "code": 2}']
    monkeypatch.setattr("sys.stdin", io.StringIO("nonsense"))
    assert cli.main(["node", "move-check"]) == 2
    assert capsys.readouterr().out == '{"error": "the request is no JSON", "code": 2}\n'


def test_a_large_request_is_read_whole() -> None:
    with door("import sys; print('{\"answer\": %d}' % len(sys.stdin.read()))") as opened:
        assert opened.ask({"a": "x" * 1000000}, seconds=SECONDS) == 1000009


def test_what_tells_how_far_it_is_is_heard() -> None:
    heard: list[dict[str, Any]] = []
    with door('input(); print(\'{"told": {"moved": 1}}\'); print(\'{"answer": 2}\')', talks=True) as opened:
        assert opened.listen({}, heard.append, seconds=SECONDS) == 2
    assert heard == [{"moved": 1}]


@pytest.mark.parametrize("talks", [False, True])
def test_what_is_not_asked_sees_the_end_of_its_input(tmp_path: Path, *, talks: bool) -> None:
    with door(f"import sys, signal; signal.signal(15, signal.SIG_IGN); open({str(tmp_path / 'began')!r}, 'w').close(); "
              f"open({str(tmp_path / 'ended')!r}, 'w').write(repr(sys.stdin.read()))", talks=talks) as opened:  # fmt: skip
        until((tmp_path / "began").exists)
    assert (tmp_path / "ended").read_text(encoding="utf-8") == "''"
    assert not opened.is_open()


def test_a_door_that_has_fallen_shut_is_not_open() -> None:
    with door("import sys; sys.exit(255)") as opened:
        until(lambda: not opened.is_open())
        with pytest.raises(Unavailable, match="node2: cannot be reached"):
            opened.ask({}, seconds=SECONDS)


def test_refusals_and_slowness_are_told_as_without_a_door() -> None:
    with (
        door('import sys; sys.stdin.read(); print(\'{"error": "no", "code": 6}\')') as opened,
        pytest.raises(PeerFailed, match="^node2: no$"),
    ):
        opened.ask({}, seconds=SECONDS)
    with door("import time; time.sleep(60)") as opened, pytest.raises(Unavailable, match="no end within"):
        opened.ask({}, seconds=0.1)


@pytest.fixture
def node1() -> Here:
    here = Here(lambda: answer.VERBS)
    here.__dict__.update(node="node1", config=Config(), ssconf=SimpleNamespace(ssh=lambda _peer: ["/usr/bin/echo", "asked-anew"]))
    return here


def test_this_node_has_no_door(node1: Here) -> None:
    assert node1.open("node1", "move-check") is None


def test_one_that_is_shut_is_opened_anew(node1: Here) -> None:
    with door("import sys; sys.exit(255)") as opened:
        until(lambda: not opened.is_open())
        with pytest.raises(Unavailable, match="asked-anew"):
            node1.call("node2", "move-check", door=opened)
    with door("import sys; sys.exit(255)", talks=True) as opened:
        until(lambda: not opened.is_open())
        with pytest.raises(Unavailable, match="asked-anew"):
            node1.listen("node2", "move-send", lambda _told: None, door=opened)


def test_an_open_one_is_used(node1: Here) -> None:
    with door(ECHO) as opened:
        assert node1.call("node2", "move-check", door=opened, name="x") == '{"name": "x"}'


def test_a_verb_is_ready_before_it_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And nothing of what it will do has been begun then: what it is not asked, it does not do."""
    rig = make_rig(tmp_path, monkeypatch)
    order: list[str] = []
    monkeypatch.setattr(answer, "_enter", order.append)

    def read() -> str:
        order.append("read")
        raise Unavailable("enough", "seen")

    for verb, rooms in (
        ("move-check", ["fence"]),
        ("move-land", ["arrival"]),
        ("move-send", ["departure"]),
        ("receive", ["transfer", "arrival"]),
    ):
        assert answer.answer(rig.master, verb, read)["code"] == Unavailable.exit_code
        assert order == [*rooms, "read"]
        order.clear()


@pytest.mark.parametrize("verb", ["move-check", "move-land", "move-send", "receive"])
def test_who_opened_a_door_and_died_has_asked_for_nothing(verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rig = make_rig(tmp_path, monkeypatch)
    rig.ganeti.add("web1", "file", "node1", {"x.file.disk0": b"web1"}, up=False)
    before = rig.master.fake.state()
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    said = answer.answer(rig.master, verb, lambda: "")
    assert said["code"] == 2, said
    assert rig.master.fake.state() == before


def test_a_move_opens_doors_and_leaves_none_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from zfsganeti.move import Move, Options

    rig = make_rig(tmp_path, monkeypatch)
    rig.ganeti.add("web1", "file", "node2", {"x.file.disk0": b"web1"})
    opened: list[tuple[str, str]] = []
    open_ = type(rig.master).open
    monkeypatch.setattr(type(rig.master), "open", lambda self, peer, verb: opened.append((peer, verb)) or open_(self, peer, verb))  # type: ignore[func-returns-value]
    move = Move(rig.master, "web1", "node3", Options(), lambda _text: None, lambda *_told: None)
    move.prepare()
    move.run()
    assert opened == [("node2", "move-send"), ("node2", "move-check"), ("node3", "move-land"), ("node3", "receive")]
    assert rig.doors == []
    assert rig.ganeti.data["web1"]["primary"] == "node3"


def test_a_stream_goes_to_what_waits_for_it(tmp_path: Path) -> None:
    got = tmp_path / "got"
    text = f"import sys; d = sys.stdin.buffer.read(); open({str(got)!r}, 'wb').write(d); print('{{\"answer\": 1}}')"
    with door(text) as opened:
        done = Streams().pump("node2", ["printf", "stream"], ["no-such-ssh"], {"a": 1}, seconds=SECONDS, begun=opened.child)
        assert (done.status, done.stdout.strip()) == (0, '{"answer": 1}')
        assert not opened.is_open()
    assert got.read_bytes() == b'{"a": 1}\nstream'
