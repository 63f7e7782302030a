"""LUXI as Ganeti's daemon speaks it, by a daemon of our own: what it answers, refuses, and does not answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zfsganeti import jobs
from zfsganeti.errors import CommandFailed, Missing, Unavailable

WHAT = "gnt-instance startup web1"
START = {"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": "web1"}


class Daemon:
    """Answers each message with the next thing it was given: a result, an error, or bytes as they are; then it hangs up."""

    def __init__(self, place: Path) -> None:
        self.answers: list[Any] = []
        self.asked: list[tuple[str, list[Any]]] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(place))
        self.socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self.socket.accept()
            except OSError:
                return
            with connection:
                said = b""
                while not said.endswith(b"\3"):
                    said += connection.recv(7)
                asked = json.loads(said[:-1])
                self.asked.append((asked["method"], asked["args"]))
                answer = self.answers.pop(0) if self.answers else b""
                raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\3"
                for byte in raw:
                    connection.sendall(bytes([byte]))


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(jobs, "SOCKET", str(tmp_path / "luxi"))
    monkeypatch.setattr(jobs, "AGAIN_SECONDS", 0)
    made = Daemon(tmp_path / "luxi")
    yield made
    made.socket.close()


def ok(result: Any) -> dict[str, Any]:
    return {"success": True, "result": result}


def changed(status: str, *results: Any) -> dict[str, Any]:
    return ok([[status, list(results)], []])


def test_a_job_is_submitted_and_waited_for(daemon: Daemon) -> None:
    daemon.answers = [ok(7), changed("queued", None), ok("nochange"), changed("running", None), changed("success", True)]
    jobs.perform(START, what=WHAT, seconds=60)
    (submitted, ((opcode,),)), *waits = daemon.asked
    assert submitted == "SubmitJob"
    assert {key: opcode[key] for key in START} == START
    ((source, why, _nanoseconds),) = opcode["reason"]
    assert (source, why) == ("gnt-zfs", WHAT)
    assert [(method, job, seen) for method, (job, _fields, seen, _serial, _seconds) in waits] == [
        ("WaitForJobChange", 7, None),
        ("WaitForJobChange", 7, ["queued", [None]]),
        ("WaitForJobChange", 7, ["queued", [None]]),
        ("WaitForJobChange", 7, ["running", [None]]),
    ]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (changed("error", ["OpPrereqError", ["Instance 'web1' not known", "unknown_entity"]]), "Instance 'web1' not known"),
        (changed("error", None, ["OpExecError", ["Could not start"]]), "Could not start"),
        (changed("error", ["HooksAbort", [[["node1", "zfsganeti", "node1: no room"]]]]), "node1: no room"),
        (changed("error", ["Strange", []]), "Strange"),
        (changed("error", "what"), "job 7 has ended as error"),
        (changed("canceled", None), "job 7 has ended as canceled"),
    ],
)
def test_a_job_that_fails_says_why(daemon: Daemon, end: dict[str, Any], said: str) -> None:
    daemon.answers = [ok(7), end]
    with pytest.raises(CommandFailed) as caught:
        jobs.perform(START, what=WHAT, seconds=60)
    assert str(caught.value) == f"{WHAT}: {said}"


def test_a_job_that_is_not_taken_says_why(daemon: Daemon) -> None:
    daemon.answers = [{"success": False, "result": ["JobQueueDrainError", ["Job queue is drained, refusing job"]]}]
    with pytest.raises(CommandFailed, match="^gnt-instance startup web1: Job queue is drained, refusing job$"):
        jobs.perform(START, what=WHAT, seconds=60)


def test_a_daemon_that_is_started_anew_while_a_job_runs_is_asked_again(daemon: Daemon) -> None:
    daemon.answers = [ok(7), b"", b"{", changed("success", True)]
    jobs.perform(START, what=WHAT, seconds=60)
    assert [method for method, _arguments in daemon.asked] == ["SubmitJob", *["WaitForJobChange"] * 3], "it was submitted once"


def test_a_job_is_submitted_once_whatever_the_daemon_says(daemon: Daemon) -> None:
    for answer in (b"", b"{", b"{}\3", b"[]\3", b"\xff\3", b"7\3"):
        daemon.answers = [answer]
        with pytest.raises(Unavailable, match="^Ganeti: its daemon "):
            jobs.perform(START, what=WHAT, seconds=60)
    assert [method for method, _arguments in daemon.asked] == ["SubmitJob"] * 6


def test_who_waits_too_long_is_told_that_the_job_goes_on(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_SECONDS", 0.2)
    daemon.answers = [ok(7), ok("nochange")]
    with pytest.raises(Unavailable, match="^gnt-instance startup web1: job 7 goes on: gnt-job watch 7 shows it$"):
        jobs.perform(START, what=WHAT, seconds=0)
    daemon.socket.close()
    with pytest.raises(Unavailable, match="its daemon does not answer"):
        jobs.perform(START, what=WHAT, seconds=0)


def test_what_ganeti_finds_is_a_value_or_none(daemon: Daemon) -> None:
    daemon.answers = [ok({"fields": [], "data": [[[0, "running"], [0, 64], [3, None], [1, "x"]]]}), ok({"data": []})]
    assert jobs.look("instance", "web1", ["status", "be/maxmem", "x", "y"]) == ["running", 64, None, None]
    assert daemon.asked == [("Query", ["instance", ["status", "be/maxmem", "x", "y"], ["=", "name", "web1"]])]
    with pytest.raises(Missing, match="^instance web2"):
        jobs.look("instance", "web2", ["status"])
    for strange in (ok({"data": [7]}), ok({"data": [[]]}), ok({"data": [[7]]}), ok({"data": 7}), ok([]), ok(None)):
        daemon.answers = [strange]
        with pytest.raises((Missing, Unavailable)):
            jobs.look("instance", "web2", ["status"])


def test_without_a_daemon_it_is_said_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SOCKET", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="^Ganeti: its daemon does not answer .*: run this on the master node$"):
        jobs.look("instance", "web1", ["status"])
