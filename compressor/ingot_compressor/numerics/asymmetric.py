# SPDX-License-Identifier: Apache-2.0
"""q4z: codes 0..15 with a float16 scale and a zero point of 0..255 per row and group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import TINY, Float, round_to_half

__all__ = ["asymmetric_codes", "encode_asymmetric", "fit_line", "range_scales"]

HIGHEST_CODE, HIGHEST_ZERO = 15, 255
# What the range of a group is shrunk or stretched by, around its least and its largest weight.
RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 1.05)
POLISHES = 3


def encode_asymmetric(
    w: Float, u: Float, search: bool
) -> tuple[Float, NDArray[np.uint8], NDArray[np.uint8]]:
    """Choose scale, zero point and codes of each group: weight = scale * (code - zero).

    Without search the range is that of the group, zero included. Every candidate is judged by the
    weighted error of what would be stored.

    Shapes: w, u (groups, g) float32; result: scales (groups,) float32 on the float16 grid, zeros
    (groups,) uint8, codes (groups, g) uint8.
    Source: asymmetric min-max rounding (Jacob et al. 2018, arXiv:1712.05877) with the closed-form
    refit of scale and offset of llama.cpp's make_qkx3_quants.
    """
    low = np.minimum(w.min(axis=1), 0)
    high = np.maximum(w.max(axis=1), 0)
    scale, zero = range_scales(low, high)
    if not search:
        return scale, zero.astype(np.uint8), asymmetric_codes(w, scale, zero).astype(np.uint8)
    least = _error(w, u, scale, zero)
    for stretch in RANGES:
        middle, half = (low + high) / 2, (high - low) / 2 * np.float32(stretch)
        trial = range_scales(np.minimum(middle - half, 0), np.maximum(middle + half, 0))
        for _ in range(POLISHES):
            error = _error(w, u, *trial)
            better = error < least
            least = np.where(better, error, least)
            scale = np.where(better, trial[0], scale)
            zero = np.where(better, trial[1], zero)
            trial = fit_line(w, u, asymmetric_codes(w, *trial), *trial)
    return scale, zero.astype(np.uint8), asymmetric_codes(w, scale, zero).astype(np.uint8)


def range_scales(low: Float, high: Float) -> tuple[Float, Float]:
    """Return the stored scale and whole zero point of each range. Shapes: all (groups,)."""
    scale = round_to_half((high - low) / HIGHEST_CODE)
    scale = np.where(high - low < TINY, np.float32(0), scale)
    return scale, _whole_zero(-low, scale)


def _whole_zero(offset: Float, scale: Float) -> Float:
    zero = np.rint(offset / np.where(scale == 0, np.float32(1), scale))
    return np.where(scale == 0, np.float32(0), np.clip(zero, 0, HIGHEST_ZERO))


def asymmetric_codes(w: Float, scale: Float, zero: Float) -> Float:
    """Return the nearest codes. Shapes: w (groups, g); scale, zero (groups,)."""
    inverse = np.where(scale == 0, np.float32(0), 1 / np.where(scale == 0, np.float32(1), scale))
    codes: Float = np.clip(np.rint(w * inverse[:, None] + zero[:, None]), 0, HIGHEST_CODE)
    return codes


def _error(w: Float, u: Float, scale: Float, zero: Float) -> Float:
    e = w - scale[:, None] * (asymmetric_codes(w, scale, zero) - zero[:, None])
    result: Float = np.einsum("ij,ij->i", u * e, e)
    return result


def fit_line(w: Float, u: Float, c: Float, scale: Float, zero: Float) -> tuple[Float, Float]:
    """Return scale and whole zero point of the weighted line through (code, weight), both stored.

    Where the codes of a group are all alike, or the line falls, the scale stays.
    Shapes: w, u, c (groups, g); scale, zero (groups,).
    """
    total, sum_c = u.sum(axis=1), np.einsum("ij,ij->i", u, c)
    sum_w, sum_cc = np.einsum("ij,ij->i", u, w), np.einsum("ij,ij->i", u * c, c)
    sum_cw = np.einsum("ij,ij->i", u * c, w)
    spread = total * sum_cc - sum_c * sum_c
    flat = spread <= TINY
    slope = (total * sum_cw - sum_c * sum_w) / np.where(flat, 1, spread)
    slope = round_to_half(np.where(flat | (slope <= 0), scale, slope))
    offset = (slope * sum_c - sum_w) / np.where(total > 0, total, 1)
    whole = _whole_zero(offset, slope)
    centred = c - whole[:, None]
    power = np.einsum("ij,ij->i", u * centred, centred)
    best = np.einsum("ij,ij->i", u * centred, w) / np.where(power > 0, power, 1)
    return round_to_half(np.where(best > 0, best, slope)), whole
