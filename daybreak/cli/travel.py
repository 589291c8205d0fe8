"""`daybreak import` and `export`: how models come in and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daybreak.cli import speak


def import_model(
    source: Annotated[Path, typer.Argument(metavar="HF_DIR", help="A folder with a GPT-2 in Hugging Face's form, tokenizer included.")],
    out: Annotated[Path, typer.Option(help="The run's folder to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Bring in a GPT-2 that others trained, as a run's folder."""
    _copy(source, out, out / "model", as_json)


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, finished or not.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    form: Annotated[str, typer.Option("--format", help="hf: what transformers and most other programs open.")] = "hf",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Write a model in a form that other programs read."""
    from daybreak import config

    if form != "hf":
        raise config.ConfigError([f"--format: wanted hf, came '{form}'"])
    _copy(source, out, out, as_json)


def _copy(source: Path, out: Path, folder: Path, as_json: bool) -> None:
    """Opens a model and writes it to `folder` in Hugging Face's form; `out` must be new or empty."""
    from daybreak import files, loading
    from daybreak.model.flops import parameter_count

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise files.FileProblem(f"{out}: wanted a new or empty folder, it holds something already; give another --out")
    model = loading.load(source, device="cpu")
    try:
        out.mkdir(parents=True, exist_ok=True)
        loading.write_model(folder, model.gpt, model.tokenizer)
    except OSError as error:
        raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); give another --out") from None
    parameters = parameter_count(model.config)
    speak.result({"model": str(folder), "parameters": parameters}, as_json, f"{folder}: a GPT-2 of {parameters:,} parameters")
