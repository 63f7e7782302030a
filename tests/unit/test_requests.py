"""Whatever a peer asks, the answer is a value or one line, and nothing outside the node's own place is touched."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zfsganeti
from tests.rig import Rig, make_rig
from tests.watch import watch
from zfsganeti import variants
from zfsganeti.answer import VERBS, answer

ASKED = re.compile(r"""request(?:\.get\(|\[|, )"(\w+)"|_(?:text|instance|name|number)\([^)]*"(\w+)"\)""")
SOURCES = [path.read_text(encoding="utf-8") for path in Path(zfsganeti.__file__).parent.glob("*.py")]
KEYS = sorted({word for text in SOURCES for pair in ASKED.findall(text) for word in pair if word})
CODES = {1, 2, 3, 4, 5, 6, 7}
WAITS = ("move-send",)  # which reads standard input, and ends the process
NASTY = (
    "", ".", "..", "/", "../../etc/passwd", "/etc/passwd", "web1", "web1/../x", "a@b", "-rf", "zfs/vm", "zfs", "x.ext.disk0",
    "x.ext.disk0.snap", "debian-12", "node2", "node9", "zfs/vm/web1@zfsganeti-x", "web1:20260101T000000Z", "\0", "\n", "a" * 300, "é",
    "1; reboot", "$(reboot)", "remove", "rename web2", "1", "0" * 64,
)  # fmt: skip
scalars = st.sampled_from(NASTY) | st.none() | st.booleans() | st.integers(-2, 3) | st.integers() | st.floats() | st.text(max_size=9)
values = st.recursive(scalars, lambda more: st.lists(more, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "x"]), more, max_size=3))
PLAUSIBLE: dict[str, list[Any]] = {
    "volumes": [["x.ext.disk0"]], "disks": [[0], [{"volume": "x.ext.disk0", "file": "disk.raw"}]], "files": [["x.file.disk0"]],
    "entry": ["web1:20260101T000000Z"], "entries": [["web1:20260101T000000Z"]], "instances": [["web1"], [{"name": "web1"}]],
    "kind": ["image", "file", "ext"], "datasets": [["web1"], ["x.ext.disk0"]], "names": [["debian-12"]], "guids": [{"web1": "1"}],
    "marks": [{}], "record": [{}, {"name": "web1"}], "bytes": [0, 1], "size": [1, 1 << 20], "seconds": [0, 1], "known": [{}, []],
    "paths": [["/x"]], "renames": [[["x.file.disk0", "y.file.disk0"]]], "snapshot": ["s", "zfs/vm/web1@s"], "to": ["node2"],
    "name": ["web1", "debian-12", "new"], "node": ["node2"], "target": ["node2"], "image": ["debian-12"], "volume": ["x.ext.disk0"],
    "disk": [0, "x.file.disk0"], "datastore": [""], "token": [""], "guid": ["1"], "phase": ["begin"], "creation": [1], "offset": [0],
    "intent": ["remove", "rename web2"], "change": ["retire", "delete", "rename"], "limit": [0], "number": [1], "wait": [0],
}  # fmt: skip
NEVER = {"seconds", "patience", "wait"}  # what is waited for: only what is plausible
plausible = {key: st.sampled_from(PLAUSIBLE.get(key, ["web1", True, 0])) for key in KEYS}
# as it should be, but for some of its words, which are missing or something else
changes = st.dictionaries(st.sampled_from(sorted(set(KEYS) - NEVER)), values | st.just(...), max_size=4)
requests = st.builds(
    lambda whole, changed: {key: value for key, value in {**whole, **changed}.items() if value is not ...},
    st.fixed_dictionaries(plausible),
    changes,
)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = make_rig(tmp_path, monkeypatch)
    made.ganeti.add("web1", "file", "node1", {"x.file.disk0": b"web1"}, up=False)
    made.ganeti.add("db1", "ext", "node1", {"x.ext.disk0": b"db1"}, up=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(variants, "LIST", str(tmp_path / "variants.list"))
    return made


def test_the_words_of_requests_are_known() -> None:
    assert {"instance", "volumes", "files", "entry", "image", "snapshot"} <= set(KEYS)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - set(WAITS)))
def test_any_request_is_answered_or_refused_in_one_line(rig: Rig, verb: str) -> None:
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(requests)
    def ask(request: dict[str, Any]) -> None:
        with watch.over(str(rig.place)):
            said = answer(rig.master, verb, lambda: json.dumps(request))
        assert set(said) in ({"answer"}, {"error", "code"}), said
        if "error" in said:
            assert said["code"] in CODES
            assert "\n" not in said["error"]
        json.dumps(said)

    ask()


@pytest.mark.parametrize("text", ["", "x", "[]", "7", "null", '"web1"', "{", '{"instance": NaN}', "[" * 100_000, '{"a":1}{"a":1}'])
@pytest.mark.parametrize("verb", ["aside", "images", "nonsense", "", "../report"])
def test_what_is_no_request_is_refused(rig: Rig, verb: str, text: str) -> None:
    said = answer(rig.master, verb, lambda: text)
    assert said.get("code") in (2, None), said
