# SPDX-License-Identifier: Apache-2.0
"""Choosing the next token from logits, step by step as native/core/sample.c does, to the same id.

Weights are e^((score - largest) / temperature) in float32, never normalized; sums run in float64
from the first candidate to the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InternalError, InvalidArgumentError
from ingot.sampling import Sampling

__all__ = ["candidates", "choose", "philox", "uniform", "weights_of"]

_WORD = 0xFFFFFFFF


def choose(
    logits: NDArray[np.float32], sampling: Sampling, history: Iterable[int], position: int
) -> int:
    """Return the id of the next token.

    Shapes: logits (v,) float32, only ids that may be sampled.
    Raises: InternalError if the logits hold no finite maximum; InvalidArgumentError without a seed.
    """
    if sampling.temperature == 0.0:
        return _greedy(_penalized(logits, sampling.repetition_penalty, history))
    if sampling.seed is None:
        raise InvalidArgumentError("sampling above temperature 0 needs a seed: give Sampling one")
    ids, weights = _weighted(logits, sampling, history)
    bounds = np.cumsum(weights)
    target = uniform(sampling.seed, position) * bounds[-1]
    index = int(np.searchsorted(bounds, target, side="right"))
    return int(ids[min(index, len(ids) - 1)])


def candidates(
    logits: NDArray[np.float32], sampling: Sampling, history: Iterable[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ids that may be drawn and their probabilities, which add up to 1.

    Shapes: logits (v,) float32; ids (c,) int64 and probabilities (c,) float64 with c <= v.
    Raises: InternalError if the logits hold no finite maximum.
    """
    ids, weights = _weighted(logits, sampling, history)
    return ids, weights / weights.sum()


def uniform(seed: int, position: int) -> float:
    """Return the random number of a position, in [0, 1): 53 bits of one Philox block.

    Key: the seed's low and high word. Counter: the position's low and high word, 0, 0.
    """
    counter = (position & _WORD, position >> 32, 0, 0)
    words = philox(counter, (seed & _WORD, seed >> 32))
    return ((words[0] << 32 | words[1]) >> 11) * 2.0**-53


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the block of a counter: Philox4x32-10.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = (right >> 32) ^ c1 ^ k0, right & _WORD
        c2, c3 = (left >> 32) ^ c3 ^ k1, left & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def weights_of(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return e^x for x <= 0, 0 below -86. Shapes: x (c,) float32, result as x.

    Range reduction by ln 2 in two parts, then the Taylor terms of e^r to r^7 / 7!.
    """
    one = np.float32
    magic = one(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer in the low bits
    clamped = np.maximum(x, one(-86.0))
    shifted = clamped * one(1.44269504) + magic
    n = shifted - magic
    r = (clamped - n * one(0.693359375)) + n * one(2.12194440e-4)
    y = np.full_like(r, one(1.0) / one(5040.0))
    for divisor in (720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0):
        y = y * r + one(1.0) / one(divisor)
    bits = y.view(np.uint32) + (shifted.view(np.uint32) << np.uint32(23))
    return np.where(x < one(-86.0), one(0.0), bits.view(np.float32))


def _weighted(
    logits: NDArray[np.float32], sampling: Sampling, history: Iterable[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ids that may be drawn and their weights; the largest weight of all ids is 1."""
    scores = _penalized(logits, sampling.repetition_penalty, history)
    largest = scores[_greedy(scores)]
    ids = _top_k(scores, sampling.top_k)
    temperature = np.float32(max(sampling.temperature, 1e-6))
    weights = weights_of((scores[ids] - largest) / temperature).astype(np.float64)
    if sampling.top_p < 1.0:
        ids, weights = _top_p(ids, weights, sampling.top_p)
    if sampling.min_p > 0.0:
        keep = weights >= sampling.min_p
        ids, weights = ids[keep], weights[keep]
    return ids, weights


def _greedy(scores: NDArray[np.float32]) -> int:
    """Return the first id of the largest score."""
    best = int(np.argmax(scores))
    if not math.isfinite(float(scores[best])):
        raise InternalError(
            f"the model gave the logit {scores[best]} for token {best}: try 'ingot verify'"
        )
    return best


def _penalized(
    logits: NDArray[np.float32], penalty: float, history: Iterable[int]
) -> NDArray[np.float32]:
    """Divide positive logits of tokens seen before by the penalty, multiply negative ones.

    Source: Keskar et al. 2019 (arXiv:1909.05858), section 4.1, with the sign handled.
    """
    if penalty == 1.0:
        return logits
    scores = logits.copy()
    seen = np.unique(np.fromiter(history, np.int64))
    seen = seen[seen < len(scores)]
    values = scores[seen]
    scores[seen] = np.where(values > 0, values / penalty, values * penalty)
    return scores


def _top_k(scores: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Return the ids of the k largest scores in rising order; among equals the lower id stays."""
    if top_k == 0 or top_k >= len(scores):
        return np.arange(len(scores), dtype=np.int64)
    threshold = np.partition(scores, -top_k)[-top_k]
    above = np.flatnonzero(scores > threshold)
    equal = np.flatnonzero(scores == threshold)[: top_k - len(above)]
    return np.sort(np.concatenate([above, equal])).astype(np.int64)


def _top_p(
    ids: NDArray[np.int64], weights: NDArray[np.float64], top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep the fewest most likely ids whose weights reach top_p of the sum, best first.

    Source: Holtzman et al. 2020 (arXiv:1904.09751), section 3.1.
    """
    total = np.cumsum(weights)[-1]
    # All ids below (1 - p) / c of the sum together weigh less than 1 - p: they need no sorting.
    likely = np.flatnonzero(weights >= (1.0 - top_p) / len(weights) * total)
    order = likely[np.argsort(-weights[likely], kind="stable")]
    reached = int(np.searchsorted(np.cumsum(weights[order]), top_p * total, side="left"))
    keep = order[: reached + 1]
    return ids[keep], weights[keep]
