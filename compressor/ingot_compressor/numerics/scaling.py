# SPDX-License-Identifier: Apache-2.0
"""Scales per input channel that make a matrix easier to round, and limits that clip its groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import Float

__all__ = [
    "activation_aware_scales",
    "clip_groups",
    "column_largest",
    "group_grams",
    "grouped_errors",
    "relative_magnitudes",
    "search_clips",
    "smoothing_scales",
]

LEAST_SCALE = 1e-4
CLIP_STEPS = 20
LEAST_CLIP = 0.5

Vector = NDArray[np.float64]


def column_largest(matrices: Sequence[Float]) -> Vector:
    """Return max |W_j| of each input channel over matrices that read the same input.

    Shapes: matrices each (n, k); result (k,) float64.
    """
    largest = [np.abs(w).max(axis=0).astype(np.float64) for w in matrices]
    result: Vector = np.max(largest, axis=0)
    return result


def smoothing_scales(x_largest: Vector, w_largest: Vector, alpha: float = 0.5) -> Vector:
    """Return s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), 1 where a channel is all zero.

    X / s and W s give the same product; alpha is the share of the difficulty that moves to W.

    Shapes: all (k,).
    Raises: ValueError for alpha outside 0..1 or shapes that differ.
    Source: SmoothQuant (Xiao et al. 2022, arXiv:2211.10438), equation 4.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha:g}, expected 0 to 1")
    if x_largest.shape != w_largest.shape:
        raise ValueError(f"{x_largest.shape} activation and {w_largest.shape} weight channels")
    used = (x_largest > 0) & (w_largest > 0)
    x, w = np.where(used, x_largest, 1.0), np.where(used, w_largest, 1.0)
    return np.maximum(x**alpha / w ** (1 - alpha), LEAST_SCALE)


def relative_magnitudes(matrices: Sequence[Float], g: int) -> Vector:
    """Return the mean over all rows of |w| over the largest |w| of its group, per column.

    Shapes: matrices each (n, k); result (k,) float64.
    Source: the weight statistic of AWQ's scale search (Lin et al. 2023, arXiv:2306.00978).
    """
    total, rows = np.zeros(matrices[0].shape[1]), 0
    for w in matrices:
        parts = np.abs(_grouped(w.astype(np.float64), g))
        largest = parts.max(axis=2, keepdims=True)
        relative = parts / np.where(largest > 0, largest, 1)
        total += relative.reshape(len(w), -1)[:, : w.shape[1]].sum(axis=0)
        rows += len(w)
    return total / rows


def activation_aware_scales(
    x_mean: Vector, w_mean: Vector, ratio: float, duo: bool = True
) -> Vector:
    """Return AWQ's candidate for a ratio: x^r / (w^(1 - r) + 1e-4), or x^r, centred around 1.

    Shapes: x_mean (k,) mean |X_j|; w_mean (k,) `relative_magnitudes`; result (k,), with
    max * min = 1.
    Source: AWQ (Lin et al. 2023, arXiv:2306.00978), section 3.2; `duo` as in its implementation.
    """
    power = np.asarray(x_mean, np.float64) ** ratio
    s = power / (np.asarray(w_mean, np.float64) ** (1 - ratio) + 1e-4) if duo else power
    s = np.maximum(s, LEAST_SCALE)
    centred: Vector = s / np.sqrt(s.max() * s.min())
    return centred


def group_grams(x: Float, g: int) -> Vector:
    """Return the mean outer product of each group's inputs; zeros where the last group ends early.

    Shapes: x (tokens, k); result (ceil(k / g), g, g) float64.
    """
    parts = _grouped(x, g).astype(np.float64)
    grams: Vector = np.einsum("tgi,tgj->gij", parts, parts, optimize=True) / max(len(x), 1)
    return grams


def grouped_errors(error: Float, grams: Vector) -> Vector:
    """Return the mean squared output error that each group of each row alone causes.

    Shapes: error (n, k), the difference of two matrices; grams (groups, g, g); result (n, groups).
    """
    parts = _grouped(error, grams.shape[1]).astype(np.float64)
    result: Vector = np.einsum("ngi,gij,ngj->ng", parts, grams, parts, optimize=True)
    return result


def clip_groups(w: Float, limits: Float, g: int) -> Float:
    """Return w with each group of g in each row limited to +- its limit.

    Shapes: w (n, k); limits (n, ceil(k / g)).
    """
    spread = np.repeat(limits, g, axis=1)[:, : w.shape[1]]
    clipped: Float = np.clip(w, -spread, spread)
    return clipped


def search_clips(
    w: Float,
    grams: Vector,
    quantizer: Callable[[Float], Float],
    steps: int = CLIP_STEPS,
    least: float = LEAST_CLIP,
) -> Float:
    """Return the limit of each group whose clipped, quantized weights err least at the output.

    The largest |w| is shrunk in equal steps down to `least` of itself. Groups are judged one by
    one; where a quantizer couples them and all choices together err more than no clipping, the
    limits clip nothing.

    Shapes: w (n, k); grams (groups, g, g) of `group_grams`; result (n, groups) float32.
    Source: the clip search of AWQ (Lin et al. 2023, arXiv:2306.00978).
    Cost: steps + 1 quantizations.
    """
    g = grams.shape[1]
    largest = np.abs(_grouped(w, g)).max(axis=2).astype(np.float32)
    plain = grouped_errors(quantizer(w) - w, grams)
    best, lowest = largest.copy(), plain.copy()
    for step in range(1, steps + 1):
        limits = largest * np.float32(1 - (1 - least) * step / steps)
        errors = grouped_errors(quantizer(clip_groups(w, limits, g)) - w, grams)
        better = errors < lowest
        best = np.where(better, limits, best)
        lowest = np.where(better, errors, lowest)
    together = grouped_errors(quantizer(clip_groups(w, best, g)) - w, grams)
    chosen: Float = best if together.sum() < plain.sum() else largest
    return chosen


def _grouped(x: NDArray[np.floating], g: int) -> NDArray[np.floating]:
    """Return (n, k) as (n, ceil(k / g), g), zeros at the end."""
    missing = -x.shape[1] % g
    padded = np.pad(x, ((0, 0), (0, missing))) if missing else x
    return padded.reshape(len(x), -1, g)
