"""The images of all nodes as variants of the OS definition zfs-image: a list on each node, which Ganeti wants to be the same everywhere.

The lists hold nothing that is not found again by asking the nodes for their images.
"""

from __future__ import annotations

import os
import time

from zfsganeti.errors import ZfsGanetiError
from zfsganeti.names import family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from zfsganeti.here import Here

LIST = "/var/lib/zfsganeti/variants.list"  # variants.list of the OS definition is a link to it
FRESH_SECONDS = 3600  # a node that was away when the list was written gets it after this time at the latest


def names_of(images: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names by which disks of these images can be asked for, with and without version; retired ones have none."""
    usable = [str(image["name"]) for image in images if not image["retired"]]
    return {*usable, *map(family, usable)}


def read() -> list[str] | None:
    """Return the variants as they were last written on this node, None when they never were."""
    try:
        with open(LIST, encoding="utf-8") as file:
            return file.read().split()
    except OSError:
        return None


def write(names: list[str]) -> bool:
    """This node's list holds these names; True when it did not before."""
    if read() == names:
        os.utime(LIST)
        return False
    os.makedirs(os.path.dirname(LIST), mode=0o755, exist_ok=True)
    partial = f"{LIST}.{os.getpid()}"
    with open(partial, "w", encoding="utf-8") as file:
        os.chmod(partial, 0o644)
        file.write("".join(f"{name}\n" for name in names))
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, LIST)
    return True


def publish(here: Here) -> list[str]:
    """Every node that answers lists the images of all; return what could not be done.

    While a node cannot be asked, what this node's list says may be there stays in it.
    """
    names, problems = set[str](), []
    for node, answer in here.call_all("images").items():
        if isinstance(answer, ZfsGanetiError):
            problems.append(f"{node} was not asked for its images: {answer}")
        else:
            names |= names_of(answer)
    if problems:
        names |= set(read() or ())
    for node, answer in here.call_all("write-variants", names=sorted(names)).items():
        if isinstance(answer, ZfsGanetiError):
            problems.append(f"{node} does not list the images for gnt-instance add: {answer}")
    return problems


def keep_published(here: Here) -> None:
    """The list is right again if this node can tell that it is not: it lacks an image, or is on the master and old."""
    listed = read()
    lacking = not names_of(here.call(here.node, "images")).issubset(listed or ())
    if lacking or (here.is_master() and _is_old()):
        publish(here)


def _is_old() -> bool:
    try:
        return os.stat(LIST).st_mtime + FRESH_SECONDS < time.time()
    except OSError:
        return True
