"""Answers that end when their client goes away or their time is up: server-sent events, and whole ones that are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar, final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from daybreak.serve.problems import Refused, encoded

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
SECONDS_TO_TELL = 5.0
"""How long a client has to take the last event of an answer whose time is up."""

T = TypeVar("T")


class Gone(Exception):
    """The client went away."""


async def while_there(receive: Receive, work: Awaitable[T], seconds: float) -> T:
    """What `work` gives. Raises Gone where the client goes first, Refused where the time is up; the work is then cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise Gone
        raise late(seconds)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def late(seconds: float) -> Refused:
    """What is told of an answer that takes too long."""
    return Refused(504, f"the answer took longer than the {seconds:g} s that the server allows; ask for fewer tokens, or stream them")


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@final
class EventStream(Response):
    """Server-sent events. `finish` is called however it ends."""

    def __init__(self, batches: AsyncIterator[list[Mapping[str, Any]]], finish: Callable[[], None], seconds: float) -> None:
        """`batches`: the events of which each is one JSON object; those of a batch are sent together."""
        super().__init__()
        self._batches = batches
        self._finish = finish
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all."""
        start = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            *((name.encode(), text.encode()) for name, text in HEADERS.items()),
        ]
        try:
            await while_there(receive, self._send(send, start), self._seconds + SECONDS_TO_TELL)
        except (Gone, Refused, OSError):  # nobody reads, or not fast enough
            pass
        finally:
            self._finish()

    async def _send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with asyncio.timeout(self._seconds):
                async for batch in self._batches:
                    await send({"type": "http.response.body", "body": b"".join(map(_event, batch)), "more_body": True})
        except TimeoutError:
            await send({"type": "http.response.body", "body": _event(late(self._seconds).body()), "more_body": True})
        except Refused as refused:
            await send({"type": "http.response.body", "body": _event(refused.body()), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + encoded(body) + b"\n\n"
