"""Serves the page on this machine alone, and tells it by server-sent events when a run has written something.

    with Watch([Path("runs")], references) as watch:
        serve(watch, port=7007)

One thread reads what the runs write; each request is answered from memory. Only the loopback address is listened on, only names of it are
answered to (so that no page elsewhere can ask through the browser), and the page may ask nobody but this server.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from daybreak.report.drawable import Window
from daybreak.report.references import Reference
from daybreak.watch import state
from daybreak.watch.follow import Follower, run_folders

HERE = Path(__file__).parent / "static"
REPORT = Path(__file__).parents[1] / "report" / "static"
FILES = {
    "/": (HERE / "watch.html", "text/html"),
    "/watch.js": (HERE / "watch.js", "text/javascript"),
    "/watch.css": (HERE / "watch.css", "text/css"),
    "/charts.js": (REPORT / "charts.js", "text/javascript"),
    "/report.css": (REPORT / "report.css", "text/css"),
    "/uPlot.js": (REPORT / "uPlot.iife.min.js", "text/javascript"),
    "/uPlot.css": (REPORT / "uPlot.min.css", "text/css"),
    "/uPlot-LICENSE.txt": (REPORT / "uPlot-LICENSE.txt", "text/plain"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LOOK_EVERY = 0.3
_SEARCH_EVERY = 2.0
_TELL_EVERY = 0.4
_STILL_HERE = 10.0
_COURTESY = 1.0


class Watch:
    """The runs in some folders, followed as they grow and as new ones appear."""

    def __init__(self, places: Sequence[Path], references: Sequence[Reference] = ()) -> None:
        self.places, self.references = list(places), references
        self.followers: dict[str, Follower] = {}
        """By the number under which the page knows a run."""
        self.changed = threading.Condition()
        self.version = 0
        self.closed = False
        self.asked = time.monotonic()
        """When the page last asked for something."""
        self._by_folder: dict[Path, Follower] = {}
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def __enter__(self) -> Watch:
        self._search()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._thread.join(5)

    def states(self) -> list[dict[str, Any]]:
        """All runs as they stand."""
        return [{"id": number, **state.state(follower, self.references)} for number, follower in list(self.followers.items())]

    def wait(self, seen: int, seconds: float) -> int:
        """Waits until something is newer than `seen`, at most so long; the newest version."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.version != seen, seconds)
            return self.version

    def _search(self) -> None:
        for folder in run_folders(self.places):
            if folder not in self._by_folder:
                follower = self._by_folder[folder] = Follower(folder)
                if any(follower.name == other.name for other in self.followers.values()):
                    follower.name = f"{folder.resolve().parent.name}/{follower.name}"
                follower.look()
                self.followers[str(len(self.followers))] = follower
                self._tell()

    def _follow(self) -> None:
        searched = time.monotonic()
        while not self.closed:
            more = False
            for follower in list(self.followers.values()):
                before = follower.version
                more |= follower.read()
                if follower.version != before:
                    self._tell()
            if time.monotonic() - searched > _SEARCH_EVERY:
                self._search()
                searched = time.monotonic()
            if not more:
                time.sleep(_LOOK_EVERY)
            elif time.monotonic() - self.asked < _COURTESY:  # whoever waits for an answer comes before what is read for completeness
                time.sleep(_LOOK_EVERY / 10)

    def _tell(self) -> None:
        with self.changed:
            self.version += 1
            self.changed.notify_all()


class Server(ThreadingHTTPServer):
    """The page's server, on the loopback address."""

    daemon_threads = True

    def __init__(self, watch: Watch, port: int) -> None:
        self.watch = watch
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """The page, its files, and what it asks for."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost", "[::1]"):
            self._answer(403, "text/plain", b"this page is for the machine that it runs on; forward its port and open it as localhost")
            return
        asked, self.server.watch.asked = urlsplit(self.path), time.monotonic()
        if asked.path == "/live":
            self._live()
        elif asked.path in FILES:
            path, kind = FILES[asked.path]
            self._answer(200, kind, path.read_bytes())
        else:
            words = {name: values[-1] for name, values in parse_qs(asked.query).items()}
            answers = ANSWERS.get(asked.path)
            answer = answers and answers(self.server.watch, words)
            body = json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()
            self._answer(404 if answer is None else 200, "application/json", body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line."""

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self._headers(kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _headers(self, kind: str) -> None:
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")

    def _live(self) -> None:
        """All runs' states now, and again after each change, until the browser or the server goes away."""
        watch, seen = self.server.watch, -1
        self.close_connection = True
        self.send_response(200)
        self._headers("text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while not watch.closed:
                version = watch.wait(seen, _STILL_HERE)
                told = json.dumps(
                    {"runs": watch.states()}, separators=(",", ":"), allow_nan=False
                )  # also when nothing came: a run may be gone
                self.wfile.write(f"data: {told}\n\n".encode())
                self.wfile.flush()
                seen = version
                time.sleep(_TELL_EVERY)
        except OSError:
            return


def _runs(watch: Watch, words: dict[str, str]) -> Any:
    return {"runs": watch.states()}


def _curves(watch: Watch, words: dict[str, str]) -> Any:
    follower = watch.followers.get(words.get("run", ""))
    if follower is None:
        return None
    try:
        points = min(20_000, max(50, int(words.get("points", "2000"))))
    except ValueError:
        return None
    return state.curves(follower, watch.references, points, _window(words))


def _story(watch: Watch, words: dict[str, str]) -> Any:
    follower = watch.followers.get(words.get("run", ""))
    return None if follower is None else state.story(follower)


def _window(words: dict[str, str]) -> Window | None:
    try:
        low, high = float(words["from"]), float(words["to"])
    except (KeyError, ValueError):
        return None
    known = words.get("axis") in ("steps", "tokens", "seconds") and math.isfinite(low) and math.isfinite(high)
    return (words["axis"], low, high) if known else None


ANSWERS: dict[str, Callable[[Watch, dict[str, str]], Any]] = {"/runs": _runs, "/curves": _curves, "/story": _story}
"""What the page asks for besides files; None is for what is not there."""
