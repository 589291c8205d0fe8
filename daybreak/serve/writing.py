"""Completions and chats: from a checked body to the engine's requests, and from what it emits to an answer, streamed or whole."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

import daybreak.inference.requests as asking
from daybreak.inference.sampling import Sampling
from daybreak.serve import chatting
from daybreak.serve.answers import Chat, Completion, added, as_message, usage
from daybreak.serve.bodies import ChatBody, CompletionBody, Prompt, WritingBody
from daybreak.serve.hosting import Hosted, Hosts, Writing
from daybreak.serve.problems import Refused, answer
from daybreak.serve.streaming import EventStream, Gone, while_there

MAX_TOKENS = 16
"""Of a completion where nothing is said, as at OpenAI."""
LONG_TEXT = 4096
"""Characters beyond which a text is encoded beside the event loop."""

Pieces = Sequence[Completion | Chat]


async def completions(body: CompletionBody, request: Request) -> Response:
    """Continue one or several prompts."""
    hosted = hosts_of(request).find(body.model)
    n = body.n or 1
    prompts = [await ids_of(hosted, prompt, body.truncate_prompt_tokens) for prompt in each_of(body.prompt)]
    max_tokens = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    asked = [_asked(body, ids, max_tokens, body.logprobs, bool(body.echo), choice) for ids in prompts for choice in range(n)]
    pieces = []
    for number, (given, ids) in enumerate(zip(each_of(body.prompt), prompts, strict=True)):
        text = given if isinstance(given, str) and not body.truncate_prompt_tokens else _decoded(hosted, ids)
        echo = text if body.echo else None
        for choice in range(n):
            index = number * n + choice
            shown = ids if body.return_token_ids else ()
            pieces.append(
                Completion(
                    index,
                    hosted.model.tokenizer,
                    logprobs=body.logprobs is not None,
                    ids=bool(body.return_token_ids),
                    echo=echo,
                    prompt=shown,
                )
            )
    head = _head("cmpl", "text_completion", hosted)
    return await _answered(request, body, hosted, asked, pieces, head, head, sum(map(len, prompts)))


async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Continue a chat, written as a plain dialogue."""
    hosted = hosts_of(request).find(body.model)
    text = chatting.as_text((message.role, message.text) for message in body.messages)
    ids = await ids_of(hosted, text, body.truncate_prompt_tokens)
    max_tokens = body.max_completion_tokens or body.max_tokens or hosted.context_length
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    asked = [_asked(body, ids, max_tokens, logprobs, False, choice, chatting.STOP) for choice in range(body.n or 1)]
    pieces = [Chat(choice, hosted.model.tokenizer, logprobs=bool(body.logprobs)) for choice in range(body.n or 1)]
    whole = _head("chatcmpl", "chat.completion", hosted)
    return await _answered(request, body, hosted, asked, pieces, whole, {**whole, "object": "chat.completion.chunk"}, len(ids))


def _asked(
    body: WritingBody, ids: Sequence[int], max_tokens: int, logprobs: int | None, echo: bool, choice: int, stop: tuple[str, ...] = ()
) -> asking.Request:
    """What one text asks of the engine. Each of several choices draws from a seed of its own, the first from the one given."""
    seed = secrets.randbits(63) if body.seed is None else body.seed
    sampling = Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k if body.top_k and body.top_k > 0 else None,
        top_p=body.top_p,
        min_p=body.min_p,
        typical_p=body.typical_p,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=tuple(body.logit_bias.items()),
    )
    return asking.Request(
        tokens=tuple(ids),
        max_tokens=max_tokens,
        sampling=sampling,
        seed=(seed + choice * 0x9E3779B97F4A7C15) % 2**63,
        stop=(*body.stop, *stop),
        logprobs=logprobs,
        prompt_logprobs=echo and logprobs is not None,
        ignore_eot=bool(body.ignore_eos),
    )


async def _answered(
    request: Request,
    body: WritingBody,
    hosted: Hosted,
    asked: Sequence[asking.Request],
    pieces: Pieces,
    whole: Mapping[str, Any],
    chunk: Mapping[str, Any],
    prompt_tokens: int,
) -> Response:
    """The texts as they grow, or all at once; nobody writes on for a client that went away."""
    seconds = request.app.state.policy.max_seconds
    writing = Writing(hosted, asked, request.app.state.courier)

    def used() -> dict[str, Any]:
        return usage(prompt_tokens, sum(ticket.written for ticket in writing.tickets), sum(ticket.reused for ticket in writing.tickets))

    async def grown() -> AsyncIterator[list[dict[str, Any]]]:
        async for batch in writing:
            yield [piece for index, emitted in batch if (piece := pieces[index].piece(emitted)) is not None]

    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)

        async def events() -> AsyncIterator[list[Mapping[str, Any]]]:
            async for batch in grown():
                if batch:
                    yield [{**chunk, "choices": [piece], **({"usage": None} if with_usage else {})} for piece in batch]
            if with_usage:
                yield [{**chunk, "choices": [], "usage": used()}]

        return EventStream(events(), writing.cancel, seconds)

    async def collected() -> list[dict[str, Any]]:
        parts: list[list[dict[str, Any]]] = [[] for _ in pieces]
        async for batch in grown():
            for piece in batch:
                parts[piece["index"]].append(piece)
        return [added(part) for part in parts]

    try:
        choices = await while_there(request.receive, collected(), seconds)
    except Gone:
        return Response(status_code=499)
    finally:
        writing.cancel()
    return answer({**whole, "choices": [as_message(choice) if "delta" in choice else choice for choice in choices], "usage": used()})


def _head(kind: str, form: str, hosted: Hosted) -> dict[str, Any]:
    return {
        "id": f"{kind}-{secrets.token_hex(12)}",
        "object": form,
        "created": int(time.time()),
        "model": hosted.name,
        "system_fingerprint": f"daybreak-{hosted.model.dtype}",
    }


def hosts_of(request: Request) -> Hosts:
    """The server's models."""
    hosts: Hosts = request.app.state.hosts
    return hosts


def each_of(prompt: Prompt) -> list[str | list[int]]:
    """The prompts, also where one is given without a list around it."""
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt  # type: ignore[return-value]


async def ids_of(hosted: Hosted, prompt: str | list[int], keep: int | None, param: str = "prompt") -> list[int]:
    """A prompt's ids, the last `keep` of them. Raises Refused where they do not fit into the context or are none of the model's."""
    ids = await encoded(hosted, prompt) if isinstance(prompt, str) else prompt
    ids = ids[-keep:] if keep else ids
    if len(ids) > hosted.context_length:
        message = f"{param}: wanted at most the model's context of {hosted.context_length:,} tokens, came {len(ids):,}; shorten it"
        raise Refused(400, f"{message}, or set truncate_prompt_tokens", param=param, code="context_length_exceeded")
    if (largest := max(ids)) >= hosted.model.config.tokens:
        raise Refused(400, f"{param}: wanted ids from 0 to {hosted.model.config.tokens - 1:,}, came {largest:,}", param=param)
    return ids


def _decoded(hosted: Hosted, ids: Sequence[int]) -> str:
    """Ids as text; those that the tokenizer never makes have none."""
    return hosted.model.tokenizer.decode([token for token in ids if token <= hosted.model.tokenizer.eot])


async def encoded(hosted: Hosted, text: str) -> list[int]:
    """A text's ids; a long text does not hold up the others."""
    return await asyncio.to_thread(hosted.encode, text) if len(text) > LONG_TEXT else hosted.encode(text)
