# SPDX-License-Identifier: Apache-2.0
"""The int8 codebook of a tensor: starting grid, nearest entries, Lloyd iterations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import Float, group_extremes

__all__ = ["Codebook", "Evaluator", "initial_codebook", "learn_codebook"]

# Bins of half a step: midpoints of integers fall on their edges, so a lookup is exact.
BINS_PER_STEP = 2
BIN_COUNT = 1024
CENTRE = BIN_COUNT // 2

# What the largest |w| of a group is mapped to, as a multiple of the codebook's end.
COARSE = (0.94, 1.0)
FINE = (0.86, 0.91, 0.96, 1.01, 1.06)


@dataclass(frozen=True, slots=True)
class Codebook:
    """Values of the codes, rising; `delta` joins each of them where a group's shift bit is set.

    Shapes: entries (c,) float32 (whole numbers once learned), within -127..127.
    """

    entries: Float
    delta: int

    def values(self, shift: int) -> Float:
        """Return the values with or without the shift, (c,) float32."""
        return self.entries + np.float32(shift * self.delta)

    def bins(self, shift: int) -> NDArray[np.intp]:
        """Return the code nearest to each bin of half a step, (BIN_COUNT,)."""
        values = self.values(shift)
        centres = (np.arange(BIN_COUNT) - CENTRE + 0.5) / BINS_PER_STEP
        return np.searchsorted((values[1:] + values[:-1]) / 2, centres)

    def table(self, shift: int) -> Float:
        """Return the value nearest to each bin, (BIN_COUNT,) float32."""
        return self.values(shift)[self.bins(shift)]


def initial_codebook(delta: int, size: int = 16) -> Codebook:
    """Return our starting grid of `size` entries: a line plus a cube, one side longer."""
    half = size // 2
    x = np.arange(-half, half, dtype=np.float64) / half
    entries = np.rint(127 * (0.68 * x + 0.32 * x**3)) + 16 // size
    entries[0] = -127
    return Codebook(entries.astype(np.float32), delta)


class Evaluator:
    """A block of groups whose scales and codes are being searched.

    Shapes: w, u (groups, 32) float32: weights and the importance of each.
    """

    def __init__(self, w: Float, u: Float) -> None:
        self.w = w
        self.u = u
        self.uw = u * w
        self.power = np.einsum("ij,ij->i", self.uw, w)
        self._x = np.empty_like(w)
        self._index = np.empty(w.shape, np.intp)

    def indices(self, scale: Float) -> NDArray[np.intp]:
        """Return the bin of w / scale for each element; the array is reused by the next call."""
        safe = np.where(scale == 0, np.float32(1), scale)
        inverse = np.where(scale == 0, np.float32(0), BINS_PER_STEP / safe)
        np.multiply(self.w, inverse[:, None], out=self._x)
        np.add(self._x, np.float32(CENTRE), out=self._x)
        # Both ends are clipped again as indices; this keeps the conversion to integers defined.
        np.clip(self._x, 0, BIN_COUNT - 1, out=self._x)
        np.copyto(self._index, self._x, casting="unsafe")
        return self._index

    def moments(self, scale: Float, table: Float) -> tuple[Float, Float]:
        """Return sum u w c and sum u c c of each group, c nearest at `scale`; (groups,) each."""
        c = np.take(table, self.indices(scale), out=self._x, mode="clip")
        uc = self.u * c
        return np.einsum("ij,ij->i", self.uw, c), np.einsum("ij,ij->i", uc, c)

    def errors(self, scale: Float, table: Float) -> Float:
        """Return the weighted squared error of each group at exactly this scale, (groups,)."""
        c = np.take(table, self.indices(scale), out=self._x, mode="clip")
        c *= scale[:, None]
        np.subtract(self.w, c, out=c)
        result: Float = np.einsum("ij,ij->i", self.u * c, c)
        return result


def best_scales(
    block: Evaluator, book: Codebook, factors: tuple[float, ...]
) -> tuple[Float, NDArray[np.bool_]]:
    """Search a real scale and the shift bit of each group.

    Candidates put the largest |w| on either end of the codebook times each factor; each is refitted
    in closed form.

    Returns: scales (groups,) float32 of either sign; shifts (groups,) bool.
    """
    extreme = group_extremes(block.w)
    scale = np.zeros(len(extreme), np.float32)
    shift = np.zeros(len(extreme), np.bool_)
    most = np.zeros(len(extreme), np.float32)
    for bit in (0, 1) if book.delta else (0,):
        values, table = book.values(bit), book.table(bit)
        for end in (values[0], values[-1]):
            for factor in factors:
                dot, power = block.moments(extreme / np.float32(end * factor), table)
                ratio = dot / np.where(power > 0, power, 1)
                better = dot * ratio > most
                most = np.where(better, dot * ratio, most)
                scale = np.where(better, ratio, scale)
                shift = np.where(better, bool(bit), shift)
    return scale, shift


def _centroids(
    block: Evaluator, book: Codebook, scale: Float, shift: NDArray[np.bool_]
) -> tuple[Codebook, Float]:
    """One alternation: nearest codes, refitted scales, then each entry to its weighted centroid."""
    codes = np.where(
        shift[:, None],
        np.take(book.bins(1), block.indices(scale)),
        np.take(book.bins(0), block.indices(scale)),
    )
    offset = (shift * np.float32(book.delta))[:, None]
    c = book.entries[codes] + offset
    uc = block.u * c
    power = np.einsum("ij,ij->i", uc, c)
    scale = np.einsum("ij,ij->i", uc, block.w) / np.where(power > 0, power, 1)
    s, size = scale[:, None], len(book.entries)
    pull = np.bincount(codes.ravel(), (block.u * s * (block.w - s * offset)).ravel(), size)
    mass = np.bincount(codes.ravel(), (block.u * s * s).ravel(), size)
    entries = np.where(mass > 0, pull / np.where(mass > 0, mass, 1), book.entries)
    entries = np.sort(entries)
    stretch = 127 / max(float(np.abs(entries).max()), 1e-6)
    return Codebook((entries * stretch).astype(np.float32), book.delta), scale / np.float32(stretch)


def _whole(book: Codebook) -> Codebook:
    """Round the entries to int8, rising strictly."""
    entries = np.clip(np.rint(book.entries), -127, 127)
    last = len(entries) - 1
    for i in range(1, last + 1):
        entries[i] = max(entries[i], entries[i - 1] + 1)
    for i in range(last - 1, -1, -1):
        entries[i] = min(entries[i], 127 - (last - i), entries[i + 1] - 1)
    entries[last] = min(entries[last], 127)
    return Codebook(entries.astype(np.float32), book.delta)


def _loss(block: Evaluator, book: Codebook) -> float:
    scale, shift = best_scales(block, book, COARSE)
    errors = np.where(shift, block.errors(scale, book.table(1)), block.errors(scale, book.table(0)))
    return float(errors.sum(dtype=np.float64))


def deltas_of(size: int) -> tuple[int, ...]:
    """Return the shifts to try: about a third, half and the whole of the least step."""
    return tuple(d * 16 // size for d in (5, 7, 14)) if size > 4 else (16, 28, 44)


def learn_codebook(
    w: Float, u: Float, size: int = 16, deltas: tuple[int, ...] = (), iterations: int = 8
) -> Codebook:
    """Fit the codebook of `size` entries and choose delta on sample groups.

    Never worse on them than the starting grid.

    Shapes: w, u (groups, 32) float32.
    Source: weighted Lloyd iteration (Lloyd 1982) alternated with closed-form group scales.
    Cost: O(len(deltas) * iterations) passes over the sample.
    """
    block = Evaluator(w, u)
    deltas = deltas or deltas_of(size)
    best, least = initial_codebook(deltas[0], size), np.inf
    for delta in deltas:
        start = initial_codebook(delta, size)
        for candidate in (start, _whole(_lloyd(block, start, iterations))):
            loss = _loss(block, candidate)
            if loss < least:
                best, least = candidate, loss
    return best


def _lloyd(block: Evaluator, book: Codebook, iterations: int) -> Codebook:
    for step in range(iterations):
        if step % 4 == 0:
            scale, shift = best_scales(block, book, COARSE)
        book, scale = _centroids(block, book, scale, shift)
    return book
