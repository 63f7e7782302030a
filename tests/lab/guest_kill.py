"""Run on a node: every verb of the provider is killed at several moments and called again; prints what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time

VERBS = "/usr/share/ganeti/extstorage/zfs"
MOMENTS = 6  # a verb is killed after 1/6, 2/6, ... of the time that it takes


def call(verb: str, environment: dict[str, str], seconds: float | None = None) -> bool:
    """Tell whether a verb came to a good end, killed after a time if one is given."""
    child = subprocess.Popen(
        [f"{VERBS}/{verb}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _nothing, said = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.communicate()
        return False
    assert seconds is not None or child.returncode == 0, f"{verb}: {said.decode()}"
    return child.returncode == 0


def main(volume: str) -> None:
    disk = f"/zfs/vm/{volume}/disk.raw"
    steps: tuple[tuple[str, dict[str, str]], ...] = (
        ("create", {"VOL_SIZE": "16"}),
        ("attach", {}),
        ("setinfo", {"VOL_METADATA": "originstname+killed"}),
        ("open", {"VOL_OPEN_EXCLUSIVE": "True"}),
        ("grow", {"VOL_SIZE": "16", "VOL_NEW_SIZE": "32"}),
        ("snapshot", {"VOL_SNAPSHOT_NAME": f"{volume}.snap", "VOL_SNAPSHOT_SIZE": "32"}),
        ("close", {}),
        ("detach", {}),
        ("remove", {}),
    )
    took: dict[str, float] = {}
    for moment in range(MOMENTS):  # the first round is not interrupted and says how long each takes
        for verb, more in steps:
            environment = {"VOL_NAME": volume, "EXTP_PROVIDER": "zfs", "PATH": "/usr/sbin:/usr/bin", **more}
            started = time.monotonic()
            if moment:
                call(verb, environment, took[verb] * moment / MOMENTS)
            call(verb, environment)
            took.setdefault(verb, time.monotonic() - started)
            if verb == "setinfo":
                with open(f"/dev/zfsganeti/{volume}", "r+b") as device:
                    device.write(f"round {moment}".encode())
            if verb == "grow":
                assert os.stat(disk).st_size == 32 << 20
            if verb == "snapshot":
                call("attach", {**environment, "VOL_NAME": f"{volume}.snap"})
                with open(f"/dev/zfsganeti/{volume}.snap", "rb") as device:
                    assert device.read(7).decode() == f"round {moment}"
                call("remove", {**environment, "VOL_NAME": f"{volume}.snap"})
    print("all is well")


main(*sys.argv[1:])
