"""`daybreak chat`: a dialogue with a model in the terminal, or line by line through a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import speak
from daybreak.cli.serve import DTYPE

if TYPE_CHECKING:
    from daybreak.inference.sampling import Sampling
    from daybreak.loading import Model

HISTORY = "chat_history"
COMMANDS = """/reset            forget the dialogue
/undo             take back the last turn
/system TEXT      a paragraph before the dialogue
/raw TEXT         continue a text as it stands, without the dialogue
/temperature X    also /top_k, /top_p, /min_p, /max_tokens, /seed: how it writes; without X tells
/save FILE        write the dialogue to a file
/quit             end, as Ctrl-D does"""


def chat(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a GPT-2 in Hugging Face's form.")],
    temperature: Annotated[float, typer.Option(help="Below 1 bolder, above 1 wilder, 0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Keep only the k likeliest tokens; 0 keeps all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens that together have this probability; 1 keeps all.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="How many tokens an answer has at most.")] = 200,
    seed: Annotated[int | None, typer.Option(help="The same seed writes the same dialogue.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """Talk with a model; a base model continues the dialogue as a text."""
    from daybreak import config, loading

    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    if wrong := [f"--{problem.replace('_', '-', 1)}" for problem in _problems({**settings, "min_p": 0.0})]:
        raise config.ConfigError(wrong)
    talk = Dialogue(loading.load(folder, device=device, dtype=dtype), {**settings, "min_p": 0.0})
    person = sys.stdin.isatty()
    if person:
        speak.say(
            f"{folder.resolve().name} is a base model: it goes on with a written dialogue, nobody taught it to answer. /help, Ctrl-D ends."
        )
    with _history() if person else contextlib.nullcontext():
        for line in _lines(person):
            if line.startswith("/"):
                told = talk.command(line)
                if told is None:
                    return
                if told:
                    speak.say(told)
            elif line.strip():
                talk.answer(line)


class Dialogue:
    """What was said so far, and how the model goes on."""

    def __init__(self, model: Model, settings: dict[str, Any]) -> None:
        from daybreak.inference.requests import Limits
        from daybreak.serve.hosting import host

        self.turns: list[tuple[str, str]] = []
        self.settings = settings
        self._model = model
        self._engine = host("chat", model, Limits(running=1, cache_tokens=1)).engine

    def answer(self, line: str) -> None:
        """The model's turn, written as it comes; Ctrl-C ends it."""
        from daybreak.serve import chatting

        self.turns.append(("user", line))
        room = min(self.settings["max_tokens"], self._model.config.context_length // 2)
        while True:  # the oldest turns are forgotten where all do not fit
            ids = self._encode(chatting.as_text(self.turns))
            if len(ids) + room <= self._model.config.context_length or len(self.turns) == 1:
                break
            del self.turns[0 if self.turns[0][0] != "system" or len(self.turns) < 3 else 1]
        text = self._write(ids, chatting.STOP, strip=True)
        self.turns.append(("assistant", text))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.tokenizer.encode(text).tolist()
        return ids or [self._model.tokenizer.eot]

    def _write(self, ids: list[int], stop: tuple[str, ...], strip: bool = False) -> str:
        from daybreak.inference.requests import Emitted, Request

        pieces: list[str] = []
        problems: list[str] = []

        def heard(emitted: Emitted) -> None:
            piece = emitted.text if pieces or not strip else emitted.text.lstrip()
            problems.extend([emitted.problem] if emitted.problem else [])
            if piece:
                pieces.append(piece)
                speak.write(piece)

        seed = self.settings["seed"]
        request = Request(
            tokens=tuple(ids[-(self._model.config.context_length - 1) :]),
            max_tokens=self.settings["max_tokens"],
            sampling=_sampling(self.settings),
            seed=secrets.randbits(63) if seed is None else seed,
            stop=stop,
        )
        ticket = self._engine.submit(request, heard)
        try:
            while self._engine.step():
                pass
        except KeyboardInterrupt:
            ticket.cancel()
            while self._engine.step():
                pass
        speak.write("\n")
        if problems:
            from daybreak.inference.sampling import PredictionFailed

            raise PredictionFailed(problems[0])
        return "".join(pieces).rstrip()

    def command(self, line: str) -> str | None:
        """Does what a line that begins with / says and returns what to tell; None ends."""
        from daybreak.config import closest

        name, _, rest = line[1:].strip().partition(" ")
        rest = rest.strip()
        done: dict[str, Callable[[], str]] = {
            "help": lambda: COMMANDS,
            "reset": lambda: self.turns.clear() or "the dialogue is forgotten",  # type: ignore[func-returns-value]
            "undo": self._undo,
            "system": lambda: self._system(rest),
            "raw": lambda: self._raw(rest),
            "save": lambda: self._save(rest),
        }
        if name in ("quit", "exit"):
            return None
        if name in done:
            return done[name]()
        if name in self.settings:
            return self._set(name, rest)
        return f"/{name}: no such command{closest(name, [*done, *self.settings, 'quit'])}; /help lists them"

    def _undo(self) -> str:
        del self.turns[-2:]
        return f"{len(self.turns)} turns are left"

    def _system(self, text: str) -> str:
        self.turns = [turn for turn in self.turns if turn[0] != "system"]
        if text:
            self.turns.insert(0, ("system", text))
        return "set" if text else "left out"

    def _raw(self, text: str) -> str:
        speak.write(text)
        self._write(self._encode(text), ())
        return ""

    def _save(self, name: str) -> str:
        from daybreak.serve import chatting

        if not name:
            return "/save: wanted a file's name behind it"
        text = chatting.as_text(self.turns).removesuffix(f"{chatting.NAMES['assistant']}:")
        try:
            Path(name).expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            return f"{name}: cannot be written ({error.strerror or error})"
        return f"{name}: {len(self.turns)} turns"

    def _set(self, name: str, given: str) -> str:
        if given:
            value: float | int | None
            try:
                value = None if given == "none" and name == "seed" else (int if name in ("top_k", "max_tokens", "seed") else float)(given)
            except ValueError:
                return f"/{name}: wanted a number, came '{given}'"
            if wrong := _problems({**self.settings, name: value}):
                return f"/{wrong[0]}"
            self.settings[name] = value
        return f"{name} {'random' if self.settings[name] is None else self.settings[name]}"


def _sampling(settings: dict[str, Any]) -> Sampling:
    from daybreak.inference.sampling import Sampling

    top_p = None if settings["top_p"] == 1 else settings["top_p"]
    return Sampling(settings["temperature"], settings["top_k"] or None, top_p, settings["min_p"] or None)


def _problems(settings: dict[str, Any]) -> list[str]:
    """What is wrong with them."""
    from daybreak import config

    wrong = config.check(dataclasses.replace(_sampling(settings), top_k=None))
    for name, least in (("top_k", 0), ("max_tokens", 1), ("seed", 0)):
        if settings[name] is not None and not least <= settings[name] < 2**63:
            wrong.append(f"{name}: wanted at least {least}, came {settings[name]}")
    return wrong


def _lines(person: bool) -> Iterator[str]:
    """What is typed, or what comes through the pipe, until its end."""
    while True:
        try:
            line = input("> ") if person else sys.stdin.readline()
        except EOFError:
            speak.say("")
            return
        except KeyboardInterrupt:  # an empty line, as in a shell
            if not person:
                raise
            speak.say("")
            continue
        if not person and not line:
            return
        yield line.rstrip("\n")


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """The lines of earlier times, by the arrow keys, where Python has readline."""
    from daybreak import files

    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    path = files.cache_folder() / HISTORY
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
