"""A ZFS in memory whose files are real: what datasets.Backend promises, with the errors of zfsganeti.zfs.Zfs.

Each filesystem's files live in a directory of their own. Mounting puts a symlink to it where the empty directory was: it can
be mounted at several places at once, rmdir fails on it as it does on a mount point, and listdir, open and rename see its files.
What Python does to files of a filesystem that is read-only fails as it does on real ZFS; what a program does that it runs, does not.
The contract tests run on this and on real ZFS, which keeps it honest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from tests.killing import EVENTS, Reaper, writes
from zfsganeti.errors import BadInput, Busy, CommandFailed, Foreign, Full, Missing, Refused, ZfsGanetiError
from zfsganeti.mounts import Mount
from zfsganeti.names import check_dataset, check_hold, check_snapshot
from zfsganeti.roots import FS_IMMUTABLE_FL, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, guard, is_guarded
from zfsganeti.zfs import VALIDATORS, Dataset, Pool, encode, said_of_strangers

SIZES = ("quota", "refquota", "reservation", "refreservation")  # which zfs(8) validates, and 'none' is one
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Snapshot:
    """A snapshot: its files as they were, and what keeps it."""

    def __init__(self, number: int, created: int, files: dict[str, bytes]) -> None:
        self.number, self.created, self.files = number, created, files
        self.guid = str(number)  # one that was received has that of its origin
        self.holds: set[str] = set()
        self.marks: dict[str, str] = {}


class Filesystem:
    """A filesystem: what is set on it, and the directory with its files."""

    def __init__(self, number: int, created: int, files: str) -> None:
        self.number, self.created, self.files = number, created, files
        self.properties: dict[str, str] = {}
        self.marks: dict[str, str] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.origin: tuple[Filesystem, str] | None = None
        self.users: list[str] = []
        self.bookmarks: dict[str, int] = {}  # and the numbers of the snapshots that they were made of
        self.half = b""  # of a stream that broke off
        self.token = ""


class Frozen(Filesystem):
    """A snapshot that is mounted."""

    def __init__(self, name: str, files: str) -> None:
        super().__init__(0, 0, files)
        self.name = name


class Mounted:
    """A mount: where, of what, and where the directory that it covers is kept meanwhile, immutable or not."""

    def __init__(self, path: str, filesystem: Filesystem, covered: str, guarded: bool) -> None:
        self.path, self.filesystem, self.covered, self.guarded = path, filesystem, covered, guarded


def changing(
    method: Callable[Concatenate[FakeZfs, Arguments], Result],
) -> Callable[Concatenate[FakeZfs, Arguments], Result]:
    """The process can die before the method has done anything and after it has done everything."""

    @functools.wraps(method)
    def call(self: FakeZfs, /, *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        self.reaper.point()
        with self.reaper.sparing(), self.alone:
            result = method(self, *arguments, **options)
        self.reaper.point()
        return result

    return call


class FakeZfs:
    """One pool below a directory of its own; `clock`, `available`, `others`, `health`, `size` and `free` are what a test says.

    So are `unreservable` and `left`: how many more things that need room can be done, be it that something is made or that a file is
    written to; then the pool is full. What is kept for that lets a full one be renamed, promoted and destroyed in, and properties be
    set; files go as well.
    """

    ours = "zfsganeti-"

    def __init__(self, place: str, pool: str = "zfs", seed: int = 0) -> None:
        self.place = place
        self.alone = threading.RLock()  # what is listed is not destroyed in between, as in one transaction group
        self.reaper = Reaper(os.path.dirname(place))
        self.clock = 1_700_000_000
        self.available = 100 << 30
        self.others = 0  # bytes that are used without a file of ours
        self.left: int | None = None  # None is as many as you like
        self.unreservable = False  # there is no room to set aside
        self.features = {"large_blocks": "active", "embedded_data": "active", "lz4_compress": "active", "zstd_compress": "enabled"}
        self.health, self.size, self.free = "ONLINE", 200 << 30, 100 << 30
        self._count = seed  # GUIDs of two pools differ when their seeds do
        self._mounted: list[Mounted] = []
        self._filesystems: dict[str, Filesystem] = {}
        self._add(pool, {"mountpoint": f"/{pool}"}, {})
        _pools[os.path.realpath(place)] = self

    # reading

    def version(self) -> tuple[int, ...]:
        return (2, 3, 9)

    def datasets(self, root: str, *, depth: int | None = None, marks: Iterable[str] = ()) -> list[Dataset]:
        wanted = frozenset(marks)
        with self.alone:
            return [self._dataset(name, wanted) for name in self._below(root, depth)]

    def get(self, name: str, *, marks: Iterable[str] = ()) -> Dataset | None:
        try:
            return self.datasets(name, depth=0, marks=marks)[0]
        except Missing:
            return None

    def local(self, name: str) -> dict[str, str]:
        filesystem = self._must(check_dataset(name))
        return {**filesystem.properties, **filesystem.marks}

    def filesystems(self) -> list[tuple[str, str]]:
        return [(name, self._mountpoint(name)) for name in sorted(self._filesystems)]

    def snapshots(self, root: str, *, depth: int | None = None) -> list[tuple[str, int, int]]:
        names = [] if depth == 0 else self._below(root, None if depth is None else depth - 1)
        found = [(snapshot.number, f"{name}@{short}", snapshot.created) for name in names for short, snapshot in self._snapshots(name)]
        return [(name, created, 0) for _number, name, created in sorted(found)]

    def count_snapshots(self, root: str) -> dict[str, int]:
        return {name: count for name in self._below(root, None) if (count := len(list(self._snapshots(name))))}

    def with_snapshot(
        self, root: str, short: str, facts: Iterable[str], *, depth: int, marks: Iterable[str] = ()
    ) -> list[tuple[Dataset, dict[str, str]]]:
        wanted, found = frozenset(marks), []
        for name in self._below(root, depth):
            if short in dict(self._snapshots(name)):
                known = self._facts(name, short, dict(self._snapshots(name))[short])
                found.append((self._dataset(name, wanted), {fact: known.get(fact, "") for fact in facts}))
        return found

    def snapshot_facts(self, root: str, wanted: Iterable[str], *, depth: int) -> dict[str, dict[str, str]]:
        names = self._below(root, depth - 1) if depth else []
        found = {f"{name}@{short}": self._facts(name, short, snapshot) for name in names for short, snapshot in self._snapshots(name)}
        return {name: {prop: facts.get(prop, "-") for prop in wanted} for name, facts in found.items()}

    def _facts(self, name: str, short: str, snapshot: Snapshot) -> dict[str, str]:
        return {
            "guid": snapshot.guid,
            "createtxg": str(snapshot.number),
            "creation": str(snapshot.created),
            "clones": ",".join(self._clones(name, short)),
            "userrefs": str(len(snapshot.holds)),
            "used": "0",
            "referenced": str(sum(len(content) for content in snapshot.files.values())),
            **snapshot.marks,
        }

    def pool(self, name: str) -> Pool:
        pool = name.split("/")[0]
        if pool not in self._filesystems:
            raise Missing(f"pool {pool}")
        return Pool(pool, self.health, self.size, self.free)

    def pool_health(self, name: str) -> str:
        return self.pool(name).health

    def room(self, path: str) -> int:
        if not os.path.isdir(path):
            raise FileNotFoundError(path)
        return self.available

    def mounts(self) -> list[Mount]:
        return [Mount(self._name_of(mounted.filesystem), mounted.path, True) for mounted in self._mounted]

    def mounted_at(self, path: str) -> str | None:
        return next((mount.dataset for mount in self.mounts() if mount.path == path), None)

    # changing

    @changing
    def create(self, name: str, properties: Mapping[str, object], marks: Mapping[str, str]) -> None:
        check_dataset(name)
        encode(properties, marks)
        if name in self._filesystems:
            raise Refused(f"dataset {name}", "exists already")
        if name.rpartition("/")[0] not in self._filesystems:
            raise Missing(f"dataset {name}")
        self._must_have_room(name)
        self._add(name, {key: str(value) for key, value in properties.items()}, marks)

    @changing
    def snapshot(self, names: Iterable[str], marks: Mapping[str, str] | None = None) -> None:
        whole = [check_snapshot(name) for name in names]
        encode({}, marks or {})
        pairs = [name.split("@") for name in whole]
        for dataset, short in pairs:
            if dataset not in self._filesystems:
                raise Missing(f"dataset {whole[0]}")
            if short in self._filesystems[dataset].snapshots:
                raise Refused(f"dataset {whole[0]}", "exists already")
        if len({dataset for dataset, _short in pairs}) != len(pairs) or len({dataset.split("/")[0] for dataset, _short in pairs}) > 1:
            raise CommandFailed(f"libzfs_core on {whole[0]}", 18, "SnapshotFailure: Invalid cross-device link")
        if whole:
            self._must_have_room(whole[0])
        for dataset, short in pairs:
            filesystem = self._filesystems[dataset]
            filesystem.snapshots[short] = Snapshot(self._next(), self.clock, read_files(filesystem.files))
            filesystem.snapshots[short].marks.update(marks or {})

    @changing
    def clone(self, snapshot: str, name: str, marks: Mapping[str, str], properties: Mapping[str, object] | None = None) -> None:
        dataset, short = check_snapshot(snapshot).split("@")
        encode(properties or {}, marks)
        if short not in dict(self._snapshots(dataset)) or check_dataset(name).rpartition("/")[0] not in self._filesystems:
            raise Missing(f"dataset {name}")
        if name in self._filesystems:
            raise Refused(f"dataset {name}", "exists already")
        self._must_have_room(name)
        self._add(name, {key: str(value) for key, value in (properties or {}).items()}, marks)
        self._filesystems[name].origin = (self._must(dataset), short)
        os.chmod(self._filesystems[name].files, os.stat(self._must(dataset).files).st_mode)
        for file, content in self._filesystems[dataset].snapshots[short].files.items():
            with open(f"{self._filesystems[name].files}/{file}", "wb") as target:
                target.write(content)

    @changing
    def rename(self, old: str, new: str) -> None:
        check_dataset(old)
        check_dataset(new)
        if old not in self._filesystems or new.rpartition("/")[0] not in self._filesystems:
            raise Missing(f"dataset {old}")
        if new in self._filesystems:
            raise Refused(f"dataset {old}", "exists already")
        for name in self._below(old, None):
            self._filesystems[new + name[len(old) :]] = self._filesystems.pop(name)

    @changing
    def set(self, name: str, values: Mapping[str, str]) -> None:
        encode({}, {key: value for key, value in values.items() if ":" in key})
        filesystem = self._must(check_dataset(name))
        for key, value in values.items():
            self._check_settable(name, key, value)
        if self.unreservable and values.get("refreservation", "0") not in ("0", "none"):
            raise CommandFailed(f"zfs set {name}", 1, f"cannot set property for '{name}': size is greater than available space")
        for key, value in values.items():
            (filesystem.marks if ":" in key else filesystem.properties)[key] = value

    @changing
    def mark_snapshot(self, snapshot: str, marks: Mapping[str, str]) -> None:
        dataset, short = check_snapshot(snapshot).split("@")
        encode({}, marks)
        if short not in dict(self._snapshots(dataset)):
            raise Missing(f"dataset {snapshot}")
        self._filesystems[dataset].snapshots[short].marks.update(marks)

    def clear(self, name: str, keys: Iterable[str]) -> None:
        for key in keys:  # one program each on real ZFS: the process can die between them
            self._inherit(name, key)

    @changing
    def _inherit(self, name: str, key: str) -> None:
        filesystem = self._must(check_dataset(name))
        if key in (*SIZES, "canmount"):
            raise CommandFailed(f"zfs inherit {name}", 1, f"'{key}' property cannot be inherited")
        (filesystem.marks if ":" in key else filesystem.properties).pop(key, None)

    @changing
    def destroy_snapshots(self, names: Iterable[str]) -> None:
        there = [(*name.split("@"), name) for name in map(check_snapshot, names)]
        there = [(dataset, short, name) for dataset, short, name in there if short in dict(self._snapshots(dataset))]
        for dataset, short, name in there:
            if self._filesystems[dataset].snapshots[short].holds or any(mount.dataset == name for mount in self.mounts()):
                raise Busy(f"dataset {name}", "is in use")
            if self._clones(dataset, short):
                raise Refused(f"dataset {name}", "exists already")
        for dataset, short, _name in there:
            del self._filesystems[dataset].snapshots[short]

    @changing
    def destroy(
        self,
        name: str,
        marks: Mapping[str, str],
        *,
        strangers: bool = False,
        also: str = "",
        seconds: float = 0,  # noqa: ARG002 - nothing frees itself here, so waiting is left out
        only_check: bool = False,
    ) -> None:
        filesystem = self._must(check_dataset(name))
        for key, value in marks.items():
            if filesystem.marks.get(key) != value:
                raise Foreign(f"dataset {name}", f"is not ours as expected (property {key})")
        self._check_kept(name, filesystem, strangers, also)
        users = self._users(filesystem)
        if users:
            raise Busy(f"dataset {name}", f"is in use by {', '.join(users)}")
        if not only_check:
            del self._filesystems[name]
            shutil.rmtree(filesystem.files)

    # going back

    @changing
    def promote(self, name: str) -> None:
        clone = self._must(check_dataset(name))
        if clone.origin is None:
            raise CommandFailed(f"libzfs_core on {name}", 22, "NotClone: Invalid argument")
        origin, short = clone.origin
        oldest_kept = origin.snapshots[short].number
        moved = {own: snapshot for own, snapshot in origin.snapshots.items() if snapshot.number <= oldest_kept}
        if any(own in clone.snapshots for own in moved):
            raise Refused(f"dataset {name}", "exists already")
        for filesystem in self._filesystems.values():
            if filesystem.origin is not None and filesystem.origin[0] is origin and filesystem.origin[1] in moved:
                filesystem.origin = (clone, filesystem.origin[1])
        clone.origin, origin.origin = origin.origin, (clone, short)
        clone.snapshots = {**moved, **clone.snapshots}
        for own in moved:
            del origin.snapshots[own]

    @changing
    def rename_snapshot(self, name: str, new: str) -> None:
        (dataset, short), (other, wanted) = check_snapshot(name).split("@"), check_snapshot(new).split("@")
        filesystem = self._must(dataset)
        if short not in filesystem.snapshots:
            raise Missing(f"dataset {name}")
        if other != dataset or wanted in filesystem.snapshots:
            raise CommandFailed(f"zfs rename {new}", 1, f"cannot rename {name}")
        filesystem.snapshots = {wanted if own == short else own: snapshot for own, snapshot in filesystem.snapshots.items()}
        for each in self._filesystems.values():
            if each.origin == (filesystem, short):
                each.origin = (filesystem, wanted)

    def holds(self, names: Iterable[str]) -> dict[str, list[str]]:
        found = {}
        for name in map(check_snapshot, names):
            dataset, short = name.split("@")
            if short not in dict(self._snapshots(dataset)):
                raise Missing(f"dataset {name}")
            found[name] = sorted(self._filesystems[dataset].snapshots[short].holds)
        return {name: tags for name, tags in found.items() if tags}

    def held(self, name: str) -> dict[str, list[str]]:
        return self.holds([f"{check_dataset(name)}@{short}" for short in self._must(name).snapshots])

    @changing
    def hold(self, snapshot: str, tag: str = "keep") -> None:
        dataset, short = check_snapshot(snapshot).split("@")
        if short not in dict(self._snapshots(dataset)):
            raise Missing(f"dataset {snapshot}")
        self._filesystems[dataset].snapshots[short].holds.add(check_hold(tag))

    @changing
    def release(self, snapshot: str, tag: str) -> None:
        dataset, short = check_snapshot(snapshot).split("@")
        if short not in dict(self._snapshots(dataset)):
            raise Missing(f"dataset {snapshot}")
        self._filesystems[dataset].snapshots[short].holds.discard(tag)

    @changing
    def roll_back(self, targets: Mapping[str, str]) -> None:
        for name, short in targets.items():
            self.refuse_newer_bookmarks(name, short)
        doomed = [self._doomed(name, short) for name, short in targets.items()]
        for filesystem, short, newer in doomed:
            for own in newer:
                del filesystem.snapshots[own]
            for file in os.listdir(filesystem.files):
                os.unlink(f"{filesystem.files}/{file}")
            for file, content in filesystem.snapshots[short].files.items():
                with open(f"{filesystem.files}/{file}", "wb") as target:
                    target.write(content)

    def bookmark(self, snapshot: str, short: str) -> None:
        dataset, of = check_snapshot(snapshot).split("@")
        self._must(dataset).bookmarks[short] = self._must(dataset).snapshots[of].number

    def refuse_newer_bookmarks(self, name: str, short: str) -> None:
        filesystem = self._must(name)
        for bookmark, number in filesystem.bookmarks.items():
            if number > (filesystem.snapshots[short].number if short in filesystem.snapshots else 0):
                raise Busy(f"dataset {name}", f"has the bookmark {name}#{bookmark}, which is newer", f"zfs destroy {name}#{bookmark}")

    def _doomed(self, name: str, short: str) -> tuple[Filesystem, str, list[str]]:
        """Return what goes back, to which snapshot, and which newer ones that destroys; what keeps them is Busy."""
        check_snapshot(f"{name}@{short}")
        filesystem = self._must(name)
        if short not in filesystem.snapshots:
            raise Missing(f"dataset {name}@{short}")
        number = filesystem.snapshots[short].number
        newer = [own for own, snapshot in filesystem.snapshots.items() if snapshot.number > number]
        for own in newer:
            for clone in self._clones(name, own):
                raise Busy(f"dataset {name}", f"has the clone {clone}")
            for tag in sorted(filesystem.snapshots[own].holds):
                raise Busy(f"dataset {name}", f"snapshot {name}@{own} ({tag}) is held")
        users = self._users(filesystem)
        if users:
            raise Busy(f"dataset {name}", f"is in use by {', '.join(users)}")
        return filesystem, short, newer

    # mounting

    @changing
    def mount(self, name: str, path: str) -> None:
        if "," in path:
            raise BadInput(f"path {path}: a comma cannot be passed to mount(2)")
        there = self.mounted_at(path)
        if there == name:
            return
        if there is not None:
            raise Foreign(path, f"dataset {there} is mounted there, not {name}")
        if not os.path.isdir(path) and self.is_full():
            raise no_space(path)
        os.makedirs(path, mode=0o750, exist_ok=True)
        self.reaper.point()
        if os.listdir(path):
            raise Foreign(path, f"the directory is not empty, {name} is not mounted over it", "move away what is in it")
        self._cover(path, self._frozen(name) if "@" in name else self._must(name))

    def _frozen(self, name: str) -> Filesystem:
        """Return a snapshot as a filesystem, which no path names."""
        dataset, short = check_snapshot(name).split("@")
        if short not in dict(self._snapshots(dataset)):
            raise Missing(f"dataset {name}")
        place = f"{self.place}/frozen{self._next()}"
        os.mkdir(place)
        for file, content in self._filesystems[dataset].snapshots[short].files.items():
            with open(f"{place}/{file}", "wb") as copy:
                copy.write(content)
        return Frozen(name, place)

    @changing
    def unmount(self, path: str, *, lazy: bool = False, seconds: float = 0) -> None:  # noqa: ARG002
        name = self.mounted_at(path)
        if name is None:
            return
        filesystem = next(mounted.filesystem for mounted in self._mounted if mounted.path == path)
        below = [mounted for mounted in self._mounted if mounted.path.startswith(f"{path}/")]
        if not lazy and (filesystem.users or below):
            used = [*filesystem.users, *(f"the mount at {mounted.path}" for mounted in below)]
            raise Busy(path, f"{name} is in use by {', '.join(used)}")
        for mounted in reversed(below):
            self._uncover(mounted)
        self._uncover(next(mounted for mounted in self._mounted if mounted.path == path))

    # what others do to the pool, for tests

    def foreign(self, name: str, marks: Mapping[str, str] | None = None, mountpoint: str | None = None) -> None:
        """Somebody else has made a filesystem."""
        self._add(name, {"mountpoint": mountpoint} if mountpoint else {}, marks or {})

    def boot(self) -> None:
        """The node was off: no process holds anything, and `zfs mount -a` has mounted what it mounts, over files as well."""
        for mounted in reversed(self._mounted[:]):
            self._uncover(mounted)
        for name in sorted(self._filesystems):
            filesystem, path = self._filesystems[name], self._mountpoint(name)
            filesystem.users.clear()
            if filesystem.properties.get("canmount", "on") == "on" and path.startswith(os.path.dirname(self.place)):
                os.makedirs(path, exist_ok=True)
                self._cover(path, filesystem)

    @contextlib.contextmanager
    def held_open(self, name: str, user: str) -> Iterator[None]:
        """A process has a file of the filesystem open, also after a lazy unmount."""
        filesystem = self._must(name)
        filesystem.users.append(user)
        try:
            yield
        finally:
            filesystem.users.remove(user)

    def files(self, name: str) -> dict[str, bytes]:
        """Return the contents of a filesystem's files, mounted or not."""
        return read_files(self._must(name).files)

    def snapshot_files(self, snapshot: str) -> dict[str, bytes]:
        dataset, short = snapshot.split("@")
        return self._must(dataset).snapshots[short].files

    def state(self) -> dict[str, Any]:
        """Return all there is, in a form that two runs can be compared in."""
        return {
            name: {
                "properties": dict(filesystem.properties),
                "marks": dict(filesystem.marks),
                "snapshots": {short: snapshot.files for short, snapshot in filesystem.snapshots.items()},
                "kept": {short: (len(snapshot.holds), dict(snapshot.marks)) for short, snapshot in filesystem.snapshots.items()},
                "origin": f"{self._name_of(filesystem.origin[0])}@{filesystem.origin[1]}" if filesystem.origin is not None else "",
                "files": read_files(filesystem.files),
                "mounted": sorted(mounted.path for mounted in self._mounted if mounted.filesystem is filesystem),
            }
            for name, filesystem in sorted(self._filesystems.items())
        }

    def is_full(self) -> bool:
        """Tell whether there is no room for one more thing; if there is, it takes some."""
        if not self.left:
            return self.left is not None
        self.left -= 1
        return False

    # inside

    def _must_have_room(self, name: str) -> None:
        if self.is_full():
            raise Full(f"dataset {name}", "the pool or a quota is full")

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _add(self, name: str, properties: Mapping[str, str], marks: Mapping[str, str]) -> None:
        number = self._next()
        files = f"{self.place}/{number}"
        os.makedirs(files)
        filesystem = Filesystem(number, self.clock, files)
        filesystem.properties.update(properties)
        filesystem.marks.update(marks)
        self._filesystems[name] = filesystem

    def _must(self, name: str) -> Filesystem:
        if name not in self._filesystems:
            raise Missing(f"dataset {name}")
        return self._filesystems[name]

    def _below(self, root: str, depth: int | None) -> list[str]:
        self._must(check_dataset(root))
        names = sorted(name for name in self._filesystems if name == root or name.startswith(f"{root}/"))
        return [name for name in names if depth is None or name.count("/") - root.count("/") <= depth]

    def _name_of(self, filesystem: Filesystem) -> str:
        if isinstance(filesystem, Frozen):
            return filesystem.name
        return next(name for name, candidate in self._filesystems.items() if candidate is filesystem)

    def _snapshots(self, name: str) -> Iterable[tuple[str, Snapshot]]:
        return self._filesystems[name].snapshots.items() if name in self._filesystems else ()

    def _mountpoint(self, name: str) -> str:
        own = self._filesystems[name].properties.get("mountpoint")
        if own is not None:
            return own
        parent, _slash, short = name.rpartition("/")
        inherited = self._mountpoint(parent)
        return inherited if inherited in ("none", "legacy") else f"{inherited}/{short}"

    def refuses(self, number: str) -> bool:
        """Tell whether the filesystem whose files are in the directory of this name is read-only for everybody but ZFS."""
        if self.reaper.spared:
            return False
        name = next((name for name, filesystem in self._filesystems.items() if str(filesystem.number) == number), "")
        return bool(name) and self._is_readonly(name)

    def _is_readonly(self, name: str) -> bool:
        own = self._filesystems[name].properties.get("readonly")
        return own == "on" if own is not None else "/" in name and self._is_readonly(name.rpartition("/")[0])

    def _dataset(self, name: str, wanted: frozenset[str]) -> Dataset:
        filesystem = self._filesystems[name]
        used = sum(allocated(self._filesystems[below].files) for below in self._below(name, None))
        native = {
            "mountpoint": self._mountpoint(name),
            "canmount": filesystem.properties.get("canmount", "on"),
            "used": str(used + self.others),
            "referenced": str(allocated(filesystem.files)),
            "available": str(self.available),
            "written": str(self._written(filesystem)),
            "creation": str(filesystem.created),
            "guid": str(filesystem.number),
            "origin": f"{self._name_of(filesystem.origin[0])}@{filesystem.origin[1]}" if filesystem.origin else "-",
        }
        return Dataset(name, native, {key: value for key, value in filesystem.marks.items() if key in wanted})

    @staticmethod
    def _written(filesystem: Filesystem) -> int:
        """Return the bytes that differ from the newest snapshot, or from the one that it is a clone of; a mere growth is nothing."""
        before: dict[str, bytes] = {}
        if filesystem.snapshots:
            before = max(filesystem.snapshots.values(), key=lambda snapshot: snapshot.number).files
        elif filesystem.origin is not None and filesystem.origin[1] in filesystem.origin[0].snapshots:
            before = filesystem.origin[0].snapshots[filesystem.origin[1]].files
        now = read_files(filesystem.files)
        return sum(len(content) for name, content in now.items() if not _same_but_zeros(content, before.get(name, b"")))

    @staticmethod
    def _check_settable(name: str, key: str, value: str) -> None:
        try:
            if ":" not in key and not (key in SIZES and (value == "none" or value.isdigit())):
                encode({key: int(value) if value.isdigit() and key in VALIDATORS else value}, {})
            good = True
        except ZfsGanetiError:
            good = False
        if not good:
            raise CommandFailed(f"zfs set {name}", 1, f"cannot set property for '{name}': {key} cannot be that")

    def _clones(self, name: str, short: str) -> list[str]:
        origin = self._filesystems[name]
        return [clone for clone, filesystem in self._filesystems.items() if filesystem.origin == (origin, short)]

    def _check_kept(self, name: str, filesystem: Filesystem, strangers: bool, also: str) -> None:
        """The order is that of the channel program: what it finds first is what it says."""
        for child in self._below(name, 1)[1:]:
            raise Busy(f"dataset {name}", f"has the child {child}")
        for short, snapshot in filesystem.snapshots.items():
            for clone in self._clones(name, short):
                raise Busy(f"dataset {name}", f"has the clone {clone}")
            for tag in sorted(snapshot.holds):
                raise Busy(f"dataset {name}", f"snapshot {name}@{short} ({tag}) is held")
        others = [short for short in filesystem.snapshots if not short.startswith(self.ours) and short != also]
        if others and not strangers:
            raise Busy(f"dataset {name}", said_of_strangers(len(others), others[-1]))

    def _users(self, filesystem: Filesystem) -> list[str]:
        mounts = [f"the mount at {mounted.path}" for mounted in self._mounted if mounted.filesystem is filesystem]
        return [*mounts[:1], *filesystem.users]

    def _cover(self, path: str, filesystem: Filesystem) -> None:
        covered = f"{self.place}/covered{self._next()}"
        guarded = unguard(path)
        os.rename(path, covered)
        os.symlink(filesystem.files, path)
        self._mounted.append(Mounted(path, filesystem, covered, guarded))

    def _uncover(self, mounted: Mounted) -> None:
        os.unlink(mounted.path)
        os.rename(mounted.covered, mounted.path)
        if mounted.guarded:
            guard(mounted.path)
        self._mounted.remove(mounted)


def unguard(directory: str) -> bool:
    """The directory is not immutable and can be renamed; tell whether it was."""
    if not is_guarded(directory):
        return False
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        buffer = bytearray(8)
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, buffer)
        flags = int.from_bytes(buffer[:4], "little") & ~FS_IMMUTABLE_FL
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, flags.to_bytes(8, "little"))
    finally:
        os.close(descriptor)
    return True


def read_files(directory: str) -> dict[str, bytes]:
    """Return the contents of the regular files of a directory by name."""
    found = {}
    for entry in os.scandir(directory):
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb") as file:
                found[entry.name] = file.read()
    return found


def _same_but_zeros(one: bytes, other: bytes) -> bool:
    """Tell whether two contents differ by nothing but zeros at the end; comparing is a hundred times quicker than stripping them."""
    common = min(len(one), len(other))
    rest = one[common:] or other[common:]
    return one[:common] == other[:common] and rest == bytes(len(rest))


def allocated(directory: str) -> int:
    """Return the bytes that the files of a directory take on disk."""
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False))


_pools: weakref.WeakValueDictionary[str, FakeZfs] = weakref.WeakValueDictionary()


def no_space(path: str) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Nothing below a filesystem's directory is changed while that is read-only, nor grows while its pool is full."""
    if not _pools or not writes(event, arguments):
        return
    if not isinstance(arguments[0], str):
        _refuse_growing(event, os.path.realpath(f"/proc/self/fd/{arguments[0]}"), arguments)
        return
    places = arguments[:2] if event == "os.rename" else arguments[1:2] if event == "os.symlink" else arguments[:1]
    for path in places:
        whole = os.path.realpath(path) if event in FOLLOWING else f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"
        for directory in (whole, os.path.dirname(whole)):
            place, _slash, number = directory.rpartition("/")
            if place in _pools and _pools[place].refuses(number):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    _refuse_growing(event, whole, arguments)


def _refuse_growing(event: str, path: str, arguments: tuple[Any, ...]) -> None:
    """A transaction that frees nothing, as of a file that becomes shorter, needs room."""
    for place, pool in list(_pools.items()):
        within = pool.left is not None and not pool.reaper.spared and path.startswith(f"{place}/")
        if within and event in GROWING and (event != "os.truncate" or arguments[1] > os.stat(path).st_size) and pool.is_full():
            raise no_space(path)


FOLLOWING = ("open", "os.chmod", "os.truncate")  # also what a link at the end of a path leads to
GROWING = ("open", "os.rename", "os.mkdir", "os.symlink", "os.chmod", "os.truncate")
assert set(FOLLOWING) - {"open"} <= set(EVENTS)
assert set(GROWING) - {"open"} <= set(EVENTS)
sys.addaudithook(_refuse)
