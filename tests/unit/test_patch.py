"""The patch of Ganeti's backend: the diffs themselves, what they make of removal, and putting them in and out of a node."""

from __future__ import annotations

import ast
import difflib
import errno
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfsganeti import patch
from zfsganeti.errors import BadInput, CommandFailed, Missing, Refused, Unavailable

PATCHES = Path(__file__).parents[2] / "patches"
SERIES = ("2.15", "2.16", "3.0", "3.1")
DAEMON_UTIL = "/usr/lib/ganeti/daemon-util"
RESTART = [(DAEMON_UTIL, verb, "ganeti-noded") for verb in ("stop", "start", "check")]
LOST = "if you changed the file, apt-get install --reinstall ganeti-3.0 brings the original back"


def hunks_of(series: str) -> tuple[patch.Hunk, ...]:
    return patch.parse((PATCHES / f"ganeti-{series}.patch").read_text(encoding="utf-8"), series)


def backend(series: str, more: str = "") -> str:
    """Return a small backend.py with just the lines that the patch of a series wants to see, and `more` behind them."""
    (hunk,) = hunks_of(series)
    above = "def RemoveFileStorageDir(file_storage_dir):\n  if os.path.exists(file_storage_dir):\n"
    return above + "\n".join(hunk.old) + "\n" + more


# --- what the patched function does; the tests on Debian's files use this, too ---


class Failed(Exception):
    """Stands for Ganeti's RPCFail."""


def function_of(text: str, os_module: Any = os) -> Callable[[str], None]:
    """Return RemoveFileStorageDir of a backend.py, alone, with `os` and what it calls of Ganeti replaced."""
    found = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == "RemoveFileStorageDir"]
    assert len(found) == 1

    def fail(message: str, *arguments: object) -> None:
        raise Failed(message % arguments)

    scope: dict[str, Any] = {
        "os": os_module,
        "errno": errno,
        "logging": logging,
        "_Fail": fail,
        "_TransformFileStorageDir": lambda path: path,
    }
    exec(compile(ast.Module(list[ast.stmt](found), []), "backend.py", "exec"), scope)
    result: Callable[[str], None] = scope["RemoveFileStorageDir"]
    return result


CASES = [
    # error of rmdir, is a mount point, files in it, does the removal succeed
    pytest.param(0, False, [], True, id="a plain empty directory"),
    pytest.param(errno.EBUSY, True, [], True, id="an empty mount point"),
    pytest.param(errno.EBUSY, True, ["x.file.disk0"], False, id="a mount point with a file in it"),
    pytest.param(errno.EBUSY, True, [".zfs"], False, id="a mount point with a visible .zfs"),
    pytest.param(errno.EBUSY, False, [], False, id="busy for another reason"),
    pytest.param(errno.ENOTEMPTY, False, ["x.file.disk0"], False, id="a directory with a file in it"),
    pytest.param(errno.ENOTEMPTY, True, [], False, id="any other error of a mount point"),
    pytest.param(errno.EACCES, True, [], False, id="not permitted"),
]


def succeeds(text: str, number: int, mounted: bool, files: list[str]) -> bool:
    """Tell whether the function succeeds when rmdir(2) fails with an error number (0: works) on such a directory."""
    removed = []

    def rmdir(path: str) -> None:
        if number:
            raise OSError(number, os.strerror(number), path)
        removed.append(path)

    path = SimpleNamespace(exists=lambda _: True, isdir=lambda _: True, ismount=lambda _: mounted)
    function = function_of(text, SimpleNamespace(path=path, rmdir=rmdir, listdir=lambda _: files))
    try:
        function("/srv/x")
    except Failed as failure:
        assert str(failure) == f"Cannot remove file storage directory '/srv/x': [Errno {number}] {os.strerror(number)}: '/srv/x'"
        return False
    assert removed == ([] if number else ["/srv/x"])
    return True


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize(("number", "mounted", "files", "expected"), CASES)
def test_only_an_empty_mount_point_is_forgiven(series: str, number: int, mounted: bool, files: list[str], expected: bool) -> None:
    text = patch.patched(backend(series), hunks_of(series))
    assert text is not None
    assert succeeds(text.replace("except OSError, err:", "except OSError as err:"), number, mounted, files) is expected


# --- the files ---


@pytest.mark.parametrize("series", SERIES)
def test_patch_files_have_dep3_headers_and_add_the_same_lines(series: str) -> None:
    text = (PATCHES / f"ganeti-{series}.patch").read_text(encoding="ascii")
    head, _, diff = text.partition("\n---\n")
    assert re.findall(r"^[A-Z][\w-]+(?=:)", head, re.MULTILINE) == ["Description", "Author", "Forwarded", "Last-Update", "Applies-To"]
    assert f"\nApplies-To: Ganeti {series} (" in head
    assert diff.startswith("--- a/lib/backend.py\n+++ b/lib/backend.py\n@@ -")
    added = [line[1:] for line in diff.splitlines()[3:] if line.startswith("+")]
    assert not [line for line in diff.splitlines()[3:] if line.startswith("-")]
    assert added == [line for hunk in hunks_of("3.0") for line in hunk.new if line not in hunk.old]
    assert max(map(len, added)) < 80  # Ganeti's own style


# --- unified diffs ---


def test_parse_reads_counts_and_content() -> None:
    diff = "words\n--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@ def f\n a\n-b\n+B\n c\n@@ -9 +9,2 @@\n-- x\n+++ x\n+@@ y\n"
    assert patch.parse(diff, "d") == (patch.Hunk(("a", "b", "c"), ("a", "B", "c")), patch.Hunk(("- x",), ("++ x", "@@ y")))


def test_parse_takes_an_empty_line_for_empty_context() -> None:
    assert patch.parse("@@ -1,3 +1,4 @@\n a\n+b\n\n c\n", "d") == (patch.Hunk(("a", "", "c"), ("a", "b", "", "c")),)


@pytest.mark.parametrize(
    "diff",
    [
        "@@ -1,3 +1,3 @@\n a\n-b\n+B\n",
        "@@ -1,2 +1,2 @@\n a\n\\ No newline at end of file\n",
        "@@ -1 +1,2 @@\n-a\n-b\n+c\n",
        "@@ -1,2 +1 @@\n",
    ],
)
def test_parse_refuses_a_damaged_hunk(diff: str) -> None:
    with pytest.raises(BadInput, match=r"^x\.patch: a hunk is not as long as it says: install zfsganeti again$"):
        patch.parse(diff, "x.patch")


HUNK = (patch.Hunk(("a", "b", "c"), ("a", "new", "b", "c")),)


@pytest.mark.parametrize(
    ("text", "expected", "state"),
    [
        ("x\na\nb\nc\ny\n", "x\na\nnew\nb\nc\ny\n", patch.UNPATCHED),
        ("a\nb\nc", "a\nnew\nb\nc", patch.UNPATCHED),
        ("x\na\nnew\nb\nc\n", None, patch.PATCHED),
        ("a\nb\nc\na\nb\nc\n", None, patch.UNFIT),  # two places
        ("a\nnew\nb\nc\na\nb\nc\n", None, patch.UNFIT),  # in, and could be put in once more
        ("a\nnew\nb\nc\na\nnew\nb\nc\n", None, patch.UNFIT),
        ("a \nb\nc\n", None, patch.UNFIT),  # a blank is a difference
        ("a\r\nb\r\nc\r\n", None, patch.UNFIT),
        ("a\nb\n", None, patch.UNFIT),
        ("", None, patch.UNFIT),
    ],
)
def test_a_hunk_goes_where_it_fits_exactly_once(text: str, expected: str | None, state: str) -> None:
    assert patch.patched(text, HUNK) == expected
    assert patch.state(text, HUNK) == state


def test_hunks_apply_in_order_or_not_at_all() -> None:
    two = (patch.Hunk(("a",), ("A",)), patch.Hunk(("b",), ("B",)))
    assert patch.patched("a\nx\nb\n", two) == "A\nx\nB\n"
    assert patch.patched("b\nx\na\n", two) is None
    assert patch.patched("a\nx\n", two) is None


def test_a_diff_without_a_place_or_a_hunk_does_not_apply() -> None:
    assert patch.state("a\n", (patch.Hunk((), ("new",)),)) == patch.UNFIT
    assert patch.state("a\n", ()) == patch.UNFIT


LINE = st.sampled_from(["", "a", "b", "  c", "-d", "+e", " f", "@@ -1 +1 @@", "g\r", "h\f"]) | st.text("xyz", min_size=1)
LINES = st.lists(LINE, max_size=25)


@given(LINES, LINES, st.integers(0, 3))
def test_a_patch_gives_the_very_target_and_back_or_nothing(source: list[str], target: list[str], context: int) -> None:
    diff = "\n".join(difflib.unified_diff(source, target, "a/x", "b/x", n=context, lineterm=""))
    hunks = patch.parse(diff + "\n", "x")
    before, after = "\n".join([*source, ""]), "\n".join([*target, ""])
    result = patch.patched(before, hunks)
    if hunks and result is not None:
        assert result == after
        assert patch.patched(after, patch.reverse(hunks)) == before
        # neither: where only lines go away, what is left may stand elsewhere, too
        assert patch.state(before, hunks) in (patch.UNPATCHED, patch.UNFIT)
        assert patch.state(after, hunks) in (patch.PATCHED, patch.UNFIT)


@given(st.lists(st.text("abcxyz \t", max_size=9), unique=True, min_size=1, max_size=25), st.data())
def test_a_change_among_different_lines_always_applies(source: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(source)))
    target = [*source[:at], "new line", *source[at:]]
    hunks = patch.parse("\n".join(difflib.unified_diff(source, target, lineterm="")) + "\n", "x")
    assert patch.patched("\n".join(source), hunks) == "\n".join(target)


# --- a node ---


class Node:
    """A directory that looks like a node with Ganeti, whose node daemon runs, and what was run on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.process = 100
        self.pid_file = root / "run/ganeti/ganeti-noded.pid"
        self.start()

    def start(self) -> None:
        self.process += 1
        place = self.root / f"proc/{self.process}"
        place.mkdir(parents=True)
        (place / "cmdline").write_bytes(b"/usr/bin/python3\0/usr/sbin/ganeti-noded\0-f\0")
        (place / "stat").write_text(f"{self.process} (ganeti-noded) S " + " ".join(map(str, range(1, 49))) + "\n")
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.write_text(f"{self.process}\n")

    def stop(self) -> None:
        self.pid_file.unlink(missing_ok=True)

    def install(self, series: str, text: str | None = None, running: bool = False) -> Path:
        path = self.root / "usr/share/ganeti" / series / "ganeti/backend.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((backend(series) if text is None else text).encode())
        if running:
            link = self.root / "etc/ganeti/share"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(f"/usr/share/ganeti/{series}")
        return path

    def run(self, *command: str, stdin: str | None = None) -> str:
        self.ran.append(command)
        if self.error:
            raise self.error
        if command[1:2] == ("stop",):
            self.stop()
        elif command[1:2] == ("start",):
            self.start()
        return "" if stdin is None else "compiled"

    def states(self) -> dict[str, tuple[str, bool]]:
        return {one.series: (one.state, one.running) for one in patch.status(root=str(self.root))}

    def apply(self, series: str = "", restart: bool = False) -> patch.Outcome:
        return patch.apply(run=self.run, series=series, restart=restart, root=str(self.root))

    def revert(self, series: str = "", restart: bool = False) -> patch.Outcome:
        return patch.revert(run=self.run, series=series, restart=restart, root=str(self.root))

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in (self.root / "usr").rglob("*") if path.is_file()}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def backup(path: Path) -> Path:
    return path.with_name("backend.py.zfsganeti-orig")


def test_status_names_every_series_in_order(node: Node) -> None:
    node.install("3.10", "whatever\n")
    node.install("3.1", "something else\n")
    path = node.install("3.0", running=True)
    node.install("2.16", patch.patched(backend("2.16"), hunks_of("2.16")))
    (node.root / "usr/share/ganeti/3.2").mkdir()
    (node.root / "usr/share/ganeti/default").symlink_to("/etc/ganeti/share")
    assert node.states() == {
        "2.16": (patch.PATCHED, False),
        "3.0": (patch.UNPATCHED, True),
        "3.1": (patch.UNFIT, False),
        "3.10": (patch.NO_PATCH, False),
    }
    assert list(node.states()) == ["2.16", "3.0", "3.1", "3.10"]
    one, last = patch.status(root=str(node.root))[1::2]
    assert one == patch.Backend("3.0", str(path), str(PATCHES / "ganeti-3.0.patch"), "unpatched", True)
    assert last.patch == ""


def test_status_takes_the_other_link_when_the_first_is_gone(node: Node) -> None:
    node.install("3.0")
    assert node.states() == {"3.0": (patch.UNPATCHED, False)}
    (node.root / "usr/share/ganeti/default").symlink_to("3.0/")
    assert node.states() == {"3.0": (patch.UNPATCHED, True)}


def test_without_ganeti_the_message_says_where_it_was_looked_for(node: Node) -> None:
    with pytest.raises(Missing) as caught:
        node.states()
    assert str(caught.value) == (
        f"{node.root}/usr/share/ganeti/X.Y/ganeti/backend.py does not exist: " "install Ganeti from Debian's packages"
    )


def test_patches_are_found_where_the_package_installs_them(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.install("3.0")
    monkeypatch.setattr(patch, "__file__", str(node.root / "usr/lib/python3/dist-packages/zfsganeti/patch.py"))
    with pytest.raises(Missing, match=r"/usr/share/zfsganeti/patches does not exist: install zfsganeti again$"):
        node.states()
    place = node.root / "usr/share/zfsganeti/patches"
    place.mkdir(parents=True)
    (place / "ganeti-3.0.patch").write_bytes((PATCHES / "ganeti-3.0.patch").read_bytes())
    assert node.states() == {"3.0": (patch.UNPATCHED, False)}


def test_apply_patches_all_and_keeps_originals(node: Node) -> None:
    old, running = node.install("3.0"), node.install("3.1", running=True)
    assert node.apply() == patch.Outcome(("3.0", "3.1"), (), (), patch.RESTART_NEEDED)
    for path, series in ((old, "3.0"), (running, "3.1")):
        assert path.read_text() == patch.patched(backend(series), hunks_of(series))
        assert backup(path).read_text() == backend(series)
    assert len(node.files()) == 4
    assert node.ran == []


def test_apply_twice_changes_nothing(node: Node) -> None:
    node.install("3.0", running=True)
    node.apply()
    before = node.files()
    assert node.apply() == patch.Outcome((), ("3.0",), (), patch.RESTART_NEEDED)
    assert node.files() == before


def test_an_outcome_says_all_in_words(node: Node) -> None:
    path = node.install("2.16")
    node.install("3.0", running=True)
    node.apply("3.0")
    node.install("3.1", running=True)
    assert str(node.apply()) == (
        "Ganeti 3.1: changed\nGaneti 3.0: nothing to do\n"
        f"{node.root}/usr/bin/python2: not there to check what the patch makes of {path}: install Python 2, or patch by hand\n"
        "the node daemon still has the old code: restart it, or do this again with --restart"
    )
    assert str(node.revert("3.1", restart=True)) == "Ganeti 3.1: changed\nthe node daemon was restarted"
    assert str(node.revert("3.1")) == "Ganeti 3.1: nothing to do\nthe node daemon needs no restart"


def test_lost_tells_of_a_patch_that_an_upgrade_took_away(node: Node) -> None:
    node.install("3.0", running=True)
    node.install("3.1")
    assert patch.lost(root=str(node.root)) == ""
    node.apply()
    assert patch.lost(root=str(node.root)) == ""
    node.install("3.0")
    assert patch.lost(root=str(node.root)) == ("the patch is no longer in Ganeti 3.0: run gnt-zfs patch apply, or revert to be without it")
    node.install("3.0", "does otherwise now\n")
    assert patch.lost(root=str(node.root)).startswith("the patch is no longer in Ganeti 3.0: ")
    node.revert()
    assert patch.lost(root=str(node.root)) == ""


def test_what_is_enabled_is_missed_wherever_it_could_be_of_use(node: Node) -> None:
    node.install("2.16")
    node.install("3.0")
    path = node.install("3.1", running=True)
    node.install("3.2", "no patch for it\n")
    node.apply()
    assert patch.lost(enabled=True, root=str(node.root)) == ""
    for file in (path, backup(path)):
        file.unlink()
    node.install("3.1", "does otherwise now\n")
    assert patch.lost(root=str(node.root)) == ""
    way_out = "gnt-zfs patch apply says why, gnt-zfs patch disable is to be without it"
    assert patch.lost(enabled=True, root=str(node.root)) == f"the patch is enabled, but not in Ganeti 3.1 (does not apply): {way_out}"
    node.install("3.0")
    node.install("3.2", "no patch for it\n", running=True)
    said = patch.lost(enabled=True, root=str(node.root))
    named = "3.0 (unpatched) and 3.1 (does not apply) and 3.2 (no patch for this series)"
    assert said == f"the patch is enabled, but not in Ganeti {named}: {way_out}"


def test_apply_to_a_series_that_does_not_run_needs_no_restart(node: Node) -> None:
    node.install("3.0")
    node.install("3.1", running=True)
    assert node.apply("3.0") == patch.Outcome(("3.0",), (), (), patch.AS_IT_WAS)
    assert node.states() == {"3.0": (patch.PATCHED, False), "3.1": (patch.UNPATCHED, True)}


# --- the node daemon ---


def test_noded_is_restarted_once_for_a_change_and_not_for_none(node: Node) -> None:
    node.install("3.0", running=True)
    node.install("3.2", "no patch for it\n")
    assert node.apply(restart=True).noded == patch.RESTARTED
    assert node.ran == RESTART
    assert node.apply(restart=True).noded == patch.AS_IT_WAS
    assert node.ran == RESTART
    assert node.revert(restart=True).noded == patch.RESTARTED
    assert node.revert(restart=True).noded == patch.AS_IT_WAS
    assert node.ran == RESTART * 2


def test_what_was_not_restarted_then_is_restarted_when_asked(node: Node) -> None:
    node.install("3.0", running=True)
    assert node.apply().noded == patch.RESTART_NEEDED
    assert node.apply().noded == patch.RESTART_NEEDED
    assert node.apply(restart=True).noded == patch.RESTARTED
    assert node.ran == RESTART


def test_what_somebody_else_has_restarted_is_not_restarted_again(node: Node) -> None:
    node.install("3.0", running=True)
    node.apply()
    node.stop()
    node.start()
    assert node.apply(restart=True).noded == patch.AS_IT_WAS
    assert node.ran == []


def test_what_does_not_run_is_not_started(node: Node) -> None:
    node.install("3.0", running=True)
    node.stop()
    assert node.apply(restart=True) == patch.Outcome(("3.0",), (), (), patch.AS_IT_WAS)
    node.pid_file.write_text("101\n")
    (node.root / "proc/101/cmdline").write_bytes(b"another program\0")
    assert node.revert(restart=True).noded == patch.AS_IT_WAS
    assert node.ran == []


def test_what_was_stopped_by_others_meanwhile_is_not_started(node: Node) -> None:
    node.install("3.0", running=True)
    node.apply()
    node.stop()
    assert node.apply(restart=True).noded == patch.AS_IT_WAS
    assert node.ran == []


@pytest.mark.parametrize("verb", ["stop", "start", "check"])
def test_a_restart_that_fails_is_told_apart_and_tried_again(node: Node, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    path, real = node.install("3.0", running=True), node.run

    def fail(*command: str, stdin: str | None = None) -> str:
        if command == (DAEMON_UTIL, "start", "ganeti-noded") and verb == "check":
            return ""  # what systemd does with a unit whose condition is not met
        if command[:2] == (DAEMON_UTIL, verb):
            raise CommandFailed(f"{DAEMON_UTIL} {verb} ganeti-noded", 1, "no server.pem")
        return real(*command, stdin=stdin)

    with monkeypatch.context() as context:
        context.setattr(node, "run", fail)
        outcome = node.apply(restart=True)
    assert outcome == patch.Outcome(("3.0",), (), (), outcome.noded, failed=True)
    assert outcome.noded == (
        "the files are as they should be, but the node daemon could not be restarted "
        f"({DAEMON_UTIL} {verb} ganeti-noded: no server.pem): put that right, then {DAEMON_UTIL} start ganeti-noded"
    )
    assert path.read_text() != backend("3.0")
    assert node.apply(restart=True) == patch.Outcome((), ("3.0",), (), patch.RESTARTED)
    assert node.process == 102
    assert node.apply(restart=True).noded == patch.AS_IT_WAS


def test_mode_owner_and_every_byte_are_kept(node: Node) -> None:
    path = node.install("3.0", running=True)
    original = b"# \xc3\xa9 \xff-free\x0c\r\n".replace(b"\xff", b"y") + path.read_bytes() + b"# no newline at the end"
    path.write_bytes(original)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
    owner = (path.stat().st_uid, path.stat().st_gid)
    node.apply()
    for file in (path, backup(path)):
        assert file.stat().st_mode & 0o7777 == 0o640
        assert (file.stat().st_uid, file.stat().st_gid) == owner
    assert backup(path).read_bytes() == original
    node.revert()
    assert path.read_bytes() == original
    assert path.stat().st_mode & 0o7777 == 0o640


def test_after_an_upgrade_of_ganeti_the_backup_is_the_new_original(node: Node) -> None:
    path = node.install("3.0", running=True)
    node.apply()
    newer = backend("3.0", "# a security fix\n")
    path.write_text(newer)
    assert node.states() == {"3.0": (patch.UNPATCHED, True)}
    assert node.apply().changed == ("3.0",)
    assert backup(path).read_text() == newer
    assert path.read_text().endswith("# a security fix\n")


def test_apply_refuses_before_it_changes_anything(node: Node) -> None:
    node.install("3.0")
    path = node.install("3.1", backend("3.1") * 2, running=True)
    before = node.files()
    with pytest.raises(Refused) as caught:
        node.apply(restart=True)
    assert str(caught.value) == f"{path}: ganeti-3.1.patch does not fit it exactly once: {LOST.replace('3.0', '3.1')}"
    assert node.files() == before
    assert node.ran == []


def test_apply_skips_what_does_not_run_and_does_not_fit(node: Node) -> None:
    unfit = node.install("3.0", "changed\n")
    node.install("3.1", running=True)
    unknown = node.install("3.2", "new\n")
    assert node.apply() == patch.Outcome(
        ("3.1",),
        (),
        (
            f"{unfit}: ganeti-3.0.patch does not fit it exactly once: {LOST}",
            f"{unknown}: no patch for Ganeti 3.2: a newer zfsganeti may have one",
        ),
        patch.RESTART_NEEDED,
    )


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("series", ["", "3.2"])
def test_apply_refuses_when_nothing_is_left_to_patch(node: Node, running: bool, series: str) -> None:
    node.install("3.2", "new\n", running=running)
    with pytest.raises(Refused, match=r": no patch for Ganeti 3\.2: a newer zfsganeti may have one$"):
        node.apply(series)


def test_a_series_that_is_not_installed_is_missing(node: Node) -> None:
    node.install("3.0")
    for verb in (node.apply, node.revert):
        with pytest.raises(Missing, match=r"/3\.1/ganeti/backend\.py does not exist: installed here: Ganeti 3\.0$"):
            verb("3.1")


def test_what_would_not_compile_is_not_installed(node: Node) -> None:
    path = node.install("3.0", backend("3.0", "def broken(:\n"), running=True)
    before = node.files()
    with pytest.raises(Refused, match=rf"^{path}: with the patch it would not compile \(invalid syntax .*\): it was left as it is$"):
        node.apply()
    assert node.files() == before


# --- Python 2 ---


def test_python_2_series_are_compiled_by_python_2(node: Node) -> None:
    path = node.install("2.16", running=True)
    python2 = node.root / "usr/bin/python2"
    with pytest.raises(Unavailable) as caught:
        node.apply()
    assert str(caught.value) == f"{python2}: not there to check what the patch makes of {path}: install Python 2, or patch by hand"
    python2.parent.mkdir()
    python2.write_text("")
    python2.chmod(0o755)
    node.error = CommandFailed("python2", 1, "SyntaxError: invalid syntax")
    with pytest.raises(Refused, match=r"with the patch it would not compile \(python2: SyntaxError: invalid syntax\)"):
        node.apply()
    assert node.states() == {"2.16": (patch.UNPATCHED, True)}
    node.error = None
    assert node.apply().changed == ("2.16",)
    assert [command[0] for command in node.ran] == [str(python2)] * 2
    python2.unlink()
    assert node.revert().changed == ("2.16",)


def test_a_leftover_python_2_series_is_in_nobodys_way(node: Node) -> None:
    node.install("2.16")
    node.install("3.0", running=True)
    outcome = node.apply()
    assert outcome.changed == ("3.0",)
    assert len(outcome.skipped) == 1


# --- taking it out ---


def test_revert_gives_back_what_was_there(node: Node) -> None:
    node.install("3.0")
    node.install("3.1", running=True)
    before = node.files()
    node.apply()
    assert node.revert() == patch.Outcome(("3.0", "3.1"), (), (), patch.RESTART_NEEDED)
    assert node.files() == before
    assert node.revert() == patch.Outcome((), ("3.0", "3.1"), (), patch.RESTART_NEEDED)
    assert node.files() == before


def test_revert_of_one_series_leaves_the_other(node: Node) -> None:
    path = node.install("3.0")
    node.install("3.1", running=True)
    node.apply()
    assert node.revert("3.1").changed == ("3.1",)
    assert node.states() == {"3.0": (patch.PATCHED, False), "3.1": (patch.UNPATCHED, True)}
    assert backup(path).exists()


def test_revert_keeps_what_else_was_changed_since(node: Node) -> None:
    path = node.install("3.0", running=True)
    node.apply()
    path.write_text(path.read_text() + "# a local fix\n")
    node.revert()
    assert path.read_text() == backend("3.0", "# a local fix\n")
    assert not backup(path).exists()


@pytest.mark.parametrize("newer", [backend("3.0", "# a security fix\n"), "RemoveFileStorageDir works otherwise now\n"])
def test_revert_after_an_upgrade_only_removes_the_backup(node: Node, newer: str) -> None:
    path = node.install("3.0", running=True)
    node.apply()
    path.write_text(newer)
    assert node.revert().changed == ()
    assert path.read_text() == newer
    assert not backup(path).exists()


def test_revert_removes_the_backup_of_a_series_that_was_uninstalled(node: Node) -> None:
    old = node.install("3.0")
    node.install("3.1", running=True)
    node.apply()
    old.unlink()
    assert node.revert().changed == ("3.1",)
    assert list(node.files()) == ["usr/share/ganeti/3.1/ganeti/backend.py"]
    assert not old.parents[1].exists()


def test_revert_without_ganeti_has_nothing_to_do_but_the_backups(node: Node) -> None:
    path = node.install("3.0", running=True)
    node.apply()
    path.unlink()
    node.stop()
    assert node.revert(restart=True) == patch.Outcome((), (), (), patch.AS_IT_WAS)
    assert node.files() == {}


def test_revert_leaves_a_series_alone_that_there_is_no_patch_for(node: Node) -> None:
    node.install("3.2", "new\n", running=True)
    assert node.revert() == patch.Outcome((), ("3.2",), (), patch.AS_IT_WAS)


def test_revert_refuses_where_our_lines_were_moved_about(node: Node) -> None:
    path = node.install("3.0", running=True)
    node.apply()
    moved = path.read_text().replace("      _Fail(", "      time.sleep(1)\n      _Fail(")
    path.write_text(moved)
    with pytest.raises(Refused) as caught:
        node.revert()
    assert str(caught.value) == f"{path}: ganeti-3.0.patch does not fit it exactly once: {LOST}"
    assert path.read_text() == moved
    assert backup(path).exists()


# --- accidents ---


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("verb", ["apply", "revert"])
@pytest.mark.parametrize("call", ["open", "fchown", "fsync", "replace", "unlink"])
@pytest.mark.parametrize("countdown", [1, 2, 3, 4])
def test_killed_at_any_step_it_can_be_repeated(node: Node, monkeypatch: pytest.MonkeyPatch, verb: str, call: str, countdown: int) -> None:
    path = node.install("3.0", running=True)
    original, changed = backend("3.0"), patch.patched(backend("3.0"), hunks_of("3.0"))
    if verb == "revert":
        node.apply()
    real, left = getattr(os, call), [countdown]

    def deadly(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed
        return real(*arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(os, call, deadly)
        try:
            getattr(node, verb)()
        except Killed:
            pass
    assert path.read_text() in (original, changed)
    if path.read_text() == changed and verb == "apply":
        assert backup(path).read_text() == original
    getattr(node, verb)()
    assert path.read_text() == (changed if verb == "apply" else original)
    assert node.files().keys() == {
        f"usr/share/ganeti/3.0/ganeti/{name}"
        for name in (("backend.py", "backend.py.zfsganeti-orig") if verb == "apply" else ("backend.py",))
    }


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_told_and_leaves_nothing_behind(node: Node, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = node.install("3.0", running=True)
    before = node.files()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(Unavailable) as caught:
        node.apply()
    assert str(caught.value) == (f"{backup(path)}: cannot be written (No space left on device): " "only root may, with room on the disk")
    assert node.files() == before


def test_an_unreadable_file_is_told(node: Node) -> None:
    path = node.install("3.0")
    path.unlink()
    path.mkdir()
    with pytest.raises(Unavailable, match=rf"^{path}: cannot be read \(Is a directory\)"):
        node.states()
