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
    facts = {
        "name": name,
        "dataset": f"zfs/vm/{name}",
        "instance": "web1",
        "used": 0,
        "referenced": 3 * MIB,
        "created": 0,
        "mounted": True,
        "ours": True,
    }
    return {**facts, "snapshots": 0, **differs}


def node(*volumes: dict[str, Any], **differs: Any) -> dict[str, Any]:
    return {"volumes": list(volumes), "stray": [], "root_problem": "", "rootless": False, "trash": [], "leftover_minutes": 60, **differs}


def instance(primary: str = "node1", name: str = "web1", provider: str = "zfs", **of_disk: Any) -> ganeti.Instance:
    disk = {"uuid": "d", "dev_type": "ext", "size": 1, "logical_id": [provider, VOL], **of_disk}
    return ganeti.Instance({"name": name, "uuid": name, "primary_node": "n", "disks": ["d"]}, {"n": primary}, {"d": disk}, {})


def compare(
    reports: dict[str, Any], *instances: ganeti.Instance, busy: tuple[str, ...] = (), everywhere: bool = True, detached: str = ""
) -> list[Finding]:
    known = {found.name: found for found in instances}
    return placement.compare(reports, known, set(busy), NOW, detached={detached}, everywhere=everywhere)


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
    young = {**facts, "created": NOW - 60}
    assert compare({"node1": node(young)}) == [], "it may be being added"
    restored = {"node1": node({**young, "recorded": True})}
    assert compare(restored) == [Finding("node1", VOL, text, *REMOVE)], "its restore has ended without an instance"
    assert compare(restored, busy=("web2",)) == [], "it may be being restored"


@pytest.mark.parametrize("busy", ["web1", "other"])
def test_what_a_job_may_be_at_work_on_is_left_alone(busy: str) -> None:
    assert compare({"node1": node(volume(instance="web1" if busy == "web1" else ""))}, busy=(busy,)) == []
    assert compare({"node1": node(volume(f"{VOL}.snap", instance=""))}, instance(), busy=("web1",))[1:] == []


def test_of_two_volumes_of_a_name_a_person_chooses() -> None:
    (finding,) = compare({"node1": node(volume()), "node2": node(volume())}, instance())
    assert finding.text.startswith("zfs/vm/u.ext.disk0 holds 3.00M, but web1 is on node1, which has a volume of that name as well: compare")
    assert (finding.node, finding.repairable) == ("node2", False)


def test_a_disk_that_was_detached_is_no_leak() -> None:
    assert compare({"node1": node(volume())}, detached=VOL) == []


def test_a_primary_that_never_had_a_root_lacks_its_volumes() -> None:
    (finding,) = compare({"node1": node(rootless=True, root_problem="no root"), "node2": node(volume())}, instance())
    assert finding.text.endswith("is not on node1 but on node2: gnt-instance modify --new-primary=node2 web1")


def test_an_instance_that_is_but_reserved_lacks_nothing() -> None:
    """As `gnt-instance add --forthcoming` leaves it, until `--commit` makes its disks."""
    assert compare({"node1": node()}, instance(forthcoming=True)) == []
    assert compare({"node1": node()}, instance(forthcoming=False)) != []


def test_no_way_back_is_named_that_leads_nowhere() -> None:
    disks = {key: {"uuid": key, "dev_type": "ext", "size": 1, "logical_id": ["zfs", f"{key}.ext"]} for key in ("a", "b")}
    spread = ganeti.Instance({"name": "web1", "uuid": "w", "primary_node": "n", "disks": ["a", "b"]}, {"n": "node1"}, disks, {})
    (finding,) = compare({"node1": node(volume("a.ext")), "node2": node(volume("b.ext"))}, spread)
    assert finding.text == "1 of its disks, such as b.ext, is not on node1 but on node2: no node has all of them"


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


def test_a_volume_of_the_clusters_old_name_is_taken_over_by_its_instance() -> None:
    said = "zfs/vm/u.ext.disk0 is a disk of web1 and marked as another cluster's"
    claim = ("claim-volumes", {"volumes": [VOL]})
    assert compare({"node1": node(volume(ours=False))}, instance()) == [Finding("node1", VOL, said, *claim)]
    assert compare({"node1": node(volume(ours=False))}) == []
    assert compare({"node1": node(volume()), "node2": node(volume(ours=False))}, instance()) == []


def test_a_restore_that_was_interrupted_is_told_while_no_job_runs() -> None:
    entries = [
        {"entry": "u.ext.disk0:1", "restoring": "u.ext.disk0:1@secret", "volume": VOL},
        {"entry": "web1:1", "restoring": "web2", "volume": ""},
        {"entry": "web3:1", "restoring": "", "volume": ""},
    ]
    assert compare({"node1": node(trash=entries)}) == [
        Finding("node1", "u.ext.disk0:1", "is reserved by a restore that was interrupted", "trash-release", {"entry": "u.ext.disk0:1"}),
        Finding(
            "node1",
            "web1:1",
            "its restore was interrupted: gnt-zfs trash restore web1:1 --as web2 goes on, a repair gives it up",
            "trash-release",
            {"entry": "web1:1"},
        ),
    ]
    assert compare({"node1": node(trash=entries)}, busy=("other",)) == []
    assert compare({"node1": node(trash=entries)}, everywhere=False) == []


def test_a_device_without_a_volume_is_detached() -> None:
    assert compare({"node1": node(stray=[["/dev/loop3", "x.ext.disk0"]])}) == [
        Finding("node1", "x.ext.disk0", "/dev/loop3 is left of a volume that is gone", "detach-volumes", {"volumes": ["x.ext.disk0"]})
    ]
