"""Running a program to its end with a deadline: the one place that knows `sh` and how its versions differ.

`query` does the same by the standard library alone: every hook and every verb of a disk asks zfs(8) something, and importing
`sh` takes as long as all the rest of them together.
"""

from __future__ import annotations

import os

from zfsganeti.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}


class Done:
    """What a program ended with."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr


def execute(command: Sequence[str], *, stdin: str = "", seconds: float) -> Done:
    """Run a program to its end and return it, whatever its status; Unavailable when it is missing or too slow."""
    import sh

    # since version 2 a call returns a str unless told otherwise; before, the option would become an argument of the program
    returns = {"_return_cmd": True} if int(sh.__version__.split(".")[0]) >= 2 else {}
    try:
        # looked for where we say, not in the PATH of whoever called us
        done = sh.Command(command[0], search_paths=ENVIRONMENT["PATH"].split(":"))(
            *command[1:], _in=stdin, _env=ENVIRONMENT, _timeout=seconds, _tty_out=False, _cwd="/", _ok_code=list(range(256)), **returns
        )
    except sh.CommandNotFound:
        raise Unavailable(command[0], "is not installed") from None
    except (sh.TimeoutException, sh.SignalException):
        raise Unavailable(" ".join(command[:2]), f"no end within {seconds:.0f} s") from None
    return Done(done.exit_code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def query(command: Sequence[str], *, seconds: float) -> Done:
    """Run a program that is asked for something, without input, to its end; Unavailable when it is missing or too slow."""
    import subprocess

    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=ENVIRONMENT, cwd="/", check=False
        )
    except FileNotFoundError:
        raise Unavailable(command[0], "is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(" ".join(command[:2]), f"no end within {seconds:.0f} s") from None
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def background(command: Sequence[str]) -> None:
    """A program goes on by itself, whatever becomes of us."""
    import subprocess

    if os.path.isdir("/run/systemd/system"):
        command = ["systemd-run", "--quiet", "--collect", "--", *command]  # not in the service of whoever called us, which may be restarted
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )


# who else is there


def processes() -> Iterator[str]:
    """Yield the number of every process."""
    return (entry for entry in os.listdir("/proc") if entry.isdigit())


def describe(pid: str) -> str:
    """Return a process the way messages name it: process qemu-system-x86 (4711)."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"process {file.read().strip()} ({pid})"
    except OSError:
        return f"process {pid}"


def open_files(pid: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what a process has open as (path in /proc, status); one that ends or closes meanwhile yields less."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for number in numbers:
        link = f"/proc/{pid}/fd/{number}"
        try:
            status = os.stat(link)
        except OSError:
            continue
        yield link, status


def holding(paths: Sequence[str]) -> list[str]:
    """Return the processes that have one of the files open."""
    wanted = {(status.st_dev, status.st_ino) for status in map(os.stat, paths)}
    return [describe(pid) for pid in processes() if any((status.st_dev, status.st_ino) in wanted for _link, status in open_files(pid))]
