"""Debian's own Ganeti code reads the OS definition as `make install` leaves it: valid with any list of images, or none yet."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .debian import SERIES, package_tree

HOUSE = Path(__file__).parents[2]
DRIVER = """
import json, os, sys
tree, definitions, lists = sys.argv[1:4]
sys.path.insert(0, tree)
from ganeti import backend, pathutils
pathutils.OS_SEARCH_PATH[:] = [definitions]
said = {}
for name, text in json.loads(lists).items():
    path = f"{definitions}/zfs-image/variants.list"
    if text is not None:
        with open(os.path.realpath(path), "w") as file:
            file.write(text)
    good, found = backend._TryOSFromDisk("zfs-image")
    assert good, found
    answers = {}
    for system in ("zfs-image+debian-12:2026-11-01", "zfs-image+debian-13", "zfs-image"):
        try:
            answers[system] = backend.ValidateOS(True, system, ["parameters"], {}, False)
        except backend.RPCFail as error:
            answers[system] = str(error)
    said[name] = {"variants": found.supported_variants, "answers": answers}
said["scripts"] = [found.create_script, found.import_script, found.export_script, found.rename_script, found.verify_script]
said["versions"], said["parameters"] = found.api_versions, found.supported_parameters
print(json.dumps(said))
"""
LISTS = {"none yet": None, "empty": "", "some": "debian-12\ndebian-12:2026-11-01\n"}


@pytest.fixture(scope="module", params=sorted(SERIES))
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what Ganeti made of the definition, whose scripts here find this checkout's library."""
    place = tmp_path_factory.mktemp("os")
    subprocess.run(["make", "-s", "-C", str(HOUSE), "install", f"DESTDIR={place}"], check=True, capture_output=True)
    definition = place / "usr/share/ganeti/os/zfs-image"
    first, rest = (definition / "script").read_text(encoding="utf-8").split("\n", 1)
    (definition / "script").write_text(f"{first}\nimport sys; sys.path.insert(0, {str(HOUSE)!r})\n{rest}", encoding="utf-8")
    assert (definition / "variants.list").readlink() == Path("/var/lib/zfsganeti/variants.list")
    (definition / "variants.list").unlink()
    (definition / "variants.list").symlink_to(place / "var/lib/zfsganeti/variants.list")
    tree = package_tree(str(request.param)) / "usr/share/ganeti" / SERIES[str(request.param)]
    command = ["/usr/bin/python3", "-c", DRIVER, str(tree), str(definition.parent), json.dumps(LISTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_ganeti_finds_every_script(said: dict[str, Any]) -> None:
    assert [Path(script).name for script in said["scripts"]] == ["create", "import", "export", "rename", "verify"]
    assert (said["versions"], said["parameters"]) == ([20], [])


def test_the_images_are_the_variants(said: dict[str, Any]) -> None:
    assert said["some"]["variants"] == ["debian-12", "debian-12:2026-11-01"]
    answers = said["some"]["answers"]
    assert answers["zfs-image+debian-12:2026-11-01"] is True
    assert answers["zfs-image+debian-13"] == "OS 'zfs-image' does not support variant 'debian-13'"
    assert answers["zfs-image"] == "OS name 'zfs-image' must include a variant"


@pytest.mark.parametrize("lists", ["none yet", "empty"])
def test_without_images_the_definition_is_valid_and_installs_nothing(said: dict[str, Any], lists: str) -> None:
    assert said[lists]["variants"] == []
    answers = said[lists]["answers"]
    assert answers["zfs-image+debian-13"] == "OS 'zfs-image' does not support variants ('debian-13' passed)"
    assert "zfs-image is given with an image, such as zfs-image+NAME: gnt-zfs image list shows what there is" in answers["zfs-image"]
