"""Slips of the finger: each gets one line that says what was probably meant, and status 2."""

from __future__ import annotations

import pytest

from zfsganeti import cli


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
