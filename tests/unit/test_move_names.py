"""Snapshots that both nodes call the same and are not: of moves that were given up, and of whoever takes them everywhere at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Rig, go, make_rig
from tests.unit.test_move import DISKS, FILES, KINDS, VOLUMES
from zfsganeti import departure, moving, retreat
from zfsganeti.errors import Refused, ZfsGanetiError

HOURLY = "zfs-auto-snap_hourly-2026-11-01-0617"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield make_rig(tmp_path, monkeypatch)


def names(kind: str) -> list[str]:
    return ["web1"] if kind == "file" else list(VOLUMES)


def sent_ahead(rig: Rig, kind: str) -> None:
    """A move was begun, with a snapshot of somebody's that both nodes have, and the guest has written since."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    for name in names(kind):
        rig.knots["node1"].fake.snapshot([f"zfs/vm/{name}@autosnap_1"])
    for disk in DISKS[kind]:
        rig.ganeti.write("web1", disk, b"more" * 100)
    go(rig, presync_only=True)
    for disk, content in DISKS[kind].items():
        rig.ganeti.write("web1", disk, content)


def taken_by_both(rig: Rig, kind: str, short: str = HOURLY) -> None:
    for name in names(kind):
        rig.knots["node1"].fake.snapshot([f"zfs/vm/{name}@{short}"])
        rig.knots["node2"].fake.snapshot([f"zfs/vm/.moving/{name}@{short}"])


def assert_same(rig: Rig, before: dict[str, dict[str, str]], *shorts: str) -> None:
    """What was on the source is on the target, under the same names."""
    for name, known in before.items():
        there = {snap.name: snap.guid for snap in rig.knots["node2"].net.snapshots(f"zfs/vm/{name}")}
        assert there == {short: known[short] for short in shorts}


def guids(rig: Rig, kind: str) -> dict[str, dict[str, str]]:
    found = {name: rig.knots["node1"].net.snapshots(f"zfs/vm/{name}") for name in names(kind)}
    return {name: {snap.name: snap.guid for snap in snaps} for name, snaps in found.items()}


@KINDS
def test_what_the_source_has_forgotten_and_the_target_has_not(rig: Rig, kind: str) -> None:
    """Its lease has ended and nobody has gone on, so that the source counts from one again."""
    sent_ahead(rig, kind)
    rig.knots["node1"].call("node1", "move-abort", datasets=names(kind))
    before = guids(rig, kind)
    go(rig)
    assert rig.content("web1") == DISKS[kind]
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node2", True)
    assert_same(rig, before, "autosnap_1")
    assert rig.knots["node2"].holds() == []


@KINDS
def test_what_was_given_up_while_the_target_was_away(rig: Rig, kind: str) -> None:
    sent_ahead(rig, kind)
    rig.knots["node2"].away = True
    with moving.alone("web1"):
        retreat.Back(rig.master, "web1", lambda _text: None).run()
    rig.knots["node2"].away = False
    go(rig)
    assert rig.content("web1") == DISKS[kind]
    assert rig.ganeti.data["web1"]["primary"] == "node2"


@KINDS
def test_what_both_have_snapshot_between_two_passes(rig: Rig, kind: str) -> None:
    sent_ahead(rig, kind)
    taken_by_both(rig, kind)
    before = guids(rig, kind)
    sent = len(rig.knots["node1"].net.sent)
    go(rig)
    assert rig.content("web1") == DISKS[kind]
    assert_same(rig, before, "autosnap_1", HOURLY)
    assert all("-i" in command for command in rig.knots["node1"].net.sent[sent:]), "nothing is sent anew"


@KINDS
def test_what_both_have_snapshot_while_it_is_down(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    rig.before = lambda who, verb: taken_by_both(rig, kind) if (who, verb) == ("ganeti", "shutdown") else None
    go(rig)
    assert rig.content("web1") == DISKS[kind]
    assert rig.ganeti.typed.count("startup web1") == 1
    assert [snap.name for snap in rig.knots["node2"].net.snapshots(f"zfs/vm/{names(kind)[0]}")] == [HOURLY]


def test_what_somebody_holds_there_is_not_destroyed(rig: Rig) -> None:
    sent_ahead(rig, "file")
    taken_by_both(rig, "file")
    rig.knots["node2"].fake.hold(f"zfs/vm/.moving/web1@{HOURLY}", "backup")
    with pytest.raises(ZfsGanetiError, match=HOURLY):
        go(rig)
    assert HOURLY in [snap.name for snap in rig.knots["node2"].net.snapshots("zfs/vm/.moving/web1")]
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node1", True)
    rig.knots["node2"].fake.release(f"zfs/vm/.moving/web1@{HOURLY}", "backup")
    go(rig)
    arrived_with(rig)


def arrived_with(rig: Rig) -> None:
    assert rig.content("web1") == FILES
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node2", True)


def rotate(rig: Rig) -> None:
    """Whoever keeps a fixed number of snapshots gives them other names each time."""
    snapshots = rig.knots["node1"].fake._must("zfs/vm/web1").snapshots
    snapshots["daily.1"] = snapshots.pop("daily.0")
    rig.knots["node1"].fake.snapshot(["zfs/vm/web1@daily.0"])


def test_what_is_called_otherwise_now_is_sent_anew_while_it_runs(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.knots["node1"].fake.snapshot(["zfs/vm/web1@daily.0"])
    go(rig, presync_only=True)
    rotate(rig)
    before = guids(rig, "file")
    go(rig)
    arrived_with(rig)
    assert_same(rig, before, "daily.1", "daily.0")


def test_what_is_called_otherwise_now_is_not_sent_anew_while_it_is_down(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.knots["node1"].fake.snapshot(["zfs/vm/web1@daily.0"])
    rig.before = lambda who, verb: rotate(rig) if (who, verb) == ("ganeti", "shutdown") else None
    said = "web1 on node2: has as daily.0 what is called daily.1 on node1 now: gnt-zfs move --abort web1, then again"
    with pytest.raises(Refused, match=f"^{said}$"):
        go(rig)
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node1", True)
    rig.before = lambda _who, _verb: None
    with moving.alone("web1"):
        retreat.Back(rig.master, "web1", lambda _text: None).run()
    go(rig)
    arrived_with(rig)


def test_what_comes_to_be_there_again_and_again_ends_the_move(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target refuses a name that it does not tell of: that is not tried for ever."""
    sent_ahead(rig, "file")
    taken_by_both(rig, "file")
    monkeypatch.setattr(departure, "in_the_way", lambda *_words: None)
    with pytest.raises(ZfsGanetiError, match="exists already"):
        go(rig)
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node1", True)
