"""The story of a training run, from settings to a finished model, told as events.

    for event in events(settings, "runs/dawn"):
        print(event)

Every event is also a line of `metrics.jsonl` in the run's folder. Called again on the same folder, a run goes on where its newest
verified checkpoint stands, with the same losses as if it had never stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from daybreak import checkpoint, machine, metrics
from daybreak.corpus import Data
from daybreak.data.batches import Ahead, Batches, validation_windows
from daybreak.data.steps import Steps
from daybreak.evaluating import run_tasks, score_validation
from daybreak.evaluation.score import Score, compressed_bits_per_byte
from daybreak.evaluation.suite import Task, open_tasks
from daybreak.inference.sampling import PredictionFailed
from daybreak.loading import Model, write_model
from daybreak.model import init
from daybreak.model.attention import KERNELS
from daybreak.model.flops import flops_per_token, parameter_count
from daybreak.model.gpt import GPT
from daybreak.opening import across_for, holding, micro_batch, open_folder, own_device, resolve, steps_to_take
from daybreak.settings import Settings
from daybreak.stopping import Stopping
from daybreak.training.guard import Guard, TrainingFailed
from daybreak.training.late import Late
from daybreak.training.loop import Step, train
from daybreak.training.optimizers import make_optimizer
from daybreak.training.parallel import Across, recompute_blocks
from daybreak.training.precision import MixedPrecision
from daybreak.training.schedules import Schedule, warmup_cosine
from daybreak.world import World, is_lost, joined

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

    The last event is `end`, or `stop` after a signal. Started by torchrun, all processes tell the same story and the leading one writes
    it down. Raises ConfigError for settings that cannot work (all told at once), FileProblem for files, RunFailed where the work fails,
    FailedElsewhere where it fails in another process.
    """
    out = Path(out)
    with joined(own_device(settings), settings.machine.patience) as world:
        with world.together():
            settings, data, device, precision, layout = resolve(settings, world)
            tasks = _open_tasks(settings, data)
        with holding(out, world), Stopping() as stopping:
            folder_is_new = open_folder(out, settings, data, world)
            story = _Story(settings, out, data, device, precision, tasks, world, across_for(settings, layout, device, precision, world))
            try:
                yield from story.tell(stopping, folder_is_new)
            except (TrainingFailed, PredictionFailed) as error:
                raise RunFailed(str(error)) from None
            except OSError as error:
                raise RunFailed(
                    f"{out}: {error.strerror or error}; free space or mend the folder, then give the same command to go on"
                ) from None
            except RuntimeError as error:
                if not is_lost(error):
                    raise
                raise RunFailed(
                    f"rank {world.rank}: lost the others at step {story.done}; {world.roll_call()}. The same command goes on from "
                    f"the newest checkpoint ({str(error).splitlines()[0]})"
                ) from None
            finally:
                story.close()


def learning_rates(settings: Settings) -> Schedule:
    """The learning rate of each step: a function of the tokens trained on, laid out for all of `train_tokens`, wherever the run stops."""
    plan = settings.train
    steps = Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens)
    floor = plan.learning_rate * plan.final_learning_rate
    end = plan.decay_tokens or steps.before(steps.count(plan.train_tokens))
    return warmup_cosine(plan.learning_rate, floor, plan.warmup_tokens, end)


class Tasks(NamedTuple):
    """What is run while training, and what at the end."""

    training: list[Task]
    final: list[Task]


def _open_tasks(settings: Settings, data: Data) -> Tasks:
    wanted = settings.eval
    folder = None if wanted.task_files is None else Path(wanted.task_files)
    if not wanted.tasks:
        return Tasks([], [])
    return Tasks(open_tasks(wanted.tasks, data.tokenizer, folder, wanted.task_items), open_tasks(wanted.tasks, data.tokenizer, folder))


class _Story:
    """One run in memory: what it works with, and the parts of its story."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        data: Data,
        device: torch.device,
        precision: machine.Precision,
        tasks: Tasks,
        world: World,
        ways: Across,
    ) -> None:
        self.settings, self.out, self.data, self.device, self.tasks = settings, out, data, device, tasks
        self.world, self.across = world, ways
        if device.type == "cpu":
            machine.prepare_cpu(settings.machine.threads)
        machine.seed_everything(settings.train.seed, world.rank)
        shape, plan = settings.model, settings.train
        self.facts = {
            "parameters": parameter_count(shape),
            "flops_per_token": flops_per_token(shape),
            **machine.facts(device, precision),
            "layout": ways.layout,
            "devices": world.size,
        }
        self.gpt = self._build()
        self.optimizer = make_optimizer(
            plan.optimizer, self.gpt, weight_decay=plan.weight_decay, betas=(plan.beta1, plan.beta2), epsilon=plan.epsilon
        )
        self.precision = MixedPrecision(precision, device)
        self.guard = Guard(device)
        self.batches = Batches(
            data.train,
            context_length=shape.context_length,
            batch_tokens=Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens),
            micro_batch=plan.micro_batch
            or micro_batch(plan.batch_start_tokens or plan.batch_tokens, shape.context_length, device, world.size),
            seed=plan.seed,
            rank=world.rank,
            world_size=world.size,
        )
        self.ahead = Ahead(self.batches, device)
        self.model = Model(self.gpt, data.tokenizer)
        self.metrics = metrics.MetricsFile(out / "metrics.jsonl") if world.leads else None
        self.steps = steps_to_take(settings)
        self.done = self.stopped_by = 0

    @property
    def tokens(self) -> int:
        """Trained on so far."""
        return self.batches.steps.before(self.done)

    def tell(self, stopping: Stopping, new: bool) -> Iterator[Event]:
        """The whole story."""
        yield self._begin(new)
        yield from self._train(stopping)
        if self.stopped_by and self.done < self.steps:
            yield self._save()
            yield self.event("stop", reason=signal.Signals(self.stopped_by).name, signal=self.stopped_by)
            return
        stopping.release()  # the weights are final and about to be saved; from here on Ctrl-C may simply interrupt
        yield self._save()
        yield from self._finish()

    def close(self) -> None:
        """Ends the reading thread and the metrics file."""
        self.ahead.close()
        if self.metrics is not None:
            self.metrics.close()

    def _build(self) -> GPT:
        """The model, or this process's part of it, with no weights yet."""
        with torch.device("meta"):
            gpt = GPT(self.settings.model, KERNELS[self.settings.machine.attention])
        if self.settings.machine.recompute:
            recompute_blocks(gpt)
        self.across.place(gpt)
        gpt.to_empty(device=self.device)
        if self.settings.machine.compile:
            for block in gpt.blocks:
                block.compile()
        return gpt

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
            init.initialize(self.gpt, self.settings.train.seed, self.across.write)
            return self.event("start", **plan)
        self.done = restored.step
        self.guard.load_state_dict(restored.state["guard"])
        self.precision.load_state_dict(restored.state["precision"])
        return self.event("resume", **plan, path=str(restored.path), rejected=list(restored.rejected))

    def _train(self, stopping: Stopping) -> Iterator[Event]:
        settings = self.settings
        self.saved_at = self.told_at = time.monotonic()
        prompts = settings.sample.prompts or ("",)
        late: Late[Step] = Late(self.device)
        steps = train(
            self.gpt,
            self.optimizer,
            self.ahead,
            learning_rates(settings),
            steps=self.steps,
            start=self.done,
            max_norm=settings.train.grad_clip,
            precision=self.precision,
            guard=self.guard,
            across=self.across,
        )
        for step in steps:
            self.done = step.number + 1
            self.world.note(self.done)
            yield from map(self._told, late.put(step, step.verdict.figures))
            stop, save = self.world.highest(stopping.signal or 0, int(self._save_is_due()))  # the same for all processes
            evaluate, sample = self._passes(settings.eval.every_tokens), self._passes(settings.sample.every_tokens)
            tasks = bool(self.tasks.training) and self._passes(settings.eval.tasks_every_tokens)
            if not (stop or save or evaluate or sample or tasks or self.done == self.steps):
                continue
            yield from map(self._told, late.rest())
            if evaluate:
                yield self._evaluate(settings.eval.tokens)
            if tasks:
                yield self._run_tasks(self.tasks.training)
            if sample:
                turn = self.tokens // settings.sample.every_tokens - 1  # the same after a resume
                yield self._sample(prompts[turn % len(prompts)], turn)
            if stop:
                self.stopped_by = stop
                return
            if save and self.accepted:  # a run that may have diverged does not push out what it could go back to
                yield self._save()
                self.saved_at = time.monotonic()
            self.told_at = time.monotonic()  # what was done in between counts for no step

    def _told(self, step_and_figures: tuple[Step, list[float]]) -> Event:
        """A step as an event, once its figures have come from the device."""
        step, figures = step_and_figures
        told = self.guard.tell(step.number, figures)
        now = time.monotonic()
        speed = self.batches.steps.batch(step.number) / (now - self.told_at)
        self.told_at, self.accepted = now, told.accepted
        where = {"step": step.number + 1, "tokens": step.tokens, "loss": told.loss, "grad_norm": told.grad_norm}
        if told.accepted:
            return self.event("step", **where, learning_rate=step.learning_rate, tokens_per_second=round(speed, 1))
        event = self.event("skip", **where, reason=told.reason)
        if told.trouble is not None:
            raise TrainingFailed(f"step {step.number + 1}: {told.trouble.said}; begin a new run with a lower train.learning_rate")
        return event

    def _save_is_due(self) -> bool:
        return self.done < self.steps and time.monotonic() - self.saved_at > self.settings.checkpoint.every_seconds

    def _finish(self) -> Iterator[Event]:
        """Evaluates on the whole validation text, writes the samples and the model."""
        for turn, prompt in enumerate(self.settings.sample.prompts):
            yield self._sample(prompt, self.done + turn)
        most_tokens = self.settings.eval.final_tokens
        if self.tasks.final:
            yield self._run_tasks(self.tasks.final)
        result, text = self._score(most_tokens), self._validation_text(most_tokens)
        write_model(self.out / "model", self.gpt, self.data.tokenizer)
        yield self.event(
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

    def _evaluate(self, most_tokens: int | None) -> Event:
        return self.event("eval", **_figures(self._score(most_tokens)))

    def _score(self, most_tokens: int | None) -> Score:
        with _plainly():
            return score_validation(self.gpt, self.data, self.precision, self.batches.micro_batch, most_tokens, self.world, self.across)

    def _run_tasks(self, tasks: Sequence[Task]) -> Event:
        with _plainly():
            return self.event("tasks", tasks=run_tasks(tasks, self.gpt, self.precision, self.world, self.across))

    def _sample(self, prompt: str, turn: int) -> Event:
        wanted, seed = self.settings.sample, self.settings.train.seed + turn  # another one each time, lest the samples resemble each other
        text = ""
        if self.world.leads or self.across.divided:  # of a model that is divided every pass needs all; all write the same
            self.gpt.eval()
            with _plainly():
                pieces = self.model.write(
                    prompt, max_tokens=wanted.max_tokens, temperature=wanted.temperature, top_k=wanted.top_k, seed=seed
                )
                text = "".join(pieces)
        return self.event("sample", prompt=prompt, text=text)

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
                "guard": self.guard.state_dict(),
            },
            keep=self.settings.checkpoint.keep,
        )
        return self.event("checkpoint", path=str(path), seconds=round(time.monotonic() - started, 3))

    def event(self, kind: str, **values: Any) -> Event:
        """Something that happened, written down by the leading process."""
        event = {"event": kind, "step": self.done, "tokens": self.tokens, "time": round(time.time(), 3), **values}
        if self.metrics is not None:
            self.metrics.write(event)
        return event


def _plainly() -> Any:
    """Blocks that are compiled run as they are written: the shapes here change from call to call, and compiling for each takes longer."""
    return torch.compiler.set_stance("force_eager")


def _figures(result: Score) -> Event:
    return {**{name: round(value, 6) for name, value in result.figures().items()}, "val_tokens": result.tokens}
