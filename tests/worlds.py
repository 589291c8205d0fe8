"""Several processes on one machine that talk over gloo: what tests of distribution begin with."""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable, Collection
from multiprocessing import get_context
from typing import Any

import torch

from daybreak.world import World, joined


def in_worlds(size: int, work: Callable[..., Any], *arguments: Any, patience: float = 60.0) -> list[Any]:
    """Runs `work(world, *arguments)` in `size` forked processes of one world; what each returns (by pipe), in the order of ranks.

    Raises AssertionError with the tracebacks if any of them fails. Forking spares the seconds that importing torch anew takes.
    """
    return in_processes(size, _joining, patience, work, arguments, patience=patience)


def in_processes(
    size: int, work: Callable[..., Any], *arguments: Any, per_node: int | None = None, killed: Collection[int] = (), patience: float = 60.0
) -> list[Any]:
    """Runs `work(*arguments)` in `size` forked processes in the environment that torchrun gives them; they are yet to join.

    `per_node` of them take themselves for a node's, all by default. Those in `killed` are to die without an answer, which is None.
    Raises AssertionError with the tracebacks if any other fails, or if one of these does not die.
    """
    context = get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    local_size = per_node or size
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank % local_size), "WORLD_SIZE": str(size)}
        environment |= {"LOCAL_WORLD_SIZE": str(local_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        process = context.Process(target=_one, args=(sender, environment, work, arguments), daemon=True)
        with warnings.catch_warnings():  # Python from 3.12 on warns of forking beside other threads; these children touch none of them
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    answers = []
    for rank, receiver in enumerate(pipes):
        try:
            answers.append(receiver.recv() if receiver.poll(2 * patience) else (False, "no answer"))
        except EOFError:
            answers.append((rank in killed, None if rank in killed else f"rank {rank} died"))
        else:
            if rank in killed:
                answers[-1] = (False, f"rank {rank} was to die, it told {answers[-1]}")
    for process in processes:
        process.join(5)
        process.kill()
    assert all(done for done, _ in answers), "\n".join(str(told) for done, told in answers if not done)
    return [told for _, told in answers]


def _joining(patience: float, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with joined(torch.device("cpu"), patience) as world:
        return work(world, *arguments)


def _one(sender: Any, environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        sender.send((True, work(*arguments)))
    except BaseException:
        sender.send((False, f"rank {environment['RANK']}:\n{traceback.format_exc()}"))
    finally:
        sender.close()
        os._exit(0)


def single(work: Callable[..., Any], *arguments: Any) -> Any:
    """The same work in this process, alone."""
    return work(World(), *arguments)
