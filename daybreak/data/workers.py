"""Tasks in worker processes: started clean, told apart when they fail, gone as soon as they are not needed.

A task is a module-level generator function that leaves its result on the disk and yields how much it has done. `Workers.map` runs
one task over many arguments and yields those amounts as they come. The standard pools have each one of these flaws: they import the
caller's script into every worker (and fail on one without `if __name__ == "__main__"`), hang when a worker is killed for lack of
memory, print the workers' tracebacks at Ctrl-C, or leave them running when their parent dies.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, Self

Task = Callable[..., Iterator[int]]


class Engine(Protocol):
    """What runs tasks: processes of this machine (`Workers`), or those of many (`engines.Dask`). A context manager."""

    @property
    def count(self) -> int:
        """How many tasks run at once."""

    def __enter__(self) -> Self:
        """Gets ready."""

    def __exit__(self, *_: object) -> None:
        """Lets go of everything; tasks that still run stop."""

    def map(self, task: Task, arguments: Sequence[tuple[Any, ...]]) -> Iterator[int]:
        """Runs `task(*a)` for every a of `arguments` and yields the amounts that they yield, or their sums, as they come."""


class WorkerProblem(RuntimeError):
    """A worker process that ended without an answer, mostly because the system killed it for lack of memory."""


def usable_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Workers:
    """Up to `count` processes, started when first needed and ended with the `with` block. With 1, everything runs in this process."""

    def __init__(self, count: int) -> None:
        self.count = 1 if multiprocessing.current_process().daemon else count  # a daemon process may have no children
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()  # their files are whole or absent, so that nothing needs to be put in order first
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.join()
            connection.close()
        self._processes, self._connections = [], []

    def map(self, task: Task, arguments: Sequence[tuple[Any, ...]]) -> Iterator[int]:
        """Runs `task(*a)` for every a of `arguments` and yields what the tasks yield, in the order in which it comes.

        The first exception of a task is raised here as it was; WorkerProblem if a worker died.
        """
        if self.count == 1 or len(arguments) == 1:
            for argument in arguments:
                yield from task(*argument)
            return
        self._start(min(self.count, len(arguments)))
        waiting = list(reversed(arguments))
        busy: list[Connection] = []
        for connection in self._connections[: len(arguments)]:
            self._send(connection, (task, waiting.pop()))
            busy.append(connection)
        while busy:
            ready = wait(busy)
            for connection in [candidate for candidate in busy if candidate in ready]:
                try:
                    kind, value = connection.recv()
                except (EOFError, ConnectionError):
                    raise self._death(connection) from None
                if kind == "error":
                    raise value
                if kind == "amount":
                    yield value
                elif waiting:
                    self._send(connection, (task, waiting.pop()))
                else:
                    busy.remove(connection)

    def _send(self, connection: Connection, message: tuple[Task, tuple[Any, ...]]) -> None:
        try:
            connection.send(message)
        except ConnectionError:
            raise self._death(connection) from None

    def _start(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        with no_interrupts(), hidden_main():
            while len(self._processes) < count:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there,), daemon=True)
                process.start()
                there.close()
                self._processes.append(process)
                self._connections.append(here)

    def _death(self, connection: Connection) -> WorkerProblem:
        process = self._processes[self._connections.index(connection)]
        process.join(5)
        code = process.exitcode
        why = "killed, mostly for lack of memory" if code == -9 else f"exit status {code}"
        return WorkerProblem(f"a worker process died ({why}); run again with fewer workers: what is done is kept")


@contextlib.contextmanager
def no_interrupts() -> Iterator[None]:
    """Ctrl-C waits while processes start: they inherit the blocked signal, so that it reaches this process alone, and it is not lost."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # as it starts, with the first process, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def hidden_main() -> Iterator[None]:
    """Hides the caller's script while processes start: they need none of it, and would run it again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(connection: Connection) -> None:
    """The life of a worker: tasks come in, amounts and errors go out, until the parent closes the connection or dies."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            task, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            for amount in task(*arguments):
                connection.send(("amount", amount))
            connection.send(("done", None))
        except ConnectionError:
            return
        except Exception as error:
            if not isinstance(error, ValueError | OSError):  # those are told to people; for the others a developer needs the place
                error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
            connection.send(("error", error))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
