"""Figures as people say them: 124 million, 3 h 12 min, 1.2 × 10¹⁸."""

from __future__ import annotations

import datetime
import math

ABSENT = "–"

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def count(value: float | None) -> str:
    """A number of things, with a word for its size: 950, 12,400, 124 million, 2.62 billion."""
    if value is None:
        return ABSENT
    if abs(value) < 1e5:
        return f"{value:,.0f}"
    for unit, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= unit * 0.9995:
            return f"{_three_digits(value / unit)} {word}"
    return f"{_three_digits(value / 1e3)} thousand"


def short(value: float) -> str:
    """A number for the mark of an axis: 500, 20k, 1.5M, 3B."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.9999:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


def size(value: float | None) -> str:
    """A number of bytes: 11.8 GB."""
    if value is None:
        return ABSENT
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit * 0.9995:
            return f"{_three_digits(value / unit)} {word}"
    return f"{value:,.0f} bytes"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: 4.3 s, 41 s, 12 min 5 s, 3 h 12 min, 2 d 4 h."""
    if seconds is None:
        return ABSENT
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (n, _) in enumerate(units) if n), 3)
    return " ".join(f"{n} {word}" for n, word in units[first : first + 2] if n) or "0 s"


def power(value: float | None) -> str:
    """A very large number: 1.23 × 10¹⁸."""
    if value is None or value <= 0:
        return ABSENT
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:.2f} × 10{str(exponent).translate(_SUPERSCRIPTS)}"


def decimal(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point."""
    return ABSENT if value is None else f"{value:,.{digits}f}"


def moment(seconds: float | None) -> str:
    """A time in seconds since 1970, as a date and clock time in UTC."""
    if seconds is None:
        return ABSENT
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return ABSENT


def listing(words: list[str], limit: int = 3) -> str:
    """Words joined as in a sentence: a, b and c; past `limit` the rest is only counted."""
    if len(words) > limit:
        words = [*words[: limit - 1], f"{len(words) - limit + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _three_digits(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 2)}f}"
