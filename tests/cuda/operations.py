# SPDX-License-Identifier: Apache-2.0
"""Compares a backend with the reference, one instruction at a time on the reference's inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.format import Opcode, Role
from ingot.reference import ReferenceSession
from ingot.reference.bounds import operation_bounds
from tests.cuda.backend_driver import F32, Session

__all__ = ["failures", "worst_operations"]


def _write_inputs(session: Session, index: int, values: dict[int, F32]) -> None:
    container = session.model.container
    for tensor in container.inputs(index):
        record = container.tensors[tensor]
        if record.role == Role.ACTIVATION and record.rank == 2:
            session.write(tensor, values[tensor])


def _error(got: F32, expected: F32, bound: NDArray[np.float64]) -> float:
    """Return the largest difference in units of its bound; inf for a bound of 0 or what is NaN."""
    error = np.abs(got.astype(np.float64) - expected)
    error[~np.isfinite(got)] = np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / bound)
    return float(ratio.max(initial=0.0))


def worst_operations(
    session: Session, reference: ReferenceSession, tokens: list[int], wanted: int
) -> dict[int, float]:
    """Run each instruction alone and return its worst error in units of its bound.

    Both sessions stand at the same position and move on.
    """
    container = session.model.container
    entry = container.entries["step"]
    ids = reference.check_tokens(tokens, wanted)
    values: dict[int, F32] = {}
    found: dict[int, float] = {}
    for index in range(entry.first, entry.first + entry.count):
        outputs = reference.execute(index, values, ids, wanted)
        bounds = operation_bounds(reference, index, values, outputs)
        _write_inputs(session, index, values)
        session.run(tokens, wanted, first=index - entry.first, count=1)
        found[index] = max(
            _error(session.read(tensor, len(expected)), expected, bounds[tensor])
            for tensor, expected in outputs.items()
        )
        values.update(outputs)
    session.position += len(tokens)
    reference.position += len(tokens)
    return found


def failures(session: Session, reference: ReferenceSession, passes: list[list[int]]) -> list[str]:
    """Return a line for each instruction of each pass that is outside of its bound."""
    lines = []
    for tokens in passes:
        for index, ratio in worst_operations(
            session, reference, tokens, min(2, len(tokens))
        ).items():
            if ratio > 1:
                name = Opcode(session.model.container.instructions[index].opcode).name.lower()
                lines.append(f"{len(tokens)} tokens, instruction {index}, {name}: {ratio:.3g}")
    return lines
