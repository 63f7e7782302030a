"""What `gnt-zfs check` finds: tables of facts in, findings out, word for word."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.node import CLUSTER_NAME, DAY, Node
from zfsganeti import check, ganeti, patch
from zfsganeti.check import Finding
from zfsganeti.errors import Unavailable
from zfsganeti.ganeti import Instance
from zfsganeti.here import Here
from zfsganeti.route import FENCED, Leaving
from zfsganeti.volumes import Volumes

NOW = 1_700_000_000.0
MIB = 1 << 20

HEALTHY: dict[str, Any] = {
    "node": "node1",
    "directory": "/zfs/vm",
    "root_problem": "",
    "paths": True,
    "logs": True,
    "hooks_missing": [],
    "patch_problem": "",
    "warn_free": 15,
    "leftover_minutes": 60,
    "pool": {"name": "zfs", "health": "ONLINE", "size": 100 << 30, "free": 50 << 30},
    "datasets": [],
    "plain": [],
    "trash": [],
}


def dataset(name: str = "web1", **differs: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": name,
        "dataset": f"zfs/vm/{name}",
        "ours": True,
        "instance": name,
        "home": True,
        "aside": False,
        "intent": "",
        "referenced": 3 * MIB,
        "created": 0,
        "snapshots": 0,
        "files": ["x.file.disk0"],
    }
    return {**facts, **differs}


def instance(name: str = "web1", primary: str = "node1", path: str | None = None, template: str = "file") -> ganeti.Instance:
    disk = {"uuid": "d", "dev_type": template, "size": 1, "logical_id": ["loop", path or f"/zfs/vm/{name}/x.file.disk0"]}
    return ganeti.Instance({"name": name, "uuid": name, "primary_node": "n", "disks": ["d"]}, {"n": primary}, {"d": disk}, {})


def compare(facts: dict[str, Any], *instances: ganeti.Instance, busy: tuple[str, ...] = ()) -> list[Finding]:
    known = {found.name: found for found in instances}
    return check.compare_node({**HEALTHY, **facts}, known, list(known), set(busy), NOW)


def test_a_healthy_node_has_nothing_to_say() -> None:
    assert compare({"datasets": [dataset()]}, instance()) == []


def test_an_instance_that_is_but_reserved_lacks_no_dataset() -> None:
    reserved = instance()
    assert compare({}, reserved) != []
    reserved.disks[0].forthcoming = True
    assert compare({}, reserved) == []


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"root_problem": "pool zfs: is gone", "pool": None}, "pool zfs: is gone"),
        ({"pool": {**HEALTHY["pool"], "health": "DEGRADED"}}, "pool zfs is DEGRADED: zpool status zfs"),
        ({"pool": {**HEALTHY["pool"], "free": 14 << 30}}, "pool zfs has 14.0G of 100G free: add disks or gnt-zfs trash empty"),
        ({"readonly": True, "root": "zfs/vm"}, "root zfs/vm is read-only: zfs get -r readonly zfs/vm, or its pool was imported so"),
        ({"paths": False}, "/zfs/vm is not in /etc/ganeti/file-storage-paths: gnt-zfs setup"),
        ({"logs": False}, "/var/log/ganeti/extstorage is missing: gnt-zfs setup"),
        ({"hooks_missing": ["a.d/zfsganeti", "b.d/zfsganeti"]}, "2 hooks are not linked, such as a.d/zfsganeti: reinstall zfsganeti"),
        ({"patch_problem": "the patch is lost"}, "the patch is lost"),
    ],
)
def test_what_is_wrong_with_a_node_is_said(facts: dict[str, Any], text: str) -> None:
    assert compare(facts) == [Finding("node1", "", text)]


def test_a_node_without_its_root_says_only_that() -> None:
    facts = {"root_problem": "pool zfs: is gone", "pool": None, "paths": False, "logs": False}
    assert compare(facts, instance()) == [Finding("node1", "", "pool zfs: is gone")]


HOME = ("home", {"instance": "web1", "intent": ""})
SWEEP = ("sweep", {"instance": "web1"})
DISCARD = ("discard", {"instance": "web1"})
ELSEWHERE = ("discard-elsewhere", {"instance": "web1"})
YOUNG = NOW - 60


@pytest.mark.parametrize(
    ("facts", "primary", "subject", "text", "repair"),
    [
        (dataset(home=False, files=None), "node1", "web1", "dataset zfs/vm/web1 is not mounted", HOME),
        (
            dataset(home=False, aside=True, intent="remove 17"),
            "node1",
            "web1",
            "dataset zfs/vm/web1 was put aside (remove was not finished)",
            ("home", {"instance": "web1", "intent": "remove 17"}),
        ),
        (
            dataset(intent="remove 17"),
            "node1",
            "web1",
            "dataset zfs/vm/web1 bears the mark of an operation that was not finished (remove)",
            ("home", {"instance": "web1", "intent": "remove 17"}),
        ),
        (dataset(files=[]), "", "web1", "empty leftover zfs/vm/web1 without an instance", SWEEP),
        (dataset(), "", "web1", "dataset zfs/vm/web1 holds 3.00M and has no instance", DISCARD),
        (dataset(files=[], snapshots=1), "", "web1", "dataset zfs/vm/web1 holds 3.00M and has no instance", DISCARD),
        (dataset(home=False, files=None), "", "web1", "dataset zfs/vm/web1 holds 3.00M and has no instance", DISCARD),
        (dataset(intent="remove 17"), "", "web1", "dataset zfs/vm/web1 was not put into the trash after its removal", (*DISCARD, True)),
        (dataset(files=[]), "node2", "web1", "empty leftover zfs/vm/web1, the instance is on node2", SWEEP),
        (dataset(), "node2", "web1", "dataset zfs/vm/web1 holds 3.00M, but the instance is on node2", ELSEWHERE),
        (
            dataset(instance="db1"),
            "node1",
            "web1",
            "dataset zfs/vm/web1 says it belongs to db1: rename it to db1 or correct org.zfsganeti:instance",
            ("", {}),
        ),
        (
            dataset("old", instance="old", home=False, aside=True, intent="rename web1 17"),
            "node1",
            "web1",
            "the rename from old was not finished",
            ("finish-rename", {"old": "old", "new": "web1"}, True),
        ),
        (
            dataset("web1", instance="old", home=False, intent="rename web1 17"),
            "node1",
            "web1",
            "the rename from old was not finished",
            ("finish-rename", {"old": "old", "new": "web1"}, True),
        ),
    ],
)
def test_what_is_wrong_with_a_dataset_is_said(
    facts: dict[str, Any], primary: str, subject: str, text: str, repair: tuple[Any, ...]
) -> None:
    instances = [instance(primary=primary)] if primary else []
    assert compare({"datasets": [facts]}, *instances) == [Finding("node1", subject, text, *repair)]


@pytest.mark.parametrize(
    ("facts", "primary"),
    [
        (dataset(files=[], created=YOUNG), ""),  # being added
        (dataset(files=[], created=YOUNG), "node2"),  # being moved here
        (dataset(ours=False), ""),
        (dataset(ours=False, home=False), "node1"),
    ],
)
def test_what_may_be_under_way_or_is_not_ours_is_left_alone(facts: dict[str, Any], primary: str) -> None:
    instances = [instance(primary=primary, template="plain")] if primary else []
    assert compare({"datasets": [facts]}, *instances) == []


def test_what_a_job_works_on_is_left_alone() -> None:
    facts = {"datasets": [dataset("web1.example.com", home=False), dataset("old", intent="rename new 17", home=False)]}
    assert compare(facts, busy=("web1", "old")) == []
    assert len(compare(facts, busy=("web", "ol", "web1.example.com.org"))) == 2
    assert compare({"datasets": [dataset("new", instance="old", home=False)]}, busy=("new",)) == []


def test_names_as_typed_may_lack_the_domain() -> None:
    assert check.is_busy("web1.example.com", {"web1"})
    assert check.is_busy("web1", {"web1"})
    assert not check.is_busy("web10.example.com", {"web1"})
    assert not check.is_busy("web1", {"web1.example.com"})


def test_an_unfinished_rename_whose_old_name_still_holds_is_brought_home() -> None:
    facts = dataset("old", home=False, aside=True, intent="rename web1 17")
    (finding,) = compare({"datasets": [facts]}, instance("old"))
    assert (finding.verb, finding.subject) == ("home", "old")


@pytest.mark.parametrize("intent", ["rename", "rename a b 17", "remove", "??"])
def test_an_intent_of_another_version_stops_nothing(intent: str) -> None:
    (finding,) = compare({"datasets": [dataset(home=False, aside=True, intent=intent)]}, instance())
    assert finding.verb == "home"


def test_an_instance_without_its_dataset_is_said() -> None:
    assert compare({}, instance()) == [Finding("node1", "web1", "has no dataset on node1: gnt-zfs trash list may have it")]


def test_an_instance_in_a_plain_directory_is_absorbed() -> None:
    assert compare({"plain": ["web1"]}, instance()) == [
        Finding("node1", "web1", "its disks are in a plain directory, not in a dataset", "absorb", {"instance": "web1", "unlimited": True})
    ]


@pytest.mark.parametrize(
    "found",
    [instance(primary="node2"), instance(template="plain"), instance(path="/srv/elsewhere/x.disk0"), instance(path="/zfs/vm/x.disk0")],
    ids=["on another node", "of another kind", "in another directory", "not in its own directory"],
)
def test_an_instance_that_is_not_ours_needs_no_dataset(found: ganeti.Instance) -> None:
    assert compare({"plain": ["web1"]}, found) == []


def test_an_unfinished_rename_is_not_a_missing_dataset_as_well() -> None:
    facts = {"datasets": [dataset("old", home=False, aside=True, intent="rename web1 17")]}
    assert [finding.verb for finding in compare(facts, instance("web1"))] == ["finish-rename"]


# datasets told by the disks they hold


def test_a_dataset_whose_instance_was_renamed_unheard_is_told_by_its_disks() -> None:
    facts = {"datasets": [dataset("old", files=["note", "x.file.disk0"])]}
    request = {"old": "old", "new": "web1"}
    assert compare(facts, instance("web1")) == [
        Finding("node1", "web1", "its disks are in zfs/vm/old: it was old before", "finish-rename", request)
    ]
    for files in (["y.file.disk0"], []):
        verbs = [finding.verb for finding in compare({"datasets": [dataset("old", files=files)]}, instance("web1"))]
        assert "finish-rename" not in verbs
    assert compare(facts, instance("web1"), busy=("old", "web1")) == []


def test_what_an_unmounted_dataset_holds_is_looked_at_before_it_is_given_up() -> None:
    facts = {"datasets": [dataset("old", files=None, home=False)]}
    said = "dataset zfs/vm/old has no instance and is not mounted: mount it to see whose disks it holds"
    assert compare(facts, instance("web1")) == [
        Finding("node1", "old", said, "home", {"instance": "old", "intent": ""}),
        Finding("node1", "web1", "has no dataset on node1: gnt-zfs trash list may have it"),
    ]
    removed = {"datasets": [dataset("old", files=None, home=False, intent="remove 17")]}
    assert compare(removed, instance("web1"))[0].verb == "discard"


def test_a_dataset_that_other_hooks_made_can_be_claimed_by_the_disks_in_it() -> None:
    foreign = dataset(ours=False, instance="")
    request = {"instance": "web1", "files": ["x.file.disk0"]}
    assert compare({"datasets": [foreign]}, instance()) == [
        Finding("node1", "web1", "dataset zfs/vm/web1 holds its disks and is not marked as ours", "claim", request)
    ]
    others: list[dict[str, Any]] = [{"files": ["y.file.disk0"]}, {"files": None, "home": False}, {"name": "web2"}]
    for differs in others:
        (finding,) = compare({"datasets": [{**foreign, **differs}]}, instance())
        assert finding.text == "has no dataset on node1: gnt-zfs trash list may have it"
    assert compare({"datasets": [foreign]}) == []


def test_where_only_names_are_known_primaries_are_not_judged() -> None:
    facts = {**HEALTHY, "datasets": [dataset(), dataset("web2")]}
    assert [finding.subject for finding in check.compare_node(facts, None, ["web1"], set(), NOW)] == ["web2"]


def test_what_should_have_left_the_trash_a_day_ago_is_said() -> None:
    entries = [{"entry": name, "expires": NOW - days * DAY, "restoring": restoring} for name, days, restoring in TRASH]
    assert compare({"trash": entries}) == [
        Finding("node1", "stuck:1", "expired in the trash and could not be destroyed: gnt-zfs trash empty --expired says why")
    ]


TRASH = [("young:1", -3, ""), ("just:1", 0.5, ""), ("stuck:1", 1.5, ""), ("wanted:1", 9, "web1")]


# what is safe to repair


def elsewhere(node: str = "node1") -> Finding:
    return Finding(node, "web1", "dataset zfs/vm/web1 holds 3.00M, but the instance is on node2", *ELSEWHERE)


def test_a_copy_goes_to_the_trash_when_the_primary_holds_its_own() -> None:
    others = [
        Finding("node2", "db1", "has no dataset on node2: gnt-zfs trash list may have it"),
        Finding("node2", "", "pool zfs is DEGRADED"),
    ]
    assert check.keep_safe([elsewhere(), *others], {"web1"}) == [Finding("node1", "web1", elsewhere().text, *DISCARD), *others]


def test_the_only_data_is_never_taken_away() -> None:
    lacking = Finding("node2", "web1", "has no dataset on node2: gnt-zfs trash list may have it")
    for findings in ([elsewhere(), lacking], [lacking, elsewhere()]):
        safe = check.keep_safe(findings, set())
        assert lacking in safe
        (kept,) = [finding for finding in safe if finding.node == "node1"]
        assert not kept.repairable
        assert kept.text == f"{elsewhere().text}: its only data is here, gnt-instance modify --new-primary=node1 web1"


def test_a_copy_is_kept_while_nobody_knows_what_the_primary_has() -> None:
    unheard = Finding("node2", "", "cannot be reached (timed out)")
    assert check.keep_safe([elsewhere(), unheard], set()) == [
        Finding("node1", "web1", f"{elsewhere().text}: whether it has its data there is not known"),
        unheard,
    ]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"datasets": [dataset()]}, {"web1"}),
        ({"datasets": [dataset(files=[])]}, set()),
        ({"datasets": [dataset(files=None, home=False)]}, set()),
        ({"datasets": [dataset(ours=False)]}, set()),
        ({"datasets": []}, set()),
        (Unavailable("node2", "cannot be reached"), set()),
    ],
    ids=["files", "empty", "not mounted", "not ours", "none", "unheard"],
)
def test_a_primary_holds_what_it_says_it_has(report: object, expected: set[str]) -> None:
    copy = {"datasets": [dataset(), dataset("other")]}
    assert check.held({"node1": copy, "node2": report}, {"web1": instance(primary="node2")}) == expected


@pytest.mark.parametrize(("move", "held"), [("", {"u.ext"}), (Leaving("node1", FENCED, True, 0).pack(), set())])
def test_a_primary_holds_the_volumes_that_it_says_it_has(move: str, held: set[str]) -> None:
    disk = {"uuid": "d", "dev_type": "ext", "size": 1, "logical_id": ["zfs", "u.ext"], "params": {}}
    data = {"name": "web1", "uuid": "u", "primary_node": "node2", "disks": ["d"], "hypervisor": "fake"}
    web1 = Instance(data, {"node2": "node2"}, {"d": disk}, {})
    report = {"datasets": [], "volumes": [{"name": "u.ext", "ours": True, "move": move}]}
    assert check.held({"node1": report}, {"web1": web1}) == set()
    assert check.held({"node2": report}, {"web1": web1}) == held


def test_a_finding_for_programs_says_whether_it_can_be_repaired() -> None:
    assert elsewhere().as_json() == {"node": "node1", "subject": "web1", "problem": elsewhere().text, "repairable": True}
    assert Finding("node1", "", "x").as_json()["repairable"] is False


# the facts


@pytest.fixture
def here(node: Node, tmp_path: Path) -> Here:
    (tmp_path / "ssconf_file_storage_dir").write_text(node.root.path, encoding="utf-8")
    (tmp_path / "ssconf_cluster_name").write_text(CLUSTER_NAME, encoding="utf-8")
    here = Here(dict)
    vars(here).update(node="node1", ssconf=ganeti.Ssconf(str(tmp_path)), zfs=node.fake, config=node.config)
    return here


def test_the_report_has_the_facts_of_every_dataset(node: Node, here: Here) -> None:
    node.has("home", disk0=b"x", disk1=b"y")
    node.has("aside", disk0=b"x")
    node.put_aside("aside", "remove")
    node.has("off")
    node.fake.unmount(node.home("off"))
    node.store.keep_disks("off")
    node.fake.foreign("zfs/vm/iso")
    node.ganeti_writes("plain", disk0=b"x")
    os.mkdir(f"{node.root.path}/lost+found")
    node.has("gone", disk0=b"x")
    node.trash.put("gone", {"name": "gone"})
    facts = check.report(here)
    kept = ("name", "ours", "instance", "home", "aside", "files", "snapshots")
    assert [tuple(found[key] for key in kept) for found in facts["datasets"]] == [
        ("aside", True, "aside", False, True, ["disk0"], 1),
        ("home", True, "home", True, False, ["disk0", "disk1"], 0),
        ("iso", False, "", False, False, None, 0),
        ("off", True, "off", False, False, None, 1),
    ]
    assert facts["plain"] == ["plain"]
    assert [(entry["instance"], entry["restorable"], entry["restoring"]) for entry in facts["trash"]] == [("gone", True, "")]
    assert (facts["node"], facts["root"], facts["root_problem"]) == ("node1", "zfs/vm", "")
    assert facts["pool"] == {"name": "zfs", "health": "ONLINE", "size": 200 << 30, "free": 100 << 30}


@pytest.mark.parametrize("count", [1, 5])
def test_a_report_asks_once_for_all_that_is_below_the_root(node: Node, here: Here, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for number in range(count):
        node.has(f"web{number}", disk0=b"x")
        Volumes(node.store, node.loop).create(f"u{number}.ext.disk0", 1 << 20, {})
    asked: list[str] = []

    def noted(does: Callable[..., Any], *words: Any, **more: Any) -> Any:
        if more.get("depth") != 0:  # of one alone
            asked.append(" ".join((does.__name__, *words)))
        return does(*words, **more)

    for name in ("datasets", "snapshots", "count_snapshots", "mounts"):
        monkeypatch.setattr(node.fake, name, partial(noted, getattr(node.fake, name)))
    facts = check.report(here)
    assert (len(facts["datasets"]), len(facts["volumes"])) == (count, count)
    assert [each for each in asked if each.endswith(" zfs/vm")] == ["datasets zfs/vm", "count_snapshots zfs/vm"]
    assert asked.count("mounts") == 3, "however many there are"


def test_a_report_changes_nothing(node: Node, here: Here) -> None:
    node.has("web1", disk0=b"x")
    node.put_aside("web1", "remove")
    node.has("off")
    node.fake.unmount(node.home("off"))
    before = node.whole_state()
    check.report(here)
    assert node.whole_state() == before


def test_a_report_without_a_root_says_why(node: Node, here: Here) -> None:
    node.fake.unmount(node.root.path)
    node.fake.set("zfs/vm", {"mountpoint": "/elsewhere"})
    facts = check.report(here)
    assert facts["root_problem"] == f"a dataset mounted at {node.root.path} does not exist: gnt-zfs setup ROOT makes one"
    assert (facts["datasets"], facts["pool"], facts["rootless"]) == ([], None, True)


def test_a_root_that_cannot_be_used_now_is_not_the_same_as_none(node: Node, here: Here) -> None:
    node.fake.unmount(node.root.path)
    node.fake.set("zfs/vm", {"mountpoint": "/elsewhere"})
    node.config.root = "tank/vm"
    facts = check.report(here)
    assert "its pool is not imported" in facts["root_problem"]
    assert not facts["rootless"]


def test_a_cut_exchange_is_finished_and_not_more() -> None:
    said = "its independent copy was to take its place, and that was not finished"
    assert compare({"copies": ["web1", "gone"]}, instance()) == [Finding("node1", "web1", said, "detach-finish", {})]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_patch_that_is_enabled_is_missed(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    monkeypatch.setattr(patch, "lost", lambda *, enabled: f"enabled: {enabled}")
    assert check.patch_problem(enabled) == f"enabled: {enabled}"
