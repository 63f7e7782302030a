"""How long an instance is down while it moves, against gnt-instance move, and how fast disks travel, against a bare pipe

All nodes of the cluster take part. Every disk has as much in it and is written to a little all the while; the ways that are compared
take turns. gnt-instance move works on bookworm alone.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Iterator

from benchmarks.measure import Row, noise
from tests.lab.host import say
from tests.lab.machine import Machine

SIZES_GIB = (1, 4, 16)
THEIRS_GIB = (1, 4)
USED_MIB = 200
THROUGHPUT = {100: 3, 2048: 2}  # rounds for each number of MiB; the difference tells what a byte takes, without what every pass takes
OURS, THEIRS = "gnt-zfs move", "gnt-instance move"
SSH = (
    "ssh -oBatchMode=yes -oGlobalKnownHostsFile=/var/lib/ganeti/known_hosts -oHostKeyAlias=cluster.example.com "
    "-c aes128-gcm@openssh.com root@node3.example.com"
)
WRITER = (
    "while [ -e {0} ]; do dd if=/dev/urandom of={0} bs=64K count=1 seek=$((RANDOM % 1000)) conv=notrunc,nocreat status=none; "
    "sleep 0.2; done"
)
END_WRITER = "#!/bin/sh\npkill -f RANDOM; pkill -f of=/zfs/vm/moved; true\n"  # as a guest ends that is shut down
HOOK = "/etc/ganeti/hooks/instance-stop-pre.d/zzz-writer"
PASS = re.compile(r"pass 1: .* in ([0-9.]+) s")


class Bench:
    def __init__(self, generation: str, nodes: list[Machine]) -> None:
        self.generation, self.nodes = generation, nodes
        self.master, self.source, self.target = nodes
        for node in nodes:
            node.run(f"mkdir -p $(dirname {HOOK}); cat > {HOOK}; chmod 755 {HOOK}", stdin=END_WRITER.encode())

    def add(self, size: int, used: int = USED_MIB) -> str:
        """A running instance of one disk with data in it is on node2; return the disk's path."""
        unchecked = "--no-name-check --no-ip-check" if self.generation == "bookworm" else ""
        self.master.run(
            f"gnt-instance add -t file -o noop+default -H fake -B memory=64M --no-install --no-start {unchecked} "
            f"--disk 0:size={size}G -n node2.example.com moved"
        )
        path = self.source.run("ls /zfs/vm/moved/*").strip()
        self.source.run(f"{{ {noise(used)}; }} | dd of={path} bs=1M iflag=fullblock conv=notrunc status=none; sync -f {path}")
        self.master.run("gnt-instance start moved")
        return path

    def write(self, path: str) -> None:
        """Something writes to the disk until it is gone or its instance is stopped."""
        self.source.run(f"setsid bash -c '{WRITER.format(path)}' > /dev/null 2>&1 < /dev/null &")

    def remove(self) -> None:
        self.master.run("gnt-instance remove -f moved")
        for node in self.nodes:
            node.execute(END_WRITER.splitlines()[1])
        self.master.run("gnt-zfs trash empty --yes")

    def ours(self, size: int) -> float:
        """Return the seconds for which the instance was down, as the mover measured."""
        self.write(self.add(size))
        (result,) = json.loads(self.master.run("gnt-zfs move --yes --json moved node3 2>/dev/null", seconds=3000))
        self.remove()
        return float(result["downtime"])

    def theirs(self, size: int) -> float:
        """Return the seconds that gnt-instance move takes, which shuts down first and starts last."""
        self.write(self.add(size))
        began = time.monotonic()
        self.master.run("gnt-instance move -f -n node3.example.com moved", seconds=3000)
        taken = time.monotonic() - began
        self.remove()
        return taken

    def pass_and_pipe(self, used: int, rounds: int) -> tuple[int, float, float]:
        """Return the bytes of a stream, and the seconds that the first pass of a move and a bare pipe take for them."""
        self.add(1 + used // 1024, used)
        self.source.run("zfs snapshot zfs/vm/moved@bare")
        size = int(self.source.run("zfs send -nP -L -e -c zfs/vm/moved@bare | awk '$1 == \"size\" {print $2}'"))
        pipe = f"bash -o pipefail -c 'zfs send -L -e -c zfs/vm/moved@bare | {SSH} zfs receive -s -u tank/bare'"

        def bare() -> float:
            began = time.monotonic()
            self.source.run(pipe, seconds=3000)
            taken = time.monotonic() - began
            self.target.run("zfs destroy -r tank/bare")
            return taken

        def ours() -> float:
            said = self.master.run("gnt-zfs move --yes --presync-only moved node3", seconds=3000)
            self.master.run("gnt-zfs move --abort --yes moved")
            found = PASS.search(said)
            assert found, said
            return float(found[1])

        mine, pipes = zip(*((ours(), bare()) for _round in range(rounds)), strict=True)
        self.source.run("zfs destroy zfs/vm/moved@bare")
        self.remove()
        return size, statistics.median(mine), statistics.median(pipes)

    def throughput(self) -> Iterator[Row]:
        """Yield how many bytes a second travel in a first pass of each size, and of those by which the larger one exceeds the other."""
        limit = "what each pass takes beside its bytes: snapshots, holds, and programs in Python, which emulated processors start slowly"
        small, large = (self.pass_and_pipe(used, rounds) for used, rounds in THROUGHPUT.items())
        more = (large[0] - small[0], large[1] - small[1], large[2] - small[2])
        names = [*(f"a first pass with {used} MiB" for used in THROUGHPUT), "each further byte of a pass"]
        for name, (size, ours, bare), why in zip(
            names, (small, large, more), (limit, "", "the processors: sending, encrypting"), strict=True
        ):
            yield Row(name, size / ours / 1e6, "zfs send, ssh, zfs receive", size / bare / 1e6, why, "MB/s")


def rows(generation: str, nodes: list[Machine]) -> Iterator[Row]:
    bench = Bench(generation, nodes)
    theirs_gib = THEIRS_GIB if generation == "bookworm" else ()
    ways: list[tuple[str, Callable[[int], float], tuple[int, ...]]] = [(OURS, bench.ours, SIZES_GIB), (THEIRS, bench.theirs, theirs_gib)]
    down: dict[tuple[str, int], float] = {}
    for size in SIZES_GIB:
        for name, way, sizes in ways:
            if size in sizes:
                down[name, size] = way(size)
                say(f"{generation}: {name}, {size} GiB: {down[name, size]:.1f} s down")
    yield from told(down)
    yield from bench.throughput()


def told(down: dict[tuple[str, int], float]) -> Iterator[Row]:
    """Yield a row for each size: against gnt-instance move where that was measured, else against our smallest."""
    for size in SIZES_GIB:
        other = (THEIRS, size) if (THEIRS, size) in down else (OURS, SIZES_GIB[0])
        if other != (OURS, size):
            limit = "Ganeti's own shutdown, change of the primary and start" if size == SIZES_GIB[-1] else ""
            yield Row(f"{OURS}, {size} GiB", down[OURS, size], f"{other[0]}, {other[1]} GiB", down[other], limit, "s")
