"""What the field learned since the lecture, at the papers' shapes: the same loss from a fraction of the tokens.

The architecture and the optimizer are those of modded-nanogpt's simple preset (`records/track_3_optimization/train_gpt_simple.py`, which
reaches the lecture's loss on FineWeb after 1.70B tokens in place of 10B): rotary positions, normalised queries and keys with 128 channels
a head, ReLU squared, RMSNorm, a head of its own that begins at zero as all that adds to the residual stream does, softly capped logits;
Muon for the matrices inside, AdamW for the rest, no warm-up, and a learning rate that is constant before it falls in a straight line.

Each of these is a setting, and docs/LOG.md has what each gives; nothing is here for its own sake.
"""

from __future__ import annotations

import dataclasses
import math

from daybreak.model.config import SIZES as MODEL_SIZES
from daybreak.model.config import GPTConfig
from daybreak.recipes import gpt2, gpt3
from daybreak.settings import Settings, TrainSettings

SIZES: dict[str, GPTConfig] = {**MODEL_SIZES["gpt2"], **MODEL_SIZES["gpt3"]}
"""All twelve shapes; those that are GPT-3's see 2,048 tokens."""

_HEAD = 128


def size(name: str) -> Settings:
    """The settings for one of the twelve sizes, such as "124m" or "1.3b". Raises ConfigError for one that is none."""
    family = gpt3 if name.lower() in MODEL_SIZES["gpt3"] else gpt2
    faithful: Settings = family.size(name)
    plan = dataclasses.replace(
        faithful.train, train_tokens=tokens(faithful), batch_start_tokens=None, batch_ramp_tokens=0, decay_tokens=None
    )
    name = f"modern.{faithful.recipe.partition('.')[2]}"
    return dataclasses.replace(faithful, recipe=name, model=shape(faithful.model), train=rates(plan))


def rates(plan: TrainSettings) -> TrainSettings:
    """A plan with the preset's optimizer, learning rates and schedule."""
    return dataclasses.replace(
        plan,
        optimizer="muon",
        muon_learning_rate=0.025,
        momentum=0.95,
        learning_rate=0.004,  # the head's
        embedding_scale=0.7 / 0.004,
        vector_scale=0.015 / 0.004,
        beta1=0.8,
        beta2=0.95,
        epsilon=1e-10,
        weight_decay=0.05,
        grad_clip=0.0,
        warmup_tokens=0,
        schedule="wsd",
        decay_share=0.7,
        final_learning_rate=0.0,
    )


def shape(faithful: GPTConfig) -> GPTConfig:
    """The modern model of a GPT-2's or GPT-3's depth and width."""
    whole_heads = faithful.d_model % _HEAD == 0
    return dataclasses.replace(
        faithful,
        n_head=faithful.d_model // _HEAD if whole_heads else faithful.n_head,
        attention_pattern=("dense",),
        position="rotary",
        qk_norm=True,
        activation="relu2",
        norm="rmsnorm",
        embedding_norm=True,
        tied_head=False,
        logit_softcap=15.0,
        residual_scaling="zero",
        token_init_std=1.0,
        init_std=round(math.sqrt(0.33 / 768), 4),
        width_base=768,  # where the preset's figures were found
    )


def tokens(faithful: Settings) -> int:
    """14 for each number of the matrices inside and of the head, in whole steps: the preset's 1.7B at 124M, kept in proportion, but no
    more than the faithful run has.

    What computes best lies between 10 and 20 (Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models"; nanochat takes 12).
    """
    model, batch = faithful.model, faithful.train.batch_tokens
    matrices = 12 * model.n_layer * model.d_model**2 + model.tokens * model.d_model
    return min(round(14 * matrices / batch), faithful.train.train_tokens // batch) * batch
