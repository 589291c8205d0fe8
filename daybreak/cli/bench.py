"""`daybreak bench`: what this machine is capable of."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import speak
from daybreak.cli.plan import with_vocabulary
from daybreak.cli.train import request

if TYPE_CHECKING:
    from rich.table import Table

    from daybreak.ladder import Ladder, Row
    from daybreak.settings import Settings
    from daybreak.shares import Ceilings, Share


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe such as demo or gpt2.124m, or the folder of a run.")],
    edits: Annotated[list[str] | None, typer.Argument(metavar="path=value", help="Settings that differ from the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the plot and the figures as JSON; none are written without it.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to time each rung, at least; slow steps take longer.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> int:
    """Climb the lecture's ladder on this machine: each lever of speed on top of the best so far, measured on real training steps."""
    from daybreak import config, machine
    from daybreak.ladder import Ladder, climb, edits_of
    from daybreak.shares import Ceilings
    from daybreak.trial import measure_apart

    if not seconds > 0:
        raise config.ConfigError([f"--seconds: wanted more than 0, came {seconds:g}"])
    if out is not None and out.exists() and not out.is_dir():
        raise config.ConfigError([f"--out: wanted a folder, came the file {out}; name another"])
    settings, _ = request(recipe, edits or [], None)
    settings, _ = with_vocabulary(settings)
    device = machine.choose_device(settings.machine.device)
    if device.type == "cpu":
        machine.prepare_cpu(settings.machine.threads)
    ceilings = Ceilings.measure(device)
    speak.say(f"{settings.recipe} on {machine.device_name(device)}, {_told(ceilings)}; a rung at a time, each in a process of its own")
    ladder, stopped = Ladder(), False
    try:
        for row in climb(settings, device, measure_apart, seconds):
            ladder.rows.append(row)
            speak.say(_line(row))
        ceilings = ceilings.again()
    except KeyboardInterrupt:
        stopped = True
        speak.say("stopped; this is what there is")
    shares = ceilings.shares(settings.model, ladder.rows)
    best = ladder.best
    advice = [] if best is None else edits_of(best.choice, settings, device)
    found = _figures(settings, ladder, ceilings, shares, advice)
    if out is not None:
        _write(out, found, ladder, f"{settings.recipe} on {machine.device_name(device)}")
    speak.result(found, as_json, "" if as_json else _text(ladder, shares, advice))
    return 130 if stopped else 0 if best is not None else 1


def _told(ceilings: Ceilings) -> str:
    measured = ", ".join(f"{flops / 1e12:.3g} TFLOP/s in {name}" for name, flops in ceilings.measured.items())
    peak = "unknown" if ceilings.peak is None else f"{ceilings.peak / 1e12:,.0f}"
    return f"whose matrices multiply at {measured} (the maker says {peak})"


def _line(row: Row) -> str:
    """A rung as it is known."""
    trial, name = row.trial, f"{row.name}, again" if row.again else row.name
    if trial is None:
        return f"{name}: {row.problem}"
    compiled = f", compiled in {trial.compile_seconds:.0f} s" if trial.compile_seconds >= 1 else ""
    return f"{name}: {trial.tokens_per_second:,.0f} tokens/s, {trial.milliseconds:,.1f} ms a step{compiled}{', kept' if row.kept else ''}"


def _figures(settings: Settings, ladder: Ladder, ceilings: Ceilings, shares: list[Share | None], advice: list[str]) -> dict[str, Any]:
    """Everything, in the form of a benchmark's results."""
    from dataclasses import asdict

    import torch

    from daybreak import machine
    from daybreak.ladder import PAYS

    rows = [
        {
            "rung": row.name,
            "again": row.again,
            "kept": row.kept,
            "problem": row.problem or None,
            **(asdict(row.trial) if row.trial else {}),
            **(share.as_dict() if share else {}),
        }
        for row, share in zip(ladder.rows, shares, strict=True)
    ]
    best, drift = ladder.best, ladder.drift
    first = next((row.trial for row in ladder.rows if row.trial is not None), None)
    gain = best.trial.tokens_per_second / first.tokens_per_second if best is not None and best.trial and first else None
    return {
        "name": "train-ladder",
        "when": time.strftime("%Y-%m-%d"),
        "machine": {
            "device": machine.device_name(ceilings.device),
            "system": f"{platform.system()} {platform.machine()}",
            **ceilings.as_dict(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "bars": []
        if gain is None
        else [{"bar": "speed of the best rung, in speeds of the first", "value": round(gain, 3), "want": f">= {PAYS}", "ok": gain >= PAYS}],
        "rows": rows,
        "recipe": settings.recipe,
        "best": None if best is None else best.name,
        "edits": advice,
        "drift": None if drift is None else round(drift, 4),
    }


def _write(out: Path, found: dict[str, Any], ladder: Ladder, title: str) -> None:
    from daybreak import files
    from daybreak.metrics import plain

    files.write_json(out / "ladder.json", plain(found))
    try:
        from daybreak.ladder_plot import draw

        draw(ladder.rows, title, out / "ladder.png")
        speak.say(f"{out / 'ladder.png'} and {out / 'ladder.json'}")
    except ImportError:
        speak.say(f"{out / 'ladder.json'}; a plot wants matplotlib: pip install matplotlib")


def _text(ladder: Ladder, shares: list[Share | None], advice: list[str]) -> str:
    """The ladder for a person: a table, what differences mean, and what to type."""
    from rich.console import Console

    console = Console(width=110, highlight=False, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(_table(ladder, shares))
    lines = [captured.get().rstrip("\n")]
    lines += dict.fromkeys(share.note for share in shares if share is not None and share.note)
    if (drift := ladder.drift) is not None:
        lines.append(
            f"the first rung ran {abs(drift):.1%} {'faster' if drift > 0 else 'slower'} at the end: smaller differences may be chance"
        )
    if ladder.best is not None:
        lines.append(f"quickest with  {' '.join(advice)}" if advice else "quickest as it is: no setting to change")
    return "\n".join(lines)


def _table(ladder: Ladder, shares: list[Share | None]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("rung")
    for name in ("tokens/s", "ms a step", "of ceiling", "of peak", "memory", ""):
        table.add_column(name, justify="right" if name else "left")
    for row, share in zip(ladder.rows, shares, strict=True):
        name = f"{row.name}, again" if row.again else row.name
        if row.trial is None or share is None:
            table.add_row(name, "", "", "", "", "", row.problem)
            continue
        trial = row.trial
        table.add_row(
            name,
            f"{trial.tokens_per_second:,.0f}",
            f"{trial.milliseconds:,.1f}",
            share.written(share.of_ceiling),
            share.written(share.of_peak),
            f"{trial.memory_bytes / 1e9:.2f} GB",
            "kept" if row.kept else "",
        )
    return table
