"""Streams: the commands, and bytes on their way through programs that fail in every place. zfs and ssh are scripts here."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti import process, streams
from zfsganeti.errors import BadInput, BadName, CommandFailed, NoSpace, Refused, Unavailable, ZfsGanetiError
from zfsganeti.node import PeerFailed, read_answer
from zfsganeti.streams import FLAGS, Streams, read_line, receive_command, receive_error, send_command

HOUSE = Path(__file__).parents[2]
TOKEN = "1-e7304265c-f0-789c636064"
SSH = ["ssh", "root@node2", "receive"]
SEND = ["zfs", "send", "zfs/x@one"]
DOOR = """#!{python} -I
import json, sys
sys.path.insert(0, {house!r})
from zfsganeti import process, streams
from zfsganeti.errors import ZfsGanetiError, one_line
process.ENVIRONMENT["PATH"] = {path!r}
request = json.loads(streams.read_line(0))
try:
    streams.Streams().receive(["zfs", "receive", request["to"]], 0, seconds=request.get("seconds", 20))
    print(json.dumps({{"answer": request}}))
except ZfsGanetiError as error:
    print(json.dumps({{"error": one_line(error), "code": error.exit_code}}))
    raise SystemExit(error.exit_code)
"""


# the commands


def test_a_stream_is_made_with_the_same_flags_always() -> None:
    assert FLAGS == ("-L", "-e")
    assert send_command("a/b@c") == ["zfs", "send", "-L", "-e", "-c", "a/b@c"]
    assert send_command("a/b@c", base="@d", compressed=False) == ["zfs", "send", "-L", "-e", "-i", "@d", "a/b@c"]
    assert send_command("a/b@c", base="#d", raw=True) == ["zfs", "send", "-L", "-e", "-c", "-w", "-i", "#d", "a/b@c"]
    assert send_command("a/b@c", base="a/o@d")[-3:] == ["-i", "a/o@d", "a/b@c"]
    assert send_command("a/b@c", token=TOKEN) == ["zfs", "send", "-t", TOKEN]


def test_a_receive_is_resumable_unmounted_and_never_by_force() -> None:
    wanted = {"canmount": "noauto", "readonly": None, "org.zfsganeti:cluster": "x"}
    assert receive_command("a/b", wanted) == (
        ["zfs", "receive", "-s", "-u", "-o", "canmount=noauto", "-x", "readonly", "-o", "org.zfsganeti:cluster=x", "a/b"]
    )


@pytest.mark.parametrize(
    "properties",
    [
        {"canmount": "on"},
        {"readonly": "off"},
        {"mountpoint": "/"},
        {"mountpoint": None},
        {"com.x:y": "z"},
        {"org.zfsganeti:a=b": "c"},
        {"-F": None},
    ],
)
def test_only_known_properties_are_set_on_what_is_received(properties: dict[str, str | None]) -> None:
    with pytest.raises(BadInput):
        receive_command("a/b", properties)


@pytest.mark.parametrize(
    ("snapshot", "base", "token"),
    [
        ("a", "", ""),
        ("a@b@c", "", ""),
        ("a@", "", ""),
        ("a@b", "c", ""),
        ("a@b", "@", ""),
        ("a@b", "a/../b@c", ""),
        ("a@b", "", "-F"),
        ("a@b", "", "x"),
    ],
)
def test_what_is_no_name_never_reaches_a_command(snapshot: str, base: str, token: str) -> None:
    with pytest.raises((BadName, BadInput)):
        send_command(snapshot, base=base, token=token)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=20), st.text(max_size=20))
def test_no_word_of_a_command_becomes_an_option(snapshot: str, base: str) -> None:
    try:
        words = send_command(f"zfs/{snapshot}", base=base)
    except ZfsGanetiError:
        return
    assert [word for word in words[2:] if word.startswith("-")] == ["-L", "-e", "-c", *(["-i"] if base else [])]


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        ("cannot receive incremental stream: destination x has been modified\nsince most recent snapshot\n", Refused, "was changed since"),
        ("cannot receive new filesystem stream: destination 'x' exists\nmust specify -F to overwrite it\n", Refused, "exists already"),
        ("cannot receive new filesystem stream: dataset is busy\n", Refused, "is in use"),
        ("cannot receive new filesystem stream: out of space\n", Refused, "is full"),
        (
            "cannot receive: incomplete stream.\nA resuming stream\n    zfs send -t 1-2\n",
            CommandFailed,
            "zfs receive x: cannot receive: incomplete stream.",
        ),
        ("", CommandFailed, "exit status 1"),
    ],
)
def test_what_a_receive_failed_of_is_said_in_one_line(said: str, kind: type[ZfsGanetiError], text: str) -> None:
    error = receive_error("x", 1, said)
    assert isinstance(error, kind)
    assert text in str(error)
    assert "zfs send -t" not in str(error)


# the line before a stream


def test_the_line_is_read_and_not_a_byte_more() -> None:
    reader, writer = os.pipe()
    os.write(writer, b'{"a": 1}\n\nrest\n')
    assert read_line(reader) == '{"a": 1}'
    assert os.read(reader, 100) == b"\nrest\n"
    os.close(writer)
    assert read_line(reader) == ""
    os.close(reader)


def test_a_line_has_an_end() -> None:
    with open("/dev/zero", "rb") as endless, pytest.raises(BadInput, match="too long"):
        read_line(endless.fileno())
    with pytest.raises(BadInput, match="too long"):
        Streams().pump("node2", SEND, SSH, {"a": "x" * 40000}, seconds=5)


def test_the_door_leaves_the_stream_to_the_verb() -> None:
    body = (
        f"import sys; sys.path.insert(0, {str(HOUSE)!r})\n"
        "import hashlib, os\nfrom zfsganeti import answer, cli\n"
        "def receive(here, request):\n"
        "    with open(0, 'rb', closefd=False) as stream: return [request, hashlib.sha256(stream.read()).hexdigest()]\n"
        "answer.VERBS['receive'] = receive\nraise SystemExit(cli.main(['node', 'receive']))"
    )
    stream = b"\n\0{}\n" + random.Random(1).randbytes(300000)
    done = subprocess.run([sys.executable, "-I", "-c", body], input=b'{"kind": "image"}\n' + stream, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {"answer": [{"kind": "image"}, hashlib.sha256(stream).hexdigest()]}


# two programs and a stream between them


class World:
    """A directory with scripts that are zfs and ssh; what zfs receives is in `got`."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch) -> None:
        self.place = place
        (place / "bin").mkdir()
        path = f"{place}/bin:/usr/bin:/bin"
        patch.setitem(process.ENVIRONMENT, "PATH", path)
        self.stream = random.Random(7).randbytes(5_000_000) + b"\n{}\n"
        (place / "stream").write_bytes(self.stream)
        self.script("ssh", DOOR.format(python=sys.executable, house=str(HOUSE), path=path))
        self.zfs()
        self.moved: list[int] = []

    def script(self, name: str, text: str) -> None:
        path = self.place / "bin" / name
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\necho $$ >>{self.place}/pids\n{text}\n")
        path.chmod(0o755)

    def zfs(self, send: str = "exec cat {0}/stream", receive: str = "exec cat >{0}/got") -> None:
        self.script("zfs", f"if [ $1 = send ]; then {send.format(self.place)}; else {receive.format(self.place)}; fi")

    def pump(self, *, limit: int = 0, seconds: float = 20) -> process.Done:
        begun = time.monotonic()
        try:
            return Streams().pump("node2", SEND, SSH, {"to": "x"}, progress=self.moved.append, limit=limit, seconds=seconds)
        finally:
            self.took = time.monotonic() - begun

    def got(self) -> bytes:
        return (self.place / "got").read_bytes()

    def nothing_runs(self) -> None:
        """Every script has ended, the last ones by themselves within moments."""
        deadline = time.monotonic() + 10
        pids = self.place / "pids"  # one that was ended before its first line has written none
        for pid in pids.read_text().split() if pids.exists() else []:
            while Path("/proc", pid).exists():
                assert time.monotonic() < deadline, f"{pid} still runs"
                time.sleep(0.05)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_node_that_does_not_know_what_is_asked_has_another_version() -> None:
    said = {"error": "verb 'adopt-unused': there are report, images", "code": BadInput.exit_code}
    with pytest.raises(
        PeerFailed, match="^node2: gnt-zfs there does not know verb 'adopt-unused': install the same version on every node$"
    ):
        read_answer("node2", process.Done(BadInput.exit_code, json.dumps(said), ""))


def test_every_byte_arrives_behind_its_header(world: World) -> None:
    done = world.pump()
    assert read_answer("node2", done) == {"to": "x"}
    assert world.got() == world.stream
    assert world.moved == sorted(world.moved)
    assert world.moved[-1] == len(world.stream)
    world.nothing_runs()


def test_an_empty_stream_arrives_too(world: World) -> None:
    (world.place / "stream").write_bytes(b"")
    assert read_answer("node2", world.pump()) == {"to": "x"}
    assert (world.got(), world.moved) == (b"", [0])


@pytest.mark.parametrize("end", ["echo cannot read the disk >&2; exit 3", "kill -9 $$", "kill $$"])
def test_a_sender_that_dies_is_told_of(world: World, end: str) -> None:
    world.zfs(send="head -c 1000000 {0}/stream; " + end)
    with pytest.raises(CommandFailed, match="^zfs send zfs/x@one: (cannot read the disk|exit status -9|exit status -15)$"):
        world.pump()
    world.nothing_runs()
    assert world.got() == world.stream[:1000000]


def test_a_receiver_that_dies_says_why_and_ends_the_sender(world: World) -> None:
    world.zfs(send="exec cat {0}/stream /dev/zero", receive="head -c 100000 >{0}/got; echo cannot receive: out of space >&2; exit 1")
    with pytest.raises(PeerFailed, match="^node2: dataset x: the pool or a quota is full: ") as caught:
        read_answer("node2", world.pump())
    assert caught.value.exit_code == NoSpace.exit_code
    assert world.took < 15
    world.nothing_runs()


def test_a_peer_that_refuses_before_it_reads_says_why(world: World) -> None:
    world.script("ssh", """echo '{"error": "node says no", "code": 5}'; exit 5""")
    world.zfs(send="exec cat {0}/stream /dev/zero")
    with pytest.raises(PeerFailed, match="^node2: node says no$"):
        read_answer("node2", world.pump())
    world.nothing_runs()


@pytest.mark.parametrize("before", ["", "head -c 2000000 >/dev/null; "])
def test_a_peer_that_cannot_be_reached_is_unavailable(world: World, before: str) -> None:
    world.script("ssh", before + "echo connection reset >&2; exit 255")
    with pytest.raises(Unavailable, match=r"^node2: cannot be reached \(connection reset\)$"):
        read_answer("node2", world.pump())
    world.nothing_runs()


def test_a_peer_that_claims_success_too_early_is_not_believed(world: World) -> None:
    world.script("ssh", """head -c 100 >/dev/null; echo '{"answer": null}'""")
    with pytest.raises(Unavailable, match="stopped reading"):
        world.pump()
    world.nothing_runs()


@pytest.mark.parametrize(
    ("send", "ssh"),
    [
        ("exec cat {0}/stream", "exec sleep 60"),
        ("head -c 1000 {0}/stream; exec sleep 60", "exec cat >/dev/null"),
        ("exec cat {0}/stream", "cat >/dev/null; exec sleep 60"),
    ],
    ids=["the peer reads nothing", "the sender writes nothing", "the peer does not end"],
)
def test_a_stream_that_stands_still_is_ended(world: World, send: str, ssh: str) -> None:
    world.zfs(send=send)
    world.script("ssh", ssh)
    with pytest.raises(Unavailable, match="^node2: the stream stands still, "):
        world.pump(seconds=1)
    assert world.took < 10
    world.nothing_runs()


def test_a_program_that_is_not_there_is_unavailable(world: World) -> None:
    with pytest.raises(Unavailable, match="^no-such-ssh: is not installed$"):
        Streams().pump("node2", SEND, ["no-such-ssh"], {}, seconds=5)
    world.nothing_runs()


def test_no_more_than_the_limit_is_moved(world: World) -> None:
    (world.place / "stream").write_bytes(world.stream[:2_000_000])
    read_answer("node2", world.pump(limit=1_000_000))
    assert 1.7 < world.took < 8
    assert world.got() == world.stream[:2_000_000]
    assert len(world.moved) > 10


def test_a_stream_whose_sender_is_gone_without_a_word_is_given_up(world: World) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"some")
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="^zfs receive: the stream brought nothing for 1 s$"):
        Streams().receive(["zfs", "receive", "x"], reader, seconds=1)
    assert 1 < time.monotonic() - begun < 10
    world.nothing_runs()
    os.close(reader)
    os.close(writer)


def test_a_slow_end_after_the_last_byte_is_waited_for(world: World) -> None:
    world.zfs(receive="cat >{0}/got; exec sleep 3")
    reader, writer = os.pipe()
    os.write(writer, b"all")
    os.close(writer)
    Streams().receive(["zfs", "receive", "x"], reader, seconds=1)
    os.close(reader)
    assert world.got() == b"all"


def test_what_is_set_by_hand_hides_no_property(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "encryption\toff\norg.example:note\tline one\nline two\x0bline three\nkeystatus\t-\norg.example:other\tx\nencryption\ton\n"
    monkeypatch.setattr(streams, "_zfs", lambda *_words: said)
    assert Streams().values("zfs/vm", ("encryption", "keystatus", "pbkdf2iters")) == {"encryption": "off", "keystatus": "-"}
