"""What people read when something goes wrong, word for word."""

from __future__ import annotations

import errno
import os
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti.errors import (
    BadConfig,
    BadEnvironment,
    BadInput,
    BadName,
    Busy,
    CommandFailed,
    Foreign,
    Full,
    Missing,
    NoSpace,
    Refused,
    Unavailable,
    ZfsGanetiError,
    human,
    last_line,
    of_command,
    of_system,
    one_line,
)

MESSAGES = [
    (BadName("instance", "Web1", "must be lower-case"), 2, "instance name 'Web1': must be lower-case"),
    (BadName("instance", cast(str, None), "must be lower-case"), 2, "instance name 'None': must be lower-case"),  # a peer has sent it
    (BadConfig("/etc/x", ["one", "two"]), 2, "/etc/x: one; two"),
    (BadEnvironment("GANETI_MASTER", None, "it must be set"), 2, "GANETI_MASTER is not set: it must be set"),
    (BadEnvironment("GANETI_MASTER", "a b", "no"), 2, "GANETI_MASTER is 'a b': no"),
    (BadInput("as it is"), 2, "as it is"),
    (Unavailable("pool zfs", "is FAULTED", "zpool status zfs"), 3, "pool zfs: is FAULTED: zpool status zfs"),
    (Unavailable("pool zfs", "is FAULTED"), 3, "pool zfs: is FAULTED"),
    (Missing("dataset a/b"), 4, "dataset a/b does not exist"),
    (Missing("dataset a/b", "make one"), 4, "dataset a/b does not exist: make one"),
    (Refused("a", "b"), 5, "a: b"),
    (Foreign("a", "b", "c"), 5, "a: b: c"),
    (Busy("dataset a/b", "has the clone c"), 6, "dataset a/b: has the clone c"),
    (NoSpace("web1 on zfs/vm", 3 << 30, 1 << 29, "make room"), 7, "web1 on zfs/vm: 3.00G asked for, 512M available: make room"),
    (Full("dataset a/b"), 7, "dataset a/b: no space is left: gnt-zfs trash empty may make room"),
    (CommandFailed("zfs set", 1, "usage\n  cannot set\n\n"), 1, "zfs set: cannot set"),
    (CommandFailed("zfs set", 9, " \n"), 1, "zfs set: exit status 9"),
    (ZfsGanetiError("plain"), 1, "plain"),
]


@pytest.mark.parametrize(("error", "code", "text"), MESSAGES, ids=lambda value: type(value).__name__)
def test_every_error_says_its_line_and_ends_with_its_code(error: ZfsGanetiError, code: int, text: str) -> None:
    assert (str(error), error.exit_code, one_line(error)) == (text, code, text)


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.ENOSPC, 7, "/vm/x: no space is left: gnt-zfs trash empty may make room"),
        (errno.EDQUOT, 7, "/vm/x: no space is left: gnt-zfs trash empty may make room"),
        (errno.EROFS, 5, "/vm/x: is read-only: zfs get readonly says whether that was set, gnt-zfs check whether a move has left it so"),
        (errno.EIO, 3, "/vm/x: cannot be read or written: zpool status says what is broken"),
        (errno.EBUSY, 6, "/vm/x: is in use"),
        (errno.EPERM, 3, "/vm/x: permission denied: gnt-zfs check says whether what belongs there is mounted"),
        (errno.ENOENT, 1, "/vm/x: no such file or directory"),
    ],
)
def test_what_the_kernel_refuses_is_said_with_a_way_out(number: int, code: int, text: str) -> None:
    known = of_system(OSError(number, os.strerror(number), "/vm/x"))
    assert (one_line(known), known.exit_code) == (text, code)
    assert str(of_system(OSError(number, os.strerror(number)), "image a")) == text.replace("/vm/x", "image a")
    assert str(of_system(OSError("nothing known"))) == "OSError: nothing known"


def test_a_program_that_found_no_room_is_told_from_one_that_failed() -> None:
    assert (
        str(of_command("mke2fs", 1, "x\nmke2fs: No space left on device\n"))
        == "mke2fs: no space is left: gnt-zfs trash empty may make room"
    )
    assert isinstance(of_command("mke2fs", 1, "bad block"), CommandFailed)


def test_a_long_name_or_value_is_cut() -> None:
    assert len(str(BadName("instance", "x" * 5000, "is long"))) < 120
    assert len(str(BadEnvironment("GANETI_MASTER", "x" * 5000, "is long"))) < 120


def test_one_line_is_one_line_and_names_what_is_not_ours() -> None:
    assert one_line(Refused("a\nb", "c\r\n\td")) == "a b: c d"
    assert one_line(ValueError("first\nsecond")) == "ValueError: first second"
    assert one_line(FileNotFoundError(2, "No such file", "/x")) == "FileNotFoundError: [Errno 2] No such file: '/x'"


def test_the_last_line_is_the_last_that_says_something() -> None:
    assert last_line("one\n two \n\n  \n") == "two"
    assert last_line("\n") == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.00K"),
        (1536, "1.50K"),
        (10 << 10, "10.0K"),
        (100 << 20, "100M"),
        (1 << 30, "1.00G"),
        (int(1.5 * (1 << 40)), "1.50T"),
        (1 << 50, "1.00P"),
        (5 << 60, "5120P"),
        (-512, "-512B"),
    ],
)
def test_sizes_are_written_like_zfs_writes_them(size: int, text: str) -> None:
    assert human(size) == text


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=1 << 60))
def test_a_size_is_short_and_nearly_right(size: int) -> None:
    text = human(size)
    units = {unit: 1 << (10 * power) for power, unit in enumerate("BKMGTP")}
    assert len(text) <= 6
    assert abs(float(text[:-1]) * units[text[-1]] - size) <= size * 0.006
