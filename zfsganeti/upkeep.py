"""What a node does for itself: every five minutes, when the cluster is verified, and when it has got another name."""

from __future__ import annotations

from zfsganeti import ganeti
from zfsganeti.errors import ZfsGanetiError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from zfsganeti.here import Here


def follow_cluster(here: Here, environ: Mapping[str, str]) -> str:
    """Datasets of this cluster bear its new name as their mark; one of another cluster does not change."""
    old, new = ganeti.renamed_cluster(environ)
    if here.ssconf.storage_directory and here.has_root():
        from zfsganeti.datasets import Store

        for place in here.places():
            Store(place.zfs, place.root, new, place.config).follow_cluster(old)
    return ""


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

    from zfsganeti import arrival, check, variants

    if not here.has_root():
        return ""
    facts = check.report(here)
    busy = _busy(here, facts)
    if busy is None:
        return ""
    problems = []
    for finding in check.compare_node(facts, _everything(here)[0], here.ssconf.instances, busy, time.time()):
        if finding.verb in ("home", "sweep") or finding.sure:
            try:
                here.call(here.node, finding.verb, **finding.request)
            except ZfsGanetiError as error:
                problems.append(one_line(error))
    for place in here.places():
        problems += place.trash.give_up()[1]
        place.store.forget_disks()
        place.images.sweep()
    arrival.release_expired(here, time.time())
    if facts["copies"] or any(place.independent.wanted() for place in here.places()):
        from zfsganeti.process import background

        background("node", "detach-work")  # it may take longer than a hook has
    variants.keep_published(here)
    return "; ".join(problems)


def _busy(here: Here, facts: Mapping[str, Any]) -> set[str] | None:
    """Return the instances with a job running, as the master knows; None when it matters and the master cannot be asked."""
    if not any(dataset["intent"] or not dataset["files"] for dataset in facts["datasets"]):
        return set()
    try:
        return set(here.call(here.ssconf.master, "running"))
    except ZfsGanetiError:
        return None
