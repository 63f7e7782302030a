"""`gnt-zfs move --abort`: what has come of a move that has not switched yet goes away again.

What goes is looked at first and can be shown; it is looked at once more before anything is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zfsganeti.disks import datasets_of, find_instance
from zfsganeti.errors import BadInput, Busy, CommandFailed, Missing, Refused, Unavailable, ZfsGanetiError, human, one_line
from zfsganeti.here import Here
from zfsganeti.move import Say, gnt, heedless
from zfsganeti.route import FENCED, LEFT, PRESYNC, Leaving, either, find_rest, has_landed, is_newer, must_know, newer, waits


class Back:
    """An instance's way back from a move: it stays where it is, as if none had been begun."""

    def __init__(self, here: Here, name: str, say: Say) -> None:
        self.here, self.say = here, heedless(say)
        self.name = find_instance(here.master.instances(), name).name
        self._look()

    def _look(self) -> None:
        """It is known what there is of the move; Refused once the instance is, or may be, on another node."""
        self.here.wait_for_jobs(self.name, self.say)
        instance = find_instance(self.here.master.instances(), self.name)
        self.names, self.source, self.up = datasets_of(instance), instance.primary, instance.admin_state == "up"
        found = self.here.call_all("move-source", datasets=self.names)
        if self.source not in found:
            raise Unavailable(self.source, "is offline", f"gnt-node modify --offline=no {self.source}")
        mine = found[self.source]
        must_know(mine)
        rest = find_rest(found, self.source, self.here.ssconf.offline_nodes, self.names)
        if rest is not None:
            then = "" if rest.lost else f", gnt-zfs move {self.name} {rest.source} then moves it back"
            raise Refused(self.name, f"is on {self.source} already", f"gnt-zfs move {self.name} {self.source} ends that{then}")
        known = {name: facts for name, facts in mine["datasets"].items() if facts is not None}
        marks = {name: mark for name, facts in known.items() if (mark := Leaving.parse(facts["move"])) is not None}
        self.marks = list(marks.values())
        self._refuse_newer({name: mark for name, mark in marks.items() if mark.phase in (FENCED, LEFT)}, found)
        self.others = {node: facts for node, facts in found.items() if node != self.source}

    def _refuse_newer(self, fenced: Mapping[str, Leaving], found: Mapping[str, Any]) -> None:
        """The instance has not lived on the node that it was fenced for, nor gone on from there; one that is offline is not asked."""
        strays = dict(fenced)
        for node in sorted({mark.to for mark in fenced.values()} & set(found)):
            facts = self._heard(node, found)
            if any(has_landed(placed) for placed in facts["datasets"].values()):
                raise newer(self.name, node)
            strays = {name: mark for name, mark in strays.items() if mark.to != node or not waits(facts["coming"].get(name), self.source)}
        waiting = {name for name, coming in found[self.source]["coming"].items() if coming is not None}
        came_to = {name: "" if name in waiting else self.source for name in strays}
        for node in sorted(set(found) - {self.source}) if strays else ():
            facts = self._heard(node, found)
            if any(is_newer(facts["datasets"].get(name), mark, came_to[name]) for name, mark in strays.items()):
                raise either(self.name, node, [name for name in self.names if has_landed(facts["datasets"].get(name))])

    def _heard(self, node: str, found: Mapping[str, Any]) -> Any:
        """Return what a node has said; who says that one is offline for the cluster answers for it."""
        said = found[node]
        problem = one_line(said) if isinstance(said, ZfsGanetiError) else "" if said.get("rootless") else said["problem"]
        if problem:
            way_out = f"gnt-node modify --offline=yes {node} if it is lost for good, with all that it has"
            raise Refused(self.name, f"whether its newer disks are on {node} is not known ({problem})", way_out)
        return said

    def _comes(self, facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [coming for coming in facts["coming"].values() if coming is not None and coming["ours"]]

    def is_needed(self) -> bool:
        """Tell whether there is anything of a move."""
        return bool(self.marks) or any(isinstance(facts, ZfsGanetiError) or self._comes(facts) for facts in self.others.values())

    def sentences(self) -> list[str]:
        """Return what will be done."""
        if not self.is_needed():
            return [f"{self.name}: is on {self.source}, nothing is known of a move"]
        starts = not self.up and any(mark.ran and mark.phase != PRESYNC for mark in self.marks)
        said = [f"{self.name}: stays on {self.source}" + (" and is started again" if starts else "")]
        for node, facts in self.others.items():
            if isinstance(facts, ZfsGanetiError):
                said.append(f"  what has come to {node} is not known ({one_line(facts)})")
            else:
                said += [f"  {coming['dataset']} on {node} goes away, with {human(coming['used'])}" for coming in self._comes(facts)]
        return said

    def run(self) -> None:
        """The instance is as if no move had been begun, and runs again if it ran."""
        if any(mark.phase != PRESYNC for mark in self.marks):  # a gnt-instance of a mover that was killed may be about to submit a job
            self.here.wait_for_jobs(self.name, self.say, submitted=True)
        self._look()
        failed = self._start_again()
        self.here.call(self.source, "move-abort", datasets=self.names, wait=True)
        unheard = self._drop() | {mark.to for mark in self.marks if mark.to in self.here.ssconf.offline_nodes}
        but = f" but what {' and '.join(sorted(unheard))} may have: the same command once it is back" if unheard else ""
        self.say(f"{self.name}: is on {self.source}, nothing is left of the move{but}")
        if failed is not None:
            raise Refused(self.name, f"does not start ({failed.reason})", f"gnt-instance startup {self.name}") from failed

    def _drop(self) -> set[str]:
        """Nothing is left of what came to the nodes that answer; return the others."""
        failed = set()
        for node in self.others:
            try:
                self.here.call(node, "move-drop", datasets=self.names)
            except ZfsGanetiError as error:
                self.say(f"{self.name}: what came to {node} could not be given up: {one_line(error)}")
                failed.add(node)
        return failed

    def _start_again(self) -> CommandFailed | None:
        """The instance runs if a move has stopped it, which its datasets say until then; return why it does not."""
        ran = self.here.call(self.source, "move-abort", datasets=self.names, wait=True, stay=True)
        if not ran or self.up:
            return None
        try:
            gnt("startup", self.name)
        except CommandFailed as error:
            self._look()  # another node may have become the primary all the same, and then nothing is to be forgotten
            return error
        self.say(f"{self.name}: runs on {self.source} again")
        return None


def _owners(here: Here) -> dict[str, str]:
    """Return the instance that each dataset is of, as far as Ganeti knows."""
    return {name: instance.name for instance in here.master.instances().values() for name in datasets_of(instance)}


class Gone:
    """What has come of an instance that is gone or has another name now; Missing when there is nothing."""

    def __init__(self, here: Here, typed: str, say: Say) -> None:
        self.here, self.say = here, heedless(say)
        found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
        lost, owners, others = [], _owners(here), set()
        for node, facts in here.call_all("report").items():
            if isinstance(facts, ZfsGanetiError):
                lost.append(node)
                continue
            for coming in facts["moving"]:
                if not coming["ours"] or typed not in (coming["instance"], coming["instance"].split(".")[0]):
                    continue
                if coming["name"] in owners:
                    others.add(owners[coming["name"]])
                else:
                    found.setdefault(coming["instance"], {}).setdefault(node, []).append(coming)
        self.unknown = f", as far as is known without {', '.join(lost)}" if lost else ""
        if not found and others:
            raise Missing(
                f"instance {typed}", f"what has come of it is of {', '.join(sorted(others))} now: gnt-zfs move --abort with that name"
            )
        if not found:
            raise Missing(f"instance {typed}", f"nothing has come of one that was called so either{self.unknown}")
        if len(found) > 1:
            raise BadInput(f"{typed}: could be any of {', '.join(sorted(found))}")
        ((self.name, self.places),) = found.items()

    def is_needed(self) -> bool:
        return True

    def sentences(self) -> list[str]:
        """Return what will be done."""
        said = [f"{self.name}: is no instance{self.unknown}"]
        for node, comings in self.places.items():
            said += [f"  {coming['dataset']} on {node} goes away, with {human(coming['used'])}" for coming in comings]
        return said

    def run(self) -> None:
        """Nothing is left of it."""
        if self.name in self.here.master.instances():
            raise Busy(self.name, "has come into being this moment", "the same command looks again")
        taken = _owners(self.here)
        if any(coming["name"] in taken for comings in self.places.values() for coming in comings):
            raise Busy(self.name, "has become disks of another instance this moment", "the same command looks again")
        for node, comings in self.places.items():
            self.here.call(node, "move-drop", datasets=[coming["name"] for coming in comings])
            self.say(f"{self.name}: is no instance, what had come of it to {node} is gone{self.unknown}")
