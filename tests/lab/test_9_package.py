"""The package: installed, upgraded, removed, purged and installed again beside instances that run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from .conftest import Lab
from .host import run
from .product import ROOT

CONTENT = "head -c 4M /dev/urandom | tee {disk} | sha256sum"


def build(into: Path, *, later: bool = False) -> Path:
    """Return the package of this checkout, or that of one commit more."""
    if not later:
        return Path(run(str(ROOT / "debian/build"), str(into)).splitlines()[-1])
    with tempfile.TemporaryDirectory() as place:
        run("git", "clone", "-q", str(ROOT), f"{place}/later")
        identity = ("-c", "user.name=lab", "-c", "user.email=lab@example.com")
        run("git", "-C", f"{place}/later", *identity, "commit", "-q", "--allow-empty", "-m", "later")
        return Path(run(f"{place}/later/debian/build", str(into)).splitlines()[-1])


@pytest.fixture
def debs(lab: Lab, tmp_path: Path) -> tuple[Path, Path]:
    """Return two builds, the second newer; what the nodes had before comes back with their saved state."""
    lab.run("touch /var/tmp/changed")
    return build(tmp_path), build(tmp_path, later=True)


def put(lab: Lab, deb: Path) -> str:
    """Every node has the package, as `apt install ./zfsganeti_*.deb` leaves it; return what the master printed."""
    said = ""
    for node in reversed(lab.nodes):
        node.run("cat > /root/zfsganeti.deb", stdin=deb.read_bytes())
        said = node.run("dpkg --install /root/zfsganeti.deb 2>&1")
    return said


@pytest.mark.on()
def test_the_package_comes_and_goes_beside_running_instances(lab: Lab, debs: tuple[Path, Path]) -> None:
    lab.add("web1", node="node2")
    disk = lab.disks("web1")[0]
    before = lab.node2.run(CONTENT.format(disk=disk)).split()[0]
    lab.run("gnt-instance startup web1")

    # over what make install has left, then an upgrade, then the same again
    put(lab, debs[0])
    assert lab.run("dpkg-query -W -f '${db:Status-Status}' zfsganeti") == "installed"
    put(lab, debs[1])
    put(lab, debs[1])
    lab.well()
    assert "zfsganeti" in lab.node2.run("systemctl list-timers --no-pager")
    lab.node2.run("systemctl start zfsganeti.service")
    assert "/usr/share/man/man8/gnt-zfs.8.gz" in lab.run("dpkg -L zfsganeti")

    # the patch: wanted, it survives an upgrade of Ganeti; it goes with the package
    lab.node2.run("gnt-zfs patch enable --restart")
    series = lab.node2.run("readlink -f /usr/share/ganeti/default").strip().rsplit("/", 1)[1]
    lab.node2.run(f"cp /usr/share/ganeti/{series}/ganeti/backend.py.zfsganeti-orig /usr/share/ganeti/{series}/ganeti/backend.py")
    lab.node2.run("dpkg-trigger --no-await /usr/share/ganeti; dpkg --configure --pending; dpkg --triggers-only --pending")
    assert " patched " in lab.node2.run("gnt-zfs patch status")

    # removed, nothing is in the way of an instance that is ours or is not
    for node in lab.nodes:
        node.run("dpkg --remove zfsganeti")
    assert "zfsganeti" not in lab.node2.run(f"cat /usr/share/ganeti/{series}/ganeti/backend.py; find /etc/ganeti -type l")
    lab.run("gnt-instance shutdown web1")
    lab.run("gnt-instance startup web1")
    lab.run("gnt-cluster verify")
    assert lab.node2.run(f"head -c 4M {disk} | sha256sum").split()[0] == before

    # installed again, all is as it was; purged, only settings are gone
    put(lab, debs[1])
    lab.well()
    for node in lab.nodes:
        node.run("dpkg --purge zfsganeti")
        node.run("test ! -e /etc/zfsganeti.conf && test ! -e /var/lib/zfsganeti")
    assert lab.node2.run(f"head -c 4M {disk} | sha256sum").split()[0] == before
    put(lab, debs[0])
    lab.run("gnt-zfs setup --yes zfs/vm node3=tank/vm")
    lab.well()
    lab.run("gnt-instance remove --force web1")
    assert "web1" in lab.run("gnt-zfs trash list")
