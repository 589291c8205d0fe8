"""`daybreak doctor`: the machine, the versions, what is missing and what it would give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from daybreak.cli import speak

_OPTIONAL = {
    "pyarrow": "reads .parquet files: pip install 'daybreak[parquet]'",
    "datasets": "streams hf:NAME datasets: pip install 'daybreak[hf]'",
    "distributed": "prepares text on many machines: pip install 'daybreak[cluster]'",
    "tensorboard": "draws runs in TensorBoard: pip install 'daybreak[tensorboard]'",
    "wandb": "sends runs to Weights & Biases: pip install 'daybreak[wandb]'",
    "transformers": "opens exported models in the field's common library: pip install transformers",
}


def doctor(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN_DIR]", help="A run whose checkpoints are to be verified too.")] = None,
    bench: Annotated[
        bool,
        typer.Option("--bench", help="Measure how fast matrices multiply here, too; a few seconds. `daybreak bench train` tells more."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
) -> int:
    """Say what this machine can do, what is missing, and whether a run's checkpoints are whole."""
    import torch

    from daybreak import checkpoint, files, machine
    from daybreak.inference.native.library import Unavailable, library

    device = machine.choose_device()
    precision = machine.choose_precision(device)
    missing = {name: gives for name, gives in _OPTIONAL.items() if importlib.util.find_spec(name) is None}
    try:
        kernels = f"for decoding on the CPU, {library().lanes()} numbers at once"
    except Unavailable as problem:
        kernels = f"none of our own for decoding on the CPU, which takes 1.5 to 2.8 times as long: {problem}"
    findings: dict[str, Any] = {
        **machine.facts(device, precision),
        "threads": torch.get_num_threads(),
        "kernels": kernels,
        "missing": missing,
    }
    lines = [f"{name:11}{value}" for name, value in findings.items() if name != "missing"]
    if bench:
        from daybreak.shares import Ceilings

        ceilings = Ceilings.measure(device)
        findings |= ceilings.as_dict()
        lines += [f"ceiling    {flops / 1e12:.3g} TFLOP/s in {name}, measured" for name, flops in ceilings.measured.items()]
        lines.append(
            f"peak       {'unknown' if ceilings.peak is None else f'{ceilings.peak / 1e12:,.0f} TFLOP/s in 16 bits, as its maker says'}"
        )
    lines += [f"missing    {name} {gives}" for name, gives in missing.items()]
    damaged = False
    if run is not None:
        if not (run / "settings.json").is_file():
            raise files.FileProblem(f"{run}: wanted a run's folder, found no settings.json in it")
        checked = {folder.name: checkpoint.problems(folder) for folder in checkpoint.found(run)}
        findings["checkpoints"] = checked
        damaged = any(checked.values())
        lines += [f"{name}  {'; '.join(problems) or 'every byte is as it was written'}" for name, problems in checked.items()]
        lines += [] if checked else [f"{run} has no checkpoint"]
    speak.result(findings, as_json, "\n".join(lines))
    return int(damaged)
