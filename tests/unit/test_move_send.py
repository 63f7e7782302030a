"""The verb that sends an instance, which reads standard input and ends with it: whatever it is asked, and whoever has gone already."""

from __future__ import annotations

import contextlib
import json
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rig import Rig, make_rig
from tests.unit.test_requests import CODES, values
from tests.watch import watch
from zfsganeti import fence
from zfsganeti.answer import answer
from zfsganeti.errors import ZfsGanetiError

INTERRUPTED = 130
DISKS = {"web1": b"web1", "x.ext.disk0": b"db1"}
SECONDS = 10.0  # in which a thread does what it does at once
PLAUSIBLE: dict[str, list[Any]] = {
    "instance": ["web1", "db1"], "datasets": [["web1"], ["x.ext.disk0"], ["web1", "x.ext.disk0"]], "target": ["node2"],
    "full": [True, False], "embedded": [True, False], "known": [{}, {"web1": "1"}], "last": [True, False], "limit": [0, 1 << 30],
}  # fmt: skip
whole = st.fixed_dictionaries({key: st.sampled_from(those) for key, those in PLAUSIBLE.items()})


class Process:
    """This one, which goes on where it would have ended, and knows how that would have been."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ends: queue.Queue[int] = queue.Queue()
        monkeypatch.setattr(os, "_exit", self.ends.put)

    def end(self) -> int:
        """Return the status that the process has ended with, or is about to."""
        return self.ends.get(timeout=SECONDS)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = make_rig(tmp_path, monkeypatch)
    made.ganeti.add("web1", "file", "node1", {"x.file.disk0": b"web1"}, up=False)
    made.ganeti.add("db1", "ext", "node1", {"x.ext.disk0": b"db1"}, up=False)
    return made


@contextlib.contextmanager
def standard_input(descriptor: int) -> Iterator[None]:
    """Standard input is what a descriptor is, which is not needed any more then; -1 is closed."""
    kept = os.dup(0)
    os.close(0) if descriptor < 0 else os.dup2(descriptor, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def nothing() -> int:
    """Return a descriptor that whoever asks has ended."""
    reader, writer = os.pipe()
    os.close(writer)
    return reader


INPUTS: dict[str, Callable[[], int]] = {
    "empty": nothing,
    "unreadable": lambda: os.open("/dev/null", os.O_WRONLY),
    "closed": lambda: -1,
}


def begin(rig: Rig) -> None:
    """Both instances are about to be moved, whatever has become of them before."""
    for name in DISKS:
        with contextlib.suppress(ZfsGanetiError):
            fence.lift(rig.master, name)
        with contextlib.suppress(ZfsGanetiError):
            rig.master.call("node1", "move-begin", datasets=[name], to="node2", phase="presync", ran=False)


@pytest.mark.parametrize("key", ["", *PLAUSIBLE])
@pytest.mark.parametrize("kind", list(INPUTS))
def test_any_request_is_answered_or_refused_in_one_line(
    rig: Rig, process: Process, capsys: pytest.CaptureFixture[str], kind: str, key: str
) -> None:
    """It is as it should be, or one of its words is missing or something else."""
    answered = []

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(whole, values | st.just(...))
    def ask(request: dict[str, Any], wrong: Any) -> None:
        begin(rig)
        if key:
            request = {**request, key: wrong}
        text, descriptor = json.dumps({name: value for name, value in request.items() if value is not ...}), INPUTS[kind]()
        with watch.over(str(rig.place)), standard_input(descriptor):
            said = answer(rig.master, "move-send", lambda: text)
            assert process.end() == INTERRUPTED
        if descriptor >= 0:
            os.close(descriptor)
        assert set(said) in ({"answer"}, {"error", "code"}), said
        if "error" in said:
            assert said["code"] in CODES
            assert "\n" not in said["error"]
            assert "please report" not in said["error"], said
        else:
            answered.append(said["answer"])
        json.dumps(said)
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert all(set(line) == {"told"} for line in told)
        files = {name: list(rig.master.files(name).values()) for name in DISKS}
        assert {name: content.rstrip(b"\0") for name, (content,) in files.items()} == DISKS

    ask()
    assert key or len(answered) > 9, "what can be sent is sent"
    assert process.ends.empty(), "each has ended once"


def test_who_is_there_yet_is_answered(rig: Rig, process: Process, capsys: pytest.CaptureFixture[str]) -> None:
    begin(rig)
    reader, writer = os.pipe()
    request = {"instance": "web1", "datasets": ["web1"], "target": "node2", "embedded": True}
    with standard_input(reader):
        said = answer(rig.master, "move-send", lambda: json.dumps(request))
        assert process.ends.empty()
        os.write(writer, b"\n" * 5000)  # that somebody is there is all that is said
        os.close(writer)
        assert process.end() == INTERRUPTED
    os.close(reader)
    assert list(said["answer"]["guids"]) == ["web1"]
    assert all(set(json.loads(line)) == {"told"} for line in capsys.readouterr().out.splitlines())
