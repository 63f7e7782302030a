"""Transfers: what is to be sent, as a model of two histories, and pushes between fake nodes over a line that breaks anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deaths.images import holding
from tests.fakestreams import FakeStreams
from tests.fakezfs import FakeZfs
from tests.killing import dies
from tests.node import CLUSTER_NAME
from zfsganeti import exports, transfer
from zfsganeti.answer import VERBS, answer
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER, INSTANCE
from zfsganeti.errors import BadInput, BadName, Busy, CommandFailed, Conflict, Missing, NoSpace, Refused, Unavailable, ZfsGanetiError
from zfsganeti.files import content_digest
from zfsganeti.here import Here
from zfsganeti.image import CONTENT
from zfsganeti.node import PeerFailed
from zfsganeti.roots import Root
from zfsganeti.streams import Snap
from zfsganeti.transfer import Abandon, Full, Incremental, Nothing, Pushed, Resume, Step, plan, push

NAME = "debian-12:2026-11-01"
PLACED, PARTIAL = f"zfs/vm/.images/{NAME}", f"zfs/vm/.images/.partial/{NAME}"
MARKS = {"org.zfsganeti:image": "Debian 12", "org.zfsganeti:imported": "1700000000"}
FILES = {"disk": b"golden" * 500}


# what is to be done


def snaps(guids: str, first: int = 1) -> list[Snap]:
    return [Snap(f"s{guid}", guid, first + index) for index, guid in enumerate(guids)]


@pytest.mark.parametrize(
    ("source", "target", "token_guid", "step"),
    [
        ("abc", None, None, Full()),
        ("abc", "c", None, Nothing()),
        ("abc", "xcy", None, Nothing()),
        ("abc", "ab", None, Incremental("sb")),
        ("abc", "a", None, Incremental("sa")),
        ("abc", "xa", None, Incremental("sa")),
        ("abc", "", "c", Resume("t")),
        ("abc", "a", "c", Resume("t")),
        ("abc", "", "b", Abandon()),
        ("abc", "", "", Abandon()),
        ("abc", "c", "b", Nothing()),
    ],
)
def test_the_next_step(source: str, target: str | None, token_guid: str | None, step: Step) -> None:
    token = "" if token_guid is None else "t"
    assert plan(snaps(source), None if target is None else snaps(target, 50), "sc", token=token, token_guid=token_guid or "") == step


@pytest.mark.parametrize(
    ("source", "target", "evidence", "text"),
    [
        ("abc", "xy", ["sx", "sy"], "web1 on node2: exists and has no earlier snapshot in common (sx, sy)"),
        ("abc", "", [], "web1 on node2: exists and has no earlier snapshot in common"),
        ("abc", "axy", ["sx", "sy"], "web1 on node2: has snapshots newer than sa, the last in common (sx, sy)"),
        ("cab", "ab", ["sa", "sb"], "web1 on node2: exists and has no earlier snapshot in common (sa, sb)"),
    ],
)
def test_what_would_be_lost_is_said(source: str, target: str, evidence: list[str], text: str) -> None:
    with pytest.raises(Conflict) as caught:
        plan(snaps(source), snaps(target, 50), "sc", what="web1 on node2")
    assert (str(caught.value), caught.value.evidence, caught.value.exit_code) == (text, evidence, 5)


def test_a_snapshot_that_is_not_there_is_missing() -> None:
    with pytest.raises(Missing, match="^snapshot sd does not exist$"):
        plan(snaps("abc"), None, "sd")


class Model:
    """A target as ZFS treats it: what a step does to it, with a line that may break and leave a half."""

    def __init__(self, target: list[str] | None, half: str) -> None:
        self.target, self.half = target, half

    def snaps(self) -> list[Snap] | None:
        return None if self.target is None else snaps("".join(self.target), 50)

    def apply(self, step: Step, wanted: str, whole: bool) -> None:
        if isinstance(step, Full):
            assert self.target is None
            assert not self.half
            self.target = []
        elif isinstance(step, Incremental):
            assert self.target
            assert not self.half
            assert self.target[-1] == step.base[1:], "receive refuses what is not on top of the newest"
        elif isinstance(step, Resume):
            assert self.half == wanted
        elif isinstance(step, Abandon):
            assert self.half
            self.half = ""
            self.target = self.target or None
            return
        assert self.target is not None
        self.half = "" if whole else wanted
        if whole:
            self.target.append(wanted)


guids = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(guids, st.none() | guids, st.sampled_from(["", *"abcdefgh"]), st.data(), st.lists(st.booleans(), max_size=5))
def test_every_history_converges_or_conflicts_and_loses_nothing(
    source: list[str], target: list[str] | None, half: str, data: st.DataObject, breaks: list[bool]
) -> None:
    wanted = data.draw(st.sampled_from(source)) if source else "a"
    model = Model(target, half if target is not None and half not in target else "")
    before = list(target or [])
    for turn in range(20):
        token_guid = model.half if model.half in source else ""  # the source cannot send on what it does not have
        try:
            step = plan(snaps("".join(source)), model.snaps(), f"s{wanted}", token=model.half, token_guid=token_guid)
        except (Conflict, Missing):
            assert (model.target or [])[: len(before)] == before
            return
        if step == Nothing():
            break
        model.apply(step, wanted, turn >= len(breaks) or breaks[turn])
        assert (model.target or [])[: len(before)] == before
    assert wanted in (model.target or [])


# pushes


class Peer(Here):
    """A node of the fake cluster."""

    def __init__(self, place: Path, name: str, seed: int) -> None:
        super().__init__(lambda: VERBS)
        fake = FakeZfs(f"{place}/{name}/pool", seed=seed)
        self.fake, self.net = fake, FakeStreams(fake)
        ssconf = SimpleNamespace(cluster=CLUSTER_NAME, ssh=lambda peer: ["ssh", f"root@{peer}"])
        root = Root("zfs/vm", f"{place}/{name}/vm")
        fake.foreign(root.name, {CLUSTER: CLUSTER_NAME}, mountpoint=root.path)
        self.__dict__.update(
            node=name, config=Config(busy_seconds=0), ssconf=ssconf, zfs=fake, root=root, streams=self.net  # in place of what is looked up
        )  # fmt: skip
        self.peers: dict[str, Peer] = {}
        self.asked: list[str] = []

    def call(self, peer: str, verb: str, **request: Any) -> Any:
        self.asked.append(verb)
        said = json.loads(json.dumps(answer(self.peers[peer], verb, lambda: json.dumps(request))))
        if "error" in said:
            raise PeerFailed(peer, said["error"], said["code"])
        return said["answer"]

    def knows(self, peer: Peer) -> None:
        def door(verb: str, request: dict[str, Any], descriptor: int) -> dict[str, Any]:
            assert verb == "receive"
            try:
                return {"answer": transfer.receive(peer, request, descriptor)}
            except ZfsGanetiError as error:
                return {"error": str(error), "code": error.exit_code}

        self.peers[peer.node] = peer
        self.net.doors[peer.node] = door

    def has(self, name: str, files: dict[str, bytes], *shorts: str) -> str:
        self.fake.foreign(name)
        for file, content in files.items():
            Path(self.fake._filesystems[name].files, file).write_bytes(content)
        self.fake.snapshot([f"{name}@{short}" for short in shorts])
        return name


class Pair:
    def __init__(self, place: Path) -> None:
        self.here, self.there = Peer(place, "node1", 1000), Peer(place, "node2", 9000)
        self.here.knows(self.there)
        self.image = self.here.has("zfs/image", FILES, "golden")
        self.guid = self.here.net.snapshots(self.image)[0].guid
        self.told: list[tuple[str, int, int]] = []

    def push(self, name: str = NAME, marks: dict[str, str] | None = None) -> Pushed:
        result = push(
            self.here, ["node2"], self.image, "golden", "image", name, marks=marks or MARKS, progress=lambda *words: self.told.append(words)
        )["node2"]
        if isinstance(result, ZfsGanetiError):
            raise result
        return result

    def arrived(self) -> None:
        """The peer has the image, whole, marked and out of reach of mounts, and nothing is half received."""
        state = self.there.fake.state()
        assert sorted(state) == ["zfs", "zfs/vm", "zfs/vm/.images", "zfs/vm/.images/.partial", PLACED]
        assert state[PLACED]["marks"] == {**MARKS, CLUSTER: CLUSTER_NAME}
        assert state[PLACED]["properties"] == {"canmount": "noauto", "readonly": "on"}
        assert state[PLACED]["snapshots"] == {"golden": FILES}
        assert (state[PLACED]["files"], state[PLACED]["mounted"]) == (FILES, [])
        assert [snap.guid for snap in self.there.net.snapshots(PLACED)] == [self.guid]
        assert state["zfs/vm/.images"]["properties"] == state["zfs/vm/.images/.partial"]["properties"] == {"canmount": "off"}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_push_brings_the_whole_image(pair: Pair) -> None:
    done = pair.push()
    pair.arrived()
    assert (done.peer, done.step) == ("node2", Full())
    assert pair.told == [("node2", done.moved, done.moved)]
    assert done.moved > 2000


def test_a_root_that_is_encrypted_gets_an_image_without_embedded_data(pair: Pair) -> None:
    """Which nearly every pool has, and which ZFS receives into nothing that is encrypted."""
    pair.there.fake._filesystems["zfs/vm"].properties["encryption"] = "aes-256-gcm"
    pair.push()
    pair.arrived()


def test_what_is_encrypted_is_not_pushed_to_a_root_that_is_not(pair: Pair) -> None:
    """A move refuses that as well: the guest's data would lie open there, and nobody had said so."""
    pair.here.fake._filesystems[pair.image].properties["encryption"] = "aes-256-gcm"
    said = f"^image {NAME}: is encrypted, and its root on node2 is not: gnt-zfs image import makes one there that is not$"
    before = pair.there.fake.state()
    with pytest.raises(Refused, match=said):
        pair.push()
    assert pair.there.fake.state() == before
    assert not pair.here.net.sent
    pair.there.fake._filesystems["zfs/vm"].properties["encryption"] = "aes-256-gcm"
    pair.push()
    pair.here.net.sent.clear()
    del pair.there.fake._filesystems["zfs/vm"].properties["encryption"]
    assert pair.push() == Pushed("node2", Nothing(), 0)  # it is there, nothing is sent


def test_a_push_of_what_is_there_moves_nothing_and_changes_nothing(pair: Pair) -> None:
    pair.push()
    before = pair.there.fake.state()
    assert pair.push(marks={"org.zfsganeti:image": "another"}) == Pushed("node2", Nothing(), 0)
    assert pair.there.fake.state() == before
    assert len(pair.here.net.sent) == 1


def test_a_push_that_broke_off_goes_on(pair: Pair) -> None:
    pair.here.net.cut = [1500]
    with pytest.raises(Unavailable, match=r"^node2: cannot be reached \(broken\): the same command goes on from where it was$"):
        pair.push()
    assert pair.there.net.token(PARTIAL)
    done = pair.push()
    pair.arrived()
    assert isinstance(done.step, Resume)
    assert done.moved < 3000


def test_what_is_half_there_of_another_snapshot_is_given_up(pair: Pair) -> None:
    pair.here.net.cut = [1500]
    other = pair.here.has("zfs/other", {"disk": b"other" * 500}, "golden")
    assert isinstance(push(pair.here, ["node2"], other, "golden", "image", NAME)["node2"], Unavailable)
    assert pair.push().step == Full()
    pair.arrived()


def test_a_half_that_the_sender_cannot_continue_is_given_up(pair: Pair) -> None:
    pair.here.net.cut = [1500]
    with pytest.raises(Unavailable):
        pair.push()
    pair.there.fake._must(PARTIAL).token = "1-2-3-4"
    assert pair.push().step == Full()
    pair.arrived()


def test_a_token_refused_at_the_last_moment_is_given_up_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.here.net.cut = [1500]
    with pytest.raises(Unavailable):
        pair.push()
    pump = pair.here.net.pump

    def refuses(peer: str, send: list[str], *words: Any, **options: Any) -> Any:
        if "-t" in send:
            raise CommandFailed("zfs send -t", 255, "cannot resume send")
        return pump(peer, send, *words, **options)

    monkeypatch.setattr(pair.here.net, "pump", refuses)
    assert pair.push().step == Full()
    pair.arrived()


def test_something_complete_that_was_never_put_in_place_is_replaced(pair: Pair) -> None:
    pair.here.fake.snapshot(["zfs/image@later"])
    other = pair.here.has("zfs/other", {"disk": b"other"}, "golden")
    with pytest.raises(PeerFailed, match="cannot be set"):
        raise_it(push(pair.here, ["node2"], other, "golden", "image", NAME, marks={INSTANCE: "web1"}))
    assert pair.there.net.snapshots(PARTIAL)
    assert pair.push().step == Full()
    pair.arrived()


def receive_and_snapshot(pair: Pair, image: str) -> None:
    """An image is on the peer, whole and not put in its place, for its sender is gone; somebody has taken a snapshot of it."""
    for node in (pair.here, pair.there):
        if node.fake.mounted_at(node.root.path) is None:
            node.fake.mount(node.root.name, node.root.path)
    with pytest.raises(PeerFailed, match="cannot be set"):
        raise_it(push(pair.here, ["node2"], image, "golden", "image", NAME, marks={INSTANCE: "web1"}))
    pair.there.fake.snapshot([f"{PARTIAL}@autosnap_hourly"])


def test_an_image_gets_its_place_whatever_others_took_of_it_before(pair: Pair, tmp_path: Path) -> None:
    """What disks are made of is what was sent; what others took of it is as in any image's way, and no more."""

    def fill(home: str) -> dict[str, str]:
        return {**holding()(home), CONTENT: content_digest(f"{home}/disk.raw", lambda *_progress: None)}

    pair.here.fake.mount(pair.here.root.name, pair.here.root.path)
    sent = pair.here.images.make(NAME, "file:/x", fill)
    receive_and_snapshot(pair, sent.dataset)
    assert push(pair.here, ["node2"], sent.dataset, "golden", "image", NAME, marks=sent.provenance) == {
        "node2": Pushed("node2", Nothing(), 0)
    }
    images, third = pair.there.images, Peer(tmp_path, "node3", 20000)
    came = images.must(NAME)
    assert (came.guid, came.provenance) == (sent.guid, sent.provenance)
    assert [snap.name for snap in pair.there.net.snapshots(PLACED)] == ["golden", "autosnap_hourly"]
    exports.verify(images, NAME)
    images.clone(came, "zfs/vm/web1", {})
    assert [dataset.origin for dataset in pair.there.fake.datasets("zfs/vm/web1", depth=0)] == [f"{PLACED}@golden"]
    pair.there.fake.destroy("zfs/vm/web1", {})
    pair.there.knows(third)
    raise_it(push(pair.there, ["node3"], PLACED, "golden", "image", NAME, marks=came.provenance))
    assert third.images.must(NAME).guid == sent.guid
    with pytest.raises(Busy, match="has 1 snapshot that somebody took, such as autosnap_hourly: .* --with-snapshots"):
        images.delete(NAME, now=True)
    assert images.delete(NAME, now=True, with_snapshots=True)


@pytest.mark.parametrize("way", ["delete", "import", "sweep"])
def test_what_was_never_put_in_its_place_goes_with_what_others_took_of_it(pair: Pair, way: str) -> None:
    receive_and_snapshot(pair, pair.image)
    images = pair.there.images
    if way == "delete":
        images.drop_half_made(NAME)
    elif way == "import":
        assert images.make(NAME, "file:/x", holding()).source == "file:/x"
    else:
        images.store.now = lambda: float(pair.there.fake.clock)
        assert images.sweep() == []
        pair.there.fake.clock += 86400
        assert images.sweep() == [f".partial/{NAME}"]
    assert pair.there.fake.get(PARTIAL) is None


def test_a_snapshot_that_others_took_is_not_what_was_sent(pair: Pair) -> None:
    receive_and_snapshot(pair, pair.image)
    taken = pair.there.net.snapshots(PARTIAL)[-1]
    with pytest.raises(Conflict, match="is not the one that was sent"):
        transfer.receive_done(pair.there, {"kind": "image", "name": NAME, "guid": taken.guid, "marks": MARKS})
    assert pair.there.fake.get(PLACED) is None


def test_two_images_come_at_once_to_a_node_that_never_had_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    create = pair.there.fake.create

    def late(*arguments: Any) -> None:
        create(*arguments)  # the other one has been quicker
        create(*arguments)

    monkeypatch.setattr(pair.there.fake, "create", late)
    pair.push()
    pair.arrived()
    assert pair.there.fake.state()["zfs/vm/.images"]["marks"] == {CLUSTER: CLUSTER_NAME}


def test_what_an_import_that_was_killed_has_left_mounted_is_replaced(pair: Pair) -> None:
    def killed(_home: str) -> dict[str, str]:
        raise SystemExit

    with pytest.raises(SystemExit):
        pair.there.images.make(NAME, "file:/x", killed)
    assert [mount.dataset for mount in pair.there.fake.mounts()] == [PARTIAL]
    assert pair.push().step == Full()
    pair.arrived()


def test_what_others_have_mounted_in_the_place_of_a_half_stays_mounted(pair: Pair) -> None:
    for name in ("zfs/vm/.images", "zfs/vm/.images/.partial", PARTIAL):
        pair.there.fake.foreign(name)
    pair.there.fake.mount(PARTIAL, f"{pair.there.root.path}/theirs")
    with pytest.raises(PeerFailed, match="is not ours as expected"):
        pair.push()
    assert [mount.dataset for mount in pair.there.fake.mounts()] == [PARTIAL]


def raise_it(results: dict[str, Pushed | ZfsGanetiError]) -> None:
    for result in results.values():
        if isinstance(result, ZfsGanetiError):
            raise result


def test_another_image_of_the_name_is_left_alone(pair: Pair) -> None:
    pair.push()
    other = pair.here.has("zfs/other", {"disk": b"other"}, "golden")
    text = f"image {NAME} on node2: exists and is another one (golden): choose another name or remove it there"
    with pytest.raises(Conflict) as caught:
        raise_it(push(pair.here, ["node2"], other, "golden", "image", NAME))
    assert str(caught.value) == text
    pair.arrived()


def test_a_peer_without_room_is_not_begun_with(pair: Pair) -> None:
    pair.there.fake.available = 4100  # of which 5% are kept
    assert pair.here.net.size(["zfs", "send", f"{pair.image}@golden"]) < 4100, "it would fit otherwise"
    with pytest.raises(NoSpace) as caught:
        pair.push()
    way_out = "5% are kept free there, gnt-zfs trash empty may make room"
    assert re.fullmatch(rf"image {NAME} on node2: .*K asked for, 3\.80K available: {way_out}", str(caught.value))
    assert sorted(pair.there.fake.state()) == ["zfs", "zfs/vm"]


def test_what_is_mounted_is_not_put_in_place(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    done = transfer.receive_done
    monkeypatch.setitem(
        transfer.VERBS, "receive-done", lambda here, request: (here.zfs.mount(PARTIAL, f"{here.root.path}/x"), done(here, request))
    )
    with pytest.raises(PeerFailed, match="is mounted at") as caught:
        pair.push()
    assert caught.value.exit_code == Busy.exit_code
    assert pair.there.fake.get(PLACED) is None


@pytest.mark.parametrize(("mark", "said"), [("retired", "retired"), ("deleted", "deleted")])
def test_what_nobody_can_use_there_is_no_success(pair: Pair, mark: str, said: str) -> None:
    pair.push()
    pair.there.fake.set(PLACED, {f"org.zfsganeti:{mark}": "1"})
    with pytest.raises(Refused) as caught:
        pair.push()
    assert str(caught.value) == f"node2: has {NAME}, but it is {said} there: gnt-zfs image restore {NAME} on node2 takes that back"


def test_a_partial_of_others_is_not_destroyed(pair: Pair) -> None:
    for name in ("zfs/vm/.images", "zfs/vm/.images/.partial", PARTIAL):
        pair.there.fake.foreign(name)
    pair.there.fake.snapshot([f"{PARTIAL}@mine"])
    with pytest.raises(PeerFailed, match="is not ours as expected"):
        pair.push()
    assert list(pair.there.fake.state()[PARTIAL]["snapshots"]) == ["mine"]


def test_two_pushes_of_one_name_do_not_mix(pair: Pair) -> None:
    request = {"kind": "image", "name": NAME}
    with transfer.Place(pair.there, request).alone(), pytest.raises(PeerFailed, match="is being received already: wait for that"):
        pair.push()
    pair.push()
    pair.arrived()


def test_a_stream_for_what_has_changed_meanwhile_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.here.net.cut = [1500, 1000]
    with pytest.raises(Unavailable):
        pair.push()
    pump = pair.here.net.pump

    def overtaken(*words: Any, **options: Any) -> Any:
        monkeypatch.setattr(pair.here.net, "pump", pump)
        with pytest.raises(Unavailable):
            pair.push()
        return pump(*words, **options)

    monkeypatch.setattr(pair.here.net, "pump", overtaken)
    with pytest.raises(PeerFailed, match="has changed since the stream was begun: the same command goes on from where it was"):
        pair.push()
    assert isinstance(pair.push().step, Resume)
    pair.arrived()


def test_every_peer_has_its_own_result(pair: Pair, tmp_path: Path) -> None:
    third = Peer(tmp_path, "node3", 5000)
    third.fake.available = 0
    pair.here.knows(third)
    found = push(pair.here, ["node2", "node3", "node1"], pair.image, "golden", "image", NAME, marks=MARKS)
    assert list(found) == ["node2", "node3", "node1"]
    assert isinstance(found["node2"], Pushed)
    assert isinstance(found["node3"], NoSpace)
    assert str(found["node1"]) == "node node1: is this one, which has it"
    pair.arrived()


def test_a_snapshot_that_is_not_here_is_missing(pair: Pair) -> None:
    with pytest.raises(Missing, match="^snapshot silver does not exist$"):
        raise_it(push(pair.here, ["node2"], pair.image, "silver", "image", NAME))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4200), max_size=5))
def test_wherever_the_line_breaks_the_next_push_ends_it(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    place = tmp_path_factory.mktemp("pair")
    pair = Pair(place)
    pair.here.net.cut = list(cuts)
    for _turn in range(len(cuts) + 1):
        try:
            pair.push()
        except (Unavailable, PeerFailed):
            continue
    pair.arrived()
    assert sum(1 for send in pair.here.net.sent if "-t" not in send) <= 1 + sum(1 for cut in cuts if cut < 100)


def test_wherever_the_peer_dies_the_next_push_ends_it(tmp_path: Path) -> None:
    def begin(name: str, before: Callable[[Pair], object]) -> Pair:
        (tmp_path / name).mkdir()
        pair = Pair(tmp_path / name)
        before(pair)
        return pair

    def half(pair: Pair) -> None:
        pair.here.net.cut = [1500]
        with pytest.raises(Unavailable):
            pair.push()

    def half_of_another(pair: Pair) -> None:
        half(pair)
        pair.there.fake._must(PARTIAL).token = "1-2-3-4"

    for number, before in enumerate((lambda _pair: None, half, half_of_another)):
        point, died = 0, True
        while died:
            point += 1
            pair = begin(f"{number}-{point}", before)
            died = dies(pair.there.fake.reaper, point, pair.push)
            pair.push()
            pair.arrived()
        assert point > 5


# what a peer may not ask


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"kind": "image"},
        {"kind": "image", "name": 3},
        {"kind": "instance", "name": "web1"},
        {"kind": "image", "name": "../vm"},
        {"kind": "image", "name": ".partial"},
        {"kind": "image", "name": "a/b"},
        {"kind": "image", "name": "a@b"},
    ],
)
@pytest.mark.parametrize("verb", ["receive", "receive-state", "receive-done", "receive-abort"])
def test_nothing_but_a_kind_and_a_name_leads_to_a_place(pair: Pair, verb: str, request_: dict[str, Any]) -> None:
    with pytest.raises((BadInput, BadName)):
        transfer.VERBS[verb](pair.there, {"seconds": 5, **request_})
    assert sorted(pair.there.fake.state()) == ["zfs", "zfs/vm"]


@pytest.mark.parametrize(
    "marks",
    [
        None,
        [],
        {INSTANCE: "web1"},
        {CLUSTER: "x"},
        {"mountpoint": "/"},
        {"com.x:y": "z"},
        {"org.zfsganeti:a=b": "x"},
        {"org.zfsganeti:a": 3},
        {"org.zfsganeti:a": "x\ny"},
    ],
)
def test_no_mark_makes_an_image_anything_else(pair: Pair, marks: Any) -> None:
    with pytest.raises(BadInput):
        transfer.receive_done(pair.there, {"kind": "image", "name": NAME, "guid": "1", "marks": marks})


@pytest.mark.parametrize("seconds", [None, "5", 0, 1e9])
def test_a_time_is_a_time(pair: Pair, seconds: Any) -> None:
    with pytest.raises(BadInput):
        transfer.receive(pair.there, {"kind": "image", "name": NAME, "seconds": seconds}, -1)


def test_only_what_was_asked_for_is_put_in_place(pair: Pair) -> None:
    request = {"kind": "image", "name": NAME, "guid": "1", "marks": {}}
    with pytest.raises(Missing):
        transfer.receive_done(pair.there, request)
    pair.push()
    with pytest.raises(Conflict, match="is not the one that was sent"):
        transfer.receive_done(pair.there, request)
    assert transfer.receive_done(pair.there, {**request, "guid": pair.guid}) is None
    assert transfer.receive_abort(pair.there, request) is None
    with pytest.raises(Conflict, match="exists already"):
        transfer.receive(pair.there, {**request, "seconds": 5}, -1)
    pair.arrived()
