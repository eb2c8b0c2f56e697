# SPDX-License-Identifier: Apache-2.0
"""Grids that have no packing here: a matrix rounded to them and back, and what they would store.

Nothing of this can be written to a file. They show what the formats of record are worth beside
other people's, on the same model and text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import Float, split_groups
from ingot_compressor.numerics.half_quadratic import half_quadratic
from ingot_compressor.numerics.small_floats import (
    E2M1_LARGEST,
    E4M3_LARGEST,
    nearest_e2m1,
    nearest_e4m3,
    power_below,
)

__all__ = [
    "NF4_LEVELS",
    "PER_ROW",
    "PER_TENSOR",
    "SimulatedGrid",
    "dynamic_levels",
    "nearest_level",
    "round_asymmetric",
    "round_fp8",
    "round_half_quadratic",
    "round_mxfp4",
    "round_nf4",
    "round_nvfp4",
    "round_symmetric",
    "simulated_grids",
]

PER_TENSOR, PER_ROW = 0, -1  # in place of a group's size
NF4_GROUP, NF4_BLOCK = 64, 256
NVFP4_GROUP, MXFP4_GROUP = 16, 32
# As published with QLoRA (Dettmers et al. 2023, arXiv:2305.14314, appendix E).
NF4_LEVELS: tuple[float, ...] = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SimulatedGrid:
    """A grid by name: `function` (n, k) float32 -> the same shape, rounded.

    `bits` of (n, k) counts codes, scales and zero points, per weight.
    """

    name: str
    function: Callable[[Float], Float]
    bits: Callable[[int, int], float]
    label: str = "not packed"


def _parts(w: Float, group: int) -> Float:
    """Return (parts, g): the whole matrix, its rows, or groups of its rows."""
    if group == PER_TENSOR:
        return w.reshape(1, -1)
    return w if group == PER_ROW else split_groups(w, group)


def _whole(parts: NDArray[np.floating], shape: tuple[int, ...]) -> Float:
    """Return parts as the matrix they came from, float32."""
    n, k = shape
    rows: Float = parts.reshape(n, -1)[:, :k].astype(np.float32)
    return rows


def _scale_of(steps: Values, group: int) -> Values:
    """Return scales as stored: float16 for groups and rows, float32 for a whole matrix."""
    kind = np.float32 if group == PER_TENSOR else np.float16
    stored = np.minimum(steps, np.finfo(kind).max).astype(kind).astype(np.float64)
    return np.where(stored > 0, stored, 1.0)


def round_symmetric(w: Float, bits: int, group: int) -> Float:
    """Round to whole multiples -(2^(b-1) - 1) .. 2^(b-1) - 1 of max |w| over the last of them.

    Shapes: w (n, k); `group` is a size along k, PER_ROW or PER_TENSOR.
    """
    top = 2 ** (bits - 1) - 1
    parts = _parts(w, group).astype(np.float64)
    scale = _scale_of(np.abs(parts).max(axis=1, keepdims=True) / top, group)
    return _whole(np.clip(np.rint(parts / scale), -top, top) * scale, w.shape)


def round_asymmetric(w: Float, bits: int, group: int) -> Float:
    """Round to scale * (code - zero), codes and zero whole in 0 .. 2^b - 1, by least and largest w.

    Shapes: w (n, k); `group` is a size along k, PER_ROW or PER_TENSOR.
    Source: Jacob et al. 2018 (arXiv:1712.05877); the range includes zero.
    """
    top = 2**bits - 1
    parts = _parts(w, group).astype(np.float64)
    low = np.minimum(parts.min(axis=1, keepdims=True), 0)
    high = np.maximum(parts.max(axis=1, keepdims=True), 0)
    scale = _scale_of((high - low) / top, group)
    zero = np.clip(np.rint(-low / scale), 0, top)
    codes = np.clip(np.rint(parts / scale) + zero, 0, top)
    return _whole((codes - zero) * scale, w.shape)


def round_half_quadratic(w: Float, bits: int, group: int) -> Float:
    """Round with HQQ's zero points; see `half_quadratic`.

    Shapes: w (n, k); `group` a size along k; a last shorter group is filled with zeros.
    """
    return _whole(half_quadratic(_parts(w, group), bits), w.shape)


def nearest_level(x: Values, levels: Values) -> Values:
    """Return the nearest of levels in rising order, the lower one where two are equally near.

    Shapes: x any; levels (l,); result as x.
    """
    result: Values = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]
    return result


def dynamic_levels() -> Values:
    """Return the 256 values of the signed dynamic 8-bit code, rising.

    Seven decades from 1 down to 1e-6, each with twice the values of the one below.

    Shapes: result (256,) float64.
    Source: Dettmers et al. 2021 (arXiv:2110.02861), dynamic tree quantization.
    """
    found = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, 2**decade + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (decade - 6)
        found += [*middles, *-middles]
    levels: Values = np.sort(np.array(found))
    return levels


def round_nf4(w: Float) -> Float:
    """Round to NF4 with double quantization: groups of 64 along k, their scales 8 bits of 256.

    A scale is the largest |w|, stored as its difference from the mean of all scales, in the
    dynamic code times one float32 for each 256.

    Shapes: w (n, k).
    Source: QLoRA (Dettmers et al. 2023, arXiv:2305.14314), sections 3 and appendix E.
    """
    parts = _parts(w, NF4_GROUP).astype(np.float64)
    scale = _double_quantized(np.abs(parts).max(axis=1))[:, None]
    levels = np.array(NF4_LEVELS)
    codes = nearest_level(parts / np.where(scale > 0, scale, 1), levels)
    return _whole(codes * scale, w.shape)


def _double_quantized(scales: Values) -> Values:
    mean = float(np.float32(scales.mean()))
    padded = np.pad(scales - mean, (0, -len(scales) % NF4_BLOCK)).reshape(-1, NF4_BLOCK)
    largest = np.abs(padded).max(axis=1, keepdims=True).astype(np.float32).astype(np.float64)
    codes = nearest_level(padded / np.where(largest > 0, largest, 1), dynamic_levels())
    stored: Values = (codes * largest).ravel()[: len(scales)] + mean
    return stored


def round_fp8(w: Float) -> Float:
    """Round to e4m3 with one float32 scale per row, the largest |w| over 448.

    Shapes: w (n, k).
    """
    largest = np.abs(w).max(axis=1, keepdims=True).astype(np.float64)
    scale = (largest / E4M3_LARGEST).astype(np.float32).astype(np.float64)
    scale = np.where(scale > 0, scale, 1)
    return _whole(nearest_e4m3(w / scale) * scale, w.shape)


def round_nvfp4(w: Float) -> Float:
    """Round to NVFP4: e2m1, an e4m3 scale per 16 k, and one float32 for the matrix.

    The float32 puts the largest scale of a group on 448.

    Shapes: w (n, k).
    Source: NVIDIA's recipe: global = max |w| / (448 * 6); scale = e4m3(max |group| / 6 / global).
    """
    parts = _parts(w, NVFP4_GROUP).astype(np.float64)
    largest = np.abs(parts).max(axis=1, keepdims=True)
    whole = float(np.float32(largest.max() / (E4M3_LARGEST * E2M1_LARGEST))) or 1.0
    scale = nearest_e4m3(largest / E2M1_LARGEST / whole) * whole
    codes = nearest_e2m1(parts / np.where(scale > 0, scale, 1))
    return _whole(codes * scale, w.shape)


def round_mxfp4(w: Float) -> Float:
    """Round to MXFP4: e2m1 with a power of two per 32 k.

    The power puts the exponent of the largest |w| on that of 4; what is then above 6 saturates.

    Shapes: w (n, k).
    Source: OCP Microscaling Formats Specification 1.0, section 6.3.
    """
    parts = _parts(w, MXFP4_GROUP).astype(np.float64)
    scale = power_below(np.abs(parts).max(axis=1, keepdims=True)) / 4
    return _whole(nearest_e2m1(parts / scale) * scale, w.shape)


def _grouped_bits(code: float, per_group: float, group: int, n: int, k: int) -> float:
    """Return bits per weight of codes with so many bits beside each group, its padding counted."""
    if group == PER_TENSOR:
        return code + per_group / (n * k)
    groups = 1 if group == PER_ROW else -(-k // group)
    width = k if group == PER_ROW else groups * group
    return (code * width + per_group * groups) / k


def _nf4_bits(n: int, k: int) -> float:
    groups = n * -(-k // NF4_GROUP)
    blocks = -(-groups // NF4_BLOCK)
    return (4 * NF4_GROUP * groups + 8 * groups + 32 * blocks + 32) / (n * k)


def _nvfp4_bits(n: int, k: int) -> float:
    return _grouped_bits(4, 8, NVFP4_GROUP, n, k) + 32 / (n * k)


def _integer_grids() -> list[SimulatedGrid]:
    found = []
    for group, suffix in ((PER_TENSOR, "tensor"), (PER_ROW, "row"), (32, "g32"), (128, "g128")):
        stored = 32 if group == PER_TENSOR else 16
        for bits in (8, 4, 3):
            for kind, function, zero in (
                ("symmetric", round_symmetric, 0),
                ("asymmetric", round_asymmetric, bits),
            ):
                found.append(
                    SimulatedGrid(
                        f"int{bits}_{kind}_{suffix}",
                        partial(function, bits=bits, group=group),
                        partial(_grouped_bits, bits, stored + zero, group),
                    )
                )
    return found


def simulated_grids() -> dict[str, SimulatedGrid]:
    """Return every grid of this module by its name."""
    found = _integer_grids()
    for bits, group in ((4, 64), (4, 32), (3, 64), (3, 32)):
        rounded = partial(round_half_quadratic, bits=bits, group=group)
        stored = partial(_grouped_bits, bits, 32, group)
        found.append(SimulatedGrid(f"hqq{bits}_g{group}", rounded, stored))
    found += [
        SimulatedGrid("nf4_double", round_nf4, _nf4_bits),
        SimulatedGrid("fp8_e4m3_row", round_fp8, partial(_grouped_bits, 8, 32, PER_ROW)),
        SimulatedGrid("nvfp4", round_nvfp4, _nvfp4_bits),
        SimulatedGrid("mxfp4", round_mxfp4, partial(_grouped_bits, 4, 8, MXFP4_GROUP)),
    ]
    return {grid.name: grid for grid in found}
