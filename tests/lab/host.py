"""What the lab asks of the machine it runs on: Debian's packages, QEMU 10 or newer, a network namespace."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODULES = {
    "python3-venv": "ensurepip",
    "python3-sh": "sh",
    # what Debian's Ganeti code imports when tests/ganeti runs it
    "python3-bitarray": "bitarray",
    "python3-openssl": "OpenSSL",
    "python3-pycurl": "pycurl",
    "python3-pyparsing": "pyparsing",
    "python3-simplejson": "simplejson",
}
MINIMUM_QEMU = 10  # bookworm's 7.2 corrupts guests under TCG: kernel oopses within seconds
PACKAGES = {
    "debootstrap": "debootstrap",
    "qemu-img": "qemu-utils",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "make": "make",
    "tar": "tar",
    "zstd": "zstd",
    "bzip2": "bzip2",
    "xz": "xz-utils",
    "lowdown": "lowdown",
}


class LabError(Exception):
    """The lab could not do what was asked; the text is one line for a person."""


def say(text: str) -> None:
    """Progress is on stderr at once, with the time, so that a waiting person sees life."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(*command: str, log: Path | None = None, check: bool = True, **options: object) -> str:
    """Return a command's standard output; LabError carries the end of what it printed when it failed."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if log else subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
        **options,
    )  # type: ignore[call-overload]
    output: str = done.stdout
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{output}")
    if check and done.returncode != 0:
        said = (output + (done.stderr or "")).strip().splitlines()[-20:]
        raise LabError(f"{' '.join(command)[:200]}: exit {done.returncode}\n" + "\n".join(said))
    return output


def cache() -> Path:
    """Return the directory, outside the checkout, where built images and saved states are kept."""
    path = Path(os.environ.get("ZFSGANETI_LAB_CACHE", "/var/cache/zfsganeti-lab"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def mirrors() -> dict[str, str]:
    """Return the addresses of Debian's `main` and `security` archives that this machine's own apt uses."""
    lines = run("apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)|$(COMPONENT)", "Created-By: Packages").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        uri, codename, component = line.split("|")
        if component == "main" and codename in ("bookworm", "trixie"):
            found.setdefault("main", uri.rstrip("/"))
        if component == "main" and codename in ("bookworm-security", "trixie-security"):
            found.setdefault("security", uri.rstrip("/"))
    if "main" not in found:
        raise LabError("this machine's apt knows no Debian 12 or 13 archive: check /etc/apt/sources.list*")
    return found


def qemu_version() -> int:
    """Return the major version of the installed QEMU, 0 without one."""
    if shutil.which("qemu-system-x86_64") is None:
        return 0
    found = re.search(r"version (\d+)\.", run("qemu-system-x86_64", "--version"))
    return int(found.group(1)) if found else 0


def available_memory_mib() -> int:
    """Return how much memory programs can still take on this machine."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return int(found.group(1)) // 1024 if found else 0


def kvm_works() -> bool:
    """Tell whether KVM can be used: /dev/kvm may exist and still hang a stock kernel without vmx or svm."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and re.search(r"\b(vmx|svm)\b", flags) is not None


def install_missing() -> None:
    """Debian's packages that the lab calls are installed; only the missing ones are touched."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it builds a disk from a chroot and makes a network namespace")
    missing = sorted(
        {package for package, module in MODULES.items() if importlib.util.find_spec(module) is None}
        | {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if missing or qemu_version() < MINIMUM_QEMU:
        say(f"installing {' '.join([*missing, 'QEMU'])}")
        run("apt-get", "update", "-q", env=environment, check=False)
    if missing:
        run("apt-get", "install", "-qy", "--no-install-recommends", *missing, env=environment)
    if qemu_version() < MINIMUM_QEMU:
        install_qemu(environment)


def install_qemu(environment: dict[str, str]) -> None:
    """QEMU 10 or newer is installed, on Debian 12 from its backports, without changing apt's own sources."""
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    command = ["apt-get", "install", "-qy", "--no-install-recommends"]
    packages = ["qemu-system-x86", "qemu-utils"]
    if 'VERSION_ID="12"' not in release:
        run(*command, *packages, env=environment)
    else:
        with tempfile.TemporaryDirectory() as apart_from_ours:
            lists = Path(apart_from_ours, "lists")
            (lists / "partial").mkdir(parents=True)
            sources = Path(apart_from_ours, "sources.list")
            main = mirrors()["main"]
            sources.write_text(
                f"deb {main} bookworm main\ndeb {main} bookworm-updates main\n" f"deb {main} bookworm-backports main\n", encoding="utf-8"
            )
            # apt drops privileges to _apt, which must be able to read the directory
            os.chmod(apart_from_ours, 0o755)
            apart = ["-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null", "-o", f"Dir::State::Lists={lists}"]
            run("apt-get", "update", "-q", *apart, env=environment)
            run(*command, *apart, "-t", "bookworm-backports", *packages, env=environment)
    if qemu_version() < MINIMUM_QEMU:
        raise LabError(f"QEMU {qemu_version()} is installed, the lab needs {MINIMUM_QEMU} or newer")


def commit(checkout: Path) -> str:
    """Return what a checkout holds, marked where it differs from what is committed."""
    return run("git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*").strip()
