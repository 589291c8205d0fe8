"""`daybreak data ...` and `daybreak tokenizer train`: text into tokens on disk, and a look at them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import speak

if TYPE_CHECKING:
    from daybreak.data.manifest import Manifest
    from daybreak.data.prepare import Progress

_SOURCES = (
    "Text, jsonl or parquet files (.gz and .zst too), folders, hf:NAME[:CONFIG[:SPLIT]], - for standard input, python:docs, python:code."
)

_OPTIONS = ("vocab_size", "val_fraction", "split", "seed", "workers", "shard_tokens", "engine", "engine_address")
"""Those whose values can be wrong."""


def prepare(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=_SOURCES)],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    tokenizer: Annotated[
        str, typer.Option(help="gpt2; bpe, learned from the text; bytes; chars; or a folder with a tokenizer.json.")
    ] = "bpe",
    vocab_size: Annotated[int, typer.Option(help="How many tokens a learned bpe has.")] = 8192,
    val_fraction: Annotated[float, typer.Option(help="The share of the text kept for validation.")] = 0.01,
    split: Annotated[str, typer.Option(help="document: whole documents; tail: the end of each; auto: by their number.")] = "auto",
    seed: Annotated[int, typer.Option(help="Decides the order of the documents and which are kept for validation.")] = 1337,
    workers: Annotated[int | None, typer.Option(help="How many processes; as many as there are cores by default.")] = None,
    shard_tokens: Annotated[int, typer.Option(help="How many tokens a file holds.")] = 100_000_000,
    text_field: Annotated[str, typer.Option(help="The field of jsonl and parquet files that holds the text.")] = "text",
    engine: Annotated[str, typer.Option(help="local: processes of this machine; dask: the workers of a cluster.")] = "local",
    engine_address: Annotated[
        str | None, typer.Option(help="The cluster's scheduler, such as tcp://HOST:8786; with dask and none, processes here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Turn text into token files, in parallel; stopped at any moment, the same command goes on.

    The result depends neither on the number of processes nor on the engine. Memory does not grow with the text, and the disk needs
    about as much as the text itself; machines of a cluster share one file system with DIR and the sources.
    """
    from daybreak.data.manifest import load_manifest
    from daybreak.data.prepare import prepare as prepared

    with _options_as_typed():
        steps = prepared(
            sources,
            out,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            val_fraction=val_fraction,
            split=split,
            seed=seed,
            workers=workers,
            shard_tokens=shard_tokens,
            text_field=text_field,
            engine=engine,
            engine_address=engine_address,
        )
    _follow(steps)
    manifest = load_manifest(out)
    figures = _figures(manifest)
    skipped = "".join(f", {count:,} {reason}" for reason, count in manifest.skipped.items())
    speak.result(
        figures,
        as_json,
        f"{out}: {manifest.documents:,} documents ({manifest.duplicates:,} duplicates left out{skipped})\n"
        f"train     {manifest.train.tokens:,} tokens, {figures['train_bytes'] / 1e6:,.2f} MB of text\n"
        f"val       {manifest.val.tokens:,} tokens, {figures['val_bytes'] / 1e6:,.2f} MB of text\n"
        f"tokenizer {manifest.tokenizer['name']}, {manifest.tokenizer['vocab_size']:,} tokens",
    )


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of prepared data, or of others' token shards.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
) -> int:
    """Check every file of prepared data against its checksum; of others' shards, which have none, the sizes and every id."""
    from daybreak.data.foreign import is_foreign
    from daybreak.data.inspection import verify as verified

    say_assumption(folder)
    problems = verified(folder)
    well = "every size is as its header says, every id a token" if is_foreign(folder) else "every byte is as it was written"
    text = "\n".join(problems) or f"{folder}: {well}"
    speak.result({"data": str(folder), "problems": problems}, as_json, text)
    return int(bool(problems))


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of prepared data, or of others' token shards.")],
    documents: Annotated[int, typer.Option(help="How many documents of each split to show.")] = 2,
    characters: Annotated[int, typer.Option(help="How much of each document to show.")] = 600,
    windows: Annotated[int, typer.Option(help="How many windows of the training text to show, with where documents end in them.")] = 1,
    window_tokens: Annotated[int, typer.Option(help="How many tokens a window has.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print all as one JSON object.")] = False,
) -> None:
    """Show what stands in prepared data: figures, lengths of documents, frequent tokens, and text as the model will read it."""
    from daybreak.cli import data_view
    from daybreak.config import ConfigError
    from daybreak.data import looking
    from daybreak.data.foreign import open_manifest
    from daybreak.data.inspection import sample_documents

    wanted = {"documents": (documents, 0), "characters": (characters, 1), "windows": (windows, 0), "window-tokens": (window_tokens, 1)}
    if wrong := [f"--{name}: wanted at least {least}, came {came}" for name, (came, least) in wanted.items() if came < least]:
        raise ConfigError(wrong)
    say_assumption(folder)
    manifest = open_manifest(folder)
    figures = _figures(manifest)
    view = looking.look(folder)
    samples = {name: sample_documents(folder, name, documents, characters) for name in ("train", "val")}
    read = looking.windows(folder, "train", windows, window_tokens)
    values = {**figures, **data_view.values(manifest, view), "samples": samples, "windows": [dataclasses.asdict(window) for window in read]}
    lines = [*data_view.figures(figures, manifest, view), *data_view.lengths(view), *data_view.frequent(view)]
    for name, texts in samples.items():
        for text in texts:
            lines += ["", f"--- {name} ---", text]
    for window in read:
        lines += ["", *data_view.window(window)]
    speak.result(values, as_json, "\n".join(lines))


def train_tokenizer(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=_SOURCES)],
    vocab_size: Annotated[int, typer.Option(help="How many tokens to learn, the 256 bytes and the end of text included.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    text_field: Annotated[str, typer.Option(help="The field of jsonl and parquet files that holds the text.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Learn a byte-level BPE from text; `data prepare --tokenizer DIR` uses it."""
    from daybreak import files
    from daybreak.data.sources import documents
    from daybreak.data.tokenizer import train_bpe

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise files.FileProblem(f"{out}: wanted a new or empty folder, it holds something already; give another --out")
    speak.say(f"learning {vocab_size:,} tokens")
    with _options_as_typed():
        tokenizer = train_bpe((document.text for document in documents(sources, text_field=text_field)), vocab_size)
    try:
        tokenizer.save(out)
    except OSError as error:
        raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); give another --out") from None
    speak.result({"tokenizer": str(out), "vocab_size": tokenizer.vocab_size}, as_json, f"{out}: {tokenizer.vocab_size:,} tokens")


@contextlib.contextmanager
def _options_as_typed() -> Iterator[None]:
    """Lets a problem with `val_fraction: ...` begin with `--val-fraction: ...`, as the person typed it."""
    from daybreak.config import ConfigError
    from daybreak.data.plan import PrepareProblem
    from daybreak.data.tokenizer import TokenizerProblem

    try:
        yield
    except (PrepareProblem, TokenizerProblem) as error:  # a source's problem begins with its name, which may be anything
        parts = [line.partition(":") for line in str(error).splitlines()]
        raise ConfigError(
            [f"--{name.replace('_', '-')}:{rest}" if name in _OPTIONS else f"{name}{colon}{rest}" for name, colon, rest in parts]
        ) from None


def say_assumption(folder: Path) -> None:
    """Tells what is taken for granted of the data in a folder, if anything is."""
    from daybreak.data.foreign import assumption

    if told := assumption(folder):
        speak.say(told)


def _figures(manifest: Manifest) -> dict[str, Any]:
    text_bytes = manifest.train.text_bytes
    return {
        "data": str(manifest.folder),
        "documents": manifest.documents,
        "duplicates": manifest.duplicates,
        "split": manifest.split,
        "train_tokens": manifest.train.tokens,
        "val_tokens": manifest.val.tokens,
        "train_bytes": manifest.train.text_bytes,
        "val_bytes": manifest.val.text_bytes,
        "bytes_per_token": None if text_bytes is None else round(text_bytes / max(1, manifest.train.tokens), 3),
        "tokenizer": manifest.tokenizer["name"],
        "vocab_size": manifest.tokenizer["vocab_size"],
        "skipped": manifest.skipped,
    }


def _follow(steps: Iterable[Progress]) -> None:
    """Shows one bar for each stage of the work, or a line for each where there is no terminal."""
    console = speak.console()
    if not console.is_terminal:
        stage = ""
        for step in steps:
            if step.stage != stage:
                stage = step.stage
                speak.say(f"{stage:10}{step.note}".rstrip())
        return
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}
        for step in steps:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(step.stage, note="")
            bars.update(tasks[step.stage], total=step.total, completed=step.done, note=step.note)
