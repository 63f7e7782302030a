"""`gnt-zfs setup`: the plan is pure, so it is tested as a table; its steps on one node run on the fake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakezfs import FakeZfs, unguard
from tests.node import CLUSTER_NAME
from zfsganeti import ganeti, setup
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER, INSTANCE
from zfsganeti.errors import BadInput, BadName, Foreign, Missing, Refused, Unavailable
from zfsganeti.here import Here
from zfsganeti.setup import Step

PATHS, LOGS = ganeti.STORAGE_PATHS, ganeti.EXTSTORAGE_LOGS
DONE: dict[str, Any] = {
    "exists": True,
    "mountpoint": "/zfs/vm",
    "parent": True,
    "pools": ["zfs"],
    "mounted": "zfs/vm",
    "untuned": {},
    "occupied": False,
    "left": {},
    "configured": "zfs/vm",
    "listed": True,
    "logs": True,
    "direct": True,
}
FRESH = {**DONE, "exists": False, "mountpoint": "", "mounted": "", "configured": "", "listed": False, "logs": False}
CONFIGURE = Step("node1", "write root = zfs/vm into /etc/zfsganeti.conf", "configure-root", (("root", "zfs/vm"),))
CLUSTER_DONE: dict[str, Any] = {
    "enabled_disk_templates": ["plain", "file", "ext"],
    "file_storage_dir": "/zfs/vm",
    "ipolicy": {"disk-templates": ["plain", "file", "ext"]},
}
AT = (("root", "zfs/vm"), ("directory", "/zfs/vm"))


def plan(facts: dict[str, Any], cluster: dict[str, Any] | None = None, groups: dict[str, Any] | None = None) -> list[Step]:
    return setup.plan({"node1": "zfs/vm"}, "/zfs/vm", {"node1": facts}, cluster or CLUSTER_DONE, groups or {"default": {}})


def test_what_is_done_needs_no_step() -> None:
    assert plan(DONE) == []
    assert plan(DONE, {**CLUSTER_DONE, "file_storage_dir": "/zfs/vm/"}) == []


def test_a_fresh_node_needs_every_step_in_order() -> None:
    assert plan(FRESH) == [
        Step("node1", "create dataset zfs/vm for VM disks", "create-root", AT),
        Step("node1", "mount zfs/vm at /zfs/vm", "mount-root", AT),
        CONFIGURE,
        Step("node1", f"add /zfs/vm to {PATHS}", "list-path", (("directory", "/zfs/vm"),)),
        Step("node1", f"make {LOGS}", "make-logs"),
    ]
    assert plan(FRESH)[0].request() == {"action": "create-root", "root": "zfs/vm", "directory": "/zfs/vm"}


@pytest.mark.parametrize(
    ("differs", "steps"),
    [
        ({"mounted": ""}, [Step("node1", "mount zfs/vm at /zfs/vm", "mount-root", AT)]),
        (
            {"mountpoint": "/old", "mounted": ""},
            [
                Step("node1", "set mountpoint=/zfs/vm on zfs/vm (it is /old)", "move-root", AT),
                Step("node1", "mount zfs/vm at /zfs/vm", "mount-root", AT),
            ],
        ),
        ({"listed": False}, [Step("node1", f"add /zfs/vm to {PATHS}", "list-path", (("directory", "/zfs/vm"),))]),
        ({"configured": "tank/vm"}, [CONFIGURE]),
        (
            {"untuned": {"atime": "off", "exec": "off", CLUSTER: CLUSTER_NAME}},
            [Step("node1", "set on zfs/vm, where nothing else was decided: atime=off, exec=off", "tune-root", (("root", "zfs/vm"),))],
        ),
        (
            {"untuned": {CLUSTER: CLUSTER_NAME}},
            [Step("node1", "set on zfs/vm, where nothing else was decided: our mark", "tune-root", (("root", "zfs/vm"),))],
        ),
        ({"logs": False}, [Step("node1", f"make {LOGS}", "make-logs")]),
    ],
)
def test_only_what_is_missing_is_done(differs: dict[str, Any], steps: list[Step]) -> None:
    assert plan({**DONE, **differs}) == steps


def test_nodes_come_before_the_cluster_and_may_differ() -> None:
    roots = {"node1": "zfs/vm", "node2": "tank/vm"}
    facts = {"node1": DONE, "node2": {**FRESH, "pools": ["tank"]}}
    steps = setup.plan(roots, "/zfs/vm", facts, {}, {})
    assert [(step.node, step.action) for step in steps] == [
        ("node2", "create-root"),
        ("node2", "mount-root"),
        ("node2", "configure-root"),
        ("node2", "list-path"),
        ("node2", "make-logs"),
        ("", "modify-cluster"),
    ]
    assert steps[0].arguments == (("root", "tank/vm"), ("directory", "/zfs/vm"))


@pytest.mark.parametrize(
    ("cluster", "options"),
    [
        (
            {},
            "--enabled-disk-templates=file,ext --ipolicy-disk-templates=file,ext --file-storage-dir=/zfs/vm",
        ),
        (
            {"enabled_disk_templates": ["drbd", "ext"], "ipolicy": {"disk-templates": ["drbd"]}, "file_storage_dir": "/srv/ganeti"},
            "--enabled-disk-templates=drbd,ext,file --ipolicy-disk-templates=drbd,file,ext --file-storage-dir=/zfs/vm",
        ),
        ({**CLUSTER_DONE, "file_storage_dir": ""}, "--file-storage-dir=/zfs/vm"),
        ({**CLUSTER_DONE, "file_storage_dir": None}, "--file-storage-dir=/zfs/vm"),
    ],
)
def test_the_cluster_keeps_what_it_has_and_gets_ours(cluster: dict[str, Any], options: str) -> None:
    assert setup.plan({"node1": "zfs/vm"}, "/zfs/vm", {"node1": DONE}, cluster, {}) == [
        Step("", f"gnt-cluster modify {options}", "modify-cluster", (("options", options),))
    ]


def test_a_group_that_forbids_ours_allows_it_after_the_cluster_does() -> None:
    groups = {
        "default": {"ipolicy": {}},
        "old": {"ipolicy": {"disk-templates": ["drbd"]}},
        "new": {"ipolicy": {"disk-templates": ["ext", "file"]}},
    }
    option = "--ipolicy-disk-templates=drbd,file,ext"
    steps = plan(DONE, {**CLUSTER_DONE, "enabled_disk_templates": []}, groups)
    assert [step.action for step in steps] == ["modify-cluster", "modify-group"]
    assert steps[1] == Step("", f"gnt-group modify {option} old", "modify-group", (("options", option), ("group", "old")))


@pytest.mark.parametrize(
    ("differs", "error", "said"),
    [
        (
            {"mounted": "zfs/other"},
            Foreign,
            "node1: /zfs/vm: dataset zfs/other is mounted there, not zfs/vm: gnt-zfs setup zfs/other",
        ),
        (
            {"left": {"root": "tank/vm", "directory": "/tank/vm", "dataset": "tank/vm/web1"}, "mounted": ""},
            Refused,
            "node1: tank/vm: is the root here and holds tank/vm/web1: "
            "node1=tank/vm and --directory /tank/vm keep it, or remove what it holds and empty the trash first",
        ),
        (
            {"configured": "tank/vm", "absent": "tank/vm", "mounted": ""},
            Refused,
            "node1: tank/vm: is the root here, and its pool is not imported: "
            "zpool import tank, or take root = tank/vm out of /etc/zfsganeti.conf there if that is lost for good",
        ),
        (
            {"mounted": "", "occupied": True},
            Foreign,
            "node1: /zfs/vm: is a directory with files and no dataset: move them away, or choose another --directory",
        ),
        (
            {"exists": False, "parent": False, "mounted": "", "pools": ["tank", "usb"]},
            Missing,
            "node1: dataset zfs does not exist: zpool import zfs if it has that pool, or give node1=tank/vm if that is meant there",
        ),
        (
            {"exists": False, "parent": False, "mounted": "", "pools": []},
            Missing,
            "node1: dataset zfs does not exist: zpool import zfs if it has that pool, or give node1=POOL/vm if that is meant there",
        ),
        (
            {"exists": False, "parent": False, "mounted": ""},
            Missing,
            "node1: dataset zfs does not exist: zfs create -p zfs makes it, or give node1=zfs/vm if that is meant there",
        ),
    ],
)
def test_what_is_in_the_way_is_named(differs: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        plan({**DONE, **differs})
    assert str(caught.value) == said


# what is typed

NODES = ["node1.example.com", "node2.example.com"]


def test_roots_are_read_for_all_nodes_and_for_some() -> None:
    assert setup.parse_roots(["zfs/vm"], NODES) == dict.fromkeys(NODES, "zfs/vm")
    differing = {"node1.example.com": "zfs/vm", "node2.example.com": "tank/a/vm"}
    assert setup.parse_roots(["zfs/vm", "node2=tank/a/vm"], NODES) == differing
    assert setup.parse_roots(["node2.example.com=tank/a/vm", "zfs/vm"], NODES) == differing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "setup: one ROOT for all nodes is needed, then NODE=ROOT for those that differ, not nothing"),
        (["a/b", "c/d"], "setup: one ROOT for all nodes is needed, then NODE=ROOT for those that differ, not a/b c/d"),
        (["node1=a/b"], "setup: one ROOT for all nodes is needed, then NODE=ROOT for those that differ, not node1=a/b"),
        (["a/b", "node9=c/d"], "setup: node9 is no node, there are node1.example.com, node2.example.com"),
        (["a/b", "=c/d"], "setup:  is no node, there are node1.example.com, node2.example.com"),
        (["zfs"], "setup: zfs is a whole pool: name a dataset in it, such as zfs/vm"),
        (["zfs/vm", "node2=tank"], "setup: tank is a whole pool: name a dataset in it, such as tank/vm"),
    ],
)
def test_roots_that_make_no_sense_are_told(words: list[str], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        setup.parse_roots(words, NODES)
    assert str(caught.value) == said


@pytest.mark.parametrize("root", ["/zfs/vm", "zfs/vm/", "zfs//vm", "zfs/v m", "zfs/vm@x", ""])
def test_a_root_is_a_dataset(root: str) -> None:
    with pytest.raises(BadName):
        setup.parse_roots([root], NODES)


def test_a_directory_is_plain_and_absolute() -> None:
    assert setup.check_directory("/zfs/vm") == "/zfs/vm"
    for bad in ("zfs/vm", "/", "//", "/zfs/vm/", "/zfs/../vm", "/zfs//vm", "//zfs/vm", ""):
        with pytest.raises(BadInput) as caught:
            setup.check_directory(bad)
        assert str(caught.value) == f"setup: {bad!r} is not an absolute, plain path"
    for bad in ("/zfs/a b", "/zfs/a,b", "/zfs/a\tb"):
        with pytest.raises(BadInput) as caught:
            setup.check_directory(bad)
        assert str(caught.value) == f"setup: {bad!r} has a comma or a blank, which mount(2) or Ganeti cannot take"


# one node


class Bare:
    """A node with a pool and nothing else."""

    def __init__(self, place: Path) -> None:
        self.directory = f"{place}/vm"
        self.fake = FakeZfs(f"{place}/pool")
        (place / "ssconf_cluster_name").write_text(CLUSTER_NAME, encoding="utf-8")
        (place / "ssconf_file_storage_dir").write_text(f"{self.directory}\n", encoding="utf-8")
        self.here = Here(dict)
        vars(self.here).update(node="node1", ssconf=ganeti.Ssconf(str(place)), zfs=self.fake, config=Config())

    def facts(self) -> dict[str, Any]:
        return setup.node_facts(self.here, "zfs/vm", self.directory)

    def apply(self, action: str) -> None:
        setup.apply_step(self.here, action, {"root": "zfs/vm", "directory": self.directory})


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    bare = Bare(tmp_path)
    yield bare
    if os.path.isdir(bare.directory):
        unguard(bare.directory)  # pytest cannot remove what is immutable, and kept all of each run


def test_the_steps_lead_from_nothing_to_a_mounted_root(bare: Bare) -> None:
    before = bare.facts()
    assert (before["exists"], before["parent"], before["pools"], before["mounted"], before["occupied"]) == (False, True, ["zfs"], "", False)
    for action in ("create-root", "mount-root"):
        for _again in range(2):
            bare.apply(action)
    after = bare.facts()
    assert (after["exists"], after["mountpoint"], after["mounted"], after["untuned"]) == (True, bare.directory, "zfs/vm", {})
    assert bare.fake.state()["zfs/vm"]["marks"][CLUSTER] == CLUSTER_NAME
    assert os.stat(bare.directory).st_mode & 0o777 == 0o750
    assert bare.fake.state()["zfs/vm"]["properties"] == {
        "mountpoint": bare.directory,
        "recordsize": "65536",
        "compression": "lz4",
        "atime": "off",
        "xattr": "sa",
        "exec": "off",
        "setuid": "off",
        "devices": "off",
        "direct": "disabled",
    }


def test_facts_change_nothing(bare: Bare) -> None:
    before = bare.fake.state()
    bare.facts()
    assert bare.fake.state() == before
    assert not os.path.lexists(bare.directory)


def test_a_root_made_by_hand_is_moved_and_used(bare: Bare) -> None:
    bare.fake.foreign("zfs/vm", {CLUSTER: CLUSTER_NAME}, mountpoint="/elsewhere")
    assert bare.facts()["mountpoint"] == "/elsewhere"
    bare.fake.set("zfs/vm", {"recordsize": "16384", "exec": "on"})
    for action in ("move-root", "tune-root", "mount-root"):
        bare.apply(action)
    assert (bare.facts()["mounted"], bare.facts()["untuned"]) == ("zfs/vm", {})
    properties = bare.fake.state()["zfs/vm"]["properties"]
    assert (properties["recordsize"], properties["exec"]) == ("16384", "on"), "what somebody has decided is left"
    assert (properties["direct"], properties["atime"]) == ("disabled", "off")


def test_files_where_the_root_belongs_are_seen(bare: Bare) -> None:
    os.mkdir(bare.directory)
    assert not bare.facts()["occupied"]
    Path(bare.directory, "file").write_bytes(b"")
    assert bare.facts()["occupied"]


@pytest.mark.parametrize("configured", ["zfs/vm", ""])
def test_a_root_that_holds_something_of_ours_is_not_left_for_another(bare: Bare, configured: str) -> None:
    bare.apply("create-root")
    bare.apply("mount-root")
    vars(bare.here).update(config=Config(root=configured))
    elsewhere = f"{bare.directory}s"
    assert setup.node_facts(bare.here, "zfs/vms", elsewhere)["left"] == {}, "an empty root may be left"
    bare.fake.foreign("zfs/vm/others", {CLUSTER: "another.example.com"})
    assert setup.node_facts(bare.here, "zfs/vms", elsewhere)["left"] == {}
    bare.fake.create("zfs/vm/web1", {}, {INSTANCE: "web1", CLUSTER: CLUSTER_NAME})
    left = {"root": "zfs/vm", "directory": bare.directory, "dataset": "zfs/vm/web1"}
    assert setup.node_facts(bare.here, "zfs/vms", elsewhere)["left"] == left
    assert setup.node_facts(bare.here, "zfs/vm", elsewhere)["left"] == left, "the disks' paths are in Ganeti's configuration"
    assert bare.facts()["left"] == {}
    bare.fake.unmount(bare.directory)
    assert setup.node_facts(bare.here, "zfs/vm", elsewhere)["left"] == {}, "a cluster that was made anew finds its root again"


def test_a_root_that_is_gone_is_left(bare: Bare) -> None:
    vars(bare.here).update(config=Config(root="usb/vm"))
    assert bare.facts()["left"] == {}, "its pool was imported under another name"


def test_a_root_whose_pool_is_not_imported_is_not_taken_for_one_that_holds_nothing(bare: Bare) -> None:
    vars(bare.here).update(config=Config(root="usb/vm"))
    assert bare.facts()["absent"] == "usb/vm", "the root of a node that was left out when NODE=ROOT was typed again, for one"
    vars(bare.here).update(config=Config(root="zfs/older"))
    assert bare.facts()["absent"] == "", "it was destroyed or renamed"
    bare.fake.foreign("zfs/vm", {CLUSTER: CLUSTER_NAME})
    vars(bare.here).update(config=Config(root="usb/vm"))
    assert bare.facts()["absent"] == "", "its pool was imported under another name"
    vars(bare.here).update(config=Config(root="zfs/vm"))
    assert bare.facts()["absent"] == ""


def test_the_root_is_not_mounted_over_another(bare: Bare) -> None:
    bare.fake.foreign("zfs/other")
    bare.fake.mount("zfs/other", bare.directory)
    bare.apply("create-root")
    with pytest.raises(Unavailable) as caught:
        bare.apply("mount-root")
    assert str(caught.value) == f"{bare.directory}: zfs/other is mounted there, not zfs/vm"


def test_an_unknown_step_is_bad_input(bare: Bare) -> None:
    with pytest.raises(BadInput) as caught:
        bare.apply("format-disks")
    assert (
        str(caught.value)
        == "setup step 'format-disks': there are create-root, move-root, tune-root, mount-root, configure-root, list-path, make-logs"
    )
