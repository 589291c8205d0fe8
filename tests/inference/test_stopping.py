"""Stop strings: found wherever the pieces were cut, and nothing of them shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.inference.stopping import StopStrings

LETTERS = st.text("ab\n", max_size=20)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def plainly(text, stops):
    """One character after another: the text before the first stop string that is complete, the longest of those; None if none is."""
    for end in range(1, len(text) + 1):
        if ending := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, ending))]
    return None


@given(pieces=st.lists(LETTERS, max_size=8), stops=STOPS)
def test_it_stops_where_one_would_by_hand_however_the_text_is_cut(pieces, stops):
    stream, shown, expected = StopStrings(stops), "", plainly("".join(pieces), stops)
    for piece in pieces:
        shown += stream.push(piece)
        assert "".join(pieces).startswith(shown)
    assert stream.stopped is (expected is not None)
    assert shown + stream.flush() == ("".join(pieces) if expected is None else expected)


@pytest.mark.parametrize(
    ("stops", "pieces", "shown"),
    [
        (["\n\n"], ["a\n", "b", "\n", "\nc"], ["a", "\nb", "", ""]),
        (["END"], ["E", "N", "E", "ND!"], ["", "", "EN", ""]),
        ([], ["all", " of", " it"], ["all", " of", " it"]),
        (["b", "abc"], ["a", "b"], ["", "a"]),
    ],
)
def test_it_holds_back_no_more_than_it_must(stops, pieces, shown):
    stream = StopStrings(stops)
    assert [stream.push(piece) for piece in pieces] == shown


def test_after_the_end_nothing_is_shown():
    stream = StopStrings(["x"])
    assert [stream.push("axb"), stream.push("more"), stream.flush()] == ["a", "", ""]
