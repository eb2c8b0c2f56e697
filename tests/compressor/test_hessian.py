# SPDX-License-Identifier: Apache-2.0
"""Hessians against sums written out, and their factor against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingot.errors import InvalidArgumentError
from ingot_compressor.numerics.hessian import (
    Factor,
    HessianSum,
    NotPositiveDefiniteError,
    cut_rows,
    damped,
    damped_factor,
    hessian_bytes,
    hessians_fit,
    output_weights,
)


def inputs(tokens: int, k: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, k, generator=generator) @ torch.randn(k, k, generator=generator)


def product(factor: Factor) -> torch.Tensor:
    """Return the matrix that a factor stands for, columns as they were, in float64."""
    upper = factor.feedback.double()
    matrix = upper @ torch.diag(factor.curvature.double()) @ upper.T
    back = torch.argsort(factor.order)
    return matrix[back][:, back]


def test_batches_add_up_to_the_formula() -> None:
    x = inputs(60, 7).reshape(3, 20, 7)
    total = HessianSum(7)
    for batch in x:
        total.add(batch)
    rows = x.reshape(-1, 7).double().numpy()
    want = 2.0 / 60 * sum(np.outer(row, row) for row in rows)
    assert total.tokens == 60
    np.testing.assert_allclose(total.mean().numpy(), want, rtol=1e-5, atol=1e-5 * abs(want).max())


def test_masked_tokens_do_not_count() -> None:
    x = inputs(10, 4)
    mask = torch.tensor([True] * 6 + [False] * 4)
    padded, plain = HessianSum(4), HessianSum(4)
    padded.add(x.reshape(2, 5, 4), mask=mask.reshape(2, 5))
    plain.add(x[:6])
    assert padded.tokens == 6
    assert torch.equal(padded.mean(), plain.mean())


def test_weights_multiply_the_tokens() -> None:
    x = inputs(9, 5)
    weights = torch.arange(9, dtype=torch.float32)
    total = HessianSum(5)
    total.add(x, weights)
    want = 2.0 / 9 * (x.T.double() @ torch.diag(weights.double()) @ x.double())
    torch.testing.assert_close(total.mean().double(), want, rtol=1e-5, atol=1e-4)


def test_mask_and_weights_go_together() -> None:
    x, mask = inputs(8, 3), torch.arange(8) % 2 == 0
    weights = torch.rand(8, 2, generator=torch.Generator().manual_seed(1))
    both, plain = HessianSum(3, groups=2), HessianSum(3, groups=2)
    both.add(x, weights, mask)
    plain.add(x[mask], weights[mask])
    assert torch.equal(both.mean(), plain.mean())


def test_guided_hessians_weigh_by_the_gradient_of_each_group() -> None:
    """Against the formula element by element; 7 outputs in 3 groups: 2, 2 and 3."""
    x, g = inputs(12, 4, 1).numpy(), inputs(12, 7, 2).numpy()
    total = HessianSum(4, groups=3)
    total.add(torch.from_numpy(x), output_weights(torch.from_numpy(g), 3))
    assert [(s.start, s.stop) for s in cut_rows(7, 3)] == [(0, 2), (2, 4), (4, 7)]
    for group, rows in enumerate([(0, 2), (2, 4), (4, 7)]):
        want = np.zeros((4, 4))
        for t in range(12):
            want += (g[t, rows[0] : rows[1]] ** 2).mean() * np.outer(x[t], x[t])
        found = total.mean()[group].numpy()
        np.testing.assert_allclose(found, 2 * want / 12, rtol=1e-4, atol=1e-4 * abs(want).max())


@pytest.mark.parametrize("act_order", [True, False])
def test_factor_gives_the_damped_hessian(act_order: bool) -> None:
    x = inputs(50, 12)
    hessian = x.T @ x
    factor = damped_factor(hessian, 0.03, act_order)
    damped = hessian.double() + 0.03 * hessian.diagonal().double().mean() * torch.eye(12)
    torch.testing.assert_close(product(factor), damped, rtol=1e-5, atol=1e-5 * float(damped.max()))
    assert factor.damping == 0.03
    assert torch.equal(factor.feedback, torch.triu(factor.feedback))
    assert torch.equal(factor.feedback.diagonal(), torch.ones(12))
    falling = hessian.diagonal()[factor.order].diff() <= 0
    assert bool(falling.all()) == act_order
    if not act_order:
        assert torch.equal(factor.order, torch.arange(12))


def test_factor_holds_the_inverse_cholesky_of_gptq() -> None:
    """U with U^T U = H^-1: row j of U is U_jj times row j of the inverse of the feedback."""
    x = inputs(80, 9)
    hessian = x.T @ x
    factor = damped_factor(hessian, 0.01, act_order=False)
    damped = hessian.double() + 0.01 * hessian.diagonal().double().mean() * torch.eye(9)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    ours = torch.linalg.inv(factor.feedback.double()) / factor.curvature.double().sqrt()[:, None]
    torch.testing.assert_close(ours, upper, rtol=1e-4, atol=1e-4 * float(upper.abs().max()))


def test_dead_column_depends_on_no_other() -> None:
    x = inputs(30, 6)
    x[:, 2] = 0
    hessian = x.T @ x
    factor = damped_factor(hessian, 0.01)
    matrix = product(factor)
    live = hessian.diagonal()[hessian.diagonal() > 0].double().mean()
    assert matrix[2, 2] == pytest.approx(1.01 * float(live), rel=1e-5)
    assert float(matrix[2, [0, 1, 3, 4, 5]].abs().max()) == 0.0


def test_identical_samples_raise_the_damping() -> None:
    """Rank one: the rounding of float64 leaves no root until the damping is above it."""
    x = inputs(1, 40).repeat(64, 1)
    total = HessianSum(40)
    total.add(x)
    factor = damped_factor(total.mean(), 1e-12)
    assert factor.damping > 1e-12
    assert round(np.log10(factor.damping / 1e-12), 6).is_integer()
    assert bool(torch.isfinite(factor.feedback).all())


def test_indefinite_matrix_raises_the_damping_to_what_it_needs() -> None:
    """Eigenvalues 3 and -1 with a mean diagonal of 1: 0.02 and 0.2 are too little, 2 is enough."""
    hessian = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    factor = damped_factor(hessian, 0.02)
    assert factor.damping == pytest.approx(2.0)
    torch.testing.assert_close(product(factor), hessian.double() + 2 * torch.eye(2))


def test_no_damping_helps() -> None:
    with pytest.raises(NotPositiveDefiniteError, match="not positive definite with 10 times"):
        damped_factor(torch.tensor([[1.0, 20.0], [20.0, 1.0]]))
    with pytest.raises(NotPositiveDefiniteError, match="zero"):
        damped_factor(torch.zeros(3, 3))
    with pytest.raises(NotPositiveDefiniteError, match="not finite"):
        damped_factor(torch.full((3, 3), float("nan")))
    with pytest.raises(NotPositiveDefiniteError, match="not finite"):
        damped_factor(torch.diag(torch.tensor([1.0, float("inf")])))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_factor_does_not_depend_on_the_units(scale: float) -> None:
    """Squared gradients are tiny: nothing is compared with a fixed number."""
    x = inputs(30, 6)
    x[:, 4] = 0
    one, other = damped_factor(x.T @ x), damped_factor(x.T @ x * scale)
    torch.testing.assert_close(one.feedback, other.feedback, rtol=1e-4, atol=1e-5)


def test_damping_adds_to_each_groups_own_diagonal() -> None:
    """Means of the live columns: 2 of (1, 3, 0), 10 of (10, 10, 10)."""
    both = torch.stack([torch.diag(torch.tensor([1.0, 3.0, 0.0])), 10 * torch.eye(3)])
    both[0, 0, 1] = both[0, 1, 0] = 0.5
    found = damped(both, 0.1)
    want = both + torch.tensor([0.2, 1.0])[:, None, None] * torch.eye(3)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(damped(both[1], 0.1), want[1])
    assert float(both[1, 0, 0]) == 10.0
    assert not damped(torch.zeros(3, 3), 0.1).any()
    with pytest.raises(InvalidArgumentError, match="share"):
        damped(both, -0.1)


def test_memory_bound() -> None:
    assert hessian_bytes(100, 3) == 10_000 * (3 * 4 + 20)
    assert hessians_fit(100, 3, 320_000)
    assert not hessians_fit(100, 3, 319_999)


def test_wrong_arguments_are_named() -> None:
    total = HessianSum(4, groups=2)
    with pytest.raises(InvalidArgumentError, match="5 columns, expected 4"):
        total.add(inputs(3, 5))
    with pytest.raises(InvalidArgumentError, match="finite and not negative"):
        total.add(inputs(3, 4), torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(InvalidArgumentError, match="weights have shape"):
        total.add(inputs(3, 4), torch.ones(2))
    with pytest.raises(InvalidArgumentError, match="mask"):
        total.add(inputs(3, 4), mask=torch.ones(3))
    with pytest.raises(InvalidArgumentError, match="3 groups of 2 rows"):
        cut_rows(2, 3)
    with pytest.raises(InvalidArgumentError, match="not square"):
        damped_factor(torch.zeros(2, 3))
    with pytest.raises(InvalidArgumentError, match="damping"):
        damped_factor(torch.eye(2), 0.0)
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        HessianSum(0)
