"""What channel programs answer, and what it is taken for."""

from __future__ import annotations

import pytest

from zfsganeti import programs


def test_what_a_program_says_is_read_by_key() -> None:
    assert programs.facts(b"why=hold\nwhat=tank/a@b (c=d)\n") == {"why": "hold", "what": "tank/a@b (c=d)"}
    assert programs.facts(b"ok=yes\ncount=3") == {"ok": "yes", "count": "3"}


@pytest.mark.parametrize("tag", ["x\nok=yes\ncount=0\n.", "x\nwhy=missing", "x\u2028ok=yes", "x\x85ok=yes", "x\x1cok=yes"])
def test_the_tag_of_a_hold_decides_nothing(tag: str) -> None:
    found = programs.facts(f"why=hold\nwhat=tank/a@b ({tag})\n".encode())
    assert "ok" not in found
    assert found["why"] == "hold"


def test_no_answer_is_no_success() -> None:
    assert programs.facts(b"") == {}
