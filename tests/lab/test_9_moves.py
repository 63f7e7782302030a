"""gnt-zfs move: running instances to other nodes with all that they have, and whatever breaks on the way, the same command ends it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest

from .conftest import DIRECTORY, ROOTS, Lab
from .host import run as on_host
from .machine import Done, Machine
from .test_9_catalogue import SOURCE

MIB = 1 << 20


def snapshots(lab: Lab, name: str, node: str) -> dict[str, str]:
    """Return the GUID of each snapshot of a dataset that others took."""
    lines = lab.node(node).run(f"zfs list -Hp -t snapshot -o name,guid -r {ROOTS[node]}/{name}").splitlines()
    rows = (line.split("\t") for line in lines)
    return {full.partition("@")[2]: guid for full, guid in rows if "@autosnap" in full}


def primary(lab: Lab, name: str) -> str:
    return lab.run(f"gnt-instance list --no-headers -o pnode {name}").strip().split(".")[0]


def runs(lab: Lab, name: str, node: str) -> bool:
    return lab.run(f"gnt-instance list --no-headers -o status,pnode {name}").split() == ["running", f"{node}.example.com"]


def move(lab: Lab, words: str) -> list[dict[str, object]]:
    said = lab.run(f"gnt-zfs move --yes --json {words} 2>/tmp/move.log || {{ cat /tmp/move.log >&2; false; }}")
    found: list[dict[str, object]] = json.loads(said)
    return found


def nothing_left(lab: Lab) -> None:
    """No mark, hold, snapshot or half-received dataset of a move is on any node."""
    for node in lab.nodes:
        root = ROOTS[node.name]
        assert node.run(f"zfs get -H -s local -o name -t filesystem -r org.zfsganeti:move {root}") == ""
        assert "zfsganeti-move" not in node.run(f"zfs list -H -o name -t snapshot -r {root} | grep -v /.trash/ || true")
        assert node.run(f"zfs list -Hp -o userrefs -t snapshot -r {root} | grep -v '^0$' || true") == ""
        assert [name for name in lab.datasets(node.name) if name.startswith(".moving/")] == []


@pytest.mark.on("trixie")
def test_running_instances_move_with_all_that_they_have(lab: Lab) -> None:
    lab.add("web1", disks=("64M", "32M"))
    sums = lab.fill("web1")
    lab.run("gnt-instance start web1")
    lab.node2.run("cd /; zfs snapshot zfs/vm/web1@autosnap_1; zfs set com.sun:auto-snapshot=false recordsize=16k zfs/vm/web1")
    lab.node2.run(f"echo more > {DIRECTORY}/web1/note; zfs snapshot zfs/vm/web1@autosnap_2")
    before = snapshots(lab, "web1", "node2")

    said = lab.run("gnt-zfs move --dry-run web1 node3")
    assert "web1 (file) goes from node2.example.com to node3.example.com: 1 dataset" in said
    assert lab.datasets("node3") == []
    (result,) = move(lab, "web1 node3")
    assert runs(lab, "web1", "node3")
    assert lab.sums("web1", "node3") == sums
    assert snapshots(lab, "web1", "node3") == before
    assert result["downtime"]
    values = lab.node3.run("zfs get -Hp -o value readonly,canmount,com.sun:auto-snapshot,recordsize tank/vm/web1").split()
    assert values == ["off", "on", "false", "16384"]
    assert [name.split(":")[0] for name in lab.trash()] == ["web1"]
    nothing_left(lab)
    assert "web1: is on node3.example.com already" in lab.fails("gnt-zfs move --yes web1 node3")

    # volumes: one is a clone of an image that the target must have
    lab.node2.run(SOURCE)
    lab.node2.run("gnt-zfs image import debian-12 /tmp/debian.qcow2.xz")
    lab.add_ext("vol", disks=("96M,image=debian-12", "32M"))
    lab.run("gnt-instance start vol")
    sums = lab.fill_volumes("vol")
    volumes = lab.volumes("vol")
    said = lab.fails("gnt-zfs move --yes vol node3")
    assert f"{volumes[0]} of vol: is a clone of image debian-12, which node3.example.com lacks: gnt-zfs image push debian-12" in said
    assert "--full sends all of it" in said
    lab.node2.run("gnt-zfs image push debian-12 node3")
    (result,) = move(lab, "vol node3")
    assert runs(lab, "vol", "node3")
    assert lab.volume_sums("vol", "node3") == sums
    assert lab.node3.run(f"zfs get -H -o value origin tank/vm/{volumes[0]}").strip() == "tank/vm/.images/debian-12@golden"
    assert isinstance(result["moved"], int)
    assert result["moved"] < 2 * MIB, "the image went along"
    nothing_left(lab)
    lab.well()


def begun(lab: Lab, words: str, name: str, target: str = "node3", least: int = 20) -> str:
    """A move is at work on the master and some MiB have come to the target; return the mover's process."""
    lab.run(f"setsid gnt-zfs move --yes --json {words} > /tmp/moved.json 2>/tmp/move.log < /dev/null & echo $! > /tmp/mover")
    place = f"{ROOTS[target]}/.moving/{name}"
    lab.node(target).wait(f'test "$(zfs list -Hp -o used {place})" -gt {least * MIB}')
    return lab.run("cat /tmp/mover").strip()


def ended(lab: Lab, pid: str) -> Done:
    lab.master.wait(f"test ! -d /proc/{pid}", seconds=200)
    return lab.master.execute("cat /tmp/move.log /tmp/moved.json")


def big(lab: Lab, size: int = 160) -> list[str]:
    """A running instance has a disk with so many MiB of noise; return its checksums."""
    lab.add("web1", disks=("256M",))
    (disk,) = lab.disks("web1")
    lab.node2.run(f"dd if=/dev/urandom of={disk} bs=1M count={size} conv=notrunc status=none; sync -f {disk}")
    lab.run("gnt-instance start web1")
    return lab.sums("web1")


def goes_on(lab: Lab, sums: list[str]) -> None:
    """The same command ends the move, from where it was interrupted."""
    (result,) = move(lab, "web1 node3")
    assert runs(lab, "web1", "node3")
    assert lab.sums("web1", "node3") == sums
    assert isinstance(result["moved"], int)
    assert result["moved"] < 130 * MIB, "it began anew"
    nothing_left(lab)
    lab.well()


def break_the_mover(lab: Lab, pid: str) -> None:
    lab.run(f"kill -9 {pid}")
    lab.master.wait(f"test ! -d /proc/{pid}")


def lose_power(lab: Lab, node: Machine) -> None:
    """What was written is on the pool; the node was off for a moment and runs again, with its pool and its daemons."""
    node.run("zpool sync")
    node.kill()
    time.sleep(1)
    lab.cluster.boot(node)
    node.wait(f"zpool list {ROOTS[node.name].partition('/')[0]}")
    node.wait("pgrep -f ganeti-noded || { /usr/lib/ganeti/daemon-util start-all; false; }")


def break_the_source(lab: Lab, pid: str) -> None:
    lose_power(lab, lab.node2)
    lab.master.wait(f"test ! -d /proc/{pid}", seconds=200)
    lab.master.wait("gnt-instance list --no-headers -o status web1 | grep -qv nodedown")
    if not runs(lab, "web1", "node2"):
        lab.run("gnt-instance start web1")  # as Ganeti's watcher does


def break_the_target(lab: Lab, _pid: str) -> None:
    lose_power(lab, lab.node3)


def break_the_link(lab: Lab, pid: str) -> None:
    on_host("ip", "-n", lab.cluster.namespace, "link", "set", "tap3", "down")
    try:
        lab.master.wait(f"test ! -d /proc/{pid}", seconds=200)
    finally:
        on_host("ip", "-n", lab.cluster.namespace, "link", "set", "tap3", "up")
    lab.node3.wait("true")


@pytest.mark.parametrize(
    "breaks",
    [
        pytest.param(break_the_mover, marks=pytest.mark.on(), id="mover"),
        pytest.param(break_the_source, marks=pytest.mark.on(), id="source"),
        pytest.param(break_the_target, marks=pytest.mark.on(), id="target"),
        pytest.param(break_the_link, marks=pytest.mark.on(), id="link"),
    ],
)
def test_what_breaks_in_the_middle_of_the_sending_is_gone_on_with(lab: Lab, breaks: Callable[[Lab, str], None]) -> None:
    sums = big(lab)
    pid = begun(lab, "--bwlimit 6 web1 node3", "web1", least=30)
    breaks(lab, pid)
    ended(lab, pid)
    assert runs(lab, "web1", "node2")
    assert lab.sums("web1") == sums
    goes_on(lab, sums)


MORE = "ssh node2.example.com 'dd if=/dev/urandom of={} bs=1M count=24 conv=notrunc,fsync status=none'\n"
QUOTA = "zfs set quota=$(($(zfs get -Hp -o value used tank/vm) + (8 << 20))) tank/vm"
CUT = "ssh node3.example.com 'ip route add blackhole $(getent hosts node2.example.com | cut -d\" \" -f1)'\n"
MENDED = "ip route flush type blackhole; zfs set quota=none tank/vm"


@pytest.mark.on()
@pytest.mark.parametrize("breaks", ["target is full", "link is cut"])
def test_what_breaks_while_the_instance_is_down_has_it_run_again_where_it_was(lab: Lab, breaks: str) -> None:
    """What a hook of Ganeti's does once the instance is stopped comes before the last pass."""
    lab.add("web1", disks=("64M",))
    lab.fill("web1")
    (disk,) = lab.disks("web1")
    lab.run("gnt-instance start web1")
    script = f"{MORE.format(disk)}ssh node3.example.com '{QUOTA}'\n" if breaks == "target is full" else CUT
    lab.run("mkdir -p /etc/ganeti/hooks/instance-stop-post.d")
    lab.master.write("/etc/ganeti/hooks/instance-stop-post.d/zzz-break", f"#!/bin/sh\n{script}touch /tmp/broken\n", "755")
    said = lab.master.execute("gnt-zfs move --yes web1 node3", seconds=600)
    lab.run("rm /etc/ganeti/hooks/instance-stop-post.d/zzz-break /tmp/broken")
    assert said.status != 0, said.said
    assert "starting it again on node2.example.com" in said.said
    assert "Traceback" not in said.said
    assert ("gnt-zfs trash empty may make room" if breaks == "target is full" else "node3.example.com") in said.said
    assert runs(lab, "web1", "node2")
    sums = lab.sums("web1")

    lab.node3.run(MENDED)
    move(lab, "web1 node3")
    assert runs(lab, "web1", "node3")
    assert lab.sums("web1", "node3") == sums
    nothing_left(lab)
    lab.well()


KILL = "#!/bin/sh\nkill -9 $(cat /tmp/mover) && touch /tmp/killed\n{}"


def killed_at_the_switch(lab: Lab, name: str, hook: str, then: str) -> None:
    """A hook of Ganeti's, which runs on the master when the primary is to change, has killed the mover."""
    lab.run(f"mkdir -p /etc/ganeti/hooks/{hook}.d")
    lab.master.write(f"/etc/ganeti/hooks/{hook}.d/zzz-kill", KILL.format(then), "755")
    try:
        lab.run(f"rm -f /tmp/killed; setsid gnt-zfs move --yes {name} node3 > /tmp/move.log 2>&1 < /dev/null & echo $! > /tmp/mover")
        lab.master.wait("test ! -d /proc/$(cat /tmp/mover)", seconds=300)
        assert lab.master.execute("test -e /tmp/killed").status == 0, lab.run("cat /tmp/move.log")
        lab.master.wait('test -z "$(gnt-job list --no-headers --running -o id)"')
    finally:
        lab.run(f"rm /etc/ganeti/hooks/{hook}.d/zzz-kill")


@pytest.mark.parametrize("kind", [pytest.param("file", marks=pytest.mark.on()), pytest.param("ext", marks=pytest.mark.on())])
def test_a_mover_killed_at_the_switch_leaves_one_node_to_start_on(lab: Lab, kind: str) -> None:
    add, fill, sums_of = (lab.add, lab.fill, lab.sums) if kind == "file" else (lab.add_ext, lab.fill_volumes, lab.volume_sums)
    add("web1", disks=("64M", "32M"))
    sums = fill("web1")
    lab.run("gnt-instance start web1")

    # before the switch the instance is started where it was, or the move is gone on with
    killed_at_the_switch(lab, "web1", "instance-modify-pre", "echo denied by a test; exit 1\n")
    assert primary(lab, "web1") == "node2"
    said = lab.master.wait("! gnt-zfs check > /tmp/said 2>&1 && cat /tmp/said")  # a moment later: its ssh may outlive the mover
    assert "web1 was stopped for a move to node3.example.com that has not ended: gnt-zfs move web1 node3.example.com goes on" in said
    lab.run("gnt-instance start web1")
    assert sums_of("web1") == sums
    sums = fill("web1")

    # after the switch the target's copy lands when it is started, unless the source cannot be asked
    killed_at_the_switch(lab, "web1", "instance-modify-post", "")
    assert primary(lab, "web1") == "node3"
    lab.node2.run("mv /usr/sbin/gnt-zfs /usr/sbin/gnt-zfs.away")
    try:
        said = lab.fails("gnt-instance start web1")
    finally:
        lab.node2.run("mv /usr/sbin/gnt-zfs.away /usr/sbin/gnt-zfs")
    assert "node3: web1: whether node2.example.com has written to its disks since they were sent is not known" in said
    assert "gnt-zfs move web1 node3.example.com goes on" in said
    assert "the move of web1 to here has not ended" in lab.fails("gnt-zfs check")
    assert "gnt-zfs move web1 node3.example.com ends that" in lab.fails("gnt-zfs move --abort web1")
    lab.run("gnt-instance start web1")
    assert sums_of("web1", "node3") == sums
    assert "was not put into the trash after the move" in lab.fails("gnt-zfs check")
    lab.run("gnt-zfs move --yes web1 node3")
    assert runs(lab, "web1", "node3")
    assert sums_of("web1", "node3") == sums
    nothing_left(lab)
    lab.well()


@pytest.mark.on()
def test_what_cannot_move_says_so_and_what_was_begun_can_be_taken_back(lab: Lab) -> None:
    lab.add("web1")
    sums = lab.fill("web1")
    lab.run("gnt-instance start web1")
    lab.run(lab.add_command("away", disks=("32M",)).replace("-t file", "-t plain"))
    assert "disk 0 of away: is -t plain and not ours" in lab.fails("gnt-zfs move --yes away node3")
    assert "works on the master node only" in lab.node2.fails("gnt-zfs move --yes web1 node3")
    lab.node3.run("zfs create tank/vm/web1")
    assert "dataset tank/vm/web1 on node3.example.com: stands where the instance's belongs" in lab.fails("gnt-zfs move --yes web1 node3")
    lab.node3.run("zfs destroy tank/vm/web1; zfs set quota=200K tank/vm")
    assert "asked for" in lab.fails("gnt-zfs move --yes web1 node3")
    lab.node3.run("zfs set quota=none tank/vm")

    # ahead, then taken back
    lab.run("gnt-zfs move --yes --presync-only web1 node3")
    assert runs(lab, "web1", "node2")
    assert re.search("held|busy", lab.node2.fails("zfs destroy zfs/vm/web1@zfsganeti-move-1"))  # ZFS 2.1 does not say why
    lab.well()
    assert "goes away, with" in lab.run("gnt-zfs move --abort --dry-run web1")
    assert "nobody can be asked" in lab.fails("gnt-zfs move --abort web1 < /dev/null")
    lab.run("gnt-zfs move --abort --yes web1")
    nothing_left(lab)
    assert lab.sums("web1") == sums

    # the switch is vetoed in the middle of the downtime: the instance runs again where it was
    lab.run("gnt-zfs move --yes --presync-only web1 node3")
    for node, name in (("node2", "web1"), ("node3", ".moving/web1")):  # as zfs-auto-snapshot does, on each node by itself
        lab.node(node).run(f"zfs snapshot {ROOTS[node]}/{name}@autosnap_same")
    lab.deny("instance-modify-pre")
    said = lab.fails("gnt-zfs move --yes web1 node3")
    lab.allow("instance-modify-pre")
    assert "starting it again on node2.example.com" in said
    assert runs(lab, "web1", "node2")
    assert lab.sums("web1") == sums
    assert snapshots(lab, ".moving/web1", "node3") == snapshots(lab, "web1", "node2")

    # all of a node
    lab.add_ext("vol", disks=("32M",))
    volume_sums = lab.fill_volumes("vol")
    lab.run("gnt-instance remove -f away")
    said = lab.run("gnt-zfs move --yes --from node2 --keep-source node1 node3")
    assert primary(lab, "web1") != "node2"
    assert primary(lab, "vol") != "node2"
    assert lab.sums("web1", primary(lab, "web1")) == sums
    assert lab.volume_sums("vol", primary(lab, "vol")) == volume_sums
    assert said.count(" moved\n") == 2
    assert lab.run("gnt-zfs trash list").count("it is emptied") == 2
    nothing_left(lab)
    lab.well()


@pytest.mark.on()
def test_a_source_that_is_lost_before_all_has_come_is_done_without(lab: Lab) -> None:
    """As docs/moves.md says, and nothing of what has come is destroyed before that."""
    lab.add("web1")
    lab.add_ext("vol", disks=("32M",))
    sums, volume_sums = lab.fill("web1"), lab.fill_volumes("vol")
    (volume,) = lab.volumes("vol")
    for name in ("web1", "vol"):
        lab.run(f"gnt-zfs move --yes --presync-only {name} node3")
    lab.run("gnt-node modify --offline=yes node2")
    for name, dataset in (("web1", "web1"), ("vol", volume)):
        lab.run(f"gnt-instance modify --new-primary=node3 {name}")
        for command in (f"gnt-instance start {name}", f"gnt-zfs move --yes {name} node3", f"gnt-zfs move --abort --yes {name}"):
            said = lab.fails(command)
            assert "has not come wholly from node2.example.com, which is offline" in said, command
            assert f"says how to make do with tank/vm/.moving/{dataset}" in said, command
    lab.master.execute("gnt-zfs check --repair")
    assert {".moving/web1", f".moving/{volume}"} <= set(lab.datasets("node3"))
    lab.node3.run("zfs rename tank/vm/.moving/web1 tank/vm/web1; zfs set org.zfsganeti:instance=web1 tank/vm/web1")
    lab.node3.run(f"zfs rename tank/vm/.moving/{volume} tank/vm/{volume}; zfs set org.zfsganeti:instance=vol tank/vm/{volume}")
    lab.node3.run(f"zfs set org.zfsganeti:volume={volume} tank/vm/{volume}")
    for name in ("web1", "vol"):
        lab.run(f"gnt-instance start {name}")
        assert runs(lab, name, "node3")
    assert lab.sums("web1", "node3") == sums
    assert lab.volume_sums("vol", "node3") == volume_sums
    lab.run("gnt-node modify -f --offline=no --auto-promote node2")


@pytest.mark.on()
def test_a_target_that_is_full_in_the_middle_and_a_downtime_that_is_too_long(lab: Lab) -> None:
    sums = big(lab)
    said = lab.fails("gnt-zfs move --yes --max-downtime 1 web1 node3")
    assert "longer than --max-downtime" in said
    assert runs(lab, "web1", "node2")
    lab.run("gnt-zfs move --abort --yes web1")
    nothing_left(lab)

    pid = begun(lab, "--bwlimit 6 web1 node3", "web1", least=30)
    lab.node3.run("zfs set quota=$(($(zfs get -Hp -o value used tank/vm) + (20 << 20))) tank/vm")
    said = ended(lab, pid).stdout
    assert "the pool or a quota is full: gnt-zfs trash empty may make room" in said
    assert runs(lab, "web1", "node2")
    lab.node3.run("zfs set quota=none tank/vm")
    goes_on(lab, sums)


@pytest.mark.on()
def test_encrypted_disks_in_another_datastore_move_to_where_they_stay_encrypted(lab: Lab) -> None:
    create = "zfs create -o mountpoint=/{0} {1} {2}/{0} {3}"
    encrypted = "-o encryption=on -o keyformat=passphrase"
    lab.node2.run(create.format("safe", encrypted, "zfs", "<<< 'a long passphrase'"))
    lab.node3.run(create.format("safe", "", "tank", ""))
    lab.configure("datastores = safe=zfs/safe\n", "node2")
    lab.configure("datastores = safe=tank/safe\n", "node3")
    lab.add_ext("vol", disks=("64M,datastore=safe", "32M"))
    lab.run("gnt-instance start vol")
    (one,) = [name for name in lab.node2.run("ls /dev/zfsganeti").split() if name.endswith("disk0")]
    (two,) = lab.volumes("vol")
    texts = {name: f"{name} is what it was" for name in (one, two)}
    for name, text in texts.items():
        lab.node2.run(f"echo {text} | dd of=/dev/zfsganeti/{name} conv=notrunc,fsync status=none")

    lab.node2.run("echo secret > /tmp/secret.raw; truncate -s 8M /tmp/secret.raw")
    lab.node2.run("gnt-zfs image import --datastore safe secret /tmp/secret.raw; gnt-zfs image import open /tmp/secret.raw")

    said = lab.fails("gnt-zfs move --yes vol node3")
    assert f"dataset zfs/safe/{one}: is encrypted and tank/safe on node3.example.com is not" in said
    said = lab.node2.fails("gnt-zfs image push secret node3")
    assert "image secret: is encrypted, and its root on node3.example.com is not: gnt-zfs image import makes one there" in said
    assert "image secret: is encrypted, and its root zfs/vm is not" in lab.node2.fails("gnt-zfs image copy secret --datastore ''")
    assert lab.node3.run("zfs list -H -o name -r tank") == "tank\ntank/safe\ntank/vm\n"
    assert runs(lab, "vol", "node2")
    lab.node3.run("zfs destroy tank/safe")
    lab.node3.run(create.format("safe", encrypted, "tank", "<<< 'another passphrase'"))
    move(lab, "vol node3")
    assert runs(lab, "vol", "node3")
    for name, text in texts.items():
        assert lab.node3.run(f"head -n 1 /dev/zfsganeti/{name}").strip("\0\n") == text
    assert lab.node3.run(f"zfs get -Hp -o value encryption tank/safe/{one}").strip() != "off"
    assert lab.node3.run(f"zfs get -Hp -o value encryption tank/vm/{two}").strip() == "off"
    lab.node2.run("gnt-zfs image push secret node3; gnt-zfs image copy open --datastore safe")
    for node, image in ((lab.node3, "tank/safe/.images/secret"), (lab.node2, "zfs/safe/.images/open")):
        assert node.run(f"zfs get -Hp -o value encryption {image}").strip() != "off"
        assert "holds what it held" in node.run(f"gnt-zfs image verify {image.rsplit('/', 1)[1]}")
    nothing_left(lab)
    lab.well()
