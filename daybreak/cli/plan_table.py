"""`daybreak plan --table`: memory, time and cost over devices and micro-batches, as text, as JSON and as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daybreak.planning import Choice, Fleet, Plan
    from daybreak.settings import Settings

USUAL = ("rtx4090", "8xrtx4090", "a100", "8xa100", "h100", "8xh100", "8xb200")
"""The devices that a table is about unless some are named."""
LARGE = (*USUAL[3:], "64xh100", "1024xh100")
"""Those for a model of more than a billion parameters."""

_ORDER = "the largest that fits is marked *, what `daybreak plan` takes >, what does not fit stands in brackets"
_AGAIN = (
    "recompute keeps only each block's input: about a third more work, which the time does not show, as it is by the same share of the peak"
)


def fleets(written: str | None, parameters: int, utilisation: float | None, price: float | None, problems: list[str]) -> list[Fleet]:
    """The devices of a list such as 8xh100,a100, or the usual ones; what is wrong with them is added to `problems`."""
    from daybreak import devices, planning

    found = []
    names = (LARGE if parameters > 10**9 else USUAL) if written is None else written.split(",")
    share = planning.UTILISATION if utilisation is None else utilisation
    for name in names:
        try:
            found.append(planning.Fleet(*devices.parse(name), share, price))
        except ValueError as error:
            problems.append(f"--gpus: {error}")
    if found:
        problems += [f"--{name}: {problem}" for name, problem in found[0].problems()]
    return found


def values(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """The table as JSON."""
    from daybreak.planning import USABLE

    return [
        {
            "devices": choice.fleet.count,
            "device": choice.fleet.device.name,
            "layout": choice.layout,
            "recompute": choice.recompute,
            "usable_bytes": int(USABLE * choice.fleet.device.memory_bytes),
            "memory_bytes": {cell.micro_batch: cell.memory_bytes for cell in choice.cells},
            "largest_micro_batch": choice.largest,
            "taken": choice.taken,
            "tokens_per_second": choice.made.tokens_per_second,
            "seconds": choice.made.seconds,
            "cost": choice.made.cost,
        }
        for choice in choices
    ]


def lines(choices: Sequence[Choice]) -> list[str]:
    """The table as text."""
    sizes = sorted({cell.micro_batch for choice in choices for cell in choice.cells})
    head = f"{'devices':12}{'layout':18}" + "".join(f"{size:>9}" for size in sizes) + f"{'time':>14}{'cost':>13}"
    told = [f"{'':30}GB on each device, by sequences at a time", head]
    before = None
    for choice in choices:
        memory = {cell.micro_batch: cell.memory_bytes for cell in choice.cells}
        cells = "".join(_cell(choice, size, memory.get(size)) for size in sizes)
        first = before is not choice.made
        devices = name(choice) if first else ""
        made = choice.made
        rest = f"{duration(made.seconds or 0):>14}{dollars(made.cost or 0):>13}" if first else ""
        told.append(f"{devices:12}{layout(choice):18}{cells}{rest}".rstrip())
        before = made
    return [*told, "", *(line for note in notes(choices) for line in textwrap.wrap(note, 110))]


def notes(choices: Sequence[Choice]) -> list[str]:
    """What a reader of the table has to know."""
    fleet = choices[0].fleet
    priced = "as given" if fleet.dollars_per_hour is not None else "assumed for each device"
    again = [_AGAIN] if any(choice.recompute for choice in choices) else []
    return [_ORDER, f"time at {fleet.utilisation:.3g} of each device's peak, cost at the price {priced}", *again]


def page(settings: Settings, made: Plan, choices: Sequence[Choice]) -> str:
    """The table as a page that opens from disk."""
    from daybreak.config import to_dict
    from daybreak.planning import USABLE
    from daybreak.report import planned, words

    facts = [
        ("parameters", words.count(made.parameters), "as the papers count, without padding"),
        ("tokens", words.count(made.tokens), f"in {made.steps:,} steps of {settings.train.batch_tokens:,}"),
        ("work", words.power(made.flops), f"FLOP, {words.power(made.flops_per_token)} a token, by 6N + attention"),
    ]
    ways = [
        planned.Way(
            devices=name(choice),
            layout=layout(choice),
            room=int(USABLE * choice.fleet.device.memory_bytes),
            memory={cell.micro_batch: cell.memory_bytes for cell in choice.cells},
            largest=choice.largest,
            taken=choice.taken,
            time=duration(choice.made.seconds or 0),
            cost=dollars(choice.made.cost or 0),
        )
        for choice in choices
    ]
    return planned.page(settings.recipe, facts, ways, notes(choices)[1:], to_dict(settings))


def name(choice: Choice) -> str:
    """The devices as one types them."""
    return choice.fleet.device.name if choice.fleet.count == 1 else f"{choice.fleet.count}x{choice.fleet.device.name}"


def layout(choice: Choice) -> str:
    """The layout, and whether blocks are computed again in the backward pass."""
    return f"{choice.layout}{', recompute' if choice.recompute else ''}"


def dollars(amount: float) -> str:
    """A price."""
    return f"${amount:,.{2 if amount < 100 else 0}f}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def _cell(choice: Choice, size: int, memory: int | None) -> str:
    if memory is None:
        return f"{'':9}"
    fits = any(cell.micro_batch == size and cell.fits for cell in choice.cells)
    mark = "" if size != choice.largest else ">" if choice.taken else "*"
    written = f"{mark}{memory / 1e9:,.1f}" if fits else f"({memory / 1e9:,.0f})"
    return f"{written:>9}"
