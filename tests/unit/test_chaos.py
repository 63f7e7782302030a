"""What interrupts operations in the lab: every fault has its turn, a point stops the process that passes it, the page counts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.chaos import library, points
from tests.chaos.__main__ import page
from tests.chaos.pool import Recorder
from tests.deaths.operation import Operation
from tests.killing import dies

PROGRAM = """
import sys
sys.orig_argv = ["zfsganeti"]
sys.path.insert(0, {house!r})
from tests.chaos import points
points.PLACE, points.ROOTS = {place!r}, ({root!r},)
points.begin()
import os
os.mkdir({root!r} + "/one")
os.mkdir({root!r} + "/two")
os.mkdir({root!r} + "/three")
"""


def test_every_kind_strikes_at_every_point_once_in_the_same_order() -> None:
    faults = list(library.order("move", 7))
    assert sorted(faults) == sorted((kind, number) for kind in library.KINDS for number in range(1, 8))
    assert {kind for kind, _number in faults[:3]} == set(library.KINDS)
    assert faults == list(library.order("move", 7))
    assert faults != list(library.order("add", 7))


@pytest.mark.parametrize(("kind", "status"), [("kill", -9), ("error", 1)])
def test_the_chosen_point_is_not_passed(tmp_path: Path, kind: str, status: int) -> None:
    place, root = tmp_path / "chaos", tmp_path / "root"
    place.mkdir()
    root.mkdir()
    (place / "armed").write_text(f"2 {kind}", encoding="ascii")
    program = PROGRAM.format(house=str(Path(__file__).parents[2]), place=str(place), root=str(root))
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == status
    assert [path.name for path in root.iterdir()] == ["one"]
    assert [line.split(" ", 1)[1] for line in (place / "points").read_text(encoding="utf-8").splitlines()] == [
        f"os.mkdir {root}/one",
        f"os.mkdir {root}/two",
    ]
    assert not (place / "armed").exists()


def test_points_are_calls_that_exist() -> None:
    house = Path(__file__).parents[2] / "zfsganeti"
    for module, names in points.CALLS.items():
        text = (house / f"{module}.py").read_text(encoding="utf-8")
        assert [name for name in names if f"def {name}(" not in text] == [], module


def test_a_call_that_changes_something_passes_a_point(tmp_path: Path) -> None:
    (tmp_path / "chaos").mkdir()
    program = """
import sys
sys.orig_argv = ["gnt-zfs"]
from tests.chaos import points
points.PLACE = sys.argv[1]
points.begin()
from zfsganeti.zfs import Zfs
from zfsganeti import loop, streams
for call, wanted in ((Zfs.set, 3), (Zfs.promote, 2), (loop.attach, 2), (streams.Streams.abort, 2)):
    try:
        call(*[None] * wanted)
    except Exception:
        pass
"""
    house = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "chaos")], check=True, cwd=house)
    passed = (tmp_path / "chaos/points").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in passed] == ["zfs set", "history promote", "loop attach", "streams abort"]


def test_the_page_counts_what_survived_and_what_was_lost() -> None:
    faults = {"add/points": "9", "add/kill/1": "survived (abc)", "add/power/1": "disk 0 differs (abc)", "add/error/2": "survived (abc)"}
    lines = page(
        {"trixie": {**faults, "move/points": "2", "move/kill/1": "survived (abc)", "move/kill/2": "not struck (abc)"}, "bookworm": {}}
    ).splitlines()
    assert "| add | 9 | 1 | 1 | 1 | 3 of 27 | 2 | 0 | 1 |" in lines
    assert "| move | 2 | 2 | 0 | 0 | 2 of 6 | 1 | 1 | 0 |" in lines
    assert "| all | 11 | 3 | 1 | 1 | 5 of 33 | 3 | 1 | 1 |" in lines
    assert "| library: put | 4 | 1 | 0 | 0 | 1 of 12 | 1 | 0 | 0 |" in page(
        {"trixie": {"library: put/points": "4", "library: put/kill/1": "survived (abc)"}}
    )
    assert [line for line in lines if line.startswith("- ")] == ["- add/power/1: disk 0 differs (abc)"]


@pytest.mark.parametrize(
    ("kind", "number", "ended", "made"),
    [
        ("kill", 2, library.STRUCK, ["one"]),
        ("error", 2, library.STRUCK, ["one"]),
        ("kill", 3, library.STRUCK, ["one", "two"]),
        ("kill", 4, library.NOTHING, ["one", "two"]),
    ],
)
def test_a_process_that_is_struck_leaves_what_it_has_done(tmp_path: Path, kind: str, number: int, ended: int, made: list[str]) -> None:
    def makes_two(_node: object) -> None:
        for name in ("one", "two"):
            os.mkdir(tmp_path / name)

    fault = library.Fault(SimpleNamespace(), Operation(lambda _node: None, makes_two, lambda node: node), kind, number, last=False)  # type: ignore[arg-type]
    fault.node, fault.bench = SimpleNamespace(place=str(tmp_path), fake=SimpleNamespace()), None  # type: ignore[assignment]
    assert fault._struck() == ended
    assert sorted(os.listdir(tmp_path)) == made


def test_an_error_that_is_swallowed_is_said_to_be_done(tmp_path: Path) -> None:
    def makes_one(_node: object) -> None:
        with contextlib.suppress(OSError):
            os.mkdir(tmp_path / "one")

    fault = library.Fault(SimpleNamespace(), Operation(lambda _node: None, makes_one, lambda node: node), "error", 1, last=False)  # type: ignore[arg-type]
    fault.node, fault.bench = SimpleNamespace(place=str(tmp_path), fake=SimpleNamespace()), None  # type: ignore[assignment]
    assert fault._struck() == library.DONE
    assert os.listdir(tmp_path) == []


class Keeper:
    """A ground that knows which disks were kept."""

    def __init__(self, place: Path) -> None:
        self.place, self.kept = str(place), []  # type: ignore[var-annotated]

    def keep(self, number: int) -> None:
        self.kept.append((number, sorted(os.listdir(self.place))))


def test_a_record_keeps_the_disk_at_each_chosen_point_and_goes_on(tmp_path: Path) -> None:
    ground = Keeper(tmp_path)
    recorder = Recorder(ground, [1, 3, 7], lambda: os.mkdir(tmp_path / f"left{len(ground.kept)}"))  # type: ignore[arg-type]

    def makes_three() -> None:
        for name in ("one", "three", "two"):
            os.mkdir(tmp_path / name)

    assert not dies(recorder, 0, makes_three)
    assert ground.kept == [(1, ["left0"]), (3, ["left0", "left1", "one", "three"])]
    assert recorder.passed == 3
    assert recorder.failure == ""


def test_no_disk_is_kept_while_others_write(tmp_path: Path) -> None:
    ground = Keeper(tmp_path)
    recorder = Recorder(ground, [1], lambda: None)  # type: ignore[arg-type]
    other = subprocess.Popen(["sleep", "60"])
    try:
        dies(recorder, 0, lambda: os.mkdir(tmp_path / "one"))
    finally:
        other.kill()
        other.wait()
    assert ground.kept == []
    assert "1 others are at work at point 1" in recorder.failure


def test_a_process_of_its_own_says_what_it_found_or_what_became_of_it() -> None:
    def ends() -> str:
        os._exit(3)

    def fails() -> str:
        raise ValueError("not\nso")

    known = [1]

    def forgets() -> str:
        known.clear()
        return "survived"

    assert library.in_child(forgets) == "survived"
    assert known == [1]
    assert library.in_child(fails) == "ValueError: not so"
    assert "ended with" in library.in_child(ends)


def test_two_states_differ_in_what_is_said() -> None:
    one, two = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "d": 3}
    assert library.difference(one, two) == {"a": {"c": (2, 4)}}
