"""Disks that are clones become independent: of an image, or of anything else that they share blocks with.

All of a dataset is copied while its instance runs, then what was written meanwhile, until that is little; the rest follows once
the instance is stopped, and the copy takes the dataset's place. Until then the dataset bears a mark that says what is wanted;
whoever is killed is followed by the next run of the watcher.
"""

from __future__ import annotations

import contextlib
import os

from zfsganeti.datasets import (
    CLUSTER,
    COPIES,
    DETACH,
    INSTANCE,
    INTENT,
    KEPT,
    MARKS,
    MOVE,
    OLD,
    READY,
    ROLLBACK,
    VOLUME,
    locked,
    refuse_half_back,
    refuse_moving,
)
from zfsganeti.errors import Busy, Missing, Refused, ZfsGanetiError
from zfsganeti.names import check_dataset
from zfsganeti.process import holding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.streams import Snap, Streams
    from zfsganeti.volumes import Volumes
    from zfsganeti.zfs import Dataset

ROUND = "copy-"  # after our prefix, before a number: a snapshot that was copied
OWN = ("mountpoint", "readonly", DETACH, MOVE, KEPT, ROLLBACK)  # what a dataset does not hand on to its copy, of all that is set on it
LITTLE = 256 << 20  # bytes that are copied while the instance must not start
PASSES = 5


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
        if dataset.origin:
            refuse_half_back(dataset)
            refuse_moving(dataset)
        if dataset.origin and DETACH not in dataset.marks:
            self.zfs.set(dataset.name, {DETACH: f"{self.store.now():.0f}"})
        return bool(dataset.origin)

    def wanted(self) -> list[Dataset]:
        """Return what is to become independent and is not yet."""
        found = self.zfs.datasets(self.store.root.name, depth=1, marks=MARKS)
        return [dataset for dataset in found if DETACH in dataset.marks and self.store.is_ours(dataset)]

    def begun(self) -> list[str]:
        """Return the names of the datasets that have a copy, whole or not, or one that a copy has replaced."""
        try:
            found = self.zfs.datasets(self.parent, depth=1)
        except Missing:
            return []
        return sorted({dataset.short.removesuffix(OLD) for dataset in found if dataset.name != self.parent})

    def work(self, seconds: float = 0) -> dict[str, str]:
        """What can be done is done; return for each dataset what is still in the way, '' when it is independent.

        Another that is at work on one already is waited for so many seconds.
        """
        self.finish_all()
        return {dataset.short: self._try(dataset, seconds) for dataset in self.wanted()}

    def finish_all(self) -> list[str]:
        """Every exchange that was begun is done, which copies nothing; return what is in the way of others."""
        problems = []
        for short in self.begun():
            try:
                with locked(short):
                    self.finish(short)
            except ZfsGanetiError as error:
                problems.append(str(error))
        return problems

    def _try(self, dataset: Dataset, seconds: float) -> str:
        try:
            self.detach(dataset, seconds)
        except ZfsGanetiError as error:  # of one dataset: the others go on
            return str(error)
        return ""

    def detach(self, dataset: Dataset, seconds: float = 0) -> None:
        """The dataset is no clone any more; Busy while its instance runs, with most of the copying done by then."""
        with locked(f".copy.{dataset.short}", seconds=seconds, what=f"copy of {dataset.short}"):
            if not self._is_wanted(dataset.name):
                return
            self._copy(dataset.name)
            with locked(dataset.short):
                now = self._must_be_idle(dataset.name)
                self._unmount(now)
                try:
                    self._pass(now)
                    self._mark_copy(now)
                except BaseException:
                    self._bring_home(now)
                    raise
                self._exchange(now.short)

    def _is_wanted(self, name: str) -> bool:
        now = self._get(name)  # somebody else may have ended it meanwhile
        if now is None or DETACH not in now.marks:
            return False
        if not now.origin:
            with locked(now.short):
                self._tidy(now)
        return bool(now.origin)

    def _must_be_idle(self, name: str) -> Dataset:
        """Return the dataset as it is now; Busy while its instance, an operation of Ganeti's, a rollback or a move is at work on it."""
        now = self._get(name)
        if now is None:
            raise Missing(f"dataset {name}")
        refuse_half_back(now)
        refuse_moving(now)
        if INTENT in now.marks:
            raise Busy(
                now.short, f"an operation is at work on it ({now.marks[INTENT].split(' ')[0]})", "gnt-zfs check --repair if it is not"
            )
        if VOLUME in now.marks:
            used = self.volumes.devices.find(now.short) is not None
        else:
            with self.store.looking_into(now) as path:
                used = bool(holding([f"{path}/{file}" for file in os.listdir(path)]))
        if used:
            raise self._in_use(now)
        return now

    @staticmethod
    def _in_use(dataset: Dataset) -> Busy:
        owner = dataset.marks.get(INSTANCE, dataset.short)
        return Busy(dataset.short, "is in use; all but the latest changes are copied", f"the rest follows when {owner} is stopped")

    def _unmount(self, dataset: Dataset) -> None:
        """The dataset is mounted nowhere: whoever has a file of it open, a loop device included, keeps it where it is."""
        home = f"{self.store.root.path}/{dataset.short}"
        if any(mount.dataset == dataset.name and mount.path != home for mount in self.zfs.mounts()):
            raise self._in_use(dataset)
        try:
            self.zfs.unmount(home)
        except Busy:
            raise self._in_use(dataset) from None

    def _bring_home(self, dataset: Dataset) -> None:
        if VOLUME in dataset.marks:
            self.volumes.bring_home(dataset.marks[VOLUME])
        elif INSTANCE in dataset.marks:
            self.store.bring_home(dataset.marks[INSTANCE])

    # the copy

    def _get(self, name: str) -> Dataset | None:
        return self.zfs.get(check_dataset(name), marks=MARKS)

    def _copy_of(self, short: str) -> str:
        return check_dataset(f"{self.parent}/{short}")

    def _copy(self, name: str) -> None:
        """The copy holds what the dataset held a moment ago, or nearly so for one that is written to faster than it is copied."""
        for _pass in range(PASSES):
            now = self._get(name)
            if now is None:
                raise Missing(f"dataset {name}")
            if self._common(now) and now.written <= LITTLE:
                return
            self._pass(now)

    def _pass(self, dataset: Dataset) -> None:
        """The copy holds what the dataset holds at this moment; earlier passes have left nothing but this snapshot."""
        copy, base = self._copy_of(dataset.short), self._common(dataset)
        if not base:
            self._drop_copy(copy)
            self.store.check_spare(f"copy of {dataset.short}", dataset.referenced)
            if self.zfs.get(self.parent) is None:
                self.zfs.create(self.parent, {"canmount": "off"}, {})
        new = self._next(dataset.name)
        self.zfs.snapshot([f"{dataset.name}@{new}"])
        properties: dict[str, str | None] = {} if base else {"canmount": "noauto", CLUSTER: self.store.cluster, DETACH: "copying"}
        self.streams.copy(f"{dataset.name}@{new}", copy, base=f"@{base}" if base else "", properties=properties)
        if self._common(dataset) != new:
            raise Refused(f"copy of {dataset.short}", "is not what was sent", "gnt-zfs detach begins anew")
        for place in (dataset.name, copy):
            self.zfs.destroy_snapshots([f"{place}@{snap.name}" for snap in self._passes(place) if snap.name != new])

    def _passes(self, name: str) -> list[Snap]:
        return [snap for snap in self.streams.snapshots(name) if snap.name.startswith(f"{self.zfs.ours}{ROUND}")]

    def _next(self, name: str) -> str:
        numbers = [int(number) for snap in self._passes(name) if (number := snap.name.rpartition("-")[2]).isdigit()]
        return f"{self.zfs.ours}{ROUND}{max(numbers, default=0) + 1}"

    def _common(self, dataset: Dataset) -> str:
        """Return the snapshot that the copy was made from last, '' when it has none that the dataset has too."""
        copy = self._copy_of(dataset.short)
        if self.zfs.get(copy) is None:
            return ""
        if self.streams.token(copy):
            self.streams.abort(copy)  # a pass that was killed; what was whole before stays
            if self.zfs.get(copy) is None:
                return ""
        copied = self._passes(copy)  # of others there may be newer ones, which keep no stream from being received
        mine = {snap.guid: snap.name for snap in self._passes(dataset.name)}
        return mine.get(copied[-1].guid, "") if copied else ""

    def _drop_copy(self, copy: str) -> None:
        """The copy, which no instance has ever used, is gone with what others took of it: there is nothing that is nowhere else."""
        found = self._get(copy)
        if found is None:
            return
        if self.streams.token(copy):
            self.streams.abort(copy)
        self.store.unmount_elsewhere(copy)  # where a boot has mounted it
        marks = {CLUSTER: self.store.cluster, **({DETACH: found.marks[DETACH]} if DETACH in found.marks else {})}
        with contextlib.suppress(Missing):
            self.zfs.destroy(copy, marks, strangers=DETACH in marks, seconds=self.store.config.busy_seconds)

    def _mark_copy(self, dataset: Dataset) -> None:
        """The copy has what was set on the dataset, by whomever, and a mark that says that it is whole."""
        kept = {name: value for name, value in self.zfs.local(dataset.name).items() if name not in OWN}
        self.zfs.set(self._copy_of(dataset.short), {"canmount": "on", **kept, DETACH: READY})

    # the exchange

    def _exchange(self, short: str) -> None:
        """The copy, made this moment of what nobody uses, has taken the dataset's place."""
        self.zfs.rename(f"{self.store.root.name}/{short}", f"{self._copy_of(short)}{OLD}")
        self.finish(short)

    def finish_cut(self, short: str) -> None:
        """An exchange that was cut between its two renames is done: what others are to find under the name is there."""
        if self.store.find(short) is None and short in self.begun():
            self.finish(short)

    def finish(self, short: str) -> None:
        """An exchange that was begun is done, and what has replaced nothing is gone; nothing that holds data of its own is.

        A copy whose exchange was not begun is worthless: the dataset may have been written to, or removed, since it was made.
        """
        name, copy = f"{self.store.root.name}/{short}", self._copy_of(short)
        old = f"{copy}{OLD}"
        made, placed, replaced = self._get(copy), self._get(name), self._get(old)
        if made is not None and placed is None and replaced is not None and made.marks.get(DETACH) == READY:
            self.store.unmount_elsewhere(copy)  # where a boot has mounted it
            self.zfs.rename(copy, name)
            made, placed = None, self._get(name)
        if made is not None and (made.marks.get(DETACH) == READY or placed is None):
            with contextlib.suppress(Busy):  # which is being written to: next time
                self._drop_copy(copy)
        if replaced is not None:
            self._discard(old, short, destroy=placed is not None and placed.marks.get(DETACH) == READY)
        if placed is not None and placed.marks.get(DETACH) == READY:
            self._tidy(placed)
        for directory in (short, f"{short}{OLD}"):
            with contextlib.suppress(OSError):
                os.rmdir(f"{self.store.root.path}/{COPIES}/{directory}")

    def _tidy(self, placed: Dataset) -> None:
        self.zfs.destroy_snapshots([f"{placed.name}@{snap.name}" for snap in self._passes(placed.name)])
        self.zfs.clear(placed.name, [DETACH])
        self._bring_home(placed)

    def _discard(self, old: str, short: str, *, destroy: bool) -> None:
        """What was replaced is gone if all of it is in its copy; with snapshots of its own it goes into the trash, as when in doubt."""
        self.store.unmount_elsewhere(old)  # where a boot has mounted it
        others = [snap for snap in self.streams.snapshots(old) if not snap.name.startswith(f"{self.zfs.ours}{ROUND}")]
        if destroy and not others:
            with contextlib.suppress(Busy):
                self.zfs.destroy(old, {CLUSTER: self.store.cluster}, seconds=self.store.config.busy_seconds)
                return
        from zfsganeti.trash import Trash

        Trash(self.store).put_aside(old, short)
