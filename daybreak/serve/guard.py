"""What stands before every request: the key, the limits on a body's size and time, and the last word where something breaks.

The body is read whole before anything else happens, so nothing behind this file meets a client that sends slowly or too much.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable
from typing import final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daybreak.serve.problems import Refused

OPEN = ("/", "/health")
"""What needs no key: the page, which asks for it, and whether the server lives."""
SECONDS_TO_DRAIN = 10.0
"""How long a body that is too large is read to nowhere, as most clients read no answer before they have sent all."""


@final
class Guard:
    """An ASGI application around another."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        statuses: Counter[int],
        say: Callable[[str], None],
        api_key: str | None = None,
        max_body: int = 2 << 20,
        body_seconds: float = 30.0,
    ) -> None:
        """`statuses` is where the answers are counted, `say` tells the person who runs the server."""
        self._app = app
        self._statuses = statuses
        self._say = say
        self._key = None if api_key is None else api_key.encode()
        self._max_body = max_body
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._statuses[message["status"]] += 1
            await send(message)

        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            if body is not None:
                await self._app(scope, _replayed(body, receive), counted)
        except Refused as refused:
            if not begun:
                await refused.response()(scope, receive, counted)
        except Exception as error:
            self._say(f"error: unexpected {type(error).__name__} while answering {scope['path']!r}: {' '.join(str(error).split())[:300]}")
            if not begun:
                await Refused(500, "the server made a mistake; it goes on").response()(scope, receive, counted)

    def _admit(self, scope: Scope) -> None:
        if self._key is None or scope["path"] in OPEN:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key):
            came = "came another" if given else "came none"
            raise Refused(401, f"wanted the server's key as `Authorization: Bearer KEY`, {came}", code="invalid_api_key")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client went away before its end."""
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        large = not declared.isdigit() or int(declared[:18]) > self._max_body
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(SECONDS_TO_DRAIN if large else self._body_seconds) as limit:
                more = not (large and headers.get(b"expect", b"").lower() == b"100-continue")
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message.get("body", b""))
                    if size <= self._max_body and not large:
                        pieces.append(message.get("body", b""))
                    elif not large:
                        large = True
                        pieces.clear()
                        limit.reschedule(asyncio.get_running_loop().time() + SECONDS_TO_DRAIN)
                    more = message.get("more_body", False)
        except TimeoutError:
            if not large:
                raise Refused(408, f"wanted the whole body within {self._body_seconds:g} s, came {size:,} bytes; send it quicker") from None
        if large:
            raise Refused(413, f"wanted a body of at most {self._max_body:,} bytes, came more; send less at once")
        return b"".join(pieces)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, then what the client does next."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
