"""Several processes on one machine that talk over gloo: what tests of distribution begin with."""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch

from daybreak.world import World, joined


def in_worlds(size: int, work: Callable[..., Any], *arguments: Any, patience: float = 60.0) -> list[Any]:
    """Runs `work(world, *arguments)` in `size` forked processes of one world; what each returns (by pipe), in the order of ranks.

    Raises AssertionError with the tracebacks if any of them fails. Forking spares the seconds that importing torch anew takes.
    """
    context = get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        process = context.Process(target=_one, args=(sender, environment, patience, work, arguments), daemon=True)
        with warnings.catch_warnings():  # Python from 3.12 on warns of forking beside other threads; these children touch none of them
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    answers = []
    for receiver in pipes:
        try:
            answers.append(receiver.recv() if receiver.poll(2 * patience) else (False, "no answer"))
        except EOFError:
            answers.append((False, "died"))
    for process in processes:
        process.join(5)
        process.kill()
    assert all(done for done, _ in answers), "\n".join(str(told) for done, told in answers if not done)
    return [told for _, told in answers]


def _one(sender: Any, environment: dict[str, str], patience: float, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        with joined(torch.device("cpu"), patience) as world:
            answer = work(world, *arguments)
        sender.send((True, answer))
    except BaseException:
        sender.send((False, f"rank {environment['RANK']}:\n{traceback.format_exc()}"))
    finally:
        sender.close()
        os._exit(0)


def single(work: Callable[..., Any], *arguments: Any) -> Any:
    """The same work in this process, alone."""
    return work(World(), *arguments)
