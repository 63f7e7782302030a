"""Names that people give: of an image and its version."""

from __future__ import annotations

from zfsganeti.errors import BadName

CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
LIMIT = 100


def check_image(name: str) -> str:
    """Return a name that can be an image's, such as debian-12 or debian-12:2026-11-01."""
    parts = name.split(":")
    for part in parts:
        if not part or part[0] in ".-_" or not CHARACTERS.issuperset(part) or ".." in part:
            raise BadName(
                "image", name, "must be NAME or NAME:VERSION of letters, digits, '.', '-' and '_', each beginning with a letter or digit"
            )
    if len(parts) > 2 or len(name) > LIMIT:
        raise BadName("image", name, f"must have one ':' at most and no more than {LIMIT} characters")
    return name


def family(name: str) -> str:
    """Return an image's name without its version."""
    return name.partition(":")[0]
