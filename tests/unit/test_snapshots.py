"""Snapshots of an instance on the fake ZFS: all disks at once, and everything that must not be lost by them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.deaths.histories import DISK0, DISK1, RECORDED, SIZE, Bench, names_of
from zfsganeti.answer import answer
from zfsganeti.datasets import INTENT, RECORD
from zfsganeti.errors import BadInput, BadName, Busy, Missing, Refused
from zfsganeti.sanoid import HIDDEN, policy
from zfsganeti.snapshots import Snap, asked, check_comment, fit, full_name, maker, merged, parts_of, resolve


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


@pytest.fixture(params=["files", "volumes"])
def instance(request: pytest.FixtureRequest, bench: Bench) -> dict[str, Any]:
    asked_about: dict[str, Any] = bench.has_files() if request.param == "files" else bench.has_volumes()
    return asked_about


# names


def test_names() -> None:
    assert full_name("upgrade", 0) == full_name("gnt-upgrade", 0) == "gnt-upgrade"
    assert full_name("", 0) == "gnt-19700101T000000Z"
    for bad in ("a/b", "a@b", "-x", "", "a b", "x" * 101, "ü", "a:b", "..")[:3]:
        with pytest.raises(BadName):
            full_name(bad, 0)
    for bad in ("a b", "x" * 101, "ü", "a:b", ".."):
        with pytest.raises(BadName):
            full_name(bad, 0)
    whose = {"gnt-x": "gnt-zfs", "zfsganeti-removed-1": "zfsganeti", "autosnap_x_daily": "sanoid", "syncoid_h": "syncoid", "x": "others"}
    assert {short: maker(short) for short in whose} == whose


@pytest.mark.parametrize("text", ["two\nlines", "x" * 201, "tab\t"])
def test_a_comment_is_one_line(text: str) -> None:
    with pytest.raises(BadInput):
        check_comment(text)


def test_a_name_means_what_is_called_so_before_what_is_ours() -> None:
    histories = [[Snap("gnt-x", 1, 1), Snap("x", 1, 2), Snap("gnt-y", 1, 3)]]
    assert [resolve(histories, wanted, "web1") for wanted in ("x", "gnt-x", "y")] == ["x", "gnt-x", "gnt-y"]
    with pytest.raises(Missing, match="gnt-zfs snapshot list web1"):
        resolve(histories, "z", "web1")


def test_rows_are_one_for_each_name() -> None:
    first = [Snap("a", 1, 1, 10, 100), Snap("b", 2, 2, 20, 200, ("zfs/vm/c",), comment="said")]
    rows = merged("web1", [("disk0", first), ("disk1", [Snap("b", 2, 1, 1, 2, (), True)])])
    assert [(row["snapshot"], row["whole"], row["used"], row["referenced"]) for row in rows] == [
        ("a", False, 10, 100),
        ("b", True, 21, 202),
    ]
    assert (rows[1]["clones"], rows[1]["held"], rows[1]["comment"]) == (["zfs/vm/c"], True, "said")


def test_only_disks_of_ours_are_asked_about() -> None:
    def made(*disks: Any) -> Any:
        return SimpleNamespace(name="web1", disks=list(disks))

    file = SimpleNamespace(template="file", volume="", path="/zfs/vm/web1/a", size=1)
    assert asked(made(file))["disks"] == [{"volume": "", "file": "a", "size": 1}]
    for other in ("plain", "ext"):
        with pytest.raises(Refused):
            asked(made(file, SimpleNamespace(template=other, volume="", path="", size=1)))
    with pytest.raises(Refused):
        asked(made())


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"instance": "web1"},
        {"instance": "web1", "disks": []},
        {"instance": "../x", "disks": [{"volume": "", "file": "a", "size": 1}]},
        {"instance": "web1", "disks": [{"volume": "", "file": "../a", "size": 1}]},
        {"instance": "web1", "disks": [{"volume": "../a", "file": "", "size": 1}]},
        {"instance": "web1", "disks": [{"volume": "", "file": "a", "size": "1"}]},
        {"instance": "web1", "disks": ["a"]},
    ],
)
@pytest.mark.parametrize("verb", ["snapshot-create", "snapshot-delete", "snapshot-clone", "rollback-plan", "rollback"])
def test_what_a_peer_asks_is_checked(bench: Bench, verb: str, request_: dict[str, Any]) -> None:
    import json

    before = bench.fake.state()
    assert answer(bench, verb, lambda: json.dumps({"snapshot": "x", "name": "new", **request_}))["code"] in (2, 4)
    assert bench.fake.state() == before


# taking


def test_all_disks_are_in_it_with_what_was_written(bench: Bench, instance: dict[str, Any]) -> None:
    made = bench.ask("snapshot-create", snapshot="upgrade", comment="before 13", **instance)
    assert made == {"snapshot": "gnt-upgrade", "running": instance["instance"] == "ext1", "disks": 2, "pools": ["zfs"]}
    for name in names_of(instance):
        assert bench.snapshots(name) == ["gnt-upgrade"]
    assert bench.loop.flushed == ([DISK0, DISK1] if instance["instance"] == "ext1" else [])
    (row,) = bench.ask("snapshot-histories", instances=[instance])["rows"]
    assert (row["snapshot"], row["by"], row["whole"], row["comment"]) == ("gnt-upgrade", "gnt-zfs", True, "before 13")
    with pytest.raises(Refused, match="exists already: choose another name"):
        bench.ask("snapshot-create", snapshot="gnt-upgrade", **instance)
    assert bench.ask("snapshot-create", **instance)["snapshot"] == "gnt-20231114T221320Z"


def test_where_one_disk_cannot_have_it_none_has(bench: Bench) -> None:
    instance = bench.has_volumes()
    bench.fake.snapshot([f"zfs/fast/{DISK1}@gnt-x"])
    with pytest.raises(Refused):
        bench.ask("snapshot-create", snapshot="x", **instance)
    assert bench.snapshots(f"zfs/vm/{DISK0}") == []


def test_two_pools_have_no_moment_in_common(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node", ssd="quick/fast")
    instance = bench.has_volumes()
    with pytest.raises(Refused, match="in the pools zfs, quick, of which no snapshot is taken at one moment: stop ext1, or --not-atomic"):
        bench.ask("snapshot-create", snapshot="x", **instance)
    assert bench.ask("snapshot-create", snapshot="x", not_atomic=True, **instance)["pools"] == ["zfs", "quick"]
    bench.stop()
    assert bench.ask("snapshot-create", snapshot="y", **instance)["running"] is False
    bench.ask("snapshot-delete", snapshot="x", **instance)
    assert bench.snapshots(f"quick/fast/{DISK1}") == ["gnt-y"]


def test_an_operation_of_ganetis_is_waited_for(bench: Bench, instance: dict[str, Any]) -> None:
    bench.ask("snapshot-create", snapshot="x", **instance)
    bench.fake.set(names_of(instance)[-1], {INTENT: "remove 1"})
    for verb in ("snapshot-create", "snapshot-delete", "rollback", "snapshot-clone"):
        with pytest.raises(Busy, match="an operation is at work on it"):
            bench.ask(verb, **instance, snapshot="y" if verb == "snapshot-create" else "x", name="new", record=RECORDED)


def test_what_is_not_there_is_said_by_name(bench: Bench, instance: dict[str, Any]) -> None:
    bench.stop()
    bench.fake.unmount(f"{bench.root.path}/{names_of(instance)[0].rsplit('/', 1)[1]}")
    bench.fake.rename(names_of(instance)[0], "zfs/gone")
    said = bench.ask("snapshot-histories", instances=[instance])
    assert (said["rows"], len(said["problems"])) == ([], 1)
    with pytest.raises(Missing):
        bench.ask("snapshot-create", **instance)


# deleting


def test_a_snapshot_of_all_disks_goes(bench: Bench, instance: dict[str, Any]) -> None:
    bench.ask("snapshot-create", snapshot="x", **instance)
    assert bench.ask("snapshot-delete", snapshot="x", **instance) == "gnt-x"
    assert [bench.snapshots(name) for name in names_of(instance)] == [[]] * len(names_of(instance))
    with pytest.raises(Missing):
        bench.ask("snapshot-delete", snapshot="x", **instance)


def test_a_partial_one_goes_too(bench: Bench) -> None:
    instance = bench.has_volumes()
    bench.fake.snapshot([f"zfs/vm/{DISK0}@gnt-x"])
    bench.ask("snapshot-delete", snapshot="x", **instance)
    assert bench.snapshots(f"zfs/vm/{DISK0}") == []


def test_what_keeps_it_is_named_and_none_goes(bench: Bench, instance: dict[str, Any]) -> None:
    bench.ask("snapshot-create", snapshot="x", **instance)
    last = names_of(instance)[-1]
    bench.fake.hold(f"{last}@gnt-x", "backup")
    with pytest.raises(Busy, match=rf"snapshot {last}@gnt-x: is held \(backup\): zfs release backup {last}@gnt-x"):
        bench.ask("snapshot-delete", snapshot="x", **instance)
    bench.ask("snapshot-create", snapshot="y", **instance)
    bench.fake.clone(f"{last}@gnt-y", "zfs/vm/web2", bench.store.marks("web2"))
    with pytest.raises(Busy, match="the disk of web2 is a clone of it: gnt-zfs detach web2 makes it independent"):
        bench.ask("snapshot-delete", snapshot="y", **instance)
    for name in names_of(instance):
        assert bench.snapshots(name) == ["gnt-x", "gnt-y"]


def test_snapshots_of_others_go_only_when_that_is_said(bench: Bench, instance: dict[str, Any]) -> None:
    for name in names_of(instance):
        bench.fake.snapshot([f"{name}@autosnap_daily"])
        bench.fake.snapshot([f"{name}@{bench.fake.ours}removed-1"])
    with pytest.raises(Refused, match="is sanoid's, which may rely on it: --any deletes it all the same"):
        bench.ask("snapshot-delete", snapshot="autosnap_daily", **instance)
    for any_maker in (False, True):
        with pytest.raises(Refused, match="is kept for an undo"):
            bench.ask("snapshot-delete", snapshot="zfsganeti-removed-1", any=any_maker, **instance)
    bench.ask("snapshot-delete", snapshot="autosnap_daily", any=True, **instance)
    assert bench.snapshots(names_of(instance)[0]) == ["zfsganeti-removed-1"]


# what becomes of them elsewhere


@pytest.mark.parametrize("short", ["gnt-upgrade", "autosnap_2026-11-01_00:00:00_daily"])
def test_they_go_to_the_trash_and_come_back_and_keep_it(bench: Bench, short: str) -> None:
    instance = bench.has_volumes()
    for name in names_of(instance):
        bench.fake.snapshot([f"{name}@{short}"])
    bench.stop()
    bench.volumes.keep_record(DISK0, {**RECORDED, "disk": 0})
    bench.volumes.remove(DISK0)
    (entry,) = bench.trash.entries()
    assert bench.snapshots(entry.dataset.name) == [short]
    with pytest.raises(Busy, match=f"has the snapshot {short}, which is not ours"):
        bench.trash.destroy(entry.entry)
    bench.fake.clock += 100 * 86400
    assert bench.trash.give_up()[0] == []
    bench.trash.reserve(entry.entry, f"{entry.entry}@secret")
    bench.volumes.create("other.ext.disk0", SIZE, {"trash": f"{entry.entry}@secret"})
    assert bench.snapshots("zfs/vm/other.ext.disk0") == [short]


@pytest.mark.parametrize("short", ["gnt-upgrade", "autosnap_2026-11-01_00:00:00_daily"])
def test_files_keep_them_through_removal_rename_and_restore(bench: Bench, short: str) -> None:
    bench.has_files()
    bench.fake.snapshot([f"zfs/vm/web1@{short}"])
    bench.store.put_aside("web1", "rename web2", ["disk0", "disk1"])
    Path(bench.store.home("web1")).rename(bench.store.home("web2"))
    bench.store.finish_rename("web1", "web2")
    assert bench.snapshots("zfs/vm/web2") == [short]
    with pytest.raises(Refused):
        bench.store.sweep("web2")
    bench.store.put_aside("web2", "remove", ["disk0", "disk1"], RECORDED)
    for file in ("disk0", "disk1"):
        Path(bench.store.home("web2"), file).unlink()
    Path(bench.store.home("web2")).rmdir()
    entry = bench.trash.discard("web2")
    assert entry is not None
    assert bench.trash.give_up() == ([], [])
    bench.trash.mark_restoring(entry, "web3")
    bench.trash.swap_in(entry, "web3", [("disk0", "new0"), ("disk1", "new1")])
    assert short in bench.snapshots("zfs/vm/web3")


def test_an_image_saved_of_a_disk_leaves_them_alone(bench: Bench) -> None:
    from zfsganeti.disks import Disk

    instance = bench.has_volumes()
    bench.fake.snapshot([f"zfs/vm/{DISK0}@autosnap_daily"])
    bench.ask("snapshot-create", snapshot="x", **instance)
    Disk(bench, {"instance": "ext1", "disk": 0, "volume": DISK0, "file": ""}).save("saved")
    assert bench.snapshots(f"zfs/vm/{DISK0}") == ["autosnap_daily", "gnt-x"]


# cloning


def test_clones_wait_in_the_trash_for_their_instance(bench: Bench, instance: dict[str, Any]) -> None:
    bench.fake.set(names_of(instance)[0], {"compression": "zstd", "mountpoint": bench.store.home("web1")})
    bench.ask("snapshot-create", snapshot="x", **instance)
    bench.write("later")
    made = bench.ask("snapshot-clone", snapshot="x", name="new", record=RECORDED, **instance)
    entries = {entry.entry: entry for place in bench.places() for entry in place.trash.entries()}
    assert sorted(entries) == sorted(made["entries"])
    for index, entry in enumerate(made["entries"]):
        found = entries[entry]
        assert (found.instance, found.restoring, (found.record or {})["name"]) == ("new", "new", "new")
        contents = list(bench.fake.files(found.dataset.name).values())
        assert {content.rstrip(b"\0") for content in contents} == {b"first"}
        assert {len(content) for content in contents} == {SIZE}
        if found.volume:
            assert (found.size, (found.record or {})["disk"]) == (SIZE, index)
    handed_on = bench.fake.local(entries[made["entries"][0]].dataset.name)
    assert handed_on["compression"] == "zstd"
    assert "mountpoint" not in handed_on, "a boot must not mount it where the instance is that it was made of"
    assert len({entry.as_json(14)["set"] for entry in entries.values()}) == 1
    with pytest.raises(Busy, match="in the trash is a clone of it: gnt-zfs trash empty new"):
        bench.ask("snapshot-delete", snapshot="x", **instance)
    for entry in made["entries"]:
        bench.ask("snapshot-drop-clone", entry=entry)
    bench.ask("snapshot-delete", snapshot="x", **instance)


def test_what_a_restore_that_was_cut_has_taken_goes_back_into_its_set(bench: Bench) -> None:
    """Else the others would find it no more, and it could be taken for a disk of what was removed alone."""
    instance = bench.has_volumes()
    bench.ask("snapshot-create", snapshot="x", **instance)
    first = bench.ask("snapshot-clone", snapshot="x", name="new", record=RECORDED, **instance)["entries"][0]
    bench.trash.reserve(first, f"{first}@secret")
    bench.volumes.create("other.ext.disk0", SIZE, {"trash": f"{first}@secret"})
    bench.volumes.remove("other.ext.disk0")
    sets = [entry.as_json(14)["set"] for place in bench.places() for entry in place.trash.entries()]
    assert (len(sets), len(set(sets)), all(sets)) == (2, 1, True)


def test_a_clone_says_how_long_its_disk_is_whatever_ganeti_believes(bench: Bench) -> None:
    instance = bench.has_volumes()
    bench.volumes.grow(DISK0, 2 * SIZE)
    bench.ask("snapshot-create", snapshot="x", **instance)
    bench.ask("snapshot-clone", snapshot="x", name="new", record=RECORDED, **instance)
    assert [entry.size for place in bench.places() for entry in place.trash.entries()] == [2 * SIZE, SIZE]


def test_a_clone_that_cannot_be_whole_leaves_nothing(bench: Bench, instance: dict[str, Any]) -> None:
    bench.ask("snapshot-create", snapshot="x", **instance)
    if instance["instance"] == "web1":
        wanted = {**instance, "disks": [*instance["disks"], {"volume": "", "file": "disk2", "size": SIZE}]}
    else:
        bench.fake.destroy_snapshots([f"{names_of(instance)[1]}@gnt-x"])
        wanted = instance
    with pytest.raises(Refused):
        bench.ask("snapshot-clone", snapshot="x", name="new", record=RECORDED, **wanted)
    assert [entry for place in bench.places() for entry in place.trash.entries()] == []


def test_a_record_is_needed(bench: Bench, instance: dict[str, Any]) -> None:
    bench.ask("snapshot-create", snapshot="x", **instance)
    with pytest.raises(BadInput):
        bench.ask("snapshot-clone", snapshot="x", name="new", **instance)
    assert all(RECORD not in dataset["marks"] for dataset in bench.fake.state().values())


# sanoid


def sections(text: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = {}
        elif line.strip() and not line.startswith("#"):
            key, _equals, value = line.strip().partition(" = ")
            found[section][key] = value
    return found


def test_the_policy_names_what_passes_through_after_what_it_is_below() -> None:
    known = sections(policy(["zfs/vm", "fast/vm"]))
    order = list(known)
    for root in ("zfs/vm", "fast/vm"):
        assert known[root] == {"use_template": "zfsganeti", "recursive": "yes", "process_children_only": "yes"}
        for hidden in HIDDEN:
            assert known[f"{root}/{hidden}"] == {"use_template": "zfsganeti_none", "skip_children": "yes"}
            assert order.index(f"{root}/{hidden}") > order.index(root)
    assert known["template_zfsganeti_none"] == {"autosnap": "no", "autoprune": "no", "monitor": "no"}
    assert {".trash", ".images", ".copies", ".moving", ".rollback"} == set(HIDDEN)


# what is typed


def typed(bench: Bench, *words: str) -> int:
    from zfsganeti.cli import parser

    options = parser().parse_args(["snapshot", *words])
    return int(options.run(bench, options))


@pytest.fixture
def master(bench: Bench, instance: dict[str, Any]) -> Bench:
    """The node is the master, and its one instance is in the configuration, stopped."""
    disks = [
        SimpleNamespace(template="ext" if disk["volume"] else "file", volume=disk["volume"], path=disk["file"], size=disk["size"])
        for disk in instance["disks"]
    ]
    known = SimpleNamespace(
        name=instance["instance"], disks=disks, primary="node1", admin_state="down", template="", record=lambda: dict(RECORDED)
    )
    bench.__dict__["master"] = SimpleNamespace(instances=lambda: {known.name: known})
    vars(bench.ssconf)["master"] = "node1"
    bench.stop()
    return bench


def test_an_administrator_takes_lists_goes_back_and_deletes(
    master: Bench, instance: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    name = instance["instance"]
    assert typed(master, "list") == 0
    assert capsys.readouterr().out == "There is no snapshot: gnt-zfs snapshot create takes one.\n"
    assert typed(master, "create", name, "upgrade", "--comment", "before 13") == 0
    assert capsys.readouterr().out == f"gnt-upgrade is a snapshot of {name} on node1: its 2 disks, at one moment.\n"
    assert typed(master, "list", name) == 0
    title, line = capsys.readouterr().out.splitlines()
    assert title.split() == ["INSTANCE", "SNAPSHOT", "TAKEN", "(UTC)", "USED", "REFER", "BY", "STATE", "COMMENT"]
    assert line.split()[:4] == [name, "gnt-upgrade", "2023-11-14", "22:13"]
    assert line.endswith("gnt-zfs  whole  before 13")
    assert typed(master, "list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["instance"], row["node"], row["snapshot"], row["by"], row["whole"], row["held"]) == (
        name, "node1", "gnt-upgrade", "gnt-zfs", True, False,
    )  # fmt: skip

    master.write("later")
    assert typed(master, "rollback", "--dry-run", name, "upgrade") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{names_of(instance)[0]} goes back to gnt-upgrade"
    assert said[1].startswith("kept in the trash: what was written since (")
    assert set(master.reads()) == {"later"}
    assert typed(master, "rollback", "--yes", name, "upgrade") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == f"{name} is back at gnt-upgrade: gnt-instance start {name}"
    assert "--as ANOTHER-NAME makes an instance of it." in said[-1]
    assert set(master.reads()) == {"first"}
    with pytest.raises(Missing):
        typed(master, "rollback", "--abort", name, "upgrade")
    with pytest.raises(BadInput, match="nobody can be asked"):
        typed(master, "delete", name, "upgrade")
    for entry in [entry for place in master.places() for entry in place.trash.entries()]:
        master.ask("trash-destroy", entry=entry.entry)
    assert typed(master, "delete", "--yes", name, "upgrade") == 0
    assert capsys.readouterr().out == f"gnt-upgrade of {name} is gone.\n"


def test_what_runs_does_not_go_back_and_an_offline_node_is_told(
    master: Bench, instance: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from zfsganeti.errors import Unavailable

    name = instance["instance"]
    master.master.instances()[name].admin_state = "up"
    with pytest.raises(Unavailable, match=f"{name}: is running: gnt-instance stop {name}"):
        typed(master, "rollback", "--yes", name, "upgrade")
    with pytest.raises(Missing):  # Ganeti calls up what it was told to start and could not: taking back is not for what runs
        typed(master, "rollback", "--abort", name, "upgrade")
    master.ssconf.offline_nodes.append("node1")
    assert typed(master, "list") == 0
    assert "node1 is offline: the snapshots of its instances are not shown" in capsys.readouterr().err
    assert typed(master, "list", name) == 3
    assert f"node1 is offline: the snapshots of {name} are not shown" in capsys.readouterr().err
    vars(master.ssconf)["master"] = "node2"
    with pytest.raises(Unavailable, match="works on the master node only, which is node2"):
        typed(master, "create", name)


def test_a_disk_that_is_but_a_link_is_in_no_snapshot_and_in_no_clone(bench: Bench, tmp_path: Path) -> None:
    """What it leads to is elsewhere: a snapshot would lack it, and the instance that a clone is made for would write to the same disk."""
    instance = bench.has_files()
    home, elsewhere = Path(bench.store.home("web1")), tmp_path / "elsewhere"
    (home / "disk1").rename(elsewhere)
    (home / "disk1").symlink_to(elsewhere)
    said = "disk1 is a link, and nothing here holds the disk that it leads to: move the disk to where disk1 is"
    with pytest.raises(Refused, match=f"dataset zfs/vm/web1: {said}"):
        bench.ask("snapshot-create", snapshot="one", **instance)
    assert bench.snapshots("zfs/vm/web1") == []
    with pytest.raises(Refused, match=f"dataset zfs/vm/web1: {said}"):
        bench.ask("image-save", image="x", instance="web1", disk=1, volume="", file="disk1")
    (part,) = parts_of(bench, instance)[1]
    with pytest.raises(Refused, match=f"snapshot zfs/vm/web1@one: {said}"):  # as sanoid may have taken it
        fit(part, part.dataset, "one")
    assert elsewhere.read_bytes() == b"first"


def test_the_policy_is_that_of_all_roots(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(bench, "policy") == 0
    assert set(sections(capsys.readouterr().out)) >= {"zfs/vm", "zfs/fast", "zfs/fast/.trash"}
