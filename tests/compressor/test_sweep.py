# SPDX-License-Identifier: Apache-2.0
"""The column sweep and the descent against the textbook and the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingot.format import Dtype
from ingot.packing import dequantize
from ingot_compressor.numerics.hessian import damped_factor
from ingot_compressor.numerics.levels import Levels, levels_of
from ingot_compressor.numerics.sweep import descend_columns, row_errors, sweep_columns
from tests.compressor.hessian_cases import hessian_of, start_of, weight


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
