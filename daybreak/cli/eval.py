"""`daybreak eval`: what a trained model knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daybreak.cli import speak


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a GPT-2 in Hugging Face's form.")],
    data: Annotated[Path | None, typer.Option(help="Prepared data to evaluate on; the run's own by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Evaluate a model on a validation text: loss, perplexity, bits per byte."""
    from daybreak import config, corpus, files, loading, machine, story
    from daybreak.settings import Settings

    machine.prepare_cpu()
    model = loading.load(folder, device=device)
    if data is None:
        if not (folder / "settings.json").is_file():
            raise files.FileProblem(f"{folder}: holds no run whose data could be taken; name prepared data with --data DIR")
        data = Path(config.load(Settings, folder / "settings.json").data.dir)
    result = story.evaluate(model, corpus.Data.open(data))
    tasks = {"validation": {name: {"value": value, "stderr": None, "n": result.tokens} for name, value in result.figures().items()}}
    text = f"{data}: {result.tokens:,} validation tokens\n" + "\n".join(f"{name:14}{value:.4f}" for name, value in result.figures().items())
    speak.result({"model": str(folder), "data": str(data), "tasks": tasks}, as_json, text)
