"""Run on a node: what a guest does to its disk through O_DIRECT, as QEMU with cache=none does it; prints what went wrong."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import sys
import time

BLKDISCARD = 0x1277  # linux/fs.h


def main(device: str, disk: str) -> None:
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT)
    for block in (512, 4096):
        written = {}
        for index in range(64):
            page = mmap.mmap(-1, block)  # O_DIRECT wants aligned memory
            data = hashlib.sha256(f"{block} {index}".encode()).digest() * (block // 32)
            page.write(data)
            offset = (1 << 20) + index * 3 * block
            assert os.pwritev(descriptor, [page], offset) == block
            written[offset] = data
        os.fsync(descriptor)
        for offset, data in written.items():
            page = mmap.mmap(-1, block)
            assert os.preadv(descriptor, [page], offset) == block, offset
            assert page.read(block) == data, f"{block} at {offset}"
    for _block in range(8):
        page = mmap.mmap(-1, 1 << 20)
        page.write(os.urandom(1 << 20))
        os.pwritev(descriptor, [page], (8 + _block) << 20)
    os.fsync(descriptor)
    _wait(lambda: os.stat(disk).st_blocks * 512 >= 8 << 20, "what was written takes no space")
    fcntl.ioctl(descriptor, BLKDISCARD, (8 << 20).to_bytes(8, "little") + (8 << 20).to_bytes(8, "little"))
    os.fsync(descriptor)
    page = mmap.mmap(-1, 4096)
    os.preadv(descriptor, [page], 8 << 20)
    assert page.read(4096) == bytes(4096), "what was discarded is still read"
    _wait(lambda: os.stat(disk).st_blocks * 512 < 8 << 20, "discard has freed nothing")
    os.close(descriptor)
    print("all is well")


def _wait(condition: object, complaint: str) -> None:
    deadline = time.monotonic() + 60  # ZFS counts blocks when a txg is through
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


main(*sys.argv[1:])
