"""The provider's verbs against what does the same by hand, by a provider in sh, and with zvols"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.measure import PROVIDER, Place, Row, against, empty_trash, medians, run, shell, verb

VOLUME, SNAPSHOT, SIZE_MIB = "bench.ext.disk0", "bench.ext.disk0.snap", 1024
PYTHON = "python3 -I -c pass"
CREATE, REMOVE, TAKE = "create, to a disk that is attached", "remove, to the trash", "snapshot, to a volume that can be attached"


def rows(place: Place) -> Iterator[Row]:
    yield from _pieces(place)
    yield from _attach(place)
    yield from _create(place)
    yield from _remove(place)
    yield from _snapshot(place)
    empty_trash(place)


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


class ByHand:
    """Disks made and destroyed without us, for good: what there is instead of our verbs."""

    def __init__(self, place: Place) -> None:
        self.dataset, self.home = f"{place.root}/byhand", f"{place.directory}/byhand"
        self.disk, self.zvol = f"{self.home}/disk.raw", f"/dev/zvol/{place.root}/byhand"

    def make(self, sync: str = "") -> float:
        return shell(f"zfs create {self.dataset} && truncate -s {SIZE_MIB}M {self.disk} {sync} && losetup -f --show {self.disk}")

    def destroy(self) -> float:
        return shell(f"losetup -d $(losetup -nO NAME -j {self.disk}); umount {self.home}; zfs destroy {self.dataset}")

    def make_zvol(self) -> float:
        return shell(f"zfs create -s -V {SIZE_MIB}M {self.dataset} && while ! [ -e {self.zvol} ]; do sleep 0.01; done")

    def destroy_zvol(self) -> float:
        """udev may still have a look at it, as every provider of zvols finds out."""
        return shell(f"while ! zfs destroy {self.dataset} 2>/dev/null; do sleep 0.01; done")


def first(way: Callable[[], float], then: Callable[[], object]) -> Callable[[], float]:
    """Return a way that counts the first of two steps."""

    def both() -> float:
        taken = way()
        then()
        return taken

    return both


def second(before: Callable[[], object], way: Callable[[], float]) -> Callable[[], float]:
    """Return a way that counts the second of two steps."""

    def both() -> float:
        before()
        return way()

    return both


def create() -> float:
    return verb("create", VOLUME, SIZE_MIB)


def create_used() -> None:
    """A disk that something was written to: one that was never used needs no trash."""
    create()
    shell(f"head -c 64K /dev/urandom > /dev/zfsganeti/{VOLUME}; sync /dev/zfsganeti/{VOLUME}")


def remove() -> float:
    return verb("remove", VOLUME, SIZE_MIB)


def _create(place: Place) -> Iterator[Row]:
    hand = ByHand(place)
    found = medians(
        10,
        {
            CREATE: first(create, remove),
            "zfs create, truncate, losetup": first(hand.make, hand.destroy),
            "zfs create, truncate, sync FILE, losetup": first(lambda: hand.make(f"&& sync {hand.disk}"), hand.destroy),
            "zfs create -V, to its device": first(hand.make_zvol, hand.destroy_zvol),
            "create and attach, as Ganeti calls them": first(lambda: create() + run(f"{PROVIDER}/attach", VOL_NAME=VOLUME), remove),
        },
    )
    limit = "the start of Python; the pool, its room and strangers are looked at first, with zfs(8)"
    yield from against(found, CREATE, limit)


def _remove(place: Place) -> Iterator[Row]:
    hand = ByHand(place)
    found = medians(
        8,
        {
            REMOVE: second(create_used, remove),
            "losetup -d, umount, zfs destroy": second(hand.make, hand.destroy),
            "zfs destroy of a zvol": second(hand.make_zvol, hand.destroy_zvol),
        },
    )
    yield from against(found, REMOVE, "it can come back: it is renamed and marked, and what is due in the trash is looked for")


def _snapshot(place: Place) -> Iterator[Row]:
    """A snapshot as Ganeti asks for it is a clone that can be attached, which is what a provider of zvols has to make as well."""
    hand = ByHand(place)
    create()
    hand.make_zvol()
    taken, clone = f"{hand.dataset}@taken", f"{hand.dataset}.taken"
    found = medians(
        8,
        {
            TAKE: first(lambda: verb("snapshot", VOLUME, SIZE_MIB, snapshot=SNAPSHOT), lambda: verb("remove", SNAPSHOT, SIZE_MIB)),
            "zfs snapshot, zfs clone of a zvol": first(
                lambda: shell(f"zfs snapshot {taken} && zfs clone {taken} {clone}"),
                lambda: shell(f"while ! zfs destroy {clone} 2>/dev/null; do sleep 0.01; done; zfs destroy {taken}"),
            ),
        },
    )
    remove()
    hand.destroy_zvol()
    yield from against(found, TAKE, "the start of Python, and the clone's properties")
