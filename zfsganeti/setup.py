"""`gnt-zfs setup`: everything between a stock cluster with pools and `gnt-instance add -t file`, as a plan and its execution."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zfsganeti import ganeti
from zfsganeti.config import PATH, replace, save
from zfsganeti.datasets import CLUSTER
from zfsganeti.errors import BadInput, Foreign, Missing, Refused, Unavailable
from zfsganeti.here import Here
from zfsganeti.names import check_root, meant
from zfsganeti.node import run
from zfsganeti.roots import guard

TEMPLATES = ("file", "ext")
IGNORE_GENERATOR = "org.openzfs.systemd:ignore"  # zfs-mount-generator(8): a stale cache would make failing units


@dataclass(frozen=True)
class Step:
    """One change: where, in words, and what carries it out (`node` '' is the cluster itself)."""

    node: str
    text: str
    action: str
    arguments: tuple[tuple[str, str], ...] = ()

    def request(self) -> dict[str, str]:
        return {"action": self.action, **dict(self.arguments)}


# facts


def node_facts(here: Here, root: str, directory: str) -> dict[str, Any]:
    """Return what setup must know of this node, nothing changed."""
    check_root(root)
    dataset = here.zfs.get(root, marks=(CLUSTER,))
    parent = root.rsplit("/", 1)[0] if "/" in root else ""
    return {
        "exists": dataset is not None,
        "mountpoint": dataset.mountpoint if dataset else "",
        "parent": bool(parent) and here.zfs.get(parent) is not None,
        "pools": sorted({name.split("/")[0] for name, _at in here.zfs.filesystems()}),
        "mounted": here.zfs.mounted_at(directory) or "",
        "untuned": _untuned(here, root) if dataset else {},
        "occupied": here.zfs.mounted_at(directory) is None and _occupied(directory),
        "listed": directory in _listed(),
        "configured": here.config.root,
        "left": _left_behind(here, root, directory),
        "absent": _absent(here, root),
        "logs": os.path.isdir(ganeti.EXTSTORAGE_LOGS),
        "direct": here.zfs.version() >= (2, 3),
    }


def _untuned(here: Here, root: str) -> dict[str, str]:
    """Return what is good for VM disks and nobody has decided about on a root that exists: what was set on it is left alone."""
    decided = here.zfs.local(root)
    wanted = {**{name: str(value) for name, value in root_properties(here).items()}, **root_marks(here)}
    return {name: value for name, value in wanted.items() if name not in decided}


def _left_behind(here: Here, root: str, directory: str) -> dict[str, str]:
    """Return where this node stores now and a dataset of ours there, {} if nothing would be lost sight of by storing elsewhere."""
    current = here.ssconf.storage_directory or directory
    mounted = here.zfs.mounted_at(current) or ""
    former = here.config.root or mounted
    stays = former == root and (current == directory or mounted != root)
    if not former or stays or here.zfs.get(former) is None:
        return {}
    held = [dataset.name for dataset in here.zfs.datasets(former, marks=(CLUSTER,)) if dataset.marks.get(CLUSTER) == here.ssconf.cluster]
    below = [name for name in held if name != former]
    return {"root": former, "directory": current, "dataset": below[0]} if below else {}


def _absent(here: Here, root: str) -> str:
    """Return the root that this node has on a pool that is not imported, '' if that has but another name: the new root bears our mark."""
    former, known = here.config.root, [name for name, _at in here.zfs.filesystems()]
    if former in ("", root) or former.split("/")[0] in known:
        return ""
    found = here.zfs.get(root, marks=(CLUSTER,))
    return "" if found is not None and found.marks.get(CLUSTER) == here.ssconf.cluster else former


def _occupied(directory: str) -> bool:
    if not os.path.lexists(directory):
        return False
    return not os.path.isdir(directory) or bool(os.listdir(directory))


def _listed() -> list[str]:
    try:
        with open(ganeti.STORAGE_PATHS, encoding="utf-8") as file:
            return [line.strip() for line in file]
    except OSError:
        return []


# the plan (pure)


def plan(
    roots: Mapping[str, str],
    directory: str,
    facts: Mapping[str, Mapping[str, Any]],
    cluster: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, Any]],
) -> list[Step]:
    """Return the steps that are missing, in the order in which Ganeti accepts them; nothing to do is an empty list."""
    steps: list[Step] = []
    for node, root in roots.items():
        _refuse_leaving(node, facts[node]["left"])
        _refuse_absent(node, str(facts[node].get("absent") or ""))
        steps += _node_steps(node, root, directory, facts[node])
    return steps + _cluster_steps(directory, cluster, groups)


def _node_steps(node: str, root: str, directory: str, facts: Mapping[str, Any]) -> list[Step]:
    steps = []
    if facts["mounted"] not in ("", root):
        raise Foreign(
            f"{node}: {directory}", f"dataset {facts['mounted']} is mounted there, not {root}", f"gnt-zfs setup {facts['mounted']}"
        )
    if facts["occupied"]:
        raise Foreign(f"{node}: {directory}", "is a directory with files and no dataset", "move them away, or choose another --directory")
    if not facts["exists"]:
        _must_have_parent(node, root, facts)
        steps.append(Step(node, f"create dataset {root} for VM disks", "create-root", (("root", root), ("directory", directory))))
    elif facts["mountpoint"] != directory:
        steps.append(
            Step(
                node,
                f"set mountpoint={directory} on {root} (it is {facts['mountpoint']})",
                "move-root",
                (("root", root), ("directory", directory)),
            )
        )
    if facts["untuned"]:
        shown = ", ".join(f"{name}={value}" for name, value in facts["untuned"].items() if ":" not in name) or "our mark"
        steps.append(Step(node, f"set on {root}, where nothing else was decided: {shown}", "tune-root", (("root", root),)))
    if facts["mounted"] != root:
        steps.append(Step(node, f"mount {root} at {directory}", "mount-root", (("root", root), ("directory", directory))))
    if facts["configured"] != root:
        steps.append(Step(node, f"write root = {root} into {PATH}", "configure-root", (("root", root),)))
    if not facts["listed"]:
        steps.append(Step(node, f"add {directory} to {ganeti.STORAGE_PATHS}", "list-path", (("directory", directory),)))
    if not facts["logs"]:
        steps.append(Step(node, f"make {ganeti.EXTSTORAGE_LOGS}", "make-logs"))
    return steps


def _refuse_leaving(node: str, left: Mapping[str, str]) -> None:
    """Disks and the trash of a root that is not the node's any more would be found by nothing, and a missing disk is a removed one."""
    if not left:
        return
    stay = f"{node.split('.')[0]}={left['root']} and --directory {left['directory']} keep it"
    way_out = f"{stay}, or remove what it holds and empty the trash first"
    raise Refused(f"{node}: {left['root']}", f"is the root here and holds {left['dataset']}", way_out)


def _refuse_absent(node: str, absent: str) -> None:
    """Nobody can say what a root holds that is not there."""
    if absent:
        way_out = f"zpool import {absent.split('/')[0]}, or take root = {absent} out of {PATH} there if that is lost for good"
        raise Refused(f"{node}: {absent}", "is the root here, and its pool is not imported", way_out)


def _must_have_parent(node: str, root: str, facts: Mapping[str, Any]) -> None:
    if not facts["parent"]:
        theirs = f"{(facts['pools'] or ['POOL'])[0]}/{root.split('/', 1)[1]}"
        pool, parent = root.split("/", 1)[0], root.rsplit("/", 1)[0]
        remedy = f"zfs create -p {parent} makes it" if pool in facts["pools"] else f"zpool import {pool} if it has that pool"
        raise Missing(f"{node}: dataset {parent}", f"{remedy}, or give {node.split('.')[0]}={theirs} if that is meant there")


def _cluster_steps(directory: str, cluster: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    steps = []
    options = []
    enabled = list(cluster.get("enabled_disk_templates") or [])
    if not set(TEMPLATES) <= set(enabled):
        options.append(f"--enabled-disk-templates={_with_ours(enabled)}")
    allowed = list((cluster.get("ipolicy") or {}).get("disk-templates") or [])
    if not set(TEMPLATES) <= set(allowed):
        options.append(f"--ipolicy-disk-templates={_with_ours(allowed)}")
    if os.path.normpath(cluster.get("file_storage_dir") or "-") != directory:
        options.append(f"--file-storage-dir={directory}")
    if options:
        steps.append(Step("", f"gnt-cluster modify {' '.join(options)}", "modify-cluster", (("options", " ".join(options)),)))
    for name, group in groups.items():
        own = (group.get("ipolicy") or {}).get("disk-templates")
        if own is not None and not set(TEMPLATES) <= set(own):
            option = f"--ipolicy-disk-templates={_with_ours(own)}"
            steps.append(Step("", f"gnt-group modify {option} {name}", "modify-group", (("options", option), ("group", name))))
    return steps


def _with_ours(templates: list[str]) -> str:
    return ",".join([*templates, *(template for template in TEMPLATES if template not in templates)])


# its execution


def root_marks(here: Here) -> dict[str, str]:
    return {CLUSTER: here.ssconf.cluster, IGNORE_GENERATOR: "on"}


def root_properties(here: Here) -> dict[str, object]:
    """Return what is good for raw VM disks: every instance dataset inherits it."""
    properties: dict[str, object] = {
        "recordsize": here.config.recordsize,
        "compression": here.config.compression,
        "atime": "off",
        "xattr": "sa",
        "exec": "off",
        "setuid": "off",
        "devices": "off",
    }
    if here.zfs.version() >= (2, 3):
        properties["direct"] = "disabled"  # 2.3 answers unaligned O_DIRECT, which VMs do, with EINVAL
    return properties


def apply_step(here: Here, action: str, arguments: dict[str, str]) -> None:
    """One step of a plan is done on this node; done again it changes nothing."""
    actions = {
        "create-root": _create_root,
        "move-root": _move_root,
        "tune-root": _tune_root,
        "mount-root": _mount_root,
        "configure-root": _configure_root,
        "list-path": _list_path,
        "make-logs": _make_logs,
    }
    if action not in actions:
        raise BadInput(f"setup step {action!r}: there are {', '.join(actions)}")
    actions[action](here, arguments)


def apply_cluster_step(step: Step) -> None:
    """One step that changes the cluster itself is done; only the master can."""
    arguments = dict(step.arguments)
    command = ["gnt-cluster", "modify"] if step.action == "modify-cluster" else ["gnt-group", "modify"]
    run(*command, *arguments["options"].split(" "), *([arguments["group"]] if "group" in arguments else []))


def _create_root(here: Here, arguments: dict[str, str]) -> None:
    root, directory = arguments["root"], arguments["directory"]
    if here.zfs.get(root) is None:
        here.zfs.create(root, {"mountpoint": directory, **root_properties(here)}, root_marks(here))


def _tune_root(here: Here, arguments: dict[str, str]) -> None:
    here.zfs.set(arguments["root"], _untuned(here, arguments["root"]))


def _move_root(here: Here, arguments: dict[str, str]) -> None:
    here.zfs.set(arguments["root"], {"mountpoint": arguments["directory"]})


def _mount_root(here: Here, arguments: dict[str, str]) -> None:
    root, directory = arguments["root"], arguments["directory"]
    if here.zfs.mounted_at(directory) is None:
        guard(directory)
        here.zfs.mount(root, directory)
    if here.zfs.mounted_at(directory) != root:
        raise Unavailable(directory, f"{here.zfs.mounted_at(directory)} is mounted there, not {root}")
    os.chmod(directory, 0o750)  # what instances and images are called is nobody else's concern


def _configure_root(_here: Here, arguments: dict[str, str]) -> None:
    """Without this line, a node whose pool is not imported would look like one that never had anything to do with us."""
    save("root", arguments["root"])


def _list_path(_here: Here, arguments: dict[str, str]) -> None:
    directory = arguments["directory"]
    lines = _listed()
    if directory in lines:
        return
    replace(ganeti.STORAGE_PATHS, [*lines, directory])


def _make_logs(_here: Here, _arguments: dict[str, str]) -> None:
    os.makedirs(ganeti.EXTSTORAGE_LOGS, mode=0o750, exist_ok=True)


def check_directory(directory: str) -> str:
    """Return a directory that can be the cluster's file storage directory."""
    if not directory.startswith("/") or directory.startswith("//") or os.path.normpath(directory) != directory or directory == "/":
        raise BadInput(f"setup: {directory!r} is not an absolute, plain path")
    if "," in directory or not directory.isprintable() or " " in directory:
        raise BadInput(f"setup: {directory!r} has a comma or a blank, which mount(2) or Ganeti cannot take")
    return directory


def parse_roots(words: list[str], nodes: list[str]) -> dict[str, str]:
    """Return each node's root from `ROOT [NODE=ROOT...]`; node names may be short."""
    plain = [word for word in words if "=" not in word]
    if len(plain) != 1:
        raise BadInput(f"setup: one ROOT for all nodes is needed, then NODE=ROOT for those that differ, not {' '.join(words) or 'nothing'}")
    roots = dict.fromkeys(nodes, check_root(plain[0]))
    for word in words:
        if "=" in word:
            name, _equals, root = word.partition("=")
            matching = [node for node in nodes if node == name or node.split(".")[0] == name]
            if len(matching) != 1:
                otherwise = f"there are {', '.join(nodes)}"
                raise BadInput(f"setup: {name} is no node, {meant(name, nodes, otherwise)}")
            roots[matching[0]] = check_root(root)
    for root in roots.values():
        if "/" not in root:
            raise BadInput(f"setup: {root} is a whole pool: name a dataset in it, such as {root}/vm")
    return roots
