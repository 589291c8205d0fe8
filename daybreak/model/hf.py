"""A GPT in the form that Hugging Face's `GPT2LMHeadModel` reads and writes: names, transposed matrices, cut vocabulary.

OpenAI's release kept the four matrices of a block as (in, out), "Conv1D"; ours are (out, in), as in nn.Linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT

_TOP = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}
_IN_BLOCK = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_MASKS = (".attn.bias", ".attn.masked_bias")
"""Buffers that older versions of `transformers` kept beside the weights: the causal mask, which follows from the length."""

_GPT2 = {
    "n_kv_head": "a key and a value head for each query head",
    "position": "an embedding of each position",
    "qk_norm": "queries and keys as they are",
    "value_residual": "each layer's own values alone",
    "activation": "GELU",
    "norm": "LayerNorm",
    "bias": "biases",
    "embedding_norm": "the embedding as it is",
    "embedding_shortcut": "no way for the embedding but the residual stream",
    "tied_head": "a tied head",
    "logit_softcap": "logits as they are",
}
"""What a GPT-2 has of each part that may be another here."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The number formats that weights can be written in."""


class Unrepresentable(ValueError):
    """A model that `GPT2LMHeadModel` cannot say; the message names what and the way out."""


def names(config: GPTConfig) -> Iterator[tuple[str, str]]:
    """Every parameter's name, ours and theirs."""
    yield from _TOP.items()
    for layer in range(config.n_layer):
        for ours, theirs in _IN_BLOCK.items():
            for kind in ("weight", "bias"):
                yield f"blocks.{layer}.{ours}.{kind}", f"transformer.h.{layer}.{theirs}.{kind}"


def unrepresentable(config: GPTConfig) -> str:
    """What their form has no words for, in a sentence with the way out; "" if it can say all of the model."""
    standard = replace(GPTConfig(), n_kv_head=None if config.n_kv_head is None else config.n_head)  # as many as queries is GPT-2's, too
    others = [name for name in _GPT2 if getattr(config, name) != getattr(standard, name)]
    if others:
        more = f"; nor can it say {', '.join(others[1:])}" if others[1:] else ""
        came = str(getattr(config, others[0])).lower()
        return (
            f"model.{others[0]}: GPT2LMHeadModel has {_GPT2[others[0]]}, came {came}{more}; write it with --format daybreak, "
            f"or train with model.{others[0]}={str(getattr(GPTConfig(), others[0])).lower()}"
        )
    banded = [layer for layer in range(config.n_layer) if config.band(layer) is not None]
    if not banded:
        return ""
    # Nor can GPT-Neo's form, which has local attention, but no bias in its projections and no scaling of its scores.
    listed = ", ".join(map(str, banded[:3])) + (f" and {len(banded) - 3} more" if len(banded) > 3 else "")
    return (
        f"model.attention_pattern: of the layers 0 to {config.n_layer - 1}, {listed} look back only {config.attention_band} tokens, which "
        "GPT2LMHeadModel cannot say; write it with --format daybreak, or train with model.attention_pattern=dense"
    )


def export_state(state: Mapping[str, Tensor], config: GPTConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Our state dict in their names and shapes; the rows that pad the vocabulary are cut off."""
    exported = {}
    for ours, theirs in names(config):
        tensor = state[ours].detach().cpu().to(dtype)
        if theirs.endswith(_TRANSPOSED):
            tensor = tensor.T
        if ours == "token_embedding.weight":
            tensor = tensor[: config.tokens]
        exported[theirs] = tensor.contiguous()
    return exported


def import_state(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Their state dict in our names and shapes, in fp32, with rows of zeros that pad the vocabulary.

    With or without the prefix `transformer.`, with or without the tied `lm_head.weight` and the buffers of older versions. Raises
    ValueError that names the first tensor that is missing, of another shape, or of no GPT-2.
    """
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in GPT(config).state_dict().items()}
    shapes["token_embedding.weight"] = (config.tokens, config.d_model)
    prefixed = any(name.startswith("transformer.") for name in state)  # the hub's uploads of OpenAI's weights are not
    sources = {theirs: theirs if prefixed else theirs.removeprefix("transformer.") for _, theirs in names(config)}
    imported = {}
    for ours, theirs in names(config):
        source = sources[theirs]
        wanted = shapes[ours][::-1] if theirs.endswith(_TRANSPOSED) else shapes[ours]
        if source not in state:
            raise ValueError(f"{source}: wanted this tensor in the weights, found none; is the model a GPT-2?")
        if (came := tuple(state[source].shape)) != wanted:
            raise ValueError(f"{source}: wanted the shape {wanted} as config.json says, came {came}")
        tensor = state[source].float()
        if theirs.endswith(_TRANSPOSED):
            tensor = tensor.T
        if ours == "token_embedding.weight":
            tensor = F.pad(tensor, (0, 0, 0, config.padded_vocab_size - config.tokens))
        imported[ours] = tensor.contiguous()
    for name in state:
        if name not in sources.values() and name != "lm_head.weight" and not name.endswith(_MASKS):
            raise ValueError(f"{name}: wanted the tensors of a GPT-2 of {config.n_layer} layers and no others, came this one too")
    head = state.get("lm_head.weight")
    if head is not None and not torch.equal(head, state[sources["transformer.wte.weight"]]):
        raise ValueError("lm_head.weight: wanted the token embedding's weights, as they are tied in a GPT-2, came others")
    return imported


def export_config(config: GPTConfig, eot: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The `config.json` that `transformers` opens. Raises Unrepresentable for a model that is none of theirs."""
    if problem := unrepresentable(config):
        raise Unrepresentable(problem)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.tokens,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",  # their name for the tanh form
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "initializer_range": config.init_std,
        "tie_word_embeddings": True,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "dtype": str(dtype).removeprefix("torch."),
    }


def import_config(values: Mapping[str, Any]) -> GPTConfig:
    """Our config from their `config.json`. Raises ValueError, naming it, for what a GPT-2 here cannot represent."""
    if values.get("model_type") != "gpt2":
        raise ValueError(f"config.json: wanted model_type gpt2, came {values.get('model_type')!r}")
    if missing := [name for name in ("vocab_size", "n_layer", "n_head", "n_embd") if name not in values]:
        raise ValueError(f"config.json: wanted {', '.join(missing)}, found nothing of the name")
    if values.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ValueError(f"config.json: wanted activation_function gelu_new, came {values['activation_function']!r}")
    if values.get("n_inner") not in (None, 4 * values["n_embd"]):
        raise ValueError(f"config.json: wanted n_inner = 4 n_embd, came {values['n_inner']}")
    for flag in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if values.get(flag):
            raise ValueError(f"config.json: wanted {flag} false, came true")
    for flag in ("scale_attn_weights", "tie_word_embeddings"):
        if not values.get(flag, True):
            raise ValueError(f"config.json: wanted {flag} true, came false")
    return GPTConfig(
        vocab_size=values["vocab_size"],
        context_length=values.get("n_positions", 1024),
        n_layer=values["n_layer"],
        n_head=values["n_head"],
        d_model=values["n_embd"],
        layer_norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
        dropout=values.get("resid_pdrop", 0.0),
    )
