"""What is interrupted: each operation with what goes before it, how it is done again, and what must be true then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.lab.conftest import Lab
from tests.lab.test_4_change import rename_command
from tests.lab.test_9_catalogue import SOURCE, content
from tests.lab.test_9_moves import nothing_left

State = list[str]
IMPORT = "gnt-zfs image import debian-12 /tmp/disk.raw"
LISTED = "gnt-zfs image list | grep -q debian-12"


@dataclass(frozen=True)
class Scenario:
    """An operation that is typed on the node `on` and in which `struck` has a part; `again` leaves out what is done already.

    What is done `together` needs several nodes; for the rest the master is alone.
    """

    name: str
    prepare: Callable[[Lab], State]
    operation: str
    again: str
    check: Callable[[Lab, State], None]
    struck: str = "node2"
    on: str = "node1"
    together: bool = False


def nothing(_lab: Lab) -> State:
    return []


def file_instance(lab: Lab) -> State:
    lab.add("web1", disks=("64M", "16M"))
    return lab.fill("web1")


def volume_instance(lab: Lab) -> State:
    lab.add_ext("web1", disks=("64M", "16M"))
    return lab.fill_volumes("web1")


def then(prepare: Callable[[Lab], State], command: str) -> Callable[[Lab], State]:
    """Return what prepares the same and has a command follow."""

    def both(lab: Lab) -> State:
        state = prepare(lab)
        lab.run(command)
        return state

    return both


running_file_instance, running_volume_instance = (then(each, "gnt-instance start web1") for each in (file_instance, volume_instance))
removed_file_instance, removed_volume_instance = (then(each, "gnt-instance remove -f web1") for each in (file_instance, volume_instance))
snapshot = then(file_instance, "gnt-zfs snapshot create web1 before")
volume_snapshot = then(volume_instance, "gnt-zfs snapshot create web1 before")
begun_move = then(running_file_instance, "gnt-zfs move --yes --presync-only web1 node3")


def snapshot_and_more(lab: Lab) -> State:
    """Return the checksums at the snapshot; the disks differ from it."""
    sums = snapshot(lab)
    lab.fill("web1")
    return sums


def volumes_with_snapshot_and_more(lab: Lab) -> State:
    sums = volume_snapshot(lab)
    lab.fill_volumes("web1")
    lab.run("gnt-instance deactivate-disks web1")  # a rollback is refused while a device has them
    return sums


def plain_instance(lab: Lab) -> State:
    """An instance on LVM, which is adopted while it runs."""
    lab.run(lab.add_command("web1").replace("-t file", "-t plain"))
    device = lab.node2.run("lvs --noheadings -o path ganeti").strip()
    lab.node2.run(f"dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct status=none")
    lab.run("gnt-instance start web1")
    return [lab.node2.run(f"sha256sum {device}").split()[0]]


def volume_of_image(lab: Lab) -> State:
    """Return the checksum of the image's disk, which is 65 MiB long."""
    image(lab)
    return [lab.node2.run("sha256sum < /tmp/disk.raw").split()[0]]


def image_source(lab: Lab) -> State:
    lab.node2.run(SOURCE)
    return []


def image(lab: Lab) -> State:
    image_source(lab)
    lab.node2.run(IMPORT)
    return []


def exists(name: str) -> Callable[[Lab, State], None]:
    def check(lab: Lab, _state: State) -> None:
        assert name in lab.instances()
        lab.run(f"gnt-instance start {name}")

    return check


def files_are(name: str, node: str = "node2") -> Callable[[Lab, State], None]:
    def check(lab: Lab, state: State) -> None:
        lab.run(f"gnt-instance list --no-headers -o status {name} | grep -q running || gnt-instance start {name}")
        assert lab.sums(name, node) == state

    return check


def come_back(lab: Lab, state: State) -> None:
    """What was removed is restored with what it held."""
    lab.run("gnt-zfs trash restore web1")
    lab.run("gnt-instance start web1")
    assert lab.sums("web1") == state


def volumes_come_back(lab: Lab, state: State) -> None:
    lab.run("gnt-zfs trash restore web1")
    volumes_are(lab, state)


def volumes_are(lab: Lab, state: State, node: str = "node2") -> None:
    lab.run("gnt-instance list --no-headers -o status web1 | grep -q running || gnt-instance start web1")
    assert lab.volume_sums("web1", node) == state


def volumes_are_restored(lab: Lab, state: State) -> None:
    """Where Ganeti had lost its job, what was restored is in the trash again by now, and can be restored."""
    lab.run("gnt-instance list web1 >/dev/null 2>&1 || gnt-zfs trash restore web1")
    volumes_are(lab, state)


def no_move_is_left(lab: Lab, state: State) -> None:
    """It is where it was, and no node has anything of a move."""
    nothing_left(lab)
    files_are("web1")(lab, state)


def grown(lab: Lab, state: State) -> None:
    """The first disk ends with 16 MiB of zeros, before which it is what it was."""
    lab.run("gnt-instance start web1")
    (first, second) = lab.volumes("web1")
    whole = lab.node2.run(f"head -c 64M /dev/zfsganeti/{first} | sha256sum; sha256sum < /dev/zfsganeti/{second}").splitlines()
    assert [line.split()[0] for line in whole] == state
    assert lab.node2.run(f"blockdev --getsize64 /dev/zfsganeti/{first}").strip() == str(80 << 20)


def holds_the_image(lab: Lab, state: State) -> None:
    lab.run("gnt-instance start web1")
    (volume,) = lab.volumes("web1")
    assert content(lab, volume) == state[0]


def saved(lab: Lab, state: State) -> None:
    """The image that was saved holds what the disk does, which is what it was."""
    lab.node2.run("gnt-zfs image verify saved && gnt-zfs image export saved /tmp/saved.raw")
    assert lab.node2.run("sha256sum < /tmp/saved.raw").split()[0] == state[0]
    files_are("web1")(lab, state)


def snapshot_is_gone(lab: Lab, state: State) -> None:
    assert "before" not in lab.run("gnt-zfs snapshot list web1")
    files_are("web1")(lab, state)


def image_is_whole(node: str) -> Callable[[Lab, State], None]:
    def check(lab: Lab, _state: State) -> None:
        lab.node(node).run("gnt-zfs image verify debian-12")

    return check


def image_is_gone(lab: Lab, _state: State) -> None:
    assert "debian-12" not in lab.node2.run("gnt-zfs image list")


def trash_is_empty(lab: Lab, _state: State) -> None:
    assert lab.trash() == []


def if_there(name: str, command: str) -> str:
    return f"if gnt-instance list {name} >/dev/null 2>&1; then {command}; fi"


def if_not_there(name: str, command: str) -> str:
    return f"gnt-instance list {name} >/dev/null 2>&1 || {command}"


def scenarios(lab: Lab) -> list[Scenario]:
    """Return all of them; the words of `lab` say how something is typed on its generation and on how many nodes."""
    return [*_of_ganeti(lab), *_of_ours(lab), *_together(lab)]


def _of_ganeti(lab: Lab) -> list[Scenario]:
    add, remove, rename = lab.add_command("web1"), "gnt-instance remove -f web1", rename_command(lab, "web1", "web2")
    volume = "--disk 0:size=64M,provider=zfs"
    add_ext = lab.add_command("web1", disks=(), more=volume).replace("-t file", "-t ext").replace("--no-disks", "")
    add_of_image = add_ext.replace("size=64M", "size=66M,image=debian-12")
    grow = "gnt-instance grow-disk web1 0 16M"
    return [
        Scenario("add of files", nothing, add, if_not_there("web1", add), exists("web1")),
        Scenario("removal of files", file_instance, remove, if_there("web1", remove), come_back),
        Scenario("rename of files", file_instance, rename, if_there("web1", rename), files_are("web2")),
        Scenario("add of volumes", nothing, add_ext, if_not_there("web1", add_ext), exists("web1")),
        Scenario("add of a volume with an image", volume_of_image, add_of_image, if_not_there("web1", add_of_image), holds_the_image),
        Scenario("growth of a volume", volume_instance, grow, "gnt-instance grow-disk --absolute web1 0 80M || true", grown),
        Scenario("removal of volumes", volume_instance, remove, if_there("web1", remove), volumes_come_back),
    ]


def _of_ours(_lab: Lab) -> list[Scenario]:
    back, empty = "gnt-zfs snapshot rollback --yes web1 before", "gnt-zfs trash empty --yes"
    delete, adopt = "gnt-zfs image delete --now --yes debian-12", "gnt-zfs adopt --yes web1"
    restore, is_back = "gnt-zfs trash restore web1", "gnt-zfs trash list | grep -q 'The trash is empty'"
    by_hand = f"{restore} || {is_back} || ( gnt-zfs check --repair; {restore} )"  # which it says itself where one disk is in the trash
    save, is_saved = "gnt-zfs image save web1/0 saved", "gnt-zfs image list | grep -q saved"
    drop, has_it = "gnt-zfs snapshot delete --yes web1 before", "gnt-zfs snapshot list web1 | grep -q before"
    return [
        Scenario("restore of volumes", removed_volume_instance, restore, by_hand, volumes_are_restored),
        Scenario("restore of files", removed_file_instance, restore, f"{restore} || {is_back}", files_are("web1")),
        Scenario("adoption", plain_instance, adopt, adopt, files_are("web1")),
        Scenario("emptying of the trash", removed_volume_instance, empty, empty, trash_is_empty),
        Scenario("snapshot", file_instance, "gnt-zfs snapshot create web1 s", "gnt-zfs snapshot create web1 t", files_are("web1")),
        Scenario("deletion of a snapshot", snapshot, drop, f"if {has_it}; then {drop}; fi", snapshot_is_gone),
        Scenario("rollback", snapshot_and_more, back, back, files_are("web1")),
        Scenario("rollback of volumes", volumes_with_snapshot_and_more, back, back, volumes_are),
        Scenario("import of an image", image_source, IMPORT, f"{LISTED} || {IMPORT}", image_is_whole("node2"), on="node2"),
        Scenario("saving of an image", file_instance, save, f"{is_saved} || {save}", saved),
        Scenario("deletion of an image", image, delete, f"if {LISTED}; then {delete}; fi", image_is_gone, on="node2"),
    ]


def _together(lab: Lab) -> list[Scenario]:
    move, push, adopt = "gnt-zfs move --yes web1 node3", "gnt-zfs image push debian-12 node3", "gnt-zfs adopt --yes web1"
    not_moved = "test $(gnt-instance list --no-headers -o pnode,status web1 | tr -s ' ' -) = node3.example.com-running"
    moved, there = f"{move} || {not_moved}", files_are("web1", "node3")
    by_ganeti = "gnt-instance move -f -n node3.example.com web1"
    is_there = f"test $(gnt-instance list --no-headers -o pnode web1) = node3.example.com || {by_ganeti}"
    whole, volumes_there = image_is_whole("node3"), partial(volumes_are, node="node3")
    abort = "gnt-zfs move --abort --yes web1"
    found = [
        Scenario("move, its source", running_file_instance, move, moved, there, together=True),
        Scenario("move, its target", running_file_instance, move, moved, there, struck="node3", together=True),
        Scenario("move, the master", running_file_instance, move, moved, there, struck="node1", together=True),
        Scenario("move of volumes, its source", running_volume_instance, move, moved, volumes_there, together=True),
        Scenario("move of volumes, its target", running_volume_instance, move, moved, volumes_there, struck="node3", together=True),
        Scenario("end of a move that was begun", begun_move, abort, abort, no_move_is_left, together=True),
        Scenario("push of an image, its source", image, push, push, whole, on="node2", together=True),
        Scenario("push of an image, its target", image, push, push, whole, on="node2", struck="node3", together=True),
        Scenario("adoption, the node", plain_instance, adopt, adopt, files_are("web1"), together=True),
        Scenario("adoption, the master", plain_instance, adopt, adopt, files_are("web1"), struck="node1", together=True),
    ]
    if lab.generation == "bookworm":  # trixie's Ganeti cannot, with its socat: #1839
        found.append(Scenario("move by Ganeti", file_instance, by_ganeti, is_there, there, together=True))
    return found
