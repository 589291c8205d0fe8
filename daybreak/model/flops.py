"""How many parameters a GPT has and how many floating-point operations a token costs: arithmetic on its shape.

Two conventions for the operations are in use, and they differ by what they call N. "6N" multiplies every parameter by 6; it is what
scaling laws and the GPT-3 paper count. "6N + attention" leaves out the position embedding and adds the products of queries, keys and
values; it is what MFU, the share of a device's peak, is measured with. Published MFU figures belong to the second.

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


def flops_per_token_6n(config: GPTConfig) -> int:
    """Operations to train on one token by the convention "6N": 6 for each parameter, whatever it does (GPT-3 paper, table D.1).

    A multiplication and an addition forward, twice that backward. With 300 billion tokens it gives the paper's 2.25e20 for Small and
    3.14e23 for 175B.
    """
    return 6 * parameter_count(config)


def flops_per_token(config: GPTConfig) -> int:
    """Operations to train on one token by the convention "6N + attention": 6 (N - T C) + 12 L C T (PaLM paper, App. B; nanoGPT).

    N - T C is every parameter but the position embedding, which is looked up and not multiplied. The attention term counts the full
    T x T square, the masked half too; a kernel that skips that does less work than this counts. A layer that looks at a band of W
    tokens counts min(T, 2 W) in place of T: the band and as much again of what its mask hides, so that both kinds err alike.
    """
    L, C, T = config.n_layer, config.d_model, config.context_length
    bands = [config.band(layer) for layer in range(L)]
    seen = sum(T if band is None else min(T, 2 * band) for band in bands)
    return 6 * (parameter_count(config) - T * C) + 12 * C * seen
