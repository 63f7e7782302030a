"""What may be a name: of a dataset, of a snapshot, of an image. None that passed leads out of its place."""

from __future__ import annotations

import re

from zfsganeti.errors import BadName

NAME_LIMIT = 255  # ZFS_MAX_DATASET_NAME_LEN less the NUL
IMAGE_LIMIT = 100  # leaves room for the root before it and a snapshot behind it
COMPONENT = re.compile(r"[A-Za-z0-9._:-]+")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?")


def check_dataset(name: str) -> str:
    """Return a name that can be a dataset's; BadName says what is wrong with it."""
    if len(name.encode()) > NAME_LIMIT:
        raise BadName("dataset", name, f"is longer than {NAME_LIMIT} bytes")
    for part in name.split("/"):
        if not COMPONENT.fullmatch(part) or part in (".", ".."):
            raise BadName("dataset", name, "each part must be letters, digits, '.', '-', '_' and ':'")
    return name


def check_snapshot(name: str) -> str:
    """Return a full name dataset@snapshot that can be a snapshot's."""
    dataset, at, short = name.partition("@")
    if not at or not COMPONENT.fullmatch(short) or len(name.encode()) > NAME_LIMIT:
        raise BadName("snapshot", name, "must be dataset@snapshot of letters, digits, '.', '-', '_' and ':'")
    check_dataset(dataset)
    return name


def check_label(name: str) -> str:
    """Return what somebody may call a snapshot: the part behind the '@', which begins with a letter or digit."""
    if not LABEL.fullmatch(name) or len(name) > IMAGE_LIMIT:
        raise BadName("snapshot", name, f"must be 1 to {IMAGE_LIMIT} letters, digits, '.', '-' and '_', and begin with a letter or digit")
    return name


def check_image(name: str) -> str:
    """Return a name that can be an image's: debian-12, or debian-12:2026-11-01 with a version."""
    if not name or len(name) > IMAGE_LIMIT:
        raise BadName("image", name, f"must have 1 to {IMAGE_LIMIT} characters")
    if not IMAGE.fullmatch(name) or ".." in name:
        raise BadName(
            "image", name, "must be NAME or NAME:VERSION of letters, digits, '.', '-' and '_', each beginning with a letter or digit"
        )
    return name


def family(name: str) -> str:
    """Return an image's name without its version."""
    return name.partition(":")[0]


def means(wanted: str, name: str) -> bool:
    """Tell whether a name that somebody gives can mean an image: without a version it means every version."""
    return wanted in (name, family(name))
