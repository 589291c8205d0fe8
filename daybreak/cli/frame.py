"""A run as a handful of lines for a terminal of any size: how far it is, its loss as a curve, its figures, what it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daybreak.cli import drawing
from daybreak.cli.speak import harmless
from daybreak.report.words import duration

if TYPE_CHECKING:
    from rich.text import Text

    from daybreak.cli.seen import Seen

SUNRISE = ("#4a5a94", "#6d5a8d", "#a0628a", "#c4697a", "#dc8168", "#ee9a5f", "#f3b675", "#f8d58c")
"""From night to day: what is done of a run."""
_LABEL = 15
_NARROWEST, _TWO_COLUMNS, _SECOND_COLUMN = 24, 76, 43

Memory = Callable[[], tuple[int, int | None]]
"""Bytes in use at most so far, and all that there are."""


def frame(seen: Seen, width: int, height: int, memory: tuple[int, int | None] | None = None) -> list[Text]:
    """The lines, fewer than `height`, each at most `width` wide: where there is little room, what matters least is left out."""
    for curve_rows, sample_rows, warnings, spaced in (
        (6, 3, 3, True),
        (4, 3, 3, True),
        (4, 2, 2, True),
        (3, 1, 1, False),
        (1, 1, 1, False),
    ):
        lines = _lines(seen, width, curve_rows, sample_rows, warnings, spaced, memory)
        if len(lines) < height - (4 if curve_rows == 6 else 1):  # the tall one leaves room for a line or two above
            return lines
    return lines[: max(1, height - 1)]


def _lines(
    seen: Seen, width: int, curve_rows: int, sample_rows: int, warnings: int, spaced: bool, memory: tuple[int, int | None] | None
) -> list[Text]:
    from rich.text import Text

    gap = [Text()] if spaced else []
    lines = [*gap, *_progress(seen, width), *gap]
    if len(seen.losses.values) > 1:
        lines += [*_curve(seen, width, curve_rows), *gap]
    lines += _figures(seen, width, memory)
    if seen.sample is not None and width >= _NARROWEST:
        lines += [*(gap if sample_rows > 1 else []), *_sample(seen, width, sample_rows)]
    if seen.saved is not None:
        step, ago = seen.saved[0], seen.seconds_since_saved() or 0
        lines.append(_row("saved", f"step {step:,}", f", {duration(ago)} ago" if seen.ended is None else ""))
    shown = seen.warnings[-warnings:]
    for number, warning in enumerate(shown):
        more = len(seen.warnings) - len(shown)
        label = "warning" if len(seen.warnings) == 1 else f"{len(seen.warnings)} warnings"
        line = Text(f"{label if number == 0 else '':{_LABEL}}", style="yellow")
        line.append(" ".join(harmless(warning).split()) + (f"  ({more} before)" if more and number == 0 else ""))
        lines.append(line)
    return lines


def _progress(seen: Seen, width: int) -> list[Text]:
    """The bar and what it says; on a line each where both do not fit on one."""
    from rich.text import Text

    said = _said(seen)
    narrow = width < 2 * len(said)
    percent = f" {seen.share:4.0%}"
    length = max(4, width - len(percent) - (0 if narrow else 2 + len(said)))
    done, rest = drawing.bar(seen.share, length)
    bar, step = Text(), max(1, -(-length // len(SUNRISE)))
    for number, start in enumerate(range(0, len(done), step)):
        bar.append(done[start : start + step], style=SUNRISE[number])
    bar.append(rest, style="dim").append(percent, style="bold")
    if narrow:
        return [bar, Text(said if len(said) <= width else said.replace(" tokens", ""))]
    return [bar.append(f"  {said}")]


def _said(seen: Seen) -> str:
    told = f"{_count(seen.tokens)} of {_count(seen.train_tokens)} tokens"
    left = seen.seconds_left
    if seen.state == "running":
        return told if left is None else f"{told}, {duration(left)} left"
    if seen.state == "finishing":
        return f"{told}, evaluating and saving"
    return f"{told}, {seen.state} after {duration(seen.seconds)}"


def _curve(seen: Seen, width: int, rows: int) -> list[Text]:
    """The loss over what has been trained, its highest and lowest value beside it."""
    values = seen.losses.values
    lowest, highest = drawing.bounds(values)
    marks = [f" {highest:.2f}", *[""] * (rows - 2), *([f" {lowest:.2f}"] if rows > 1 else [])]
    across = max(4, width - _LABEL - max(map(len, marks)))
    loss = f"{seen.loss:.4f}" if seen.loss is not None else ""
    if rows == 1:
        line = _row("loss", f"{loss}  ")
        return [line.append(drawing.braille(values, max(4, width - line.cell_len), 1)[0], style="#ee9a5f")]
    lines = []
    for number, dots in enumerate(drawing.braille(values, across, rows)):
        line = _row("loss" if number == 0 else "", "")
        if number == 1:
            line.truncate(0)
            line.append(f"{loss:{_LABEL}}", style="bold")
        lines.append(line.append(dots, style="#ee9a5f").append(marks[number], style="dim"))
    return lines


def _figures(seen: Seen, width: int, memory: tuple[int, int | None] | None) -> list[Text]:
    cells: list[tuple[str, str, str]] = []
    if seen.val_loss is not None:
        trend = drawing.blocks(seen.val_losses.values, 12)
        cells.append(("validation", f"{seen.val_loss:.4f}", f"  {trend}" if len(trend) > 1 else ""))
    if seen.bits_per_byte is not None:
        cells.append(("bits per byte", f"{seen.bits_per_byte:.3f}", ""))
    if seen.learning_rate is not None:
        cells.append(("learning rate", f"{seen.learning_rate:.2e}", ""))
    if seen.grad_norm is not None:
        cells.append(("gradient norm", f"{seen.grad_norm:.3f}", ""))
    if seen.tokens_per_second is not None:
        cells.append(("speed", f"{_rate(seen.tokens_per_second)} tokens/s", _share_of_peak(seen)))
    if memory is not None and memory[0]:
        used, whole = memory
        cells.append(("memory", f"{used / 1e9:.1f} GB", f" of {whole / 1e9:.1f} GB" if whole else ""))
    if width < _TWO_COLUMNS:
        return [_row(*cell) for cell in cells]
    lines = []
    if seen.val_loss is None and len(cells) % 2:  # pairs that belong together stay together
        cells = [*cells, ("", "", "")]
    for left, right in zip(cells[::2], [*cells[1::2], ("", "", "")], strict=False):
        line = _row(*left)
        line.pad_right(max(2, max(width // 2, _SECOND_COLUMN) - line.cell_len))
        lines.append(line.append_text(_row(*right)) if right[0] else line)
    return lines


def _share_of_peak(seen: Seen) -> str:
    if seen.flops is None:
        return ""
    if seen.peak_flops:
        return f", {seen.flops / seen.peak_flops:.0%} of peak"
    return f", {seen.flops / 1e12:,.1f} TFLOP/s" if seen.flops >= 1e12 else f", {seen.flops / 1e9:,.0f} GFLOP/s"


def _sample(seen: Seen, width: int, rows: int) -> list[Text]:
    """The beginning of what the model wrote last."""
    assert seen.sample is not None
    _, prompt, text = seen.sample
    lines = []
    for number, line in enumerate(folded(harmless(prompt + text), width - _LABEL)[:rows]):
        begun = len(prompt) if number == 0 and "\n" not in prompt and line.startswith(prompt) else 0
        shown = _row("sample" if number == 0 else "", line[:begun])
        lines.append(shown.append(line[begun:], style="italic"))
    return lines


def folded(text: str, room: int) -> list[str]:
    """A text in lines of at most `room` cells, folded between words where it can be; empty lines are left out."""
    from rich.cells import cell_len, chop_cells

    lines: list[str] = []
    for written in text.expandtabs(4).split("\n"):
        line = ""
        for word in written.split(" "):
            together = f"{line} {word}" if line else word
            if cell_len(together) <= room:
                line = together
                continue
            if line:
                lines.append(line)
            *whole, line = chop_cells(word, room) or [""]
            lines += whole
        lines.append(line)
    return [line for line in lines if line.strip()]


def _row(label: str, figure: str, rest: str = "") -> Text:
    from rich.text import Text

    return Text().append(f"{label:{_LABEL}}", style="dim").append(figure, style="bold").append(rest)


def _count(tokens: int) -> str:
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if tokens >= unit:
            return f"{tokens / unit:.2f}{letter}"
    return f"{tokens:,}"


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second / 1e6:.2f}M" if tokens_per_second >= 1e6 else f"{tokens_per_second:,.0f}"
