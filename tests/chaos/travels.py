"""Moves and pushes between three nodes that are three filesystems of one pool, as operations that all nodes die in at once."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from tests.chaos.pool import BESIDE, PoolZfs, pointed
from tests.deaths.images import GOLD, holding
from tests.deaths.operation import Operation, datasets
from tests.fakeloop import FakeLoop
from tests.fakestreams import Wired
from tests.fakezfs import FakeZfs
from tests.killing import Reaper
from tests.node import CLUSTER_NAME, Node
from tests.realrig import RealKnot, RealRig, RealStreams, SurveyedZfs
from tests.rig import Rig, go, make_rig
from zfsganeti import transfer
from zfsganeti.datasets import CLUSTER, MOVE
from zfsganeti.errors import Refused, ZfsGanetiError
from zfsganeti.image import GOLDEN
from zfsganeti.roots import Root

DISKS = {
    "file": {"a.disk0": b"zero" * 300, "b.disk1": b"one" * 300},
    "ext": {"u.ext.disk0": b"zero" * 300, "v.ext.disk1": b"one" * 300},
}
IMAGE = "debian-12"
PASS = "zfsganeti-move-"
WHEN = re.compile(r"[0-9]{8}T[0-9]{6}Z|\b1[0-9]{9}\b")  # which is the clock's, and another one's in each run


class Travels:
    """A bench with three nodes; what is no ZFS of theirs, devices and Ganeti, outlasts a process in a file."""

    patch = pytest.MonkeyPatch()

    def __init__(self, node: Node) -> None:
        beside = Path(node.place).parent / BESIDE
        beside.mkdir()
        self.node, self.will = node, beside / "will"
        self.patch.undo()
        self.rig = make_rig(beside, self.patch, lambda place: TravelRig(place, node))

    def leave(self) -> None:
        """What a process knows that is about to die is written down."""
        devices = {name: knot.loop.attached for name, knot in self.rig.knots.items()}
        self.will.write_text(json.dumps({"instances": self.rig.ganeti.data, "devices": devices}), encoding="utf-8")

    def inherit(self, *, booted: bool) -> None:
        """Ganeti and the nodes are as the process that died has left them; after a boot it starts what is to run."""
        left = json.loads(self.will.read_text(encoding="utf-8"))
        self.rig.ganeti.data = left["instances"]
        for name, knot in self.rig.knots.items():
            devices = {} if booted else left["devices"][name]
            knot.loop.attached.clear()
            knot.loop.attached.update({volume: (where[0], where[1]) for volume, where in devices.items()})
        for name, known in self.rig.ganeti.data.items() if booted else ():
            if known["up"]:
                known["up"] = False
                self.rig.ganeti.gnt("gnt-instance", "startup", name)

    def tells(self) -> dict[str, Any]:
        """Return what two runs must have in common."""
        ganeti = {name: (known["primary"], known["up"], self.rig.content(name)) for name, known in self.rig.ganeti.data.items()}
        found = datasets(self.node.fake.state())
        for name, dataset in found.items():
            del dataset["mounted"]
            if "/.trash/" in name:
                for key in ("snapshots", "kept"):  # there passes mean nothing, of which an interrupted move takes more
                    dataset[key] = {short: value for short, value in dataset[key].items() if not short.startswith(PASS)}
                dataset["marks"].pop(MOVE, None)  # which a restore forgets, as what an entry was to become
            dataset["marks"] = {key: WHEN.sub("WHEN", value) for key, value in dataset["marks"].items()}
        return {
            "ganeti": ganeti,
            "devices": {name: knot.loop.sizes() for name, knot in self.rig.knots.items()},
            "datasets": {WHEN.sub("WHEN", name): dataset for name, dataset in found.items()},
            "count": len(found),
        }


class TravelZfs(SurveyedZfs):
    """One node's ZFS, where the points are those of the whole pool."""

    def __init__(self, root: Root, rig: TravelRig) -> None:
        self.whole = cast("PoolZfs", rig.node.fake)
        super().__init__(root, rig.survey)

    @property
    def reaper(self) -> Reaper:
        return self.whole.reaper

    @reaper.setter
    def reaper(self, _own: Reaper) -> None:
        """It has none of its own."""

    def _mortal(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def changes(*arguments: Any, **options: Any) -> Any:
            self.survey.forget()
            return method(*arguments, **options)

        return pointed(self, changes)


class TravelStreams(RealStreams):
    @contextlib.contextmanager
    def _changing(self) -> Any:
        self.zfs.reaper.point()
        self.zfs.survey.forget()
        yield


class TravelLoop(FakeLoop):
    """Devices in memory, where the points are those of the whole pool."""

    def __init__(self, zfs: TravelZfs) -> None:
        super().__init__(zfs.reaper)
        for name in ("attach", "detach", "grow"):
            setattr(self, name, pointed(zfs, getattr(self, name)))


class TravelKnot(RealKnot):
    def __init__(self, rig: Rig, name: str, seed: int) -> None:
        super().__init__(rig, name, seed)
        self.loop = TravelLoop(cast("TravelZfs", self.fake))
        self.volumes.devices = self.loop

    def make_root(self, rig: Rig, name: str, seed: int) -> tuple[Root, FakeZfs]:  # noqa: ARG002 - the pool numbers everything
        assert isinstance(rig, TravelRig)
        root = Root(f"{rig.top}/{name}", f"{rig.directory}/{name}")
        zfs = TravelZfs(root, rig)
        zfs.create(root.name, {"mountpoint": root.path}, {CLUSTER: CLUSTER_NAME})
        zfs.mount(root.name, root.path)
        return root, cast("FakeZfs", zfs)

    def make_streams(self, fake: FakeZfs) -> Wired:
        return TravelStreams(cast("SurveyedZfs", fake))


class TravelRig(RealRig):
    kind = TravelKnot

    def __init__(self, place: Path, node: Node) -> None:
        self.node = node
        super().__init__(place, node.root.name, node.root.path)


def runs(kind: str, bench: Travels) -> None:
    bench.rig.ganeti.add("web1", kind, "node1", DISKS[kind])


def move(bench: Travels) -> None:
    with contextlib.suppress(Refused):  # it is there already
        go(bench.rig)


def has_image(bench: Travels) -> None:
    bench.rig.knots["node1"].images.make(IMAGE, "file:/x", holding(GOLD))


def push(bench: Travels) -> None:
    here = bench.rig.knots["node1"]
    image = here.images.must(IMAGE)
    result = transfer.push(here, ["node2"], image.dataset, GOLDEN, "image", IMAGE, marks=image.provenance)["node2"]
    if isinstance(result, ZfsGanetiError):
        raise result


def _operation(before: Callable[[Travels], object], does: Callable[[Travels], object]) -> Operation:
    return Operation(before, does, Travels, leave=Travels.leave, inherit=Travels.inherit, tells=Travels.tells)


OPERATIONS = {
    "move of files": _operation(partial(runs, "file"), move),
    "move of volumes": _operation(partial(runs, "ext"), move),
    "push of an image": _operation(has_image, push),
}
