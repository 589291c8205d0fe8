"""Number formats: each quick way equals the plain one, rows do not meet, and the model says nearly what it said before."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from daybreak.inference import trials
from daybreak.inference.formats import FORMATS, Format, QuantLinear, in_format
from daybreak.inference.rounding import GROUP, int4_groups, int8_rows
from daybreak.inference.trials import measure, quickest
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

WAYS = [(name, way) for name, form in FORMATS.items() for way in form.quick]
CONFIG = GPTConfig(vocab_size=300, context_length=32, n_layer=2, n_head=4, d_model=64, init_std=0.1)


def drawn(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def made(name, way, weight, bias):
    try:
        return FORMATS[name].quick[way](weight, bias)
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"this torch has no such operation here: {str(error).splitlines()[0]}")


@pytest.mark.parametrize(("name", "way"), WAYS)
@pytest.mark.parametrize(("outputs", "inputs", "biased"), [(64, 64, True), (192, 96, False), (100, 32, True), (7, 64, False)])
def test_each_quick_way_equals_the_plain_one(name, way, outputs, inputs, biased):
    weight, bias = drawn(outputs, inputs, scale=0.05), drawn(outputs, seed=1) if biased else None
    x = drawn(33, inputs, seed=2) * torch.logspace(-3, 3, 33)[:, None]  # rows of very different sizes
    layer = made(name, way, weight, bias)
    plain, quick = FORMATS[name].plain(weight, bias)(x), torch.cat([layer(x[:1]), layer(x[1:4]), layer(x[4:])])
    assert quick.shape == (33, outputs)
    assert quick.dtype == torch.float32
    # ATen does not round activations as the others do, and torch's bf16 rounds its results.
    most = 2 * FORMATS[name].error if way in ("aten", "torch") else min(FORMATS[name].error, 1e-3)
    assert float(((quick - plain).norm(dim=1) / plain.norm(dim=1).clamp_min(1e-6)).max()) <= most


@pytest.mark.parametrize(("name", "way"), [*WAYS, ("int8", "plain")])
def test_a_row_does_not_depend_on_its_neighbours(name, way):
    weight, x = drawn(128, 64, scale=0.05), drawn(9, 64, seed=2) * torch.logspace(-2, 2, 9)[:, None]
    layer = FORMATS[name].plain(weight, None) if way == "plain" else made(name, way, weight, None)
    together, in_threes, alone = (torch.cat([layer(rows) for rows in x.split(n)]) for n in (9, 3, 1))
    if name == "int8":  # sums of integers are exact; a row alone may be divided by its scale in another order
        assert torch.equal(together, in_threes)
    size = alone.abs().amax(dim=1, keepdim=True)
    torch.testing.assert_close(together / size, alone / size, rtol=0, atol=1e-3 if name == "int8" else 1e-6)


@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_rounding_is_to_the_nearest(seed, scale):
    weight = drawn(5, 64, seed=seed) * scale
    q, step = int8_rows(weight)
    assert q.dtype == torch.int8
    assert int(q.abs().max()) == 127
    assert ((q * step[:, None] - weight).abs() <= 0.5001 * step[:, None]).all()
    q, steps, middles = int4_groups(weight)
    wide = (q.view(5, -1, GROUP).float() - 8) * steps.float()[..., None] + middles.float()[..., None]
    # half a step, and what bf16 makes of step and middle
    assert ((wide.view(5, 64) - weight).abs().view(5, -1, GROUP) <= 0.62 * steps.float()[..., None]).all()
    assert 0 <= int(q.min()) <= int(q.max()) <= 15


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros_and_no_number_stays_none(name):
    layer = QuantLinear(torch.zeros(64, 64), torch.ones(64), quickest(name, 64, 64))
    assert torch.equal(layer(drawn(2, 64)), torch.ones(2, 64))
    layer = QuantLinear(drawn(64, 64), None, FORMATS[name].plain)
    assert torch.equal(layer(torch.zeros(1, 2, 64)), torch.zeros(1, 2, 64))
    assert layer(torch.full((1, 64), float("nan"))).isnan().all()


ERRORS = {"bf16": 0.03, "fp16w": 1e-3, "int8": 0.05, "int4": 0.35}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("choose", [None, quickest])
def test_a_model_in_a_format_says_nearly_what_it_said(name, choose):
    gpt = build(CONFIG, 1).eval()
    before = copy.deepcopy(gpt.state_dict())
    changed, tokens = in_format(gpt, name, choose), torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain, cache = gpt(tokens), KVCache(CONFIG, 2)
        logits = torch.cat([changed(tokens[:, :7], cache), changed(tokens[:, 7:], cache)], dim=1)
        error = float((logits - plain).norm() / plain.norm())
    assert 0 < error < ERRORS[name]
    assert {type(layer) for layer in changed.modules() if isinstance(layer, nn.Linear | QuantLinear)} == {QuantLinear}
    assert changed.token_embedding.weight.data_ptr() == gpt.token_embedding.weight.data_ptr()  # one copy beside the packed head
    assert gpt.head is None  # the given model is as it was
    assert all(torch.equal(value, before[key]) for key, value in gpt.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(gpt(tokens), plain)


def test_a_head_of_its_own_is_packed_too():
    gpt = build(GPTConfig(vocab_size=64, context_length=8, n_layer=1, n_head=2, d_model=32, tied_head=False), 1).eval()
    changed = in_format(gpt, "int8", quickest)
    assert isinstance(changed.head, QuantLinear)
    with torch.inference_mode():
        torch.testing.assert_close(changed(torch.tensor([[1, 2]])), gpt(torch.tensor([[1, 2]])), rtol=0.1, atol=0.05)


def test_the_trial_takes_the_quickest_that_is_right(monkeypatch):
    def slow(weight, bias):
        return lambda x: torch.stack([F.linear(x, weight, bias) for _ in range(50)])[0]

    def right(weight, bias):
        return lambda x: F.linear(x, weight, bias)

    def wrong(weight, bias):
        return lambda x: torch.zeros(len(x), len(weight))

    def missing(weight, bias):
        return torch.ops.quantized.no_such_operation(weight)

    quick = {"slow": slow, "wrong": wrong, "right": right, "missing": missing}
    monkeypatch.setitem(trials.FORMATS, "tried", Format(right, quick, 1e-3))
    monkeypatch.setitem(trials.FORMATS, "hopeless", Format(right, {"wrong": wrong, "missing": missing}, 1e-3))
    assert quickest("tried", 256, 256) is right
    assert quickest("hopeless", 256, 256) is right  # the plain one
    told = {way: (milliseconds, error) for way, milliseconds, error in measure("hopeless", 256, 256)}
    assert told["wrong"][0] == told["missing"][0] == float("inf")
    assert told["wrong"][1] == 1.0


def test_int4_names_a_shape_that_it_cannot_take():
    with pytest.raises(ValueError, match="wanted layers with a multiple of 32 inputs, came 48; take int8"):
        quickest("int4", 64, 48)
