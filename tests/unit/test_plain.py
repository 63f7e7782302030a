"""Plain files where an instance's dataset belongs: the way out that is named puts them in, whatever has been tried before."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.killing import Killed
from tests.node import DAY
from tests.rig import Knot, Rig, make_rig
from zfsganeti import check, cli, upkeep, variants
from zfsganeti.datasets import ABSORB_LIMIT
from zfsganeti.errors import Refused
from zfsganeti.files import copy_sparse
from zfsganeti.here import Here
from zfsganeti.node import PeerFailed

DISKS = ["a.file.disk0", "b.file.disk1"]
LARGE = ABSORB_LIMIT + (1 << 20)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A stopped instance whose disks Ganeti has put into a plain directory, more than a hook may copy."""
    made = make_rig(tmp_path, monkeypatch)
    made.ganeti.data["web1"] = {"kind": "file", "primary": "node1", "disks": DISKS, "up": False}
    os.mkdir(home(made))
    for disk in DISKS:
        with open(home(made) / disk, "wb") as file:
            file.write(b"data")
            os.posix_fallocate(file.fileno(), 0, LARGE // 2)
    for knot in made.knots.values():
        vars(knot.ssconf)["instances"] = ["web1"]
    monkeypatch.setattr(variants, "LIST", f"{tmp_path}/variants.list")
    return made


def home(rig: Rig) -> Path:
    return Path(rig.master.root.path, "web1")


def repair(rig: Rig) -> list[str]:
    """Return what becomes of what `gnt-zfs check --repair` finds wrong with the instance."""
    found = [finding for finding in cli._findings(rig.master)[0] if finding.subject == "web1"]
    return [cli._repair(rig.master, finding) for finding in found]


def is_whole(rig: Rig) -> bool:
    files = rig.master.files("web1")
    return sorted(files) == DISKS and all(content.rstrip(b"\0") == b"data" for content in files.values())


def refused(knot: Knot) -> str:
    with pytest.raises((Refused, PeerFailed)) as caught:
        knot.call("node1", "absorb", instance="web1")
    return str(caught.value)


def test_what_a_hook_may_not_copy_is_as_it_was_and_repaired(rig: Rig) -> None:
    node1 = rig.master
    assert refused(node1).endswith("65.0M of plain files where the dataset belongs: gnt-zfs check --repair moves them in")
    assert node1.datasets() == []
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    assert repair(rig) == ["repaired"]
    assert is_whole(rig)


def test_a_repair_that_was_killed_between_two_disks_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One disk is in the dataset then, which is not mounted at home; the instance waits, and the watcher does not copy for hours."""
    node1 = rig.master

    def die(source: str, target: str) -> None:
        if source.endswith(DISKS[1]):
            raise Killed
        copy_sparse(source, target)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("zfsganeti.datasets.copy_sparse", die)
        node1.store.absorb("web1", None)
    with pytest.raises(Exception, match="gnt-zfs check --repair moves them in"):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert "gnt-zfs check --repair moves them in" in upkeep.watch(node1)
    assert repair(rig) == ["repaired"]
    assert is_whole(rig)
    rig.ganeti.gnt("gnt-instance", "startup", "web1")


def test_one_that_has_a_dataset_elsewhere_mounted_has_them_moved_in(rig: Rig) -> None:
    """Nothing was mounted when its disks were made again."""
    node1 = rig.master
    node1.fake.create(node1.full("web1"), {}, node1.store.marks("web1"))
    assert [finding.verb for finding in found(node1)] == ["home"]
    assert repair(rig) == ["repaired"]
    assert is_whole(rig)


def found(knot: Knot) -> list[check.Finding]:
    instances = knot.rig.ganeti.instances()
    return [each for each in check.compare_node(check.report(knot), instances, ["web1"], set(), time.time()) if each.subject == "web1"]


def test_what_cannot_come_home_keeps_the_watcher_from_nothing_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of its name that is no directory stands where a dataset belongs; what has expired is given up all the same."""
    node1 = rig.master
    for name in ("db1", "gone"):
        rig.ganeti.add(name, "file", "node1", {f"{name}.file.disk0": b"data"}, up=False)
    node1.trash.put("gone")
    del rig.ganeti.data["gone"]
    vars(node1.ssconf)["instances"] = ["web1", "db1"]
    node1.fake.unmount(f"{node1.root.path}/db1")
    os.rmdir(f"{node1.root.path}/db1")
    Path(node1.root.path, "db1").touch()
    node1.fake.clock += DAY * (node1.config.trash_days + 1)
    monkeypatch.setattr(Knot, "call", Here.call)
    assert f"{node1.root.path}/db1: " in upkeep.watch(node1)
    assert node1.trash.entries() == []
