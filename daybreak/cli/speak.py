"""How the command line speaks: results on standard output, the rest on standard error, an error in one line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

# typer's base of all that can be wrong with a command line. Newer versions carry a click of their own, so it is reached
# through a public name instead of through click.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[2]

_SIGNS = {mark: 0x2400 + mark for mark in range(32) if chr(mark) not in "\n\t"} | {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""For each control character the sign that is shown for it; those above 127 have none of their own."""
_SECONDS_TO_SPEAK = 1.0
"""How long the leading process has for its message before another ends, as torchrun then ends all."""


def say(text: str) -> None:
    """One message for the person, on standard error; lost if nobody reads it any more, as the work matters more."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except BrokenPipeError:
        let_go(sys.stderr)


def let_go(stream: TextIO) -> None:
    """Sends the rest of a stream whose reader went away to nowhere, so that Python does not complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file behind it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def result(values: dict[str, Any], as_json: bool, text: str) -> None:
    """A command's result on standard output: as one JSON object, or as text for a person."""
    from daybreak.metrics import plain

    if as_json:  # the controls that JSON need not escape, escaped too: a terminal may obey them
        text = json.dumps(plain(values), ensure_ascii=False)
        text = re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)
    write(text + "\n")


def write(piece: str) -> None:
    """Text as it comes, without a line's end; a terminal gets no control characters, a file or a pipe every byte."""
    print(harmless(piece) if sys.stdout.isatty() else piece, end="", flush=True)  # noqa: T201


def harmless(text: str) -> str:
    """Shows control characters other than newline and tab as signs, lest a young model's bytes command the terminal."""
    return text.translate(_SIGNS)


def console() -> Console:
    """A rich console on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def failure(error: Exception) -> int:
    """Tells an error in one line per problem and returns the exit status: 2 for a wrong request, 1 for work that failed."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, _USAGE_ERROR):
        message = error.format_message()
        where = getattr(error, "ctx", None)
        say(f"error: {_one_line(message)}" + (f" (`{where.command_path} --help` tells more)" if where else ""))
        return 2
    ours = type(error).__module__.startswith("daybreak.")
    follows = os.environ.get("RANK", "0") != "0"  # of several processes the first says what is wrong with the request, for all
    if follows and (isinstance(error, ValueError) or type(error).__name__ == "FailedElsewhere"):
        time.sleep(_SECONDS_TO_SPEAK)
        return 2 if isinstance(error, ValueError) else 1
    if isinstance(error, ValueError):  # each of our own problems is one; a part that was asked for the impossible raises it too
        for problem in getattr(error, "problems", None) or (str(error).splitlines() if ours else [str(error)]):
            say(f"error: {_one_line(problem)}")
        return 1 if type(error).__name__ == "CheckpointProblem" else 2
    if ours:
        say(f"error: {_one_line(str(error))}")
        return 1
    if isinstance(error, OSError) and error.filename is not None:
        say(f"error: {_short(str(error.filename))}: cannot be used ({error.strerror or error}); name another, or mend it")
        return 2
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        say("error: the device has too little memory for this; set train.micro_batch, train.batch_tokens or the model's sizes lower")
        return 1
    say(f"error: unexpected {type(error).__name__}: {_one_line(str(error))}; the same command with --debug shows where")
    return 1


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:100]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
