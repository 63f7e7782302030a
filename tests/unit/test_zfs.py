"""What the real backend refuses before it asks ZFS for anything."""

from __future__ import annotations

import sys

import pytest

from zfsganeti.errors import Unavailable
from zfsganeti.zfs import Zfs


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
