"""The tasks of EleutherAI's lm-evaluation-harness on a model of ours, where that package is installed.

    run(model, tokenizer, ["arc_easy"], context_length=1024, device="cuda")     # {"arc_easy": {"acc": {"value": ..., ...}, ...}}

The harness has the questions and the metrics, we the likelihoods: it asks for continuations, whole texts and written answers, and
`Answers` gives them with the scorer of our own tasks. The package is imported when it is used, and not before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from daybreak import config
from daybreak.data.tokenizer import Tokenizer
from daybreak.evaluation.grouping import groups
from daybreak.evaluation.items import Item, TaskProblem
from daybreak.evaluation.readers import reader
from daybreak.evaluation.reading import encode
from daybreak.evaluation.scoring import Likelihood, score
from daybreak.evaluation.suite import BUDGETS
from daybreak.inference.generate import Predictor, generate
from daybreak.inference.sampling import Sampling

INSTALL = "pip install 'daybreak[harness]'"

Figures = dict[str, dict[str, float | int | None]]
"""For each metric its "value", "stderr" and "n"."""

_MOST_TOKENS = 256
"""How long an answer gets where the task does not say, as in the harness."""

_RESAMPLES = 1000
"""Draws for the standard errors that the harness estimates by drawing, such as perplexity's: enough for two digits."""


def run(
    predictor: Predictor,
    tokenizer: Tokenizer,
    names: Sequence[str],
    *,
    context_length: int,
    device: torch.device | str = "cpu",
    limit: int | None = None,
    task_folder: Path | None = None,
    token_budget: int | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, Figures]:
    """Evaluates tasks, groups or tags of the harness, by its names; `task_folder` holds further ones in its YAML form.

    A task that a group consists of stands beside it under its own name. `limit` takes only the first items of each task. Raises
    TaskProblem if the package is missing, a name is not known, or a task's data cannot be had.
    """
    with _quiet(), autocast():
        manager, evaluate = _open(names, task_folder)
        lm = _language_model(Answers(predictor, tokenizer, context_length=context_length, device=device, token_budget=token_budget))
        try:
            results = evaluate(
                lm,
                tasks=list(names),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=_RESAMPLES,
                log_samples=False,
                random_seed=None,  # whoever calls us keeps his own; the examples of few-shot tasks have theirs
                numpy_random_seed=None,
                torch_random_seed=None,
            )
        except OSError as error:  # what its data library raises without a network, and for a file that is not there
            reason = str(error).partition("\n")[0] or type(error).__name__
            told = f"{', '.join(names)}: the data could not be loaded ({reason}); they come from Hugging Face's hub"
            raise TaskProblem(f"{told}: connect this machine to the network once, and they stay in its cache") from None
    return figures(results["results"], {name: row["effective"] for name, row in results["n-samples"].items()})


class Answers:
    """What the harness asks of a model: how likely it finds a text, and what it writes."""

    def __init__(
        self,
        predictor: Predictor,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        device: torch.device | str = "cpu",
        token_budget: int | None = None,
    ) -> None:
        self.predictor = predictor
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.device = torch.device(device)
        self.reader = reader(predictor, device=device)
        self.budget = token_budget or BUDGETS[self.device.type] // (1 if self.reader.halved else 8)

    def likelihoods(self, pairs: Iterable[tuple[str, str]]) -> list[Likelihood]:
        """Of each (context, continuation) the continuation's; neighbours with the same context are read together."""
        neighbours = itertools.groupby(pairs, key=lambda pair: pair[0])
        items = [Item(context[:40], context, tuple(text for _, text in group)) for context, group in neighbours]
        return list(itertools.chain.from_iterable(self._scored(items)))

    def text_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """Of each text the log-likelihood of the whole, as of a new text, in windows of the context length."""
        return [found[0].log_likelihood for found in self._scored([Item(text[:40], "", (text,)) for text in texts])]

    def _scored(self, items: Sequence[Item]) -> list[tuple[Likelihood, ...]]:
        """For each item its continuations' likelihoods."""
        readings = [encode(self.tokenizer, item, apart=False) for item in items]
        found: list[tuple[Likelihood, ...]] = [()] * len(readings)
        for group in groups(readings, self.context_length, self.budget, cached=self.reader.new_cache is not None):
            scored = score(self.reader, group, readings, self.context_length, device=self.device, budget=self.budget)
            for number, likelihoods in zip(group.numbers, scored, strict=True):
                found[number] = likelihoods
        return found

    def written(self, prompt: str, options: Mapping[str, Any]) -> str:
        """What the model writes behind `prompt`, up to the first of the texts `until` or the end of the text.

        `options`, by the harness's names: until, max_gen_toks, do_sample, temperature, top_k, top_p. The beginning of a prompt that leaves
        no room for the answer is not read.
        """
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        most = min(int(options.get("max_gen_toks") or _MOST_TOKENS), self.context_length - 1)
        ids = self.tokenizer.encode(prompt).tolist()[-(self.context_length - most) :] or [self.tokenizer.eot]
        drawn = bool(options.get("do_sample")) and options.get("temperature") != 0
        sampling = (
            Sampling(float(options.get("temperature") or 1.0), options.get("top_k"), options.get("top_p")) if drawn else Sampling(0.0)
        )
        new_cache = self.reader.new_cache
        tokens = generate(
            self.predictor,
            torch.tensor([ids], device=self.device),
            max_tokens=most,
            context_length=self.context_length,
            sampling=sampling,
            kv_cache=None if new_cache is None else new_cache(1, self.context_length),
        )
        answer: list[int] = []
        for token in tokens:
            if int(token) == self.tokenizer.eot:
                break
            answer.append(int(token))
            text = self.tokenizer.decode(answer)
            if ends := [at for stop in stops if stop and (at := text.find(stop)) >= 0]:
                return text[: min(ends)]
        return self.tokenizer.decode(answer)


def figures(results: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int]) -> dict[str, Figures]:
    """The harness's results in our form.

    It names a metric "acc,none", with the filter that the answers went through behind the comma; where there is one, we name it so, too.
    """
    found: dict[str, Figures] = {}
    for task, values in results.items():
        found[task] = {}
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{filtered}")
            found[task][metric if filtered == "none" else key] = {
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) else None,
                "n": counts.get(task, values.get("sample_len")),
            }
    return {task: metrics for task, metrics in found.items() if metrics}


def _open(names: Sequence[str], task_folder: Path | None) -> tuple[Any, Any]:
    """The harness's index of tasks that holds all `names`, and its function to evaluate. Raises TaskProblem."""
    try:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        what = "needs the package lm-eval" if error.name == "lm_eval" else f"could not be imported ({error})"
        raise TaskProblem(f"harness: {what}; install it with: {INSTALL}") from None
    if task_folder is not None and not task_folder.is_dir():
        raise TaskProblem(f"{task_folder}: wanted a folder of the harness's task files, found none there")
    if task_folder is not None:  # its own index takes many seconds to read
        manager = TaskManager(include_path=str(task_folder), include_defaults=False)
        if set(names) <= set(manager.all_tasks):
            return manager, simple_evaluate
    manager = TaskManager(include_path=None if task_folder is None else str(task_folder))
    known = set(manager.all_tasks)
    if wrong := [name for name in names if name not in known]:
        hint = config.closest(wrong[0], sorted(known)) or "; `lm-eval ls tasks` lists them all"
        raise TaskProblem(f"harness:{wrong[0]}: no such task of the harness{hint}")
    return manager, simple_evaluate


def _language_model(answers: Answers) -> Any:
    """The harness's own interface to `answers`."""
    from lm_eval.api.model import LM

    class Daybreak(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return [(found.log_likelihood, found.greedy) for found in answers.likelihoods(request.args for request in requests)]

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            return answers.text_likelihoods([request.args[0] for request in requests])

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [answers.written(*request.args) for request in requests]

    return Daybreak()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Sends what the harness prints to standard error, and lets it estimate errors in this process instead of in forks of it."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
