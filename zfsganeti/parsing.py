"""What can be typed after `gnt-zfs`: a slip of the finger gets one line that says what was probably meant, and status 2."""

from __future__ import annotations

import argparse
import sys

from zfsganeti.names import guess, meant
from zfsganeti.terminal import explain, fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn


# what people call things elsewhere, by the command that they type it after; a name that is merely alike may be the opposite
SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {
    "gnt-zfs": {
        "undo": ("trash restore",),
        "undelete": ("trash restore",),
        "remove": ("gnt-instance remove",),
        "rm": ("gnt-instance remove",),
        "delete": ("gnt-instance remove", "image delete", "snapshot delete"),
        "destroy": ("gnt-instance remove", "image delete", "snapshot delete"),
        "purge": ("trash empty",),
        "add": ("gnt-instance add",),
        "migrate": ("move",),
        "failover": ("move",),
        "repair": ("check --repair",),
        "fix": ("check --repair",),
        "version": ("--version",),
        "ls": ("list",),
    },
    "gnt-zfs image": {
        **dict.fromkeys(("remove", "rm", "destroy", "purge"), ("delete",)),
        **dict.fromkeys(("add", "download"), ("import",)),
        "create": ("import", "save"),
        "ls": ("list",),
    },
    "gnt-zfs snapshot": {
        **dict.fromkeys(("remove", "rm", "destroy", "purge"), ("delete",)),
        **dict.fromkeys(("restore", "revert"), ("rollback",)),
        "take": ("create",),
        "ls": ("list",),
    },
    "gnt-zfs trash": {
        **dict.fromkeys(("undo", "undelete"), ("restore",)),
        **dict.fromkeys(("delete", "remove", "rm", "destroy", "purge"), ("empty",)),
        "ls": ("list",),
    },
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line that names the thing and the way out; those below it are of this kind, too."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **{"allow_abbrev": False, **named})  # what is short for one option now may be for two later

    def error(self, message: str) -> NoReturn:
        self._refuse(message, f"{self.prog} --help shows how")

    def _refuse(self, what: str, way_out: str) -> NoReturn:
        fail(f"{what}: {way_out}", self.prog)
        raise SystemExit(2)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Return what was typed; what this parser does not know is said by it, and not by the one at the top, which knows less."""
        words = list(sys.argv[1:] if args is None else args)
        if not words and self._commands():
            explain(self.format_help().rstrip())
            raise SystemExit(2)
        for word in self._own(words):
            self._check_option(word)
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"{unknown[0]} is a word too many")
        return found, unknown

    def _commands(self) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
        return [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]

    def _own(self, words: list[str]) -> list[str]:
        """Return those words in which options of this parser can be: what comes behind a command is the command's."""
        ends = (index for index, word in enumerate(words) if word == "--" or (self._commands() and not word.startswith("-")))
        return words[: next(ends, len(words))]

    def _check_option(self, word: str) -> None:
        """It is no option that this parser does not know, which is worth more to hear than what is missing besides."""
        if not word.startswith("-") or word == "-" or " " in word or word[1].isdigit():  # as argparse has it
            return
        option = word.partition("=")[0] if word.startswith("--") else word[:2]
        if option not in self._option_string_actions:
            behind = "options come behind the command, and " if self._commands() else ""
            self._refuse(
                f"there is no option {option}", meant(option, self._option_string_actions, f"{behind}{self.prog} --help shows all")
            )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does it, which calls this by that name in every version, but with a guess."""
        if action.choices is None or value in action.choices:
            return
        choose = f"choose from {', '.join(map(str, action.choices))}"
        if isinstance(action, argparse._SubParsersAction):
            known = guess(SYNONYMS.get(self.prog, {}).get(value, ()))
            self._refuse(f"there is no command {value}", known or meant(value, action.choices, "") or _deeper(value, action) or choose)
        self._refuse(f"{'/'.join(action.option_strings) or action.dest} cannot be {value}", meant(value, action.choices, choose))


def _deeper(word: str, action: argparse._SubParsersAction[argparse.ArgumentParser]) -> str:
    """Return a guess for who has typed `restore` and meant `trash restore`."""
    return guess([f"{name} {word}" for name, below in action.choices.items() if word in _verbs(below)])


def _verbs(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices


def number(text: str, unit: str, largest: int) -> int:
    """Return what was typed as a number, from 1 on."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= largest:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit} from 1 to {largest}")
    return int(text)


def mib(text: str) -> int:
    """Return the bytes that so many MiB are."""
    return number(text, "MiB", 1 << 20) << 20
