"""What C does for us without a program or a binding: seven calls of libzfs_core, mount(2) and umount2(2), by ctypes.

Importing Debian's binding takes as long as running zfs(8) twenty times, for it parses C declarations each time; what every new
disk, every snapshot and every removal needs is therefore called here. The libraries' names carry the number of their ABI: where
another one is installed they are not found. Names and strings are bytes, properties are what `zfsganeti.zfs.encode` has checked.
"""

from __future__ import annotations

import errno
import os
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

NVPAIR, CORE = "libnvpair.so.3", "libzfs_core.so.3"
NV_UNIQUE_NAME = 1  # include/sys/nvpair.h
FILESYSTEM = 2  # LZC_DATSET_TYPE_ZFS, include/libzfs_core.h
INSTRUCTIONS, MEMORY = 10 * 1000 * 1000, 10 << 20  # ZCP_DEFAULT_INSTRLIMIT and ZCP_DEFAULT_MEMLIMIT, include/sys/zcp.h


@cache
def _libraries() -> tuple[Any, Any]:
    """Return libnvpair and libzfs_core, with /dev/zfs open; OSError when one of the three is missing."""
    import ctypes

    nvpair, core = ctypes.CDLL(NVPAIR), ctypes.CDLL(CORE, use_errno=True)
    text, pointer = ctypes.c_char_p, ctypes.c_void_p
    nvpair.nvlist_alloc.argtypes = [ctypes.POINTER(pointer), ctypes.c_uint, ctypes.c_int]
    nvpair.nvlist_add_string.argtypes = [pointer, text, text]
    nvpair.nvlist_add_uint64.argtypes = [pointer, text, ctypes.c_uint64]
    nvpair.nvlist_add_boolean.argtypes = [pointer, text]
    nvpair.nvlist_add_nvlist.argtypes = [pointer, text, pointer]
    nvpair.nvlist_lookup_string.argtypes = [pointer, text, ctypes.POINTER(text)]
    nvpair.nvlist_free.argtypes, nvpair.nvlist_free.restype = [pointer], None
    core.lzc_create.argtypes = [text, ctypes.c_int, pointer, pointer, ctypes.c_uint]
    core.lzc_clone.argtypes = [text, text, pointer]
    core.lzc_snapshot.argtypes = [pointer, pointer, ctypes.POINTER(pointer)]
    core.lzc_destroy_snaps.argtypes = [pointer, ctypes.c_uint, ctypes.POINTER(pointer)]
    core.lzc_rename.argtypes = [text, text]
    core.lzc_exists.argtypes = [text]
    core.lzc_channel_program.argtypes = [text, text, ctypes.c_uint64, ctypes.c_uint64, pointer, ctypes.POINTER(pointer)]
    status = core.libzfs_core_init()
    if status:
        raise OSError(status, os.strerror(status), "/dev/zfs")
    return nvpair, core


class _List:
    """Properties, names with None, or lists of these by name, as an nvlist, for the time of one call."""

    def __init__(self, properties: Mapping[bytes, object]) -> None:
        self.properties = properties

    def __enter__(self) -> Any:
        import ctypes

        nvpair, _core = _libraries()
        self.list = ctypes.c_void_p()
        status = nvpair.nvlist_alloc(ctypes.byref(self.list), NV_UNIQUE_NAME, 0)
        for name, value in self.properties.items():
            status = status or self._add(name, value)
        if status:
            self.__exit__()
            raise OSError(status, os.strerror(status), "nvlist")
        return self.list

    def _add(self, name: bytes, value: Any) -> int:
        nvpair, _core = _libraries()
        if value is None:
            return int(nvpair.nvlist_add_boolean(self.list, name))
        if isinstance(value, dict):
            with _List(value) as inner:
                return int(nvpair.nvlist_add_nvlist(self.list, name, inner))
        add = nvpair.nvlist_add_uint64 if isinstance(value, int) else nvpair.nvlist_add_string
        return int(add(self.list, name, value))

    def __exit__(self, *_failure: object) -> None:
        _libraries()[0].nvlist_free(self.list)


def create(name: bytes, properties: Mapping[bytes, object]) -> int:
    """Make a filesystem, which is not mounted; return 0 or an errno."""
    with _List(properties) as listed:
        return int(_libraries()[1].lzc_create(name, FILESYSTEM, listed, None, 0))


def clone(snapshot: bytes, name: bytes, properties: Mapping[bytes, object]) -> int:
    """Make a filesystem of a snapshot, which is not mounted; return 0 or an errno."""
    with _List(properties) as listed:
        return int(_libraries()[1].lzc_clone(name, snapshot, listed))


def snapshot(names: Sequence[bytes], properties: Mapping[bytes, object]) -> int:
    """Make snapshots of one pool, all of them in one transaction group; return 0 or the errno of one that cannot be."""
    with _List(properties) as listed:
        return _of_snapshots("lzc_snapshot", names, listed)


def destroy_snapshots(names: Sequence[bytes]) -> int:
    """Destroy snapshots of one pool, all or none; those that do not exist are none. Return 0 or the errno of one that stays."""
    return _of_snapshots("lzc_destroy_snaps", names, 0)


def _of_snapshots(function: str, names: Sequence[bytes], argument: object) -> int:
    """Return what a call says that tells in a list of its own which of the names it failed for."""
    import ctypes

    nvpair, core = _libraries()
    errors = ctypes.c_void_p()
    with _List(dict.fromkeys(names)) as listed:
        try:
            return int(getattr(core, function)(listed, argument, ctypes.byref(errors)))
        finally:
            nvpair.nvlist_free(errors)


def rename(old: bytes, new: bytes) -> int:
    """Rename a filesystem, whose mounts stay; return 0 or an errno."""
    return int(_libraries()[1].lzc_rename(old, new))


def program(pool: bytes, text: bytes, arguments: Mapping[bytes, object], answer: list[bytes]) -> int:
    """Run a channel program in a transaction group and add what it says to the answer; return 0 or an errno."""
    import ctypes

    nvpair, core = _libraries()
    told, said = ctypes.c_void_p(), ctypes.c_char_p()
    with _List(arguments) as listed:
        try:
            status = int(core.lzc_channel_program(pool, text, INSTRUCTIONS, MEMORY, listed, ctypes.byref(told)))
            if status == 0 and nvpair.nvlist_lookup_string(told, b"return", ctypes.byref(said)) != 0:
                status = errno.EPROTO  # not the ENOENT of nvlists, which would mean that there is no dataset
            answer.append(said.value or b"")  # a copy: the next line frees what it points into
            return status
        finally:
            nvpair.nvlist_free(told)


def exists(name: bytes) -> bool | None:
    """Tell whether a dataset exists, None when that cannot be said."""
    import ctypes

    try:
        _nvpair, core = _libraries()
    except OSError:
        return None
    ctypes.set_errno(0)
    if core.lzc_exists(name):
        return True
    return False if ctypes.get_errno() == errno.ENOENT else None


def libc(function: str, *arguments: str | int) -> None:
    """Make a call of the C library, which returns 0 when it has worked; OSError when it has not."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    values = [os.fsencode(argument) if isinstance(argument, str) else ctypes.c_ulong(argument) for argument in arguments]
    if getattr(library, function)(*values) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(arguments[0]))
