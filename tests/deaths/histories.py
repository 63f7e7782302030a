"""A bench for snapshots and for going back to one, and what is done with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.deaths.operation import Operation
from tests.fakeloop import FakeLoop
from tests.fakestreams import FakeStreams
from tests.fakezfs import FakeZfs
from tests.node import CLUSTER_NAME, Node
from zfsganeti.answer import VERBS
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER
from zfsganeti.errors import Missing, Refused
from zfsganeti.here import Here
from zfsganeti.rollback_plan import unfinished
from zfsganeti.volumes import Volumes

SIZE = 8 << 10  # bytes of a disk: the fake reads them all, again and again
DISK0, DISK1 = (f"0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c1{number}.ext.disk0" for number in (1, 2))
RECORDED = {"name": "web1", "uuid": "u1", "disks": [{}, {}], "private": []}


class Bench(Here):
    """A node with the root zfs/vm and the datastore ssd, an instance web1 of files and ext1 of two volumes; it answers verbs."""

    instance: dict[str, Any]  # that an operation is about, as it is asked about

    def __init__(self, place: Path, node: Node | None = None, *, ssd: str = "zfs/fast", **settings: Any) -> None:
        super().__init__(lambda: VERBS)
        place.mkdir(exist_ok=True)
        fake = node.fake if node is not None else FakeZfs(f"{place}/pool")
        if not ssd.startswith("zfs/"):
            fake.foreign(ssd.split("/")[0])
        for name in ("zfs/vm", ssd) if node is None else (ssd,):
            fake.foreign(name, {CLUSTER: CLUSTER_NAME}, mountpoint=f"{place}/{name.rsplit('/', 1)[1]}")
            fake.mount(name, f"{place}/{name.rsplit('/', 1)[1]}")
        known: dict[str, Any] = {
            "zfs": fake,
            "streams": node.streams if node is not None else FakeStreams(fake),
            "node": "node1",
            "config": Config(**{"busy_seconds": 0, "datastores": {"ssd": ssd}, **settings}),
            "ssconf": SimpleNamespace(cluster=CLUSTER_NAME, storage_directory=f"{place}/vm", nodes=["node1"], offline_nodes=[]),
        }
        self.__dict__.update(known)
        self.fake, self.loop = fake, node.loop if node is not None else FakeLoop(fake.reaper)
        for each in self.places():
            each.store.now = lambda: float(fake.clock)
            each.__dict__["volumes"] = Volumes(each.store, self.loop)

    # what there is

    def has_files(self) -> dict[str, Any]:
        """web1 has two disk files; return how it is asked about."""
        self.store.admit("web1", [])
        for number in (0, 1):
            Path(self.store.home("web1"), f"disk{number}").write_bytes(b"first")
        disks = [{"volume": "", "file": f"disk{number}", "size": SIZE} for number in (0, 1)]
        return {"instance": "web1", "disks": disks}

    def has_volumes(self) -> dict[str, Any]:
        """ext1 has two volumes, which are devices as those of a running instance; return how it is asked about."""
        for volume, datastore in ((DISK0, ""), (DISK1, "ssd")):
            volumes = self.at(datastore).volumes
            volumes.create(volume, SIZE, {"recordsize": 16384})
            volumes.set_instance(volume, "ext1")
        self.write("first")
        return {"instance": "ext1", "disks": [{"volume": volume, "file": volume, "size": SIZE} for volume in (DISK0, DISK1)]}

    def disks(self) -> list[str]:
        """The paths of all disks' files."""
        paths = [self.at(datastore).volumes.disk(volume) for volume, datastore in ((DISK0, ""), (DISK1, "ssd"))]
        paths += [f"{self.store.home('web1')}/disk{number}" for number in (0, 1)]
        return [path for path in paths if Path(path).exists()]

    def write(self, text: str) -> None:
        """Every disk holds this text, and ends with it."""
        for path in self.disks():
            with open(path, "r+b") as disk:
                disk.write(text.encode())

    def reads(self) -> list[str]:
        return [Path(path).read_bytes().rstrip(b"\0").decode() for path in self.disks()]

    def stop(self) -> None:
        for volume, datastore in ((DISK0, ""), (DISK1, "ssd")):
            self.at(datastore).volumes.detach(volume)

    def snapshots(self, name: str) -> list[str]:
        return [full.split("@")[1] for full, _created, _used in self.fake.snapshots(name, depth=1)]

    def ask(self, verb: str, **request: Any) -> Any:
        """Return a verb's answer, as this node gives it to itself."""
        return self.call("node1", verb, **request)


def names_of(instance: dict[str, Any]) -> list[str]:
    return ["zfs/vm/web1"] if instance["instance"] == "web1" else [f"zfs/vm/{DISK0}", f"zfs/fast/{DISK1}"]


def with_a_past(bench: Bench, kind: str) -> dict[str, Any]:
    """An instance that is stopped now: first, @gnt-one, second, @gnt-two, @autosnap_daily, third."""
    instance: dict[str, Any] = bench.has_files() if kind == "files" else bench.has_volumes()
    bench.fake.set(names_of(instance)[0], {"org.example:backup": "yes", "refreservation": str(2 * SIZE)})
    for text, short in (("second", "gnt-one"), ("third!", "gnt-two")):
        bench.fake.snapshot([f"{name}@{short}" for name in names_of(instance)])
        bench.write(text)
    bench.fake.snapshot([f"{names_of(instance)[-1]}@autosnap_daily"])
    bench.stop()
    return instance


def back(bench: Bench, instance: dict[str, Any], snapshot: str = "one", **more: Any) -> Any:
    asked: dict[str, Any] = {"snapshot": snapshot, "record": RECORDED, **more, **instance}
    if more.get("discard"):
        asked["newer"] = bench.ask("rollback-plan", **asked)["newer"]
    done = bench.ask("rollback", **asked)
    return back(bench, instance, snapshot, **more) if done["again"] else done


def has_files(bench: Bench) -> None:
    bench.instance = bench.has_files()


def has_volumes(bench: Bench) -> None:
    bench.instance = bench.has_volumes()


def past_of_files(bench: Bench) -> None:
    bench.instance = with_a_past(bench, "files")


def past_of_volumes(bench: Bench) -> None:
    bench.instance = with_a_past(bench, "volumes")


def take(bench: Bench) -> None:
    with contextlib.suppress(Refused):  # it exists already
        bench.ask("snapshot-create", snapshot="now", comment="before", **bench.instance)


def delete(bench: Bench) -> None:
    with contextlib.suppress(Missing):  # it is deleted already
        bench.ask("snapshot-delete", snapshot="two", **bench.instance)


def go_back(bench: Bench, **how: Any) -> None:
    """The instance is back, and goes no second time."""
    if unfinished(bench) or heads(bench) != {b"first"}:
        back(bench, bench.instance, **how)


def heads(bench: Bench) -> set[bytes]:
    return {content.rstrip(b"\0") for name in names_of(bench.instance) for content in bench.fake.files(name).values()}


def _operation(before: Callable[[Bench], object], does: Callable[[Bench], object], **how: Any) -> Operation:
    return Operation(before, does, lambda node: Bench(Path(node.place), node), places=False, **how)


OPERATIONS = {
    "snapshot of files": _operation(has_files, take),
    "snapshot of volumes": _operation(has_volumes, take),
    "deletion of a snapshot of files": _operation(past_of_files, delete, destroys=True),
    "deletion of a snapshot of volumes": _operation(past_of_volumes, delete, destroys=True),
    "rollback of files": _operation(past_of_files, go_back),
    "rollback of volumes": _operation(past_of_volumes, go_back),
    "rollback of files that discards": _operation(past_of_files, partial(go_back, discard=True), destroys=True),
    "rollback of volumes that discards": _operation(past_of_volumes, partial(go_back, discard=True), destroys=True),
}
