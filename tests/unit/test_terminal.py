"""What a person sees: columns, and the progress of what takes long."""

from __future__ import annotations

import sys

import pytest

from zfsganeti.terminal import Meter, table


class Clock:
    def __init__(self) -> None:
        self.moment = 0.0

    def __call__(self) -> float:
        return self.moment


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    assert table(("NAME", "USED"), [("a", "1K"), ("longer", "100M")], right=(1,)) == "NAME    USED\na         1K\nlonger  100M"


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    meter = Meter("debian-12")
    meter.what = "download"
    half = meter.line(50 << 20, 100 << 20, 10)
    assert half == f"debian-12: download 50.0M of 100M [{'#' * 15}{'.' * 15}] 50%, 0:10 left, 5.00M/s"
    assert meter.line(100 << 20, 100 << 20, 10).endswith("100%, 10.0M/s")
    assert meter.line(50 << 20, 0, 0) == "debian-12: download 50.0M"
    assert "100%" in meter.line(5, 4, 0), "a source may be longer than it said"


def test_a_terminal_gets_a_bar_and_a_log_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    for bar in (True, False):
        with Meter("image", now=clock) as meter:
            meter.bar = bar
            for second in range(130):
                clock.moment = second
                meter("convert", second, 130)
        said = capsys.readouterr()
        assert said.out == ""
        if bar:
            assert said.err.count("\r") == 130
            assert said.err.endswith("\n")
        else:
            assert said.err.count("\n") == 2


def test_nobody_is_told_of_what_was_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("image", now=Clock()) as meter:
        meter.bar = False
        for step in range(100):
            meter("convert", step, 99)
    assert capsys.readouterr().err == ""


class Hung:
    """A terminal that is gone after some writes."""

    encoding = "utf-8"

    def __init__(self, writes: int) -> None:
        self.left, self.tried = writes, 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.tried += 1
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error")
        return len(text)

    def flush(self) -> None:
        if self.left < 0:
            raise OSError(5, "Input/output error")


@pytest.mark.parametrize("writes", range(3))
def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    hung = Hung(writes)
    monkeypatch.setattr(sys, "stderr", hung)
    with Meter("web1") as meter:
        for number in range(5):
            meter(f"pass {number}", 1, 2)
        meter.rest()
    assert hung.tried <= writes + 2, "it was written to although it is gone"
