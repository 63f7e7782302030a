"""Running a program with a deadline: the one place that knows `sh` and how its versions differ.

`query` does the same by the standard library alone: every hook and every verb of a disk asks zfs(8) something, and importing
`sh` takes as long as all the rest of them together.
"""

from __future__ import annotations

import os

from zfsganeti.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from typing import IO, Self

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
NOBODY = "65533"  # a user and group that Debian reserves and gives to nobody, unlike 65534, whose processes may be anybody's
SAID_BYTES = 1 << 20  # as much as a confined program may write to files; what it says on stderr goes to one


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


class Child:
    """A program while it runs; with the end of the `with` it has ended too."""

    def __init__(self, command: Sequence[str], *, stdin: int | None = None, descriptors: Sequence[int] = ()) -> None:
        import subprocess
        import tempfile

        self._name = command[0]
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe would make the program wait for a reader)
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=descriptors,
                env=ENVIRONMENT,
                cwd="/",
            )
        except OSError:
            self._stderr.close()
            raise Unavailable(command[0], "is not installed") from None
        assert self._process.stdout is not None
        self.stdout: IO[bytes] = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._process.kill()
        self._process.wait()
        self.stdout.close()
        self._stderr.close()

    def end(self, *, seconds: float) -> Done:
        """Return what the program ended with, its standard output left out; Unavailable when it does not end."""
        import subprocess

        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Unavailable(self._name, f"no end within {seconds:.0f} s") from None
        self._stderr.seek(0)
        return Done(status, "", self._stderr.read(SAID_BYTES).decode(errors="replace"))


def confined(*command: str, memory: int, seconds: int) -> list[str]:
    """Return a command as one that reaches nothing but the descriptors it is given, for programs that read what strangers made.

    Of all files it sees those below /usr alone, which Debian's merged directories make a root that programs run in; it has no
    network, no rights and no way to get any. Who is not root has little to lose and cannot do the first two.
    """
    limits = ("prlimit", f"--as={memory}", f"--cpu={seconds}", f"--fsize={SAID_BYTES}", "--core=0", "--nofile=64")
    if os.geteuid() != 0:
        return ["setpriv", "--no-new-privs", *limits, *command]
    alone = ("unshare", "--net", "--ipc", "--root=/usr", "--wd=/")
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")
    return [*alone, "setpriv", *user, *limits, *command]


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
