"""What measures: every table is found, and the page tells ratios and plots. What it measures needs the lab."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from typing import Any

from benchmarks import moves
from benchmarks.__main__ import COMMAND, page, plots, tables
from benchmarks.measure import Row, against, medians
from benchmarks.plot import plot


def found(table: str, *rows: Row) -> dict[str, Any]:
    return {"versions": {"OpenZFS": "2.3.9"}, "tables": {table: {"title": "Disks", "rows": [asdict(row) for row in rows]}}}


def test_every_file_that_measures_is_found() -> None:
    assert tables() == ["counts", "hooks", "images", "lists", "moves", "verbs"]


def test_ways_take_turns_and_medians_are_kept() -> None:
    turns: list[str] = []
    figures = {"ours": iter((1.0, 9.0, 2.0)), "theirs": iter((4.0, 4.0, 8.0))}

    def way(name: str) -> float:
        turns.append(name)
        return next(figures[name])

    assert medians(3, {"ours": lambda: way("ours"), "theirs": lambda: way("theirs")}) == {"ours": 2.0, "theirs": 4.0}
    assert turns == ["ours", "theirs"] * 3


def test_the_page_tells_ratios_and_what_they_are_of() -> None:
    rows = list(against({"create": 0.25, "zfs create": 0.125, "cp": 5.0}, "create", "the start of Python"))
    assert rows[0] == Row("create", 250, "zfs create", 125, "the start of Python")
    text = page({"trixie": found("verbs", *rows, Row("create", 3, "nothing", 0, unit="txg"))})
    assert f"`{COMMAND}`" in text
    assert "## trixie\n\nOpenZFS 2.3.9.\n" in text
    assert "| create | 250 ms | zfs create | 125 ms | 2.00 | the start of Python |\n" in text
    assert "| create | 250 ms | cp | 5000 ms | 0.05 |  |\n" in text
    assert "| create | 3 txg | nothing | 0 txg | - |  |\n" in text


def test_a_move_is_compared_with_ganetis_own_or_with_a_smaller_disk() -> None:
    down = {(moves.OURS, 1): 9.0, (moves.OURS, 4): 10.0, (moves.OURS, 16): 11.0}
    assert [(row.theirs, row.figure) for row in moves.told(down)] == [("gnt-zfs move, 1 GiB", 10), ("gnt-zfs move, 1 GiB", 11)]
    down |= {(moves.THEIRS, 1): 90.0, (moves.THEIRS, 4): 300.0}
    theirs = ["gnt-instance move, 1 GiB", "gnt-instance move, 4 GiB", "gnt-zfs move, 1 GiB"]
    assert [row.theirs for row in moves.told(down)] == theirs


def test_what_grows_with_a_size_is_plotted() -> None:
    down = {(moves.OURS, 1): 9.0, (moves.OURS, 4): 10.0, (moves.OURS, 16): 11.0, (moves.THEIRS, 1): 90.0, (moves.THEIRS, 4): 300.0}
    [(name, text)] = plots({"bookworm": found("moves", *moves.told(down))})
    assert name == "move-downtime.svg"
    assert "gnt-zfs move (bookworm)" in text
    drawn = ElementTree.fromstring(text)
    circles = [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in drawn.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(circles) == 5
    ours, theirs = circles[:3], circles[3:]
    assert [x for x, _y in ours] == sorted(x for x, _y in ours)
    assert all(one[0] == other[0] and one[1] > other[1] for one, other in zip(ours, theirs, strict=False)), "longer is higher"


def test_a_plot_names_its_axes_and_escapes() -> None:
    text = plot("a < b", "GiB", "ms", {"one": [(1, 20), (10, 2000)]})
    assert "a &lt; b" in text
    assert ">GiB<" in text
    assert ">ms<" in text
    assert ">100<" in text
    ElementTree.fromstring(text)
