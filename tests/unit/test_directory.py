"""The cluster's file storage directory is changed while instances have disks in the former one: nothing of theirs is unlinked unkept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rig import Rig, make_rig
from zfsganeti import hooks
from zfsganeti.errors import Refused
from zfsganeti.ganeti import Event

HANDLERS = ("instance-remove-pre", "instance-rename-pre", "instance-modify-pre", "instance-reinstall-pre", "instance-export-pre")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = make_rig(tmp_path, monkeypatch)
    made.ganeti.add("web1", "file", "node1", {"a.file.disk0": b"data"}, up=False)
    made.master.config.root = made.master.root.name
    vars(made.master.ssconf)["storage_directory"] = "/srv/ganeti/file-storage"
    return made


def event(rig: Rig, hook: str, path: str = "") -> Event:
    environ = rig.ganeti._environ("web1", rig.ganeti.data["web1"], hook.removesuffix("-pre"))
    environ |= {"GANETI_INSTANCE_NEW_NAME": "web2", "GANETI_REMOVE_INSTANCE": "True"}
    return Event(environ | ({"GANETI_INSTANCE_DISK0_ID": path} if path else {}))


@pytest.mark.parametrize("hook", HANDLERS)
def test_what_is_still_in_the_former_directory_is_not_taken_for_somebody_elses(rig: Rig, hook: str) -> None:
    with pytest.raises(Refused) as caught:
        for handler in hooks.HANDLERS[hook]:
            handler(rig.master, event(rig, hook))
    former = rig.master.root.path
    assert str(caught.value) == (
        f"web1: its disks are in {former}, and the cluster's file storage directory is /srv/ganeti/file-storage: "
        f"gnt-cluster modify --file-storage-dir={former}"
    )
    assert rig.content("web1") == {"a.file.disk0": b"data"}
    assert rig.master.marks("web1").keys() == rig.master.store.marks("web1").keys(), "nothing was begun"


@pytest.mark.parametrize("hook", HANDLERS)
def test_a_root_that_nobody_has_configured_is_known_by_its_mark(rig: Rig, hook: str) -> None:
    rig.master.config.root = ""
    with pytest.raises(Refused, match=f"^web1: its disks are in {rig.master.root.path}, and the cluster's"):
        for handler in hooks.HANDLERS[hook]:
            handler(rig.master, event(rig, hook))


@pytest.mark.parametrize("hook", HANDLERS)
def test_what_was_never_in_our_root_is_left_alone(rig: Rig, hook: str) -> None:
    rig.asked.clear()
    for handler in hooks.HANDLERS[hook]:
        handler(rig.master, event(rig, hook, "/srv/other/web1/a.file.disk0"))
    assert rig.asked == []
