"""LVM in memory on real files: what intake.Lvm promises, with snapshots that know what changed and overflow when that is too much."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.killing import Reaper
from zfsganeti.errors import Missing, Refused
from zfsganeti.lvm import TAG, Logical, NoTable, snapshot_name

CHUNK = 64 << 10


@dataclass(frozen=True)
class FakeLogical(Logical):
    """A volume that is a file."""

    place: str = ""

    @property
    def path(self) -> str:
        return f"{self.place}/{self.name}"


class FakeLvm:
    """One group; what a guest writes goes through `write`, as it would through the kernel."""

    def __init__(self, place: str, reaper: Reaper) -> None:
        self.place, self.reaper = place, reaper
        os.makedirs(place)
        self.known: dict[str, FakeLogical] = {}
        self.changed: dict[str, set[int]] = {}
        self.rooms: dict[str, int] = {}
        self.busy: list[str] = []
        self.written: dict[str, int] = {}
        self.counts = True
        self._count = 0

    def make(self, name: str, content: bytes) -> None:
        self._add(name, content)

    def _add(self, name: str, content: bytes, origin: str = "", room: int = 0) -> None:
        """LVM tells a snapshot's room as its size."""
        self._count += 1
        attributes, tags = ("sri-a-s---", (TAG,)) if origin else ("-wi-a-----", ())
        self.known[name] = FakeLogical("vg", name, f"uuid-{self._count}", room or len(content), attributes, tags, origin, 0.0, self.place)
        with self.reaper.sparing(), open(f"{self.place}/{name}", "wb") as file:
            file.write(content)

    def content(self, name: str) -> bytes:
        with open(f"{self.place}/{name}", "rb") as file:
            return file.read()

    def write(self, name: str, offset: int, data: bytes) -> None:
        """A guest writes: each snapshot keeps what it was taken of, and a table of what changed."""
        with self.reaper.sparing(), open(f"{self.place}/{name}", "r+b") as file:
            file.seek(offset)
            file.write(data)
        self.written[name] = self.written.get(name, 0) + len(data)
        for snapshot in [found for found in self.known.values() if found.origin == name]:
            chunks = self.changed[snapshot.name]
            chunks.update(range(offset // CHUNK, (offset + len(data) - 1) // CHUNK + 1))
            if len(chunks) * CHUNK > self.rooms[snapshot.name]:
                self.overflow(snapshot)

    def overflow(self, snapshot: Logical) -> None:
        """The snapshot holds nothing any more, and reading it fails."""
        fields = {**vars(snapshot), "attributes": "sri-I-s---"}
        self.known[snapshot.name] = FakeLogical(**fields)
        with self.reaper.sparing():
            os.unlink(snapshot.path)

    # what the room promises

    def volumes(self, vg: str = "") -> list[Logical]:
        return [found for found in self.known.values() if vg in ("", found.vg)]

    def find(self, vg: str, name: str) -> Logical:
        if name not in self.known:
            raise Missing(f"logical volume {vg}/{name}")
        return self.known[name]

    def take(self, vg: str, name: str, number: int, size: int) -> None:  # noqa: ARG002 - there is but one group
        self.reaper.point()
        new = snapshot_name(name, number)
        assert new not in self.known
        self._add(new, self.content(name), name, size)
        self.changed[new], self.rooms[new] = set(), size
        self.reaper.point()

    def drop(self, snapshot: Logical) -> None:
        if not snapshot.ours:
            raise Refused(snapshot.name, "is not a snapshot that zfsganeti took")
        self.reaper.point()
        del self.known[snapshot.name]
        self.reaper.point()

    def changed_since(self, snapshot: Logical, size: int) -> tuple[int, set[int]]:
        assert size
        if not self.known[snapshot.name].valid:
            raise NoTable("the snapshot has overflowed")
        return CHUNK, set(self.changed[snapshot.name])

    def open_device(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def users(self, volume: Logical, *, below: bool = False) -> list[str]:  # noqa: ARG002
        return self.busy

    def writes(self, volume: Logical) -> str:
        return str(self.written.get(volume.name, 0)) if self.counts else ""
