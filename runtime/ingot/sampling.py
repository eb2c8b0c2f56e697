# SPDX-License-Identifier: Apache-2.0
"""Choosing the next token from logits.

Order, fixed: surplus ids are cut off, repetition penalty, temperature, top-k, top-p, min-p, draw.
Each filter sees the distribution that the one before it left, renormalized. The draw is keyed by
(seed, position), so one position's token does not depend on how many draws came before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InternalError, InvalidArgumentError

__all__ = ["Sampling", "candidates", "choose"]

_SEEDS = 1 << 64


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; the default is greedy.

    temperature 0 takes the most likely token, and the filters then change nothing.
    top_k 0, top_p 1, min_p 0 and repetition_penalty 1 are off.
    seed None draws another one for each generation.

    Raises: InvalidArgumentError for a value outside its range, naming the range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        _number("temperature", self.temperature, 0.0, 100.0)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _integer("top_k", self.top_k, 1 << 31)
        if self.top_p == 0.0:
            raise InvalidArgumentError("top_p is 0, which keeps nothing: 1 switches it off")
        if self.seed is not None:
            _integer("seed", self.seed, _SEEDS)


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
    ids, probabilities = candidates(logits, sampling, history)
    generator = np.random.Generator(np.random.Philox(key=sampling.seed, counter=position))
    bounds = np.cumsum(probabilities)
    index = int(np.searchsorted(bounds, generator.random() * bounds[-1], side="right"))
    return int(ids[min(index, len(ids) - 1)])


def candidates(
    logits: NDArray[np.float32], sampling: Sampling, history: Iterable[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ids that may be drawn and their probabilities, which add up to 1.

    Shapes: logits (v,) float32; ids (c,) int64 and probabilities (c,) float64 with c <= v.
    Raises: InternalError if the logits hold no finite maximum.
    """
    scores = _penalized(logits, sampling.repetition_penalty, history)
    _greedy(scores)
    ids = _top_k(scores, sampling.top_k)
    kept = scores[ids].astype(np.float64) / max(sampling.temperature, 1e-6)
    probabilities = np.exp(kept - kept.max())
    probabilities /= probabilities.sum()
    if sampling.top_p < 1.0:
        ids, probabilities = _top_p(ids, probabilities, sampling.top_p)
    if sampling.min_p > 0.0:
        keep = probabilities >= sampling.min_p * probabilities.max()
        ids, probabilities = ids[keep], probabilities[keep]
    return ids, probabilities / probabilities.sum()


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
    ids: NDArray[np.int64], probabilities: NDArray[np.float64], top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep the fewest most likely ids whose probabilities reach top_p.

    Source: Holtzman et al. 2020 (arXiv:1904.09751), section 3.1.
    """
    # All ids below (1 - p) / c together weigh less than 1 - p: they need no sorting.
    likely = np.flatnonzero(probabilities >= (1.0 - top_p) / len(probabilities))
    order = likely[np.argsort(-probabilities[likely], kind="stable")]
    reached = int(np.searchsorted(np.cumsum(probabilities[order]), top_p, side="left"))
    keep = order[: reached + 1]
    return ids[keep], probabilities[keep]


def _number(name: str, value: float, low: float, high: float) -> None:
    """Refuse what is not a number within [low, high]."""
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not valid or not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {value!r}, expected a number from {low} to {high}")


def _integer(name: str, value: int, limit: int) -> None:
    """Refuse what is not an integer within [0, limit)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise InvalidArgumentError(
            f"{name} is {value!r}, expected an integer from 0 to {limit - 1}"
        )
