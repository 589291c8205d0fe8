"""Batches: every window once an epoch, the same global batch on any number of ranks, and nothing but the step to remember."""

import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.batches import Ahead, Batches, validation_windows
from daybreak.data.steps import Steps, indivisible, largest_micro_batch

CPU = torch.device("cpu")


class Numbers:
    """A text in which every token is its own position."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def windows(self, starts, length):
        assert len(starts) == 0 or (starts.min() >= 0 and starts.max() + length <= self.length)
        return np.asarray(starts)[:, None] + np.arange(length)


def batches(length=1000, context_length=8, sequences=4, micro_batch=2, **more):
    return Batches(Numbers(length), context_length=context_length, batch_tokens=sequences * context_length, micro_batch=micro_batch, **more)


def rows(step):
    return torch.cat([batch.inputs for batch in step])


@given(windows=st.integers(1, 60), rest=st.integers(0, 7), sequences=st.integers(1, 9), seed=st.integers(0, 5), epochs=st.integers(1, 4))
def test_every_token_is_predicted_once_an_epoch(windows, rest, sequences, seed, epochs):
    made = batches(windows * 8 + 1 + rest, sequences=sequences, micro_batch=1, seed=seed)
    assert made.windows == windows
    steps = [made[step] for step in range(-(-epochs * windows // sequences))]
    targets = torch.cat([batch.targets for step in steps for batch in step])[: epochs * windows]
    for epoch in targets.split(windows):
        assert sorted(epoch.flatten().tolist()) == list(range(1, windows * 8 + 1))


def test_epochs_come_in_different_orders():
    made = batches(100 * 8 + 1)
    first, second = (made.window_numbers(np.arange(100) + 100 * epoch) for epoch in (0, 1))
    assert (first == second).sum() < 10


@given(seed=st.integers(0, 3), step=st.integers(0, 200), micro_batch=st.sampled_from([1, 2]))
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_together_see_the_global_batch_in_order(world_size, seed, step, micro_batch):
    alone = batches(sequences=8, micro_batch=8, seed=seed)[step]
    shared = [
        batches(sequences=8, micro_batch=micro_batch, seed=seed, rank=rank, world_size=world_size)[step] for rank in range(world_size)
    ]
    assert torch.equal(torch.cat([rows(share) for share in shared]), rows(alone))
    for share in shared:
        assert [len(batch.inputs) for batch in share] == [micro_batch] * (8 // world_size // micro_batch)


@given(steps=st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_a_step_depends_on_nothing_but_its_number(steps):
    used = batches()
    for step in steps:
        again, fresh = used[step], batches()[step]
        assert all(torch.equal(a, b) for x, y in zip(again, fresh, strict=True) for a, b in zip(x[:2], y[:2], strict=True))


def test_targets_are_what_follows_and_windows_do_not_cross_their_edges():
    for batch in batches()[3]:
        assert batch.weights is None
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.inputs.shape == batch.targets.shape == (2, 8)
        assert torch.equal(batch.targets, batch.inputs + 1)
        assert not (batch.inputs[:, 0] % 8).any()


def test_seeds_differ_and_tokens_are_counted():
    assert not torch.equal(rows(batches(seed=0)[0]), rows(batches(seed=1)[0]))
    assert [batches().tokens_after(step) for step in (0, 1, 9)] == [32, 64, 320]


def test_the_order_of_a_run_is_this_forever():
    starts = [int(window) for step in range(2) for window in rows(batches(seed=1337)[step])[:, 0]]
    assert starts == [720, 280, 160, 800, 760, 536, 752, 232]


def test_threads_that_cross_epochs_do_not_disturb_each_other():
    made = batches(40, sequences=4)  # four windows: every step is an epoch
    expected = [rows(made[step]) for step in range(50)]
    wrong = []

    def reader(offset):
        for step in range(50):
            number = (step + offset) % 50
            if not torch.equal(rows(made[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=reader, args=(offset,)) for offset in (0, 7, 23)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- wrong requests ----------------------------------------------------------------------------------------------------------


def test_a_text_too_short_for_a_window_is_named():
    batches(9)
    with pytest.raises(ValueError, match="has 8 tokens, wanted at least 9 for one window of context_length = 8"):
        batches(8)


@pytest.mark.parametrize(
    ("batch_tokens", "micro_batch", "world_size", "said"),
    [
        (100, 2, 1, r"multiple of 16 \(context_length 8 x micro_batch 2\), came 100; nearest 96 and 112"),
        (96, 2, 4, r"multiple of 64 \(context_length 8 x micro_batch 2 x 4 devices\), came 96; nearest 64 and 128"),
        (8, 2, 1, "came 8; nearest 16$"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_told_the_nearest_that_can(batch_tokens, micro_batch, world_size, said):
    with pytest.raises(ValueError, match=said):
        Batches(Numbers(999), context_length=8, batch_tokens=batch_tokens, micro_batch=micro_batch, world_size=world_size)


@given(st.integers(1, 500), st.integers(1, 20), st.integers(1, 8), st.integers(1, 4))
def test_the_nearest_that_it_names_are_legal(batch_tokens, context_length, micro_batch, world_size):
    problem = indivisible(batch_tokens, context_length, micro_batch, world_size)
    unit = context_length * micro_batch * world_size
    assert bool(problem) == (batch_tokens % unit != 0)
    for size in problem.partition("nearest ")[2].split(" and ") if problem else ():
        assert indivisible(int(size.replace(",", "")), context_length, micro_batch, world_size) == ""


@given(st.integers(1, 200), st.integers(0, 50))
def test_a_micro_batch_is_the_largest_that_divides(sequences, most):
    chosen = largest_micro_batch(sequences, most)
    assert sequences % chosen == 0
    assert chosen == 1 or chosen <= most
    assert not any(sequences % larger == 0 for larger in range(chosen + 1, most + 1))


# --- a batch that grows ------------------------------------------------------------------------------------------------------


@given(
    levels=st.integers(1, 6), ramp=st.integers(0, 400), windows=st.integers(1, 60), seed=st.integers(0, 3), world=st.sampled_from([1, 2])
)
def test_while_the_batch_grows_the_windows_come_in_the_same_order(levels, ramp, windows, seed, world):
    growing = Steps(levels * 16, 16, max(ramp, 1)) if levels > 1 else Steps(16)
    length = windows * 8 + 1
    ranks = [
        Batches(Numbers(length), context_length=8, batch_tokens=growing, micro_batch=1, seed=seed, rank=rank, world_size=world)
        for rank in range(world)
    ]
    steady = batches(length, sequences=1, micro_batch=1, seed=seed)
    seen = [rows(rank[step]) for step in range(12) for rank in ranks]
    assert torch.equal(torch.cat(seen), torch.cat([rows(steady[step]) for step in range(growing.before(12) // 8)]))
    assert [ranks[0].tokens_after(step) for step in range(12)] == [growing.before(step + 1) for step in range(12)]


def test_what_steps_would_see_can_be_left_out_and_the_rest_moves_up():
    whole, cut = batches(), batches()
    cut.skip(2, 3)
    assert [rows(cut[step]).tolist() for step in range(6)] == [rows(whole[step]).tolist() for step in (0, 1, 4, 5, 6, 7)]
    cut.skip(1, 1)
    assert [rows(cut[step]).tolist() for step in range(3)] == [rows(whole[step]).tolist() for step in (0, 4, 5)]


# --- reading ahead -----------------------------------------------------------------------------------------------------------


def test_reading_ahead_gives_the_same_batches_forward_and_back():
    direct, ahead = batches(), Ahead(batches(), CPU)
    assert ahead.tokens_after(4) == direct.tokens_after(4)
    for step in (0, 1, 2, 7, 8, 3, 3, 4, 0):
        assert torch.equal(rows(ahead[step]), rows(direct[step]))
    ahead.close()


class Recording(Batches):
    """Notes who reads what, and fails at one step as often as it is told to."""

    def __init__(self, fails_at=None, times=1):
        super().__init__(Numbers(1000), context_length=8, batch_tokens=32, micro_batch=4)
        self.fails_at, self.times, self.read = fails_at, times, []

    def __getitem__(self, step):
        self.read.append((step, threading.current_thread() is threading.main_thread()))
        if step == self.fails_at and self.times > 0:
            self.times -= 1
            raise OSError("the disk is gone")
        return super().__getitem__(step)


def test_the_next_step_is_read_in_another_thread():
    recording = Recording()
    ahead = Ahead(recording, CPU)
    for step in range(3):
        ahead[step]
    ahead.close()
    assert recording.read[0] == (0, True)
    assert recording.read[1:3] == [(1, False), (2, False)]


def test_an_error_in_the_reading_thread_surfaces_at_its_step_and_may_pass():
    ahead = Ahead(Recording(fails_at=2), CPU)
    ahead[0]
    ahead[1]
    with pytest.raises(OSError, match="the disk is gone"):
        ahead[2]
    assert torch.equal(rows(ahead[2]), rows(Recording()[2]))
    ahead.close()


# --- validation --------------------------------------------------------------------------------------------------------------


@given(length=st.integers(2, 300), context_length=st.integers(1, 40))
def test_all_validation_windows_predict_each_token_once(length, context_length):
    windows = validation_windows(Numbers(length), context_length)
    predicted = [start + 1 + i for start, size in windows for i in range(size)]
    assert predicted == list(range(1, length))
    assert all(size == context_length for _, size in windows[:-1])
    assert 1 <= windows[-1][1] <= context_length


@given(length=st.integers(2, 300), context_length=st.integers(1, 40), most=st.integers(1, 400))
def test_fewer_validation_windows_are_spread_over_the_text(length, context_length, most):
    every = validation_windows(Numbers(length), context_length)
    windows = validation_windows(Numbers(length), context_length, most)
    starts = [start for start, _ in every]
    places = [starts.index(start) for start, _ in windows]
    assert places == sorted(set(places))  # windows of the whole set, in order, none twice
    assert all(1 <= size <= every[place][1] for place, (_, size) in zip(places, windows, strict=True))
    predicted = sum(size for _, size in windows)
    assert min(most, length - 1) - context_length < predicted <= min(most, length - 1)
    gaps = [later - earlier for earlier, later in pairwise(places)]
    assert not gaps or max(gaps) - min(gaps) <= 1
