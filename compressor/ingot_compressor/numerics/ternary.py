# SPDX-License-Identifier: Apache-2.0
"""t2: -1, 0 or 1 times one float32 scale per row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import TINY, Float

__all__ = ["encode_ternary", "is_ternary"]

# Thresholds below which a weight becomes zero, as multiples of half the row's mean magnitude.
THRESHOLDS = (1.0, 0.8, 1.2, 1.4, 1.6)
POLISHES = 4
# How far from its row's magnitude or from zero a weight may lie that was stored in 16 bits.
TOLERANCE = 2**-7


def encode_ternary(w: Float, u: Float, search: bool) -> tuple[Float, NDArray[np.uint8]]:
    """Choose the row scales and codes: weight = scale * (code - 1).

    Without search the scale is the row's mean magnitude, which keeps weights that were trained as
    ternary exactly as they are.

    Shapes: w, u (n, k) float32; result: scales (n,) float32, codes (n, k) uint8 below 3.
    Source: BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764), then Lloyd iterations on the row.
    """
    mean = np.abs(w).mean(axis=1)
    if not search:
        return mean, _codes(w, mean)
    best, least = np.zeros_like(mean), np.einsum("ij,ij->i", u * w, w)
    codes = np.ones(w.shape, np.uint8)
    for threshold in THRESHOLDS:
        scale = mean * np.float32(threshold)
        for _ in range(POLISHES):
            trial = _codes(w, scale)
            scale = _fitted(w, u, trial)
            e = w - scale[:, None] * (trial.astype(np.float32) - 1)
            error = np.einsum("ij,ij->i", u * e, e)
            better = error < least
            least = np.where(better, error, least)
            best = np.where(better, scale, best)
            codes = np.where(better[:, None], trial, codes)
    return best, codes


def is_ternary(w: Float) -> bool:
    """Tell whether every row has zeros and one magnitude alone, up to rounding in 16 bits.

    Shapes: w (n, k) float32.
    """
    size = np.abs(w)
    most = size.max(axis=1, keepdims=True)
    near = (size <= TOLERANCE * most) | (size >= (1 - TOLERANCE) * most)
    return bool(near.all())


def _codes(w: Float, scale: Float) -> NDArray[np.uint8]:
    inverse = np.where(scale < TINY, np.float32(0), 1 / np.where(scale < TINY, 1, scale))
    steps = np.clip(np.rint(w * inverse[:, None]), -1, 1)
    codes: NDArray[np.uint8] = (steps + 1).astype(np.uint8)
    return codes


def _fitted(w: Float, u: Float, codes: NDArray[np.uint8]) -> Float:
    c = codes.astype(np.float32) - 1
    power = np.einsum("ij,ij->i", u * c, c)
    scale = np.einsum("ij,ij->i", u * c, w) / np.where(power > 0, power, 1)
    result: Float = np.where(power > 0, scale, 0).astype(np.float32)
    return result
