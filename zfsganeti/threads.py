"""Threads that may import what they need while others do the same."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


def pool(workers: int) -> ThreadPoolExecutor:
    """Return threads for so many calls at once.

    A class that is made a dataclass in one of them looks for `typing` in sys.modules, where it is found half imported while another
    thread is about to import it for the first time (Lib/dataclasses.py, up to 3.13 at least): so it is there before any begins.
    """
    import typing  # noqa: F401
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=workers)
