"""A cluster of one node, for what no other node has a part in: emulated nodes share a processor, so a fault takes a third of the time."""

from __future__ import annotations

from tests.lab.cluster import Cluster
from tests.lab.conftest import Lab
from tests.lab.machine import Machine


class Alone(Lab):
    """What an administrator does where the master is all there is: whichever node is meant, it is that one."""

    def __init__(self, cluster: Cluster, master: Machine) -> None:
        self.cluster, self.nodes = cluster, [master]
        self.master = self.node2 = master
        self.generation = cluster.generation

    def node(self, _name: str) -> Machine:
        return self.master

    def add_command(self, name: str, *, node: str = "", disks: tuple[str, ...] = ("64M",), more: str = "") -> str:  # noqa: ARG002 - as a Lab has it
        return super().add_command(name, node=self.master.name, disks=disks, more=more)


def leave_others(lab: Lab) -> Alone:
    """The first node of a cluster without instances is all of it; the others have lost their power."""
    for node in lab.nodes[1:]:
        lab.run(f"gnt-node remove {node.fqdn}")
        node.kill()
    return Alone(lab.cluster, lab.master)
