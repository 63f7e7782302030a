"""The disk every node starts from: Debian, a ZFS module, Ganeti; built in a chroot and cached by what made it."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import time
from pathlib import Path

from .host import LabError, cache, mirrors, run, say

HERE = Path(__file__).parent
GENERATIONS = ("bookworm", "trixie")
PACKAGES = (
    # what a node of a real cluster has
    "ganeti",
    "zfsutils-linux",
    "zfs-zed",
    "python3-pyzfs",
    "python3-sh",
    "openssh-server",
    "openssh-client",
    "lvm2",
    "drbd-utils",
    "iproute2",
    "iputils-arping",
    "socat",
    "procps",
    "qemu-utils",
    "sanoid",
    "systemd-sysv",
    "udev",
    "kmod",
    "dbus",
    "bash-completion",
    # what the tests need on a node
    "python3-pytest",
    "python3-hypothesis",
    "make",
    "strace",
    "patch",
    "gdisk",
    "xz-utils",
    "zstd",
    "bzip2",
    "curl",
    "e2fsprogs",
    "pv",
    "mbuffer",
    "lzop",
)
FIRST = ("linux-image-cloud-amd64", "linux-headers-cloud-amd64", "initramfs-tools", "dkms")
DISK_SIZE = "8G"


def recipe(generation: str) -> str:
    """Return the key of an image: a hash over everything in this checkout that shapes it."""
    made_of = hashlib.sha256(generation.encode())
    made_of.update(ast.dump(ast.parse(Path(__file__).read_bytes())).encode())  # comments and layout shape nothing
    for path in sorted((HERE / "guest").rglob("*")):
        if path.is_file():
            made_of.update(str(path.relative_to(HERE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return made_of.hexdigest()[:16]


def key() -> Path:
    """Return the private ssh key that every lab node accepts for root; made once per machine."""
    path = cache() / "key"
    if not path.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path))
    return path


def build(generation: str) -> Path:
    """Return the directory with disk.raw, kernel and initrd of a generation, building it if it is not cached."""
    if generation not in GENERATIONS:
        raise LabError(f"{generation}: no such generation, there are {' and '.join(GENERATIONS)}")
    place = cache() / f"image-{generation}-{recipe(generation)}"
    if (place / "disk.raw").exists():
        return place
    work = place.with_suffix(".building")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = cache() / f"image-{generation}.log"
    log.unlink(missing_ok=True)
    started = time.monotonic()
    say(f"{generation}: building the node image (some minutes; log: {log})")
    try:
        _build(generation, work, log)
    except LabError as error:
        raise LabError(f"{generation}: the image build failed, the log is {log}; it ends with\n{error}") from error
    shutil.rmtree(work / "root")
    work.rename(place)
    say(f"{generation}: image built in {time.monotonic() - started:.0f} s")
    return place


def _build(generation: str, work: Path, log: Path) -> None:
    root = work / "root"
    archive = mirrors()
    say(f"{generation}: 1/5 debootstrap")
    run("debootstrap", "--variant=minbase", generation, str(root), archive["main"], log=log)
    _prepare(generation, root, archive)
    say(f"{generation}: 2/5 kernel and its headers")
    _install(root, log, FIRST)
    say(f"{generation}: 3/5 ZFS module (the long part)")
    _install(root, log, ("zfs-dkms",))
    kernel = next((root / "lib/modules").iterdir()).name
    if not list((root / "lib/modules" / kernel).rglob("zfs.ko*")):
        _chroot(root, log, "dkms", "autoinstall", "-k", kernel)
    say(f"{generation}: 4/5 Ganeti and the rest")
    _install(root, log, PACKAGES)
    _finish(root, log)
    say(f"{generation}: 5/5 disk")
    shutil.copy2(root / "boot" / f"vmlinuz-{kernel}", work / "kernel")
    shutil.copy2(root / "boot" / f"initrd.img-{kernel}", work / "initrd")
    run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(work / "disk.raw"), DISK_SIZE, log=log)


def _prepare(generation: str, root: Path, archive: dict[str, str]) -> None:
    """apt inside the chroot knows the archives, starts no daemon, and writes neither documentation nor fsyncs."""
    components = "main contrib"
    sources = [f"deb {archive['main']} {generation} {components}", f"deb {archive['main']} {generation}-updates {components}"]
    if "security" in archive:
        sources.append(f"deb {archive['security']} {generation}-security {components}")
    (root / "etc/apt/sources.list").write_text("\n".join(sources) + "\n", encoding="utf-8")
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    (root / "etc/dpkg/dpkg.cfg.d/lab").write_text(
        "force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n",
        encoding="utf-8",
    )
    modules = root / "etc/initramfs-tools"
    (modules / "conf.d").mkdir(parents=True, exist_ok=True)
    (modules / "conf.d/lab").write_text("MODULES=list\nFSTYPE=ext4\n", encoding="utf-8")
    (modules / "modules").write_text("virtio_pci\nvirtio_blk\next4\n", encoding="utf-8")
    for name in ("resolv.conf", "hosts"):
        shutil.copy2(f"/etc/{name}", root / "etc" / name)
    for config in Path("/etc/apt/apt.conf.d").glob("*"):
        if "proxy" in config.read_text(encoding="utf-8", errors="replace").lower():
            shutil.copy2(config, root / "etc/apt/apt.conf.d" / config.name)


def _chroot(root: Path, log: Path, *command: str) -> None:
    """A command runs in the chroot with /proc, /sys and /dev of a mount namespace that ends with it."""
    script = 'mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && mount --bind /dev "$0/dev" && ' 'exec chroot "$0" "$@"'
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
    }
    run("unshare", "--mount", "sh", "-c", script, str(root), *command, log=log, env=environment)


def _install(root: Path, log: Path, packages: tuple[str, ...]) -> None:
    _chroot(root, log, "apt-get", "update", "-q")
    _chroot(root, log, "apt-get", "install", "-qy", "--no-install-recommends", *packages)


def _finish(root: Path, log: Path) -> None:
    """The chroot becomes a node: the lab's files, who may log in, what starts at boot."""
    run("cp", "-r", "--preserve=mode", f"{HERE / 'guest'}/.", str(root), log=log)
    run("chown", "-R", "root:root", str(root / "srv/ganeti"), str(root / "etc/systemd/system"), log=log)
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy2(key().with_suffix(".pub"), root / "root/.ssh/authorized_keys")
    (root / "root/.ssh/authorized_keys").chmod(0o600)
    (root / "etc/fstab").write_text("/dev/vda / ext4 noatime,errors=remount-ro 0 1\n", encoding="utf-8")
    (root / "etc/machine-id").write_text("", encoding="utf-8")
    (root / "usr/sbin/policy-rc.d").unlink()
    (root / "etc/apt/sources.list").write_text("# the lab has no network\n", encoding="utf-8")
    for config in (root / "etc/apt/apt.conf.d").glob("*"):
        if "proxy" in config.read_text(encoding="utf-8", errors="replace").lower():
            config.unlink()
    _chroot(root, log, "apt-get", "clean")
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    _chroot(root, log, "systemctl", "enable", "lab-identity.service")
    _chroot(root, log, "systemctl", "set-default", "multi-user.target")
    _chroot(
        root,
        log,
        "systemctl",
        "mask",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "e2scrub_all.timer",
        "e2scrub_reap.service",
        "fstrim.timer",
        "dpkg-db-backup.timer",
        "systemd-timesyncd.service",
        "sanoid.timer",
        "getty@tty1.service",
        "systemd-logind.service",
        "man-db.timer",
        "zfs-volume-wait.service",
    )
