"""Files that are read or made with care: regular ones only, new ones without a name until they are whole, holes, checksums."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from zfsganeti.errors import BadInput, Full, Missing, Refused, Unavailable, human

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Progress = Callable[[str, int, int], None]  # what is done, bytes done, bytes in all (0: not known)

KIB, MIB = 1 << 10, 1 << 20
PIECE = 128 * KIB  # read at once; small, for each of a compressed file's streams copies what follows it
HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
PAGE = 4 * KIB  # the smallest hole
ZEROS = bytes(MIB)
SECOND = 10**9  # nanoseconds


def silent(_what: str, _done: int, _total: int) -> None:
    """Nobody is told."""


def checksum_asked(sha256: str) -> str:
    """Return a checksum as hashlib writes it, '' when none is asked for."""
    if sha256 and (len(sha256) != 64 or not HEXADECIMAL.issuperset(sha256)):
        raise BadInput(f"sha256 {sha256[:80]!r}: is not 64 hexadecimal digits")
    return sha256.lower()


def compare(name: str, asked: str, found: str) -> None:
    """The checksum is the one that was asked for, if one was."""
    if asked and asked != found:
        raise Refused(name, f"has sha256 {found}, not {asked}")


@contextlib.contextmanager
def told(name: str, directory: str) -> Iterator[None]:
    """What goes wrong with local files is said in one line; that of sockets has been caught below."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Full(name, f"no space left on {directory}") from error
        raise Unavailable(name, f"{error.filename or directory}: {os.strerror(error.errno or errno.EIO)}") from error


def directory_of(path: str) -> str:
    """Return the directory that a path is in."""
    return os.path.dirname(os.path.abspath(path))


@contextlib.contextmanager
def regular(path: str, name: str) -> Iterator[int]:
    """The file is open for reading, and is one: never a device, which may act when it is opened, nor a link to who knows what."""
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise Refused(name, "is a symbolic link", "name the file itself")
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Refused(name, "is not a regular file")
        # between the two somebody may have put something else there
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(name) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(name, "is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_link(path: str, what: str) -> None:
    """The disk file is no link: a snapshot holds not what it leads to, and a clone would lead there as well."""
    if os.path.islink(path):
        file = os.path.basename(path)
        raise Refused(what, f"{file} is a link, and nothing here holds the disk that it leads to", f"move the disk to where {file} is")


@contextlib.contextmanager
def unnamed(directory: str) -> Iterator[int]:
    """A new file is open that has no name yet: it is gone with its descriptor, even when we are killed."""
    descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def fresh(directory: str) -> Iterator[int]:
    """A new file is open, for root alone, as `unnamed` makes one; where there are none, as on NFS, its name is one that nobody knows."""
    path = ""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        path = f"{directory}/.{os.urandom(8).hex()}.partial"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        if path:
            os.unlink(path)


def new_stamp() -> int:
    """Return a time, in seconds, that no clock tells any more: a file that was last changed then has been written by nobody since."""
    return 1 + int.from_bytes(os.urandom(3), "big")


def bear(file: int | str, stamp: int) -> None:
    """The file was last changed at the time of the stamp, until somebody writes to it."""
    os.utime(file, ns=(stamp * SECOND, stamp * SECOND))


def bears(path: str, stamp: int) -> bool:
    """Tell whether nobody has written to the file since it was given the stamp."""
    return os.stat(path).st_mtime_ns == stamp * SECOND


def give_name(descriptor: int, target: str, name: str) -> None:
    """The file is on disk, and so is its name; what has that name already stays."""
    os.fsync(descriptor)
    directory = os.open(directory_of(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # the descriptor of a directory, though not used, makes Python call linkat(2), which follows the link in /proc
        os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=directory, follow_symlinks=True)
        os.fsync(directory)
    except FileExistsError:
        raise Refused(name, f"{target} exists already", "remove it first") from None
    finally:
        os.close(directory)


def write(descriptor: int, data: bytes, offset: int) -> None:
    """The bytes are in the file, all of them."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def pieces(descriptor: int, what: str, progress: Progress, digest: Any = None) -> Iterator[bytes]:
    """Yield an open file's bytes in pieces, which the digest takes in too."""
    total, offset = os.fstat(descriptor).st_size, 0
    while piece := os.pread(descriptor, PIECE, offset):
        offset += len(piece)
        if digest is not None:
            digest.update(piece)
        yield piece
        progress(what, offset, total)


def checksum(descriptor: int, progress: Progress) -> str:
    """Return the sha256 of an open file's bytes."""
    import hashlib

    digest = hashlib.sha256()
    for _piece in pieces(descriptor, "verify", progress, digest):
        pass
    return digest.hexdigest()


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in blocks of 1 MiB, the last one shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= MIB:
            yield bytes(waiting[:MIB])
            del waiting[:MIB]
    if waiting:
        yield bytes(waiting)


def _is_zero(block: bytes) -> bool:
    return block == (ZEROS if len(block) == MIB else bytes(len(block)))  # one memcmp; count() takes a step for each byte


def write_sparse(
    descriptor: int, pieces: Iterable[bytes], name: str, limit: int, wrote: Callable[[int], None] = lambda _bytes: None
) -> int:
    """The bytes are in an empty file, with holes for pages of zeros; return how many there are.

    `wrote` is told, after each MiB, how many bytes that are no holes there are by then.
    """
    size = written = 0
    for block in _blocks(pieces):
        if size + len(block) > limit:
            raise Refused(name, f"is larger than {human(limit)}")
        if not _is_zero(block):
            written += _write_pages(descriptor, block, size)
            wrote(written)
        size += len(block)
    if size == 0:
        raise Refused(name, "is empty")
    os.ftruncate(descriptor, size)
    return size


def _write_pages(descriptor: int, block: bytes, offset: int) -> int:
    """The pages that are not all zeros are in the file; return how many bytes they are."""
    from itertools import groupby

    zeros, written = bytes(PAGE), 0
    pages = ((start, block[start : start + PAGE]) for start in range(0, len(block), PAGE))
    for empty, run in groupby(pages, key=lambda page: page[1] == zeros[: len(page[1])]):
        if not empty:
            run_pages = list(run)
            data = b"".join(page for _start, page in run_pages)
            write(descriptor, data, offset + run_pages[0][0])
            written += len(data)
    return written


def content_digest(path: str, progress: Progress = silent) -> str:
    """Return what is the same for two files of equal content, however sparse each is: sha256 over every MiB that is not all zero."""
    with told(path, directory_of(path)), regular(path, path) as descriptor:
        return digest_of(descriptor, progress)


def digest_of(descriptor: int, progress: Progress) -> str:
    """Return the content_digest of an open file."""
    size, offset = os.fstat(descriptor).st_size, 0
    import hashlib

    digest = hashlib.sha256()
    while offset < size:
        try:
            offset = os.lseek(descriptor, offset, os.SEEK_DATA) // MIB * MIB
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # but a hole up to the end
        block = os.pread(descriptor, MIB, offset)
        if not _is_zero(block):
            digest.update(offset.to_bytes(8, "little") + block)
        offset += MIB
        progress("verify", min(offset, size), size)
    digest.update(size.to_bytes(8, "little"))
    progress("verify", size, size)
    return digest.hexdigest()


# whole files


def make_links(home: str, aside: str, files: Iterable[str]) -> None:
    """Disks that are aside are linked at home, and nothing else: Ganeti unlinks only these and then wants the directory empty."""
    os.makedirs(home, mode=0o750, exist_ok=True)
    for file in files:
        if os.path.lexists(f"{aside}/{file}"):
            os.symlink(f"{aside}/{file}", f"{home}/{file}")


def plain_files(directory: str) -> list[str]:
    """Return the regular files of a directory, links not followed; none when it does not exist."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if stat.S_ISREG(os.lstat(f"{directory}/{name}").st_mode))


def copy_sparse(source: str, target: str, progress: Callable[[int, int], None] = lambda _done, _size: None) -> None:
    """The target is a copy of the source with the same holes, on disk; it appears under its name only when whole."""
    partial = f"{target}.partial"
    try:
        with open(source, "rb") as reader, open(partial, "wb") as writer:
            os.fchmod(writer.fileno(), stat.S_IMODE(os.fstat(reader.fileno()).st_mode))
            copy_into(reader.fileno(), writer.fileno(), progress, source)
            os.fsync(writer.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)  # which would keep a pool full
        raise
    os.rename(partial, target)


def copy_into(reader: int, writer: int, progress: Callable[[int, int], None], name: str = "what is copied") -> None:
    """An empty file has the content and the holes of another one, both open; it is not on disk yet."""
    size = os.fstat(reader).st_size
    os.ftruncate(writer, size)
    for start, end in data_ranges(reader, size):
        offset = start
        while offset < end:
            block = os.pread(reader, min(1 << 20, end - offset), offset)
            if not block:
                raise Unavailable(name, "became shorter while it was copied")
            write(writer, block, offset)
            offset += len(block)
            progress(offset, size)


def same_content(first: str, second: str) -> bool:
    """Tell whether two files hold the same bytes, without reading what is a hole in both."""
    with open(first, "rb") as one, open(second, "rb") as other:
        size = os.fstat(one.fileno()).st_size
        if os.fstat(other.fileno()).st_size != size:
            return False
        for reader in (one, other):
            for start, end in data_ranges(reader.fileno(), size):
                for offset in range(start, end, 1 << 20):
                    length = min(1 << 20, end - offset)
                    if os.pread(one.fileno(), length, offset) != os.pread(other.fileno(), length, offset):
                        return False
    return True


def data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges (start, end) of a file that are not holes."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, offset


def set_mode(path: str, mode: int) -> None:
    """The file or directory has the mode; on a full pool, which has no room even for that, it may have it already."""
    try:
        os.chmod(path, mode)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or stat.S_IMODE(os.stat(path).st_mode) != mode:
            raise


def sync(path: str) -> None:
    """Nothing of a file, directory or device is in memory only."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
