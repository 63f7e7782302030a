"""A bench for a disk file that changes its owner when an instance is adopted, and what a node does for that."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.deaths.operation import Operation
from tests.node import Node
from zfsganeti import intake
from zfsganeti.volumes import Volumes

OLD, NEW = "7e57.file.disk0", "beef.file.disk0"


class Bench:
    """A node with the dataset of a helper, which holds the copy of a disk that is to be web1's."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.store.admit("adopt-web1", [])
        Path(node.home("adopt-web1"), OLD).write_bytes(b"copied")
        self.here: Any = SimpleNamespace(store=node.store, zfs=node.fake, root=node.root, volumes=Volumes(node.store, node.loop))
        self.here.place_of = lambda _name: self.here

    def loosen(self) -> None:
        paths = [f"{self.node.root.path}/adopt-web1/{OLD}"]
        intake.VERBS["adopt-loosen"](self.here, {"old": "adopt-web1", "new": "web1", "paths": paths})

    def ganeti_moves(self) -> None:
        """What detach and attach do: the file is renamed out of the one directory and into the other, under a new name."""
        root = self.node.root.path
        for directory in ("adopt-web1", "web1"):
            if os.path.lexists(f"{root}/{directory}/{OLD}"):
                os.rename(f"{root}/{directory}/{OLD}", f"{root}/{OLD}")
        os.rename(f"{root}/{OLD}", f"{root}/web1/{NEW}")

    def settle(self) -> None:
        intake.VERBS["adopt-settle"](self.here, {"instance": "web1", "files": [NEW], "volumes": []})


def nothing_more(_bench: Bench) -> None:
    """What the bench has is what there is before."""


def moved(bench: Bench) -> None:
    bench.loosen()
    bench.ganeti_moves()


def _operation(before: Callable[[Bench], object], does: Callable[[Bench], object]) -> Operation:
    return Operation(before, does, Bench)


OPERATIONS = {
    "adoption: a file is let go of": _operation(nothing_more, Bench.loosen),
    "adoption: a file is taken": _operation(moved, Bench.settle),
}
