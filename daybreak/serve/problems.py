"""What the server says when it cannot do what was asked: OpenAI's form of an error, with a fitting status, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}
LONGEST = 300
"""Characters of what came that an error repeats."""


class Refused(HTTPException):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        headers = {
            401: {"WWW-Authenticate": "Bearer"},
            429: {"Retry-After": "1"},
            408: {"Connection": "close"},
            413: {"Connection": "close"},
        }
        super().__init__(status, message, headers.get(status))
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """In OpenAI's form."""
        kind = KINDS.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        return answer(self.body(), self.status_code, self.headers)


def answer(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as a response."""
    return Response(encoded(body), status, dict(headers or {}), "application/json")


def encoded(body: Mapping[str, Any]) -> bytes:
    """JSON that every client can read: no NaN, no halves of characters."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def of_validation(errors: Sequence[Mapping[str, Any]]) -> Refused:
    """The first things that are wrong with a body, in one line."""
    told: dict[str, str] = {}
    for error in errors[:8]:
        where = [str(part) for part in error.get("loc", ()) if part != "body"]
        name = where[0] if where else "body"
        if error.get("type") == "json_invalid":
            told["body"] = "wanted JSON, came something else"
        else:
            told.setdefault(name, _sentence(".".join(where) or "body", error))
    text = "; ".join(shortened(sentence) for sentence in told.values())
    first = next(iter(told), None)
    return Refused(400, text or "the body cannot be read", param=None if first == "body" else first)


def _sentence(where: str, error: Mapping[str, Any]) -> str:
    message = str(error.get("msg", "cannot be used")).removeprefix("Value error, ")
    if error.get("type") == "value_error":
        return message
    came = error.get("input")
    shown = "" if isinstance(came, dict | list) else f", came {shortened(repr(came), 80)}"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text that may be long, and whose author may be anyone."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
