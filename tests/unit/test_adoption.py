"""Which step of an adoption comes next, whatever was interrupted; what is planned, and what stands in the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti import undo
from zfsganeti.adoption import (
    BACK,
    MIB,
    SMALL,
    START,
    SYNCED,
    TAG,
    Places,
    Step,
    Tags,
    another_pass,
    downtime,
    make_plan,
    next_step,
    parse_tags,
    refuse_stale,
    room_of_snapshot,
    shadow_record,
    tags_of,
)
from zfsganeti.errors import Busy, Missing, NoSpace, Refused
from zfsganeti.exchange import attach_words, detach_words
from zfsganeti.ganeti import Instance, add_command

quick = settings(max_examples=200, deadline=None, derandomize=True)
OLD, NEW = ("old0", "old1", "old2"), ("new0", "new1", "new2")
GIB = 1 << 30


class Cluster:
    """What Ganeti does with the two instances; a job that is killed half-way has moved some of its disks."""

    def __init__(self, *, up: bool) -> None:
        self.outer, self.shadow = list(OLD), list(NEW)
        self.up = self.restart = up
        self.said: list[str] = []

    @property
    def places(self) -> Places:
        return Places(tuple(self.outer), tuple(self.shadow), self.up, self.restart)

    def do(self, step: Step, moved: int = 9) -> None:
        self.said.append(step.verb)
        if step.verb in ("stop", "start"):
            self.up = step.verb == "start"
            return
        assert not (self.up and step.verb in ("detach", "attach")), "the disks of an instance that runs are left alone"
        for disk in step.disks[:moved]:
            if step.verb in ("detach", "release"):
                (self.outer if step.verb == "detach" else self.shadow).remove(disk)
            else:
                # what Ganeti 3.0 refuses
                assert step.verb != "attach" or moved < 9 or not set(self.outer) - set(step.disks)
                assert disk not in self.outer + self.shadow, "a disk is attached to one instance at most"
                (self.outer if step.verb == "attach" else self.shadow).append(disk)

    def run(self, coming: tuple[str, ...], going: tuple[str, ...], interrupted: list[int]) -> None:
        for _step in range(60):
            step = next_step(self.places, coming, going)
            if step is None:
                return
            self.do(step, interrupted.pop() if interrupted else 9)
        raise AssertionError(f"it does not end: {self.said}")


def test_forth_and_back() -> None:
    cluster = Cluster(up=True)
    cluster.run(NEW, OLD, [])
    assert cluster.said == ["release", "stop", "detach", "attach", "start", "keep"]
    assert (cluster.outer, cluster.shadow, cluster.up) == ([*NEW], [*OLD], True)
    cluster.run(OLD, NEW, [])
    assert cluster.said[6:] == ["release", "stop", "detach", "attach", "start", "keep"]
    assert (cluster.outer, cluster.shadow, cluster.up) == ([*OLD], [*NEW], True)


def test_what_is_stopped_stays_stopped() -> None:
    cluster = Cluster(up=False)
    cluster.run(NEW, OLD, [])
    assert cluster.said == ["release", "detach", "attach", "keep"]


@quick
@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12), st.booleans())
def test_interrupted_anywhere_it_ends_the_same(first: list[int], second: list[int], up: bool) -> None:
    cluster = Cluster(up=up)
    cluster.run(NEW, OLD, list(first))
    assert (cluster.outer, cluster.shadow, cluster.up) == ([*NEW], [*OLD], up)
    cluster.run(OLD, NEW, list(second))
    assert (cluster.outer, cluster.shadow, cluster.up) == ([*OLD], [*NEW], up)


@quick
@given(st.integers(0, 8), st.booleans())
def test_turned_back_anywhere_it_has_its_old_disks(steps: int, up: bool) -> None:
    cluster = Cluster(up=up)
    for _step in range(steps):
        step = next_step(cluster.places, NEW, OLD)
        if step is not None:
            cluster.do(step)
    cluster.run(OLD, NEW, [])
    assert (cluster.outer, cluster.shadow, cluster.up) == ([*OLD], [*NEW], up)


def test_words_for_ganeti() -> None:
    assert detach_words(("a", "b", "c"), ("a", "c")) == ["--disk", "2:detach", "--disk", "0:detach"]
    assert attach_words(("x", "y")) == ["--disk", "0:attach,uuid=x", "--disk", "1:attach,uuid=y"]


def test_tags_tell_which_disks_are_meant() -> None:
    many = [f"uuid-{number}" for number in range(12)]
    tags = parse_tags(["blue", TAG, *tags_of("new", many[::-1]), *tags_of("old", many), f"{TAG}:other:0:x", f"{TAG}:old:x:y"])
    assert (tags.old, tags.new, tags.ours, tags.start) == (tuple(many), tuple(many[::-1]), True, False)
    assert parse_tags([START]).start
    assert parse_tags([BACK, f"{SYNCED}:12", f"{SYNCED}:9", f"{SYNCED}:", f"{SYNCED}:x"]) == Tags(back=True, synced=(9, 12))
    assert parse_tags(["blue"]) == parse_tags([])


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        ([], False),
        ([SMALL], False),
        ([SMALL + 1], True),
        ([GIB, GIB // 2], True),
        ([GIB, GIB], False),
        ([GIB, GIB * 4 // 5], False),
        ([16 * GIB, 8 * GIB, 4 * GIB, 2 * GIB, GIB], False),
    ],
)
def test_passes_go_on_while_they_shorten_the_downtime(changed: list[int], more: bool) -> None:
    assert another_pass(changed) is more


@quick
@given(st.integers(MIB, 1 << 44), st.integers(0, 1 << 45))
def test_snapshots_fit_into_their_share(size: int, share: int) -> None:
    room = room_of_snapshot(size, share)
    assert room % (4 * MIB) == 0
    if room:
        assert room <= max(share, 4 * MIB)
        assert room >= min(size, size // 50)
    else:
        assert share < max(size // 50, 32 * MIB) + 4 * MIB


# the plan


def instance(template: str = "plain", state: str = "up", sizes: tuple[int, ...] = (100, 33)) -> Instance:
    disks = {}
    for index, size in enumerate(sizes):
        half = {"dev_type": "plain", "logical_id": ["xenvg", f"u{index}.disk{index}"]}
        disk: dict[str, Any] = {"uuid": f"uuid-{index}", "size": size, "mode": "ro" if index else "rw", **half}
        if template == "drbd":
            meta = {"dev_type": "plain", "logical_id": ["xenvg", f"u{index}.disk{index}_meta"]}
            disk |= {"dev_type": "drbd", "logical_id": ["other", "n", 11000, index, 4 + index, "secret"], "children": [half, meta]}
        disks[f"uuid-{index}"] = disk
    disks["uuid-0"]["name"] = "root"
    data = {
        "name": "web1.example.com",
        "uuid": "i",
        "primary_node": "n",
        "admin_state": state,
        "disks": list(disks),
        "hypervisor": "kvm",
        "os": "debian+default",
        "hvparams": {"kernel_path": ""},
        "beparams": {"vcpus": 2},
        "tags": ["blue"],
        "nics": [{"mac": "aa:00:00:00:00:01"}],
    }
    return Instance(data, {"n": "node2"}, disks, {})


FACTS = {"sizes": [100 * MIB, 36 * MIB], "free": {"xenvg": 10 * GIB}, "available": 10 * GIB, "used": 0, "root": "zfs/vm"}
SIZES = [100 * MIB, 36 * MIB]


def test_the_data_of_drbd_is_in_its_first_half() -> None:
    for template in ("plain", "drbd"):
        assert [disk.lvm for disk in instance(template).disks] == [("xenvg", "u0.disk0"), ("xenvg", "u1.disk1")]


def test_drbd_is_adopted_when_its_half_on_the_primary_is_up_to_date() -> None:
    refuse_stale(instance(), {})
    drbd = instance("drbd")
    assert drbd.minors == [4, 5]
    refuse_stale(drbd, {"4": "UpToDate", "5": "UpToDate"})
    for states, said in (
        ({"4": "UpToDate", "5": "Inconsistent"}, "disk 1 of .*: its half on node2 is Inconsistent"),
        ({}, "is not active"),
    ):
        with pytest.raises(Refused, match=said):
            refuse_stale(drbd, states)


def test_the_shadow_has_the_same_disks_and_no_nics() -> None:
    record = shadow_record(instance(), "ext", SIZES)
    words = add_command(record, name="adopt-web1.example.com", node="node2", release=(3, 1))
    assert words[-1] == "adopt-web1.example.com"
    assert "--no-nics" in words
    assert words[words.index("--disk") + 1] == "0:size=100M,mode=rw,name=root,provider=zfs"
    assert "1:size=36M,mode=ro,provider=zfs" in words
    assert words[words.index("--tags") + 1] == f"{TAG},{TAG}:old:0:uuid-0,{TAG}:old:1:uuid-1"
    words = add_command(shadow_record(instance("drbd"), "file", SIZES), name="x", node="node2", release=(3, 0))
    assert words[2:4] == ["-t", "file"]
    assert "0:size=100M,mode=rw,name=root" in words
    assert "--file-driver=loop" in words


def test_what_comes_back_from_the_trash_is_no_adoption() -> None:
    """A shadow goes with its tags, so that what was interrupted is gone on with until it is gone; restored, it is like any other."""
    record = shadow_record(instance(), "file", SIZES) | {"name": "adopt-web1", "uuid": "s"}
    record["tags"] += [BACK, "red"]
    entry = {"entry": "adopt-web1:1", "instance": "adopt-web1", "restorable": True, "removed": 1, "restoring": "", "volume": ""}
    told = {"trash-record": record, "report": {"trash": [entry], "root_problem": "", "rootless": False}}
    here: Any = SimpleNamespace(
        call_all=lambda verb: {"node2": told[verb]},
        call=lambda _node, verb, **_request: told[verb],
        master=SimpleNamespace(instances=dict, networks=set, macs=dict),
        ssconf=SimpleNamespace(release=(3, 1), offline_nodes=[]),
    )
    command = undo.prepare(here, "adopt-web1", None).command
    assert command[command.index("--tags") + 1] == "red"


def test_the_plan_says_what_will_be_done() -> None:
    plan = make_plan(instance(), SIZES, FACTS, template="file", command=["gnt-instance", "add", "adopt-web1.example.com"])
    assert plan.sentences() == [
        "web1.example.com on node2: 2 disks of 136M on LVM (-t plain) to -t file in zfs/vm",
        "disk 0: /dev/xenvg/u0.disk0, 100M, a snapshot with room for 108M of changes",
        "disk 1: /dev/xenvg/u1.disk1, 36.0M, a snapshot with room for 44.0M of changes",
        "gnt-instance add adopt-web1.example.com",
        "copy while web1.example.com runs, again what has changed meanwhile until that is little (at most 5 times)",
        "gnt-instance stop web1.example.com: the downtime begins",
        "copy the blocks that changed since",
        "exchange the disks of web1.example.com and adopt-web1.example.com (gnt-instance modify --disk N:detach, N:attach)",
        "gnt-instance start web1.example.com: the downtime ends, after about 14 s for Ganeti's four jobs and the last changed blocks",
        "the old disks stay, as those of adopt-web1.example.com: gnt-zfs adopt --commit removes them, --rollback brings them back",
    ]
    stopped = make_plan(instance(state="down"), SIZES, FACTS, template="ext").sentences()
    assert not [line for line in stopped if "snapshot" in line or "gnt-instance st" in line]
    offline = make_plan(instance(), SIZES, {**FACTS, "free": {"xenvg": 0}}, template="ext", offline=True)
    assert (offline.running, offline.live, offline.rooms) == (True, False, ())
    assert "after about 14 s for Ganeti's four jobs and the copy of 136M at 100M/s" in offline.sentences()[-2]
    assert downtime(10 << 30) == pytest.approx(13 + 102.4)
    assert downtime(10 << 30, 1 << 30) == 23


def test_what_stands_in_the_way_is_said_with_figures() -> None:
    with pytest.raises(Missing, match="logical volume xenvg/u1.disk1 on node2"):
        make_plan(instance(), SIZES, {**FACTS, "sizes": [100 * MIB, 0]}, template="file")
    with pytest.raises(NoSpace, match="zfs/vm on node2, of which 5% stay free: 136M asked for, 90.0M available"):
        make_plan(instance(), SIZES, {**FACTS, "available": 140 * MIB, "used": 860 * MIB}, template="file")
    with pytest.raises(NoSpace, match="volume group xenvg on node2, for snapshots: 128M asked for, 8.00M available: --offline needs none"):
        make_plan(instance(), SIZES, {**FACTS, "free": {"xenvg": 8 * MIB}}, template="file")
    with pytest.raises(Busy, match="^xenvg/u0.disk0: is used on node2 by /dev/mapper/u0p1: free it, then the same command goes on"):
        make_plan(instance(), SIZES, {**FACTS, "claims": {"xenvg/u1.disk1": [], "xenvg/u0.disk0": ["/dev/mapper/u0p1"]}}, template="file")
    # an earlier run has been let in already
    assert make_plan(instance(), SIZES, {**FACTS, "available": MIB}, template="file", exists=True).exists
