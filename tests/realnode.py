"""A node for the machine of tests/life.py on real ZFS: it can die at any call that changes something, and be booted."""

from __future__ import annotations

import functools
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.fakezfs import FakeZfs, read_files
from tests.killing import Reaper
from tests.node import CLUSTER_NAME, Node
from zfsganeti.datasets import CLUSTER
from zfsganeti.roots import Root
from zfsganeti.zfs import Zfs

CHANGING = (
    "create", "snapshot", "clone", "rename", "set", "mark_snapshot", "clear", "destroy_snapshots", "destroy", "promote",
    "rename_snapshot", "hold", "release", "roll_back", "mount", "unmount",
)  # fmt: skip


class RealZfs(Zfs):
    """ZFS with what tests ask of the fake besides."""

    def __init__(self, root: Root) -> None:
        super().__init__()
        self.root = root
        self.clock = int(time.time())
        self.reaper = Reaper(root.path)
        for name in CHANGING:
            setattr(self, name, self._mortal(getattr(self, name)))

    def _mortal(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            self.reaper.point()
            result = method(*arguments, **options)
            self.reaper.point()
            return result

        return call

    def boot(self) -> None:
        """Nothing below the root is mounted but what `zfs mount -a` mounts, which is the root."""
        self.unmount_all()
        self.mount(self.root.name, self.root.path)

    def unmount_all(self) -> None:
        for mount in reversed(self.mounts()):
            if mount.path == self.root.path or mount.path.startswith(f"{self.root.path}/"):
                self.unmount(mount.path, lazy=True)

    def files(self, name: str) -> dict[str, bytes]:
        """Return the contents of a filesystem's files, mounted or not."""
        where = next((mount.path for mount in self.mounts() if mount.dataset == name and mount.whole), None)
        return read_files(where) if where is not None else self.snapshot_files(name)

    def snapshot_files(self, snapshot: str) -> dict[str, bytes]:
        place = f"{self.root.path}.look"
        self.mount(snapshot, place)
        try:
            return read_files(place)
        finally:
            self.unmount(place)
            Path(place).rmdir()


class RealNode(Node):
    """A node whose root is a new filesystem below one that tests may fill."""

    def __init__(self, place: Path, below: str, directory: str) -> None:
        short = f"t{uuid.uuid4().hex[:8]}"
        self._root = Root(f"{below}/{short}", f"{directory}/{short}")
        super().__init__(place)

    def make_root(self) -> tuple[Root, FakeZfs]:
        zfs = RealZfs(self._root)
        zfs.create(self._root.name, {"mountpoint": self._root.path}, {CLUSTER: CLUSTER_NAME})
        zfs.mount(self._root.name, self._root.path)
        return self._root, cast("FakeZfs", zfs)  # which has all of it that is asked for here

    def clean(self) -> None:
        """Nothing of the node is left on the pool."""
        cast("RealZfs", self.fake).unmount_all()
        subprocess.run(["zfs", "destroy", "-R", self.root.name], check=True, capture_output=True)
