"""The guides, word for word: two fresh machines and what Getting started says to type, then what all the others say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import Cluster
from .conftest import GENERATION, Lab
from .machine import Machine
from .product import ROOT
from .test_9_package import build

GUIDES = ROOT / "docs"
IMAGE = "qemu-img create -q -f qcow2 /root/debian-12.qcow2 2G && qemu-io -c 'write -P 7 1M 1M' /root/debian-12.qcow2 >/dev/null"
BARE = """nic=$(basename "$(ls -d /sys/class/net/e* | head -n 1)")
address=$(cat /sys/class/net/br0/address)
ip link delete br0
ip link set "$nic" down
ip link set "$nic" address "$address"
ip link set "$nic" name eth0
ip link set eth0 up
ip address add {address}/24 dev eth0
printf '%s\\n' '127.0.0.1 localhost' '127.0.1.1 {fqdn} {name}' > /etc/hosts
rm -r /srv/ganeti/os/noop
"""  # the hardware address stays that of the bridge, since the other machines remember it
OTHER_PROVIDERS = "## From other ExtStorage providers"  # is told in a story of its own
ADD = "gnt-instance add"
LOOKED_UP = f"{ADD} --no-name-check --no-ip-check" if GENERATION == "bookworm" else ADD  # as the guide says of Debian 12


@pytest.fixture
def fresh_machines() -> Iterator[list[Machine]]:
    """Two machines with a disk to spare, as Debian's installer leaves them but for what the guide has apt fetch: the lab has no network.

    They have no bridge, no name but their own, and no OS definition. Their kernel is Debian's for clouds, whose headers are there.
    """
    cluster = Cluster(GENERATION, "guide")
    cluster.stop()
    nodes = cluster.machines()[:2]
    try:
        cluster.begin(nodes)
        for node in nodes:
            node.write("/tmp/bare", BARE.format(address=node.address, fqdn=node.fqdn, name=node.name))
            node.run("sh -e /tmp/bare")  # in one go: half of it cuts the line on which it comes
        yield nodes
    finally:
        cluster.stop()


def told(guide: str) -> str:
    return (GUIDES / f"{guide}.md").read_text(encoding="utf-8")


def typed(text: str) -> list[tuple[str, str]]:
    """Return what a guide, or a part of one, says to type, each with the node it is typed on."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(line.partition("# ")[0], line.partition("# ")[2]) for block in blocks for line in block.splitlines()]


def introduce(master: Machine, node: Machine) -> None:
    """The master may log in without the password that a person would be asked for."""
    node.run("cat >> /root/.ssh/authorized_keys", stdin=master.run("cat /root/.ssh/*.pub").encode())
    master.run(f"ssh-keyscan {node.fqdn} >> /root/.ssh/known_hosts 2>/dev/null")


@pytest.mark.on()
def test_two_fresh_machines_become_a_cluster_with_an_instance_from_an_image(fresh_machines: list[Machine], tmp_path: Path) -> None:
    nodes = {node.name: node for node in fresh_machines}
    package = build(tmp_path)
    for node in fresh_machines:
        node.run(f"cat > /root/{package.name}", stdin=package.read_bytes())
    nodes["node1"].run(IMAGE)
    nodes["node2"].run("hostnamectl set-hostname node2.example.com")
    said = {}
    for name, command in typed(told("getting-started")):
        if command.startswith("gnt-node add"):
            introduce(nodes["node1"], nodes["node2"])
        said[command] = nodes[name].run(f"cd /root; {command.replace(ADD, LOOKED_UP)}")
    assert len(said) > 20
    assert said["hostname -f"].strip() == "node2.example.com"
    assert "All is well on 2 nodes." in said["gnt-zfs check"]
    assert "running" in nodes["node1"].run("gnt-instance list --no-headers -o status web1")
    assert "is a clone of image debian-12 already" in nodes["node2"].run("cat /var/log/ganeti/os/add-zfs-image+debian-12-web1-*")
    volume = nodes["node2"].run("ls /dev/zfsganeti").split()[0]
    assert nodes["node2"].run(f"dd if=/dev/zfsganeti/{volume} bs=1M skip=1 count=1 status=none | tr -d '\\007' | wc -c").strip() == "0"


def type_all(lab: Lab, text: str, backup: str = "", **instead: str) -> dict[str, str]:
    """Everything is typed at a terminal, where a person says yes; return what each command printed.

    `backup` is the node that plays the machine of this name.
    """
    said = {}
    for name, line in typed(text):
        command = line
        for old, new in instead.items():
            command = command.replace(old, new)
        node = lab.node(backup if name == "backup" else name)
        node.write("/tmp/typed", f"{command.replace(ADD, LOOKED_UP)}\n")
        said[command] = node.run("printf 'y\\n' | script -qec 'sh /tmp/typed' /dev/null")
    return said


def back_up(lab: Lab, primaries: dict[str, str]) -> None:
    """What is on node1 has been sent to node3, which belongs to no instance and plays the backup machine, and can be read there."""
    node = lab.master
    for name in primaries:
        if primaries[name] != node.fqdn:
            lab.run(f"gnt-zfs move --yes {name} node1")
    node.run("systemctl unmask sanoid.timer")  # masked in the lab, that it takes no snapshots in between
    introduce(lab.node3, node)
    type_all(lab, told("backup"), "node3", **{"backup/node1": "tank/backup/node1"})
    node.run("systemctl is-active sanoid.timer")
    assert "zfs/vm" in node.run("cat /etc/sanoid/sanoid.conf")
    node.run("systemctl disable --now sanoid.timer && systemctl mask sanoid.timer")
    volume = lab.volumes("web1", "node1")[0]
    newest = lab.node3.run(f"zfs list -H -o name -s createtxg -t snapshot tank/backup/node1/{volume}").split()[-1]
    read = "mkdir -p /tmp/look && mount -t zfs {snapshot} /tmp/look && sha256sum /tmp/look/disk.raw; umount /tmp/look"
    there = lab.node3.run(read.format(snapshot=newest)).split()[0]
    assert there == node.run(read.format(snapshot=f"zfs/vm/{volume}@{newest.partition('@')[2]}")).split()[0]
    lab.node3.run("zfs destroy -r tank/backup")


@pytest.mark.on()
def test_a_pool_on_a_logical_volume_as_the_guide_says(lab: Lab) -> None:
    """Where it is no block, the guide's commands are in a sentence; node3's own pool has another name, but its root is below /zfs."""
    lvcreate, zpool = re.findall(r"`(lvcreate -n zfs [^`]+|zpool create [^`]+/vg0/zfs)`", told("getting-started"))
    for command in (lvcreate, zpool):
        lab.node3.run(command.replace("500G", "1G").replace("vg0", "ganeti").replace("zpool create", "zpool create -m none"))
    assert lab.node3.run("zpool list -H -o health zfs").strip() == "ONLINE"
    lab.node3.run("zpool destroy zfs && lvremove --yes ganeti/zfs")
    lab.well()


@pytest.mark.on()
def test_what_the_guides_say_of_the_machine_can_be_typed(lab: Lab) -> None:
    assert "zfs-dkms" in lab.node2.run("apt policy zfs-dkms")
    lab.add("web1")
    sums = lab.fill("web1")
    lab.run("gnt-job list --running")
    job = lab.run("gnt-job list --no-headers -o id").split()[-1]
    assert f"Job ID: {job}" in lab.run(f"gnt-job info {job}")
    lab.fails(f"gnt-job cancel {job}")  # which has ended

    # all state is on the datasets, whoever is the master
    lab.node2.run("gnt-cluster master-failover")
    assert lab.node2.run("gnt-zfs check") == "All is well on 3 nodes.\n"
    assert "web1" in lab.node2.run("gnt-zfs list")
    lab.run("gnt-cluster master-failover")
    assert lab.sums("web1") == sums
    lab.well()


@pytest.mark.on()
def test_what_the_other_guides_say_can_be_typed(lab: Lab) -> None:
    lab.node2.run(IMAGE)
    wanted = lab.node2.run("sha256sum /root/debian-12.qcow2").split()[0]
    type_all(lab, told("images"), **{"https://example.com/": "/root/", "SUM": wanted})
    for name in ("web1", "web2"):
        lab.run(f"gnt-instance start {name}")
    said = type_all(lab, told("snapshots"))
    assert "gnt-upgrade" in said["gnt-zfs snapshot list web1"]
    assert "web1-test" in lab.instances()
    type_all(lab, told("moves"))
    primaries = dict(line.split() for line in lab.run("gnt-instance list --no-headers -o name,pnode").splitlines())
    assert "node3.example.com" not in primaries.values()
    lab.run("gnt-instance stop web1-test; gnt-zfs detach web1-test --wait && gnt-instance start web1-test")
    back_up(lab, primaries)

    lab.run("gnt-instance remove -f web1")
    lab.run(lab.add_command("web1", disks=("32M",)).replace("-t file", "-t plain"))
    lab.run("gnt-instance start web1")
    type_all(lab, told("migrating").partition(OTHER_PROVIDERS)[0])
    assert lab.run("gnt-instance list --no-headers -o disk_template,status web1").split() == ["ext", "running"]
    lab.well()
