"""Nodes that cannot be reached while an instance is on its way, answer what nobody understands or what is not so, and an evacuation's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakezfs import Filesystem
from tests.rig import Knot, Rig, go, make_rig
from tests.unit.test_move import DISKS, FILES, KINDS, VOLUMES, arrived
from zfsganeti import move
from zfsganeti.cli import parser
from zfsganeti.datasets import MOVE
from zfsganeti.errors import Refused, Unavailable, ZfsGanetiError
from zfsganeti.snapshots import COMMENT


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


# what is not so

Lie = Callable[[Filesystem], None]
OTHER = "123456789"  # a GUID of nobody's


def drop(came: Filesystem) -> None:
    del came.snapshots[max(came.snapshots, key=lambda short: came.snapshots[short].number)]


def swap(came: Filesystem) -> None:
    max(came.snapshots.values(), key=lambda snap: snap.number).guid = OTHER


def scribble(came: Filesystem) -> None:
    came.properties["readonly"] = "off"
    for path in Path(came.files).iterdir():
        path.write_bytes(b"by hand")


LIES = pytest.mark.parametrize("lie", [drop, swap, scribble])


def lying(knot: Knot, monkeypatch: pytest.MonkeyPatch, lie: Lie, since: Callable[[], bool]) -> list[str]:
    """Whatever the node receives is said to be there, and is not, from a moment on; return what that was."""
    receive, lied = knot.net.receive, list[str]()

    def claim(command: list[str], descriptor: int, *, seconds: float) -> None:
        receive(command, descriptor, seconds=seconds)
        if since():
            lied.append(command[-1])
            lie(knot.fake._must(command[-1]))

    monkeypatch.setattr(knot.net, "receive", claim)
    return lied


def add_and_write(rig: Rig, kind: str) -> None:
    """An instance runs, and writes something just before it is stopped."""
    rig.ganeti.add("web1", kind, "node1", dict.fromkeys(DISKS[kind], b"old" * 400))

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("ganeti", "shutdown"):
            for disk, content in DISKS[kind].items():
                rig.ganeti.write("web1", disk, content)

    rig.before = before


def runs_where_it_was(rig: Rig, kind: str) -> None:
    """The instance runs on the source with all that it had, and can write there."""
    known = rig.ganeti.data["web1"]
    assert (known["primary"], known["up"]) == ("node1", True)
    assert rig.content("web1") == DISKS[kind]
    for disk, content in DISKS[kind].items():
        rig.ganeti.write("web1", disk, content)


def refused_in_a_line(rig: Rig, line: str) -> None:
    with pytest.raises(ZfsGanetiError, match=line) as caught:
        go(rig)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == Refused.exit_code


@KINDS
@pytest.mark.parametrize(("lie", "there"), [(drop, ""), (swap, r" \(zfsganeti-move-1\)")])
def test_a_first_pass_that_is_said_to_have_come_and_has_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, lie: Lie, there: str
) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    name = "web1" if kind == "file" else "[uv].ext.disk[01]"
    with monkeypatch.context() as lies:
        assert lying(rig.knots["node2"], lies, lie, lambda: True) == []
        refused_in_a_line(rig, f"^node2: {name}: does not have what was sent{there}: gnt-zfs move goes on$")
    assert rig.ganeti.typed == [], "nothing was stopped for it"
    runs_where_it_was(rig, kind)
    go(rig)
    arrived(rig, kind)


@KINDS
@LIES
def test_a_last_pass_that_is_said_to_have_come_and_has_not(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, lie: Lie) -> None:
    add_and_write(rig, kind)
    name = "web1" if kind == "file" else "[uv].ext.disk[01]"
    with monkeypatch.context() as lies:
        lied = lying(rig.knots["node2"], lies, lie, lambda: "shutdown web1" in rig.ganeti.typed)
        refused_in_a_line(rig, rf"^node2: {name}: does not have what was sent(?: \(zfsganeti-move-[12]\))?: gnt-zfs move goes on$")
        assert lied
    assert rig.ganeti.typed == ["shutdown web1", "startup web1"]
    runs_where_it_was(rig, kind)
    go(rig)
    arrived(rig, kind)


@KINDS
@LIES
def test_a_last_pass_that_has_not_come_once_is_sent_again(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, lie: Lie) -> None:
    add_and_write(rig, kind)
    once = [True]
    lying(rig.knots["node2"], monkeypatch, lie, lambda: "shutdown web1" in rig.ganeti.typed and bool(once) and once.pop())
    if lie is scribble:  # what was sent is there: nobody says that it is to be sent again
        refused_in_a_line(rig, r"does not have what was sent \(zfsganeti-move-2\): gnt-zfs move goes on$")
        runs_where_it_was(rig, kind)
    go(rig)
    arrived(rig, kind)


@LIES
def test_what_is_gone_again_before_it_is_called_ready(rig: Rig, lie: Lie) -> None:
    """What makes it ready is too much to be told before the stream, and is told later."""
    rig.ganeti.add("web1", "file", "node1", FILES)
    lies = [lie]

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("ganeti", "shutdown") and lies:
            for number in range(120):
                rig.knots["node1"].fake.snapshot([f"zfs/vm/web1@gnt-{number}"], {COMMENT: "x" * 190})
        elif (who, verb) == ("node2", "move-ready") and lies:
            lies.pop()(rig.knots["node2"].fake._must("zfs/vm/.moving/web1"))

    rig.before = before
    refused_in_a_line(rig, r"^node2: web1: does not have what was sent \([\w-]+\): gnt-zfs move goes on$")
    assert lies == []
    runs_where_it_was(rig, "file")
    go(rig)
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"], rig.content("web1")) == ("node2", True, FILES)


@KINDS
def test_what_does_not_say_that_it_is_ready_is_asked_before_the_switch(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A node that says that it has a stream, and nothing of what was to be done with it, is not believed to have done it."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    streams = rig.knots["node1"].net
    door = streams.doors["node2"]

    def claim(verb: str, request: dict[str, Any], descriptor: int) -> dict[str, Any]:
        if request["ready"] is None:
            return door(verb, request, descriptor)
        return {"answer": {"newest": request["wanted"]}}

    with monkeypatch.context() as lies:
        lies.setitem(streams.doors, "node2", claim)
        refused_in_a_line(rig, r"^node2: (web1|[uv].ext.disk[01]): does not have what was sent \(zfsganeti-move-1\): gnt-zfs move goes on$")
    assert rig.ganeti.typed == ["shutdown web1", "startup web1"]
    runs_where_it_was(rig, kind)
    go(rig)
    arrived(rig, kind)


@pytest.mark.parametrize("tells", [True, False])
def test_what_says_that_it_is_ready_is_not_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch, tells: bool) -> None:
    """One with an earlier version does not say it, and is asked."""
    rig.ganeti.add("web1", "file", "node1", FILES)
    streams = rig.knots["node1"].net
    door = streams.doors["node2"]

    def earlier(verb: str, request: dict[str, Any], descriptor: int) -> dict[str, Any]:
        return {"answer": {"newest": door(verb, request, descriptor)["answer"]["newest"]}}

    if not tells:
        monkeypatch.setitem(streams.doors, "node2", earlier)
    go(rig)
    arrived(rig, "file")
    assert (("node2", "move-ready") in rig.asked) is not tells


@KINDS
@pytest.mark.parametrize("said", [{"ready": OTHER}, {"ready": ""}, {"instance": "web9"}])
def test_what_says_something_else_when_it_is_to_land_stays_stopped_until_it_is_sent_again(
    rig: Rig, kind: str, said: dict[str, str]
) -> None:
    """After the switch there is no way back: nobody starts it anywhere meanwhile, and what the source is fenced with is whole."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    names = ["web1"] if kind == "file" else list(VOLUMES)
    last = f"zfs/vm/.moving/{names[-1]}"  # those before it land
    there = rig.knots["node2"].fake

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("node2", "move-land"):
            there.set(last, {MOVE: json.dumps({**json.loads(there.local(last)[MOVE]), **said})})

    rig.before = before
    line = rf"^web1: is on node2 now and is stopped \(node2: {names[-1]}: is not what the source was fenced with: gnt-zfs move goes on\)"
    refused_in_a_line(rig, f"{line}: gnt-zfs move web1 node2 goes on$")
    rig.before = lambda _who, _verb: None
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node2", False)
    assert not rig.starts_on("web1", "node2")
    for name, content in zip(names, [DISKS[kind]] if kind == "file" else [{"disk.raw": one} for one in VOLUMES.values()], strict=True):
        assert {disk: data.rstrip(b"\0") for disk, data in rig.knots["node1"].files(name).items()} == content
    if "instance" not in said:
        go(rig)
        arrived(rig, kind)


# an evacuation


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


@pytest.mark.parametrize("up", [True, False])
def test_an_instance_with_a_disk_that_is_but_a_link_stays_as_it_is(rig: Rig, tmp_path: Path, up: bool) -> None:
    """What it leads to does not go along: the instance would be stopped, and start nowhere else."""
    rig.ganeti.add("web1", "file", "node1", FILES, up=up)
    disk, elsewhere = Path(rig.ganeti.path("web1", sorted(FILES)[0])), tmp_path / "elsewhere"
    disk.rename(elsewhere)
    disk.symlink_to(elsewhere)
    said = f"dataset zfs/vm/web1 on node1: {disk.name} is a link, and the disk that it leads to would stay behind: move the disk to where "
    with pytest.raises(Refused, match=said):
        go(rig)
    assert (rig.ganeti.typed, rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ([], "node1", up)
    assert MOVE not in rig.knots["node1"].marks("web1")
