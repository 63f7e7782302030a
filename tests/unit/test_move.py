"""Moves between fake nodes: what arrives, what is left, and that whatever is killed, the same command ends it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, go, make_rig
from zfsganeti import adopt_cli, adoption, arrival, datasets, departure, here, move, moving, retreat
from zfsganeti.answer import VERBS
from zfsganeti.cli import parser
from zfsganeti.datasets import KEPT, MOVE
from zfsganeti.errors import BadInput, Busy, CommandFailed, Missing, NoSpace, Refused, Unavailable, ZfsGanetiError
from zfsganeti.route import LEASE_SECONDS, LEFT
from zfsganeti.shapes import SHAPES

FILES = {"a.disk0": b"zero" * 300, "b.disk1": b"one" * 300}
VOLUMES = {"u.ext.disk0": b"zero" * 300, "v.ext.disk1": b"one" * 300}
DISKS = {"file": FILES, "ext": VOLUMES}
KINDS = pytest.mark.parametrize("kind", list(DISKS))


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield make_rig(tmp_path, monkeypatch)


def arrived(rig: Rig, kind: str, source: str = "node1", target: str = "node2", *, up: bool = True) -> None:
    """The instance runs on the target with its data, and nothing but an entry of the trash is left of the way."""
    names = ["web1"] if kind == "file" else list(VOLUMES)
    known = rig.ganeti.data["web1"]
    assert (known["primary"], known["up"]) == (target, up)
    assert rig.content("web1") == DISKS[kind]
    there, left = rig.knots[target], rig.knots[source]
    assert sorted(name for name in there.datasets() if not name.startswith(".trash")) == sorted([".moving", *names])
    assert [name.split(":")[0] for name in left.datasets() if name not in (".trash", ".moving")] == [f".trash/{name}" for name in names]
    for name in names:
        state = there.fake.state()[f"zfs/vm/{name}"]
        assert MOVE not in state["marks"]
        assert state["properties"].get("readonly", "off") == "off"
        assert state["properties"]["canmount"] == "on"
        assert list(state["snapshots"]) == []
    assert there.holds() == left.holds() == []
    for knot in rig.knots.values():
        for name, state in knot.fake.state().items():
            assert MOVE not in state["marks"] or ("/.trash/" in name and LEFT in state["marks"][MOVE])


@KINDS
def test_a_running_instance_moves(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    result = go(rig)
    arrived(rig, kind)
    assert result.down is not None
    assert rig.ganeti.typed == ["shutdown web1", "modify --new-primary=node2 web1", "startup web1", "list web1"]


@KINDS
def test_a_stopped_instance_moves_and_stays_stopped(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    assert go(rig).down is None
    arrived(rig, kind, up=False)
    assert rig.ganeti.typed == ["modify --new-primary=node2 web1"]


@KINDS
def test_what_is_written_meanwhile_arrives(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", dict.fromkeys(DISKS[kind], b"old" * 400))

    def write(who: str, verb: str) -> None:
        if (who, verb) == ("ganeti", "shutdown"):
            for disk, content in DISKS[kind].items():
                rig.ganeti.write("web1", disk, content)

    rig.before = write
    said: list[str] = []
    result = go(rig, said=said)
    arrived(rig, kind)
    assert len(result.passes) == 2


def test_snapshots_of_others_go_along(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", {"a.disk0": b"first" * 200})
    here = rig.knots["node1"]
    here.fake.snapshot(["zfs/vm/web1@autosnap_1"])
    for disk, content in FILES.items():
        Path(rig.ganeti.path("web1", disk)).write_bytes(content)
    here.fake.snapshot(["zfs/vm/web1@autosnap_2"])
    go(rig)
    there = rig.knots["node2"].fake.state()["zfs/vm/web1"]
    assert list(there["snapshots"]) == ["autosnap_1", "autosnap_2"]
    assert there["snapshots"]["autosnap_1"] == {"a.disk0": b"first" * 200}
    assert {snap.name: snap.guid for snap in rig.knots["node2"].net.snapshots("zfs/vm/web1")} == {
        snap.name: snap.guid
        for snap in here.net.snapshots(f"zfs/vm/{next(name for name in here.datasets() if name.startswith('.trash/'))}")
        if snap.name.startswith("autosnap")
    }


def test_what_others_snapshot_on_the_way_does_not_matter(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    go(rig, presync_only=True)
    rig.knots["node2"].fake.snapshot(["zfs/vm/.moving/web1@autosnap_there"])
    sent = rig.knots["node1"].net.sent
    sent.clear()
    go(rig)
    assert rig.content("web1") == FILES
    assert list(rig.knots["node2"].fake.state()["zfs/vm/web1"]["snapshots"]) == ["autosnap_there"]
    assert all("-i" in command for command in sent)


def test_what_others_snapshot_between_two_passes_does_not_matter(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("ganeti", "shutdown"):
            rig.knots["node1"].fake.snapshot(["zfs/vm/web1@autosnap_here"])
            rig.knots["node2"].fake.snapshot(["zfs/vm/.moving/web1@autosnap_there"])

    rig.before = before
    go(rig)
    assert list(rig.knots["node2"].fake.state()["zfs/vm/web1"]["snapshots"]) == ["autosnap_there", "autosnap_here"]
    assert "receive-abort" not in {verb for _who, verb in rig.asked}


def test_what_others_snapshot_the_moment_that_a_pass_has_come_does_not_matter(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    there = rig.knots["node2"]
    receive, numbers = there.net.receive, iter(range(9))

    def receive_and_snapshot(command: list[str], descriptor: int, *, seconds: float) -> None:
        receive(command, descriptor, seconds=seconds)
        there.fake.snapshot([f"zfs/vm/.moving/web1@autosnap_{next(numbers)}"])

    monkeypatch.setattr(there.net, "receive", receive_and_snapshot)
    go(rig, presync_only=True)
    assert there.holds() == ["zfs/vm/.moving/web1@zfsganeti-move-1"]
    go(rig)
    assert rig.content("web1") == FILES
    assert list(there.fake.state()["zfs/vm/web1"]["snapshots"]) == ["autosnap_0", "autosnap_1", "autosnap_2"]
    said = [verb for _who, verb in rig.asked]
    assert (said.count("receive-state"), said.count("receive-abort")) == (2, 0)


@pytest.mark.parametrize("before", ["hold", "size"])
def test_what_others_prune_on_the_way_does_not_matter(rig: Rig, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    here = rig.knots["node1"]
    for number in range(3):
        here.fake.snapshot([f"zfs/vm/web1@autosnap_{number}"])
    where: Any = here.fake if before == "hold" else here.net
    doomed, does = ["autosnap_1"], getattr(where, before)

    def prune(what: object, *words: object) -> object:
        if "autosnap_1" in str(what) and doomed:
            for tags in here.fake.held("zfs/vm/web1").values():
                here.fake.release("zfs/vm/web1@autosnap_1", tags[0])
            here.fake.destroy_snapshots([f"zfs/vm/web1@{doomed.pop()}"])
            if before == "size":
                raise CommandFailed("zfs send", 1, "cannot open: dataset does not exist")
        return does(what, *words)

    monkeypatch.setattr(where, before, prune)
    go(rig)
    assert doomed == []
    assert rig.content("web1") == FILES
    assert list(rig.knots["node2"].fake.state()["zfs/vm/web1"]["snapshots"]) == ["autosnap_0", "autosnap_2"]
    assert "receive-abort" not in {verb for _who, verb in rig.asked}


def test_a_pass_that_is_gone_itself_ends_the_move(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    here = rig.knots["node1"]

    def prune(_snapshot: str, _tag: str) -> None:
        here.fake.destroy_snapshots(["zfs/vm/web1@zfsganeti-move-1"])
        raise Missing("dataset zfs/vm/web1@zfsganeti-move-1")

    monkeypatch.setattr(here.fake, "hold", prune)
    with pytest.raises(Missing, match="snapshot zfsganeti-move-1 does not exist"):
        go(rig)
    assert rig.ganeti.typed == []


def test_what_somebody_is_at_work_with_does_not_go_along(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    here = rig.knots["node1"]
    for short in ("autosnap_1", "zfsganeti-save-1", "zfsganeti-copy-2", "autosnap_2"):
        here.fake.snapshot([f"zfs/vm/web1@{short}"])
    go(rig)
    assert rig.content("web1") == FILES
    assert list(rig.knots["node2"].fake.state()["zfs/vm/web1"]["snapshots"]) == ["autosnap_1", "autosnap_2"]


def test_what_was_changed_on_the_way_is_sent_anew(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    go(rig, presync_only=True)
    there = rig.knots["node2"].fake
    there.set("zfs/vm/.moving/web1", {"readonly": "off"})
    Path(there._must("zfs/vm/.moving/web1").files, "a.disk0").write_bytes(b"by hand")
    go(rig)
    arrived(rig, "file")


def test_what_is_set_on_a_dataset_goes_along(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.knots["node1"].fake.set("zfs/vm/web1", {"recordsize": "16384", "com.sun:auto-snapshot": "false"})
    go(rig)
    found = rig.knots["node2"].fake.local("zfs/vm/web1")
    assert (found["recordsize"], found["com.sun:auto-snapshot"]) == ("16384", "false")


@KINDS
def test_there_and_back_again(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go(rig)
    go(rig, "node1")
    assert rig.content("web1") == DISKS[kind]
    assert rig.ganeti.data["web1"]["up"]


@KINDS
def test_a_kept_source_does_not_expire(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go(rig, keep=True)
    here = rig.knots["node1"]
    here.fake.clock += 400 * 86400
    assert here.trash.give_up() == ([], [])
    assert all(entry.kept and KEPT in here.marks(f".trash/{entry.entry}") for entry in here.trash.entries())


@KINDS
def test_sent_ahead_only(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go(rig, presync_only=True)
    assert rig.ganeti.typed == []
    assert rig.ganeti.data["web1"]["primary"] == "node1"
    assert len(rig.knots["node1"].holds()) == len(rig.knots["node2"].holds()) == (1 if kind == "file" else 2)
    sent = rig.knots["node1"].net.sent
    sent.clear()
    go(rig)
    arrived(rig, kind)
    assert len(sent) == 2 * len(rig.knots["node1"].trash.entries())
    assert all("-i" in command for command in sent)


@KINDS
@pytest.mark.parametrize("dies", ["", "move-send", "modify", "move-land"])
def test_what_the_administrator_stops_meanwhile_stays_stopped(rig: Rig, kind: str, dies: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    stopped: list[str] = []

    def before(who: str, verb: str) -> None:
        if not stopped and (who, verb) == ("node1", "move-send"):
            rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
            stopped.append(verb)
        elif stopped and verb == dies:
            raise Died

    rig.before = before
    if dies:
        with pytest.raises(Died):
            go(rig)
        rig.before = lambda _who, _verb: None
    said: list[str] = []
    go(rig, said=said)
    arrived(rig, kind, up=False)
    assert "startup web1" not in rig.ganeti.typed
    assert dies or "web1: was stopped by somebody else since, and stays so" in said


def test_no_start(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    go(rig, start=False)
    arrived(rig, "file", up=False)


# what goes wrong


@KINDS
@pytest.mark.parametrize("fails", ["shutdown", "modify"])
def test_what_ganeti_refuses_before_the_switch_leaves_the_instance_running(rig: Rig, kind: str, fails: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    rig.ganeti.fails.add(fails)
    with pytest.raises(CommandFailed, match="denied by a test"):
        go(rig)
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node1", True)
    assert rig.content("web1") == DISKS[kind]
    rig.ganeti.fails.clear()
    go(rig)
    arrived(rig, kind)


@KINDS
def test_a_target_that_goes_away_before_the_switch_leaves_the_instance_running(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("ganeti", "shutdown"):
            rig.knots["node2"].away = True

    rig.before = before
    said: list[str] = []
    with pytest.raises(ZfsGanetiError, match="cannot be reached"):
        go(rig, said=said)
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node1", True)
    assert said[-1] == "web1: node2: cannot be reached (no route to host): starting it again on node1"
    rig.before = lambda _who, _verb: None
    rig.knots["node2"].away = False
    go(rig)
    arrived(rig, kind)


def test_a_disk_in_use_is_not_fenced(rig: Rig) -> None:
    rig.ganeti.add("web1", "ext", "node1", VOLUMES)
    rig.knots["node1"].loop.users.add("v.ext.disk1")
    with pytest.raises(Busy, match="in use by process kvm"):
        go(rig)
    for name in VOLUMES:
        assert rig.knots["node1"].fake.local(f"zfs/vm/{name}").get("readonly", "off") == "off"


def test_a_start_in_the_middle_lifts_the_fence_and_what_it_writes_arrives(rig: Rig) -> None:
    """Whoever starts and stops the instance between the last delta and the switch is not lost."""
    rig.ganeti.add("web1", "file", "node1", dict.fromkeys(FILES, b"old" * 400))
    once = [True]

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("ganeti", "modify") and once.pop() if once else False:
            rig.ganeti.gnt("gnt-instance", "startup", "web1")
            for disk, content in FILES.items():
                rig.ganeti.write("web1", disk, content)
            rig.ganeti.gnt("gnt-instance", "shutdown", "web1")

    rig.before = before
    said: list[str] = []
    go(rig, said=said)
    assert "web1: web1 is not fenced any more, sending that too" in said
    arrived(rig, "file")


def test_other_disks_since_stop_it_before_the_shutdown(rig: Rig) -> None:
    rig.ganeti.add("web1", "ext", "node1", VOLUMES)

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("node1", "move-send"):
            rig.ganeti.data["web1"]["disks"] = [*VOLUMES, "w.ext.disk2"]

    rig.before = before
    with pytest.raises(Busy, match="^web1: has got other disks since: the same command looks again$"):
        go(rig)
    assert rig.ganeti.typed == []
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node1", True)


def test_two_administrators(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    with moving.alone("web1"):
        assert move.at_work() == {"web1"}
        with pytest.raises(Busy, match="^web1: another gnt-zfs move or adopt is at work on it: wait for that$"):
            go(rig)
    assert move.at_work() == set()


# whoever dies


class Died(BaseException):
    """The mover is gone, without a word."""


def died(rig: Rig, point: int) -> bool:
    """The mover dies before the `point`-th thing that it asks of anybody; tell whether it got there."""
    count = [0]

    def before(_who: str, _verb: str) -> None:
        count[0] += 1
        if count[0] >= point:
            raise Died

    rig.before = before
    try:
        go(rig)
    except Died:
        return True
    finally:
        rig.before = lambda _who, _verb: None
    return False


def points() -> Iterator[int]:
    yield from range(1, 40)


def rigs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Iterator[tuple[int, Rig]]:
    for point in points():
        made = Rig(tmp_path / str(point))
        made.ganeti.speak(monkeypatch)
        made.ganeti.add("web1", kind, "node1", DISKS[kind])
        if not died(made, point):
            assert point > 10
            return
        yield point, made


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(departure, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(here, "LOOK_SECONDS", 0.0)


@KINDS
@pytest.mark.usefixtures("quick")
def test_wherever_the_mover_dies_the_same_command_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for _point, rig in rigs(tmp_path, monkeypatch, kind):
        try:
            go(rig)
        except Refused as error:
            assert "is on node2 already" in str(error)
        arrived(rig, kind)


@KINDS
@pytest.mark.usefixtures("quick")
def test_wherever_the_mover_dies_the_instance_starts_where_ganeti_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for point, rig in rigs(tmp_path, monkeypatch, kind):
        if not rig.ganeti.data["web1"]["up"]:
            rig.ganeti.gnt("gnt-instance", "startup", "web1")
        assert rig.content("web1") == DISKS[kind], f"killed at point {point}"
        disk = next(iter(DISKS[kind]))
        rig.ganeti.write("web1", disk, b"new" * 400)
        try:
            go(rig)
        except Refused as error:
            assert "is on node2 already" in str(error)
        assert rig.ganeti.data["web1"] == {**rig.ganeti.data["web1"], "primary": "node2", "up": True}
        assert rig.content("web1") == {**DISKS[kind], disk: b"new" * 400}, f"killed at point {point}"


@KINDS
@pytest.mark.usefixtures("quick")
def test_wherever_the_mover_dies_before_the_switch_abort_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    names = ["web1"] if kind == "file" else list(VOLUMES)
    for point, rig in rigs(tmp_path, monkeypatch, kind):
        switched = rig.ganeti.data["web1"]["primary"] == "node2"
        try:
            retreat.Back(rig.master, "web1", lambda _text: None).run()
        except Refused as error:
            assert switched
            assert "is on node2 already: gnt-zfs move web1 node2 ends that" in str(error)
            continue
        if switched:
            continue
        assert rig.ganeti.data["web1"]["up"], f"killed at point {point}"
        assert rig.content("web1") == DISKS[kind]
        assert sorted(rig.knots["node1"].datasets()) == names
        assert rig.knots["node2"].datasets() in ([], [".moving"])
        assert rig.knots["node1"].holds() == []
        for name in names:
            assert MOVE not in rig.knots["node1"].marks(name)
            assert rig.knots["node1"].fake.state()[f"zfs/vm/{name}"]["snapshots"] == {}


def test_nothing_of_a_gone_instance(rig: Rig) -> None:
    with pytest.raises(Missing, match="instance web9"):
        go(rig, name="web9")


@KINDS
def test_what_has_come_of_an_instance_that_is_gone_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setattr(rig.master, "is_master", lambda: True)
    names = {"file": ["web1.example.com"], "ext": list(VOLUMES)}[kind]
    monkeypatch.setitem(VERBS, "report", lambda here, _request: {"moving": arrival.report(here)})
    monkeypatch.delitem(SHAPES, "report")  # all else that there is in one
    rig.ganeti.add("web1.example.com", kind, "node1", DISKS[kind])
    go(rig, name="web1.example.com", presync_only=True)
    del rig.ganeti.data["web1.example.com"]
    options = parser().parse_args(["move", "--abort", "--yes", "web1"])
    assert options.run(rig.master, options) == 0
    assert rig.knots["node2"].datasets() == [".moving"]
    assert sorted(rig.knots["node1"].datasets()) == names
    assert "web1.example.com: is no instance, what had come of it to node2 is gone\n" in capsys.readouterr().out
    with pytest.raises(Missing, match="^instance web1 does not exist: nothing has come of one that was called so either$"):
        options.run(rig.master, options)


# many


def test_a_node_is_emptied(rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rig.ganeti.add("web1", "file", "node2", FILES)
    rig.ganeti.add("web2", "ext", "node2", VOLUMES, up=False)
    rig.ganeti.add("web3", "file", "node2", {"c.disk0": b"three"})
    rig.knots["node2"].fake.set("zfs/vm/web3", {"org.zfsganeti:detach": "1"})
    rig.knots["node1"].fake.available = 90 << 30
    options = parser().parse_args(["move", "--from", "node2", "--parallel", "1", "--yes"])
    monkeypatch.setattr(rig.master, "is_master", lambda: True)
    assert options.run(rig.master, options) == Busy.exit_code
    said = capsys.readouterr()
    assert {name: known["primary"] for name, known in rig.ganeti.data.items()} == {"web1": "node3", "web2": "node3", "web3": "node2"}
    assert "gnt-zfs: web3 on node2: is becoming independent of an image: gnt-zfs detach --wait web3 first" in said.err
    table = [line.split() for line in said.out.splitlines()[-4:]]
    assert table[0] == ["INSTANCE", "FROM", "TO", "SENT", "DOWN", "RESULT"]
    assert [row[:3] for row in table[1:]] == [["web1", "node2", "node3"], ["web2", "node2", "node3"], ["web3", "node2", "node3"]]
    assert [row[-1] for row in table[1:3]] == ["moved", "moved"]
    assert table[2][4] == "-"


def test_what_has_changed_while_others_were_moved_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", "ext", "node2", {"u.ext.disk0": b"zero"})
    rig.ganeti.add("web2", "ext", "node2", {"v.ext.disk0": b"one"})
    monkeypatch.setattr(rig.master, "is_master", lambda: True)

    def before(who: str, verb: str) -> None:
        if (who, verb) == ("ganeti", "shutdown") and len(rig.ganeti.data["web2"]["disks"]) == 1:
            knot = rig.knots["node2"]
            knot.volumes.create("w.ext.disk1", 1 << 20, {})
            knot.volumes.set_instance("w.ext.disk1", "web2")
            rig.ganeti.data["web2"]["disks"].append("w.ext.disk1")

    rig.before = before
    options = parser().parse_args(["move", "--from", "node2", "--parallel", "1", "--yes", "node3"])
    assert options.run(rig.master, options) == 0
    assert sorted(rig.knots["node3"].datasets()) == [".moving", "u.ext.disk0", "v.ext.disk0", "w.ext.disk1"]
    assert rig.ganeti.data["web2"]["primary"] == "node3"


def adopted(rig: Rig) -> None:
    """web1 has been adopted, and the shadow that has its old disks is there yet."""
    rig.ganeti.add("web1", "file", "node2", FILES)
    rig.ganeti.add("adopt-web1", "file", "node2", {"old": b"old"}, up=False)
    rig.ganeti.data["adopt-web1"]["tags"] = [adoption.TAG]


def test_what_is_being_adopted_stays_where_it_is(rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    adopted(rig)
    rig.ganeti.add("web2", "ext", "node2", VOLUMES, up=False)
    monkeypatch.setattr(rig.master, "is_master", lambda: True)
    options = parser().parse_args(["move", "--from", "node2", "--yes", "node3"])
    assert options.run(rig.master, options) == Refused.exit_code
    way_out = "gnt-zfs adopt --commit web1 first, or --rollback"
    said = capsys.readouterr().err
    assert f"gnt-zfs: web1: was adopted and adopt-web1 has its old disks yet: {way_out}\n" in said
    assert f"gnt-zfs: adopt-web1: has the other disks of web1, whose adoption has not ended: {way_out}\n" in said
    assert {name: known["primary"] for name, known in rig.ganeti.data.items()} == {"web1": "node2", "adopt-web1": "node2", "web2": "node3"}
    rig.ganeti.data["adopt-web1"]["tags"] = []  # somebody's instance with a name like that
    go(rig, "node3")
    assert rig.ganeti.data["web1"]["primary"] == "node3"


def test_an_adoption_that_was_parted_is_one_finding_and_can_come_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    adopted(rig)
    rig.ganeti.data["adopt-web1"]["primary"] = "node1"
    monkeypatch.setattr(rig.master, "call_all", lambda _verb: {})
    found = adopt_cli.leftovers(rig.master)
    assert [(finding.subject, finding.text) for finding in found] == [
        ("web1", "its adoption cannot end: adopt-web1: is on node1, web1 on node2: bring web1 back there")
    ]
    with pytest.raises(Refused, match="is on node1, web1 on node2"):
        adoption.Adoption(rig.master, "web1")
    with pytest.raises(Refused, match="gnt-zfs adopt --commit web1 first"):
        go(rig, "node3")
    go(rig, "node1")
    assert rig.ganeti.data["web1"]["primary"] == "node1"
    assert adoption.Adoption(rig.master, "web1").problem is None


def test_what_is_typed_wrongly(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.master, "is_master", lambda: True)
    rig.ganeti.add("web1", "file", "node1", FILES)
    for words, error, text in (
        (["web1"], BadInput, "say INSTANCE and NODE"),
        (["web1", "node9"], Missing, "node node9 does not exist: the cluster has node1, node2, node3"),
        (["web1", "ndoe3"], Missing, r"^node ndoe3 does not exist: did you mean node3\?$"),
        (["wbe1", "node3"], Missing, r"^instance wbe1 does not exist: did you mean web1\?$"),
        (["web1", "node1"], Refused, "web1: is on node1 already"),
        (["--abort", "web1", "node2"], BadInput, "say INSTANCE alone"),
        (["--from", "node1", "node1"], BadInput, "is to be emptied and cannot take anything"),
    ):
        options = parser().parse_args(["move", "--yes", *words])
        with pytest.raises(error, match=text):
            options.run(rig.master, options)
    monkeypatch.setattr(rig.master, "is_master", lambda: False)
    with pytest.raises(Unavailable, match="works on the master node only, which is node1"):
        options.run(rig.master, options)


def test_a_dry_run_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rig.master, "is_master", lambda: True)
    rig.ganeti.add("web1", "file", "node1", FILES)
    before = {name: knot.fake.state() for name, knot in rig.knots.items()}
    options = parser().parse_args(["move", "--dry-run", "web1", "node2"])
    assert options.run(rig.master, options) == 0
    assert {name: knot.fake.state() for name, knot in rig.knots.items()} == before
    assert "web1 (file) goes from node1 to node2: 1 dataset" in capsys.readouterr().out


def test_too_long_a_downtime_stops_before_the_shutdown(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    with pytest.raises(Refused, match=r"would be down for about \d+ s, longer than --max-downtime 1: nothing was stopped"):
        go(rig, longest=1.0)
    assert rig.ganeti.typed == []


def test_too_little_memory_is_said_before_the_first_byte(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    rig.ganeti.memory = 100
    with pytest.raises(NoSpace, match="^memory of node2 for web1: 128M asked for, 100M available: --no-start moves it all the same$"):
        go(rig)
    assert rig.knots["node2"].datasets() == []


def test_a_volume_that_is_fenced_is_not_attached(rig: Rig) -> None:
    rig.ganeti.add("web1", "ext", "node1", VOLUMES)
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    here = rig.knots["node1"]
    rig.master.call("node1", "move-begin", datasets=list(VOLUMES), to="node2", phase="presync", ran=True)
    rig.master.call("node1", "move-fence", datasets=list(VOLUMES))
    with pytest.raises(Busy, match="is fenced, node2 is about to have it: gnt-zfs move web1 node2 goes on, gnt-zfs move --abort web1 goes"):
        here.volumes.attach("u.ext.disk0")
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.content("web1") == VOLUMES


def until(rig: Rig, node: str, name: str) -> int:
    return int(json.loads(rig.knots[node].marks(name)[MOVE])["until"])


def test_a_lease_is_renewed_by_every_pass(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    go(rig, presync_only=True)
    here, begin = rig.knots["node1"], time.time()
    later = [begin + LEASE_SECONDS]  # a day of the fourth pass, as it were
    monkeypatch.setattr(time, "time", lambda: later[0])
    pump = here.net.pump

    def slowly(*words: object, **options: object) -> object:
        assert until(rig, "node1", "web1") >= int(later[0]) + LEASE_SECONDS
        with pytest.raises(Busy, match="^web1: is being sent to another node: the same command when that has ended$"):
            departure.abort(here, {"datasets": ["web1"]})
        later[0] += LEASE_SECONDS
        arrival.release_expired(here, later[0] + 1)  # as the watcher does
        return pump(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(here.net, "pump", slowly)
    request = {"instance": "web1", "datasets": ["web1"], "target": "node2", "embedded": True}
    departure.send(here, request, lambda _told: None)
    assert until(rig, "node1", "web1") == until(rig, "node2", ".moving/web1") == int(later[0]) + LEASE_SECONDS
    for knot in (here, rig.knots["node2"]):
        arrival.release_expired(knot, later[0] + LEASE_SECONDS - 10)
        assert len(knot.holds()) == 1
    departure.abort(here, {"datasets": ["web1"]})
    assert here.holds() == []


@KINDS
def test_leases_that_have_ended_keep_nothing_in_the_trash(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind], up=False)
    go(rig, presync_only=True)
    here = rig.knots["node1"]
    for name in ["web1"] if kind == "file" else list(VOLUMES):
        here.trash._make()
        here.fake.rename(f"zfs/vm/{name}", f"zfs/vm/.trash/{name}:20260101T000000Z")  # whoever has put it there, and left the holds
    assert len(here.holds()) == (1 if kind == "file" else 2)
    arrival.release_expired(here, time.time())
    assert len(here.holds()) == (1 if kind == "file" else 2)
    arrival.release_expired(here, time.time() + LEASE_SECONDS + 1)
    assert here.holds() == []


def test_leases_that_have_ended_hold_nothing(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", FILES)
    go(rig, presync_only=True)
    for node in ("node1", "node2"):
        knot = rig.knots[node]
        assert len(knot.holds()) == 1
        arrival.release_expired(knot, time.time())
        assert len(knot.holds()) == 1
        arrival.release_expired(knot, time.time() + LEASE_SECONDS + 1)
        assert knot.holds() == []
    go(rig)
    arrived(rig, "file")
