"""Jobs of Ganeti's, given to its daemon and waited for by LUXI, the protocol that its own commands speak with it.

A command such as gnt-instance takes longer to start than many jobs take to run, and an instance that moves is down meanwhile. LUXI
is JSON on a socket of the master, each message ended by a byte 3 (doc/design-2.0.rst of Ganeti; the same in 3.0 and 3.1).
"""

from __future__ import annotations

import time

from zfsganeti.errors import CommandFailed, Missing, Unavailable, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

SOCKET = "/run/ganeti/socket/ganeti-query"
END = b"\3"
ANSWER_SECONDS = 60  # for what is answered at once
AGAIN_SECONDS = 1
TURN_SECONDS = 20  # how long Ganeti is to wait for a change of a job before it says that there is none
ENDED = ("success", "error", "canceled")
KNOWN = 0  # RS_NORMAL: what a field of a query holds is known


def perform(opcode: Mapping[str, object], *, what: str, seconds: float) -> None:
    """Ganeti has done it; CommandFailed says why not, Unavailable that it is not known whether: the job may go on."""
    reason = [["gnt-zfs", what, time.time_ns()]]  # which gnt-job info shows
    job = _call("SubmitJob", [[{**opcode, "reason": reason}]], what)
    status, results = _ended(job, what, time.monotonic() + seconds)
    if status != "success":
        raise CommandFailed(what, 1, _why(results, f"job {job} has ended as {status}"))


def _ended(job: object, what: str, deadline: float) -> tuple[str, Any]:
    """Return how a job has ended, and what its operations said; the daemon may be started anew meanwhile."""
    seen, answered = None, time.monotonic()
    while True:
        try:
            found = _call("WaitForJobChange", [job, ["status", "opresult"], seen, None, TURN_SECONDS], what)
        except Unavailable:
            if time.monotonic() > answered + ANSWER_SECONDS:
                raise
            time.sleep(AGAIN_SECONDS)
            continue
        answered = time.monotonic()
        if isinstance(found, list) and found:
            seen = found[0]
            if seen[0] in ENDED:
                return str(seen[0]), seen[1]
        if answered > deadline:
            raise Unavailable(what, f"job {job} goes on", f"gnt-job watch {job} shows it")


def look(kind: str, name: str, fields: Sequence[str]) -> list[Any]:
    """Return what Ganeti finds now of the node or instance of this full name, None for what it cannot say."""
    found = _call("Query", [kind, list(fields), ["=", "name", name]], f"{kind} {name}")
    try:
        return [value if status == KNOWN else None for _field, (status, value) in zip(fields, found["data"][0], strict=True)]
    except IndexError:
        raise Missing(f"{kind} {name}") from None
    except (LookupError, TypeError, ValueError) as error:
        raise _strange(error) from error


def _call(method: str, arguments: Sequence[object], what: str) -> Any:
    """Return what the daemon answers; CommandFailed when it refuses."""
    import json

    try:
        answer = json.loads(_exchange(json.dumps({"method": method, "args": arguments}).encode()))
        worked, result = answer["success"], answer["result"]
    except OSError as error:
        raise Unavailable("Ganeti", f"its daemon does not answer ({one_line(error)})", "run this on the master node") from error
    except (ValueError, LookupError, TypeError) as error:
        raise _strange(error) from error
    if not worked:
        raise CommandFailed(what, 1, _text(result))
    return result


def _strange(error: Exception) -> Unavailable:
    return Unavailable("Ganeti", f"its daemon answers in a way not known here ({one_line(error)})")


def _exchange(message: bytes) -> bytes:
    import socket

    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.settimeout(ANSWER_SECONDS)
        daemon.connect(SOCKET)
        daemon.sendall(message + END)
        said = bytearray()
        while not said.endswith(END):
            more = daemon.recv(1 << 16)
            if not more:
                raise ConnectionError("it has hung up")
            said += more
    return bytes(said[: -len(END)])


def _why(results: Any, otherwise: str) -> str:
    """Return what the first operation of a job that failed says of it."""
    failed = [result for result in results or [] if isinstance(result, list) and result]
    return _text(failed[0]) if failed else otherwise


def _text(error: Any) -> str:
    """Return an error of Ganeti's, which is the name of its class and what that holds, as one line."""
    if not isinstance(error, list) or len(error) != 2 or not isinstance(error[1], list):
        return str(error)
    name, held = error
    if name == "HooksAbort" and held and isinstance(held[0], list):
        return "; ".join(str(part[-1]) for part in held[0] if isinstance(part, list) and part)
    return str(held[0]) if held else str(name)
