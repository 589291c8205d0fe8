"""`daybreak report`: runs as one page that opens from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import speak

if TYPE_CHECKING:
    from daybreak.report.record import RunRecord

_FACTS = ("parameters", "flops_per_token", "device", "precision", "python", "torch", "system", "devices")


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="One run, or several to compare.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the first run's folder by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the page's path as one JSON object.")] = False,
) -> None:
    """Write a self-contained page: curves, samples, figures, settings."""
    page = write_report(folders, out or folders[0] / "report.html")
    speak.result({"report": str(page.resolve())}, as_json, str(page.resolve()))


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Reads the runs' files and writes the page. Raises FileProblem for a folder that is no run."""
    from daybreak import files
    from daybreak.report.page import page

    records = read_records(folders)
    try:
        files.write_text(out, page(records))
    except OSError as error:
        raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None
    return out


def read_records(folders: Sequence[Path]) -> list[RunRecord]:
    """What the runs' files say, with what others published beside it. Raises FileProblem for a folder that is no run."""
    from daybreak import files, metrics
    from daybreak.cli.references import references
    from daybreak.report.record import RunRecord

    if wrong := [folder for folder in folders if not (folder / "settings.json").is_file()]:
        raise files.FileProblem("\n".join(f"{folder}: wanted a run's folder, found no settings.json in it" for folder in wrong))
    records, known = [], references()
    for folder in folders:
        events = list(metrics.read(folder / "metrics.jsonl")) if (folder / "metrics.jsonl").is_file() else []
        begun: dict[str, Any] = next((event for event in reversed(events) if event["event"] in ("start", "resume")), {})
        facts = {name: begun[name] for name in _FACTS if name in begun}
        data = files.read_json(folder / "data.json") if (folder / "data.json").is_file() else None
        settings = files.read_json(folder / "settings.json")
        name, recipe = folder.resolve().name, _recipe(settings)
        records.append(RunRecord(name, settings, events, data, facts, recipe, known, published_beside(events)))
    return records


def _recipe(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Every setting of the recipe that a run was made from, if there is one of that name."""
    from daybreak import config
    from daybreak.recipes import RECIPES

    name = settings.get("recipe")
    return config.to_dict(RECIPES[name]()) if isinstance(name, str) and name in RECIPES else None


def published_beside(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What others got on the tasks that the events tell of, by the same protocol."""
    from daybreak.evaluation import published

    last: Mapping[str, Any] = next((event for event in reversed(events) if event["event"] == "tasks"), {})
    told = last.get("tasks")
    return [
        {
            "task": task,
            "protocol": row.protocol,
            "metric": row.metric,
            "model": row.model,
            "parameters": row.parameters,
            "value": row.value,
            "stderr": row.stderr,
        }
        for task, result in (told.items() if isinstance(told, Mapping) else ())
        if isinstance(result, Mapping)
        for row in published.rows(task.partition(":")[0], result.get("protocol"))
    ]
