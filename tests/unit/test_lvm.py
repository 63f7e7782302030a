"""LVM's reports, and the kernel's table of what changed since a snapshot, made here and read back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti import lvm
from zfsganeti.errors import BadInput, Refused, Unavailable
from zfsganeti.lvm import (
    ENTRY,
    HEADER,
    MAGIC,
    Logical,
    NoTable,
    _escape,
    _mapped,
    changed,
    check,
    claims,
    drop,
    parse,
    snapshot_name,
    users,
    writes,
)

quick = settings(max_examples=80, deadline=None, derandomize=True)
MIB = 1 << 20
REPORT = """
  { "report": [ { "lv": [
    {"vg_name":"ganeti", "lv_name":"e7.disk0", "lv_uuid":"3yDvEJ", "lv_size":"37748736", "lv_attr":"owi-a-s---", "lv_tags":"",
     "origin":"", "snap_percent":""},
    {"vg_name":"ganeti", "lv_name":"zfsganeti-12-e7.disk0", "lv_uuid":"Q1W9pn", "lv_size":"16777216", "lv_attr":"sri-a-s---",
     "lv_tags":"x,zfsganeti", "origin":"e7.disk0", "snap_percent":"1.95"},
    {"vg_name":"ganeti", "lv_name":"zfsganeti-2-e7.disk0", "lv_uuid":"Q1W9pm", "lv_size":"16777216", "lv_attr":"sri-I-s---",
     "lv_tags":"zfsganeti", "origin":"e7.disk0", "snap_percent":"100.00"},
    {"vg_name":"ganeti", "lv_name":"zfsganeti-mine", "lv_uuid":"Q1W9px", "lv_size":"16777216", "lv_attr":"swi-a-s---",
     "lv_tags":"", "origin":"e7.disk0", "snap_percent":"3.00"}
  ] } ] }
"""


def table(old_chunks: list[int], sectors: int, *, valid: int = 1, magic: int = MAGIC, version: int = 1, swap: bool = False) -> bytes:
    """Return a snapshot's volume as the kernel writes it; with `swap`, entries are committed in another order than allocated."""
    chunk = sectors * 512
    entries = chunk // ENTRY.size
    place, places = 2, []
    for _old in old_chunks:
        places.append(place)
        place += 1
        if place % (entries + 1) == 1:
            place += 1
    if swap:
        places.reverse()
    areas = len(old_chunks) // entries + 1
    volume = bytearray((1 + areas * (entries + 1)) * chunk)
    HEADER.pack_into(volume, 0, magic, valid, version, sectors)
    for number, (old, new) in enumerate(zip(old_chunks, places, strict=True)):
        area, index = divmod(number, entries)
        ENTRY.pack_into(volume, (1 + area * (entries + 1)) * chunk + index * ENTRY.size, old, new)
    return bytes(volume)


def read(volume: bytes, size: int = 1 << 40) -> tuple[int, set[int]]:
    return changed(lambda offset, length: volume[offset : offset + length], size)


@quick
@given(st.lists(st.integers(0, 10_000), unique=True, max_size=700), st.sampled_from((8, 16)), st.booleans())
def test_the_table_tells_which_chunks_changed(old_chunks: list[int], sectors: int, swap: bool) -> None:
    assert read(table(old_chunks, sectors, swap=swap)) == (sectors * 512, set(old_chunks))


def test_a_table_that_ends_with_its_area_goes_on_in_the_next() -> None:
    full = list(range(256))
    assert read(table(full, 8)) == (4096, set(full))
    assert read(table([*full, 300], 8)) == (4096, {*full, 300})


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (b"", "ends too early"),
        (bytes(1 << 16), "no table of changes that is known"),
        (table([1], 8, magic=1), "no table of changes that is known"),
        (table([1], 8, version=2), "no table of changes that is known"),
        (table([1], 8, valid=0), "overflowed"),
        (table([1], 8)[:4100], "ends too early"),
        (HEADER.pack(MAGIC, 1, 1, 7) + bytes(65536), "make no sense"),
        (HEADER.pack(MAGIC, 1, 1, 0) + bytes(65536), "make no sense"),
        (HEADER.pack(MAGIC, 1, 1, 1 << 20) + bytes(65536), "make no sense"),
    ],
)
def test_what_is_no_table_of_a_valid_snapshot_is_not_believed(volume: bytes, said: str) -> None:
    with pytest.raises(NoTable, match=said):
        read(volume)


def test_a_table_of_nonsense_is_not_believed() -> None:
    with pytest.raises(NoTable, match="chunk 5 of 5"):
        read(table([5], 8), 5 * 4096)
    assert read(table([4], 8), 5 * 4096 - 1) == (4096, {4})
    volume = bytearray(table([1], 8))
    ENTRY.pack_into(volume, 4096, 3, 257 + 1)
    with pytest.raises(NoTable, match="kept in chunk 258"):
        read(bytes(volume))
    endless = bytearray(table([], 8) * 40)
    for area in range(40):
        for index in range(256):
            if (1 + area * 257) * 4096 + index * 16 + 16 <= len(endless):
                ENTRY.pack_into(endless, (1 + area * 257) * 4096 + index * 16, 1, 2)
    with pytest.raises(NoTable):
        read(bytes(endless), 100 * 4096)


@quick
@given(st.binary(max_size=9000))
def test_rubbish_is_a_table_or_none(rubbish: bytes) -> None:
    try:
        read(HEADER.pack(MAGIC, 1, 1, 8) + rubbish, MIB)
    except NoTable:
        pass


def test_reports_are_understood() -> None:
    origin, snapshot, full, stranger = parse(REPORT)
    assert (origin.path, origin.size, origin.active, origin.ours) == ("/dev/ganeti/e7.disk0", 37748736, True, False)
    assert (snapshot.ours, snapshot.number, snapshot.valid, snapshot.origin) == (True, 12, True, "e7.disk0")
    assert (full.ours, full.valid) == (True, False)
    assert not stranger.ours
    for text in ("", "{}", "[]", '{"report": 1}'):
        with pytest.raises(Unavailable):
            parse(text)


@pytest.mark.parametrize("changes", [{"tags": ()}, {"name": "web1.disk0"}, {"origin": ""}])
def test_nothing_is_dropped_that_is_not_ours(changes: dict[str, object]) -> None:
    fields = {
        "vg": "ganeti",
        "name": "zfsganeti-1-x",
        "uuid": "u",
        "size": 1,
        "attributes": "sri-a-s---",
        "tags": ("zfsganeti",),
        "origin": "x",
    }
    with pytest.raises(Refused, match="is not a snapshot that zfsganeti took"):
        drop(Logical(**{**fields, **changes}))  # type: ignore[arg-type]


def test_names() -> None:
    assert snapshot_name("x.disk0_data", 3) == "zfsganeti-3-x.disk0_data"
    assert _escape("a-b--c") == "a--b----c"
    for name in ("-x", "a/b", "", "a b", "x" * 127, ".."):
        with pytest.raises(BadInput):
            check(name)


def test_a_mapping_is_found_by_its_name(tmp_path: Path) -> None:
    for number, name in enumerate(("ganeti-x", "ganeti-x-cow")):
        (tmp_path / f"dm-{number}" / "dm").mkdir(parents=True)
        (tmp_path / f"dm-{number}" / "dm" / "name").write_text(f"{name}\n")
    (tmp_path / "sda").mkdir()
    assert _mapped("ganeti/x", "ganeti-x-cow", str(tmp_path)) == "/dev/dm-1"
    with pytest.raises(NoTable, match="is not active"):
        _mapped("ganeti/y", "ganeti-y-cow", str(tmp_path))


# who uses it


class File(Logical):
    """A volume that is a file."""

    @property
    def path(self) -> str:
        return self.vg


DEVICE = os.makedev(253, 7)


def system(place: Path, files: dict[str, str]) -> str:
    """Return a /sys with these files."""
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(place)


def test_what_the_kernel_does_with_a_volume_is_seen(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "29 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n"
        "81 29 253:7 / /mnt/rescue rw,relatime shared:9 - ext4 /dev/mapper/vg-one rw\n"
        "82 29 0:50 / /mnt/other rw,relatime - tmpfs tmpfs rw\n"
    )
    made = system(
        tmp_path / "sys",
        {
            "dev/block/253:7/holders/dm-9": "",
            "dev/block/253:7/holders/drbd0": "",
            "block/dm-9/dm/name": "vg-one1\n",
            "block/loop0/loop/backing_file": "/srv/image\n",
        },
    )
    assert claims(DEVICE, made, str(mounts)) == ["the mount at /mnt/rescue", "/dev/mapper/vg-one1"]
    assert claims(os.makedev(253, 8), made, str(mounts)) == []
    assert claims(0, made, str(mounts)) == []


def test_a_loop_device_and_a_mount_by_name_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvm, "device", lambda path: DEVICE if path == "/dev/vg/one" else 0)
    mounts = tmp_path / "mountinfo"
    mounts.write_text("81 29 0:51 / /mnt/btrfs rw - btrfs /dev/vg/one rw\n")
    made = system(tmp_path / "sys", {"block/loop3/loop/backing_file": "/dev/vg/one\n"})
    assert claims(DEVICE, made, str(mounts)) == ["the mount at /mnt/btrfs", "/dev/loop3"]


def test_whatever_else_the_kernel_has_for_itself_is_seen_unless_drbd_is_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").write_bytes(b"")
    volume = File(str(tmp_path / "disk"), "", "", 0, "")
    monkeypatch.setattr(lvm, "processes", lambda: iter(()))
    assert users(volume) == []
    assert users(File(str(tmp_path / "not active"), "", "", 0, "")) == []

    def taken(path: str, flags: int) -> int:
        assert flags & os.O_EXCL
        raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr(os, "open", taken)
    assert users(volume) == ["the kernel, perhaps as swap"]
    assert users(volume, below=True) == []
    monkeypatch.setattr(lvm, "claims", lambda _device: ["the mount at /mnt"])
    assert users(volume, below=True) == ["the mount at /mnt"]


def test_what_was_written_is_counted_where_the_kernel_counts(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"")
    volume = File(str(tmp_path / "disk"), "", "uuid", 0, "")
    own = tmp_path / "sys/dev/block/0:0"
    (own / "queue").mkdir(parents=True)
    (tmp_path / "boot").write_text("b1\n")

    def told(stat: str, iostats: str = "1") -> str:
        (own / "stat").write_text(stat)
        (own / "queue/iostats").write_text(iostats)
        return writes(volume, str(tmp_path / "sys"), str(tmp_path / "boot"))

    old = "  10 0 80 4 7 0 56 2 0 6 6 1 0 8 0 0 0\n"
    assert told(old) == "b1 uuid 56 8"
    assert told(old.replace(" 80 ", " 88 ")) == told(old), "it was only read"
    assert len({told(old), told(old.replace("56", "64")), told(old.replace("8 0 0 0", "9 0 0 0"))}) == 3
    assert told(old, "0") == told("") == ""
