"""Running a program to its end with a deadline: the one place that knows `sh` and how its versions differ."""

from __future__ import annotations

from collections.abc import Sequence

from zfsganeti.errors import Unavailable

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
        done = sh.Command(command[0])(
            *command[1:], _in=stdin, _env=ENVIRONMENT, _timeout=seconds, _tty_out=False, _cwd="/", _ok_code=list(range(256)), **returns
        )
    except sh.CommandNotFound:
        raise Unavailable(command[0], "is not installed") from None
    except (sh.TimeoutException, sh.SignalException):
        raise Unavailable(" ".join(command[:2]), f"no end within {seconds:.0f} s") from None
    return Done(done.exit_code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
