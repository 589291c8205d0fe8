"""Hugging Face's form of GPT-2: the same logits there and here, both ways, and a refusal by name of what cannot be represented."""

import json

import pytest
import torch

from daybreak.data.tokenizer import load_tokenizer
from daybreak.files import FileProblem
from daybreak.loading import load, write_model
from daybreak.model import hf
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.init import build

transformers = pytest.importorskip("transformers")

VALUES = {"vocab_size": 70, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 3, "layer_norm_epsilon": 1e-4}
TOKENS = torch.randint(70, (2, 16), generator=torch.Generator().manual_seed(0))


def theirs():
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**VALUES, initializer_range=0.3, bos_token_id=0, eos_token_id=0))
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


def test_names_without_a_prefix_as_openai_uploaded_them():
    model = theirs()
    config = hf.import_config(model.config.to_dict())
    bare = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril()  # the mask that their files carry
    prefixed = hf.import_state(model.state_dict(), config)
    imported = hf.import_state(bare, config)
    assert all(torch.equal(imported[name], prefixed[name]) for name in prefixed)


def test_half_precision_weights_become_fp32():
    config = hf.import_config(theirs().config.to_dict())
    half = {name: tensor.half() for name, tensor in theirs().state_dict().items()}
    assert {tensor.dtype for tensor in hf.import_state(half, config).values()} == {torch.float32}


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
