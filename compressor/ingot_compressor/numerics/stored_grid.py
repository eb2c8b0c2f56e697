# SPDX-License-Identifier: Apache-2.0
"""Rounding onto the values that a quantized matrix can hold with the scales it has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import WEIGHT_FORMATS, Quantized, zero_code

__all__ = ["StoredGrid"]


class StoredGrid:
    """The grid of every element: value = (level + offset) * scale, scales and shifts fixed.

    `round` is a rounding for a sweep over columns; it keeps the codes that it chooses.
    """

    def __init__(self, quantized: Quantized) -> None:
        """Raises: InvalidArgumentError for a format without scales by groups (f16, t2)."""
        if not quantized.group:
            raise InvalidArgumentError(
                f"{quantized.dtype.name.lower()} has no groups of columns with a scale each"
            )
        self.quantized = quantized
        self.codes = quantized.codes.copy()
        levels = _levels(quantized)
        self._order = np.argsort(levels, kind="stable")
        self._levels = levels[self._order]
        self._middles = (self._levels[1:] + self._levels[:-1]) / 2
        self._scales, self._offsets = _affine(quantized)

    def round(self, column: int, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the nearest values that a column can hold. Shapes: values (n,); result (n,)."""
        group = column // self.quantized.group
        scale, offset = self._scales[:, group], self._offsets[:, group]
        live = scale != 0
        wanted = np.where(live, values / np.where(live, scale, 1) - offset, 0)
        nearest = np.searchsorted(self._middles, wanted)
        code = np.where(live, self._order[nearest], zero_code(self.quantized))
        # int8 codes of q8 are their own level
        own = self.codes.dtype == np.int8
        self.codes[:, column] = np.where(live, self._levels[nearest], 0) if own else code
        return np.where(live, (self._levels[nearest] + offset) * scale, 0.0)

    def result(self) -> Quantized:
        """Return the matrix with the codes chosen so far."""
        return replace(self.quantized, codes=self.codes)


def _levels(quantized: Quantized) -> NDArray[np.float64]:
    """Return what each code stands for before offset and scale."""
    if quantized.codebook.size:
        return quantized.codebook.astype(np.float64)
    if quantized.dtype is Dtype.Q8:
        return np.arange(-127.0, 128.0)
    codes = np.arange(float(1 << WEIGHT_FORMATS[quantized.dtype].bits))
    return codes if quantized.zeros.size else codes - zero_code(quantized)


def _affine(quantized: Quantized) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and offset of every group, (n, groups)."""
    q = quantized
    scales: NDArray[Any] = q.scales
    if q.row_scales.size:
        scales = q.row_scales[:, None].astype(np.float64) * q.sub_scales
    offsets = np.zeros(scales.shape)
    if q.shifts.size:
        offsets += q.shifts * float(q.delta)
    if q.zeros.size:
        offsets -= q.zeros
    return scales.astype(np.float64), offsets
