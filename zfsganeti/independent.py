"""Disks that are clones become independent: of an image, or of anything else that they share blocks with.

All of a dataset is copied while its instance runs; what was written meanwhile follows once the instance is stopped, and the
copy takes the dataset's place. Until then the dataset bears a mark that says what is wanted; whoever is killed is followed by
the next run of the watcher.
"""

from __future__ import annotations

import contextlib
import os

from zfsganeti.datasets import CLUSTER, COPIES, DETACH, INSTANCE, MARKS, OLD, READY, VOLUME, locked
from zfsganeti.errors import Busy, Missing, Refused, Unavailable
from zfsganeti.names import check_dataset
from zfsganeti.process import holding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.streams import Streams
    from zfsganeti.volumes import Volumes
    from zfsganeti.zfs import Dataset

BULK, REST = "copy", "copy-rest"  # after our prefix: the snapshots that are copied
KEPT = ("recordsize", "compression", "refreservation", "canmount")  # what is set on a dataset and not in the stream


class Independent:
    """The clones of one node's root, and their copies."""

    def __init__(self, volumes: Volumes, streams: Streams) -> None:
        self.volumes, self.store, self.zfs, self.streams = volumes, volumes.store, volumes.zfs, streams
        self.parent = f"{self.store.root.name}/{COPIES}"

    def want(self, name: str) -> bool:
        """The dataset of that name below the root is to become independent; False when it is already."""
        dataset = self._get(f"{self.store.root.name}/{name}")
        if dataset is None or not self.store.is_ours(dataset):
            raise Missing(f"dataset {self.store.root.name}/{name}")
        if dataset.origin and DETACH not in dataset.marks:
            self.zfs.set(dataset.name, {DETACH: f"{self.store.now():.0f}"})
        return bool(dataset.origin)

    def wanted(self) -> list[Dataset]:
        """Return what is to become independent and is not yet."""
        found = self.zfs.datasets(self.store.root.name, depth=1, marks=MARKS)
        return [dataset for dataset in found if DETACH in dataset.marks and self.store.is_ours(dataset)]

    def work(self, seconds: float = 0) -> dict[str, str]:
        """What can be done is done; return for each dataset what is still in the way, '' when it is independent.

        Another that is at work on one already is waited for so many seconds.
        """
        self.finish_all()
        return {dataset.short: self._try(dataset, seconds) for dataset in self.wanted()}

    def _try(self, dataset: Dataset, seconds: float) -> str:
        try:
            self.detach(dataset, seconds)
        except (Busy, Unavailable, Refused) as error:
            return str(error)
        return ""

    def detach(self, dataset: Dataset, seconds: float = 0) -> None:
        """The dataset is no clone any more; Busy while its instance runs, with most of the copying done by then."""
        with locked(f".copy.{dataset.short}", seconds=seconds, what=f"copy of {dataset.short}"):
            now = self._get(dataset.name)  # somebody else may have ended it meanwhile
            if now is None or DETACH not in now.marks:
                return
            if not now.origin:
                self.zfs.clear(now.name, [DETACH])
                return
            self._copy(now)
            with locked(now.short):
                self._check_unused(now)
                self._copy_rest(now)
                self._mark_copy(now)
                self._exchange(now.short)

    # the copy

    def _get(self, name: str) -> Dataset | None:
        return self.zfs.get(check_dataset(name), marks=MARKS)

    def _copy_of(self, short: str) -> str:
        return check_dataset(f"{self.parent}/{short}")

    def _snapshot(self, dataset: str, purpose: str) -> str:
        return f"{dataset}@{self.zfs.ours}{purpose}"

    def _copy(self, dataset: Dataset) -> None:
        """The copy holds what the dataset held when the copying began."""
        bulk, copy = self._snapshot(dataset.name, BULK), self._copy_of(dataset.short)
        snapshots = {name for name, _created, _used in self.zfs.snapshots(dataset.name, depth=1)}
        if bulk in snapshots and self._has(copy, bulk):
            return
        self._drop_copy(copy)
        self.store.check_space(f"copy of {dataset.short}", dataset.referenced)
        if bulk not in snapshots:
            self.zfs.snapshot([bulk])
        if self.zfs.get(self.parent) is None:
            self.zfs.create(self.parent, {"canmount": "off"}, {})
        self.streams.copy(bulk, copy, properties={"canmount": "noauto", CLUSTER: self.store.cluster, DETACH: "copying"})

    def _has(self, copy: str, snapshot: str) -> bool:
        """Tell whether a copy has a snapshot of the same GUID."""
        if self.zfs.get(copy) is None:
            return False
        source = {snap.name: snap.guid for snap in self.streams.snapshots(snapshot.partition("@")[0])}
        return source.get(snapshot.partition("@")[2]) in {snap.guid for snap in self.streams.snapshots(copy)}

    def _drop_copy(self, copy: str) -> None:
        if self.zfs.get(copy) is not None:
            self.zfs.destroy(copy, {CLUSTER: self.store.cluster}, seconds=self.store.config.busy_seconds)

    def _check_unused(self, dataset: Dataset) -> None:
        if VOLUME in dataset.marks:
            used = self.volumes.devices.find(dataset.short) is not None
        else:
            with self.store.looking_into(dataset) as path:
                used = bool(holding([f"{path}/{name}" for name in os.listdir(path)]))
        if used:
            owner = dataset.marks.get(INSTANCE, dataset.short)
            raise Busy(dataset.short, "is in use; all but the latest changes are copied", f"the rest follows when {owner} is stopped")

    def _copy_rest(self, dataset: Dataset) -> None:
        """The copy holds what the dataset, which nobody changes now, holds."""
        rest, copy = self._snapshot(dataset.name, REST), self._copy_of(dataset.short)
        self.zfs.destroy_snapshots([self._snapshot(copy, REST), rest])
        self.store.unmount_elsewhere(dataset.name)
        self.zfs.snapshot([rest])
        self.streams.copy(rest, copy, base=f"@{self.zfs.ours}{BULK}", properties={})
        if not self._has(copy, rest):
            raise Refused(f"copy of {dataset.short}", "is not what was sent", "gnt-zfs detach begins anew")

    def _mark_copy(self, dataset: Dataset) -> None:
        """The copy has the dataset's marks and settings, and one that says that it is whole."""
        marks = {mark: value for mark, value in dataset.marks.items() if mark != DETACH}
        kept = {name: value for name, value in self.zfs.local(dataset.name).items() if name in KEPT}
        self.zfs.set(self._copy_of(dataset.short), {"canmount": "on", **kept, **marks, DETACH: READY})

    # the exchange

    def _exchange(self, short: str) -> None:
        """The copy, made this moment of what nobody uses, has taken the dataset's place."""
        name, copy = f"{self.store.root.name}/{short}", self._copy_of(short)
        self.store.unmount_elsewhere(name)
        self.zfs.rename(name, f"{copy}{OLD}")
        self.finish(short)

    def finish_all(self) -> None:
        """No exchange is left half-done."""
        if self.zfs.get(self.parent) is None:
            return
        for copy in self.zfs.datasets(self.parent, depth=1, marks=MARKS):
            short = copy.short.removesuffix(OLD)
            if copy.name != self.parent:
                with locked(short):
                    self.finish(short)

    def finish(self, short: str) -> None:
        """An exchange that was begun is done: what the copy has replaced is gone. A copy whose exchange was not begun is worthless.

        The dataset may have been written to, or removed, since such a copy was made.
        """
        name, copy = f"{self.store.root.name}/{short}", self._copy_of(short)
        old = f"{copy}{OLD}"
        begun, ready, placed = self._get(old), self._get(copy), self._get(name)
        if ready is not None and ready.marks.get(DETACH) == READY:
            self.store.unmount_elsewhere(copy)  # where a boot has mounted it
            if begun is None or placed is not None:
                self._drop_copy(copy)
                return
            self.zfs.rename(copy, name)
            placed = self._get(name)
        elif ready is not None and placed is None and begun is None:
            with contextlib.suppress(Busy):  # which is being written to: next time
                self._drop_copy(copy)  # of what was removed meanwhile
        if placed is not None and placed.marks.get(DETACH) == READY:
            self._tidy(name)
        if begun is not None and placed is not None:
            self._discard(old, short)
        with contextlib.suppress(OSError):
            os.rmdir(f"{self.store.root.path}/{COPIES}/{short}")

    def _tidy(self, name: str) -> None:
        self.zfs.destroy_snapshots([self._snapshot(name, BULK), self._snapshot(name, REST)])
        self.zfs.clear(name, [DETACH])
        marks = self._marks(name)
        if VOLUME in marks:
            self.volumes.bring_home(marks[VOLUME])
        elif INSTANCE in marks:
            self.store.bring_home(marks[INSTANCE])

    def _marks(self, name: str) -> dict[str, str]:
        dataset = self._get(name)
        return dataset.marks if dataset else {}

    def _discard(self, old: str, short: str) -> None:
        """What was replaced is gone; with snapshots of others it goes into the trash, where they are kept."""
        self.store.unmount_elsewhere(old)  # where a boot has mounted it
        try:
            self.zfs.destroy(old, {CLUSTER: self.store.cluster}, seconds=self.store.config.busy_seconds)
        except Busy:
            from zfsganeti.trash import Trash

            Trash(self.store).put_aside(old, short)
