"""Volumes against the cluster's configuration, both ways: ExtStorage tells Ganeti nothing of where a volume is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zfsganeti import ganeti, loop
from zfsganeti.check import Finding, is_busy
from zfsganeti.datasets import INSTANCE, MARKS, VOLUME
from zfsganeti.errors import human
from zfsganeti.here import Here
from zfsganeti.volumes import SNAPSHOT

# the facts of one node


def report(here: Here) -> dict[str, Any]:
    """Return this node's volumes and the loop devices below its root, as JSON can carry them."""
    snapshots = [name.split("@")[0] for name, _created, _used in here.zfs.snapshots(here.root.name)]
    found = [
        {
            "name": dataset.short,
            "dataset": dataset.name,
            "instance": dataset.marks.get(INSTANCE, ""),
            "used": dataset.used,
            "referenced": dataset.referenced,
            "created": dataset.creation,
            "snapshots": snapshots.count(dataset.name),
            "mounted": here.zfs.mounted_at(f"{here.root.path}/{dataset.short}") == dataset.name,
        }
        for dataset in here.zfs.datasets(here.root.name, depth=1, marks=MARKS)
        if dataset.marks.get(VOLUME) == dataset.short and here.store.is_ours(dataset)
    ]
    names = {volume["name"] for volume in found}
    return {"volumes": found, "stray": [[device, volume] for device, volume in loop.ours(here.root.path) if volume not in names]}


# the comparison (pure)


def compare(
    reports: Mapping[str, Mapping[str, Any]],
    instances: Mapping[str, ganeti.Instance],
    busy: set[str],
    now: float,
    *,
    everywhere: bool = True,
) -> list[Finding]:
    """Return what is wrong with the volumes of the nodes that were heard; unless `everywhere`, others were not even asked."""
    claims = {disk.volume: instance for instance in instances.values() for disk in instance.disks if disk.volume}
    where: dict[str, list[str]] = {}
    for node, facts in reports.items():
        for volume in facts["volumes"]:
            where.setdefault(volume["name"], []).append(node)
    found: list[Finding] = []
    for node, facts in reports.items():
        for volume in facts["volumes"]:
            found += _judge(node, volume, claims, where, busy, now - 60 * facts["leftover_minutes"])
        found += [_stray(node, device, volume) for device, volume in facts["stray"] if not _is_worked_on(volume, claims, busy)]
    for instance in instances.values():
        if instance.primary in reports and not reports[instance.primary]["root_problem"] and not is_busy(instance.name, busy):
            found += _judge_instance(instance, where, everywhere)
    return found


def _is_worked_on(volume: str, claims: Mapping[str, ganeti.Instance], busy: set[str]) -> bool:
    owner = claims.get(volume.removesuffix(SNAPSHOT))
    return is_busy(owner.name, busy) if owner is not None else bool(busy)


def _stray(node: str, device: str, volume: str) -> Finding:
    return Finding(node, volume, f"{device} is left of a volume that is gone", "detach-volumes", {"volumes": [volume]})


def _judge(
    node: str, volume: Mapping[str, Any], claims: Mapping[str, ganeti.Instance], where: Mapping[str, list[str]], busy: set[str], old: float
) -> list[Finding]:
    name, owner = volume["name"], claims.get(volume["name"])
    if is_busy(volume["instance"], busy) or _is_worked_on(name, claims, busy):
        return []
    repair = ("remove-volumes", {"volumes": [name]})
    if owner is None:
        if volume["created"] > old:
            return []  # it may be of an instance that is being added this moment
        whose = f" (it was {volume['instance']}'s)" if volume["instance"] else ""
        return [Finding(node, name, f"{volume['dataset']} holds {human(volume['referenced'])} and is no instance's disk{whose}", *repair)]
    if owner.primary == node:
        return []
    said = f"{volume['dataset']} holds {human(volume['referenced'])}, but {owner.name} is on {owner.primary}"
    if owner.primary in where.get(name, []):
        return [Finding(node, name, f"{said}, which has the volume as well", *repair)]
    return []  # said of the instance, which lacks it


def _judge_instance(instance: ganeti.Instance, where: Mapping[str, list[str]], everywhere: bool) -> list[Finding]:
    """An instance whose primary lacks a volume: where it is, and the way back."""
    lacking = [disk.volume for disk in instance.disks if disk.volume and instance.primary not in where.get(disk.volume, [])]
    if not lacking:
        return []
    places = {node for volume in lacking for node in where.get(volume, [])}
    said = f"{len(lacking)} of its disks, such as {lacking[0]}, {'is' if len(lacking) == 1 else 'are'} not on {instance.primary}"
    if len(places) == 1:
        (place,) = places
        return [
            Finding(instance.primary, instance.name, f"{said} but on {place}: gnt-instance modify --new-primary={place} {instance.name}")
        ]
    if places:
        return [Finding(instance.primary, instance.name, f"{said} but on {', '.join(sorted(places))}: gnt-zfs move brings them together")]
    way_out = "nor on any node heard: gnt-zfs trash list may have it" if everywhere else "and gnt-zfs check says where"
    return [Finding(instance.primary, instance.name, f"{said} {way_out}")]
