"""What moves that nobody goes on with have left, in the words of gnt-zfs check and cluster verify."""

from __future__ import annotations

import math
from typing import Any

import pytest

from zfsganeti import check, placement
from zfsganeti.ganeti import Instance
from zfsganeti.leftovers import compare
from zfsganeti.route import FENCED, LEASE_SECONDS, LEFT, PRESYNC, STOPPING, Leaving, moment

NOW = 1_700_000_000
ON = "gnt-zfs move web1 node2 goes on"


def leaving(phase: str, age: int, **changes: Any) -> dict[str, Any]:
    mark = Leaving("node2", phase, True, NOW - age + LEASE_SECONDS).pack()
    return {"name": "web1", "dataset": "zfs/vm/web1", "ours": True, "instance": "web1", "move": mark, **changes}


def coming(age: int, **changes: Any) -> dict[str, Any]:
    facts = {"name": "web1", "dataset": "zfs/vm/.moving/web1", "used": 1 << 30, "ours": True, "source": "node1", "instance": "web1"}
    return {**facts, "until": NOW - age + LEASE_SECONDS, "ready": False, **changes}


def facts(node: str, minutes: int = 60, **lists: Any) -> dict[str, Any]:
    return {"node": node, "leftover_minutes": minutes, "datasets": [], "volumes": [], "moving": [], **lists}


def said(found: dict[str, Any], primary: str = "node1", busy: set[str] | None = None) -> list[str]:
    return [finding.text for finding in compare(found, {"web1": primary}, busy or set(), NOW)]


@pytest.mark.parametrize("where", ["datasets", "volumes"])
@pytest.mark.parametrize("phase", [STOPPING, FENCED])
def test_a_fence_that_nobody_lifts(where: str, phase: str) -> None:
    stopped = f"web1 was stopped for a move to node2 that has not ended: {ON}, gnt-zfs move --abort web1 or a start of it goes back"
    old: dict[str, Any] = {where: [leaving(phase, 3600)]}
    assert said(facts("node1", **old)) == [stopped]
    young: dict[str, Any] = {where: [leaving(phase, 60)]}
    assert said(facts("node1", **young)) == []  # perhaps it is at work
    known: dict[str, Any] = {"minutes": 0, where: [leaving(phase, 60)]}  # on the master, which knows what is at work
    assert said(facts("node1", **known)) == [stopped]
    assert said(facts("node1", **known), busy={"web1"}) == []
    coming: dict[str, Any] = {where: [leaving(phase, -86400)]}  # by a clock that was ahead
    assert said(facts("node1", **coming)) == said(facts("node1", minutes=0, **coming)) == [stopped]


def test_a_source_that_was_not_given_up() -> None:
    text = f"was not put into the trash after the move of web1 to node2: {ON}"
    assert said(facts("node1", datasets=[leaving(LEFT, 60)]), "node2") == [text]
    assert said(facts("node1", datasets=[leaving(FENCED, 60)]), "node2") == [text]


@pytest.mark.parametrize("phase", [FENCED, LEFT])
@pytest.mark.parametrize("volume", [False, True])
def test_a_source_that_is_two_moves_old_goes_once_its_instance_is_heard_to_have_its_own(phase: str, volume: bool) -> None:
    name = "u.ext.disk0" if volume else "web1"
    lists: dict[str, Any] = {"volumes" if volume else "datasets": [leaving(phase, 60, name=name)]}
    found = compare(facts("node1", **lists), {"web1": "node3"}, set(), NOW, {name: "web1"})
    text = "was not put into the trash after the move of web1 to node2, which is on node3 by now"
    goes = [check.Finding("node1", name, text, "move-leave", {"datasets": [name], "keep": True})]
    assert check.keep_safe(found, {name}, {("node2", name): NOW}) == goes
    if phase == FENCED:
        for unknown in ({}, {("node3", name): NOW}, {("node2", name): NOW - 61}):
            (kept,) = check.keep_safe(found, {name}, unknown)
            assert (kept.verb, kept.text.startswith(f"{text}: may be the newest, nothing on node2 tells")) == ("", True)
    else:
        assert check.keep_safe(found, {name}) == goes
    assert check.keep_safe(found, set()) == [check.Finding("node1", name, f"{text}: whether it has its data there is not known")]


@pytest.mark.parametrize(("phase", "verb"), [(STOPPING, "move-abort"), (FENCED, "move-leave"), (LEFT, "move-leave")])
def test_a_source_whose_instance_is_gone_can_be_cleared_away(phase: str, verb: str) -> None:
    (finding,) = compare(facts("node1", datasets=[leaving(phase, 60)]), {"web2": "node1"}, set(), NOW)
    assert finding.text == "was to move to node2 with web1, which is no instance any more"
    kept = {"keep": True} if verb == "move-leave" else {}
    assert (finding.verb, finding.request, finding.sure) == (verb, {"datasets": ["web1"], **kept}, False)


def test_what_has_come_of_a_disk_that_its_instance_lacks_by_now() -> None:
    name, own = "v.ext.disk1", {"u.ext.disk0": "web1"}
    found = compare(facts("node2", moving=[coming(60, name=name)]), {"web1": "node2"}, set(), NOW, own)
    text = "zfs/vm/.moving/web1 holds 1.00G of a move of web1, of which it is no disk any more"
    goes = [check.Finding("node2", name, text, "move-drop", {"datasets": [name]})]
    assert check.keep_safe(found, set(), {("node1", name): NOW}) == goes  # its source has it in its trash
    assert check.keep_safe(found, set(), {("node1", name): math.inf}) == goes
    held = f"it is held until {moment(NOW - 60 + LEASE_SECONDS)}, then "
    stays = [check.Finding("node2", name, f"{text}: {held}zfs destroy -r zfs/vm/.moving/web1 if nobody wants it")]
    for unheard in ({}, {("node3", name): NOW}):
        assert check.keep_safe(found, set(), unheard) == stays
    (finding,) = compare(facts("node2", moving=[coming(60, name=name, ready=True)]), {"web1": "node2"}, set(), NOW, own)
    assert (finding.verb, finding.text) == ("", f"{text}: {held}zfs destroy -r zfs/vm/.moving/web1 if nobody wants it")
    old = coming(LEASE_SECONDS + 1, name=name, ready=True)
    (finding,) = compare(facts("node2", moving=[old]), {"web1": "node2"}, set(), NOW, own)
    assert (finding.verb, finding.text) == ("", f"{text}: zfs destroy -r zfs/vm/.moving/web1 if nobody wants it")


@pytest.mark.parametrize("instances", [{"web2": "node1"}, {"web1": "node3"}], ids=["gone", "elsewhere"])
@pytest.mark.parametrize("phase", [STOPPING, FENCED, LEFT])
def test_what_ganeti_can_attach_again_is_nobodys_to_clear_away(phase: str, instances: dict[str, str]) -> None:
    name = "u.ext.disk0"
    lists: dict[str, Any] = {"volumes": [leaving(phase, 60, name=name)]}
    assert compare(facts("node1", **lists), instances, set(), NOW, {"v.ext.disk1": "web1"}, detached={name}) == []


def test_what_has_come_is_said_to_be_of_the_instance_as_it_is_called_now() -> None:
    found = compare(
        facts("node2", moving=[coming(3600, name="u.ext.disk0", ready=True)]), {"web2": "node2"}, set(), NOW, {"u.ext.disk0": "web2"}
    )
    assert [finding.text for finding in found] == ["the move of web2 to here has not ended: gnt-zfs move web2 node2 goes on"]


def test_what_was_sent_ahead_is_fine_until_its_lease_ends() -> None:
    assert said(facts("node1", datasets=[leaving(PRESYNC, 3600)])) == []
    (finding,) = compare(facts("node1", datasets=[leaving(PRESYNC, LEASE_SECONDS + 1)]), {"web1": "node1"}, set(), NOW)
    assert (finding.verb, finding.request, finding.sure) == ("move-abort", {"datasets": ["web1"]}, True)
    assert finding.text == "a move of web1 to node2 was begun and given up"


def test_what_has_come_and_has_not_landed() -> None:
    assert said(facts("node2", moving=[coming(3600)])) == []
    assert said(facts("node2", moving=[coming(3600)]), "node2") == [
        "the move of web1 to here has not ended: gnt-zfs move web1 node2 goes on"
    ]
    assert said(facts("node2", moving=[coming(60)]), "node2") == []
    elsewhere = "zfs/vm/.moving/web1 holds 1.00G of a move of web1 from node1: gnt-zfs move --abort web1 gives it up"
    assert said(facts("node2", moving=[coming(LEASE_SECONDS + 1)]), "node3") == [elsewhere]
    (finding,) = compare(facts("node2", moving=[coming(60)]), {"web2": "node1"}, set(), NOW)
    text = "zfs/vm/.moving/web1 holds 1.00G of a move of web1 from node1, which is no instance any more"
    goes = [check.Finding("node2", "web1", text, "move-drop", {"datasets": ["web1"]})]
    assert check.keep_safe([finding], set(), {("node1", "web1"): NOW}) == goes  # its source has it in the trash
    stays = [check.Finding("node2", "web1", f"{text}: zfs destroy -r zfs/vm/.moving/web1 if nobody wants it")]
    assert check.keep_safe([finding], set()) == stays
    (finding,) = compare(facts("node2", moving=[coming(60, ready=True)]), {"web2": "node1"}, set(), NOW)
    assert (finding.verb, finding.text) == ("", elsewhere)  # it may have all that there is
    assert said(facts("node2", moving=[coming(60, ours=False)])) == ["zfs/vm/.moving/web1 was not received by a move: rename or destroy it"]


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("name", ["web1", "u.ext.disk0"])
def test_what_has_come_and_was_given_up_goes_once_its_source_is_heard_to_have_its_own(name: str, ready: bool) -> None:
    old = facts("node2", moving=[coming(LEASE_SECONDS + 1, name=name, ready=ready)])
    found = compare(old, {"web1": "node1"}, set(), NOW, {name: "web1"})
    text = "zfs/vm/.moving/web1 holds 1.00G of a move of web1 from node1 that was given up"
    goes = [check.Finding("node2", name, text, "move-drop", {"datasets": [name]})]
    assert check.keep_safe(found, {name}) == goes
    assert check.keep_safe(found, set(), {("node1", name): math.inf}) == goes  # it is fenced there
    guide = "/usr/share/doc/zfsganeti/docs/moves.md says how to make do with it"
    stays = [check.Finding("node2", name, f"{text}: node1 has not been heard to hold its own, so this may be all there is: {guide}")]
    for unheard in ({}, {("node1", name): NOW}, {("node2", name): math.inf}):  # a trash lets go of what it has
        assert check.keep_safe(found, {"web2"}, unheard) == stays
    assert not any(finding.sure for finding in found)


def test_where_primaries_are_not_known_nothing_is_assumed() -> None:
    found = compare(facts("node2", moving=[coming(60)], datasets=[leaving(PRESYNC, 60)]), None, set(), NOW)
    assert found == []


@pytest.mark.parametrize("kind", ["file", "ext"])
def test_an_instance_whose_move_has_not_ended_lacks_nothing(kind: str) -> None:
    name = "web1" if kind == "file" else "u.ext.disk0"
    logical = ["loop", "/vm/web1/a.disk0"] if kind == "file" else ["zfs", name]
    disk = {"uuid": "d", "dev_type": kind, "size": 1, "logical_id": logical, "params": {}}
    data = {"name": "web1", "uuid": "u", "primary_node": "node2", "disks": ["d"], "hypervisor": "fake"}
    instances = {"web1": Instance(data, {"node2": "node2"}, {"d": disk}, {})}
    pool = {"name": "p", "health": "ONLINE", "size": 0, "free": 0}
    rest = {
        "directory": "/vm", "root_problem": "", "rootless": False, "paths": True, "logs": True, "hooks_missing": [], "plain": [],
        "patch_problem": "", "trash": [], "stray": [], "pool": pool, "warn_free": 0,
    }  # fmt: skip
    there: dict[str, Any] = {**rest, "moving": [coming(3600, name=name)]}
    known = {**facts("node2"), **there}
    found = check.compare_node(known, instances, ["web1"], set(), NOW)
    found += placement.compare({"node2": known}, instances, set(), NOW, detached=set())
    assert [finding.text for finding in found] == ["the move of web1 to here has not ended: gnt-zfs move web1 node2 goes on"]
