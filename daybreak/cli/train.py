"""`daybreak train` and `daybreak plan`: what a run will do, and doing it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from daybreak.cli import speak

if TYPE_CHECKING:
    from daybreak.settings import Settings


class WithSettings(TyperCommand):
    """A verb that takes path=value edits: its help ends with every setting and its sentence."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The usual help, then the settings."""
        super().format_help(ctx, formatter)
        from daybreak.config import describe
        from daybreak.recipes import RECIPES
        from daybreak.settings import Settings

        with formatter.section("Recipes"):
            formatter.write_text(", ".join(RECIPES))
        with formatter.section("Settings (path=value)"):
            formatter.write_dl([(f"{row.path}={_written(row.value)}", row.sentence) for row in describe(Settings())])


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe such as gpt2.124m, or the folder of a run to go on with.")],
    edits: Annotated[list[str] | None, typer.Argument(metavar="path=value", help="Settings that differ from the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Train a model, or go on where the same command was stopped."""
    settings, folder = _request(recipe, edits or [], out)
    from daybreak import opening, story
    from daybreak.cli.progress import Quiet, watching

    if opening.is_finished(folder):
        opening.check_folder(folder, settings)
        speak.say(f"{folder} is finished; `daybreak sample {folder}` lets it write, another --out begins a new run")
        if as_json:
            speak.result(_result(folder, _last_event(folder)), as_json, "")
        return 0
    last: dict[str, Any] = {}
    with Quiet() if quiet else watching(speak.console()) as show:
        for last in story.events(settings, folder):
            show.event(last)
    from daybreak.cli.report import write_report

    page = write_report([folder], folder / "report.html")
    if last["event"] == "stop":
        speak.say(f"stopped by {last['reason']} after step {last['step']:,}; the same command goes on from there")
        if as_json:
            speak.result(_result(folder, last), as_json, "")
        return 128 + int(last["signal"])
    result = _result(folder, last)
    speak.result(result, as_json, _told(result, last, page))
    return 0


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe such as demo or gpt2.124m, or the folder of a run.")],
    edits: Annotated[list[str] | None, typer.Argument(metavar="path=value", help="Settings that differ from the recipe's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
) -> None:
    """Show what a run would be: size, work, memory, and every setting. Runs nothing."""
    from daybreak.config import describe, to_dict
    from daybreak.data.steps import steps_for
    from daybreak.model.flops import flops_per_token, parameter_count

    settings, _ = _request(recipe, edits or [], None)
    settings, vocabulary = _with_vocabulary(settings)
    parameters, per_token = parameter_count(settings.model), flops_per_token(settings.model)
    steps = steps_for(settings.train.train_tokens, settings.train.batch_tokens)
    tokens = steps * settings.train.batch_tokens
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
        *(f"{row.path} = {_written(row.value)}\n    {row.sentence} ({row.wanted})" for row in describe(settings)),
    ]
    speak.result(values, as_json, "\n".join(lines))


def _request(recipe: str, edits: list[str], out: Path | None) -> tuple[Settings, Path]:
    """The settings that a command asks for, and the run's folder."""
    from daybreak import config
    from daybreak.recipes import RECIPES, recipe_settings
    from daybreak.settings import Settings

    folder = Path(recipe)
    if (folder / "settings.json").is_file():
        settings = config.load(Settings, folder / "settings.json")
        if out is not None and out != folder:
            raise config.ConfigError([f"--out: wanted {folder} or nothing, as that run goes on in its own folder; came {out}"])
    elif recipe not in RECIPES and folder.exists():
        raise config.ConfigError(
            [f"{recipe}: wanted a recipe or a run's folder, found no settings.json in it; recipes are {', '.join(RECIPES)}"]
        )
    else:
        wrong = []
        try:
            settings = recipe_settings(recipe)
        except config.ConfigError as error:
            settings, wrong = Settings(), error.problems
        folder = out or Path("runs") / recipe
        if wrong:  # the edits may be wrong too, and all is told at once
            try:
                config.edit(settings, edits)
            except config.ConfigError as error:
                wrong = wrong + error.problems
            raise config.ConfigError(wrong)
    return config.edit(settings, edits), folder


def _with_vocabulary(settings: Settings) -> tuple[Settings, str]:
    """A vocabulary for the sums where it is still to be taken from the data, and a word on it."""
    if settings.model.vocab_size is not None:
        return settings, ""
    from daybreak.data.manifest import load_manifest

    folder = Path(settings.data.dir)
    found = load_manifest(folder).tokenizer["vocab_size"] if folder.exists() else 8192
    word = f" with the {found:,} tokens of {folder}" if folder.exists() else f" with {found:,} tokens, as {folder} is not prepared yet"
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, vocab_size=found)), word


def _last_event(folder: Path) -> dict[str, Any]:
    from daybreak import metrics

    path = folder / "metrics.jsonl"
    ends = [event for event in metrics.read(path) if event["event"] == "end"] if path.is_file() else []
    return ends[-1] if ends else {}


def _result(folder: Path, last: dict[str, Any]) -> dict[str, Any]:
    return {"run": str(folder), **{key: last.get(key) for key in ("step", "tokens", "val_loss", "bits_per_byte")}}


def _told(result: dict[str, Any], last: dict[str, Any], page: Path) -> str:
    beside = ", ".join(f"{name} {bits:.3f}" for name, bits in last["compressors"].items())
    return (
        f"validation loss {last['val_loss']:.4f}, perplexity {last['perplexity']:.2f}, bits per byte {last['bits_per_byte']:.3f} "
        f"({beside})\n"
        f"report    {page.resolve()}\n"
        f'sample    daybreak sample {result["run"]} "Once upon"'
    )


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
