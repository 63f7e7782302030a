"""What a peer's answers are at least: who asks relies on that, and a peer of another version may answer anything."""

from __future__ import annotations

from zfsganeti.errors import SAME_VERSION, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# a type; a list of what each of its elements is; a tuple of as many; a dictionary of what it has at least
SHAPES: dict[str, Any] = {
    "report": {
        "node": str,
        "paths": bool,
        "logs": bool,
        "hooks_missing": [str],
        "datasets": [dict],
        "plain": list,
        "volumes": [dict],
        "trash": [dict],
        "root": str,
        "root_problem": str,
        "rootless": bool,
        "pool": object,
        "patch_problem": str,
    },
    "images": [
        {
            "name": str,
            "guid": str,
            "size": int,
            "used": int,
            "referenced": int,
            "clones": [str],
            "source": str,
            "imported": int,
            "retired": bool,
            "deleted": int,
            "datastore": str,
        }
    ],
    "image-arrivals": [{"name": str, "owner": str, "source": str, "used": int, "datastore": str}],
    "image-change": [dict],
    "trash-doomed": [{"entry": str, "used": int}],
    "trash-give-up": {"gone": [str], "kept": [str]},
    "adopt-leftovers": [(str, str, str)],
    "adopt-facts": {"sizes": [int], "free": dict, "drbd": dict},
    "image-save": {"name": str, "size": int, "referenced": int},
    "detach": [str],
    "snapshot-create": {"disks": int, "pools": list, "running": bool},
    "snapshot-histories": {"rows": [{"instance": str, "snapshot": str}], "problems": [str]},
    "snapshot-clone": {"entries": [str]},
    "rollback-plan": {"snapshot": str, "interrupted": bool, "sentences": [str], "newer": [str]},
    "rollback": {"again": bool},
    "setup-facts": {"exists": bool, "mountpoint": str, "pools": [str], "mounted": str, "untuned": dict, "left": dict},
    "aside": bool,
    "keep-disks": str | None,
    "keep-volumes": type(None),
    "check-space": type(None),
    "keep-records": [str],
    "lacking-volumes": [str],
    "move-source": {"node": str, "problem": str, "datasets": dict, "coming": dict},
    "move-target": {"node": str, "problem": str, "stores": dict, "placed": dict, "coming": dict},
    "receive-state": {"placed": object, "partial": object, "token": str, "available": int},
}


def understood(node: str, verb: str, answer: Any) -> Any:
    """Return a peer's answer to a verb; Unavailable when it is not what such an answer is."""
    if verb in SHAPES and not fits(answer, SHAPES[verb]):
        raise Unavailable(node, f"gnt-zfs there answers {verb} in a way not known here", SAME_VERSION)
    return answer


def fits(value: Any, shape: Any) -> bool:
    """Tell whether a value is of a shape."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, tuple):
        return isinstance(value, list) and len(value) == len(shape) and all(map(fits, value, shape))
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], of) for key, of in shape.items())
    return isinstance(value, shape)
