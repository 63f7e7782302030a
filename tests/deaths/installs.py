"""A bench for instances that are added with an image, and what is done then."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from tests.deaths.images import GOLD, MIB, holding
from tests.deaths.operation import Operation
from tests.node import CLUSTER_NAME, Node
from zfsganeti import ganeti, hooks, osdefinition
from zfsganeti.errors import Unavailable
from zfsganeti.here import Here
from zfsganeti.images import Images
from zfsganeti.install import Installer
from zfsganeti.volumes import Volumes

NODE1, NODE2 = "node1.example.com", "node2.example.com"
FIRST, SECOND = "1.file.disk0", "2.file.disk1"
ADD = {
    "GANETI_HOOKS_VERSION": "2",
    "GANETI_HOOKS_PATH": "instance-add",
    "GANETI_HOOKS_PHASE": "pre",
    "GANETI_OP_CODE": "OP_INSTANCE_CREATE",
    "GANETI_CLUSTER": CLUSTER_NAME,
    "GANETI_MASTER": NODE1,
    "GANETI_ADD_MODE": "create",
    "GANETI_INSTANCE_NAME": "web1",
    "GANETI_INSTANCE_PRIMARY": NODE2,
    "GANETI_INSTANCE_DISK_TEMPLATE": "file",
    "GANETI_INSTANCE_OS_TYPE": "zfs-image+debian-12",
    "GANETI_INSTANCE_DISK_COUNT": "1",
    "GANETI_INSTANCE_DISK0_SIZE": "2",
}


class OneNode(Here):
    """node2 of a cluster whose master, node1, knows what was asked for."""

    def __init__(self, node: Node) -> None:
        super().__init__(dict)
        self.zfs, self.root, self.store, self.config = node.fake, node.root, node.store, node.config  # type: ignore[assignment]
        self.node, self.volumes = NODE2, Volumes(node.store, node.loop)
        Path(node.place, "ssconf_file_storage_dir").write_text(node.root.path, encoding="utf-8")
        self.ssconf = ganeti.Ssconf(node.place)
        self.known: dict[str, Any] = {}  # by this node's own copy of the job queue
        self.asked: dict[str, Any] | None = {}  # by the master; None when it does not answer
        self.questions = 0

    @property
    def master(self) -> Any:
        class Queue:
            running = staticmethod(lambda _operation, _instance: self.known)

        return Queue

    def call(self, peer: str, verb: str, **request: Any) -> Any:
        assert (peer, verb, request) == (NODE1, "asked", {"operation": "OP_INSTANCE_CREATE", "instance": "web1"})
        self.questions += 1
        if self.asked is None:
            raise Unavailable(peer, "does not answer")
        return self.asked


class Bench:
    """A node with two images, and what Ganeti does there when an instance is added."""

    def __init__(self, node: Node) -> None:
        self.node, self.here = node, OneNode(node)
        self.images, self.installer = Images(node.store), Installer(node.store)
        for name, content in (("debian-12:1", GOLD), ("debian-13", b"newer")):
            self.images.make(name, f"file:/{name}", holding(content))

    def hook(self, **environ: str) -> None:
        hooks._add_pre(self.here, ganeti.Event({**ADD, **environ}))

    def post(self) -> None:
        hooks._add_post(self.here, ganeti.Event({**ADD, "GANETI_HOOKS_PHASE": "post"}))

    def ganeti_creates(self, *disks: str, size: int = 2 * MIB) -> None:
        self.node.ganeti_writes("web1", **dict.fromkeys(disks or (FIRST,), b""))
        for disk in disks or (FIRST,):
            os.truncate(self.path(disk), size)
            os.chmod(self.path(disk), 0o700)

    def script(self, image: str = "debian-12", **environ: str) -> str:
        given = {"INSTANCE_NAME": "web1", "INSTANCE_OS": f"zfs-image+{image}", "DISK_COUNT": "1", "DISK_0_PATH": self.path(), **environ}
        return osdefinition.SCRIPTS["create"](self.here, given)

    def again(self, image: str = "debian-12") -> str:
        return self.script(image, INSTANCE_REINSTALL="1")

    def add(self) -> None:
        self.hook()
        self.ganeti_creates()
        self.script()

    def path(self, disk: str = FIRST) -> str:
        return f"{self.node.home('web1')}/{disk}"

    def files(self) -> dict[str, bytes]:
        return {name: content.rstrip(b"\0") for name, content in self.node.reads("web1").items()}

    def origin(self) -> str:
        dataset = self.node.store.find("web1")
        assert dataset is not None
        return dataset.origin

    def clones(self, name: str = "debian-12:1") -> list[str]:
        return self.images.must(name).clones


def hooked(bench: Bench) -> None:
    bench.hook()
    bench.ganeti_creates()


def empty(bench: Bench) -> None:
    bench.hook(GANETI_INSTANCE_OS_TYPE="noop")
    bench.ganeti_creates()


def whole_or_as_it_was(allowed: Collection[bytes], bench: Bench) -> None:
    if os.path.exists(bench.path()):
        assert Path(bench.path()).read_bytes().rstrip(b"\0") in allowed
        assert os.stat(bench.path()).st_size == 2 * MIB


def another_was_asked_for(bench: Bench) -> None:
    bench.hook(GANETI_INSTANCE_OS_TYPE="zfs-image+debian-13")


def _operation(before: Callable[[Bench], object], does: Callable[[Bench], object], *allowed: bytes) -> Operation:
    return Operation(before, does, Bench, sees=partial(whole_or_as_it_was, allowed))


OPERATIONS = {
    "install: hook": _operation(lambda _bench: None, lambda bench: bench.hook(), GOLD),
    "install: hook after another's": _operation(another_was_asked_for, lambda bench: bench.hook(), GOLD, b"newer"),
    "install: clone": _operation(hooked, lambda bench: bench.script(), GOLD, b""),
    "install: copy": _operation(empty, lambda bench: bench.script(), GOLD, b""),
    "install: again": _operation(lambda bench: bench.add(), lambda bench: bench.again("debian-13"), GOLD, b"newer"),
}
