"""What is interrupted: each operation with what goes before it, how it is done again, and what must be true then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.conftest import Lab
from tests.lab.test_4_change import rename_command
from tests.lab.test_9_catalogue import SOURCE

State = list[str]
IMPORT = "gnt-zfs image import debian-12 /tmp/disk.raw"
LISTED = "gnt-zfs image list | grep -q debian-12"


@dataclass(frozen=True)
class Scenario:
    """An operation that is typed on the node `on` and in which `struck` has a part; `again` leaves out what is done already."""

    name: str
    prepare: Callable[[Lab], State]
    operation: str
    again: str
    check: Callable[[Lab, State], None]
    struck: str = "node2"
    on: str = "node1"


def nothing(_lab: Lab) -> State:
    return []


def file_instance(lab: Lab) -> State:
    lab.add("web1", disks=("64M", "16M"))
    return lab.fill("web1")


def running_file_instance(lab: Lab) -> State:
    sums = file_instance(lab)
    lab.run("gnt-instance start web1")
    return sums


def volume_instance(lab: Lab) -> State:
    lab.add_ext("web1", disks=("64M", "16M"))
    return lab.fill_volumes("web1")


def removed_volume_instance(lab: Lab) -> State:
    sums = volume_instance(lab)
    lab.run("gnt-instance remove -f web1")
    return sums


def removed_file_instance(lab: Lab) -> State:
    sums = file_instance(lab)
    lab.run("gnt-instance remove -f web1")
    return sums


def snapshot_and_more(lab: Lab) -> State:
    """Return the checksums at the snapshot; the disks differ from it."""
    sums = file_instance(lab)
    lab.run("gnt-zfs snapshot create web1 before")
    lab.fill("web1")
    return sums


def plain_instance(lab: Lab) -> State:
    """An instance on LVM, which is adopted while it runs."""
    lab.run(lab.add_command("web1").replace("-t file", "-t plain"))
    device = lab.node2.run("lvs --noheadings -o path ganeti").strip()
    lab.node2.run(f"dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct status=none")
    lab.run("gnt-instance start web1")
    return [lab.node2.run(f"sha256sum {device}").split()[0]]


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


def volumes_are(lab: Lab, state: State) -> None:
    lab.run("gnt-instance list --no-headers -o status web1 | grep -q running || gnt-instance start web1")
    assert lab.volume_sums("web1") == state


def grown(lab: Lab, state: State) -> None:
    """The first disk ends with 16 MiB of zeros, before which it is what it was."""
    lab.run("gnt-instance start web1")
    (first, second) = lab.volumes("web1")
    whole = lab.node2.run(f"head -c 64M /dev/zfsganeti/{first} | sha256sum; sha256sum < /dev/zfsganeti/{second}").splitlines()
    assert [line.split()[0] for line in whole] == state
    assert lab.node2.run(f"blockdev --getsize64 /dev/zfsganeti/{first}").strip() == str(80 << 20)


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
    add, remove, rename = lab.add_command("web1"), "gnt-instance remove -f web1", rename_command(lab, "web1", "web2")
    volume = "--disk 0:size=64M,provider=zfs"
    add_ext = lab.add_command("web1", disks=(), more=volume).replace("-t file", "-t ext").replace("--no-disks", "")
    grow, back = "gnt-instance grow-disk web1 0 16M", "gnt-zfs snapshot rollback --yes web1 before"
    move, empty = "gnt-zfs move --yes web1 node3", "gnt-zfs trash empty --yes"
    push, delete = "gnt-zfs image push debian-12 node3", "gnt-zfs image delete --now --yes debian-12"
    adopt = "gnt-zfs adopt --yes web1"
    restore = "gnt-zfs trash restore web1"
    not_moved = "test $(gnt-instance list --no-headers -o pnode,status web1 | tr -s ' ' -) = node3.example.com-running"
    is_back = "gnt-zfs trash list | grep -q 'The trash is empty'"
    moved = f"{move} || {not_moved}"
    by_ganeti = "gnt-instance move -f -n node3.example.com web1"
    there = "test $(gnt-instance list --no-headers -o pnode web1) = node3.example.com"
    of_ganeti = [Scenario("move by Ganeti", file_instance, by_ganeti, f"{there} || {by_ganeti}", files_are("web1", "node3"))]
    return [
        *(of_ganeti if lab.generation == "bookworm" else []),  # trixie's Ganeti cannot, with its socat: #1839
        Scenario("add of files", nothing, add, if_not_there("web1", add), exists("web1")),
        Scenario("removal of files", file_instance, remove, if_there("web1", remove), come_back),
        Scenario("rename of files", file_instance, rename, if_there("web1", rename), files_are("web2")),
        Scenario("add of volumes", nothing, add_ext, if_not_there("web1", add_ext), exists("web1")),
        Scenario("growth of a volume", volume_instance, grow, "gnt-instance grow-disk --absolute web1 0 80M || true", grown),
        Scenario("removal of volumes", volume_instance, remove, if_there("web1", remove), volumes_come_back),
        Scenario("restore of volumes", removed_volume_instance, restore, f"{restore} || {is_back}", volumes_are),
        Scenario("restore of files", removed_file_instance, restore, f"{restore} || {is_back}", files_are("web1")),
        Scenario("adoption, the node", plain_instance, adopt, adopt, files_are("web1")),
        Scenario("adoption, the master", plain_instance, adopt, adopt, files_are("web1"), struck="node1"),
        Scenario("emptying of the trash", removed_volume_instance, empty, empty, trash_is_empty),
        Scenario("snapshot", file_instance, "gnt-zfs snapshot create web1 s", "gnt-zfs snapshot create web1 t", files_are("web1")),
        Scenario("rollback", snapshot_and_more, back, back, files_are("web1")),
        Scenario("import of an image", image_source, IMPORT, f"{LISTED} || {IMPORT}", image_is_whole("node2"), on="node2"),
        Scenario("push of an image, its source", image, push, push, image_is_whole("node3"), on="node2"),
        Scenario("push of an image, its target", image, push, push, image_is_whole("node3"), on="node2", struck="node3"),
        Scenario("deletion of an image", image, delete, f"if {LISTED}; then {delete}; fi", image_is_gone, on="node2"),
        Scenario("move, its source", running_file_instance, move, moved, files_are("web1", "node3")),
        Scenario("move, its target", running_file_instance, move, moved, files_are("web1", "node3"), struck="node3"),
        Scenario("move, the master", running_file_instance, move, moved, files_are("web1", "node3"), struck="node1"),
    ]
