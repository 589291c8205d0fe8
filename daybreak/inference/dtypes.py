"""What --dtype says: the number format in which a model decodes on its device."""

from __future__ import annotations

import torch

from daybreak.config import ConfigError, closest
from daybreak.inference.formats import FORMATS, in_format
from daybreak.inference.trials import measure, quickest
from daybreak.model.gpt import GPT

DTYPES = ("auto", "fp32", *FORMATS)
"""auto is bf16 on a GPU and fp16w on a CPU that has it: the quickest that changes next to nothing."""


def chosen(gpt: GPT, dtype: str) -> str:
    """What a dtype means for a model on the device where it is. Raises ConfigError for one that is unknown or not for the device."""
    if dtype not in DTYPES:
        raise ConfigError([f"dtype: wanted one of {', '.join(DTYPES)}, came {dtype}{closest(dtype, DTYPES)}"])
    device = gpt.token_embedding.weight.device
    if dtype == "auto":
        return _automatic(gpt, device)
    if device.type != "cpu" and dtype not in ("fp32", "bf16"):
        raise ConfigError([f"dtype: wanted fp32 or bf16 on {device.type}, came {dtype}, whose operations are for CPUs"])
    return dtype


def in_dtype(gpt: GPT, dtype: str) -> GPT:
    """The model as it computes in a dtype. Raises ConfigError as `chosen` does."""
    dtype = chosen(gpt, dtype)
    if dtype == "fp32":
        return gpt
    if gpt.token_embedding.weight.device.type != "cpu":
        return gpt.to(torch.bfloat16)
    try:
        return in_format(gpt, dtype, quickest)
    except ValueError as error:
        raise ConfigError([f"dtype: {error}"]) from None


def _automatic(gpt: GPT, device: torch.device) -> str:
    if device.type != "cpu":
        return "bf16" if device.type == "cuda" else "fp32"
    width = gpt.config.d_model
    return "fp16w" if any(milliseconds < float("inf") for _, milliseconds, _ in measure("fp16w", 64, width)) else "fp32"
