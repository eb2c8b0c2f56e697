# SPDX-License-Identifier: Apache-2.0
"""How much of the reference's accuracy a file keeps, and whether that is known well enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot_compressor.evaluation.verdict import Verdict

__all__ = ["Recovery", "items_that_decide", "measure_recovery"]

RESAMPLES = 10000
SEED = 20260101
# Added to each kind of item before drawing. Without it no lost item among 40 would mean that none
# is ever lost: a file that loses 2 % would pass at its own level in 40 of 100 samples of that size.
SMOOTHING = 0.5


@dataclass(frozen=True, slots=True)
class Recovery:
    """Accuracy of the file over that of the reference, on the same items.

    `low` and `high` bound it at the confidence asked for; all three are nan where the reference
    solves nothing. `deviation` is the bootstrap's standard error. The counts are of items.
    """

    ratio: float
    low: float
    high: float
    deviation: float
    items: int
    both: int
    only_reference: int
    only_file: int

    @property
    def reference_accuracy(self) -> float:
        """Share of items that the reference solves."""
        return (self.both + self.only_reference) / self.items

    @property
    def accuracy(self) -> float:
        """Share of items that the file solves."""
        return (self.both + self.only_file) / self.items

    def verdict(self, level: float) -> Verdict:
        """Pass or fail only where the whole interval stands on one side of the level."""
        if self.low >= level:
            return Verdict.PASS
        return Verdict.FAIL if self.high < level else Verdict.INCONCLUSIVE


def measure_recovery(
    reference: NDArray[np.bool_], candidate: NDArray[np.bool_], confidence: float = 0.95
) -> Recovery:
    """Return the ratio of accuracies with its interval from a paired bootstrap over items.

    An item is drawn with both of its answers, so that what both models find hard does not count
    as noise. Only how many items are of each of the four kinds matters: a draw of n items with
    replacement is a multinomial draw of these counts, to each of which half an item is added for
    the draws. The seed is fixed. Draws in which the reference solves nothing are left out.
    Shapes: reference, candidate (n,), whether each item was solved.
    Raises: InvalidArgumentError for no items, or answers that do not pair up.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, 13.3 (percentiles);
        Agresti and Min 2005, Simple improved confidence intervals for comparing matched proportions
        (the half items).
    """
    if reference.shape != candidate.shape or reference.size == 0:
        raise InvalidArgumentError(
            f"{reference.size} answers of the reference and {candidate.size} of the file:"
            " expected as many, and at least one"
        )
    counts = _counts(reference, candidate)
    both, only_reference, only_file, _ = (int(count) for count in counts)
    n = reference.size
    shares = (counts + SMOOTHING) / (n + SMOOTHING * len(counts))
    drawn = np.random.default_rng(SEED).multinomial(n, shares, RESAMPLES)
    solved = drawn[:, 0] + drawn[:, 1]
    if both + only_reference == 0 or not solved.any():
        return Recovery(*(math.nan,) * 4, n, both, only_reference, only_file)
    kept = drawn[solved > 0]
    ratios = (kept[:, 0] + kept[:, 2]) / solved[solved > 0]
    edge = (1 - confidence) / 2
    low, high = (float(x) for x in np.quantile(ratios, (edge, 1 - edge)))
    ratio = (both + only_file) / (both + only_reference)
    return Recovery(ratio, low, high, float(ratios.std()), n, both, only_reference, only_file)


def _counts(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how many items both solve, the reference alone, the file alone, and neither."""
    a, b = reference.astype(bool), candidate.astype(bool)
    return np.array([(x & y).sum() for x, y in ((a, b), (a, ~b), (~a, b), (~a, ~b))], np.float64)


def items_that_decide(recovery: Recovery, level: float, confidence: float = 0.95) -> int | None:
    """Return about how many items would decide, None where no number of this kind would.

    The standard error falls with the square root of the items: the number is that at which the
    interval around the present ratio reaches the level no more. Never fewer than one more than now.
    """
    distance = abs(recovery.ratio - level)
    if not math.isfinite(distance) or distance == 0:
        return None
    width = NormalDist().inv_cdf((1 + confidence) / 2) * recovery.deviation
    return max(recovery.items + 1, math.ceil(recovery.items * (width / distance) ** 2))
