"""ONNX files: ONNX Runtime computes what the model does, at every length, for every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_documents
from tokenizers import Tokenizer as TheirTokenizer

from daybreak import files, onnx_export
from daybreak.data.tokenizer import train_bpe
from daybreak.loading import Model
from daybreak.model import hf
from daybreak.model.attention import Attention, automatic
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

CONTEXT = 160
SHAPE = {"vocab_size": 400, "context_length": CONTEXT, "n_layer": 3, "n_head": 4, "d_model": 64}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt3": {"attention_pattern": ("dense", "banded"), "attention_band": 8},
    "modern": {
        "position": "rotary",
        "norm": "rmsnorm",
        "qk_norm": True,
        "activation": "relu2",
        "tied_head": False,
        "bias": False,
        "logit_softcap": 15.0,
        "embedding_norm": True,
        "embedding_shortcut": True,
        "value_residual": True,
    },
    "grouped": {"n_kv_head": 2, "activation": "swiglu", "position": "rotary"},
}


@pytest.fixture
def runtime() -> Any:
    for package in onnx_export.PACKAGES:
        pytest.importorskip(package, reason=f"the package {package} is not installed")
    return pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")


def made(kind: str = "gpt2") -> Model:
    """A model of which no weight is zero, as some begin."""
    tokenizer = train_bpe(tiny_documents(), 400)
    gpt = build(GPTConfig(**{**SHAPE, "vocab_size": tokenizer.vocab_size, **KINDS[kind]}), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(gpt.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return Model(gpt, tokenizer)


def opened(runtime: Any, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_computes_what_the_model_does(runtime: Any, tmp_path: Path, kind: str) -> None:
    model = made(kind)
    path = onnx_export.write(tmp_path / "out", model, "dawn")
    assert path == tmp_path / "out" / "dawn.onnx"
    session = opened(runtime, path)
    assert [(each.name, each.type) for each in (*session.get_inputs(), *session.get_outputs())] == [
        ("tokens", "tensor(int64)"),
        ("logits", "tensor(float)"),
    ]
    draw = torch.Generator().manual_seed(0)
    for shape in [(1, 1), (2, 2), (1, 33), (3, CONTEXT)]:
        tokens = torch.randint(model.config.tokens, shape, generator=draw)
        with torch.inference_mode():
            wanted = model.gpt(tokens)
        (came,) = session.run(None, {"tokens": tokens.numpy()})
        assert came.shape == tuple(wanted.shape)
        assert float(wanted.std()) > 0.1
        torch.testing.assert_close(torch.from_numpy(came), wanted, rtol=1e-4, atol=1e-4)


def test_greedy_texts_are_the_same(runtime: Any, tmp_path: Path) -> None:
    """With the tokenizer that lies beside the graph and nothing of ours."""
    model = made()
    session = opened(runtime, onnx_export.write(tmp_path / "out", model, "dawn"))
    theirs = TheirTokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    ids = theirs.encode("The sun rises").ids
    assert ids == model.tokenizer.encode("The sun rises").tolist()
    tokens = list(ids)
    for _ in range(20):
        (logits,) = session.run(None, {"tokens": np.array([tokens])})
        tokens.append(int(logits[0, -1].argmax()))
    ours = torch.tensor([ids])
    with torch.inference_mode():
        for _ in range(20):
            ours = torch.cat([ours, model.gpt(ours)[:, -1:].argmax(-1)], dim=1)
    assert tokens == ours[0].tolist()


def test_weights_beyond_what_a_file_may_hold_lie_beside_it(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 0)
    model = made()
    path = onnx_export.write(tmp_path / "out", model, "dawn")
    weights = sum(parameter.nbytes for parameter in model.gpt.parameters())
    assert path.stat().st_size < 0.5 * weights
    assert (tmp_path / "out" / "dawn.onnx.data").stat().st_size > 0.9 * weights  # what is small stays within
    tokens = torch.arange(7)[None]
    with torch.inference_mode():
        wanted = model.gpt(tokens)
    (came,) = opened(runtime, path).run(None, {"tokens": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(came), wanted, rtol=1e-4, atol=1e-4)


def test_the_model_is_left_as_it_was(runtime: Any, tmp_path: Path) -> None:
    model = made()
    onnx_export.write(tmp_path / "out", model, "dawn")
    assert {module.kernel for module in model.gpt.modules() if isinstance(module, Attention)} == {automatic}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("context", [1, 2, 3])
def test_the_shortest_contexts(runtime: Any, tmp_path: Path, context: int) -> None:
    model = Model(build(GPTConfig(**{**SHAPE, "context_length": context}), seed=0), train_bpe(tiny_documents(), 400))
    session = opened(runtime, onnx_export.write(tmp_path / "out", model, "dawn"))
    tokens = torch.full((2, context), 7)
    with torch.inference_mode():
        wanted = model.gpt(tokens)
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"tokens": tokens.numpy()})[0]), wanted, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_is_refused_in_one_line(runtime: Any, tmp_path: Path) -> None:
    """A reshaped model may ask its own numbers what to do next."""

    class Whimsical(torch.nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    model = made()
    model.gpt.blocks[1].mlp_norm = Whimsical()
    with pytest.raises(hf.Unrepresentable, match=r"^PyTorch cannot export this model \(.+\); write it with --format daybreak$"):
        onnx_export.write(tmp_path / "out", model, "dawn")
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "PACKAGES", ("no-such-package",))
    with pytest.raises(files.FileProblem, match=r"wanted the package no-such-package, found none; pip install 'daybreak\[onnx\]'"):
        onnx_export.write(tmp_path / "out", made(), "dawn")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("daybreak.data.tokenizer.Tokenizer.save", full)
    with pytest.raises(OSError, match="No space left"):
        onnx_export.write(tmp_path / "out", made(), "dawn")
    assert list(tmp_path.iterdir()) == []
