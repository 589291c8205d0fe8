"""`daybreak compare`: which of several ways to train is better, over seeds, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from daybreak.cli import speak


class WithBaseline(TyperCommand):
    """A verb whose --baseline takes all the words up to the next option, as a shell's * gives them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The same words with --baseline before each that belongs to it."""
        told: list[str] = []
        within = False
        for word in args:
            if word.startswith("--"):
                within = word == "--baseline"
                if not within:
                    told.append(word)
            else:
                told += ["--baseline", word] if within else [word]
        if args and args[-1] == "--baseline":  # then nothing came, which the usual message tells
            told.append("--baseline")
        found: list[str] = super().parse_args(ctx, told)
        return found


def compare(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN_DIR...", help="Runs; those that differ in train.seed alone are one group.")
    ] = None,
    baseline: Annotated[
        list[Path] | None, typer.Option(metavar="RUN_DIR...", help="What to compare with; the first run's group by default.")
    ] = None,
    by: Annotated[str, typer.Option(help="Where losses are compared: at equal tokens, time or flops.")] = "tokens",
    to_loss: Annotated[
        float | None, typer.Option(help="The validation loss to be reached; by default that at which the baseline ends.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A page to write: pictures, table, settings, curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON object.")] = False,
) -> None:
    """Compare runs over seeds: loss, its difference and interval, tokens, time and FLOPs to reach a loss."""
    from daybreak import files
    from daybreak.cli.report import read_records
    from daybreak.report import compared
    from daybreak.report.comparison import AXES
    from daybreak.report.comparison import compare as judge
    from daybreak.report.page import page
    from daybreak.report.record import summary

    if by not in AXES:
        raise files.FileProblem(f"--by: wanted tokens, time or flops, came {by!r}")
    first = baseline or []
    places = list(dict.fromkeys([*first, *(folders or [])]))
    if len(places) < 2:
        raise files.FileProblem(f"wanted at least two runs to compare, came {len(places)}; name their folders")
    runs = dict(zip(places, map(summary, read_records(places)), strict=True))
    told = judge(list(runs.values()), [runs[folder] for folder in first], by, to_loss)
    values = compared.as_values(told)
    if out is not None:
        text = page([run.record for row in told.rows for run in row.group.runs], "daybreak compare", compared.as_section(told))
        try:
            files.write_text(out, text)
        except OSError as error:
            raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None
        values["page"] = str(out.resolve())
    speak.result(values, as_json, compared.as_text(told) + (f"\n\n{out.resolve()}" if out else ""))
