# SPDX-License-Identifier: Apache-2.0
"""Symmetric uniform grids: q8 and q4. One float16 scale per row and group, found by search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import Float, group_extremes, round_to_half

__all__ = ["Q4_GRID", "Q8_GRID", "UniformGrid", "encode_uniform", "uniform_codes"]


@dataclass(frozen=True, slots=True)
class UniformGrid:
    """Integer codes low..high; `ends` are the values that the largest |w| is tried on.

    The first end is what plain absmax rounding uses.
    """

    low: int
    high: int
    ends: tuple[float, ...]


Q8_GRID = UniformGrid(-127, 127, (127.0, 126.6, 127.4))
# Full range: the largest |w| may land on -8, with a scale of either sign, or on 7.
Q4_GRID = UniformGrid(
    -8, 7, (-8.0, 7.0, *(float(x) for x in np.arange(-9.0, -6.0, 0.2)), 6.2, 6.6, 7.4, 7.8)
)


def _refit(w: Float, u: Float, c: Float) -> Float:
    """Return the float16 scale with the least weighted error for codes c, (groups,)."""
    uc = u * c
    power = np.einsum("ij,ij->i", uc, c)
    scale = np.einsum("ij,ij->i", uc, w) / np.where(power > 0, power, 1)
    return round_to_half(scale)


def uniform_codes(w: Float, scale: Float, grid: UniformGrid) -> Float:
    """Return the nearest codes, 0 where the scale is. Shapes: w (groups, g), scale (groups,)."""
    inverse = np.where(scale == 0, np.float32(0), 1 / np.where(scale == 0, np.float32(1), scale))
    c = w * inverse[:, None]
    np.rint(c, out=c)
    return np.clip(c, grid.low, grid.high, out=c)


def _error(w: Float, u: Float, scale: Float, c: Float) -> Float:
    e = w - scale[:, None] * c
    result: Float = np.einsum("ij,ij->i", u * e, e)
    return result


def encode_uniform(
    w: Float, u: Float, grid: UniformGrid, search: bool
) -> tuple[Float, NDArray[np.int8]]:
    """Choose a float16 scale and integer codes for each group.

    Every candidate scale is rounded to float16 before codes are taken, refitted in closed form and
    judged by the weighted error of what would be stored: never worse than absmax rounding.

    Shapes: w, u (groups, g) float32; result: scales (groups,) float32 on the float16 grid, codes
    (groups, g) int8.
    Source: weighted round-to-nearest as in llama.cpp's make_qx_quants; full range as in AutoRound.
    """
    extreme = group_extremes(w)
    if not search:
        scale = round_to_half(extreme / np.float32(grid.ends[0]))
        return scale, uniform_codes(w, scale, grid).astype(np.int8)
    best = np.zeros(len(w), np.float32)
    least = np.einsum("ij,ij->i", u * w, w)
    for end in grid.ends:
        scale = round_to_half(extreme / np.float32(end))
        c = uniform_codes(w, scale, grid)
        scale = _refit(w, u, c)
        error = _error(w, u, scale, c)
        better = error < least
        best = np.where(better, scale, best)
        least = np.where(better, error, least)
    return _polish(w, u, best, grid)


def _polish(w: Float, u: Float, scale: Float, grid: UniformGrid) -> tuple[Float, NDArray[np.int8]]:
    """Alternate nearest codes and refitted scale twice; each step can only lower the error."""
    for _ in range(2):
        c = uniform_codes(w, scale, grid)
        refitted = _refit(w, u, c)
        better = _error(w, u, refitted, c) < _error(w, u, scale, c)
        scale = np.where(better, refitted, scale)
    return scale, uniform_codes(w, scale, grid).astype(np.int8)
