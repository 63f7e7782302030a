"""Seeing to it that code under test stays in its own place, whatever it was told to do elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from tests.killing import writes

PROGRAMS = ("subprocess.Popen", "os.posix_spawn")  # the words that they are started with come second
DIRECTORY = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.symlink": 2, "os.chmod": 2}  # where a descriptor of one is


class Watch:
    """Prevents that something outside a directory is changed, or a program started with a path outside it, while it is on."""

    def __init__(self) -> None:
        self.place = ""
        self.strange: list[str] = []

    def saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.place or not (event in PROGRAMS or writes(event, arguments)):
            return
        outside = [path for path in _touched(event, arguments) if not self._is_inside(path)]
        if outside:
            self.strange.append(f"{event} {outside} is outside {self.place}")
            raise AssertionError(self.strange[-1])

    def _is_inside(self, path: str) -> bool:
        """Tell whether what a path leads to is in the place, links on the way followed."""
        whole = f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"
        return whole == "/dev/null" or f"{whole}/".startswith(f"{os.path.realpath(self.place)}/")

    @contextlib.contextmanager
    def over(self, place: str) -> Iterator[None]:
        """Nothing outside the place is touched meanwhile; what was tried is told at the end, whoever has caught it before."""
        self.place, self.strange = place, []
        try:
            yield
        finally:
            self.place = ""
        assert not self.strange, "; ".join(self.strange)


def _touched(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return the paths of what is changed; of a program, which may not change them, those that it is given."""
    if event in PROGRAMS:
        return [word for word in map(os.fsdecode, arguments[1][1:]) if "/" in word]
    if event in DIRECTORY and arguments[DIRECTORY[event]] >= 0:
        return []  # what is below a directory that is open, as when a tree is removed
    paths = arguments[:2] if event == "os.rename" else arguments[1:2] if event == "os.symlink" else arguments[:1]
    return [os.fsdecode(path) for path in paths if not isinstance(path, int)]


watch = Watch()
sys.addaudithook(watch.saw)  # one for the whole run, since Python never takes a hook back
