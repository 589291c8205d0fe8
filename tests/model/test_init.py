"""Every initial weight: drawn as the table says, from the seed and the name alone."""

import dataclasses
import math

import pytest
import torch

from daybreak.model.config import GPTConfig
from daybreak.model.init import build, std_table

TINY = GPTConfig(vocab_size=50, context_length=12, n_layer=2, n_head=2, d_model=16)
MID = GPTConfig(vocab_size=2000, context_length=256, n_layer=6, n_head=4, d_model=128)


@pytest.mark.parametrize(("residual_scaling", "residual"), [("paper", 0.02 / math.sqrt(12)), ("openai", 0.02)])
@pytest.mark.parametrize("position_init_std", [0.01, 0.02])
def test_every_initial_weight_is_as_the_table_says(residual_scaling, residual, position_init_std):
    config = dataclasses.replace(MID, residual_scaling=residual_scaling, position_init_std=position_init_std)
    model = build(config, 3)
    table = std_table(config)
    assert table["attention.out.weight"] == table["mlp.down.weight"] == pytest.approx(residual)
    assert table["position_embedding.weight"] == position_init_std
    assert table["token_embedding.weight"] == table["attention.qkv.weight"] == table["mlp.up.weight"] == 0.02
    seen = set()
    for name, parameter in model.state_dict().items():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            ending = next(ending for ending in table if name.endswith(ending))
            drawn = parameter[: MID.tokens] if "token" in name else parameter
            error = 5 / math.sqrt(2 * drawn.numel())  # five standard errors of a standard deviation
            assert float(drawn.std()) == pytest.approx(table[ending], rel=error), name
            assert abs(float(drawn.mean())) < 5 * table[ending] / math.sqrt(drawn.numel()), name
            seen.add(ending)
    assert seen == set(table) - {"mlp.gate.weight", "head.weight"}  # which GPT-2 has not


@pytest.mark.parametrize(("token_init_std", "of_tokens"), [(None, 0.02), (0.8, 0.8)])
def test_the_other_parts_begin_as_the_table_says(token_init_std, of_tokens):
    others = {"activation": "swiglu", "norm": "rmsnorm", "tied_head": False, "residual_scaling": "zero", "position": "rotary"}
    config = dataclasses.replace(MID, **others, token_init_std=token_init_std, head_init_std=0.001, embedding_norm=True)
    state, table = build(config, 3).state_dict(), std_table(config)
    assert table["token_embedding.weight"] == of_tokens
    for name, std in [("token_embedding.weight", of_tokens), ("head.weight", 0.001), ("blocks.1.mlp.gate.weight", 0.02)]:
        assert float(state[name][: MID.tokens].std()) == pytest.approx(std, rel=0.02), name
    assert not any(state[f"blocks.{layer}.{part}.weight"].any() for layer in range(6) for part in ("attention.out", "mlp.down"))
    assert not state["head.weight"][MID.tokens :].any()
    assert (state["embedding_norm.weight"] == 1).all()
    assert "position_embedding.weight" not in state


def test_the_initial_weights_depend_on_seed_and_name_only():
    first, again, other = build(TINY, 5).state_dict(), build(TINY, 5).state_dict(), build(TINY, 6).state_dict()
    torch.manual_seed(99)
    assert all(torch.equal(first[name], again[name]) for name in first)
    deeper = build(dataclasses.replace(TINY, n_layer=3, init_std=TINY.init_std), 5).state_dict()
    assert torch.equal(first["blocks.1.mlp.up.weight"], deeper["blocks.1.mlp.up.weight"])
    matrices = [name for name in first if first[name].dim() == 2]
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    assert not torch.equal(first["blocks.0.mlp.up.weight"], first["blocks.1.mlp.up.weight"])


def test_neither_pattern_nor_band_change_an_initial_weight():
    dense, banded = (build(dataclasses.replace(TINY, attention_pattern=pattern), 5).state_dict() for pattern in (("dense",), ("banded",)))
    assert dense.keys() == banded.keys()
    assert all(torch.equal(dense[name], banded[name]) for name in dense)


def test_building_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    build(TINY, 5)
    assert torch.equal(before, torch.get_rng_state())


def test_the_initial_weights_are_these_forever():
    drawn = build(TINY, 1337).state_dict()["blocks.0.attention.qkv.weight"][0, :3]
    assert drawn.tolist() == pytest.approx([0.00639163, 0.01716178, 0.00862406], abs=1e-7)
