"""`gnt-zfs move`: an instance to another node, conducted by the master.

All that can be sent is sent while the instance runs. Then it is stopped, its disks are fenced on the source, what was written last
follows, Ganeti is told the new primary, and what has come takes its place there. Whatever is killed: the instance can be started
on exactly one node, its primary, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zfsganeti import datasets, ganeti
from zfsganeti.adoption import refuse_move
from zfsganeti.disks import datasets_of, find_instance
from zfsganeti.errors import (
    SAME_VERSION,
    BadInput,
    Busy,
    CommandFailed,
    Missing,
    NoSpace,
    Refused,
    Unavailable,
    ZfsGanetiError,
    human,
    one_line,
)
from zfsganeti.here import Here
from zfsganeti.jobs import look, perform
from zfsganeti.moving import LOCK
from zfsganeti.names import meant
from zfsganeti.node import Door
from zfsganeti.route import (
    PRESYNC,
    STOPPING,
    Leaving,
    Pass,
    Plan,
    Rest,
    choose_target,
    downtime,
    find_rest,
    go_on,
    make_plan,
    moment,
    must_know,
    starts_again,
    takes_embedded,
)

Say = Callable[[str], None]
Meter = Callable[[str, int, int], None]

GANETI_SECONDS = 900.0
OPCODES = {"shutdown": "OP_INSTANCE_SHUTDOWN", "startup": "OP_INSTANCE_STARTUP", "modify": "OP_INSTANCE_SET_PARAMS"}
LINK_SECONDS = 60.0  # for a node that an instance, stopped, waits for
AGAIN_SECONDS = 2.0
READY_SECONDS, LOOK_SECONDS = 20.0, 0.1  # for what nodes are asked while the instance is down
FENCES = 3  # a start that comes in between lifts the fence


@dataclass(frozen=True)
class Options:
    """How an instance is to be moved; `limit` is in bytes a second, `longest` in seconds."""

    longest: float | None = None
    limit: int = 0
    start: bool = True
    keep: bool = False
    presync_only: bool = False
    full: bool = False


@dataclass
class Result:
    """What became of one instance."""

    instance: str
    source: str
    target: str
    moved: int = 0
    down: float | None = None
    problem: str = ""
    status: int = 0
    passes: list[Pass] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "instance": self.instance,
            "source": self.source,
            "target": self.target,
            "moved": self.moved,
            "downtime": None if self.down is None else round(self.down, 2),
            "passes": len(self.passes),
            "problem": self.problem,
        }


def at_work() -> set[str]:
    """Return the instances that a gnt-zfs move on this node, the master, is at work on."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(datasets.LOCKS):
            if name.startswith(LOCK) and name.endswith(".lock") and _is_taken(f"{datasets.LOCKS}/{name}"):
                found.add(name.removeprefix(LOCK).removesuffix(".lock"))
    return found


def _is_taken(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class Move:
    """One instance on its way."""

    def __init__(self, here: Here, instance: str, target: str, options: Options, say: Say, meter: Meter) -> None:
        self.here, self.options, self.meter = here, options, meter
        self.say = heedless(say)
        self.name = find_instance(here.master.instances(), instance).name
        here.wait_for_jobs(self.name, self.say)  # those of a mover that was killed go on without it
        instances = here.master.instances()
        self.instance = find_instance(instances, self.name)
        self.names = datasets_of(self.instance)
        self.target = self._node(target)
        refuse_move(instances, self.instance, self.target)
        self._check_disks()
        self.source = self.instance.primary
        self.result = Result(self.name, self.source, self.target)
        self.plan: Plan | None = None
        self.rest: Rest | None = None
        self.going = self.names  # what there is to send
        self.stores = dict.fromkeys(self.names, "")  # each dataset's datastore
        self.embedded = True
        self.known: dict[str, str] = {}  # the GUIDs that the target has told
        self.ran = self.instance.admin_state == "up"
        self.owed = False  # a mover before has stopped it, and it is to run again
        self.doors: dict[str, Door] = {}  # of what is asked next, by verb

    def _node(self, name: str) -> str:
        found = full_name(name, self.here.ssconf.nodes)
        if found in self.here.ssconf.offline_nodes:
            raise Unavailable(found, "is offline", f"gnt-node modify --offline=no {found}")
        closed = self.here.master.closed_nodes().get(found)
        if closed and found != self.instance.primary:
            raise Unavailable(found, f"{closed}, no instance is to come there", "choose another node")
        return found

    def _check_disks(self) -> None:
        home = f"{self.here.ssconf.storage_directory}/{self.name}"
        for number, disk in enumerate(self.instance.disks):
            if not disk.volume and (disk.template != "file" or os.path.dirname(disk.path) != home):
                kind = f"-t {disk.template}" if disk.template != "file" else f"in {os.path.dirname(disk.path)}"
                raise Refused(f"disk {number} of {self.name}", f"is {kind} and not ours", "gnt-instance move moves what Ganeti can copy")
        if not self.names:
            raise Refused(self.name, "has no disk", f"gnt-instance modify --new-primary=NODE {self.name} is enough")

    # what there is to do

    def anew(self) -> Move:
        """Return this move of the instance as it is now, with the same result to fill; it was planned before others were moved."""
        found = Move(self.here, self.name, self.target, self.options, self.say, self.meter)
        self.result.source, found.result = found.source, self.result
        return found

    def prepare(self) -> list[str]:
        """Return what will be done, in sentences; whatever forbids it is raised, and nothing is changed."""
        if self.source == self.target:
            return self._prepare_rest()
        source = self.here.call(self.source, "move-source", datasets=self.names)
        known = {name: facts for name, facts in source["datasets"].items() if facts is not None}
        self.stores |= {name: facts["datastore"] for name, facts in known.items()}
        target = self.here.call(self.target, "move-target", datasets=self.stores)
        self._remember([Leaving.parse(facts["move"]) for facts in known.values()])
        fate = {"running": self.ran and not self.owed, "owed": self.owed and self.options.start}
        offline = self.here.ssconf.offline_nodes
        self.plan = make_plan(self.name, self.instance.template, source, target, **fate, full=self.options.full, offline=offline)
        self.embedded = self.plan.embedded
        self._check_memory()
        return self.plan.sentences()

    def _check_memory(self) -> None:
        """An instance that is to run on the target finds the memory for it, as far as Ganeti knows now."""
        if not self.ran or not self.options.start or self.options.presync_only:
            return
        (needed,) = look("instance", self.name, ["be/maxmem"])
        (free,) = look("node", self.target, ["mfree"])  # both in MiB
        if isinstance(needed, int) and isinstance(free, int) and needed > free:
            way_out = "--no-start moves it all the same"
            raise NoSpace(f"memory of {self.target} for {self.name}", needed << 20, free << 20, way_out)

    def _remember(self, marks: Sequence[Leaving | None]) -> None:
        """An instance that a mover before has stopped is to run again."""
        self._owe(any(mark.ran for mark in marks if mark is not None and mark.phase != PRESYNC))

    def _owe(self, ran: bool) -> None:
        self.owed = not self.ran and ran
        self.ran = self.ran or self.owed

    def _prepare_rest(self) -> list[str]:
        """The primary is the target already: find who has sent it, and what is left to do."""
        found = self.here.call_all("move-source", datasets=self.names)
        must_know(found[self.target])
        self.rest = find_rest(found, self.target, self.here.ssconf.offline_nodes, self.names)
        if self.rest is None:
            lost = [node for node, facts in found.items() if isinstance(facts, ZfsGanetiError)]
            said = f"is on {self.target} already" + (f", as far as is known without {', '.join(lost)}" if lost else "")
            raise Refused(self.name, said)
        self.source = self.result.source = self.rest.source
        self.stores |= {name: one["datastore"] for name, one in self.rest.known.items()}
        self._owe(self.rest.ran)
        on = f"{self.name}: the move from {self.source} to {self.target} goes on, the primary is {self.target} already"
        told = [on + (f"; {self.source} is offline and not asked any more" if self.rest.lost else "")]
        if self.rest.lost:
            when = moment(self.rest.ready)
            told.append(f"{self.name}: what {self.target} has is as of {when}, what was written on {self.source} since is lost")
        if self.owed and self.options.start:  # whether it has been started since, and was stopped again, nobody knows
            told.append(f"{self.name}: {starts_again(self.target)}")
        return told

    # doing it

    def run(self) -> Result:
        """The instance is on the target, and runs there if it ran."""
        if self.rest is not None:
            self._finish(self.rest)
            return self.result
        self._begin(PRESYNC)
        self._presync()
        if self.options.presync_only:
            self.say(f"{self.name}: {self.target} has all but what is written from now on; gnt-zfs move {self.name} {self.target} goes on")
            return self.result
        self._switch()
        return self.result

    def _begin(self, phase: str) -> None:
        self.here.call(self.source, "move-begin", datasets=self.going, to=self.target, phase=phase, ran=self.ran)

    def _presync(self) -> None:
        passes = self.result.passes
        written = 0
        while go_on(passes, written, self.options.longest if self.ran else None) and (self.ran or not passes):
            one, written, _guids = self._pass()
            self.say(f"{self.name}: pass {len(passes)}: {human(one.moved)} in {one.seconds:.1f} s, {human(written)} written meanwhile")
        longest = self.options.longest
        if self.ran and longest is not None and not self.options.presync_only and downtime(passes, written) > longest:
            raise Refused(
                self.name,
                f"would be down for about {downtime(passes, written):.0f} s, longer than --max-downtime {longest:.0f}",
                "nothing was stopped, try when it writes less",
            )

    def _pass(self, *, last: bool = False) -> tuple[Pass, int, dict[str, str]]:
        """What the datasets hold now is on the target; return the pass, what was written since, and the GUIDs that the target has."""
        number = len(self.result.passes) + 1

        def hear(told: Mapping[str, Any]) -> None:
            if "moved" in told:
                self.meter(f"pass {number}", int(told["moved"]), max(int(told["total"]), self._expected(number)))

        said = self.here.listen(
            self.source,
            "move-send",
            hear,
            door=self.doors.pop("move-send", None),
            instance=self.name,
            datasets=self.going,
            target=self.target,
            limit=self.options.limit,
            full=self.options.full,
            embedded=self.embedded,
            known=self.known,
            last=last,
        )
        with understood(self.source):
            one, written = Pass(int(said["moved"]), float(said["seconds"])), int(said["written"])
            self.known = dict(said["guids"])
        self.result.passes.append(one)
        self.result.moved += one.moved
        return one, written, dict(self.known)

    def _expected(self, number: int) -> int:
        return self.plan.size if self.plan is not None and number == 1 else 0

    # the switch

    def _switch(self) -> None:
        with self._expecting((self.source, "move-send"), (self.source, "move-check"), (self.target, "move-land")):
            try:
                began = self._stop()
                guids = self._fence_and_send()
                self._to_target()
            except (Exception, KeyboardInterrupt) as error:
                self._go_back(error)
                raise
            with self._started_anyway():
                with self._landing():
                    self._make_sure(guids)
                    self._land(guids)
                self._start(began)
        self._give_up_source()

    @contextlib.contextmanager
    def _expecting(self, *asked: tuple[str, str]) -> Iterator[None]:
        """What nodes are asked first within is answered sooner: their doors are open, and ready unless that took too long."""
        with contextlib.ExitStack() as open_ones:
            for node, verb in asked:
                if (door := self.here.open(node, verb)) is not None:
                    self.doors[verb] = open_ones.enter_context(door)
            deadline = time.monotonic() + READY_SECONDS
            while time.monotonic() < deadline and not all(door.is_ready() for door in self.doors.values()):
                time.sleep(LOOK_SECONDS)
            try:
                yield
            finally:
                self.doors.clear()

    def _stop(self) -> float | None:
        """The instance is down, and its datasets say whether it is to run again; return when that began, None if it was down."""
        began = None
        if self._is_up():
            self.ran = True
            self._begin(STOPPING)
            began = time.monotonic()
            self.say(f"{self.name}: shutting down on {self.source}")
            gnt("shutdown", self.name)
        elif self.ran and not self.owed:
            self.say(f"{self.name}: was stopped by somebody else since, and stays so")
            self.ran = False
            self._begin(STOPPING)  # whatever an earlier mark says
        return began

    @contextlib.contextmanager
    def _started_anyway(self) -> Iterator[None]:
        """Whoever is interrupted once the primary is the target leaves an instance that runs if it ran: its start lets it land."""
        try:
            yield
        except (OSError, KeyboardInterrupt) as error:
            self._go_back(error)
            raise

    @contextlib.contextmanager
    def _landing(self) -> Iterator[None]:
        """Whatever keeps it from landing, its start, which lets it land as well, is tried, and it is said where the instance is."""
        try:
            yield
        except ZfsGanetiError as error:
            self._go_back(error)
            now = self.here.master.instances().get(self.name)
            state = "runs" if now is not None and now.admin_state == "up" else "is stopped"
            why, way_out = f"is on {self.target} now and {state} ({one_line(error)})", f"gnt-zfs move {self.name} {self.target} goes on"
            kinds = {Unavailable.exit_code: Unavailable, Busy.exit_code: Busy}
            raise kinds.get(error.exit_code, Refused)(self.name, why, way_out) from error

    def _patiently(self, node: str, verb: str, **request: Any) -> Any:
        """Ask a node, again and again for a while if it cannot be reached: the instance is down meanwhile."""
        deadline = time.monotonic() + LINK_SECONDS
        told = False
        while True:
            try:
                return self.here.call(node, verb, door=self.doors.pop(verb, None), **request)
            except Unavailable as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    self.say(f"{self.name}: {one_line(error)}: it is tried again for {LINK_SECONDS:.0f} s")
                told = True
            time.sleep(AGAIN_SECONDS)

    def _is_up(self) -> bool:
        instance = self.here.master.instances().get(self.name)
        if instance is None or instance.primary != self.source:
            raise Missing(f"instance {self.name} on {self.source}", "it was changed meanwhile, look again")
        if set(datasets_of(instance)) != set(self.names):
            raise Busy(self.name, "has got other disks since", "the same command looks again")
        return instance.admin_state == "up"

    def _fence_and_send(self) -> dict[str, str]:
        """Nobody can write on the source, and the target has all of it and says so; return the GUIDs."""
        _one, _written, guids = self._pass(last=True)
        return guids

    def _go_back(self, error: BaseException) -> None:
        """The instance runs again if it ran, on the node that is its primary once no job of Ganeti's can change that any more."""
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)
        way_out = f"gnt-zfs move --abort {self.name} goes back, the same command goes on"
        try:
            self.here.wait_for_jobs(self.name, self.say, submitted=isinstance(error, Unavailable | KeyboardInterrupt))
            now = self.here.master.instances().get(self.name)
            if now is None or now.primary not in (self.source, self.target):
                return
            back = now.primary == self.source
            way_out = way_out if back else "the same command goes on"
            owed = self.ran and now.admin_state != "up" and (back or self.options.start)
            if back:
                self.here.call(self.source, "move-lift", datasets=self.names, owed=owed)
            if owed:
                self.say(f"{self.name}: {why}: starting it {'again ' if back else ''}on {now.primary}")
                gnt("startup", self.name)
        except (ZfsGanetiError, OSError) as worse:
            self.say(f"{self.name}: {one_line(worse)}: {way_out}")

    def _to_target(self) -> None:
        """Ganeti has the target as primary."""
        self.say(f"{self.name}: the new primary is {self.target}")
        gnt("modify", self.name, pnode=self.target)

    def _make_sure(self, guids: dict[str, str]) -> None:
        """What the source holds is what was sent, or is sent again: the instance cannot start on the target before it has landed."""
        for _try in range(FENCES):
            broken = self._broken(guids)
            if not broken:
                return
            self.say(f"{self.name}: {broken}, sending that too")
            guids.update(self._fence_and_send())
        raise Busy(self.name, f"is written to again and again on {self.source}", "the same command goes on")

    def _broken(self, guids: Mapping[str, str]) -> str:
        said = self._patiently(self.source, "move-check", guids=dict(guids))
        with understood(self.source):
            return next((why for why in said.values() if why), "")

    def _land(self, guids: Mapping[str, str]) -> None:
        self._patiently(self.target, "move-land", instance=self.name, guids=dict(guids))

    def _start(self, began: float | None) -> None:
        """The instance runs on the target if it ran before, which is looked at and not believed."""
        if not self.ran or not self.options.start:
            self.say(f"{self.name}: is on {self.target}, stopped")
            return
        try:
            gnt("startup", self.name)
        except CommandFailed as error:
            self._refuse_more_disks()
            why = f"is on {self.target} and does not start ({error.reason})"
            first = "" if self.rest is None else f"gnt-zfs move --no-start {self.name} {self.target} ends the move, then "
            raise Refused(self.name, why, f"{first}gnt-instance startup {self.name}") from error
        ended = time.monotonic()
        state = _state(self.name)
        if state != ["running", self.target]:
            why = f"was started on {self.target} and does not run ({' '.join(state)})"
            raise Refused(self.name, why, f"gnt-instance console {self.name}")
        if began is not None:
            self.result.down = ended - began
            self.say(f"{self.name}: runs on {self.target}, it was down for {self.result.down:.1f} s")

    def _refuse_more_disks(self) -> None:
        """The instance has no disk that did not go along; Busy while the marks that the same command goes on by are there yet."""
        now = self.here.master.instances().get(self.name)
        if now is not None and set(datasets_of(now)) - set(self.names):
            way_out = f"gnt-zfs move {self.name} {self.target} goes on"
            raise Busy(self.name, f"is on {self.target} and has got other disks since", way_out)

    def _give_up_source(self) -> None:
        """What is left on the source is in its trash: only now, since the instance is where it should be."""
        self._refuse_more_disks()
        entries = self.here.call(self.source, "move-leave", datasets=self.names, keep=self.options.keep)
        gone = "until it is emptied" if self.options.keep else "for the days of the trash"
        for entry in entries:
            self.say(f"{self.name}: {entry} is kept on {self.source} {gone}")

    def _finish(self, rest: Rest) -> None:
        """A move whose mover was gone after the switch ends as if it had not been."""
        with self._started_anyway():
            with self._landing():
                if rest.unlanded:
                    self._land(rest.unlanded if rest.lost else self._sent_again(rest.unlanded))
            if _state(self.name)[:1] != ["running"]:
                self._start(None)
        if rest.lost:
            self.say(f"{self.name}: what is left of it on {self.source} stays there, gnt-zfs check tells of it once that is back")
        else:
            self._give_up_source()

    def _sent_again(self, unlanded: Mapping[str, str]) -> dict[str, str]:
        """What has not landed is what the source is fenced with, or is sent again; return its GUIDs."""
        guids = dict(unlanded)
        if self._broken(guids):
            facts = self.here.call(self.target, "move-target", datasets=self.stores)
            self.embedded = takes_embedded(facts)
            self.going = list(guids)
            self._begin(STOPPING)
            guids = self._fence_and_send()
            self._make_sure(guids)
        return guids


@contextlib.contextmanager
def understood(node: str) -> Iterator[None]:
    """What a node has answered is what is expected of it; Unavailable when it is not."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        why = f"gnt-zfs there answers in a way not known here ({one_line(error)})"
        raise Unavailable(node, why, SAME_VERSION) from error


def heedless(say: Say) -> Say:
    """Return what tells of a move and never ends it: a terminal that is gone leaves no instance half-way."""

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):
            say(text)

    return tell


def _state(instance: str) -> list[str]:
    """Return an instance's status and its primary, as Ganeti finds them now."""
    return [str(value) for value in look("instance", instance, ["status", "pnode"])]


def gnt(verb: str, instance: str, **more: object) -> None:
    """Ganeti has done what gnt-instance would have had it do, without the time that takes to start."""
    opcode = {"OP_ID": OPCODES[verb], "instance_name": instance, **more}
    perform(opcode, what=f"gnt-instance {verb} {instance}", seconds=GANETI_SECONDS)


def full_name(node: str, known: Sequence[str]) -> str:
    """Return a node's name in the cluster; what was typed may lack the domain."""
    found = [name for name in known if node in (name, name.split(".")[0])]
    if len(found) != 1:
        raise Missing(f"node {node}", meant(node, known, f"the cluster has {', '.join(known)}"))
    return found[0]


# many


def of_nodes(here: Here, nodes: Sequence[str]) -> list[ganeti.Instance]:
    """Return the instances of these nodes, by name."""
    return sorted((one for one in here.master.instances().values() if one.primary in nodes), key=lambda one: one.name)


def spread(
    here: Here, instances: Sequence[ganeti.Instance], targets: Sequence[str], leaving: Sequence[str], say: Say = lambda _text: None
) -> dict[str, str]:
    """Return a target for each instance, of those given or of all other nodes: where a move has begun, or the one with most room left.

    A node that does not answer gets none, which is said.
    """
    for node in targets:
        if node in leaving:
            raise BadInput(f"node {node}: is to be emptied and cannot take anything")
    closed = {*here.ssconf.offline_nodes, *here.master.closed_nodes()}
    room = _rooms(here, targets or [node for node in here.ssconf.nodes if node not in closed and node not in leaving], say)
    chosen = {}
    for instance in instances:
        known = _known(here, instance)
        target = choose_target(room, [facts["move"] for facts in known])
        chosen[instance.name] = target
        room[target] -= sum(facts["used"] for facts in known)
    return chosen


def _rooms(here: Here, nodes: Sequence[str], say: Say) -> dict[str, int]:
    """Return how much room each of these nodes has for instances; the last one's error when none can take any."""
    room, failed = dict[str, int](), list[ZfsGanetiError]()
    for node in nodes:
        try:
            facts = here.call(node, "move-target", datasets={"x": ""})
            must_know(facts)
        except ZfsGanetiError as error:
            failed.append(error)
            say(f"{node}: nothing is moved there ({one_line(error).removeprefix(f'{node}: ')})")
            continue
        room[node] = facts["stores"][""]["available"]
    if failed and not room:
        raise failed[-1]
    return room


def _known(here: Here, instance: ganeti.Instance) -> list[Mapping[str, Any]]:
    """Return what an instance's primary says of its datasets, nothing when it does not answer: the plan of its move says why."""
    if not (names := datasets_of(instance)):
        return []
    try:
        found = here.call(instance.primary, "move-source", datasets=names)["datasets"]
    except ZfsGanetiError:
        return []
    return [facts for facts in found.values() if facts is not None]
