"""Every operation, killed at every point and repeated, ends as if it had not been interrupted, and no file is ever lost.

Points are all changes of the disk, see tests/killing.py: some 10 to 60 for an operation. Each is died at twice: with the next
process on the same running node, and after a boot that has mounted what a boot mounts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deaths import CASES, OPERATIONS
from tests.deaths.instances import instance
from tests.deaths.operation import comparable, contents
from tests.killing import dies
from tests.node import Node, nodes_at


@pytest.fixture
def nodes(tmp_path: Path) -> Callable[[], Node]:
    """One new node after the other, all at the same path so that their states can be compared."""
    return nodes_at(tmp_path)


@pytest.mark.parametrize(("name", "boot"), CASES, ids=[f"{name}{' boot' if boot else ''}" for name, boot in CASES])
def test_killed_anywhere_and_repeated_it_ends_the_same(nodes: Callable[[], Node], name: str, boot: bool) -> None:
    operation = OPERATIONS[name]

    def state() -> dict[str, object]:
        return comparable(node, ignored=operation.ignored, places=operation.places, booted=boot)

    node = nodes()
    bench = operation.bench(node)
    operation.before(bench)
    needed = contents(node) if not operation.destroys else set()
    operation.does(bench)
    goal = state()
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
        assert state() == goal, f"killed at point {point}"
    assert point > 2


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
