"""A disk that is made of an image, against other ways to get one, and whatever the image's size"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

from benchmarks.measure import Place, Row, against, medians, noise, run, shell, verb

VOLUME, FIRST = "bench.ext.disk0", "bench.ext.disk1"
SIZES_GIB = (1, 10, 25, 100)
TOLD = 25  # the size that is compared with other ways
USED_MIB = {1: 50, 10: 50, TOLD: 800, 100: 50}
ROOM_GIB, MORE = 400, "/var/tmp/more"  # noqa: S108 - a node of the lab is ours alone
LIMIT = "the start of Python; the catalogue, the pool and its room are looked at first, with zfs(8)"
EMPTY, LOADED = "python3 -I -c pass", "create with image=, in a process of Python that has made a disk before"
IN_A_PROCESS = """
import time
from zfsganeti import extstorage
for volume in "{first}", "{volume}":
    began = time.perf_counter()
    extstorage.handle("create", {{"VOL_NAME": volume, "VOL_SIZE": "{mib}", "EXTP_PROVIDER": "zfs", "EXTP_IMAGE": "{image}"}})
print(time.perf_counter() - began)
"""


def rows(place: Place) -> Iterator[Row]:
    # a disk that is larger than the room there is would be refused
    shell(f"truncate -s {ROOM_GIB}G {MORE} && zpool add -f {place.pool} {MORE}")
    names = {size: _make_image(size, place) for size in SIZES_GIB}
    try:
        yield from _against_others(names[TOLD], place)
        yield from _whatever_the_size(names)
    finally:
        for name in names.values():
            run("gnt-zfs", "image", "delete", "--now", "--yes", name)


def _make_image(size: int, place: Place) -> str:
    """An image of `size` GiB exists, of which the first USED_MIB are used; return its name."""
    source, name = f"{place.directory}/source", f"bench:{size}G"
    # as cloud images come: of a raw file, all that is empty would be hashed as well
    shell(f"{{ {noise(USED_MIB[size])}; }} > {source}.raw; truncate -s {size}G {source}.raw; sync -f {source}.raw")
    shell(f"qemu-img convert -f raw -O qcow2 {source}.raw {source}.qcow2; rm {source}.raw")
    run("gnt-zfs", "image", "import", name, f"{source}.qcow2")
    os.unlink(f"{source}.qcow2")
    return name


def _ours(name: str, size: int) -> float:
    """Return how long it takes until a disk made of an image is a block device; nothing is left of it."""
    taken = verb("create", VOLUME, size << 10, image=name)
    verb("remove", VOLUME, size << 10)
    return taken


def _ours_loaded(name: str, size: int) -> float:
    """Return how long a disk takes in a process that has read its modules; nothing is left of it."""
    code = IN_A_PROCESS.format(first=FIRST, volume=VOLUME, mib=size << 10, image=name)
    taken = float(subprocess.run(["python3", "-I", "-c", code], check=True, capture_output=True, text=True).stdout)
    for volume in (FIRST, VOLUME):
        verb("remove", volume, size << 10)
    return taken


def _by_hand(name: str, place: Place, then: str = "") -> float:
    disk = f"{place.directory}/byhand/disk.raw"
    taken = shell(f"zfs clone {place.root}/.images/{name}@golden {place.root}/byhand {then.format(disk)}")
    shell(f"for d in $(losetup -nO NAME -j {disk}); do losetup -d $d; done")
    shell(f"until zfs destroy {place.root}/byhand; do sleep 0.2; done")  # udev looks at what was attached
    return taken


def _against_others(name: str, place: Place) -> Iterator[Row]:
    ours = f"create with image= ({TOLD} GiB, {USED_MIB[TOLD]} MiB used), to a disk that is attached"
    attached = f"&& truncate -s {TOLD}G {{0}} && losetup -f --show {{0}}"
    synced = attached.replace("&& losetup", "&& sync {0} && losetup")
    bare = "zfs clone alone"
    found = medians(
        9,
        {
            ours: lambda: _ours(name, TOLD),
            LOADED: lambda: _ours_loaded(name, TOLD),
            EMPTY: lambda: run("python3", "-I", "-c", "pass"),
            bare: lambda: _by_hand(name, place),
            "zfs clone, truncate, losetup": lambda: _by_hand(name, place, attached),
            "zfs clone, truncate, sync FILE, losetup": lambda: _by_hand(name, place, synced),
        },
    )
    yield Row(EMPTY, 1000 * found.pop(EMPTY), bare, 1000 * found[bare], "what any command in Python takes before it begins")
    yield Row(LOADED, 1000 * found.pop(LOADED), bare, 1000 * found[bare], "what is looked at first, with zfs(8)")
    yield from against(found | _copies(name, place), ours, LIMIT)


def _copies(name: str, place: Place) -> dict[str, float]:
    """Return how long it takes to copy the image's disk, once for each way."""
    disk, target = f"{place.directory}/look/disk.raw", f"{place.directory}/copy.raw"
    shell(f"zfs clone {place.root}/.images/{name}@golden {place.root}/look")
    found = {}
    for title, command in (
        ("cp --sparse", f"cp --reflink=never --sparse=always {disk} {target}"),
        ("qemu-img convert", f"qemu-img convert -f raw -O raw {disk} {target}"),
    ):
        found[title] = shell(f"{command} && sync {target}")
        os.unlink(target)
    shell(f"umount {place.directory}/look; zfs destroy {place.root}/look")
    return found


def _whatever_the_size(names: dict[int, str]) -> Iterator[Row]:
    found = medians(7, {f"create with image=, {size} GiB": lambda size=size: _ours(names[size], size) for size in SIZES_GIB})  # type: ignore[misc]
    smallest, *larger = found
    for title in larger:
        limit = "nothing of it depends on the size" if title == larger[0] else ""
        yield Row(title, 1000 * found[title], smallest, 1000 * found[smallest], limit)
