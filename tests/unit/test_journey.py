"""Whatever happens to a cluster, everything is where it should be: on the fake, often."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.journey import Journey


def test_whatever_happens_everything_is_where_it_should_be_and_nowhere_else() -> None:
    run_state_machine_as_test(
        Journey,
        settings=settings(
            max_examples=110,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
