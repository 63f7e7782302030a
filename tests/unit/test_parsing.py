"""Slips of the finger: each gets one line that says what was probably meant, and status 2."""

from __future__ import annotations

import pytest

from docs import generate
from zfsganeti import cli, parsing


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("chekc", "gnt-zfs: there is no command chekc: did you mean check?"),
        ("restore web1", "gnt-zfs: there is no command restore: did you mean trash restore or image restore?"),
        ("image imprt x y", "gnt-zfs image: there is no command imprt: did you mean import?"),
        ("trash xyzzy", "gnt-zfs trash: there is no command xyzzy: choose from list, restore, empty"),
        ("trash list --jsn", "gnt-zfs trash list: there is no option --jsn: did you mean --json?"),
        ("move web1 node3 --bwlimt=5", "gnt-zfs move: there is no option --bwlimt: did you mean --bwlimit?"),
        ("check --xyzzy", "gnt-zfs check: there is no option --xyzzy: gnt-zfs check --help shows all"),
        ("adopt -t fiel web1", "gnt-zfs adopt: -t/--disk-template cannot be fiel: did you mean file?"),
        ("image export a b --format zip", "gnt-zfs image export: --format cannot be zip: choose from raw, qcow2"),
        ("--jsn", "gnt-zfs: there is no option --jsn: options come behind the command, and gnt-zfs --help shows all"),
        ("--versoin", "gnt-zfs: there is no option --versoin: did you mean --version?"),
        ("image push --bwlimt", "gnt-zfs image push: there is no option --bwlimt: did you mean --bwlimit?"),
        (
            "trash -x restore web1",
            "gnt-zfs trash: there is no option -x: options come behind the command, and gnt-zfs trash --help shows all",
        ),
        ("trash list --js", "gnt-zfs trash list: there is no option --js: did you mean --json?"),
        ("undo", "gnt-zfs: there is no command undo: did you mean trash restore?"),
        ("undelete web1", "gnt-zfs: there is no command undelete: did you mean trash restore?"),
        ("remove web1", "gnt-zfs: there is no command remove: did you mean gnt-instance remove?"),
        (
            "delete web1",
            "gnt-zfs: there is no command delete: did you mean gnt-instance remove or image delete or snapshot delete?",
        ),
        ("image create a", "gnt-zfs image: there is no command create: did you mean import or save?"),
        ("snapshot destroy web1 a", "gnt-zfs snapshot: there is no command destroy: did you mean delete?"),
        ("trash rm a", "gnt-zfs trash: there is no command rm: did you mean empty?"),
        ("fix", "gnt-zfs: there is no command fix: did you mean check --repair?"),
        ("repair", "gnt-zfs: there is no command repair: did you mean check --repair?"),
        ("version", "gnt-zfs: there is no command version: did you mean --version?"),
        ("purge", "gnt-zfs: there is no command purge: did you mean trash empty?"),
        ("destroy web1", "gnt-zfs: there is no command destroy: did you mean gnt-instance remove or image delete or snapshot delete?"),
        ("image remove a", "gnt-zfs image: there is no command remove: did you mean delete?"),
        ("help imaeg", "gnt-zfs: there is no command imaeg: did you mean image?"),
        ("image show a b", "gnt-zfs image show: b is a word too many: gnt-zfs image show --help shows how"),
        (
            "image push",
            "gnt-zfs image push: the following arguments are required: name: gnt-zfs image push --help shows how",
        ),
    ],
)
def test_a_slip_gets_one_line(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(typed.split()) == 2
    assert capsys.readouterr() == ("", f"{said}\n")


def test_help_and_version_are_no_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert cli.main(["image", "--help"]) == 0
    assert "Example: gnt-zfs image import" in capsys.readouterr().out


@pytest.mark.parametrize("typed", ["", "image", "trash"])
def test_alone_it_lists_its_commands(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(typed.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: ")
    assert "restore" in err
    assert "required" not in err


@pytest.mark.parametrize(("typed", "usage"), [("help", "usage: gnt-zfs [-h]"), ("help trash restore", "usage: gnt-zfs trash restore [-h]")])
def test_help_is_a_command_as_well(typed: str, usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(typed.split()) == 0
    assert capsys.readouterr().out.startswith(usage)


@pytest.mark.parametrize("words", [words for known in parsing.SYNONYMS.values() for words in known.values()])
def test_synonyms_are_no_commands_of_their_own_and_lead_to_such(words: tuple[str, ...]) -> None:
    made = {**dict(generate.commands()), "": cli.parser()}
    known = {*made, "gnt-instance remove", "gnt-instance add"}
    for word in words:
        command, _space, option = word.rpartition(" ") if "--" in word else (word, "", "")
        assert any(f" {name}".endswith(f" {command}") for name in known), word
        assert not option or option in made[command]._option_string_actions, word
