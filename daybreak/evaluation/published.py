"""What others measured: the papers' rows, OpenAI's released weights on open texts, and published training runs.

    rows("hellaswag", protocol="completion", metric="acc_norm")     # one row for each model
    runs("gpt2.124m")                                               # loss and HellaSwag over tokens

A figure means something only beside another of the same protocol: GPT-2 124M gets 0.2955 or 0.3114 on HellaSwag, by what is read
and by what the likelihood is divided by. No figure here was computed from others, nor read off a plot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from daybreak.model.config import SIZES
from daybreak.model.flops import parameter_count

PROTOCOLS = {
    "paper": "as the model's own paper has it; GPT-2's uses de-tokenizers, and for LAMBADA's accuracy a filter of stop words",
    "harness": "EleutherAI's lm-evaluation-harness",
    "completion": "build-nanogpt and llm.c: the raw context, each ending behind a space, the mean log-likelihood of its tokens",
    "windows": "the text joined to one, perplexity per token, in windows of the context that overlap",
    "validation": "mean nats per token of a text that was held out",
}


@dataclass(frozen=True)
class Row:
    """One published figure."""

    model: str
    """As our recipes name it, such as gpt2.124m."""
    task: str
    protocol: str
    """One of PROTOCOLS."""
    metric: str
    """acc, acc_norm (by length), perplexity, word_perplexity, bits_per_byte, bits_per_character or val_loss."""
    value: float
    source: str
    n: int | None = None
    """How many items it was measured on, where that is known."""
    told_stderr: float | None = None
    """The standard error that the source gives."""
    shots: int = 0
    """How many solved examples stood before each item."""
    secondary: bool = False
    """Whether the source repeats what another measured."""

    @property
    def parameters(self) -> int:
        """How many parameters the model has, counted from its shape."""
        family, size = self.model.split(".", 1)
        return parameter_count(SIZES[family][size])

    @property
    def stderr(self) -> float | None:
        """The standard error: the source's, else that of an accuracy on n items, sqrt(p (1 - p) / n), else None."""
        if self.told_stderr is None and self.n and self.metric.startswith("acc"):
            return math.sqrt(self.value * (1 - self.value) / self.n)
        return self.told_stderr


@dataclass(frozen=True)
class Point:
    """Where a run stood after so many tokens; None is what was not published."""

    tokens: int
    val_loss: float | None = None
    """On held-out text of the dataset that it trained on, in nats per token."""
    hellaswag: float | None = None
    """acc_norm by the protocol "completion"."""


@dataclass(frozen=True)
class Run:
    """One published training run."""

    model: str
    """The size of ours that it is to be compared with."""
    name: str
    dataset: str
    points: tuple[Point, ...]
    source: str
    hardware: str = ""
    hours: float | None = None
    dollars: float | None = None
    differs: str = ""
    """How it departs from GPT-2's architecture; empty if it does not."""
    secondary: bool = False
    """Whether the source repeats what another measured."""

    @property
    def last(self) -> Point:
        """The end of the run."""
        return self.points[-1]


def rows(task: str, protocol: str | None = None, metric: str | None = None, *, shots: int = 0) -> tuple[Row, ...]:
    """The published rows of a task, smallest model first within a source; empty if there are none."""
    return tuple(
        row for row in ROWS if row.task == task and row.shots == shots and protocol in (None, row.protocol) and metric in (None, row.metric)
    )


def runs(model: str) -> tuple[Run, ...]:
    """The published training runs to compare a model of this size with, such as gpt2.124m; empty if there are none."""
    return tuple(run for run in RUNS if run.model == model)


class _Line(NamedTuple):
    """A line of a published table: the figures of a family by rising size, None where there is none."""

    family: str
    task: str
    protocol: str
    metric: str
    values: tuple[float | None, ...]
    source: str
    n: int | None = None
    shots: int = 0
    secondary: bool = False
    stderrs: tuple[float | None, ...] = (None,) * 8

    def rows(self) -> tuple[Row, ...]:
        """One row for each figure."""
        return tuple(
            Row(
                f"{self.family}.{size}",
                self.task,
                self.protocol,
                self.metric,
                value,
                self.source,
                self.n,
                stderr,
                self.shots,
                self.secondary,
            )
            for size, value, stderr in zip(SIZES[self.family], self.values, self.stderrs, strict=False)
            if value is not None
        )


# Both papers were read in copies of their text. GPT-2's table is the same in several, and in the card of gpt2-xl on the hub; GPT-3's agrees
# with what EleutherAI/gpt-neo and karpathy/nanochat quote of it, all but its perplexities above 2.7B and StoryCloze, which neither quotes.
GPT2 = "GPT-2 paper (Radford et al., 2019), table 3"
GPT3 = "GPT-3 paper (arXiv 2005.14165), table H.1"
HARNESS = "karpathy/build-nanogpt, hellaswag.py: what the harness reports"
COMPLETION = "karpathy/build-nanogpt, hellaswag.py: what that script reports"
MMLU = "karpathy/llm.c, dev/data/mmlu.py"
NOTEBOOK = "karpathy/llm.c, dev/vislog.ipynb"
ISSUE_2159 = "https://github.com/EleutherAI/lm-evaluation-harness/issues/2159"
ISSUE_13761 = "https://github.com/huggingface/transformers/issues/13761"
GPT_NEO = "EleutherAI/gpt-neo, README.md, model evaluations"
NANOCHAT = "karpathy/nanochat, dev/estimate_gpt3_core.ipynb, quoting the GPT-3 paper"

_HELLASWAG, _LAMBADA, _MMLU = 10_042, 5_153, 14_042

_LINES = (
    _Line("gpt2", "lambada", "paper", "acc", (0.4599, 0.5548, 0.6012, 0.6324), GPT2, _LAMBADA),
    _Line("gpt2", "lambada", "paper", "perplexity", (35.13, 15.60, 10.87, 8.63), GPT2, _LAMBADA),
    _Line("gpt2", "cbt_cn", "paper", "acc", (0.8765, 0.9235, 0.9345, 0.9330), GPT2),
    _Line("gpt2", "cbt_ne", "paper", "acc", (0.834, 0.871, 0.880, 0.8905), GPT2),
    _Line("gpt2", "wikitext2", "paper", "perplexity", (29.41, 22.76, 19.93, 18.34), GPT2),
    _Line("gpt2", "ptb", "paper", "perplexity", (65.85, 47.33, 40.31, 35.76), GPT2),
    _Line("gpt2", "enwik8", "paper", "bits_per_byte", (1.16, 1.01, 0.97, 0.93), GPT2),
    _Line("gpt2", "text8", "paper", "bits_per_character", (1.17, 1.06, 1.02, 0.98), GPT2),
    _Line("gpt2", "wikitext103", "paper", "perplexity", (37.50, 26.37, 22.05, 17.48), GPT2),
    _Line("gpt2", "one_billion_words", "paper", "perplexity", (75.20, 55.72, 44.575, 42.16), GPT2),
    _Line("gpt2", "hellaswag", "completion", "acc", (0.2859, None, None, 0.3842), COMPLETION, _HELLASWAG),
    _Line("gpt2", "hellaswag", "completion", "acc_norm", (0.2955, None, None, 0.4893), COMPLETION, _HELLASWAG),
    _Line("gpt2", "hellaswag", "completion", "acc_norm", (0.294463, 0.375224, 0.431986, 0.488946), NOTEBOOK, _HELLASWAG),
    _Line("gpt2", "hellaswag", "harness", "acc", (0.2892, None, None, 0.4004), HARNESS, _HELLASWAG),
    _Line("gpt2", "hellaswag", "harness", "acc_norm", (0.3114, None, None, 0.5089), HARNESS, _HELLASWAG),
    _Line("gpt2", "mmlu", "completion", "acc", (0.2557, None, None, 0.2927), MMLU, _MMLU),
    _Line("gpt2", "mmlu", "completion", "acc_norm", (0.2721, None, None, 0.3035), MMLU, _MMLU),
    _Line("gpt2", "lambada", "harness", "acc", (0.3256,), ISSUE_2159, _LAMBADA, stderrs=(0.0065,)),
    _Line("gpt2", "lambada", "harness", "perplexity", (40.0554,), ISSUE_2159, _LAMBADA, stderrs=(1.4787,)),
    _Line("gpt2", "lambada", "harness", "acc", (None, None, None, 0.5121), GPT_NEO, _LAMBADA),
    _Line("gpt2", "lambada", "harness", "perplexity", (None, None, None, 10.634), GPT_NEO, _LAMBADA),
    _Line("gpt2", "wikitext2", "harness", "word_perplexity", (37.37,), ISSUE_13761),
    _Line("gpt2", "wikitext2", "harness", "word_perplexity", (None, None, None, 17.48), GPT_NEO),
    _Line("gpt2", "wikitext2", "windows", "perplexity", (29.94,), ISSUE_13761),
    _Line("gpt2", "winogrande", "harness", "acc", (None, None, None, 0.5940), GPT_NEO),
    _Line("gpt2", "piqa", "harness", "acc", (None, None, None, 0.7078), GPT_NEO),
    _Line("gpt2", "fineweb", "validation", "val_loss", (3.424958, 3.083089, 3.000580, 2.831273), NOTEBOOK),
    _Line("gpt2", "fineweb-edu", "validation", "val_loss", (3.2924,), "karpathy/build-nanogpt, play.ipynb"),
    _Line("gpt2", "openwebtext", "validation", "val_loss", (3.12, 2.84, 2.67, 2.54), "karpathy/nanoGPT, README.md, baselines"),
    _Line("gpt3", "hellaswag", "paper", "acc", (0.337, 0.436, 0.510, 0.547, 0.628, 0.674, 0.709, 0.789), GPT3, _HELLASWAG),
    _Line("gpt3", "hellaswag", "paper", "acc", (0.335, 0.431, 0.513, 0.549, 0.629, 0.673, 0.713, 0.793), GPT3, _HELLASWAG, 20),
    _Line("gpt3", "lambada", "paper", "acc", (0.427, 0.543, 0.604, 0.636, 0.671, 0.703, 0.725, 0.762), GPT3, _LAMBADA),
    _Line("gpt3", "lambada", "paper", "perplexity", (18.6, 9.09, 6.53, 5.44, 4.60, 4.00, 3.56, 3.00), GPT3, _LAMBADA),
    _Line("gpt3", "storycloze", "paper", "acc", (0.633, 0.685, 0.724, 0.734, 0.772, 0.777, 0.795, 0.832), GPT3),
    _Line("gpt3", "piqa", "paper", "acc", (0.646, 0.702, None, 0.751, 0.756), GPT_NEO, secondary=True),
    _Line("gpt3", "winogrande", "paper", "acc", (0.520, 0.521, None, 0.587, 0.623), GPT_NEO, secondary=True),
    _Line("gpt3", "piqa", "paper", "acc", (0.643, 0.694, 0.720, 0.743, 0.754, 0.778, 0.799, 0.823), NANOCHAT, None, 50, True),
    _Line("gpt3", "arc_easy", "paper", "acc", (0.427, 0.510, 0.581, 0.591, 0.621, 0.658, 0.691, 0.701), NANOCHAT, None, 50, True),
    _Line("gpt3", "arc_challenge", "paper", "acc", (0.255, 0.284, 0.323, 0.367, 0.395, 0.437, 0.448, 0.515), NANOCHAT, None, 50, True),
)

ROWS: tuple[Row, ...] = tuple(row for line in _LINES for row in line.rows())


def _log(batch_tokens: int, losses: dict[int, float]) -> tuple[Point, ...]:
    """The points of a log that gives the loss by step."""
    return tuple(Point(step * batch_tokens, loss) for step, loss in losses.items())


_HALF_MILLION = 524_288
_SPEEDRUN = "KellerJordan/modded-nanogpt, records/"

RUNS: tuple[Run, ...] = (
    Run(
        "gpt2.124m",
        "llm.c, May 2024",
        "fineweb",
        (Point(18_865 * _HALF_MILLION, 3.29, 0.299),),
        f"karpathy/llm.c, scripts/run_gpt2_124M.sh; loss and HellaSwag as {_SPEEDRUN}track_1_short repeats them from discussion 481",
        "8xA100-80GB",
        hours=94.3 / 60,
        dollars=20.0,
        secondary=True,
    ),
    Run(
        "gpt2.124m",
        "llm.c, October 2024",
        "fineweb",
        _log(
            _HALF_MILLION,
            {2_000: 3.8585, 4_000: 3.6176, 6_000: 3.5069, 8_000: 3.4431, 10_000: 3.3924}
            | {12_000: 3.3509, 14_000: 3.3149, 16_000: 3.2882, 18_000: 3.2746, 19_560: 3.2722},
        ),
        f"{_SPEEDRUN}track_1_short/2024-10-13_llmc/main.log",
        "8xH100",
        hours=0.75,
    ),
    Run(
        "gpt2.124m",
        "AdamW at 1.8e-3, linear warm-down",
        "fineweb",
        _log(
            _HALF_MILLION,
            {1_024: 3.905047, 2_048: 3.684221, 3_072: 3.578257, 4_096: 3.523428, 5_120: 3.489516}
            | {6_144: 3.471418, 7_168: 3.446331, 8_192: 3.386222, 9_216: 3.294698, 9_536: 3.275959},
        ),
        f"{_SPEEDRUN}track_1_short/2024-06-06_AdamW",
        differs="rotary positions",
    ),
    Run(
        "gpt2.124m",
        "build-nanogpt's code, run by D. Saha",
        "fineweb-edu",
        (Point(19_073 * _HALF_MILLION, 3.3969, 0.2699),),
        "https://debtirthasaha.github.io/blog/2026/gpt2-124m/",
        "8xA100",
        dollars=61.23,
    ),
    Run(
        "gpt2.124m",
        "nanoGPT",
        "openwebtext",
        (Point(600_000 * 491_520, 2.85),),
        "karpathy/nanoGPT, README.md and config/train_gpt2.py: about 2.85 in about 4 days",
        "8xA100-40GB",
        hours=96.0,
    ),
    Run(
        "gpt2.355m",
        "llm.c",
        "fineweb",
        _log(
            _HALF_MILLION,
            {4_000: 3.4925, 8_000: 3.2969, 16_000: 3.1533, 24_000: 3.0794, 32_000: 3.0252, 40_000: 2.9812, 48_000: 2.9467, 60_000: 2.9282},
        ),
        f"{_SPEEDRUN}track_2_medium/2025-01-18/main.log, and README.md, track 2",
        "8xH100",
        hours=5.8,
    ),
    Run(
        "gpt2.774m",
        "llm.c",
        "fineweb",
        (Point(286_102 * _HALF_MILLION),),
        "karpathy/llm.c, scripts/run_gpt2_774M.sh; it gives neither loss nor HellaSwag",
        "8xA100-80GB",
        hours=135.0,
        dollars=2000.0,
    ),
    Run(
        "gpt2.1558m",
        "llm.c",
        "fineweb-edu",
        (Point(32_000 * 2 * _HALF_MILLION),),
        "karpathy/llm.c, scripts/run_gpt2_1558M.sh; it gives neither loss nor HellaSwag",
        "8xH100",
        hours=24.0,
        dollars=672.0,
    ),
)
