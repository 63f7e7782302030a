"""Blocks of a device or file onto a disk file: only what differs is written, and zeros become holes."""

from __future__ import annotations

import itertools
import os

from zfsganeti.errors import Unavailable
from zfsganeti.files import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Range = tuple[int, int]  # from here, and up to but not including there: bytes

BLOCK = 1 << 20  # what is read at once
PAGE = 4096  # the smallest piece that is written or becomes a hole
KEEP_SIZE, PUNCH_HOLE = 1, 2  # linux/falloc.h


class Copied:
    """How far a copy came: everything below `offset` is done, `read` bytes were compared and `written` bytes changed."""

    def __init__(self, offset: int = 0) -> None:
        self.offset, self.read, self.written = offset, 0, 0


def ranges_of(chunks: Iterable[int], chunk: int, size: int) -> list[Range]:
    """Return the bytes of a disk of `size` that lie in the numbered chunks, neighbours joined."""
    found: list[Range] = []
    for number in sorted(set(chunks)):
        start, end = number * chunk, min(size, (number + 1) * chunk)
        if start >= size:
            break
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def length(ranges: Iterable[Range]) -> int:
    return sum(end - start for start, end in ranges)


def pieces(ranges: Iterable[Range], offset: int = 0) -> Iterator[Range]:
    """Yield what of the ranges is not below `offset`, cut where a block of 1 MiB ends."""
    for begin, end in ranges:
        start = max(begin, offset)
        while start < end:
            stop = min(end, start // BLOCK * BLOCK + BLOCK)
            yield start, stop
            start = stop


def copy(source: int, target: int, ranges: Iterable[Range], done: Copied, enough: Callable[[], bool]) -> bool:
    """Within the ranges, and from `done.offset` on, the target holds what the source does; False when `enough` said to stop before.

    At least one piece is done whatever `enough` says, so that every call comes further.
    """
    first = True
    for start, end in pieces(ranges, done.offset):
        if not first and enough():
            return False
        first = False
        done.written += _copy_piece(source, target, start, end)
        done.read += end - start
        done.offset = end
    return True


def differs(source: int, target: int, ranges: Iterable[Range], done: Copied, enough: Callable[[], bool]) -> int | None:
    """Return where source and target differ first, None when they do not as far as `done.offset` says."""
    first = True
    for start, end in pieces(ranges, done.offset):
        if not first and enough():
            return None
        first = False
        if read(source, start, end) != _held(target, start, end):
            return start
        done.read += end - start
        done.offset = end
    return None


def read(descriptor: int, start: int, end: int) -> bytes:
    """Return the bytes of a range; Unavailable when there are fewer."""
    data = os.pread(descriptor, end - start, start)
    while len(data) < end - start:
        more = os.pread(descriptor, end - start - len(data), start + len(data))
        if not more:
            raise Unavailable("the disk", f"ends at {start + len(data)} bytes, {end} were expected")
        data += more
    return data


def is_hole(descriptor: int, start: int, end: int) -> bool:
    """Tell whether a range of a file is known to hold nothing."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= end
    except OSError:  # ENXIO: nothing but a hole up to the end
        return True


def _held(target: int, start: int, end: int) -> bytes:
    return bytes(end - start) if is_hole(target, start, end) else read(target, start, end)


def _copy_piece(source: int, target: int, start: int, end: int) -> int:
    """Return how many bytes of the piece had to be changed."""
    new = read(source, start, end)
    # the source is read once: what of it is kept in memory would push out what the guests use
    os.posix_fadvise(source, start, end - start, os.POSIX_FADV_DONTNEED)
    old = _held(target, start, end)
    if new == old:
        return 0
    changed = 0
    for zero, offset, data in _changes(new, old, start):
        if zero:
            punch(target, offset, len(data))
        else:
            write(target, data, offset)
        changed += len(data)
    return changed


def _changes(new: bytes, old: bytes, start: int) -> Iterator[tuple[bool, int, bytes]]:
    """Yield the runs of pages that differ as (is all zero, offset, data)."""
    empty = bytes(PAGE)

    def kind(offset: int) -> tuple[bool, bool]:
        page = new[offset : offset + PAGE]
        return page != old[offset : offset + PAGE], page == empty[: len(page)]

    for (differing, zero), run in itertools.groupby(range(0, len(new), PAGE), kind):
        if differing:
            offsets = list(run)
            yield zero, start + offsets[0], new[offsets[0] : offsets[-1] + PAGE]


def punch(descriptor: int, offset: int, size: int) -> None:
    """The range reads as zeros and, where the filesystem can do so, takes no space."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(descriptor, KEEP_SIZE | PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(size))
    if done != 0:
        write(descriptor, bytes(size), offset)
