"""What a move keeps others from, by a lock on the master and a mark on its dataset, and how what is removed leaves its move."""

from __future__ import annotations

import contextlib
import time

from zfsganeti.datasets import INSTANCE, MARKS, MOVE, MOVING, RECORD, locked, pack_record
from zfsganeti.errors import Busy, CommandFailed, Refused, Unavailable
from zfsganeti.route import FENCED, LEFT, PRESYNC, Leaving, expiry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from zfsganeti.datasets import Backend
    from zfsganeti.here import Here
    from zfsganeti.zfs import Dataset

LOCK = ".mover."


@contextlib.contextmanager
def alone(instance: str) -> Iterator[None]:
    """No other administrator moves or adopts the instance; Busy when one does."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(f"{LOCK}{instance}", seconds=0))
        except Unavailable:
            raise Busy(instance, "another gnt-zfs move or adopt is at work on it", "wait for that") from None
        yield


def mark_of(dataset: Dataset) -> Leaving | None:
    return Leaving.parse(dataset.marks.get(MOVE, ""))


def is_fenced(dataset: Dataset) -> bool:
    """Tell whether another node is about to have the dataset, or has it."""
    leaving = mark_of(dataset)
    return leaving is not None and leaving.phase in (FENCED, LEFT)


def refuse_fenced(dataset: Dataset) -> None:
    """Nobody changes what another node is about to have."""
    leaving = mark_of(dataset)
    if leaving is not None and is_fenced(dataset):
        instance = dataset.marks.get(INSTANCE, dataset.short)
        way_out = f"gnt-zfs move {instance} {leaving.to} goes on, gnt-zfs move --abort {instance} goes back"
        raise Busy(dataset.short, f"is fenced, {leaving.to} is about to have it", way_out)


def refuse_leaving(dataset: Dataset) -> None:
    """Nobody puts something else in the place of what is being moved."""
    refuse_fenced(dataset)
    leaving, instance = mark_of(dataset), dataset.marks.get(INSTANCE, dataset.short)
    if leaving is None:
        raise _half_landed(dataset.short, instance)
    if leaving.phase == PRESYNC and leaving.until < time.time():
        return  # nobody has gone on with it, and a later one sends what it finds
    way_out = f"gnt-zfs move {instance} {leaving.to} goes on, gnt-zfs move --abort {instance} goes back"
    raise Busy(dataset.short, f"is being moved to {leaving.to}", way_out)


def _half_landed(name: str, instance: str) -> Busy:
    return Busy(name, "has not landed wholly", f"the same gnt-zfs move, or gnt-instance startup {instance}, ends that")


def release(zfs: Backend, dataset: str, keep: tuple[str, str] = ("", ""), *, before: float | None = None) -> None:
    """No hold of ours is on a snapshot of the dataset but one that is to be kept, or those whose lease lasts longer."""
    for snapshot, tags in zfs.held(dataset).items():
        for tag in tags:
            until = expiry(tag)
            if until is not None and (snapshot.partition("@")[2], tag) != keep and (before is None or until < before):
                zfs.release(snapshot, tag)


def forget_passes(zfs: Backend, snapshots: Sequence[str]) -> None:
    """These snapshots of moves are gone, but for those that others hold, have cloned or look into; the watcher tries again with those."""
    try:
        zfs.destroy_snapshots(snapshots)
    except (Busy, Refused, CommandFailed):  # all or none of them
        for one in snapshots:
            with contextlib.suppress(Busy, Refused, CommandFailed):
                zfs.destroy_snapshots([one])


def expired(tag: str) -> bool:
    """Tell whether a hold is of a move that nobody has gone on with; such a one means nothing."""
    until = expiry(tag)
    return until is not None and until < time.time()


def refuse_change(here: Here, instance: str) -> None:
    """What Ganeti writes to or unlinks at an instance's home now is in its dataset, as far as moves go."""
    dataset = here.zfs.get(here.store.name(instance), marks=MARKS)
    if dataset is None:
        if here.zfs.get(f"{here.root.name}/{MOVING}/{instance}") is not None:
            raise _half_landed(instance, instance)
    elif MOVE in dataset.marks:
        refuse_fenced(dataset)
        if mark_of(dataset) is None:
            raise _half_landed(instance, instance)


def make_fit(here: Here, instance: str) -> None:
    """What a move has left here of an instance of files is fit for use, as for a start, or it is refused; the caller is alone with it."""
    dataset = here.store.find(instance)
    if dataset is None or MOVE in dataset.marks:
        from zfsganeti.fence import end

        end(here, instance, [instance])


def keep_record(here: Here, instance: str, record: Mapping[str, Any]) -> None:
    """What a move has left of an instance, which is about to be removed, says how it is made when it comes into the trash."""
    here.independent.finish_cut(instance)
    dataset = here.store.find(instance)
    if dataset is not None and is_fenced(dataset):
        here.zfs.set(dataset.name, {RECORD: pack_record(record)})


def give_up(zfs: Backend, dataset: Dataset) -> None:
    """Nothing of a move stands in the way of what becomes of the dataset now: no hold of ours on a snapshot, no fence."""
    release(zfs, dataset.name)
    zfs.clear(dataset.name, ["readonly"])
