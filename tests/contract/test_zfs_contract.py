"""What datasets.Backend promises, on the fake of the quick tests and, where there is one, on real ZFS: the same lines for both.

Real ZFS takes part when ZFSGANETI_CONTRACT_ROOT names a dataset that tests may fill and ZFSGANETI_CONTRACT_DIR its directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakezfs import FakeZfs
from zfsganeti.datasets import CLUSTER, INSTANCE, MARKS, RECORD
from zfsganeti.errors import BadInput, BadName, Busy, CommandFailed, Foreign, Missing, Refused
from zfsganeti.zfs import Dataset, Zfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.datasets import Backend

ROOT, DIRECTORY = os.environ.get("ZFSGANETI_CONTRACT_ROOT", ""), os.environ.get("ZFSGANETI_CONTRACT_DIR", "")
KINDS = ["fake", "real"] if ROOT else ["fake"]
OURS = {INSTANCE: "web1", CLUSTER: "cluster.example.com"}
LYING_TAG = "x\nok=yes\ncount=0\n."  # of a hold: to be taken for the answer that all is well


class Bench:
    """A backend, a mounted dataset of its own for each test, and what strangers do to it."""

    def __init__(self, zfs: Backend, root: str, directory: str) -> None:
        self.zfs, self.root, self.directory = zfs, root, directory

    def name(self, short: str) -> str:
        return f"{self.root}/{short}"

    def path(self, short: str) -> str:
        return f"{self.directory}/{short}"

    def make(self, short: str = "web1") -> str:
        """A filesystem of ours, not mounted."""
        self.zfs.create(self.name(short), {}, OURS)
        return self.name(short)

    def make_mounted(self, short: str = "web1") -> str:
        self.zfs.mount(self.make(short), self.path(short))
        return self.name(short)

    def look(self, name: str) -> Dataset:
        found = self.zfs.get(name, marks=MARKS)
        assert found is not None
        return found

    def is_mounted(self, name: str) -> bool:
        return any(mount.dataset == name for mount in self.zfs.mounts())

    def make_clone(self, snapshot: str, name: str) -> None:
        self.zfs.clone(snapshot, name, {})

    def make_hold(self, snapshot: str, tag: str = "keep") -> None:
        raise NotImplementedError

    def make_bookmark(self, snapshot: str, short: str) -> None:
        raise NotImplementedError

    def history(self) -> int:
        """Return how many channel programs the pool's history tells of: a fake runs none."""
        return 0

    def held_open(self, name: str, path: str) -> contextlib.AbstractContextManager[None]:
        """This process has a file of the filesystem open."""
        raise NotImplementedError

    def snapshot_files(self, snapshot: str) -> dict[str, bytes]:
        place = f"{self.directory}/look"
        self.zfs.mount(snapshot, place)
        try:
            return {entry.name: entry.read_bytes() for entry in Path(place).iterdir()}
        finally:
            self.zfs.unmount(place)


class FakeBench(Bench):
    def __init__(self, fake: FakeZfs, root: str, directory: str) -> None:
        super().__init__(fake, root, directory)
        self.fake = fake

    def make_hold(self, snapshot: str, tag: str = "keep") -> None:
        self.fake.hold(snapshot, tag if tag.isalnum() else "strange")  # ours is never anything else

    def make_bookmark(self, snapshot: str, short: str) -> None:
        self.fake.bookmark(snapshot, short)

    @contextlib.contextmanager
    def held_open(self, name: str, path: str) -> Iterator[None]:
        with open(f"{path}/held", "wb"), self.fake.held_open(name, f"process python3 ({os.getpid()}) with {path}/held"):
            yield


class RealBench(Bench):
    def make_hold(self, snapshot: str, tag: str = "keep") -> None:
        command("zfs", "hold", tag, snapshot)

    def make_bookmark(self, snapshot: str, short: str) -> None:
        command("zfs", "bookmark", snapshot, f"{snapshot.partition('@')[0]}#{short}")

    def history(self) -> int:
        pool = self.root.split("/")[0]
        command("zpool", "sync", pool)  # a record is written with the transaction group that it is in
        said = subprocess.run(["zpool", "history", "-i", pool], check=True, capture_output=True, text=True, errors="replace").stdout
        return said.count("channel_program")

    @contextlib.contextmanager
    def held_open(self, name: str, path: str) -> Iterator[None]:
        assert self.zfs.mounted_at(path) == name
        with open(f"{path}/held", "wb"):
            yield

    def clean(self) -> None:
        """Nothing of the test is left on the pool."""
        for name, _created, _used in self.zfs.snapshots(self.root):
            for tag in ("keep", LYING_TAG):
                subprocess.run(["zfs", "release", tag, name], capture_output=True)
        for mount in reversed(self.zfs.mounts()):
            if mount.path == self.directory or mount.path.startswith(f"{self.directory}/"):
                self.zfs.unmount(mount.path, lazy=True)
        command("zfs", "destroy", "-R", self.root)


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "fake":
        fake = FakeZfs(str(tmp_path / "pool"))
        fake.foreign("zfs/contract", mountpoint=str(tmp_path / "contract"))
        yield FakeBench(fake, *own_root(fake, "zfs/contract", str(tmp_path / "contract")))
        return
    zfs = Zfs()
    real = RealBench(zfs, *own_root(zfs, ROOT, DIRECTORY))
    yield real
    real.clean()


def own_root(zfs: Backend, root: str, directory: str) -> tuple[str, str]:
    """Return a new filesystem for one test, and where it is mounted."""
    short = f"t{uuid.uuid4().hex[:8]}"
    name, path = f"{root}/{short}", f"{directory}/{short}"
    zfs.create(name, {"mountpoint": path}, {})
    zfs.mount(name, path)
    return name, path


def test_a_clone_holds_what_the_snapshot_held(bench: Bench) -> None:
    name = bench.make_mounted()
    Path(bench.path("web1"), "disk").write_bytes(b"then")
    bench.zfs.snapshot([f"{name}@{bench.zfs.ours}one"])
    Path(bench.path("web1"), "disk").write_bytes(b"now")
    bench.zfs.clone(f"{name}@{bench.zfs.ours}one", bench.name("copy"), {INSTANCE: "copy"})
    bench.zfs.mount(bench.name("copy"), bench.path("copy"))
    assert Path(bench.path("copy"), "disk").read_bytes() == b"then"
    assert bench.look(bench.name("copy")).marks == {INSTANCE: "copy"}
    with pytest.raises(Refused):
        bench.zfs.clone(f"{name}@{bench.zfs.ours}one", bench.name("copy"), {})
    with pytest.raises(Missing):
        bench.zfs.clone(f"{name}@{bench.zfs.ours}two", bench.name("other"), {})


def changes(directory: str) -> dict[str, Callable[[], object]]:
    """Return what can be done to the file `disk` of a directory, and to the directory."""
    disk = Path(directory, "disk")
    return {
        "write": lambda: disk.write_bytes(b"now"),
        "open": lambda: os.close(os.open(disk, os.O_RDWR)),
        "truncate": lambda: os.truncate(disk, 1),
        "chmod": lambda: disk.chmod(0o600),
        "create": lambda: Path(directory, "new").touch(),
        "mkdir": lambda: Path(directory, "new").mkdir(),
        "symlink": lambda: Path(directory, "new").symlink_to("disk"),
        "rename": lambda: disk.rename(Path(directory, "new")),
        "unlink": disk.unlink,
        "chmod of the whole": lambda: os.chmod(directory, 0o700),
    }


def test_what_is_read_only_is_not_written_to(bench: Bench) -> None:
    name = bench.make_mounted()
    Path(bench.path("web1"), "disk").write_bytes(b"then")
    bench.zfs.set(name, {"readonly": "on"})
    bench.zfs.create(f"{name}/inner", {}, OURS)
    bench.zfs.mount(f"{name}/inner", bench.path("inner"))
    tries: dict[str, Callable[[], object]] = {**changes(bench.path("web1")), "inherited": Path(bench.path("inner"), "new").touch}
    for what, change in tries.items():
        with pytest.raises(OSError, match="Read-only file system") as caught:
            change()
        assert caught.value.errno == errno.EROFS, what
    assert Path(bench.path("web1"), "disk").read_bytes() == b"then"
    bench.zfs.unmount(bench.path("inner"))
    bench.zfs.snapshot([f"{name}@{bench.zfs.ours}one"])
    bench.zfs.rename(name, bench.name("new"))
    bench.zfs.clone(f"{bench.name('new')}@{bench.zfs.ours}one", bench.name("copy"), {}, {"readonly": "on"})
    bench.zfs.mount(bench.name("copy"), bench.path("copy"))
    with pytest.raises(OSError, match="Read-only file system"):
        changes(bench.path("copy"))["write"]()
    bench.zfs.unmount(bench.path("web1"))  # ZFS 2.1 cannot remount what was renamed while it was mounted
    bench.zfs.set(bench.name("new"), {"readonly": "off"})
    bench.zfs.mount(bench.name("new"), bench.path("web1"))
    changes(bench.path("web1"))["write"]()
    assert Path(bench.path("web1"), "disk").read_bytes() == b"now"


def test_what_is_mounted_elsewhere_is_no_longer_read_only(bench: Bench) -> None:
    name = bench.make_mounted()
    Path(bench.path("web1"), "disk").write_bytes(b"then")
    bench.zfs.set(name, {"readonly": "on"})
    for elsewhere in ("there", "elsewhere"):
        bench.zfs.unmount(bench.path("web1"))
        bench.zfs.mount(name, bench.path(elsewhere))
        bench.zfs.clear(name, ["readonly"])
        assert "readonly" not in bench.zfs.local(name)
        bench.zfs.unmount(bench.path(elsewhere))
        bench.zfs.mount(name, bench.path("web1"))
        changes(bench.path("web1"))["write"]()


def test_what_was_set_on_a_filesystem_itself_is_told_from_what_it_inherits(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.set(name, {"atime": "off"})
    local = bench.zfs.local(name)
    assert {key: local.get(key) for key in ("atime", "mountpoint", INSTANCE)} == {"atime": "off", "mountpoint": None, INSTANCE: "web1"}
    with pytest.raises(Missing):
        bench.zfs.local(bench.name("nothing"))


def test_a_created_filesystem_has_its_properties_and_marks(bench: Bench) -> None:
    properties = {"recordsize": 65536, "compression": "lz4", "canmount": "noauto", "mountpoint": "/srv/elsewhere", "atime": "off"}
    bench.zfs.create(bench.name("web1"), properties, OURS)
    made = bench.look(bench.name("web1"))
    assert (made.name, made.short) == (bench.name("web1"), "web1")
    assert made.marks == OURS
    assert (made.mountpoint, made.canmount, made.origin) == ("/srv/elsewhere", "noauto", "")
    assert not bench.is_mounted(made.name)
    assert made.available > 0
    assert made.creation > 1_600_000_000
    assert made.guid != bench.look(bench.root).guid


def test_the_mountpoint_is_inherited_and_marks_are_not_ours_by_inheritance(bench: Bench) -> None:
    bench.zfs.create(bench.name("outer"), {"mountpoint": bench.path("outer")}, OURS)
    bench.zfs.create(bench.name("outer/inner"), {}, {})
    inner = bench.look(bench.name("outer/inner"))
    assert inner.mountpoint == bench.path("outer/inner")
    assert inner.marks == {}


def test_only_the_marks_asked_for_are_returned(bench: Bench) -> None:
    found = bench.zfs.get(bench.make(), marks=(CLUSTER,))
    assert found is not None
    assert found.marks == {CLUSTER: OURS[CLUSTER]}


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"recordsize": 12345}, "property recordsize=12345: must be a power of two from 512 to 1M"),
        ({"recordsize": True}, "property recordsize=True: must be a power of two from 512 to 1M"),
        ({"mountpoint": "srv/vm"}, "property mountpoint=srv/vm: must be an absolute, plain path without commas"),
        ({"mountpoint": "/srv/../vm"}, "property mountpoint=/srv/../vm: must be an absolute, plain path without commas"),
        ({"mountpoint": "//srv"}, "property mountpoint=//srv: must be an absolute, plain path without commas"),
        ({"compression": "brotli"}, "property compression=brotli: must be one of on, off, zle, lz4, zstd"),
        ({"refreservation": -1}, f"property refreservation=-1: must be a number from 0 to {1 << 62}"),
    ],
)
def test_a_bad_value_is_refused_before_anything_happens(bench: Bench, properties: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        bench.zfs.create(bench.name("web1"), properties, OURS)
    assert str(caught.value) == said
    assert bench.zfs.get(bench.name("web1")) is None


@pytest.mark.parametrize(
    ("properties", "marks"), [({"sharenfs": "on"}, {}), ({}, {"nocolon": "x"}), ({}, {"A:b": "x"}), ({}, {"a:b": "x" * 8192})]
)
def test_an_unknown_property_is_refused_before_anything_happens(bench: Bench, properties: dict[str, object], marks: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        bench.zfs.create(bench.name("web1"), properties, marks)
    assert bench.zfs.get(bench.name("web1")) is None


@pytest.mark.parametrize("short", ["", "a b", "a@b", "a#b", "a%b", "..", ".", "a/../b", "a//b", "ä", "x" * 256])
def test_a_name_that_cannot_be_is_refused_by_every_method(bench: Bench, short: str) -> None:
    bad, good = bench.name(short), bench.make("good")
    tries: list[Callable[[], object]] = [
        lambda: bench.zfs.create(bad, {}, OURS),
        lambda: bench.zfs.get(bad),
        lambda: bench.zfs.snapshots(bad),
        lambda: bench.zfs.count_snapshots(bad),
        lambda: bench.zfs.snapshot([f"{bad}@one"]),
        lambda: bench.zfs.rename(bad, bench.name("new")),
        lambda: bench.zfs.rename(good, bad),
        lambda: bench.zfs.set(bad, {RECORD: "x"}),
        lambda: bench.zfs.clear(bad, [RECORD]),
        lambda: bench.zfs.destroy(bad, {}),
        lambda: bench.zfs.destroy_snapshots([f"{bad}@one"]),
    ]
    for attempt in tries:
        with pytest.raises(BadName):
            attempt()
    assert [dataset.name for dataset in bench.zfs.datasets(bench.root)] == [bench.root, good]


def test_the_longest_names_are_told_from_too_long_ones(bench: Bench) -> None:
    longest = bench.name("x" * (255 - len(bench.root) - 1))
    bench.zfs.create(longest, {}, OURS)
    assert bench.look(longest).marks == OURS
    with pytest.raises(BadName, match="is longer than 255 bytes"):
        bench.zfs.create(f"{longest}x", {}, OURS)


def test_an_existing_name_is_refused(bench: Bench) -> None:
    name = bench.make()
    with pytest.raises(Refused) as caught:
        bench.zfs.create(name, {}, {INSTANCE: "another"})
    assert str(caught.value) == f"dataset {name}: exists already"
    assert bench.look(name).marks == OURS


def test_a_missing_parent_is_missing(bench: Bench) -> None:
    with pytest.raises(Missing, match="does not exist"):
        bench.zfs.create(bench.name("no/web1"), {}, OURS)
    assert bench.zfs.get(bench.name("no")) is None


def test_what_does_not_exist_is_none_or_missing(bench: Bench) -> None:
    gone = bench.name("gone")
    assert bench.zfs.get(gone, marks=MARKS) is None
    tries: list[Callable[[], object]] = [
        lambda: bench.zfs.datasets(gone),
        lambda: bench.zfs.snapshots(gone),
        lambda: bench.zfs.count_snapshots(gone),
        lambda: bench.zfs.snapshot([f"{gone}@one"]),
        lambda: bench.zfs.rename(gone, bench.name("new")),
        lambda: bench.zfs.set(gone, {RECORD: "x"}),
        lambda: bench.zfs.clear(gone, [RECORD]),
        lambda: bench.zfs.destroy(gone, {}),
        lambda: bench.zfs.destroy(gone, {}, only_check=True),
        lambda: bench.zfs.mount(gone, bench.path("gone")),
        lambda: bench.zfs.pool("nosuchpool/vm"),
    ]
    for attempt in tries:
        with pytest.raises(Missing):
            attempt()


def test_listing_goes_down_as_far_as_asked(bench: Bench) -> None:
    for short in ("a", "a/b", "a/b/c", "d"):
        bench.zfs.create(bench.name(short), {}, {})
    everything = [bench.root, *(bench.name(short) for short in ("a", "a/b", "a/b/c", "d"))]
    assert sorted(dataset.name for dataset in bench.zfs.datasets(bench.root)) == everything
    assert sorted(dataset.name for dataset in bench.zfs.datasets(bench.root, depth=1)) == [bench.root, bench.name("a"), bench.name("d")]
    assert [dataset.name for dataset in bench.zfs.datasets(bench.name("a"), depth=0)] == [bench.name("a")]


def test_parents_are_listed_before_their_children(bench: Bench) -> None:
    for short in ("a", "a/b", "a-b"):
        bench.zfs.create(bench.name(short), {}, {})
    names = [dataset.name for dataset in bench.zfs.datasets(bench.root)]
    assert names[0] == bench.root
    assert names.index(bench.name("a")) < names.index(bench.name("a/b"))


def test_every_filesystem_of_the_node_is_listed_with_its_mountpoint(bench: Bench) -> None:
    bench.zfs.create(bench.name("set"), {"mountpoint": "/srv/set"}, {})
    bench.zfs.create(bench.name("inherited"), {}, {})
    bench.zfs.create(bench.name("none"), {"mountpoint": "none"}, {})
    found = dict(bench.zfs.filesystems())
    assert found[bench.root] == bench.directory
    assert found[bench.name("set")] == "/srv/set"
    assert found[bench.name("inherited")] == bench.path("inherited")
    assert found[bench.name("none")] == "none"


def test_a_pool_says_how_it_is(bench: Bench) -> None:
    pool = bench.zfs.pool(bench.root)
    assert (pool.name, pool.health) == (bench.root.split("/")[0], "ONLINE")
    assert 0 < pool.free < pool.size
    assert bench.zfs.pool_health(bench.root) == "ONLINE"
    with pytest.raises(Missing):
        bench.zfs.pool_health("nosuchpool/vm")


def test_a_mounted_filesystem_says_what_it_can_take(bench: Bench) -> None:
    known = bench.look(bench.root).available
    assert abs(bench.zfs.room(bench.directory) - known) < known // 100
    with pytest.raises(OSError):
        bench.zfs.room(bench.path("nothing"))


def test_filesystems_are_found_by_a_snapshot_that_they_have(bench: Bench) -> None:
    bench.zfs.create(bench.name("deep"), {}, {})
    for short in ("a", "b", "deep/c"):
        bench.make(short)
        bench.zfs.snapshot([bench.name(f"{short}@golden")])
    bench.zfs.snapshot([bench.name("deep@other")])
    bench.zfs.create(bench.name("none"), {}, {})
    bench.make_clone(bench.name("a@golden"), bench.name("of-a"))
    found = bench.zfs.with_snapshot(bench.root, "golden", ("guid", "clones"), depth=1, marks=MARKS)
    assert sorted(dataset.name for dataset, _facts in found) == [bench.name("a"), bench.name("b")]
    facts = {dataset.short: facts for dataset, facts in found}
    assert (facts["a"]["clones"], facts["b"]["clones"]) == (bench.name("of-a"), "")
    assert facts["a"]["guid"] not in ("-", found[0][0].guid, facts["b"]["guid"])
    assert [dataset.marks for dataset, _facts in found] == [OURS, OURS]
    assert bench.zfs.with_snapshot(bench.name("none"), "golden", ("guid",), depth=0) == []
    with pytest.raises(Missing):
        bench.zfs.with_snapshot(bench.name("gone"), "golden", ("guid",), depth=1)


def test_what_is_told_of_one_is_what_is_told_of_it_among_all(bench: Bench) -> None:
    bench.zfs.create(bench.name("a"), {"mountpoint": "/srv/else \N{SNOWMAN}", "canmount": "noauto"}, {**OURS, RECORD: "ä b=c,d"})
    bench.zfs.create(bench.name("a/inner"), {"recordsize": 65536}, {})
    bench.zfs.create(bench.name("a-b"), {"mountpoint": "none", "canmount": "off"}, {CLUSTER: "x" * 8191})
    bench.make_mounted("web1")
    Path(bench.path("web1"), "disk").write_bytes(os.urandom(100_000))
    bench.zfs.snapshot([bench.name("web1@golden")])
    bench.zfs.clone(bench.name("web1@golden"), bench.name("clone"), OURS)
    bench.zfs.clone(bench.name("web1@golden"), bench.name("other"), {})
    bench.zfs.snapshot([bench.name("clone@golden")])
    bench.zfs.unmount(bench.path("web1"))  # with that, all of it is written
    everything = {dataset.name: vars(dataset) for dataset in bench.zfs.datasets(bench.root, marks=MARKS)}
    assert len(everything) == 7
    for name, told in everything.items():
        assert vars(bench.look(name)) == told


# mounting


def test_mounting_makes_the_directory_and_again_is_fine(bench: Bench) -> None:
    name, path = bench.make(), bench.path("deep/web1")
    assert bench.zfs.mounted_at(path) is None
    for _again in range(2):
        bench.zfs.mount(name, path)
        assert bench.zfs.mounted_at(path) == name
        assert bench.is_mounted(name)
    assert [mount.path for mount in bench.zfs.mounts() if mount.dataset == name] == [path]


def test_a_plain_directory_in_a_filesystem_is_no_mount(bench: Bench) -> None:
    os.mkdir(bench.path("plain"))
    assert bench.zfs.mounted_at(bench.path("plain")) is None
    assert bench.zfs.mounted_at(bench.directory) == bench.root


def test_files_stay_with_their_filesystem(bench: Bench) -> None:
    name = bench.make_mounted()
    Path(bench.path("web1"), "disk0").write_bytes(b"data")
    bench.zfs.unmount(bench.path("web1"))
    assert bench.zfs.mounted_at(bench.path("web1")) is None
    assert os.listdir(bench.path("web1")) == []
    bench.zfs.mount(name, bench.path("other"))
    assert Path(bench.path("other"), "disk0").read_bytes() == b"data"


def test_nothing_is_mounted_over_files(bench: Bench) -> None:
    name, path = bench.make(), bench.path("web1")
    os.mkdir(path)
    Path(path, "disk0").write_bytes(b"data")
    with pytest.raises(Foreign) as caught:
        bench.zfs.mount(name, path)
    assert str(caught.value) == f"{path}: the directory is not empty, {name} is not mounted over it: move away what is in it"
    assert Path(path, "disk0").read_bytes() == b"data"
    assert not bench.is_mounted(name)


def test_nothing_is_mounted_over_another_mount(bench: Bench) -> None:
    first, second = bench.make_mounted("first"), bench.make("second")
    with pytest.raises(Foreign) as caught:
        bench.zfs.mount(second, bench.path("first"))
    assert str(caught.value) == f"{bench.path('first')}: dataset {first} is mounted there, not {second}"
    assert bench.zfs.mounted_at(bench.path("first")) == first


def test_a_path_with_a_comma_is_bad_input(bench: Bench) -> None:
    name = bench.make()
    with pytest.raises(BadInput, match="a comma cannot be passed to mount"):
        bench.zfs.mount(name, bench.path("a,b"))
    assert not os.path.exists(bench.path("a,b"))


def test_two_mounts_show_the_same_files(bench: Bench) -> None:
    name = bench.make_mounted()
    bench.zfs.mount(name, bench.path("aside"))
    Path(bench.path("web1"), "disk0").write_bytes(b"data")
    assert Path(bench.path("aside"), "disk0").read_bytes() == b"data"
    bench.zfs.unmount(bench.path("web1"))
    assert bench.zfs.mounted_at(bench.path("web1")) is None
    assert bench.zfs.mounted_at(bench.path("aside")) == name
    assert Path(bench.path("aside"), "disk0").read_bytes() == b"data"
    assert os.listdir(bench.path("web1")) == []


def test_a_mount_point_can_be_neither_removed_nor_found_empty_handed(bench: Bench) -> None:
    bench.make_mounted()
    with pytest.raises(OSError):
        os.rmdir(bench.path("web1"))
    bench.zfs.unmount(bench.path("web1"))
    os.rmdir(bench.path("web1"))


def test_unmounting_nothing_is_fine(bench: Bench) -> None:
    bench.zfs.unmount(bench.path("nowhere"))
    bench.zfs.unmount(bench.path("nowhere"), lazy=True)
    assert bench.zfs.mounted_at(bench.directory) == bench.root


def test_what_is_in_use_is_unmounted_lazily_only(bench: Bench) -> None:
    name, path = bench.make_mounted(), bench.path("web1")
    with bench.held_open(name, path):
        with pytest.raises(Busy) as caught:
            bench.zfs.unmount(path)
        assert f"({os.getpid()})" in caught.value.why
        assert bench.zfs.mounted_at(path) == name
        bench.zfs.unmount(path, lazy=True)
        assert bench.zfs.mounted_at(path) is None
    bench.zfs.mount(name, path)
    assert os.listdir(path) == ["held"]


def test_a_filesystem_with_mounts_below_is_not_unmounted(bench: Bench) -> None:
    name = bench.make_mounted()
    with pytest.raises(Busy) as caught:
        bench.zfs.unmount(bench.directory)
    assert f"the mount at {bench.path('web1')}" in caught.value.why
    assert bench.zfs.mounted_at(bench.path("web1")) == name
    bench.zfs.unmount(bench.directory, lazy=True)
    assert bench.zfs.mounted_at(bench.directory) is None
    assert bench.zfs.mounted_at(bench.path("web1")) is None


# snapshots


def test_snapshots_are_listed_oldest_first(bench: Bench) -> None:
    web1, web2 = bench.make("web1"), bench.make("web2")
    for name in (f"{web1}@b", f"{web2}@x", f"{web1}@a"):
        bench.zfs.snapshot([name], {RECORD: "{}"})
    found = bench.zfs.snapshots(bench.root)
    assert [name for name, _created, _used in found] == [f"{web1}@b", f"{web2}@x", f"{web1}@a"]
    assert all(created > 1_600_000_000 and used >= 0 for _name, created, used in found)
    assert [name for name, _created, _used in bench.zfs.snapshots(web1, depth=1)] == [f"{web1}@b", f"{web1}@a"]
    assert bench.zfs.snapshots(bench.root, depth=1) == []
    assert bench.zfs.count_snapshots(bench.root) == {web1: 2, web2: 1}


def test_a_snapshot_keeps_the_files_of_its_moment(bench: Bench) -> None:
    name = bench.make_mounted()
    Path(bench.path("web1"), "disk0").write_bytes(b"before")
    bench.zfs.snapshot([f"{name}@one"])
    Path(bench.path("web1"), "disk0").write_bytes(b"after")
    bench.zfs.unmount(bench.path("web1"))
    assert bench.snapshot_files(f"{name}@one") == {"disk0": b"before"}


def test_a_snapshot_is_mounted_wherever_its_dataset_is(bench: Bench) -> None:
    name = bench.make_mounted("web1")
    Path(bench.path("web1"), "disk0").write_bytes(b"before")
    bench.zfs.snapshot([f"{name}@one"])
    Path(bench.path("web1"), "disk0").write_bytes(b"after")
    bench.zfs.unmount(bench.path("web1"))
    bench.zfs.mount(name, bench.path("elsewhere"))
    bench.zfs.mount(f"{name}@one", bench.path("web1"))
    assert Path(bench.path("web1"), "disk0").read_bytes() == b"before"
    assert Path(bench.path("elsewhere"), "disk0").read_bytes() == b"after"
    assert bench.zfs.mounted_at(bench.path("web1")) == f"{name}@one"
    with pytest.raises(Busy):
        bench.zfs.destroy_snapshots([f"{name}@one"])
    bench.zfs.unmount(bench.path("web1"))
    bench.zfs.destroy_snapshots([f"{name}@one"])
    with pytest.raises(Missing):
        bench.zfs.mount(f"{name}@one", bench.path("web1"))


def test_snapshots_are_made_all_or_none(bench: Bench) -> None:
    web1, web2 = bench.make("web1"), bench.make("web2")
    bench.zfs.snapshot([f"{web1}@both", f"{web2}@both"])
    with pytest.raises(Refused, match="exists already"):
        bench.zfs.snapshot([f"{web1}@new", f"{web2}@both"])
    with pytest.raises(Missing):
        bench.zfs.snapshot([f"{web1}@new", f"{bench.name('gone')}@new"])
    assert sorted(name for name, _created, _used in bench.zfs.snapshots(bench.root)) == [f"{web1}@both", f"{web2}@both"]


@pytest.mark.parametrize("short", ["", "a b", "a@b", "a/b", "ä"])
def test_a_snapshot_name_that_cannot_be_is_refused(bench: Bench, short: str) -> None:
    name = bench.make()
    for attempt in (bench.zfs.snapshot, bench.zfs.destroy_snapshots):
        with pytest.raises(BadName):
            attempt([f"{name}@good", f"{name}@{short}"])
    assert bench.zfs.snapshots(name) == []


def test_destroyed_snapshots_are_gone_and_again_is_fine(bench: Bench) -> None:
    name = bench.make()
    for short in ("one", "two", "three"):
        bench.zfs.snapshot([f"{name}@{short}"])
    for _again in range(2):
        bench.zfs.destroy_snapshots([f"{name}@one", f"{name}@three"])
        assert [found for found, _created, _used in bench.zfs.snapshots(name)] == [f"{name}@two"]
    bench.zfs.destroy_snapshots([])


def test_snapshots_are_destroyed_all_or_none(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.snapshot([f"{name}@one"])
    bench.zfs.snapshot([f"{name}@held"])
    bench.make_hold(f"{name}@held")
    with pytest.raises(Busy):
        bench.zfs.destroy_snapshots([f"{name}@one", f"{name}@held"])
    assert len(bench.zfs.snapshots(name)) == 2


# renaming and setting


def test_a_renamed_filesystem_takes_all_it_has_with_it(bench: Bench) -> None:
    old, new = bench.make("old"), bench.name("new")
    bench.zfs.create(f"{old}/child", {}, OURS)
    bench.zfs.snapshot([f"{old}@one"])
    guid = bench.look(old).guid
    bench.zfs.rename(old, new)
    assert bench.zfs.get(old) is None
    assert (bench.look(new).guid, bench.look(new).marks) == (guid, OURS)
    assert bench.look(f"{new}/child").marks == OURS
    assert [name for name, _created, _used in bench.zfs.snapshots(new)] == [f"{new}@one"]


def test_a_mounted_filesystem_stays_where_it_is_when_renamed(bench: Bench) -> None:
    old, new = bench.make_mounted("old"), bench.name("new")
    Path(bench.path("old"), "disk0").write_bytes(b"data")
    bench.zfs.rename(old, new)
    assert bench.zfs.mounted_at(bench.path("old")) == new
    assert bench.is_mounted(new)
    assert Path(bench.path("old"), "disk0").read_bytes() == b"data"
    bench.zfs.unmount(bench.path("old"))
    assert not bench.is_mounted(new)


def test_a_taken_name_or_missing_parent_stops_a_rename(bench: Bench) -> None:
    first, second = bench.make("first"), bench.make("second")
    with pytest.raises(Refused, match="exists already"):
        bench.zfs.rename(first, second)
    with pytest.raises(Missing):
        bench.zfs.rename(first, bench.name("no/first"))
    assert [dataset.name for dataset in bench.zfs.datasets(bench.root)] == [bench.root, first, second]


@pytest.mark.parametrize("value", ['{"a":"b,c=d","e":["f g"]}', "z:+/==", "x" * 8191, "no\\escape", "ä"])
def test_a_mark_is_read_back_as_it_was_set(bench: Bench, value: str) -> None:
    name = bench.make()
    bench.zfs.set(name, {RECORD: value})
    assert bench.look(name).marks == {**OURS, RECORD: value}


def test_marks_are_set_together_and_cleared(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.set(name, {RECORD: "x", INSTANCE: "web2", "canmount": "noauto"})
    assert bench.look(name).marks == {**OURS, RECORD: "x", INSTANCE: "web2"}
    assert bench.look(name).canmount == "noauto"
    for _again in range(2):
        bench.zfs.clear(name, [RECORD, INSTANCE])
        assert bench.look(name).marks == {CLUSTER: OURS[CLUSTER]}
    bench.zfs.set(name, {})
    bench.zfs.clear(name, [])
    assert bench.look(name).marks == {CLUSTER: OURS[CLUSTER]}


@pytest.mark.parametrize(("key", "value"), [("refreservation", "1048576"), ("quota", "1073741824"), ("canmount", "noauto")])
def test_what_no_filesystem_inherits_is_not_cleared_but_set(bench: Bench, key: str, value: str) -> None:
    name = bench.make()
    bench.zfs.set(name, {key: value})
    with pytest.raises(CommandFailed, match="cannot be inherited"):
        bench.zfs.clear(name, [key])
    assert bench.zfs.local(name)[key] == value


def test_a_cleared_mark_of_the_parent_does_not_shine_through(bench: Bench) -> None:
    outer = bench.make("outer")
    bench.zfs.create(f"{outer}/inner", {}, OURS)
    bench.zfs.clear(f"{outer}/inner", [INSTANCE])
    assert bench.look(f"{outer}/inner").marks == {CLUSTER: OURS[CLUSTER]}


@pytest.mark.parametrize("values", [{"canmount": "perhaps"}, {"mountpoint": "srv"}, {RECORD: "x" * 8192}, {"nosuch": "x"}])
def test_a_value_that_cannot_be_is_refused_by_set(bench: Bench, values: dict[str, str]) -> None:
    name = bench.make()
    with pytest.raises((CommandFailed, BadInput)):
        bench.zfs.set(name, {INSTANCE: "web2", **values})
    assert bench.look(name).marks == OURS


def test_setting_canmount_leaves_a_mounted_filesystem_mounted(bench: Bench) -> None:
    name = bench.make_mounted()
    for value in ("noauto", "on"):
        bench.zfs.set(name, {"canmount": value})
        assert bench.zfs.mounted_at(bench.path("web1")) == name


# destroying


def assert_kept(bench: Bench, name: str, why: str, marks: dict[str, str] | None = None) -> None:
    """Neither the check nor the destroy goes through, both say why, and nothing is changed."""
    before = bench.zfs.snapshots(name)
    for only_check in (True, False):
        with pytest.raises(Refused) as caught:
            bench.zfs.destroy(name, OURS if marks is None else marks, only_check=only_check)
        assert why in caught.value.why
    assert bench.look(name).name == name
    assert bench.zfs.snapshots(name) == before


def test_an_unmounted_filesystem_with_the_right_marks_is_destroyed(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.destroy(name, OURS, only_check=True)
    assert bench.look(name).marks == OURS
    bench.zfs.destroy(name, OURS)
    assert bench.zfs.get(name) is None
    with pytest.raises(Missing) as caught:
        bench.zfs.destroy(name, OURS)
    assert str(caught.value) == f"dataset {name} does not exist"


def test_one_with_other_marks_is_foreign(bench: Bench) -> None:
    name = bench.make()
    assert_kept(bench, name, f"is not ours as expected (property {INSTANCE})", {**OURS, INSTANCE: "web2"})
    assert_kept(bench, name, f"is not ours as expected (property {RECORD})", {**OURS, RECORD: "x"})
    with pytest.raises(Foreign):
        bench.zfs.destroy(name, {INSTANCE: "web2"})


def test_inherited_marks_do_not_make_it_ours(bench: Bench) -> None:
    outer = bench.make("outer")
    bench.zfs.create(f"{outer}/inner", {}, {})
    with pytest.raises(Foreign):
        bench.zfs.destroy(f"{outer}/inner", OURS)
    assert bench.look(f"{outer}/inner").marks == {}


def test_a_child_keeps_it(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.create(f"{name}/child", {}, OURS)
    assert_kept(bench, name, f"has the child {name}/child")


def test_a_clone_keeps_it(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.snapshot([f"{name}@{bench.zfs.ours}golden"])
    bench.make_clone(f"{name}@{bench.zfs.ours}golden", bench.name("clone"))
    assert bench.look(bench.name("clone")).origin == f"{name}@{bench.zfs.ours}golden"
    assert_kept(bench, name, f"has the clone {bench.name('clone')}")


def test_a_hold_keeps_it(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.snapshot([f"{name}@{bench.zfs.ours}one"])
    bench.make_hold(f"{name}@{bench.zfs.ours}one")
    assert_kept(bench, name, f"snapshot {name}@{bench.zfs.ours}one (keep) is held")


def test_a_hold_whose_tag_says_that_all_is_well_keeps_it(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.snapshot([f"{name}@{bench.zfs.ours}one"])
    bench.make_hold(f"{name}@{bench.zfs.ours}one", LYING_TAG)
    with pytest.raises(Busy):
        bench.zfs.destroy(name, OURS, strangers=True)
    with pytest.raises(Busy):
        bench.zfs.destroy(name, OURS, strangers=True, only_check=True)
    assert bench.look(name).marks == OURS


def test_looking_leaves_no_trace_in_the_history_of_the_pool(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.snapshot([f"{name}@golden"])
    before = bench.history()
    for _again in range(3):
        bench.look(name)
        bench.zfs.datasets(bench.root, marks=MARKS)
        bench.zfs.with_snapshot(bench.root, "golden", ("guid", "clones"), depth=1, marks=MARKS)
        bench.zfs.snapshots(name)
    assert bench.history() == before


def test_snapshots_of_others_keep_it_unless_told(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.snapshot([f"{name}@{bench.zfs.ours}one"])
    bench.zfs.snapshot([f"{name}@autosnap_daily"])
    assert_kept(bench, name, "has the snapshot autosnap_daily, which is not ours")
    bench.zfs.destroy(name, OURS, strangers=True, only_check=True)
    assert len(bench.zfs.snapshots(name)) == 2
    bench.zfs.destroy(name, OURS, strangers=True)
    assert bench.zfs.get(name) is None


def test_snapshots_of_ours_go_with_it(bench: Bench) -> None:
    name = bench.make()
    for number in range(3):
        bench.zfs.snapshot([f"{name}@{bench.zfs.ours}{number}"])
    bench.zfs.destroy(name, OURS)
    assert bench.zfs.get(name) is None


def test_more_snapshots_than_one_step_destroys_go_with_it(bench: Bench) -> None:
    name = bench.make()
    for number in range(101):
        bench.zfs.snapshot([f"{name}@{bench.zfs.ours}{number}"])
    bench.zfs.destroy(name, OURS)
    assert bench.zfs.get(name) is None


def test_a_mount_keeps_it(bench: Bench) -> None:
    name = bench.make_mounted()
    assert_kept(bench, name, f"is in use by the mount at {bench.path('web1')}")
    bench.zfs.snapshot([f"{name}@{bench.zfs.ours}one"])
    assert_kept(bench, name, f"is in use by the mount at {bench.path('web1')}")
    bench.zfs.unmount(bench.path("web1"))
    bench.zfs.destroy(name, OURS)
    assert bench.zfs.get(name) is None


def test_a_process_keeps_it_after_a_lazy_unmount(bench: Bench) -> None:
    name, path = bench.make_mounted(), bench.path("web1")
    with bench.held_open(name, path):
        bench.zfs.unmount(path, lazy=True)
        assert_kept(bench, name, f"({os.getpid()})")
    bench.zfs.destroy(name, OURS, seconds=10)
    assert bench.zfs.get(name) is None


# going back


def born(bench: Bench, name: str) -> list[str]:
    """The short names of a filesystem's snapshots, oldest first."""
    return [full.split("@")[1] for full, _created, _used in bench.zfs.snapshots(name, depth=1)]


def make_past(bench: Bench, *shorts: str, short: str = "web1") -> str:
    """An unmounted filesystem of ours with a snapshot for each of the names, each of which its file has held."""
    name = bench.make_mounted(short)
    for each in shorts:
        Path(bench.path(short), "disk0").write_text(each, encoding="ascii")
        bench.zfs.snapshot([f"{name}@{each}"])
    Path(bench.path(short), "disk0").write_bytes(b"now")
    bench.zfs.unmount(bench.path(short))
    return name


def reads(bench: Bench, name: str) -> bytes:
    bench.zfs.mount(name, bench.path("reading"))
    try:
        return Path(bench.path("reading"), "disk0").read_bytes()
    finally:
        bench.zfs.unmount(bench.path("reading"))


def test_a_snapshot_that_is_called_otherwise_has_its_clones_still(bench: Bench) -> None:
    name, clone = bench.make("web1"), bench.name("clone")
    for short in ("a", "c"):
        bench.zfs.snapshot([f"{name}@{short}"])
    bench.zfs.clone(f"{name}@a", clone, {})
    bench.zfs.rename_snapshot(f"{name}@a", f"{name}@b")
    assert [found.partition("@")[2] for found, _created, _used in bench.zfs.snapshots(name, depth=1)] == ["b", "c"]
    found = bench.zfs.get(clone)
    assert found is not None
    assert found.origin == f"{name}@b"
    with pytest.raises(CommandFailed):
        bench.zfs.rename_snapshot(f"{name}@b", f"{name}@c")
    with pytest.raises(Missing):
        bench.zfs.rename_snapshot(f"{name}@nothing", f"{name}@d")


def test_a_promoted_clone_has_the_past_and_the_other_is_its_clone(bench: Bench) -> None:
    image = make_past(bench, "golden", short="image")
    name = bench.name("web1")
    bench.zfs.clone(f"{image}@golden", name, OURS)
    for each in ("one", "two", "three"):
        bench.zfs.snapshot([f"{name}@{each}"])
    bench.make_hold(f"{name}@one")
    bench.make_clone(f"{name}@one", bench.name("other"))
    bench.make_clone(f"{name}@two", bench.name("clone"))
    bench.zfs.promote(bench.name("clone"))
    assert (born(bench, bench.name("clone")), born(bench, name)) == (["one", "two"], ["three"])
    assert bench.look(bench.name("clone")).origin == f"{image}@golden"
    assert bench.look(name).origin == f"{bench.name('clone')}@two"
    assert bench.look(bench.name("other")).origin == f"{bench.name('clone')}@one"
    assert bench.zfs.holds([f"{bench.name('clone')}@one", f"{name}@three"]) == {f"{bench.name('clone')}@one": ["keep"]}
    bench.zfs.promote(name)
    assert (born(bench, bench.name("clone")), born(bench, name)) == ([], ["one", "two", "three"])
    assert bench.look(bench.name("clone")).origin == f"{name}@two"
    with pytest.raises(CommandFailed):
        bench.zfs.promote(bench.make("none"))
    with pytest.raises(Missing):
        bench.zfs.promote(bench.name("nothing"))


def test_a_promotion_that_would_cover_a_snapshot_is_refused(bench: Bench) -> None:
    name = make_past(bench, "one", "two")
    bench.make_clone(f"{name}@two", bench.name("clone"))
    bench.zfs.snapshot([f"{bench.name('clone')}@one"])
    with pytest.raises(Refused):
        bench.zfs.promote(bench.name("clone"))
    assert born(bench, name) == ["one", "two"]


def test_holds_are_told_by_their_tags(bench: Bench) -> None:
    name = make_past(bench, "one", "two")
    assert bench.zfs.holds([]) == bench.zfs.holds([f"{name}@one"]) == {}
    bench.make_hold(f"{name}@two")
    assert bench.zfs.holds([f"{name}@one", f"{name}@two"]) == {f"{name}@two": ["keep"]}
    with pytest.raises(Missing):
        bench.zfs.holds([f"{name}@three"])


def test_holds_keep_a_snapshot_and_are_counted_by_tag(bench: Bench) -> None:
    name = make_past(bench, "one", "two")
    for tag in ("zfsganeti-move-until-1", "keep:1", "keep:1"):
        bench.zfs.hold(f"{name}@one", tag)
    assert {snapshot: sorted(tags) for snapshot, tags in bench.zfs.held(name).items()} == {
        f"{name}@one": ["keep:1", "zfsganeti-move-until-1"]
    }
    with pytest.raises(Refused):
        bench.zfs.destroy_snapshots([f"{name}@one"])
    for tag in ("zfsganeti-move-until-1", "keep:1", "keep:1", "never"):
        bench.zfs.release(f"{name}@one", tag)
    assert bench.zfs.held(name) == {}
    bench.zfs.destroy_snapshots([f"{name}@one"])
    with pytest.raises(BadInput):
        bench.zfs.hold(f"{name}@two", "a b")
    for missing in (lambda: bench.zfs.hold(f"{name}@one", "keep"), lambda: bench.zfs.held(f"{name}-none")):
        with pytest.raises(Missing):
            missing()


def test_what_is_released_is_not_held_any_more(bench: Bench) -> None:
    name = make_past(bench, "one")
    bench.make_hold(f"{name}@one")
    bench.zfs.release(f"{name}@one", "another")
    assert bench.zfs.holds([f"{name}@one"]) == {f"{name}@one": ["keep"]}
    for _time in range(2):
        bench.zfs.release(f"{name}@one", "keep")
        assert bench.zfs.holds([f"{name}@one"]) == {}
    with pytest.raises(Missing):
        bench.zfs.release(f"{name}@two", "keep")


def test_several_go_back_at_once(bench: Bench) -> None:
    names = [make_past(bench, "one", "two", "three", short=short) for short in ("web1", "web2")]
    bench.zfs.roll_back(dict.fromkeys(names, "two"))
    for name in names:
        assert (born(bench, name), reads(bench, name)) == (["one", "two"], b"two")
    bench.zfs.roll_back({names[0]: "two"})
    assert reads(bench, names[0]) == b"two"


@pytest.mark.parametrize("obstacle", ["clone", "hold", "bookmark", "mount", "missing"])
def test_none_goes_back_when_one_cannot(bench: Bench, obstacle: str) -> None:
    first, second = (make_past(bench, "one", "two", short=short) for short in ("web1", "web2"))
    targets = {first: "one", second: "one"}
    said = "is in use by the mount at"
    if obstacle == "clone":
        bench.make_clone(f"{second}@two", bench.name("clone"))
        said = f"dataset {second}: has the clone {bench.name('clone')}"
    elif obstacle == "hold":
        bench.make_hold(f"{second}@two")
        said = f"dataset {second}: snapshot {second}@two (keep) is held"
    elif obstacle == "bookmark":
        bench.make_bookmark(f"{first}@one", "old")
        bench.make_bookmark(f"{second}@two", "new")
        said = f"dataset {second}: has the bookmark {second}#new, which is newer: zfs destroy {second}#new"
        bench.zfs.refuse_newer_bookmarks(first, "one")
        with pytest.raises(Busy, match="has the bookmark"):
            bench.zfs.refuse_newer_bookmarks(second, "one")
    elif obstacle == "mount":
        bench.zfs.mount(second, bench.path("web2"))
    else:
        targets[second] = "none"
        said = f"{second}@none does not exist"
    with pytest.raises(Missing if obstacle == "missing" else Busy) as refusal:
        bench.zfs.roll_back(targets)
    assert said in str(refusal.value)
    assert (born(bench, first), born(bench, second)) == (["one", "two"], ["one", "two"])
    bench.zfs.unmount(bench.path("web2"))
    assert (reads(bench, first), reads(bench, second)) == (b"now", b"now")


def test_what_is_older_keeps_nothing_from_going_back(bench: Bench) -> None:
    name = make_past(bench, "one", "two", "three")
    bench.make_hold(f"{name}@one")
    bench.make_clone(f"{name}@two", bench.name("clone"))
    bench.zfs.roll_back({name: "two"})
    assert (born(bench, name), reads(bench, name)) == (["one", "two"], b"two")


def test_a_snapshot_says_what_was_said_of_it(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.snapshot([f"{name}@one"], {"org.zfsganeti:comment": "before the upgrade"})
    bench.zfs.snapshot([f"{name}@two"])
    told = bench.zfs.snapshot_facts(name, ("createtxg", "userrefs", "org.zfsganeti:comment"), depth=1)
    assert [told[f"{name}@{short}"]["org.zfsganeti:comment"] for short in ("one", "two")] == ["before the upgrade", "-"]
    assert int(told[f"{name}@one"]["createtxg"]) < int(told[f"{name}@two"]["createtxg"])
    assert told[f"{name}@one"]["userrefs"] == "0"


def test_something_can_be_said_of_a_snapshot_later(bench: Bench) -> None:
    name, comment = bench.make(), "org.zfsganeti:comment"
    bench.zfs.snapshot([f"{name}@one"])
    bench.zfs.mark_snapshot(f"{name}@one", {comment: "it's \u00e9 = fine"})
    assert bench.zfs.snapshot_facts(name, (comment,), depth=1)[f"{name}@one"][comment] == "it's \u00e9 = fine"
    assert comment not in bench.zfs.local(name)
    with pytest.raises(Missing):
        bench.zfs.mark_snapshot(f"{name}@gone", {comment: "x"})


def test_room_that_was_limited_or_reserved_can_be_given_free(bench: Bench) -> None:
    name = bench.make()
    bench.zfs.set(name, {"quota": "67108864", "reservation": "1048576"})
    bench.zfs.set(name, {"quota": "none", "reservation": "none"})
    assert {bench.zfs.local(name).get(key, "none") for key in ("quota", "reservation")} <= {"none", "0"}


def test_what_was_cloned_this_moment_is_destroyed_without_marks(bench: Bench) -> None:
    name = make_past(bench, "one")
    bench.zfs.clone(f"{name}@one", bench.name("clone"), {}, {"canmount": "noauto"})
    bench.zfs.destroy(bench.name("clone"), {})
    assert bench.zfs.get(bench.name("clone")) is None
    assert bench.zfs.snapshot_facts(name, ("clones",), depth=1)[f"{name}@one"]["clones"] in ("", "-")
