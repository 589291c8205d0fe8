"""What processes that train together tell each other."""

from __future__ import annotations

import time

import pytest
from worlds import in_worlds, single

from daybreak.world import FailedElsewhere, World, briefly, is_lost


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


def one_fails(world, which):
    with world.together():
        if world.rank == which:
            raise ValueError("no text here")
    return "went on"


def told_of_failure(world, which):
    try:
        one_fails(world, which)
    except (ValueError, FailedElsewhere) as error:
        return type(error).__name__, str(error)


def test_what_fails_in_one_fails_in_all():
    assert in_worlds(3, told_of_failure, 1) == [
        ("FailedElsewhere", "rank 1: no text here"),
        ("ValueError", "no text here"),
        ("FailedElsewhere", "rank 1: no text here"),
    ]
    assert in_worlds(2, one_fails, None) == ["went on", "went on"]
    assert single(told_of_failure, 0) == ("ValueError", "no text here")


def roll(world):
    if world.rank != 1:
        world.note(10 + world.rank)
    world.wait()
    return world.roll_call()


def test_each_can_say_how_far_the_others_came():
    assert set(in_worlds(3, roll)) == {"rank 0 at step 10, rank 1 at its start, rank 2 at step 12"}


def test_a_store_that_never_answers_is_not_waited_for():
    class Silent:
        def check(self, keys):
            time.sleep(30)

    before = time.monotonic()
    assert World(size=2, store=Silent()).roll_call(patience=0.1) == "nobody can be asked where the others are"
    assert time.monotonic() - before < 5


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


@pytest.mark.parametrize(
    ("error", "lost", "said"),
    [
        (
            "[/__w/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]:27. This is typically caused by a crash. GLHF! 🏖️",
            True,
            "Connection closed by peer [10.0.0.1]:27",
        ),
        (
            "[Rank 0] Watchdog caught collective operation timeout: NCCL\nmore",
            True,
            "[Rank 0] Watchdog caught collective operation timeout: NCCL",
        ),
        ("mat1 and mat2 must have the same dtype", False, "mat1 and mat2 must have the same dtype"),
    ],
)
def test_an_exchange_that_failed_is_known_and_told_briefly(error, lost, said):
    assert is_lost(RuntimeError(error)) == lost
    assert briefly(RuntimeError(error)) == said


def test_what_another_process_says_is_not_a_loss():
    assert not is_lost(FailedElsewhere(1, "the disk timed out"))
