"""The guides: what they quote is said by the program, what they tell to type can be parsed, what they link to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.lab import demo
from zfsganeti.cli import parser

HOUSE = Path(__file__).parents[2]
GUIDES = [HOUSE / "README.md", *sorted((HOUSE / "docs").glob("*.md"))]
SAID = "\n".join(path.read_text(encoding="utf-8") for path in [*(HOUSE / "zfsganeti").glob("*.py"), *(HOUSE / "hooks").iterdir()])
TYPED = [
    (guide.name, line)
    for guide in GUIDES
    for line in re.findall(r"^(?:node\d# )?(gnt-zfs .+)$", guide.read_text(encoding="utf-8"), re.MULTILINE)
]

PROGRAMS = (
    *("gnt-zfs", "gnt-instance", "gnt-node", "gnt-cluster", "gnt-backup", "gnt-job", "zfs", "zpool", "syncoid", "lvcreate"),
    *("cp", "grep", "apt", "apt-get", "hostnamectl", "chattr"),
)
ELSEWHERE = {
    "lvcreate -n zfs -L 500G vg0": "a story reads it out of the guide",
    "zpool create -o ashift=12 zfs /dev/vg0/zfs": "a story reads it out of the guide",
    "gnt-instance modify -t diskless": "what not to type",
    "apt install --reinstall zfsganeti": "no archive that the lab knows has the package",
}
LAB = "\n".join(path.read_text(encoding="utf-8") for path in (HOUSE / "tests/lab").glob("test_*.py"))
HELPED = LAB.replace('adopt(lab, "', "gnt-zfs adopt ")  # what a helper of the stories puts before what it is given
STORIES = HELPED + "\n".join("\n".join(re.findall(r"^\w+# (.+)$", guide.read_text(encoding="utf-8"), re.MULTILINE)) for guide in GUIDES[1:])


def inline() -> list[tuple[str, str]]:
    """Return the commands within the sentences of the guides."""
    found = []
    for guide in GUIDES[1:]:
        sentences = re.sub(r"^```.*?^```", "", guide.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for told in re.findall(r"`([^`\n]+)`", sentences):
            words = told.split()
            if len(words) > 1 and words[0] in PROGRAMS and told not in ELSEWHERE:
                found.append((guide.name, told))
    return found


def as_typed(command: str) -> str:
    """Return a pattern of what can be typed for a command: its placeholders and values, which node, and what follows is free."""
    words = command.partition(" autosnap_...")[0].split()
    free = re.compile(r"[A-Z=].*")
    return r"\s".join(
        re.sub(r"node\d", r"node\\d", re.escape(free.sub("", word))) + (r"\S*" if free.search(word) else "") for word in words
    )


@pytest.mark.parametrize(("guide", "command"), sorted(set(inline())))
def test_what_a_sentence_says_to_type_is_typed_in_the_lab(guide: str, command: str) -> None:
    assert guide
    assert re.search(as_typed(command), STORIES)


def test_sentences_say_much_to_type() -> None:
    assert len(inline()) > 30, "or the pattern has become blind"


@pytest.mark.parametrize("row", re.findall(r"^\| (`.+?) \|", (HOUSE / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE))
def test_what_is_quoted_is_said(row: str) -> None:
    for words in re.findall(r"`([^`]+)`", row):
        assert words in SAID


@pytest.mark.parametrize(("guide", "line"), TYPED)
def test_what_is_to_be_typed_can_be_parsed(guide: str, line: str) -> None:
    assert guide
    parser().parse_args(shlex.split(line.partition(" > ")[0], comments=True)[1:])


def test_the_session_tells_the_story_of_the_demo() -> None:
    session = (HOUSE / "README.md").read_text(encoding="utf-8")
    told = [session.find(words) for words, _command in demo.STORY]
    assert -1 not in told
    assert told == sorted(told)
    typed = [command.replace("{on_node2}", "ssh node2") for _words, command in demo.STORY if command != "{add}"]
    assert [command for command in typed if f"\nnode1# {command}\n" not in session] == []


def test_much_is_to_be_typed() -> None:
    assert len(TYPED) > 20, "or the pattern has become blind"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_links_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", guide.read_text(encoding="utf-8")):
        assert (guide.parent / target).exists(), target
