"""The shape of a GPT, and every published size.

A size is data: `SIZES["gpt2"]["124m"]` is a GPTConfig. The models themselves are in `gpt.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class GPTConfig:
    """The architecture of a GPT-2: everything that decides which numbers the model has and what it computes with them."""

    vocab_size: int | None = 50257
    """How many different tokens there are; none takes the number from the data's tokenizer."""
    context_length: int = 1024
    """How many tokens the model sees at once."""
    n_layer: int = 12
    """How many transformer blocks are stacked."""
    n_head: int = 12
    """How many attention heads each block has."""
    d_model: int = 768
    """The width of the residual stream."""
    dropout: float = 0.0
    """The share of activations set to zero while training, after the embedding, in the attention and on both residual branches."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm, as OpenAI released it."""
    init_std: float = 0.02
    """Standard deviation of the initial weights."""
    position_init_std: float = 0.01
    """Standard deviation of the initial position embedding; OpenAI's code has 0.01, most reproductions have 0.02."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        for name in ("context_length", "n_layer", "n_head", "d_model"):
            if (value := getattr(self, name)) < 1:
                yield name, f"wanted at least 1, came {value}"
        if self.vocab_size is not None and self.vocab_size < 2:
            yield "vocab_size", f"wanted at least 2 or none, came {self.vocab_size}"
        if self.n_head > 0 and self.d_model > 0 and self.d_model % self.n_head:
            below = self.d_model // self.n_head * self.n_head
            near = [width for width in (below, below + self.n_head) if width > 0]
            yield (
                "d_model",
                (f"wanted a multiple of n_head = {self.n_head}, came {self.d_model}; the nearest are {' and '.join(map(str, near))}"),
            )
        if not 0.0 <= self.dropout < 1.0:
            yield "dropout", f"wanted 0 or more and less than 1, came {self.dropout}"
        for name in ("layer_norm_epsilon", "init_std", "position_init_std"):
            if (number := getattr(self, name)) <= 0:
                yield name, f"wanted more than 0, came {number}"

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.n_head

    @property
    def tokens(self) -> int:
        """The vocabulary's size as a plain integer. Raises ValueError while it is still to be taken from the data."""
        if self.vocab_size is None:
            raise ValueError(
                "model.vocab_size: wanted a number to build a model, came none; set it, or let `daybreak.run` take it from the data"
            )
        return self.vocab_size

    @property
    def padded_vocab_size(self) -> int:
        """The vocabulary rounded up to a multiple of 64: matrix products on GPUs are faster in such shapes."""
        return -(-self.tokens // 64) * 64


def _gpt2(n_layer: int, n_head: int, d_model: int) -> GPTConfig:
    return GPTConfig(n_layer=n_layer, n_head=n_head, d_model=d_model)


# GPT-2: openai/gpt-2, `models/*/hparams.json`. The paper's names 117M, 345M, 762M and 1542M were miscounted; these are the true counts.
SIZES: dict[str, dict[str, GPTConfig]] = {
    "gpt2": {
        "124m": _gpt2(12, 12, 768),
        "355m": _gpt2(24, 16, 1024),
        "774m": _gpt2(36, 20, 1280),
        "1558m": _gpt2(48, 25, 1600),
    },
}
