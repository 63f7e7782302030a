"""A real pool in a file, nodes in it that can be stopped at a chosen point, and what that pool is after a power cut.

The pool is called zfs, as the one of tests/node.py, so that there must be no other of that name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from tests.deaths import NOW
from tests.fakeloop import FakeLoop
from tests.fakezfs import FakeZfs
from tests.killing import Failing, Reaper
from tests.node import CLUSTER_NAME, Node
from tests.realnode import RealZfs
from tests.realrig import TRIES, BootedZfs, clean
from zfsganeti import core, loop
from zfsganeti.datasets import CLUSTER
from zfsganeti.roots import Root
from zfsganeti.streams import Streams

POOL, POOL_BYTES = "zfs", 512 << 20
SECTOR = 512  # bytes, in which the kernel tells sizes
BESIDE = "beside"  # a node's place: what belongs to it and is none of its files
TXG_SECONDS = 3600  # nothing is on the disk but what somebody waited for
TXGS = Path(f"/proc/spl/kstat/zfs/{POOL}/txgs")
TXG_TIMEOUT = Path("/sys/module/zfs/parameters/zfs_txg_timeout")


class Striker(Failing):
    """At the chosen point the process is killed, which does something before, or the call fails."""

    def __init__(self, place: str, kind: str, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(place)
        self.kind, self.before = kind, before

    def strike(self) -> None:
        if self.kind == "kill":
            self.before()
            os.kill(os.getpid(), signal.SIGKILL)
        super().strike()


class Recorder(Reaper):
    """Counts points as a reaper does; at the chosen ones what is on the pool's disk is kept, after something was done."""

    def __init__(self, ground: Ground, numbers: Collection[int], before: Callable[[], object]) -> None:
        super().__init__(ground.place)
        self.ground, self.numbers, self.before = ground, numbers, before
        self.failure = ""

    def point(self) -> None:
        if not self.counting:
            return
        self.passed += 1
        if self.passed not in self.numbers:
            return
        if others := children():
            self.failure = f"{len(others)} others are at work at point {self.passed}, which write while the disk is read"
            return
        self.counting = False
        try:
            self.before()
            self.ground.keep(self.passed)
        finally:
            self.counting = True


class PoolZfs(BootedZfs):
    """A real pool that tells all there is, as the fake does, and in which a point is passed before each change."""

    def __init__(self, place: str) -> None:
        super().__init__(Root(POOL, place))
        self.clock = NOW
        self._looked: dict[str, Any] | None = None
        self.clear = self.clear_each  # type: ignore[method-assign]

    def clear_each(self, name: str, keys: Iterable[str]) -> None:
        """A point is passed before each property, since each takes a zfs(8)."""
        for key in keys:
            pointed(self, super().clear)(name, [key])

    def _mortal(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return pointed(self, method)

    def foreign(self, name: str, marks: dict[str, str] | None = None, mountpoint: str = "") -> None:
        self.create(name, {"mountpoint": mountpoint}, marks or {})

    def state(self) -> dict[str, Any]:
        return self._state() if self._looked is None else self._looked

    @contextlib.contextmanager
    def looked_at_once(self) -> Iterator[None]:
        """Nothing is changed meanwhile, so that one look, which takes as long as some changes, is enough."""
        self._looked = self._state()
        try:
            yield
        finally:
            self._looked = None

    def _state(self) -> dict[str, Any]:
        found = self._told()
        for name, dataset in found.items():
            dataset["files"] = self.files(name)
            dataset["snapshots"] = {short: self.snapshot_files(f"{name}@{short}") for short in dataset["kept"]}
        for mount in self.mounts():
            if mount.dataset in found:
                found[mount.dataset]["mounted"].append(mount.path)
        return found

    def _told(self) -> dict[str, Any]:
        """Return what zfs(8) tells of each filesystem and of what keeps its snapshots."""
        found: dict[str, Any] = {}
        everything = ("-t", "filesystem,snapshot", "-o", "name,property,value,source", "all")
        for line in self._command("zfs", "get", "-Hp", "-r", *everything, POOL).splitlines():
            name, prop, value, source = line.split("\t", 3)
            dataset, _at, short = name.partition("@")
            if dataset == POOL:
                continue
            known = found.setdefault(dataset, {"properties": {}, "marks": {}, "kept": {}, "mounted": [], "origin": ""})
            if short:
                holds, marks = known["kept"].get(short, (0, {}))
                marks |= {prop: value} if ":" in prop and source == "local" else {}
                known["kept"][short] = (int(value) if prop == "userrefs" else holds, marks)
            elif prop == "origin":
                known["origin"] = value.removeprefix("-")
            elif source == "local":
                known["marks" if ":" in prop else "properties"][prop] = value
        return found


def pointed(zfs: RealZfs, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what passes a point before it does what the method does."""

    def call(*arguments: Any, **options: Any) -> Any:
        zfs.reaper.point()
        return method(*arguments, **options)

    return call


class RealLoop(FakeLoop):
    """The kernel's loop devices, of files below one directory."""

    def __init__(self, zfs: RealZfs) -> None:
        super().__init__(zfs.reaper)
        self.zfs = zfs
        self.find, self.backed_by, self.flush = loop.find, loop.backed_by, loop.flush  # type: ignore[method-assign]
        for name in ("attach", "detach", "grow"):
            setattr(self, name, pointed(zfs, getattr(loop, name)))

    def sizes(self) -> list[tuple[str, int]]:
        found = loop.ours(self.zfs.root.path)
        return sorted(
            (name, 512 * int(Path(f"/sys/block/{os.path.basename(device)}/size").read_text(encoding="ascii"))) for device, name in found
        )

    def clear(self) -> None:
        """There are no devices, as after a boot."""
        for device, path in [(device, path) for device, _name, path in loop.bound() if path.startswith(f"{self.zfs.root.path}/")]:
            subprocess.run(["losetup", "-d", device], check=True)
            deadline = time.monotonic() + 10
            while loop.backing_file(device) == path:
                assert time.monotonic() < deadline, f"{device} does not let go of {path}"
                time.sleep(0.02)
        shutil.rmtree(loop.LINKS, ignore_errors=True)


class RealStreams(Streams):
    """Streams within a node, at whose beginning a point is passed."""

    def __init__(self, zfs: RealZfs) -> None:
        for name in ("copy", "receive", "abort"):
            setattr(self, name, pointed(zfs, getattr(self, name)))


class PoolNode(Node):
    """A node in the pool, with the kernel's devices."""

    def make_root(self) -> tuple[Root, FakeZfs]:
        zfs, root = PoolZfs(self.place), Root(f"{POOL}/vm", f"{self.place}/vm")
        zfs.create(root.name, {"mountpoint": root.path}, {CLUSTER: CLUSTER_NAME})
        zfs.mount(root.name, root.path)
        return root, cast("FakeZfs", zfs)  # which has all of it that is asked for here

    def make_loop(self) -> FakeLoop:
        return RealLoop(cast("RealZfs", self.fake))

    def make_streams(self) -> Streams:
        return RealStreams(cast("RealZfs", self.fake))


class Ground:
    """A pool in a file, in which one node after the other is made, each at the same path, so that two can be compared."""

    def __init__(self, directory: str) -> None:
        self.directory, self.place = Path(directory), f"{directory}/node"
        self.disk, self.beside = self.directory / "disk", self.directory / BESIDE
        self.before = TXG_TIMEOUT.read_text(encoding="ascii")

    def __enter__(self) -> Ground:
        self.directory.mkdir(parents=True)
        TXG_TIMEOUT.write_text(f"{TXG_SECONDS}\n", encoding="ascii")
        self._make_pool()
        return self

    def _make_pool(self) -> None:
        with self.disk.open("wb") as disk:
            disk.truncate(POOL_BYTES)
        run("zpool", "create", "-f", "-m", "none", "-O", "canmount=off", POOL, str(self.disk))

    def __exit__(self, *_failure: object) -> None:
        """There is no pool any more, and ZFS writes when it did before."""
        TXG_TIMEOUT.write_text(self.before, encoding="ascii")
        self.clean()
        if has_pool():
            patiently("zpool", "destroy", "-f", POOL)
        shutil.rmtree(self.directory)

    def node(self) -> PoolNode:
        """Return a new node; of the one before nothing is left, not even the pool where it could not be imported."""
        self.clean()
        if not has_pool():
            self._make_pool()
        Path(self.place).mkdir()
        return PoolNode(Path(self.place), busy_seconds=10)  # what was unmounted a moment ago may be kept for another one

    def clean(self) -> None:
        zfs = PoolZfs(self.place)
        RealLoop(zfs).clear()
        zfs.unmount_all()
        destroyed = subprocess.run(["zfs", "destroy", "-R", POOL], capture_output=True)  # all but itself, if nothing holds them
        if destroyed.returncode != 0 and has_pool():
            for dataset in zfs.datasets(POOL, depth=1):
                if dataset.name != POOL:
                    clean(dataset.name, self.place)
        for path in (Path(self.place), self.beside, *self.directory.glob("beside-*")):
            shutil.rmtree(path, ignore_errors=True)
        for kept in self.directory.glob("disk-*"):
            kept.unlink()

    def settle(self) -> None:
        """All that was written is on the disk."""
        os.sync()
        run("zpool", "wait", "-t", "free", POOL)  # what is freed yet makes ZFS write again
        run("zpool", "sync", POOL)

    def slim(self) -> None:
        """Of what there is no more the disk keeps nothing."""
        run("zpool", "trim", "-w", POOL)

    def keep(self, number: int) -> None:
        """What is on the disk now, and what is beside the pool, can be gone back to."""
        before = None
        while (written := last_written()) is None or written != before:  # what ZFS still writes while it is read would be torn
            before = written
            run("cp", "--sparse=always", str(self.disk), str(self._kept(number)))
        if self.beside.exists():
            shutil.copytree(self.beside, self.directory / f"beside-{number}", symlinks=True)

    def has(self, number: int) -> bool:
        return self._kept(number).exists()

    def back_to(self, node: PoolNode, number: int) -> None:
        """The node has lost its power when that was on its disk, and has booted; it is not kept any more."""
        node.loop.clear()
        cast("PoolZfs", node.fake).unmount_all()
        if has_pool():
            patiently("zpool", "export", "-f", POOL)
        self._kept(number).replace(self.disk)
        if self.beside.exists():
            shutil.rmtree(self.beside)
            (self.directory / f"beside-{number}").replace(self.beside)
        run("zpool", "import", "-N", "-d", str(self.disk), POOL)
        node.boot()

    def _kept(self, number: int) -> Path:
        return self.directory / f"disk-{number}"


def has_pool() -> bool:
    return core.exists(POOL.encode()) is not False


def last_written() -> str | None:
    """Return which transaction group is on the disk, None while one is on its way there."""
    groups = [line.split() for line in TXGS.read_text(encoding="ascii").splitlines()[2:]]
    under_way = any(state in "QWS" for _txg, _birth, state, *_rest in groups)
    return None if under_way else max((txg for txg, _birth, state, *_rest in groups if state == "C"), key=int)


def children() -> list[str]:
    """Return the processes that this one has started and that have not ended."""
    return [child for thread in Path("/proc/self/task").iterdir() for child in (thread / "children").read_text(encoding="ascii").split()]


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")


def patiently(*command: str) -> None:
    """It is done, as soon as nothing keeps what was unmounted a moment ago."""
    for _try in range(TRIES):
        with contextlib.suppress(AssertionError):
            return run(*command)
        time.sleep(1)
    return run(*command)
