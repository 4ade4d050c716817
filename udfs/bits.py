"""Counting bits of NumPy arrays."""

import numpy as np
from numpy.typing import NDArray


def popcount(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits set in each word, by adding neighbours in parallel (Warren, "Hacker's Delight", 5-1); overwrites `words`.

    NumPy has `bitwise_count` from 2.0 only.
    """
    shifted = words >> np.uint64(1)
    shifted &= np.uint64(0x5555555555555555)
    words -= shifted
    np.right_shift(words, np.uint64(2), out=shifted)
    shifted &= np.uint64(0x3333333333333333)
    words &= np.uint64(0x3333333333333333)
    words += shifted
    np.right_shift(words, np.uint64(4), out=shifted)
    words += shifted
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    words *= np.uint64(0x0101010101010101)
    words >>= np.uint64(56)
    return words
