"""The server as one application: its routes, and what it says of itself."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from daybreak.data.tokenizer import END_OF_TEXT
from daybreak.model.flops import parameter_count
from daybreak.serve import chatting, figures, page
from daybreak.serve.answers import spelled
from daybreak.serve.bodies import DetokenizeBody, EmbeddingBody, TokenizeBody
from daybreak.serve.courier import Courier
from daybreak.serve.guard import Guard
from daybreak.serve.hosting import Hosted, Hosts
from daybreak.serve.problems import Refused, answer, of_validation, shortened
from daybreak.serve.streaming import Gone, while_there
from daybreak.serve.writing import chat_completions, completions, each_of, encoded, hosts_of, ids_of


@dataclass(frozen=True)
class Policy:
    """What the server allows."""

    api_key: str | None = None
    cors: tuple[str, ...] = ()
    max_body: int = 2 << 20
    """Bytes of a request's body."""
    max_seconds: float = 600.0
    """For one answer."""
    body_seconds: float = 30.0
    """For a request's body to arrive."""


def make_app(
    hosts: Hosts, policy: Policy | None = None, *, say: Callable[[str], None], ready: Callable[[], None] = lambda: None
) -> FastAPI:
    """The server as an ASGI application; it starts the engines, calls `ready`, and ends them. `say` tells the person who runs it."""
    policy = policy or Policy()
    statuses: Counter[int] = Counter()

    @contextlib.asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        app.state.courier = Courier(asyncio.get_running_loop())
        for hosted in hosts.models.values():
            hosted.start()
        ready()
        yield
        for hosted in hosts.models.values():
            await asyncio.to_thread(hosted.close)

    app = FastAPI(title="daybreak", lifespan=living, docs_url=None, redoc_url=None, strict_content_type=True)
    app.state.hosts, app.state.policy, app.state.statuses = hosts, policy, statuses
    app.exception_handler(HTTPException)(_refuse)
    app.exception_handler(RequestValidationError)(_refuse_body)
    app.add_middleware(
        Guard, statuses=statuses, say=say, api_key=policy.api_key, max_body=policy.max_body, body_seconds=policy.body_seconds
    )
    if policy.cors:
        app.add_middleware(CORSMiddleware, allow_origins=list(policy.cors), allow_methods=["GET", "POST"], allow_headers=["*"])
    app.post("/v1/completions")(completions)
    app.post("/v1/chat/completions")(chat_completions)
    app.post("/v1/embeddings")(embeddings)
    app.post("/tokenize")(tokenize)
    app.post("/detokenize")(detokenize)
    app.get("/tokenizer_info")(tokenizer_info)
    app.get("/v1/models")(models)
    app.get("/v1/models/{name:path}")(one_model)
    app.get("/health")(health)
    app.get("/metrics")(metrics)
    app.get("/", include_in_schema=False)(home)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        return error.response()
    path = shortened(request.url.path, 100)
    told = {
        404: f"{path}: nothing is here; there are /v1/completions, /v1/chat/completions, /v1/models and others, see /openapi.json",
        405: f"{path}: cannot be asked with {request.method}",
    }
    return Refused(error.status_code, told.get(error.status_code, str(error.detail))).response()


async def _refuse_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        return Refused(415, f"wanted Content-Type: application/json, came {kind[:80] or 'none'}").response()
    return of_validation(error.errors()).response()


async def embeddings(body: EmbeddingBody, request: Request) -> Response:
    """The mean of the last layer's normalised outputs for each text, of length 1."""
    hosted = hosts_of(request).find(body.model)
    width = hosted.model.config.d_model
    if body.dimensions not in (None, width):
        raise Refused(400, f"dimensions: wanted the model's width {width}, came {body.dimensions}; leave it out", param="dimensions")
    texts = [await ids_of(hosted, text, body.truncate_prompt_tokens, "input") for text in each_of(body.input)]

    async def made() -> list[dict[str, Any]]:
        found = []
        for index, ids in enumerate(texts):
            vector = await asyncio.to_thread(hosted.embed, ids)
            packed = base64.b64encode(struct.pack(f"<{width}f", *vector)).decode() if body.encoding_format == "base64" else vector
            found.append({"object": "embedding", "index": index, "embedding": packed})
        return found

    try:
        data = await while_there(request.receive, made(), request.app.state.policy.max_seconds)
    except Gone:
        return Response(status_code=499)
    tokens = sum(map(len, texts))
    return answer({"object": "list", "model": hosted.name, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


async def tokenize(body: TokenizeBody, request: Request) -> Response:
    """The ids of a text."""
    hosted = hosts_of(request).find(body.model)
    ids = await encoded(hosted, body.prompt) if body.prompt else []
    told: dict[str, Any] = {"count": len(ids), "max_model_len": hosted.context_length, "tokens": ids}
    return answer({**told, "token_strs": [spelled(hosted.model.tokenizer, token) for token in ids]} if body.return_token_strs else told)


async def detokenize(body: DetokenizeBody, request: Request) -> Response:
    """The text of ids."""
    hosted = hosts_of(request).find(body.model)
    try:
        return answer({"prompt": hosted.model.tokenizer.decode(body.tokens)})
    except ValueError as error:
        raise Refused(400, str(error), param="tokens") from None


async def tokenizer_info(request: Request, model: str | None = None) -> Response:
    """The tokenizer in a few words, as the lm-evaluation-harness asks before it takes /tokenize for its own."""
    hosted = hosts_of(request).find(model)
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": None, "chat_template": None}
    return answer({"tokenizer_class": hosted.model.tokenizer.name, "model_max_length": hosted.context_length, **special})


async def models(request: Request) -> Response:
    """What is served."""
    return answer({"object": "list", "data": [_described(hosted) for hosted in hosts_of(request).models.values()]})


async def one_model(name: str, request: Request) -> Response:
    """One of them."""
    return answer(_described(hosts_of(request).find(name)))


def _described(hosted: Hosted) -> dict[str, Any]:
    return {
        "id": hosted.name,
        "object": "model",
        "created": hosted.created,
        "owned_by": "daybreak",
        "max_model_len": hosted.context_length,
        "parameters": parameter_count(hosted.model.config),
        "vocab_size": hosted.model.tokenizer.vocab_size,
        "dtype": hosted.model.dtype,
        "kind": "base model",
        "chat_template": chatting.DESCRIPTION,
    }


async def health(request: Request) -> Response:
    """Whether every model can answer."""
    broken = [hosted.name for hosted in hosts_of(request).models.values() if not hosted.well]
    return answer({"status": "broken", "broken": broken} if broken else {"status": "ok"}, 503 if broken else 200)


async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    told = [(hosted.name, hosted.engine.stats, hosted.timings) for hosted in hosts_of(request).models.values()]
    return Response(figures.text(told, request.app.state.statuses), media_type="text/plain; version=0.0.4; charset=utf-8")


async def home() -> Response:
    """The page."""
    headers = {"content-security-policy": page.policy(), "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}
    return Response(page.document(), headers={**headers, "cache-control": "no-cache"}, media_type="text/html; charset=utf-8")
