# SPDX-License-Identifier: Apache-2.0
"""A quantized weight that can be trained: forward on the exact grid, gradients straight through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, stored_elements

__all__ = ["FakeQuantized", "Part", "round_through"]

# Integer grids: least and largest value before the zero point, and the code of the least.
_UNIFORM: Mapping[int, tuple[int, int, int]] = {
    Dtype.Q8: (-127, 127, -127),
    Dtype.Q6: (-32, 31, 0),
    Dtype.Q4: (-8, 7, 0),
    Dtype.Q4Z: (0, 15, 0),
    Dtype.T2: (-1, 1, 0),
}
# A trained weight stays within so many steps of where it was.
MOST_MOVED = 2.0
# How far inside its cell a weight begins that the start has put there, in mean gaps of the grid.
INSIDE = 0.02
_INFINITY = torch.tensor([float("inf")])
MOST_MULTIPLIER = 2.0
LEAST_MULTIPLIER = 0.25
MOST_ZERO = 255


@dataclass(frozen=True, slots=True)
class Part:
    """What of a weight is trained, and the range that its values keep to.

    `rounding`: how far each weight leans to its upper neighbour, in gaps of the grid.
    `scales`: a factor on each group's scale. `codebook`: the entries. `weights`: the weights
    themselves, moved by steps of the grid and rounded to the nearest. `low_rank`: the same movement
    as a product of two thin matrices of that rank (LoRA, 2106.09685), merged before the rounding:
    less to train and to keep in memory, and nothing is added to what is stored. `frozen`: codes and
    zero points stay as they are while scales and entries move (EfficientQAT's second phase,
    2407.11062); without it `scales` also moves zero points where a format has them, by a factor on
    each end of the group's range (alpha and beta of AutoRound).
    """

    rounding: bool = False
    scales: bool = False
    codebook: bool = False
    weights: bool = False
    low_rank: int = 0
    frozen: bool = False


def round_through(x: torch.Tensor) -> torch.Tensor:
    """Return x rounded to whole numbers, with gradient 1 (Bengio et al., 1308.3432)."""
    return x + (torch.round(x) - x).detach()


class FakeQuantized:
    """A weight in training: every value it takes can be stored as it is.

    Shapes: w (n, k) float32. Weights move by d (n, k), in mean gaps of the grid. Rounding v (n, k)
    in [-0.5, 0.5]: the code is that of the lower neighbour plus round(position between the
    neighbours + v), as in SignRound (2309.05516) but on any grid, codebooks included. Scales m
    (n, groups): the stored scale is round(start * m) on its own grid (whole sub-scales, float16
    group scales, float32 row scales). With zero points m stretches the upper end of the range and
    b (n, groups) the lower one: the scale is what both make of 16 codes, the zero point the whole
    number nearest to the lower end.
    Raises: InvalidArgumentError for f16, which has no grid, and for frozen codes that are to move.
    """

    def __init__(self, w: torch.Tensor, start: Quantized, part: Part) -> None:
        if start.dtype is Dtype.F16:
            raise InvalidArgumentError("f16 has no grid to train on")
        if part.frozen and (part.rounding or part.weights or part.low_rank):
            raise InvalidArgumentError("frozen codes leave scales and codebook to train, no more")
        self._start, self._part = start, part
        self._w = w.detach()
        self._lower, self._row = _scale_parts(start)
        self._offset = _offsets(start)
        self._kept = (
            torch.from_numpy(stored_elements(start)) if start.present.size else torch.ones(())
        )
        self._order = np.argsort(start.codebook, kind="stable")
        self._entries = torch.from_numpy(start.codebook[self._order].astype(np.float32))
        self._v = torch.zeros_like(self._w) if part.rounding else torch.zeros(())
        self._moved = torch.zeros_like(self._w) if part.weights else torch.zeros(())
        self._thin, self._flat = _low_rank(start.shape, part.low_rank)
        self._m, self._b = torch.ones_like(self._lower), torch.ones_like(self._lower)
        for tensor, trained in (
            (self._moved, part.weights),
            (self._thin, part.low_rank > 0),
            (self._flat, part.low_rank > 0),
            (self._v, part.rounding),
            (self._m, part.scales),
            (self._b, part.scales and bool(start.zeros.size) and not part.frozen),
            (self._entries, part.codebook and bool(start.codebook.size)),
        ):
            tensor.requires_grad_(trained)
        self._step = self._grid_step()
        self._w = self._within_start()

    def _within_start(self) -> torch.Tensor:
        """Return the weights moved into the cells of the start's codes, just inside their borders.

        Codes that are not the nearest (GPTQ's) are thus where training begins, and those that were
        a close call are the first to change.
        """
        scale = self._spread(self._scales().detach())
        position = self._position(scale, self._spread(self._offset)).detach()
        values = self._start_values()
        entries = self._entries.detach()
        if len(entries):
            borders = torch.cat([-_INFINITY, (entries[1:] + entries[:-1]) / 2, _INFINITY])
            index = torch.searchsorted(entries, values).clamp(max=len(entries) - 1)
            low, high = borders[index], borders[index + 1]
        else:
            least, most, _ = _UNIFORM[self._start.dtype]
            low = torch.where(values <= least, -_INFINITY, values - 0.5)
            high = torch.where(values >= most, _INFINITY, values + 0.5)
        inside = INSIDE * self._step / torch.where(scale == 0, torch.ones_like(scale), scale.abs())
        position = position.clamp(low + inside, high - inside)
        moved = (position + self._spread(self._offset)) * scale
        return torch.where(scale == 0, self._w, moved)

    def _start_values(self) -> torch.Tensor:
        """Return what the start's codes stand for on the grid, offsets apart."""
        codes = torch.from_numpy(self._start.codes.astype(np.float32))
        if self._start.codebook.size:
            return torch.from_numpy(self._start.codebook.astype(np.float32))[codes.long()]
        least, _, first = _UNIFORM[self._start.dtype]
        return codes - first + least

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return what is trained, by name."""
        named = {
            "weights": self._moved,
            "thin": self._thin,
            "flat": self._flat,
            "rounding": self._v,
            "scales": self._m,
            "zeros": self._b,
            "codebook": self._entries,
        }
        return {name: tensor for name, tensor in named.items() if tensor.requires_grad}

    def keep_in_range(self) -> None:
        """Put every trained value back into its range; call after each step."""
        with torch.no_grad():
            if self._v.requires_grad:
                self._v.clamp_(-0.5, 0.5)
            if self._moved.requires_grad:
                self._moved.clamp_(-MOST_MOVED, MOST_MOVED)
            for ends in (self._m, self._b):
                ends.clamp_(LEAST_MULTIPLIER, MOST_MULTIPLIER)
            if self._entries.requires_grad:
                self._entries.clamp_(-127, 127)
                self._entries.copy_(self._entries.sort().values)

    def weight(self) -> torch.Tensor:
        """Return the weight as it would be stored, (n, k) float32, differentiable."""
        scales, offsets = self._grid()
        scale, offset = self._spread(scales), self._spread(offsets)
        if self._part.frozen:
            return (self._frozen_values() + offset) * scale * self._kept
        position = self._position(scale, offset)
        low, high, _ = self._neighbours(position)
        upper = self._upper(position, low, high)
        value = low + (high - low) * upper + offset
        return value * scale * self._kept

    def store(self) -> Quantized:
        """Return the codes and scales of the values at this moment."""
        with torch.no_grad():
            scales, offsets = self._grid()
            position = self._position(self._spread(scales), self._spread(offsets))
            low, high, code = self._neighbours(position)
            code = code + self._upper(position, low, high)
            fields = self._stored_scales(scales)
        codes = code.to(torch.int32).numpy()
        if self._start.zeros.size:
            fields["zeros"] = torch.round(-offsets.detach()).numpy().astype(np.uint8)
        if self._start.codebook.size:
            codes = self._order[codes]
            entries = np.empty_like(self._start.codebook)
            entries[self._order] = torch.round(self._entries.detach()).numpy().astype(np.int8)
            fields["codebook"] = entries
        if self._part.frozen:
            codes = self._start.codes
        return replace(self._start, codes=codes.astype(self._start.codes.dtype), **fields)

    def _frozen_values(self) -> torch.Tensor:
        """Return what the start's codes stand for, (n, k), differentiable in the entries."""
        if not self._start.codebook.size:
            return self._start_values()
        ranks = torch.from_numpy(np.argsort(self._order))
        entries: torch.Tensor = round_through(self._entries)
        return entries[ranks[torch.from_numpy(self._start.codes.astype(np.int64))]]

    def _grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scale of each group as stored and what it adds to the grid's values."""
        if not self._b.requires_grad:
            return self._scales(), self._offset
        least, most, _ = _UNIFORM[self._start.dtype]
        top = (most + self._offset) * self._lower * self._m
        bottom = (least + self._offset) * self._lower * self._b
        scaled = torch.maximum((top - bottom) / (most - least), LEAST_MULTIPLIER * self._lower)
        scale = scaled + (scaled.half().float() - scaled).detach()
        zero = round_through(-bottom / torch.where(scale == 0, torch.ones_like(scale), scale))
        return scale, -zero.clamp(0, MOST_ZERO)

    def _spread(self, per_group: torch.Tensor) -> torch.Tensor:
        """Return (n, groups) as (n, k); a scale per row stays a column."""
        if per_group.dim() == 0 or per_group.shape[1] == 1:
            return per_group
        return per_group.repeat_interleave(self._start.group, dim=1)[:, : self._start.shape[1]]

    def _scales(self) -> torch.Tensor:
        """Return the scale of each group as stored, (n, groups)."""
        if self._start.sub_scales.size:
            low, high = (-64, 63) if self._start.codebook.size else (-127, 127)
            sub = round_through(self._lower * self._m)
            return sub.clamp(low, high) * self._row
        scaled = self._lower * self._m
        if self._start.scales.size:
            return scaled + (scaled.half().float() - scaled).detach()
        return scaled

    def _grid_step(self) -> torch.Tensor:
        """Return the mean gap of the grid at the starting scales, (n, k) or (n, 1)."""
        gap = 1.0
        if self._start.codebook.size:
            entries = self._entries.detach()
            gap = float(entries[-1] - entries[0]) / (len(entries) - 1)
        return gap * self._spread(self._scales().detach()).abs()

    def _position(self, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Return the weights in units of the grid, their group's offset taken away."""
        whole = torch.where(scale == 0, torch.ones_like(scale), scale)
        w = self._w
        if self._part.weights:
            w = w + self._moved * self._step
        if self._part.low_rank:
            w = w + (self._thin @ self._flat).clamp(-MOST_MOVED, MOST_MOVED) * self._step
        return torch.where(scale == 0, 0.0, w / whole) - offset

    def _neighbours(
        self, position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the grid's values below and above each position, and the lower one's code."""
        at = position.detach()
        if not self._start.codebook.size:
            least, most, first = _UNIFORM[self._start.dtype]
            low = at.floor().clamp(least, most - 1)
            return low, low + 1, low - least + first
        entries = round_through(self._entries)
        index = torch.bucketize(at, entries.detach(), right=True) - 1
        index = index.clamp(0, len(entries) - 2)
        return entries[index], entries[index + 1], index

    def _upper(self, position: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return 1 where the upper neighbour is taken, else 0."""
        gap = (high - low).detach()
        between = (position - low.detach()) / torch.where(gap == 0, torch.ones_like(gap), gap)
        return round_through((between + self._v).clamp(0, 1))

    def _stored_scales(self, scales: torch.Tensor) -> dict[str, Any]:
        start = self._start
        if start.sub_scales.size:
            row = torch.where(self._row == 0, torch.ones_like(self._row), self._row)
            sub = torch.round(scales / row)
            return {"sub_scales": sub.to(torch.int8).numpy()}
        if start.scales.size:
            return {"scales": scales.numpy().astype(np.float16)}
        return {"row_scales": scales[:, 0].numpy().astype(np.float32)}


def _low_rank(shape: tuple[int, int], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return zeros (n, rank) and random signs (rank, k): their product starts at nothing."""
    (n, k), generator = shape, torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (rank, k), generator=generator).float() * 2 - 1
    return torch.zeros((n, rank)), signs / max(rank, 1) ** 0.5


def _scale_parts(start: Quantized) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is multiplied by m, (n, groups), and the row scales that it goes with, (n, 1)."""
    rows = torch.from_numpy(start.row_scales.astype(np.float32))[:, None]
    if start.sub_scales.size:
        return torch.from_numpy(start.sub_scales.astype(np.float32)), rows
    if start.scales.size:
        return torch.from_numpy(start.scales.astype(np.float32)), rows
    return rows, torch.ones_like(rows)


def _offsets(start: Quantized) -> torch.Tensor:
    """Return what a group adds to the grid's values: a codebook's shift, or minus the zero."""
    if start.codebook.size:
        return torch.from_numpy(start.shifts.astype(np.float32) * start.delta)
    if start.zeros.size:
        return -torch.from_numpy(start.zeros.astype(np.float32))
    return torch.zeros(())
