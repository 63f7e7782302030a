"""What is below a root at one moment: ZFS is asked once for each kind of thing, whatever is told of it then."""

from __future__ import annotations

import copy
from functools import cached_property

from zfsganeti.datasets import MARKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.datasets import Store
    from zfsganeti.here import Here
    from zfsganeti.zfs import Dataset


class Look:
    """The root's children, how many snapshots each has, and what is mounted where."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def datasets(self) -> list[Dataset]:
        """The root and its children, with their marks."""
        return self.store.zfs.datasets(self.store.root.name, depth=1, marks=MARKS)

    @cached_property
    def snapshots(self) -> dict[str, int]:
        """How many snapshots a dataset has, by its name; one without any is missing."""
        return self.store.zfs.count_snapshots(self.store.root.name)

    @cached_property
    def mounted(self) -> dict[str, str]:
        """What one finds at a path where ZFS is mounted: the dataset, '' for a part of one."""
        return {mount.path: mount.dataset if mount.whole else "" for mount in self.store.zfs.mounts()}


def alone(place: Here) -> Here:
    """Return this node with one of its roots and no other: what asks each root of a node asks that one, whichever else is away."""
    if place.datastore:
        return place
    only = copy.copy(place)
    config = copy.copy(place.config)
    config.datastores = {}
    only.__dict__["config"] = config
    return only
