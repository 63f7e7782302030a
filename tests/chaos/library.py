"""On a node: each operation of tests/deaths is stopped at every point on real ZFS, and is then repeated.

python3 -m tests.chaos.library DIRECTORY SECONDS [FAULTS OPERATION...] < KNOWN > FOUND; both are JSON and say what each fault has ended in,
of all operations, or of some at most so many of each.
The process that is stopped is a real one: it gets a real SIGKILL, or a call in it fails. Or the node loses its power: what is found
then is the pool as it was on its disk at that moment, where a boot mounts what it mounts. It is done once for all power cuts, in which
at each point what is on the disk is kept. What is done again is done by another process.

There must be no pool called zfs: it makes one, in a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, cast

from tests import deaths
from tests.chaos import travels
from tests.chaos.pool import Ground, PoolNode, PoolZfs, Recorder, Striker
from tests.deaths.operation import Operation, comparable, contents, without
from tests.killing import Reaper, dies

PREFIX = "library: "
OPERATIONS = deaths.OPERATIONS | travels.OPERATIONS
KINDS = ("kill", "error", "power")
KEPT = 12  # disks at a time, some 20 MiB each, in a node's memory
FEW = 9  # faults of an operation
SURVIVED, NOT_STRUCK = "survived", "not struck"
NOTHING, CONFUSED, STRUCK, DONE = 0, 1, 3, 4  # how a child ends; DONE is one that says so, although a call in it has failed


def main() -> int:
    directory, seconds, *chosen = sys.argv[1:]
    turns, names = ((int(chosen[0]),), chosen[1:]) if chosen else ((FEW, 0), list(OPERATIONS))
    until, found = time.monotonic() + float(seconds), dict(json.load(sys.stdin))
    known = set(found)
    with Ground(directory) as ground:
        try:
            for most in turns:  # each operation has had a few before any has had all
                for name in names:
                    if time.monotonic() < until:
                        found.update(faults(ground, name, found, until, most))
        finally:
            print(json.dumps({key: result for key, result in found.items() if key not in known}), flush=True)
    return 0


def kinds_of(name: str) -> tuple[str, ...]:
    """Return what an operation is struck by: a power cut is a boot as well, which some do not outlast."""
    return KINDS if name not in OPERATIONS or OPERATIONS[name].boots else ("kill", "error")


def faults(ground: Ground, name: str, known: dict[str, str], until: float, most: int = 0) -> Iterator[tuple[str, str]]:
    """Yield what each fault has ended in that is not known yet, and how many points there are, which is counted unless it is known."""
    operation, title = OPERATIONS[name], f"{PREFIX}{name}"
    if f"{title}/points" in known and not left(name, int(known[f"{title}/points"]), known, most):
        return
    node = ground.node()
    bench = operation.bench(node)
    operation.before(bench)
    before = contents(node)
    count = count_of(node, lambda: operation.does(bench))
    goals = {kind: seen(node, bench, operation, kind) for kind in KINDS}
    needed = before & contents(node) if operation.destroys else before
    yield f"{title}/points", str(count)
    chosen = left(name, count, known, most)
    for kind, number in chosen:
        if kind != "power" and time.monotonic() < until:
            yield f"{title}/{kind}/{number}", Fault(ground, operation, kind, number, last=number == count).ends_in(goals[kind], needed)
    cuts = [number for kind, number in chosen if kind == "power"]
    for some in (cuts[first : first + KEPT] for first in range(0, len(cuts), KEPT)):
        if time.monotonic() < until:
            record = Record(ground, operation, some)
        for number in some:
            if time.monotonic() < until:
                fault = Fault(ground, operation, "power", number, last=number == count)
                yield f"{title}/power/{number}", record.ends_in(fault, goals["power"], needed)


def left(name: str, count: int, known: dict[str, str], most: int) -> list[tuple[str, int]]:
    """Return which of so many faults of an operation, 0 for all of them, are not known yet."""
    wanted = list(order(name, count, kinds_of(name)))[: most or None]
    return [(kind, number) for kind, number in wanted if f"{PREFIX}{name}/{kind}/{number}" not in known]


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


def and_one_more(does: Callable[[], object], reaper: Reaper) -> None:
    """It is done, and one more point is passed: what has ended can be struck as well."""
    does()
    reaper.point()


def without_places(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state without what is mounted or linked where, which a boot changes whatever was done before."""
    kept = {name: {key: value for key, value in dataset.items() if key != "mounted"} for name, dataset in state["datasets"].items()}
    return {**{key: value for key, value in state.items() if key not in ("paths", "seen")}, "datasets": kept}


def count_of(node: PoolNode, does: Callable[[], object]) -> int:
    """Return how many points there are."""
    counted = node.fake.reaper = Striker(node.place, "")
    dies(counted, 0, partial(and_one_more, does, counted))
    return counted.passed


class Fault:
    """One operation that is struck at one point; the `last` point is after its end."""

    def __init__(self, ground: Ground, operation: Operation, kind: str, number: int, *, last: bool) -> None:
        self.ground, self.operation, self.kind, self.number, self.last = ground, operation, kind, number, last
        self.stays = ""  # a directory whose removal failed

    def ends_in(self, goal: dict[str, Any], needed: set[bytes]) -> str:
        """Return what became of the operation, which was struck and done again."""
        return told(lambda: self._ends_in(goal, needed))

    def _ends_in(self, goal: dict[str, Any], needed: set[bytes]) -> str:
        self.node = self.ground.node()
        self.bench = self.operation.bench(self.node)
        self.operation.before(self.bench)
        status = self._struck()
        if status == NOTHING:
            return NOT_STRUCK
        return self.goes_on(goal, needed, done=self.last or status == DONE)

    def goes_on(self, goal: dict[str, Any], needed: set[bytes], *, done: bool) -> str:
        """Return what is different after it was done again, or before that if it was said to be done."""
        cut = self.kind == "power"
        self.operation.inherit(self.bench, booted=cut)
        if done and (self.operation.lasts or not cut):
            now, wanted = (without_places(state) if cut else state for state in (self._seen(), goal))
            if now != wanted:
                return f"was said to be done and is not: {difference(now, wanted)}"[:2000]
        lost = set() if cut else needed - contents(self.node)  # to look would have ZFS read its intent log before the library does
        self.operation.sees(self.bench)
        self.operation.does(self.bench)
        with cast("PoolZfs", self.node.fake).looked_at_once():
            now = self._seen()
            lost |= needed - contents(self.node)
        if lost:
            return f"lost: {sorted(lost)}"[:2000]
        return SURVIVED if now == goal else f"not as without a fault: {difference(now, goal)}"[:2000]

    def _seen(self) -> dict[str, Any]:
        return without(seen(self.node, self.bench, self.operation, self.kind), self.node, self.stays)

    def _struck(self) -> int:
        """A process has done the operation until it was struck."""
        told = mmap.mmap(-1, mmap.PAGESIZE)  # which both processes have
        child = os.fork()
        if child == 0:
            self._die(told)
        _pid, status = os.waitpid(child, 0)
        self.stays = told.read().rstrip(b"\0").decode()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return STRUCK
        ended = os.waitstatus_to_exitcode(status)
        assert ended == NOTHING or (self.kind == "error" and ended in (STRUCK, DONE)), f"the process has ended with {ended}"
        return ended

    def _die(self, told: mmap.mmap) -> None:
        """The process that this runs in ends here; it tells which directory could not be removed."""
        status = STRUCK
        try:
            leave = partial(self.operation.leave, self.bench)
            reaper = self.node.fake.reaper = Striker(self.node.place, self.kind, leave)
            with contextlib.suppress(Exception):  # where a call in it fails, it may
                dies(reaper, self.number, partial(and_one_more, partial(self.operation.does, self.bench), reaper))
                status = DONE
            leave()
            told.write(reaper.stays.encode())
            status = status if reaper.fired else NOTHING
        except BaseException:
            status = CONFUSED
        finally:
            os._exit(status)


class Record:
    """An operation that was done once, with what the pool's disk was at each of some points: a power cut there would have left that."""

    def __init__(self, ground: Ground, operation: Operation, numbers: Collection[int]) -> None:
        self.ground, self.operation, self.numbers = ground, operation, numbers
        self.node = ground.node()
        self.bench = operation.bench(self.node)
        operation.before(self.bench)
        ground.settle()
        ground.slim()
        self.said = in_child(self._does)

    def ends_in(self, fault: Fault, goal: dict[str, Any], needed: set[bytes]) -> str:
        """Return what became of the operation whose power was cut, and which another process has done again."""
        if self.said:
            return self.said
        fault.node, fault.bench = self.node, self.bench

        def goes_on() -> str:
            self.ground.back_to(self.node, fault.number)
            return fault.goes_on(goal, needed, done=fault.last)

        return in_child(goes_on) if self.ground.has(fault.number) else NOT_STRUCK

    def _does(self) -> str:
        leave = partial(self.operation.leave, self.bench)
        recorder = self.node.fake.reaper = Recorder(self.ground, self.numbers, leave)
        dies(recorder, 0, partial(and_one_more, partial(self.operation.does, self.bench), recorder))
        return recorder.failure


def in_child(does: Callable[[], str]) -> str:
    """Return what a process of its own says, which knows what this one does; or what became of it."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = told(does)
            os.write(its, said.encode()[: select.PIPE_BUF])
        finally:
            os._exit(0)
    os.close(its)
    with open(ours, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    _pid, status = os.waitpid(child, 0)
    return said if status == 0 else f"the process has ended with {status}"


def told(does: Callable[[], str]) -> str:
    """Return what it says, or what it has raised: whatever it is, it is what is to be told."""
    try:
        return does()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:2000]


def difference(now: Any, goal: Any) -> Any:
    """Return what two states do not have in common, as pairs."""
    if not isinstance(now, dict) or not isinstance(goal, dict):
        return (now, goal)
    return {key: difference(now.get(key), goal.get(key)) for key in sorted({*now, *goal}) if now.get(key) != goal.get(key)}


if __name__ == "__main__":
    raise SystemExit(main())
