# SPDX-License-Identifier: Apache-2.0
"""A whole-number sub-scale per 32 k times a float16 scale per row: c5, c4, c3, c2 and q6."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.codebook import FINE, Codebook, Evaluator, best_scales
from ingot_compressor.numerics.groups import Float, group_extremes, round_to_half

__all__ = [
    "SIGNED_7",
    "SIGNED_8",
    "SubScaledRows",
    "SubScales",
    "encode_sub_scaled",
    "nearest_sub_scales",
]


@dataclass(frozen=True, slots=True)
class SubScales:
    """Range of the sub-scales.

    `tops`: which one, negated, the largest group of a row gets; smaller ones put the other groups
    on other fractions.
    """

    low: int
    high: int
    tops: tuple[int, ...]


SIGNED_7 = SubScales(-64, 63, (64, 61, 58, 54))
SIGNED_8 = SubScales(-127, 127, (127, 121, 113))


@dataclass(frozen=True, slots=True)
class SubScaledRows:
    """Stored numbers of a block of rows.

    Shapes: row_scales (n,) float32 on the float16 grid; sub_scales (n, g) int8; shifts (n, g) bool;
    codes (n * g, 32) uint8.
    """

    row_scales: Float
    sub_scales: NDArray[np.int8]
    shifts: NDArray[np.bool_]
    codes: NDArray[np.uint8]


def encode_sub_scaled(
    w: Float,
    u: Float,
    book: Codebook,
    rows: int,
    search: bool,
    subs: SubScales = SIGNED_7,
    factors: tuple[float, ...] = FINE,
) -> SubScaledRows:
    """Choose row scales, sub-scales, shifts and codes.

    Every error that decides is that of the scales as stored, in float16. `factors`: where the
    largest weight of a group is tried, as multiples of the codebook's ends.

    Shapes: w, u (rows * g, 32) float32, the groups of a row together.
    Source: our own search on the family of IQ4_XS and IQ4_KS (llama.cpp, ik_llama.cpp).
    """
    block = Evaluator(w, u)
    if search:
        scale, shift = best_scales(block, book, factors)
    else:
        scale = group_extremes(w) / book.entries[0]
        shift = np.zeros(len(w), np.bool_)
    row, sub = _first_rows(block, book, subs, scale, shift, rows, search)
    if search:
        for _ in range(2):
            sub, shift = _settle_groups(block, book, subs, row, sub)
            row = _refit_rows(block, book, row, sub, shift)
    codes = _codes(block, book, _scales(row, sub), shift)
    return SubScaledRows(row, sub.astype(np.int8), shift.reshape(rows, -1), codes)


def _scales(row: Float, sub: Float) -> Float:
    return (row[:, None] * sub).ravel()


def _errors(block: Evaluator, book: Codebook, scale: Float, shift: NDArray[np.bool_]) -> Float:
    plain = block.errors(scale, book.table(0))
    if not shift.any():
        return plain
    return np.where(shift, block.errors(scale, book.table(1)), plain)


def nearest_sub_scales(scale: Float, row: Float, subs: SubScales) -> Float:
    """Return scale / row rounded into the sub-scale's range, (rows, g); zero rows give zeros."""
    safe = np.where(row == 0, np.float32(1), row)[:, None]
    sub = np.clip(np.rint(scale / safe), subs.low, subs.high)
    return np.where(row[:, None] == 0, np.float32(0), sub)


def _first_rows(
    block: Evaluator,
    book: Codebook,
    subs: SubScales,
    scale: Float,
    shift: NDArray[np.bool_],
    rows: int,
    search: bool,
) -> tuple[Float, Float]:
    """Try a few row scales, rounded to float16 first, and keep the best of each row."""
    by_row = scale.reshape(rows, -1)
    extreme = group_extremes(by_row)
    best_row = np.zeros(rows, np.float32)
    best_sub = np.zeros_like(by_row)
    least = np.full(rows, np.inf)
    for top in subs.tops if search else subs.tops[:1]:
        row = _scale_for_top(extreme, top, -subs.low)
        sub = nearest_sub_scales(by_row, row, subs)
        if not search:
            return row, sub
        error = _errors(block, book, _scales(row, sub), shift).reshape(rows, -1).sum(axis=1)
        better = error < least
        least = np.where(better, error, least)
        best_row = np.where(better, row, best_row)
        best_sub = np.where(better[:, None], sub, best_sub)
    return best_row, best_sub


def _scale_for_top(extreme: Float, top: int, most: int) -> Float:
    """Return the float16 row scale that puts the largest group of each row on -top, at most."""
    row = round_to_half(-extreme / top)
    # A small scale can round so far down that the largest group would not fit any more.
    short = np.abs(row) * (most + 0.5) < np.abs(extreme)
    up = np.nextafter(row.astype(np.float16), np.copysign(np.float16(np.inf), -extreme))
    return np.where(short & (extreme != 0), up.astype(np.float32), row)


def _settle_groups(
    block: Evaluator, book: Codebook, subs: SubScales, row: Float, sub: Float
) -> tuple[Float, NDArray[np.bool_]]:
    """With the row scales fixed, choose each group's shift and sub-scale, neighbours included."""
    best_sub = sub
    best_shift = np.zeros(sub.size, np.bool_)
    least = np.full(sub.size, np.inf, np.float32)
    for bit in (0, 1) if book.delta else (0,):
        table = book.table(bit)
        for step in (0, -1, 1):
            trial = np.clip(sub + step, subs.low, subs.high)
            error = block.errors(_scales(row, trial), table)
            better = error < least
            least = np.where(better, error, least)
            best_shift = np.where(better, bool(bit), best_shift)
            best_sub = np.where(better.reshape(sub.shape), trial, best_sub)
    return best_sub, best_shift


def _refit_rows(
    block: Evaluator, book: Codebook, row: Float, sub: Float, shift: NDArray[np.bool_]
) -> Float:
    """Return closed-form row scales in float16 where they lower the error, else the old ones."""
    scale = _scales(row, sub)
    plain, moved = block.moments(scale, book.table(0)), block.moments(scale, book.table(1))
    dot = np.where(shift, moved[0], plain[0]).reshape(sub.shape)
    power = np.where(shift, moved[1], plain[1]).reshape(sub.shape)
    total = (power * sub * sub).sum(axis=1)
    fitted = round_to_half((dot * sub).sum(axis=1) / np.where(total > 0, total, 1))
    before = _errors(block, book, scale, shift).reshape(sub.shape).sum(axis=1)
    after = _errors(block, book, _scales(fitted, sub), shift).reshape(sub.shape).sum(axis=1)
    return np.where(after < before, fitted, row)


def _codes(
    block: Evaluator, book: Codebook, scale: Float, shift: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    index = block.indices(scale)
    plain = np.take(book.bins(0).astype(np.uint8), index)
    if not shift.any():
        return plain
    return np.where(shift[:, None], np.take(book.bins(1).astype(np.uint8), index), plain)
