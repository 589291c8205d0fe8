"""The story of a training run, from settings to a finished model, told as events.

    for event in events(settings, "runs/dawn"):
        print(event)

Every event is also a line of `metrics.jsonl` in the run's folder. Called again on the same folder, a run goes on where its newest
verified checkpoint stands, with the same losses as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from daybreak import checkpoint, config, machine, metrics, sinks, stepping
from daybreak.choosing import choose
from daybreak.compiling import Stopwatch
from daybreak.corpus import Data
from daybreak.data.batches import validation_windows
from daybreak.evaluating import run_tasks, score_validation
from daybreak.evaluation.score import Score, compressed_bits_per_byte
from daybreak.evaluation.suite import Task, open_tasks
from daybreak.inference.sampling import PredictionFailed
from daybreak.loading import Model, write_model
from daybreak.model.flops import flops_per_token, parameter_count
from daybreak.model.gpt import GPT
from daybreak.opening import across_for, holding, open_folder, own_device, reading_batch, resolve, same_everywhere, steps_to_take
from daybreak.running import Running
from daybreak.settings import Settings
from daybreak.stopping import DONE, STOPPED, Stopping, grace, how, mark, requeue, too_slow
from daybreak.training import garbage
from daybreak.training.guard import TrainingFailed, Troubled
from daybreak.training.late import Late
from daybreak.training.loop import Step
from daybreak.training.pace import Pace
from daybreak.training.probes import Probe
from daybreak.world import FailedElsewhere, briefly, is_lost, joined

Event = dict[str, Any]

_WORTH_TELLING = 0.5
"""Seconds of compiling."""
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
    out, story = Path(out), None
    with joined(own_device(settings), settings.machine.patience) as world:
        try:
            with world.together():
                settings, data, device, precision, layout = resolve(settings, world)
                tasks = _open_tasks(settings, data)
            same_everywhere(settings, data, precision, layout, world)
            with holding(out, world), Stopping(settings.machine.limit_seconds) as stopping:
                folder_is_new = open_folder(out, settings, data, world)
                ways = across_for(settings, layout, device, precision, world)
                if device.type == "cpu":
                    machine.prepare_cpu(settings.machine.threads)
                chosen = choose(settings, device, precision, layout, world, out)
                identity = {"data": data.manifest.fingerprint}
                running = Running(settings, out, data.train, identity, device, precision, world, ways, chosen)
                with contextlib.closing(_Story(running, data, tasks, machine.facts(device, precision))) as story:
                    yield from story.tell(stopping, folder_is_new)
        except (TrainingFailed, PredictionFailed) as error:
            if not world.leads:  # what the leading process says, too
                raise FailedElsewhere(0, str(error)) from None
            raise RunFailed(str(error)) from None
        except OSError as error:
            if story is None:
                raise
            raise RunFailed(
                f"{world.who}{out}: {error.strerror or error}; free space or mend the folder, then give the same command to go on"
            ) from None
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise RunFailed(
                f"{world.who}lost the others at step {0 if story is None else story.running.done}; {world.roll_call()}. The same command "
                f"goes on from the newest checkpoint ({briefly(error)})"
            ) from None


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
    """One run and the parts of its story."""

    def __init__(self, running: Running, data: Data, tasks: Tasks, facts: Event) -> None:
        self.running, self.data, self.tasks = running, data, tasks
        self.settings, self.out, self.world = running.settings, running.out, running.world
        self.model = Model(running.gpt, data.tokenizer)
        self.model.mode = torch.no_grad  # shards gather weights for a sample that training will use
        log = sinks.sinks(self.out, config.to_dict(self.settings), **config.to_dict(self.settings.log)) if self.world.leads else []
        self.metrics = metrics.MetricsFile(self.out / "metrics.jsonl", log) if self.world.leads else None
        self.steps = steps_to_take(self.settings)
        shape = self.settings.model
        self.facts = {"parameters": parameter_count(shape), "flops_per_token": flops_per_token(shape), **facts}
        self.facts |= {"layout": running.across.layout, "devices": self.world.size}
        self.stopped_by = 0
        self.step_seconds = 0.0
        self.stepped = False
        """Whether a step has been taken since this process began."""
        self.accepted = True
        """Whether the last step told was."""

    def tell(self, stopping: Stopping, new: bool) -> Iterator[Event]:
        """The whole story."""
        self._mark()
        yield self._begin(new)
        if new and grace() is not None:  # what a save takes is to be known before one has to be quick
            yield from self._save(stopping=stopping)
        while True:
            try:
                yield from self._train(stopping)
                break
            except Troubled as troubled:
                to = self.running.go_back(troubled.trouble)
                yield self.event("rollback", reason=troubled.trouble.said, without=[troubled.trouble.first, troubled.trouble.last], to=to)
                continue
            except torch.OutOfMemoryError as error:
                if self.stepped or not self.running.may_compute_less():
                    raise
                reason = str(error).partition(". ")[0]
            self.running.compute_less()  # here, where the error no longer holds what was computed
            yield self.event("micro_batch", micro_batch=self.running.batches.micro_batch, reason=reason)
        if self.stopped_by and self.running.done < self.steps:
            yield from self._save(hurry=True)
            reason, status = how(self.stopped_by)
            self._mark(STOPPED, reason)
            event = self.event("stop", reason=reason, status=status)
            if self.world.leads and reason != "SIGINT" and (said := requeue()):
                event["requeue"] = said
            yield event
            return
        stopping.release()  # the weights are final and about to be saved; from here on Ctrl-C may simply interrupt
        yield from self._save()
        yield from self._finish()
        self._mark(DONE)

    def close(self) -> None:
        """Ends what runs beside the story, and closes its file."""
        self.running.close()
        if self.metrics is not None:
            self.metrics.close()

    def _mark(self, name: str = "", text: str = "") -> None:
        if self.world.leads:
            mark(self.out, name, text)

    def _begin(self, new: bool) -> Event:
        restored, batches = self.running.begin(new), self.running.batches
        plan = {
            **self.facts,
            "steps": self.steps,
            "train_tokens": (tokens := batches.steps.before(self.steps)),
            "epochs": round(tokens / batches.context_length / batches.windows, 2),
            "micro_batch": batches.micro_batch,
            "attention": dict(self.running.chosen.attention)
            if self.settings.machine.attention == "auto"
            else self.settings.machine.attention,
            "val_tokens": len(self.data.val),
        }
        if restored is None:
            return self.event("start", **plan)
        return self.event("resume", **plan, path=str(restored.path), rejected=list(restored.rejected), draws=restored.draws)

    def _train(self, stopping: Stopping) -> Iterator[Event]:
        with Stopwatch(self.settings.machine.compile) as stopwatch, garbage.kept() as collect:
            self.pace = Pace(lambda: self.running.ahead.waited, lambda: stopwatch.seconds)
            yield from self._steps(stopping, collect)

    def _steps(self, stopping: Stopping, collect: Callable[[bool], None]) -> Iterator[Event]:
        settings, running, saver = self.settings, self.running, self.running.saver
        assert saver is not None
        self.saved_at = time.monotonic()
        prompts = settings.sample.prompts or ("",)
        late: Late[Step] = Late(running.device)
        probe = Probe(running.gpt)
        if running.clock.is_over:
            self.steps = running.done
        for step in stepping.steps(running, self.steps, probe):
            running.done, self.stepped = step.number + 1, True
            self.world.note(running.done)
            yield from self._tell_steps(late.put(step, step.verdict.figures))
            if figures := probe.take():
                yield self.event("probe", **figures)
            probe.watch(settings.eval.probe_every_tokens is not None and self._passes(settings.eval.probe_every_tokens, ahead=1))
            # The same for all processes: whether to stop, to save, and whether any still writes the checkpoint before.
            told = (stopping.wanted, int(self._save_is_due()), int(not saver.done_here), running.clock.reading())
            stop, save, writing, milliseconds = self.world.highest(*told)
            running.clock.agree(milliseconds)
            if running.clock.is_over:
                self.steps = running.done
            if saver.busy and not writing:
                yield self._saved(saver.publish(), stopping)
            evaluate, sample = self._passes(settings.eval.every_tokens), self._passes(settings.sample.every_tokens)
            tasks = bool(self.tasks.training) and self._passes(settings.eval.tasks_every_tokens)
            if not (stop or save or evaluate or sample or tasks or running.done == self.steps):
                collect(False)
                continue
            yield from self._tell_steps(late.rest())
            if running.clock.is_over:
                return
            if evaluate:
                yield self._evaluate(settings.eval.tokens)
            if tasks:
                yield self._run_tasks(self.tasks.training)
            if sample:
                turn = running.tokens // settings.sample.every_tokens - 1  # the same after a resume
                yield self._sample(prompts[turn % len(prompts)], turn)
            if stop:
                self.stopped_by = stop
                return
            if save and self.accepted and not saver.busy:  # a run that may have diverged does not push out what it could go back to
                running.save()
                self.saved_at = time.monotonic()
            collect(True)
            self.pace.skip()  # what was done in between counts for no step

    def _tell_steps(self, steps: list[tuple[Step, list[float]]]) -> Iterator[Event]:
        """Steps as events, once their figures have come from the device. Raises Troubled where only going back helps."""
        for step, figures in steps:
            told, lap = self.running.guard.tell(step.number, figures), self.pace.lap()
            self.step_seconds, self.accepted = lap.seconds, told.accepted
            if lap.compile_seconds > _WORTH_TELLING:
                yield self.event("compile", seconds=round(lap.compile_seconds, 1))
            where = {"step": step.number + 1, "tokens": step.tokens, "loss": told.loss, "grad_norm": told.grad_norm}
            if told.accepted:
                speed = self.running.batches.steps.batch(step.number) / lap.seconds
                pace = {"tokens_per_second": round(speed, 1), "data_share": round(lap.data_share, 4)}
                yield self.event("step", **where, learning_rate=step.learning_rate, **pace)
                continue
            yield self.event("skip", **where, reason=told.reason)
            if told.trouble is not None:
                raise Troubled(told.trouble)

    def _save_is_due(self) -> bool:
        return self.running.done < self.steps and time.monotonic() - self.saved_at > self.settings.checkpoint.every_seconds

    def _save(self, *, hurry: bool = False, stopping: Stopping | None = None) -> Iterator[Event]:
        """Saves, and waits until it is done; before it comes what was under way."""
        saver = self.running.saver
        assert saver is not None
        if saver.busy:
            yield self._saved(saver.publish())
        self.running.save(hurry=hurry)
        if (saved := saver.finish()) is not None:
            yield self._saved(saved, stopping)

    def _saved(self, saved: checkpoint.Saved, stopping: Stopping | None = None) -> Event:
        slow = ""
        if stopping is not None:
            stopping.reserve(saved.seconds)
            slow = too_slow(saved.seconds, self.step_seconds, grace())
        told = {"path": str(saved.path), "seconds": round(saved.seconds, 3), "held_up": round(saved.held_up, 4), "bytes": saved.bytes}
        warning = {"warning": slow} if slow else {}
        return self.event("checkpoint", **{**told, **warning, "step": saved.step, "tokens": saved.tokens})

    def _finish(self) -> Iterator[Event]:
        """Evaluates on the whole validation text, writes the samples and the model."""
        for turn, prompt in enumerate(self.settings.sample.prompts):
            yield self._sample(prompt, self.running.done + turn)
        most_tokens = self.settings.eval.final_tokens
        if self.tasks.final:
            yield self._run_tasks(self.tasks.final)
        result, text = self._score(most_tokens), self._validation_text(most_tokens)
        if self.world.leads:
            write_model(self.out / "model", self._whole(), self.data.tokenizer)
        self.world.wait()
        ended = {"budget_seconds": self.settings.train.budget_seconds} if self.running.clock.is_over else {}
        figures = {**_figures(result), "val_bytes": result.text_bytes, "compressors": compressed_bits_per_byte(text)}
        yield self.event("end", **figures, run=str(self.out), **ended)

    def _whole(self) -> GPT:
        """The whole model; of one that is divided, as its last checkpoint has it."""
        if not self.running.across.divided:
            return self.running.gpt
        with torch.device("meta"):
            gpt = GPT(self.settings.model)
        gpt.load_state_dict(checkpoint.read_model(checkpoint.found(self.out)[-1]), assign=True)
        return gpt

    def _validation_text(self, most_tokens: int | None) -> bytes:
        """The bytes that the model was scored on, as many as are worth compressing."""
        text = bytearray()
        for start, length in validation_windows(self.data.val, self.running.batches.context_length, most_tokens):
            text += self.data.tokenizer.decode_bytes(self.data.val.read(start + 1, length))
            if len(text) >= _MOST_COMPRESSED_BYTES:
                break
        return bytes(text)

    def _passes(self, every: int, ahead: int = 0) -> bool:
        """Whether the step just done, or `ahead` of it, crosses a multiple of `every` tokens; the run's end has its own evaluation."""
        done, before = self.running.done + ahead, self.running.batches.steps.before
        return done < self.steps and before(done) // every > before(done - 1) // every

    def _evaluate(self, most_tokens: int | None) -> Event:
        return self.event("eval", **_figures(self._score(most_tokens)))

    def _score(self, most_tokens: int | None) -> Score:
        with _plainly():
            running = self.running
            batch = min(running.batches.micro_batch, reading_batch(running.batches.context_length, running.device))
            return score_validation(running.gpt, self.data, running.precision, batch, most_tokens, self.world, running.across)

    def _run_tasks(self, tasks: Sequence[Task]) -> Event:
        with _plainly():
            return self.event("tasks", tasks=run_tasks(tasks, self.running.gpt, self.running.precision, self.world, self.running.across))

    def _sample(self, prompt: str, turn: int) -> Event:
        wanted, seed = self.settings.sample, self.settings.train.seed + turn  # another one each time, lest the samples resemble each other
        text = ""
        if self.world.leads or self.running.across.divided:  # of a model that is divided every pass needs all; all write the same
            self.running.gpt.eval()
            with _plainly(), self.running.precision.autocast():  # shards are gathered in its format
                pieces = self.model.write(
                    prompt, max_tokens=wanted.max_tokens, temperature=wanted.temperature, top_k=wanted.top_k, seed=seed
                )
                text = "".join(pieces)
        return self.event("sample", prompt=prompt, text=text)

    def event(self, kind: str, **values: Any) -> Event:
        """Something that happened, written down by the leading process."""
        event = {"event": kind, "step": self.running.done, "tokens": self.running.tokens, "time": round(time.time(), 3), **values}
        if self.metrics is not None:
            event = self.metrics.write(event)
        return event


def _plainly() -> Any:
    """Blocks that are compiled run as they are written: the shapes here change from call to call, and compiling for each takes longer."""
    return torch.compiler.set_stance("force_eager")


def _figures(result: Score) -> Event:
    return {**{name: round(value, 6) for name, value in result.figures().items()}, "val_tokens": result.tokens}
