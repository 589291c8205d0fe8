"""Training speed on this machine beside nanoGPT's, in turns, as a share of what the machine multiplies at; and how cost grows with work.

    python benchmarks/train_speed.py --peer nanogpt=DIR [--shape 13.9m 124m 124m-x4] [--quick]

Each contender trains the same shape on random tokens of the same number with AdamW and clipping, in a process of its own that waits while
another has its turn. Each round gives every contender a step, the matrix ceiling first; medians over rounds count. Tokens per second
are told by the clock and by processor time; the latter says something even where other work keeps the machine busy.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, bar, record

import daybreak as db
from daybreak import ceiling, choosing, compiling, config, files, machine, stepping
from daybreak.model.flops import flops_per_token
from daybreak.running import Running
from daybreak.settings import Settings
from daybreak.training.parallel import Alone
from daybreak.trial import MadeUp
from daybreak.world import ALONE

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and what it is given at once."""

    n_layer: int
    n_head: int
    d_model: int
    context: int
    sequences: int
    vocab_size: int

    @property
    def tokens(self) -> int:
        """In a step."""
        return self.sequences * self.context

    def settings(self, *edits: str) -> Settings:
        """Ours, as a run would have them."""
        shape = [f"model.{name}={getattr(self, name)}" for name in ("n_layer", "n_head", "d_model", "vocab_size")]
        shape.append(f"model.context_length={self.context}")
        plan = [f"train.batch_tokens={self.tokens}", f"train.micro_batch={self.sequences}", f"train.train_tokens={1000 * self.tokens}"]
        plan += ["train.warmup_tokens=0", "train.learning_rate=3e-4", "train.spike=none"]
        return config.edit(db.recipes.gpt2.size("124m"), [*shape, *plan, *edits])


@dataclasses.dataclass(frozen=True)
class Bars:
    """What a shape is to reach: times nanoGPT as shipped, times its best, share of the ceiling."""

    shipped: float
    best: float
    share: float


SHAPES = {
    "13.9m": (Shape(6, 6, 384, 256, 16, 8192), Bars(3.0, 1.25, 0.58)),
    "124m": (Shape(12, 12, 768, 1024, 1, 50257), Bars(2.6, 1.15, 0.45)),
    "124m-x4": (Shape(12, 12, 768, 1024, 4, 50257), Bars(2.6, 1.15, 0.45)),
}
ROUNDS = {"13.9m": 5, "124m": 3, "124m-x4": 2}
COMPILED = ("machine.precision=bf16", "machine.compile=true", "machine.loss_chunk=1024")
PLAIN = ("machine.precision=bf16", "machine.compile=false", "machine.loss_chunk=1024")
OURS = {"daybreak, compiled": COMPILED, "daybreak": PLAIN}
NANOGPT = {
    "nanoGPT as shipped": {"bf16": False, "compile": False},
    "nanoGPT, bf16": {"bf16": True, "compile": False},
    "nanoGPT, bf16, compiled": {"bf16": True, "compile": True},
}
BASE = SHAPES["13.9m"][0]
GROWTH = {
    "width": [dataclasses.replace(BASE, d_model=64 * heads, n_head=heads) for heads in (3, 6, 9, 12)],
    "depth": [dataclasses.replace(BASE, n_layer=layers) for layers in (3, 6, 12)],
    "context": [dataclasses.replace(BASE, context=4096 // sequences, sequences=sequences) for sequences in (32, 16, 8, 4)],
    "micro-batch": [dataclasses.replace(BASE, sequences=sequences) for sequences in (2, 4, 8, 16, 32)],
}


# --- contenders, each within its own process ---------------------------------------------------------------------------------


@contextlib.contextmanager
def ours(shape: Shape, *edits: str) -> Iterator[Callable[[], float]]:
    """A run of ours without its folder; each call takes one step and returns its loss."""
    settings = shape.settings(*edits)
    precision = machine.choose_precision(CPU, settings.machine.precision)
    machine.prepare_cpu()
    chosen = choosing.choose(settings, CPU, precision, "single", ALONE)
    text = MadeUp(shape.vocab_size, 4 * shape.tokens + 1)
    with tempfile.TemporaryDirectory() as folder:  # where nothing is saved
        running = Running(settings, Path(folder), text, {}, CPU, precision, ALONE, Alone(), chosen)
        running.begin(new=True)
        steps = stepping.steps(running, 10_000)
        try:
            yield lambda: float(next(steps).loss)
        finally:
            running.close()


def nanogpt(shape: Shape, folder: str, bf16: bool, compile: bool) -> Callable[[], float]:
    """nanoGPT's model, optimizer and order of a step as its train.py has them."""
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]  # nanoGPT's

    padded = -(-shape.vocab_size // 64) * 64
    torch.manual_seed(0)
    with contextlib.redirect_stdout(sys.stderr):
        sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.d_model}
        model = GPT(GPTConfig(block_size=shape.context, vocab_size=padded, dropout=0.0, bias=True, **sizes))
        optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), "cpu")
    called = torch.compile(model) if compile else model
    text = torch.randint(shape.vocab_size, (4 * shape.tokens + 1,))

    def step() -> float:
        starts = torch.randint(len(text) - shape.context, (shape.sequences,)).tolist()
        inputs = torch.stack([text[start : start + shape.context] for start in starts])
        targets = torch.stack([text[start + 1 : start + 1 + shape.context] for start in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            _, loss = called(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def contend(request: dict[str, Any]) -> None:
    """Prepares, then takes as many steps as each line of standard input says; one line of JSON for each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed by others is no answer
    compiling.keep()
    shape = Shape(**request["shape"])
    with contextlib.ExitStack() as stack:
        step = (
            nanogpt(shape, request["folder"], **request["nanogpt"])
            if "nanogpt" in request
            else stack.enter_context(ours(shape, *request["edits"]))
        )
        started = time.perf_counter()
        loss = step()
        first = time.perf_counter() - started
        print(json.dumps({"first_seconds": first, "loss": loss}), file=answers, flush=True)
        for line in sys.stdin:
            started, processor = time.perf_counter(), time.process_time()
            for _ in range(count := int(line)):
                loss = step()
            wall, processor = time.perf_counter() - started, time.process_time() - processor
            told = {"wall": wall / count, "processor": processor / count, "loss": loss, "memory": machine.peak_memory(CPU)}
            print(json.dumps(told), file=answers, flush=True)


# --- the race ------------------------------------------------------------------------------------------------------------------


class Contender:
    """One of them, seen from outside."""

    def __init__(self, name: str, request: dict[str, Any]) -> None:
        self.name = name
        self.turns: list[dict[str, float]] = []
        command = [sys.executable, __file__, "--contend", json.dumps(request)]
        environment = {**os.environ, **({"GOMP_SPINCOUNT": "10000"} if "edits" in request else {})}  # as our command line sets it
        # What is compiled is quietly compiled, and told where it fails.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, stderr=subprocess.DEVNULL
        )

    def ready(self) -> None:
        """Waits for its first step."""
        self.first = self._answer()

    def turn(self, steps: int) -> None:
        """So many steps while all others wait."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        self.turns.append(self._answer())

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}; run {' '.join(self.process.args)} to see why")  # type: ignore[arg-type]
        answer: dict[str, float] = json.loads(line)
        return answer

    def median(self, what: str) -> float:
        """Over its turns."""
        return statistics.median(turn[what] for turn in self.turns)

    def close(self) -> None:
        """Lets it go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def race(name: str, folder: str | None, rounds: int, without: set[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One shape: its rows, and its bars."""
    shape, bars = SHAPES[name]
    requests: dict[str, dict[str, Any]] = {each: {"edits": edits} for each, edits in OURS.items()}
    requests |= {each: {"nanogpt": how, "folder": folder} for each, how in NANOGPT.items() if folder}
    contenders: list[Contender] = []
    try:
        for each, request in requests.items():
            if each not in without:  # one after the other, as threads of several that spin take the cores from each other
                contenders.append(Contender(each, {"shape": dataclasses.asdict(shape), **request}))
                contenders[-1].ready()
        ceilings: dict[str, list[float]] = {"bf16": [], "fp32": []}
        for _ in range(rounds):
            for kind, rates in ceilings.items():
                rates.append(ceiling.measure(CPU, kind, 0.5))  # type: ignore[arg-type]
            for contender in contenders:
                contender.turn(1)
    finally:
        for contender in contenders:
            contender.close()
    highest, flops = max(ceilings["bf16"]), flops_per_token(shape.settings().model)
    rows = []
    for contender in contenders:
        speed = shape.tokens / contender.median("wall")
        rows.append(
            {
                "shape": name,
                "contender": contender.name,
                "tokens_per_second": round(speed, 1),
                "tokens_per_processor_second": round(shape.tokens / contender.median("processor"), 1),
                "share_of_bf16_ceiling": round(speed * flops / highest, 4),
                "seconds_of_each_round": [round(turn["wall"], 3) for turn in contender.turns],
                "first_step_seconds": round(contender.first["first_seconds"], 1),
                "peak_memory_gb": round(contender.turns[-1]["memory"] / 1e9, 3),
                "loss": round(contender.turns[-1]["loss"], 3),
                "ceiling_gflops": {kind: round(max(rates) / 1e9) for kind, rates in ceilings.items()},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows, judged(name, bars, rows)


def too_long(rows: list[dict[str, Any]]) -> set[str]:
    """Who need not come to a larger shape: ours as it is, and the slower of nanoGPT's forced ways where both were there at 124m."""
    at = {row["contender"]: row["tokens_per_second"] for row in rows if row["shape"] == "124m"}
    forced = [name for name in NANOGPT if NANOGPT[name]["bf16"] and name in at]
    return {"daybreak", *([min(forced, key=at.__getitem__)] if len(forced) > 1 else [])}


def judged(name: str, bars: Bars, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bars of one shape."""
    mine = max((row for row in rows if row["contender"] in OURS), key=lambda row: row["tokens_per_second"])
    told = [bar(f"{name}: share of the bf16 ceiling measured between the rounds", mine["share_of_bf16_ceiling"], f">= {bars.share}")]
    theirs = [row for row in rows if row["contender"] in NANOGPT]
    if shipped := next((row for row in theirs if row["contender"] == "nanoGPT as shipped"), None):
        best = max(theirs, key=lambda row: row["tokens_per_second"])
        for clock, says in (("tokens_per_second", "speed"), ("tokens_per_processor_second", "speed by processor time")):
            told.append(bar(f"{name}: {says} to nanoGPT's as shipped", mine[clock] / shipped[clock], f">= {bars.shipped}"))
            told.append(bar(f"{name}: {says} to its best ({best['contender']})", mine[clock] / best[clock], f">= {bars.best}"))
        told.append(bar(f"{name}: memory to nanoGPT's as shipped", mine["peak_memory_gb"] / shipped["peak_memory_gb"], "<= 1"))
        told.append(bar(f"{name}: memory to nanoGPT's at its best", mine["peak_memory_gb"] / best["peak_memory_gb"], "<= 1"))
    if name == "124m":
        told.append(bar("124m, context 1024: peak memory in GB", max(r["peak_memory_gb"] for r in rows if r["contender"] in OURS), "< 4"))
    return told


# --- growth --------------------------------------------------------------------------------------------------------------------


def growth(seconds: float) -> list[dict[str, Any]]:
    """Ours, not compiled, along each axis from the small shape."""
    rows: list[dict[str, Any]] = []
    known: dict[Shape, float] = {}
    for axis, shapes in GROWTH.items():
        for shape in shapes:
            if shape not in known:
                known[shape] = alone(shape, seconds)
            flops = flops_per_token(shape.settings().model)
            rows.append(
                {"growth": axis, **dataclasses.asdict(shape), "flops_per_token": flops, "tokens_per_second": round(known[shape], 1)}
            )
            rows[-1]["gflops_per_second"] = round(known[shape] * flops / 1e9, 1)
            print(json.dumps(rows[-1]), flush=True)
    return rows


def alone(shape: Shape, seconds: float) -> float:
    """Tokens per second by the median step, two at least."""
    taken: list[float] = []
    with ours(shape, *PLAIN) as step:
        step()
        while len(taken) < 2 or sum(taken) < seconds:
            started = time.perf_counter()
            step()
            taken.append(time.perf_counter() - started)
    return shape.tokens / statistics.median(taken)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Tokens per second along each axis, and as they would fall if every operation took as long as in the small shape."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    FigureCanvasAgg(figure)
    places = {"width": "d_model", "depth": "n_layer", "context": "context", "micro-batch": "sequences"}
    for axes, (axis, where) in zip(figure.subplots(1, 4), places.items(), strict=True):
        here = [row for row in rows if row["growth"] == axis]
        at = [row[where] for row in here]
        base = next(row for row in here if all(row[name] == value for name, value in dataclasses.asdict(BASE).items()))
        even = [base["tokens_per_second"] * base["flops_per_token"] / row["flops_per_token"] for row in here]
        axes.plot(at, even, color="0.7", label="as operations grow")
        axes.plot(at, [row["tokens_per_second"] for row in here], "o-", label="measured")
        axes.set(xscale="log", yscale="log", xlabel={"d_model": "width", "n_layer": "layers", "sequences": "sequences"}.get(where, where))
        axes.set_xticks(at, [str(value) for value in at])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("tokens per second")
    figure.axes[0].legend(frameon=False, fontsize=8)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=90)


def main() -> None:
    """Races, growth, and the record of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="nanogpt=DIR", help="where nanoGPT lies; without it only ours is measured")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="the small shape only, one round, no growth, nothing recorded")
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.contend:
        contend(json.loads(chosen.contend))
        return
    peer, _, folder = (chosen.peer or "").partition("=")
    if chosen.peer and (peer != "nanogpt" or not (Path(folder) / "model.py").is_file()):
        parser.error(f"--peer: wanted nanogpt=DIR with its model.py in it, came {chosen.peer}")
    started = time.perf_counter()
    names = ["13.9m"] if chosen.quick else chosen.shape
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for name in names:
        told, reached = race(name, folder or None, 1 if chosen.quick else ROUNDS[name], set() if name == "13.9m" else too_long(rows))
        rows += told
        bars += reached
    if chosen.quick:
        for row in bars:
            print(row)
        return
    grown = growth(1.0)
    draw(grown, RESULTS / "train_speed.png")
    record("train_speed", bars, [*rows, *grown, {"minutes": round((time.perf_counter() - started) / 60, 1), "load": os.getloadavg()[0]}])


if __name__ == "__main__":
    main()
