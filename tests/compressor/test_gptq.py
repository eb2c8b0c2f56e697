# SPDX-License-Identifier: Apache-2.0
"""GPTQ against the textbook, against every code there is, and against its own start."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize, pack, stored_elements, unpack
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics import gptq as module
from ingot_compressor.numerics.gptq import GptqOptions, GptqResult, gptq
from ingot_compressor.numerics.hessian import damped_factor
from ingot_compressor.numerics.levels import Levels, levels_of
from ingot_compressor.numerics.refit import refit_scales
from ingot_compressor.numerics.sweep import descend_columns, row_errors, sweep_columns

FORMATS = [
    *((Dtype.Q8, 32), (Dtype.Q6, 32), (Dtype.Q4, 32), (Dtype.Q4, 64), (Dtype.Q4, 128)),
    *((Dtype.Q4Z, 32), (Dtype.Q4Z, 128), (Dtype.C5, 32), (Dtype.C4, 32), (Dtype.C3, 32)),
    *((Dtype.C2, 32), (Dtype.T2, 0)),
]
OPTIONS = [
    GptqOptions(),
    GptqOptions(act_order=False, block=5),
    GptqOptions(sweeps=2, block=7),
    GptqOptions(refit=True),
    GptqOptions(sweeps=3, refit=True),
]


def weight(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32) * 0.05


@cache
def hessian_of(k: int, seed: int = 0) -> torch.Tensor:
    """Return the Hessian of inputs that depend on each other and differ in power."""
    random = np.random.default_rng(seed)
    tokens = 4 * k
    x = random.standard_normal((tokens, max(1, k // 3))) @ random.standard_normal((k // 3 or 1, k))
    x += 0.3 * random.standard_normal((tokens, k))
    x *= np.exp(random.standard_normal(k))
    return torch.from_numpy(2 / tokens * x.T @ x).float()


def error(w: np.ndarray, q: np.ndarray, hessian: torch.Tensor) -> float:
    e = w.astype(np.float64) - q
    return float(np.trace(e @ hessian.double().numpy() @ e.T))


def start_of(
    w: np.ndarray, dtype: Dtype, group: int, hessian: torch.Tensor, share: float = 0.0
) -> Quantized:
    encoding = Encoding(dtype, group, sparsity=share)
    return quantize_matrix(w, encoding, hessian.diagonal().numpy())


def checked(w: np.ndarray, hessian: torch.Tensor, start: Quantized, o: GptqOptions) -> GptqResult:
    """Run and check what is true of every result."""
    found = gptq(w, hessian, start, o)
    before = error(w, dequantize(start), hessian)
    after = error(w, dequantize(found.quantized), hessian)
    assert found.error_before == pytest.approx(before, rel=1e-4)
    assert found.error_after == pytest.approx(after, rel=1e-4, abs=1e-9 * before)
    assert after <= before
    if not o.refit:
        for name in ("scales", "row_scales", "sub_scales"):
            assert np.array_equal(getattr(start, name), getattr(found.quantized, name))
    for name in ("shifts", "zeros", "codebook", "present"):
        assert np.array_equal(getattr(start, name), getattr(found.quantized, name))
    return found


# levels


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_levels_stand_for_what_the_runtime_makes_of_the_codes(
    dtype: Dtype, group: int, share: float
) -> None:
    """Every code of every element, to the bit, and the nearest against a look at all of them."""
    n, k = 33, 300
    w = weight(n, k)
    start = start_of(w, dtype, group, hessian_of(k), share)
    start.sub_scales[2:4] = 0
    levels = levels_of(start)
    table = np.stack(
        [
            dequantize(replace(start, codes=np.full((n, k), code, start.codes.dtype)))
            for code in levels.codes
        ]
    )
    for column in (0, 31, 32, 130, 299):
        for position in range(len(levels.codes)):
            found = levels.values(column, torch.full((n,), position))
            assert np.array_equal(found.numpy(), table[position, :, column])
        aims = torch.from_numpy(3 * weight(n, k, 9)[:, column])
        near = levels.values(column, levels.nearest(column, aims)).numpy()
        least = np.abs(table[:, :, column] - aims.numpy()).min(axis=0)
        np.testing.assert_allclose(np.abs(near - aims.numpy()), least, rtol=1e-4, atol=1e-7)
    assert len(set(levels.codes.tolist())) == len(levels.codes) == len(levels.grid)


def test_codebook_in_any_order() -> None:
    start = start_of(weight(16, 64), Dtype.C3, 32, hessian_of(64))
    order = np.array([3, 1, 7, 0, 6, 2, 5, 4])
    mixed = replace(start, codebook=start.codebook[order])
    w = weight(16, 64)
    one = gptq(w, hessian_of(64), start)
    other = gptq(w, hessian_of(64), mixed)
    rows = one.kept_rows == other.kept_rows == 0
    assert rows and np.array_equal(dequantize(one.quantized), dequantize(other.quantized))


# the sweep


def textbook(w: np.ndarray, hessian: torch.Tensor, levels: Levels, damping: float) -> np.ndarray:
    """Algorithm 1 of the paper with blocks of one column, float64, inverse formed."""
    h = hessian.double().numpy()
    k = len(h)
    h = h + damping * np.diag(h).mean() * np.eye(k)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    rest, result = w.astype(np.float64).copy(), np.empty_like(w)
    for j in range(k):
        x = torch.from_numpy(rest[:, j]).float()
        result[:, j] = levels.values(j, levels.nearest(j, x)).numpy()
        scaled = (rest[:, j] - result[:, j]) / upper[j, j]
        rest[:, j:] -= np.outer(scaled, upper[j, j:])
    return result


@pytest.mark.parametrize("block", [1, 7, 128])
@pytest.mark.parametrize("dtype", [Dtype.C4, Dtype.Q4])
def test_sweep_is_the_textbooks(dtype: Dtype, block: int) -> None:
    n, k = 12, 45
    w, hessian = weight(n, k), hessian_of(k)
    levels = levels_of(start_of(w, dtype, 32, hessian))
    factor = damped_factor(hessian, 0.01, act_order=False)

    def round_column(column: int, x: torch.Tensor) -> torch.Tensor:
        return levels.values(column, levels.nearest(column, x))

    found = sweep_columns(torch.from_numpy(w.T.copy()), factor, round_column, block=block)
    want = textbook(w, hessian, levels, 0.01)
    # a tie that float32 decides otherwise changes a code, and with it the rest of a row
    same = (want == found.numpy().T).all(axis=1)
    assert same.sum() >= n - 1


def test_error_is_the_curvature_times_each_columns_own() -> None:
    """Trace of E H E^T, damped, column by column: what the factor's curvature is for."""
    k = 30
    w, hessian = torch.from_numpy(weight(k, 8)), hessian_of(k)
    factor = damped_factor(hessian)
    own = torch.zeros(k, 8)

    def to_zero_or_tenth(column: int, x: torch.Tensor) -> torch.Tensor:
        rounded = (x * 10).round() / 10
        own[column] = x - rounded
        return rounded

    values = sweep_columns(w, factor, to_zero_or_tenth, block=8)
    damped = hessian + factor.damping * hessian.diagonal().mean() * torch.eye(k)
    want = float(row_errors(w - values, damped).sum())
    total = float((factor.curvature[:, None] * own[factor.order].square()).sum())
    assert total == pytest.approx(want, rel=1e-3)


def test_blocks_are_told_in_turn_with_what_the_earlier_made_of_them() -> None:
    k = 20
    w, factor = torch.from_numpy(weight(k, 3)), damped_factor(hessian_of(k))
    seen: list[torch.Tensor] = []
    first: dict[int, torch.Tensor] = {}

    def begin(columns: torch.Tensor, aims: torch.Tensor) -> None:
        seen.append(columns)
        first[int(columns[0])] = aims[0].clone()

    def drop(column: int, x: torch.Tensor) -> torch.Tensor:
        if column in first:
            assert torch.equal(x, first[column])
        return torch.zeros_like(x)

    assert not sweep_columns(w, factor, drop, begin, block=6).any()
    assert [len(columns) for columns in seen] == [6, 6, 6, 2]
    assert torch.equal(torch.cat(seen), factor.order)
    assert torch.equal(first[int(factor.order[0])], w[factor.order[0]])
    assert not torch.equal(first[int(factor.order[6])], w[factor.order[6]])


# every code there is


def best_row(w: np.ndarray, values: np.ndarray, h: np.ndarray) -> float:
    """Return the least error of a row over all codes. values (levels, k)."""
    picks = np.array(list(itertools.product(range(len(values)), repeat=len(w))))
    e = w - values[picks, np.arange(len(w))]
    return float(np.einsum("ij,jk,ik->i", e, h, e).min())


def table_of(start: Quantized, levels: Levels) -> np.ndarray:
    codes = [np.full(start.shape, code, start.codes.dtype) for code in levels.codes]
    return np.stack([dequantize(replace(start, codes=c)) for c in codes]).astype(np.float64)


@pytest.mark.parametrize("seed", range(6))
def test_between_the_best_codes_and_round_to_nearest(seed: int) -> None:
    """Four rows of six 2-bit codes: all 4096 of each row."""
    w, hessian = weight(4, 6, seed), hessian_of(6, seed)
    start = start_of(w, Dtype.C2, 32, hessian)
    values = table_of(start, levels_of(start))
    h = hessian.double().numpy()
    least = sum(best_row(w[i].astype(np.float64), values[:, i], h) for i in range(4))
    plain = checked(w, hessian, start, GptqOptions())
    more = checked(w, hessian, start, GptqOptions(sweeps=50))
    assert least * (1 - 1e-5) <= more.error_after <= plain.error_after * (1 + 1e-5)
    assert more.error_after <= 1.6 * least


def test_each_stage_is_nearer_to_the_best() -> None:
    """Summed over cases: the sweep closes part of the gap to the best codes, descent more."""
    totals = np.zeros(4)
    for seed in range(12):
        w, hessian = weight(2, 6, seed), hessian_of(6, seed)
        start = start_of(w, Dtype.C2, 32, hessian)
        values, h = table_of(start, levels_of(start)), hessian.double().numpy()
        plain = gptq(w, hessian, start)
        least = sum(best_row(w[i].astype(np.float64), values[:, i], h) for i in range(2))
        more = gptq(w, hessian, start, GptqOptions(sweeps=20)).error_after
        totals += np.array([least, more, plain.error_after, plain.error_before]) / least
    best, more, plain, before = totals
    assert best < more < plain < before
    assert more - best < 0.6 * (before - best)


@pytest.mark.parametrize("dtype", [Dtype.C2, Dtype.C4, Dtype.Q4, Dtype.Q4Z, Dtype.T2])
def test_no_single_code_improves_on_the_descent(dtype: Dtype) -> None:
    n, k = 6, 24
    w, hessian = weight(n, k), hessian_of(k)
    start = start_of(w, dtype, 32, hessian)
    values = table_of(start, levels_of(start))
    found = checked(w, hessian, start, GptqOptions(sweeps=100, block=10))
    assert found.kept_rows == 0
    h, q = hessian.double().numpy(), dequantize(found.quantized).astype(np.float64)
    for row in range(n):
        e = w[row] - q[row]
        least = e @ h @ e
        for column, value in itertools.product(range(k), values):
            changed = e.copy()
            changed[column] = w[row, column] - value[row, column]
            assert changed @ h @ changed >= least * (1 - 1e-4)


def test_descent_never_rises() -> None:
    n, k = 9, 40
    w, hessian = weight(n, k), hessian_of(k)
    start = start_of(w, Dtype.C3, 32, hessian)
    levels, aims = levels_of(start), torch.from_numpy(w.T.copy())
    values = torch.from_numpy(dequantize(start).T.copy())

    def round_column(column: int, x: torch.Tensor) -> torch.Tensor:
        return levels.values(column, levels.nearest(column, x))

    last, changes = row_errors(aims - values, hessian), -1
    while changes != 0:
        held = values.clone()
        changes = descend_columns(aims, values, hessian, round_column, block=16)
        assert changes == int((held != values).sum())
        now = row_errors(aims - values, hessian)
        assert bool((now <= last * (1 + 1e-6)).all())
        last = now


# every format


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_better_than_round_to_nearest(dtype: Dtype, group: int, options: GptqOptions) -> None:
    n, k = 16, 160
    for seed in range(2):
        w, hessian = weight(n, k, seed), hessian_of(k, seed)
        start = start_of(w, dtype, group, hessian)
        found = checked(w, hessian, start, options)
        assert not found.fallback and found.damping == 0.01
        assert found.error_after < 0.8 * found.error_before
        q = found.quantized
        again = unpack(pack(q), dtype, q.shape, q.group, q.codebook, q.delta)
        assert np.array_equal(dequantize(again), dequantize(q))


@pytest.mark.parametrize("options", [OPTIONS[0], GptqOptions(sweeps=1, refit=True)], ids=str)
@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_absent_superblocks_stay_zero_and_are_made_up_for(
    dtype: Dtype, group: int, options: GptqOptions
) -> None:
    n, k = 40, 560
    w, hessian = weight(n, k), hessian_of(k)
    start = start_of(w, dtype, group, hessian, share=0.3)
    assert start.present.size and not start.present.all()
    found = checked(w, hessian, start, options)
    stored = stored_elements(start)
    assert not dequantize(found.quantized)[~stored].any()
    for name in ("codes", "sub_scales") if start.sub_scales.size else ("codes",):
        new, old = getattr(found.quantized, name), getattr(start, name)
        apart = ~stored if name == "codes" else ~stored[:, ::32]
        assert np.array_equal(new[apart], old[apart])
    assert found.error_after < 0.8 * found.error_before


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_scales_that_are_off_are_found_again(dtype: Dtype, group: int) -> None:
    w, hessian = weight(16, 160), hessian_of(160)
    start = start_of(w, dtype, group, hessian)
    good = error(w, dequantize(start), hessian)
    for name in ("scales", "row_scales"):
        getattr(start, name)[:] *= 1.1
    bad = error(w, dequantize(start), hessian)
    levels, kind = levels_of(start), start.codes.dtype
    positions = torch.from_numpy(np.searchsorted(levels.codes, start.codes).T.astype(np.uint8))
    assert np.array_equal(levels.codes[positions.numpy().T].astype(kind), start.codes)
    aims = torch.from_numpy(w.T.copy())
    fitted, values = refit_scales(aims, levels, positions, hessian)
    found = error(w, values.numpy().T, hessian)
    assert found < 0.2 * bad + good and found < 0.9 * bad
    half = fitted.scale.half().float()
    assert dtype is Dtype.T2 or torch.equal(half, fitted.scale)
    assert torch.equal(fitted.multiplier, fitted.multiplier.round())
    again, same = refit_scales(aims, fitted, positions, hessian)
    assert error(w, same.numpy().T, hessian) <= found * (1 + 1e-6)
    assert torch.equal(fitted.offset, again.offset)


@pytest.mark.parametrize("dtype", [d for d, g in FORMATS if g in (0, 32)])
def test_refitted_scales_lower_the_error(dtype: Dtype) -> None:
    w, hessian = weight(16, 96), hessian_of(96)
    start = start_of(w, dtype, 32, hessian)
    plain = checked(w, hessian, start, GptqOptions())
    fitted = checked(w, hessian, start, GptqOptions(refit=True))
    assert fitted.error_after < plain.error_after


def test_group_scale_is_the_closed_form_in_half() -> None:
    """One group: s = c H w / c H c, the stored number nearest to it."""
    w, hessian = weight(6, 32), hessian_of(32)
    start = start_of(w, Dtype.Q4, 32, hessian)
    plain = gptq(w, hessian, start)
    fitted = gptq(w, hessian, start, GptqOptions(refit=True))
    c, h = plain.quantized.codes.astype(np.float64) - 8, hessian.double().numpy()
    want = np.einsum("ij,jk,ik->i", c, h, w) / np.einsum("ij,jk,ik->i", c, h, c)
    np.testing.assert_allclose(fitted.quantized.scales[:, 0], want, rtol=2**-10)


def test_row_scale_alone_is_the_closed_form() -> None:
    """t2 has nothing but a row scale: codes c give s = c H w / c H c."""
    w, hessian = weight(5, 40), hessian_of(40)
    start = start_of(w, Dtype.T2, 0, hessian)
    plain = gptq(w, hessian, start)
    fitted = gptq(w, hessian, start, GptqOptions(refit=True))
    c = plain.quantized.codes.astype(np.float64) - 1
    h = hessian.double().numpy()
    want = np.einsum("ij,jk,ik->i", c, h, w) / np.einsum("ij,jk,ik->i", c, h, c)
    np.testing.assert_allclose(fitted.quantized.row_scales, want, rtol=1e-4)


def test_groups_of_rows_have_their_own_hessian() -> None:
    w = weight(7, 32)
    both = torch.stack([hessian_of(32, 1), hessian_of(32, 2)])
    start = start_of(w, Dtype.C4, 32, both[0])
    found = gptq(w, both, start).quantized
    for rows, hessian in ((slice(0, 3), both[0]), (slice(3, 7), both[1])):
        alone = gptq(w, hessian, start).quantized
        assert np.array_equal(alone.codes[rows], found.codes[rows])
    assert not np.array_equal(gptq(w, both[0], start).quantized.codes, found.codes)


def test_numpy_and_torch_hessians_alike() -> None:
    w, hessian = weight(4, 32), hessian_of(32)
    start = start_of(w, Dtype.Q4, 32, hessian)
    one, other = gptq(w, hessian, start), gptq(w, hessian.double().numpy(), start)
    assert np.array_equal(one.quantized.codes, other.quantized.codes)


# what cannot be improved


def test_half_passes_through() -> None:
    w, hessian = weight(4, 32), hessian_of(32)
    start = start_of(w, Dtype.F16, 0, hessian)
    found = gptq(w, hessian, start)
    assert found.quantized is start and not found.fallback
    assert (
        found.error_after
        == found.error_before
        == pytest.approx(error(w, dequantize(start), hessian), rel=1e-4)
    )


@pytest.mark.parametrize("filling", [0.0, float("nan")])
def test_hessian_of_nothing_gives_the_start(filling: float) -> None:
    w = weight(4, 32)
    start = start_of(w, Dtype.C4, 32, torch.eye(32))
    found = gptq(w, torch.full((32, 32), filling), start, GptqOptions(sweeps=2, refit=True))
    assert found.fallback and found.quantized is start and found.kept_rows == 4
    assert found.damping == 0.0


def test_one_group_without_a_factor_keeps_its_rows() -> None:
    w, hessian = weight(6, 32), hessian_of(32)
    start = start_of(w, Dtype.C4, 32, hessian)
    found = gptq(w, torch.stack([hessian, torch.zeros(32, 32)]), start)
    assert not found.fallback and found.kept_rows == 3
    assert np.array_equal(found.quantized.codes[3:], start.codes[3:])
    assert not np.array_equal(found.quantized.codes[:3], start.codes[:3])


def test_identical_samples_raise_the_damping_and_still_win() -> None:
    w = weight(8, 64)
    x = torch.from_numpy(weight(1, 64, 3))
    hessian = 2 * x.T @ x
    start = start_of(w, Dtype.C4, 32, hessian)
    found = checked(w, hessian, start, GptqOptions(damping=1e-12))
    assert found.damping > 1e-12 and not found.fallback
    assert found.error_after < 0.1 * found.error_before


def test_dead_column_is_rounded_as_it_stands() -> None:
    w, hessian = weight(8, 40), hessian_of(40).clone()
    hessian[7], hessian[:, 7] = 0, 0
    start = start_of(w, Dtype.Q4, 32, hessian)
    found = gptq(w, hessian, start, GptqOptions(sweeps=2)).quantized
    near = levels_of(start)
    want = near.values(7, near.nearest(7, torch.from_numpy(w[:, 7].copy()))).numpy()
    assert np.array_equal(dequantize(found)[:, 7], want)


def test_never_worse_even_where_the_sweep_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep with a fault planted in some rows: those keep the start, the others gain."""
    w, hessian = weight(6, 32), hessian_of(32)
    start = start_of(w, Dtype.C4, 32, hessian)

    class Faulty(module._Rounder):
        def __call__(self, column: int, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(column, torch.where(torch.arange(len(x)) < 4, -x, x))

    monkeypatch.setattr(module, "_Rounder", Faulty)
    found = checked(w, hessian, start, GptqOptions())
    assert found.kept_rows == 4 and not found.fallback
    assert np.array_equal(found.quantized.codes[:4], start.codes[:4])


def test_start_that_is_the_best_is_returned() -> None:
    """Weights that are on the grid: nothing can be better than zero error."""
    hessian = hessian_of(64)
    start = start_of(weight(8, 64), Dtype.C4, 32, hessian)
    found = gptq(dequantize(start), hessian, start, GptqOptions(sweeps=1, refit=True))
    assert found.fallback and found.quantized is start and found.error_after == 0.0


def test_shapes_that_do_not_fit() -> None:
    w = weight(4, 32)
    start = start_of(w, Dtype.C4, 32, torch.eye(32))
    with pytest.raises(InvalidArgumentError, match="do not fit"):
        gptq(w, torch.eye(31), start)
    with pytest.raises(InvalidArgumentError, match="do not fit"):
        gptq(w[:3], torch.eye(32), start)
    with pytest.raises(InvalidArgumentError, match="no levels"):
        levels_of(quantize_matrix(w, Encoding(Dtype.F16)))
