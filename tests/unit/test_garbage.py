"""A peer that answers what nobody expects: each command ends in lines that a person can read, and what the peer has is left alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, make_rig
from tests.unit.test_images import holding
from zfsganeti import cli
from zfsganeti.errors import EXIT_STATUS

GARBAGE: tuple[Any, ...] = (
    7,
    None,
    "x",
    True,
    [],
    {},
    [7],
    {"x": 7},
    [[]],
    {"node": "node2"},
    {"problem": ""},
    [{"name": 7}],
    -1.5,
    "\0\n",
)
COMMANDS = (
    "list",
    "check",
    "check --repair --yes",
    "trash list",
    "trash restore web2",
    "trash empty --yes --node node2",
    "image list --all-nodes",
    "image show debian-12",
    "image push debian-12 node2",
    "snapshot list",
    "snapshot create web2 s",
    "snapshot rollback --yes web2 s",
    "move --yes web1 node2",
    "move --yes web2 node1",
    "move --dry-run --from node2",
    "detach web2",
    "adopt --list",
)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = make_rig(tmp_path, monkeypatch)
    made.ganeti.add("web1", "file", "node1", {"u1.file.disk0": b"one"}, up=False)
    made.ganeti.add("web2", "file", "node2", {"u2.file.disk0": b"two"}, up=False)
    made.master.images.make("debian-12", "file:/x", holding())
    monkeypatch.setattr(cli, "Here", lambda _verbs: made.master)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.mark.parametrize("line", COMMANDS)
def test_a_peer_that_answers_garbage_ends_in_lines(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    ask = rig.master.call
    before = (rig.knots["node2"].fake.state(), rig.content("web1"), rig.content("web2"))
    for garbage in GARBAGE:

        def call(peer: str, verb: str, garbage: Any = garbage, **request: Any) -> Any:
            return garbage if peer == "node2" else ask(peer, verb, **request)

        monkeypatch.setattr(rig.master, "call", call)
        monkeypatch.setattr(rig.master, "listen", lambda peer, verb, _hear, **request: call(peer, verb, **request))
        status = cli.main(line.split())
        said = capsys.readouterr().err
        assert status in EXIT_STATUS, said
        assert "Traceback" not in said
        assert status == 0 or said.strip(), f"{line}: {garbage!r}: ends with {status} and says nothing"
        assert (rig.knots["node2"].fake.state(), rig.content("web1"), rig.content("web2")) == before, f"{line}: {garbage!r}"
