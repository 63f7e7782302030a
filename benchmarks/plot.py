"""A plot as SVG: a line for each series, both axes logarithmic, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 250, 40, 50
COLOURS = ("#1b6ac9", "#c9541b", "#2f8f4e", "#8a3fb8")
INK, GRID, PAPER = "#222222", "#d8d8d8", "#ffffff"

Series = Mapping[str, Sequence[tuple[float, float]]]


def plot(title: str, across: str, up: str, series: Series) -> str:
    """Return the plot of some series of (x, y), all of them positive."""
    points = [point for line in series.values() for point in line]
    x_axis = _Axis([x for x, _y in points], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([y for _x, y in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        _text(WIDTH / 2, 24, title, anchor="middle", size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, across, anchor="middle"),
        _text(10, TOP - 14, up),
    ]
    for value in y_axis.ticks():
        y = y_axis.at(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:g}", anchor="end"))
    for value in sorted({x for x, _y in points}):
        parts.append(_text(x_axis.at(value), HEIGHT - BOTTOM + 20, f"{value:g}", anchor="middle"))
    for number, (name, line) in enumerate(series.items()):
        parts += _line(name, [(x_axis.at(x), y_axis.at(y)) for x, y in line], COLOURS[number % len(COLOURS)], number)
    return "\n".join([*parts, "</svg>", ""])


def _line(name: str, points: Sequence[tuple[float, float]], colour: str, number: int) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    place = TOP + 20 + 22 * number
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points),
        f'<rect x="{WIDTH - RIGHT + 18}" y="{place - 10}" width="12" height="12" fill="{colour}"/>',
        _text(WIDTH - RIGHT + 36, place, name),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


class _Axis:
    """Where values are between two places, logarithmically; whole powers of ten and their doubles and fives are ticks."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self._begin, self._end = begin, end
        self._low, self._high = math.log10(min(values) / 1.5), math.log10(max(values) * 1.5)

    def at(self, value: float) -> float:
        return self._begin + (math.log10(value) - self._low) / (self._high - self._low) * (self._end - self._begin)

    def ticks(self) -> list[float]:
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        return [value for value in found if self._low <= math.log10(value) <= self._high]
