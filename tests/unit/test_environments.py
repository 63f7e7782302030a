"""Whatever is in the environment that Ganeti sets, a door ends in one line at most and touches nothing that is not named there."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.deaths.images import holding
from tests.node import CLUSTER_NAME, place_in_memory
from tests.rig import Knot, make_rig
from tests.watch import watch
from zfsganeti import answer, config, extstorage, here, hooks, loop, osdefinition, process, variants
from zfsganeti.config import Config
from zfsganeti.datasets import CLUSTER, Store
from zfsganeti.errors import EXIT_STATUS
from zfsganeti.volumes import Volumes

Environment = dict[str, str]
MIB = 1 << 20
ROOM = 16 * MIB  # what the pool has: no disk becomes larger than a test can read
HOST = os.uname().nodename.split(".")[0]
ROOT, LINKS = "/zfs/vm", "/dev/zfsganeti"  # in environments here; an example has both in its own place
BYSTANDERS = {"web1": "x.file.disk0", "db1": "x.ext.disk0"}
DISKS = {**BYSTANDERS, "app1": "a.file.disk0", "sql1": "s.ext.disk0"}  # the latter two are what plausible environments are about
REMOVED = "t.ext.disk0:20231114T221320Z"  # in the trash, and reserved for whoever shows the token
TOKEN = f"{REMOVED}@secret"
FUZZED = settings(
    max_examples=int(os.environ.get("CAMPAIGN", "40")),
    deadline=None,
    derandomize="CAMPAIGN" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

NAMES = (
    "web1", "db1", "app1", "sql1", "new1", "app2", "byhand", "theirs", "WEB1", "web1.example.com", "a" * 200, "a" * 201, "a..b",
    "x.ext.disk0", "x.file.disk0", "s.ext.disk0", "s.ext.disk0.snap", "x.ext.disk0.snap", "t.ext.disk0", "n.ext.disk0", "web1/../db1",
    ".trash", ".images", "originstname+web1", "originstname+db1", "originstname+", "originstname+..", "originstname+a\nb",
    "originstname",
)  # fmt: skip
NODES = ("node1", "node2", "node3", "node9", "node1.example.com", "NODE1", "-oProxyCommand=reboot")
OUTSIDE = ("/etc/passwd", "//etc/passwd", "../../etc/passwd", "/etc", "/")
PATHS = (
    ROOT, f"{ROOT}/", f"{ROOT}/web1", f"{ROOT}/web1/", f"{ROOT}/web1/..", f"{ROOT}/web1/x.file.disk0", f"{ROOT}/db1/x.ext.disk0",
    f"{ROOT}/x.ext.disk0/disk.raw", f"{ROOT}/s.ext.disk0/disk.raw", f"{ROOT}/byhand/b.file.disk0", f"{ROOT}/theirs/disk.raw",
    f"{ROOT}/app1", f"{ROOT}/app1/", f"{ROOT}/app1/.", f"{ROOT}/app1/..", f"{ROOT}/app1/../web1/x.file.disk0", f"{ROOT}/app1/\udcff",
    f"{ROOT}/app1/a\nb", f"{ROOT}/app1/{'a' * 300}", f"{ROOT}/new1/a", f"{ROOT}/new1/disk.raw", f"{LINKS}/x.ext.disk0",
    f"{LINKS}/s.ext.disk0", f"{LINKS}/..", f"{LINKS}/", f"{LINKS}/\udcff", f"{LINKS}/web1", f"{LINKS}/é", f"{LINKS}/{'a' * 300}",
    "/dev/null", *OUTSIDE,
)  # fmt: skip
NUMBERS = (
    "0", "00", "-1", "-9223372036854775808", "1", "2", "3", "17", "4096", "1048576", "17179869184", "18446744073709551616", "9" * 30,
    "1e3", "0x10", "٣", "²", "1.5", "+1", " 1", "1\n",
)  # fmt: skip
TOKENS = (
    TOKEN, REMOVED, f"{REMOVED}@", f"{REMOVED}@other", f"..@{REMOVED}", ".@x", "\udcff@x", "é@x", f"{'a' * 300}@x", "@", "a\nb@x",
    "web1@x", "t.ext.disk0@secret", "../web1@x",
)  # fmt: skip
WORDS = (
    "True", "False", "None", "true", "yes", "no", "pre", "post", "during", "file", "ext", "plain", "zfs", "import", "create",
    "instance-remove", "cluster-rename", "zfs-image", "zfs-image+", "zfs-image+debian-12", "zfs-image+debian-13", "zfs-image+../x",
    "+debian-12", "debian-12", "debian-12:1", "debian-11", "debian-13", "remove", "rename app2", "clone", "copy", "persistent", "64K",
    "512", "4G", "1M", "lz4", "ssd", "tape", "files", "files/..", "other.example.com",
)  # fmt: skip
STRANGE = (
    "", " ", ".", "..", "-rf", "--help", "$(reboot)", "1; reboot", "`id`", "a|b", "\n", "a\nb", "\t", "\x1b[31m", "\x7f", "a" * 255,
    "a" * 300, "é", "é" * 200, "\udcff", "x\udcc3", "\u2028", "a,b", "a=b", "%s", "{}", "*", "zfs", "zfs/vm", "zfs/vm/web1",
    "zfs/vm/theirs", "zfs/theirs", "tank/theirs", "zfs/vm/web1@s", "zfs/vm/.trash",
)  # fmt: skip
ALIKE = (
    {"ID": PATHS + NAMES, "PATH": PATHS, "DEVICE": PATHS, "TRASH": TOKENS, "PRIMARY": NODES, "NODE": NODES, "MASTER": NODES}
    | {word: NUMBERS for word in ("SIZE", "COUNT", "AMOUNT", "DISK", "SWAP")}
    | {word: NAMES for word in ("NAME", "TARGET", "METADATA")}
)  # by the last word of a variable's name; for others it is a word
CHARACTERS = st.binary(max_size=12).map(lambda data: os.fsdecode(data.replace(b"\0", b"-")))  # all that an environment can hold
NASTY = st.sampled_from(NAMES + NODES + PATHS + NUMBERS + TOKENS + WORDS + STRANGE)


class Site:
    """One example's cluster, with instances that the environment is about and others, what others have made, and its nodes' doors."""

    def __init__(self, place: Path, patched: pytest.MonkeyPatch) -> None:
        self.place, self.patched = place, patched
        self.rig = make_rig(place, patched)
        for knot in self.rig.knots.values():
            knot.fake.foreign("zfs/vm/theirs")
            knot.fake.available = ROOM
        self.theirs = self.rig.master.fake.state()["zfs/vm/theirs"]
        for name, disk in DISKS.items():
            self.rig.ganeti.add(name, "ext" if ".ext." in disk else "file", "node1", {disk: content(name)}, up=False)
            os.truncate(self.rig.ganeti.path(name, disk), MIB)
        self.byhand = Path(self.rig.master.root.path, "byhand", "b.file.disk0")
        self.byhand.parent.mkdir()
        self.byhand.write_bytes(content("byhand"))
        self._settle(self.rig.master)
        self._patch()

    def _settle(self, knot: Knot) -> None:
        """The node has another datastore, files to fill disks with, and no patience."""
        (self.place / "fill" / "files").mkdir(parents=True)
        knot.fake.foreign("zfs/fast", {CLUSTER: CLUSTER_NAME}, mountpoint=f"{self.place}/fast")
        knot.fake.mount("zfs/fast", f"{self.place}/fast")
        settled = Config(busy_seconds=0, attach_seconds=0, datastores={"ssd": "zfs/fast"}, fill_directories=(f"{self.place}/fill",))
        knot.__dict__["config"] = knot.store.config = settled
        ssd = knot.at("ssd")
        ssd.__dict__["store"] = Store(knot.fake, ssd.root, CLUSTER_NAME, settled, now=knot.store.now)
        ssd.__dict__["volumes"] = Volumes(ssd.store, knot.loop)
        knot.ssconf.__dict__["instances"] = list(DISKS)

    def _patch(self) -> None:
        """Nothing waits, goes on in the background or writes elsewhere, and a defect is no line like another."""
        master = self.rig.master
        for module in (hooks, extstorage, osdefinition, answer):
            self.patched.setattr(module, "defect", fail)
        self.patched.setattr(config, "load", lambda: master.config)
        self.patched.setattr(variants, "LIST", f"{self.place}/variants.list")
        self.patched.setattr(tempfile, "tempdir", str(self.place))
        self.patched.setattr(process, "background", lambda *_words: None)
        self.patched.setattr(time, "sleep", wait)
        self.patched.chdir(self.place)

    def stock(self) -> None:
        """The first node has images, one of which can be lent, and in its trash a disk that is reserved."""
        knot = self.rig.master
        knot.fake.available = 100 << 30
        for name in ("debian-12:1", "debian-11"):
            knot.images.make(name, f"file:/{name}", holding())
        knot.images.set_lendable("debian-11", True)
        volume = REMOVED.partition(":")[0]
        knot.volumes.create(volume, MIB, {})
        knot.volumes.set_instance(volume, "gone1")
        Path(knot.volumes.disk(volume)).write_bytes(b"gone1".ljust(MIB, b"\0"))
        knot.volumes.remove(volume)
        knot.trash.reserve(REMOVED, TOKEN)
        knot.fake.available = ROOM

    def written(self, state: Mapping[str, Any]) -> set[bytes]:
        """Return what the files of a node in this state hold before their zeros, those in snapshots as well."""
        files = [files for dataset in state.values() for files in (dataset["files"], *dataset["snapshots"].values())]
        texts = {content.partition(b"\0")[0] for each in files for content in each.values()}
        return texts | {self.byhand.read_bytes() if self.byhand.exists() else b""}

    def place_in(self, environ: Mapping[str, str], node: str) -> Environment:
        """Return an environment with paths of this example, as the node has them."""
        own = {ROOT: self.rig.knots[node].root.path, LINKS: f"{self.place}/links"}
        return {
            name: next((f"{path}{value[len(known) :]}" for known, path in own.items() if value.startswith(known)), value)
            for name, value in environ.items()
        }

    def knock(self, door: Callable[[], int], name: str, environ: Mapping[str, str], node: str = "node1", given: bytes = b"") -> Said:
        """Return what a door says on a node when it is called by this name with this environment."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("surrogateescape", "backslashreplace"))
        knot = self.rig.knots[node]
        with (
            mock.patch.object(here, "Here", lambda _verbs: knot),
            mock.patch.object(loop, "find", knot.loop.find),
            mock.patch.object(os, "environ", self.place_in(environ, node)),
            mock.patch.object(sys, "argv", [f"/usr/share/ganeti/{name}"]),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given))),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            watch.over(str(self.place)),
        ):
            status = door()
        return Said(status, *(self._read(stream) for stream in (out, err)))

    @staticmethod
    def _read(stream: io.TextIOWrapper) -> str:
        stream.seek(0)
        return stream.read()

    def check(self, environ: Mapping[str, str], *, loses: bool = False) -> None:
        """What is not named is as it was; nothing is lost anywhere, unless the door is one that overwrites what is named."""
        for name, disk in BYSTANDERS.items():
            if not any(name in value or disk in value for value in environ.values()):
                assert Path(self.rig.ganeti.path(name, disk)).read_bytes() == content(name).ljust(MIB, b"\0")
        state = self.rig.master.fake.state()
        assert state["zfs/vm/theirs"] == self.theirs
        if not loses:
            assert {content(name) for name in (*DISKS, "byhand")} <= self.written(state)


def content(name: str) -> bytes:
    """Return what the disk of an instance begins with."""
    return f"what {name} has written".encode()


def fail(error: Exception) -> str:
    raise AssertionError(f"a defect: {type(error).__name__}: {error}") from error


class Waited(BaseException):
    """Somebody waits, which no example has a reason for."""


def wait(seconds: float) -> None:
    raise Waited(f"{seconds} s")


class Said:
    """What a door has ended with."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def check(self, line: str) -> None:
        """The line that tells what went wrong, if anything did, is one, and says on which node."""
        assert self.status in EXIT_STATUS
        assert bool(line) == bool(self.status)
        assert line.startswith(f"{HOST}: ") or not line
        assert line.removesuffix("\n").splitlines() == [line.removesuffix("\n")] or not line


@contextlib.contextmanager
def site(*, stocked: bool = False) -> Iterator[Site]:
    """Yield a cluster that is gone afterwards."""
    place = place_in_memory()
    try:
        with pytest.MonkeyPatch.context() as patched:
            made = Site(place, patched)
            if stocked:
                made.stock()
            yield made
    finally:
        shutil.rmtree(place)


def value_of(name: str) -> st.SearchStrategy[str | None]:
    """Return what a variable may be instead: something of its kind, anything at all, or missing."""
    alike = st.sampled_from(ALIKE.get(name.rpartition("_")[2], WORDS))
    return st.one_of(alike, alike, NASTY, st.sampled_from(STRANGE), CHARACTERS, st.none())


def changed(plausible: st.SearchStrategy[Environment], most: tuple[str, ...], more: tuple[str, ...] = ()) -> st.SearchStrategy[Environment]:
    """Return environments as they should be, but for some variables, `most` of all these, which are missing or something else."""

    def of(environ: Environment) -> st.SearchStrategy[Environment]:
        names = st.sampled_from(sorted({*environ, *more})) | st.sampled_from([name for name in (*most, *more) if name] or sorted(environ))
        one = names.flatmap(lambda name: st.tuples(st.just(name), value_of(name)))
        new = st.lists(one, max_size=3).map(dict)
        return new.map(lambda new: {name: value for name, value in {**environ, **new}.items() if value is not None})

    return plausible.flatmap(of)


def one_of(**variables: str) -> dict[str, st.SearchStrategy[str]]:
    """Return variables that have one of several values, between bars."""
    return {name: st.sampled_from(words.split("|")) for name, words in variables.items()}


# hooks

EVERY_HOOK = {
    "PATH": "/sbin:/bin:/usr/sbin:/usr/bin",
    "GANETI_HOOKS_VERSION": "2",
    "GANETI_CLUSTER": CLUSTER_NAME,
    "GANETI_MASTER": "node1",
    "GANETI_DATA_DIR": "/var/lib/ganeti",
}
OF_HOOK: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "instance-add": one_of(GANETI_ADD_MODE="create|import", GANETI_INSTANCE_OS_TYPE="zfs-image+debian-12|zfs-image+debian-13|noop"),
    "instance-rename": one_of(GANETI_INSTANCE_NEW_NAME="app2|app2|app1"),
    "instance-move": one_of(GANETI_TARGET_NODE="node2", GANETI_POST_INSTANCE_PRIMARY="node1|node2"),
    "instance-recreate-disks": one_of(GANETI_POST_INSTANCE_PRIMARY="node1|node2"),
    "instance-modify": one_of(
        GANETI_NEW_DISK_TEMPLATE="|plain|file|ext",
        GANETI_POST_INSTANCE_DISK_COUNT="0|1",
        GANETI_POST_INSTANCE_DISK_TEMPLATE="file|ext|plain",
    ),
    "instance-failover": one_of(GANETI_NEW_PRIMARY="node2", GANETI_OLD_PRIMARY="node1", GANETI_FAILOVER_CLEANUP="False|True"),
    "instance-migrate": one_of(GANETI_NEW_PRIMARY="node2", GANETI_OLD_PRIMARY="node1", GANETI_MIGRATE_CLEANUP="False|True"),
    "instance-export": one_of(GANETI_REMOVE_INSTANCE="False|True", GANETI_EXPORT_MODE="local"),
    "disk-grow": one_of(GANETI_DISK="0", GANETI_AMOUNT="1|3", GANETI_ABSOLUTE="False|True"),
    "cluster-verify": one_of(GANETI_CLUSTER_TAGS="", GANETI_NODE_TAGS_node1=""),
    "cluster-rename": one_of(GANETI_OP_TARGET=CLUSTER_NAME, GANETI_NEW_NAME="other.example.com"),
}
OPCODES: tuple[dict[str, Any] | None, ...] = (
    None,
    {"dry_run": True},
    {"file_storage_dir": "elsewhere"},
    {"no_install": True},
    {"disks": [["remove", 0, {}]]},
    {"disks": [["add", -1, {"size": 3}]]},
)
HOOKS = [(kind, name) for kind, table in (("file", hooks.HANDLERS), ("ext", hooks.VOLUME_HANDLERS)) for name in table]


def of_hook(name: str) -> Environment:
    """Return what tells a hook its name."""
    path, _dash, phase = name.rpartition("-")
    return {"GANETI_HOOKS_PATH": path, "GANETI_HOOKS_PHASE": phase} if path else {}


def of_instance(kind: str, name: str) -> st.SearchStrategy[Environment]:
    """Return what Ganeti sets in a hook of an instance, which in that of an add has no disks yet."""
    added = name.startswith("instance-add-")
    instance = "new1" if added else {"file": "app1", "ext": "sql1"}[kind]
    disk = {"file": f"{ROOT}/app1/{DISKS['app1']}", "ext": DISKS["sql1"]}[kind]
    environ = {
        **EVERY_HOOK,
        **of_hook(name),
        "GANETI_OP_CODE": "OP_INSTANCE",
        "GANETI_OP_TARGET": instance,
        "GANETI_INSTANCE_NAME": instance,
        "GANETI_INSTANCE_PRIMARY": "node1",
        "GANETI_INSTANCE_SECONDARIES": "",
        "GANETI_INSTANCE_DISK_TEMPLATE": kind,
        "GANETI_INSTANCE_DISK_COUNT": "1",
        "GANETI_INSTANCE_DISK0_SIZE": "2",
        **({} if added else {"GANETI_INSTANCE_DISK0_ID": disk}),
        **({"GANETI_INSTANCE_DISK0_PROVIDER": "zfs"} if kind == "ext" else {}),
    }
    return st.fixed_dictionaries({**{key: st.just(value) for key, value in environ.items()}, **OF_HOOK.get(name.rpartition("-")[0], {})})


@pytest.mark.parametrize(("kind", "name"), HOOKS)
def test_a_hook_ends_in_nothing_or_one_line(kind: str, name: str) -> None:
    most = (*OF_HOOK.get(name.rpartition("-")[0], ()), "GANETI_INSTANCE_NAME", "GANETI_INSTANCE_PRIMARY", "GANETI_INSTANCE_DISK0_ID")
    more = ("GANETI_INSTANCE_OS_TYPE", "GANETI_INSTANCE_DISK1_SIZE", "GANETI_POST_INSTANCE_PRIMARY")

    @FUZZED
    @given(
        of_instance(kind, name).flatmap(lambda right: st.tuples(st.just(right), changed(st.just(right), most, more))),
        st.sampled_from(("node1", "node1", "node2")),
        st.sampled_from(OPCODES),
        st.sampled_from(("", "", "node1", "node2")),
        st.booleans(),
    )
    def call(environs: tuple[Environment, Environment], node: str, opcode: dict[str, Any] | None, away: str, twice: bool) -> None:
        right, wrong = environs
        with site(stocked=name.startswith("instance-add-")) as found:
            found.patched.setattr(found.rig.ganeti, "running", lambda _operation, _instance: opcode)
            if twice and name.endswith("-post"):  # what comes before it was right
                found.knock(hooks.main, "hook", right | {"GANETI_HOOKS_PHASE": "pre"}, node)
            for other in {away} - {"", node}:
                found.rig.knots[other].away = True
            said = found.knock(hooks.main, "hook", wrong, node)
            said.check(said.out)
            assert not said.err
            found.check(wrong)

    call()


@pytest.mark.parametrize("name", hooks.NODE_HOOKS)
def test_a_hook_of_the_node_ends_in_nothing_or_one_line(name: str) -> None:
    environ = {**EVERY_HOOK, **of_hook(name), "GANETI_OP_CODE": "OP_CLUSTER"} if name != "watcher" else {"PATH": "/usr/bin", "LANG": "C"}
    plausible = st.fixed_dictionaries({key: st.just(value) for key, value in environ.items()} | OF_HOOK.get(name.rpartition("-")[0], {}))

    @FUZZED
    @given(
        changed(plausible, tuple(OF_HOOK.get(name.rpartition("-")[0], ())), ("GANETI_INSTANCE_NAME",)),
        st.sampled_from(("", "node2")),
        st.booleans(),
    )
    def call(environ: Environment, away: str, aside: bool) -> None:
        with site(stocked=aside) as found:
            if aside:
                found.rig.master.store.put_aside("app1", "remove", [DISKS["app1"]])
            for other in {away} - {""}:
                found.rig.knots[other].away = True
            said = found.knock(hooks.main, "hook", environ)
            said.check(said.out)
            found.check(environ)

    call()


# the provider

OF_VERB: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "create": one_of(VOL_NAME="n.ext.disk0|n.ext.disk0|n.ext.disk0|n.ext.disk0|s.ext.disk0", VOL_SIZE="1|2"),
    "grow": one_of(VOL_SIZE="2", VOL_NEW_SIZE="3"),
    "setinfo": one_of(VOL_METADATA="originstname+sql1"),
    "snapshot": one_of(VOL_SNAPSHOT_NAME="s.ext.disk0.snap", VOL_SNAPSHOT_SIZE="2"),
    "open": one_of(VOL_OPEN_EXCLUSIVE="True|False"),
}
OF_DISK = one_of(
    EXTP_IMAGE="debian-12|debian-11|debian-13",
    EXTP_USE="clone|copy|persistent",
    EXTP_SWAP="yes|no|64K|4G",
    EXTP_FILL="files",
    EXTP_TRASH=TOKEN,
    EXTP_DATASTORE="ssd",
    EXTP_RECORDSIZE="16K",
    EXTP_COMPRESSION="zstd",
    EXTP_RESERVE="yes|no",
)


@pytest.mark.parametrize("verb", extstorage.NAMES)
def test_a_verb_of_the_provider_ends_in_a_device_or_one_line(verb: str) -> None:
    always = {"VOL_NAME": st.just("s.ext.disk0"), "EXTP_PROVIDER": st.just("zfs"), "EXTP_ACCESS": st.just("kernelspace")}
    one = st.sampled_from(sorted(OF_DISK)).flatmap(lambda name: st.fixed_dictionaries({name: OF_DISK[name]}))
    several = st.fixed_dictionaries({}, optional=OF_DISK)
    plausible = st.tuples(
        st.fixed_dictionaries({**always, **OF_VERB.get(verb, {})}), one | one | several if verb == "create" else st.just({})
    )

    most = ("VOL_NAME", *OF_VERB.get(verb, ()), *(OF_DISK if verb == "create" else ()))

    @FUZZED
    @given(changed(plausible.map(lambda both: both[0] | both[1]), most, ("VOL_UUID", "EXTP_", "EXTP_a\nb", "EXTP_\udcff")), st.booleans())
    def call(environ: Environment, attached: bool) -> None:
        with site(stocked=verb == "create") as found:
            if attached:
                found.rig.master.volumes.attach(DISKS["sql1"])
            said = found.knock(extstorage.main, verb, environ)
            said.check(said.err)
            assert not said.status or not said.out
            assert verb in ("attach", "verify") or not said.out
            assert verb != "attach" or said.status or said.out == f"/dev/zfsganeti/{environ['VOL_NAME']}"
            found.check(environ)

    call()


# the OS definition


def stand_in(found: Site) -> None:
    """Volumes are devices, at links to their disks, which stand for block devices while they are sticky."""
    links = found.place / "links"
    links.mkdir()
    for disk in (DISKS["db1"], DISKS["sql1"]):
        path = found.rig.master.volumes.disk(disk)
        os.chmod(path, 0o1600)
        (links / disk).symlink_to(path)
    regular = stat.S_ISREG
    found.patched.setattr(loop, "LINKS", str(links))
    found.patched.setattr(stat, "S_ISREG", lambda mode: regular(mode) and not mode & stat.S_ISVTX)
    found.patched.setattr(stat, "S_ISBLK", lambda mode: regular(mode) and bool(mode & stat.S_ISVTX))
    found.patched.setattr(fcntl, "ioctl", lambda *_arguments: 0)


OF_SCRIPT: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "create": one_of(INSTANCE_OS="zfs-image+debian-12|zfs-image+debian-11|zfs-image+debian-13", DISK_COUNT="1", INSTANCE_REINSTALL="1|"),
    "import": one_of(IMPORT_INDEX="0"),
    "export": one_of(EXPORT_INDEX="0"),
    "rename": one_of(OLD_INSTANCE_NAME="app2"),
    "verify": one_of(OS_VARIANT="debian-12|debian-12:1"),
}
DEVICE = {"create": "DISK_0_PATH", "import": "IMPORT_DEVICE", "export": "EXPORT_DEVICE"}


@pytest.mark.parametrize("script", osdefinition.SCRIPTS)
def test_a_script_of_the_os_definition_ends_in_one_line(script: str) -> None:
    always = one_of(INSTANCE_NAME="app1|sql1", OS_NAME="zfs-image", OS_API_VERSION="20", HYPERVISOR="fake")
    disk = {DEVICE[script]: st.sampled_from((f"{ROOT}/app1/{DISKS['app1']}", f"{LINKS}/s.ext.disk0"))} if script in DEVICE else {}
    plausible = st.fixed_dictionaries({**always, **OF_SCRIPT[script], **disk})

    @FUZZED
    @given(changed(plausible, ("INSTANCE_NAME", *OF_SCRIPT[script], *disk)), st.sampled_from((0, 4, MIB, MIB + 1)))
    def call(environ: Environment, size: int) -> None:
        assume(script != "import" or environ.get("IMPORT_DEVICE") not in OUTSIDE)  # it writes to whatever it is told to
        with site(stocked=script == "create") as found:
            stand_in(found)
            said = found.knock(osdefinition.main, script, environ, given=b"x" * size)
            said.check(said.err)
            found.check(environ, loses=True)

    call()


# what has gone wrong once


@pytest.mark.parametrize(
    ("door", "name", "environ", "said"),
    [
        (
            extstorage.main,
            "create",
            {"VOL_NAME": "n.ext.disk0", "VOL_SIZE": "1", "EXTP_TRASH": "\udcff@x"},
            r"dataset name 'zfs/vm/.trash/\udcff'",
        ),
        (
            osdefinition.main,
            "create",
            {"INSTANCE_NAME": "sql1", "INSTANCE_OS": "zfs-image+x", "DISK_0_PATH": f"{LINKS}/\udcff"},
            r"'zfs/vm/\udcff'",
        ),
    ],
)
def test_a_name_that_is_no_text_is_no_name(door: Callable[[], int], name: str, environ: Environment, said: str) -> None:
    with site() as found:
        stand_in(found)
        told = found.knock(door, name, environ)
        assert (told.status, told.out) == (2, "")
        assert told.err.endswith(f"{said}: each part must be letters, digits, '.', '-', '_' and ':'\n")


def test_an_instance_that_is_renamed_to_its_own_name_is_not_waited_for() -> None:
    """Ganeti allows that; the hook that comes before refuses it only where the disks are ours."""
    environ = {
        **EVERY_HOOK,
        **of_hook("instance-rename-post"),
        "GANETI_INSTANCE_NAME": "app1",
        "GANETI_INSTANCE_NEW_NAME": "app1",
        "GANETI_INSTANCE_PRIMARY": "node1",
        "GANETI_INSTANCE_DISK_TEMPLATE": "file",
    }
    with site() as found:
        assert found.knock(hooks.main, "hook", environ).out == ""
        assert found.rig.content("app1") == {DISKS["app1"]: content("app1")}


@pytest.mark.parametrize("name", ["instance-move-post", "instance-recreate-disks-post"])
def test_an_instance_that_has_gone_nowhere_stays(name: str) -> None:
    environ = {
        **EVERY_HOOK,
        **of_hook(name),
        "GANETI_INSTANCE_NAME": "app1",
        "GANETI_INSTANCE_PRIMARY": "node1",
        "GANETI_INSTANCE_DISK_TEMPLATE": "file",
        "GANETI_POST_INSTANCE_PRIMARY": "",
    }
    with site() as found:
        said = found.knock(hooks.main, "hook", environ)
        assert said.out == f"{HOST}: GANETI_POST_INSTANCE_PRIMARY is '': Ganeti always sets it in this hook\n"
        assert found.rig.content("app1") == {DISKS["app1"]: content("app1")}
