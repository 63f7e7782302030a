"""gnt-zfs adopt: from LVM to ZFS, copied while the instance runs and its disk is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from .conftest import DIRECTORY, Lab

HERE = Path(__file__).parent
NIC = "--net 0:mac=aa:00:00:12:34:58,ip=192.0.2.79,mode=bridged,link=br0"
FIELDS = "name,uuid,pnode,os,status,disk.sizes,disk.names,nic.macs,nic.ips,tags,custom_beparams,hypervisor"
SEEN = f"gnt-instance list --no-headers --separator=';' -o {FIELDS}"
GUEST = """#!/bin/sh
# the guest writes until it is stopped
test "$GANETI_INSTANCE_NAME" != web1 || touch /tmp/guest.stop
sleep 1
"""


class Machine:
    """An instance with two disks on LVM, `devices` for its guest, and a guest that writes to the first of them."""

    def __init__(self, lab: Lab, disks: tuple[str, ...] = ("129M", "16M,mode=ro,name=data"), *, template: str = "plain") -> None:
        self.lab = lab
        node = "node2" if template == "plain" else "node2.example.com:node3"
        more = f"{NIC} --tags blue -B vcpus=2"
        lab.run(lab.add_command("web1", node=node, disks=disks, more=more).replace("-t file", f"-t {template}"))
        volumes = [path for path in lab.node2.run("lvs --noheadings -o path ganeti").split() if not path.endswith("_meta")]
        self.old = sorted(volumes, key=lambda path: path.rsplit("disk", 1)[1])
        lab.run("gnt-instance activate-disks web1")
        self.devices = self.old if template == "plain" else sorted(lab.node2.run("ls -d /dev/drbd[0-9]*").split())
        for device, count in zip(self.devices, (40, 4), strict=True):
            lab.node2.run(f"dd if=/dev/urandom of={device} bs=1M count={count} oflag=direct status=none")
            end = f"seek=$(( $(blockdev --getsize64 {device}) / 1048576 - 2 ))"
            lab.node2.run(f"dd if=/dev/urandom of={device} bs=1M count=2 {end} oflag=direct status=none")
        lab.run("gnt-instance deactivate-disks web1")
        lab.node2.write("/tmp/guest_writes.py", (HERE / "guest_writes.py").read_text(encoding="utf-8"))
        lab.node2.run("mkdir -p /etc/ganeti/hooks/instance-stop-pre.d")
        lab.node2.write("/etc/ganeti/hooks/instance-stop-pre.d/guest", GUEST, "755")

    def start(self) -> None:
        self.lab.run("gnt-instance start web1")
        self.write()

    def write(self) -> None:
        self.lab.node2.run("rm -f /tmp/guest.stop")
        self.lab.node2.run(f"setsid python3 /tmp/guest_writes.py {self.devices[0]} /tmp/guest.stop > /tmp/guest.log 2>&1 < /dev/null &")

    def wrote(self) -> int:
        return int(self.lab.node2.run("cat /tmp/guest.log"))

    def old_sums(self) -> list[str]:
        return [line.split()[0] for line in self.lab.node2.run(f"sha256sum {' '.join(self.old)}").splitlines()]


def adopt(lab: Lab, words: str) -> str:
    """Return what a whole adoption says: ten of Ganeti's jobs, each of which may take a minute on a busy machine."""
    return lab.master.run(f"gnt-zfs adopt --yes {words}", seconds=1800)


def new_sums(lab: Lab, kind: str, owner: str = "web1") -> list[str]:
    return lab.sums(owner) if kind == "file" else lab.volume_sums(owner)


def adopted(lab: Lab, said: str) -> None:
    assert re.search(r"disk 0: \S+ compared, \S+ written", said)
    compared = re.search(r"disk 0: (\S+)M compared", said)
    assert compared is None or float(compared[1]) < 100, "in the downtime only what has changed is looked at"
    assert re.search(r"web1 was down for \d+\.\d s", said)
    print(said)
    lab.well()


@pytest.mark.on()
def test_from_lvm_to_files_and_back(lab: Lab) -> None:
    web = Machine(lab)
    web.start()
    before = lab.run(f"{SEEN} web1")
    planned = lab.run("gnt-zfs adopt --dry-run web1")
    assert "2 disks of 148M on LVM (-t plain) to -t file in zfs/vm" in planned
    assert lab.instances() == ["web1"]

    adopted(lab, adopt(lab, "--verify web1"))
    assert web.wrote() > 0
    assert lab.run(f"{SEEN} web1") == before
    assert lab.mounted("web1")
    assert new_sums(lab, "file") == web.old_sums()
    used = lab.node2.run(f"du -m {lab.disks('web1')[0]}").split()[0]
    assert int(used) < 80, "what was empty is empty"
    assert "zfsganeti" not in lab.node2.run("lvs ganeti")
    assert "@" not in lab.node2.run("zfs list -H -t all -o name -r zfs/vm")
    assert [one["state"] for one in json.loads(lab.run("gnt-zfs adopt --list --json"))] == ["kept"]
    assert "web1 is adopted already" in adopt(lab, "web1")

    old = web.old_sums()
    lab.node2.run(f"echo since | dd of={lab.disks('web1')[0]} conv=notrunc status=none")
    adopt(lab, "--rollback web1")
    assert lab.run(f"{SEEN} web1") == before
    assert lab.instances() == ["web1"]
    assert web.old_sums() == old
    assert [name.split(":")[0] for name in lab.trash()] == ["adopt-web1"]
    lab.well()


@pytest.mark.on()
def test_from_lvm_to_volumes_for_good(lab: Lab) -> None:
    web = Machine(lab, ("400M", "16M,mode=ro,name=data"))
    # a group in which snapshots get less room than the disk has
    lab.node2.run(
        "lvcreate -q -y -n filler -L $(( $(vgs --noheadings --units m --nosuffix -o vg_free ganeti | cut -d. -f1) - 700 ))M ganeti"
    )
    before = lab.run(f"{SEEN} web1")
    # given up before it is switched
    lab.deny("instance-modify-pre", "node2")
    lab.fails("gnt-zfs adopt --yes -t ext web1")
    assert "its adoption is not finished: gnt-zfs adopt web1 goes on" in lab.fails("gnt-zfs check")
    lab.allow("instance-modify-pre", "node2")
    adopt(lab, "--abort web1")
    assert lab.datasets() == []
    assert lab.run(f"{SEEN} web1") == before

    # the command is killed while it copies, and while Ganeti exchanges the disks
    web.start()
    before = lab.run(f"{SEEN} web1")
    kill = "until {}; do sleep 0.1; done; pkill -9 -f '[s]bin/gnt-zfs adopt'"
    for seen in (
        "ssh node2.example.com lvs --noheadings ganeti | grep -q zfsganeti",
        "gnt-instance list --no-headers -o status web1 | grep -q down",
    ):
        lab.master.execute(f'(timeout 1500 sh -c "{kill.format(seen)}") & gnt-zfs adopt --yes -t ext web1; wait', seconds=1800)
        assert "its adoption is not finished" in lab.fails("gnt-zfs check")
        if "zfsganeti" in seen:
            assert "has the unfinished copy of web1's disks" in lab.fails("gnt-instance start adopt-web1")
    adopt(lab, "--verify web1")
    assert lab.run(f"{SEEN} web1") == before
    assert new_sums(lab, "ext") == web.old_sums()
    lab.well()

    adopt(lab, "--commit web1")
    lab.node2.run("lvremove -q -y ganeti/filler")
    assert lab.instances() == ["web1"]
    assert not lab.node2.run("lvs --noheadings ganeti").strip()
    assert lab.trash() == []
    assert len(lab.volumes("web1")) == 2
    assert not lab.node2.execute(f"ls -d {DIRECTORY}/adopt-web1").stdout
    lab.well()


@pytest.mark.on()
def test_a_stopped_instance_and_a_full_group(lab: Lab) -> None:
    web = Machine(lab)
    lab.run("gnt-instance start web1")
    lab.node2.run("lvcreate -q -y -n filler -l 100%FREE ganeti")
    assert "for snapshots: 128M asked for, 0B available: --offline needs none" in lab.fails("gnt-zfs adopt --yes web1")

    # stopped, and something on the node uses a disk of it
    lab.run("gnt-instance stop web1")
    loop = lab.node2.run(f"losetup -f --show {web.old[0]}").strip()
    assert f"is used on node2.example.com by {loop}: free it, then the same command goes on" in lab.fails("gnt-zfs adopt --yes web1")
    lab.node2.run(f"losetup -d {loop}")
    lab.run("gnt-instance start web1")

    said = adopt(lab, "--offline web1")
    assert "web1 was down for" in said
    if lab.generation == "bookworm":  # whose kernel does not promise to count what is written to a logical volume
        assert said.count("compared once more, 0B written") == 2
    else:
        assert "once more" not in said, "nothing was written since the copy, and the kernel has counted that"
    assert new_sums(lab, "file") == web.old_sums()
    lab.node2.run("lvremove -q -y ganeti/filler")
    assert lab.fails("gnt-zfs adopt --yes -t ext adopt-web1").count("name the instance itself, web1")
    adopt(lab, "--commit web1")
    assert "is on ZFS already" in lab.fails("gnt-zfs adopt --yes web1")
    lab.well()


@pytest.mark.on()
def test_from_drbd_to_files_and_back_and_to_volumes_for_good(lab: Lab) -> None:
    for node in lab.nodes:
        node.run("echo options drbd minor_count=128 usermode_helper=/bin/true > /etc/modprobe.d/drbd.conf; modprobe -r drbd; modprobe drbd")
    templates = "plain,diskless,ext,file,drbd"
    enable = f"--enabled-disk-templates={templates} --ipolicy-disk-templates={templates}"
    lab.run(f"gnt-cluster modify --drbd-usermode-helper=/bin/true {enable}")
    web = Machine(lab, template="drbd")
    web.start()
    before = lab.run(f"{SEEN} web1")
    assert "2 disks of 148M on LVM (-t drbd) to -t file in zfs/vm" in lab.run("gnt-zfs adopt --dry-run web1")

    adopted(lab, adopt(lab, "--verify web1"))
    assert web.wrote() > 0
    assert lab.run(f"{SEEN} web1") == before
    assert new_sums(lab, "file") == web.old_sums()
    lab.well()

    adopt(lab, "--rollback web1")
    assert lab.run(f"{SEEN} web1") == before
    lab.run("gnt-instance list --no-headers -o snodes,disk_template web1 | grep -q 'node3.*drbd'")
    lab.node2.wait("grep -q 'ds:UpToDate/UpToDate' /proc/drbd")
    lab.well()

    web.write()
    adopted(lab, adopt(lab, "-t ext web1"))
    assert new_sums(lab, "ext") == web.old_sums()
    adopt(lab, "--commit web1")
    for node in (lab.node2, lab.node3):
        assert not node.run("lvs --noheadings ganeti").strip()
    lab.run("gnt-cluster verify")
    lab.well()
