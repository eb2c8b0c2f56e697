# SPDX-License-Identifier: Apache-2.0
"""The choice of one format for every weight as a knapsack, and the curve of what can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot.format import Dtype
from ingot.packing import Quantized
from ingot_compressor.ir import Program
from ingot_compressor.numerics import Encoding
from ingot_compressor.numerics.knapsack import Row, solve_knapsack
from ingot_compressor.passes.quantize import Sizes, body_names, measure_sizes
from ingot_compressor.passes.sensitivity import Tables

__all__ = ["CurvePoint", "Picked", "Problem", "pareto_curve", "uniform_picks"]

# One index for each weight, in the order of the tables.
Picked = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Candidates, their divergences and the limits; units in the order of `tables`.

    Shapes: divergences has one (candidates,) float64 for each weight, in nats; without a text to
    measure on, weighted relative errors stand for them.
    """

    program: Program
    tables: Tables
    divergences: tuple[NDArray[np.float64], ...]
    rows: tuple[Row, ...]

    def bytes(self) -> tuple[NDArray[np.float64], ...]:
        """Return the stored bytes of every candidate."""
        return tuple(
            np.array([one.stored_bytes for one in candidates], np.float64)
            for candidates in self.tables.values()
        )

    def encodings(self, picked: Picked) -> dict[str, Encoding]:
        """Return the encoding of every weight by name."""
        return {
            name: candidates[index].encoding
            for (name, candidates), index in zip(self.tables.items(), picked, strict=True)
        }

    def codes(self, picked: Picked) -> dict[str, Quantized]:
        """Return every weight quantized, by name."""
        return {
            name: candidates[index].quantized
            for (name, candidates), index in zip(self.tables.items(), picked, strict=True)
        }

    def predicted(self, picked: Picked) -> float:
        """Return the sum of the divergences."""
        return float(sum(d[i] for d, i in zip(self.divergences, picked, strict=True)))

    def sizes(self, picked: Picked) -> Sizes:
        """Return stored bytes and bits per weight."""
        return measure_sizes(self.program, self.encodings(picked))

    def fits(self, picked: Picked) -> bool:
        """Tell whether all limits hold."""
        return all(row.holds(picked) for row in self.rows)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The best mix of some size. Units: bytes, bits per weight, nats as predicted."""

    weight_bytes: int
    bits_per_weight_body: float
    divergence: float


def pareto_curve(problem: Problem, points: int = 12) -> tuple[CurvePoint, ...]:
    """Return the least predicted divergence at sizes from the smallest to the largest possible."""
    sizes = problem.bytes()
    least, most = (float(sum(pick(one) for one in sizes)) for pick in (np.min, np.max))
    curve: dict[int, CurvePoint] = {}
    for limit in np.linspace(least, most, points):
        row = Row("bytes", sizes, float(limit))
        picked = solve_knapsack(problem.divergences, [row])
        found = problem.sizes(picked)
        divergence = problem.predicted(picked)
        point = CurvePoint(found.weight_bytes, found.bits_per_weight_body, divergence)
        curve[found.weight_bytes] = point
    return tuple(curve[size] for size in sorted(curve))


def uniform_picks(problem: Problem) -> dict[str, Picked]:
    """Return the assignments within the limits with one format for the body, by its name.

    Weights outside of the body get, alike, what is predicted to lose least beside it.
    """
    body = set(body_names(problem.program))
    found: dict[str, Picked] = {}
    for dtype in _formats(problem, body, inside=True):
        fits = [
            picked
            for apart in _formats(problem, body, inside=False) or [dtype]
            if (picked := _uniform(problem.tables, body, dtype, apart)) and problem.fits(picked)
        ]
        if fits:
            found[dtype.name.lower()] = min(fits, key=problem.predicted)
    return found


def _formats(problem: Problem, body: set[str], inside: bool) -> list[Dtype]:
    """Return the formats that some weight of, or outside of, the body may have."""
    found = [
        one.encoding.dtype
        for name, candidates in problem.tables.items()
        for one in candidates
        if (name in body) == inside
    ]
    return list(dict.fromkeys(found))


def _uniform(tables: Tables, body: set[str], dtype: Dtype, apart: Dtype) -> Picked:
    """Return the assignment, () where a weight of the body does not have the format."""
    picked = []
    for name, candidates in tables.items():
        wanted = dtype if name in body else apart
        index = _index_of([one.encoding for one in candidates], wanted)
        if index is None and name in body:
            return ()
        picked.append(len(candidates) - 1 if index is None else index)
    return tuple(picked)


def _index_of(encodings: Sequence[Encoding], dtype: Dtype) -> int | None:
    return next((i for i, one in enumerate(encodings) if one.dtype is dtype), None)
