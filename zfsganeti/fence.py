"""The fence of a move: from then on the last snapshot of a dataset is all there is, and nobody writes to it on this node.

A dataset is fenced when it is read-only, not mounted, and says so. A start of the instance here lifts the fence, as long as this node
is its primary and the other one has not let it live there, so that the way back costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zfsganeti.arrival import come_of, names_of, settle, texts_of
from zfsganeti.datasets import INSTANCE, INTENT, MARKS, MOVE, VOLUME, locked, refuse_half_back
from zfsganeti.errors import Busy, Missing, Refused, Unavailable, ZfsGanetiError, one_line
from zfsganeti.here import Here
from zfsganeti.moving import mark_of
from zfsganeti.process import holding
from zfsganeti.route import FENCED, LEASE_SECONDS, LEFT, PRESYNC, STOPPING, Leaving, either, has_landed, is_newer, newer, waits
from zfsganeti.zfs import Dataset

TAKE_BACK_SECONDS = 10.0  # for a node that may be away, while an instance waits to be started

# one dataset


def get(place: Here, name: str) -> Dataset:
    """Return one of this node's datasets of ours."""
    dataset = place.zfs.get(f"{place.root.name}/{name}", marks=MARKS)
    if dataset is None or not place.store.is_ours(dataset):
        raise Missing(f"dataset {place.root.name}/{name} of ours", "gnt-zfs check says where it is")
    return dataset


def home_of(place: Here, dataset: Dataset) -> str:
    return f"{place.root.path}/{dataset.short}"


def refuse_return(place: Here, dataset: Dataset) -> None:
    """No rollback is at work on the dataset, nor has one left what could bring it back here once it lives elsewhere."""
    from zfsganeti.rollback_plan import beside

    made = place.zfs.get(beside(dataset.name), marks=MARKS)
    for one in (dataset, made) if made is not None else (dataset,):
        refuse_half_back(one)


@contextlib.contextmanager
def alone(names: Sequence[str]) -> Iterator[None]:
    """Nobody else of us works on any of the datasets on this node."""
    with contextlib.ExitStack() as stack:
        for name in sorted(set(names)):
            stack.enter_context(locked(name))
        yield


# the fence


def fence(here: Here, request: dict[str, Any]) -> Any:
    """Nobody can write to the instance's datasets any more, and each says so; Busy names who has one open, and none is fenced then."""
    names = names_of(request)
    fenced: list[str] = []
    try:
        for name in names:
            with locked(name):
                _fence(here.place_of(name), name)
            fenced.append(name)
    except BaseException:
        for name in fenced:
            lift(here, name, STOPPING)
        raise


def _fence(place: Here, name: str) -> None:
    dataset = get(place, name)
    refuse_return(place, dataset)
    leaving = mark_of(dataset)
    if leaving is None:
        raise Missing(f"a move of {name}", "gnt-zfs move begins one")
    if INTENT in dataset.marks:
        raise Busy(name, f"an operation is at work on it ({dataset.marks[INTENT].split(' ')[0]})", "gnt-zfs check --repair if it is not")
    home, instance = home_of(place, dataset), dataset.marks.get(INSTANCE, name)
    if VOLUME in dataset.marks:
        place.volumes.detach(name)
    elif place.zfs.mounted_at(home) == dataset.name:
        users = holding([entry.path for entry in os.scandir(home) if entry.is_file(follow_symlinks=False)])
        if users:
            raise Busy(name, f"is in use by {users[0]}", f"gnt-instance stop {instance}")
    place.zfs.unmount(home, seconds=place.config.busy_seconds)
    place.store.unmount_elsewhere(dataset.name)
    place.zfs.set(dataset.name, {"readonly": "on", MOVE: Leaving(leaving.to, FENCED, leaving.ran, int(time.time()) + LEASE_SECONDS).pack()})


def lift(here: Here, name: str, phase: str = PRESYNC) -> None:
    """What was fenced can be written to again, and is mounted at home; the move goes on from there when it is asked to.

    The caller knows that its instance has not lived on the other node since.
    """
    place = here.place_of(name)
    dataset = place.zfs.get(f"{place.root.name}/{name}", marks=MARKS)
    leaving = mark_of(dataset) if dataset is not None else None
    if dataset is None or leaving is None or leaving.phase == PRESYNC or not place.store.is_ours(dataset):
        return
    place.zfs.clear(dataset.name, ["readonly"])
    place.zfs.set(dataset.name, {MOVE: Leaving(leaving.to, phase, leaving.ran, leaving.until).pack()})
    _bring_home(place, dataset)


def end(here: Here, instance: str, names: Sequence[str]) -> None:
    """What a move that was stopped half-way has left of these datasets is fit for use on the instance's primary, or it is refused.

    The caller is alone with them.
    """
    settle(here, instance, names)
    refuse_stale(here, instance, names)
    take_back(here, names)
    for name in names:
        lift(here, name)


def refuse_stale(here: Here, instance: str, names: Sequence[str]) -> None:
    """What was fenced here for another node has not lived there since: that this node is the primary again does not tell."""
    marks = _marks(here, names)
    for leaving in marks.values():
        if leaving.phase == LEFT:
            raise newer(instance, leaving.to, here.ssconf.offline_nodes)
    strays: dict[str, Leaving] = {}  # what is not there any more where it was to go: it may have gone on to any node
    for node, asked in _by_target(marks).items():
        said = _said_by(here, instance, asked, node)
        if any(has_landed(placed) for placed in said["placed"].values()):
            raise newer(instance, node)
        strays |= {name: marks[name] for name in asked if not waits(said["coming"].get(name), here.node)}
    came_to = {name: "" if come_of(here, name) is not None else here.node for name in strays}
    for node in here.ssconf.nodes if strays else ():
        if node != here.node and node not in here.ssconf.offline_nodes:
            said = _said_by(here, instance, list(strays), node)
            if any(is_newer(said["placed"].get(name), leaving, came_to[name]) for name, leaving in strays.items()):
                raise either(instance, node, [name for name in names if has_landed(said["placed"].get(name))])


def _marks(here: Here, names: Sequence[str]) -> dict[str, Leaving]:
    """Return what those datasets of this node say of their move that are on one."""
    found = {}
    for name in names:
        place = here.place_of(name)
        dataset = place.zfs.get(f"{place.root.name}/{name}", marks=MARKS)
        leaving = mark_of(dataset) if dataset is not None else None
        if leaving is not None:
            found[name] = leaving
    return found


def _by_target(marks: Mapping[str, Leaving]) -> dict[str, list[str]]:
    """Return what is fenced, by the node that is to have it."""
    found: dict[str, list[str]] = {}
    for name, leaving in marks.items():
        if leaving.fenced:
            found.setdefault(leaving.to, []).append(name)
    return found


def take_back(here: Here, names: Sequence[str]) -> None:
    """What has come elsewhere of what is fenced here says no more that it is all; a node that does not answer is not waited for.

    This comes before the fence is lifted: were this node lost later, what is old would land there as if it were all.
    """
    for node, asked in _by_target(_marks(here, names)).items():
        if node not in here.ssconf.offline_nodes:
            with contextlib.suppress(ZfsGanetiError):
                here.call(node, "move-unready", seconds=TAKE_BACK_SECONDS, datasets=asked, source=here.node)


def _said_by(here: Here, instance: str, names: Sequence[str], node: str) -> Any:
    """Return what another node has of these; Refused when that cannot be asked."""
    try:
        said = here.call(node, "move-target", datasets=dict.fromkeys(names, ""))
        if said["problem"] and not said.get("rootless"):  # which has nothing; a pool that is not there may have anything
            raise Unavailable(node, said["problem"])
    except ZfsGanetiError as error:
        why = f"whether its newer disks are on {node} is not known ({one_line(error)})"
        way_out = f"gnt-zfs move --abort {instance} goes back once it answers, or is offline for the cluster"
        raise Refused(instance, why, way_out) from error
    return said


def _bring_home(place: Here, dataset: Dataset) -> None:
    if VOLUME in dataset.marks:
        place.volumes.bring_home(dataset.short)
    else:
        place.store.bring_home(dataset.short)


def unfence(here: Here, request: dict[str, Any]) -> Any:
    """The datasets can be used on this node again; the mover says so while this node is their instance's primary.

    If the instance is owed a start, they say so until it has been started.
    """
    take_back(here, names_of(request))
    for name in names_of(request):
        with locked(name):
            lift(here, name, STOPPING if request.get("owed") is True else PRESYNC)


def check(here: Here, request: dict[str, Any]) -> Any:
    """Return for each dataset what has become of its fence, '' when it still ends with the snapshot of that GUID."""
    return {name: _broken(here.place_of(name), name, guid) for name, guid in texts_of(request, "guids").items()}


def _broken(place: Here, name: str, guid: str) -> str:
    dataset = place.zfs.get(f"{place.root.name}/{name}", marks=MARKS)
    if dataset is None:
        return f"{name} is gone"
    leaving = mark_of(dataset)
    if leaving is None or not leaving.fenced or place.zfs.local(dataset.name).get("readonly") != "on":
        return f"{name} is not fenced any more"
    last = next((snap.name for snap in place.streams.snapshots(dataset.name) if snap.guid == guid), "")
    if not last:
        return f"{name} has no snapshot {guid} any more"
    written = place.streams.written_since(dataset.name, last)
    return f"{written} bytes were written to {name} since" if written else ""
