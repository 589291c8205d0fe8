"""GPT-3 at its eight published sizes, trained as its paper says (arXiv 2005.14165, table 2.1 and appendix B).

300 billion tokens in contexts of 2048. Adam with betas 0.9 and 0.95 and epsilon 1e-8, weight decay 0.1, the global norm of the gradient
clipped at 1. The learning rate rises over 375 million tokens, falls to a tenth as half a cosine until 260 billion, and stays there.
The batch grows in a straight line from 32 thousand tokens to its full size "over the first 4-12 billion tokens of training, depending on
the model size". Windows run across documents, with an end-of-text token between them and no mask, and none repeats within an epoch.
"""

from __future__ import annotations

from typing import NamedTuple

from daybreak.model.config import ALIASES as MODEL_ALIASES
from daybreak.model.config import SIZES as MODEL_SIZES
from daybreak.model.config import size_name
from daybreak.settings import DataSettings, Settings, TrainSettings

SIZES = MODEL_SIZES["gpt3"]
ALIASES = MODEL_ALIASES["gpt3"]


class _Row(NamedTuple):
    learning_rate: float
    batch: int
    """Sequences of 2048 tokens. The paper's 0.5M, 1M, 2M and 3.2M tokens as 256, 512, 1024 and 1536, which divide among many devices."""
    ramp: int
    """Tokens over which the batch grows: the paper's 4 to 12 billion, larger for larger batches; the steps between are ours."""


_TABLE = {
    "125m": _Row(6.0e-4, 256, 4_000_000_000),
    "350m": _Row(3.0e-4, 256, 4_000_000_000),
    "760m": _Row(2.5e-4, 256, 4_000_000_000),
    "1.3b": _Row(2.0e-4, 512, 6_000_000_000),
    "2.7b": _Row(1.6e-4, 512, 6_000_000_000),
    "6.7b": _Row(1.2e-4, 1024, 8_000_000_000),
    "13b": _Row(1.0e-4, 1024, 8_000_000_000),
    "175b": _Row(0.6e-4, 1536, 12_000_000_000),
}


def size(name: str) -> Settings:
    """The settings for "125m" to "175b", or another name of these. Raises ConfigError for one that is none."""
    name = size_name("gpt3", name)
    row = _TABLE[name]
    return Settings(
        recipe=f"gpt3.{name}",
        model=SIZES[name],
        data=DataSettings(dir="data/fineweb-edu"),
        train=TrainSettings(
            train_tokens=300_000_000_000,
            batch_tokens=row.batch * 2048,
            batch_start_tokens=16 * 2048,
            batch_ramp_tokens=row.ramp,
            learning_rate=row.learning_rate,
            warmup_tokens=375_000_000,
            decay_tokens=260_000_000_000,
            final_learning_rate=0.1,
            beta1=0.9,
            beta2=0.95,
            epsilon=1e-8,
            weight_decay=0.1,
            grad_clip=1.0,
        ),
    )
