"""The lab's command: python3 -m tests.lab up|run|shell|kill|boot|stop|clean|test|demo|deps."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import host, image
from .cluster import NODES, Cluster, both, stop_everything
from .host import LabError, say
from .machine import MEMORY_MIB, Machine
from .product import install

ROOT = Path(__file__).parents[2]
RESULT = re.compile(r"::(.+?) (PASSED|FAILED|ERROR|SKIPPED)")


def main() -> int:
    options = parser().parse_args()
    try:
        return int(options.do(options) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python3 -m tests.lab", description="A Ganeti cluster of three VMs with ZFS, one VM per node.")
    commands = top.add_subparsers(required=True)
    for name, do, text in (
        ("deps", deps, "install what the lab and the tests need"),
        ("up", up, "boot the cluster and leave it running"),
        ("stop", stop, "stop the lab and forget its disks"),
        ("clean", clean, "stop everything, also tests that run, and forget built images and saved states"),
        ("test", test, "run the lab's tests on both generations"),
        ("table", table, "write what the last runs have told and how it ended"),
        ("demo", demo, "show the main job"),
        ("run", run, "run one command on a node, with its exit status"),
        ("shell", shell, "open a shell on a node"),
        ("kill", kill, "cut the power of a node"),
        ("boot", boot, "boot a node that was cut off"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(do=do)
        if name in ("up", "demo", "run", "shell", "kill", "boot"):
            command.add_argument("--generation", choices=image.GENERATIONS, default="trixie")
        if name in ("run", "shell", "kill", "boot"):
            command.add_argument("node")
        if name == "table":
            command.add_argument("file", type=Path)
        if name == "run":
            command.add_argument("command", nargs="+")
        if name == "test":
            command.add_argument("--generation", choices=image.GENERATIONS, action="append")
            command.add_argument("pytest", nargs="*", help="arguments for pytest")
    return top


def deps(_options: argparse.Namespace) -> None:
    host.install_missing()


def up(options: argparse.Namespace) -> None:
    host.install_missing()
    lab = Cluster(options.generation)
    install(lab.up())
    say(
        f"{options.generation}: the cluster is up with zfsganeti installed: make lab-shell GENERATION={options.generation}, "
        "then for example gnt-zfs setup zfs/vm node3=tank/vm"
    )


def stop(_options: argparse.Namespace) -> None:
    stop_everything(("lab", "demo"))  # tests that run are left alone


def clean(_options: argparse.Namespace) -> None:
    stop_everything()
    shutil.rmtree(host.cache(), ignore_errors=True)


def _node(options: argparse.Namespace) -> Machine:
    nodes = {node.name: node for node in Cluster(options.generation).machines()}
    if options.node not in nodes:
        raise LabError(f"{options.node}: no such node, there are {', '.join(nodes)}")
    return nodes[options.node]


def run(options: argparse.Namespace) -> int:
    node = _node(options)
    if node.pid() is None:
        raise LabError(f"{options.node} is off: make lab starts the cluster")
    return subprocess.run([*node.ssh(), " ".join(options.command)]).returncode


def shell(options: argparse.Namespace) -> int:
    node = _node(options)
    if node.pid() is None:
        raise LabError(f"{options.node} is off: make lab starts the cluster")
    return subprocess.run(node.ssh(terminal=True)).returncode


def kill(options: argparse.Namespace) -> None:
    _node(options).kill()


def boot(options: argparse.Namespace) -> None:
    Cluster(options.generation).boot(_node(options))


def test(options: argparse.Namespace) -> int:
    """Run the lab's tests on each generation in a process of its own, side by side where memory allows."""
    host.install_missing()
    generations = tuple(options.generation or image.GENERATIONS)
    both(lambda generation: Cluster(generation, "test").prepare(), generations)
    arguments = options.pytest or [str(ROOT / "tests/lab")]
    if host.available_memory_mib() < MEMORY_MIB * NODES * len(generations) + 1024:
        say("too little memory for all nodes at once: one generation after the other")
        statuses = [status for generation in generations for status in _wait([_start(generation, arguments)])]
    else:
        statuses = _wait([_start(generation, arguments) for generation in generations])
    return max(statuses)


def table(options: argparse.Namespace) -> None:
    """The file has a row for each story there is, with how it last ended on each generation and of which commit.

    What this machine does not remember stays as the file has it.
    """
    known = {generation: _remembered(generation) for generation in image.GENERATIONS}
    told = {generation: {_row(name): how for name, how in found.items() if _exists(name)} for generation, found in known.items()}
    if options.file.exists():
        before = _rows(options.file.read_text(encoding="utf-8"))
        told = {generation: before[generation] | found for generation, found in told.items()}
    lines = [
        "# What the lab has seen",
        "",
        "Written by `make lab-table` after `make test` and `make lab-rest`: every story, on real Ganeti and real ZFS, how it ended when it",
        "was last told on each generation, and of which commit; `-` was not told there since this is kept.",
        "",
        f"| story | {' | '.join(image.GENERATIONS)} |",
        f"|---|{'---|' * len(image.GENERATIONS)}",
    ]
    for row in sorted({*_collected(), *(row for found in told.values() for row in found)}):
        lines.append(f"| {row} | {' | '.join(told[generation].get(row, '-') for generation in image.GENERATIONS)} |")
    options.file.parent.mkdir(exist_ok=True)
    options.file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(story: str) -> str:
    return story.removeprefix("test_").replace("_", " ")


def _collected() -> set[str]:
    """Return the row of every story that there is, told or not."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(ROOT / "tests/lab")]
    said = host.run(*command, cwd=ROOT, env={**os.environ, "ZFSGANETI_STORIES": "all"})
    return {_row(line.partition("::")[2]) for line in said.splitlines() if "::" in line}


def _rows(page: str) -> dict[str, dict[str, str]]:
    """Return how each story that there still is ended on each generation, by a page's rows."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")][1:]
    rows = {row: results for row, *results in cells if _exists("test_" + row.replace(" ", "_"))}
    return {
        generation: {row: results[column] for row, results in rows.items() if results[column] != "-"}
        for column, generation in enumerate(image.GENERATIONS)
    }


def _exists(story: str) -> bool:
    function = story.partition("[")[0]
    return any(f"def {function}(" in path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))


def _results(log: Path) -> dict[str, str]:
    """Return the result of each story that was told; none without a log."""
    if not log.exists():
        return {}
    found = RESULT.findall(log.read_text(encoding="utf-8", errors="replace").split("= PASSES =")[0])
    return {name: result for name, result in found if result != "SKIPPED"}


def _remember(generation: str, results: dict[str, str], commit: str) -> None:
    """What the stories of a run have ended in is known beside that of earlier ones."""
    known = _remembered(generation) | {name: f"{result.lower()} ({commit})" for name, result in results.items()}
    _memory(generation).write_text(json.dumps(known, indent=1), encoding="utf-8")


def _remembered(generation: str) -> dict[str, str]:
    return dict(json.loads(_memory(generation).read_text(encoding="utf-8"))) if _memory(generation).exists() else {}


def _memory(generation: str) -> Path:
    return host.cache() / f"told-{generation}.json"


def _log(generation: str, stories: str = "") -> Path:
    return host.cache() / f"{stories or os.environ.get('ZFSGANETI_STORIES', 'test')}-{generation}.log"


def _start(generation: str, arguments: list[str]) -> tuple[str, subprocess.Popen[bytes], Path]:
    log = _log(generation)
    command = [sys.executable, "-u", "-m", "pytest", "-v", "-rA", "--tb=short", "--durations=0", "-p", "no:cacheprovider", *arguments]
    with log.open("wb") as file:
        environment = {**os.environ, "ZFSGANETI_GENERATION": generation}
        return generation, subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment), log


def _wait(runs: list[tuple[str, subprocess.Popen[bytes], Path]]) -> list[int]:
    """Return the exit statuses; every test's result is printed as it comes, a failed run's log when all have ended."""
    commit = host.commit(ROOT)  # what runs is read now
    shown = dict.fromkeys((generation for generation, _process, _log in runs), 0)
    while True:
        running = any(process.poll() is None for _generation, process, _log in runs)
        for generation, _process, log in runs:
            results = RESULT.findall(log.read_text(encoding="utf-8", errors="replace").split("= PASSES =")[0])
            for name, result in results[shown[generation] :]:
                print(f"{time.strftime('%H:%M:%S')} {generation}: {name} {result}", flush=True)
            shown[generation] = len(results)
        if not running:
            break
        time.sleep(2)
    for generation, process, log in runs:
        _remember(generation, _results(log), commit)
        text = log.read_text(encoding="utf-8", errors="replace")
        if process.returncode != 0:
            print(f"{generation}: the log is {log}\n" + "\n".join(line for line in text.splitlines() if not line.startswith("PASSED")))
        print(f"{generation}: {text.splitlines()[-1] if text else 'no output'}", flush=True)
    return [process.returncode for _generation, process, _log in runs]


def demo(options: argparse.Namespace) -> None:
    from .demo import show

    host.install_missing()
    show(options.generation)


if __name__ == "__main__":
    raise SystemExit(main())
