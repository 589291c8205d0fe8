"""This process among those that train one model together: its rank, and what they tell each other.

Started alone it is rank 0 of 1 and every exchange is immediate. Under torchrun the decisions travel over gloo on the CPU, apart from
the tensors of training, so they work the same on every device and wait for none. What is told is JSON: nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous


@dataclass(frozen=True)
class World:
    """The processes of one run. `group` carries decisions; None if this process is alone."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    group: Any = None
    store: Any = None
    """Where each process notes how far it has come, so that the others can say so when it is gone."""

    @property
    def leads(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.rank == 0

    @property
    def who(self) -> str:
        """`rank 3: `, to begin a message with; nothing if this process is alone."""
        return f"rank {self.rank}: " if self.size > 1 else ""

    def highest(self, *numbers: int) -> tuple[int, ...]:
        """Position by position the highest that any process named: the same answer for all of them."""
        if self.size == 1:
            return numbers
        told = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group)
        return tuple(told.tolist())

    def total(self, *numbers: float) -> tuple[float, ...]:
        """Position by position the sum over all processes, in fp64."""
        if self.size == 1:
            return numbers
        told = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(told, group=self.group)
        return tuple(told.tolist())

    def gather(self, value: Any) -> list[Any]:
        """What every process has to say, as JSON, in the order of ranks: the same list for all of them."""
        if self.size == 1:
            return [value]
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(said)]), group=self.group)
        longest = max(int(length) for length in lengths)
        heard = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(heard, torch.nn.functional.pad(said, (0, longest - len(said))), group=self.group)
        return [json.loads(bytes(text[: int(length)].numpy())) for text, length in zip(heard, lengths, strict=True)]

    def agree(self, value: Any) -> Any:
        """What the leading process says, for all."""
        return self.gather(value if self.leads else None)[0]

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier(group=self.group)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A part that all must come through: what fails in one process fails in all, as FailedElsewhere in the others."""
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        told = self.gather(None if failed is None else str(failed))
        if failed is not None:
            raise failed
        for rank, message in enumerate(told):
            if message is not None:
                raise FailedElsewhere(rank, message)

    def note(self, step: int) -> None:
        """Lets the others know which step this process has begun."""
        if self.size > 1:
            self.store.set(f"begun-{self.rank}", str(step))

    def roll_call(self, patience: float = 5.0) -> str:
        """Which step each process had begun when it last said so: `rank 0 at step 12, rank 1 at step 11`.

        Where the machine that keeps the store is silently gone, asking it would never end: after `patience` seconds nobody waits for it.
        """
        told: list[str] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):  # the store's own process is gone
                for rank in range(self.size):
                    key = f"begun-{rank}"
                    step = self.store.get(key).decode() if self.store.check([key]) else "its start"
                    told.append(f"rank {rank} at {step if step == 'its start' else 'step ' + step}")

        asker = threading.Thread(target=ask, daemon=True)
        asker.start()
        asker.join(patience)
        return ", ".join(told) if len(told) == self.size else "nobody can be asked where the others are"


def is_lost(error: Exception) -> bool:
    """Whether an exchange failed because another process is gone, or does not answer in time."""
    if isinstance(error, FailedElsewhere):  # which may tell of anything
        return False
    words = ("gloo", "NCCL", "Connection closed", "Connection reset", "timed out", "Timed out")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def briefly(error: Exception) -> str:
    """What an exchange failed of, without the place in gloo's code and the advice that follow it."""
    line = str(error).partition("\n")[0]
    return re.sub(r"^\[\S+:\d+\] ", "", line).partition(". This is")[0]


class NeverMet(RuntimeError):
    """The processes of this world did not find each other."""


class FailedElsewhere(RuntimeError):
    """Another process of this world could not go on, and says why; this one has nothing to add."""

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(f"rank {rank}: {message}")
        self.rank = rank


ALONE = World()


def ranks_from_environment() -> tuple[int, int, int, int]:
    """(rank, local rank, number of processes, of them on this node), as torchrun sets them; (0, 0, 1, 1) without it."""
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return rank, local_rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))


@contextlib.contextmanager
def joined(device: torch.device, patience: float = 600.0) -> Iterator[World]:
    """The world that torchrun started this process in, for the length of a with-block; ALONE without torchrun.

    An exchange that waits longer than `patience` seconds fails: somebody died, or takes another path.
    """
    rank, local_rank, size, local_size = ranks_from_environment()
    if size == 1:
        yield ALONE
        return
    timeout = datetime.timedelta(seconds=patience)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=device if device.type == "cuda" else None,
        )
        group = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        if not is_lost(error):
            raise
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise NeverMet(
            f"rank {rank}: wanted {size} processes to meet at {where} within {patience:g} seconds, not all came; look at what the others "
            f"say, and whether they reach that address ({briefly(error)})"
        ) from None
    try:
        yield World(rank, local_rank, size, local_size, group, PrefixStore("steps", store))
        dist.barrier(group=group)  # gloo's threads may abort a process that leaves before the others have heard from it
    finally:
        dist.destroy_process_group()
