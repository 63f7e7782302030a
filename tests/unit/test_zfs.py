"""What the real backend refuses before it asks ZFS for anything."""

from __future__ import annotations

import sys

import pytest

from zfsganeti.errors import BadInput, Unavailable
from zfsganeti.zfs import Zfs, encode

SOURCE = "org.zfsganeti:source"


@pytest.mark.parametrize(
    ("change", "arguments"),
    [("create", ("zfs/vm/web1", {}, {})), ("clone", ("zfs/vm/a@golden", "zfs/vm/web1", {})), ("rename", ("zfs/vm/a", "zfs/vm/b"))],
)
def test_nothing_is_made_on_a_node_where_it_could_not_be_destroyed(
    monkeypatch: pytest.MonkeyPatch, change: str, arguments: tuple[object, ...]
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(Unavailable) as caught:
        getattr(Zfs(), change)(*arguments)
    assert str(caught.value) == "libzfs_core: python3-pyzfs is not installed (No module named 'libzfs_core'): apt install python3-pyzfs"


@pytest.mark.parametrize("value", ["a\tb", "a\nb", "a\0b", "a\udcff", "x" * 8192, "\N{SNOWMAN}" * 2731])
def test_what_would_garble_the_answers_of_zfs_is_never_set(value: str) -> None:
    with pytest.raises(BadInput) as caught:
        encode({}, {SOURCE: value})
    assert str(caught.value).startswith(f"user property {SOURCE}: its value must be up to 8191 bytes of printable text, and is ")
    assert str(caught.value).isascii()
    assert encode({}, {SOURCE: "/srv/\N{SNOWMAN}"}) == {SOURCE.encode(): "/srv/\N{SNOWMAN}".encode()}


@pytest.mark.parametrize(("value", "seen"), [("/srv/a\tb", "/srv/a\tb"), ("/srv/a\nb", None), ("a\x85b\u2028c\x1c", "a\x85b\u2028c\x1c")])
def test_a_property_that_was_set_by_hand_hides_no_other(monkeypatch: pytest.MonkeyPatch, value: str, seen: str | None) -> None:
    def said(_zfs: Zfs, *_words: str) -> str:
        others = f"zfs/b\t{SOURCE}\t/srv/b\tlocal\nzfs/c\t{SOURCE}\t/srv/c\tinherited from zfs\n"
        return f"zfs/a\t{SOURCE}\t{value}\tlocal\nzfs/a\tused\t5\t-\n{others}"

    monkeypatch.setattr(Zfs, "_command", said)
    found = {dataset.name: dataset for dataset in Zfs().datasets("zfs", marks=(SOURCE,)) if dataset.name.startswith("zfs/")}
    assert (found["zfs/a"].marks.get(SOURCE), found["zfs/a"].used) == (seen, 5)
    assert (found["zfs/b"].marks, found["zfs/c"].marks) == ({SOURCE: "/srv/b"}, {})


@pytest.mark.parametrize("name", ["tank", "tank/vm", "tank/vm/web1@one"])
def test_a_pool_whose_devices_are_gone_is_named(name: str) -> None:
    error = Zfs._command_error("zfs", ("list", name), 1, f"cannot open '{name}': pool I/O is currently suspended\n")
    assert isinstance(error, Unavailable)
    assert str(error) == "pool tank: is SUSPENDED: zpool status tank"


def test_a_held_snapshot_with_a_blank_in_its_name_keeps_no_lease_from_expiring(monkeypatch: pytest.MonkeyPatch) -> None:
    """`zfs snapshot` takes such names; the watcher looks at all holds below a root, every five minutes, and must come to their end."""

    def said(_zfs: Zfs, _program: str, verb: str, *words: str) -> str:
        if verb == "get":
            return "zfs/a@before upgrade\tuserrefs\t1\nzfs/a@one\tuserrefs\t1\nzfs/a@two\tuserrefs\t0\n"
        return "".join(f"{name}\tmine\tThu Dec  1 00:00 2026\n" for name in words[1:])

    monkeypatch.setattr(Zfs, "_command", said)
    assert Zfs().held("zfs/a") == {"zfs/a@one": ["mine"]}
