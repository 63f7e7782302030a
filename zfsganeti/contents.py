"""What a new disk holds, and the parameters of `-t ext` disks that ask for it: nothing, an image, swap, a filesystem with files.

A disk with content is marked until that is whole, so that what a create that was killed has left is known from a disk in use.
"""

from __future__ import annotations

import os
import stat

from zfsganeti.config import compression, recordsize
from zfsganeti.datasets import DETACH, IMAGE, INTENT, RESERVED
from zfsganeti.errors import BadInput, BadName, Missing, Refused, human, of_command
from zfsganeti.files import data_ranges
from zfsganeti.names import check_image, means
from zfsganeti.process import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from zfsganeti.image import Image
    from zfsganeti.images import Images
    from zfsganeti.volumes import Volumes
    from zfsganeti.zfs import Dataset

CREATE = "create"  # the intent of a disk that is being made
MIB = 1 << 20
FILL_LIMIT = 1 << 30  # bytes: Ganeti waits 900 s for a disk
FORMAT_SECONDS = 600
EXT4_BLOCK = 1024  # the smallest that mke2fs(8) chooses
INODES_SHARE = 64  # of a disk one part at least is ext4's own: 256 bytes for every 16 KiB
SWAP_LEAST = 40 << 10  # ten pages, for mkswap(8); what is less than one page it takes for all that there is
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(text: str) -> int:
    """Return a number of bytes written as 512M or 4G."""
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS or not number.isascii() or not number.isdigit() or len(number) > 9 or not int(number):
        raise ValueError(f"{text!r} is no size such as 512M or 4G")
    return int(number) * UNITS[unit]


def _swap(text: str) -> int | bool:
    if text in ("yes", "no"):
        return text == "yes"
    asked = size(text)
    if asked < SWAP_LEAST:
        raise ValueError(f"{text!r} is too little, {human(SWAP_LEAST)} is the least")
    return asked


def _switch(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{text!r} is neither yes nor no")
    return text == "yes"


def _token(text: str) -> str:
    entry, at, secret = text.partition("@")
    if not at or not entry or not secret or "/" in entry:
        raise ValueError("is given by gnt-zfs trash restore alone")
    return text


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def _word(text: str) -> str:
    if not text.isascii() or not text.isalnum():
        raise ValueError(f"{text!r} is not the name of a datastore")
    return text


def _below(text: str) -> str:
    if not text or text.startswith("/") or ".." in text.split("/") or not text.isprintable():
        raise ValueError(f"{text!r} is not the name of a directory below one of fill_directories")
    return text


PARAMETERS: dict[str, tuple[Callable[[str], object], str]] = {
    "recordsize": (recordsize, "size of ZFS's records for this disk: a power of two from 512 to 1M (default: the root's)"),
    "compression": (compression, "compression of this disk: off, on, lz4, zstd or zle (default: the root's)"),
    "reserve": (_switch, "yes sets aside the whole size at once, so that writing to the disk never lacks space (default: no)"),
    "datastore": (_word, "which of the node's datastores holds the disk (default: the root)"),
    "image": (check_image, "golden image that the disk begins as, NAME or NAME:VERSION; without a version the newest"),
    "use": (  # mode is Ganeti's own: read-only or not
        _choice("clone", "copy", "persistent"),
        "how the image is used: clone is instant and shares its blocks, copy makes the disk independent of it in the background, "
        "persistent is the image itself, for one instance alone (default: clone)",
    ),
    "swap": (_swap, "formats the disk as swap: a size such as 4G, or yes for all of it"),
    "fill": (_below, "directory below one of fill_directories in the node's configuration whose content an ext4 filesystem is filled with"),
    "trash": (_token, "used by gnt-zfs trash restore: takes a removed disk back instead of making an empty one"),
}


def parse_parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the disk's parameters as values; BadInput lists the good ones when one is unknown or bad."""
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in PARAMETERS:
            raise BadInput(f"disk parameter {name}: there are {', '.join(PARAMETERS)}")
        try:
            values[name] = PARAMETERS[name][0](text)
        except (ValueError, BadName) as error:
            raise BadInput(f"disk parameter {name}: {error}") from error
    contents = [name for name in ("image", "swap", "fill") if values.get(name)]  # trash outranks them: the disk is there
    if len(contents) > 1:
        raise BadInput(f"disk parameters {' and '.join(contents)}: only one of them says what the disk holds")
    if "use" in values and "image" not in values:
        raise BadInput("disk parameter use: says how an image is used, and image is not given")
    return values


def parameters_list() -> str:
    """Return the provider's parameters.list: a name and a description on each line."""
    return "".join(f"{name} {text}\n" for name, (_parse, text) in PARAMETERS.items())


def dataset_properties(parameters: Mapping[str, Any], size: int) -> dict[str, object]:
    """Return the properties of a volume's dataset that its parameters ask for."""
    properties: dict[str, object] = {name: parameters[name] for name in ("recordsize", "compression") if name in parameters}
    if parameters.get("reserve"):
        properties[RESERVED] = reservation(size)
    return properties


def reservation(size: int) -> int:
    """Return what a disk of so many bytes can come to occupy: its blocks, and 2% for what ZFS needs to find them."""
    return size + size // 50 + MIB


class Content:
    """What a new volume is to hold, and how that comes to be."""

    def __init__(self, volumes: Volumes, parameters: Mapping[str, Any]) -> None:
        self.volumes, self.store, self.zfs, self.parameters = volumes, volumes.store, volumes.zfs, parameters
        self.use = parameters.get("use", "clone") if "image" in parameters else ""
        self.outlives = self.use == "persistent"  # what was there before the volume and stays after it
        self.formatted = False  # once begun: what is in the disk's file tells no longer that nobody ever had it
        self.image: Image | None = None
        self.former: Mapping[str, str] = {}  # of what is set on an image that is lent, what was set on it before
        self.length = 0  # of the disk before it got its size, in bytes
        self.directory = ""

    def _images(self) -> Images:
        from zfsganeti.images import Images

        return Images(self.store)

    def check(self, size: int) -> None:
        """What is asked for is here and fits on a disk of `size` bytes."""
        swap = self.parameters.get("swap") or 0
        if swap is not True and swap > size:
            raise BadInput(f"disk parameter swap: {human(swap)} do not fit on a disk of {human(size)}")
        if "fill" in self.parameters:
            self.directory = find_directory(self.store.config.fill_directories, self.parameters["fill"])
            check_directory_fits(self.directory, size)
        if "image" in self.parameters:
            self.image = self._images().resolve(self.parameters["image"])
            self._images().check_fits(self.image, size)
            if self.use == "persistent":
                self._images().check_lendable(self.image)

    def is_begun(self, dataset: Dataset) -> bool:
        """Tell whether a volume is the image that a create that was killed has taken for itself."""
        return self.outlives and IMAGE in dataset.marks and means(self.parameters["image"], dataset.marks[IMAGE])

    def begin(self, volume: str, size: int) -> None:
        """The volume's dataset exists, marked as one that is being made unless it needs no more than its size."""
        name, marks = self.volumes.name(volume), self.volumes.marks(volume)
        properties = dataset_properties(self.parameters, size)
        if self.image is None:
            self.formatted = bool(self.parameters.get("swap") or self.directory)
            unfinished = {INTENT: f"{CREATE} {self.store.now():.0f}"} if self.formatted else {}
            self.zfs.create(name, properties, {**marks, **unfinished})
        elif self.use == "persistent":
            before = self.zfs.local(self.image.dataset) if properties else {}
            self.former = {key: before.get(key, "") for key in properties}
            self._images().lend(self.image, name, marks)
        else:
            wanted = {DETACH: f"{self.store.now():.0f}"} if self.use == "copy" else {}
            self._images().clone(self.image, name, {**marks, **wanted}, properties)

    def open_up(self, volume: str, size: int) -> None:
        """The volume's dataset can be written to, also one that was an image a moment ago."""
        if self.outlives:
            self._images().open_up(self.volumes.name(volume), dataset_properties(self.parameters, size))

    def return_image(self, volume: str) -> None:
        """The image that was lent is in the catalogue again, as it was: no device of it was ever handed out, so nobody wrote to it."""
        dataset = self.volumes.find(volume)
        if dataset is None:
            return
        home = self.volumes.home(volume)
        if self.zfs.mounted_at(home) == dataset.name:
            if 0 < self.length < self.volumes.size(volume):
                os.truncate(self.volumes.disk(volume), self.length)
            self.zfs.unmount(home, seconds=self.store.config.busy_seconds)
        self._images().return_unused(dataset, self.former)

    def fill(self, volume: str) -> None:
        """The disk, which has its size, holds what it is to hold."""
        disk = self.volumes.disk(volume)
        if swap := self.parameters.get("swap"):
            make_swap(disk, None if swap is True else int(swap))
        elif self.directory:
            make_filesystem(disk, self.directory)

    def end(self, volume: str) -> None:
        """The volume, whose device is there, is one that may be in use: until now a create that is repeated makes it anew."""
        if self.formatted:
            self.zfs.clear(self.volumes.name(volume), [INTENT])


def _format(*command: str) -> None:
    done = query(command, seconds=FORMAT_SECONDS)
    if done.status != 0:
        raise of_command(command[0], done.status, done.stderr or done.stdout)


def make_swap(disk: str, size: int | None) -> None:
    """The disk's file is swap, all of it or its first `size` bytes."""
    _format("mkswap", disk, *([] if size is None else [str(size >> 10)]))


def make_filesystem(disk: str, directory: str) -> None:
    """The disk's file is an ext4 filesystem with what is in a directory."""
    _format("mke2fs", "-q", "-F", "-t", "ext4", "-d", directory, disk)


def find_directory(allowed: Iterable[str], name: str) -> str:
    """Return the directory of that name below one of those that the administrator listed; links that lead out of it do not count."""
    for directory in allowed:
        base = os.path.realpath(directory)
        found = os.path.realpath(f"{base}/{name}")
        if found.startswith(f"{base}/") and os.path.isdir(found):
            return found
    listed = ", ".join(allowed)
    way_out = f"fill_directories of this node lists {listed}" if listed else "fill_directories of this node's configuration is empty"
    raise Missing(f"directory {name} to fill a disk with", way_out)


def check_directory_fits(directory: str, size: int, limit: int = FILL_LIMIT) -> int:
    """What is in the directory can fit on a disk of `size` bytes, and `limit` is copied in the time that Ganeti gives; return its bytes."""
    total, most = directory_size(directory), min(size - size // INODES_SHARE, limit)
    if total > most:
        why = f"holds {human(total)}, a disk of {human(size)} takes {human(most)} at most"
        raise Refused(directory, why, "gnt-zfs disk fill takes more" if size - size // INODES_SHARE > total else "")
    return total


def directory_size(directory: str) -> int:
    """Return the bytes of data in a directory's files, as ext4 keeps them: in whole blocks, and once for all names of a file."""
    total, seen = 0, set()
    for path, directories, files in os.walk(directory):
        for name in (*directories, *files):
            found = os.lstat(f"{path}/{name}")
            if (found.st_dev, found.st_ino) not in seen:
                total += -(-_data(f"{path}/{name}", found) // EXT4_BLOCK) * EXT4_BLOCK
            if found.st_nlink > 1:
                seen.add((found.st_dev, found.st_ino))
    return total


def _data(path: str, found: os.stat_result) -> int:
    """Return how much of a file is no hole: what it occupies may be less, where it is compressed, or more."""
    if not stat.S_ISREG(found.st_mode) or found.st_blocks * 512 >= found.st_size:
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return sum(end - start for start, end in data_ranges(descriptor, found.st_size))
    finally:
        os.close(descriptor)
