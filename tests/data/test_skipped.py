"""What a run leaves out: the rest moves up, in order, each once."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.batches import Batches
from daybreak.data.skipped import Skipped
from daybreak.data.steps import Steps

STRETCHES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6)


@given(STRETCHES)
def test_what_is_left_is_a_list_without_the_stretches(stretches):
    skipped, left = Skipped(), list(range(400))
    for first, length in stretches:
        skipped = skipped.without(first, first + length)
        del left[first : first + length]
    assert skipped.places(np.arange(200)).tolist() == left[:200]
    assert all(end < first for (_, end), (first, _) in pairwise(skipped.stretches))


@pytest.mark.parametrize(("first", "end"), [(3, 3), (5, 2), (-1, 4)])
def test_a_stretch_of_nothing_is_refused(first, end):
    with pytest.raises(ValueError, match=rf"wanted a stretch that begins at 0 or later and holds something, came {first} to {end}"):
        Skipped().without(first, end)


class Numbers:
    def __len__(self):
        return 4 * 50 + 1

    def windows(self, starts, length):
        return starts[:, None] + np.arange(length)


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_go_on_past_what_is_skipped_on_every_rank(world_size):
    steps = Steps(32, 16, 64)  # the batch grows, so a step's place in the order is not its number's

    def windows(batches, step):
        return torch.cat([part.inputs[:, 0] for rank in batches for part in rank[step]]).tolist()

    def on_all_ranks():
        return [
            Batches(Numbers(), context_length=4, batch_tokens=steps, micro_batch=1, seed=3, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]

    plain, skipping = on_all_ranks(), on_all_ranks()
    order = [window for step in range(40) for window in windows(plain, step)]
    first, end = steps.before(2) // 4, steps.before(5) // 4
    for batches in skipping:
        batches.skipped = Skipped().without(first, end)
    del order[first:end]
    seen = [window for step in range(30) for window in windows(skipping, step)]
    assert seen == order[: len(seen)]
    assert [len(windows(skipping, step)) for step in range(8)] == [len(windows(plain, step)) for step in range(8)]
