"""`gnt-zfs image` on a cluster of fake nodes: what is done on which of them, and what is said of it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from tests.deaths.images import holding
from tests.node import CLUSTER_NAME
from tests.unit.test_transfer import Peer
from zfsganeti import answer, exports, image_cli, process, transfer, variants
from zfsganeti.cli import parser
from zfsganeti.datasets import CLUSTER, INSTANCE, VOLUME
from zfsganeti.errors import BadInput, Busy, Missing, Refused, Unavailable, ZfsGanetiError
from zfsganeti.image import CHECKSUM
from zfsganeti.terminal import Meter

NODES = ["node1", "node2", "node3"]


class Cluster:
    """Three nodes; node1 and node2 have the image debian-12. Commands are typed on node1."""

    def __init__(self, place: Path) -> None:
        self.nodes = {name: Peer(place, name, 1000 * number) for number, name in enumerate(NODES)}
        self.silent: set[str] = set()
        for peer in self.nodes.values():
            known = SimpleNamespace(**vars(peer.ssconf), nodes=NODES, offline_nodes=[])
            peer.__dict__["ssconf"] = known
            peer.store.now = lambda peer=peer: float(peer.fake.clock)  # type: ignore[misc]
            for other in self.nodes.values():
                peer.knows(other)
        here = self.nodes["node1"]
        call = here.call

        def ask(peer: str, verb: str, **request: Any) -> Any:
            if peer in self.silent:
                raise Unavailable(peer, "does not answer")
            return call(peer, verb, **request)

        here.__dict__["call"] = ask
        for node in NODES[:2]:
            self.make(node, "debian-12")

    def make(self, node: str, name: str) -> None:
        peer = self.nodes[node]
        if peer.fake.mounted_at(peer.root.path) is None:
            peer.fake.mount(peer.root.name, peer.root.path)
        peer.images.make(name, "file:/x", holding())

    def type(self, *words: str) -> int:
        options = parser().parse_args(["image", *words])
        status: int = options.run(self.nodes["node1"], options)
        return status

    def having(self, name: str, **wanted: Any) -> list[str]:
        rows = {node: [image.as_json() for image in peer.images.all()] for node, peer in self.nodes.items()}
        return [
            node
            for node, images in rows.items()
            for row in images
            if row["name"] == name and all(bool(row[key]) == value for key, value in wanted.items())
        ]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(variants, "LIST", str(tmp_path / "variants.list"))
    monkeypatch.setattr(variants, "write", lambda _names: False)  # all of them would write the same one
    return Cluster(tmp_path)


def test_what_is_done_on_one_node_says_who_else_has_the_image(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.type("retire", "debian-12") == 0
    assert capsys.readouterr().out.splitlines() == [
        "No more disks are made of debian-12; gnt-zfs image restore debian-12 takes that back.",
        "node2 has debian-12 as it was: gnt-zfs image retire debian-12 --all-nodes does it there, too.",
    ]
    assert cluster.having("debian-12", retired=True) == ["node1"]
    assert cluster.type("restore", "debian-12") == 0
    assert capsys.readouterr().out == "Disks can be made of debian-12 again.\n"
    with pytest.raises(ZfsGanetiError, match="image debian-14 on this node does not exist"):
        raise_last(cluster, capsys, "retire", "debian-14")


def raise_last(cluster: Cluster, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    status = cluster.type(*words)
    said = capsys.readouterr().err.strip()
    assert status
    assert "\n" not in said
    raise ZfsGanetiError(said)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["retire", "debian-12"], {"retired": True}),
        (["delete", "debian-12"], {"deleted": True}),
    ],
)
def test_every_node_that_has_the_image_does_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], words: list[str], left: dict[str, bool]
) -> None:
    assert cluster.type(*words, "--all-nodes") == 0
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["node1", "node2"]
    assert said.err == ""
    assert cluster.having("debian-12", **left) == ["node1", "node2"]
    assert cluster.type("restore", "debian-12", "--all-nodes") == 0
    assert cluster.having("debian-12", retired=False, deleted=False) == ["node1", "node2"]
    assert cluster.type("rename", "debian-12", "bookworm", "--all-nodes") == 0
    assert cluster.having("bookworm") == ["node1", "node2"]
    assert cluster.type("delete", "bookworm", "--all-nodes", "--now", "--yes") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["node1: bookworm is gone.", "node2: bookworm is gone."]


def test_a_node_that_fails_keeps_no_other_from_it(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.make("node3", "debian-12")
    cluster.silent = {"node3"}
    peer = cluster.nodes["node2"]
    peer.images.clone(peer.images.must("debian-12"), "zfs/vm/web1", {})
    cluster.nodes["node1"].fake.snapshot(["zfs/vm/.images/debian-12@autosnap"])
    assert cluster.type("delete", "debian-12", "--all-nodes", "--now", "--yes") == 6
    said = capsys.readouterr()
    assert said.out.startswith("node2: debian-12 has 1 clone, such as web1: it goes as soon as the last of them has gone; ")
    assert "node1: image debian-12: has 1 snapshot that somebody took, such as autosnap: " in said.err
    assert "node3: does not answer" in said.err
    assert cluster.having("debian-12", deleted=True) == ["node2"]
    assert cluster.type("delete", "debian-12", "--with-snapshots", "--now", "--yes") == 0
    assert capsys.readouterr().out.startswith("debian-12 is gone.")


def test_a_deleted_image_that_cannot_go_is_shown_as_such(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.type("delete", "debian-12")
    here = cluster.nodes["node1"]
    here.fake.snapshot(["zfs/vm/.images/debian-12@autosnap"])
    here.fake.clock += 8 * 86400
    capsys.readouterr()
    for words in (("list",), ("show", "debian-12")):
        cluster.type(*words)
        assert "cannot go: has 1 snapshot that somebody took, such as autosnap" in capsys.readouterr().out


def test_an_image_that_is_half_there_is_shown_and_told_of(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = cluster.nodes["node1"], cluster.nodes["node3"]
    there.fake.mount(there.root.name, there.root.path)
    here.net.cut = [3000]
    assert cluster.type("push", "debian-12", "node3") == 3
    capsys.readouterr()
    assert cluster.type("list", "--all-nodes") == 0
    titles, *_whole, half = capsys.readouterr().out.splitlines()
    assert titles.split()[:5] == ["IMAGE", "SIZE", "CLONES", "GUID", "NODES"]
    assert re.fullmatch(r"debian-12 +- +- +- +node3 +cut at \d+%, image pull goes on until 2023-11-15 22:13", half)
    (arrival,) = there.images.arriving()
    assert (arrival["source"], arrival["moving"]) == ("", False)
    with pytest.raises(Missing, match="gnt-zfs image push debian-12 on a node that has it brings it here$"):
        there.images.resolve("debian-12")
    assert cluster.type("list", "--all-nodes", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["node"], row["state"].split(" ")[0], bool(row["guid"])) for row in rows] == [
        ("node1", "ready", True),
        ("node2", "ready", True),
        ("node3", "cut", False),
    ]
    assert len({frozenset(row) for row in rows}) == 1, "all have the same keys"
    with there.images._alone("debian-12"):
        assert cluster.type("list", "--all-nodes") == 0
        assert re.search(r"node3 +arriving, \d+%$", capsys.readouterr().out.strip())
        said = "it is arriving, 0B of it are here: gnt-zfs image list on this node shows when it is ready"
        with pytest.raises(Missing) as caught:
            there.images.resolve("debian-12")
        assert str(caught.value) == f"image debian-12 on this node does not exist: {said}"
    assert cluster.type("push", "debian-12", "node3") == 0
    assert there.images.arriving() == []


def test_an_import_that_was_cut_is_shown(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    def unreachable(_home: str) -> dict[str, str]:
        assert cluster.type("list") == 0
        raise Unavailable("example.com", "cannot be reached")

    with pytest.raises(Unavailable):
        cluster.nodes["node1"].images.make("debian-13", "http://example.com/x", unreachable)
    assert re.search(r"debian-13 .* being made +http://example.com/x\n", capsys.readouterr().out)
    assert cluster.type("list") == 0
    assert re.search(r"cut, the same import goes on until 20.* +http://example.com/x\n", capsys.readouterr().out)


def test_an_image_that_is_fetched_is_not_fetched_twice(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(process, "background", lambda *words: started.append(words))
    there = cluster.nodes["node3"]
    there.config.image_pull = 1
    for _twice in range(2):
        with pytest.raises(Missing) as caught:
            there.images.resolve("debian-12")
        assert "it is being brought here now if another node has it" in str(caught.value)
        assert str(caught.value).endswith("gnt-zfs image pull debian-12 what is in the way")
    assert started == [("image", "pull", "debian-12", "--datastore", "")] * 2
    cluster.nodes["node1"].net.cut = [3000]
    assert cluster.type("push", "debian-12", "node3") == 3
    with there.images._alone("debian-12"), pytest.raises(Missing, match="it is arriving"):
        there.images.resolve("debian-12")
    assert len(started) == 2


def test_a_peer_that_has_it_out_of_use_is_told_of(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    there = cluster.nodes["node3"]
    there.fake.mount(there.root.name, there.root.path)
    assert cluster.type("push", "debian-12", "node3") == 0
    there.images.delete("debian-12")
    capsys.readouterr()
    assert cluster.type("push", "debian-12", "node3") == 5
    said = "node3: has debian-12, but it is deleted there: gnt-zfs image restore debian-12 on node3 takes that back"
    assert capsys.readouterr().err == f"gnt-zfs: {said}\n"
    cluster.nodes["node3"].images.restore("debian-12")
    cluster.nodes["node1"].images.retire("debian-12")
    cluster.nodes["node2"].images.delete("debian-12")
    with pytest.raises(
        ZfsGanetiError, match="node1: has debian-12, but it is retired there: gnt-zfs image restore debian-12 on node1 takes"
    ):
        cluster.type("pull", "debian-12")


def test_nothing_is_begun_that_cannot_be_done_everywhere(cluster: Cluster) -> None:
    cluster.make("node2", "bookworm")
    with pytest.raises(Refused, match="^image bookworm: exists already on node2: choose another name$"):
        cluster.type("rename", "debian-12", "bookworm", "--all-nodes")
    with pytest.raises(Missing, match="^image debian-14 on any node that answers does not exist$"):
        cluster.type("retire", "debian-14", "--all-nodes")
    assert cluster.having("debian-12") == ["node1", "node2"]


def share(cluster: Cluster) -> None:
    """node1 and node2 have the same image debian-13."""
    cluster.make("node1", "debian-13")
    assert cluster.type("push", "debian-13", "node2") == 0


RENAME = ("rename", "debian-13", "trixie")
EVERYWHERE = (*RENAME, "--all-nodes")


def test_what_is_renamed_here_is_renamed_everywhere_by_what_is_said_then(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    share(cluster)
    capsys.readouterr()
    assert cluster.type(*RENAME) == 0
    assert capsys.readouterr().out.splitlines() == [
        "debian-13 is called trixie now.",
        "node2 has debian-13 as it was: gnt-zfs image rename debian-13 trixie --all-nodes does it there, too.",
    ]
    assert cluster.type(*EVERYWHERE) == 0
    assert capsys.readouterr().out == "node2: debian-13 is called trixie now.\n"
    assert cluster.having("trixie") == ["node1", "node2"]


@pytest.mark.parametrize("imported", [False, True])
def test_a_rename_everywhere_that_one_node_has_missed_is_repeated(cluster: Cluster, imported: bool) -> None:
    """Also of an image that each node has imported for itself: it has two GUIDs, and one checksum."""
    if imported:
        for node in NODES[:2]:
            cluster.make(node, "debian-13")
            cluster.nodes[node].fake.set("zfs/vm/.images/debian-13", {CHECKSUM: "1f40fc92"})
    else:
        share(cluster)
    cluster.silent = {"node2"}
    assert cluster.type(*EVERYWHERE) == 3
    assert (cluster.having("debian-13"), cluster.having("trixie")) == (["node2"], ["node1"])
    cluster.silent = set()
    assert cluster.type(*EVERYWHERE) == 0
    assert (cluster.having("debian-13"), cluster.having("trixie")) == ([], ["node1", "node2"])


def test_a_name_that_another_image_has_elsewhere_is_given_to_none_at_once(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    share(cluster)
    cluster.make("node3", "trixie")
    with pytest.raises(Refused) as caught:
        cluster.type(*EVERYWHERE)
    assert str(caught.value) == (
        "image trixie: is another one than debian-13 on node3: choose another name, "
        "or gnt-zfs image rename debian-13 trixie on each node by itself"
    )
    assert cluster.having("debian-13") == ["node1", "node2"]
    capsys.readouterr()
    assert cluster.type(*RENAME) == 0
    said = "node2 has debian-13 as it was: gnt-zfs image rename debian-13 trixie on node2 does it, too."
    assert capsys.readouterr().out.splitlines()[1:] == [said]


def test_who_cannot_rename_it_is_not_told_of(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    share(cluster)
    cluster.make("node2", "trixie")
    capsys.readouterr()
    assert cluster.type(*RENAME) == 0
    assert capsys.readouterr().out == "debian-13 is called trixie now.\n"
    with pytest.raises(Refused, match="^image trixie: exists already on node2: choose another name$"):
        cluster.type(*EVERYWHERE)


def test_one_datastore_may_have_either_name() -> None:
    old = {"node1": [{"datastore": "ssd", "guid": "1", "sha256": ""}], "node2": [{"datastore": "", "guid": "1", "sha256": ""}]}
    new = {"node1": [{"datastore": "", "guid": "1", "sha256": ""}]}
    assert (image_cli._having_both(old, new), image_cli._having_another(old, new)) == ([], [])
    assert image_cli._having_both(old, {"node1": old["node1"]}) == ["node1"]
    assert image_cli._having_another(old, {"node3": [{"datastore": "", "guid": "2", "sha256": ""}]}) == ["node3"]


def test_the_newest_that_is_used_is_fetched_with_its_progress(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cli, "POLL_SECONDS", 0.01)
    for name in ("debian-13:1", "debian-13:2"):
        cluster.make("node2", name)
        cluster.nodes["node2"].fake.clock += 10
    cluster.nodes["node2"].images.retire("debian-13:2")
    here, told = cluster.nodes["node1"], list[tuple[Any, ...]]()
    monkeypatch.setattr(Meter, "__call__", lambda _meter, *step: told.append(step))
    push = answer.VERBS["image-push"]

    def slowly(node: Any, request: dict[str, Any]) -> Any:
        for parent in ("zfs/vm/.images/.partial", "zfs/vm/.images/.partial/debian-13:1"):
            with contextlib.suppress(Refused):
                here.fake.create(parent, {}, {CLUSTER: CLUSTER_NAME})
        while not told:
            time.sleep(0.01)
        here.fake.destroy("zfs/vm/.images/.partial/debian-13:1", {})
        return push(node, request)

    monkeypatch.setitem(answer.VERBS, "image-push", slowly)
    assert cluster.type("pull", "debian-13") == 0
    assert capsys.readouterr().out == "debian-13:1 is on node1 now, from node2.\n"
    assert cluster.having("debian-13:1") == ["node1", "node2"]
    assert (told[0][0], told[0][2]) == ("receive", cluster.nodes["node2"].images.must("debian-13:1").referenced)


def test_who_interrupts_a_pull_does_not_wait_for_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cli, "POLL_SECONDS", 0.01)
    ended = Event()

    def interrupted(_here: Any, _request: dict[str, Any]) -> Any:
        raise KeyboardInterrupt

    cluster.make("node2", "debian-13")
    monkeypatch.setitem(answer.VERBS, "image-push", lambda _here, _request: ended.wait(30))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(answer.VERBS, "image-arrivals", interrupted)
        cluster.type("pull", "debian-13")
    assert not ended.is_set()
    ended.set()


def test_a_pull_that_fails_is_told_of(cluster: Cluster) -> None:
    cluster.make("node2", "debian-13")
    cluster.nodes["node1"].fake.available = 0
    with pytest.raises(ZfsGanetiError, match="image debian-13 on node1: .* 5% are kept free there"):
        cluster.type("pull", "debian-13")


def test_pushes_to_several_nodes_are_one_line() -> None:
    told = list[tuple[str, int, int]]()
    progress = image_cli._together(lambda *step: told.append(step), ["node2.example.com", "node3.example.com"])
    progress("node2.example.com", 1, 10)
    progress("node3.example.com", 2, 10)
    progress("node2.example.com", 10, 10)
    assert told == [("to node2, node3", 1, 10), ("to node2, node3", 3, 20), ("to node2, node3", 12, 20)]


def test_a_push_names_each_node_once_and_says_when_there_is_none(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def push(_here: Any, peers: list[str], *_what: Any, **_how: Any) -> dict[str, Any]:
        asked.extend(peers)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "push", push)
        assert cluster.type("push", "debian-12", "node3", "node2", "node3") == 0
    assert asked == ["node3", "node2"]
    cluster.nodes["node1"].ssconf.offline_nodes[:] = ["node2", "node3"]
    assert cluster.type("push", "debian-12") == 0
    assert capsys.readouterr().out == "There is no other node online: debian-12 was sent to none.\n"


@pytest.mark.parametrize("words", [("show",), ("verify",), ("export",)])
def test_one_looks_at_the_newest_unless_one_is_called_so(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str]
) -> None:
    here = cluster.nodes["node1"]
    for name in ("debian-13:1", "debian-13:2", "debian-13:3", "debian-12:9"):
        cluster.make("node1", name)
        here.fake.clock += 10
    here.images.retire("debian-13:3")
    for wanted, meant in (("debian-13", "debian-13:2"), ("debian-13:1", "debian-13:1"), ("debian-12", "debian-12")):
        more = [str(tmp_path / f"{wanted}.raw")] if words == ("export",) else []
        if words == ("verify",):
            with pytest.raises(BadInput, match=f"^image {meant}: its checksum was not recorded$"):
                cluster.type(*words, wanted)
            continue
        assert cluster.type(*words, wanted, *more) == 0
        assert re.search(rf"(^image: +| holds ){meant}( as raw\.)?$", capsys.readouterr().out, re.MULTILINE)
    here.images.retire("debian-13:1")
    here.images.retire("debian-13:2")
    assert cluster.type("show", "debian-13") == 0
    assert "debian-13:3" in capsys.readouterr().out
    assert cluster.type("delete", "debian-13") == 4


def test_what_has_come_of_an_image_that_is_not_whole_can_be_destroyed(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cluster.nodes["node1"]

    def unreachable(_home: str) -> dict[str, str]:
        with pytest.raises(ZfsGanetiError, match="is being made or received at this moment") as caught:
            cluster.type("delete", "debian-13", "--yes")
        assert caught.value.exit_code == 6
        raise Unavailable("example.com", "cannot be reached")

    with pytest.raises(Unavailable):
        here.images.make("debian-13", "http://example.com/x", unreachable)
    assert [each["name"] for each in here.images.arriving()] == ["debian-13"]
    monkeypatch.setattr(image_cli, "confirm", lambda _question: False)
    assert cluster.type("delete", "debian-13") == 1
    assert capsys.readouterr().out == "Nothing was changed.\n"
    assert cluster.type("delete", "debian-13", "--yes") == 0
    assert capsys.readouterr().out == "What has come of debian-13 is gone.\n"
    assert here.images.arriving() == []
    assert cluster.type("delete", "debian-13", "--yes") == 4


def test_what_is_meant_and_what_has_it_is_said(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    images = cluster.nodes["node1"].images
    cluster.make("node1", "debian-13:1")
    with pytest.raises(Missing, match="^image debian-13 on this node does not exist: there is debian-13:1$"):
        exports.verify(images, "debian-13")
    for look in (["show", "debain-12"], ["verify", "debain-12"]):
        with pytest.raises(Missing, match=r"^image debain-12 on this node does not exist: did you mean debian-12\?$"):
            cluster.type(*look)
    images.set_lendable("debian-12", True)
    images.lend(images.must("debian-12"), "zfs/vm/volume", {VOLUME: "volume", INSTANCE: "web1"})
    for words in (["list"], ["list", "--all-nodes"]):
        assert cluster.type(*words) == 0
        assert re.search(r"^debian-12 .* used by web1 alone$", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(Busy, match="^image debian-12: is used by web1 alone: it is back when the disk of web1 is removed$"):
        images.delete("debian-12")


@pytest.mark.parametrize("snapshots", [False, True])
def test_who_waits_for_a_detach_is_told_where_the_snapshots_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshots: bool
) -> None:
    older, made = "web1:20261001T000000Z", "web1:20261101T000000Z"
    trash = [{"entry": "other:20261101T000000Z"}, {"entry": older}]

    def call(_node: str, verb: str, **_request: Any) -> Any:
        if verb == "detach-work" and snapshots:
            trash.append({"entry": made})
        return {"detach": ["web1"], "detach-work": {"web1": ""}, "report": {"trash": list(trash)}}[verb]

    web1 = SimpleNamespace(name="web1", primary="node1", disks=[SimpleNamespace(template="file", volume="")])
    here: Any = SimpleNamespace(call=call, master=SimpleNamespace(instances=lambda: {"web1": web1}))
    monkeypatch.setattr(image_cli, "must_be_master", lambda _here: None)
    options = parser().parse_args(["detach", "web1", "--wait"])
    assert options.run(here, options) == 0
    said = "What it was is in the trash with its snapshots, and shares blocks still: "
    more = [f"{said}gnt-zfs trash empty {made} --with-snapshots destroys it."] if snapshots else []
    assert capsys.readouterr().out.splitlines() == ["web1 shares blocks with nothing any more.", *more]
