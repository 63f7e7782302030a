"""An operation that can be killed anywhere, and what two runs of it must have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakezfs import read_files
from tests.node import Node
from zfsganeti.datasets import INTENT

CONTAINERS = (
    ".aside",
    ".trash",
    ".images",
    ".images/.partial",
    ".copies",
    ".rollback",
    ".moving",
)  # which stay, and mean nothing when empty
DEFAULTS = (("canmount", "on"), ("refreservation", "0"))  # which nobody can inherit, so that they are set
GUID = re.compile(r"\b[0-9]{15,20}\b")  # of which each run on real ZFS has others
PAGE, SWAP = 4096, b"SWAPSPACE2"
SUPERBLOCK_END, EXT4 = 1082, b"\x53\xef"  # the magic number of ext2 to 4, at byte 56 of the superblock at 1024


def alone(_bench: Any, *, booted: bool) -> None:
    """There is nothing that a process leaves, with or without a boot."""


def never(_bench: Any) -> None:
    """Nothing is seen, whatever died, that must not be."""


@dataclass(frozen=True)
class Operation:
    """What is there before, what is done, on what bench, and what may be seen in between.

    `destroys` is one after which something is not there that was; `ignored` are marks of which two runs may have others; `boots` is
    False where a boot changes what is before, `places` where it does not matter whether a dataset is mounted at home, `lasts` where
    what is done outlasts a power cut only with what follows. What a bench knows that is no ZFS it can `leave` before its process
    dies, for the next one to `inherit`; it may tell by itself what two runs must have in common.
    """

    before: Callable[[Any], object]
    does: Callable[[Any], object]
    bench: Callable[[Node], Any]
    sees: Callable[[Any], object] = never
    destroys: bool = False
    ignored: tuple[str, ...] = ()
    boots: bool = True
    places: bool = True
    lasts: bool = True
    leave: Callable[[Any], object] = never
    inherit: Callable[..., object] = alone
    tells: Callable[[Any], dict[str, Any]] | None = None


def comparable(node: Node, *, ignored: Collection[str] = (), places: bool = True, booted: bool = False) -> dict[str, Any]:
    """Return the node's state without what means nothing: empty containers, defaults, zeros at an end, and what an entry intended."""
    state: dict[str, Any] = {
        "datasets": datasets(node.fake.state(), ignored),
        "paths": [path for path in node.paths() if path not in CONTAINERS and not means_nothing(node, path)],
    }
    if not places:
        homes = {dataset.mountpoint for dataset in node.fake.datasets(node.root.name.split("/")[0])}
        for dataset in state["datasets"].values():
            dataset["mounted"] = [path for path in dataset["mounted"] if path not in homes]
        state["paths"] = [path for path in state["paths"] if f"{node.root.path}/{path.split('/')[0]}" not in homes]
    else:
        state["seen"] = _sized(read_files(node.root.path))
    if not booted:  # which takes away devices, and attach brings them back
        state["devices"] = node.loop.sizes()
    return state


def means_nothing(node: Node, path: str) -> bool:
    """Tell whether a path is an empty directory aside, where the next one to look into a dataset mounts it: removing it may have failed."""
    whole = Path(node.root.path, path)
    return path.startswith(".aside/") and whole.is_dir() and not whole.is_mount() and not os.listdir(whole)


def without(state: dict[str, Any], node: Node, directory: str) -> dict[str, Any]:
    """Return a state without a directory that could not be removed, if it is empty: nobody has to try again."""
    empty = directory and os.path.isdir(directory) and not os.path.ismount(directory) and not os.listdir(directory)
    left = os.path.relpath(directory, node.root.path) if empty else ""
    return {**state, "paths": [path for path in state["paths"] if path != left]} if "paths" in state else state


def datasets(state: dict[str, Any], ignored: Collection[str] = ()) -> dict[str, Any]:
    """Return of all datasets what two runs have in common."""
    found = {}
    for name, dataset in state.items():
        if name.endswith(CONTAINERS) and not dataset["files"] and not dataset["snapshots"]:
            continue
        kept = {key: GUID.sub("GUID", value) for key, value in dataset["marks"].items() if key not in ignored}
        if "/.trash/" in name:
            kept.pop(INTENT, None)
        properties = {key: value for key, value in dataset["properties"].items() if (key, value) not in DEFAULTS}
        found[name] = {
            "properties": properties,
            "marks": kept,
            "snapshots": {short: _sized(files) for short, files in dataset["snapshots"].items()},
            "kept": dataset["kept"],
            "origin": dataset["origin"],
            "files": _sized(dataset["files"]),
            "mounted": dataset["mounted"],
        }
    return found


def _sized(files: dict[str, bytes]) -> dict[str, tuple[int, bytes]]:
    """Return how long files are, and what they hold."""
    return {name: (len(files[name]), content) for name, content in _contents(files).items()}


def _contents(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return what files hold up to the zeros at their end; of what has a UUID and times of its own, swap or ext4, that it is one."""
    return {name: _is_made(content) or content.rstrip(b"\0") for name, content in files.items()}


def _is_made(content: bytes) -> bytes:
    """Return what a disk was formatted as, nothing if it was not."""
    for magic, end in ((SWAP, PAGE), (EXT4, SUPERBLOCK_END)):
        if content[end - len(magic) : end] == magic:
            return magic
    return b""


def contents(node: Node) -> set[bytes]:
    """Return what any file on the node holds that is not empty: in a dataset, a snapshot or a plain directory."""
    found: set[bytes] = set()
    for dataset in node.fake.state().values():
        for files in (dataset["files"], *dataset["snapshots"].values()):
            found.update(_contents(files).values())
    for path in node.paths():
        whole = Path(node.root.path, path)
        if whole.is_file():
            found.update(_contents({"": whole.read_bytes()}).values())
    return found - {b""}
