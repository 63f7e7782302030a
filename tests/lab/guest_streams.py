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

STRANGE: tuple[dict[str, Any], ...] = (
    {"name": "../../escape"}, {"name": "a@b"}, {"name": ""}, {"name": "escape/a"}, {"kind": "root"}, {"kind": ["moving"]}, {"seconds": -1},
    {"seconds": "1; reboot"}, {"token": 7}, {"token": "1-" + "f" * 400}, {"datastore": "none"}, {"datastore": "../escape"},
)  # fmt: skip
STRANGE_MOVES: tuple[dict[str, Any], ...] = (
    {"source": "escape"}, {"source": 1}, {"wanted": None}, {"instance": "../escape"}, {"instance": None}, {"origin": 3}, {"origin": "7"},
)  # fmt: skip
GARBAGE = (b"", b"{}", b"[1]", b"nonsense", b"\xff\xfe", b"x" * (1 << 20))


class Receiver:
    """What a node receives, of a kind, as a peer asks for it: `header` is the request that comes before the stream."""

    def __init__(self, kind: str, guid: str, source: str) -> None:
        self.kind, self.guid = kind, guid
        self.header: dict[str, Any] = {"kind": kind, "name": NAME, "datastore": "", "seconds": 60, "token": ""}
        if kind == "moving":
            self.header |= {"source": source, "instance": NAME, "wanted": guid, "origin": ""}

    def receive(self, stream: bytes, **other: Any) -> subprocess.CompletedProcess[bytes]:
        return ask("receive", json.dumps({**self.header, **other}).encode() + b"\n" + stream)

    def use(self) -> subprocess.CompletedProcess[bytes]:
        """What was received is put in its place, if it may be."""
        if self.kind == "image":
            return ask("receive-done", json.dumps({"kind": "image", "name": NAME, "guid": self.guid, "marks": {}}).encode())
        return ask("move-land", json.dumps({"instance": NAME, "guids": {NAME: self.guid}}).encode())

    def token(self) -> str:
        said = json.loads(ask("receive-state", json.dumps(self.header).encode()).stdout)
        return str(said["answer"]["token"])

    def give_up(self, what: str) -> None:
        """Nothing is left of it."""
        done = ask("receive-abort", json.dumps({"kind": self.kind, "name": NAME}).encode())
        if done.returncode != 0:
            print(f"{what}: cannot be given up: {done.stdout!r} {done.stderr!r}")
        if left := datasets():
            print(f"{what}: left {left}")


def main(kind: str, source: str, guid: str, good: str, other: str, full: str, seed: str) -> None:
    """`good` is a whole stream of that GUID, `other` changes what there is not, `full` is another dataset's whole one."""
    chance, to = random.Random(seed), Receiver(kind, guid, source)
    stream, strange, foreign = (open(path, "rb").read() for path in (good, other, full))  # noqa: SIM115
    for header in GARBAGE:
        tell("a request that is none", ask("receive", header + b"\n" + stream))
    for wrong in (*STRANGE, *(STRANGE_MOVES if kind == "moving" else ())):
        tell(f"a request with {wrong}", to.receive(stream, **wrong))
        to.give_up(f"a request with {wrong}")
    for what, sent in broken(stream, strange, chance):
        tell(what, to.receive(sent))
        refused(what, to)
        to.give_up(what)
    whole_of_another(to, foreign)
    tokens(to, stream, foreign)


def refused(what: str, to: Receiver) -> None:
    if to.use().returncode == 0:
        print(f"{what}: was put in its place")


def whole_of_another(to: Receiver, foreign: bytes) -> None:
    """Another dataset's stream is as good as any; only its GUID says that it is not what was asked for."""
    what, done = "another's whole stream", to.receive(foreign)
    if to.kind == "moving":
        tell(what, done)
    refused(what, to)
    to.give_up(what)


def tokens(to: Receiver, stream: bytes, foreign: bytes) -> None:
    """What was half received is gone on with by what goes on with it, and by nothing else, whatever token is named."""
    tell("half of a stream", to.receive(stream[: len(stream) * 3 // 4]))
    half = to.token()
    if not half:
        print("half of a stream: cannot be gone on with")
        return
    for what, token, sent in (
        ("no token", "", stream),
        ("a token with a digit turned", half[:-9] + ("0" if half[-9] != "0" else "1") + half[-8:], stream),
        ("the token, and the stream from its begin", half, stream),
        ("the token, and another's stream", half, foreign),
        ("the token, and nothing", half, b""),
    ):
        tell(what, to.receive(sent, token=token))
        refused(what, to)
        if to.token() != half:
            print(f"{what}: what was half received is another one now")
    if to.kind == "moving":  # a valid token, of what another dataset has half of
        ask(
            "receive", json.dumps({**to.header, "name": f"{NAME}2", "instance": f"{NAME}2"}).encode() + b"\n" + foreign[: len(foreign) // 2]
        )
        theirs = str(json.loads(ask("receive-state", json.dumps({**to.header, "name": f"{NAME}2"}).encode()).stdout)["answer"]["token"])
        tell("another's token", to.receive(stream, token=theirs))
        ask("receive-abort", json.dumps({"kind": to.kind, "name": f"{NAME}2"}).encode())
    rest = subprocess.run(["zfs", "send", "-t", half], capture_output=True, check=True).stdout
    done = to.receive(rest, token=half)
    if done.returncode != 0:
        print(f"what goes on with it: {done.stdout!r} {done.stderr!r}")
    if to.kind == "moving":
        refused("what is whole, and not what the source was fenced with", to)
    to.give_up("what was whole")


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
