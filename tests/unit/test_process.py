"""Programs that are asked for something, run without `subprocess`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zfsganeti.errors import Unavailable
from zfsganeti.process import ENVIRONMENT, execute, query

HOUSE = Path(__file__).parents[2]


def test_a_program_that_is_asked_ends_with_its_status_and_all_that_it_said() -> None:
    done = query(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo wrong >&2; exit 7"], seconds=60)
    assert (done.status, len(done.stdout), set(done.stdout), done.stderr) == (7, 3000000, {"x"}, "wrong\n")


def test_it_has_our_environment_no_input_and_what_python_ignores_is_not_ignored() -> None:
    done = query(["sh", "-c", "env -i PATH=$PATH true; cat; echo $PATH $LC_ALL; grep SigIgn /proc/self/status"], seconds=60)
    path, ignored = done.stdout.splitlines()
    assert path == f"{ENVIRONMENT['PATH']} {ENVIRONMENT['LC_ALL']}"
    assert not int(ignored.split()[1], 16) & (1 << 12 | 1 << 24)  # SIGPIPE, SIGXFSZ


def test_one_that_was_killed_says_by_what() -> None:
    assert query(["sh", "-c", "kill -9 $$"], seconds=60).status == -9


def test_one_that_is_too_slow_or_missing_is_unavailable() -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        query(["sleep", "600"], seconds=0.1)
    assert str(caught.value) == "sleep 600: no end within 0 s"
    assert time.monotonic() - started < 300
    for program in ("no-such-program", "/no/such/program"):
        with pytest.raises(Unavailable, match="is not installed"):
            query([program], seconds=60)


def test_what_is_asked_costs_no_module_that_takes_longer_than_the_program() -> None:
    body = (
        f"import sys; sys.path.insert(0, {str(HOUSE)!r})\nfrom zfsganeti import contents, images, here, volumes, process\n"
        "process.query(['true'], seconds=60)\nprint(*sorted(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-I", "-S", "-c", body], capture_output=True, text=True, check=True).stdout
    assert not {"subprocess", "re", "json", "hashlib", "ctypes", "signal", "typing", "sh", "cffi", "socket"} & set(said.split())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard, as at a terminal: who runs in the background of a shell inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_program_does_not_outlive_an_interruption_of_who_waits_for_it(tmp_path: Path) -> None:
    came, late = tmp_path / "came", tmp_path / "late"

    def interrupt() -> None:
        while not came.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        execute(["sh", "-c", f"echo $$ > {came}.new; mv {came}.new {came}; sleep 600; touch {late}"], seconds=60)
    pid = int(came.read_text())
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    assert not late.exists()
