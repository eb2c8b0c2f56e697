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
    w: torch.Tensor,
    levels: Levels,
    positions: torch.Tensor,
    hessian: torch.Tensor,
    by_row: bool,
    sub_range: tuple[int, int] | None,
) -> tuple[Levels, torch.Tensor]:
    """Fit group after group and then the row scales, each in closed form with all others held.

    Every fitted number is rounded to what is stored and taken only where that lowers
    (w - q) H (w - q)^T of its row. Groups whose step is zero stay as they are.

    `by_row`: one scale per row, float32 for formats without sub-scales, else float16; else one
    float16 per group. `sub_range`: the least and largest whole sub-scale, None for none.
    Shapes: w (k, n) float32; positions (k, n); hessian (k, k).
    Returns: the levels with the new scales, and the values (k, n).
    Cost: n * k * k multiplications, twice that with sub-scales.
    """
    k = len(w)
    scale, multiplier = levels.scale.clone(), levels.multiplier.clone()
    values = _all_values(levels, positions)
    errors = w - values
    if sub_range is not None or not by_row:
        for group in range(len(scale)):
            part = levels.columns(group, k)
            pull = hessian[part] @ errors
            whole = levels.integers(group, positions[part])
            if sub_range is not None:
                unit, old, store = whole * scale[group], multiplier[group], _whole(*sub_range)
            else:
                unit, old, store = whole * multiplier[group], scale[group], _half
            power = (unit * (hessian[part, part] @ unit)).sum(dim=0)
            power = torch.where(multiplier[group] * scale[group] == 0, 0.0, power)
            old.copy_(_fitted(old, (unit * pull).sum(dim=0), power, store))
            errors[part] = w[part] - (multiplier[group] * whole) * scale[group]
    if by_row:
        units = _all_values(levels.scaled(torch.ones_like(scale), multiplier), positions)
        pull, push = hessian @ errors, hessian @ units
        store = _half if sub_range is not None else torch.Tensor.float
        old = scale[0]
        new = _fitted(old, (units * pull).sum(dim=0), (units * push).sum(dim=0), store)
        scale = torch.where(old == 0, old, new).expand_as(scale).contiguous()
    fitted = levels.scaled(scale, multiplier)
    return fitted, _all_values(fitted, positions)


def _fitted(
    old: torch.Tensor, dot: torch.Tensor, power: torch.Tensor, store: Store
) -> torch.Tensor:
    """Return old + dot / power as stored, where that lowers the error -2 d dot + d^2 power."""
    step = torch.where(power > 0, dot / torch.where(power > 0, power, 1.0), 0.0)
    new = store(old + step)
    d = new - old
    better = d * (d * power - 2 * dot) < 0
    return torch.where(better & (power > 0), new, old)


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-LARGEST_HALF, LARGEST_HALF).half().float()


def _whole(low: int, high: int) -> Store:
    return lambda x: x.round().clamp(low, high)


def _all_values(levels: Levels, positions: torch.Tensor) -> torch.Tensor:
    rows = [levels.values(column, p.long()) for column, p in enumerate(positions)]
    return torch.stack(rows)
