"""zfsganeti as `make install` leaves it, put onto the nodes of the lab."""

from __future__ import annotations

import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .host import run
from .machine import Machine

ROOT = Path(__file__).parents[2]


def archive() -> bytes:
    """Return a tar of what `make install` writes."""
    with tempfile.TemporaryDirectory() as staging:
        run("make", "-s", "-C", str(ROOT), "install", f"DESTDIR={staging}")
        return subprocess.run(["tar", "-C", staging, "--exclude=__pycache__", "-c", "."], check=True, capture_output=True).stdout


def install(nodes: list[Machine]) -> None:
    """Every node has this checkout's zfsganeti installed."""
    packed = archive()

    def put(node: Machine) -> None:
        node.run(
            "rm -rf /usr/lib/python3/dist-packages/zfsganeti /usr/share/zfsganeti; "
            "tar -C / --no-overwrite-dir --owner=root --group=root -x && "
            "python3 -m compileall -q /usr/lib/python3/dist-packages/zfsganeti",
            stdin=packed,
        )

    with ThreadPoolExecutor() as pool:
        list(pool.map(put, nodes))
