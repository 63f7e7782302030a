"""`gnt-zfs`, the administrator's command."""

from __future__ import annotations

import os
import sys
import time

from zfsganeti import __version__
from zfsganeti.colours import Bad, Odd, cell
from zfsganeti.errors import EXIT_STATUS, BadInput, Missing, Unavailable, ZfsGanetiError, defect, human, of_system, one_line
from zfsganeti.here import Here
from zfsganeti.names import meant
from zfsganeti.process import EARLY
from zfsganeti.terminal import command, complain, confirm, day, fail, group, left_out, must_be_master, print_json, say, say_no_more, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

    from zfsganeti.check import Finding
    from zfsganeti.here import Verb

    Command = Callable[[Here, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status of the command that was typed; what went wrong is one line on standard error."""
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        print(end="", flush=True)  # not by the interpreter on its way out, which would say more than a line
        return status
    except BrokenPipeError:
        say_no_more(sys.stdout)
        return 141  # what a shell says of a program whose reader has gone
    except ZfsGanetiError as error:
        fail(one_line(error))
        return error.exit_code
    except OSError as error:
        known = of_system(error)
        fail(one_line(known))
        say_no_more(sys.stdout)
        return known.exit_code
    except Exception as error:  # a defect, or a node that answers what nobody expects
        fail(defect(error))
        return 1
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from where it was")
        return 130


def _run(words: list[str]) -> int:
    here = Here(_verbs)
    if words[:1] == ["node"] and (len(words) == 2 or words[2:] == [EARLY]):
        return _answer(here, words[1], early=len(words) > 2)
    for word in words:
        _check_word(word)
    try:
        options = parser().parse_args(words)
        if options.run is _help:
            return _help(here, options)
    except SystemExit as said:  # all of it: a help, the version, or what was wrong
        return int(said.code or 0)
    if os.geteuid() != 0:
        raise Unavailable("this command", "works with pools and mounts", "run it as root")
    run: Command = options.run
    return run(here, options)


def _check_word(word: str) -> None:
    """What was typed is text: the name of a file that is none could be neither shown nor recorded."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{word[:80]!a} is not UTF-8: rename the file first") from None


def _verbs() -> dict[str, Verb]:
    from zfsganeti.answer import VERBS

    return VERBS


def _answer(here: Here, verb: str, *, early: bool) -> int:
    """What a peer asks of this node, many times a day: it pays neither for the parser nor for what other commands import.

    Who comes early says so when all is there that the verb needs, and waits.
    """
    import json

    from zfsganeti.answer import STREAMED, answer

    def read() -> str:
        if early:
            print(json.dumps({"told": {}}), flush=True)
        if verb not in STREAMED:
            return sys.stdin.read()
        from zfsganeti.streams import read_line

        return read_line(sys.stdin.fileno())

    result = answer(here, verb, read)
    print(json.dumps(result))
    return int(result.get("code", 0))


NOT_REPAIRED = "not repaired"
TOP = """Examples:
  gnt-zfs setup zfs/vm               make a cluster ready
  gnt-zfs list                       where each instance's disks are
  gnt-zfs trash restore web1         the undo of gnt-instance remove
  gnt-zfs image import --help        how a command is used, with an example

Exit status:
"""


def parser() -> argparse.ArgumentParser:
    from argparse import RawDescriptionHelpFormatter

    from zfsganeti.adopt_cli import adopt_parser
    from zfsganeti.image_cli import detach_parser, disk_parser, image_parser
    from zfsganeti.move_cli import move_parser
    from zfsganeti.parsing import Parser
    from zfsganeti.patch_cli import patch_parser
    from zfsganeti.snapshot_cli import snapshot_parser

    statuses = "\n".join(f"  {status:<4} {text}" for status, text in EXIT_STATUS.items())
    top = Parser(
        prog="gnt-zfs",
        description="Ganeti instances on the node's own ZFS.",
        epilog=TOP + statuses,
        formatter_class=RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"gnt-zfs {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _setup_parser(commands)
    made = command(commands, "check", _check, "say what is wrong on any node, and put it right with --repair", "gnt-zfs check --repair")
    made.add_argument(
        "--repair", action="store_true", help="do what is safe: mount, finish what was interrupted, put orphans into the trash"
    )
    made.add_argument("--json", action="store_true", help="for programs")
    made = command(commands, "list", _list, "show the datasets of instances on all nodes", "gnt-zfs list web1")
    made.add_argument("instance", nargs="*", help="only these")
    made.add_argument("--json", action="store_true", help="for programs")
    _trash_parser(commands)
    move_parser(commands)
    image_parser(commands)
    disk_parser(commands)
    detach_parser(commands)
    patch_parser(commands)
    snapshot_parser(commands)
    adopt_parser(commands)
    made = command(commands, "help", _help, "show how a command is used", "gnt-zfs help trash restore")
    made.add_argument("words", nargs="*", metavar="COMMAND", help="of which (default: what commands there are)")
    return top


def _help(_here: Here, options: argparse.Namespace) -> int:
    """What --help behind a command shows is shown; it takes no root."""
    parser().parse_args([*options.words, "--help"])
    return 0


def _setup_parser(commands: Any) -> None:
    made = command(commands, "setup", _setup, "make the cluster ready for instances on ZFS", "gnt-zfs setup zfs/vm node3=tank/vm")
    made.add_argument(
        "root", nargs="+", metavar="ROOT", help="the dataset for VM disks, such as zfs/vm, then NODE=ROOT for nodes where it differs"
    )
    made.add_argument("--directory", help="the cluster's file storage directory, where the root is mounted (default: /ROOT)")
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _trash_parser(commands: Any) -> None:
    text = "What was removed and can come back."
    verbs = group(commands, "trash", "list, restore or destroy what was removed", text, "gnt-zfs trash restore web1")
    made = command(verbs, "list", _trash_list, "show what can be restored", "gnt-zfs trash list")
    made.add_argument("--json", action="store_true", help="for programs")
    made = command(verbs, "restore", _trash_restore, "bring a removed instance back, ready to start", "gnt-zfs trash restore web1")
    made.add_argument("name", help="an instance (its newest entry) or an entry of the trash, of which the beginning will do")
    made.add_argument("--as", dest="new_name", metavar="INSTANCE", help="under another name, with new MAC addresses")
    made.add_argument("--into", metavar="INSTANCE", help="one -t ext disk, as an additional disk of this instance")
    made.add_argument("--dry-run", action="store_true", help="only say what would be done")
    made = command(verbs, "empty", _trash_empty, "destroy what is in the trash, for good", "gnt-zfs trash empty --expired")
    made.add_argument("entry", nargs="*", help="only these entries (default: all)")
    made.add_argument(
        "--expired", action="store_true", help="only what is older than the configured time, and the oldest where space is short"
    )
    made.add_argument("--with-snapshots", action="store_true", help="also entries that have snapshots of others, such as sanoid's")
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")


# setup


def _setup(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import setup

    must_be_master(here)
    online = [node for node in here.ssconf.nodes if node not in here.ssconf.offline_nodes]
    roots = {node: root for node, root in setup.parse_roots(options.root, here.ssconf.nodes).items() if node in online}
    shared = next(word for word in options.root if "=" not in word)
    directory = setup.check_directory(options.directory or f"/{shared}")
    facts = {node: here.call(node, "setup-facts", root=roots[node], directory=directory) for node in online}
    steps = setup.plan(roots, directory, facts, here.master.cluster(), here.master.groups())
    for node in here.ssconf.offline_nodes:
        say(f"{node} is offline and is left out: run this again when it is back")
    if not steps:
        say(f"Nothing to do: every node stores instances in {directory}.")
        return 0
    for step in steps:
        say(f"  {step.node or 'cluster'}: {step.text}")
    if not options.yes and not confirm("Do this?"):
        say("Nothing was changed.")
        return 1
    for step in steps:
        if step.node:
            request: dict[str, Any] = step.request()
            here.call(step.node, "setup-apply", **request)
        else:
            setup.apply_cluster_step(step)
    say(f"Done: {len(steps)} step{'s' if len(steps) != 1 else ''}.")
    say(f"Now, for example: gnt-instance add -t file -o OS --disk 0:size=10G -n {online[0]} web1")
    return 0


# check and list


def _findings(here: Here) -> tuple[list[Finding], dict[str, Any]]:
    from zfsganeti import check, move, placement
    from zfsganeti.answer import busy_instances

    # in this order: what is being added meanwhile is either at work still or in the configuration already
    reports = here.call_all("report")
    busy = busy_instances(here) | move.at_work()
    instances, detached = here.master.everything()  # a disk is an instance's or nobody's, also while it is attached
    found: list[Finding] = []
    for node, facts in reports.items():
        if isinstance(facts, ZfsGanetiError):
            found.append(check.Finding(node, "", one_line(facts).removeprefix(f"{node}: ")))
        else:
            facts["leftover_minutes"] = 0  # which jobs run is known here, so young leftovers are told from new instances
            found += check.compare_node(facts, instances, list(instances), busy, time.time(), detached=detached)
    heard = {node: facts for node, facts in reports.items() if isinstance(facts, dict)}
    found += placement.compare(heard, instances, busy, time.time(), detached=detached)
    from zfsganeti.adopt_cli import leftovers

    return [*check.keep_safe(found, check.held(reports, instances), check.lived(reports)), *leftovers(here)], reports


def _check(here: Here, options: argparse.Namespace) -> int:
    must_be_master(here)
    found, reports = _findings(here)
    failed = False
    lines = []
    for finding in found:
        result = "--repair does it" if finding.repairable else ""
        if options.repair and finding.repairable:
            result = _repair(here, finding)
            failed = failed or result != "repaired"
        lines.append((finding, result))
    if options.json:
        print_json([{**finding.as_json(), "result": result} for finding, result in lines])
    elif lines:
        print("\n".join(_line(finding, result) for finding, result in lines))
    else:
        print(f"All is well on {len(reports)} node{'s' if len(reports) != 1 else ''}.")
    left = failed or any(not (options.repair and finding.repairable) for finding in found)
    return 1 if left else 0


def _line(finding: Finding, result: str) -> str:
    told = cell(Bad(result), result) if result.startswith(NOT_REPAIRED) else result
    return f"{finding.node}: {finding.subject + ': ' if finding.subject else ''}{finding.text}{f' ({told})' if result else ''}"


def _repair(here: Here, finding: Finding) -> str:
    patience: dict[str, Any] = {"unlimited": True} if finding.verb == "home" else {}  # for plain files in the way: no hook waits
    try:
        here.call(finding.node, finding.verb, **finding.request, **patience)
    except ZfsGanetiError as error:
        return f"{NOT_REPAIRED}: {one_line(error)}"
    return "repaired"


def _list(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import undo

    must_be_master(here)
    rows = []
    reports, problems = undo.reports(here)
    status = left_out(problems, here.ssconf.offline_nodes, "its datasets are")
    for node, facts in reports.items():
        if facts["rootless"]:  # perhaps on purpose
            complain(f"{node}: {facts['root_problem']}")
        rows += [{"node": node, "mounted": dataset["home"], **dataset} for dataset in facts["datasets"] if dataset["ours"]]
        rows += [{"node": node, "aside": False, **volume} for volume in facts["volumes"] if volume["ours"]]
    for wanted in options.instance:
        if not any(wanted in (row["instance"], row["instance"].split(".")[0]) for row in rows):
            near = meant(wanted, [row["instance"] for row in rows], "gnt-zfs list shows all")
            raise Missing(f"a dataset of {wanted} on the nodes that answer", near)
    if options.instance:
        rows = [row for row in rows if row["instance"] in options.instance or row["instance"].split(".")[0] in options.instance]
    rows.sort(key=lambda row: (row["instance"], row["node"], row["name"]))
    if options.json:
        kept = ("dataset", "instance", "node", "used", "referenced", "snapshots", "mounted")
        print_json([{key: row[key] for key in kept} for row in rows])
    elif rows:
        print(_table_of_datasets(rows))
    else:
        print("No instance has a dataset yet.")
    return status


def _table_of_datasets(rows: list[dict[str, Any]]) -> str:
    return table(
        ("INSTANCE", "NODE", "DATASET", "USED", "REFER", "SNAPS", "MOUNTED"),
        [
            (
                row["instance"] or "-",
                row["node"].split(".")[0],
                row["dataset"],
                human(row["used"]),
                human(row["referenced"]),
                str(row["snapshots"]),
                "yes" if row["mounted"] else Odd("aside") if row["aside"] else Bad("NO"),
            )
            for row in rows
        ],
        right=(3, 4, 5),
    )


# trash


def _trash_list(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import undo

    must_be_master(here)
    found, problems = undo.entries_by_node(here)
    status = left_out(problems, here.ssconf.offline_nodes, "its trash is")
    rows = sorted(
        ({**entry, "node": node} for node, entries in found.items() for entry in entries), key=lambda row: (row["removed"], row["entry"])
    )
    if options.json:
        shown = ("entry", "instance", "node", "removed", "expires", "kept", "used", "restorable")
        print_json([{key: row[key] for key in shown} for row in rows])
    elif rows:
        print(
            table(
                ("INSTANCE", "ENTRY", "NODE", "USED", "REMOVED (UTC)", "KEPT UNTIL"),
                [
                    (
                        row["instance"],
                        row["entry"],
                        row["node"].split(".")[0],
                        human(row["used"]),
                        day(row["removed"]),
                        "it is emptied" if row["kept"] else day(row["expires"]),
                    )
                    for row in rows
                ],
                right=(3,),
            )
        )
    else:
        print("The trash is empty.")
    return status


def _trash_restore(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import undo

    must_be_master(here)
    if options.into:
        return _restore_into(here, options)
    plan = undo.prepare(here, options.name, options.new_name)
    if options.dry_run:
        for sentence in plan.sentences():
            say(sentence)
        return 0
    undo.execute(here, plan, say)
    if plan.record["private"]:
        say(f"Private OS parameters are not kept, give them again: {', '.join(plan.record['private'])}")
    say(f"{plan.instance} is back on {plan.node}: gnt-instance start {plan.instance}")
    return 0


def _restore_into(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import undo

    if options.new_name:
        raise BadInput("trash restore: --as names a new instance and --into one that there is: only one of them")
    plan = undo.prepare_into(here, options.name, options.into)
    if options.dry_run:
        for sentence in plan.sentences():
            say(sentence)
        return 0
    undo.execute_into(here, plan, say)
    say(f"The disk {plan.entry} is the last disk of {plan.instance} now.")
    return 0


def _trash_empty(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import undo

    must_be_master(here)
    if options.expired:
        return _give_up(here, options)
    found, problems = undo.entries_by_node(here)
    doomed = [(node, entry) for node, entries in found.items() for entry in entries if not options.entry or entry["entry"] in options.entry]
    missing = ", ".join(sorted(set(options.entry) - {entry["entry"] for _node, entry in doomed}))
    if problems and (missing or not options.entry):  # what is named and was found can go, whoever else is silent
        raise Unavailable(
            missing or "the trash", f"not every trash can be looked into: {'; '.join(problems)}", "name entries of gnt-zfs trash list"
        )
    if missing:
        known = [entry["entry"] for entries in found.values() for entry in entries]
        raise Missing(f"{missing} in the trash", meant(missing, known, "gnt-zfs trash list shows what is there"))
    if not doomed:
        say("The trash is empty.")
        return 0
    for node, entry in doomed:
        say(f"  {node}: {entry['entry']} ({human(entry['used'])})")
    if not options.yes and not confirm("Destroy this for good?"):
        say("Nothing was changed.")
        return 1
    status = 0
    for node, entry in doomed:
        try:
            here.call(node, "trash-destroy", entry=entry["entry"], strangers=options.with_snapshots)
        except ZfsGanetiError as error:
            complain(one_line(error) + (": --with-snapshots destroys those too" if "not ours" in str(error) else ""))
            status = error.exit_code
    return status


def _give_up(here: Here, options: argparse.Namespace) -> int:
    if options.entry or options.with_snapshots:
        raise BadInput("trash empty --expired: takes neither entries nor --with-snapshots, it destroys what has had its time")
    doomed, status = {}, 0
    for node, found in here.call_all("trash-doomed").items():
        if isinstance(found, ZfsGanetiError):
            complain(one_line(found))
            status = found.exit_code
        elif found:
            doomed[node] = [entry["entry"] for entry in found]
            for entry in found:
                say(f"  {node}: {entry['entry']} ({human(entry['used'])})")
    if not doomed:
        say("Nothing in the trash has had its time.")
        return status
    if not options.yes and not confirm("Destroy this for good?"):
        say("Nothing was changed.")
        return 1
    return max(status, *(_give_up_on(here, node, entries) for node, entries in doomed.items()))


def _give_up_on(here: Here, node: str, entries: list[str]) -> int:
    try:
        result = here.call(node, "trash-give-up", entries=entries)
    except ZfsGanetiError as error:
        complain(one_line(error))
        return error.exit_code
    for entry in result["gone"]:
        say(f"{node}: {entry} is gone")
    for entry in result["kept"]:
        complain(f"{node}: {entry}")
    return 6 if result["kept"] else 0
