"""What can be typed after `gnt-zfs`: a slip of the finger gets one line that says what was probably meant, and status 2."""

from __future__ import annotations

import argparse

from zfsganeti.names import guess, meant
from zfsganeti.terminal import fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line that names the thing and the way out; those below it are of this kind, too."""

    def error(self, message: str) -> NoReturn:
        self._refuse(message, f"{self.prog} --help shows how")

    def _refuse(self, what: str, way_out: str) -> NoReturn:
        fail(f"{what}: {way_out}", self.prog)
        raise SystemExit(2)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Return what was typed; what this parser does not know is said by it, and not by the one at the top, which knows less."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse_unknown(next((word for word in unknown if word.startswith("-")), unknown[0]))
        return found, unknown

    def _refuse_unknown(self, word: str) -> NoReturn:
        if word.startswith("-"):
            option = word.partition("=")[0]
            self._refuse(f"there is no option {option}", meant(option, self._option_string_actions, f"{self.prog} --help shows all"))
        self.error(f"{word} is a word too many")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does it, which calls this by that name in every version, but with a guess."""
        if action.choices is None or value in action.choices:
            return
        choose = f"choose from {', '.join(map(str, action.choices))}"
        if isinstance(action, argparse._SubParsersAction):
            self._refuse(f"there is no command {value}", meant(value, action.choices, "") or _deeper(value, action) or choose)
        self._refuse(f"{'/'.join(action.option_strings) or action.dest} cannot be {value}", meant(value, action.choices, choose))


def _deeper(word: str, action: argparse._SubParsersAction[argparse.ArgumentParser]) -> str:
    """Return a guess for who has typed `restore` and meant `trash restore`."""
    return guess([f"{name} {word}" for name, below in action.choices.items() if word in _verbs(below)])


def _verbs(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices
