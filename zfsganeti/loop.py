"""Loop devices by ioctl: a disk file as the block device that Ganeti demands.

The only room that knows linux/loop.h. A device is found again by the link that attaching leaves in LINKS, a directory of
/dev that is empty after a boot, and by what the kernel says it is backed by; the link alone is never believed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from zfsganeti.errors import Busy, Missing, Unavailable
from zfsganeti.process import describe, open_files, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LINKS = "/dev/zfsganeti"
CONTROL = "/dev/loop-control"
# linux/loop.h
LOOP_CLR_FD, LOOP_SET_STATUS64, LOOP_GET_STATUS64, LOOP_SET_CAPACITY, LOOP_CONFIGURE = 0x4C01, 0x4C04, 0x4C05, 0x4C07, 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
AUTOCLEAR = 4  # LO_FLAGS_AUTOCLEAR: the device goes when its last user closes it
INFO = 232  # sizeof(struct loop_info64)
CONFIG = 8 + INFO + 64  # sizeof(struct loop_config)
DEVICE, INODE, FLAGS, NAME = 0, 8, 52, 56  # offsets in struct loop_info64
NAME_LIMIT = 63  # LO_NAME_SIZE less the NUL
PROBED_SECONDS = 3  # udev opens every new device for a moment
TRIES = 64  # another process may take the free device first


def find(volume: str, links: str = LINKS) -> str | None:
    """Return the path of a volume's device, None when it has none; this neither forks nor imports anything."""
    link = f"{links}/{volume}"
    try:
        device = os.readlink(link)
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        path = backing_file(device)
        ours = os.path.basename(os.path.dirname(path)) == volume and _backs(descriptor, volume, path)
        return link if ours else None
    finally:
        os.close(descriptor)


def _backs(descriptor: int, volume: str, path: str) -> bool:
    """Tell whether an open loop device is, for good, the volume's and backed by the file that is found at the path now."""
    info = _status(descriptor)
    return info is not None and not _flags(info) & AUTOCLEAR and _is_of(descriptor, volume, path)


def _is_of(descriptor: int, volume: str, path: str) -> bool:
    info = _status(descriptor)
    if info is None or _name(info) != volume[:NAME_LIMIT]:
        return False
    try:
        disk = os.stat(path)
    except OSError:
        return False
    return _is_backed(info, disk)


def _is_backed(info: bytes, disk: os.stat_result) -> bool:
    # the kernel keeps a device number in its own encoding here, st_dev is what glibc makes of it
    return _number(info, INODE) == disk.st_ino and _decode(_number(info, DEVICE)) == disk.st_dev


def _name(info: bytes) -> str:
    return info[NAME : NAME + NAME_LIMIT + 1].partition(b"\0")[0].decode(errors="replace")


def _decode(device: int) -> int:
    """Return a device number as stat(2) gives it; huge_encode_dev of the kernel and glibc agree below 2^32."""
    return os.makedev((device >> 8) & 0xFFF, (device & 0xFF) | (device >> 12 & 0xFFF00))


def _number(info: bytes, offset: int) -> int:
    return int.from_bytes(info[offset : offset + 8], "little")


def _flags(info: bytes) -> int:
    return int.from_bytes(info[FLAGS : FLAGS + 4], "little")


def _status(descriptor: int) -> bytes | None:
    """Return struct loop_info64 of an open loop device, None when it is free."""
    buffer = bytearray(INFO)
    try:
        fcntl.ioctl(descriptor, LOOP_GET_STATUS64, buffer)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOTTY):
            return None
        raise
    return bytes(buffer)


def backing_file(device: str) -> str:
    """Return the path of what backs a loop device as the kernel has it, '' for a free one."""
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def bound() -> Iterator[tuple[str, str, str]]:
    """Yield (device, name that it was given, path of its file) of every loop device in use.

    The name outlasts the path: of a file on a filesystem that was unmounted lazily the kernel knows but the rest of the path.
    """
    return ((device, _name(info), path) for device, info, path in _in_use())


def _in_use() -> Iterator[tuple[str, bytes, str]]:
    """Yield (device, struct loop_info64, path of its file) of every loop device in use."""
    for block in sorted(os.listdir("/sys/block")):
        device = f"/dev/{block}"
        path = backing_file(device) if block.startswith("loop") else ""
        if not path:
            continue
        try:
            descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            info = _status(descriptor)
        finally:
            os.close(descriptor)
        if info is not None:
            yield device, info, path


def backed_by(path: str) -> list[str]:
    """Return the loop devices of a file, whatever it was called when they were attached."""
    disk = os.stat(path)
    return [device for device, info, _path in _in_use() if _is_backed(info, disk)]


def ours(directory: str, links: str = LINKS) -> Iterator[tuple[str, str]]:
    """Yield (device, volume) of every loop device of a file below the directory, or that one of our links leads to."""
    for device, name, path in bound():
        try:
            linked = os.readlink(f"{links}/{name}") == device
        except OSError:
            linked = False
        if linked:
            yield device, name
        elif path.startswith(f"{directory}/") and os.path.basename(path) == "disk.raw" and "/." not in path:
            yield device, os.path.basename(os.path.dirname(path))


def attach(volume: str, path: str, links: str = LINKS) -> str:
    """The disk file is a block device, at the returned path; one that is there already is used, also one on its way out."""
    there = find(volume, links)
    if there is not None:
        return there
    for device, name, _path in bound():
        if name == volume[:NAME_LIMIT] and _keep(device, volume, path):
            return _link(volume, device, links)
    disk = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return _link(volume, _configure(disk, volume), links)
    finally:
        os.close(disk)


def _keep(device: str, volume: str, path: str) -> bool:
    """A device that was to go with its last user stays; False, and nothing done, when it is gone or backed by another file."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)  # while it is open, its number goes to nobody else
    except OSError:
        return False
    try:
        if not _is_of(descriptor, volume, path):
            return False
        info = _status(descriptor) or b""
        if _flags(info) & AUTOCLEAR:
            changed = bytearray(info)
            changed[FLAGS : FLAGS + 4] = (_flags(info) & ~AUTOCLEAR).to_bytes(4, "little")
            fcntl.ioctl(descriptor, LOOP_SET_STATUS64, bytes(changed))
        return True
    finally:
        os.close(descriptor)


def _configure(disk: int, volume: str) -> str:
    """A free device is backed by the open file, buffered: ZFS 2.3 answers direct I/O that is not page-aligned with EINVAL."""
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(CONTROL, os.strerror(error.errno or 0), "modprobe loop") from error
    try:
        for _try in range(TRIES):
            device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            if _bind(device, disk, volume):
                return device
    finally:
        os.close(control)
    raise Unavailable("loop devices", "others take every free one first")


def _bind(device: str, disk: int, volume: str) -> bool:
    config = bytearray(CONFIG)
    config[0:4] = disk.to_bytes(4, "little")
    name = volume.encode()[:NAME_LIMIT]
    config[8 + NAME : 8 + NAME + len(name)] = name
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, LOOP_CONFIGURE, bytes(config))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise Unavailable(device, os.strerror(error.errno or 0)) from error
        return False
    finally:
        os.close(descriptor)
    return True


def _link(volume: str, device: str, links: str) -> str:
    os.makedirs(links, mode=0o755, exist_ok=True)
    link, new = f"{links}/{volume}", f"{links}/.{volume}.{os.getpid()}"
    os.symlink(device, new)
    os.replace(new, link)
    return link


def detach(volume: str, path: str, links: str = LINKS) -> None:
    """The volume is no device any more; Busy, with the device as it was, when somebody has it open."""
    for device, name, backing in bound():
        if backing == path or name == volume[:NAME_LIMIT]:
            _clear(device, volume, path, backing)
    try:
        os.unlink(f"{links}/{volume}")
    except FileNotFoundError:
        pass


def _clear(device: str, volume: str, path: str, backing: str) -> None:
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        if backing_file(device) != backing:
            return  # it went, and its number may be another's now; from here on it is pinned
        fcntl.ioctl(descriptor, LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise Unavailable(device, os.strerror(error.errno or 0)) from error
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + PROBED_SECONDS
    while backing_file(device) == backing and time.monotonic() < deadline:
        time.sleep(0.02)
    if backing_file(device) == backing:
        # the kernel would have let it go with its last user: it must not vanish under whoever that is
        _keep(device, volume, path)
        raise Busy(f"volume {volume}", f"{device} is in use by {', '.join(users(device)) or 'somebody'}")


def users(device: str) -> list[str]:
    """Return the processes that have a device open."""
    wanted = os.stat(device).st_rdev
    return [describe(pid) for pid in processes() if any(status.st_rdev == wanted for _link, status in open_files(pid))]


def grow(volume: str, links: str = LINKS) -> None:
    """The device is as large as its file has become; without a device there is nothing to do."""
    device = find(volume, links)
    if device is None:
        return
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, LOOP_SET_CAPACITY)
    finally:
        os.close(descriptor)


def flush(volume: str, links: str = LINKS) -> None:
    """What was written to the device is in its file."""
    device = find(volume, links)
    if device is None:
        raise Missing(f"the device of volume {volume}")
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
