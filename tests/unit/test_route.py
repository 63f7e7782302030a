"""The way of an instance on paper: what is sent next as a model of two histories, when a pass pays, what forbids a move."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti.errors import Busy, Foreign, Missing, NoSpace, Refused, Unavailable
from zfsganeti.route import (
    LEASE_SECONDS,
    PASSES,
    Coming,
    Leaving,
    Pass,
    choose_target,
    downtime,
    expiry,
    go_on,
    in_the_way,
    make_plan,
    next_pass,
    next_step,
    tag_until,
)
from zfsganeti.streams import Snap
from zfsganeti.transfer import Abandon, Full, Incremental, Nothing, Resume, Step

GIB = 1 << 30

# marks


@pytest.mark.parametrize("mark", [Leaving("node2", "fenced", True, 7), Coming("node1", "web1", 7, "123")])
def test_marks_are_read_as_they_were_written(mark: Leaving | Coming) -> None:
    assert type(mark).parse(mark.pack()) == mark
    assert len(mark.pack()) < 1000


@given(st.text(max_size=60))
def test_any_text_is_a_mark_or_none(text: str) -> None:
    assert Leaving.parse(text) is None
    assert Coming.parse(text) is None


def test_a_hold_says_until_when_it_means_anything() -> None:
    assert expiry(tag_until(1000.0)) == 1000 + LEASE_SECONDS
    assert [expiry(tag) for tag in ("keep", "zfsganeti-move-until-", "zfsganeti-move-until-x")] == [None] * 3


def test_passes_are_numbered() -> None:
    assert next_pass("zfsganeti-", []) == "zfsganeti-move-1"
    assert next_pass("zfsganeti-", ["zfsganeti-move-3", "autosnap_9", "zfsganeti-move-x", "zfsganeti-removed-8"]) == "zfsganeti-move-4"


# what is sent next


def snaps(guids: str, first: int = 1) -> list[Snap]:
    return [Snap(f"s{guid}", guid, first + index) for index, guid in enumerate(guids)]


@pytest.mark.parametrize(
    ("target", "token_guid", "step", "snapshot"),
    [
        (None, None, Full(), "sa"),
        ("a", None, Incremental("sa"), "sb"),
        ("ab", None, Incremental("sb"), "sc"),
        ("b", None, Incremental("sb"), "sc"),
        ("abc", None, Nothing(), "sc"),
        ("", "a", Resume("t"), "sa"),
        ("a", "b", Resume("t"), "sb"),
        ("a", "x", Abandon(), ""),
        ("a", "d", Abandon(), ""),
        ("", None, Abandon(), ""),
        ("ax", None, Incremental("sa"), "sb"),
        ("xa", None, Incremental("sa"), "sb"),
        ("x", None, Abandon(), ""),
    ],
)
def test_the_next_step(target: str | None, token_guid: str | None, step: Step, snapshot: str) -> None:
    token = "" if token_guid is None else "t"
    found = next_step(snaps("abcd"), None if target is None else snaps(target, 50), "sc", token=token, token_guid=token_guid or "")
    assert found == (step, snapshot)


def test_what_is_not_there_cannot_be_sent() -> None:
    with pytest.raises(Missing, match="^snapshot sx does not exist$"):
        next_step(snaps("abc"), None, "sx")


guids = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=7)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    guids.filter(bool),
    st.none() | guids,
    st.sampled_from(["", *"abcdefgh"]),
    st.data(),
    st.lists(st.booleans(), max_size=6),
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")),
)
def test_every_history_arrives_whole_however_often_the_line_breaks(
    source: list[str], target: list[str] | None, half: str, data: st.DataObject, breaks: list[bool], names: dict[str, str]
) -> None:
    """Each step is one that ZFS takes, none leaves out a snapshot once it has begun, and it ends in so many steps.

    What the target has may bear other names there, also those of snapshots that are yet to come.
    """
    called = {guid: f"s{names.get(guid, guid)}" for guid in target or ()}
    if len(set(called.values())) < len(called):
        called = {}
    wanted = data.draw(st.sampled_from(source))
    history = source[: source.index(wanted) + 1]
    have = list(target) if target is not None else None
    half = half if have is not None and half not in have else ""
    began_anew = have is None
    for turn in range(3 * len(history) + len(breaks) + 4):
        token_guid = half if half in source else ""
        mine = snaps("".join(source))
        theirs = None if have is None else [Snap(called.get(guid, f"s{guid}"), guid, 50 + index) for index, guid in enumerate(have)]
        step, short = next_step(mine, theirs, f"s{wanted}", token=half, token_guid=token_guid)
        clash = in_the_way(mine, theirs, short) if short else None
        if clash is not None and clash.guid in source:
            step = Abandon()
        elif clash is not None and have is not None:
            have.remove(clash.guid)
        if step == Nothing():
            break
        whole = turn >= len(breaks) or breaks[turn]
        if isinstance(step, Abandon):
            have, half, began_anew, called = None, "", True, {}
            continue
        if isinstance(step, Full):
            assert (have, half, short) == (None, "", f"s{history[0]}")
            have = []
        elif isinstance(step, Incremental):
            assert have
            assert not half
            assert step.base[1:] in have, "receive refuses what it does not have"
            assert history.index(short[1:]) == history.index(step.base[1:]) + 1, "a snapshot is left out"
        else:
            assert half == short[1:]
        assert have is not None
        half = "" if whole else short[1:]
        assert short not in {called.get(guid, f"s{guid}") for guid in have}, "receive refuses a name that is taken"
        have += [short[1:]] if whole else []
    assert have is not None
    assert wanted in have
    if began_anew:
        assert have == history


# another pass


def test_passes_go_on_while_they_shrink_and_it_pays() -> None:
    fast = Pass(100 << 20, 1.0)
    assert go_on([], 0)
    assert not go_on([fast], 10 << 20)
    assert go_on([fast], 200 << 20)
    assert go_on([Pass(1 << 30, 10.0), Pass(500 << 20, 5.0)], 400 << 20)
    assert not go_on([Pass(500 << 20, 5.0), Pass(450 << 20, 4.5)], 400 << 20)


def test_a_limit_makes_them_go_on_until_it_is_kept_or_cannot_be() -> None:
    passes = [Pass(1 << 30, 10.0), Pass(100 << 20, 1.0)]
    assert go_on(passes, 90 << 20, limit=11.5)
    assert not go_on(passes, 10 << 20, limit=12.0)
    assert downtime(passes, 10 << 20) < 12


sizes = st.integers(0, 1 << 40)


@given(st.lists(st.builds(Pass, sizes, st.floats(0.001, 1e5)), max_size=20), sizes, st.none() | st.floats(1, 1e4))
def test_no_writer_keeps_a_move_from_ending(passes: list[Pass], written: int, limit: float | None) -> None:
    if len(passes) >= PASSES:
        assert not go_on(passes, written, limit)
    assert downtime(passes, written) > 0


# what forbids a move

FEATURES = {"large_blocks": "active", "embedded_data": "active", "lz4_compress": "active", "zstd_compress": "active"}


def dataset(**changes: Any) -> dict[str, Any]:
    facts = {
        "dataset": "zfs/vm/web1", "datastore": "", "ours": True, "instance": "web1", "image": "", "detaching": False, "intent": "",
        "move": "", "used": 2 * GIB, "referenced": 2 * GIB, "origin": "", "origin_guid": "", "of_image": False, "local": {},
        "features": FEATURES, "encryption": "off", "keystatus": "-",
    }  # fmt: skip
    return {**facts, **changes}


def source(facts: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {"node": "node1", "problem": "", "datasets": {"web1": facts if facts is not None else dataset(**changes)}}


def target(**changes: Any) -> dict[str, Any]:
    store = {
        "root": "tank/vm", "health": "ONLINE", "allow_degraded": False, "available": 100 * GIB, "used": 100 * GIB, "features": FEATURES,
        "version": "2.1.11", "encryption": "off", "keystatus": "-",
    }  # fmt: skip
    rest = {key: changes.pop(key) for key in ("placed", "coming", "origins", "origin_stores") if key in changes}
    found: dict[str, Any] = {
        "node": "node2",
        "problem": "",
        "placed": {},
        "coming": {},
        **({} if "origins" in rest else {"origin_stores": {}}),
        **rest,
    }
    return {**found, "problem": changes.pop("problem", ""), "stores": {"": {**store, **changes}}}


CLONE: dict[str, Any] = {"origin": "zfs/vm/.images/debian-12@golden", "origin_guid": "77", "of_image": True, "used": GIB}
LACKS = {**FEATURES, "zstd_compress": "disabled"}
OLD = {name: state for name, state in FEATURES.items() if name != "zstd_compress"}
PLACED = {"dataset": "tank/vm/web1", "ours": True, "instance": "web1", "used": GIB, "move": ""}


@pytest.mark.parametrize(
    ("here", "there", "error", "said"),
    [
        (
            {"image": "debian-12"}, {}, Refused,
            "web1 on node1: is image debian-12 itself, which web1 alone uses: gnt-zfs image save web1 copies it",
        ),
        (
            {"detaching": True}, {}, Busy,
            "web1 on node1: is becoming independent of an image: gnt-zfs detach --wait web1 first",
        ),
        (
            {"intent": "remove 7"}, {}, Busy,
            "web1 on node1: an operation is at work on it (remove): gnt-zfs check --repair",
        ),
        (
            {"ours": False}, {}, Foreign,
            "dataset zfs/vm/web1 on node1: is not marked as ours: gnt-zfs check --repair takes it over",
        ),
        (
            {"move": Leaving("node3", "presync", True, 7).pack()}, {}, Busy,
            "web1: is being moved to node3: gnt-zfs move web1 node3, or gnt-zfs move --abort web1",
        ),
        (
            {}, {"problem": "/vm: no root"}, Unavailable,
            "node2: /vm: no root: gnt-zfs setup makes node2 ready",
        ),
        (
            {"datastore": "ssd"}, {}, Missing,
            "datastore ssd of web1 on node2 does not exist: datastores in the configuration of node2 names one",
        ),
        (
            {}, {"health": "FAULTED"}, Unavailable,
            "pool of tank/vm on node2: is FAULTED: zpool status there",
        ),
        (
            {}, {"placed": {"web1": PLACED}}, Refused,
            "dataset tank/vm/web1 on node2: holds 1.00G of web1 already: gnt-zfs check says what to do with it",
        ),
        (
            {}, {"placed": {"web1": {**PLACED, "ours": False}}}, Foreign,
            "dataset tank/vm/web1 on node2: stands where the instance's belongs and is not ours: rename it",
        ),
        (
            {}, {"coming": {"web1": {**PLACED, "dataset": "tank/vm/.moving/web1"}}}, Foreign,
            "dataset tank/vm/.moving/web1 on node2: was not received for web1: rename or destroy it",
        ),
        (
            {}, {"features": LACKS}, Refused,
            "pool tank on node2: lacks zstd_compress, which the pool of web1 uses: zpool set feature@zstd_compress=enabled tank there",
        ),
        (
            {}, {"features": OLD}, Refused,
            "pool tank on node2: lacks zstd_compress, which the pool of web1 uses: its ZFS 2.1.11 is too old for it",
        ),
        (
            {"encryption": "aes-256-gcm", "keystatus": "available"}, {}, Refused,
            "dataset zfs/vm/web1: is encrypted and tank/vm on node2 is not: move it to a node whose root is encrypted",
        ),
        (
            {"encryption": "aes-256-gcm", "keystatus": "unavailable"}, {"encryption": "aes-256-gcm", "keystatus": "available"}, Unavailable,
            "dataset zfs/vm/web1: is encrypted and its key is not loaded: zfs load-key zfs/vm/web1",
        ),
        (
            {"encryption": "aes-256-gcm", "keystatus": "available"}, {"encryption": "aes-256-gcm", "keystatus": "unavailable"}, Unavailable,
            "root tank/vm on node2: is encrypted and its key is not loaded: zfs load-key tank/vm there",
        ),
        (
            CLONE, {}, Refused,
            "web1 of web1: is a clone of image debian-12, which node2 lacks: gnt-zfs image push debian-12 node2 on node1 sends it first, "
            "or --full sends all of it",
        ),
        (
            {**CLONE, "origin": "zfs/vm/web0@s", "of_image": False}, {}, Refused,
            "web1 of web1: is a clone of zfs/vm/web0@s, which node2 lacks: --full sends all of it",
        ),
        (
            {}, {"available": 11 * GIB, "used": 189 * GIB}, NoSpace,
            "tank/vm on node2: 2.00G asked for, 1.00G available: gnt-zfs trash empty there may make room, 10.0G stay free",
        ),
        (
            {"local": {"refreservation": str(99 * GIB)}}, {}, NoSpace,
            "tank/vm on node2: 99.0G asked for, 90.0G available: gnt-zfs trash empty there may make room, 10.0G stay free",
        ),
    ],
)  # fmt: skip
def test_what_forbids_a_move_is_said_before_the_first_byte(
    here: dict[str, Any], there: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        make_plan("web1", "file", source(**here), target(**there), running=True)
    assert str(caught.value) == said


def test_a_dataset_that_is_not_there() -> None:
    facts = {**source(), "datasets": {"web1": None}}
    with pytest.raises(Missing, match="^dataset web1 of web1 on node1 does not exist: gnt-zfs check says where it is$"):
        make_plan("web1", "file", facts, target(), running=True)


def test_the_plan_is_told() -> None:
    assert make_plan("web1", "file", source(), target(), running=True).sentences() == [
        "web1 (file) goes from node1 to node2: 1 dataset",
        "  web1: about 2.00G to send",
        "it runs until all but the latest changes are there, then is down for these and about 10 s",
    ]


def test_a_clone_stays_one_where_its_image_is() -> None:
    plan = make_plan("web1", "ext", source(**CLONE), target(origin_stores={"77": [""]}), running=False)
    assert (plan.legs[0].origin, plan.legs[0].size) == ("77", GIB)
    assert plan.sentences()[1:] == ["  web1: about 1.00G to send, and stays a clone of image debian-12", "it is stopped and stays so"]
    full = make_plan("web1", "ext", source(**CLONE), target(), running=False, full=True)
    assert (full.legs[0].origin, full.legs[0].size) == ("", 2 * GIB)


def test_an_image_may_be_in_several_datastores_of_the_target() -> None:
    there = target(origin_stores={"77": ["", "ssd"]})
    there["stores"]["ssd"] = there["stores"][""]
    both = {"v0": dataset(**CLONE), "v1": dataset(**CLONE, datastore="ssd")}
    plan = make_plan("web1", "ext", {**source(), "datasets": both}, there, running=False)
    assert [(leg.datastore, leg.origin) for leg in plan.legs] == [("", "77"), ("ssd", "77")]
    there["origin_stores"] = {"77": ["ssd"]}
    with pytest.raises(Refused, match="^v0 of web1: is a clone of image debian-12, which node2 lacks"):
        make_plan("web1", "ext", {**source(), "datasets": both}, there, running=False)


@pytest.mark.parametrize(("datastore", "has"), [("", True), ("ssd", False), ("s", False)])
def test_an_earlier_version_names_one_datastore_that_has_an_image(datastore: str, has: bool) -> None:
    there = target(origins={"77": ""})
    there["stores"] |= {"ssd": there["stores"][""], "s": there["stores"][""]}
    wanted = {**source(), "datasets": {"v0": dataset(**CLONE, datastore=datastore)}}
    if has:
        assert make_plan("web1", "ext", wanted, there, running=False).legs[0].origin == "77"
    else:
        with pytest.raises(Refused):
            make_plan("web1", "ext", wanted, there, running=False)


def test_what_is_there_already_is_not_counted_again() -> None:
    coming = {**PLACED, "move": Coming("node1", "web1", 7).pack()}
    plan = make_plan("web1", "file", source(), target(coming={"web1": coming}, available=12 * GIB, used=188 * GIB), running=True)
    assert plan.sentences()[1] == "  web1: about 1.00G to send, 1.00G are there already"


def test_an_encrypted_target_gets_no_embedded_data() -> None:
    there = target(encryption="aes-256-gcm", keystatus="available")
    assert not make_plan("web1", "file", source(), there, running=True).embedded
    assert make_plan("web1", "file", source(), target(), running=True).embedded


@given(st.dictionaries(st.sampled_from(["node1", "node2", "node3"]), st.integers(-GIB, GIB), min_size=1))
def test_the_node_with_the_most_room_is_chosen(room: dict[str, int]) -> None:
    assert room[choose_target(room)] == max(room.values())


def test_what_was_begun_goes_on_to_where_it_was_begun() -> None:
    room = {"node1": GIB, "node2": 2 * GIB}
    assert choose_target(room, ["", Leaving("node1", "presync", True, 7).pack()]) == "node1"
    assert choose_target(room, [Leaving("node3", "presync", True, 7).pack()]) == "node2"
    assert choose_target(room, [Leaving("node1", "left", True, 7).pack()]) == "node2"
