"""What is done with the datasets of instances and with the trash."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from tests.deaths.operation import Operation
from tests.node import Node
from zfsganeti.errors import Missing

RENAMES = [("disk0", "new0"), ("disk1", "new1")]
FILES = {"disk0": b"zero", "disk1": b"one"}
ENTRY = "web1:20231114T221320Z"


def nothing(node: Node) -> None:
    assert node.datasets() == []


def instance(node: Node) -> None:
    node.has("web1", **FILES)


def aside(node: Node) -> None:
    instance(node)
    node.put_aside("web1", "remove", {"name": "web1"})


def removed(node: Node) -> None:
    aside(node)
    node.ganeti_removes("web1")


def renamed(node: Node) -> None:
    instance(node)
    node.put_aside("web1", "rename web2")
    node.ganeti_renames("web1", "web2")


def in_trash(node: Node) -> None:
    removed(node)
    node.trash.discard("web1")


def added_for_restore(node: Node) -> None:
    in_trash(node)
    node.trash.mark_restoring(ENTRY, "web1")
    node.store.admit("web1", [1 << 20])
    node.ganeti_writes("web1", new0=b"", new1=b"")


def not_added_for_restore(node: Node) -> None:
    in_trash(node)
    node.trash.mark_restoring(ENTRY, "web1")


def swap_in(node: Node) -> None:
    with contextlib.suppress(Missing):  # it is out of the trash: the swap was complete
        node.trash.swap_in(ENTRY, "web1", RENAMES)


def unmounted_with_plain_files(node: Node) -> None:
    node.has("web1")
    node.fake.unmount(node.home("web1"))
    node.ganeti_writes("web1", **FILES)


def empty(node: Node) -> None:
    node.has("web1")


def empty_aside(node: Node) -> None:
    node.has("web1")
    node.put_aside("web1", "remove")
    node.ganeti_removes("web1")


def destroy(node: Node) -> None:
    with contextlib.suppress(Missing):
        node.trash.destroy(ENTRY)


def _operation(before: Callable[[Node], object], does: Callable[[Node], object], **how: Any) -> Operation:
    return Operation(before, does, lambda node: node, **how)


OPERATIONS = {
    "ensure": _operation(nothing, lambda node: node.store.admit("web1", [])),
    "admit": _operation(nothing, lambda node: node.store.admit("web1", [1 << 20])),
    "put_aside": _operation(instance, lambda node: node.put_aside("web1", "remove", {"name": "web1"})),
    "bring_home": _operation(aside, lambda node: node.store.bring_home("web1")),
    "bring_home with plain files": _operation(unmounted_with_plain_files, lambda node: node.store.bring_home("web1"), boots=False),
    "bring_home after the links went": _operation(removed, lambda node: node.store.bring_home("web1")),
    "finish_rename": _operation(renamed, lambda node: node.store.finish_rename("web1", "web2")),
    "absorb": _operation(lambda node: node.ganeti_writes("web1", **FILES), lambda node: node.store.absorb("web1")),
    "sweep": _operation(empty, lambda node: node.store.sweep("web1")),
    "sweep what is aside": _operation(empty_aside, lambda node: node.store.sweep("web1")),
    "keep_disks": _operation(instance, lambda node: node.store.keep_disks("web1")),
    "put": _operation(removed, lambda node: node.trash.put("web1", {"name": "web1"})),
    "put from home": _operation(instance, lambda node: node.trash.put("web1", {"name": "web1"})),
    "put while linked": _operation(aside, lambda node: node.trash.put("web1")),
    "discard": _operation(removed, lambda node: node.trash.discard("web1")),
    "discard what is empty": _operation(empty_aside, lambda node: node.trash.discard("web1")),
    "destroy": _operation(in_trash, destroy, destroys=True),
    "mark_restoring": _operation(in_trash, lambda node: node.trash.mark_restoring(ENTRY, "web1")),
    "swap_in": _operation(added_for_restore, swap_in),
    "swap_in without an instance dataset": _operation(not_added_for_restore, swap_in),
}
