"""What is read for an item: ids split at the context's end, cut on the left, or in windows in which each id is predicted once."""

import numpy as np
import pytest
from evaluation.tasks import BYTES
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.tokenizer import train_bpe
from daybreak.evaluation.items import Item, TaskProblem
from daybreak.evaluation.reading import Reading, encode, is_cut, rows


def item(context, *continuations):
    return Item("0", context, continuations)


def text(ids):
    return BYTES.decode(ids)


def test_together_moves_the_context_s_last_spaces():
    reading = encode(BYTES, item("The sun \n", "rises", "é"), apart=False)
    assert text(reading.context) == "The sun"
    assert [text(tail) for tail in reading.continuations] == [" \nrises", " \né"]
    apart = encode(BYTES, item("The sun \n", "rises"), apart=True)
    assert (text(apart.context), text(apart.continuations[0])) == ("The sun \n", "rises")


@pytest.mark.parametrize("context", ["", " ", "\n "])
def test_an_empty_context_is_the_end_of_text(context):
    reading = encode(BYTES, item(context, "a"), apart=False)
    assert reading.context.tolist() == [BYTES.eot]
    assert text(reading.continuations[0]) == f"{context}a"


def test_together_is_one_encoding_cut_where_the_context_s_own_ids_end():
    """As the harness does it, also where the last of the context and the first of the continuation would be one token."""
    tokenizer = train_bpe(["bcbcbc"] * 9, 258)
    assert len(tokenizer.encode("bc")) == 1
    whole = tokenizer.encode("abc d").tolist()  # a, bc, space, d
    reading = encode(tokenizer, item("ab", "c d"), apart=False)
    assert reading.context.tolist() == tokenizer.encode("ab").tolist()
    assert reading.continuations[0].tolist() == whole[2:]
    apart = encode(tokenizer, item("ab", "c d"), apart=True)
    assert apart.continuations[0].tolist() == tokenizer.encode("c d").tolist() != whole[2:]


def test_a_continuation_that_melts_into_the_context_is_an_error():
    tokenizer = train_bpe(["ababab"] * 9, 258)
    assert len(tokenizer.encode("ab")) == len(tokenizer.encode("a"))
    with pytest.raises(TaskProblem, match="item 0: wanted a continuation with tokens of its own, 'b' melts"):
        encode(tokenizer, item("a", "b"), apart=False)


@given(context=st.integers(1, 30), count=st.integers(0, 70), length=st.integers(1, 20))
def test_each_id_is_predicted_once_behind_as_much_as_fits(context, count, length):
    head, tail = np.arange(context), 100 + np.arange(count)
    found = list(rows(head, tail, length))
    assert [i for row in found for i in row.ids[len(row.ids) - row.scored :].tolist()] == tail.tolist()
    everything = np.concatenate([head, tail]).tolist()
    for row in found:
        assert 1 <= row.scored < len(row.ids) <= length + 1
        end = everything.index(int(row.ids[-1])) + 1
        assert row.ids.tolist() == everything[end - len(row.ids) : end]  # nothing is left out in between
        full = len(row.ids) == length + 1
        assert full or (count <= length and len(row.ids) == len(everything))
    assert is_cut(Reading(head, (tail,)), length) == (len(everything) > length + 1)


def test_windows_are_the_harness_s():
    """Its own two functions, where it is installed."""
    utils = pytest.importorskip("lm_eval.utils", reason="lm-eval is not installed")
    for count in range(50):
        for length in (1, 2, 7, 16):
            tail = list(range(100, 100 + count))
            pairs = map(utils.make_disjoint_window, utils.get_rolling_token_windows(tail, 5, length, 1))
            ours = [
                (row.ids[: len(row.ids) - row.scored].tolist(), row.ids[len(row.ids) - row.scored :].tolist())
                for row in rows(np.array([5]), np.array(tail, dtype=np.int64), length)
            ]
            assert ours == [(list(before), list(after)) for before, after in pairs]
