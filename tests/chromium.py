"""A real browser for tests and screenshots: headless Chromium, spoken to over a pipe in its DevTools protocol.

    with Browser() as browser:
        page = browser.open("http://127.0.0.1:7007/")
        page.until("document.querySelectorAll('canvas').length == 5")

Messages are JSON, each ended by a zero byte: Chromium reads them from descriptor 3 and answers on 4, so no library and no port is needed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SILENT = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", *SILENT]
PATIENCE = 60.0

# Becomes Chromium with the ends of two pipes as descriptors 3 and 4: a process of its own, as Popen cannot choose their numbers. They are
# moved out of the way first, since either may be 3 or 4 already.
_BECOME = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 20) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One Chromium with a profile of its own, gone with the `with` block."""

    def __init__(self, *flags: str) -> None:
        assert CHROMIUM is not None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        child_reads, self._to = os.pipe()
        self._from, child_writes = os.pipe()
        command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BECOME, str(child_reads), str(child_writes), *command],
            pass_fds=(child_reads, child_writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(self._from, selectors.EVENT_READ)
        self._came = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """What the browser told without being asked."""

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._waiting.close()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            told = self._next(until)
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                return dict(told["result"])
            self.events.append(told)

    def open(self, address: str, width: int = 1100, height: int = 900, *, dark: bool = False, phone: bool = False) -> Page:
        """A new page of a size; a phone has fingers and twice as many dots."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        page.call("Page.navigate", url=address)
        page.until("document.readyState === 'complete'")
        return page

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._came:
            if not self._waiting.select(max(0.0, until - time.monotonic())):
                raise AssertionError("the browser does not answer")
            piece = os.read(self._from, 1 << 20)
            assert piece, "the browser is gone"
            self._came += piece
        first, _, self._came = self._came.partition(b"\0")
        told = json.loads(first)
        assert isinstance(told, dict)
        return told


class Page:
    """One page of the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to this page."""
        return self.browser.call(method, self.session, **parameters)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; promises are waited for."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str, seconds: float = 30.0) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(f"!!({expression})"):
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {expression}"
            time.sleep(0.05)

    def drag(self, selector: str, begin: float, end: float) -> None:
        """The mouse pressed at a share of an element's width and let go at another, halfway down."""
        box = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); "
            "const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"
        )
        y = box[1] + box[3] / 2
        for kind, share in (("mouseMoved", begin), ("mousePressed", begin), ("mouseMoved", (begin + end) / 2), ("mouseMoved", end)):
            self._mouse(kind, box[0] + box[2] * share, y)
        self._mouse("mouseReleased", box[0] + box[2] * end, y)

    def key(self, key: str) -> None:
        """A key pressed and let go where the focus is."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key if len(key) > 1 else "", **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot as PNG, of what is seen or of the whole page."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def complaints(self) -> list[str]:
        """Errors of scripts, of the console and of the security policy, up to now."""
        found = []
        for event in self._events():
            method, told = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(told["exceptionDetails"]["text"])
            elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(told["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                found.append(str(told["args"]))
        return found + (self.value("document.documentElement.dataset.errors || ''").splitlines())

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [event["params"]["request"]["url"] for event in self._events() if event["method"] == "Network.requestWillBeSent"]

    def _events(self) -> list[dict[str, Any]]:
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    def _mouse(self, kind: str, x: float, y: float) -> None:
        down = kind in ("mousePressed", "mouseReleased")
        held = 0 if kind == "mousePressed" else 1
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if down or held else "none", clickCount=int(down))
