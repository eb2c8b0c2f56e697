# SPDX-License-Identifier: Apache-2.0
"""Quality of a packed file: its logits against those of the full-precision reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError

__all__ = [
    "UNSCORED",
    "Logits",
    "PositionScores",
    "Quality",
    "Scores",
    "Window",
    "compare_logits",
    "evaluate",
    "join_scores",
    "log_softmax",
    "strided_windows",
    "summarize",
    "token_windows",
]

# The first positions of a window have too little context to say much of a model.
UNSCORED = 32
LONGEST_WINDOW = 512
# float64 logits that are held at once, in elements: 32 MB a copy.
BLOCK_ELEMENTS = 1 << 22
NEAR = 5

# Token ids of one window -> logits (m, v) float32.
Logits = Callable[[NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids (m,) of which those from `first` on are scored."""

    tokens: NDArray[np.int64]
    first: int = UNSCORED

    def __len__(self) -> int:
        """Return its tokens."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class PositionScores:
    """Figures of each scored position of a window. Shapes: (positions,). Units: nats.

    `agrees`: both models have the same likeliest token; `nearly`: the reference's likeliest token
    is among the file's NEAR likeliest.
    """

    kl: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    loss: NDArray[np.float64]
    reference_loss: NDArray[np.float64]
    nearly: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """PositionScores of all windows, window by window."""

    kl: tuple[NDArray[np.float64], ...]
    agrees: tuple[NDArray[np.bool_], ...]
    loss: tuple[NDArray[np.float64], ...]
    reference_loss: tuple[NDArray[np.float64], ...]
    nearly: tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """Measured quality; logarithms are natural. `tokens` counts scored positions.

    `top5_agreement`: how often the reference's likeliest token is among the file's five likeliest.
    """

    mean_kl: float
    p99_kl: float
    p999_kl: float
    top1_agreement: float
    top5_agreement: float
    perplexity: float
    reference_perplexity: float
    tokens: int
    windows: int
    window: int


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the natural logarithm of the softmax over the last axis, in float64."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result


def compare_logits(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]
) -> PositionScores:
    """Return KL(reference || candidate), top-1 agreement and both losses of each position.

    Shapes: reference, candidate (m, v); targets (m,), the token that follows.
    Cost: a few float64 copies of BLOCK_ELEMENTS at a time, whatever m * v is.
    """
    if reference.shape != candidate.shape:
        raise InvalidArgumentError(
            f"the reference gives logits {reference.shape}, the file {candidate.shape}:"
            " not the same model"
        )
    m, v = reference.shape
    kl, loss, reference_loss = np.empty(m), np.empty(m), np.empty(m)
    step = max(1, BLOCK_ELEMENTS // v)
    for first in range(0, m, step):
        rows = slice(first, min(first + step, m))
        p, q = log_softmax(reference[rows]), log_softmax(candidate[rows])
        at = np.arange(len(p)), targets[rows]
        loss[rows], reference_loss[rows] = -q[at], -p[at]
        np.subtract(p, q, out=q)
        np.exp(p, out=p)
        kl[rows] = np.einsum("ij,ij->i", p, q)
    best = reference.argmax(axis=1)
    agrees = best == candidate.argmax(axis=1)
    above = candidate > candidate[np.arange(m), best][:, None]
    nearly = agrees | (above.sum(axis=1) < NEAR)
    # Rounding can leave a tiny negative number where both are equal.
    return PositionScores(np.where(kl < 0, 0.0, kl), agrees, loss, reference_loss, nearly)


def token_windows(
    ids: Sequence[int], window: int, bos: int | None, most_tokens: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield non-overlapping windows, each begun with BOS where inference begins with it.

    A last short window counts if at least one of its positions is scored.
    Shapes: each (at most window,).
    """
    if window < UNSCORED + 2:
        raise InvalidArgumentError(
            f"a window of {window} tokens scores nothing: the first {UNSCORED} positions are"
            " left out"
        )
    text = np.asarray(ids[:most_tokens], np.int64)
    step = window - (bos is not None)
    for first in range(0, len(text), step):
        part = text[first : first + step]
        if bos is not None:
            part = np.concatenate([np.array([bos], np.int64), part])
        if len(part) > UNSCORED:
            yield part


def strided_windows(
    ids: Sequence[int],
    window: int,
    stride: int,
    bos: int | None,
    most_tokens: int | None = None,
) -> Iterator[Window]:
    """Yield windows that begin `stride` tokens apart; each scores what none before it scored.

    Every scored token has at least UNSCORED before it, most of them window - stride.
    Raises: InvalidArgumentError for a stride that leaves less.
    Source: the sliding window of perplexity as transformers documents it ("Perplexity of
        fixed-length models").
    """
    size, begun = window - (bos is not None), int(bos is not None)
    if not 1 <= stride <= window - UNSCORED:
        raise InvalidArgumentError(
            f"a stride of {stride} with windows of {window} tokens: expected 1 to"
            f" {window - UNSCORED}, so that {UNSCORED} tokens stand before each scored one"
        )
    text, scored = np.asarray(ids[:most_tokens], np.int64), UNSCORED - begun
    for begin in range(0, len(text), stride):
        end = min(begin + size, len(text))
        if end > scored:
            part = text[begin:end]
            tokens = part if bos is None else np.concatenate([np.array([bos], np.int64), part])
            yield Window(tokens, scored - begin + begun)
            scored = end


def evaluate(
    windows: Iterable[NDArray[np.int64] | Window],
    reference: Logits,
    candidate: Logits,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score both models on each window, one window in memory at a time.

    A window of plain token ids is scored from position UNSCORED on. `progress` is told the windows
    done so far.
    """
    found: list[PositionScores] = []
    for given in windows:
        window = given if isinstance(given, Window) else Window(given)
        tokens, first = window.tokens, window.first
        # Logits at position i - 1 predict token i.
        scored = slice(first - 1, len(tokens) - 1)
        found.append(
            compare_logits(reference(tokens)[scored], candidate(tokens)[scored], tokens[first:])
        )
        if progress is not None:
            progress(len(found))
    if not found:
        raise InvalidArgumentError(
            f"the evaluation text gives no window of more than {UNSCORED} tokens:"
            " give a longer text"
        )
    return Scores(
        tuple(x.kl for x in found),
        tuple(x.agrees for x in found),
        tuple(x.loss for x in found),
        tuple(x.reference_loss for x in found),
        tuple(x.nearly for x in found),
    )


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Return the scores of windows that were measured one after another as one."""
    return Scores(
        *(tuple(x for part in parts for x in getattr(part, one.name)) for one in fields(Scores))
    )


def summarize(scores: Scores) -> Quality:
    """Return the figures over all scored positions; `window` is the longest one's tokens."""
    kl = np.concatenate(scores.kl)
    return Quality(
        mean_kl=float(kl.mean()),
        p99_kl=float(np.quantile(kl, 0.99)),
        p999_kl=float(np.quantile(kl, 0.999)),
        top1_agreement=float(np.concatenate(scores.agrees).mean()),
        top5_agreement=float(np.concatenate(scores.nearly).mean()),
        perplexity=float(np.exp(np.concatenate(scores.loss).mean())),
        reference_perplexity=float(np.exp(np.concatenate(scores.reference_loss).mean())),
        tokens=int(kl.size),
        windows=len(scores.kl),
        window=max(len(kl) for kl in scores.kl) + UNSCORED,
    )
