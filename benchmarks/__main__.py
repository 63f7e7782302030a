"""Writes a page of what takes how long, measured in the lab: python3 -m benchmarks [--generation G] [--only FILE] docs/performance.md

A cluster of each generation is brought up, one after the other, so that nothing else runs. Figures of different runs are not
comparable, ratios are: all ways of a row took turns in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.measure import files
from tests.lab import host, image
from tests.lab.cluster import Cluster
from tests.lab.host import say
from tests.lab.product import install

ROOT = Path(__file__).parents[1]
SETUP = "gnt-zfs setup --yes zfs/vm node3=tank/vm"
COMMAND = "make bench"
SECONDS = 3600


def main() -> int:
    options = parser().parse_args()
    host.install_missing()
    found = {generation: measure(generation, options.only or []) for generation in options.generation or image.GENERATIONS}
    text = page(found)
    if options.file is None:
        print(text)
        return 0
    options.file.parent.mkdir(exist_ok=True)
    options.file.write_text(text, encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python3 -m benchmarks", description=(__doc__ or "").splitlines()[0])
    top.add_argument("--generation", choices=image.GENERATIONS, action="append", help="default: each")
    top.add_argument("--only", choices=files(), action="append", help="what is measured; default: everything")
    top.add_argument("file", type=Path, nargs="?", help="the page; without it it is printed")
    return top


def measure(generation: str, only: list[str]) -> dict[str, Any]:
    """Return what a node of a new cluster has measured; nothing of the cluster is left."""
    lab = Cluster(generation, "bench")
    lab.stop()
    try:
        nodes = lab.up()
        install(nodes)
        nodes[0].run(SETUP)
        node = nodes[1]
        for other in (nodes[0], nodes[2]):
            other.pause()  # they would only take time from the one that measures
        packed = subprocess.run(["tar", "-C", str(ROOT), "--exclude=__pycache__", "-c", "benchmarks"], check=True, capture_output=True)
        node.run("rm -rf /root/bench && mkdir /root/bench && tar -C /root/bench -x", stdin=packed.stdout)
        say(f"{generation}: measuring")
        done = node.run(f"cd /root/bench && python3 -m benchmarks.measure zfs/vm /zfs/vm {' '.join(only)} 2>/dev/null", seconds=SECONDS)
        return dict(json.loads(done))
    finally:
        lab.stop()


def page(found: dict[str, dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    emulator = "KVM" if host.kvm_works() else "TCG (the guest's processor is emulated: some 20 times slower than a real one)"
    lines = [
        "# What takes how long",
        "",
        f"Written by `{COMMAND}`. Compare ratios, not milliseconds: each row's two sides took turns in one run, and medians are told.",
        f"Machine: {os.cpu_count()} vCPU host, QEMU {emulator}; a node with 1 vCPU and 2 GiB, its pool on a virtio disk.",
        "",
    ]
    for generation, said in found.items():
        named = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
        lines += [f"## {generation}", "", f"{named}.", ""]
        for table in said["tables"].values():
            lines += [f"### {table['title']}", "", "| ours | ms | against | ms | ratio | what limits us |", "|---|---:|---|---:|---:|---|"]
            lines += [line(row) for row in table["rows"]]
            lines.append("")
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    ours, theirs = float(row["seconds"]), float(row["their_seconds"])
    return f"| {row['ours']} | {1000 * ours:.0f} | {row['theirs']} | {1000 * theirs:.0f} | {ours / theirs:.2f} | {row['limit']} |"


if __name__ == "__main__":
    raise SystemExit(main())
