"""The picture of the design: it is what its source makes, and no word runs over an edge or another word."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from xml.etree import ElementTree

from docs import design

SVG = "{http://www.w3.org/2000/svg}"
DRAWN = ElementTree.fromstring(design.picture())
WIDE = {"bold": 0.69, "": 0.6}  # of the size, what a letter takes in the widest of the fonts


@dataclass(frozen=True)
class Place:
    left: float
    top: float
    right: float
    bottom: float

    def has(self, other: Place) -> bool:
        return self.left <= other.left and self.right >= other.right and self.top <= other.top and self.bottom >= other.bottom

    def meets(self, other: Place) -> bool:
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.get(name, "0"))


def of_text(text: ElementTree.Element) -> Place:
    size, x, y = number(text, "font-size"), number(text, "x"), number(text, "y")
    width = len(text.text or "") * size * WIDE[text.get("font-weight", "")]
    left = x - width / 2 if text.get("text-anchor") == "middle" else x
    return Place(left, y - size, left + width, y + size / 4)


def of_area(area: ElementTree.Element) -> Place:
    x, y = number(area, "x"), number(area, "y")
    return Place(x, y, x + number(area, "width"), y + number(area, "height"))


WORDS = {text.text: of_text(text) for text in DRAWN.iter(f"{SVG}text") if text.text not in ("clone", "disk 0", "disk 1")}
AREAS = [of_area(area) for area in DRAWN.iter(f"{SVG}rect")]


def test_the_picture_is_what_its_source_makes() -> None:
    assert design.PICTURE.read_text(encoding="utf-8") == design.picture(), "python3 -m docs.design writes it anew"


def test_no_word_runs_over_an_edge() -> None:
    """Whatever has a word's middle has all of it."""
    for text, place in WORDS.items():
        x, y = (place.left + place.right) / 2, (place.top + place.bottom) / 2
        around = [area for area in AREAS if area.has(Place(x, y, x, y))]
        assert around, text
        assert all(area.has(place) for area in around), text


def test_no_word_runs_over_another() -> None:
    assert [(one, other) for (one, a), (other, b) in combinations(WORDS.items(), 2) if a.meets(b)] == []


def test_doors_library_and_pool_are_in_it() -> None:
    said = " ".join(str(text) for text in WORDS)
    for thing in ("hooks", "ExtStorage provider", "gnt-zfs", "one library", "golden image", "trash", "gnt-zfs move", "node2"):
        assert thing in said
