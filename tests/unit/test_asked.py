"""What destroys or changes much is shown first and asked for, and a dry run does no more than show it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.killing import dies
from tests.node import DAY
from tests.rig import Rig, make_rig
from zfsganeti import undo
from zfsganeti.cli import parser
from zfsganeti.disks import find_instance
from zfsganeti.errors import BadInput, Missing
from zfsganeti.node import PeerFailed
from zfsganeti.rollback_plan import unfinished
from zfsganeti.snapshots import asked

FILE = "u1.file.disk0"
VOLUME = "u1.ext.disk0"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return make_rig(tmp_path, monkeypatch)


class Person:
    """Somebody at the terminal, who gives the same answer to every question."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer, self.questions = "n", 0
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr("builtins.input", self._asked)

    def _asked(self, *_question: str) -> str:
        self.questions += 1
        return self.answer


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Person:
    return Person(monkeypatch)


def typed(rig: Rig, *words: str) -> int:
    options = parser().parse_args(words)
    status = options.run(rig.master, options)
    assert isinstance(status, int)
    return status


def state(rig: Rig) -> dict[str, Any]:
    return {name: knot.fake.state() for name, knot in rig.knots.items()}


# trash restore --into


@pytest.fixture
def ganeti(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A removed disk on the master, beside an instance that can have it; return what is typed at Ganeti."""
    rig.ganeti.add("web1", "ext", "node1", {VOLUME: b"old"}, up=False)
    rig.master.volumes.remove(VOLUME)
    del rig.ganeti.data["web1"]
    rig.ganeti.add("web2", "ext", "node1", {"u2.ext.disk0": b"new"}, up=False)
    done: list[tuple[str, ...]] = []

    def run(*words: str, seconds: float = 0) -> str:  # noqa: ARG001
        done.append(words)
        return ""

    monkeypatch.setattr(undo, "run", run)
    return done


def test_a_dry_run_of_a_restore_into_another_instance_changes_nothing(
    rig: Rig, ganeti: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = [entry.entry for entry in rig.master.trash.entries()]
    before = state(rig)
    assert typed(rig, "trash", "restore", entry, "--into", "web2", "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{entry} on node1 becomes disk 1 of web2"
    assert said[1].startswith("gnt-instance modify --disk add:")
    assert len(said) == 2
    assert (ganeti, state(rig)) == ([], before)
    assert typed(rig, "trash", "restore", entry, "--into", "web2") == 0
    assert [words[-1] for words in ganeti] == ["web2", "web2"]
    assert capsys.readouterr().out.endswith(f"The disk {entry} is the last disk of web2 now.\n")


def test_a_disk_comes_under_a_new_name_or_into_what_there_is(rig: Rig, ganeti: list[tuple[str, ...]]) -> None:
    with pytest.raises(BadInput, match="only one of them"):
        typed(rig, "trash", "restore", "web1", "--into", "web2", "--as", "web3")
    assert ganeti == []


def test_who_looks_for_what_an_interrupted_restore_has_taken_out_learns_how_it_goes_on(rig: Rig) -> None:
    rig.ganeti.add("web1.example.com", "ext", "node2", {VOLUME: b"old" * 500}, up=False)
    volumes, trash = rig.knots["node2"].volumes, rig.knots["node2"].trash
    volumes.keep_record(VOLUME, {"name": "web1.example.com", "uuid": "u", "disk": 0})
    with pytest.raises(Missing, match="^web1 in the trash does not exist: gnt-zfs trash list shows what is there$"):
        typed(rig, "trash", "restore", "web1")  # it is about to be removed, and is there
    volumes.remove(VOLUME)
    del rig.ganeti.data["web1.example.com"]
    (entry,) = trash.entries()
    trash.reserve(entry.entry, f"{entry.entry}@secret")
    volumes.create("v2.ext.disk0", 1500, {"trash": f"{entry.entry}@secret"})
    with pytest.raises(Missing, match="an interrupted restore left of web1.example.com goes back there by gnt-zfs check --repair"):
        typed(rig, "trash", "restore", "web1")
    with pytest.raises(Missing, match="gnt-zfs trash list shows what is there$"):
        typed(rig, "trash", "restore", "web2")


def test_who_restores_when_one_disk_was_left_outside_the_trash_learns_how_it_goes_back(rig: Rig) -> None:
    """Its create was killed, Ganeti's add failed and has removed the other disk again."""
    vars(rig.ganeti).update(networks=set, macs=dict)
    rig.ganeti.add("web1", "ext", "node2", {VOLUME: b"zero", "u2.ext.disk1": b"one"}, up=False)
    volumes, trash = rig.knots["node2"].volumes, rig.knots["node2"].trash
    for disk, volume in enumerate((VOLUME, "u2.ext.disk1")):
        record = {"name": "web1", "uuid": "u", "nics": [], "tags": [], "disks": [{}, {}], "disk": disk}
        volumes.keep_record(volume, record)
        volumes.remove(volume)
    del rig.ganeti.data["web1"]
    (entry,) = [entry.entry for entry in trash.entries() if entry.volume == "u2.ext.disk1"]
    trash.reserve(entry, f"{entry}@secret")
    volumes.create("v2.ext.disk1", 3, {"trash": f"{entry}@secret"})
    said = "^disk 1 of web1 in the trash does not exist: what an interrupted restore left of web1 goes back there by gnt-zfs check --repair"
    with pytest.raises(Missing, match=said):
        typed(rig, "trash", "restore", "web1")
    trash.destroy(trash.put_volume(volumes.must("v2.ext.disk1"), 3))
    with pytest.raises(Missing, match=r"^disk 1 of web1 .*: gnt-zfs trash restore u1.ext.disk0:\w+ --into INSTANCE restores one$"):
        typed(rig, "trash", "restore", "web1")


# trash empty --expired


@pytest.fixture
def expired(rig: Rig) -> list[str]:
    """Each of two nodes has an entry that has had its time, and one a younger one, too; return the old ones."""
    for node, name in (("node1", "old1"), ("node2", "old2")):
        rig.ganeti.add(name, "file", node, {FILE: b"x"}, up=False)
        rig.knots[node].trash.put(name)
    entries = [entry.entry for node in ("node1", "node2") for entry in rig.knots[node].trash.entries()]
    for knot in rig.knots.values():
        knot.trash.give_up()
        for _day in range(7):
            knot.fake.clock += DAY
            if _day < 6:
                assert knot.trash.give_up() == ([], [])
    rig.ganeti.add("young", "file", "node1", {FILE: b"x"}, up=False)
    rig.master.trash.put("young")
    return entries


def test_what_is_expired_is_shown_and_asked_for(rig: Rig, expired: list[str], person: Person, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(rig)
    assert typed(rig, "trash", "empty", "--expired") == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said[:-1]] == expired
    assert (person.questions, state(rig)) == (1, before)
    person.answer = "y"
    assert typed(rig, "trash", "empty", "--expired") == 0
    assert capsys.readouterr().out.endswith(f"node1: {expired[0]} is gone\nnode2: {expired[1]} is gone\n")
    assert [entry.instance for knot in rig.knots.values() for entry in knot.trash.entries()] == ["young"]
    assert typed(rig, "trash", "empty", "--expired") == 0
    assert capsys.readouterr().out == "Nothing in the trash has had its time.\n"
    assert person.questions == 2


def test_what_was_not_shown_does_not_go(rig: Rig, expired: list[str], person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_question: str) -> str:
        rig.master.fake.clock += DAY
        rig.master.trash.give_up(only=())
        for _day in range(6):
            rig.master.fake.clock += DAY
            rig.master.trash.give_up(only=())
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    assert person
    assert typed(rig, "trash", "empty", "--expired") == 0
    assert expired
    assert [entry.instance for entry in rig.master.trash.entries()] == ["young"]


@pytest.mark.parametrize("words", [("web1:20261101T000000Z",), ("--with-snapshots",)])
def test_what_is_expired_is_not_chosen(rig: Rig, expired: list[str], words: tuple[str, ...]) -> None:
    before = state(rig)
    assert expired
    with pytest.raises(BadInput, match="takes neither entries nor --with-snapshots"):
        typed(rig, "trash", "empty", "--yes", "--expired", *words)
    assert state(rig) == before


def test_expired_goes_without_a_question_when_that_is_said(rig: Rig, expired: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rig.knots["node2"].away = True
    assert typed(rig, "trash", "empty", "--expired", "--yes") == 3
    told = capsys.readouterr()
    assert f"node1: {expired[0]} is gone\n" in told.out
    assert told.err == "gnt-zfs: node2: cannot be reached (no route to host)\n"
    assert expired[1] in [entry.entry for entry in rig.knots["node2"].trash.entries()]


# snapshot rollback --abort


@pytest.fixture
def half(rig: Rig) -> Rig:
    """A rollback of web1 was cut off, early enough to be taken back."""
    rig.ganeti.add("web1", "file", "node2", {FILE: b"first"}, up=False)
    knot = rig.knots["node2"]
    knot.fake.snapshot(["zfs/vm/web1@gnt-one"])
    rig.ganeti.write("web1", FILE, b"later")
    request = {**asked(find_instance(rig.ganeti.instances(), "web1")), "snapshot": "one", "record": None}
    point = 0
    while not unfinished(knot):
        point += 1
        dies(knot.fake.reaper, point, lambda: rig.master.call("node2", "rollback", **request))
    return rig


def test_a_rollback_is_taken_back_after_it_was_shown_and_asked_for(half: Rig, person: Person, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(half)
    assert typed(half, "snapshot", "rollback", "web1", "one", "--abort", "--dry-run") == 0
    shown = [
        "A rollback of web1 to gnt-one was interrupted.",
        "zfs/vm/web1 holds again what it held before the rollback, with all its snapshots",
    ]
    assert capsys.readouterr().out.splitlines() == shown
    assert typed(half, "snapshot", "rollback", "web1", "one", "--abort") == 1
    assert capsys.readouterr().out.splitlines() == [*shown, "Nothing was changed."]
    assert (person.questions, state(half)) == (1, before)
    assert typed(half, "snapshot", "rollback", "web1", "one", "--abort", "--yes") == 0
    assert capsys.readouterr().out.endswith("web1 is as it was before its rollback to gnt-one.\n")
    assert half.content("web1") == {FILE: b"later"}
    with pytest.raises(PeerFailed, match="a rollback of web1 that was interrupted"):
        typed(half, "snapshot", "rollback", "web1", "one", "--abort", "--dry-run")


def test_a_rollback_is_not_taken_back_and_made_for_good(half: Rig) -> None:
    before = state(half)
    with pytest.raises(BadInput, match="only one of them"):
        typed(half, "snapshot", "rollback", "web1", "one", "--abort", "--discard", "--yes")
    assert state(half) == before
