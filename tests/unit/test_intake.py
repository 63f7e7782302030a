"""The copying that a node does: whatever is written meanwhile, overflows or is killed, the disk ends equal to the old one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakeloop import FakeLoop
from tests.fakelvm import FakeLogical, FakeLvm
from tests.killing import dies
from tests.node import Node, nodes_at
from zfsganeti import intake, lvm
from zfsganeti.datasets import INSTANCE, INTENT
from zfsganeti.errors import BadInput, Busy, Foreign, Missing, NoSpace, Refused
from zfsganeti.intake import Job, Pass, Progress, plan, unpack
from zfsganeti.lvm import Logical
from zfsganeti.volumes import Volumes

MIB = 1 << 20
SIZE = 2 * MIB + 65536
LV = "0b1c.disk0"
FILE = "7e57.file.disk0"
ENOUGH = 64 * MIB
PLACES = {"vg": "vg", "lv": LV, "disk": 0, "volume": "", "file": FILE, "names": ["adopt-web1", "web1"]}


class Bench:
    """A node with an old disk on LVM and a new, empty one in a dataset."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.lvm = FakeLvm(f"{node.place}/lvm", node.fake.reaper)
        self.lvm.make(LV, os.urandom(MIB) + bytes(SIZE - MIB))
        node.store.admit("adopt-web1", [])
        self.path = f"{node.home('adopt-web1')}/{FILE}"
        with open(self.path, "wb") as file:
            file.truncate(SIZE)
        volumes = Volumes(node.store, FakeLoop(node.fake.reaper))
        self.here: Any = SimpleNamespace(
            store=node.store, zfs=node.fake, root=node.root, volumes=volumes, ssconf=SimpleNamespace(cluster=node.store.cluster)
        )
        self.here.place_of = lambda _name: self.here

    @property
    def job(self) -> Job:
        return Job(self.here, PLACES, self.lvm)

    def copy(self, number: int, room: int = ENOUGH) -> None:
        for _slice in range(200):
            if self.job.advance(number, room, 0)["ended"]:
                return
        raise AssertionError("it does not end")

    def finish(self) -> int:
        """Return how much was compared."""
        offset, read = 0, 0
        for _slice in range(200):
            told = self.job.finish(offset, 0)
            offset, read = told["offset"], read + told["read"]
            if told["ended"]:
                return read
        raise AssertionError("it does not end")

    def new(self) -> bytes:
        dataset = self.job.dataset()
        with self.node.store.looking_into(dataset) as directory:
            return Path(directory, FILE).read_bytes()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(nodes_at(tmp_path)())


def test_what_changes_while_it_is_copied_is_copied_again_and_nothing_else(bench: Bench) -> None:
    bench.copy(1)
    assert bench.new() == bench.lvm.content(LV)
    bench.lvm.write(LV, 100_000, b"changed")
    bench.lvm.write(LV, SIZE - 5, b"last!")
    assert bench.job.changed() == 2 * 65536
    bench.copy(2)
    assert [found.number for found in bench.job.snapshots().values()] == [2]
    bench.lvm.write(LV, 5, b"again")
    assert bench.finish() == 65536
    assert bench.new() == bench.lvm.content(LV)
    assert os.stat(bench.path).st_blocks * 512 < MIB + 5 * 65536, "what is empty stays empty"


def test_a_snapshot_with_little_room_is_copied_to_its_end(bench: Bench) -> None:
    """LVM tells a snapshot's room as its size."""
    bench.lvm.write(LV, SIZE - 5, b"last!")
    bench.copy(1, room=2 * 65536)
    assert bench.new() == bench.lvm.content(LV)
    bench.lvm.write(LV, 5, b"again")
    assert bench.finish() == 65536
    assert bench.new() == bench.lvm.content(LV)


def test_without_a_snapshot_all_of_it_is_compared(bench: Bench) -> None:
    assert bench.job.changed() == -1
    assert bench.finish() == SIZE
    assert bench.new() == bench.lvm.content(LV)
    bench.lvm.write(LV, 5, b"again")
    assert bench.finish() == SIZE
    assert bench.new() == bench.lvm.content(LV)


def test_what_is_copied_while_nobody_uses_it_leaves_the_other_guests_their_room(bench: Bench) -> None:
    bench.node.fake.available = 0
    with pytest.raises(NoSpace):
        bench.job.finish(0, 0)
    bench.node.fake.available = 1 << 30
    bench.copy(1)
    bench.lvm.write(LV, 5, b"again")
    bench.node.fake.available = 0
    assert bench.finish() == 65536, "of what little has changed, all is copied: the guest is down"
    assert bench.new() == bench.lvm.content(LV)


def test_a_snapshot_that_overflowed_is_not_believed(bench: Bench) -> None:
    bench.copy(1, room=65536)
    bench.lvm.write(LV, 0, b"x" * 65537)
    assert bench.job.changed() == -1
    assert bench.finish() == SIZE
    assert bench.new() == bench.lvm.content(LV)
    bench.copy(2)
    bench.lvm.write(LV, 0, b"y")
    bench.copy(3)
    assert bench.new() == bench.lvm.content(LV)


def test_a_snapshot_that_overflows_while_it_is_read_is_dropped(bench: Bench) -> None:
    first = bench.job.advance(1, 65536, 0)
    assert not first["ended"]
    bench.lvm.write(LV, 0, b"x" * 65537)
    assert not bench.job.advance(1, 65536, 0)["ended"]  # taken anew
    bench.copy(2)
    assert bench.new() == bench.lvm.content(LV)


def test_the_copy_is_compared_as_it_was_when_it_was_kept(bench: Bench) -> None:
    bench.finish()
    ours = {"instance": "adopt-web1"}
    intake.VERBS["adopt-keep"](bench.here, ours)
    Path(bench.path).write_bytes(b"the guest goes on")
    assert bench.job.verify(0, 60) == {"ended": True, "offset": SIZE, "total": SIZE, "differs": -1}
    bench.lvm.write(LV, 70_000, b"other")
    assert 0 <= bench.job.verify(0, 60)["differs"] <= 70_000
    intake.VERBS["adopt-keep"](bench.here, {**ours, "gone": True})
    assert bench.node.fake.snapshots("zfs/vm") == []


def test_a_disk_that_is_in_use_is_not_taken_for_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CLOSING_SECONDS", 0)
    bench.lvm.busy = ["process qemu-system-x86 (7)"]
    with pytest.raises(Busy, match=f"vg/{LV}: is in use by process qemu"):
        bench.job.finish(0, 0)


def test_a_new_disk_that_a_guest_runs_on_is_not_written(bench: Bench) -> None:
    bench.copy(1)
    with open(bench.path, "r+b") as guest:
        guest.write(b"the guest's")
        guest.flush()
        for act in (lambda: bench.copy(2), bench.finish):
            with pytest.raises(Busy, match=r"^disk 0 of web1: its new one is in use by process .*: stop that, then the same command"):
                act()
    bench.here.volumes.devices.attached["other"] = (bench.path, SIZE)
    with pytest.raises(Busy, match="in use by /dev/zfsganeti/other"):
        bench.finish()
    assert bench.new().startswith(b"the guest's")


def test_of_a_copy_that_somebody_else_has_written_to_all_is_compared(bench: Bench) -> None:
    def somebody() -> None:
        with open(bench.path, "r+b") as file:
            file.seek(500_000)
            file.write(b"a journal that was replayed")

    for number in (1, 2):
        bench.job.advance(number, ENOUGH, 0)
        somebody()
        bench.copy(number)
        assert bench.new() == bench.lvm.content(LV)
        bench.lvm.write(LV, 5, b"changed")
    assert bench.job.changed() == 65536
    somebody()
    assert bench.job.changed() == -1
    assert bench.finish() == SIZE
    assert bench.new() == bench.lvm.content(LV)


def test_a_copy_that_was_written_to_or_replaced_is_not_believed_to_be_finished(bench: Bench) -> None:
    bench.copy(1)
    bench.finish()
    seen = bench.job.finish(0, 60)["writes"]
    assert bench.job.finish(0, 60, again=True, seen=seen)["read"] == 0
    with open(bench.path, "r+b") as file:
        file.write(b"a guest's")
    assert bench.job.finish(0, 60, again=True, seen=seen)["read"] == SIZE
    os.unlink(bench.path)  # its disk is made again
    with open(bench.path, "wb") as file:
        file.truncate(SIZE)
    assert bench.job.finish(0, 60, again=True, seen=seen)["read"] == SIZE
    assert bench.new() == bench.lvm.content(LV)


def test_a_copy_that_was_rolled_back_is_compared_whole(bench: Bench) -> None:
    """A snapshot that somebody takes bears an earlier stamp, and the mark a later one."""
    bench.job.advance(1, ENOUGH, 0)
    before = bench.new(), os.stat(bench.path).st_mtime_ns
    bench.copy(1)
    Path(bench.path).write_bytes(before[0])
    os.utime(bench.path, ns=(before[1], before[1]))
    assert bench.finish() == SIZE
    assert bench.new() == bench.lvm.content(LV)


def test_what_a_slice_has_written_that_failed_is_known_for_ours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.job.advance(1, ENOUGH, 0)

    def fails(*_arguments: Any) -> bool:
        Path(bench.path).touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(intake, "copy", fails)
        bench.job.advance(1, ENOUGH, 0)
    assert bench.job.progress().offset == MIB
    bench.copy(1)
    assert bench.new() == bench.lvm.content(LV)


def test_a_disk_that_was_grown_since_is_not_cut_off(bench: Bench) -> None:
    bench.copy(1)
    with open(bench.lvm.find("vg", LV).path, "ab") as file:
        file.write(os.urandom(MIB))
    bench.lvm.known[LV] = FakeLogical(**{**vars(bench.lvm.known[LV]), "size": SIZE + MIB})
    said = r"^disk 0 of web1: has 3.06M, its new one 2.06M: it was grown since: gnt-zfs adopt --abort web1, then again$"
    for act in (lambda: bench.copy(2), bench.finish):
        with pytest.raises(Refused, match=said):
            act()
    # of drbd a guest sees less than the volume, which LVM has rounded up
    job = Job(bench.here, {**PLACES, "size": SIZE}, bench.lvm)
    assert job.finish(0, 60)["ended"]
    assert bench.new() == bench.lvm.content(LV)[:SIZE]
    with pytest.raises(Refused, match="has 2.06M, its new one 2.06M: it was grown"):
        Job(bench.here, {**PLACES, "size": SIZE + 1}, bench.lvm).finish(0, 60)


def test_a_guest_on_drbd_is_no_user_of_its_volume(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ganeti may say that it is stopped when it is not: the stop has failed."""
    monkeypatch.setattr(intake, "CLOSING_SECONDS", 0)
    monkeypatch.setattr(intake, "DRBD_DEVICE", f"{tmp_path}/drbd{{}}")
    job = Job(bench.here, {**PLACES, "minor": 0}, bench.lvm)
    with open(f"{tmp_path}/drbd0", "wb"), pytest.raises(Busy, match=rf"vg/{LV}: is in use by process .*: stop it, then the same"):
        job.finish(0, 0)
    assert not job.finish(0, 0)["ended"]
    assert not Job(bench.here, {**PLACES, "minor": 1}, bench.lvm).finish(0, 0)["ended"]


writes = st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=9))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), writes), st.tuples(st.just("slice"), st.integers(1, 3)), st.tuples(st.just("overflow"), st.none())
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions)
def test_whatever_happens_meanwhile_it_ends_equal(tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, Any]]) -> None:
    bench = Bench(nodes_at(tmp_path_factory.mktemp("bench"))())
    number = 1
    for action, value in done:
        if action == "write":
            bench.lvm.write(LV, value[0], value[1][: SIZE - value[0]])
        elif action == "slice":
            number = max(number, value)
            bench.job.advance(number, ENOUGH, 0)
        elif valid := [found for found in bench.job.snapshots().values() if found.valid]:
            bench.lvm.overflow(valid[-1])
    bench.finish()
    assert bench.new() == bench.lvm.content(LV)


def test_killed_anywhere_it_is_gone_on_with(tmp_path: Path) -> None:
    another = nodes_at(tmp_path)

    def operation(bench: Bench) -> None:
        bench.copy(1)
        bench.lvm.write(LV, 70_000, b"more")
        bench.copy(2)
        bench.finish()

    point = 1
    while True:
        bench = Bench(another())
        died = dies(bench.node.fake.reaper, point, partial(operation, bench))
        bench.copy(max(1, max(bench.job.snapshots(), default=1)))
        bench.lvm.write(LV, 7, b"on it goes")
        bench.copy(3)
        bench.finish()
        assert bench.new() == bench.lvm.content(LV), f"after a death at {point}"
        if not died:
            break
        point += 1
    assert point > 5


# the plan (pure)


def snapshots(*numbers: int, valid: bool = True) -> dict[int, Logical]:
    attributes = "sri-a-s---" if valid else "sri-I-s---"
    return {number: Logical("vg", f"zfsganeti-{number}-x", f"u{number}", 1, attributes, ("zfsganeti",), "x") for number in numbers}


@pytest.mark.parametrize(
    ("progress", "known", "number", "wanted"),
    [
        (Progress(), {}, 1, Pass(1, take=True)),
        (Progress(), snapshots(1), 1, Pass(1)),
        (Progress(), {}, 0, Pass(0)),
        (Progress(whole=1, uuids=("u1",)), snapshots(1), 1, None),
        (Progress(whole=1, uuids=("u1",)), snapshots(1), 2, Pass(2, base=1, take=True)),
        (Progress(whole=1, uuids=("u1",)), snapshots(1, 2), 2, Pass(2, base=1)),
        (Progress(whole=1, uuids=("u1",)), snapshots(1), 0, Pass(0, base=1)),
        (Progress(whole=1, uuids=("other",)), snapshots(1), 0, Pass(0)),
        (Progress(whole=1, uuids=("u1",)), snapshots(1, valid=False), 0, Pass(0)),
        (Progress(whole=1, uuids=("u1",)), snapshots(1, valid=False), 1, Pass(1, take=True)),
        (Progress(making=1, offset=5, uuids=("u1",)), snapshots(1), 1, Pass(1, offset=5)),
        (Progress(making=1, offset=5, uuids=("other",)), snapshots(1), 1, Pass(1)),
        (Progress(making=1, offset=5, uuids=("u1",)), snapshots(1), 0, Pass(0)),
        (Progress(making=2, base=1, offset=5, uuids=("u1", "u2")), snapshots(1, 2), 2, Pass(2, base=1, offset=5)),
        (Progress(making=2, base=1, offset=5, uuids=("u1", "u2")), snapshots(2), 2, Pass(2)),
    ],
)
def test_only_a_snapshot_that_is_known_tells_what_changed(
    progress: Progress, known: dict[int, Logical], number: int, wanted: Pass | None
) -> None:
    assert plan(progress, known, number) == wanted


def test_the_state_of_drbd_is_read(tmp_path: Path) -> None:
    text = """version: 8.4.11 (api:1/proto:86-101)
 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:0 nr:0 dw:0 dr:2128 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
 1: cs:Unconfigured
12: cs:SyncTarget ro:Primary/Secondary ds:Inconsistent/UpToDate C r-----
"""
    (tmp_path / "drbd").write_text(text)
    assert lvm.drbd_states(str(tmp_path / "drbd")) == {0: "UpToDate", 12: "Inconsistent"}
    assert lvm.drbd_states(str(tmp_path / "none")) == {}


def test_progress_is_kept_and_rubbish_is_none() -> None:
    progress = Progress(making=2, base=1, offset=7, uuids=("a", "b"))
    assert unpack(progress.pack()) == progress
    for rubbish in ("", "x", "[]", '{"whole": "x"}', '{"uuids": 3}', "null"):
        assert unpack(rubbish) == Progress()


# names


def loosen(bench: Bench, old: str = "adopt-web1", new: str = "web1", directory: str = "adopt-web1") -> None:
    path = "/".join(part for part in (bench.node.root.path, directory, FILE) if part)
    intake.VERBS["adopt-loosen"](bench.here, {"old": old, "new": new, "paths": [path]})


def ganeti_moves(bench: Bench, new: str, owner: str = "web1") -> None:
    """What detach and attach do: the file is renamed out of the one directory and into the other, under a new name."""
    root = bench.node.root.path
    for directory in ("adopt-web1", "web1"):
        if os.path.lexists(f"{root}/{directory}/{FILE}"):
            os.rename(f"{root}/{directory}/{FILE}", f"{root}/{FILE}")
    os.rename(f"{root}/{FILE}", f"{root}/{owner}/{new}")


def test_a_disk_file_changes_its_owner(bench: Bench) -> None:
    bench.copy(1)
    loosen(bench)
    assert bench.node.datasets() == ["web1"]
    bench.lvm.write(LV, 9, b"while it is between the two")
    bench.finish()
    ganeti_moves(bench, "beef.file.disk0")
    settle(bench)
    assert Path(bench.node.home("web1"), "beef.file.disk0").read_bytes() == bench.lvm.content(LV)
    assert bench.node.reads("web1").keys() == {"beef.file.disk0"}
    marks = bench.node.marks("zfs/vm/web1")
    assert marks[INSTANCE] == "web1"
    assert INTENT not in marks
    assert not [mark for mark in marks if "adopt-0" in mark]
    assert not os.path.lexists(f"{bench.node.root.path}/{FILE}")


def test_killed_anywhere_a_disk_file_still_changes_its_owner(tmp_path: Path) -> None:
    _killed(nodes_at(tmp_path), lambda _bench: None)


def test_killed_anywhere_and_brought_home_by_the_watcher_it_still_does(tmp_path: Path) -> None:
    def home(bench: Bench) -> None:
        for name in ("adopt-web1", "web1"):
            with contextlib.suppress(Missing, Foreign):  # check does not propose it then
                bench.node.store.bring_home(name)

    _killed(nodes_at(tmp_path), home)


def settle(bench: Bench) -> None:
    intake.VERBS["adopt-settle"](bench.here, {"instance": "web1", "files": ["beef.file.disk0"], "volumes": []})


def _killed(another: Callable[[], Node], between: Callable[[Bench], None]) -> None:
    point = 1
    while True:
        bench = Bench(another())
        died = dies(bench.node.fake.reaper, point, partial(loosen, bench))
        between(bench)
        loosen(bench)
        ganeti_moves(bench, "beef.file.disk0")
        inner, settled = 1, False
        while not settled:
            settled = not dies(bench.node.fake.reaper, inner, partial(settle, bench))
            inner += 1
        assert bench.node.reads("web1").keys() == {"beef.file.disk0"}, f"after a death at {point}"
        assert bench.node.datasets() == ["web1"]
        if not died:
            break
        point += 1
    assert point > 5


def test_what_is_not_expected_is_refused(bench: Bench) -> None:
    for paths in (["/etc/passwd"], [f"{bench.node.root.path}/other/{FILE}"], [], "x"):
        with pytest.raises(BadInput):
            intake.VERBS["adopt-loosen"](bench.here, {"old": "adopt-web1", "new": "web1", "paths": paths})
    with pytest.raises(Missing):
        intake.VERBS["adopt-settle"](bench.here, {"instance": "web1", "files": [FILE], "volumes": []})
    bench.node.has("web1", disk0=b"another's")
    with pytest.raises(Foreign):
        loosen(bench)
    assert bench.node.reads("web1") == {"disk0": b"another's"}
    bad: dict[str, Any]
    for bad in ({"vg": "../x"}, {"lv": "-x"}, {"disk": -1}, {"file": "a/b"}, {"names": []}, {"names": ["../x"]}):
        with pytest.raises(BadInput):
            Job(bench.here, {**PLACES, **bad}, bench.lvm)
