# SPDX-License-Identifier: Apache-2.0
"""The tokens and windows of a text on which a file departs most from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot.tokenizer import Tokenizer
from ingot_compressor.evaluate import UNSCORED, compare_logits, log_softmax

__all__ = ["Positions", "WorstToken", "WorstWindow", "score_positions", "worst_of"]

CONTEXT_TOKENS = 24
EXCERPT_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Positions:
    """Figures of the scored positions of a window. Shapes: each (p,). Units: kl in nats.

    `reference_best` and `file_best` are the likeliest ids, with their probabilities.
    """

    kl: NDArray[np.float64]
    reference_best: NDArray[np.int64]
    reference_probability: NDArray[np.float64]
    file_best: NDArray[np.int64]
    file_probability: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WorstToken:
    """One token of the text, what came before it, and what either model would have said.

    `position` counts the tokens of the window before it. Units: nats, probabilities.
    """

    window: int
    position: int
    token: str
    context: str
    kl: float
    reference_token: str
    reference_probability: float
    file_token: str
    file_probability: float


@dataclass(frozen=True, slots=True)
class WorstWindow:
    """One window: the mean over its scored tokens in nats, and how its scored text begins."""

    window: int
    mean_kl: float
    text: str


def score_positions(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]
) -> Positions:
    """Compare logits of scored positions. Shapes: logits (p, v); targets (p,)."""
    kl = compare_logits(reference, candidate, targets).kl
    ours, theirs = _likeliest(reference), _likeliest(candidate)
    return Positions(kl, *ours, *theirs)


def _likeliest(
    logits: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the likeliest id of each position and its probability."""
    best = logits.argmax(axis=1)
    top = np.array([log_softmax(row)[index] for row, index in zip(logits, best, strict=True)])
    return best, np.exp(top)


def worst_of(
    windows: Sequence[NDArray[np.int64]],
    found: Sequence[Positions],
    tokenizer: Tokenizer,
    count: int,
) -> tuple[tuple[WorstToken, ...], tuple[WorstWindow, ...]]:
    """Return the `count` tokens and windows of the largest KL, the worst first.

    A figure that is not finite counts as the largest.
    """
    kl = np.concatenate([one.kl for one in found])
    owner = np.repeat(np.arange(len(found)), [len(one.kl) for one in found])
    starts = np.cumsum([0, *[len(one.kl) for one in found[:-1]]])
    tokens = [
        _token(windows, found, int(owner[at]), int(at - starts[owner[at]]), tokenizer.decode)
        for at in _largest(kl, count)
    ]
    means = np.array([one.kl.mean() for one in found])
    excerpts = [
        WorstWindow(
            int(at),
            float(means[at]),
            tokenizer.decode(windows[at][UNSCORED : UNSCORED + EXCERPT_TOKENS].tolist()),
        )
        for at in _largest(means, count)
    ]
    return tuple(tokens), tuple(excerpts)


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    order = np.argsort(-np.where(np.isfinite(values), values, np.inf), kind="stable")
    return order[:count]


def _token(
    windows: Sequence[NDArray[np.int64]],
    found: Sequence[Positions],
    window: int,
    index: int,
    decode: Callable[[Sequence[int]], str],
) -> WorstToken:
    scores, position = found[window], index + UNSCORED
    ids = windows[window].tolist()
    return WorstToken(
        window=window,
        position=position,
        token=decode([ids[position]]),
        context=decode(ids[max(0, position - CONTEXT_TOKENS) : position]),
        kl=float(scores.kl[index]),
        reference_token=decode([int(scores.reference_best[index])]),
        reference_probability=float(scores.reference_probability[index]),
        file_token=decode([int(scores.file_best[index])]),
        file_probability=float(scores.file_probability[index]),
    )
