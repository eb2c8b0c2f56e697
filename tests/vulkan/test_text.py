# SPDX-License-Identifier: Apache-2.0
"""Greedy text on the backend is the CPU's, token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.container import Container
from ingot.model import Model
from tests.vulkan.backend_driver import Backend, BackendModel, BackendSession

PROMPT = [1, 5, 9, 12, 3, 7, 20]
# Where the two best logits are nearer than this, a rounding may choose: an activation's code that
# falls the other way moves a logit by about a hundredth of its spread.
NEAR = 0.05


def on_cpu(path: Path, count: int, kv: str) -> tuple[list[int], list[float]]:
    """Return greedy ids, and how far the best logit of each is before the next."""
    ids, leads = [], []
    with Model(str(path)) as model, model.session(kv=kv) as session:
        logits = session.feed(PROMPT)
        for _ in range(count):
            second, first = np.sort(logits.ravel())[-2:]
            ids.append(int(logits.argmax()))
            leads.append(float(first - second))
            logits = session.feed(ids[-1:])
    return ids, leads


def on_vulkan(vulkan: Backend, path: Path, count: int, kv: str) -> list[int]:
    ids: list[int] = []
    with (
        Container(path) as container,
        BackendModel(vulkan, container) as model,
        BackendSession(model, capacity=256, chunk=16, kv=kv) as session,
    ):
        session.run(PROMPT, picks=3)
        for _ in range(count):
            ids.append(session.picks(0, 3)[0][1])
            session.run(ids[-1:], picks=3)
    return ids


def check(vulkan: Backend, path: Path, count: int, kv: str) -> None:
    expected, leads = on_cpu(path, count, kv)
    found = on_vulkan(vulkan, path, count, kv)
    differ = [i for i in range(count) if found[i] != expected[i]]
    assert not differ or leads[differ[0]] < NEAR, (differ[0], leads[differ[0]])
    assert not differ or differ[0] > count // 2, differ[0]


def test_stories(vulkan: Backend, stories_ingot: Path) -> None:
    check(vulkan, stories_ingot, 200, "kv8")


def test_lantern(vulkan: Backend, lantern_ingot: Path) -> None:
    check(vulkan, lantern_ingot, 24, "kv8")


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["f16", "kv8"])
def test_lantern_for_200_tokens(vulkan: Backend, lantern_ingot: Path, kv: str) -> None:
    check(vulkan, lantern_ingot, 200, kv)
