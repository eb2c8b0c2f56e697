# SPDX-License-Identifier: Apache-2.0
"""`linear` and `embed`: what a packed weight does to activations, and how far float32 may stray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.format import ACTIVATION_GROUP, TILE_ROWS, Dtype, Epilogue
from ingot.packing import (
    Quantized,
    dequantize,
    integers,
    quantize_activations,
    quantize_tokens,
    round_up,
    stored_elements,
)
from ingot.reference.elementwise import gelu_tanh, silu

__all__ = [
    "LinearWeight",
    "embed",
    "gate",
    "gate_parts",
    "linear",
    "linear_error_bound",
    "prepare",
    "take_rows",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
UNIT = 2.0**-24  # half a unit in the last place of float32: the relative error of one rounding


@dataclass(frozen=True, slots=True, eq=False)
class LinearWeight:
    """A weight unpacked for `linear`.

    Shapes: f16: values (n, k) float32, nothing else. Others: values (k_padded / 32, 32, n) int16,
    the integers that meet the int8 activations; scales (k_padded / 32, n) float32, whole numbers
    where there are row scales, none of t2; row_scales (n,) float32 or none.
    """

    dtype: Dtype
    n: int
    k: int
    values: NDArray[Any]
    scales: F32
    row_scales: F32


def prepare(weight: Quantized, exact: bool = False) -> LinearWeight:
    """Unfold codes to the integers of each 32 k; done once per weight.

    With `exact` any format is taken as f16 is: by its dequantized values, activations as they are.
    """
    n, k = weight.shape
    none = np.zeros((0, 0), np.float32)
    if exact or weight.dtype == Dtype.F16:
        return LinearWeight(Dtype.F16, n, k, dequantize(weight), none, none)
    width = round_up(k, ACTIVATION_GROUP)
    whole = np.zeros((n, width), np.int16)
    whole[:, :k] = integers(weight)
    scales = none
    if weight.sub_scales.size:
        scales = weight.sub_scales.astype(np.float32)
    elif weight.scales.size:
        repeat = weight.group // ACTIVATION_GROUP
        scales = np.repeat(weight.scales.astype(np.float32), repeat, axis=1)
        scales = scales[:, : width // ACTIVATION_GROUP]
    row_scales = weight.row_scales.astype(np.float32)
    values = np.ascontiguousarray(whole.T).reshape(-1, ACTIVATION_GROUP, n)
    return LinearWeight(weight.dtype, n, k, values, scales.T, row_scales)


def _group_terms(weight: LinearWeight, g: int, codes: NDArray[np.int8], a_scale: F32) -> F64:
    """Return what the 32 k of group g add to the accumulators, (m, n).

    The float32 product of the integers is exact: |sum| <= 32 * 255 * 127 < 2^24.
    """
    chunk = codes[:, g * ACTIVATION_GROUP : (g + 1) * ACTIVATION_GROUP].astype(np.float32)
    dots = (chunk @ weight.values[g].astype(np.float32)).astype(np.float64)
    scale, a = weight.scales[g], a_scale[:, g, None]
    if weight.row_scales.size:
        rounded = (dots * scale).astype(np.float32)  # (float)(dot32 * s), rounded once
        return np.asarray(rounded.astype(np.float64) * a, np.float64)
    # scale * a_scale is one float32 product
    return np.asarray(dots * (scale * a), np.float64)


def linear(x: F32, weight: LinearWeight) -> F32:
    """Return x W^T, without bias or epilogue.

    Shapes: x (m, k) float32; result (m, n) float32.
    f16: the float64 sum of x * w. Others: x becomes int8 per 32 k (quantize_activations); per 32 k
    an exact integer dot product, then the scales, summed in float64; row scales come last. t2: int8
    per token, one integer dot product over the row, two float32 products: exactly what kernels do.
    Kernels sum in float32 fused multiply-adds instead: see linear_error_bound.
    Source: native/kernels/linear/linear.h.
    """
    if weight.dtype == Dtype.F16:
        product = x.astype(np.float64) @ weight.values.astype(np.float64).T
        return product.astype(np.float32)
    if weight.dtype == Dtype.T2:
        return _ternary(x, weight)
    codes, a_scale = quantize_activations(x)
    total = np.zeros((x.shape[0], weight.n))
    for g in range(len(weight.values)):
        total += _group_terms(weight, g, codes, a_scale)
    if weight.row_scales.size:
        total *= weight.row_scales
    return total.astype(np.float32)


def _ternary(x: F32, weight: LinearWeight) -> F32:
    """Return ((float)total * a_scale) * row_scale, total the dot product of a whole row."""
    codes, a_scale = quantize_tokens(x)
    values = weight.values.reshape(-1, weight.n)[: weight.k]
    total = (codes.astype(np.float64) @ values.astype(np.float64)).astype(np.float32)
    return np.asarray((total * a_scale) * weight.row_scales, np.float32)


def linear_error_bound(x: F32, weight: LinearWeight) -> F64:
    """Return how far a float32 kernel's result may be from `linear`, per output.

    Shapes: x (m, k) float32; result (m, n) float64, absolute.
    t2 has no freedom: its bound is that of two roundings. For the others, with s fused
    multiply-adds (s = groups of 32 k, or k for f16) every partial sum is at most M = sum |term|,
    and each step rounds once: s * 2^-24 * M * (1 + s * 2^-24). A row scale and the rounding of
    `linear`'s own float64 result add one each; terms are the same bits on both sides. Results
    below the normal range add one denormal step per rounding.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, sections 3.1 and 4.2.
    """
    if weight.dtype == Dtype.F16:
        magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values.astype(np.float64)).T
        steps = weight.k
    elif weight.dtype == Dtype.T2:
        magnitude, steps = np.abs(_ternary(x, weight)).astype(np.float64), 0
    else:
        codes, a_scale = quantize_activations(x)
        steps = len(weight.values)
        magnitude = np.zeros((x.shape[0], weight.n))
        for g in range(steps):
            magnitude += np.abs(_group_terms(weight, g, codes, a_scale))
        if weight.row_scales.size:
            magnitude *= np.abs(weight.row_scales)
    roundings = steps + 2
    relative = roundings * UNIT
    bound: F64 = relative * (1.0 + relative) * magnitude + roundings * 2.0**-149
    return bound


def gate_parts(rows: NDArray[Any], n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Split tiles that alternate gate, up into gates and ups, both (m, n)."""
    m = rows.shape[0]
    tiles = rows.reshape(m, -1, 2, TILE_ROWS)
    return tiles[:, :, 0].reshape(m, -1)[:, :n], tiles[:, :, 1].reshape(m, -1)[:, :n]


def gate(accumulators: F32, n: int, epilogue: int) -> F32:
    """Return act(gate) * up from tiles that alternate gate, up, gate, up.

    Shapes: accumulators (m, 2 * n rounded up to 16) float32; result (m, n) float32.
    """
    gates, ups = gate_parts(accumulators, n)
    act = silu if epilogue == Epilogue.SILU_GATE else gelu_tanh
    return np.asarray(act(gates).astype(np.float64) * ups, np.float32)


def take_rows(weight: Quantized, rows: NDArray[np.intp]) -> Quantized:
    """Return the weight that has only these rows, in this order; what is not stored is zero."""
    part = {
        name: getattr(weight, name)[rows] if getattr(weight, name).size else getattr(weight, name)
        for name in ("codes", "scales", "zeros", "row_scales", "sub_scales", "shifts")
    }
    return replace(
        weight, shape=(len(rows), weight.shape[1]), present=np.zeros((0, 0), np.bool_), **part
    )


def embed(tokens: NDArray[np.int32], table: Quantized) -> F32:
    """Return row tokens[i] of the table, dequantized, for each i.

    Shapes: tokens (m,) int32, all below the table's n; result (m, k) float32.
    """
    rows = tokens.astype(np.intp)
    values = dequantize(take_rows(table, rows))
    return values * stored_elements(table)[rows] if table.present.size else values
