"""Operations of the library that can be killed anywhere: what is before, what is done, and what two runs must have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.node import Node
from zfsganeti.datasets import INTENT
from zfsganeti.errors import Missing

RENAMES = [("disk0", "new0"), ("disk1", "new1")]
FILES = {"disk0": b"zero", "disk1": b"one"}
ENTRY = "web1:20231114T221320Z"
NOW = 1_700_000_000  # when that was


class Operation:
    """What is there before, what is done, and whether the last of it may find nothing left to do."""

    def __init__(self, before: Callable[[Node], object], does: Callable[[Node], object]) -> None:
        self.before, self.does = before, does


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


OPERATIONS = {
    "ensure": Operation(nothing, lambda node: node.store.admit("web1", [])),
    "admit": Operation(nothing, lambda node: node.store.admit("web1", [1 << 20])),
    "put_aside": Operation(instance, lambda node: node.put_aside("web1", "remove", {"name": "web1"})),
    "bring_home": Operation(aside, lambda node: node.store.bring_home("web1")),
    "bring_home with plain files": Operation(unmounted_with_plain_files, lambda node: node.store.bring_home("web1")),
    "bring_home after the links went": Operation(removed, lambda node: node.store.bring_home("web1")),
    "finish_rename": Operation(renamed, lambda node: node.store.finish_rename("web1", "web2")),
    "absorb": Operation(lambda node: node.ganeti_writes("web1", **FILES), lambda node: node.store.absorb("web1")),
    "sweep": Operation(empty, lambda node: node.store.sweep("web1")),
    "sweep what is aside": Operation(empty_aside, lambda node: node.store.sweep("web1")),
    "keep_disks": Operation(instance, lambda node: node.store.keep_disks("web1")),
    "put": Operation(removed, lambda node: node.trash.put("web1", {"name": "web1"})),
    "put from home": Operation(instance, lambda node: node.trash.put("web1", {"name": "web1"})),
    "put while linked": Operation(aside, lambda node: node.trash.put("web1")),
    "discard": Operation(removed, lambda node: node.trash.discard("web1")),
    "discard what is empty": Operation(empty_aside, lambda node: node.trash.discard("web1")),
    "destroy": Operation(in_trash, destroy),
    "mark_restoring": Operation(in_trash, lambda node: node.trash.mark_restoring(ENTRY, "web1")),
    "swap_in": Operation(added_for_restore, swap_in),
    "swap_in without an instance dataset": Operation(not_added_for_restore, swap_in),
}
DESTROYING = ("destroy",)  # after which no file is there that was there before


def comparable(node: Node) -> dict[str, Any]:
    """Return the node's state without what means nothing: the directory `.aside`, which stays, and what an entry in the trash intended."""
    state = node.whole_state()
    state["paths"] = [path for path in state["paths"] if path != ".aside"]
    for name, dataset in state["datasets"].items():
        if "/.trash/" in name:
            dataset["marks"] = {key: value for key, value in dataset["marks"].items() if key != INTENT}
        if dataset["properties"].get("canmount") == "on":
            del dataset["properties"]["canmount"]  # the default
    return state


def contents(node: Node) -> set[bytes]:
    """Return what any file on the node holds: in a dataset, a snapshot or a plain directory."""
    found: set[bytes] = set()
    for dataset in node.fake.state().values():
        found.update(dataset["files"].values())
        for files in dataset["snapshots"].values():
            found.update(files.values())
    for path in node.paths():
        whole = Path(node.root.path, path)
        if whole.is_file():
            found.add(whole.read_bytes())
    return found


# a boot mounts the dataset over plain files, with or without a hook that dies before
WITHOUT_BOOT = ("bring_home with plain files",)
CASES = [(name, boot) for name in OPERATIONS for boot in (False, True) if not (boot and name in WITHOUT_BOOT)]
