# SPDX-License-Identifier: Apache-2.0
"""HQQ on the grids of record: a loop in plain Python, brute force, and plain rounding beside it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.format import Dtype
from ingot.packing import dequantize, pack, unpack
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.asymmetric import encode_asymmetric
from ingot_compressor.numerics.half_quadratic_scales import (
    power_errors,
    sparse_asymmetric,
    sparse_uniform,
)
from ingot_compressor.numerics.uniform import Q4_GRID, encode_uniform

GRIDS = (Dtype.Q8, Dtype.Q6, Dtype.Q4, Dtype.Q4Z, Dtype.C5, Dtype.C4, Dtype.C3, Dtype.C2)
Array = NDArray[np.float32]


def heavy_tailed(n: int, k: int, seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed).standard_t(3, (n, k)) * 0.02
    return drawn.astype(np.float32)


def weighted_errors(w: Array, h: NDArray[np.float64], encoding: Encoding) -> NDArray[np.float64]:
    """Return sum h |w - stored|^0.7 of each row, from what a file would hold."""
    found = dequantize(quantize_matrix(w, encoding, h)).astype(np.float64)
    result: NDArray[np.float64] = (np.abs(w - found) ** 0.7) @ (h / h.mean())
    return result


@pytest.mark.parametrize("dtype", GRIDS, ids=lambda dtype: dtype.name.lower())
def test_weighted_error_is_below_that_of_plain_rounding(dtype: Dtype) -> None:
    w, h = heavy_tailed(48, 200), np.random.default_rng(1).uniform(0.1, 4, 200)
    plain = weighted_errors(w, h, Encoding(dtype, search=False))
    sparse = weighted_errors(w, h, Encoding(dtype, search=False, half_quadratic=True))
    assert (sparse <= plain * (1 + 1e-5)).all()
    assert sparse.sum() < 0.99 * plain.sum()
    # what weighs nothing is given up for what does
    unweighted = quantize_matrix(w, Encoding(dtype, search=False, half_quadratic=True))
    off = np.abs(w - dequantize(unweighted)).astype(np.float64) ** 0.7 @ (h / h.mean())
    assert sparse.sum() < off.sum()


def python_loop(row: list[float], scale: float, zero: int, asymmetric: bool) -> float:
    """Return the least sum |error|^0.7 that the steps meet, one group, one number at a time."""
    least, beta = math.inf, 10.0
    for _ in range(21):
        low, high = (0, 15) if asymmetric else (-8, 7)
        codes = [min(max(round(x / scale + zero), low), high) for x in row]
        error = [x - scale * (c - zero) for x, c in zip(row, codes, strict=True)]
        total = sum(abs(e) ** 0.7 for e in error)
        if total >= least:
            return least
        least = total
        target = []
        for x, e in zip(row, error, strict=True):
            size = abs(e / scale)
            sparse = max(size - max(size, 1e-8) ** -0.3 / beta, 0)
            target.append(x - math.copysign(sparse, e / scale) * scale)
        beta *= 1.01
        if asymmetric:
            slope = float(np.float16(np.polyfit(codes, target, 1)[0]))
            zero = max(round((slope * sum(codes) - sum(target)) / slope / len(row)), 0)
        centred = [c - zero for c in codes]
        fitted = sum(c * t for c, t in zip(centred, target, strict=True))
        scale = float(np.float16(fitted / sum(c * c for c in centred)))
    return least


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_the_steps_are_those_of_a_loop_in_plain_python(size: float) -> None:
    w, u = heavy_tailed(40, 32, 2) * np.float32(size), np.ones((40, 32), np.float32)
    scale, code = sparse_uniform(w, u, Q4_GRID)
    symmetric = power_errors(w, u, scale[:, None] * code)
    scale, zero, codes = sparse_asymmetric(w, u)
    asymmetric = power_errors(w, u, scale[:, None] * (codes - zero[:, None].astype(np.float32)))
    for row, one, other in zip(w.astype(np.float64), symmetric, asymmetric, strict=True):
        extreme = float(row[np.abs(row).argmax()])
        starts = [float(np.float16(extreme / end)) for end in (-8, 7)]
        expected = min(python_loop(row.tolist(), start, 0, False) for start in starts)
        assert one == pytest.approx(expected, rel=1e-3)
        step = float(np.float16((max(row.max(), 0) - min(row.min(), 0)) / 15))
        first = round(-min(row.min(), 0) / step)
        expected = python_loop(row.tolist(), step, first, True)
        assert other == pytest.approx(expected, rel=1e-3)


def closed(
    plain: NDArray[np.floating], found: NDArray[np.floating], best: NDArray[np.floating]
) -> float:
    """Return the share of the way from plain rounding to the optimum."""
    return float((plain - found).sum() / (plain - best).sum())


def test_most_of_the_way_to_the_optimum_is_found() -> None:
    w, u = heavy_tailed(24, 32, 3), np.ones((24, 32), np.float32)
    scale, codes = encode_uniform(w, u, Q4_GRID, search=False)
    plain = power_errors(w, u, scale[:, None] * codes)
    scale, codes = sparse_uniform(w, u, Q4_GRID)
    found = power_errors(w, u, scale[:, None] * codes)
    best = brute_force(w, lambda s: np.clip(np.rint(w / s), -8, 7) * s)
    assert (best <= found * 1.05).all() and (found <= plain * (1 + 1e-6)).all()
    assert closed(plain, found, best) > 0.1
    scale, zero, code = encode_asymmetric(w, u, search=False)
    plain = power_errors(w, u, scale[:, None] * (code - zero[:, None].astype(np.float32)))
    scale, zero, code = sparse_asymmetric(w, u)
    found = power_errors(w, u, scale[:, None] * (code - zero[:, None].astype(np.float32)))
    best = np.min(
        [
            brute_force(w, lambda s, z=z: (np.clip(np.rint(w / s + z), 0, 15) - z) * s)
            for z in range(16)
        ],
        axis=0,
    )
    assert (found <= plain * (1 + 1e-6)).all() and closed(plain, found, best) > 0.1


def brute_force(w: Array, values: Callable[[Array], NDArray[np.floating]]) -> NDArray[np.floating]:
    """Return the least error of each group over scales of both signs around the range's."""
    largest = np.abs(w).max(axis=1, keepdims=True)
    errors = [
        (np.abs(w - values((sign * largest * part).astype(np.float16).astype(np.float32))) ** 0.7)
        for sign in (1, -1)
        for part in np.geomspace(0.03, 0.2, 60)
    ]
    least: NDArray[np.floating] = np.min([one.sum(axis=1) for one in errors], axis=0)
    return least


@pytest.mark.parametrize("dtype", GRIDS, ids=lambda dtype: dtype.name.lower())
def test_stored_as_any_file_and_free_of_units(dtype: Dtype) -> None:
    encoding = Encoding(dtype, search=False, half_quadratic=True)
    w = heavy_tailed(20, 70, 4) * np.float32(64)  # row scales that float16 holds in full
    found = quantize_matrix(w, encoding)
    shape = found.dtype, found.shape, found.group
    stored = unpack(pack(found), *shape, found.codebook, found.delta)
    assert np.array_equal(dequantize(stored), dequantize(found))
    larger = quantize_matrix(w * np.float32(64), encoding)
    assert np.array_equal(found.codes, larger.codes)
    assert np.array_equal(64 * dequantize(found), dequantize(larger))
    assert np.array_equal(quantize_matrix(w, encoding, threads=2).codes, found.codes)
    assert not dequantize(quantize_matrix(np.zeros((16, 64), np.float32), encoding)).any()


def test_what_has_no_scales_by_group_is_refused() -> None:
    w = heavy_tailed(16, 32)
    for encoding in (
        Encoding(Dtype.F16, search=False, half_quadratic=True),
        Encoding(Dtype.T2, search=False, half_quadratic=True),
        Encoding(Dtype.Q4, search=True, half_quadratic=True),
    ):
        with pytest.raises(ValueError, match="HQQ finds scales by group"):
            quantize_matrix(w, encoding)
    names = [Encoding(Dtype.Q4, 32, *given).scales for given in ((True,), (False,))]
    assert names == ["searched", "absmax"]
