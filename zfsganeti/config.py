"""The settings: one table from which parser, validator and sample file come; without a file everything works."""

from __future__ import annotations

import os

from zfsganeti.errors import BadConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/etc/zfsganeti.conf"

COMPRESSIONS = ("off", "on", "lz4", "zstd", "zle")


def _integer(low: int, high: int, unit: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number of {unit} from {low} to {high}")
        return int(text)

    return parse


def recordsize(text: str) -> int:
    """Return a record size in bytes: a power of two from 512 to 1M, as every OpenZFS since 2.1 takes it without tuning."""
    units = {"K": 1 << 10, "M": 1 << 20}
    unit = text[-1:].upper()
    digits = text[:-1] if unit in units else text
    size = int(digits) * units.get(unit, 1) if digits.isascii() and digits.isdigit() and len(digits) < 9 else 0
    if not 512 <= size <= 1 << 20 or size & (size - 1):
        raise ValueError(f"{text!r} is not a power of two from 512 to 1M")
    return size


def compression(text: str) -> str:
    """Return a compression that both generations know, without a level."""
    if text not in COMPRESSIONS:
        raise ValueError(f"{text!r} is none of {', '.join(COMPRESSIONS)}")
    return text


def _root(text: str) -> str:
    if text and (text.startswith("/") or text.endswith("/") or any(character in text for character in "@#%' \t\"")):
        raise ValueError(f"{text!r} is not the name of a dataset, such as zfs/vm")
    return text


def _directories(text: str) -> tuple[str, ...]:
    found = tuple(text.split())
    for directory in found:
        if not directory.startswith("/") or os.path.normpath(directory) in ("/", "//"):
            raise ValueError(f"{directory!r} is not the absolute path of a directory of its own")
    return found


def _datastores(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split():
        name, equals, dataset = word.partition("=")
        if not equals or not name.isascii() or not name.isalnum() or not dataset:
            raise ValueError(f"{word!r} is not of the form NAME=DATASET, such as ssd=fast/vm")
        if name in found or dataset in found.values():
            raise ValueError(f"{word!r} is there twice")
        found[name] = _root(dataset)
    return found


def _cipher(text: str) -> str:
    names = text.split(",") if text else []
    if not text.isascii() or not all(name.translate({ord(mark): None for mark in "-@."}).isalnum() for name in names):
        raise ValueError(f"{text!r} is no list of ciphers, such as aes128-gcm@openssh.com")
    return text


class Setting:
    """A setting: its default in the file's notation, how it is read, and what a person should know of it."""

    __slots__ = ("default", "help", "name", "parse")

    def __init__(self, name: str, default: str, parse: Callable[[str], object], text: str) -> None:
        self.name, self.default, self.parse, self.help = name, default, parse, text


SETTINGS = (
    Setting(
        "root",
        "",
        _root,
        "The dataset under which everything lives on this node. Empty: the dataset mounted at the cluster's " "file storage directory.",
    ),
    Setting(
        "datastores",
        "",
        _datastores,
        "More roots of this node for `-t ext` disks and images, as NAME=DATASET separated by spaces, such as ssd=fast/vm: a disk says "
        "datastore=ssd. Each is a mounted dataset outside the root.",
    ),
    Setting("trash_days", "7", _integer(0, 3650, "days"), "How many days a removed instance stays in the trash; 0 destroys it at once."),
    Setting(
        "trash_min_free",
        "10",
        _integer(0, 90, "percent"),
        "The oldest of the trash is given up while less than this share of the " "root's space is free.",
    ),
    Setting(
        "overcommit",
        "200",
        _integer(0, 100000, "percent"),
        "What the sizes of all disks may come to, as a share of the root's space; a `-t ext` disk beyond it is refused, 0 never refuses.",
    ),
    Setting(
        "fill_directories",
        "",
        _directories,
        "Directories, separated by spaces, below which the disk parameter fill may take its files: whoever may add instances can read "
        "what is in them.",
    ),
    Setting(
        "image_pull",
        "0",
        _integer(0, 1, "switch"),
        "1 brings an image that a disk is to be made of, and that is not on this node, here from a peer in the background; the add fails, "
        "and succeeds when the image has come.",
    ),
    Setting(
        "image_max",
        "4096",
        _integer(1, 1 << 20, "GiB"),
        "The largest disk, in GiB, that an image may have: what claims to be larger is refused.",
    ),
    Setting("warn_free", "15", _integer(0, 90, "percent"), "Cluster verify speaks up when less than this share of the pool is free."),
    Setting("allow_degraded", "0", _integer(0, 1, "switch"), "1 lets instances be added to a pool that is degraded."),
    Setting(
        "leftover_minutes",
        "60",
        _integer(0, 100000, "minutes"),
        "How old an empty dataset without an instance must be before the "
        "watcher removes it; younger ones may belong to an instance that is being added.",
    ),
    Setting("recordsize", "64K", recordsize, "Record size of the datasets that `gnt-zfs setup` makes; applies to new disk files."),
    Setting("compression", "lz4", compression, "Compression of the root that `gnt-zfs setup` makes."),
    Setting("busy_seconds", "30", _integer(0, 600, "seconds"), "How long a dataset that is in use is tried again before giving up."),
    Setting(
        "attach_seconds",
        "60",
        _integer(0, 600, "seconds"),
        "How long a disk is waited for that may be there but cannot be looked for, such as on a pool that is suspended.",
    ),
    Setting(
        "patch",
        "0",
        _integer(0, 1, "switch"),
        "1 puts the optional patch of Ganeti's backend in again after every upgrade of Ganeti; `gnt-zfs patch enable` sets it.",
    ),
    Setting(
        "ssh_cipher",
        "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr",
        _cipher,
        "The ciphers of ssh for disks and images on their way between nodes, the first that both know; empty: what ssh takes by itself.",
    ),
    Setting("peer_seconds", "120", _integer(5, 800, "seconds"), "How long a peer may take to answer; Ganeti lets a hook run 900 s."),
)


class Config:
    """The settings as values; attributes are the names of the table."""

    root: str
    datastores: dict[str, str]
    trash_days: int
    trash_min_free: int
    overcommit: int
    fill_directories: tuple[str, ...]
    image_pull: int
    image_max: int
    warn_free: int
    allow_degraded: int
    leftover_minutes: int
    recordsize: int
    compression: str
    busy_seconds: int
    attach_seconds: int
    patch: int
    ssh_cipher: str
    peer_seconds: int

    def __init__(self, **values: object) -> None:
        for setting in SETTINGS:
            setattr(self, setting.name, values[setting.name] if setting.name in values else setting.parse(setting.default))


def parse(text: str, path: str = PATH) -> Config:
    """Return the settings of a file's text; BadConfig holds every problem with its line."""
    known = {setting.name: setting for setting in SETTINGS}
    values: dict[str, object] = {}
    problems: list[str] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            problems.append(f"line {number}: {line[:60]!r} is not of the form setting = value")
        elif name not in known:
            problems.append(f"line {number}: {name[:60]!r} is no setting; there are {', '.join(known)}")
        elif name in values:
            problems.append(f"line {number}: {name} is set twice")
        else:
            try:
                values[name] = known[name].parse(value)
            except ValueError as error:
                values[name] = None
                problems.append(f"line {number}: {name}: {error}")
    if problems:
        raise BadConfig(path, problems)
    return Config(**values)


def load(path: str = PATH) -> Config:
    """Return the settings of this node; a file that is not there means the defaults."""
    try:
        with open(path, "rb") as file:
            raw = file.read(1 << 20)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise BadConfig(path, [os.strerror(error.errno or 0)]) from error
    try:
        return parse(raw.decode(), path)
    except UnicodeDecodeError as error:
        raise BadConfig(path, [f"byte {error.start} is not UTF-8"]) from error


def save(name: str, value: str, path: str = "") -> None:
    """The node's configuration has this setting; everything else in it is as it was."""
    path = path or PATH
    try:
        with open(path, encoding="utf-8", newline="") as file:
            # lines as `parse` knows them: a comment may have other ends of lines in it
            kept = [line for line in file.read().removesuffix("\n").split("\n") if line.partition("=")[0].strip() != name]
    except FileNotFoundError:
        kept = []
    replace(path, [*kept, f"{name} = {value}"])


def replace(path: str, lines: list[str]) -> None:
    """The file holds these lines, on disk; a power cut leaves the old file or the new one, whole."""
    partial = f"{path}.new"
    with open(partial, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
        os.fchmod(file.fileno(), 0o644)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def sample() -> str:
    """Return a configuration file that says what the defaults are and sets nothing."""
    lines = ["# Settings of zfsganeti on this node. Every line may be left out; the values shown are the defaults."]
    for setting in SETTINGS:
        lines += ["", f"# {setting.help}", f"#{setting.name} = {setting.default}"]
    return "\n".join(lines) + "\n"
