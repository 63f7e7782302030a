"""What may be a name: of a dataset, of a snapshot, of an image; which one was meant. None that passed leads out of its place."""

from __future__ import annotations

from zfsganeti.errors import BadInput, BadName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFIX = "org.zfsganeti:"  # of our user properties
NAME_LIMIT = 255  # ZFS_MAX_DATASET_NAME_LEN less the NUL
IMAGE_LIMIT = 100  # leaves room for the root before it and a snapshot behind it
IN_TRASH = "{}/.trash/{}:00000000T000000Z.99"  # the longest name that what is below a root can get
SNAPSHOT_BYTES = 64  # kept for snapshots: sanoid's have 40, ours less than these unless somebody names them
SNAPSHOT_VOLUME = ".snap"  # what Ganeti appends to a volume's name for a snapshot of it, which is a volume as well
REMOVE = "/usr/share/ganeti/extstorage/zfs/remove"  # what puts the volume VOL_NAME of a node into the trash there
NEEDED_BYTES = 63  # the least that a root must leave for names: a volume's have 46, and a label of a host's name may have 63
# sets, for every verb of a disk comes here and importing `re` takes longer than what it does
ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
IMAGE = ALPHANUMERIC | frozenset("._-")
COMPONENT = IMAGE | {":"}
ALIKE = 0.65  # of 1, by difflib's measure: `mv` is `move` still
GUESSES = 2  # more are no help


def is_component(text: str) -> bool:
    """Tell whether a text has only what a part of a name may have."""
    return bool(text) and COMPONENT.issuperset(text)


def check_dataset(name: str) -> str:
    """Return a name that can be a dataset's; BadName says what is wrong with it."""
    for part in name.split("/"):
        if not is_component(part) or part in (".", ".."):
            raise BadName("dataset", name, "each part must be letters, digits, '.', '-', '_' and ':'")
    if len(name) > NAME_LIMIT:  # each of these characters is one byte, others may be none that can be encoded
        raise BadName("dataset", name, f"is longer than {NAME_LIMIT} bytes")
    return name


def check_snapshot(name: str) -> str:
    """Return a full name dataset@snapshot that can be a snapshot's."""
    dataset, at, short = name.partition("@")
    if not at or not is_component(short) or len(name) > NAME_LIMIT:
        raise BadName("snapshot", name, "must be dataset@snapshot of letters, digits, '.', '-', '_' and ':'")
    check_dataset(dataset)
    return name


def longest_below(root: str) -> int:
    """Return how many characters a name below a root may have so that all that is ever made of it has a name as well."""
    return max(0, NAME_LIMIT - len(IN_TRASH.format(root, SNAPSHOT_VOLUME)) - 1 - SNAPSHOT_BYTES)


def check_fits(kind: str, name: str, root: str) -> str:
    """Return a name that something new below a root may have; BadName says how long it may be: it must fit into the trash, too."""
    if len(name) > longest_below(root):
        raise BadName(kind, name, f"is too long, {longest_below(root)} characters are the most below {root}")
    return name


def check_root(root: str) -> str:
    """Return a name that can be a root's: it leaves room for those of what is below it."""
    if longest_below(check_dataset(root)) < NEEDED_BYTES:
        raise BadName("root", root, f"is too long, {longest_below('') - NEEDED_BYTES} characters are the most")
    return root


def check_kept(dataset: str, short: str) -> str:
    """Return the short name of a snapshot with which its dataset, which lies below a root, can go into the trash."""
    spare = NAME_LIMIT - len(IN_TRASH.format(*dataset.rsplit("/", 1))) - 1
    if len(short) > spare:
        raise BadName("snapshot", short, f"is too long to follow {dataset} into the trash, {max(0, spare)} characters are the most")
    return short


def check_image_fits(name: str, root: str) -> str:
    """Return a name that a new image may have below a root, where it is made beside its place."""
    spare = NAME_LIMIT - len(f"{root}/.images/.partial/..look@golden")
    if len(check_image(name)) > spare:
        raise BadName("image", name, f"is too long, {max(0, spare)} characters are the most below {root}")
    return name


def check_label(name: str) -> str:
    """Return what somebody may call a snapshot: the part behind the '@', which begins with a letter or digit."""
    if not name or len(name) > IMAGE_LIMIT or name[0] not in ALPHANUMERIC or not IMAGE.issuperset(name):
        raise BadName("snapshot", name, f"must be 1 to {IMAGE_LIMIT} letters, digits, '.', '-' and '_', and begin with a letter or digit")
    return name


def check_hold(tag: str) -> str:
    """Return what can be the tag of a hold, and is no option where it is an argument."""
    if not is_component(tag) or tag.startswith("-"):
        raise BadInput(f"hold {tag[:80]!r}: must be letters, digits, '.', '-', '_' and ':'")
    return tag


def check_image(name: str) -> str:
    """Return a name that can be an image's: debian-12, or debian-12:2026-11-01 with a version."""
    if not name or len(name) > IMAGE_LIMIT:
        raise BadName("image", name, f"must have 1 to {IMAGE_LIMIT} characters")
    words = name.split(":")
    if len(words) > 2 or not all(word and word[0] in ALPHANUMERIC and IMAGE.issuperset(word) for word in words) or ".." in name:
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


def meant(typed: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a question, such as 'did you mean web1?', for a name that does not exist, or what to say when no known one is like it.

    Fingers slip on letters: what differs in its digits only is another thing, and what has the same digits is meant rather than what
    has not. Without a domain or a version a name stands for the whole one.
    """
    import difflib  # not when names are right

    others = [name for name in sorted(known) if _without_digits(typed) not in map(_without_digits, _forms(typed, name))]
    meanings = {form: name for name in others for form in _forms(typed, name)}
    close = difflib.get_close_matches(typed, meanings, GUESSES * 2, ALIKE)
    close = [form for form in close if _digits(form) == _digits(typed)] or close
    return guess(list(dict.fromkeys(meanings[form] for form in close))[:GUESSES]) or otherwise


def guess(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""


def _forms(typed: str, name: str) -> list[str]:
    """Return a name, and what it is without what was not typed either."""
    return [name, *(name.partition(mark)[0] for mark in ".:" if mark not in typed)]


def _digits(name: str) -> str:
    return "".join(character for character in name if character.isdigit())


def _without_digits(name: str) -> str:
    return "".join(character for character in name if not character.isdigit())
