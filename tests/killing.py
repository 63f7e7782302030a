"""Dying at a chosen point: what a power cut or kill -9 does to an operation, without waiting for one.

Points are what changes the disk: every call of the fake ZFS, before and after, and every rename, unlink, mkdir, rmdir, symlink,
chmod and opening for writing that Python reports to its audit hooks. After its death a process changes nothing any more, not
even in its `finally` blocks, until the next process begins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """The process died here; no handler of ours may catch it, as none can catch a power cut."""


class Reaper:
    """Counts the points that are passed below a directory, and kills at the chosen one."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.passed = 0
        self.chosen: int | None = None
        self.dead = False
        self.counting = False
        self.spared = 0

    def point(self) -> None:
        """Nothing happens, or the process dies here."""
        if not self.counting:
            return
        self.passed += 1
        if self.dead or self.passed == self.chosen:
            self.dead = True
            raise Killed(f"at point {self.passed}")

    @contextlib.contextmanager
    def sparing(self) -> Iterator[None]:
        """What the fake itself does on disk is no point: on real ZFS it is one step of the kernel."""
        self.spared += 1
        try:
            yield
        finally:
            self.spared -= 1

    def saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.counting or self.spared or not writes(event, arguments):
            return
        if str(arguments[0]).startswith(self.place):
            self.point()


class Failing(Reaper):
    """Counts points as a reaper does; what is done at the chosen one fails, and the process goes on."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.fired = False
        self.stays = ""  # the directory that could not be removed, if it was that which failed
        self._removing = ""

    def point(self) -> None:
        if not self.counting:
            return
        self.passed += 1
        if self.passed == self.chosen:
            self.fired, self.stays = True, self._removing
            self.strike()

    def saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        self._removing = str(arguments[0]) if event == "os.rmdir" else ""
        try:
            super().saw(event, arguments)
        finally:
            self._removing = ""

    def strike(self) -> None:
        raise OSError(errno.EIO, "chaos")


def writes(event: str, arguments: tuple[Any, ...]) -> bool:
    """Tell whether what Python reports to its audit hooks changes files."""
    return event in EVENTS or (event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & WRITING))


_listening: list[Reaper] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for reaper in _listening:
        reaper.saw(event, arguments)


sys.addaudithook(_hear)  # one for the whole run, since Python never takes a hook back


def dies(reaper: Reaper, point: int, operation: Callable[[], object]) -> bool:
    """Run an operation that dies at its `point`-th point (from 1); tell whether it got there. Its exceptions come through."""
    reaper.passed, reaper.chosen, reaper.dead, reaper.counting = 0, point, False, True
    _listening.append(reaper)
    try:
        operation()
    except Killed:
        pass
    finally:
        died = reaper.dead
        reaper.counting = reaper.dead = False
        _listening.remove(reaper)
    return died
