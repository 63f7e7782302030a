"""What a node does for itself: every five minutes, when the cluster is verified, and when it has got another name."""

from __future__ import annotations

import contextlib

from zfsganeti import ganeti
from zfsganeti.errors import BadInput, Refused, Unavailable, ZfsGanetiError, of_system, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from zfsganeti.here import Here


def follow_cluster(here: Here, environ: Mapping[str, str]) -> str:
    """Datasets of this cluster bear its new name as their mark; one of another cluster does not change. Return what could not be done."""
    old, new = ganeti.renamed_cluster(environ)
    problems: list[str] = []
    for place in here.places() if here.ssconf.storage_directory else ():
        with _told(problems):
            problems += _follow(place, old, new) if place.has_root() else []
    return "; ".join(problems)


def follow(here: Here, request: Mapping[str, Any]) -> None:
    """One root that was away when the cluster was renamed has followed it; Refused when it bears another name than it is said to."""
    from zfsganeti.datasets import CLUSTER

    old, datastore, new = request.get("old"), request.get("datastore", ""), here.ssconf.cluster
    if not isinstance(old, str) or not old or not isinstance(datastore, str):
        raise BadInput("request: old and datastore must be texts")
    place = here.at(datastore)
    root = place.zfs.get(place.root.name, marks=(CLUSTER,))
    mark = root.marks.get(CLUSTER, "") if root is not None else ""
    if mark == new:
        return  # it has, for the root is the last to do so
    if mark != old:
        raise Refused(f"root {place.root.name}", f"is marked as {mark or 'no cluster'}'s, not as {old}'s", "run the check again")
    problems = _follow(place, old, new)
    if problems:
        raise Unavailable(f"root {place.root.name}", "; ".join(problems), "run the check again")


def _follow(place: Here, old: str, new: str) -> list[str]:
    """What bears the old name below a root bears the new one, and then the root does; return why it does not.

    While the root bears the old one, `check` tells that this is to be done again.
    """
    from zfsganeti.datasets import CLUSTER

    problems: list[str] = []
    bearing = [found.name for found in place.zfs.datasets(place.root.name, marks=(CLUSTER,)) if found.marks.get(CLUSTER) == old]
    for name in sorted(bearing, key=lambda name: name == place.root.name):
        with _told(problems):
            if name != place.root.name or not problems:
                place.zfs.set(name, {CLUSTER: new})
    return problems


@contextlib.contextmanager
def _told(problems: list[str]) -> Iterator[None]:
    """What is done has succeeded, or why it has not is among the problems, and whatever comes next is done all the same."""
    try:
        yield
    except ZfsGanetiError as error:
        problems.append(one_line(error))
    except OSError as error:
        problems.append(one_line(of_system(error)))


def verify(here: Here) -> str:
    """Return what is wrong on this node in one line, '' on a healthy one."""
    import time

    from zfsganeti import check, placement

    if not here.ssconf.storage_directory or not _uses_us(here):
        return ""
    facts, (instances, detached) = check.report(here), _everything(here)
    found = check.compare_node(facts, instances, here.ssconf.instances, set(), time.time(), detached=detached)
    if instances is not None and not facts["root_problem"]:
        found += placement.compare({here.node: facts}, instances, set(), time.time(), detached=detached, everywhere=False)
    return "; ".join(f"{finding.subject}: {finding.text}" if finding.subject else finding.text for finding in found)


def _everything(here: Here) -> tuple[dict[str, ganeti.Instance] | None, set[str]]:
    """Return the cluster's instances, and the volumes of disks that are detached; None on a node that is no master candidate.

    There names are known, primaries are not.
    """
    try:
        return here.master.everything()
    except ZfsGanetiError:
        return None, set()


def _uses_us(here: Here) -> bool:
    try:
        return here.has_root()
    except ZfsGanetiError:
        return True  # it should have a root and has none that can be used


def watch(here: Here) -> str:
    """Datasets are mounted, interrupted operations finished, leftovers and expired trash gone; return what could not be done."""
    import time

    from zfsganeti import check, variants

    if not here.has_root():
        return ""
    facts = check.report(here)
    busy = _busy(here, facts)
    if busy is None:
        return ""
    problems: list[str] = []
    for finding in check.compare_node(facts, _everything(here)[0], here.ssconf.instances, busy, time.time()):
        if finding.verb in ("home", "sweep") or finding.sure:
            with _told(problems):
                here.call(here.node, finding.verb, **finding.request)
    for place in here.places():
        _tidy(place, problems)
    _detach(here, facts, problems)
    with _told(problems):
        variants.keep_published(here)
    return "; ".join(dict.fromkeys(problems))  # a datastore that is away is in the way of several


def _tidy(place: Here, problems: list[str]) -> None:
    """What has expired below one root is gone, of each kind by itself; what could not be done is among the problems."""
    import time

    from zfsganeti import arrival
    from zfsganeti.look import alone

    with _told(problems):
        problems += place.trash.give_up()[1]
    with _told(problems):
        place.store.forget_disks()
    with _told(problems):
        place.images.sweep()
    with _told(problems):
        arrival.release_expired(alone(place), time.time())


def _detach(here: Here, facts: Mapping[str, Any], problems: list[str]) -> None:
    """Clones that are to become independent are at it, in the background; a datastore that is away keeps no other's waiting."""
    wanted = bool(facts["copies"])
    for place in here.places():
        with _told(problems):
            wanted = wanted or bool(place.independent.wanted())
    if wanted:
        from zfsganeti.process import background

        with _told(problems):
            background("node", "detach-work")  # it may take longer than a hook has


def _busy(here: Here, facts: Mapping[str, Any]) -> set[str] | None:
    """Return the instances with a job running, as the master knows; None when it matters and the master cannot be asked."""
    if not any(dataset["intent"] or not dataset["files"] for dataset in facts["datasets"]):
        return set()
    try:
        return set(here.call(here.ssconf.master, "running"))
    except ZfsGanetiError:
        return None
