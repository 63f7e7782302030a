"""Instances of another ExtStorage provider, which keeps zvols, become ours as the guide says."""

from __future__ import annotations

import pytest

from .conftest import Lab
from .test_9_guides import OTHER_PROVIDERS, told, type_all

VERBS = ("create", "attach", "detach", "remove", "grow", "setinfo", "verify")
PLACE = "/usr/share/ganeti/extstorage/otherzfs"
# in the manner of those that there are, in one file
PROVIDER = """#!/bin/sh
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
volume=$OTHERZFS/$VOL_NAME
device=/dev/zvol/$volume
case ${0##*/} in
create)
    zfs create -s -V "${VOL_SIZE}M" "$volume"
    udevadm settle
    ;;
attach)
    test -b "$device"
    printf %s "$device"
    ;;
remove) zfs destroy -r "$volume" ;;
grow) zfs set "volsize=${VOL_NEW_SIZE}M" "$volume" ;;
setinfo) zfs set "otherzfs:metadata=$VOL_METADATA" "$volume" ;;
detach | verify) ;;
esac
"""


@pytest.fixture
def other_provider(lab: Lab) -> str:
    """Every node has a provider otherzfs, whose zvols lie beside our root; the node's saved state takes it back."""
    lab.run("touch /var/tmp/changed")
    for node, pool in zip(lab.nodes, ("zfs", "zfs", "tank"), strict=True):
        node.run(f"mkdir -p {PLACE} && : > {PLACE}/parameters.list && zfs create -o mountpoint=none {pool}/other")
        for verb in VERBS:
            node.write(f"{PLACE}/{verb}", PROVIDER.replace("$OTHERZFS", f"{pool}/other"), "755")
    return "otherzfs"


@pytest.mark.on()
def test_disks_of_another_provider_become_ours(lab: Lab, other_provider: str) -> None:
    disks = f"--disk 0:size=48M,provider={other_provider} --disk 1:size=16M,provider={other_provider}"
    lab.run(lab.add_command("web2", disks=(), more=disks).replace("-t file", "-t ext").replace("--no-disks", ""))
    zvols = sorted(lab.node2.run("zfs list -H -o name -t volume -r zfs/other").split(), key=lambda name: name.rsplit("disk", 1)[1])
    for zvol, count in zip(zvols, (40, 16), strict=True):
        lab.node2.run(f"dd if=/dev/urandom of=/dev/zvol/{zvol} bs=1M count={count} conv=fsync status=none")
    sums = [lab.node2.run(f"sha256sum /dev/zvol/{zvol}").split()[0] for zvol in zvols]
    lab.run("gnt-instance start web2")
    assert "otherzfs" in lab.run("gnt-instance info --all")
    lab.well()  # what is another's is no matter of ours

    # as on a node where the other one is called zfs: its copy names the files that lead back to it
    lab.node2.run("mkdir -p /tmp/extstorage/zfs && echo '. /srv/ganeti/extstorage/zfs/config' > /tmp/extstorage/zfs/create")
    lab.node2.run("touch /tmp/extstorage/zfs/attach; cd /tmp/extstorage && cp -a zfs oldzfs")
    assert lab.node2.run("cd /tmp/extstorage && grep -rlI extstorage/zfs oldzfs") == "oldzfs/create\n"

    said = type_all(lab, told("migrating").partition(OTHER_PROVIDERS)[2])
    assert "otherzfs" in said["gnt-storage diagnose"]
    assert "otherzfs" not in lab.run("gnt-instance info --all")
    assert lab.volume_sums("web2") == sums
    assert lab.node2.run("zfs list -H -o name -t volume -r zfs/other") == ""
    assert "running" in lab.run("gnt-instance list --no-headers -o status web2")
    assert lab.trash() == []
    lab.well()
