"""The provider's verbs against what does the same by hand, or by a provider in sh"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import PROVIDER, Place, Row, against, medians, run, shell, verb

VOLUME, SIZE_MIB = "bench.ext.disk0", 1024
PYTHON = "python3 -I -c pass"


def rows(place: Place) -> Iterator[Row]:
    yield from _pieces(place)
    yield from _attach(place)
    yield from _create(place)


def _pieces(place: Place) -> Iterator[Row]:
    """What everything here is made of: the start of Python, of our library, of zfs(8), and a transaction group."""
    found = medians(
        20,
        {
            "our library, imported": lambda: run("/usr/bin/python3", "-I", "-c", "from zfsganeti import extstorage, here, volumes, images"),
            PYTHON: lambda: run("/usr/bin/python3", "-I", "-c", "pass"),
            "zfs get of one dataset": lambda: run("zfs", "get", "-Hp", "used", place.root),
            "one transaction group (zpool sync)": lambda: run("zpool", "sync", place.root.split("/")[0]),
            "import libzfs_core (Debian's binding)": lambda: run("/usr/bin/python3", "-I", "-c", "import libzfs_core"),
        },
    )
    yield from against(found, "our library, imported", "what the rest is made of, for comparison")


def _attach(place: Place) -> Iterator[Row]:
    verb("create", VOLUME, SIZE_MIB)
    link = f"/dev/zfsganeti/{VOLUME}"
    ways = {
        "attach of an attached volume": lambda: run(f"{PROVIDER}/attach", VOL_NAME=VOLUME),
        "/bin/sh -c :": lambda: run("/bin/sh", "-c", ":"),
        PYTHON: lambda: run("/usr/bin/python3", "-I", "-c", "pass"),
        "zfs list and readlink, as a provider in sh": lambda: shell(f"zfs list -H -o name {place.root}/{VOLUME} && readlink -f {link}"),
    }
    found = medians(30, ways)
    verb("remove", VOLUME, SIZE_MIB)
    yield from against(found, "attach of an attached volume", "the start of Python: no program is run, four of our modules are read")


def _create(place: Place) -> Iterator[Row]:
    home, name = f"{place.directory}/byhand", f"{place.root}/byhand"

    def ours() -> float:
        taken = verb("create", VOLUME, SIZE_MIB)
        verb("remove", VOLUME, SIZE_MIB)
        return taken

    def as_ganeti_does() -> float:
        taken = verb("create", VOLUME, SIZE_MIB) + run(f"{PROVIDER}/attach", VOL_NAME=VOLUME)
        verb("remove", VOLUME, SIZE_MIB)
        return taken

    def by_hand(fsync: str = "") -> float:
        taken = shell(f"zfs create {name} && truncate -s {SIZE_MIB}M {home}/disk.raw {fsync} && losetup -f --show {home}/disk.raw")
        shell(f"losetup -d $(losetup -nO NAME -j {home}/disk.raw); umount {home}; zfs destroy {name}")
        return taken

    found = medians(
        10,
        {
            "create, to a disk that is attached": ours,
            "zfs create, truncate, losetup": by_hand,
            "zfs create, truncate, sync FILE, losetup": lambda: by_hand(f"&& sync {home}/disk.raw"),
            "create and attach, as Ganeti calls them": as_ganeti_does,
        },
    )
    limit = "the start of Python, and three transaction groups: the dataset, its properties, the first fsync"
    yield from against(found, "create, to a disk that is attached", limit)
