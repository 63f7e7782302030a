"""Snapshots from this node to others: what is to be sent (pure), the sending, and the verbs by which a node receives.

A node receives nothing but into ROOT/.images/.partial/NAME, where ROOT is its own and NAME was checked; only what is whole and
whose golden snapshot has the GUID that was asked for gets its marks and then its place. What was half received stays and is continued
by the next push of the same snapshot. Nothing is overwritten: a place that is taken by anything else is a Conflict.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

from zfsganeti.datasets import CLUSTER, IMAGES, KEPT_FREE_PERCENT, PARTIAL, locked
from zfsganeti.errors import BadInput, Busy, CommandFailed, Conflict, Missing, NoSpace, Refused, Unavailable, ZfsGanetiError
from zfsganeti.image import DELETED, GOLDEN, IMPORTED, PROVENANCE, RETIRED
from zfsganeti.images import lock_name
from zfsganeti.names import check_dataset, check_image, check_image_fits
from zfsganeti.node import read_answer
from zfsganeti.roots import make_parent
from zfsganeti.streams import PROPERTIES, Snap, is_encrypted, receive_command, send_command
from zfsganeti.volumes import check_volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from zfsganeti.here import Here, Verb
    from zfsganeti.image import Image
    from zfsganeti.node import Door
    from zfsganeti.process import Child

    Progress = Callable[[str, int, int], None]  # the peer, bytes moved, bytes there are about

STALL_SECONDS = 300  # so long not a byte: a busy pool may take its time over one transaction group
ATTEMPTS = 5  # give up what cannot be continued, send, put in place, look, and one to spare
RECEIVE_WAITS = 5  # seconds that a receive whose sender was killed takes to end; its lock is waited for that long
STREAM = 0  # the descriptor that a peer's stream comes in on
GO_ON = "the same command goes on from where it was"
NOT_OPEN = "gnt-zfs image import makes one there that is not"  # a stream is decrypted here, and would lie open where it comes to


# what is to be done (pure)


@dataclass(frozen=True)
class Nothing:
    """The target has the snapshot."""


@dataclass(frozen=True)
class Full:
    """All of it is to be sent; the target does not exist."""


@dataclass(frozen=True)
class Incremental:
    """What changed since a snapshot of the source that is the target's newest."""

    base: str


@dataclass(frozen=True)
class Resume:
    """The rest of what was half received."""

    token: str


@dataclass(frozen=True)
class Abandon:
    """What was half received is of another snapshot, or cannot be continued: it is to be given up, then one plans again."""


Step = Nothing | Full | Incremental | Resume | Abandon


def plan(
    source: Sequence[Snap], target: Sequence[Snap] | None, wanted: str, *, token: str = "", token_guid: str = "", what: str = "the target"
) -> Step:
    """Return the next step towards a target that has the source's snapshot `wanted`; no step loses anything that is whole there.

    `target` is None when it does not exist. `token` is what it says of a stream half received, `token_guid` the snapshot that
    this token continues with, empty when the source cannot. Conflict when the target would have to lose snapshots first.
    """
    mine = find(source, wanted)
    theirs = {snap.guid: snap for snap in target or ()}
    if mine.guid in theirs:
        return Nothing()
    if token:
        return Resume(token) if token_guid == mine.guid else Abandon()
    if target is None:
        return Full()
    common = [snap for snap in source if snap.guid in theirs and snap.createtxg < mine.createtxg]
    if not common:
        raise Conflict(what, "exists and has no earlier snapshot in common", [snap.name for snap in target])
    base = max(common, key=lambda snap: snap.createtxg)
    newer = [snap.name for snap in target if snap.createtxg > theirs[base.guid].createtxg]
    if newer:
        raise Conflict(what, f"has snapshots newer than {base.name}, the last in common", newer)
    return Incremental(base.name)


def find(snapshots: Sequence[Snap], name: str) -> Snap:
    """Return the snapshot of that name."""
    for snap in snapshots:
        if snap.name == name:
            return snap
    raise Missing(f"snapshot {name}")


def _is_encrypted(here: Here, dataset: str) -> bool:
    return is_encrypted(here.streams.values(dataset, ("encryption",)))


# sending


@dataclass(frozen=True)
class Pushed:
    """What a push to one peer did: the first step that moved anything, and how many bytes moved in all."""

    peer: str
    step: Step
    moved: int


class Push:
    """One snapshot on its way to one peer."""

    def __init__(self, here: Here, peer: str, dataset: str, short: str, kind: str, name: str) -> None:
        self.here, self.peer, self.dataset, self.kind = here, peer, dataset, kind
        self.name = check_target(kind, name)
        self.what = f"{kind} {name} on {peer}"
        if peer == here.node:
            raise BadInput(f"node {peer}: is this one, which has it")
        self.source = here.streams.snapshots(dataset)
        self.wanted = find(self.source, short)
        self.marks: Mapping[str, str] = {}
        self.progress: Progress = lambda _peer, _moved, _total: None
        self.limit, self.seconds = 0, float(STALL_SECONDS)
        self.datastore = here.datastore  # of the peer, where it is to go
        self.embedded = True  # the peer can receive embedded data
        self.moved, self.total = 0, 0
        self.answer: Any = None  # the peer's, to the last stream
        self.door: Door | None = None  # the peer's, which is open already and takes one stream

    def run(self) -> Pushed:
        """The peer has the snapshot in its place, with its GUID and its marks."""
        first: Step = Nothing()
        for _attempt in range(ATTEMPTS):
            state = self._ask("receive-state")
            self.embedded = state.get("encrypted") is not True
            if self._is_placed(state):
                return Pushed(self.peer, first, self.moved)
            if self.kind == "image" and self.embedded and self.is_encrypted:
                raise Refused(f"{self.kind} {self.name}", f"is encrypted, and its root on {self.peer} is not", NOT_OPEN)
            step = self._plan(state)
            if not isinstance(step, Nothing) and not isinstance(first, Nothing):
                raise Unavailable(self.peer, f"{self.kind} {self.name} was received there and is not found", GO_ON)
            if isinstance(step, Nothing):
                self._ask("receive-done", guid=self.wanted.guid, marks=dict(self.marks))
                continue
            if isinstance(step, Abandon) or not self._send(step, state["available"]):
                self._ask("receive-abort")
            else:
                first = step
        raise Unavailable(self.peer, f"{self.kind} {self.name} is not there after {ATTEMPTS} attempts", GO_ON)

    @cached_property
    def is_encrypted(self) -> bool:
        """Tell whether what is sent is encrypted here."""
        return _is_encrypted(self.here, self.dataset)

    def _ask(self, verb: str, **request: Any) -> Any:
        return self.here.call(self.peer, verb, kind=self.kind, name=self.name, datastore=self.datastore, **request)

    def _is_placed(self, state: Mapping[str, Any]) -> bool:
        if state["placed"] is None:
            return False
        placed = snaps_of(state["placed"])
        if not any(snap.guid == self.wanted.guid for snap in placed):
            raise Conflict(self.what, "exists and is another one", [snap.name for snap in placed], "choose another name or remove it there")
        if unused := state.get("unused"):  # it is there, and does nobody any good
            way_out = f"gnt-zfs image restore {self.name} on {self.peer} takes that back"
            raise Refused(self.peer, f"has {self.name}, but it is {unused} there", way_out)
        return True

    def _plan(self, state: Mapping[str, Any]) -> Step:
        token = str(state["token"])
        resumable = self.here.streams.resumable(token) if token else None
        target = None if state["partial"] is None else snaps_of(state["partial"])
        try:
            return plan(self.source, target, self.wanted.name, token=token, token_guid=resumable.guid if resumable else "", what=self.what)
        except Conflict:
            return Abandon()  # below .partial is what was received and never put in its place

    def _send(self, step: Step, available: int) -> bool:
        """The stream is received; False when it is a rest that cannot be sent."""
        streams = self.here.streams
        send = self._command(step)
        begin = self.moved
        try:
            size = streams.size(send)
            if size > available:
                raise NoSpace(self.what, size, available, f"{KEPT_FREE_PERCENT}% are kept free there, gnt-zfs trash empty may make room")
            self.total = max(self.total, begin + size)
            done = streams.pump(
                self.peer,
                send,
                self.here.door(self.peer, "receive"),
                self._header(step),
                progress=self._told(begin),
                limit=self.limit,
                seconds=self.seconds,
                begun=self._waiting(),
            )
            self.answer = read_answer(self.peer, done)
        except CommandFailed as error:
            if self.moved > begin:
                raise Unavailable(self.what, f"{error.command} ended before its stream did ({error.reason})", GO_ON) from error
            if isinstance(step, Resume):
                return False
            raise
        except Unavailable as error:
            raise Unavailable(error.what, error.why, GO_ON if self.moved > begin else error.way_out) from error
        return True

    def _waiting(self) -> Child | None:
        """Return what waits on the peer for a stream, once."""
        door, self.door = self.door, None
        return door.child if door is not None and door.is_open() else None

    def _command(self, step: Step) -> list[str]:
        return send_command(
            f"{self.dataset}@{self.wanted.name}",
            base=f"@{step.base}" if isinstance(step, Incremental) else "",
            token=step.token if isinstance(step, Resume) else "",
            embedded=self.embedded,
        )

    def _header(self, step: Step) -> dict[str, Any]:
        """Return what the peer is told of the stream that follows."""
        return {
            "kind": self.kind,
            "name": self.name,
            "datastore": self.datastore,
            "seconds": self.seconds,
            "token": step.token if isinstance(step, Resume) else "",
        }

    def _told(self, begin: int) -> Callable[[int], None]:
        def progress(moved: int) -> None:
            self.moved = begin + moved
            self.progress(self.peer, self.moved, self.total)

        return progress


def push(
    here: Here,
    peers: Sequence[str],
    dataset: str,
    short: str,
    kind: str,
    name: str,
    *,
    marks: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    limit: int = 0,
    seconds: float = STALL_SECONDS,
    datastore: str | None = None,
) -> dict[str, Pushed | ZfsGanetiError]:
    """Each peer has the snapshot DATASET@SHORT as NAME of its kind, or the error that it ended with is told; all work at once.

    `limit` is in bytes a second, for each peer; it goes into the peer's `datastore` of that name, which is that of here if none is said.
    """
    from zfsganeti import threads

    def one(peer: str) -> Pushed | ZfsGanetiError:
        try:
            job = Push(here, peer, dataset, short, kind, name)
            job.marks, job.progress = marks or {}, progress or job.progress
            job.limit, job.seconds = limit, seconds
            job.datastore = job.datastore if datastore is None else datastore
            return job.run()
        except ZfsGanetiError as error:
            return error

    check_target(kind, name)
    with threads.pool(16) as pool:
        return dict(zip(peers, pool.map(one, peers), strict=True))


def snaps_of(rows: Any) -> list[Snap]:
    return [Snap(str(name), str(guid), int(createtxg)) for name, guid, createtxg in rows]


# receiving: what a peer may ask of this node

CHECKS = {"image": check_image, "moving": check_volume}


def check_target(kind: str, name: str) -> str:
    """Return a name that can be one of its kind."""
    if kind not in CHECKS:
        raise BadInput(f"kind {kind!r}: there are {', '.join(CHECKS)}")
    return CHECKS[kind](name)


def place_of(here: Here, request: Mapping[str, Any]) -> Place:
    """Return where a request wants something to go."""
    if request.get("kind") == "moving":
        from zfsganeti.arrival import Arriving

        return Arriving(here, request)
    return Place(here, request)


class Place:
    """Where something goes on this node: it is received as `partial` and, whole, becomes `final`. This one is an image's."""

    allowed: Sequence[str] = PROVENANCE  # the user properties that go along

    def __init__(self, here: Here, request: Mapping[str, Any]) -> None:
        kind, name = request.get("kind"), request.get("name")
        if not isinstance(kind, str) or not isinstance(name, str):
            raise BadInput("request: kind and name must be texts")
        check_target(kind, name)
        datastore = request.get("datastore", "")
        if not isinstance(datastore, str):
            raise BadInput("request: datastore must be a text")
        here = here.at(datastore)
        self.here, self.zfs, self.streams = here, here.zfs, here.streams
        self.kind, self.name, self.what = kind, name, f"{kind} {name}"
        self._locate()

    def _locate(self) -> None:
        self.lock = lock_name(self.name)
        parent = f"{self.here.root.name}/{IMAGES}"
        self.parents: tuple[str, ...] = (parent, f"{parent}/{PARTIAL}")
        self.final, self.partial = check_dataset(f"{parent}/{self.name}"), check_dataset(f"{parent}/{PARTIAL}/{self.name}")

    @contextlib.contextmanager
    def alone(self, seconds: float | None = None) -> Iterator[None]:
        """Nobody else of us works on it on this node."""
        longest = self.here.config.busy_seconds
        wait = longest if seconds is None else min(seconds, longest)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.lock, seconds=wait))
            except Unavailable:
                raise Busy(self.what, "is being received already", "wait for that") from None
            yield

    def prepare(self) -> None:
        """The parents exist and are never mounted; Conflict when the place is taken."""
        if self.zfs.get(self.final) is not None:
            raise Conflict(self.what, "exists already", [])
        self._check_free()
        for parent in self.parents:
            make_parent(self.zfs, parent, self.mark())

    def _check_free(self) -> None:
        check_image_fits(self.name, self.here.root.name)
        self.here.images.check_not_lent(self.name)

    def mark(self) -> dict[str, str]:
        return {CLUSTER: self.here.ssconf.cluster}

    def command(self, _request: Mapping[str, Any]) -> list[str]:
        """Return the command that receives the stream."""
        return receive_command(self.partial, {**PROPERTIES, **self.mark()})

    def received(self, _request: Mapping[str, Any]) -> Any:
        """A stream has come, whole; return what the sender is told."""

    def keep(self) -> None:
        """What was half received of an image can be gone on with for a day from now."""
        with contextlib.suppress(ZfsGanetiError):  # of the first bytes there is nothing
            self.zfs.set(self.partial, {IMPORTED: f"{self.here.store.now():.0f}"})

    def forget(self) -> None:
        """Nothing of ours keeps what was received."""

    def snapshots(self, dataset: str) -> list[Snap] | None:
        """Return a filesystem's snapshots, None when it does not exist."""
        try:
            return self.streams.snapshots(dataset)
        except Missing:
            return None

    def unused(self) -> str:
        """Return why no disks are made of what is in its place, '' for what is in use and what is no image."""
        found = self.zfs.get(self.final, marks=(RETIRED, DELETED)) if self.kind == "image" else None
        marks = found.marks if found is not None else {}
        return "deleted" if DELETED in marks else "retired" if RETIRED in marks else ""

    def is_encrypted(self) -> bool:
        """Tell whether what comes is encrypted here."""
        return _is_encrypted(self.here, self.here.root.name)

    def token(self) -> str:
        """Return the token of what was half received, empty when nothing was."""
        try:
            return self.streams.token(self.partial)
        except Missing:
            return ""


def receive_state(here: Here, request: dict[str, Any]) -> Any:
    """Return what is in the place already, what was half received, and the room there is."""
    place = place_of(here, request)
    placed, partial = place.snapshots(place.final), place.snapshots(place.partial)
    return {
        "placed": None if placed is None else [[snap.name, snap.guid, snap.createtxg] for snap in placed],
        "partial": None if partial is None else [[snap.name, snap.guid, snap.createtxg] for snap in partial],
        "unused": place.unused(),
        "encrypted": place.kind == "image" and place.is_encrypted(),  # a move has asked before
        "token": place.token(),
        "available": max(0, place.here.store.spare()),
    }


def receive(here: Here, request: dict[str, Any], descriptor: int = STREAM) -> Any:
    """The stream that follows the request is received as the place's partial."""
    place = place_of(here, request)
    seconds = request.get("seconds")
    if not isinstance(seconds, int | float) or not 1 <= seconds <= 86400:
        raise BadInput("request: seconds must be a time")
    with place.alone(RECEIVE_WAITS):
        place.prepare()
        if place.token() != request.get("token"):  # a stream was made for it as it was when we were asked for the state
            raise Busy(place.what, "has changed since the stream was begun", GO_ON)
        try:
            place.streams.receive(place.command(request), descriptor, seconds=seconds)
        except ZfsGanetiError:
            if place.kind == "image":
                place.keep()
            raise
        return place.received(request)


def receive_done(here: Here, request: dict[str, Any]) -> Any:
    """What was received is in its place with its marks, for it is whole and its golden snapshot has the GUID asked for."""
    place = Place(here, request)
    if request.get("kind") != "image":
        raise BadInput("request: only an image is put in its place like this")
    marks = _marks(request, place.allowed)
    with place.alone():
        placed = place.snapshots(place.final)
        if placed is not None:
            _check_guid(place, placed, request.get("guid"))
            return
        _check_guid(place, place.streams.snapshots(place.partial), request.get("guid"))
        _put_in_place(place, marks)


def _put_in_place(place: Place, marks: Mapping[str, str]) -> None:
    mounts = [mount.path for mount in place.zfs.mounts() if mount.dataset == place.partial]
    if mounts:
        raise Busy(f"dataset {place.partial}", f"is mounted at {mounts[0]}", f"umount {mounts[0]}")
    place.zfs.set(place.partial, {**marks, **place.mark()})
    place.zfs.rename(place.partial, place.final)


def copy_image(here: Here, image: Image, datastore: str, progress: Progress) -> bool:
    """The image, of any datastore of this node, is in that one as well, with its GUID; False when it was."""
    place = Place(here, {"kind": "image", "name": image.name, "datastore": datastore})
    with place.alone():
        wanted, placed = place.streams.snapshots(image.dataset), place.snapshots(place.final)
        guid = find(wanted, GOLDEN).guid
        if placed is not None:
            if all(snap.guid != guid for snap in placed):
                raise Conflict(f"{place.what} in {place.here.root.name}", "exists and is another one", [], "choose another name")
            if unused := place.unused():
                there = f"--datastore {datastore or repr('')}"
                way_out = f"gnt-zfs image restore {image.name} {there} takes that back"
                raise Refused(f"{place.what} in {place.here.root.name}", f"is there, but {unused}", way_out)
            return False
        embedded = not place.is_encrypted()
        if embedded and _is_encrypted(here, image.dataset):
            raise Refused(place.what, f"is encrypted, and its root {place.here.root.name} is not", NOT_OPEN)
        place.here.store.check_pool()
        place.here.store.check_spare(place.what, image.referenced)
        place.prepare()
        _give_up(place)
        progress(place.here.root.name, 0, image.referenced)
        place.streams.copy(
            image.snapshot,
            place.partial,
            properties={**PROPERTIES, **place.mark()},
            embedded=embedded,
            progress=lambda moved: progress(place.here.root.name, moved, image.referenced),
        )
        _check_guid(place, place.streams.snapshots(place.partial), guid)
        _put_in_place(place, image.provenance)
    return True


def _check_guid(place: Place, snapshots: list[Snap], guid: object) -> None:
    # what disks are made of: others may have taken later snapshots, which hold the same, for it is read-only
    if not any(snap.name == GOLDEN and snap.guid == guid for snap in snapshots):
        raise Conflict(place.what, "is not the one that was sent", [snap.name for snap in snapshots[-1:]])


def _marks(request: dict[str, Any], allowed: Sequence[str]) -> dict[str, str]:
    """Return the user properties that a peer wants set, which say where it comes from and make it nobody's."""
    marks = request.get("marks")
    if not isinstance(marks, dict):
        raise BadInput("request: marks must be an object")
    for name, value in marks.items():
        if name not in allowed:
            raise BadInput(f"request: mark {name!r} cannot be set on what is received")
        if not isinstance(value, str) or not value.isprintable():
            raise BadInput(f"request: mark {name} must be a text")
    return marks


def receive_abort(here: Here, request: dict[str, Any]) -> Any:
    """Nothing is left of what was received and not put in its place."""
    place = place_of(here, request)
    with place.alone():
        _give_up(place)


def _give_up(place: Place) -> None:
    if place.snapshots(place.partial) is None:
        return
    place.forget()
    if place.token():
        place.streams.abort(place.partial)
    left = place.zfs.get(place.partial, marks=place.mark())
    if left is not None:
        if left.marks == place.mark():
            place.here.store.unmount_elsewhere(place.partial)  # where an import that was killed has left it
        place.zfs.destroy(place.partial, place.mark(), strangers=True, seconds=place.here.config.busy_seconds)


VERBS: dict[str, Verb] = {"receive": receive, "receive-state": receive_state, "receive-done": receive_done, "receive-abort": receive_abort}
