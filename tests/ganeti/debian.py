"""Debian's Ganeti packages, unpacked outside the checkout, so that tests can look at and run the code that nodes have."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.lab.host import LabError, cache, mirrors, run

SERIES = {"bookworm": "3.0", "trixie": "3.1"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def backend_of(suite: str) -> Path:
    """Return the backend.py that Debian ships in a suite."""
    return package_tree(suite) / "usr/share/ganeti" / SERIES[suite] / "ganeti/backend.py"


def package_tree(suite: str) -> Path:
    """Return the directory where a suite's ganeti and ganeti-X.Y are unpacked, fetching them once per cache directory."""
    place = cache() / f"ganeti-{suite}"
    if not place.exists():
        # built beside and renamed: two test runs may start together, and either may be killed
        with tempfile.TemporaryDirectory(prefix=f"ganeti-{suite}.", dir=cache()) as work:
            tree = _unpacked(suite, Path(work))
            try:
                tree.rename(place)
            except OSError:
                if not place.exists():
                    raise
    return place


def _unpacked(suite: str, work: Path) -> Path:
    # apt drops privileges to _apt, which must be able to read the directory
    work.chmod(0o755)
    downloads, tree = work / "downloads", work / "tree"
    downloads.mkdir()
    tree.mkdir()
    options = _apart(suite, work)
    run("apt-get", "update", "-q", *options)
    run("apt-get", "download", "-q", *options, "ganeti", f"ganeti-{SERIES[suite]}", cwd=downloads)
    packages = sorted(downloads.glob("*.deb"))
    if len(packages) != 2:
        raise LabError(f"{suite}: apt-get download brought {[package.name for package in packages]}")
    for package in packages:
        run("dpkg-deb", "-x", str(package), str(tree))
        shutil.move(package, tree)
    return tree


def _apart(suite: str, work: Path) -> list[str]:
    """Return options with which apt knows that suite only, from this machine's own mirror, and leaves the machine's state alone."""
    archive = mirrors()
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    sources = work / "sources.list"
    lines = [f"deb {signed}{archive['main']} {suite} main"]
    if "security" in archive:
        lines.append(f"deb {signed}{archive['security']} {suite}-security main")
    sources.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": os.devnull,
        "Dir::Etc::Preferences": os.devnull,
        "Dir::Etc::PreferencesParts": os.devnull,
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": os.devnull,
        "Dir::Cache": work / "cache",
        "APT::Default-Release": "",
        "Acquire::Languages": "none",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
