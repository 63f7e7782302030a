"""Where a move begins: all of an instance's disks snapshot in one moment, their histories sent, and giving up the source.

`fence` says what keeps others from writing meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zfsganeti.arrival import come_of, names_of, texts_of
from zfsganeti.datasets import (
    DETACH,
    DISK,
    FORMER,
    IMAGE,
    IMAGES,
    INSTANCE,
    INTENT,
    KEPT,
    MARKS,
    MOVE,
    OPENED,
    ROLLBACK,
    SAVED,
    VOLUME,
    locked,
)
from zfsganeti.errors import BadInput, Busy, CommandFailed, Missing, Refused, Unavailable, ZfsGanetiError, one_line
from zfsganeti.fence import alone, fence, get, home_of, lift, refuse_return, refuse_stale, take_back
from zfsganeti.ganeti import check_name
from zfsganeti.here import Here
from zfsganeti.moving import forget_passes, mark_of, release
from zfsganeti.names import PREFIX
from zfsganeti.node import Door, PeerFailed
from zfsganeti.route import (
    FENCED,
    LEASE_SECONDS,
    LEFT,
    PRESYNC,
    SETTINGS,
    STOPPING,
    Leaving,
    expiry,
    in_the_way,
    is_pass,
    next_pass,
    next_step,
    tag_until,
)
from zfsganeti.snapshots import COMMENT, OURS, is_comment
from zfsganeti.streams import CHANGED, EXISTS, LINE_LIMIT, send_command
from zfsganeti.transfer import ATTEMPTS, GO_ON, Abandon, Full, Incremental, Nothing, Push, Resume, find, snaps_of
from zfsganeti.zfs import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.streams import Snap
    from zfsganeti.transfer import Step
    from zfsganeti.trash import Trash

Tell = Callable[[dict[str, Any]], None]  # what is told while it goes on

STALL_SECONDS = 60.0  # without a byte: less than for an image, since an instance may be waiting for it
WAIT_SECONDS = 90.0  # for what a mover that was killed has left at work on either side
TELL_SECONDS = 0.5


# what the mover asks


def facts(here: Here, request: dict[str, Any]) -> Any:
    """Return what this node says of an instance's datasets, and of what has come of them."""
    found: dict[str, Any] = {"node": here.node, "problem": "", "rootless": False, "datasets": {}, "coming": {}}
    try:
        copies = {name for place in here.places() for name in place.independent.begun()}
        features = {place.datastore: place.streams.features(place.root.name) for place in here.places()}
        for name in names_of(request):
            place = here.place_of(name)
            dataset = place.zfs.get(f"{place.root.name}/{name}", marks=MARKS)
            found["datasets"][name] = None if dataset is None else _facts(place, dataset, copies, features[place.datastore])
            found["coming"][name] = come_of(here, name)
    except ZfsGanetiError as error:
        found["problem"] = one_line(error).removeprefix(f"{here.node}: ")
        found["rootless"] = isinstance(error, Missing) and not here.has_root()  # a dataset may be missing, too
    return found


def _link(place: Here, dataset: Dataset) -> str:
    """Return what in a dataset that is at home is but a link, '' when nothing is: what that leads to does not go along."""
    home = home_of(place, dataset)
    entries = os.scandir(home) if place.zfs.mounted_at(home) == dataset.name else ()
    return next((entry.name for entry in entries if entry.is_symlink()), "")


def _facts(place: Here, dataset: Dataset, copies: set[str], features: Mapping[str, str]) -> dict[str, Any]:
    values = place.streams.values(dataset.name, ("encryption", "keystatus"))
    guid = place.streams.values(dataset.origin, ("guid",)).get("guid", "") if dataset.origin else ""
    return {
        "dataset": dataset.name,
        "datastore": place.datastore,
        "ours": place.store.is_ours(dataset),
        "instance": dataset.marks.get(INSTANCE, ""),
        "image": dataset.marks.get(IMAGE, ""),
        "detaching": DETACH in dataset.marks or dataset.short in copies,
        "intent": dataset.marks.get(INTENT, "") or ("rollback" if ROLLBACK in dataset.marks else ""),
        "move": dataset.marks.get(MOVE, ""),
        "used": dataset.used,
        "referenced": dataset.referenced,
        "origin": dataset.origin,
        "origin_guid": guid,
        "of_image": dataset.origin.startswith(f"{place.root.name}/{IMAGES}/"),
        "local": place.zfs.local(dataset.name),
        "link": _link(place, dataset),
        "features": features,
        "encryption": values.get("encryption", "off"),
        "keystatus": values.get("keystatus", "-"),
    }


def begin(here: Here, request: dict[str, Any]) -> Any:
    """Each dataset says that it is being moved, to which node, in which phase, and whether its instance ran."""
    to, phase, ran = request.get("to"), request.get("phase"), request.get("ran")
    if to not in here.ssconf.nodes or phase not in (PRESYNC, STOPPING) or not isinstance(ran, bool):
        raise BadInput("request: to must be a node, phase and ran say how far the move is")
    leaving = Leaving(str(to), str(phase), ran, int(time.time()) + LEASE_SECONDS)
    names = names_of(request)
    with alone(names):  # a rollback begins so as well: of both, the first one wins
        found = [(place := here.place_of(name), get(place, name)) for name in names]
        for place, dataset in found:
            refuse_return(place, dataset)
        if phase == PRESYNC:  # later, what is sent again is fenced while the rest of it is at the target already
            refuse_stale(here, next((dataset.marks[INSTANCE] for _place, dataset in found if INSTANCE in dataset.marks), names[0]), names)
        for place, dataset in found:
            before = mark_of(dataset)
            if before is not None and before.phase in (STOPPING, FENCED) and phase == PRESYNC:
                continue  # what was stopped for the move says so until somebody starts it
            place.zfs.set(dataset.name, {MOVE: leaving.pack()})


# sending


class Shipment(Push):
    """One dataset's history on its way to below `.moving` of another node, up to one snapshot."""

    def __init__(self, here: Here, peer: str, dataset: str, short: str, name: str, request: Mapping[str, Any]) -> None:
        super().__init__(here, peer, dataset, short, "moving", name)
        self.what = f"{name} on {peer}"
        self._look(short)
        self.instance = str(request["instance"])
        self.origin, self.origin_guid = "", ""
        self.embedded = request.get("embedded") is not False
        self.seconds = STALL_SECONDS
        self.known = texts_of(request, "known").get(name, "") if request.get("known") else ""
        self.ready: dict[str, Any] | None = None  # for the last pass: what the peer needs to know to be ready
        self.replaces = ""  # the GUID of what the peer has under the name of what comes next
        self.looked = 0  # how often the peer had something of that name that it had not told of
        self.room = 1 << 62  # what the peer cannot take it says itself
        self.patience = time.monotonic() + WAIT_SECONDS

    def ship(self) -> str:
        """The peer has every snapshot up to the last one; return that one's GUID as the peer has it."""
        failures, state = 0, self._assumed(self.known)
        while failures < ATTEMPTS:
            asked = state is None
            if state is None:
                state = self._patiently("receive-state")
            token = str(state["token"])
            resumable = self.here.streams.resumable(token) if token else None
            partial = None if state["partial"] is None else snaps_of(state["partial"])
            step, short = next_step(self.source, partial, self.last.name, token=token, token_guid=resumable.guid if resumable else "")
            step = self._make_way(step, partial, short)
            if isinstance(step, Nothing):
                self._make_ready()
                return self.last.guid
            if isinstance(step, Abandon):
                failures += 1
                self._patiently("receive-abort")
            else:
                self.wanted, self.answer = find(self.source, short), None
                try:
                    self._hold(short)
                    useful = self._sent(step, state["available"], asked)
                except (Missing, CommandFailed):
                    if not self._was_pruned():
                        raise
                    useful = True
                if not useful:
                    failures += 1
                    self._patiently("receive-abort")
            state = self._assumed(self.answer["newest"] if self.answer else "")
        raise Unavailable(self.what, f"is not there after {ATTEMPTS} attempts", GO_ON)

    def _make_way(self, step: Step, partial: Sequence[Snap] | None, short: str) -> Step:
        """The peer is told which snapshot of what has come there is in the way; one that is called otherwise here now stays.

        Then what has come is given up, but not while the instance is down for all of it.
        """
        clash = in_the_way(self.source, partial, short) if short else None
        self.replaces = clash.guid if clash is not None else ""
        name = next((snap.name for snap in self.source if snap.guid == self.replaces), "")
        if not name:
            return step
        if self.ready is not None:
            why = f"has as {short} what is called {name} on {self.here.node} now"
            raise Refused(self.what, why, f"gnt-zfs move --abort {self.instance}, then again")
        return Abandon()

    def _look(self, short: str) -> None:
        """The source's snapshots are known up to one of them, but for those that somebody is at work with and then destroys."""
        from zfsganeti.independent import ROUND

        passing = tuple(f"{self.here.zfs.ours}{purpose}" for purpose in (SAVED, ROUND))
        found = self.here.streams.snapshots(self.dataset)
        self.last = self.wanted = find(found, short)
        self.source = [snap for snap in found if snap.createtxg <= self.last.createtxg and not snap.name.startswith(passing)]

    def known_txg(self) -> int:
        """Return when the snapshot was taken that the peer has said it has, 0 for none: of all before it has been told."""
        return next((snap.createtxg for snap in self.source if snap.guid == self.known), 0)

    def _was_pruned(self) -> bool:
        """Tell whether others have destroyed snapshots since they were looked at, the last one excepted; what is left is known then."""
        before = {snap.guid for snap in self.source}
        self._look(self.last.name)
        return {snap.guid for snap in self.source} < before

    def _assumed(self, newest: str) -> dict[str, Any] | None:
        """Return what the peer would say of itself if asked, from what it has said last; None when it must be asked."""
        if not any(snap.guid == newest for snap in self.source):
            return None
        return {"partial": [["", newest, 0]], "token": "", "available": self.room}

    def _make_ready(self) -> None:
        """What is there says that it is all; it does so by itself unless the answer to the last stream was lost, or it was too much."""
        if self.ready is not None and not (self.answer and self.answer.get("ready")):
            self.here.call(self.peer, "move-ready", datasets={self.name: {"guid": self.last.guid, **self.ready}})

    def _is_bulky(self) -> bool:
        """Tell whether what makes the peer ready does not fit the line before a stream."""
        return len(json.dumps(self.ready)) > LINE_LIMIT // 2

    def _hold(self, short: str) -> None:
        """What is being sent, and what it comes after, stays here for as long as a lease lasts: others may prune snapshots."""
        self.here.zfs.hold(f"{self.dataset}@{short}", tag_until(time.time()))

    def _command(self, step: Step) -> list[str]:
        if isinstance(step, Resume):
            return send_command("", token=step.token)
        base = f"@{step.base}" if isinstance(step, Incremental) else self.origin
        return send_command(f"{self.dataset}@{self.wanted.name}", base=base, embedded=self.embedded)

    def _header(self, step: Step) -> dict[str, Any]:
        told = self.wanted is self.last and not self._is_bulky()
        return {
            **super()._header(step),
            "source": self.here.node,
            "instance": self.instance,
            "wanted": self.wanted.guid,
            "replaces": self.replaces,
            "origin": self.origin_guid if isinstance(step, Full) else "",
            "ready": {"guid": self.last.guid, **self.ready} if told and self.ready is not None else None,
        }

    def _patiently(self, verb: str, **request: Any) -> Any:
        """Ask the peer; while one that was cut off is still being received there, wait for its end."""
        while True:
            try:
                return self._ask(verb, **request)
            except PeerFailed as error:
                if error.exit_code != Busy.exit_code or time.monotonic() > self.patience:
                    raise
            time.sleep(1)

    def _sent(self, step: Step, available: int, asked: bool) -> bool:
        """The stream is received, or another one was there first and one is to look again; False when what has come is of no use."""
        try:
            return self._send(step, available)
        except PeerFailed as error:
            if not asked:
                return True  # it is not any more what it said to be
            if error.exit_code == Refused.exit_code and CHANGED in error.text:
                return False
            if error.exit_code == Refused.exit_code and EXISTS in error.text and self.looked < ATTEMPTS:
                self.looked += 1
                return True  # it has come to be since it was asked for
            if error.exit_code != Busy.exit_code or time.monotonic() > self.patience:
                raise
        time.sleep(1)
        return True


def send(here: Here, request: dict[str, Any], tell: Tell) -> Any:
    """The target has what the instance's datasets hold at this moment; return each one's last snapshot, its GUID, and the bytes moved.

    All of them are snapshot in one moment, and sent side by side. Passes before are gone here once this one is there. The last pass
    fences them first, and makes what has come ready to land.
    """
    instance, peer = check_name(str(request.get("instance"))), str(request.get("target"))
    if peer not in here.ssconf.nodes or peer == here.node:
        raise BadInput(f"node {peer}: is no other node of this cluster")
    names = names_of(request)
    limit = request.get("limit", 0)
    if not isinstance(limit, int) or limit < 0:
        raise BadInput("request: limit must be a number of bytes")
    last = request.get("last") is True
    with locked(f".move.{instance}", seconds=WAIT_SECONDS, what=f"move of {instance}"), _doors(here, peer, names if last else ()) as doors:
        if last:
            fence(here, request)
        else:
            _renew(here, names)
        datasets = {name: get(here.place_of(name), name) for name in names}
        short = _snapshot(here, datasets)
        jobs = {name: _shipment(here, peer, name, dataset, short, request) for name, dataset in datasets.items()}
        for name, job in jobs.items():
            if last:
                job.ready, job.door = _along(here.place_of(name), datasets[name], job.known_txg()), doors.get(name)
            job.limit = limit // len(jobs) if limit else 0
        began = time.monotonic()
        guids = _ship(jobs, tell)
        seconds = time.monotonic() - began
        if not last:
            along = {name: _along(here.place_of(name), dataset) for name, dataset in datasets.items()}
            here.call(peer, "move-fit", datasets=along)  # what is refused there is known before anything is stopped
        written = 0
        for name, job in jobs.items() if not last else ():
            _forget_passes(here.place_of(name), job.dataset, short)
            _renew(here, [name])
            written += here.place_of(name).streams.written_since(job.dataset, short)
    return {"guids": guids, "moved": sum(job.moved for job in jobs.values()), "seconds": seconds, "written": written}


@contextlib.contextmanager
def _doors(here: Here, peer: str, names: Sequence[str]) -> Iterator[dict[str, Door]]:
    """The peer waits for a stream of each of these, since the instance is down when they come."""
    with contextlib.ExitStack() as stack:
        opened = {name: here.open(peer, "receive") for name in names}
        yield {name: stack.enter_context(door) for name, door in opened.items() if door is not None}


def _renew(here: Here, names: Sequence[str]) -> None:
    """The datasets say that somebody is at work on their move, for as long as a lease lasts from now on."""
    for name in names:
        with locked(name):
            place = here.place_of(name)
            dataset = get(place, name)
            leaving = mark_of(dataset)
            if leaving is not None:
                place.zfs.set(dataset.name, {MOVE: replace(leaving, until=int(time.time()) + LEASE_SECONDS).pack()})


def _snapshot(here: Here, datasets: Mapping[str, Dataset]) -> str:
    """All datasets have a snapshot of one moment, those of each pool exactly so; return its short name."""
    places = {name: here.place_of(name) for name in datasets}
    known = [snap.name for name, dataset in datasets.items() for snap in places[name].streams.snapshots(dataset.name)]
    short = next_pass(here.zfs.ours, known)
    pools: dict[str, list[str]] = {}
    for name, dataset in datasets.items():
        if VOLUME in dataset.marks and places[name].volumes.devices.find(name) is not None:
            places[name].volumes.devices.flush(name)
        pools.setdefault(dataset.name.split("/")[0], []).append(f"{dataset.name}@{short}")
    for together in pools.values():
        here.zfs.snapshot(together)
    return short


def _shipment(here: Here, peer: str, name: str, dataset: Dataset, short: str, request: Mapping[str, Any]) -> Shipment:
    place = here.place_of(name)
    job = Shipment(place, peer, dataset.name, short, name, request)
    if dataset.origin and request.get("full") is not True:
        job.origin, job.origin_guid = dataset.origin, place.streams.values(dataset.origin, ("guid",))["guid"]
    return job


def _ship(jobs: Mapping[str, Shipment], tell: Tell) -> dict[str, str]:
    """All jobs have ended; return the GUIDs, or raise the first error."""
    from zfsganeti import threads

    lock, told, over = threading.Lock(), [0.0], threading.Event()

    def progress(_peer: str, _moved: int, _total: int) -> None:
        if over.is_set():
            raise Unavailable("sending", "was interrupted", GO_ON)
        with lock:
            now = time.monotonic()
            if now - told[0] >= TELL_SECONDS:
                told[0] = now
                tell({"moved": sum(job.moved for job in jobs.values()), "total": sum(job.total for job in jobs.values())})

    for job in jobs.values():
        job.progress = progress
    with threads.pool(len(jobs)) as pool:
        waiting = {name: pool.submit(job.ship) for name, job in jobs.items()}
        try:
            failed = [error for future in waiting.values() if (error := future.exception()) is not None]
        except KeyboardInterrupt:
            over.set()  # or all that there is to send would be waited for
            raise
    if failed:
        raise failed[0]
    return {name: future.result() for name, future in waiting.items()}


def _forget_passes(place: Here, dataset: str, kept: str) -> None:
    """Of the passes of a move only the last one is left, which is held."""
    snaps = place.streams.snapshots(dataset)
    tag = max(place.zfs.held(dataset).get(f"{dataset}@{kept}", []), key=lambda tag: expiry(tag) or 0, default="")
    if (expiry(tag) or 0) < time.time() + LEASE_SECONDS / 2:  # it took long to send
        tag = tag_until(time.time())
        place.zfs.hold(f"{dataset}@{kept}", tag)
    release(place.zfs, dataset, keep=(kept, tag))
    forget_passes(place.zfs, [f"{dataset}@{snap.name}" for snap in snaps if is_pass(place.zfs.ours, snap.name) and snap.name != kept])


# what goes along


def _along(place: Here, dataset: Dataset, since: int = 0) -> dict[str, Any]:
    """Return what goes along with a dataset besides its streams: what is set on it, comments on snapshots since, whether it ran."""
    leaving = mark_of(dataset)
    facts = place.zfs.snapshot_facts(dataset.name, ("createtxg", COMMENT), depth=1)
    told = {name.partition("@")[2]: known[COMMENT] for name, known in facts.items() if int(known["createtxg"]) > since}
    comments = {short: text for short, text in told.items() if short.startswith(OURS) and text not in ("", "-") and is_comment(text)}
    return {"values": _values(place, dataset.name), "comments": comments, "ran": leaving is not None and leaving.ran}


def _values(place: Here, dataset: str) -> dict[str, str]:
    """Return what a dataset has set on itself and takes along."""
    return {
        key: value
        for key, value in place.zfs.local(dataset).items()
        if key in SETTINGS
        or key in (INSTANCE, VOLUME, OPENED, FORMER)
        or (":" in key and not key.startswith(PREFIX) and value.isprintable())
    }


# the ends


def abort(here: Here, request: dict[str, Any]) -> Any:
    """The datasets are as if no move had been begun; return whether their instance ran when it was stopped for it.

    Busy while they are being sent; one that has asked to wait does so for the end of what a mover that was killed has left. With
    `stay` the fence is lifted and the rest is as it was: that the instance is to run again is known until it does.
    """
    names, ran, stay = names_of(request), False, request.get("stay") is True
    seconds = min(WAIT_SECONDS, here.config.peer_seconds / 2) if request.get("wait") is True else 0
    with contextlib.ExitStack() as stack:
        for instance in sorted({get(here.place_of(name), name).marks.get(INSTANCE, name) for name in names}):
            try:
                stack.enter_context(locked(f".move.{instance}", seconds=seconds))
            except Unavailable:
                raise Busy(instance, "is being sent to another node", "the same command when that has ended") from None
        take_back(here, names)
        for name in names:
            with locked(name):
                place = here.place_of(name)
                dataset = get(place, name)
                leaving = mark_of(dataset)
                if leaving is None:
                    continue
                ran = ran or (leaving.ran and leaving.phase != PRESYNC)
                lift(here, name, STOPPING if stay and leaving.phase != PRESYNC else PRESYNC)
                if not stay:
                    _forget(place, dataset)
    return ran


def _forget(place: Here, dataset: Dataset) -> None:
    """No hold, no snapshot and no mark of a move is left."""
    release(place.zfs, dataset.name)
    snaps = place.streams.snapshots(dataset.name)
    forget_passes(place.zfs, [f"{dataset.name}@{snap.name}" for snap in snaps if is_pass(place.zfs.ours, snap.name)])
    place.zfs.clear(dataset.name, [mark for mark in (KEPT, MOVE) if mark in dataset.marks])


def leave(here: Here, request: dict[str, Any]) -> Any:
    """The datasets, which live on another node now, are in the trash, and stay there if they are to be kept; return their entries."""
    from zfsganeti.trash import Trash

    keep, entries = request.get("keep") is True, list[str | None]()
    for name in names_of(request):
        with locked(name):
            place = here.place_of(name)
            dataset = place.zfs.get(f"{place.root.name}/{name}", marks=MARKS)
            leaving = mark_of(dataset) if dataset is not None else None
            if dataset is None or leaving is None:
                continue  # it was given up before
            if not leaving.fenced and leaving.phase != LEFT:
                raise Busy(name, "was started here since it was moved", "compare both before one is removed")
            refuse_return(place, dataset)
            gone = Leaving(leaving.to, LEFT, leaving.ran, leaving.until)
            place.zfs.set(dataset.name, {MOVE: gone.pack(), **({KEPT: f"{time.time():.0f}"} if keep else {})})
            trash = Trash(place.store)
            if VOLUME in dataset.marks:
                place.volumes.detach(name)
                with place.store.looking_into(dataset) as path:
                    size = os.stat(f"{path}/{DISK}").st_size
                entry: str | None = trash.put_volume(get(place, name), size, at_once=False)
            else:
                entry = trash.put(name, at_once=False)
            entries += [entry] if keep or place.store.config.trash_days or not _is_destroyed(trash, entry) else []
    return entries


def _is_destroyed(trash: Trash, entry: str | None) -> bool:
    """The entry is gone for good, or snapshots of others keep it, of which those learn who look at the trash: the move has ended."""
    with contextlib.suppress(Busy):
        return entry is None or trash.destroy(entry) >= 0
    return False


TOLD = {"move-send": send}  # verbs that tell how far they are
