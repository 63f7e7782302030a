"""gnt-instance add -t file: the dataset, the vetoes, and what a failed or dry run leaves."""

from __future__ import annotations

import pytest

from .conftest import DIRECTORY, Lab


def test_add_makes_a_dataset_on_the_primary_only(lab: Lab) -> None:
    lab.add("web1", disks=("64M", "32M"))
    assert [lab.datasets(node) for node in ("node1", "node2", "node3")] == [[], ["web1"], []]
    assert lab.mounted("web1")
    assert lab.node2.run(f"stat -c %a {DIRECTORY}/web1").strip() == "750"
    assert lab.node2.run("zfs get -H -o value,source org.zfsganeti:instance zfs/vm/web1").split() == ["web1", "local"]
    assert len(lab.disks("web1")) == 2
    lines = lab.run("gnt-zfs list").splitlines()
    assert lines[0].split() == ["INSTANCE", "NODE", "DATASET", "USED", "REFER", "SNAPS", "MOUNTED"]
    assert (lines[1].split()[:3], lines[1].split()[-1]) == (["web1", "node2", "zfs/vm/web1"], "yes")

    # one that other hooks have made is taken over, told by the disks in it
    lab.node2.run("for mark in instance cluster; do zfs inherit org.zfsganeti:$mark zfs/vm/web1; done")
    said = lab.run("gnt-zfs check --repair")
    assert said == "node2.example.com: web1: dataset zfs/vm/web1 holds its disks and is not marked as ours (repaired)\n"
    lab.well()


@pytest.mark.on("bookworm")
def test_what_is_in_the_way_or_too_large_vetoes(lab: Lab) -> None:
    lab.node2.run(f"zfs create zfs/vm/foreign; mkdir {DIRECTORY}/full; touch {DIRECTORY}/full/file")
    said = lab.fails(lab.add_command("foreign"))
    assert "node2: dataset zfs/vm/foreign: was not made by zfsganeti: rename it or choose another instance name" in said
    said = lab.fails(lab.add_command("full"))
    assert f"node2: {DIRECTORY}/full: is in the way and not empty: move it away" in said
    said = lab.fails(lab.add_command("huge", disks=("15G", "10G")))
    assert "node2: huge on zfs/vm: 25.0G asked for, " in said
    said = lab.fails(lab.add_command("apart", more="--file-storage-dir=sub"))
    assert "node1: apart: --file-storage-dir puts its disks outside its dataset: leave the option out" in said
    assert lab.instances() == []
    lab.node2.run(f"zfs destroy zfs/vm/foreign; rm -r {DIRECTORY}/full")
    lab.configure("leftover_minutes = 0\n")
    assert lab.watch() == ""
    lab.unconfigure()
    assert lab.datasets() == []


@pytest.mark.on("trixie")
def test_a_pool_that_is_not_healthy_vetoes(lab: Lab) -> None:
    lab.node3.run("truncate -s 20G /var/tmp/second; zpool attach tank vdb /var/tmp/second")
    lab.node3.wait("zpool status tank | grep -q resilvered")
    lab.node3.run("zpool offline tank /var/tmp/second")
    said = lab.fails(lab.add_command("ill", node="node3"))
    assert "node3: pool tank: is DEGRADED: zpool status tank" in said
    assert "node3.example.com: pool tank is DEGRADED: zpool status tank" in lab.fails("gnt-zfs check")
    lab.configure("allow_degraded = 1\n", "node3")
    lab.add("ill", node="node3")
    lab.unconfigure("node3")
    lab.node3.run("zpool detach tank /var/tmp/second; rm /var/tmp/second")


@pytest.mark.on("trixie")
def test_a_dry_run_and_an_add_that_fails_later(lab: Lab) -> None:
    lab.run(lab.add_command("maybe", more="--dry-run"))
    assert "maybe" not in lab.datasets(), "a master candidate knows that it is a dry run"
    lab.deny("instance-add-pre")
    lab.fails(lab.add_command("later"))
    lab.fails(lab.add_command("never"))
    lab.allow("instance-add-pre")
    assert lab.instances() == []
    assert {"later", "never"} <= set(lab.datasets())
    # the next add of that name uses it
    lab.add("later")
    assert lab.watch() == ""
    assert {"later", "never"} <= set(lab.datasets()), "it may be of an instance that is being added: too young for the watcher"
    assert "node2.example.com: never: empty leftover zfs/vm/never without an instance (repaired)" in lab.run("gnt-zfs check --repair")
    assert lab.datasets() == ["later"]
    lab.node2.run("zfs create -o org.zfsganeti:cluster=cluster.example.com -o org.zfsganeti:instance=old zfs/vm/old")
    lab.configure("leftover_minutes = 0\n")
    assert lab.watch() == ""
    lab.unconfigure()
    assert lab.datasets() == ["later"]


@pytest.mark.on("trixie")
def test_forthcoming_and_commit(lab: Lab) -> None:
    lab.run(lab.add_command("soon", more="--forthcoming"))
    # Ganeti commits only what an allocator is named for (it asserts otherwise) and then asks none
    lab.run(lab.add_command("soon", more="--commit").replace("-n node2.example.com", "-I hail"))
    assert lab.mounted("soon")
    assert len(lab.disks("soon")) == 1


@pytest.mark.on()
def test_other_templates_do_not_need_the_library(lab: Lab) -> None:
    """Without our library, instances on LVM go on as if we were not there; those on file storage are refused in one line."""
    package = "/usr/lib/python3/dist-packages/zfsganeti"
    for node in lab.nodes:
        node.run(f"mv {package} {package}.away")
    plain = lab.add_command("plain").replace("-t file", "-t plain")
    try:
        lab.run(plain)
        lab.run("gnt-instance remove -f plain")
        said = lab.fails(lab.add_command("lost"))
    finally:
        for node in lab.nodes:
            node.run(f"mv {package}.away {package}")
    assert "zfsganeti's library cannot be loaded (No module named 'zfsganeti'): reinstall zfsganeti" in said
