"""What goes wrong around us: a pool without room, a boot without the pool, a clock that jumps, peers that answer garbage, and a few of
the faults of `make chaos`."""

from __future__ import annotations

import pytest

from tests.chaos import points
from tests.chaos.__main__ import OPERATION_SECONDS, Chaos, inject, prepare_library, strike_library, survived, withdraw
from tests.chaos.scenarios import scenarios

from .conftest import DIRECTORY, Lab

# what is left is less than anything takes: near the end ZFS refuses what it has room for once its transaction groups are written
FILL = (
    "zfs create -o mountpoint=none zfs/ballast && zfs set reservation=$(($(zfs list -Hp -o avail zfs) - 33554432)) zfs/ballast && "
    "zfs create -o mountpoint=/fill zfs/fill && for size in 64k 16k 4k 4k 4k 4k 4k 4k 4k 4k; do "
    "test $(zfs list -Hp -o avail zfs/vm) -lt 1048576 || dd if=/dev/urandom bs=$size oflag=append,dsync conv=notrunc "
    "of=/fill/full status=none 2>/dev/null; zpool sync zfs; done; zfs list -Hp -o avail zfs/vm"
)


@pytest.mark.on()
def test_a_pool_without_room_loses_nothing(lab: Lab) -> None:
    lab.add("web1", disks=("64M", "16M"))
    sums = lab.fill("web1")
    lab.add_ext("db1", disks=("64M",))
    volume_sums = lab.fill_volumes("db1")
    lab.add("gone")
    lab.node2.run(f"dd if=/dev/urandom of={lab.disks('gone')[0]} bs=1M count=60 conv=notrunc,fsync status=none")
    lab.run("gnt-instance remove -f gone")
    left = int(lab.node2.run(FILL, seconds=300).split()[-1])
    assert left < 1 << 20
    before = lab.datasets()

    for command in (
        lab.add_command("late"),
        lab.add_command("late", disks=(), more="--disk 0:size=64M,provider=zfs").replace("-t file", "-t ext").replace("--no-disks", ""),
        "gnt-instance grow-disk db1 0 64M",
        "gnt-zfs snapshot create db1 late",
    ):
        said = lab.fails(command)
        assert "Traceback" not in said, said
        assert "space" in said or "free" in said or "room" in said, said
        assert lab.datasets() == before, command
    assert lab.instances() == ["db1", "web1"]
    lab.run("gnt-instance start web1")
    lab.run("gnt-instance start db1")
    assert (lab.sums("web1"), lab.volume_sums("db1")) == (sums, volume_sums)
    lab.run("gnt-instance stop web1")
    lab.run("gnt-instance stop db1")

    # what is removed now is not lost either, whether that is refused or not
    for name in ("web1", "db1"):
        said = lab.master.execute(f"gnt-instance remove -f {name}").said
        assert "Traceback" not in said, said
        print(f"{name}: {said}")
    (entry,) = [entry for entry in lab.trash() if entry.startswith("gone:")]
    lab.run(f"gnt-zfs trash empty --yes {entry}")
    for name in ("web1", "db1"):
        if name in lab.instances():
            lab.run(f"gnt-instance remove -f {name}")
        lab.run(f"gnt-zfs trash restore {name} && gnt-instance start {name}")
    assert (lab.sums("web1"), lab.volume_sums("db1")) == (sums, volume_sums)
    lab.node2.run("zfs destroy -r zfs/fill && zfs destroy zfs/ballast")
    lab.well()


@pytest.mark.on()
def test_a_node_that_boots_without_its_pool_writes_nothing_below_it(lab: Lab) -> None:
    lab.add("web1")
    sums = lab.fill("web1")
    lab.add_ext("db1")
    volume_sums = lab.fill_volumes("db1")
    lab.node2.run("systemctl mask -q zfs-import-cache zfs-import-scan && zpool sync && sync")
    lab.node2.kill()
    lab.cluster.boot(lab.node2)
    lab.node2.wait("pgrep -f ganeti-noded || { /usr/lib/ganeti/daemon-util start-all; false; }")
    assert lab.node2.execute("zpool list zfs").status != 0
    for command in (
        "gnt-instance start web1",
        "gnt-instance start db1",
        "gnt-instance remove -f web1",
        lab.add_command("late"),
    ):
        said = lab.fails(command)
        assert "pool" in said or "root" in said, said
        assert "Traceback" not in said, said
    assert "pool is not imported" in lab.fails("gnt-zfs check")
    lab.node2.execute("ganeti-watcher")
    assert lab.node2.run(f"find {DIRECTORY} ! -type d 2>/dev/null || true") == ""

    lab.node2.run("systemctl unmask -q zfs-import-cache zfs-import-scan && zpool import -d /dev zfs && zfs mount -a")
    assert sorted(lab.instances()) == ["db1", "web1"]
    lab.run("gnt-zfs check --repair || true")
    lab.run("gnt-instance start web1 && gnt-instance start db1")
    assert (lab.sums("web1"), lab.volume_sums("db1")) == (sums, volume_sums)
    lab.well()


@pytest.mark.on()
def test_a_clock_that_jumps_makes_nothing_expire(lab: Lab) -> None:
    for name in ("behind", "now"):
        lab.add(name)
    sums = {name: lab.fill(name) for name in ("behind", "now")}
    lab.run("gnt-instance remove -f now")
    lab.node2.run("date -s '-2 years' > /dev/null")
    lab.run("gnt-instance remove -f behind")
    lab.watch()
    lab.node2.run("date -s '+2 years' > /dev/null")
    lab.watch()
    lab.watch()
    assert sorted(entry.split(":")[0] for entry in lab.trash()) == ["behind", "now"]
    lab.node2.run("date -s '+2 years' > /dev/null")
    lab.watch()
    lab.watch()
    assert sorted(entry.split(":")[0] for entry in lab.trash()) == ["behind", "now"]
    lab.node2.run("date -s '-2 years' > /dev/null")
    lab.watch()
    for name in ("behind", "now"):
        lab.run(f"gnt-zfs trash restore {name} && gnt-instance start {name}")
        assert lab.sums(name) == sums[name]
    lab.well()


GARBAGE = (
    "echo hello",
    "echo '{\"answer\": 5}'",
    "echo '[[[['",
    "head -c 100000 /dev/urandom",
    "exit 1",
    'echo \'{"error": [1], "code": "x"}\'',
)


@pytest.mark.on()
def test_a_peer_that_answers_garbage_is_named_and_changes_nothing(lab: Lab) -> None:
    lab.add("web1")
    sums = lab.fill("web1")
    lab.run("gnt-instance start web1")
    lab.node3.run("mv /usr/sbin/gnt-zfs /usr/sbin/gnt-zfs.away")
    for answer in GARBAGE:
        lab.node3.write("/usr/sbin/gnt-zfs", f"#!/bin/sh\n{answer}\n", "755")
        for command in (
            "gnt-zfs check",
            "gnt-zfs list",
            "gnt-zfs trash list",
            "gnt-zfs move --yes web1 node3",
            "gnt-zfs image list --all-nodes",
        ):
            done = lab.master.execute(command)
            assert done.status != 0, (answer, command, done.said)
            assert "Traceback" not in done.said, (answer, command, done.said)
            assert "node3" in done.said, (answer, command, done.said)
        assert lab.run("gnt-instance list --no-headers -o status,pnode web1").split() == ["running", "node2.example.com"]
    lab.run("gnt-instance stop web1 && gnt-instance start web1")  # what has no part of node3 in it goes on
    lab.node3.run("mv /usr/sbin/gnt-zfs.away /usr/sbin/gnt-zfs")
    assert lab.sums("web1") == sums
    lab.run("gnt-zfs move --abort --yes web1 || true")
    lab.well()


FEW = {"removal of files": (("kill", 8),)}  # a point that each run of it passes


@pytest.mark.on("bookworm")
def test_a_few_faults(lab: Lab) -> None:
    """What `make chaos` does for hours, at some points: the same command again, and nothing is lost."""
    chaos = Chaos(lab.generation, None)
    for node in lab.nodes:
        inject(node)
    try:
        for scenario in scenarios(lab):
            for kind, number in FEW.get(scenario.name, ()):
                state = scenario.prepare(lab)
                lab.node(scenario.struck).run(f"rm -rf {points.PLACE} && mkdir {points.PLACE}")
                result = chaos.fault(lab, scenario, state, kind, number)
                assert survived(result), (scenario.name, kind, number, result)
                lab.run("gnt-instance remove -f web1 2>/dev/null || true; gnt-zfs trash empty --yes --with-snapshots")
    finally:
        for node in lab.nodes:
            withdraw(node)


FEW_OF_THE_LIBRARY = ("swap_in", "volume: remove", "rollback of volumes")
OF_EACH = 3


def test_a_few_power_cuts(lab: Lab) -> None:
    """What `make chaos` does to the library at all points, at some: killed, failed, and without power, in a pool that node3 lacks."""
    prepare_library(lab.node3)
    try:
        found = strike_library(lab.node3, OPERATION_SECONDS / 2, {}, str(OF_EACH), *FEW_OF_THE_LIBRARY)
    finally:
        lab.node3.run("rm -r /tmp/library")
    struck = {key: result for key, result in found.items() if not key.endswith("/points")}
    assert len(struck) == OF_EACH * len(FEW_OF_THE_LIBRARY)
    assert {key: result for key, result in struck.items() if not survived(result)} == {}
    lab.well()
