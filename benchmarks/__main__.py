"""Writes a page of what takes how long, measured in the lab: python3 -m benchmarks [--generation G] [--only TABLE] docs/performance.md

A cluster of each generation is brought up, side by side if told to. Figures of different runs are not comparable, ratios are: all ways
of a row took turns in one run. What was measured is kept in benchmarks/figures, so that the page holds the newest of each table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import moves
from benchmarks.measure import files
from benchmarks.plot import plot
from tests.lab import host, image
from tests.lab.cluster import Cluster
from tests.lab.host import say
from tests.lab.machine import Machine
from tests.lab.product import install

ROOT = Path(__file__).parents[1]
SETUP = "gnt-zfs setup --yes zfs/vm node3=tank/vm"
COMMAND = "make bench"
SECONDS = 5400
WITH_OTHERS = ("lists", "moves")  # tables for which other nodes do their part
PLOTS = {
    "images": ("clone-time.svg", "A disk made of an image", "GiB of the image", "ms until it is attached"),
    "moves": ("move-downtime.svg", "How long an instance is down while it moves", "GiB of its disk", "seconds"),
}

Found = dict[str, Any]


def main() -> int:
    options = parser().parse_args()
    host.install_missing()
    generations = tuple(options.generation or image.GENERATIONS)
    with ThreadPoolExecutor(max_workers=len(generations) if options.side_by_side else 1) as pool:
        list(pool.map(lambda generation: measure(generation, options.only or tables()), generations))
    found = {generation: kept(generation) for generation in image.GENERATIONS if kept(generation)}
    if options.file is None:
        print(page(found))
        return 0
    options.file.parent.mkdir(exist_ok=True)
    options.file.write_text(page(found), encoding="utf-8")
    for name, text in plots(found):
        (options.file.parent / name).write_text(text, encoding="utf-8")
    return 0


def tables() -> list[str]:
    return sorted({*files(), "moves"})


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python3 -m benchmarks", description=(__doc__ or "").splitlines()[0])
    top.add_argument("--generation", choices=image.GENERATIONS, action="append", help="default: each")
    top.add_argument("--only", choices=tables(), action="append", help="what is measured; default: everything")
    top.add_argument("--side-by-side", action="store_true", help="the generations at the same time: sooner, and less exact")
    top.add_argument("file", type=Path, nargs="?", help="the page; without it it is printed")
    return top


def measure(generation: str, wanted: list[str]) -> None:
    """A new cluster has measured, and each table that it has told is kept; nothing of the cluster is left."""
    lab = Cluster(generation, "bench")
    lab.stop()
    try:
        nodes = lab.up()
        install(nodes)
        nodes[0].run(SETUP)
        _put(nodes[:2])
        _alone(generation, nodes, [name for name in wanted if name not in WITH_OTHERS])
        if "lists" in wanted:
            _on(generation, nodes[0], "lists")
        if "moves" in wanted:
            rows: list[Found] = []
            for row in moves.rows(generation, nodes):  # hours may lie between the first and the last
                rows.append(asdict(row))
                keep(generation, {"tables": {"moves": {"title": (moves.__doc__ or "").splitlines()[0], "rows": rows}}})
    finally:
        lab.stop()


def _put(nodes: list[Machine]) -> None:
    packed = subprocess.run(["tar", "-C", str(ROOT), "--exclude=__pycache__", "-c", "benchmarks"], check=True, capture_output=True)
    for node in nodes:
        node.run("rm -rf /root/bench && mkdir /root/bench && tar -C /root/bench -x", stdin=packed.stdout)


def _alone(generation: str, nodes: list[Machine], wanted: list[str]) -> None:
    """The second node has measured while the others stood still, which would only take time from it."""
    others = (nodes[0], nodes[2])
    for other in others:
        other.pause()
    for name in wanted:
        _on(generation, nodes[1], name)
    for other in others:
        other.resume()


def _on(generation: str, node: Machine, name: str) -> None:
    say(f"{generation}: {name}")
    done = node.run(f"cd /root/bench && python3 -m benchmarks.measure zfs/vm /zfs/vm {name}", seconds=SECONDS)
    keep(generation, json.loads(done))


def keep(generation: str, said: Found) -> None:
    """What was found is added to what is known of a generation."""
    known = kept(generation)
    known = {"versions": {**known.get("versions", {}), **said.get("versions", {})}, "tables": {**known.get("tables", {}), **said["tables"]}}
    _place(generation).parent.mkdir(exist_ok=True)
    _place(generation).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def kept(generation: str) -> Found:
    return dict(json.loads(_place(generation).read_text(encoding="utf-8"))) if _place(generation).exists() else {}


def _place(generation: str) -> Path:
    return ROOT / "benchmarks/figures" / f"{generation}.json"


def page(found: dict[str, Found]) -> str:
    """Return the page as Markdown."""
    emulator = "KVM" if host.kvm_works() else "TCG (the guest's processor is emulated: some 20 times slower than a real one)"
    lines = [
        "# What takes how long",
        "",
        f"Written by `{COMMAND}`. Compare ratios, not times: each row's two sides took turns in one run, and medians are told.",
        f"Machine: {os.cpu_count()} vCPU host, QEMU {emulator}; nodes with 1 vCPU and 2 GiB, each with its pool on a virtio disk.",
        "",
    ]
    lines += [line for name, (file, title, _x, _y) in PLOTS.items() if _points(found, name) for line in (f"![{title}]({file})", "")]
    for generation, said in found.items():
        named = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
        lines += [f"## {generation}", "", f"{named}.", ""]
        for table in said["tables"].values():
            lines += [f"### {table['title']}", "", "| ours | | against | | ratio | what limits us |", "|---|---:|---|---:|---:|---|"]
            lines += [line(row) for row in table["rows"]]
            lines.append("")
    return "\n".join(lines)


def line(row: Found) -> str:
    ours, theirs = float(row["figure"]), float(row["their_figure"])
    ratio = f"{ours / theirs:.2f}" if theirs else "-"
    return f"| {row['ours']} | {_figure(ours, row['unit'])} | {row['theirs']} | {_figure(theirs, row['unit'])} | {ratio} | {row['limit']} |"


def _figure(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if unit in ("s", "MB/s") else f"{value:.0f} {unit}"


def plots(found: dict[str, Found]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each picture of which something was measured."""
    for name, (file, title, across, up) in PLOTS.items():
        series = _points(found, name)
        if series:
            yield file, plot(title, across, up, series)


def _points(found: dict[str, Found], name: str) -> dict[str, list[tuple[float, float]]]:
    """Return what was measured at which size: of every side of a row that names its size last, as in `..., 4 GiB`."""
    series: dict[str, dict[float, float]] = {}
    for generation, said in found.items():
        for row in said["tables"].get(name, {}).get("rows", []):
            for side, figure in ((row["ours"], row["figure"]), (row["theirs"], row["their_figure"])):
                what, comma, size = side.rpartition(", ")
                if comma and size.endswith(" GiB"):
                    series.setdefault(f"{what} ({generation})", {})[float(size.removesuffix(" GiB"))] = float(figure)
    return {what: sorted(points.items()) for what, points in series.items()}


if __name__ == "__main__":
    raise SystemExit(main())
