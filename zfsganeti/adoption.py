"""`gnt-zfs adopt`: an instance on LVM gets disks of ours, and keeps everything else, its UUID included.

A second, stopped instance without NICs is the place for disks that the first does not have: it is made with new disks of the
same sizes, they are filled while the first one runs, and then the two exchange their disks by Ganeti's own detach and attach.
Afterwards the second one holds the old disks, until they are given up by `--commit` or come back by `--rollback`. Where the
exchange stands is read from Ganeti's configuration alone; tags of the second instance say which disks are meant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zfsganeti import ganeti
from zfsganeti.disks import find_instance
from zfsganeti.errors import BadInput, Busy, Missing, NoSpace, Refused, Unavailable, human
from zfsganeti.ganeti import DRBD, EXT, PLAIN, Instance
from zfsganeti.here import Here
from zfsganeti.intake import COPY, grown
from zfsganeti.names import meant

SHADOW = "adopt-"  # before the instance's name; behind it, Ganeti would take the short name for both
TAG = "zfsganeti:adopt"
START = f"{TAG}:start"  # it ran before it was stopped for the exchange
BACK = f"{TAG}:back"  # its old disks come back: what the new ones hold is for the trash and not to be written over
SYNCED = f"{TAG}:synced"  # and behind it the instance's serial number, when its halves of drbd were looked at before it was stopped
STOPPING = 2  # by how much a stop raises that number: the instance is down, its disks are inactive; any start raises it further
FILE = "file"
KEEP_FREE = 5  # percent of the root
MIB = 1 << 20
ROUND = 4 * MIB  # what LVM rounds to, unless told otherwise
SMALL = 64 * MIB  # what is left for the downtime
JOBS_SECONDS = 13.0  # about what Ganeti takes for a stop, a detach, an attach and a start; how long a guest takes nobody knows
RATE = 100 * MIB  # bytes a second that are read and compared, until that was measured
PASSES = 5


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


def downtime(left: int, rate: float = RATE) -> float:
    """Return about how many seconds an instance is down when so many bytes are left to be compared, at so many a second."""
    return JOBS_SECONDS + left / rate


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
    back: bool = False
    synced: tuple[int, ...] = ()


def parse_tags(tags: Iterable[str]) -> Tags:
    found: dict[str, dict[int, str]] = {"old": {}, "new": {}}
    known = set(tags)
    for tag in known:
        words = tag.split(":")
        if tag.startswith(f"{TAG}:") and len(words) == 5 and words[2] in found and words[3].isdigit():
            found[words[2]][int(words[3])] = words[4]
    old, new = (tuple(uuid for _index, uuid in sorted(found[kind].items())) for kind in ("old", "new"))
    serials = [tag.removeprefix(f"{SYNCED}:") for tag in known if tag.startswith(f"{SYNCED}:")]
    synced = sorted(int(serial) for serial in serials if serial.isascii() and serial.isdigit())
    return Tags(old, new, TAG in known, START in known, BACK in known, tuple(synced))


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

    @property
    def left(self) -> int:
        """How many bytes there are to compare while the instance is down, as far as that is known before the first is copied."""
        return sum(min(size, SMALL) if self.live else size for size in self.sizes)

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
            said.append(f"gnt-instance start {self.instance}: the downtime ends, after {self._downtime()}")
        said.append(f"the old disks stay, as those of {self.shadow}: gnt-zfs adopt --commit removes them, --rollback brings them back")
        return said

    def _downtime(self) -> str:
        what = "the last changed blocks" if self.live else f"the copy of {human(self.left)} at {human(RATE)}/s"
        return f"about {downtime(self.left):.0f} s for Ganeti's four jobs and {what}"


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
    for what, held in facts.get("claims", {}).items():
        if held:  # which would be found when the instance is down already
            raise Busy(what, f"is used on {instance.primary} by {held[0]}", "free it, then the same command goes on")
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

    def __init__(self, here: Here, name: str, *, listed: bool = False) -> None:
        """A `listed` one has a shadow, whatever is wrong with it is its `problem` and not raised."""
        self.here = here
        self.name = name if listed else outer_name(here, name)
        self.shadow_name = SHADOW + self.name
        self._read()
        if not listed:
            self._refuse()

    def look(self) -> None:
        self._read()
        self._refuse()

    def _refuse(self) -> None:
        if self.problem is not None:
            raise self.problem

    @property
    def problem(self) -> Refused | None:
        """Return why nothing can be done with it."""
        if self.shadow is None:
            return None
        if not self.tags.ours:
            return Refused(self.shadow_name, "exists and was not made by gnt-zfs adopt", "rename it")
        if self.shadow.primary != self.node:
            return Refused(self.shadow_name, f"is on {self.shadow.primary}, {self.name} on {self.node}", f"bring {self.name} back there")
        return None

    def _read(self) -> None:
        instances = self.here.master.instances()
        if self.name not in instances:
            raise Missing(f"instance {self.name}", meant(self.name, instances))
        self.instance, self.shadow = instances[self.name], instances.get(self.shadow_name)
        self.tags = parse_tags(self.shadow.record()["tags"]) if self.shadow else Tags()
        self.disks = self.here.master.disks()
        self.node = self.instance.primary

    @property
    def old(self) -> tuple[str, ...]:
        return self.tags.old

    @property
    def new(self) -> tuple[str, ...]:
        """The new disks: those that the tags name, before there are such tags those that the shadow was made with."""
        return self.tags.new or tuple(disk.uuid for disk in (self.shadow.disks if self.shadow else ()))

    @property
    def present(self) -> tuple[str, ...]:
        """The new disks but for those that somebody has removed since."""
        return tuple(uuid for uuid in self.new if uuid in self.disks)

    @property
    def is_untouched(self) -> bool:
        """Whether the instance has every old disk that there is yet, its shadow every new one, and none was stopped for their exchange."""
        old, new = set(self.old) & set(self.disks), set(self.present)
        return set(self.places.outer) >= old and set(self.places.shadow) >= new and not self.tags.start

    @property
    def template(self) -> str:
        return self.disks[self.present[0]].template if self.present else ""

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
        """Return how far it is: copying, exchanging, returning, or kept, which waits for --commit or --rollback."""
        if self.tags.back:
            return "returning"
        if self.present and next_step(self.places, self.present, self.old) is None and not self.tags.start:
            return "kept"
        return "copying" if self.places.outer == self.old or self.is_untouched else "exchanging"

    @property
    def was_in_sync(self) -> bool:
        """Whether its halves of drbd on the primary were up to date when it was stopped, and it has not been started since."""
        serial = self.instance.serial
        return self.instance.admin_state != "up" and any(0 <= serial - seen <= STOPPING for seen in self.tags.synced)

    def refuse_return(self) -> None:
        """Of a rollback that was interrupted, the old disks are no source for a copy: the new ones were written since."""
        if self.tags.back and set(self.places.outer) & set(self.old):
            raise Refused(self.name, "is being taken back to its old disks", f"gnt-zfs adopt --rollback {self.name} goes on")

    def refuse_running(self) -> None:
        """Nobody has started the shadow: its guest would keep open what another one is about to get, wherever Ganeti has that by then."""
        if self.shadow is not None and self.shadow.admin_state == "up":
            way_out = f"gnt-instance stop {self.shadow_name}, then the same command goes on"
            raise Refused(self.shadow_name, f"was started, with disks of the adoption of {self.name}", way_out)

    def refuse_grown(self, sizes: Sequence[int] = ()) -> None:
        """What is yet to be copied fits, whose sizes are those of the old disks unless more is known."""
        attached = self.places.outer
        wanted = sizes or [self.disks[uuid].size if uuid in self.disks else 0 for uuid in self.old]
        for index, (old, new, size) in enumerate(zip(self.old, self.new, wanted, strict=False)):
            if old in attached and new in self.disks and self.disks[new].size < size:
                raise grown(f"disk {index} of {self.name}", self.name, size, self.disks[new].size)

    def must_know_disks(self, coming: Sequence[str]) -> None:
        """All disks that are to come are there, and the instance has no others: Ganeti mixes no kinds of disks in one instance."""
        meant = {*self.old, *self.new}
        if lost := (set(coming) | set(self.old)) - set(self.disks):
            why = f"{len(lost)} of the disks that were exchanged {'is' if len(lost) == 1 else 'are'} gone"
            back = "--abort" if self.state == "copying" else "--rollback" if not lost & set(self.old) else ""
            ends = f"gnt-instance remove {self.shadow_name} ends its adoption and destroys the disks that it has"
            raise Refused(self.name, why, f"gnt-zfs adopt {back} {self.name}" if back else ends)
        if more := set(self.places.outer) - meant:
            why = f"has got {len(more)} more disk{'s' if len(more) > 1 else ''} since"
            raise Refused(self.name, why, f"gnt-instance modify --disk N:detach {self.name} first")

    def must_exist(self) -> None:
        if self.shadow is None:
            raise Missing(f"an adoption of {self.name}", f"gnt-zfs adopt {self.name} begins one")


def outer_name(here: Here, name: str) -> str:
    """Return the whole name of the instance that is meant, which is no other's shadow."""
    instances = here.master.instances()
    if name.startswith(SHADOW) and name.removeprefix(SHADOW) in instances:
        raise BadInput(f"{name}: name the instance itself, {name.removeprefix(SHADOW)}")
    for instance, problem in strays(instances):
        if instance.name == name:
            raise problem
    return find_instance(instances, name).name


def all_of(here: Here) -> list[Adoption]:
    """Return every adoption that was begun and neither committed nor taken back; what is wrong with one is its `problem`."""
    instances = here.master.instances()
    names = sorted(name.removeprefix(SHADOW) for name, instance in instances.items() if is_shadow(instance))
    found = []
    for name in names:
        with contextlib.suppress(Missing):  # gone since
            found += [Adoption(here, name, listed=True)] if name in instances else []
    return found


def strays(instances: Mapping[str, Instance]) -> list[tuple[Instance, Refused]]:
    """Return each shadow whose instance has its name no more, by which alone one finds the other, and what is to be done with it."""
    found = []
    for name in sorted(instances):
        if is_shadow(instances[name]) and name.removeprefix(SHADOW) not in instances:
            why = f"has disks of the adoption of {name.removeprefix(SHADOW)}, which was renamed or removed"
            way_out = f"gnt-instance rename {name} {SHADOW}NEWNAME leads back to it, gnt-instance remove {name} destroys them"
            found.append((instances[name], Refused(name, why, way_out)))
    return found


def is_shadow(instance: Instance) -> bool:
    return instance.name.startswith(SHADOW) and TAG in instance.record()["tags"]


def refuse_move(instances: Mapping[str, Instance], instance: Instance, target: str) -> None:
    """An instance and its shadow stay on one node until the adoption has ended; one that was parted from it may go back there."""
    outer = instances.get(instance.name.removeprefix(SHADOW)) if is_shadow(instance) else instance
    shadow = instances.get(SHADOW + outer.name) if outer is not None else None
    if outer is None or shadow is None or not is_shadow(shadow) or target in (instance.primary, shadow.primary):
        return
    way_out = f"gnt-zfs adopt --commit {outer.name} first, or --rollback"
    if instance is not outer:
        raise Refused(instance.name, f"has the other disks of {outer.name}, whose adoption has not ended", way_out)
    raise Refused(instance.name, f"was adopted and {shadow.name} has its old disks yet", way_out)


def refuse_start(here: Here, shadow: str, names: Sequence[str]) -> None:
    """None of these datasets of the shadow is a copy that is yet to be made equal to an old disk, of which a guest would make another."""
    for name in names:
        place, outer = here.place_of(name), _outer_of(here, shadow)
        dataset = place.zfs.get(f"{place.root.name}/{name}")
        if dataset is not None and any(key.startswith(COPY) for key in place.zfs.local(dataset.name)):
            why = f"has the unfinished copy of {outer}'s disks"
            raise Refused(shadow, why, f"gnt-zfs adopt {outer} goes on, gnt-zfs adopt --abort {outer} gives up")


def _outer_of(here: Here, shadow: str) -> str:
    """Return the instance of a shadow: itself where it only bears a name like one's, and is adopted itself."""
    outer = shadow.removeprefix(SHADOW)
    return outer if outer in here.ssconf.instances else shadow


def prepare(here: Here, name: str, template: str, *, offline: bool) -> Plan | None:
    """Return the plan of an adoption, None when it is done; what stands in its way is raised, and nothing is changed."""
    found = Adoption(here, name)
    if found.shadow is not None and found.state == "kept":
        return None
    instance, exists = found.instance, found.shadow is not None
    found.refuse_return()
    found.refuse_running()
    if exists and found.state in ("exchanging", "returning"):
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
        shadow=ganeti.check_name(found.shadow_name),
        disks=[{"vg": disk.lvm[0], "lv": disk.lvm[1]} for disk in instance.disks],
    )
    if not found.was_in_sync:
        refuse_stale(instance, facts["drbd"])
    # a guest on plain sees the whole volume, which may be larger than what Ganeti asked LVM for; drbd is told its size
    sizes = [
        disk.size if disk.template == DRBD else max(disk.size, -(-size // MIB) * MIB)
        for disk, size in zip(instance.disks, facts["sizes"], strict=True)
    ]
    found.refuse_grown(sizes)
    record = shadow_record(instance, template, sizes)
    command = ganeti.add_command(record, name=found.shadow_name, node=instance.primary, release=here.ssconf.release)
    return make_plan(instance, sizes, facts, template=template, offline=offline, exists=exists, command=command)


def refuse_stale(instance: Instance, states: Mapping[str, str]) -> None:
    """A drbd disk of which this node's half is behind is read from the other node: its LVM volume is not what the guest sees."""
    for index, disk in enumerate(instance.disks):
        if disk.template == DRBD:
            state = states.get(str(instance.minors[index]), "not active")
            if state != "UpToDate":
                way_out = f"gnt-instance activate-disks {instance.name}, wait until it is in sync, then the same command again"
                raise Refused(f"disk {index} of {instance.name}", f"its half on {instance.primary} is {state}", way_out)


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
