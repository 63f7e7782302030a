"""The contract tests, which the fake passes on every machine, on this generation's real ZFS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .conftest import Lab

ROOT = Path(__file__).parents[2]


def test_the_contract_holds_on_real_zfs(lab: Lab) -> None:
    packed = subprocess.run(
        ["tar", "-C", str(ROOT), "--exclude=__pycache__", "-c", "tests/__init__.py", "tests/fakezfs.py", "tests/contract"],
        check=True,
        capture_output=True,
    ).stdout
    lab.node2.run("rm -rf /tmp/contract && mkdir /tmp/contract && tar -C /tmp/contract -x", stdin=packed)
    lab.node2.run("zfs create -o mountpoint=/contract zfs/contract")
    try:
        said = lab.node2.run(
            "cd /tmp/contract && ZFSGANETI_CONTRACT_ROOT=zfs/contract ZFSGANETI_CONTRACT_DIR=/contract "
            "/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/contract",
            seconds=900,
        )
    finally:
        lab.node2.run("zfs destroy -R zfs/contract")
    print(said.splitlines()[-1])
    assert " passed" in said.splitlines()[-1]
    assert "skipped" not in said.splitlines()[-1]
