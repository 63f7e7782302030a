"""How an image gets onto an instance's first disk.

The add hook of a `-t file` instance makes its dataset a clone of the image; there the clone's disk takes the place of the empty
one that Ganeti has made beside it. Everywhere else the image is copied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct

from zfsganeti.datasets import DISK, IMAGE, IMAGES, NEVER_CHANGED
from zfsganeti.errors import BadInput, Busy, Foreign, Missing, Refused, Unavailable, human
from zfsganeti.files import data_ranges, sync
from zfsganeti.image import GOLDEN, Image
from zfsganeti.images import Images
from zfsganeti.names import check_image, means
from zfsganeti.zfs import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from zfsganeti.datasets import Store
    from zfsganeti.volumes import Volumes

BLOCK = 1 << 20
SECTOR = 512
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F


class Installer:
    """What the OS definition does on one node."""

    def __init__(self, store: Store, volumes: Volumes | None = None, others: Images | None = None) -> None:
        """`others` are the images of the node's first root, for a disk in another datastore that has not the one that is wanted."""
        self.store, self.zfs, self.images, self._volumes, self.others = store, store.zfs, Images(store), volumes, others

    def install(self, instance: str, wanted: str, disk: str, *, again: bool) -> str:
        """The disk holds the image, all of it or as it was before; return the line that says how that came to be.

        `again` is a reinstallation, before which a hook has kept what the disk held.
        """
        check_image(wanted)
        made = os.stat(disk)
        if stat.S_ISREG(made.st_mode):
            return self._install_file(instance, wanted, disk, made.st_size)
        if stat.S_ISBLK(made.st_mode):
            return self._install_device(instance, wanted, disk, again=again)
        raise BadInput(f"disk {disk}: is neither a file nor a block device")

    def _resolve(self, wanted: str) -> tuple[Images, Image]:
        """Return the image that is wanted, from the disk's own datastore or else from the first root, with the catalogue it is in."""
        if self.others is None:
            return self.images, self.images.resolve(wanted)
        try:
            return self.images, self.images.resolve(wanted, pull=False)
        except Missing:
            return self.others, self.others.resolve(wanted)
        except (Refused, Busy):  # it is retired there, or lent to another
            with contextlib.suppress(Missing):
                return self.others, self.others.resolve(wanted, pull=False)
            raise

    def drop_unused(self, instance: str) -> None:
        """An instance that has disks has no clone's disk beside them: it was added with --no-install after all.

        Its dataset remains a clone, and the image waits for it to go: this happens only where the master could not be asked.
        """
        home, dataset = self.store.home(instance), self._dataset(instance)
        if dataset is None or not self._origin(dataset) or self.zfs.mounted_at(home) != dataset.name:
            return
        if self.store.contents(dataset, home):  # else it waits for them: the instance is forthcoming
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{home}/{DISK}")

    # disks that are files

    def _install_file(self, instance: str, wanted: str, disk: str, size: int) -> str:
        dataset = self._dataset(instance)
        at_home = dataset is not None and os.path.dirname(disk) == self.store.home(instance)
        clone = self._clone_beside(dataset, wanted, disk) if dataset is not None and at_home else None
        images, image = (self.images, clone) if clone is not None else self._resolve(wanted)
        self.images.check_fits(image, size)
        if clone is None and disk.startswith(f"{self.store.root.path}/"):
            self.store.check_space(instance, image.referenced)
        if clone is not None:
            place(f"{os.path.dirname(disk)}/{DISK}", disk)
            return f"disk 0 of {instance} is a clone of image {image.name}"
        with self._copied(images, image, f"{disk}.new") as (copy, how):
            place(copy, disk)
        if at_home:
            self.drop_unused(instance)
        return f"disk 0 of {instance} is a copy of image {image.name} ({how})"

    def _dataset(self, instance: str) -> Dataset | None:
        try:
            return self.store.find(instance)
        except Foreign:
            return None  # made by hand: its files are used, nothing of it is changed

    def _origin(self, dataset: Dataset) -> str:
        """Return the name of the image that a dataset is a clone of, '' for any other."""
        below, _slash, snapshot = dataset.origin.rpartition("/")
        return snapshot.partition("@")[0] if below == f"{self.store.root.name}/{IMAGES}" else ""

    def _is_clone(self, dataset: Dataset, wanted: str) -> bool:
        name = self._origin(dataset)
        return bool(name) and means(wanted, name)

    def _clone_beside(self, dataset: Dataset, wanted: str, disk: str) -> Image | None:
        """Return the image whose disk waits beside an instance's to take its place, None when that is not the wanted one."""
        home = os.path.dirname(disk)
        if not self._is_clone(dataset, wanted) or self.zfs.mounted_at(home) != dataset.name or not os.path.isfile(f"{home}/{DISK}"):
            return None
        return self.images.find(self._origin(dataset))

    @contextlib.contextmanager
    def _copied(self, images: Images, image: Image, path: str) -> Iterator[tuple[str, str]]:
        """Yield a path at which the image's disk has been copied, and how; nothing is left there afterwards."""
        try:
            with images.open(image) as reader:
                writer = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                try:
                    os.ftruncate(writer, os.fstat(reader).st_size)
                    how = copy_data(reader, writer, share=can_share(self.zfs.version()))
                    os.fsync(writer)
                finally:
                    os.close(writer)
            yield path, how
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    # disks that are block devices

    def _install_device(self, instance: str, wanted: str, disk: str, *, again: bool) -> str:
        volume = self._volume(disk)
        if volume is not None and IMAGE in volume.marks:
            return self._installed_already(instance, wanted, volume.marks[IMAGE], again=again)
        if volume is not None and not again and volume.written <= NEVER_CHANGED and self._is_clone(volume, wanted):
            return f"disk 0 of {instance} is a clone of image {self._origin(volume)} already"
        images, image = self._resolve(wanted)
        with opened_alone(disk) as writer:
            size = os.lseek(writer, 0, os.SEEK_END)
            self.images.check_fits(image, size)
            with images.open(image) as reader:
                held = os.fstat(reader).st_size
                clear(reader, writer, held, size)
                how = copy_data(reader, writer)
            os.fsync(writer)
        return f"disk 0 of {instance} is a copy of image {image.name} ({how})"

    @staticmethod
    def _installed_already(instance: str, wanted: str, held: str, *, again: bool) -> str:
        """The disk is the image itself, which instances after this one are to have: nothing is copied over it."""
        if means(wanted, held) and not again:
            return f"disk 0 of {instance} is image {held} itself already"
        way_out = f"gnt-zfs snapshot rollback {instance} {GOLDEN} takes it back to what it was lent with"
        raise Refused(f"disk 0 of {instance}", f"is image {held} itself, which nothing is installed over", way_out)

    def _volume(self, disk: str) -> Dataset | None:
        """Return the dataset of the volume whose device this is, None for a device of another storage."""
        from zfsganeti import loop

        if self._volumes is None or os.path.dirname(disk) != loop.LINKS:
            return None
        return self._volumes.find(os.path.basename(disk))


def place(new: str, disk: str) -> None:
    """The file `new` is the disk, of the size, owner and mode that the disk had; until then the disk is as it was."""
    made = os.stat(disk)
    os.truncate(new, max(made.st_size, os.stat(new).st_size))
    os.chmod(new, stat.S_IMODE(made.st_mode))
    os.chown(new, made.st_uid, made.st_gid)
    sync(new)
    os.rename(new, disk)
    sync(os.path.dirname(disk))


def can_share(version: tuple[int, ...]) -> bool:
    """Tell whether a copy may share blocks with what it is a copy of: earlier versions of ZFS lose data by that."""
    return (2, 3, 9) <= version < (2, 4) or version >= (2, 4, 4)


def copy_data(reader: int, writer: int, *, share: bool = False) -> str:
    """What of a file is no hole is in another file or on a device, at the same place; return how it came there."""
    handed = copied = 0
    for start, end in data_ranges(reader, os.fstat(reader).st_size):
        offset = start
        while offset < end:
            done = _shared(reader, writer, offset, end - offset) if share else 0
            share = share and done > 0
            handed += done
            if not done:
                done = _write(writer, os.pread(reader, min(BLOCK, end - offset), offset), offset)
                copied += done
            offset += done
    return _how(handed, copied)


def _how(handed: int, copied: int) -> str:
    """Return what is known of how so many bytes were copied: of what the kernel was handed nobody says how much it has shared."""
    said = [f"{human(handed)} by ZFS, which shares blocks where it can"] if handed else []
    return "; ".join([*said, f"{human(copied)} were copied"] if copied or not handed else said)


def _shared(reader: int, writer: int, offset: int, length: int) -> int:
    """Return how many bytes the kernel has copied, which may be without copying: 0 when it cannot."""
    try:
        return os.copy_file_range(reader, writer, length, offset, offset)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            return 0
        raise


def _write(descriptor: int, data: bytes, offset: int) -> int:
    """Write all of the data and return its length, which is never 0."""
    if not data:
        raise Unavailable("what is copied", "became shorter meanwhile")
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)
    return written


def clear(reader: int, writer: int, held: int, size: int) -> None:
    """On a device, where the file that is to be copied has holes there are zeros, and what is behind its end is discarded if it can be."""
    end = 0
    for start, stop in data_ranges(reader, held):
        _zero(writer, end, start)
        end = stop
    _zero(writer, end, held)
    behind = -(-held // SECTOR) * SECTOR
    if behind < size:
        with contextlib.suppress(OSError):
            fcntl.ioctl(writer, BLKDISCARD, struct.pack("QQ", behind, size - behind))


def _zero(writer: int, start: int, end: int) -> None:
    """Whole sectors from before `start` until behind `end` are zeros; what belongs there is written afterwards."""
    first, last = start // SECTOR * SECTOR, -(-end // SECTOR) * SECTOR
    if start < end:
        fcntl.ioctl(writer, BLKZEROOUT, struct.pack("QQ", first, last - first))


@contextlib.contextmanager
def opened_alone(device: str) -> Iterator[int]:
    """Yield the device, opened for writing; one that is mounted or part of another device is Busy."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Busy(f"disk {device}", "is in use on this node", "stop what has it mounted") from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# backups


def dump(disk: str, sink: BinaryIO) -> None:
    """The sink has got every byte of the disk."""
    with open(disk, "rb") as reader:
        while block := reader.read(BLOCK):
            sink.write(block)
    sink.flush()


def load(source: BinaryIO, disk: str) -> None:
    """The disk holds what a dump holds; what is zero in both is not written. A dump that is larger than the disk is refused."""
    descriptor = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
    try:
        size, offset = os.lseek(descriptor, 0, os.SEEK_END), 0
        while block := source.read(BLOCK):
            if offset + len(block) > size:
                raise BadInput(f"disk {disk}: has {human(size)}, and the dump is larger")
            if block.strip(b"\0") or os.pread(descriptor, len(block), offset).strip(b"\0"):
                _write(descriptor, block, offset)
            offset += len(block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
