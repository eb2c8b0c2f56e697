# SPDX-License-Identifier: Apache-2.0
"""Improves an assignment of formats by swaps that are measured: one weight up, another down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.passes.assignment import Picked, Problem
from ingot_compressor.passes.probe import Probe
from ingot_compressor.passes.sensitivity import Candidate

__all__ = ["Refined", "refine"]

# Swaps without success that a weight takes part in before others have their turn.
PATIENCE = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Refined:
    """What came of the swaps. Units: nats."""

    picked: Picked
    divergence: float
    tried: int
    kept: int


def refine(
    problem: Problem,
    probe: Probe,
    picked: Picked,
    most: int = 40,
    progress: Callable[[int], None] | None = None,
) -> Refined:
    """Try swaps within the limits, the most promising first; keep those that lower the divergence.

    The probe stands at `picked` and ends at the result. One weight gets its next larger format,
    another its next smaller one, or none where the limits leave room.
    Source: EvoPress (arXiv:2410.14649): level-switch mutations under a fixed budget.
    Cost: one run of the changed blocks and those after them, for each swap.
    """
    steps = [_levels(candidates) for candidates in problem.tables.values()]
    names = tuple(problem.tables)
    tried: set[Picked] = {picked}
    failures: Counter[int] = Counter()
    kept = 0
    for _ in range(most):
        swap = _best_swap(problem, steps, picked, tried, failures)
        if swap is None:
            break
        tried.add(swap)
        changed = [i for i, (a, b) in enumerate(zip(picked, swap, strict=True)) if a != b]
        codes = {names[i]: problem.tables[names[i]][swap[i]].quantized for i in changed}
        trial = probe.try_out(codes)
        failures.update(changed)
        if trial.divergence < probe.divergence:
            probe.keep(trial)
            picked, kept = swap, kept + 1
            failures.clear()
        if progress is not None:
            progress(len(tried) - 1)
    if progress is not None:
        progress(most)
    return Refined(picked, probe.divergence, len(tried) - 1, kept)


def _levels(candidates: tuple[Candidate, ...]) -> list[int]:
    """Return the candidates worth a step, rising in bytes: each loses less than all before it."""
    levels: list[int] = []
    for index, one in enumerate(candidates):
        if not levels or one.error < candidates[levels[-1]].error:
            levels.append(index)
    return levels


def _step(levels: list[int], index: int, by: int) -> int | None:
    """Return the candidate one level up or down, None at the end."""
    if index not in levels:
        return None
    place = levels.index(index) + by
    return levels[place] if 0 <= place < len(levels) else None


def _best_swap(
    problem: Problem,
    steps: list[list[int]],
    picked: Picked,
    tried: set[Picked],
    failures: Counter[int],
) -> Picked | None:
    """Return the swap within the limits whose predicted divergence is least, None if none is left.

    A step that is not possible costs infinitely much; the last column takes no step down.
    """
    ups = [_step(levels, index, 1) for levels, index in zip(steps, picked, strict=True)]
    downs = [_step(levels, index, -1) for levels, index in zip(steps, picked, strict=True)]
    tired = [failures[unit] >= PATIENCE for unit in range(len(picked))]
    ups = [None if skip else step for skip, step in zip(tired, ups, strict=True)]
    downs = [None if skip else step for skip, step in zip(tired, downs, strict=True)]
    change = _pairs(problem.divergences, picked, ups, downs)
    np.fill_diagonal(change, np.inf)
    for row in problem.rows:
        total = row.total(picked) + _pairs(row.amounts, picked, ups, downs)
        change[~(total <= row.limit)] = np.inf
    for place in np.argsort(change, axis=None, kind="stable"):
        up, down = divmod(int(place), change.shape[1])
        if not np.isfinite(change[up, down]):
            return None
        swap = _swapped(picked, {up: ups[up], down: downs[down] if down < len(downs) else None})
        if swap not in tried:
            return swap
    return None


def _swapped(picked: Picked, steps: dict[int, int | None]) -> Picked:
    changed = {unit: index for unit, index in steps.items() if index is not None}
    return tuple(changed.get(unit, index) for unit, index in enumerate(picked))


def _pairs(
    amounts: tuple[Floats, ...], picked: Picked, ups: list[int | None], downs: list[int | None]
) -> Floats:
    """Return the change of a sum by each unit up (row) and each unit down or none (column)."""
    up, down = (
        np.array(
            [
                np.inf if to is None else a[to] - a[at]
                for a, at, to in zip(amounts, picked, steps, strict=True)
            ]
        )
        for steps in (ups, downs)
    )
    pairs: Floats = up[:, None] + np.append(down, 0.0)[None, :]
    return pairs
