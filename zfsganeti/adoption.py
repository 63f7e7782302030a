"""`gnt-zfs adopt`: an instance on LVM gets disks of ours, and keeps everything else, its UUID included.

A second, stopped instance without NICs is the place for disks that the first does not have: it is made with new disks of the
same sizes, they are filled while the first one runs, and then the two exchange their disks by Ganeti's own detach and attach.
Afterwards the second one holds the old disks, until they are given up by `--commit` or come back by `--rollback`. Where the
exchange stands is read from Ganeti's configuration alone; tags of the second instance say which disks are meant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zfsganeti import ganeti
from zfsganeti.disks import find_instance
from zfsganeti.errors import BadInput, Busy, CommandFailed, Missing, NoSpace, Refused, Unavailable, human
from zfsganeti.ganeti import DRBD, EXT, PLAIN, Instance
from zfsganeti.here import Here
from zfsganeti.node import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.files import Progress

SHADOW = "adopt-"  # before the instance's name; behind it, Ganeti would take the short name for both
TAG = "zfsganeti:adopt"
START = f"{TAG}:start"  # it ran before it was stopped for the exchange
FILE = "file"
KEEP_FREE = 5  # percent of the root
MIB = 1 << 20
ROUND = 4 * MIB  # what LVM rounds to, unless told otherwise
JOB_SECONDS = 900
SLICE_SECONDS = 5  # a node that is not asked again has stopped copying after so long
SMALL = 64 * MIB  # what is left for the downtime
PASSES = 5
TRIES = 3  # at a snapshot that overflows


# what is to be done (pure)


@dataclass(frozen=True)
class Places:
    """Which disks the instance and its shadow have now, and whether it runs or is to run."""

    outer: tuple[str, ...]
    shadow: tuple[str, ...]
    up: bool = False
    restart: bool = False


@dataclass(frozen=True)
class Step:
    """One job: `release` and `keep` are the shadow's detach and attach, `detach` and `attach` the instance's, as `stop` and `start`."""

    verb: str
    disks: tuple[str, ...] = ()


def next_step(places: Places, coming: Sequence[str], going: Sequence[str]) -> Step | None:
    """Return the next step towards an instance with the disks `coming`, in their order, and a shadow with those `going`.

    None when that is so. Disks of others are left alone. Half of an attach is taken back first: Ganeti 3.0 attaches `-t ext`
    disks to an instance without disks only.
    """
    if held := [disk for disk in places.shadow if disk in coming]:
        return Step("release", tuple(held))
    if left := [disk for disk in places.outer if disk in going]:
        return Step("stop") if places.up else Step("detach", tuple(left))
    here = [disk for disk in places.outer if disk in coming]
    if here != list(coming):
        if places.up:
            return Step("stop")
        return Step("detach", tuple(here)) if here else Step("attach", tuple(coming))
    if places.restart and not places.up:
        return Step("start")
    kept = [disk for disk in places.shadow if disk in going]
    if kept != list(going):
        return Step("release", tuple(kept)) if kept else Step("keep", tuple(going))
    return None


def another_pass(changed: Sequence[int]) -> bool:
    """Tell from the bytes that each pass left changed whether one more would shorten the downtime."""
    if not changed or len(changed) >= PASSES or changed[-1] <= SMALL:
        return False
    return len(changed) == 1 or changed[-1] * 4 < changed[-2] * 3


def room_of_snapshot(size: int, share: int) -> int:
    """Return how many bytes of changes the snapshot of a disk is given out of its share of the group, 0 when that is too little."""
    least = min(size, max(size // 50, 32 * MIB))
    wanted = min(size + size // 50 + ROUND, max(size // 5, 256 * MIB), share // ROUND * ROUND)
    return max(ROUND, -(-wanted // ROUND) * ROUND) if wanted >= least else 0


@dataclass(frozen=True)
class Tags:
    """What the shadow's tags say: which disks are the old ones and which the new, each in order, and whether it ran."""

    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    ours: bool = False
    start: bool = False


def parse_tags(tags: Iterable[str]) -> Tags:
    found: dict[str, dict[int, str]] = {"old": {}, "new": {}}
    known = set(tags)
    for tag in known:
        words = tag.split(":")
        if tag.startswith(f"{TAG}:") and len(words) == 5 and words[2] in found and words[3].isdigit():
            found[words[2]][int(words[3])] = words[4]
    old, new = (tuple(uuid for _index, uuid in sorted(found[kind].items())) for kind in ("old", "new"))
    return Tags(old, new, TAG in known, START in known)


def tags_of(kind: str, disks: Sequence[str]) -> list[str]:
    return [f"{TAG}:{kind}:{index}:{uuid}" for index, uuid in enumerate(disks)]


@dataclass(frozen=True)
class Plan:
    """What an adoption will do, with the figures that it is decided by."""

    instance: str
    shadow: str
    node: str
    template: str
    old_template: str
    root: str
    running: bool
    live: bool  # copied while it runs
    exists: bool  # an earlier run has made the shadow already
    command: tuple[str, ...]  # makes the shadow
    sizes: tuple[int, ...]
    lvm: tuple[tuple[str, str], ...]
    rooms: tuple[int, ...] = ()  # of the snapshots
    free: Mapping[str, int] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        total = human(sum(self.sizes))
        many = f"{len(self.sizes)} disks" if len(self.sizes) > 1 else "disk"
        said = [f"{self.instance} on {self.node}: {many} of {total} on LVM (-t {self.old_template}) to -t {self.template} in {self.root}"]
        for index, (vg, lv) in enumerate(self.lvm):
            snapshot = f", a snapshot with room for {human(self.rooms[index])} of changes" if self.live else ""
            said.append(f"disk {index}: /dev/{vg}/{lv}, {human(self.sizes[index])}{snapshot}")
        said.append(f"{self.shadow} exists already from an earlier run, which is gone on with" if self.exists else " ".join(self.command))
        if self.live:
            said.append(f"copy while {self.instance} runs, again what has changed meanwhile until that is little (at most {PASSES} times)")
        if self.running:
            said.append(f"gnt-instance stop {self.instance}: the downtime begins")
        said.append("copy the blocks that changed since" if self.live else "copy the disks, which takes as long as reading them does")
        said.append(f"exchange the disks of {self.instance} and {self.shadow} (gnt-instance modify --disk N:detach, N:attach)")
        if self.running:
            said.append(f"gnt-instance start {self.instance}: the downtime ends, after Ganeti's four jobs and the last changed blocks")
        said.append(f"the old disks stay, as those of {self.shadow}: gnt-zfs adopt --commit removes them, --rollback brings them back")
        return said


def make_plan(
    instance: Instance,
    sizes: Sequence[int],
    facts: Mapping[str, Any],
    *,
    template: str,
    offline: bool = False,
    exists: bool = False,
    command: Sequence[str] = (),
) -> Plan:
    """Return the plan for what a node has told of an instance's LVM volumes; NoSpace, with figures, where there is too little."""
    lvs = tuple((disk.lvm[0], disk.lvm[1]) for disk in instance.disks)
    for (vg, lv), size in zip(lvs, facts["sizes"], strict=True):
        if not size:
            raise Missing(f"logical volume {vg}/{lv} on {instance.primary}")
    asked, whole = sum(sizes), facts["used"] + facts["available"]
    spare = facts["available"] - whole * KEEP_FREE // 100
    if asked > spare and not exists:
        raise NoSpace(f"{facts['root']} on {instance.primary}, of which {KEEP_FREE}% stay free", asked, max(0, spare))
    running = instance.admin_state == "up"
    rooms = []
    if running and not offline:
        for (vg, _lv), size in zip(lvs, sizes, strict=True):
            # two of each disk at a time: the next one is taken before what changed since the last is read
            share = facts["free"][vg] // (2 * sum(1 for other, _name in lvs if other == vg))
            room = room_of_snapshot(size, share)
            if not room and not exists:
                need = 2 * sum(max(size // 50, 32 * MIB) for size in sizes)
                raise NoSpace(f"volume group {vg} on {instance.primary}, for snapshots", need, facts["free"][vg], "--offline needs none")
            rooms.append(room or ROUND)
    return Plan(
        instance.name,
        SHADOW + instance.name,
        instance.primary,
        template,
        instance.template,
        facts["root"],
        running,
        running and not offline,
        exists,
        tuple(command),
        tuple(sizes),
        lvs,
        tuple(rooms),
        facts["free"],
    )


def shadow_record(instance: Instance, template: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Return how the shadow is made: as the instance, without NICs, with new disks that bear the names and modes of the old."""
    record = instance.record()
    disks = [
        {**disk, "size": size, **({"volume": "new", "parameters": {}} if template == EXT else {})}
        for disk, size in zip(record["disks"], sizes, strict=True)
    ]
    return {
        **record,
        "template": template,
        "driver": "loop" if template == FILE else "",
        "nics": [],
        "disks": disks,
        "tags": [TAG, *tags_of("old", [disk.uuid for disk in instance.disks])],
    }


# looking


class Adoption:
    """One instance and its shadow, as the configuration has them at the moment that they are looked at."""

    def __init__(self, here: Here, name: str) -> None:
        self.here = here
        instances = here.master.instances()
        if name.startswith(SHADOW) and name.removeprefix(SHADOW) in instances:
            raise BadInput(f"{name}: name the instance itself, {name.removeprefix(SHADOW)}")
        self.name = find_instance(instances, name).name
        self.shadow_name = SHADOW + self.name
        self.look()

    def look(self) -> None:
        instances = self.here.master.instances()
        if self.name not in instances:
            raise Missing(f"instance {self.name}")
        self.instance, self.shadow = instances[self.name], instances.get(self.shadow_name)
        self.tags = parse_tags(self.shadow.record()["tags"]) if self.shadow else Tags()
        self.disks = self.here.master.disks()
        self.node = self.instance.primary
        if self.shadow is not None and not self.tags.ours:
            raise Refused(self.shadow_name, "exists and was not made by gnt-zfs adopt", "rename it")
        if self.shadow is not None and self.shadow.primary != self.node:
            raise Refused(self.shadow_name, f"is on {self.shadow.primary}, {self.name} on {self.node}", f"bring {self.name} back there")

    @property
    def old(self) -> tuple[str, ...]:
        return self.tags.old

    @property
    def new(self) -> tuple[str, ...]:
        """The new disks: those that the tags name, before there are such tags those that the shadow was made with."""
        return self.tags.new or tuple(disk.uuid for disk in (self.shadow.disks if self.shadow else ()))

    @property
    def template(self) -> str:
        return self.disks[self.new[0]].template if self.new and self.new[0] in self.disks else ""

    @property
    def places(self) -> Places:
        return Places(
            tuple(disk.uuid for disk in self.instance.disks),
            tuple(disk.uuid for disk in (self.shadow.disks if self.shadow else ())),
            self.instance.admin_state == "up",
            self.tags.start,
        )

    @property
    def state(self) -> str:
        """Return how far it is: copying, exchanging, or kept, which waits for --commit or --rollback."""
        if next_step(self.places, self.new, self.old) is None:
            return "kept"
        return "copying" if self.places.outer == self.old else "exchanging"

    def must_exist(self) -> None:
        if self.shadow is None:
            raise Missing(f"an adoption of {self.name}", f"gnt-zfs adopt {self.name} begins one")


def all_of(here: Here) -> list[Adoption]:
    """Return every adoption that was begun and neither committed nor taken back."""
    instances = here.master.instances()
    shadows = [name for name, instance in instances.items() if name.startswith(SHADOW) and TAG in instance.record()["tags"]]
    names = sorted(name.removeprefix(SHADOW) for name in shadows)
    return [Adoption(here, name) for name in names if name in instances]


def prepare(here: Here, name: str, template: str, *, offline: bool) -> Plan | None:
    """Return the plan of an adoption, None when it is done; what stands in its way is raised, and nothing is changed."""
    found = Adoption(here, name)
    if found.shadow is not None and found.state == "kept":
        return None
    instance, exists = found.instance, found.shadow is not None
    if exists and found.state == "exchanging":
        if template and template != found.template:
            raise Refused(found.name, f"is being adopted as -t {found.template}", f"gnt-zfs adopt {found.name}")
        return _rest(found)
    if instance.template not in (PLAIN, DRBD):
        why = "is on ZFS already" if any(disk.volume for disk in instance.disks) or instance.template == FILE else "is not on LVM"
        raise Refused(instance.name, f"{why}: its disks are -t {instance.template}", "only plain and drbd instances are adopted")
    if any(not disk.lvm for disk in instance.disks):
        raise Refused(instance.name, "not all of its disks are on LVM")
    if exists and template and template != found.template:
        raise Refused(found.name, f"is being adopted as -t {found.template}", f"gnt-zfs adopt --abort {found.name}")
    template = found.template or template or FILE
    enabled = here.master.cluster().get("enabled_disk_templates") or []
    if template not in enabled:
        raise Refused(f"disk template {template}", f"is not enabled, there are {', '.join(enabled)}", "gnt-zfs setup enables it")
    if instance.primary in here.ssconf.offline_nodes:
        raise Unavailable(instance.primary, "is offline")
    facts = here.call(
        instance.primary,
        "adopt-facts",
        instance=instance.name,
        free_name=template == FILE and not exists,
        disks=[{"vg": disk.lvm[0], "lv": disk.lvm[1]} for disk in instance.disks],
    )
    # a guest on plain sees the whole volume, which may be larger than what Ganeti asked LVM for; drbd is told its size
    sizes = [
        disk.size if disk.template == DRBD else max(disk.size, -(-size // MIB) * MIB)
        for disk, size in zip(instance.disks, facts["sizes"], strict=True)
    ]
    record = shadow_record(instance, template, sizes)
    command = ganeti.add_command(record, name=found.shadow_name, node=instance.primary, release=here.ssconf.release)
    return make_plan(instance, sizes, facts, template=template, offline=offline, exists=exists, command=command)


def _rest(found: Adoption) -> Plan:
    """Return the plan of an exchange that was interrupted: the disks are copied, or are compared again if need be."""
    old = [found.disks[uuid] for uuid in found.old]
    running = found.places.up or found.places.restart
    return Plan(
        found.name,
        found.shadow_name,
        found.node,
        found.template,
        old[0].template,
        "its root",
        running,
        False,
        True,
        (),
        tuple(disk.size for disk in old),
        tuple((disk.lvm[0], disk.lvm[1]) for disk in old),
    )


# doing


class Conduct:
    """An adoption on its way; every step looks first, so that what was interrupted anywhere is gone on with."""

    def __init__(self, here: Here, name: str, say: Callable[[str], None], progress: Progress) -> None:
        self.here, self.say, self.progress = here, say, progress
        self.found = Adoption(here, name)
        self.name, self.shadow_name = self.found.name, self.found.shadow_name
        self.stopped_at = 0.0
        self.downtime: float | None = None
        self.kept_copy = False
        self._wait_for_jobs()

    def _wait_for_jobs(self) -> None:
        """No job works on the two instances: those of a run that was killed go on without it."""
        deadline = time.monotonic() + JOB_SECONDS
        while busy := [name for name in _working(self.here) if name in (self.name, self.shadow_name)]:
            if time.monotonic() > deadline:
                raise Busy(busy[0], "a job of Ganeti's works on it", "gnt-job list shows it; then the same command goes on")
            time.sleep(1)
        self.found.look()

    def _call(self, verb: str, **request: Any) -> Any:
        return self.here.call(self.found.node, verb, seconds=JOB_SECONDS, **request)

    def _gnt(self, *words: str) -> None:
        run("gnt-instance", *words, seconds=JOB_SECONDS)

    # forward

    def adopt(self, plan: Plan, *, verify: bool = False) -> None:
        """The instance runs, or is stopped, as before, on disks of ours; the old ones are the shadow's."""
        if not plan.exists:
            self.say(f"adding {self.shadow_name} with the new disks")
            self._add(plan)
        self._name_new()
        if plan.live:
            for index in range(len(plan.sizes)):
                self._fill(index, plan.rooms[index])
        self._exchange(self.found.new, self.found.old, copy=True, verify=verify)
        self._call("adopt-drop", disks=self._lvs())
        if verify:
            self._verify()

    def _add(self, plan: Plan) -> None:
        try:
            run(*plan.command, seconds=JOB_SECONDS)
        except CommandFailed as error:
            raise Refused(self.shadow_name, f"Ganeti does not add it: {error.reason}", f"nothing was changed for {self.name}") from error
        self.found.look()

    def _name_new(self) -> None:
        """The shadow's tags name the new disks, before anything is taken from it."""
        self.found.look()
        self.found.must_exist()
        if len(self.found.new) != len(self.found.old):
            why = f"has {len(self.found.new)} disks, {self.name} {len(self.found.old)}"
            raise Refused(self.shadow_name, why, f"gnt-zfs adopt --abort {self.name}")
        if not self.found.tags.new:
            self._gnt("add-tags", self.shadow_name, *tags_of("new", self.found.new))
            self.found.look()

    def _lvs(self) -> list[dict[str, str]]:
        disks = [self.found.disks[uuid] for uuid in self.found.old]
        return [{"vg": disk.lvm[0], "lv": disk.lvm[1]} for disk in disks]

    def _disk(self, index: int) -> dict[str, Any]:
        """Return how a node is told which LVM volume and which disk of ours are meant."""
        new = self.found.disks[self.found.new[index]]
        names = [self.shadow_name, self.name]
        return {**self._lvs()[index], "disk": index, "volume": new.volume, "file": new.path.rsplit("/", 1)[-1], "names": names}

    def _fill(self, index: int, room: int) -> None:
        """The new disk is equal to a snapshot of the old one, and little of that has changed since."""
        disk = self._disk(index)
        state = self._call("adopt-state", **disk)
        number = state["making"] or state["whole"] or state["highest"] + 1
        changed: list[int] = []
        tries = 0
        while True:
            copied = self._pass(index, disk, number, room)
            left = self._call("adopt-changed", **disk) if copied else -1
            if left < 0:  # it is written faster than it is copied, or the snapshot was too small
                tries += 1
                room *= 2
                if tries >= TRIES:
                    way_out = f"gnt-zfs adopt --offline {self.name} stops it first, --abort gives up"
                    raise Refused(f"disk {index} of {self.name}", f"its snapshot overflowed {tries} times", way_out)
            else:
                changed.append(left)
                self.say(f"disk {index} is copied, {human(left)} of it changed meanwhile")
                if not another_pass(changed):
                    return
            number += 1

    def _pass(self, index: int, disk: Mapping[str, Any], number: int, room: int) -> bool:
        """The new disk is equal to that snapshot; False when the snapshot overflowed."""
        while True:
            told = self._call("adopt-copy", **disk, number=number, room=room, patience=SLICE_SECONDS)
            if told["overflowed"]:
                return False
            self._tell(index, told)
            if told["ended"]:
                return True

    def _tell(self, index: int, told: Mapping[str, Any]) -> None:
        total = told["total"]
        if total:
            done = total if told["ended"] else min(told["offset"] if told["what"] == "all" else told["read"], total)
            self.progress(f"disk {index}", done, total)

    def _finish(self) -> None:
        """The new disks hold what the old ones, which nobody uses now, hold."""
        for index in range(len(self.found.old)):
            disk, offset, read, written = self._disk(index), 0, 0, 0
            while True:
                told = self._call("adopt-finish", **disk, offset=offset, patience=SLICE_SECONDS)
                offset, read, written = told["offset"], read + told["read"], written + told["written"]
                self._tell(index, told)
                if told["ended"]:
                    break
            self.say(f"disk {index}: {human(read)} compared, {human(written)} written")

    # the exchange, both ways

    def _exchange(self, coming: tuple[str, ...], going: tuple[str, ...], *, copy: bool, verify: bool = False) -> None:
        """The instance has the disks that come, its shadow those that go, and it runs if it did."""
        self._remember_running(going)
        for _step in range(20):
            step = next_step(self.found.places, coming, going)
            if step is None:
                break
            if step.verb in ("start", "keep"):
                self._settle(self.name, coming)
                if verify and not self.kept_copy:
                    self._call("adopt-keep", **self._ours(self.name))
                    self.kept_copy = True
            if step.verb == "detach" and copy and set(step.disks) & set(going):
                self._finish()
            self._do(step)
            self.found.look()
        else:
            raise Unavailable(self.name, "its disks are not where they were put", f"gnt-zfs adopt {self.name} tries again")
        self._settle(self.shadow_name, going)
        if self.found.tags.start:
            self._gnt("remove-tags", self.shadow_name, START)
            self.found.look()

    def _remember_running(self, going: tuple[str, ...]) -> None:
        """The shadow's tags say that the instance runs and is to run again, before it is stopped."""
        if self.found.places.up and not self.found.tags.start and set(self.found.places.outer) & set(going):
            self._gnt("add-tags", self.shadow_name, START)
            self.found.look()

    def _do(self, step: Step) -> None:
        """One step is done by one job of Ganeti's."""
        if step.verb == "stop":
            self.say(f"stopping {self.name}")
            self.stopped_at = time.monotonic()
            self._gnt("stop", self.name)
        elif step.verb == "start":
            self._gnt("start", self.name)
            if self.stopped_at:
                self.downtime = time.monotonic() - self.stopped_at
        elif step.verb in ("detach", "release"):
            owner = self.name if step.verb == "detach" else self.shadow_name
            self._loosen(step.disks, self.shadow_name if step.verb == "detach" else self.name)
            self._modify(owner, detach_words(self.found.places.outer if step.verb == "detach" else self.found.places.shadow, step.disks))
        else:
            owner = self.name if step.verb == "attach" else self.shadow_name
            self._loosen(step.disks, owner)
            self._modify(owner, attach_words(step.disks))
            if owner == self.shadow_name and self.found.disks[step.disks[0]].template == DRBD:
                self._gnt("deactivate-disks", owner)  # a stopped instance's are, elsewhere in Ganeti

    def _modify(self, owner: str, words: Sequence[str]) -> None:
        self._gnt("modify", "--ignore-ipolicy", *words, owner)

    def _loosen(self, disks: Sequence[str], owner: str) -> None:
        """Disk files that are to change their owner are where Ganeti can rename them."""
        files = [self.found.disks[uuid].path for uuid in disks if self.found.disks[uuid].template == FILE]
        if files:
            old = self.name if owner == self.shadow_name else self.shadow_name
            self._call("adopt-loosen", old=old, new=owner, paths=files)

    def _settle(self, owner: str, disks: Sequence[str]) -> None:
        """Disks of ours are their new owner's under its name."""
        self.found.look()
        ours = self._ours(owner, disks)
        if ours["files"] or ours["volumes"]:
            self._call("adopt-settle", **ours)

    def _ours(self, owner: str, disks: Sequence[str] = ()) -> dict[str, Any]:
        found = [self.found.disks[uuid] for uuid in disks or self.found.new]
        files = [disk.path.rsplit("/", 1)[1] for disk in found if disk.template == FILE]
        return {"instance": owner, "files": files, "volumes": [disk.volume for disk in found if disk.volume]}

    def _verify(self) -> None:
        """The new disks, as they were before the start, are equal to the old ones."""
        if not self.kept_copy:
            raise Refused(self.name, "was not verified: its disks were exchanged by an earlier run")
        try:
            for index in range(len(self.found.old)):
                offset, ended = 0, False
                while not ended:
                    told = self._call("adopt-verify", **self._disk(index), offset=offset, patience=SLICE_SECONDS)
                    if told["differs"] >= 0:
                        why = f"differs from the old one near byte {told['differs']}"
                        raise Refused(f"disk {index} of {self.name}", why, f"gnt-zfs adopt --rollback {self.name}")
                    offset, ended = told["offset"], told["ended"]
                    self.progress(f"verify disk {index}", offset, told["total"])
        finally:
            self._call("adopt-keep", **self._ours(self.name), gone=True)

    # back and away

    def commit(self) -> None:
        """The old disks are gone for good."""
        self.found.must_exist()
        if self.found.state != "kept":
            raise Refused(self.name, "is not adopted yet", f"gnt-zfs adopt {self.name} goes on")
        self._call("adopt-drop", disks=self._lvs())
        self._call("adopt-keep", **self._ours(self.name), gone=True)
        self._gnt("remove", "-f", self.shadow_name)

    def back(self, *, abort: bool) -> None:
        """The instance has its old disks; the new ones are in the trash, or gone if they were never used."""
        self.found.must_exist()
        if abort and self.found.state != "copying":
            raise Refused(self.name, "has been switched to its new disks, or is about to be", f"gnt-zfs adopt --rollback {self.name}")
        if not abort and self.found.state == "copying":
            raise Refused(self.name, "has its old disks", f"gnt-zfs adopt --abort {self.name} gives up the copy")
        if self.found.new:
            self._exchange(self.found.old, self.found.new, copy=False)
        self._call("adopt-drop", disks=self._lvs())
        # not to be taken for an adoption when the trash brings it back
        self._gnt("remove-tags", self.shadow_name, *[tag for tag in self._tags() if tag != TAG], TAG)
        try:
            self._gnt("remove", "-f", self.shadow_name)
        except CommandFailed:
            self._gnt("add-tags", self.shadow_name, TAG, *tags_of("old", self.found.old), *tags_of("new", self.found.new))
            raise
        if abort:
            self._destroy_copy()

    def _tags(self) -> list[str]:
        record = self.found.shadow.record() if self.found.shadow else {"tags": []}
        return [str(tag) for tag in record["tags"] if str(tag).startswith(TAG)]

    def _destroy_copy(self) -> None:
        for entry in self.here.call(self.found.node, "report")["trash"]:
            if entry["instance"] == self.shadow_name:
                self._call("trash-destroy", entry=entry["entry"])


def detach_words(attached: Sequence[str], disks: Sequence[str]) -> list[str]:
    """Return what gnt-instance modify is told: from the last on, so that no number changes before its turn."""
    numbers = sorted((attached.index(uuid) for uuid in disks), reverse=True)
    return [word for number in numbers for word in ("--disk", f"{number}:detach")]


def attach_words(disks: Sequence[str]) -> list[str]:
    return [word for number, uuid in enumerate(disks) for word in ("--disk", f"{number}:attach,uuid={uuid}")]


def _working(here: Here) -> list[str]:
    return [str(opcode["instance_name"]) for opcode in here.master.jobs() if opcode.get("instance_name")]
