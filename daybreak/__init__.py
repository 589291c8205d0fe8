"""daybreak trains GPT-2 and GPT-3 from scratch: from raw text to a model that is evaluated, explained and served.

    import daybreak as db

    settings = db.edit(db.recipes.demo.demo(), ["train.learning_rate=1e-3"])
    db.run(settings, "runs/dawn")
    model = db.load("runs/dawn")

The names below are the public face. They are imported when they are first used, so `import daybreak` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daybreak import recipes
    from daybreak.config import ConfigError, describe, edit
    from daybreak.data.batches import Batch, Batches
    from daybreak.data.prepare import prepare
    from daybreak.data.shards import TokenStream, find_shards
    from daybreak.data.tokenizer import Tokenizer, load_tokenizer
    from daybreak.evaluation.score import Score, score
    from daybreak.inference.generate import generate
    from daybreak.inference.sampling import Sampling
    from daybreak.loading import Model, load
    from daybreak.model.config import GPTConfig
    from daybreak.model.gpt import GPT
    from daybreak.model.init import build
    from daybreak.model.kv_cache import KVCache
    from daybreak.settings import Settings
    from daybreak.story import events, run
    from daybreak.training.loop import Step, train
    from daybreak.training.objectives import cross_entropy
    from daybreak.training.optimizers import make_optimizer
    from daybreak.training.schedules import warmup_cosine

__version__ = "0.1.0"

_HOMES = {
    "Batch": "daybreak.data.batches",
    "Batches": "daybreak.data.batches",
    "ConfigError": "daybreak.config",
    "GPT": "daybreak.model.gpt",
    "GPTConfig": "daybreak.model.config",
    "KVCache": "daybreak.model.kv_cache",
    "Model": "daybreak.loading",
    "Sampling": "daybreak.inference.sampling",
    "Score": "daybreak.evaluation.score",
    "Settings": "daybreak.settings",
    "Step": "daybreak.training.loop",
    "TokenStream": "daybreak.data.shards",
    "Tokenizer": "daybreak.data.tokenizer",
    "build": "daybreak.model.init",
    "cross_entropy": "daybreak.training.objectives",
    "describe": "daybreak.config",
    "edit": "daybreak.config",
    "events": "daybreak.story",
    "find_shards": "daybreak.data.shards",
    "generate": "daybreak.inference.generate",
    "load": "daybreak.loading",
    "load_tokenizer": "daybreak.data.tokenizer",
    "make_optimizer": "daybreak.training.optimizers",
    "prepare": "daybreak.data.prepare",
    "run": "daybreak.story",
    "score": "daybreak.evaluation.score",
    "train": "daybreak.training.loop",
    "warmup_cosine": "daybreak.training.schedules",
}

__all__ = [*sorted(_HOMES), "__version__", "recipes"]


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("daybreak.recipes")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'daybreak' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
