"""An instance goes back to a snapshot: what is newer is put into the trash, or destroyed if that is wanted.

A clone of the snapshot is made beside each dataset and given all that was set on it; then it is promoted, which hands it the
snapshots up to that one, the dataset goes into the trash with the newer ones, and the clone takes its place. ZFS's own rollback
would destroy what is newer, and is what `discard` does. Both say in user properties how far they are: until the first disk's
clone is marked as decided everything is taken back, from then on everything is finished, by whoever comes next.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zfsganeti import snapshots
from zfsganeti.datasets import (
    BACK,
    CLUSTER,
    DETACH,
    DISK,
    IMAGE,
    INSTANCE,
    INTENT,
    MARKS,
    MOVE,
    OPENED,
    RECORD,
    REPLACED,
    RESERVED,
    RESTORING,
    ROLLBACK,
    SIZE,
    TRASH,
    VOLUME,
    end_move,
    pack_record,
)
from zfsganeti.errors import BadInput, Busy, CommandFailed, Foreign, Full, Missing, Refused
from zfsganeti.here import Here
from zfsganeti.names import check_snapshot
from zfsganeti.rollback_plan import BEGUN, DECIDED, DISCARD, DONE, UNDONE, Past, Plan, State, beside, plan, refuse, state_of
from zfsganeti.roots import make_parent
from zfsganeti.snapshots import Part, alone, fit, handed_on, let_go, must_be_quiet, parts_of, refuse_newer_kept, resolve, users
from zfsganeti.trash import Trash
from zfsganeti.zfs import Dataset

# the execution


class Rollback:
    """One rollback: killed anywhere, `finish` ends it, forwards once it is decided and backwards before."""

    def __init__(self, state: State, parts: Sequence[Part]) -> None:
        self.state, self.parts = state, list(parts)
        self.kept: list[str] = []  # entries of the trash
        self.destroyed = False  # what is newer, in one pool at least
        self.unreserved: list[str] = []  # what zfs(8) is to set once there is room for it
        self.reserve = {short: kept for short, _volume, _files, kept in state.of}

    def _get(self, name: str, part: Part) -> Dataset | None:
        return part.zfs.get(name, marks=MARKS)

    def _made(self, part: Part) -> Dataset | None:
        """Return the clone that is to take a dataset's place, None without one: what else stands there is none of ours."""
        found = self._get(beside(part.name), part)
        return found if self._read(found) is not None else None

    def _mark(self, part: Part, name: str, stage: str, *, new: bool) -> None:
        part.zfs.set(name, {ROLLBACK: replace(self.state, stage=stage, new=new).pack()})

    def _read(self, dataset: Dataset | None) -> State | None:
        """Return what a dataset says, None if it is of another rollback or none."""
        state = State.read(dataset)
        return state if state is not None and state.token == self.state.token else None

    def _stage(self) -> str:
        """Return how far the first dataset is, which decides for all: it is marked last and settled last."""
        first = self.parts[0]
        for name in (beside(first.name), first.name):
            state = self._read(self._get(name, first))
            if state is not None:
                return state.stage
        return ""

    # preparing

    def begin(self, record: Mapping[str, Any] | None) -> None:
        """Every disk holds what the snapshot holds, or nothing has changed; what was newer is in the trash or gone."""
        discard = self.state.stage == DISCARD
        self._decide(record, discard=discard)
        try:
            self.forward()
        except (Busy, Foreign, Missing):
            if discard and not self.destroyed:  # which ZFS has refused as a whole: nothing is begun that had to be finished
                self.backward()
            raise

    def _decide(self, record: Mapping[str, Any] | None, *, discard: bool) -> None:
        """All is there that it takes, and each dataset says what is to become of it; or nothing has changed."""
        try:
            lengths = {part.short: {SIZE: str(_length(part))} for part in self.parts if part.volume and not discard}
            for part in self.parts:
                part.store.unmount_elsewhere(part.name, part.home)
                part.zfs.unmount(part.home, seconds=part.store.config.busy_seconds)
            if discard:
                for part in self.parts:
                    self._look(part)
            for index, part in reversed(list(enumerate(self.parts))):
                kept = {} if discard or record is None else {RECORD: pack_record({**record, **({"disk": index} if part.volume else {})})}
                part.zfs.set(part.name, {**kept, **lengths.get(part.short, {}), ROLLBACK: self.state.pack()})
            if not discard:
                for part in self.parts:
                    self._prepare(part)
                self._mark(self.parts[0], beside(self.parts[0].name), DECIDED, new=True)
        except BaseException:
            if self._stage() != DISCARD or not discard:
                self.backward()
            raise

    def _look(self, part: Part) -> None:
        """The snapshot holds every disk: seen in a clone, which is gone again."""
        made = self._clone(part)
        try:
            fit(part, made, self.state.snapshot)
        finally:
            self._drop(part, made)

    def _prepare(self, part: Part) -> None:
        """A clone of the snapshot has the disks in the sizes that they have now, and all that is set on the dataset.

        What needs room is made before anything is decided: a pool that is full by then has enough for the rest.
        """
        made = self._clone(part)
        fit(part, made, self.state.snapshot)
        part.zfs.set(made.name, handed_on(part))
        make_parent(part.zfs, Trash(part.store).name)

    def _clone(self, part: Part) -> Dataset:
        name = beside(part.name)
        make_parent(part.zfs, name.rpartition("/")[0])
        # said from the start, so that it is listed and expires should snapshots of others keep it: see _drop
        whose = {mark: value for mark, value in part.dataset.marks.items() if mark in (INSTANCE, VOLUME)}
        marks = {**whose, CLUSTER: part.store.cluster, ROLLBACK: replace(self.state, stage=BEGUN, new=True).pack()}
        part.zfs.clone(f"{part.name}@{self.state.snapshot}", name, marks, {"canmount": "noauto"})
        return Dataset(name, {}, marks)

    # forwards

    def finish(self) -> bool:
        """The rollback is done if it was decided, which is told, and was never begun if not."""
        stage = self._stage()
        if stage in (DECIDED, DONE, DISCARD):
            self.forward()
            return True
        self.backward()
        return False

    def forward(self) -> None:
        if self._stage() == DISCARD:
            self._discard()
            return
        for part in reversed(self.parts):
            self._exchange(part)
        self._mark(self.parts[0], self.parts[0].name, DONE, new=True)  # from here on the marks that lead back are cleared
        for part in reversed(self.parts):
            self._settle(part)

    def _exchange(self, part: Part) -> None:
        made, placed = self._made(part), self._get(part.name, part)
        if made is None:
            return
        if placed is not None:
            if not part.store.is_ours(placed):
                raise Foreign(f"dataset {placed.name}", "stands where what was rolled back belongs", "rename it")
            self._unmount(part, placed.name)
            end_move(part.zfs, placed)  # before promote hands the holds on
            if made.origin.startswith(f"{placed.name}@"):
                self._unmount(part, made.name)
                part.zfs.promote(made.name)
            self._keep(part, placed)
        part.store.unmount_elsewhere(made.name)  # where a boot has mounted it
        part.zfs.rename(made.name, part.name)

    @staticmethod
    def _unmount(part: Part, name: str) -> None:
        part.store.unmount_elsewhere(name, part.home)
        if part.zfs.mounted_at(part.home) == name:
            part.zfs.unmount(part.home, seconds=part.store.config.busy_seconds)

    def _keep(self, part: Part, old: Dataset) -> None:
        """The dataset is in the trash with what it holds and its newer snapshots, as something that can be restored."""
        part.zfs.set(old.name, {REPLACED: self.state.token, **({RESERVED: "0"} if self.reserve[part.short] else {})})
        self.kept.append(Trash(part.store).put_aside(old.name, part.short))

    def _settle(self, part: Part) -> None:
        placed = self._get(part.name, part)
        if placed is None or self._read(placed) is None:
            return
        self._use_again(part)
        for entry in self._kept(part):
            end_move(part.zfs, entry)
            part.zfs.clear(entry.name, [mark for mark in (OPENED, INTENT, RESTORING, DETACH, IMAGE, MOVE, ROLLBACK) if mark in entry.marks])
        self._go_home(part)
        part.zfs.clear(part.name, [ROLLBACK])

    def _use_again(self, part: Part) -> None:
        """A boot mounts the dataset, and room is set aside for it as before; where there is none, that is told and stops nothing."""
        reserve = self.reserve[part.short]
        try:
            part.zfs.set(part.name, {"canmount": "on", **({RESERVED: reserve} if reserve else {})})
        except CommandFailed:
            if not reserve:
                raise
            part.zfs.set(part.name, {"canmount": "on"})
            self.unreserved.append(f"{RESERVED}={reserve} {part.name}")

    def _go_home(self, part: Part) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(f"{part.store.root.path}/{BACK}/{part.short}")
        part.bring_home()

    def _kept(self, part: Part) -> list[Dataset]:
        """Return what is in the trash of this dataset, marked still; a clone that had to be put there is none of it."""
        found = [entry.dataset for entry in Trash(part.store).entries() if entry.entry.startswith(f"{part.short}:")]
        return [dataset for dataset in found if (state := self._read(dataset)) is not None and not state.new]

    def _discard(self) -> None:
        """ZFS's own rollback, at once for all disks in one pool."""
        marked = [part for part in self.parts if self._read(self._get(part.name, part)) is not None]
        for pool in dict.fromkeys(part.pool for part in marked):
            here = [part for part in marked if part.pool == pool]
            for part in here:
                self._unmount(part, part.name)
                let_go(part, [snap.short for snap in part.history() if snap.held])
            here[0].zfs.roll_back({part.name: self.state.snapshot for part in here})
            self.destroyed = True
        for part in reversed(marked):
            part.bring_home()  # where it is looked into then, and nothing is made for that
            fit(part, part.dataset, self.state.snapshot)
            part.zfs.clear(part.name, [ROLLBACK])

    # backwards

    def abort(self) -> None:
        """Every disk holds what it held before, with all its snapshots; Refused when newer ones were destroyed already."""
        if self.must_be_undoable() == DECIDED:
            first = self.parts[0]
            name = beside(first.name)
            self._mark(first, name if self._made(first) is not None else first.name, UNDONE, new=True)
        self.backward()

    def must_be_undoable(self) -> str:
        """Return how far it is, which is not so far that it cannot be taken back."""
        stage, why = self._stage(), ""
        if stage in (DISCARD, DONE):
            why = "what was newer is destroyed, or about to be" if stage == DISCARD else "its disks are back already"
        elif stage == DECIDED and (lost := [part.name for part in self.parts if self._is_lost(part)]):  # said before any other is back
            why = f"what {lost[0]} was before is not in the trash any more"
        if why:
            raise Refused(self.state.instance, why, "the same command without --abort finishes it")
        return stage

    def _is_lost(self, part: Part) -> bool:
        """Tell whether what was replaced is neither in its place nor in the trash."""
        state = self._read(placed := self._get(part.name, part))
        return (placed is None or (state is not None and state.new)) and not self._kept(part)

    def backward(self) -> None:
        for part in self.parts:
            self._take_back(part)

    def _take_back(self, part: Part) -> None:
        made, placed = self._made(part), self._get(part.name, part)
        state = self._read(placed)
        if made is None and placed is not None and state is not None and state.new:
            self._unmount(part, placed.name)
            part.zfs.rename(placed.name, beside(part.name))
            made, placed = self._made(part), None
        if placed is None:
            placed = self._fetch(part)
        if made is not None:
            if placed.origin.startswith(f"{made.name}@"):
                self._unmount(part, made.name)
                part.zfs.promote(placed.name)
            self._drop(part, made)
        if self._read(placed) is not None:
            if REPLACED in placed.marks:
                self._use_again(part)
            self._go_home(part)
            part.zfs.clear(part.name, [mark for mark in (RECORD, SIZE, REPLACED, ROLLBACK) if mark in placed.marks])
        else:
            self._go_home(part)

    def _fetch(self, part: Part) -> Dataset:
        """Return the dataset, which is out of the trash again."""
        kept = self._kept(part)
        if not kept:
            raise Missing(f"dataset {part.name} in the trash", "gnt-zfs trash list shows what is there")
        part.store.unmount_elsewhere(kept[-1].name)
        part.zfs.rename(kept[-1].name, part.name)
        return self._get(part.name, part) or kept[-1]

    def _drop(self, part: Part, made: Dataset) -> None:
        """The clone is gone; with snapshots of others it is in the trash instead."""
        part.store.unmount_elsewhere(made.name)
        try:
            marks = {CLUSTER: part.store.cluster, ROLLBACK: made.marks[ROLLBACK]}
            part.zfs.destroy(made.name, marks, seconds=part.store.config.busy_seconds)
        except Busy:
            entry = Trash(part.store).put_aside(made.name, part.short)
            taken_on = [mark for mark in (IMAGE, DETACH, ROLLBACK) if mark in made.marks]
            part.zfs.clear(f"{part.store.root.name}/{TRASH}/{entry}", taken_on)


# what a peer may ask for


def look(here: Here, request: Mapping[str, Any]) -> tuple[str, list[Part], Plan]:
    """Return the plan of the rollback that is asked for; Busy while a disk is in use, or while what is newer must stay."""
    instance, parts = parts_of(here, request)
    discard = request.get("discard") is True
    histories = [part.history() for part in parts]
    short = resolve(histories, str(request.get("snapshot")), instance)
    pasts = [Past(part.name, tuple(snaps), must_be_quiet(part).written) for part, snaps in zip(parts, histories, strict=True)]
    made = plan(instance, short, pasts, discard=discard)
    for part in parts:
        _refuse_taken(part)
    used = users(parts)
    if used:
        way_out = f"gnt-instance stop {instance}, or gnt-instance deactivate-disks {instance}"
        raise Busy(instance, f"its disks are in use by {used[0]}", way_out)
    for part in parts:
        if not discard and part.store.config.trash_days == 0:
            raise Refused(instance, "trash_days is 0 on this node, so that what is newer would not be kept", "--discard destroys it")
    if discard:
        for part, past in zip(parts, pasts, strict=True):
            refuse_newer_kept(part, short, past.newer(short))
    return instance, parts, made


def _refuse_taken(part: Part) -> None:
    """Nothing stands where the clone is made; Foreign names it, Busy the rollback of another instance that it belongs to."""
    found = part.zfs.get(beside(part.name), marks=MARKS)
    if found is not None:
        refuse(found)
        raise Foreign(f"dataset {found.name}", "stands where a rollback makes its clone", "rename it")


def ask(here: Here, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a rollback would do, or with `abort` its taking back, and whether it is one that was interrupted."""
    instance, parts = parts_of(here, request)
    state = state_of(here, instance, [part.short for part in parts])
    if request.get("abort") is True:
        return _ask_back(here, instance, state)
    if state is not None:
        return {"snapshot": state.snapshot, "interrupted": True, "sentences": [], "newer": []}
    _instance, parts, made = look(here, request)
    newer = [f"{past.name}@{snap.short}" for past in made.pasts for snap in past.newer(made.snapshot)]
    with alone(parts):
        pasts = [replace(past, unused=snapshots.unused(part, made.snapshot)) for part, past in zip(parts, made.pasts, strict=True)]
    made = replace(made, pasts=tuple(pasts))
    return {"snapshot": made.snapshot, "interrupted": False, "sentences": made.sentences(), "newer": newer}


def _ask_back(here: Here, instance: str, state: State | None) -> dict[str, Any]:
    if state is None:
        raise _nothing_to_abort(instance)
    parts = state.parts(here)
    Rollback(state, parts).must_be_undoable()
    sentences = [f"{part.name} holds again what it held before the rollback, with all its snapshots" for part in parts]
    return {"snapshot": state.snapshot, "interrupted": True, "sentences": sentences, "newer": []}


def _nothing_to_abort(instance: str) -> Missing:
    return Missing(f"a rollback of {instance} that was interrupted", "there is nothing to take back")


def execute(here: Here, request: Mapping[str, Any]) -> dict[str, Any]:
    """The instance holds what the snapshot holds; an interrupted rollback is finished, or taken back when that is wanted."""
    instance, parts = parts_of(here, request)
    with alone(parts):
        wanted = str(request.get("snapshot"))
        state = state_of(here, instance, [part.short for part in parts])
        if state is not None:
            ended = _resume(here, state, wanted, abort=request.get("abort") is True)
            if ended is not None:
                return _told(ended, aborted=request.get("abort") is True)
            if request.get("discard") is True:  # what it would destroy was not shown yet
                return {"snapshot": state.snapshot, "kept": [], "aborted": False, "again": True}
        elif request.get("abort") is True:
            raise _nothing_to_abort(instance)
        _instance, parts, made = look(here, request)
        newer = [f"{past.name}@{snap.short}" for past in made.pasts for snap in past.newer(made.snapshot)]
        if made.discard and newer != request.get("newer"):
            raise Busy(instance, "it has other snapshots than a moment ago", "the same command shows them")
        record = request.get("record")
        token = f"{made.snapshot} {here.store.now():.0f}"
        stage = DISCARD if made.discard else BEGUN
        of = tuple((part.short, part.volume, part.files, _reserve(part)) for part in parts)
        rollback = Rollback(State(instance, made.snapshot, token, stage, of), parts)
        rollback.begin(record if isinstance(record, dict) else None)
    return _told(rollback)


def _told(ended: Rollback, *, aborted: bool = False) -> dict[str, Any]:
    return {"snapshot": ended.state.snapshot, "kept": ended.kept, "unreserved": ended.unreserved, "aborted": aborted, "again": False}


def _length(part: Part) -> int:
    """Return how long a volume's disk is, in bytes, 0 without one: a grow that was killed has left Ganeti believing in less."""
    with part.store.looking_into(part.dataset) as path, contextlib.suppress(FileNotFoundError):
        return os.stat(f"{path}/{DISK}").st_size
    return 0


def _reserve(part: Part) -> str:
    value = part.zfs.local(part.name).get(RESERVED, "0")
    return "" if value in ("0", "none") else value


def _resume(here: Here, state: State, wanted: str, *, abort: bool) -> Rollback | None:
    """An interrupted rollback is finished or taken back, and returned; None when it was taken back and another is still to be made."""
    rollback = Rollback(state, state.parts(here))
    if abort:
        rollback.abort()
        return rollback
    if wanted not in (state.snapshot, state.snapshot.partition("-")[2]):
        raise Busy(state.instance, f"a rollback to {state.snapshot} was interrupted", "finish it first, or take it back with --abort")
    return rollback if rollback.finish() else None


def finish(here: Here, request: Mapping[str, Any]) -> None:
    """A rollback that was interrupted is finished, or taken back if it was not decided; Full when room could not be set aside as before."""
    datasets = request.get("datasets")
    if not isinstance(datasets, list) or not all(isinstance(short, str) for short in datasets):
        raise BadInput("request: datasets must be a list of names")
    for short in datasets:
        check_snapshot(f"{here.root.name}/{short}@x")
    state = state_of(here, str(request.get("instance")), datasets)
    if state is None:
        return
    with alone(state.parts(here)):
        state = state_of(here, state.instance, datasets)
        if state is not None:
            rollback = Rollback(state, state.parts(here))
            rollback.finish()
            if left := rollback.unreserved:
                names, way_out = ", ".join(each.split(" ")[1] for each in left), "; ".join(f"zfs set {each}" for each in left)
                raise Full(f"dataset {names}", "is back, but there is no room to set aside for it", way_out)
