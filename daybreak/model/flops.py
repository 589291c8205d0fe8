"""How many parameters a GPT has and how many floating-point operations a token costs: arithmetic on its shape.

L layers, C d_model, V vocabulary, T context.
"""

from __future__ import annotations

from daybreak.model.config import GPTConfig


def parameter_count(config: GPTConfig, padded: bool = False) -> int:
    """The number of parameters: 12 L C² + 13 L C + V C + T C + 2 C, the head being tied to the token embedding.

    `padded` counts the rows that round the vocabulary up to a multiple of 64; the published figures do not.
    """
    L, C, T = config.n_layer, config.d_model, config.context_length
    V = config.padded_vocab_size if padded else config.tokens
    return 12 * L * C * C + 13 * L * C + V * C + T * C + 2 * C


def flops_per_token(config: GPTConfig) -> int:
    """Operations to train on one token, forward and backward: 6 (N - T C) + 12 L C T (nanoGPT `estimate_mfu`; PaLM, App. B).

    N - T C is every parameter but the position embedding, which is looked up and not multiplied. The attention term counts
    the full T x T square; a kernel that skips the masked half does less work than this counts.
    """
    L, C, T = config.n_layer, config.d_model, config.context_length
    return 6 * (parameter_count(config) - T * C) + 12 * L * C * T
