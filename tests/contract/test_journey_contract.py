"""Whatever happens to a cluster, everything is where it should be: some times on the fake, and on real ZFS where there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.contract.test_zfs_contract import DIRECTORY, ROOT, own_root
from tests.journey import Journey
from tests.playing import Game
from tests.realrig import RealRig, clean
from tests.rig import Rig, make_rig
from zfsganeti.zfs import Zfs

EXAMPLES, STEPS = (4, 6, 5, 1, 7, 3, 2, 0), 12  # those first in which most is moved
SECONDS = 90  # until the last step begins, which may take as long where the processor is emulated; there it is less than two examples
OFTEN = {"move": 4, "send_ahead": 3, "push": 2, "give_a_move_up": 2, "make_independent": 2, "add": 2}  # what is most of ZFS


@pytest.fixture
def machine() -> Iterator[type[Journey]]:
    if not ROOT:
        yield Journey
        return
    top, directory = own_root(Zfs(), ROOT, DIRECTORY)

    class RealJourney(Journey):
        def make_rig(self) -> Rig:
            return make_rig(self.place, self.patch, lambda place: RealRig(place, top, directory))

    yield RealJourney
    clean(top, directory)


def test_whatever_happens_everything_is_where_it_should_be_and_nowhere_else(machine: type[Journey]) -> None:
    game, until = Game(machine, OFTEN), time.monotonic() + SECONDS
    for number in EXAMPLES:
        if time.monotonic() < until:
            game.play(number, STEPS, until)
    assert game.steps > 1
