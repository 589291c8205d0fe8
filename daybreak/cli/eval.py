"""`daybreak eval`: what a trained model knows, of its own text and on tasks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import scores, speak

if TYPE_CHECKING:
    from daybreak.evaluation.suite import Result, Task
    from daybreak.loading import Model

_HARNESS = "harness:"
_QUIET_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""

_PAIRED = {"choice": ("acc_norm",), "completion": ("acc", "log_likelihood"), "document": ("log_likelihood",)}
"""By what two models are compared, item by item."""


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a GPT-2 in Hugging Face's form.")],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="hellaswag, hellaswag:harness, lambada, wikitext; NAME=FILE; a .jsonl file of your own; harness:NAME for a task of the "
            "lm-evaluation-harness. Several with commas. Without it the validation text."
        ),
    ] = None,
    items: Annotated[int | None, typer.Option(help="How many items of each task, evenly spread; all by default.")] = None,
    task_files: Annotated[Path | None, typer.Option(help="The folder of the tasks' files; downloaded by default.")] = None,
    save_items: Annotated[Path | None, typer.Option(help="A .jsonl file to write what came of each item to.")] = None,
    against: Annotated[str | None, typer.Option(help="Another run or model, compared on the same items.")] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared data to evaluate on; without --tasks the run's own by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Evaluate a model: loss, perplexity and bits per byte of a validation text, or its scores on tasks."""
    from daybreak import config, loading, machine

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if wrong := _problems(tasks, names, items, task_files, save_items, against):
        raise config.ConfigError(wrong)
    machine.prepare_cpu()
    model = loading.load(folder, device=device)
    found: dict[str, Any] = {"model": str(folder), "data": None, "tasks": {}}
    text = []
    if not names or data is not None:
        found["data"], found["tasks"]["validation"], told = _validation(model, folder, data)
        text.append(told)
    if names:
        ours = [name for name in names if not name.startswith(_HARNESS)]
        opened = _open(ours, model, task_files, items)
        other = None if against is None else _other(against, device)
        theirs = [] if other is None else _open(ours, other, task_files, items)
        found["tasks"] |= (foreign := _harness([name for name in names if name not in ours], model, items, task_files))
        results = [_run(task, model) for task in opened]
        found["tasks"] |= {result.name: {name: row.as_dict() for name, row in result.figures().items()} for result in results}
        found["protocols"] = {result.name: {**result.facts(), "published": scores.published_rows(result)} for result in results}
        text.append(scores.table(foreign, results, model))
        if save_items is not None:
            _save(results, save_items)
        if other is not None:
            found["against"], told = _compare(results, [_run(task, other, f"{against} ") for task in theirs], str(folder), str(against))
            text.append(told)
    speak.result(found, as_json, "\n\n".join(text))


def _problems(
    tasks: str | None, names: Sequence[str], items: int | None, task_files: Path | None, save_items: Path | None, against: str | None
) -> list[str]:
    """What is wrong with the options, before anything is opened."""
    wrong = []
    if tasks is not None and not names:
        wrong.append("--tasks: wanted names with commas between them, came none; name hellaswag, or leave it out for the validation text")
    if items is not None and items < 1:
        wrong.append(f"--items: wanted at least 1, came {items}")
    if items == 1 and against is not None:
        wrong.append("--items: wanted at least 2 to compare two models by, came 1")
    if task_files is not None and not task_files.is_dir():
        wrong.append(f"--task-files: wanted a folder with the tasks' files, found none at {task_files}; leave it out to download them")
    if save_items is not None and save_items.is_dir():
        wrong.append(f"--save-items: wanted the name of a .jsonl file, came the folder {save_items}; name a file in it")
    if not [name for name in names if not name.startswith(_HARNESS)]:
        given = {"--items": items, "--task-files": task_files, "--save-items": save_items, "--against": against}
        if names:
            given = {name: value for name, value in given.items() if name not in ("--items", "--task-files")}
        wrong += [
            f"{name}: wanted --tasks with a task of our own beside it, came none; add --tasks hellaswag"
            for name, value in given.items()
            if value
        ]
    return wrong


def _validation(model: Model, folder: Path, data: Path | None) -> tuple[str, dict[str, Any], str]:
    """The data's name, the figures of its validation text, and both as text."""
    from daybreak import config, corpus, evaluating, files
    from daybreak.settings import Settings

    if data is None:
        if not (folder / "settings.json").is_file():
            raise files.FileProblem(f"{folder}: holds no run whose data could be taken; name prepared data with --data DIR, or --tasks")
        data = Path(config.load(Settings, folder / "settings.json").data.dir)
    result = evaluating.evaluate(model, corpus.Data.open(data))
    figures = {name: {"value": value, "stderr": None, "n": result.tokens} for name, value in result.figures().items()}
    lines = [f"{data}: {result.tokens:,} validation tokens", *(f"{name:14}{value:.4f}" for name, value in result.figures().items())]
    return str(data), figures, "\n".join(lines)


def _open(names: Sequence[str], model: Model, folder: Path | None, items: int | None) -> list[Task]:
    from daybreak.evaluation import suite

    return suite.open_tasks(names, model.tokenizer, folder, items)


def _other(name: str, device: str) -> Model:
    """The model to compare with: a folder, or one that OpenAI published."""
    from daybreak import loading
    from daybreak.machine import choose_device
    from daybreak.pretrained import pretrained

    published = None if Path(name).exists() else pretrained(name)
    if published is None:
        return loading.load(name, device=device)
    model = loading.load_pretrained(published)
    model.gpt.to(choose_device(device))
    return model


def _run(task: Task, model: Model, whose: str = "") -> Result:
    """One task, with its progress on standard error."""
    from daybreak import machine
    from daybreak.evaluation import suite
    from daybreak.training.precision import MixedPrecision

    precision = MixedPrecision(machine.choose_precision(model.device), model.device)
    with _watching(f"{whose}{task.name}", len(task.items)) as watch:
        return suite.run(
            task, model.gpt, context_length=model.config.context_length, device=model.device, autocast=precision.autocast, watch=watch
        )


def _harness(names: Sequence[str], model: Model, items: int | None, folder: Path | None) -> dict[str, Any]:
    """The figures of tasks that the lm-evaluation-harness has, or a folder has in its form, under the names that they were asked by."""
    if not names:
        return {}
    from daybreak import machine
    from daybreak.evaluation import harness
    from daybreak.training.precision import MixedPrecision

    found = harness.run(
        model.gpt,
        model.tokenizer,
        [name.removeprefix(_HARNESS) for name in names],
        context_length=model.config.context_length,
        device=model.device,
        limit=items,
        task_folder=folder,
        autocast=MixedPrecision(machine.choose_precision(model.device), model.device).autocast,
    )
    return {f"{_HARNESS}{name}": figures for name, figures in found.items()}


def _save(results: Sequence[Result], path: Path) -> None:
    from daybreak import files
    from daybreak.evaluation import suite

    try:
        suite.save_items(results, path)
    except OSError as error:
        raise files.FileProblem(f"{path}: cannot be written ({error.strerror or error}); give another --save-items") from None
    speak.say(f"{path}: {sum(len(result.outcomes) for result in results):,} items")


def _compare(results: Sequence[Result], theirs: Sequence[Result], our_name: str, their_name: str) -> tuple[dict[str, Any], str]:
    """The other model's figures, and for each task the difference item by item."""
    import dataclasses

    from daybreak.evaluation import paired

    compared: dict[str, dict[str, Any]] = {}
    lines = []
    for mine, its in zip(results, theirs, strict=True):
        compared[mine.name] = {}
        for metric in _PAIRED[mine.protocol.kind]:
            pair = paired.compare(mine.values(metric), its.values(metric), first_items=mine.digests(), second_items=its.digests())
            compared[mine.name][metric] = {**dataclasses.asdict(pair), "significant": pair.significant}
            lines.append(f"{mine.name} {metric}: {pair.sentence(our_name, their_name)}")
    figures = {result.name: {name: row.as_dict() for name, row in result.figures().items()} for result in theirs}
    return {"model": their_name, "tasks": figures, "compared": compared}, "\n".join(lines)


@contextlib.contextmanager
def _watching(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """Shows how many items are done: a bar on a terminal, elsewhere a line every few seconds."""
    console = speak.console()
    if console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
        )
        with bar:
            shown = bar.add_task(speak.harmless(name), total=total)
            yield lambda done: bar.update(shown, completed=done)
        return
    said = time.monotonic()

    def say(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _QUIET_SECONDS:
            said = time.monotonic()
            speak.say(f"{name}  {done:,} of {total:,} items")

    yield say
