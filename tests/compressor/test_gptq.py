# SPDX-License-Identifier: Apache-2.0
"""GPTQ against every code there is, against its own start, and where nothing can be gained."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize, pack, stored_elements, unpack
from ingot_compressor.numerics import gptq as module
from ingot_compressor.numerics.gptq import GptqOptions, GptqResult, gptq
from ingot_compressor.numerics.hessian import damped_factor
from ingot_compressor.numerics.levels import levels_of
from ingot_compressor.numerics.sweep import sweep_columns
from tests.compressor.hessian_cases import FORMATS, error, hessian_of, start_of, table_of, weight

OPTIONS = [
    GptqOptions(),
    GptqOptions(act_order=False, block=5),
    GptqOptions(sweeps=2, block=7),
    GptqOptions(refit=True),
    GptqOptions(sweeps=3, refit=True),
]


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


def test_codebook_in_any_order() -> None:
    start = start_of(weight(16, 64), Dtype.C3, 32, hessian_of(64))
    order = np.array([3, 1, 7, 0, 6, 2, 5, 4])
    mixed = replace(start, codebook=start.codebook[order])
    w = weight(16, 64)
    one = gptq(w, hessian_of(64), start)
    other = gptq(w, hessian_of(64), mixed)
    assert one.kept_rows == other.kept_rows == 0
    assert np.array_equal(dequantize(one.quantized), dequantize(other.quantized))


def best_row(w: np.ndarray, values: np.ndarray, h: np.ndarray) -> float:
    """Return the least error of a row over all codes. values (levels, k)."""
    picks = np.array(list(itertools.product(range(len(values)), repeat=len(w))))
    e = w - values[picks, np.arange(len(w))]
    return float(np.einsum("ij,jk,ik->i", e, h, e).min())


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


def test_codes_are_those_of_the_sweep_in_the_order_asked_for() -> None:
    w, hessian = weight(16, 64), hessian_of(64)
    start = start_of(w, Dtype.C4, 32, hessian)
    levels, results = levels_of(start), []
    for act_order in (True, False):
        factor = damped_factor(hessian, 0.05, act_order)
        aims = torch.from_numpy(w.T.copy())
        swept = sweep_columns(aims, factor, lambda j, x: levels.values(j, levels.nearest(j, x)))
        found = gptq(w, hessian, start, GptqOptions(damping=0.05, act_order=act_order))
        assert found.kept_rows == 0 and found.damping == 0.05
        assert np.array_equal(dequantize(found.quantized), swept.numpy().T)
        results.append(found.quantized.codes)
    assert not np.array_equal(*results)


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


def test_rows_that_are_a_little_better_are_kept() -> None:
    """A start that the descent made: one sweep loses to it in most rows, by little."""
    w, hessian = weight(24, 64), hessian_of(64)
    start = start_of(w, Dtype.C3, 32, hessian)
    best = gptq(w, hessian, start, GptqOptions(sweeps=50)).quantized
    found = checked(w, hessian, best, GptqOptions())
    assert found.kept_rows > 12
    e = w - dequantize(best).astype(np.float64), w - dequantize(found.quantized).astype(np.float64)
    before, after = (np.einsum("ij,jk,ik->i", x, hessian.double().numpy(), x) for x in e)
    assert (after <= before).all() and (after == before).sum() == found.kept_rows


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
