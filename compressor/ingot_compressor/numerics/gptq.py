# SPDX-License-Identifier: Apache-2.0
"""Codes found under the whole Hessian of the inputs, on the grid that round-to-nearest chose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.numerics.hessian import (
    NotPositiveDefiniteError,
    cut_rows,
    damped_factor,
)
from ingot_compressor.numerics.levels import Levels, levels_of
from ingot_compressor.numerics.refit import refit_scales
from ingot_compressor.numerics.sweep import BLOCK, descend_columns, row_errors, sweep_columns

__all__ = ["GptqOptions", "GptqResult", "gptq"]


@dataclass(frozen=True, slots=True)
class GptqOptions:
    """How the codes are found.

    `damping`: what is first added to the Hessian, in mean diagonals. `act_order`: columns are
    visited by falling diagonal; groups stay where they are. `sweeps`: rounds of coordinate descent
    after the column sweep. `refit`: scales are fitted again before each of them (once without).
    """

    damping: float = 0.01
    act_order: bool = True
    block: int = BLOCK
    sweeps: int = 0
    refit: bool = False


@dataclass(frozen=True, slots=True)
class GptqResult:
    """The new codes, and what became of trace((W - Q) H (W - Q)^T).

    `fallback`: nothing was better, or the Hessian has no factor: `quantized` is the start.
    `kept_rows` counts the rows that kept the start's codes and scales. `damping`: the most that a
    factor took, 0 without one.
    """

    quantized: Quantized
    damping: float
    fallback: bool
    error_before: float
    error_after: float
    kept_rows: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """What was found for rows that share a Hessian; `better` (n,) where it beats the start."""

    levels: Levels
    positions: torch.Tensor
    better: torch.Tensor
    before: float
    after: float
    damping: float


class _Rounder:
    """Rounds columns to the nearest level and keeps the positions, (k, n) uint8."""

    def __init__(self, levels: Levels, k: int) -> None:
        self.levels = levels
        self.positions = torch.zeros((k, levels.scale.shape[1]), dtype=torch.uint8)

    def __call__(self, column: int, x: torch.Tensor) -> torch.Tensor:
        positions = self.levels.nearest(column, x)
        self.positions[column] = positions
        return self.levels.values(column, positions)


def gptq(
    w: NDArray[np.float32],
    hessian: torch.Tensor | NDArray[np.floating],
    start: Quantized,
    options: GptqOptions | None = None,
) -> GptqResult:
    """Find codes that lower trace((W - Q) H (W - Q)^T), scales and codebook as `start` has them.

    H is taken as it is given: `hessian.damped` first where there are few tokens for its columns.
    Each row keeps what `start` has where that is not worse; superblocks that are not stored stay
    zero and the others make up for them. f16 passes through.

    Shapes: w (n, k) float32; hessian (k, k), or (groups, k, k) for equal runs of rows (guided by
    gradients).
    Raises: InvalidArgumentError for shapes that do not fit each other.
    Source: Frantar et al. 2022 (arXiv:2210.17323), with static order by activations; sweeps: LNQ
    of Kim et al. 2025 (arXiv:2505.07004).
    Cost: O(k^3) once a group of rows and n * k * k multiplications a sweep.
    """
    settings = options or GptqOptions()
    weight = np.ascontiguousarray(w, np.float32)
    matrices = _matrices(hessian, weight, start)
    before = dequantize(start)
    if start.dtype is Dtype.F16:
        errors = torch.from_numpy(weight - before)
        cuts = cut_rows(len(weight), len(matrices))
        pairs = zip(cuts, matrices, strict=True)
        total = sum(float(row_errors(errors[rows].T, h).sum()) for rows, h in pairs)
        return GptqResult(start, 0.0, False, total, total, len(weight))
    levels = levels_of(start)
    found = [
        _solve_rows(weight[rows], before[rows], h, levels.rows(rows), settings)
        for rows, h in zip(cut_rows(len(weight), len(matrices)), matrices, strict=True)
    ]
    return _joined(start, levels, found)


def _matrices(
    hessian: torch.Tensor | NDArray[np.floating], w: NDArray[np.float32], start: Quantized
) -> torch.Tensor:
    """Return the Hessians as (groups, k, k) float32."""
    matrices = torch.as_tensor(hessian, dtype=torch.float32)
    if matrices.dim() == 2:
        matrices = matrices[None]
    k = start.shape[1]
    if w.shape != start.shape or matrices.shape[1:] != (k, k):
        raise InvalidArgumentError(
            f"weight {w.shape}, codes {start.shape} and Hessian {tuple(hessian.shape)}:"
            " shapes do not fit"
        )
    return matrices


def _solve_rows(
    w: NDArray[np.float32],
    before: NDArray[np.float32],
    hessian: torch.Tensor,
    levels: Levels,
    options: GptqOptions,
) -> _Rows:
    aims = torch.from_numpy(w.T.copy())
    least = row_errors(aims - torch.from_numpy(before.T.copy()), hessian)
    rounder = _Rounder(levels, len(aims))
    try:
        factor = damped_factor(hessian, options.damping, options.act_order)
    except NotPositiveDefiniteError:
        total, none = float(least.sum()), torch.zeros(len(least), dtype=torch.bool)
        return _Rows(levels, rounder.positions, none, total, total, 0.0)
    values = sweep_columns(aims, factor, rounder, block=options.block)
    damping = factor.damping
    del factor
    values = _improve(aims, values, hessian, rounder, options)
    reached = row_errors(aims - values, hessian)
    better = reached < least
    after = float(torch.where(better, reached, least).sum())
    return _Rows(rounder.levels, rounder.positions, better, float(least.sum()), after, damping)


def _improve(
    w: torch.Tensor,
    values: torch.Tensor,
    hessian: torch.Tensor,
    rounder: _Rounder,
    options: GptqOptions,
) -> torch.Tensor:
    """Alternate refitted scales and coordinate descent; returns the values, (k, n)."""
    for step in range(max(options.sweeps, int(options.refit))):
        if options.refit:
            rounder.levels, values = refit_scales(w, rounder.levels, rounder.positions, hessian)
        if step < options.sweeps:
            changes = descend_columns(w, values, hessian, rounder, options.block)
            if not changes and not options.refit:
                break
    return values


def _joined(start: Quantized, levels: Levels, found: list[_Rows]) -> GptqResult:
    """Put the rows together: codes and scales of those that are better, the start's elsewhere."""
    better = torch.cat([part.better for part in found]).numpy()
    damping = max(part.damping for part in found)
    before, after = sum(part.before for part in found), sum(part.after for part in found)
    if not better.any():
        return GptqResult(start, damping, True, before, before, len(better))
    codes = np.concatenate([part.levels.codes[part.positions.numpy().T] for part in found])
    active = np.concatenate([part.levels.active(start.shape[1]) for part in found])
    fields: dict[str, Any] = {"codes": np.where(better[:, None] & active, codes, start.codes)}
    scale = torch.cat([part.levels.scale for part in found], dim=1).numpy().T
    if start.row_scales.size:
        fields["row_scales"] = np.where(better, scale[:, 0], start.row_scales)
    else:
        fields["scales"] = np.where(better[:, None], scale, start.scales)
    if start.sub_scales.size:
        multiplier = torch.cat([part.levels.multiplier for part in found], dim=1).numpy().T
        # a group that is not stored has multiplier 0 here, whatever its sub-scale
        fitted = better[:, None] & (levels.multiplier != 0).numpy().T
        fields["sub_scales"] = np.where(fitted, multiplier, start.sub_scales)
    typed = {name: value.astype(getattr(start, name).dtype) for name, value in fields.items()}
    kept = int(len(better) - better.sum())
    return GptqResult(replace(start, **typed), damping, False, before, after, kept)
