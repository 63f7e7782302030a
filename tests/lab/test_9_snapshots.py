"""Snapshots of instances: taken while they run, gone back to, cloned; sanoid and syncoid beside them."""

from __future__ import annotations

import pytest

from .conftest import Lab


def snapshots(lab: Lab, name: str) -> list[str]:
    """The short names of a dataset's snapshots, oldest first."""
    lines = lab.node2.run(f"zfs list -H -o name -s createtxg -t snapshot -d 1 zfs/vm/{name}").split()
    return [line.split("@")[1] for line in lines]


def rows(lab: Lab, name: str) -> list[str]:
    """What list says of an instance: the snapshot, who has taken it, and its state."""
    lines = lab.run(f"gnt-zfs snapshot list {name}").splitlines()[1:]
    return [" ".join((line.split()[1], *line.split()[6:8])) for line in lines]


def macs(lab: Lab, name: str) -> list[str]:
    return lab.run(f"gnt-instance list --no-headers -o nic.macs {name}").split()


@pytest.mark.on("bookworm")
def test_files_go_back_and_forth(lab: Lab) -> None:
    lab.add("web1", disks=("64M", "32M"))
    first = lab.fill("web1")
    lab.run("gnt-instance start web1")
    said = lab.run("gnt-zfs snapshot create web1 upgrade --comment 'before 13'")
    assert said.startswith("gnt-upgrade is a snapshot of web1 on node2.example.com: its 2 disks, at one moment.")
    second = lab.fill("web1")
    lab.run("gnt-zfs snapshot create web1")
    newest = snapshots(lab, "web1")[-1]
    assert "web1: is running: gnt-instance stop web1" in lab.fails("gnt-zfs snapshot rollback --yes web1 upgrade")
    lab.run("gnt-instance stop web1")
    lab.node2.run("zfs snapshot zfs/vm/web1@autosnap_2026-11-01_00:00:00_daily")
    third = lab.fill("web1")

    # what would be done is said and not done
    said = lab.run("gnt-zfs snapshot rollback --dry-run web1 upgrade")
    assert said.splitlines()[0] == "zfs/vm/web1 goes back to gnt-upgrade"
    assert f"and what is newer than gnt-upgrade: {newest}, autosnap_2026-11-01_00:00:00_daily" in said
    assert lab.sums("web1") == third
    # somebody who looks into a disk keeps it
    lab.node2.run(f"(exec 3<{lab.disks('web1')[0]}; sleep 600) >/dev/null 2>&1 & echo $! > /tmp/holder")
    assert "web1: its disks are in use by process" in lab.fails("gnt-zfs snapshot rollback --yes web1 upgrade")
    lab.node2.run("pkill -P $(cat /tmp/holder); kill $(cat /tmp/holder); rm /tmp/holder")

    said = lab.run("gnt-zfs snapshot rollback --yes web1 upgrade")
    (entry,) = lab.trash()
    assert f"gnt-zfs trash restore {entry} --as ANOTHER-NAME makes an instance of it." in said
    assert lab.sums("web1") == first
    assert snapshots(lab, "web1") == ["gnt-upgrade"]
    assert lab.sums_in_trash(entry) == sorted(third)
    assert snapshots(lab, f".trash/{entry}") == [newest, "autosnap_2026-11-01_00:00:00_daily"]
    lab.run("gnt-instance start web1")
    lab.run("gnt-instance stop web1")
    lab.well()

    # what it was becomes an instance of its own; then that keeps the snapshot
    lab.run(f"gnt-zfs trash restore {entry} --as before")
    assert lab.sums("before") == third
    said = lab.fails("gnt-zfs snapshot delete --yes web1 upgrade")
    assert "the disk of before is a clone of it: gnt-zfs detach before makes it independent" in said
    # Ganeti has given its files new names since, which they keep
    lab.run(f"gnt-zfs snapshot rollback --yes before {newest}")
    assert lab.sums("before") == second
    lab.run("gnt-instance remove -f before")
    lab.run("gnt-zfs trash empty --with-snapshots --yes")

    # or what is newer goes for good
    lab.node2.run("zfs snapshot zfs/vm/web1@autosnap_2026-11-02_00:00:00_daily")
    lab.fill("web1")
    lab.run("gnt-zfs snapshot rollback --yes --discard web1 upgrade")
    assert (lab.sums("web1"), lab.trash()) == (first, [])
    lab.run("gnt-zfs snapshot delete --yes web1 upgrade")
    assert snapshots(lab, "web1") == []
    lab.well()


@pytest.mark.on()
def test_volumes_go_back_together_or_not_at_all(lab: Lab) -> None:
    lab.add_ext("ext1", disks=("64M,compression=zstd", "32M"))
    first_volume, second_volume = lab.volumes("ext1")
    lab.run("gnt-instance start ext1")
    first = lab.fill_volumes("ext1")
    # what was written a moment ago and is in the device's cache is in it
    lab.node2.run(f"echo late | dd of=/dev/zfsganeti/{first_volume} bs=1 seek=1000 conv=notrunc status=none")
    said = lab.run("gnt-zfs snapshot create ext1 one")
    assert "its 2 disks, at one moment. It is running, so this is what a power cut would leave." in said
    first = lab.volume_sums("ext1")
    lab.fill_volumes("ext1")
    lab.run("gnt-zfs snapshot create ext1 two")
    assert rows(lab, "ext1") == ["gnt-one gnt-zfs whole", "gnt-two gnt-zfs whole"]
    later = lab.volume_sums("ext1")
    lab.run("gnt-instance stop ext1")

    # a clone while nothing else is done; the snapshot stays for as long as it is one
    lab.run("gnt-zfs snapshot clone ext1 one copy")
    assert lab.run("gnt-instance list --no-headers -o admin_state copy").strip() == "down"
    assert set(macs(lab, "copy")).isdisjoint(macs(lab, "ext1"))
    lab.run("gnt-instance start copy")
    assert lab.volume_sums("copy") == first
    said = lab.fails("gnt-zfs snapshot delete --yes ext1 one")
    assert "the disk of copy is a clone of it: gnt-zfs detach copy makes it independent" in said
    assert lab.trash() == []

    # cut off in the middle: one disk is back, the other is not
    lab.node2.write("/root/half.py", HALF)
    lab.node2.run(f"python3 /root/half.py {second_volume}; rm /root/half.py")
    assert "a rollback to gnt-one was interrupted" in lab.fails("gnt-instance start ext1")
    assert "ext1: its rollback to gnt-one was not finished (--repair does it)" in lab.fails("gnt-zfs check")
    assert "holds again what it held" in lab.run("gnt-zfs snapshot rollback --abort --dry-run ext1 one")
    assert "is as it was before its rollback to gnt-one" in lab.run("gnt-zfs snapshot rollback --abort --yes ext1 one")
    assert lab.volume_sums("ext1") == later
    assert snapshots(lab, second_volume) == ["gnt-one", "gnt-two"]
    lab.well()
    lab.node2.write("/root/half.py", HALF)
    lab.node2.run(f"python3 /root/half.py {second_volume}; rm /root/half.py")
    assert lab.watch() == ""  # the watcher ends it
    assert lab.volume_sums("ext1") == first
    assert lab.node2.run(f"zfs get -H -s local -o value compression zfs/vm/{first_volume}").strip() == "zstd"
    assert len(lab.trash()) == 2
    lab.run("gnt-instance start ext1")
    assert lab.volume_sums("ext1") == first
    lab.run("gnt-instance stop ext1")
    entry = next(entry for entry in lab.trash() if entry.startswith(first_volume))
    lab.run(f"gnt-zfs trash restore {entry} --as was")
    assert lab.volume_sums("was") == later
    lab.well()


HALF = """
import os, sys
from zfsganeti.answer import VERBS
from zfsganeti.ganeti import Master
from zfsganeti.here import Here
from zfsganeti.rollback import Rollback
from zfsganeti.snapshots import asked

exchange = Rollback._exchange

def cut(self, part):
    exchange(self, part)
    if part.short == sys.argv[1]:
        os._exit(0)

Rollback._exchange = cut
here = Here(lambda: VERBS)
instance = Master().instances()["ext1"]
here.call(here.node, "rollback", **asked(instance), snapshot="one", record=instance.record())
"""


@pytest.mark.on()
def test_files_are_cloned(lab: Lab) -> None:
    lab.add("web1", disks=("64M", "32M"))
    first = lab.fill("web1")
    lab.run("gnt-zfs snapshot create web1 one")
    lab.fill("web1")
    lab.run("gnt-instance grow-disk web1 1 16m")
    lab.run("gnt-zfs snapshot clone web1 one copy")
    grown = lab.node2.run(f"head -c {32 << 20} {lab.disks('copy')[1]} | sha256sum").split()[0]
    assert [lab.sums("copy")[0], grown] == first
    assert lab.node2.run(f"stat -c %s {lab.disks('copy')[1]}").strip() == str(48 << 20)
    assert "exists: choose another name" in lab.fails("gnt-zfs snapshot clone web1 one copy")
    assert lab.trash() == []
    lab.run("gnt-zfs detach --wait copy")
    lab.run("gnt-zfs snapshot delete --yes web1 one")
    lab.well()


@pytest.mark.on()
def test_sanoid_and_syncoid_beside_us(lab: Lab) -> None:
    lab.add("web1")
    lab.add_ext("ext1", disks=("32M",))
    sums = lab.fill("web1")
    lab.add("gone")
    lab.run("gnt-instance remove -f gone")
    node = lab.node2
    node.run("mkdir -p /etc/sanoid && gnt-zfs snapshot policy > /etc/sanoid/sanoid.conf")
    node.run("sanoid --take-snapshots", seconds=300)
    taken = {line.split("@")[0] for line in node.run("zfs list -H -o name -t snapshot -r zfs/vm").split() if "@autosnap_" in line}
    assert taken == {"zfs/vm/web1", f"zfs/vm/{lab.volumes('ext1')[0]}"}
    (daily,) = [short for short in snapshots(lab, "web1") if short.endswith("_daily")]
    assert {row.split()[1] for row in rows(lab, "web1")} == {"sanoid"}

    # syncoid takes an instance elsewhere, and what has happened since
    node.run("syncoid --no-privilege-elevation --quiet zfs/vm/web1 zfs/backup", seconds=300)
    newer = lab.fill("web1")
    node.run("syncoid --no-privilege-elevation --quiet zfs/vm/web1 zfs/backup", seconds=300)
    look = (
        "mkdir -p /tmp/look && mount -t zfs -o zfsutil zfs/backup /tmp/look; sha256sum /tmp/look/*disk0; umount /tmp/look; rmdir /tmp/look"
    )
    assert node.run(f"zfs set mountpoint=none zfs/backup; {look}").split()[0] == newer[0]

    # their snapshots are respected: nothing of ours destroys one unasked
    assert f"snapshot {daily}: is sanoid's, which may rely on it: --any deletes it all the same" in lab.fails(
        f"gnt-zfs snapshot delete --yes web1 {daily}"
    )
    lab.run(f"gnt-instance rename {'-f --no-name-check --no-ip-check' if lab.generation == 'bookworm' else ''} web1 web2")
    assert daily in snapshots(lab, "web2")
    lab.run(f"gnt-zfs snapshot rollback --yes web2 {daily}")
    assert lab.sums("web2") == sums
    assert daily in snapshots(lab, "web2")
    lab.run("gnt-instance remove -f web2")
    (entry,) = [entry for entry in lab.trash() if entry.startswith("web2:") and daily in snapshots(lab, f".trash/{entry}")]
    assert "has the clone" in lab.fails(f"gnt-zfs trash empty --yes {entry}")
    lab.run(f"gnt-zfs trash restore {entry}")
    assert lab.sums("web2") == sums
    assert daily in snapshots(lab, "web2")
    node.run("sanoid --prune-snapshots", seconds=300)
    lab.well()
    node.run("zfs destroy -r zfs/backup; rm -r /etc/sanoid")
