# SPDX-License-Identifier: Apache-2.0
"""Compares a backend with the reference, one instruction at a time on the reference's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.format import Role
from ingot.reference import ReferenceSession
from ingot.reference.bounds import operation_bounds
from tests.cuda.backend_driver import F32, Session

__all__ = ["worst_operations"]


def _write_inputs(session: Session, index: int, values: dict[int, F32]) -> None:
    container = session.model.container
    for tensor in container.inputs(index):
        record = container.tensors[tensor]
        if record.role == Role.ACTIVATION and record.rank == 2:
            session.write(tensor, values[tensor])


def worst_operations(
    session: Session, reference: ReferenceSession, tokens: Sequence[int], wanted: int
) -> dict[int, float]:
    """Run each instruction alone and return its worst error in units of its bound.

    Both sessions stand at the same position and move on. A bound of 0 and a difference give inf.
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
        session.run(list(tokens), wanted, first=index - entry.first, count=1)
        worst = 0.0
        for tensor, expected in outputs.items():
            got = session.read(tensor, expected.shape[0])
            error = np.abs(got.astype(np.float64) - expected)
            error[~np.isfinite(got)] = np.inf
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(error == 0, 0.0, error / bounds[tensor])
            worst = max(worst, float(ratio.max(initial=0.0)))
        found[index] = worst
        values.update(outputs)
    session.position += len(tokens)
    reference.position += len(tokens)
    return found
