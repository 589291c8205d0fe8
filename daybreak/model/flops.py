"""How many parameters a GPT has and how many floating-point operations a token costs: arithmetic on its shape.

Two conventions for the operations are in use, and they differ by what they call N. "6N" multiplies every parameter by 6; it is what
scaling laws and the GPT-3 paper count. "6N + attention" leaves out the position embedding and adds the products of queries, keys and
values; it is what MFU, the share of a device's peak, is measured with. Published MFU figures belong to the second.

L layers, C d_model, V vocabulary, T context.
"""

from __future__ import annotations

from daybreak.model.config import GPTConfig


def parameter_count(config: GPTConfig, padded: bool = False) -> int:
    """The number of parameters; for a GPT-2 12 L C² + 13 L C + V C + T C + 2 C, the head being tied to the token embedding.

    `padded` counts the rows that round the vocabulary up to a multiple of 64; the published figures do not.
    """
    L, C, T = config.n_layer, config.d_model, config.context_length
    V = config.padded_vocab_size if padded else config.tokens
    embeddings = V * C * (1 if config.tied_head else 2) + (T * C if config.position == "learned" else 0)
    norms = norm_count(config) * (2 if config.embedding_norm else 1)
    mixes = L - 1 if config.value_residual else 0  # the first layer has nothing to mix in
    return L * block_count(config) + embeddings + norms + mixes


def block_count(config: GPTConfig) -> int:
    """The parameters of one block, but for what only some have: 12 C² + 13 C for a GPT-2."""
    shapes = matrices(config)
    biases = sum(rows for rows, _ in shapes) if config.bias else 0
    return sum(rows * columns for rows, columns in shapes) + biases + 2 * norm_count(config) + (2 if config.embedding_shortcut else 0)


def matrices(config: GPTConfig) -> list[tuple[int, int]]:
    """The rows and columns of a block's matrices: queries, keys and values, out, up and, for SwiGLU, gate, down."""
    C, W = config.d_model, config.mlp_width
    ups = 2 if config.activation == "swiglu" else 1
    return [(C + 2 * C * config.kv_heads // config.n_head, C), (C, C), *[(W, C)] * ups, (C, W)]


def norm_count(config: GPTConfig) -> int:
    """The parameters of one norm of the residual stream."""
    vectors = {"layernorm": 2 if config.bias else 1, "rmsnorm": 1, "rmsnorm-no-gain": 0}
    return vectors[config.norm] * config.d_model


def flops_per_token_6n(config: GPTConfig) -> int:
    """Operations to train on one token by the convention "6N": 6 for each parameter, whatever it does (GPT-3 paper, table D.1).

    A multiplication and an addition forward, twice that backward. With 300 billion tokens it gives the paper's 2.25e20 for Small and
    3.14e23 for 175B.
    """
    return 6 * parameter_count(config)


def flops_per_token(config: GPTConfig) -> int:
    """Operations to train on one token by the convention "6N + attention": 6 (N - T C) + 12 L C T (PaLM paper, App. B; nanoGPT).

    N - T C is every parameter but the position embedding, which is looked up and not multiplied; nor is the token embedding beside a
    head of its own. The attention term counts the full T x T square, the masked half too; a kernel that skips that does less work than
    this counts. A layer that looks at a band of W tokens counts min(T, 2 W) in place of T: the band and as much again of what its mask
    hides, so that both kinds err alike.
    """
    L, C, T = config.n_layer, config.d_model, config.context_length
    bands = [config.band(layer) for layer in range(L)]
    seen = sum(T if band is None else min(T, 2 * band) for band in bands)
    looked_up = (T * C if config.position == "learned" else 0) + (0 if config.tied_head else config.tokens * C)
    return 6 * (parameter_count(config) - looked_up) + 12 * C * seen
