# SPDX-License-Identifier: Apache-2.0
"""Checks another executor against the reference, one instruction at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot.container import Container
from ingot.format import Opcode
from ingot.reference.bounds import operation_bounds
from ingot.reference.session import ReferenceSession

__all__ = ["OperationCheck", "check_operations"]

ReadActivation = Callable[[int, int], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class OperationCheck:
    """One output of one instruction: its largest error, and that as a part of the bound.

    `ratio` is at most 1 where the op agrees; infinity for an error where the bound is 0, and for a
    value that is not finite.
    """

    instruction: int
    op: str
    tensor: str
    error: float
    ratio: float

    @property
    def passed(self) -> bool:
        """Whether every element is within its bound."""
        return self.ratio <= 1.0


def check_operations(
    container: Container, tokens: Sequence[int], read: ReadActivation, wanted: int = 1
) -> list[OperationCheck]:
    """Run each op of the reference on the other executor's own inputs and compare what comes out.

    Errors do not add up over the ops, so each is held to the bound of its own arithmetic.
    `read(count, tensor)` gives an activation, float32 (rows, width), after the first `count`
    instructions of a pass over `tokens` from position 0.
    """
    session = ReferenceSession(container)
    ids = session.check_tokens(tokens, wanted)
    entry = container.entries["step"]
    values: dict[int, NDArray[np.float32]] = {}
    checks: list[OperationCheck] = []
    for index in range(entry.first, entry.first + entry.count):
        expected = session.execute(index, values, ids, wanted)
        bounds = operation_bounds(session, index, values, expected)
        op = Opcode(container.instructions[index].opcode).name.lower()
        for tensor, value in expected.items():
            found = read(index - entry.first + 1, tensor).reshape(value.shape)
            error, ratio = _distance(found, value, bounds[tensor])
            checks.append(OperationCheck(index, op, container.names[tensor], error, ratio))
            values[tensor] = found
    return checks


def _distance(
    found: NDArray[np.float32], expected: NDArray[np.float32], bound: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the largest error and the largest ratio of error to bound."""
    if found.size == 0:
        return 0.0, 0.0
    error = np.abs(found.astype(np.float64) - expected)
    error[~np.isfinite(error)] = np.inf
    ratio = np.where(error == 0.0, 0.0, np.inf)
    np.divide(error, bound, out=ratio, where=bound > 0.0)
    return float(error.max()), float(ratio.max())
