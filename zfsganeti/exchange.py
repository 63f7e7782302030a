"""The doing of `gnt-zfs adopt`: disks are copied and exchanged, by verbs of the primary and jobs of Ganeti's, one after the other.

Before every step it is looked where the disks are, so that what was interrupted anywhere is gone on with.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from zfsganeti.adoption import (
    BACK,
    FILE,
    PASSES,
    RATE,
    SHADOW,
    SMALL,
    START,
    SYNCED,
    Adoption,
    Plan,
    another_pass,
    downtime,
    next_step,
    outer_name,
    refuse_stale,
    tags_of,
)
from zfsganeti.errors import CommandFailed, Refused, Unavailable, human
from zfsganeti.ganeti import DRBD
from zfsganeti.here import JOB_SECONDS, Here
from zfsganeti.moving import alone
from zfsganeti.node import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.adoption import Step
    from zfsganeti.files import Progress

SLICE_SECONDS = 5  # a node that is not asked again has stopped copying after so long
TRIES = 3  # at a snapshot that overflows


@contextlib.contextmanager
def alone_with(here: Here, name: str, say: Callable[[str], None]) -> Iterator[str]:
    """Nobody else adopts or moves the instance, whose whole name is yielded, and no job of Ganeti's works on it or its shadow."""
    name = outer_name(here, name)
    with alone(name), alone(SHADOW + name):
        wait_for_jobs(here, name, say)
        yield name


def wait_for_jobs(here: Here, name: str, say: Callable[[str], None]) -> None:
    for one in (name, SHADOW + name):
        here.wait_for_jobs(one, say)


class Conduct:
    """An adoption on its way; every step looks first, so that what was interrupted anywhere is gone on with."""

    def __init__(self, here: Here, name: str, say: Callable[[str], None], progress: Progress) -> None:
        self.here, self.say, self.progress = here, say, progress
        self.found = Adoption(here, name)
        self.name, self.shadow_name = self.found.name, self.found.shadow_name
        self.stopped_at = 0.0
        self.downtime: float | None = None
        self.kept_copy = False
        self.in_sync = False  # the halves of drbd were, right before the stop
        self.seen: dict[int, str] = {}  # how much had been written to each old disk when it was compared
        self._read, self._seconds = 0, 0.0  # in all slices of the copy
        self._look_again()

    def _look_again(self) -> None:
        """What is known holds now, and no job is about to change it: those of a run that was killed go on without it."""
        wait_for_jobs(self.here, self.name, self.say)
        self.found.look()

    def _call(self, verb: str, **request: Any) -> Any:
        return self.here.call(self.found.node, verb, seconds=JOB_SECONDS, **request)

    def _gnt(self, *words: str) -> None:
        run("gnt-instance", *words, seconds=JOB_SECONDS)

    # forward

    def adopt(self, plan: Plan, *, verify: bool = False) -> None:
        """The instance runs, or is stopped, as before, on disks of ours; the old ones are the shadow's."""
        self._must_be_as_planned(plan)
        if not plan.exists:
            self.say(f"adding {self.shadow_name} with the new disks")
            self._add(plan)
        self._name_new()
        self.found.must_know_disks(self.found.new)
        self.found.refuse_grown()
        if plan.live:
            left = self._fill_all(plan)
            if self.found.places.up:
                self.say(f"{self.name} will be down for about {downtime(left, self.rate):.0f} s")
        # of a rollback that was interrupted the new disks have been written, and are no copy of the old ones any more
        self._exchange(self.found.new, self.found.old, copy=not self.found.tags.back, verify=verify)
        self._call("adopt-drop", disks=self._lvs())
        self._untag(
            BACK, START, *[f"{SYNCED}:{serial}" for serial in self.found.tags.synced]
        )  # at last: until then the same command goes on
        if verify:
            self._verify()

    def _must_be_as_planned(self, plan: Plan) -> None:
        """Nothing has become of the instance since it was planned: a copy of its old disks onto those that it runs on would end them."""
        self._look_again()
        found = self.found
        found.refuse_return()
        found.refuse_running()
        same = (found.shadow is not None, found.node) == (plan.exists, plan.node)
        if same and plan.exists:
            same = found.state == "copying" if plan.live else found.state != "kept"
        if not same or (found.places.up and not plan.running):
            raise Refused(self.name, "is not as it was when this was planned", f"gnt-zfs adopt {self.name} looks again")

    def _add(self, plan: Plan) -> None:
        try:
            run(*plan.command, seconds=JOB_SECONDS)
        except CommandFailed as error:
            raise Refused(self.shadow_name, f"Ganeti does not add it: {error.reason}", f"nothing was changed for {self.name}") from error
        self.found.look()

    def _name_new(self) -> None:
        """The shadow's tags name the new disks, before anything is taken from it."""
        self.found.look()
        self.found.must_exist()
        if len(self.found.new) != len(self.found.old):
            why = f"has {len(self.found.new)} disks, {self.name} {len(self.found.old)}"
            raise Refused(self.shadow_name, why, f"gnt-zfs adopt --abort {self.name}")
        if not self.found.tags.new:
            self._gnt("add-tags", self.shadow_name, *tags_of("new", self.found.new))
            self.found.look()

    def _lvs(self) -> list[dict[str, str]]:
        """Return the LVM volumes of the old disks that there are."""
        disks = [self.found.disks[uuid] for uuid in self.found.old if uuid in self.found.disks]
        return [{"vg": disk.lvm[0], "lv": disk.lvm[1]} for disk in disks]

    def _disk(self, index: int) -> dict[str, Any]:
        """Return how a node is told which LVM volume and which disk of ours are meant; one of ours may be gone when they are not copied."""
        new = self.found.disks.get(self.found.new[index])
        old = self.found.disks[self.found.old[index]]
        drbd = {"size": old.size} if old.template == DRBD else {}
        owners = [one for one in (self.found.instance, self.found.shadow) if one is not None]
        minors = {disk.uuid: minor for one in owners for disk, minor in zip(one.disks, one.minors, strict=True)}
        if minors.get(old.uuid, -1) >= 0:
            drbd["minor"] = minors[old.uuid]
        volume, file = (new.volume, new.path.rsplit("/", 1)[-1]) if new is not None else ("", "gone")
        where = {"vg": old.lvm[0], "lv": old.lvm[1], "volume": volume, "file": file, "names": [self.shadow_name, self.name]}
        return {"disk": index, **drbd, **where}

    def _fill_all(self, plan: Plan) -> int:
        """The new disks are equal to snapshots of the old ones; return how many bytes have changed since, in all.

        While one is copied, another one that was before is written to: what that has come to is looked at again.
        """
        count = len(plan.sizes)
        left = [self._fill(index, plan.rooms[index]) for index in range(count)]
        before = 0
        for _again in range(PASSES if count > 1 else 0):
            left = [self._call("adopt-changed", **self._disk(index)) for index in range(count)]
            lost = min(left) < 0
            stale = [index for index in range(count) if left[index] < 0 or left[index] > SMALL]
            if not stale or (before and not lost and sum(left) * 4 >= before * 3):
                break
            before = 0 if lost else sum(left)
            for index in stale:
                left[index] = self._fill(index, plan.rooms[index])
        return sum(left)

    def _fill(self, index: int, room: int) -> int:
        """The new disk is equal to a snapshot of the old one; return how many bytes have changed since, which are few."""
        disk = self._disk(index)
        state = self._call("adopt-state", **disk)
        number = state["making"] or state["whole"] or state["highest"] + 1
        changed: list[int] = []
        tries = 0
        while True:
            copied = self._pass(index, disk, number, room)
            left = self._call("adopt-changed", **disk) if copied else -1
            if left < 0:  # it is written faster than it is copied, or the snapshot was too small
                tries += 1
                room *= 2
                if tries >= TRIES:
                    way_out = f"gnt-zfs adopt --offline {self.name} stops it first, --abort gives up"
                    raise Refused(f"disk {index} of {self.name}", f"its snapshot overflowed {tries} times", way_out)
            else:
                changed.append(left)
                self.say(f"disk {index} is copied, {human(left)} of it changed meanwhile")
                if not another_pass(changed):
                    return left
            number += 1

    def _pass(self, index: int, disk: Mapping[str, Any], number: int, room: int) -> bool:
        """The new disk is equal to that snapshot; False when the snapshot overflowed."""
        while True:
            began = time.monotonic()
            told = self._call("adopt-copy", **disk, number=number, room=room, patience=SLICE_SECONDS)
            if told["overflowed"]:
                return False
            self._measure(told["read"], time.monotonic() - began)
            self._tell(index, told)
            if told["ended"]:
                return True

    def _measure(self, read: int, seconds: float) -> None:
        self._read, self._seconds = self._read + read, self._seconds + seconds

    @property
    def rate(self) -> float:
        """How many bytes a second are compared; what is not measured yet is assumed."""
        return self._read / self._seconds if self._read > SMALL and self._seconds else float(RATE)

    def _tell(self, index: int, told: Mapping[str, Any]) -> None:
        total = told["total"]
        if total:
            done = total if told["ended"] else min(told["offset"] if told["what"] == "all" else told["read"], total)
            self.progress(f"disk {index}", done, total)

    def _finish(self, *, again: bool = False) -> None:
        """The new disks hold what the old ones, which nobody uses now, hold; `again` looks whether they have been written since."""
        for index in range(len(self.found.old)):
            disk, offset, read, written, writes = self._disk(index), 0, 0, 0, list[str]()
            known = {"again": again, "seen": self.seen.get(index, "")}
            while True:
                told = self._call("adopt-finish", **disk, **known, offset=offset, patience=SLICE_SECONDS)
                offset, read, written = told["offset"], read + told["read"], written + told["written"]
                writes.append(str(told.get("writes", "")))  # a node with an earlier version compares all
                self._tell(index, told)
                if told["ended"]:
                    break
            self.seen[index] = writes[0]
            if read or not again:
                self.say(f"disk {index}: {human(read)} compared{' once more' if again else ''}, {human(written)} written")

    # the exchange, both ways

    def _exchange(self, coming: tuple[str, ...], going: tuple[str, ...], *, copy: bool, verify: bool = False) -> None:
        """The instance has the disks that come, its shadow those that go, and it runs if it did."""
        self.found.must_know_disks(coming)
        if set(self.found.places.outer) & set(going):
            self._remember_running()
        for _step in range(20):
            self.found.refuse_running()
            step = next_step(self.found.places, coming, going)
            if step is None:
                break
            if step.verb in ("start", "keep"):
                self._settle(self.name, coming)
                if verify and not self.kept_copy:
                    self._call("adopt-keep", **self._ours(self.name))
                    self.kept_copy = True
            if step.verb == "stop":
                self._remember_running()
            left = bool(set(self.found.places.outer) & set(going))
            if copy and not left and step.verb in ("stop", "detach"):
                self._spare([disk for disk in self.found.places.outer if disk in coming])
            if copy:
                self._copy_before(step, left=left)
            elif coming == self.found.old:
                self._must_be_unused(step.disks if step.verb != "start" else coming)
            self._do(step)
            self.found.look()
        else:
            raise Unavailable(self.name, "its disks are not where they were put", f"gnt-zfs adopt {self.name} tries again")
        self._settle(self.shadow_name, going)

    def _spare(self, disks: Sequence[str]) -> None:
        """Nothing is copied any more to volumes that the instance has had alone: somebody may have started it with them."""
        ours = self._ours(self.name, disks) if disks else {"volumes": []}
        if ours["volumes"]:
            self._call("adopt-settle", **{**ours, "files": []})

    def _copy_before(self, step: Step, *, left: bool) -> None:
        """What the old disks hold, while they are `left` to the instance and once nobody can have them, is copied when it is time."""
        if left and step.verb == "stop":
            self._must_be_in_sync()
        if left and step.verb == "detach":
            if not (self.in_sync or self.found.was_in_sync):
                self._must_be_in_sync()
            self._finish()
        if step.verb == "attach":
            # Ganeti detaches disks of what runs, too: a start that came in between was stopped by now, and none comes any more
            self._finish(again=True)

    def _must_be_unused(self, disks: Sequence[str]) -> None:
        """Nobody has those open that are old ones, and about to be another's: what Ganeti takes for stopped may run."""
        for index, uuid in enumerate(self.found.old):
            if uuid in disks:
                self._call("adopt-unused", **self._disk(index))

    def _untag(self, *tags: str) -> None:
        """The shadow has none of these tags."""
        there = sorted(set(tags) & set(self.found.shadow.record()["tags"] if self.found.shadow else ()))
        if there:
            self._gnt("remove-tags", self.shadow_name, *there)
            self.found.look()

    def _must_be_in_sync(self) -> None:
        """The LVM volumes hold what the guest sees, which of drbd may be the other node's half alone; tags keep that for after the stop."""
        if self.found.instance.template != DRBD:
            return
        known = [f"{SYNCED}:{serial}" for serial in self.found.tags.synced]
        try:
            refuse_stale(self.found.instance, self._call("adopt-halves"))
        except Refused:
            self._untag(*known)
            raise
        self.in_sync = True
        new = f"{SYNCED}:{self.found.instance.serial}"
        if self.found.places.up and new not in known:
            self._gnt("add-tags", self.shadow_name, new)
            self.found.look()

    def _remember_running(self) -> None:
        """The shadow's tags say that the instance runs and is to run again, before it is stopped."""
        if self.found.places.up and not self.found.tags.start:
            self._gnt("add-tags", self.shadow_name, START)
            self.found.look()

    def _do(self, step: Step) -> None:
        """One step is done by one job of Ganeti's."""
        if step.verb == "stop":
            self.say(f"stopping {self.name}")
            self.stopped_at = time.monotonic()
            self._gnt("stop", self.name)
        elif step.verb == "start":
            self._gnt("start", self.name)
            if self.stopped_at:
                self.downtime = time.monotonic() - self.stopped_at
        elif step.verb in ("detach", "release"):
            owner = self.name if step.verb == "detach" else self.shadow_name
            self._loosen(step.disks, self.shadow_name if step.verb == "detach" else self.name)
            self._modify(owner, detach_words(self.found.places.outer if step.verb == "detach" else self.found.places.shadow, step.disks))
        else:
            owner = self.name if step.verb == "attach" else self.shadow_name
            self._loosen(step.disks, owner)
            self._modify(owner, attach_words(step.disks))
            if owner == self.shadow_name and self.found.disks[step.disks[0]].template == DRBD:
                self._gnt("deactivate-disks", owner)  # a stopped instance's are, elsewhere in Ganeti

    def _modify(self, owner: str, words: Sequence[str]) -> None:
        self._gnt("modify", "--ignore-ipolicy", *words, owner)

    def _loosen(self, disks: Sequence[str], owner: str) -> None:
        """Disk files that are to change their owner are where Ganeti can rename them."""
        files = [self.found.disks[uuid].path for uuid in disks if self.found.disks[uuid].template == FILE]
        if files:
            old = self.name if owner == self.shadow_name else self.shadow_name
            self._call("adopt-loosen", old=old, new=owner, paths=files)

    def _settle(self, owner: str, disks: Sequence[str]) -> None:
        """Disks of ours are their new owner's under its name."""
        self.found.look()
        ours = self._ours(owner, disks)
        if ours["files"] or ours["volumes"]:
            self._call("adopt-settle", **ours)

    def _ours(self, owner: str, disks: Sequence[str] | None = None) -> dict[str, Any]:
        found = [self.found.disks[uuid] for uuid in (self.found.present if disks is None else disks)]
        files = [disk.path.rsplit("/", 1)[1] for disk in found if disk.template == FILE]
        return {"instance": owner, "files": files, "volumes": [disk.volume for disk in found if disk.volume]}

    def _verify(self) -> None:
        """The new disks, as they were before the start, are equal to the old ones."""
        if not self.kept_copy:
            raise Refused(self.name, "was not verified: its disks were exchanged by an earlier run")
        try:
            for index in range(len(self.found.old)):
                offset, ended = 0, False
                while not ended:
                    told = self._call("adopt-verify", **self._disk(index), offset=offset, patience=SLICE_SECONDS)
                    if told["differs"] >= 0:
                        why = f"differs from the old one near byte {told['differs']}"
                        raise Refused(f"disk {index} of {self.name}", why, f"gnt-zfs adopt --rollback {self.name}")
                    offset, ended = told["offset"], told["ended"]
                    self.progress(f"verify disk {index}", offset, told["total"])
        finally:
            self._call("adopt-keep", **self._ours(self.name), gone=True)

    # back and away

    def commit(self) -> None:
        """The old disks are gone for good."""
        self._look_again()
        self.found.must_exist()
        self._refuse_returning()
        self.found.refuse_running()
        if self.found.state != "kept":
            raise Refused(self.name, "is not adopted yet", f"gnt-zfs adopt {self.name} goes on")
        self._call("adopt-drop", disks=self._lvs())
        self._call("adopt-keep", **self._ours(self.name), gone=True)
        self._gnt("remove", "-f", self.shadow_name)

    def _refuse_returning(self) -> None:
        if self.found.tags.back:
            raise Refused(self.name, "is being taken back to its old disks", f"gnt-zfs adopt --rollback {self.name} goes on")

    def back(self, *, abort: bool) -> None:
        """The instance has its old disks; the new ones are in the trash, or gone if they were never used."""
        self._look_again()
        self.found.must_exist()
        if abort:
            self._refuse_returning()
        if abort and self.found.state != "copying":
            raise Refused(self.name, "has been switched to its new disks, or is about to be", f"gnt-zfs adopt --rollback {self.name}")
        if not abort and self.found.state == "copying":
            raise Refused(self.name, "has its old disks", f"gnt-zfs adopt --abort {self.name} gives up the copy")
        self.found.refuse_running()
        if not abort and not self.found.tags.back:
            self.found.must_know_disks(self.found.old)
            self._gnt("add-tags", self.shadow_name, BACK)
            self.found.look()
        if self.found.new and not (abort and self.found.is_untouched):  # else there is nothing to exchange
            self._exchange(self.found.old, self.found.present, copy=False)
        self._call("adopt-drop", disks=self._lvs())
        before = self._copies() if abort else set()
        self._gnt("remove", "-f", self.shadow_name)
        for entry in sorted(self._copies() - before) if abort else ():
            self._call("trash-destroy", entry=entry, strangers=True)  # a copy that no guest has had, whoever took snapshots of it

    def _copies(self) -> set[str]:
        """Return what is in the trash of this shadow and of those before it, which a rollback has put there."""
        entries = self.here.call(self.found.node, "report")["trash"]
        return {str(entry["entry"]) for entry in entries if entry["instance"] == self.shadow_name}


def detach_words(attached: Sequence[str], disks: Sequence[str]) -> list[str]:
    """Return what gnt-instance modify is told: from the last on, so that no number changes before its turn."""
    numbers = sorted((attached.index(uuid) for uuid in disks), reverse=True)
    return [word for number in numbers for word in ("--disk", f"{number}:detach")]


def attach_words(disks: Sequence[str]) -> list[str]:
    return [word for number, uuid in enumerate(disks) for word in ("--disk", f"{number}:attach,uuid={uuid}")]
