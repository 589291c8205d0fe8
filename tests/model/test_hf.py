"""Hugging Face's form of GPT-2: the same logits there and here, both ways, and a refusal by name of what cannot be represented."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.tokenizer import load_tokenizer
from daybreak.files import FileProblem
from daybreak.loading import load, write_model
from daybreak.model import hf
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.init import build

transformers = pytest.importorskip("transformers")

VALUES = {"vocab_size": 70, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 3, "layer_norm_epsilon": 1e-4}
TOKENS = torch.randint(70, (2, 16), generator=torch.Generator().manual_seed(0))


def theirs(**other):
    torch.manual_seed(0)
    shape = transformers.GPT2Config(**{"initializer_range": 0.3, **VALUES, **other}, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(shape)
    for parameter in model.parameters():  # their biases and gains begin at 0 and 1, which would hide a mix-up
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def ours(state, config):
    model = GPT(config)
    model.load_state_dict(hf.import_state(state, config))
    return model.eval()


def test_their_model_gives_the_same_logits_here_and_the_same_bits_back():
    model = theirs()
    config = hf.import_config(model.config.to_dict())
    assert (config.tokens, config.context_length, config.n_layer, config.n_head, config.d_model) == (70, 16, 3, 3, 24)
    assert config.layer_norm_epsilon == 1e-4
    imported = ours(model.state_dict(), config)
    with torch.no_grad():
        torch.testing.assert_close(imported(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-4)
    back = hf.export_state(imported.state_dict(), config)
    state = model.state_dict()
    assert set(back) == set(state) - {"lm_head.weight"}
    assert all(torch.equal(back[name], state[name]) for name in back)


@given(
    vocab_size=st.integers(2, 200),
    n_positions=st.integers(1, 40),
    n_layer=st.integers(1, 3),
    n_head=st.integers(1, 3),
    head_size=st.integers(1, 9),
    data=st.data(),
)
def test_any_shape_gives_the_same_logits_there(tmp_path_factory, vocab_size, n_positions, n_layer, n_head, head_size, data):
    config = GPTConfig(
        vocab_size=vocab_size, context_length=n_positions, n_layer=n_layer, n_head=n_head, d_model=n_head * head_size, init_std=0.3
    )
    model = build(config, 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    there = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf.export_config(config, vocab_size - 1))).eval()
    state = hf.export_state(model.state_dict(), config)
    missing, unexpected = there.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    assert there.lm_head.weight is there.transformer.wte.weight
    length = data.draw(st.integers(1, n_positions))
    tokens = torch.tensor([data.draw(st.lists(st.integers(0, vocab_size - 1), min_size=length, max_size=length))])
    with torch.no_grad():
        torch.testing.assert_close(there(tokens).logits, model(tokens), rtol=0, atol=1e-4)
    back = hf.import_state(state, config)
    ours = model.state_dict()
    assert all(torch.equal(back[name][: config.tokens], ours[name][: config.tokens]) for name in ours)


def test_the_published_shape_of_124m_gives_the_same_logits():
    config = dataclasses.replace(SIZES["gpt2"]["124m"], dropout=0.0)
    with torch.device("meta"):
        there = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf.export_config(config, 50256))).eval()
    model = build(config, 0).eval()
    there.load_state_dict(hf.export_state(model.state_dict(), config), strict=False, assign=True)
    there.tie_weights()
    tokens = torch.randint(config.tokens, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(there(tokens).logits, model(tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("masks", [(), ("attn.bias",), ("attn.bias", "attn.masked_bias")])
def test_every_layout_of_the_hub_gives_the_same_state(prefixed, head, masks):
    model = theirs()
    config = hf.import_config(model.config.to_dict())
    state = {name: tensor for name, tensor in model.state_dict().items() if head or name != "lm_head.weight"}
    for layer in range(3):
        for mask in masks:
            kind = {"attn.bias": torch.ones(1, 1, 16, 16, dtype=torch.bool).tril(), "attn.masked_bias": torch.tensor(-1e4)}[mask]
            state[f"transformer.h.{layer}.{mask}"] = kind
    imported = hf.import_state({name if prefixed else name.removeprefix("transformer."): state[name] for name in state}, config)
    plain = hf.import_state(model.state_dict(), config)
    assert imported.keys() == plain.keys()
    assert all(torch.equal(imported[name], plain[name]) for name in plain)


def test_a_head_of_its_own_is_refused():
    model = theirs()
    state = {**model.state_dict(), "lm_head.weight": model.lm_head.weight + 1}
    with pytest.raises(ValueError, match=r"lm_head\.weight: wanted the token embedding's weights, as they are tied"):
        hf.import_state(state, hf.import_config(model.config.to_dict()))


@pytest.mark.parametrize("name", ["transformer.h.3.ln_1.weight", "score.weight", "transformer.h.0.attn.rotary"])
def test_tensors_that_no_such_model_has_are_refused(name):
    model = theirs()
    with pytest.raises(ValueError, match=f"{name}: wanted the tensors of a GPT-2 of 3 layers and no others"):
        hf.import_state({**model.state_dict(), name: torch.zeros(1)}, hf.import_config(model.config.to_dict()))


@pytest.mark.parametrize("published", [size for sizes in SIZES.values() for size in sizes.values()], ids=lambda size: size.n_layer)
def test_a_banded_model_is_refused_and_its_dense_form_is_not(published):
    banded = "banded" in published.attention_pattern
    if banded:
        with pytest.raises(hf.Unrepresentable, match=r"model\.attention_pattern: of the layers 0 to \d+, 1, 3, 5 and \d+ more look back"):
            hf.export_config(published, 50256)
    dense = dataclasses.replace(published, attention_pattern=("dense",))
    assert hf.export_config(dense, 50256)["n_positions"] == (2048 if banded else 1024)


def test_a_band_that_hides_nothing_is_no_band():
    within = GPTConfig(context_length=64, attention_pattern=("dense", "banded"), attention_band=64)
    assert hf.unrepresentable(within) == ""
    assert "of the layers 0 to 11, 1, 3, 5 and 3 more look back only 63" in hf.unrepresentable(
        dataclasses.replace(within, attention_band=63)
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_kv_head": 4}, "model.n_kv_head: GPT2LMHeadModel has a key and a value head for each query head, came 4; write it with"),
        ({"position": "rotary"}, "model.position: GPT2LMHeadModel has an embedding of each position, came rotary; write it with --format"),
        ({"qk_norm": True}, "model.qk_norm: GPT2LMHeadModel has queries and keys as they are, came true"),
        ({"value_residual": True}, "model.value_residual: .* own values alone, came true"),
        ({"activation": "relu2"}, "model.activation: GPT2LMHeadModel has GELU, came relu2; .* model.activation=gelu"),
        ({"norm": "rmsnorm"}, "model.norm: GPT2LMHeadModel has LayerNorm, came rmsnorm"),
        ({"bias": False}, "model.bias: GPT2LMHeadModel has biases, came false; .* train with model.bias=true"),
        ({"embedding_norm": True}, "model.embedding_norm: .* came true"),
        ({"embedding_shortcut": True}, "model.embedding_shortcut: .* came true"),
        ({"tied_head": False}, "model.tied_head: GPT2LMHeadModel has a tied head, came false"),
        ({"logit_softcap": 15.0}, r"model.logit_softcap: .* came 15.0; .* or train with model.logit_softcap=none"),
        ({"position": "rotary", "bias": False, "norm": "rmsnorm"}, "came rotary; nor can it say norm, bias; write it with"),
    ],
)
def test_what_no_gpt2_has_is_refused_by_name(changes, told):
    config = GPTConfig(**changes)
    with pytest.raises(hf.Unrepresentable, match=told):
        hf.export_config(config, 50256)
    assert "\n" not in hf.unrepresentable(config)


def test_how_a_model_began_and_as_many_heads_as_there_are_can_be_said():
    assert hf.unrepresentable(GPTConfig(n_kv_head=12, residual_scaling="zero", token_init_std=1.0, rotary_base=5.0)) == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_become_fp32_and_go_back_bit_for_bit(dtype):
    config = hf.import_config(theirs().config.to_dict())
    half = {name: tensor.to(dtype) for name, tensor in theirs().state_dict().items()}
    imported = hf.import_state(half, config)
    assert {tensor.dtype for tensor in imported.values()} == {torch.float32}
    back = hf.export_state(imported, config, dtype)
    assert all(torch.equal(back[name], half[name]) and back[name].dtype == dtype for name in back)


def test_a_written_folder_opens_in_transformers_and_here(tmp_path):
    tokenizer = load_tokenizer("bytes")
    config = GPTConfig(vocab_size=257, context_length=16, n_layer=2, n_head=2, d_model=16, init_std=0.3, dropout=0.1)
    model = build(config, 0).eval()
    write_model(tmp_path / "model", model, tokenizer)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True).eval()
    assert opened.transformer.wte.weight.shape == (257, 16)
    with torch.no_grad():
        expected = model(TOKENS)
        torch.testing.assert_close(opened(TOKENS).logits, expected, rtol=0, atol=1e-4)
        loaded = load(tmp_path / "model", device="cpu")
        assert torch.equal(loaded(TOKENS), expected)
    assert loaded.config == config
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert opened.config.eos_token_id == tokenizer.eot


def test_a_folder_that_transformers_wrote_opens_here(tmp_path):
    values = {**VALUES, "vocab_size": 257}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values, bos_token_id=256, eos_token_id=256)).eval()
    model.save_pretrained(tmp_path / "theirs")
    load_tokenizer("bytes").save(tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "theirs", device="cpu")(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-4)


def test_writing_again_replaces_the_model_whole(tmp_path):
    config = GPTConfig(vocab_size=257, context_length=8, n_layer=1, n_head=1, d_model=8)
    for seed in (0, 1):
        write_model(tmp_path / "model", build(config, seed), load_tokenizer("bytes"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    again = load(tmp_path / "model", device="cpu").gpt.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in build(config, 1).state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "wanted model_type gpt2, came 'llama'"),
        ({"activation_function": "relu"}, "wanted activation_function gelu_new, came 'relu'"),
        ({"n_inner": 50}, "wanted n_inner = 4 n_embd, came 50"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx false"),
        ({"scale_attn_weights": False}, "scale_attn_weights true"),
        ({"add_cross_attention": True}, "add_cross_attention false"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings true"),
    ],
)
def test_a_config_that_cannot_be_represented_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        hf.import_config({"model_type": "gpt2", **VALUES, **change})


def test_a_config_without_its_shape_is_refused_by_name():
    with pytest.raises(ValueError, match="wanted n_layer, n_embd, found nothing"):
        hf.import_config({"model_type": "gpt2", "vocab_size": 5, "n_head": 2})


def test_tensors_that_are_missing_or_of_another_shape_are_named():
    model = theirs()
    config = hf.import_config(model.config.to_dict())
    for name in ("transformer.wte.weight", "transformer.h.2.mlp.c_fc.weight", "transformer.h.0.ln_1.bias"):
        state = dict(model.state_dict())
        state[name] = state[name][:-1]
        with pytest.raises(ValueError, match=f"{name}: wanted the shape .* came "):
            hf.import_state(state, config)
        del state[name]
        with pytest.raises(ValueError, match=f"{name}: wanted this tensor"):
            hf.import_state(state, config)


def test_a_folder_whose_weights_do_not_fit_is_refused_by_name(tmp_path):
    config = GPTConfig(vocab_size=257, context_length=8, n_layer=1, n_head=1, d_model=8)
    write_model(tmp_path / "model", build(config, 0), load_tokenizer("bytes"))
    path = tmp_path / "model" / "config.json"
    described = json.loads(path.read_text())
    described["daybreak"]["model"]["context_length"] = 9
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"transformer\.wpe\.weight: wanted the shape"):
        load(tmp_path / "model", device="cpu")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(FileProblem, match=r"model\.safetensors: cannot be read"):
        load(tmp_path / "model", device="cpu")
