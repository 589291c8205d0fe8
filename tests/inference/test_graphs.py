"""Replayed steps say what the plain cache says, text by text; on a GPU the replay is a CUDA graph, elsewhere the same work again."""

from __future__ import annotations

import pytest
import torch

from daybreak.data.tokenizer import load_tokenizer
from daybreak.inference.graphs import Recorded, Recordings, windows
from daybreak.loading import Model
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

SHAPE = {"vocab_size": 50, "context_length": 300, "n_layer": 2, "n_head": 4, "d_model": 32}
KINDS = {
    "gpt2": {},
    "banded": {"attention_pattern": ("dense", "banded"), "attention_band": 5},
    "modern": {"position": "rotary", "norm": "rmsnorm", "qk_norm": True, "n_kv_head": 2, "tied_head": False},
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


def model(kind):
    gpt = build(GPTConfig(**SHAPE, **KINDS[kind]), 0).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter *= 4 if parameter.ndim == 2 else 1  # so that what came before matters
    return gpt


@torch.no_grad()
def plainly(gpt, prompt, following):
    """The logits after a prompt, and after each token that follows it."""
    cache = KVCache(gpt.config, device=gpt.token_embedding.weight.device)
    parts = [torch.tensor([part], device=gpt.token_embedding.weight.device) for part in (prompt, *([token] for token in following))]
    return torch.stack([gpt(part, cache)[0, -1] for part in parts])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_different_lengths_go_on_as_each_would_alone(kind, device):
    gpt = model(kind).to(device)
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(50, (length,), generator=draw).tolist() for length in (1, 7, 124)]
    following = torch.randint(50, (8, 3), generator=draw)  # the longest passes the first window
    step = Recorded(gpt, batch=3)
    for _ in range(2):  # the second time over what the first left behind
        logits = [step.begin(prompts).clone(), *(step(tokens.to(device)).clone() for tokens in following)]
        for row, prompt in enumerate(prompts):
            wanted = plainly(gpt, prompt, following[:, row].tolist())
            torch.testing.assert_close(torch.stack([each[row] for each in logits]), wanted, rtol=1e-4, atol=1e-4)


def test_every_window_is_recorded_once_and_replayed_after():
    works, replays = [], []

    def record(work):
        works.append(work())
        return lambda: (replays.append(len(works)), work())[1]

    step = Recorded(model("gpt2"), record=record)
    assert len(works) == len(windows(300)) == 3
    step.begin([[1, 2]])
    for _ in range(200):
        step(torch.tensor([3]))
    assert len(works) == 3
    assert len(replays) == 200


def test_windows_are_powers_of_two_and_the_capacity():
    assert windows(64) == [64]
    assert windows(128) == [128]
    assert windows(1000) == [128, 256, 512, 1000]


def test_a_full_text_and_impossible_prompts_are_refused():
    step = Recorded(model("gpt2"), capacity=4)
    with pytest.raises(ValueError, match=r"^prompts: wanted 1 of 1 to 4 tokens, came 1 of 5 to 5$"):
        step.begin([[1] * 5])
    with pytest.raises(ValueError, match=r"came 1 of 0 to 0$"):
        step.begin([[]])
    with pytest.raises(ValueError, match=r"came 0 of 0 to 0$"):
        step.begin([])
    step.begin([[1, 2, 3]])
    step(torch.tensor([4]))
    with pytest.raises(ValueError, match=r"^tokens: wanted at most 4 positions, came 5; begin again with the end of the text$"):
        step(torch.tensor([4]))


def test_a_model_writes_from_recordings_what_it_writes_without():
    """Beyond the end of the context, too, where it forgets the oldest half; and two texts in turns, each from a recording of its own."""
    made = []

    def record(work):
        made.append(work())
        return work

    gpt = build(GPTConfig(vocab_size=257, context_length=40, n_layer=2, n_head=2, d_model=16, init_std=0.3), 0).eval()
    plain, recorded = (Model(gpt, load_tokenizer("bytes")) for _ in range(2))
    recorded.recordings = Recordings(record)
    told = {"max_tokens": 100, "seed": 1}
    for prompt in ("a", "some words", "a", ""):
        assert list(recorded.write(prompt, **told)) == list(plain.write(prompt, **told))
    assert len(made) == len(windows(40)) == 1
    assert list(zip(recorded.write("b", **told), recorded.write("c", **told), strict=False)) == list(
        zip(plain.write("b", **told), plain.write("c", **told), strict=False)
    )
    assert len(made) == 2
    list(recorded.write("b", max_tokens=5))  # not worth it
    recorded.gpt = build(gpt.config, 1).eval()
    plain.gpt = recorded.gpt
    assert list(recorded.write("a", **told)) == list(plain.write("a", **told))
    assert len(made) == 3


def test_where_nothing_can_be_recorded_a_model_writes_as_before():
    def broken(work):
        raise RuntimeError("CUDA out of memory")

    gpt = build(GPTConfig(vocab_size=257, context_length=40, n_layer=1, n_head=2, d_model=16), 0).eval()
    model = Model(gpt, load_tokenizer("bytes"))
    expected = list(model.write("a", max_tokens=50, seed=0))
    model.recordings = Recordings(broken)
    with pytest.warns(UserWarning, match=r"^steps cannot be recorded on this device, .*: CUDA out of memory$"):
        assert list(model.write("a", max_tokens=50, seed=0)) == expected
    assert list(model.write("a", max_tokens=50, seed=0)) == expected  # and says so once
