"""`gnt-zfs patch`: the optional patch of Ganeti's backend on this node."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from zfsganeti import patch
from zfsganeti.colours import Bad
from zfsganeti.config import save
from zfsganeti.errors import BadConfig, Missing, Unavailable, ZfsGanetiError, one_line
from zfsganeti.node import run
from zfsganeti.terminal import command, complain, group, print_json, say, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from zfsganeti.here import Here


def patch_parser(commands: Any) -> None:
    text = "the optional patch of Ganeti's backend on this node"
    about = "The optional patch of Ganeti's backend on this node; nothing here needs it, see the README of patches/."
    verbs = group(commands, "patch", text, about, "gnt-zfs patch status")
    status = command(verbs, "status", _status, "show every installed series of Ganeti", "gnt-zfs patch status")
    status.add_argument("--json", action="store_true", help="for programs")
    for name, function, text in (
        ("apply", _apply, "apply the patch, until the next upgrade of Ganeti"),
        ("revert", _revert, "take the patch back"),
        ("enable", _enable, "apply the patch, and again after every upgrade of Ganeti"),
        ("disable", _disable, "take the patch back, and leave Ganeti alone from now on"),
    ):
        restarting = command(verbs, name, function, text, f"gnt-zfs patch {name} --restart")
        restarting.add_argument("--restart", action="store_true", help="restart noded, which otherwise still runs the old code")
    command(verbs, "renew", _renew, "apply the patch if it is enabled, as after an upgrade of Ganeti", "gnt-zfs patch renew")


def _status(here: Here, options: argparse.Namespace) -> int:
    found = patch.status()
    if options.json:
        rows = [{"series": one.series, "state": one.state, "running": one.running, "file": one.path} for one in found]
        print_json({"enabled": bool(here.config.patch), "series": rows})
        return 0
    shown = [(one.series, _shown(one.state), "yes" if one.running else "no", one.path) for one in found]
    say(table(("SERIES", "STATE", "RUNNING", "FILE"), shown))
    say("It is enabled: applied again after every upgrade of Ganeti." if here.config.patch else "It is not enabled: gnt-zfs patch enable.")
    return 0


def _shown(state: str) -> str:
    return state if state in (patch.PATCHED, patch.UNPATCHED) else Bad(state)


def _told(outcome: patch.Outcome) -> int:
    """What was done is said; return the exit status, which is none of success where noded could not be restarted."""
    if not outcome.failed:
        say(str(outcome))
        return 0
    if words := str(replace(outcome, noded="")).strip():
        say(words)
    complain(outcome.noded)
    return Unavailable.exit_code


def _apply(_here: Here, options: argparse.Namespace) -> int:
    return _told(patch.apply(run=run, restart=options.restart))


def _revert(here: Here, options: argparse.Namespace) -> int:
    status = _told(patch.revert(run=run, restart=options.restart))
    # the package is removed this way, whatever is in the configuration
    with suppress(BadConfig):
        if here.config.patch:
            say("It is still enabled, and comes back with the next upgrade: gnt-zfs patch disable.")
    return status


def _enable(_here: Here, options: argparse.Namespace) -> int:
    outcome = patch.apply(run=run, restart=options.restart)
    save("patch", "1")
    return _told(outcome)


def _disable(_here: Here, options: argparse.Namespace) -> int:
    save("patch", "0")
    return _told(patch.revert(run=run, restart=options.restart))


def _renew(here: Here, _options: argparse.Namespace) -> int:
    """A package's script comes here, whatever is installed: only a patch that is wanted and is not in, or not in use, is a failure."""
    try:
        if not here.config.patch:
            return 0
        outcome = patch.apply(run=run, restart=True)
    except BadConfig as error:
        complain(f"{one_line(error)}: until that is put right Ganeti's backend is left as it is, with the optional patch or without")
        return error.exit_code
    except Missing:
        return 0  # no Ganeti at the moment
    except ZfsGanetiError as error:
        complain(f"the patch of Ganeti's backend is enabled and does not apply any more: {one_line(error)}")
        return error.exit_code
    for line in outcome.skipped:
        complain(line)
    if outcome.changed or outcome.failed or outcome.noded == patch.RESTARTED:
        return _told(replace(outcome, skipped=()))
    return 0
