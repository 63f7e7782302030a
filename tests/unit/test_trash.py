"""The trash: what is put in, what is given up, and how it comes back, on the fake ZFS with real files."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node import CLUSTER_NAME, DAY, HOUR, Node
from zfsganeti import clock
from zfsganeti.datasets import CLUSTER, FORMER, INSTANCE, MOVE, RECORD, RESTORING, VOLUME, former_names
from zfsganeti.errors import BadInput, Busy, Foreign, Missing, Refused, Unavailable
from zfsganeti.route import LEFT, Leaving
from zfsganeti.trash import Entry, Trash, choose, entry_name, parse_entry, plan_giving_up
from zfsganeti.zfs import Dataset

quick = settings(max_examples=200, deadline=None, derandomize=True)
GIB = 1 << 30
OURS = {INSTANCE: "web1", CLUSTER: CLUSTER_NAME}
ENTRY = "web1:20231114T221320Z"
RECORD_OF_WEB1 = {"name": "web1", "disks": [{"file": "disk0"}]}

# names


@quick
@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,60}", fullmatch=True), st.integers(0, 4_000_000_000), st.integers(0, 5))
def test_an_entry_says_whose_it_is_and_when_it_was_removed(instance: str, when: int, others: int) -> None:
    taken: list[str] = []
    for _other in range(others + 1):
        name = entry_name(instance, when, taken.__contains__)
        assert name not in taken
        assert parse_entry(name) == (instance, when)
        taken.append(name)


@quick
@given(st.text())
def test_any_name_is_an_entry_or_bad(name: str) -> None:
    try:
        instance, when = parse_entry(name)
    except BadInput:
        return
    assert name.startswith(f"{instance}:")
    assert isinstance(when, int)


def test_what_is_no_entry_is_told() -> None:
    with pytest.raises(BadInput) as caught:
        parse_entry("web1")
    assert str(caught.value) == "trash entry web1: is not named instance:time, it has no colon"
    with pytest.raises(BadInput) as caught:
        parse_entry("web1:yesterday")
    assert str(caught.value) == "trash entry web1:yesterday: is not named instance:time"


def told(name: str, removed: int, restorable: bool) -> dict[str, Any]:
    return {"entry": name, "instance": name.split(":")[0], "removed": removed, "restorable": restorable}


ENTRIES = [
    told("web1.example.com:20260101T000000Z", 1, True),
    told("web1.example.com:20260102T000000Z", 2, True),
    told("web1.example.com:20260103T000000Z", 3, False),
    told("db1:20260101T000000Z", 1, False),
]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("web1.example.com:20260101T000000Z", "web1.example.com:20260101T000000Z"),
        ("web1.example.com", "web1.example.com:20260102T000000Z"),
        ("web1", "web1.example.com:20260102T000000Z"),
        ("db1", "db1:20260101T000000Z"),
    ],
)
def test_an_entry_is_meant_by_its_name_or_the_newest_of_its_instance_that_can_be_restored(wanted: str, chosen: str) -> None:
    assert choose(ENTRIES, wanted) == chosen


def test_a_name_in_full_is_preferred_to_a_short_one() -> None:
    assert choose([*ENTRIES, told("web1:20250101T000000Z", 0, False)], "web1") == "web1:20250101T000000Z"


def test_an_ambiguous_name_is_never_guessed_at() -> None:
    with pytest.raises(BadInput) as caught:
        choose([*ENTRIES, told("db2.a:20260103T000000Z", 3, True), told("db2.b:20260102T000000Z", 2, True)], "db2")
    assert str(caught.value) == "db2: could be any of db2.a:20260103T000000Z, db2.b:20260102T000000Z"


def test_the_beginning_of_an_entry_will_do_and_one_disk_is_never_guessed_at() -> None:
    disks = [
        {**told(f"{volume}.ext.disk{disk}:2026010{day}T000000Z", day, True), "instance": "ext1"}
        for disk, volume in enumerate(("0b1c-1", "0b1c-2"))
        for day in (1, 2)
    ]
    assert choose(disks, "0b1c-2") == choose(disks, "0b1c-2.ext.disk1", disk=True) == "0b1c-2.ext.disk1:20260102T000000Z"
    assert choose(disks, "0b1c-1.ext.disk0:20260101", disk=True) == "0b1c-1.ext.disk0:20260101T000000Z"
    assert choose(disks, "ext1") == "0b1c-2.ext.disk1:20260102T000000Z"
    for wanted, disk in (("0b1c", False), ("ext1", True)):
        with pytest.raises(BadInput, match=f"^{wanted}: could be any of 0b1c-1.ext.disk0:20260101T000000Z, .*0b1c-2"):
            choose(disks, wanted, disk=disk)
    assert choose(disks[2:], "ext1", disk=True) == "0b1c-2.ext.disk1:20260102T000000Z"
    with pytest.raises(Missing):
        choose(disks, "")


def test_what_is_in_no_trash_is_missing() -> None:
    with pytest.raises(Missing) as caught:
        choose(ENTRIES, "web2")
    assert str(caught.value) == "web2 in the trash does not exist: gnt-zfs trash list shows what is there"
    with pytest.raises(Missing, match=r"^wbe1 in the trash does not exist: did you mean web1.example.com\?$"):
        choose(ENTRIES, "wbe1")


# what is given up

entry_lists = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20 * DAY), st.integers(0, 100)), max_size=12, unique_by=lambda e: e[0]
).map(lambda found: [(f"web{number}:x", removed, used) for number, removed, used in found])


@quick
@given(entry_lists, st.integers(0, 25 * DAY), st.integers(0, 10), st.integers(-50, 300))
def test_the_expired_go_and_then_the_oldest_until_there_is_room(
    entries: list[tuple[str, int, int]], now: int, days: int, missing: int
) -> None:
    doomed = plan_giving_up(entries, now=now, days=days, missing=missing)
    facts = {name: (removed, used) for name, removed, used in entries}
    expired = {name for name, (removed, _used) in facts.items() if removed + days * DAY <= now}
    kept = set(facts) - set(doomed)
    assert len(set(doomed)) == len(doomed)
    assert expired <= set(doomed)
    assert all(facts[young][0] >= facts[old][0] for young in kept for old in doomed)
    freed = sum(facts[name][1] for name in doomed)
    assert freed >= missing or not kept
    early = [name for name in doomed if name not in expired]
    if early:  # without the last of those that had not expired, there would have been too little room
        assert freed - facts[early[-1]][1] < missing


def test_nothing_is_given_up_early_while_there_is_room() -> None:
    assert plan_giving_up([("a", 0, 5), ("b", DAY, 5)], now=DAY, days=7, missing=0) == []
    assert plan_giving_up([("a", 0, 5), ("b", DAY, 5)], now=8 * DAY - 1, days=7, missing=-100) == ["a"]
    assert plan_giving_up([("b", DAY, 5), ("a", 0, 5)], now=DAY, days=7, missing=6) == ["a", "b"]


# into the trash


def remove(node: Node, name: str = "web1") -> str:
    """An instance with two disks is removed as Ganeti does it; return its entry."""
    node.has(name, disk0=b"zero", disk1=b"one")
    node.put_aside(name, "remove", {**RECORD_OF_WEB1, "name": name})
    node.ganeti_removes(name)
    entry = node.trash.discard(name)
    assert entry is not None
    return entry


def test_a_removed_instance_is_whole_in_the_trash(node: Node) -> None:
    assert remove(node) == ENTRY
    assert node.datasets() == [".trash", f".trash/{ENTRY}"]
    assert node.fake.files(f"zfs/vm/.trash/{ENTRY}") == {"disk0": b"zero", "disk1": b"one"}
    assert set(node.marks(f"zfs/vm/.trash/{ENTRY}")) == {INSTANCE, CLUSTER, RECORD}
    (entry,) = node.trash.entries()
    assert (entry.instance, entry.removed, entry.record, entry.restoring) == ("web1", node.fake.clock, RECORD_OF_WEB1, "")
    assert entry.as_json(7) == {
        "entry": ENTRY,
        "instance": "web1",
        "removed": node.fake.clock,
        "expires": node.fake.clock + 7 * DAY,
        "used": entry.used,
        "kept": False,
        "restorable": True,
        "volume": "",
        "size": 0,
        "uuid": RECORD_OF_WEB1.get("uuid", ""),
        "disk": 0,
        "set": "",
    }
    assert node.paths() == [".aside"]


def test_nothing_in_the_trash_is_mounted_by_a_boot(node: Node) -> None:
    remove(node)
    node.fake.boot()
    assert [mount.dataset for mount in node.fake.mounts()] == ["zfs/vm"]


def test_the_same_name_can_be_removed_twice_in_a_second(node: Node) -> None:
    assert [remove(node), remove(node)] == [ENTRY, f"{ENTRY}.2"]
    assert [entry.entry for entry in node.trash.entries()] == [ENTRY, f"{ENTRY}.2"]


def test_an_instance_without_a_dataset_leaves_nothing(node: Node) -> None:
    assert node.trash.put("web1") is None
    assert node.trash.discard("web1") is None
    assert node.datasets() == []


def test_with_no_days_it_is_gone_at_once(tmp_path: Path) -> None:
    node = Node(tmp_path, trash_days=0)
    remove(node)
    assert node.datasets() == [".trash"]
    assert node.trash.entries() == []


def test_what_is_empty_is_not_worth_keeping(node: Node) -> None:
    node.has("web1")
    assert node.trash.discard("web1") is None
    assert node.datasets() == []


def test_what_has_a_snapshot_is_kept_even_if_it_is_empty(node: Node) -> None:
    node.has("web1", disk0=b"data")
    node.store.keep_disks("web1")
    os.unlink(f"{node.home('web1')}/disk0")
    assert node.trash.discard("web1") == ENTRY


def test_a_running_process_does_not_stop_a_removal(node: Node) -> None:
    node.has("web1", disk0=b"data")
    with node.fake.held_open("zfs/vm/web1", "process kvm (7)"):
        assert node.trash.put("web1", RECORD_OF_WEB1) == ENTRY
        with pytest.raises(Busy) as caught:
            node.trash.destroy(ENTRY)
        assert str(caught.value) == f"dataset zfs/vm/.trash/{ENTRY}: is in use by process kvm (7)"
    node.trash.destroy(ENTRY)


def test_a_foreign_dataset_is_not_put_into_the_trash(node: Node) -> None:
    node.fake.foreign("zfs/vm/web1", {INSTANCE: "web1", CLUSTER: "other.example.com"})
    before = node.whole_state()
    with pytest.raises(Foreign):
        node.trash.put("web1")
    with pytest.raises(Foreign):
        node.trash.discard("web1")
    assert node.whole_state() == before


# out of the trash for good


def test_a_destroyed_entry_is_gone(node: Node) -> None:
    remove(node)
    assert node.trash.destroy(ENTRY) > 0
    assert node.trash.entries() == []
    with pytest.raises(Missing) as caught:
        node.trash.destroy(ENTRY)
    assert str(caught.value) == f"{ENTRY} in the trash does not exist: gnt-zfs trash list shows what is there"


KEEPERS = {
    "snapshot": f"dataset zfs/vm/.trash/{ENTRY}: has the snapshot autosnap, which is not ours",
    "clone": f"dataset zfs/vm/.trash/{ENTRY}: has the clone zfs/clone",
    "hold": f"dataset zfs/vm/.trash/{ENTRY}: snapshot zfs/vm/.trash/{ENTRY}@zfsganeti-1 (keep) is held",
    "child": f"dataset zfs/vm/.trash/{ENTRY}: has the child zfs/vm/.trash/{ENTRY}/child",
    "mount": f"dataset zfs/vm/.trash/{ENTRY}: is in use by the mount at {{place}}/look",
}


def keep(node: Node, what: str) -> None:
    name = f"zfs/vm/.trash/{ENTRY}"
    if what == "child":
        node.fake.foreign(f"{name}/child", OURS)
    elif what == "mount":
        node.fake.mount(name, f"{node.place}/look")
    else:
        short = "autosnap" if what == "snapshot" else "zfsganeti-1"
        node.fake.snapshot([f"{name}@{short}"])
    if what == "clone":
        node.fake.clone(f"{name}@zfsganeti-1", "zfs/clone", {})
    elif what == "hold":
        node.fake.hold(f"{name}@zfsganeti-1")


@pytest.mark.parametrize("what", KEEPERS)
def test_what_others_need_is_not_destroyed(node: Node, what: str) -> None:
    remove(node)
    keep(node, what)
    before = node.whole_state()
    with pytest.raises(Busy) as caught:
        node.trash.destroy(ENTRY)
    assert str(caught.value) == KEEPERS[what].format(place=node.place)
    assert node.whole_state() == before
    node.fake.clock += 30 * DAY
    gone, kept = node.trash.give_up()
    assert (gone, kept) == ([], [f"{ENTRY}: {caught.value.why}"])


def test_snapshots_of_others_go_when_told(node: Node) -> None:
    remove(node)
    keep(node, "snapshot")
    node.trash.destroy(ENTRY, strangers=True)
    assert node.trash.entries() == []


def test_what_is_expired_is_given_up_and_the_rest_kept(node: Node) -> None:
    old = remove(node, "old")
    node.fake.clock += 6 * DAY
    young = remove(node, "young")
    assert node.trash.give_up() == ([], [])
    node.fake.clock += DAY
    assert node.trash.give_up() == ([old], [])
    assert [entry.entry for entry in node.trash.entries()] == [young]


def test_what_is_taken_out_while_others_are_given_up_keeps_none_of_them(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = remove(node, "first"), remove(node, "second")
    node.fake.clock += 8 * DAY
    entries = node.trash.entries()
    node.fake.rename(node.kept(first), "zfs/vm/first")
    monkeypatch.setattr(node.trash, "entries", lambda: entries)  # as they were a moment ago
    monkeypatch.setattr(node.trash, "find", Trash(node.store).find)
    assert node.trash.give_up() == ([second], [])
    assert node.fake.get("zfs/vm/first") is not None


def test_a_clock_that_jumps_ahead_makes_nothing_expire(node: Node) -> None:
    entry = remove(node)
    node.fake.clock += HOUR
    assert node.trash.give_up() == ([], [])
    node.fake.clock += 3650 * DAY
    assert node.trash.give_up() == ([], [])
    assert node.trash.entries()[0].as_json(7, node.trash.until())["expires"] == int(node.fake.clock) + 7 * DAY
    for _hour in range(7 * 24 - 1):
        node.fake.clock += HOUR
        assert node.trash.give_up() == ([], [])
    node.fake.clock += HOUR
    assert node.trash.give_up() == ([entry], [])


def test_a_clock_that_was_ahead_and_is_set_right_makes_what_is_kept_expire_in_its_time(node: Node) -> None:
    entry = remove(node)
    begin = node.fake.clock
    assert node.trash.give_up() == ([], [])
    node.fake.clock += 400 * DAY
    assert node.trash.give_up() == ([], [])
    node.fake.clock = begin + DAY
    assert node.trash.give_up() == ([], [])
    assert node.trash.until() == int(begin + 8 * DAY)
    for _day in range(7):
        node.fake.clock += DAY
    node.fake.clock = begin + 2 * DAY
    for _day in range(6):
        assert node.trash.give_up() == ([], [])
        node.fake.clock += DAY
    assert node.trash.give_up() == ([entry], [])


def test_what_is_removed_while_the_clock_is_ahead_is_kept_no_longer_than_anything_else(node: Node) -> None:
    begin = node.fake.clock
    node.trash.give_up()
    node.fake.clock += 3650 * DAY
    entry = remove(node)
    node.fake.clock = begin + HOUR
    for day in range(7):
        assert node.trash.give_up() == ([], [])
        (found,) = node.trash.entries()
        assert (found.entry, found.removed, found.as_json(7)["expires"]) == (entry, begin + HOUR, begin + HOUR + 7 * DAY), f"day {day}"
        node.fake.clock += DAY
    assert node.trash.give_up() == ([entry], [])


def test_of_an_instance_what_was_removed_while_the_clock_was_ahead_is_not_the_newest(node: Node) -> None:
    begin = node.fake.clock
    node.fake.clock += 3650 * DAY
    remove(node)
    node.fake.clock = begin
    node.trash.give_up()
    node.fake.clock += HOUR
    newest = remove(node)
    assert choose([entry.as_json(7) for entry in node.trash.entries()], "web1") == newest


def test_a_clock_that_was_behind_makes_nothing_in_the_trash_older_than_it_is(node: Node) -> None:
    entry = remove(node)
    begin = node.fake.clock
    for behind in (DAY, 400 * DAY, 300 * DAY, 0):
        node.fake.clock = begin + HOUR - behind
        assert node.trash.give_up() == ([], [])
    (found,) = node.trash.entries()
    assert (found.entry, found.removed) == (entry, begin)


@pytest.mark.parametrize("behind", [9 * DAY, 400 * DAY, 19_675 * DAY])
def test_what_is_removed_while_the_clock_is_behind_is_kept_once_that_is_set_right(node: Node, behind: int) -> None:
    assert node.trash.give_up() == ([], [])
    node.fake.clock -= behind
    entry = remove(node)
    node.fake.clock += behind + HOUR
    assert node.trash.give_up() == ([], [])
    assert node.trash.entries()[0].as_json(7, node.trash.until())["expires"] == int(node.fake.clock) + 7 * DAY
    for _day in range(7):
        assert node.trash.give_up() == ([], [])
        node.fake.clock += DAY
    assert node.trash.give_up() == ([entry], [])


def test_a_clock_that_goes_back_a_little_is_not_written_down(node: Node) -> None:
    node.trash.give_up()
    node.fake.clock -= HOUR
    remove(node)
    assert clock.parse(node.marks("zfs/vm")[clock.MARK])[0] == node.fake.clock + HOUR


@pytest.mark.parametrize("mark", ["", "x", "1 x", "-1 5", "1", "1 2 3"])
def test_a_mark_of_the_clock_that_is_not_understood_is_none(mark: str) -> None:
    assert clock.parse(mark) == (0.0, 0.0)


@quick
@given(st.lists(st.integers(0, 20 * DAY), min_size=1, max_size=30), st.integers(1, 20))
def test_nothing_expires_before_it_was_kept_for_as_long_as_is_set_by_a_clock_that_jumps(steps: list[int], days: int) -> None:
    """However the clock jumps ahead, between being put there and expiring there were as many days without a jump."""
    now, known, steady = float(10**9), (0.0, 0.0), 0
    removed = now
    known = clock.tick(*known, now, days * DAY)
    for step in steps:
        now += step
        steady = 0 if step > clock.JUMP else steady + step
        known = clock.tick(*known, now, days * DAY)
        expired = plan_giving_up([("a", int(removed), 1)], now=now, days=days, missing=0, until=known[1]) == ["a"]
        assert not expired or steady >= days * DAY


def test_the_oldest_is_given_up_early_where_room_is_short(node: Node) -> None:
    old = remove(node, "old")
    node.fake.clock += HOUR
    young = remove(node, "young")
    used = node.fake.datasets("zfs/vm", depth=0)[0].used
    node.fake.available = used // 9 - 1000  # a little less than a tenth
    assert node.trash.give_up() == ([old], [])
    assert [entry.entry for entry in node.trash.entries()] == [young]


@pytest.mark.parametrize("behind", [0, 2 * HOUR, 30 * DAY, 10000 * DAY])
@pytest.mark.parametrize("looked", [False, True], ids=["", "looked"])
def test_what_was_removed_first_is_the_oldest_whatever_the_clock_says_now(
    node: Node, monkeypatch: pytest.MonkeyPatch, behind: int, looked: bool
) -> None:
    first = remove(node, "zeta")
    node.fake.clock += HOUR
    second = remove(node, "alpha")
    node.fake.clock -= behind
    if looked:
        node.trash.give_up()
        node.fake.clock += HOUR
    monkeypatch.setattr(node.trash, "_missing", lambda: 1)
    assert [entry.entry for entry in node.trash.entries()] == [first, second]
    assert node.trash.give_up() == ([first], [])


def test_the_newest_of_an_instance_is_meant_though_the_clock_was_ahead(node: Node) -> None:
    node.fake.clock += 10000 * DAY
    remove(node)
    node.fake.clock += HOUR
    newest = remove(node)
    node.fake.clock -= 10000 * DAY
    assert choose([entry.as_json(7) for entry in node.trash.entries()], "web1") == newest


def test_an_entry_that_somebody_is_at_work_on_keeps_no_other_from_going(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    old, young = remove(node, "old"), remove(node, "young")
    node.fake.clock += 30 * DAY
    alone = node.trash._alone

    def busy(entry: str) -> Any:
        if entry == old:
            raise Unavailable(f"{entry} in the trash", "another operation of ours is at work on it")
        return alone(entry)

    monkeypatch.setattr(node.trash, "_alone", busy)
    assert node.trash.give_up() == ([young], [f"{old}: another operation of ours is at work on it"])


def test_a_root_that_may_have_but_a_part_of_its_pool_is_short_of_its_own_space_only(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real = node.fake._dataset

    def dataset(name: str, wanted: frozenset[str]) -> Dataset:
        found = real(name, wanted)
        found.used, found.available = (10 << 40, 90 << 40) if name == "zfs" else (1 << 40, 4 << 40)  # zfs/vm has a quota
        return found

    entry = remove(node)
    monkeypatch.setattr(node.fake, "_dataset", dataset)
    assert node.trash.give_up() == ([], [])
    assert [found.entry for found in node.trash.entries()] == [entry]


def test_what_is_being_restored_neither_expires_nor_makes_room(node: Node) -> None:
    remove(node)
    node.trash.mark_restoring(ENTRY, "web1")
    node.fake.clock += 100 * DAY
    node.fake.available = 0
    assert node.trash.give_up() == ([], [])
    node.trash.unmark(ENTRY)
    assert node.trash.give_up() == ([ENTRY], [])


@pytest.mark.parametrize("volume", [False, True])
def test_what_is_reserved_at_the_moment_of_its_destruction_is_not_lost(node: Node, monkeypatch: pytest.MonkeyPatch, volume: bool) -> None:
    entry = remove(node)
    other, find = Trash(node.store), node.trash.find
    if volume:
        node.fake.set(node.kept(entry), {VOLUME: "web1"})

    def found(wanted: str) -> Entry:
        seen = find(wanted)
        monkeypatch.setattr(node.trash, "find", find)
        other.reserve(entry, "secret") if volume else other.mark_restoring(entry, "web1")
        return seen

    monkeypatch.setattr(node.trash, "find", found)
    node.fake.clock += 30 * DAY
    assert node.trash.give_up() == ([], [f"{entry}: is being restored"])


def test_what_is_being_destroyed_cannot_be_reserved(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = remove(node)
    destroy, refused = node.fake.destroy, []

    def reserve() -> None:
        try:
            Trash(node.store).mark_restoring(entry, "web1")
        except Missing as error:
            refused.append(error.what)

    waiting = threading.Thread(target=reserve)

    def destroyed(*arguments: Any, **options: Any) -> None:
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        destroy(*arguments, **options)

    monkeypatch.setattr(node.fake, "destroy", destroyed)
    node.trash.destroy(entry)
    waiting.join(10)
    assert refused == [f"{entry} in the trash"]


def test_what_others_put_there_is_neither_listed_nor_given_up(node: Node) -> None:
    remove(node)
    node.fake.foreign("zfs/vm/.trash/theirs:20200101T000000Z", {INSTANCE: "theirs", CLUSTER: "other.example.com"})
    node.fake.foreign("zfs/vm/.trash/plain")
    node.fake.foreign("zfs/vm/.trash/notime", OURS)
    assert [entry.entry for entry in node.trash.entries()] == [ENTRY]
    node.fake.clock += 100 * DAY
    assert node.trash.give_up() == ([ENTRY], [])
    with pytest.raises(Missing):
        node.trash.destroy("theirs:20200101T000000Z")
    with pytest.raises(Missing):
        node.trash.mark_restoring("plain", "web1")


# the way back


def added_again(node: Node, name: str = "web1", **files: bytes) -> None:
    node.trash.mark_restoring(ENTRY, name)
    node.store.admit(name, [GIB], fresh=True)
    node.ganeti_writes(name, **(files or {"new0": b"", "new1": b""}))


@pytest.mark.parametrize("name", ["web1", "web2"])
def test_a_restored_instance_has_its_disks_under_their_new_names(node: Node, name: str) -> None:
    remove(node)
    node.fake.set(f"zfs/vm/.trash/{ENTRY}", {MOVE: Leaving("node2", LEFT, ran=True, until=0).pack()})
    added_again(node, name)
    node.trash.swap_in(ENTRY, name, [("disk0", "new0"), ("disk1", "new1")])
    assert node.reads(name) == {"new0": b"zero", "new1": b"one"}
    assert node.datasets() == [".trash", name]
    # what a move that was interrupted as the last thing of all has left on it is forgotten
    former = '{"new0":["disk0"],"new1":["disk1"]}'  # which older snapshots go by
    assert node.marks(f"zfs/vm/{name}") == {INSTANCE: name, CLUSTER: CLUSTER_NAME, FORMER: former}
    node.fake.boot()
    assert node.reads(name) == {"new0": b"zero", "new1": b"one"}


def test_no_disk_is_shorter_than_ganeti_believes(node: Node) -> None:
    """Such as a clone of a snapshot that is older than a grow, and that was killed before it was as long."""
    remove(node)
    added_again(node, new0=bytes(3), new1=bytes(10))
    node.trash.swap_in(ENTRY, "web1", [("disk0", "new0"), ("disk1", "new1")])
    assert node.reads("web1") == {"new0": b"zero", "new1": b"one".ljust(10, b"\0")}


def test_no_disk_takes_the_name_of_another(node: Node) -> None:
    remove(node)
    added_again(node, "web1", disk1=b"", new1=b"")
    before = node.whole_state()
    with pytest.raises(Refused) as caught:
        node.trash.swap_in(ENTRY, "web1", [("disk0", "disk1"), ("disk1", "new1")])
    assert str(caught.value) == f"disk1 in zfs/vm/.trash/{ENTRY}: is there already and would be lost: move it away"
    assert node.whole_state() == before


def test_a_disk_that_is_not_there_stops_the_restore(node: Node) -> None:
    remove(node)
    added_again(node)
    before = node.whole_state()
    with pytest.raises(Missing) as caught:
        node.trash.swap_in(ENTRY, "web1", [("disk0", "new0"), ("disk7", "new1")])
    assert str(caught.value) == f"disk7 in zfs/vm/.trash/{ENTRY} does not exist"
    assert node.whole_state() == before


@pytest.mark.parametrize("last", ["rename_files", "set"])
def test_a_restore_that_was_given_up_half_way_can_be_made_once_more(node: Node, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files bear the names that the instance had which was removed meanwhile, and which no record knows."""
    remove(node)
    added_again(node)
    calls = {"rename_files": (Trash, "_drop_fresh"), "set": (os, "rename")}[last]

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*calls, killed)
        with pytest.raises(KeyboardInterrupt):
            node.trash.swap_in(ENTRY, "web1", [("disk0", "new0"), ("disk1", "new1")])
    node.put_aside("web1", "remove")
    fresh = node.trash.put("web1")
    assert fresh is not None
    node.trash.unmark(ENTRY)
    added_again(node, newer0=b"", newer1=b"")
    node.trash.swap_in(ENTRY, "web1", [("disk0", "newer0"), ("disk1", "newer1")])
    assert node.reads("web1") == {"newer0": b"zero", "newer1": b"one"}
    former = former_names(node.marks("zfs/vm/web1")[FORMER])
    assert {file: names[-1] for file, names in former.items()} == {"newer0": "disk0", "newer1": "disk1"}


@pytest.mark.parametrize("files", [{"new0": b"", "other": b"x"}, {"new0": os.urandom(9000), "new1": b""}])
def test_an_instance_that_has_data_is_not_swapped_away(node: Node, files: dict[str, bytes]) -> None:
    remove(node)
    added_again(node, "web1", **files)
    written = "other" if "other" in files else "new0"
    with pytest.raises(Refused) as caught:
        node.trash.swap_in(ENTRY, "web1", [("disk0", "new0"), ("disk1", "new1")])
    way_out = "gnt-zfs check --repair gives this restore up, then --as ANOTHER-NAME makes one beside it"
    assert str(caught.value) == f"{node.home('web1')}: {written} holds data already: {way_out}"
    assert node.reads("web1") == files
    assert node.fake.files(f"zfs/vm/.trash/{ENTRY}") == {"disk0": b"zero", "disk1": b"one"}, "what is restored then bears other names"


def test_a_fresh_dataset_in_use_is_not_swapped_away(node: Node) -> None:
    remove(node)
    added_again(node)
    with node.fake.held_open("zfs/vm/web1", "process kvm (7)"), pytest.raises(Busy):
        node.trash.swap_in(ENTRY, "web1", [("disk0", "new0"), ("disk1", "new1")])
    node.trash.swap_in(ENTRY, "web1", [("disk0", "new0"), ("disk1", "new1")])
    assert node.reads("web1") == {"new0": b"zero", "new1": b"one"}


def test_an_entry_is_restored_as_one_instance_at_a_time(node: Node) -> None:
    remove(node)
    node.trash.mark_restoring(ENTRY, "web2")
    node.trash.mark_restoring(ENTRY, "web2")
    with pytest.raises(Refused) as caught:
        node.trash.mark_restoring(ENTRY, "web3")
    ways = f"gnt-zfs trash restore {ENTRY} --as web2 goes on, gnt-zfs check --repair gives that up"
    assert str(caught.value) == f"{ENTRY}: is being restored as web2: {ways}"
    assert node.marks(f"zfs/vm/.trash/{ENTRY}")[RESTORING] == "web2"
    node.trash.unmark(ENTRY)  # as a repair does
    node.store.admit("web2", [GIB], fresh=True)
    added_again(node, "web3")
    before = node.whole_state()
    with pytest.raises(Refused, match=f"^{ENTRY}: is being restored as web3 by now: gnt-instance remove web2$"):
        node.trash.swap_in(ENTRY, "web2", [("disk0", "new0"), ("disk1", "new1")])
    assert node.whole_state() == before
    node.trash.swap_in(ENTRY, "web3", [("disk0", "new0"), ("disk1", "new1")])
