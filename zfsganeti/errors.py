"""What can go wrong, as exceptions that hold facts; str() of one is the line a person reads.

ZfsGanetiError
 ├─ BadInput             what was typed, configured or handed over by Ganeti makes no sense; nothing was changed
 │   ├─ BadName          a name that cannot be a dataset's
 │   ├─ BadConfig        every problem of the configuration file at once
 │   └─ BadEnvironment   GANETI_* variables missing or absurd
 ├─ Unavailable          a tool, device, peer or pool does not answer now; nothing is known about the data
 ├─ Missing              what was named does not exist
 ├─ Refused              doing it would touch something that is not ours, or lose something
 │   ├─ Foreign          a dataset or directory that is not ours is in the way
 │   ├─ Conflict         two nodes hold what cannot become one without losing some of it
 │   └─ Busy             still in use, by whom is said
 ├─ NoSpace              the pool has too little room, with figures
 ├─ Full                 there was no room for one more byte
 └─ CommandFailed        a command exited non-zero
"""

from __future__ import annotations

import errno

ROOM = "gnt-zfs trash empty may make room"
SAME_VERSION = "install the same version on every node"
EXIT_STATUS = {
    0: "done, nothing is wrong",
    1: "something is wrong, or the answer to a question was no",
    2: "bad input: nothing was changed",
    3: "something does not answer: a node, a pool, a lock",
    4: "something named does not exist",
    5: "refused: it would lose something, or belongs to somebody else",
    6: "in use",
    7: "not enough space",
    130: "interrupted: the same command goes on",
    141: "whoever was to read the output has gone",
}


class ZfsGanetiError(Exception):
    """Something went wrong that a person can understand; `exit_code` is what the command ends with."""

    exit_code = 1


class BadInput(ZfsGanetiError):
    """What was asked makes no sense; nothing was changed."""

    exit_code = 2


class BadName(BadInput):
    """A name cannot be that of an instance, a snapshot or a dataset."""

    def __init__(self, kind: str, name: str, why: str) -> None:
        super().__init__(kind, name, why)
        self.kind, self.name, self.why = kind, name, why

    def __str__(self) -> str:
        return f"{self.kind} name {str(self.name)[:80]!r}: {self.why}"  # a peer may send something that is no text


class BadConfig(BadInput):
    """The configuration file cannot be used; all its problems are held, each with setting and line."""

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__(path, problems)
        self.path, self.problems = path, problems

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(self.problems)}"


class BadEnvironment(BadInput):
    """Ganeti's variables are missing or absurd: either this is not Ganeti calling, or it has changed."""

    def __init__(self, variable: str, value: str | None, why: str) -> None:
        super().__init__(variable, value, why)
        self.variable, self.value, self.why = variable, value, why

    def __str__(self) -> str:
        said = "is not set" if self.value is None else f"is {self.value[:80]!r}"
        return f"{self.variable} {said}: {self.why}"


class Unavailable(ZfsGanetiError):
    """A tool, a device, a peer or a pool does not answer now; `way_out` says what to do."""

    exit_code = 3

    def __init__(self, what: str, why: str, way_out: str = "") -> None:
        super().__init__(what, why, way_out)
        self.what, self.why, self.way_out = what, why, way_out

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f": {self.way_out}" if self.way_out else "")


class Missing(ZfsGanetiError):
    """What was named does not exist."""

    exit_code = 4

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(what, way_out)
        self.what, self.way_out = what, way_out

    def __str__(self) -> str:
        return f"{self.what} does not exist" + (f": {self.way_out}" if self.way_out else "")


class Refused(ZfsGanetiError):
    """It was not done since something would be lost or touched that is not ours; nothing was changed."""

    exit_code = 5

    def __init__(self, what: str, why: str, way_out: str = "") -> None:
        super().__init__(what, why, way_out)
        self.what, self.why, self.way_out = what, why, way_out

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f": {self.way_out}" if self.way_out else "")


class Foreign(Refused):
    """A dataset or directory that is not ours stands where ours should."""


class Conflict(Refused):
    """What a node holds cannot become what another one holds without losing some of it; `evidence` names those snapshots."""

    def __init__(self, what: str, why: str, evidence: list[str], way_out: str = "") -> None:
        super().__init__(what, why + (f" ({', '.join(evidence[:3])})" if evidence else ""), way_out)
        self.evidence = evidence


class Busy(Refused):
    """Something still uses it; `why` names the mount, process, hold, clone, child or send."""

    exit_code = 6


class NoSpace(Refused):
    """The pool has too little room; sizes are bytes."""

    exit_code = 7

    def __init__(self, what: str, asked: int, available: int, way_out: str = "") -> None:
        super().__init__(what, f"{human(asked)} asked for, {human(available)} available", way_out)
        self.asked, self.available = asked, available


class Full(Refused):
    """The pool, a quota or a filesystem has no room left; how much is lacking is not known."""

    exit_code = 7

    def __init__(self, what: str, why: str = "no space is left", way_out: str = ROOM) -> None:
        super().__init__(what, why, way_out)


class CommandFailed(ZfsGanetiError):
    """A command exited non-zero; `said` is the end of what it printed."""

    def __init__(self, command: str, status: int, said: str) -> None:
        super().__init__(command, status, said)
        self.command, self.status, self.said = command, status, said

    @property
    def reason(self) -> str:
        return last_line(self.said) or f"exit status {self.status}"

    def __str__(self) -> str:
        return f"{self.command}: {self.reason}"


def of_system(error: OSError, what: str = "") -> ZfsGanetiError:
    """Return what the kernel has refused as an error that says it in a line, with a way out where there is one."""
    what = what or str(error.filename or "this node")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Full(what)
    if error.errno == errno.EROFS:
        return Refused(what, "is read-only", "zfs get readonly says whether that was set, gnt-zfs check whether a move has left it so")
    if error.errno == errno.EIO:
        return Unavailable(what, "cannot be read or written", "zpool status says what is broken")
    if error.errno == errno.EBUSY:
        return Busy(what, "is in use")
    if error.errno in (errno.EPERM, errno.EACCES):
        return Unavailable(what, "permission denied", "gnt-zfs check says whether what belongs there is mounted")
    return ZfsGanetiError(f"{what}: {error.strerror.lower()}" if error.strerror else one_line(error))


def of_command(command: str, status: int, said: str) -> ZfsGanetiError:
    """Return what a program that writes a disk failed of."""
    return Full(command) if "No space left on device" in said else CommandFailed(command, status, said)


def last_line(text: str) -> str:
    """Return the last line of a text that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def one_line(error: BaseException) -> str:
    """Return an exception as the one line that Ganeti and people are shown."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ZfsGanetiError) else f"{type(error).__name__}: {text}"


def defect(error: Exception) -> str:
    """Return the one line for an error that nothing expected: what it is, where it came up, and what to do."""
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{one_line(error)} ({place.filename.rpartition('/')[2]}, line {place.lineno})"
    return f"zfsganeti failed: {what}: please report this, unless nodes have different versions of zfsganeti"


def human(size: int) -> str:
    """Return a number of bytes the way zfs(8) prints sizes, with three significant digits: 1.50G."""
    amount = float(size)
    for unit in ("B", "K", "M", "G", "T", "P"):
        if abs(amount) < 1024 or unit == "P":
            break
        amount /= 1024
    if unit == "B":
        return f"{size}B"
    return f"{amount:.{2 if amount < 10 else 1 if amount < 100 else 0}f}{unit}"
