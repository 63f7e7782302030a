"""Where everything lives on a node: the root and further ones found, mounted, and the directory below guarded."""

from __future__ import annotations

import fcntl
import os

from zfsganeti.errors import BadInput, Missing, Refused, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from zfsganeti.config import Config
    from zfsganeti.datasets import Backend

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10


class Root:
    """The dataset under which everything lives on this node, and the directory where it is mounted."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path


def find_root(zfs: Backend, directory: str, config: Config) -> Root:
    """Return the mounted root; Missing when no dataset is meant for the storage directory, Unavailable when it cannot be used."""
    if not directory:
        raise Missing("a file storage directory of this cluster", "gnt-zfs setup ROOT makes one")
    mounted = zfs.mounted_at(directory)
    if mounted is None:
        mounted = _mount_root(zfs, directory, config)
    if config.root and mounted != config.root:
        raise Unavailable(directory, f"dataset {mounted} is mounted there, the configuration says {config.root}")
    return Root(mounted, directory)


def find_datastore(zfs: Backend, name: str, config: Config) -> Root:
    """Return one of the node's further roots, mounted; BadInput lists them, Unavailable when it cannot be used now."""
    dataset = config.datastores.get(name)
    if dataset is None:
        known = ", ".join(config.datastores) or "none on this node"
        raise BadInput(f"datastore {name}: there are {known}: datastores in the node's configuration names them")
    mounted = [mount.path for mount in zfs.mounts() if mount.dataset == dataset and mount.whole]
    if mounted:
        return Root(dataset, mounted[-1])
    directory = dict(zfs.filesystems()).get(dataset, "")
    if not directory.startswith("/"):
        why = f"has the mountpoint {directory}" if directory else "does not exist: its pool is not imported"
        raise Unavailable(
            f"datastore {name}", f"dataset {dataset} {why}", f"zfs set mountpoint=/{dataset} {dataset}" if directory else "zpool import"
        )
    zfs.mount(dataset, directory)
    return Root(dataset, directory)


def _mount_root(zfs: Backend, directory: str, config: Config) -> str:
    try:
        known = dict(zfs.filesystems())
    except Unavailable:
        if config.root or is_guarded(directory):
            raise
        known = {}  # no ZFS here and no trace of ours: a cluster with file storage of another kind
    meant = [name for name, mountpoint in known.items() if mountpoint == directory and config.root in ("", name)]
    if len(meant) > 1:
        raise Unavailable(directory, f"several datasets have it as mountpoint: {', '.join(meant)}", "set root in the configuration file")
    if not meant and config.root in known:
        way_out = "gnt-zfs setup mounts it, or correct the configuration file"
        raise Unavailable(f"root {config.root}", f"is not mounted at {directory}", way_out)
    if not meant and (config.root or is_guarded(directory)):
        raise Unavailable(directory, "the root dataset is not there: its pool is not imported", "zpool import, then zfs mount -a")
    if not meant:
        raise Missing(f"a dataset mounted at {directory}", "gnt-zfs setup ROOT makes one")
    zfs.mount(meant[0], directory)
    return meant[0]


def make_parent(zfs: Backend, name: str, marks: Mapping[str, str] | None = None) -> None:
    """A dataset that others are put below exists, and is never mounted; somebody else may make it this moment."""
    if zfs.get(name) is None:
        try:
            zfs.create(name, {"canmount": "off"}, marks or {})
        except Refused:
            if zfs.get(name) is None:  # there is no room for it
                raise


def _immutable(directory: str, change: bool = False) -> bool:
    """Tell whether a directory is immutable, made so first if asked; a filesystem without such a flag leaves it unguarded."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        buffer = bytearray(8)
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, buffer)
        flags = int.from_bytes(buffer[:4], "little")
        if change:
            flags |= FS_IMMUTABLE_FL
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, flags.to_bytes(8, "little"))
        return bool(flags & FS_IMMUTABLE_FL)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def guard(directory: str) -> None:
    """The directory below the root's mount exists and is immutable: nothing is written there while ZFS is not mounted."""
    os.makedirs(directory, mode=0o750, exist_ok=True)
    _immutable(directory, change=True)


def is_guarded(directory: str) -> bool:
    """Tell whether the directory, which is no mount point now, is one that setup has guarded."""
    try:
        return _immutable(directory)
    except OSError:
        return False
