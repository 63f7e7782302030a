"""A bench for volumes, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.deaths.operation import Operation, comparable
from tests.node import Node
from zfsganeti.datasets import INSTANCE
from zfsganeti.volumes import Volumes

MIB = 1 << 20
DISK0 = "0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c11.ext.disk0"


class Bench:
    """A node, its loop devices, and what a guest and Ganeti do."""

    def __init__(self, node: Node) -> None:
        self.node, self.loop = node, node.loop
        self.volumes = Volumes(node.store, self.loop)

    def create(self, volume: str = DISK0, size: int = MIB, **parameters: Any) -> str:
        return self.volumes.create(volume, size, parameters)

    def use(self, volume: str = DISK0, instance: str = "web1", content: bytes = b"data") -> None:
        """The volume is an instance's and holds something."""
        self.create(volume)
        self.volumes.set_instance(volume, instance)
        self.write(content, volume)

    def write(self, content: bytes, volume: str = DISK0) -> None:
        with open(self.volumes.disk(volume), "r+b") as disk:
            disk.write(content)

    def read(self, volume: str = DISK0, length: int = 4) -> bytes:
        with open(self.volumes.disk(volume), "rb") as disk:
            return disk.read(length)

    def state(self) -> dict[str, Any]:
        return comparable(self.node)

    def entries(self) -> list[str]:
        return [entry.entry for entry in self.node.trash.entries()]


def removed(bench: Bench) -> str:
    bench.use()
    bench.volumes.remove(DISK0)
    (entry,) = bench.entries()
    return entry


def nothing(bench: Bench) -> None:
    assert bench.node.datasets() == []


def in_use(bench: Bench) -> None:
    bench.use()


def opened(bench: Bench) -> None:
    bench.use()
    bench.volumes.open(DISK0, True)


def exported(bench: Bench) -> None:
    bench.use()
    bench.volumes.snapshot(DISK0, f"{DISK0}.snap")


def reserved(bench: Bench) -> None:
    entry = removed(bench)
    bench.node.trash.reserve(entry, f"{entry}@secret")


def take_back(bench: Bench) -> None:
    bench.create("new", trash=f"{DISK0}:20231114T221320Z@secret")


def attach_after_boot(bench: Bench) -> None:
    bench.use()
    bench.node.boot()
    bench.node.fake.unmount(bench.volumes.home(DISK0))


def create_and_set(bench: Any, **parameters: Any) -> None:
    """What Ganeti calls before it knows of a disk: without the second what the first has done need not outlast a power cut."""
    dataset = bench.volumes.find(DISK0)
    if dataset is None or INSTANCE not in dataset.marks:
        bench.create(**parameters)
    bench.volumes.set_instance(DISK0, "web1")


def _operation(before: Callable[[Bench], object], does: Callable[[Bench], object], *, lasts: bool = True) -> Operation:
    return Operation(before, does, Bench, lasts=lasts)


OPERATIONS = {
    "volume: create": _operation(nothing, lambda bench: bench.create(), lasts=False),
    "volume: create and setinfo": _operation(nothing, create_and_set),
    "volume: create out of the trash": _operation(reserved, take_back),
    "volume: attach": _operation(attach_after_boot, lambda bench: bench.volumes.attach(DISK0)),
    "volume: detach": _operation(in_use, lambda bench: bench.volumes.detach(DISK0)),
    "volume: remove": _operation(opened, lambda bench: bench.volumes.remove(DISK0)),
    "volume: remove a snapshot": _operation(exported, lambda bench: bench.volumes.remove(f"{DISK0}.snap")),
    "volume: grow": _operation(in_use, lambda bench: bench.volumes.grow(DISK0, 2 * MIB)),
    "volume: setinfo": _operation(in_use, lambda bench: bench.volumes.set_instance(DISK0, "web2")),
    "volume: snapshot": _operation(in_use, lambda bench: bench.volumes.snapshot(DISK0, f"{DISK0}.snap")),
    "volume: snapshot again": _operation(exported, lambda bench: bench.volumes.snapshot(DISK0, f"{DISK0}.snap")),
    "volume: open": _operation(in_use, lambda bench: bench.volumes.open(DISK0, True)),
    "volume: close": _operation(opened, lambda bench: bench.volumes.close(DISK0)),
}
