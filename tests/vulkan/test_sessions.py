# SPDX-License-Identifier: Apache-2.0
"""Several sessions of a model, each in its thread; more shapes of pass than are kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ingot.container import Container
from ingot.format import Dtype
from tests.runtime.small_program import VOCABULARY, every_op
from tests.vulkan.backend_driver import Backend, BackendModel, BackendSession


def generate(model: BackendModel, seed: int) -> list[int]:
    """Return greedy ids behind a prompt, from a session that is opened and closed here."""
    prompt = [int(t) for t in np.random.default_rng(seed).integers(0, VOCABULARY, 5 + seed)]
    ids: list[int] = []
    with BackendSession(model, kv="kv8") as session:
        session.run(prompt, picks=1)
        for _ in range(20):
            ids.append(session.picks(0, 1)[0][1])
            session.run(ids[-1:], picks=1)
    return ids


def test_sessions_in_threads(vulkan: Backend, tmp_path: Path) -> None:
    path = every_op(tmp_path / "threads.ingot", Dtype.Q8, 32)
    with Container(path) as container, BackendModel(vulkan, container) as model:
        alone = [generate(model, seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(generate, [model] * 4, range(4)))
    assert together == alone
    assert len({tuple(ids) for ids in alone}) > 1


def test_more_shapes_than_recordings(vulkan: Backend, tmp_path: Path) -> None:
    """Passes of 1 to 30 tokens twice over: the oldest recordings make room."""
    path = every_op(tmp_path / "shapes.ingot", Dtype.Q8, 32)
    with (
        Container(path) as container,
        BackendModel(vulkan, container) as model,
        BackendSession(model, chunk=32) as session,
    ):
        found: dict[int, list[np.ndarray]] = {}
        for _ in range(2):
            for count in (*range(1, 31), 1):
                session.position = 0
                tokens = [(3 * i + count) % VOCABULARY for i in range(count)]
                found.setdefault(count, []).append(session.eval(tokens))
        for results in found.values():
            for other in results[1:]:
                np.testing.assert_array_equal(results[0], other)
