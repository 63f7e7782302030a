"""The OS definition `zfs-image`: what Ganeti calls to install an instance from an image, to export and to import its disks.

Ganeti keeps what the scripts say in its log of the OS and shows its last lines when one fails. Of `export`, stdout is the dump.
"""

from __future__ import annotations

import os
import sys

from zfsganeti import ganeti
from zfsganeti.errors import BadEnvironment, BadInput, ZfsGanetiError, defect, of_system, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zfsganeti.here import Here

    Script = Callable[[Here, Mapping[str, str]], str]

NO_IMAGE = f"{ganeti.OS} is given with an image, such as {ganeti.OS}+NAME: gnt-zfs image list shows what there is"


def main() -> int:
    """Return the exit status of the script under whose name the executable was called."""
    script = os.path.basename(sys.argv[0])
    try:
        said = handle(script, os.environ)
    except ZfsGanetiError as error:
        return _fail(one_line(error), error.exit_code)
    except OSError as error:
        known = of_system(error)
        return _fail(one_line(known), known.exit_code)
    except Exception as error:  # a defect of ours, told in one line like everything else
        return _fail(defect(error), 1)
    if said:
        sys.stdout.write(f"{said}\n")
    return 0


def _fail(line: str, status: int) -> int:
    sys.stderr.write(f"{os.uname().nodename.split('.')[0]}: {line}\n")
    return status


def handle(script: str, environ: Mapping[str, str]) -> str:
    """Do what Ganeti asks for and return the line that says what was done, '' when there is nothing to say."""
    from zfsganeti.here import Here

    if script not in SCRIPTS:
        raise BadInput(f"script {script!r}: there are {', '.join(SCRIPTS)}")
    return SCRIPTS[script](Here(dict), environ)


def _must(environ: Mapping[str, str], variable: str) -> str:
    value = environ.get(variable)
    if not value:
        raise BadEnvironment(variable, value, "Ganeti always sets it for this script")
    return value


def _create(here: Here, environ: Mapping[str, str]) -> str:
    from zfsganeti.datasets import locked
    from zfsganeti.install import Installer

    instance = ganeti.check_name(_must(environ, "INSTANCE_NAME"))
    # not OS_VARIANT: with --force-variant and no variant that is the first of the list
    image = _must(environ, "INSTANCE_OS").partition("+")[2]
    if not image:
        raise BadInput(NO_IMAGE)
    if environ.get("DISK_COUNT") == "0":
        raise BadInput(f"{instance}: has no disk to install image {image} on")
    disk = _must(environ, "DISK_0_PATH")
    place = _place(here, disk)
    others = here.images if place is not here else None
    with locked(instance):
        return Installer(place.store, place.volumes, others).install(instance, image, disk, again=bool(environ.get("INSTANCE_REINSTALL")))


def _place(here: Here, disk: str) -> Here:
    """Return this node with the root that has the volume whose device a disk is, with the first for any other disk."""
    from zfsganeti import loop

    return here.place_of(os.path.basename(disk)) if os.path.dirname(disk) == loop.LINKS else here


def _verify(_here: Here, environ: Mapping[str, str]) -> str:
    """The variant can be an image's name; whether the image is on the node is not asked, since Ganeti asks for a restore, too."""
    from zfsganeti.names import check_image

    if not environ.get("OS_VARIANT"):
        raise BadInput(NO_IMAGE)
    check_image(environ["OS_VARIANT"])
    return ""


def _export(_here: Here, environ: Mapping[str, str]) -> str:
    from zfsganeti.install import dump

    dump(_must(environ, "EXPORT_DEVICE"), sys.stdout.buffer)
    return ""


def _import(_here: Here, environ: Mapping[str, str]) -> str:
    from zfsganeti.install import load

    load(sys.stdin.buffer, _must(environ, "IMPORT_DEVICE"))
    return ""


SCRIPTS: dict[str, Script] = {
    "create": _create,
    "import": _import,
    "export": _export,
    "rename": lambda _here, _environ: "",  # the disks know nothing of a name
    "verify": _verify,
}
