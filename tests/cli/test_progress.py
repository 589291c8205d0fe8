"""A run on the terminal: plain lines where there is none, and a live view that fits any, leaves no trace and ends cleanly."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from tiny import tiny_words

from daybreak import config, metrics
from daybreak.cli import beginning, main, progress
from daybreak.cli.frame import folded, frame
from daybreak.cli.live import Live
from daybreak.cli.screen import Screen
from daybreak.cli.seen import Seen
from daybreak.settings import Settings

Captured = pytest.CaptureFixture[str]

START = {
    "event": "start",
    "step": 0,
    "tokens": 0,
    "parameters": 13_900_000,
    "flops_per_token": 99_000_000,
    "train_tokens": 4_000_000,
    "steps": 1000,
    "epochs": 1.5,
    "device": "a CPU [2]",
    "precision": "bf16",
    "torch": "2.13",
}
STEP = {"event": "step", "step": 1, "tokens": 4096, "loss": 9.0, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens_per_second": 12345.6}
EVENTS: list[dict[str, Any]] = [
    START,
    STEP,
    {"event": "eval", "step": 1, "tokens": 4096, "val_loss": 8.7654, "bits_per_byte": 3.21, "perplexity": 1.0},
    {"event": "sample", "step": 1, "tokens": 4096, "prompt": "[red]The ", "text": "[bold] [/] :smile: \\[x] [[]]\nnew\x1b[2J\tline \\"},
    {"event": "checkpoint", "step": 1, "tokens": 4096, "path": "runs/[a]/step-1", "seconds": 0.1},
    {"event": "skip", "step": 2, "tokens": 8192, "reason": "the loss was not finite", "loss": None, "grad_norm": None},
    {"event": "stop", "step": 2, "tokens": 8192, "reason": "SIGTERM", "signal": 15},
    {"event": "end", "step": 2, "tokens": 8192, "val_loss": 7.5, "bits_per_byte": 2.5},
]
SAMPLE = "[red]The [bold] [/] :smile: \\[x] [[]]\n          new␛[2J\tline \\"


def live(events: list[dict[str, Any]], width: int = 100, **options: Any) -> str:
    """All that the live view of these events writes."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40, color_system=None, highlight=False, _environ={})
    with progress.watching(console, **options) as show:
        assert isinstance(show, Live)
        for event in events:
            show.event(event)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


# --- Without a terminal ---


def test_plain_lines(capsys: Captured) -> None:
    plain = progress.Plain()
    for event in EVENTS:
        plain.event(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "model     13.90M parameters, 99 MFLOP a token",
        "training  4.00M tokens in 1,000 steps, 1.5 epochs of the text",
        "machine   a CPU [2], bf16, torch 2.13",
        "step      1/1,000  0.00M tokens  loss 9.0000  lr 1.00e-03  12,346 tokens/s",
        "eval      step 1: validation loss 8.7654, bits per byte 3.210",
        *f"sample    {SAMPLE}".splitlines(),
        "saved     runs/[a]/step-1",
        "skipped   step 2: the loss was not finite",
        "stopping  SIGTERM after step 2",
        "done      step 2: validation loss 7.5000, bits per byte 2.500",
    ]


def test_an_event_of_a_later_version_is_told_too(capsys: Captured) -> None:
    event = {"event": "novelty", "step": 3, "tokens": 9, "time": 1.0, "micro_batch": 4, "reason": "out of memory"}
    progress.Plain().event(event)
    assert capsys.readouterr().err == "event     step 3, novelty: micro batch 4, reason out of memory\n"
    assert "event     step 3, novelty: micro batch 4" in live([START, event])


def test_plain_lines_are_few_but_hold_the_last_step_and_every_warning(capsys: Captured) -> None:
    plain = progress.Plain()
    plain.event(START)
    for number in range(1, 1001):
        plain.event({**STEP, "step": number, **({"warning": "log.wandb: lost"} if number == 500 else {})})
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in told if line.startswith("step ")] == ["1/1,000", "1,000/1,000"]
    assert told[4] == "warning   log.wandb: lost"


def test_a_resumed_run_tells_what_it_rejected(capsys: Captured) -> None:
    progress.Plain(lambda event: [("time", "about a second")]).event(
        {**START, "event": "resume", "step": 7, "path": "run/step-7", "rejected": ["step-9: damaged"]}
    )
    assert "rejected  step-9: damaged\nresuming  after step 7 from run/step-7\ntime      about a second\n" in capsys.readouterr().err


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}])
def test_no_terminal_that_can_move_its_cursor_no_live_view(environment: dict[str, str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=bool(environment), _environ=environment)
    with progress.watching(console) as show:
        assert isinstance(show, progress.Plain)


def test_quiet_says_nothing(capsys: Captured) -> None:
    with progress.Quiet() as quiet:
        for event in EVENTS:
            quiet.event(event)
    assert capsys.readouterr() == ("", "")


def test_a_quiet_run_says_its_result_in_a_line(data_dir: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "demo", *tiny_words(data_dir), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(r"validation loss [\d.]+, perplexity [\d.]+, bits per byte [\d.]+ \(.*\)\n", out)


# --- How it begins ---


def test_a_run_says_beforehand_how_long_it_takes_and_what_it_reads(data_dir: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "demo", *tiny_words(data_dir), "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    names = [line.split()[0] for line in lines]
    assert names[:5] == ["model", "training", "machine", "time", "text"] or names[:4] == ["model", "training", "machine", "text"]
    assert names.index("text") < names.index("step")
    assert any(name in lines[names.index("text")] for name in ("dawn", "text", "east", "model", "once"))


def test_the_time_follows_from_the_speed() -> None:
    import torch

    event = {**START, "flops_per_token": 1e9, "train_tokens": 1_000_000, "devices": 8, "device": "NVIDIA A100-SXM4-80GB"}
    speed, source = beginning.expected_speed(event, torch.device("cuda"), ())
    assert speed == 8 * 312e12 * 0.4
    assert beginning.time_row(event, 1e12, source) == [("time", "about 17 minutes, if it reaches 0.4 of the device's peak")]
    past = [{**STEP, "tokens_per_second": 100.0}] * 3
    assert beginning.expected_speed(event, torch.device("cuda"), past) == (1e11, "at its speed so far")
    assert beginning.expected_speed({**event, "device": "mps"}, torch.device("mps"), ()) == (None, "")
    assert beginning.time_row(event, None, "") == []
    state = torch.get_rng_state()
    measured, _ = beginning.expected_speed({**event, "device": "a CPU"}, torch.device("cpu"), ())
    assert measured is not None
    assert measured > 1e6
    assert torch.equal(state, torch.get_rng_state())


def test_the_text_of_a_run_is_shown_in_one_line(data_dir: Path) -> None:
    ((name, text),) = beginning.text_row(config.edit(Settings(), [f"data.dir={data_dir}"]))
    assert name == "text"
    assert "\n" not in text
    assert len(text) > 100


# --- The live view ---


def of(*events: dict[str, Any]) -> Seen:
    seen = Seen(clock=lambda: 0.0)
    for event in events:
        seen.event(event)
    return seen


def shown(seen: Seen, width: int = 100, height: int = 40) -> str:
    return "\n".join(line.plain for line in frame(seen, width, height, (1_500_000_000, 8_000_000_000)))


def test_a_frame_shows_what_is_known() -> None:
    text = shown(of(*EVENTS[:6], {**STEP, "step": 3, "tokens": 12288, "loss": 8.0, "warning": "log.wandb: lost"}))
    for part in (
        "12,288 of 4.00M tokens, 5 min 23 s left",
        "8.9500",
        "validation     8.7654",
        "bits per byte  3.210",
        "learning rate  1.00e-03",
        "gradient norm  1.000",
        "12,346 tokens/s, 1.2 TFLOP/s",
        "memory         1.5 GB of 8.0 GB",
        "sample         [red]The [bold] [/] :smile: \\[x] [[]]",
        "new␛[2J",
        "saved          step 1, 0 s ago",
        "2 warnings     step 2 left out: the loss was not finite",
        "log.wandb: lost",
    ):
        assert part in text, part
    assert "\x1b" not in text


def test_a_known_device_has_a_share_of_its_peak() -> None:
    start = {**START, "device": "NVIDIA H100 80GB HBM3", "devices": 2, "flops_per_token": 10**9}
    seen = of(start, STEP, {**STEP, "step": 2, "tokens_per_second": 989_000.0})
    assert "50% of peak" in shown(seen)
    assert "25% of peak" in shown(of({**start, "peak_flops": 2 * 989e12}, STEP, {**STEP, "tokens_per_second": 989_000.0}))


def test_a_run_that_ended_says_so() -> None:
    assert "finished after 0 s" in shown(of(*EVENTS[:2], EVENTS[-1]))
    assert "stopped after 0 s" in shown(of(*EVENTS[:2], EVENTS[-2]))
    last = of(START, {**STEP, "step": 1000, "tokens": 4_000_000})
    assert "4.00M of 4.00M tokens, evaluating and saving" in shown(last)
    assert "100%" in shown(last)


def test_the_time_left_is_by_the_clock_once_a_minute_has_passed() -> None:
    now = 0.0
    seen = Seen(clock=lambda: now)
    seen.event(START)
    assert seen.seconds_left is None
    for number in range(1, 11):
        now = 20.0 * number  # the steps are quick, what lies between them is not
        seen.event({**STEP, "step": number, "tokens": 100_000 * number, "tokens_per_second": 1e6})
    assert seen.seconds_left == pytest.approx(3_000_000 / 100_000 * 20)


def test_a_resumed_run_shows_its_curve_from_the_beginning() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None, _environ={})
    resume = {**START, "event": "resume", "step": 5, "tokens": 20480, "path": "run/step-5", "rejected": []}
    past = [{**STEP, "step": number, "loss": 9.0 - number} for number in range(1, 6)]
    with progress.watching(console, past=lambda: past) as show:
        assert isinstance(show, Live)
        show.event(resume)
        assert show._seen.losses.values == [8.0, 7.0, 6.0, 5.0, 4.0]
        assert show._seen.step == 5


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    losses=st.lists(st.floats(-1e6, 1e6), max_size=30),
    prompt=words,
    text=words,
    warnings=st.lists(words, max_size=4),
)
def test_a_frame_fits_any_terminal(width: int, height: int, losses: list[float], prompt: str, text: str, warnings: list[str]) -> None:
    steps = [{**STEP, "step": number, "loss": loss} for number, loss in enumerate(losses, 1)]
    seen = of(START, *steps, *EVENTS[2:3], {**EVENTS[3], "prompt": prompt, "text": text}, EVENTS[4])
    seen.warnings = warnings
    lines = frame(seen, width, height, (10**9, None))
    assert len(lines) < max(2, height)
    assert all("\n" not in line.plain and "\x1b" not in line.plain for line in lines)


@given(text=words, room=st.integers(2, 40))
def test_folding_loses_no_word(text: str, room: int) -> None:
    from rich.cells import cell_len

    lines = folded(text, room)
    assert all(cell_len(line) <= room for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_the_live_view() -> None:
    tasks = {"hellaswag": {"protocol": "completion", "n": 10, "metrics": {"acc": {"value": 0.25, "stderr": None}}}}
    told = [*EVENTS[:4], {"event": "tasks", "step": 1, "tokens": 4096, "tasks": tasks}, {**EVENTS[3], "text": "later"}, *EVENTS[4:]]
    text = live(told, more=lambda event: [("text", "One [b] document.")], memory=lambda: (10**9, None))
    for part in (
        "model     13.90M parameters",
        "machine   a CPU [2], bf16",
        "text      One [b] document.",
        "task      hellaswag (completion, 10 items): acc 0.2500",
        "sample    step 1: [red]The [bold] [/] :smile: \\[x] [[]]",  # the first, as a second one came
        "sample         [red]The later",
        "saved          step 1",
        "warning        step 2 left out",
        "memory         1.0 GB",
    ):
        assert part in text, part
    assert "\x1b[2J" not in text
    assert text.endswith("\x1b[?25h")  # the cursor is back


def test_the_live_view_ends_with_an_error_too() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, _environ={})
    with pytest.raises(RuntimeError, match="broken"), progress.watching(console) as show:  # noqa: PT012
        show.event(START)
        raise RuntimeError("broken")
    assert "\x1b[?25h" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_error_before_the_beginning_leaves_the_terminal_alone() -> None:
    assert live([]) == ""


def test_a_thousand_steps_are_drawn_a_few_times() -> None:
    text = live([START, *({**STEP, "step": number} for number in range(1, 1001))])
    assert text.count("learning rate") < 20


# --- Drawing in place ---


class Terminal:
    """The rows of a terminal that obeys the few commands that a screen gives."""

    def __init__(self, height: int) -> None:
        self.rows, self.row, self.height = [""], 0, height

    def feed(self, text: str) -> None:
        for command, piece in re.findall(r"\x1b\[(\??\d*[A-Za-z])|([^\x1b]+)", text):
            if piece:
                for mark in re.findall(r"[\n\r]|[^\n\r]+", piece):
                    if mark == "\n":
                        self.row += 1
                        self.rows += [""] * (self.row + 1 - len(self.rows))
                    elif mark != "\r":
                        self.rows[self.row] = mark
            elif command.endswith("F"):
                self.row -= int(command[:-1])
                assert self.row >= max(0, len(self.rows) - self.height), "moved above what the terminal shows"
            elif command == "2K":
                self.rows[self.row] = ""
            elif command == "J":
                self.rows[self.row :] = [""]
            else:
                assert command in ("K", "?25l", "?25h")

    @property
    def shown(self) -> list[str]:
        return self.rows[:-1] if self.rows[-1] == "" else self.rows


lines = st.lists(st.text("abc xyz", min_size=1, max_size=30), min_size=1, max_size=6)


@given(st.lists(st.tuples(st.booleans(), lines), max_size=12))
def test_a_screen_keeps_what_was_said_above_the_last_frame(acts: list[tuple[bool, list[str]]]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=20, color_system=None, _environ={})
    screen, said, drawn = Screen(console), [], []
    for is_frame, texts in acts:
        if is_frame:
            drawn = texts
            screen.draw([Text(text) for text in texts])
        else:
            said += texts
            screen.say(Text("\n".join(texts)))
    screen.close()
    terminal = Terminal(20)
    terminal.feed(console.file.getvalue())  # type: ignore[attr-defined]
    assert [row.rstrip() for row in terminal.shown] == [row.rstrip() for row in [*said, *drawn]]


def test_a_frame_that_was_folded_is_taken_back_whole() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20, color_system=None, _environ={})
    screen = Screen(console)
    screen.draw([Text("x" * 99), Text(), Text("y" * 20)])
    console.width = 40  # the terminal folds the first line to three rows
    screen.draw([Text("z")])
    assert "\x1b[5F" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_others_say_goes_above_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    screen = Screen(Console(stderr=True, force_terminal=True, width=40, height=20, color_system=None, _environ={}))
    screen.draw([Text("a frame")])
    sys.stderr.write("a warning \x1b[2J\n")
    sys.stderr.write("cut short")
    screen.close()
    assert sys.stderr is stream
    terminal = Terminal(20)
    terminal.feed(stream.getvalue())
    assert terminal.shown == ["a warning ␛[2J", "cut short", "a frame"]


def test_a_terminal_that_goes_away_is_no_error() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    screen = Screen(Console(file=Gone(), force_terminal=True, width=40, height=20, _environ={}))
    screen.draw([Text("a frame")])
    screen.close()


def test_the_record_of_a_run_is_what_the_view_of_its_resumption_needs(run_dir: Path) -> None:
    seen = Seen()
    for event in metrics.as_one_run(metrics.read(run_dir / "metrics.jsonl")):
        seen.past(event)
    assert len(seen.losses.values) == 10
    assert seen.val_loss is not None
