"""Run on a node: how long a disk takes that is made of an image, against other ways to get one, in one run; prints tables.

usage: python3 images.py ROOT DIRECTORY, for example zfs/vm /zfs/vm
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

PROVIDER = "/usr/share/ganeti/extstorage/zfs"
VOLUME = "bench.ext.disk0"
ROUNDS = 5
USED_MIB = 800
SIZES_GIB = (1, 25, 100)


def run(*command: str, **environment: str) -> float:
    """Return how many seconds a command took, which must succeed."""
    wanted = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
    started = time.perf_counter()
    subprocess.run(command, check=True, env=wanted, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def shell(text: str) -> float:
    return run("sh", "-c", text)


def make_image(size: int, directory: str) -> str:
    """An image of `size` GiB exists, of which the first part is used; return its name."""
    source, name = f"{directory}/source.raw", f"bench:{size}G"
    shell(f"head -c {USED_MIB}M /dev/urandom > {source}; truncate -s {size}G {source}")
    run("gnt-zfs", "image", "import", name, source)
    os.unlink(source)
    return name


def clone(name: str, size: int) -> float:
    """Return how long it takes until a disk made of an image is a block device; nothing is left of it."""
    environment = {"VOL_NAME": VOLUME, "VOL_SIZE": str(size << 10), "EXTP_PROVIDER": "zfs", "EXTP_IMAGE": name}
    taken = run(f"{PROVIDER}/create", **environment)
    run(f"{PROVIDER}/remove", **environment)
    return taken


def by_hand(name: str, root: str) -> float:
    taken = shell(f"zfs clone {root}/.images/{name}@golden {root}/byhand")
    shell(f"zfs destroy {root}/byhand")
    return taken


def empty() -> float:
    """Return what the same verb takes without an image."""
    environment = {"VOL_NAME": VOLUME, "VOL_SIZE": "1024", "EXTP_PROVIDER": "zfs"}
    taken = run(f"{PROVIDER}/create", **environment)
    run(f"{PROVIDER}/remove", **environment)
    return taken


def copies(name: str, root: str, directory: str) -> dict[str, float]:
    """Return how long it takes to copy the image's disk, once for each way."""
    disk, target = f"{directory}/look/disk.raw", f"{directory}/copy.raw"
    shell(f"zfs clone {root}/.images/{name}@golden {root}/look")
    found = {}
    for title, command in (
        ("cp --sparse", f"cp --reflink=never --sparse=always {disk} {target}"),
        ("qemu-img convert", f"qemu-img convert -f raw -O raw {disk} {target}"),
    ):
        found[title] = shell(f"{command} && sync -f {target}")
        os.unlink(target)
    shell(f"zfs destroy {root}/look")
    return found


def main(root: str, directory: str) -> None:
    names = {size: make_image(size, directory) for size in SIZES_GIB}
    taken: dict[str, list[float]] = {}
    for _round in range(ROUNDS):
        for size, name in names.items():
            taken.setdefault(f"create, {size} GiB", []).append(clone(name, size))
        taken.setdefault("create without an image", []).append(empty())
        taken.setdefault("zfs clone", []).append(by_hand(names[25], root))
    medians = {title: statistics.median(values) for title, values in taken.items()} | copies(names[25], root, directory)
    ours = medians["create, 25 GiB"]
    print(f"| to a disk of an image with {USED_MIB} MiB used | ms | 25 GiB clone against it |\n|---|---|---|")
    for title, median in medians.items():
        print(f"| {title} | {1000 * median:.0f} | {ours / median:.3f} |")
    for name in names.values():
        run("gnt-zfs", "image", "delete", "--now", "--yes", name)


if __name__ == "__main__":
    main(*sys.argv[1:])
