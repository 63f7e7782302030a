"""The package as it is built from this checkout: the same bytes wherever and whenever, and nothing for lintian to say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
DOCS = "./usr/share/doc/zfsganeti/"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package, which was built twice and looked at; what building needs is installed."""
    into = tmp_path_factory.mktemp("deb")
    command = ["debian/build", "--twice", str(into)]
    done = subprocess.run(command, cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout
    (made,) = into.glob("*.deb")
    return made


@pytest.fixture(scope="module", autouse=True)
def _from_a_checkout() -> None:
    if not (HOUSE / ".git").exists() or os.geteuid() != 0:
        pytest.skip("the package is built from a checkout, by root")


def contents(package: Path) -> list[str]:
    listed = subprocess.run(["dpkg-deb", "-c", str(package)], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [line.split()[5] for line in listed.splitlines()]


def test_the_same_comes_out_twice_and_lintian_says_nothing(package: Path) -> None:
    assert package.stat().st_size > 100_000


def test_pages_that_link_to_each_other_are_there_under_their_names(package: Path) -> None:
    names = contents(package)
    pages = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/lab.md", "patches/README.md")
    for name in (*pages, "zfsganeti.conf.sample", "changelog.gz"):
        assert names.count(f"{DOCS}{name}") == 1, name
    assert [name for name in names if name.endswith(".sample")] == [f"{DOCS}zfsganeti.conf.sample"]


def test_the_change_log_of_debian_is_debian_s(package: Path) -> None:
    told = subprocess.run(
        f"dpkg-deb --fsys-tarfile {package} | tar -xO {DOCS}changelog.gz | zcat", shell=True, stdout=subprocess.PIPE, text=True, check=True
    )
    assert re.match(r"zfsganeti \(\S+\) unstable; urgency=medium\n", told.stdout)
