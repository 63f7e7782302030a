"""Run on a node: what a peer, or whoever is in its place, may send to be received as an image; prints what went wrong.

Streams that are cut, that have bits turned, that are another dataset's or none at all, requests that are not understood, and tokens
that nobody gave: none of it may become an image, stay in the way, or end in anything but one line.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

NAME = "fuzzed"
HEADER: dict[str, Any] = {"kind": "image", "name": NAME, "datastore": "", "seconds": 60, "token": ""}
HEADERS: tuple[bytes, ...] = (
    b"",
    b"{}",
    b"[1]",
    b"nonsense",
    b"\xff\xfe",
    json.dumps({**HEADER, "name": "../../escape"}).encode(),
    json.dumps({**HEADER, "name": "a@b"}).encode(),
    json.dumps({**HEADER, "name": ""}).encode(),
    json.dumps({**HEADER, "kind": "root"}).encode(),
    json.dumps({**HEADER, "seconds": -1}).encode(),
    json.dumps({**HEADER, "seconds": "1; reboot"}).encode(),
    json.dumps({**HEADER, "token": 7}).encode(),
    json.dumps({**HEADER, "token": "1-" + "f" * 400}).encode(),
    json.dumps({**HEADER, "datastore": "none"}).encode(),
    b"x" * (1 << 20),
)


def main(good: str, other: str, seed: str) -> None:
    chance = random.Random(seed)
    stream, strange = (open(path, "rb").read() for path in (good, other))  # noqa: SIM115
    for header in HEADERS:
        tell("a request that is none", ask("receive", header + b"\n" + stream))
    for what, sent in broken(stream, strange, chance):
        tell(what, ask("receive", json.dumps(HEADER).encode() + b"\n" + sent))
        done = ask("receive-done", json.dumps({"kind": "image", "name": NAME, "guid": "1", "marks": {}}).encode())
        if done.returncode == 0:
            print(f"{what}: was put in its place")
        ask("receive-abort", json.dumps({"kind": "image", "name": NAME}).encode())
        if left := datasets():
            print(f"{what}: left {left}")


def broken(stream: bytes, strange: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    for _time in range(6):
        yield "a stream that was cut", stream[: chance.randrange(len(stream))]
    for _time in range(12):
        turned = bytearray(stream)
        for _bit in range(chance.randint(1, 4)):
            turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
        yield "a stream with bits turned", bytes(turned)
    middle = len(stream) // 2
    yield "a stream without its middle", stream[: middle - 4096] + stream[middle:]
    yield "a stream with another's middle", stream[:middle] + strange[:8192] + stream[middle + 8192 :]
    yield "zeros", bytes(1 << 16)
    yield "another's stream that changes what there is not", strange


def ask(verb: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["gnt-zfs", "node", verb], input=stdin, capture_output=True, check=False)


def tell(what: str, done: subprocess.CompletedProcess[bytes]) -> None:
    """It is printed when what was sent was taken, or refused in other words than a peer is to get."""
    try:
        answer = json.loads(done.stdout)
        line = answer["error"]
        if done.returncode == 0 or "\n" in line or "Traceback" in line or not line.strip():
            print(f"{what}: {done.returncode} {answer}")
    except (ValueError, KeyError, TypeError):
        print(f"{what}: {done.returncode} {done.stdout[:500]!r} {done.stderr[-500:]!r}")


def datasets() -> list[str]:
    said = subprocess.run(["zfs", "list", "-H", "-o", "name"], capture_output=True, check=True, text=True).stdout.split()
    return [name for name in said if NAME in name or "escape" in name]


main(*sys.argv[1:])
