"""How many bytes training holds on a device: arithmetic on the shape of a GPT, from the tensors that our blocks keep for backward.

After Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, equations 1 and 2, without tensor
parallelism. Their block keeps 34 bytes for each token and channel; ours keeps 36, since its residual stream, and so the input of both
norms, is in 32 bits under autocast, and since it has no dropout masks unless asked.

L layers, B sequences at once, T context, C d_model, H heads, K channels of keys and of values (C, unless heads share them), W width of the
MLP (4 C), V padded vocabulary. `wide` is the bytes of what autocast lowers: 2 in bf16 and fp16, 4 in fp32.
"""

from __future__ import annotations

from dataclasses import replace

from daybreak.model.config import GPTConfig
from daybreak.model.flops import block_count, matrices, parameter_count

MOMENTS = {"sgd": 0, "momentum": 1, "nesterov": 1, "rmsprop": 1, "lion": 1, "adam": 2, "adamw": 2, "muon": 2, "normuon": 2}
"""How many numbers an optimizer keeps for each parameter; the muons keep but one for those of the matrices in the blocks."""


def state_bytes(config: GPTConfig, optimizer: str = "adamw") -> int:
    """Weights, gradients and optimizer in fp32, the rows that pad the vocabulary included: 16 for each parameter with AdamW."""
    optimizer = optimizer.removesuffix("-plain")
    numbers = (2 + MOMENTS[optimizer]) * parameter_count(config, padded=True)
    if optimizer in ("muon", "normuon"):
        numbers -= config.n_layer * sum(rows * columns for rows, columns in matrices(config))
    if optimizer == "normuon":
        numbers += config.n_layer * sum(rows for rows, _ in matrices(config))
    return 4 * numbers


def keeps_whole_gradients(config: GPTConfig, device_bytes: int) -> bool:
    """Whether the gradients of a model that is divided are kept whole between micro-batches, to be exchanged once per step.

    That saves communication while they take at most a quarter of a device; larger models exchange them after every micro-batch.
    """
    return gradient_bytes(config) <= device_bytes / 4


def gradient_bytes(config: GPTConfig) -> int:
    """All gradients, in fp32."""
    return 4 * parameter_count(config, padded=True)


def cast_bytes(config: GPTConfig, wide: int = 2) -> int:
    """The 16-bit copies of the matrices that autocast makes in forward and keeps until backward has used them; none in fp32."""
    in_blocks = config.n_layer * sum(rows * columns for rows, columns in matrices(config))
    return wide * (in_blocks + config.padded_vocab_size * config.d_model) if wide < 4 else 0


def block_bytes(config: GPTConfig, sequences: int, wide: int = 2, square: bool = False) -> int:
    """What one block keeps for backward. `square` is for the plain attention, which keeps its T x T weights; the fused one need not.

    For each token: the inputs of the two norms, 2 x 4 C in fp32, and their statistics, 4 numbers, 2 for RMSNorm; in `wide` bytes the
    input of qkv, C, what attention keeps, the input of out, C, of up, C, of the activation, W, for SwiGLU three such, and of down, W; in
    fp32 the logarithm of each softmax's sum, H. Dropout adds a byte for each element that it may drop, 2 C, the embedding's shortcut the
    stream before it is mixed in, 4 C in fp32, and SwiGLU in 16 bits the input of up once more, as autocast lowers it for gate anew.
    """
    B, T, C, H, W = sequences, config.context_length, config.d_model, config.n_head, config.mlp_width
    bent = 3 * W + (C if wide < 4 else 0) if config.activation == "swiglu" else W
    attention = wide * H * T if square else 4 * H
    if config.qk_norm:
        attention += 4 * (H + config.kv_heads)  # the statistics of each head
    fp32 = 8 * C + 2 * _statistics(config) + (4 * C if config.embedding_shortcut else 0)
    masks = 2 * C if config.dropout else 0
    return B * T * (fp32 + wide * (3 * C + _kept_of_qkv(config) + bent + W) + attention + masks)


def _kept_of_qkv(config: GPTConfig) -> int:
    """How many numbers of queries, keys and values are kept for each token, 3 C in a GPT-2.

    The three are views of one tensor, C + 2 K wide, which stays while any of them does: as input of the attention or of QK-norm. What is
    made of them comes to it: queries and keys that were normalised or turned, values with the first layer's mixed in and the difference to
    those, keys and values that were copied for heads which share them.
    """
    C, K = config.d_model, config.kv_heads * config.head_size
    shares, prepared = K < C, config.qk_norm or config.position == "rotary"
    stays = config.qk_norm or not prepared or not (shares or config.value_residual)
    kept = C + 2 * K if stays else 0
    kept += C if prepared else 0
    kept += K if config.value_residual else 0
    if shares:
        return kept + 2 * C
    return kept + (K if prepared else 0) + (K if config.value_residual else 0)


def _statistics(config: GPTConfig) -> int:
    """The bytes of what a norm of the stream knows of each token: mean and deviation, or the root of the mean square alone."""
    return 8 if config.norm == "layernorm" else 4


def activation_bytes(config: GPTConfig, sequences: int, wide: int = 2, square: bool = False, recompute: bool = False) -> int:
    """What is kept between forward and backward, but for the logits.

    With `recompute` (activation checkpointing) each block keeps only its input, 4 C in fp32, and one at a time is computed again later.
    """
    B, T, C, L = sequences, config.context_length, config.d_model, config.n_layer
    ends = B * T * (16 + 4 * C + _statistics(config) + wide * C)  # token ids and targets; the last norm's input, statistics and output
    if config.embedding_norm:
        ends += B * T * (4 * C + _statistics(config))
    block = block_bytes(config, sequences, wide, square)
    first = block_bytes(replace(config, value_residual=False), sequences, wide, square)  # it has no other's values to mix in
    if not recompute:
        return ends + first + (L - 1) * block
    left = C + 2 * config.kv_heads * config.head_size if config.value_residual else 0  # its values, a view of all that qkv gave
    return ends + B * T * (L * 4 * C + wide * left) + block


def logits_bytes(config: GPTConfig, sequences: int, wide: int = 2, chunk: int | None = None) -> int:
    """The peak that the loss adds: 3 x 4 V for each token, the logarithms of the probabilities, their gradient, and the logits'.

    It stands when all activations are still there. Later in backward the gradients on their way through a block need less. A softcap keeps
    its tanh, 4 V more. With the loss in chunks only the tokens of one have anything in fp32; in 16 bits the logits of all are kept.
    """
    tokens, V = sequences * config.context_length, config.padded_vocab_size
    capped = 0 if config.logit_softcap is None else 4
    if chunk is None:
        return (12 + capped) * tokens * V
    at_once = min(chunk, tokens)
    return V * ((wide * tokens if wide < 4 else 4 * at_once) + (8 + capped) * at_once)


def gathered_bytes(config: GPTConfig, wide: int = 2) -> int:
    """What a sharded model (ZeRO stage 3; FSDP) holds whole for a moment: embeddings and one block to compute with, their gradient in fp32
    until it is scattered, and the next block, fetched ahead. It is for weights that are gathered in `wide` bytes and let go after each
    block, and for gradients that are scattered after each micro-batch."""
    block = block_count(config)
    ends = parameter_count(config, padded=True) - config.n_layer * block
    return (wide + 4) * (ends + block) + wide * block
