"""Everything that changes an instance's disks or their place: it works, or it fails cleanly with nothing lost and nothing leaked."""

from __future__ import annotations

from .conftest import DIRECTORY, Lab


def rename_command(lab: Lab, old: str, new: str, more: str = "") -> str:
    force = "-f --no-name-check --no-ip-check" if lab.generation == "bookworm" else ""
    return f"gnt-instance rename {force} {more} {old} {new}"


def test_rename(lab: Lab) -> None:
    lab.add("old", disks=("64M", "32M"))
    sums = lab.fill("old")
    lab.run(rename_command(lab, "old", "new", "--dry-run"))
    assert lab.sums("old") == sums
    lab.run(rename_command(lab, "old", "new"))
    assert lab.datasets() == ["new"]
    assert lab.mounted("new")
    assert lab.sums("new") == sums
    assert not lab.node2.execute(f"ls -d {DIRECTORY}/old").stdout
    lab.run("gnt-instance start new")
    lab.run("gnt-cluster verify")


def test_rename_to_a_taken_name_is_vetoed(lab: Lab) -> None:
    lab.add("mine")
    sums = lab.fill("mine")
    lab.node2.run("zfs create zfs/vm/taken")
    said = lab.fails(rename_command(lab, "mine", "taken"))
    lab.node2.run("zfs destroy zfs/vm/taken")
    assert "node2: dataset zfs/vm/taken: was not made by zfsganeti" in said
    assert lab.sums("mine") == sums


def test_a_rename_that_is_vetoed_after_us_leaves_the_old_name_working(lab: Lab) -> None:
    lab.add("same")
    sums = lab.fill("same")
    lab.deny("instance-rename-pre")
    lab.fails(rename_command(lab, "same", "other"))
    lab.allow("instance-rename-pre")
    assert lab.sums("same") == sums
    assert lab.watch() == ""
    assert lab.mounted("same"), "the watcher has put it right: no job is at work on it"
    assert lab.sums("same") == sums


def test_a_rename_whose_post_hook_never_ran_is_finished(lab: Lab) -> None:
    lab.add("half")
    sums = lab.fill("half")
    link = "/etc/ganeti/hooks/instance-rename-post.d/zfsganeti"
    lab.node2.run(f"mv {link} /tmp/rename-post")
    lab.run(rename_command(lab, "half", "whole"))
    lab.node2.run(f"mv /tmp/rename-post {link}")
    assert lab.sums("whole") == sums, "Ganeti renamed the directory of links"
    assert "node2.example.com: whole: the rename from half was not finished (repaired)" in lab.run("gnt-zfs check --repair")
    assert lab.datasets() == ["whole"]
    assert lab.mounted("whole")
    assert lab.sums("whole") == sums


def test_move(lab: Lab) -> None:
    lab.add("mover", disks=("32M", "16M"))
    sums = lab.fill("mover")
    if lab.generation == "bookworm":
        said = lab.run("gnt-instance move -f -n node3.example.com mover")
        assert "WARNING" not in said
        assert lab.datasets("node3") == ["mover"]
        assert lab.sums("mover", "node3") == sums
        assert [name.split(":")[0] for name in lab.trash()] == ["mover"]
        lab.well()
        lab.run("gnt-instance start mover")
    else:
        # trixie's own move is broken upstream (#1839): for us it is the copy that fails
        lab.fails("gnt-instance move -f -n node3.example.com mover")
        assert lab.sums("mover") == sums
    check_failed_move(lab, "failer")


def check_failed_move(lab: Lab, name: str) -> None:
    lab.add(name, disks=("32M",))
    sums = lab.fill(name)
    lab.node3.run("mv /usr/bin/socat /usr/bin/socat.away")
    lab.fails(f"gnt-instance move -f -n node3.example.com {name}")
    lab.node3.run("mv /usr/bin/socat.away /usr/bin/socat")
    assert lab.sums(name) == sums
    assert all(not entry.startswith(name) for entry in lab.trash("node3"))
    said = lab.run("gnt-zfs check --repair")
    assert f"node3.example.com: {name}: empty leftover tank/vm/{name}, the instance is on node2.example.com (repaired)" in said
    lab.run(f"gnt-instance start {name}")
    assert lab.mounted(name)
    assert lab.sums(name) == sums


def test_recreate_disks(lab: Lab) -> None:
    lab.add("again", disks=("32M", "16M"))
    lab.fill("again")
    said = lab.fails("gnt-instance recreate-disks again")
    assert "File exists" in said or "already exist" in said
    lab.node2.run(f"rm {DIRECTORY}/again/*.disk*")
    lab.run("gnt-instance recreate-disks again")
    sums = lab.fill("again")
    assert lab.mounted("again")
    lab.run("gnt-instance recreate-disks -n node3.example.com again")
    assert lab.datasets("node3") == ["again"]
    assert lab.mounted("again", "node3")
    assert len(lab.disks("again", "node3")) == 2
    entry = lab.trash()[0]
    lab.node2.run(f"mkdir /tmp/look; mount -t zfs -o zfsutil zfs/vm/.trash/{entry} /tmp/look")
    kept = sorted(line.split()[0] for line in lab.node2.run("sha256sum /tmp/look/*").splitlines())
    lab.node2.run("umount /tmp/look; rmdir /tmp/look")
    assert kept == sorted(sums)
    lab.well()


def test_to_file_and_away(lab: Lab) -> None:
    lab.run(lab.add_command("shape", disks=("32M",)).replace("-t file", "-t plain"))
    device = lab.node2.run("lvs --noheadings -o path ganeti").strip()
    lab.node2.run(f"dd if=/dev/urandom of={device} bs=1M count=32 status=none; sync")
    wanted = lab.node2.run(f"head -c 32M {device} | sha256sum").split()[0]
    lab.run("gnt-instance modify -t file shape")
    assert lab.mounted("shape")
    assert lab.sums("shape") == [wanted]
    said = lab.run("gnt-instance modify -t plain shape")
    assert "WARNING" not in said
    device = lab.node2.run("lvs --noheadings -o path ganeti").strip()
    assert lab.node2.run(f"head -c 32M {device} | sha256sum").split()[0] == wanted
    assert [name.split(":")[0] for name in lab.trash()] == ["shape"]
    assert lab.datasets() == [f".trash/{lab.trash()[0]}"]
    lab.well()


def test_add_and_remove_a_disk(lab: Lab) -> None:
    lab.add("disks")
    first = lab.fill("disks")
    lab.run("gnt-instance modify --disk add:size=32M disks")
    assert len(lab.disks("disks")) == 2
    assert lab.fill("disks")[0] != first[0]
    both = lab.sums("disks")
    removed = lab.disks("disks")[1].rsplit("/", 1)[1]
    lab.run("gnt-instance modify --disk 1:remove disks")
    assert lab.sums("disks") == both[:1]
    # what Ganeti unlinked is in a snapshot that was taken before
    snapshot = lab.node2.run("zfs list -H -t snapshot -o name -r zfs/vm/disks").strip()
    assert snapshot.startswith("zfs/vm/disks@zfsganeti-removed-")
    path = f"{DIRECTORY}/disks/.zfs/snapshot/{snapshot.split('@')[1]}/{removed}"
    assert lab.node2.run(f"sha256sum {path}").split()[0] == both[1]
    said = lab.run("gnt-instance modify --disk 0:remove disks")
    assert "WARNING" not in said
    assert [name.split(":")[0] for name in lab.trash()] == ["disks"], "without disks it needs no dataset; its last disk is in the trash"


def test_too_large_a_disk_is_vetoed(lab: Lab) -> None:
    lab.add("small")
    assert "small on zfs/vm: 30.0G asked for" in lab.fails("gnt-instance modify --disk add:size=30G small")
    assert "small on zfs/vm: 40.0G asked for" in lab.fails("gnt-instance grow-disk small 0 40G")
    lab.run("gnt-instance grow-disk small 0 64M")
    assert lab.node2.run(f"stat -c %s {lab.disks('small')[0]}").strip() == str(128 << 20)


def test_detach_fails_cleanly(lab: Lab) -> None:
    """Stock Ganeti detaches a file disk by renaming it out of its directory, which cannot leave a dataset."""
    lab.add("whole", disks=("32M", "16M"))
    sums = lab.fill("whole")
    lab.fails("gnt-instance modify --disk 1:detach whole")
    assert lab.sums("whole") == sums
    assert lab.mounted("whole")


def test_reinstall_and_reboot(lab: Lab) -> None:
    lab.add("plainly")
    sums = lab.fill("plainly")
    lab.node2.run(f"umount {DIRECTORY}/plainly")
    lab.run("gnt-instance reinstall -f plainly")
    assert lab.mounted("plainly")
    assert lab.sums("plainly") == sums
