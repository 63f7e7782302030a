"""The hook as Ganeti calls it: what concerns us, what it costs those it does not concern, and what a broken installation does."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zfsganeti import ganeti, hooks, links
from zfsganeti.errors import BadEnvironment
from zfsganeti.here import Here

HOUSE = Path(__file__).parents[2]
DOOR, EXECUTABLE = HOUSE / "hooks" / "zfsganeti", HOUSE / "hooks" / "handle"
HEAVY = {"libzfs_core", "cffi", "subprocess", "argparse", "logging", "json", "dataclasses", "sh", "typing", "ctypes", "re", "pathlib"}
NODE = os.uname().nodename.split(".")[0]

INSTANCE = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "GANETI_HOOKS_VERSION": "2",
    "GANETI_HOOKS_PATH": "instance-start",
    "GANETI_HOOKS_PHASE": "pre",
    "GANETI_OP_CODE": "OP_INSTANCE_STARTUP",
    "GANETI_CLUSTER": "cluster.example.com",
    "GANETI_MASTER": "node1.example.com",
    "GANETI_INSTANCE_NAME": "web1.example.com",
    "GANETI_INSTANCE_PRIMARY": "node1.example.com",
    "GANETI_INSTANCE_DISK_TEMPLATE": "plain",
}


def run(command: list[str], environ: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd="/")
    return done.returncode, done.stdout, done.stderr


def without_site(body: str) -> list[str]:
    """A fresh interpreter, isolated as the hook's own, that finds the library of this checkout first."""
    return [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(HOUSE)!r})\n{body}"]


class Asked:
    """The master of a cluster where web1 has a disk of another provider and one of ours, which `has` has and its primary may not."""

    node = "node1.example.com"

    def __init__(self, has: str) -> None:
        self.has = has
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.ssconf = SimpleNamespace(offline_nodes=[])
        disks = [SimpleNamespace(volume=""), SimpleNamespace(volume="v1")]
        web1 = SimpleNamespace(disks=disks, record=lambda: {"name": "web1.example.com"})
        self.master = SimpleNamespace(instances=lambda: {"web1.example.com": web1}, running=lambda _operation, _instance: {})

    def call(self, node: str, verb: str, **request: Any) -> list[str] | bool | None:
        self.calls.append((node, verb, request))
        if verb == "aside":
            return node == self.has
        return None if verb != "keep-records" else [] if node == self.has else request["volumes"]

    def call_all(self, verb: str, **request: Any) -> None:
        self.calls.append(("", verb, request))


@pytest.mark.parametrize(("has", "asked"), [("node1.example.com", ["node1.example.com"]), ("node2.example.com", ["node1.example.com", ""])])
def test_what_is_removed_says_how_it_was_made_wherever_its_disks_are(has: str, asked: list[str]) -> None:
    here = Asked(has)
    hooks._keep_records(cast(Here, here), ganeti.Event({**INSTANCE, "GANETI_HOOKS_PATH": "instance-remove"}))
    request = {"volumes": ["v1"], "disks": [1], "record": {"name": "web1.example.com"}}
    assert here.calls == [(node, "keep-records", request) for node in asked]


@pytest.mark.parametrize("has", ["node1.example.com", "node2.example.com"])
def test_a_dataset_that_is_elsewhere_says_how_its_instance_was_made(has: str) -> None:
    """A move that has switched and not landed was interrupted: the primary has nothing to put aside yet."""
    here = Asked(has)
    disk = {"GANETI_INSTANCE_DISK0_ID": "/zfs/vm/web1.example.com/one.file.disk0", "GANETI_INSTANCE_DISK0_SIZE": "64"}
    environ = {"GANETI_INSTANCE_DISK_COUNT": "1", **disk}
    here.ssconf.storage_directory = "/zfs/vm"
    (remove,) = hooks.HANDLERS["instance-remove-pre"]
    event = ganeti.Event({**INSTANCE, **environ, "GANETI_INSTANCE_DISK_TEMPLATE": "file", "GANETI_HOOKS_PATH": "instance-remove"})
    remove(cast(Here, here), event)
    request, record = {"instance": "web1.example.com"}, {"name": "web1.example.com"}
    aside = ("node1.example.com", "aside", {**request, "intent": "remove", "files": ["one.file.disk0"], "record": record})
    assert here.calls == [aside] + ([] if has == "node1.example.com" else [("", "keep-record", {**request, "record": record})])


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("kind", ["file", "ext"])
def test_what_a_system_is_installed_over_is_kept_unless_that_is_a_dry_run(kind: str, dry: bool) -> None:
    here = Asked("node2.example.com")
    here.ssconf.storage_directory = "/zfs/vm"
    here.master.running = lambda _operation, _instance: {"dry_run": dry}
    of_kind = {
        "file": {"GANETI_INSTANCE_DISK0_ID": "/zfs/vm/web1.example.com/one.file.disk0"},
        "ext": {"GANETI_INSTANCE_DISK0_PROVIDER": "zfs", "GANETI_INSTANCE_DISK0_ID": "v1"},
    }[kind]
    environ = {
        **INSTANCE,
        **of_kind,
        "GANETI_HOOKS_PATH": "instance-reinstall",
        "GANETI_INSTANCE_PRIMARY": "node2.example.com",
        "GANETI_INSTANCE_DISK_TEMPLATE": kind,
        "GANETI_INSTANCE_DISK_COUNT": "1",
        "GANETI_INSTANCE_DISK0_SIZE": "64",
    }
    assert hooks.concerns_us(environ)
    event = ganeti.Event(environ)
    keeps = {"file": hooks._keep_files, "ext": hooks._keep_volumes}[kind]
    assert keeps in {"file": hooks.HANDLERS, "ext": hooks.VOLUME_HANDLERS}[kind]["instance-reinstall-pre"]
    keeps(cast(Here, here), event)
    asked = {"file": ("keep-disks", {"instance": "web1.example.com"}), "ext": ("keep-volumes", {"volumes": event.volumes})}[kind]
    assert here.calls == ([] if dry else [("node2.example.com", *asked)])
    assert event.volumes == ([] if kind == "file" else ["v1"])


# what concerns us


@pytest.mark.parametrize("kind", ["plain", "drbd", "ext", "rbd", "diskless", "sharedfile", ""])
def test_instances_of_other_kinds_do_not_concern_us(kind: str) -> None:
    assert not hooks.concerns_us({**INSTANCE, "GANETI_INSTANCE_DISK_TEMPLATE": kind})


@pytest.mark.parametrize("variable", ["GANETI_INSTANCE_DISK_TEMPLATE", "GANETI_NEW_DISK_TEMPLATE"])
def test_instances_that_have_or_get_files_concern_us(variable: str) -> None:
    assert hooks.concerns_us({**INSTANCE, variable: "file"})


def test_the_node_itself_concerns_us() -> None:
    assert hooks.concerns_us({})  # the watcher
    assert hooks.concerns_us({"GANETI_HOOKS_PATH": "cluster-verify", "GANETI_HOOKS_PHASE": "post"})
    assert not hooks.concerns_us({"GANETI_HOOKS_PATH": "cluster-verify", "GANETI_HOOKS_PHASE": "pre"})


def test_a_phase_that_ganeti_does_not_have_is_told() -> None:
    with pytest.raises(BadEnvironment):
        hooks.concerns_us({**INSTANCE, "GANETI_HOOKS_PHASE": "during"})


def test_every_link_that_is_hung_has_a_handler_and_every_handler_a_link() -> None:
    hung = {link.split("/")[0].removesuffix(".d") for link in links.LINKS}
    assert len(hung) == len(links.LINKS)
    assert {name for name in hung if name not in hooks.NODE_HOOKS} == set(hooks.HANDLERS) | set(hooks.VOLUME_HANDLERS)
    assert set(hooks.NODE_HOOKS) <= hung
    assert set(hooks.VOLUME_HANDLERS) == set(hooks.VOLUME_HOOKS)


def test_ganeti_would_run_what_is_hung() -> None:
    """Ganeti runs no file in a hooks directory whose name has other characters than these."""
    for link in links.LINKS:
        directory, _slash, name = link.partition("/")
        assert name == links.BASENAME
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        assert directory == "watcher" or directory.endswith(("-pre.d", "-post.d"))


# what it costs


def test_a_hook_that_is_not_for_us_is_silent_and_imports_next_to_nothing() -> None:
    """Every hook of the cluster comes here, on every node; what the interpreter itself loads is not ours to count."""
    bare = run(without_site("print(*sorted(sys.modules))"), INSTANCE)
    status, output, errors = run(
        without_site("from zfsganeti.hooks import main\nstatus = main()\nprint(*sorted(sys.modules))\nraise SystemExit(status)"), INSTANCE
    )
    assert (status, errors) == (0, "")
    loaded = set(output.split()) - set(bare[1].split())
    assert {name for name in loaded if name.startswith("zfsganeti.")} == {"zfsganeti.hooks", "zfsganeti.ganeti", "zfsganeti.errors"}
    assert not HEAVY & {name.split(".")[0] for name in loaded}


def test_errors_are_one_line_that_begins_with_the_node() -> None:
    environ = {**INSTANCE, "GANETI_HOOKS_PHASE": "during"}
    status, output, errors = run(without_site("from zfsganeti.hooks import main\nraise SystemExit(main())"), environ)
    assert (status, errors) == (1, "")
    assert output == f"{NODE}: GANETI_HOOKS_PHASE is 'during': Ganeti calls hooks with pre or post\n"


# a broken installation


@pytest.fixture(params=["missing", "broken"])
def executable(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The executable on a machine whose library is gone, or of which a part cannot be imported."""
    copy = tmp_path / "zfsganeti"
    shutil.copy(EXECUTABLE, copy)
    place = tmp_path / "packages"
    if request.param == "broken":
        (place / "zfsganeti").mkdir(parents=True)
        (place / "zfsganeti" / "__init__.py").write_text("", encoding="utf-8")
        (place / "zfsganeti" / "hooks.py").write_text("import zfsganeti.nothing\n", encoding="utf-8")
    begin = f"import runpy, sys; sys.path[:] = [{str(place)!r}, *(p for p in sys.path if 'packages' not in p)]"
    return [sys.executable, "-I", "-c", f"{begin}; runpy.run_path({str(copy)!r}, run_name='__main__')"]


@pytest.mark.parametrize("kind", ["plain", "drbd", ""])
def test_a_broken_installation_does_not_stop_other_instances(executable: list[str], kind: str) -> None:
    assert run(executable, {**INSTANCE, "GANETI_INSTANCE_DISK_TEMPLATE": kind}) == (0, "", "")


@pytest.mark.parametrize("variable", ["GANETI_INSTANCE_DISK_TEMPLATE", "GANETI_NEW_DISK_TEMPLATE"])
def test_a_broken_installation_stops_ours_in_one_line(executable: list[str], variable: str) -> None:
    status, output, errors = run(executable, {**INSTANCE, variable: "file"})
    assert (status, errors) == (1, "")
    assert output.startswith(f"{NODE}: zfsganeti's library cannot be loaded (")
    assert output.endswith("): reinstall zfsganeti\n")
    assert output.count("\n") == 1


@pytest.fixture
def door(tmp_path: Path) -> list[str]:
    """What Ganeti calls, with something in the place of Python that says that it was asked."""
    copy = tmp_path / "door"
    copy.write_text(DOOR.read_text(encoding="utf-8").replace("/usr/share/zfsganeti/hooks/handle", "echo asked"), encoding="utf-8")
    return ["/bin/sh", str(copy)]


KINDS = ["", "plain", "drbd", "rbd", "blockdev", "file", "ext", "sharedfile", "gluster", "diskless", "mixed"]


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_door_sends_away_nothing_that_concerns_us(door: list[str], kind: str, new: str) -> None:
    """What it sends away would have been left alone, whatever the event and the disks' provider; most others never see Python."""
    environ = {"GANETI_INSTANCE_DISK_TEMPLATE": kind, "GANETI_NEW_DISK_TEMPLATE": new, "GANETI_HOOKS_PHASE": "pre"}
    status, output, errors = run(door, environ)
    assert (status, errors) == (0, "")
    events = [{**environ, "GANETI_HOOKS_PATH": name.rpartition("-")[0]} for name in (*hooks.HANDLERS, *hooks.VOLUME_HANDLERS)]
    if any(hooks.concerns_us(event) for event in events):
        assert output == "asked\n"
    if kind in ("plain", "drbd") and new in ("", "plain", "drbd"):
        assert output == ""


def test_the_door_does_not_know_what_is_no_event_of_an_instance(door: list[str]) -> None:
    assert run(door, {}) == (0, "asked\n", "")
    assert os.access(DOOR, os.X_OK)


def test_the_executable_is_isolated_from_the_daemons_environment() -> None:
    first = EXECUTABLE.read_text(encoding="utf-8").splitlines()[0]
    assert first == "#!/usr/bin/python3 -I"
    assert os.access(EXECUTABLE, os.X_OK)


def test_the_executable_imports_only_os_before_the_library() -> None:
    tree = ast.parse(EXECUTABLE.read_text(encoding="utf-8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["os"]
