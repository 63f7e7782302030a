"""Several roots on one node: a disk and an image say which, everything else finds them."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakeloop import FakeLoop
from tests.fakestreams import FakeStreams
from tests.fakezfs import FakeZfs
from tests.killing import dies
from tests.node import CLUSTER_NAME
from zfsganeti import check, config, extstorage, ganeti, loop, osdefinition, placement, process, transfer, variants
from zfsganeti.answer import VERBS, answer
from zfsganeti.cli import parser
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER, OLD, RECORD, locked, unpack_record
from zfsganeti.errors import BadConfig, BadInput, Busy, CommandFailed, Conflict, Missing, NoSpace, Refused, Unavailable
from zfsganeti.here import Here
from zfsganeti.holders import to_use
from zfsganeti.images import quiet
from zfsganeti.install import Installer
from zfsganeti.volumes import Volumes

MIB = 1 << 20
DISK0, DISK1 = (f"0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c1{number}.ext.disk0" for number in (1, 2))


class Node(Here):
    """A node with the root zfs/vm and the datastore ssd, which is zfs/fast; their volumes have fake devices."""

    def __init__(self, place: Path) -> None:
        super().__init__(lambda: VERBS)
        fake = FakeZfs(f"{place}/pool")
        for name in ("vm", "fast"):
            fake.foreign(f"zfs/{name}", {CLUSTER: CLUSTER_NAME}, mountpoint=f"{place}/{name}")
            fake.mount(f"zfs/{name}", f"{place}/{name}")
        known: dict[str, Any] = {
            "zfs": fake,
            "streams": FakeStreams(fake),
            "node": "node1",
            "config": Config(busy_seconds=0, datastores={"ssd": "zfs/fast"}),
            "ssconf": SimpleNamespace(cluster=CLUSTER_NAME, storage_directory=f"{place}/vm", nodes=["node1"], offline_nodes=[]),
        }
        self.__dict__.update(known)
        self.fake = fake
        loop = FakeLoop(fake.reaper)
        for each in self.places():
            each.__dict__["volumes"] = Volumes(each.store, loop)

    def ask(self, verb: str, **request: Any) -> Any:
        import json

        said = answer(self, verb, lambda: json.dumps(request))
        assert "error" not in said, said
        return said["answer"]


@pytest.fixture
def here(tmp_path: Path) -> Node:
    return Node(tmp_path)


AWAY = "datastore ssd: dataset zfs/fast does not exist: its pool is not imported: zpool import"


def take_away(here: Node) -> None:
    """The pool of the datastore ssd is not imported."""
    here.fake.unmount(here.at("ssd").root.path, lazy=True)
    for name in [name for name in here.fake.state() if name.startswith("zfs/fast")]:
        here.fake._filesystems.pop(name)
    here._others.clear()


def verb(here: Node, name: str, volume: str = DISK0, **environ: str) -> None:
    request = extstorage.Request({"VOL_NAME": volume, "VOL_SIZE": "1", **environ})
    if name == "create":
        extstorage._create(here, request)
    else:
        extstorage.VERBS[name](here.place_of(volume).volumes, request)


def names(here: Node) -> list[str]:
    return [name for name in here.fake.state() if "/." not in name and name.count("/") == 2]


def test_a_disk_is_made_where_it_says_and_found_by_every_verb(here: Node) -> None:
    verb(here, "create", EXTP_DATASTORE="ssd")
    verb(here, "create", DISK1)
    assert names(here) == [f"zfs/vm/{DISK1}", f"zfs/fast/{DISK0}"] or sorted(names(here)) == sorted(
        [f"zfs/vm/{DISK1}", f"zfs/fast/{DISK0}"]
    )
    for volume in (DISK0, DISK1):
        here.place_of(volume).volumes.attach(volume)
        verb(here, "setinfo", volume, VOL_METADATA="originstname+web1")
        verb(here, "grow", volume, VOL_NEW_SIZE="2")
    found = here.ask("report")
    assert found["readonly"] is False
    assert sorted(volume["dataset"] for volume in found["volumes"]) == sorted([f"zfs/fast/{DISK0}", f"zfs/vm/{DISK1}"])
    assert found["root_problem"] == ""
    assert here.ask("lacking-volumes", volumes=[DISK0, DISK1, "other"]) == ["other"]
    verb(here, "remove")
    entries = here.ask("report")["trash"]
    assert [(entry["volume"], entry["datastore"]) for entry in entries] == [(DISK0, "ssd")]
    assert here.fake.get(f"zfs/fast/.trash/{entries[0]['entry']}") is not None


def test_a_datastore_that_is_the_root_by_another_name_holds_nothing_twice(here: Node) -> None:
    """Somebody may name all roots in `datastores`: each disk would be shown twice, and emptying the trash fail at the second."""
    here.config.root, here.config.datastores = "zfs/vm", {"main": "zfs/vm", "ssd": "zfs/fast"}
    here.at("main").__dict__["volumes"] = here.volumes
    verb(here, "create", EXTP_DATASTORE="main")
    verb(here, "create", DISK1)
    assert [volume["name"] for volume in here.ask("report")["volumes"]] == [DISK0, DISK1]
    verb(here, "setinfo", VOL_METADATA="originstname+web1")
    verb(here, "remove")
    assert [entry["volume"] for entry in here.ask("report")["trash"]] == [DISK0]


def test_what_is_known_of_an_instance_is_kept_with_those_of_its_disks_that_are_here(here: Node) -> None:
    verb(here, "create", EXTP_DATASTORE="ssd")
    assert here.ask("keep-records", volumes=["other", DISK0], disks=[0, 2], record={"name": "web1"}) == ["other"]
    dataset = here.at("ssd").volumes.find(DISK0)
    assert dataset is not None and unpack_record(dataset.marks[RECORD]) == {"name": "web1", "disk": 2}
    said = answer(here, "keep-records", lambda: '{"volumes": ["other"], "disks": []}')
    assert said["error"] == "request: disks must be a number for each volume"


def test_a_mistake_in_this_nodes_configuration_is_not_what_its_peers_answer(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    del here.__dict__["config"]

    def mistaken() -> None:
        raise BadConfig("/etc/zfsganeti.conf", ["line 1: nonsense"])

    monkeypatch.setattr(config, "load", mistaken)
    with pytest.raises(BadConfig):
        here.call_all("report")


def test_a_disk_that_exists_in_one_is_not_made_in_another(here: Node) -> None:
    verb(here, "create", EXTP_DATASTORE="ssd")
    verb(here, "setinfo", VOL_METADATA="originstname+web1")
    for more in ({}, {"EXTP_DATASTORE": "ssd"}):
        with pytest.raises(Refused) as caught:
            verb(here, "create", **more)
        assert "exists already" in str(caught.value)
    with pytest.raises(BadInput) as wrong:
        verb(here, "create", DISK1, EXTP_DATASTORE="tape")
    assert str(wrong.value) == "datastore tape: there are ssd: datastores in the node's configuration names them"


def test_out_of_the_trash_a_disk_comes_back_where_it_was(here: Node) -> None:
    verb(here, "create", EXTP_DATASTORE="ssd")
    verb(here, "setinfo", VOL_METADATA="originstname+web1")
    Path(here.at("ssd").volumes.disk(DISK0)).write_bytes(b"data".ljust(MIB, b"\0"))
    verb(here, "remove")
    (entry,) = here.ask("report")["trash"]
    here.ask("trash-reserve", entry=entry["entry"], token=f"{entry['entry']}@secret")
    verb(here, "create", DISK1, EXTP_DATASTORE="ssd", EXTP_TRASH=f"{entry['entry']}@secret")
    assert Path(here.at("ssd").volumes.disk(DISK1)).read_bytes().startswith(b"data")


def golden(home: str) -> dict[str, str]:
    Path(home, "disk.raw").write_bytes(b"golden".ljust(MIB, b"\0"))
    return {}


def test_an_image_is_used_in_the_datastore_that_has_it(here: Node) -> None:
    here.at("ssd").images.make("debian-12", "file:/x", golden)
    (row,) = here.ask("images")
    assert (row["name"], row["datastore"]) == ("debian-12", "ssd")
    verb(here, "create", EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd")
    assert Path(here.at("ssd").volumes.disk(DISK0)).read_bytes().startswith(b"golden")
    with pytest.raises(Missing):
        verb(here, "create", DISK1, EXTP_IMAGE="debian-12")
    assert here.ask("detach", datasets=[DISK0], wait=True) == [DISK0]
    here.at("ssd").volumes.detach(DISK0)
    assert here.ask("detach-work") == {DISK0: ""}


def test_an_image_is_brought_to_another_datastore(here: Node) -> None:
    """With its GUID, and what is known of it; whatever a kill has left, the same command ends it, and nothing is overwritten."""
    made = here.images.make("debian-12", "file:/x", golden)
    told: list[tuple[str, int, int]] = []
    point = 1
    while dies(here.fake.reaper, point, lambda: transfer.copy_image(here, made, "ssd", lambda *step: told.append(step))):
        half = here.at("ssd").images.find("debian-12")
        assert half is None or half.guid == made.guid
        point += 1
    assert point > 5
    assert told[-1][0] == "zfs/fast"
    assert told[-1][1] > 0
    copy = here.at("ssd").images.must("debian-12")
    assert (copy.guid, copy.provenance) == (made.guid, made.provenance)
    assert not transfer.copy_image(here, made, "ssd", quiet)
    assert here.ask("move-target", datasets={DISK0: "", DISK1: "ssd"})["origin_stores"] == {made.guid: ["", "ssd"]}
    verb(here, "create", EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd")
    assert Path(here.at("ssd").volumes.disk(DISK0)).read_bytes().startswith(b"golden")
    here.images.rename("debian-12", "other")
    another = here.images.make("debian-12", "file:/y", golden)
    with pytest.raises(Conflict, match="^image debian-12 in zfs/fast: exists and is another one: choose another name$"):
        transfer.copy_image(here, another, "ssd", quiet)
    here.fake.available = 0
    with pytest.raises(NoSpace):
        transfer.copy_image(here, here.images.must("other"), "ssd", quiet)
    assert here.at("ssd").images.arriving() == []


def test_an_image_is_brought_to_a_datastore_that_is_encrypted(here: Node) -> None:
    here.fake._filesystems["zfs/fast"].properties["encryption"] = "aes-256-gcm"
    made = here.images.make("debian-12", "file:/x", golden)
    assert transfer.copy_image(here, made, "ssd", quiet)
    assert here.at("ssd").images.must("debian-12").guid == made.guid


def test_an_encrypted_image_is_not_copied_to_a_datastore_that_is_not(here: Node) -> None:
    made = here.images.make("debian-12", "file:/x", golden)
    here.fake._filesystems[made.dataset].properties["encryption"] = "aes-256-gcm"
    before = here.fake.state()
    with pytest.raises(Refused, match="^image debian-12: is encrypted, and its root zfs/fast is not: gnt-zfs image import makes one"):
        transfer.copy_image(here, made, "ssd", quiet)
    assert here.fake.state() == before


def test_an_image_is_copied_by_hand_and_by_itself(
    here: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a disk lacks in its own datastore is brought there when images are pulled by themselves."""
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(process, "background", lambda *words: started.append(words))
    monkeypatch.setattr(variants, "LIST", str(tmp_path / "variants.list"))
    here.config.image_pull = 1
    here.images.make("debian-12:1", "file:/x", golden)
    with pytest.raises(Missing, match="it is being brought here now .* gnt-zfs image pull debian-12 --datastore ssd what is in the way$"):
        verb(here, "create", EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd")
    assert started == [("image", "pull", "debian-12", "--datastore", "ssd")]
    options = parser().parse_args(list(started[0]))
    assert options.run(here, options) == 0
    assert capsys.readouterr().out == "debian-12:1 is in zfs/fast now.\n"
    verb(here, "create", EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd")
    here.at("ssd").images.make("debian-13", "file:/x", golden)
    with pytest.raises(Missing, match="it is being brought here now"):
        verb(here, "create", DISK1, EXTP_IMAGE="debian-13")
    options = parser().parse_args(list(started[1]))
    assert options.run(here, options) == 0
    assert capsys.readouterr().out == "debian-13 is in zfs/vm now.\n"
    verb(here, "create", DISK1, EXTP_IMAGE="debian-13")
    here.at("ssd").images.make("debian-14", "file:/x", golden)
    for said in ("now", "already"):
        options = parser().parse_args(["image", "copy", "debian-14"])
        assert options.run(here, options) == 0
        assert capsys.readouterr().out == f"debian-14 is in zfs/vm {said}.\n"
    with pytest.raises(Missing, match="image debian-15 in any other datastore of this node"):
        options = parser().parse_args(["image", "copy", "debian-15", "--datastore", "ssd"])
        options.run(here, options)
    with pytest.raises(Missing, match=r"image debina-13 in any other datastore of this node .*: did you mean debian-13\?"):
        options = parser().parse_args(["image", "copy", "debina-13"])
        options.run(here, options)
    with pytest.raises(BadInput, match="datastore tape: there are ssd"):
        options = parser().parse_args(["image", "pull", "debian-13", "--datastore", "tape"])
        options.run(here, options)


class Typing:
    """Commands that are typed on the node, and what they say."""

    def __init__(self, here: Node, capsys: pytest.CaptureFixture[str]) -> None:
        self.here, self.capsys = here, capsys

    def __call__(self, *words: str) -> list[str]:
        self.capsys.readouterr()
        options = parser().parse_args(["image", *words])
        self.status = options.run(self.here, options)
        said = self.capsys.readouterr()
        return [*said.out.splitlines(), *said.err.splitlines()]

    def having(self, name: str, key: str = "name") -> list[str]:
        """Return the datastores with the image, or those in which something is true of it."""
        return [row["datastore"] for row in self.here.ask("images") if row["name"] == name and row[key]]


@pytest.fixture
def both(here: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Typing:
    """debian-12 is in the root and in the datastore ssd."""
    monkeypatch.setattr(variants, "LIST", str(tmp_path / "variants.list"))
    here.images.make("debian-12", "file:/x", golden)
    typing = Typing(here, capsys)
    typing("copy", "debian-12", "--datastore", "ssd")
    return typing


def test_a_change_is_of_each_datastore_that_has_the_image(both: Typing) -> None:
    said = both("retire", "debian-12")
    assert said == [
        f"{place}: No more disks are made of debian-12; gnt-zfs image restore debian-12 takes that back." for place in ("the root", "ssd")
    ]
    for more in ({}, {"EXTP_DATASTORE": "ssd"}):
        with pytest.raises(Refused, match="is retired"):
            verb(both.here, "create", EXTP_IMAGE="debian-12", **more)
    assert both("restore", "debian-12", "--all-nodes") == [
        f"node1: {place}: Disks can be made of debian-12 again." for place in ("the root", "ssd")
    ]
    verb(both.here, "create", EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd")
    verb(both.here, "setinfo", VOL_METADATA="originstname+web1")
    gone, kept = both("delete", "debian-12", "--now", "--yes")
    assert gone == "the root: debian-12 is gone."
    assert kept.startswith(f"ssd: debian-12 has 1 clone, such as {DISK0}: it goes as soon as the last of them has gone; ")
    assert both.having("debian-12", "deleted") == ["ssd"]
    assert both("restore", "debian-12") == ["Disks can be made of debian-12 again."]
    both("copy", "debian-12")
    both("rename", "debian-12", "new")
    assert (both.having("new"), both.having("debian-12")) == (["", "ssd"], [])


def test_one_datastore_can_be_chosen(both: Typing) -> None:
    assert both("retire", "debian-12", "--datastore", "ssd") == [
        "No more disks are made of debian-12; gnt-zfs image restore debian-12 --datastore ssd takes that back."
    ]
    assert both.having("debian-12", "retired") == ["ssd"]
    with pytest.raises(
        Refused, match="^image debian-12 in zfs/fast: is there, but retired: gnt-zfs image restore debian-12 --datastore ssd "
    ):
        both("copy", "debian-12", "--datastore", "ssd")
    both("restore", "debian-12", "--datastore", "ssd")
    both("lend", "debian-12", "--datastore", "")
    assert both.having("debian-12", "lendable") == [""]
    assert len(both("lend", "debian-12")) == 2
    assert both.having("debian-12", "lendable") == ["", "ssd"]
    assert both("rename", "debian-12", "other", "--datastore", "ssd") == ["debian-12 is called other now."]
    assert (both.having("other"), both.having("debian-12")) == (["ssd"], [""])
    with pytest.raises(Missing, match="^image other in zfs/vm does not exist: gnt-zfs image list shows what is where$"):
        both("show", "other", "--datastore", "")
    assert both("retire", "other", "--datastore", "tape") == [
        "gnt-zfs: datastore tape: there are ssd: datastores in the node's configuration names them"
    ]
    assert both("delete", "other", "--now", "--yes", "--datastore", "ssd") == ["other is gone."]


def test_each_copy_is_looked_at(both: Typing, tmp_path: Path) -> None:
    shown = both("show", "debian-12")
    assert [line for line in shown if line.startswith("datastore:")] == ["datastore: -", "datastore: ssd"]
    assert len(both("show", "debian-12", "--datastore", "ssd")) == len(shown) // 2
    (file,) = both("export", "debian-12", str(tmp_path / "x.raw"), "--datastore", "ssd")
    assert (tmp_path / "x.raw").read_bytes().startswith(b"golden"), file
    source = tmp_path / "disk.raw"
    source.write_bytes(b"checked".ljust(MIB, b"\0"))
    both.here.images.import_from("debian-13", str(source))
    both("copy", "debian-13", "--datastore", "ssd")
    assert both("verify", "debian-13") == [f"{place}: debian-13 holds what it held when it was made." for place in ("the root", "ssd")]
    both.here.fake.set("zfs/fast/.images/debian-13", {"readonly": "off"})  # as a disk that rots does not ask either
    Path(both.here.fake._filesystems["zfs/fast/.images/debian-13"].files, "disk.raw").write_bytes(b"rotten".ljust(MIB, b"\0"))
    assert len(both("verify", "debian-13", "--datastore", "")) == 1
    good, bad = both("verify", "debian-13")
    assert good == "the root: debian-13 holds what it held when it was made."
    why = "image debian-13: does not hold any more what it held when it was made"
    way_out = "gnt-zfs image rename debian-13 debian-13-bad --datastore ssd, then import it again"
    assert (bad, both.status) == (f"gnt-zfs: ssd: {why}: {way_out}", 5)
    with pytest.raises(Refused, match=f"^{why}: "):
        both("verify", "debian-13", "--datastore", "ssd")


def test_a_datastore_in_which_it_fails_keeps_no_other_from_it(both: Typing) -> None:
    both.here.fake.snapshot(["zfs/vm/.images/debian-12@autosnap"])
    gone, kept = both("delete", "debian-12", "--now", "--yes")
    assert gone == "ssd: debian-12 is gone."
    assert kept.startswith("gnt-zfs: the root: image debian-12: has 1 snapshot that somebody took, such as autosnap")
    assert both.status == 6
    both.here.fake.foreign("zfs/fast/.images/debian-12")
    assert both("retire", "debian-12") == ["No more disks are made of debian-12; gnt-zfs image restore debian-12 takes that back."]
    (said,) = both("retire", "debian-12", "--datastore", "ssd")
    assert said.startswith("gnt-zfs: dataset zfs/fast/.images/debian-12: is no image of this cluster: ")


def test_nothing_is_renamed_where_not_all_can_be(both: Typing) -> None:
    both.here.at("ssd").images.make("new", "file:/x", golden)
    assert both("rename", "debian-12", "new") == ["gnt-zfs: image new: exists already in zfs/fast: choose another name"]
    assert both.having("debian-12") == ["", "ssd"]


def test_the_newest_that_is_in_use_in_any_datastore_is_sent(here: Node) -> None:
    here.images.make("debian-12:1", "file:/x", golden)
    here.store.now = here.at("ssd").store.now = lambda: 2_000_000_000.0
    here.at("ssd").images.make("debian-12:2", "file:/x", golden)

    def sent(name: str = "debian-12", datastore: str | None = None) -> tuple[str, str]:
        place, image = to_use(here, name, datastore)
        return place.datastore, image.name

    assert sent() == sent("debian-12:2") == ("ssd", "debian-12:2")
    assert sent("debian-12", "") == ("", "debian-12:1")
    here.at("ssd").images.retire("debian-12:2")
    assert sent() == ("", "debian-12:1")
    here.images.retire("debian-12:1")
    with pytest.raises(Refused, match="^image debian-12:2: is retired: gnt-zfs image restore debian-12:2 first$"):
        sent()
    with pytest.raises(Missing, match="^image debian-14 on this node does not exist: gnt-zfs image list --all-nodes shows who has which$"):
        sent("debian-14")


def test_what_is_not_here_is_not_fetched_to_be_sent(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(process, "background", lambda *words: started.append(words))
    here.config.image_pull = 1
    options = parser().parse_args(["image", "push", "debian-12"])
    with pytest.raises(Missing):
        options.run(here, options)
    said = answer(here, "image-push", lambda: '{"image": "debian-12", "node": "node2"}')
    assert said["error"].startswith("image debian-12 on this node does not exist: gnt-zfs image push debian-12")
    assert started == []


def test_an_exchange_is_finished_without_copying_what_else_is_wanted(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(process, "background", lambda *words: started.append(words))
    place = here.at("ssd")
    place.images.make("debian-12", "file:/x", golden)
    for volume in (DISK0, DISK1):
        verb(here, "create", volume, EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd", EXTP_USE="copy")
        place.volumes.detach(volume)
    place.independent._copy(f"zfs/fast/{DISK0}")
    place.independent._unmount(place.volumes.must(DISK0))
    place.independent._mark_copy(place.volumes.must(DISK0))
    here.fake.rename(f"zfs/fast/{DISK0}", f"zfs/fast/.copies/{DISK0}{OLD}")
    assert here.ask("detach-finish") is None
    assert place.volumes.must(DISK0).origin == ""
    assert place.independent.begun() == []
    assert place.volumes.must(DISK1).origin, "is copied in the background"
    assert started == [("node", "detach-work")] * 3


def test_a_disk_that_is_to_be_a_copy_is_copied_at_once_and_one_at_a_time(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(process, "background", lambda *words: started.append(words))
    here.images.make("debian-12", "file:/x", golden)
    verb(here, "create", DISK1, EXTP_IMAGE="debian-12")
    assert started == []
    verb(here, "create", EXTP_IMAGE="debian-12", EXTP_USE="copy")
    assert started == [("node", "detach-work")]
    with locked(".copies"):
        assert here.ask("detach-work") == {}, "another one is at it"
    work, more = here.independent.work, [DISK1]

    def while_it_works(seconds: float = 0) -> dict[str, str]:
        done = work(seconds)
        if more:
            here.independent.want(more.pop())  # by who found this one at work, and left
        return done

    monkeypatch.setattr(here.independent, "work", while_it_works)
    here.volumes.detach(DISK0)
    here.volumes.detach(DISK1)
    assert here.ask("detach-work") == {DISK0: "", DISK1: ""}
    assert here.volumes.must(DISK0).origin == here.volumes.must(DISK1).origin == ""

    def none(*_words: str) -> None:
        raise FileNotFoundError("systemd-run")

    monkeypatch.setattr(process, "background", none)
    verb(here, "create", "other", EXTP_IMAGE="debian-12", EXTP_USE="copy")


def test_a_disk_is_not_gone_while_a_datastore_cannot_be_looked_into(here: Node) -> None:
    verb(here, "create", EXTP_DATASTORE="ssd")
    take_away(here)
    with pytest.raises(Unavailable) as caught:
        here.place_of(DISK0)
    assert str(caught.value) == AWAY
    found = here.ask("report")
    assert (found["root_problem"], found["problems"]) == ("", [AWAY])


def of_web1(*volumes: str, primary: str = "node1") -> dict[str, ganeti.Instance]:
    disks = {name: {"uuid": name, "dev_type": "ext", "size": 1, "logical_id": ["zfs", name], "params": {}} for name in volumes}
    data = {"name": "web1", "uuid": "web1", "primary_node": "n", "disks": list(disks), "hypervisor": "fake"}
    return {"web1": ganeti.Instance(data, {"n": primary}, disks, {})}


def misplaced(reports: dict[str, Any], instances: dict[str, ganeti.Instance]) -> list[check.Finding]:
    return placement.compare(reports, instances, set(), 2e9, detached=set())


def test_what_the_root_holds_is_told_and_judged_as_always_while_a_datastore_is_away(here: Node) -> None:
    for name in ("web2", "web3"):
        here.store.admit(name, [])
        Path(here.store.home(name), "x.file.disk0").write_bytes(b"data")
    here.store.put_aside("web3", "remove", ["x.file.disk0"], {"name": "web3"})
    here.fake.unmount(here.store.home("web2"))
    verb(here, "create", EXTP_DATASTORE="ssd")
    for volume in (DISK1, "gone"):
        verb(here, "create", volume)
    verb(here, "setinfo", "gone", VOL_METADATA="originstname+web4")
    verb(here, "remove", "gone")
    whole = here.ask("report")
    take_away(here)
    facts = here.ask("report")
    assert [volume["name"] for volume in facts["volumes"]] == [DISK1]
    same = set(facts) - {"volumes", "problems", "pools"}
    assert {key: facts[key] for key in same} == {key: whole[key] for key in same}
    assert len(facts["trash"]) == 1
    assert (whole["problems"], facts["problems"]) == ([], [AWAY])
    assert AWAY in check.node_problems(facts)
    said = [(finding.subject, finding.verb) for finding in check.compare_node(facts, None, ["web2"], set(), time.time()) if finding.subject]
    assert said == [("web2", "home"), ("web3", "discard")]


def test_a_datastore_that_goes_while_it_is_looked_into_is_told_and_the_root_as_always(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise CommandFailed("zfs get", 1, "cannot open 'zfs/fast': pool I/O is currently suspended")

    verb(here, "create", DISK1)
    monkeypatch.setattr(here.at("ssd").trash, "entries", broken)
    facts = here.ask("report")
    assert facts["problems"] == ["zfs get: cannot open 'zfs/fast': pool I/O is currently suspended"]
    assert (facts["root_problem"], [volume["name"] for volume in facts["volumes"]]) == ("", [DISK1])
    monkeypatch.setattr(here.trash, "entries", broken)
    assert here.ask("report")["root_problem"] == facts["problems"][0]


def test_nothing_follows_from_what_is_not_found_while_a_datastore_is_away(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    verb(here, "create", EXTP_DATASTORE="ssd")
    verb(here, "create", DISK1)
    take_away(here)
    monkeypatch.setattr(loop, "ours", lambda _directory: [("/dev/loop7", DISK0)])  # linked, wherever its volume is
    facts, elsewhere = here.ask("report"), {**here.ask("report"), "node": "node2", "volumes": [], "problems": []}
    assert facts["stray"] == []
    instances = of_web1(DISK0, DISK1)
    assert misplaced({"node1": facts, "node2": elsewhere}, instances) == []
    (said,) = misplaced({"node1": {key: value for key, value in facts.items() if key != "problems"}}, instances)
    assert "are not on node1 nor on any node heard" in said.text or "is not on node1 nor on any node heard" in said.text
    copy = {**elsewhere, "volumes": [{**facts["volumes"][0], "name": DISK0}]}
    assert misplaced({"node1": facts, "node2": copy}, instances) == []


def test_a_copy_goes_nowhere_on_the_word_of_a_node_that_does_not_see_all(here: Node) -> None:
    verb(here, "create", DISK1)
    facts, instances = here.ask("report"), of_web1(DISK1)
    blind = {**facts, "problems": [AWAY]}
    assert check.held({"node1": facts}, instances) == {DISK1}
    assert check.held({"node1": blind}, instances) == set()
    entry = {"entry": f"{DISK0}:20260101T000000Z", "volume": DISK0, "instance": "web1", "removed": 7}
    assert check.lived({"node1": {**facts, "trash": [entry]}}) == {("node1", DISK0): 7}
    assert check.lived({"node1": {**blind, "trash": [entry]}}) == {}


def test_what_bears_another_clusters_name_is_not_taken_over_while_the_disk_itself_may_be_away(here: Node) -> None:
    verb(here, "create", DISK1)
    facts, instances = here.ask("report"), of_web1(DISK1)
    facts["volumes"][0]["ours"] = False
    (sure,) = misplaced({"node1": facts}, instances)
    (withheld,) = misplaced({"node1": {**facts, "problems": [AWAY]}}, instances)
    assert (sure.verb, withheld.verb) == ("claim-volumes", "")
    assert withheld.text == f"{sure.text}: a repair takes it over once all datastores there can be looked into"


@pytest.mark.parametrize("text", ["ssd", "ssd=", "a b", "ssd=fast/vm ssd=other/vm", "a=fast/vm b=fast/vm", "s-d=fast", "ssd=/fast"])
def test_what_names_no_datastore_is_told(text: str) -> None:
    from zfsganeti import config

    with pytest.raises(BadConfig):
        config.parse(f"datastores = {text}")
    assert config.parse("datastores = ssd=fast/vm bulk=tank/vm").datastores == {"ssd": "fast/vm", "bulk": "tank/vm"}


# what the OS definition installs


def test_a_disk_in_another_datastore_that_was_made_of_the_image_is_left_as_it_is(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    here.at("ssd").images.make("debian-12", "file:/none", golden)
    verb(here, "create", EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd", VOL_SIZE="4")
    monkeypatch.setattr(stat, "S_ISREG", lambda _mode: False)
    monkeypatch.setattr(stat, "S_ISBLK", lambda _mode: True)
    monkeypatch.setattr(os, "stat", lambda _path: os.lstat("/"))
    given = {"INSTANCE_NAME": "web1", "INSTANCE_OS": "zfs-image+debian-12", "DISK_COUNT": "1", "DISK_0_PATH": f"{loop.LINKS}/{DISK0}"}
    assert osdefinition.SCRIPTS["create"](here, given) == "disk 0 of web1 is a clone of image debian-12 already"


def test_a_disk_elsewhere_gets_the_image_of_its_datastore_or_else_of_the_first(here: Node) -> None:
    ssd = here.at("ssd")
    installer = Installer(ssd.store, ssd.volumes, here.images)
    with pytest.raises(Missing):
        installer._resolve("debian-12")
    here.images.make("debian-12", "file:/none", golden)
    assert installer._resolve("debian-12")[1].dataset == "zfs/vm/.images/debian-12"
    ssd.images.make("debian-12", "file:/none", golden)
    assert installer._resolve("debian-12")[1].dataset == "zfs/fast/.images/debian-12"


@pytest.mark.parametrize("lent", [False, True], ids=["retired", "lent"])
def test_what_a_datastore_has_no_disk_made_of_is_installed_from_the_root(here: Node, lent: bool) -> None:
    ssd = here.at("ssd")
    installer = Installer(ssd.store, ssd.volumes, here.images)
    ssd.images.make("debian-12", "file:/none", golden)
    if lent:
        ssd.images.set_lendable("debian-12", True)
        verb(here, "create", EXTP_IMAGE="debian-12", EXTP_DATASTORE="ssd", EXTP_USE="persistent", VOL_SIZE="4")
    else:
        ssd.images.retire("debian-12")
    with pytest.raises((Refused, Busy), match="alone" if lent else "is retired"):
        installer._resolve("debian-12")
    here.images.make("debian-12", "file:/none", golden)
    assert installer._resolve("debian-12")[1].dataset.startswith("zfs/vm/")
