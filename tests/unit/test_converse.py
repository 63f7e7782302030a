"""Conversations with a program that takes long: each side knows that the other is there, and ends when it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zfsganeti import node, process
from zfsganeti.errors import Unavailable
from zfsganeti.node import PeerFailed, listen
from zfsganeti.process import converse

HOUSE = Path(__file__).parents[2]


def python(text: str) -> list[str]:
    return ["/usr/bin/python3", "-u", "-c", text]


def talking(text: str) -> process.Child:
    return process.waiting(python(text), talks=True)


def test_each_line_is_heard_and_the_first_one_is_read() -> None:
    heard: list[str] = []
    done = converse(talking("print(input()); print('a', end=''); print('b'); print('c', end='')"), "head\n", heard.append, seconds=30)
    assert heard == ["head", "ab"]
    assert done.status == 0


def test_a_program_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BEAT_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match="nothing was heard"):
        converse(talking("import time; time.sleep(60)"), "\n", lambda _line: None, seconds=0.2)


def test_a_program_is_told_that_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BEAT_SECONDS", 0.05)
    heard: list[str] = []
    converse(talking("for _ in range(3): print(repr(input()))"), "head\n", heard.append, seconds=30)
    assert heard == ["'head'", "''", "''"]


def test_what_is_told_is_heard_and_the_last_line_is_the_answer() -> None:
    heard: list[dict[str, Any]] = []
    text = 'input(); print(\'{"told": {"moved": 1}}\'); print(\'{"told": {}}\'); print(\'{"answer": [1]}\')'
    assert listen("node2", python(text), {}, heard.append, seconds=30) == [1]
    assert heard == [{"moved": 1}, {}]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ('print(\'{"error": "no", "code": 6}\')', PeerFailed, "^node2: no$"),
        ("print('hm')", Unavailable, "gnt-zfs there gave no answer"),
        ("import sys; sys.exit(255)", Unavailable, "cannot be reached"),
        ("import sys; sys.exit(1)", PeerFailed, "said nothing"),
    ],
)
def test_what_goes_wrong_is_said(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        node.listen("node2", python(text), {}, lambda _told: None, seconds=30)


MOVER = """
import sys
sys.path.insert(0, {house!r})
from zfsganeti.process import converse, waiting
converse(waiting([{python!r}, "-u", {script!r}], talks=True), "x\\n", lambda line: print(line, flush=True), seconds=60)
"""
SENDER = """
import os, select, sys, threading, time
sys.path.insert(0, {house!r})
from zfsganeti import answer, departure
def send(here, request, tell):
    print(os.getpid(), flush=True)
    time.sleep(100)
departure.send = send
answer._move_send(None, {{}})
"""


def test_the_sender_ends_when_the_mover_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "sender.py"
    script.write_text(SENDER.format(house=str(HOUSE)), encoding="utf-8")
    mover = subprocess.Popen(
        [sys.executable, "-u", "-c", MOVER.format(house=str(HOUSE), python=sys.executable, script=str(script))], stdout=subprocess.PIPE
    )
    assert mover.stdout is not None
    sender = int(mover.stdout.readline())
    os.kill(mover.pid, signal.SIGKILL)
    mover.wait()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{sender}/fd/0") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{sender}/fd/0")
    mover.stdout.close()


def test_what_a_program_says_that_reads_nothing_is_heard() -> None:
    """A peer that does not know what it is asked has answered before it was."""
    for _time in range(5):
        with pytest.raises(PeerFailed, match="^node2: unknown$"):
            node.listen("node2", ["/usr/bin/echo", '{"error": "unknown", "code": 2}'], {}, lambda _told: None, seconds=30)
