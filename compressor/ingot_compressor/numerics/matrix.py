# SPDX-License-Identifier: Apache-2.0
"""A matrix in a format of record: float32 in, codes and scales out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.format import TILE_ROWS, Dtype, Layout
from ingot.packing import (
    WEIGHT_FORMATS,
    Quantized,
    dequantize,
    geometry,
    superblock_count,
)
from ingot_compressor.numerics.asymmetric import encode_asymmetric
from ingot_compressor.numerics.codebook import (
    FINE,
    Codebook,
    initial_codebook,
    learn_codebook,
)
from ingot_compressor.numerics.groups import (
    Float,
    column_importance,
    element_importance,
    for_row_blocks,
    split_groups,
)
from ingot_compressor.numerics.half_quadratic_scales import (
    sparse_asymmetric,
    sparse_sub_scaled,
    sparse_uniform,
)
from ingot_compressor.numerics.sub_scaled import SIGNED_7, SIGNED_8, encode_sub_scaled
from ingot_compressor.numerics.ternary import encode_ternary
from ingot_compressor.numerics.uniform import Q4_GRID, Q8_GRID, encode_uniform

__all__ = [
    "UNSCALED",
    "Encoding",
    "drop_superblocks",
    "group_of",
    "quantize_matrix",
    "relative_error",
]

# The codebook is learned on this many groups, drawn evenly over the whole matrix.
SAMPLE_GROUPS = 4096
GROUP = 32
# The starting grid's shift: half of its least step.
DRAFT_DELTAS = {4: 28, 8: 16, 16: 8, 32: 4}
# What float16 scales reach, or (t2) a float32.
_LARGEST = {
    **dict.fromkeys((Dtype.F16, Dtype.C5, Dtype.C4, Dtype.C3, Dtype.C2), 65504.0),
    **dict.fromkeys((Dtype.Q4, Dtype.Q4Z, Dtype.Q6), 65504.0 * 8),
    Dtype.Q8: 65504.0 * 127,
    Dtype.T2: 3.0e38,
}
# Formats without a scale by group, which nothing is chosen for.
UNSCALED = (Dtype.F16, Dtype.T2)
Q6_CODEBOOK = Codebook(np.arange(-32, 32, dtype=np.float32), 0)
Q6_FACTORS = (0.94, 0.97, 1.0, 1.03)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a matrix is to be stored.

    `group` counts k per scale of q4 and q4z; without `search` it is plain absmax rounding, with
    `half_quadratic` instead of `search` HQQ's steps from there.
    `layout` is taken by formats that have it, the others stay T16. `sparsity`: the share of
    superblocks that is dropped, the least weighted first.
    """

    dtype: Dtype
    group: int = 32
    search: bool = True
    layout: Layout = Layout.T16
    sparsity: float = 0.0
    half_quadratic: bool = False

    @property
    def scales(self) -> str:
        """How scales are found, as files and recipes name it."""
        if self.half_quadratic:
            return "hqq"
        return "searched" if self.search else "absmax"


def group_of(dtype: Dtype, group: int) -> int:
    """Return the group that the tensor record of a format holds: few formats have a choice."""
    groups = WEIGHT_FORMATS[dtype].groups
    return group if group in groups else groups[0]


def quantize_matrix(
    w: NDArray[np.float32],
    encoding: Encoding,
    importance: NDArray[np.floating] | None = None,
    threads: int = 1,
) -> Quantized:
    """Quantize one weight matrix by importance-weighted round-to-nearest.

    Shapes: w (n, k) float32; importance (k,) mean squares of the inputs, None for all alike.
    Raises: ValueError for values that are not finite or beyond what the scales reach, and for
        `half_quadratic` in a format without scales by group.
    Source: compression study 2.1 (K-quant search), 2.10 (learned codebook) and 2.5 (HQQ).
    Cost: about 0.2 microseconds an element and thread for c4 with search, 0.02 without.
    """
    w = np.asarray(w, np.float32)
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"a weight matrix has two positive sizes, found shape {w.shape}")
    dtype = encoding.dtype
    if dtype not in _LARGEST:
        raise ValueError(f"no encoder for format {dtype.name.lower()}")
    if encoding.half_quadratic and (encoding.search or dtype in UNSCALED):
        raise ValueError(f"HQQ finds scales by group: not with a search, nor for {dtype.name}")
    _check_values(w, dtype)
    h = column_importance(importance, w.shape[1])
    quantized = _quantize(w, h, encoding, threads)
    if encoding.layout in WEIGHT_FORMATS[dtype].layouts:
        quantized = replace(quantized, layout=encoding.layout)
    if encoding.sparsity > 0:
        quantized = drop_superblocks(quantized, w, h, encoding.sparsity)
    return quantized


def _quantize(w: Float, h: Float, encoding: Encoding, threads: int) -> Quantized:
    dtype = encoding.dtype
    if dtype is Dtype.F16:
        return Quantized(dtype, w.shape, 0, w.astype(np.float16))
    if dtype is Dtype.T2:
        scales, codes = encode_ternary(w, element_importance(w, h), encoding.search)
        return Quantized(dtype, w.shape, 0, codes, row_scales=scales.astype(np.float32))
    if dtype is Dtype.Q4Z:
        return _quantize_asymmetric(w, h, encoding, threads)
    if dtype in (Dtype.Q8, Dtype.Q4):
        return _quantize_uniform(w, h, encoding, threads)
    return _quantize_sub_scaled(w, h, encoding, threads)


def drop_superblocks(quantized: Quantized, w: Float, h: Float, share: float) -> Quantized:
    """Leave out the share of superblocks (16 rows x some k) whose weighted squares are least."""
    q, (n, k) = quantized, w.shape
    blocks = superblock_count(q.dtype, k, q.group)
    g = geometry(q.dtype, q.group)
    width, rows = g.group * g.groups_per_superblock * blocks, -(-n // TILE_ROWS) * TILE_ROWS
    squares = np.zeros((rows, width), np.float32)
    squares[:n, :k] = w * w * h
    power = squares.reshape(rows // TILE_ROWS, TILE_ROWS, blocks, -1).sum(axis=(1, 3))
    dropped = int(share * power.size)
    present = np.ones(power.size, np.bool_)
    present[np.argsort(power.ravel(), kind="stable")[:dropped]] = False
    return replace(q, present=present.reshape(power.shape), layout=Layout.T16)


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


def _importance(part: Float, h: Float, encoding: Encoding) -> Float:
    """Return how much each element counts; HQQ looks at errors, not at sizes of weights."""
    if encoding.half_quadratic:
        return np.broadcast_to(h, part.shape)
    return element_importance(part, h)


def _quantize_uniform(w: Float, h: Float, encoding: Encoding, threads: int) -> Quantized:
    n, k = w.shape
    grid, g = (Q8_GRID, 32) if encoding.dtype is Dtype.Q8 else (Q4_GRID, encoding.group)
    zero, kind = (0, np.int8) if encoding.dtype is Dtype.Q8 else (8, np.uint8)
    scales = np.empty((n, -(-k // g)), np.float16)
    codes = np.empty((n, k), kind)

    def encode(rows: slice) -> None:
        part = w[rows]
        u, parts = split_groups(_importance(part, h, encoding), g), split_groups(part, g)
        if encoding.half_quadratic:
            scale, code = sparse_uniform(parts, u, grid)
        else:
            scale, code = encode_uniform(parts, u, grid, encoding.search)
        scales[rows] = scale.reshape(len(part), -1)
        codes[rows] = code.reshape(len(part), -1)[:, :k] + zero

    for_row_blocks(n, k, encode, threads)
    return Quantized(encoding.dtype, (n, k), g, codes, scales=scales)


def _quantize_asymmetric(w: Float, h: Float, encoding: Encoding, threads: int) -> Quantized:
    (n, k), g = w.shape, encoding.group
    scales = np.empty((n, -(-k // g)), np.float16)
    zeros = np.empty(scales.shape, np.uint8)
    codes = np.empty((n, k), np.uint8)

    def encode(rows: slice) -> None:
        part = w[rows]
        u, parts = split_groups(_importance(part, h, encoding), g), split_groups(part, g)
        if encoding.half_quadratic:
            scale, zero, code = sparse_asymmetric(parts, u)
        else:
            scale, zero, code = encode_asymmetric(parts, u, encoding.search)
        scales[rows] = scale.reshape(len(part), -1)
        zeros[rows] = zero.reshape(len(part), -1)
        codes[rows] = code.reshape(len(part), -1)[:, :k]

    for_row_blocks(n, k, encode, threads)
    return Quantized(encoding.dtype, (n, k), g, codes, scales=scales, zeros=zeros)


def _quantize_sub_scaled(w: Float, h: Float, encoding: Encoding, threads: int) -> Quantized:
    (n, k), dtype, search = w.shape, encoding.dtype, encoding.search
    groups, size = -(-k // GROUP), WEIGHT_FORMATS[dtype].entries
    subs, book = SIGNED_8, Q6_CODEBOOK
    factors: tuple[float, ...] = Q6_FACTORS
    if size:
        subs, factors = SIGNED_7, FINE
        start = initial_codebook(DRAFT_DELTAS[size], size)
        book = _sampled_codebook(w, h, size) if search else start
    row_scales = np.empty(n, np.float16)
    sub_scales = np.empty((n, groups), np.int8)
    shifts = np.empty((n, groups), np.bool_)
    codes = np.empty((n, k), np.uint8)

    def encode(rows: slice) -> None:
        part = w[rows]
        u, parts = split_groups(_importance(part, h, encoding), GROUP), split_groups(part, GROUP)
        if encoding.half_quadratic:
            stored = sparse_sub_scaled(parts, u, book, len(part), subs)
        else:
            stored = encode_sub_scaled(parts, u, book, len(part), search, subs, factors)
        row_scales[rows], sub_scales[rows] = stored.row_scales, stored.sub_scales
        shifts[rows] = stored.shifts
        codes[rows] = stored.codes.reshape(len(part), -1)[:, :k]

    for_row_blocks(n, k, encode, threads)
    fields: dict[str, Any] = {"row_scales": row_scales, "sub_scales": sub_scales}
    if size:
        fields |= {"shifts": shifts, "codebook": book.entries.astype(np.int8), "delta": book.delta}
    return Quantized(dtype, (n, k), GROUP, codes, **fields)


def _sampled_codebook(w: Float, h: Float, size: int) -> Codebook:
    """Learn the codebook on rows spread evenly, then groups spread evenly over those."""
    n, k = w.shape
    groups = -(-k // GROUP)
    rows = np.unique(np.linspace(0, n - 1, min(n, SAMPLE_GROUPS)).astype(np.intp))
    u = split_groups(element_importance(w[rows], h), GROUP)
    part = split_groups(w[rows], GROUP)
    # A step that shares no factor with the groups of a row visits all columns.
    total = len(rows) * groups
    chosen = np.unique(np.linspace(0, total - 1, min(total, SAMPLE_GROUPS)).astype(np.intp))
    return learn_codebook(part[chosen], u[chosen], size)
