"""The catalogue of golden images on the fake ZFS: nothing half-made is seen, nothing used is lost, whatever dies."""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deaths.images import DISK0, DISK1, GOLD, MIB, Bench, holding, lendable, lent, made
from tests.killing import Failing, dies
from tests.node import CLUSTER_NAME, DAY, HOUR, Node
from tests.unit.test_sources import CONTENT, SHA256, serving
from zfsganeti import exports, files, formats, images
from zfsganeti.contents import find_directory, parse_parameters
from zfsganeti.datasets import CLUSTER, DETACH, IMAGE, INTENT, VOLUME
from zfsganeti.errors import BadInput, BadName, Busy, Foreign, Full, Missing, NoSpace, Refused, Unavailable, ZfsGanetiError
from zfsganeti.image import DELETED, Image, newest
from zfsganeti.names import check_image, family

QCOW2 = b"QFI\xfb\0\0\0\3"
quick = settings(max_examples=200, deadline=None, derandomize=True)


@pytest.fixture
def bench(node: Node) -> Bench:
    return Bench(node)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 7), (errno.EDQUOT, 7), (errno.EIO, 3)])
def test_an_image_for_which_there_is_no_room_says_so(bench: Bench, number: int, code: int) -> None:
    def fill(home: str) -> Mapping[str, str]:
        raise OSError(number, os.strerror(number), f"{home}/disk.raw")

    with pytest.raises(ZfsGanetiError, match="^image debian-12: ") as caught:
        bench.images.make("debian-12", "file:/x", fill)
    assert caught.value.exit_code == code
    assert bench.names() == []


# names


@quick
@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.:_-]{1,20}", fullmatch=True))
def test_any_name_is_an_images_or_bad(name: str) -> None:
    try:
        assert check_image(name) == name
    except BadName:
        return
    assert "/" not in name
    assert "@" not in name
    assert family(name)
    assert not name.startswith(".")


@pytest.mark.parametrize("name", ["", ":", "a:", ":a", "a:b:c", ".partial", "a/b", "a@b", "a b", "a..b", "-x", "x" * 101, "a:.b"])
def test_what_is_no_image_name_reaches_nothing(bench: Bench, name: str) -> None:
    for attempt in (bench.make, bench.images.find, bench.images.delete, bench.images.resolve, bench.images.retire):
        with pytest.raises(BadName):
            attempt(name)
    with pytest.raises(BadInput):
        parse_parameters({"image": name})
    assert bench.node.datasets() == []


# making


def test_an_image_appears_whole_with_what_is_known_of_it(bench: Bench) -> None:
    seen: list[list[str]] = []

    def fill(home: str) -> Mapping[str, str]:
        seen.append(bench.names())
        return holding()(home)

    made = bench.images.make("debian-12:2026-11-01", "https://example.com/debian.qcow2", fill)
    assert seen == [[]]
    assert (made.name, made.size, made.source, made.format) == ("debian-12:2026-11-01", MIB, "https://example.com/debian.qcow2", "raw")
    assert made.imported == bench.node.fake.clock
    assert made.clones == []
    assert list(bench.node.fake.files(made.dataset)) == ["disk.raw"]
    assert bench.node.fake.state()[made.dataset]["properties"] == {"canmount": "noauto", "readonly": "on"}
    assert bench.names() == ["debian-12:2026-11-01"]


def test_a_name_is_given_once(bench: Bench) -> None:
    bench.make()
    with pytest.raises(Refused) as caught:
        bench.make()
    assert str(caught.value) == "image debian-12: exists already: choose another version, such as debian-12:2023-11-14"
    bench.node.fake.foreign("zfs/vm/.images/other")
    with pytest.raises(Foreign):
        bench.make("other")
    assert bench.names() == ["debian-12"]


def test_what_fails_leaves_nothing_and_what_could_not_be_reached_is_gone_on_with(bench: Bench) -> None:
    bench.make("other")
    before = bench.state()

    def failing(error: Exception) -> Callable[[str], Mapping[str, str]]:
        def fill(home: str) -> Mapping[str, str]:
            Path(home, "download.part").write_bytes(b"half")
            raise error

        return fill

    for error in (Refused("x", "is truncated"), OSError(28, "full"), ValueError("a defect")):
        with pytest.raises((Refused, ValueError)):
            bench.images.make("debian-12", "http://example.com/x", failing(error))
        assert bench.state() == before
    with pytest.raises(Unavailable):
        bench.images.make("debian-12", "http://example.com/x", failing(Unavailable("example.com", "cannot be reached")))
    assert bench.names() == ["other"]
    found: list[str] = []

    def fill(home: str) -> Mapping[str, str]:
        found.extend(os.listdir(home))
        return holding()(home)

    bench.images.make("debian-12", "http://example.com/x", fill)
    assert found == ["download.part"]


def test_a_download_is_not_repeated_when_only_its_conversion_was_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_path: str, **_more: Any) -> None:
        raise KeyboardInterrupt

    with serving() as site:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(formats, "to_raw", interrupted)
            bench.images.import_from("debian-12", site.url())
        assert bench.names() == []
        image = bench.images.import_from("debian-12", site.url())
        assert site.ranges_asked() == [None, f"bytes={len(CONTENT) - 1}-"]
    assert image.checksum == SHA256
    assert list(bench.node.fake.files(image.dataset)) == ["disk.raw"]


def test_another_source_begins_anew(bench: Bench) -> None:
    def unreachable(home: str) -> Mapping[str, str]:
        Path(home, "download.part").write_bytes(b"half")
        raise Unavailable("example.com", "cannot be reached")

    def empty(home: str) -> Mapping[str, str]:
        assert os.listdir(home) == []
        return holding()(home)

    with pytest.raises(Unavailable):
        bench.images.make("debian-12", "http://example.com/x", unreachable)
    bench.images.make("debian-12", "http://example.com/y", empty)


def test_a_half_made_image_is_swept_after_a_day(bench: Bench) -> None:
    def unreachable(_home: str) -> Mapping[str, str]:
        raise Unavailable("example.com", "cannot be reached")

    with pytest.raises(Unavailable):
        bench.images.make("debian-12", "http://example.com/x", unreachable)
    assert bench.images.sweep() == []
    bench.later(DAY)
    assert bench.images.sweep() == [".partial/debian-12"]
    assert bench.node.datasets() == [".images", ".images/.partial"]


def test_snapshots_that_others_take_while_an_image_is_made_are_in_nobodys_way(bench: Bench) -> None:
    bench.make("debian-11")
    bench.create(image="debian-11")

    def others(*_progress: object) -> None:
        for name in bench.node.datasets():
            if name.startswith(".images/.partial/") and not bench.node.fake.snapshots(f"zfs/vm/{name}", depth=1):
                bench.node.fake.snapshot([f"zfs/vm/{name}@autosnap_hourly"])

    def unreachable(_home: str) -> Mapping[str, str]:
        others()
        raise Unavailable("example.com", "cannot be reached")

    snapshot = f"zfs/vm/{DISK0}@zfsganeti-save-1"
    bench.node.fake.snapshot([snapshot])
    bench.images.save("debian-12", snapshot, "disk.raw", "a disk", progress=others)
    bench.node.fake.destroy_snapshots([snapshot])
    with pytest.raises(Unavailable):
        bench.images.make("debian-13", "http://example.com/x", unreachable)
    bench.later(DAY)
    assert bench.images.sweep() == [".partial/debian-13"]
    assert not [name for name in bench.node.datasets() if name.startswith(".images/.partial/")]


def test_what_is_marked_as_another_image_does_not_go_with_what_others_took_of_it(bench: Bench) -> None:
    fake, partial = bench.node.fake, "zfs/vm/.images/.partial/debian-12"
    for name, marks in (("", {}), ("/.partial", {}), ("/.partial/debian-12", {CLUSTER: CLUSTER_NAME, IMAGE: "other"})):
        fake.create(f"zfs/vm/.images{name}", {"canmount": "noauto"}, marks)
    fake.snapshot([f"{partial}@autosnap_hourly"])
    with pytest.raises(Busy, match="has the snapshot autosnap_hourly, which is not ours"):
        bench.images.drop_half_made("debian-12")
    assert list(fake.state()[partial]["snapshots"]) == ["autosnap_hourly"]


@pytest.mark.parametrize("meanwhile", ["goes on", "goes"])
def test_a_half_made_image_that_somebody_goes_on_with_is_not_swept(bench: Bench, monkeypatch: pytest.MonkeyPatch, meanwhile: str) -> None:
    """Also when that happens after the sweep has looked, and before it is alone with the image."""

    def unreachable(_home: str) -> Mapping[str, str]:
        raise Unavailable("example.com", "cannot be reached")

    def tried() -> None:
        with pytest.raises(Unavailable):
            bench.images.make("debian-12", "http://example.com/x", unreachable)

    abandoned = bench.images._abandoned

    def looked() -> list[str]:
        found = abandoned()
        tried() if meanwhile == "goes on" else bench.images.drop_half_made("debian-12")
        return found

    tried()
    bench.later(DAY)
    monkeypatch.setattr(bench.images, "_abandoned", looked)
    assert bench.images.sweep() == []
    assert [each["name"] for each in bench.images.arriving()] == (["debian-12"] if meanwhile == "goes on" else [])


def test_a_day_begins_when_work_has_ended(bench: Bench) -> None:
    """However long it has taken until then, and whether it could say that it ended."""

    def slow(_home: str) -> Mapping[str, str]:
        bench.later(DAY + HOUR)
        raise Unavailable("example.com", "cannot be reached")

    def killed(_home: str) -> Mapping[str, str]:
        wrote = bench.images.watch("debian-12")
        for hour in range(30):
            bench.later(HOUR)
            wrote(hour)
        raise SystemExit

    for fill, error in ((slow, Unavailable), (killed, SystemExit)):
        with pytest.raises(error):
            bench.images.make("debian-12", "http://example.com/x", fill)
        assert bench.images.sweep() == []
        (arriving,) = bench.images.arriving()
        assert arriving["until"] == bench.node.fake.clock + DAY
        bench.later(DAY - 1)
        assert bench.images.sweep() == []
    bench.node.fake.unmount(f"{bench.node.root.path}/.images/.partial/debian-12")
    bench.later(1)
    assert bench.images.sweep() == [".partial/debian-12"]


def test_a_download_is_kept_that_only_room_is_lacking_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_path: str, **_more: Any) -> None:
        raise Full("debian-12", "no space left on device")

    def nearly_full(*_path: str, **_more: Any) -> None:
        raise NoSpace("debian-12", 2, 1)

    with serving() as site:
        for fails, error in ((full, Full), (nearly_full, NoSpace)):
            with monkeypatch.context() as patch, pytest.raises(error):
                patch.setattr(formats, "to_raw", fails)
                bench.images.import_from("debian-12", site.url())
            assert bench.names() == []
            assert [found["moving"] for found in bench.images.arriving()] == [False]
        with pytest.raises(BadInput, match="is not 64 hexadecimal digits"):
            bench.images.import_from("debian-12", site.url(), sha256="x")
        assert bench.images.import_from("debian-12", site.url()).checksum == SHA256
        assert site.ranges_asked()[0] is None
        assert None not in site.ranges_asked()[1:]
        monkeypatch.setattr(bench.images, "watched", lambda _name, _progress: nearly_full)
        with pytest.raises(NoSpace):
            bench.images.import_from("debian-13", site.url())
        assert [found["name"] for found in bench.images.arriving()] == ["debian-13"], "what has come until then"


def test_an_import_stops_before_the_root_is_full(bench: Bench) -> None:
    def fill(home: str) -> Mapping[str, str]:
        bench.node.fake.available, bench.node.fake.others = 100 << 20, 900 << 20
        bench.images.watched("debian-12", lambda *_: None)("convert", 64 << 20, 0)
        return holding()(home)

    with pytest.raises(NoSpace) as caught:
        bench.images.make("debian-12", "file:/x", fill)
    said = "image debian-12 on zfs/vm: 64.0M asked for, 50.0M available: 5% of it are kept free, gnt-zfs trash empty may make room"
    assert str(caught.value) == said
    assert bench.names() == []


def packed(how: str, block: bytes, count: int) -> bytes:
    """Return as many blocks as are said, which are of no use to lz4, in next to nothing."""
    if how == "zst":
        return subprocess.run(["zstd", "-cq", "--long=24"], input=block * count, stdout=subprocess.PIPE, check=True).stdout
    return lzma.compress(block * count, preset=1) if how == "xz" else gzip.compress(block * count, 1)


@pytest.mark.parametrize("inside", ["raw", "qcow2"])
@pytest.mark.parametrize("how", ["xz", "zst", "gz"])
def test_what_unpacks_to_much_more_than_it_is_does_not_fill_the_root(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, inside: str
) -> None:
    block = os.urandom(16 * 1024) * 64 if how == "gz" else os.urandom(MIB)
    head = QCOW2 if inside == "qcow2" else b""
    (tmp_path / "bomb").write_bytes(packed(how, head + block[len(head) :], 200))
    assert (tmp_path / "bomb").stat().st_size < 64 * MIB
    written, write = [0], files.write

    def counted(descriptor: int, data: bytes, offset: int) -> None:
        written[0] += len(data)
        bench.node.fake.available = max(0, (160 << 20) - written[0])
        write(descriptor, data, offset)

    monkeypatch.setattr(files, "write", counted)
    with pytest.raises(NoSpace, match="^image bomb on zfs/vm: 64.0M asked for, "):
        bench.images.import_from("bomb", str(tmp_path / "bomb"))
    assert MIB < written[0] <= 128 * MIB, "looked at twice at most"
    assert bench.node.datasets() == [".images", ".images/.partial"]


@pytest.mark.parametrize(("name", "recorded"), [("a\tb", "a?b"), ("a\nb", "a?b"), ("\N{SNOWMAN}", "\N{SNOWMAN}"), ("a\udcff", "a?")])
def test_whatever_a_file_is_called_its_path_is_recorded_in_a_line(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, recorded: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(GOLD.ljust(MIB, b"x"))
    assert bench.images.import_from("debian-12", name).source == f"{tmp_path}/{recorded}"


# using


def test_a_name_without_version_means_the_newest(bench: Bench) -> None:
    for version in ("2026-11-01", "2026-10-01", "2026-11-20"):
        bench.make(f"debian-12:{version}")
        bench.later(10)
    bench.make("debian-13")
    assert bench.images.resolve("debian-12").name == "debian-12:2026-11-20"
    assert bench.images.resolve("debian-12:2026-10-01").name == "debian-12:2026-10-01"
    bench.images.retire("debian-12:2026-11-20")
    assert bench.images.resolve("debian-12").name == "debian-12:2026-10-01"
    with pytest.raises(Refused) as refused:
        bench.images.resolve("debian-12:2026-11-20")
    assert str(refused.value).startswith("image debian-12:2026-11-20: is retired: gnt-zfs image restore debian-12:2026-11-20")
    for missing in ("debian", "debian-12:1"):
        with pytest.raises(Missing) as caught:
            bench.images.resolve(missing)
        assert str(caught.value).endswith(f"gnt-zfs image push {missing} on a node that has it brings it here")
    assert newest([], "debian-12") is None


def test_of_a_name_with_a_version_no_other_image_is_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("debian-12:1", "debian-12", "debian-12:2"):
        bench.make(name)
        bench.later(10)
    read: list[str] = []
    with_snapshot = bench.images.zfs.with_snapshot

    def reading(root: str, short: str, facts: Iterable[str], **more: Any) -> Any:
        read.append(root)
        return with_snapshot(root, short, facts, **more)

    monkeypatch.setattr(bench.images.zfs, "with_snapshot", reading)
    assert bench.images.resolve("debian-12:1").name == "debian-12:1"
    assert read == ["zfs/vm/.images/debian-12:1"]
    assert bench.images.resolve("debian-12").name == "debian-12:2"
    assert read[1:] == ["zfs/vm/.images"]


def test_a_disk_is_a_clone_with_the_size_asked_for(bench: Bench) -> None:
    bench.make()
    bench.create(recordsize=16384)
    assert bench.read() == GOLD.ljust(2 * MIB, b"\0")
    assert bench.images.must("debian-12").clones == [f"zfs/vm/{DISK0}"]
    assert bench.node.fake.state()[f"zfs/vm/{DISK0}"]["properties"]["recordsize"] == "16384"
    bench.write(b"mine")
    assert bench.images.must("debian-12").written == 0


def test_what_does_not_fit_or_is_not_here_leaves_nothing(bench: Bench) -> None:
    bench.make()
    before = bench.state()
    with pytest.raises(Refused) as caught:
        bench.create(size=MIB - 512)
    assert str(caught.value).endswith("size=1M or more")
    with pytest.raises(Missing):
        bench.create(image="debian-13")
    assert bench.state() == before


def test_a_clone_that_nobody_had_is_made_again_and_one_in_use_never(bench: Bench) -> None:
    bench.make()
    bench.create()
    bench.create()
    bench.volumes.set_instance(DISK0, "web1")
    bench.write(b"mine")
    with pytest.raises(Refused):
        bench.create()
    assert bench.read().startswith(b"mine")
    bench.volumes.remove(DISK0)
    assert len(bench.node.trash.entries()) == 1


def test_a_clone_that_was_written_to_is_never_made_again(bench: Bench) -> None:
    bench.make()
    bench.create()
    bench.write(b"x" * MIB + b"y")
    with pytest.raises(Refused):
        bench.create()


def test_a_copy_is_marked_to_become_independent(bench: Bench) -> None:
    bench.make()
    bench.create(use="copy")
    assert DETACH in bench.node.marks(f"zfs/vm/{DISK0}")


def test_a_persistent_image_is_used_by_one_alone_and_goes_back(bench: Bench) -> None:
    bench.make()
    guid = bench.images.must("debian-12").guid
    with pytest.raises(Refused) as refused:
        bench.create(use="persistent")
    assert str(refused.value).endswith("gnt-zfs image lend debian-12 allows it")
    bench.images.set_lendable("debian-12", True)
    bench.use(use="persistent")
    assert bench.names() == []
    for attempt in (lambda: bench.create(DISK1), bench.make):
        with pytest.raises(Busy) as busy:
            attempt()
        assert str(busy.value) == "image debian-12: is used by web1 alone: it is back when the disk of web1 is removed"
    bench.later(100)
    bench.write(b"changed")
    bench.volumes.remove(DISK0)
    image = bench.images.must("debian-12")
    assert image.size == 2 * MIB
    assert image.guid != guid
    assert (image.source, image.imported) == ("left by web1", bench.node.fake.clock - 100), "no newer than it was"
    assert bench.node.fake.files(image.dataset)["disk.raw"].startswith(b"changed")
    assert bench.node.marks(image.dataset).keys() & {IMAGE, CLUSTER} == {IMAGE, CLUSTER}
    assert bench.node.trash.entries() == []
    bench.create(DISK1)
    assert bench.read(DISK1).startswith(b"changed")
    with pytest.raises(Busy) as caught:
        bench.create(use="persistent")
    assert "a disk is a clone of it" in str(caught.value)


@pytest.mark.parametrize("change", ["delete", "retire"])
def test_an_image_that_is_deleted_after_it_was_chosen_is_not_lent(bench: Bench, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    lendable(bench)
    monkeypatch.setattr(bench.volumes, "check_room", lambda _volume, _size: getattr(bench.images, change)("debian-12"))
    with pytest.raises(Refused, match="^image debian-12: is retired: gnt-zfs image restore debian-12 lets disks be made of it$"):
        bench.create(use="persistent")
    assert bench.volumes.find(DISK0) is None
    assert bench.images.must("debian-12").retired


def test_an_image_that_comes_back_is_not_deleted_whatever_it_was_before(bench: Bench) -> None:
    lent(bench)
    bench.node.fake.set(f"zfs/vm/{DISK0}", {DELETED: "1"})
    bench.write(b"a month of work")
    bench.volumes.remove(DISK0)
    assert bench.images.sweep() == []
    assert not bench.images.must("debian-12").retired


def test_what_was_kept_of_an_image_while_one_had_it_goes_in_its_time(bench: Bench) -> None:
    lent(bench)
    bench.volumes.keep(DISK0)
    bench.volumes.remove(DISK0)
    name = bench.images.must("debian-12").dataset
    assert len(bench.node.fake.snapshots(name, depth=1)) == 2
    bench.later(8 * DAY)
    bench.node.store.forget_disks()
    assert [snapshot for snapshot, _created, _used in bench.node.fake.snapshots(name, depth=1)] == [f"{name}@golden"]


def test_a_create_that_fails_leaves_the_image_that_it_has_taken_as_it_was(nodes: Callable[[], Node]) -> None:
    point, failed = 0, True
    while failed:
        point += 1
        bench = Bench(nodes())
        lendable(bench)
        dataset = bench.images.must("debian-12").dataset
        bench.node.fake.set(dataset, {"recordsize": "32768"})
        before = bench.state()
        reaper = bench.node.fake.reaper = bench.node.loop.reaper = Failing(bench.node.fake.reaper.place)
        with contextlib.suppress(OSError):
            dies(reaper, point, lambda bench=bench: bench.create(use="persistent", reserve=True, recordsize=65536))  # type: ignore[misc]
        failed = reaper.fired
        if bench.names():
            now = bench.state()
            now["datasets"][dataset]["marks"].pop(VOLUME, None)  # which means nothing in the catalogue
            assert now == before, f"at point {point}"
    assert point > 12


def test_a_create_that_is_repeated_with_another_size_never_cuts_the_image_that_it_has_taken(bench: Bench) -> None:
    lendable(bench)
    bench.create(use="persistent")
    bench.write(b"x" * (2 * MIB))
    with pytest.raises(Refused) as caught:
        bench.create(size=MIB, use="persistent")
    assert str(caught.value) == f"volume {DISK0}: has a disk of 2.00M already, which cannot shrink to 1.00M"
    assert bench.read() == b"x" * (2 * MIB)


def test_why_a_disk_could_not_be_made_is_said_whatever_fails_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lendable(bench)

    def full(*_: object) -> str:
        raise Full("pool zfs")

    def stands_still(*_: object, **__: object) -> None:
        raise Unavailable("pool zfs", "is SUSPENDED")

    monkeypatch.setattr(bench.loop, "attach", full)
    monkeypatch.setattr(bench.node.fake, "unmount", stands_still)
    with pytest.raises(Full):
        bench.create(use="persistent")
    with pytest.raises(Full):
        bench.volumes.create(DISK1, MIB, {})


def test_a_lent_image_does_not_overwrite_one_of_its_name(bench: Bench) -> None:
    lent(bench)
    marks = {IMAGE: "debian-12", CLUSTER: CLUSTER_NAME}
    bench.node.fake.create("zfs/vm/.images/debian-12", {}, marks)  # by hand
    bench.node.fake.snapshot(["zfs/vm/.images/debian-12@golden"])
    with pytest.raises(Refused) as caught:
        bench.volumes.remove(DISK0)
    assert str(caught.value).endswith("gnt-zfs image rename debian-12 NEW first")
    bench.images.rename("debian-12", "other")
    bench.volumes.remove(DISK0)
    assert bench.names() == ["debian-12", "other"]


def test_a_lent_version_is_told_of_by_the_name_of_all(bench: Bench) -> None:
    bench.make("data:1")
    bench.images.set_lendable("data:1", True)
    bench.use(image="data", use="persistent")
    for attempt in (bench.images.resolve, bench.images.must):
        with pytest.raises(Busy) as caught:
            attempt("data")
        assert str(caught.value) == "image data:1: is used by web1 alone: it is back when the disk of web1 is removed"
    with pytest.raises(Missing):
        bench.images.must("data:2")
    bench.make("data:2")
    with pytest.raises(Missing, match="there is data:2"):
        bench.images.must("data")


def test_an_image_in_the_catalogue_is_read_only_also_when_the_lending_of_it_was_killed(node: Node) -> None:
    bench, point, died = Bench(node), 0, True
    lendable(bench)
    while died:
        point += 1
        died = dies(node.fake.reaper, point, lambda: bench.create(use="persistent"))
        if bench.names():
            properties = node.fake.local(bench.images.must("debian-12").dataset)
            assert (properties["readonly"], properties["canmount"]) == ("on", "noauto")
        bench.volumes.remove(DISK0)
        assert bench.names() == ["debian-12"]


@pytest.mark.parametrize("again", ["data", "data:1", "debian-12"])
def test_a_create_that_is_repeated_never_destroys_the_image_that_it_has_taken(bench: Bench, again: str) -> None:
    bench.make("data:1")
    bench.make()
    for name in ("data:1", "debian-12"):
        bench.images.set_lendable(name, True)
    bench.create(image="data", use="persistent")
    bench.node.fake.destroy_snapshots([f"zfs/vm/{DISK0}@golden"])  # by a removal that was killed
    bench.create(image=again, use="persistent")
    taken = {"debian-12": "debian-12"}.get(again, "data:1")
    assert bench.node.marks(f"zfs/vm/{DISK0}")[IMAGE] == taken
    assert bench.names() == [name for name in ("data:1", "debian-12") if name != taken]


# other contents


def test_swap_and_a_filesystem_with_files(bench: Bench, tmp_path: Path) -> None:
    bench.volumes.create(DISK0, 4 * MIB, {"swap": True})
    assert bench.read()[4086:4096] == b"SWAPSPACE2"
    bench.volumes.create(DISK1, 4 * MIB, {"swap": 2 * MIB})
    with pytest.raises(BadInput):
        bench.volumes.create("other", 4 * MIB, {"swap": 8 * MIB})
    (tmp_path / "fill/rescue/etc").mkdir(parents=True)
    (tmp_path / "fill/rescue/etc/hello").write_text("hello from a directory")
    bench.node.config.fill_directories = (str(tmp_path / "fill"),)
    bench.volumes.create("filled", 8 * MIB, {"fill": "rescue"})
    said = subprocess.run(["debugfs", "-R", "cat etc/hello", bench.volumes.disk("filled")], capture_output=True, text=True, check=True)
    assert said.stdout == "hello from a directory"
    assert INTENT not in bench.node.marks("zfs/vm/filled")
    with pytest.raises(Refused) as caught:
        (tmp_path / "fill/rescue/big").write_bytes(b"x" * (9 * MIB))
        bench.volumes.create("small", 8 * MIB, {"fill": "rescue"})
    assert "a disk of 8.00M takes 7.88M at most" in str(caught.value)
    assert bench.node.datasets() == [DISK0, DISK1, "filled"]


def test_nothing_outside_the_listed_directories_is_read(tmp_path: Path) -> None:
    (tmp_path / "fill/good").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "fill/out").symlink_to(tmp_path / "secret")
    allowed = (str(tmp_path / "fill"),)
    assert find_directory(allowed, "good") == str(tmp_path / "fill/good")
    for name in ("out", ".", "nothing", "good/../../secret"):
        with pytest.raises(Missing):
            find_directory(allowed, name)
    for name in ("/etc", "../secret", "", "a/../b"):
        with pytest.raises(BadInput):
            parse_parameters({"fill": name})
    with pytest.raises(Missing) as caught:
        find_directory((), "good")
    assert str(caught.value).endswith("fill_directories of this node's configuration is empty")


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"image": "a", "swap": "yes"}, "disk parameters image and swap: only one of them says what the disk holds"),
        ({"use": "copy"}, "disk parameter use: says how an image is used, and image is not given"),
        ({"image": "a", "use": "link"}, "disk parameter use: 'link' is none of clone, copy, persistent"),
        ({"swap": "4"}, "disk parameter swap: '4' is no size such as 512M or 4G"),
        ({"swap": "1K"}, "disk parameter swap: '1K' is too little, 40.0K is the least"),
        ({"swap": "39K"}, "disk parameter swap: '39K' is too little, 40.0K is the least"),
        ({"swap": "-1G"}, "disk parameter swap: '-1G' is no size such as 512M or 4G"),
    ],
)
def test_contradictions_are_refused(given_: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_parameters(given_)
    assert str(caught.value) == said
    assert parse_parameters({"swap": "4G"}) == {"swap": 4 << 30}
    assert parse_parameters({"swap": "40K"}) == {"swap": 40 << 10}


# retiring and deleting


def test_a_deleted_image_stays_for_its_clones_and_for_the_days_of_the_trash(bench: Bench) -> None:
    bench.make()
    bench.use()
    assert not bench.images.delete("debian-12", now=True)
    with pytest.raises(Refused):
        bench.create(DISK1)
    bench.later(8 * DAY)
    assert bench.images.sweep() == []
    bench.volumes.remove(DISK0)
    assert bench.images.sweep() == [], "the disk in the trash is a clone still"
    bench.node.trash.destroy(bench.node.trash.entries()[0].entry)
    assert bench.images.sweep() == ["debian-12"]
    assert bench.names() == []


@pytest.mark.parametrize("late", [False, True])
def test_what_is_deleted_now_goes_with_its_last_clone(bench: Bench, late: bool) -> None:
    bench.make()
    bench.use()
    if late:
        bench.images.delete("debian-12")
    assert not bench.images.delete("debian-12", now=True)
    assert not bench.images.delete("debian-12"), "and is not kept any longer by who says it again"
    bench.later(HOUR)
    assert bench.images.sweep() == []
    bench.volumes.destroy(DISK0)
    assert bench.images.sweep() == ["debian-12"]
    bench.make()
    bench.images.delete("debian-12", now=False)
    assert bench.images.sweep() == []
    bench.images.restore("debian-12")
    assert (bench.images.must("debian-12").deleted, bench.images.must("debian-12").at_once) == (0, False)


def test_a_clock_that_jumps_ahead_makes_no_image_go(bench: Bench) -> None:
    bench.make()
    bench.images.delete("debian-12", now=False)
    bench.node.trash.give_up()
    bench.later(400 * DAY)
    bench.node.trash.give_up()
    assert bench.images.sweep() == []
    for _day in range(7):
        bench.later(DAY)
        bench.node.trash.give_up()
    assert bench.images.sweep() == ["debian-12"]


def test_an_image_that_is_deleted_while_the_clock_is_behind_is_kept_once_that_is_set_right(bench: Bench) -> None:
    bench.make()
    bench.node.trash.give_up()
    bench.later(-400 * DAY)
    bench.images.delete("debian-12", now=False)
    bench.later(400 * DAY)
    for _day in range(7):
        bench.node.trash.give_up()
        assert bench.images.sweep() == []
        bench.later(DAY)
    bench.node.trash.give_up()
    assert bench.images.sweep() == ["debian-12"]


def test_what_was_deleted_can_be_had_back(bench: Bench) -> None:
    bench.make()
    assert not bench.images.delete("debian-12")
    bench.later(DAY)
    assert bench.images.sweep() == []
    bench.images.restore("debian-12")
    bench.later(30 * DAY)
    assert bench.images.sweep() == []
    bench.create()
    assert bench.images.delete("debian-12", now=True) is False
    bench.volumes.destroy(DISK0)
    assert bench.images.delete("debian-12", now=True) is True


@pytest.mark.parametrize("how", ["kept", "without snapshots", "in use"])
def test_a_sweep_goes_by_what_is_so_when_it_is_alone_with_an_image(bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    look = bench.images.all

    def looked() -> list[Image]:
        """What is found is changed at once: the image is taken back, and deleted in another way."""
        found = look()
        bench.images.restore("debian-12")
        if how != "kept":
            bench.use()
        bench.images.delete("debian-12", now=how != "kept")
        if how == "without snapshots":
            bench.volumes.destroy(DISK0)
            bench.node.fake.snapshot(["zfs/vm/.images/debian-12@autosnap_daily"])
        return found

    bench.make()
    bench.images.delete("debian-12", with_snapshots=True)
    bench.later(8 * DAY)
    with monkeypatch.context() as patch:
        patch.setattr(bench.images, "all", looked)
        assert bench.images.sweep() == []
    assert bench.names() == ["debian-12"]


def test_two_read_an_image_at_once_and_nobody_changes_it_meanwhile(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LOCK_SECONDS", 0)
    made(bench)
    image = bench.images.must("debian-12")
    with bench.images.open(image) as one, bench.images.open(image) as other:
        exports.verify(bench.images, "debian-12") if image.content else None
        exports.export(bench.images, "debian-12", str(tmp_path / "debian.raw"), "raw")
        told = list[tuple[str, int, int]]()
        exports.export(bench.images, "debian-12", str(tmp_path / "debian.qcow2"), "qcow2", lambda *step: told.append(step))
        assert told[-1] == ("convert", MIB, MIB)
        bench.create()
        assert os.pread(one, 6, 0) == os.pread(other, 6, 0) == Path(tmp_path, "debian.raw").read_bytes()[:6] == GOLD
        for change in (
            lambda: bench.images.delete("debian-12", now=True),
            lambda: bench.images.rename("debian-12", "new"),
            lambda: bench.images.lend(image, "zfs/vm/x", {}),
        ):
            with pytest.raises(Unavailable) as caught:
                change()
            assert str(caught.value) == "image debian-12: another operation of ours is at work on it"
        assert bench.node.fake.mounted_at(f"{bench.node.root.path}/.images/debian-12") is None
    assert (tmp_path / "debian.qcow2").read_bytes()[:4] == b"QFI\xfb"
    bench.images.rename("debian-12", "new")


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_export_touches_no_other_file(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, nameless: bool) -> None:
    """What has the name that a temporary file might have, and what a link of that name leads to, is as it was."""
    bench.make()
    if not nameless:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # which such a filesystem takes O_TMPFILE for
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.partial").write_bytes(b"mine")
    (tmp_path / "victim").write_bytes(b"precious")
    (out / "link.partial").symlink_to(tmp_path / "victim")
    for name in ("mine", "link"):
        exports.export(bench.images, "debian-12", str(out / name), kind)
        assert (out / name).stat().st_mode & 0o777 == 0o600
        assert not (out / name).is_symlink()
        with pytest.raises(Refused, match="exists already"):
            exports.export(bench.images, "debian-12", str(out / name), kind)
    assert (out / "mine.partial").read_bytes() == b"mine"
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert sorted(os.listdir(out)) == ["link", "link.partial", "mine", "mine.partial"]
    with pytest.raises(ZfsGanetiError, match="no such file or directory"):
        exports.export(bench.images, "debian-12", str(tmp_path / "none/x"), kind)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_export_that_fails_leaves_nothing(bench: Bench, tmp_path: Path, kind: str) -> None:
    def full(_what: str, _done: int, _all: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    bench.make()
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Full):
        exports.export(bench.images, "debian-12", str(out / "x"), kind, full)
    assert os.listdir(out) == []


@pytest.mark.parametrize("now", [False, True])
def test_snapshots_of_others_keep_an_image_until_they_may_go_with_it(bench: Bench, now: bool) -> None:
    lent(bench)
    for short in ("gnt-before", "autosnap_daily"):
        bench.node.fake.snapshot([f"zfs/vm/{DISK0}@{short}"])
    bench.volumes.remove(DISK0)
    with pytest.raises(Refused) as caught:
        bench.images.delete("debian-12", now=now)
    assert str(caught.value) == (
        "image debian-12: has 2 snapshots that somebody took, such as autosnap_daily: "
        "gnt-zfs image delete debian-12 --with-snapshots lets them go with it"
    )
    assert not bench.images.must("debian-12").retired, "it was refused, and the image is in use still"
    assert bench.images.delete("debian-12", now=now, with_snapshots=True) is now
    if not now:
        bench.later(8 * DAY)
        assert bench.images.stuck(bench.images.must("debian-12")) == ""
        assert bench.images.sweep() == ["debian-12"]
    assert bench.names() == []


def test_a_deleted_image_that_cannot_go_says_why(bench: Bench) -> None:
    image = bench.make()
    bench.images.delete("debian-12")
    bench.node.fake.snapshot([f"{image.dataset}@autosnap_daily"])
    assert bench.images.stuck(bench.images.must("debian-12")) == "", "it is not to go yet"
    bench.later(8 * DAY)
    assert bench.images.sweep() == []
    assert bench.images.stuck(bench.images.must("debian-12")) == "has 1 snapshot that somebody took, such as autosnap_daily"
    bench.images.delete("debian-12", with_snapshots=True)
    assert bench.images.sweep() == ["debian-12"]


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_an_image_comes_back_when_something_is_a_clone_of_what_it_was(bench: Bench, killed: int) -> None:
    lent(bench)
    bench.node.fake.clone(f"zfs/vm/{DISK0}@golden", "zfs/vm/web2", {})
    bench.write(b"changed")
    if killed:
        bench.images._uncrown(f"zfs/vm/{DISK0}")
    if killed > 1:
        bench.node.fake.snapshot([f"zfs/vm/{DISK0}@golden"])
    bench.later(10)
    bench.volumes.remove(DISK0)
    image = bench.images.must("debian-12")
    assert image.clones == []
    assert bench.node.fake.snapshot_files(image.snapshot)["disk.raw"].startswith(b"changed")
    (origin,) = [dataset.origin for dataset in bench.node.fake.datasets("zfs/vm/web2", depth=0)]
    assert origin.startswith(f"{image.dataset}@zfsganeti-golden-")
    with pytest.raises(Busy) as caught:
        bench.images.delete("debian-12", now=True)
    assert str(caught.value) == f"dataset {image.dataset}: has the clone zfs/vm/web2"
    assert not bench.images.must("debian-12").retired
    bench.node.fake.destroy("zfs/vm/web2", {})
    assert bench.images.delete("debian-12", now=True)


def test_the_cluster_of_an_image_is_ours(bench: Bench) -> None:
    bench.node.fake.create("zfs/vm/.images", {}, {})
    bench.node.fake.create("zfs/vm/.images/theirs", {}, {IMAGE: "theirs", CLUSTER: "other.example.com"})
    bench.node.fake.snapshot(["zfs/vm/.images/theirs@golden"])
    assert bench.names() == []
    with pytest.raises(Foreign):
        bench.images.must("theirs")
