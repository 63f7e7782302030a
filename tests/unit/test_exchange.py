"""An adoption from one end to the other: a Ganeti in memory, real copies between files, and an interruption before every single thing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakeloop import FakeLoop
from tests.fakelvm import FakeLvm
from tests.node import Node, nodes_at
from tests.rig import make_rig
from zfsganeti import adopt_cli, adoption, exchange, here, hooks, intake
from zfsganeti.adoption import SHADOW, START, SYNCED, TAG, Plan, prepare, tags_of
from zfsganeti.cli import parser
from zfsganeti.datasets import INSTANCE
from zfsganeti.errors import Busy, CommandFailed, NoSpace, Refused
from zfsganeti.exchange import Conduct
from zfsganeti.ganeti import Disk, Instance
from zfsganeti.here import Here
from zfsganeti.intake import Job
from zfsganeti.moving import alone
from zfsganeti.volumes import Volumes

MIB = 1 << 20
SIZE = MIB + 65536
NAME = "web1.example.com"
LVS = ("one.disk0", "two.disk1")
OLD = tuple(f"old{index}" for index in range(2))
FACTS: dict[str, Any] = {
    "sizes": [SIZE, SIZE], "free": {"vg": 1 << 40}, "available": 1 << 40, "used": 0, "root": "zfs/vm",
}  # fmt: skip


class Interrupted(BaseException):
    """Whoever types was interrupted here."""


class Ganeti:
    """The configuration, and what gnt-instance does with it; a stopped instance's volumes are no devices."""

    def __init__(self, volumes: Volumes) -> None:
        self.volumes = volumes
        self.known: dict[str, dict[str, Any]] = {}
        for index, lv in enumerate(LVS):
            self.known[OLD[index]] = {"dev_type": "plain", "logical_id": ["vg", lv]}
        self.data: dict[str, dict[str, Any]] = {NAME: {"disks": list(OLD), "tags": [], "up": True}}
        self.new_size = SIZE
        self.serial = 7  # the instance's
        self.halves: dict[str, str] = {}  # of drbd in use, by minor
        self.typed: list[str] = []
        self.looked: list[str] = []
        self.pending: list[Callable[[], object]] = []  # what jobs do that were submitted by somebody who has gone
        self.before: Callable[[], None] = lambda: None

    def instances(self) -> dict[str, Instance]:
        return {name: self._instance(name) for name in self.data}

    def _instance(self, name: str) -> Instance:
        own = self.data[name]
        data = {
            "name": name,
            "uuid": name,
            "primary_node": "n",
            "admin_state": "up" if own["up"] else "down",
            "disks": own["disks"],
            "tags": own["tags"],
            "hypervisor": "fake",
            "serial_no": self.serial,
        }
        return Instance(data, {"n": "node1"}, {uuid: self._disk(uuid) for uuid in self.known}, {})

    def _disk(self, uuid: str) -> dict[str, Any]:
        return {"uuid": uuid, "size": 2, **self.known[uuid]}

    def disks(self) -> dict[str, Disk]:
        return {uuid: Disk(self._disk(uuid)) for uuid in self.known}

    def is_pending(self, instance: str) -> bool:
        self.looked.append(instance)
        if self.pending:
            self.pending.pop(0)()
            return True
        return False

    def cluster(self) -> dict[str, Any]:
        return {"enabled_disk_templates": ["plain", "drbd", "ext"]}

    def run(self, *words: str, seconds: float = 0, stdin: str = "") -> str:  # noqa: ARG002
        self.before()
        self.typed.append(" ".join(words[1:]))
        verb = words[1]
        if verb == "add":
            self._add()
        elif verb in ("add-tags", "remove-tags"):
            tags = self.data[words[2]]["tags"]
            self.data[words[2]]["tags"] = sorted({*tags, *words[3:]}) if verb == "add-tags" else [t for t in tags if t not in words[3:]]
        elif verb in ("stop", "start"):
            self._switch(words[2], up=verb == "start")
        elif verb == "remove":
            for uuid in self.data.pop(words[-1])["disks"]:
                disk = self.known.pop(uuid)
                if disk["dev_type"] == "ext":
                    self.volumes.remove(disk["logical_id"][1])
        else:
            self._modify(words[-1], [word for word in words if ":" in word])
        return ""

    def _add(self) -> None:
        for index in range(2):
            self.known[f"new{index}"] = {"dev_type": "ext", "logical_id": ["zfs", f"new{index}.ext.disk{index}"]}
            self.volumes.create(f"new{index}.ext.disk{index}", self.new_size, {})
            self.volumes.set_instance(f"new{index}.ext.disk{index}", SHADOW + NAME)
            self.volumes.detach(f"new{index}.ext.disk{index}")
        self.data[SHADOW + NAME] = {"disks": ["new0", "new1"], "tags": [TAG, *tags_of("old", OLD)], "up": False}

    def _switch(self, name: str, *, up: bool) -> None:
        assert self.data[name]["disks"] or not up, "Ganeti starts none without a disk"
        self.data[name]["up"] = up
        self.serial += 2  # it is down, and its disks are inactive
        self.halves = {str(index): "UpToDate" for index in range(2)} if up and self.known[OLD[0]]["dev_type"] == "drbd" else {}
        for uuid in self.data[name]["disks"]:
            if self.known[uuid]["dev_type"] == "ext":
                volume = self.known[uuid]["logical_id"][1]
                self.volumes.attach(volume) if up else self.volumes.detach(volume)

    def make_drbd(self) -> None:
        for index, lv in enumerate(LVS):
            half, meta = ({"dev_type": "plain", "logical_id": ["vg", name]} for name in (lv, f"{lv}_meta"))
            both = ["n", "other", 11000 + index, index, index, "secret"]
            self.known[OLD[index]] = {"dev_type": "drbd", "logical_id": both, "children": [half, meta]}
            self.halves[str(index)] = "UpToDate"

    def _modify(self, owner: str, changes: list[str]) -> None:
        """Ganeti detaches disks of an instance that runs, and does not ask."""
        own = self.data[owner]
        for change in changes:
            number, _colon, what = change.partition(":")
            if what == "detach":
                own["disks"].pop(int(number))
            else:
                assert not own["up"], "an instance that runs sees no disk that is attached"
                uuid = what.removeprefix("attach,uuid=")
                assert all(uuid not in other["disks"] for other in self.data.values())
                assert len({self.known[disk]["dev_type"] for disk in (*own["disks"], uuid)}) == 1, "Ganeti mixes no kinds of disks"
                own["disks"].insert(int(number), uuid)


class Bench:
    """A node that is the master as well; the guest writes whenever a slice of its disks was copied."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node, self.lvm = node, FakeLvm(f"{node.place}/lvm", node.fake.reaper)
        for lv in LVS:
            self.lvm.make(lv, os.urandom(4096) + bytes(SIZE - 4096))
        volumes = Volumes(node.store, FakeLoop(node.fake.reaper))
        self.ganeti = Ganeti(volumes)
        self.here: Any = SimpleNamespace(
            store=node.store, zfs=node.fake, root=node.root, volumes=volumes, master=self.ganeti, call=self.call,
            ssconf=SimpleNamespace(cluster=node.store.cluster, offline_nodes=[], release=(3, 1)),
        )  # fmt: skip
        self.here.wait_for_jobs = partial(Here.wait_for_jobs, self.here)
        self.here.place_of = lambda _name: self.here
        self.said: list[str] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.writes = 3
        self.left: int | None = None  # things that are done before an interruption
        self.ganeti.before = self.point
        monkeypatch.setattr(exchange, "run", self.ganeti.run)

    def point(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Interrupted

    def call(self, peer: str, verb: str, *, seconds: float = 0, **request: Any) -> Any:  # noqa: ARG002
        assert peer == "node1"
        self.asked.append((verb, request))
        self.point()
        if verb == "adopt-facts":
            return {**FACTS, "sizes": [SIZE] * len(request["disks"]), "drbd": self.ganeti.halves}
        if verb == "adopt-halves":
            return self.ganeti.halves
        if verb in ("adopt-settle", "adopt-keep"):
            return intake.VERBS[verb](self.here, request)
        if verb == "adopt-unused":
            return Job(self.here, request, self.lvm).refuse_used()
        if verb == "adopt-drop":
            wanted = [disk["lv"] for disk in request["disks"]]
            for snapshot in [found for found in self.lvm.volumes() if found.ours and found.origin in wanted]:
                self.lvm.drop(snapshot)
            return None
        if verb == "report":
            return {"trash": [entry.as_json(14) for entry in self.node.trash.entries()]}
        if verb == "trash-destroy":
            return self.node.trash.destroy(request["entry"], strangers=request["strangers"])
        return self._copy(verb.removeprefix("adopt-"), Job(self.here, request, self.lvm), request)

    def _copy(self, verb: str, job: Job, request: dict[str, Any]) -> Any:
        if verb == "copy":
            told = job.advance(request["number"], request["room"], 0)
            if self.writes and self.ganeti.data[NAME]["up"]:
                self.writes -= 1
                self.lvm.write(job.lv, 65536 * self.writes, os.urandom(100))
            return told
        if verb == "state":
            progress, snapshots = job.progress(), job.snapshots()
            return {"whole": progress.whole, "making": progress.making, "highest": max(snapshots, default=0)}
        if verb == "finish":
            return job.finish(request["offset"], 0, again=request["again"], seen=request["seen"])
        return job.changed() if verb == "changed" else job.verify(request["offset"], 0)

    def plan(self, *, offline: bool = False) -> Plan | None:
        """What is typed again takes up what is there."""
        return prepare(self.here, NAME, "ext", offline=offline)

    def conduct(self) -> Conduct:
        return Conduct(self.here, NAME, self.said.append, lambda *_step: None)

    def adopt(self, *, offline: bool = False) -> None:
        with exchange.alone_with(self.here, NAME, self.said.append):
            plan = self.plan(offline=offline)
            if plan is not None:
                self.conduct().adopt(plan)

    def new(self) -> list[bytes]:
        return [Path(self.here.volumes.disk(f"new{index}.ext.disk{index}")).read_bytes() for index in range(2)]

    def old(self) -> list[bytes]:
        return [self.lvm.content(lv) for lv in LVS]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(nodes_at(tmp_path)(), monkeypatch)


def assert_adopted(bench: Bench) -> None:
    """The instance runs on disks of ours, which hold what the old ones do, and these are its shadow's."""
    data = bench.ganeti.data
    assert (data[NAME]["disks"], data[NAME]["up"]) == (["new0", "new1"], True)
    assert (data[SHADOW + NAME]["disks"], data[SHADOW + NAME]["up"]) == (list(OLD), False)
    assert bench.new() == bench.old()
    assert START not in data[SHADOW + NAME]["tags"]
    assert [found.name for found in bench.lvm.volumes()] == list(LVS)
    assert {bench.node.marks(f"zfs/vm/new{index}.ext.disk{index}")[INSTANCE] for index in range(2)} == {NAME}


def test_it_is_copied_while_it_runs_and_exchanged(bench: Bench) -> None:
    bench.adopt()
    assert_adopted(bench)
    verbs = [verb for verb in (line.split()[0] for line in bench.ganeti.typed) if "tags" not in verb]
    assert verbs == ["add", "modify", "stop", "modify", "modify", "start", "modify"]
    assert f"{NAME} will be down for about 13 s" in bench.said
    assert bench.said.index(f"{NAME} will be down for about 13 s") < bench.said.index(f"stopping {NAME}")
    bench.conduct().commit()
    assert list(bench.ganeti.data) == [NAME]
    assert set(bench.ganeti.known) == {"new0", "new1"}


def test_offline_it_is_stopped_before_anything_is_copied(bench: Bench) -> None:
    bench.adopt(offline=True)
    assert_adopted(bench)
    assert not [said for said in bench.said if "down for" in said]
    assert bench.lvm.rooms == {}


def test_what_was_interrupted_before_anything_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again ends it, after whatever thing it was interrupted; a fourth of them is tried."""
    another = nodes_at(tmp_path)
    for first in itertools.count(0, 4):
        bench = Bench(another(), monkeypatch)
        try:
            bench.left = first
            bench.adopt()
        except Interrupted:
            bench.left = None
            bench.adopt()
            assert_adopted(bench)
            continue
        break
    assert first > 20
    assert_adopted(bench)


def test_back_are_the_old_disks_and_the_new_ones_in_the_trash(bench: Bench) -> None:
    bench.adopt()
    before = bench.old()
    with pytest.raises(Refused, match="has been switched to its new disks"):
        bench.conduct().back(abort=True)
    bench.conduct().back(abort=False)
    assert (bench.ganeti.data, bench.old()) == ({NAME: {"disks": list(OLD), "tags": [], "up": True}}, before)
    assert [entry.instance for entry in bench.node.trash.entries()] == [SHADOW + NAME] * 2


def test_given_up_before_it_is_switched_nothing_is_left(bench: Bench) -> None:
    bench.left = 12
    with pytest.raises(Interrupted):
        bench.adopt()
    bench.left = None
    with pytest.raises(Refused, match=f"has its old disks: gnt-zfs adopt --abort {NAME} gives up the copy"):
        bench.conduct().back(abort=False)
    with pytest.raises(Refused, match="is not adopted yet"):
        bench.conduct().commit()
    bench.conduct().back(abort=True)
    assert bench.ganeti.data == {NAME: {"disks": list(OLD), "tags": [], "up": True}}
    assert bench.node.trash.entries() == []
    assert [found.name for found in bench.lvm.volumes()] == list(LVS)


def test_a_disk_that_it_got_meanwhile_keeps_it_from_being_switched(bench: Bench) -> None:
    bench.left = 12
    with pytest.raises(Interrupted):
        bench.adopt()
    bench.left = None
    bench.ganeti.known["more"] = {"dev_type": "plain", "logical_id": ["vg", "more"]}
    bench.ganeti.data[NAME]["disks"].append("more")
    plan = bench.plan()
    assert plan is not None
    with pytest.raises(Refused, match=f"^{NAME}: has got 1 more disk since: gnt-instance modify --disk N:detach {NAME} first$"):
        bench.conduct().adopt(plan)
    assert bench.ganeti.data[NAME]["up"]


def interrupted(bench: Bench, left: int = 12) -> None:
    """An adoption that is copying."""
    bench.left = left
    with pytest.raises(Interrupted):
        bench.adopt()
    bench.left = None


def lose(bench: Bench, uuid: str) -> None:
    """Somebody has removed a disk."""
    for known in bench.ganeti.data.values():
        known["disks"] = [disk for disk in known["disks"] if disk != uuid]
    del bench.ganeti.known[uuid]


@pytest.mark.parametrize("more", [True, False])
def test_a_copy_is_given_up_whatever_disks_the_instance_has_got_or_lost_since(bench: Bench, more: bool) -> None:
    interrupted(bench)
    if more:
        bench.ganeti.known["more"] = {"dev_type": "plain", "logical_id": ["vg", "more"]}
        bench.ganeti.data[NAME]["disks"].append("more")
    else:
        lose(bench, "old1")
    with pytest.raises(Refused, match="has its old disks"):
        bench.conduct().back(abort=False)
    disks = list(bench.ganeti.data[NAME]["disks"])
    bench.conduct().back(abort=True)
    assert bench.ganeti.data == {NAME: {"disks": disks, "tags": [], "up": True}}
    assert bench.node.trash.entries() == []


def test_a_rollback_needs_no_more_than_the_old_disks(bench: Bench) -> None:
    bench.adopt()
    bench.ganeti.run("gnt-instance", "stop", NAME)
    lose(bench, "new1")
    assert bench.conduct().found.state == "kept", "what is left of the new ones is in its place"
    before = bench.old()
    bench.conduct().back(abort=False)
    assert bench.ganeti.data == {NAME: {"disks": list(OLD), "tags": [], "up": False}}
    assert bench.old() == before


def test_who_misses_a_new_disk_is_led_back_and_not_to_the_end_of_the_old_ones(bench: Bench) -> None:
    bench.adopt()
    lose(bench, "new1")
    with pytest.raises(Refused) as caught:
        bench.conduct().found.must_know_disks(bench.conduct().found.new)
    assert str(caught.value) == f"{NAME}: 1 of the disks that were exchanged is gone: gnt-zfs adopt --rollback {NAME}"


def test_a_rollback_that_is_refused_has_begun_nothing(bench: Bench) -> None:
    bench.adopt()
    bench.ganeti.known["more"] = {"dev_type": "ext", "logical_id": ["zfs", "more.ext.disk2"]}
    bench.ganeti.data[NAME]["disks"].append("more")
    with pytest.raises(Refused, match="has got 1 more disk since"):
        bench.conduct().back(abort=False)
    assert bench.conduct().found.state == "kept"
    bench.conduct().commit()
    assert list(bench.ganeti.data) == [NAME]


def test_a_copy_of_which_others_took_snapshots_is_given_up(bench: Bench) -> None:
    interrupted(bench)
    bench.node.fake.snapshot([f"zfs/vm/{bench.ganeti.known['new0']['logical_id'][1]}@autosnap_1"])
    bench.conduct().back(abort=True)
    assert bench.node.trash.entries() == []


def test_a_shadow_whose_instance_was_renamed_is_told_with_the_way_back(bench: Bench) -> None:
    bench.adopt()
    bench.ganeti.data["web2.example.com"] = bench.ganeti.data.pop(NAME)
    ((shadow, problem),) = adoption.strays(bench.here.master.instances())
    why = f"{SHADOW}{NAME}: has disks of the adoption of {NAME}, which was renamed or removed"
    way_out = f"gnt-instance rename {SHADOW}{NAME} {SHADOW}NEWNAME leads back to it, gnt-instance remove {SHADOW}{NAME} destroys them"
    assert (shadow.name, str(problem)) == (SHADOW + NAME, f"{why}: {way_out}")
    with pytest.raises(Refused, match="was renamed or removed"):
        prepare(bench.here, SHADOW + NAME, "ext", offline=False)
    bench.ganeti.data[f"{SHADOW}web2.example.com"] = bench.ganeti.data.pop(SHADOW + NAME)
    assert adoption.strays(bench.here.master.instances()) == []
    assert [one.state for one in adoption.all_of(bench.here)] == ["kept"]


def test_a_copy_leaves_the_other_guests_their_room(bench: Bench) -> None:
    interrupted(bench, 6)
    bench.node.fake.available = 0
    with pytest.raises(NoSpace):
        bench.conduct().adopt(bench.plan() or pytest.fail("there is a plan"))
    assert bench.ganeti.data[NAME]["up"]


def test_a_disk_that_was_grown_meanwhile_is_not_cut_off(bench: Bench) -> None:
    bench.left = 12
    with pytest.raises(Interrupted):
        bench.adopt()
    bench.left = None
    plan = bench.plan()
    assert plan is not None
    bench.ganeti.known["old1"]["size"] = 3
    said = f"^disk 1 of {NAME}: has 3.00M, its new one 2.00M: it was grown since: gnt-zfs adopt --abort {NAME}, then again$"
    with pytest.raises(Refused, match=said):
        bench.plan()
    with pytest.raises(Refused, match=said):
        bench.conduct().adopt(plan)
    assert bench.ganeti.data[NAME]["up"]
    bench.conduct().back(abort=True)
    assert list(bench.ganeti.data) == [NAME]


def test_a_shadow_that_ganeti_does_not_add_changes_nothing(bench: Bench) -> None:
    def fails() -> None:
        raise CommandFailed("gnt-instance add", 1, "no memory")

    bench.ganeti.before = fails
    with pytest.raises(Refused, match=f"Ganeti does not add it: no memory: nothing was changed for {NAME}"):
        bench.adopt()
    assert bench.node.datasets() == []


# two administrators


def test_what_was_planned_is_looked_at_again_before_it_is_done(bench: Bench) -> None:
    """While one thinks about it another one ends the adoption: the guest's disks are not copied over."""
    bench.left = 9
    with pytest.raises(Interrupted):
        bench.adopt()
    bench.left = None
    stale = bench.plan()
    assert stale is not None
    assert (stale.exists, stale.live) == (True, True)
    bench.adopt()
    path = bench.here.volumes.disk("new0.ext.disk0")
    with open(path, "r+b") as file:
        file.write(b"written since")
    said = f"^{NAME}: is not as it was when this was planned: gnt-zfs adopt {NAME} looks again$"
    with pytest.raises(Refused, match=said):
        bench.conduct().adopt(stale)
    assert Path(path).read_bytes().startswith(b"written since")


def test_an_instance_that_was_started_meanwhile_is_not_stopped_for_a_whole_copy(bench: Bench) -> None:
    bench.ganeti.data[NAME]["up"] = False
    plan = bench.plan()
    assert plan is not None
    bench.ganeti.data[NAME]["up"] = True
    with pytest.raises(Refused, match="is not as it was when this was planned"):
        bench.conduct().adopt(plan)
    assert list(bench.ganeti.data) == [NAME]


def test_one_at_a_time_adopts_or_moves_an_instance(bench: Bench) -> None:
    for taken in (NAME, SHADOW + NAME):
        with alone(taken), pytest.raises(Busy, match=f"^{taken}: another gnt-zfs move or adopt is at work on it: wait for that$"):
            bench.adopt()
    with exchange.alone_with(bench.here, NAME.split(".")[0], bench.said.append) as name:
        assert name == NAME
        with pytest.raises(Busy), alone(NAME):
            pass
    assert list(bench.ganeti.data) == [NAME]


def test_while_one_is_asked_another_has_to_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(adopt_cli, "must_be_master", lambda _here: None)
    typed = parser().parse_args(["adopt", "-t", "ext", NAME])

    def confirm(_question: str) -> bool:
        for words in ([], ["--abort"]):
            with pytest.raises(Busy, match="another gnt-zfs move or adopt is at work on it"):
                adopt_cli._adopt(bench.here, parser().parse_args(["adopt", "--yes", *words, NAME]))
        return True

    monkeypatch.setattr(adopt_cli, "confirm", confirm)
    assert adopt_cli._adopt(bench.here, typed) == 0
    assert_adopted(bench)
    assert f"{NAME} is on ZFS" in capsys.readouterr().out
    assert adopt_cli._adopt(bench.here, parser().parse_args(["adopt", "--yes", "--commit", NAME])) == 0
    assert list(bench.ganeti.data) == [NAME]


def test_a_job_that_is_yet_to_begin_is_waited_for_before_anything_is_planned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has submitted it was interrupted, and it goes on."""
    monkeypatch.setattr(here, "LOOK_SECONDS", 0)
    command = ("gnt-instance", "add", "-t", "ext", SHADOW + NAME)
    bench.ganeti.pending = [lambda: None, partial(bench.ganeti.run, *command)]
    bench.adopt()
    assert_adopted(bench)
    assert [line.split()[0] for line in bench.ganeti.typed].count("add") == 1
    assert bench.said[0] == f"{NAME}: waiting for the job of Ganeti's that works on it"
    assert {NAME, SHADOW + NAME} == set(bench.ganeti.looked)


# interrupted at every command of Ganeti's


class Typist:
    """Whoever types hits Ctrl-C at the command of that number: before it is submitted, or while its job, which goes on, runs."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, *, submitted: bool) -> None:
        self.bench, self.left, self.submitted = bench, number, submitted
        monkeypatch.setattr(exchange, "run", self.run)

    def run(self, *words: str, seconds: float = 0, stdin: str = "") -> str:
        self.left -= 1
        if self.left:
            return self.bench.ganeti.run(*words, seconds=seconds, stdin=stdin)
        if self.submitted:
            self.bench.ganeti.run(*words)
        raise KeyboardInterrupt


def commands(another: Callable[[], Node], monkeypatch: pytest.MonkeyPatch, first: Callable[[Bench], None]) -> Iterator[tuple[Bench, str]]:
    """Yield a bench after `first` was interrupted at each of its commands, and what had been typed."""
    for half in itertools.count(2):
        number, submitted = half // 2, bool(half % 2)
        bench = Bench(another(), monkeypatch)
        if first is not adopt:
            bench.adopt()
            for lv in ("new0.ext.disk0", "new1.ext.disk1"):
                with open(bench.here.volumes.disk(lv), "r+b") as file:
                    file.write(b"written since")
        typist = Typist(bench, monkeypatch, number, submitted=submitted)
        try:
            first(bench)
        except KeyboardInterrupt:
            yield bench, f"{number}: {'; '.join(bench.ganeti.typed)}"
            continue
        assert typist.left > 0
        assert number > 2
        return


def adopt(bench: Bench) -> None:
    bench.adopt()


def back(bench: Bench) -> None:
    bench.conduct().back(abort=False)


def commit(bench: Bench) -> None:
    bench.conduct().commit()


def assert_given_up(bench: Bench, typed: str) -> None:
    assert bench.ganeti.data == {NAME: {"disks": list(OLD), "tags": [], "up": True}}, typed
    assert [found.name for found in bench.lvm.volumes()] == list(LVS), typed


def test_at_any_command_of_an_adoption_the_same_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bench, _typed in commands(nodes_at(tmp_path), monkeypatch, adopt):
        bench.adopt()
        assert_adopted(bench)


def test_what_was_written_to_half_of_the_new_disks_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bench, typed in commands(nodes_at(tmp_path), monkeypatch, adopt):
        if bench.ganeti.data[NAME]["disks"] == [] and "detach" in typed.rpartition("; ")[2]:
            break
    bench.ganeti._modify(NAME, ["0:attach,uuid=new0"])
    bench.ganeti.data[SHADOW + NAME]["disks"].remove("new0") if "new0" in bench.ganeti.data[SHADOW + NAME]["disks"] else None
    bench.ganeti.data[NAME]["up"] = True  # somebody starts it, and it writes
    bench.lvm.write(LVS[0], 0, b"before that")
    with open(bench.here.volumes.disk("new0.ext.disk0"), "r+b") as file:
        file.write(b"written since")
    bench.adopt()
    assert bench.ganeti.data[NAME]["disks"] == ["new0", "new1"]
    assert bench.new()[0].startswith(b"written since")
    assert bench.new()[1] == bench.old()[1]


def test_at_any_command_of_an_adoption_it_is_given_up_or_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for bench, typed in commands(nodes_at(tmp_path), monkeypatch, adopt):
        if SHADOW + NAME not in bench.ganeti.data:
            assert_given_up(bench, typed)
            continue
        state = bench.conduct().found.state
        seen.add(state)
        before = bench.old()
        bench.conduct().back(abort=state == "copying")
        assert_given_up(bench, typed)
        assert bench.old() == before
        assert bool(bench.node.trash.entries()) == (state != "copying")
    assert seen == {"copying", "exchanging", "kept"}


def test_at_any_command_of_a_rollback_the_same_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bench, typed in commands(nodes_at(tmp_path), monkeypatch, back):
        if SHADOW + NAME in bench.ganeti.data:
            bench.conduct().back(abort=False)
        assert_given_up(bench, typed)
        entries = bench.node.trash.entries()
        assert [entry.instance for entry in entries] == [SHADOW + NAME] * 2


def test_a_rollback_that_was_interrupted_is_not_taken_for_an_adoption_that_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written on the new disks since is neither destroyed nor copied over; where it is possible the instance keeps them."""
    way_out = f"gnt-zfs adopt --rollback {NAME} goes on"
    for bench, _typed in commands(nodes_at(tmp_path), monkeypatch, back):
        found = adoption.Adoption(bench.here, NAME)
        if not found.tags.back:  # it has not begun, or has ended
            continue
        for other in (commit, lambda bench: bench.conduct().back(abort=True)):
            with pytest.raises(Refused, match=way_out):
                other(bench)
        if set(found.places.outer) & set(OLD):
            with pytest.raises(Refused, match=way_out):
                bench.adopt()
            continue
        bench.adopt()
        assert bench.ganeti.data[NAME]["disks"] == ["new0", "new1"]
        assert [disk[:13] for disk in bench.new()] == [b"written since"] * 2
        assert bench.conduct().found.state == "kept"


def test_giving_up_goes_on_whenever_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each of its things; one whose copy was removed but not destroyed yet leaves that to the trash."""
    another = nodes_at(tmp_path)
    for first in itertools.count():
        bench = Bench(another(), monkeypatch)
        bench.left = 12
        with pytest.raises(Interrupted):
            bench.adopt()
        bench.left = first
        try:
            bench.conduct().back(abort=True)
        except Interrupted:
            bench.left = None
            if SHADOW + NAME in bench.ganeti.data:
                bench.conduct().back(abort=True)
                assert bench.node.trash.entries() == []
            assert_given_up(bench, str(first))
            continue
        assert first > 2
        return


def test_at_any_command_of_a_commit_the_same_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(nodes_at(tmp_path)(), monkeypatch)
    bench.adopt()
    Typist(bench, monkeypatch, 1, submitted=False)
    with pytest.raises(KeyboardInterrupt):
        commit(bench)
    commit(bench)
    assert set(bench.ganeti.known) == {"new0", "new1"}


def test_giving_up_destroys_no_more_than_its_own_copy(bench: Bench) -> None:
    """Another adoption was taken back before, and its disks are in the trash for as long as all that is there."""
    bench.adopt()
    back(bench)
    kept = {entry.entry for entry in bench.node.trash.entries()}
    bench.left = 12
    with pytest.raises(Interrupted):
        bench.adopt()
    bench.left = None
    bench.conduct().back(abort=True)
    assert {entry.entry for entry in bench.node.trash.entries()} == kept


# what comes in between


def start_before_the_detach(bench: Bench, *, stopped: bool = False) -> None:
    """Somebody's start was in Ganeti's queue before our detach, and the guest writes; `stopped`: it is over by then."""
    seen = list[int]()

    def before() -> None:
        bench.point()
        if not seen and bench.asked[-1] == ("adopt-finish", bench.asked[-1][1]) and bench.asked[-1][1]["disk"] == 1:
            seen.append(1)
            bench.ganeti._switch(NAME, up=True)
            bench.lvm.write("one.disk0", 4096, b"written after the copy")
            bench.lvm.write("two.disk1", 65536, b"and here")
            if stopped:
                bench.ganeti._switch(NAME, up=False)

    bench.ganeti.before = before


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("counts", [False, True])
def test_what_is_written_between_the_copy_and_the_detach_is_copied(bench: Bench, offline: bool, stopped: bool, counts: bool) -> None:
    bench.lvm.counts = counts
    start_before_the_detach(bench, stopped=stopped)
    bench.adopt(offline=offline)
    assert b"written after the copy" in bench.old()[0]
    assert_adopted(bench)
    verbs = [verb for verb in (line.split()[0] for line in bench.ganeti.typed) if "tags" not in verb]
    again = [] if stopped else ["stop"]
    assert verbs == ["add", "modify", "stop", "modify", *again, "modify", "start", "modify"]
    assert [said for said in bench.said if said.startswith("disk 0: ") and " compared once more, " in said and said.endswith(" written")]


def test_who_starts_a_stopped_one_has_it_running_afterwards(bench: Bench) -> None:
    bench.ganeti.data[NAME]["up"] = False
    start_before_the_detach(bench)
    bench.adopt()
    assert_adopted(bench)


def test_what_nobody_has_written_to_is_not_compared_twice(bench: Bench) -> None:
    bench.adopt(offline=True)
    asked = [request for verb, request in bench.asked if verb == "adopt-finish"]
    assert [(request["disk"], request["offset"]) for request in asked if request["again"]] == [(0, 0), (1, 0)]
    assert not [said for said in bench.said if "in between" in said]


def test_new_disks_that_were_used_are_not_compared_with_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback, and the adoption after it, were both interrupted while the instance had no disk."""
    for bench, _typed in commands(nodes_at(tmp_path), monkeypatch, back):
        if SHADOW + NAME not in bench.ganeti.data or bench.ganeti.data[NAME]["disks"]:
            continue
        for _again in range(2):
            Typist(bench, monkeypatch, 1, submitted=False)
            with pytest.raises(KeyboardInterrupt):
                bench.adopt()
        monkeypatch.setattr(exchange, "run", bench.ganeti.run)
        bench.adopt()
        assert [disk[:13] for disk in bench.new()] == [b"written since"] * 2
        return
    raise AssertionError("it never has no disk")


def test_a_snapshot_that_overflows_while_another_disk_is_copied_is_taken_again(bench: Bench) -> None:
    call, hit = bench.here.call, list[int]()

    def watch(peer: str, verb: str, **request: Any) -> Any:
        told = call(peer, verb, **request)
        if (verb, request.get("disk")) == ("adopt-copy", 1) and not hit:
            hit.append(1)
            for snapshot in [found for found in bench.lvm.volumes() if found.origin == LVS[0]]:
                bench.lvm.overflow(snapshot)
        return told

    bench.here.call = watch
    bench.adopt()
    assert_adopted(bench)
    stopping = bench.said.index(f"stopping {NAME}")
    assert [said.split(",")[0] for said in bench.said[:stopping] if "is copied" in said] == [
        "disk 0 is copied", "disk 1 is copied", "disk 0 is copied",
    ]  # fmt: skip
    compared = [request for verb, request in bench.asked if verb == "adopt-finish" and request["disk"] == 0]
    assert len(compared) == 2, "it was found equal but for what had changed since"


def test_what_another_disk_was_written_to_meanwhile_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks are copied one after the other; of the first one more than a little changes until the last one is copied."""
    monkeypatch.setattr(exchange, "SMALL", 2 * 65536)
    call, asked = bench.here.call, list[int]()

    def watch(peer: str, verb: str, **request: Any) -> Any:
        told = call(peer, verb, **request)
        if verb == "adopt-changed":
            asked.append(request["disk"])
            if asked == [0]:
                for chunk in range(5):
                    bench.lvm.write(LVS[0], 65536 * chunk, os.urandom(100))
        return told

    bench.here.call, bench.writes = watch, 0
    bench.adopt()
    assert_adopted(bench)
    assert asked[:4] == [0, 1, 0, 1]
    assert asked[-2:] == [0, 1]
    assert len(asked) > 4


# a shadow that is started


RUNS = (
    f"^{SHADOW}{NAME}: was started, with disks of the adoption of {NAME}: gnt-instance stop {SHADOW}{NAME}, then the same command goes on$"
)


def guest_of_the_shadow(bench: Bench, *, stopped: bool = True) -> None:
    """Somebody starts the shadow past our hook, and its guest writes to each new disk that it has."""
    run = bench.ganeti._switch
    run(SHADOW + NAME, up=True)
    for uuid in {"new0", "new1"}.intersection(bench.ganeti.data[SHADOW + NAME]["disks"]):
        with open(bench.here.volumes.disk(bench.ganeti.known[uuid]["logical_id"][1]), "r+b") as file:
            file.seek(1000)
            file.write(b"a journal that was replayed")
    if stopped:
        run(SHADOW + NAME, up=False)


@pytest.mark.parametrize("offline", [False, True])
def test_what_a_guest_of_the_shadow_wrote_between_two_tries_is_copied_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    another, tried = nodes_at(tmp_path), 0
    for first in itertools.count(3, 2):
        bench = Bench(another(), monkeypatch)
        bench.left = first
        try:
            bench.adopt(offline=offline)
        except Interrupted:
            bench.left = None
            if bench.ganeti.data[SHADOW + NAME]["disks"] == ["new0", "new1"]:
                guest_of_the_shadow(bench)
                tried += 1
            bench.adopt(offline=offline)
            assert_adopted(bench)
            continue
        break
    assert tried > 0


@pytest.mark.parametrize("verb", ["adopt-copy", "adopt-changed", "adopt-finish"])
def test_what_a_guest_of_the_shadow_wrote_between_two_slices_is_copied_over(bench: Bench, verb: str) -> None:
    call, seen = bench.here.call, list[int]()

    def watch(peer: str, asked: str, **request: Any) -> Any:
        told = call(peer, asked, **request)
        if asked == verb and not seen:
            seen.append(1)
            with open(bench.here.volumes.disk("new0.ext.disk0"), "r+b") as file:
                file.write(b"somebody else's")
        return told

    bench.here.call = watch
    bench.adopt()
    assert_adopted(bench)


def test_while_the_shadow_is_started_nothing_is_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another, tried = nodes_at(tmp_path), 0
    for first in itertools.count(3, 5):
        bench = Bench(another(), monkeypatch)
        bench.left = first
        try:
            bench.adopt()
        except Interrupted:
            bench.left = None
            if bench.ganeti.data[SHADOW + NAME]["disks"]:
                guest_of_the_shadow(bench, stopped=False)
                disks, typed = bench.ganeti.data[NAME]["disks"], len(bench.ganeti.typed)
                with pytest.raises(Refused, match=RUNS):
                    bench.adopt()
                assert (bench.ganeti.data[NAME]["disks"], len(bench.ganeti.typed)) == (disks, typed)
                bench.ganeti._switch(SHADOW + NAME, up=False)
                tried += 1
            bench.adopt()
            assert_adopted(bench)
            continue
        break
    assert tried > 1


def test_a_shadow_that_is_started_while_it_is_copied_is_not_switched_from(bench: Bench) -> None:
    call = bench.here.call

    def watch(peer: str, verb: str, **request: Any) -> Any:
        told = call(peer, verb, **request)
        if (verb, request.get("disk")) == ("adopt-changed", 1):
            bench.ganeti.data[SHADOW + NAME]["up"] = True
        return told

    bench.here.call = watch
    with pytest.raises(Refused, match=RUNS):
        bench.adopt()
    assert (bench.ganeti.data[NAME]["up"], bench.ganeti.data[NAME]["disks"]) == (True, list(OLD))


def test_while_the_shadow_is_started_its_old_disks_neither_come_back_nor_go(bench: Bench) -> None:
    bench.adopt()
    bench.ganeti.run("gnt-instance", "start", SHADOW + NAME)
    typed = len(bench.ganeti.typed)
    for does in (back, commit):
        with pytest.raises(Refused, match=RUNS):
            does(bench)
    assert len(bench.ganeti.typed) == typed
    bench.ganeti.run("gnt-instance", "stop", SHADOW + NAME)
    back(bench)
    assert_given_up(bench, "")


def test_a_shadow_that_is_started_during_a_rollback_keeps_it_from_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its guest keeps open what Ganeti has taken from it meanwhile."""
    for bench, typed in commands(nodes_at(tmp_path), monkeypatch, back):
        data = bench.ganeti.data
        if SHADOW + NAME not in data:
            continue
        data[SHADOW + NAME]["up"] = True
        with pytest.raises(Refused, match=RUNS):
            back(bench)
        data[SHADOW + NAME]["up"] = False
        back(bench)
        assert_given_up(bench, typed)


def test_a_guest_on_the_old_disks_that_ganeti_takes_for_stopped_keeps_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CLOSING_SECONDS", 0)
    bench.adopt()
    bench.lvm.busy = ["process qemu-system-x86 (7)"]
    said = f"^vg/{LVS[0]}: is in use by process qemu-system-x86 .7.: stop it, then the same command goes on$"
    with pytest.raises(Busy, match=said):
        back(bench)
    assert (bench.ganeti.data[NAME]["up"], bench.ganeti.data[NAME]["disks"]) == (True, ["new0", "new1"])
    bench.lvm.busy = []
    back(bench)
    assert_given_up(bench, "")


@pytest.mark.parametrize("kind", ["file", "ext"])
def test_a_copy_that_an_adoption_makes_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rig = make_rig(tmp_path, monkeypatch)
    disk = "a.file.disk0" if kind == "file" else "u.ext.disk0"
    for name in ("adopt-web1", "adopt-web2"):
        rig.ganeti.add(name, kind, "node1", {f"{name}.{disk}": b"half a copy"}, up=False)
    knot = rig.master
    knot.ssconf.__dict__["instances"] = ["adopt-web1", "adopt-web2", "web1", "web2"]
    knot.fake.set(knot.full("adopt-web1" if kind == "file" else f"adopt-web1.{disk}"), {f"{intake.COPY}0": intake.Progress().pack()})
    said = "adopt-web1: has the unfinished copy of web1's disks: gnt-zfs adopt web1 goes on, gnt-zfs adopt --abort web1 gives up"
    with pytest.raises(CommandFailed, match=said):
        rig.ganeti.gnt("gnt-instance", "startup", "adopt-web1")
    rig.ganeti.gnt("gnt-instance", "startup", "adopt-web2")  # which none makes
    knot.ssconf.instances.remove("web1")
    with pytest.raises(CommandFailed, match="gnt-zfs adopt adopt-web1 goes on"):  # it is no shadow, and adopted itself
        rig.ganeti.gnt("gnt-instance", "startup", "adopt-web1")
    assert hooks.SHADOW == adoption.SHADOW


# drbd


@pytest.fixture
def mirrored(bench: Bench) -> Bench:
    """A bench whose instance is on drbd, of which LVM has more than a guest sees."""
    bench.ganeti.make_drbd()
    bench.ganeti.known["old0"]["size"] = bench.ganeti.known["old1"]["size"] = 1
    bench.ganeti.new_size = MIB
    return bench


def equal_to_what_the_guest_saw(bench: Bench) -> bool:
    return bench.new() == [disk[:MIB] for disk in bench.old()]


BEHIND = f"^disk 1 of {NAME}: its half on node1 is {{}}: gnt-instance activate-disks {NAME}, wait until it is in sync, then the same"


def test_drbd_is_adopted_and_no_tag_of_it_is_left(mirrored: Bench) -> None:
    mirrored.adopt()
    asked = [request for verb, request in mirrored.asked if verb == "adopt-finish"]
    assert {(request["minor"], request["size"]) for request in asked if not request["again"]} == {(0, MIB), (1, MIB)}
    assert equal_to_what_the_guest_saw(mirrored)
    assert not [tag for tag in mirrored.ganeti.data[SHADOW + NAME]["tags"] if tag.startswith((SYNCED, START))]
    assert mirrored.ganeti.typed[-2].startswith("deactivate-disks")


def test_a_half_that_fell_behind_while_it_was_copied_is_not_switched_from(mirrored: Bench) -> None:
    mirrored.left = 12
    with pytest.raises(Interrupted):
        mirrored.adopt()
    mirrored.left = None
    plan = mirrored.plan()
    assert plan is not None
    mirrored.ganeti.halves["1"] = "Diskless"
    for act in (mirrored.plan, lambda: mirrored.conduct().adopt(plan)):
        with pytest.raises(Refused, match=BEHIND.format("Diskless")):
            act()
    assert mirrored.ganeti.data[NAME]["up"]
    mirrored.ganeti.halves["1"] = "UpToDate"
    mirrored.adopt()
    assert equal_to_what_the_guest_saw(mirrored)


def interrupted_before_the_detach(bench: Bench) -> None:
    """It is stopped, and its old disks are still its own."""
    gnt = bench.ganeti.run

    def run(*words: str, seconds: float = 0, stdin: str = "") -> str:
        if words[1] == "modify" and words[-1] == NAME:
            raise Interrupted
        return gnt(*words, seconds=seconds, stdin=stdin)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "run", run)
        with pytest.raises(Interrupted):
            bench.adopt()
    assert (bench.ganeti.data[NAME]["up"], bench.ganeti.halves) == (False, {})


def test_halves_that_were_up_to_date_at_the_stop_are_known_afterwards(mirrored: Bench) -> None:
    interrupted_before_the_detach(mirrored)
    mirrored.adopt()
    assert equal_to_what_the_guest_saw(mirrored)
    assert mirrored.ganeti.data[NAME]["up"]


def test_a_stopped_instance_on_drbd_is_adopted_once_its_disks_are_active(mirrored: Bench) -> None:
    mirrored.ganeti.run("gnt-instance", "stop", NAME)
    with pytest.raises(Refused, match=BEHIND.replace("disk 1", "disk 0").format("not active")):
        mirrored.adopt()
    assert list(mirrored.ganeti.data) == [NAME]
    mirrored.ganeti.halves = {"0": "UpToDate", "1": "UpToDate"}
    mirrored.adopt()
    assert equal_to_what_the_guest_saw(mirrored)
    assert not mirrored.ganeti.data[NAME]["up"]


def test_of_one_that_ran_again_since_nothing_is_known(mirrored: Bench) -> None:
    """Its half may have fallen behind then; drbd says so once it is active."""
    interrupted_before_the_detach(mirrored)
    plan = mirrored.plan()
    assert plan is not None
    for verb in ("start", "stop"):
        mirrored.ganeti.run("gnt-instance", verb, NAME)
    for act in (mirrored.plan, lambda: mirrored.conduct().adopt(plan)):
        with pytest.raises(Refused, match=BEHIND.replace("disk 1", "disk 0").format("not active")):
            act()
    mirrored.ganeti.halves = {"0": "UpToDate", "1": "Inconsistent"}  # activated
    with pytest.raises(Refused, match=BEHIND.format("Inconsistent")):
        mirrored.adopt()
    assert mirrored.ganeti.data[NAME]["disks"] == list(OLD)
    mirrored.ganeti.halves["1"] = "UpToDate"
    mirrored.adopt()
    assert equal_to_what_the_guest_saw(mirrored)


def test_a_half_that_is_behind_when_it_is_looked_at_again_takes_the_tag_along(mirrored: Bench) -> None:
    mirrored.left = 12
    with pytest.raises(Interrupted):
        mirrored.adopt()
    mirrored.left = None
    plan = mirrored.plan()
    assert plan is not None
    mirrored.ganeti.data[SHADOW + NAME]["tags"].append(f"{SYNCED}:{mirrored.ganeti.serial}")
    mirrored.ganeti.halves["1"] = "Diskless"
    with pytest.raises(Refused, match=BEHIND.format("Diskless")):
        mirrored.conduct().adopt(plan)
    mirrored.ganeti.run("gnt-instance", "stop", NAME)
    with pytest.raises(Refused, match="is not active"):
        mirrored.adopt()
