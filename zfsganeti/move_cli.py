"""`gnt-zfs move`: what is typed, what is shown of the plan and the progress, and the table when many are moved."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading

from zfsganeti.colours import Bad
from zfsganeti.errors import BadInput, Missing, ZfsGanetiError, human, of_system, one_line
from zfsganeti.parsing import mib, number
from zfsganeti.terminal import Meter, command, complain, confirm, must_be_master, print_json, say, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from zfsganeti.here import Here
    from zfsganeti.move import Move, Options, Result
    from zfsganeti.retreat import Back, Gone

INTERRUPTED = 130
PARALLEL = 2
UNWANTED = "nothing was changed: the answer was no"
OF_A_MOVE = ("max_downtime", "bwlimit", "no_start", "keep_source", "presync_only", "full", "parallel", "json")  # and of no way back


def move_parser(commands: Any) -> None:
    made = command(
        commands,
        "move",
        _move,
        "move instances to another node: all but the latest changes while they run, these while they are down",
        "gnt-zfs move web1 node3; gnt-zfs move --from node2",
    )
    made.add_argument("word", nargs="*", metavar="INSTANCE NODE", help="what goes, and where to; with --from only nodes that may take it")
    made.add_argument("--from", dest="leaving", metavar="NODE", action="append", help="move every instance away from this node")
    made.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done, or what forbids it")
    made.add_argument("--max-downtime", type=_seconds, metavar="SECONDS", help="stop before the shutdown if it would be down for longer")
    made.add_argument("--bwlimit", type=mib, default=0, metavar="MIB", help="MiB a second that each instance may take, at most")
    made.add_argument("--no-start", action="store_true", help="leave it stopped on the target")
    made.add_argument("--keep-source", action="store_true", help="what is left on the source stays in its trash until that is emptied")
    made.add_argument("--presync-only", action="store_true", help="send what can be sent while it runs, and leave the rest for later")
    made.add_argument("--full", action="store_true", help="send all of a clone to a node without its image; it is no clone there")
    made.add_argument("--abort", action="store_true", help="go back: nothing is left of a move that has not switched yet")
    made.add_argument("--parallel", type=_parallel, metavar="N", help="with --from: how many at a time (default: 2)")
    made.add_argument("--json", action="store_true", help="for programs")
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _seconds(text: str) -> float:
    return float(number(text, "seconds", 86400))


def _parallel(text: str) -> int:
    return number(text, "instances", 16)


def _move(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import move

    must_be_master(here)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever logs out does not leave an instance half-way
    if options.abort:
        return _abort(here, options)
    wanted = move.Options(
        longest=options.max_downtime,
        limit=options.bwlimit,
        start=not options.no_start,
        keep=options.keep_source,
        presync_only=options.presync_only,
        full=options.full,
    )
    if options.leaving:
        return _evacuate(here, options, wanted)
    if options.parallel is not None:
        raise BadInput("move --parallel: goes with --from alone")
    if len(options.word) != 2:
        raise BadInput("move: say INSTANCE and NODE, such as gnt-zfs move web1 node3")
    return _one(here, options, wanted)


def _abort(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import moving, retreat
    from zfsganeti.disks import find_instance

    if len(options.word) != 1 or options.leaving:
        raise BadInput("move --abort: say INSTANCE alone")
    if ignored := [name for name, given in vars(options).items() if name in OF_A_MOVE and given]:
        raise BadInput(f"move --abort: has no --{ignored[0].replace('_', '-')}")
    told = _told(options)
    try:
        name = find_instance(here.master.instances(), options.word[0]).name
    except Missing:  # removed or renamed since
        gone = retreat.Gone(here, options.word[0], told)
        with moving.alone(gone.name):
            return _given_up(gone, options)
    with moving.alone(name):
        return _given_up(retreat.Back(here, name, told), options)


def _given_up(back: Back | Gone, options: argparse.Namespace) -> int:
    """What is to go is shown and, if that was not all that was wanted, gone."""
    for sentence in back.sentences():
        back.say(sentence)
    if options.dry_run or not back.is_needed():
        return 0
    if not options.yes and not confirm("Do this?"):
        say("Nothing was changed.")
        return 1
    back.run()
    return 0


def _told(options: argparse.Namespace) -> Callable[[str], None]:
    """Return what tells a person how it goes: programs read standard output alone."""
    where = sys.stderr if options.json else sys.stdout

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone must not leave an instance half-way
            print(text, file=where, flush=True)

    return tell


def _one(here: Here, options: argparse.Namespace, wanted: Options) -> int:
    from zfsganeti import move

    result = move.Result(options.word[0], "", options.word[1])
    try:
        return _alone(here, options, wanted, result)
    except ZfsGanetiError as error:
        result.problem = one_line(error)
        raise
    except OSError as error:
        result.problem = one_line(of_system(error))
        raise
    except KeyboardInterrupt:
        result.problem = "interrupted"
        raise
    finally:
        if options.json:
            print_json([result.as_json()])


def _alone(here: Here, options: argparse.Namespace, wanted: Options, result: Result) -> int:
    """The result says what became of the one instance, as far as it came."""
    from zfsganeti import move, moving
    from zfsganeti.disks import find_instance

    told = _told(options)
    result.instance = name = find_instance(here.master.instances(), options.word[0]).name
    with moving.alone(name), Meter(name) as meter:

        def between(text: str) -> None:
            meter.rest()
            told(text)

        one = move.Move(here, name, options.word[1], wanted, between, meter)
        result.source, result.target, one.result = one.source, one.target, result
        for sentence in one.prepare():
            told(sentence)
        if options.dry_run:
            return 0
        if not options.yes and not confirm("Do this?"):
            result.problem = UNWANTED
            told("Nothing was changed.")
            return 1
        one.run()
    return 0


# many


def _evacuate(here: Here, options: argparse.Namespace, wanted: Options) -> int:
    from zfsganeti import move

    told = _told(options)
    leaving = [move.full_name(node, here.ssconf.nodes) for node in options.leaving]
    targets = [move.full_name(node, here.ssconf.nodes) for node in options.word]
    instances = move.of_nodes(here, leaving)
    with _all_told([move.Result(one.name, one.primary, "") for one in instances], options):
        chosen = move.spread(here, instances, targets, leaving, told) if instances else {}
    if not chosen:
        told(f"{', '.join(leaving)}: there is nothing to move")
        if options.json:
            print_json([])
        return 0
    results = [_planned(here, name, target, wanted, told) for name, target in chosen.items()]
    found, interrupted = [result for result, _one in results], False
    if not options.dry_run:
        with _all_told(found, options):
            agreed = options.yes or confirm(f"Move these {len(results)} instances?")
        if not agreed:
            told("Nothing was changed.")
            _tell_all(found, UNWANTED, options)
            return 1
        interrupted = _side_by_side([(result, one) for result, one in results if one is not None], options.parallel or PARALLEL)
    if options.json:
        print_json([result.as_json() for result in found])
    else:
        say(_table(found, "would be moved" if options.dry_run else "sent ahead" if options.presync_only else "moved"))
    return INTERRUPTED if interrupted else next((result.status for result in found if result.status), 0)


@contextlib.contextmanager
def _all_told(results: Sequence[Result], options: argparse.Namespace) -> Iterator[None]:
    """What ends here before anything has begun is told to programs as the problem of each instance."""
    try:
        yield
    except ZfsGanetiError as error:
        _tell_all(results, one_line(error), options)
        raise


def _tell_all(results: Sequence[Result], problem: str, options: argparse.Namespace) -> None:
    for result in results:
        result.problem = result.problem or problem
    if options.json:
        print_json([result.as_json() for result in results])


def _planned(here: Here, name: str, target: str, wanted: Options, told: Callable[[str], None]) -> tuple[Result, Move | None]:
    from zfsganeti import move

    try:
        one = move.Move(here, name, target, wanted, told, lambda _what, _done, _all: None)
        for sentence in one.prepare():
            told(sentence)
    except ZfsGanetiError as error:
        return _failed(move.Result(name, here.master.instances()[name].primary, target), error), None
    return one.result, one


def _failed(result: Result, error: ZfsGanetiError) -> Result:
    complain(one_line(error))
    result.problem, result.status = one_line(error), error.exit_code
    return result


def _side_by_side(moves: Sequence[tuple[Result, Move]], parallel: int) -> bool:
    """All moves have ended, well or not, so many at a time; tell whether that was interrupted, after which no other is begun."""
    from concurrent.futures import wait

    from zfsganeti import moving, threads

    over = threading.Event()

    def work(pair: tuple[Result, Move]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # or the programs that it starts would end with the terminal's Ctrl-C
        result, one = pair
        if over.is_set():
            result.problem, result.status = "interrupted before it was begun", INTERRUPTED
            return
        try:
            with moving.alone(one.name):
                now = one.anew()
                now.prepare()
                now.run()
        except ZfsGanetiError as error:
            _failed(result, error)
        except OSError as error:
            _failed(result, of_system(error))

    with threads.pool(parallel) as pool:
        waiting = [pool.submit(work, pair) for pair in moves]
        try:
            wait(waiting)
        except KeyboardInterrupt:
            over.set()
            complain("interrupted: those that have begun are ended first")
    for future in waiting:
        future.result()
    return over.is_set()


def _table(results: Sequence[Result], done: str) -> str:
    return table(
        ("INSTANCE", "FROM", "TO", "SENT", "DOWN", "RESULT"),
        [
            (
                result.instance,
                result.source.split(".")[0],
                result.target.split(".")[0],
                human(result.moved),
                "-" if result.down is None else f"{result.down:.1f} s",
                Bad(result.problem) if result.problem else done,
            )
            for result in results
        ],
        right=(3, 4),
    )
