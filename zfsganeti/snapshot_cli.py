"""`gnt-zfs snapshot`: an instance's past, for the administrator."""

from __future__ import annotations

from zfsganeti.colours import Odd
from zfsganeti.errors import BadInput, Unavailable, ZfsGanetiError, human, one_line
from zfsganeti.terminal import command, confirm, day, group, left_out, must_be_master, print_json, say, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from zfsganeti.ganeti import Instance
    from zfsganeti.here import Here

SECONDS = 600.0  # for what a node does with all disks of an instance
KEPT = ("instance", "node", "snapshot", "created", "used", "referenced", "by", "whole", "comment", "clones", "held")


def snapshot_parser(commands: Any) -> None:
    text = "Snapshots of all disks of an instance at one moment. These commands run on the master, policy on each node."
    example = "gnt-zfs snapshot create web1 upgrade"
    verbs = group(commands, "snapshot", "snapshots of an instance: taken, listed, gone back to, cloned", text, example)
    made = command(verbs, "create", _create, "take a snapshot of all disks, also while it runs", example)
    made.add_argument("instance", help="whose disks")
    made.add_argument("name", nargs="?", default="", help="what it is called behind gnt- (default: the time in UTC)")
    made.add_argument("--comment", default="", help="a line that list shows")
    made.add_argument("--not-atomic", action="store_true", help="also of a running instance with disks in several pools, one after another")
    made = command(verbs, "list", _list, "show the snapshots of an instance, or of all", "gnt-zfs snapshot list web1")
    made.add_argument("instance", nargs="?", default="", help="whose (default: all)")
    made.add_argument("--json", action="store_true", help="for programs")
    text = "go back to a snapshot with a stopped instance; what is newer is kept in the trash"
    made = command(verbs, "rollback", _rollback, text, "gnt-zfs snapshot rollback web1 upgrade")
    _which(made)
    made.add_argument("--discard", action="store_true", help="destroy what is newer for good")
    made.add_argument("--abort", action="store_true", help="take back one that was interrupted")
    made.add_argument("--dry-run", action="store_true", help="only say what would be done")
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")
    made = command(verbs, "delete", _delete, "destroy a snapshot of all disks", "gnt-zfs snapshot delete web1 upgrade")
    _which(made)
    made.add_argument("--any", action="store_true", help="also one that was not taken by gnt-zfs snapshot")
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")
    text = "make another instance, stopped, whose disks are clones of a snapshot"
    made = command(verbs, "clone", _clone, text, "gnt-zfs snapshot clone web1 upgrade web1-test")
    _which(made)
    made.add_argument("name", help="the new instance's name")
    command(verbs, "policy", _policy, "print a policy for sanoid on this node", "gnt-zfs snapshot policy > /etc/sanoid/sanoid.conf")


def _which(made: argparse.ArgumentParser) -> None:
    made.add_argument("instance", help="whose snapshot it is")
    made.add_argument("snapshot", help="as gnt-zfs snapshot list shows it; gnt- may be left out")


def _instance(here: Here, name: str) -> Instance:
    from zfsganeti import disks

    must_be_master(here)
    return disks.find_instance(here.master.instances(), name)


def _create(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti.snapshots import asked

    instance = _instance(here, options.instance)
    made = here.call(
        instance.primary,
        "snapshot-create",
        seconds=SECONDS,
        snapshot=options.name,
        comment=options.comment,
        not_atomic=options.not_atomic,
        **asked(instance),
    )
    count, pools = made["disks"], made["pools"]
    moment = "at one moment" if len(pools) == 1 else f"not at one moment, since they are in the pools {', '.join(pools)}"
    disks = f"its {count} disks, {moment}" if count != 1 else "its disk"
    held = " It is running, so this is what a power cut would leave." if made["running"] else ""
    say(f"{made['snapshot']} is a snapshot of {instance.name} on {instance.primary}: {disks}.{held}")
    return 0


def _list(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti.snapshots import asked

    must_be_master(here)
    every = here.master.instances()
    chosen = [_instance(here, options.instance)] if options.instance else list(every.values())
    chosen = [instance for instance in chosen if options.instance or _is_ours(instance)]
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    away = set(here.ssconf.offline_nodes)
    for node in sorted({instance.primary for instance in chosen} - away):
        found, lacking = _histories(here, node, [asked(instance) for instance in chosen if instance.primary == node])
        rows += found
        problems += lacking
    missed = sorted({instance.primary for instance in chosen} & away)
    if options.instance:  # whoever asks for this one expects an answer
        problems += [f"{node} is offline: the snapshots of {chosen[0].name} are not shown" for node in missed]
        missed = []
    status = left_out(problems, missed, "the snapshots of its instances are")
    rows.sort(key=lambda row: (row["instance"], row["created"], row["snapshot"]))
    if options.json:
        print_json([{key: row[key] for key in KEPT} for row in rows])
    elif rows:
        say(_table(rows))
    elif not problems:
        say("There is no snapshot: gnt-zfs snapshot create takes one.")
    return status


def _histories(here: Here, node: str, questions: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the snapshots that a node's instances have, and a line for each that could not be looked at."""
    if not questions:
        return [], []
    try:
        answer = here.call(node, "snapshot-histories", seconds=SECONDS, instances=questions)
    except ZfsGanetiError as error:
        return [], [f"{node}: {one_line(error).removeprefix(f'{node}: ')}"]
    return [{**row, "node": node} for row in answer["rows"]], [f"{node}: {problem}" for problem in answer["problems"]]


def _is_ours(instance: Instance) -> bool:
    return bool(instance.disks) and all(disk.template == "file" or disk.volume for disk in instance.disks)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("INSTANCE", "SNAPSHOT", "TAKEN (UTC)", "USED", "REFER", "BY", "STATE", "COMMENT"),
        [
            (
                row["instance"],
                row["snapshot"],
                day(row["created"]),
                human(row["used"]),
                human(row["referenced"]),
                row["by"],
                _state(row),
                row["comment"],
            )
            for row in rows
        ],
        right=(3, 4),
    )


def _state(row: Mapping[str, Any]) -> str:
    states = (("partial", not row["whole"]), ("cloned", bool(row["clones"])), ("held", row["held"]))
    told = ", ".join(state for state, holds in states if holds) or "whole"
    return told if row["whole"] else Odd(told)


def _plan_of(here: Here, instance: Instance, request: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return what is to be done; Unavailable while the instance runs, which one that is half back does not, whatever Ganeti wants."""
    running = instance.admin_state == "up" and not options.dry_run and not options.abort
    way_out = f"gnt-instance stop {instance.name}"
    try:
        plan: dict[str, Any] = here.call(instance.primary, "rollback-plan", seconds=SECONDS, **request)
    except ZfsGanetiError as error:
        if running:
            raise Unavailable(instance.name, "is running", way_out) from error
        raise
    if running and not plan["interrupted"]:
        raise Unavailable(instance.name, "is running", way_out)
    return plan


def _rollback(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti.snapshots import asked

    if options.abort and options.discard:
        raise BadInput("snapshot rollback: --abort keeps what is newer and --discard destroys it: only one of them")
    instance = _instance(here, options.instance)
    request = {**asked(instance), "snapshot": options.snapshot, "discard": options.discard, "abort": options.abort}
    plan = _plan_of(here, instance, request, options)
    if plan["interrupted"]:
        say(f"A rollback of {instance.name} to {plan['snapshot']} was interrupted.")
    for sentence in plan["sentences"]:
        say(sentence)
    if options.dry_run:
        return 0
    if not options.yes and not confirm(_question(instance.name, plan["snapshot"], options)):
        say("Nothing was changed.")
        return 1
    done = here.call(instance.primary, "rollback", seconds=SECONDS, **request, newer=plan["newer"], record=instance.record())
    if done["again"]:
        return _rollback(here, options)
    _say_where(instance.name, done)
    return 0


def _question(instance: str, snapshot: str, options: argparse.Namespace) -> str:
    return f"Take the rollback of {instance} to {snapshot} back?" if options.abort else f"Take {instance} back to {snapshot}?"


def _say_where(instance: str, done: Mapping[str, Any]) -> None:
    for each in done.get("unreserved", ()):  # of which a node with an older version says nothing
        say(f"There is no room to set aside for a disk of {instance} as before: zfs set {each}, once there is.")
    if done["aborted"]:
        say(f"{instance} is as it was before its rollback to {done['snapshot']}.")
        return
    say(f"{instance} is back at {done['snapshot']}: gnt-instance start {instance}")
    if done["kept"]:
        entry = done["kept"][0]
        say(f"What it was is in the trash: gnt-zfs trash restore {entry} --as ANOTHER-NAME makes an instance of it.")


def _delete(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti.snapshots import asked

    instance = _instance(here, options.instance)
    if not options.yes and not confirm(f"Destroy snapshot {options.snapshot} of {instance.name} for good?"):
        say("Nothing was changed.")
        return 1
    request = {**asked(instance), "snapshot": options.snapshot, "any": options.any}
    gone = here.call(instance.primary, "snapshot-delete", seconds=SECONDS, **request)
    say(f"{gone} of {instance.name} is gone.")
    return 0


def _clone(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti.snapshots import clone_instance

    instance = _instance(here, options.instance)
    private = clone_instance(here, instance, options.snapshot, options.name, say)
    if private:
        say(f"Private OS parameters are not copied, give them: {', '.join(private)}")
    say(f"{options.name} is on {instance.primary}, with new MAC addresses and clones of {instance.name}: gnt-instance start {options.name}")
    return 0


def _policy(here: Here, _options: argparse.Namespace) -> int:
    from zfsganeti.sanoid import policy

    say(policy([place.root.name for place in here.places()]).rstrip())
    return 0
