"""Whatever happens to a node, every disk is found: on the fake often, and some times on real ZFS where there is one."""

from __future__ import annotations

import os
import time

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.life import Life
from tests.node import Node
from tests.playing import Game
from tests.realnode import RealNode

ROOT, DIRECTORY = os.environ.get("ZFSGANETI_CONTRACT_ROOT", ""), os.environ.get("ZFSGANETI_CONTRACT_DIR", "")
QUICK = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
EXAMPLES, STEPS, SECONDS = 8, 20, 60  # on real ZFS, where each step takes a second if the processor is emulated


class RealLife(Life):
    def make_node(self) -> Node:
        return RealNode(self.place, ROOT, DIRECTORY)

    def teardown(self) -> None:
        assert isinstance(self.node, RealNode)
        self.node.clean()
        super().teardown()


def test_whatever_happens_every_disk_is_found() -> None:
    if not ROOT:
        run_state_machine_as_test(Life, settings=QUICK)  # type: ignore[no-untyped-call, unused-ignore]
    game, until = Game(RealLife if ROOT else Life, {}), time.monotonic() + SECONDS
    for number in range(EXAMPLES):
        if time.monotonic() < until:
            game.play(number, STEPS, until)
    assert game.steps > 1
