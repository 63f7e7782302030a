"""A cluster for quick tests of moves: nodes in one process, each with its fake ZFS, and as much of Ganeti as a move asks for."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fakeloop import FakeLoop
from tests.fakestreams import FakeStreams, Wired
from tests.fakezfs import FakeZfs
from tests.node import CLUSTER_NAME, DAY
from zfsganeti import datasets, departure, here, hooks, move, moving, transfer
from zfsganeti.answer import VERBS, answer
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER, Store
from zfsganeti.errors import CommandFailed, Missing, Unavailable, ZfsGanetiError, one_line
from zfsganeti.ganeti import Disk, Event, Instance
from zfsganeti.here import Here
from zfsganeti.node import Door, PeerFailed
from zfsganeti.roots import Root
from zfsganeti.shapes import understood
from zfsganeti.trash import Trash
from zfsganeti.volumes import Volumes

NODES = ("node1", "node2", "node3")
MIB = 1 << 20
LOOKS = 3  # at a queue before a job in it has ended


class Knot(Here):
    """A node of the fake cluster; what it asks its peers goes through JSON, as in real life."""

    busy_seconds = 0

    def __init__(self, rig: Rig, name: str, seed: int) -> None:
        super().__init__(lambda: VERBS)
        root, fake = self.make_root(rig, name, seed)
        self.fake, self.net, self.rig = fake, self.make_streams(fake), rig
        self.loop = FakeLoop(fake.reaper)
        ssconf = SimpleNamespace(
            cluster=CLUSTER_NAME,
            nodes=list(NODES),
            offline_nodes=[],
            master=NODES[0],
            storage_directory=root.path,
            ssh=lambda peer: ["ssh", f"root@{peer}"],
        )
        config = Config(busy_seconds=self.busy_seconds)
        store = Store(fake, root, CLUSTER_NAME, config, now=lambda: float(fake.clock))
        volumes = Volumes(store, self.loop)
        self.__dict__.update(
            node=name, config=config, ssconf=ssconf, zfs=fake, root=root, streams=self.net, store=store, volumes=volumes,
            trash=Trash(store), master=rig.ganeti,
        )  # fmt: skip
        self.away = False

    def make_root(self, rig: Rig, name: str, seed: int) -> tuple[Root, FakeZfs]:
        fake, root = FakeZfs(f"{rig.place}/{name}/pool", seed=seed), Root("zfs/vm", f"{rig.place}/{name}/vm")
        fake.foreign(root.name, {CLUSTER: CLUSTER_NAME}, mountpoint=root.path)
        fake.mount(root.name, root.path)
        return root, fake

    def make_streams(self, fake: FakeZfs) -> Wired:
        return FakeStreams(fake)

    def full(self, name: str) -> str:
        """Return the full name of a dataset below the root."""
        return f"{self.root.name}/{name}"

    def _reached(self, peer: str, verb: str) -> Knot:
        """Return a node of the cluster that answers."""
        if peer not in self.rig.knots:
            raise Missing(f"node {peer}", f"the cluster has {', '.join(self.rig.knots)}")
        self.rig.asked.append((peer, verb))
        self.rig.before(peer, verb)
        if self.rig.knots[peer].away:
            raise Unavailable(peer, "cannot be reached (no route to host)")
        return self.rig.knots[peer]

    def open(self, peer: str, verb: str) -> Door | None:
        return cast("Door", FakeDoor(self.rig, peer, verb)) if peer != self.node else None

    def call(self, peer: str, verb: str, *, seconds: float = 0, door: Door | None = None, **request: Any) -> Any:  # noqa: ARG002
        use(door, peer, verb)
        other = self._reached(peer, verb)
        with self.rig.turn:
            said = json.loads(json.dumps(answer(other, verb, lambda: json.dumps(request))))
        if "error" in said:
            raise PeerFailed(peer, said["error"], said["code"])
        return said["answer"] if other is self else understood(peer, verb, said["answer"])

    def listen(self, peer: str, verb: str, hear: Callable[[dict[str, Any]], None], *, door: Door | None = None, **request: Any) -> Any:
        use(door, peer, verb)
        other = self._reached(peer, verb)
        return json.loads(json.dumps(departure.TOLD[verb](other, json.loads(json.dumps(request)), hear)))

    def door_of(self) -> Callable[[str, dict[str, Any], int], dict[str, Any]]:
        def door(_verb: str, request: dict[str, Any], descriptor: int) -> dict[str, Any]:
            if self.away:
                return {"error": f"{self.node}: cannot be reached", "code": 3}
            try:
                with self.rig.turn:
                    return {"answer": transfer.receive(self, request, descriptor)}
            except ZfsGanetiError as error:
                return {"error": str(error), "code": error.exit_code}

        return door

    def datasets(self) -> list[str]:
        return [name.removeprefix(self.full("")) for name in self.fake.state() if name.startswith(self.full(""))]

    def holds(self) -> list[str]:
        """Every hold on this node, as dataset@snapshot."""
        return [snapshot for name in self.fake.state() for snapshot in self.fake.held(name)]

    def marks(self, name: str) -> dict[str, str]:
        marks = self.fake.state()[self.full(name)]["marks"]
        assert isinstance(marks, dict)
        return marks

    def files(self, name: str) -> dict[str, bytes]:
        return self.fake.files(self.full(name))


class FakeDoor:
    """A door of a node's; each is open until it was used or left."""

    def __init__(self, rig: Rig, peer: str, verb: str) -> None:
        self.asked, self.used = (peer, verb), False
        self.rig = rig

    def __enter__(self) -> FakeDoor:
        self.rig.doors.append(self)
        return self

    def __exit__(self, *_failure: object) -> None:
        self.rig.doors.remove(self)

    def is_ready(self) -> bool:
        return True

    def is_open(self) -> bool:
        return self in self.rig.doors and not self.used

    @property
    def child(self) -> None:
        """What waits for a stream is whoever FakeStreams gives it to."""
        assert self.asked[1] == "receive"
        self.used = True


def use(door: Door | None, peer: str, verb: str) -> None:
    """A door leads where it is to, and is used once, while it is open."""
    if door is not None:
        fake = cast("FakeDoor", door)
        assert fake in fake.rig.doors
        assert (fake.asked, fake.used) == ((peer, verb), False)
        fake.used = True


class FakeGaneti:
    """Instances, where their primary is and whether they run; a start runs our hook and needs the disks, as in real life."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.data: dict[str, dict[str, Any]] = {}
        self.typed: list[str] = []
        self.memory = 1000  # MiB free on every node
        self.fails: set[str] = set()  # verbs that fail before they do anything
        self.leaves: Callable[[str], BaseException | None] = lambda _verb: None  # what ends who waits for a job that was submitted
        self.queue: list[tuple[str, ...]] = []  # such jobs
        self.looks = 0  # at the queue, until its first job has ended
        self.closed: dict[str, str] = {}

    def instances(self) -> dict[str, Instance]:
        return {name: self._instance(name) for name in self.data}

    def disks(self) -> dict[str, Disk]:
        return {disk.uuid: disk for instance in self.instances().values() for disk in instance.disks}

    def detached_volumes(self) -> set[str]:
        return set()

    def everything(self) -> tuple[dict[str, Instance], set[str]]:
        detached = self.detached_volumes()
        return self.instances(), detached

    def jobs(self) -> list[dict[str, Any]]:
        return []

    def running(self, _operation: str, _instance: str) -> None:
        return None

    def closed_nodes(self) -> dict[str, str]:
        return self.closed

    def is_pending(self, instance: str) -> bool:
        """Tell whether a job is there, which ends after that has been asked some times."""
        pending = any(words[-1] == instance for words in self.queue)
        self.looks += 1
        if pending and self.looks >= LOOKS:
            self.work()
        return pending

    def work(self) -> None:
        """Every job that nobody waits for has ended, well or not."""
        self.looks = 0
        while self.queue:
            with contextlib.suppress(CommandFailed):
                self._job(self.queue.pop(0))

    def _instance(self, name: str) -> Instance:
        known = self.data[name]
        kind = known["kind"]
        disks = {}
        for index, disk in enumerate(known["disks"]):
            logical = ["zfs", disk] if kind == "ext" else ["loop", f"{self.rig.master.root.path}/{name}/{disk}"]
            disks[f"d{index}"] = {"uuid": f"d{index}", "dev_type": kind, "size": 1, "logical_id": logical, "params": {}}
        data = {
            "name": name,
            "uuid": f"uuid-{name}",
            "primary_node": known["primary"],
            "admin_state": "up" if known["up"] else "down",
            "disks": list(disks),
            "hypervisor": "fake",
            "tags": known.get("tags", []),
        }
        return Instance(data, {node: node for node in NODES}, disks, {})

    def add(self, name: str, kind: str, node: str, disks: dict[str, bytes], *, up: bool = True) -> None:
        """An instance with disks of these contents is on a node; of volumes the dictionary's keys are the names."""
        knot = self.rig.knots[node]
        self.data[name] = {"kind": kind, "primary": node, "disks": list(disks), "up": False}
        if kind == "file":
            knot.store.admit(name, [])
        for disk, content in disks.items():
            if kind == "ext":
                knot.volumes.create(disk, MIB, {})
                knot.volumes.set_instance(disk, name)
                knot.volumes.detach(disk)
            self.write(name, disk, content)
        if up:
            self.gnt("gnt-instance", "startup", name)
            self.typed.clear()

    def path(self, name: str, disk: str) -> str:
        known = self.data[name]
        root = self.rig.knots[known["primary"]].root.path
        return f"{root}/{disk}/disk.raw" if known["kind"] == "ext" else f"{root}/{name}/{disk}"

    def write(self, name: str, disk: str, content: bytes) -> None:
        """The guest writes, which needs a mounted dataset that is not read-only."""
        known = self.data[name]
        knot = self.rig.knots[known["primary"]]
        short = disk if known["kind"] == "ext" else name
        assert knot.fake.mounted_at(f"{knot.root.path}/{short}") == knot.full(short)
        assert knot.fake.local(knot.full(short)).get("readonly", "off") == "off", "a write to what is fenced"
        Path(self.path(name, disk)).write_bytes(content)

    def speak(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is asked of Ganeti's daemon is asked of this."""
        monkeypatch.setattr(move, "perform", self.perform)
        monkeypatch.setattr(move, "look", self.look)

    def perform(self, opcode: Mapping[str, Any], *, what: str, seconds: float) -> None:  # noqa: ARG002
        words = [f"--new-primary={opcode['pnode']}"] if "pnode" in opcode else []
        self.gnt(*what.split()[:2], *words, opcode["instance_name"])

    def look(self, kind: str, name: str, fields: Sequence[str]) -> list[Any]:
        if fields[0] in ("mfree", "be/maxmem"):
            return [self.memory if kind == "node" else 128]
        return list(self.gnt("gnt-instance", "list", name).split())

    def gnt(self, *words: str, seconds: float = 0, stdin: str = "") -> str:  # noqa: ARG002
        """What gnt-instance does."""
        verb, name = words[1], words[-1]
        self.typed.append(" ".join(words[1:]))
        self.rig.before("ganeti", verb)
        known = self.data[name]
        if verb == "list":
            return f"{'running' if known['up'] else 'ADMIN_down'} {known['primary']}\n"
        if (end := self.leaves(verb)) is not None:
            self.queue.append(words)
            raise end
        self.work()  # a job waits for those before it on its instance
        self._job(words)
        return ""

    def _job(self, words: tuple[str, ...]) -> None:
        verb, name = words[1], words[-1]
        known = self.data[name]
        if verb in self.fails:
            raise CommandFailed(" ".join(words[:2]), 1, f"{verb} denied by a test")
        if verb == "shutdown":
            self._stop(known)
        elif verb == "startup":
            self._start(name, known)
        elif verb == "modify":
            if known["up"]:
                raise CommandFailed("gnt-instance modify", 1, "instance is still running")
            for handler in hooks.HANDLERS["instance-modify-pre"] if known["kind"] == "file" else ():
                handler(self.rig.knots[known["primary"]], Event(self._environ(name, known, "instance-modify")))
            known["primary"] = words[2].removeprefix("--new-primary=")

    def _stop(self, known: dict[str, Any]) -> None:
        known["up"] = False
        for disk in known["disks"] if known["kind"] == "ext" else ():
            self.rig.knots[known["primary"]].volumes.detach(disk)

    def _start(self, name: str, known: dict[str, Any]) -> None:
        if known["up"]:
            return
        knot = self.rig.knots[known["primary"]]
        handlers = hooks.VOLUME_HANDLERS if known["kind"] == "ext" else hooks.HANDLERS
        event = Event(self._environ(name, known))
        try:
            for handler in handlers["instance-start-pre"]:
                handler(knot, event)
            for disk in known["disks"]:
                if known["kind"] == "ext":
                    knot.volumes.attach(disk)
                assert os.path.exists(self.path(name, disk)), f"{disk} is not there"
        except ZfsGanetiError as error:
            raise CommandFailed("gnt-instance startup", 1, one_line(error)) from error
        known["up"] = True

    def _environ(self, name: str, known: dict[str, Any], hook: str = "instance-start") -> dict[str, str]:
        environ = {
            "GANETI_HOOKS_PATH": hook,
            "GANETI_HOOKS_PHASE": "pre",
            "GANETI_CLUSTER": CLUSTER_NAME,
            "GANETI_MASTER": NODES[0],
            "GANETI_INSTANCE_NAME": name,
            "GANETI_INSTANCE_PRIMARY": known["primary"],
            "GANETI_INSTANCE_DISK_TEMPLATE": known["kind"],
            "GANETI_INSTANCE_DISK_COUNT": str(len(known["disks"])),
        }
        for index, disk in enumerate(known["disks"]):
            environ[f"GANETI_INSTANCE_DISK{index}_SIZE"] = "1"
            environ[f"GANETI_INSTANCE_DISK{index}_ID"] = disk if known["kind"] == "ext" else self.path(name, disk)
            if known["kind"] == "ext":
                environ[f"GANETI_INSTANCE_DISK{index}_PROVIDER"] = "zfs"
        return environ


class Rig:
    """Three nodes and their Ganeti; the first is the master. `before` is called before each thing that is asked of anybody.

    `cuts` are after how many bytes, or after what share of all, a line breaks early or late; `stride` is how many seconds pass at most
    until every node has looked after itself.
    """

    kind: type[Knot] = Knot
    cuts: Mapping[str, float] = {"early": 40, "late": 1500}
    stride = DAY

    def __init__(self, place: Path) -> None:
        self.place = place
        self.asked: list[tuple[str, str]] = []
        self.doors: list[FakeDoor] = []  # that are open now
        self.before: Callable[[str, str], None] = lambda _who, _verb: None
        self.ganeti = FakeGaneti(self)
        self.turn = threading.RLock()  # the fakes, unlike ZFS, are not made for several at once
        self.knots = {name: self.kind(self, name, 10000 * number) for number, name in enumerate(NODES, 1)}
        for knot in self.knots.values():
            knot.net.doors = {name: other.door_of() for name, other in self.knots.items()}

    @property
    def master(self) -> Knot:
        return self.knots[NODES[0]]

    def catch_up(self) -> None:
        """No dataset was made later than the nodes believe it is now: the fakes ask them what time it is."""

    def looking(self) -> contextlib.AbstractContextManager[None]:
        """Nothing changes meanwhile, so that what is asked may be answered all at once."""
        return contextlib.nullcontext()

    def clean(self) -> None:
        """Nothing is left of the nodes but files."""

    def content(self, name: str) -> dict[str, bytes]:
        """Return what the disks of an instance hold on its primary."""
        return {disk: Path(self.ganeti.path(name, disk)).read_bytes().rstrip(b"\0") for disk in self.ganeti.data[name]["disks"]}

    def starts_on(self, name: str, node: str) -> bool:
        """Tell whether the stopped instance starts once Ganeti has that node as its primary; it is stopped there again."""
        known = self.ganeti.data[name]
        assert not known["up"]
        known["primary"] = node
        try:
            self.ganeti.gnt("gnt-instance", "startup", name)
        except (CommandFailed, AssertionError):
            return False
        self.ganeti.gnt("gnt-instance", "shutdown", name)
        return True


def make_rig(place: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Rig] = Rig) -> Rig:
    """Return three nodes, made like that, whose Ganeti the mover reaches until the test ends."""
    monkeypatch.setattr(datasets, "LOCKS", str(place / "locks"))
    monkeypatch.setattr(departure, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(here, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(move, "LINK_SECONDS", 0.0)
    monkeypatch.setattr(move, "AGAIN_SECONDS", 0.0)
    made = make(place)
    made.ganeti.speak(monkeypatch)
    return made


def go(rig: Rig, target: str = "node2", name: str = "web1", said: list[str] | None = None, **options: object) -> move.Result:
    """The instance is on the target, as `gnt-zfs move` has it go there, which tells what it does."""
    told = said if said is not None else []
    with moving.alone(name):
        one = move.Move(rig.master, name, target, move.Options(**options), told.append, lambda *_words: None)  # type: ignore[arg-type]
        told += one.prepare()
        return one.run()
