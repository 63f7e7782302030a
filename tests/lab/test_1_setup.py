"""From a stock cluster with pools to one that can add instances on ZFS."""

from __future__ import annotations

import json

from .conftest import DIRECTORY, SETUP, Lab


def test_check_says_what_is_missing_on_which_node(fresh: Lab) -> None:
    said = fresh.fails("gnt-zfs check")
    for node in ("node1", "node2", "node3"):
        assert f"{node}.example.com: a dataset mounted at /srv/ganeti/file-storage does not exist: gnt-zfs setup ROOT makes one" in said


def test_setup_asks_and_without_a_terminal_changes_nothing(fresh: Lab) -> None:
    done = fresh.master.execute("gnt-zfs setup zfs/vm node3=tank/vm < /dev/null")
    assert done.status == 2
    assert "node3.example.com: create dataset tank/vm for VM disks" in done.stdout
    assert done.stderr == "gnt-zfs: nobody can be asked, standard input is no terminal: --yes does it without asking\n"
    assert "zfs/vm" not in fresh.master.run("zfs list -H -o name")


def test_setup_names_the_node_whose_pool_is_called_differently(fresh: Lab) -> None:
    done = fresh.master.execute("gnt-zfs setup --yes zfs/vm")
    assert done.status == 4
    assert (
        "node3.example.com: dataset zfs does not exist: zpool import zfs if it has that pool, or give node3=tank/vm if that" in done.stderr
    )
    assert "zfs/vm" not in fresh.master.run("zfs list -H -o name")


def test_setup_refuses_what_is_no_root(fresh: Lab) -> None:
    for root, complaint in (
        ("zfs", "is a whole pool: name a dataset in it, such as zfs/vm"),
        ("/zfs/vm", "dataset name '/zfs/vm'"),
        ("zfs/v@m", "dataset name 'zfs/v@m'"),
        ("zfs/vm nodeX=zfs/vm", "nodeX is no node"),
    ):
        done = fresh.master.execute(f"gnt-zfs setup --yes {root}")
        assert (done.status, done.stderr.count("\n")) == (2, 1)
        assert complaint in done.stderr


def test_setup_refuses_a_directory_with_files(fresh: Lab) -> None:
    fresh.node2.run(f"mkdir -p {DIRECTORY}/web1; touch {DIRECTORY}/web1/disk")
    done = fresh.master.execute(SETUP)
    elsewhere = fresh.fails("gnt-zfs setup --directory /zfs/other zfs/vm node3=tank/vm")  # a plan, which nobody is there to agree to
    assert "node2.example.com: mount zfs/vm at /zfs/other" in elsewhere
    fresh.node2.run(f"rm -r {DIRECTORY}")
    assert done.status == 5
    assert f"node2.example.com: {DIRECTORY}: is a directory with files and no dataset" in done.stderr
    assert "zfs/vm" not in fresh.master.run("zfs list -H -o name")


def test_setup_does_everything_and_again_nothing(fresh: Lab) -> None:
    fresh.run(SETUP)
    assert fresh.run(SETUP) == f"Nothing to do: every node stores instances in {DIRECTORY}.\n"
    settings = fresh.run("gnt-cluster info")
    assert f"file storage path: {DIRECTORY}" in settings
    assert all("file" in line.split(": ")[1].split(", ") for line in settings.splitlines() if "disk templates:" in line)
    for node, root in (("node1", "zfs/vm"), ("node2", "zfs/vm"), ("node3", "tank/vm")):
        machine = fresh.node(node)
        assert DIRECTORY in machine.run("cat /etc/ganeti/file-storage-paths").split()
        values = dict(
            line.split("\t") for line in machine.run(f"zfs get -H -o property,value all {root}").splitlines() if line.count("\t") == 1
        )
        assert (values["recordsize"], values["compression"], values["atime"], values["exec"]) == ("64K", "lz4", "off", "off")
        if fresh.generation == "trixie":
            assert values["direct"] == "disabled"
        machine.run("test -d /var/log/ganeti/extstorage")
        # the directory below the mount is immutable: nothing can be written there while ZFS is not mounted
        machine.run(f"zfs unmount {root}")
        assert "not permitted" in machine.fails(f"touch {DIRECTORY}/file")
        machine.run(f"zfs mount {root}")
    fresh.well()


def test_check_and_setup_mend_one_node(lab: Lab) -> None:
    lab.node3.run("sed -i /zfs/d /etc/ganeti/file-storage-paths; rmdir /var/log/ganeti/extstorage")
    done = lab.master.execute("gnt-zfs check --json")
    assert done.status == 1
    assert [(found["node"], found["problem"], found["repairable"]) for found in json.loads(done.stdout)] == [
        ("node3.example.com", f"{DIRECTORY} is not in /etc/ganeti/file-storage-paths: gnt-zfs setup", False),
        ("node3.example.com", "/var/log/ganeti/extstorage is missing: gnt-zfs setup", False),
    ]
    assert lab.run(SETUP).splitlines()[:2] == [
        f"  node3.example.com: add {DIRECTORY} to /etc/ganeti/file-storage-paths",
        "  node3.example.com: make /var/log/ganeti/extstorage",
    ]
