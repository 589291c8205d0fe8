"""`daybreak plan`: what a run would be. Runs nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import speak
from daybreak.cli.train import request, written

if TYPE_CHECKING:
    from daybreak.settings import Settings


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe such as demo or gpt2.124m, or the folder of a run.")],
    edits: Annotated[list[str] | None, typer.Argument(metavar="path=value", help="Settings that differ from the recipe's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
) -> None:
    """Show what a run would be: size, work, memory, and every setting. Runs nothing."""
    from daybreak.config import describe, to_dict
    from daybreak.data.steps import Steps
    from daybreak.model.flops import flops_per_token, parameter_count

    settings, _ = request(recipe, edits or [], None)
    settings, vocabulary = _with_vocabulary(settings)
    parameters, per_token = parameter_count(settings.model), flops_per_token(settings.model)
    grow = Steps(settings.train.batch_tokens, settings.train.batch_start_tokens, settings.train.batch_ramp_tokens)
    steps = grow.count(settings.train.train_tokens)
    tokens = grow.before(steps)
    values: dict[str, Any] = {
        "recipe": settings.recipe,
        "parameters": parameters,
        "flops_per_token": per_token,
        "flops": per_token * tokens,
        "steps": steps,
        "train_tokens": tokens,
        # fp32 weights, gradients and AdamW's two moments; activations come on top
        "memory_bytes": 16 * parameter_count(settings.model, padded=True),
        "seconds": None,
        "cost": None,
        "settings": to_dict(settings),
    }
    lines = [
        f"{settings.recipe}: {parameters:,} parameters{vocabulary}",
        f"training  {tokens:,} tokens in {steps:,} steps of {settings.train.batch_tokens:,}",
        f"work      {per_token:.4g} FLOP a token (6N + 12LCT), {per_token * tokens:.4g} in all",
        f"memory    {values['memory_bytes'] / 1e9:.2f} GB for weights, gradients and optimizer; activations come on top",
        "",
        *(f"{row.path} = {written(row.value)}\n    {row.sentence} ({row.wanted})" for row in describe(settings)),
    ]
    speak.result(values, as_json, "\n".join(lines))


def _with_vocabulary(settings: Settings) -> tuple[Settings, str]:
    """A vocabulary for the sums where it is still to be taken from the data, and a word on it."""
    if settings.model.vocab_size is not None:
        return settings, ""
    from daybreak.data.manifest import load_manifest

    folder = Path(settings.data.dir)
    found = load_manifest(folder).tokenizer["vocab_size"] if folder.exists() else 8192
    word = f" with the {found:,} tokens of {folder}" if folder.exists() else f" with {found:,} tokens, as {folder} is not prepared yet"
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, vocab_size=found)), word
