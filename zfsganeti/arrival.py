"""Where a move ends: what is received below `.moving`, never mounted, until it lands in the place of the instance's dataset.

What comes bears its mark from the first byte on and is read-only. It lands when its newest snapshot has the GUID that the source
was fenced with: renamed, writable, mounted at home. If the mover is gone by then, the next start of the instance here lets it
land, after asking the source, unless that is offline for the cluster.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zfsganeti.datasets import CLUSTER, IMAGES, INSTANCE, MARKS, MOVE, MOVING, VOLUME, locked
from zfsganeti.errors import BadInput, Busy, CommandFailed, Conflict, Foreign, Missing, Refused, ZfsGanetiError, one_line
from zfsganeti.ganeti import check_name
from zfsganeti.here import Here
from zfsganeti.image import GOLDEN
from zfsganeti.moving import forget_passes, release
from zfsganeti.names import PREFIX, check_dataset, check_fits
from zfsganeti.route import LEASE_SECONDS, SETTINGS, Coming, expiry, is_pass, moment, never_whole, tag_until
from zfsganeti.snapshots import COMMENT, check_comment
from zfsganeti.streams import PROPERTIES, receive_command
from zfsganeti.transfer import Place
from zfsganeti.volumes import check_volume
from zfsganeti.zfs import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zfsganeti.streams import Snap

DEPTH = 4  # of a snapshot below a root, at most: ROOT/.images/.partial/NAME@SNAPSHOT
ROOM = ("quota", "refquota", "reservation", "refreservation")
OLD_SECONDS = 3600  # a start lets nothing land that is older, if nobody can be asked whether there is anything newer
CARRIED = ("opened", "size", "former")  # of our own marks, besides whose it is: what a disk says of itself


def names_of(request: Mapping[str, Any], key: str = "datasets") -> list[str]:
    """Return the names below a root that a request is about."""
    names = request.get(key)
    if not isinstance(names, list | dict) or not names or not all(isinstance(name, str) for name in names):
        raise BadInput(f"request: {key} must name datasets")
    return [check_volume(name) for name in names]


def texts_of(request: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return texts by the names below a root that they belong to."""
    found = request.get(key)
    if not isinstance(found, dict) or not all(isinstance(text, str) and text.isprintable() for text in found.values()):
        raise BadInput(f"request: {key} must be texts by dataset")
    return {check_volume(name): text for name, text in found.items()}


class Arriving(Place):
    """A dataset of an instance on its way here."""

    def _locate(self) -> None:
        check_volume(self.name)
        self.what = self.name
        self.lock = f".arrival.{self.name}"
        root = self.here.root.name
        self.parents = (f"{root}/{MOVING}",)
        self.final, self.partial = check_dataset(f"{root}/{self.name}"), check_dataset(f"{root}/{MOVING}/{self.name}")

    def coming(self) -> tuple[Dataset, Coming] | None:
        """Return what has come so far, with its mark; Foreign when that is not ours."""
        dataset = self.zfs.get(self.partial, marks=MARKS)
        if dataset is None:
            return None
        mark = Coming.parse(dataset.marks.get(MOVE, ""))
        if mark is None or dataset.marks.get(CLUSTER) != self.here.ssconf.cluster:
            raise Foreign(f"dataset {self.partial}", "was not received for a move", "rename or destroy it")
        return dataset, mark

    def _check_free(self) -> None:
        if self.coming() is None:
            check_fits("dataset", self.name, self.here.root.name)

    def command(self, request: Mapping[str, Any]) -> list[str]:
        """Return the command that receives the stream; what begins anew gets its marks with its first byte."""
        source, instance, guid = request.get("source"), request.get("instance"), request.get("origin", "")
        if source not in self.here.ssconf.nodes or not all(isinstance(text, str) for text in (instance, guid, request.get("wanted"))):
            raise BadInput("request: source must be a node, instance a name, origin and wanted GUIDs")
        mark = Coming(str(source), check_name(str(instance)), int(time.time()) + LEASE_SECONDS)
        if snaps := self.snapshots(self.partial):
            self._make_way(snaps, str(request.get("replaces") or ""))
            self._belong_to(mark)
            return receive_command(self.partial, {})
        origin = find_origin(self.here, guid) if guid and self.zfs.get(self.partial) is None else ""
        return receive_command(self.partial, {**PROPERTIES, **self.mark(), MOVE: mark.pack()}, origin=origin)

    def _make_way(self, snaps: Sequence[Snap], guid: str) -> None:
        """What has come has no snapshot of that GUID, which is none of the source's: its name is that of what comes next."""
        for snap in snaps:
            if guid and snap.guid == guid:
                name = f"{self.partial}@{snap.name}"
                for tag in self.zfs.held(self.partial).get(name, []):
                    if expiry(tag) is not None:
                        self.zfs.release(name, tag)
                self.zfs.destroy_snapshots([name])

    def _belong_to(self, mark: Coming) -> None:
        """What has come says from where more of it comes now, and no more that it is all; nothing is written where it says so."""
        found = self.coming()
        if found is not None and replace(found[1], until=mark.until) != mark:
            self.zfs.set(self.partial, {MOVE: mark.pack()})

    def received(self, request: Mapping[str, Any]) -> Any:
        """What has come is held for as long as a lease lasts, what it replaces is not, and passes before it are gone.

        It is known by its GUID: somebody else may have taken a later snapshot in the meantime. If that is all, what has come says
        that it is ready. The sender is told the GUID that is there now, and whether that says so.
        """
        snaps, guid = self.streams.snapshots(self.partial), request["wanted"]
        come = next((snap for snap in snaps if snap.guid == guid), None)
        if come is None:
            raise Conflict(self.what, "does not have what was sent", [snap.name for snap in snaps[-1:]], "gnt-zfs move goes on")
        tag = tag_until(time.time())
        self.zfs.hold(f"{self.partial}@{come.name}", tag)
        release(self.zfs, self.partial, keep=(come.name, tag))
        old = [f"{self.partial}@{snap.name}" for snap in snaps if snap is not come and is_pass(self.zfs.ours, snap.name)]
        forget_passes(self.zfs, old)
        ready = request.get("ready")
        if isinstance(ready, dict):
            self.make_ready(Along(ready), snaps)
        else:
            self._renew()
        return {"newest": come.guid, "ready": isinstance(ready, dict)}

    def _renew(self) -> None:
        """What has come says that somebody is at work on its move, if it has said so long ago."""
        found, now = self.coming(), int(time.time())
        if found is not None and found[1].until < now + LEASE_SECONDS // 2:
            self.zfs.set(self.partial, {MOVE: replace(found[1], until=now + LEASE_SECONDS).pack()})

    def take_back(self, source: str) -> None:
        """What has come from that node does not say that it is all."""
        found = self.coming()
        if found is not None and found[1].ready and found[1].source == source:
            self.zfs.set(self.partial, {MOVE: replace(found[1], ready="").pack()})

    def forget(self) -> None:
        self.coming()
        release(self.zfs, self.partial)

    # landing

    def fit(self, along: Along) -> None:
        """What was set on the source can be set on what has come, and is; Refused by name when ZFS does not take it.

        What it may use and what is reserved for it is not left so: passes need more for a moment, and none may land for days.
        """
        if self.coming() is None:
            raise Missing(f"{self.name} below {MOVING} on this node")
        settings = {key: value for key, value in along.values.items() if key in SETTINGS}
        self._forget_settings(along)
        try:
            self.zfs.set(self.partial, settings)
        except CommandFailed as error:
            why = f"is refused by the ZFS of {self.here.node} ({error.reason})"
            raise Refused(f"what is set on {self.name}", why, "change it with zfs set or zfs inherit, nothing was stopped") from error
        self.zfs.set(self.partial, {key: "none" for key in ROOM if key in settings})
        self._comment(along)

    def make_ready(self, along: Along, snaps: Sequence[Snap]) -> None:
        """What has come is what the source was fenced with, has what was set there, and says so."""
        found = self.coming()
        if found is None:
            raise Missing(f"{self.name} below {MOVING} on this node")
        there = next((snap for snap in snaps if snap.guid == along.guid), None)
        if there is None or self.streams.written_since(self.partial, there.name):
            raise Conflict(self.what, "does not have what was sent", [snap.name for snap in snaps[-1:]], "gnt-zfs move goes on")
        self._comment(along)
        self._forget_settings(along)
        _dataset, mark = found
        ready = Coming(mark.source, mark.instance, int(time.time()) + LEASE_SECONDS, along.guid, along.ran)
        self.zfs.set(self.partial, {**along.values, **self.mark(), MOVE: ready.pack()})

    def _forget_settings(self, along: Along) -> None:
        """What an earlier try has set here, and is not set on the source any more, is not."""
        mine = self.zfs.local(self.partial)
        gone = [key for key in mine if key not in along.values and (key in SETTINGS or (":" in key and not key.startswith(PREFIX)))]
        if limits := {key: "none" for key in gone if key in ROOM and mine[key] not in ("none", "0")}:
            self.zfs.set(self.partial, limits)
        if unset := [key for key in gone if key not in ROOM]:
            self.zfs.clear(self.partial, unset)

    def _comment(self, along: Along) -> None:
        """Snapshots that somebody has commented on say here what they say on the source."""
        if not along.comments:
            return
        known = self.zfs.snapshot_facts(self.partial, (COMMENT,), depth=1)
        for short, text in along.comments.items():
            name = f"{self.partial}@{short}"
            if name in known and known[name][COMMENT] != text:
                self.zfs.mark_snapshot(name, {COMMENT: text})

    def land(self, instance: str, guid: str) -> None:
        """What came is the instance's dataset: at home, writable, with nothing left of the move; what has landed already stays."""
        found = self.coming()
        if found is not None:
            dataset, mark = found
            if mark.ready != guid or not guid or not (mark.instance == instance or self._is_volume_of(dataset, mark)):
                raise Refused(self.what, "is not what the source was fenced with", "gnt-zfs move goes on")
            self.here.store.unmount_elsewhere(self.partial)
            self.zfs.rename(self.partial, self.final)
        placed = self.zfs.get(self.final, marks=MARKS)
        if placed is None or not self.here.store.is_ours(placed):
            raise Missing(f"dataset {self.final}", f"gnt-zfs move {instance} goes on")
        if Coming.parse(placed.marks.get(MOVE, "")) is None:
            return  # all but this answer was done before
        self.zfs.clear(self.final, ["readonly"])
        self.zfs.set(self.final, {"canmount": "on", **({INSTANCE: instance} if VOLUME in placed.marks else {})})
        self._bring_home(placed)
        release(self.zfs, self.final)
        snaps = self.streams.snapshots(self.final)
        forget_passes(self.zfs, [f"{self.final}@{snap.name}" for snap in snaps if is_pass(self.zfs.ours, snap.name)])
        self.zfs.clear(self.final, [MOVE])

    def _is_volume_of(self, dataset: Dataset, mark: Coming) -> bool:
        """Tell whether this is a volume of the instance that it was sent for, which may have another name by now: Ganeti knows volumes."""
        return dataset.marks.get(VOLUME) == self.name and dataset.marks.get(INSTANCE) == mark.instance

    def _bring_home(self, placed: Dataset) -> None:
        if VOLUME in placed.marks:
            self.here.volumes.bring_home(self.name)
        else:
            self.here.store.bring_home(self.name)


def find_origin(here: Here, guid: str) -> str:
    """Return the snapshot of an image of this root that has the GUID."""
    for short, facts in _image_snapshots(here).items():
        if facts == guid:
            return short
    raise Missing(f"the image that it is a clone of, on {here.node}", "gnt-zfs image push brings it")


def _image_snapshots(here: Here) -> dict[str, str]:
    try:
        found = here.zfs.with_snapshot(f"{here.root.name}/{IMAGES}", GOLDEN, ("guid",), depth=1)
    except Missing:
        return {}
    return {f"{dataset.name}@{GOLDEN}": facts["guid"] for dataset, facts in found}


# what the mover asks


def facts(here: Here, request: dict[str, Any]) -> Any:
    """Return what this node has to say to the datasets that want to come: {name: datastore}."""
    wanted = texts_of(request, "datasets")
    found: dict[str, Any] = {"node": here.node, "problem": "", "stores": {}, "placed": {}, "coming": {}, "origins": {}, "origin_stores": {}}
    try:
        here.root.name  # noqa: B018 - it is looked for, and must be there
    except ZfsGanetiError as error:
        return {**found, "problem": one_line(error).removeprefix(f"{here.node}: "), "rootless": isinstance(error, Missing)}
    for datastore in sorted(set(wanted.values())):
        if datastore and datastore not in here.config.datastores:
            found["stores"][datastore] = None
            continue
        place = here.at(datastore)
        found["stores"][datastore] = store_facts(place)
        for guid in _image_snapshots(place).values():
            found["origins"][guid] = datastore  # for a master with an earlier version, which knows of one
            found["origin_stores"].setdefault(guid, []).append(datastore)
    for name, datastore in wanted.items():
        if found["stores"][datastore] is not None:
            check_fits("dataset", name, here.at(datastore).root.name)
            found["placed"][name] = dataset_facts(here.place_of(name), name)
            found["coming"][name] = come_of(here, name)
    return found


def store_facts(place: Here) -> dict[str, Any]:
    """Return what a root of this node can take."""
    root = place.zfs.get(place.root.name)
    values = place.streams.values(place.root.name, ("encryption", "keystatus"))
    return {
        "root": place.root.name,
        "health": place.zfs.pool(place.root.name).health,
        "allow_degraded": bool(place.config.allow_degraded),
        "available": root.available if root else 0,
        "used": root.used if root else 0,
        "features": place.streams.features(place.root.name),
        "version": ".".join(map(str, place.zfs.version())),
        "encryption": values.get("encryption", "off"),
        "keystatus": values.get("keystatus", "-"),
    }


def dataset_facts(place: Here, name: str) -> dict[str, Any] | None:
    dataset = place.zfs.get(check_dataset(f"{place.root.name}/{name}"), marks=MARKS)
    if dataset is None:
        return None
    return {
        "dataset": dataset.name,
        "ours": dataset.marks.get(CLUSTER) == place.ssconf.cluster and bool({INSTANCE, VOLUME, MOVE} & set(dataset.marks)),
        "instance": dataset.marks.get(INSTANCE, ""),
        "used": dataset.used,
        "move": dataset.marks.get(MOVE, ""),
    }


def come_of(here: Here, name: str) -> dict[str, Any] | None:
    """Return what this node says of what has come of a dataset, in whichever of its roots; None when nothing has."""
    for place in here.places():
        if (found := dataset_facts(place, f"{MOVING}/{name}")) is not None:
            return {**found, "datastore": place.datastore}
    return None


def arriving(here: Here, name: str) -> Arriving:
    """Return a dataset's way to this node: in whichever of its roots something of it has come, else in the first."""
    for place in here.places():
        if place.zfs.get(f"{place.root.name}/{MOVING}/{name}") is not None:
            return Arriving(here, {"kind": "moving", "name": name, "datastore": place.datastore})
    return Arriving(here, {"kind": "moving", "name": name, "datastore": here.place_of(name).datastore})


class Along:
    """What goes along with a dataset besides its streams: what is set on it, comments, whether its instance ran, its last GUID."""

    def __init__(self, told: object) -> None:
        if not isinstance(told, dict):
            raise BadInput("request: what goes along must be an object")
        comments = told.get("comments")
        if not isinstance(comments, dict) or not all(isinstance(text, str) for text in comments.values()):
            raise BadInput("request: comments must be texts by snapshot")
        self.guid, self.ran, self.values = str(told.get("guid", "")), told.get("ran") is True, _checked(told.get("values"))
        self.comments = {short: check_comment(text) for short, text in comments.items()}


def _alongs(request: Mapping[str, Any]) -> dict[str, Along]:
    given = request.get("datasets")
    return {name: Along(given[name]) for name in names_of(request)} if isinstance(given, dict) else {}


def fit(here: Here, request: dict[str, Any]) -> Any:
    """What has come of an instance so far has the properties and comments that it had on the source, or it is said what is refused."""
    for name, along in _alongs(request).items():
        place = arriving(here, name)
        with place.alone():
            place.fit(along)


def ready(here: Here, request: dict[str, Any]) -> Any:
    """All that has come of an instance is whole, each dataset with its GUID, and has the properties that it had on the source."""
    for name, along in _alongs(request).items():
        place = arriving(here, name)
        with place.alone():
            snaps = place.streams.snapshots(place.partial)
            if place.token():
                raise Busy(place.what, "is being received")
            place.make_ready(along, snaps)


def _checked(values: object) -> dict[str, str]:
    """Return the properties that may be set on what comes from another node."""
    if not isinstance(values, dict):
        raise BadInput("request: values must be objects by dataset")
    ours = (INSTANCE, VOLUME, *(PREFIX + word for word in CARRIED))
    for key, value in values.items():
        foreign = ":" in key and not key.startswith(PREFIX)
        if not isinstance(value, str) or not value.isprintable() or not (foreign or key in ours or key in SETTINGS):
            raise BadInput(f"request: property {key!r} cannot be set on what is received")
    return values


def land(here: Here, request: dict[str, Any]) -> Any:
    """All that has come of an instance is where it belongs."""
    instance, guids = check_name(str(request.get("instance"))), texts_of(request, "guids")
    places = {name: arriving(here, name) for name in guids}
    for name, place in places.items():
        with locked(name), place.alone():  # as in a start, which is alone with it before it settles
            place.land(instance, guids[name])


def unready(here: Here, request: dict[str, Any]) -> Any:
    """What has come from a node does not say that it is all, for it is about to be written to there again."""
    for name in names_of(request) if here.has_root() else ():
        place = arriving(here, name)
        with place.alone():
            place.take_back(str(request.get("source")))


def drop(here: Here, request: dict[str, Any]) -> Any:
    """Nothing is left of what has come of an instance and has not landed."""
    from zfsganeti import transfer

    for name in names_of(request) if here.has_root() else ():
        for place in here.places():  # a disk may have been brought from one root to another between two tries
            told = {"kind": "moving", "name": name, "datastore": place.datastore}
            Arriving(here, told).coming()
            transfer.receive_abort(here, told)


def settle(here: Here, instance: str, names: Sequence[str]) -> None:
    """What a mover that is gone has left to land has landed, if the source says that nobody has written there since; else Refused."""
    places = {name: arriving(here, name) for name in names}
    marks = {name: found[1] for name, place in places.items() if (found := place.coming()) is not None}
    half = [name for name, place in places.items() if name not in marks and _is_landing(place)]
    if not marks and not half:
        return
    way_out = f"gnt-zfs move {instance} {here.node} goes on"
    _refuse_unready(here, instance, places, marks, way_out)
    for source in {mark.source for mark in marks.values()}:
        guids = {name: mark.ready for name, mark in marks.items() if mark.source == source}
        if source in here.ssconf.offline_nodes:
            _refuse_old(instance, source, min(mark.until for mark in marks.values() if mark.source == source), way_out)
            continue  # who has said so answers for it that nobody writes there: what has come is all that there is
        try:
            said = here.call(source, "move-check", guids=guids)
        except ZfsGanetiError as error:
            why = f"whether {source} has written to its disks since they were sent is not known ({one_line(error)})"
            raise Refused(instance, why, f"{way_out}, gnt-node modify --offline=yes {source} first if that is lost for good") from error
        if any(said.values()):
            raise Refused(instance, f"{source} has changed since it was sent: {next(filter(None, said.values()))}", way_out)
    for name, place in places.items():
        if name in marks or name in half:
            with place.alone():
                place.land(instance, marks[name].ready if name in marks else "")


def _refuse_unready(here: Here, instance: str, places: Mapping[str, Arriving], marks: Mapping[str, Coming], way_out: str) -> None:
    """All that waits here is whole; what is not can be gone on with as long as its source is there."""
    unready = {name: mark.source for name, mark in marks.items() if not mark.ready}
    for name, source in unready.items():
        if source in here.ssconf.offline_nodes:
            raise never_whole(name, source, places[name].partial)
    if unready:
        raise Refused(instance, f"{next(iter(unready))} has not come here wholly", way_out)


def _refuse_old(instance: str, source: str, until: int, way_out: str) -> None:
    """What has come from a node that is lost is young, or an administrator says so to whom its age is shown.

    Its instance may have been started there again, and this node not have heard of it.
    """
    if abs(time.time() - (until - LEASE_SECONDS)) > OLD_SECONDS:
        raise Refused(instance, f"{source} is offline, and what has come from there is as of {moment(until - LEASE_SECONDS)}", way_out)


def _is_landing(place: Arriving) -> bool:
    placed = place.zfs.get(place.final, marks=MARKS)
    return placed is not None and Coming.parse(placed.marks.get(MOVE, "")) is not None


def report(here: Here) -> list[dict[str, Any]]:
    """Return what has come to this node and has not landed."""
    found = []
    for place in here.places():
        try:
            datasets = place.zfs.datasets(f"{place.root.name}/{MOVING}", depth=1, marks=MARKS)
        except Missing:
            continue
        for dataset in datasets[1:]:
            mark = Coming.parse(dataset.marks.get(MOVE, ""))
            ours = mark is not None and dataset.marks.get(CLUSTER) == place.ssconf.cluster
            found.append(
                {
                    "name": dataset.short,
                    "dataset": dataset.name,
                    "used": dataset.used,
                    "ours": ours,
                    "source": mark.source if mark else "",
                    "instance": mark.instance if mark else "",
                    "until": mark.until if mark else 0,
                    "ready": bool(mark and mark.ready),
                }
            )
    return found


def release_expired(here: Here, now: float) -> None:
    """Holds of moves that nobody has gone on with are gone, wherever below our roots what they hold is now, and so are left passes."""
    for place in here.places():
        counted = place.zfs.snapshot_facts(place.root.name, ("userrefs",), depth=DEPTH)
        free = {name for name, facts in counted.items() if facts["userrefs"] in ("0", "-")}
        for name in sorted({name.partition("@")[0] for name in counted if name not in free}):
            with contextlib.suppress(Missing):  # gone since
                release(place.zfs, name, before=now)
        left = [name for name in sorted(free) if is_pass(place.zfs.ours, name.partition("@")[2])]
        for dataset in sorted({name.partition("@")[0] for name in left}):
            with contextlib.suppress(ZfsGanetiError):  # it is at work, or gone
                _forget_left(place, dataset, [name for name in left if name.partition("@")[0] == dataset])


def _forget_left(place: Here, dataset: str, passes: Sequence[str]) -> None:
    """Passes that somebody held when their move ended are gone, if their dataset is at home and on no other move."""
    name = dataset.removeprefix(f"{place.root.name}/")
    if "/" in name:
        return
    with locked(name, seconds=0):
        found = place.zfs.get(dataset, marks=MARKS)
        if found is not None and place.store.is_ours(found) and MOVE not in found.marks:
            forget_passes(place.zfs, passes)
