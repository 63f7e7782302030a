"""What a peer's answer must be at least."""

from __future__ import annotations

from typing import Any

import pytest

from zfsganeti.answer import VERBS
from zfsganeti.errors import Unavailable
from zfsganeti.shapes import SHAPES, fits, understood


@pytest.mark.parametrize(
    ("value", "shape", "fine"),
    [
        (1, int, True),
        ("1", int, False),
        ([], [str], True),
        (["a", 1], [str], False),
        ({"a": 1, "more": 2}, {"a": int}, True),
        ({"b": 1}, {"a": object}, False),
        ({"a": "x"}, {"a": int}, False),
        ([["a", "b"]], [(str, str)], True),
        ([["a"]], [(str, str)], False),
        ([["a", "b", "c"]], [(str, str)], False),
        (["ab"], [(str, str)], False),
        (None, object, True),
    ],
)
def test_a_value_is_of_a_shape_or_not(value: Any, shape: Any, *, fine: bool) -> None:
    assert fits(value, shape) is fine


def test_an_answer_of_another_shape_names_the_node_and_the_verb() -> None:
    with pytest.raises(Unavailable, match="^node2: gnt-zfs there answers images in a way not known here: install the same version"):
        understood("node2", "images", 5)
    assert understood("node2", "images", []) == []
    assert understood("node2", "home", 5) == 5


def test_shapes_are_of_verbs_that_there_are() -> None:
    assert set(SHAPES) <= set(VERBS)
