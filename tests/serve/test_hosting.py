"""A model in each number format behind the server: it answers, embeds, and says which format it is."""

from __future__ import annotations

import pytest
import torch
from serving import serving, tiny_model

from daybreak import machine
from daybreak.config import ConfigError
from daybreak.data.tokenizer import train_chars
from daybreak.inference.requests import Limits
from daybreak.loading import decoding_in
from daybreak.model.config import GPTConfig
from daybreak.serve.hosting import fitting, host


@pytest.mark.parametrize(("dtype", "told"), [("fp32", "fp32"), ("auto", None), ("int8", "int8")])
def test_a_number_format(dtype: str, told: str | None) -> None:
    plain = tiny_model()
    with serving(host("tiny", decoding_in(plain, dtype), Limits())) as client:
        found = client.get("/v1/models/tiny")["dtype"]
        assert found == told if told else found in ("fp16w", "fp32")
        assert client.complete("The sun", max_tokens=8)["usage"]["completion_tokens"] == 8
        embedding = client.post("/v1/embeddings", input="The sun")["data"][0]["embedding"]
        exact = host("exact", plain, Limits()).embed(plain.tokenizer.encode("The sun").tolist())
        assert sum(a * b for a, b in zip(embedding, exact, strict=True)) > 0.995


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_smaller_model_drafts_and_changes_no_text(dtype: str) -> None:
    model = tiny_model()
    asked = {"max_tokens": 30, "seed": 3, "temperature": 0.7, "ignore_eos": True}
    with serving(host("tiny", model, Limits())) as client:
        plainly = client.complete("The sun", **asked)["choices"]
    for seed, right in ((0, True), (1, False)):
        hosted = host("tiny", model, Limits(), draft=decoding_in(tiny_model(seed), dtype))
        with serving(hosted) as client:
            assert client.complete("The sun", **asked)["choices"] == plainly
        stats = hosted.engine.stats
        assert stats.drafted_tokens > 0
        assert (stats.accepted_tokens > 0.7 * stats.drafted_tokens) is right


def test_a_draft_with_another_tokenizer_is_refused() -> None:
    other = tiny_model(tokenizer=train_chars(["The sun"]))
    with pytest.raises(ConfigError, match=r"^draft: wanted a model with the tokenizer of tiny, came one with another"):
        host("tiny", tiny_model(), Limits(), draft=other)


@pytest.mark.parametrize(
    ("free", "total", "room"),
    [(None, 4 * 1000 * 512, 1000), (2 * 1000 * 512, 10**12, 1000), (None, 10**12, 5000), (None, None, 5000), (3, 10, 1)],
)
def test_the_cache_leaves_room_beside_it(monkeypatch: pytest.MonkeyPatch, free: int | None, total: int | None, room: int) -> None:
    """A quarter of the machine's memory, or half of what is free of a GPU's; a token of 2 layers of 32 channels in fp32 takes 512 bytes."""
    monkeypatch.setattr(machine, "free_memory", lambda device: free)
    monkeypatch.setattr(machine, "total_memory", lambda device: total)
    config = GPTConfig(context_length=16, n_layer=2, n_head=2, d_model=32)
    assert fitting(Limits(cache_tokens=5000), config, torch.device("cpu"), torch.float32).cache_tokens == room
