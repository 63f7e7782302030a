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
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

PLACE = "/run/zfsganeti-chaos"  # a file `armed` with a number and a kind; `points` has a line for each point that was passed
ROOTS = ("/zfs/vm", "/var/lib/zfsganeti")
OURS = ("zfsganeti", "gnt-zfs", "extstorage/zfs", "os/zfs-image")
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate")
CALLS = {
    "zfs.py": {"create", "snapshot", "clone", "rename", "set", "clear", "destroy_snapshots", "_program", "mount", "unmount"},
    "history.py": {"promote", "hold", "release", "roll_back"},
    "streams.py": {"abort", "copy", "receive"},
    "loop.py": {"attach", "detach", "grow"},
}


def begin() -> None:
    """The process counts points if chaos is prepared and the process is one of ours."""
    if os.path.exists(PLACE) and any(ours in word for word in sys.orig_argv for ours in OURS):
        sys.addaudithook(_saw)
        sys.setprofile(_called)
        threading.setprofile(_called)


def _saw(event: str, arguments: tuple[object, ...]) -> None:
    if event in EVENTS and str(arguments[0]).startswith(ROOTS):
        point(f"{event} {arguments[0]}")


def _called(frame: FrameType, event: str, _argument: object) -> None:
    if event == "call":
        directory, _slash, file = frame.f_code.co_filename.rpartition("/")
        if directory.endswith("/zfsganeti") and frame.f_code.co_name in CALLS.get(file, ()):
            point(f"{file} {frame.f_code.co_name}")


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
