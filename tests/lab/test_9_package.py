"""The package: installed, upgraded, removed, purged and installed again beside instances that run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import DIRECTORY, Lab
from .host import run
from .machine import Machine
from .product import ROOT

CONTENT = "head -c 4M /dev/urandom | tee {disk} | sha256sum"
LOGS = "/var/log/ganeti/extstorage"
PROVIDER = "/usr/share/ganeti/extstorage/zfs"
TRIGGER = "dpkg-trigger --no-await /usr/share/ganeti; { dpkg --configure --pending; dpkg --triggers-only --pending; } 2>&1"


def build(into: Path) -> Path:
    """Return the package of this checkout."""
    return Path(run(str(ROOT / "debian/build"), str(into)).splitlines()[-1])


def build_earlier(into: Path) -> Path:
    """Return the package as it was before the last commit that has changed it."""
    commit = run("git", "-C", str(ROOT), "log", "-2", "--format=%H", "--", "debian", "zfsganeti").split()[1]
    with tempfile.TemporaryDirectory() as place:
        run("git", "clone", "-q", "--no-checkout", str(ROOT), f"{place}/earlier")
        run("git", "-C", f"{place}/earlier", "checkout", "-q", "--detach", commit)
        return Path(run(f"{place}/earlier/debian/build", str(into)).splitlines()[-1])


@pytest.fixture
def debs(lab: Lab, tmp_path: Path) -> tuple[Path, Path]:
    """Return two builds, the second newer; what the nodes had before comes back with their saved state."""
    lab.run("touch /var/tmp/changed")
    return build_earlier(tmp_path), build(tmp_path)


def put_on(node: Machine, deb: Path) -> str:
    """The node has the package, as `apt install ./zfsganeti_*.deb` leaves it; return what was printed."""
    node.run("cat > /root/zfsganeti.deb", stdin=deb.read_bytes())
    return node.run("dpkg --install /root/zfsganeti.deb 2>&1")


def put(lab: Lab, deb: Path) -> None:
    for node in lab.nodes:
        put_on(node, deb)


def verified(lab: Lab, *, but: str = "") -> None:
    """`gnt-cluster verify` finds nothing, except of the instance `but`."""
    done = lab.master.execute("gnt-cluster verify")
    wrong = [line for line in done.said.splitlines() if "ERROR" in line and not (but and but in line)]
    assert wrong == [], done.said
    assert done.status == 0 or but, done.said


def noded(node: Machine) -> str:
    """Return the process of the node daemon, which answers."""
    answers = "/usr/lib/ganeti/daemon-util check ganeti-noded && ss -ltn | grep -q ':1811 '"
    return node.wait(f"{answers} && cat /run/ganeti/ganeti-noded.pid").strip()


@dataclass
class Running:
    """Three instances that run on node2, one on each kind of storage, and what is on their disks."""

    lab: Lab
    disk: str
    content: str
    volume: str
    sums: list[str]

    def run_on(self) -> None:
        """All are up, with their devices and what is on them."""
        states = self.lab.run("gnt-instance list --no-headers --separator=: -o name,status").split()
        assert sorted(states) == ["ext1:running", "lvm1:running", "web1:running"]
        assert self.lab.node2.run(f"head -c 4M {self.disk} | sha256sum").split()[0] == self.content
        self.lab.node2.run(f"test -b /dev/zfsganeti/{self.volume} && lvs --noheadings -o lv_attr ganeti | grep -q -e '-wi-a'")
        assert self.lab.volume_sums("ext1") == self.sums

    def restart(self, *names: str) -> None:
        for name in names:
            self.lab.run(f"gnt-instance shutdown {name}")
            self.lab.run(f"gnt-instance startup {name}")
        self.run_on()


def three_running(lab: Lab) -> Running:
    lab.add("web1")
    disk = lab.disks("web1")[0]
    content = lab.node2.run(CONTENT.format(disk=disk)).split()[0]
    lab.add_ext("ext1")
    lab.run(lab.add_command("lvm1").replace("-t file", "-t plain"))
    for name in ("web1", "ext1", "lvm1"):
        lab.run(f"gnt-instance startup {name}")
    return Running(lab, disk, content, lab.volumes("ext1")[0], lab.fill_volumes("ext1"))


def backend(node: Machine) -> str:
    return node.run("readlink -f /usr/share/ganeti/default").strip() + "/ganeti/backend.py"


@pytest.mark.on()
def test_the_package_comes_and_goes_beside_running_instances(lab: Lab, debs: tuple[Path, Path]) -> None:
    earlier, newer = debs
    instances = three_running(lab)

    # over what make install has left, one node after the other, while Ganeti is at work
    lab.node3.run(f"rm -rf {LOGS}")
    put(lab, earlier)
    assert lab.run("dpkg-query -W -f '${db:Status-Status}' zfsganeti") == "installed"
    verified(lab)
    put_on(lab.master, newer)
    put_on(lab.node3, newer)
    lab.add("brief", node="node2")
    lab.run("gnt-instance remove -f brief")
    lab.add("brief", node="node3")
    lab.run("gnt-instance remove -f brief")
    lab.add_ext("brief")
    lab.run("gnt-instance remove -f brief")
    verified(lab)
    put(lab, newer)
    lab.node3.run(f"rm -rf {LOGS}")
    put(lab, newer)
    assert lab.node3.run(f"stat -c '%U:%G %a' {LOGS}") == "root:root 750\n"
    lab.well()
    verified(lab)
    instances.run_on()
    assert "/usr/share/man/man8/gnt-zfs.8.gz" in lab.run("dpkg -L zfsganeti")

    # removed, nothing is in the way of an instance that is ours or is not
    for node in lab.nodes:
        node.run("dpkg --remove zfsganeti")
    assert lab.node2.run("find /etc/ganeti -type l -path '*hooks*'") == ""
    instances.run_on()
    instances.restart("web1", "lvm1")
    verified(lab, but="ext1")  # nobody can ask a provider that has gone
    put(lab, newer)
    lab.well()
    verified(lab)
    instances.restart("ext1")

    # purged, only settings are gone, and not what others keep below ours
    lab.node3.run(
        "zfs create -o mountpoint=/var/lib/zfsganeti/kept tank/kept; echo disk | tee /var/lib/zfsganeti/kept/disk /var/lib/zfsganeti/x"
    )
    for node in lab.nodes:
        node.run("apt-get purge zfsganeti --yes" if node is lab.node3 else "dpkg --purge zfsganeti")
        node.run("test ! -e /etc/zfsganeti.conf")
    for node in (lab.master, lab.node2):
        node.run("test ! -e /var/lib/zfsganeti")
    assert lab.node3.run("cat /var/lib/zfsganeti/kept/disk /var/lib/zfsganeti/x") == "disk\ndisk\n"
    lab.node3.run("zfs destroy tank/kept; rm /var/lib/zfsganeti/x; find /var/lib/zfsganeti -type d -empty -delete")
    lab.node3.run("test ! -e /var/lib/zfsganeti")
    instances.run_on()
    verified(lab, but="ext1")
    lab.node3.run(f"zfs unmount tank/vm && ! touch {DIRECTORY}/stray && chattr -i /zfs/vm && touch {DIRECTORY}/stray")
    lab.node3.run(f"rm {DIRECTORY}/stray; zfs mount tank/vm")

    # another provider of that name is not written over
    lab.node3.run(f"mkdir -p {PROVIDER} && echo '#!/bin/sh' > {PROVIDER}/attach")
    assert "is another provider's" in lab.node3.fails("dpkg --install /root/zfsganeti.deb")
    lab.node3.run(f"test $(cat {PROVIDER}/attach) = '#!/bin/sh' && rm -r {PROVIDER}")

    put(lab, newer)
    lab.run("gnt-zfs setup --yes zfs/vm node3=tank/vm")
    lab.well()
    verified(lab)
    instances.restart("web1", "ext1", "lvm1")
    lab.run("gnt-instance remove --force web1")
    assert "web1" in lab.run("gnt-zfs trash list")


@pytest.mark.on()
def test_the_timer_tidies_where_the_watcher_does_not(lab: Lab, debs: tuple[Path, Path]) -> None:
    put(lab, debs[1])
    assert "zfsganeti" in lab.node2.run("systemctl list-timers --no-pager")
    lab.add("idle1")
    lab.add("gone1")
    lab.run("gnt-instance remove -f gone1")
    (entry,) = lab.trash()
    # removed long ago, and nobody has looked at the clock since the node's state was saved
    lab.node2.run(f"zfs rename zfs/vm/.trash/{entry} zfs/vm/.trash/gone1:20200101T000000Z && zfs inherit org.zfsganeti:clock zfs/vm")
    lab.node2.run(f"umount {DIRECTORY}/idle1")
    lab.node2.run("systemctl start zfsganeti.service")
    assert lab.mounted("idle1"), "on the host, not only where the service runs"
    assert lab.trash() == []
    assert "Result=success" in lab.node2.run("systemctl show zfsganeti.service")
    lab.well()


@pytest.mark.on()
def test_the_patch_stays_in_through_upgrades_of_ganeti_and_goes_with_the_package(lab: Lab, debs: tuple[Path, Path]) -> None:
    node, file = lab.node2, backend(lab.node2)
    put(lab, debs[1])
    before = noded(node)
    node.run("gnt-zfs patch enable --restart")
    enabled = noded(node)
    assert enabled != before
    lab.well()

    # with nothing to do a trigger does nothing
    node.run(TRIGGER)
    assert noded(node) == enabled

    # what an upgrade of Ganeti does
    node.run(f"cp {file}.zfsganeti-orig {file}")
    assert "node2.example.com: the patch is enabled, but not in Ganeti" in lab.fails("gnt-zfs check")
    assert "the node daemon was restarted" in node.run(TRIGGER)
    renewed = noded(node)
    assert renewed != enabled
    assert " patched " in node.run("gnt-zfs patch status")
    verified(lab)

    # an upgrade to what it does not fit
    node.run(f"sed 's/os.rmdir(file_storage_dir)/os.rmdir( file_storage_dir )/' {file}.zfsganeti-orig > /root/changed.py")
    node.run(f"! cmp -s /root/changed.py {file}.zfsganeti-orig && cp /root/changed.py {file}")
    assert "is enabled and does not apply any more: " in node.run(TRIGGER)
    assert "(does not apply): gnt-zfs patch apply says why" in lab.fails("gnt-zfs check")
    assert noded(node) == renewed
    assert node.run("dpkg-query -W -f '${db:Status-Status}' zfsganeti") == "installed"
    node.run(f"cp {file}.zfsganeti-orig {file}")
    node.run(TRIGGER)
    assert noded(node) != renewed
    lab.well()

    # the package takes it along, whatever is in the settings
    node.run("cp /etc/zfsganeti.conf /root/kept.conf; echo nonsense >> /etc/zfsganeti.conf")
    said = node.run("dpkg --install /root/zfsganeti.deb 2>&1")
    assert "'nonsense' is not of the form setting = value" in said
    assert "does not apply" not in said
    patched = noded(node)
    node.run("dpkg --remove zfsganeti")
    assert "zfsganeti" not in node.run(f"cat {file}")
    node.run(f"test ! -e {file}.zfsganeti-orig && cp /root/kept.conf /etc/zfsganeti.conf")
    assert noded(node) != patched
    node.run("dpkg --install /root/zfsganeti.deb")  # while one node lacks an OS definition of ours, Ganeti says so
    verified(lab)
