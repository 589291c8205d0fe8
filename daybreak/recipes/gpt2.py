"""GPT-2 at its four published sizes, with the training recipe of the lecture "Let's reproduce GPT-2 (124M)".

OpenAI published GPT-2's architecture but not its training; the lecture, as everyone, borrows from GPT-3 (paper, table 2.1 and appendix B):
AdamW with betas 0.9 and 0.95, epsilon 1e-8 and weight decay 0.1, gradients clipped at 1, half a cosine down to a tenth. Its run has 19,073
steps of 524,288 tokens, one epoch of FineWeb-Edu's sample of 10B, and warms up over 715 (build-nanogpt, `train_gpt2.py`).
"""

from __future__ import annotations

from dataclasses import replace

from daybreak.model.config import ALIASES as MODEL_ALIASES
from daybreak.model.config import SIZES as MODEL_SIZES
from daybreak.model.config import size_name
from daybreak.settings import DataSettings, Settings, TrainSettings

SIZES = MODEL_SIZES["gpt2"]
ALIASES = MODEL_ALIASES["gpt2"]

# GPT-3 paper, table 2.1, at the nearest size; 1558m stands between XL (2.0e-4) and 2.7B (1.6e-4).
_LEARNING_RATES = {"124m": 6e-4, "355m": 3e-4, "774m": 2.5e-4, "1558m": 2e-4}
_BATCH = 512 * 1024  # GPT-2 paper, section 2.3: a batch size of 512 and a context of 1024


def size(name: str) -> Settings:
    """The settings for "124m", "355m", "774m" or "1558m", or another name of these. Raises ConfigError for one that is none."""
    name = size_name("gpt2", name)
    return Settings(
        recipe=f"gpt2.{name}",
        model=SIZES[name],
        data=DataSettings(dir="data/fineweb-edu"),
        train=TrainSettings(
            train_tokens=19_073 * _BATCH,
            batch_tokens=_BATCH,
            warmup_tokens=715 * _BATCH,
            learning_rate=_LEARNING_RATES[name],
            final_learning_rate=0.1,
            beta1=0.9,
            beta2=0.95,
            epsilon=1e-8,
            weight_decay=0.1,
            grad_clip=1.0,
        ),
    )


def tuned(name: str) -> Settings:
    """The same model with nothing changed but the learning rate and its schedule: three times the rate, which GPT-3's table has far too
    low, constant until it falls in a straight line over the last 40 %.

    On FineWeb that reaches the lecture's loss in half the tokens (modded-nanogpt, records 1 and 2: 6e-4 to 1.8e-3 and wsd).
    """
    faithful = size(name)
    plan = faithful.train
    return replace(
        faithful,
        recipe=f"{faithful.recipe}-tuned",
        train=replace(
            plan,
            train_tokens=plan.train_tokens // 2 // plan.batch_tokens * plan.batch_tokens,
            warmup_tokens=256 * plan.batch_tokens,
            learning_rate=3 * plan.learning_rate,
            schedule="wsd",
            decay_share=0.4,
            final_learning_rate=0.0,
        ),
    )
