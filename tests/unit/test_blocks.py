"""Blocks from one disk to another: what is within the ranges is equal afterwards, what is not is untouched, and zeros are holes."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti.blocks import BLOCK, PAGE, Copied, copy, differs, is_hole, length, pieces, punch, ranges_of, read
from zfsganeti.errors import Unavailable

quick = settings(max_examples=60, deadline=None, derandomize=True)
SIZE = 3 * BLOCK + 5 * PAGE
page_numbers = st.lists(st.integers(0, SIZE // PAGE - 1), max_size=12)
disks = st.fixed_dictionaries({"new": page_numbers, "old": page_numbers, "both": page_numbers})


@contextmanager
def disk(content: bytes = b"", size: int = 0) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), content, 0)
        os.ftruncate(file.fileno(), size or len(content))
        yield file.fileno()


def filled(*kinds: tuple[list[int], int]) -> bytes:
    content = bytearray(SIZE)
    for pages, value in kinds:
        for number in pages:
            content[number * PAGE : (number + 1) * PAGE] = bytes([value]) * PAGE
    return bytes(content)


@quick
@given(disks, st.lists(st.integers(0, SIZE // 65536), max_size=20), st.integers(0, 3))
def test_the_target_is_equal_within_the_ranges_and_untouched_elsewhere(
    pages: dict[str, list[int]], chunks: list[int], patience: int
) -> None:
    new, old = filled((pages["both"], 1), (pages["new"], 2)), filled((pages["both"], 1), (pages["old"], 3))
    ranges = ranges_of(chunks, 65536, SIZE)
    with disk(new) as source, disk(old) as target:
        done, calls = Copied(), 0
        while not copy(source, target, ranges, done, lambda: patience == 0):
            calls += 1
            assert calls < 10, "every call comes further"
        result = read(target, 0, SIZE)
        wanted = bytearray(old)
        for start, end in ranges:
            wanted[start:end] = new[start:end]
        assert result == bytes(wanted)
        assert done.read == length(ranges)
        assert differs(source, target, ranges, Copied(), lambda: False) is None
        again = Copied()
        assert copy(source, target, ranges, again, lambda: False)
        assert again.written == 0, "what is equal is not written"


def test_zeros_become_holes_and_an_empty_target_stays_sparse() -> None:
    with disk(size=4 * BLOCK) as source, disk(size=4 * BLOCK) as target:
        os.pwrite(source, b"x" * PAGE, 2 * BLOCK)
        os.pwrite(target, b"y" * BLOCK, 0)
        done = Copied()
        assert copy(source, target, [(0, 4 * BLOCK)], done, lambda: False)
        assert (done.read, done.written) == (4 * BLOCK, BLOCK + PAGE)
        assert os.fstat(target).st_blocks * 512 <= 16 * PAGE
        assert is_hole(target, 0, BLOCK)
        assert not is_hole(target, 2 * BLOCK, 2 * BLOCK + PAGE)
        assert is_hole(target, 3 * BLOCK, 4 * BLOCK)


def test_what_differs_is_found() -> None:
    with disk(b"a" * BLOCK * 2) as source, disk(b"a" * BLOCK * 2) as target:
        os.pwrite(target, b"b", BLOCK + 7)
        assert differs(source, target, [(0, 2 * BLOCK)], Copied(), lambda: False) == BLOCK
        assert differs(source, target, [(0, BLOCK)], Copied(), lambda: False) is None
        punch(target, 0, BLOCK)
        assert read(target, 0, BLOCK) == bytes(BLOCK)


def test_a_source_that_is_too_short_is_said() -> None:
    with disk(b"a" * PAGE) as source, disk(size=BLOCK) as target, pytest.raises(Unavailable, match=f"ends at {PAGE} bytes"):
        copy(source, target, [(0, BLOCK)], Copied(), lambda: False)


@quick
@given(st.sets(st.integers(0, 100)), st.sampled_from((4096, 65536)), st.integers(1, 5 << 20))
def test_ranges_hold_the_chunks_and_nothing_else(chunks: set[int], chunk: int, size: int) -> None:
    ranges = ranges_of(chunks, chunk, size)
    inside = {number for number in range(-(-size // chunk)) for start, end in ranges if start <= number * chunk < end}
    assert inside == {number for number in chunks if number * chunk < size}
    assert all(start < end <= size for start, end in ranges)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(ranges))
    assert length(pieces(ranges)) == length(ranges)
    assert all(end - start <= BLOCK and start // BLOCK == (end - 1) // BLOCK for start, end in pieces(ranges))
