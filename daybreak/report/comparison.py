"""Which of two ways to train is better, judged over runs that differ in their seed alone, and how sure that is.

    told = compare([summary(run) for run in runs], baseline=["gpt2-1", "gpt2-2"], by="tokens")
    print(told.verdict)

Runs with the same settings but for `train.seed` are one group. Where all groups have the same seeds, a run is set against the baseline's of
its seed (the same initial weights and order of data, so that much of the luck is shared); else the groups are taken as independent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daybreak.report import words
from daybreak.report.curves import Curve, FloatArray, number
from daybreak.report.intervals import Interval, difference, mean, paired
from daybreak.report.markup import leaves
from daybreak.report.record import Summary

AXES = {"tokens": words.count, "time": words.duration, "flops": words.power}
"""By what runs are compared, and how an amount of it is written."""
SEED = "train.seed"
_SAME_END = 1e-3


class ComparisonProblem(ValueError):
    """Runs that cannot be compared as was asked; one line for each reason."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[Summary, ...]

    @property
    def seeds(self) -> tuple[Any, ...]:
        """The seed of each run."""
        return tuple(leaves(run.record.settings).get(SEED) for run in self.runs)

    def in_order_of_seeds(self) -> list[int]:
        """The places of the runs by rising seed."""
        return sorted(range(len(self.runs)), key=lambda i: str(self.seeds[i]))


@dataclass(frozen=True)
class Row:
    """A group, and how it stands to the baseline."""

    group: Group
    losses: tuple[float, ...]
    """Validation loss of each run where all are compared."""
    loss: Interval
    apart: Interval | None
    """The group's loss less the baseline's; None for the baseline."""
    reached: Mapping[str, tuple[float | None, ...]]
    """For each axis, how much of it each run took to the wanted loss; None for a run that did not get there."""
    ratios: Mapping[str, Interval | None]
    """For each axis the group's amount as a share of the baseline's."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; the first row is the baseline."""

    rows: tuple[Row, ...]
    by: str
    at: float
    """How much of it all runs have had, where their losses are compared."""
    to_loss: float
    settings: Mapping[str, tuple[str, ...]]
    """The settings that differ between the groups, and what each has."""
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The winner with its uncertainty, or that there is none that these runs can show."""
        baseline, others = self.rows[0], self.rows[1:]
        best = min(others, key=lambda row: row.loss.mean, default=None)
        if best is None or best.apart is None:
            return f"{baseline.group.name} stands alone; name runs of other settings to compare it with."
        worse = baseline.loss.mean <= min(row.loss.mean for row in others)
        apart, where = best.apart, f"at {AXES[self.by](self.at)}{' tokens' if self.by == 'tokens' else ''}"
        names = f"{best.group.name} and {baseline.group.name}"
        if apart.low is None or apart.high is None:
            lower, higher = (baseline, best) if worse else (best, baseline)
            return (
                f"{lower.group.name} ends {abs(apart.mean):.4f} lower than {higher.group.name} {where}, but one run of a kind cannot tell "
                f"a difference from luck; train the same with other seeds (train.seed=N)."
            )
        how = "paired by seed" if apart.how == "paired" else "independent runs"
        counted = f"{len(best.losses)} and {len(baseline.losses)} runs, {how}"
        if not apart.sure:
            between = f"{apart.low:+.4f} to {apart.high:+.4f}"
            return (
                f"No difference that these runs can show between {names} {where}: {apart.mean:+.4f}, 95 % interval {between} ({counted})."
            )
        first, second = (best, baseline) if apart.mean < 0 else (baseline, best)
        low, high = sorted((abs(apart.low), abs(apart.high)))
        return (
            f"{first.group.name} is better than {second.group.name} by {abs(apart.mean):.4f} nats {where}, "
            f"95 % interval {low:.4f} to {high:.4f} ({counted})."
        )


def compare(runs: Sequence[Summary], baseline: Sequence[Summary] = (), by: str = "tokens", to_loss: float | None = None) -> Comparison:
    """Compares groups of runs with the baseline's; without one the first group is it. Raises ComparisonProblem.

    A baseline stays a group of its own also where the settings are the same, as when it is the code that changed.
    """
    own = {id(run) for run in baseline}
    groups = grouped(baseline, [run for run in runs if id(run) not in own])
    if len(grouped(baseline)) > 1:
        raise ComparisonProblem("--baseline: wanted runs that differ in train.seed alone, came runs of several settings; name one kind")
    _check(groups, by)
    validated = {id(run): validation(run) for group in groups for run in group.runs}
    at, found = _losses(groups, validated, by)
    goal = to_loss if to_loss is not None else max(float(validated[id(run)].values[-1]) for run in groups[0].runs)
    rows: list[Row] = []
    for group in groups:
        losses = tuple(found[id(run)] for run in group.runs)
        crossed = [crossing(validated[id(run)], goal) for run in group.runs]
        reached = {axis: tuple(_amount(run, axis, where) for run, where in zip(group.runs, crossed, strict=True)) for axis in AXES}
        first = rows[0] if rows else None
        apart = _apart(group, losses, first.group, first.losses) if first else None
        ratios = {axis: _ratio(group, reached[axis], first.group, first.reached[axis]) if first else None for axis in AXES}
        rows.append(Row(group, losses, mean(losses), apart, reached, ratios))
    return Comparison(tuple(rows), by, at, goal, differing(groups), tuple(_warnings(groups)))


def grouped(*sides: Sequence[Summary]) -> list[Group]:
    """Of each side the runs with the same settings but for the seed together, in the order in which they first came."""
    found: dict[tuple[Any, ...], list[Summary]] = {}
    for side, runs in enumerate(sides):
        for run in runs:
            settings = sorted((name, value) for name, value in leaves(run.record.settings).items() if name != SEED)
            found.setdefault((side, *settings), []).append(run)
    names: dict[str, int] = {}
    groups = []
    for members in found.values():
        name = _common_name([run.name for run in members])
        names[name] = names.get(name, 0) + 1
        groups.append(Group(name if names[name] == 1 else f"{name} ({names[name]})", tuple(members)))
    return groups


def validation(run: Summary) -> Curve:
    """The run's validation losses over time, with the last evaluation where that read the same text as those before."""
    curve = run.curves["val_loss"]
    evals = [event for event in run.events if event["event"] == "eval"]
    end = next((event for event in reversed(run.events) if event["event"] == "end"), None)
    if end is None or (value := number(end.get("val_loss"))) is None or (tokens := number(end.get("tokens"))) is None:
        return curve
    same = not evals or evals[-1].get("val_tokens") == end.get("val_tokens")
    if not same or (len(curve) and tokens <= curve.tokens[-1]):
        return curve
    step, seconds = number(end.get("step")) or 0.0, run.seconds or 0.0
    rows = zip((curve.steps, curve.tokens, curve.seconds, curve.values), (step, tokens, seconds, value), strict=True)
    return Curve(*(np.append(column, last) for column, last in rows))


def crossing(curve: Curve, goal: float) -> tuple[float, float] | None:
    """Tokens and seconds at which the curve first comes down to `goal`, on straight lines between its points; None if it never does.

    A curve that begins below it crossed before its first point; that point is the most it can have taken.
    """
    below = np.flatnonzero(curve.values <= goal)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(curve.tokens[0]), float(curve.seconds[0])
    part = (curve.values[i - 1] - goal) / (curve.values[i - 1] - curve.values[i])
    between = [column[i - 1] + part * (column[i] - column[i - 1]) for column in (curve.tokens, curve.seconds)]
    return float(between[0]), float(between[1])


def along(run: Summary, curve: Curve, by: str) -> FloatArray:
    """Where the points of a curve lie on an axis."""
    if by == "time":
        return curve.seconds
    return curve.tokens * (run.flops_per_token or math.nan) if by == "flops" else curve.tokens


def differing(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """The settings in which groups differ, but for seeds."""
    flat = [leaves(group.runs[0].record.settings) for group in groups]
    names = dict.fromkeys(name for one in flat for name in one if name != SEED)
    columns = {name: tuple(one.get(name, words.ABSENT) for one in flat) for name in names}
    return {name: column for name, column in columns.items() if len(set(column)) > 1}


def _check(groups: Sequence[Group], by: str) -> None:
    wrong = []
    for run in (run for group in groups for run in group.runs):
        if not len(validation(run)):
            wrong.append(f"{run.name}: wanted validation losses, found none; let it train to its first evaluation")
        elif by == "flops" and not run.flops_per_token:
            wrong.append(f"{run.name}: wanted its FLOPs per token, as its first line says, found none; compare --by tokens or time")
    if wrong:
        raise ComparisonProblem("\n".join(wrong))


def _losses(groups: Sequence[Group], validated: Mapping[int, Curve], by: str) -> tuple[float, dict[int, float]]:
    """Up to where all runs came, and the loss of each there; at their common end the last evaluation, of the whole text."""
    runs = [run for group in groups for run in group.runs]
    ends = [float(along(run, validated[id(run)], by)[-1]) for run in runs]
    at = min(ends)
    final = [(event.get("val_tokens"), run.val_loss) for run in runs for event in run.events[-1:] if event["event"] == "end"]
    together = by != "time" and len(final) == len(runs) and len({tokens for tokens, _ in final}) == 1
    where = [(run.tokens or 0.0) * ((run.flops_per_token or 0.0) if by == "flops" else 1.0) for run in runs]
    if together and max(where) <= min(where) * (1 + _SAME_END):
        return min(where), {id(run): run.val_loss for run in runs if run.val_loss is not None}
    found, wrong = {}, []
    for run in runs:
        curve = validated[id(run)]
        x = along(run, curve, by)
        if x[0] > at * (1 + 1e-9):
            begins = AXES[by](float(x[0]))
            wrong.append(
                f"{run.name}: its first evaluation came at {begins}, where another run had ended; let that go on, or choose another --by"
            )
        found[id(run)] = float(np.interp(at, x, curve.values))
    if wrong:
        raise ComparisonProblem("\n".join(wrong))
    return at, found


def _together(group: Group, baseline: Group) -> bool:
    """Whether both have the same seeds, each once, so that runs can be set against each other one by one."""
    seeds = sorted(map(str, group.seeds))
    return len(seeds) > 1 and len(set(seeds)) == len(seeds) and seeds == sorted(map(str, baseline.seeds))


def _apart(group: Group, values: Sequence[float], baseline: Group, others: Sequence[float]) -> Interval:
    if _together(group, baseline):
        return paired([values[i] for i in group.in_order_of_seeds()], [others[i] for i in baseline.in_order_of_seeds()])
    return difference(values, others)


def _ratio(group: Group, values: Sequence[float | None], baseline: Group, others: Sequence[float | None]) -> Interval | None:
    """The mean ratio and its interval, by way of logarithms; None where a run did not get there."""
    ours, theirs = [value for value in values if value], [value for value in others if value]
    if len(ours) < len(values) or len(theirs) < len(others):
        return None
    logs = _apart(group, [math.log(value) for value in ours], baseline, [math.log(value) for value in theirs])
    bounds = [None if bound is None else math.exp(min(bound, 700.0)) for bound in (logs.low, logs.high)]
    return Interval(math.exp(logs.mean), bounds[0], bounds[1], logs.how)


def _amount(run: Summary, axis: str, crossed: tuple[float, float] | None) -> float | None:
    if crossed is None:
        return None
    tokens, seconds = crossed
    if axis == "flops":
        return tokens * run.flops_per_token if run.flops_per_token else None
    return seconds if axis == "time" else tokens


def _warnings(groups: Sequence[Group]) -> list[str]:
    runs, told = [run for group in groups for run in group.runs], []
    if len({str((run.record.data or {}).get("fingerprint")) for run in runs}) > 1:
        told.append("The runs read different data: losses compare only on the same validation text with the same tokenizer.")
    for group in groups:
        if len(set(map(str, group.seeds))) < len(group.seeds):
            told.append(f"{group.name}: several runs have the same seed, so they vary less than runs do.")
    going = [run.name for run in runs if run.state != "finished"]
    if going:
        told.append(f"Not finished: {words.listing(going, 5)}.")
    if len({run.device for run in runs}) > 1:
        told.append("The runs were made on different machines: their times do not compare.")
    if len(groups) > 4:
        told.append(f"{len(groups) - 1} comparisons: of twenty such intervals one misses by luck alone.")
    return told


def _common_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    shared = re.sub(r"[-_. ]*(seed|s)?[-_. =]*\d*$", "", _beginning(names))
    return shared or f"{names[0]} and {len(names) - 1} more"


def _beginning(names: Sequence[str]) -> str:
    """What all names begin with."""
    least, greatest = min(names), max(names)
    return next((least[:i] for i, letter in enumerate(least) if letter != greatest[i : i + 1]), least)
