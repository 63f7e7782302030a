"""On a node: each operation of tests/deaths is stopped at every point on real ZFS, and is then repeated.

python3 -m tests.chaos.library DIRECTORY SECONDS [FAULTS OPERATION...] < KNOWN > FOUND; both are JSON and say what each fault has ended in,
of all operations, or of some at most so many of each.
The process that is stopped is a real one: it gets a real SIGKILL, or a call in it fails. Or the node loses its power: what is found
then is the pool as it was on its disk at that moment, where a boot mounts what it mounts. What is done again is done by another process.

There must be no pool called zfs: it makes one, in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests import deaths
from tests.chaos import travels
from tests.chaos.pool import Ground, PoolNode, Striker
from tests.deaths.operation import Operation, comparable, contents
from tests.killing import dies

PREFIX = "library: "
OPERATIONS = deaths.OPERATIONS | travels.OPERATIONS
KINDS = ("kill", "error", "power")
SURVIVED, NOT_STRUCK = "survived", "not struck"
NOT_REACHED, REACHED = 0, 3  # how a child ends


def main() -> int:
    directory, seconds, *chosen = sys.argv[1:]
    most, names = (int(chosen[0]), chosen[1:]) if chosen else (0, list(OPERATIONS))
    until, known = time.monotonic() + float(seconds), dict(json.load(sys.stdin))
    found: dict[str, str] = {}
    ground = Ground(directory)
    try:
        for name in names:
            if time.monotonic() < until:
                found.update(faults(ground, name, known, until, most))
    finally:
        ground.close()
    print(json.dumps(found))
    return 0


def kinds_of(name: str) -> tuple[str, ...]:
    """Return what an operation is struck by: a power cut is a boot as well, which some do not outlast."""
    return KINDS if OPERATIONS[name].boots else ("kill", "error")


def faults(ground: Ground, name: str, known: dict[str, str], until: float, most: int = 0) -> Iterator[tuple[str, str]]:
    """Yield what each fault has ended in that is not known yet, and how many points there are."""
    operation, title = OPERATIONS[name], f"{PREFIX}{name}"
    count = int(known.get(f"{title}/points", 0))
    if count and all(f"{title}/{kind}/{number}" in known for number in range(1, count + 1) for kind in kinds_of(name)):
        return
    node = ground.node()
    bench = operation.bench(node)
    operation.before(bench)
    needed = set() if operation.destroys else contents(node)
    count = count_of(node, lambda: operation.does(bench))
    goals = {kind: seen(node, bench, operation, kind) for kind in KINDS}
    yield f"{title}/points", str(count)
    for kind, number in list(order(name, count, kinds_of(name)))[: most or None]:
        key = f"{title}/{kind}/{number}"
        if key not in known and time.monotonic() < until:
            yield key, ends_in(ground, operation, kind, number, goals[kind], needed)


def order(name: str, count: int, kinds: tuple[str, ...] = KINDS) -> Iterator[tuple[str, int]]:
    """Yield every kind at every point, the kinds by turns, in an order that is the same each time and spreads over all points."""
    for points in zip(*([(kind, point) for point in by_chance(f"{name} {kind}", count)] for kind in kinds), strict=True):
        yield from points


def by_chance(words: str, count: int) -> list[int]:
    """Return the numbers from 1 in an order that those words choose."""
    return sorted(range(1, count + 1), key=lambda number: hashlib.sha256(f"{words} {number}".encode()).digest())


def seen(node: PoolNode, bench: Any, operation: Operation, kind: str) -> dict[str, Any]:
    """Return what two runs that were struck like that must have in common."""
    if operation.tells is not None:
        return operation.tells(bench)
    return comparable(node, ignored=operation.ignored, places=operation.places, booted=kind == "power")


def whole(does: Callable[[], object], reaper: Striker) -> None:
    """It is done, and one more point is passed: what has ended can be struck as well."""
    does()
    reaper.point()


def count_of(node: PoolNode, does: Callable[[], object]) -> int:
    """Return how many points there are."""
    counted = node.fake.reaper = Striker(node.place, "")
    dies(counted, 0, partial(whole, does, counted))
    return counted.passed


def ends_in(ground: Ground, operation: Operation, kind: str, number: int, goal: dict[str, Any], needed: set[bytes]) -> str:
    """Return what became of an operation that was struck and done again."""
    try:
        node = ground.node()
        bench = operation.bench(node)
        operation.before(bench)
        ground.settle()
        if not struck(node, bench, operation, kind, number):
            return NOT_STRUCK
        if kind == "power":
            ground.lose_power(node)
        operation.inherit(bench, booted=kind == "power")
        lost = needed - contents(node)
        operation.sees(bench)
        operation.does(bench)
        now = seen(node, bench, operation, kind)
    except Exception as error:  # whatever it is, it is what is to be told
        return " ".join(f"{type(error).__name__}: {error}".split())[:2000]
    if lost:
        return f"lost in between: {sorted(lost)}"[:2000]
    return SURVIVED if now == goal else f"not as without a fault: {difference(now, goal)}"[:2000]


def struck(node: PoolNode, bench: Any, operation: Operation, kind: str, number: int) -> bool:
    """A process has done the operation until it was struck; tell whether it came to that point."""
    child = os.fork()
    if child == 0:
        leave = partial(operation.leave, bench)
        reaper = node.fake.reaper = Striker(node.place, kind, leave)
        try:
            dies(reaper, number, partial(whole, partial(operation.does, bench), reaper))
        finally:
            leave()
            os._exit(REACHED if reaper.passed >= number else NOT_REACHED)
    _pid, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == REACHED


def difference(now: Any, goal: Any) -> Any:
    """Return what two states do not have in common, as pairs."""
    if not isinstance(now, dict) or not isinstance(goal, dict):
        return (now, goal)
    return {key: difference(now.get(key), goal.get(key)) for key in sorted({*now, *goal}) if now.get(key) != goal.get(key)}


if __name__ == "__main__":
    raise SystemExit(main())
