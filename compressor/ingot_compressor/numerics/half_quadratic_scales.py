# SPDX-License-Identifier: Apache-2.0
"""HQQ on the grids of record: stored scales, shifts and whole zero points, found without data.

The published method moves a real zero point, which no format here stores. Its half-quadratic steps
are kept; what they move is what a file holds. Every error that decides is that of stored numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.asymmetric import asymmetric_codes, fit_line, range_scales
from ingot_compressor.numerics.codebook import Codebook, Evaluator
from ingot_compressor.numerics.groups import Float, group_extremes, round_to_half
from ingot_compressor.numerics.half_quadratic import GROWTH, POWER, START, STEPS, shrink
from ingot_compressor.numerics.sub_scaled import (
    SubScaledRows,
    SubScales,
    encode_sub_scaled,
    nearest_sub_scales,
)
from ingot_compressor.numerics.uniform import UniformGrid, uniform_codes

__all__ = [
    "power_errors",
    "sparse_asymmetric",
    "sparse_sub_scaled",
    "sparse_uniform",
]

# (w, scale, zero) -> the level of each element; the value is scale * (level - zero).
Nearest = Callable[[Float, Float, Float], Float]
# (target, u, levels, scale, zero) -> the stored scale and zero that come nearest to the target.
Refit = Callable[[Float, Float, Float, Float, Float], tuple[Float, Float]]
Pair = tuple[Float, Float]


def power_errors(w: Float, u: Float, values: Float) -> Float:
    """Return sum u |w - values|^0.7 of each group. Shapes: all (groups, g); result (groups,)."""
    size = np.abs(w - values)
    errors: Float = np.einsum("ij,ij->i", u, size ** np.float32(POWER))
    return errors


def sparse_uniform(w: Float, u: Float, grid: UniformGrid) -> tuple[Float, NDArray[np.int8]]:
    """Choose the scale and codes of each group of a symmetric grid: q8 and q4.

    Shapes: w, u (groups, g) float32; result: scales (groups,) float32 on the float16 grid, codes
    (groups, g) int8. Never a larger error than absmax rounding.
    Source: as `_settled`.
    """
    extreme, zero = group_extremes(w), np.zeros(len(w), np.float32)

    def nearest(part: Float, scale: Float, _: Float) -> Float:
        return uniform_codes(part, scale, grid)

    starts = ((round_to_half(extreme / np.float32(end)), zero) for end in grid.ends[:2])
    scale, _ = _best_of(w, u, starts, nearest, _fit_half)
    return scale, uniform_codes(w, scale, grid).astype(np.int8)


def sparse_asymmetric(w: Float, u: Float) -> tuple[Float, NDArray[np.uint8], NDArray[np.uint8]]:
    """Choose scale, whole zero point and codes of each group: q4z.

    Shapes: as `encode_asymmetric`. Never a larger error than rounding to the group's range.
    Source: as `_settled`.
    """
    start = range_scales(np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0))
    scale, zero = _best_of(w, u, iter((start,)), asymmetric_codes, fit_line)
    return scale, zero.astype(np.uint8), asymmetric_codes(w, scale, zero).astype(np.uint8)


def sparse_sub_scaled(
    w: Float, u: Float, book: Codebook, rows: int, subs: SubScales
) -> SubScaledRows:
    """Choose sub-scales, shifts and codes under the row scales of plain rounding: c5 to c2, q6.

    Each group takes the stored neighbours of the scale that its steps settle on, with and without
    the shift, or what plain rounding gives it: never a larger error than that.

    Shapes: w, u (rows * g, 32) float32; result as `encode_sub_scaled`.
    Source: as `_settled`.
    """
    plain = encode_sub_scaled(w, u, book, rows, search=False, subs=subs)
    row, sub = plain.row_scales, plain.sub_scales.astype(np.float32)
    shift, codes = np.zeros(len(w), np.bool_), plain.codes
    least = power_errors(w, u, _stored(row, sub) * book.entries[codes])
    for bit in (0, 1) if book.delta else (0,):
        wanted = nearest_sub_scales(_settled_scales(w, u, book, bit).reshape(sub.shape), row, subs)
        for step in (0, -1, 1):
            trial = np.clip(wanted + step, subs.low, subs.high)
            scale = _stored(row, trial)
            found = np.take(book.bins(bit), Evaluator(w, u).indices(scale[:, 0]))
            error = power_errors(w, u, scale * book.values(bit)[found])
            better = error < least
            least = np.where(better, error, least)
            shift = np.where(better, bool(bit), shift)
            sub = np.where(better.reshape(sub.shape), trial, sub)
            codes = np.where(better[:, None], found.astype(np.uint8), codes)
    return SubScaledRows(row, sub.astype(np.int8), shift.reshape(rows, -1), codes)


def _stored(row: Float, sub: Float) -> Float:
    """Return the scale of every group, (groups, 1)."""
    return (row[:, None] * sub).reshape(-1, 1)


def _settled_scales(w: Float, u: Float, book: Codebook, bit: int) -> Float:
    """Return the real scale of each group for a codebook with or without its shift, (groups,)."""
    values, table = book.values(bit), book.table(bit)
    extreme, zero = group_extremes(w), np.zeros(len(w), np.float32)
    unit = float(values[-1] - values[0]) / (len(values) - 1)

    def nearest(part: Float, scale: Float, _: Float) -> Float:
        return np.take(table, Evaluator(part, part).indices(scale))

    starts = ((extreme / end, zero) for end in (values[0], values[-1]))
    return _best_of(w, u, starts, nearest, _fit_scale, unit)[0]


def _fit_scale(target: Float, u: Float, c: Float, scale: Float, zero: Float) -> Pair:
    """Return the scale of the weighted line through zero and (level, target)."""
    uc = u * c
    power = np.einsum("ij,ij->i", uc, c)
    fitted = np.einsum("ij,ij->i", uc, target) / np.where(power > 0, power, 1)
    return np.where((power > 0) & (fitted != 0), fitted, scale), zero


def _fit_half(target: Float, u: Float, c: Float, scale: Float, zero: Float) -> Pair:
    """Return the same in float16, as it is stored."""
    fitted, zero = _fit_scale(target, u, c, scale, zero)
    return round_to_half(fitted), zero


def _best_of(
    w: Float, u: Float, starts: Iterator[Pair], nearest: Nearest, refit: Refit, unit: float = 1.0
) -> Pair:
    """Return for each group what settles best of several starts."""
    best, least = _settled(w, u, next(starts), nearest, refit, unit)
    for start in starts:
        found, error = _settled(w, u, start, nearest, refit, unit)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, found[0], best[0]), np.where(better, found[1], best[1])
    return best


def _settled(
    w: Float, u: Float, start: Pair, nearest: Nearest, refit: Refit, unit: float
) -> tuple[Pair, Float]:
    """Alternate nearest levels, the sparse part of the error, and a refit to what remains.

    Errors are counted in steps of the grid, `unit` scales apart, so that the unit of the weights
    does not matter. A group stays in the loop while its error falls.

    Returns: the scale and zero with the least `power_errors`, the start's among them, and those.
    Source: Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models",
    who move the zero point alone; moving the stored scale by the same steps is ours.
    """
    best = start[0].copy(), start[1].copy()
    least = np.full(len(w), np.inf, np.float32)
    live, (scale, zero), beta = np.arange(len(w)), start, START
    for _ in range(STEPS + 1):
        part, weights = w[live], u[live]
        c = nearest(part, scale, zero)
        tried = scale[:, None] * (c - zero[:, None])
        error = power_errors(part, weights, tried)
        better = error < least[live]
        kept = live[better]
        least[kept], best[0][kept], best[1][kept] = error[better], scale[better], zero[better]
        live = kept
        if not len(live):
            break
        c, scale, zero = c[better], scale[better], zero[better]
        step = np.where(scale == 0, 1, np.abs(scale) * np.float32(unit))[:, None]
        off = (w[live] - tried[better]) / step
        target = w[live] - (shrink(off, beta) * step).astype(np.float32)
        scale, zero = refit(target, u[live], c, scale, zero)
        beta *= GROWTH
    return best, least
