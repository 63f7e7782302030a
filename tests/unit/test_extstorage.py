"""The provider as Ganeti calls it: what attach costs, what is read from the environment, and what is said last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti import extstorage
from zfsganeti.errors import BadInput, ZfsGanetiError
from zfsganeti.extstorage import NAMES, Request

HOUSE = Path(__file__).parents[2]
HEAVY = {"libzfs_core", "cffi", "subprocess", "argparse", "logging", "json", "dataclasses", "sh", "typing", "ctypes", "re", "pathlib"}
MIB = 1 << 20


def run(body: str, environ: dict[str, str]) -> tuple[int, str, str]:
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(HOUSE)!r})\n{body}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd="/")
    return done.returncode, done.stdout, done.stderr


def test_attach_of_what_is_attached_imports_next_to_nothing() -> None:
    """The kernel is asked in earnest, for a device that is not there; what follows that look is cut off."""
    body = (
        "from zfsganeti import extstorage\n"
        "extstorage._attach = lambda request: ''\n"
        "sys.argv = ['attach']\nstatus = extstorage.main()\nprint(*sorted(sys.modules))\nraise SystemExit(status)"
    )
    bare = run("print(*sorted(sys.modules))", {})
    status, output, errors = run(body, {"VOL_NAME": "x.ext.disk0"})
    assert (status, errors) == (0, "")
    loaded = set(output.split()) - set(bare[1].split())
    ours = {name for name in loaded if name.startswith("zfsganeti.")}
    assert ours == {"zfsganeti.extstorage", "zfsganeti.loop", "zfsganeti.errors", "zfsganeti.process"}
    assert not HEAVY & {name.split(".")[0] for name in loaded}


@pytest.mark.parametrize(
    ("verb", "environ", "said"),
    [
        ("attach", {}, "VOL_NAME is not set: Ganeti always sets it for this verb"),
        ("remove", {"VOL_NAME": "../x"}, "VOL_NAME is '../x': must be letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        ("burn", {"VOL_NAME": "x"}, f"verb 'burn': there are {', '.join(NAMES)}"),
    ],
)
def test_what_is_wrong_is_the_last_line_and_nothing_is_printed(verb: str, environ: dict[str, str], said: str) -> None:
    body = f"from zfsganeti.extstorage import main\nsys.argv = ['/x/{verb}']\nraise SystemExit(main())"
    assert run(body, environ) == (2, "", f"{os.uname().nodename.split('.')[0]}: {said}\n")


def test_what_ganeti_gives_is_read_as_values() -> None:
    request = Request(
        {
            "VOL_NAME": "x.ext.disk0",
            "VOL_SIZE": "10",
            "VOL_NEW_SIZE": "20",
            "VOL_METADATA": "originstname+web1.example.com",
            "VOL_SNAPSHOT_NAME": "x.ext.disk0.snap",
            "VOL_OPEN_EXCLUSIVE": "False",
            "EXTP_PROVIDER": "zfs",
            "EXTP_ACCESS": "kernelspace",
            "EXTP_RECORDSIZE": "16K",
            "PATH": "/bin",
        }
    )
    assert (request.volume, request.size, request.new_size) == ("x.ext.disk0", 10 * MIB, 20 * MIB)
    assert (request.instance, request.snapshot, request.exclusive) == ("web1.example.com", "x.ext.disk0.snap", False)
    assert request.parameters == {"recordsize": "16K"}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["VOL_NAME", "VOL_SIZE", "VOL_NEW_SIZE", "VOL_METADATA", "VOL_SNAPSHOT_NAME", "VOL_OPEN_EXCLUSIVE", "EXTP_X"]),
        st.text(max_size=30)
        | st.sampled_from(["x.ext.disk0", "0", "-1", "10", "99999999999999", "originstname+web1", "originstname+..", "True"]),
    )
)
def test_any_environment_is_values_or_bad_input(environ: dict[str, str]) -> None:
    try:
        request = Request(environ)
    except BadInput:
        return
    for name in ("volume", "size", "new_size", "instance", "snapshot", "exclusive", "parameters"):
        try:
            value = getattr(request, name)
        except BadInput:
            continue
        assert name not in ("size", "new_size") or 0 < value <= 1 << 54
        assert name not in ("volume", "snapshot", "instance") or ("/" not in value and not value.startswith("."))


def test_every_verb_of_the_interface_is_there() -> None:
    assert set(NAMES) == {"create", "attach", "detach", "remove", "grow", "setinfo", "verify", "snapshot", "open", "close"}
    with pytest.raises(ZfsGanetiError):
        extstorage.handle("attach", {})
