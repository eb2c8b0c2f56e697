# SPDX-License-Identifier: Apache-2.0
"""Masks against brute force, what superblocks are worth, and what patterns cost."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype, Layout
from ingot.packing import dequantize, stored_bytes
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.groups import column_importance
from ingot_compressor.numerics.matrix import drop_superblocks
from ingot_compressor.numerics.pruning import (
    COMPUTED,
    STORED,
    keep_n_of_m,
    keep_share,
    keep_superblocks,
    magnitude_scores,
    n_of_m_bits,
    stored_bits,
    superblock_mask,
    superblock_power,
    superblock_saliency,
    superblock_width,
    unstructured_bits,
    wanda_scores,
    with_superblocks,
)
from ingot_compressor.numerics.sparse_gpt import (
    damped,
    output_error,
    refit,
)

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


# Masks


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 8), (1, 4)])
def test_n_of_m_by_wanda_is_the_best_mask_of_uncorrelated_inputs(kept: int, of: int) -> None:
    w = matrix(5, 3 * of)
    h = np.random.default_rng(2).uniform(0.01, 9.0, w.shape[1])
    mask = keep_n_of_m(wanda_scores(w, h), kept, of)
    loss = w * w * h
    for row in range(len(w)):
        for first in range(0, w.shape[1], of):
            part = slice(first, first + of)
            assert mask[row, part].sum() == kept
            dropped = combinations(range(first, first + of), of - kept)
            best = min(loss[row, list(columns)].sum() for columns in dropped)
            assert loss[row, part][~mask[row, part]].sum() == pytest.approx(best)
    by_size = keep_n_of_m(magnitude_scores(w), kept, of)
    assert loss[~by_size].sum() > loss[~mask].sum()


def test_share_is_dropped_of_each_row_or_of_the_matrix() -> None:
    w = matrix(6, 10)
    w[0] *= 100
    by_row = keep_share(magnitude_scores(w), 0.35)
    assert (by_row.sum(axis=1) == 7).all()
    for row in range(6):
        assert np.abs(w[row][~by_row[row]]).max() < np.abs(w[row][by_row[row]]).min()
    whole = keep_share(magnitude_scores(w), 0.35, by_row=False)
    assert (~whole).sum() == int(0.35 * 60)
    assert whole[0].all()
    assert np.abs(w[~whole]).max() < np.abs(w[whole]).min()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_that_are_none(share: float) -> None:
    with pytest.raises(InvalidArgumentError, match="share"):
        keep_share(matrix(2, 4), share)


def test_patterns_that_do_not_fit() -> None:
    for kept, of in ((0, 4), (5, 4)):
        with pytest.raises(InvalidArgumentError, match="keeps nothing"):
            keep_n_of_m(matrix(2, 8), kept, of)
    with pytest.raises(InvalidArgumentError, match="does not divide"):
        keep_n_of_m(matrix(2, 6), 2, 4)
    with pytest.raises(InvalidArgumentError, match="mean squares"):
        wanda_scores(matrix(2, 6), np.ones(5))
    with pytest.raises(InvalidArgumentError, match="not negative"):
        wanda_scores(matrix(2, 6), -np.ones(6))


# Superblocks


def test_saliency_is_the_error_of_each_superblock_alone() -> None:
    w = matrix(21, 40)  # the last tile has 5 rows, the last superblock 8 columns
    h = damped(correlated_hessian(40))
    saliency = superblock_saliency(w, np.linalg.inv(h), 16)
    assert saliency.shape == (2, 3)
    for tile in range(2):
        for block in range(3):
            present = np.ones((2, 3), np.bool_)
            present[tile, block] = False
            fitted = refit(w, superblock_mask(present, w.shape, 16), h)
            assert saliency[tile, block] == pytest.approx(output_error(w, fitted, h), rel=1e-6)


def test_saliency_without_correlation_is_wanda_s_power() -> None:
    w = matrix(35, 96)
    h = np.random.default_rng(3).uniform(0.1, 5.0, 96)
    power = superblock_power(wanda_scores(w, h), 32)
    assert np.allclose(superblock_saliency(w, np.diag(1 / h), 32), power)
    assert power.sum() == pytest.approx((w * w * h).sum())
    with pytest.raises(InvalidArgumentError, match="inverse"):
        superblock_saliency(w, np.eye(95), 32)


def test_superblocks_by_wanda_over_the_matrix_are_those_that_the_encoder_drops() -> None:
    w = matrix(70, 512).astype(np.float32)
    h = np.random.default_rng(4).uniform(0.1, 5.0, 512)
    encoding = Encoding(Dtype.C4, search=False, layout=Layout.T16_K8)
    quantized = quantize_matrix(w, encoding, h)
    width = superblock_width(Dtype.C4, 32)
    assert width == 128
    present = keep_superblocks(superblock_power(wanda_scores(w, h), width), 0.3)
    expected = drop_superblocks(quantized, w, column_importance(h, 512), 0.3)
    assert np.array_equal(present, expected.present)
    sparse = with_superblocks(quantized, present)
    assert sparse.layout is Layout.T16
    assert np.array_equal(dequantize(sparse), dequantize(expected))
    zero = ~superblock_mask(present, w.shape, width)
    assert not dequantize(sparse)[zero].any()


def test_share_of_superblocks_of_each_sixteen_rows() -> None:
    power = np.arange(40.0).reshape(4, 10)
    assert keep_superblocks(power, 0.25).sum(axis=1).tolist() == [0, 10, 10, 10]
    assert keep_superblocks(power, 0.25, by_tile=True).sum(axis=1).tolist() == [8, 8, 8, 8]
    with pytest.raises(InvalidArgumentError, match="superblocks"):
        superblock_mask(np.ones((3, 3), np.bool_), (32, 40), 16)


# Net bits


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (n_of_m_bits(2, 4, 4), 3.0),
        (n_of_m_bits(4, 8, 4), 3.0),
        (n_of_m_bits(1, 8, 4), 0.5 + 3 / 8),
        (unstructured_bits(0.5, 4), 3.0),
        (unstructured_bits(0.7, 4), 2.2),
        (n_of_m_bits(2, 4, 4, scale_bits=0.25), 3.125),
        (unstructured_bits(0.75, 4, scale_bits=0.5), 1.0 + 0.125 + 1.0),
    ],
)
def test_computed_bits_are_those_of_the_arithmetic(found: object, expected: float) -> None:
    assert found.total == pytest.approx(expected)  # type: ignore[attr-defined]
    assert found.status == COMPUTED  # type: ignore[attr-defined]


def test_stored_bits_are_those_of_the_packed_bytes() -> None:
    w = matrix(64, 512).astype(np.float32)
    dense = quantize_matrix(w, Encoding(Dtype.C4, search=False))
    bits = stored_bits(dense)
    assert (bits.pattern, bits.index, bits.status) == ("dense", 0.0, STORED)
    assert bits.total == pytest.approx(8 * stored_bytes(dense) / w.size)
    present = keep_superblocks(superblock_power(magnitude_scores(w), 128), 0.25)
    sparse = stored_bits(with_superblocks(dense, present))
    assert sparse.pattern == "superblocks 25%"
    assert sparse.total == pytest.approx(
        8 * stored_bytes(with_superblocks(dense, present)) / w.size
    )
    # 16 superblocks of 4 KB codes; a tile keeps its 64 bytes of row scales, a list is 64 bytes
    assert sparse.index == pytest.approx(8 * 4 * 64 / w.size)
    assert sparse.codes == pytest.approx(
        0.75 * (bits.codes - 8 * 4 * 64 / w.size) + 8 * 4 * 64 / w.size
    )
