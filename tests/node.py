"""A node for quick tests: the fake ZFS with a root, a store and a trash, and what Ganeti does to the files on it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fakeloop import FakeLoop
from tests.fakestreams import FakeStreams
from tests.fakezfs import FakeZfs, read_files
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER, INSTANCE, Store
from zfsganeti.roots import Root
from zfsganeti.streams import Streams
from zfsganeti.trash import Trash

CLUSTER_NAME = "cluster.example.com"
HOUR, DAY = 3600, 86400


def place_in_memory() -> Path:
    """Return a new directory, in memory where that is possible: a disk would take its time over every fsync."""
    return Path(tempfile.mkdtemp(prefix="zfsganeti-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


class Node:
    """One node with its root zfs/vm mounted."""

    def __init__(self, place: Path, **settings: Any) -> None:
        self.place = str(place)
        self.root, self.fake = self.make_root()
        self.config = Config(**{"busy_seconds": 0, **settings})
        self.store = Store(self.fake, self.root, CLUSTER_NAME, self.config, now=lambda: float(self.fake.clock))
        self.trash = Trash(self.store)
        self.loop, self.streams = self.make_loop(), self.make_streams()

    def make_loop(self) -> FakeLoop:
        return FakeLoop(self.fake.reaper)

    def make_streams(self) -> Streams:
        return FakeStreams(self.fake)

    def boot(self) -> None:
        """The node was off: there are no devices, and mounted is what a boot mounts."""
        self.loop.clear()
        self.fake.boot()

    def make_root(self) -> tuple[Root, FakeZfs]:
        fake, root = FakeZfs(f"{self.place}/pool"), Root("zfs/vm", f"{self.place}/vm")
        fake.foreign(root.name, {CLUSTER: CLUSTER_NAME}, mountpoint=root.path)
        fake.mount(root.name, root.path)
        return root, fake

    def name(self, instance: str) -> str:
        return f"{self.root.name}/{instance}"

    def kept(self, entry: str) -> str:
        return f"{self.root.name}/.trash/{entry}"

    def home(self, instance: str) -> str:
        return f"{self.root.path}/{instance}"

    def aside(self, instance: str) -> str:
        return f"{self.root.path}/.aside/{instance}"

    def has(self, instance: str, **files: bytes) -> None:
        """An instance has a dataset at home with these files."""
        self.store.admit(instance, [])
        self.ganeti_writes(instance, **files)

    def marks(self, name: str) -> dict[str, str]:
        marks = self.fake.state()[name]["marks"]
        assert isinstance(marks, dict)
        return marks

    def datasets(self) -> list[str]:
        """The names below the root, without it."""
        found = self.fake.datasets(self.root.name)
        return [dataset.name.removeprefix(f"{self.root.name}/") for dataset in found if dataset.name != self.root.name]

    def claims(self) -> list[str]:
        """Which instances the datasets outside the trash say they belong to."""
        found = self.fake.datasets(self.root.name, depth=1, marks=(INSTANCE, CLUSTER))
        return sorted(dataset.marks[INSTANCE] for dataset in found if self.store.is_ours(dataset) and INSTANCE in dataset.marks)

    def put_aside(self, instance: str, intent: str, record: dict[str, Any] | None = None) -> bool:
        """What Ganeti's hooks ask for, which name the disks: all files that the instance has."""
        name = f"{self.root.name}/{instance}"
        files = list(self.fake.files(name)) if self.fake.get(name) is not None else []
        return self.store.put_aside(instance, intent, files, record)

    def paths(self) -> list[str]:
        """What one sees below the root's directory: mounted files and links by their path."""
        mounted = {mount.path for mount in self.fake.mounts()}

        def below(directory: str) -> Iterator[str]:
            for name in os.listdir(directory):
                path = f"{directory}/{name}"
                yield os.path.relpath(path, self.root.path)
                if path in mounted or (os.path.isdir(path) and not os.path.islink(path)):
                    yield from below(path)

        return sorted(below(self.root.path))

    # what Ganeti does

    def ganeti_writes(self, instance: str, **files: bytes) -> None:
        os.makedirs(self.home(instance), exist_ok=True)
        for name, content in files.items():
            Path(self.home(instance), name).write_bytes(content)

    def ganeti_removes(self, instance: str) -> None:
        """Each disk's path is unlinked, then the directory removed, which must be empty and no mount point."""
        for name in os.listdir(self.home(instance)):
            os.unlink(f"{self.home(instance)}/{name}")
        os.rmdir(self.home(instance))

    def ganeti_renames(self, old: str, new: str) -> None:
        """The directory is renamed, which the kernel refuses for a mount point."""
        if self.fake.mounted_at(self.home(old)) is not None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), self.home(old))
        os.rename(self.home(old), self.home(new))

    def reads(self, instance: str) -> dict[str, bytes]:
        """Return what is found under an instance's paths, through links as well."""
        found = {}
        for name in sorted(os.listdir(self.home(instance))):
            found[name] = Path(self.home(instance), name).read_bytes()
        return found

    def whole_state(self) -> dict[str, Any]:
        """Return everything that two runs must have in common: datasets, and what is found below the root."""
        return {"datasets": self.fake.state(), "paths": self.paths(), "files": read_files(self.root.path)}


def nodes_at(place: Path) -> Callable[[], Node]:
    """Return what makes a new node, at the same path each time so that two can be compared; those before are kept beside it."""
    count = 0

    def another() -> Node:
        nonlocal count
        if count:
            os.rename(place / "node", place / f"before{count}")
        count += 1
        (place / "node").mkdir()
        return Node(place / "node")

    return another
