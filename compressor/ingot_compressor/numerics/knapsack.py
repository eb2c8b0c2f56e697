# SPDX-License-Identifier: Apache-2.0
"""Multiple-choice knapsack: one choice for each unit, several limits, the least total cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from ingot.errors import InternalError, InvalidArgumentError
from ingot_compressor.quiet import without_output

__all__ = ["InfeasibleError", "Row", "solve_knapsack"]

Floats = NDArray[np.float64]

# The solver's tolerances are absolute: costs are scaled so that the dearest choices cost this.
COST_SCALE = 1e4
RELATIVE_GAP = 1e-5
MOST_NODES = 50_000
# Sums of floats in another order may differ by this much.
ROUNDING = 1e-12
TIGHTENING = 1e-6
ATTEMPTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One limit: the amounts of the choices taken add up to at most `limit`.

    Shapes: amounts has one (choices,) float64 for each unit. Units: any, the same throughout.
    """

    name: str
    amounts: tuple[Floats, ...]
    limit: float

    def total(self, picked: Sequence[int]) -> float:
        """Return the sum over the units of what their choice takes."""
        return _total(self.amounts, picked)

    def holds(self, picked: Sequence[int]) -> bool:
        """Tell whether the choices are within the limit."""
        return self.total(picked) <= self.limit + ROUNDING * abs(self.limit)


class InfeasibleError(InvalidArgumentError):
    """No choice meets all limits: `row` takes at least `least` where the rows before it hold."""

    def __init__(self, row: Row, least: float) -> None:
        """Make one for the row that cannot be met."""
        super().__init__(f"{row.name}: at least {least:g} is needed, the limit is {row.limit:g}")
        self.row = row
        self.least = least


def solve_knapsack(
    costs: Sequence[Floats], rows: Sequence[Row], most_nodes: int = MOST_NODES
) -> tuple[int, ...]:
    """Return the index of each unit's choice: least total cost within all rows.

    Shapes: costs has one (choices,) float64 for each unit; each row's amounts alike.
    Raises: InfeasibleError naming the first row that cannot be met beside those before it, with the
        least possible; InvalidArgumentError if rows and costs are not of the same shape.
    Source: Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem; solved by branch and cut
        (HiGHS, Huangfu and Hall 2018), to a relative gap of 1e-5.
    Cost: well under a second for hundreds of units; at most `most_nodes` nodes of the search, after
        which the best choices found are returned.
    """
    for row in rows:
        if [len(a) for a in row.amounts] != [len(c) for c in costs]:
            raise InvalidArgumentError(f"row {row.name} has other units or choices than the costs")
    picked = _solve(costs, rows, most_nodes)
    if picked is None:
        raise _explain(rows, most_nodes)
    return picked


def _total(amounts: Sequence[Floats], picked: Sequence[int]) -> float:
    return float(sum(float(a[index]) for a, index in zip(amounts, picked, strict=True)))


def _explain(rows: Sequence[Row], most_nodes: int) -> InternalError | InfeasibleError:
    """Return the error of the first row that the rows before it leave no room for."""
    for index, row in enumerate(rows):
        picked = _solve(row.amounts, rows[:index], most_nodes)
        if picked is not None and not row.holds(picked):
            return InfeasibleError(row, row.total(picked))
    return InternalError("the solver found no choice although each limit can be met")


def _solve(costs: Sequence[Floats], rows: Sequence[Row], most_nodes: int) -> tuple[int, ...] | None:
    """Return choices that hold exactly, None if there are none."""
    if not rows:
        return tuple(int(np.argmin(one)) for one in costs)
    share = np.ones(len(rows))
    for _ in range(ATTEMPTS):
        picked = _branch_and_cut(costs, rows, share, most_nodes)
        if picked is None:
            return None
        over = np.array([not row.holds(picked) for row in rows])
        if not over.any():
            return picked
        # within the solver's tolerance but not within ours
        share = np.where(over, share - TIGHTENING, share)
    return None


def _branch_and_cut(
    costs: Sequence[Floats], rows: Sequence[Row], share: Floats, most_nodes: int
) -> tuple[int, ...] | None:
    counts = [len(one) for one in costs]
    units = np.repeat(np.arange(len(costs)), counts)
    one_each = sparse.csr_array((np.ones(len(units)), (units, np.arange(len(units)))))
    scales = [max(sum(float(a.max()) for a in row.amounts), abs(row.limit), 1e-300) for row in rows]
    matrix = np.stack([np.concatenate(r.amounts) / s for r, s in zip(rows, scales, strict=True)])
    limits = np.array([r.limit / s for r, s in zip(rows, scales, strict=True)])
    dearest = sum(float(one.max()) for one in costs)
    below = limits - np.abs(limits) * (1 - share)
    with without_output():  # HiGHS tells of its repairs
        found = optimize.milp(
            np.concatenate(costs) * (COST_SCALE / dearest if dearest > 0 else 1.0),
            integrality=np.ones(len(units)),
            bounds=optimize.Bounds(0, 1),
            constraints=[
                optimize.LinearConstraint(one_each, 1, 1),
                optimize.LinearConstraint(matrix, -np.inf, below),
            ],
            options={"mip_rel_gap": RELATIVE_GAP, "node_limit": most_nodes},
        )
    if found.x is None:
        return None
    ends = np.cumsum(counts)
    return tuple(int(np.argmax(part)) for part in np.split(found.x, ends[:-1]))
