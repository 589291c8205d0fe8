"""Everything that a run can be told, as one tree of frozen dataclasses.

A recipe returns a `Settings`; `path=value` edits change it; `settings.json` in the run's folder keeps it. Below `story.py` nothing sees
the whole tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from daybreak.data.steps import indivisible, ramp_problem
from daybreak.model.config import GPTConfig


@dataclass(frozen=True)
class DataSettings:
    """What to train on."""

    dir: str = "data/demo"
    """The folder that `daybreak data prepare` wrote."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Tokens are the unit of batch size and duration."""

    train_tokens: int = 10_000_000_000
    """How many tokens to train on, over as many epochs as that takes; the schedules are laid out for them."""
    budget_seconds: float | None = None
    """For how long to train, resumes included, if train_tokens do not come first; the schedule follows whichever is nearer to its end. Such
    a run is not repeatable, since it learns as much as the machine is fast. none sets no limit."""
    stop_tokens: int | None = None
    """Stop, evaluate and write the model after so many tokens, with the schedules as they are; none goes on to train_tokens."""
    batch_tokens: int = 524_288
    """How many tokens make one step of the optimizer, on all devices together."""
    batch_start_tokens: int | None = None
    """How many the first step has, where the batch is to grow; it grows by multiples of this. none keeps batch_tokens throughout."""
    batch_ramp_tokens: int = 0
    """Over how many tokens the batch grows, in a straight line, from batch_start_tokens to batch_tokens."""
    micro_batch: int | None = None
    """How many sequences one device computes at once; none chooses. The result does not depend on it, but for rounding."""
    learning_rate: float = 6e-4
    """The highest learning rate, reached at the end of the warm-up."""
    schedule: Literal["cosine", "linear", "wsd", "wsd-sqrt"] = "cosine"
    """What follows the warm-up: half a cosine or a straight line down; or, in wsd, the highest rate, then a straight line down over the
    last decay_share of the run, or 1 - sqrt. A wsd run may be sent on with another train_tokens as long as its decay has not begun."""
    decay_share: float = 0.4
    """Over which share of the run, at its end, a wsd schedule goes down."""
    final_learning_rate: float = 0.1
    """What the schedule decays to, as a share of learning_rate."""
    warmup_tokens: int = 375_000_000
    """Over how many tokens the learning rate rises from zero."""
    decay_tokens: int | None = None
    """At how many tokens the schedule reaches its end; none takes train_tokens."""
    optimizer: Literal[
        "adamw",
        "adamw-plain",
        "adam",
        "adam-plain",
        "sgd",
        "sgd-plain",
        "momentum",
        "momentum-plain",
        "nesterov",
        "nesterov-plain",
        "rmsprop",
        "rmsprop-plain",
        "lion",
        "muon",
        "normuon",
    ] = "adamw"
    """adamw and its like are torch's kernels, what ends in -plain is the same written out to be read. The muons train the matrices in the
    blocks and leave the rest to adamw."""
    beta1: float = 0.9
    """Adam's memory of the gradient, and AdamW's and Lion's."""
    beta2: float = 0.95
    """Adam's memory of the squared gradient, and AdamW's, RMSprop's and NorMuon's; Lion's of the gradient."""
    epsilon: float = 1e-8
    """Added to the denominator of AdamW, Adam and RMSprop."""
    momentum: float = 0.95
    """The memory of momentum, nesterov and the muons."""
    momentum_warmup: int = 0
    """Over how many steps the muons' momentum rises from 0.85; early gradients change fast."""
    muon_learning_rate: float = 0.02
    """The highest learning rate of what the muons train; it follows the schedule, as learning_rate does, which is then for the rest."""
    embedding_scale: float = 1.0
    """What learning_rate is multiplied with for the embeddings."""
    head_scale: float = 1.0
    """What learning_rate is multiplied with for a head of its own."""
    vector_scale: float = 1.0
    """What learning_rate is multiplied with for biases, gains and other scalars."""
    weight_decay: float = 0.1
    """Weight decay of matrices and embeddings, times the learning rate of each, with the muons of what they train alone; in adam, rmsprop
    and the sgds part of the gradient."""
    grad_clip: float = 1.0
    """The gradient is scaled down to this length where it is longer; 0 never."""
    z_loss: float = 0.0
    """How much log² Z of each softmax is added to the loss, as in PaLM (1e-4), lest the logits drift away; 0 adds none."""
    spike: float | None = 8.0
    """A step is left out if its loss or gradient norm lies this many robust deviations above the last 128; none looks for no spikes."""
    most_rollbacks: int = 2
    """How often the run may go back to before a trouble and leave out its data, before it fails."""
    seed: int = 1337
    """Decides the initial weights, the order of the data and the dropout."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        for name in ("train_tokens", "batch_tokens"):
            if (value := getattr(self, name)) < 1:
                yield name, f"wanted at least 1, came {value}"
        for name in ("micro_batch", "decay_tokens", "stop_tokens", "batch_start_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                yield name, f"wanted at least 1 or none, came {value}"
        for name in ("learning_rate", "epsilon", "muon_learning_rate", "embedding_scale", "head_scale", "vector_scale"):
            if (number := getattr(self, name)) <= 0:
                yield name, f"wanted more than 0, came {number}"
        if not 0 <= self.seed < 2**63:
            yield "seed", f"wanted 0 or more and less than 2^63, came {self.seed}"
        if self.budget_seconds is not None and self.budget_seconds <= 0:
            yield "budget_seconds", f"wanted more than 0 seconds or none, came {self.budget_seconds}"
        if self.spike is not None and self.spike <= 0:
            yield "spike", f"wanted more than 0 or none, came {self.spike}"
        for name in ("weight_decay", "grad_clip", "warmup_tokens", "batch_ramp_tokens", "most_rollbacks", "z_loss", "momentum_warmup"):
            if (number := getattr(self, name)) < 0:
                yield name, f"wanted 0 or more, came {number}"
        if not 0 <= self.final_learning_rate <= 1:
            yield "final_learning_rate", f"wanted a share of learning_rate from 0 to 1, came {self.final_learning_rate}"
        if not 0 < self.decay_share <= 1:
            yield "decay_share", f"wanted a share of the run, more than 0 and at most 1, came {self.decay_share}"
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= (number := getattr(self, name)) < 1:
                yield name, f"wanted 0 or more and less than 1, came {number}"
        sound = min(self.batch_tokens, self.batch_start_tokens or 1) >= 1 and self.batch_ramp_tokens >= 0
        if sound and (problem := ramp_problem(self.batch_tokens, self.batch_start_tokens, self.batch_ramp_tokens)):
            yield "batch_start_tokens" if self.batch_start_tokens else "batch_ramp_tokens", problem
        decay = self.train_tokens if self.decay_tokens is None else self.decay_tokens
        if self.warmup_tokens > decay >= 1:
            end = "train_tokens" if self.decay_tokens is None else "decay_tokens"
            yield "warmup_tokens", f"wanted at most {end} = {decay:,}, came {self.warmup_tokens:,}; set it lower, such as {decay // 20:,}"


@dataclass(frozen=True)
class EvalSettings:
    """When to look at the validation text, and at how much of it."""

    every_tokens: int = 131_072_000
    """How many training tokens lie between two evaluations."""
    tokens: int = 10_485_760
    """How many validation tokens an evaluation during training reads, always the same ones."""
    final_tokens: int | None = None
    """How many the evaluation at the end reads; none reads all."""
    probe_every_tokens: int | None = None
    """How many training tokens lie between two looks at each layer's gradient and largest attention logit; none never looks."""
    tasks: tuple[str, ...] = ()
    """Tasks to run while training and at the end, such as hellaswag,lambada; `daybreak eval --help` names all."""
    tasks_every_tokens: int = 524_288_000
    """How many training tokens lie between two runs of the tasks."""
    task_items: int | None = 1000
    """How many items of each task are run while training, always the same ones; none runs all, as the end does."""
    task_files: str | None = None
    """The folder that has the tasks' files; none looks in the cache, then downloads."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        for name in ("every_tokens", "tokens", "final_tokens", "tasks_every_tokens", "task_items", "probe_every_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                yield name, f"wanted at least 1, came {value}"


@dataclass(frozen=True)
class SampleSettings:
    """What the model writes while it learns."""

    every_tokens: int = 131_072_000
    """How many training tokens lie between two samples."""
    prompts: tuple[str, ...] = ("The",)
    """How the samples begin; one is written at a time, all at the end."""
    max_tokens: int = 64
    """How long a sample may get."""
    temperature: float = 0.8
    """As in `daybreak sample`."""
    top_k: int | None = 50
    """As in `daybreak sample`."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if self.every_tokens < 1:
            yield "every_tokens", f"wanted at least 1, came {self.every_tokens}"
        if self.max_tokens < 1:
            yield "max_tokens", f"wanted at least 1, came {self.max_tokens}"
        if self.temperature < 0:
            yield "temperature", f"wanted 0 or more, came {self.temperature}"
        if self.top_k is not None and self.top_k < 1:
            yield "top_k", f"wanted at least 1 or none, came {self.top_k}"


@dataclass(frozen=True)
class CheckpointSettings:
    """How a run survives being stopped."""

    every_seconds: float = 900.0
    """A checkpoint is written this often, and at the end, on Ctrl-C and on SIGTERM."""
    keep: int = 2
    """How many of the newest checkpoints that verify stay on disk; at least two."""
    permanent_every_tokens: int | None = None
    """One checkpoint for every so many tokens stays for ever; none keeps only the newest."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if self.every_seconds <= 0:
            yield "every_seconds", f"wanted more than 0, came {self.every_seconds}"
        if self.keep < 2:
            yield "keep", f"wanted at least 2, as one may not survive its disk, came {self.keep}"
        if self.permanent_every_tokens is not None and self.permanent_every_tokens < 1:
            yield "permanent_every_tokens", f"wanted at least 1 or none, came {self.permanent_every_tokens}"


@dataclass(frozen=True)
class MachineSettings:
    """What to compute on. These change speed and rounding, not what is learned."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """The number format of matrix products; auto takes what the device does really well. tf32 is fp32 with factors of 10 bits, on CUDA."""
    threads: int | None = None
    """How many CPU threads to compute with; none leaves it to torch."""
    attention: Literal["auto", "rule", "fused", "plain", "daybreak"] = "auto"
    """The attention kernel; auto tries which is the quickest for the shape, once on each machine, rule takes the one expected to be so.
    fused is torch's. daybreak is our FlashAttention, in Triton on CUDA and slow elsewhere; with dropout, which it lacks, fused."""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    """Under torchrun: a copy on each device, shards over all, or shards within a node and copies between; auto by the model's size."""
    recompute: bool = False
    """Keep only each block's input and compute the rest again in the backward pass: less memory, about a third more work."""
    loss_chunk: int | None = None
    """How many tokens' logits are in fp32 at once, which saves memory and, in 16 bits, some time; 0 takes all of a micro-batch's, none
    chooses."""
    compile: bool = False
    """Compile each block with torch.compile; the first step takes longer, the others less."""
    limit_seconds: float | None = None
    """Save and stop after so long, to be resumed; for machines that are lent for a time."""
    patience: float = 600.0
    """Under torchrun: how many seconds a process waits for the others before it gives up."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", self.device):
            yield "device", f"wanted auto, cpu, cuda, cuda:N or mps, came '{self.device}'"
        for name in ("patience", "limit_seconds"):
            if (seconds := getattr(self, name)) is not None and seconds <= 0:
                yield name, f"wanted more than 0 seconds, came {seconds}"
        if self.loss_chunk is not None and self.loss_chunk < 0:
            yield "loss_chunk", f"wanted 0 or more or none, came {self.loss_chunk}"
        if self.threads is not None and self.threads < 1:
            yield "threads", f"wanted at least 1 or none, came {self.threads}"


@dataclass(frozen=True)
class LogSettings:
    """Where else the events of a run go, besides its metrics.jsonl."""

    tensorboard: bool = False
    """Write TensorBoard's files too; `tensorboard --logdir RUN_DIR/tensorboard` shows them."""
    wandb: str | None = None
    """The project of Weights & Biases, or TEAM/PROJECT, to send the run to; without a network it is kept to be sent later."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if self.wandb is not None and not re.fullmatch(r"([\w-]+/)?[^/\\#?%:]{1,128}", self.wandb):
            yield "wandb", f"wanted a project, or TEAM/PROJECT, without any of /\\#?%: in its name, came '{self.wandb}'"


@dataclass(frozen=True)
class CardSettings:
    """What the model card says that only its author knows."""

    license: str | None = None
    """The licence of the weights, such as mit or apache-2.0; none leaves it to be filled in."""
    language: str | None = None
    """The language of the text, such as en; none leaves it out."""


@dataclass(frozen=True)
class Settings:
    """A whole run."""

    recipe: str = "gpt2.124m"
    """The recipe that these settings began as."""
    model: GPTConfig = field(default_factory=GPTConfig)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    log: LogSettings = field(default_factory=LogSettings)
    card: CardSettings = field(default_factory=CardSettings)

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong between the parts, as (field, sentence)."""
        shape, plan = self.model, self.train
        first = "batch_tokens" if plan.batch_start_tokens is None else "batch_start_tokens"  # what divides it divides all that follow
        if plan.z_loss and self.machine.loss_chunk:
            yield (
                "machine.loss_chunk",
                f"wanted none or 0 beside train.z_loss = {plan.z_loss:g}, which needs whole logits, came {self.machine.loss_chunk}",
            )
        if shape.width_base is not None and plan.optimizer.startswith(("sgd", "momentum", "nesterov")):
            yield (
                "train.optimizer",
                f"wanted one whose steps do not follow the gradient's size beside model.width_base, came {plan.optimizer}; such as adamw",
            )
        sizes = (getattr(plan, first), shape.context_length, plan.micro_batch or 1)
        if min(sizes) >= 1 and (problem := indivisible(*sizes)):
            yield f"train.{first}", problem


def decides_result(path: str) -> bool:
    """Whether a setting decides what is learned: a resumed run refuses to differ in those.

    Where the data lie does not (their fingerprint is compared), nor how a batch is divided (but for rounding and dropout), nor where
    the run stops on its way.
    """
    return path.startswith(("model.", "train.")) and path not in ("train.micro_batch", "train.stop_tokens")


_LARGE_VOCABULARY = 32_768
_LOSS_CHUNK = 1024


def loss_chunk(settings: Settings, precision: str) -> int | None:
    """How many tokens' logits are in fp32 at once in a number format; None for all of a micro-batch's.

    In 16 bits and with a vocabulary as GPT-2's chunks take a sixth of the memory and a little less time (benchmarks/loss.py); with a small
    one many small kernels may cost more than they save. In fp32 each chunk's logits are computed twice, so somebody has to ask for it.
    """
    if (wanted := settings.machine.loss_chunk) is not None:
        return wanted or None
    whole = settings.train.z_loss or settings.model.logit_softcap  # which need all logits in one piece
    pays = precision in ("bf16", "fp16") and settings.model.tokens >= _LARGE_VOCABULARY
    return _LOSS_CHUNK if pays and not whole else None
