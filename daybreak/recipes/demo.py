"""The demo: a small GPT-2 that learns English about programming in about five minutes on two CPU cores."""

from __future__ import annotations

from daybreak.model.config import GPTConfig
from daybreak.settings import CheckpointSettings, DataSettings, EvalSettings, SampleSettings, Settings, TrainSettings


def demo() -> Settings:
    """The settings of `make demo`."""
    return Settings(
        recipe="demo",
        model=GPTConfig(vocab_size=None, context_length=128, n_layer=4, n_head=4, d_model=256),
        data=DataSettings(dir="data/demo"),
        train=TrainSettings(
            # Many small steps learn most in five minutes; their noisy gradients want a lower learning rate and a longer memory than
            # large batches do. docs/LOG.md has the figures.
            train_tokens=2_500_000,
            batch_tokens=1024,
            learning_rate=8e-4,
            final_learning_rate=0.02,
            warmup_tokens=60_000,
            beta2=0.99,
        ),
        eval=EvalSettings(every_tokens=250_000, tokens=32_768),
        sample=SampleSettings(
            every_tokens=250_000,
            prompts=("Return the", "This function", "If the argument is not", "A module for"),
            max_tokens=60,
            temperature=0.7,  # so young a model is easily led astray
        ),
        checkpoint=CheckpointSettings(every_seconds=60.0),
    )
