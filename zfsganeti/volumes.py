"""What a volume is: the dataset of one `-t ext` disk, its sparse `disk.raw`, and the way through each verb of ExtStorage.

Ganeti names a volume once and for all (`<uuid>.ext.disk0`), whatever becomes of its instance, and asks for one verb after the
other. Every verb can be repeated: a volume is whole when its disk file has a size, which is written last.
"""

from __future__ import annotations

import contextlib
import os

from zfsganeti import loop
from zfsganeti.contents import CREATE, Content, reservation
from zfsganeti.datasets import (
    BACK,
    CLUSTER,
    COPIES,
    DETACH,
    DISK,
    IMAGE,
    INSTANCE,
    INTENT,
    KEPT,
    MARKS,
    MOVE,
    MOVING,
    NEVER_CHANGED,
    NEVER_WRITTEN,
    OLD,
    OPENED,
    READY,
    RECORD,
    REPLACED,
    RESERVED,
    RESTORING,
    ROLLBACK,
    TRASH,
    VOLUME,
    end_move,
    locked,
    pack_record,
    refuse_half_back,
    refuse_moving,
)
from zfsganeti.errors import BadInput, BadName, CommandFailed, Foreign, Missing, NoSpace, Refused, ZfsGanetiError, human
from zfsganeti.files import set_mode
from zfsganeti.names import SNAPSHOT_VOLUME, check_dataset, check_fits
from zfsganeti.zfs import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    from zfsganeti.datasets import Store

    class Devices(Protocol):
        """What this room needs of loop devices; the room `loop` is the real one."""

        def find(self, volume: str) -> str | None: ...
        def attach(self, volume: str, path: str) -> str: ...
        def detach(self, volume: str, path: str) -> None: ...
        def grow(self, volume: str) -> None: ...
        def flush(self, volume: str) -> None: ...
        def backed_by(self, path: str) -> list[str]: ...


NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")


def check_volume(name: str) -> str:
    """Return a name that can be a volume's: Ganeti's own, a UUID with a suffix, always is."""
    if not name or len(name) > 200 or name[0] in ".-_" or not NAME_CHARACTERS.issuperset(name) or ".." in name:
        raise BadName("volume", name, "must be 1 to 200 letters, digits, '.', '-' and '_', and begin with a letter or digit")
    return name


class Volumes:
    """The volumes of one node under its root."""

    def __init__(self, store: Store, devices: Devices = loop) -> None:
        self.store, self.zfs, self.devices = store, store.zfs, devices

    # names

    def name(self, volume: str) -> str:
        return check_dataset(f"{self.store.root.name}/{check_volume(volume)}")

    def home(self, volume: str) -> str:
        return f"{self.store.root.path}/{check_volume(volume)}"

    def disk(self, volume: str) -> str:
        return f"{self.home(volume)}/{DISK}"

    def marks(self, volume: str) -> dict[str, str]:
        return {VOLUME: volume, CLUSTER: self.store.cluster}

    def find(self, volume: str) -> Dataset | None:
        """Return a volume's dataset, None without one; Foreign when the name is taken by something that is not ours."""
        dataset = self.zfs.get(self.name(volume), marks=MARKS)
        if dataset is None:
            return None
        if dataset.marks.get(VOLUME) != volume or dataset.marks.get(CLUSTER) != self.store.cluster:
            way_out = (
                "gnt-zfs check --repair takes it over if the cluster was renamed" if dataset.marks.get(VOLUME) == volume else "rename it"
            )
            raise Foreign(f"dataset {dataset.name}", f"is not volume {volume} of this cluster", way_out)
        return dataset

    def must(self, volume: str) -> Dataset:
        dataset = self.find(volume) or self.take_copy(volume)
        if dataset is None:
            refuse_half_back(self._coming_back(volume))
            raise Missing(f"volume {volume} on this node", "gnt-zfs check says where it is")
        return dataset

    def take_copy(self, volume: str) -> Dataset | None:
        """Return the copy that was to take the place of a volume when that was stopped half-way, None without one."""
        place = f"{self.store.root.name}/{COPIES}/{volume}"
        copy = self.zfs.get(place, marks=MARKS)
        if copy is None or self.zfs.get(f"{place}{OLD}") is None or copy.marks.get(DETACH) != READY or copy.marks.get(VOLUME) != volume:
            return None
        self.store.unmount_elsewhere(copy.name)
        self.zfs.rename(copy.name, self.name(volume))
        return self.find(volume)

    def _coming_back(self, volume: str) -> Dataset | None:
        """Return the clone that a rollback, cut between its two renames, is about to make the volume, None without one."""
        return self.zfs.get(f"{self.store.root.name}/{BACK}/{volume}", marks=(ROLLBACK,))

    def _refuse_coming(self, volume: str) -> None:
        """Neither a rollback nor a move is about to put something in the volume's place, which may be all that there is of it."""
        refuse_half_back(self._coming_back(volume))
        coming = self.zfs.get(f"{self.store.root.name}/{MOVING}/{volume}", marks=(INSTANCE,))
        if coming is not None:
            instance = coming.marks.get(INSTANCE, volume)
            way_out = f"a start of {instance} brings in what is whole, gnt-zfs move --abort {instance} gives that up"
            raise Foreign(f"{volume} below {MOVING}", "comes from another node", way_out)

    def size(self, volume: str) -> int:
        """Return the size of the disk in bytes, 0 while it was never finished; its dataset must be mounted."""
        try:
            return os.stat(self.disk(volume)).st_size
        except FileNotFoundError:
            return 0

    # the verbs

    def create(self, volume: str, size: int, parameters: Mapping[str, Any]) -> str:
        """The volume exists with a disk of `size` bytes, attached; nothing is left of one that fails. Return its device."""
        existing = self.find(volume) or self.take_copy(volume)
        if existing is None:
            self._refuse_coming(volume)
            check_fits("volume", volume, self.store.root.name)
        self._refuse_used(volume, existing, parameters)
        self.store.check_pool()
        if token := parameters.get("trash"):
            if existing is None or existing.marks.get(RESTORING) != token:
                self._take_back(volume, token, size, existing)
            return self._use_again(volume, token, reservation(size) if parameters.get("reserve") else 0)
        content = Content(self, parameters)
        begun = existing is not None and content.is_begun(existing)
        if not begun:
            content.check(size)
        with contextlib.ExitStack() as failed:
            with self.counted():
                self.check_room(volume, size)
                if not begun:
                    if existing is not None:
                        self._clear_away(volume, existing)
                    content.begin(volume, size)
                    failed.callback(self._give_up, volume, content)
                content.open_up(volume, size)
                self.bring_home(volume)
                content.length = self.size(volume)
                self._make_disk(volume, size)
            content.fill(volume)
            device = self.devices.attach(volume, self.disk(volume))
            content.end(volume)
            failed.pop_all()
        return device

    def _clear_away(self, volume: str, dataset: Dataset) -> None:
        """What a create that was killed has left is gone: nothing was ever written to it, and its parameters may have been others."""
        self.remove(volume) if IMAGE in dataset.marks else self.destroy(volume)  # an image is older than the volume

    def _give_up(self, volume: str, content: Content) -> None:
        """Nothing is left of a volume whose making has failed; an image that was lent to it is in the catalogue again, as it was.

        What fails of that is not said: why the making has failed is what is to be known.
        """
        with contextlib.suppress(ZfsGanetiError, OSError):
            if content.outlives:
                self.detach(volume)
                content.return_image(volume)
                self._forget_home(volume)
            else:
                self.destroy(volume)

    def counted(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else of us gives away room of this pool: who comes next counts what is made or grown meanwhile."""
        pool = self.store.root.name.split("/")[0]
        return locked(f".room.{pool}", what=f"pool {pool}")

    def _refuse_used(self, volume: str, dataset: Dataset | None, parameters: Mapping[str, Any]) -> None:
        if dataset is None or (parameters.get("trash") and dataset.marks.get(RESTORING) == parameters["trash"]):
            return
        if not self._is_unused(volume, dataset):
            raise Refused(f"volume {volume}", "exists already", "gnt-zfs check says whose it is")

    def _is_unused(self, volume: str, dataset: Dataset) -> bool:
        """Tell whether a volume is but what a create that was killed has left: no instance ever had it, nothing was written to it."""
        if INSTANCE in dataset.marks or RECORD in dataset.marks or OPENED in dataset.marks:
            return False
        if IMAGE in dataset.marks:
            return True  # the image goes back to the catalogue, whatever is in it
        if self.zfs.snapshots(dataset.name, depth=1):
            return False
        if dataset.marks.get(INTENT, "").startswith(CREATE):
            return True
        if dataset.origin:
            return dataset.written <= NEVER_CHANGED
        self.bring_home(volume)
        found = os.listdir(self.home(volume))
        return not found or (found == [DISK] and os.stat(self.disk(volume)).st_blocks * 512 <= NEVER_WRITTEN)

    def _make_disk(self, volume: str, size: int, *, sync: bool = False) -> None:
        """The disk has its size, Refused when it is longer; without `sync` that outlives a power cut once something is set on the dataset.

        Ganeti has setinfo called before it knows of a new disk, and a property is set with the transaction group that the size is in,
        or a later one. An fsync would wait for one of its own, the first in a dataset for two.
        """
        descriptor = os.open(self.disk(volume), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if (length := os.fstat(descriptor).st_size) > size:
                raise Refused(f"volume {volume}", f"has a disk of {human(length)} already, which cannot shrink to {human(size)}")
            os.ftruncate(descriptor, size)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def bring_home(self, volume: str) -> None:
        """The dataset is mounted at home, where nobody but root can look into it."""
        home = self.home(volume)
        if self.zfs.mounted_at(home) != self.name(volume):
            self.zfs.mount(self.name(volume), home)
            set_mode(home, 0o700)

    def attach(self, volume: str) -> str:
        """Return the path of the volume's block device; Missing when the volume is not on this node, Busy while it is moved from here."""
        dataset = self.must(volume)
        refuse_moving(dataset, fenced=True)
        refuse_half_back(dataset)
        self.bring_home(volume)
        if not self.size(volume):
            raise Missing(f"the disk of volume {volume}, which was never finished", "gnt-zfs check --repair removes the rest")
        device = self.devices.attach(volume, self.disk(volume))
        self.devices.grow(volume)  # what a grow that was killed has left undone
        return device

    def detach(self, volume: str) -> None:
        """The volume is no device on this node, whether it exists or not; Busy names who has it open."""
        self.devices.detach(volume, self.disk(volume))

    def remove(self, volume: str) -> None:
        """The volume is in the trash, a snapshot made for an export is gone; one that is gone already is fine."""
        self.detach(volume)
        dataset = self.find(volume) or self.take_copy(volume)
        if volume.endswith(SNAPSHOT_VOLUME) and (dataset is None or dataset.origin):
            self._destroy_snapshot(volume, dataset)
            return
        refuse_half_back(dataset or self._coming_back(volume))
        if dataset is None:
            self._forget_home(volume)
            return
        end_move(self.zfs, dataset)  # the fence is read-only, and bring_home changes a mode
        if IMAGE in dataset.marks:
            self._give_back(volume, dataset)
            return
        self.bring_home(volume)
        if self._is_unused(volume, dataset):
            self.destroy(volume)
            return
        from zfsganeti.trash import Trash

        Trash(self.store).put_volume(dataset, self.size(volume))

    def _give_back(self, volume: str, dataset: Dataset) -> None:
        """The image that an instance had for itself is in the catalogue again, as the instance has left it."""
        from zfsganeti.images import Images

        self.zfs.set(dataset.name, {"readonly": "off"})  # which one that was killed has switched on
        self.bring_home(volume)
        size = self.size(volume)
        self.zfs.unmount(self.home(volume), seconds=self.store.config.busy_seconds)
        Images(self.store).take_back(dataset, size)
        self._forget_home(volume)

    def destroy(self, volume: str) -> None:
        """The volume's dataset is gone for good; snapshots of others, clones and holds keep it."""
        self.detach(volume)
        self.zfs.unmount(self.home(volume), seconds=self.store.config.busy_seconds)
        self.zfs.destroy(self.name(volume), self.marks(volume), seconds=self.store.config.busy_seconds)
        self._forget_home(volume)

    def _forget_home(self, volume: str) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(self.home(volume))

    def grow(self, volume: str, size: int) -> None:
        """The disk has `size` bytes, also for a guest that has it open."""
        dataset = self.must(volume)
        refuse_half_back(dataset)
        self.bring_home(volume)
        before = self.size(volume)
        if size < before:
            raise Refused(f"volume {volume}", f"has {human(before)} and cannot shrink to {human(size)}")
        if size > before:
            with self.counted():
                self.check_room(volume, size - before)
                if self.zfs.local(dataset.name).get(RESERVED, "0") not in ("0", "none"):
                    self.zfs.set(dataset.name, {RESERVED: str(reservation(size))})
                self._make_disk(volume, size, sync=True)
        self.devices.grow(volume)

    def set_instance(self, volume: str, instance: str) -> None:
        """The volume says whose it is."""
        dataset = self.must(volume)
        if dataset.marks.get(INSTANCE) != instance:
            self.zfs.set(dataset.name, {INSTANCE: instance})
        if RESTORING in dataset.marks:
            self.zfs.clear(dataset.name, [RESTORING])

    def claim(self, volume: str) -> None:
        """A volume that bears the name which the cluster had before is this cluster's; anything else of that name is Foreign."""
        dataset = self.zfs.get(self.name(volume), marks=MARKS)
        if dataset is None or dataset.marks.get(VOLUME) != volume:
            raise Foreign(f"dataset {self.name(volume)}", f"is not volume {volume} of any cluster", "rename it")
        self.zfs.set(dataset.name, self.marks(volume))

    def settle(self, volume: str) -> str:
        """The volume is its instance's for good: what it said of the one that it was restored for is forgotten.

        Return what zfs(8) is to set so that room is set aside for it, '' when it is.
        """
        dataset = self.must(volume)
        self.zfs.clear(dataset.name, [mark for mark in (RECORD, REPLACED, RESTORING) if mark in dataset.marks])
        if self.zfs.local(dataset.name).get(RESERVED, "0") not in ("0", "none"):
            return ""
        return f"{RESERVED}={reservation(self.size(volume))} {dataset.name}"

    def keep_record(self, volume: str, record: Mapping[str, Any]) -> bool:
        """The volume says how the instance is made whose disk it is; False, and nothing done, for one that is not here."""
        dataset = self.find(volume) or self.take_copy(volume)
        refuse_half_back(dataset or self._coming_back(volume))
        if dataset is not None:
            self.zfs.set(dataset.name, {RECORD: pack_record(record), INSTANCE: str(record.get("name", ""))})
            self.zfs.clear(dataset.name, [REPLACED] if REPLACED in dataset.marks else [])  # it is no part any more of what a restore took
        return dataset is not None

    def keep(self, volume: str) -> None:
        """What the volume holds is in a snapshot, for as long as the trash keeps things."""
        dataset = self.must(volume)
        refuse_moving(dataset)
        if self.devices.find(volume) is not None:
            self.devices.flush(volume)
        self.store.keep(dataset.name)

    def snapshot(self, volume: str, snapshot: str) -> None:
        """A volume of the snapshot's name holds what the volume held now; one left by an export that was killed is gone."""
        if snapshot != f"{volume}{SNAPSHOT_VOLUME}":
            raise BadInput(f"snapshot name {snapshot[:80]!r}: must be {volume}{SNAPSHOT_VOLUME}")
        self.must(volume)
        self.detach(snapshot)
        self._destroy_snapshot(snapshot, self.find(snapshot))
        if self.devices.find(volume) is not None:
            self.devices.flush(volume)
        name = self._origin(snapshot)
        self.zfs.snapshot([name])
        self.zfs.clone(name, self.name(snapshot), self.marks(snapshot))

    def _origin(self, snapshot: str) -> str:
        """Return the snapshot of ZFS that a volume made for an export is a clone of."""
        return f"{self.name(snapshot.removesuffix(SNAPSHOT_VOLUME))}@{self.zfs.ours}export"

    def _destroy_snapshot(self, snapshot: str, dataset: Dataset | None) -> None:
        """The clone and what it was made from are gone, whichever of them is left."""
        if dataset is not None:
            self.destroy(snapshot)
        self._forget_home(snapshot)
        with contextlib.suppress(Missing):
            self.zfs.destroy_snapshots([self._origin(snapshot)])

    def open(self, volume: str, exclusive: bool) -> None:
        """The node uses the volume, alone; sharing it with another node is refused, since no other node has it."""
        dataset = self.must(volume)
        if not exclusive:
            raise Refused(f"volume {volume}", "lies on this node alone and cannot be shared for a migration", "gnt-zfs move moves it")
        if dataset.marks.get(OPENED) != "exclusive":
            self.zfs.set(dataset.name, {OPENED: "exclusive"})

    def close(self, volume: str) -> None:
        """The node does not use the volume any more; one that is gone is not in use."""
        dataset = self.find(volume)
        if dataset is not None and OPENED in dataset.marks:
            self.zfs.clear(dataset.name, [OPENED])

    # room

    def check_room(self, volume: str, asked: int) -> None:
        """There is room for so many bytes more, and the disks' sizes together stay within the configured share of the root's."""
        self.store.check_space(f"volume {volume}", asked)
        limit, promised = self.store.config.overcommit, self.promised()
        if not limit or promised + asked <= self.zfs.room(self.store.root.path) * limit // 100:
            return  # what is used counts as well, but that need not be asked for then
        root = self.store.own()
        allowed = (root.used + root.available) * limit // 100
        if promised + asked > allowed:
            way_out = f"{human(promised)} are promised already and overcommit = {limit} allows {human(allowed)} in all"
            raise NoSpace(f"volume {volume} on {root.name}", asked, max(0, allowed - promised), way_out)

    def promised(self) -> int:
        """Return the sizes of all disks under the root together, in bytes: what their guests may fill."""
        total = 0
        for entry in os.scandir(self.store.root.path):
            if entry.is_dir() and not entry.name.startswith("."):
                with contextlib.suppress(OSError):
                    total += sum(file.stat().st_size for file in os.scandir(entry.path) if file.is_file())
        return total

    # out of the trash

    def _take_back(self, volume: str, token: str, size: int, existing: Dataset | None) -> None:
        """The entry that was reserved with this token is the volume."""
        entry = token.partition("@")[0]
        dataset = self.zfs.get(check_dataset(f"{self.store.root.name}/{TRASH}/{entry}"), marks=MARKS)
        if dataset is None or not self.store.is_ours(dataset) or VOLUME not in dataset.marks:
            raise Missing(f"{entry} in the trash of this node", "gnt-zfs trash list shows what is there")
        if dataset.marks.get(RESTORING) != token:
            raise Refused(entry, "was not reserved for this", "gnt-zfs trash restore takes it back")
        from zfsganeti.trash import Trash

        Trash(self.store).refuse_needed(dataset)
        with self.store.looking_into(dataset) as path:
            held = os.stat(f"{path}/{DISK}").st_size
        if held != size:
            raise BadInput(f"{entry}: holds {human(held)} ({held} bytes), not the {size} bytes asked for")
        if existing is not None:
            self.destroy(volume)
        self.zfs.set(dataset.name, self.marks(volume))
        self.zfs.clear(dataset.name, [mark for mark in (MOVE, ROLLBACK) if mark in dataset.marks])
        self.zfs.rename(dataset.name, self.name(volume))
        self.store.unmount_elsewhere(self.name(volume), self.home(volume))
        with contextlib.suppress(OSError):
            os.rmdir(f"{self.store.root.path}/{TRASH}/{entry}")

    def _use_again(self, volume: str, token: str, reserved: int) -> str:
        """Return the device of a volume that was taken out of the trash; one that cannot be used is there again, for another try."""
        try:
            # not while it is in the trash, where a boot would mount it
            self.zfs.set(self.name(volume), {"canmount": "on"})
            device = self.attach(volume)
            if reserved:  # which neither what a rollback has replaced has, nor a clone of a snapshot
                with contextlib.suppress(CommandFailed):  # where there is no room that stops nothing: settle tells of it
                    self.zfs.set(self.name(volume), {RESERVED: str(reserved)})
        except (ZfsGanetiError, OSError):
            with contextlib.suppress(ZfsGanetiError, OSError):
                self._put_back(volume, token.partition("@")[0])
            raise
        self.zfs.clear(self.name(volume), [KEPT])
        return device

    def _put_back(self, volume: str, entry: str) -> None:
        """The volume is the entry in the trash that it was."""
        self.detach(volume)
        self.zfs.unmount(self.home(volume), seconds=self.store.config.busy_seconds)
        self.zfs.set(self.name(volume), {"canmount": "noauto", VOLUME: entry.partition(":")[0]})
        self.zfs.rename(self.name(volume), f"{self.store.root.name}/{TRASH}/{entry}")
        self._forget_home(volume)
