"""Run on a node: how long the provider's verbs take against what does the same by hand, interleaved in one run; prints a table.

usage: python3 verbs.py ROOT DIRECTORY, for example zfs/vm /zfs/vm
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

PROVIDER = "/usr/share/ganeti/extstorage/zfs"
VOLUME = "bench.ext.disk0"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VOL_NAME": VOLUME, "VOL_SIZE": "1024", "EXTP_PROVIDER": "zfs"}


def seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def compare(rounds: int, **ways: tuple[str, ...]) -> dict[str, float]:
    """Return the median of each way, all taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _round in range(rounds):
        for name, command in ways.items():
            taken[name].append(seconds(*command))
    return {name: statistics.median(values) for name, values in taken.items()}


def show(title: str, medians: dict[str, float], ours: str) -> None:
    print(f"| {title} | ms | ours against it |")
    print("|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1000 * median:.1f} | {medians[ours] / median:.2f} |")
    print()


def create_and_remove(rounds: int, root: str, directory: str) -> None:
    by_hand = (
        f"zfs create -o compression=lz4 {root}/byhand && truncate -s 1G {directory}/byhand/disk.raw && "
        f"losetup -f --show {directory}/byhand/disk.raw"
    )
    undone = f"losetup -d $(losetup -nO NAME -j {directory}/byhand/disk.raw); umount {directory}/byhand; zfs destroy {root}/byhand"
    taken: dict[str, list[float]] = {"create": [], "by hand": []}
    for _round in range(rounds):
        taken["create"].append(seconds(f"{PROVIDER}/create"))
        seconds(f"{PROVIDER}/remove")
        taken["by hand"].append(seconds("sh", "-c", by_hand))
        seconds("sh", "-c", undone)
    show("create to attached", {name: statistics.median(values) for name, values in taken.items()}, "create")


def main(root: str, directory: str) -> None:
    seconds(f"{PROVIDER}/create")
    link = os.readlink(f"/dev/zfsganeti/{VOLUME}")
    ways = {
        "/bin/sh -c :": ("/bin/sh", "-c", ":"),
        "python3 -I -c pass": ("/usr/bin/python3", "-I", "-c", "pass"),
        "zfs list and readlink, as the providers in sh": ("/bin/sh", "-c", f"zfs list -H -o name {root}/{VOLUME} && readlink -f {link}"),
        "attach": (f"{PROVIDER}/attach",),
    }
    show("attach on an attached volume", compare(30, **ways), "attach")
    seconds(f"{PROVIDER}/remove")
    create_and_remove(8, root, directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
