"""`gnt-zfs patch renew`: what a package's script may call whatever is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from zfsganeti import cli, config, patch
from zfsganeti.errors import BadConfig, Missing, Refused, Unavailable


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let patches be tried on nothing real; return what was done."""
    done: list[str] = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(config, "PATH", str(tmp_path / "conf"))
    monkeypatch.setattr(config.load, "__defaults__", (str(tmp_path / "conf"),))

    def apply(**options: object) -> patch.Outcome:
        done.append(f"apply restart={options['restart']}")
        return patch.Outcome(("3.0",), (), (), patch.RESTARTED)

    monkeypatch.setattr(patch, "apply", apply)

    def revert(**_options: object) -> patch.Outcome:
        done.append("revert")
        return patch.Outcome((), (), (), patch.AS_IT_WAS)

    monkeypatch.setattr(patch, "revert", revert)
    return done


def test_renew_does_nothing_unless_it_is_enabled(calls: list[str]) -> None:
    assert cli.main(["patch", "renew"]) == 0
    assert calls == []


def test_what_is_enabled_is_renewed_until_it_is_disabled(calls: list[str]) -> None:
    assert cli.main(["patch", "enable"]) == 0
    assert cli.main(["patch", "renew"]) == 0
    assert cli.main(["patch", "disable"]) == 0
    assert cli.main(["patch", "renew"]) == 0
    assert calls == ["apply restart=False", "apply restart=True", "revert"]


def test_renew_says_nothing_of_what_is_in(calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config.save("patch", "1")
    monkeypatch.setattr(patch, "apply", lambda **_options: patch.Outcome((), ("3.0",), (), patch.AS_IT_WAS))
    assert cli.main(["patch", "renew"]) == 0
    assert capsys.readouterr() == ("", "")
    assert calls == []


@pytest.mark.parametrize("verb", ["renew", "apply", "revert", "enable", "disable"])
def test_a_restart_that_failed_is_not_a_patch_that_does_not_apply(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    config.save("patch", "1")
    for name in ("apply", "revert"):
        monkeypatch.setattr(patch, name, lambda **_options: patch.Outcome(("3.0",), (), (), "it could not be restarted", failed=True))
    assert cli.main(["patch", verb]) == Unavailable.exit_code
    said = capsys.readouterr()
    assert said.out.startswith("Ganeti 3.0: changed\n")
    assert said.err == "gnt-zfs: it could not be restarted\n"
    assert config.load().patch == (verb != "disable")
    assert calls == []


def test_renew_says_that_the_configuration_is_broken_and_not_that_the_patch_is(
    calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf").write_text("nonsense\n", encoding="utf-8")
    assert cli.main(["patch", "renew"]) == BadConfig.exit_code
    assert capsys.readouterr().err == (
        f"gnt-zfs: {tmp_path}/conf: line 1: 'nonsense' is not of the form setting = value: "
        "until that is put right Ganeti's backend is left as it is, with the optional patch or without\n"
    )
    assert calls == []


def test_revert_does_not_need_the_configuration(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("nonsense\n", encoding="utf-8")
    assert cli.main(["patch", "revert", "--restart"]) == 0
    assert calls == ["revert"]


def test_renew_says_loudly_that_it_does_not_apply_any_more(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.save("patch", "1")

    def refuse(**_options: object) -> None:
        raise Refused("/x/backend.py", "ganeti-3.0.patch does not fit it exactly once")

    monkeypatch.setattr(patch, "apply", refuse)
    assert cli.main(["patch", "renew"]) == Refused.exit_code
    assert capsys.readouterr().err == (
        "gnt-zfs: the patch of Ganeti's backend is enabled and does not apply any more: "
        "/x/backend.py: ganeti-3.0.patch does not fit it exactly once\n"
    )
    assert calls == []


def test_renew_without_ganeti_is_fine(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config.save("patch", "1")

    def none(**_options: object) -> None:
        raise Missing("/usr/share/ganeti/X.Y/ganeti/backend.py")

    monkeypatch.setattr(patch, "apply", none)
    assert cli.main(["patch", "renew"]) == 0
    assert calls == []
