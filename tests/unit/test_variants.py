"""The list of images that Ganeti shows as variants: the same on each node, and never less than what may be there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from zfsganeti import answer, variants
from zfsganeti.errors import BadInput, BadName, Unavailable
from zfsganeti.here import Here


class Cluster(Here):
    """Three nodes with images, of which some do not answer; node1 is the master, and this node."""

    def __init__(self) -> None:
        super().__init__(dict)
        self.node = "node1"
        self.known = {"node1": ["debian-12:1", "debian-12:2"], "node2": ["debian-13"], "node3": []}
        self.retired: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.master_node = "node1"

    def is_master(self) -> bool:
        return self.node == self.master_node

    def call(self, peer: str, verb: str, **request: Any) -> Any:
        self.asked.append(f"{verb} {peer}")
        if peer in self.silent:
            raise Unavailable(peer, "does not answer")
        if verb == "images":
            return [{"name": name, "retired": name in self.retired} for name in self.known[peer]]
        return answer.VERBS[verb](self, request) if peer == self.node else True

    def call_all(self, verb: str, nodes: list[str] | None = None, **request: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for peer in nodes or self.known:
            try:
                found[peer] = self.call(peer, verb, **request)
            except Unavailable as error:
                found[peer] = error
        return found


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(variants, "LIST", str(tmp_path / "zfsganeti/variants.list"))
    return Cluster()


def test_every_node_lists_the_images_of_all(cluster: Cluster) -> None:
    cluster.retired = {"debian-13"}
    assert variants.publish(cluster) == []
    assert variants.read() == ["debian-12", "debian-12:1", "debian-12:2"]
    assert [call for call in cluster.asked if "write" in call] == [f"write-variants node{number}" for number in (1, 2, 3)]
    assert stat.S_IMODE(os.stat(variants.LIST).st_mode) == 0o644
    assert os.listdir(os.path.dirname(variants.LIST)) == ["variants.list"]
    cluster.known = {"node1": [], "node2": [], "node3": []}
    variants.publish(cluster)
    assert variants.read() == []


def test_what_a_silent_node_may_have_stays(cluster: Cluster) -> None:
    variants.publish(cluster)
    cluster.silent = {"node2"}
    cluster.known["node1"] = ["debian-14"]
    assert variants.publish(cluster) == [
        "node2 was not asked for its images: node2: does not answer",
        "node2 does not list the images for gnt-instance add: node2: does not answer",
    ]
    assert variants.read() == ["debian-12", "debian-12:1", "debian-12:2", "debian-13", "debian-14"]


def test_the_watcher_asks_others_only_when_there_is_a_reason(cluster: Cluster) -> None:
    def watch() -> list[str]:
        cluster.asked = []
        variants.keep_published(cluster)
        return cluster.asked

    assert "write-variants node3" in watch(), "there was no list"
    assert watch() == ["images node1"]
    cluster.known["node1"].append("debian-14")
    assert "write-variants node3" in watch(), "the list lacked an image"
    os.utime(variants.LIST, (0, 0))
    assert "write-variants node3" in watch(), "the list was old"
    assert watch() == ["images node1"], "a list that is right is as good as new"
    os.utime(variants.LIST, (0, 0))
    cluster.master_node = "node2"
    assert watch() == ["images node1"], "only the master looks after age"


def test_a_list_is_one_of_images(cluster: Cluster) -> None:
    with pytest.raises(BadName):
        answer.VERBS["write-variants"](cluster, {"names": ["debian-12", "a\nb"]})
    for names in ("debian-12", [1], None):
        with pytest.raises(BadInput):
            answer.VERBS["write-variants"](cluster, {"names": names})
    assert variants.read() is None
