"""Where a person's eye is led: headings, what is wrong, what to look at; on a terminal that wants it, and never elsewhere."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

BOLD, RED, YELLOW = "1", "31", "33"  # as ECMA-48 counts them


class Bad(str):
    """A word in a table that says that something is wrong."""

    __slots__ = ()


class Odd(str):
    """A word in a table that says that something is not as it usually is."""

    __slots__ = ()


def coloured(stream: TextIO) -> bool:
    """Tell whether what is written to a stream is seen by a person whose terminal shows colours, and who wants them."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # there is none, or it was closed
        return False


def painted(text: str, colour: str, stream: TextIO) -> str:
    """Return a text as it goes to a stream."""
    return f"\033[{colour}m{text}\033[0m" if text and coloured(stream) else text


def heading(text: str) -> str:
    return painted(text, BOLD, sys.stdout)


def cell(text: str, shown: str) -> str:
    """Return a table's cell as it is shown, that is with its blanks, in the colour of what it tells."""
    colour = RED if isinstance(text, Bad) else YELLOW if isinstance(text, Odd) else ""
    return shown.replace(text, painted(text, colour, sys.stdout), 1) if colour and text else shown
