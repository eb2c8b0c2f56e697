# SPDX-License-Identifier: Apache-2.0
"""HQQ: zero points that lower a sparse error, found without data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import Float

__all__ = ["GROWTH", "POWER", "START", "STEPS", "half_quadratic", "shrink"]

POWER, START, GROWTH, STEPS = 0.7, 10.0, 1.01, 20
# The most that the inverse of a step may be: a group of equal weights has no range.
MOST_INVERSE = 2e4

Values = NDArray[np.float64]


def shrink(x: NDArray[np.floating], beta: float, power: float = POWER) -> NDArray[np.floating]:
    """Return sign(x) max(|x| - |x|^(power - 1) / beta, 0), the half-quadratic step for |x|^power.

    Shapes: any; result alike.
    """
    size = np.abs(x)
    pull = np.maximum(size, 1e-8) ** (power - 1) / beta
    result: NDArray[np.floating] = np.sign(x) * np.maximum(size - pull, 0)
    return result


def half_quadratic(w: Float, bits: int, steps: int = STEPS) -> Float:
    """Return groups on an asymmetric grid with real zero points, as HQQ finds them.

    The scale is that of the group's range, rounded to float16, as is the zero point. Each step
    takes nearest codes, the sparse part of the error, and the zero point that explains the rest.
    The zero point with the least sum of |error|^0.7 is kept, group by group: never worse than
    plain rounding to the range.

    Shapes: w (groups, g) float32; result alike.
    Source: Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models".
    """
    x = w.astype(np.float64)
    top = 2**bits - 1
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    width = high - low
    inverse = np.minimum(top / np.where(width > 0, width, 1), MOST_INVERSE)
    inverse = 1 / _half(1 / inverse)
    zero = -low * inverse
    best, least, beta = x * 0, np.full(low.shape, np.inf), START
    for _ in range(steps + 1):
        stored = _half(zero)
        codes = np.clip(np.rint(x * inverse + stored), 0, top)
        tried = (codes - stored) / inverse
        error = (np.abs(x - tried) ** POWER).sum(axis=1, keepdims=True)
        best = np.where(error < least, tried, best)
        least = np.minimum(error, least)
        sparse = shrink(x - tried, beta)
        zero = (codes - (x - sparse) * inverse).mean(axis=1, keepdims=True)
        beta *= GROWTH
    return best.astype(np.float32)


def _half(x: Values) -> Values:
    return np.clip(x, -65504, 65504).astype(np.float16).astype(np.float64)
