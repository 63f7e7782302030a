"""One disk of an instance: which one is meant, and what can be done with it while nobody uses it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakeloop import FakeLoop
from tests.node import Node
from zfsganeti import contents, disks
from zfsganeti.contents import directory_size
from zfsganeti.disks import Disk, datasets_of, find_instance, locate, split
from zfsganeti.errors import BadInput, BadName, Busy, Missing, NoSpace, Refused, ZfsGanetiError
from zfsganeti.exports import verify
from zfsganeti.images import Images
from zfsganeti.volumes import Volumes

MIB = 1 << 20
VOLUME = "0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c11.ext.disk0"


def instance(name: str, *disks: tuple[str, str, str], state: str = "down") -> Any:
    made = [SimpleNamespace(template=template, volume=volume, path=path) for template, volume, path in disks]
    return SimpleNamespace(name=name, disks=made, admin_state=state, primary="node1")


WEB = instance(
    "web1.example.com", ("file", "", "/zfs/vm/web1.example.com/a.file.disk0"), ("file", "", "/zfs/vm/web1.example.com/b.file.disk1")
)
EXT = instance("ext1", ("ext", VOLUME, ""))
PLAIN = instance("plain1", ("plain", "", ""))
ALL = {each.name: each for each in (WEB, EXT, PLAIN)}


def here(node: Node) -> Any:
    return SimpleNamespace(store=node.store, volumes=Volumes(node.store, FakeLoop(node.fake.reaper)), images=Images(node.store))


def test_which_disk_is_meant() -> None:
    assert split("web1/3") == ("web1", 3)
    assert split("web1") == ("web1", 0)
    found, disk = locate(ALL, "web1/1")
    assert found is WEB
    assert disk == {"instance": "web1.example.com", "disk": 1, "volume": "", "file": "b.file.disk1"}
    assert locate(ALL, "ext1")[1]["volume"] == VOLUME
    assert datasets_of(WEB) == ["web1.example.com"]
    assert datasets_of(EXT) == [VOLUME]
    assert datasets_of(PLAIN) == []
    for text, error in (("web1/2", Missing), ("nobody", Missing), ("plain1", Refused), ("web1/x", BadInput), ("../x/0", BadInput)):
        with pytest.raises(error):
            locate(ALL, text)
    with pytest.raises(BadInput):
        find_instance({**ALL, "web1.other.org": instance("web1.other.org")}, "web1")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"instance": "web1"},
        {"instance": "web1", "disk": 0, "volume": "", "file": "../x"},
        {"instance": "web1", "disk": 0, "volume": "", "file": ""},
    ],
)
def test_a_peer_that_asks_for_no_disk_is_refused(node: Node, request_: dict[str, Any]) -> None:
    with pytest.raises((BadInput, BadName)):
        Disk(here(node), request_)


def disk_of(node: Node, content: bytes) -> Disk:
    node.has("web1", disk0=content.ljust(8 * MIB, b"\0"))
    return Disk(here(node), {"instance": "web1", "disk": 0, "volume": "", "file": "disk0"})


def test_a_formatted_disk_has_its_size_and_what_it_held_is_kept(node: Node, tmp_path: Path) -> None:
    disk = disk_of(node, b"data")
    disk.make_swap()
    held = Path(disk.path).read_bytes()
    assert held[4086:4096] == b"SWAPSPACE2"
    assert len(held) == 8 * MIB
    (snapshot,) = [name for name, _created, _used in node.fake.snapshots("zfs/vm/web1")]
    assert node.fake.snapshot_files(snapshot)["disk0"].startswith(b"data")
    (tmp_path / "files").mkdir()
    node.fake.clock += 1
    disk.fill(str(tmp_path / "files"))
    assert Path(disk.path).read_bytes()[1080:1082] == b"\x53\xef", "the magic of ext4"
    for directory in ("files", str(tmp_path / "nothing")):
        with pytest.raises(Missing):
            disk.fill(directory)


@pytest.mark.parametrize("killed", [False, True])
def test_a_disk_is_as_it_was_when_it_cannot_be_formatted(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    disk = disk_of(node, b"data")
    if killed:
        Path(f"{disk.path}.new").write_bytes(b"rest")
    before = {name: content for name, content in node.reads("web1").items() if name == "disk0"}
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "large").write_bytes(b"x" * 8 * MIB)
    with pytest.raises(Refused) as caught:
        disk.fill(str(tmp_path / "files"))
    assert str(caught.value) == f"{tmp_path}/files: holds 8.00M, a disk of 8.00M takes 7.88M at most"
    (tmp_path / "files" / "large").write_bytes(b"x" * (7 * MIB + MIB // 2))
    with pytest.raises(ZfsGanetiError, match="mke2fs"):
        disk.fill(str(tmp_path / "files"))
    available, node.fake.available = node.fake.available, 1 << 20
    with pytest.raises(NoSpace, match="are kept free"):
        disk.fill(str(tmp_path / "files"))
    node.fake.available = available

    def interrupted(_path: str, _size: None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(disks, "make_swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disk.make_swap()
    assert node.reads("web1") == before
    assert node.fake.snapshots("zfs/vm/web1") == []


def test_what_is_compressed_or_sparse_counts_as_the_data_that_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "small").write_bytes(b"x")
    (tmp_path / "again").hardlink_to(tmp_path / "below" / "small")
    (tmp_path / "link").symlink_to("small")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(32 * MIB)
        file.write(b"x" * MIB)
    assert directory_size(str(tmp_path)) == MIB + 1024
    monkeypatch.setattr(contents, "data_ranges", lambda _descriptor, size: [(0, size)])  # as of a file that ZFS has compressed
    assert directory_size(str(tmp_path)) == 64 * MIB + 1024


def test_a_disk_in_use_is_not_formatted(node: Node) -> None:
    disk = disk_of(node, b"data")
    with open(disk.path, "rb"), pytest.raises(Busy) as caught:
        disk.make_swap()
    assert str(caught.value).endswith("gnt-instance stop web1")
    assert Path(disk.path).read_bytes().startswith(b"data")


def test_an_image_of_a_disk_is_independent_of_it(node: Node) -> None:
    disk = disk_of(node, b"data")
    made = disk.save("web:1")
    assert (made["size"], made["format"], made["source"]) == (8 * MIB, "raw", "disk 0 of web1 in cluster.example.com")
    assert [name for name, _created, _used in node.fake.snapshots("zfs/vm/web1")] == []
    assert node.fake.files("zfs/vm/.images/web:1")["disk.raw"].startswith(b"data")
    verify(Images(node.store), "web:1")
    node.store.zfs.unmount(node.home("web1"))
    node.store.zfs.destroy("zfs/vm/web1", node.store.marks("web1"))
