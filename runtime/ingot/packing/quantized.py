# SPDX-License-Identifier: Apache-2.0
"""A weight as codes and scales, apart from how the bytes lie in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import TILE_ROWS, Dtype, Layout, ScaleKind
from ingot.packing.sizes import (
    WEIGHT_FORMATS,
    geometry,
    list_bytes,
    packed_bytes,
    round_up,
    sparse_tile_bytes,
    superblock_count,
)

__all__ = ["Quantized", "dequantize", "integers", "stored_bytes", "stored_elements", "zero_code"]

_ZERO = {Dtype.Q6: 32, Dtype.Q4: 8, Dtype.T2: 1}


def _no_scales() -> NDArray[np.float16]:
    return np.zeros((0, 0), np.float16)


def _no_row_scales() -> NDArray[Any]:
    return np.zeros(0, np.float16)


def _no_sub_scales() -> NDArray[np.int8]:
    return np.zeros((0, 0), np.int8)


def _no_shifts() -> NDArray[np.bool_]:
    return np.zeros((0, 0), np.bool_)


def _no_zeros() -> NDArray[np.uint8]:
    return np.zeros((0, 0), np.uint8)


def _no_codebook() -> NDArray[np.int8]:
    return np.zeros(0, np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """One weight matrix in a format of record; checked when it is made.

    Shapes: codes (n, k): q8 int8, f16 the float16 values themselves, the others uint8 below two to
    their bits. q8, q4, q4z: scales (n, ceil(k / group)); q4z: zeros alike. q6, c5, c4, c3, c2:
    row_scales (n,) float16, sub_scales (n, ceil(k / 32)); the last four: shifts alike, codebook of
    32, 16, 8 or 4, delta. t2: row_scales (n,) float32. What a format does not have is empty, delta
    0. present (ceil(n / 16), superblocks): which superblocks are stored; empty: all of them.
    Raises: InvalidArgumentError naming the field that does not fit.
    """

    dtype: Dtype
    shape: tuple[int, int]
    group: int
    codes: NDArray[Any]
    scales: NDArray[np.float16] = field(default_factory=_no_scales)
    row_scales: NDArray[Any] = field(default_factory=_no_row_scales)
    sub_scales: NDArray[np.int8] = field(default_factory=_no_sub_scales)
    shifts: NDArray[np.bool_] = field(default_factory=_no_shifts)
    codebook: NDArray[np.int8] = field(default_factory=_no_codebook)
    delta: int = 0
    zeros: NDArray[np.uint8] = field(default_factory=_no_zeros)
    present: NDArray[np.bool_] = field(default_factory=_no_shifts)
    layout: Layout = Layout.T16

    def __post_init__(self) -> None:
        geometry(self.dtype, self.group)
        n, k = self.shape
        if n < 1 or k < 1:
            raise InvalidArgumentError(f"shape is {self.shape}, expected two positive sizes")
        kind = WEIGHT_FORMATS[self.dtype].scale_kind
        per_group = (n, -(-k // self.group) if self.group else 0)
        scaled = kind in (ScaleKind.F16_GROUP, ScaleKind.F16_ZERO8_GROUP)
        sub_scaled = kind in (ScaleKind.SUB8_ROW16, ScaleKind.I8_ROW16)
        entries = WEIGHT_FORMATS[self.dtype].entries
        by_row = (n,) if sub_scaled or kind == ScaleKind.F32_ROW else (0,)
        row_type = np.float32 if kind == ScaleKind.F32_ROW else np.float16
        code_type = {Dtype.F16: np.float16, Dtype.Q8: np.int8}.get(self.dtype, np.uint8)
        _check("codes", self.codes, code_type, (n, k))
        _check("scales", self.scales, np.float16, per_group if scaled else (0, 0))
        zeroed = kind == ScaleKind.F16_ZERO8_GROUP
        _check("zeros", self.zeros, np.uint8, per_group if zeroed else (0, 0))
        _check("row_scales", self.row_scales, row_type, by_row)
        _check("sub_scales", self.sub_scales, np.int8, per_group if sub_scaled else (0, 0))
        _check("shifts", self.shifts, np.bool_, per_group if entries else (0, 0))
        _check("codebook", self.codebook, np.int8, (entries,))
        if self.present.size:
            tiles = round_up(n, TILE_ROWS) // TILE_ROWS
            blocks = superblock_count(self.dtype, k, self.group)
            _check("present", self.present, np.bool_, (tiles, blocks))
        self._check_values()

    def _check_values(self) -> None:
        name, known = self.dtype.name.lower(), WEIGHT_FORMATS[self.dtype]
        if self.layout not in known.layouts:
            raise InvalidArgumentError(f"{name}: layout {self.layout}, expected {known.layouts}")
        most = (1 << known.bits) - 1
        if self.codes.dtype == np.uint8 and int(self.codes.max()) > most:
            raise InvalidArgumentError(
                f"{name}: code {int(self.codes.max())}, expected 0 to {most}"
            )
        for label, values in (
            ("codes", self.codes if self.dtype == Dtype.F16 else self.scales),
            ("scales", self.scales),
            ("row_scales", self.row_scales),
        ):
            if not np.isfinite(values).all():
                raise InvalidArgumentError(f"{name}: {label} hold a value that is not finite")
        low, high = (-64, 63) if known.entries else (-128, 127)
        if self.sub_scales.size and int(self.sub_scales.min()) < low:
            raise InvalidArgumentError(f"{name}: sub-scale below {low}, expected {low} to {high}")
        if self.sub_scales.size and int(self.sub_scales.max()) > high:
            raise InvalidArgumentError(f"{name}: sub-scale above {high}, expected {low} to {high}")
        if abs(self.delta) > 127 or (self.delta and not known.entries):
            raise InvalidArgumentError(
                f"{name}: delta {self.delta}, expected -127 to 127, and 0 without a codebook"
            )


def _check(name: str, array: NDArray[Any], dtype: type[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InvalidArgumentError(
            f"{name}: found {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )


def zero_code(quantized: Quantized) -> int:
    """Return the code that padding gets: the one whose value is zero, or nearest to it."""
    if quantized.codebook.size:
        return int(np.argmin(np.abs(quantized.codebook.astype(np.int16))))
    return _ZERO.get(quantized.dtype, 0)


def _spread(per_group: NDArray[Any], group: int, k: int) -> NDArray[Any]:
    """Repeat a value per (row, group) over the k of its group."""
    return np.repeat(per_group, group, axis=1)[:, :k]


def integers(quantized: Quantized) -> NDArray[np.int32]:
    """Return what a code stands for before any scale, (n, k): zero where nothing is stored."""
    q, k = quantized, quantized.shape[1]
    if q.codebook.size:
        value = q.codebook.astype(np.int32)[q.codes]
        value += _spread(q.shifts, q.group, k) * np.int32(q.delta)
    else:
        value = q.codes.astype(np.int32) - np.int32(_ZERO.get(q.dtype, 0))
    if q.zeros.size:
        value -= _spread(q.zeros, q.group, k).astype(np.int32)
    if q.present.size:
        value *= stored_elements(q)
    result: NDArray[np.int32] = value
    return result


def stored_elements(quantized: Quantized) -> NDArray[np.bool_]:
    """Return which elements lie in a stored superblock, (n, k)."""
    g, (n, k) = geometry(quantized.dtype, quantized.group), quantized.shape
    rows = np.repeat(quantized.present, TILE_ROWS, axis=0)[:n]
    stored: NDArray[np.bool_] = np.repeat(rows, g.group * g.groups_per_superblock, axis=1)[:, :k]
    return stored


def stored_bytes(quantized: Quantized) -> int:
    """Return the bytes that the packed weight takes, lists of a sparse one included."""
    q = quantized
    if not q.present.size:
        return packed_bytes(q.dtype, *q.shape, q.group)
    lists = [[int(i) for i in np.flatnonzero(row)] for row in q.present]
    k, group = q.shape[1], q.group
    return sum(list_bytes(len(x)) + sparse_tile_bytes(q.dtype, k, group, x) for x in lists)


def dequantize(quantized: Quantized) -> NDArray[np.float32]:
    """Return the weight that the codes stand for.

    Shapes: result (n, k) float32.
    f16: the value. q8, q4, q4z: (code - zero) * scale.
    q6, c5, c4, c3, c2: (sub_scale * integer) * row_scale, left factor an exact integer.
    t2: (code - 1) * row_scale.
    Each element is one float32 product, so every implementation gives the same bits.
    """
    q, k = quantized, quantized.shape[1]
    if q.dtype == Dtype.F16:
        values = q.codes.astype(np.float32)
        return values * stored_elements(q) if q.present.size else values
    value = integers(q)
    if q.row_scales.size:
        if q.sub_scales.size:
            value *= _spread(q.sub_scales, q.group, k)
        by_row: NDArray[np.float32] = q.row_scales.astype(np.float32)[:, None]
        weight: NDArray[np.float32] = np.multiply(value, by_row, dtype=np.float32)
        return weight
    scaled: NDArray[np.float32] = value.astype(np.float32) * _spread(
        q.scales.astype(np.float32), q.group, k
    )
    return scaled
