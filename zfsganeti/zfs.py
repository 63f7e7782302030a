"""ZFS as this project uses it: the only room that knows libzfs_core, zfs(8), zpool(8) and mount(2).

libzfs_core creates, snapshots, renames and destroys, atomically and with errno; it cannot list or set, so zfs(8) does
that. It validates no property value (recordsize=12345 panics the pool), so only VALIDATORS' properties ever reach it.
All but promoting is called through `core`, for the import of Debian's binding takes longer than what it is imported for.
Names and values are str here and become bytes on the way down.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from zfsganeti import core, programs
from zfsganeti.errors import BadInput, Busy, CommandFailed, Foreign, Full, Missing, Refused, Unavailable, ZfsGanetiError
from zfsganeti.history import History
from zfsganeti.mounts import Mount, holding_processes, mounting_processes, parse_mounts, senders
from zfsganeti.names import check_dataset, check_snapshot
from zfsganeti.process import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

COMMAND_SECONDS = 60
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MNT_DETACH = 1, 2, 4, 8, 1024, 2
COMPRESSION = {"on": 1, "off": 2, "zle": 14, "lz4": 15, "zstd": 16}  # enum zio_compress, include/sys/zio_compress.h
SUSPENDED = "I/O is currently suspended"  # cmd/zfs and lib/libzfs say so of a pool whose devices are gone
NATIVE = ("mountpoint", "canmount", "used", "referenced", "available", "written", "creation", "guid", "origin")
SNAPSHOTS_PER_TXG = 100  # a program destroys in one txg and stalls it; more are destroyed before, in batches


def _whole(low: int, high: int) -> Any:
    def validate(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a number from {low} to {high}")
        return value

    return validate


def _power_of_two(value: object) -> int:
    if not isinstance(value, int) or not 512 <= value <= 1 << 20 or value & (value - 1):
        raise ValueError("must be a power of two from 512 to 1M")
    return value


def _choice(table: Mapping[str, int]) -> Any:
    def validate(value: object) -> int:
        if value not in table:
            raise ValueError(f"must be one of {', '.join(table)}")
        return table[str(value)]

    return validate


def _path(value: object) -> str:
    text = str(value)
    if text not in ("none", "legacy") and (
        not text.startswith("/") or text.startswith("//") or os.path.normpath(text) != text or "," in text or not text.isprintable()
    ):
        raise ValueError("must be an absolute, plain path without commas")
    return text


SWITCH = {"off": 0, "on": 1}
VALIDATORS = {
    "recordsize": _power_of_two,
    "compression": _choice(COMPRESSION),
    "mountpoint": _path,
    "canmount": _choice({"off": 0, "on": 1, "noauto": 2}),
    "atime": _choice(SWITCH),
    "exec": _choice(SWITCH),
    "setuid": _choice(SWITCH),
    "devices": _choice(SWITCH),
    "xattr": _choice({"off": 0, "dir": 1, "sa": 2}),
    "logbias": _choice({"latency": 0, "throughput": 1}),
    "readonly": _choice(SWITCH),
    "direct": _choice({"disabled": 0, "standard": 1, "always": 2}),
    "refreservation": _whole(0, 1 << 62),
}


def encode(properties: Mapping[str, object], marks: Mapping[str, str]) -> dict[bytes, object]:
    """Return validated properties and user properties as libzfs_core takes them."""
    result: dict[bytes, object] = {}
    for name, value in properties.items():
        if name not in VALIDATORS:
            raise BadInput(f"property {name}: is not one of {', '.join(VALIDATORS)}")
        try:
            checked = VALIDATORS[name](value)
        except ValueError as error:
            raise BadInput(f"property {name}={value}: {error}") from error
        result[name.encode()] = checked.encode() if isinstance(checked, str) else checked
    for name, value in marks.items():
        if ":" not in name or name != name.lower() or len(name) > 255:
            raise BadInput(f"user property {name}: name is not allowed")
        if not value.isprintable() or len(value.encode()) > 8191:  # a tab or the end of a line in one would garble what zfs(8) says of all
            raise BadInput(f"user property {name}: its value must be up to 8191 bytes of printable text, and is {value[:40]!a}")
        result[name.encode()] = value.encode()
    return result


def said_of_strangers(count: int, one: str) -> str:
    """Return what is said of a dataset that has so many snapshots of others."""
    return f"has the snapshot {one}, which is not ours" if count == 1 else f"has {count} snapshots that are not ours, such as {one}"


def make_private(path: str) -> None:
    """The directory exists; it, and what was missing above it, can be read by its owner and group alone."""
    if not os.path.isdir(path):
        make_private(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o750)


class Dataset:
    """A filesystem as it was when listed; sizes are bytes, `marks` the user properties set locally on it."""

    def __init__(self, name: str, native: Mapping[str, str], marks: Mapping[str, str]) -> None:
        self.name = name
        self.marks = dict(marks)
        self.mountpoint = native.get("mountpoint", "-")
        self.canmount = native.get("canmount", "-")
        self.used = _number(native.get("used"))
        self.referenced = _number(native.get("referenced"))
        self.available = _number(native.get("available"))
        self.written = _number(native.get("written"))  # since its newest snapshot, or since the one that it is a clone of
        self.creation = _number(native.get("creation"))
        self.guid = native.get("guid", "")
        self.origin = "" if native.get("origin", "-") == "-" else native["origin"]

    @property
    def short(self) -> str:
        return self.name.rsplit("/", 1)[1] if "/" in self.name else self.name


class Pool:
    """A pool's state; sizes are bytes."""

    def __init__(self, name: str, health: str, size: int, free: int, freeing: int = 0) -> None:
        self.name, self.health, self.size, self.free, self.freeing = name, health, size, free, freeing


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


class Zfs(History):
    """The node's ZFS. `ours` is the prefix of snapshots that this project makes and may destroy."""

    ours = "zfsganeti-"

    # reading

    def _command(self, program: str, *arguments: str) -> str:
        done = query([program, *arguments], seconds=COMMAND_SECONDS)
        if done.status != 0:
            raise self._command_error(program, arguments, done.status, done.stderr)
        return done.stdout

    @staticmethod
    def _command_error(program: str, arguments: tuple[str, ...], status: int, said: str) -> ZfsGanetiError:
        if "does not exist" in said or "no such pool" in said:
            return Missing(f"dataset {arguments[-1]}" if program == "zfs" else f"pool {arguments[-1]}")
        if "/dev/zfs" in said or "modules" in said:
            return Unavailable("ZFS", "its kernel module is not loaded", "modprobe zfs")
        if SUSPENDED in said:
            pool = arguments[-1].split("/")[0].split("@")[0]
            return Unavailable(f"pool {pool}", "is SUSPENDED", f"zpool status {pool}")
        first = next((line for line in said.splitlines() if line.strip()), "")  # what follows is usage
        return CommandFailed(f"{program} {arguments[0]} {arguments[-1]}", status, first)

    def datasets(self, root: str, *, depth: int | None = None, marks: Iterable[str] = ()) -> list[Dataset]:
        """Return the filesystems at and below `root`, parents first, with the named user properties set on them."""
        return [Dataset(name, *found) for name, found in self._properties(root, "filesystem", depth, (*NATIVE, *marks)).items()]

    def _properties(
        self, root: str, kinds: str, depth: int | None, wanted: Iterable[str]
    ) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        """Return of each dataset of these kinds its native properties, and the user properties that are set on itself."""
        scope = ["-r"] if depth is None else ["-d", str(depth)]
        columns = ("-t", kinds, "-o", "name,property,value,source", ",".join(wanted))
        found: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        for line in self._command("zfs", "get", "-Hp", *scope, *columns, check_dataset(root)).split("\n"):
            name, _tab, rest = line.partition("\t")
            prop, _tab, rest = rest.partition("\t")
            value, tab, source = rest.rpartition("\t")
            if not tab:
                continue  # what is set by hand may hold anything, and keeps no other dataset from being seen
            native, local = found.setdefault(name, ({}, {}))
            if ":" not in prop:
                native[prop] = value
            elif source == "local":
                local[prop] = value
        return found

    def with_snapshot(
        self, root: str, short: str, facts: Iterable[str], *, depth: int, marks: Iterable[str] = ()
    ) -> list[tuple[Dataset, dict[str, str]]]:
        """Return the filesystems at and below `root` that have a snapshot of this name, each with facts of the snapshot."""
        wanted = dict.fromkeys((*NATIVE, *marks, *facts))
        found = self._properties(root, "filesystem,snapshot", depth + 1, wanted)
        return [  # zfs(8) writes - for what there is none of
            (Dataset(name, *found[name]), {fact: found[snapshot][0].get(fact, "-").removeprefix("-") for fact in facts})
            for name in found
            if (snapshot := f"{name}@{short}") in found and name[len(root) :].count("/") <= depth
        ]

    def snapshot_facts(self, root: str, wanted: Iterable[str], *, depth: int) -> dict[str, dict[str, str]]:
        """Return the wanted properties of each snapshot at and below `root`, by its name; `-` where one has no value."""
        arguments = ("get", "-Hp", "-d", str(depth), "-t", "snapshot", "-o", "name,property,value", ",".join(wanted), check_dataset(root))
        found: dict[str, dict[str, str]] = {}
        for line in self._command("zfs", *arguments).split("\n"):
            name, _tab, rest = line.partition("\t")
            prop, tab, value = rest.partition("\t")
            if tab:
                found.setdefault(name, {})[prop] = value
        return found

    def get(self, name: str, *, marks: Iterable[str] = ()) -> Dataset | None:
        """Return one filesystem, None when it does not exist."""
        if core.exists(check_dataset(name).encode()) is False:
            return None  # the kernel says so at once, zfs(8) need not be started
        try:
            return next(iter(self.datasets(name, depth=0, marks=marks)), None)  # of a volume of ZFS there is no more than its name
        except Missing:
            return None

    def filesystems(self) -> list[tuple[str, str]]:
        """Return every filesystem of the node with its mountpoint property."""
        lines = self._command("zfs", "list", "-Hp", "-t", "filesystem", "-o", "name,mountpoint").splitlines()
        return [(name, mountpoint) for name, _tab, mountpoint in (line.partition("\t") for line in lines)]

    def snapshots(self, root: str, *, depth: int | None = None) -> list[tuple[str, int, int]]:
        """Return (name, creation time, bytes used) of the snapshots at and below `root`, oldest first."""
        scope = ["-r"] if depth is None else ["-d", str(depth)]
        lines = self._command(
            "zfs", "list", "-Hp", *scope, "-t", "snapshot", "-s", "createtxg", "-o", "name,creation,used", check_dataset(root)
        )
        return [(name, int(created), _number(used)) for name, created, used in (line.split("\t") for line in lines.splitlines())]

    def count_snapshots(self, root: str) -> dict[str, int]:
        """Return how many snapshots each filesystem at and below `root` has; one without any is missing."""
        # zfs(8) opens no snapshot when it is asked for names alone, by name
        found: dict[str, int] = {}
        for line in self._command("zfs", "list", "-Hr", "-t", "snapshot", "-o", "name", "-s", "name", check_dataset(root)).splitlines():
            name = line.partition("@")[0]
            found[name] = found.get(name, 0) + 1
        return found

    def local(self, name: str) -> dict[str, str]:
        """Return the properties that were set on a filesystem itself, neither inherited nor left at their default."""
        lines = self._command("zfs", "get", "-Hp", "-s", "local", "-o", "property,value", "all", check_dataset(name)).splitlines()
        return {prop: value for prop, _tab, value in (line.partition("\t") for line in lines)}

    def pool(self, name: str) -> Pool:
        """Return the state of a pool or of the pool a dataset is in."""
        pool = name.split("/")[0]
        health, *sizes = self._command("zpool", "list", "-Hp", "-o", "health,size,free,freeing", pool).split()
        return Pool(pool, health, *map(_number, sizes))

    def pool_health(self, name: str) -> str:
        """Return the health of a pool or of the pool a dataset is in."""
        pool = name.split("/")[0]
        try:
            with open(f"/proc/spl/kstat/zfs/{pool}/state", encoding="ascii") as file:
                state = file.read().strip()
        except OSError:
            state = ""
        return state if state == "ONLINE" else self.pool(pool).health  # which tells more kinds of trouble apart

    def room(self, path: str) -> int:
        """Return the bytes that the filesystem which is mounted at a path can take."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def version(self) -> tuple[int, ...]:
        """Return the loaded module's version, such as (2, 3, 9)."""
        import re

        try:
            with open("/sys/module/zfs/version", encoding="ascii") as file:
                return tuple(int(part) for part in re.findall(r"\d+", file.read().split("-")[0]))
        except OSError:
            raise Unavailable("ZFS", "its kernel module is not loaded", "modprobe zfs") from None

    def mounts(self) -> list[Mount]:
        """Return this mount namespace's ZFS mounts, later ones on top."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return parse_mounts(file.read())

    def mounted_at(self, path: str) -> str | None:
        """Return the dataset whose root is what one finds at a path, None when that is no ZFS mount."""
        top = [mount for mount in self.mounts() if mount.path == path]
        return top[-1].dataset if top and top[-1].whole else None

    # changing

    def _direct(self, name: str, function: Callable[..., int], *arguments: object) -> None:
        """Call libzfs_core without the binding; an errno becomes an exception of ours, which names the dataset.

        The binding must be there all the same: what is made on a node without it could not be made independent there.
        """
        from importlib.machinery import PathFinder

        if PathFinder.find_spec("libzfs_core") is None:
            raise Unavailable("libzfs_core", "python3-pyzfs is not installed (No module named 'libzfs_core')", "apt install python3-pyzfs")
        try:
            code = function(*arguments)
        except OSError as error:
            if error.filename == "/dev/zfs":
                raise Unavailable("/dev/zfs", "cannot be opened", "modprobe zfs, as root") from error
            raise Unavailable("libzfs_core", str(error), "apt install zfsutils-linux") from error
        if code:
            raise self._translate(name, OSError(code, os.strerror(code)))

    def _core(self) -> Any:
        try:
            import libzfs_core
        except ImportError as error:
            raise Unavailable("libzfs_core", f"python3-pyzfs is not installed ({error})", "apt install python3-pyzfs") from error
        return libzfs_core

    def _call(self, name: str, function: str, *arguments: Any, **options: Any) -> Any:
        """Call libzfs_core; its exceptions become ours, which name the dataset."""
        core = self._core()
        from libzfs_core import exceptions

        try:
            return getattr(core, function)(*arguments, **options)
        except exceptions.ZFSInitializationFailed:
            raise Unavailable("/dev/zfs", "cannot be opened", "modprobe zfs, as root") from None
        except exceptions.ZFSError as error:
            raise self._translate(name, error) from error
        except OSError as error:
            raise Unavailable("libzfs_core", str(error), "apt install zfsutils-linux") from error

    @staticmethod
    def _translate(name: str, error: Any) -> ZfsGanetiError:
        code = getattr(error, "errno", None)
        inner = getattr(error, "errors", None)
        if code is None and inner:
            code = getattr(inner[0], "errno", None)
        if code == errno.ENOENT:
            return Missing(f"dataset {name}")
        if code == errno.EEXIST:
            return Refused(f"dataset {name}", "exists already")
        if code == errno.EBUSY:
            return Busy(f"dataset {name}", "is in use")
        if code == errno.ENOSPC or code == errno.EDQUOT:
            return Full(f"dataset {name}", "the pool or a quota is full")
        if code in (errno.EPERM, errno.EACCES):
            return Unavailable(f"dataset {name}", "permission denied", "run this as root")
        return CommandFailed(f"libzfs_core on {name}", code or 0, f"{type(error).__name__}: {os.strerror(code) if code else error}")

    def create(self, name: str, properties: Mapping[str, object], marks: Mapping[str, str]) -> None:
        """The filesystem exists, unmounted, with these properties; Refused when the name is taken."""
        self._direct(name, core.create, check_dataset(name).encode(), encode(properties, marks))

    def snapshot(self, names: Iterable[str], marks: Mapping[str, str] | None = None) -> None:
        """All snapshots exist, of one txg, or none."""
        whole = [check_snapshot(name).encode() for name in names]
        if whole:
            self._direct(whole[0].decode(), core.snapshot, whole, encode({}, marks or {}))

    def clone(self, snapshot: str, name: str, marks: Mapping[str, str], properties: Mapping[str, object] | None = None) -> None:
        """The filesystem exists, unmounted, with what the snapshot holds; Refused when the name is taken."""
        whole = encode(properties or {}, marks)
        self._direct(name, core.clone, check_snapshot(snapshot).encode(), check_dataset(name).encode(), whole)

    def rename(self, old: str, new: str) -> None:
        """The filesystem bears the new name; where it is mounted it stays mounted."""
        self._direct(old, core.rename, check_dataset(old).encode(), check_dataset(new).encode())

    def set(self, name: str, values: Mapping[str, str]) -> None:
        """The properties are set, all or none; zfs(8) validates native ones, but looks at user properties only after it set others."""
        encode({}, {key: value for key, value in values.items() if ":" in key})
        if values:
            self._command("zfs", "set", *(f"{key}={value}" for key, value in values.items()), check_dataset(name))

    def mark_snapshot(self, snapshot: str, marks: Mapping[str, str]) -> None:
        """The snapshot has the user properties."""
        encode({}, marks)
        self._command("zfs", "set", *(f"{key}={value}" for key, value in marks.items()), check_snapshot(snapshot))

    def clear(self, name: str, keys: Iterable[str]) -> None:
        """The properties are no longer set on the dataset; 2.1 may heed that only when what is mounted elsewhere is mounted again."""
        for key in keys:
            try:
                self._command("zfs", "inherit", key, check_dataset(name))
            except CommandFailed as error:  # zfs(8) of 2.1 clears it and then tries to mount again, by the dataset's mountpoint
                if "cannot mount" not in error.said or key in self.local(name):
                    raise

    def destroy_snapshots(self, names: Iterable[str]) -> None:
        """The snapshots are gone, all or none; one that is gone already is fine."""
        whole = [check_snapshot(name).encode() for name in names]
        if whole:
            self._direct(whole[0].decode(), core.destroy_snapshots, whole)

    def destroy(
        self,
        name: str,
        marks: Mapping[str, str],
        *,
        strangers: bool = False,
        also: str = "",
        seconds: float = 0,
        only_check: bool = False,
    ) -> None:
        """The filesystem and its snapshots are gone in one txg, or nothing has changed.

        It must carry `marks` locally, have no child, clone or hold, and no snapshot but ours and `also` unless `strangers`. What is
        in use is tried again for `seconds`; then Busy names who uses it. A filesystem that does not exist is Missing.
        """
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            answer = self._program(name, marks, strangers, also, only_check=True)
            if "ok" in answer:
                if only_check:
                    return
                if int(answer["count"]) > SNAPSHOTS_PER_TXG:
                    self._thin(name)
                answer = self._program(name, marks, strangers, also, only_check=False)
                if "ok" in answer:
                    return
            if answer["why"] not in ("mounted", "sending", "again") or time.monotonic() > deadline:
                raise self._refusal(name, answer)
            time.sleep(pause)
            pause = min(1.0, pause * 2)

    def _thin(self, name: str) -> None:
        names = [snapshot for snapshot, _created, _used in self.snapshots(name, depth=1)]
        for first in range(0, len(names), SNAPSHOTS_PER_TXG):
            self.destroy_snapshots(names[first : first + SNAPSHOTS_PER_TXG])

    def _program(self, name: str, marks: Mapping[str, str], strangers: bool, also: str, *, only_check: bool) -> dict[str, str]:
        asked: dict[bytes, object] = {
            b"fs": check_dataset(name).encode(),
            b"prefix": self.ours.encode(),
            b"also": also.encode(),
            b"strangers": b"yes" if strangers else b"",
            b"only_check": b"yes" if only_check else b"",
            b"marks": {key.encode(): value.encode() for key, value in marks.items()},
        }
        return self._run(name, programs.DESTROY, asked)

    def _run(self, name: str, program: str, asked: Mapping[bytes, object]) -> dict[str, str]:
        """Return what a channel program answers that destroys or rolls back."""
        answer: list[bytes] = []
        # also to check only: outside of a transaction group what is mounted does not keep anything from being rolled back
        self._direct(name, core.program, name.split("/")[0].encode(), program.encode(), asked, answer)
        return programs.facts(b"".join(answer))

    def _refusal(self, name: str, answer: Mapping[str, str]) -> ZfsGanetiError:
        why, what = answer["why"], answer.get("what", name)
        if why == "missing":
            return Missing(f"dataset {name}")
        if why == "foreign":
            return Foreign(f"dataset {name}", f"is not ours as expected (property {what})")
        if why == "snapshot":
            return Busy(f"dataset {name}", said_of_strangers(int(answer["count"]), what.split("@")[1]))
        if why == "mounted":
            users = ", ".join(self.users(name))
            return Busy(f"dataset {name}", f"is in use by {users}" if users else "is in use by a mount or a receive")
        if why == "sending":
            names = ", ".join(senders(what))
            return Busy(
                f"dataset {name}", f"snapshot {what.split('@')[1]} is {f'being sent by {names}' if names else 'being sent or mounted'}"
            )
        said = {
            "child": f"has the child {what}",
            "clone": f"has the clone {what}",
            "hold": f"snapshot {what} is held",
            "bookmark": "has a bookmark newer than its snapshots",
            "again": "was changed this moment",
            "partial": f"could not be destroyed after all checks passed, at {what}",
        }
        return Busy(f"dataset {name}", said.get(why, why))

    def users(self, name: str) -> list[str]:
        """Return who uses a filesystem: processes with files of it open, then where it is mounted, in any namespace."""
        return [*self.holders(name), *mounting_processes(name)][:5]

    def holders(self, name: str) -> list[str]:
        """Return the processes that hold files of a filesystem open, as 'process NAME (PID) with PATH'."""
        return list(holding_processes(name, self.mounts()))

    # mounting

    def mount(self, name: str, path: str) -> None:
        """The filesystem, or snapshot, is mounted at the path, which is made if missing; Foreign when something is there already."""
        if "," in path:
            raise BadInput(f"path {path}: a comma cannot be passed to mount(2)")
        there = self.mounted_at(path)
        if there == name:
            return
        if there is not None:
            raise Foreign(path, f"dataset {there} is mounted there, not {name}")
        make_private(path)
        if os.listdir(path):
            raise Foreign(path, f"the directory is not empty, {name} is not mounted over it", "move away what is in it")
        try:
            flags = MS_NOATIME | MS_NOSUID | MS_NODEV | MS_NOEXEC | (MS_RDONLY if "@" in name else 0)
            core.libc("mount", name, path, "zfs", flags, f"zfsutil,mntpoint={path}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise Missing(f"dataset {name}") from error
            raise Unavailable(path, f"{name} cannot be mounted ({os.strerror(error.errno or 0)})") from error
        if self.mounted_at(path) != name:
            raise Unavailable(path, f"{name} was mounted but {self.mounted_at(path) or 'nothing'} is found there")

    def unmount(self, path: str, *, lazy: bool = False, seconds: float = 0) -> None:
        """Nothing of ZFS is mounted at the path; lazily, processes keep what they hold open. Busy names them otherwise."""
        deadline = time.monotonic() + seconds
        while (name := self.mounted_at(path)) is not None:
            try:
                core.libc("umount2", path, MNT_DETACH if lazy else 0)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    continue  # gone in the meantime
                if error.errno != errno.EBUSY:
                    raise Unavailable(path, os.strerror(error.errno or 0)) from error
                if time.monotonic() > deadline:
                    used = self.holders(name) + [
                        f"the mount at {mount.path}" for mount in self.mounts() if mount.path.startswith(f"{path}/")
                    ]
                    raise Busy(path, f"{name} is in use by {', '.join(used) or 'an unknown process'}") from error
                time.sleep(0.1)
