"""What a person at a terminal sees and is asked, and how commands are declared."""

from __future__ import annotations

import os
import sys
import time

from zfsganeti import colours
from zfsganeti.errors import BadInput, Unavailable, human

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TextIO

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


def group(commands: Any, name: str, text: str, about: str, example: str) -> Any:
    """Return what the verbs below a command are declared with."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=about, epilog=f"Example: {example}")
    return made.add_subparsers(metavar="VERB", required=True)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows as aligned columns under their titles, for standard output; the columns of `right` are numbers."""
    lines = [list(titles), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    shown = []
    for line in lines:
        cells = [text.rjust(widths[index]) if index in right else text.ljust(widths[index]) for index, text in enumerate(line)]
        cells[-1] = cells[-1].rstrip()
        shown.append("  ".join(colours.cell(text, filled) for text, filled in zip(line, cells, strict=True)).rstrip())
    return "\n".join([colours.heading(shown[0]), *shown[1:]])


def print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, sort_keys=True))


def confirm(question: str) -> bool:
    """Tell whether the person at the terminal agrees; without a terminal nobody does."""
    if not sys.stdin.isatty():
        raise BadInput("nobody can be asked, standard input is no terminal: --yes does it without asking")
    _prompt(f"{question} [y/N] ")
    try:
        return input("").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _prompt(text: str) -> None:
    """A question is where a person sees it, which is not among what a program or a file gets."""
    if sys.stdout.isatty() and not (sys.stderr is not None and sys.stderr.isatty()):
        print(text, end="", flush=True)
    else:
        explain(text, end="")


def complain(text: str) -> None:
    """A line says what the command could not do, or had to leave out, and goes on without."""
    _tell(text, "gnt-zfs", colours.YELLOW)


def left_out(problems: Sequence[str], offline: Sequence[str], what: str) -> int:
    """What a list lacks is said; return its exit status: of a node that is offline for the cluster nobody expects anything."""
    for node in offline:
        complain(f"{node} is offline: {what} not shown")
    for problem in problems:
        complain(problem)
    return Unavailable.exit_code if problems else 0


def fail(text: str, who: str = "gnt-zfs") -> None:
    """A line says why the command has ended."""
    _tell(text, who, colours.RED)


def _tell(text: str, who: str, colour: str) -> None:
    if getattr(sys, "stderr", None) is not None:
        explain(f"{colours.painted(f'{who}:', colour, sys.stderr)} {text}")


def explain(text: str, end: str = "\n") -> None:
    """Lines say on standard error what could have been typed."""
    if getattr(sys, "stderr", None) is None:  # it was closed, and print would take standard output for it
        return
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:  # nobody listens: the exit status says it all
        say_no_more(sys.stderr)


def say_no_more(stream: TextIO) -> None:
    """What is still to be written to a stream is thrown away: it can be written nowhere."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def say(text: str) -> None:
    print(text, flush=True)


def must_be_master(here: Here) -> None:
    if not here.is_master():
        raise Unavailable("this command", f"works on the master node only, which is {here.ssconf.master}")


def day(when: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(when))


class Meter:
    """Progress of something that takes long: a bar on a terminal, a line now and then elsewhere, nothing when nobody watches.

    A terminal that is gone is told nothing more, and what takes long goes on.
    """

    def __init__(self, title: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self.title, self.now = title, now
        self.what = ""
        self.gone = False
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
            self._draw(f"\r{line}\033[K")
        elif moment - self._began >= 60:
            self._draw(f"{line}\n")

    def _draw(self, text: str) -> None:
        if self.gone:
            return
        try:
            print(text, end="", file=sys.stderr, flush=True)
        except OSError:  # nobody watches any more
            self.gone = True

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
            self._draw("\n")

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
