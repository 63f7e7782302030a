"""What a node does for itself: each root and each step by itself, and a cluster's new name wherever its old one is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.deaths.images import holding
from tests.killing import dies
from tests.node import CLUSTER_NAME, DAY
from tests.node import Node as Plain
from tests.unit.test_datastores import AWAY, Node, names, take_away, verb
from zfsganeti import arrival, check, process, upkeep, variants
from zfsganeti.answer import answer
from zfsganeti.datasets import CLUSTER
from zfsganeti.errors import CommandFailed, Unavailable
from zfsganeti.here import Here

NEW = "new.example.com"
RENAMED = {"GANETI_OP_TARGET": CLUSTER_NAME, "GANETI_NEW_NAME": NEW}
BROKEN = CommandFailed("libzfs_core on it", 5, "ZFSGenericError: Input/output error")


def node_at(place: Path) -> Node:
    made = Node(place)
    vars(made.ssconf).update(master="node1", instances=[])
    made.__dict__["master"] = SimpleNamespace(jobs=list, everything=no_candidate)
    return made


def no_candidate() -> None:
    raise Unavailable("the configuration", "is on master candidates only")


@pytest.fixture
def here(tmp_path: Path) -> Node:
    return node_at(tmp_path)


@pytest.fixture
def steps(here: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What else the watcher has done, at the roots that it can reach."""
    done: list[str] = []
    monkeypatch.setattr(arrival, "release_expired", lambda place, _now: done.extend(f"release {each.root.name}" for each in place.places()))
    monkeypatch.setattr(process, "background", lambda *words: done.append(" ".join(words)))
    monkeypatch.setattr(variants, "keep_published", lambda _here: done.append("publish"))
    monkeypatch.setattr(here.independent, "wanted", lambda: [here.store])
    return done


def noted(done: list[str], said: str) -> tuple[list[str], list[str]]:
    done.append(said)
    return [], []


def expired(here: Node, volume: str) -> str:
    """A volume is in the trash for longer than that keeps anything; return its entry."""
    verb(here, "create", volume)
    verb(here, "setinfo", volume, VOL_METADATA="originstname+web1")
    here.store.now = lambda: time.time() - 99 * DAY
    verb(here, "remove", volume)
    here.store.now = time.time
    return next(entry.entry for entry in here.trash.entries() if entry.volume == volume)


def test_a_datastore_that_is_away_keeps_the_watcher_from_nothing_at_the_root(here: Node, steps: list[str]) -> None:
    for name in ("web1", "web2"):
        here.store.admit(name, [])
        Path(here.store.home(name), "x.file.disk0").write_bytes(b"data")
    here.store.put_aside("web2", "remove", ["x.file.disk0"], {"name": "web2"})
    here.fake.unmount(here.store.home("web1"))
    entry = expired(here, "old")
    vars(here.ssconf)["instances"] = ["web1"]
    take_away(here)
    for _again in range(2):  # what a clock that has jumped keeps is kept once
        assert upkeep.watch(here) == AWAY
    assert here.fake.mounted_at(here.store.home("web1")) == "zfs/vm/web1"
    assert names(here) == ["zfs/vm/web1"]
    assert [found.instance for found in here.trash.entries()] == ["web2"], entry
    assert steps == ["release zfs/vm", "node detach-work", "publish"] * 2


@pytest.mark.parametrize("step", ["trash.give_up", "store.forget_disks", "images.sweep"])
def test_a_step_of_the_watcher_that_fails_is_told_and_the_others_are_done(
    here: Node, steps: list[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fails() -> None:
        raise BROKEN

    owner, _dot, name = step.partition(".")
    place = here.at("ssd")
    monkeypatch.setattr(getattr(place, owner), name, fails)
    done: list[str] = []
    for other in ("give_up", "forget_disks", "sweep"):
        for each in (here, place):
            room = {"give_up": each.trash, "forget_disks": each.store, "sweep": each.images}[other]
            if (each, other) != (place, name):
                said = f"{other} {each.root.name}"
                monkeypatch.setattr(room, other, partial(noted, done, said))
    assert upkeep.watch(here) == str(BROKEN)
    assert len(done) == 5
    assert steps == ["release zfs/vm", "release zfs/fast", "node detach-work", "publish"]


def test_a_root_that_cannot_say_keeps_no_other_roots_clones_from_becoming_independent(
    here: Node, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise BROKEN

    monkeypatch.setattr(here.independent, "wanted", fails)
    assert upkeep.watch(here) == str(BROKEN)
    assert "node detach-work" not in steps
    monkeypatch.setattr(here.at("ssd").independent, "wanted", lambda: [here.store])
    assert upkeep.watch(here) == str(BROKEN)
    assert "node detach-work" in steps


def test_what_cannot_be_published_or_released_is_told_in_lines(here: Node, steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_words: object) -> None:
        raise BROKEN

    monkeypatch.setattr(variants, "keep_published", fails)
    monkeypatch.setattr(process, "background", lambda *_words: (_ for _ in ()).throw(FileNotFoundError(2, "No such file", "systemd-run")))
    assert upkeep.watch(here) == f"systemd-run: no such file; {BROKEN}"
    assert steps == ["release zfs/vm", "release zfs/fast"]


def test_an_entry_that_cannot_be_destroyed_keeps_no_younger_one(node: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = []
    for name in ("a", "b", "c"):
        node.has(name, disk=b"x")
        entries.append(node.trash.put(name, {"name": name}))
        node.fake.clock += 60
    destroy = node.fake.destroy

    def broken(name: str, *words: object, **more: object) -> None:
        if name.endswith(f"/{entries[0]}"):
            raise BROKEN
        destroy(name, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(node.fake, "destroy", broken)
    node.fake.clock += 6 * DAY
    node.trash.give_up()
    node.fake.clock += 2 * DAY
    assert node.trash.give_up() == (entries[1:], [f"{entries[0]}: {BROKEN}"])


# a cluster that has got another name


def missed(here: Node) -> Here:
    """The node was away when the cluster was renamed: return it as it is then, with something of everything from before."""
    for datastore in ("", "ssd"):
        verb(here, "create", f"gone{datastore}", **({"EXTP_DATASTORE": datastore} if datastore else {}))
        verb(here, "setinfo", f"gone{datastore}", VOL_METADATA="originstname+web1")
        verb(here, "remove", f"gone{datastore}")
    here.images.make("debian-12", "file:/x", holding())
    here.fake.foreign("zfs/vm/theirs", {CLUSTER: "other.example.com"})
    return as_renamed(here)


def as_renamed(here: Node) -> Here:
    vars(here.ssconf)["cluster"] = NEW
    after = Here(here._verbs)
    vars(after).update({key: vars(here)[key] for key in ("zfs", "streams", "node", "config", "ssconf", "master")})
    return after


def marks(here: Node) -> dict[str, str]:
    return {
        found.name: found.marks.get(CLUSTER, "") for root in ("vm", "fast") for found in here.fake.datasets(f"zfs/{root}", marks=(CLUSTER,))
    }


def told(after: Here) -> list[check.Finding]:
    facts = check.report(after)
    return [finding for finding in check.compare_node(facts, {}, [], set(), 2e9) if finding.verb == "follow-cluster"]


def test_a_root_that_missed_the_clusters_new_name_is_told_and_follows_when_a_person_says_so(here: Node, steps: list[str]) -> None:
    after = missed(here)
    assert (after.trash.entries(), after.images.all()) == ([], [])
    found = told(after)
    assert [finding.subject for finding in found] == ["zfs/vm", "zfs/fast"]
    assert found[0].text == (
        f"is marked as cluster {CLUSTER_NAME}'s: if this cluster was called so, a repair makes what bears that name there, also in the "
        f"trash and of images, {NEW}'s; if the pool came from another cluster, zfs set org.zfsganeti:cluster={NEW} zfs/vm leaves the rest "
        "as it is"
    )
    assert not any(finding.sure for finding in found)
    before = marks(here)
    upkeep.watch(after)
    assert "publish" in steps
    assert marks(here) == before, "the watcher knows no more of it than we do"
    for finding in found:
        after.call("node1", finding.verb, **finding.request)
        after.call("node1", finding.verb, **finding.request)
    assert told(after) == []
    assert set(marks(here).values()) == {"", NEW, "other.example.com"}
    for datastore in ("", "ssd"):
        assert [entry.instance for entry in after.at(datastore).trash.entries()] == ["web1"]
    assert [image.name for image in after.images.all()] == ["debian-12"]


def test_a_root_follows_only_from_the_name_that_it_bears(here: Node) -> None:
    after, before = missed(here), marks(here)
    for request, said in (
        ({"old": "other.example.com"}, f"root zfs/vm: is marked as {CLUSTER_NAME}'s, not as other.example.com's: run the check again"),
        ({"old": 7}, "request: old and datastore must be texts"),
        ({"old": CLUSTER_NAME, "datastore": "tape"}, "datastore tape: there are ssd: datastores in the node's configuration names them"),
    ):
        asked: Any = json.dumps(request)
        found: Mapping[str, object] = answer(after, "follow-cluster", partial(str, asked))
        assert found["error"] == said
    assert marks(here) == before


def test_of_a_root_without_a_mark_nothing_is_said(here: Node) -> None:
    here.fake.clear("zfs/vm", [CLUSTER])
    assert [finding.subject for finding in told(as_renamed(here))] == ["zfs/fast"]


def test_killed_anywhere_a_root_that_follows_is_told_until_it_has(tmp_path: Path) -> None:
    for point in range(1, 99):
        (tmp_path / str(point)).mkdir()
        here = node_at(tmp_path / str(point))
        after = missed(here)
        died = dies(here.fake.reaper, point, partial(upkeep.follow_cluster, after, RENAMED))
        for finding in told(after):
            after.call("node1", finding.verb, **finding.request)
        assert set(marks(here).values()) == {"", NEW, "other.example.com"}, point
        if not died:
            assert point > 9
            return
    raise AssertionError("it does not end")


def test_what_cannot_be_marked_is_told_and_the_others_and_the_other_roots_follow(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    after = missed(here)
    setting = here.fake.set

    def broken(name: str, values: Mapping[str, str]) -> None:
        if name.startswith("zfs/vm/.images/"):
            raise BROKEN
        setting(name, values)

    with monkeypatch.context() as patch:
        patch.setattr(here.fake, "set", broken)
        assert upkeep.follow_cluster(after, RENAMED) == str(BROKEN)
    assert [name for name, mark in marks(here).items() if mark == CLUSTER_NAME] == ["zfs/vm", "zfs/vm/.images/debian-12"]
    assert [finding.subject for finding in told(after)] == ["zfs/vm"]
    assert upkeep.follow_cluster(after, RENAMED) == ""
    assert told(after) == []


def test_a_datastore_that_is_away_keeps_no_other_root_from_following(here: Node) -> None:
    after = missed(here)
    take_away(here)
    assert upkeep.follow_cluster(after, RENAMED) == AWAY
    assert here.fake.state()["zfs/vm"]["marks"][CLUSTER] == NEW


def test_a_node_without_a_root_has_nothing_to_follow(here: Node) -> None:
    vars(here.ssconf)["storage_directory"] = ""
    assert upkeep.follow_cluster(here, RENAMED) == ""
