# SPDX-License-Identifier: Apache-2.0
"""What the codes of a matrix can stand for, column by column, with its scales held."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import TILE_ROWS, Dtype
from ingot.packing import Quantized, geometry
from ingot_compressor.numerics.sub_scaled import SIGNED_7, SIGNED_8

__all__ = ["Levels", "levels_of"]

# Least and largest whole number of a uniform grid, and the code of zero.
_UNIFORM = {
    Dtype.Q8: (-127, 127, 0),
    Dtype.Q6: (-32, 31, 32),
    Dtype.Q4: (-8, 7, 8),
    Dtype.Q4Z: (0, 15, 0),
    Dtype.T2: (-1, 1, 1),
}


@dataclass(frozen=True, slots=True)
class Levels:
    """The grid of every element: (multiplier * (grid + offset)) * scale.

    A position counts along `grid`, which rises; `codes` has the code of each. Where the step,
    multiplier times scale, is zero every position stands for zero.

    Shapes: grid (levels,) float32, whole numbers; codes (levels,); scale, multiplier, offset
    (groups, n) float32, each group `group` columns of all rows. `by_row`: all groups of a row have
    one scale. `sub_range`: least and largest multiplier, None where there are none.
    """

    grid: torch.Tensor
    codes: NDArray[Any]
    group: int
    scale: torch.Tensor
    multiplier: torch.Tensor
    offset: torch.Tensor
    middles: torch.Tensor  # between neighbours of a codebook; empty: a uniform grid
    safe_step: torch.Tensor  # one where the step is zero
    by_row: bool
    sub_range: tuple[int, int] | None

    def nearest(self, column: int, x: torch.Tensor) -> torch.Tensor:
        """Return the position nearest to each value of a column. Shapes: x, result (n,)."""
        at = column // self.group
        t = x / self.safe_step[at] - self.offset[at]
        if self.middles.numel():
            return torch.bucketize(t, self.middles)
        return (t - self.grid[0]).round_().clamp_(0, len(self.grid) - 1).long()

    def values(self, column: int, positions: torch.Tensor) -> torch.Tensor:
        """Return what positions of a column stand for, to the bit. Shapes: (n,) int64, result."""
        at = column // self.group
        whole = self.multiplier[at] * (self.grid[positions] + self.offset[at])
        return whole * self.scale[at]

    def integers(self, group: int, positions: torch.Tensor) -> torch.Tensor:
        """Return grid + offset of a group's columns. Shapes: positions (columns, n), result."""
        return self.grid[positions.long()] + self.offset[group]

    def columns(self, group: int, k: int) -> slice:
        """Return the columns of a group in a row of k."""
        return slice(group * self.group, min((group + 1) * self.group, k))

    def active(self, k: int) -> NDArray[np.bool_]:
        """Return where codes matter, (n, k): nowhere that the step is zero."""
        steps = (self.multiplier * self.scale != 0).numpy()
        result: NDArray[np.bool_] = np.repeat(steps, self.group, axis=0)[:k].T
        return result

    def rows(self, rows: slice) -> Levels:
        """Return the levels of some rows."""
        return replace(
            self,
            scale=self.scale[:, rows],
            multiplier=self.multiplier[:, rows],
            offset=self.offset[:, rows],
            safe_step=self.safe_step[:, rows],
        )

    def scaled(self, scale: torch.Tensor, multiplier: torch.Tensor) -> Levels:
        """Return the levels with other scales and multipliers, shapes as before."""
        return replace(
            self, scale=scale, multiplier=multiplier, safe_step=_safe(scale * multiplier)
        )


def _safe(step: torch.Tensor) -> torch.Tensor:
    return torch.where(step == 0, 1.0, step)


def levels_of(quantized: Quantized) -> Levels:
    """Return the levels that the scales, shifts, zeros and codebook of a matrix leave to its codes.

    Superblocks that are not stored have multiplier 0.
    Raises: InvalidArgumentError for f16, whose codes are values.
    """
    q, (n, k) = quantized, quantized.shape
    if q.dtype not in _UNIFORM and not q.codebook.size:
        raise InvalidArgumentError(f"{q.dtype.name.lower()} has no levels")
    group = geometry(q.dtype, q.group).group
    shape = (-(-k // group), n)
    grid, codes, middles = _grid(q)
    scale = _by_group(q.row_scales[:, None] if q.row_scales.size else q.scales, shape)
    multiplier = _by_group(q.sub_scales, shape) if q.sub_scales.size else torch.ones(shape)
    multiplier *= _stored(q, shape)
    offset = torch.zeros(shape)
    if q.shifts.size:
        offset = _by_group(q.shifts, shape) * q.delta
    if q.zeros.size:
        offset = -_by_group(q.zeros, shape)
    return Levels(
        grid=grid,
        codes=codes,
        group=group,
        scale=scale,
        multiplier=multiplier,
        offset=offset,
        middles=middles,
        safe_step=_safe(scale * multiplier),
        by_row=q.row_scales.size > 0,
        sub_range=_sub_range(q),
    )


def _sub_range(q: Quantized) -> tuple[int, int] | None:
    if not q.sub_scales.size:
        return None
    subs = SIGNED_7 if q.codebook.size else SIGNED_8
    return subs.low, subs.high


def _grid(q: Quantized) -> tuple[torch.Tensor, NDArray[Any], torch.Tensor]:
    """Return whole numbers rising, their codes, and the middles between those of a codebook."""
    if q.codebook.size:
        codes = np.argsort(q.codebook, kind="stable").astype(q.codes.dtype)
        grid = torch.from_numpy(q.codebook[codes].astype(np.float32))
        return grid, codes, (grid[1:] + grid[:-1]) / 2
    low, high, zero = _UNIFORM[q.dtype]
    grid = torch.arange(low, high + 1, dtype=torch.float32)
    return grid, (np.arange(low, high + 1) + zero).astype(q.codes.dtype), torch.empty(0)


def _by_group(values: NDArray[Any], shape: tuple[int, int]) -> torch.Tensor:
    """Return values (n, groups) or (n, 1) as float32 (groups, n)."""
    spread = np.broadcast_to(values.T.astype(np.float32), shape)
    return torch.from_numpy(spread.copy())


def _stored(q: Quantized, shape: tuple[int, int]) -> torch.Tensor:
    """Return 1 for groups in a stored superblock, else 0, (groups, n) float32."""
    if not q.present.size:
        return torch.ones(shape)
    per_block = geometry(q.dtype, q.group).groups_per_superblock
    groups = np.repeat(q.present.T, per_block, axis=0)[: shape[0]]
    rows = np.repeat(groups, TILE_ROWS, axis=1)[:, : shape[1]]
    return torch.from_numpy(rows.astype(np.float32))
