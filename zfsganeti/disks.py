"""One disk of an instance, whichever door it came through: saved as an image, or formatted anew."""

from __future__ import annotations

import contextlib
import os

from zfsganeti.contents import check_directory_fits, make_filesystem, make_swap
from zfsganeti.datasets import DISK, INTENT, REMOVED, SAVED, locked, refuse_half_back, refuse_moving
from zfsganeti.errors import BadInput, Busy, Missing, Refused
from zfsganeti.files import refuse_link
from zfsganeti.ganeti import check_name
from zfsganeti.install import place
from zfsganeti.names import check_image, meant
from zfsganeti.process import holding
from zfsganeti.volumes import check_volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from zfsganeti.ganeti import Instance
    from zfsganeti.here import Here
    from zfsganeti.zfs import Dataset


def split(text: str) -> tuple[str, int]:
    """Return the instance and the number of the disk meant by INSTANCE or INSTANCE/DISK."""
    name, slash, number = text.partition("/")
    if slash and not (number.isascii() and number.isdigit() and len(number) < 4):
        raise BadInput(f"disk {text[:80]!r}: must be INSTANCE or INSTANCE/NUMBER, such as web1/0")
    return check_name(name), int(number or 0)


def locate(instances: Mapping[str, Instance], text: str) -> tuple[Instance, dict[str, Any]]:
    """Return the instance that owns a disk, and the disk as its node can be asked for it."""
    name, number = split(text)
    instance = find_instance(instances, name)
    if number >= len(instance.disks):
        raise Missing(f"disk {number} of {instance.name}", f"it has {len(instance.disks)}")
    disk = instance.disks[number]
    if disk.template not in ("file", "ext") or (disk.template == "ext" and not disk.volume):
        raise Refused(f"disk {number} of {instance.name}", f"is of kind {disk.template} and not ours")
    return instance, {"instance": instance.name, "disk": number, "volume": disk.volume, "file": os.path.basename(disk.path)}


def find_instance(instances: Mapping[str, Instance], name: str) -> Instance:
    """Return the instance of a name, which may be short."""
    if name in instances:
        return instances[name]
    found = [instance for known, instance in instances.items() if known.split(".")[0] == name]
    if not found:
        raise Missing(f"instance {name}", meant(name, instances))
    if len(found) > 1:
        raise BadInput(f"{name}: could be any of {', '.join(instance.name for instance in found)}")
    return found[0]


def datasets_of(instance: Instance) -> list[str]:
    """Return the names, below the root, of the datasets that an instance's disks are in."""
    names = [disk.volume or instance.name for disk in instance.disks if disk.template == "file" or disk.volume]
    return list(dict.fromkeys(names))


class Disk:
    """A disk on this node, asked for as `locate` describes it."""

    def __init__(self, here: Here, request: Mapping[str, Any]) -> None:
        self.instance = check_name(str(request.get("instance")))
        number, volume, file = request.get("disk"), request.get("volume"), request.get("file")
        if (
            not isinstance(number, int)
            or not isinstance(volume, str)
            or not isinstance(file, str)
            or "/" in file
            or (file in ("", "..") and not volume)
        ):
            raise BadInput("request: disk, volume and file must say which disk is meant")
        self.number, self.volume = number, check_volume(volume) if volume else ""
        self.file = DISK if self.volume else file
        self.title = f"disk {self.number} of {self.instance}"
        self.here = here.place_of(self.volume) if self.volume else here
        self.store = self.here.store

    @property
    def dataset(self) -> Dataset:
        if self.volume:
            return self.here.volumes.must(self.volume)
        dataset = self.store.find(self.instance)
        if dataset is None:
            raise Missing(f"dataset {self.store.name(self.instance)}")
        return dataset

    @property
    def path(self) -> str:
        """The disk's file at home, where it is mounted now."""
        if self.volume:
            self.here.volumes.bring_home(self.volume)
            return self.here.volumes.disk(self.volume)
        self.store.bring_home(self.instance, self.dataset)
        path = f"{self.store.home(self.instance)}/{self.file}"
        refuse_link(path, f"dataset {self.dataset.name}")
        if not os.path.isfile(path):
            raise Missing(path)
        return path

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else of us works on the disk, and nothing has begun that needs its dataset where it is, or as it is."""
        with locked(self.volume or self.instance):
            dataset = self.dataset
            refuse_half_back(dataset)
            refuse_moving(dataset, fenced=True)
            intent = dataset.marks.get(INTENT, "")
            if intent:
                raise Busy(self.title, f"an operation is at work on it ({intent.split(' ')[0]})", "gnt-zfs check --repair if it is not")
            yield

    def snapshot(self, purpose: str) -> str:
        """What the disk holds now, written out by its device, is in a snapshot; return its name."""
        if self.volume and self.here.volumes.devices.find(self.volume) is not None:
            self.here.volumes.devices.flush(self.volume)
        name = self.store.snapshot_name(self.dataset.name, purpose)
        self.store.zfs.snapshot([name])
        return name

    def save(self, image: str) -> dict[str, Any]:
        """An image holds what the disk holds at this moment, which for a running instance is what a power cut would leave."""
        check_image(image)
        with self.alone():
            os.stat(self.path)
            snapshot = self.snapshot(SAVED)
        try:
            return self.here.images.save(image, snapshot, self.file, f"{self.title} in {self.store.cluster}").as_json()
        finally:
            self.store.zfs.destroy_snapshots([snapshot])

    def format(self, does: Callable[[str], None]) -> None:
        """The disk, which nobody uses, holds something else; what it held is in a snapshot for as long as the trash keeps things.

        That is made in a file beside it, so that the disk is as it was when it cannot be.
        """
        with self.alone():
            path = self.path
            if self.volume:
                self.here.volumes.detach(self.volume)
            self._must_be_unused(path)
            new, kept = f"{path}.new", self.snapshot(REMOVED)
            try:
                make_empty(new, os.stat(path).st_size)
                does(new)
                self._must_be_unused(path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new)
                self.store.zfs.destroy_snapshots([kept])
                raise
            place(new, path)

    def _must_be_unused(self, path: str) -> None:
        users = [*holding([path]), *self.here.volumes.devices.backed_by(path)]
        if users:
            raise Busy(self.title, f"is in use by {users[0]}", f"gnt-instance stop {self.instance}")

    def make_swap(self) -> None:
        self.format(lambda path: make_swap(path, None))

    def fill(self, directory: str) -> None:
        """The disk is a filesystem with the content of a directory of this node, given by its whole path: only root can ask this."""
        if not os.path.isabs(directory) or not os.path.isdir(directory):
            raise Missing(f"directory {directory} on this node")

        def does(path: str) -> None:
            asked = check_directory_fits(directory, size := os.stat(path).st_size, size)
            self.store.check_spare(self.title, asked)  # what the disk held stays, in a snapshot
            make_filesystem(path, directory)

        self.format(does)


def make_empty(path: str, size: int) -> None:
    """There is a new file of that size at the path, all of it a hole; what one that was killed has left there is gone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
