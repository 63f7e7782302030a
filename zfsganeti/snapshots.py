"""Snapshots that an administrator takes of an instance: of all its disks at one moment, whichever door they came through.

They are called `gnt-NAME`, which no policy of sanoid's and no sweep of ours ever destroys, and go wherever the dataset goes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zfsganeti.datasets import (
    CLUSTER,
    DISK,
    FORMER,
    INSTANCE,
    INTENT,
    KEPT,
    MARKS,
    MOVE,
    OPENED,
    RECORD,
    REPLACED,
    RESTORING,
    ROLLBACK,
    SIZE,
    TRASH,
    VOLUME,
    former_names,
    locked,
    pack_record,
    refuse_half_back,
    refuse_moving,
)
from zfsganeti.errors import BadInput, Busy, Missing, Refused, ZfsGanetiError, one_line
from zfsganeti.files import refuse_link
from zfsganeti.ganeti import Instance, check_name
from zfsganeti.here import Here
from zfsganeti.moving import expired
from zfsganeti.names import PREFIX, check_fits, check_kept, check_label, meant
from zfsganeti.process import holding
from zfsganeti.volumes import check_volume
from zfsganeti.zfs import Dataset

OURS = "gnt-"
COMMENT = PREFIX + "comment"
COMMENT_LIMIT = 200
# what a dataset does not hand on to a clone that replaces it, of all that is set on it
OWN = (
    "canmount", "refreservation", "keylocation", "keyformat", "pbkdf2iters",
    ROLLBACK, INTENT, RECORD, RESTORING, OPENED, SIZE, REPLACED, MOVE, KEPT,
)  # fmt: skip
STAMP = "%Y%m%dT%H%M%SZ"
MAKERS = ((OURS, "gnt-zfs"), ("zfsganeti-", "zfsganeti"), ("autosnap_", "sanoid"), ("syncoid_", "syncoid"))  # by how their names begin
WANTED = ("creation", "createtxg", "used", "referenced", "clones", "userrefs", "written", COMMENT)


def full_name(name: str, now: float) -> str:
    """Return what a new snapshot is called: the name that somebody gave it, or the time, behind our prefix."""
    return OURS + check_label((name or time.strftime(STAMP, time.gmtime(now))).removeprefix(OURS))


def maker(short: str) -> str:
    """Return who has taken a snapshot, as its name tells."""
    return next((who for prefix, who in MAKERS if short.startswith(prefix)), "others")


def is_comment(text: str) -> bool:
    return len(text) <= COMMENT_LIMIT and text.isprintable()


def check_comment(text: str) -> str:
    if not is_comment(text):
        raise BadInput(f"comment: must be one line of at most {COMMENT_LIMIT} characters")
    return text


@dataclass(frozen=True)
class Snap:
    """A snapshot of one dataset; sizes are bytes, `born` orders them, `clones` are datasets."""

    short: str
    created: int
    born: int
    used: int = 0
    referenced: int = 0
    clones: tuple[str, ...] = ()
    held: bool = False
    comment: str = ""
    written: int = 0  # since the one before


def asked(instance: Instance) -> dict[str, Any]:
    """Return an instance's disks as its node is asked about them; Refused when they are not ours."""
    for index, disk in enumerate(instance.disks):
        if disk.template not in ("file", "ext") or (disk.template == "ext" and not disk.volume):
            raise Refused(f"disk {index} of {instance.name}", f"is of kind {disk.template} and not ours")
    if not instance.disks:
        raise Refused(instance.name, "has no disk")
    disks = [{"volume": disk.volume, "file": os.path.basename(disk.path), "size": disk.size} for disk in instance.disks]
    return {"instance": instance.name, "disks": disks}


class Part:
    """One dataset that disks of an instance are in: its files with the sizes (bytes) that Ganeti believes in."""

    def __init__(self, here: Here, short: str, volume: str, files: Mapping[str, int]) -> None:
        self.here, self.short, self.volume, self.files = here, short, volume, dict(files)
        self.store, self.zfs = here.store, here.store.zfs
        self.name = f"{self.store.root.name}/{short}"
        self.home = f"{self.store.root.path}/{short}"
        self.pool = self.name.split("/")[0]

    @property
    def dataset(self) -> Dataset:
        found = self.here.volumes.must(self.volume) if self.volume else self.store.find(self.short)
        if found is None:
            raise Missing(f"dataset {self.name}", "gnt-zfs check says where it is")
        return found

    def bring_home(self) -> None:
        self.here.volumes.bring_home(self.volume) if self.volume else self.store.bring_home(self.short)

    def device(self) -> str:
        """Return the device that a volume is now, '' for none."""
        return (self.here.volumes.devices.find(self.volume) or "") if self.volume else ""

    def history(self) -> list[Snap]:
        """Return the dataset's snapshots, oldest first."""
        facts = self.zfs.snapshot_facts(self.name, WANTED, depth=1)
        found = [snap_of(name.split("@")[1], known) for name, known in facts.items()]
        return sorted(found, key=lambda snap: snap.born)


def snap_of(short: str, known: Mapping[str, str]) -> Snap:
    """Return a snapshot as zfs(8) tells of it."""
    clones = tuple(clone for clone in known["clones"].split(",") if clone not in ("", "-"))
    comment = known[COMMENT] if known[COMMENT] != "-" else ""
    number = {word: int(known[word]) if known[word].isdigit() else 0 for word in WANTED}
    sizes = number["used"], number["referenced"]
    return Snap(short, number["creation"], number["createtxg"], *sizes, clones, bool(number["userrefs"]), comment, number["written"])


def parts_of(here: Here, request: Mapping[str, Any]) -> tuple[str, list[Part]]:
    """Return the instance that a request names, and the datasets of its disks on this node, in their order."""
    instance, disks = check_name(str(request.get("instance"))), request.get("disks")
    if not isinstance(disks, list) or not disks:
        raise BadInput("request: disks must be a list")
    found: dict[str, tuple[str, dict[str, int]]] = {}
    for disk in disks:
        volume, file, size = (disk.get(key) for key in ("volume", "file", "size")) if isinstance(disk, dict) else (None, None, None)
        if not isinstance(volume, str) or not isinstance(file, str) or not isinstance(size, int) or size < 0:
            raise BadInput("request: each disk must have a volume, a file and a size")
        if not volume and (file in ("", ".", "..") or "/" in file):
            raise BadInput("request: file must be a file name")
        short = check_volume(volume) if volume else instance
        found.setdefault(short, (volume, {}))[1][DISK if volume else file] = size
    return instance, [Part(here.place_of(short), short, volume, files) for short, (volume, files) in found.items()]


def users(parts: Sequence[Part]) -> list[str]:
    """Return who uses a disk now: its device, else processes that have its file open, of which all are looked through once."""
    devices = [f"the device {device}" for part in parts if (device := part.device())]
    paths = [path for part in parts for file in part.files if os.path.exists(path := f"{part.home}/{file}")]
    return devices or holding(paths)


@contextlib.contextmanager
def alone(parts: Sequence[Part]) -> Iterator[None]:
    """Nobody else of us works on any of the datasets."""
    with contextlib.ExitStack() as stack:
        for part in sorted(parts, key=lambda part: part.short):
            stack.enter_context(locked(part.short))
        yield


def must_be_quiet(part: Part, *, stays: bool = False) -> Dataset:
    """Return the dataset; Busy while an operation of Ganeti's, a rollback that was interrupted, or a move is at work on it.

    One that stays what it is may be on its way to another node until that is about to have it.
    """
    dataset = part.dataset
    refuse_half_back(dataset)
    refuse_moving(dataset, fenced=stays)
    if INTENT in dataset.marks:
        operation = dataset.marks[INTENT].split(" ")[0]
        raise Busy(part.short, f"an operation is at work on it ({operation})", "gnt-zfs check --repair if it is not")
    return dataset


def by_pool(parts: Sequence[Part], short: str) -> dict[str, list[str]]:
    """Return the full names of a snapshot of the datasets, by pool: ZFS does nothing to two pools at one moment."""
    return {part.pool: [f"{other.name}@{short}" for other in parts if other.pool == part.pool] for part in parts}


def resolve(histories: Sequence[Sequence[Snap]], wanted: str, instance: str) -> str:
    """Return the snapshot that a name means, which may lack our prefix; Missing when no disk has it."""
    known = {snap.short for history in histories for snap in history}
    for short in (wanted, OURS + wanted):
        if short in known:
            return short
    way_out = f"gnt-zfs snapshot list {instance} shows what there is"
    raise Missing(f"snapshot {wanted} of {instance}", meant(wanted, [short.removeprefix(OURS) for short in known], way_out))


# what can be done


def create(here: Here, request: Mapping[str, Any]) -> dict[str, Any]:
    """Every disk has a snapshot of that name, of one moment in each pool; tell whether the instance was running.

    What a device holds in its cache is written out first, so that the snapshot is what a power cut would leave.
    """
    instance, parts = parts_of(here, request)
    short = full_name(str(request.get("snapshot", "")), here.store.now())
    comment = check_comment(str(request.get("comment", "")))
    with alone(parts):
        for part in parts:
            must_be_quiet(part, stays=True)
            check_kept(part.name, short)
            for file in part.files:
                refuse_link(f"{part.home}/{file}", f"dataset {part.name}")
        taken = [part.short for part in parts if any(snap.short == short for snap in part.history())]
        if taken:
            raise Refused(f"snapshot {short} of {taken[0]}", "exists already", "choose another name")
        pools = by_pool(parts, short)
        running = bool(users(parts))
        if len(pools) > 1 and running and request.get("not_atomic") is not True:
            way_out = f"stop {instance}, or --not-atomic takes them one after the other"
            raise Refused(instance, f"its disks are in the pools {', '.join(pools)}, of which no snapshot is taken at one moment", way_out)
        for part in parts:
            if part.device():
                part.here.volumes.devices.flush(part.volume)
        for whole in pools.values():
            here.store.zfs.snapshot(whole, {COMMENT: comment} if comment else {})
    return {"snapshot": short, "running": running, "disks": sum(len(part.files) for part in parts), "pools": list(pools)}


def histories(here: Here, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the snapshots of several instances, and a line for each that cannot be looked at."""
    asked_for = request.get("instances")
    if not isinstance(asked_for, list) or not all(isinstance(each, dict) for each in asked_for):
        raise BadInput("request: instances must be a list of objects")
    rows, problems = [], []
    for each in asked_for:
        try:
            instance, parts = parts_of(here, each)
            rows += merged(instance, [(part.short, part.history()) for part in parts])
        except ZfsGanetiError as error:
            problems.append(one_line(error))
    return {"rows": rows, "problems": problems}


def merged(instance: str, histories: Sequence[tuple[str, Sequence[Snap]]]) -> list[dict[str, Any]]:
    """Return one row for each snapshot that any of the datasets has."""
    rows: dict[str, dict[str, Any]] = {}
    for _name, snaps in histories:
        for snap in snaps:
            row = rows.setdefault(
                snap.short,
                {
                    "instance": instance,
                    "snapshot": snap.short,
                    "created": snap.created,
                    "used": 0,
                    "referenced": 0,
                    "by": maker(snap.short),
                    "comment": "",
                    "clones": [],
                    "held": False,
                    "datasets": 0,
                },
            )
            row["used"] += snap.used
            row["referenced"] += snap.referenced
            row["clones"] += snap.clones
            row["held"] = row["held"] or snap.held
            row["comment"] = row["comment"] or snap.comment
            row["datasets"] += 1
    for row in rows.values():
        row["whole"] = row["datasets"] == len(histories)
    return sorted(rows.values(), key=lambda row: (row["created"], row["snapshot"]))


def delete(here: Here, request: Mapping[str, Any]) -> str:
    """No disk has the snapshot any more, or nothing has changed; return what it was called. Clones and holds stop it, by name."""
    instance, parts = parts_of(here, request)
    with alone(parts):
        for part in parts:
            must_be_quiet(part, stays=True)
        histories = [part.history() for part in parts]
        short = resolve(histories, str(request.get("snapshot")), instance)
        _refuse_others(short, any_maker=request.get("any") is True)
        having = [(part, snap) for part, snaps in zip(parts, histories, strict=True) for snap in snaps if snap.short == short]
        for part, snap in having:
            refuse_kept(part, snap)
        for part, snap in having:
            part.store.unmount_elsewhere(f"{part.name}@{snap.short}")
            let_go(part, [snap.short] if snap.held else [])
        for whole in by_pool([part for part, _snap in having], short).values():
            here.store.zfs.destroy_snapshots(whole)
    return short


def _refuse_others(short: str, *, any_maker: bool) -> None:
    who = maker(short)
    if who == "zfsganeti":
        raise Refused(f"snapshot {short}", "is kept for an undo or used by an operation", "it goes by itself")
    if who != "gnt-zfs" and not any_maker:
        raise Refused(
            f"snapshot {short}", f"is {who}'{'' if who.endswith('s') else 's'}, which may rely on it", "--any deletes it all the same"
        )


def refuse_kept(part: Part, snap: Snap) -> None:
    """Nothing keeps a snapshot from being destroyed; Busy names the instance that is a clone of it, or the tags that hold it."""
    full = f"{part.name}@{snap.short}"
    if snap.clones:
        raise Busy(f"snapshot {full}", *user_of(part, snap.clones[0]))
    tags = part.zfs.holds([full]).get(full, []) if snap.held else []
    if tags := [tag for tag in tags if not expired(tag)]:
        raise Busy(f"snapshot {full}", f"is held ({', '.join(tags)})", f"zfs release {tags[0]} {full}")


def refuse_newer_kept(part: Part, short: str, newer: Iterable[Snap]) -> None:
    """ZFS can take the dataset back to a snapshot, as far as can be seen before anything is changed; Busy names what keeps it."""
    for snap in newer:
        refuse_kept(part, snap)
    part.zfs.refuse_newer_bookmarks(part.name, short)


def let_go(part: Part, shorts: Sequence[str]) -> None:
    """No hold of a move that nobody has gone on with is on these snapshots of a dataset."""
    for full, tags in part.zfs.holds([f"{part.name}@{short}" for short in shorts]).items():
        for tag in filter(expired, tags):
            part.zfs.release(full, tag)


def user_of(part: Part, clone: str) -> tuple[str, str]:
    """Return what a dataset that is a clone is, and how it becomes none."""
    short = clone.rsplit("/", 1)[1]
    if f"/{TRASH}/" in clone:
        return f"{short} in the trash is a clone of it", f"gnt-zfs trash empty {short} destroys that"
    dataset = part.zfs.get(clone, marks=MARKS)
    if dataset is not None and ROLLBACK in dataset.marks:
        return f"{clone}, of a rollback that was interrupted, is a clone of it", "gnt-zfs check --repair ends that"
    owner = dataset.marks.get(INSTANCE, "") if dataset is not None else ""
    if not owner:
        return f"{clone} is a clone of it", f"zfs promote {clone}, or destroy it"
    return f"the disk of {owner} is a clone of it", f"gnt-zfs detach {owner} makes it independent"


# clones of one


def fit(part: Part, dataset: Dataset, short: str) -> int:
    """Every disk is in a clone of a snapshot, and at least as large as Ganeti believes; return their bytes. Refused without one.

    A restored instance's disks had other names before, by which older snapshots hold them: they get those that they have now.
    """
    total = 0
    with part.store.looking_into(dataset) as path:
        for file, size in part.files.items():
            refuse_link(f"{path}/{file}", f"snapshot {part.name}@{short}")
            if not os.path.exists(f"{path}/{file}"):
                former = former_names(part.dataset.marks.get(FORMER, "")).get(file, [])
                old = next((name for name in former if name not in part.files and os.path.exists(f"{path}/{name}")), "")
                if not old:
                    raise Refused(f"snapshot {part.name}@{short}", f"does not hold {file}: the disk was added after it")
                os.rename(f"{path}/{old}", f"{path}/{file}")
            if os.stat(f"{path}/{file}").st_size < size:
                os.truncate(f"{path}/{file}", size)
            total += os.stat(f"{path}/{file}").st_size
    return total


def unused(part: Part, short: str) -> tuple[str, ...]:
    """Return the files that a snapshot of a dataset holds and the dataset does not, which no disk is or was called."""
    if part.volume:
        return ()
    dataset = part.dataset
    former = former_names(dataset.marks.get(FORMER, ""))
    known = {*part.files, *(name for file in part.files for name in former.get(file, ()))}
    with part.store.looking_into(dataset) as now, part.store.looking_into_snapshot(dataset, short) as then:
        return tuple(sorted({*os.listdir(then)} - {*os.listdir(now)} - known))


def handed_on(part: Part) -> dict[str, str]:
    """Return what is set on a dataset and belongs on a clone that takes its place."""
    known = part.zfs.local(part.name)
    own = (*OWN, "readonly") if MOVE in known else OWN  # which is a fence
    return {name: value for name, value in known.items() if name not in own}


def _native(values: Mapping[str, str]) -> dict[str, str]:
    """Return what another instance's disks are made with: neither marks of ours nor the place where these are mounted."""
    return {key: value for key, value in values.items() if not key.startswith(PREFIX) and key != "mountpoint"}


def clone(here: Here, request: Mapping[str, Any]) -> dict[str, Any]:
    """Clones of a snapshot of every disk are in the trash, from where an instance of another name can be restored."""
    from zfsganeti.trash import Trash

    instance, parts = parts_of(here, request)
    new, record = check_name(str(request.get("name"))), request.get("record")
    if not isinstance(record, dict):
        raise BadInput("request: record must be an object")
    entries: list[tuple[Part, str]] = []
    with alone(parts):
        for index, part in enumerate(parts):
            must_be_quiet(part)
            check_fits("instance", f"{new}.disk{index}" if part.volume else new, part.store.root.name)
        histories = [part.history() for part in parts]
        short = resolve(histories, str(request.get("snapshot")), instance)
        if any(all(snap.short != short for snap in snaps) for snaps in histories):
            raise Refused(
                f"snapshot {short} of {instance}", "not every disk has it", f"gnt-zfs snapshot list {instance} shows which are whole"
            )
        token = f"{new} {here.store.now():.0f}"
        try:
            for index, part in enumerate(parts):
                name = f"{new}.disk{index}" if part.volume else new
                marks = {INSTANCE: new, CLUSTER: part.store.cluster, RESTORING: new, REPLACED: token}
                if part.volume:
                    marks[VOLUME] = name
                marks[RECORD] = pack_record({**record, "name": new, **({"disk": index} if part.volume else {})})
                entry = Trash(part.store).add_clone(f"{part.name}@{short}", name, marks)
                entries.append((part, entry))
                dataset = Dataset(f"{part.store.root.name}/{TRASH}/{entry}", {}, marks)
                length = fit(part, dataset, short)
                known = {SIZE: str(length)} if part.volume else {}
                part.zfs.set(dataset.name, {**_native(handed_on(part)), **known})
        except Exception:
            for part, entry in entries:
                Trash(part.store).drop_clone(entry)
            raise
    return {"snapshot": short, "entries": [entry for _part, entry in entries]}


def clone_instance(here: Here, instance: Instance, snapshot: str, name: str, say: Callable[[str], None]) -> list[str]:
    """On the master: an instance of another name, stopped, has clones of the snapshot as its disks; return what could not be copied."""
    from zfsganeti import undo

    if name in here.master.instances():
        raise Refused(name, "exists", "choose another name")
    node, record = instance.primary, instance.record()
    made = here.call(node, "snapshot-clone", **asked(instance), snapshot=snapshot, name=name, record=record)
    try:
        undo.execute(here, undo.prepare(here, made["entries"][0], name), say)
    except ZfsGanetiError as error:
        if name not in here.master.instances():
            for entry in made["entries"]:
                with contextlib.suppress(ZfsGanetiError):
                    here.call(node, "snapshot-drop-clone", entry=entry)
            why = error.why if isinstance(error, Refused) else one_line(error)
            raise Refused(name, why, "nothing was changed") from error
        raise
    return list(record["private"])
