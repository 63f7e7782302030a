"""A cluster's life as a state machine: images are made, pushed and lent, disks are clones of them, become independent, move and go,
nodes die half-way and boot; and at every moment each image and each disk is where it should be, whole, and nowhere else.

`tests/life.py` does the same with the instances of one node.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.killing import dies
from tests.node import DAY, place_in_memory
from tests.rig import NODES, Knot, Rig, go, make_rig
from zfsganeti import disks, retreat, snapshots, transfer
from zfsganeti.datasets import DISK, IMAGES, MOVE
from zfsganeti.errors import Refused, Unavailable, ZfsGanetiError
from zfsganeti.image import FORMAT, GOLDEN
from zfsganeti.names import means
from zfsganeti.route import LEFT
from zfsganeti.trash import parse_entry

nodes = st.sampled_from(NODES)
image_names = st.sampled_from(["deb:1", "deb:2", "data"])
GUESTS = ("web1", "db1", "mail1")
guest_names = st.sampled_from(GUESTS)
deaths = st.one_of(st.just(0), st.integers(1, 9), st.integers(1, 50))  # at which point a process dies; 0 lets it live
uses = st.sampled_from(["", "clone", "clone", "copy", "persistent", "persistent"])  # of an image; '' wants none
wishes = st.sampled_from(["deb", "deb:1", "data"])
long_deaths = st.one_of(st.just(0), st.integers(1, 60), st.integers(1, 60))
boots = rarely = st.sampled_from([False, False, True])
KIB = 1 << 10
IMAGE_SIZE, SIZE = 4 * KIB, 8 * KIB
sizes = st.sampled_from([SIZE, 2 * SIZE])
MOST_IMAGES = 5  # at most, of those that are made
KEPT_DAYS = 7  # in the trash
Files = dict[str, bytes]


@dataclass(eq=False)
class Gold:
    """What an image on a node must be."""

    name: str
    content: bytes
    guid: str
    imported: int
    snaps: dict[str, Files] = field(default_factory=dict)  # that somebody took while it was lent
    lendable: bool = False
    retired: bool = False
    deleted: int = 0
    at_once: bool = False
    with_snapshots: bool = False

    @property
    def usable(self) -> bool:
        return not self.retired and not self.deleted


@dataclass(eq=False)
class Disk:
    """What a dataset must hold, in its files and in the snapshots that somebody took, and which image it is a clone of, or is itself."""

    files: Files
    snaps: dict[str, Files] = field(default_factory=dict)
    origin: Gold | None = None
    lent: Gold | None = None
    wanted: bool = False  # to be independent

    def copy(self) -> Disk:
        return Disk(dict(self.files), dict(self.snaps), self.origin, None, self.wanted)


@dataclass(eq=False)
class Guest:
    """An instance with one dataset: a volume, or files."""

    name: str
    kind: str
    node: str
    short: str
    disk: Disk
    ahead: str = ""  # the node that most of it was sent to already
    ahead_of: Gold | None = None  # what that is a clone of there


def always(look: Callable[[Journey], None]) -> Callable[[Journey], None]:
    """An invariant, which only looks."""

    @wraps(look)
    def call(journey: Journey) -> None:
        with journey.rig.looking():
            look(journey)

    marked: Callable[[Journey], None] = invariant()(call)
    return marked


class Journey(RuleBasedStateMachine):
    """The model is what Ganeti and the administrator believe; the nodes are ours."""

    def __init__(self) -> None:
        super().__init__()
        self.place = place_in_memory()
        self.patch = pytest.MonkeyPatch()
        self.rig = self.make_rig()
        self.images: dict[tuple[str, str], Gold] = {}
        self.halves: set[tuple[str, str]] = set()  # that nobody has gone on with
        self.guests: dict[str, Guest] = {}
        self.trash: dict[tuple[str, str], Disk] = {}
        self.copies: set[tuple[str, str]] = set()  # of what was removed before it was independent
        self.kept_until = 0  # a clock that has jumped ahead makes nothing expire before
        self.count = 0

    def make_rig(self) -> Rig:
        return make_rig(self.place, self.patch)

    def teardown(self) -> None:
        self.patch.undo()
        try:
            self.rig.clean()
        finally:
            shutil.rmtree(self.place)

    # helpers

    def next(self) -> int:
        self.count += 1
        for knot in self.rig.knots.values():
            knot.fake.clock += 1
        return self.count

    def content(self) -> bytes:
        return f"content {self.next()}".encode()

    @property
    def now(self) -> int:
        return self.rig.master.fake.clock

    def knot(self, node: str) -> Knot:
        return self.rig.knots[node]

    def known(self, guest: Guest) -> dict[str, Any]:
        """Return what Ganeti knows of an instance."""
        return self.rig.ganeti.data[guest.name]

    def run(self, node: str, operation: Callable[[], object], death: int, boot: bool, done: Callable[[], bool] = lambda: False) -> None:
        """The operation is done, perhaps dying once at a point of that node and done again unless it was `done`, perhaps after a boot."""
        if not death:
            operation()
        elif dies(self.knot(node).fake.reaper, death, operation):
            if boot:
                self.boot_up(node)
            if not done():
                operation()

    def boot_up(self, node: str) -> None:
        """The node was off; Ganeti's watcher has started what ran there."""
        self.knot(node).fake.boot()
        self.knot(node).loop.attached.clear()
        for name, known in self.rig.ganeti.data.items():
            if known["primary"] == node and known["up"]:
                known["up"] = False
                self.gnt("startup", name)

    def gnt(self, verb: str, name: str) -> None:
        self.rig.ganeti.gnt("gnt-instance", verb, name)

    @staticmethod
    def refused(operation: Callable[[], object]) -> None:
        with pytest.raises(ZfsGanetiError):
            operation()

    def upkeep(self, node: str) -> None:
        self.knot(node).trash.give_up()
        self.knot(node).images.sweep()
        self.knot(node).independent.finish_all()

    def lent(self, node: str) -> dict[str, Guest]:
        return {guest.disk.lent.name: guest for guest in self.guests.values() if guest.node == node and guest.disk.lent is not None}

    def is_taken(self, node: str, name: str) -> bool:
        return (node, name) in self.images or name in self.lent(node)

    def clones(self, gold: Gold) -> list[str]:
        """Return the names, below the root, of what is a clone of an image."""
        found = [guest.short for guest in self.guests.values() if guest.disk.origin is gold]
        found += [f".moving/{guest.short}" for guest in self.guests.values() if guest.ahead_of is gold]
        return sorted([*found, *(f".trash/{entry}" for (_where, entry), disk in self.trash.items() if disk.origin is gold)])

    def meant(self, node: str, wanted: str) -> Gold | None:
        """Return the image that a disk asks for."""
        found = [gold for (where, name), gold in self.images.items() if where == node and gold.usable and means(wanted, name)]
        return max(found, key=lambda gold: (gold.imported, gold.name)) if found else None

    def origin(self, node: str, short: str) -> Gold | None:
        """Return which image a dataset really is a clone of."""
        knot = self.knot(node)
        dataset = knot.fake.get(knot.full(short))
        assert dataset is not None, short
        if not dataset.origin:
            return None
        prefix, _slash, name = dataset.origin.rpartition("/")
        assert (prefix, name.partition("@")[2]) == (knot.full(IMAGES), GOLDEN)
        return self.images[node, name.partition("@")[0]]

    def some_image(self, data: st.DataObject) -> tuple[str, Gold]:
        node, name = data.draw(st.sampled_from(sorted(self.images)))
        return node, self.images[node, name]

    def some_guest(self, data: st.DataObject, fits: Callable[[Guest], bool] = lambda _guest: True) -> Guest:
        found = [name for name, guest in sorted(self.guests.items()) if fits(guest)]
        assume(found)
        return self.guests[data.draw(st.sampled_from(found))]

    def is_up(self, guest: Guest) -> bool:
        return bool(self.known(guest)["up"])

    def entries(self, node: str) -> set[str]:
        return {entry.entry for entry in self.knot(node).trash.entries()}

    def put(self, node: str, short: str, disk: Disk) -> None:
        """What is new in the trash is that disk."""
        found = self.entries(node) - {entry for where, entry in self.trash if where == node}
        assert len(found) == 1, found
        for entry in found:
            assert parse_entry(entry)[0] == short
            self.trash[node, entry] = disk

    # images

    def make(self, node: str, name: str, content: bytes) -> Callable[[], object]:
        def fill(home: str) -> Mapping[str, str]:
            Path(home, DISK).write_bytes(content.ljust(IMAGE_SIZE, b"\0"))
            return {FORMAT: "raw"}

        return lambda: self.knot(node).images.make(name, "file:/x", fill)

    def appears(self, node: str, name: str, content: bytes) -> None:
        image = self.knot(node).images.must(name)
        self.images[node, name] = Gold(name, content, image.guid, image.imported)
        self.halves.discard((node, name))

    @initialize(node=nodes, use=st.sampled_from(["clone", "clone", "copy", "persistent"]), everywhere=st.booleans())
    def begin(self, node: str, use: str, everywhere: bool) -> None:
        """An image, on one node or on all, and an instance with a disk of it."""
        for each in NODES:
            self.upkeep(each)
        self.make_an_image(node, "deb:1", 0, False)
        for peer in NODES if everywhere else ():
            if peer != node:
                self.pushes(node, peer, "deb:1")
                self.appears(peer, "deb:1", self.images[node, "deb:1"].content)
        if use == "persistent":
            self.knot(node).images.set_lendable("deb:1", True)
            self.images[node, "deb:1"].lendable = True
        self.add("web1", node, use, "deb", SIZE, 0, False, True)

    @precondition(lambda self: len(self.images) < MOST_IMAGES)
    @rule(node=nodes, name=image_names, death=deaths, boot=boots)
    def make_an_image(self, node: str, name: str, death: int, boot: bool) -> None:
        content = self.content()
        make = self.make(node, name, content)
        if self.is_taken(node, name):
            self.refused(make)
            return
        self.run(node, make, death, boot, lambda: self.knot(node).images.find(name) is not None)
        self.appears(node, name, content.ljust(IMAGE_SIZE, b"\0"))

    @rule(node=nodes, name=image_names, death=st.integers(1, 40), boot=boots)
    def make_an_image_half(self, node: str, name: str, death: int, boot: bool) -> None:
        """Nobody does again what has died."""
        assume(not self.is_taken(node, name))
        content = self.content()
        dies(self.knot(node).fake.reaper, death, self.make(node, name, content))
        if boot:
            self.boot_up(node)
        if self.knot(node).images.find(name) is not None:
            self.appears(node, name, content.ljust(IMAGE_SIZE, b"\0"))
        else:
            self.halves.add((node, name))

    @precondition(lambda self: self.guests and len(self.images) < MOST_IMAGES)
    @rule(data=st.data(), name=image_names, death=deaths, boot=boots)
    def save_a_disk_as_an_image(self, data: st.DataObject, name: str, death: int, boot: bool) -> None:
        guest = self.some_guest(data)
        file = min(guest.disk.files)
        volume = guest.short if guest.kind == "ext" else ""
        request = {"instance": guest.name, "disk": 0, "volume": volume, "file": "" if volume else file}

        def save() -> None:
            self.next()  # a snapshot is called after the second in which it is taken
            disks.Disk(self.knot(guest.node), request).save(name)

        if self.is_taken(guest.node, name):
            self.refused(save)
            return
        self.run(guest.node, save, death, boot, lambda: self.knot(guest.node).images.find(name) is not None)
        self.appears(guest.node, name, guest.disk.files[file])

    @precondition(lambda self: self.images)
    @rule(data=st.data(), death=deaths, boot=boots, cut=st.sampled_from(["", "", "early", "late"]), goes_on=st.booleans())
    def push(self, data: st.DataObject, death: int, boot: bool, cut: str, goes_on: bool) -> None:
        node, gold = self.some_image(data)
        others = [peer for peer in NODES if peer != node]
        lacking = [peer for peer in others if not self.is_taken(peer, gold.name)]
        peer = data.draw(st.sampled_from([*lacking, *lacking, *others]))
        there, net = self.images.get((peer, gold.name)), self.knot(node).net
        if self.is_taken(peer, gold.name):
            if there is not None and there.guid == gold.guid and there.usable:
                self.pushes(node, peer, gold.name)
            else:
                self.refused(lambda: self.pushes(node, peer, gold.name))
            return
        if cut:
            self.halves.add((peer, gold.name))
            net.cut = [self.rig.cuts[cut]]
            with pytest.raises(Unavailable):
                self.pushes(node, peer, gold.name)
            if not goes_on:
                return
        self.run(peer, lambda: self.pushes(node, peer, gold.name), death, boot)
        self.appears(peer, gold.name, gold.content)
        found = self.images[peer, gold.name]
        assert (found.guid, found.imported) == (gold.guid, gold.imported)

    def pushes(self, node: str, peer: str, name: str) -> None:
        here = self.knot(node)
        image = here.images.must(name)
        result = transfer.push(here, [peer], image.dataset, GOLDEN, "image", name, marks=image.provenance)[peer]
        if isinstance(result, ZfsGanetiError):
            raise result

    @precondition(lambda self: self.images)
    @rule(data=st.data(), what=st.sampled_from(["lend", "lend nobody", "retire", "retire", "restore", "restore"]), death=deaths, boot=boots)
    def say_what_an_image_is_for(self, data: st.DataObject, what: str, death: int, boot: bool) -> None:
        node, gold = self.some_image(data)
        images, name = self.knot(node).images, gold.name
        if what == "retire":
            self.run(node, lambda: images.retire(name), death, boot)
            gold.retired = True
        elif what == "restore":
            self.run(node, lambda: images.restore(name), death, boot)
            gold.retired = gold.at_once = gold.with_snapshots = False
            gold.deleted = 0
        else:
            gold.lendable = what == "lend"
            self.run(node, lambda: images.set_lendable(name, gold.lendable), death, boot)

    @precondition(lambda self: self.images)
    @rule(data=st.data(), new=image_names, death=deaths, boot=boots)
    def rename_an_image(self, data: st.DataObject, new: str, death: int, boot: bool) -> None:
        node, gold = self.some_image(data)
        images, old = self.knot(node).images, gold.name
        if self.is_taken(node, new):
            self.refused(lambda: images.rename(old, new))
            return
        self.run(node, lambda: images.rename(old, new), death, boot, lambda: images.find(old) is None)
        self.images[node, new] = self.images.pop((node, old))
        gold.name = new

    @precondition(lambda self: self.images)
    @rule(data=st.data(), now=st.booleans(), with_snapshots=st.booleans(), death=deaths, boot=boots)
    def delete(self, data: st.DataObject, now: bool, with_snapshots: bool, death: int, boot: bool) -> None:
        node, gold = self.some_image(data)
        images, name = self.knot(node).images, gold.name
        self.next()

        def does() -> object:
            return images.delete(name, now=now, with_snapshots=with_snapshots)

        if gold.snaps and not (with_snapshots or gold.with_snapshots):
            self.refused(does)
            return
        gold.at_once, gold.with_snapshots = gold.at_once or now, gold.with_snapshots or with_snapshots
        gold.deleted = gold.deleted or self.now
        self.run(node, does, death, boot, lambda: images.find(name) is None)
        if gold.at_once and not self.clones(gold):
            del self.images[node, name]

    # instances

    @precondition(lambda self: len(self.guests) < len(GUESTS))
    @rule(name=guest_names, node=nodes, use=uses, wanted=wishes, size=sizes, death=deaths, boot=boots, keeps=st.booleans())
    def add(self, name: str, node: str, use: str, wanted: str, size: int, death: int, boot: bool, keeps: bool) -> None:
        """A disk is made, empty or of an image; what has died is done again, or removed by Ganeti."""
        assume(name not in self.guests)
        volumes, volume = self.knot(node).volumes, f"u{self.next()}.ext.disk0"
        gold = self.meant(node, wanted) if use else None
        parameters = {"image": wanted, "use": use} if use else {}

        def create() -> object:
            return volumes.create(volume, size, parameters)

        if use and (gold is None or len(gold.content) > size or (use == "persistent" and (not gold.lendable or self.clones(gold)))):
            self.refused(create)
            return
        if death and not keeps and dies(self.knot(node).fake.reaper, death, create):
            self.remove_half_made(node, volume, boot, gold if use == "persistent" else None)
            return
        self.run(node, create, death if keeps else 0, boot)
        self.run(node, lambda: volumes.set_instance(volume, name), 0, False)
        volumes.detach(volume)
        disk = Disk({DISK: (gold.content if gold else b"").ljust(size, b"\0")}, origin=gold, wanted=use == "copy")
        if gold is not None and use == "persistent":
            del self.images[node, gold.name]
            disk.origin, disk.lent, disk.snaps = None, gold, gold.snaps
        self.joins(Guest(name, "ext", node, volume, disk))

    def joins(self, guest: Guest) -> None:
        self.guests[guest.name] = guest
        files = [guest.short] if guest.kind == "ext" else sorted(guest.disk.files)
        self.rig.ganeti.data[guest.name] = {"kind": guest.kind, "primary": guest.node, "disks": files, "up": False}

    def remove_half_made(self, node: str, volume: str, boot: bool, lent: Gold | None) -> None:
        """Ganeti gives up the disk; an image that was to be lent is as it was, but for its size and for when it was crowned."""
        if boot:
            self.boot_up(node)
        self.knot(node).volumes.remove(volume)
        if lent is not None:
            image = self.knot(node).images.must(lent.name)
            content = self.knot(node).fake.files(image.dataset)[DISK]
            assert content.rstrip(b"\0") == lent.content.rstrip(b"\0")
            assert len(content) >= len(lent.content)
            lent.content, lent.guid = content, image.guid

    @precondition(lambda self: len(self.guests) < len(GUESTS))
    @rule(name=guest_names, node=nodes, disks=st.integers(1, 2), death=deaths, boot=boots)
    def add_with_files(self, name: str, node: str, disks: int, death: int, boot: bool) -> None:
        assume(name not in self.guests)
        self.run(node, lambda: self.knot(node).store.admit(name, [], fresh=True), death, boot)
        files = {f"{self.next()}.file.disk{index}": self.content().ljust(SIZE, b"\0") for index in range(disks)}
        self.joins(Guest(name, "file", node, name, Disk(files)))
        for file, content in files.items():
            self.rig.ganeti.write(name, file, content)

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), death=deaths, boot=boots)
    def start_or_stop(self, data: st.DataObject, death: int, boot: bool) -> None:
        guest = self.some_guest(data)
        verb = "shutdown" if self.is_up(guest) else "startup"
        self.run(guest.node, lambda: self.gnt(verb, guest.name), death, boot)

    @precondition(lambda self: any(self.is_up(guest) for guest in self.guests.values()))
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        self.writes(self.some_guest(data, self.is_up))

    def writes(self, guest: Guest) -> None:
        """The guest writes, which its node must let it."""
        file, content = min(guest.disk.files), self.content()
        guest.disk.files[file] = content + guest.disk.files[file][len(content) :]
        self.rig.ganeti.write(guest.name, guest.short if guest.kind == "ext" else file, guest.disk.files[file])

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), death=deaths, boot=boots)
    def grow(self, data: st.DataObject, death: int, boot: bool) -> None:
        guest = self.some_guest(data, lambda guest: guest.kind == "ext")
        size = len(guest.disk.files[DISK]) + 4 * KIB
        self.run(guest.node, lambda: self.knot(guest.node).volumes.grow(guest.short, size), death, boot)
        guest.disk.files[DISK] = guest.disk.files[DISK].ljust(size, b"\0")

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), death=deaths, boot=boots)
    def snapshot(self, data: st.DataObject, death: int, boot: bool) -> None:
        guest, short = self.some_guest(data), f"{snapshots.OURS}{self.next()}"
        request = {**self.asked(guest), "snapshot": short}
        knot = self.knot(guest.node)
        done = partial(self.has, guest, short)
        self.run(guest.node, lambda: snapshots.create(knot, request), death, boot, done)
        guest.disk.snaps[short] = dict(guest.disk.files)

    @precondition(lambda self: any(guest.disk.snaps and not guest.ahead for guest in self.guests.values()))
    @rule(data=st.data(), death=deaths, boot=boots)
    def delete_a_snapshot(self, data: st.DataObject, death: int, boot: bool) -> None:
        guest = self.some_guest(data, lambda guest: bool(guest.disk.snaps) and not guest.ahead)  # what was sent ahead keeps it
        short = data.draw(st.sampled_from(sorted(guest.disk.snaps)))
        request = {**self.asked(guest), "snapshot": short}
        knot = self.knot(guest.node)
        done = partial(self.lacks, guest, short)
        self.run(guest.node, lambda: snapshots.delete(knot, request), death, boot, done)
        del guest.disk.snaps[short]

    def asked(self, guest: Guest) -> dict[str, Any]:
        return snapshots.asked(self.rig.ganeti.instances()[guest.name])

    def has(self, guest: Guest, short: str) -> bool:
        return short in self.shorts(guest.node, guest.short)

    def lacks(self, guest: Guest, short: str) -> bool:
        return not self.has(guest, short)

    def shorts(self, node: str, short: str) -> list[str]:
        """Return the snapshots of a dataset that somebody took."""
        knot = self.knot(node)
        found = [name.partition("@")[2] for name, _created, _used in knot.fake.snapshots(knot.full(short), depth=1)]
        return [name for name in found if name.startswith(snapshots.OURS)]

    def snaps(self, node: str, short: str) -> dict[str, Files]:
        """Return what these snapshots hold."""
        knot = self.knot(node)
        return {name: knot.fake.snapshot_files(f"{knot.full(short)}@{name}") for name in self.shorts(node, short)}

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), death=deaths, boot=boots)
    def remove(self, data: st.DataObject, death: int, boot: bool) -> None:
        guest = self.some_guest(data, lambda guest: not guest.ahead)
        self.next()
        knot = self.knot(guest.node)
        self.gnt("shutdown", guest.name)
        if guest.kind == "ext":
            self.run(guest.node, lambda: knot.volumes.remove(guest.short), death, boot)
        else:
            self.remove_files(guest, death, boot)
        if guest.disk.wanted:
            self.copies.add((guest.node, guest.short))
        del self.guests[guest.name], self.rig.ganeti.data[guest.name]
        if guest.disk.lent is not None:
            self.comes_back(guest.node, guest.disk.lent, guest.disk)
        else:
            self.put(guest.node, guest.short, guest.disk)

    def remove_files(self, guest: Guest, death: int, boot: bool) -> None:
        knot = self.knot(guest.node)

        def aside() -> None:
            knot.store.put_aside(guest.name, "remove", sorted(guest.disk.files), {"name": guest.name})

        self.run(guest.node, aside, death, boot)
        aside()  # a boot in between has stopped Ganeti's job as well
        shutil.rmtree(knot.store.home(guest.name))
        self.run(guest.node, lambda: knot.trash.discard(guest.name), death, boot)

    def comes_back(self, node: str, gold: Gold, disk: Disk) -> None:
        """An image that was lent is what its instance has left."""
        gold.guid, gold.content, gold.snaps = self.knot(node).images.must(gold.name).guid, disk.files[DISK], disk.snaps
        self.images[node, gold.name] = gold

    @precondition(lambda self: self.trash)
    @rule(data=st.data(), name=guest_names, death=deaths, boot=boots)
    def restore(self, data: st.DataObject, name: str, death: int, boot: bool) -> None:
        found = [(node, entry) for (node, entry), disk in sorted(self.trash.items()) if list(disk.files) == [DISK]]
        assume(found and name not in self.guests)
        node, entry = data.draw(st.sampled_from(found))
        knot, disk, token, volume = self.knot(node), self.trash.pop((node, entry)), f"{entry}@secret", f"u{self.next()}.ext.disk0"
        knot.trash.reserve(entry, token)
        self.run(node, lambda: knot.volumes.create(volume, len(disk.files[DISK]), {"trash": token}), death, boot)
        knot.volumes.set_instance(volume, name)
        knot.volumes.settle(volume)
        knot.volumes.detach(volume)
        self.joins(Guest(name, "ext", node, volume, disk))

    # independence

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), death=deaths, boot=boots)
    def want_independence(self, data: st.DataObject, death: int, boot: bool) -> None:
        guest = self.some_guest(data)
        if guest.disk.origin is not None and guest.ahead:
            self.refused(lambda: self.knot(guest.node).independent.want(guest.short))
            return
        self.run(guest.node, lambda: self.knot(guest.node).independent.want(guest.short), death, boot)
        guest.disk.wanted = guest.disk.origin is not None

    @precondition(lambda self: any(guest.disk.wanted for guest in self.guests.values()))
    @rule(data=st.data(), runs=st.booleans(), death=long_deaths, boot=boots, starts=st.booleans())
    def make_independent(self, data: st.DataObject, runs: bool, death: int, boot: bool, starts: bool) -> None:
        """What is stopped becomes independent, what runs is copied meanwhile; what it was is in the trash if it has snapshots.

        One instance may run at first, and when that has died.
        """
        guest = self.some_guest(data, lambda guest: guest.disk.wanted)
        node, work = guest.node, self.knot(guest.node).independent.work
        self.next()
        if runs:
            self.gnt("startup", guest.name)
            assert work()[guest.short]
            self.writes(guest)
            self.gnt("shutdown", guest.name)

        def again() -> bool:
            if starts and not self.is_up(guest):
                self.gnt("startup", guest.name)
                if self.origin(node, guest.short) is not None:  # or it would not be what is kept of what it was
                    self.writes(guest)
                self.gnt("shutdown", guest.name)
            return False

        self.run(node, work, death, boot, again)
        self.copies = {(where, short) for where, short in self.copies if where != node}
        self.became_independent(node)

    def became_independent(self, node: str) -> None:
        """What was stopped is no clone any more, and lacks the snapshots of what it has replaced."""
        done = [guest for guest in self.guests.values() if guest.node == node and guest.disk.wanted and not self.is_up(guest)]
        for guest in done:
            replaced = guest.disk.copy()
            guest.disk.origin, guest.disk.wanted, guest.disk.snaps = None, False, {}
            found = [entry for entry in self.entries(node) if entry.startswith(f"{guest.short}:") and (node, entry) not in self.trash]
            assert len(found) == 1 or not (replaced.snaps or found)
            self.trash.update({(node, entry): replaced for entry in found})

    # moves

    def some_way(self, data: st.DataObject) -> tuple[Guest, str]:
        """Return an instance and another node; what has begun to move goes on."""
        guest = self.some_guest(data)
        others = [node for node in NODES if node != guest.node]
        return guest, data.draw(st.sampled_from([*others, guest.ahead] if guest.ahead else others))

    def can_go(self, guest: Guest, to: str, full: bool) -> bool:
        origin = guest.disk.origin
        known = origin is None or full or any(node == to and gold.guid == origin.guid for (node, _), gold in self.images.items())
        bound = guest.disk.lent is not None or guest.disk.wanted
        return not bound and known and guest.ahead in ("", to)

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), full=rarely, death=long_deaths, far=st.booleans(), boot=boots, back=st.booleans(), alone=st.booleans())
    def move(self, data: st.DataObject, full: bool, death: int, far: bool, boot: bool, back: bool, alone: bool) -> None:
        guest, to = self.some_way(data)
        source, was_up = guest.node, self.is_up(guest)
        self.next()

        def travel() -> None:
            go(self.rig, to, guest.name, full=full)

        if not self.can_go(guest, to, full):
            self.refused(travel)
            full = True  # as the message says, where it is an image that is lacking
            if not self.can_go(guest, to, full):
                return
        dying, left = to if far else source, guest.disk.copy()
        if not death:
            travel()
        elif dies(self.knot(dying).fake.reaper, death, travel):
            if boot:
                self.boot_up(dying)
            if alone:
                self.starts_nowhere_else(guest)
                self.gnt("startup" if was_up else "shutdown", guest.name)
                left = guest.disk.copy() if self.known(guest)["primary"] == source else left
            self.ends(guest, travel, back)
        assert self.is_up(guest) is was_up
        if self.known(guest)["primary"] == to:
            self.lands(guest, to, full, left)
        else:
            assert back
            guest.ahead, guest.ahead_of = "", None

    def ends(self, guest: Guest, travel: Callable[[], None], back: bool) -> None:
        """A move whose mover has died is over, here or there."""
        if back:
            try:
                retreat.Back(self.rig.master, guest.name, lambda _text: None).run()
                return
            except Refused as error:
                assert "already" in str(error)
        try:
            travel()
        except Refused as error:
            assert "already" in str(error)

    def lands(self, guest: Guest, to: str, full: bool, left: Disk) -> None:
        """The instance lives on the node that it was to go to, and what is left on the other is in the trash there."""
        self.put(guest.node, guest.short, left)
        before, found, ahead = guest.disk.origin, self.origin(to, guest.short), guest.ahead_of
        assert found is None or (before is not None and found.guid == before.guid)
        assert (found is None) == (before is None or (full and not guest.ahead) or (bool(guest.ahead) and ahead is None))
        guest.disk.origin, guest.node, guest.ahead, guest.ahead_of = found, to, "", None

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), full=rarely, death=long_deaths, far=st.booleans(), boot=boots)
    def send_ahead(self, data: st.DataObject, full: bool, death: int, far: bool, boot: bool) -> None:
        guest, to = self.some_way(data)

        def travel() -> None:
            go(self.rig, to, guest.name, full=full, presync_only=True)

        if not self.can_go(guest, to, full):
            self.refused(travel)
            return
        self.run(to if far else guest.node, travel, death, boot)
        guest.ahead, guest.ahead_of = to, self.origin(to, f".moving/{guest.short}")

    @precondition(lambda self: any(guest.ahead for guest in self.guests.values()))
    @rule(data=st.data(), death=deaths, far=st.booleans(), boot=boots)
    def give_a_move_up(self, data: st.DataObject, death: int, far: bool, boot: bool) -> None:
        guest = self.some_guest(data, lambda guest: bool(guest.ahead))
        self.run(guest.ahead if far else guest.node, retreat.Back(self.rig.master, guest.name, lambda _text: None).run, death, boot)
        guest.ahead, guest.ahead_of = "", None

    @precondition(lambda self: any(not self.is_up(guest) for guest in self.guests.values()))
    @rule(data=st.data())
    def starts_on_one_node_alone(self, data: st.DataObject) -> None:
        self.starts_nowhere_else(self.some_guest(data, lambda guest: not self.is_up(guest)))

    def starts_nowhere_else(self, guest: Guest) -> None:
        """It has run on its primary and starts on no other node, also when Ganeti is told so; it is stopped afterwards."""
        primary = self.known(guest)["primary"]
        self.gnt("startup", guest.name)
        self.writes(guest)
        self.gnt("shutdown", guest.name)
        assert [node for node in NODES if node != primary and self.rig.starts_on(guest.name, node)] == []
        assert self.rig.starts_on(guest.name, primary)

    # time

    @precondition(lambda self: self.is_something_to_go())
    @rule(days=st.integers(1, 8), node=nodes, death=deaths, boot=boots)
    def days_pass(self, days: int, node: str, death: int, boot: bool) -> None:
        self.rig.catch_up()
        for passed in range(0, days * DAY, self.rig.stride):
            left = days * DAY - passed
            self.is_later(min(left, self.rig.stride), node, death if left <= self.rig.stride else 0, boot)

    @precondition(lambda self: self.is_something_to_go())
    @rule(node=nodes, death=deaths, boot=boots)
    def clocks_jump(self, node: str, death: int, boot: bool) -> None:
        """A clock that jumps ahead makes nothing go but what was to go at once."""
        self.rig.catch_up()
        self.kept_until = self.now + (100 + KEPT_DAYS) * DAY
        self.is_later(100 * DAY, node, death, boot)

    def is_later(self, seconds: int, node: str, death: int, boot: bool) -> None:
        """Every node has looked after itself since, one of them perhaps dying on that."""
        for each, knot in self.rig.knots.items():
            knot.fake.clock += seconds
            self.run(each, partial(self.upkeep, each), death if each == node else 0, boot)
        self.expires()

    def is_something_to_go(self) -> bool:
        return bool(self.trash or self.halves or any(gold.deleted for gold in self.images.values()))

    def expires(self) -> None:
        """What has been in the trash for long is not to be found any more, nor what was deleted and has no clones."""
        self.halves.clear()
        self.copies.clear()
        if self.kept_until <= self.now:
            old = [(where, entry) for where, entry in self.trash if parse_entry(entry)[1] + KEPT_DAYS * DAY <= self.now]
            for key in old:
                if not self.trash[key].snaps:
                    del self.trash[key]
        for (node, name), gold in list(self.images.items()):
            goes_at = gold.deleted if gold.at_once else max(gold.deleted + KEPT_DAYS * DAY, self.kept_until)
            if gold.deleted and goes_at <= self.now and not self.clones(gold):
                del self.images[node, name]

    @precondition(lambda self: any(self.is_up(guest) for guest in self.guests.values()))
    @rule(node=nodes)
    def boot(self, node: str) -> None:
        self.boot_up(node)

    # what always holds

    @staticmethod
    def names(knot: Knot) -> list[str]:
        """Return the names of all datasets below the root."""
        found = [name for name, _mountpoint in knot.fake.filesystems() if name.startswith(knot.full(""))]
        return [name.removeprefix(knot.full("")) for name in found]

    def holds(self, node: str, short: str, disk: Disk) -> None:
        """The dataset holds what it must, now and in the snapshots that somebody took, and is a clone of what it must be."""
        assert self.knot(node).files(short) == disk.files
        assert self.snaps(node, short) == disk.snaps
        assert self.origin(node, short) is disk.origin

    @always
    def every_disk_is_found_on_the_primary(self) -> None:
        for guest in self.guests.values():
            assert self.known(guest)["primary"] == guest.node
            self.holds(guest.node, guest.short, guest.disk)

    @always
    def no_node_has_anything_else_that_could_be_started(self) -> None:
        for node, knot in self.rig.knots.items():
            expected = sorted(guest.short for guest in self.guests.values() if guest.node == node)
            assert [name for name in self.names(knot) if not name.startswith(".")] == expected

    @always
    def what_was_removed_is_in_the_trash(self) -> None:
        for node in NODES:
            assert self.entries(node) == {entry for where, entry in self.trash if where == node}
        for (node, entry), disk in self.trash.items():
            self.holds(node, f".trash/{entry}", disk)

    @always
    def every_image_is_whole_and_there_are_no_others(self) -> None:
        for node, knot in self.rig.knots.items():
            found = {image.name: image for image in knot.images.all()}
            golds = {name: gold for (where, name), gold in self.images.items() if where == node}
            assert found.keys() == golds.keys()
            assert knot.images.lent() == {name: guest.name for name, guest in self.lent(node).items()}
            for name, gold in golds.items():
                image, short, properties = found[name], f".images/{name}", knot.fake.local(knot.full(f"{IMAGES}/{name}"))
                assert (image.guid, image.imported, image.size) == (gold.guid, gold.imported, len(gold.content))
                assert (image.lendable, image.retired, image.deleted) == (gold.lendable, not gold.usable, gold.deleted)
                assert sorted(clone.removeprefix(knot.full("")) for clone in image.clones) == self.clones(gold)
                assert knot.files(short) == knot.fake.snapshot_files(image.snapshot) == {DISK: gold.content}
                assert self.snaps(node, short) == gold.snaps
                assert (properties["readonly"], properties["canmount"]) == ("on", "noauto")

    @always
    def nothing_half_made_is_left_unless_it_may_be_gone_on_with(self) -> None:
        for node, knot in self.rig.knots.items():
            left = [name for name in self.names(knot) if name.count("/") and not name.startswith((".trash/", ".images/"))]
            allowed = [f".moving/{guest.short}" for guest in self.guests.values() if guest.ahead == node]
            allowed += [f".copies/{guest.short}" for guest in self.guests.values() if guest.node == node and guest.disk.wanted]
            allowed += [f".copies/{short}" for where, short in self.copies if where == node]
            assert set(left) <= set(allowed)
            assert {(node, found["name"]) for found in knot.images.arriving()} <= self.halves

    @always
    def a_move_that_is_over_leaves_no_hold_and_no_mark(self) -> None:
        going = {guest.short for guest in self.guests.values() if guest.ahead}
        for knot in self.rig.knots.values():
            for name in self.names(knot):
                if name.rpartition("/")[2] not in going:
                    assert knot.fake.held(knot.full(name)) == {}
                    assert LEFT in knot.fake.local(knot.full(name)).get(MOVE, LEFT)

    @always
    def nothing_is_mounted_where_nobody_looks(self) -> None:
        for node, knot in self.rig.knots.items():
            allowed = {knot.root.path, *(f"{knot.root.path}/{guest.short}" for guest in self.guests.values() if guest.node == node)}
            allowed |= {f"{knot.root.path}/.images/.partial/{name}" for where, name in self.halves if where == node}
            assert {mount.path for mount in knot.fake.mounts() if f"{mount.dataset}/".startswith(knot.full(""))} <= allowed
