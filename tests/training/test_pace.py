"""A step's time is its own: what compiled, and what was done between two steps, counts for none."""

from __future__ import annotations

import pytest

from daybreak.training.pace import Lap, Pace


class Clocks:
    """Three clocks that somebody sets."""

    now = waited = compiled = 0.0

    def pace(self):
        return Pace(lambda: self.waited, lambda: self.compiled, lambda: self.now)

    def on(self, now, waited=0.0, compiled=0.0):
        self.now, self.waited, self.compiled = self.now + now, self.waited + waited, self.compiled + compiled


def test_a_lap_is_the_time_since_the_last():
    clocks = Clocks()
    pace = clocks.pace()
    clocks.on(2.0, waited=0.5)
    assert pace.lap() == Lap(2.0, 0.0, 0.25)
    clocks.on(1.0)
    assert pace.lap() == Lap(1.0, 0.0, 0.0)


def test_compiling_is_told_apart():
    clocks = Clocks()
    pace = clocks.pace()
    clocks.on(30.0, compiled=29.0, waited=0.1)
    assert pace.lap() == Lap(1.0, 29.0, pytest.approx(0.1))


def test_what_was_done_in_between_counts_for_no_step():
    clocks = Clocks()
    pace = clocks.pace()
    clocks.on(60.0, waited=3.0, compiled=5.0)
    pace.skip()
    clocks.on(1.0)
    assert pace.lap() == Lap(1.0, 0.0, 0.0)


def test_no_clock_gives_nonsense():
    clocks = Clocks()
    pace = clocks.pace()
    lap = pace.lap()  # at once
    assert lap.seconds > 0
    clocks.on(1.0, waited=2.0)  # two clocks may differ
    assert pace.lap().data_share == 1.0
