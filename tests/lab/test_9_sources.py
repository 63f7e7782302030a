"""Where images come from: a web server that is slow, imports that are killed, peers that are cut, and other datastores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import DIRECTORY, Lab
from .test_9_catalogue import SOURCE, content, origin

URL = "http://node1.example.com:8000/debian.qcow2.xz"
IMPORT = f"gnt-zfs image import debian-12 {URL}"
PARTIAL = f"{DIRECTORY}/.images/.partial/debian-12"
# like python3 -m http.server, but it can go on in the middle, and waits there while /tmp/hold exists
SERVER = """
import http.server, os, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("/srv/images/" + os.path.basename(self.path), "rb") as file:
            size, asked = os.fstat(file.fileno()).st_size, self.headers["Range"]
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            with open("/tmp/served", "a") as log:
                print(start, self.headers["If-Range"], file=log)
            self.send_response(206 if asked else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(size - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            file.seek(start)
            while piece := file.read(65536):
                while file.tell() > size // 2 and os.path.exists("/tmp/hold"):
                    time.sleep(0.1)
                self.wfile.write(piece)

http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


def random_image(mib: int) -> str:
    """Return a command that makes /tmp/disk.raw, of which so many MiB are of no use to a compression, and /tmp/debian.qcow2.xz."""
    return SOURCE.replace("head -c 3M", f"head -c {mib}M").replace("truncate -s 64M", f"truncate -s {mib + 61}M")


def serve(lab: Lab) -> str:
    """The master serves an image; return its checksum."""
    lab.master.write("/root/serve.py", SERVER)
    checksum = lab.run(f"{random_image(24)}; mkdir -p /srv/images; cp /tmp/debian.qcow2.xz /srv/images").split()[0]
    lab.run("touch /tmp/hold; python3 /root/serve.py </dev/null >/dev/null 2>&1 & echo $! > /tmp/server")
    lab.master.wait("bash -c 'exec 3<>/dev/tcp/127.0.0.1/8000'")
    return checksum


def begin(lab: Lab, command: str) -> None:
    """A command is at work on node2; /tmp/pid says as which process."""
    lab.node2.run(f"rm -f /tmp/pid; sh -c 'echo $$ > /tmp/pid; exec {command}' </dev/null >/tmp/said 2>&1 &")
    lab.node2.wait("test -s /tmp/pid")


def images(lab: Lab, node: str = "node2") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.node(node).run("gnt-zfs image list --json"))
    return found


def killed(lab: Lab, condition: str) -> None:
    """The import was killed once something was the case, and no image is seen; what is there can be gone on with."""
    lab.node2.run(f"timeout 500 sh -c 'until {condition}; do kill -0 $(cat /tmp/pid) || exit 9; sleep 0.02; done'; kill -9 $(cat /tmp/pid)")
    lab.node2.wait("! pgrep -x qemu-img")
    assert [(row["name"], row["state"].split(",")[0]) for row in images(lab)] == [("debian-12", "cut")], lab.node2.run("cat /tmp/said")
    assert lab.node2.execute("zfs list zfs/vm/.images/debian-12").status != 0
    assert "image debian-12 on this node does not exist" in lab.node2.fails("gnt-zfs image show debian-12")


@pytest.mark.on()
def test_an_import_over_http_is_killed_anywhere_and_gone_on_with(lab: Lab) -> None:
    checksum = serve(lab)

    # in the middle of the download, which goes on from there
    begin(lab, IMPORT)
    killed(lab, f"test $(stat -c %s {PARTIAL}/download.part 2>/dev/null || echo 0) -gt 8000000")
    lab.run("rm /tmp/hold")
    assert lab.run("cat /tmp/served").split("\n")[:-1] == ["0 None"]

    # while it is unpacked: what has come out of it so far has no name, and is gone with the process
    begin(lab, IMPORT)
    killed(lab, f"ls -l /proc/$(cat /tmp/pid)/fd 2>/dev/null | grep -q deleted && test -e {PARTIAL}/download")
    first, *others = lab.run("cat /tmp/served").splitlines()
    assert first == "0 None"
    assert [line.endswith(' "one"') and int(line.split()[0]) > 8000000 for line in others] == [True]
    assert lab.node2.run(f"ls {PARTIAL}").split() == ["download", "download.json"]

    # while qemu-img makes a raw disk of it
    begin(lab, IMPORT)
    killed(lab, "pgrep -x qemu-img >/dev/null")

    # the same command ends it; with the checksum the server need not be asked any more
    lab.run("kill $(cat /tmp/server); rm /tmp/server")
    assert "sha256" in lab.node2.fails(f"{IMPORT} --sha256 {'0' * 63}")
    lab.node2.run(f"{IMPORT} --sha256 {checksum}")
    (image,) = images(lab)
    assert (image["state"], image["sha256"], image["format"], image["source"]) == ("ready", checksum, "qcow2", URL)
    lab.node2.run("gnt-zfs image verify debian-12")
    lab.node2.run("gnt-zfs image export debian-12 /tmp/back.raw")
    assert lab.node2.run("sha256sum < /tmp/back.raw") == lab.run("sha256sum < /tmp/disk.raw")
    assert lab.node2.run("stat -c %a /tmp/back.raw").strip() == "600"

    # whatever a file is called, and whatever somebody sets by hand, all images are seen
    lab.node2.run("cp /tmp/back.raw \"$(printf '/tmp/a\\tb.raw')\"; cd /tmp; gnt-zfs image import tab \"$(printf 'a\\tb.raw')\"")
    assert [row["source"] for row in images(lab) if row["name"] == "tab"] == ["/tmp/a?b.raw"]
    lab.node2.run("zfs set \"org.zfsganeti:source=$(printf 'a\\tb\\nc')\" zfs/vm/.images/tab")
    assert [row["name"] for row in images(lab)] == ["debian-12", "tab"]
    assert "is not UTF-8: rename the file first" in lab.node2.fails("gnt-zfs image import bad \"$(printf '/tmp/\\377.raw')\"")
    lab.well()


@pytest.mark.on()
def test_what_a_disk_needs_comes_by_itself_and_goes_where_it_is_wanted(lab: Lab) -> None:
    lab.node2.run(SOURCE)
    wanted = lab.node2.run("sha256sum < /tmp/disk.raw").split()[0]
    lab.node2.run("gnt-zfs image import debian-12 /tmp/disk.raw")

    # an add on a node without the image is refused, and brings it there
    lab.configure("image_pull = 1\n", "node3")
    far = lab.add_command("far", node="node3", disks=(), more="--disk 0:size=96M,provider=zfs,image=debian-12")
    far = far.replace("-t file", "-t ext").replace("--no-disks", "")
    told = "gnt-zfs image list on this node shows how far it is, gnt-zfs image pull debian-12 what is in the way"
    assert f"it is being brought here now if another node has it: {told}" in lab.fails(far)
    lab.node3.wait('gnt-zfs image list --json | grep -q \'"state": "ready"\'')
    lab.run(far)
    assert content(lab, lab.volumes("far", "node3")[0], "node3") == wanted
    lab.unconfigure("node3")

    # a copy begins at once, and ends when nobody uses the disk
    lab.add_ext("copy", disks=("96M,image=debian-12,use=copy", "64M"))
    copy, other = lab.volumes("copy")
    lab.node2.wait(f"zfs list zfs/vm/.copies/{copy} || test $(zfs get -H -o value origin zfs/vm/{copy}) = -")
    lab.run("gnt-instance deactivate-disks copy")
    lab.node2.wait(f"/etc/ganeti/hooks/watcher/zfsganeti; test $(zfs get -H -o value origin zfs/vm/{copy}) = -")
    lab.node2.wait("! pgrep -f '[n]ode detach-work'")
    assert content(lab, copy) == wanted

    # a filesystem with what is in a directory of the node
    lab.node2.run("mkdir -p /srv/rescue; echo hello > /srv/rescue/motd")
    lab.run("gnt-zfs disk fill --yes copy/1 /srv/rescue")
    assert lab.node2.run(f"debugfs -R 'cat motd' {DIRECTORY}/{other}/disk.raw 2>/dev/null") == "hello\n"

    # the image in another datastore: changed in both, or in one
    lab.node2.run("zfs create -o mountpoint=/fast zfs/fast")
    lab.configure("datastores = ssd=zfs/fast\n")
    assert "debian-12 is in zfs/fast now" in lab.node2.run("gnt-zfs image copy debian-12 --datastore ssd")
    guids = {row["datastore"]: row["guid"] for row in images(lab)}
    assert guids[""] == guids["ssd"]
    lab.node2.run("gnt-zfs image retire debian-12 --datastore ssd")
    assert {row["datastore"]: row["retired"] for row in images(lab)} == {"": False, "ssd": True}
    assert "is there, but retired" in lab.node2.fails("gnt-zfs image copy debian-12 --datastore ssd")
    lab.node2.run("gnt-zfs image restore debian-12")
    lab.add_ext("quick", disks=("96M,image=debian-12,datastore=ssd",))
    names = lab.node2.run("zfs list -H -o origin -r zfs/fast").split()
    assert names.count("zfs/fast/.images/debian-12@golden") == 1
    said = lab.node2.run("gnt-zfs image delete --now --yes debian-12")
    assert "the root: debian-12 is gone." in said
    assert "it goes as soon as the last of them has gone" in said
    assert [row["datastore"] for row in images(lab)] == ["ssd"]
    lab.well()


@pytest.mark.on()
def test_a_push_to_two_is_cut_on_one_and_gone_on_with(lab: Lab) -> None:
    lab.node2.run(random_image(24))
    lab.node2.run("gnt-zfs image import debian-12 /tmp/disk.raw")
    push = "gnt-zfs image push debian-12 node1 node3"
    lab.node2.run(f"({push} --bwlimit 1; echo $? > /tmp/status) </dev/null >/tmp/said 2>&1 &")
    lab.node3.wait("test $(zfs get -Hp -o value used tank/vm/.images/.partial/debian-12) -gt 4000000")
    lab.node3.run("pkill -9 -f '[z]fs receive'")
    lab.node2.wait("test -s /tmp/status", seconds=300)
    said = lab.node2.run("cat /tmp/said")
    assert lab.node2.run("cat /tmp/status").strip() != "0", said
    assert "node1.example.com has debian-12, " in said
    assert "node3.example.com: " in said
    assert "cut at " in lab.run("gnt-zfs image list --all-nodes")
    assert [row["state"] for row in images(lab, "node1")] == ["ready"]
    said = lab.node2.run(push)
    assert "node1.example.com has debian-12 already." in said
    assert "node3.example.com has debian-12, " in said
    found = json.loads(lab.run("gnt-zfs image list --all-nodes --json"))
    assert [(row["node"].split(".")[0], row["state"]) for row in found] == [(node, "ready") for node in ("node1", "node2", "node3")]
    assert len({row["guid"] for row in found}) == 1
    lab.node3.run("gnt-zfs image verify debian-12")

    # where it is out of use that is no success
    lab.node3.run("gnt-zfs image retire debian-12")
    said = lab.node2.fails(push)
    assert "node3.example.com: has debian-12, but it is retired there: gnt-zfs image restore debian-12 on node3.example.com" in said
    lab.node3.run("gnt-zfs image restore debian-12")
    add = lab.add_command("far", node="node3", disks=(), more="--disk 0:size=96M,provider=zfs,image=debian-12")
    lab.run(add.replace("-t file", "-t ext").replace("--no-disks", ""))
    assert origin(lab, lab.volumes("far", "node3")[0], "node3") == "tank/vm/.images/debian-12@golden"
    lab.well()
