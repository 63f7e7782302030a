"""Debian's own Ganeti code drives the provider: it finds it whole, calls it under each verb's name, and shows what it says last."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from zfsganeti.contents import PARAMETERS
from zfsganeti.extstorage import NAMES

from .debian import SERIES, package_tree

HOUSE = Path(__file__).parents[2]
DRIVER = """
import json, os, sys
tree, provider, logs = sys.argv[1:4]
sys.path.insert(0, tree)
from ganeti import constants, errors, pathutils
from ganeti.storage import extstorage
pathutils.ES_SEARCH_PATH[:] = [provider]
pathutils.LOG_ES_DIR = logs
said = {}
good, found = extstorage.ExtStorageFromDisk("zfs")
assert good, found
said["parameters"] = [pair[0] for pair in found.supported_parameters]
scripts = [getattr(found, f"{verb}_script") for verb in json.loads(sys.argv[4])]
said["scripts"] = [os.path.basename(script) for script in scripts if script]
volume = ("zfs", "gone.ext.disk0")
try:
    extstorage.ExtStorageDevice(volume, [], 64, {"provider": "zfs"}, {}, uuid="u", name=None)
except errors.BlockDeviceError as error:
    said["attach"] = str(error)
for verb, parameters in (("create", {"colour": "red"}), ("remove", {})):
    try:
        extstorage._ExtStorageAction(getattr(constants, f"ES_ACTION_{verb.upper()}"), volume, {"provider": "zfs", **parameters}, size="64")
    except errors.BlockDeviceError as error:
        said[verb] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module", params=sorted(SERIES))
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what Ganeti made of the provider as `make install` leaves it, which here finds this checkout's library and no cluster."""
    place = tmp_path_factory.mktemp("es")
    subprocess.run(["make", "-s", "-C", str(HOUSE), "install", f"DESTDIR={place}"], check=True, capture_output=True)
    provider = place / "usr/share/ganeti/extstorage/zfs/provider"
    first, rest = provider.read_text(encoding="utf-8").split("\n", 1)
    provider.write_text(f"{first}\nimport sys; sys.path.insert(0, {str(HOUSE)!r})\n{rest}", encoding="utf-8")
    (place / "logs").mkdir()
    tree = package_tree(str(request.param)) / "usr/share/ganeti" / SERIES[str(request.param)]
    command = ["/usr/bin/python3", "-c", DRIVER, str(tree), str(provider.parents[1]), str(place / "logs"), json.dumps(NAMES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_ganeti_finds_every_verb_and_parameter(said: dict[str, Any]) -> None:
    assert said["parameters"] == list(PARAMETERS)
    assert sorted(said["scripts"]) == sorted(NAMES)


def test_ganeti_shows_the_reason(said: dict[str, Any]) -> None:
    reason = "ssconf_file_storage_dir does not exist: is this machine a node of a Ganeti cluster?"
    for verb in ("attach", "remove"):
        assert said[verb].rstrip().endswith(reason), said[verb]
    assert said["create"].rstrip().endswith(f"disk parameter colour: there are {', '.join(PARAMETERS)}")
