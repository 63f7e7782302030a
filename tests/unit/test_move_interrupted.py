"""Movers that are interrupted or die while Ganeti does what they have asked for: the job goes on, and all ends as it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Rig, go, make_rig
from tests.unit.test_move import DISKS, KINDS, Died, arrived
from zfsganeti import retreat
from zfsganeti.datasets import INSTANCE, MOVE, VOLUME
from zfsganeti.errors import Refused, Unavailable, ZfsGanetiError
from zfsganeti.route import FENCED

LATE = Unavailable("gnt-instance modify", "no end within 900 s")
ENDS = pytest.mark.parametrize("end", [KeyboardInterrupt, Died], ids=["interrupted", "killed"])
SUBMITTED = pytest.mark.parametrize("submitted", [True, False], ids=["submitted", "unsubmitted"])


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield make_rig(tmp_path, monkeypatch)


def stopped_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, end: type[BaseException], submitted: bool
) -> Iterator[tuple[int, Rig]]:
    """Yield rigs on which a move ended at each thing that it asks of gnt-instance, whose job is in the queue or never was."""
    for point in range(1, 9):
        made = make_rig(tmp_path / str(point), monkeypatch)
        made.ganeti.add("web1", kind, "node1", DISKS[kind])
        ended = end_at(made, monkeypatch, point, end, submitted)
        if not ended:
            assert point > 4
            return
        yield point, made


def end_at(rig: Rig, monkeypatch: pytest.MonkeyPatch, point: int, end: type[BaseException], submitted: bool) -> bool:
    """A move ends at the `point`-th call of gnt-*; tell whether it has come that far."""
    calls, does = [0], rig.ganeti.gnt

    def gnt(*words: str, seconds: float = 0, stdin: str = "") -> str:
        calls[0] += 1
        if calls[0] != point:
            return does(*words, seconds=seconds, stdin=stdin)
        if submitted and "list" not in words:
            rig.ganeti.queue.append(words)
        raise end

    monkeypatch.setattr(rig.ganeti, "gnt", gnt)
    try:
        go(rig)
    except end:
        return True
    finally:
        monkeypatch.setattr(rig.ganeti, "gnt", does)
    return False


@KINDS
@ENDS
@SUBMITTED
def test_the_same_command_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, end: type[BaseException], submitted: bool
) -> None:
    for _point, rig in stopped_at(tmp_path, monkeypatch, kind, end, submitted):
        if end is KeyboardInterrupt:
            assert rig.ganeti.queue == []
            assert rig.ganeti.data["web1"]["up"], "it was left down"
        try:
            go(rig)
        except Refused as error:
            assert "is on node2 already" in str(error)
        arrived(rig, kind)


@KINDS
@ENDS
@SUBMITTED
def test_the_way_back_goes_back_or_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, end: type[BaseException], submitted: bool
) -> None:
    for _point, rig in stopped_at(tmp_path, monkeypatch, kind, end, submitted):
        try:
            retreat.Back(rig.master, "web1", lambda _text: None).run()
        except Refused as error:
            assert rig.ganeti.data["web1"]["primary"] == "node2"
            assert "is on node2 already: gnt-zfs move web1 node2 ends that" in str(error)
            go(rig)
            arrived(rig, kind)
            continue
        known = rig.ganeti.data["web1"]
        assert known["up"]
        assert rig.content("web1") == DISKS[kind]
        if known["primary"] == "node1":
            assert rig.knots["node2"].datasets() in ([], [".moving"])
            assert rig.knots["node1"].holds() == []


@KINDS
@ENDS
@SUBMITTED
def test_it_starts_where_ganeti_has_it_and_then_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, end: type[BaseException], submitted: bool
) -> None:
    for _point, rig in stopped_at(tmp_path, monkeypatch, kind, end, submitted):
        rig.ganeti.work()
        known = rig.ganeti.data["web1"]
        primary = known["primary"]
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
        rig.ganeti.write("web1", next(iter(DISKS[kind])), b"newer")
        rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
        assert [node for node in ("node1", "node2", "node3") if node != primary and rig.starts_on("web1", node)] == []
        assert rig.starts_on("web1", primary)
        assert b"newer" in rig.content("web1").values()


@KINDS
def test_a_job_that_is_too_slow_ends_after_all(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    rig.ganeti.leaves = lambda verb: LATE if verb == "modify" and not rig.ganeti.queue else None
    said: list[str] = []
    with pytest.raises(Unavailable, match="no end within 900 s"):
        go(rig, said=said)
    assert said[-2:] == [
        "web1: waiting for the job of Ganeti's that works on it",
        "web1: gnt-instance modify: no end within 900 s: starting it on node2",
    ]
    assert (rig.ganeti.data["web1"]["primary"], rig.ganeti.data["web1"]["up"]) == ("node2", True)
    rig.ganeti.leaves = lambda _verb: None
    go(rig)
    arrived(rig, kind)


def test_a_job_that_never_ends_leaves_the_fence(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", "file", "node1", DISKS["file"])
    rig.ganeti.leaves = lambda verb: LATE if verb == "modify" else None
    monkeypatch.setattr("tests.rig.LOOKS", 1000)
    monkeypatch.setattr(type(rig.master).wait_for_jobs, "__kwdefaults__", {"seconds": -1.0, "submitted": False})
    said: list[str] = []
    with pytest.raises(Unavailable, match="no end within 900 s"):
        go(rig, said=said)
    busy = "web1: a job of Ganeti's works on it: gnt-job list shows it; then the same command goes on"
    assert said[-1] == f"web1: {busy}: gnt-zfs move --abort web1 goes back, the same command goes on"
    assert FENCED in rig.knots["node1"].marks("web1")[MOVE]


@KINDS
def test_what_was_lifted_although_the_primary_changed_is_sent_again(rig: Rig, kind: str) -> None:
    """As a mover did once that did not wait for the job."""
    names = ["web1"] if kind == "file" else list(DISKS[kind])
    switched(rig, kind)
    rig.master.call("node1", "move-lift", datasets=names)
    with pytest.raises(Refused, match="is on node2 already: gnt-zfs move web1 node2 ends that, gnt-zfs move web1 node1 then moves it back"):
        retreat.Back(rig.master, "web1", print)
    rig.master.call("node1", "move-abort", datasets=names)  # not even a mark is left
    go(rig)
    arrived(rig, kind)


def test_an_abort_that_a_job_comes_before_all_the_same_forgets_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a gnt-instance has outlived the mover that was killed, and submits its job at the worst moment."""
    rig.ganeti.add("web1", "file", "node1", DISKS["file"])
    rig.ganeti.leaves = lambda verb: Died() if verb == "modify" else None
    with pytest.raises(Died):
        go(rig)
    rig.ganeti.leaves = lambda _verb: None
    monkeypatch.setattr(rig.ganeti, "is_pending", lambda _instance: False)
    with pytest.raises(Refused, match="^web1: is on node2 already: gnt-zfs move web1 node2 ends that"):
        retreat.Back(rig.master, "web1", print).run()
    go(rig)
    arrived(rig, "file")


def test_an_abort_is_done_with_when_the_instance_runs(rig: Rig) -> None:
    """Killed at its start, it is still known that the instance is to run."""
    rig.ganeti.add("web1", "file", "node1", DISKS["file"])
    rig.ganeti.leaves = lambda verb: Died() if verb in ("modify", "startup") else None
    with pytest.raises(Died):
        go(rig)
    rig.ganeti.queue.clear()
    with pytest.raises(Died):
        retreat.Back(rig.master, "web1", print).run()
    rig.ganeti.queue.clear()
    rig.ganeti.leaves = lambda _verb: None
    retreat.Back(rig.master, "web1", print).run()
    assert rig.ganeti.data["web1"]["up"]
    assert rig.knots["node1"].datasets() == ["web1"]


def test_an_abort_of_what_does_not_start_goes_away_all_the_same(rig: Rig) -> None:
    rig.ganeti.add("web1", "file", "node1", DISKS["file"])
    rig.ganeti.leaves = lambda verb: Died() if verb == "modify" else None
    with pytest.raises(Died):
        go(rig)
    rig.ganeti.queue.clear()
    rig.ganeti.leaves = lambda _verb: None
    rig.ganeti.fails.add("startup")
    with pytest.raises(Refused, match=r"^web1: does not start \(startup denied by a test\): gnt-instance startup web1$"):
        retreat.Back(rig.master, "web1", print).run()
    assert rig.knots["node2"].datasets() == [".moving"]


# a source or a target that is not asked


def switched(rig: Rig, kind: str, at: str = "move-check") -> None:
    """The mover is killed before something that it asks for, by default once the primary is the target."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])

    def before(_who: str, verb: str) -> None:
        if verb == at:
            raise Died

    rig.before = before
    with pytest.raises(Died):
        go(rig)
    rig.before = lambda _who, _verb: None


def offline(rig: Rig, node: str) -> None:
    rig.knots[node].away = True
    for knot in rig.knots.values():
        knot.ssconf.offline_nodes.append(node)


@KINDS
@pytest.mark.parametrize("how", ["move", "startup"])
def test_a_source_that_is_lost_after_the_switch(rig: Rig, kind: str, how: str) -> None:
    switched(rig, kind)
    rig.knots["node1"].away = True
    with pytest.raises(Unavailable, match="gnt-node modify --offline=yes node1 if it is lost for good"):
        go(rig)
    with pytest.raises(ZfsGanetiError, match="gnt-zfs move web1 node2 goes on, gnt-node modify --offline=yes node1 first if that is lost"):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    offline(rig, "node1")
    with pytest.raises(Refused, match="web1: is on node2 already: gnt-zfs move web1 node2 ends that$"):
        retreat.Back(rig.master, "web1", print)
    said: list[str] = []
    if how == "move":
        go(rig, said=said)
        assert said[0].endswith("the primary is node2 already; node1 is offline and not asked any more")
        assert said[-1] == "web1: what is left of it on node1 stays there, gnt-zfs check tells of it once that is back"
    else:
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.ganeti.data["web1"]["up"]
    assert rig.content("web1") == DISKS[kind]
    assert ".moving/web1" not in rig.knots["node2"].datasets()


@KINDS
@pytest.mark.parametrize("back", [False, True])
def test_a_source_that_is_lost_before_all_has_come_is_done_without_by_hand_alone(rig: Rig, kind: str, back: bool) -> None:
    """Who is asked for it, whichever command that is, says what there is, and not that another of them goes on."""
    names = ["web1"] if kind == "file" else list(DISKS[kind])
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    go(rig, presync_only=True)
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    rig.ganeti.data["web1"]["primary"] = "node2"
    offline(rig, "node1")
    for name in names:
        by_hand = f"else /usr/share/doc/zfsganeti/docs/moves.md says how to make do with zfs/vm/.moving/{name}"
        said = f"{name}: has not come wholly from node1, which is offline: gnt-node modify --offline=no node1 if that is back, {by_hand}$"
        with pytest.raises(Refused, match=f"^{said}"):
            go(rig)
        with pytest.raises(Refused, match=f"^{said}"):
            retreat.Back(rig.master, "web1", print)
        with pytest.raises(ZfsGanetiError, match=f": {said}"):
            rig.ganeti.gnt("gnt-instance", "startup", "web1")
        if back:
            rig.knots["node1"].away = False
            for knot in rig.knots.values():
                knot.ssconf.offline_nodes.clear()
            go(rig)
            arrived(rig, kind)
            return
        fake = rig.knots["node2"].fake
        fake.rename(f"zfs/vm/.moving/{name}", f"zfs/vm/{name}")  # as is written there
        fake.set(f"zfs/vm/{name}", {INSTANCE: "web1"} if kind == "file" else {INSTANCE: "web1", VOLUME: name})
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.content("web1") == DISKS[kind]
    rig.ganeti.write("web1", next(iter(DISKS[kind])), b"newer")
    assert rig.knots["node2"].datasets() == [".moving", *names]
    assert rig.knots["node2"].holds() == []


@KINDS
def test_a_source_that_is_not_in_the_trash_yet_does_not_start_again(rig: Rig, kind: str) -> None:
    switched(rig, kind, "move-leave")
    disk = next(iter(DISKS[kind]))
    rig.ganeti.write("web1", disk, b"newer")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    rig.ganeti.data["web1"]["primary"] = "node1"
    newer = "^.*web1: its newer disks are on node2: gnt-instance modify --new-primary=node2 web1$"
    with pytest.raises(ZfsGanetiError, match=newer):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    with pytest.raises(Refused, match=newer):
        retreat.Back(rig.master, "web1", print)
    rig.knots["node2"].away = True
    with pytest.raises(ZfsGanetiError, match=r"web1: whether its newer disks are on node2 is not known \(.*gnt-zfs move --abort web1 goes"):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    with pytest.raises(Refused, match="gnt-node modify --offline=yes node2 if it is lost for good"):
        retreat.Back(rig.master, "web1", print)
    rig.knots["node2"].away = False
    rig.ganeti.data["web1"]["primary"] = "node2"
    go(rig)
    assert rig.content("web1")[disk] == b"newer"
    assert rig.knots["node1"].datasets()[:1] == [".trash"]


def test_a_target_that_is_lost_is_done_without_if_somebody_says_so(rig: Rig) -> None:
    switched(rig, "file", "modify")
    assert rig.ganeti.data["web1"]["primary"] == "node1"
    rig.knots["node2"].away = True
    with pytest.raises(Refused, match=r"whether its newer disks are on node2 is not known \(node2: cannot be reached"):
        retreat.Back(rig.master, "web1", print)
    offline(rig, "node2")
    retreat.Back(rig.master, "web1", print).run()
    assert rig.ganeti.data["web1"]["up"]
    assert rig.content("web1") == DISKS["file"]


def test_fenced_volumes_are_lacking_to_whoever_wants_to_use_them(rig: Rig) -> None:
    switched(rig, "ext", "move-leave")
    volumes = list(DISKS["ext"])
    assert rig.master.call("node1", "lacking-volumes", volumes=volumes, used=True) == volumes
    assert rig.master.call("node1", "lacking-volumes", volumes=volumes) == []
    assert rig.master.call("node2", "lacking-volumes", volumes=volumes, used=True) == []
