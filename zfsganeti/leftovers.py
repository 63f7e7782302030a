"""What moves that nobody has gone on with have left on a node (pure), and what of it can be cleared away."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from zfsganeti.check import Finding, is_busy
from zfsganeti.errors import human
from zfsganeti.route import FENCED, GUIDE, LEASE_SECONDS, LEFT, PRESYNC, Leaving, moment

FRESH_MINUTES = 10
ELSEWHERE = "leave-elsewhere"  # no verb: it may go into the trash once the primary has been heard to hold its own
DROP = "drop-elsewhere"  # no verb: it may be destroyed once its source has been heard to hold its own
# not for the peer: whose it is; where what is fenced, which may be all that is newest, must have lived since when; who has sent it;
# whether that may have it in the trash; and what is said while that has not been heard
OF, SINCE, SOURCE, REMOVED, UNHEARD = "of", "since", "source", "removed", "unheard"


def compare(
    facts: Mapping[str, Any],
    primaries: Mapping[str, str] | None,
    busy: set[str],
    now: float,
    of: Mapping[str, str] | None = None,
    *,
    detached: Collection[str] = (),
) -> list[Finding]:
    """Return what is left on one node of moves that are not at work; `primaries` is None where they are not known.

    `of` are the instances that datasets are of, where that is known: one may have another name since it was moved, or lack a disk.
    Of what is `detached`, whose it is to be nobody knows, only what was sent ahead is said, since that has no fence.
    """
    found, of = list[Finding](), of or {}
    for dataset in (*facts["datasets"], *facts.get("volumes", ())):
        leaving = Leaving.parse(dataset.get("move", ""))
        instance = of.get(dataset["name"], dataset["instance"] or dataset["name"])
        nobodys = dataset["name"] in detached and leaving is not None and leaving.phase != PRESYNC
        if (
            leaving is not None
            and not nobodys
            and dataset["ours"]
            and not is_busy(dataset["instance"], busy)
            and not is_busy(instance, busy)
        ):
            finding = _judge_leaving(facts, dataset["name"], instance, leaving, primaries, now)
            found += [finding] if finding is not None else []
    for coming in facts.get("moving", ()):
        instance = of.get(coming["name"], coming["instance"])
        if not is_busy(coming["instance"], busy) and not is_busy(instance, busy):
            found += _judge_coming(facts, {**coming, "instance": instance, "lacks": bool(of) and coming["name"] not in of}, primaries, now)
    return found


def is_fenced(dataset: Mapping[str, Any]) -> bool:
    """Tell whether a dataset of a report is where it should not be mounted, for a move has fenced it or given it up."""
    leaving = Leaving.parse(dataset.get("move", ""))
    return leaving is not None and leaving.phase != PRESYNC


def _is_fresh(until: int, facts: Mapping[str, Any], now: float) -> bool:
    """Tell whether a mark was made a few minutes ago; on the master, where it is known which moves are at work, none is.

    One that is dated later than that was made by a clock that was ahead.
    """
    fresh = min(FRESH_MINUTES, int(facts["leftover_minutes"]))
    return abs(now - (until - LEASE_SECONDS)) < 60 * fresh


def _judge_leaving(
    facts: Mapping[str, Any], name: str, instance: str, leaving: Leaving, primaries: Mapping[str, str] | None, now: float
) -> Finding | None:
    node, left = facts["node"], leaving.phase in (FENCED, LEFT)
    on = f"gnt-zfs move {instance} {leaving.to} goes on"
    primary = node if primaries is None else primaries.get(instance, "")
    request: dict[str, Any] = {"datasets": [name]}
    kept = {**request, "keep": True}  # also where the trash keeps nothing: somebody may find that it was the newest
    if not primary and leaving.phase != PRESYNC:
        text = f"was to move to {leaving.to} with {instance}, which is no instance any more"
        return Finding(node, name, text, "move-leave", kept) if left else Finding(node, name, text, "move-abort", request)
    if left and primary not in (node, leaving.to):
        text = f"was not put into the trash after the move of {instance} to {leaving.to}, which is on {primary} by now"
        since = {SINCE: [leaving.to, leaving.until - LEASE_SECONDS]} if leaving.fenced else {}
        return Finding(node, name, text, ELSEWHERE, {**kept, **since, OF: instance})
    if leaving.phase == LEFT or (left and primary != node):
        return Finding(node, name, f"was not put into the trash after the move of {instance} to {leaving.to}: {on}")
    if leaving.phase != PRESYNC and _is_fresh(leaving.until, facts, now):
        return None  # it is being moved this moment, perhaps
    if leaving.phase != PRESYNC:
        back = f"gnt-zfs move --abort {instance} or a start of it goes back"
        return Finding(node, name, f"{instance} was stopped for a move to {leaving.to} that has not ended: {on}, {back}")
    if leaving.until < now:
        text = f"a move of {instance} to {leaving.to} was begun and given up"
        return Finding(node, name, text, "move-abort", request, sure=True)
    return None


def _judge_coming(facts: Mapping[str, Any], coming: Mapping[str, Any], primaries: Mapping[str, str] | None, now: float) -> list[Finding]:
    node = facts["node"]
    name, instance = coming["name"], coming["instance"]
    if not coming["ours"]:
        return [Finding(node, name, f"{coming['dataset']} was not received by a move: rename or destroy it")]
    primary = primaries.get(instance, "") if primaries is not None else ""
    if coming["lacks"] and primary:
        return [_judge_lacking(node, coming, now)]
    if primary == node:
        if _is_fresh(coming["until"], facts, now):
            return []
        return [Finding(node, name, f"the move of {instance} to here has not ended: gnt-zfs move {instance} {node} goes on")]
    said = f"{coming['dataset']} holds {human(coming['used'])} of a move of {instance} from {coming['source']}"
    if coming["until"] < now and primary == coming["source"]:
        unheard = f"{primary} has not been heard to hold its own, so this may be all there is: {GUIDE} says how to make do with it"
        return [Finding(node, name, f"{said} that was given up", DROP, {"datasets": [name], SOURCE: primary, UNHEARD: unheard})]
    gone = primaries is not None and instance not in primaries
    if gone and not coming["ready"]:
        asked = {
            "datasets": [name],
            SOURCE: coming["source"],
            REMOVED: True,
            UNHEARD: f"zfs destroy -r {coming['dataset']} if nobody wants it",
        }
        return [Finding(node, name, f"{said}, which is no instance any more", DROP, asked)]
    if coming["until"] < now or gone:
        return [Finding(node, name, f"{said}: gnt-zfs move --abort {instance} gives it up")]
    return []


def _judge_lacking(node: str, coming: Mapping[str, Any], now: float) -> Finding:
    """Return what is said of what has come of a disk that its instance does not have any more."""
    name = coming["name"]
    text = f"{coming['dataset']} holds {human(coming['used'])} of a move of {coming['instance']}, of which it is no disk any more"
    held = f"it is held until {moment(coming['until'])}, then " if coming["until"] >= now else ""
    by_hand = f"{held}zfs destroy -r {coming['dataset']} if nobody wants it"
    if coming["ready"]:  # it may have all that there is
        return Finding(node, name, f"{text}: {by_hand}")
    return Finding(node, name, text, DROP, {"datasets": [name], SOURCE: coming["source"], REMOVED: True, UNHEARD: by_hand})


def drop(finding: Finding, held: Collection[str], lived: Mapping[tuple[str, str], float]) -> Finding:
    """Return the finding with a verb if the source of what has come has been heard to have at least that, else with what is said then.

    What is fenced on the source is there as well; a disk that was removed may be in its trash.
    """
    name, request = finding.subject, finding.request
    left = lived.get((request[SOURCE], name), 0.0)
    if name in held or left == math.inf or (left and request.get(REMOVED)):
        return Finding(finding.node, name, finding.text, "move-drop", {"datasets": request["datasets"]})
    return Finding(finding.node, name, f"{finding.text}: {request[UNHEARD]}")
