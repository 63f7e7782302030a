"""The trash: what was removed, for how long it is kept, and how it comes back."""

from __future__ import annotations

import contextlib
import os
import time

from zfsganeti import clock
from zfsganeti.datasets import (
    CLUSTER,
    DISK,
    FORMER,
    INSTANCE,
    INTENT,
    KEPT,
    MARKS,
    MOVE,
    NEVER_WRITTEN,
    OPENED,
    RECORD,
    REPLACED,
    RESTORING,
    ROLLBACK,
    SIZE,
    TRASH,
    VOLUME,
    end_move,
    former_names,
    locked,
    pack_former,
    pack_record,
    unpack_record,
)
from zfsganeti.errors import BadInput, Busy, Foreign, Missing, Refused, Unavailable, ZfsGanetiError
from zfsganeti.names import PREFIX, meant
from zfsganeti.roots import make_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence
    from typing import Any

    from zfsganeti.datasets import Store
    from zfsganeti.zfs import Dataset

STAMP = "%Y%m%dT%H%M%SZ"
DAY = 86400
SEEN = PREFIX + "seen"  # ENTRY SECONDS: since when an entry is there whose name says a time that is yet to come


def entry_name(instance: str, when: float, taken: Callable[[str], bool]) -> str:
    """Return a free name in the trash for an instance removed at a time; parse_entry is its inverse."""
    name = f"{instance}:{time.strftime(STAMP, time.gmtime(when))}"
    number, free = 1, name
    while taken(free):
        number += 1
        free = f"{name}.{number}"
    return free


def parse_entry(name: str) -> tuple[str, int]:
    """Return the instance and the time of removal (seconds since 1970) that an entry's name says."""
    import calendar

    instance, colon, stamp = name.partition(":")
    try:
        return instance, calendar.timegm(time.strptime(stamp.split(".")[0], STAMP))
    except ValueError:
        raise BadInput(f"trash entry {name}: is not named instance:time{'' if colon else ', it has no colon'}") from None


class Entry:
    """Something in the trash of one node; sizes are bytes, times seconds since 1970."""

    def __init__(self, dataset: Dataset, node: str = "") -> None:
        self.dataset, self.node = dataset, node
        self.entry = dataset.short
        owner, self.removed = parse_entry(dataset.short)
        self.stamp = self.removed  # by the clock of then; of what was removed at the same time, what came first
        self.volume = dataset.marks.get(VOLUME, "")
        self.instance = dataset.marks.get(INSTANCE, "") if self.volume else owner
        self.used = dataset.used
        self.size = int(dataset.marks.get(SIZE) or 0)  # of a volume's disk
        self.record = unpack_record(dataset.marks.get(RECORD, ""))
        self.restoring = dataset.marks.get(RESTORING, "")
        self.kept = KEPT in dataset.marks  # until it is emptied by name or restored
        self.unseen = False  # it was put there by a clock that was ahead, and nothing says yet since when it is there

    def count_from(self, now: float) -> None:
        """It was removed at `now` at the latest, and at no later time when that is told again: its clock may have been years ahead.

        What seems to have been removed within a day from now keeps its time: a clock that is a little behind changes no order.
        """
        if self.removed > now + DAY:
            entry, _space, seen = self.dataset.marks.get(SEEN, "").partition(" ")
            self.unseen = entry != self.entry or not seen.isdecimal() or int(seen) > now
            self.removed = int(now) if self.unseen else int(seen)

    def as_json(self, days: int, until: float = 0) -> dict[str, Any]:
        """Return what is told of the entry, when nothing expires before `until`."""
        return {
            "entry": self.entry,
            "instance": self.instance,
            "volume": self.volume,
            "size": self.size,
            "removed": self.removed,
            "expires": max(self.removed + days * DAY, int(until)),
            "used": self.used,
            "kept": self.kept,
            "restorable": self.record is not None,
            "uuid": (self.record or {}).get("uuid", ""),
            "disk": (self.record or {}).get("disk", 0),
            "set": self.dataset.marks.get(REPLACED, ""),  # of one moment: what a rollback has replaced, or clones of one snapshot
        }


def choose(entries: Sequence[Mapping[str, Any]], wanted: str, *, disk: bool = False) -> str:
    """Return the entry meant by an entry's or an instance's name, which may be short: how it begins is enough.

    Of an instance it is the newest of those that say how it was made; where one disk is wanted, the instance must have but one.
    """
    if any(entry["entry"] == wanted for entry in entries):
        return wanted
    matching = [entry for entry in entries if entry["instance"] == wanted]
    if not matching:
        matching = [entry for entry in entries if entry["instance"].split(".")[0] == wanted]
        _refuse_several(wanted, matching, "instance")
    if not matching:
        matching = [entry for entry in entries if wanted and entry["entry"].startswith(wanted)]
        _refuse_several(wanted, matching, "entry")
    if disk:
        _refuse_several(wanted, matching, "entry")
    if not matching:
        known = {entry["entry" if ":" in wanted else "instance"] for entry in entries} - {""}
        raise Missing(f"{wanted} in the trash", meant(wanted, known, "gnt-zfs trash list shows what is there"))
    return str(max(matching, key=lambda entry: (entry["restorable"], entry["removed"], stamp_of(entry), entry["entry"]))["entry"])


def stamp_of(entry: Mapping[str, Any]) -> int:
    """Return when an entry was removed by the clock of then, in seconds since 1970, which may have been wrong."""
    with contextlib.suppress(BadInput):
        return parse_entry(entry["entry"])[1]
    return int(entry["removed"])  # another node's word for something whose name is none of ours


def _refuse_several(wanted: str, matching: Sequence[Mapping[str, Any]], of: str) -> None:
    """All that a name can mean is one thing, though it may have been removed more than once."""
    if len({str(entry[of]).partition(":")[0] for entry in matching}) > 1:
        raise BadInput(f"{wanted}: could be any of {', '.join(sorted(entry['entry'] for entry in matching))}")


def _called(old: str, new: str, files: Container[str], former: Mapping[str, Sequence[str]]) -> str:
    """Return how a file is called that was `old` once: a restore that was given up may have renamed it."""
    if old in files or new in files:
        return old
    return next((file for file, names in former.items() if old in names and file in files), old)


def plan_giving_up(entries: list[tuple[str, int, int]], *, now: float, days: int, missing: int, until: float = 0) -> list[str]:
    """Return which entries (name, removed, used) to destroy: the expired, then the oldest until `missing` bytes would be free.

    Of those that were removed at the same time the first in the list is the oldest. Before `until` nothing is expired.
    """
    doomed, freed = [], 0
    for name, removed, used in sorted(entries, key=lambda entry: entry[1]):
        if max(removed + days * DAY, until) <= now or freed < missing:
            doomed.append(name)
            freed += used
    return doomed


class Trash:
    """The trash under a store's root."""

    def __init__(self, store: Store) -> None:
        self.store, self.zfs = store, store.zfs
        self.name = f"{store.root.name}/{TRASH}"

    def entries(self) -> list[Entry]:
        """Return what is in the trash, oldest first; what was put there by others is not ours to list."""
        if self.zfs.get(self.name) is None:
            return []
        found = [
            dataset
            for dataset in self.zfs.datasets(self.name, depth=1, marks=(*MARKS, SEEN))
            if dataset.name != self.name and self.store.is_ours(dataset)
        ]
        entries = []
        for dataset in found:
            with contextlib.suppress(BadInput):
                entries.append(Entry(dataset))
                entries[-1].count_from(self.store.now())
        return sorted(entries, key=lambda entry: (entry.removed, entry.stamp, entry.entry))

    def until(self) -> float:
        """Return before which time nothing expires, in seconds since 1970."""
        return clock.until(self.zfs, self.store.root.name)

    def find(self, entry: str) -> Entry:
        for candidate in self.entries():
            if candidate.entry == entry:
                return candidate
        raise Missing(f"{entry} in the trash", "gnt-zfs trash list shows what is there")

    @contextlib.contextmanager
    def _alone(self, entry: str) -> Iterator[Entry]:
        """Yield the entry as it is now: meanwhile nobody else reserves or destroys it."""
        self.refuse_needed(self.find(entry).dataset)  # what is not there is said at once
        pool = self.store.root.name.split("/")[0]  # one that hangs keeps no other's trash waiting
        with locked(f"{TRASH}.{pool}", what=f"{entry} in the trash"):
            yield self.find(entry)

    def refuse_needed(self, dataset: Dataset) -> None:
        """Raise Busy for what an interrupted rollback has put here: with it the rollback can be taken back, without it it cannot."""
        if ROLLBACK not in dataset.marks:
            return
        from zfsganeti.rollback_plan import State, beside, refuse

        state, replaced = State.read(dataset), f"{self.store.root.name}/{dataset.short.partition(':')[0]}"
        if state is not None and not state.new:  # a clone was put here because snapshots of others keep it, and is needed for nothing
            for name in (replaced, beside(replaced)):  # what has replaced it is there until the rollback has ended
                other = State.read(self.zfs.get(name, marks=MARKS))
                if other is not None and other.token == state.token:
                    refuse(state)

    def put(self, instance: str, record: Mapping[str, Any] | None = None, *, at_once: bool = True) -> str | None:
        """The instance's dataset is in the trash with all its files; None when there is none. With trash_days 0 it is gone `at_once`."""
        store = self.store
        dataset = store.find(instance)
        if dataset is None:
            store.remove_directories(instance)
            return None
        entry = self._free_entry(instance)
        end_move(self.zfs, dataset)
        values = {"canmount": "noauto", **({RECORD: pack_record(record)} if record is not None else {})}
        self.zfs.set(dataset.name, values)
        store.unmount_elsewhere(dataset.name)
        # also those that a boot has mounted over
        store.remove_links(store.home(instance), store.aside(instance))
        self.zfs.rename(dataset.name, f"{self.name}/{entry}")
        store.remove_directories(instance)
        self.zfs.clear(f"{self.name}/{entry}", [mark for mark in (INTENT, MOVE) if mark in dataset.marks])
        if at_once and store.config.trash_days == 0 and KEPT not in dataset.marks:
            self.destroy(entry)
        return entry

    def put_volume(self, dataset: Dataset, size: int, *, at_once: bool = True) -> str:
        """A volume, which is no device any more and whose disk has `size` bytes, is in the trash; with trash_days 0 gone `at_once`."""
        store = self.store
        entry = self._free_entry(dataset.short)
        end_move(self.zfs, dataset)
        self.zfs.clear(dataset.name, [mark for mark in (OPENED, INTENT, RESTORING) if mark in dataset.marks])
        self.zfs.set(dataset.name, {"canmount": "noauto", SIZE: str(size)})
        home = f"{store.root.path}/{dataset.short}"
        self.zfs.unmount(home, seconds=store.config.busy_seconds)
        store.unmount_elsewhere(dataset.name)
        self.zfs.rename(dataset.name, f"{self.name}/{entry}")
        self.zfs.clear(f"{self.name}/{entry}", [mark for mark in (MOVE,) if mark in dataset.marks])
        with contextlib.suppress(OSError):
            os.rmdir(home)
        if at_once and store.config.trash_days == 0 and KEPT not in dataset.marks:
            self.destroy(entry)
        return entry

    def put_aside(self, dataset: str, name: str) -> str:
        """A dataset of ours that nothing uses any more is in the trash as something that was removed under that name."""
        entry = self._free_entry(name)
        found = self.zfs.get(dataset, marks=MARKS)
        if found is not None:
            end_move(self.zfs, found)
        self.zfs.set(dataset, {"canmount": "noauto", **(self._length(found) if found is not None else {})})
        self.store.unmount_elsewhere(dataset)
        self.zfs.rename(dataset, f"{self.name}/{entry}")
        self.zfs.clear(f"{self.name}/{entry}", [MOVE] if found is not None and MOVE in found.marks else [])
        return entry

    def _length(self, dataset: Dataset) -> dict[str, str]:
        """Return what is to be said of how long a volume's disk is, nothing where that is said already or cannot be seen."""
        if VOLUME in dataset.marks and not (ROLLBACK in dataset.marks and SIZE in dataset.marks):  # which a rollback has just said
            with contextlib.suppress(ZfsGanetiError, OSError), self.store.looking_into(dataset) as path:
                return {SIZE: str(os.stat(f"{path}/{DISK}").st_size)}
        return {}

    def add_clone(self, snapshot: str, name: str, marks: Mapping[str, str]) -> str:
        """A clone of a snapshot is in the trash, as if it had been removed under that name with these marks."""
        entry = self._free_entry(name)
        self.zfs.clone(snapshot, f"{self.name}/{entry}", marks, {"canmount": "noauto"})
        return entry

    def drop_clone(self, entry: str) -> None:
        """A clone that nothing was made of is gone."""
        self.unmark(entry)
        self.destroy(entry)

    def discard(self, instance: str, record: Mapping[str, Any] | None = None) -> str | None:
        """Nothing of the instance is left under its name: what holds files or snapshots is in the trash, what is empty is gone."""
        dataset = self.store.find(instance)
        if dataset is None or self.store.is_empty(dataset):
            self.store.sweep(instance)
            return None
        return self.put(instance, record)

    def _free_entry(self, name: str) -> str:
        """Return a name in the trash, which exists now, for something that is removed at this moment."""
        self._make()
        clock.heed(self.store)
        return entry_name(name, self.store.now(), lambda taken: self.zfs.get(f"{self.name}/{taken}") is not None)

    def _make(self) -> None:
        make_parent(self.zfs, self.name)

    def destroy(self, entry: str, *, strangers: bool = False) -> int:
        """The entry is gone for good; return the bytes it used. Snapshots of others keep it unless `strangers`."""
        with self._alone(entry) as found:
            if found.restoring:
                raise Busy(entry, "is being restored", f"gnt-zfs trash restore {entry} ends it, gnt-zfs check --repair gives that up")
            try:
                self.zfs.destroy(
                    found.dataset.name,
                    {mark: value for mark, value in found.dataset.marks.items() if mark in (INSTANCE, VOLUME, CLUSTER)},
                    strangers=strangers,
                    seconds=self.store.config.busy_seconds,
                )
            except Missing:
                return 0
        with contextlib.suppress(OSError):
            os.rmdir(f"{self.store.root.path}/{TRASH}/{entry}")
        return found.used

    def give_up(self, only: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
        """What is expired, and the oldest while the root is short of space, is gone; return those and what refused to go.

        With `only` it is what of these is so still.
        """
        gone, kept = [], []
        days = self.store.config.trash_days
        until = clock.look(self.zfs, self.store.root.name, self.store.now(), days * DAY)
        found = self.entries()
        self._remember(found)
        for entry in self._doomed(found, until):
            if only is not None and entry not in only:
                continue
            try:
                self.destroy(entry)
                gone.append(entry)
            except Missing:
                continue  # somebody has taken it out meanwhile
            except ZfsGanetiError as error:  # one that cannot go keeps no younger one from going
                kept.append(f"{entry}: {error.why if isinstance(error, Refused | Unavailable) else error}")
        return gone, kept

    def _remember(self, entries: Sequence[Entry]) -> None:
        """Of what bears a date that is yet to come it is known since when it is there at least, so that it expires in its time."""
        for entry in entries:
            if entry.unseen:
                with contextlib.suppress(ZfsGanetiError):  # it may be gone; otherwise the next one to look tries again
                    self.zfs.set(entry.dataset.name, {SEEN: f"{entry.entry} {entry.removed}"})

    def doomed(self) -> list[Entry]:
        """Return what would be given up now."""
        until = clock.foresee(self.zfs, self.store.root.name, self.store.now(), self.store.config.trash_days * DAY)
        found = self.entries()
        names = self._doomed(found, until)
        return [entry for entry in found if entry.entry in names]

    def _doomed(self, found: Sequence[Entry], until: float) -> list[str]:
        entries = [(entry.entry, entry.removed, entry.used) for entry in found if not self._stays(entry)]
        days = self.store.config.trash_days
        return plan_giving_up(entries, now=self.store.now(), days=days, missing=self._missing(), until=until)

    def _stays(self, entry: Entry) -> bool:
        """Tell whether an entry is not given up, however old it is and however little space there is."""
        try:
            self.refuse_needed(entry.dataset)
        except (Busy, Foreign):
            return True
        return bool(entry.restoring) or entry.kept

    def _missing(self) -> int:
        """Return how many bytes the root lacks to have its share of its own space available; negative when it has more."""
        root = self.zfs.get(self.store.root.name)
        if root is None:
            return 0
        # available, unlike what the pool calls free, knows of reservations, quotas and parity; what was destroyed a moment
        # ago is being freed in the background. Of the pool's space a root may have but a part
        wanted = (root.used + root.available) * self.store.config.trash_min_free // 100
        return wanted - root.available - self.zfs.pool(root.name).freeing

    # the way back

    def mark_restoring(self, entry: str, instance: str) -> None:
        """The entry is reserved for an instance that is being made for it; it neither expires nor counts against space."""
        with self._alone(entry) as found:
            if found.restoring not in ("", instance):
                goes_on = f"gnt-zfs trash restore {entry} --as {found.restoring} goes on"
                raise Refused(entry, f"is being restored as {found.restoring}", f"{goes_on}, gnt-zfs check --repair gives that up")
            self.zfs.set(found.dataset.name, {RESTORING: instance})

    def reserve(self, entry: str, token: str) -> None:
        """The volume may be taken back by whoever shows the token, and by nobody else."""
        with self._alone(entry) as found:
            if not found.volume:
                raise Refused(entry, "is an instance's dataset, not a volume")
            self.zfs.set(found.dataset.name, {RESTORING: token})

    def unmark(self, entry: str) -> None:
        self.zfs.clear(self.find(entry).dataset.name, [RESTORING])

    def swap_in(self, entry: str, instance: str, renames: list[tuple[str, str]]) -> None:
        """The entry is the instance's dataset, its files under their new names; the empty one made meanwhile is gone.

        `renames` are (old, new) file names in disk order. Killed anywhere, it can be called again.
        """
        store = self.store
        existing = store.find(instance)
        if existing is not None and existing.marks.get(RESTORING) == instance:
            store.bring_home(instance)  # all but the last step was done
            return
        found = self.find(entry)
        self.refuse_needed(found.dataset)
        if found.restoring not in ("", instance):  # somebody gave this one up
            raise Refused(entry, f"is being restored as {found.restoring} by now", f"gnt-instance remove {instance}")
        fresh = [new for _old, new in renames]
        sizes = self._sizes(instance, existing, fresh) if existing is not None else {}
        self._rename_files(found.dataset, renames, sizes)
        if existing is not None:
            self._drop_fresh(instance, existing, fresh)
        self.zfs.clear(found.dataset.name, [mark for mark in (KEPT, MOVE, ROLLBACK) if mark in found.dataset.marks])
        self.zfs.set(found.dataset.name, {**store.marks(instance), RESTORING: instance})
        self.zfs.rename(found.dataset.name, store.name(instance))
        store.bring_home(instance)

    def _sizes(self, instance: str, dataset: Dataset, expected: list[str]) -> dict[str, int]:
        """Return how long the files are in a dataset, which are the disks as Ganeti has just made them; Refused if they are used."""
        with self.store.looking_into(dataset) as path:
            self._refuse_written(instance, path, expected)
            return {file: os.lstat(f"{path}/{file}").st_size for file in os.listdir(path)}

    def _rename_files(self, dataset: Dataset, renames: list[tuple[str, str]], sizes: Mapping[str, int]) -> None:
        """The files bear their new names, and none is shorter than the one whose place it takes, as a clone that was killed may be.

        How they were called is known before the first is renamed: the instance may be given up half-way, and made once more.
        """
        former = dataset.marks.get(FORMER, "")
        with self.store.looking_into(dataset) as path:
            files = set(os.listdir(path))
            renames = [(_called(old, new, files, former_names(former)), new) for old, new in renames]
            lost = [old for old, new in renames if old not in files and new not in files]
            if lost:
                raise Missing(f"{lost[0]} in {dataset.name}")
            covered = [new for old, new in renames if old != new and {old, new} <= files]
            if covered:
                raise Refused(f"{covered[0]} in {dataset.name}", "is there already and would be lost", "move it away")
            self.zfs.set(dataset.name, {FORMER: pack_former(former, renames)})
            for old, new in renames:
                if old in files and old != new:
                    os.rename(f"{path}/{old}", f"{path}/{new}")
                if os.stat(f"{path}/{new}").st_size < sizes.get(new, 0):
                    os.truncate(f"{path}/{new}", sizes[new])

    def _refuse_written(self, instance: str, path: str, expected: list[str]) -> None:
        """What is mounted at the path are the empty disks that Ganeti has just made."""
        written = [file for file in os.listdir(path) if file not in expected or os.stat(f"{path}/{file}").st_blocks * 512 > NEVER_WRITTEN]
        if written:
            way_out = "gnt-zfs check --repair gives this restore up, then --as ANOTHER-NAME makes one beside it"
            raise Refused(self.store.home(instance), f"{written[0]} holds data already", way_out)

    def _drop_fresh(self, instance: str, dataset: Dataset, expected: list[str]) -> None:
        """The dataset that Ganeti has just filled with empty disks is gone; anything with data in it is Refused."""
        store = self.store
        store.bring_home(instance)
        self._refuse_written(instance, store.home(instance), expected)
        self.zfs.unmount(store.home(instance), seconds=store.config.busy_seconds)
        self.zfs.destroy(dataset.name, store.marks(instance), seconds=store.config.busy_seconds)
