"""One cluster per generation for all tests of the lab: woken from its saved state, with this checkout installed."""

from __future__ import annotations

import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator

import pytest

from .cluster import Cluster
from .machine import Machine
from .product import install

GENERATION = os.environ.get("ZFSGANETI_GENERATION", "trixie")
DIRECTORY = "/zfs/vm"
ROOTS = {"node1": "zfs/vm", "node2": "zfs/vm", "node3": "tank/vm"}
SETUP = "gnt-zfs setup --yes zfs/vm node3=tank/vm"


class Lab:
    """What an administrator does, in words; commands run on the master."""

    def __init__(self, cluster: Cluster, nodes: list[Machine]) -> None:
        self.cluster, self.nodes = cluster, nodes
        self.master, self.node2, self.node3 = nodes
        self.generation = cluster.generation

    def run(self, command: str) -> str:
        return self.master.run(command)

    def fails(self, command: str) -> str:
        return self.master.fails(command)

    def node(self, name: str) -> Machine:
        return next(node for node in self.nodes if node.name == name)

    @property
    def unchecked(self) -> str:
        """3.0 looks instance names up unless told otherwise, 3.1 warns about being told."""
        return "--no-name-check --no-ip-check" if self.generation == "bookworm" else ""

    def add_command(self, name: str, *, node: str = "node2", disks: tuple[str, ...] = ("64M",), more: str = "") -> str:
        sizes = " ".join(f"--disk {index}:size={size}" for index, size in enumerate(disks)) or "--no-disks"
        return (
            f"gnt-instance add -t file -o noop+default -H fake -B memory=64M --no-install --no-start {self.unchecked} {sizes} "
            f"-n {node}.example.com {more} {name}"
        )

    def add(self, name: str, *, node: str = "node2", disks: tuple[str, ...] = ("64M",), more: str = "") -> None:
        self.run(self.add_command(name, node=node, disks=disks, more=more))

    def disks(self, name: str, node: str = "node2") -> list[str]:
        """Return the paths of an instance's disk files in order."""
        return sorted(
            self.node(node).run(f"ls -d {DIRECTORY}/{name}/*.file.disk*").split(), key=lambda path: int(path.rsplit("disk", 1)[1])
        )

    def fill(self, name: str, node: str = "node2") -> list[str]:
        """Every disk of an instance holds a text of its own, at its begin and at its end; return their checksums in order."""
        for path in self.disks(name, node):
            text = f"{name} {uuid.uuid4()}"
            self.node(node).run(
                f"f={shlex.quote(path)}; s=$(stat -c %s $f); echo {text} | dd of=$f conv=notrunc status=none; "
                f"echo {text} | dd of=$f bs=1 seek=$((s-100)) conv=notrunc status=none; sync -f $f"
            )
        return self.sums(name, node)

    def sums(self, name: str, node: str = "node2") -> list[str]:
        files = " ".join(shlex.quote(path) for path in self.disks(name, node))
        return [line.split()[0] for line in self.node(node).run(f"sha256sum {files}").splitlines()]

    def add_ext(self, name: str, *, node: str = "node2", disks: tuple[str, ...] = ("64M",), more: str = "") -> None:
        """Add an instance whose disks are volumes; each of `disks` is a size, or a size with parameters."""
        given = " ".join(f"--disk {index}:size={disk},provider=zfs" for index, disk in enumerate(disks))
        self.run(self.add_command(name, node=node, disks=(), more=f"{given} {more}").replace("-t file", "-t ext").replace("--no-disks", ""))

    def volumes(self, name: str, node: str = "node2") -> list[str]:
        """Return an instance's volumes in the order of their disks."""
        lines = self.node(node).run(f"zfs get -d 1 -H -s local -o name,value org.zfsganeti:instance {ROOTS[node]}").splitlines()
        names = [line.split("\t")[0].rsplit("/", 1)[1] for line in lines if line.split("\t")[1] == name and ".ext.disk" in line]
        return sorted(names, key=lambda volume: int(volume.rsplit("disk", 1)[1]))

    def fill_volumes(self, name: str, node: str = "node2") -> list[str]:
        """Every volume holds a text of its own, at its begin and at its end, written through its device; return their checksums."""
        for volume in self.volumes(name, node):
            text = f"{name} {uuid.uuid4()}"
            self.node(node).run(
                f"d=/dev/zfsganeti/{volume}; s=$(blockdev --getsize64 $d); echo {text} | dd of=$d conv=notrunc status=none; "
                f"echo {text} | dd of=$d bs=1 seek=$((s-100)) conv=notrunc status=none; blockdev --flushbufs $d"
            )
        return self.volume_sums(name, node)

    def volume_sums(self, name: str, node: str = "node2") -> list[str]:
        """Return the checksums of an instance's disks, after what is still in a device's cache has been written to them."""
        self.node(node).run("for device in /dev/zfsganeti/*; do test ! -b $device || blockdev --flushbufs $device; done")
        files = " ".join(f"{DIRECTORY}/{volume}/disk.raw" for volume in self.volumes(name, node))
        return [line.split()[0] for line in self.node(node).run(f"sha256sum {files}").splitlines()]

    def datasets(self, node: str = "node2") -> list[str]:
        """Return the short names of the root's children, the trash's entries as .trash/..."""
        root = ROOTS[node]
        names = self.node(node).run(f"zfs list -H -o name -r {root}").split()
        return [name.removeprefix(f"{root}/") for name in names if name not in (root, f"{root}/.trash")]

    def trash(self, node: str = "node2") -> list[str]:
        return [name.removeprefix(".trash/") for name in self.datasets(node) if name.startswith(".trash/")]

    def mounted(self, name: str, node: str = "node2") -> bool:
        return self.node(node).execute(f"mountpoint -q {DIRECTORY}/{name}").status == 0

    def sums_in_trash(self, entry: str, node: str = "node2") -> list[str]:
        """Return the sorted checksums of the files of an entry of the trash."""
        look = f"mkdir /tmp/look && mount -t zfs -o zfsutil {ROOTS[node]}/.trash/{entry} /tmp/look && sha256sum /tmp/look/*"
        lines = self.node(node).run(f"{look}; umount /tmp/look; rmdir /tmp/look").splitlines()
        return sorted(line.split()[0] for line in lines)

    @property
    def all_is_well(self) -> str:
        """What a check says that finds nothing."""
        return f"All is well on {len(self.nodes)} node{'s' if len(self.nodes) != 1 else ''}.\n"

    def well(self) -> None:
        """Nothing leaked and nothing is out of place."""
        assert self.run("gnt-zfs check") == self.all_is_well

    def instances(self) -> list[str]:
        return self.run("gnt-instance list --no-headers -o name").split()

    def deny(self, hook: str, node: str = "node1") -> None:
        """Another hook, which runs after ours, vetoes an operation on a node."""
        machine = self.node(node)
        machine.run(f"mkdir -p /etc/ganeti/hooks/{hook}.d")
        machine.write(f"/etc/ganeti/hooks/{hook}.d/zzz-deny", "#!/bin/sh\necho denied by a test\nexit 1\n", "755")

    def allow(self, hook: str, node: str = "node1") -> None:
        self.node(node).run(f"rm -f /etc/ganeti/hooks/{hook}.d/zzz-deny")

    def configure(self, text: str, node: str = "node2") -> None:
        self.node(node).write("/etc/zfsganeti.conf", f"root = {ROOTS[node]}\n{text}")

    def unconfigure(self, node: str = "node2") -> None:
        self.configure("", node)

    def watch(self, node: str = "node2") -> str:
        """What the watcher does every five minutes; return what the hook said."""
        return self.node(node).execute("/etc/ganeti/hooks/watcher/zfsganeti").said


@pytest.fixture(scope="session")
def fresh() -> Iterator[Lab]:
    """A healthy stock cluster with zfsganeti installed and nothing set up."""
    cluster = Cluster(GENERATION, "test")
    cluster.stop()
    nodes = cluster.up()
    install(nodes)
    _be_patient(nodes[0])
    yield Lab(cluster, nodes)
    if not os.environ.get("ZFSGANETI_KEEP_LAB"):
        cluster.stop()


def _be_patient(master: Machine) -> None:
    """Ganeti waits a minute, not its 10 s, for a copying daemon to start on a node: a fixed time is too short for emulated nodes."""
    library = master.run("readlink -f /usr/share/ganeti/default").strip()
    master.run(f"sed -i 's/DEFAULT_READY_TIMEOUT = 10$/DEFAULT_READY_TIMEOUT = 60/' {library}/ganeti/masterd/instance.py")


class Reset:
    """The way back to a cluster that is set up and empty, taken between tests only when one has left something."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.state = lab.cluster.place / "ready"
        lab.run(SETUP)
        lab.cluster.freeze(lab.nodes, self.state)
        lab.cluster.back_to(lab.nodes, self.state)
        self.clean = self.signature()

    def signature(self) -> list[str]:
        """Return what tests change on the nodes, in a form to compare."""
        seen = (
            "zfs list -H -o name -t all; mount -t zfs; ls -AR /zfs/vm /etc/ganeti/hooks; ls /etc/zfsganeti.conf /var/tmp 2>&1; losetup -a"
        )
        instances = "grep -o '\"admin_state\"' /var/lib/ganeti/config.data | wc -l"
        return [node.execute(f"{seen} 2>&1; {instances}").said for node in self.lab.nodes]

    def between(self) -> None:
        if self.signature() != self.clean:
            self.lab.cluster.back_to(self.lab.nodes, self.state)


@pytest.fixture(scope="session")
def reset(fresh: Lab) -> Reset:
    return Reset(fresh)


@pytest.fixture
def lab(reset: Reset) -> Iterator[Lab]:
    """The cluster after `gnt-zfs setup`, with no instance."""
    yield reset.lab
    reset.between()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` tells a story `on` the generations that its mark names; `make lab-rest` tells it on the others."""
    stories = os.environ.get("ZFSGANETI_STORIES", "test")
    if stories == "all":
        return
    here = [item for item in items if all(GENERATION in mark.args for mark in item.iter_markers("on"))]
    chosen = here if stories == "test" else [item for item in items if item not in here]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """No story is begun after ZFSGANETI_UNTIL, in seconds since 1970: who is stopped at a limit says nothing of those that were told."""
    if time.time() > float(os.environ.get("ZFSGANETI_UNTIL", "inf")):
        pytest.skip("this machine is too slow to tell it in time, make test without a limit does")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is in the log at once, not after the last of the other tests."""
    if report.failed:
        print(f"\n{report.longreprtext}", file=sys.__stdout__, flush=True)
