"""The order of windows: a bijection for any size, other for every key, and never another than it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.order import Permutation

KEYS = st.text(max_size=8)


def whole(n, key):
    return Permutation(n, key)(np.arange(n, dtype=np.int64))


@given(n=st.integers(1, 3000), key=KEYS)
def test_every_number_comes_once(n, key):
    np.testing.assert_array_equal(np.sort(whole(n, key)), np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097])
def test_every_number_comes_once_at_the_edges(n):
    np.testing.assert_array_equal(np.sort(whole(n, "edge")), np.arange(n))


@given(n=st.integers(10**6, 10**12), key=KEYS, data=st.data())
def test_large_orders_stay_within_and_never_collide(n, key, data):
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=200, unique=True)), dtype=np.int64)
    values = Permutation(n, key)(positions)
    assert values.dtype == np.int64
    assert 0 <= values.min() <= values.max() < n
    assert len(set(values.tolist())) == len(positions)


@given(n=st.integers(1, 500), key=KEYS, data=st.data())
def test_a_value_depends_on_its_position_only(n, key, data):
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    np.testing.assert_array_equal(Permutation(n, key)(positions), whole(n, key)[positions])


def test_the_order_is_this_forever():
    """A run that is resumed with a newer version must see the same text in the same order."""
    assert whole(10, "1337:0").tolist() == [7, 5, 8, 4, 0, 1, 2, 3, 6, 9]
    assert Permutation(10**9, "1337:1")(np.arange(4, dtype=np.int64)).tolist() == [963639328, 635624274, 258104163, 279561562]


def test_other_keys_give_other_orders():
    orders = [whole(1000, f"{seed}:{epoch}") for seed in range(4) for epoch in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 12  # 1 is expected


def test_every_place_is_as_likely_as_every_other():
    """Over many keys each value comes equally often at each position: a chi-square of 64 cells, and pairs of neighbours."""
    tries, n = 1500, 8
    table, follows = np.zeros((n, n)), np.zeros((n, n))
    for key in range(tries):
        order = whole(n, str(key))
        table[np.arange(n), order] += 1
        np.add.at(follows, (order[:-1], order[1:]), 1)
    expected = tries / n
    assert ((table - expected) ** 2 / expected).sum() < 49 + 5 * np.sqrt(2 * 49)
    pairs = follows[~np.eye(n, dtype=bool)]
    expected = tries * (n - 1) / len(pairs)
    assert ((pairs - expected) ** 2 / expected).sum() < 55 + 5 * np.sqrt(2 * 55)


def test_neighbours_do_not_stay_neighbours():
    order = whole(100_000, "1337:0").astype(np.float64)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.02


def test_nothing_has_no_order():
    with pytest.raises(ValueError, match="at least 1 element, came 0"):
        Permutation(0, "")
