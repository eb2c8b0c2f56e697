# SPDX-License-Identifier: Apache-2.0
"""Scales fitted again under a Hessian, with the codes held."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ingot_compressor.numerics.levels import Levels

__all__ = ["refit_scales"]

LARGEST_HALF = 65504.0

Store = Callable[[torch.Tensor], torch.Tensor]


def refit_scales(
    w: torch.Tensor, levels: Levels, positions: torch.Tensor, hessian: torch.Tensor
) -> tuple[Levels, torch.Tensor]:
    """Fit group after group and then the row scales, each in closed form with all others held.

    Every fitted number is the stored one nearest to the best. The old one is stored too and the
    error a parabola, so that (w - q) H (w - q)^T of its row never rises but by rounding in
    float32. Groups whose step is zero stay as they are.

    Shapes: w (k, n) float32; positions (k, n); hessian (k, k).
    Returns: the levels with the new scales, and the values (k, n).
    Source: weighted least squares on fixed codes (the scale step of LNQ, arXiv:2505.07004),
    cyclic over the groups instead of all at once, because what is stored is rounded.
    Cost: n * k * k multiplications, twice that with sub-scales.
    """
    fitted = levels
    if levels.sub_range is not None or not levels.by_row:
        fitted = _refit_groups(w, fitted, positions, hessian)
    if levels.by_row:
        fitted = _refit_rows(w, fitted, positions, hessian)
    return fitted, _all_values(fitted, positions)


def _refit_groups(
    w: torch.Tensor, levels: Levels, positions: torch.Tensor, hessian: torch.Tensor
) -> Levels:
    """Fit the number that each group has: its sub-scale, else its scale."""
    scale, multiplier = levels.scale.clone(), levels.multiplier.clone()
    store: Store = _half
    number, other = scale, multiplier
    if levels.sub_range is not None:
        store = _whole(*levels.sub_range)
        number, other = multiplier, scale
    errors = w - _all_values(levels, positions)
    for group in range(len(scale)):
        part = levels.columns(group, len(w))
        whole = levels.integers(group, positions[part])
        unit = whole * other[group]
        dot = (unit * (hessian[part] @ errors)).sum(dim=0)
        power = (unit * (hessian[part, part] @ unit)).sum(dim=0)
        power = torch.where(number[group] * other[group] == 0, 0.0, power)
        number[group] = _fitted(number[group], dot, power, store)
        errors[part] = w[part] - (multiplier[group] * whole) * scale[group]
    return levels.scaled(scale, multiplier)


def _refit_rows(
    w: torch.Tensor, levels: Levels, positions: torch.Tensor, hessian: torch.Tensor
) -> Levels:
    """Fit the one scale of each row: float16, or float32 without sub-scales."""
    scale, multiplier = levels.scale, levels.multiplier
    units = _all_values(levels.scaled(torch.ones_like(scale), multiplier), positions)
    pushed = hessian @ units
    power = (units * pushed).sum(dim=0)
    dot = (pushed * (w - _all_values(levels, positions))).sum(dim=0)
    store: Store = _half if levels.sub_range is not None else torch.Tensor.float
    old = scale[0]
    new = torch.where(old == 0, old, _fitted(old, dot, power, store))
    return levels.scaled(new.expand_as(scale).contiguous(), multiplier)


def _fitted(
    old: torch.Tensor, dot: torch.Tensor, power: torch.Tensor, store: Store
) -> torch.Tensor:
    """Return old + dot / power, where the error is least, as stored; old where it has no say."""
    step = torch.where(power > 0, dot / torch.where(power > 0, power, 1.0), 0.0)
    return store(old + step)


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-LARGEST_HALF, LARGEST_HALF).half().float()


def _whole(low: int, high: int) -> Store:
    return lambda x: x.round().clamp(low, high)


def _all_values(levels: Levels, positions: torch.Tensor) -> torch.Tensor:
    rows = [levels.values(column, p.long()) for column, p in enumerate(positions)]
    return torch.stack(rows)
