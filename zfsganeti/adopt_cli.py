"""`gnt-zfs adopt`."""

from __future__ import annotations

from zfsganeti.colours import Odd
from zfsganeti.errors import BadInput, ZfsGanetiError, one_line
from zfsganeti.terminal import Meter, command, complain, confirm, must_be_master, print_json, say, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from zfsganeti.check import Finding
    from zfsganeti.here import Here

EXAMPLE = "gnt-zfs adopt -t file web1"


def adopt_parser(commands: Any) -> None:
    made = command(commands, "adopt", _adopt, "bring a plain or drbd instance from LVM to ZFS, copying while it runs", EXAMPLE)
    made.add_argument("instance", nargs="?", help="an instance with -t plain or drbd")
    made.add_argument("-t", "--disk-template", choices=("file", "ext"), default="", help="what it becomes (default: file)")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--commit", action="store_true", help="remove the old disks, for good")
    what.add_argument("--rollback", action="store_true", help="back to the old disks as they were when it was switched")
    what.add_argument("--abort", action="store_true", help="give up before it is switched: the copy is destroyed")
    what.add_argument("--list", action="store_true", help="show adoptions that were neither committed nor taken back")
    made.add_argument("--offline", action="store_true", help="stop it first and copy then: no room for snapshots is needed")
    made.add_argument("--verify", action="store_true", help="compare all of the new disks with the old ones afterwards, while it runs")
    made.add_argument("--dry-run", action="store_true", help="only say what would be done")
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")
    made.add_argument("--json", action="store_true", help="with --list, for programs")


def _adopt(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import exchange

    must_be_master(here)
    _refuse_ignored(options)
    if options.list:
        return _list(here, options)
    if not options.instance:
        raise BadInput("adopt: name an instance, or --list")
    # also while a person thinks about it: what was planned still holds then
    with exchange.alone_with(here, options.instance, say) as name:
        if options.commit or options.rollback or options.abort:
            return _end(here, name, options)
        return _begin(here, name, options)


def _refuse_ignored(options: argparse.Namespace) -> None:
    """What was typed together belongs together: nobody is to believe that a word was heard which was not."""
    if options.json and not options.list:
        raise BadInput("adopt --json: goes with --list alone")
    if options.list and options.instance:
        raise BadInput(f"adopt --list: shows all, and takes no instance such as {options.instance}")
    ends = next((word for word in ("list", "commit", "rollback", "abort") if getattr(options, word)), "")
    begins = next((word for word in ("disk_template", "offline", "verify") if getattr(options, word)), "")
    if ends and begins:
        raise BadInput(f"adopt --{ends}: has no --{begins.replace('_', '-')}")


def _begin(here: Here, name: str, options: argparse.Namespace) -> int:
    from zfsganeti import adoption, exchange

    plan = adoption.prepare(here, name, options.disk_template, offline=options.offline)
    if plan is None:
        say(f"{name} is adopted already: gnt-zfs adopt --commit {name} removes its old disks, --rollback brings them back")
        return 0
    for sentence in plan.sentences():
        say(f"  {sentence}")
    if options.dry_run:
        return 0
    if not options.yes and not confirm("Do this?"):
        say("Nothing was changed.")
        return 1
    with Meter(plan.instance) as meter:
        conduct = exchange.Conduct(here, plan.instance, say, meter)
        conduct.adopt(plan, verify=options.verify)
    if conduct.downtime is not None:
        say(f"{plan.instance} was down for {conduct.downtime:.1f} s")
    if options.verify:
        say("Its disks are equal to the old ones, as they were when it was switched.")
    say(f"{plan.instance} is on ZFS. Its old disks are kept as {plan.shadow}'s: when all is well, gnt-zfs adopt --commit {plan.instance}")
    return 0


def _end(here: Here, name: str, options: argparse.Namespace) -> int:
    from zfsganeti import exchange

    with Meter(name) as meter:
        conduct = exchange.Conduct(here, name, say, meter)
        conduct.found.must_exist()
        shadow = conduct.shadow_name
        if options.commit:
            told, done = f"{shadow} is removed with the old disks of {name}, for good", f"The old disks of {name} are gone."
        elif options.abort:
            told, done = f"{shadow} is removed with the unfinished copy of {name}", f"{name} is as it was."
        else:
            told = f"{name} is stopped and gets its old disks: what was written since it was switched is not on them"
            done = f"{name} has its old disks. Its disks on ZFS are in the trash as {shadow}: gnt-zfs trash list"
        say(f"  {told}")
        if options.dry_run:
            return 0
        if not options.yes and not confirm("Do this?"):
            say("Nothing was changed.")
            return 1
        if options.commit:
            conduct.commit()
        else:
            conduct.back(abort=options.abort)
    if conduct.downtime is not None:
        say(f"{name} was down for {conduct.downtime:.1f} s")
    say(done)
    return 0


def _list(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import adoption

    found = adoption.all_of(here)
    rows = [
        {"instance": one.name, "node": one.node, "template": one.template, "state": one.state, "shadow": one.shadow_name} for one in found
    ]
    problems = [
        *(one.problem for one in found if one.problem is not None),
        *(problem for _shadow, problem in adoption.strays(here.master.instances())),
    ]
    for problem in problems:
        complain(one_line(problem))
    if options.json:
        print_json(rows)
    elif rows:
        titles = ("INSTANCE", "NODE", "BECOMES", "STATE", "OTHER DISKS OF")
        shown = [
            (row["instance"], row["node"], row["template"], row["state"] if row["state"] == "kept" else Odd(row["state"]), row["shadow"])
            for row in rows
        ]
        say(table(titles, shown))
    elif not problems:
        say("No instance is being adopted.")
    return problems[0].exit_code if problems else 0


def leftovers(here: Here) -> list[Finding]:
    """Return what interrupted adoptions have left: the adoption itself, and LVM snapshots of ours that belong to none."""
    from zfsganeti import adoption
    from zfsganeti.check import Finding

    adoptions = adoption.all_of(here)
    found, kept = (
        [Finding(shadow.primary, shadow.name, one_line(problem)) for shadow, problem in adoption.strays(here.master.instances())],
        set(),
    )
    for one in adoptions:
        if one.problem is not None:
            found.append(Finding(one.node, one.name, f"its adoption cannot end: {one_line(one.problem)}"))
        elif one.state != "kept":
            way_out = f"gnt-zfs adopt {one.name} goes on, --abort or --rollback takes it back"
            if one.state == "returning":
                way_out = f"gnt-zfs adopt --rollback {one.name} goes on"
            found.append(Finding(one.node, one.name, f"its adoption is not finished: {way_out}"))
        if one.state != "kept":
            nodes = {one.node, one.shadow.primary if one.shadow is not None else one.node}
            kept |= {(node, *one.disks[uuid].lvm) for uuid in one.old if uuid in one.disks for node in nodes}
    for node, told in here.call_all("adopt-leftovers").items():
        if isinstance(told, ZfsGanetiError):
            complain(one_line(told))
            continue
        for vg, origin, name in told:
            if (node, vg, origin) not in kept:
                request = {"disks": [{"vg": vg, "lv": origin}]}
                found.append(Finding(node, f"{vg}/{name}", "is an LVM snapshot left of an adoption", "adopt-drop", request))
    return found
