"""The order in which windows of text are visited: a permutation that is computed, never stored.

A Feistel network turns any function into a bijection; walking its cycle until it lands below `n` makes it a bijection of
0 .. n-1 for any n (format-preserving encryption by cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
2002, section 3). So the window at any position of any epoch costs a few multiplications, and there is no state to save.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in SplitMix64


class Permutation:
    """A pseudo-random bijection of 0 .. n-1 that depends on `key` only.

    The domain is padded to 4^k, fewer than 4 n values, so a walk takes under 4 steps on average.
    """

    def __init__(self, n: int, key: str) -> None:
        if n < 1:
            raise ValueError(f"a permutation wants at least 1 element, came {n}")
        self.n = n
        self._half_bits = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        digest = hashlib.sha512(key.encode()).digest()
        self._keys = [np.uint64(int.from_bytes(digest[8 * i : 8 * i + 8], "little")) for i in range(_ROUNDS)]

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Maps positions (N,), each in 0 .. n-1, to their values (N,)."""
        values = self._encrypt(positions.astype(np.uint64))
        while (outside := values >= self.n).any():
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_round(right, key) & self._mask)
        return (left << self._half_bits) | right


def _round(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the input and the key stirs every bit of the output."""
    with np.errstate(over="ignore"):
        mixed = (values + key) * _MIX
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
