"""What is asked of the kernel, and when zfs(8) is asked instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zfsganeti import core, programs
from zfsganeti.zfs import Zfs

MARK = "org.zfsganeti:instance"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "is_quick", lambda pool: pool == "tank")


def answering(status: int, said: bytes, seen: list[Any]) -> Callable[..., tuple[int, bytes]]:
    def program(pool: bytes, text: bytes, asked: dict[bytes, object], *, changing: bool) -> tuple[int, bytes]:
        seen.append((pool, text, asked, changing))
        return status, said

    return program


@pytest.mark.usefixtures("quick")
def test_the_kernel_is_told_what_is_wanted_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(core, "program", answering(0, b"tank/vm\tused\t5\t-", seen))
    assert programs.look("tank/vm", ("used", MARK), "golden") == "tank/vm\tused\t5\t-"
    asked = {b"native": {b"used": b"yes"}, b"marks": {MARK.encode(): b"yes"}, b"short": b"golden", b"root": b"tank/vm"}
    assert seen == [(b"tank", programs.LOOK.encode(), asked, False)]


def failing(*_arguments: object, **_options: object) -> tuple[int, bytes]:
    raise OSError(2, "No such file or directory", "/dev/zfs")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("program", [answering(2, b"", []), failing])
def test_what_the_kernel_does_not_say_zfs_says(monkeypatch: pytest.MonkeyPatch, program: Callable[..., tuple[int, bytes]]) -> None:
    monkeypatch.setattr(core, "exists", lambda _name: True)
    monkeypatch.setattr(core, "program", program)
    monkeypatch.setattr(Zfs, "_command", lambda _zfs, *_words: f"tank/vm\tused\t7\t-\ntank/vm\t{MARK}\tweb1\tlocal\n")
    assert programs.children("tank/vm") is None
    found = Zfs().get("tank/vm", marks=(MARK,))
    assert found is not None
    assert (found.used, found.marks) == (7, {MARK: "web1"})


def test_the_kernel_is_not_asked_for_a_pool_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(core, "program", answering(0, b"", seen))
    assert programs.look("no-such-pool/vm", ("used",)) is None
    assert programs.children("no-such-pool/vm") is None
    assert not seen


@pytest.mark.usefixtures("quick")
def test_what_is_no_filesystem_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "exists", lambda _name: True)
    monkeypatch.setattr(core, "program", answering(0, b"", []))
    assert Zfs().get("tank/volume") is None


def test_what_a_program_says_is_read_by_key() -> None:
    assert programs.facts(b"why=hold\nwhat=tank/a@b (c=d)\n") == {"why": "hold", "what": "tank/a@b (c=d)"}
    assert programs.facts(b"ok=yes\ncount=3") == {"ok": "yes", "count": "3"}
