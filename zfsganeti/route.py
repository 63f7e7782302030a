"""The way of an instance to another node, on paper: marks, leases, what is sent next, whether another pass pays, what forbids it all.

Everything here is pure: facts of both nodes in, a plan or an error that holds the evidence out. `departure` and `arrival` are the
two ends, `move` conducts them.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from zfsganeti.errors import Busy, Foreign, Missing, NoSpace, Refused, Unavailable, human, one_line
from zfsganeti.names import REMOVE
from zfsganeti.streams import is_encrypted
from zfsganeti.transfer import Abandon, Full, Incremental, Nothing, Resume, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any, Self

    from zfsganeti.streams import Snap
    from zfsganeti.transfer import Step

PURPOSE = "move-"  # after our prefix, before a number: a snapshot that a move has taken of all of an instance's disks
TAG = "zfsganeti-move-until-"  # before seconds since 1970: a hold that nobody has renewed by then means nothing
LEASE_SECONDS = 3 * 86400
KEPT_FREE_PERCENT = 5  # of the target's space: a move must not stop the instances that are there
LITTLE_SECONDS = 1.0  # what is sent in that time is not worth another pass
PASSES = 12
SHRINKS = 0.8  # a pass that moves more than this share of the one before does not get nearer
GANETI_SECONDS = 10.0  # about what Ganeti takes for a stop, the switch and a start; how long a guest takes nobody knows
NEEDED = ("large_blocks", "embedded_data", "lz4_compress", "zstd_compress", "large_dnode")  # features that a stream carries over
GUIDE = "/usr/share/doc/zfsganeti/docs/moves.md"  # where Debian's package has it
SETTINGS = (
    "recordsize", "compression", "atime", "exec", "setuid", "devices", "xattr", "logbias", "direct", "refreservation", "reservation",
    "quota", "refquota", "primarycache", "secondarycache", "sync", "copies", "checksum", "redundant_metadata", "special_small_blocks",
    "dnodesize", "acltype", "snapdir",
)  # fmt: skip

# marks

PRESYNC, STOPPING, FENCED, LEFT = "presync", "stopping", "fenced", "left"


@dataclass(frozen=True)
class Mark:
    """What a dataset says of the move that it is on, in a user property."""

    def pack(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True)
class Leaving(Mark):
    """What a dataset says of itself that is on its way to another node: how far it is, and whether its instance ran."""

    to: str
    phase: str
    ran: bool
    until: int  # seconds since 1970: who has not gone on by then is gone

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what a mark says, None when it is no such mark."""
        found = _object(text)
        try:
            return cls(str(found["to"]), str(found["phase"]), bool(found["ran"]), int(found["until"]))
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def fenced(self) -> bool:
        return self.phase == FENCED


@dataclass(frozen=True)
class Coming(Mark):
    """What a dataset says of itself that comes from another node: whose it will be, and its last GUID once all is there.

    Then it says whether its instance ran as well: by the time that it lands, its source may be lost.
    """

    source: str
    instance: str
    until: int
    ready: str = ""
    ran: bool = False

    @classmethod
    def parse(cls, text: str) -> Self | None:
        found = _object(text)
        try:
            return cls(str(found["source"]), str(found["instance"]), int(found["until"]), str(found["ready"]), bool(found.get("ran")))
        except (KeyError, TypeError, ValueError):
            return None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def tag_until(now: float) -> str:
    """Return the tag of a hold that lasts as long as a lease from now on."""
    return f"{TAG}{now + LEASE_SECONDS:.0f}"


def expiry(tag: str) -> int | None:
    """Return when a hold of ours ends, None for anybody else's."""
    number = tag.removeprefix(TAG)
    return int(number) if tag.startswith(TAG) and number.isdigit() else None


def moment(when: float) -> str:
    """Return a time as it is told."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))
    except (OverflowError, ValueError, OSError):
        return "no time that is known"


def is_pass(ours: str, short: str) -> bool:
    """Tell whether a snapshot is one that a move has taken."""
    return short.startswith(ours + PURPOSE)


def next_pass(ours: str, shorts: Sequence[str]) -> str:
    """Return the name of the next snapshot of a move, which none of a set of snapshots has."""
    numbers = [int(number) for short in shorts if is_pass(ours, short) and (number := short.removeprefix(ours + PURPOSE)).isdigit()]
    return f"{ours}{PURPOSE}{max(numbers, default=0) + 1}"


# what is sent next


def next_step(
    source: Sequence[Snap], target: Sequence[Snap] | None, wanted: str, *, token: str = "", token_guid: str = ""
) -> tuple[Step, str]:
    """Return the next step towards a target that has every snapshot of the source up to `wanted`, and the snapshot it brings.

    The first one is sent as a whole, or as what it changed of the origin of its dataset.

    One snapshot is sent after the other, from the first on, so that none is lost on the way and each can be resumed. Snapshots that
    others take of what has come do not matter, as long as nothing is written there. Where nothing is in common, it is given up.
    """
    mine = sorted(source, key=lambda snap: snap.createtxg)
    last = find(mine, wanted)
    history = [snap for snap in mine if snap.createtxg <= last.createtxg]
    there = {snap.guid for snap in target or ()}
    if last.guid in there:
        return Nothing(), wanted
    if token:
        resumed = next((snap.name for snap in history if snap.guid == token_guid and snap.guid not in there), "")
        return (Resume(token), resumed) if resumed else (Abandon(), "")
    if target is None:
        return Full(), history[0].name
    common = [index for index, snap in enumerate(history) if snap.guid in there]
    if not common:
        return Abandon(), ""
    return Incremental(history[common[-1]].name), history[common[-1] + 1].name


def in_the_way(source: Sequence[Snap], target: Sequence[Snap] | None, short: str) -> Snap | None:
    """Return the target's snapshot that bears the name of the one that comes next and is another one: ZFS receives none upon it.

    Whoever takes snapshots on both nodes at the same times names them alike, and so does a move after one that was given up.
    """
    wanted = find(source, short)
    return next((snap for snap in target or () if snap.name == short and snap.guid != wanted.guid), None)


# another pass


@dataclass(frozen=True)
class Pass:
    """One pass: bytes that it moved, and seconds that it took."""

    moved: int
    seconds: float


def downtime(passes: Sequence[Pass], written: int) -> float:
    """Return about how many seconds an instance would be down if it were stopped now, with so many bytes written since the last pass."""
    rate = max((one.moved / one.seconds for one in passes if one.seconds > 0), default=0.0)
    least = min((one.seconds for one in passes), default=0.0)
    return GANETI_SECONDS + least + (written / rate if rate else 0.0)


def go_on(passes: Sequence[Pass], written: int, limit: float | None = None) -> bool:
    """Tell whether another pass while the instance runs makes its downtime shorter, or is needed to bring it below a limit (seconds)."""
    if not passes:
        return True
    rate = max((one.moved / one.seconds for one in passes if one.seconds > 0), default=0.0)
    left = written / rate if rate else 0.0
    shrinks = len(passes) < 2 or passes[-1].moved < SHRINKS * passes[-2].moved
    wanted = left > LITTLE_SECONDS if limit is None else downtime(passes, written) > limit and left > 0
    return wanted and shrinks and len(passes) < PASSES


# the plan


def must_know(facts: Any) -> None:
    """A node has said what it has of an instance."""
    if isinstance(facts, Exception):
        raise facts
    if facts["problem"]:
        raise Unavailable(facts["node"], facts["problem"])


@dataclass(frozen=True)
class Leg:
    """One dataset's way; `size` is about how many bytes there are to send, `there` how many the target has of it."""

    name: str
    datastore: str
    origin: str  # the GUID of the snapshot that it stays a clone of, '' for none
    image: str  # that snapshot's name on the source
    size: int
    there: int


@dataclass(frozen=True)
class Plan:
    """What a move will do."""

    instance: str
    template: str
    source: str
    target: str
    legs: tuple[Leg, ...]
    embedded: bool  # whether the target can receive embedded data
    running: bool
    owed: bool = False  # whether it is stopped and is to run again

    @property
    def size(self) -> int:
        return sum(leg.size for leg in self.legs)

    def sentences(self) -> list[str]:
        plural = "s" if len(self.legs) != 1 else ""
        said = [f"{self.instance} ({self.template}) goes from {self.source} to {self.target}: {len(self.legs)} dataset{plural}"]
        for leg in self.legs:
            image = leg.image.rpartition("/")[2].partition("@")[0]
            kept = f", and stays a clone of image {image}" if leg.origin else ", all of it: it is no clone there" if leg.image else ""
            there = f", {human(leg.there)} are there already" if leg.there else ""
            said.append(f"  {leg.name}: about {human(leg.size)} to send{there}{kept}")
        if self.running:
            said.append(f"it runs until all but the latest changes are there, then is down for these and about {GANETI_SECONDS:.0f} s")
        else:
            said.append(f"it {starts_again(self.target)}" if self.owed else "it is stopped and stays so")
        return said


def starts_again(target: str) -> str:
    """Return what is said of an instance that a mover before has stopped."""
    return f"is stopped, and is started on {target} since it ran when it was moved; --no-start leaves it stopped"


def make_plan(
    instance: str,
    template: str,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    *,
    running: bool,
    owed: bool = False,
    full: bool = False,
    offline: Collection[str] = (),
) -> Plan:
    """Return the plan of a move, from what both nodes say of the instance's datasets; the first thing that forbids it is raised."""
    if source["problem"]:
        raise Unavailable(source["node"], source["problem"])
    if target["problem"]:
        raise Unavailable(target["node"], target["problem"], f"gnt-zfs setup makes {target['node']} ready")
    legs = []
    for name, facts in source["datasets"].items():
        _check_source(instance, name, facts, source, target["node"], offline)
        store = _check_store(name, facts, target)
        _check_place(instance, name, facts["datastore"], target)
        _check_stream(name, facts, store, target["node"])
        legs.append(_leg(instance, name, facts, source["node"], target, full))
    _check_room(source, target, legs)
    return Plan(instance, template, source["node"], target["node"], tuple(legs), takes_embedded(target), running, owed)


def takes_embedded(target: Mapping[str, Any]) -> bool:
    """Tell whether embedded data can be received by each root that anything goes to."""
    return all(store is None or not is_encrypted(store) for store in target["stores"].values())


def _check_source(
    instance: str, name: str, facts: Mapping[str, Any] | None, source: Mapping[str, Any], target: str, offline: Collection[str]
) -> None:
    node = source["node"]
    if facts is None:
        raise Missing(f"dataset {name} of {instance} on {node}", "gnt-zfs check says where it is")
    if not facts["ours"]:
        raise Foreign(f"dataset {facts['dataset']} on {node}", "is not marked as ours", "gnt-zfs check --repair takes it over")
    if facts["image"]:
        why = f"is image {facts['image']} itself, which {instance} alone uses"
        raise Refused(f"{name} on {node}", why, f"gnt-zfs image save {instance} copies it")
    if facts["detaching"]:
        raise Busy(f"{name} on {node}", "is becoming independent of an image", f"gnt-zfs detach --wait {instance} first")
    if facts["intent"]:
        raise Busy(f"{name} on {node}", f"an operation is at work on it ({facts['intent'].split(' ')[0]})", "gnt-zfs check --repair")
    if link := facts.get("link"):
        why = f"{link} is a link, and the disk that it leads to would stay behind"
        raise Refused(f"dataset {facts['dataset']} on {node}", why, f"move the disk to where {link} is")
    leaving = Leaving.parse(facts["move"])
    if leaving is not None and leaving.phase == LEFT:
        raise newer(instance, leaving.to, offline)
    if leaving is not None and leaving.to != target:
        raise Busy(instance, f"is being moved to {leaving.to}", f"gnt-zfs move {instance} {leaving.to}, or gnt-zfs move --abort {instance}")


def _check_store(name: str, facts: Mapping[str, Any], target: Mapping[str, Any]) -> Mapping[str, Any]:
    store: Mapping[str, Any] | None = target["stores"].get(facts["datastore"])
    if store is None:
        way_out = f"datastores in the configuration of {target['node']} names one"
        raise Missing(f"datastore {facts['datastore']} of {name} on {target['node']}", way_out)
    if store["health"] not in ("ONLINE", "DEGRADED" if store["allow_degraded"] else "ONLINE"):
        raise Unavailable(f"pool of {store['root']} on {target['node']}", f"is {store['health']}", "zpool status there")
    return store


def _check_place(instance: str, name: str, datastore: str, target: Mapping[str, Any]) -> None:
    placed, coming, node = target["placed"].get(name), target["coming"].get(name), target["node"]
    if placed is not None and placed["ours"]:
        raise Refused(
            f"dataset {placed['dataset']} on {node}",
            f"holds {human(placed['used'])} of {placed['instance'] or name} already",
            "gnt-zfs check says what to do with it",
        )
    if placed is not None:
        raise Foreign(f"dataset {placed['dataset']} on {node}", "stands where the instance's belongs and is not ours", "rename it")
    if coming is not None and (not coming["ours"] or not _comes_as(name, coming["move"], instance)):
        raise Foreign(f"dataset {coming['dataset']} on {node}", f"was not received for {instance}", "rename or destroy it")
    if coming is not None and coming.get("datastore", datastore) != datastore:
        why = f"has come of {name} when that was in another datastore"
        raise Refused(f"dataset {coming['dataset']} on {node}", why, f"gnt-zfs move --abort {instance} gives it up")


def _comes_as(name: str, mark: str, instance: str) -> bool:
    """Tell whether it comes for an instance; of a volume its name tells, the instance may have had another one."""
    coming = Coming.parse(mark)
    return coming is not None and (coming.instance == instance or coming.instance != name)


def _check_stream(name: str, facts: Mapping[str, Any], store: Mapping[str, Any], node: str) -> None:
    """The stream of a dataset can be received below another root."""
    lacking = [
        feature
        for feature in NEEDED
        if facts["features"].get(feature) == "active" and store["features"].get(feature, "disabled") == "disabled"
    ]
    if lacking:
        pool = store["root"].split("/")[0]
        knows = all(feature in store["features"] for feature in lacking)
        way_out = f"zpool set feature@{lacking[0]}=enabled {pool} there" if knows else f"its ZFS {store['version']} is too old for it"
        raise Refused(f"pool {pool} on {node}", f"lacks {', '.join(lacking)}, which the pool of {name} uses", way_out)
    if not is_encrypted(facts):
        return
    if facts["keystatus"] == "unavailable":
        raise Unavailable(f"dataset {facts['dataset']}", "is encrypted and its key is not loaded", f"zfs load-key {facts['dataset']}")
    if not is_encrypted(store):
        raise Refused(
            f"dataset {facts['dataset']}", f"is encrypted and {store['root']} on {node} is not", "move it to a node whose root is encrypted"
        )
    if store["keystatus"] == "unavailable":
        way_out = f"zfs load-key {store['root']} there"
        raise Unavailable(f"root {store['root']} on {node}", "is encrypted and its key is not loaded", way_out)


def _leg(instance: str, name: str, facts: Mapping[str, Any], source: str, target: Mapping[str, Any], full: bool) -> Leg:
    coming = target["coming"].get(name)
    there = int(coming["used"]) if coming is not None else 0
    own, shared = int(facts["used"]), max(0, int(facts["referenced"]) - int(facts["used"]))
    if not facts["origin"]:
        return Leg(name, facts["datastore"], "", "", max(0, own - there), there)
    if full:
        return Leg(name, facts["datastore"], "", facts["origin"], max(0, own + shared - there), there)
    if facts["datastore"] not in _stores_of(target, facts["origin_guid"]):
        image = facts["origin"].rpartition("/")[2].partition("@")[0]
        push = f"gnt-zfs image push {image} {target['node']} on {source} sends it first, or " if facts["of_image"] else ""
        what = f"image {image}" if facts["of_image"] else facts["origin"]
        raise Refused(f"{name} of {instance}", f"is a clone of {what}, which {target['node']} lacks", f"{push}--full sends all of it")
    return Leg(name, facts["datastore"], facts["origin_guid"], facts["origin"], max(0, own - there), there)


def _stores_of(target: Mapping[str, Any], guid: str) -> list[str]:
    """Return the datastores of the target that have the snapshot of that GUID; an earlier version names one of them."""
    if "origin_stores" in target:
        return list(target["origin_stores"].get(guid, ()))
    return [target["origins"][guid]] if guid in target["origins"] else []


def _check_room(source: Mapping[str, Any], target: Mapping[str, Any], legs: Sequence[Leg]) -> None:
    """Each root of the target keeps a share of its space free when all has come."""
    for datastore, store in target["stores"].items():
        if store is None:
            continue
        coming = [leg for leg in legs if leg.datastore == datastore]
        reserved = sum(int(source["datasets"][leg.name]["local"].get("refreservation", "0").replace("none", "0")) for leg in coming)
        needed = max(sum(leg.size for leg in coming), reserved)
        kept = (store["used"] + store["available"]) * KEPT_FREE_PERCENT // 100
        if coming and needed > store["available"] - kept:
            way_out = f"gnt-zfs trash empty there may make room, {human(kept)} stay free"
            raise NoSpace(f"{store['root']} on {target['node']}", needed, max(0, store["available"] - kept), way_out)


# what is left of a move


@dataclass(frozen=True)
class Rest:
    """What is left to do of a move whose target is its instance's primary already."""

    source: str
    lost: bool  # the source is offline for the cluster, and all that it had has come
    unlanded: Mapping[str, str]  # the GUID that each dataset is ready with, '' where it has not come wholly
    known: Mapping[str, Mapping[str, Any]]  # what the source says of its datasets
    ran: bool
    ready: int = 0  # seconds since 1970 when all had come of what the source has lost


def find_rest(found: Mapping[str, Any], target: str, offline: Sequence[str], names: Sequence[str]) -> Rest | None:
    """Return what is left of an instance's move to a node, from what each node says of its datasets; None when nothing is.

    What has come says who has sent it: another node may have been left with the mark of an earlier move to the same one. Where nothing
    says so, who has sent it does, if that is one node. A mark that a move has left which was only begun counts until all has landed.
    """
    comes = _not_landed(found[target], names)
    unlanded = {name: mark.ready if mark is not None else "" for name, mark in comes.items()}
    sources = {mark.source for mark in comes.values() if mark is not None}
    ran = any(mark is not None and mark.ran for mark in comes.values())
    rests = [rest for node in found if node != target and (rest := _rest_of(node, found[node], target, unlanded, sources, ran)) is not None]
    silent = {node for node in sources if node not in found or isinstance(found[node], Exception)}
    if unlanded and not rests and not silent:  # a target with an earlier version does not renew what it says of who has sent it
        rests = [rest for node in found if node != target and (rest := _rest_of(node, found[node], target, unlanded, (), ran)) is not None]
    if unlanded and rests and len(nodes := sorted(silent | {rest.source for rest in rests})) > 1:
        way_out = "gnt-instance modify --new-primary=NODE to the one that has the newest, and gnt-zfs move from there"
        raise Refused(f"what is on its way to {target}", f"could be of {' or '.join(nodes)}", way_out)
    if rests:
        return rests[0]
    if sources and all(unlanded.values()) and sources <= set(offline):
        ready = min(mark.until for mark in comes.values() if mark is not None) - LEASE_SECONDS
        return Rest(min(sources), True, unlanded, {}, ran, ready)
    for source in sorted(sources & {node for node, facts in found.items() if isinstance(facts, Exception)}):
        way_out = f"gnt-node modify --offline=yes {source} if it is lost for good, which all has come from"
        raise Unavailable(source, f"has sent what is on {target} and cannot be asked ({one_line(found[source])})", way_out)
    _refuse_lost(found[target], comes, offline)
    return None


def _refuse_lost(facts: Mapping[str, Any], comes: Mapping[str, Coming | None], offline: Sequence[str]) -> None:
    """Nothing waits on a node, in whose place there is nothing, that its source can never send more of."""
    for name, mark in comes.items():
        coming, placed = facts["coming"].get(name), facts["datasets"].get(name)
        if mark is not None and not mark.ready and mark.source in offline and coming is not None and placed is None:
            raise never_whole(name, mark.source, coming["dataset"])


def never_whole(name: str, source: str, dataset: str) -> Refused:
    """Return what is said of what can come no further, for where it comes from is lost, with what there is of it."""
    way_out = f"gnt-node modify --offline=no {source} if that is back, else {GUIDE} says how to make do with {dataset}"
    return Refused(name, f"has not come wholly from {source}, which is offline", way_out)


def _rest_of(node: str, facts: Any, target: str, unlanded: Mapping[str, str], sources: Collection[str], ran: bool) -> Rest | None:
    """Return what is left of a move from one node, None when it is none of which what has come is."""
    if isinstance(facts, Exception) or (sources and node not in sources):
        return None
    known = {name: one for name, one in facts["datasets"].items() if one is not None and one["ours"]}
    marks = [mark for one in known.values() if (mark := Leaving.parse(one["move"])) is not None and mark.to == target]
    left = any(unlanded or mark.phase != PRESYNC for mark in marks)
    if left or (node in sources and set(known) & set(unlanded)):
        return Rest(node, False, unlanded, known, any(mark.ran for mark in marks) if marks else ran)
    return None


def _not_landed(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Coming | None]:
    """Return what of an instance has come to a node and has not landed, with its mark; None for what is not there at all."""
    found = {}
    for name in names:
        coming, placed = facts["coming"].get(name), facts["datasets"].get(name)
        mark = Coming.parse(coming["move"]) if coming is not None else Coming.parse(placed["move"]) if placed is not None else None
        if coming is not None or placed is None or mark is not None:
            found[name] = mark
    return found


def has_landed(placed: Mapping[str, Any] | None) -> bool:
    """Tell whether what stands in a dataset's place on another node is the instance's, and newer than what was sent there."""
    return placed is not None and bool(placed["ours"]) and Coming.parse(placed["move"]) is None


def is_newer(placed: Mapping[str, Any] | None, fenced: Leaving, came_to: str = "") -> bool:
    """Tell whether what has landed on a node that a dataset was not fenced for may be newer: it was not fenced itself before.

    What was fenced there for `came_to`, where nothing of it waits and the dataset is, has come there before, whatever the clocks say.
    """
    leaving = Leaving.parse(placed["move"]) if placed is not None else None
    if not has_landed(placed) or leaving is None or leaving.phase not in (FENCED, LEFT):
        return has_landed(placed)
    return leaving.to != came_to and leaving.until > fenced.until


def newer(instance: str, node: str, offline: Collection[str] = ()) -> Refused:
    """Return what is said where an instance has lived on another node since its disks were fenced here; one that is lost is no way out."""
    if node in offline:
        way_out = f"gnt-zfs move --abort {instance} goes back to those here"
        return Refused(instance, f"its newer disks are on {node}, which is offline", way_out)
    return Refused(instance, f"its newer disks are on {node}", f"gnt-instance modify --new-primary={node} {instance}")


def either(instance: str, node: str, names: Sequence[str]) -> Refused:
    """Return what is said where another node has disks that may as well be older as newer, with the way out of either."""
    newest = f"gnt-instance modify --new-primary={node} {instance} if those there are the newest"
    why = f"disks of it are on {node} as well, and which are newer is not known"
    return Refused(instance, why, f"compare them, then {newest}, else on {node}: {into_trash(instance, names)}")


def into_trash(instance: str, names: Sequence[str]) -> str:
    """Return what to type on a node to put what it has of an instance into the trash there."""
    volumes = [f"VOL_NAME={name} {REMOVE}" for name in names if name != instance]
    return " && ".join(volumes) or f"echo '{json.dumps({'instance': instance})}' | gnt-zfs node discard"


def waits(coming: Mapping[str, Any] | None, source: str) -> bool:
    """Tell whether what a node has sent is where it was sent to, and has not landed: then it has not gone on from there either."""
    mark = Coming.parse(coming["move"]) if coming is not None and coming["ours"] else None
    return mark is not None and mark.source == source


def choose_target(room: Mapping[str, int], marks: Sequence[str] = ()) -> str:
    """Return the node to which a move of these datasets has begun, if it is among those with room, or else the one with the most."""
    if not room:
        raise Missing("a node that could take the instances", "name one: gnt-zfs move --from NODE TARGET")
    begun = [leaving.to for leaving in map(Leaving.parse, marks) if leaving is not None and leaving.phase != LEFT and leaving.to in room]
    if begun:
        return begun[0]
    return max(sorted(room), key=lambda node: room[node])
