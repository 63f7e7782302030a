"""Disks that an instance has left, on a node that was away when it was to give them up, and copies that are not all any more."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.rig import MIB, Knot, Rig, go, make_rig
from tests.unit.test_move import DISKS, KINDS, VOLUMES, Died
from tests.unit.test_move_interrupted import offline
from zfsganeti import arrival, check, fence, retreat, trash
from zfsganeti.config import Config
from zfsganeti.datasets import MOVE
from zfsganeti.errors import CommandFailed, Missing, Refused, Unavailable, ZfsGanetiError
from zfsganeti.route import FENCED, LEASE_SECONDS, LEFT, PRESYNC, Coming, Leaving, find_rest, is_newer


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = make_rig(tmp_path, monkeypatch)
    for knot in made.knots.values():
        knot.fake.clock = int(time.time()) + 60  # what goes into the trash does so after what is fenced now
    yield made


def killed(rig: Rig, at: str, target: str) -> None:
    """A mover dies just before it asks for something."""

    def before(_who: str, verb: str) -> None:
        if verb == at:
            raise Died

    rig.before = before
    with pytest.raises(Died):
        go(rig, target)
    rig.before = lambda _who, _verb: None


def names(kind: str) -> list[str]:
    return ["web1"] if kind == "file" else list(VOLUMES)


def moved_twice(rig: Rig, kind: str) -> None:
    """The instance is on node3, has come there from node2, and node1, from where it came to node2, has not given it up."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    killed(rig, "move-leave", "node2")
    go(rig, "node3")
    rig.ganeti.write("web1", next(iter(DISKS[kind])), b"newest")


def findings(rig: Rig) -> list[check.Finding]:
    """What gnt-zfs check can repair of moves."""
    return [finding for finding in all_findings(rig) if finding.verb.startswith("move-")]


def all_findings(rig: Rig, heard: Mapping[str, Knot] | None = None) -> list[check.Finding]:
    """What gnt-zfs check says of the nodes that answer."""
    reports = {node: {**check.report(knot), "leftover_minutes": 0} for node, knot in (heard or rig.knots).items()}
    instances = rig.ganeti.instances()
    found = [finding for facts in reports.values() for finding in check.compare_node(facts, instances, list(instances), set(), time.time())]
    return check.keep_safe(found, check.held(reports, instances), check.lived(reports))


# which node is the source


@KINDS
@pytest.mark.parametrize("lost", [False, True], ids=["", "lost"])
def test_the_same_command_goes_on_from_the_node_that_has_sent_it(rig: Rig, kind: str, lost: bool) -> None:
    moved_twice(rig, kind)
    killed(rig, "move-check", "node2")
    if lost:
        offline(rig, "node3")
    go(rig, "node2")
    assert rig.content("web1")[next(iter(DISKS[kind]))] == b"newest"
    assert rig.ganeti.data["web1"]["up"]


def said(move: str) -> dict[str, Any]:
    return {"dataset": "zfs/vm/web1", "ours": True, "datastore": "", "move": move}


def node(datasets: dict[str, Any], coming: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"problem": "", "datasets": datasets, "coming": coming or {}}


def test_where_several_nodes_could_have_sent_what_has_not_landed_none_is_chosen() -> None:
    fenced, begun = Leaving("node2", FENCED, True, 0).pack(), Leaving("node2", PRESYNC, True, 0).pack()
    two = {"node1": node({"u": said(fenced)}), "node2": node({"u": None}), "node3": node({"u": said(begun)})}
    with pytest.raises(Refused, match="^what is on its way to node2: could be of node1 or node3: gnt-instance modify --new-primary=NODE"):
        find_rest(two, "node2", [], ["u"])
    come = {"u": said(Coming("node3", "web1", 0, "1").pack())}
    rest = find_rest({**two, "node2": node({"u": None}, come)}, "node2", [], ["u"])
    assert rest is not None
    assert rest.source == "node3"
    come["v"] = said(Coming("node4", "web1", 0, "2").pack())
    with pytest.raises(Refused, match="could be of node3 or node4"):  # which nobody can ask
        find_rest({**two, "node2": node({"u": None, "v": None}, come)}, "node2", [], ["u", "v"])


def sent_ahead_and_moved_elsewhere(rig: Rig, kind: str) -> None:
    """What was sent ahead to node2 is there yet, since that was away when it was given up; the instance is on node3."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    rig.knots["node1"].fake.snapshot([f"zfs/vm/{name}@autosnap_1" for name in names(kind)])
    go(rig, "node2", presync_only=True)
    rig.knots["node2"].away = True
    retreat.Back(rig.master, "web1", print).run()
    go(rig, "node3")
    rig.knots["node2"].away = False


@KINDS
def test_what_has_come_says_who_has_sent_it_last(rig: Rig, kind: str) -> None:
    sent_ahead_and_moved_elsewhere(rig, kind)
    killed(rig, "move-check", "node2")
    marks = [Coming.parse(rig.knots["node2"].marks(f".moving/{name}")[MOVE]) for name in names(kind)]
    assert {mark.source for mark in marks if mark is not None} == {"node3"}
    offline(rig, "node3")
    go(rig, "node2")
    assert rig.content("web1") == DISKS[kind]


@KINDS
def test_what_has_come_to_an_earlier_version_can_be_gone_on_with(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sent_ahead_and_moved_elsewhere(rig, kind)
    with monkeypatch.context() as old:
        old.setattr(arrival.Arriving, "_belong_to", lambda *_words: None)
        killed(rig, "move-check", "node2")
    marks = [Coming.parse(rig.knots["node2"].marks(f".moving/{name}")[MOVE]) for name in names(kind)]
    assert {mark.source for mark in marks if mark is not None} == {"node1"}
    go(rig, "node2")
    assert rig.content("web1") == DISKS[kind]


# what has come, once its source is lost


@KINDS
@pytest.mark.parametrize("ready", [False, True], ids=["ahead", "ready"])
@pytest.mark.parametrize("source", ["there", "fenced", "silent", "lost", "emptied"])
def test_a_repair_destroys_what_has_come_while_its_source_has_its_own_and_not_else(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, ready: bool, source: str
) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    node1, node2 = rig.knots["node1"], rig.knots["node2"]
    killed(rig, "modify", "node2") if ready or source == "fenced" else go(rig, presync_only=True)
    if source != "fenced":
        rig.master.call("node1", "move-lift", datasets=names(kind))
    rig.ganeti.data["web1"]["up"] = False
    if source == "lost":
        offline(rig, "node1")
    elif source == "emptied":  # by a hand, into the trash, which will let go of it
        for name in names(kind):
            rig.master.call("node1", "move-abort", datasets=[name])
            node1.trash.put(name) if kind == "file" else node1.volumes.remove(name)
    heard = {name: knot for name, knot in rig.knots.items() if not (name == "node1" and source in ("lost", "silent"))}
    now = time.time() + LEASE_SECONDS + 3600
    monkeypatch.setattr(time, "time", lambda: now)
    before = node2.datasets()
    for finding in (found := all_findings(rig, heard)):
        if finding.verb == "move-drop":
            node2.call(finding.node, finding.verb, **finding.request)
    if source in ("there", "fenced"):
        assert node2.datasets() == [".moving"]
        return
    assert node2.datasets() == before
    texts = [finding.text for finding in found if finding.subject in names(kind) and finding.node == "node2"]
    assert len(texts) == len(names(kind))
    assert all("node1 has not been heard to hold its own, so this may be all there is: /usr/share/" in text for text in texts)


# starts and ways back


@KINDS
@pytest.mark.parametrize("state", ["there", "away", "offline"])
def test_disks_two_moves_old_neither_start_nor_go_back(rig: Rig, kind: str, state: str) -> None:
    moved_twice(rig, kind)
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    rig.ganeti.data["web1"]["primary"] = "node1"
    if state == "there":
        said = "web1: disks of it are on node3 as well, .* compare them, then gnt-instance modify --new-primary=node3 web1 if those there"
    else:
        rig.knots["node3"].away = True
        said = "web1: whether its newer disks are on node3 is not known"
    if state == "offline":
        offline(rig, "node3")
        assert rig.starts_on("web1", "node1")
        return
    with pytest.raises(CommandFailed, match=said):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    with pytest.raises(Refused, match=said):
        retreat.Back(rig.master, "web1", print)


@KINDS
def test_a_start_of_what_waits_at_its_target_asks_no_other_node(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    killed(rig, "modify", "node2")
    rig.knots["node3"].away = True
    retreat.Back(rig.master, "web1", print)
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.content("web1") == DISKS[kind]


@pytest.mark.parametrize(("phase", "until", "newer"), [(FENCED, 1, False), (FENCED, 3, True), (LEFT, 1, False), (PRESYNC, 1, True)])
def test_what_another_node_was_fenced_with_before_is_not_newer(phase: str, until: int, newer: bool) -> None:
    assert is_newer(said(Leaving("node2", phase, True, until).pack()), Leaving("node2", FENCED, True, 2)) is newer
    assert is_newer(said(""), Leaving("node2", FENCED, True, 2))
    assert not is_newer(None, Leaving("node2", FENCED, True, 2))


@KINDS
@pytest.mark.parametrize("how", ["startup", "move"])
def test_clocks_of_two_nodes_that_differ_leave_one_of_them_to_start_on(rig: Rig, kind: str, how: str) -> None:
    rig.ganeti.add("web1", kind, "node3", DISKS[kind])
    killed(rig, "move-leave", "node1")
    knot = rig.knots["node3"]
    for name in names(kind):  # by a clock that is ahead
        mark = Leaving.parse(knot.marks(name)[MOVE])
        assert mark is not None
        knot.fake.set(knot.full(name), {MOVE: Leaving(mark.to, mark.phase, mark.ran, mark.until + 600).pack()})
    killed(rig, "modify", "node2")
    rig.master.call("node2", "move-drop", datasets=names(kind))
    if how == "startup":
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    else:
        go(rig, "node1")
    assert rig.ganeti.data["web1"]["up"]
    assert rig.content("web1") == DISKS[kind]


def test_what_waits_here_itself_was_sent_by_one_that_may_be_newer() -> None:
    mark = Leaving("node1", FENCED, True, 3).pack()
    assert is_newer(said(mark), Leaving("node2", FENCED, True, 2), "")
    assert not is_newer(said(mark), Leaving("node2", FENCED, True, 2), "node1")


@KINDS
def test_the_end_of_a_move_whose_start_is_refused_says_how_it_ends_without(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    killed(rig, "move-leave", "node2")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    rig.ganeti.fails.add("startup")
    with pytest.raises(Refused, match="gnt-zfs move --no-start web1 node2 ends the move, then gnt-instance startup web1$"):
        go(rig, "node2")
    go(rig, "node2", start=False)


@KINDS
def test_disks_two_moves_old_are_said_to_be_that_and_go_into_the_trash(rig: Rig, kind: str) -> None:
    moved_twice(rig, kind)
    found = findings(rig)
    texts = ["was not put into the trash after the move of web1 to node2, which is on node3 by now"] * len(names(kind))
    assert [finding.text for finding in found] == texts
    for finding in found:
        rig.master.call(finding.node, finding.verb, **finding.request)
    assert [name for name in rig.knots["node1"].datasets() if not name.startswith(".trash")] == []
    assert findings(rig) == []
    assert rig.content("web1")[next(iter(DISKS[kind]))] == b"newest"


@KINDS
def test_a_source_whose_instance_was_removed_goes_into_the_trash(rig: Rig, kind: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    killed(rig, "move-leave", "node2")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    for name in names(kind):
        rig.knots["node2"].trash.put(name) if kind == "file" else rig.knots["node2"].volumes.remove(name)
    del rig.ganeti.data["web1"]
    for finding in findings(rig):
        rig.master.call(finding.node, finding.verb, **finding.request)
    assert [name for name in rig.knots["node1"].datasets() if not name.startswith(".trash")] == []


class NoRoot:
    """A root that cannot be looked into."""

    path = "/nowhere"

    def __init__(self, error: ZfsGanetiError) -> None:
        self.error = error

    @property
    def name(self) -> str:
        raise self.error

    def __bool__(self) -> bool:
        raise self.error


@KINDS
@pytest.mark.parametrize("moves", [1, 2])
def test_nothing_goes_back_while_the_pool_with_the_newer_disks_is_not_there(rig: Rig, kind: str, moves: int) -> None:
    if moves == 1:
        rig.ganeti.add("web1", kind, "node1", DISKS[kind])
        killed(rig, "move-leave", "node2")
    else:
        moved_twice(rig, kind)
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    newest = "node2" if moves == 1 else "node3"
    rig.knots[newest].__dict__["root"] = NoRoot(Unavailable("root zfs/vm", "is not mounted", "zpool import"))
    rig.ganeti.data["web1"]["primary"] = "node1"
    said = rf"whether its newer disks are on {newest} is not known \(.*root zfs/vm: is not mounted"
    with pytest.raises(CommandFailed, match=said):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    with pytest.raises(Refused, match=said):
        retreat.Back(rig.master, "web1", print)


@KINDS
@pytest.mark.parametrize("how", ["startup", "abort"])
def test_a_node_that_has_no_root_keeps_no_instance_down(rig: Rig, kind: str, how: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    killed(rig, "modify", "node2")
    rig.master.call("node2", "move-drop", datasets=names(kind))
    rig.knots["node3"].__dict__["root"] = NoRoot(Missing("a dataset mounted at /vm", "gnt-zfs setup"))
    retreat.Back(rig.master, "web1", print).run() if how == "abort" else rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.content("web1") == DISKS[kind]


# disks elsewhere, of which nothing says whether they are newer


def old_disks(rig: Rig, kind: str, node: str) -> None:
    """Disks that the instance had once are on a node that was given up then, and bear no mark."""
    knot = rig.knots[node]
    knot.store.admit("web1", []) if kind == "file" else None
    for disk in DISKS[kind]:
        if kind == "ext":
            knot.volumes.create(disk, MIB, {})
            knot.volumes.set_instance(disk, "web1")
            knot.volumes.detach(disk)
        path = f"{knot.root.path}/{disk}/disk.raw" if kind == "ext" else f"{knot.root.path}/web1/{disk}"
        Path(path).write_bytes(b"old")


def put_away(rig: Rig, node: str, command: str) -> None:
    """What is to be typed on a node is done there."""
    for one in command.split(" && "):
        if one.startswith("VOL_NAME="):
            assert one.endswith(" /usr/share/ganeti/extstorage/zfs/remove")
            rig.knots[node].volumes.remove(one.split()[0].removeprefix("VOL_NAME="))
        else:
            request, verb = one.removeprefix("echo '").split("' | gnt-zfs node ")
            rig.master.call(node, verb, **json.loads(request))


@KINDS
@pytest.mark.parametrize("how", ["startup", "abort"])
@pytest.mark.parametrize("newest", ["node1", "node3"])
def test_where_other_disks_may_be_newer_both_ways_out_work_when_typed(rig: Rig, kind: str, how: str, newest: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    old_disks(rig, kind, "node3")
    killed(rig, "modify", "node2")
    if how == "abort":
        offline(rig, "node2")
    else:
        rig.master.call("node2", "move-drop", datasets=names(kind))  # as gnt-zfs check --repair does in the end
    with pytest.raises(ZfsGanetiError) as caught:
        retreat.Back(rig.master, "web1", print).run() if how == "abort" else rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert "its newer disks" not in str(caught.value)
    there, command = str(caught.value).split(" if those there are the newest, else on node3: ")
    if newest == "node3":
        assert there.endswith("compare them, then gnt-instance modify --new-primary=node3 web1")
        assert rig.starts_on("web1", "node3")
        return
    put_away(rig, "node3", command)
    retreat.Back(rig.master, "web1", print).run() if how == "abort" else rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert rig.ganeti.data["web1"]["up"]
    assert rig.content("web1") == DISKS[kind]
    assert {name.split("/")[0] for name in rig.knots["node3"].datasets()} == {".trash"}


@KINDS
@pytest.mark.parametrize("dropped", [False, True])
def test_a_fenced_source_is_not_offered_to_the_trash_before_it_has_lived_elsewhere(rig: Rig, kind: str, dropped: bool) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    old_disks(rig, kind, "node3")
    killed(rig, "modify", "node2")
    if dropped:
        rig.master.call("node2", "move-drop", datasets=names(kind))
    rig.ganeti.data["web1"]["primary"] = "node3"
    rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert findings(rig) == []
    texts = [finding.text for finding in all_findings(rig) if finding.node == "node1" and "may be the newest" in finding.text]
    assert len(texts) == len(names(kind))
    for text in texts:
        put_away(rig, "node1", text.rpartition("compare both, on node1 ")[2].removesuffix(" gives it up"))
    assert {name.split("/")[0] for name in rig.knots["node1"].datasets()} == {".trash"}


@KINDS
def test_old_disks_that_check_clears_away_are_kept_where_the_trash_keeps_nothing(rig: Rig, kind: str) -> None:
    moved_twice(rig, kind)
    rig.knots["node1"].__dict__["config"] = rig.knots["node1"].store.config = Config(trash_days=0)
    for finding in findings(rig):
        rig.master.call(finding.node, finding.verb, **finding.request)
    assert len([name for name in rig.knots["node1"].datasets() if name.startswith(".trash/")]) == len(names(kind))


# what does not say any more that it is all


def refused_switch(rig: Rig, kind: str, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """All has come to node2, Ganeti refuses the switch, and the instance runs on; node2 does not hear of that with `monkeypatch`."""
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    rig.ganeti.fails.add("modify")
    with monkeypatch.context() if monkeypatch is not None else contextlib.nullcontext() as deaf:
        if deaf is not None:
            deaf.setattr(fence, "take_back", lambda *_words: None)
        with pytest.raises(ZfsGanetiError):
            go(rig)
    rig.ganeti.fails.clear()
    rig.ganeti.write("web1", next(iter(DISKS[kind])), b"days of work")


def lost(rig: Rig) -> None:
    """node1 is gone for good, and the instance is to live on node2."""
    offline(rig, "node1")
    rig.ganeti.data["web1"].update(up=False, primary="node2")


@KINDS
@pytest.mark.parametrize("how", ["move", "startup"])
@pytest.mark.parametrize("again", [False, True], ids=["", "sent again"])
def test_what_has_come_before_a_switch_that_was_refused_does_not_land_without_its_source(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, how: str, again: bool
) -> None:
    refused_switch(rig, kind, monkeypatch if again else None)
    if again:
        go(rig, presync_only=True)
    lost(rig)
    with pytest.raises(ZfsGanetiError):
        go(rig) if how == "move" else rig.ganeti.gnt("gnt-instance", "startup", "web1")
    assert not rig.ganeti.data["web1"]["up"]


@KINDS
@pytest.mark.parametrize("back", ["startup", "abort"])
def test_what_goes_back_takes_back_what_has_come(rig: Rig, kind: str, back: str) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    killed(rig, "modify", "node2")
    if back == "startup":
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    else:
        rig.master.call("node1", "move-abort", datasets=names(kind), stay=True)
    marks = [Coming.parse(rig.knots["node2"].marks(f".moving/{name}")[MOVE]) for name in names(kind)]
    assert [mark.ready for mark in marks if mark is not None] == [""] * len(names(kind))
    if back == "abort":
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    go(rig)
    assert rig.content("web1") == DISKS[kind]


@KINDS
def test_what_node2_has_not_heard_of_is_told_with_its_age_before_it_lands(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    refused_switch(rig, kind, monkeypatch)
    lost(rig)
    monkeypatch.setattr(time, "time", lambda: 1_700_100_000.0)
    old = "web1: node1 is offline, and what has come from there is as of 2023-11-14 22:13 UTC: gnt-zfs move web1 node2 goes on$"
    with pytest.raises(ZfsGanetiError, match=old):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    said: list[str] = []
    go(rig, said=said)
    assert said[1] == "web1: what node2 has is as of 2023-11-14 22:13 UTC, what was written on node1 since is lost"


# what was stopped since


@KINDS
@pytest.mark.parametrize("starts", [True, False])
def test_the_end_of_a_move_says_that_it_starts_what_is_stopped(rig: Rig, kind: str, starts: bool) -> None:
    rig.ganeti.add("web1", kind, "node1", DISKS[kind])
    killed(rig, "move-leave", "node2")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    said: list[str] = []
    go(rig, said=said, start=starts)
    told = "web1: is stopped, and is started on node2 since it ran when it was moved; --no-start leaves it stopped"
    assert (told in said, rig.ganeti.data["web1"]["up"]) == (starts, starts)


@KINDS
def test_disks_that_a_start_refuses_as_stale_go_nowhere(rig: Rig, kind: str) -> None:
    """Fenced for node2 once, while the newest are on node3: neither node2 nor anywhere else is a way for them."""
    moved_twice(rig, kind)
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    rig.ganeti.data["web1"]["primary"] = "node1"
    with pytest.raises(CommandFailed, match="disks of it are on node3 as well, and which are newer is not known"):
        rig.ganeti.gnt("gnt-instance", "startup", "web1")
    with pytest.raises(ZfsGanetiError, match="disks of it are on node3 as well, and which are newer is not known"):
        go(rig, "node2")
    rig.ganeti.data["web1"]["primary"] = "node3"
    go(rig, "node2")
    assert rig.content("web1")[next(iter(DISKS[kind]))] == b"newest"


@KINDS
def test_disks_that_were_given_up_and_not_put_away_go_nowhere(rig: Rig, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ganeti.add("web1", kind, "node1", dict(list(DISKS[kind].items())[:1]))

    def die(*_words: object, **_options: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        for name in ("put", "put_volume"):
            patch.setattr(trash.Trash, name, die)
        with pytest.raises(Died):
            go(rig, "node2")
    rig.ganeti.gnt("gnt-instance", "shutdown", "web1")
    rig.ganeti.data["web1"]["primary"] = "node1"
    before = rig.knots["node1"].fake.state()
    for target in ("node2", "node3"):
        with pytest.raises(Refused, match="^web1: its newer disks are on node2: gnt-instance modify --new-primary=node2 web1$"):
            go(rig, target)
    assert rig.knots["node1"].fake.state() == before, "what tells of the newer ones is there yet"
