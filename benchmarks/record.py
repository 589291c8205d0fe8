"""Writes what a benchmark measured: benchmarks/results/NAME.json, in one form for all."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from daybreak import files, machine

RESULTS = Path(__file__).parent / "results"


def bar(name: str, value: float, want: str) -> dict[str, Any]:
    """A bar: what was measured, what was wanted (">= 0.8", "<= 480"), and whether it is met."""
    sign, _, limit = want.partition(" ")
    met = {">=": value >= float(limit), "<=": value <= float(limit), "<": value < float(limit), ">": value > float(limit)}[sign]
    return {"bar": name, "value": round(value, 4), "want": want, "ok": met}


def record(
    name: str, bars: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], packages: Sequence[str] = (), show: bool = True
) -> Path:
    """Writes the results, prints the bars if they are to be shown, and returns the file."""
    path = RESULTS / f"{name}.json"
    device = machine.choose_device()
    files.write_json(
        path,
        {
            "name": name,
            "when": time.strftime("%Y-%m-%d"),
            "machine": {"device": machine.device_name(device), "system": f"{platform.system()} {platform.machine()}"},
            "versions": {"python": platform.python_version(), "torch": torch.__version__, **{name: version(name) for name in packages}},
            "bars": list(bars),
            "rows": list(rows),
        },
    )
    for row in bars if show else ():
        print(f"{'met   ' if row['ok'] else 'MISSED'}  {row['bar']}: {row['value']} (wanted {row['want']})")
    if show:
        print(path)
    return path
