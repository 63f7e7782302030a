"""What --json writes for programs: the keys that the man page promises, and no others."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs import generate
from tests.deaths.images import holding
from tests.rig import Rig, make_rig
from zfsganeti import adoption, patch
from zfsganeti.cli import parser

PAGE = (generate.HERE / "man/gnt-zfs.8.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n# JSON\n")[2].partition("\n# ")[0]
PARAGRAPH = re.compile(r"^\*\*([a-z ]+)\*\*\n\n:   (.+(?:\n    .+)*)", re.MULTILINE)
PROMISED = {name: set(re.findall(r"\*(\w+)\*", text)) for name, text in PARAGRAPH.findall(SECTION)}
FILE = "u1.file.disk0"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Three nodes with something of everything that is listed, and something wrong."""
    made = make_rig(tmp_path, monkeypatch)
    made.ganeti.add("web1", "file", "node2", {FILE: b"one"}, up=False)
    made.ganeti.add("gone", "file", "node1", {FILE: b"one"}, up=False)
    made.master.trash.put("gone")
    made.knots["node2"].fake.snapshot(["zfs/vm/web1@gnt-upgrade"])
    made.master.images.make("debian-12", "file:/x", holding())
    return made


def listed(rig: Rig, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    options = parser().parse_args([*words, "--json"])
    options.run(rig.master, options)
    return json.loads(capsys.readouterr().out)


def keys(found: Any) -> set[str]:
    """Return the keys of a list's objects, which all have the same."""
    assert found
    (same,) = {frozenset(row) for row in found}
    return set(same)


def test_lists_have_the_keys_that_are_promised(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("list", "check", "trash list", "image list", "image list --all-nodes", "snapshot list", "move --yes web1 node3"):
        name = "move" if words.startswith("move") else words.partition(" -")[0]
        assert keys(listed(rig, capsys, *words.split())) == PROMISED[name], words
    (row,) = listed(rig, capsys, "image", "list")
    assert listed(rig, capsys, "image", "show", "debian-12") == row
    rig.ganeti.add("adopt-web1", "file", "node2", {}, up=False)
    rig.ganeti.data["adopt-web1"]["tags"] = [adoption.TAG]
    assert keys(listed(rig, capsys, "adopt", "--list")) == PROMISED["adopt"]


def test_the_patch_tells_of_itself_and_of_each_series(
    rig: Rig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch, "status", lambda: [patch.Backend("3.0", "/x/backend.py", "/p", patch.UNPATCHED, True)])
    found = listed(rig, capsys, "patch", "status")
    assert set(found) | keys(found["series"]) == PROMISED["patch status"]


def has_json(made: argparse.ArgumentParser) -> bool:
    return "--json" in made._option_string_actions


def test_everything_that_lists_has_json_and_its_keys_are_promised() -> None:
    commands = dict(generate.commands())
    assert {name for name, made in commands.items() if has_json(made)} == set(PROMISED)
    assert {name for name in commands if name.split()[-1] in ("list", "show", "status", "check")} <= set(PROMISED)
