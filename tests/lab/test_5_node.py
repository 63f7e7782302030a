"""What a node does by itself: mounting before a start, the watcher, cluster verify, and what it says when something is missing."""

from __future__ import annotations

import pytest

from .conftest import DIRECTORY, ROOTS, Lab


def test_an_unmounted_dataset_is_mounted_before_the_start(lab: Lab) -> None:
    lab.add("web1")
    sums = lab.fill("web1")
    lab.node2.run(f"umount {DIRECTORY}/web1")
    assert "node2.example.com: web1: dataset zfs/vm/web1 is not mounted (--repair does it)" in lab.fails("gnt-zfs check")
    assert "node2: web1: dataset zfs/vm/web1 is not mounted" in lab.fails("gnt-cluster verify")
    assert "  NO\n" in lab.run("gnt-zfs list")
    lab.run("gnt-instance start web1")
    assert lab.sums("web1") == sums
    lab.run("gnt-cluster verify")


def test_the_watcher_mounts(lab: Lab) -> None:
    lab.add("web1")
    lab.node2.run(f"umount {DIRECTORY}/web1")
    lab.node2.run("ganeti-watcher")
    assert lab.mounted("web1")
    # the root itself, as after a boot that did not mount it
    lab.node2.run(f"umount {DIRECTORY}/web1 {DIRECTORY}")
    assert lab.watch() == ""
    assert lab.mounted("web1")


def test_verify_names_orphans_and_the_wrong_node(lab: Lab) -> None:
    lab.add("web1")
    marks = "-o org.zfsganeti:cluster=cluster.example.com -o org.zfsganeti:instance"
    lab.node2.run(f"zfs create {marks}=orphan zfs/vm/orphan; echo data > {DIRECTORY}/orphan/disk")
    lab.node3.run(f"zfs create {marks}=web1 tank/vm/web1; echo data > {DIRECTORY}/web1/disk")
    said = lab.fails("gnt-cluster verify")
    assert "node2: orphan: dataset zfs/vm/orphan holds" in said
    assert "node3: web1: dataset tank/vm/web1 holds" in said
    assert "but the instance is on node2.example.com" in said
    lab.run("gnt-zfs check --repair")
    assert [name.split(":")[0] for name in lab.trash()] == ["orphan"]
    assert [name.split(":")[0] for name in lab.trash("node3")] == ["web1"]
    lab.run("gnt-cluster verify")


def test_the_only_data_is_never_put_into_the_trash(lab: Lab) -> None:
    """The configuration points at a node without the dataset: that one is not touched, and the way back is said."""
    lab.add("web1")
    sums = lab.fill("web1")
    lab.run("gnt-instance modify --new-primary=node3.example.com web1")
    said = lab.master.execute("gnt-zfs check --repair").stdout
    assert "node3.example.com: web1: has no dataset on node3.example.com" in said
    assert "its only data is here, gnt-instance modify --new-primary=node2.example.com web1" in said
    assert lab.datasets() == ["web1"]
    lab.run("gnt-instance modify --new-primary=node2.example.com web1")
    assert lab.sums("web1") == sums


def test_verify_speaks_up_before_the_pool_is_full(lab: Lab) -> None:
    lab.configure("warn_free = 90\n")
    lab.node2.run(f"dd if=/dev/urandom of={DIRECTORY}/ballast bs=1M count=2200 status=none; sync; zpool sync")
    said = lab.fails("gnt-cluster verify")
    lab.node2.run(f"rm {DIRECTORY}/ballast")
    lab.unconfigure()
    assert "node2: pool zfs has 17." in said
    assert "free: add disks or gnt-zfs trash empty" in said


def test_a_missing_root_is_said_and_vetoes(lab: Lab) -> None:
    lab.node3.run(f"umount {DIRECTORY}; zpool export tank")
    try:
        said = lab.fails(lab.add_command("web1", node="node3"))
        verify = lab.fails("gnt-cluster verify")
    finally:
        lab.node3.run("zpool import -d /dev tank")
    way_out = "the root dataset is not there: its pool is not imported: zpool import, then zfs mount -a"
    assert f"node3: {DIRECTORY}: {way_out}" in said
    assert f"node3: {DIRECTORY}: {way_out}" in verify
    lab.node3.run("zfs mount -a")


@pytest.mark.parametrize(
    ("break_it", "mend_it", "complaint"),
    [
        ("mv /dev/zfs /dev/zfs.away", "mv /dev/zfs.away /dev/zfs", "modprobe zfs"),
        (
            "mv /usr/lib/python3/dist-packages/libzfs_core /tmp",
            "mv /tmp/libzfs_core /usr/lib/python3/dist-packages",
            "libzfs_core: python3-pyzfs is not installed (No module named 'libzfs_core'): apt install python3-pyzfs",
        ),
        (
            "printf 'trash_days = soon\\nnonsense\\ncolour = red\\n' > /etc/zfsganeti.conf",
            "rm /etc/zfsganeti.conf",
            "/etc/zfsganeti.conf: line 1: trash_days: 'soon' is not a whole number of days from 0 to 3650; line 2: 'nonsense' is not "
            "of the form setting = value; line 3: 'colour' is no setting",
        ),
    ],
    ids=["dev-zfs", "pyzfs", "config"],
)
def test_what_is_missing_is_said_in_one_line_and_nothing_changes(lab: Lab, break_it: str, mend_it: str, complaint: str) -> None:
    lab.node2.run(break_it)
    try:
        said = lab.fails(lab.add_command("web1"))
    finally:
        lab.node2.run(mend_it)
    line = next(line for line in said.splitlines() if "node2:" in line)
    assert complaint in line
    assert lab.instances() == []
    assert lab.datasets() == []


def test_absurd_environments_end_in_one_line(lab: Lab) -> None:
    base = "GANETI_HOOKS_PATH=instance-add GANETI_HOOKS_PHASE=pre GANETI_INSTANCE_DISK_TEMPLATE=file GANETI_CLUSTER=c GANETI_MASTER=n1"
    hook = "/usr/share/zfsganeti/hooks/zfsganeti"
    for given, complaint in (
        ("", "GANETI_INSTANCE_NAME is not set: Ganeti always sets it in this hook"),
        ("GANETI_INSTANCE_NAME=../../etc", "GANETI_INSTANCE_NAME is '../../etc'"),
        ("GANETI_INSTANCE_NAME=.trash GANETI_INSTANCE_PRIMARY=node2.example.com", "GANETI_INSTANCE_NAME is '.trash'"),
        (
            "GANETI_INSTANCE_NAME=web1 GANETI_INSTANCE_PRIMARY=node2.example.com GANETI_INSTANCE_DISK_COUNT=-1",
            "GANETI_INSTANCE_DISK_COUNT is '-1'",
        ),
    ):
        done = lab.node2.execute(f"env -i {base} {given} {hook}")
        assert (done.status, done.stdout.count("\n"), done.stderr) == (1, 1, "")
        assert done.stdout.startswith("node2: ")
        assert complaint in done.stdout
    assert lab.datasets() == []


def test_names_that_are_no_dataset_names(lab: Lab) -> None:
    for name in ("a..b", "x" * 201):
        done = lab.master.execute(f'echo \'{{"instance": "{name}"}}\' | gnt-zfs node home')
        assert done.status == 2
        assert "instance name" in done.stdout


def test_a_healthy_node_says_nothing(lab: Lab) -> None:
    lab.add("web1")
    for node in lab.nodes:
        environment = "GANETI_HOOKS_PATH=cluster-verify GANETI_HOOKS_PHASE=post"
        assert node.run(f"env -i {environment} /etc/ganeti/hooks/cluster-verify-post.d/zfsganeti") == ""
        assert lab.watch(node.name) == ""


def test_pools_have_their_own_names(lab: Lab) -> None:
    lab.add("third", node="node3")
    sums = lab.fill("third", "node3")
    lab.run("gnt-instance remove -f third")
    assert lab.node3.run(f"zfs list -H -o name -r {ROOTS['node3']}/.trash").split()[1].startswith("tank/vm/.trash/third:")
    lab.run("gnt-zfs trash restore third")
    assert lab.sums("third", "node3") == sums
