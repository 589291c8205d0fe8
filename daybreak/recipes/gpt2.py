"""GPT-2 at its four published sizes, with the training recipe of the lecture "Let's reproduce GPT-2 (124M)".

OpenAI published GPT-2's architecture but not its training; the lecture, as everyone, borrows from GPT-3 (paper, table 2.1 and appendix B).
"""

from __future__ import annotations

from daybreak.config import ConfigError, closest
from daybreak.model.config import SIZES as MODEL_SIZES
from daybreak.settings import DataSettings, Settings, TrainSettings

SIZES = MODEL_SIZES["gpt2"]

# GPT-3 paper, table 2.1, at the nearest size; 1558m stands between XL (2.0e-4) and 2.7B (1.6e-4).
_LEARNING_RATES = {"124m": 6e-4, "355m": 3e-4, "774m": 2.5e-4, "1558m": 2e-4}


def size(name: str) -> Settings:
    """The settings for "124m", "355m", "774m" or "1558m". Raises ConfigError for another name."""
    if name not in SIZES:
        hint = f"{closest(name, SIZES)} There are" if closest(name, SIZES) else "; there are"
        raise ConfigError([f"{name}: no such size of gpt2{hint} {', '.join(SIZES)}"])
    return Settings(
        recipe=f"gpt2.{name}",
        model=SIZES[name],
        data=DataSettings(dir="data/fineweb-edu"),
        train=TrainSettings(learning_rate=_LEARNING_RATES[name]),
    )
