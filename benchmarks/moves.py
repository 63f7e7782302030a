"""How long an instance is down while it moves, against gnt-instance move, and how fast disks travel, against a bare pipe.

python3 -m benchmarks.moves [--generation G]: on a cluster of its own, all of whose nodes take part. Every disk has as much in it and
is written to a little all the while; ways that are compared take turns in one run. gnt-instance move works on bookworm alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.lab import host, image
from tests.lab.cluster import Cluster
from tests.lab.host import say
from tests.lab.machine import Machine
from tests.lab.product import install

SETUP = "gnt-zfs setup --yes zfs/vm node3=tank/vm"
SIZES_GIB = (1, 4, 16)
THEIRS_GIB = (1, 4)
USED_MIB = 200
SSH = (
    "ssh -oBatchMode=yes -oGlobalKnownHostsFile=/var/lib/ganeti/known_hosts -oHostKeyAlias=cluster.example.com "
    "-c aes128-gcm@openssh.com root@node3.example.com"
)
WRITER = "while [ -e {0} ]; do dd if=/dev/urandom of={0} bs=64K count=1 seek=$((RANDOM % 1000)) conv=notrunc status=none; sleep 0.2; done"


@dataclass(frozen=True)
class Moved:
    """One move: how long the instance was down, by which way, and for how large a disk (GiB)."""

    way: str
    size: int
    down: float


class Bench:
    def __init__(self, generation: str, nodes: list[Machine]) -> None:
        self.generation, self.nodes = generation, nodes
        self.master, self.source = nodes[0], nodes[1]

    def add(self, size: int) -> str:
        """A running instance of one disk with data in it is on node2, and is written to; return the disk's path."""
        unchecked = "--no-name-check --no-ip-check" if self.generation == "bookworm" else ""
        self.master.run(
            f"gnt-instance add -t file -o noop+default -H fake -B memory=64M --no-install --no-start {unchecked} "
            f"--disk 0:size={size}G -n node2.example.com moved"
        )
        path = self.source.run("ls /zfs/vm/moved/*").strip()
        self.source.run(f"dd if=/dev/urandom of={path} bs=1M count={USED_MIB} conv=notrunc status=none; sync -f {path}")
        self.master.run("gnt-instance start moved")
        self.source.run(f"setsid bash -c '{WRITER.format(path)}' > /dev/null 2>&1 < /dev/null &")
        return path

    def remove(self) -> None:
        self.master.run("gnt-instance remove -f moved")
        for node in self.nodes:
            node.execute("pkill -f if=/dev/urandom")
        self.master.run("gnt-zfs trash empty --yes")

    def stop_writing(self) -> None:
        """The guest is stopped: nobody writes, and nobody has the disk open."""
        self.source.execute("pkill -f 'setsid bash|of=/zfs/vm/moved'")

    def ours(self, size: int) -> Moved:
        self.add(size)
        hook = "/etc/ganeti/hooks/instance-stop-pre.d"
        self.source.run(f"mkdir -p {hook}; printf '#!/bin/sh\\npkill -f of=/zfs/vm/moved; pkill -f RANDOM; true\\n' > {hook}/zzz-writer")
        self.source.run(f"chmod 755 {hook}/zzz-writer")
        (result,) = json.loads(self.master.run("gnt-zfs move --yes --json moved node3 2>/dev/null", seconds=3000))
        self.remove()
        return Moved("gnt-zfs move", size, float(result["downtime"]))

    def theirs(self, size: int) -> Moved:
        """gnt-instance move shuts down first and starts at the end: all of it is downtime."""
        self.add(size)
        began = time.monotonic()
        self.master.run("gnt-instance move -f -n node3.example.com moved", seconds=3000)
        down = time.monotonic() - began
        self.remove()
        return Moved("gnt-instance move", size, down)

    def throughput(self) -> tuple[float, float]:
        """Return the bytes a second of the first pass of a move, and of a bare pipe with the same data."""
        self.add(1)
        self.stop_writing()
        self.source.run("zfs snapshot zfs/vm/moved@bare")
        size = int(self.source.run("zfs send -nP -L -e -c zfs/vm/moved@bare | awk '$1 == \"size\" {print $2}'"))

        def bare() -> float:
            began = time.monotonic()
            self.source.run(f"bash -o pipefail -c 'zfs send -L -e -c zfs/vm/moved@bare | {SSH} zfs receive -s -u tank/bare'", seconds=3000)
            taken = time.monotonic() - began
            self.nodes[2].run("zfs destroy -r tank/bare")
            return taken

        def ours() -> float:
            said = self.master.run("gnt-zfs move --yes --presync-only moved node3", seconds=3000)
            seconds = float(said.split(" in ")[1].split(" s")[0])
            self.master.run("gnt-zfs move --abort moved")
            return seconds

        taken = {way: sorted(way() for _round in range(3))[1] for way in (bare, ours)}
        self.source.run("zfs destroy zfs/vm/moved@bare")
        self.remove()
        return size / taken[ours], size / taken[bare]


def measure(generation: str) -> Iterator[str]:
    lab = Cluster(generation, "bench")
    lab.stop()
    try:
        nodes = lab.up()
        install(nodes)
        nodes[0].run(SETUP)
        bench = Bench(generation, nodes)
        ways: list[tuple[Callable[[int], Moved], tuple[int, ...]]] = [(bench.ours, SIZES_GIB)]
        if generation == "bookworm":  # trixie's cannot, with its socat
            ways.append((bench.theirs, THEIRS_GIB))
        for size in SIZES_GIB:
            for way, sizes in ways:
                if size in sizes:
                    moved = way(size)
                    say(f"{generation}: {moved}")
                    yield f"| {generation} | {moved.way} | {moved.size} GiB, {USED_MIB} MiB used | {moved.down:.1f} s down |"
        ours, bare = bench.throughput()
        yield f"| {generation} | first pass against zfs send, ssh, zfs receive | {ours / 1e6:.1f} MB/s | {bare / 1e6:.1f} MB/s bare |"
    finally:
        lab.stop()


def main() -> int:
    top = argparse.ArgumentParser(prog="python3 -m benchmarks.moves", description=(__doc__ or "").splitlines()[0])
    top.add_argument("--generation", choices=image.GENERATIONS, action="append", help="default: each")
    options = top.parse_args()
    host.install_missing()
    for generation in options.generation or image.GENERATIONS:
        for line in measure(generation):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
