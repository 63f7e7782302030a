"""The contract tests, which the fake passes on every machine, on this generation's real ZFS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .conftest import Lab

ROOT = Path(__file__).parents[2]
NOT_THERE = "tests/unit/test_process.py::test_what_is_asked_costs_no_module_that_takes_longer_than_the_program"  # reads the checkout


def test_the_contract_holds_on_real_zfs(lab: Lab) -> None:
    # and how programs are run, which each generation's sh does in another way
    files = [*(path.name for path in (ROOT / "tests").glob("*.py")), "contract", "unit/test_process.py"]
    packed = subprocess.run(
        ["tar", "-C", str(ROOT / "tests"), "--exclude=__pycache__", "-c", *files], check=True, capture_output=True
    ).stdout
    lab.node2.run("rm -rf /tmp/contract && mkdir -p /tmp/contract/tests && tar -C /tmp/contract/tests -x", stdin=packed)
    lab.node2.run("zfs create -o mountpoint=/contract zfs/contract")
    try:
        said = lab.node2.run(
            "cd /tmp/contract && ZFSGANETI_CONTRACT_ROOT=zfs/contract ZFSGANETI_CONTRACT_DIR=/contract "
            f"/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/contract tests/unit/test_process.py --deselect={NOT_THERE}",
            seconds=1200,
        )
    finally:
        lab.node2.run("zfs destroy -R zfs/contract")
    print(said.splitlines()[-1])
    assert " passed" in said.splitlines()[-1]
    assert "skipped" not in said.splitlines()[-1]
