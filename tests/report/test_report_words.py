"""Figures in words, and values in tables."""

from __future__ import annotations

import pytest

from daybreak.report import words
from daybreak.report.drawing import ticks
from daybreak.report.markup import MAX_ENTRIES, escape, json_block, leaves


def test_counts() -> None:
    assert [words.count(x) for x in (0, 950, 12_400, 300_000, 999_600, 124_439_808, 1.5e9, 2.62e12)] == [
        "0", "950", "12,400", "300 thousand", "1.00 million", "124 million", "1.50 billion", "2.62 trillion",
    ]  # fmt: skip
    assert words.count(None) == words.ABSENT


def test_sizes_durations_powers_moments() -> None:
    assert [words.size(x) for x in (12, 46_000_000, 1.18e10, None)] == ["12 bytes", "46.0 MB", "11.8 GB", words.ABSENT]
    assert [words.duration(x) for x in (-3, 0, 4.26, 41, 725, 11_520, 187_000, 3600)] == [
        "0 s", "0 s", "4.3 s", "41 s", "12 min 5 s", "3 h 12 min", "2 d 3 h", "1 h",
    ]  # fmt: skip
    assert [words.power(x) for x in (2.15e18, 0, None)] == ["2.15 × 10¹⁸", words.ABSENT, words.ABSENT]
    assert words.moment(0) == "1970-01-01 00:00:00"
    assert words.moment(1e30) == words.ABSENT


def test_listing() -> None:
    assert [words.listing(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"], list("abcde"))] == [
        "", "a", "a and b", "a, b and c", "a, b and 3 more",
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2.9, 11), (3, 3), (0, 2.5e9), (-1e-9, 1e-9), (0, 0)])
def test_ticks_enclose_what_is_drawn(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 3 <= len(marks) <= 10


def test_leaves_flatten_and_count() -> None:
    flat = leaves({"a": {"b": {"c": 1e-4}, "d": [1, 2]}, "e": None, "f": True, "g": {}, "h": 10**5000, "i": [{"x": 1}] * 3})
    assert flat == {"a.b.c": "0.0001", "a.d": "1, 2", "e": "null", "f": "true", "g": "{}", "h": "huge", "i": "3 entries"}
    assert leaves({"shards": {key: {"bytes": 1} for key in range(MAX_ENTRIES + 1)}}) == {"shards": f"{MAX_ENTRIES + 1} entries"}
    assert len(leaves({"train": dict.fromkeys(range(MAX_ENTRIES + 1), 1)})) == MAX_ENTRIES + 1


def test_escaping() -> None:
    assert escape("<b a='\"'>&\x00\ud800") == "&lt;b a=&#x27;&quot;&#x27;&gt;&amp;\ufffd\ufffd"
    block = json_block("x", {"a": "</script><!--<script>&\u2028\ud800"})
    assert block.count("<") == 2  # its own two tags
    block.encode("utf-8")
