"""A peer that answers what nobody expects: each command ends in lines that a person can read, and what the peer has is left alone."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deaths.images import holding
from tests.rig import Knot, Rig, make_rig
from tests.watch import watch
from zfsganeti import cli, exchange, here, hooks, setup, undo, variants
from zfsganeti.answer import VERBS
from zfsganeti.errors import EXIT_STATUS, CommandFailed
from zfsganeti.shapes import understood

GARBAGE: tuple[Any, ...] = (
    7,
    None,
    "x",
    True,
    [],
    {},
    [7],
    {"x": 7},
    [[]],
    {"node": "node2"},
    {"problem": ""},
    [{"name": 7}],
    -1.5,
    "\0\n",
)
COMMANDS = (
    "list",
    "check",
    "check --repair --yes",
    "trash list",
    "trash restore web2",
    "trash empty --yes --node node2",
    "image list --all-nodes",
    "image show debian-12",
    "image push debian-12 node2",
    "snapshot list",
    "snapshot create web2 s",
    "snapshot rollback --yes web2 s",
    "move --yes web1 node2",
    "move --yes web2 node1",
    "move --dry-run --from node2",
    "detach web2",
    "adopt --list",
    "setup --yes --directory {root} zfs/vm",
    "setup --yes --directory {place}/other zfs/vm node2=zfs/other",
    "image pull fedora",
    "image pull debian",
    "image copy fedora",
    "image save web2/0 web:1",
    "image retire --all-nodes fedora",
    "image delete --yes --all-nodes fedora",
    "disk swap --yes web2/0",
    "disk fill --yes web2/0 /srv/rescue",
    "snapshot delete --yes web2 s",
    "snapshot clone web2 s web9",
    "snapshot rollback --yes --discard web2 s",
    "adopt web4",
    "adopt --yes -t ext web4",
    "trash restore old1",
    "trash restore old2",
    "trash restore old2 --as new2",
    "trash restore old3 --into web3",
)
# of these the peer does get a stream, for which it is not asked here, once what it has told before is well enough
SENT = ("image push debian-12 node2", "move --yes web1 node2", "move --yes web2 node1")
DRY = ("move --dry-run web1 node2", "move --dry-run web2 node1", "move --abort --dry-run web2", "snapshot rollback --dry-run web2 s")
TOLD: dict[str, Any] = {  # what nodes in one process, and without LVM, cannot be asked for
    "image-push": None,
    "adopt-facts": {
        "sizes": [1 << 20], "free": {"loop": 1 << 40}, "available": 1 << 40, "used": 0, "root": "zfs/vm", "drbd": {}, "claims": {"x": []},
    },
}  # fmt: skip


def build(place: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Two nodes with an instance each and something removed, one with a disk that is to be one's own, and images; Ganeti denies all."""

    def deny(*words: str, **_options: Any) -> str:
        raise CommandFailed(" ".join(words[:2]), 1, "denied by a test")

    made = make_rig(place, monkeypatch)
    for number, node in ((1, "node1"), (2, "node2")):
        knot = made.knots[node]
        made.ganeti.add(f"old{number}", "file", node, {f"o{number}.file.disk0": b"old"}, up=False)
        knot.trash.put(f"old{number}", made.ganeti.instances()[f"old{number}"].record())
        made.ganeti.add(f"web{number}", "file", node, {f"u{number}.file.disk0": (b"one", b"two")[number - 1]}, up=False)
    made.ganeti.add("old3", "ext", "node2", {"o3.ext.disk0": b"old"}, up=False)
    made.knots["node2"].volumes.remove("o3.ext.disk0")
    made.ganeti.add("web3", "ext", "node2", {"u3.ext.disk0": b"three"}, up=False)
    for name in ("old1", "old2", "old3"):
        del made.ganeti.data[name]
    made.ganeti.data["web4"] = {"kind": "plain", "primary": "node2", "disks": ["u4"], "up": False}
    made.knots["node2"].fake.snapshot(["zfs/vm/web2@gnt-s"])
    made.master.images.make("debian-12", "file:/x", holding())
    made.knots["node2"].images.make("fedora", "file:/y", holding())
    vars(made.ganeti).update(networks=dict, macs=set, groups=dict, cluster=lambda: {"enabled_disk_templates": ["file", "ext"]})
    for knot in made.knots.values():
        vars(knot.ssconf).update(instances=list(made.ganeti.data), release=(3, 1))
    for room in (undo, exchange, setup):
        monkeypatch.setattr(room, "run", deny)
    monkeypatch.setattr(setup, "apply_step", deny)
    monkeypatch.setattr(variants, "LIST", str(place / "variants.list"))
    monkeypatch.setattr(cli, "Here", lambda _verbs: made.master)
    monkeypatch.setattr(here, "Here", lambda _verbs: made.master)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return build(tmp_path, monkeypatch)


def everything(rig: Rig) -> tuple[Any, ...]:
    """Return what no answer of a peer may change: all that it has itself, and what instances and the trash hold here."""
    kept = {entry.entry: rig.master.fake.files(entry.dataset.name) for entry in rig.master.trash.entries()}
    return rig.knots["node2"].fake.state(), kept, [rig.content(name) for name in ("web1", "web2", "web3")]


def answering(rig: Rig, monkeypatch: pytest.MonkeyPatch, answers: Callable[[str], Any]) -> None:
    """One node answers what it is told to."""

    def call(knot: Knot, who: str, verb: str, **request: Any) -> Any:
        return understood(who, verb, copy.deepcopy(answers(verb))) if who == "node2" else ask(knot, who, verb, **request)

    ask = type(rig.master).call
    monkeypatch.setattr(type(rig.master), "call", call)
    monkeypatch.setattr(type(rig.master), "listen", lambda knot, who, verb, _hear, **request: call(knot, who, verb, **request))


def ends_in_lines(rig: Rig, capsys: pytest.CaptureFixture[str], line: str, what: str, *, whole: bool = False) -> None:
    """The command ends with a status that is known, says why, and nothing is changed by it; of `whole` garbage it says whose it is."""
    words = line.format(root=rig.master.root.path, place=rig.place).split()
    before = everything(rig)
    with watch.over(str(rig.place)):
        status = cli.main(words)
    said = capsys.readouterr()
    assert status in EXIT_STATUS, said
    assert "Traceback" not in said.err
    assert not whole or "please report this" not in said.err, f"{line}: {what}: {said.err}"
    assert status == 0 or said.err.strip() or said.out.strip(), f"{line}: {what}: ends with {status} and says nothing"
    assert everything(rig) == before, f"{line}: {what}"


@pytest.mark.parametrize("line", COMMANDS)
def test_a_peer_that_answers_garbage_ends_in_lines(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    for garbage in GARBAGE:
        with monkeypatch.context() as patch:
            answering(rig, patch, dict.fromkeys(VERBS, garbage).get)
            ends_in_lines(rig, capsys, line, repr(garbage), whole=True)


# what is garbled within


WRONG: tuple[Any, ...] = (None, 7, "x", [], {}, True, [7], {"x": 7}, -1.5, "\0\n")


def paths(answer: Any) -> Iterator[tuple[Any, ...]]:
    """Yield where something is in an answer, of each list in the first of its elements."""
    keys: list[Any] = list(answer) if isinstance(answer, dict) else [0] if isinstance(answer, list) and answer else []
    for key in keys:
        yield (key,)
        yield from ((key, *rest) for rest in paths(answer[key]))


def spoiled(answer: Any, start: int) -> Iterator[tuple[str, Any]]:
    """Yield an answer with one thing in it that is of another kind, and what that is; of a long one not as many, others for each start."""
    whole = list(paths(answer))
    for number, path in enumerate(whole, start):
        for step in (0, 3) if len(whole) < 40 else (0,):
            found, wrong = copy.deepcopy(answer), WRONG[(number + step) % len(WRONG)]
            inner = found
            for key in path[:-1]:
                inner = inner[key]
            if type(inner[path[-1]]) is not type(wrong):
                inner[path[-1]] = wrong
                yield f"{path}: {wrong!r}", found


def heard(place: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> dict[str, Any]:
    """Return what a node answers to each verb that a command asks it for, when all is well."""
    rig, found = build(place, monkeypatch), dict[str, Any]()
    ask = type(rig.master).call

    def call(knot: Knot, who: str, verb: str, **request: Any) -> Any:
        said = TOLD[verb] if verb in TOLD else ask(knot, who, verb, **request)
        if who == "node2":
            found.setdefault(verb, said)
        return said

    with monkeypatch.context() as patch:
        patch.setattr(type(rig.master), "call", call)
        cli.main(line.format(root=rig.master.root.path, place=place).split())
    return copy.deepcopy(found)


@pytest.mark.parametrize("line", [*(line for line in COMMANDS if line not in SENT), *DRY])
def test_a_peer_that_garbles_something_within_its_answer_ends_in_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    told = heard(tmp_path / "well", monkeypatch, line)
    capsys.readouterr()
    rig = build(tmp_path / "ill", monkeypatch)
    for verb, answer in told.items():
        for what, wrong in spoiled(answer, len(line)):
            with monkeypatch.context() as patch:
                answering(rig, patch, {**told, verb: wrong}.get)
                ends_in_lines(rig, capsys, line, f"{verb}: {what}")


# hooks that ask a peer


MODIFY = {"disks": [["remove", 0, {}]]}
HOOKS: dict[str, tuple[str, str, dict[str, str], dict[str, Any], tuple[type, ...]]] = {  # with what the peer may answer
    "remove": ("instance-remove-pre", "web2", {}, {}, (bool,)),
    "export": ("instance-export-pre", "web2", {"GANETI_REMOVE_INSTANCE": "True"}, {}, (bool,)),
    "convert": ("instance-modify-pre", "web2", {"GANETI_NEW_DISK_TEMPLATE": "plain"}, {}, (bool,)),
    "remove a disk": ("instance-modify-pre", "web2", {}, MODIFY, ()),
    "add a disk": ("instance-modify-pre", "web2", {}, {"disks": [["add", -1, {"size": 1}]]}, (type(None),)),
    "reinstall": ("instance-reinstall-pre", "web2", {}, {}, (str, type(None))),
    "remove volumes": ("instance-remove-pre", "web3", {}, {}, (list,)),
    "export volumes": ("instance-export-pre", "web3", {"GANETI_REMOVE_INSTANCE": "True"}, {}, (list,)),
    "reinstall volumes": ("instance-reinstall-pre", "web3", {}, {}, (type(None),)),
    "recreate volumes": ("instance-recreate-disks-pre", "web3", {}, {}, ()),  # of a list it is believed that the volume is there
    "fail over": ("instance-failover-pre", "web3", {"GANETI_NEW_PRIMARY": "node2"}, {}, (list,)),
    "migrate": ("instance-migrate-pre", "web3", {"GANETI_NEW_PRIMARY": "node2"}, {}, (list,)),
}


@pytest.mark.parametrize("what", list(HOOKS))
def test_a_hook_goes_on_only_when_a_peer_has_answered_as_it_should(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Ganeti is about to remove, overwrite or leave disks, and what would keep them was not done."""
    hook, name, more, opcode, kinds = HOOKS[what]
    path, _dash, phase = hook.rpartition("-")
    known = rig.ganeti.data[name]
    disk = known["disks"][0] if known["kind"] == "ext" else f"{rig.master.root.path}/{name}/{known['disks'][0]}"  # the same on each node
    environ = {**rig.ganeti._environ(name, known, path), "GANETI_HOOKS_PHASE": phase, "GANETI_INSTANCE_DISK0_ID": disk, **more}
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(rig.ganeti, "running", lambda _operation, _instance: opcode)
    before = everything(rig)
    for garbage in GARBAGE:
        with monkeypatch.context() as patch:
            answering(rig, patch, dict.fromkeys(VERBS, garbage).get)
            with watch.over(str(rig.place)):
                status = hooks.main()
        said = capsys.readouterr().out
        assert status == 1 or isinstance(garbage, kinds), f"{garbage!r}: nothing keeps Ganeti from going on"
        assert said.count("\n") == status, said
        assert not status or said.startswith(f"{os.uname().nodename.split('.')[0]}: "), said
        assert everything(rig) == before
