"""The demo: a small model of the modern recipe that learns English about programming in about five minutes on two CPU cores."""

from __future__ import annotations

import dataclasses

from daybreak.model.config import GPTConfig
from daybreak.recipes import modern
from daybreak.settings import CheckpointSettings, DataSettings, EvalSettings, SampleSettings, Settings, TrainSettings


def demo() -> Settings:
    """The settings of `make demo`. docs/LOG.md has the figures behind them."""
    small = GPTConfig(vocab_size=None, context_length=128, n_layer=4, n_head=4, d_model=256)
    return Settings(
        recipe="demo",
        model=modern.shape(small),
        data=DataSettings(dir="data/demo"),
        train=modern.rates(TrainSettings(train_tokens=1_700_000, batch_tokens=2048)),
        eval=EvalSettings(every_tokens=250_000, tokens=32_768),
        sample=SampleSettings(
            every_tokens=250_000,
            prompts=("Return the", "This function", "If the argument is not", "A module for"),
            max_tokens=60,
            temperature=0.7,  # so young a model is easily led astray
        ),
        checkpoint=CheckpointSettings(every_seconds=60.0),
    )


def faithful() -> Settings:
    """The demo by GPT-2's architecture and AdamW, at the rates that suit it: what the modern one is measured by."""
    settings = demo()
    return dataclasses.replace(
        settings,
        recipe="demo-gpt2",
        model=GPTConfig(vocab_size=None, context_length=128, n_layer=4, n_head=4, d_model=256),
        # Small steps with noisy gradients want a lower learning rate and a longer memory than large batches do.
        train=TrainSettings(
            train_tokens=2_500_000,
            batch_tokens=1024,
            learning_rate=8e-4,
            final_learning_rate=0.02,
            warmup_tokens=60_000,
            beta2=0.99,
        ),
    )
