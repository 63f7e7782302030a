"""Where volumes belong: tables of facts in, findings out, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from zfsganeti import ganeti, placement
from zfsganeti.check import Finding

NOW, MIB = 1_700_000_000.0, 1 << 20
VOL = "u.ext.disk0"
REMOVE = ("remove-volumes", {"volumes": [VOL]})


def volume(name: str = VOL, **differs: Any) -> dict[str, Any]:
    facts = {"name": name, "dataset": f"zfs/vm/{name}", "instance": "web1", "used": 0, "referenced": 3 * MIB, "created": 0, "mounted": True}
    return {**facts, "snapshots": 0, **differs}


def node(*volumes: dict[str, Any], **differs: Any) -> dict[str, Any]:
    return {"volumes": list(volumes), "stray": [], "root_problem": "", "leftover_minutes": 60, **differs}


def instance(primary: str = "node1", name: str = "web1", provider: str = "zfs") -> ganeti.Instance:
    disk = {"uuid": "d", "dev_type": "ext", "size": 1, "logical_id": [provider, VOL]}
    return ganeti.Instance({"name": name, "uuid": name, "primary_node": "n", "disks": ["d"]}, {"n": primary}, {"d": disk}, {})


def compare(reports: dict[str, Any], *instances: ganeti.Instance, busy: tuple[str, ...] = (), everywhere: bool = True) -> list[Finding]:
    return placement.compare(reports, {found.name: found for found in instances}, set(busy), NOW, everywhere=everywhere)


def test_a_volume_on_its_primary_is_well() -> None:
    assert compare({"node1": node(volume()), "node2": node()}, instance()) == []
    assert compare({"node1": node()}, instance(provider="rbd")) == []


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (volume(), "zfs/vm/u.ext.disk0 holds 3.00M and is no instance's disk (it was web1's)"),
        (volume(instance=""), "zfs/vm/u.ext.disk0 holds 3.00M and is no instance's disk"),
    ],
)
def test_a_volume_that_is_no_disk_goes_to_the_trash(facts: dict[str, Any], text: str) -> None:
    assert compare({"node1": node(facts)}) == [Finding("node1", VOL, text, *REMOVE)]
    assert compare({"node1": node({**facts, "created": NOW - 60})}) == [], "it may be being added"


@pytest.mark.parametrize("busy", ["web1", "other"])
def test_what_a_job_may_be_at_work_on_is_left_alone(busy: str) -> None:
    assert compare({"node1": node(volume(instance="web1" if busy == "web1" else ""))}, busy=(busy,)) == []
    assert compare({"node1": node(volume(f"{VOL}.snap", instance=""))}, instance(), busy=("web1",))[1:] == []


def test_a_copy_goes_only_when_the_primary_has_the_volume() -> None:
    said = "zfs/vm/u.ext.disk0 holds 3.00M, but web1 is on node1, which has the volume as well"
    assert compare({"node1": node(volume()), "node2": node(volume())}, instance()) == [Finding("node2", VOL, said, *REMOVE)]


def test_the_way_back_is_said_and_nothing_is_repaired() -> None:
    said = "1 of its disks, such as u.ext.disk0, is not on node1"
    way_back = "gnt-instance modify --new-primary=node2 web1"
    assert compare({"node1": node(), "node2": node(volume())}, instance()) == [Finding("node1", "web1", f"{said} but on node2: {way_back}")]
    assert compare({"node1": node()}, instance()) == [
        Finding("node1", "web1", f"{said} nor on any node heard: gnt-zfs trash list may have it")
    ]
    assert compare({"node1": node()}, instance(), everywhere=False) == [Finding("node1", "web1", f"{said} and gnt-zfs check says where")]
    assert compare({"node2": node(volume())}, instance()) == [], "its primary was not heard"
    assert compare({"node1": node(root_problem="no pool")}, instance()) == []


def test_a_device_without_a_volume_is_detached() -> None:
    assert compare({"node1": node(stray=[["/dev/loop3", "x.ext.disk0"]])}) == [
        Finding("node1", "x.ext.disk0", "/dev/loop3 is left of a volume that is gone", "detach-volumes", {"volumes": ["x.ext.disk0"]})
    ]
