"""A state machine of Hypothesis's, played with dice where there is time for a few examples only.

Hypothesis begins with what is as small as can be, some versions for ten examples, and gives one up when a rule does not apply to it.
Here each is as long as it may be, and what does not apply is passed over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.stateful import INITIALIZE_RULE_MARKER, INVARIANT_MARKER, RULE_MARKER, RuleBasedStateMachine

BYTES = 1 << 16  # of dice for one example; each draw takes a few


class Told:
    """What a rule draws from, and what it has drawn."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.drawn: list[object] = []

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        self.drawn.append(self.data.draw(strategy))
        return self.drawn[-1]


class Game:
    """Examples of a machine, the same ones each time as long as its rules are the same; what each step was is printed.

    `often` says how many times as often as others some rules are chosen.
    """

    def __init__(self, make: Callable[[], RuleBasedStateMachine], often: Mapping[str, int]) -> None:
        self.make, self.often = make, often
        self.steps = 0

    def play(self, number: int, steps: int, until: float = float("inf")) -> None:
        """The example of that number is played, with so many steps unless the time is over before."""

        @given(st.data())
        def example(data: Any) -> None:
            print(f"example {number}")
            machine = self.make()
            try:
                self._play(machine, data, steps, until)
            finally:
                machine.teardown()

        dice = random.Random(number).randbytes(BYTES)
        played = example.hypothesis.fuzz_one_input(dice)  # type: ignore[attr-defined, unused-ignore]
        assert played is not None, "there are too few dice for so many steps"

    def _play(self, machine: RuleBasedStateMachine, data: Any, steps: int, until: float) -> None:
        for first in _marked(machine, INITIALIZE_RULE_MARKER):
            self._step(machine, data, first)
        rules = [rule for rule in _marked(machine, RULE_MARKER) for _time in range(self.often.get(rule.function.__name__, 1))]
        for _step in range(steps):
            if time.monotonic() >= until:
                return
            possible = [rule for rule in rules if all(holds(machine) for holds in rule.preconditions)]
            self._step(machine, data, possible[data.draw(st.integers(0, len(possible) - 1))])

    def _step(self, machine: RuleBasedStateMachine, data: Any, rule: Any) -> None:
        """What a rule says is done, with what the dice say, and all that always holds does."""
        told = Told(data)
        arguments = {name: data.draw(strategy) for name, strategy in rule.arguments.items() if name != "data"}
        print(f"  {rule.function.__name__} {arguments}", end="", flush=True)
        try:
            rule.function(machine, **arguments, **({"data": told} if "data" in rule.arguments else {}))
            self.steps += 1
        except UnsatisfiedAssumption:
            return
        finally:
            print("", *told.drawn)
        for invariant in _marked(machine, INVARIANT_MARKER):
            invariant.function(machine)


def _marked(machine: RuleBasedStateMachine, marker: str) -> list[Any]:
    """Return what the machine's methods are that bear a mark of Hypothesis's."""
    methods = [getattr(type(machine), name) for name in sorted(dir(type(machine)))]
    return [getattr(method, marker) for method in methods if hasattr(method, marker)]
