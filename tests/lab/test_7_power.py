"""A node loses its power: its pool is as it was, and what was under way ends right when it is repeated."""

from __future__ import annotations

import json

import pytest

from .conftest import Lab


@pytest.mark.on("bookworm")
def test_a_node_that_was_cut_off_comes_back_with_its_instances(lab: Lab) -> None:
    lab.add("web1")
    sums = lab.fill("web1")
    lab.add_ext("vol")
    volume_sums = lab.fill_volumes("vol")
    lab.add("gone")
    kept = lab.fill("gone")
    # aside, as in the middle of a removal
    files = json.dumps([path.rsplit("/", 1)[1] for path in lab.disks("gone")])
    lab.node2.run(f'echo \'{{"instance": "gone", "intent": "remove", "files": {files}}}\' | gnt-zfs node aside')
    lab.node2.run("zpool sync")
    lab.node2.kill()
    lab.cluster.boot(lab.node2)
    lab.node2.wait("zpool list zfs")
    lab.node2.wait("pgrep -f ganeti-noded || { /usr/lib/ganeti/daemon-util start-all; false; }")
    assert lab.sums("web1") == sums
    lab.master.wait("gnt-zfs check --repair")
    assert lab.sums("gone") == kept
    assert lab.mounted("gone")
    assert "org.zfsganeti:intent" not in lab.node2.run("zfs get -H -s local -o property all zfs/vm/gone")
    assert lab.volume_sums("vol") == volume_sums
    lab.run("gnt-instance start vol")
    (volume,) = lab.volumes("vol")
    assert lab.node2.run(f"sha256sum < /dev/zfsganeti/{volume}").split()[0] == volume_sums[0]
