"""Whatever happens to a node, every disk is found: on the fake often, and some times on real ZFS where there is one."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.life import Life
from tests.node import Node
from tests.realnode import RealNode

ROOT, DIRECTORY = os.environ.get("ZFSGANETI_CONTRACT_ROOT", ""), os.environ.get("ZFSGANETI_CONTRACT_DIR", "")
QUICK = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
# each step takes a second where the processor is emulated, and a failure is told as it was found
SLOW = settings(QUICK, max_examples=6, stateful_step_count=20, phases=[Phase.generate])


class RealLife(Life):
    def make_node(self) -> Node:
        return RealNode(self.place, ROOT, DIRECTORY)

    def teardown(self) -> None:
        assert isinstance(self.node, RealNode)
        self.node.clean()
        super().teardown()


def test_whatever_happens_every_disk_is_found() -> None:
    life, how = (RealLife, SLOW) if ROOT else (Life, QUICK)
    run_state_machine_as_test(life, settings=how)  # type: ignore[no-untyped-call, unused-ignore]
