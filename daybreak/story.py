"""The story of a training run, from settings to a finished model, told as events.

    for event in events(settings, "runs/dawn"):
        print(event)

Every event is also a line of `metrics.jsonl` in the run's folder. Called again on the same folder, a run goes on where its newest
verified checkpoint stands, with the same losses as if it had never stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daybreak import checkpoint, config, machine, metrics
from daybreak.corpus import Data
from daybreak.data.batches import Ahead, Batches, validation_windows
from daybreak.data.steps import Steps
from daybreak.evaluation.score import Score, compressed_bits_per_byte, score
from daybreak.inference.sampling import PredictionFailed
from daybreak.loading import Model, write_model
from daybreak.model import init
from daybreak.model.attention import KERNELS
from daybreak.model.flops import flops_per_token, parameter_count
from daybreak.model.gpt import GPT
from daybreak.opening import holding, micro_batch, open_folder, resolve, steps_to_take
from daybreak.settings import Settings
from daybreak.stopping import Stopping
from daybreak.training.guard import Guard, TrainingFailed
from daybreak.training.loop import Step, train
from daybreak.training.optimizers import make_optimizer
from daybreak.training.precision import MixedPrecision
from daybreak.training.schedules import Schedule, warmup_cosine

Event = dict[str, Any]

_MOST_COMPRESSED_BYTES = 32 << 20  # xz -9 takes about a second a megabyte


class RunFailed(RuntimeError):
    """The work itself failed, not the request; the message says what helps."""


def run(settings: Settings, out: str | Path, show: Callable[[Event], None] | None = None) -> Event:
    """Trains to the end, or until a signal stops it, and returns the last event; `show` is called with each event."""
    last: Event = {}
    for last in events(settings, out):
        if show is not None:
            show(last)
    return last


def events(settings: Settings, out: str | Path) -> Iterator[Event]:
    """Trains, evaluates, samples, saves; yields what happens as it happens.

    The last event is `end`, or `stop` after SIGINT or SIGTERM. Raises ConfigError for settings that cannot work (all told at
    once), FileProblem for files, RunFailed where the work fails.
    """
    out = Path(out)
    settings, data, device, precision = resolve(settings)
    with holding(out), Stopping() as stopping:
        folder_is_new = open_folder(out, settings, data)
        story = _Story(settings, out, data, device, precision)
        try:
            yield from story.tell(stopping, folder_is_new)
        except (TrainingFailed, PredictionFailed) as error:
            raise RunFailed(str(error)) from None
        except OSError as error:
            raise RunFailed(
                f"{out}: {error.strerror or error}; free space or mend the folder, then give the same command to go on"
            ) from None
        finally:
            story.close()


def evaluate(model: Model, data: Data) -> Score:
    """Scores a loaded model on the whole validation text of prepared data. Raises ConfigError if their tokenizers differ."""
    if model.tokenizer.fingerprint != data.tokenizer.fingerprint:
        names = f"wanted the model's {model.tokenizer.name} tokenizer, came another ({data.tokenizer.name})"
        raise config.ConfigError([f"{data.folder}: {names}; prepare the text again with --tokenizer MODEL_DIR"])
    precision = MixedPrecision(machine.choose_precision(model.device), model.device)
    return score_validation(model.gpt, data, precision, batch=micro_batch(8192, model.config.context_length, model.device))


def score_validation(gpt: GPT, data: Data, precision: MixedPrecision, batch: int, most_tokens: int | None = None) -> Score:
    """Scores a GPT on the fixed validation windows, all of them or the first `most_tokens` tokens."""
    gpt.eval()

    def predict(tokens: Tensor) -> Tensor:
        with precision.autocast():
            logits: Tensor = gpt(tokens)
        return logits

    windows = validation_windows(data.val, gpt.config.context_length, most_tokens)
    return score(predict, data.val, windows, data.tokenizer.byte_lengths(), device=precision.device, batch=batch)


def learning_rates(settings: Settings) -> Schedule:
    """The learning rate of each step: a function of the tokens trained on, laid out for all of `train_tokens`, wherever the run stops."""
    plan = settings.train
    steps = Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens)
    floor = plan.learning_rate * plan.final_learning_rate
    end = plan.decay_tokens or steps.before(steps.count(plan.train_tokens))
    return warmup_cosine(plan.learning_rate, floor, plan.warmup_tokens, end)


class _Story:
    """One run in memory: what it works with, and the parts of its story."""

    def __init__(self, settings: Settings, out: Path, data: Data, device: torch.device, precision: machine.Precision) -> None:
        self.settings, self.out, self.data, self.device = settings, out, data, device
        if device.type == "cpu":
            machine.prepare_cpu(settings.machine.threads)
        machine.seed_everything(settings.train.seed)
        shape, plan = settings.model, settings.train
        self.facts = {
            "parameters": parameter_count(shape),
            "flops_per_token": flops_per_token(shape),
            **machine.facts(device, precision),
        }
        self.gpt = init.build(shape, plan.seed, device, KERNELS[settings.machine.attention])
        self.optimizer = make_optimizer(
            plan.optimizer, self.gpt, weight_decay=plan.weight_decay, betas=(plan.beta1, plan.beta2), epsilon=plan.epsilon
        )
        self.precision = MixedPrecision(precision, device)
        self.guard = Guard()
        self.batches = Batches(
            data.train,
            context_length=shape.context_length,
            batch_tokens=Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens),
            micro_batch=plan.micro_batch or micro_batch(plan.batch_start_tokens or plan.batch_tokens, shape.context_length, device),
            seed=plan.seed,
        )
        self.ahead = Ahead(self.batches, device)
        self.model = Model(self.gpt, data.tokenizer)
        self.metrics = metrics.MetricsFile(out / "metrics.jsonl")
        self.steps = steps_to_take(settings)
        self.done = 0

    @property
    def tokens(self) -> int:
        """Trained on so far."""
        return self.batches.steps.before(self.done)

    def tell(self, stopping: Stopping, new: bool) -> Iterator[Event]:
        """The whole story."""
        yield self._begin(new)
        yield from self._train(stopping)
        if stopping.signal is not None and self.done < self.steps:
            yield self._save()
            yield self._event("stop", reason=signal.Signals(stopping.signal).name, signal=stopping.signal)
            return
        stopping.release()  # the weights are final and about to be saved; from here on Ctrl-C may simply interrupt
        yield self._save()
        yield from self._finish()

    def close(self) -> None:
        """Ends the reading thread and the metrics file."""
        self.ahead.close()
        self.metrics.close()

    def _begin(self, new: bool) -> Event:
        restored = None if new else checkpoint.restore(self.out, self.gpt, self.optimizer)
        plan = {
            **self.facts,
            "steps": self.steps,
            "train_tokens": (tokens := self.batches.steps.before(self.steps)),
            "epochs": round(tokens / self.batches.context_length / self.batches.windows, 2),
            "micro_batch": self.batches.micro_batch,
            "val_tokens": len(self.data.val),
        }
        if restored is None:
            return self._event("start", **plan)
        self.done = restored.step
        self.guard.skipped_in_a_row = restored.state["skipped_in_a_row"]
        self.precision.load_state_dict(restored.state["precision"])
        return self._event("resume", **plan, path=str(restored.path), rejected=list(restored.rejected))

    def _train(self, stopping: Stopping) -> Iterator[Event]:
        settings, saved_at, last = self.settings, time.monotonic(), time.monotonic()
        schedule = learning_rates(settings)
        prompts = settings.sample.prompts or ("",)
        steps = train(
            self.gpt,
            self.optimizer,
            self.ahead,
            schedule,
            steps=self.steps,
            start=self.done,
            max_norm=settings.train.grad_clip,
            precision=self.precision,
            guard=self.guard,
        )
        for step in steps:
            self.done = step.number + 1
            yield self._step_event(step, time.monotonic() - last)
            if self._passes(settings.eval.every_tokens):
                yield self._evaluate(settings.eval.tokens)
            if self._passes(settings.sample.every_tokens):
                turn = self.tokens // settings.sample.every_tokens - 1  # the same after a resume
                yield self._sample(prompts[turn % len(prompts)], turn)
            if stopping.signal is not None:
                return
            due = time.monotonic() - saved_at > settings.checkpoint.every_seconds and self.done < self.steps
            if due and step.accepted:  # a run that may have diverged does not push out what it could go back to
                yield self._save()
                saved_at = time.monotonic()
            last = time.monotonic()

    def _finish(self) -> Iterator[Event]:
        """Evaluates on the whole validation text, writes the samples and the model."""
        for turn, prompt in enumerate(self.settings.sample.prompts):
            yield self._sample(prompt, self.done + turn)
        most_tokens = self.settings.eval.final_tokens
        result, text = self._score(most_tokens), self._validation_text(most_tokens)
        write_model(self.out / "model", self.gpt, self.data.tokenizer)
        yield self._event(
            "end", **_figures(result), val_bytes=result.text_bytes, compressors=compressed_bits_per_byte(text), run=str(self.out)
        )

    def _validation_text(self, most_tokens: int | None) -> bytes:
        """The bytes that the model was scored on, as many as are worth compressing."""
        text = bytearray()
        for start, length in validation_windows(self.data.val, self.batches.context_length, most_tokens):
            text += self.data.tokenizer.decode_bytes(self.data.val.read(start + 1, length))
            if len(text) >= _MOST_COMPRESSED_BYTES:
                break
        return bytes(text)

    def _passes(self, every: int) -> bool:
        """Whether the step just done has crossed a multiple of `every` tokens; the end of the run has its own evaluation."""
        return self.done < self.steps and self.tokens // every > self.batches.steps.before(self.done - 1) // every

    def _step_event(self, step: Step, seconds: float) -> Event:
        loss, grad_norm = float(step.loss), float(step.grad_norm)
        if not step.accepted:
            return self._event("skip", reason="the loss or the gradient was not finite", loss=loss, grad_norm=grad_norm)
        speed = self.batches.steps.batch(step.number) / seconds
        return self._event("step", loss=loss, learning_rate=step.learning_rate, grad_norm=grad_norm, tokens_per_second=round(speed, 1))

    def _evaluate(self, most_tokens: int | None) -> Event:
        return self._event("eval", **_figures(self._score(most_tokens)))

    def _score(self, most_tokens: int | None) -> Score:
        return score_validation(self.gpt, self.data, self.precision, self.batches.micro_batch, most_tokens)

    def _sample(self, prompt: str, turn: int) -> Event:
        wanted, seed = self.settings.sample, self.settings.train.seed + turn  # another one each time, lest the samples resemble each other
        self.gpt.eval()
        pieces = self.model.write(prompt, max_tokens=wanted.max_tokens, temperature=wanted.temperature, top_k=wanted.top_k, seed=seed)
        return self._event("sample", prompt=prompt, text="".join(pieces))

    def _save(self) -> Event:
        started = time.monotonic()
        path = checkpoint.save(
            self.out,
            step=self.done,
            tokens=self.tokens,
            model=self.gpt,
            optimizer=self.optimizer,
            state={
                "precision": self.precision.state_dict(),
                "skipped_in_a_row": self.guard.skipped_in_a_row,
            },
            keep=self.settings.checkpoint.keep,
        )
        return self._event("checkpoint", path=str(path), seconds=round(time.monotonic() - started, 3))

    def _event(self, kind: str, **values: Any) -> Event:
        event = {"event": kind, "step": self.done, "tokens": self.tokens, "time": round(time.time(), 3), **values}
        self.metrics.write(event)
        return event


def _figures(result: Score) -> Event:
    return {**{name: round(value, 6) for name, value in result.figures().items()}, "val_tokens": result.tokens}
