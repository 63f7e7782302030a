"""The hooks for `-t file`, run as Ganeti runs them on a node, against hooks in sh that call zfs(8), and against none"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Place, Row, against, empty_trash, medians, run, shell

INSTANCE = "bench1.example.com"
HOOKS = "/etc/ganeti/hooks"
SH = Path("/root/bench-hooks")
GUARD = '#!/bin/sh\n[ "$GANETI_INSTANCE_DISK_TEMPLATE" = file ] || exit 0\n'
ADD, REMOVE = "the hook before an add", "the hooks before and after a removal, to the trash"


def rows(place: Place) -> Iterator[Row]:
    write_sh(place)
    yield from _not_ours()
    yield from _add(place)
    yield from _remove(place)
    empty_trash(place)


def write_sh(place: Place) -> None:
    """Two hooks in sh do the least that hooks can do."""
    SH.mkdir(exist_ok=True)
    for name, command in (("create", "create"), ("destroy", "destroy")):
        hook = SH / name
        hook.write_text(f'{GUARD}exec zfs {command} "{place.root}/$GANETI_INSTANCE_NAME"\n', encoding="ascii")
        hook.chmod(stat.S_IRWXU)


def hook(event: str, phase: str, template: str = "file", disk: str = "") -> float:
    """Return how long our hook took for an event of an instance on this node."""
    node = os.uname().nodename.split(".")[0] + ".example.com"
    disks = {"GANETI_INSTANCE_DISK_COUNT": "1", "GANETI_INSTANCE_DISK0_SIZE": "64"}
    if disk:
        disks["GANETI_INSTANCE_DISK0_ID"] = disk
    return run(_link(event, phase), **_environment(event, phase, template, node), **disks)


def _link(event: str, phase: str) -> str:
    return next(str(path) for path in Path(f"{HOOKS}/{event}-{phase}.d").iterdir() if "zfsganeti" in path.name)


def _environment(event: str, phase: str, template: str, node: str) -> dict[str, str]:
    return {
        "GANETI_HOOKS_VERSION": "2",
        "GANETI_HOOKS_PATH": event,
        "GANETI_HOOKS_PHASE": phase,
        "GANETI_OP_CODE": {"instance-add": "OP_INSTANCE_CREATE", "instance-remove": "OP_INSTANCE_REMOVE"}[event],
        "GANETI_CLUSTER": "cluster.example.com",
        "GANETI_MASTER": node,
        "GANETI_INSTANCE_NAME": INSTANCE,
        "GANETI_INSTANCE_PRIMARY": node,
        "GANETI_INSTANCE_DISK_TEMPLATE": template,
    }


def in_sh(name: str) -> float:
    return run(str(SH / name), GANETI_INSTANCE_NAME=INSTANCE, GANETI_INSTANCE_DISK_TEMPLATE="file")


def _not_ours() -> Iterator[Row]:
    ours = "a hook for an instance that is not ours"
    found = medians(
        30,
        {
            ours: lambda: hook("instance-add", "pre", "plain"),
            "/bin/true as a hook": lambda: run("/bin/true"),
            "a hook in sh": lambda: run(str(SH / "create"), GANETI_INSTANCE_DISK_TEMPLATE="plain"),
            "python3 -I -c pass": lambda: run("/usr/bin/python3", "-I", "-c", "pass"),
        },
    )
    yield from against(found, ours, "the start of a shell, which sends away whatever cannot be ours")


def _add(place: Place) -> Iterator[Row]:
    def ours() -> float:
        taken = hook("instance-add", "pre")
        destroy(place)
        return taken

    def theirs() -> float:
        taken = in_sh("create")
        destroy(place)
        return taken

    found = medians(8, {ADD: ours, "a hook in sh: zfs create": theirs})
    limit = "the start of Python; health, room and strangers are looked at first; the dataset is made and then marked"
    yield from against(found, ADD, limit)


def destroy(place: Place) -> None:
    home = f"{place.directory}/{INSTANCE}"
    shell(f"umount {home}; zfs destroy -r {place.root}/{INSTANCE}; rmdir {home} 2>/dev/null; true")


def remove_ours(place: Place) -> float:
    """Return how long our hooks take around what Ganeti does: it unlinks the files and removes the directory."""
    hook("instance-add", "pre")
    disk = f"{place.directory}/{INSTANCE}/{uuid.uuid4()}.file.disk0"
    shell(f"truncate -s 64M {disk}")
    before = hook("instance-remove", "pre", disk=disk)
    shell(f"rm {disk} && rmdir {place.directory}/{INSTANCE}")
    return before + hook("instance-remove", "post", disk=disk)


def remove_theirs(place: Place) -> float:
    in_sh("create")
    shell(f"truncate -s 64M {place.directory}/{INSTANCE}/disk && rm {place.directory}/{INSTANCE}/disk")
    return in_sh("destroy")


def _remove(place: Place) -> Iterator[Row]:
    theirs = "a hook in sh: zfs destroy, for good, with a patched Ganeti"
    found = medians(8, {REMOVE: lambda: remove_ours(place), theirs: lambda: remove_theirs(place)})
    yield from against(found, REMOVE, "two hooks instead of one, and it can come back: mounted aside, renamed, marked")
