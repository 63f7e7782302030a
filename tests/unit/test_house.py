"""The house: which room may know which, read from the imports, and the table that tells people so."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
LEVELS = {
    **dict.fromkeys(
        (
            "hooks",
            "extstorage",
            "cli",
            "osdefinition",
            "image_cli",
            "image_list",
            "move_cli",
            "patch_cli",
            "snapshot_cli",
            "adopt_cli",
            "terminal",
            "parsing",
            "colours",
            "answer",
        ),
        3,
    ),
    **dict.fromkeys(
        (
            "here",
            "shapes",
            "datasets",
            "roots",
            "volumes",
            "contents",
            "image",
            "images",
            "lending",
            "exports",
            "holders",
            "disks",
            "install",
            "variants",
            "trash",
            "undo",
            "clock",
            "look",
            "check",
            "upkeep",
            "placement",
            "setup",
            "patch",
            "transfer",
            "route",
            "moving",
            "departure",
            "fence",
            "arrival",
            "move",
            "retreat",
            "leftovers",
            "independent",
            "snapshots",
            "rollback",
            "rollback_plan",
            "sanoid",
            "adoption",
            "exchange",
            "intake",
        ),
        2,
    ),
    **dict.fromkeys(("zfs", "streams", "sources", "formats", "ganeti", "jobs", "node", "loop", "config", "lvm"), 1),
    **dict.fromkeys(("errors", "process", "core", "programs", "threads", "links", "names", "files", "mounts", "history", "blocks"), 0),
}
LONGEST = 600
ROOMS = {path.stem: path for path in (HOUSE / "zfsganeti").glob("*.py") if path.stem != "__init__"}
TREES = {room: ast.parse(path.read_text(encoding="utf-8")) for room, path in ROOMS.items()}
OUTSIDE = {"libzfs_core": "zfs", "sh": "process", "subprocess": "process"}  # the one room that may import them

rooms = pytest.mark.parametrize("room", sorted(ROOMS))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere: `from zfsganeti import x` gives zfsganeti.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room they come from"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_rooms(tree: ast.AST) -> set[str]:
    parts = (name.split(".") for name in imported_modules(tree))
    return {part[1] for part in parts if part[0] == "zfsganeti" and len(part) > 1 and part[1] in ROOMS}


def at_import_time(tree: ast.Module) -> ast.Module:
    """The module without what runs later or never: functions, and what only type checkers read."""
    body = []
    for node in tree.body:
        later = isinstance(node, ast.FunctionDef | ast.ClassDef)
        never = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not later and not never:
            body.append(node)
    return ast.Module(body, [])


def test_every_room_has_its_level() -> None:
    assert set(ROOMS) == set(LEVELS)


@rooms
def test_a_room_knows_only_its_own_level_and_those_below(room: str) -> None:
    above = {other for other in imported_rooms(TREES[room]) if LEVELS[other] > LEVELS[room]}
    assert above == set()


@pytest.mark.parametrize("room", [room for room, level in LEVELS.items() if level == 1])
def test_the_borders_do_not_know_each_other(room: str) -> None:
    assert {other for other in imported_rooms(TREES[room]) if LEVELS[other] == 1} == set()


def test_rooms_do_not_go_in_circles() -> None:
    waiting = {room: imported_rooms(at_import_time(tree)) for room, tree in TREES.items()}
    while waiting:
        free = {room for room, needs in waiting.items() if not needs & set(waiting)}
        assert free, f"these import each other: {sorted(waiting)}"
        waiting = {room: needs for room, needs in waiting.items() if room not in free}


@rooms
def test_only_doors_know_the_process_they_are_in(room: str) -> None:
    found = set()
    for node in ast.walk(TREES[room]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in {("os", "environ"), ("os", "getenv"), ("sys", "argv"), ("sys", "exit")}:
                found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"):
            found.add(node.func.id)
    assert found == set() or LEVELS[room] == 3


@rooms
def test_the_world_outside_has_one_door_each(room: str) -> None:
    imported = {name.split(".")[0] for name in imported_modules(TREES[room])}
    assert {name for name, owner in OUTSIDE.items() if name in imported and room != owner} == set()
    assert not imported & {"multiprocessing", "requests"}
    assert not {"os.system", "os.popen"} & {ast.unparse(node) for node in ast.walk(TREES[room]) if isinstance(node, ast.Attribute)}


@rooms
def test_threads_begin_in_one_place(room: str) -> None:
    names = {node.id for node in ast.walk(TREES[room]) if isinstance(node, ast.Name)}
    assert "ThreadPoolExecutor" not in names or room == "threads"


def test_threads_find_what_they_look_for_without_importing_it() -> None:
    said = "import sys; from zfsganeti import threads; was = 'typing' in sys.modules; threads.pool(1); print(was, 'typing' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", said], cwd=HOUSE, capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


@pytest.mark.parametrize(("outside", "owner"), OUTSIDE.items())
def test_what_is_heavy_is_imported_when_it_is_needed(outside: str, owner: str) -> None:
    assert outside in set(imported_modules(TREES[owner]))
    assert outside not in set(imported_modules(at_import_time(TREES[owner])))


@rooms
def test_a_room_can_be_read_in_one_sitting(room: str) -> None:
    assert len(ROOMS[room].read_text(encoding="utf-8").splitlines()) <= LONGEST


@rooms
def test_a_room_says_what_it_is_for(room: str) -> None:
    assert ast.get_docstring(TREES[room])


def test_the_table_for_people_is_the_one_that_is_checked() -> None:
    """Rows such as: | 2 policy | `datasets` | what an instance dataset is |; a row without a level has that of the row above."""
    told: dict[str, int] = {}
    level = -1
    for line in (HOUSE / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        named = re.fullmatch(r"`(\w+)`", cells[1]) if line.startswith("|") and len(cells) >= 3 else None
        if named:
            level = int(cells[0].split(" ")[0]) if cells[0] else level
            assert named.group(1) not in told
            told[named.group(1)] = level
    assert told == LEVELS


def test_every_verb_that_a_node_is_asked_for_is_known_there() -> None:
    from zfsganeti import intake, transfer
    from zfsganeti.answer import VERBS

    asked = {
        argument.value
        for room, tree in TREES.items()
        for node in ast.walk(tree)
        if room not in ("zfs", "history")  # whose _call is one of libzfs_core
        and isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("call", "call_all", "listen", "_call", "_ask")
        for argument in node.args[:2]
        if isinstance(argument, ast.Constant)
    }
    assert len(asked) > 40
    assert (asked | intake.VERBS.keys() | transfer.VERBS.keys()) - VERBS.keys() == set()
