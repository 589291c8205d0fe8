"""How many tokens, and how much time, `gpt2`, `gpt2-tuned` and `modern` need to reach the loss at which the faithful recipe ends.

    python benchmarks/recipes.py [--text docs|shakespeare|wikitext ...] [--work DIR] [--seeds 3] [--leave-out 3] [--texts-in DIR]

One loader, one validation text, one evaluation for all, at about 10M parameters beside the embeddings. For each text:

1. Each recipe's learning rates are swept, the faithful one's at its full length, the others' at a third of it: halved and doubled, and
   on from the best for as long as that helps.
2. The faithful recipe runs at its best rate with several seeds; the mean of its final losses is the target.
3. The others run at their best rate, each length with a schedule of its own, from the shortest on, until one's mean reaches the target.
   Where the first seed is far from it, the others are not run.
4. With --leave-out, on the first text: `modern` at its length with one ingredient at a time as the faithful recipe has it.

Every run is kept in DIR and not run again, so that the whole may be stopped and sent on. Tokens do not depend on what else the machine
does. A run's seconds are its tokens at the speed of its recipe, for which all recipes take turns at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from record import bar, record

from daybreak import config, files, trial
from daybreak.recipes import recipe_settings

SHAPE = ("model.n_layer=6", "model.d_model=384", "model.context_length=256", "model.vocab_size=none")
BATCH = 2048
FAR = 0.05
"""Nats above the target that no choice of seeds makes up for: they differ by a tenth of it."""
TURNS = 3
ADAMW = 5e-4
"""The learning rate of AdamW that the sweeps find best at this width and batch."""
JUDGED = 65_536
"""Tokens of the validation text, from all over it, that the final loss is of."""
LENGTHS = (1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2, 1.0)
"""Lengths to try, as shares of the faithful recipe's."""


QUIET = (
    *(f"eval.final_tokens={JUDGED}", f"eval.every_tokens={10**12}", f"sample.every_tokens={10**12}", "sample.max_tokens=1"),
    "checkpoint.every_seconds=1e9",
)


class Text(NamedTuple):
    """A text to train on, and for how many tokens the faithful recipe does."""

    prepare: tuple[object, ...]
    tokens: int


class Ran(NamedTuple):
    """What a run came to."""

    val_loss: float
    bits_per_byte: float
    tokens: int


def texts(folder: Path, work: Path) -> dict[str, Callable[[], Text]]:
    """The texts by name; the last two from files in `folder`."""

    def docs() -> Text:
        return Text(("python:docs", "--vocab-size", "4096"), 2_000_000)

    def shakespeare() -> Text:
        return Text((folder / "tinyshakespeare" / "input.txt", "--tokenizer", "chars", "--val-fraction", 0.1, "--split", "tail"), 1_000_000)

    def wikitext() -> Text:
        """Its validation file to train on, as much of its test file to judge: the two as one document, split where the one ends."""
        train, judge = ((folder / "wikitext-2" / name).read_text(encoding="utf-8") for name in ("valid.txt", "test.txt"))
        judge = judge[: len(train)]
        files.write_text(work / "wikitext-2.txt", train + judge)
        share = len(judge) / (len(train) + len(judge))
        return Text((work / "wikitext-2.txt", "--vocab-size", 4096, "--val-fraction", share, "--split", "tail"), 1_000_000)

    return {"docs": docs, "shakespeare": shakespeare, "wikitext": wikitext}


# The faithful and the tuned recipe have 64 channels a head, as GPT-2; the modern one has 128.
RECIPES = {
    "gpt2": ("gpt2.124m", ("model.n_head=6", "train.learning_rate=1e-3")),
    "modern": ("modern.124m", ("model.n_head=3",)),
    "gpt2-tuned": ("gpt2.124m-tuned", ("model.n_head=6", "train.learning_rate=1e-3")),
}


def main() -> None:
    """Runs what is missing and records all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", help="docs, shakespeare or wikitext; docs alone by default")
    parser.add_argument("--recipe", action="append", choices=list(RECIPES)[1:], help="beside the faithful one; both by default")
    parser.add_argument("--texts-in", type=Path, default=Path("data"), help="the folder with tinyshakespeare/ and wikitext-2/")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"), help="where the runs are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of each text's tokens, to try this out")
    parser.add_argument("--leave-out", type=int, default=0, metavar="SEEDS", help="also leave out each ingredient, with so many seeds")
    options = parser.parse_args()
    known, bars, rows = texts(options.texts_in, options.work), [], []
    for name in options.text or ["docs"]:
        races = Races(name, known[name](), options.work / name, options.scale)
        found = races.compare(options.seeds, ["gpt2", *(options.recipe or list(RECIPES)[1:])])
        rows += found
        best = {row["recipe"]: row for row in found if row["kind"] == "needed"}
        if "modern" in best:
            bars += [
                bar(
                    f"{name}: share of the faithful recipe's tokens that the modern one needs",
                    best["modern"]["share_of_tokens"],
                    "<= 0.3334",
                ),
                bar(f"{name}: share of its time", best["modern"]["share_of_time"], "<= 0.4"),
            ]
            if options.leave_out and name == (options.text or ["docs"])[0]:
                rows += races.leave_out(best["modern"]["share_of_tokens"], best["modern"]["factor"], options.leave_out)
        record("recipes", bars, rows)


class Races:
    """The runs on one text."""

    def __init__(self, name: str, text: Text, work: Path, scale: float) -> None:
        self.name, self.work = name, work
        self.tokens = round(text.tokens * scale)
        if not (work / "data" / "manifest.json").is_file():
            daybreak("data", "prepare", *text.prepare, "--out", work / "data")

    def compare(self, seeds: int, recipes: Sequence[str]) -> list[dict[str, Any]]:
        """Sweeps, the faithful recipe's target, and what the others need to reach it."""
        rows: list[dict[str, Any]] = []
        target = 0.0
        for recipe in recipes:
            faithful = recipe == "gpt2"
            sweep = self.sweep(recipe, 1.0 if faithful else 1 / 3)
            factor = min(sweep, key=lambda factor: sweep[factor].val_loss)
            rows += [self.row("sweep", recipe, each, [ran]) for each, ran in sweep.items()]
            for share in (1.0,) if faithful else LENGTHS:
                ran = [self.run(recipe, share, factor)]
                if faithful or (share < 1 and ran[0].val_loss <= target + FAR):
                    ran += [self.run(recipe, share, factor, seed) for seed in range(1, seeds)]
                row = self.row("seeds", recipe, factor, ran)
                rows.append(row)
                if faithful:
                    target = row["val_loss"]
                elif row["val_loss"] <= target:
                    rows.append({**row, "kind": "needed", "target": target, "share_of_tokens": round(share, 4)})
                    break
        speeds = self.speeds(recipes)
        for row in rows:
            row["seconds"] = round(row["tokens"] / speeds[row["recipe"]], 1)
            if row["kind"] == "needed":
                row["share_of_time"] = round(row["share_of_tokens"] * speeds["gpt2"] / speeds[row["recipe"]], 4)
        return rows

    def speeds(self, recipes: Sequence[str]) -> dict[str, float]:
        """Tokens a second of each recipe, in turns."""
        vocab_size = files.read_json(self.work / "data" / "manifest.json")["tokenizer"]["vocab_size"]
        taken: dict[str, list[float]] = {recipe: [] for recipe in recipes}
        for _ in range(TURNS):
            for recipe in recipes:
                base, own = RECIPES[recipe]
                edits = (*SHAPE, *own, f"model.vocab_size={vocab_size}", f"train.batch_tokens={BATCH}", "train.warmup_tokens=0")
                taken[recipe].append(trial.measure_apart(config.edit(recipe_settings(base), edits)).tokens_per_second)
        print(f"{self.name}: tokens a second {taken}", flush=True)
        return {recipe: statistics.median(each) for recipe, each in taken.items()}

    def sweep(self, recipe: str, share: float) -> dict[float, Ran]:
        """What multiples of a recipe's learning rates come to: half and twice its own, and on from the best while it gets better."""
        ran = {factor: self.run(recipe, share, factor) for factor in (0.5, 1.0, 2.0)}
        while (best := min(ran, key=lambda factor: ran[factor].val_loss)) in (min(ran), max(ran)):
            beyond = best / 2 if best == min(ran) else best * 2
            ran[beyond] = self.run(recipe, share, beyond)
        return dict(sorted(ran.items()))

    def leave_out(self, share: float, factor: float, seeds: int) -> list[dict[str, Any]]:
        """The modern recipe with one thing at a time as the faithful one has it."""
        rows = []
        for name, edits in ingredients(factor):
            ran = [self.run("modern", share, factor, seed, name, edits) for seed in range(seeds)]
            rows.append({**self.row("left out", "modern", factor, ran), "without": name})
        return rows

    def row(self, kind: str, recipe: str, factor: float, ran: Sequence[Ran]) -> dict[str, Any]:
        """What runs that differ in nothing but the seed came to."""
        losses = [each.val_loss for each in ran]
        return {
            "kind": kind,
            "text": self.name,
            "recipe": recipe,
            "factor": factor,
            "tokens": ran[0].tokens,
            "val_loss": round(statistics.mean(losses), 4),
            "deviation": round(statistics.stdev(losses), 4) if len(losses) > 1 else None,
            "bits_per_byte": round(statistics.mean(each.bits_per_byte for each in ran), 4),
            "runs": len(ran),
        }

    def run(self, recipe: str, share: float, factor: float, seed: int = 0, without: str = "", edits: Sequence[str] = ()) -> Ran:
        """Trains once in a fresh process, or reads what came of it before."""
        tokens = max(BATCH, round(self.tokens * share / BATCH) * BATCH)
        name = f"{recipe}-{tokens}-x{factor:g}-s{seed}{'-without-' + without if without else ''}"
        if not (self.work / name / "DONE").is_file():
            base, own = RECIPES[recipe]
            settings = (*SHAPE, *own, *scaled_rates(base, own, factor), *edits, *QUIET)
            length = (f"train.train_tokens={tokens}", f"train.warmup_tokens={tokens // 50}", f"train.batch_tokens={BATCH}")
            place = (f"data.dir={self.work / 'data'}", f"train.seed={seed}")
            daybreak("train", base, "--out", self.work / name, *place, *settings, *length)
        ran = told(self.work / name)
        print(f"{self.name} {name}: {ran.val_loss:.4f}", flush=True)
        return ran


def told(run: Path) -> Ran:
    """What a finished run says of itself."""
    end = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return Ran(end["val_loss"], end["bits_per_byte"], end["tokens"])


def scaled_rates(base: str, edits: Sequence[str], factor: float) -> Iterator[str]:
    """Every learning rate of a recipe, or of the edits to it, times a factor."""
    given = dict(edit.split("=", 1) for edit in edits)
    plan = recipe_settings(base).train
    for field in dataclasses.fields(plan):
        if field.name.endswith("learning_rate") and field.name != "final_learning_rate":
            rate = given.get(f"train.{field.name}", getattr(plan, field.name))
            if rate is not None:
                yield f"train.{field.name}={float(rate) * factor:g}"


def ingredients(factor: float) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each setting of the model that the modern recipe has otherwise than the faithful one, with the edit that undoes it.

    Without Muon the matrices get a learning rate that suits AdamW, and all else its own as before.
    """
    modern, faithful = recipe_settings("modern.124m"), recipe_settings("gpt2.124m")
    for field in dataclasses.fields(modern.model):
        was, now = getattr(faithful.model, field.name), getattr(modern.model, field.name)
        if was != now and field.name not in ("n_head", "tied_head"):
            yield field.name, (f"model.{field.name}={'none' if was is None else was}",)
    yield "head size 128", ("model.n_head=6",)
    at_one_rate = "train.embedding_scale=1"
    yield "the embedding's rate", (at_one_rate,)
    yield (
        "own head",
        ("model.tied_head=true", "model.width_base=none", at_one_rate, "model.token_init_std=none"),
    )  # a tied one begins as a head
    plan, scales = modern.train, ("embedding_scale", "head_scale", "vector_scale")
    times = factor * plan.learning_rate / ADAMW
    others = tuple(f"train.{name}={getattr(plan, name) * times:g}" for name in scales)
    yield "Muon", ("train.optimizer=adamw", f"train.learning_rate={ADAMW}", *others)
    yield "schedule", ("train.schedule=cosine",)


def daybreak(*words: object) -> None:
    """Runs the command line in a fresh process; raises with what it said where it fails."""
    command = [sys.executable, "-m", "daybreak", *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    main()
