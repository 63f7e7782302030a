"""The lab's command: python3 -m tests.lab up|run|shell|kill|boot|stop|clean|test|demo|deps."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import host, image
from .cluster import Cluster, both, stop_everything
from .host import LabError, say
from .machine import Machine
from .product import install

ROOT = Path(__file__).parents[2]


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
        ("stop", stop, "stop every lab and forget its disks"),
        ("clean", clean, "also forget built images and saved states"),
        ("test", test, "run the lab's tests on both generations"),
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
        f"{options.generation}: the cluster is up with zfsganeti installed: make lab-shell GENERATION={options.generation}, then for example "
        "gnt-zfs setup zfs/vm node3=tank/vm"
    )


def stop(_options: argparse.Namespace) -> None:
    stop_everything()


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
    """Run the lab's tests on each generation in a process of its own, side by side."""
    host.install_missing()
    generations = tuple(options.generation or image.GENERATIONS)
    both(lambda generation: image.build(generation), generations)
    runs = {}
    for generation in generations:
        log = host.cache() / f"test-{generation}.log"
        with log.open("wb") as file:
            runs[generation] = subprocess.Popen(
                [
                    sys.executable,
                    "-u",
                    "-m",
                    "pytest",
                    "-v",
                    "-rA",
                    "--tb=short",
                    "-p",
                    "no:cacheprovider",
                    *(options.pytest or [str(ROOT / "tests/lab")]),
                ],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ZFSGANETI_GENERATION": generation},
            )
        subprocess.Popen(
            ["sed", "-u", "-n", f"s/^.*test_[a-z_]*\\.py::\\(.*\\) \\(PASSED\\|FAILED\\|ERROR\\).*/{generation}: \\1 \\2/p"],
            stdin=subprocess.Popen(["tail", "-n", "+1", "-f", f"--pid={runs[generation].pid}", str(log)], stdout=subprocess.PIPE).stdout,
        )
    failed = [generation for generation, process in runs.items() if process.wait() != 0]
    for generation in generations:
        lines = (host.cache() / f"test-{generation}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        if generation in failed:
            print("\n".join(line for line in lines if not line.startswith("PASSED")))
        print(f"{generation}: {lines[-1] if lines else 'no output'}", flush=True)
    return 1 if failed else 0


def demo(options: argparse.Namespace) -> None:
    from .demo import show

    host.install_missing()
    show(options.generation)


if __name__ == "__main__":
    raise SystemExit(main())
