# SPDX-License-Identifier: Apache-2.0
"""Columns of a weight rounded one after the other, each making up for the errors of the others.

Weights are held transposed here, (k, n), so that a column of all rows lies together. What a column
is rounded to is the caller's choice: a grid, a grid with zeros, zeros alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ingot_compressor.numerics.hessian import Factor

__all__ = ["BeginBlock", "RoundColumn", "descend_columns", "row_errors", "sweep_columns"]

# Column and the values that would be best, (n,) -> the values that are stored, (n,).
RoundColumn = Callable[[int, torch.Tensor], torch.Tensor]
# Columns of a block (b,) and, before it begins, their best values (b, n).
BeginBlock = Callable[[torch.Tensor, torch.Tensor], None]

BLOCK = 128
# Columns of a Hessian that are held in float64 at once.
WIDE_BLOCK = 512


def sweep_columns(
    w: torch.Tensor,
    factor: Factor,
    round_column: RoundColumn,
    begin_block: BeginBlock | None = None,
    block: int = BLOCK,
) -> torch.Tensor:
    """Round each column once, in the factor's order, where the errors of those before put it.

    `begin_block` is told the columns of each block with what the blocks before made of them, for a
    choice that is taken block by block (which weights to drop).

    Shapes: w (k, n) float32; result (k, n), the rounded values.
    Source: Frantar et al. 2022 (arXiv:2210.17323) with lazy updates, in the equal form of Chee et
    al. 2023 (arXiv:2307.13304, LDLQ): feedback of the errors of the weights as they were.
    Cost: n * k * k multiplications.
    """
    errors, values = torch.empty_like(w), torch.empty_like(w)
    for first in range(0, len(w), block):
        columns = factor.order[first : first + block]
        last = first + len(columns)
        aims = torch.addmm(w[columns], factor.feedback[:first, first:last].T, errors[:first])
        if begin_block is not None:
            begin_block(columns, aims)
        within = factor.feedback[first:last, first:last].T.contiguous()
        inside = errors[first:last]
        for i, column in enumerate(columns.tolist()):
            aim = torch.addmv(aims[i], inside[:i].T, within[i, :i]) if i else aims[i]
            values[column] = round_column(column, aim)
            torch.sub(w[column], values[column], out=inside[i])
    return values


def descend_columns(
    w: torch.Tensor,
    values: torch.Tensor,
    hessian: torch.Tensor,
    round_column: RoundColumn,
    block: int = BLOCK,
) -> int:
    """Round each column again where all other columns put it; `values` is changed.

    Each step gives every element of the column its best value with all others held, if
    `round_column` gives the nearest: the error never grows but by rounding in float32.

    Shapes: w, values (k, n) float32; hessian (k, k) float32.
    Returns: how many values changed; 0: no single change lowers the error.
    Source: the assignment step of LNQ (arXiv:2505.07004, section 4); cyclic coordinate descent.
    Cost: n * k * k multiplications.
    """
    errors, changes = w - values, 0
    moved = torch.empty((min(block, len(w)), w.shape[1]))
    diagonal = hessian.diagonal().tolist()
    for first in range(0, len(w), block):
        last = min(first + block, len(w))
        pulls = hessian[first:last] @ errors
        within = hessian[first:last, first:last].contiguous()
        for i, column in enumerate(range(first, last)):
            moved[i] = 0
            if diagonal[column] <= 0:
                continue
            pull = torch.addmv(pulls[i], moved[:i].T, within[i, :i]) if i else pulls[i]
            old = values[column]
            new = round_column(column, old + pull / diagonal[column])
            torch.sub(old, new, out=moved[i])
            changes += int(torch.count_nonzero(moved[i]))
            values[column] = new
        torch.sub(w[first:last], values[first:last], out=errors[first:last])
    return changes


def row_errors(errors: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Return e H e^T of each row in float64. Shapes: errors (k, n); hessian (k, k); result (n,)."""
    wide = errors.double()
    total = torch.zeros(errors.shape[1], dtype=torch.float64)
    for first in range(0, len(errors), WIDE_BLOCK):
        part = slice(first, first + WIDE_BLOCK)
        total += ((hessian[part].double() @ wide) * wide[part]).sum(dim=0)
    return total
