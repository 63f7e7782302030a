"""A bench for the catalogue of images and the volumes that use it, and what is done with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.deaths.operation import Operation, comparable, never
from tests.deaths.volumes import create_and_set
from tests.node import DAY, Node
from zfsganeti.datasets import IMAGE, INTENT
from zfsganeti.image import FORMAT, Image
from zfsganeti.images import Images
from zfsganeti.volumes import Volumes

MIB = 1 << 20
DISK0, DISK1 = (f"0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c1{number}.ext.disk0" for number in (1, 2))
GOLD = b"golden"


def holding(content: bytes = GOLD, size: int = MIB) -> Callable[[str], Mapping[str, str]]:
    def fill(home: str) -> Mapping[str, str]:
        Path(home, "download").write_bytes(b"leftover")
        Path(home, "disk.raw").write_bytes(content)
        os.truncate(f"{home}/disk.raw", size)
        return {FORMAT: "raw"}

    return fill


class Bench:
    """A node with a catalogue, and the volumes that use it."""

    def __init__(self, node: Node) -> None:
        self.node, self.loop = node, node.loop
        self.images, self.volumes = Images(node.store), Volumes(node.store, self.loop)

    def make(self, name: str = "debian-12", content: bytes = GOLD) -> Image:
        return self.images.make(name, "file:/debian.qcow2", holding(content))

    def create(self, volume: str = DISK0, size: int = 2 * MIB, **parameters: Any) -> str:
        return self.volumes.create(volume, size, {"image": "debian-12", **parameters})

    def use(self, volume: str = DISK0, **parameters: Any) -> None:
        self.create(volume, **parameters)
        self.volumes.set_instance(volume, "web1")

    def read(self, volume: str = DISK0) -> bytes:
        return Path(self.volumes.disk(volume)).read_bytes()

    def write(self, content: bytes, volume: str = DISK0) -> None:
        with open(self.volumes.disk(volume), "r+b") as disk:
            disk.write(content)

    def names(self) -> list[str]:
        return [image.name for image in self.images.all()]

    def later(self, seconds: int) -> None:
        self.node.fake.clock += seconds

    def state(self) -> dict[str, Any]:
        return comparable(self.node)


def nothing(_bench: Bench) -> None:
    pass


def made(bench: Bench) -> None:
    bench.make()


def lendable(bench: Bench) -> None:
    bench.make()
    bench.images.set_lendable("debian-12", True)


def lent(bench: Bench) -> None:
    lendable(bench)
    bench.use(use="persistent")


def deleted(bench: Bench) -> None:
    bench.make()
    bench.images.delete("debian-12")
    bench.later(8 * DAY)


def make_unless_made(bench: Bench) -> None:
    if not bench.names():
        bench.make()


def lend_unless_lent(bench: Bench) -> None:
    create_and_set(bench, use="persistent", reserve=True, recordsize=1 << 16)


def rename_unless_renamed(bench: Bench) -> None:
    if bench.names() == ["debian-12"]:
        bench.images.rename("debian-12", "new")


def nothing_half_made(bench: Bench) -> None:
    assert all(image.size == MIB for image in bench.images.all())


def format_unless_made(bench: Bench, **content: str | bool) -> None:
    """A disk that has been formatted is there: the last step of its making tells that it may be in use, and no other is made in its place.

    What fills it is a directory of every Debian, and far more than may have been written to a disk that nobody had.
    """
    dataset = bench.volumes.find(DISK0)
    if dataset is None or INTENT in dataset.marks:
        bench.node.config.fill_directories = ("/usr/share",)
        bench.volumes.create(DISK0, 4 * MIB, content)


def _operation(before: Callable[[Bench], object], does: Callable[[Bench], object], **how: Any) -> Operation:
    return Operation(before, does, Bench, **{"sees": nothing_half_made, **how})


OPERATIONS = {
    "image: make": _operation(nothing, make_unless_made),
    "image: clone": _operation(made, lambda bench: bench.create(), lasts=False),
    "image: clone and setinfo": _operation(made, create_and_set),
    "image: lend": _operation(lendable, lambda bench: bench.create(use="persistent"), lasts=False),
    "image: lend and setinfo": _operation(lendable, lend_unless_lent),
    "image: take back": _operation(lent, lambda bench: bench.volumes.remove(DISK0), sees=never),
    "image: rename": _operation(made, rename_unless_renamed, ignored=(IMAGE,)),
    "image: sweep": _operation(deleted, lambda bench: bench.images.sweep(), destroys=True),
    "image: swap": _operation(nothing, lambda bench: format_unless_made(bench, swap=True)),
    "image: fill": _operation(nothing, lambda bench: format_unless_made(bench, fill="base-files")),
}
