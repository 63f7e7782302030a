"""What lists and checks all, with 10, 100 and 1000 datasets on a node, against zfs list of the same"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.measure import Place, Row, Way, medians, run, shell

COUNTS = (10, 100, 1000)
MARK = "org.zfsganeti:"


def rows(place: Place) -> Iterator[Row]:
    cluster = Path("/var/lib/ganeti/ssconf_cluster_name").read_text(encoding="ascii").strip()
    found: dict[int, dict[str, float]] = {}
    made = 0
    for count in COUNTS:
        _make(place, cluster, made, count)
        made = count
        found[count] = medians(5, _ways(place))
    shell(f"umount {place.directory}/list*.example.com; {_each(0, made)} zfs destroy {place.root}/$name; done")
    yield from _told(found)


def _make(place: Place, cluster: str, first: int, end: int) -> None:
    """There are that many datasets, mounted at once, since systemd looks at all mounts whenever one comes."""
    shell(f"{_each(first, end)} zfs create -u -o {MARK}instance=$name -o {MARK}cluster={cluster} {place.root}/$name; done; zfs mount -a")


def _each(first: int, end: int) -> str:
    return f"for number in $(seq {first} {end - 1}); do name=list$number.example.com;"


def _ways(place: Place) -> dict[str, Way]:
    theirs = ("zfs", "list", "-Hp", "-r", "-t", "filesystem,snapshot", "-o", "name,used,referenced,mounted,mountpoint", place.root)
    return {
        "gnt-zfs list": lambda: run("gnt-zfs", "list"),
        "gnt-zfs check": lambda: shell("gnt-zfs check; [ $? -le 1 ]"),
        "zfs list": lambda: run(*theirs),
    }


def _told(found: dict[int, dict[str, float]]) -> Iterator[Row]:
    """The last rows are what a hundred more datasets cost, which is what grows."""
    for way in ("gnt-zfs list", "gnt-zfs check"):
        for count in COUNTS:
            limit = "three nodes are asked through ssh, whatever they hold" if count == COUNTS[0] else ""
            yield Row(f"{way}, {count} datasets", 1000 * found[count][way], f"zfs list, {count}", 1000 * found[count]["zfs list"], limit)
        for few, many in pairwise(COUNTS):
            more = 100 / (many - few)
            each = {name: 1000 * (found[many][name] - found[few][name]) * more for name in (way, "zfs list")}
            yield Row(f"{way}, for 100 more ({few} to {many})", each[way], "zfs list, for 100 more", each["zfs list"])
