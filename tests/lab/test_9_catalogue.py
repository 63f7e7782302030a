"""Golden images: made of files, used as disks, sent to other nodes, never half-done and never pulled from under their clones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import DIRECTORY, Lab

HERE = Path(__file__).parent
SOURCE = (
    "cd /tmp && head -c 3M /dev/urandom > disk.raw && truncate -s 64M disk.raw && head -c 1M /dev/urandom >> disk.raw && "
    "qemu-img convert -f raw -O qcow2 -c disk.raw debian.qcow2 && xz -1 -k -f debian.qcow2 && sha256sum < debian.qcow2.xz"
)


def content(lab: Lab, volume: str, node: str = "node2") -> str:
    """Return the checksum of what an image's 65 MiB are on a volume."""
    path = f"{DIRECTORY}/{volume}/disk.raw"
    return (
        lab.node(node)
        .run(f"test ! -b /dev/zfsganeti/{volume} || blockdev --flushbufs /dev/zfsganeti/{volume}; head -c 65M {path} | sha256sum")
        .split()[0]
    )


def origin(lab: Lab, name: str, node: str = "node2") -> str:
    root = {"node3": "tank/vm"}.get(node, "zfs/vm")
    return lab.node(node).run(f"zfs get -H -o value origin {root}/{name}").strip()


@pytest.mark.on("bookworm")
def test_disks_are_clones_of_images(lab: Lab) -> None:
    checksum = lab.node2.run(SOURCE).split()[0]
    wanted = lab.node2.run("sha256sum < /tmp/disk.raw").split()[0]

    # what is wrong is refused and leaves nothing; what is right is an image, and its disks are clones
    said = lab.node2.fails(f"gnt-zfs image import debian-12 /tmp/debian.qcow2.xz --sha256 {'0' * 64}")
    assert "sha256" in said
    lab.node2.run("cd /tmp; qemu-img create -q -f qcow2 -b /etc/shadow -F raw lying.qcow2 1G; head -c 300K debian.qcow2.xz > short.xz")
    assert "backing file" in lab.node2.fails("gnt-zfs image import lying /tmp/lying.qcow2")
    lab.node2.fails("gnt-zfs image import short /tmp/short.xz")
    assert [name for name in lab.datasets() if name not in (".images", ".images/.partial")] == []
    lab.node2.run(f"gnt-zfs image import debian-12:2026-11-01 file:///tmp/debian.qcow2.xz --sha256 {checksum}")
    (image,) = json.loads(lab.node2.run("gnt-zfs image list --json"))
    assert (image["name"], image["size"], image["format"], image["sha256"]) == ("debian-12:2026-11-01", 65 << 20, "qcow2", checksum)
    lab.node2.run("gnt-zfs image verify debian-12:2026-11-01")
    lab.add_ext("web1", disks=("96M,image=debian-12", "64M,swap=yes"))
    root_disk, swap = lab.volumes("web1")
    assert content(lab, root_disk) == wanted
    assert origin(lab, root_disk) == "zfs/vm/.images/debian-12:2026-11-01@golden"
    assert lab.node2.run(f"blockdev --getsize64 /dev/zfsganeti/{root_disk}").strip() == str(96 << 20)
    assert "swap" in lab.node2.run(f"blkid -p -o value -s TYPE /dev/zfsganeti/{swap}")
    small = lab.add_command("small", disks=(), more="--disk 0:size=32M,provider=zfs,image=debian-12").replace("-t file", "-t ext")
    assert "image debian-12:2026-11-01: has 65.0M and does not fit on a disk of 32.0M: size=65M or more" in lab.fails(
        small.replace("--no-disks", "")
    )

    # the image goes to a node that lacks it, with the same GUID
    far = lab.add_command("far", node="node3", disks=(), more="--disk 0:size=96M,provider=zfs,image=debian-12").replace("-t file", "-t ext")
    assert "gnt-zfs image push debian-12 on a node that has it brings it here" in lab.fails(far.replace("--no-disks", ""))
    lab.node2.run("gnt-zfs image push debian-12 node3")
    lab.run(far.replace("--no-disks", ""))
    (volume,) = lab.volumes("far", "node3")
    assert content(lab, volume, "node3") == wanted
    everywhere = json.loads(lab.run("gnt-zfs image list --all-nodes --json"))
    assert [(row["node"], row["guid"]) for row in everywhere] == [(f"{node}.example.com", image["guid"]) for node in ("node2", "node3")]

    # on all nodes at once
    lab.node2.run("gnt-zfs image retire debian-12:2026-11-01 --all-nodes")
    assert [row["retired"] for row in json.loads(lab.run("gnt-zfs image list --all-nodes --json"))] == [True, True]
    lab.run("gnt-zfs image restore debian-12:2026-11-01 --all-nodes")
    assert [row["retired"] for row in json.loads(lab.run("gnt-zfs image list --all-nodes --json"))] == [False, False]

    # a used image is retired, not destroyed; an image of a disk holds what the disk holds
    assert "has 1 clone, such as" in lab.node2.run("gnt-zfs image delete --now debian-12:2026-11-01")
    lab.node2.run("gnt-zfs image restore debian-12:2026-11-01")
    lab.run("gnt-instance start web1")
    lab.run("gnt-zfs image save web1/0 web:1")
    lab.add_ext("copy", disks=("96M,image=web",))
    assert content(lab, lab.volumes("copy")[0]) == wanted

    # a clone becomes independent: all but the last step while it runs
    said = lab.fails("gnt-zfs detach --wait web1")
    assert "is in use; all but the latest changes are copied: the rest follows when web1 is stopped" in said
    lab.node2.run(f"echo changed | dd of=/dev/zfsganeti/{root_disk} bs=1 seek=66M conv=notrunc status=none")
    lab.run("gnt-instance stop web1")
    before = lab.volume_sums("web1")
    assert "shares blocks with nothing any more" in lab.run("gnt-zfs detach --wait web1")
    assert origin(lab, root_disk) == "-"
    assert lab.volume_sums("web1") == before
    lab.run("gnt-instance start web1")
    assert "is gone" in lab.node2.run("gnt-zfs image delete --now --yes debian-12:2026-11-01")
    lab.well()


@pytest.mark.on()
def test_one_instance_uses_an_image_itself(lab: Lab) -> None:
    lab.node2.run(SOURCE)
    lab.node2.run("gnt-zfs image import data /tmp/disk.raw; gnt-zfs image lend data")
    lab.add_ext("owner", disks=("65M,image=data,use=persistent",))
    (volume,) = lab.volumes("owner")
    assert "used by owner alone" in lab.node2.run("gnt-zfs image list")
    lab.node2.run(f"echo mine | dd of=/dev/zfsganeti/{volume} conv=notrunc status=none")
    lab.run("gnt-instance remove -f owner")
    assert lab.trash() == []
    lab.node2.run("gnt-zfs image export data /tmp/back.raw")
    assert lab.node2.run("head -c 5 /tmp/back.raw") == "mine\n"
    lab.node2.run("mkdir -p /srv/fill/rescue; echo hello > /srv/fill/rescue/motd")
    lab.configure("fill_directories = /srv/fill\n")
    lab.add_ext("filled", disks=("64M,fill=rescue",))
    lab.unconfigure()
    (volume,) = lab.volumes("filled")
    assert lab.node2.run(f"debugfs -R 'cat motd' /dev/zfsganeti/{volume} 2>/dev/null") == "hello\n"
    lab.run("gnt-instance deactivate-disks filled")
    lab.run("gnt-zfs disk swap --yes filled/0")
    assert "swap" in lab.node2.run(f"blkid -p -o value -s TYPE {DIRECTORY}/{volume}/disk.raw")
    lab.well()


@pytest.mark.on()
def test_what_is_taken_of_a_lent_image_keeps_neither_its_disk_nor_it(lab: Lab) -> None:
    lab.node2.run(SOURCE)
    lab.node2.run("gnt-zfs image import data /tmp/disk.raw; gnt-zfs image lend data")
    lab.add_ext("owner", disks=("65M,image=data,use=persistent",))
    (volume,) = lab.volumes("owner")
    wanted = content(lab, volume)
    lab.node2.run(f"echo mine | dd of=/dev/zfsganeti/{volume} conv=notrunc status=none")
    lab.run("gnt-instance deactivate-disks owner")
    lab.run("gnt-zfs snapshot rollback --yes owner golden")
    lab.run("gnt-instance activate-disks owner")
    assert content(lab, volume) == wanted
    lab.run("gnt-zfs snapshot create owner late")
    lab.run("gnt-instance remove -f owner")
    delete = "gnt-zfs image delete --now --yes data"
    assert "has 1 snapshot that somebody took, such as gnt-late" in lab.node2.execute(f"{delete} 2>&1").stdout
    assert "ready" in lab.node2.run("gnt-zfs image list")
    assert "has the clone" in lab.node2.execute(f"{delete} --with-snapshots 2>&1").stdout, "what the rollback has put into the trash"
    lab.run("gnt-zfs trash empty --yes --with-snapshots")
    assert "data is gone" in lab.node2.run(f"{delete} --with-snapshots")
    lab.well()


@pytest.mark.on()
def test_disks_and_images_in_another_datastore(lab: Lab) -> None:
    lab.node2.run(SOURCE)
    lab.node2.run("zfs create -o mountpoint=/fast zfs/fast")
    lab.configure("datastores = ssd=zfs/fast\n")
    lab.node2.run("gnt-zfs image import --datastore ssd debian-12 /tmp/disk.raw")
    lab.add_ext("quick", disks=("65M,image=debian-12,datastore=ssd",))
    names = lab.node2.run("zfs list -H -o name,origin -r zfs/fast").splitlines()
    (volume,) = [line.split("\t")[0] for line in names if line.endswith("\tzfs/fast/.images/debian-12@golden")]
    short = volume.rsplit("/", 1)[1]
    wanted = lab.node2.run("sha256sum < /tmp/disk.raw").split()[0]
    assert lab.node2.run(f"head -c 65M /dev/zfsganeti/{short} | sha256sum").split()[0] == wanted
    assert "datastore tape: there are ssd" in lab.fails(
        lab.add_command("none", disks=(), more="--disk 0:size=65M,provider=zfs,datastore=tape")
        .replace("-t file", "-t ext")
        .replace("--no-disks", "")
    )
    # what installs an image leaves a clone in another datastore as it is
    system = lab.add_command("system", disks=(), more="--disk 0:size=65M,provider=zfs,image=debian-12,datastore=ssd")
    known = system.replace("noop+default", "zfs-image+debian-12").replace(" --no-install ", " ")
    lab.run(known.replace("-t file", "-t ext").replace("--no-disks", ""))
    names = lab.node2.run("zfs list -H -o name,origin -r zfs/fast").splitlines()
    assert len([line for line in names if line.endswith("\tzfs/fast/.images/debian-12@golden")]) == 2
    assert "is a clone of image debian-12 already" in lab.node2.run("cat /var/log/ganeti/os/add-zfs-image+debian-12-system-*")
    lab.well()
    lab.run("gnt-instance remove -f system")
    lab.run("gnt-instance remove -f quick")
    lab.run("gnt-zfs trash restore quick")
    names = lab.node2.run("zfs list -H -o name,origin -d 1 zfs/fast").splitlines()  # the other one is in the trash
    (volume,) = [line.split("\t")[0] for line in names if line.endswith("\tzfs/fast/.images/debian-12@golden")]
    lab.run("gnt-instance start quick")
    assert lab.node2.run(f"head -c 65M /dev/zfsganeti/{volume.rsplit('/', 1)[1]} | sha256sum").split()[0] == wanted
    lab.well()


@pytest.mark.on()
@pytest.mark.parametrize("kind", ["image", "moving"])
def test_what_is_not_asked_for_is_not_received(lab: Lab, kind: str) -> None:
    lab.node2.run(f"{SOURCE}; gnt-zfs image import debian-12 /tmp/disk.raw")
    lab.add("web1")
    lab.node2.run("dd if=/dev/urandom of=/zfs/vm/web1/more bs=1M count=8 status=none; zfs snapshot zfs/vm/web1@one")
    sums = lab.fill("web1")
    lab.node2.run(
        "zfs snapshot zfs/vm/web1@two; zfs send -i @one zfs/vm/web1@two > /tmp/other; zfs send -L -e -c zfs/vm/web1@two > /tmp/full"
    )
    good = "zfs/vm/.images/debian-12@golden"
    lab.node2.run(f"zfs destroy zfs/vm/web1@one,two; rm /zfs/vm/web1/more; zfs send -L -e -c {good} > /tmp/good")
    guid, before = lab.node2.run(f"zfs get -H -o value guid {good}").strip(), lab.datasets()
    lab.node2.write("/tmp/guest_streams.py", (HERE / "guest_streams.py").read_text(encoding="utf-8"))
    given = f"{kind} node3.example.com {guid} /tmp/good /tmp/other /tmp/full 1"
    assert lab.node2.run(f"python3 /tmp/guest_streams.py {given}", seconds=1200) == ""
    assert [name for name in lab.datasets() if name != ".moving"] == before
    assert lab.sums("web1") == sums
    lab.node2.run("gnt-zfs image push debian-12 node3")
    lab.node3.run("gnt-zfs image verify debian-12")
    lab.well()
