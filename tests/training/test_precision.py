"""Number formats: gradients stay in fp32, and fp16's loss scale keeps them in range without showing in them."""

import json

import pytest
import torch

from daybreak.data.batches import Batch
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.guard import Guard
from daybreak.training.loop import accumulate, train
from daybreak.training.objectives import cross_entropy
from daybreak.training.precision import MixedPrecision

CPU = torch.device("cpu")
TOKENS = torch.arange(18).view(2, 9)
BATCH = Batch(TOKENS[:, :-1], TOKENS[:, 1:])


class TwoBatches:
    def __getitem__(self, step):
        return [BATCH, BATCH]

    def tokens_after(self, step):
        return 32 * (step + 1)


def model():
    return build(GPTConfig(vocab_size=64, context_length=8, n_layer=2, n_head=2, d_model=32, init_std=0.2), 0)


def gradients(precision):
    weights = model()
    loss = accumulate(weights, [BATCH], cross_entropy, precision)
    return loss, {name: parameter.grad for name, parameter in weights.named_parameters()}


def test_bf16_computes_in_16_bits_and_keeps_gradients_in_fp32():
    seen = []
    weights = model()
    weights.blocks[0].mlp.up.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    precision = MixedPrecision("bf16", CPU)
    loss = accumulate(weights, [BATCH], cross_entropy, precision)
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert {parameter.grad.dtype for parameter in weights.parameters()} == {torch.float32}
    exact_loss, exact = gradients(MixedPrecision("fp32", CPU))
    assert float(loss) == pytest.approx(float(exact_loss), rel=0.02)
    assert 0 < float((weights.norm.weight.grad - exact["norm.weight"]).norm() / exact["norm.weight"].norm()) < 0.1


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_without_a_scale_there_is_no_state(name):
    precision = MixedPrecision(name, CPU)
    assert precision.state_dict() == {}
    precision.load_state_dict({})


def test_fp16_scales_the_loss_and_brings_the_gradients_back():
    precision = MixedPrecision("fp16", CPU)
    weights = model()
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.0)
    accumulate(weights, [BATCH], cross_entropy, precision)
    scale = precision.state_dict()["scale"]
    assert scale == 65536.0
    _, exact = gradients(MixedPrecision("fp32", CPU))
    precision.unscale(optimizer)
    for name, parameter in weights.named_parameters():
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, exact[name], rtol=0.1, atol=5e-3)


def test_fp16_passes_an_overflow_over_halves_the_scale_and_goes_on():
    weights, precision, guard = model(), MixedPrecision("fp16", CPU), Guard()
    precision.load_state_dict({**precision.state_dict(), "scale": 2.0**30})  # so large that the first backward pass overflows
    before = {name: tensor.clone() for name, tensor in weights.state_dict().items()}
    optimizer = torch.optim.AdamW(weights.parameters(), lr=0.0)
    steps = train(weights, optimizer, TwoBatches(), lambda tokens: 1e-3, steps=40, precision=precision, guard=guard)
    first = next(steps)
    assert not first.verdict.accepted
    assert not optimizer.state
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.state_dict().items())
    assert precision.state_dict()["scale"] == 2.0**29
    taken = list(steps)
    assert taken[-1].verdict.accepted
    assert taken[-1].loss < first.loss
    assert all(torch.isfinite(tensor).all() for tensor in weights.state_dict().values())


def test_the_scale_survives_a_checkpoint():
    precision = MixedPrecision("fp16", CPU)
    state = {**precision.state_dict(), "scale": 512.0, "_growth_tracker": 7}
    again = MixedPrecision("fp16", CPU)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert again.state_dict() == state


def verdict(guard, step, loss):
    return guard.judge(step, torch.tensor(loss), torch.tensor(1.0))


def test_the_scale_goes_the_way_of_torch_s_own():
    ours, guard, theirs = MixedPrecision("fp16", CPU), Guard(), torch.amp.GradScaler("cpu")
    ours.load_state_dict({"scale": 65536.0, "_growth_tracker": 1990})
    theirs.load_state_dict({**theirs.state_dict(), "_growth_tracker": 1990})
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for step in range(40):
        loss = float("inf") if step in (3, 4, 30) else 1.0
        weight.grad = torch.tensor(loss) * theirs.get_scale()
        theirs.scale(torch.ones(()))
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        ours.step(optimizer, verdict(guard, step, loss))
        if step == 10:  # let it grow, too
            for scaler in (ours, theirs):
                scaler.load_state_dict({**scaler.state_dict(), "_growth_tracker": 1995})
        assert {name: theirs.state_dict()[name] for name in ours.state_dict()} == ours.state_dict()
    assert ours.state_dict()["scale"] == 65536.0 / 4 * 2 / 2


def test_a_spike_leaves_the_scale_alone():
    precision, guard = MixedPrecision("fp16", CPU), Guard()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], lr=0.0)
    for step in range(130):
        precision.step(optimizer, verdict(guard, step, 1.0))
    precision.step(optimizer, spike := verdict(guard, 130, 100.0))
    assert not spike.accepted
    assert precision.state_dict() == {"scale": 65536.0, "_growth_tracker": 131}
