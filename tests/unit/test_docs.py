"""Man pages and completion: every command and setting has its paragraph, and what is written of one that is not there is found."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate
from zfsganeti import extstorage
from zfsganeti.cli import parser
from zfsganeti.config import SETTINGS
from zfsganeti.contents import PARAMETERS, parse_parameters
from zfsganeti.errors import EXIT_STATUS, ZfsGanetiError
from zfsganeti.extstorage import NAMES

PAGE = (generate.HERE / "man/gnt-zfs.8.md").read_text(encoding="utf-8")
COMMANDS = dict(generate.commands())


def paragraphs(text: str) -> dict[str, str]:
    """Return what stands under each heading of the second level."""
    parts = re.split(r"^##? (.+)$", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_paragraph(name: str) -> None:
    assert len(paragraphs(PAGE).get(name, "")) > 30


def test_no_paragraph_is_of_a_command_that_is_gone() -> None:
    assert set(re.findall(r"^## (.+)$", PAGE, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_can_be_parsed(name: str) -> None:
    example = str(COMMANDS[name].epilog).removeprefix("Example: ").partition(" > ")[0].split()
    assert example[0] == "gnt-zfs"
    COMMANDS[name].parse_args(example[1 + len(name.split()) :])


def every_parser(made: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield what --help can be typed after: every command, and what commands are below."""
    yield made
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from every_parser(below)


@pytest.mark.parametrize("made", list(every_parser(parser())), ids=lambda made: made.prog)
def test_every_help_has_an_example_of_what_it_is_the_help_of(made: argparse.ArgumentParser) -> None:
    told = made.format_help()
    assert re.search(r"^Examples?:", told, re.MULTILINE)
    assert re.search(rf"{made.prog}\b", told.partition("Example")[2])


def test_exit_statuses_are_those_of_the_errors_and_told_in_help_and_man_page() -> None:
    def kinds(of: type[ZfsGanetiError]) -> Iterator[type[ZfsGanetiError]]:
        yield of
        for kind in of.__subclasses__():
            yield from kinds(kind)

    assert {kind.exit_code for kind in kinds(ZfsGanetiError)} <= set(EXIT_STATUS)
    told, page = parser().format_help(), generate.page(PAGE)
    assert [text for status, text in EXIT_STATUS.items() if f"{status:<4} {text}" not in told or f"**{status}**" not in page] == []


def options(made: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in made._actions if action.option_strings and not isinstance(action, argparse._HelpAction)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name: str) -> None:
    assert [action.dest for action in options(COMMANDS[name]) if not action.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_says_what_it_is(name: str) -> None:
    assert [action.dest for action in COMMANDS[name]._actions if not action.option_strings and not action.help] == []


def test_the_page_has_what_the_parser_knows() -> None:
    made = generate.page(PAGE)
    assert "**--sha256**" in made
    assert "`gnt-zfs trash restore [--as INSTANCE]" in made
    assert "@" not in re.sub(r"@golden|\w@\w", "", made)


def test_settings_parameters_and_verbs_are_all_there() -> None:
    settings = generate.page((generate.HERE / "man/zfsganeti.conf.5.md").read_text(encoding="utf-8"))
    assert [setting.name for setting in SETTINGS if f"**{setting.name}** (default" not in settings] == []
    provider = generate.page((generate.HERE / "man/zfsganeti-extstorage.7.md").read_text(encoding="utf-8"))
    assert [word for word in (*PARAMETERS, *NAMES) if f"**{word}**" not in provider] == []
    read = set(re.findall(r"VOL_[A-Z_]+", Path(str(extstorage.__file__)).read_text(encoding="utf-8")))
    assert len(read) > 5
    assert [word for word in read if f"\n**{word}**\n" not in provider] == []


def test_disks_in_the_provider_s_examples_are_good() -> None:
    page = (generate.HERE / "man/zfsganeti-extstorage.7.md").read_text(encoding="utf-8")
    given = re.findall(r"^ {4}.*?size=\w+,provider=zfs,(\S+)", page, re.MULTILINE)
    assert len(given) > 2
    for words in given:
        parse_parameters(dict(word.split("=", 1) for word in words.split(",")))


@pytest.mark.skipif(shutil.which("lowdown") is None, reason="lowdown is needed where the package is built only")
def test_pages_are_roff_without_complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1793491200")
    generate.write_pages(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(generate.PAGES) == 4
    for path in tmp_path.iterdir():
        made = path.read_text(encoding="utf-8")
        assert re.search(r'^\.TH "\S+" "\d" "2026-11-01"', made, re.MULTILINE)
        assert "*" not in made.partition("SYNOPSIS")[2].partition(".SH")[0]
        assert "**" not in made


def test_a_page_bears_the_day_of_the_last_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", generate._date())


LISTED = """cat() { case $1 in *instance_list) echo web1 web2;; *node_list) echo node1.example.com node2.example.com;; esac; }
gnt-zfs() {
  case "$*" in
    "trash list") printf '%s\\n' "INSTANCE  ENTRY" "web3  web3:20261101T000000Z" "web3  web3:20261102T000000Z" ;;
    "image list") printf '%s\\n' "IMAGE  SIZE" "debian-12:1  2G" "debian-13  2G" ;;
    "image list --all-nodes") printf '%s\\n' "IMAGE  SIZE" "debian-12:2  2G" ;;
    "snapshot list web1") printf '%s\\n' "INSTANCE  SNAPSHOT" "web1  gnt-upgrade" ;;
  esac
}
"""


def complete(*words: str) -> list[str]:
    script = f"{generate.completion()}\n{LISTED}COMP_WORDS=(gnt-zfs {' '.join(repr(word) for word in words)})\nCOMP_CWORD={len(words)}\n"
    done = subprocess.run(["bash", "-c", script + '_gnt_zfs; printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_completion_knows_commands_verbs_and_options() -> None:
    assert {"setup", "image", "trash"} <= set(complete(""))
    assert complete("im") == ["image"]
    assert complete("image", "re") == ["rename", "retire", "restore"]
    assert complete("trash", "restore", "--as", "web1", "--d") == ["--dry-run"]
    assert complete("trash", "restore", "--dry") == ["--dry-run"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("move", "w"), ["web1", "web2"]),
        (("move", "web1", "no"), ["node1.example.com", "node2.example.com"]),
        (("move", "--from", ""), ["node1.example.com", "node2.example.com"]),
        (("move", "--from", "=", "node2"), ["node2.example.com"]),
        (("move", "--bwlimit", ""), []),
        (("trash", "restore", "w"), ["web3"]),
        (("trash", "restore", "web3", "--into", ""), ["web1", "web2"]),
        (("trash", "restore", "web3", "--as", ""), []),
        (("adopt", "-t", ""), ["file", "ext"]),
        (("adopt", "--disk-template", "=", "e"), ["ext"]),
        (("image", "import", "--format", "v"), ["vmdk", "vdi", "vhdx"]),
        (("image", "push", "debian-12", "node1"), ["node1.example.com"]),
        (("snapshot", "create", "web"), ["web1", "web2"]),
        (("disk", "swap", "web2"), ["web2"]),
        (("help", "tr"), ["trash"]),
        (("help", "trash", "re"), ["restore"]),
        (("help", "trash", "restore", ""), []),
        (("trash", "empty", "web"), ["web3:20261101T000000Z", "web3:20261102T000000Z"]),
        (("trash", "empty", "web3", ":"), ["20261101T000000Z", "20261102T000000Z"]),
        (("trash", "empty", "web3", ":", "20261102"), ["20261102T000000Z"]),
        (("trash", "empty", "web3", ":", "20261102T000000Z", "web"), ["web3:20261101T000000Z", "web3:20261102T000000Z"]),
        (("image", "show", "de"), ["debian-12:1", "debian-13"]),
        (("image", "pull", "de"), ["debian-12:2"]),
        (("image", "import", "de"), []),
        (("snapshot", "rollback", "w"), ["web1", "web2"]),
        (("snapshot", "rollback", "web1", "g"), ["gnt-upgrade"]),
        (("snapshot", "delete", "--yes", "web1", ""), ["--help", "--any", "--yes", "gnt-upgrade"]),
    ],
)
def test_completion_offers_what_there_is(words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(*words) == offered
