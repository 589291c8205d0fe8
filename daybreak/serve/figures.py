"""What a scraper reads at /metrics: Prometheus' text form, under the names of vLLM, so that dashboards made for it work here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import final

from daybreak.inference.requests import Finish, Stats

FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
WHOLE = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
"""vLLM's borders, in seconds, with finer ones at the small end."""


@final
class Histogram:
    """How often a number fell between which borders. One thread observes, any may read."""

    def __init__(self, borders: tuple[float, ...]) -> None:
        self.borders = borders
        self.counts = [0] * (len(borders) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one number."""
        self.counts[bisect_left(self.borders, value)] += 1
        self.total += value


@final
class Timings:
    """One model's requests, as its engine's thread sees them."""

    def __init__(self) -> None:
        self.first = Histogram(FIRST)
        self.between = Histogram(BETWEEN)
        self.whole = Histogram(WHOLE)
        self.finished: dict[Finish, int] = {}


def text(models: Iterable[tuple[str, Stats, Timings]], statuses: Mapping[int, int]) -> str:
    """All figures of all models."""
    models = list(models)
    lines: list[str] = []

    def tell(name: str, kind: str, about: str, values: Iterable[tuple[str, float]]) -> None:
        lines.extend([f"# HELP {name} {about}", f"# TYPE {name} {kind}"])
        lines.extend(f"{name}{{{labels}}} {_number(value)}" if labels else f"{name} {_number(value)}" for labels, value in values)

    def each(name: str, kind: str, about: str, field: str) -> None:
        tell(name, kind, about, ((_model(model), getattr(stats, field)) for model, stats, _ in models))

    each("vllm:num_requests_running", "gauge", "Requests that are being decoded.", "running")
    each("vllm:num_requests_waiting", "gauge", "Requests that wait for a place.", "waiting")
    each("vllm:kv_cache_usage_perc", "gauge", "Share of the cache that requests hold, 0 to 1.", "cache_use")
    each("vllm:num_preemptions_total", "counter", "Requests that gave their place in the cache to an older one.", "preempted")
    each("vllm:prompt_tokens_total", "counter", "Tokens of prompts that were read.", "prompt_tokens")
    each("vllm:generation_tokens_total", "counter", "Tokens that were written.", "written_tokens")
    each("vllm:prefix_cache_hits_total", "counter", "Tokens of prompts that were found in the cache.", "reused_tokens")
    each("vllm:prefix_cache_queries_total", "counter", "Tokens of prompts that were looked for in the cache.", "prompt_tokens")
    each("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens that the speculator guessed.", "drafted_tokens")
    each("vllm:spec_decode_num_accepted_tokens_total", "counter", "Of those, the right ones.", "accepted_tokens")
    reasons = [
        (f'{_model(model)},finished_reason="{_REASONS[reason]}"', count)
        for model, _, timings in models
        for reason, count in sorted(timings.finished.items())
    ]
    tell("vllm:request_success_total", "counter", "Requests that ended, by why.", reasons)
    for name, field, about in (
        ("vllm:time_to_first_token_seconds", "first", "From the request to its first token."),
        ("vllm:inter_token_latency_seconds", "between", "Between two tokens of a request."),
        ("vllm:e2e_request_latency_seconds", "whole", "From the request to its last token."),
    ):
        lines.extend([f"# HELP {name} {about}", f"# TYPE {name} histogram"])
        for model, _, timings in models:
            lines.extend(_histogram(name, _model(model), getattr(timings, field)))
    tell(
        "daybreak_responses_total", "counter", "Answers, by status.", ((f'status="{status}"', n) for status, n in sorted(statuses.items()))
    )
    if memory := resident_memory():
        tell("process_resident_memory_bytes", "gauge", "Memory that the server holds.", [("", memory)])
    return "\n".join(lines) + "\n"


_REASONS: dict[Finish, str] = {"stop": "stop", "length": "length", "cancelled": "abort", "failed": "error"}


def _histogram(name: str, label: str, histogram: Histogram) -> Iterator[str]:
    so_far = 0
    for border, count in zip((*histogram.borders, None), tuple(histogram.counts), strict=True):
        so_far += count
        yield f'{name}_bucket{{{label},le="{"+Inf" if border is None else border}"}} {so_far}'
    yield f"{name}_sum{{{label}}} {_number(histogram.total)}"
    yield f"{name}_count{{{label}}} {so_far}"


def _model(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'model_name="{escaped}"'


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def resident_memory() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return 0
    return pages * 4096
