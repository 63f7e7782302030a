"""A Ganeti cluster of three nodes, brought up from cold disks once and from a saved state ever after."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import image
from .host import LabError, cache, kvm_works, qemu_version, run, say
from .machine import DISKS, MEMORY_MIB, Machine

NODES = 3
IPOLICY = (
    "min:disk-size=0,cpu-count=1,disk-count=0,memory-size=1,nic-count=0,spindle-use=0/"
    "max:disk-size=1048576,cpu-count=8,disk-count=16,memory-size=32768,nic-count=8,spindle-use=12"
)
# the third node's pool bears another name, as pools do in real life
POOLS = {1: "zfs", 2: "zfs", 3: "tank"}


class Cluster:
    """The nodes of one generation; `purpose` keeps a developer's lab and the tests' apart."""

    def __init__(self, generation: str, purpose: str = "lab") -> None:
        self.generation, self.purpose = generation, purpose
        self.namespace = f"zfsganeti-{generation}-{purpose}"
        self.place = cache() / f"run-{generation}-{purpose}"

    def machines(self) -> list[Machine]:
        built = image.build(self.generation)
        return [Machine(number, place=self.place, namespace=self.namespace, image=built) for number in range(1, NODES + 1)]

    def saved_state(self) -> Path:
        """Return where the state of a fresh cluster is kept: the key is what made it."""
        made_of = hashlib.sha256(image.recipe(self.generation).encode())
        for part in (Cluster._cold, _provision, Machine._qemu, Machine.create_disks):
            made_of.update(ast.dump(ast.parse(textwrap.dedent(inspect.getsource(part)))).encode())
        made_of.update(f"{qemu_version()} {kvm_works()} {MEMORY_MIB} {DISKS} {POOLS} {IPOLICY}".encode())
        return cache() / f"state-{self.generation}-{made_of.hexdigest()[:16]}"

    # life

    def up(self) -> list[Machine]:
        """All nodes run with a healthy cluster; a lab that is up already is left as it is."""
        nodes = self.machines()
        if self.is_up(nodes):
            return nodes
        self.stop()
        self._restore(nodes, self.prepare())
        return nodes

    def prepare(self) -> Path:
        """Return the saved state of a fresh cluster, which is made if it is not cached: this takes minutes."""
        state = self.saved_state()
        if not (state / "complete").exists():
            self._make_state(state)
        return state

    def freeze(self, nodes: list[Machine], state: Path) -> None:
        """The cluster as it is now can be gone back to with `back_to`; it is off until then."""
        for node in nodes:
            node.pause()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Machine.save, nodes))
        state.mkdir(parents=True)
        for pattern in ("*.qcow2", "*.memory"):
            for path in self.place.glob(pattern):
                path.rename(state / path.name)

    def back_to(self, nodes: list[Machine], state: Path) -> None:
        """The cluster runs as it was when it was frozen."""
        for node in nodes:
            node.kill()
        self._restore(nodes, state)

    def is_up(self, nodes: list[Machine]) -> bool:
        return all(node.pid() is not None for node in nodes) and all(node.answers() for node in nodes)

    def stop(self) -> None:
        """No process and no namespace of this lab is left, and its disks are gone."""
        if self.place.exists():
            for node in [Machine(number, place=self.place, namespace=self.namespace, image=self.place) for number in range(1, 5)]:
                node.kill()
            shutil.rmtree(self.place, ignore_errors=True)
        if self.namespace in run("ip", "netns", "list"):
            run("ip", "netns", "delete", self.namespace)

    def boot(self, node: Machine) -> None:
        """A node that was cut off runs again from its disks, with its daemons and, on the master, the cluster."""
        node.start()
        node.wait_for_boot()

    def begin(self, nodes: list[Machine]) -> None:
        """These nodes run as fresh machines: with a clock, each other's names and a disk to spare, without a pool or a cluster."""
        self._network()
        for node in nodes:
            node.create_disks()
            node.start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Machine.wait_for_boot, nodes))
        for node in nodes:
            node.run(f"date -s @{time.time():.0f} >/dev/null; mkdir -p /root/.ssh /var/lib/ganeti; modprobe zfs; udevadm settle")

    def _network(self) -> None:
        namespace = self.namespace
        if namespace in run("ip", "netns", "list"):
            return
        run("ip", "netns", "add", namespace)
        for command in (
            "link set lo up",
            "link add br0 type bridge forward_delay 0",
            "address add 192.0.2.254/24 dev br0",
            "link set br0 up",
        ):
            run("ip", "-n", namespace, *command.split())
        for number in range(1, NODES + 2):
            run("ip", "-n", namespace, "tuntap", "add", f"tap{number}", "mode", "tap")
            run("ip", "-n", namespace, "link", "set", f"tap{number}", "master", "br0", "up")

    def _restore(self, nodes: list[Machine], state: Path) -> None:
        started = time.monotonic()
        say(f"{self.generation}: waking {len(nodes)} nodes from the saved state")
        self._network()
        for node in nodes:
            node.create_disks(frozen=state)
            node.start(state)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: self._wake(node), nodes))
        say(f"{self.generation}: up after {time.monotonic() - started:.0f} s")

    @staticmethod
    def _wake(node: Machine) -> None:
        node.resume()
        deadline = time.monotonic() + 120
        while not node.answers():
            if time.monotonic() > deadline or node.pid() is None:
                raise LabError(f"{node.name}: does not wake from its saved state")
            time.sleep(0.2)
        node.run(f"date -s @{time.time():.0f} >/dev/null; hwclock -w 2>/dev/null || true")

    # from cold disks

    def _make_state(self, state: Path) -> None:
        """A fresh cluster is brought up in a place of its own, its memory and disks are frozen there."""
        work = state.with_suffix(".building")
        maker = Cluster(self.generation, "build")
        maker.stop()
        shutil.rmtree(work, ignore_errors=True)
        maker.place = work
        started = time.monotonic()
        try:
            nodes = maker.machines()
            maker._network()
            maker._cold(nodes)
            say(f"{self.generation}: saving the state")
            for node in nodes:
                node.pause()
            with ThreadPoolExecutor() as pool:
                list(pool.map(Machine.save, nodes))
        finally:
            for node in maker.machines():
                node.kill()
            with contextlib.suppress(LabError):
                run("ip", "netns", "delete", maker.namespace)
        work.rename(state)
        self._point_at_image(state)
        (state / "complete").touch()
        say(f"{self.generation}: cluster built and saved in {time.monotonic() - started:.0f} s")

    def _point_at_image(self, state: Path) -> None:
        for leftover in ("qmp", "pid", "ssh", "console"):
            for path in state.glob(f"*.{leftover}"):
                path.unlink()

    def _cold(self, nodes: list[Machine]) -> None:
        say(f"{self.generation}: booting {len(nodes)} nodes")
        for node in nodes:
            node.create_disks()
            node.start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Machine.wait_for_boot, nodes))
            list(pool.map(_provision, nodes))
        master = nodes[0]
        say(f"{self.generation}: gnt-cluster init")
        master.run(
            "gnt-cluster init --no-etc-hosts --enabled-disk-templates=plain,diskless,ext --enabled-hypervisors=fake "
            "--vg-name=ganeti --master-netdev=br0 --nic-parameters link=br0 "
            f"--ipolicy-bounds-specs={IPOLICY} cluster.example.com"
        )
        public = master.run("cat /root/.ssh/*.pub")
        for node in nodes[1:]:
            say(f"{self.generation}: gnt-node add {node.name}")
            node.run("cat >> /root/.ssh/authorized_keys", stdin=public.encode())
            master.run(f"ssh-keyscan {node.fqdn} >> /root/.ssh/known_hosts 2>/dev/null; gnt-node add --no-ssh-key-check {node.fqdn}")
        master.wait("gnt-cluster verify")  # the saved state is of a healthy cluster; on a slow machine its first jobs may not start


def _provision(node: Machine) -> None:
    """The node has what an administrator gives a machine before Ganeti: a pool, a volume group, a clock."""
    node.run(
        f"date -s @{time.time():.0f} >/dev/null; hwclock -w 2>/dev/null || true; "
        "mkdir -p /root/.ssh /var/lib/ganeti; modprobe zfs; udevadm settle"
    )
    node.run(f"zpool create -o ashift=12 {POOLS[node.number]} /dev/vdb && vgcreate ganeti /dev/vdc")


def both(action: Callable[[str], object], generations: tuple[str, ...] = image.GENERATIONS) -> None:
    """The action was done for every generation, side by side; the first failure is raised when all have ended."""
    with ThreadPoolExecutor() as pool:
        for result in [pool.submit(action, generation) for generation in generations]:
            result.result()


PURPOSES = ("lab", "test", "demo", "bench", "chaos", "guide", "build")


def stop_everything(purposes: tuple[str, ...] = PURPOSES) -> None:
    """No lab of these purposes, of any generation, runs on this machine."""
    for generation in image.GENERATIONS:
        for purpose in purposes:
            Cluster(generation, purpose).stop()
    subprocess.run(["sync"], check=False)
