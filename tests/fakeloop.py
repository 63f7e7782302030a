"""Loop devices in memory: what volumes.Devices promises, with the errors of zfsganeti.loop."""

from __future__ import annotations

import os

from tests.killing import Reaper
from zfsganeti.errors import Busy


class FakeLoop:
    """Which disk file is which device; `users` are volumes whose device somebody has open."""

    def __init__(self, reaper: Reaper) -> None:
        self.reaper = reaper
        self.attached: dict[str, tuple[str, int]] = {}
        self.users: set[str] = set()
        self.flushed: list[str] = []

    def find(self, volume: str) -> str | None:
        return f"/dev/zfsganeti/{volume}" if volume in self.attached else None

    def attach(self, volume: str, path: str) -> str:
        self.reaper.point()
        self.attached.setdefault(volume, (path, os.stat(path).st_size))
        self.reaper.point()
        return f"/dev/zfsganeti/{volume}"

    def detach(self, volume: str, path: str) -> None:  # noqa: ARG002 - the real one looks for the path
        self.reaper.point()
        if volume in self.users and volume in self.attached:
            raise Busy(f"volume {volume}", "/dev/loop7 is in use by process kvm (7)")
        self.attached.pop(volume, None)
        self.reaper.point()

    def grow(self, volume: str) -> None:
        self.reaper.point()
        if volume in self.attached:
            path, _size = self.attached[volume]
            self.attached[volume] = (path, os.stat(path).st_size)
        self.reaper.point()

    def backed_by(self, path: str) -> list[str]:
        there = {volume: file for volume, (file, _size) in self.attached.items() if os.path.exists(file)}
        return [f"/dev/zfsganeti/{volume}" for volume, file in there.items() if os.path.samefile(file, path)]

    def clear(self) -> None:
        """There are no devices, as after a boot."""
        self.attached.clear()

    def sizes(self) -> list[tuple[str, int]]:
        """Return of each device whose it is, and its bytes."""
        return sorted((volume, size) for volume, (_file, size) in self.attached.items())

    def flush(self, volume: str) -> None:
        self.flushed.append(volume)
