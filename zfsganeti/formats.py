"""What a golden image is: a disk in one of five formats, compressed or not, that becomes a sparse raw file.

It runs as root on what strangers made. Formats are told by what the bytes say, and an image that names any other file is
refused; zstd and qemu-img run confined, and qemu-img is handed no file at all but two sockets: from one it reads the bytes of
the image, into the other it writes those of the disk. An image that deceives them all finds no file of the host to read.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import itertools
import json
import lzma
import os
import re
import selectors
import shutil
import socket
import struct
import uuid
import zlib
from dataclasses import dataclass

from zfsganeti.errors import BadInput, Refused, Unavailable, human
from zfsganeti.files import (
    KIB,
    MIB,
    PIECE,
    checksum_asked,
    compare,
    digest_of,
    directory_of,
    give_name,
    pieces,
    regular,
    silent,
    told,
    unnamed,
    write,
    write_sparse,
)
from zfsganeti.process import ENVIRONMENT, confined, reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from zfsganeti.files import Progress

FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx")
SECTOR = 512
HEAD = 64 * KIB  # enough to tell formats
STUCK_SECONDS = 120  # without a request from qemu-img
UNPACK_MEMORY = 512 * MIB
CONVERT_MEMORY = 4096 * MIB  # address space: threads reserve much more than they use
SLOWEST = 20 * MIB  # bytes that zstd and qemu-img make in a second of the processor, at the least

COMPRESSIONS = ((b"\x1f\x8b", "gz"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zst"), (b"BZh", "bz2"))
# (offset, bytes, format) of what is told from a raw disk; those that are none of FORMATS are refused by name
MAGIC = (
    (0, b"QFI\xfb\0\0\0\1", "qcow"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk of ESX 3"),
    (0, b"# Disk DescriptorFile", "vmdk descriptor"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"QED\0", "qed"),
    (0, b"conectix", "vhd"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (257, b"ustar", "tar (ova?)"),
    (0, b"PK\3\4", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\7", "rar"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"LZIP", "lzip"),
)
TAILS = ((b"conectix", "vhd"), (b"koly", "dmg"))
ARCHIVES = ("tar (ova?)", "zip", "7z", "rar", "lz4", "lzip")


@dataclass(frozen=True)
class Raw:
    """A disk that was made of an image: its size, the image's format and checksum, the digest of its own content."""

    size: int
    format: str
    sha256: str
    content: str


def to_raw(
    path: str,
    target: str,
    *,
    name: str = "",
    format: str = "",  # noqa: A002 (it is what qemu-img calls it)
    sha256: str = "",
    limit: int,
    progress: Progress = silent,
    wrote: Callable[[int], None] = lambda _bytes: None,
) -> Raw:
    """The disk that an image holds is the new file `target`, sparse, on stable storage; its size is a multiple of 512 bytes.

    What it holds in the last sector beyond a raw image's own end is zero. A format that is given is believed, but for
    compression. `limit` is the largest disk in bytes. The checksum is that of the image's bytes as they are in the file.
    `wrote` is told how many bytes have come out so far, which is no matter of how far the image is read: a little that is
    compressed may be the whole pool. What it raises ends the work.
    """
    name, asked = name or path, checksum_asked(sha256)
    if format not in ("", *FORMATS):
        raise BadInput(f"format {format[:80]!r}: is none of {', '.join(FORMATS)}")
    directory = directory_of(target)
    if os.path.lexists(target):
        raise Refused(name, f"{target} exists already", "remove it first")
    with told(name, directory), regular(path, name) as source, unnamed(directory) as disk:
        before = os.fstat(source)
        digest = hashlib.sha256()
        kind = _make(_Image(source, name, digest, asked, progress, wrote, limit), disk, format, directory)
        after = os.fstat(source)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Refused(name, "was changed while it was read")
        size = -(-os.fstat(disk).st_size // SECTOR) * SECTOR
        os.ftruncate(disk, size)
        content = digest_of(disk, progress)
        give_name(disk, target, name)
        return Raw(size, kind, digest.hexdigest(), content)


@dataclass(frozen=True)
class _Image:
    """An image while it is read: its open file, and what belongs to the one call of to_raw."""

    source: int
    name: str
    digest: Any
    asked: str
    progress: Progress
    wrote: Callable[[int], None]
    limit: int

    def compare(self) -> None:
        """All bytes have been hashed, and they are those that were asked for."""
        compare(self.name, self.asked, self.digest.hexdigest())


def _make(image: _Image, disk: int, format_: str, directory: str) -> str:
    """The image's disk is in the empty file, all bytes of the image have been hashed; return the format."""
    source, name = image.source, image.name
    packed = _compression(os.pread(source, HEAD, 0))
    with contextlib.ExitStack() as leave:
        content = _unpack(image, packed, leave) if packed else pieces(source, "read", image.progress, image.digest)
        head = b""
        while len(head) < HEAD and (piece := next(content, b"")):
            head += piece
        if packed and _compression(head):
            raise Refused(name, f"is compressed twice, {_compression(head)} in {packed}", "unpack it first")
        kind = format_ or _detect(name, head, None if packed else source)
        content = itertools.chain([head], content)
        if kind == "raw":
            if not packed and os.fstat(source).st_size > image.limit:
                raise Refused(name, f"is larger than {human(image.limit)}")
            write_sparse(disk, content, name, image.limit, image.wrote)
            image.compare()
            return kind
        if packed:
            source = leave.enter_context(unnamed(directory))
            # a format's own tables come on top of what it holds
            write_sparse(source, content, name, image.limit + image.limit // 8 + 64 * MIB, image.wrote)
        else:
            for _piece in content:
                pass
        image.compare()  # before qemu-img sees anything of it
        convert(source, disk, kind, virtual_size(name, kind, source, image.limit), name, image.progress)
    return kind


# compressions


def _compression(head: bytes) -> str:
    return next((kind for magic, kind in COMPRESSIONS if head.startswith(magic)), "")


def damaged(name: str, why: object = "") -> NoReturn:
    """Raise what an image is that ends too early or contradicts itself."""
    said = " ".join(str(why).split())
    raise Refused(name, f"is truncated or damaged ({said})" if said else "is truncated or damaged")


def _unpack(image: _Image, kind: str, leave: contextlib.ExitStack) -> Iterator[bytes]:
    if kind == "zst":
        return _zstd(image, leave)
    made: dict[str, Callable[[], Any]] = {
        "gz": _Gunzip,
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACK_MEMORY),
        "bz2": bz2.BZ2Decompressor,
    }
    return _inflate(image, made[kind])


class _Gunzip:
    """One member of a gzip file, in the manner of bz2 and lzma."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self.needs_input = True

    def decompress(self, data: bytes, at_most: int) -> bytes:
        made = self._stream.decompress(self._stream.unconsumed_tail + data, at_most)
        # what fits exactly may have more behind it, without a byte of input left
        self.needs_input = not self._stream.unconsumed_tail and len(made) < at_most
        return made

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


def _inflate(image: _Image, make: Callable[[], Any]) -> Iterator[bytes]:
    """Yield what streams one after the other hold; between them and behind them there may be zeros, and nothing else."""
    stream, started = None, False
    for piece in pieces(image.source, "unpack", image.progress, image.digest):
        data = piece
        while True:
            if stream is None:
                data = data.lstrip(b"\0") if started else data
                if not data:
                    break
                stream, started = make(), True
            try:
                made, data = stream.decompress(data, MIB), b""
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                damaged(image.name, error)
            if made:
                yield made
            if stream.eof:
                stream, data = None, stream.unused_data
            elif stream.needs_input:
                break
    if stream is not None:
        damaged(image.name, "it ends in the middle")


def _program(name: str, package: str) -> str:
    if not shutil.which(name, path=ENVIRONMENT["PATH"]):
        raise Unavailable(name, "is not installed", f"apt install {package}")
    return name


def _zstd(image: _Image, leave: contextlib.ExitStack) -> Iterator[bytes]:
    for _piece in pieces(image.source, "verify", image.progress, image.digest):
        pass
    total = os.fstat(image.source).st_size
    os.lseek(image.source, 0, os.SEEK_SET)
    command = confined(_program("zstd", "zstd"), "-dcq", memory=UNPACK_MEMORY, seconds=60 + (total + image.limit) // SLOWEST)
    child = leave.enter_context(reading(command, stdin=image.source))
    while piece := child.read(PIECE):
        yield piece
        image.progress("unpack", os.lseek(image.source, 0, os.SEEK_CUR), total)
    done = child.ended(60)
    if done.status:
        damaged(image.name, _first_line(done.stderr) or f"zstd ended with {done.status}")


def _first_line(text: str) -> str:
    """Return what a program said first, without its name and the description of what it was given."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = re.sub(r"^(qemu-img|zstd|/\*stdin\*\\)\s*: *", "", line)
    line = re.sub(r"^Could not open 'json:.*}': ", "", line)
    return "".join(filter(str.isprintable, line))[:200]


# formats


def _detect(name: str, head: bytes, source: int | None) -> str:
    """Return which of FORMATS the bytes are; what is known to be something else is refused by name."""
    tail = b""
    if source is not None:
        tail = os.pread(source, SECTOR, max(0, os.fstat(source).st_size - SECTOR))
    found = next((kind for offset, magic, kind in MAGIC if head[offset : offset + len(magic)] == magic), "")
    found = found or next((kind for magic, kind in TAILS if tail.startswith(magic)), "raw")
    if found == "vmdk descriptor":
        raise Refused(name, "is but the descriptor of a vmdk", "convert it first with qemu-img, where the files are that it names")
    if head[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise Refused(name, "is a web page and no image", "look at it: it may say why")
    if found in ARCHIVES:
        raise Refused(name, f"format {found} is not supported", "unpack it first")
    if found not in FORMATS:
        raise Refused(name, f"format {found} is not supported", "convert it first with qemu-img")
    return found


def virtual_size(name: str, kind: str, source: int, limit: int) -> int:
    """Return how large a disk the image in an open file holds, in whole sectors; Refused when it names other files, or lies."""
    check = {"qcow2": _qcow2, "vmdk": _vmdk, "vdi": _vdi, "vhdx": _vhdx}[kind]
    try:
        size = check(name, source)
    except struct.error:
        damaged(name, f"it is too short for a {kind}")
    if size == 0:
        damaged(name, f"the {kind} holds a disk of no size")
    if size > limit:
        raise Refused(name, f"holds a disk of {human(size)}, more than {human(limit)}")
    return -(-size // SECTOR) * SECTOR


def _fields(layout: str, source: int, offset: int) -> tuple[Any, ...]:
    """Return the fields at an offset of the file; offsets of more than a file can have are no offsets."""
    if offset >= 1 << 62:
        raise struct.error
    return struct.unpack(layout, os.pread(source, struct.calcsize(layout), offset))


def _other(name: str, what: str) -> NoReturn:
    raise Refused(name, f"needs another file ({what})", "convert it first with qemu-img, where that file is")


def _qcow2(name: str, source: int) -> int:
    magic, version, backing, _length, bits, size, crypt, entries, table = _fields(">4sIQIIQIIQ", source, 0)
    if magic != b"QFI\xfb" or version not in (2, 3) or not 9 <= bits <= 21:
        damaged(name, "not the header of a qcow2")
    if backing:
        _other(name, "backing file")
    if crypt:
        raise Refused(name, "is encrypted", "convert it first with qemu-img")
    if version == 3:
        (features,) = _fields(">Q", source, 72)
        if features & 4:
            _other(name, "data file")
        if features & 2:
            damaged(name, "it is marked as corrupt")
        if features & ~0x1B:  # dirty, corrupt, compression type, extended L2
            raise Refused(name, f"needs what is not known here (qcow2 features {features:#x})", "convert it first with qemu-img")
    if table % (1 << bits) or table + entries * 8 > os.fstat(source).st_size:
        damaged(name, "its table lies outside")
    return int(size)


def _vmdk(name: str, source: int) -> int:
    """The one of the last header, as qemu-img takes it: the first of a stream says that there is another at the end."""
    capacity, directory = _vmdk_header(name, source, 0)
    if directory == 0xFFFFFFFFFFFFFFFF:
        capacity, _directory = _vmdk_header(name, source, os.fstat(source).st_size - 2 * SECTOR)
    return capacity * SECTOR


def _vmdk_header(name: str, source: int, offset: int) -> tuple[int, int]:
    """Return capacity and grain directory of a header after a look at its descriptor; both are in sectors."""
    if offset < 0:
        raise struct.error
    magic, _version, _flags, capacity, _grain, start, length = _fields("<4sIIQQQQ", source, offset)
    (directory,) = _fields("<Q", source, offset + 56)
    if magic != b"KDMV":
        damaged(name, "not the header of a vmdk")
    if capacity == 0 or capacity >= 1 << 50 or start >= 1 << 50:
        damaged(name, "the vmdk holds a disk of no size")
    # qemu-img looks for a parent in the second sector, wherever the header says that the descriptor is
    places = {(SECTOR, 20 * SECTOR), (start * SECTOR, min(length * SECTOR, MIB))} if start else {(SECTOR, 20 * SECTOR)}
    for place, count in places:
        _vmdk_descriptor(name, os.pread(source, count, place).partition(b"\0")[0].decode("latin-1"))
    return capacity, directory


def _vmdk_descriptor(name: str, text: str) -> None:
    """The description of a disk is that of one whose bytes are all in the same file."""
    if re.search(r"parentFileNameHint", text, re.I) or re.search(r"parentCID\s*=\s*(?!ffffffff\b)\S", text, re.I):
        _other(name, "parent")
    extents = re.findall(r"^\s*(?:RW|RDONLY|NOACCESS)\s+\S+\s+(\S+)(.*)$", text, re.I | re.M)
    if len(extents) > 1 or any(kind.upper() != "SPARSE" or re.search(r"[/\\:]", rest) for kind, rest in extents):
        _other(name, "extent")


def _vdi(name: str, source: int) -> int:
    signature, _version, _size, kind = _fields("<IIII", source, 0x40)
    (size,) = _fields("<Q", source, 0x170)
    _image, _snapshot, link, parent = _fields("<16s16s16s16s", source, 0x188)
    if signature != 0xBEDA107F:
        damaged(name, "not the header of a vdi")
    if kind not in (1, 2):
        _other(name, f"vdi of type {kind}, neither dynamic nor static")
    if link.strip(b"\0") or parent.strip(b"\0"):
        _other(name, "parent")
    return int(size)


# of vhdx
METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
REGIONS = (192 * KIB, 256 * KIB)


def _vhdx(name: str, source: int) -> int:
    """Both tables are looked at, for which one counts is told by more than is worth repeating; they must agree."""
    sizes = set()
    for table in REGIONS:
        signature, _checksum, count = _fields("<4sII", source, table)
        if signature != b"regi":
            continue
        for number in range(min(count, 2047)):
            guid, offset = _fields("<16sQ", source, table + 16 + 32 * number)
            if guid == METADATA:
                sizes.add(_vhdx_metadata(name, source, offset))
    if len(sizes) != 1:
        damaged(name, "its tables do not say what it is")
    return sizes.pop()


def _vhdx_metadata(name: str, source: int, start: int) -> int:
    signature, count = _fields("<8s2xH", source, start)
    if signature != b"metadata":
        damaged(name, "its tables do not say what it is")
    items = [_fields("<16sI", source, start + 32 + 32 * number) for number in range(min(count, 2047))]
    places = {guid: start + offset for guid, offset in items}
    if PARENT_LOCATOR in places:
        _other(name, "parent")
    if not {PARAMETERS, DISK_SIZE} <= set(places):
        damaged(name, "its tables do not say what it is")
    (flags,) = _fields("<4xI", source, places[PARAMETERS])
    if flags & 2:
        _other(name, "parent")
    return int(_fields("<Q", source, places[DISK_SIZE])[0])


# qemu-img, which speaks NBD to us: the protocol's old handshake, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

OLD_HANDSHAKE, REQUEST_MAGIC, REPLY_MAGIC = 0x00420281861253, 0x25609513, 0x67446698
REQUEST = struct.Struct(">IHHQQI")
HAS_FLAGS, READ_ONLY, SEND_FLUSH = 1, 2, 4
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
LONGEST_REQUEST = 64 * MIB
INVALID = 22
FARTHEST = 1 << 60  # bytes: no format has larger offsets that lead to data


class _Export:
    """An open file as a block device of whole sectors at the other end of a socket.

    Of a device that ends within a sector qemu-img wants the rest of the sector too, and waits for it for ever. What a format
    looks for beyond the end of a device, qemu-img takes for zeros and asks nobody: with `beyond`, the device claims to be that
    much larger, so that we are asked, and know that the file was cut. The last of it may lack less than a `grain`.
    """

    def __init__(self, descriptor: int, size: int, *, writable: bool, beyond: int = 0, grain: int = 0) -> None:
        self._grain = grain
        self._file, self._end, self._writable = descriptor, -(-size // SECTOR) * SECTOR, writable
        self._size = self._end + -(-beyond // SECTOR) * SECTOR
        self.written, self.cut = 0, False
        self.socket, self.theirs = socket.socketpair()
        self.socket.settimeout(STUCK_SECONDS)
        flags = HAS_FLAGS | (SEND_FLUSH if writable else READ_ONLY)
        self.socket.sendall(struct.pack(">8sQQI124x", b"NBDMAGIC", OLD_HANDSHAKE, self._size, flags))

    def node(self, driver: str) -> str:
        """Return what qemu-img is to open: this device alone, whatever it finds in it."""
        server = {"type": "fd", "str": str(self.theirs.fileno())}
        return "json:" + json.dumps({"driver": driver, "backing": None, "file": {"driver": "nbd", "server": server}})

    def close(self) -> None:
        self.socket.close()
        self.theirs.close()

    def answer(self) -> bool:
        """One request has been answered; False when there are none any more."""
        try:
            return self._answer()
        except ConnectionError:
            return False

    def _answer(self) -> bool:
        magic, _flags, kind, handle, offset, length = REQUEST.unpack(self._receive(REQUEST.size))
        if magic != REQUEST_MAGIC or kind == DISCONNECT or length > LONGEST_REQUEST:
            return False
        data = self._receive(length) if kind == WRITE else b""
        inside = offset + length <= self._size
        lacking = offset + length - self._end
        if kind == READ and inside and length and (offset >= self._end or (offset and lacking >= max(1, self._grain))):
            self.cut = True  # not when it is the head of the file that is read, which holds no data
            return self._reply(handle, INVALID)
        if kind == READ and inside:
            return self._reply(handle, 0, os.pread(self._file, length, offset).ljust(length, b"\0"))
        if kind == WRITE and inside and self._writable:
            write(self._file, data, offset)
            self.written = max(self.written, offset + length)
            return self._reply(handle, 0)
        return self._reply(handle, 0 if kind == FLUSH else INVALID)

    def _reply(self, handle: int, error: int, data: bytes = b"") -> bool:
        self.socket.sendall(struct.pack(">IIQ", REPLY_MAGIC, error, handle) + data)
        return True

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return bytes(data)


def convert(source: int, disk: int, kind: str, size: int, name: str, progress: Progress = silent) -> None:
    """The disk that an image in an open file holds is in the other one, which was empty; no other file was read."""
    os.ftruncate(disk, size)
    with contextlib.ExitStack() as leave:
        image = _Export(source, os.fstat(source).st_size, writable=False, beyond=_beyond(source, kind), grain=_grain(source, kind))
        leave.callback(image.close)
        made = _Export(disk, size, writable=True)
        leave.callback(made.close)
        what = ("convert", "-n", "--target-is-zero", "-S", "4k", image.node(kind), made.node("raw"))
        command = confined(_program("qemu-img", "qemu-utils"), *what, memory=CONVERT_MEMORY, seconds=60 + size // SLOWEST)
        child = leave.enter_context(reading(command, descriptors=(image.theirs.fileno(), made.theirs.fileno())))
        _serve((image, made), name, lambda: progress("convert", made.written, size))
        done = child.ended(STUCK_SECONDS)
        if image.cut:
            damaged(name, "it ends before what it holds does")
        if done.status < 0:
            raise Refused(name, f"qemu-img took too much or crashed (signal {-done.status})")
        if done.status:
            damaged(name, _first_line(done.stderr) or f"qemu-img ended with {done.status}")
    progress("convert", size, size)


def _beyond(source: int, kind: str) -> int:
    """Return by how much an image may claim to be larger: beyond all that it can name, but nothing when its end says what it is."""
    stream = kind == "vmdk" and os.pread(source, 8, 56) == b"\xff" * 8
    return 0 if stream else FARTHEST


def _grain(source: int, kind: str) -> int:
    """Return in how large pieces an image is read: the last one may end before it is whole."""
    if kind == "qcow2":
        return 1 << int(_fields(">I", source, 20)[0])
    if kind == "vmdk":
        return 2 * int(_fields("<Q", source, 20)[0]) * SECTOR  # what qemu-img asks for at once, not knowing how well one is compressed
    return MIB


def _serve(exports: tuple[_Export, ...], name: str, after: Callable[[], None]) -> None:
    """Every request has been answered and the other ends are closed."""
    with selectors.DefaultSelector() as selector:
        for export in exports:
            export.theirs.close()
            selector.register(export.socket, selectors.EVENT_READ, export)
        while selector.get_map():
            ready = selector.select(STUCK_SECONDS)
            if not ready:
                raise Refused(name, f"qemu-img did nothing for {STUCK_SECONDS} s")
            for key, _events in ready:
                if not key.data.answer():
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
                after()
