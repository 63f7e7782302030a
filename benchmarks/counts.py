"""Transaction groups, and processes and threads started, counted: the least of seven runs"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import hooks, verbs
from benchmarks.measure import Place, Row, empty_trash, shell, verb

Step = Callable[[], object]
ROUNDS = 7


def rows(place: Place) -> Iterator[Row]:
    hooks.write_sh(place)
    hand = verbs.ByHand(place)
    yield from _told(
        verbs.CREATE,
        _least(place, verbs.create, verbs.remove),
        "zfs create, truncate, losetup",
        _least(place, hand.make, hand.destroy),
        "the dataset with its properties; zpool(8) and zfs(8) are asked for health, room and strangers",
    )
    yield from _told(
        hooks.ADD,
        _least(place, lambda: hooks.hook("instance-add", "pre"), lambda: hooks.destroy(place)),
        "a hook in sh: zfs create",
        _least(place, lambda: hooks.in_sh("create"), lambda: hooks.destroy(place)),
        "the dataset with its properties; zfs(8) and zpool(8) are asked for health and room",
    )
    yield from _told(
        "an add and a removal with our hooks",
        _least(place, lambda: hooks.remove_ours(place)),
        "hooks in sh, for good",
        _least(place, lambda: hooks.remove_theirs(place)),
        "a rename into the trash and marks, so that it can come back",
    )
    yield from _attach(place)
    empty_trash(place)


def _told(ours: str, mine: tuple[int, int], theirs: str, other: tuple[int, int], limit: str) -> Iterator[Row]:
    for number, unit in enumerate(("txg", "processes and threads")):
        yield Row(ours, mine[number], theirs, other[number], "" if number else limit, unit)


def _nothing() -> None:
    pass


def _attach(place: Place) -> Iterator[Row]:
    volume = verbs.VOLUME
    verbs.create()
    mine = _least(place, lambda: verb("attach", volume, verbs.SIZE_MIB))
    other = _least(place, lambda: shell(f"zfs list -H -o name {place.root}/{volume} && readlink -f /dev/zfsganeti/{volume}"))
    verbs.remove()
    yield from _told("attach of an attached volume", mine, "zfs list and readlink, as a provider in sh", other, "no program is run")


def _least(place: Place, do: Step, undo: Step = _nothing) -> tuple[int, int]:
    """Return how many transaction groups and processes a step took, the least that was seen."""
    seen = []
    for _round in range(ROUNDS):
        shell(f"zpool sync {place.pool}")
        before = _counters(place)
        do()
        after = _counters(place)
        undo()
        seen.append((after[0] - before[0], after[1] - before[1]))
    return min(txgs for txgs, _started in seen), min(started for _txgs, started in seen)


def _counters(place: Place) -> tuple[int, int]:
    """Return the pool's newest transaction group, and how many processes and threads the node has started."""
    groups = Path(f"/proc/spl/kstat/zfs/{place.pool}/txgs").read_text(encoding="ascii").splitlines()
    started = next(line for line in Path("/proc/stat").read_text(encoding="ascii").splitlines() if line.startswith("processes "))
    return int(groups[-1].split()[0]), int(started.split()[1])
