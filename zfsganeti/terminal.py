"""What a person at a terminal sees and is asked, and how commands are declared."""

from __future__ import annotations

import sys
import time

from zfsganeti.errors import BadInput, Unavailable, human

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from zfsganeti.here import Here

    Command = Callable[[Here, argparse.Namespace], int]

BAR = 30  # characters
EVERY_SECONDS = 0.2


def command(commands: Any, name: str, function: Command, text: str, example: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"Example: {example}"
    )
    made.set_defaults(run=function)
    return made


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows as aligned columns under their titles; the columns of `right` are numbers."""
    lines = [list(titles), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    shown = []
    for line in lines:
        cells = [cell.rjust(widths[index]) if index in right else cell.ljust(widths[index]) for index, cell in enumerate(line)]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, sort_keys=True))


def confirm(question: str) -> bool:
    """Tell whether the person at the terminal agrees; without a terminal nobody does."""
    if not sys.stdin.isatty():
        raise BadInput("nobody can be asked, standard input is no terminal: --yes does it without asking")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def complain(text: str) -> None:
    print(f"gnt-zfs: {text}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def must_be_master(here: Here) -> None:
    if not here.is_master():
        raise Unavailable("this command", f"works on the master node only, which is {here.ssconf.master}")


def day(when: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(when))


class Meter:
    """Progress of something that takes long: a bar on a terminal, a line now and then elsewhere, nothing when nobody watches."""

    def __init__(self, title: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self.title, self.now = title, now
        self.what = ""
        self.bar = sys.stderr.isatty()
        self._began = self._told = now()

    def __call__(self, what: str, done: int, all_of_it: int) -> None:
        moment = self.now()
        if what != self.what:
            self._end()
            self.what, self._began, self._told = what, moment, moment
        elif moment - self._told < (EVERY_SECONDS if self.bar else 60) and done != all_of_it:
            return
        self._told = moment
        line = self.line(done, all_of_it, moment - self._began)
        if self.bar:
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
        elif moment - self._began >= 60:
            print(line, file=sys.stderr, flush=True)

    def line(self, done: int, all_of_it: int, seconds: float) -> str:
        """Return how far it is, how fast, and when it will end."""
        rate = done / seconds if seconds > 0 else 0
        said = f"{self.title}: {self.what} {human(done)}"
        if all_of_it:
            filled = min(BAR, BAR * done // all_of_it)
            left = f", {_clock((all_of_it - done) / rate)} left" if rate and done < all_of_it else ""
            said += f" of {human(all_of_it)} [{'#' * filled}{'.' * (BAR - filled)}] {min(100, 100 * done // all_of_it)}%{left}"
        return f"{said}, {human(int(rate))}/s" if rate else said

    def _end(self) -> None:
        if self.bar and self.what:
            print(file=sys.stderr)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_failure: object) -> None:
        self.rest()

    def rest(self) -> None:
        """The bar's line has ended: something else can be said."""
        self._end()
        self.what = ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"
