"""Every operation, killed or failing at every point and repeated, ends as if it had not been interrupted, and no file is ever lost.

Points are all changes of the disk, see tests/killing.py: some 10 to 60 for an operation. Each is died at twice: with the next
process on the same running node, and after a boot that has mounted what a boot mounts. What fails may have been done before it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.deaths import CASES, OPERATIONS
from tests.deaths.instances import instance
from tests.deaths.operation import Operation, comparable, contents, without
from tests.killing import Failing, dies
from tests.node import Node
from zfsganeti.errors import ZfsGanetiError


def state_of(node: Node, operation: Operation, *, booted: bool = False) -> dict[str, Any]:
    """Return what two runs of the operation have in common."""
    return comparable(node, ignored=operation.ignored, places=operation.places, booted=booted)


def undisturbed(node: Node, operation: Operation, *, booted: bool = False) -> tuple[set[bytes], dict[str, Any]]:
    """Return what no file may lose, and what the operation ends in when nothing stops it."""
    bench = operation.bench(node)
    operation.before(bench)
    needed = contents(node) if not operation.destroys else set()
    operation.does(bench)
    return needed, state_of(node, operation, booted=booted)


@pytest.mark.parametrize(("name", "boot"), CASES, ids=[f"{name}{' boot' if boot else ''}" for name, boot in CASES])
def test_killed_anywhere_and_repeated_it_ends_the_same(nodes: Callable[[], Node], name: str, boot: bool) -> None:
    operation = OPERATIONS[name]
    needed, goal = undisturbed(nodes(), operation, booted=boot)
    point = 0
    died = True
    while died:
        point += 1
        node = nodes()
        bench = operation.bench(node)
        operation.before(bench)
        died = dies(node.fake.reaper, point, lambda bench=bench: operation.does(bench))  # type: ignore[misc]
        assert needed <= contents(node), f"lost at point {point}"
        if boot:
            node.boot()
        operation.sees(bench)
        operation.does(bench)
        assert state_of(node, operation, booted=boot) == goal, f"killed at point {point}"
    assert point > 2


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_failing_anywhere_and_repeated_it_ends_the_same(nodes: Callable[[], Node], name: str) -> None:
    operation = OPERATIONS[name]
    needed, goal = undisturbed(nodes(), operation)
    point, fired = 0, True
    while fired:
        point += 1
        node = nodes()
        bench = operation.bench(node)
        operation.before(bench)
        failing = node.fake.reaper = node.loop.reaper = Failing(node.fake.reaper.place)
        said = fails(failing, point, lambda bench=bench: operation.does(bench))  # type: ignore[misc]
        fired = failing.fired
        assert said or without(state_of(node, operation), node, failing.stays) == goal, f"said to be done although point {point} failed"
        assert needed <= contents(node), f"lost at point {point}"
        operation.sees(bench)
        operation.does(bench)
        assert without(state_of(node, operation), node, failing.stays) == goal, f"failed at point {point}"
    assert point > 2


def fails(failing: Failing, point: int, operation: Callable[[], object]) -> bool:
    """Run an operation in which a point fails; tell whether it says so."""
    try:
        dies(failing, point, operation)
    except (ZfsGanetiError, OSError):
        return True
    return False


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
def test_an_operation_that_never_comes_is_undone_wherever_its_hook_died(nodes: Callable[[], Node], boot: bool) -> None:
    node = nodes()
    instance(node)
    goal = comparable(node, booted=boot)
    point = 0
    died = True
    while died:
        point += 1
        node = nodes()
        instance(node)
        died = dies(node.fake.reaper, point, lambda node=node: node.put_aside("web1", "rename web2"))  # type: ignore[misc]
        if boot:
            node.boot()
        node.store.bring_home("web1")
        assert comparable(node, booted=boot) == goal, f"killed at point {point}"
