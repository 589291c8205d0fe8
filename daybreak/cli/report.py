"""`daybreak report`: runs as one page that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from daybreak.cli import speak

_FACTS = ("parameters", "flops_per_token", "device", "precision", "python", "torch", "system")


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
    from daybreak import files, metrics
    from daybreak.report.page import page
    from daybreak.report.record import RunRecord

    if wrong := [folder for folder in folders if not (folder / "settings.json").is_file()]:
        raise files.FileProblem("\n".join(f"{folder}: wanted a run's folder, found no settings.json in it" for folder in wrong))
    records = []
    for folder in folders:
        events = list(metrics.read(folder / "metrics.jsonl")) if (folder / "metrics.jsonl").is_file() else []
        begun: dict[str, Any] = next((event for event in reversed(events) if event["event"] in ("start", "resume")), {})
        facts = {name: begun[name] for name in _FACTS if name in begun}
        data = files.read_json(folder / "data.json") if (folder / "data.json").is_file() else None
        records.append(RunRecord(folder.name, files.read_json(folder / "settings.json"), events, data, facts))
    try:
        files.write_text(out, page(records))
    except OSError as error:
        raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None
    return out
