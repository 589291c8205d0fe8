"""The server under load and ill use: what it costs over the bare engine, and that nothing brings it down, fills it or makes it say wrong.

    python benchmarks/serve.py                 # all: 100,000 requests and 30 minutes of load; about an hour
    python benchmarks/serve.py --quick         # a hundredth of it, without the timings
    python benchmarks/serve.py --only cost     # one part: cost, requests, bodies, slow, gone, crowd, load; the record keeps the others'

Each part but `cost` has a tiny model behind `daybreak serve` in a process of its own: its memory can be told from the clients'. In
`cost` the clients have one, and the server shares this one's engine.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

import torch
from record import RESULTS, bar, record

from daybreak import loading, machine
from daybreak.data.encoders import BytePairs
from daybreak.data.ranks import BYTES_IN_ORDER
from daybreak.data.tokenizer import Tokenizer, load_tokenizer
from daybreak.inference.engine import Engine
from daybreak.inference.requests import Emitted, Limits, OnToken, Request, Ticket
from daybreak.inference.sampling import Sampling
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.init import build
from daybreak.serve import listening
from daybreak.serve.app import make_app
from daybreak.serve.hosting import Hosted, Hosts, host

MIB = 2**20
ROUNDS = 9
PROMPT_TOKENS, NEW_TOKENS = 16, 48


# --- a server of its own ---------------------------------------------------------------------------------------------------


class Server:
    """`daybreak serve` in another process."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "daybreak", "serve", str(folder), "--port", "0", "--json", "--device", "cpu", *words]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.errors, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert self.process.stdout is not None
        url = urlsplit(json.loads(self.process.stdout.readline())["url"])
        assert url.hostname is not None
        assert url.port is not None
        self.address = (url.hostname, url.port)

    def connect(self, timeout: float = 120) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=timeout)

    def ask(
        self, method: str, path: str, body: bytes | None = None, connection: http.client.HTTPConnection | None = None
    ) -> tuple[int, str, bytes]:
        """(status, content type, body)."""
        with contextlib.nullcontext(connection) if connection else contextlib.closing(self.connect()) as one:
            one.request(method, path, body, {"content-type": "application/json"})
            response = one.getresponse()
            return response.status, response.getheader("content-type", ""), response.read()

    def complete(self, **values: Any) -> Any:
        status, _, body = self.ask("POST", "/v1/completions", json.dumps(values).encode())
        return json.loads(body) if status == 200 else status

    def figure(self, name: str) -> float:
        """The sum of one of /metrics over all its labels."""
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))

    def memory(self) -> float:
        """MiB that it holds."""
        return self.figure("process_resident_memory_bytes") / MIB

    def idle(self, seconds: float = 60) -> bool:
        deadline = time.monotonic() + seconds
        while self.figure("vllm:num_requests_running") + self.figure("vllm:num_requests_waiting"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def close(self) -> str:
        """Ends it and returns what it said after its first line."""
        self.process.terminate()
        self.process.communicate(timeout=90)
        self.errors.seek(0)
        return "".join(self.errors.readlines()[1:])


@contextlib.contextmanager
def tiny_server(*words: str) -> Iterator[Server]:
    """A tiny model of 257 tokens; afterwards the server must have ended well and complained of nothing."""
    tokenizer = load_tokenizer("bytes")
    gpt = build(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=64, n_layer=2, n_head=2, d_model=32), seed=0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter *= 5 if parameter.ndim == 2 else 1
    with tempfile.TemporaryDirectory() as folder:
        loading.write_model(Path(folder) / "tiny", gpt, tokenizer)
        server = Server(Path(folder) / "tiny", "--dtype", "fp32", *words)
        try:
            yield server
        finally:
            said = server.close()
        if server.process.returncode != 0 or said != "stopped\n":
            raise SystemExit(f"the server ended with {server.process.returncode} and said: {said}")


# --- ill use ---------------------------------------------------------------------------------------------------------------


def anything(draw: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind."""
    kinds = 9 if depth < 3 else 7
    return [
        lambda: None,
        lambda: draw.random() < 0.5,
        lambda: draw.choice([0, 1, -1, 2**31, 2**63, 10**30, draw.randint(-9, 300)]),
        lambda: draw.choice([0.0, -0.5, 1e308, float("nan"), float("inf"), draw.uniform(-3, 3)]),
        lambda: text(draw),
        lambda: "",
        lambda: "\ud800" if draw.random() < 0.3 else "\x00",
        lambda: [anything(draw, depth + 1) for _ in range(draw.randint(0, 4))],
        lambda: {text(draw)[:6]: anything(draw, depth + 1) for _ in range(draw.randint(0, 4))},
    ][draw.randrange(kinds)]()


def text(draw: random.Random) -> str:
    return "".join(
        chr(draw.choice([draw.randint(32, 126), draw.randint(160, 0x24FF), draw.randint(0x1F300, 0x1F5FF)]))
        for _ in range(draw.randint(0, 40))
    )


LIKELY: dict[str, Any] = {
    "prompt": lambda draw: draw.choice(
        [text(draw)[:20], [draw.randint(0, 257) for _ in range(draw.randint(0, 70))], [text(draw)[:9], "x"]]
    ),
    "messages": lambda draw: [
        {"role": draw.choice(["user", "assistant", "system", "tool"]), "content": text(draw)[:12]} for _ in range(draw.randint(0, 3))
    ],
    "input": lambda draw: draw.choice([text(draw)[:20], [text(draw)[:20], "x"]]),
    "tokens": lambda draw: [draw.randint(0, 257) for _ in range(draw.randint(0, 30))],
    "model": lambda draw: draw.choice(["tiny", None, "tinny"]),
    "stop": lambda draw: draw.choice([text(draw)[:3], [text(draw)[:2], "e"], []]),
    "logit_bias": lambda draw: {str(draw.choice([3, 256, 999, "x"])): draw.uniform(-120, 120)},
    "stream": lambda draw: draw.random() < 0.5,
    "echo": lambda draw: draw.random() < 0.5,
    "n": lambda draw: draw.choice([1, 2, 3, 3, 0]),
    "max_tokens": lambda draw: draw.choice([0, 1, 5, 12, 12, -1]),
    "logprobs": lambda draw: draw.choice([0, 2, 20, 21, True]),
    "top_k": lambda draw: draw.choice([-1, 0, 1, 5, 1000, -2]),
    "seed": lambda draw: draw.choice([0, 7, -(2**63), 2**63 - 1, 2**63]),
    "truncate_prompt_tokens": lambda draw: draw.choice([1, 10, 0]),
    "stream_options": lambda draw: {"include_usage": True},
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), lambda draw: draw.choice([0, 0.5, 1, 1.5, -1, draw.random()])),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty"), lambda draw: draw.uniform(-2.5, 2.5)),
}
PATHS = {
    "/v1/completions": "prompt",
    "/v1/chat/completions": "messages",
    "/v1/embeddings": "input",
    "/tokenize": "prompt",
    "/detokenize": "tokens",
}


def generated(draw: random.Random) -> tuple[str, bytes]:
    """A path and a body, valid or not."""
    path = draw.choice(list(PATHS))
    if draw.random() < 0.05:
        return path, draw.randbytes(draw.randint(0, 60)) if draw.random() < 0.5 else json.dumps(anything(draw)).encode()
    names = [PATHS[path], *draw.sample(list(LIKELY), draw.randint(0, 2))]
    body = {name: anything(draw) if draw.random() < 0.05 else LIKELY[name](draw) for name in names}
    if "messages" in body:
        body.setdefault("max_tokens", 8)
    return path, json.dumps(body).encode()


def well_formed(status: int, kind: str, body: bytes) -> bool:
    """Whether a client of OpenAI's understands it, and it holds no word of Python."""
    if b"Traceback" in body or b'.py"' in body:
        return False
    if status == 200 and kind.startswith("text/event-stream"):
        return body.endswith(b"data: [DONE]\n\n") and b'"error"' not in body
    told = json.loads(body)
    if status == 200:
        return "error" not in told
    return 400 <= status < 500 and set(told["error"]) == {"message", "type", "param", "code"} and bool(told["error"]["message"])


def fuzz(server: Server, count: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Sends generated requests over one connection that stays open; returns the statuses and what was wrong."""
    draw, statuses, wrong = random.Random(seed), Counter[int](), list[str]()
    connection = server.connect()
    for _ in range(count):
        path, body = generated(draw)
        try:
            status, kind, came = server.ask("POST", path, body, connection)
        except (OSError, http.client.HTTPException) as error:
            wrong.append(f"{path} {body[:200]!r}: {error!r}")
            connection = server.connect()
            continue
        statuses[status] += 1
        if not well_formed(status, kind, came):
            wrong.append(f"{path} {body[:200]!r}: {status} {came[:200]!r}")
    connection.close()
    return statuses, wrong


def requests_part(count: int) -> tuple[list[Any], dict[str, Any]]:
    """Generated requests from eight clients, and the same few right answers before and after."""
    with tiny_server() as server:
        asked = [
            {"prompt": prompt, "max_tokens": 20, "temperature": t, "seed": 5} for prompt in ("The sun", "é", [1, 2, 3]) for t in (0, 1)
        ]
        before = [server.complete(**one)["choices"] for one in asked]
        fuzz(server, 200, 10**6)
        memory = server.memory()
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda seed: fuzz(server, count // 8, seed), range(8)))
        seconds = time.monotonic() - begun
        statuses = sum((one for one, _ in told), Counter[int]())
        wrong = [line for _, lines in told for line in lines]
        same = before == [server.complete(**one)["choices"] for one in asked]
        idle = server.idle()
        grown = server.memory() - memory
    for line in wrong[:20]:
        print("WRONG", line)
    bars = [
        bar("generated requests, answered in OpenAI's form", sum(statuses.values()), f">= {count // 8 * 8}"),
        bar("of them wrong: a traceback, no answer, an answer of no known form", len(wrong), "<= 0"),
        bar("answers that changed after them", int(not same), "<= 0"),
        bar("requests left behind in the engine", int(not idle), "<= 0"),
        bar("memory that grew over generated requests, MiB", grown, "<= 40"),
    ]
    return bars, {"part": "requests", "statuses": {str(status): n for status, n in sorted(statuses.items())}, "seconds": round(seconds)}


def bodies_part(count: int) -> tuple[list[Any], dict[str, Any]]:
    """Bodies of 100 MB, with their length told before and without."""
    with tiny_server() as server:
        server.complete(prompt="x")
        memory = server.memory()
        body = b'{"prompt": "' + b"x" * 100_000_000 + b'"}'
        statuses = [server.ask("POST", "/v1/completions", body)[0] for _ in range(count)]
        for _ in range(count):
            with contextlib.closing(server.connect()) as connection:
                pieces = (body[at : at + MIB] for at in range(0, len(body), MIB))
                connection.request("POST", "/v1/completions", pieces, {"content-type": "application/json"}, encode_chunked=True)
                statuses.append(connection.getresponse().status)
        grown = server.memory() - memory
        well = server.complete(prompt="x")["choices"][0]["finish_reason"] == "length"
    bars = [
        bar("bodies of 100 MB answered with 413", statuses.count(413), f">= {2 * count}"),
        bar("memory that grew over them, MiB", grown, "<= 40"),
        bar("answers lost after them", int(not well), "<= 0"),
    ]
    return bars, {"part": "bodies", "bodies": 2 * count}


def stream_body(**values: Any) -> bytes:
    body = json.dumps({"prompt": "x", "max_tokens": 60, "ignore_eos": True, "stream": True, **values}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def slow_part(count: int) -> tuple[list[Any], dict[str, Any]]:
    """Clients that send a byte now and then, send half a body, or never read, while others ask."""
    with tiny_server("--max-seconds", "10") as server, contextlib.ExitStack() as stack:
        server.complete(prompt="x")
        raw = [stack.enter_context(socket.create_connection(server.address)) for _ in range(3 * count)]
        for number, one in enumerate(raw):
            if number % 3 == 0:
                one.sendall(b"POST /v1/comp")
            elif number % 3 == 1:
                one.sendall(stream_body()[:-20])
            else:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                one.sendall(stream_body(n=16, logprobs=20))
        latencies = []
        for _ in range(20):
            begun = time.monotonic()
            while (answer := server.complete(prompt="The sun", max_tokens=1)) == 429:  # told to come again, as is right where all wait
                time.sleep(0.2)
            if not isinstance(answer, dict):
                raise SystemExit(f"beside slow clients a request was answered with {answer}")
            latencies.append(time.monotonic() - begun)
        free = server.idle()
        senders = [one for number, one in enumerate(raw) if number % 3 < 2]  # the third kind is done once it has been written
        deadline = time.monotonic() + 60
        ended = 0
        for one in senders:
            one.settimeout(60)
            try:
                while time.monotonic() < deadline and one.recv(1 << 16):
                    pass
            except TimeoutError:
                continue
            except OSError:  # the server broke it off
                pass
            ended += time.monotonic() < deadline
    bars = [
        bar("seconds of one token's answer beside slow clients, the median", statistics.median(latencies), "<= 5"),
        bar("clients that did not send whose connection was ended", ended, f">= {2 * count}"),
        bar("requests left behind in the engine by slow clients", int(not free), "<= 0"),
    ]
    return bars, {"part": "slow", "clients": 3 * count}


def gone_part(count: int) -> tuple[list[Any], dict[str, Any]]:
    """Clients that go away in mid-stream; a stream of 60 tokens each for which little must have been written on."""
    with tiny_server() as server:
        server.complete(prompt="x")

        def leave(number: int) -> None:
            with socket.create_connection(server.address, timeout=60) as one:
                one.sendall(stream_body(n=4))
                if number % 4:
                    one.recv(300)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(leave, range(50)))
            server.idle()
            memory = server.memory()
            list(pool.map(leave, range(count)))
        free = server.idle()
        grown = server.memory() - memory
        well = server.complete(prompt="x")["choices"][0]["finish_reason"] == "length"
        written = server.figure("vllm:generation_tokens_total") / (4 * (count + 50))
    bars = [
        bar("requests left behind in the engine by clients that went away", int(not free), "<= 0"),
        bar("memory that grew over clients that went away, MiB", grown, "<= 20"),
        bar("answers lost after clients that went away", int(not well), "<= 0"),
    ]
    return bars, {"part": "gone", "clients": count, "tokens_written_each_of_60": round(written, 1)}


def crowd_part(count: int) -> tuple[list[Any], dict[str, Any]]:
    """Many connections at the same moment."""
    with tiny_server() as server:
        asked = {"prompt": "The sun", "max_tokens": 8, "temperature": 0}
        wanted = server.complete(**asked)["choices"]
        came: list[Any] = []
        gate = threading.Barrier(count)

        def ask() -> None:
            gate.wait()
            try:
                answer = server.complete(**asked)
            except (OSError, http.client.HTTPException) as error:
                answer = repr(error)
            came.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        right = sum(isinstance(answer, dict) and answer["choices"] == wanted for answer in came)
        busy = came.count(429)
        free = server.idle()
    bars = [
        bar(f"of {count} connections at once, rightly answered or told to come again", right + busy, f">= {count}"),
        bar("of them rightly answered", right, f">= {min(count, 256)}"),
        bar("requests left behind in the engine by the crowd", int(not free), "<= 0"),
    ]
    return bars, {"part": "crowd", "connections": count, "answered": right, "told_to_come_again": busy}


def load_part(minutes: float) -> tuple[list[Any], dict[str, Any]]:
    """Eight clients without a pause, a tenth of whose requests are nonsense and a tenth left in the middle; the memory over time."""
    with tiny_server() as server:
        stop = threading.Event()
        asked = [Counter[str]() for _ in range(8)]

        def client(number: int) -> None:
            draw = random.Random(number)
            while not stop.is_set():
                kind = draw.choices(["whole", "stream", "nonsense", "gone"], [5, 3, 1, 1])[0]
                if kind == "gone":
                    with socket.create_connection(server.address, timeout=60) as one:
                        one.sendall(stream_body())
                        one.recv(200)
                elif kind == "nonsense":
                    server.ask("POST", *generated(draw))
                else:
                    server.complete(prompt=text(draw)[:20], max_tokens=20, stream=False, logprobs=draw.choice([None, 3]))
                asked[number][kind] += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        memory: list[float] = []
        begun = time.monotonic()
        while time.monotonic() < begun + 60 * minutes:
            time.sleep(max(0.5, min(15.0, 3 * minutes)))
            memory.append(server.memory())
        stop.set()
        for thread in threads:
            thread.join()
        free = server.idle()
    half = len(memory) // 2
    grown = statistics.median(memory[-max(1, half // 2) :]) - statistics.median(memory[half : half + max(1, half // 2)])
    bars = [
        bar(f"memory that grew over the second half of {minutes:g} minutes of load, MiB", grown, "<= 10"),
        bar("requests left behind in the engine by the load", int(not free), "<= 0"),
    ]
    total = sum(asked, Counter[str]())
    return bars, {
        "part": "load",
        "minutes": minutes,
        "requests": dict(total),
        "memory_mib": [round(one, 1) for one in memory[:: max(1, len(memory) // 40)]],
    }


# --- what it costs ---------------------------------------------------------------------------------------------------------


def big_model() -> loading.Model:
    """The 124M shape with random weights, and a tokenizer of as many ids: the bytes and 50,000 pairs of them."""
    ranks = {bytes([b]): i for i, b in enumerate(BYTES_IN_ORDER)}
    for number in range(50_000):
        ranks[bytes([number >> 8, number & 255])] = len(ranks)
    tokenizer = Tokenizer("bpe", list(ranks), BytePairs(ranks))
    return loading.Model(build(SIZES["gpt2"]["124m"], seed=0), tokenizer)


def prompts(count: int) -> list[list[int]]:
    """None is longer than a page, so that every round reads them anew."""
    draw = random.Random(count)
    return [[draw.randrange(50_000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def engine_rate(engine: Engine, together: int, count: int, temperature: float = 0) -> float:
    """Tokens a second of `count` requests, so many at once, by the engine's thread alone."""
    ended = threading.Semaphore(0)

    def hear(emitted: Emitted) -> None:
        if emitted.finish:
            ended.release()

    sampling = Sampling(temperature=temperature)
    requests = [Request(tuple(ids), NEW_TOKENS, sampling, seed=n, ignore_eot=True) for n, ids in enumerate(prompts(count))]
    begun = time.perf_counter()
    for at in range(0, count, together):
        some = requests[at : at + together]
        for request in some:
            engine.submit(request, hear)
        for _ in some:
            ended.acquire()
    return count * NEW_TOKENS / (time.perf_counter() - begun)


@final
class Computing:
    """How much of the time the thread of an engine computes, and does not wait for another or hand tokens on."""

    def __init__(self, hosted: Hosted) -> None:
        engine, submit = hosted.engine, hosted.engine.submit
        self._clock = time.pthread_getcpuclockid(next(one.ident for one in threading.enumerate() if one.name == f"engine of {hosted.name}"))
        self._handing = 0.0

        def timed(request: Request, on_token: OnToken) -> Ticket:
            def hand_on(emitted: Emitted) -> None:
                begun = time.thread_time()
                on_token(emitted)
                self._handing += time.thread_time() - begun

            return submit(request, hand_on)

        engine.submit = timed  # type: ignore[method-assign]

    def _computed(self) -> float:
        return time.clock_gettime(self._clock) - self._handing

    def share(self, work: Callable[[], float]) -> tuple[float, float]:
        """(what the work says, the share of its time)."""
        begun, before = time.perf_counter(), self._computed()
        said = work()
        return said, (self._computed() - before) / (time.perf_counter() - begun)


def ask_when_told(address: tuple[str, int], told: Connection) -> None:
    """The clients' process: for each (model, streams at once, temperature) their tokens a second, until it is told None."""

    def read(model: str, number: int, ids: list[int], temperature: float) -> None:
        with contextlib.closing(http.client.HTTPConnection(*address, timeout=120)) as connection:
            asked = {"model": model, "prompt": ids, "max_tokens": NEW_TOKENS, "temperature": temperature, "seed": number}
            body = {**asked, "ignore_eos": True, "stream": True}
            connection.request("POST", "/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
            assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")

    while (task := told.recv()) is not None:
        model, together, temperature = task
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(together) as pool:
            list(pool.map(read, [model] * together, range(together), prompts(together), [temperature] * together))
        told.send(together * NEW_TOKENS / (time.perf_counter() - begun))


@contextlib.contextmanager
def clients_of(*models: Hosted) -> Iterator[Connection]:
    """The models served from this process, and clients in another that can be told to ask them."""
    up = threading.Event()
    heard = listening.listen("127.0.0.1", 0)
    server = listening.server(make_app(Hosts(models), say=print, ready=up.set))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [heard]})
    thread.start()
    if not up.wait(60):
        raise SystemExit("the server did not come up")
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    clients = spawn.Process(target=ask_when_told, args=(heard.getsockname()[:2], theirs), daemon=True)
    clients.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.send(None)
        clients.join(60)
        server.should_exit = True
        thread.join(60)
        heard.close()


def cost_part() -> tuple[list[Any], dict[str, Any]]:
    """The server beside the bare engine, in turns: the same engine, in the same thread with the same memory.

    A server costs an engine the time in which its thread does not compute: while it waits for the interpreter or for requests, or hands
    tokens on. This is told from the thread's own clock, as tokens a second differ by a third from turn to turn on a shared machine.

    One after another is told for texts that are drawn and for greedy ones. A random model's greedy texts soon go in circles, where the
    guesses that a lone text is helped with nearly all come true, as they would not for people's texts.
    """
    machine.prepare_serving()
    torch.set_num_threads(1)
    model = big_model()
    plain, eight = (host(dtype, loading.decoding_in(model, dtype), Limits()) for dtype in ("auto", "int8"))
    rates: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {"bare": [], "served": []}
    with clients_of(plain, eight) as clients:

        def server_rate(*task: Any) -> float:
            clients.send(task)
            rate: float = clients.recv()
            return rate

        computing = Computing(plain)
        for number in range(ROUNDS + 1):
            bare, bare_share = computing.share(lambda: engine_rate(plain.engine, 8, 8))
            served, served_share = computing.share(lambda: server_rate("auto", 8, 0))
            taken = {
                "engine 8": bare,
                "server 8": served,
                "engine 1 int8": engine_rate(eight.engine, 1, 4, temperature=1),
                "server 32 int8": server_rate("int8", 32, 1),
                "engine 1 int8, greedy": engine_rate(eight.engine, 1, 4),
                "server 32 int8, greedy": server_rate("int8", 32, 0),
            }
            print({name: round(rate) for name, rate in taken.items()}, round(bare_share, 3), round(served_share, 3), flush=True)
            if number:  # the first is warm-up
                shares["bare"].append(bare_share)
                shares["served"].append(served_share)
                for name, rate in taken.items():
                    rates.setdefault(name, []).append(rate)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    share = {name: statistics.median(values) for name, values in shares.items()}
    bars = [
        bar("share of the engine's time that the server costs at 8 streams", 1 - share["served"] / share["bare"], "< 0.05"),
        bar(
            "32 at once through the server to one after another, int8, drawn at temperature 1",
            middle["server 32 int8"] / middle["engine 1 int8"],
            ">= 5",
        ),
    ]
    told = {name: round(rate, 1) for name, rate in middle.items()}
    return bars, {"part": "cost", "shape": "gpt2.124m", "tokens_per_second": told, "computing": share}


def main() -> None:
    """All parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of it, without the timings; writes nothing")
    parser.add_argument("--only", help="one part")
    parser.add_argument("--minutes", type=float, default=30, help="how long the load lasts")
    options = parser.parse_args()
    quick = options.quick
    parts = {
        "requests": lambda: requests_part(1_000 if quick else 100_000),
        "bodies": lambda: bodies_part(1 if quick else 10),
        "slow": lambda: slow_part(3 if quick else 30),
        "gone": lambda: gone_part(40 if quick else 1_000),
        "crowd": lambda: crowd_part(100 if quick else 500),
        "load": lambda: load_part(0.2 if quick else options.minutes),
        "cost": cost_part,
    }
    bars: list[Any] = []
    found = {} if options.only is None else before()
    for name, part in parts.items():
        if options.only == name or (options.only is None and not (quick and name == "cost")):
            told, row = part()
            bars += told
            found[name] = {**row, "when": time.strftime("%Y-%m-%d"), "bars": told}
            print(row, flush=True)
    for one in bars:
        print("met   " if one["ok"] else "MISSED", one["bar"], one["value"], one["want"])
    if not quick:
        rows = [found[name] for name in parts if name in found]
        record("serve", [one for row in rows for one in row["bars"]], rows, ["fastapi", "uvicorn", "starlette"], show=False)
    raise SystemExit(0 if all(one["ok"] for one in bars) else 1)


def before() -> dict[str, Any]:
    """What the record has of each part."""
    path = RESULTS / "serve.json"
    return {row["part"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]} if path.is_file() else {}


if __name__ == "__main__":
    main()
