"""Colours, on a real pseudo-terminal: there if a person wants them, and nowhere else."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig import Rig, make_rig
from zfsganeti import cli
from zfsganeti.cli import parser
from zfsganeti.colours import Odd
from zfsganeti.terminal import complain, say, table

WANTED = {"TERM": "xterm"}
UNWANTED = [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}, {}]


def on_a_terminal(does: Callable[[], object]) -> str:
    """Return what a terminal is sent by what is done."""
    outer, inner = os.openpty()
    with open(outer, "rb", buffering=0) as other, open(inner, "w") as terminal:
        with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
            does()
        terminal.write("\0")  # the end of what is to be read
        terminal.flush()
        said = b""
        while not said.endswith(b"\0"):
            said += other.read(4096)
    return said[:-1].decode().replace("\r\n", "\n")


def of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def everything() -> None:
    cli.main(["chekc"])
    complain("node2: cannot be reached")
    say(table(("NAME", "STATE", "USED"), [("a", Odd("retired"), "1K"), ("b", "ready", "10K")], right=(2,)))


PLAIN = """\
gnt-zfs: there is no command chekc: did you mean check?
gnt-zfs: node2: cannot be reached
NAME  STATE    USED
a     retired    1K
b     ready     10K
"""
PAINTED = """\
\033[31mgnt-zfs:\033[0m there is no command chekc: did you mean check?
\033[33mgnt-zfs:\033[0m node2: cannot be reached
\033[1mNAME  STATE    USED\033[0m
a     \033[33mretired\033[0m    1K
b     ready     10K
"""


@pytest.mark.parametrize("environment", [WANTED, {**WANTED, "NO_COLOR": ""}], ids=str)  # https://no-color.org: an empty one says nothing
def test_a_terminal_shows_what_is_wrong_in_red(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    of(environment, monkeypatch)
    assert on_a_terminal(everything) == PAINTED


@pytest.mark.parametrize("environment", UNWANTED, ids=str)
def test_a_person_may_want_none(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    of(environment, monkeypatch)
    assert on_a_terminal(everything) == PLAIN


def test_a_pipe_gets_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    of(WANTED, monkeypatch)
    everything()
    said = capsys.readouterr()
    assert said.err + said.out == PLAIN


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = make_rig(tmp_path, monkeypatch)
    made.ganeti.add("web1", "file", "node2", {"u1.file.disk0": b"one"}, up=False)
    knot = made.knots["node2"]
    knot.fake.unmount(f"{knot.root.path}/web1")
    return made


def test_what_programs_read_has_none_even_on_a_terminal(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    of(WANTED, monkeypatch)
    people, programs = (parser().parse_args(words) for words in (["list"], ["list", "--json"]))
    assert on_a_terminal(lambda: people.run(rig.master, people)).endswith(" \033[31mNO\033[0m\n")
    assert json.loads(on_a_terminal(lambda: programs.run(rig.master, programs)))[0]["mounted"] is False
