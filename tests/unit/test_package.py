"""The package's scripts: what they refuse, what they say, and that nothing makes them fail which is not theirs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from zfsganeti import __version__

HOUSE = Path(__file__).parents[2]
DEBIAN = HOUSE / "debian"
PROVIDER = "/usr/share/ganeti/extstorage/zfs"


class Scripts:
    """The scripts of the package on a node below a directory, where gnt-zfs says and returns what a test wants."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "bin").mkdir()
        (root / "bin/udevadm").symlink_to("/bin/true")
        self.gnt_zfs("exit 0")

    def gnt_zfs(self, script: str) -> None:
        path = self.root / "bin/gnt-zfs"
        path.write_text(f'#!/bin/sh\necho "$@" >> {self.root}/asked\n{script}\n', encoding="utf-8")
        path.chmod(0o755)

    def asked(self) -> str:
        path = self.root / "asked"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def run(self, name: str, *arguments: str) -> tuple[int, str]:
        text = (DEBIAN / name).read_text(encoding="utf-8")
        for place in ("/usr/share/", "/usr/lib/", "/usr/local/", "/srv/", "/var/log/", "/var/lib/", "/etc/", "/run/"):
            text = text.replace(place, f"{self.root}{place}")
        # only root may give files away
        text = text.replace("-o root -g root ", "")
        done = subprocess.run(
            ["/bin/sh", "-c", text, name, *arguments],
            env={"PATH": f"{self.root}/bin:/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


def provider(scripts: Scripts, name: str, text: str) -> None:
    path = Path(f"{scripts.root}{PROVIDER}") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("arguments", [("install",), ("install", "0.1", "0.2")])
def test_another_provider_called_zfs_is_not_written_over(scripts: Scripts, arguments: tuple[str, ...]) -> None:
    provider(scripts, "attach", "#!/bin/sh\necho /dev/zvol/$VOL_NAME\n")
    status, said = scripts.run("preinst", *arguments)
    assert status == 1
    place = f"{scripts.root}{PROVIDER}"
    assert said == (
        f"zfsganeti: {place} is another provider's, whose disks Ganeti would lose sight of: on every node copy it under another name "
        f"(cp -a {place} {place}-old), convert the instances with provider=zfs to that, remove {place}, install again\n"
    )


def test_our_provider_or_none_is_in_nobodys_way(scripts: Scripts) -> None:
    assert scripts.run("preinst", "install") == (0, "")
    Path(f"{scripts.root}{PROVIDER}").mkdir(parents=True)
    assert scripts.run("preinst", "install") == (0, "")
    provider(scripts, "provider", (DEBIAN.parent / "extstorage/zfs/provider").read_text(encoding="utf-8"))
    provider(scripts, "attach", "a link to that")
    assert scripts.run("preinst", "install") == (0, "")


def test_an_upgrade_is_not_refused(scripts: Scripts) -> None:
    provider(scripts, "attach", "anything")
    for arguments in (("upgrade", "0.1", "0.2"), ("abort-upgrade", "0.1")):
        assert scripts.run("preinst", *arguments) == (0, "")


def test_removal_takes_the_patch_out_and_says_so_only_if_it_was_in(scripts: Scripts) -> None:
    scripts.gnt_zfs("echo 'Ganeti 3.1: nothing to do'")
    assert scripts.run("prerm", "remove") == (0, "")
    assert scripts.asked() == "patch revert --restart\n"
    scripts.gnt_zfs("echo 'Ganeti 3.1: changed'")
    assert scripts.run("prerm", "remove") == (0, "Ganeti 3.1: changed\n")


def test_a_removal_never_fails_and_shows_why_the_patch_may_be_left(scripts: Scripts) -> None:
    scripts.gnt_zfs("echo 'gnt-zfs: it does not fit' >&2; exit 5")
    status, said = scripts.run("prerm", "remove")
    assert status == 0
    first, second = said.splitlines()
    assert first == "gnt-zfs: it does not fit"
    assert second.endswith("apt-get install --reinstall of ganeti-X.Y brings the original back")


def test_an_upgrade_leaves_the_patch_in(scripts: Scripts) -> None:
    assert scripts.run("prerm", "upgrade", "0.2") == (0, "")
    assert scripts.asked() == ""


ARGUMENTS = [
    ("configure", ""),
    ("triggered", "/usr/share/ganeti"),
    ("abort-remove",),
    ("abort-deconfigure", "in-favour", "x", "1"),
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_the_package_is_configured_whatever_is_wrong(scripts: Scripts, arguments: tuple[str, ...]) -> None:
    (scripts.root / "var/log/ganeti").mkdir(parents=True)
    assert scripts.run("postinst", *arguments) == (0, "")
    scripts.gnt_zfs("echo 'gnt-zfs: the settings are broken' >&2; exit 2")
    assert scripts.run("postinst", *arguments) == (
        0,
        "gnt-zfs: the settings are broken\nzfsganeti: this is installed all the same; gnt-zfs patch renew tries again what failed above\n",
    )
    assert scripts.asked() == "patch renew\n" * 2


def test_what_ganeti_logs_the_provider_into_is_roots(scripts: Scripts) -> None:
    assert scripts.run("postinst", "configure", "")[0] == 0
    place = scripts.root / "var/log/ganeti/extstorage"
    assert place.stat().st_mode & 0o777 == 0o750
    assert "install -d -o root -g root -m 750 /var/log/ganeti/extstorage ||\n" in (DEBIAN / "postinst").read_text(encoding="utf-8")


def test_a_place_for_logs_that_cannot_be_made_leaves_the_package_configured(scripts: Scripts) -> None:
    place = scripts.root / "var/log/ganeti/extstorage"
    place.parent.mkdir(parents=True)
    place.symlink_to("/nonexistent/elsewhere")
    status, said = scripts.run("postinst", "configure", "")
    assert status == 0
    assert said.splitlines()[-1] == f"zfsganeti: see to it that {place} is a directory, gnt-zfs setup makes it"
    assert scripts.asked() == "patch renew\n"


@pytest.mark.parametrize("other", ["", "usr/share/ganeti", "usr/local/lib/ganeti", "srv/ganeti"])
def test_a_purge_leaves_what_another_provider_needs(scripts: Scripts, other: str) -> None:
    logs = scripts.root / "var/log/ganeti/extstorage"
    logs.mkdir(parents=True)
    (scripts.root / "usr/share/ganeti/extstorage").mkdir(parents=True)
    if other:
        (scripts.root / other / "extstorage/rbd").mkdir(parents=True)
    assert scripts.run("postrm", "remove") == (0, "")
    assert logs.exists()
    assert scripts.run("postrm", "purge") == (0, "")
    assert logs.exists() == bool(other)


def test_a_purge_leaves_logs(scripts: Scripts) -> None:
    logs = scripts.root / "var/log/ganeti/extstorage"
    logs.mkdir(parents=True)
    (logs / "attach.log").touch()
    assert scripts.run("postrm", "purge") == (0, "")
    assert (logs / "attach.log").exists()


@pytest.mark.parametrize("storage", ["var/lib/zfsganeti", "var/lib/zfsganeti/vm", "run/zfsganeti/vm"])
def test_a_purge_leaves_disks_wherever_the_root_is_mounted(scripts: Scripts, storage: str) -> None:
    """Ganeti takes any of these as its file storage directory, which is where instances' datasets are mounted."""
    for file in ("var/lib/zfsganeti/variants.list", "run/zfsganeti/web1.lock", "run/zfsganeti/.room.zfs.lock", f"{storage}/web1/disk0"):
        (scripts.root / file).parent.mkdir(parents=True, exist_ok=True)
        (scripts.root / file).write_text("disk", encoding="utf-8")
    assert scripts.run("postrm", "purge") == (0, "")
    assert [str(path.relative_to(scripts.root)) for path in sorted(scripts.root.rglob("*zfsganeti/**/*")) if path.is_file()] == [
        f"{storage}/web1/disk0"
    ]


def test_a_purge_leaves_nothing_of_ours(scripts: Scripts) -> None:
    for file in ("var/lib/zfsganeti/variants.list", "run/zfsganeti/web1.lock", "run/zfsganeti/.room.zfs.lock", "etc/zfsganeti.conf"):
        (scripts.root / file).parent.mkdir(parents=True, exist_ok=True)
        (scripts.root / file).touch()
    assert scripts.run("postrm", "purge") == (0, "")
    assert list(scripts.root.rglob("*zfsganeti*")) == []


# what is in it


def shipped() -> set[str]:
    """Return the files of the checkout that the package has below /usr/share/doc/zfsganeti, at the same places."""
    patterns = (DEBIAN / "docs").read_text(encoding="utf-8").split()
    for line in (DEBIAN / "install").read_text(encoding="utf-8").splitlines():
        what, _space, where = line.partition(" ")
        assert where == f"usr/share/doc/zfsganeti/{Path(what).parent}"
        patterns.append(what)
    return {str(path.relative_to(HOUSE)) for pattern in patterns for path in HOUSE.glob(pattern)}


def test_links_lead_somewhere_in_the_package_as_well() -> None:
    known = shipped()
    pages = sorted(name for name in known if name.endswith(".md"))
    assert len(pages) > 10
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", (HOUSE / page).read_text(encoding="utf-8")):
            assert os.path.normpath(Path(page).parent / target) in known, f"{target} of {page}"


def test_nothing_is_in_it_twice() -> None:
    assert not (DEBIAN / "examples").exists()
    names = (DEBIAN / "docs").read_text(encoding="utf-8").split()
    assert len(names) == len(set(names))


def test_the_service_makes_no_mount_namespace() -> None:
    """Any of these gives the process mounts of its own, and what it mounts would be seen by nobody else."""
    private = (
        *("BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionDirectories", "ExtensionImages", "InaccessiblePaths"),
        *("MountAPIVFS", "MountFlags", "MountImages", "NoExecPaths", "PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateNetwork"),
        *("PrivatePIDs", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectControlGroups", "ProtectHome", "ProtectKernelLogs"),
        *("ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths"),
        *("RootDirectory", "RootImage", "TemporaryFileSystem"),
    )
    given = re.findall(r"^(\w+)=", (DEBIAN / "zfsganeti.service").read_text(encoding="utf-8"), re.MULTILINE)
    assert "ExecStart" in given
    assert set(given).isdisjoint(private)


def test_the_version_is_in_one_place() -> None:
    """Only the change log names versions besides, and those that were released."""
    version = re.compile(rf"(?<![\w.]){re.escape(__version__)}(?![\w.])")
    named = [path for path in HOUSE.iterdir() if path.is_file() and path.suffix in (".toml", ".cfg", ".md", ".py", "")]
    named += [path for path in (*DEBIAN.iterdir(), *(HOUSE / "docs").rglob("*")) if path.is_file() and path.suffix not in (".svg", ".pyc")]
    named += [*(HOUSE / "zfsganeti").glob("*.py")]
    having = {
        str(path.relative_to(HOUSE))
        for path in named
        if path.name != "changelog" and version.search(path.read_text(encoding="utf-8", errors="replace"))
    }
    assert having - {"CHANGELOG.md"} == {"zfsganeti/__init__.py"}
