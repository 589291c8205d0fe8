"""What goes wrong: bad bodies, too much, too slow, gone in the middle, too many; each is answered in OpenAI's form, and all goes on."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Client, hosted, serving

from daybreak.inference.requests import Limits
from daybreak.serve import listening
from daybreak.serve.app import Policy

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NUMBERS = st.one_of(st.integers(-3, 300), st.floats(-3, 3), st.sampled_from([0, 1, 2**31, 2**63, -(2**63), 1e308, 10**400]))
LIKELY = {
    "prompt": st.one_of(st.text(max_size=90), st.lists(st.integers(-1, 300), max_size=70), st.lists(st.text(max_size=9), max_size=4)),
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": st.text(max_size=20)}), max_size=3
    ),
    "input": st.one_of(st.text(max_size=90), st.lists(st.text(max_size=9), max_size=4)),
    "tokens": st.lists(st.integers(-1, 300), max_size=20),
    "model": st.sampled_from(["tiny", "tinny", "", None]),
    "stop": st.one_of(st.text(max_size=4), st.lists(st.text(max_size=3), max_size=20)),
    "logit_bias": st.dictionaries(st.sampled_from(["1", "256", "-1", "x", "999999"]), st.floats(-120, 120), max_size=3),
    "stream": st.booleans(),
    "echo": st.booleans(),
    "encoding_format": st.sampled_from(["float", "base64", "other"]),
    "stream_options": st.just({"include_usage": True}),
    **dict.fromkeys(("max_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "n", "best_of", "logprobs", "seed"), NUMBERS),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty", "top_logprobs", "truncate_prompt_tokens"), NUMBERS),
}
PATHS = {
    "/v1/completions": ("prompt",),
    "/v1/chat/completions": ("messages",),
    "/v1/embeddings": ("input",),
    "/tokenize": ("prompt",),
    "/detokenize": ("tokens",),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body: mostly of the right fields with likely values, sometimes anything at all."""
    path = draw(st.sampled_from(sorted(PATHS)))
    if draw(st.integers(0, 9)) == 0:
        return path, draw(st.binary(max_size=40) | ANYTHING.map(lambda value: json.dumps(value).encode()))
    names = [*PATHS[path], *draw(st.lists(st.sampled_from(sorted(LIKELY)), max_size=3))]
    body = {name: draw(ANYTHING if draw(st.integers(0, 11)) == 0 else LIKELY[name]) for name in names}
    if isinstance(body.get("n"), int) and path == "/v1/completions":
        body["max_tokens"] = 2
    return path, json.dumps(body).encode()


def well_formed(status: int, kind: str, body: bytes) -> bool:
    """Whether an answer is one that a client of OpenAI's understands, without a word of Python in it."""
    if b"Traceback" in body or b".py" in body:
        return False
    if status == 200 and kind.startswith("text/event-stream"):
        return body.endswith(b"data: [DONE]\n\n")
    told = json.loads(body)
    if status == 200:
        return "error" not in told
    error = told["error"]
    return 400 <= status < 500 and set(error) == {"message", "type", "param", "code"} and 0 < len(error["message"]) < 3000


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(asked=requests())
def test_whatever_is_asked_is_answered(client: Client, asked: tuple[str, bytes]) -> None:
    path, body = asked
    status, headers, came = client.send("POST", path, body, content_type="application/json")
    assert well_formed(status, headers["content-type"], came), (path, body, status, came)
    assert client.said == []


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"temperature": -1}, "temperature: input should be greater than or equal to 0, came -1", "temperature"),
        ({"temperature": "hot"}, "temperature: input should be a valid number, came 'hot'", "temperature"),
        ({"prompt": 3}, "prompt: wanted a text, a list of token ids, or 1 to 128 of these, came 3", "prompt"),
        (
            {"prompt": ["a", 3]},
            "prompt: wanted a text, a list of token ids, or 1 to 128 of these, came a list of 2 items (int, str)",
            "prompt",
        ),
        ({"prompt": [300]}, "prompt: wanted ids from 0 to 256, came 300", "prompt"),
        ({"temprature": 1}, "temprature: no such field; did you mean temperature?", None),
        ({"suffix": "end"}, "suffix: these models write on behind a prompt, they do not fill in between two texts; leave it out", None),
        ({"best_of": 3}, "best_of: wanted 1 or n = 1, came 3; ask for more texts with n and choose among them", None),
        ({"stream_options": {}}, "stream_options: wanted only together with stream, came without; set stream or leave it out", None),
        ({"model": "dask"}, "the model 'dask' does not exist here; did you mean dusk?; there are tiny, dusk", "model"),
        ({"stop": [""]}, "stop: wanted a text or up to 16, each of 1 to 1,000 characters, came a list of 1 items (str)", "stop"),
        ({"n": 200}, "n: input should be less than or equal to 128, came 200", "n"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(client: Client, body: Any, message: str, param: str | None) -> None:
    error = client.post("/v1/completions", 404 if "model" in body else 400, **{"prompt": "x", **body})["error"]
    assert error["message"] == message
    assert error["param"] == param


def test_fields_that_change_nothing_are_passed_over(client: Client) -> None:
    assert client.complete("x", user="me", metadata={"a": "b"}, suffix=None, best_of=1)["choices"]


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("text/plain", b'{"prompt": "x"}', 415, "wanted Content-Type: application/json, came text/plain"),
        ("application/json", b'{"prompt"', 400, "wanted JSON, came something else"),
        ("application/json", b"[" * 100_000, 400, None),
        ("application/json", b"\xff\xfe", 400, None),
        ("application/json", b'{"prompt": "\\ud800"}', 400, "prompt: wanted a text"),
        ("application/json", b'{"temperature": NaN, "prompt": "x"}', 400, "temperature: input should be a finite number"),
        ("application/json", b'{"seed": ' + b"9" * 5000 + b"}", 400, None),
        ("application/json", b"", 400, None),
    ],
)
def test_bodies_that_are_none(client: Client, kind: str, body: bytes, status: int, message: str | None) -> None:
    came, headers, told = client.send("POST", "/v1/completions", body, content_type=kind)
    assert came == status
    assert well_formed(came, headers["content-type"], told)
    assert message is None or message in json.loads(told)["error"]["message"]


def test_a_body_too_large_is_refused_and_not_kept() -> None:
    with serving(hosted(), policy=Policy(max_body=1000)) as client:
        told = client.post("/v1/completions", 413, prompt="x" * 5_000_000)
        assert told["error"]["message"] == "wanted a body of at most 1,000 bytes, came more; send less at once"
        with _raw(client) as raw:  # without its length told before
            raw.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                raw.sendall(b"100\r\n" + b"x" * 256 + b"\r\n")
            raw.sendall(b"0\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 413")
        assert client.complete("x")["choices"]


def _raw(client: Client) -> socket.socket:
    parts = urlsplit(client.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def test_a_body_too_slow_is_refused() -> None:
    with serving(hosted(), policy=Policy(body_seconds=0.3)) as client, _raw(client) as raw:
        raw.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        assert raw.recv(4096).startswith(b"HTTP/1.1 408")


def test_headers_too_slow_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEADER_SECONDS", 0.3)
    with serving(hosted()) as client, _raw(client) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x")
        assert raw.recv(100) == b""
        assert client.get("/health") == {"status": "ok"}


def test_an_answer_too_slow_is_ended() -> None:
    one = hosted()
    with serving(one, policy=Policy(max_seconds=0.2)) as client:
        step = one.engine.step
        one.engine.step = lambda: (time.sleep(0.05), step())[1]  # type: ignore[method-assign]
        told = client.post("/v1/completions", 504, prompt="x", max_tokens=60, ignore_eos=True)
        assert told["error"]["type"] == "timeout_error"
        events = client.stream("/v1/completions", prompt="x", max_tokens=60, ignore_eos=True)
        assert events[-1]["error"]["type"] == "timeout_error"
        assert len(events) > 1
        assert client.idle()


@pytest.mark.parametrize("stream", [True, False])
def test_nobody_writes_for_a_client_that_went_away(stream: bool) -> None:
    one = hosted()
    with serving(one) as client:
        step = one.engine.step
        one.engine.step = lambda: (time.sleep(0.02), step())[1]  # type: ignore[method-assign]
        body = json.dumps({"prompt": "x", "max_tokens": 60, "ignore_eos": True, "stream": stream, "n": 3}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        with _raw(client) as raw:
            raw.sendall(head + body)
            if stream:
                assert b"data: " in raw.recv(4096) + raw.recv(4096)
            while not one.engine.stats.running:
                time.sleep(0.01)
        assert client.idle(5)
        assert one.engine.stats.written_tokens < 3 * 60
        assert dict(one.engine.stats.finished)["cancelled"] == 3


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    with serving(hosted(), policy=Policy(max_seconds=60.0)) as client:
        body = json.dumps({"prompt": "x", "max_tokens": 60, "ignore_eos": True, "stream": True, "n": 64, "logprobs": 20}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        with _raw(client) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.sendall(head + body)
            assert client.complete("x", max_tokens=3)["choices"]
            assert client.idle()


def test_what_is_left_of_a_closed_connection_is_let_go() -> None:
    """Where a client takes nothing any more, waiting for it to take the rest would keep the connection for ever."""
    aborted: list[bool] = []
    connection = object.__new__(listening._Prompt)
    connection.loop = SimpleNamespace(time=lambda: 0.0, call_later=lambda seconds, look: None)  # type: ignore[assignment]
    connection.transport = SimpleNamespace(is_closing=lambda: True, abort=lambda: aborted.append(True))  # type: ignore[assignment]
    connection._look()
    assert aborted == [True]


def test_too_many_are_told_to_come_again() -> None:
    one = hosted(limits=Limits(running=1, waiting=2))
    with serving(one) as client:
        step = one.engine.step
        one.engine.step = lambda: (time.sleep(0.02), step())[1]  # type: ignore[method-assign]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            asked = [json.dumps({"prompt": "x", "max_tokens": 20, "temperature": 0}).encode()] * 12
            came = list(pool.map(lambda body: client.send("POST", "/v1/completions", body, content_type="application/json"), asked))
        statuses = [status for status, _, _ in came]
        assert set(statuses) == {200, 429}
        assert 2 <= statuses.count(200) < 12
        texts = {json.loads(body)["choices"][0]["text"] for status, _, body in came if status == 200}
        assert len(texts) == 1
        headers, told = next((headers, json.loads(body)) for status, headers, body in came if status == 429)
        assert headers["retry-after"] == "1"
        assert told["error"]["type"] == "rate_limit_error"
        assert client.post("/v1/completions", 429, prompt="x", n=5)["error"]["code"] == "rate_limit_exceeded"  # all or none
        assert client.idle()


def test_many_at_once() -> None:
    with serving(hosted(limits=Limits(waiting=1000))) as client:
        wanted = client.complete("The sun", max_tokens=3)["choices"][0]["text"]
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda: found.append(client.complete("The sun", max_tokens=3)["choices"][0]["text"]))
            for _ in range(100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [wanted] * 100


def test_a_mistake_of_the_server_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    one = hosted()
    with serving(one) as client:
        monkeypatch.setattr(one, "encode", lambda text: 1 / 0)
        told = client.post("/tokenize", 500, prompt="x")
        assert told["error"] == {"message": "the server made a mistake; it goes on", "type": "server_error", "param": None, "code": None}
        assert client.said == ["error: unexpected ZeroDivisionError while answering '/tokenize': division by zero"]


def test_a_model_that_fails_is_told_of() -> None:
    one = hosted()
    one.model.gpt.norm.weight.data.fill_(float("nan"))
    with serving(one) as client:
        error = client.post("/v1/completions", 500, prompt="x")["error"]
        assert "the model predicts NaN" in error["message"]
        assert "the model predicts NaN" in client.stream("/v1/completions", prompt="x")[-1]["error"]["message"]


def test_the_key() -> None:
    with serving(hosted(), policy=Policy(api_key="sésame")) as client:
        assert client.send("GET", "/health")[0] == client.send("GET", "/")[0] == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            status, headers, body = client.send("GET", path)
            assert (status, headers["www-authenticate"], json.loads(body)["error"]["code"]) == (401, "Bearer", "invalid_api_key")
        assert client.send("GET", "/v1/models", authorization="Bearer sesame")[0] == 401
        client.key = "s\u00e9same".encode().decode("latin-1")
        assert client.send("GET", "/v1/models")[0] == 200
        assert client.complete("x")["choices"]


def test_other_origins_are_let_in_where_asked(client: Client) -> None:
    origin = {"origin": "https://example.org", "access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    assert "access-control-allow-origin" not in client.send("OPTIONS", "/v1/completions", **origin)[1]
    assert "access-control-allow-origin" not in client.send("GET", "/v1/models", origin="https://example.org")[1]
    with serving(hosted(), policy=Policy(cors=("https://example.org",), api_key="k")) as other:
        status, headers, _ = other.send("OPTIONS", "/v1/completions", **origin)
        assert (status, headers["access-control-allow-origin"]) == (200, "https://example.org")
        status, headers, _ = other.send("GET", "/v1/models", origin="https://example.org")
        assert (status, headers["access-control-allow-origin"]) == (401, "https://example.org")  # a page can read why
        assert "access-control-allow-origin" not in other.send("GET", "/health", origin="https://other.org")[1]
