"""Operations that can be killed anywhere: what is before, what is done, and what two runs must have in common.

They die at every point on the fake (tests/unit/test_killed.py) and on real ZFS (tests/chaos/library.py).
"""

from __future__ import annotations

from tests.deaths import copies, exchanges, histories, images, installs, instances, volumes

OPERATIONS = {
    **instances.OPERATIONS, **volumes.OPERATIONS, **images.OPERATIONS, **installs.OPERATIONS, **copies.OPERATIONS, **histories.OPERATIONS,
    **exchanges.OPERATIONS,
}  # fmt: skip
NOW = 1_700_000_000  # at which a node's clock stands
CASES = [(name, boot) for name, operation in OPERATIONS.items() for boot in ((False, True) if operation.boots else (False,))]
