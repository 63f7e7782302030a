"""What a node does by itself: mounting before a start, the watcher, cluster verify, and what it says when something is missing."""

from __future__ import annotations

import pytest

from .conftest import DIRECTORY, Lab


@pytest.mark.on()
def test_verify_speaks_where_something_is_wrong_and_a_healthy_node_is_silent(lab: Lab) -> None:
    lab.add("web1")
    sums = lab.fill("web1")
    lab.run("gnt-cluster verify")
    for node in lab.nodes:
        environment = "GANETI_HOOKS_PATH=cluster-verify GANETI_HOOKS_PHASE=post"
        assert node.run(f"env -i {environment} /etc/ganeti/hooks/cluster-verify-post.d/zfsganeti") == ""
        assert lab.watch(node.name) == ""

    marks = "-o org.zfsganeti:cluster=cluster.example.com -o org.zfsganeti:instance"
    lab.node2.run(f"umount {DIRECTORY}/web1")
    lab.node2.run(f"zfs create {marks}=orphan zfs/vm/orphan; echo data > {DIRECTORY}/orphan/disk")
    lab.node3.run(f"zfs create {marks}=web1 tank/vm/web1; echo data > {DIRECTORY}/web1/disk")
    lab.configure("warn_free = 90\n")
    lab.node2.run(f"dd if=/dev/urandom of={DIRECTORY}/ballast bs=1M count=2200 status=none; zpool sync")
    said = lab.fails("gnt-cluster verify")
    lab.node2.run(f"rm {DIRECTORY}/ballast")
    lab.unconfigure()
    assert "node2: pool zfs has 17." in said
    assert "free: add disks or gnt-zfs trash empty" in said
    assert "web1: dataset zfs/vm/web1 is not mounted" in said
    assert "orphan: dataset zfs/vm/orphan holds" in said
    assert "node3: web1: dataset tank/vm/web1 holds" in said
    assert "but the instance is on node2.example.com" in said
    assert "  NO\n" in lab.run("gnt-zfs list")

    # a start mounts what is unmounted, and so does the watcher, even the root
    lab.run("gnt-instance start web1")
    assert lab.sums("web1") == sums
    lab.node2.run(f"umount {DIRECTORY}/web1")
    lab.node2.run("ganeti-watcher")
    assert lab.mounted("web1")
    lab.node2.run(f"umount {DIRECTORY}/orphan {DIRECTORY}/web1 {DIRECTORY}")
    assert lab.watch() == ""
    assert lab.mounted("web1")

    lab.run("gnt-zfs check --repair")
    assert [name.split(":")[0] for name in lab.trash()] == ["orphan"]
    assert [name.split(":")[0] for name in lab.trash("node3")] == ["web1"]
    assert lab.sums("web1") == sums
    lab.well()


@pytest.mark.on("trixie")
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


@pytest.mark.on()
def test_datasets_follow_a_renamed_cluster(lab: Lab) -> None:
    lab.add("web1")
    lab.add("gone")
    lab.run("gnt-instance remove -f gone")
    for node in lab.nodes:
        node.run("echo '192.0.2.11 renamed.example.com renamed' >> /etc/hosts")
    lab.run("gnt-cluster rename -f renamed.example.com")
    try:
        lab.well()
        assert lab.mounted("web1")
        assert "gone" in lab.run("gnt-zfs trash list")
    finally:
        lab.run("gnt-cluster rename -f cluster.example.com")
    lab.well()


@pytest.mark.on("bookworm")
def test_a_missing_root_is_said_and_vetoes(lab: Lab) -> None:
    # on node2 the guarded directory lies in the pool itself and is gone with it: the configuration file remembers
    lab.node2.run(f"umount {DIRECTORY}; zpool export zfs")
    lab.node3.run(f"umount {DIRECTORY}; zpool export tank")
    try:
        said = lab.fails(lab.add_command("web1", node="node3")) + lab.fails(lab.add_command("web1"))
        verify = lab.fails("gnt-zfs check")
    finally:
        lab.node2.run("zpool import -d /dev zfs")
        lab.node3.run("zpool import -d /dev tank")
    way_out = "the root dataset is not there: its pool is not imported: zpool import, then zfs mount -a"
    for node in ("node2", "node3"):
        assert f"{node}: {DIRECTORY}: {way_out}" in said
        assert f"{node}.example.com: {DIRECTORY}: {way_out}" in verify
        lab.node(node).run("zfs mount -a")


@pytest.mark.on("trixie")
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
            "cp /etc/zfsganeti.conf /tmp/good; printf 'trash_days = soon\\nnonsense\\ncolour = red\\n' > /etc/zfsganeti.conf",
            "cp /tmp/good /etc/zfsganeti.conf",
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
