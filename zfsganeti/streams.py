"""Snapshots on their way: zfs send, zfs receive, and the ssh between them.

Every stream is made with the same flags, large blocks and embedded data: in a chain of incrementals they must never change.
A stream carries no properties. It is received resumably, unmounted, and never by force: a target that was changed since the
common snapshot refuses it, and what it held stays.
"""

from __future__ import annotations

import os
import re

from zfsganeti.errors import BadInput, Busy, CommandFailed, Full, Missing, Refused, Unavailable, ZfsGanetiError
from zfsganeti.names import PREFIX, check_dataset, check_snapshot, is_component
from zfsganeti.process import feed, query, relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from zfsganeti.process import Child, Done

QUERY_SECONDS = 60
COPY_SECONDS = 600  # without a byte
FLAGS = ("-L", "-e")  # large blocks and embedded data, in every stream
PROPERTIES = {"canmount": "noauto", "readonly": "on"}  # what a receive may set, with our user properties
EXISTS = "exists already"
CHANGED = "was changed since the snapshot that both nodes have"
TOKEN = re.compile(r"\d+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+")
LINE_LIMIT = 32 << 10  # a request's line; less than what an empty pipe holds


class Snap:
    """A snapshot as one side has it: its short name, its GUID, which is the same on every node, and the txg that orders it there."""

    def __init__(self, name: str, guid: str, createtxg: int) -> None:
        self.name, self.guid, self.createtxg = name, guid, createtxg

    def __repr__(self) -> str:
        return f"Snap({self.name!r}, {self.guid!r}, {self.createtxg})"


class Resumable:
    """What a token continues with: the GUID of the snapshot, and about how many bytes are left."""

    def __init__(self, guid: str, left: int) -> None:
        self.guid, self.left = guid, left


def is_encrypted(values: Mapping[str, Any]) -> bool:
    """Tell by its properties whether a dataset is encrypted: what is received below it is as well, and must hold no embedded data."""
    return values.get("encryption") not in (None, "", "off", "-")


# the commands (pure)


def send_command(
    snapshot: str, *, base: str = "", token: str = "", raw: bool = False, compressed: bool = True, embedded: bool = True
) -> list[str]:
    """Return the command that writes a snapshot as a stream: all of it, what changed since `base`, or what a token says is left.

    `base` is @SNAPSHOT or #BOOKMARK of the same filesystem, or a full name. A token holds the flags of the stream that it continues.
    An encrypted filesystem cannot receive embedded data.
    """
    if token:
        return ["zfs", "send", "-t", check_token(token)]
    flags = [*(FLAGS if embedded else FLAGS[:1]), *(["-c"] if compressed else []), *(["-w"] if raw else [])]
    return ["zfs", "send", *flags, *(["-i", _check_base(base)] if base else []), check_snapshot(snapshot)]


def check_token(token: str) -> str:
    """Return a token that can be one: a peer sends it, and it becomes an argument."""
    if not TOKEN.fullmatch(token):
        raise BadInput(f"resume token {token[:40]!r}: is none")
    return token


def _check_base(base: str) -> str:
    dataset, mark, short = (base.replace("#", "@", 1) if "@" not in base else base).partition("@")
    if not mark or not is_component(short):
        raise BadInput(f"base {base!r}: must be a snapshot or a bookmark")
    if dataset:
        check_dataset(dataset)
    return base


def receive_command(target: str, properties: Mapping[str, str | None], *, origin: str = "") -> list[str]:
    """Return the command that reads a stream into a filesystem; a property that is None is left as it is inherited there.

    With an `origin`, a snapshot of this node, the filesystem is made as a clone of that.
    """
    words = ["-o", f"origin={check_snapshot(origin)}"] if origin else []
    for name, value in properties.items():
        ours = name.startswith(PREFIX) and is_component(name)
        if not ours and (name not in PROPERTIES or value not in (None, PROPERTIES[name])):
            raise BadInput(f"property {name}={value}: cannot be set on what is received")
        words += ["-x", name] if value is None else ["-o", f"{name}={value}"]
    return ["zfs", "receive", "-s", "-u", *words, check_dataset(target)]


# this node's ZFS, as far as streams are concerned


class Streams:
    """What a transfer needs of a node's ZFS and of the way to its peers."""

    def snapshots(self, dataset: str) -> list[Snap]:
        """Return a filesystem's snapshots, oldest first; Missing when it does not exist."""
        columns = ["-o", "name,guid,createtxg", "-s", "createtxg"]
        said = _zfs("list", "-Hp", "-d", "1", "-t", "snapshot", *columns, check_dataset(dataset))
        rows = (line.split("\t") for line in said.splitlines())
        return [Snap(name.partition("@")[2], guid, int(createtxg)) for name, guid, createtxg in rows]

    def token(self, dataset: str) -> str:
        """Return the token of a stream that was half received, empty when there is none."""
        value = _zfs("get", "-Hp", "-o", "value", "receive_resume_token", check_dataset(dataset)).strip()
        return "" if value == "-" else value

    def size(self, send: list[str]) -> int:
        """Return about how many bytes a stream will have."""
        return _parse_size(_zfs("send", "-n", "-P", *send[2:]))

    def resumable(self, token: str) -> Resumable | None:
        """Return what a token continues with, None when this node cannot: the snapshot is gone, or it is no token of ours."""
        try:
            said = _zfs("send", "-n", "-v", "-P", "-t", check_token(token))
        except (BadInput, CommandFailed, Missing):
            return None
        found = re.search(r"toguid = 0x([0-9a-f]+)", said)
        return Resumable(str(int(found.group(1), 16)), _parse_size(said)) if found else None

    def written_since(self, dataset: str, short: str) -> int:
        """Return the bytes that were written to a filesystem after one of its snapshots."""
        check_snapshot(f"{dataset}@{short}")
        said = _zfs("get", "-Hp", "-o", "value", f"written@{short}", dataset).strip()
        if not said.isdigit():
            raise Missing(f"snapshot {dataset}@{short}")
        return int(said)

    def values(self, dataset: str, properties: Sequence[str]) -> dict[str, str]:
        """Return native properties of a filesystem or a snapshot; one that this ZFS does not know is left out."""
        said = _zfs("get", "-Hp", "-o", "property,value", "all", dataset)
        lines = [line.partition("\t") for line in said.split("\n")]  # what is set by hand may hold anything, line breaks too
        known = {name: value for name, _tab, value in reversed(lines) if name in properties}
        return {name: known[name] for name in properties if name in known}

    def features(self, pool: str) -> dict[str, str]:
        """Return which features a pool knows, each with its state: disabled, enabled, or active once it is used."""
        done = query(["zpool", "get", "-Hp", "-o", "property,value", "all", check_dataset(pool.split("/")[0])], seconds=QUERY_SECONDS)
        if done.status != 0:
            raise CommandFailed(f"zpool get all {pool}", done.status, done.stderr)
        rows = (line.split("\t") for line in done.stdout.splitlines() if line.startswith("feature@"))
        return {name.removeprefix("feature@"): state for name, state in rows}

    def abort(self, dataset: str) -> None:
        """What was half received into a filesystem is gone; one that is nothing else is gone with it."""
        _zfs("receive", "-A", check_dataset(dataset))

    def pump(
        self,
        peer: str,
        send: list[str],
        ssh: list[str],
        header: Mapping[str, Any],
        *,
        progress: Callable[[int], None] = lambda _moved: None,
        limit: int = 0,
        seconds: float,
        begun: Child | None = None,
    ) -> Done:
        """The peer has read a line of JSON and then the stream; return what its command, which may have `begun`, ended with, good or bad.

        CommandFailed when the sender failed, whatever the peer says then; Unavailable when nothing moves for `seconds`.
        """
        import json

        head = (json.dumps(header) + "\n").encode()
        if len(head) > LINE_LIMIT:
            raise BadInput("the request is too long for one line")
        try:
            done = relay(send, begun or ssh, head, progress=progress, limit=limit, seconds=seconds)
        except TimeoutError as error:
            raise Unavailable(peer, f"the stream stands still, {error}") from None
        if done.source.status != 0 and not done.early:
            raise CommandFailed(f"zfs send {send[-1]}" if "-t" not in send else "zfs send -t", done.source.status, done.source.stderr)
        if done.early and done.sink.status == 0:
            raise Unavailable(peer, "stopped reading before the end of the stream")
        return done.sink

    def copy(
        self,
        snapshot: str,
        target: str,
        *,
        base: str = "",
        properties: Mapping[str, str | None],
        embedded: bool = True,
        progress: Callable[[int], None] = lambda _moved: None,
    ) -> None:
        """The target on this node has the snapshot, all of it or what changed since `base`."""
        send, receive = send_command(snapshot, base=base, embedded=embedded), receive_command(target, properties)
        done = relay(send, receive, b"", progress=progress, seconds=COPY_SECONDS)
        if done.sink.status != 0:
            raise receive_error(target, done.sink.status, done.sink.stderr)
        if done.source.status != 0:
            raise CommandFailed(f"zfs send {snapshot}", done.source.status, done.source.stderr)

    def receive(self, command: list[str], descriptor: int, *, seconds: float) -> None:
        """The stream that a descriptor brings is received, whole; what came of it before an error is kept and can be resumed."""
        done = feed(command, descriptor, seconds=seconds)
        if done.status != 0:
            raise receive_error(command[-1], done.status, done.stderr)


def read_line(descriptor: int) -> str:
    """Return the line that a descriptor brings first; not a byte of what follows was taken."""
    line = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        line += byte
        if len(line) > LINE_LIMIT:
            raise BadInput("the request is too long for one line")
    return line.decode(errors="replace")


def receive_error(target: str, status: int, said: str) -> ZfsGanetiError:
    """Return what zfs receive failed of; only its first line says why, the others print a token."""
    first = next((line.strip() for line in said.splitlines() if line.strip()), "")
    what = f"dataset {target}"
    if "has been modified" in said or "most recent snapshot" in said:
        return Refused(what, CHANGED, "nothing was overwritten")
    if "destination" in said and "exists" in said:
        return Refused(what, EXISTS)
    if "busy" in said:
        return Busy(what, "is in use, perhaps by another receive")
    if "out of space" in said or "quota exceeded" in said:
        return Full(what, "the pool or a quota is full")
    return CommandFailed(f"zfs receive {target}", status, first)


def _parse_size(said: str) -> int:
    found = re.search(r"^size\t(\d+)$", said, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _zfs(*words: str) -> str:
    done = query(["zfs", *words], seconds=QUERY_SECONDS)
    if done.status == 0:
        return done.stdout
    if "does not exist" in done.stderr:
        raise Missing(f"dataset {words[-1]}")
    if "/dev/zfs" in done.stderr or "modules" in done.stderr:
        raise Unavailable("ZFS", "its kernel module is not loaded", "modprobe zfs")
    raise CommandFailed(f"zfs {words[0]} {words[-1]}", done.status, done.stderr.split("\n")[0])
