# SPDX-License-Identifier: Apache-2.0
"""A matrix in a format of record: float32 in, codes and scales out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.numerics.codebook import Codebook, initial_codebook, learn_codebook
from ingot_compressor.numerics.groups import (
    Float,
    column_importance,
    element_importance,
    for_row_blocks,
    split_groups,
)
from ingot_compressor.numerics.sub_scaled import encode_sub_scaled
from ingot_compressor.numerics.uniform import Q4_GRID, Q8_GRID, encode_uniform

__all__ = ["Encoding", "group_of", "quantize_matrix", "relative_error"]

# The codebook is learned on this many groups, drawn evenly over the whole matrix.
SAMPLE_GROUPS = 4096
C4_GROUP = 32
DRAFT_DELTA = 8
_LARGEST = {Dtype.F16: 65504.0, Dtype.Q8: 65504.0 * 127, Dtype.Q4: 65504.0 * 8, Dtype.C4: 65504.0}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a matrix is to be stored.

    `group` counts k per scale of q4; without `search` it is plain absmax rounding.
    """

    dtype: Dtype
    group: int = 32
    search: bool = True


def group_of(dtype: Dtype, group: int) -> int:
    """Return the group that the tensor record of a format holds: q4 has a choice, f16 has none."""
    return {Dtype.F16: 0, Dtype.Q4: group}.get(dtype, 32)


def quantize_matrix(
    w: NDArray[np.float32],
    encoding: Encoding,
    importance: NDArray[np.floating] | None = None,
    threads: int = 1,
) -> Quantized:
    """Quantize one weight matrix by importance-weighted round-to-nearest.

    Shapes: w (n, k) float32; importance (k,) mean squares of the inputs, None for all alike.
    Raises: ValueError for values that are not finite or beyond what float16 scales reach, and for
        a format without an encoder.
    Source: compression study 2.1 (K-quant search) and 2.10 (learned codebook).
    Cost: about 0.2 microseconds an element and thread for c4 with search, 0.02 without.
    """
    w = np.asarray(w, np.float32)
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"a weight matrix has two positive sizes, found shape {w.shape}")
    dtype = encoding.dtype
    if dtype not in _LARGEST:
        raise ValueError(f"no encoder for format {dtype.name.lower()}")
    _check_values(w, dtype)
    if dtype is Dtype.F16:
        return Quantized(dtype, w.shape, 0, w.astype(np.float16))
    h = column_importance(importance, w.shape[1])
    if dtype is Dtype.C4:
        return _quantize_c4(w, h, encoding.search, threads)
    return _quantize_uniform(w, h, encoding, threads)


def relative_error(
    w: Float, quantized: Quantized, importance: NDArray[np.floating] | None = None
) -> float:
    """Return the squared error over the squared weight, both weighted by the inputs' mean squares.

    Shapes: w (n, k); importance (k,) or None. Zero for a matrix of zeros.
    """
    h = column_importance(importance, w.shape[1]).astype(np.float64)
    e = w - dequantize(quantized)
    power = float(np.einsum("ij,ij->j", w, w, dtype=np.float64) @ h)
    return float(np.einsum("ij,ij->j", e, e, dtype=np.float64) @ h) / power if power > 0 else 0.0


def _check_values(w: Float, dtype: Dtype) -> None:
    largest = float(max(w.max(), -w.min()))
    if not np.isfinite(largest):
        bad = int(w.size - np.isfinite(w).sum())
        raise ValueError(f"{bad} of {w.size} values are NaN or infinite")
    if largest > _LARGEST[dtype]:
        raise ValueError(
            f"largest magnitude {largest:g} is beyond {_LARGEST[dtype]:g},"
            f" the most that {dtype.name.lower()} stores"
        )


def _quantize_uniform(w: Float, h: Float, encoding: Encoding, threads: int) -> Quantized:
    n, k = w.shape
    grid, g = (Q8_GRID, 32) if encoding.dtype is Dtype.Q8 else (Q4_GRID, encoding.group)
    zero, kind = (0, np.int8) if encoding.dtype is Dtype.Q8 else (8, np.uint8)
    scales = np.empty((n, -(-k // g)), np.float16)
    codes = np.empty((n, k), kind)

    def encode(rows: slice) -> None:
        part = w[rows]
        u = split_groups(element_importance(part, h), g)
        scale, code = encode_uniform(split_groups(part, g), u, grid, encoding.search)
        scales[rows] = scale.reshape(len(part), -1)
        codes[rows] = code.reshape(len(part), -1)[:, :k] + zero

    for_row_blocks(n, k, encode, threads)
    return Quantized(encoding.dtype, (n, k), g, codes, scales=scales)


def _quantize_c4(w: Float, h: Float, search: bool, threads: int) -> Quantized:
    n, k = w.shape
    groups = -(-k // C4_GROUP)
    book = _sampled_codebook(w, h) if search else initial_codebook(DRAFT_DELTA)
    row_scales = np.empty(n, np.float16)
    sub_scales = np.empty((n, groups), np.int8)
    shifts = np.empty((n, groups), np.bool_)
    codes = np.empty((n, k), np.uint8)

    def encode(rows: slice) -> None:
        part = w[rows]
        u = split_groups(element_importance(part, h), C4_GROUP)
        stored = encode_sub_scaled(split_groups(part, C4_GROUP), u, book, len(part), search)
        row_scales[rows], sub_scales[rows] = stored.row_scales, stored.sub_scales
        shifts[rows] = stored.shifts
        codes[rows] = stored.codes.reshape(len(part), -1)[:, :k]

    for_row_blocks(n, k, encode, threads)
    return Quantized(
        Dtype.C4,
        (n, k),
        C4_GROUP,
        codes,
        row_scales=row_scales,
        sub_scales=sub_scales,
        shifts=shifts,
        codebook=book.entries.astype(np.int8),
        delta=book.delta,
    )


def _sampled_codebook(w: Float, h: Float) -> Codebook:
    """Learn the codebook on rows spread evenly, then groups spread evenly over those."""
    n, k = w.shape
    groups = -(-k // C4_GROUP)
    rows = np.unique(np.linspace(0, n - 1, min(n, SAMPLE_GROUPS)).astype(np.intp))
    u = split_groups(element_importance(w[rows], h), C4_GROUP)
    part = split_groups(w[rows], C4_GROUP)
    # A step that shares no factor with the groups of a row visits all columns.
    total = len(rows) * groups
    chosen = np.unique(np.linspace(0, total - 1, min(total, SAMPLE_GROUPS)).astype(np.intp))
    return learn_codebook(part[chosen], u[chosen])
