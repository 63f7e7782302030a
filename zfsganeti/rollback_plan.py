"""What a rollback of an instance will do (pure), and how far one is: what its datasets say of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zfsganeti.datasets import BACK, MARKS, ROLLBACK
from zfsganeti.errors import Busy, Foreign, Missing, Refused, human
from zfsganeti.here import Here
from zfsganeti.look import Look
from zfsganeti.names import check_dataset, check_kept
from zfsganeti.snapshots import Part, Snap
from zfsganeti.zfs import Dataset

BEGUN, DECIDED, DONE, DISCARD, UNDONE = "begun", "decided", "done", "discard", "undone"
MOMENT = 60  # seconds that snapshots of disks in several pools, which belong together, may be apart

# the plan (pure)


@dataclass(frozen=True)
class Past:
    """What is known of one dataset: its snapshots, oldest first, and the bytes that were written since the newest."""

    name: str
    snaps: tuple[Snap, ...]
    written: int = 0
    unused: tuple[str, ...] = ()  # files that come back of disks that are none any more

    def newer(self, short: str) -> tuple[Snap, ...]:
        born = next(snap.born for snap in self.snaps if snap.short == short)
        return tuple(snap for snap in self.snaps if snap.born > born)


@dataclass(frozen=True)
class Step:
    """One thing that is done to a dataset; `what` is a dataset or a snapshot, `to` a dataset, or the trash."""

    verb: str  # clone, promote, keep, place; or destroy, roll back
    what: str
    to: str = ""


@dataclass(frozen=True)
class Plan:
    """What a rollback of one instance will do."""

    instance: str
    snapshot: str
    discard: bool
    pasts: tuple[Past, ...]

    def steps(self) -> list[Step]:
        """Return the steps, in order; those before the first that changes an existing dataset can be taken back."""
        if self.discard:
            doomed = [Step("destroy", f"{past.name}@{snap.short}") for past in self.pasts for snap in reversed(past.newer(self.snapshot))]
            return doomed + [Step("roll back", f"{past.name}@{self.snapshot}", past.name) for past in self.pasts]
        made = [Step("clone", f"{past.name}@{self.snapshot}", beside(past.name)) for past in self.pasts]
        for past in reversed(self.pasts):
            made += [Step("promote", beside(past.name)), Step("keep", past.name), Step("place", beside(past.name), past.name)]
        return made

    def sentences(self) -> list[str]:
        """Return the plan for a person: what is newer, and what becomes of it."""
        said = []
        for past in self.pasts:
            newer = [snap.short for snap in past.newer(self.snapshot)]
            written = past.written + sum(snap.written for snap in past.newer(self.snapshot))
            goes = "destroyed for good" if self.discard else "kept in the trash"
            and_these = f", and what is newer than {self.snapshot}: {', '.join(newer)}" if newer else ""
            said.append(f"{past.name} goes back to {self.snapshot}")
            said.append(f"{goes}: what was written since ({human(written)}){and_these}")
            said += [f"{file} comes back in {past.name}, which is no disk of {self.instance} any more" for file in past.unused]
        return said + self._of_several_moments()

    def _of_several_moments(self) -> list[str]:
        """Return what is to be known when snapshots of this name were not taken together: a disk may have been another instance's."""
        taken = {past.name: snap.created for past in self.pasts for snap in past.snaps if snap.short == self.snapshot}
        first, last = min(taken, key=taken.__getitem__), max(taken, key=taken.__getitem__)
        if taken[last] - taken[first] <= MOMENT:
            return []
        when = {name: time.strftime("%Y-%m-%d %H:%M", time.gmtime(taken[name])) for name in (first, last)}
        return [f"{self.snapshot} is not of one moment: {first} goes back to {when[first]}, {last} to {when[last]}"]


def beside(name: str) -> str:
    """Return where the clone is made that is to take a dataset's place."""
    root, _slash, short = name.rpartition("/")
    return check_dataset(f"{root}/{BACK}/{short}")


def plan(instance: str, snapshot: str, pasts: Sequence[Past], *, discard: bool) -> Plan:
    """Return the plan; Refused when not every disk has the snapshot: an instance goes back as a whole."""
    lacking = [past.name for past in pasts if all(snap.short != snapshot for snap in past.snaps)]
    if lacking:
        why = f"{lacking[0]} has no such snapshot, and all disks go back or none"
        raise Refused(f"snapshot {snapshot} of {instance}", why, f"gnt-zfs snapshot list {instance} shows which are whole")
    for past in pasts if not discard else ():
        for snap in past.snaps:  # before anything is moved: ZFS would refuse the long name half-way
            check_kept(past.name, snap.short)
    return Plan(instance, snapshot, discard, tuple(pasts))


# how far it is


@dataclass(frozen=True)
class State:
    """What a dataset says of the rollback that it takes part in; `of` are all datasets: name, volume, files, reservation."""

    instance: str
    snapshot: str
    token: str
    stage: str
    of: tuple[tuple[str, str, dict[str, int], str], ...]
    new: bool = False  # it is the clone

    def pack(self) -> str:
        return json.dumps({**self.__dict__, "of": [list(each) for each in self.of]}, separators=(",", ":"), sort_keys=True)

    @staticmethod
    def read(dataset: Dataset | None) -> State | None:
        """Return what a dataset's mark says, None without a mark; Foreign when it cannot be read."""
        if dataset is None or ROLLBACK not in dataset.marks:
            return None
        try:
            known = json.loads(dataset.marks[ROLLBACK])
            return State(**{**known, "of": tuple((short, volume, dict(files), kept) for short, volume, files, kept in known["of"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Foreign(f"dataset {dataset.name}", f"its mark {ROLLBACK} is not understood") from None

    def parts(self, here: Here) -> list[Part]:
        return [Part(here.place_of(short), short, volume, files) for short, volume, files, _kept in self.of]


def refuse(found: Dataset | State) -> None:
    """Raise Busy for what a rollback is at work on, with the ways out."""
    state = found if isinstance(found, State) else State.read(found)
    if state is not None:
        command = f"gnt-zfs snapshot rollback {state.instance} {state.snapshot}"
        way_out = f"{command} finishes it, with --abort it is taken back; gnt-zfs check --repair ends it as well"
        raise Busy(state.instance, f"a rollback to {state.snapshot} was interrupted", way_out)


def unfinished(here: Here, looks: Iterable[Look] = ()) -> list[dict[str, Any]]:
    """Return the instances of this node whose rollback was interrupted or is going on, with the names of their datasets."""
    found: dict[str, dict[str, Any]] = {}
    for look in looks or [Look(each.store) for each in here.places()]:
        store, going_back = look.store, []
        with contextlib.suppress(Missing):
            going_back = store.zfs.datasets(f"{store.root.name}/{BACK}", depth=1, marks=MARKS)
        for dataset in (*look.datasets, *going_back):
            with contextlib.suppress(Foreign):
                state = State.read(dataset)
                if state is not None:
                    names = [short for short, *_rest in state.of]
                    found[state.instance] = {"instance": state.instance, "snapshot": state.snapshot, "datasets": names}
    return list(found.values())


def state_of(here: Here, instance: str, shorts: Sequence[str]) -> State | None:
    """Return the rollback that was interrupted of the instance with these datasets, None without one."""
    for short in shorts:
        each = here.place_of(short)
        for name in (f"{each.root.name}/{BACK}/{short}", f"{each.root.name}/{short}"):
            state = State.read(each.zfs.get(name, marks=MARKS))
            if state is not None and state.instance == instance:
                return state
    return None
