"""Streams between fakes of ZFS: what zfsganeti.streams.Streams promises, on tests.fakezfs. A stream is JSON in a few thousand bytes."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.fakezfs import FakeZfs, Filesystem, Snapshot, read_files
from zfsganeti.errors import BadInput, CommandFailed, Missing, Unavailable
from zfsganeti.names import check_dataset, check_snapshot
from zfsganeti.process import Done
from zfsganeti.streams import Resumable, Snap, Streams, check_token, receive_command, receive_error, send_command

Door = Callable[[str, dict[str, Any], int], dict[str, Any]]  # a peer's answer to a verb with a stream behind it
MODIFIED = "destination has been modified\nsince most recent snapshot"


class Wired(Streams):
    """One node's streams without ssh: `doors` are its peers.

    `cut` says after how many bytes of the next streams, or after what share of them, the line breaks.
    """

    def __init__(self) -> None:
        self.doors: dict[str, Door] = {}
        self.cut: list[float | None] = []
        self.sent: list[list[str]] = []

    def stream(self, send: list[str]) -> bytes:
        """Return the stream that a command writes."""
        raise NotImplementedError

    def pump(
        self,
        peer: str,
        send: list[str],
        ssh: list[str],
        header: Mapping[str, Any],
        *,
        progress: Callable[[int], None] = lambda _moved: None,
        **_options: Any,
    ) -> Done:
        stream = self.stream(send)
        arriving = stream[: self._length(len(stream))]
        self.sent.append(send)
        descriptor = os.memfd_create("stream")
        try:
            os.write(descriptor, arriving)
            os.lseek(descriptor, 0, os.SEEK_SET)
            answer = self.doors[peer](ssh[-1], json.loads(json.dumps(header)), descriptor)
        finally:
            os.close(descriptor)
        progress(len(arriving))
        if arriving != stream:
            raise Unavailable(peer, "cannot be reached (broken)")
        return Done(int(answer.get("code", 0)), json.dumps(answer), "")

    def _length(self, whole: int) -> int:
        """Return how many bytes of the next stream arrive."""
        cut = self.cut.pop(0) if self.cut else None
        return whole if cut is None else min(whole, int(cut if cut >= 1 else cut * whole))


class FakeStreams(Wired):
    """One fake node's streams."""

    def __init__(self, fake: FakeZfs) -> None:
        super().__init__()
        self.fake = fake

    def snapshots(self, dataset: str) -> list[Snap]:
        found = self.fake._must(check_dataset(dataset)).snapshots.items()
        return sorted((Snap(short, snapshot.guid, snapshot.number) for short, snapshot in found), key=lambda snap: snap.createtxg)

    def token(self, dataset: str) -> str:
        return self.fake._must(check_dataset(dataset)).token

    def size(self, send: list[str]) -> int:
        return len(self.stream(send))

    def resumable(self, token: str) -> Resumable | None:
        try:
            return Resumable(str(int(check_token(token).split("-")[1], 16)), len(self.stream(["zfs", "send", "-t", token])))
        except (BadInput, CommandFailed):
            return None

    def _snapshot(self, name: str) -> Snapshot:
        dataset, _at, short = check_snapshot(name).partition("@")
        found = self.fake._must(dataset).snapshots.get(short)
        if found is None:
            raise Missing(f"dataset {name}")
        return found

    def written_since(self, dataset: str, short: str) -> int:
        before = self._snapshot(f"{dataset}@{short}").files
        now = read_files(self.fake._must(dataset).files)
        return sum(len(content) for name, content in now.items() if content != before.get(name)) + len(before.keys() - now.keys())

    def values(self, dataset: str, properties: Sequence[str]) -> dict[str, str]:
        known = {"encryption": "off", "keystatus": "-"}
        if "@" in dataset:
            known = {"guid": self._snapshot(dataset).guid}
        else:
            known |= self.fake._must(check_dataset(dataset)).properties
        return {name: known[name] for name in properties if name in known}

    def features(self, pool: str) -> dict[str, str]:
        self.fake._must(pool.split("/")[0])
        return dict(self.fake.features)

    def abort(self, dataset: str) -> None:
        filesystem = self.fake._must(check_dataset(dataset))
        if not filesystem.token:
            raise CommandFailed(f"zfs receive {dataset}", 1, "does not have any resumable receive state to abort")
        self.fake.reaper.point()
        filesystem.token, filesystem.half = "", b""
        if not filesystem.snapshots:
            del self.fake._filesystems[dataset]
        self.fake.reaper.point()

    def stream(self, send: list[str]) -> bytes:
        """Return the stream that a command writes."""
        if "-t" in send:
            _version, guid, offset, _name = send[-1].split("-")
            return self._head({"resume": int(offset, 16)}) + self._body(str(int(guid, 16)))[int(offset, 16) :]
        dataset, short = send[-1].split("@")
        snapshot = self.fake._must(dataset).snapshots[short]
        base = ""
        if "-i" in send:
            other, _at, before = send[send.index("-i") + 1].partition("@")
            base = self.fake._must(other or dataset).snapshots[before].guid
        return self._head({"from": base, "guid": snapshot.guid, "name": short, "embedded": "-e" in send}) + self._body(snapshot.guid)

    @staticmethod
    def _head(words: dict[str, Any]) -> bytes:
        return json.dumps(words).encode() + b"\n"

    def _body(self, guid: str) -> bytes:
        for filesystem in self.fake._filesystems.values():
            for snapshot in filesystem.snapshots.values():
                if snapshot.guid == guid:
                    files = {name: base64.b64encode(content).decode() for name, content in snapshot.files.items()}
                    return json.dumps(files).encode() + b"END"
        raise CommandFailed("zfs send", 1, "cannot resume send: it is no longer the same snapshot used in the initial send")

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
        descriptor = os.memfd_create("stream")
        try:
            progress(os.write(descriptor, self.stream(send_command(snapshot, base=base, embedded=embedded))))
            os.lseek(descriptor, 0, os.SEEK_SET)
            self.receive(receive_command(target, properties), descriptor, seconds=0)
        finally:
            os.close(descriptor)

    def receive(self, command: list[str], descriptor: int, *, seconds: float) -> None:  # noqa: ARG002
        stream = b""
        while more := os.read(descriptor, 1 << 20):
            stream += more
        head, newline, body = stream.partition(b"\n")
        target = command[-1]
        if not newline:
            raise receive_error(target, 1, "cannot receive: failed to read from stream\n")
        self.fake.reaper.point()
        with self.fake.reaper.sparing():
            self._apply(command, target, json.loads(head), body)
        self.fake.reaper.point()

    def _apply(self, command: list[str], target: str, words: dict[str, Any], body: bytes) -> None:
        filesystem = self.fake._filesystems.get(target)
        if "resume" in words:
            if filesystem is None or not filesystem.token or len(filesystem.half) != words["resume"]:
                raise receive_error(target, 1, "cannot receive resume stream: kernel state differs")
            guid, name = str(int(filesystem.token.split("-")[1], 16)), bytes.fromhex(filesystem.token.split("-")[3]).decode()
        else:
            if filesystem is not None and words["from"]:
                self._refuse_taken(target, filesystem, words["name"])
            if words["embedded"] and self._is_encrypted(target):
                said = "cannot receive new filesystem stream: incompatible embedded data stream feature with encrypted receive."
                raise receive_error(target, 1, f"{said}\n")
            origin = next((word.removeprefix("origin=") for word in command if word.startswith("origin=")), "")
            filesystem = self._begin(target, filesystem, words["from"], origin)
            guid, name = words["guid"], words["name"]
        options = [command[index + 1].partition("=") for index, word in enumerate(command) if word == "-o"]
        filesystem.marks.update({key: value for key, _is, value in options if ":" in key})
        filesystem.properties.update({key: value for key, _is, value in options if ":" not in key and key != "origin"})
        filesystem.half += body
        if not filesystem.half.endswith(b"END"):
            filesystem.token = f"1-{int(guid):x}-{len(filesystem.half):x}-{name.encode().hex()}"
            raise receive_error(target, 1, "cannot receive new filesystem stream: checksum mismatch or incomplete stream.\nPartially ...\n")
        self._refuse_taken(target, filesystem, name)
        self._finish(filesystem, guid, name)

    def _is_encrypted(self, name: str) -> bool:
        above = [name[:end] for end, letter in enumerate(f"{name}/") if letter == "/"]
        known = [self.fake._filesystems[each].properties for each in above if each in self.fake._filesystems]
        return any(properties.get("encryption", "off") != "off" for properties in known)

    def _refuse_taken(self, target: str, filesystem: Filesystem, name: str) -> None:
        """ZFS looks for the snapshot's name before anything else, and again at the end."""
        if name in filesystem.snapshots:
            raise receive_error(target, 1, f"cannot restore to {target}@{name}: destination already exists\n")

    def _begin(self, target: str, filesystem: Filesystem | None, base: str, origin: str) -> Filesystem:
        """A filesystem that a new stream goes into."""
        if filesystem is None:
            if target.rpartition("/")[0] not in self.fake._filesystems or (base and not origin):
                raise Missing(f"dataset {target}")
            if origin and base and self._snapshot(origin).guid != base:
                raise receive_error(target, 1, "cannot receive: local origin for clone does not exist")
            self.fake._add(target, {}, {})
            if origin:
                self.fake._must(target).origin = (self.fake._must(origin.partition("@")[0]), origin.partition("@")[2])
            return self.fake._must(target)
        if not base:
            raise receive_error(target, 1, f"cannot receive new filesystem stream: destination '{target}' exists\nmust specify -F")
        common = next((snapshot for snapshot in filesystem.snapshots.values() if snapshot.guid == base), None)
        if common is None or common.files != read_files(filesystem.files):
            raise receive_error(target, 1, f"cannot receive incremental stream: {MODIFIED}")
        return filesystem

    def _finish(self, filesystem: Filesystem, guid: str, name: str) -> None:
        files = {short: base64.b64decode(content) for short, content in json.loads(filesystem.half[:-3]).items()}
        filesystem.half, filesystem.token = b"", ""
        for short in os.listdir(filesystem.files):
            os.unlink(f"{filesystem.files}/{short}")
        for short, content in files.items():
            with open(f"{filesystem.files}/{short}", "wb") as file:
                file.write(content)
        snapshot = Snapshot(self.fake._next(), self.fake.clock, files)
        snapshot.guid = guid
        filesystem.snapshots[name] = snapshot
