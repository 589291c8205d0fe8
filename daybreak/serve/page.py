"""The page at `/`: one document with its style and script inside, which asks nothing of any other server."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

STATIC = Path(__file__).parent / "static"


@functools.cache
def document() -> bytes:
    """The whole page."""
    text = _read("page.html").replace("/* style */", _read("page.css")).replace("/* script */", _read("page.js"))
    return text.encode("utf-8")


@functools.cache
def policy() -> str:
    """What the page may do: run its own script and talk to its own server."""
    parts = {name: _digest(_read(f"page.{name}")) for name in ("css", "js")}
    return (
        f"default-src 'none'; style-src '{parts['css']}'; script-src '{parts['js']}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8").strip("\n")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
