"""`gnt-zfs trash restore`: an instance back under its name, by Ganeti's own add and then a swap of datasets.

Ganeti adopts no file disks. So the instance is added again with disks of the same sizes, which Ganeti makes as empty
files with new names; then, on the node, the old files take those names and the old dataset takes the new one's place.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zfsganeti import ganeti
from zfsganeti.adoption import TAG
from zfsganeti.contents import PARAMETERS
from zfsganeti.disks import find_instance
from zfsganeti.errors import BadInput, CommandFailed, Missing, Refused, Unavailable, ZfsGanetiError, one_line
from zfsganeti.here import Here
from zfsganeti.node import run
from zfsganeti.trash import DAY, choose, stamp_of

SHOW = "the command is shown by gnt-zfs trash restore --dry-run"


@dataclass(frozen=True)
class Restore:
    """What a restore will do: which entry of which node, under which name, by which command."""

    node: str
    entry: str
    instance: str
    record: Mapping[str, Any]
    command: tuple[str, ...]
    exists: bool  # an earlier try has added the instance already
    changes: tuple[str, ...] = ()  # what cannot be as it was
    volumes: tuple[tuple[str, str], ...] = ()  # for -t ext: each disk's entry, and the token by which create takes it back

    def sentences(self) -> list[str]:
        if self.volumes:
            return [*self.changes, " ".join(self.command)]
        made = f"{self.instance} exists already from an earlier try" if self.exists else " ".join(self.command)
        return [*self.changes, made, f"put {self.entry} in the place of its empty disks on {self.node}"]


@dataclass(frozen=True)
class Into:
    """What a restore into another instance will do: which entry of which node, as which disk, by which command."""

    node: str
    entry: str
    instance: str
    disk: int
    token: str
    command: tuple[str, ...]

    def sentences(self) -> list[str]:
        return [f"{self.entry} on {self.node} becomes disk {self.disk} of {self.instance}", " ".join(self.command)]


def entries_by_node(here: Here) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return what is in every online node's trash, and a line for each node that could not say."""
    found, problems = reports(here)
    return {node: report["trash"] for node, report in found.items()}, problems


def reports(here: Here) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what every online node reports, and a line for each that could not say all; one without a root has nothing to say."""
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for node, answer in here.call_all("report").items():
        if isinstance(answer, ZfsGanetiError):
            problems.append(one_line(answer))
            continue
        found[node] = answer
        if answer["root_problem"] and not answer["rootless"]:
            problems.append(f"{node}: {answer['root_problem']}")
        problems += [f"{node}: {line}" for line in answer.get("problems", ())]
    return found, problems


def locate(here: Here, wanted: str, *, disk: bool = False) -> tuple[str, str]:
    """Return the node and the entry meant by a name; Unavailable while a node that might have a newer one is not heard."""
    found, problems = reports(here)
    everything: list[Mapping[str, Any]] = [entry for report in found.values() for entry in report["trash"]]
    if problems and not any(entry["entry"] == wanted for entry in everything):
        raise Unavailable(wanted, f"not every trash can be looked into: {'; '.join(problems)}", "name an entry of gnt-zfs trash list")
    try:
        chosen = choose(everything, wanted, disk=disk)
    except Missing as error:
        offline = ", ".join(here.ssconf.offline_nodes)
        way_out = _back_into_trash(here, found.values(), wanted) or error.way_out
        raise Missing(error.what, f"{way_out}{f'; offline and not looked at: {offline}' if offline else ''}") from None
    return next(node for node, report in found.items() if any(entry["entry"] == chosen for entry in report["trash"])), chosen


def _back_into_trash(here: Here, reports: Iterable[Mapping[str, Any]], wanted: str) -> str:
    """Return the way back of what an interrupted restore has taken out of the trash; nothing if there is none of that name."""
    instances, detached = here.master.everything()
    used = detached | {disk.volume for instance in instances.values() for disk in instance.disks}
    taken = [volume for report in reports for volume in report["volumes"] if volume.get("recorded") and volume["name"] not in used]
    for instance in sorted({volume["instance"] for volume in taken}):
        if wanted in (instance, instance.split(".")[0]):
            return f"what an interrupted restore left of {instance} goes back there by gnt-zfs check --repair; then give this command again"
    return ""


def prepare(here: Here, wanted: str, name: str | None) -> Restore:
    """Return the plan of a restore; nothing is changed."""
    node, entry = locate(here, wanted)
    record = here.call(node, "trash-record", entry=entry)
    report = here.call(node, "report")
    entries = report["trash"]
    original = entry.split(":")[0]
    instances = here.master.instances()
    if record is None and original in instances:
        record = instances[original].record()  # a copy left behind by a move: the instance still says how it is made
    if record is None:
        way_out = "gnt-instance add one by hand and copy the files in"
        if any(found["entry"] == entry and found["volume"] for found in entries):
            way_out = f"gnt-zfs trash restore {entry} --into INSTANCE restores the disk"
        raise Refused(entry, "does not say how its instance was made", way_out)
    instance = ganeti.check_name(name or record["name"])
    restoring = next((found["restoring"] for found in entries if found["entry"] == entry), "")
    exists = instance in instances
    if exists and (restoring != instance or "disk" in record):
        raise Refused(instance, "exists", f"gnt-zfs trash restore {entry} --as ANOTHER-NAME")
    copy = any(other.uuid == record.get("uuid") for other in instances.values()) or name not in (None, record["name"])
    nics, changes = ganeti.fit_nics(record["nics"], networks=here.master.networks(), taken=here.master.macs(), copy=copy)
    # what comes back of an adoption is an instance like any other
    wanted_now = {**record, "nics": nics, "tags": [tag for tag in record["tags"] if not tag.startswith(TAG)]}
    volumes: list[tuple[str, str]] = []
    if "disk" in record:
        try:
            gathered = gather(entries, entry, len(record["disks"]))
        except Missing as error:  # Ganeti has put back what it had added before a create was killed
            raise Missing(error.what, _back_into_trash(here, [report], record["name"]) or error.way_out) from None
        volumes = [(name, f"{name}@{secrets.token_hex(8)}") for name in gathered]
        sizes = {found["entry"]: found["size"] for found in entries}
        wanted_now["disks"] = [_asked_again(disk, sizes[name], token) for disk, (name, token) in zip(record["disks"], volumes, strict=True)]
    command = ganeti.add_command(wanted_now, name=instance, node=node, release=here.ssconf.release)
    return Restore(node, entry, instance, record, tuple(command), exists, tuple([] if exists else changes), tuple(volumes))


def _asked_again(disk: Mapping[str, Any], size: int, token: str) -> dict[str, Any]:
    """Return a recorded disk as it is asked for: of the size that it has, with the parameters that the provider knows."""
    own = {name: value for name, value in disk["parameters"].items() if name in PARAMETERS}
    return {**disk, "size": size or disk["size"], "parameters": own, "token": token}


def gather(entries: list[dict[str, Any]], chosen: str, count: int) -> list[str]:
    """Return the entries of all volumes that were one instance's disks, in their order.

    Of each disk it is the newest that is not newer than the chosen one by more than a day.
    """
    anchor = next(entry for entry in entries if entry["entry"] == chosen)
    found = []
    for index in range(count):
        same = [entry for entry in entries if (entry["uuid"], entry["disk"]) == (anchor["uuid"], index) and entry["volume"]]
        same = [entry for entry in same if entry.get("set", "") == anchor.get("set", "")]
        near = [entry for entry in same if stamp_of(entry) <= stamp_of(anchor) + DAY]
        if not near:
            raise Missing(
                f"disk {index} of {anchor['instance']} in the trash", f"gnt-zfs trash restore {chosen} --into INSTANCE restores one"
            )
        found.append(chosen if index == anchor["disk"] else max(near, key=lambda entry: (stamp_of(entry), entry["entry"]))["entry"])
    return found


def execute(here: Here, plan: Restore, say: Callable[[str], None]) -> None:
    """The instance is back, stopped, with its disks; killed anywhere, the same restore goes on from where it was."""
    if plan.volumes:
        _execute_volumes(here, plan, say)
    else:
        _execute_files(here, plan, say)


def _execute_volumes(here: Here, plan: Restore, say: Callable[[str], None]) -> None:
    for change in plan.changes:
        say(change)
    say(f"adding {plan.instance} with its {len(plan.volumes)} disk{'s' if len(plan.volumes) != 1 else ''}")
    with reserved(here, plan.node, plan.volumes):
        try:
            run(*plan.command, seconds=800)
        except CommandFailed as error:
            raise Refused(plan.instance, f"Ganeti does not add it: {error.reason}", f"{SHOW} {plan.entry}") from error
    forget_tokens(plan.instance, range(len(plan.volumes)))
    _settle(here, plan.instance, say)


def _settle(here: Here, instance: str, say: Callable[[str], None]) -> None:
    """What was restored is the instance's for good; of a disk that has no room set aside as it should that is said."""
    found = here.master.instances()[instance]
    left = here.call(found.primary, "settle-volumes", volumes=[disk.volume for disk in found.disks if disk.volume])
    for disk in found.disks:
        way_out = (left or {}).get(disk.volume)  # of which a node with an older version says nothing
        if way_out and disk.parameters.get("reserve") == "yes":
            say(f"There is no room to set aside for a disk of {instance}: zfs set {way_out}, once there is.")


def forget_tokens(instance: str, disks: Iterable[int]) -> None:
    """Ganeti's configuration does not keep the tokens, which would be shown again to every later create of these disks."""
    changes = [word for index in disks for word in ("--disk", f"{index}:modify,trash=default")]
    run("gnt-instance", "modify", *changes, instance, seconds=800)


@contextlib.contextmanager
def reserved(here: Here, node: str, volumes: Sequence[tuple[str, str]]) -> Iterator[None]:
    """While this lasts, a disk that is made with one of the tokens is the entry it belongs to; afterwards no token is good."""
    for entry, token in volumes:
        here.call(node, "trash-reserve", entry=entry, token=token)
    try:
        yield
    finally:
        for entry, _token in volumes:
            here.call(node, "trash-release", entry=entry)


def prepare_into(here: Here, wanted: str, instance: str) -> Into:
    """Return the plan of one removed disk's way to another instance, on the same node; nothing is changed."""
    node, entry = locate(here, wanted, disk=True)
    found = next(found for found in here.call(node, "report")["trash"] if found["entry"] == entry)
    target = find_instance(here.master.instances(), instance)
    if not found["volume"] or target.template != ganeti.EXT:
        raise Refused(entry, f"is not a -t ext disk, or {target.name} has none", "only those can be put into another instance")
    if target.primary != node:
        raise Refused(entry, f"is on {node}, {target.name} on {target.primary}", f"gnt-zfs move {target.name} {node}")
    token = f"{entry}@{secrets.token_hex(8)}"
    own = {"datastore": found["datastore"]} if found.get("datastore") else {}
    asked = ganeti.asked_of_disk(
        {"volume": found["volume"], "size": found["size"], "mode": "rw", "name": None, "parameters": own, "token": token}
    )
    command = ("gnt-instance", "modify", "--disk", f"add:{ganeti.parameters(asked)}", target.name)
    return Into(node, entry, target.name, len(target.disks), token, command)


def execute_into(here: Here, plan: Into, say: Callable[[str], None]) -> None:
    """The removed disk is the instance's last one."""
    say(f"adding the disk to {plan.instance}")
    with reserved(here, plan.node, [(plan.entry, plan.token)]):
        run(*plan.command, seconds=800)
    forget_tokens(plan.instance, [plan.disk])
    _settle(here, plan.instance, say)


def _execute_files(here: Here, plan: Restore, say: Callable[[str], None]) -> None:
    here.call(plan.node, "trash-reserve", entry=plan.entry, instance=plan.instance)
    if not plan.exists:
        for change in plan.changes:
            say(change)
        say(f"adding {plan.instance} again")
        try:
            run(*plan.command, seconds=800)
        except CommandFailed as error:  # the job has ended; after a timeout it goes on, and the entry stays reserved for it
            if plan.instance not in here.master.instances():
                here.call(plan.node, "trash-release", entry=plan.entry)
            raise Refused(plan.instance, f"Ganeti does not add it: {error.reason}", f"nothing was changed, {SHOW} {plan.entry}") from error
    instance = here.master.instances().get(plan.instance)
    if instance is None:
        raise Missing(f"instance {plan.instance}", "gnt-job list shows what became of its add")
    if instance.primary != plan.node:
        raise Refused(
            plan.instance, f"was placed on {instance.primary}, its disks are on {plan.node}", f"gnt-instance remove {plan.instance}"
        )
    old = [disk["file"] for disk in plan.record["disks"]]
    new = [disk.path.rsplit("/", 1)[1] for disk in instance.disks]
    if len(old) != len(new):
        raise BadInput(f"{plan.entry}: its record has {len(old)} disks, the instance {len(new)}")
    say(f"putting its {len(old)} disk{'s' if len(old) != 1 else ''} back")
    here.call(
        plan.node,
        "trash-swap",
        entry=plan.entry,
        instance=plan.instance,
        renames=[[before, after] for before, after in zip(old, new, strict=True)],
    )
