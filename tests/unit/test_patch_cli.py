"""`gnt-zfs patch renew`: what a package's script may call whatever is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from zfsganeti import cli, config, patch
from zfsganeti.errors import Missing, Refused

UNPATCHED = patch.Backend("3.0", "/x/backend.py", "/p", patch.UNPATCHED, True)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let patches be tried on nothing real; return what was done."""
    done: list[str] = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(config, "PATH", str(tmp_path / "conf"))
    monkeypatch.setattr(config.load, "__defaults__", (str(tmp_path / "conf"),))
    monkeypatch.setattr(patch, "status", lambda: [UNPATCHED])

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


def test_renew_leaves_alone_what_is_in(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config.save("patch", "1")
    monkeypatch.setattr(patch, "status", lambda: [patch.Backend("3.0", "/x", "/p", patch.PATCHED, True)])
    assert cli.main(["patch", "renew"]) == 0
    assert calls == []


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

    def none() -> None:
        raise Missing("/usr/share/ganeti/X.Y/ganeti/backend.py")

    monkeypatch.setattr(patch, "status", none)
    assert cli.main(["patch", "renew"]) == 0
    assert calls == []
