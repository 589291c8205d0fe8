"""Where tasks run: in processes of this machine, or on a cluster that Dask keeps together.

    daybreak data prepare ... --engine dask                                       two or more processes here, under Dask
    daybreak data prepare ... --engine dask --engine-address tcp://HOST:8786      the workers of a cluster

A cluster is `dask scheduler` on one machine and `dask worker tcp://HOST:8786 --nthreads 1 --nworkers auto` on each; SLURM, Kubernetes and
the clouds have their own ways to start one. Every machine needs daybreak and one file system with the folder that is written and the
sources, at the same paths. What a lost worker was doing, Dask gives to another. Its protocol can run
code: only a trusted network may reach it.

Every task checks that it sees the file DIR/.prepare/engine-*.run of this very preparation: a worker without the common file system is
found out at once, and one that still works for a preparation that has ended stops.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from daybreak.data.plan import FORMAT
from daybreak.data.workers import Engine, Task, WorkerProblem, Workers, hidden_main, no_interrupts
from daybreak.files import write_text

ENGINES = ("local", "dask")
PATIENCE = 30
"""Seconds to wait for the scheduler, and for a first worker."""
AHEAD = 2
"""Tasks that wait at the scheduler for each that runs; the others wait here, since a task may carry thousands of names."""


class EngineProblem(ValueError):
    """An engine that is not installed, cannot be reached, or whose workers cannot do the work; one line with the way out."""


def open_engine(name: str, workers: int, address: str | None, folder: Path) -> Engine:
    """The engine of that name. `workers`: of this machine. `folder`: seen by all workers. Raises EngineProblem."""
    if name == "local":
        return Workers(workers)
    return Dask(workers, address, folder)


class Dask:
    """The workers of a Dask cluster: the one at `address` or in DASK_SCHEDULER_ADDRESS, or else one of `workers` processes of its own."""

    def __init__(self, workers: int, address: str | None, folder: Path) -> None:
        self.count = workers
        self._address = address or os.environ.get("DASK_SCHEDULER_ADDRESS")
        self._folder = folder
        self._sign = folder / f"engine-{secrets.token_hex(8)}.run"
        self._stack = contextlib.ExitStack()
        self._library: Any = None
        self._client: Any = None

    def __enter__(self) -> Self:
        try:
            import distributed
        except ImportError:
            raise EngineProblem("engine dask: needs the package distributed; install it with: pip install 'daybreak[cluster]'") from None
        self._library = distributed
        with contextlib.ExitStack() as stack:
            for left in self._folder.glob("engine-*.run"):
                left.unlink()
            stack.callback(self._sign.unlink, missing_ok=True)
            write_text(self._sign, "")
            self._client = stack.enter_context(self._connect(stack))
            self._check()
            self._stack = stack.pop_all()
        return self

    def _connect(self, stack: contextlib.ExitStack) -> Any:
        if self._address is None:
            with no_interrupts(), hidden_main():
                cluster = self._library.LocalCluster(
                    n_workers=self.count, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
                )
                stack.enter_context(cluster)
            return self._library.Client(cluster, set_as_default=False)
        try:
            client = self._library.Client(self._address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise EngineProblem(
                f"engine dask: found no scheduler at {self._address} ({' '.join(str(error).split())}); start one with: dask scheduler"
            ) from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it says of lost workers and closed lines is no news to a person
        return client

    def _check(self) -> None:
        """Raises EngineProblem if there is no worker, or one that cannot do the work."""
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise EngineProblem(
                f"engine dask: no worker has come to {self._address}; start some with: dask worker {self._address} --nthreads 1"
            ) from None
        self.count = sum(self._client.nthreads().values())
        mine = _version()
        for worker, seen in self._client.run(_look, str(self._sign), on_error="return").items():
            if isinstance(seen, Exception):
                raise EngineProblem(f"engine dask: the worker {worker} cannot run daybreak ({seen}); install daybreak there, as here")
            version, sees = seen
            if version != mine:
                raise EngineProblem(f"engine dask: the worker {worker} has daybreak {version}, here is {mine}; install the same everywhere")
            if not sees:
                raise _unseen(str(worker), self._folder)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def map(self, task: Task, arguments: Sequence[tuple[Any, ...]]) -> Iterator[int]:
        """See `Engine`: yields the sum of each task as it ends. Raises the first exception of a task as it was."""
        waiting = list(reversed(arguments))
        running: Any = self._library.as_completed(loop=self._client.loop)
        running.update([self._submit(task, waiting.pop()) for _ in arguments[: (1 + AHEAD) * self.count]])
        for future in running:
            try:
                amount = future.result()
            except self._library.KilledWorker:
                raise WorkerProblem(
                    "several workers died at one task, mostly for lack of memory; give each more, or start fewer: what is done is kept"
                ) from None
            future.release()
            if waiting:
                running.add(self._submit(task, waiting.pop()))
            yield amount

    def _submit(self, task: Task, argument: tuple[Any, ...]) -> Any:
        return self._client.submit(_run, task, argument, str(self._sign), pure=False)


def _look(sign: str) -> tuple[str, bool]:
    """On a worker: its version, and whether it sees the file."""
    return _version(), Path(sign).exists()


def _version() -> str:
    try:
        release = importlib.metadata.version("daybreak")
    except importlib.metadata.PackageNotFoundError:
        release = "from a folder"
    return f"{release} (working files {FORMAT})"


def _unseen(worker: str, folder: Path) -> EngineProblem:
    return EngineProblem(f"engine dask: the worker {worker} does not see {folder}; put --out where all machines see it, at the same path")


def _run(task: Task, argument: tuple[Any, ...], sign: str) -> int:
    """On a worker: does a task as long as the preparation goes on."""
    done = 0
    if not Path(sign).exists():
        import distributed

        raise _unseen(distributed.get_worker().address, Path(sign).parent)
    for amount in task(*argument):
        done += amount
        if not Path(sign).exists():
            return done  # nobody waits for it
    return done
