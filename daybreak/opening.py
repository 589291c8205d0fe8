"""What must be true before a run begins: its data is there, its settings can work on this machine, its folder is its own.

Everything that is wrong is told before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from daybreak import checkpoint, config, files, machine, metrics, planning, sinks
from daybreak.corpus import Data
from daybreak.data.steps import Steps, indivisible, largest_micro_batch
from daybreak.data.tokenizer import Tokenizer
from daybreak.learning import LAYOUT, same_so_far
from daybreak.model.config import GPTConfig
from daybreak.model.memory import keeps_whole_gradients, state_bytes
from daybreak.settings import Settings, decides_result
from daybreak.training.parallel import Across, Layout, across
from daybreak.world import ALONE, World, ranks_from_environment

_LOCK = ".lock"
_MICRO_BATCH_TOKENS = {"cpu": 4096, "mps": 8192, "cuda": planning.MICRO_BATCH_TOKENS}
_READING_TOKENS = {"cpu": 4096, "mps": 8192, "cuda": 16384}


def resolve_vocabulary(shape: GPTConfig, tokenizer: Tokenizer) -> GPTConfig:
    """The model's shape with the data's vocabulary. Raises ConfigError if the two disagree."""
    if shape.vocab_size is None:
        return dataclasses.replace(shape, vocab_size=tokenizer.vocab_size)
    if shape.vocab_size != tokenizer.vocab_size:
        way = "prepare it with --tokenizer gpt2" if shape.vocab_size == 50257 else "prepare it with another --vocab-size"
        raise config.ConfigError(
            [
                f"model.vocab_size: wanted {tokenizer.vocab_size} as the data's {tokenizer.name} tokenizer has, came {shape.vocab_size}; "
                f"set model.vocab_size=none to take the data's, or {way}"
            ]
        )
    return shape


def own_device(settings: Settings) -> torch.device:
    """The device of this process, by which it is to meet the others; the CPU where the settings name none that is there."""
    _, local_rank, size, _ = ranks_from_environment()
    with contextlib.suppress(ValueError):
        return machine.choose_device(settings.machine.device, local_rank if size > 1 else None)
    return torch.device("cpu")


def resolve(settings: Settings, world: World = ALONE) -> tuple[Settings, Data, torch.device, machine.Precision, Layout]:
    """Fills in what only the machine and the data know. Raises ConfigError with everything that cannot work."""
    problems = config.check(settings)
    wrong = "machine.device"
    device, precision = torch.device("cpu"), machine.choose_precision(torch.device("cpu"))
    try:
        device = machine.choose_device(settings.machine.device, world.local_rank if world.size > 1 else None)
        wrong = "machine.precision"
        precision = machine.choose_precision(device, settings.machine.precision)
    except ValueError as error:
        problems.append(f"{wrong}: {error}")
    if not Path(settings.data.dir).exists():
        problems.append(_no_data(settings))
    if world.leads:
        problems += sinks.missing(settings.log.tensorboard, settings.log.wandb)
    if problems:
        raise config.ConfigError(problems)
    data = Data.open(Path(settings.data.dir))
    settings = dataclasses.replace(settings, model=resolve_vocabulary(settings.model, data.tokenizer))
    layout = _layout(settings, device, world)
    problems = [
        *_too_short(settings, data),
        *_too_large(settings, device, layout, world),
        *_indivisible(settings, layout, precision, world),
    ]
    if problems:
        raise config.ConfigError(problems)
    return settings, data, device, precision, layout


_OWN = ("data.dir", "eval.task_files", "machine.device", "machine.threads", "machine.limit_seconds", "log.tensorboard", "log.wandb")
"""Settings that may differ between the processes of a run, as nodes do."""


def same_everywhere(settings: Settings, data: Data, precision: machine.Precision, layout: Layout, world: World) -> None:
    """Raises ConfigError on all processes, which all call this, unless they are to train the same model alike on the same text."""
    rows = {row.path: row.value for row in config.describe(settings) if row.path not in _OWN}
    rows |= {"machine.precision": precision, "machine.parallel": layout, "data": data.manifest.fingerprint}
    first, *others = world.gather(rows)
    problems = []
    for rank, told in enumerate(others, 1):
        for path in [path for path in first if told.get(path) != first[path]]:
            if path == "data":
                problems.append(f"data.dir: wanted the same text and tokenizer on every node, those of rank {rank} are not those of rank 0")
            else:
                problems.append(
                    f"{path}: wanted {first[path]} on rank {rank} as on rank 0, came {told.get(path)}; give all the same command"
                )
    if problems:
        raise config.ConfigError(problems)


def _too_short(settings: Settings, data: Data) -> list[str]:
    length = settings.model.context_length
    way = "add text or set model.context_length lower"
    wanted = (
        ("training", data.train, length + 1, f"one window of context_length = {length}", way),
        ("validation", data.val, 2, "one prediction", "prepare it again with a larger --val-fraction"),
    )
    return [
        f"data.dir: its {split} text has {len(stream):,} tokens, wanted at least {least:,} for {why}; {way}"
        for split, stream, least, why, way in wanted
        if len(stream) < least
    ]


def _state_bytes(settings: Settings) -> int:
    """Weights, gradients and the optimizer's moments in fp32."""
    return state_bytes(settings.model, settings.train.optimizer)


def _layout(settings: Settings, device: torch.device, world: World) -> Layout:
    """The layout that the settings want, or the plainest that leaves activations a third of each device's memory."""
    if world.size == 1:
        return "single"
    if settings.machine.parallel != "auto":
        return settings.machine.parallel
    memory = _memory(device, world)
    state = 1.5 * _state_bytes(settings)
    if memory is None or state < memory:
        return "ddp"
    return "hsdp" if world.size > world.local_size and state / world.local_size < memory else "fsdp"


def across_for(settings: Settings, layout: Layout, device: torch.device, precision: machine.Precision, world: World) -> Across:
    """What carries out the layout on this machine."""
    memory = _memory(device, world)
    tight = memory is not None and not keeps_whole_gradients(settings.model, memory)
    each = any(world.gather(tight))  # all have to exchange alike, and nodes may differ by a little memory
    return across(layout, world, device, dtype=torch.bfloat16 if precision == "bf16" else None, each_micro_batch=each)


def _memory(device: torch.device, world: World) -> int | None:
    """What one process has to itself, in bytes; None where it cannot be told."""
    memory = machine.total_memory(device)
    return memory if memory is None or device.type == "cuda" else memory // world.local_size


def _too_large(settings: Settings, device: torch.device, layout: Layout, world: World) -> list[str]:
    shares = {"fsdp": world.size, "hsdp": world.local_size}.get(layout, 1)
    least, memory = _state_bytes(settings) // shares, _memory(device, world)
    if memory is None or least <= memory:
        return []
    way = "" if shares > 1 or world.size == 1 else ", or machine.parallel=fsdp"
    return [
        f"model: wanted one that fits into the {memory / 1e9:,.0f} GB of the {device}, this one takes {least / 1e9:,.0f} GB to train; "
        f"set model.n_layer or model.d_model lower{way}"
    ]


def _indivisible(settings: Settings, layout: Layout, precision: machine.Precision, world: World) -> Iterator[str]:
    """What several processes cannot share as asked."""
    plan = settings.train
    first = "batch_tokens" if plan.batch_start_tokens is None else "batch_start_tokens"
    if problem := indivisible(getattr(plan, first), settings.model.context_length, plan.micro_batch or 1, world.size):
        yield f"train.{first}: {problem}"
    if layout == "hsdp" and (world.size % world.local_size or world.size == world.local_size):
        yield f"machine.parallel: wanted several nodes of equally many devices for hsdp, came {world.size} devices, {world.local_size} here"
    if layout in ("fsdp", "hsdp") and precision == "fp16":
        yield "machine.precision: wanted bf16 or fp32 for shards, came fp16; set machine.precision=fp32 or machine.parallel=ddp"


def _no_data(settings: Settings) -> str:
    how = (
        "python:docs" if settings.recipe == "demo" else "SOURCE... --tokenizer gpt2" if settings.model.vocab_size == 50257 else "SOURCE..."
    )
    return (
        f"data.dir: wanted a folder of prepared data, found nothing at {settings.data.dir}; "
        f"make it with `daybreak data prepare {how} --out {settings.data.dir}`, or set data.dir to one that exists"
    )


@contextlib.contextmanager
def holding(out: Path, world: World = ALONE) -> Iterator[None]:
    """Makes the run's folder and keeps other runs from training in it; the leading process holds it for all.

    Raises FileProblem if one does, or if the folder holds something else.
    """
    with contextlib.ExitStack() as held:
        with world.together():
            if world.leads:
                held.enter_context(_holding(out))
        yield


@contextlib.contextmanager
def _holding(out: Path) -> Iterator[None]:
    if out.exists() and not out.is_dir():
        raise files.FileProblem(f"{out}: wanted a folder for the run, came a file; give another --out")
    names = {path.name for path in out.iterdir() if not path.name.endswith(".tmp")} if out.is_dir() else set()
    ours = {_LOCK, "tokenizer", "data.json"}  # what a run leaves that was killed before it had begun
    if "settings.json" not in names and not names <= ours:
        raise files.FileProblem(f"{out}: is not empty and holds no run; give another --out")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(out / _LOCK))
        except files.Held as held:
            who = f"process {held.process}" if held.process else "another process"
            raise files.FileProblem(
                f"{out}: wanted a run that nobody trains, {who} trains it; wait or stop it, or give another --out"
            ) from None
        except OSError as error:
            raise _unwritable(out, error) from None
        yield


def _unwritable(out: Path, error: OSError) -> files.FileProblem:
    return files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); give another --out")


def open_folder(out: Path, settings: Settings, data: Data, world: World = ALONE) -> bool:
    """Makes the folder a run's, or checks that the run there belongs to these settings. True if it is new; call it within `holding`."""
    new = False
    with world.together():
        if world.leads:
            new = _open_folder(out, settings, data)
    return bool(world.agree(new))


def _open_folder(out: Path, settings: Settings, data: Data) -> bool:
    saved_path = out / "settings.json"
    if not saved_path.exists():
        try:
            data.tokenizer.save(out / "tokenizer")
            files.write_json(out / "data.json", data.manifest.to_dict())
            files.write_json(saved_path, config.to_dict(settings))  # last: with it the folder is a run
        except OSError as error:
            raise _unwritable(out, error) from None
        return True
    check_folder(out, settings)
    begun_on = files.read_json(out / "data.json")
    if not isinstance(begun_on, dict) or begun_on.get("fingerprint") != data.manifest.fingerprint:
        raise files.FileProblem(f"{data.folder}: its text or tokenizer is not what {out} was trained on; give the run another --out")
    files.write_json(saved_path, config.to_dict(settings))
    return not checkpoint.found(out)


def check_folder(out: Path, settings: Settings) -> None:
    """Raises ConfigError if the run in `out` was begun with other settings of what decides its result."""
    saved = config.load(Settings, out / "settings.json")
    if settings.model.vocab_size is None:
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, vocab_size=saved.model.vocab_size))
    differing = [row for row in config.differences(settings, saved) if decides_result(row[0])]
    done = max(map(checkpoint.step_of, checkpoint.found(out)), default=0)
    if any(path in LAYOUT for path, _, _ in differing) and same_so_far(settings, saved, done):
        differing = [row for row in differing if row[0] not in LAYOUT]
    if differing:
        why = f", and it would have changed the learning rate of the {done:,} steps taken"
        raise config.ConfigError(
            [
                f"{path}: wanted {was} as {out} was begun with, came {now}{why if path in LAYOUT else ''}; keep it, or give a new --out"
                for path, now, was in differing
            ]
        )


def steps_to_take(settings: Settings) -> int:
    """How many steps the run has, up to where it is to stop."""
    plan = settings.train
    steps = Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens)
    return steps.count(plan.train_tokens if plan.stop_tokens is None else min(plan.stop_tokens, plan.train_tokens))


def is_finished(out: Path, settings: Settings) -> bool:
    """Whether the run in a folder has come as far as these settings want, and its model is written.

    One that was stopped at `train.stop_tokens` is not, if it is now to go further; nor is one that was killed between its model and its
    last event. A model that was imported has told nothing.
    """
    if not ((out / "model" / "config.json").is_file() and (out / "settings.json").is_file()):
        return False
    path = out / "metrics.jsonl"
    told = list(metrics.read(path)) if path.is_file() else []
    ends = [event for event in told if event["event"] == "end"]
    if not ends:
        return not told
    budget = settings.train.budget_seconds
    return ends[-1].get("step", 0) >= steps_to_take(settings) or (budget is not None and ends[-1].get("budget_seconds") == budget)


def micro_batch(
    settings: Settings, device: torch.device, precision: machine.Precision, world: World = ALONE, layout: Layout = "single"
) -> int:
    """How many sequences to compute at once: what divides the device's share of the batch and, on a GPU, fits its free memory.

    On a CPU, where memory is plentiful and caches are small, what it computes quickest.
    """
    plan, length = settings.train, settings.model.context_length
    share = (plan.batch_start_tokens or plan.batch_tokens) // length // world.size
    most = _MICRO_BATCH_TOKENS[device.type] // length
    free = machine.free_memory(device)
    if free is None:
        return largest_micro_batch(share, most)
    for size in range(min(share, most), 1, -1):
        if share % size == 0:
            shares = world.local_size if layout == "hsdp" else world.size
            if planning.needs(settings, precision, layout, shares, size, free).total <= planning.USABLE * free:
                return size
    return 1


def reading_batch(context_length: int, device: torch.device) -> int:
    """How many sequences to read at once where nothing is learned: their logits are whole."""
    return max(1, _READING_TOKENS[device.type] // context_length)
