"""The guard: what is not finite, or a spike, never reaches weights or moments; a resumed guard decides as one that never stopped."""

import copy
import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from worlds import in_worlds

from daybreak.data.batches import Batch
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.guard import WINDOW, Guard
from daybreak.training.loop import train
from daybreak.training.objectives import cross_entropy
from daybreak.training.optimizers.adamw import AdamW
from daybreak.training.optimizers.guarded import guarded_step
from daybreak.training.parallel import across

FINE, NAN, INF = torch.tensor(1.0), torch.tensor(math.nan), torch.tensor(math.inf)


def judged(guard, step, loss, grad_norm=1.0):
    figures = guard.judge(step, torch.tensor(float(loss)), torch.tensor(float(grad_norm))).figures
    return guard.tell(step, figures.tolist())


def noisy(count, seed=0):
    """Losses that fall, and gradient norms, of a healthy run."""
    draw = torch.Generator().manual_seed(seed)
    fall = 2.0 + 6.0 * torch.exp(-torch.arange(count) / 300.0)
    return list(
        zip(
            (fall + 0.1 * torch.randn(count, generator=draw)).tolist(),
            (0.3 * torch.randn(count, generator=draw)).exp().tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize(("loss", "grad_norm"), [(NAN, FINE), (INF, FINE), (FINE, NAN), (FINE, INF), (-INF, FINE)])
def test_what_is_not_finite_is_refused(loss, grad_norm):
    guard = Guard()
    assert judged(guard, 0, FINE, FINE).accepted
    told = judged(guard, 1, loss, grad_norm)
    assert (told.accepted, told.reason) == (False, "the loss or the gradient was not finite")
    assert judged(guard, 2, FINE, FINE).accepted
    assert guard.counts() == {"not_finite": 1, "spikes": 0}


def test_a_gradient_of_nothing_is_fine():
    guard = Guard()
    assert all(judged(guard, step, 1.0, 0.0).accepted for step in range(2 * WINDOW))


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_run_has_no_spikes(seed):
    guard = Guard()
    assert all(judged(guard, step, *figures).accepted for step, figures in enumerate(noisy(2000, seed)))


@pytest.mark.parametrize(("loss", "grad_norm", "what"), [(8.0, 1.0, "loss"), (2.1, 50.0, "gradient norm"), (20.0, 9.0, "loss")])
def test_a_spike_is_refused_by_name_and_does_not_become_usual(loss, grad_norm, what):
    guard = Guard()
    healthy = noisy(3 * WINDOW)
    for step, figures in enumerate(healthy):
        judged(guard, step, *figures)
    window = guard.state_dict()["window"]
    for step in range(3):
        told = judged(guard, len(healthy) + step, loss, grad_norm)
        assert not told.accepted
        assert told.reason.startswith(f"the {what} was ")
    assert guard.state_dict()["window"] == window
    assert judged(guard, len(healthy) + 3, *healthy[-1]).accepted
    assert guard.counts() == {"not_finite": 0, "spikes": 3}


def test_before_the_window_is_full_and_without_a_limit_there_are_no_spikes():
    young, blind = Guard(), Guard(spike=None)
    for step, figures in enumerate(noisy(WINDOW)):
        assert judged(blind, step, *figures).accepted
        assert judged(young, step, *figures).accepted
        if step < WINDOW - 1:
            assert judged(copy.deepcopy(young), step + 1, 1e6).accepted
    assert not judged(young, WINDOW, 1e6).accepted
    assert judged(blind, WINDOW, 1e6).accepted


def plain_verdicts(figures, spike, patience, budget, per):
    """The guard once more, with lists and numpy's words: (accepted, first troubled step or None) of each step."""
    kept, refused, in_a_row = [], [], 0
    for step, (loss, norm) in enumerate(figures):
        accepted = math.isfinite(loss) and math.isfinite(norm)
        if accepted and len(kept) >= WINDOW:
            for now, before, floor in ((loss, [a for a, _ in kept], None), (math.log(norm), [math.log(b) for _, b in kept], 0.2)):
                before = sorted(before[-WINDOW:])
                median = before[WINDOW // 2]
                deviation = 1.4826 * sorted(abs(value - median) for value in before)[WINDOW // 2]
                accepted &= (now - median) / max(deviation, floor or 0.02 * abs(median)) <= spike
        first = None
        if accepted:
            kept.append((loss, norm))
            in_a_row = 0
        else:
            in_a_row += 1
            refused.append(step)
            if in_a_row >= patience:
                first = step + 1 - in_a_row
            recent = refused[-budget - 1 :]
            if len(recent) > budget and step - recent[0] < per:
                first = min(recent[0], step if first is None else first)
        yield accepted, first


@examples(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.01, 0.3))
def test_it_decides_as_the_plain_rule_does(seed, share):
    draw = torch.Generator().manual_seed(seed)
    figures = noisy(2 * WINDOW, seed)
    for step in range(len(figures)):
        if torch.rand((), generator=draw) < share:
            figures[step] = [(math.nan, 1.0), (40.0, 1.0), (2.0, 3000.0), (2.0, math.inf)][int(torch.randint(4, (), generator=draw))]
    limits = {"spike": 8.0, "patience": 3, "budget": 6, "per": 40}
    guard = Guard(**limits)
    expected = list(plain_verdicts(figures, **limits))
    told = [judged(guard, step, *each) for step, each in enumerate(figures)]
    assert [(each.accepted, each.trouble and each.trouble.first) for each in told] == expected


def test_patience_ends_in_trouble_that_names_its_steps():
    guard = Guard(patience=3)
    trouble = [judged(guard, step, loss).trouble for step, loss in enumerate([1, math.nan, math.nan, 1, math.nan, math.nan, math.nan])]
    assert trouble[:-1] == [None] * 6
    assert (trouble[-1].first, trouble[-1].last) == (4, 6)
    assert trouble[-1].said == "the loss or the gradient was not finite for 3 steps in a row"


def test_a_budget_that_is_spent_ends_in_trouble_from_the_first_refusal_on():
    guard = Guard(budget=2, per=10)
    broken = {3, 20, 25, 29}
    told = {step: judged(guard, step, math.nan if step in broken else 1.0).trouble for step in range(30)}
    assert {step for step, trouble in told.items() if trouble} == {29}
    assert (told[29].first, told[29].last, told[29].said) == (20, 29, "more than 2 of 10 steps were refused")


@pytest.mark.parametrize("cut", [0, 5, WINDOW, WINDOW + 40, 2 * WINDOW + 1])
def test_a_resumed_guard_decides_as_one_that_never_stopped(cut):
    figures = noisy(3 * WINDOW)
    for step in (*range(20, 300, 31), 200, 201, 280):
        figures[step] = (math.nan, 1.0) if step % 2 else (30.0, 2.0)
    straight, stopped = Guard(budget=4, per=60), Guard(budget=4, per=60)
    for step, each in enumerate(figures):
        if step == cut:
            state = json.loads(json.dumps(stopped.state_dict()))
            stopped = Guard(budget=4, per=60)
            stopped.load_state_dict(state)
        one, other = (guard.judge(step, *map(torch.tensor, each)).figures for guard in (straight, stopped))
        assert one.numpy().tobytes() == other.numpy().tobytes()  # NaN included
    assert straight.state_dict() == stopped.state_dict()
    assert min(straight.counts().values()) > 0


def test_a_state_of_another_budget_is_refused():
    with pytest.raises(ValueError, match=r"guard: wanted refused of shape \(8,\), came \(32,\); keep the guard's settings"):
        Guard(budget=8).load_state_dict(Guard().state_dict())


# --- in the loop -------------------------------------------------------------------------------------------------------------


class SameBatch:
    def __getitem__(self, step):
        tokens = torch.arange(18).view(2, 9)
        return [Batch(tokens[:, :-1], tokens[:, 1:])]

    def tokens_after(self, step):
        return 16 * (step + 1)


def small(seed=0):
    return build(GPTConfig(vocab_size=64, context_length=8, n_layer=1, n_head=1, d_model=8), seed)


def breaking(broken, how):
    """The objective, in the given steps with a loss or a gradient that is not finite."""
    number = iter(range(100))

    def objective(model, batch):
        losses = cross_entropy(model, batch)
        if next(number) not in broken:
            return losses
        return losses * math.nan if how == "loss" else losses + (model.norm.bias * 0.0).sum().sqrt()  # 0 times its infinite slope

    return objective


MAKERS = {
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.0, fused=True),
    "foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.0, foreach=True),
    "plain": lambda parameters: AdamW(parameters, lr=0.0),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.0, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_broken_step_changes_no_bit_of_weights_or_moments(make, how):
    model = small()
    optimizer = make(model.parameters())
    broken = {0, 2, 3}
    steps = train(model, optimizer, SameBatch(), lambda tokens: 1e-2, steps=6, objective=breaking(broken, how))
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for step in steps:
        state = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
        assert bool(step.verdict.accepted) == (step.number not in broken)
        if step.number in broken:
            assert not (torch.isfinite(step.loss) and torch.isfinite(step.grad_norm))
            assert all(torch.equal(state[0][key], kept[0][key]) for key in state[0])
            assert all(torch.equal(state[1][i][key], kept[1][i][key]) for i in kept[1] for key in kept[1][i] if kept[1][i][key] is not None)
        else:
            assert not torch.equal(state[0]["norm.weight"], kept[0]["norm.weight"])
        assert all(parameter.grad is None for parameter in model.parameters())
        kept = state


def broken_and_whole(make):
    """The weights after steps of which some were broken, and after as many good ones."""
    models = []
    for broken, steps in (({0, 2, 3}, 6), (set(), 3)):
        model = small()
        list(train(model, make(model.parameters()), SameBatch(), lambda tokens: 1e-2, steps=steps, objective=breaking(broken, "loss")))
        models.append(model.state_dict())
    return models


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_refused_steps_are_as_if_they_had_not_been(make):
    one, other = broken_and_whole(make)
    assert all(torch.equal(one[name], other[name]) for name in one)


def divided(world, layout):
    """One rank's gradient is broken in step 1, another's loss in step 2; what every rank decides and ends with."""
    ways = across(layout, world, torch.device("cpu"))
    model = small()
    ways.place(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def objective(model, batch):
        losses = cross_entropy(model, batch)
        calls.append(0)
        broken = len(calls) == 2 + world.rank
        return losses * math.nan if broken else losses

    calls = []
    accepted, weights = [], []
    for step in train(model, optimizer, SameBatch(), lambda tokens: 1e-2, steps=5, objective=objective, across=ways):
        accepted.append(bool(step.verdict.accepted))
        weights.append([ways.whole(parameter.detach()).clone() for parameter in model.parameters()])
    unchanged = [all(map(torch.equal, now, before)) for before, now in itertools.pairwise(weights)]
    steps = {float(state["step"]) for state in optimizer.state.values()}
    return accepted, unchanged, steps, bool(torch.stack([w.isfinite().all() for w in weights[-1]]).all())


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_what_breaks_on_one_rank_is_refused_on_all(layout):
    answers = in_worlds(2, divided, layout)
    assert answers == [([True, False, False, True, True], [True, True, False, False], {3.0}, True)] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nobody_waits_for_the_verdict():
    weight = torch.nn.Parameter(torch.ones(8, device="cuda"))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    guard, loss = Guard("cuda"), torch.tensor([1.0, math.nan], device="cuda")
    for step in range(3):
        weight.grad = torch.full_like(weight, 2.0) * loss[step % 2]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            guarded_step(optimizer, guard.judge(step, loss[step % 2], loss[0]).accepted)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert guard.counts() == {"not_finite": 1, "spikes": 0}
    assert torch.isfinite(weight).all()
    assert float(optimizer.state[weight]["step"]) == 2.0
