"""LVM as Ganeti uses it: volumes and the room in their group, snapshots of ours, and which chunks changed since one was taken.

A thick snapshot keeps what its origin held by copying each chunk before it is first overwritten, and keeps a table of them on
its own volume. Read from there, the chunks that changed since the snapshot are known without looking at the disk. The table's
form is that of the kernel's persistent exception store: a header in chunk 0, then areas, each one chunk of pairs (chunk of the
origin, chunk of this volume) and the data chunks that those name; the pair after the last one names chunk 0.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from dataclasses import dataclass

from zfsganeti.errors import BadInput, CommandFailed, Missing, Refused, Unavailable, ZfsGanetiError
from zfsganeti.process import describe, open_files, processes, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

OURS = "zfsganeti-"  # how our snapshots' names begin
TAG = "zfsganeti"
CHUNK = 64 << 10  # bytes: small enough to copy little for small writes, large enough for a short table
SECONDS = 120
NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")
FIELDS = "vg_name,lv_name,lv_uuid,lv_size,lv_attr,lv_tags,origin,snap_percent"
# the kernel's dm-snap-persistent
MAGIC, VERSION, HEADER, ENTRY = 0x70416E53, 1, struct.Struct("<IIII"), struct.Struct("<QQ")
DRBD_LINE = re.compile(r" *(\d+): cs:\S+ ro:\S+ ds:([A-Za-z]+)/")
SECTOR = 512
BLKFLSBUF = 0x1261  # linux/fs.h


class NoTable(ZfsGanetiError):
    """A snapshot's table of changes cannot be used; nothing is wrong with the disk."""


@dataclass(frozen=True)
class Logical:
    """A logical volume; sizes are bytes, that of a snapshot its room for changes, `origin` is the name of what it is a snapshot of."""

    vg: str
    name: str
    uuid: str
    size: int
    attributes: str
    tags: tuple[str, ...] = ()
    origin: str = ""
    percent: float = 0.0

    @property
    def path(self) -> str:
        return f"/dev/{self.vg}/{self.name}"

    @property
    def active(self) -> bool:
        return self.attributes[4:5] in ("a", "I")

    @property
    def valid(self) -> bool:
        """Whether a snapshot still holds what it was taken of: it does not once it has overflowed."""
        return self.attributes[4:5] == "a" and self.percent < 100

    @property
    def ours(self) -> bool:
        return bool(self.origin) and self.name.startswith(OURS) and TAG in self.tags

    @property
    def number(self) -> int:
        """Which of our snapshots of its origin this one is."""
        word = self.name.removeprefix(OURS).partition("-")[0]
        return int(word) if word.isascii() and word.isdigit() else 0


def check(name: str) -> str:
    """Return a name that can be a volume's or a group's."""
    if not NAME.fullmatch(name) or len(name) > 126 or name in (".", ".."):
        raise BadInput(f"logical volume name {name[:80]!r}: is not one")
    return name


def _lvm(*command: str) -> str:
    done = query(command, seconds=SECONDS)
    if done.status != 0:
        raise CommandFailed(command[0], done.status, done.stderr or done.stdout)
    return done.stdout


def _report(text: str, kind: str) -> list[Mapping[str, Any]]:
    import json

    try:
        return [row for part in json.loads(text)["report"] for row in part[kind]]
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("lvm", f"its report is not understood: {error}") from error


def parse(text: str) -> list[Logical]:
    """Return the volumes of what lvs(8) prints as JSON."""
    return [
        Logical(
            row["vg_name"],
            row["lv_name"],
            row["lv_uuid"],
            int(row["lv_size"]),
            row["lv_attr"],
            tuple(filter(None, row["lv_tags"].split(","))),
            row["origin"],
            float(row["snap_percent"] or 0),
        )
        for row in _report(text, "lv")
    ]


def volumes(vg: str = "") -> list[Logical]:
    """Return the volumes of a group, or of all; none where LVM is not installed."""
    selected = [check(vg)] if vg else []
    try:
        return parse(_lvm("lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", FIELDS, *selected))
    except Unavailable as error:
        if "not installed" in error.why and not vg:
            return []
        raise


def find(vg: str, name: str) -> Logical:
    for volume in volumes(vg):
        if volume.name == name:
            return volume
    raise Missing(f"logical volume {vg}/{name}")


def free(vg: str) -> int:
    """Return how many bytes of a group no volume has."""
    text = _lvm("vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "vg_free", check(vg))
    return int(_report(text, "vg")[0]["vg_free"])


def users(volume: Logical, *, below: bool = False) -> list[str]:
    """Return who has a volume open: processes, mounts, devices upon it; one `below` drbd may be held by that, one not active by nobody."""
    if not os.path.exists(volume.path):
        return []
    number = os.stat(volume.path).st_rdev
    found = [describe(pid) for pid in processes() if any(status.st_rdev == number for _link, status in open_files(pid))]
    return found or claims(number) or ([] if below or _is_free(volume.path) else ["the kernel, perhaps as swap"])


def claims(number: int, system: str = "/sys", mounts: str = "/proc/self/mountinfo") -> list[str]:
    """Return what the kernel itself does with a device, of which no process knows: mounts, partitions mapped of it, loop devices."""
    if not number:
        return []
    own = f"{os.major(number)}:{os.minor(number)}"
    found = []
    for line in _read(mounts).splitlines():
        words, source = line.split(" "), line.rpartition(" - ")[2].split(" ")[1:2]
        if words[2:3] == [own] or (source and device(source[0]) == number):
            found.append(f"the mount at {words[4]}")
    for holder in _names(f"{system}/dev/block/{own}/holders"):
        if not holder.startswith("drbd"):
            mapped = _read(f"{system}/block/{holder}/dm/name").strip()
            found.append(f"/dev/mapper/{mapped}" if mapped else f"/dev/{holder}")
    for block in _names(f"{system}/block"):
        if block.startswith("loop") and device(_read(f"{system}/block/{block}/loop/backing_file").strip()) == number:
            found.append(f"/dev/{block}")
    return found


def _is_free(path: str) -> bool:
    """Tell whether nothing in the kernel has a device to itself."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def drbd_states(path: str = "/proc/drbd") -> dict[int, str]:
    """Return the state of this node's half of each drbd device in use, by its minor: UpToDate, or anything worse."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            found = [DRBD_LINE.match(line) for line in file]
    except FileNotFoundError:
        return {}
    return {int(match[1]): match[2] for match in found if match}


def device(path: str) -> int:
    """Return which device a path is, 0 for none."""
    try:
        return os.stat(path).st_rdev if path.startswith("/") else 0
    except OSError:
        return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def writes(volume: Logical, system: str = "/sys", boot: str = "/proc/sys/kernel/random/boot_id") -> str:
    """Return what is another text once more has been written to a volume, as far as that has left memory; '' when nobody counts."""
    number = os.stat(volume.path).st_rdev
    own = f"{system}/dev/block/{os.major(number)}:{os.minor(number)}"
    counted = _read(f"{own}/stat").split()
    if len(counted) < 7 or _read(f"{own}/queue/iostats").strip() != "1":
        return ""
    return " ".join((_read(boot).strip(), volume.uuid, *counted[6:7], *counted[13:14]))  # sectors written, sectors discarded


def snapshot_name(name: str, number: int) -> str:
    return check(f"{OURS}{number}-{name}")


def take(vg: str, name: str, number: int, size: int) -> None:
    """The volume has a read-only snapshot of ours with room for `size` bytes of changes."""
    where = f"{check(vg)}/{check(name)}"
    new = snapshot_name(name, number)
    options = ("--chunksize", f"{CHUNK}b", "--size", f"{size}b", "--permission", "r", "--addtag", TAG, "--yes")
    _lvm("lvcreate", "--snapshot", *options, "--name", new, where)


def drop(snapshot: Logical) -> None:
    """The snapshot, which is one of ours, is gone."""
    if not snapshot.ours:
        raise Refused(f"logical volume {snapshot.vg}/{snapshot.name}", "is not a snapshot that zfsganeti took")
    _lvm("lvremove", "--yes", f"{check(snapshot.vg)}/{check(snapshot.name)}")


# what has changed


def changed(read: Callable[[int, int], bytes], size: int) -> tuple[int, set[int]]:
    """Return the size of a chunk in bytes, and which chunks of the origin of `size` bytes have changed.

    `read` returns that many bytes from that offset of the snapshot's own volume. NoTable when what is there is no such table,
    or one of a snapshot that has overflowed.
    """
    magic, valid, version, sectors = HEADER.unpack(_must(read, 0, HEADER.size))
    if magic != MAGIC or version != VERSION:
        raise NoTable("the snapshot's volume bears no table of changes that is known")
    if valid != 1:
        raise NoTable("the snapshot has overflowed")
    chunk = sectors * SECTOR
    if not 4096 <= chunk <= 1 << 20 or chunk & (chunk - 1):
        raise NoTable(f"the snapshot's chunks of {chunk} bytes make no sense")
    entries, found = chunk // ENTRY.size, set[int]()
    last = -(-size // chunk)
    for area in range(2 + last // entries):
        for old, new in ENTRY.iter_unpack(_must(read, (1 + area * (entries + 1)) * chunk, chunk)):
            if new == 0:
                return chunk, found
            if old >= last or new % (entries + 1) == 1:  # where an area begins there is no data
                raise NoTable(f"the table of changes names chunk {old} of {last}, kept in chunk {new}")
            found.add(old)
    raise NoTable("the table of changes has no end")


def _must(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    data = read(offset, length)
    if len(data) != length:
        raise NoTable("the table of changes ends too early")
    return data


def changed_since(snapshot: Logical, size: int) -> tuple[int, set[int]]:
    """Return what has changed of an origin of `size` bytes since its snapshot; NoTable when that is not known."""
    try:
        descriptor = open_device(_mapped(f"{snapshot.vg}/{snapshot.name}", f"{_escape(snapshot.vg)}-{_escape(snapshot.name)}-cow"))
    except OSError as error:
        raise NoTable(f"the snapshot's table cannot be read: {os.strerror(error.errno or 0)}") from error
    try:
        return changed(lambda offset, length: os.pread(descriptor, length, offset), size)
    except OSError as error:
        raise NoTable(f"the snapshot's table cannot be read: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(descriptor)


def open_device(path: str) -> int:
    """Return an open block device, or file, of which nothing is in memory that the disk does not hold."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, BLKFLSBUF)  # the kernel writes the table past what is kept in memory of its device
    except OSError:
        pass  # a file
    return descriptor


def _escape(name: str) -> str:
    """Return a name as the device mapper has it, where a single hyphen parts group and volume."""
    return name.replace("-", "--")


def _mapped(what: str, name: str, blocks: str = "/sys/block") -> str:
    """Return the device of a mapping, which need not have a name in /dev."""
    for block in os.listdir(blocks):
        try:
            with open(f"{blocks}/{block}/dm/name", encoding="utf-8") as file:
                if file.read().strip() == name:
                    return f"/dev/{block}"
        except OSError:
            continue
    raise NoTable(f"{what}: the volume with its table of changes is not active")
