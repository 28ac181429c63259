"""Exact selection of the largest entries of a vector, without sorting: Triton functions that kernels call.

Keys are int32 that sort as the float32 they stand for, so that a threshold is found by narrowing a range of integers,
which ends whatever the values are: infinities, ties, not-a-number.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2**31))  # the key of what is not there
HIGHEST = tl.constexpr(2**31 - 1)  # the key of what is taken in any case
GUESSES = tl.constexpr(20)
DIGITS = tl.constexpr(4)  # of a key, of 8 bits each


@triton.jit
def order(x):
    """float32 as int32 that sort alike, between the lowest and the highest key."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.minimum(tl.maximum(bits ^ ((bits >> 31) & 0x7FFFFFFF), LOWEST + 1), HIGHEST - 1)


@triton.jit
def unorder(key):
    """The float32 that a key stands for."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def threshold(keys, want, most):
    """A t such that at least `want` keys (of a 1-d block) are t or more, and at most `most`; if there is none, because
    keys are equal, the largest t with at least `want`.
    """
    low, high = bounds(keys, want)
    guesses = 0
    while low < high:
        # the upper middle of the keys, without overflow
        middle = (low | high) - ((low ^ high) >> 1)
        if guesses < GUESSES:
            # values spread evenly rather than their bits: their middle is the better guess, while it lies between
            guess = order((unorder(low) + unorder(high)) * 0.5)
            middle = tl.where((guess > low) & (guess <= high), guess, middle)
        count = tl.sum((keys >= middle).to(tl.int32), axis=0)
        enough = count >= want
        high = tl.where(enough, tl.where(count <= most, middle, high), middle - 1)
        low = tl.where(enough, middle, low)
        guesses += 1
    return low


@triton.jit
def bounds(keys, want):
    """Between which keys the threshold lies."""
    plain = (keys > LOWEST) & (keys < HIGHEST)
    low = tl.min(tl.where(plain, keys, HIGHEST), axis=0)
    high = tl.max(tl.where(plain, keys, LOWEST), axis=0)
    # what is taken in any case may be enough
    return tl.where(tl.sum((keys == HIGHEST).to(tl.int32), axis=0) >= want, HIGHEST, low), high


@triton.jit
def slots(keys, limit, most):
    """Whether each key is among those of `limit` or more, and its place among these; of keys that equal the limit only
    as many as `most` leaves room for.
    """
    above, equal, at_above, at_equal = places(keys, limit)
    slot = tl.where(above, at_above, tl.sum(above.to(tl.int32), axis=0) + at_equal)
    return above | (equal & (slot < most)), slot


@triton.jit
def places(keys, limit):
    """Which keys are above the limit, which equal it, and the place of each among its kind."""
    above, equal = keys > limit, keys == limit
    # both counts in one scan: a block has fewer than 2**15 keys
    scan = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16), axis=0)
    return above, equal, (scan & 0xFFFF) - 1, (scan >> 16) - 1
