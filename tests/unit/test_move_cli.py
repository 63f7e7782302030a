"""What is typed at gnt-zfs move, and what it needs to know before anything is stopped."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, go, make_rig
from tests.unit.test_move import DISKS, FILES, KINDS, VOLUMES, arrived
from zfsganeti import arrival, move, move_cli
from zfsganeti.answer import VERBS
from zfsganeti.cli import parser
from zfsganeti.datasets import MOVE
from zfsganeti.errors import BadInput, CommandFailed, Refused, Unavailable
from zfsganeti.process import reading
from zfsganeti.shapes import SHAPES
from zfsganeti.snapshots import COMMENT, histories


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = make_rig(tmp_path, monkeypatch)
    monkeypatch.setattr(made.master, "is_master", lambda: True)
    yield made


def typed(rig: Rig, *words: str) -> int:
    options = parser().parse_args(["move", *words])
    status = options.run(rig.master, options)
    assert isinstance(status, int)
    return status


class Terminal:
    """Somebody at a terminal, who answers, and may hang up."""

    encoding = "utf-8"

    def __init__(self, answer: str = "") -> None:
        self.answer, self.gone = answer, False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(errno.EIO, "Input/output error")
        return len(text)

    def flush(self) -> None:
        self.write("")

    def readline(self) -> str:
        return f"{self.answer}\n"


# the way back


def test_a_way_back_is_shown_and_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    go(rig, presync_only=True)
    before = {name: knot.fake.state() for name, knot in rig.knots.items()}
    assert typed(rig, "--abort", "--dry-run", "web1") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "web1: stays on node1"
    assert said[1].startswith("  zfs/vm/.moving/web1 on node2 goes away, with ")
    assert len(said) == 2
    with pytest.raises(BadInput, match="nobody can be asked, standard input is no terminal: --yes does it without asking"):
        typed(rig, "--abort", "web1")
    monkeypatch.setattr(sys, "stdin", Terminal("n"))
    monkeypatch.setattr("builtins.input", lambda _question: "n")
    assert typed(rig, "--abort", "web1") == 1
    assert capsys.readouterr().out.endswith("Nothing was changed.\n")
    assert {name: knot.fake.state() for name, knot in rig.knots.items()} == before
    monkeypatch.setattr("builtins.input", lambda _question: "y")
    assert typed(rig, "--abort", "web1") == 0
    assert rig.knots["node2"].datasets() == [".moving"]
    assert MOVE not in rig.knots["node1"].marks("web1")


def test_a_way_back_from_nowhere_asks_nothing(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    assert typed(rig, "--abort", "web1") == 0
    assert capsys.readouterr().out == "web1: is on node1, nothing is known of a move\n"


def test_what_has_come_of_a_gone_instance_is_asked_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VERBS, "report", lambda here, _request: {"moving": arrival.report(here)})
    monkeypatch.delitem(SHAPES, "report")  # all else that there is in one
    rig.ganeti.add("web1", "file", "node1", FILES)
    go(rig, presync_only=True)
    del rig.ganeti.data["web1"]
    assert typed(rig, "--abort", "--dry-run", "web1") == 0
    with pytest.raises(BadInput, match="nobody can be asked"):
        typed(rig, "--abort", "web1")
    assert "  zfs/vm/.moving/web1 on node2 goes away, with " in capsys.readouterr().out
    assert ".moving/web1" in rig.knots["node2"].datasets()
    assert typed(rig, "--abort", "--yes", "web1") == 0
    assert rig.knots["node2"].datasets() == [".moving"]


@pytest.mark.parametrize("word", ["--json", "--presync-only", "--full", "--no-start", "--keep-source", "--bwlimit=5", "--parallel=2"])
def test_a_way_back_has_no_words_of_a_way_there(rig: Rig, word: str) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    with pytest.raises(BadInput, match=f"^move --abort: has no {word.partition('=')[0]}$"):
        typed(rig, "--abort", "--yes", word, "web1")


def test_one_move_is_not_made_side_by_side(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    with pytest.raises(BadInput, match="move --parallel: goes with --from alone"):
        typed(rig, "--yes", "--parallel", "3", "web1", "node2")
    assert rig.ganeti.data["web1"]["primary"] == "node1"


# programs


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_programs_get_a_list_of_a_dry_run(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    assert typed(rig, "--json", "--dry-run", "web1", "node3") == 0
    (row,) = told(capsys)
    assert (row["instance"], row["source"], row["target"], row["moved"], row["problem"]) == ("web1", "node1", "node3", 0, "")


def test_programs_get_a_list_of_what_failed(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.ganeti.fails.add("modify")
    with pytest.raises(CommandFailed):
        typed(rig, "--json", "--yes", "web1", "node3")
    (row,) = told(capsys)
    assert row["problem"].startswith("gnt-instance modify")
    assert row["moved"] > 0
    rig.ganeti.closed = {"node3": "is drained"}
    with pytest.raises(Unavailable):
        typed(rig, "--json", "--yes", "web1", "node3")
    (row,) = told(capsys)
    assert (row["source"], row["target"]) == ("", "node3")
    assert row["problem"].startswith("node3: is drained")


def test_programs_get_a_list_of_a_node_without_instances(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(rig, "--json", "--from", "node3") == 0
    assert told(capsys) == []


@pytest.mark.parametrize("words", [("web2", "node3"), ("--from", "node2", "node3")], ids=["one", "many"])
def test_questions_do_not_get_into_what_programs_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    three(rig)
    with pytest.raises(BadInput, match="nobody can be asked"):
        typed(rig, "--json", *words)
    assert all(row["problem"].startswith("nobody can be asked") for row in told(capsys))
    with monkeypatch.context() as patched:
        patched.setattr(sys.stdin, "isatty", lambda: True)
        patched.setattr(sys.stdin, "readline", lambda *_size: "n\n")
        assert typed(rig, "--json", *words) == 1
    said = capsys.readouterr()
    assert [row["problem"] for row in json.loads(said.out)] == ["nothing was changed: the answer was no"] * (1 if len(words) == 2 else 3)
    assert "? [y/N] " in said.err
    assert said.err.endswith("Nothing was changed.\n")


# terminals that are gone


@pytest.mark.parametrize("when", ["move-begin", "shutdown", "move-send", "modify", "move-land", "startup", "move-leave"])
def test_whoever_hangs_up_leaves_no_instance_half_way(rig: Rig, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)

    def before(_who: str, verb: str) -> None:
        terminal.gone = terminal.gone or verb == when

    rig.before = before
    assert typed(rig, "--yes", "web1", "node2") == 0
    arrived(rig, "file")


def test_whoever_hangs_up_before_something_fails_leaves_it_running(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.ganeti.fails.add("modify")

    def hang_up(_text: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    one = move.Move(rig.master, "web1", "node2", move.Options(), hang_up, lambda *_words: None)
    one.prepare()
    with pytest.raises(CommandFailed):
        one.run()
    assert rig.ganeti.data["web1"]["up"]


# what is refused before the stop


@pytest.mark.parametrize(("key", "value"), [("quota", "1048576"), ("recordsize", "16384"), ("refreservation", "1073741824")])
def test_what_the_target_cannot_have_set_is_said_before_the_stop(rig: Rig, monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.knots["node1"].fake.set("zfs/vm/web1", {key: value})
    there = rig.knots["node2"].fake
    does = there.set

    def refuse(name: str, values: dict[str, str]) -> None:
        if values.get(key) == value:
            raise CommandFailed("zfs set", 1, f"cannot set property for '{name}': out of space")
        does(name, values)

    monkeypatch.setattr(there, "set", refuse)
    with pytest.raises(Exception, match=r"what is set on web1: is refused by the ZFS of node2 \(cannot set property .* out of space\)"):
        go(rig)
    assert rig.ganeti.typed == []
    assert rig.ganeti.data["web1"]["up"]
    monkeypatch.setattr(there, "set", does)
    go(rig)
    arrived(rig, "file")
    assert there.local("zfs/vm/web1")[key] == value


def test_what_is_tried_ahead_leaves_what_comes_read_only_and_unmounted(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    settings = {"quota": "1073741824", "compression": "lz4", "reservation": "1048576"}
    rig.knots["node1"].fake.set("zfs/vm/web1", settings)
    go(rig, presync_only=True)
    there = rig.knots["node2"].fake
    found = there.local("zfs/vm/.moving/web1")
    assert (found["readonly"], found["canmount"], found["compression"]) == ("on", "noauto", "lz4")
    assert (found["quota"], found["reservation"]) == ("none", "none")
    assert "zfs/vm/.moving/web1" not in {mount.dataset for mount in there.mounts()}
    go(rig)
    found = there.local("zfs/vm/web1")
    assert {key: found[key] for key in settings} == settings


# comments


@KINDS
def test_comments_on_snapshots_go_along(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    here = rig.knots["node1"]
    names = ["web1"] if kind == "file" else list(VOLUMES)
    here.fake.snapshot([f"zfs/vm/{name}@gnt-early" for name in names], {COMMENT: "before the first pass"})
    here.fake.snapshot([f"zfs/vm/{name}@gnt-plain" for name in names])
    here.fake.snapshot([f"zfs/vm/{name}@gnt-odd" for name in names], {COMMENT: "x" * 999})  # by hand

    def before(_who: str, verb: str) -> None:
        if verb == "shutdown":
            here.fake.snapshot([f"zfs/vm/{name}@gnt-late" for name in names], {COMMENT: "in the meantime: 'quoted', \u00e9"})

    rig.before = before
    go(rig)
    disks = [{"volume": "" if kind == "file" else disk, "file": disk, "size": 1} for disk in DISKS[kind]]
    rows = histories(rig.knots["node2"], {"instances": [{"instance": "web1", "disks": disks}]})["rows"]
    assert {row["snapshot"]: row["comment"] for row in rows} == {
        "gnt-early": "before the first pass",
        "gnt-plain": "",
        "gnt-odd": "",
        "gnt-late": "in the meantime: 'quoted', \u00e9",
    }


def test_many_comments_go_another_way_than_before_the_stream(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    here = rig.knots["node1"]

    def before(_who: str, verb: str) -> None:
        if verb == "shutdown":
            for number in range(120):
                here.fake.snapshot([f"zfs/vm/web1@gnt-{number}"], {COMMENT: f"{number} " + "x" * 190})

    rig.before = before
    go(rig)
    found = rig.knots["node2"].fake.snapshot_facts("zfs/vm/web1", (COMMENT,), depth=1)
    assert found["zfs/vm/web1@gnt-119"][COMMENT].startswith("119 ")
    assert "move-ready" in {verb for _who, verb in rig.asked}


# many


def three(rig: Rig) -> None:
    for number in range(1, 4):
        rig.ganeti.add(f"web{number}", "file", "node2", {f"{number}.disk0": b"x" * number})


def test_what_is_only_sent_ahead_is_not_called_moved(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    three(rig)
    assert typed(rig, "--from", "node2", "--presync-only", "--yes", "node3") == 0
    table = capsys.readouterr().out.splitlines()[-3:]
    assert all(line.endswith("sent ahead") for line in table)


def test_nodes_that_are_given_no_instances_are_not_chosen(rig: Rig) -> None:
    three(rig)
    rig.ganeti.closed = {"node3": "is drained"}
    rig.knots["node3"].fake.available = 900 << 30
    assert typed(rig, "--from", "node2", "--yes") == 0
    assert {known["primary"] for known in rig.ganeti.data.values()} == {"node1"}
    with pytest.raises(Unavailable, match="^node3: is drained, no instance is to come there: choose another node$"):
        typed(rig, "--yes", "web1", "node3")
    rig.ganeti.closed = {"node1": "is drained"}
    with pytest.raises(Refused, match="is on node1 already"):  # where one is it may stay
        typed(rig, "--yes", "web1", "node1")


def test_what_fails_in_one_move_stops_no_other(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    three(rig)

    def before(_who: str, verb: str) -> None:
        if verb == "shutdown" and rig.ganeti.typed[-1].endswith("web1"):
            raise OSError(errno.ENOSPC, "No space left on device")

    rig.before = before
    assert typed(rig, "--from", "node2", "--parallel", "1", "--yes", "node3") == 7
    said = capsys.readouterr()
    assert {name: known["primary"] for name, known in rig.ganeti.data.items()} == {"web1": "node2", "web2": "node3", "web3": "node3"}
    assert [line.split()[-1] for line in said.out.splitlines()[-2:]] == ["moved", "moved"]
    assert rig.ganeti.data["web1"]["up"]


def test_a_ctrl_c_does_not_reach_what_moves_have_started(rig: Rig) -> None:
    three(rig)
    blocked: dict[str, int] = {}
    ask = ["grep", "SigBlk", "/proc/self/status"]

    def before(_who: str, verb: str) -> None:
        with reading(ask) as child:
            blocked[verb] = int(child.read(100).split()[1], 16) & 1 << (signal.SIGINT - 1)

    rig.before = before
    assert typed(rig, "--from", "node2", "--yes", "node3") == 0
    assert {verb for verb, yes in blocked.items() if not yes} <= {"move-source", "move-target"}  # asked for the plan, by the main thread
    for verb in ("shutdown", "move-send", "receive-state", "modify"):
        assert blocked[verb], verb
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interruption_ends_what_has_begun_and_shows_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    three(rig)

    def interrupted(waiting: list[concurrent.futures.Future[None]]) -> None:
        waiting[0].result()
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures, "wait", interrupted)
    words = ["--json"] if as_json else []
    assert typed(rig, "--from", "node2", "--parallel", "1", "--yes", *words, "node3") == move_cli.INTERRUPTED
    said = capsys.readouterr()
    assert "gnt-zfs: interrupted: those that have begun are ended first\n" in said.err
    if as_json:
        told: list[dict[str, Any]] = json.loads(said.out)
        problems = {each["instance"]: each["problem"] for each in told}
    else:
        problems = {line.split()[0]: "" if line.endswith("moved") else line for line in said.out.splitlines()[-3:]}
    assert problems["web1"] == ""
    assert problems["web3"].endswith("interrupted before it was begun")
    assert all(known["up"] for known in rig.ganeti.data.values())
