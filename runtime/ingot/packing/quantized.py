# SPDX-License-Identifier: Apache-2.0
"""A weight as codes and scales, apart from how the bytes lie in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing.sizes import geometry

__all__ = ["Quantized", "dequantize", "zero_code"]


def _no_scales() -> NDArray[np.float16]:
    return np.zeros((0, 0), np.float16)


def _no_row_scales() -> NDArray[np.float16]:
    return np.zeros(0, np.float16)


def _no_sub_scales() -> NDArray[np.int8]:
    return np.zeros((0, 0), np.int8)


def _no_shifts() -> NDArray[np.bool_]:
    return np.zeros((0, 0), np.bool_)


def _no_codebook() -> NDArray[np.int8]:
    return np.zeros(0, np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """One weight matrix in a format of record; checked when it is made.

    Shapes: codes (n, k): q8 int8, q4 and c4 uint8 below 16, f16 the float16 values themselves.
    q4, q8: scales (n, ceil(k / group)). c4: row_scales (n,), sub_scales and shifts
    (n, ceil(k / 32)), codebook (16,), delta. What a format does not have is empty, delta 0.
    Raises: InvalidArgumentError naming the field that does not fit.
    """

    dtype: Dtype
    shape: tuple[int, int]
    group: int
    codes: NDArray[Any]
    scales: NDArray[np.float16] = field(default_factory=_no_scales)
    row_scales: NDArray[np.float16] = field(default_factory=_no_row_scales)
    sub_scales: NDArray[np.int8] = field(default_factory=_no_sub_scales)
    shifts: NDArray[np.bool_] = field(default_factory=_no_shifts)
    codebook: NDArray[np.int8] = field(default_factory=_no_codebook)
    delta: int = 0

    def __post_init__(self) -> None:
        geometry(self.dtype, self.group)
        n, k = self.shape
        if n < 1 or k < 1:
            raise InvalidArgumentError(f"shape is {self.shape}, expected two positive sizes")
        groups = -(-k // self.group) if self.group else 0
        scaled = self.dtype in (Dtype.Q8, Dtype.Q4)
        coded = self.dtype == Dtype.C4
        code_types = {Dtype.F16: np.float16, Dtype.Q8: np.int8}
        _check("codes", self.codes, code_types.get(self.dtype, np.uint8), (n, k))
        _check("scales", self.scales, np.float16, (n, groups) if scaled else (0, 0))
        _check("row_scales", self.row_scales, np.float16, (n,) if coded else (0,))
        _check("sub_scales", self.sub_scales, np.int8, (n, groups) if coded else (0, 0))
        _check("shifts", self.shifts, np.bool_, (n, groups) if coded else (0, 0))
        _check("codebook", self.codebook, np.int8, (16,) if coded else (0,))
        self._check_values()

    def _check_values(self) -> None:
        name = self.dtype.name.lower()
        if self.codes.dtype == np.uint8 and int(self.codes.max()) > 15:
            raise InvalidArgumentError(f"{name}: code {int(self.codes.max())}, expected 0 to 15")
        for label, values in (
            ("codes", self.codes if self.dtype == Dtype.F16 else self.scales),
            ("scales", self.scales),
            ("row_scales", self.row_scales),
        ):
            if not np.isfinite(values).all():
                raise InvalidArgumentError(f"{name}: {label} hold a value that is not finite")
        if self.sub_scales.size and int(self.sub_scales.min()) < -64:
            raise InvalidArgumentError(f"{name}: sub-scale below -64, expected -64 to 63")
        if self.sub_scales.size and int(self.sub_scales.max()) > 63:
            raise InvalidArgumentError(f"{name}: sub-scale above 63, expected -64 to 63")
        if abs(self.delta) > 127 or (self.delta and self.dtype != Dtype.C4):
            raise InvalidArgumentError(
                f"{name}: delta {self.delta}, expected -127 to 127, and 0 but for c4"
            )


def _check(name: str, array: NDArray[Any], dtype: type[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InvalidArgumentError(
            f"{name}: found {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )


def zero_code(quantized: Quantized) -> int:
    """Return the code that padding gets: the one whose value is zero, or nearest to it (c4)."""
    if quantized.dtype == Dtype.Q4:
        return 8
    if quantized.dtype == Dtype.C4:
        return int(np.argmin(np.abs(quantized.codebook.astype(np.int16))))
    return 0


def _spread(per_group: NDArray[Any], group: int, k: int) -> NDArray[Any]:
    """Repeat a value per (row, group) over the k of its group."""
    return np.repeat(per_group, group, axis=1)[:, :k]


def dequantize(quantized: Quantized) -> NDArray[np.float32]:
    """Return the weight that the codes stand for.

    Shapes: result (n, k) float32.
    f16: the value. q8: code * scale. q4: (code - 8) * scale.
    c4: (sub_scale * (codebook[code] + shift * delta)) * row_scale, left factor an exact integer.
    Each element is one float32 product, so every implementation gives the same bits.
    """
    q, k = quantized, quantized.shape[1]
    if q.dtype == Dtype.F16:
        return q.codes.astype(np.float32)
    if q.dtype == Dtype.C4:
        value = q.codebook.astype(np.int32)[q.codes]
        value += _spread(q.shifts, q.group, k) * np.int32(q.delta)
        value *= _spread(q.sub_scales, q.group, k)
        by_row: NDArray[np.float32] = q.row_scales.astype(np.float32)[:, None]
        weight: NDArray[np.float32] = np.multiply(value, by_row, dtype=np.float32)
        return weight
    zero = 8 if q.dtype == Dtype.Q4 else 0
    centred = q.codes.astype(np.float32) - np.float32(zero)
    scaled: NDArray[np.float32] = centred * _spread(q.scales.astype(np.float32), q.group, k)
    return scaled
