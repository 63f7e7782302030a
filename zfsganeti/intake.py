"""What a node does when its LVM disks become ours: snapshots, copies in slices, and names that fit; the verbs of `gnt-zfs adopt`.

Every verb does a little and can be repeated. How far the copy of a disk is stands in a user property of the dataset that it is
copied to: which of our snapshots of the LVM volume it is equal to, or is being made equal to and up to where. The chunks that
changed since that snapshot are then all that a next copy has to look at, as long as nobody else has written to the copy: every
slice leaves a stamp as the time of its last change, and of a copy that bears another time all is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from zfsganeti import lvm
from zfsganeti.blocks import Copied, copy, differs, length, ranges_of
from zfsganeti.datasets import CLUSTER, DISK, INSTANCE, INTENT, MARKS, VOLUME, locked, refuse_half_back, refuse_moving
from zfsganeti.errors import BadInput, Busy, CommandFailed, Foreign, Missing, Refused, human
from zfsganeti.files import bear, bears, new_stamp, sync
from zfsganeti.ganeti import MAX_DISKS, check_name
from zfsganeti.here import Here
from zfsganeti.lvm import Logical, NoTable
from zfsganeti.names import PREFIX, check_fits
from zfsganeti.process import holding
from zfsganeti.volumes import check_volume
from zfsganeti.zfs import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from zfsganeti.blocks import Range
    from zfsganeti.here import Verb

    class Lvm(Protocol):
        """What a job needs of LVM; the room `lvm` is the real one."""

        def volumes(self, vg: str = "") -> list[Logical]: ...
        def find(self, vg: str, name: str) -> Logical: ...
        def take(self, vg: str, name: str, number: int, size: int) -> None: ...
        def drop(self, snapshot: Logical) -> None: ...
        def changed_since(self, snapshot: Logical, size: int) -> tuple[int, set[int]]: ...
        def open_device(self, path: str) -> int: ...
        def users(self, volume: Logical, *, below: bool = False) -> list[str]: ...
        def writes(self, volume: Logical) -> str: ...


COPY = f"{PREFIX}adopt-"  # before a disk's number: the mark that says how far its copy is
VERIFIED = "adopted"  # after our prefix: a snapshot that is compared with the old disks
DRBD_DEVICE = "/dev/drbd{}"
CLOSING_SECONDS = 10  # udev opens a device for a moment
SLICE_LIMIT = 600  # seconds


@dataclass(frozen=True)
class Progress:
    """How far a disk is: equal to snapshot `whole`, or being made equal to `making`, from `base` on, up to `offset`.

    Numbers are 0 where there is none; `uuids` are those of the snapshots, so that another one of the same number is not taken for it.
    The `stamp` is what the copy bears while all of this is so; without one nothing is known of it.
    """

    whole: int = 0
    making: int = 0
    base: int = 0
    offset: int = 0
    uuids: tuple[str, ...] = ()
    stamp: int = 0

    def pack(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)


def unpack(text: str) -> Progress:
    """Return the progress that a property tells of; none when it tells nothing that can be understood."""
    try:
        values = json.loads(text or "{}")
        numbers = {key: int(values.get(key, 0)) for key in ("whole", "making", "base", "offset", "stamp")}
        return Progress(**numbers, uuids=tuple(str(uuid) for uuid in values.get("uuids", ())))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Progress()


@dataclass(frozen=True)
class Pass:
    """What a copy that is to end with snapshot `number` (0: with the disk itself) does: from where, and within what changed since."""

    number: int
    base: int = 0  # 0: all of the disk is compared
    offset: int = 0
    take: bool = False  # the snapshot is yet to be taken


def plan(progress: Progress, snapshots: Mapping[int, Logical], number: int) -> Pass | None:
    """Return the copy that makes the target equal to snapshot `number`, None when it is; 0 stands for the stopped disk itself.

    Only a snapshot that is still valid, and is the one that was copied from, tells what changed since.
    """

    def known(wanted: int) -> bool:
        return wanted in snapshots and snapshots[wanted].valid and snapshots[wanted].uuid in progress.uuids

    if progress.whole and known(progress.whole):
        if number and progress.whole >= number:
            return None
        return Pass(number, base=progress.whole, take=bool(number) and not _usable(snapshots, number))
    if number and progress.making == number and known(number) and (not progress.base or known(progress.base)):
        return Pass(number, base=progress.base, offset=progress.offset)
    return Pass(number, take=bool(number) and not _usable(snapshots, number))


def _usable(snapshots: Mapping[int, Logical], number: int) -> bool:
    return number in snapshots and snapshots[number].valid


# one disk


class Job:
    """One LVM volume and the disk of ours that it is copied to, as a request names them."""

    def __init__(self, here: Here, request: Mapping[str, Any], logical: Lvm = lvm) -> None:
        self.lvm = logical
        self.vg, self.lv = lvm.check(_text(request, "vg")), lvm.check(_text(request, "lv"))
        self.minor = _number(request, "minor") if "minor" in request else None  # of the drbd device on the volume
        self.size = _number(request, "size")  # what a guest has of the volume, 0: all
        self.index, self.volume = _number(request, "disk"), str(request.get("volume") or "")
        self.names = [check_name(name) for name in _texts(request, "names")]  # an instance's that the dataset may have
        self.file = DISK if self.volume else _file(_text(request, "file"))
        self.here = here.place_of(check_volume(self.volume)) if self.volume else here
        self.store, self.zfs = self.here.store, self.here.zfs
        self.mark = f"{COPY}{self.index}"
        self.title = f"disk {self.index} of {self.names[-1]}"

    @property
    def lock(self) -> str:
        return self.volume or self.names[-1]

    def dataset(self) -> Dataset:
        found = self.here.volumes.must(self.volume) if self.volume else _instance_dataset(self.here, self.names)
        return self.zfs.get(found.name, marks=(*MARKS, self.mark)) or found

    def progress(self) -> Progress:
        """Return how far the copy is: nowhere, once somebody else has written to it."""
        progress = unpack(self.dataset().marks.get(self.mark, ""))
        if not progress.stamp:
            return Progress()
        with self.found() as path:
            return progress if bears(path, progress.stamp) else Progress()

    def renew(self) -> int:
        """Return the new stamp that the copy bears: what is on it by now counts for nothing."""
        stamp = new_stamp()
        with self.found() as path:
            bear(path, stamp)
        return stamp

    def remember(self, progress: Progress) -> None:
        self.zfs.set(self.dataset().name, {self.mark: progress.pack()})

    def snapshots(self) -> dict[int, Logical]:
        return {found.number: found for found in self.lvm.volumes(self.vg) if found.ours and found.origin == self.lv}

    @contextlib.contextmanager
    def found(self) -> Iterator[str]:
        """The disk of ours is at this path; no device of it is in use, whose cache would know nothing of what is written."""
        if self.volume:
            self.here.volumes.detach(self.volume)
            self.here.volumes.bring_home(self.volume)
        with self.store.looking_into(self.dataset()) as directory:
            # a disk that was attached to another instance bears a new name until `settle` gives it to the file
            yield f"{directory}/{_same_disk(os.listdir(directory), self.file) if not self.volume else DISK}"

    @contextlib.contextmanager
    def target(self) -> Iterator[int]:
        """The disk of ours is open, and for nobody else."""
        with self.found() as path:
            self._refuse_guest(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _refuse_guest(self, path: str) -> None:
        """Nobody has the disk of ours open: under a guest that runs on it, a copy of the old one would end it."""
        users = [*holding([path]), *self.here.volumes.devices.backed_by(path)]
        if users:
            raise Busy(self.title, f"its new one is in use by {users[0]}", "stop that, then the same command goes on")

    def _must_fit(self, size: int, disk: Logical) -> None:
        """The disk of ours is as large as what the guest has of the old one: all of a volume, of drbd as much as Ganeti says."""
        wanted = min(self.size or disk.size, disk.size)
        if size < wanted:
            raise grown(self.title, self.names[-1], wanted, size)

    # copying

    def advance(self, number: int, room: int, seconds: float) -> dict[str, Any]:
        """The target comes closer to snapshot `number`, for about so many seconds; return how far it is."""
        known = self.progress()
        todo = plan(known, self.snapshots(), number)
        if todo is None:
            return self._told(True, Copied(), 0)
        self.store.check_spare(self.title, 1)  # what is copied must not stop the other guests of the pool
        if todo.take:
            self._take(number, room, todo.base)
        snapshots = self.snapshots()
        uuids = tuple(snapshots[wanted].uuid for wanted in (todo.number, todo.base) if wanted in snapshots)
        begun = Progress(making=number, base=todo.base, offset=todo.offset, uuids=uuids, stamp=known.stamp or self.renew())
        self.remember(begun)
        source, disk = snapshots[number], self.lvm.find(self.vg, self.lv)
        size = disk.size  # LVM tells a snapshot's room as its size
        ranges = self._ranges(size, snapshots.get(todo.base))
        if ranges is None:
            self.remember(Progress())
            return self._told(False, Copied(), size, "all")
        done, stamp = Copied(todo.offset), new_stamp()
        try:
            ended = self._copy(disk, source.path, ranges, done, seconds, begun.stamp, stamp)
        except OSError:
            if self.lvm.find(self.vg, source.name).valid:
                raise
            self.lvm.drop(source)
            self.remember(Progress())
            return {**self._told(False, done, size), "overflowed": True}
        if ended:
            self.remember(Progress(whole=number, uuids=(source.uuid,), stamp=stamp))
            for other in snapshots.values():
                if other.number != number:
                    self.lvm.drop(other)
        else:
            self.remember(replace(begun, offset=done.offset, stamp=stamp))
        return self._told(ended, done, length(ranges), "changes" if todo.base else "all")

    def _take(self, number: int, room: int, base: int) -> None:
        for old in self.snapshots().values():
            if old.number != base:
                self.lvm.drop(old)
        self.lvm.take(self.vg, self.lv, number, room)

    def _ranges(self, size: int, base: Logical | None) -> list[Range] | None:
        """Return what is to be compared: what changed since the base, all without one; None when the base does not tell any more."""
        if base is None:
            return [(0, size)]
        try:
            chunk, chunks = self.lvm.changed_since(base, size)
        except NoTable:
            return None
        return ranges_of(chunks, chunk, size)

    def _copy(self, disk: Logical, path: str, ranges: list[Range], done: Copied, seconds: float, stamp: int, then: int) -> bool:
        """A slice is copied, and the copy bears the stamp that it is to have then; while it is, and when that fails, the one before."""
        end = time.monotonic() + seconds
        source = self.lvm.open_device(path)
        try:
            with self.target() as target:
                size = os.fstat(target).st_size
                self._must_fit(size, disk)
                wanted = [(start, min(stop, size)) for start, stop in ranges if start < size]

                def enough() -> bool:
                    bear(target, stamp)  # what a slice has written that was killed is known for ours
                    return time.monotonic() > end

                try:
                    ended = copy(source, target, wanted, done, enough)
                    stamp = then
                finally:
                    bear(target, stamp)
                os.fsync(target)
                return ended
        finally:
            os.close(source)

    def changed(self) -> int:
        """Return how many bytes of the disk changed since the snapshot that the target is equal to, -1 when that is not known."""
        progress, snapshots = self.progress(), self.snapshots()
        todo = plan(progress, snapshots, 0)
        if todo is None or not todo.base:
            return -1
        ranges = self._ranges(self.lvm.find(self.vg, self.lv).size, snapshots[todo.base])
        return -1 if ranges is None else length(ranges)

    def finish(self, offset: int, seconds: float, *, again: bool = False, seen: str = "") -> dict[str, Any]:
        """The target holds what the disk, which nobody uses, holds: done when it says so, else from the offset told on.

        It is done when it was `seen` so before. When it is looked at `again`, a target that was settled since has a life of its own.
        """
        self.refuse_used()
        disk, snapshots = self.lvm.find(self.vg, self.lv), self.snapshots()
        sync(disk.path)  # what is in memory changes chunks, too, and is counted, once it is written
        writes, known = self.lvm.writes(disk), self.progress()
        settled = not self.dataset().marks.get(self.mark, "")
        if again and not offset and (settled or (seen and seen == writes and known.stamp)):
            return {**self._told(True, Copied(), 0), "writes": writes}
        if not known.stamp:
            offset, known = 0, Progress(stamp=self.renew())
            self.remember(known)
        todo = plan(known, snapshots, 0)
        told = self._ranges(disk.size, snapshots.get(todo.base) if todo else None)
        ranges = [(0, disk.size)] if told is None else told
        if not again and length(ranges) >= disk.size:  # of what little has changed, all is copied
            self.store.check_spare(self.title, 1)
        done = Copied(offset)
        ended = self._copy(disk, disk.path, ranges, done, seconds, known.stamp, known.stamp)
        return {**self._told(ended, done, length(ranges), "changes" if length(ranges) < disk.size else "all"), "writes": writes}

    def refuse_used(self) -> None:
        """Nobody has the old disk open."""
        disk = self.lvm.find(self.vg, self.lv)
        deadline = time.monotonic() + CLOSING_SECONDS
        while found := [*self.lvm.users(disk, below=bool(self.size)), *self._users_of_drbd()]:
            if time.monotonic() > deadline:
                raise Busy(f"{self.vg}/{self.lv}", f"is in use by {found[0]}", "stop it, then the same command goes on")
            time.sleep(0.2)

    def _users_of_drbd(self) -> list[str]:
        """Return who has the disk open through drbd: of those the LVM volume below knows nothing."""
        device = DRBD_DEVICE.format(self.minor)
        if self.minor is None or not os.path.exists(device):
            return []
        return [*holding([device]), *lvm.claims(os.stat(device).st_rdev)]

    def _told(self, ended: bool, done: Copied, total: int, what: str = "") -> dict[str, Any]:
        return {**vars(done), "total": total, "ended": ended, "what": what, "overflowed": False}

    # verifying

    def verify(self, offset: int, seconds: float) -> dict[str, Any]:
        """The copy as it was when it was switched to is compared with the old disk, from an offset on."""
        end = time.monotonic() + seconds
        disk, done = self.lvm.find(self.vg, self.lv), Copied(offset)
        with self.store.looking_into_snapshot(self.dataset(), f"{self.zfs.ours}{VERIFIED}") as kept:
            path = f"{kept}/{_same_disk(os.listdir(kept), self.file) if not self.volume else DISK}"
            source, target = self.lvm.open_device(disk.path), os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = min(disk.size, os.fstat(target).st_size)
                self._must_fit(size, disk)
                where = differs(source, target, [(0, size)], done, lambda: time.monotonic() > end)
            finally:
                os.close(source)
                os.close(target)
        return {"ended": done.offset >= size, "offset": done.offset, "total": size, "differs": -1 if where is None else where}


def grown(what: str, instance: str, wanted: int, size: int) -> Refused:
    """Return why an old disk cannot be copied to a new one."""
    figures = f"has {human(wanted)}, its new one {human(size)}: it was grown since"
    return Refused(what, figures, f"gnt-zfs adopt --abort {instance}, then again")


def _instance_dataset(here: Here, names: list[str]) -> Dataset:
    """Return the one dataset that an instance has, or is about to have, under one of its names; its mark may still bear another."""
    there = [here.zfs.get(here.store.name(name), marks=MARKS) for name in names]
    found = [dataset for dataset in there if dataset is not None]
    for dataset in found:
        if VOLUME in dataset.marks or dataset.marks.get(INSTANCE) not in names or dataset.marks.get(CLUSTER) != here.store.cluster:
            raise Foreign(f"dataset {dataset.name}", f"is not {names[-1]}'s", "gnt-zfs check says whose it is")
    if len(found) != 1:
        raise Missing(f"the dataset of {names[-1]}") if not found else Foreign(found[0].name, f"stands beside {found[1].name}")
    return found[0]


def _same_disk(files: list[str], wanted: str) -> str:
    """Return the file that is, or is to bear, a disk's name: Ganeti ends both in .file.diskN."""
    if wanted in files:
        return wanted
    suffix = "." + wanted.partition(".")[2]
    found = [file for file in files if file.endswith(suffix)]
    if len(found) != 1 or not suffix.startswith(".file.disk"):
        raise Missing(f"the file of {wanted}")
    return found[0]


# requests


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value or len(value) > 255 or not value.isprintable():
        raise BadInput(f"request: {key} must be a text")
    return value


def _texts(request: Mapping[str, Any], key: str) -> list[str]:
    values = request.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise BadInput(f"request: {key} must be a list of texts")
    return values


def _number(request: Mapping[str, Any], key: str, largest: int = 1 << 62) -> int:
    value = request.get(key, 0)
    if not isinstance(value, int) or not 0 <= value <= largest:
        raise BadInput(f"request: {key} must be a number up to {largest}")
    return value


def _file(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise BadInput(f"request: {name!r} is no file name")
    return name


# verbs


def _facts(here: Here, request: dict[str, Any]) -> Any:
    """Return what is known here of some LVM volumes, and the room that there is for them."""
    wanted = [(lvm.check(_text(disk, "vg")), lvm.check(_text(disk, "lv"))) for disk in request.get("disks", [])]
    known = {(found.vg, found.name): found for found in lvm.volumes()}
    root = here.zfs.get(here.root.name)
    name = check_name(_text(request, "instance"))
    if request.get("free_name") is True:
        here.store.refuse_taken(name)
        check_fits("instance", check_name(_text(request, "shadow")), here.root.name)
    here.store.check_pool()
    return {
        "sizes": [known[disk].size if disk in known else 0 for disk in wanted],
        "free": {vg: lvm.free(vg) for vg in {vg for vg, _lv in wanted} if any(found == vg for found, _name in known)},
        "snapshots": [[found.vg, found.origin, found.number] for found in known.values() if found.ours],
        "available": root.available if root else 0,
        "used": root.used if root else 0,
        "claims": {f"{vg}/{lv}": lvm.claims(lvm.device(known[vg, lv].path)) for vg, lv in wanted if (vg, lv) in known},
        "drbd": _halves(here, request),
        "root": here.root.name,
    }


def _advance(here: Here, request: dict[str, Any]) -> Any:
    job = Job(here, request)
    with locked(job.lock):
        return job.advance(_number(request, "number"), _number(request, "room"), _number(request, "patience", SLICE_LIMIT))


def _changed(here: Here, request: dict[str, Any]) -> Any:
    job = Job(here, request)
    with locked(job.lock):
        return job.changed()


def _state(here: Here, request: dict[str, Any]) -> Any:
    """Return with which of our snapshots the copy is, or is being made, equal, and the highest number that is taken."""
    job = Job(here, request)
    with locked(job.lock):
        progress, snapshots = job.progress(), job.snapshots()
    return {"whole": progress.whole, "making": progress.making, "highest": max(snapshots, default=0)}


def _finish(here: Here, request: dict[str, Any]) -> Any:
    job = Job(here, request)
    with locked(job.lock):
        again, seen = request.get("again") is True, str(request.get("seen") or "")
        return job.finish(_number(request, "offset"), _number(request, "patience", SLICE_LIMIT), again=again, seen=seen)


def _unused(here: Here, request: dict[str, Any]) -> None:
    Job(here, request).refuse_used()


def _verify(here: Here, request: dict[str, Any]) -> Any:
    job = Job(here, request)
    return job.verify(_number(request, "offset"), _number(request, "patience", SLICE_LIMIT))


def _drop(_here: Here, request: dict[str, Any]) -> Any:
    """Our snapshots of the LVM volumes named are gone, all of them; return how many there were."""
    wanted = [(lvm.check(_text(disk, "vg")), lvm.check(_text(disk, "lv"))) for disk in request.get("disks", [])]
    doomed = [found for found in lvm.volumes() if found.ours and (found.vg, found.origin) in wanted]
    for snapshot in doomed:
        lvm.drop(snapshot)
    return len(doomed)


def _loosen(here: Here, request: dict[str, Any]) -> Any:
    """An instance's dataset bears the name of the one that gets its disks, aside; where Ganeti looks for them now are links.

    Ganeti renames the disks that are detached and attached, which works with links and not with files of another filesystem.
    """
    old, new = check_name(_text(request, "old")), check_name(_text(request, "new"))
    if old == new:
        raise BadInput(f"instance {old}: is renamed to what it is called already")
    paths = _texts(request, "paths")
    store, root = here.store, here.root.path
    allowed = (root, f"{root}/{old}", f"{root}/{new}")
    if any(os.path.dirname(path) not in allowed or not os.path.basename(path) for path in paths):
        raise BadInput(f"request: paths must be below {root}")
    with locked(old), locked(new):
        dataset = _instance_dataset(here, [old, new])
        refuse_half_back(dataset)
        refuse_moving(dataset)
        if dataset.short == old:
            here.zfs.set(dataset.name, {INTENT: f"adopt {new} {store.now():.0f}"})
        aside = store.aside(new)
        os.makedirs(os.path.dirname(aside), mode=0o700, exist_ok=True)
        if dataset.short == old:
            here.zfs.unmount(store.home(old), lazy=True)
            here.zfs.rename(dataset.name, store.name(new))
        if dataset.short == old or dataset.marks.get(INSTANCE) != new:
            here.zfs.set(store.name(new), store.marks(new))
        if here.zfs.mounted_at(aside) != store.name(new):
            here.zfs.mount(store.name(new), aside)
        here.zfs.unmount(store.home(new), lazy=True)
        store.unmount_elsewhere(store.name(new), aside)
        files = os.listdir(aside)
        os.makedirs(store.home(new), mode=0o750, exist_ok=True)
        for path in paths:
            _link(path, f"{aside}/{_same_disk(files, os.path.basename(path))}")


def _link(path: str, target: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    if os.path.islink(path):
        os.unlink(path)
    os.symlink(target, path)


def _settle(here: Here, request: dict[str, Any]) -> Any:
    """The disks are the instance's for good: their dataset is at home and the files bear the names that Ganeti has for them."""
    name = check_name(_text(request, "instance"))
    files = [_file(file) for file in request.get("files", [])]
    volumes = [check_volume(volume) for volume in request.get("volumes", [])]
    clear = [f"{COPY}{index}" for index in range(MAX_DISKS)]
    for volume in volumes:
        with locked(volume):
            place = here.place_of(volume).volumes
            place.set_instance(volume, name)
            _forget(place.zfs, place.name(volume), clear)
    if files:
        with locked(name):
            dataset = _instance_dataset(here, [name])
            with here.store.looking_into(dataset) as directory:
                for file in files:
                    there = _same_disk(os.listdir(directory), file)
                    if there != file:
                        os.rename(f"{directory}/{there}", f"{directory}/{file}")
            _remove_links(here.root.path, here.store.aside(name))
            here.store.bring_home(name)
            _forget(here.zfs, dataset.name, clear)


def _forget(zfs: Any, dataset: str, marks: list[str]) -> None:
    there = zfs.local(dataset)
    zfs.clear(dataset, [mark for mark in marks if mark in there])


def _remove_links(root: str, aside: str) -> None:
    """No link that Ganeti left of a disk between two instances is in the root itself."""
    for entry in list(os.scandir(root)):
        if entry.is_symlink() and os.path.dirname(os.readlink(entry.path)) == aside:
            os.unlink(entry.path)


def _keep(here: Here, request: dict[str, Any]) -> Any:
    """What the disks hold at this moment is in snapshots, to be compared with the old ones; none with `gone`."""
    names = [check_volume(volume) for volume in request.get("volumes", [])] or [check_name(_text(request, "instance"))]
    for name in names:
        place = here.place_of(name)
        snapshot = f"{place.root.name}/{name}@{place.zfs.ours}{VERIFIED}"
        dataset = place.zfs.get(f"{place.root.name}/{name}", marks=(CLUSTER, INSTANCE))
        if dataset is None or dataset.marks.get(CLUSTER) != place.ssconf.cluster:
            continue
        with contextlib.suppress(Missing, CommandFailed):
            place.zfs.destroy_snapshots([snapshot])
        if request.get("gone") is not True:
            place.zfs.snapshot([snapshot])


def _halves(_here: Here, _request: dict[str, Any]) -> Any:
    """Return the state of this node's half of each drbd device in use, by its minor."""
    return {str(minor): state for minor, state in lvm.drbd_states().items()}


def _leftovers(_here: Here, _request: dict[str, Any]) -> Any:
    """Return our snapshots of LVM volumes on this node."""
    return [[found.vg, found.origin, found.name] for found in lvm.volumes() if found.ours]


VERBS: dict[str, Verb] = {
    "adopt-facts": _facts,
    "adopt-state": _state,
    "adopt-copy": _advance,
    "adopt-changed": _changed,
    "adopt-finish": _finish,
    "adopt-unused": _unused,
    "adopt-halves": _halves,
    "adopt-verify": _verify,
    "adopt-drop": _drop,
    "adopt-loosen": _loosen,
    "adopt-settle": _settle,
    "adopt-keep": _keep,
    "adopt-leftovers": _leftovers,
}
