"""What an image holds, read: compared with what it held when it was made, and written to a file."""

from __future__ import annotations

import os

from zfsganeti.datasets import NEVER_CHANGED
from zfsganeti.errors import BadInput, Refused, of_command, of_system
from zfsganeti.files import copy_into, digest_of, directory_of, fresh, give_name
from zfsganeti.images import quiet
from zfsganeti.process import reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zfsganeti.images import Images, Progress

END_SECONDS = 600  # that a program takes to end, its data on disk, after the last that it says


def verify(images: Images, name: str, progress: Progress = quiet, there: str = "") -> None:
    """The image holds what it held when it was made; Refused says what is wrong, and how to put it aside, `there` of several."""
    image = images.must(name)
    if not image.content:
        raise BadInput(f"image {name}: its checksum was not recorded")
    with images.open(image) as descriptor:
        found = digest_of(descriptor, progress)
    if found != image.content or image.written > NEVER_CHANGED:  # looking at it writes a few blocks
        raise Refused(
            f"image {name}",
            "does not hold any more what it held when it was made",
            f"gnt-zfs image rename {name} {name}-bad{there}, then import it again",
        )


def export(images: Images, name: str, file: str, kind: str, progress: Progress = quiet) -> None:
    """A new file, for root alone, which appears when it is whole, holds the image as raw or qcow2; nothing else was touched."""
    if os.path.lexists(file):
        raise Refused(file, "exists already", "choose another file")
    try:
        with images.open(images.must(name)) as descriptor, fresh(directory_of(file)) as made:
            size = os.fstat(descriptor).st_size
            if kind == "raw":
                copy_into(descriptor, made, lambda done, size: progress("copy", done, size))
            else:
                _convert(descriptor, kind, made, lambda percent: progress("convert", percent * size // 100, size))
            give_name(made, file, name)
    except OSError as error:
        raise of_system(error, file) from error


def _convert(source: int, kind: str, target: int, percent: Callable[[int], None]) -> None:
    """The target holds in another format what the raw source holds; both are open files, whatever has their names by now."""
    import re

    path, made = (f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in (source, target))
    with reading(["qemu-img", "convert", "-p", "-f", "raw", "-O", kind, path, made]) as child:
        while said := child.read(4096):
            if found := re.findall(rb"\((\d+)\.\d+/100%\)", said):
                percent(int(found[-1]))
        done = child.ended(END_SECONDS)
    if done.status != 0:
        raise of_command("qemu-img convert", done.status, done.stderr)
