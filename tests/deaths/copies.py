"""A bench for clones that become independent, and what dies then."""

from __future__ import annotations

from pathlib import Path

from tests.deaths.operation import Operation
from tests.node import Node
from zfsganeti.datasets import OLD
from zfsganeti.images import Images
from zfsganeti.independent import Independent
from zfsganeti.volumes import Volumes

MIB = 1 << 20
DISK0 = "0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c11.ext.disk0"
NAME = f"zfs/vm/{DISK0}"


class Bench:
    """A node with an image and a volume that is a clone of it."""

    def __init__(self, node: Node) -> None:
        self.node, self.loop = node, node.loop
        self.volumes, self.images = Volumes(node.store, self.loop), Images(node.store)
        self.independent = Independent(self.volumes, node.streams)
        self.images.make("debian-12", "file:/x", self._fill)
        self.volumes.create(DISK0, 2 * MIB, {"image": "debian-12", "recordsize": 16384})
        self.volumes.set_instance(DISK0, "web1")
        self.write(b"mine")

    @staticmethod
    def _fill(home: str) -> dict[str, str]:
        Path(home, "disk.raw").write_bytes(b"golden".ljust(MIB, b"\0"))
        return {}

    def write(self, content: bytes, offset: int = 0) -> None:
        with open(self.volumes.disk(DISK0), "r+b") as disk:
            disk.seek(offset)
            disk.write(content)

    def read(self) -> bytes:
        self.volumes.attach(DISK0)
        return Path(self.volumes.disk(DISK0)).read_bytes()

    def stop(self) -> None:
        self.volumes.detach(DISK0)

    def is_killed_before_the_exchange(self) -> None:
        """The copy is whole and marked, and nothing was renamed yet."""
        self.independent._copy(NAME)
        dataset = self.independent._must_be_idle(NAME)
        self.independent._unmount(dataset)
        self.independent._pass(dataset)
        self.independent._mark_copy(dataset)

    def is_killed_within_the_exchange(self) -> None:
        """The dataset was renamed, and its copy has not taken its place."""
        self.is_killed_before_the_exchange()
        self.node.fake.rename(NAME, f"zfs/vm/.copies/{DISK0}{OLD}")

    def origin(self) -> str:
        dataset = self.node.fake.get(NAME)
        assert dataset is not None
        return dataset.origin


def wanted(bench: Bench) -> None:
    bench.independent.want(DISK0)
    bench.stop()


def work(bench: Bench) -> None:
    left = bench.independent.work()
    assert not any(left.values()), left


OPERATIONS = {"independence": Operation(wanted, work, Bench, places=False)}
