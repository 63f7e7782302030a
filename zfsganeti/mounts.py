"""What the kernel says is mounted of ZFS, and the processes that keep it so."""

from __future__ import annotations

import os

from zfsganeti.process import describe, open_files, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ZFS_SUPER_MAGIC = 0x2FC12FC1  # f_type of statfs(2)


class Mount:
    """One line of mountinfo that is of ZFS."""

    def __init__(self, dataset: str, path: str, whole: bool) -> None:
        self.dataset, self.path, self.whole = dataset, path, whole


def parse_mounts(text: str) -> list[Mount]:
    """Return the ZFS mounts of a mountinfo file, later ones on top of earlier ones."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if "-" not in fields[6:]:
            continue
        rest = fields[fields.index("-", 6) + 1 :]
        if len(rest) >= 2 and rest[0] == "zfs":
            found.append(Mount(_unescape(rest[1]), _unescape(fields[4]), fields[3] == "/"))
    return found


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    import re

    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def mounting_processes(name: str) -> Iterator[str]:
    """One process for each mount namespace that has the filesystem mounted; our own namespace first, which says most."""
    own = os.readlink("/proc/self/ns/mnt")
    seen = set()
    for pid in sorted(processes(), key=lambda pid: pid != str(os.getpid())):
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                paths = [mount.path for mount in parse_mounts(file.read()) if mount.dataset == name]
        except OSError:
            continue
        if paths:
            yield f"the mount at {paths[0]}" + ("" if namespace == own else f" in the namespace of {describe(pid)}")


def holding_processes(name: str, mounts: list[Mount]) -> Iterator[str]:
    """Processes that hold a file of the filesystem open, also one that was unmounted lazily (its device is mounted nowhere)."""
    visible = {mount.path: mount.dataset for mount in mounts if mount.whole}
    devices: dict[int, str] = {}
    for path, dataset in visible.items():
        try:
            devices[os.stat(path).st_dev] = dataset
        except OSError:
            continue
    for pid in processes():
        for link, status in open_files(pid):
            if devices.get(status.st_dev) == name or (status.st_dev not in devices and _is_detached_zfs(link, pid, status.st_dev)):
                yield f"{describe(pid)} with {_target(link)}"
                break


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return "a file"


def _is_detached_zfs(link: str, pid: str, device: int) -> bool:
    """Tell whether an open file is on a ZFS that this process no longer sees mounted."""
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    if os.major(device) != 0 or ctypes.CDLL(None).statfs(os.fsencode(link), buffer) != 0:
        return False
    if int.from_bytes(buffer.raw[:8], "little") != ZFS_SUPER_MAGIC:
        return False
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return f"{os.major(device)}:{os.minor(device)}" not in {line.split(" ")[2] for line in file}
    except OSError:
        return False


def senders(snapshot: str) -> Iterator[str]:
    for pid in processes():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "send" in words and any(word == snapshot or word.endswith("@" + snapshot.split("@")[1]) for word in words):
            yield describe(pid)
