"""A pool that becomes full at any moment: what is done is done, or refused in a line with nothing lost, and done when there is room."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.rig import MIB, Knot, Rig, make_rig
from zfsganeti import extstorage, hooks, snapshots, undo, upkeep, variants
from zfsganeti.datasets import KEPT, RECORD, VOLUME
from zfsganeti.disks import find_instance
from zfsganeti.errors import CommandFailed, NoSpace, ZfsGanetiError, of_system, one_line
from zfsganeti.ganeti import Event

DISKS = {"file": {"u1.file.disk0": b"zero", "u1.file.disk1": b"one"}, "ext": {"u1.ext.disk0": b"zero", "u1.ext.disk1": b"one"}}
CONTENTS = [b"zero", b"one"]
BEFORE = b"before".ljust(MIB, b"\0")
KINDS = pytest.mark.parametrize("kind", list(DISKS))


@dataclass
class World:
    """An instance on the master's pool, and as much of Ganeti as it takes to do something with it."""

    rig: Rig
    kind: str
    warnings: list[str] = field(default_factory=list)  # of post hooks, which stop nothing

    @property
    def here(self) -> Knot:
        return self.rig.master

    def hook(self, hook: str, phase: str, name: str = "web1", **more: str) -> None:
        known = self.rig.ganeti.data.get(name) or {"kind": self.kind, "primary": "node1", "disks": []}
        environ = {**self.rig.ganeti._environ(name, known, hook), "GANETI_HOOKS_PHASE": phase, **more}
        handlers = hooks.VOLUME_HANDLERS if self.kind == "ext" else hooks.HANDLERS
        for knot in self.rig.knots.values():
            for handler in handlers.get(f"{hook}-{phase}", ()):
                handler(knot, Event(environ))

    def post(self, hook: str, name: str = "web1", **more: str) -> None:
        if warning := line_of(partial(self.hook, hook, "post", name, **more)):
            self.warnings.append(warning)

    def verb(self, verb: str, volume: str, **more: str) -> None:
        extstorage.handle(verb, {"VOL_NAME": volume, "VOL_SIZE": "1", **more})

    def asked(self) -> dict[str, Any]:
        return snapshots.asked(find_instance(self.rig.ganeti.instances(), "web1"))


def line_of(does: Callable[[], object]) -> str:
    """Return the line that somebody is told, '' when it is done."""
    try:
        does()
    except ZfsGanetiError as error:
        return one_line(error)
    except OSError as error:
        return one_line(of_system(error))
    return ""


# what is done


def start(world: World) -> None:
    world.rig.ganeti.gnt("gnt-instance", "startup", "web1")


def remove(world: World) -> None:
    world.hook("instance-remove", "pre")
    if world.kind == "file":
        home = f"{world.here.root.path}/web1"
        for name in os.listdir(home):
            os.unlink(f"{home}/{name}")
        os.rmdir(home)
    else:
        for volume in DISKS["ext"]:
            world.verb("detach", volume)
            world.verb("remove", volume)
    world.post("instance-remove")
    del world.rig.ganeti.data["web1"]


def rename(world: World) -> None:
    new = {"GANETI_INSTANCE_NEW_NAME": "web9"}
    world.hook("instance-rename", "pre", **new)
    if world.kind == "file":
        os.rename(f"{world.here.root.path}/web1", f"{world.here.root.path}/web9")
    world.post("instance-rename", **new)
    world.rig.ganeti.data["web9"] = world.rig.ganeti.data.pop("web1")
    for volume in DISKS["ext"] if world.kind == "ext" else ():
        world.verb("setinfo", volume, VOL_METADATA="originstname+web9")


def restore(world: World) -> None:
    undo.execute(world.here, undo.prepare(world.here, "web1", None), lambda _text: None)


def ganeti_adds(world: World, *words: str, seconds: float = 0) -> str:  # noqa: ARG001
    """What gnt-instance add does, and the modify that follows it."""
    if words[1] != "add":
        return ""
    made: list[str] = []
    asked = [word for word in words if "trash=" in word]
    said = line_of(lambda: made.extend(add_files(world) if world.kind == "file" else add_volumes(world, asked)))
    if said:
        raise CommandFailed("gnt-instance add", 1, said)
    world.rig.ganeti.data["web1"] = {"kind": world.kind, "primary": "node1", "disks": made, "up": False}
    return ""


def add_files(world: World) -> list[str]:
    world.hook("instance-add", "pre")
    home, made = f"{world.here.root.path}/web1", ["u2.file.disk0", "u2.file.disk1"]
    try:
        for name in made:
            Path(home, name).touch()
            os.truncate(f"{home}/{name}", MIB)
    except OSError:
        for name in os.listdir(home):
            os.unlink(f"{home}/{name}")
        raise
    world.post("instance-add")
    return made


def add_volumes(world: World, asked: list[str]) -> list[str]:
    made: list[str] = []
    try:
        for number, word in enumerate(asked):
            token = word.partition("trash=")[2].partition(",")[0]
            world.verb("create", f"u2.ext.disk{number}", EXTP_TRASH=token)
            made.append(f"u2.ext.disk{number}")
    except (ZfsGanetiError, OSError):
        for volume in made:
            world.verb("remove", volume)
        raise
    for volume in made:
        world.verb("setinfo", volume, VOL_METADATA="originstname+web1")
    return made


def snapshot(world: World) -> None:
    world.here.call("node1", "snapshot-create", **world.asked(), snapshot="two")


def clone(world: World) -> None:
    record = find_instance(world.rig.ganeti.instances(), "web1").record()
    world.here.call("node1", "snapshot-clone", **world.asked(), snapshot="one", name="web2", record=record)


def roll_back(world: World, **more: Any) -> None:
    record = find_instance(world.rig.ganeti.instances(), "web1").record()
    world.here.call("node1", "rollback", **world.asked(), snapshot="one", record=record, **more)


def roll_back_for_good(world: World) -> None:
    roll_back(world, discard=True, newer=[])


def grow(world: World) -> None:
    if world.kind == "file":
        world.hook("disk-grow", "pre", GANETI_AMOUNT="2", GANETI_DISK="0")
        os.truncate(world.rig.ganeti.path("web1", "u1.file.disk0"), 3 * MIB)
    else:
        world.verb("grow", "u1.ext.disk0", VOL_NEW_SIZE="3")


# what holds once it is done


def all_files(world: World) -> list[bytes]:
    """Return what every file on the node holds."""
    return [data.rstrip(b"\0") for name in world.here.fake.state() for data in world.here.fake.files(name).values()]


def contents(world: World, name: str = "web1") -> list[bytes]:
    return list(world.rig.content(name).values())


def starts(world: World, name: str = "web1") -> bool:
    return world.rig.starts_on(name, "node1")


def is_removed(world: World) -> bool:
    kept = [data.rstrip(b"\0") for entry in world.here.trash.entries() for data in world.here.fake.files(entry.dataset.name).values()]
    return sorted(kept) == sorted(CONTENTS) and [name for name in world.here.datasets() if not name.startswith(".trash")] == []


def is_renamed(world: World) -> bool:
    return starts(world, "web9") and contents(world, "web9") == CONTENTS


def is_back(world: World) -> bool:
    return starts(world) and contents(world) == CONTENTS and world.here.trash.entries() == []


def has_snapshot(world: World) -> bool:
    files = [world.here.fake.snapshot_files(f"zfs/vm/{name}@gnt-two") for name in datasets(world)]
    return sorted(data.rstrip(b"\0") for each in files for data in each.values()) == sorted(CONTENTS)


def has_clones(world: World) -> bool:
    kept = [data.rstrip(b"\0") for entry in world.here.trash.entries() for data in world.here.fake.files(entry.dataset.name).values()]
    return sorted(kept) == [b"before", b"before"] and starts(world)


def is_rolled_back(world: World) -> bool:
    return starts(world) and contents(world) == [b"before", b"before"]


def has_grown(world: World) -> bool:
    return os.stat(world.rig.ganeti.path("web1", next(iter(DISKS[world.kind])))).st_size == 3 * MIB and contents(world) == CONTENTS


def datasets(world: World) -> list[str]:
    return ["web1"] if world.kind == "file" else list(DISKS["ext"])


def unmount(world: World) -> None:
    """The node was off, and nothing is mounted yet."""
    for name in datasets(world):
        world.here.fake.unmount(f"{world.here.root.path}/{name}")


@dataclass(frozen=True)
class Deed:
    """Something that is done, what holds then, and what was done before it."""

    does: Callable[[World], None]
    done: Callable[[World], bool]
    before: Callable[[World], None] = lambda _world: None
    loses: bool = False  # what the disks hold now, and is wanted to


DEEDS = {
    "start": Deed(start, lambda world: bool(world.rig.ganeti.data["web1"]["up"])),
    "first start": Deed(start, lambda world: bool(world.rig.ganeti.data["web1"]["up"]), before=unmount),
    "remove": Deed(remove, is_removed),
    "rename": Deed(rename, is_renamed),
    "restore": Deed(restore, is_back, before=remove),
    "snapshot": Deed(snapshot, has_snapshot),
    "clone": Deed(clone, has_clones),
    "rollback": Deed(roll_back, is_rolled_back),
    "rollback --discard": Deed(roll_back_for_good, is_rolled_back, loses=True),
    "grow": Deed(grow, has_grown),
}


def worlds(place: Path, patch: pytest.MonkeyPatch, kind: str, deed: Deed, *, trash: bool) -> Iterator[World]:
    """Yield one such world after the other, each of them as the one before was."""
    patch.setattr(variants, "LIST", str(place / "variants.list"))
    for number in range(60):
        rig = make_rig(place / str(number), patch)
        world = World(rig, kind)
        vars(rig.ganeti).update(networks=dict, macs=set)
        for knot in rig.knots.values():
            vars(knot.ssconf).update(instances=["web1"], release=(3, 1))
        patch.setattr(extstorage, "_here", lambda rig=rig: rig.master)
        patch.setattr(undo, "run", partial(ganeti_adds, world))
        if trash:
            rig.master.trash._make()
        rig.ganeti.add("web1", kind, "node1", dict.fromkeys(DISKS[kind], BEFORE), up=False)
        rig.master.fake.snapshot([f"zfs/vm/{name}@gnt-one" for name in datasets(world)])
        for disk, data in DISKS[kind].items():
            rig.ganeti.write("web1", disk, data.ljust(MIB, b"\0"))
        deed.before(world)
        yield world


def without_records(state: dict[str, Any]) -> dict[str, Any]:
    """What a volume says of how its instance is made changes nothing, and is said before Ganeti has it removed."""
    drop = {RECORD} if any(VOLUME in dataset["marks"] for dataset in state.values()) else set()
    return {
        name: {**dataset, "marks": {key: dataset["marks"][key] for key in dataset["marks"].keys() - drop}}
        for name, dataset in state.items()
    }


@KINDS
@pytest.mark.parametrize("trash", [True, False], ids=["trash", "no trash yet"])
@pytest.mark.parametrize("name", list(DEEDS))
def test_a_pool_that_becomes_full_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, trash: bool) -> None:
    deed = DEEDS[name]
    for left, world in enumerate(worlds(tmp_path, monkeypatch, kind, deed, trash=trash)):
        fake = world.here.fake
        before = fake.state()
        fake.left = left
        said = line_of(partial(deed.does, world))
        if not said and not world.warnings:
            fake.left = None
            assert deed.done(world)
            return
        for line in (said, *world.warnings):
            assert "\n" not in line
            assert not line or "full" in line or "no space is left" in line, line
        assert deed.loses or not set(CONTENTS) - set(all_files(world)), f"{left}: {said}"
        if not left:
            assert without_records(fake.state()) == without_records(before), said
        fake.left = 0
        if "web1" in world.rig.ganeti.data and deed.before is not remove:
            assert starts(world), f"{left}: {said}"
            assert contents(world) == CONTENTS, f"{left}: {said}"
        fake.left = None
        if said:
            assert line_of(partial(deed.does, world)) == ""
        else:
            vars(world.here.ssconf)["instances"] = list(world.rig.ganeti.data)
            upkeep.watch(world.here)
        assert deed.done(world), f"{left}: {said}"
    raise AssertionError("it needs more and more room")


@KINDS
def test_a_disk_that_is_to_grow_by_more_than_there_is_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    world = next(worlds(tmp_path, monkeypatch, kind, DEEDS["grow"], trash=True))
    fake = world.here.fake
    fake.available, fake.left = MIB, 0
    before = fake.state()
    with pytest.raises(NoSpace, match=r": 2\.00M asked for, 1\.00M available: gnt-zfs trash empty may make room$"):
        grow(world)
    assert fake.state() == before
    fake.available, fake.left = 2 * MIB, None
    grow(world)
    assert has_grown(world)


def test_what_is_kept_until_it_is_emptied_is_so_after_a_restore_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = next(worlds(tmp_path, monkeypatch, "ext", DEEDS["restore"], trash=True))
    trash, fake = world.here.trash, world.here.fake
    for entry in trash.entries():
        fake.set(entry.dataset.name, {KEPT: "1"})
    before, fake.left = fake.state(), 2
    assert "u2.ext.disk0: no space is left" in line_of(partial(restore, world))
    assert fake.state() == before
    assert [entry.kept for entry in trash.entries()] == [True, True]
    fake.left = None
    restore(world)
    assert not any(KEPT in world.here.marks(name) for name in world.here.datasets())
