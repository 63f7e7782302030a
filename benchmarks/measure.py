"""On a node: what takes how long against what, as rows of a table; ways that are compared take turns, and medians are kept.

Every file here that has a function `rows`, which takes a Place and yields rows, is a table; `python3 -m benchmarks` finds it by that.
Run on a node: python3 -m benchmarks.measure ROOT DIRECTORY [FILE...], for example zfs/vm /zfs/vm verbs; it prints JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PROVIDER = "/usr/share/ganeti/extstorage/zfs"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

Way = Callable[[], float]  # does it once, cleans up, and returns the seconds that count


@dataclass(frozen=True)
class Place:
    """Where on a node things are measured: a root and the directory where it is mounted."""

    root: str
    directory: str

    @property
    def pool(self) -> str:
        return self.root.partition("/")[0]


@dataclass(frozen=True)
class Row:
    """What of ours was compared with what, in ms or another unit, and what keeps ours from being less."""

    ours: str
    figure: float
    theirs: str
    their_figure: float
    limit: str = ""
    unit: str = "ms"


def run(*command: str, **environment: str) -> float:
    """Return how many seconds a command took, which must succeed."""
    wanted = {"PATH": PATH, **environment}
    started = time.perf_counter()
    done = subprocess.run(command, check=False, env=wanted, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return taken


def shell(text: str) -> float:
    return run("/bin/sh", "-c", text)


def noise(mib: int) -> str:
    """Return a shell command that writes so many MiB, rounded up to 8, that no record of a disk can be compressed of."""
    return f"head -c 8M /dev/urandom > /tmp/noise; for _ in $(seq {-(-mib // 8)}); do cat /tmp/noise; done"


def verb(name: str, volume: str, size_mib: int, snapshot: str = "", **parameters: str) -> float:
    """Return how long one of the provider's verbs took, called as Ganeti calls it."""
    given = {f"EXTP_{key.upper()}": value for key, value in parameters.items()}
    taken = {"VOL_SNAPSHOT_NAME": snapshot, "VOL_SNAPSHOT_SIZE": str(size_mib)} if snapshot else {}
    return run(f"{PROVIDER}/{name}", VOL_NAME=volume, VOL_SIZE=str(size_mib), EXTP_PROVIDER="zfs", **taken, **given)


def empty_trash(place: Place) -> None:
    """Nothing of ours is in the trash, whatever else is."""
    shell(f"for d in $(zfs list -H -o name -d 1 -r {place.root}/.trash | grep /.trash/bench); do zfs destroy -r $d; done")


def medians(rounds: int, ways: dict[str, Way]) -> dict[str, float]:
    """Return the median of each way; they take turns, so that what else the machine does meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _round in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
    return {name: statistics.median(values) for name, values in taken.items()}


def against(found: dict[str, float], ours: str, limit: str) -> Iterator[Row]:
    """Yield a row in ms for ours against each other way, whose figures are in seconds."""
    for number, theirs in enumerate(name for name in found if name != ours):
        yield Row(ours, 1000 * found[ours], theirs, 1000 * found[theirs], "" if number else limit)


def files() -> list[str]:
    """Return the names of the files here that measure something."""
    here = Path(__file__).parent
    return sorted(path.stem for path in here.glob("*.py") if "\ndef rows(" in path.read_text(encoding="utf-8"))


def main(root: str, directory: str, *names: str) -> None:
    place = Place(root, directory)
    found = {}
    for name in names or files():
        module = importlib.import_module(f"benchmarks.{name}")
        found[name] = {"title": (module.__doc__ or name).splitlines()[0], "rows": [asdict(row) for row in module.rows(place)]}
        print(f"{name}: {len(found[name]['rows'])} rows", file=sys.stderr, flush=True)
    json.dump({"versions": versions(), "tables": found}, sys.stdout)


def versions() -> dict[str, str]:
    """Return the versions of what these figures are of."""
    said = {"Linux": os.uname().release, "Python": sys.version.split()[0]}
    said["OpenZFS"] = Path("/sys/module/zfs/version").read_text(encoding="ascii").strip()
    ganeti = subprocess.run(["gnt-cluster", "--version"], capture_output=True, text=True, check=False).stdout.split()
    return {**said, "Ganeti": ganeti[-1] if ganeti else "?"}


if __name__ == "__main__":
    main(*sys.argv[1:])
