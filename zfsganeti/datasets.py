"""What an instance dataset is: its name, its marks, where it is mounted, and the way through each of Ganeti's operations.

A dataset is *at home* when it is mounted at ROOT's directory under the instance's name. Ganeti unlinks an instance's files
and removes or renames their directory, which cannot work on a mount point; so before such an operation the dataset is put
*aside*: mounted in `.aside`, with a plain directory of symlinks left at home. Files stay readable under their paths all
along, Ganeti removes or renames mere links, and if the operation never comes, nothing was lost and `bring_home` undoes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

from zfsganeti.config import Config
from zfsganeti.errors import BadInput, Busy, CommandFailed, Foreign, Missing, NoSpace, Refused, Unavailable, ZfsGanetiError, human
from zfsganeti.files import copy_sparse, make_links, plain_files, same_content, set_mode
from zfsganeti.ganeti import check_name
from zfsganeti.names import PREFIX, check_dataset, check_fits
from zfsganeti.process import holding
from zfsganeti.roots import Root
from zfsganeti.zfs import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Protocol

    from zfsganeti.mounts import Mount
    from zfsganeti.zfs import Pool

    class Backend(Protocol):
        """What this room needs of ZFS; `zfsganeti.zfs.Zfs` is the real one."""

        ours: str

        def version(self) -> tuple[int, ...]: ...
        def datasets(self, root: str, *, depth: int | None = None, marks: Any = ()) -> list[Dataset]: ...
        def get(self, name: str, *, marks: Any = ()) -> Dataset | None: ...
        def local(self, name: str) -> dict[str, str]: ...
        def filesystems(self) -> list[tuple[str, str]]: ...
        def snapshots(self, root: str, *, depth: int | None = None) -> list[tuple[str, int, int]]: ...
        def count_snapshots(self, root: str) -> dict[str, int]: ...
        def snapshot_facts(self, root: str, wanted: Any, *, depth: int) -> dict[str, dict[str, str]]: ...
        def pool(self, name: str) -> Pool: ...
        def pool_health(self, name: str) -> str: ...
        def room(self, path: str) -> int: ...
        def mounts(self) -> list[Mount]: ...
        def mounted_at(self, path: str) -> str | None: ...
        def create(self, name: str, properties: Mapping[str, object], marks: Mapping[str, str]) -> None: ...
        def snapshot(self, names: Any, marks: Mapping[str, str] | None = None) -> None: ...
        def with_snapshot(
            self, root: str, short: str, facts: Any, *, depth: int, marks: Any = ()
        ) -> list[tuple[Dataset, dict[str, str]]]: ...
        def clone(self, snapshot: str, name: str, marks: Mapping[str, str], properties: Mapping[str, object] | None = None) -> None: ...
        def rename(self, old: str, new: str) -> None: ...
        def set(self, name: str, values: Mapping[str, str]) -> None: ...
        def mark_snapshot(self, snapshot: str, marks: Mapping[str, str]) -> None: ...
        def clear(self, name: str, keys: Any) -> None: ...
        def destroy_snapshots(self, names: Any) -> None: ...
        def destroy(
            self, name: str, marks: Any, *, strangers: bool = False, also: str = "", seconds: float = 0, only_check: bool = False
        ) -> None: ...
        def promote(self, name: str) -> None: ...
        def rename_snapshot(self, name: str, new: str) -> None: ...
        def holds(self, names: Any) -> dict[str, list[str]]: ...
        def held(self, name: str) -> dict[str, list[str]]: ...
        def hold(self, snapshot: str, tag: str) -> None: ...
        def release(self, snapshot: str, tag: str) -> None: ...
        def roll_back(self, targets: Mapping[str, str]) -> None: ...
        def refuse_newer_bookmarks(self, name: str, short: str) -> None: ...
        def mount(self, name: str, path: str) -> None: ...
        def unmount(self, path: str, *, lazy: bool = False, seconds: float = 0) -> None: ...


INSTANCE, VOLUME, CLUSTER, INTENT, RECORD, RESTORING, OPENED, SIZE, IMAGE, DETACH = (
    PREFIX + word for word in ("instance", "volume", "cluster", "intent", "record", "restoring", "opened", "size", "image", "detach")
)
MOVE, KEPT = PREFIX + "move", PREFIX + "kept"  # how far a move has come; that the trash does not give something up by itself
ROLLBACK, REPLACED = PREFIX + "rollback", PREFIX + "replaced"
FORMER = PREFIX + "former"  # how the disk files of an instance that was restored were called before, which its snapshots still do
MARKS = (INSTANCE, VOLUME, CLUSTER, INTENT, RECORD, RESTORING, OPENED, SIZE, IMAGE, DETACH, MOVE, KEPT, ROLLBACK, REPLACED, FORMER)
ASIDE, TRASH, COPIES, IMAGES, PARTIAL, MOVING, BACK = ".aside", ".trash", ".copies", ".images", ".partial", ".moving", ".rollback"
NEVER_WRITTEN = 4096  # bytes that an empty file may occupy
READY = "ready"  # the DETACH mark of a copy that is whole and takes the place of what it is a copy of
OLD = "..old"  # after a name below .copies, where none can end so: what the copy has replaced
DISK = "disk.raw"  # of an image, of a volume, and of a clone that an instance has not used yet
RESERVED = "refreservation"  # what an image or a disk keeps of the pool's space for itself
SAVED = "save-"  # after our prefix: a snapshot that an image is being made of
REMOVED = "removed-"  # after our prefix: a snapshot taken before Ganeti unlinked a disk
RECORD_LIMIT = 8000  # a user property holds 8191 bytes
FORMER_NAMES = 5  # of each disk, the latest: those of 16 disks have room in a user property
LOCKS = "/run/zfsganeti"  # not /run/lock, where every user may take a name before us
KEPT_FREE_PERCENT = 5  # of a root's space: what is copied or brought here must not stop the instances that are there
ABSORB_LIMIT = 64 << 20  # a hook copies no more than this: Ganeti waits 900 s for it
NEVER_CHANGED = 1 << 20  # bytes that mounting a clone and giving its disk another size write
HEALTHY = ("ONLINE",)
CLAIM = "gnt-zfs check --repair takes it over if it holds the instance's disks"
CHOOSE = "rename it or choose another instance name"


def pack_record(record: Mapping[str, Any]) -> str:
    """Return a record as a user property's value; one that is too long even compressed is Refused."""
    import base64
    import json
    import zlib

    text = json.dumps(record, separators=(",", ":"), sort_keys=True)
    if len(text.encode()) <= RECORD_LIMIT:
        return text
    packed = "z:" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    if len(packed) > RECORD_LIMIT:
        way_out = f"gnt-instance modify {record.get('name')} with shorter OS parameters or hypervisor parameters first"
        raise Refused(f"instance {record.get('name')}", "its settings are too long to be kept with its dataset", way_out)
    return packed


def unpack_record(value: str) -> dict[str, Any] | None:
    """Return the record a property holds, None when it holds none that can be read."""
    import base64
    import json
    import zlib

    try:
        text = zlib.decompress(base64.b64decode(value[2:], validate=True)).decode() if value.startswith("z:") else value
        record = json.loads(text)
    except (ValueError, RecursionError, zlib.error):
        return None
    return record if isinstance(record, dict) else None


def former_names(text: str) -> dict[str, list[str]]:
    """Return the names that disk files had before, newest first, by those that they have; {} when nothing readable is said of it."""
    import json

    try:
        known = json.loads(text or "{}")
        return {str(file): [str(name) for name in names] for file, names in known.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def pack_former(text: str, renames: Sequence[tuple[str, str]]) -> str:
    """Return what is to be said of former names after renames (old, new), which may have been told before."""
    import json

    known, found = former_names(text), {}
    for old, new in renames:
        names = dict.fromkeys([old, *known.get(old, ()), *known.get(new, ())])
        found[new] = [name for name in names if name != new][:FORMER_NAMES]
    return json.dumps({new: names for new, names in found.items() if names}, separators=(",", ":"))


def refuse_half_back(dataset: Dataset | None) -> None:
    """Raise Busy while a rollback is at work on a dataset: other disks of its instance may hold something else than this one."""
    if dataset is not None and ROLLBACK in dataset.marks:
        from zfsganeti.rollback_plan import refuse

        refuse(dataset)


def refuse_moving(dataset: Dataset, *, fenced: bool = False) -> None:
    """Raise Busy while a dataset is being moved, or only once another node is about to have it."""
    if MOVE in dataset.marks:
        from zfsganeti.moving import refuse_fenced, refuse_leaving

        refuse_fenced(dataset) if fenced else refuse_leaving(dataset)


def end_move(zfs: Backend, dataset: Dataset) -> None:
    """No move keeps a dataset from being written to, or its snapshots from being destroyed; its mark is cleared last, by the caller."""
    if MOVE in dataset.marks:
        from zfsganeti.moving import give_up

        give_up(zfs, dataset)


@contextlib.contextmanager
def locked(instance: str, *, seconds: float = 120, directory: str = "", what: str = "", shared: bool = False) -> Iterator[None]:
    """Nobody else of us works on the instance's dataset on this node; Unavailable when another one does for too long.

    Those that share it may be there at the same time.
    """
    directory = directory or LOCKS
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(f"{directory}/{instance}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK or time.monotonic() > deadline:
                    raise Unavailable(what or f"instance {instance}", "another operation of ours is at work on it") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


class Store:
    """The instance datasets of one node under its root."""

    def __init__(self, zfs: Backend, root: Root, cluster: str, config: Config, *, now: Callable[[], float] = time.time) -> None:
        self.zfs, self.root, self.cluster, self.config, self.now = zfs, root, cluster, config, now

    # names

    def name(self, instance: str) -> str:
        return check_dataset(f"{self.root.name}/{check_name(instance)}")

    def home(self, instance: str) -> str:
        return f"{self.root.path}/{check_name(instance)}"

    def aside(self, instance: str) -> str:
        return f"{self.root.path}/{ASIDE}/{check_name(instance)}"

    def marks(self, instance: str) -> dict[str, str]:
        return {INSTANCE: instance, CLUSTER: self.cluster}

    def is_ours(self, dataset: Dataset) -> bool:
        """Tell whether a dataset is an instance's or a volume of this cluster."""
        return dataset.marks.get(CLUSTER) == self.cluster and (INSTANCE in dataset.marks or VOLUME in dataset.marks)

    def find(self, instance: str, way_out: str = CLAIM) -> Dataset | None:
        """Return an instance's dataset, None without one; Foreign when the name is taken by something that is not ours."""
        dataset = self.zfs.get(self.name(instance), marks=MARKS)
        if dataset is None:
            return None
        if VOLUME in dataset.marks or dataset.marks.get(INSTANCE) != instance or dataset.marks.get(CLUSTER) != self.cluster:
            owner = dataset.marks.get(INSTANCE)
            belongs = f"belongs to {owner} of {dataset.marks.get(CLUSTER, 'no cluster')}" if owner else "was not made by zfsganeti"
            raise Foreign(f"dataset {dataset.name}", belongs, way_out)
        return dataset

    def claim(self, instance: str, files: list[str]) -> None:
        """A dataset that was made by hand, by other hooks or under the cluster's old name is ours, for it holds the instance's disks.

        `files` are the disks that the configuration places at home; where they all are, no other instance's can be.
        """
        dataset = self.zfs.get(self.name(instance), marks=MARKS)
        if dataset is None:
            raise Missing(f"dataset {self.name(instance)}")
        home = self.home(instance)
        there = set(os.listdir(home)) if self.zfs.mounted_at(home) == dataset.name else set()
        lost = [file for file in files if file not in there]
        if lost or not files:
            raise Foreign(f"dataset {dataset.name}", f"does not hold {lost[0] if lost else 'any disk'} of {instance} at {home}")
        self.zfs.set(dataset.name, self.marks(instance))
        self.bring_home(instance)

    # before an operation

    def admit(self, instance: str, sizes: list[int], *, create: bool = True, fresh: bool = False, origin: str = "") -> None:
        """The instance can have disks of these sizes (bytes) here: its dataset is at home, healthy and with room, or it is refused.

        A `fresh` one has no disks yet, so a dataset under its name must be empty; one that is refused is left as it was.
        With an `origin`, which is an image's snapshot, the dataset is a clone of that.
        """
        existing = self.find(instance, CHOOSE)
        if existing is None:
            check_fits("instance", instance, self.root.name)
            if self.zfs.get(f"{self.root.name}/{MOVING}/{instance}") is not None:
                raise Foreign(f"{instance} below {MOVING}", "comes from another node", f"gnt-zfs move --abort {instance} gives that up")
            self._check_way_is_free(instance)
        elif fresh:
            self._refuse_leftovers(instance, existing)
        self.check_pool()
        try:
            self.check_space(instance, sum(sizes))
        except NoSpace:
            if not self.is_being_restored(instance):
                raise
        if create:
            if existing is not None and existing.origin != origin and self.is_empty(existing):
                self.sweep(instance)  # what an add that failed has left is not what this one begins as
                existing = None
            self.bring_home(instance, existing or self._create(instance, origin))

    def _refuse_leftovers(self, instance: str, dataset: Dataset) -> None:
        """The dataset holds neither file nor snapshot: an instance that is added anew must not find another's."""
        if self.zfs.mounted_at(self.home(instance)) is None:
            self._check_way_is_free(instance)
        with self.looking_into(dataset) as path:
            found = self.contents(dataset, path)
        found += [name.split("@")[1] for name, _created, _used in self.zfs.snapshots(dataset.name, depth=1)]
        if found:
            raise Foreign(
                f"dataset {dataset.name}",
                f"holds {found[0]} of an instance that is gone",
                "gnt-zfs check --repair puts it into the trash",
            )

    def _check_way_is_free(self, instance: str) -> None:
        refuse_half_back(self.zfs.get(f"{self.root.name}/{BACK}/{instance}", marks=(ROLLBACK,)))  # which comes back as that
        home = self.home(instance)
        self.remove_links(home, self.aside(instance))
        if os.path.lexists(home) and (not os.path.isdir(home) or os.path.islink(home) or os.listdir(home)):
            raise Foreign(home, "is in the way and not empty", "move it away")

    def is_being_restored(self, instance: str) -> bool:
        trash = f"{self.root.name}/{TRASH}"
        if self.zfs.get(trash) is None:
            return False
        return any(entry.marks.get(RESTORING) == instance for entry in self.zfs.datasets(trash, depth=1, marks=MARKS))

    def check_pool(self) -> None:
        """The pool is healthy; Unavailable says what it is instead."""
        pool, health = self.root.name.split("/")[0], self.zfs.pool_health(self.root.name)
        if health not in HEALTHY and not (health == "DEGRADED" and self.config.allow_degraded):
            raise Unavailable(f"pool {pool}", f"is {health}", f"zpool status {pool}")

    def check_space(self, instance: str, asked: int) -> None:
        """The root has room for so many bytes more; NoSpace has the figures."""
        if asked <= self.zfs.room(self.root.path):
            return
        available = self.own().available
        if asked > available:
            raise NoSpace(f"{instance} on {self.root.name}", asked, available, "gnt-zfs trash empty may make room")

    def own(self) -> Dataset:
        """Return the root's dataset."""
        root = self.zfs.get(self.root.name)
        if root is None:
            raise Missing(f"dataset {self.root.name}")
        return root

    def spare(self) -> int:
        """Return how many bytes may be copied or brought here, the share that is kept free left out; less than 0 when it is not."""
        root = self.zfs.get(self.root.name)
        return root.available - (root.used + root.available) * KEPT_FREE_PERCENT // 100 if root is not None else 0

    def check_spare(self, what: str, asked: int) -> None:
        """There is room for so many bytes more beside the share that is kept free; NoSpace has the figures."""
        spare = self.spare()
        if asked > spare:
            kept = f"{KEPT_FREE_PERCENT}% of it are kept free"
            raise NoSpace(f"{what} on {self.root.name}", asked, max(0, spare), f"{kept}, gnt-zfs trash empty may make room")

    def _create(self, instance: str, origin: str) -> Dataset:
        self._check_way_is_free(instance)
        if origin:
            self.zfs.clone(origin, self.name(instance), self.marks(instance))
        else:
            self.zfs.create(self.name(instance), {}, self.marks(instance))
        return Dataset(self.name(instance), {}, self.marks(instance))

    # home and aside

    def bring_home(self, instance: str, found: Dataset | None = None, limit: int | None = ABSORB_LIMIT) -> None:
        """The dataset is mounted at home and nowhere else; links that stood in for its files are gone, plain files are in it."""
        dataset = found or self.find(instance)
        if dataset is None:
            raise Missing(f"dataset {self.name(instance)}")
        home, aside = self.home(instance), self.aside(instance)
        if self.zfs.mounted_at(home) != dataset.name:
            self.remove_links(home, aside)
            self._move_in(instance, home, limit)
            self.zfs.mount(dataset.name, home)
        set_mode(home, 0o750)
        self.unmount_elsewhere(dataset.name, home)
        self._leave_aside(aside)
        if dataset.canmount == "noauto":
            self.zfs.set(dataset.name, {"canmount": "on"})
        self.zfs.clear(dataset.name, [mark for mark in (INTENT, RECORD, RESTORING) if mark in dataset.marks])

    def put_aside(self, instance: str, intent: str, files: list[str], record: Mapping[str, Any] | None = None) -> bool:
        """The dataset is mounted aside, its `files`, which are the disks, linked at home; False without a dataset of ours here.

        What Ganeti might unlink all the same is in a snapshot, unless it only renames. If that fails, it is at home as it was.
        """
        dataset = self.find(instance)
        refuse_half_back(dataset or self.zfs.get(f"{self.root.name}/{BACK}/{instance}", marks=(ROLLBACK,)))
        if dataset is None:
            return False
        home, aside = self.home(instance), self.aside(instance)
        values = {INTENT: f"{intent} {self.now():.0f}", **({RECORD: pack_record(record)} if record is not None else {})}
        try:
            self.zfs.set(dataset.name, values)
            if files and not intent.startswith("rename"):
                self.keep_disks(instance)
            os.makedirs(os.path.dirname(aside), mode=0o700, exist_ok=True)
            if self.zfs.mounted_at(aside) != dataset.name:
                self.zfs.mount(dataset.name, aside)
            self.zfs.unmount(home, lazy=True)
            self.remove_links(home, aside)
            make_links(home, aside, files)
        except (ZfsGanetiError, OSError):
            with contextlib.suppress(ZfsGanetiError, OSError):
                self.bring_home(instance)
            raise
        return True

    @staticmethod
    def remove_links(home: str, aside: str) -> None:
        """Links that lead aside are gone from a plain directory; anything else is left."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for file in os.listdir(home):
                path = f"{home}/{file}"
                if os.path.islink(path) and os.path.dirname(os.readlink(path)) == aside:
                    os.unlink(path)

    def unmount_elsewhere(self, dataset: str, home: str = "") -> None:
        """It is mounted nowhere below the root but at `home`, nor a snapshot of it: neither by a boot nor by what was killed in a look."""
        for mount in (each for each in self.zfs.mounts() if dataset in (each.dataset, each.dataset.split("@")[0])):
            if mount.path != home and mount.path.startswith(f"{self.root.path}/") and "/.zfs/" not in mount.path:  # which ZFS ends
                self._leave_aside(mount.path)

    def remove_directories(self, instance: str) -> None:
        """Empty directories that were the instance's mount points are gone."""
        for directory in (self.home(instance), self.aside(instance)):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _leave_aside(self, aside: str) -> None:
        self.zfs.unmount(aside, lazy=True)
        with contextlib.suppress(FileNotFoundError, OSError):
            os.rmdir(aside)

    # plain files where a dataset should be

    def _movable(self, instance: str, home: str, limit: int | None) -> list[str]:
        """Return the plain files at home, which nobody uses and which hold no more than `limit` bytes."""
        if there := self.zfs.mounted_at(home):  # whose files are its own: not to be moved into another dataset
            raise Foreign(home, f"dataset {there} is mounted there, not {self.name(instance)}", f"umount {home}")
        files = plain_files(home)
        if limit is not None and (allocated := sum(os.stat(f"{home}/{file}").st_blocks * 512 for file in files)) > limit:
            held = f"holds {human(allocated)} of plain files where the dataset belongs"
            raise Refused(home, held, "gnt-zfs check --repair moves them in")
        if files and (users := holding([f"{home}/{file}" for file in files])):
            raise Busy(home, f"its plain files are in use by {users[0]}", f"stop {instance}, then gnt-zfs check --repair moves them in")
        return files

    def _move_in(self, instance: str, home: str, limit: int | None) -> None:
        """Files that Ganeti wrote into the plain directory at home are in the dataset, which is unmounted there now."""
        files = self._movable(instance, home, limit)
        if not files:
            return
        aside = self.aside(instance)
        os.makedirs(os.path.dirname(aside), mode=0o700, exist_ok=True)
        self.zfs.mount(self.name(instance), aside)
        copied = [file for file in files if os.path.lexists(f"{aside}/{file}")]  # by an earlier try that was killed, or others
        clash = [file for file in copied if not same_content(f"{home}/{file}", f"{aside}/{file}")]
        if clash:
            raise Foreign(home, f"{clash[0]} is there and in dataset {self.name(instance)} as well", "compare them and move one away")
        missing = [file for file in files if file not in copied]
        if limit is None:  # little is moved in wherever it is met
            self.check_spare(f"plain files of {instance}", sum(os.stat(f"{home}/{file}").st_blocks * 512 for file in missing))
        for file in missing:
            copy_sparse(f"{home}/{file}", f"{aside}/{file}")
        for file in files:
            os.unlink(f"{home}/{file}")

    def absorb(self, instance: str, limit: int | None = ABSORB_LIMIT) -> None:
        """An instance whose files Ganeti put into a plain directory has them in a dataset of its own."""
        dataset = self.find(instance)
        if dataset is None:
            if not os.path.isdir(self.home(instance)):
                raise Missing(self.home(instance))
            self._movable(instance, self.home(instance), limit)  # without a dataset an instance can use them as they are
            # a boot must not mount it over the files before they are in it; bring_home lets it
            self.zfs.create(self.name(instance), {"canmount": "noauto"}, self.marks(instance))
            dataset = Dataset(self.name(instance), {"canmount": "noauto"}, self.marks(instance))
        self.bring_home(instance, dataset, limit)

    # after an operation

    def finish_rename(self, old: str, new: str) -> None:
        """The dataset bears the new name and is at home there; repeated after any interruption it ends the same."""
        taken = self.zfs.get(self.name(new), marks=MARKS)
        if taken is None:
            dataset = self.find(old)
            if dataset is None:
                return  # nothing of ours under either name
            self.zfs.rename(dataset.name, self.name(new))
        elif taken.marks.get(INSTANCE) not in (old, new) or taken.marks.get(CLUSTER) != self.cluster:
            raise Foreign(f"dataset {taken.name}", "stands where the renamed instance's dataset belongs", "rename it")
        self.zfs.set(self.name(new), self.marks(new))
        self.remove_links(self.home(new), self.aside(old))
        self.bring_home(new)
        self._leave_aside(self.aside(old))
        self.remove_links(self.home(old), self.aside(old))
        self.remove_directories(old)

    def refuse_taken(self, instance: str) -> None:
        """The name is free for an instance that is to be renamed to it."""
        if self.find(instance, CHOOSE) is not None:
            raise Foreign(f"dataset {self.name(instance)}", "exists already", "gnt-zfs check says whose it is")
        check_fits("instance", instance, self.root.name)
        self._check_way_is_free(instance)

    def snapshot_name(self, dataset: str, purpose: str) -> str:
        """Return the name of a snapshot of ours that is taken now."""
        return f"{dataset}@{self.zfs.ours}{purpose}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self.now()))}"

    def keep_disks(self, instance: str) -> str:
        """The files as they are now are in a snapshot, since Ganeti is about to unlink or overwrite one; return its name."""
        if self.find(instance) is None:
            raise Missing(f"dataset {self.name(instance)}")
        return self.keep(self.name(instance))

    def keep(self, dataset: str) -> str:
        """What the dataset holds now is in a snapshot, for as long as the trash keeps things; return its name."""
        from zfsganeti import clock

        clock.heed(self)
        name = self.snapshot_name(dataset, REMOVED)
        if all(existing != name for existing, _created, _used in self.zfs.snapshots(dataset, depth=1)):
            self.zfs.snapshot([name])
        return name

    def forget_disks(self) -> None:
        """Our snapshots of removed disks older than what the trash keeps, and those that a killed save left, are gone; held ones stay."""
        from zfsganeti import clock

        oldest = {SAVED: self.now() - 86400}
        if clock.until(self.zfs, self.root.name) <= self.now():
            oldest[REMOVED] = self.now() - 86400 * self.config.trash_days
        homes = (self.root.name, f"{self.root.name}/{IMAGES}")  # the latter of an image that an instance had for itself
        known = self.zfs.datasets(self.root.name, depth=2, marks=MARKS)
        ours = {dataset.name for dataset in known if dataset.name.rpartition("/")[0] in homes and self.is_ours(dataset)}
        for name, created, _used in self.zfs.snapshots(self.root.name):
            kinds = [kind for kind in oldest if name.partition("@")[2].startswith(f"{self.zfs.ours}{kind}")]
            if kinds and created <= oldest[kinds[0]] and name.partition("@")[0] in ours:
                with contextlib.suppress(Refused, CommandFailed):
                    self.zfs.destroy_snapshots([name])

    def contents(self, dataset: Dataset, path: str) -> list[str]:
        """Return the names of what a dataset holds, which is mounted at `path`; the disk of an image that nobody has used is nothing."""
        names = sorted(os.listdir(path))
        unused = names == [DISK] and dataset.origin.startswith(f"{self.root.name}/{IMAGES}/") and dataset.written <= NEVER_CHANGED
        return [] if unused else names

    def is_empty(self, dataset: Dataset) -> bool:
        """Tell whether a dataset holds no file and no snapshot: then it can be destroyed without losing anything."""
        if self.zfs.snapshots(dataset.name, depth=1):
            return False
        with self.looking_into(dataset) as path:
            return not self.contents(dataset, path)

    @contextlib.contextmanager
    def looking_into(self, dataset: Dataset) -> Iterator[str]:
        """Yield a directory where the dataset is mounted, mounted for the occasion if it was not."""
        there = [mount.path for mount in self.zfs.mounts() if mount.dataset == dataset.name and mount.whole]
        if there:
            yield there[-1]
            return
        with self._mounted_aside(dataset.name) as path:
            yield path

    @contextlib.contextmanager
    def looking_into_snapshot(self, dataset: Dataset, short: str) -> Iterator[str]:
        """Yield a directory with what was in the dataset at that snapshot.

        `.zfs/snapshot` would mount it below where the dataset was mounted first, which may be another place by now.
        """
        with self._mounted_aside(f"{dataset.name}@{short}") as path:
            yield path

    @contextlib.contextmanager
    def _mounted_aside(self, name: str) -> Iterator[str]:
        path = f"{self.root.path}/{ASIDE}/{name.rsplit('/', 1)[1]}"
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self.zfs.mount(name, path)
        try:
            yield path
        finally:
            self._leave_aside(path)

    def sweep(self, instance: str) -> None:
        """An empty dataset of an instance that does not exist is gone; one that holds anything is Refused."""
        dataset = self.find(instance)
        if dataset is not None:
            if not self.is_empty(dataset):
                raise Refused(f"dataset {dataset.name}", "is not empty")
            self.zfs.unmount(self.home(instance))
            self._leave_aside(self.aside(instance))
            self.zfs.destroy(dataset.name, self.marks(instance), seconds=self.config.busy_seconds)
        self.remove_directories(instance)


def parse_intent(value: str) -> tuple[str, str, int]:
    """Return an intent's verb, its object and when it was declared (seconds since 1970)."""
    words = value.split(" ")
    if len(words) not in (2, 3) or not words[-1].isdigit():
        raise BadInput(f"intent {value!r}: is not understood")
    return words[0], words[1] if len(words) == 3 else "", int(words[-1])
