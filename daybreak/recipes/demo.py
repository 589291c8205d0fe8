"""The demo: a small GPT-2 that learns English about programming in about five minutes on two CPU cores."""

from __future__ import annotations

from daybreak.model.config import GPTConfig
from daybreak.settings import CheckpointSettings, DataSettings, EvalSettings, SampleSettings, Settings, TrainSettings


def demo() -> Settings:
    """The settings of `make demo`."""
    return Settings(
        recipe="demo",
        model=GPTConfig(vocab_size=None, context_length=256, n_layer=6, n_head=6, d_model=384),
        data=DataSettings(dir="data/demo"),
        train=TrainSettings(
            train_tokens=1_600_000,
            batch_tokens=4096,
            learning_rate=2e-3,
            warmup_tokens=100_000,
            final_learning_rate=0.02,
        ),
        eval=EvalSettings(every_tokens=250_000, tokens=32_768),
        sample=SampleSettings(
            every_tokens=250_000,
            prompts=("Return the", "This function", "If the argument is not", "A module for"),
            max_tokens=60,
        ),
        checkpoint=CheckpointSettings(every_seconds=60.0),
    )
