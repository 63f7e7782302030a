"""Volumes against the cluster's configuration, both ways: ExtStorage tells Ganeti nothing of where a volume is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zfsganeti import ganeti, leftovers, loop
from zfsganeti.check import Finding, is_busy, sees_all
from zfsganeti.datasets import INSTANCE, MOVE, RECORD, VOLUME
from zfsganeti.errors import human
from zfsganeti.look import Look
from zfsganeti.names import REMOVE, SNAPSHOT_VOLUME

# the facts of one node


def report(looks: Sequence[Look]) -> dict[str, Any]:
    """Return the volumes below a node's roots and the loop devices of them, as JSON can carry them."""
    found = [volume for look in looks for volume in _volumes(look)]
    names = {volume["name"] for volume in found}
    devices = {device: volume for look in looks for device, volume in loop.ours(look.store.root.path)}
    return {"volumes": found, "stray": [[device, volume] for device, volume in devices.items() if volume not in names]}


def _volumes(look: Look) -> list[dict[str, Any]]:
    return [
        {
            "name": dataset.short,
            "dataset": dataset.name,
            "instance": dataset.marks.get(INSTANCE, ""),
            "move": dataset.marks.get(MOVE, ""),
            "used": dataset.used,
            "referenced": dataset.referenced,
            "created": dataset.creation,
            "snapshots": look.snapshots.get(dataset.name, 0),
            "mounted": look.mounted.get(f"{look.store.root.path}/{dataset.short}") == dataset.name,
            "ours": look.store.is_ours(dataset),
            "recorded": RECORD in dataset.marks,
        }
        for dataset in look.datasets
        if dataset.marks.get(VOLUME) == dataset.short
    ]


# the comparison (pure)


def compare(
    reports: Mapping[str, Mapping[str, Any]],
    instances: Mapping[str, ganeti.Instance],
    busy: set[str],
    now: float,
    *,
    detached: set[str],
    everywhere: bool = True,
) -> list[Finding]:
    """Return what is wrong with the volumes of the nodes that were heard; unless `everywhere`, others were not even asked.

    `detached` are volumes of disks that no instance has now and that Ganeti can attach again.
    """
    claims = {disk.volume: instance for instance in instances.values() for disk in instance.disks if disk.volume}
    where: dict[str, list[str]] = {}
    for node, known in reports.items():
        for volume in known["volumes"]:
            where.setdefault(volume["name"], []).append(node)
        for coming in known.get("moving", ()):
            if coming["name"] in claims and claims[coming["name"]].primary == node:
                where.setdefault(coming["name"], []).append(node)  # its move has not ended, which is said already
    found: list[Finding] = []
    for node, known in reports.items():
        for volume in (volume for volume in known["volumes"] if volume["name"] not in detached):
            judged = _judge(node, volume, claims, where, busy, now - 60 * known["leftover_minutes"])
            found += judged if sees_all(known) else [_withheld(finding) for finding in judged]
        found += [_stray(node, device, volume) for device, volume in known["stray"] if not _is_worked_on(volume, claims, busy)]
    for instance in instances.values():
        facts = reports.get(instance.primary)
        if facts is not None and sees_all(facts) and not is_busy(instance.name, busy):
            found += _judge_instance(instance, where, everywhere)
    if everywhere and not busy:
        found += [finding for node, known in reports.items() for finding in _interrupted_restores(node, known["trash"])]
    return found


def _interrupted_restores(node: str, trash: list[Mapping[str, Any]]) -> list[Finding]:
    """What is reserved in the trash while no job runs: a restore that was interrupted, which keeps it from expiring."""
    found = []
    for entry in trash:
        name, reserved = entry["entry"], entry["restoring"]
        if reserved and entry["volume"]:
            found.append(Finding(node, name, "is reserved by a restore that was interrupted", "trash-release", {"entry": name}))
        elif reserved:
            text = f"its restore was interrupted: gnt-zfs trash restore {name} --as {reserved} goes on, a repair gives it up"
            found.append(Finding(node, name, text, "trash-release", {"entry": name}))
    return found


def _is_worked_on(volume: str, claims: Mapping[str, ganeti.Instance], busy: set[str]) -> bool:
    owner = claims.get(volume.removesuffix(SNAPSHOT_VOLUME))
    return is_busy(owner.name, busy) if owner is not None else bool(busy)


def _stray(node: str, device: str, volume: str) -> Finding:
    return Finding(node, volume, f"{device} is left of a volume that is gone", "detach-volumes", {"volumes": [volume]})


def _judge(
    node: str, volume: Mapping[str, Any], claims: Mapping[str, ganeti.Instance], where: Mapping[str, list[str]], busy: set[str], old: float
) -> list[Finding]:
    name, owner = volume["name"], claims.get(volume["name"])
    if leftovers.is_fenced(volume):
        return []  # said of the move
    if not volume["ours"]:
        return _judge_foreign(node, volume, owner)
    if is_busy(volume["instance"], busy) or _is_worked_on(name, claims, busy):
        return []
    repair = ("remove-volumes", {"volumes": [name]})
    if owner is None:
        restored = volume.get("recorded") and not busy  # its record is forgotten when the instance is there
        if volume["created"] > old and not restored:
            return []  # it may be of an instance that is being added this moment
        whose = f" (it was {volume['instance']}'s)" if volume["instance"] else ""
        return [Finding(node, name, f"{volume['dataset']} holds {human(volume['referenced'])} and is no instance's disk{whose}", *repair)]
    if owner.primary == node:
        return []
    said = f"{volume['dataset']} holds {human(volume['referenced'])}, but {owner.name} is on {owner.primary}"
    if owner.primary in where.get(name, []):
        way_out = f"compare them, then VOL_NAME={name} {REMOVE} on the node whose copy is not wanted puts it into the trash"
        return [Finding(node, name, f"{said}, which has a volume of that name as well: {way_out}")]
    return []  # said of the instance, which lacks it


def _judge_foreign(node: str, volume: Mapping[str, Any], owner: ganeti.Instance | None) -> list[Finding]:
    """A volume that bears another cluster's name is this one's when an instance here has it as a disk: the cluster was renamed."""
    if owner is None or owner.primary != node:
        return []
    said = f"{volume['dataset']} is a disk of {owner.name} and marked as another cluster's"
    return [Finding(node, volume["name"], said, "claim-volumes", {"volumes": [volume["name"]]})]


def _withheld(finding: Finding) -> Finding:
    """A volume is not taken over while the one that the instance has used may be where nobody can look."""
    if finding.verb != "claim-volumes":
        return finding
    return Finding(finding.node, finding.subject, f"{finding.text}: a repair takes it over once all datastores there can be looked into")


def _judge_instance(instance: ganeti.Instance, where: Mapping[str, list[str]], everywhere: bool) -> list[Finding]:
    """An instance whose primary lacks a volume: where it is, and the way back."""
    made = [disk.volume for disk in instance.disks if disk.volume and not disk.forthcoming]
    lacking = [volume for volume in made if instance.primary not in where.get(volume, [])]
    if not lacking:
        return []
    wanted = [disk.volume for disk in instance.disks if disk.volume]
    places = {node for volume in lacking for node in where.get(volume, [])}
    whole = [place for place in sorted(places) if all(place in where.get(volume, []) for volume in wanted)]
    said = f"{len(lacking)} of its disks, such as {lacking[0]}, {'is' if len(lacking) == 1 else 'are'} not on {instance.primary}"
    if len(whole) == 1:
        place = whole[0]
        return [
            Finding(instance.primary, instance.name, f"{said} but on {place}: gnt-instance modify --new-primary={place} {instance.name}")
        ]
    if places:
        return [Finding(instance.primary, instance.name, f"{said} but on {', '.join(sorted(places))}: no node has all of them")]
    way_out = "nor on any node heard: gnt-zfs trash list may have it" if everywhere else "and gnt-zfs check says where"
    return [Finding(instance.primary, instance.name, f"{said} {way_out}")]
