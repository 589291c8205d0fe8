"""How many bytes training holds on a device: arithmetic on the shape of a GPT, from the tensors that our blocks keep for backward.

After Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, equations 1 and 2, without tensor
parallelism. Their block keeps 34 bytes for each token and channel; ours keeps 36, since its residual stream, and so the input of both
norms, is in 32 bits under autocast, and since it has no dropout masks unless asked.

L layers, B sequences at once, T context, C d_model, H heads, V padded vocabulary. `wide` is the bytes of what autocast lowers: 2 in bf16
and fp16, 4 in fp32.
"""

from __future__ import annotations

from daybreak.model.config import GPTConfig
from daybreak.model.flops import parameter_count

STATE_BYTES = 16
"""For each parameter, in fp32: the weight, its gradient, and AdamW's two moments."""


def state_bytes(config: GPTConfig) -> int:
    """Weights, gradients and optimizer, the rows that pad the vocabulary included."""
    return STATE_BYTES * parameter_count(config, padded=True)


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
    C = config.d_model
    return wide * (12 * config.n_layer * C * C + config.padded_vocab_size * C) if wide < 4 else 0


def block_bytes(config: GPTConfig, sequences: int, wide: int = 2, square: bool = False) -> int:
    """What one block keeps for backward. `square` is for the plain attention, which keeps its T x T weights; the fused one need not.

    For each token: the inputs of the two norms, 2 x 4 C in fp32, and their statistics, 4 numbers; in `wide` bytes the input of qkv, C,
    queries, keys and values, 3 C, the input of out, C, of up, C, of GELU, 4 C, and of down, 4 C; in fp32 the logarithm of each softmax's
    sum, H. Dropout adds a byte for each element that it may drop, 2 C.
    """
    B, T, C, H = sequences, config.context_length, config.d_model, config.n_head
    attention = wide * H * T if square else 4 * H
    masks = 2 * C if config.dropout else 0
    return B * T * (8 * C + 16 + 14 * wide * C + attention + masks)


def activation_bytes(config: GPTConfig, sequences: int, wide: int = 2, square: bool = False, recompute: bool = False) -> int:
    """What is kept between forward and backward, but for the logits.

    With `recompute` (activation checkpointing) each block keeps only its input, 4 C in fp32, and one at a time is computed again later.
    """
    B, T, C, L = sequences, config.context_length, config.d_model, config.n_layer
    ends = B * T * (16 + 4 * C + 8 + wide * C)  # token ids and targets; the last norm's input, statistics and output
    block = block_bytes(config, sequences, wide, square)
    return ends + (L * B * T * 4 * C + block if recompute else L * block)


def logits_bytes(config: GPTConfig, sequences: int) -> int:
    """The peak that the loss adds: 3 x 4 V for each token, the logarithms of the probabilities, their gradient, and the logits'.

    It stands when all activations are still there. Later in backward the gradients on their way through a block need less.
    """
    return 3 * 4 * sequences * config.context_length * config.padded_vocab_size


def gathered_bytes(config: GPTConfig, wide: int = 2) -> int:
    """What a sharded model (ZeRO stage 3; FSDP) holds whole for a moment: embeddings and one block to compute with, their gradient in fp32
    until it is scattered, and the next block, fetched ahead. It is for weights that are gathered in `wide` bytes and let go after each
    block, and for gradients that are scattered after each micro-batch."""
    C = config.d_model
    block = 12 * C * C + 13 * C
    ends = parameter_count(config, padded=True) - config.n_layer * block
    return (wide + 4) * (ends + block) + wide * block
