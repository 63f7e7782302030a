"""The cluster of tests/rig.py on real ZFS: three nodes are three filesystems of one pool, and streams go from one to another.

What zfs(8) says costs most where a processor is emulated. So what all invariants of a step ask is asked for in one go.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tests.fakestreams import Wired
from tests.fakezfs import FakeZfs
from tests.node import CLUSTER_NAME, DAY, HOUR
from tests.realnode import RealZfs
from tests.rig import Knot, Rig
from zfsganeti import core
from zfsganeti.datasets import CLUSTER, MARKS
from zfsganeti.errors import CommandFailed, Missing
from zfsganeti.image import IMAGE_MARKS
from zfsganeti.roots import Root
from zfsganeti.trash import SEEN
from zfsganeti.zfs import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, NATIVE, Dataset, Zfs

SURVEYED = tuple(dict.fromkeys((*NATIVE, "readonly", "createtxg", "clones", "userrefs", *MARKS, SEEN, *IMAGE_MARKS)))
FLAGS = MS_NOATIME | MS_NOSUID | MS_NODEV | MS_NOEXEC
TRIES = 10  # to destroy what a mount that was let go a moment ago still keeps
Row = dict[str, tuple[str, str]]  # of each property its value, and where that was set


class Survey(Zfs):
    """What zfs(8) says of all that is below a filesystem, kept until something is changed; it is used while somebody only looks."""

    def __init__(self, top: str) -> None:
        self.top, self.used = top, False
        self.rows: dict[str, Row] = {}
        self.contents: dict[tuple[str, str], dict[str, bytes]] = {}  # of snapshots, by both GUIDs: none ever changes

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        self.used = True
        try:
            yield
        finally:
            self.used = False

    def forget(self) -> None:
        self.rows = {}

    def below(self, root: str, depth: int | None, *, snapshots: bool) -> dict[str, Row]:
        """Return what is known of a dataset and of what is below it."""
        self.rows = self.rows or self._ask()
        if root not in self.rows:
            raise Missing(f"dataset {root}")
        levels = {name: level(name, root) for name in self.rows if snapshots or "@" not in name}
        return {name: self.rows[name] for name, found in levels.items() if found is not None and (depth is None or found <= depth)}

    def _ask(self) -> dict[str, Row]:
        scope = ("-r", "-t", "filesystem,snapshot", "-o", "name,property,value,source", ",".join(SURVEYED))
        found: dict[str, Row] = {}
        for line in self._command("zfs", "get", "-Hp", *scope, self.top).splitlines():
            name, prop, value, source = line.split("\t")
            found.setdefault(name, {})[prop] = (value, source)
        return found


def level(name: str, root: str) -> int | None:
    """Return how many levels below another a dataset is, as zfs(8) counts them, None when it is elsewhere."""
    rest = name.removeprefix(root)
    return rest.count("/") + rest.count("@") if name == root or (name.startswith(root) and rest[0] in "/@") else None


class BootedZfs(RealZfs):
    """One node's ZFS, after whose boot all is mounted that a boot mounts."""

    def boot(self) -> None:
        """Mounted is what `zfs mount -a` mounts, over files as well."""
        self.unmount_all()
        for dataset in self.datasets(self.root.name):
            if dataset.canmount == "on":
                mount_over(dataset)


class SurveyedZfs(BootedZfs):
    """One node's ZFS, which answers from the survey while somebody only looks."""

    def __init__(self, root: Root, survey: Survey) -> None:
        self.survey = survey
        super().__init__(root)

    def _mortal(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def changes(*arguments: Any, **options: Any) -> Any:
            self.survey.forget()
            return method(*arguments, **options)

        return super()._mortal(method if method.__name__ in ("mount", "unmount") else changes)

    # looking

    def _properties(
        self, root: str, kinds: str, depth: int | None, wanted: Iterable[str]
    ) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        if not self.survey.used:
            return super()._properties(root, kinds, depth, wanted)
        asked = frozenset(wanted)
        assert asked <= frozenset(SURVEYED), asked
        rows = self.survey.below(root, depth, snapshots="snapshot" in kinds)
        return {name: _told({prop: row[prop] for prop in asked if prop in row}) for name, row in rows.items()}

    def snapshot_facts(self, root: str, wanted: Iterable[str], *, depth: int) -> dict[str, dict[str, str]]:
        if not self.survey.used:
            return super().snapshot_facts(root, wanted, depth=depth)
        rows, asked = self.survey.below(root, depth, snapshots=True), list(wanted)
        return {name: {prop: row.get(prop, ("-", ""))[0] for prop in asked} for name, row in rows.items() if "@" in name}

    def snapshots(self, root: str, *, depth: int | None = None) -> list[tuple[str, int, int]]:
        if not self.survey.used:
            return super().snapshots(root, depth=depth)
        facts = {name: row for name, row in self.survey.below(root, depth, snapshots=True).items() if "@" in name}
        names = sorted(facts, key=lambda name: int(facts[name]["createtxg"][0]))
        return [(name, int(facts[name]["creation"][0]), int(facts[name]["used"][0])) for name in names]

    def filesystems(self) -> list[tuple[str, str]]:
        if not self.survey.used:
            return super().filesystems()
        return [(name, row["mountpoint"][0]) for name, row in self.survey.below(self.root.name, None, snapshots=False).items()]

    def local(self, name: str) -> dict[str, str]:
        if not self.survey.used:
            return super().local(name)
        (row,) = self.survey.below(name, 0, snapshots=False).values()
        return {prop: value for prop, (value, source) in row.items() if source == "local"}

    def snapshot_files(self, snapshot: str) -> dict[str, bytes]:
        if "@" not in snapshot or not self.survey.used:
            return super().snapshot_files(snapshot)
        (row,) = self.survey.below(snapshot, 0, snapshots=True).values()
        (of,) = self.survey.below(snapshot.partition("@")[0], 0, snapshots=False).values()
        key = of["guid"][0], row["guid"][0]
        if key not in self.survey.contents:
            self.survey.contents[key] = super().snapshot_files(snapshot)
        return self.survey.contents[key]


def _told(row: Row) -> tuple[dict[str, str], dict[str, str]]:
    """Return native properties, and the user properties that are set on a dataset itself."""
    native = {prop: value for prop, (value, _source) in row.items() if ":" not in prop}
    return native, {prop: value for prop, (value, source) in row.items() if ":" in prop and source == "local"}


def mount_over(dataset: Dataset) -> None:
    """The filesystem is mounted at its mountpoint, whatever is there."""
    os.makedirs(dataset.mountpoint, exist_ok=True)
    core.libc("mount", dataset.name, dataset.mountpoint, "zfs", FLAGS, f"zfsutil,mntpoint={dataset.mountpoint}")


class RealStreams(Wired):
    """One node's streams, whole before they are received."""

    def __init__(self, zfs: SurveyedZfs) -> None:
        super().__init__()
        self.zfs = zfs

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """The process can die before and after, as with any call that changes something."""
        self.zfs.reaper.point()
        self.zfs.survey.forget()
        yield
        self.zfs.reaper.point()

    def stream(self, send: list[str]) -> bytes:
        done = subprocess.run(send, capture_output=True)
        if done.returncode != 0:
            raise CommandFailed(f"zfs send {send[-1]}", done.returncode, done.stderr.decode(errors="replace").partition("\n")[0])
        return done.stdout

    def receive(self, command: list[str], descriptor: int, *, seconds: float) -> None:
        with self._changing():
            super().receive(command, descriptor, seconds=seconds)

    def copy(self, *arguments: Any, **options: Any) -> None:
        with self._changing():
            super().copy(*arguments, **options)

    def abort(self, dataset: str) -> None:
        with self._changing():
            super().abort(dataset)


class RealKnot(Knot):
    """A node whose root is a new filesystem."""

    busy_seconds = 10  # what was unmounted a moment ago may be kept for another one

    def make_root(self, rig: Rig, name: str, seed: int) -> tuple[Root, FakeZfs]:  # noqa: ARG002 - the pool numbers everything
        assert isinstance(rig, RealRig)
        root = Root(f"{rig.top}/{name}", f"{rig.directory}/{name}")
        zfs = SurveyedZfs(root, rig.survey)
        zfs.create(root.name, {"mountpoint": root.path}, {CLUSTER: CLUSTER_NAME})
        zfs.mount(root.name, root.path)
        return root, cast("FakeZfs", zfs)  # which has all of it that is asked for here

    def make_streams(self, fake: FakeZfs) -> Wired:
        assert isinstance(fake, SurveyedZfs)
        return RealStreams(fake)


class RealRig(Rig):
    """Three nodes below a filesystem that tests may fill, and their Ganeti."""

    kind = RealKnot
    cuts: Mapping[str, float] = {"early": 40, "late": 0.5}
    stride = 2 * DAY - 2 * HOUR  # a clock that passes two days between two looks has jumped

    def __init__(self, place: Path, top: str, directory: str) -> None:
        self.top, self.directory, self.survey = top, directory, Survey(top)
        super().__init__(place)
        self.catch_up()

    def catch_up(self) -> None:
        """No dataset was made later than the nodes believe it is now, and all of them believe the same."""
        now = max(int(time.time()) + 1, *(knot.fake.clock for knot in self.knots.values()))
        for knot in self.knots.values():
            knot.fake.clock = now

    def looking(self) -> contextlib.AbstractContextManager[None]:
        return self.survey.looking()

    def clean(self) -> None:
        """Nothing of the nodes is left on the pool."""
        for knot in self.knots.values():
            clean(knot.root.name, knot.root.path)


def clean(name: str, path: str) -> None:
    """Nothing of a filesystem is left, nor of what is below it, whatever holds it."""
    zfs = Zfs()
    for mount in reversed(zfs.mounts()):
        if f"{mount.path}/".startswith(f"{path}/") or level(mount.dataset, name) is not None:
            zfs.unmount(mount.path, lazy=True)
    facts = zfs.snapshot_facts(name, ("userrefs",), depth=9)
    for snapshot, tags in zfs.holds(each for each, known in facts.items() if known["userrefs"] not in ("0", "-")).items():
        for tag in tags:
            zfs.release(snapshot, tag)
    for _try in range(TRIES):
        done = subprocess.run(["zfs", "destroy", "-R", name], capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(1)
    raise AssertionError(done.stderr)
