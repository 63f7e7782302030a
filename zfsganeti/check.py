"""What is wrong: the facts of each node against the cluster's configuration, and what can be done about it."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from zfsganeti import __version__, ganeti
from zfsganeti.datasets import ASIDE, CLUSTER, INSTANCE, INTENT, MOVE, VOLUME, parse_intent
from zfsganeti.errors import BadInput, Missing, ZfsGanetiError, human, one_line
from zfsganeti.files import plain_files
from zfsganeti.here import Here
from zfsganeti.look import Look, alone
from zfsganeti.route import into_trash

HIDDEN = "."
FILES_REPORTED = 100  # Ganeti's limit is 16 disks an instance


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong on a node, in a sentence, and the verb that puts it right where that is safe."""

    node: str
    subject: str
    text: str
    verb: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    sure: bool = False  # the dataset itself says what was begun: the watcher ends it without being asked

    @property
    def repairable(self) -> bool:
        return bool(self.verb)

    def as_json(self) -> dict[str, Any]:
        return {"node": self.node, "subject": self.subject, "problem": self.text, "repairable": self.repairable}


# the facts of one node


def report(here: Here) -> dict[str, Any]:
    """Return the facts of this node as JSON can carry them."""
    facts: dict[str, Any] = {
        "node": here.node,
        "version": __version__,
        "directory": here.ssconf.storage_directory,
        "root": "",
        "root_problem": "",
        "rootless": False,  # nothing was ever stored here by us
        "paths": here.ssconf.storage_directory in _lines(ganeti.STORAGE_PATHS),
        "logs": os.path.isdir(ganeti.EXTSTORAGE_LOGS),
        "hooks_missing": _missing_hooks(),
        "datasets": [],
        "plain": [],
        "volumes": [],
        "stray": [],
        "trash": [],
        "copies": [],
        "readonly": False,
        "moving": [],
        "rollbacks": [],
        "pool": None,
        "pools": [],  # of datastores
        "problems": [],  # of datastores that cannot be looked into: nothing follows from what is not found then
        "marked": [],  # roots that bear another cluster's name
        "patch_problem": patch_problem(bool(here.config.patch)),
        "days": here.config.trash_days,
        "warn_free": here.config.warn_free,
        "leftover_minutes": here.config.leftover_minutes,
    }
    try:
        facts["root"] = here.root.name
        facts["readonly"] = bool(os.statvfs(here.root.path).f_flag & os.ST_RDONLY)
        facts["pool"] = _pool(here)
        _tell(here, facts)
    except ZfsGanetiError as error:
        facts["root_problem"] = one_line(error)
        facts["rootless"] = isinstance(error, Missing)
    return facts


def _tell(here: Here, facts: dict[str, Any]) -> None:
    """What the roots hold is in the facts, and a problem for each datastore that cannot be looked into; a first root so raises."""
    from zfsganeti import placement

    looks = _looks(here, facts["problems"])
    facts.update(placement.report([look for _place, look in looks]))  # at once: what is attached meanwhile would be a stray device
    facts["datasets"] = _datasets(looks[0][1])
    facts["plain"] = _plain_directories(here)
    for place, look in looks:
        try:
            found = _held_at(place, look)
        except ZfsGanetiError as error:
            if not place.datastore:
                raise
            facts["problems"].append(one_line(error))
            continue
        for key, more in found.items():
            facts[key] += more
    facts["copies"].sort()
    facts["rollbacks"] = list({each["instance"]: each for each in facts["rollbacks"]}.values())  # its disks may be in several
    if facts["problems"]:
        facts["stray"] = []  # the volume of a device that is used may be where nobody can look


def _looks(here: Here, problems: list[str]) -> list[tuple[Here, Look]]:
    """Return this node with each of its roots that can be looked into, the first one in any case, and that look."""
    found = []
    for place in here.places():
        try:
            look = Look(place.store)
            _asked_now = look.datasets, look.snapshots
        except ZfsGanetiError as error:
            if not place.datastore:
                raise
            problems.append(one_line(error))
        else:
            found.append((place, look))
    return found


def _held_at(place: Here, look: Look) -> dict[str, list[Any]]:
    """Return what is below one root besides datasets of instances and volumes."""
    from zfsganeti import arrival, rollback_plan

    until = place.trash.until()
    trash = [
        entry.as_json(place.config.trash_days, until) | {"restoring": entry.restoring, "datastore": place.datastore}
        for entry in place.trash.entries()
    ]
    return {
        "trash": trash,
        "copies": list(place.independent.begun()),
        "moving": arrival.report(alone(place)),
        "rollbacks": rollback_plan.unfinished(place, [look]),
        "pools": [_pool(place)] if place.datastore else [],
        "marked": _marked(place, look),
    }


def _marked(place: Here, look: Look) -> list[dict[str, str]]:
    """Return what is to be known of a root that bears another cluster's name, nothing of one that bears this one's or none."""
    new = place.ssconf.cluster
    old = next((dataset.marks.get(CLUSTER, "") for dataset in look.datasets if dataset.name == place.root.name), "")
    return [{"dataset": place.root.name, "datastore": place.datastore, "old": old, "new": new}] if old not in ("", new) else []


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file]
    except OSError:
        return []


def _missing_hooks() -> list[str]:
    from zfsganeti.links import LINKS

    return [link for link in LINKS if not os.access(f"{ganeti.HOOKS_DIR}/{link}", os.X_OK)]


def patch_problem(enabled: bool) -> str:
    """Return what is wrong with the optional patch: '' when it was never applied nor enabled, or is in place."""
    from zfsganeti import patch

    try:
        return patch.lost(enabled=enabled)
    except ZfsGanetiError as error:
        return one_line(error)


def _pool(here: Here) -> dict[str, Any]:
    pool = here.zfs.pool(here.root.name)
    return {"name": pool.name, "health": pool.health, "size": pool.size, "free": pool.free}


def _datasets(look: Look) -> list[dict[str, Any]]:
    store = look.store
    found = []
    for dataset in look.datasets:
        if dataset.name == store.root.name or dataset.short.startswith(HIDDEN) or VOLUME in dataset.marks:
            continue
        home, aside = f"{store.root.path}/{dataset.short}", f"{store.root.path}/{ASIDE}/{dataset.short}"
        at = next((path for path in (home, aside) if look.mounted.get(path) == dataset.name), "")
        found.append(
            {
                "name": dataset.short,
                "dataset": dataset.name,
                "ours": store.is_ours(dataset),
                "instance": dataset.marks.get(INSTANCE, ""),
                "home": at == home,
                "aside": at == aside,
                "intent": dataset.marks.get(INTENT, ""),
                "move": dataset.marks.get(MOVE, ""),
                "used": dataset.used,
                "referenced": dataset.referenced,
                "created": dataset.creation,
                "snapshots": look.snapshots.get(dataset.name, 0),
                "files": store.contents(dataset, at)[:FILES_REPORTED] if at else None,
            }
        )
    return found


def _plain_directories(here: Here) -> list[str]:
    """Directories of the root itself with files that look like disks: they belong into a dataset."""
    mounted = {mount.path for mount in here.zfs.mounts()}  # now: what was mounted since looks like one
    paths = (
        entry.path for entry in os.scandir(here.root.path) if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(HIDDEN)
    )
    return sorted(os.path.basename(path) for path in paths if path not in mounted and plain_files(path))


# the comparison


def compare_node(
    facts: Mapping[str, Any],
    instances: Mapping[str, ganeti.Instance] | None,
    names: list[str],
    busy: set[str],
    now: float,
    *,
    detached: Collection[str] = (),
) -> list[Finding]:
    """Return what is wrong on one node; `instances` may be None where only their `names` are known, `busy` have a job running.

    `detached` are volumes that no instance has now and that Ganeti can attach again.
    """
    from zfsganeti import leftovers
    from zfsganeti.disks import datasets_of

    node = facts["node"]
    found = [Finding(node, "", text) for text in node_problems(facts)]
    found += [_judge_mark(node, root) for root in facts.get("marked", ())]
    primaries = None if instances is None else {instance.name: instance.primary for instance in instances.values()}
    of = {name: instance.name for instance in (instances or {}).values() for name in datasets_of(instance)}
    found += leftovers.compare(facts, primaries, busy, now, of, detached=detached)
    lacking = _without_dataset(facts, instances or {})
    back = facts.get("rollbacks", ())
    found += [_judge_rollback(node, each) for each in back]
    for dataset in facts["datasets"]:
        if leftovers.is_fenced(dataset) or dataset["instance"] in {each["instance"] for each in back}:
            continue
        if dataset["ours"]:
            finding = _judge(node, dataset, instances, names, busy, now - 60 * facts["leftover_minutes"], lacking)
        else:
            finding = _judge_foreign(node, dataset, lacking)
        if finding is not None:
            found.append(finding)
    found += [
        Finding(node, name, "its independent copy was to take its place, and that was not finished", "detach-finish", {})
        for name in facts.get("copies", ())
        if name in lacking
    ]
    mended = {finding.subject for finding in found if finding.verb in ("finish-rename", "claim", "detach-finish", "rollback-finish")}
    mended |= {coming["name"] for coming in facts.get("moving", ())}  # said of the move
    found += [finding for finding in _judge_lacking(facts, lacking) if finding.subject not in mended and not is_busy(finding.subject, busy)]
    return found + _overdue(facts, now)


def _judge_mark(node: str, root: Mapping[str, str]) -> Finding:
    """The node was away when the cluster was renamed, or the pool is another cluster's: a person knows, so it is not sure."""
    dataset, old, new = root["dataset"], root["old"], root["new"]
    renamed = f"if this cluster was called so, a repair makes what bears that name there, also in the trash and of images, {new}'s"
    other = f"if the pool came from another cluster, zfs set {CLUSTER}={new} {dataset} leaves the rest as it is"
    text = f"is marked as cluster {old}'s: {renamed}; {other}"
    return Finding(node, dataset, text, "follow-cluster", {"old": old, "datastore": root["datastore"]})


def _judge_rollback(node: str, each: Mapping[str, Any]) -> Finding:
    """Its datasets say how far it is, and it waits for whoever is at work on it: finishing it is always safe."""
    request = {"instance": each["instance"], "datasets": each["datasets"]}
    return Finding(node, each["instance"], f"its rollback to {each['snapshot']} was not finished", "rollback-finish", request, sure=True)


def node_problems(facts: Mapping[str, Any]) -> list[str]:
    if facts["root_problem"]:
        return [facts["root_problem"], *facts.get("problems", ())]
    problems = list(facts.get("problems", ()))
    for pool in {pool["name"]: pool for pool in (*facts.get("pools", ()), facts["pool"])}.values():
        if pool["health"] != "ONLINE":
            problems.append(f"pool {pool['name']} is {pool['health']}: zpool status {pool['name']}")
        if pool["size"] and pool["free"] * 100 < pool["size"] * facts["warn_free"]:
            problems.append(
                f"pool {pool['name']} has {human(pool['free'])} of {human(pool['size'])} free: add disks or gnt-zfs trash empty"
            )
    if facts.get("readonly"):
        problems.append(f"root {facts['root']} is read-only: zfs get -r readonly {facts['root']}, or its pool was imported so")
    if not facts["paths"]:
        problems.append(f"{facts['directory']} is not in {ganeti.STORAGE_PATHS}: gnt-zfs setup")
    if not facts["logs"]:
        problems.append(f"{ganeti.EXTSTORAGE_LOGS} is missing: gnt-zfs setup")
    if facts["hooks_missing"]:
        problems.append(f"{len(facts['hooks_missing'])} hooks are not linked, such as {facts['hooks_missing'][0]}: reinstall zfsganeti")
    if facts["patch_problem"]:
        problems.append(facts["patch_problem"])
    return problems


def _overdue(facts: Mapping[str, Any], now: float) -> list[Finding]:
    """What the watcher should have given up a day ago and could not, since others' snapshots or clones keep it."""
    return [
        Finding(facts["node"], entry["entry"], "expired in the trash and could not be destroyed: gnt-zfs trash empty --expired says why")
        for entry in facts["trash"]
        if entry["expires"] + 86400 < now and not entry["restoring"] and not entry.get("kept")
    ]


def _judge(
    node: str,
    dataset: Mapping[str, Any],
    instances: Mapping[str, ganeti.Instance] | None,
    names: list[str],
    busy: set[str],
    old_enough: float,
    lacking: Mapping[str, list[str]],
) -> Finding | None:
    name, claimed = dataset["name"], dataset["instance"]
    if is_busy(claimed, busy) or is_busy(name, busy):
        return None
    rename = _interrupted_rename(node, dataset, names) or _unheard_rename(node, dataset, names, lacking)
    if rename is not None:
        return rename
    if name != claimed:
        return Finding(
            node, name, f"dataset {dataset['dataset']} says it belongs to {claimed}: rename it to {claimed} or correct {INSTANCE}"
        )
    if name not in names:
        return _without_instance(node, dataset, old_enough, lacking)
    instance = instances.get(name) if instances is not None else None
    if instances is not None and instance is None:
        return None  # added or removed this moment: the sources disagree
    if instance is not None and instance.primary != node:
        return _elsewhere(node, dataset, instance, old_enough)
    if dataset["home"] and not dataset["intent"]:
        return None
    said = f"was put aside ({dataset['intent'].split(' ')[0]} was not finished)" if dataset["aside"] else "is not mounted"
    if dataset["home"]:  # a boot has mounted it in the middle of an operation
        said = f"bears the mark of an operation that was not finished ({dataset['intent'].split(' ')[0]})"
    return Finding(node, name, f"dataset {dataset['dataset']} {said}", "home", {"instance": name, "intent": dataset["intent"]})


def _interrupted_rename(node: str, dataset: Mapping[str, Any], names: list[str]) -> Finding | None:
    """A dataset whose rename stopped half-way: Ganeti's configuration says which name holds."""
    try:
        verb, new, _when = parse_intent(dataset["intent"]) if dataset["intent"] else ("", "", 0)
    except BadInput:
        verb, new = "", ""
    old = dataset["instance"]
    if verb != "rename" or new not in names or old in names:
        return None
    return Finding(node, new, f"the rename from {old} was not finished", "finish-rename", {"old": old, "new": new}, sure=True)


def _unheard_rename(node: str, dataset: Mapping[str, Any], names: list[str], lacking: Mapping[str, list[str]]) -> Finding | None:
    """A dataset without an instance that holds every disk of an instance without a dataset: renamed while no hook was heard."""
    old, files = dataset["instance"], set(dataset["files"] or [])
    new = next((name for name, disks in lacking.items() if files.issuperset(disks)), "")
    if not new or old in names:
        return None
    return Finding(node, new, f"its disks are in {dataset['dataset']}: it was {old} before", "finish-rename", {"old": old, "new": new})


def _judge_foreign(node: str, dataset: Mapping[str, Any], lacking: Mapping[str, list[str]]) -> Finding | None:
    """A dataset that is not ours where an instance's disks are: made by hand, by other hooks, or under the cluster's old name."""
    name = dataset["name"]
    disks = lacking.get(name)
    if disks is None or not dataset["home"] or not set(disks).issubset(dataset["files"] or []):
        return None
    return Finding(
        node, name, f"dataset {dataset['dataset']} holds its disks and is not marked as ours", "claim", {"instance": name, "files": disks}
    )


def _without_instance(node: str, dataset: Mapping[str, Any], old_enough: float, lacking: Mapping[str, list[str]]) -> Finding | None:
    name = dataset["name"]
    removed = dataset["intent"].startswith("remove ")
    if dataset["files"] is None and lacking and not removed:
        said = f"dataset {dataset['dataset']} has no instance and is not mounted: mount it to see whose disks it holds"
        return Finding(node, name, said, "home", {"instance": name, "intent": dataset["intent"]})
    if dataset["files"] == [] and not dataset["snapshots"]:
        if dataset["created"] > old_enough:
            return None  # it may belong to an instance that is being added this moment
        return Finding(node, name, f"empty leftover {dataset['dataset']} without an instance", "sweep", {"instance": name})
    said = "was not put into the trash after its removal" if removed else f"holds {human(dataset['referenced'])} and has no instance"
    return Finding(node, name, f"dataset {dataset['dataset']} {said}", "discard", {"instance": name}, sure=removed)


def is_busy(name: str, busy: set[str]) -> bool:
    """Tell whether a job works on an instance; `busy` are names as typed, which may lack the domain."""
    return any(name == typed or name.startswith(f"{typed}.") for typed in busy)


def _elsewhere(node: str, dataset: Mapping[str, Any], instance: ganeti.Instance, old_enough: float) -> Finding | None:
    name = dataset["name"]
    if dataset["files"] == [] and not dataset["snapshots"]:
        if dataset["created"] > old_enough:
            return None  # a move that is under way makes it before it copies
        return Finding(
            node, name, f"empty leftover {dataset['dataset']}, the instance is on {instance.primary}", "sweep", {"instance": name}
        )
    return Finding(
        node,
        name,
        f"dataset {dataset['dataset']} holds {human(dataset['referenced'])}, but the instance is on {instance.primary}",
        "discard-elsewhere",
        {"instance": name},
    )


def _without_dataset(facts: Mapping[str, Any], instances: Mapping[str, ganeti.Instance]) -> dict[str, list[str]]:
    """Return the instances of this node that should have a dataset of ours and have none, each with the names of its disk files."""
    if facts["root_problem"]:
        return {}
    ours = [dataset for dataset in facts["datasets"] if dataset["ours"]]
    known = {dataset["name"] for dataset in ours} | {dataset["instance"] for dataset in ours}
    lacking = {}
    for instance in instances.values():
        home, made = f"{facts['directory']}/{instance.name}", [disk for disk in instance.disks if not disk.forthcoming]
        files = [disk.path.rsplit("/", 1)[1] for disk in made if disk.template == "file" and os.path.dirname(disk.path) == home]
        if files and instance.primary == facts["node"] and instance.name not in known:
            lacking[instance.name] = files
    return lacking


def _judge_lacking(facts: Mapping[str, Any], lacking: Mapping[str, list[str]]) -> list[Finding]:
    node, found = facts["node"], []
    for name in lacking:
        if name in facts["plain"]:
            request = {"instance": name, "unlimited": True}
            found.append(Finding(node, name, "its disks are in a plain directory, not in a dataset", "absorb", request))
        else:
            found.append(Finding(node, name, f"has no dataset on {node}: gnt-zfs trash list may have it"))
    return found


def sees_all(facts: Mapping[str, Any]) -> bool:
    """Tell whether what a node has not told of is not there: all of its roots were looked into, or it never had one."""
    return bool(facts["rootless"]) or not (facts["root_problem"] or facts.get("problems"))


def held(reports: Mapping[str, Any], instances: Mapping[str, ganeti.Instance]) -> set[str]:
    """Return the instances whose primary has said that a mounted dataset of ours holds their files, and the volumes that it has.

    While one of its datastores cannot be looked into, a volume that it has may not be the one that its instance uses.
    """
    from zfsganeti import leftovers

    found = set()
    at = {disk.volume: instance.primary for instance in instances.values() for disk in instance.disks if disk.volume}
    for node, facts in reports.items():
        datasets = facts["datasets"] if isinstance(facts, dict) else []
        names = {dataset["name"] for dataset in datasets if dataset["ours"] and dataset["files"]}
        found |= {name for name in names if name in instances and instances[name].primary == node}
        volumes = facts.get("volumes", ()) if isinstance(facts, dict) and not facts.get("problems") else ()
        whole = {volume["name"] for volume in volumes if volume["ours"] and not leftovers.is_fenced(volume)}
        found |= {name for name in whole if at.get(name) == node}
    return found


AFTER_HEARING = {  # the verbs of repairs that wait for the primary's word
    "discard-elsewhere": "discard",
    "leave-elsewhere": "move-leave",
    "drop-elsewhere": "move-drop",
}


def lived(reports: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Return until when each dataset has lived on each node that it has left since, as far as that knows; what waits there has not."""
    from zfsganeti import leftovers

    found: dict[tuple[str, str], float] = {}
    for node, facts in reports.items():
        if not isinstance(facts, dict) or facts["root_problem"] or facts.get("problems"):
            continue  # what it cannot look into may be waiting there
        waiting = {coming["name"] for coming in facts.get("moving", ())}
        left = {each["name"]: math.inf for each in (*facts["datasets"], *facts.get("volumes", ())) if leftovers.is_fenced(each)}
        for entry in facts["trash"]:
            name = entry["volume"] or entry["instance"]
            left[name] = max(entry["removed"], left.get(name, 0.0))
        found |= {(node, name): when for name, when in left.items() if name not in waiting}
    return found


def keep_safe(findings: list[Finding], held: set[str], lived: Mapping[tuple[str, str], float] | None = None) -> list[Finding]:
    """Return the findings without repairs that could take away an instance's only data.

    A dataset on the wrong node may go to the trash only when the primary has been heard to hold its own; what is fenced, only when it
    has `lived` since on the node that it was fenced for. Before that, what the primary holds may as well be older.
    """
    lacking = {finding.subject for finding in findings if "has no dataset" in finding.text}
    return [_kept_safe(finding, held, lacking, lived or {}) if finding.verb in AFTER_HEARING else finding for finding in findings]


def _kept_safe(finding: Finding, held: set[str], lacking: set[str], lived: Mapping[tuple[str, str], float]) -> Finding:
    from zfsganeti.leftovers import DROP, OF, SINCE, drop

    if finding.verb == DROP:
        return drop(finding, held, lived)
    to, since = finding.request.get(SINCE, ("", 0.0))
    if finding.subject in held and to and lived.get((to, finding.subject), 0.0) < since:
        command = into_trash(str(finding.request[OF]), [finding.subject])
        why = f"may be the newest, nothing on {to} tells that it has lived there: compare both, on {finding.node} {command} gives it up"
        return Finding(finding.node, finding.subject, f"{finding.text}: {why}")
    if finding.subject in held:
        request = {key: value for key, value in finding.request.items() if key not in (OF, SINCE)}
        return Finding(finding.node, finding.subject, finding.text, AFTER_HEARING[finding.verb], request)
    way_out = f"its only data is here, gnt-instance modify --new-primary={finding.node} {finding.subject}"
    why = way_out if finding.subject in lacking else "whether it has its data there is not known"
    return Finding(finding.node, finding.subject, f"{finding.text}: {why}")
