"""Recipes: functions that return Settings, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from daybreak import config
from daybreak.recipes import demo, gpt2, gpt3, modern
from daybreak.settings import Settings

RECIPES: dict[str, Callable[[], Settings]] = {
    "demo": demo.demo,
    "demo-gpt2": demo.faithful,
    **{f"gpt2.{name}": partial(gpt2.size, name) for name in gpt2.SIZES},
    **{f"gpt2.{name}-tuned": partial(gpt2.tuned, name) for name in gpt2.SIZES},
    **{f"gpt3.{name}": partial(gpt3.size, name) for name in gpt3.SIZES},
    **{f"modern.{name}": partial(modern.size, name) for name in modern.SIZES},
}

ALIASES: dict[str, str] = {
    **{f"gpt2.{alias}{kind}": f"gpt2.{name}{kind}" for alias, name in gpt2.ALIASES.items() for kind in ("", "-tuned")},
    **{f"gpt3.{alias}": f"gpt3.{name}" for alias, name in gpt3.ALIASES.items()},
}
"""Other names of recipes, as the papers and their readers have them."""


def recipe_settings(name: str) -> Settings:
    """The settings of a recipe by name, such as `gpt2.124m` or `gpt3.xl`. Raises ConfigError with the nearest name for one not there."""
    lower = name.lower()
    known = ALIASES.get(lower, lower)
    if known not in RECIPES:
        kind = "recipe, and no run's folder" if "/" in name else "recipe"
        names = [*RECIPES, *ALIASES]
        family = [known for known in names if known.partition(".")[0] == lower.partition(".")[0]]
        hint = config.closest(lower, family) or config.closest(lower, names)
        raise config.ConfigError([f"{name}: no such {kind}{hint + ' There' if hint else '; there'} are {', '.join(RECIPES)}"])
    return RECIPES[known]()


__all__ = ["ALIASES", "RECIPES", "demo", "gpt2", "gpt3", "modern", "recipe_settings"]
