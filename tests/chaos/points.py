"""On a node: has the programs of zfsganeti stop at a chosen point, which is where one of them is about to change something.

Python reads this when it starts, by a .pth file beside it, and leaves at once unless chaos is prepared. The points are what
tests/killing.py counts on the fake: calls that change ZFS, loop devices and streams, and what Python reports to audit hooks before it
changes a file below the root. They are numbered over all processes of the node. At the chosen one the process is killed, an error is
raised in it, or the node loses its power.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

PLACE = "/run/zfsganeti-chaos"  # a file `armed` with a number and a kind; `points` has a line for each point that was passed
ROOTS = ("/zfs/vm", "/var/lib/zfsganeti")
OURS = ("zfsganeti", "gnt-zfs", "extstorage/zfs", "os/zfs-image")
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate")
CALLS = {
    "zfs": {"create", "snapshot", "clone", "rename", "set", "mark_snapshot", "clear", "destroy_snapshots", "_program", "mount", "unmount"},
    "history": {"promote", "hold", "release", "roll_back"},
    "streams": {"abort", "copy", "receive"},
    "loop": {"attach", "detach", "grow"},
}


def begin() -> None:
    """The process counts points if chaos is prepared and the process is one of ours."""
    if os.path.exists(PLACE) and any(ours in word for word in sys.orig_argv for ours in OURS):
        sys.addaudithook(_saw)
        sys.meta_path.insert(0, Finder())


def _saw(event: str, arguments: tuple[object, ...]) -> None:
    if event in EVENTS and str(arguments[0]).startswith(ROOTS):
        point(f"{event} {arguments[0]}")


class Finder:
    """Has a module whose calls are points pass one at each of them; it is found the way it would be without us."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        house, _dot, module = name.partition(".")
        if house != "zfsganeti" or module not in CALLS:
            return None
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)), None)
        if spec is not None and spec.loader is not None:
            _execute_then(spec.loader, lambda made: watch(made, module))
        return spec


def _execute_then(loader: Any, then: Callable[[ModuleType], None]) -> None:
    execute = loader.exec_module

    def both(made: ModuleType) -> None:
        execute(made)
        then(made)

    loader.exec_module = both


def watch(made: ModuleType, module: str) -> None:
    """Every function and method of a module that changes something passes a point before it begins."""
    for holder in (made, *(kind for kind in vars(made).values() if isinstance(kind, type) and kind.__module__ == made.__name__)):
        for name in CALLS[module] & vars(holder).keys():
            setattr(holder, name, _pointed(f"{module} {name}", vars(holder)[name]))


def _pointed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def passing(*arguments: Any, **named: Any) -> Any:
        point(what)
        return function(*arguments, **named)

    return passing


def point(what: str) -> None:
    """One more point is passed, unless it is the chosen one."""
    with open(f"{PLACE}/points", "a+", encoding="utf-8") as points:
        fcntl.flock(points, fcntl.LOCK_EX)
        points.seek(0)
        number = len(points.readlines()) + 1
        points.write(f"{os.getpid()} {what}\n")
        points.flush()
        try:
            with open(f"{PLACE}/armed", encoding="ascii") as armed:
                chosen, kind = armed.read().split()
        except FileNotFoundError:
            return
        if number != int(chosen):
            return
        os.rename(f"{PLACE}/armed", f"{PLACE}/fired")
    _stop(kind)


def _stop(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "power":
        with open("/proc/sysrq-trigger", "w", encoding="ascii") as trigger:
            trigger.write("b")
        signal.pause()
    raise OSError(errno.EIO, "chaos")
