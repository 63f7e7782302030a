"""Run on a node: a guest that writes to its disk, here and there, until it is told to stop; prints how often it wrote."""

from __future__ import annotations

import os
import random
import sys
import time


def main(device: str, told: str) -> None:
    descriptor = os.open(device, os.O_RDWR)
    size, count = os.lseek(descriptor, 0, os.SEEK_END), 0
    while not os.path.exists(told):
        os.pwrite(descriptor, os.urandom(4096), random.randrange(size // 4096) * 4096)
        os.fsync(descriptor)
        count += 1
        time.sleep(0.1)
    os.close(descriptor)
    print(count)


main(*sys.argv[1:])
