"""What the loss in chunks saves: time and memory of head and loss, forward and backward, beside the plain loss and the ways not taken.

python benchmarks/loss.py [--threads 1 --rounds 5]

Milliseconds are the processor's on a CPU, which what else runs there does not lengthen much; with several threads they are the clock's.
Memory is what the way needs beyond its inputs and their gradients, in a process of its own on a CPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from record import bar, record
from torch import Tensor
from torch.nn import functional as F

from daybreak import machine
from daybreak.training.chunked import linear_cross_entropy

# (tokens, C, vocabulary): 13.9M parameters at 16 x 256; GPT-2 124M at 1 x 1024 and 4 x 1024.
LECTURE, SMALL, LARGE = (4096, 384, 8192), (1024, 768, 50257), (4096, 768, 50257)
CASES = [(LECTURE, torch.float32), (LECTURE, torch.bfloat16), (SMALL, torch.bfloat16), (LARGE, torch.bfloat16)]

Way = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """`objectives.cross_entropy` behind `GPT.unembed`."""
    return F.cross_entropy(F.linear(hidden, weight)[:, :vocab].float(), targets, reduction="none")


def chunked(chunk: int = 1024, compiled: bool = False) -> Way:
    """Ours."""
    return lambda hidden, weight, targets, vocab: linear_cross_entropy(hidden, weight, targets, vocab, chunk, compiled)


def inputs(shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """Hidden states, weight and targets as at the start of training."""
    N, C, vocab = shape
    torch.manual_seed(0)
    hidden = torch.randn(N, C, device=device, requires_grad=True)
    weight = (0.02 * torch.randn(-(-vocab // 64) * 64, C, device=device)).requires_grad_()
    return hidden, weight, torch.randint(vocab, (N,), device=device), vocab


def once(way: Way, given: tuple[Tensor, Tensor, Tensor, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of the mean, as a step takes it."""
    hidden, weight, *_ = given
    hidden.grad = weight.grad = None
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses = way(*given)
    (losses.sum() / len(losses)).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is not None
    return losses.detach(), hidden.grad, weight.grad


def milliseconds(
    ways: dict[str, Way], shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The ways in turns: medians, and how far losses and gradients are from the plain way's, as a share of the largest."""
    given = inputs(shape, device)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    reference = once(ways["plain"], given, dtype)
    far = {
        name: [float(f"{float((a - b).abs().max() / b.abs().max()):.1e}") for a, b in zip(once(way, given, dtype), reference, strict=True)]
        for name, way in ways.items()
    }
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(rounds):
        for name, way in ways.items():
            _wait(device)
            started = clock()
            once(way, given, dtype)
            _wait(device)
            taken[name].append(clock() - started)
    return {name: round(1000 * statistics.median(times), 1) for name, times in taken.items()}, far


def peak_bytes(way: Way, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> int:
    """Of one pass, beyond its inputs and what the smallest pass needs for its kernels' sake."""
    if device.type == "cuda":
        given = inputs(shape, device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(way, given, dtype)
        return torch.cuda.max_memory_allocated() - before
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(sender, way, shape, dtype))
    process.start()
    peak: int = receiver.recv()
    process.join()
    return peak


def _peak(sender: Any, way: Way, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    once(way, inputs((8, 8, 8), torch.device("cpu")), dtype)
    given = inputs(shape, torch.device("cpu"))
    before = _resident()
    once(way, given, dtype)
    sender.send(max(0, _resident() - before))


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Every case in chunks of several sizes, and compiled."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = machine.choose_device()
    torch.set_num_threads(1)
    ways: dict[str, Way] = {"plain": plain, "chunks of 256": chunked(256), "chunks of 1024": chunked(), "compiled": chunked(compiled=True)}
    # before threads are there: they do not survive a fork
    kept = [name for name in ways if name != "compiled"]
    peaks = [{name: round(peak_bytes(ways[name], *case, device) / 1e6) for name in kept} for case in CASES]
    machine.prepare_cpu(arguments.threads)
    rows: list[dict[str, Any]] = []
    bars = []
    for (shape, dtype), megabytes in zip(CASES, peaks, strict=True):
        took, far = milliseconds(ways, shape, dtype, device, arguments.rounds)
        kind = str(dtype).removeprefix("torch.")
        row = {"tokens": shape[0], "d_model": shape[1], "vocab_size": shape[2], "dtype": kind, "threads": arguments.threads}
        rows.append({**row, "milliseconds": took, "peak_megabytes": megabytes, "losses_and_gradients_off_by": far})
        print(rows[-1], flush=True)
        about = f"{shape[0]} tokens, vocabulary {shape[2]}, {kind}"
        if dtype == torch.bfloat16:
            bars.append(bar(f"time of chunks to plain, {about}", took["chunks of 1024"] / took["plain"], "<= 1"))
        bars.append(bar(f"memory of chunks to plain, {about}", megabytes["chunks of 1024"] / max(1, megabytes["plain"]), "< 0.7"))
    record("loss", bars, rows)


if __name__ == "__main__":
    main()
