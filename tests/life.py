"""A node's life as a state machine: instances come, change, are renamed and removed, operations stop half-way, processes die and
the node reboots; and at every moment each disk that was ever written is found where it is looked for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.killing import dies
from tests.node import CLUSTER_NAME, DAY, Node, place_in_memory
from zfsganeti import check, ganeti
from zfsganeti.datasets import locked
from zfsganeti.errors import Foreign, Missing
from zfsganeti.here import Here

names = st.sampled_from(["web1", "web1.example.com", "db1"])
deaths = st.one_of(st.just(0), st.integers(1, 40))  # at which point a process dies; 0 lets it live
boots = st.sampled_from([False, False, True])
GIB = 1 << 30


class Disks:
    """What an instance's disks must hold: by file, and in snapshots from before a disk was removed."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.kept: set[bytes] = set()


class Life(RuleBasedStateMachine):
    """The model is what Ganeti and the administrator believe; the node is ours."""

    def __init__(self) -> None:
        super().__init__()
        self.place = place_in_memory()
        self.node = self.make_node()
        self.instances: dict[str, Disks] = {}
        self.trash: dict[str, Disks] = {}
        self.orphans: dict[str, Disks] = {}  # removed by Ganeti, and our post hook never ran
        self.renaming: dict[str, str] = {}  # renamed by Ganeti, and our post hook never ran: new name to old
        self.leftovers: set[str] = set()  # prepared for an instance that never came
        self.count = 0

    def make_node(self) -> Node:
        return Node(self.place)

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    # helpers

    def content(self) -> bytes:
        self.count += 1
        return f"content {self.count}".encode()

    def run(self, operation: Callable[[], object], death: int, boot: bool) -> None:
        """The operation is done, perhaps dying once at a point and done again, perhaps after a boot."""
        if not death:
            operation()
        elif dies(self.node.fake.reaper, death, operation):
            if boot:
                self.node.fake.boot()
            operation()

    def free(self, name: str) -> bool:
        return name not in {*self.instances, *self.orphans, *self.renaming, *self.renaming.values()}

    def settled(self) -> list[str]:
        """Instances that no operation is unfinished for."""
        return sorted(name for name in self.instances if name not in self.renaming)

    def new_entry(self) -> str:
        (entry,) = {entry.entry for entry in self.node.trash.entries()} - set(self.trash)
        return entry

    # instances

    @rule(name=names, disks=st.integers(1, 2), death=deaths, boot=boots)
    def add(self, name: str, disks: int, death: int, boot: bool) -> None:
        assume(self.free(name))
        self.run(lambda: self.node.store.admit(name, [GIB] * disks, fresh=True), death, boot)
        files = {f"{self.count}.file.disk{index}": self.content() for index in range(disks)}
        self.node.ganeti_writes(name, **files)
        self.instances[name] = Disks(files)
        self.leftovers.discard(name)
        self.run(lambda: self.node.store.absorb(name), death, boot)

    @rule(name=names, death=deaths, boot=boots)
    def add_without_being_heard(self, name: str, death: int, boot: bool) -> None:
        """The pre hook timed out: Ganeti goes on and makes plain files."""
        assume(self.free(name) and name not in self.leftovers)
        files = {f"{self.count}.file.disk0": self.content()}
        self.node.ganeti_writes(name, **files)
        self.instances[name] = Disks(files)
        self.run(lambda: self.node.store.absorb(name), death, boot)

    @rule(name=names)
    def add_that_fails(self, name: str) -> None:
        assume(self.free(name))
        self.node.store.admit(name, [GIB], fresh=True)
        self.leftovers.add(name)

    @precondition(lambda self: self.orphans or self.renaming)
    @rule(data=st.data())
    def add_over_what_is_left_is_refused(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({*self.orphans, *self.renaming.values()})))
        assume(name not in self.instances)
        try:
            self.node.store.admit(name, [GIB], fresh=True)
        except Foreign:
            return
        raise AssertionError(f"{name} could be added over the files of another")

    @precondition(lambda self: self.settled())
    @rule(data=st.data(), death=deaths, boot=boots)
    def start_and_write(self, data: st.DataObject, death: int, boot: bool) -> None:
        name = data.draw(st.sampled_from(self.settled()))
        self.run(lambda: self.node.store.bring_home(name), death, boot)
        disks = self.instances[name]
        if disks.files:
            first = min(disks.files)
            disks.files[first] = self.content()
            self.node.ganeti_writes(name, **{first: disks.files[first]})

    @precondition(lambda self: any(self.instances[name].files for name in self.settled()))
    @rule(data=st.data(), death=deaths, boot=boots)
    def remove_a_disk(self, data: st.DataObject, death: int, boot: bool) -> None:
        name = data.draw(st.sampled_from([name for name in self.settled() if self.instances[name].files]))
        self.node.fake.clock += 1

        def pre() -> None:
            self.node.store.bring_home(name)
            self.node.store.keep_disks(name)

        self.run(pre, death, boot)
        self.node.store.bring_home(name)
        disks = self.instances[name]
        last = max(disks.files)
        os.unlink(f"{self.node.home(name)}/{last}")
        disks.kept.add(disks.files.pop(last))

    # removal

    @precondition(lambda self: self.settled())
    @rule(data=st.data(), death=deaths, boot=boots, heard=st.booleans())
    def remove(self, data: st.DataObject, death: int, boot: bool, heard: bool) -> None:
        name = data.draw(st.sampled_from(self.settled()))
        self.run(lambda: self.node.put_aside(name, "remove", {"name": name}), death, boot)
        self.node.put_aside(name, "remove", {"name": name})  # a boot in between has stopped Ganeti's job as well
        self.node.ganeti_removes(name)
        disks = self.instances.pop(name)
        if heard:
            self.run(lambda: self.node.trash.discard(name), death, boot)
            if disks.files or disks.kept:
                self.trash[self.new_entry()] = disks
        elif disks.files or disks.kept:
            self.orphans[name] = disks
        else:
            self.leftovers.add(name)

    @precondition(lambda self: self.settled())
    @rule(data=st.data(), death=deaths, intent=st.sampled_from(["remove", "rename nowhere", "move node2"]))
    def put_aside_for_nothing(self, data: st.DataObject, death: int, intent: str) -> None:
        """Ganeti, or a hook after ours, gives the operation up."""
        name = data.draw(st.sampled_from(self.settled()))
        if death:
            dies(self.node.fake.reaper, death, lambda: self.node.put_aside(name, intent))
        else:
            self.node.put_aside(name, intent)

    @precondition(lambda self: self.settled())
    @rule(data=st.data(), new=names, death=deaths, boot=boots, heard=st.booleans())
    def rename(self, data: st.DataObject, new: str, death: int, boot: bool, heard: bool) -> None:
        old = data.draw(st.sampled_from(self.settled()))
        assume(self.free(new) and new not in self.leftovers)
        self.node.store.refuse_taken(new)
        self.run(lambda: self.node.put_aside(old, f"rename {new}"), death, boot)
        self.node.put_aside(old, f"rename {new}")
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.node.home(new))
        self.node.ganeti_renames(old, new)
        self.instances[new] = self.instances.pop(old)
        if heard:
            self.run(lambda: self.node.store.finish_rename(old, new), death, boot)
        else:
            self.renaming[new] = old

    # the trash

    @precondition(lambda self: self.trash)
    @rule(data=st.data(), name=names, death=deaths, boot=boots)
    def restore(self, data: st.DataObject, name: str, death: int, boot: bool) -> None:
        entry = data.draw(st.sampled_from(sorted(self.trash)))
        assume(self.free(name))
        self.node.trash.mark_restoring(entry, name)
        self.node.store.admit(name, [GIB], fresh=True)
        disks = self.trash[entry]
        renames = [(old, f"{self.count}.again.disk{index}") for index, old in enumerate(sorted(disks.files))]
        self.count += 1
        self.node.ganeti_writes(name, **{new: b"" for _old, new in renames})

        def swap() -> None:
            with contextlib.suppress(Missing):  # it is out of the trash: the swap was complete
                self.node.trash.swap_in(entry, name, renames)

        self.run(swap, death, boot)
        del self.trash[entry]
        disks.files = {new: disks.files[old] for old, new in renames}
        self.instances[name] = disks
        self.leftovers.discard(name)

    @rule(days=st.integers(0, 5), death=deaths, boot=boots)
    def time_passes(self, days: int, death: int, boot: bool) -> None:
        for _day in range(days):  # a node looks more often than it takes for a jump of its clock
            self.node.fake.clock += DAY
            self.node.trash.give_up()
        self.node.fake.clock += 60
        self.run(self.node.trash.give_up, death, boot)
        expired = [entry.entry for entry in self.node.trash.entries() if entry.removed + 7 * DAY <= self.node.fake.clock]
        assert expired == []
        there = {entry.entry for entry in self.node.trash.entries()}
        for entry in list(self.trash):
            if entry not in there:
                del self.trash[entry]

    # the node

    @rule()
    def boot(self) -> None:
        self.node.fake.boot()

    @rule()
    def check_and_repair(self) -> None:
        """`gnt-zfs check --repair` leaves nothing to complain about, and every instance at home."""
        for finding in self.findings():
            assert finding.repairable, finding
            self.repair(finding)
        assert self.findings() == []
        self.leftovers.clear()
        self.renaming.clear()
        for name, disks in self.orphans.items():
            entries = [entry.entry for entry in self.node.trash.entries() if entry.instance == name and entry.entry not in self.trash]
            self.trash[entries[-1]] = disks
        self.orphans.clear()
        for name in self.instances:
            assert self.node.fake.mounted_at(self.node.home(name)) == self.node.name(name)

    def findings(self) -> list[check.Finding]:
        here = Here(dict)
        node, place = self.node, self.place
        (place / "ssconf_file_storage_dir").write_text(node.root.path, encoding="utf-8")
        (place / "ssconf_cluster_name").write_text(CLUSTER_NAME, encoding="utf-8")
        vars(here).update(node="node1", ssconf=ganeti.Ssconf(str(place)), zfs=node.fake, root=node.root, config=node.config)
        vars(here).update(store=node.store, trash=node.trash)
        facts = {**check.report(here), "leftover_minutes": -1}
        instances = {name: self.as_ganeti_has_it(name, disks) for name, disks in self.instances.items()}
        found = check.compare_node(facts, instances, list(instances), set(), float(node.fake.clock))
        found = check.keep_safe(found, check.held({"node1": facts}, instances))
        return [finding for finding in found if finding.subject]  # what concerns the whole node is not of this machine

    def as_ganeti_has_it(self, name: str, disks: Disks) -> ganeti.Instance:
        configured: dict[str, dict[str, Any]] = {
            file: {"uuid": file, "dev_type": "file", "size": 1, "logical_id": ["loop", f"{self.node.home(name)}/{file}"]}
            for file in disks.files
        }
        return ganeti.Instance({"name": name, "uuid": name, "primary_node": "n", "disks": [*configured]}, {"n": "node1"}, configured, {})

    def repair(self, finding: check.Finding) -> None:
        request = {**finding.request}
        store = self.node.store
        with locked(finding.subject, directory=str(self.place)):
            if finding.verb == "finish-rename":
                store.finish_rename(request["old"], request["new"])
            elif finding.verb == "discard":
                self.node.trash.discard(request["instance"])
            else:
                verbs: dict[str, Callable[[str], None]] = {"home": store.bring_home, "sweep": store.sweep, "absorb": store.absorb}
                verbs[finding.verb](request["instance"])

    # what always holds

    @invariant()
    def every_disk_of_an_instance_is_found(self) -> None:
        for name, disks in self.instances.items():
            holder = self.dataset_of(name)
            assert holder is not None, f"{name} has no dataset"
            assert self.node.fake.files(holder) == disks.files
            assert disks.kept <= self.in_snapshots(holder)

    @invariant()
    def every_disk_in_the_trash_is_found(self) -> None:
        for entry, disks in self.trash.items():
            assert self.node.fake.files(self.node.kept(entry)) == disks.files
            assert disks.kept <= self.in_snapshots(self.node.kept(entry))
        for name, disks in self.orphans.items():
            assert self.node.fake.files(self.node.name(name)) == disks.files

    @invariant()
    def a_file_is_read_under_its_path_where_nothing_is_unfinished(self) -> None:
        for name in self.settled():
            if self.node.fake.mounted_at(self.node.home(name)) == self.node.name(name):
                assert self.node.reads(name) == self.instances[name].files

    @invariant()
    def no_two_datasets_claim_an_instance(self) -> None:
        claims = self.node.claims()
        assert len(set(claims)) == len(claims)

    @invariant()
    def nothing_is_mounted_where_nobody_looks(self) -> None:
        allowed = {self.node.root.path}
        for dataset in self.node.datasets():
            allowed |= {self.node.home(dataset), self.node.aside(dataset)}
        assert {mount.path for mount in self.node.fake.mounts() if mount.dataset.startswith(self.node.root.name)} <= allowed

    def dataset_of(self, name: str) -> str | None:
        under = [self.renaming[name]] if name in self.renaming else [name]
        return next((self.node.name(dataset) for dataset in (*under, name) if self.node.fake.get(self.node.name(dataset))), None)

    def in_snapshots(self, dataset: str) -> set[bytes]:
        found: set[bytes] = set()
        for snapshot, _created, _used in self.node.fake.snapshots(dataset, depth=1):
            found.update(self.node.fake.snapshot_files(snapshot).values())
        return found
