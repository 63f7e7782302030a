"""Interrupts every operation at every point: python3 -m tests.chaos [--generation G] [--hours H] [--only NAME] [--most N] [FILE]

First what the library does for them, which takes seconds each (tests/chaos/library.py), then what Ganeti and gnt-zfs do with it.
Each fault begins with a cluster as it was before the operation. One process of ours is killed, one call in it fails, or the node loses
its power; then the same command is given again, `gnt-zfs check --repair` puts right what is left, and every disk must hold what it may
hold, with nothing leaked. What was tried is kept in tests/chaos/tried, so that later runs go on; FILE is written from all of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

from tests.chaos import library, points
from tests.chaos.alone import leave_others
from tests.chaos.scenarios import Scenario, State, scenarios
from tests.lab import host, image
from tests.lab.cluster import Cluster
from tests.lab.conftest import SETUP, Lab
from tests.lab.host import LabError, say
from tests.lab.machine import Machine, qmp
from tests.lab.product import install

KINDS = library.KINDS
MODULES = "/usr/lib/python3/dist-packages"
COMMAND = "make chaos"
ROOT = Path(__file__).parents[2]
OPERATION_SECONDS = 900
# that a power cut has ended a job luxid learns when it looks at its queue, LUXID_JOBQUEUE_POLL_INTERVAL is 307 s, or is told to kill it
JOB_DEATH_SECONDS = 600
JOBS_END = """gnt-cluster getmaster && for job in $(gnt-job list --no-headers --running -o id); do
gnt-job cancel --kill --yes-do-it $job; done; test -z "$(gnt-job list --no-headers --running -o id)\""""
NOT_STRUCK = library.NOT_STRUCK
LIBRARY = "library"
# the library is struck on a pool of its own, which is called like the lab's, and nobody has to hear of each device and pool
ALL_ELSE_ENDS = """systemctl stop cron.service 'ganeti*' 'gnt-zfs*' 'zfsganeti*' zfs-zed.service
zpool export -f zfs && systemctl stop systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service"""
OWN_MOUNTS = "unshare --mount --propagation private"  # systemd looks at all mounts whenever one comes or goes
TOLD_SECONDS = 300.0  # how often what the library has survived is kept


def main() -> int:
    options = parser().parse_args()
    host.install_missing()
    generations = tuple(options.generation or image.GENERATIONS)
    deadline = time.monotonic() + 3600 * options.hours
    with ThreadPoolExecutor(max_workers=len(generations)) as pool:
        list(pool.map(lambda generation: Chaos(generation, options.only, options.most).until(deadline), generations))
    found = {generation: known(generation) for generation in image.GENERATIONS}
    if options.file is not None:
        options.file.write_text(page(found), encoding="utf-8")
    return int(any(_is_fault(key) and not is_settled(result) for faults in found.values() for key, result in faults.items()))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python3 -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    top.add_argument("--generation", choices=image.GENERATIONS, action="append", help="default: each, side by side")
    top.add_argument("--hours", type=float, default=8, help="how long faults are begun (default 8)")
    top.add_argument("--only", action="append", help="scenarios whose names contain this")
    top.add_argument("--most", type=int, default=0, help="faults of each operation with Ganeti at most (default: all)")
    top.add_argument("file", type=Path, nargs="?", help="the page; without it none is written")
    return top


class Chaos:
    """A cluster of one generation that is struck again and again."""

    def __init__(self, generation: str, only: list[str] | None, most: int = 0) -> None:
        self.generation, self.only, self.most = generation, only or [""], most
        self.cluster, self.commit = Cluster(generation, "chaos"), host.commit(ROOT)

    def until(self, deadline: float) -> None:
        """Faults have been tried until then, or all of them; every operation has had its share of the time."""
        self.cluster.stop()
        try:
            nodes = self.cluster.up()
            install(nodes)
            lab = Lab(self.cluster, nodes)
            lab.run(SETUP)
            for node in nodes:
                inject(node)
            begin = self.cluster.place / "begin"
            self.cluster.freeze(nodes, begin)
            self.cluster.back_to(nodes, begin)
            alone = leave_others(lab)
            single = self.cluster.place / "alone"
            self.cluster.freeze(alone.nodes, single)
            turns: list[tuple[str, Callable[[float], None]]] = [(LIBRARY, lambda until: self.library(alone, single, until))]
            for place, state, together in ((alone, single, False), (lab, begin, True)):
                for scenario in scenarios(place):
                    if scenario.together == together:
                        turns.append((scenario.name, partial(self.strike_from, place, state, scenario)))
            wanted = [turn for name, turn in turns if any(part in name for part in self.only)]
            for number, turn in enumerate(wanted):
                now = time.monotonic()
                turn(now + (deadline - now) / (len(wanted) - number))
        finally:
            self.cluster.stop()

    def library(self, lab: Lab, state: Path, deadline: float) -> None:
        """What the library does has been interrupted at each point that is not known yet, on one node."""
        self.cluster.back_to(lab.nodes, state)
        lab.master.run(ALL_ELSE_ENDS)
        prepare_library(lab.master)
        seen: set[str] = set()
        while (left := deadline - time.monotonic()) > 0:
            told = known(self.generation)
            settled = {key: result for key, result in told.items() if key in seen or (_is_fault(key) and is_settled(result))}
            found = strike_library(lab.master, min(left, TOLD_SECONDS), settled)
            if not found.keys() - seen:
                return
            for key, result in found.items():
                remember(self.generation, key, f"{result} ({self.commit})" if _is_fault(key) else result)
            struck = [result for key, result in found.items() if _is_fault(key)]
            say(f"{self.generation}: {LIBRARY}: {len(struck)} more faults, {sum(map(survived, struck))} survived")
            seen |= found.keys()

    def strike_from(self, lab: Lab, state: Path, scenario: Scenario, deadline: float) -> None:
        points = known(self.generation).get(f"{scenario.name}/points")
        if points is not None and not self.left(scenario.name, int(points)):
            return
        self.cluster.back_to(lab.nodes, state)
        self.strike(lab, scenario, deadline)

    def left(self, name: str, count: int) -> list[tuple[str, int]]:
        """Return which of the wanted faults of an operation are not settled yet, those first that chance puts first."""
        wanted, told = islice(library.order(name, count), self.most or None), known(self.generation)
        return [(kind, number) for kind, number in wanted if not is_settled(told.get(f"{name}/{kind}/{number}", ""))]

    def strike(self, lab: Lab, scenario: Scenario, deadline: float) -> None:
        """The operation was interrupted at each point that is not known yet."""
        state = scenario.prepare(lab)
        for node in lab.nodes:
            node.run(f"rm -f {points.PLACE}/points")  # those of what went before are not counted
        place = self.cluster.place / hashlib.sha256(scenario.name.encode()).hexdigest()[:8]
        self.cluster.freeze(lab.nodes, place)
        self.cluster.back_to(lab.nodes, place)
        count = self.count(lab, scenario)
        say(f"{self.generation}: {scenario.name}: {count} points")
        remember(self.generation, f"{scenario.name}/points", str(count))
        for kind, number in self.left(scenario.name, count):
            key = f"{scenario.name}/{kind}/{number}"
            if time.monotonic() > deadline:
                return
            began = time.monotonic()
            self.cluster.back_to(lab.nodes, place)
            result = self.fault(lab, scenario, state, kind, number)
            say(f"{self.generation}: {key}: {result} in {time.monotonic() - began:.0f} s")
            remember(self.generation, key, f"{result} ({self.commit})")

    def count(self, lab: Lab, scenario: Scenario) -> int:
        """Return how many points the operation has on the node that is to be struck."""
        lab.node(scenario.on).run(scenario.operation, seconds=OPERATION_SECONDS)
        return int(lab.node(scenario.struck).run(f"cat {points.PLACE}/points 2>/dev/null | wc -l"))

    def fault(self, lab: Lab, scenario: Scenario, state: State, kind: str, number: int) -> str:
        """Return `survived`, or what was wrong after the same command; `not struck` where no program came to the point this time."""
        struck = lab.node(scenario.struck)
        struck.run(f"echo {number} {kind} > {points.PLACE}/armed")
        try:
            if not self.operate(lab, scenario, struck, kind):
                return NOT_STRUCK
            struck.run(f"rm -f {points.PLACE}/armed")
            lab.node(scenario.on).wait(scenario.again, seconds=OPERATION_SECONDS)
            repaired = lab.master.wait("gnt-zfs check --repair", seconds=300)
            scenario.check(lab, state)
            if repaired != lab.all_is_well:  # a check takes as long as a small operation
                lab.well()
            lab.run("gnt-cluster verify")
        except (AssertionError, LabError) as error:
            return " ".join(str(error).split())[:2000] or type(error).__name__
        return "survived"

    def operate(self, lab: Lab, scenario: Scenario, struck: Machine, kind: str) -> bool:
        """The operation was begun and has ended; a node that lost its power runs again. Tell whether the fault has struck."""
        if kind == "power":
            qmp(struck.path("qmp"), "set-action", reboot="shutdown")
        with ThreadPoolExecutor() as pool:
            running = pool.submit(
                lab.node(scenario.on).execute, f"timeout 600 sh -c {quoted(scenario.operation)}", seconds=OPERATION_SECONDS
            )
            cut = False
            while not running.done():
                cut |= self.revive(lab, struck)
                time.sleep(0.5)
        cut |= self.revive(lab, struck)
        if cut:
            struck.wait(f"mkdir -p {points.PLACE}; mountpoint -q /zfs/vm")
            lab.master.wait(JOBS_END, seconds=JOB_DEATH_SECONDS)
        return cut or struck.execute(f"test -e {points.PLACE}/fired").status == 0

    def revive(self, lab: Lab, struck: Machine) -> bool:
        """A node that lost its power runs again; who waits for an answer of its former self learns at once that there is none.

        Tell whether it had lost it.
        """
        if struck.pid() is not None:
            return False
        self.cluster.boot(struck)
        for node in lab.nodes:
            if node is not struck:
                node.run(f"ss -K -tn dst $(getent hosts {struck.name} | cut -d' ' -f1)")
        return True


def prepare_library(node: Machine) -> None:
    """The node has what strikes it."""
    packed = subprocess.run(["tar", "-C", str(ROOT), "--exclude=__pycache__", "-c", "tests"], check=True, capture_output=True).stdout
    node.run("mkdir /tmp/library && tar -C /tmp/library -x", stdin=packed)


def strike_library(node: Machine, seconds: float, settled: dict[str, str], *chosen: str) -> dict[str, str]:
    """Return what faults have ended in that are not settled, of all operations, or of `chosen`: how many of each, and which."""
    words = " ".join(map(quoted, (f"{seconds:.0f}", *chosen)))
    command = f"cd /tmp/library && {OWN_MOUNTS} /usr/bin/python3 -m tests.chaos.library /dev/shm/library {words}"
    return dict(json.loads(node.run(command, stdin=json.dumps(settled).encode(), seconds=OPERATION_SECONDS)))


def quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"


def inject(node: Machine) -> None:
    """The node's Python reads points.py when it starts."""
    node.write(f"{MODULES}/zfsganeti_points.py", Path(points.__file__).read_text(encoding="utf-8"))
    node.write(f"{MODULES}/zfsganeti_points.pth", "import zfsganeti_points; zfsganeti_points.begin()\n")
    node.run(f"mkdir -p {points.PLACE}")


def withdraw(node: Machine) -> None:
    """The node's programs run as they are."""
    node.run(f"rm -rf {MODULES}/zfsganeti_points.pth {MODULES}/zfsganeti_points.py {points.PLACE}")


def survived(result: str) -> bool:
    return result.startswith("survived")


def is_settled(result: str) -> bool:
    """Tell whether there is nothing more to be learned of a fault; one that was lost is tried again."""
    return survived(result) or result.startswith(NOT_STRUCK)


def known(generation: str) -> dict[str, str]:
    """Return what every fault that was tried has ended in, and how many points each operation has had."""
    return dict(json.loads(_place(generation).read_text(encoding="utf-8"))) if _place(generation).exists() else {}


def remember(generation: str, key: str, result: str) -> None:
    _place(generation).parent.mkdir(exist_ok=True)
    _place(generation).write_text(json.dumps({**known(generation), key: result}, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def _place(generation: str) -> Path:
    return ROOT / "tests/chaos/tried" / f"{generation}.json"


def page(found: dict[str, dict[str, str]]) -> str:
    """Return the page as Markdown."""
    lines = [
        "# What was interrupted, and what was lost",
        "",
        f"Written by `{COMMAND}`, in the lab, on real Ganeti and real ZFS. At each point at which a program of ours is about to change",
        "something, it is killed, its call fails, or the node loses its power; then the same command is given again, and `gnt-zfs check",
        "--repair`. Survived is what ends with every disk as it may be, nothing leaked, and a check that finds nothing. It takes hours:",
        "`tried` says how many of all faults have had their turn by now, in an order that spreads over all points. Not every run passes",
        "as many points; where the chosen one was not passed, nothing was struck.",
        "",
        f"What is called {LIBRARY} are the parts of which the others are made, on real ZFS without Ganeti: the process is killed at",
        "every point, or its call fails, or the pool is from then on what was on its disk at that moment; then another process does the",
        "same again. The last point is after the end: what is done outlasts a power cut.",
        "",
    ]
    for generation, faults in found.items():
        lines += [
            f"## {generation}",
            "",
            "| operation | points | killed | failed | power cut | tried | survived | not struck | lost |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [*_rows(faults), ""]
        unsettled = [f"- {key}: {result}" for key, result in sorted(faults.items()) if _is_fault(key) and not is_settled(result)]
        lines += [*unsettled, ""] if unsettled else []
    return "\n".join(lines).rstrip("\n") + "\n"


def _is_fault(key: str) -> bool:
    return not key.endswith("/points")


def _kinds(name: str) -> tuple[str, ...]:
    return library.kinds_of(name.removeprefix(library.PREFIX)) if name.startswith(library.PREFIX) else KINDS


def _rows(faults: dict[str, str]) -> Iterator[str]:
    """Yield a row for each operation, and one for all of them."""
    names = sorted({key.split("/")[0] for key in faults})
    for name, of in (*((name, [name]) for name in names), ("all", names)):
        points = sum(int(faults.get(f"{each}/points", 0)) for each in of)
        tried = {kind: [result for key, result in faults.items() if key.split("/")[0] in of and f"/{kind}/" in key] for kind in KINDS}
        results = [result for those in tried.values() for result in those]
        whole, settled = sum(map(survived, results)), sum(map(is_settled, results))
        most = sum(len(_kinds(each)) * int(faults.get(f"{each}/points", 0)) for each in of)
        share = f"{len(results)} of {most}"
        figures = (points, *(len(tried[kind]) for kind in KINDS), share, whole, settled - whole, len(results) - settled)
        yield f"| {name} | {' | '.join(map(str, figures))} |"


if __name__ == "__main__":
    raise SystemExit(main())
