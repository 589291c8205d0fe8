"""Scores: against the plainest computation, whatever the batch, and in bits that are known beforehand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.data.batches import validation_windows
from daybreak.evaluation.score import Score, compressed_bits_per_byte, score
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

MODEL = build(GPTConfig(vocab_size=50, context_length=8, n_layer=1, n_head=1, d_model=16, init_std=0.3), 0).eval()
LENGTHS = np.arange(50)  # token i stands for i bytes


class Text:
    """Token ids in memory."""

    def __init__(self, ids):
        self.ids = np.asarray(ids, dtype=np.uint16)

    def __len__(self):
        return len(self.ids)

    def windows(self, starts, length):
        return np.stack([self.ids[start : start + length] for start in starts])


TEXT = Text(np.random.default_rng(0).integers(0, 50, 61))


def test_it_is_the_loss_computed_one_by_one():
    result = score(MODEL, TEXT, validation_windows(TEXT, 8), LENGTHS)
    nats = 0.0
    for start in range(0, 60, 8):
        for t in range(start, min(start + 8, 60)):
            with torch.no_grad():
                logits = MODEL(torch.from_numpy(TEXT.ids[start : t + 1].astype(np.int64))[None])[0, -1].double()
            nats -= float(logits.log_softmax(-1)[TEXT.ids[t + 1]])
    assert result.nats == pytest.approx(nats, rel=1e-5)
    assert result.tokens == 60
    assert result.text_bytes == int(TEXT.ids[1:].sum())
    assert result.loss == pytest.approx(nats / 60, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / 60), rel=1e-4)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / TEXT.ids[1:].sum(), rel=1e-5)
    assert result.figures() == {"val_loss": result.loss, "perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte}


@settings(max_examples=15)
@given(batch=st.integers(1, 10), most=st.none() | st.integers(1, 70))
def test_the_batch_changes_nothing(batch, most):
    windows = validation_windows(TEXT, 8, most)
    one = score(MODEL, TEXT, windows, LENGTHS, batch=1)
    many = score(MODEL, TEXT, iter(windows), LENGTHS, batch=batch)
    assert (many.tokens, many.text_bytes) == (one.tokens, one.text_bytes)
    assert many.nats == pytest.approx(one.nats, rel=1e-6)


def test_windows_are_gathered_to_the_batch_and_never_padded():
    shapes = []

    def predict(tokens):
        shapes.append(tuple(tokens.shape))
        return torch.zeros(*tokens.shape, 50)

    score(predict, TEXT, validation_windows(TEXT, 8), LENGTHS, batch=3)
    assert shapes == [(3, 8), (3, 8), (1, 8), (1, 4)]


def test_a_model_that_knows_nothing_of_bytes_needs_eight_bits():
    text = Text(np.random.default_rng(1).integers(0, 256, 1000))
    result = score(lambda tokens: torch.zeros(*tokens.shape, 256), text, validation_windows(text, 100), np.ones(256, dtype=np.int64))
    assert result.bits_per_byte == pytest.approx(8)
    assert result.perplexity == pytest.approx(256)


def test_bits_per_byte_of_a_known_distribution():
    """A token of two bytes with probability 1/2 costs half a bit a byte; one without bytes costs, too."""
    text = Text([0, 1, 1, 0, 1])
    probabilities = torch.tensor([0.25, 0.5, 0.25])
    result = score(lambda tokens: probabilities.log().expand(*tokens.shape, 3), text, [(0, 4)], np.array([0, 2, 1]))
    assert result.nats / math.log(2) == pytest.approx(1 + 1 + 2 + 1)
    assert result.text_bytes == 6
    assert result.bits_per_byte == pytest.approx(5 / 6)


def test_no_gradient_is_kept():
    seen = []

    def predict(tokens):
        seen.append(torch.is_grad_enabled())
        return MODEL(tokens)

    score(predict, TEXT, [(0, 8)], LENGTHS)
    assert seen == [False]
    assert torch.is_grad_enabled()


def test_hopeless_models_have_infinite_perplexity():
    assert Score(1e6, 1, 1).perplexity == math.inf
    assert Score(0.0, 1, 0).bits_per_byte == 0.0


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="validation text is empty; prepare the data with a larger --val-fraction"):
        score(MODEL, TEXT, [], LENGTHS)


def test_compressors():
    text = b"the sun rises over the hill. " * 200
    bits = compressed_bits_per_byte(text)
    assert list(bits) == ["gzip -9", "xz -9"]
    assert all(0 < value < 1 for value in bits.values())
    noise = compressed_bits_per_byte(np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes())
    assert all(8 <= value < 8.1 for value in noise.values())
    with pytest.raises(ValueError, match="empty"):
        compressed_bits_per_byte(b"")
