"""The socket and the loop around the application: a port that is taken is told at once, SIGTERM lets the answers under way end.

uvicorn has no limit on how long a client may take for its headers; this one has, lest idle connections pile up.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from typing import Any, final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from daybreak import files

HEADER_SECONDS = 15.0
DRAIN_SECONDS = 30


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any free one. Raises FileProblem in one line if it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise files.FileProblem(
            f"--host {host}: no such address here ({error}); 127.0.0.1 is this machine, 0.0.0.0 every network"
        ) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            told = f"--port {port}: another program listens there already; give another, or 0 for any that is free"
        elif error.errno == errno.EACCES:
            told = f"--port {port}: the system keeps it for itself; give one from 1024 on"
        else:
            told = f"--host {host}: cannot listen there ({error.strerror}); 127.0.0.1 is this machine, 0.0.0.0 every network"
        raise files.FileProblem(told) from None
    return listening


def url(listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


def server(app: ASGIApp) -> uvicorn.Server:
    """A server that is silent, and drains when it is told to end."""
    config = uvicorn.Config(
        app,
        http=_Prompt,
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level=60,  # above all: the guard tells what matters
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return uvicorn.Server(config)


def run(app: ASGIApp, listening: socket.socket) -> bool:
    """Serves until SIGTERM or Ctrl-C, then lets the answers under way end. Returns whether it was Ctrl-C."""
    caught: list[int] = []
    old = {number: signal.signal(number, lambda came, _: caught.append(came)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:  # uvicorn hands the signals that it caught on to these at its end
        server(app).run(sockets=[listening])
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return signal.SIGINT in caught


@final
class _Prompt(H11Protocol):
    """A connection that is closed where a request's headers do not arrive in time, or an answer's end is not taken."""

    _looking: asyncio.TimerHandle | None = None
    _idle_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._idle:
            self._idle_since = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        now = self.loop.time()
        self._looking = self.loop.call_later(HEADER_SECONDS / 3, self._look)
        if self.transport.is_closing():  # since the last look, and what is left to send is not taken
            self.transport.abort()
        elif not self._idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > HEADER_SECONDS:
            self.transport.close()
