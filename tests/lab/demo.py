"""The main job, shown: a stock cluster, one setup command, an instance with data, its removal, and its return."""

from __future__ import annotations

import os
import sys
import textwrap
import time

from .cluster import Cluster
from .host import LabError, say
from .machine import Machine
from .product import install

STORY = (
    (
        "A stock Ganeti cluster of three nodes, each with a pool of its own. One command makes it ready:",
        "gnt-zfs setup --yes zfs/vm node3=tank/vm",
    ),
    ("From here on it is plain Ganeti. An instance with two disks on node2:", "{add}"),
    ("Its storage is a ZFS dataset of its own:", "gnt-zfs list"),
    (
        "Something worth keeping is written into its first disk:",
        "{on_node2} 'cd /zfs/vm/web1; echo the only copy of the thesis | dd of=$(echo *.disk0) conv=notrunc status=none; "
        "head -c 28 *.disk0'",
    ),
    ("And then somebody types this, on stock and unpatched Ganeti:", "gnt-instance remove -f web1"),
    ("It is gone:", "gnt-instance list; gnt-zfs list"),
    ("Or is it?", "gnt-zfs trash list"),
    ("One command brings it back, with its disks, MAC addresses and settings:", "gnt-zfs trash restore web1"),
    ("The thesis:", "{on_node2} 'head -c 28 /zfs/vm/web1/*.disk0'"),
    ("It starts, and the cluster is in order:", "gnt-instance start web1; gnt-instance list; gnt-zfs check"),
)
NODE2 = "ssh -q -oHostKeyAlias=cluster.example.com -oUserKnownHostsFile=/var/lib/ganeti/known_hosts node2"


def show(generation: str) -> None:
    """The story has been told on a terminal, command by command; LabError when one of them failed."""
    lab = Cluster(generation, "demo")
    lab.stop()
    try:
        nodes = lab.up()
        install(nodes)
        say("the curtain rises")
        for words, command in STORY:
            _act(nodes[0], words, command, generation)
        print(_bright("\nThat was the main job. `make lab` leaves such a cluster running for you to play with.\n"))
    finally:
        lab.stop()


def _act(master: Machine, words: str, command: str, generation: str) -> None:
    unchecked = "--no-name-check --no-ip-check " if generation == "bookworm" else ""
    add = f"gnt-instance add -t file -o noop+default {unchecked}--no-start --disk 0:size=1G --disk 1:size=256M -n node2.example.com web1"
    typed = command.format(add=add, on_node2="ssh node2")
    really = command.format(add=add, on_node2=NODE2)
    print(f"\n{textwrap.fill(words, 100)}")
    print(_bright(f"node1# {typed}"), flush=True)
    started = time.monotonic()
    done = master.execute(really)
    print(textwrap.indent(done.said.rstrip(), "  "))
    print(_dim(f"  ({time.monotonic() - started:.0f} s)"), flush=True)
    if done.status != 0:
        raise LabError(f"{typed}: exit {done.status}")


def _bright(text: str) -> str:
    return f"\033[1m{text}\033[0m" if _colours() else text


def _dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if _colours() else text


def _colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
