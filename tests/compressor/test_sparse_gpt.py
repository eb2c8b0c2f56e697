# SPDX-License-Identifier: Apache-2.0
"""Sweeps against exact least squares, and rounding onto the grid of a format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import WEIGHT_FORMATS, dequantize
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.pruning import (
    keep_n_of_m,
    keep_share,
    magnitude_scores,
    wanda_scores,
)
from ingot_compressor.numerics.sparse_gpt import (
    choose_given,
    choose_n_of_m,
    choose_share,
    damped,
    inverse_factor,
    output_error,
    refit,
    refit_matrix,
    sparse_gpt,
)
from ingot_compressor.numerics.stored_grid import StoredGrid

Double = NDArray[np.float64]


def matrix(n: int, k: int, seed: int = 0) -> Double:
    return np.random.default_rng(seed).standard_normal((n, k))


def correlated_hessian(k: int, seed: int = 1, samples: int = 400) -> Double:
    """Second moments of inputs that share a few strong directions, columns of unlike size."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, 4)) @ rng.standard_normal((4, k))
    x = (x + 0.5 * rng.standard_normal((samples, k))) * rng.uniform(0.2, 3.0, k)
    hessian: Double = x.T @ x / samples
    return hessian


def test_factor_is_that_of_the_inverse() -> None:
    h = correlated_hessian(12)
    factor = inverse_factor(h, 0.05)
    assert np.array_equal(factor, np.triu(factor))
    assert np.allclose(factor.T @ factor @ damped(h, 0.05), np.eye(12), atol=1e-8)


def test_input_that_was_never_seen_does_no_harm() -> None:
    h = correlated_hessian(8)
    h[3, :] = h[:, 3] = 0
    w = matrix(4, 8)
    pruned, mask = sparse_gpt(w, inverse_factor(h), choose_share(0.5), block=8)
    assert np.isfinite(pruned).all()
    # what no input reaches costs nothing: it is among the first to go
    assert not mask[:, 3].all()
    # and makes no Hessian singular, not even without damping, or where nothing was seen at all
    assert np.isfinite(inverse_factor(h, 0.0)).all()
    assert np.array_equal(inverse_factor(np.zeros((8, 8))), np.eye(8))


def test_sweep_that_drops_the_first_columns_is_exact() -> None:
    h = damped(correlated_hessian(16))
    w = matrix(7, 16)
    mask = np.ones(w.shape, np.bool_)
    mask[:, :5] = False
    pruned, _ = sparse_gpt(w, inverse_factor(h, 0.0), choose_given(mask), block=4)
    assert np.allclose(pruned, refit(w, mask, h), atol=1e-8)


def test_chooser_sees_weights_that_already_make_up_for_what_is_gone() -> None:
    h = damped(correlated_hessian(16))
    w, factor = matrix(7, 16), inverse_factor(h, 0.0)
    seen: dict[int, tuple[Double, Double]] = {}

    def drop_first(first: int, weights: Double, saliency: Double) -> NDArray[np.bool_]:
        seen[first] = (weights.copy(), saliency)
        return np.full(weights.shape, first > 0)

    sparse_gpt(w, factor, drop_first, block=4)
    mask = np.tile(np.arange(16) >= 4, (7, 1))
    expected = refit(w, mask, h)
    assert list(seen) == [0, 4, 8, 12]
    for first in (4, 8, 12):
        columns = slice(first, first + 4)
        weights, saliency = seen[first]
        assert np.allclose(weights, expected[:, columns])
        assert np.allclose(saliency, np.square(weights / np.diagonal(factor)[columns]))
    # the saliency of a column is the error that its loss makes, all after it refitted
    first_gone = np.tile(np.arange(16) > 0, (7, 1))
    lost = w - refit(w, first_gone, h)
    assert np.allclose(seen[0][1][:, 0], np.einsum("ij,ij->i", lost @ h, lost))


@pytest.mark.parametrize("block", [4, 8, 32])
def test_sweep_lies_between_plain_masking_and_the_exact_refit(block: int) -> None:
    h = damped(correlated_hessian(32))
    w = matrix(12, 32)
    factor = inverse_factor(h, 0.0)
    pruned, mask = sparse_gpt(w, factor, choose_share(0.5), block)
    assert (~mask).sum() == w.size // 2
    assert not pruned[~mask].any()
    swept = output_error(w, pruned, h)
    exact = output_error(w, refit(w, mask, h), h)
    assert exact * 0.999 <= swept <= output_error(w, w * mask, h)
    by_size = keep_share(magnitude_scores(w), 0.5)
    by_wanda = keep_share(wanda_scores(w, np.diagonal(h)), 0.5)
    assert swept < 0.7 * output_error(w, w * by_wanda, h)
    assert swept < 0.7 * output_error(w, w * by_size, h)
    # with the same mask for both, the sweep alone makes the difference
    compensated, _ = sparse_gpt(w, factor, choose_given(by_size), block)
    assert output_error(w, compensated, h) < 0.7 * output_error(w, w * by_size, h)


def test_block_of_the_update_does_not_matter_for_a_given_mask() -> None:
    h, w = correlated_hessian(24), matrix(5, 24)
    mask = keep_share(magnitude_scores(w), 0.4)
    swept = [sparse_gpt(w, inverse_factor(h), choose_given(mask), b)[0] for b in (1, 5, 24, 99)]
    for other in swept[1:]:
        assert np.allclose(swept[0], other, atol=1e-10)


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 8)])
def test_sweep_of_n_of_m_keeps_the_pattern_and_beats_a_plain_mask(kept: int, of: int) -> None:
    h, w = damped(correlated_hessian(32)), matrix(9, 32)
    pruned, mask = sparse_gpt(w, inverse_factor(h, 0.0), choose_n_of_m(kept, of), block=of)
    assert (mask.reshape(-1, of).sum(axis=1) == kept).all()
    plain = keep_n_of_m(wanda_scores(w, np.diagonal(h)), kept, of)
    assert output_error(w, pruned, h) < 0.8 * output_error(w, w * plain, h)


def test_sweep_without_correlation_is_wanda() -> None:
    w = matrix(6, 16)
    h = np.diag(np.random.default_rng(5).uniform(0.1, 4.0, 16))
    pruned, mask = sparse_gpt(w, inverse_factor(h, 0.0), choose_n_of_m(2, 4), block=4)
    assert np.array_equal(mask, keep_n_of_m(wanda_scores(w, np.diagonal(h)), 2, 4))
    assert np.allclose(pruned, w * mask)


def test_rounding_in_the_sweep_beats_rounding_after_it() -> None:
    h, w = damped(correlated_hessian(48)), 2 * matrix(10, 48)
    step, seen = 0.5, []

    def to_grid(column: int, values: Double) -> Double:
        seen.append(column)
        return np.round(values / step) * step

    factor = inverse_factor(h, 0.0)
    joint, mask = sparse_gpt(w, factor, choose_share(0.3), 16, to_grid)
    assert seen == list(range(48))
    assert np.array_equal(joint, np.round(joint / step) * step)
    assert not joint[~mask].any()
    after, _ = sparse_gpt(w, factor, choose_given(mask), 16)
    after = np.round(after / step) * step * mask
    assert output_error(w, joint, h) < 0.8 * output_error(w, after, h)


def test_refit_is_least_squares_on_the_inputs() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((60, 6)) @ rng.standard_normal((6, 10)) + rng.standard_normal((60, 10))
    w = matrix(5, 10)
    mask = keep_share(magnitude_scores(w), 0.4)
    mask[0] = True
    mask[1] = False
    fitted = refit(w, mask, x.T @ x / 60)
    assert np.allclose(fitted[0], w[0])
    assert not fitted[1].any()
    for row in range(2, 5):
        kept = mask[row]
        expected, *_ = np.linalg.lstsq(x[:, kept], x @ w[row], rcond=None)
        assert np.allclose(fitted[row][kept], expected, atol=1e-8)
        assert not fitted[row][~kept].any()
        assert np.allclose(w[row] @ refit_matrix(kept, x.T @ x / 60), expected, atol=1e-8)
    assert np.array_equal(refit_matrix(mask[0], x.T @ x), np.eye(10))


def test_hessians_and_masks_that_do_not_fit() -> None:
    w, h = matrix(4, 8), correlated_hessian(8)
    with pytest.raises(InvalidArgumentError, match="square"):
        damped(h[:, :5])
    with pytest.raises(InvalidArgumentError, match="square"):
        damped(h * np.inf)
    with pytest.raises(InvalidArgumentError, match="damping"):
        damped(h, -1.0)
    with pytest.raises(InvalidArgumentError, match="positive definite"):
        inverse_factor(-h)
    with pytest.raises(InvalidArgumentError, match="factor"):
        sparse_gpt(w, np.eye(7), choose_share(0.5))
    with pytest.raises(InvalidArgumentError, match="mask"):
        sparse_gpt(w, np.eye(8), choose_given(np.ones((3, 8), np.bool_)))
    with pytest.raises(InvalidArgumentError, match="Hessian"):
        refit(w, np.ones((4, 8), np.bool_), h[:7, :7])
    with pytest.raises(InvalidArgumentError, match="Hessian"):
        refit_matrix(np.ones(7, np.bool_), h)
    singular = np.zeros((8, 8))
    half = np.tile(np.arange(8) < 4, (4, 1))
    with pytest.raises(InvalidArgumentError, match="singular"):
        refit(w, half, singular)


GROUPED = [Dtype.Q8, Dtype.Q4, Dtype.Q4Z, Dtype.Q6, Dtype.C5, Dtype.C4, Dtype.C3, Dtype.C2]


@pytest.mark.parametrize("dtype", GROUPED, ids=lambda d: d.name.lower())
def test_grid_holds_the_nearest_of_all_values_that_codes_give(dtype: Dtype) -> None:
    w = matrix(20, 70).astype(np.float32)
    w[3] = 0  # scales of zero
    start = quantize_matrix(w, Encoding(dtype))
    count = 1 << WEIGHT_FORMATS[dtype].bits
    codes = range(-127, 128) if dtype is Dtype.Q8 else range(count)
    held = [dequantize(replace(start, codes=np.full_like(start.codes, code))) for code in codes]
    values = 1.5 * matrix(20, 70, seed=9)
    expected = np.min([np.abs(one - values) for one in held], axis=0)
    grid = StoredGrid(start)
    rounded = np.stack([grid.round(j, values[:, j]) for j in range(70)], axis=1)
    assert np.allclose(np.abs(rounded - values), expected, atol=1e-6)
    assert np.allclose(dequantize(grid.result()), rounded, rtol=1e-6, atol=1e-7)
    assert not rounded[3].any()


def test_grid_takes_a_codebook_in_any_order() -> None:
    start = quantize_matrix(matrix(16, 64).astype(np.float32), Encoding(Dtype.C3))
    turned = replace(start, codebook=start.codebook[::-1].copy(), codes=7 - start.codes)
    values = matrix(16, 64, seed=3)
    for column in (0, 40):
        grids = StoredGrid(start), StoredGrid(turned)
        first, second = (grid.round(column, values[:, column]) for grid in grids)
        assert np.array_equal(first, second)
        assert np.array_equal(grids[0].codes[:, column], 7 - grids[1].codes[:, column])


@pytest.mark.parametrize("dtype", [Dtype.F16, Dtype.T2])
def test_grid_needs_groups(dtype: Dtype) -> None:
    with pytest.raises(InvalidArgumentError, match="groups"):
        StoredGrid(quantize_matrix(matrix(16, 32).astype(np.float32), Encoding(dtype)))
