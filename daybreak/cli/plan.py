"""`daybreak plan`: what a run would be and what it would need. Runs nothing."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import speak
from daybreak.cli.plan_table import dollars, duration
from daybreak.cli.train import request, written

if TYPE_CHECKING:
    from daybreak.planning import Fleet, Plan
    from daybreak.settings import Settings


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe such as demo or gpt2.124m, or the folder of a run.")],
    edits: Annotated[list[str] | None, typer.Argument(metavar="path=value", help="Settings that differ from the recipe's.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="NxNAME", help="The devices to plan for, such as h100 or 8xh100; with --table several, as h100,8xh100."),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="The share of their peak that the devices reach (MFU); 0.4 unless given, published trainers reach 0.35 to 0.6.",
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(metavar="DOLLARS", help="What an hour of one device costs; an assumed price unless given.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take a step on such devices as if they were there, and compare what each holds.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Show memory, time and cost over devices and micro-batches instead; usual devices unless given.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="PAGE", help="Write that table as a page, such as plan.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
) -> int:
    """Show what a run would be and need: size, work, memory, time, cost, and every setting. Runs nothing."""
    if table or out is not None:
        return _choices(recipe, edits or [], gpus, utilisation, price, dry_run, out, as_json)
    from daybreak import planning
    from daybreak.config import ConfigError, describe, to_dict

    problems: list[str] = []
    fleet = _fleet(gpus, utilisation, price, problems)
    if dry_run and gpus is None:
        problems.append("--dry-run: wanted --gpus too, such as --gpus 8xh100; came none")
    try:
        settings, _ = request(recipe, edits or [], None)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from None
    if problems:
        raise ConfigError(problems)
    settings, vocabulary = with_vocabulary(settings)
    made = planning.plan(settings, fleet)
    tried = _dry_run(made, settings) if dry_run else None
    every = (f"{row.path} = {written(row.value)}\n    {row.sentence} ({row.wanted})" for row in describe(settings))
    lines = [*_table(made, settings), *([] if tried is None else _tried(tried))]
    text = "\n".join([f"{settings.recipe}: {made.parameters:,} parameters{vocabulary}", *lines, "", *every])
    speak.result({"recipe": settings.recipe, **_values(made), "dry_run": tried, "settings": to_dict(settings)}, as_json, text)
    return 1 if tried is not None and tried["unexplained_bytes"] else 0


def _choices(
    recipe: str,
    edits: list[str],
    gpus: str | None,
    utilisation: float | None,
    price: float | None,
    dry_run: bool,
    out: Path | None,
    as_json: bool,
) -> int:
    """The table over devices and micro-batches."""
    from daybreak import planning
    from daybreak.cli import plan_table
    from daybreak.cli.pages import write_page
    from daybreak.config import ConfigError

    problems = ["--dry-run: wanted no --table and no --out beside it; ask for one of them"] if dry_run else []
    settings = None
    try:
        settings, _ = request(recipe, edits, None)
    except ConfigError as error:
        problems = [*error.problems, *problems]
    vocabulary, made = "", None
    if settings is not None:
        settings, vocabulary = with_vocabulary(settings)
        made = planning.plan(settings)
    fleets = plan_table.fleets(gpus, made.parameters if made else 0, utilisation, price, problems)
    if problems or settings is None or made is None:
        raise ConfigError(problems)
    choices = planning.choices(settings, fleets)
    page = None if out is None else write_page(out, plan_table.page(settings, made, choices))
    values = {"recipe": settings.recipe, "parameters": made.parameters, "train_tokens": made.tokens, "steps": made.steps}
    head = f"{settings.recipe}: {made.parameters:,} parameters{vocabulary}, {made.tokens:,} tokens in {made.steps:,} steps"
    text = "\n".join([head, "", *plan_table.lines(choices), *([] if page is None else ["", page])])
    speak.result({**values, "choices": plan_table.values(choices), "page": page}, as_json, text)
    return 0


def _dry_run(made: Plan, settings: Settings) -> dict[str, Any]:
    """What the first device holds after a step that is taken without devices."""
    import time

    speak.say("building, dividing and training a step without devices; this may take a minute")
    began = time.monotonic()
    from daybreak.dry_run import dry_run

    assert made.fleet is not None
    held, planned = dry_run(settings, made.placement, made.fleet.count), made.placement.memory.states
    return {
        "devices": made.fleet.count,
        "bytes": held.total,
        "weights": held.weights,
        "gradients": held.gradients,
        "moments": held.moments,
        "planned_bytes": planned,
        "uneven": {row.name: [row.here, row.rows] for row in held.uneven},
        "unexplained_bytes": held.unexplained(planned),
        "seconds": round(time.monotonic() - began, 1),
    }


def _tried(tried: dict[str, Any]) -> list[str]:
    """The dry run in a few lines."""
    more = tried["bytes"] - tried["planned_bytes"]
    beside = f"the plan's share is {tried['planned_bytes']:,}"
    if tried["uneven"]:
        names = ", ".join(f"{name} ({here:,} of {rows:,})" for name, (here, rows) in list(tried["uneven"].items())[:3])
        names += f" and {len(tried['uneven']) - 3:,} others" if len(tried["uneven"]) > 3 else ""
        beside += f"; {more:,} more, since whole rows are dealt out and those of {names} do not divide evenly"
    if tried["unexplained_bytes"]:
        beside += f"; {tried['unexplained_bytes']:,} bytes differ for no reason known here, so do not trust the plan"
    elif not more:
        beside += ", the same"
    return _rows(
        [
            ("dry run", f"took a step on {tried['devices']:,} devices that are not there, in {tried['seconds']:.0f} seconds"),
            (
                "",
                f"the first holds {tried['weights']:,} bytes of weights, {tried['gradients']:,} of gradients and {tried['moments']:,} "
                f"of moments, {tried['bytes']:,} in all; {beside}",
            ),
        ]
    )


def _fleet(gpus: str | None, utilisation: float | None, price: float | None, problems: list[str]) -> Fleet | None:
    """The devices that the options name; what is wrong with them is added to `problems`."""
    from daybreak import devices, planning

    if gpus is None:
        given = {"--utilisation": utilisation, "--price": price}
        problems += [f"{name}: wanted --gpus too, such as --gpus 8xh100; came none" for name, value in given.items() if value is not None]
        return None
    try:
        count, device = devices.parse(gpus)
    except ValueError as error:
        problems.append(f"--gpus: {error}")
        count, device = 1, devices.DEVICES[0]  # the other options may be wrong too, and all is told at once
    fleet = planning.Fleet(count, device, planning.UTILISATION if utilisation is None else utilisation, price)
    problems += [f"--{name}: {problem}" for name, problem in fleet.problems()]
    return fleet


def _values(made: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    placed, fleet = made.placement, made.fleet
    return {
        "parameters": made.parameters,
        "flops_per_token": made.flops_per_token,
        "flops": made.flops,
        "flops_per_token_6n": made.flops_per_token_6n,
        "flops_6n": made.flops_6n,
        "steps": made.steps,
        "train_tokens": made.tokens,
        "memory_bytes": placed.memory.total,
        "memory": dataclasses.asdict(placed.memory),
        "layout": placed.layout,
        "micro_batch": placed.micro_batch,
        "recompute": placed.recompute,
        "devices": None if fleet is None else fleet.count,
        "device": None if fleet is None else fleet.device.name,
        "device_memory_bytes": None if fleet is None else fleet.device.memory_bytes,
        "fits": made.fits,
        "fewest_devices": made.fewest_devices,
        "tokens_per_second": made.tokens_per_second,
        "seconds": made.seconds,
        "cost": made.cost,
        "utilisation": None if fleet is None else fleet.utilisation,
        "price": None if fleet is None else fleet.price,
        "edits": None if fleet is None else list(made.edits),
        "notes": list(made.notes),
    }


def _table(made: Plan, settings: Settings) -> list[str]:
    """The plan in a few lines."""
    train, placed, memory, fleet = settings.train, made.placement, made.placement.memory, made.fleet
    grows = f", growing from {train.batch_start_tokens:,} over {train.batch_ramp_tokens:,} tokens" if train.batch_ramp_tokens else ""
    computing = f"{_size(memory.activations)} activations, {_size(memory.logits)} logits"
    if memory.weights:
        computing = (
            f"{_size(memory.weights)} weights {'gathered for use' if placed.layout in ('fsdp', 'hsdp') else 'in 16 bits'}, {computing}"
        )
    where = "on one device"
    if fleet is not None:
        where = f"of the {_size(fleet.device.memory_bytes)} of {'the' if fleet.count == 1 else 'each'} {fleet.device.name}"
    at_once = "one sequence at a time" if placed.micro_batch == 1 else f"{placed.micro_batch:,} sequences at a time"
    rows = [
        ("training", f"{made.tokens:,} tokens in {made.steps:,} steps of {train.batch_tokens:,}{grows}"),
        ("work", f"{made.flops_per_token:.4g} FLOP a token, {made.flops:.4g} in all, by 6N + attention, as MFU counts"),
        ("", f"{made.flops_per_token_6n:.4g} FLOP a token, {made.flops_6n:.4g} in all, by 6N, as the GPT-3 paper counts"),
        ("memory", f"{_size(memory.total)} {where}, {at_once}"),
        ("", f"{_size(memory.states)} weights, gradients and the moments of {train.optimizer} in fp32"),
        ("", computing),
    ]
    if fleet is None or made.seconds is None or made.cost is None:
        return _rows([*rows, ("time", "unknown, and so the cost: name the devices, such as --gpus 8xh100")])
    peak = f"{fleet.count:,} x {fleet.device.peak_flops / 1e12:,.0f} TFLOP/s"
    price = f"${fleet.price:,.2f} ({'assumed; --price sets another' if fleet.dollars_per_hour is None else 'as given'})"
    reached = f"{fleet.utilisation:.3g} of the peak of {peak} (--utilisation sets another share)"
    return _rows(
        [
            *rows,
            ("layout", _layout(made, fleet)),
            ("", " ".join(made.edits)),
            ("time", f"{duration(made.seconds)}, {made.tokens_per_second:,.0f} tokens a second, by 6N + attention at {reached}"),
            ("cost", f"{dollars(made.cost)}: {made.seconds / 3600 * fleet.count:,.1f} device-hours at {price}"),
            *(("note", note) for note in made.notes),
        ]
    )


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    """Name and text side by side, the text folded under itself."""
    return [
        textwrap.fill(text, 110, initial_indent=f"{name:10}", subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False)
        for name, text in rows
    ]


def _layout(made: Plan, fleet: Fleet) -> str:
    from daybreak.planning import NODE

    told = {
        "single": f"one {fleet.device.name}",
        "ddp": f"a copy of the model on each of {fleet.count:,} {fleet.device.name}, which share the batch (ddp)",
        "fsdp": f"weights, gradients and moments divided among {fleet.count:,} {fleet.device.name} (fsdp)",
        "hsdp": f"weights, gradients and moments divided among a node's {min(fleet.count, NODE)} {fleet.device.name}, on each node (hsdp)",
    }[made.placement.layout]
    if made.placement.recompute:
        told += "; blocks keep only their inputs and are computed again (activation checkpointing)"
    if made.placement.layout == "fsdp" and made.fits:
        told += f"; {made.fewest_devices:,} of them would hold it"
    return told


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def with_vocabulary(settings: Settings) -> tuple[Settings, str]:
    """A vocabulary for the sums where it is still to be taken from the data, and a word on it."""
    if settings.model.vocab_size is not None:
        return settings, ""
    from daybreak.data.foreign import open_manifest

    folder = Path(settings.data.dir)
    found = open_manifest(folder).tokenizer["vocab_size"] if folder.exists() else 8192
    word = f" with the {found:,} tokens of {folder}" if folder.exists() else f" with {found:,} tokens, as {folder} is not prepared yet"
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, vocab_size=found)), word
