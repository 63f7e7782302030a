"""The ExtStorage provider `zfs`: what Ganeti calls for each `-t ext` disk, one verb at a time.

Ganeti calls `attach` before every other verb and takes a volume whose attach fails for one that is gone. So attach is first a
mere look at the kernel, for which next to nothing is imported; and only what is known not to exist fails at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from zfsganeti import loop
from zfsganeti.errors import (
    BadEnvironment,
    BadInput,
    CommandFailed,
    Missing,
    Refused,
    Unavailable,
    ZfsGanetiError,
    defect,
    of_system,
    one_line,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zfsganeti.here import Here
    from zfsganeti.volumes import Volumes

    Verb = Callable[[Volumes, "Request"], object]

PARAMETER = "EXTP_"
GIVEN_BY_GANETI = ("PROVIDER", "ACCESS")
MAX_MIB = 1 << 34  # 16 PiB: what no node has
MIB = 1 << 20


def main() -> int:
    """Return the exit status of the verb under whose name the executable was called; what went wrong is the last line of stderr."""
    verb = os.path.basename(sys.argv[0])
    try:
        said = handle(verb, os.environ)
    except ZfsGanetiError as error:
        return _fail(one_line(error), error.exit_code)
    except OSError as error:
        known = of_system(error)
        return _fail(one_line(known), known.exit_code)
    except Exception as error:  # a defect of ours: Ganeti shows the last line, so that one must say it
        return _fail(defect(error), 1)
    sys.stdout.write(said)
    return 0


def _fail(line: str, status: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"{os.uname().nodename.split('.')[0]}: {line}\n")
    return status


def handle(verb: str, environ: Mapping[str, str]) -> str:
    """Do what Ganeti asks for and return what it is to read: of attach the device's path, of any other nothing."""
    if verb == "verify":
        return _verify()
    request = Request(environ)
    if verb == "attach":
        return loop.find(request.volume) or _attach(request)
    if verb not in NAMES:
        raise BadInput(f"verb {verb!r}: there are {', '.join(NAMES)}")
    from zfsganeti.datasets import locked

    here = _here()
    with locked(request.volume):
        if verb == "create":
            _create(here, request)
        else:
            VERBS[verb](here.place_of(request.volume).volumes, request)
    return ""


class Request:
    """What Ganeti wants of one volume, read from the environment when it is asked for; sizes are bytes."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.volume = self._name("VOL_NAME")

    def _must(self, variable: str) -> str:
        value = self._environ.get(variable)
        if not value:
            raise BadEnvironment(variable, value, "Ganeti always sets it for this verb")
        return value

    def _name(self, variable: str) -> str:
        value = self._must(variable)
        bad = [character for character in value if not (character.isascii() and (character.isalnum() or character in ".-_"))]
        if bad or len(value) > 200 or value[0] in ".-_" or ".." in value:
            raise BadEnvironment(variable, value, "must be letters, digits, '.', '-' and '_', and begin with a letter or digit")
        return value

    def _mib(self, variable: str) -> int:
        value = self._must(variable)
        if not value.isascii() or not value.isdigit() or len(value) > 12 or not 0 < int(value) <= MAX_MIB:
            raise BadEnvironment(variable, value, f"must be a number of MiB from 1 to {MAX_MIB}")
        return int(value) * MIB

    @property
    def size(self) -> int:
        return self._mib("VOL_SIZE")

    @property
    def new_size(self) -> int:
        return self._mib("VOL_NEW_SIZE")

    @property
    def snapshot(self) -> str:
        return self._name("VOL_SNAPSHOT_NAME")

    @property
    def exclusive(self) -> bool:
        value = self._must("VOL_OPEN_EXCLUSIVE")
        if value not in ("True", "False"):
            raise BadEnvironment("VOL_OPEN_EXCLUSIVE", value, "must be True or False")
        return value == "True"

    @property
    def instance(self) -> str:
        """The instance's name, which is all that Ganeti ever says in the metadata: originstname+NAME."""
        value = self._must("VOL_METADATA")
        word, plus, name = value.partition("+")
        if word != "originstname" or not plus:
            raise BadEnvironment("VOL_METADATA", value, "must be originstname+NAME")
        from zfsganeti.ganeti import check_name

        return check_name(name)

    @property
    def parameters(self) -> dict[str, str]:
        """The disk's own parameters by their name in lower case, without those that Ganeti adds."""
        given = {name[len(PARAMETER) :]: value for name, value in self._environ.items() if name.startswith(PARAMETER)}
        return {name.lower(): value for name, value in given.items() if name not in GIVEN_BY_GANETI}


def _here() -> Here:
    from zfsganeti.here import Here

    return Here(dict)


def _volumes_if_any(volume: str) -> Volumes:
    """Return the volumes among which one is; without a root nothing is known about them, which is not the same as their being gone."""
    try:
        return _here().place_of(volume).volumes
    except Missing as error:
        raise Unavailable("this node", f"has no volumes that could be looked for: {error}") from error


def _attach(request: Request) -> str:
    """Make the device; while it cannot be said whether the volume exists, try again, for Ganeti forgets what fails to attach."""
    from zfsganeti import config
    from zfsganeti.datasets import locked

    deadline = time.monotonic() + config.load().attach_seconds
    while True:
        try:
            with locked(request.volume):
                return _volumes_if_any(request.volume).attach(request.volume)
        except Missing:
            raise  # the root is there and has no such volume
        except (Unavailable, CommandFailed, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _create(here: Here, request: Request) -> None:
    """The volume is made in the datastore that it is wanted in, unless it exists in any."""
    from zfsganeti.contents import parse_parameters

    parameters = parse_parameters(request.parameters)
    wanted, there = here.at(parameters.get("datastore", "")), here.place_of(request.volume)
    if there.volumes.find(request.volume) is not None and there is not wanted:
        raise Refused(f"volume {request.volume}", f"exists already in {there.root.name}", "gnt-zfs check says whose it is")
    wanted.volumes.create(request.volume, request.size, parameters)
    if parameters.get("use") == "copy":
        from zfsganeti.process import background

        with contextlib.suppress(OSError):  # then the watcher begins it
            background("node", "detach-work")


VERBS: dict[str, Verb] = {
    "detach": lambda volumes, request: volumes.detach(request.volume),
    "remove": lambda volumes, request: volumes.remove(request.volume),
    "grow": lambda volumes, request: volumes.grow(request.volume, request.new_size),
    "setinfo": lambda volumes, request: volumes.set_instance(request.volume, request.instance),
    "snapshot": lambda volumes, request: volumes.snapshot(request.volume, request.snapshot),
    "open": lambda volumes, request: volumes.open(request.volume, request.exclusive),
    "close": lambda volumes, request: volumes.close(request.volume),
}
NAMES = ("attach", "create", "verify", *VERBS)


def _verify() -> str:
    """Return a line that says this node is ready for volumes; what is wrong is raised, all of it at once."""
    from zfsganeti import check
    from zfsganeti.here import Here

    here = Here(dict)
    facts = check.report(here)
    problems = check.node_problems(facts)
    if problems:
        raise Unavailable("this node", "; ".join(problems))
    return f"{here.node}: ready for -t ext disks in {facts['root']}\n"
