# SPDX-License-Identifier: Apache-2.0
"""Weights of every format in which every code and scale value may occur."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.format import Dtype, Layout, ScaleKind
from ingot.packing import WEIGHT_FORMATS, Quantized, superblock_count

ARRAYS = (
    *("codes", "scales", "row_scales", "sub_scales", "shifts", "codebook"),
    *("zeros", "present"),
)


def make(
    dtype: Dtype,
    group: int,
    n: int,
    k: int,
    seed: int = 0,
    layout: Layout = Layout.T16,
    sparse: bool = False,
) -> Quantized:
    """Return a random weight."""
    rng = np.random.default_rng(seed)
    known = WEIGHT_FORMATS[dtype]
    groups = -(-k // group) if group else 0
    fields: dict[str, Any] = {"layout": layout}
    if sparse:
        tiles = -(-n // 16)
        fields["present"] = rng.random((tiles, superblock_count(dtype, k, group))) < 0.5
    if dtype == Dtype.F16:
        codes: Any = rng.normal(size=(n, k)).astype(np.float16)
    elif dtype == Dtype.Q8:
        codes = rng.integers(-128, 128, (n, k), np.int8)
    else:
        codes = rng.integers(0, 3 if dtype == Dtype.T2 else 1 << known.bits, (n, k), np.uint8)
    if known.scale_kind in (ScaleKind.F16_GROUP, ScaleKind.F16_ZERO8_GROUP):
        fields["scales"] = rng.normal(size=(n, groups)).astype(np.float16)
    if known.scale_kind == ScaleKind.F16_ZERO8_GROUP:
        fields["zeros"] = rng.integers(0, 256, (n, groups), np.uint8)
    if known.scale_kind == ScaleKind.F32_ROW:
        fields["row_scales"] = rng.normal(size=n).astype(np.float32)
    if known.scale_kind in (ScaleKind.SUB8_ROW16, ScaleKind.I8_ROW16):
        low, high = (-64, 64) if known.entries else (-128, 128)
        fields["row_scales"] = rng.normal(size=n).astype(np.float16)
        fields["sub_scales"] = rng.integers(low, high, (n, groups), np.int8)
    if known.entries:
        fields["shifts"] = rng.integers(0, 2, (n, groups)).astype(np.bool_)
        values = rng.choice(np.arange(-127, 128), known.entries, replace=False)
        fields["codebook"] = np.sort(values).astype(np.int8)
        fields["delta"] = -5
    return Quantized(dtype, (n, k), group, codes, **fields)


def same(a: Quantized, b: Quantized) -> bool:
    """Whether two weights agree in every field, as far as they are stored."""
    arrays = all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ARRAYS)
    plain = (a.dtype, a.shape, a.group, a.delta, a.layout)
    return arrays and plain == (b.dtype, b.shape, b.group, b.delta, b.layout)
