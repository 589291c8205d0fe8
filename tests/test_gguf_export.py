"""GGUF files: every number and every token comes back, llama.cpp writes what we write, and what cannot be said is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_documents

from daybreak import files, gguf_export
from daybreak.cli import main
from daybreak.data.tokenizer import Tokenizer, load_tokenizer, train_bpe, train_chars
from daybreak.loading import Model
from daybreak.model import hf
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

SHAPE = GPTConfig(context_length=64, n_layer=2, n_head=2, d_model=64)
PROMPTS = ("The sun rises", "A small café, 12 of them!\n\n  ", "naïve 東京 🌅", "  once   more")


@pytest.fixture
def gguf() -> Any:
    return pytest.importorskip("gguf", reason="the package gguf is not installed")


def tokenizer_of(kind: str) -> Tokenizer:
    return load_tokenizer("bytes") if kind == "bytes" else train_bpe(tiny_documents(), 400)


def made(kind: str = "bpe", more_ids: int = 0) -> Model:
    """A model whose weights are large enough that its likeliest tokens are clearly so."""
    tokenizer = tokenizer_of(kind)
    gpt = build(dataclasses.replace(SHAPE, vocab_size=tokenizer.vocab_size + more_ids), seed=1)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            if parameter.ndim == 2:
                parameter *= 8 if name == "position_embedding.weight" else 4
            else:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    return Model(gpt, tokenizer)


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 0.0), ("fp16", 2**-11), ("bf16", 2**-8), ("q8_0", None)])
def test_every_number_comes_back(gguf: Any, tmp_path: Path, dtype: str, error: float | None) -> None:
    model = made(more_ids=3)
    path = gguf_export.write(tmp_path / "out", model, dtype, "dawn")
    assert [found.name for found in (tmp_path / "out").iterdir()] == [path.name] == [f"dawn-{gguf_export.FORMATS[dtype]}.gguf"]
    reader = gguf.GGUFReader(path)
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    state = model.gpt.state_dict()
    assert len(theirs) == len(state)
    for ours, name in [
        ("token_embedding", "token_embd"),
        ("position_embedding", "position_embd"),
        ("blocks.1.attention.qkv", "blk.1.attn_qkv"),
        ("blocks.0.attention.out", "blk.0.attn_output"),
        ("blocks.1.mlp.up", "blk.1.ffn_up"),
        ("blocks.0.mlp.down", "blk.0.ffn_down"),
    ]:
        read = theirs[f"{name}.weight"]
        numbers = gguf.dequantize(read.data, read.tensor_type)
        wanted = state[f"{ours}.weight"][: model.config.tokens].numpy()
        exact = ours == "position_embedding" or dtype == "fp32"
        if exact:
            np.testing.assert_array_equal(numbers, wanted)
        elif error is not None:
            np.testing.assert_allclose(numbers, wanted, rtol=error, atol=1e-7)
        else:  # half a step of each block's largest, and the scale's own rounding
            largest = np.abs(wanted).reshape(-1, 32).max(axis=1).repeat(32).reshape(wanted.shape)
            assert (np.abs(numbers - wanted) <= largest * (0.5 / 127 + 2**-11)).all()
    for name, ours in [("output_norm.bias", "norm.bias"), ("blk.1.ffn_norm.weight", "blocks.1.mlp_norm.weight")]:
        np.testing.assert_array_equal(theirs[name].data, state[ours].numpy())


def test_the_tokenizer_is_in_the_file(gguf: Any, tmp_path: Path) -> None:
    model = made(more_ids=2)
    reader = gguf.GGUFReader(gguf_export.write(tmp_path / "out", model, "fp32", "dawn"))
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    described = model.tokenizer.document()["model"]
    assert {token: i for i, token in enumerate(tokens[:-2])} == described["vocab"]
    assert tokens[-2:] == ["[UNUSED0]", "[UNUSED1]"]
    assert reader.get_field("tokenizer.ggml.merges").contents() == described["merges"]
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == model.tokenizer.eot
    assert reader.get_field("gpt2.context_length").contents() == 64


@pytest.mark.parametrize(("kind", "dtype"), [("bpe", "fp32"), ("bpe", "fp16"), ("bpe", "q8_0"), ("bytes", "fp32")])
def test_llama_cpp_writes_what_we_write(gguf: Any, tmp_path: Path, kind: str, dtype: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; it is long to build")
    model = made(kind)
    path = gguf_export.write(tmp_path / "out", model, dtype, "dawn")
    theirs = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
    try:
        for prompt in PROMPTS:
            ids = theirs.tokenize(prompt.encode(), add_bos=False, special=False)
            assert ids == model.tokenizer.encode(prompt).tolist()
            theirs.reset()
            theirs.eval(ids)
            logits = np.array(theirs.scores[: len(ids)])
            ours = model(torch.tensor([ids]))[0].detach().numpy()
            scale = np.abs(ours).max()
            assert np.abs(logits - ours).max() <= scale * {"fp32": 5e-3, "fp16": 5e-3, "q8_0": 5e-2}[dtype]
            if dtype != "q8_0":
                assert greedy(theirs, ids, 12) == [int(token) for token in _ours(model, ids, 12)]
    finally:
        theirs.close()


def greedy(llama: Any, ids: list[int], count: int) -> list[int]:
    """Their likeliest tokens, one after another."""
    written: list[int] = []
    llama.reset()
    llama.eval(ids)
    for _ in range(count):
        written.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
        llama.eval(written[-1:])
    return written


def _ours(model: Model, ids: list[int], count: int) -> list[int]:
    tokens = list(ids)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(ids) :]


@pytest.mark.parametrize(
    ("edits", "dtype", "told"),
    [
        (
            {"attention_pattern": ("dense", "banded"), "attention_band": 8},
            "fp16",
            "look back only 8 tokens, which GPT2LMHeadModel cannot say",
        ),
        ({"d_model": 48}, "q8_0", "--dtype q8_0: wanted a d_model in blocks of 32, came 48; write it with --dtype fp16"),
    ],
)
def test_what_cannot_be_said_is_refused(tmp_path: Path, edits: dict[str, Any], dtype: str, told: str) -> None:
    tokenizer = load_tokenizer("bytes")
    gpt = build(dataclasses.replace(SHAPE, vocab_size=tokenizer.vocab_size, **edits), seed=1)
    with pytest.raises(hf.Unrepresentable, match=told):
        gguf_export.write(tmp_path / "out", Model(gpt, tokenizer), dtype, "dawn")
    assert not list(tmp_path.iterdir())


def test_characters_and_reshapings_are_refused(tmp_path: Path) -> None:
    characters = train_chars(["abc"])
    gpt = build(dataclasses.replace(SHAPE, vocab_size=characters.vocab_size), seed=1)
    with pytest.raises(hf.Unrepresentable, match="tokenizer chars: GGUF knows byte-level tokenizers"):
        gguf_export.write(tmp_path / "out", Model(gpt, characters), "fp32", "dawn")
    with pytest.raises(hf.Unrepresentable, match="the model was reshaped by slim"):
        gguf_export.write(tmp_path / "out", Model(gpt, load_tokenizer("bytes"), ["slim"]), "fp32", "dawn")


def test_the_verb(gguf: Any, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run_dir), "--format", "gguf", "--dtype", "q8_0", "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == str(tmp_path / "out" / "tiny-Q8_0.gguf")
    assert Path(told["model"]).read_bytes()[:4] == b"GGUF"
    assert main(["export", str(run_dir), "--format", "ggup", "--out", str(tmp_path / "new")]) == 2
    assert "--format: wanted hf, gguf, onnx or daybreak, came 'ggup'; did you mean gguf?" in capsys.readouterr().err
    assert main(["export", str(run_dir), "--format", "gguf", "--dtype", "q4", "--out", str(tmp_path / "new")]) == 2
    assert "--dtype: wanted fp32, fp16, bf16, q8_0, came 'q4'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_the_package_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise gguf_export.PackageNotFoundError(name)

    monkeypatch.setattr(gguf_export, "version", absent)
    with pytest.raises(files.FileProblem, match=r"wanted the package gguf, found none; pip install 'daybreak\[gguf\]'"):
        gguf_export.write(tmp_path / "out", made(), "fp32", "dawn")
    assert not list(tmp_path.iterdir())
