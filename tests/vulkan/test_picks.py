# SPDX-License-Identifier: Apache-2.0
"""The best logits: order, ties, what is no number, slices, more than a workgroup keeps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ingot.container import Container
from tests.vulkan.backend_driver import Backend, BackendModel, BackendSession
from tests.vulkan.linear_program import KNOWN, WIDE, wide_program


@pytest.fixture(scope="module")
def session(vulkan: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendSession]:
    path = wide_program(tmp_path_factory.mktemp("picks") / "picks.ingot")
    with (
        Container(path) as container,
        BackendModel(vulkan, container) as model,
        BackendSession(model, chunk=8, rows=3) as opened,
    ):
        yield opened


def picked(session: BackendSession, logits: np.ndarray, most: int) -> list[list[tuple[float, int]]]:
    """Return the picks of given logits, through the last instruction alone."""
    session.run([1, 2, 3], len(logits), keep=False)
    session.write(session.model.container.names.index("raw"), logits)
    first = session.model.count - 1
    session.run([1, 2, 3], len(logits), first=first, picks=most, keep=False)
    return [session.picks(row, most) for row in range(len(logits))]


def expected(row: np.ndarray, most: int) -> list[int]:
    """Return ids by the rule of ingot_backend.h."""

    def rank(i: int) -> tuple[bool, float, int]:
        sane = bool(row[i] < np.inf)
        return (sane, -float(row[i]) if sane else 0.0, i)

    return sorted(range(KNOWN), key=rank)[:most]


@pytest.mark.parametrize("most", [1, 5, 64, 100])
def test_picks(session: BackendSession, most: int) -> None:
    rng = np.random.default_rng(most)
    logits = rng.normal(size=(3, WIDE)).astype(np.float32)
    logits[0] = np.round(logits[0])  # ties
    logits[1, [7, 4000]] = np.nan, np.inf
    logits[1, 9] = -np.inf
    logits[2] = -np.abs(logits[2])
    logits[2, [3, 4]] = 0.0, -0.0
    logits[:, KNOWN:] = 100.0  # not to be sampled
    for row, found in enumerate(picked(session, logits, most)):
        ids = [token for _, token in found]
        assert ids == expected(logits[row], most)
        np.testing.assert_array_equal([value for value, _ in found], logits[row, ids])
