"""One node of the lab: a QEMU process with three disks and a tap, driven through QMP and ssh."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .host import LabError, kvm_works, run, say
from .image import key

MEMORY_MIB = 2048
DISKS = {"vda": "8G", "vdb": "20G", "vdc": "24G"}  # the system, the pool, LVM (Ganeti wants a volume group of 20 GiB)
BOOT_SECONDS = 300


@dataclass(frozen=True)
class Done:
    """What a command on a node ended with."""

    command: str
    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


class CommandError(AssertionError):
    """A command on a node did not end as the caller relied on."""

    def __init__(self, node: str, done: Done) -> None:
        super().__init__(f"{node}$ {done.command}\nexit {done.status}\n{done.stdout}{done.stderr}")
        self.done = done


class Machine:
    """A node: its disks live in `place`, its network in `namespace`."""

    def __init__(self, number: int, *, place: Path, namespace: str, image: Path) -> None:
        self.number, self.place, self.namespace, self.image = number, place, namespace, image
        self.name = f"node{number}"
        self.fqdn = f"{self.name}.example.com"
        self.address = f"192.0.2.{number}"

    def path(self, suffix: str) -> Path:
        return self.place / f"{self.name}.{suffix}"

    # the process

    def create_disks(self, frozen: Path | None = None) -> None:
        """The node has fresh disks: over the built image, or over those of a saved state."""
        self.place.mkdir(parents=True, exist_ok=True)
        for disk, size in DISKS.items():
            path = self.path(f"{disk}.qcow2")
            path.unlink(missing_ok=True)
            if frozen is not None:
                run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(frozen / path.name), "-F", "qcow2", str(path))
            elif disk == "vda":
                run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(self.image / "disk.raw"), "-F", "raw", str(path))
            else:
                run("qemu-img", "create", "-q", "-f", "qcow2", str(path), size)

    def start(self, state: Path | None = None) -> None:
        """QEMU runs the node, from power-on or from a saved state's memory."""
        self.kill()
        run("ip", "netns", "exec", self.namespace, *self._qemu(state))

    def _qemu(self, state: Path | None) -> list[str]:
        accelerate = ["-accel", "kvm", "-cpu", "host"] if kvm_works() else ["-accel", "tcg,thread=multi", "-cpu", "Westmere"]
        command = [
            "qemu-system-x86_64",
            "-name",
            self.name,
            "-machine",
            "q35",
            *accelerate,
            "-smp",
            "1",
            "-m",
            str(MEMORY_MIB),
            "-nodefaults",
            "-display",
            "none",
            "-no-user-config",
            "-rtc",
            "base=utc,clock=vm",
            "-kernel",
            str(self.image / "kernel"),
            "-initrd",
            str(self.image / "initrd"),
            "-append",
            f"root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off lab.node={self.number}",
            "-serial",
            f"file:{self.path('console')}",
            "-device",
            "virtio-rng-pci",
            "-netdev",
            f"tap,id=net,ifname=tap{self.number},script=no,downscript=no",
            "-device",
            f"virtio-net-pci,netdev=net,mac=52:54:00:00:00:0{self.number}",
            "-qmp",
            f"unix:{self.path('qmp')},server=on,wait=off",
            "-pidfile",
            str(self.path("pid")),
            "-daemonize",
        ]
        for disk in DISKS:
            command += [
                "-drive",
                f"file={self.path(f'{disk}.qcow2')},if=none,id={disk},format=qcow2,discard=unmap",
                "-device",
                f"virtio-blk-pci,drive={disk},serial={disk}",
            ]
        if state is not None:
            command += ["-incoming", f"file:{state / self.path('memory').name}"]
        return command

    def pid(self) -> int | None:
        """Return the process that runs this node, None while it is off."""
        try:
            pid = int(self.path("pid").read_text(encoding="ascii"))
            if self.name in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace"):
                return pid
        except (OSError, ValueError):
            pass
        return None

    def kill(self) -> None:
        """The power is cut: what the guest had flushed is on its disks, nothing else."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            while self.pid() is not None:
                time.sleep(0.05)
        self.path("pid").unlink(missing_ok=True)
        self._forget_connection()

    def save(self) -> None:
        """The node's memory is in a file beside its disks and the node is off."""
        qmp(self.path("qmp"), "migrate", uri=f"file:{self.path('memory')}")
        deadline = time.monotonic() + 300
        while (status := qmp(self.path("qmp"), "query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise LabError(f"{self.name}: saving its state: {status}")
            time.sleep(0.2)
        qmp(self.path("qmp"), "quit")
        while self.pid() is not None:
            time.sleep(0.05)
        self._forget_connection()

    def pause(self) -> None:
        qmp(self.path("qmp"), "stop")

    def resume(self) -> None:
        """The node goes on, once its memory has been read in."""
        deadline = time.monotonic() + 300
        while qmp(self.path("qmp"), "query-status").get("status") == "inmigrate":
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: its saved memory is not read in")
            time.sleep(0.1)
        qmp(self.path("qmp"), "cont")

    # talking to it

    def _forget_connection(self) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["ssh", "-S", self.path("ssh"), "-O", "exit", "x"], capture_output=True, timeout=5)
        self.path("ssh").unlink(missing_ok=True)

    def ssh(self, *, terminal: bool = False) -> list[str]:
        """Return the command that runs what follows it on the node as root."""
        return [
            "ip",
            "netns",
            "exec",
            self.namespace,
            "ssh",
            *(["-t"] if terminal else []),
            "-q",
            "-i",
            str(key()),
            "-S",
            str(self.path("ssh")),
            "-o",
            "ControlMaster=auto",
            "-o",
            "ControlPersist=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ConnectTimeout=5",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=12",
            f"root@{self.address}",
        ]

    def answers(self) -> bool:
        """Tell whether the node can be logged into now."""
        try:
            return self.execute("true", seconds=20).status == 0
        except LabError:
            return False

    def wait_for_boot(self) -> None:
        """The node answers; one that died while booting was started once more (TCG guests rarely do)."""
        for attempt in (1, 2):
            deadline = time.monotonic() + BOOT_SECONDS
            while time.monotonic() < deadline:
                if self.answers():
                    return
                if self.pid() is None:
                    break
                time.sleep(0.5)
            if attempt == 1:
                say(f"{self.name}: did not come up, starting it once more")
                self.start()
        tail = self.path("console").read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise LabError(f"{self.name}: did not boot; its console ends with\n" + "\n".join(tail))

    def execute(self, command: str, *, stdin: bytes | None = None, seconds: float = 600) -> Done:
        """Run a shell command as root on the node and return what it ended with, whatever that is."""
        try:
            done = subprocess.run([*self.ssh(), command], input=stdin if stdin is not None else b"", capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}$ {command}: no end after {seconds:.0f} s; so far: {error.stdout!r} {error.stderr!r}") from error
        return Done(command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def run(self, command: str, *, stdin: bytes | None = None, seconds: float = 600) -> str:
        """Return the standard output of a command that must succeed; CommandError shows all it said."""
        done = self.execute(command, stdin=stdin, seconds=seconds)
        if done.status != 0:
            raise CommandError(self.name, done)
        return done.stdout

    def fails(self, command: str, *, seconds: float = 600) -> str:
        """Return all output of a command that must fail."""
        done = self.execute(command, seconds=seconds)
        if done.status == 0:
            raise CommandError(self.name, done)
        return done.said

    def wait(self, command: str, *, seconds: float = 120) -> str:
        """Return the output of a command as soon as it succeeds; an error says what it said last."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.execute(command)
            if done.status == 0:
                return done.stdout
            if time.monotonic() > deadline:
                raise CommandError(self.name, done)
            time.sleep(0.3)

    def write(self, path: str, content: str | bytes, mode: str = "644") -> None:
        """The file has this content on the node."""
        data = content.encode() if isinstance(content, str) else content
        self.run(f"cat > {shlex.quote(path)} && chmod {mode} {shlex.quote(path)}", stdin=data)


def qmp(path: Path, command: str, **arguments: object) -> dict[str, object]:
    """Return QEMU's answer to one command on its monitor socket."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(60)
        monitor.connect(str(path))
        stream = monitor.makefile("rw", encoding="utf-8")
        stream.readline()
        for name, given in (("qmp_capabilities", {}), (command, arguments)):
            stream.write(json.dumps({"execute": name, "arguments": given}) + "\n")
            stream.flush()
            while True:
                answer = json.loads(stream.readline())
                if "error" in answer:
                    raise LabError(f"QEMU refuses {name}: {answer['error']['desc']}")
                if "return" in answer:
                    break
        result = answer["return"]
        return result if isinstance(result, dict) else {"return": result}
