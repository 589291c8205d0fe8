"""A server in this process with a tiny model, and plain ways to talk to it: what the tests of this folder begin with."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import torch

from daybreak.data.tokenizer import Tokenizer, load_tokenizer
from daybreak.inference.engine import Engine
from daybreak.inference.requests import Limits
from daybreak.loading import Model
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.serve import listening
from daybreak.serve.app import Policy, make_app
from daybreak.serve.hosting import Hosted, Hosts

CONTEXT = 64


def tiny_model(seed: int = 0, tokenizer: Tokenizer | None = None) -> Model:
    """A model of 257 tokens, two layers, whose next token is neither certain nor a coin's throw."""
    tokenizer = tokenizer or load_tokenizer("bytes")
    gpt = build(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=CONTEXT, n_layer=2, n_head=2, d_model=32), seed=seed)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter *= 5
    return Model(gpt, tokenizer)


def hosted(name: str = "tiny", seed: int = 0, limits: Limits | None = None) -> Hosted:
    """It with its engine."""
    model = tiny_model(seed)
    return Hosted(name, model, Engine(model.gpt, model.tokenizer.token_bytes, eot=model.tokenizer.eot, limits=limits))


class Client:
    """One server's address."""

    def __init__(self, url: str, said: list[str], hosts: Hosts) -> None:
        self.url = url
        self.said = said
        self.hosts = hosts
        self.key: str | None = None

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        """A new connection."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of one request."""
        if self.key is not None:
            headers.setdefault("authorization", f"Bearer {self.key}")
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return response.status, {name.lower(): text for name, text in response.getheaders()}, response.read()

    def get(self, path: str) -> Any:
        """The JSON behind a path."""
        status, _, body = self.send("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, status: int = 200, /, **values: Any) -> Any:
        """The JSON that answers JSON."""
        came, headers, body = self.send("POST", path, json.dumps(values).encode(), content_type="application/json")
        assert came == status, body
        assert headers["content-type"] == "application/json"
        return json.loads(body)

    def complete(self, prompt: Any = "The sun", **values: Any) -> Any:
        """A completion; greedy unless told otherwise."""
        return self.post("/v1/completions", **{"prompt": prompt, "temperature": 0, **values})

    def stream(self, path: str, **values: Any) -> list[Any]:
        """The events of a stream, without the last, [DONE]."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("POST", path, json.dumps({**values, "stream": True}).encode(), {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200
            assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
            lines = [line[6:] for line in response.read().decode().split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def idle(self, seconds: float = 20) -> bool:
        """Waits until no engine has anything to do."""
        deadline = time.monotonic() + seconds
        while any(one.engine.stats.running or one.engine.stats.waiting for one in self.hosts.models.values()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


@contextlib.contextmanager
def serving(*models: Hosted, policy: Policy | None = None) -> Iterator[Client]:
    """A server while the block runs."""
    said: list[str] = []
    hosts = Hosts(models or (hosted(),))
    socket = listening.listen("127.0.0.1", 0)
    up = threading.Event()
    server = listening.server(make_app(hosts, policy, say=said.append, ready=up.set))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        assert up.wait(30)
        yield Client(listening.url(socket), said, hosts)
    finally:
        server.should_exit = True
        thread.join(60)
        socket.close()
    assert not thread.is_alive()
