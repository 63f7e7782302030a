"""Every command that the README, a guide or a message names is one that gnt-zfs knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zfsganeti.cli import parser

HOUSE = Path(__file__).parents[2]
TEXTS = [HOUSE / "README.md", *sorted((HOUSE / "docs").glob("*.md")), *sorted((HOUSE / "zfsganeti").glob("*.py"))]
NAMED = sorted(
    {
        words
        for text in TEXTS
        for words in re.findall(r"gnt-zfs ((?:image|disk|trash|patch|snapshot) [a-z]+)", text.read_text(encoding="utf-8"))
    }
)
ARGUMENTS = {
    "image import": ["debian-12", "/tmp/x", "--datastore", "ssd"],
    "image rename": ["a", "b"],
    "image export": ["a", "/tmp/b"],
    "image save": ["web1/0", "a"],
    "snapshot rollback": ["web1", "upgrade"],
    "snapshot delete": ["web1", "upgrade"],
    "snapshot clone": ["web1", "upgrade", "web2"],
    "disk swap": ["web1/0"],
    "disk fill": ["web1/0", "/srv"],
}
PATCH = ("status", "apply", "revert", "enable", "disable", "renew")
ALONE = ("image list", "trash list", "trash empty", "snapshot list", "snapshot policy", *(f"patch {verb}" for verb in PATCH))


@pytest.mark.parametrize("words", NAMED)
def test_what_is_named_can_be_typed(words: str) -> None:
    parser().parse_args([*words.split(), *ARGUMENTS.get(words, [] if words in ALONE else ["name"])])


def test_enough_is_named() -> None:
    assert {"image lend", "image push", "image restore", "trash restore", "disk fill"} <= set(NAMED)
