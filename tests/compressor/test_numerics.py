# SPDX-License-Identifier: Apache-2.0
"""Encoders against brute force, against absmax rounding and against formulas written out again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ingot.format import Dtype
from ingot.packing import dequantize, pack, unpack
from ingot_compressor.numerics import Encoding, group_of, quantize_matrix, relative_error
from ingot_compressor.numerics.codebook import (
    Codebook,
    Evaluator,
    best_scales,
    initial_codebook,
    learn_codebook,
)
from ingot_compressor.numerics.groups import (
    column_importance,
    element_importance,
    for_row_blocks,
    group_extremes,
    split_groups,
)
from ingot_compressor.numerics.sub_scaled import SIGNED_7
from ingot_compressor.numerics.uniform import Q4_GRID, Q8_GRID, encode_uniform

FORMATS = [(Dtype.F16, 0), (Dtype.Q8, 32), (Dtype.Q4, 32), (Dtype.Q4, 64), (Dtype.Q4, 128)]
ALL = [*FORMATS, (Dtype.C4, 32)]


def gaussian(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32) * 0.02


def decibels(w: np.ndarray, dtype: Dtype, group: int = 32, search: bool = True) -> float:
    q = quantize_matrix(w, Encoding(dtype, group, search))
    e = w.astype(np.float64) - dequantize(q)
    return float(10 * np.log10((w.astype(np.float64) ** 2).sum() / (e**2).sum()))


@pytest.mark.parametrize(
    ("dtype", "group", "low", "high"),
    [
        (Dtype.F16, 0, 70.0, 80.0),
        (Dtype.Q8, 32, 45.0, 47.0),
        (Dtype.Q4, 32, 21.4, 22.6),
        (Dtype.Q4, 128, 19.8, 21.0),
        (Dtype.C4, 32, 22.7, 23.6),
    ],
)
def test_signal_to_noise_on_gaussian_weights(
    dtype: Dtype, group: int, low: float, high: float
) -> None:
    assert low < decibels(gaussian(256, 512), dtype, group) < high


def test_c4_beats_q4_on_heavy_tails() -> None:
    w = np.random.default_rng(3).standard_t(5, (256, 256)).astype(np.float32)
    assert decibels(w, Dtype.C4) > decibels(w, Dtype.Q4) + 1.5


@pytest.mark.parametrize("grid", [Q4_GRID, Q8_GRID])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e-6])
def test_search_is_never_worse_than_absmax(grid: object, scale: float) -> None:
    rng = np.random.default_rng(1)
    w = (rng.standard_t(3, (500, 32)) * scale).astype(np.float32)
    u = rng.random((500, 32)).astype(np.float32)

    def error(search: bool) -> np.ndarray:
        d, c = encode_uniform(w, u, grid, search)
        return (u * (w.astype(np.float64) - d[:, None].astype(np.float64) * c) ** 2).sum(axis=1)

    assert np.all(error(True) <= error(False) * (1 + 1e-6) + 1e-30)
    assert error(True).sum() < error(False).sum()


def symmetric_absmax_error(w: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Q4_0 as written elsewhere: amax / 7, codes -7..7."""
    d = (np.abs(w).max(axis=1, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    c = np.clip(np.rint(w / d), -8, 7)
    return (u * (w - d * c) ** 2).sum(axis=1)


def test_q4_search_is_never_worse_than_symmetric_absmax() -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((400, 32)).astype(np.float32)
    u = rng.random((400, 32)).astype(np.float32)
    d, c = encode_uniform(w, u, Q4_GRID, True)
    found = (u * (w - d[:, None] * c) ** 2).sum(axis=1)
    assert np.all(found <= symmetric_absmax_error(w, u) * (1 + 1e-5))


def test_q4_is_close_to_the_optimum_of_a_dense_scan() -> None:
    """Brute force: every float16 scale of both signs that could matter."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((12, 32)).astype(np.float32)
    u = (0.2 + rng.random((12, 32))).astype(np.float32)
    d, c = encode_uniform(w, u, Q4_GRID, True)
    found = (u * (w - d[:, None] * c) ** 2).sum(axis=1)
    scales = np.arange(np.float16(0.02).view(np.uint16), np.float16(0.8).view(np.uint16))
    dense = scales.astype(np.uint16).view(np.float16).astype(np.float32)
    best = np.full(12, np.inf)
    for s in itertools.chain(dense, -dense):
        e = (u * (w - s * np.clip(np.rint(w / s), -8, 7)) ** 2).sum(axis=1)
        best = np.minimum(best, e)
    assert np.all(best <= found * (1 + 1e-6))
    assert found.sum() < 1.06 * best.sum()


def test_c4_group_scale_is_close_to_the_optimum_of_a_dense_scan() -> None:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((10, 32)).astype(np.float32)
    u = (0.2 + rng.random((10, 32))).astype(np.float32)
    book = initial_codebook(8)
    block = Evaluator(w, u)
    scale, shift = best_scales(block, book, (0.86, 0.91, 0.96, 1.01, 1.06))

    def error(s: np.ndarray, bits: np.ndarray) -> np.ndarray:
        values = s[:, None] * (book.entries[None] + bits[:, None] * book.delta)
        nearest = np.abs(w[:, :, None] - values[:, None, :]).min(axis=2)
        return (u * nearest**2).sum(axis=1)

    found = error(scale, shift)
    best = np.full(10, np.inf)
    for s in np.linspace(0.004, 0.05, 600):
        for sign, bit in itertools.product((1, -1), (0, 1)):
            best = np.minimum(best, error(np.full(10, sign * s), np.full(10, bit)))
    assert found.sum() < 1.05 * best.sum()


def test_bins_give_the_exact_nearest_entry() -> None:
    book = learn_codebook(gaussian(64, 32), np.ones((64, 32), np.float32))
    x = np.random.default_rng(6).uniform(-200, 200, (100, 32)).astype(np.float32)
    block = Evaluator(x, np.ones_like(x))
    for bit in (0, 1):
        values = book.values(bit)
        found = book.table(bit)[block.indices(np.ones(100, np.float32))]
        distance = np.abs(x[:, :, None] - values).min(axis=2)
        assert np.abs(np.abs(x - found) - distance).max() < 1e-4


def test_learned_codebook_rises_and_fits_better_than_the_start() -> None:
    rng = np.random.default_rng(7)
    w = (np.sign(rng.standard_normal((512, 32))) * rng.random((512, 32)) ** 3).astype(np.float32)
    u = np.ones_like(w)
    book = learn_codebook(w, u)
    assert np.all(np.diff(book.entries) >= 1)
    assert np.abs(book.entries).max() <= 127
    assert np.array_equal(book.entries, np.rint(book.entries))

    def loss(candidate: Codebook) -> float:
        block = Evaluator(w, u)
        scale, shift = best_scales(block, candidate, (0.94, 1.0))
        tables = [block.errors(scale, candidate.table(b)).astype(np.float64) for b in (0, 1)]
        return float(np.where(shift, tables[1], tables[0]).sum())

    assert loss(book) < 0.97 * loss(initial_codebook(book.delta))


@pytest.mark.parametrize(("dtype", "group"), ALL)
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (5, 172), (17, 130)])
@pytest.mark.parametrize("search", [False, True])
def test_odd_shapes_survive_packing(
    dtype: Dtype, group: int, shape: tuple[int, int], search: bool
) -> None:
    w = gaussian(*shape, seed=8)
    q = quantize_matrix(w, Encoding(dtype, group or 32, search))
    assert q.group == group == group_of(dtype, group or 32)
    assert relative_error(w, q) < 0.05
    back = unpack(pack(q), q.dtype, q.shape, q.group, q.codebook, q.delta)
    assert np.array_equal(dequantize(back), dequantize(q))


@pytest.mark.parametrize(("dtype", "group"), ALL)
@pytest.mark.parametrize("search", [False, True])
def test_zeros_stay_zeros(dtype: Dtype, group: int, search: bool) -> None:
    w = gaussian(4, 128)
    w[1] = 0
    w[2, 32:64] = 0
    w[3] *= np.float32(1e-35)
    got = dequantize(quantize_matrix(w, Encoding(dtype, group or 32, search)))
    assert not got[1].any() and not got[3].any()
    assert got[0].any() and np.isfinite(got).all()
    if dtype is not Dtype.Q4 or group == 32:
        assert not got[2, 32:64].any()
    everything = quantize_matrix(
        np.zeros((3, 40), np.float32), Encoding(dtype, group or 32, search)
    )
    assert not dequantize(everything).any()


@pytest.mark.parametrize(
    ("dtype", "magnitude"), [(Dtype.Q8, 1e6), (Dtype.Q4, 1e5), (Dtype.C4, 6e4)]
)
def test_huge_values_are_stored(dtype: Dtype, magnitude: float) -> None:
    w = gaussian(16, 64) / 0.1 * np.float32(magnitude)
    assert relative_error(w, quantize_matrix(w, Encoding(dtype))) < 0.02


@pytest.mark.parametrize("magnitude", [1e-3, 1e-4])
def test_small_values_keep_their_precision_in_c4(magnitude: float) -> None:
    """Row scales fall into float16's coarse range here; the search must work around it."""
    w = gaussian(64, 256) / 0.02 * np.float32(magnitude)
    assert relative_error(w, quantize_matrix(w, Encoding(Dtype.C4))) < 0.012


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("dtype", "group"), ALL)
def test_values_that_are_not_finite_are_refused(dtype: Dtype, group: int, bad: float) -> None:
    w = gaussian(4, 64)
    w[2, 5] = bad
    with pytest.raises(ValueError, match="1 of 256 values are NaN or infinite"):
        quantize_matrix(w, Encoding(dtype, group or 32))


def test_values_beyond_the_format_are_refused() -> None:
    w = gaussian(4, 64)
    w[0, 0] = 1e6
    with pytest.raises(ValueError, match="beyond 65504, the most that f16 stores"):
        quantize_matrix(w, Encoding(Dtype.F16))
    with pytest.raises(ValueError, match="no encoder for format f32"):
        quantize_matrix(w, Encoding(Dtype.F32))


@pytest.mark.parametrize("dtype", [Dtype.Q4, Dtype.C4])
def test_importance_moves_the_error_away_from_important_columns(dtype: Dtype) -> None:
    w = gaussian(128, 256, seed=9)
    h = np.where(np.arange(256) % 8 == 0, 100.0, 1.0).astype(np.float32)
    plain = quantize_matrix(w, Encoding(dtype))
    weighted = quantize_matrix(w, Encoding(dtype), importance=h)
    assert relative_error(w, weighted, h) < 0.85 * relative_error(w, plain, h)
    assert relative_error(w, weighted) > relative_error(w, plain)


def test_importance_of_zero_columns_is_not_zero() -> None:
    h = column_importance(np.array([0.0, 4.0, 0.0, 0.0]), 4)
    assert h.tolist() == pytest.approx([1e-4, 4.0, 1e-4, 1e-4])
    assert column_importance(np.zeros(3), 3).tolist() == [1, 1, 1]
    assert column_importance(None, 2).tolist() == [1, 1]
    for bad in (np.array([1.0, np.nan]), np.array([-1.0, 1.0]), np.ones(3)):
        with pytest.raises(ValueError, match="importance"):
            column_importance(bad, 2)


def test_element_importance_follows_its_formula() -> None:
    w, h = gaussian(3, 10), np.arange(1, 11, dtype=np.float32)
    got = element_importance(w, h)
    for i, j in itertools.product(range(3), range(10)):
        sigma2 = sum(float(x) ** 2 for x in w[i]) / 10
        assert got[i, j] == pytest.approx(h[j] * (sigma2 + float(w[i, j]) ** 2) ** 0.5, rel=1e-5)


def test_relative_error_follows_its_formula() -> None:
    w, h = gaussian(6, 64), np.linspace(0.5, 1.5, 64)
    q = quantize_matrix(w, Encoding(Dtype.Q4))
    d = dequantize(q).astype(np.float64)
    expected = ((w - d) ** 2 * h).sum() / (w.astype(np.float64) ** 2 * h).sum()
    assert relative_error(w, q, h) == pytest.approx(expected, rel=1e-4)


def test_stored_numbers_are_in_range() -> None:
    q = quantize_matrix(
        np.random.default_rng(10).standard_t(2, (64, 320)).astype(np.float32), Encoding(Dtype.C4)
    )
    assert q.sub_scales.min() >= SIGNED_7.low and q.sub_scales.max() <= SIGNED_7.high
    assert q.sub_scales.min() < 0 < q.sub_scales.max()
    assert q.shifts.any() and not q.shifts.all()
    assert 0 < abs(q.delta) <= 127
    assert q.codes.max() <= 15


def test_threads_do_not_change_the_result() -> None:
    w = gaussian(700, 256)
    for dtype in (Dtype.Q8, Dtype.Q4, Dtype.C4):
        one, two = (quantize_matrix(w, Encoding(dtype), threads=t) for t in (1, 2))
        assert np.array_equal(pack(one), pack(two))


def test_row_blocks_cover_all_rows_once_and_carry_errors() -> None:
    seen: list[int] = []
    for_row_blocks(1000, 1 << 13, lambda rows: seen.extend(range(rows.start, rows.stop)))
    assert seen == list(range(1000))

    def fail(rows: slice) -> None:
        raise RuntimeError(f"block {rows.start}")

    with pytest.raises(RuntimeError, match="block 0"):
        for_row_blocks(100, 1 << 16, fail, threads=2)


def test_groups_are_split_and_padded() -> None:
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    assert split_groups(x, 4).tolist() == [[0, 1, 2, 3], [4, 0, 0, 0], [5, 6, 7, 8], [9, 0, 0, 0]]
    assert group_extremes(np.array([[1.0, -3], [2, 1], [0, 1e-20]], np.float32)).tolist() == [
        -3,
        2,
        0,
    ]
