"""What lists say of nodes that they could not look at: on standard error, and by the exit status unless nobody expects an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.deaths.images import holding
from tests.rig import Rig, make_rig
from zfsganeti import adoption
from zfsganeti.answer import VERBS
from zfsganeti.cli import parser
from zfsganeti.errors import Unavailable
from zfsganeti.here import Here

FILE = "u1.file.disk0"
LISTS = ["list", "trash list", "image list --all-nodes", "snapshot list"]
JSON = pytest.mark.parametrize("as_json", [False, True], ids=["", "json"])


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = make_rig(tmp_path, monkeypatch)
    for node in ("node1", "node2"):
        made.ganeti.add(f"web-{node}", "file", node, {FILE: b"one"}, up=False)
        made.knots[node].fake.snapshot([f"zfs/vm/web-{node}@gnt-upgrade"])
    made.master.images.make("debian-12", "file:/x", holding())
    return made


def typed(rig: Rig, line: str, as_json: bool) -> int:
    options = parser().parse_args([*line.split(), *(["--json"] if as_json else [])])
    return int(options.run(rig.master, options))


@JSON
@pytest.mark.parametrize("line", LISTS)
def test_a_node_that_does_not_answer_is_told_by_the_status(rig: Rig, capsys: pytest.CaptureFixture[str], line: str, as_json: bool) -> None:
    assert typed(rig, line, as_json) == 0
    assert capsys.readouterr().err == ""
    rig.knots["node2"].away = True
    assert typed(rig, line, as_json) == 3
    assert "gnt-zfs: node2: cannot be reached (no route to host)\n" in capsys.readouterr().err


@JSON
@pytest.mark.parametrize("line", LISTS)
def test_a_node_that_is_known_to_be_away_is_named(rig: Rig, capsys: pytest.CaptureFixture[str], line: str, as_json: bool) -> None:
    rig.knots["node2"].away = True
    rig.master.ssconf.offline_nodes.append("node2")
    assert typed(rig, line, as_json) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("gnt-zfs: node2 is offline: ")
    assert told.endswith(" not shown")


@pytest.mark.parametrize(("rootless", "status"), [(False, 3), (True, 0)])
def test_a_pool_that_is_not_imported_is_told_by_the_status(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rootless: bool, status: int
) -> None:
    report = VERBS["report"]

    def without(here: Here, request: dict[str, Any]) -> Any:
        lost = {"root_problem": "its pool is not imported", "rootless": rootless} if here.node == "node2" else {}
        return {**report(here, request), **lost}

    monkeypatch.setitem(VERBS, "report", without)
    for line in ("list", "trash list"):
        assert typed(rig, line, False) == status
        said = "gnt-zfs: node2: its pool is not imported\n" if status or line == "list" else ""
        assert capsys.readouterr().err == said


def test_an_offline_node_s_instances_on_lvm_have_no_snapshots_to_miss(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.ganeti.data = {"old": {"kind": "plain", "primary": "node2", "disks": [FILE], "up": False}}
    rig.master.ssconf.offline_nodes.append("node2")
    assert typed(rig, "snapshot list", False) == 0
    assert capsys.readouterr().err == ""


def test_who_asks_for_one_instance_expects_an_answer(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.master.ssconf.offline_nodes.append("node2")
    assert typed(rig, "snapshot list web-node2", False) == 3
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "gnt-zfs: node2 is offline: the snapshots of web-node2 are not shown\n")


@JSON
def test_an_adoption_that_cannot_be_looked_at_is_told_by_the_status(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    class Lost:
        name, node, template, state, shadow_name = "web1", "node2", "file", "copying", "adopt-web1"
        problem = Unavailable("node2", "cannot be reached")

    monkeypatch.setattr(adoption, "all_of", lambda _here: [Lost()])
    assert typed(rig, "adopt --list", as_json) == 3
    assert capsys.readouterr().err == "gnt-zfs: node2: cannot be reached\n"
