"""This node as a whole: its settings, its name in the cluster, its store, and the peers it can ask."""

from __future__ import annotations

from functools import cached_property

from zfsganeti import config, ganeti, node
from zfsganeti.datasets import BACK, COPIES, OLD, Store
from zfsganeti.errors import Busy, Missing, Unavailable, ZfsGanetiError, of_system
from zfsganeti.process import COMMAND, EARLY
from zfsganeti.roots import Root, find_datastore, find_root
from zfsganeti.zfs import Zfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zfsganeti.images import Images
    from zfsganeti.independent import Independent
    from zfsganeti.node import Door
    from zfsganeti.streams import Streams
    from zfsganeti.trash import Trash
    from zfsganeti.volumes import Volumes

    Verb = Callable[["Here", dict[str, Any]], Any]


STREAMED = ("receive", "move-send")  # verbs with much data on their way
TALKING = ("move-send",)  # verbs that tell how far they are
ALIVE = ("-oServerAliveInterval=10", "-oServerAliveCountMax=6")  # a link that is cut is known after a minute
LISTEN_SECONDS = 60.0
JOB_SECONDS = 900.0  # as long as an operation of Ganeti's may take
LOOK_SECONDS = 1.0  # what was submitted before the first of two looks at the queue is in it at the second
OF_A_ROOT = ("root", "store", "trash", "volumes", "images", "independent")  # what another root has of its own


class Here:
    """This node; everything is looked up when first needed, so that a door pays only for what it uses."""

    def __init__(self, verbs: Callable[[], dict[str, Verb]]) -> None:
        self._verbs = verbs  # called when this node is to answer itself: most hooks never need them
        self.datastore = ""  # the name of one of the node's further roots
        self._others: dict[str, Here] = {}

    @cached_property
    def config(self) -> config.Config:
        return config.load()

    @cached_property
    def ssconf(self) -> ganeti.Ssconf:
        return ganeti.Ssconf()

    @cached_property
    def master(self) -> ganeti.Master:
        return ganeti.Master()

    @cached_property
    def node(self) -> str:
        return self.ssconf.this_node(node.hostname())

    @cached_property
    def zfs(self) -> Zfs:
        return Zfs()

    @cached_property
    def root(self) -> Root:
        if self.datastore:
            return find_datastore(self.zfs, self.datastore, self.config)
        return find_root(self.zfs, self.ssconf.storage_directory, self.config)

    @cached_property
    def store(self) -> Store:
        return Store(self.zfs, self.root, self.ssconf.cluster, self.config)

    @cached_property
    def trash(self) -> Trash:
        from zfsganeti.trash import Trash

        return Trash(self.store)

    @cached_property
    def volumes(self) -> Volumes:
        from zfsganeti.volumes import Volumes

        return Volumes(self.store)

    @cached_property
    def images(self) -> Images:
        from zfsganeti.images import Images

        return Images(self.store, self.streams)

    @cached_property
    def independent(self) -> Independent:
        from zfsganeti.independent import Independent

        return Independent(self.volumes, self.streams)

    @cached_property
    def streams(self) -> Streams:
        from zfsganeti.streams import Streams

        return Streams()

    # datastores

    def at(self, datastore: str) -> Here:
        """Return this node with another of its roots, '' being the first."""
        if datastore == self.datastore:
            return self
        if datastore not in self._others:
            place = object.__new__(type(self))
            place.__dict__.update({name: value for name, value in self.__dict__.items() if name not in OF_A_ROOT})
            place.datastore, place._others = datastore, {}
            self._others[datastore] = place
        return self._others[datastore]

    def places(self) -> list[Here]:
        """Return this node with each of its roots, the first one first; a datastore that is the first by another name is none."""
        others = [name for name, dataset in self.config.datastores.items() if dataset != self.config.root]
        return [self, *(self.at(name) for name in others)] if not self.datastore else [self]

    def place_of(self, name: str) -> Here:
        """Return this node with the root that has a dataset of that name or is about to have it back, with the first if none has.

        While one cannot be looked into, what is not found elsewhere may be there: Unavailable.
        """
        places, missed = self.places(), None
        if len(places) == 1:
            return self
        # by a rollback, or an exchange for an independent copy, that was cut between its two renames
        coming_back = [f"{BACK}/{name}", f"{COPIES}/{name}{OLD}"] if "/" not in name else []
        for place, each in [(place, each) for each in (name, *coming_back) for place in places]:
            try:
                if place.zfs.get(f"{place.root.name}/{each}") is not None:
                    return place
            except Unavailable as error:
                missed = error
        if missed is not None:
            raise missed
        return self

    def has_root(self) -> bool:
        """Tell whether this node stores anything with us; raises when it should but cannot now."""
        try:
            return bool(self.root)
        except Missing:
            return False

    # peers

    def call(self, peer: str, verb: str, *, seconds: float = 0, door: Door | None = None, **request: Any) -> Any:
        """Return a node's answer to one of our verbs, within `seconds` (default: peer_seconds); this node answers itself without ssh.

        Where its door is open already, which may have been for long, it is asked there.
        """
        if peer == self.node:
            try:
                return self._verbs()[verb](self, request)
            except OSError as error:
                raise of_system(error) from error  # as a peer says it: what failed here keeps nobody from going on elsewhere
        from zfsganeti.shapes import understood

        seconds = seconds or self.config.peer_seconds
        if door is not None and door.is_open():
            answer = door.ask(request, seconds=seconds)
        else:
            answer = node.ask(peer, self.door(peer, verb), request, seconds=seconds)
        return understood(peer, verb, answer)

    def open(self, peer: str, verb: str) -> Door | None:
        """Return a node's door for a verb that it is to be asked for soon; this node has none."""
        return node.Door(peer, [*self.door(peer, verb), EARLY], talks=verb in TALKING) if peer != self.node else None

    def door(self, peer: str, verb: str) -> list[str]:
        """Return the command that hands what it reads to one of a peer's verbs."""
        ssh, *words = self.ssconf.ssh(peer)
        streamed = ["-c", self.config.ssh_cipher, *ALIVE] if verb in STREAMED and self.config.ssh_cipher else list(ALIVE)
        return [ssh, *streamed, *words, COMMAND, "node", verb]

    def listen(self, peer: str, verb: str, hear: Callable[[dict[str, Any]], None], *, door: Door | None = None, **request: Any) -> Any:
        """Return a node's answer to a verb that tells how far it is; it ends when we do. Where its door is open, it is asked there."""
        if peer == self.node:
            from zfsganeti import departure

            return departure.TOLD[verb](self, request, hear)
        if door is not None and door.is_open():
            return door.listen(request, hear, seconds=LISTEN_SECONDS)
        return node.listen(peer, self.door(peer, verb), request, hear, seconds=LISTEN_SECONDS)

    def call_all(self, verb: str, nodes: list[str] | None = None, **request: Any) -> dict[str, Any]:
        """Return every online node's answer, or the exception it ended with, all asked at once."""
        from zfsganeti import threads

        _mistakes_are_ours = self.config  # and not what each peer answers

        def one(peer: str) -> Any:
            try:
                return self.call(peer, verb, **request)
            except ZfsGanetiError as error:
                return error

        asked = [peer for peer in (nodes or self.ssconf.nodes) if peer not in self.ssconf.offline_nodes]
        with threads.pool(16) as pool:
            return dict(zip(asked, pool.map(one, asked), strict=True))

    def answers(self, verb: str, **request: Any) -> dict[str, Any]:
        """Return every online node's answer; the first that failed is raised."""
        found = self.call_all(verb, **request)
        for answer in found.values():
            if isinstance(answer, ZfsGanetiError):
                raise answer
        return found

    def wait_for_jobs(self, instance: str, say: Callable[[str], None], *, seconds: float = JOB_SECONDS, submitted: bool = False) -> None:
        """No job on the instance runs or is yet to run, so that what the configuration says of it holds; Busy if that takes too long.

        Jobs go on without whoever has submitted them. One that was `submitted` this moment may not be in the queue yet.
        """
        import time

        deadline, said = time.monotonic() + seconds, False
        if submitted:
            time.sleep(LOOK_SECONDS)
        while self.master.is_pending(instance):
            if time.monotonic() > deadline:
                raise Busy(instance, "a job of Ganeti's works on it", "gnt-job list shows it; then the same command goes on")
            if not said:
                said = True
                say(f"{instance}: waiting for the job of Ganeti's that works on it")
            time.sleep(LOOK_SECONDS)

    def is_master(self) -> bool:
        return self.node == self.ssconf.master
