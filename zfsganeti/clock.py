"""Whether a node's clock can be trusted with what expires: a clock that has jumped ahead makes nothing go that was to be kept.

The root remembers when expiry was last looked at, which is every few minutes. Where days have passed since, the clock has jumped, or
the node was off: either way everything is kept once more for as long as it is kept at first. What is put away while the clock is
behind bears a date that is long past once that is set right, so it is looked at then, too.
"""

from __future__ import annotations

from zfsganeti.names import PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsganeti.datasets import Backend, Store

MARK = PREFIX + "clock"  # LAST UNTIL: when it was looked at last, and before which time nothing expires, in seconds since 1970
JUMP = 2 * 86400  # seconds: a node that is up looks every five minutes
PRECISE = 3600  # seconds: a mark is not written for less


def parse(mark: str) -> tuple[float, float]:
    """Return what a mark says; (0, 0), which is no time at all, of one that is missing or not understood."""
    last, _space, until = mark.partition(" ")
    return (float(last), float(until)) if last.isdecimal() and until.isdecimal() else (0.0, 0.0)


def tick(last: float, until: float, now: float, keep: float) -> tuple[float, float]:
    """Return what is known at `now`, when what is removed is kept for `keep` seconds: when that is, and until when nothing expires."""
    if last and now - last > JUMP:
        until = now + keep
    return now, min(until, now + keep)


def _known(zfs: Backend, root: str) -> tuple[float, float] | None:
    """Return what a root's mark says, None without that root."""
    found = zfs.get(root, marks=(MARK,))
    return None if found is None else parse(found.marks.get(MARK, ""))


def until(zfs: Backend, root: str) -> float:
    """Return before which time nothing expires below a root."""
    return (_known(zfs, root) or (0.0, 0.0))[1]


def foresee(zfs: Backend, root: str, now: float, keep: float) -> float:
    """Return before which time nothing expires, as a look at this moment would find; nothing is changed."""
    return tick(*(_known(zfs, root) or (0.0, 0.0)), now, keep)[1]


def heed(store: Store) -> None:
    """Something is put away now: if the clock has gone back since the last look, it is known to jump when it is set right."""
    known, now = _known(store.zfs, store.root.name), store.now()
    if known is not None and known[0] > now:
        look(store.zfs, store.root.name, now, store.config.trash_days * 86400)


def look(zfs: Backend, root: str, now: float, keep: float) -> float:
    """It is known that expiry was looked at; return before which time nothing expires."""
    known = _known(zfs, root)
    last, hold = tick(*(known or (0.0, 0.0)), now, keep)
    if known is not None and (hold != known[1] or abs(last - known[0]) > PRECISE):
        zfs.set(root, {MARK: f"{last:.0f} {hold:.0f}"})
    return hold
