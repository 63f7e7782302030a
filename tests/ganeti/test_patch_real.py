"""The patch on the backend.py that Debian ships: it applies, comes out again, and its rmdir meets a real mount point."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_patch import CASES, PATCHES, function_of, hunks_of, succeeds
from zfsganeti import patch

from .debian import SERIES, backend_of

HERE = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=sorted(SERIES))
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(suite: str, tmp_path: Path) -> Path:
    """Return a node's root directory with Debian's backend.py, which may be changed."""
    path = tmp_path / "usr/share/ganeti" / SERIES[suite] / "ganeti/backend.py"
    path.parent.mkdir(parents=True)
    shutil.copy(backend_of(suite), path)
    (tmp_path / "etc/ganeti").mkdir(parents=True)
    (tmp_path / "etc/ganeti/share").symlink_to(f"/usr/share/ganeti/{SERIES[suite]}")
    return tmp_path


def not_run(*command: str) -> None:
    raise AssertionError(command)


def text_of(root: Path) -> str:
    (one,) = patch.status(root=str(root))
    return Path(one.path).read_text(encoding="utf-8")


def test_apply_and_revert(suite: str, root: Path) -> None:
    (before,) = patch.status(root=str(root))
    assert (before.series, before.state, before.running) == (SERIES[suite], patch.UNPATCHED, True)
    assert patch.apply(run=not_run, root=str(root)).changed == (SERIES[suite],)
    assert patch.status(root=str(root))[0].state == patch.PATCHED
    added = len(text_of(root).splitlines()) - len(backend_of(suite).read_text(encoding="utf-8").splitlines())
    assert added == sum(len(hunk.new) - len(hunk.old) for hunk in hunks_of(SERIES[suite]))
    assert patch.revert(run=not_run, root=str(root)).changed == (SERIES[suite],)
    assert Path(before.path).read_bytes() == backend_of(suite).read_bytes()
    assert os.listdir(os.path.dirname(before.path)) == ["backend.py"]


def test_patch_1_does_the_same_without_fuzz_or_offset(suite: str, root: Path, tmp_path: Path) -> None:
    if shutil.which("patch") is None:
        pytest.skip("patch(1) is not installed")
    by_hand = tmp_path / "by-hand.py"
    said = subprocess.run(
        ["patch", "--fuzz=0", f"--output={by_hand}", backend_of(suite), PATCHES / f"ganeti-{SERIES[suite]}.patch"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not re.search("offset|fuzz", said)
    patch.apply(run=not_run, root=str(root))
    assert by_hand.read_text(encoding="utf-8") == text_of(root)


@pytest.mark.parametrize(("number", "mounted", "files", "expected"), CASES)
def test_only_an_empty_mount_point_is_forgiven(root: Path, number: int, mounted: bool, files: list[str], expected: bool) -> None:
    patch.apply(run=not_run, root=str(root))
    assert succeeds(text_of(root), number, mounted, files) is expected


def test_the_names_it_uses_are_those_of_the_module(root: Path) -> None:
    for name in ("errno", "logging", "os"):
        assert re.search(rf"^import {name}$", text_of(root), re.MULTILINE)


REMOVE = """
import sys
from tests.unit.test_patch import Failed, function_of
try:
    function_of(open(sys.argv[1], encoding="utf-8").read())(sys.argv[2])
except Failed as failure:
    sys.exit(str(failure))
"""


@pytest.mark.parametrize(
    ("patched", "file", "expected"),
    [
        pytest.param(False, False, "[Errno 16] Device or resource busy", id="as shipped, an empty mount point is refused"),
        pytest.param(True, False, "", id="patched, an empty mount point is let be"),
        pytest.param(True, True, "[Errno 16] Device or resource busy", id="patched, a file in it is a reason to refuse"),
    ],
)
def test_on_a_real_mount_point(root: Path, tmp_path: Path, patched: bool, file: bool, expected: str) -> None:
    if patched:
        patch.apply(run=not_run, root=str(root))
    place = tmp_path / "instance1.example.com"
    place.mkdir()
    # the mount is in a namespace that ends with the shell
    script = 'mount -t tmpfs none "$1" || exit 77\n[ -z "$2" ] || touch "$1/x.file.disk0"\nexec "$3" -c "$4" "$5" "$1"'
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            place,
            "file" if file else "",
            sys.executable,
            REMOVE,
            patch.status(root=str(root))[0].path,
        ],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert (done.returncode == 0) is (not expected), done.stderr
    assert expected in done.stderr
    assert place.is_dir()


def test_a_plain_directory_is_still_removed(root: Path, tmp_path: Path) -> None:
    patch.apply(run=not_run, root=str(root))
    place = tmp_path / "instance1.example.com"
    place.mkdir()
    function_of(text_of(root))(str(place))
    assert not place.exists()
    function_of(text_of(root))(str(place))
