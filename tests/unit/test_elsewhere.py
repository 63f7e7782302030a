"""Disks of an instance that are elsewhere too, or half-way back: Ganeti neither gets what is stale nor makes others in their place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deaths.images import MIB, holding
from tests.rig import Rig, make_rig
from tests.unit.test_datastores import DISK0, Node, verb
from tests.unit.test_move import VOLUMES
from tests.unit.test_move_interrupted import offline, switched
from zfsganeti import hooks, retreat
from zfsganeti.datasets import INTENT, OLD
from zfsganeti.errors import BadInput, Refused, ZfsGanetiError
from zfsganeti.ganeti import Event
from zfsganeti.here import Here

DISK = "a.disk0"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield make_rig(tmp_path, monkeypatch)


def hook(rig: Rig, name: str, **more: str) -> None:
    """A hook runs on these nodes, each of which finds the instance's files below its own root."""
    known = rig.ganeti.data["web1"]
    environ = {**rig.ganeti._environ("web1", known, name.rpartition("-")[0]), "GANETI_HOOKS_PHASE": name.rpartition("-")[2], **more}
    for knot in rig.knots.values():
        paths = {f"GANETI_INSTANCE_DISK{index}_ID": f"{knot.root.path}/web1/{disk}" for index, disk in enumerate(known["disks"])}
        handlers = hooks.VOLUME_HANDLERS if known["kind"] == "ext" else hooks.HANDLERS
        for handler in handlers.get(name, ()):
            handler(knot, Event({**environ, **(paths if known["kind"] == "file" else {})}))


USES: dict[str, dict[str, str]] = {
    "instance-start-pre": {},
    "instance-move-pre": {"GANETI_TARGET_NODE": "node3"},
    "instance-modify-pre": {"GANETI_NEW_DISK_TEMPLATE": "plain"},
    "instance-export-pre": {"GANETI_REMOVE_INSTANCE": "True"},
}


@pytest.mark.parametrize("use", list(USES))
def test_ganeti_reads_no_files_of_which_there_are_newer_ones(rig: Rig, use: str) -> None:
    """Somebody has set the primary back to where the source of a move was not given up yet."""
    switched(rig, "file", "move-leave")
    rig.ganeti.write("web1", DISK, b"newest")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    rig.ganeti.data["web1"]["primary"] = "node1"
    before = rig.master.marks("web1")
    with pytest.raises(ZfsGanetiError, match="its newer disks are on node2"):
        hook(rig, use, **USES[use])
    assert INTENT not in rig.master.marks("web1")
    assert rig.master.marks("web1") == before


@pytest.mark.parametrize("use", list(USES))
def test_ganeti_reads_files_that_a_move_has_fenced_and_not_sent(rig: Rig, use: str) -> None:
    switched(rig, "file", "move-check")
    rig.ganeti.data["web1"].update(primary="node1", up=False)
    content = rig.master.files("web1")
    hook(rig, use, **USES[use])
    assert rig.content("web1") == {disk: data.rstrip(b"\0") for disk, data in content.items()}


def test_files_that_another_node_has_are_not_made_anew(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", {DISK: b"data"}, up=False)
    rig.ganeti.data["web1"]["primary"] = "node2"
    with pytest.raises(
        Refused, match="^dataset zfs/vm/web1: exists on node1: gnt-instance modify --new-primary=node1 web1 if it is the one$"
    ):
        hook(rig, "instance-recreate-disks-pre")
    assert rig.knots["node2"].datasets() == []
    rig.ganeti.data["web1"]["primary"] = "node1"
    hook(rig, "instance-recreate-disks-pre")


def test_no_failover_to_volumes_that_the_primary_has_as_well(rig: Rig) -> None:
    """What was lost with its node, and came back with it, is as fit for use as what has been written on since."""
    switched(rig, "ext", "move-leave")
    rig.ganeti.data["web1"].update(primary="node1", up=False)
    offline(rig, "node2")
    retreat.Back(rig.master, "web1", print).run()
    rig.ganeti.data["web1"]["up"] = False
    rig.knots["node2"].away = False
    for knot in rig.knots.values():
        knot.ssconf.offline_nodes.clear()
    for disk in VOLUMES:
        rig.knots["node2"].volumes.detach(disk)
    with pytest.raises(Refused, match="^web1: its disks are on node1 as well as on node2: compare them, gnt-zfs check says how those go"):
        hook(rig, "instance-failover-pre", GANETI_NEW_PRIMARY="node2", GANETI_OLD_PRIMARY="node1")
    rig.master.call("node1", "remove-volumes", volumes=list(VOLUMES))
    hook(rig, "instance-failover-pre", GANETI_NEW_PRIMARY="node2", GANETI_OLD_PRIMARY="node1")


def test_no_conversion_puts_files_outside_their_dataset(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", "file", "node1", {DISK: b"data"}, up=False)
    monkeypatch.setattr(rig.master.master, "running", lambda _operation, _instance: {"file_storage_dir": "sub"})
    known = {**rig.ganeti._environ("web1", rig.ganeti.data["web1"], "instance-modify"), "GANETI_INSTANCE_NAME": "web2"}
    known = {key: value for key, value in known.items() if not key.endswith("_ID")}
    environ = {**known, "GANETI_INSTANCE_DISK_TEMPLATE": "plain", "GANETI_NEW_DISK_TEMPLATE": "file"}
    (modify,) = hooks.HANDLERS["instance-modify-pre"]
    with pytest.raises(BadInput, match="^web2: --file-storage-dir puts its disks outside its dataset: leave the option out$"):
        modify(rig.master, Event(environ))
    assert rig.master.datasets() == ["web1"]


# an exchange for an independent copy that was cut between its two renames

RECORD = {"name": "web1", "uuid": "u"}


def cut(place: Here, short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = type(place.independent).finish

    def killed(self: Any, name: str) -> None:
        if place.zfs.get(f"{place.root.name}/.copies/{name}{OLD}") is not None:
            raise SystemExit
        finish(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(type(place.independent), "finish", killed)
        place.independent.want(short)
        with pytest.raises(SystemExit):
            place.independent.work()
    assert place.zfs.get(f"{place.root.name}/{short}") is None


def recorded(here: Here) -> list[Any]:
    return [entry["uuid"] for entry in here.call(here.node, "report")["trash"] if entry["restorable"]]


@pytest.mark.parametrize("datastore", ["", "ssd"])
@pytest.mark.parametrize("first", ["attach", "lacking", "removal"])
def test_a_volume_that_is_half_exchanged_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, datastore: str) -> None:
    here = Node(tmp_path)
    place = here.at(datastore)
    place.images.make("debian-12", "file:/x", holding())
    verb(here, "create", EXTP_IMAGE="debian-12", **({"EXTP_DATASTORE": datastore} if datastore else {}))
    verb(here, "setinfo", VOL_METADATA="originstname+web1")
    Path(place.volumes.disk(DISK0)).write_bytes(b"guest")
    verb(here, "detach")
    cut(place, DISK0, monkeypatch)
    if first == "attach":
        here.place_of(DISK0).volumes.attach(DISK0)
        assert Path(place.volumes.disk(DISK0)).read_bytes().startswith(b"guest")
    elif first == "lacking":
        assert here.ask("lacking-volumes", volumes=[DISK0]) == []
    else:
        assert here.ask("keep-records", volumes=[DISK0], disks=[0], record=RECORD) == []
        verb(here, "remove")
        assert recorded(here) == ["u"]
        here.independent.finish_all()
        assert here.place_of(DISK0).volumes.find(DISK0) is None, "it does not come back"


def test_an_instance_of_files_that_is_half_exchanged_is_removed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Node(tmp_path)
    image = here.images.make("debian-12", "file:/x", holding())
    here.store.admit("web1", [MIB], fresh=True, origin=image.snapshot)
    home = here.store.home("web1")
    os.rename(f"{home}/disk.raw", f"{home}/{DISK}")
    cut(here, "web1", monkeypatch)
    assert here.ask("aside", instance="web1", intent="remove", files=[DISK], record=RECORD)
    here.ask("discard", instance="web1")
    assert recorded(here) == ["u"]
    here.independent.finish_all()
    assert here.store.find("web1") is None
