"""The shape of a GPT, and every published size.

A size is data: `SIZES["gpt2"]["124m"]` is a GPTConfig. The models themselves are in `gpt.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from daybreak.config import ConfigError, closest


@dataclass(frozen=True)
class GPTConfig:
    """The architecture: everything that decides which numbers the model has and what it computes with them. The defaults are GPT-2's."""

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
    attention_pattern: tuple[Literal["dense", "banded"], ...] = ("dense",)
    """Each layer's kind of attention, repeated over the layers; dense,banded alternates as in GPT-3."""
    attention_band: int = 256
    """How many tokens a banded layer looks at, the current one included."""
    n_kv_head: int | None = None
    """How many heads keys and values have, each shared by as many query heads; none gives every query head its own."""
    position: Literal["learned", "rotary"] = "learned"
    """learned adds an embedding of each position; rotary turns queries and keys by it and needs no table (RoFormer)."""
    rotary_base: float = 10_000.0
    """With rotary, about how many positions the slowest pair of channels takes for a radian."""
    qk_norm: bool = False
    """Whether queries and keys are normalised, each head for itself, before they meet."""
    value_residual: bool = False
    """Whether each layer mixes the first layer's values into its own, by a learned share."""
    activation: Literal["gelu", "relu2", "swiglu"] = "gelu"
    """What the MLP bends its channels with: GELU in its tanh form, ReLU squared, or SwiGLU, with a gate and two thirds of the width."""
    norm: Literal["layernorm", "rmsnorm", "rmsnorm-no-gain"] = "layernorm"
    """What normalises the residual stream; the last has no weights."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm, as OpenAI released it, and to the mean square in RMSNorm."""
    bias: bool = True
    """Whether linear layers and LayerNorms have biases."""
    embedding_norm: bool = False
    """Whether the embedding is normalised before the first block."""
    embedding_shortcut: bool = False
    """Whether each block mixes the embedding into its input, by learned shares."""
    tied_head: bool = True
    """Whether the head's weights are the token embedding's; false gives it its own."""
    logit_softcap: float | None = None
    """Bends logits so that none is beyond it, as cap tanh(logit / cap); none leaves them."""
    init_std: float = 0.02
    """Standard deviation of the initial weights."""
    token_init_std: float | None = None
    """Standard deviation of the initial token embedding; none takes init_std."""
    head_init_std: float = 0.0
    """Standard deviation of the initial weights of a head of its own; 0 begins with all tokens equally likely."""
    position_init_std: float = 0.01
    """Standard deviation of the initial position embedding; OpenAI's code has 0.01, most reproductions have 0.02."""
    width_base: int | None = None
    """The width for which init_std, head_init_std and the learning rates are meant; at another d_model they are scaled to suit (muP). It
    wants a head of its own. none leaves them."""
    residual_scaling: Literal["paper", "openai", "zero"] = "paper"
    """The first weights of what is added to the residual stream: paper divides them by sqrt(2 n_layer), openai, as its code, does not, zero
    begins with blocks that add nothing."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        for name in ("context_length", "n_layer", "n_head", "d_model", "attention_band"):
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
        if self.n_kv_head is not None and (self.n_kv_head < 1 or self.n_head % self.n_kv_head):
            yield "n_kv_head", f"wanted none or a divisor of n_head = {self.n_head}, came {self.n_kv_head}"
        if self.position == "rotary" and self.n_head > 0 and self.d_model % self.n_head == 0 and self.head_size % 2:
            yield (
                "position",
                f"wanted an even d_model / n_head for rotary, which turns pairs, came {self.head_size}; change n_head or d_model",
            )
        if not self.attention_pattern:
            yield "attention_pattern", "wanted at least one of dense, banded, came nothing"
        if not 0.0 <= self.dropout < 1.0:
            yield "dropout", f"wanted 0 or more and less than 1, came {self.dropout}"
        for name in ("layer_norm_epsilon", "init_std", "position_init_std", "token_init_std", "rotary_base", "logit_softcap"):
            if (number := getattr(self, name)) is not None and number <= 0:
                yield name, f"wanted more than 0, came {number}"
        if self.width_base is not None and self.width_base < 1:
            yield "width_base", f"wanted at least 1 or none, came {self.width_base}"
        if self.width_base is not None and self.tied_head:
            yield "width_base", "wanted none beside a tied head, which cannot learn more slowly than the embedding; set tied_head=false"
        if self.head_init_std < 0:
            yield "head_init_std", f"wanted 0 or more, came {self.head_init_std}"

    @property
    def relative_width(self) -> float:
        """How many times as wide as what the settings are meant for."""
        return 1.0 if self.width_base is None else self.d_model / self.width_base

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.n_head

    @property
    def kv_heads(self) -> int:
        """How many heads keys and values have."""
        return self.n_kv_head or self.n_head

    @property
    def mlp_width(self) -> int:
        """How many channels the MLP has inside: 4 d_model; for SwiGLU, which has a third matrix, two thirds of that, rounded up to 64."""
        return -(-8 * self.d_model // (3 * 64)) * 64 if self.activation == "swiglu" else 4 * self.d_model

    def band(self, layer: int) -> int | None:
        """How many tokens layer number `layer` looks at, the current one included; None if it looks at all."""
        kind = self.attention_pattern[layer % len(self.attention_pattern)]
        return self.attention_band if kind == "banded" and self.attention_band < self.context_length else None

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


def _gpt3(n_layer: int, n_head: int, d_model: int) -> GPTConfig:
    # GPT-3 paper, section 2.1: "alternating dense and locally banded sparse attention patterns in the layers of the transformer, similar
    # to the Sparse Transformer". It gives neither the band nor which layers are dense. We begin with a dense layer and take 256 tokens,
    # as GPT-Neo does, the best-known public model of this design (transformers, GPTNeoConfig: global, local; window_size 256).
    return GPTConfig(context_length=2048, n_layer=n_layer, n_head=n_head, d_model=d_model, attention_pattern=("dense", "banded"))


# GPT-2: openai/gpt-2, `models/*/hparams.json`. The paper's names 117M, 345M, 762M and 1542M were miscounted; these are the true counts.
#
# GPT-3: paper (arXiv 2005.14165), table 2.1, but for its two errors, which arithmetic settles. XL: 24 heads of 128 would be 3072 wide,
# not 2048; with 16 heads the count is 1,316M, as the 1,320M of table D.1. 13B: a width of 5140 is no multiple of its head size 128 and
# gives 12,953M; 5120 is, and gives the 12,850M of table D.1.
SIZES: dict[str, dict[str, GPTConfig]] = {
    "gpt2": {
        "124m": _gpt2(12, 12, 768),
        "355m": _gpt2(24, 16, 1024),
        "774m": _gpt2(36, 20, 1280),
        "1558m": _gpt2(48, 25, 1600),
    },
    "gpt3": {
        "125m": _gpt3(12, 12, 768),
        "350m": _gpt3(24, 16, 1024),
        "760m": _gpt3(24, 16, 1536),
        "1.3b": _gpt3(24, 16, 2048),
        "2.7b": _gpt3(32, 32, 2560),
        "6.7b": _gpt3(32, 32, 4096),
        "13b": _gpt3(40, 40, 5120),
        "175b": _gpt3(96, 96, 12288),
    },
}

# Other names of the sizes: the papers', and counts as people round them.
ALIASES: dict[str, dict[str, str]] = {
    "gpt2": {
        "small": "124m",
        "medium": "355m",
        "large": "774m",
        "xl": "1558m",
        "117m": "124m",
        "345m": "355m",
        "350m": "355m",
        "762m": "774m",
        "1542m": "1558m",
        "1.5b": "1558m",
    },
    "gpt3": {"small": "125m", "medium": "350m", "large": "760m", "xl": "1.3b", "davinci": "175b"},
}


def size_name(family: str, name: str) -> str:
    """A size by any of its names -> its name in SIZES. Raises ConfigError with the nearest for one that is none."""
    known = ALIASES[family].get(name.lower(), name.lower())
    if known not in SIZES[family]:
        hint = closest(name, [*SIZES[family], *ALIASES[family]])
        raise ConfigError([f"{name}: no such size of {family}{hint + ' There' if hint else '; there'} are {', '.join(SIZES[family])}"])
    return known
