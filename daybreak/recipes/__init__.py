"""Recipes: functions that return Settings, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable

from daybreak import config
from daybreak.recipes import demo, gpt2
from daybreak.settings import Settings

RECIPES: dict[str, Callable[[], Settings]] = {
    "demo": demo.demo,
    **{f"gpt2.{name}": (lambda name=name: gpt2.size(name)) for name in gpt2.SIZES},  # type: ignore[misc]
}


def recipe_settings(name: str) -> Settings:
    """The settings of a recipe by name, such as `gpt2.124m`. Raises ConfigError with the nearest name for one that is not there."""
    if name not in RECIPES:
        kind = "recipe, and no run's folder" if "/" in name else "recipe"
        hint = f"{config.closest(name, RECIPES)} There are" if config.closest(name, RECIPES) else "; there are"
        raise config.ConfigError([f"{name}: no such {kind}{hint} {', '.join(RECIPES)}"])
    return RECIPES[name]()


__all__ = ["RECIPES", "demo", "gpt2", "recipe_settings"]
