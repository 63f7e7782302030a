"""Where the hook is hung: one link for each of these below Ganeti's hooks directory."""

from __future__ import annotations

BASENAME = "zfsganeti"
PRE_AND_POST = (
    "instance-add",
    "instance-remove",
    "instance-rename",
    "instance-move",
    "instance-recreate-disks",
    "instance-modify",
    "instance-export",
)
PRE_ONLY = ("instance-start", "instance-reboot", "instance-reinstall", "disk-grow", "instance-failover", "instance-migrate")
LINKS = (
    *(f"{name}-{phase}.d/{BASENAME}" for name in PRE_AND_POST for phase in ("pre", "post")),
    *(f"{name}-pre.d/{BASENAME}" for name in PRE_ONLY),
    f"cluster-verify-post.d/{BASENAME}",
    f"cluster-rename-post.d/{BASENAME}",
    f"watcher/{BASENAME}",
)
