"""On a node: each operation of tests/deaths.py is killed, or a call in it fails, at every point on real ZFS, and is then repeated.

python3 -m tests.chaos.library ROOT DIRECTORY SECONDS < KNOWN > FOUND; both are JSON and say what each fault has ended in. The process
that is killed is a real one, and gets a real SIGKILL; what is done again is done by another one, at once or after what a boot mounts.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from tests.deaths import CASES, NOW, OPERATIONS, Operation, comparable
from tests.fakezfs import FakeZfs
from tests.killing import Reaper, dies
from tests.node import CLUSTER_NAME, Node
from tests.realrig import BootedZfs, clean
from zfsganeti.datasets import CLUSTER
from zfsganeti.roots import Root

PREFIX = "library: "
KINDS = ("kill", "error")
SURVIVED, NOT_STRUCK = "survived", "not struck"
NOT_REACHED, REACHED = 0, 3  # how a child ends


class Striker(Reaper):
    """Counts points as a reaper does; at the chosen one the process is killed, or the call fails."""

    def __init__(self, place: str, kind: str) -> None:
        super().__init__(place)
        self.kind = kind

    def point(self) -> None:
        if not self.counting:
            return
        self.passed += 1
        if self.passed == self.chosen and self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.passed == self.chosen:
            raise OSError(errno.EIO, "chaos")


class EveryZfs(BootedZfs):
    """Real ZFS that tells all there is, as the fake does."""

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            dataset.name: {"properties": {}, "marks": {}, "snapshots": {}, "files": self.files(dataset.name), "mounted": []}
            for dataset in self.datasets(self.root.name)
        }
        columns = ("-s", "local", "-t", "filesystem", "-o", "name,property,value", "all")
        told = self._command("zfs", "get", "-Hp", "-r", *columns, self.root.name)
        for line in told.splitlines():
            name, prop, value = line.split("\t", 2)
            found[name]["marks" if ":" in prop else "properties"][prop] = value
        for snapshot, _created, _used in self.snapshots(self.root.name):
            name, _at, short = snapshot.partition("@")
            found[name]["snapshots"][short] = self.snapshot_files(snapshot)
        for mount in self.mounts():
            if mount.dataset in found:
                found[mount.dataset]["mounted"].append(mount.path)
        return found


class Place:
    """Where one node after the other is made, each at the same path, so that two can be compared."""

    def __init__(self, below: str, directory: str, scratch: Path) -> None:
        self.root, self.scratch = Root(f"{below}/every", f"{directory}/every"), scratch
        self.made = False

    def node(self) -> Node:
        self.clean()
        self.made = True
        return _Node(self.scratch, self.root)

    def clean(self) -> None:
        if self.made:
            clean(self.root.name, self.root.path)
        self.made = False


class _Node(Node):
    def __init__(self, scratch: Path, root: Root) -> None:
        self._root = root
        super().__init__(scratch, busy_seconds=10)  # what was unmounted a moment ago may be kept for another one

    def make_root(self) -> tuple[Root, FakeZfs]:
        zfs = EveryZfs(self._root)
        zfs.clock = NOW
        zfs.create(self._root.name, {"mountpoint": self._root.path}, {CLUSTER: CLUSTER_NAME})
        zfs.mount(self._root.name, self._root.path)
        return self._root, cast("FakeZfs", zfs)  # which has all of it that is asked for here


def main() -> int:
    below, directory, seconds = sys.argv[1:]
    until, known = time.monotonic() + float(seconds), dict(json.load(sys.stdin))
    found: dict[str, str] = {}
    with TemporaryDirectory() as scratch:
        place = Place(below, directory, Path(scratch))
        try:
            for name, boot in CASES:
                if time.monotonic() < until:
                    found.update(faults(place, name, boot, known, until))
        finally:
            place.clean()
    print(json.dumps(found))
    return 0


def faults(place: Place, name: str, boot: bool, known: dict[str, str], until: float) -> Iterator[tuple[str, str]]:
    """Yield what each fault has ended in that is not known yet, and how many points there are."""
    operation, title = OPERATIONS[name], f"{PREFIX}{name}{', then a boot' if boot else ''}"
    count = int(known.get(f"{title}/points", 0))
    left = [(kind, number) for number in range(1, count + 1) for kind in KINDS if f"{title}/{kind}/{number}" not in known]
    if count and not left:
        return
    node = place.node()
    operation.before(node)
    counted = node.fake.reaper = Striker(node.root.path, "")
    dies(counted, 0, lambda: operation.does(node))
    goal, count = comparable(node), counted.passed
    yield f"{title}/points", str(count)
    for number in range(1, count + 1):
        for kind in KINDS:
            key = f"{title}/{kind}/{number}"
            if key not in known and time.monotonic() < until:
                yield key, ends_in(place.node(), operation, kind, number, goal, boot=boot)


def ends_in(node: Node, operation: Operation, kind: str, number: int, goal: dict[str, Any], *, boot: bool) -> str:
    """Return what became of an operation that was struck and done again."""
    try:
        operation.before(node)
        if not struck(node, operation, kind, number):
            return NOT_STRUCK
        if boot:
            node.fake.boot()
        operation.does(node)
        now = comparable(node)
    except Exception as error:  # whatever it is, it is what is to be told
        return " ".join(f"{type(error).__name__}: {error}".split())[:2000]
    return SURVIVED if now == goal else f"not as without a fault: {difference(now, goal)}"[:2000]


def struck(node: Node, operation: Operation, kind: str, number: int) -> bool:
    """A process has done the operation until it was struck; tell whether it came to that point."""
    child = os.fork()
    if child == 0:
        reaper = node.fake.reaper = Striker(node.root.path, kind)
        try:
            dies(reaper, number, lambda: operation.does(node))
        finally:
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
