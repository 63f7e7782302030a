"""The package's scripts: what they refuse, what they say, and that nothing makes them fail which is not theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

DEBIAN = Path(__file__).parents[2] / "debian"
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
        for place in ("/usr/share/", "/var/log/", "/var/lib/", "/etc/", "/run/"):
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


@pytest.mark.parametrize("arguments", [("configure", ""), ("triggered", "/usr/share/ganeti")])
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
    assert "install -d -o root -g root -m 750 /var/log/ganeti/extstorage\n" in (DEBIAN / "postinst").read_text(encoding="utf-8")
