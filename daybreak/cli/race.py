"""`daybreak bench optimizers`: which optimizer learns most from the same tokens, each at its best learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import speak
from daybreak.cli.train import request

if TYPE_CHECKING:
    from daybreak.racing import Placed


def optimizers(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe such as demo; train.train_tokens says how long a heat is.")],
    edits: Annotated[list[str] | None, typer.Argument(metavar="path=value", help="Settings that differ from the recipe's.")] = None,
    only: Annotated[str | None, typer.Option(help="Which to race, such as adamw,muon; all by default.")] = None,
    tries: Annotated[int, typer.Option(help="How many learning rates to try for each, at most.")] = 5,
    out: Annotated[Path | None, typer.Option(help="A folder for the plot and the figures as JSON; none are written without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> int:
    """Race the optimizers from the same start on the same batches, each at the learning rate that a small sweep finds for it."""
    from daybreak import config, machine, opening, racing
    from daybreak.training.optimizers import OPTIMIZERS

    names = list(racing.RACERS) if only is None else [name for name in only.split(",") if name]
    wrong = [f"--only: {name}: no such optimizer; there are {', '.join(OPTIMIZERS)}" for name in names if name not in OPTIMIZERS]
    if not names:
        wrong.append(f"--only: wanted some of {', '.join(racing.RACERS)}, came none")
    if tries < 1:
        wrong.append(f"--tries: wanted at least 1, came {tries}")
    if out is not None and out.exists() and not out.is_dir():
        wrong.append(f"--out: wanted a folder, came the file {out}; name another")
    if wrong:
        raise config.ConfigError(wrong)
    settings, _ = request(recipe, edits or [], None)
    settings, data, device, precision, _ = opening.resolve(settings)
    heats, stopped = [], False
    try:
        for heat in racing.race(settings, data, device, precision, names, tries):
            heats.append(heat)
            speak.say(f"{heat.optimizer} at {heat.learning_rate:.3g}: {_written(heat.val_loss)}, {heat.milliseconds:,.1f} ms a step")
    except KeyboardInterrupt:
        stopped = True
        speak.say("stopped; this is what there is")
    placed = racing.placing(heats)
    title = f"{settings.recipe}, {settings.train.train_tokens:,} tokens, on {machine.device_name(device)}"
    found = figures(placed, title)
    if out is not None and placed:
        _write(out, found, placed, title)
    speak.result(found, as_json, _text(placed))
    return 130 if stopped else 0


def figures(placed: list[Placed], title: str) -> dict[str, Any]:
    """What was found, as JSON; infinite losses are null."""
    rows = [
        {
            "optimizer": row.best.optimizer,
            "learning_rate": row.best.learning_rate,
            "val_loss": _finite(row.best.val_loss),
            "milliseconds": round(row.best.milliseconds, 2),
            "at_edge": row.at_edge,
            "tried": [[rate, _finite(loss)] for rate, loss in row.tried],
        }
        for row in placed
    ]
    return {"race": title, "rows": rows}


def _finite(loss: float) -> float | None:
    return round(loss, 5) if math.isfinite(loss) else None


def _written(loss: float) -> str:
    return f"validation loss {loss:.4f}" if math.isfinite(loss) else "came to nothing"


def _write(out: Path, found: dict[str, Any], placed: list[Placed], title: str) -> None:
    from daybreak import files

    files.write_json(out / "race.json", found)
    try:
        from daybreak.racing_plot import draw

        draw(placed, title, out / "race.png")
        speak.say(f"{out / 'race.png'} and {out / 'race.json'}")
    except ImportError:
        speak.say(f"{out / 'race.json'}; a plot wants matplotlib: pip install matplotlib")


def _text(placed: list[Placed]) -> str:
    """The race for a person."""
    lines = [f"{'optimizer':12} {'loss':>8} {'rate':>10} {'ms a step':>10}"]
    for row in placed:
        best = row.best
        edge = "   the best rate is at the edge of those tried" if row.at_edge else ""
        loss = f"{best.val_loss:.4f}" if math.isfinite(best.val_loss) else "-"
        lines.append(f"{best.optimizer:12} {loss:>8} {best.learning_rate:>10.3g} {best.milliseconds:>10,.1f}{edge}")
    return "\n".join(lines)
