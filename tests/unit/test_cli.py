"""`gnt-zfs` as it is typed: what it says where a node is silent, and when nobody listens."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.test_setup import CLUSTER_DONE, DONE
from zfsganeti.cli import main, parser
from zfsganeti.errors import BadInput, Missing, Unavailable, ZfsGanetiError
from zfsganeti.here import Here

HOUSE = Path(__file__).parents[2]
ENTRY = "web1:20261101T000000Z"
ANSWER = [sys.executable, "-c", "from zfsganeti import cli; raise SystemExit(cli.main(['node', 'nonsense']))"]


class Cluster:
    """A master that hears one node with one entry in its trash, and perhaps not another one."""

    def __init__(self, *, silent: bool) -> None:
        self.destroyed: list[str] = []
        report = {"trash": [{"entry": ENTRY, "used": 1 << 20}], "root_problem": "", "rootless": False}
        self.reports: dict[str, Any] = {"node1": report}
        if silent:
            self.reports["node2"] = Unavailable("node2", "cannot be reached")

    def is_master(self) -> bool:
        return True

    def call_all(self, _verb: str) -> dict[str, Any]:
        return self.reports

    def call(self, node: str, verb: str, **request: Any) -> None:
        assert (node, verb) == ("node1", "trash-destroy")
        self.destroyed.append(request["entry"])

    def run(self, *words: str) -> int:
        options = parser().parse_args(words)
        return int(options.run(cast(Here, self), options))


def test_a_named_entry_goes_while_another_node_is_silent() -> None:
    cluster = Cluster(silent=True)
    assert cluster.run("trash", "empty", "--yes", ENTRY) == 0
    assert cluster.destroyed == [ENTRY]


SILENT = "not every trash can be looked into: node2: cannot be reached: name entries of gnt-zfs trash list"


@pytest.mark.parametrize(
    ("silent", "named", "error", "said"),
    [
        (True, [], Unavailable, f"the trash: {SILENT}"),
        (True, [ENTRY, "web2:1"], Unavailable, f"web2:1: {SILENT}"),
        (False, [ENTRY, "web2:1"], Missing, "web2:1 in the trash does not exist: gnt-zfs trash list shows what is there"),
    ],
)
def test_nothing_goes_while_it_is_not_known_what_is_meant(silent: bool, named: list[str], error: type[ZfsGanetiError], said: str) -> None:
    cluster = Cluster(silent=silent)
    with pytest.raises(error) as caught:
        cluster.run("trash", "empty", "--yes", *named)
    assert str(caught.value) == said
    assert cluster.destroyed == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("web1 --json", "adopt --json: goes with --list alone"),
        ("--list web1", "adopt --list: shows all, and takes no instance such as web1"),
        ("--abort --verify web1", "adopt --abort: has no --verify"),
        ("--commit -t ext web1", "adopt --commit: has no --disk-template"),
        ("--rollback --offline web1", "adopt --rollback: has no --offline"),
    ],
)
def test_no_word_is_ignored(typed: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        Cluster(silent=False).run("adopt", *typed.split())
    assert str(caught.value) == said


def test_a_reader_that_has_gone_is_no_error_to_talk_about() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(ANSWER, cwd=HOUSE, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_what_cannot_be_written_is_said_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(ANSWER, cwd=HOUSE, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (7, 1)
    assert done.stderr.startswith(b"gnt-zfs: ")


HELP = [sys.executable, "-c", "import sys; from zfsganeti import cli; raise SystemExit(cli.main(sys.argv[1:]))"]


@pytest.mark.parametrize(("words", "status"), [(["image", "--help"], 141), (["chekc"], 2), ([], 2)])
def test_nobody_reads_a_help_or_a_complaint(words: list[str], status: int) -> None:
    """Standard output and error are one pipe that nobody reads: it ends as it would have, without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*HELP, *words], cwd=HOUSE, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == status


def test_a_name_that_is_no_text_gets_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "import", "debian-12", "/srv/\udcff.raw"]) == 2
    assert capsys.readouterr().err == "gnt-zfs: '/srv/\\udcff.raw' is not UTF-8: rename the file first\n"


def test_a_complaint_never_gets_among_what_programs_read() -> None:
    closed = f"{shlex.join(HELP)} chekc 2>&-; echo $?"
    done = subprocess.run(["bash", "-c", closed], cwd=HOUSE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_the_first_line_of_a_help_is_all_that_head_gets() -> None:
    piped = f"{shlex.join(HELP)} --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], cwd=HOUSE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    first, status = done.stdout.splitlines()
    assert first.startswith("usage: gnt-zfs")
    assert status in ("0", "141"), "who is quicker decides"
    assert done.stderr == ""


class Prepared(Cluster):
    """A master of two nodes, of which one is offline, and whose answers say that setup was done."""

    def __init__(self) -> None:
        super().__init__(silent=False)
        self.ssconf = SimpleNamespace(nodes=["node1", "node2"], offline_nodes=["node2"])
        self.master = SimpleNamespace(cluster=lambda: CLUSTER_DONE, groups=lambda: {"default": {}})
        self.asked: list[tuple[str, str]] = []

    def call(self, node: str, verb: str, **request: Any) -> Any:
        assert verb == "setup-facts"
        self.asked.append((node, request["root"]))
        return DONE


def test_the_root_of_a_node_that_is_offline_may_be_typed_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """Without it the same command would give the node the root of the others, once it is back."""
    cluster = Prepared()
    assert cluster.run("setup", "--yes", "zfs/vm", "node2=tank/vm") == 0
    assert cluster.asked == [("node1", "zfs/vm")]
    assert "node2 is offline and is left out: run this again when it is back" in "".join(capsys.readouterr())
