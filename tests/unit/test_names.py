"""What may be a name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti.errors import BadName
from zfsganeti.names import check_dataset, check_image, check_snapshot, meant


@pytest.mark.parametrize("name", ["debian-12", "debian-12:2026-11-01", "9front", "Win_11.pro:v1", "a", "x" * 100, "a:1-b"])
def test_an_image_may_be_called_so(name: str) -> None:
    assert check_image(name) == name


@pytest.mark.parametrize(
    "name", ["", ".hidden", "-o", "_x", ":v1", "a:", "a:b:c", "a/b", "..", "a@b", "a b", "a\n", "ä", "x" * 101, "a#b", "a\0"]
)
def test_an_image_may_not_be_called_so(name: str) -> None:
    with pytest.raises(BadName, match="^image name "):
        check_image(name)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="ab1.-_:/@ \n", max_size=12))
def test_an_image_is_one_component_of_a_dataset_and_no_option(name: str) -> None:
    try:
        check_image(name)
    except BadName:
        return
    assert check_dataset(f"zfs/vm/.images/.partial/{name}").count("/") == 4
    assert check_snapshot(f"zfs/vm/{name}@{name}")
    assert name[0] not in "-."


INSTANCES = ["mail.example.com", "web1.example.com", "web2.example.com"]


@pytest.mark.parametrize(
    ("typed", "known", "said"),
    [
        ("chekc", ["check", "list"], "did you mean check?"),
        ("mial", INSTANCES, "did you mean mail.example.com?"),
        ("wbe1", INSTANCES, "did you mean web1.example.com?"),
        ("web1.exmaple.com", INSTANCES, "did you mean web1.example.com?"),
        ("debina-12", ["debian-12:2026-11-01", "windows"], "did you mean debian-12:2026-11-01?"),
        ("webb", INSTANCES, "did you mean web2.example.com or web1.example.com?"),
        ("web9", INSTANCES, "look"),  # another number is another thing
        ("debian-13", ["debian-12:2026-11-01", "debian-12"], "look"),
        ("xyzzy", INSTANCES, "look"),
        ("", INSTANCES, "look"),
        ("web1", [], "look"),
    ],
)
def test_what_was_probably_meant(typed: str, known: list[str], said: str) -> None:
    assert meant(typed, known, "look") == said
