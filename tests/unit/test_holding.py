"""Who holds what: read from /proc of processes that are there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from zfsganeti.process import open_files


def test_a_process_holds_the_directory_that_it_works_in(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        try:
            held = [os.readlink(link) for link, status in open_files(str(process.pid)) if os.path.samestat(status, tmp_path.stat())]
        finally:
            process.kill()
    assert held == [str(tmp_path)]
