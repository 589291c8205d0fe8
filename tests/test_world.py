"""What processes that train together tell each other."""

from __future__ import annotations

import time

import pytest
from worlds import in_worlds, single


def exchange(world):
    said = {"rank": world.rank, "text": "é" * world.rank}
    return (
        world.highest(world.rank, -world.rank),
        world.total(0.5, world.rank),
        world.gather(said),
        world.agree(["leads", world.rank]),
    )


@pytest.mark.parametrize("size", [2, 3])
def test_all_hear_the_same(size):
    answers = in_worlds(size, exchange)
    highest, total, gathered, agreed = answers[0]
    assert answers == [answers[0]] * size
    assert highest == (size - 1, 0)
    assert total == (0.5 * size, sum(range(size)))
    assert gathered == [{"rank": rank, "text": "é" * rank} for rank in range(size)]
    assert agreed == ["leads", 0]


def test_alone_every_exchange_is_immediate():
    assert single(exchange) == ((0, 0), (0.5, 0), [{"rank": 0, "text": ""}], ["leads", 0])


def late(world):
    if world.rank == 1:
        time.sleep(0.3)
    before = time.monotonic()
    world.wait()
    return time.monotonic() - before


def test_waiting_is_for_all():
    waited = in_worlds(2, late)
    assert waited[0] > 0.2


def stuck(world):
    if world.rank == 0:
        world.wait()


def test_an_exchange_that_nobody_answers_fails_in_time():
    with pytest.raises(AssertionError, match=r"(?i)timed? ?out|closed by peer|connection"):
        in_worlds(2, stuck, patience=2.0)
