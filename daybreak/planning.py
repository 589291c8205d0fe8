"""What a run would need: work, memory, a layout over devices, time and cost. Arithmetic on the settings; nothing runs, no torch.

`--gpus 8xh100` becomes a `Fleet`; `plan(settings, fleet)` is everything that can be said before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from daybreak.data.steps import Steps
from daybreak.devices import Device
from daybreak.model import memory as bytes_of
from daybreak.model.config import GPTConfig
from daybreak.model.flops import flops_per_token, flops_per_token_6n, parameter_count
from daybreak.settings import MachineSettings, Settings, loss_chunk

UTILISATION = 0.4
"""The share of their peak that devices are taken to reach (MFU). Published PyTorch trainers reach 0.45 to 0.6 on A100 and 0.35 to 0.43 on
H100 at 125M to 1.3B (llm-foundry, scripts/train/benchmarking); PaLM 540B reached 0.46 (its paper, table 3)."""

_SMALL = 50_000_000  # parameters; what is published, and measured with, begins at 124M

USABLE = 0.9
"""The share of a device's memory that tensors can fill; CUDA, the links between devices and gaps between tensors take the rest. Assumed."""

MICRO_BATCH_TOKENS = 65_536
"""How many tokens a GPU is given at once at most, as more make no kernel quicker. Assumed."""

NODE = 8
"""How many devices of one kind a node usually has; hsdp divides among these."""

Layout = Literal["single", "ddp", "fsdp", "hsdp"]
"""ddp: each device has the whole model and a share of the batch. fsdp: weights, gradients and optimizer are divided among them too. hsdp:
these are divided among a node's devices, and every node has all."""


@dataclass(frozen=True)
class Fleet:
    """The devices to plan for, and what is assumed of them."""

    count: int
    device: Device
    utilisation: float = UTILISATION
    dollars_per_hour: float | None = None
    """For one device; none takes the table's."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if not 0 < self.utilisation <= 1:
            yield "utilisation", f"wanted a share of the devices' peak, more than 0 and at most 1, came {self.utilisation:g}"
        if self.dollars_per_hour is not None and not 0 <= self.dollars_per_hour < 1e9:
            yield "price", f"wanted dollars for an hour of one device, 0 or more, came {self.dollars_per_hour:g}"

    @property
    def flops_per_second(self) -> float:
        """What all devices together are taken to compute."""
        return self.count * self.device.peak_flops * self.utilisation

    @property
    def price(self) -> float:
        """Dollars for an hour of one device."""
        return self.device.dollars_per_hour if self.dollars_per_hour is None else self.dollars_per_hour


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what takes them."""

    states: int
    """fp32 weights, gradients and the optimizer's moments; under sharding one device's share."""
    weights: int
    """The 16-bit copies that are computed with; under sharding what is gathered at once, with its gradient, and the gradients that are
    kept whole between micro-batches."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All at the peak."""
        return self.states + self.weights + self.activations + self.logits


@dataclass(frozen=True)
class Placement:
    """How the model lies on the devices, and what that takes of each."""

    layout: Layout
    micro_batch: int
    """Sequences that one device computes at once."""
    recompute: bool
    """Whether blocks keep only their inputs and are computed again in backward."""
    memory: Memory


@dataclass(frozen=True)
class Plan:
    """A run on paper. What depends on the devices is None without them."""

    parameters: int
    flops_per_token: int
    flops_per_token_6n: int
    steps: int
    tokens: int
    placement: Placement
    fleet: Fleet | None = None
    fits: bool | None = None
    fewest_devices: int | None = None
    """How many of these would hold the model at all, sharded; None if no number would."""
    notes: tuple[str, ...] = ()
    """What stands in the way, and the way out; one line each."""

    @property
    def edits(self) -> tuple[str, ...]:
        """The settings that place the model so."""
        placed = self.placement
        layout = () if placed.layout == "single" else (f"machine.parallel={placed.layout}",)
        return (f"train.micro_batch={placed.micro_batch}", *layout, *(("machine.recompute=true",) if placed.recompute else ()))

    @property
    def flops(self) -> int:
        """Operations in all by "6N + attention", from which the time follows."""
        return self.flops_per_token * self.tokens

    @property
    def flops_6n(self) -> int:
        """Operations in all by "6N"."""
        return self.flops_per_token_6n * self.tokens

    @property
    def tokens_per_second(self) -> float | None:
        """On all devices together, as if the batch divided evenly among them."""
        return None if self.fleet is None else self.fleet.flops_per_second / self.flops_per_token

    @property
    def seconds(self) -> float | None:
        """FLOPs / (devices x peak x utilisation). Utilisation is MFU, in which computing blocks again counts as waiting; evaluation and
        checkpoints are not in it."""
        return None if self.fleet is None else self.flops / self.fleet.flops_per_second

    @property
    def cost(self) -> float | None:
        """Dollars: time x devices x price."""
        return None if self.fleet is None or self.seconds is None else self.seconds / 3600 * self.fleet.count * self.fleet.price


def plan(settings: Settings, fleet: Fleet | None = None) -> Plan:
    """The plan of a run whose vocabulary is known. Without devices: one of unlimited memory, one sequence at a time."""
    shape, train = settings.model, settings.train
    steps = Steps(train.batch_tokens, train.batch_start_tokens, train.batch_ramp_tokens)
    count = steps.count(min(train.train_tokens, train.stop_tokens or train.train_tokens))
    rule = _rule(settings, fleet)
    made = Plan(
        parameters=parameter_count(shape),
        flops_per_token=flops_per_token(shape),
        flops_per_token_6n=flops_per_token_6n(shape),
        steps=count,
        tokens=steps.before(count),
        placement=rule.place("single", 1, train.micro_batch or 1, settings.machine.recompute),
    )
    if fleet is None:
        return made
    made, cut = _within(made, steps, fleet, train.budget_seconds)
    full, first = train.batch_tokens // shape.context_length, steps.batch(0) // shape.context_length
    choices = _choices(train.micro_batch, full, first, fleet.count)
    most = max(1, MICRO_BATCH_TOKENS // shape.context_length)
    placement, fits = rule.best(fleet, [size for size in choices if size <= most] if train.micro_batch is None else choices)
    fewest = rule.fewest(fleet.device)
    notes = [*cut, *([] if fits else [_way_out(placement, fleet, fewest)])]
    notes += _dividing(full, first, fleet.count, shape.context_length, train.micro_batch or 1)
    if fleet.utilisation == UTILISATION and made.parameters < _SMALL:
        notes.append(f"a model of {made.parameters / 1e6:.1f} million parameters fills no such device: expect far less than {UTILISATION}")
    if settings.machine.precision == "fp32":
        notes.append("machine.precision=fp32 is many times slower; time and cost are for 16-bit matrix products, as auto computes them")
    if placement.layout in ("fsdp", "hsdp"):
        notes += _sharding(fleet, rule.wide)
    return replace(made, placement=placement, fleet=fleet, fits=fits, fewest_devices=fewest, notes=tuple(notes))


def _within(made: Plan, steps: Steps, fleet: Fleet, seconds: float | None) -> tuple[Plan, list[str]]:
    """What is left of a plan by the end of a budget of time, and a note if that is not all."""
    reached = made.tokens if seconds is None else int(seconds * fleet.flops_per_second / made.flops_per_token)
    if reached >= made.tokens:
        return made, []
    count = max(1, steps.count(reached))
    note = f"train.budget_seconds = {seconds:g} ends the run before its {made.tokens:,} tokens; the schedule follows the time"
    return replace(made, steps=count, tokens=steps.before(count)), [note]


def needs(settings: Settings, precision: str, layout: Layout, devices: int, micro_batch: int, device_bytes: int) -> Memory:
    """What each of so many devices would hold in a number format."""
    wide, chunk = 2 if precision in ("bf16", "fp16") else 4, loss_chunk(settings, precision)
    rule = _Rule(settings.model, wide, settings.machine, device_bytes, chunk, settings.train.optimizer)
    return rule.place(layout, devices, micro_batch, settings.machine.recompute).memory


def _rule(settings: Settings, fleet: Fleet | None) -> _Rule:
    wide = 4 if settings.machine.precision in ("fp32", "tf32") else 2
    chunk = loss_chunk(settings, "bf16" if wide == 2 else "fp32")
    device_bytes = None if fleet is None else fleet.device.memory_bytes
    return _Rule(settings.model, wide, settings.machine, device_bytes, chunk, settings.train.optimizer)


@dataclass(frozen=True)
class _Rule:
    """What a model takes of a device, for each way to place it."""

    shape: GPTConfig
    wide: int
    machine: MachineSettings
    device_bytes: int | None
    chunk: int | None = None
    """Tokens whose logits are in fp32 at once; None for all."""
    optimizer: str = "adamw"

    def place(self, layout: Layout, devices: int, micro_batch: int, recompute: bool) -> Placement:
        states = bytes_of.state_bytes(self.shape, self.optimizer)
        shares = {"fsdp": devices, "hsdp": min(devices, NODE)}.get(layout)
        square = self.machine.attention == "plain"
        weights = bytes_of.cast_bytes(self.shape, self.wide)
        if shares:
            whole = self.device_bytes is not None and bytes_of.keeps_whole_gradients(self.shape, self.device_bytes)
            weights = bytes_of.gathered_bytes(self.shape, self.wide) + (bytes_of.gradient_bytes(self.shape) if whole else 0)
        return Placement(
            layout,
            micro_batch,
            recompute,
            Memory(
                states=-(-states // (shares or 1)),
                weights=weights,
                activations=bytes_of.activation_bytes(self.shape, micro_batch, self.wide, square, recompute),
                logits=bytes_of.logits_bytes(self.shape, micro_batch, self.wide, self.chunk),
            ),
        )

    def best(self, fleet: Fleet, micro_batches: list[int]) -> tuple[Placement, bool]:
        """The simplest layout that fits, with the largest micro-batch that does; else the smallest there is, and False.

        Copies before shards, since they talk less; either before computing blocks again, which costs a third more work. What the
        settings ask for by name is not put in question.
        """
        wanted = self.machine.parallel
        layouts: tuple[Layout, ...] = ("single",) if fleet.count == 1 else ("ddp", "fsdp") if wanted == "auto" else (wanted,)
        room = USABLE * fleet.device.memory_bytes
        for recompute in (True,) if self.machine.recompute else (False, True):
            for layout in layouts:
                for size in micro_batches:
                    placement = self.place(layout, fleet.count, size, recompute)
                    if placement.memory.total <= room:
                        return placement, True
        return self.place(layouts[-1], fleet.count, micro_batches[-1], recompute=True), False

    def fewest(self, device: Device) -> int | None:
        """How many devices hold the model, one sequence at a time and blocks computed again; None if no number does."""
        room = int(USABLE * device.memory_bytes)
        if self.place("single", 1, 1, recompute=True).memory.total <= room:
            return 1
        shard = self.place("fsdp", 1, 1, recompute=True).memory
        free = room - (shard.total - shard.states)
        return max(2, -(-shard.states // free)) if free > 0 else None


def _choices(wanted: int | None, full: int, first: int, devices: int) -> list[int]:
    """The micro-batches to try, largest first: those that divide a device's share, of the first batch where the batch grows."""
    if wanted is not None:
        return [wanted]
    share = next((sequences // devices for sequences in (first, full) if sequences % devices == 0), None)
    if share is None:
        return [1]
    return _divisors(share)[::-1]


def _dividing(full: int, first: int, devices: int, context_length: int, micro_batch: int) -> Iterator[str]:
    """Whether the batch, and the first one where it grows, divides evenly among the devices; if not, what does."""
    full, first, unit = full // micro_batch, first // micro_batch, context_length * micro_batch
    parts = "sequences" if micro_batch == 1 else f"micro-batches of {micro_batch} sequences"
    if full % devices:
        below = full // devices * devices
        counts = " or ".join(f"{count:,}" for count in _around(devices, _divisors(full)))
        batches = " or ".join(f"{number * unit:_}" for number in (below, below + devices) if number)
        yield (
            f"a batch of {full:,} {parts} does not divide evenly among {devices:,} devices, and time and cost are as if it did; "
            f"{counts} devices would do, or train.batch_tokens={batches}"
        )
    elif first % devices:
        yield (
            f"the first batch, of {first:,} {parts}, does not divide evenly among {devices:,} devices, and time and cost are as if it did; "
            f"train.batch_start_tokens={devices * unit:_} would"
        )


def _sharding(fleet: Fleet, wide: int) -> Iterator[str]:
    """Why these devices cannot train a model that is divided, if so."""
    if not fleet.device.bf16 and wide < 4:
        yield f"`daybreak train` divides a model in bf16 or fp32 only, and the {fleet.device.name} has no bf16"


def _divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def _around(wanted: int, numbers: list[int]) -> list[int]:
    """The nearest of ascending `numbers` below and above."""
    below = [number for number in numbers if number < wanted]
    above = [number for number in numbers if number > wanted]
    return below[-1:] + above[:1]


def _way_out(placement: Placement, fleet: Fleet, fewest: int | None) -> str:
    """Why it does not fit, and what would."""
    memory, room = placement.memory, USABLE * fleet.device.memory_bytes
    of = f"{memory.total / 1e9:,.1f} GB wanted, with every saving, of the {room / 1e9:,.1f} that each {fleet.device.name} has for tensors"
    told = f"does not fit: {of}; "
    if fewest is not None and fewest <= fleet.count:
        return told + ("train.micro_batch=1 fits" if placement.micro_batch > 1 else "machine.parallel=fsdp fits")
    if fewest is None:
        shorter = ", or set model.context_length lower" if memory.weights < room else ""
        return told + f"no number of them would do; take a device with more memory{shorter}"
    return told + f"at least {fewest:,} of them, sharded, or devices with more memory"


@dataclass(frozen=True)
class Cell:
    """One micro-batch of a choice."""

    micro_batch: int
    memory_bytes: int
    """Of each device."""
    fits: bool


@dataclass(frozen=True)
class Choice:
    """One way to place a run on devices, over the micro-batches that divide a device's share of the batch."""

    fleet: Fleet
    layout: Layout
    recompute: bool
    cells: tuple[Cell, ...]
    made: Plan
    """The plan for these devices, whichever way it takes."""

    @property
    def largest(self) -> int | None:
        """The largest micro-batch that fits; None if none does."""
        return max((cell.micro_batch for cell in self.cells if cell.fits), default=None)

    @property
    def taken(self) -> bool:
        """Whether the plan takes this way."""
        placed = self.made.placement
        return bool(self.made.fits) and (placed.layout, placed.recompute) == (self.layout, self.recompute)


def choices(settings: Settings, fleets: Sequence[Fleet]) -> list[Choice]:
    """Every way to place a run on each of some fleets, with the memory of micro-batches of 1, 2, 4, ... sequences.

    A way that saves memory is left out where a simpler one already holds the largest micro-batch. Time and cost are the plan's, which do
    not depend on the micro-batch.
    """
    found = []
    wanted, most = settings.machine.parallel, max(1, MICRO_BATCH_TOKENS // settings.model.context_length)
    for fleet in fleets:
        made, rule = plan(settings, fleet), _rule(settings, fleet)
        shares = [size for size in _shares(settings, fleet) if size <= most and size & (size - 1) == 0] or [made.placement.micro_batch]
        several: tuple[Layout, ...] = ("ddp", "fsdp", "hsdp") if fleet.count > NODE and fleet.count % NODE == 0 else ("ddp", "fsdp")
        layouts: tuple[Layout, ...] = ("single",) if fleet.count == 1 else several if wanted == "auto" else (wanted,)
        room = USABLE * fleet.device.memory_bytes
        for layout in layouts:
            for recompute in (True,) if settings.machine.recompute else (False, True):
                sizes = [rule.place(layout, fleet.count, size, recompute).memory.total for size in shares]
                cells = tuple(Cell(size, total, total <= room) for size, total in zip(shares, sizes, strict=True))
                found.append(Choice(fleet, layout, recompute, cells, made))
                if cells[-1].fits:
                    break
    return found


def _shares(settings: Settings, fleet: Fleet) -> list[int]:
    """The micro-batches that divide a device's share of the batch, smallest first."""
    train, length = settings.train, settings.model.context_length
    first = Steps(train.batch_tokens, train.batch_start_tokens, train.batch_ramp_tokens).batch(0)
    return sorted(_choices(train.micro_batch, train.batch_tokens // length, first // length, fleet.count))
