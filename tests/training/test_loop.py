"""The loop: the same gradient however a step is divided, and each of its promises to whoever iterates over it."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from daybreak.data.batches import Batch
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.loop import accumulate, clip_grad_norm, train
from daybreak.training.objectives import cross_entropy
from daybreak.training.precision import MixedPrecision

FP32 = MixedPrecision("fp32", torch.device("cpu"))
DRAW = torch.Generator().manual_seed(0)
IDS = torch.randint(64, (8, 9), generator=DRAW)
WEIGHTS = torch.rand(8, 8, generator=DRAW).double()


def model():
    return build(GPTConfig(vocab_size=64, context_length=8, n_layer=1, n_head=2, d_model=16, init_std=0.2), 0)


def exact(model, batch):
    """Cross-entropy without the rounding to fp32."""
    return F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten(), reduction="none").view_as(batch.targets)


def divided(sizes, weighted=False):
    rows = torch.split(IDS, sizes)
    weights = torch.split(WEIGHTS, sizes) if weighted else [None] * len(sizes)
    return [Batch(part[:, :-1], part[:, 1:], weight) for part, weight in zip(rows, weights, strict=True)]


def gradient(sizes, weighted=False):
    weights = model().double()
    loss = accumulate(weights, divided(sizes, weighted), exact, FP32)
    return loss, torch.cat([parameter.grad.flatten() for parameter in weights.parameters()])


class Steps:
    """The eight sequences, rotated by the step, in micro-batches of `size`."""

    def __init__(self, size=4):
        self.size, self.asked = size, []

    def __getitem__(self, step):
        self.asked.append(step)
        return [Batch(part[:, :-1], part[:, 1:]) for part in torch.split(IDS.roll(step, 0), self.size)]

    def tokens_after(self, step):
        return 64 * (step + 1)


def adamw(weights):
    return torch.optim.AdamW(weights.parameters(), lr=0.0)


@st.composite
def splits(draw):
    edges = sorted({0, 8, *draw(st.sets(st.integers(1, 7)))})
    return [end - start for start, end in itertools.pairwise(edges)]


@settings(max_examples=15)
@given(sizes=splits(), weighted=st.booleans())
def test_any_split_into_micro_batches_gives_the_same_loss_and_gradient(sizes, weighted):
    loss, grad = gradient(sizes, weighted)
    whole_loss, whole = gradient([8], weighted)
    assert float(loss) == pytest.approx(float(whole_loss), rel=1e-6)
    torch.testing.assert_close(grad, whole, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_the_mean():
    loss, grad = gradient([3, 5])
    weights = model().double()
    mean = exact(weights, *divided([8])).mean()
    mean.backward()
    torch.testing.assert_close(grad, torch.cat([parameter.grad.flatten() for parameter in weights.parameters()]), rtol=1e-9, atol=1e-12)
    assert float(loss) == pytest.approx(float(mean.detach()), rel=1e-6)


def test_weighted_batches_are_divided_by_the_weight_of_the_whole_step():
    loss, grad = gradient([2, 6], weighted=True)
    weights = model().double()
    mean = (exact(weights, *divided([8])) * WEIGHTS).sum() / WEIGHTS.sum()
    mean.backward()
    torch.testing.assert_close(grad, torch.cat([parameter.grad.flatten() for parameter in weights.parameters()]), rtol=1e-9, atol=1e-12)
    assert float(loss) == pytest.approx(float(mean.detach()), rel=1e-6)


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6])
def test_clipping_scales_to_the_norm_and_zero_means_never(max_norm):
    weights = model()
    accumulate(weights, divided([8]), cross_entropy, FP32)
    before = torch.cat([parameter.grad.flatten() for parameter in weights.parameters()])
    norm = clip_grad_norm(weights, max_norm)
    after = torch.cat([parameter.grad.flatten() for parameter in weights.parameters()])
    assert float(norm) == pytest.approx(float(before.norm()), rel=1e-5)
    assert float(norm) > 0.5
    torch.testing.assert_close(after, before * (0.5 / before.norm()) if max_norm == 0.5 else before, rtol=1e-4, atol=1e-9)


def test_nothing_happens_until_the_next_step_is_asked_for():
    weights, batches = model(), Steps()
    steps = train(weights, adamw(weights), batches, lambda tokens: 1e-2, steps=5)
    assert batches.asked == []
    assert next(steps).number == 0
    assert batches.asked == [0]
    steps.close()
    assert batches.asked == [0]


def test_what_a_step_says_of_itself():
    weights, batches, seen = model(), Steps(), []

    def schedule(tokens):
        seen.append(tokens)
        return tokens * 1e-5

    before = accumulate(copy.deepcopy(weights), batches[3], cross_entropy, FP32)
    steps = list(train(weights, adamw(weights), batches, schedule, steps=6, start=3))
    assert [step.number for step in steps] == [3, 4, 5]
    assert [step.tokens for step in steps] == [256, 320, 384] == seen
    assert [step.learning_rate for step in steps] == [tokens * 1e-5 for tokens in seen]
    assert float(steps[0].loss) == float(before)  # of the weights before the update
    assert all(step.verdict.accepted and not step.loss.requires_grad for step in steps)
    assert list(train(weights, adamw(weights), batches, schedule, steps=6, start=6)) == []


def test_it_learns():
    weights = model()
    losses = [float(step.loss) for step in train(weights, adamw(weights), Steps(), lambda tokens: 1e-2, steps=30)]
    assert losses[-1] < losses[0] / 2


def test_the_probe_sees_the_gradient_after_each_micro_batch():
    weights, seen = model(), []

    def probe(model):
        seen.append(float(model.norm.weight.grad.norm()))

    list(train(weights, adamw(weights), Steps(size=2), lambda tokens: 1e-3, steps=3, probe=probe))
    assert len(seen) == 3 * 4
    assert len(set(seen)) == len(seen)


def test_lr_scale_multiplies_the_schedule_for_its_group():
    weights = model()
    matrices = [parameter for parameter in weights.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in weights.parameters() if parameter.dim() < 2]
    frozen = copy.deepcopy(weights.state_dict())
    optimizer = torch.optim.SGD([{"params": matrices, "lr_scale": 0.5}, {"params": vectors, "lr_scale": 0.0}], lr=7.0)
    list(train(weights, optimizer, Steps(), lambda tokens: 0.1, steps=2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.0]
    changed = {name for name, tensor in weights.state_dict().items() if not torch.equal(tensor, frozen[name])}
    assert changed == {name for name, tensor in frozen.items() if tensor.dim() == 2}


def test_whoever_evaluates_between_two_steps_does_not_disturb_the_training():
    """Dropout is on again in the next step, and the gradients begin at zero."""
    results = []
    for disturb in (False, True):
        weights = build(GPTConfig(vocab_size=64, context_length=8, n_layer=1, n_head=2, d_model=16, dropout=0.3), 0)
        torch.manual_seed(5)
        losses = []
        for step in train(weights, adamw(weights), Steps(), lambda tokens: 1e-2, steps=4):
            losses.append(float(step.loss))
            assert weights.training
            if disturb:
                weights.eval()
                with torch.no_grad():
                    weights(IDS[:, :-1])
        results.append(losses)
    assert results[0] == results[1]
