"""Many things at once: instances whose names begin alike, removals beside a scrub, two administrators, a pool that stands still."""

from __future__ import annotations

import pytest

from .conftest import DIRECTORY, Lab
from .test_4_change import rename_command

NAMES = ("web", "web1", "web10", "web1-a", "web1.example.com", "we", "web-1", "1web")


def at_once(lab: Lab, commands: list[str]) -> str:
    """All commands have been begun at the same moment on the master and have ended well; return what they said.

    A job that Ganeti itself could not start, for its daemon was not answered in time, has changed nothing and is asked for again.
    """
    again = "until {0} > /tmp/said.{1} 2>&1; do grep -q 'failed to start' /tmp/said.{1} || {{ touch /tmp/failed.{1}; break; }}; done &\n"
    script = "".join(again.format(command, number) for number, command in enumerate(commands))
    lab.master.write("/tmp/at-once", f"rm -f /tmp/said.* /tmp/failed.*\n{script}wait\n")
    lab.master.run("sh /tmp/at-once", seconds=1800)
    said = lab.run("tail -n +1 /tmp/said.*")
    assert lab.run("ls /tmp/failed.* 2>/dev/null || true") == "", said
    return said


@pytest.mark.on()
def test_eight_instances_whose_names_begin_alike_come_and_go_at_once(lab: Lab) -> None:
    kinds = ["file" if number % 2 else "ext" for number in range(len(NAMES))]
    adds = {}
    for name, kind in zip(NAMES, kinds, strict=True):
        disk = "--disk 0:size=16M" + (",provider=zfs" if kind == "ext" else "")
        adds[name] = lab.add_command(name, disks=(), more=disk).replace("-t file", f"-t {kind}").replace("--no-disks", "")
    at_once(lab, list(adds.values()))
    assert sorted(lab.instances()) == sorted(NAMES)
    lab.well()
    sums = {name: lab.fill(name) if kind == "file" else lab.fill_volumes(name) for name, kind in zip(NAMES, kinds, strict=True)}
    assert len({text for found in sums.values() for text in found}) == len(NAMES)

    # names that were another's a moment ago, and removals beside them
    files = [name for name, kind in zip(NAMES, kinds, strict=True) if kind == "file"]
    renamed = {name: f"{name}-1" for name in files[:2]}
    renames = [rename_command(lab, old, new) for old, new in renamed.items()]
    at_once(lab, [*renames, *(f"gnt-instance remove -f {name}" for name in NAMES if name not in renamed)])
    assert sorted(lab.instances()) == sorted(renamed.values())
    for old, new in renamed.items():
        assert lab.sums(new) == sums[old]
    lab.well()

    at_once(lab, [f"gnt-zfs trash restore {name}" for name in NAMES if name not in renamed])
    for name, kind in zip(NAMES, kinds, strict=True):
        if name not in renamed:
            lab.run(f"gnt-instance start {name}")
            assert (lab.sums(name) if kind == "file" else lab.volume_sums(name)) == sums[name]
    lab.well()


@pytest.mark.on()
def test_a_removal_beside_a_scrub_a_send_and_sanoid_loses_nothing(lab: Lab) -> None:
    lab.add("web1", disks=("96M", "32M"))
    lab.node2.run(f"dd if=/dev/urandom of={lab.disks('web1')[0]} bs=1M count=48 conv=notrunc status=none")
    sums = lab.fill("web1")
    lab.node2.run("mkdir -p /etc/sanoid; gnt-zfs snapshot policy > /etc/sanoid/sanoid.conf; zfs snapshot zfs/vm/web1@theirs")
    lab.run("gnt-instance start web1")
    # a scrub that stands still is under way for as long as it is wanted
    lab.node2.run("echo 1 > /sys/module/zfs/parameters/zfs_scan_suspend_progress; zpool scrub zfs")
    send = "zfs send zfs/vm/web1@theirs | pv -q -L 500k > /dev/null; echo $? > /tmp/sent"
    sanoid = "while sanoid --take-snapshots --prune-snapshots && echo run; do sleep 1; done"
    lab.node2.run(
        f"setsid sh -c '{send}' > /tmp/send.log 2>&1 < /dev/null & setsid sh -c '{sanoid}' > /tmp/sanoid.log 2>&1 < /dev/null & "
        "echo $! > /tmp/sanoid"
    )
    lab.node2.wait("grep -qx run /tmp/sanoid.log && pgrep -x pv")
    runs = int(lab.node2.run("grep -cx run /tmp/sanoid.log"))
    lab.run("gnt-instance remove -f web1")
    assert "scrub in progress" in lab.node2.run("pgrep -x pv > /dev/null && zpool status zfs")
    lab.node2.wait(f"test $(grep -cx run /tmp/sanoid.log) -gt {runs}")
    assert [name.split(":")[0] for name in lab.trash()] == ["web1"]
    lab.node2.run("kill -- -$(cat /tmp/sanoid); echo 0 > /sys/module/zfs/parameters/zfs_scan_suspend_progress")
    lab.node2.wait("test -e /tmp/sent && ! pgrep -x sanoid", seconds=300)
    assert lab.node2.run("cat /tmp/sent").strip() == "0"
    assert lab.node2.run("cat /tmp/send.log") == ""
    assert "0 errors" in lab.node2.wait("zpool status zfs | grep 'scrub repaired'", seconds=300)
    said = lab.fails("gnt-zfs trash empty --yes")
    assert "snapshot" in said
    lab.run("gnt-zfs trash restore web1")
    lab.run("gnt-instance start web1")
    assert lab.sums("web1") == sums
    lab.well()


@pytest.mark.on()
def test_two_administrators_move_one_instance_at_once(lab: Lab) -> None:
    lab.add("web1", disks=("96M",))
    lab.node2.run(f"dd if=/dev/urandom of={lab.disks('web1')[0]} bs=1M count=48 conv=notrunc status=none")
    sums = lab.fill("web1")
    lab.run("gnt-instance start web1")
    lab.run("setsid gnt-zfs move --yes --bwlimit 4 web1 node3 > /tmp/first.log 2>&1 < /dev/null & echo $! > /tmp/first")
    lab.node3.wait("zfs list tank/vm/.moving/web1")
    assert "another gnt-zfs move or adopt is at work on it" in lab.fails("gnt-zfs move --yes web1 node1")
    assert "another gnt-zfs move or adopt is at work on it" in lab.fails("gnt-zfs move --abort --yes web1")
    lab.master.wait("test ! -d /proc/$(cat /tmp/first)", seconds=300)
    assert lab.run("gnt-instance list --no-headers -o status,pnode web1").split() == ["running", "node3.example.com"], lab.run(
        "cat /tmp/first.log"
    )
    assert lab.sums("web1", "node3") == sums
    lab.well()

    # who removes it means it: the move ends, and what has been sent is of no use
    lab.run("setsid gnt-zfs move --yes --bwlimit 4 web1 node2 > /tmp/first.log 2>&1 < /dev/null & echo $! > /tmp/first")
    lab.node2.wait("zfs list zfs/vm/.moving/web1")
    assert "failed" not in lab.master.execute("gnt-instance remove -f web1").said
    lab.master.wait("test ! -d /proc/$(cat /tmp/first)", seconds=300)
    assert lab.run("tail -n 1 /tmp/first.log").startswith("gnt-zfs: ")
    lab.run("gnt-zfs check --repair || true")
    lab.well()
    (entry,) = lab.trash("node3")
    assert lab.sums_in_trash(entry, "node3") == sums


@pytest.mark.on()
def test_a_pool_that_stands_still_is_said_and_holds_up_no_other_node(lab: Lab) -> None:
    """node3's root is on a device that ends to answer and answers again: with a device that is gone OpenZFS 2.1 does not suspend a pool."""
    node3 = lab.node3
    node3.run("lvcreate -qq --yes -n slow -L 1G ganeti && zpool create -O mountpoint=none slow /dev/ganeti/slow")
    node3.run(f"zfs set mountpoint=none tank/vm && zfs create -o mountpoint={DIRECTORY} slow/vm")
    node3.write("/etc/zfsganeti.conf", "root = slow/vm\n")
    lab.run("gnt-zfs setup --yes zfs/vm node3=slow/vm")
    lab.well()
    lab.add("web1", disks=("32M",))
    lab.add("far", node="node3", disks=("32M",))
    sums = lab.fill("far", "node3")
    works = node3.run("dmsetup table ganeti-slow").strip()
    fails = f"{' '.join(works.split()[:2])} error"
    swap = "dmsetup suspend --nolockfs --noflush ganeti-slow && dmsetup load ganeti-slow --table '{}' && dmsetup resume ganeti-slow"
    node3.run(swap.format(fails))
    node3.run(f"(setsid touch {DIRECTORY}/probe; setsid zpool sync slow) > /dev/null 2>&1 < /dev/null &")
    node3.wait("zpool list -H -o health slow | grep -q SUSPENDED")
    assert "node3.example.com: pool slow: is SUSPENDED: zpool status slow" in lab.fails("gnt-zfs check")
    assert "web1" in lab.master.execute("gnt-zfs list").said
    assert "pool slow" in lab.fails(lab.add_command("late", node="node3", disks=("32M",)))
    lab.run("gnt-instance start web1")

    node3.run(swap.format(works))
    node3.run("zpool clear slow", seconds=300)
    node3.wait("zpool list -H -o health slow | grep -q ONLINE")
    lab.run("gnt-zfs check --repair || true")
    node3.run(f"rm -f {DIRECTORY}/probe")
    lab.run("gnt-instance start far")
    assert lab.sums("far", "node3") == sums
    lab.well()
