"""The table of stories: what was never told is in it as well, and what a page says stays."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.lab import __main__ as lab

STORY = "| check says what is missing on which node | passed (abc) | - |"


def test_the_table_has_every_story_told_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFSGANETI_LAB_CACHE", str(tmp_path / "cache"))
    page = tmp_path / "lab.md"
    page.write_text(
        f"| story | bookworm | trixie |\n|---|---|---|\n{STORY}\n| a story that is gone | passed (abc) | - |\n", encoding="utf-8"
    )
    lab.table(argparse.Namespace(file=page))
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert STORY in rows
    stories = {line for path in Path(lab.__file__).parent.glob("test_*.py") for line in path.read_text(encoding="utf-8").splitlines()}
    stories = {lab._row(line.removeprefix("def ").partition("(")[0]) for line in stories if line.startswith("def test_")}
    assert {row.strip("| ").partition(" |")[0].partition("[")[0] for row in rows} == stories
    assert all(row.endswith("| - | - |") for row in rows if row != STORY)
