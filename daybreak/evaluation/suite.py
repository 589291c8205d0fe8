"""Tasks opened by name, and run on any predictor.

    tasks = open_tasks(["hellaswag", "mine.jsonl"], tokenizer, folder, most_items=1000)
    result = run(tasks[0], gpt, context_length=1024)
    result.figures()["acc_norm"].value

The caller sets the model to evaluation. Neither its mode nor any random generator is touched, so that a run may stand between two steps
of a training.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from daybreak import config, files
from daybreak.data.tokenizer import Tokenizer, TokenizerProblem
from daybreak.evaluation import measures
from daybreak.evaluation.grouping import groups
from daybreak.evaluation.items import Item, TaskProblem, read_items
from daybreak.evaluation.measures import Figure, Outcome
from daybreak.evaluation.protocols import PROTOCOLS, Protocol, own
from daybreak.evaluation.readers import Reader, reader
from daybreak.evaluation.reading import Reading, encode, is_cut
from daybreak.evaluation.scoring import score
from daybreak.inference.generate import Predictor
from daybreak.metrics import plain

BUDGETS = {"cpu": 4096, "mps": 8192, "cuda": 32768}
"""How many tokens are read at once, by the kind of device; for predictors whose logits come whole an eighth of it."""


@dataclass(frozen=True)
class Task:
    """A task, read and encoded."""

    name: str
    """As it was asked for."""
    protocol: Protocol
    form: str
    """How the file's text differs from the official one; empty if it does not."""
    path: Path
    items: tuple[Item, ...]
    readings: tuple[Reading, ...]
    numbers: tuple[int, ...]
    """The items' places in the file."""
    total: int
    """How many items the file has."""


@dataclass(frozen=True)
class Result:
    """What came of a task, or of one device's share of it."""

    name: str
    protocol: Protocol
    form: str
    total: int
    """How many items the task's file has."""
    outcomes: tuple[Outcome, ...]
    """In the order of the file."""
    seconds: float

    def figures(self) -> dict[str, Figure]:
        """The task's metrics by name. Raises ValueError if there is no item, as in the share of one device too many."""
        if not self.outcomes:
            raise ValueError(f"{self.name}: wanted at least one item, this share of the task has none; merge the shares first")
        return measures.figures(self.protocol.kind, self.outcomes)

    def values(self, metric: str) -> list[float]:
        """One metric, item by item: acc, acc_norm or log_likelihood."""
        return [row.values[metric] for row in self.outcomes]

    def digests(self) -> list[str]:
        """What the items were, in the same order."""
        return [row.digest for row in self.outcomes]

    @property
    def cut(self) -> int:
        """How many items were too long for the model, which saw only their end."""
        return sum(row.cut for row in self.outcomes)

    def facts(self) -> dict[str, Any]:
        """What stands beside the figures: protocol, text, how many items of how many, and by what they are known again."""
        return {
            "protocol": self.protocol.name,
            "reads": self.protocol.reads,
            "form": self.form or "official" if self.protocol.name != "own" else "own",
            "n": len(self.outcomes),
            "items": self.total,
            "cut": self.cut,
            "digest": measures.digest(self.outcomes),
            "seconds": round(self.seconds, 2),
        }


def save_items(results: Sequence[Result], path: Path) -> None:
    """Writes the outcome of each item of each task as a line of JSON, whole or not at all."""
    files.write_text(
        path, "".join(json.dumps(plain({"task": result.name, **row.as_dict()})) + "\n" for result in results for row in result.outcomes)
    )


def open_tasks(names: Sequence[str], tokenizer: Tokenizer, folder: Path | None = None, most_items: int | None = None) -> list[Task]:
    """Opens tasks: a name, `NAME=FILE`, or the file of one's own. Named tasks' files are looked for in `folder`, or else in the cache.

    Of more than `most_items` items, that many are taken, evenly spread and always the same. Raises TaskProblem with all that is wrong.
    """
    opened: list[Task] = []
    wrong = []
    if most_items is not None and most_items < 1:
        wrong.append(f"items: wanted at least 1, came {most_items}")
    for name in dict.fromkeys(names):
        try:
            opened.append(_open(name, tokenizer, folder, None if most_items is None else max(1, most_items)))
        except (TaskProblem, TokenizerProblem) as error:
            wrong.append(str(error))
    named = [task.name for task in opened]
    wrong += [f"{name}: wanted once, came with two files; name one" for name in dict.fromkeys(named) if named.count(name) > 1]
    if wrong:
        raise TaskProblem("\n".join(wrong))
    return opened


def _open(name: str, tokenizer: Tokenizer, folder: Path | None, most: int | None) -> Task:
    known, _, given = name.partition("=")
    form, path = "", Path(name)
    if known not in PROTOCOLS:  # a file whose name is that of a task's own needs none
        known = next((task for task, row in PROTOCOLS.items() if path.as_posix().endswith(row.file_names)), name)
    else:
        path = Path(given) if given else find(known, folder)
    if known in PROTOCOLS:
        protocol = PROTOCOLS[known]
        assert protocol.read is not None
        items, form = protocol.read(path)
    elif name.endswith(".jsonl") or path.is_file():
        kind, items = read_items(path)
        protocol = own(kind)
    else:
        asked = name.partition("=")[0]
        raise TaskProblem(f"{asked}: no such task{config.closest(asked, PROTOCOLS)}; wanted {', '.join(PROTOCOLS)} or a .jsonl file")
    if not items:
        raise TaskProblem(f"{path}: wanted the items of {known}, found none")
    count = len(items)
    numbers = tuple(range(count)) if most is None or most >= count else tuple(i * count // most for i in range(most))
    chosen = tuple(items[i] for i in numbers)
    try:
        readings = tuple(encode(tokenizer, item, apart=protocol.apart) for item in chosen)
    except (TaskProblem, TokenizerProblem) as error:
        raise TaskProblem(f"{path}: {error}") from None
    return Task(known, protocol, form, path, chosen, readings, numbers, count)


def find(name: str, folder: Path | None = None) -> Path:
    """The file of a named task: in `folder` or in its folder of that name; without one in the cache, or downloaded. Raises TaskProblem."""
    names = PROTOCOLS[name].file_names
    task = name.partition(":")[0]
    places = [folder] if folder is not None else [files.cache_folder() / "tasks"]
    for place in places:
        for file_name in names:
            for path in (place / file_name, place / task / file_name):
                if path.is_file():
                    return path
    if folder is not None:
        raise TaskProblem(f"{folder}: wanted {task}'s file, {' or '.join(names)}, found none of them there or in its folder {task}")
    from daybreak.evaluation import downloads

    try:
        return downloads.fetch(PROTOCOLS[name].published)
    except files.FileProblem as error:
        raise TaskProblem(
            f"{name}: its file is not in {places[0]}, and {error}; get {names[0]} and name its folder with --task-files"
        ) from None


def run(
    task: Task,
    predictor: Predictor | Reader,
    *,
    context_length: int,
    device: torch.device | str = "cpu",
    token_budget: int | None = None,
    share: tuple[int, int] = (0, 1),
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    watch: Callable[[int], object] = lambda done: None,
) -> Result:
    """Runs a task, or of several devices' (rank, world size) one's share of it.

    A GPT is read fastest; a Reader says how another is read. `autocast` is entered once, as weights that it converts are kept until it is
    left; that is also why `watch` is told how many items are done, where elsewhere a generator would be.
    """
    started = time.monotonic()
    way = predictor if isinstance(predictor, Reader) else reader(predictor, device=device)
    budget = token_budget or BUDGETS[torch.device(device).type] // (1 if way.halved else 8)
    rank, world_size = share
    outcomes: list[Outcome] = []
    with autocast():
        for group in groups(task.readings, context_length, budget, cached=way.new_cache is not None)[rank::world_size]:
            scored = score(
                way, group, task.readings, context_length, device=device, budget=budget, greedy=task.protocol.kind == "completion"
            )
            for i, likelihoods in zip(group.numbers, scored, strict=True):
                cut = task.protocol.kind != "document" and is_cut(task.readings[i], context_length)
                outcomes.append(measures.outcome(task.numbers[i], task.items[i], task.readings[i], likelihoods, task.protocol, cut=cut))
            watch(len(outcomes))
    return Result(task.name, task.protocol, task.form, task.total, _in_order(outcomes), time.monotonic() - started)


def merge(results: Sequence[Result]) -> Result:
    """The whole result of a task from the devices' shares of it, the same to the last digit as if one device had done it all."""
    first = results[0]
    if any((result.name, result.protocol) != (first.name, first.protocol) for result in results):
        raise ValueError(f"results: wanted the shares of one task, came {', '.join(dict.fromkeys(result.name for result in results))}")
    outcomes = _in_order([row for result in results for row in result.outcomes])
    if len({row.number for row in outcomes}) < len(outcomes):
        raise ValueError(f"results: wanted each item of {first.name} once, some came twice; merge each share once")
    return replace(first, outcomes=outcomes, seconds=max(result.seconds for result in results))


def _in_order(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    return tuple(sorted(outcomes, key=lambda row: row.number))
