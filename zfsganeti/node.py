"""Running a command on this node, or a verb of ours on a peer, always with a deadline."""

from __future__ import annotations

import os

from zfsganeti.errors import SAME_VERSION, BadInput, CommandFailed, Unavailable, ZfsGanetiError
from zfsganeti.process import converse, execute, told, waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from zfsganeti.process import Child, Done

SSH_FAILED = 255  # ssh(1): the status of ssh's own failures


def run(*command: str, stdin: str = "", seconds: float = 600) -> str:
    """Return the standard output of a command; CommandFailed holds what it said when it failed."""
    done = execute(command, stdin=stdin, seconds=seconds)
    if done.status != 0:
        raise CommandFailed(" ".join(command[:3]), done.status, done.stderr or done.stdout)
    return done.stdout


def hostname() -> str:
    """Return this machine's host name as the kernel has it."""
    return os.uname().nodename


class PeerFailed(ZfsGanetiError):
    """A peer refused or failed; the text is the peer's own line, the exit code that of its error."""

    def __init__(self, node: str, text: str, exit_code: int) -> None:
        super().__init__(node, text, exit_code)
        self.node, self.text, self.exit_code = node, text, exit_code

    def __str__(self) -> str:
        return f"{self.node}: {self.text}"


def ask(node: str, command: Sequence[str], request: dict[str, Any], *, seconds: float) -> Any:
    """Return a peer's answer to a request; both are JSON, so that no shell ever quotes a name.

    Unavailable when the peer cannot be reached or answers garbage, PeerFailed with its own words when it refuses.
    """
    import json

    return read_answer(node, execute(command, stdin=json.dumps(request), seconds=seconds))


class Door:
    """A verb of ours that a peer has begun with, and that waits for its request: ssh and a start of Python there take longer than most.

    It is told to be EARLY, and says something when it is ready.
    """

    def __init__(self, node: str, command: Sequence[str], *, talks: bool) -> None:
        self.node = node
        self.child = waiting(command, talks=talks)

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_failure: object) -> None:
        """A verb that was not asked for anything has seen the end of its input, and done nothing."""
        if not self.child.is_over:
            with self.child:
                pass

    def is_open(self) -> bool:
        """Tell whether the peer still waits."""
        return not self.child.is_over and self.child.wait(0) is None

    def is_ready(self) -> bool:
        """Tell whether there is nothing more to wait for: the peer has said that it waits, or it will not any more."""
        return self.child.is_over or self.child.has_spoken()

    def ask(self, request: dict[str, Any], *, seconds: float) -> Any:
        """Return the peer's answer, as `ask` does."""
        import json

        return read_answer(self.node, told(self.child, json.dumps(request), seconds=seconds))

    def listen(self, request: dict[str, Any], hear: Callable[[dict[str, Any]], None], *, seconds: float) -> Any:
        """Return the peer's answer, as `listen` does."""
        return _listened(self.node, self.child, request, hear, seconds)


def listen(node: str, command: Sequence[str], request: dict[str, Any], hear: Callable[[dict[str, Any]], None], *, seconds: float) -> Any:
    """Return a peer's answer to a request that takes long; what it tells meanwhile is heard, and it ends when we do.

    Unavailable when it says nothing for `seconds`: it tells at least every few of them that it is at work.
    """
    return _listened(node, waiting(command, talks=True), request, hear, seconds)


def _listened(node: str, child: Child, request: dict[str, Any], hear: Callable[[dict[str, Any]], None], seconds: float) -> Any:
    import json

    last = ['{"error": "said nothing"}']

    def line(text: str) -> None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = {}
        if isinstance(found, dict) and isinstance(found.get("told"), dict):
            hear(found["told"])
        elif text.strip():
            last[0] = text

    try:
        done = converse(child, json.dumps(request) + "\n", line, seconds=seconds)
    except TimeoutError as error:
        raise Unavailable(node, f"does not answer any more ({error})") from None
    done.stdout = last[0]
    return read_answer(node, done)


def read_answer(node: str, done: Done) -> Any:
    """Return what a peer's gnt-zfs has answered, by what the command that asked it ended with."""
    import json

    if done.status == SSH_FAILED:
        said = " ".join(done.stderr.split()) or "ssh failed"
        raise Unavailable(node, f"cannot be reached ({said})")
    try:
        answer = json.loads(done.stdout.rstrip("\n").rpartition("\n")[2])  # before it there may be word that it is ready
    except (ValueError, RecursionError):
        said = " ".join((done.stderr or done.stdout).split())[:200]
        raise Unavailable(
            node, f"gnt-zfs there gave no answer ({said or f'exit status {done.status}'})", "is zfsganeti installed there?"
        ) from None
    if not isinstance(answer, dict) or not {"answer", "error"} & set(answer):
        raise Unavailable(node, "gnt-zfs there answers in a way not known here", SAME_VERSION)
    if "error" in answer:
        code, said = answer.get("code"), str(answer["error"])
        if code == BadInput.exit_code and said.startswith("verb '"):  # and then all that it does know
            said = f"gnt-zfs there does not know {said.split(':')[0]}: {SAME_VERSION}"
        raise PeerFailed(node, said, code if isinstance(code, int) else 1)
    return answer["answer"]


def read_request(text: str) -> dict[str, Any]:
    """Return a request that a peer sent, nothing at all being one without details; BadInput when it is none."""
    import json

    try:
        request = json.loads(text or "{}")
    except (ValueError, RecursionError):  # nested too deep
        raise BadInput("the request is no JSON") from None
    if not isinstance(request, dict):
        raise BadInput("the request is no JSON object")
    return request
