"""What may be a name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node import Node
from zfsganeti.datasets import COPIES, IMAGES, MOVING, OLD, PARTIAL, TRASH
from zfsganeti.errors import BadName
from zfsganeti.image import GOLDEN
from zfsganeti.images import LOOK
from zfsganeti.names import (
    NEEDED_BYTES,
    SNAPSHOT_VOLUME,
    check_dataset,
    check_fits,
    check_image,
    check_image_fits,
    check_kept,
    check_root,
    check_snapshot,
    longest_below,
    meant,
)
from zfsganeti.rollback_plan import beside
from zfsganeti.trash import entry_name
from zfsganeti.volumes import Volumes

quick = settings(max_examples=300, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", ["debian-12", "debian-12:2026-11-01", "9front", "Win_11.pro:v1", "a", "x" * 100, "a:1-b"])
def test_an_image_may_be_called_so(name: str) -> None:
    assert check_image(name) == name


@pytest.mark.parametrize(
    "name", ["", ".hidden", "-o", "_x", ":v1", "a:", "a:b:c", "a/b", "..", "a@b", "a b", "a\n", "ä", "x" * 101, "a#b", "a\0"]
)
def test_an_image_may_not_be_called_so(name: str) -> None:
    with pytest.raises(BadName, match="^image name "):
        check_image(name)


@quick
@given(st.text(alphabet="ab1.-_:/@ \n", max_size=12))
def test_an_image_is_one_component_of_a_dataset_and_no_option(name: str) -> None:
    try:
        check_image(name)
    except BadName:
        return
    assert check_dataset(f"zfs/vm/.images/.partial/{name}").count("/") == 4
    assert check_snapshot(f"zfs/vm/{name}@{name}")
    assert name[0] not in "-."


INSTANCES = ["mail.example.com", "web1.example.com", "web2.example.com"]


@pytest.mark.parametrize(
    ("typed", "known", "said"),
    [
        ("chekc", ["check", "list"], "did you mean check?"),
        ("mial", INSTANCES, "did you mean mail.example.com?"),
        ("wbe1", INSTANCES, "did you mean web1.example.com?"),
        ("web1.exmaple.com", INSTANCES, "did you mean web1.example.com?"),
        ("debina-12", ["debian-12:2026-11-01", "windows"], "did you mean debian-12:2026-11-01?"),
        ("webb", INSTANCES, "did you mean web2.example.com or web1.example.com?"),
        ("web9", INSTANCES, "look"),  # another number is another thing
        ("debian-13", ["debian-12:2026-11-01", "debian-12"], "look"),
        ("xyzzy", INSTANCES, "look"),
        ("", INSTANCES, "look"),
        ("web1", [], "look"),
    ],
)
def test_what_was_probably_meant(typed: str, known: list[str], said: str) -> None:
    assert meant(typed, known, "look") == said


# near the limit of what ZFS takes

TAKEN = (  # by whomever: sanoid, a removal, a move, a copy that becomes independent
    "autosnap_2026-11-22_00:10:01_frequently",
    "zfsganeti-removed-20261122T001001Z",
    "zfsganeti-move-99999",
    "zfsganeti-copy-99999",
    "x" * 64,
)
ROOTS = st.lists(st.text("ab1", min_size=1, max_size=60), min_size=1, max_size=4).map("/".join)


def taken_before(count: int) -> Callable[[str], bool]:
    """Return what says of so many names that they are taken."""
    number = iter(range(count))
    return lambda _name: next(number, None) is not None


@quick
@given(ROOTS, st.integers(1, 200), st.floats(0, 4e9), st.integers(0, 98))
def test_whatever_a_dataset_may_be_called_so_may_all_that_comes_of_it(root: str, length: int, when: float, before: int) -> None:
    name = "n" * length
    try:
        check_fits("volume", name, root)
    except BadName:
        return
    for short in (name, name + SNAPSHOT_VOLUME):
        entry = entry_name(short, when, taken_before(before))
        places = (short, f"{TRASH}/{entry}", f"{COPIES}/{short}", f"{COPIES}/{short}{OLD}", f"{MOVING}/{short}")
        for taken in TAKEN:
            assert check_kept(f"{root}/{short}", taken) == taken
            for place in (*(f"{root}/{place}" for place in places), beside(f"{root}/{short}")):
                assert check_snapshot(f"{place}@{taken}")


@quick
@given(ROOTS, st.integers(1, 100))
def test_whatever_an_image_may_be_called_it_can_be_made_and_received(root: str, length: int) -> None:
    name = "i" * length
    try:
        check_image_fits(name, root)
    except BadName:
        return
    for place in (name, f"{PARTIAL}/{name}", f"{PARTIAL}/{name}{LOOK}"):
        assert check_snapshot(f"{root}/{IMAGES}/{place}@{GOLDEN}")


@quick
@given(ROOTS)
def test_below_whatever_may_be_a_root_there_is_room_for_a_name(root: str) -> None:
    try:
        check_root(root)
    except BadName:
        return
    assert check_fits("volume", "v" * NEEDED_BYTES, root)


def test_the_limit_is_named() -> None:
    assert longest_below("zfs/vm") == 151
    with pytest.raises(BadName, match=f"^instance name '{'n' * 80}': is too long, 151 characters are the most below zfs/vm$"):
        check_fits("instance", "n" * 152, "zfs/vm")
    with pytest.raises(BadName, match="is too long, 94 characters are the most$"):
        check_root("r" * 95)
    assert check_root("r" * 94)
    with pytest.raises(BadName, match="is too long, 94 characters are the most below r"):
        check_image_fits("i" * 95, "r" * 130)
    with pytest.raises(BadName, match="is too long to follow zfs/vm/web1 into the trash, 216 characters are the most"):
        check_kept("zfs/vm/web1", "s" * 217)


@pytest.mark.parametrize("length", [151, 152, 200])
def test_what_could_not_go_into_the_trash_is_refused_when_it_is_made(node: Node, length: int) -> None:
    """An instance that is added, one that is renamed, and a volume; what is let in goes in and out of the trash under sanoid's eyes."""
    name, volumes = "n" * length, Volumes(node.store)
    if length > 151:
        for attempt in (
            lambda: node.store.admit(name, []),
            lambda: node.store.refuse_taken(name),
            lambda: volumes.create(name, 1 << 20, {}),
        ):
            with pytest.raises(BadName, match="151 characters are the most below zfs/vm"):
                attempt()
        assert node.datasets() == []
        return
    node.has(name, disk0=b"data")
    node.fake.snapshot([f"zfs/vm/{name}@{taken}" for taken in TAKEN[:1]])
    node.store.put_aside(name, "remove", ["disk0"], {"name": name, "disks": []})
    node.ganeti_removes(name)
    entry = node.trash.put(name)
    assert entry is not None
    node.store.admit(name, [])
    node.trash.swap_in(entry, name, [("disk0", "disk1")])
    assert node.reads(name) == {"disk1": b"data"}
