# SPDX-License-Identifier: Apache-2.0
"""Second moments of what flows into a linear operation, and their factor for column sweeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from ingot.errors import IngotError, InvalidArgumentError

__all__ = [
    "MOST_HESSIAN_BYTES",
    "Factor",
    "HessianSum",
    "NotPositiveDefiniteError",
    "cut_rows",
    "damped",
    "damped_factor",
    "hessian_bytes",
    "hessians_fit",
    "output_weights",
]

LEAST_DAMPING, MOST_DAMPING = 1e-12, 10.0
# Per element: a Hessian in float32; while it is factored two matrices in float64 and one of them
# again in float32.
HELD_BYTES, WORK_BYTES = 4, 20
# What the Hessians of one operation may take on a host of 8 GB: 13,000 columns, 10,900 with four.
MOST_HESSIAN_BYTES = 4 << 30


class NotPositiveDefiniteError(IngotError, ArithmeticError):
    """A Hessian that no allowed damping makes positive definite: round to nearest instead."""


class HessianSum:
    """Adds up H = 2/n * sum of v x x^T over tokens, batch by batch; v is 1 or a weight per token.

    With `groups` above 1 there is one such matrix per group of output rows, for weights that
    differ between them.

    Shapes: result (k, k) float32, or (groups, k, k).
    Source: Frantar et al. 2022 (arXiv:2210.17323), section 3; with groups and weights from
    `output_weights`: Kim et al. 2025 (GuidedQuant, arXiv:2505.07004), the averaged Fisher blocks.
    Cost: 2 * k * k floating-point operations a token and group.
    """

    def __init__(self, k: int, groups: int = 1) -> None:
        if k < 1 or groups < 1:
            raise InvalidArgumentError(f"k {k} and groups {groups}: expected at least 1 of each")
        self.tokens = 0
        self._sum = torch.zeros((groups, k, k))

    def add(
        self,
        x: torch.Tensor,
        weights: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> None:
        """Add a batch of inputs; tokens that `mask` leaves out are not counted in n.

        Shapes: x (..., k); mask (...) bool; weights (...) or (..., groups), finite, not negative.
        Raises: InvalidArgumentError if a shape or a weight is wrong.
        """
        groups, k, _ = self._sum.shape
        if x.shape[-1] != k:
            raise InvalidArgumentError(f"inputs have {x.shape[-1]} columns, expected {k}")
        rows = x.detach().reshape(-1, k).float()
        roots = _roots(weights, len(rows), groups)
        if mask is not None:
            kept = mask.reshape(-1)
            if kept.dtype is not torch.bool or len(kept) != len(rows):
                raise InvalidArgumentError(
                    f"mask is {kept.dtype} for {len(kept)} tokens, expected bool for {len(rows)}"
                )
            rows, roots = rows[kept], None if roots is None else roots[kept]
        for group in range(groups):
            scaled = rows if roots is None else rows * roots[:, group, None]
            self._sum[group].addmm_(scaled.T, scaled)
        self.tokens += len(rows)

    def mean(self) -> torch.Tensor:
        """Return 2/n times the sum; zeros before the first token."""
        result = self._sum * (2.0 / max(self.tokens, 1))
        return result[0] if len(result) == 1 else result


def _roots(weights: torch.Tensor | None, tokens: int, groups: int) -> torch.Tensor | None:
    """Return the square roots of the weights, (tokens, groups)."""
    if weights is None:
        return None
    flat = weights.detach().float()
    if flat.numel() == tokens:
        flat = flat.reshape(tokens, 1).expand(tokens, groups)
    elif flat.numel() == tokens * groups and flat.shape[-1] == groups:
        flat = flat.reshape(tokens, groups)
    else:
        raise InvalidArgumentError(
            f"weights have shape {tuple(weights.shape)}, expected {tokens} tokens of"
            f" one or {groups} values"
        )
    if not bool(torch.isfinite(flat).all()) or bool((flat < 0).any()):
        raise InvalidArgumentError("weights of tokens must be finite and not negative")
    return flat.sqrt()


def output_weights(gradient: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the mean squared gradient of each group of outputs: a weight per token and group.

    Shapes: gradient (..., n), of the model's loss to a linear operation's output; result
    (..., groups) float32.
    Source: GuidedQuant (arXiv:2505.07004), section 3.2.
    """
    squares = gradient.detach().float().square()
    cuts = cut_rows(gradient.shape[-1], groups)
    return torch.stack([squares[..., rows].mean(dim=-1) for rows in cuts], dim=-1)


def cut_rows(n: int, groups: int) -> list[slice]:
    """Return n rows cut into runs of equal length, as nearly as whole numbers allow.

    Raises: InvalidArgumentError for fewer rows than groups.
    """
    if not 1 <= groups <= n:
        raise InvalidArgumentError(f"{groups} groups of {n} rows, expected 1 to {n}")
    ends = [n * part // groups for part in range(groups + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def hessian_bytes(k: int, count: int = 1, work_bytes: int = WORK_BYTES) -> int:
    """Return the bytes that `count` Hessians of k columns take while one of them is factored.

    `work_bytes`: what other work than factoring takes for each element.
    """
    return k * k * (count * HELD_BYTES + work_bytes)


def hessians_fit(k: int, count: int, most_bytes: int, work_bytes: int = WORK_BYTES) -> bool:
    """Return whether that many Hessians and the work on one stay within a bound."""
    return hessian_bytes(k, count, work_bytes) <= most_bytes


def damped(hessian: torch.Tensor, share: float) -> torch.Tensor:
    """Return a Hessian with `share` of its mean diagonal added: what few tokens say, held loosely.

    Descent and refitted scales follow a Hessian to its last detail, also where it is chance: under
    a damped one (0.1) what they find holds better on another text. Columns that were never active
    do not count in the mean.

    Shapes: hessian (k, k) or (groups, k, k); result the same, a copy.
    Raises: InvalidArgumentError for a negative share.
    Source: our own measurement; the ridge of linear regression.
    """
    if not 0 <= share < math.inf:
        raise InvalidArgumentError(f"share is {share:g}, expected a finite number from 0")
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    live = (diagonal > 0).sum(dim=-1, keepdim=True).clamp(min=1)
    result = hessian.clone()
    mean = diagonal.sum(dim=-1, keepdim=True, dtype=torch.float64) / live
    result.diagonal(dim1=-2, dim2=-1).add_((share * mean).to(result.dtype))
    return result


@dataclass(frozen=True, slots=True)
class Factor:
    """A damped Hessian as feedback * diag(curvature) * feedback^T, columns in visiting order.

    With the errors e of all columns before, column j is best rounded at w_j + e @ feedback[:j, j],
    and rounding there by d costs curvature[j] * d^2: 1 / curvature is what GPTQ and SparseGPT read
    from the diagonal of the squared Cholesky factor of the inverse.

    Shapes: order (k,) int64, the columns in turn; feedback (k, k) float32, upper triangular with
    ones on its diagonal; curvature (k,) float32. `damping` is the share of the mean diagonal that
    was added.
    """

    order: torch.Tensor
    feedback: torch.Tensor
    curvature: torch.Tensor
    damping: float


def damped_factor(hessian: torch.Tensor, damping: float = 0.01, act_order: bool = True) -> Factor:
    """Factor a Hessian after adding damping * mean(diagonal), ten times more until it succeeds.

    A column that was never active counts as an average one that depends on no other. With
    `act_order` columns are visited by falling diagonal, else as they stand.

    Shapes: hessian (k, k) float32, symmetric.
    Raises: NotPositiveDefiniteError if it is zero, not finite, or too indefinite for 10 times the
        mean; InvalidArgumentError for another shape or damping.
    Source: Frantar et al. 2022 (arXiv:2210.17323), Algorithm 1. The inverse is not formed: its
    upper Cholesky factor is that of the reversed Hessian inverted, and the sweep needs the latter
    alone (Chee et al. 2023, arXiv:2307.13304, theorem 6).
    Cost: k^3 / 3 multiplications in float64 a try.
    """
    k = hessian.shape[-1]
    if hessian.shape != (k, k):
        raise InvalidArgumentError(f"a Hessian of shape {tuple(hessian.shape)} is not square")
    if not LEAST_DAMPING <= damping <= MOST_DAMPING:
        raise InvalidArgumentError(
            f"damping is {damping:g}, expected {LEAST_DAMPING:g} to {MOST_DAMPING:g}"
        )
    diagonal = hessian.diagonal().double()
    live = diagonal > 0
    if not bool(live.any()) or not math.isfinite(float(hessian.sum(dtype=torch.float64))):
        raise NotPositiveDefiniteError("the Hessian is zero or not finite")
    mean = float(diagonal[live].mean())
    order = torch.arange(k)
    if act_order:
        order = torch.argsort(diagonal, descending=True, stable=True)
    back = order.flip(0)
    matrix = hessian[back[:, None], back].double()
    matrix.diagonal().copy_(torch.where(live, diagonal, mean)[back])
    lower, used = _cholesky(matrix, damping, mean)
    return _from_reversed(lower, order, used)


def _cholesky(matrix: torch.Tensor, damping: float, mean: float) -> tuple[torch.Tensor, float]:
    """Return the lower factor and the damping that it took; the diagonal of `matrix` is changed."""
    added = 0.0
    while damping <= MOST_DAMPING * (1 + 1e-9):
        matrix.diagonal().add_((damping - added) * mean)
        added = damping
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed) == 0:
            return lower, damping
        damping *= 10
    raise NotPositiveDefiniteError(
        f"not positive definite with {added:g} times the mean diagonal added"
    )


def _from_reversed(lower: torch.Tensor, order: torch.Tensor, damping: float) -> Factor:
    """Turn the lower factor of the reversed matrix into the unit upper one of the matrix."""
    diagonal = lower.diagonal().clone()
    lower.div_(diagonal)
    return Factor(
        order=order,
        feedback=lower.float().flip(0, 1),
        curvature=diagonal.square().flip(0).float(),
        damping=damping,
    )
