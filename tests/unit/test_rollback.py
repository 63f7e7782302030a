"""Back to a snapshot: whatever the past was, nothing is lost unless that is wanted, wherever it is killed."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.deaths.histories import DISK0, DISK1, RECORDED, SIZE, Bench, back, names_of, with_a_past
from tests.deaths.images import GOLD, MIB, holding
from tests.killing import dies
from zfsganeti import rollback, undo
from zfsganeti.contents import reservation
from zfsganeti.datasets import BACK, FORMER, FORMER_NAMES, INSTANCE, RECORD, REPLACED, RESERVED, ROLLBACK, former_names, pack_former
from zfsganeti.errors import BadName, Busy, Foreign, Full, Missing, Refused, ZfsGanetiError
from zfsganeti.rollback_plan import Past, Plan, State, Step, beside, plan, unfinished
from zfsganeti.snapshots import Snap
from zfsganeti.zfs import Dataset

RESTORED = "0b1c0b5e-8f0c-4f2e-9d52-5a5e2b0f7c99.ext.disk0"


def past(name: str, *shorts: str, written: int = 0) -> Past:
    return Past(name, tuple(Snap(short, index, index, written=1 << 20) for index, short in enumerate(shorts)), written)


# the plan


def test_the_plan_says_what_is_newer() -> None:
    made = plan("web1", "b", [past("zfs/vm/web1", "a", "b", "c", "d", written=1 << 20)], discard=False)
    assert made.sentences() == [
        "zfs/vm/web1 goes back to b",
        "kept in the trash: what was written since (3.00M), and what is newer than b: c, d",
    ]
    assert made.steps() == [
        Step("clone", "zfs/vm/web1@b", "zfs/vm/.rollback/web1"),
        Step("promote", "zfs/vm/.rollback/web1"),
        Step("keep", "zfs/vm/web1"),
        Step("place", "zfs/vm/.rollback/web1", "zfs/vm/web1"),
    ]
    made = plan("web1", "d", [past("zfs/vm/web1", "a", "d")], discard=True)
    assert made.sentences() == ["zfs/vm/web1 goes back to d", "destroyed for good: what was written since (0B)"]


def test_the_plan_says_which_moments_its_snapshots_are_of() -> None:
    def taken(name: str, created: int) -> Past:
        return Past(name, (Snap("a", created, 1),))

    said = plan("web1", "a", [taken("zfs/vm/one", 1_700_000_000), taken("zfs/vm/two", 1_700_000_060)], discard=False).sentences()
    assert [sentence for sentence in said if "moment" in sentence] == []
    said = plan("web1", "a", [taken("zfs/vm/one", 1_700_172_800), taken("zfs/vm/two", 1_700_000_000)], discard=False).sentences()
    assert said[-1] == "a is not of one moment: zfs/vm/two goes back to 2023-11-14 22:13, zfs/vm/one to 2023-11-16 22:13"


def test_all_disks_go_back_or_none() -> None:
    with pytest.raises(Refused, match="zfs/vm/two has no such snapshot, and all disks go back or none: gnt-zfs snapshot list web1 shows"):
        plan("web1", "b", [past("zfs/vm/one", "a", "b"), past("zfs/vm/two", "a")], discard=False)


def test_what_is_too_long_to_be_moved_is_said_first() -> None:
    long = "x" * 230
    with pytest.raises(BadName, match="is too long to follow zfs/vm/web1 into the trash"):
        plan("web1", "b", [past("zfs/vm/web1", "b", long)], discard=False)
    assert plan("web1", "b", [past("zfs/vm/web1", "b", long)], discard=True).steps()[0].verb == "destroy"


class Model:
    """ZFS as a plan sees it: what each dataset holds, its snapshots, and whose clone it is."""

    def __init__(self, pasts: list[Past]) -> None:
        self.heads = {past.name: f"{past.name} now" for past in pasts}
        self.snaps = {past.name: [(snap.short, f"{past.name}@{snap.short}") for snap in past.snaps] for past in pasts}
        self.clone_of: dict[str, tuple[str, str]] = {}
        self.trash: dict[str, tuple[str, list[tuple[str, str]]]] = {}

    def held(self) -> set[str]:
        trashed = [content for head, snaps in self.trash.values() for content in (head, *(held for _short, held in snaps))]
        return {*self.heads.values(), *(held for snaps in self.snaps.values() for _short, held in snaps), *trashed}

    def do(self, step: Step) -> None:
        dataset, _at, short = step.what.partition("@")
        if step.verb == "clone":
            self.heads[step.to], self.snaps[step.to] = dict(self.snaps[dataset])[short], []
            self.clone_of[step.to] = (dataset, short)
        elif step.verb == "promote":
            origin, short = self.clone_of.pop(dataset)
            until = [own for own, _held in self.snaps[origin]].index(short) + 1
            self.snaps[dataset], self.snaps[origin] = self.snaps[origin][:until], self.snaps[origin][until:]
        elif step.verb == "keep":
            self.trash[dataset] = self.heads.pop(dataset), self.snaps.pop(dataset)
        elif step.verb == "place":
            assert step.to not in self.heads, "it would cover a dataset"
            self.heads[step.to], self.snaps[step.to] = self.heads.pop(dataset), self.snaps.pop(dataset)
        elif step.verb == "destroy":
            assert self.snaps[dataset].pop()[0] == short, "not the newest"
        else:
            assert self.snaps[dataset][-1][0] == short, "ZFS goes back to the newest only"
            self.heads[dataset] = self.snaps[dataset][-1][1]


SHORTS = ("a", "b", "c", "d", "e", "f")


@st.composite
def asked_for(draw: st.DrawFn) -> tuple[list[Past], str]:
    """The pasts of one to three disks, which may differ, and a snapshot that all have."""
    wanted = draw(st.sampled_from(SHORTS))
    histories = [sorted({wanted, *draw(st.sets(st.sampled_from(SHORTS)))}) for _disk in range(draw(st.integers(1, 3)))]
    return [past(f"zfs/vm/disk{index}", *shorts) for index, shorts in enumerate(histories)], wanted


@given(asked_for())
def test_a_plan_loses_nothing_and_ends_at_the_snapshot(given_: tuple[list[Past], str]) -> None:
    pasts, wanted = given_
    model = Model(pasts)
    before = model.held()
    made = plan("web1", wanted, pasts, discard=False)
    for step in made.steps():
        model.do(step)
        assert before <= model.held(), f"lost by {step}"
    for each in pasts:
        assert model.heads[each.name] == f"{each.name}@{wanted}"
        assert [short for short, _held in model.snaps[each.name]] == [snap.short for snap in each.snaps if snap.short <= wanted]
        assert [short for short, _held in model.trash[each.name][1]] == [snap.short for snap in each.snaps if snap.short > wanted]
    first = next(index for index, step in enumerate(made.steps()) if step.verb != "clone")
    assert all(step.verb == "clone" for step in made.steps()[:first]), "what can be taken back comes first, for all disks"


@given(asked_for())
def test_a_plan_that_discards_destroys_what_is_newer_alone(given_: tuple[list[Past], str]) -> None:
    pasts, wanted = given_
    model = Model(pasts)
    for step in plan("web1", wanted, pasts, discard=True).steps():
        model.do(step)
    for each in pasts:
        assert model.heads[each.name] == f"{each.name}@{wanted}"
        assert [short for short, _held in model.snaps[each.name]] == [snap.short for snap in each.snaps if snap.short <= wanted]


# what the datasets say


def test_a_mark_says_what_it_said() -> None:
    state = State("web1", "gnt-x", "gnt-x 1", "begun", (("web1", "", {"disk0": 5}, ""), (DISK0, DISK0, {"disk.raw": 7}, "100")))
    assert State.read(Dataset("a", {}, {ROLLBACK: state.pack()})) == state
    assert State.read(None) is State.read(Dataset("a", {}, {})) is None
    for bad in ("", "{}", "[]", '{"of":[]}', "x"):
        with pytest.raises(Foreign):
            State.read(Dataset("a", {}, {ROLLBACK: bad}))
    longest = State(
        "i" * 200,
        "s" * 104,
        "t" * 120,
        "decided",
        tuple((f"{n}" * 50, f"{n}" * 50, {"disk.raw": 1 << 54}, "9" * 17) for n in range(10, 26)),
    )
    assert len(longest.pack()) < 8000


# doing it


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


@pytest.fixture(params=["files", "volumes"])
def instance(request: pytest.FixtureRequest, bench: Bench) -> dict[str, Any]:
    return with_a_past(bench, request.param)


def entries(bench: Bench) -> list[Any]:
    return [entry for place in bench.places() for entry in place.trash.entries()]


def held(bench: Bench) -> set[str]:
    """Every text that any disk holds, now or in a snapshot, wherever it is."""
    found: set[bytes] = set()
    for dataset in bench.fake.state().values():
        for files in (dataset["files"], *dataset["snapshots"].values()):
            found.update(files.values())
    return {content.rstrip(b"\0").decode() for content in found}


def test_what_is_newer_is_in_the_trash_and_what_is_older_stays(bench: Bench, instance: dict[str, Any]) -> None:
    names = names_of(instance)
    settings_before = {name: bench.fake.local(name) for name in names}
    done = back(bench, instance)
    assert done["snapshot"] == "gnt-one"
    assert set(bench.reads()) == {"first"}
    for name in names:
        assert bench.snapshots(name) == ["gnt-one"]
        assert {key: value for key, value in bench.fake.local(name).items() if key != "canmount"} == settings_before[name]
        assert bench.fake.get(beside(name)) is None
    kept = entries(bench)
    assert sorted(entry.entry for entry in kept) == sorted(done["kept"])
    for entry in kept:
        assert "third!" in {content.rstrip(b"\0").decode() for content in bench.fake.files(entry.dataset.name).values()}
        assert bench.snapshots(entry.dataset.name)[0] == "gnt-two"
        assert entry.record is not None
        assert ROLLBACK not in entry.dataset.marks
        assert bench.fake.local(entry.dataset.name).get("refreservation", "0") == "0"
    assert any("autosnap_daily" in bench.snapshots(entry.dataset.name) for entry in kept)
    assert len({entry.as_json(14)["set"] for entry in kept}) == 1
    assert unfinished(bench) == []
    # and again, to the only one that there is
    bench.write("fourth")
    bench.fake.clock += 60
    back(bench, instance)
    assert set(bench.reads()) == {"first"}
    assert {"third!", "fourth"} <= held(bench)


def test_a_bookmark_that_is_newer_is_told_before_anything_is_marked(bench: Bench, instance: dict[str, Any]) -> None:
    """ZFS would refuse, once the instance could not be used any more."""
    name = names_of(instance)[-1]
    bench.fake.bookmark(f"{name}@gnt-two", "syncoid_1")
    before = bench.fake.state()
    with pytest.raises(Busy, match=f"^dataset {name}: has the bookmark {name}#syncoid_1, which is newer: zfs destroy {name}#syncoid_1$"):
        bench.ask("rollback-plan", snapshot="one", discard=True, **instance)
    assert bench.fake.state() == before
    back(bench, instance, "one")


def unmounted(bench: Bench) -> dict[str, Any]:
    """Return what ZFS knows but for where it is mounted, and the parent that stays."""
    return {name: {**known, "mounted": []} for name, known in bench.fake.state().items() if not name.endswith(f"/{BACK}")}


def test_what_zfs_refuses_to_discard_is_as_it_was(bench: Bench, instance: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so after all is marked, as where there is no room: in one pool nothing has changed then."""
    before = unmounted(bench)

    def full(_targets: object) -> None:
        raise Busy("dataset x", "its pool, a quota or a reservation leaves no room to go back")

    with monkeypatch.context() as patch:
        patch.setattr(bench.fake, "roll_back", full)
        with pytest.raises(Busy, match="leaves no room to go back"):
            back(bench, instance, discard=True)
    assert unmounted(bench) == before
    assert unfinished(bench) == []
    assert set(bench.reads()) == {"third!"}
    back(bench, instance, discard=True)
    assert set(bench.reads()) == {"first"}


def test_what_is_discarded_stays_so_whatever_fails_then(bench: Bench, instance: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_arguments: object, **_more: object) -> None:
        raise Busy("dataset x", "is busy")

    with monkeypatch.context() as patch:
        patch.setattr(rollback, "fit", lambda part, *_more: busy() if bench.snapshots(part.name) == ["gnt-one"] else None)
        with pytest.raises(Busy, match="is busy"):
            back(bench, instance, discard=True)
    assert [each["snapshot"] for each in unfinished(bench)] == ["gnt-one"]
    with pytest.raises(Refused, match="what was newer is destroyed, or about to be: the same command without --abort finishes it"):
        bench.ask("rollback", snapshot="one", abort=True, **instance)
    bench.ask("rollback", snapshot="one", **instance)
    assert set(bench.reads()) == {"first"}


@pytest.mark.parametrize("discard", [False, True])
def test_a_lent_image_goes_back_to_what_it_was_lent_with_and_then_into_the_catalogue(bench: Bench, discard: bool) -> None:
    bench.images.make("data", "file:/x", holding())
    bench.images.set_lendable("data", True)
    bench.volumes.create(DISK0, MIB, {"image": "data", "use": "persistent"})
    bench.volumes.set_instance(DISK0, "ext1")
    disk = Path(bench.volumes.disk(DISK0))
    disk.write_bytes(b"changed".ljust(MIB))
    bench.stop()
    bench.fake.clock += 60
    back(bench, {"instance": "ext1", "disks": [{"volume": DISK0, "file": DISK0, "size": MIB}]}, "golden", discard=discard)
    assert disk.read_bytes().rstrip(b"\0") == GOLD
    bench.volumes.remove(DISK0)
    assert bench.images.must("data").clones == []
    for entry in entries(bench):
        assert bench.fake.files(entry.dataset.name)["disk.raw"].startswith(b"changed")
        bench.ask("trash-destroy", entry=entry.entry)
    assert bench.images.delete("data", now=True)


def test_discarded_is_what_is_newer_and_nothing_else(bench: Bench, instance: dict[str, Any]) -> None:
    said = bench.ask("rollback-plan", snapshot="one", discard=True, **instance)
    assert "destroyed for good" in said["sentences"][1]
    assert len(said["newer"]) == len(names_of(instance)) + 1
    done = back(bench, instance, discard=True)
    assert (done["kept"], set(bench.reads()), entries(bench)) == ([], {"first"}, [])
    for name in names_of(instance):
        assert bench.snapshots(name) == ["gnt-one"]
        assert bench.fake.mounted_at(f"{bench.root.path if name.startswith('zfs/vm') else bench.at('ssd').root.path}/{name.split('/')[-1]}")
    assert not any(ROLLBACK in dataset["marks"] for dataset in bench.fake.state().values())


def test_a_dry_run_changes_nothing(bench: Bench, instance: dict[str, Any]) -> None:
    before = bench.fake.state()
    for discard in (False, True):
        bench.ask("rollback-plan", snapshot="one", discard=discard, **instance)
    assert bench.fake.state() == before


def test_what_appeared_since_the_plan_is_not_destroyed(bench: Bench, instance: dict[str, Any]) -> None:
    newer = bench.ask("rollback-plan", snapshot="one", discard=True, **instance)["newer"]
    bench.fake.snapshot([f"{names_of(instance)[0]}@autosnap_hourly"])
    with pytest.raises(Busy, match="other snapshots than a moment ago"):
        bench.ask("rollback", snapshot="one", discard=True, newer=newer, **instance)
    assert set(bench.reads()) == {"third!"}


@pytest.mark.parametrize("discard", [False, True], ids=["", "discard"])
def test_a_disk_in_use_does_not_go_back(bench: Bench, discard: bool) -> None:
    instance = with_a_past(bench, "volumes")
    bench.volumes.attach(DISK0)
    with pytest.raises(Busy, match=r"ext1: its disks are in use by the device /dev/zfsganeti/.*: gnt-instance stop ext1, or"):
        bench.ask("rollback", snapshot="one", discard=discard, **instance)
    with open(bench.disks()[1], "rb"):
        pass
    bench.stop()
    with bench.fake.held_open(f"zfs/vm/{DISK0}", "process less (7)"), pytest.raises(Busy, match="process less"):
        bench.ask("rollback", snapshot="one", record=RECORDED, **instance)
    assert bench.reads() == ["third!", "third!"]
    assert entries(bench) == [] == unfinished(bench)


def test_an_open_file_does_not_go_back(bench: Bench) -> None:
    instance = with_a_past(bench, "files")
    with open(bench.disks()[0], "rb"), pytest.raises(Busy, match="its disks are in use by process"):
        back(bench, instance)


@pytest.mark.parametrize("discard", [False, True], ids=["", "discard"])
def test_a_disk_that_is_younger_keeps_all_from_going_back(bench: Bench, discard: bool) -> None:
    instance = with_a_past(bench, "files")
    Path(bench.store.home("web1"), "disk2").write_bytes(b"young")
    wanted = {**instance, "disks": [*instance["disks"], {"volume": "", "file": "disk2", "size": 5}]}
    before = bench.fake.state()
    with pytest.raises(Refused, match="does not hold disk2: the disk was added"):
        back(bench, wanted, discard=discard)
    after = bench.fake.state()
    after.pop(f"zfs/vm/{BACK}")
    assert after == before


@pytest.mark.parametrize("discard", [False, True], ids=["", "discard"])
def test_what_stands_where_the_clone_is_made_is_named_and_stays(bench: Bench, instance: dict[str, Any], discard: bool) -> None:
    place = beside(names_of(instance)[0])
    bench.fake.foreign(place.rpartition("/")[0], mountpoint="none")
    bench.fake.foreign(place, {"org.example:mine": "yes"})
    before = bench.fake.state()
    with pytest.raises(Foreign, match=f"dataset {place}: stands where a rollback makes its clone: rename it"):
        back(bench, instance, discard=discard)
    assert bench.fake.state() == before


@pytest.mark.parametrize("killed", range(6, 50, 6))
def test_what_has_come_there_since_it_was_killed_is_not_taken_for_the_clone(bench: Bench, instance: dict[str, Any], killed: int) -> None:
    asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, **instance}
    dies(bench.fake.reaper, killed, lambda: bench.ask("rollback", **asked))
    strangers = [beside(name) for name in names_of(instance) if bench.fake.get(beside(name)) is None]
    for place in strangers:
        if bench.fake.get(place.rpartition("/")[0]) is None:
            bench.fake.foreign(place.rpartition("/")[0], mountpoint="none")
        bench.fake.foreign(place, {"org.example:mine": "yes"})
    for found in unfinished(bench):
        bench.ask("rollback-finish", **found)
    assert len(set(bench.reads())) <= 1
    assert [place for place in strangers if "org.example:mine" not in bench.fake.local(place)] == []
    assert unfinished(bench) == []
    assert held(bench) >= {"first", "second", "third!"}


def test_the_plan_names_a_disk_that_comes_back_as_none(bench: Bench) -> None:
    instance = with_a_past(bench, "files")
    asked = {"snapshot": "one", **instance, "disks": instance["disks"][:1]}
    said = "disk1 comes back in zfs/vm/web1, which is no disk of web1 any more"
    assert said not in bench.ask("rollback-plan", **asked)["sentences"]  # it is there still
    Path(bench.store.home("web1"), "disk1").unlink()
    assert said in bench.ask("rollback-plan", **asked)["sentences"]
    bench.fake.set("zfs/vm/web1", {FORMER: '{"disk0":["disk1"]}'})
    assert said not in bench.ask("rollback-plan", **asked)["sentences"]


def removed_and_restored(bench: Bench, files: list[str], new: list[str]) -> None:
    """web1 was removed and restored; Ganeti gives the files of the new instance new names."""
    home = Path(bench.store.home("web1"))
    bench.store.put_aside("web1", "remove", files, RECORDED)
    for file in files:
        (home / file).unlink()
    home.rmdir()
    entry = bench.trash.discard("web1")
    assert entry is not None
    bench.trash.mark_restoring(entry, "web1")
    bench.trash.swap_in(entry, "web1", list(zip(files, new, strict=True)))


@pytest.mark.parametrize("discard", [False, True], ids=["", "discard"])
def test_an_instance_that_was_restored_goes_back_as_well(bench: Bench, discard: bool) -> None:
    """Its snapshots are older than the names that its files have now, which it also says after it has gone back, and once more."""
    instance = with_a_past(bench, "files")
    Path(bench.store.home("web1"), "disk1").write_bytes(b"another")
    removed_and_restored(bench, ["disk0", "disk1"], ["a0", "a1"])
    removed_and_restored(bench, ["a0", "a1"], ["b0", "b1"])
    instance["disks"] = [{"volume": "", "file": file, "size": SIZE} for file in ("b0", "b1")]
    for short, text in (("two", b"second"), ("one", b"first")):
        back(bench, instance, short, discard=discard)
        assert {file: content.rstrip(b"\0") for file, content in bench.fake.files("zfs/vm/web1").items()} == {"b0": text, "b1": text}


def test_no_disk_takes_another_ones_file_for_its_own(bench: Bench) -> None:
    instance = with_a_past(bench, "files")
    bench.fake.set("zfs/vm/web1", {FORMER: '{"disk2":["disk0","older"]}'})
    Path(bench.store.home("web1"), "disk2").write_bytes(b"young")
    with pytest.raises(Refused, match="does not hold disk2: the disk was added after it"):
        back(bench, {**instance, "disks": [*instance["disks"], {"volume": "", "file": "disk2", "size": 5}]})


NAMED = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=2, unique=True)


@given(st.lists(NAMED, min_size=1, max_size=9))
def test_former_names_are_known_however_often_it_is_restored(history: list[list[str]]) -> None:
    """Every name of the last few is known, newest first, and what is told twice is not told twice."""
    uuids = [[f"{name}-{index}" for name in names] for index, names in enumerate(history)]
    text = ""
    for before, after in itertools.pairwise(uuids):
        renames = list(zip(before, after, strict=True))
        text = pack_former(text, renames)
        assert pack_former(text, renames) == text
    for disk in (0, 1):
        expected = [names[disk] for names in reversed(uuids[:-1])][:FORMER_NAMES]
        assert former_names(text).get(uuids[-1][disk], []) == expected


def test_what_is_said_of_16_disks_fits_and_what_is_not_understood_is_nothing() -> None:
    text = ""
    for count in range(FORMER_NAMES + 3):
        text = pack_former(text, [(f"{count}{'x' * 50}{disk}", f"{count + 1}{'x' * 50}{disk}") for disk in range(16)])
    assert len(text) < 8191
    assert former_names("{}") == former_names("") == former_names("[]") == former_names("{") == former_names('{"a":1}') == {}


def test_a_disk_that_grew_keeps_its_size(bench: Bench) -> None:
    for discard in (False, True):
        place = Bench(Path(bench.root.path).parent / f"other{discard}")
        instance = with_a_past(place, "volumes")
        for disk in instance["disks"]:
            disk["size"] = 2 * SIZE
        back(place, instance, discard=discard)
        assert [Path(path).stat().st_size for path in place.disks()] == [2 * SIZE, 2 * SIZE]
        assert set(place.reads()) == {"first"}


def test_what_was_replaced_says_how_long_it_is_whatever_ganeti_believes(bench: Bench) -> None:
    instance = with_a_past(bench, "volumes")
    bench.volumes.grow(DISK0, 2 * SIZE)  # and the job died before the configuration said so
    bench.stop()
    back(bench, instance)
    assert sorted(entry.size for entry in entries(bench)) == [SIZE, 2 * SIZE]
    (grown,) = (entry for entry in entries(bench) if entry.size != SIZE)
    bench.ask("trash-reserve", entry=grown.entry, token=f"{grown.entry}@t")
    bench.volumes.create(RESTORED, grown.size, {"trash": f"{grown.entry}@t"})
    assert Path(bench.volumes.disk(RESTORED)).read_bytes().rstrip(b"\0") == b"third!"


def test_what_was_replaced_has_its_room_set_aside_again_when_it_is_restored(bench: Bench) -> None:
    instance = with_a_past(bench, "volumes")
    back(bench, instance)
    entry = next(entry for entry in entries(bench) if entry.volume == DISK0)
    assert bench.fake.local(entry.dataset.name)["refreservation"] == "0"
    bench.ask("trash-reserve", entry=entry.entry, token=f"{entry.entry}@t")
    bench.volumes.create(RESTORED, SIZE, {"trash": f"{entry.entry}@t", "reserve": True})
    assert bench.fake.local(f"zfs/vm/{RESTORED}")["refreservation"] == str(reservation(SIZE))


def test_what_was_replaced_comes_back_also_where_there_is_no_room_to_set_aside_and_that_is_said(bench: Bench) -> None:
    back(bench, with_a_past(bench, "volumes"))
    entry = next(entry for entry in entries(bench) if entry.volume == DISK0)
    bench.fake.unreservable = True
    bench.ask("trash-reserve", entry=entry.entry, token=f"{entry.entry}@t")
    bench.volumes.create(RESTORED, SIZE, {"trash": f"{entry.entry}@t", "reserve": True})
    assert Path(bench.volumes.disk(RESTORED)).read_bytes().rstrip(b"\0") == b"third!"
    for asked, said in (("yes", [f"zfs set {RESERVED}={reservation(SIZE)} zfs/vm/{RESTORED}"]), ("no", [])):
        disk = SimpleNamespace(volume=RESTORED, parameters={"reserve": asked})
        bench.__dict__["master"] = SimpleNamespace(instances=lambda disk=disk: {"ext2": SimpleNamespace(primary="node1", disks=[disk])})
        heard: list[str] = []
        undo._settle(bench, "ext2", heard.append)
        assert heard == [f"There is no room to set aside for a disk of ext2: {each}, once there is." for each in said]
    bench.fake.unreservable = False
    bench.fake.set(f"zfs/vm/{RESTORED}", {RESERVED: str(reservation(SIZE))})
    assert bench.ask("settle-volumes", volumes=[RESTORED]) == {RESTORED: ""}


@pytest.mark.parametrize("keeper", ["hold", "clone"])
def test_holds_and_clones_stop_only_what_would_destroy(bench: Bench, instance: dict[str, Any], keeper: str) -> None:
    newer = f"{names_of(instance)[-1]}@gnt-two"
    if keeper == "hold":
        bench.fake.hold(newer, "backup")
        said = rf"snapshot {newer}: is held \(backup\)"
    else:
        bench.fake.clone(newer, "zfs/vm/web2", bench.store.marks("web2"))
        said = "the disk of web2 is a clone of it"
    with pytest.raises(Busy, match=said):
        bench.ask("rollback", snapshot="one", discard=True, newer=[], **instance)
    assert set(bench.reads()) == {"third!"}
    back(bench, instance)
    assert set(bench.reads()) == {"first"}
    assert held(bench) == {"first", "second", "third!"} | ({"second"} if keeper == "clone" else set())


def test_without_a_trash_nothing_can_be_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node", trash_days=0)
    instance = with_a_past(bench, "volumes")
    with pytest.raises(Refused, match="trash_days is 0 on this node, so that what is newer would not be kept: --discard destroys it"):
        back(bench, instance)
    back(bench, instance, discard=True)
    assert set(bench.reads()) == {"first"}


def test_what_was_replaced_can_be_restored_as_one(bench: Bench) -> None:
    """Disks of one moment belong together: those that were removed later are not taken for them."""
    from zfsganeti.undo import gather

    instance = with_a_past(bench, "volumes")
    back(bench, instance)
    for index, (volume, datastore) in enumerate(((DISK0, ""), (DISK1, "ssd"))):
        bench.at(datastore).volumes.keep_record(volume, {**RECORDED, "disk": index})
        bench.fake.clock += 60
        bench.at(datastore).volumes.remove(volume)
    known = [entry.as_json(14) for entry in entries(bench)]
    first = min(known, key=lambda entry: (entry["removed"], entry["entry"]))
    together = gather(known, first["entry"], 2)
    assert {entry["set"] for entry in known if entry["entry"] in together} == {first["set"]} != {""}
    later = max(known, key=lambda entry: entry["removed"])
    assert {entry["set"] for entry in known if entry["entry"] in gather(known, later["entry"], 2)} == {""}


def test_a_lent_image_stays_the_only_one(bench: Bench) -> None:
    from zfsganeti.datasets import IMAGE

    instance = with_a_past(bench, "volumes")
    bench.fake.set(f"zfs/vm/{DISK0}", {IMAGE: "debian-12"})
    back(bench, instance)
    assert [name for name, dataset in bench.fake.state().items() if IMAGE in dataset["marks"]] == [f"zfs/vm/{DISK0}"]


# interrupted


def comparable(bench: Bench) -> dict[str, Any]:
    """All there is, without what means nothing: empty containers, canmount's default, and where a volume is mounted."""
    state = {name: dataset for name, dataset in bench.fake.state().items() if not name.endswith((BACK, ".trash"))}
    for dataset in state.values():
        dataset["properties"] = {key: value for key, value in dataset["properties"].items() if (key, value) != ("canmount", "on")}
        del dataset["mounted"]  # of a volume it means nothing
    return state


def benches(place: Path) -> Callable[[], Bench]:
    """Return what makes a new bench, at the same path each time so that two can be compared."""
    count = itertools.count()

    def another() -> Bench:
        if (place / "node").exists():
            (place / "node").rename(place / f"before{next(count)}")
        return Bench(place / "node")

    return another


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
@pytest.mark.parametrize("discard", [False, True], ids=["keep", "discard"])
@pytest.mark.parametrize("kind", ["files", "volumes"])
def test_killed_anywhere_the_same_command_ends_it(tmp_path: Path, kind: str, discard: bool, boot: bool) -> None:
    fresh = benches(tmp_path)
    bench = fresh()
    instance = with_a_past(bench, kind)
    back(bench, instance, discard=discard)
    goal = comparable(bench)
    point, died = int(boot) - 1, True  # half of the points with a boot, the other half without
    while died:
        point += 2
        if point < 1:
            continue
        bench = fresh()
        instance = with_a_past(bench, kind)
        asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, "discard": discard, **instance}
        asked["newer"] = bench.ask("rollback-plan", **asked)["newer"]
        died = dies(bench.fake.reaper, point, lambda bench=bench, asked=asked: bench.ask("rollback", **asked))  # type: ignore[misc]
        if boot:
            bench.fake.boot()
        if not discard:
            assert held(bench) == {"first", "second", "third!"}, f"lost at point {point}"
        assert_never_half(bench, kind, point)
        if point % 4 < 2 and unfinished(bench):  # what gnt-zfs check --repair and the watcher do
            (found,) = unfinished(bench)
            bench.ask("rollback-finish", **found)
            assert unfinished(bench) == []
            assert len(set(bench.reads())) == 1, f"half at point {point}"
            if not died or set(bench.reads()) == {"first"}:
                assert comparable(bench) == goal, point
                continue
        if bench.reads() and set(bench.reads()) == {"first"} and not unfinished(bench):
            continue
        back(bench, instance, discard=discard)
        assert comparable(bench) == goal, f"killed at point {point}"
    assert point > 20


def assert_never_half(bench: Bench, kind: str, point: int) -> None:
    """No disk can be attached while another of the instance holds something else."""
    if kind == "files":
        return
    seen = set()
    for volume, datastore in ((DISK0, ""), (DISK1, "ssd")):
        volumes = bench.at(datastore).volumes
        try:
            volumes.attach(volume)
        except ZfsGanetiError as error:
            assert isinstance(error, Busy | Missing), point
            continue
        seen.add(Path(volumes.disk(volume)).read_bytes().rstrip(b"\0"))
        volumes.detach(volume)
    assert len(seen) < 2, f"half at point {point}"


@pytest.mark.parametrize("boot", [False, True], ids=["", "boot"])
@pytest.mark.parametrize("kind", ["files", "volumes"])
def test_killed_anywhere_it_can_be_taken_back(tmp_path: Path, kind: str, boot: bool) -> None:
    fresh = benches(tmp_path)
    bench = fresh()
    with_a_past(bench, kind)
    goal = comparable(bench)
    point, died = int(boot) - 1, True  # half of the points with a boot, the other half without
    while died:
        point += 2
        if point < 1:
            continue
        bench = fresh()
        instance = with_a_past(bench, kind)
        asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, **instance}
        died = dies(bench.fake.reaper, point, lambda bench=bench, asked=asked: bench.ask("rollback", **asked))  # type: ignore[misc]
        if boot:
            bench.fake.boot()
        if not unfinished(bench):
            continue
        if point % 3 == 0:  # and the taking back is killed as well
            with contextlib.suppress(Refused):
                dies(bench.fake.reaper, 1 + point % 11, lambda bench=bench, asked=asked: bench.ask("rollback", abort=True, **asked))  # type: ignore[misc]
            assert held(bench) == {"first", "second", "third!"}, f"lost at point {point}"
        if unfinished(bench) and bench.ask("rollback-plan", **asked)["interrupted"]:
            try:
                assert bench.ask("rollback", abort=True, **asked)["aborted"]
            except Refused as error:
                assert "its disks are back already" in str(error)
                bench.ask("rollback", **asked)
                assert set(bench.reads()) == {"first"}
                continue
        assert_same(comparable(bench), goal, point)
        with pytest.raises(Missing, match="a rollback of .* that was interrupted does not exist"):
            bench.ask("rollback", abort=True, **asked)


def assert_same(after: dict[str, Any], goal: dict[str, Any], point: int) -> None:
    assert sorted(after) == sorted(goal), point
    for name, dataset in goal.items():
        for key in ("marks", "properties", "snapshots", "files"):
            assert after[name][key] == dataset[key], (point, name, key)


@pytest.mark.parametrize("how", ["at once", "again", "abort", "repair"])
def test_without_room_to_set_aside_it_ends_all_the_same_and_says_so(bench: Bench, how: str) -> None:
    bench, instance = between_its_renames(bench, "volumes") if how != "at once" else (bench, with_a_past(bench, "volumes"))
    bench.fake.unreservable = True
    way_out = f"{RESERVED}={2 * SIZE} zfs/vm/{DISK0}"
    if how == "repair":
        (found,) = unfinished(bench)
        with pytest.raises(Full, match=f"is back, but there is no room to set aside for it: zfs set {way_out}"):
            bench.ask("rollback-finish", **found)
    else:
        assert back(bench, instance, abort=how == "abort")["unreserved"] == [way_out]
    assert set(bench.reads()) == {"third!" if how == "abort" else "first"}
    assert unfinished(bench) == []


def test_the_repair_tells_of_all_that_it_has_no_room_for(bench: Bench) -> None:
    instance, point = with_a_past(bench, "volumes"), 0
    while bench.fake.get(f"zfs/fast/{DISK1}") is not None:
        point += 1
        bench = Bench(Path(bench.root.path).parent.parent / f"n{point}")
        instance = with_a_past(bench, "volumes")
        bench.fake.set(f"zfs/fast/{DISK1}", {RESERVED: str(SIZE)})
        asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, **instance}
        dies(bench.fake.reaper, point, lambda bench=bench, asked=asked: bench.ask("rollback", **asked))  # type: ignore[misc]
    bench.fake.unreservable = True
    both = f"zfs set {RESERVED}={SIZE} zfs/fast/{DISK1}; zfs set {RESERVED}={2 * SIZE} zfs/vm/{DISK0}"
    with pytest.raises(Full, match=f"dataset zfs/fast/{DISK1}, zfs/vm/{DISK0}: is back, but there is no room to set aside for it: {both}"):
        finish(bench)


def test_a_clone_that_a_stranger_has_snapshotted_is_in_the_trash_as_what_it_is(bench: Bench, instance: dict[str, Any]) -> None:
    """Whenever it is killed, and snapshotted by one who snapshots all that there is: it is listed, and restored like any other."""
    point, died, seen = 0, True, 0
    while died:
        point += 3
        bench = Bench(Path(bench.root.path).parent.parent / f"n{point}")
        with_a_past(bench, "files" if instance["instance"] == "web1" else "volumes")
        asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, **instance}
        died = dies(bench.fake.reaper, point, lambda bench=bench, asked=asked: bench.ask("rollback", **asked))  # type: ignore[misc]
        for name in bench.fake.state():
            bench.fake.snapshot([f"{name}@zfs-auto-snap_frequent"])
        if point % 2:  # and the way back is killed as well
            dies(bench.fake.reaper, point % 23, lambda bench=bench: finish(bench))  # type: ignore[misc]
        finish(bench)
        listed = {entry.dataset.name for entry in entries(bench)}
        assert {name for name in bench.fake.state() if "/.trash/" in name} == listed, point
        assert {entry.size for entry in entries(bench) if entry.volume} <= {SIZE}, point
        assert not [name for name in bench.fake.state() if f"/{BACK}/" in name], point
        for entry in entries(bench) if instance["instance"] == "web1" else ():
            seen += "zfs-auto-snap_frequent" in bench.snapshots(entry.dataset.name)
            bench.trash.mark_restoring(entry.entry, "web3")
            bench.trash.swap_in(entry.entry, "web3", [("disk0", "disk0"), ("disk1", "disk1")])
            bench.store.put_aside("web3", "remove", ["disk0", "disk1"])
            bench.trash.put("web3")
    assert seen or instance["instance"] != "web1"


def finish(bench: Bench) -> None:
    """What the watcher does."""
    for found in unfinished(bench):
        bench.ask("rollback-finish", **found)


def test_while_one_is_interrupted_nothing_else_is_done(bench: Bench, instance: dict[str, Any]) -> None:
    point = 0
    while not (unfinished(bench) and any(REPLACED in dataset["marks"] for dataset in bench.fake.state().values())):
        point += 1
        bench = Bench(Path(bench.root.path).parent.parent / f"n{point}")
        instance = with_a_past(bench, "files" if instance["instance"] == "web1" else "volumes")
        asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, **instance}
        dies(bench.fake.reaper, point, lambda bench=bench, asked=asked: bench.ask("rollback", **asked))  # type: ignore[misc]
    with pytest.raises(Busy, match="a rollback to gnt-one was interrupted: finish it first, or take it back with --abort"):
        back(bench, instance, "two")
    assert bench.ask("rollback-plan", snapshot="two", **instance)["interrupted"]
    (found,) = unfinished(bench)
    assert (found["instance"], found["snapshot"]) == (instance["instance"], "gnt-one")
    from zfsganeti import check

    finding = check._judge_rollback("node1", found)
    assert (finding.text, finding.verb, finding.sure) == ("its rollback to gnt-one was not finished", "rollback-finish", True)
    bench.ask(finding.verb, **finding.request)
    assert set(bench.reads()) == {"first"}
    assert unfinished(bench) == []


def test_a_volume_that_may_be_half_back_is_not_attached(bench: Bench) -> None:
    with_a_past(bench, "volumes")
    state = State("ext1", "gnt-one", "gnt-one 1", "begun", ((DISK0, DISK0, {"disk.raw": SIZE}, ""),))
    bench.fake.set(f"zfs/vm/{DISK0}", {ROLLBACK: state.pack()})
    way_out = "gnt-zfs snapshot rollback ext1 gnt-one finishes it, with --abort it is taken back"
    with pytest.raises(Busy, match=f"ext1: a rollback to gnt-one was interrupted: {way_out}"):
        bench.volumes.attach(DISK0)
    for verb in (
        lambda: bench.volumes.remove(DISK0),
        lambda: bench.volumes.grow(DISK0, 2 * SIZE),
        lambda: bench.volumes.keep_record(DISK0, RECORDED),
        lambda: bench.ask("snapshot-create", snapshot="x", instance="ext1", disks=[{"volume": DISK0, "file": DISK0, "size": SIZE}]),
    ):
        with pytest.raises(Busy, match="a rollback to gnt-one was interrupted"):
            verb()


def test_files_that_may_be_half_back_are_not_removed(bench: Bench) -> None:
    with_a_past(bench, "files")
    state = State("web1", "gnt-one", "gnt-one 1", "begun", (("web1", "", {"disk0": SIZE, "disk1": SIZE}, ""),))
    bench.fake.set("zfs/vm/web1", {ROLLBACK: state.pack()})
    with pytest.raises(Busy, match="a rollback to gnt-one was interrupted"):
        bench.store.put_aside("web1", "remove", ["disk0", "disk1"])


def between_its_renames(bench: Bench, kind: str, number: int = 0) -> tuple[Bench, dict[str, Any]]:
    """Return a bench where a rollback was killed when that dataset was in the trash and the clone not in its place yet."""
    instance = with_a_past(bench, kind)
    point = 0
    while bench.fake.get(names_of(instance)[number]) is not None:
        point += 1
        bench = Bench(Path(bench.root.path).parent.parent / f"n{point}")
        instance = with_a_past(bench, kind)
        asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, **instance}
        dies(bench.fake.reaper, point, lambda bench=bench, asked=asked: bench.ask("rollback", **asked))  # type: ignore[misc]
    return bench, instance


def test_in_the_gap_an_instance_is_neither_removed_nor_added_nor_renamed_to(bench: Bench) -> None:
    bench, _instance = between_its_renames(bench, "files")
    for hook in (
        lambda: bench.store.put_aside("web1", "remove", ["disk0", "disk1"], RECORDED),
        lambda: bench.store.admit("web1", [SIZE], fresh=True),
        lambda: bench.store.refuse_taken("web1"),
    ):
        with pytest.raises(
            Busy, match="web1: a rollback to gnt-one was interrupted: gnt-zfs snapshot rollback web1 gnt-one finishes it"
        ) as of:
            hook()
        assert "gnt-zfs check --repair ends it as well" in str(of.value)  # also where Ganeti has no such instance, and the other knows none
    bench.fake.foreign(beside("zfs/vm/web2"), {"org.example:mine": "yes"})
    bench.store.admit("web2", [SIZE], fresh=True)


def test_in_the_gap_a_volume_is_not_removed(bench: Bench) -> None:
    bench, _instance = between_its_renames(bench, "volumes")
    for verb in (lambda: bench.volumes.keep_record(DISK0, RECORDED), lambda: bench.volumes.remove(DISK0)):
        with pytest.raises(Busy, match="a rollback to gnt-one was interrupted"):
            verb()


def test_in_the_gap_a_volume_of_a_datastore_is_not_removed_either(bench: Bench) -> None:
    bench, instance = between_its_renames(bench, "volumes", 1)
    with pytest.raises(Busy, match="a rollback to gnt-one was interrupted"):
        bench.ask("keep-records", volumes=[DISK1], disks=[1], record=RECORDED)
    with pytest.raises(Busy, match="a rollback to gnt-one was interrupted"):
        bench.place_of(DISK1).volumes.remove(DISK1)
    back(bench, instance)
    assert set(bench.reads()) == {"first"}


def test_a_plan_that_was_killed_keeps_no_snapshot_from_being_deleted(bench: Bench) -> None:
    point, died = 0, True
    while died:
        point += 1
        bench = Bench(Path(bench.root.path).parent.parent / f"n{point}")
        instance = with_a_past(bench, "files")
        died = dies(bench.fake.reaper, point, lambda: bench.ask("rollback-plan", snapshot="one", **instance))  # noqa: B023
        if point % 2:
            back(bench, instance)
            assert not [mount.path for mount in bench.fake.mounts() if "@" in mount.dataset], point
        else:
            bench.ask("snapshot-delete", snapshot="one", **instance)


def exchanged(bench: Bench, kind: str) -> tuple[Bench, dict[str, Any]]:
    """Return a bench where a rollback was killed when all its datasets were exchanged, and that was not marked as done yet."""
    instance, point = with_a_past(bench, kind), 0
    while len(entries(bench)) < len(names_of(instance)) or not all(map(bench.fake.get, names_of(instance))):
        point += 1
        bench = Bench(Path(bench.root.path).parent.parent / f"n{point}")
        instance = with_a_past(bench, kind)
        asked: dict[str, Any] = {"snapshot": "one", "record": RECORDED, **instance}
        dies(bench.fake.reaper, point, lambda bench=bench, asked=asked: bench.ask("rollback", **asked))  # type: ignore[misc]
    return bench, instance


@pytest.mark.parametrize("kind", ["files", "volumes"])
@pytest.mark.parametrize("abort", [False, True])
def test_what_an_interrupted_rollback_may_need_stays_in_the_trash(bench: Bench, kind: str, abort: bool) -> None:
    bench, instance = exchanged(bench, kind)
    bench.fake.clock += 365 * 86400
    for place in bench.places():
        place.trash.give_up()
    for entry in entries(bench):
        requests: list[tuple[str, dict[str, Any]]] = [
            ("trash-destroy", {"strangers": True}),
            ("trash-reserve", {"token": f"{entry.entry}@x"} if entry.volume else {"instance": "web2"}),
        ]
        for verb, asked in requests:
            with pytest.raises(Busy, match=f"{instance['instance']}: a rollback to gnt-one was interrupted"):
                bench.ask(verb, entry=entry.entry, **asked)
    assert len(entries(bench)) == len(names_of(instance))
    back(bench, instance, abort=abort)
    assert set(bench.reads()) == {"third!" if abort else "first"}
    for entry in entries(bench):
        bench.ask("trash-destroy", entry=entry.entry, strangers=True)
    assert not entries(bench)


def test_what_no_rollback_needs_any_more_leaves_the_trash_whatever_it_says(bench: Bench) -> None:
    """Its rollback was ended by hand: nothing bears its mark but this."""
    bench, _instance = exchanged(bench, "files")
    bench.fake.clear("zfs/vm/web1", [ROLLBACK])
    (entry,) = entries(bench)
    bench.trash.mark_restoring(entry.entry, "web2")
    bench.trash.swap_in(entry.entry, "web2", [("disk0", "disk0"), ("disk1", "disk1")])
    assert ROLLBACK not in bench.fake.state()["zfs/vm/web2"]["marks"]


def test_what_is_lost_is_said_before_anything_is_taken_back(bench: Bench) -> None:
    bench, instance = exchanged(bench, "volumes")
    (lost,) = (entry.dataset for entry in entries(bench) if entry.volume == DISK1)
    bench.fake.destroy(lost.name, {}, strangers=True)
    for verb in ("rollback-plan", "rollback"):
        with pytest.raises(Refused, match=f"what zfs/fast/{DISK1} was before is not in the trash any more: the same command without"):
            bench.ask(verb, abort=True, snapshot="one", **instance)
    back(bench, instance)
    assert set(bench.reads()) == {"first"}
    assert unfinished(bench) == []


def test_what_was_made_in_the_gap_is_not_lost(bench: Bench) -> None:
    """Killed between the two renames; somebody has Ganeti make the volume again before it is finished."""
    bench, instance = between_its_renames(bench, "volumes")
    bench.fake.create(f"zfs/vm/{DISK0}", {}, bench.volumes.marks(DISK0))
    back(bench, instance)
    assert set(bench.reads()) == {"first"}
    assert len(entries(bench)) == 3
    assert held(bench) == {"first", "second", "third!"}


# all pasts


@given(st.lists(st.sampled_from(["write", "gnt", "autosnap", "zfsganeti", "back", "discard", "grow"]), min_size=1, max_size=14), st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happened_nothing_is_lost_by_going_back(happened: list[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place, "node"))
        instance = bench.has_volumes()
        bench.stop()
        names = names_of(instance)
        contents = {"base": "first"}
        bench.fake.snapshot([f"{name}@base" for name in names])
        now = "first"
        for number, event in enumerate(happened):
            bench.fake.clock += 1
            if event == "write":
                now = f"text{number:04}"
                bench.write(now)
            elif event == "grow":
                for disk in instance["disks"]:
                    disk["size"] += 4096
            elif event in ("back", "discard"):
                wanted = data.draw(st.sampled_from(sorted(contents)))
                before = held(bench)
                predicted = Plan("ext1", wanted, event == "discard", tuple(Past(n, tuple(history_of(bench, n))) for n in names))
                try:
                    back(bench, instance, wanted, discard=event == "discard")
                except Busy:  # what was kept in the trash by an earlier one is a clone of what this would destroy
                    assert event == "discard"
                    assert entries(bench)
                    continue
                now = contents[wanted]
                assert event == "discard" or before <= held(bench)
                for each in predicted.pasts:
                    older = [snap.short for snap in each.snaps if snap not in each.newer(wanted)]
                    assert bench.snapshots(each.name) == older
                contents = {short: text for short, text in contents.items() if short in bench.snapshots(names[0])}
            else:
                short = f"{event}-{number}"
                bench.fake.snapshot([f"{name}@{short}" for name in names])
                contents[short] = now
            assert set(bench.reads()) == {now}
            assert all(bench.fake.state()[name]["marks"][INSTANCE] == "ext1" for name in names)
            assert all(RECORD not in bench.fake.state()[name]["marks"] for name in names)


def history_of(bench: Bench, name: str) -> list[Snap]:
    return [Snap(short, 0, index) for index, short in enumerate(bench.snapshots(name))]
