"""What measures: every table is found, and the page tells ratios. What it measures needs the lab."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.__main__ import COMMAND, page
from benchmarks.measure import Row, against, files, medians


def test_every_file_that_measures_is_found() -> None:
    assert {"images", "verbs"} <= set(files())
    assert not {"measure", "__main__", "__init__"} & set(files())


def test_ways_take_turns_and_medians_are_kept() -> None:
    turns: list[str] = []
    figures = {"ours": iter((1.0, 9.0, 2.0)), "theirs": iter((4.0, 4.0, 8.0))}

    def way(name: str) -> float:
        turns.append(name)
        return next(figures[name])

    assert medians(3, {"ours": lambda: way("ours"), "theirs": lambda: way("theirs")}) == {"ours": 2.0, "theirs": 4.0}
    assert turns == ["ours", "theirs"] * 3


def test_the_page_tells_ratios_and_what_they_are_of() -> None:
    rows = list(against({"create": 0.3, "zfs create": 0.2, "cp": 6.0}, "create", "the start of Python"))
    assert rows[0] == Row("create", 0.3, "zfs create", 0.2, "the start of Python")
    table = {"title": "Disks", "rows": [asdict(row) for row in rows]}
    text = page({"trixie": {"versions": {"OpenZFS": "2.3.9"}, "tables": {"verbs": table}}})
    assert f"`{COMMAND}`" in text
    assert "## trixie\n\nOpenZFS 2.3.9.\n" in text
    assert "| create | 300 | zfs create | 200 | 1.50 | the start of Python |\n| create | 300 | cp | 6000 | 0.05 |  |\n" in text
