# SPDX-License-Identifier: Apache-2.0
"""Greedy text on the backend is the CPU's, token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.container import Container
from ingot.format import Dtype
from ingot.model import Model
from ingot.session_config import MemoryInfo
from tests.runtime import small_program
from tests.vulkan.backend_driver import Backend, BackendModel, BackendSession

# Text of the models' own kind: on one of random tokens the best logits lie much nearer.
PROMPT = "Once upon a time"
# Where the two best logits are nearer than this, a rounding may choose: an activation's code that
# falls the other way moves a logit by about a hundredth of its spread.
NEAR = 0.05
TOKENS = [1, 5, 9, 12, 3, 7, 20]


def on_cpu(path: Path, count: int, kv: str) -> tuple[list[int], list[float]]:
    """Return greedy ids, and how far the best logit of each is before the next."""
    ids, leads = [], []
    with Model(str(path)) as model, model.session(kv=kv) as session:
        logits = session.feed(model.tokenizer.encode(PROMPT))
        for _ in range(count):
            second, first = np.sort(logits.ravel())[-2:]
            ids.append(int(logits.argmax()))
            leads.append(float(first - second))
            logits = session.feed(ids[-1:])
    return ids, leads


def on_vulkan(vulkan: Backend, path: Path, count: int, kv: str) -> list[int]:
    ids: list[int] = []
    with Model(str(path)) as cpu:
        prompt = cpu.tokenizer.encode(PROMPT)
    with (
        Container(path) as container,
        BackendModel(vulkan, container) as model,
        BackendSession(model, capacity=256, chunk=16, kv=kv) as session,
    ):
        session.run(prompt, picks=3)
        for _ in range(count):
            ids.append(session.picks(0, 3)[0][1])
            session.run(ids[-1:], picks=3)
    return ids


def test_an_upload_tells_how_far_it_is(
    vulkan: Backend, vulkan_library: Path, lantern_ingot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported weights are there at once; copied ones are told until the last byte."""
    told: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        told.append((done, total))

    def open_and_look() -> MemoryInfo:
        with (
            Model(lantern_ingot, backend=str(vulkan_library), progress=note) as model,
            model.session() as session,
        ):
            return session.memory()

    imported = open_and_look()
    assert told == [] and imported.weights_bytes > 1_000_000
    monkeypatch.setenv("INGOT_VULKAN_NO_IMPORT", "1")
    copied = open_and_look()
    assert told[-1][0] == told[-1][1] > 1_000_000
    # The weights count once: the mapping of a file whose weights were copied is not read again.
    assert copied.weights_bytes == 0
    assert copied.total_bytes < 1.05 * imported.total_bytes


def through_libingot(library: Path, path: Path, count: int, kv: str) -> list[int]:
    """Return greedy ids of a model on the backend; every instruction has to run there."""
    ids: list[int] = []
    with Model(str(path), backend=str(library)) as model, model.session(kv=kv) as session:
        logits = session.feed(model.tokenizer.encode(PROMPT))
        for _ in range(count):
            ids.append(int(logits.argmax()))
            logits = session.feed(ids[-1:])
        assert session.executed("cpu") == 0
    return ids


def compare(found: list[int], expected: list[int], leads: list[float]) -> None:
    differ = [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
    assert not differ or leads[differ[0]] < NEAR, (differ[0], leads[differ[0]])
    assert not differ or differ[0] > len(found) // 2, differ[0]


def test_stories(vulkan: Backend, stories_ingot: Path) -> None:
    expected, leads = on_cpu(stories_ingot, 200, "kv8")
    compare(on_vulkan(vulkan, stories_ingot, 200, "kv8"), expected, leads)


@pytest.mark.usefixtures("vulkan")
def test_lantern(vulkan_library: Path, lantern_ingot: Path) -> None:
    expected, leads = on_cpu(lantern_ingot, 24, "kv8")
    compare(through_libingot(vulkan_library, lantern_ingot, 24, "kv8"), expected, leads)


@pytest.mark.slow
@pytest.mark.usefixtures("vulkan")
@pytest.mark.parametrize("kv", ["f16", "kv8"])
def test_lantern_for_200_tokens(vulkan_library: Path, lantern_ingot: Path, kv: str) -> None:
    expected, leads = on_cpu(lantern_ingot, 200, kv)
    compare(through_libingot(vulkan_library, lantern_ingot, 200, kv), expected, leads)


@pytest.mark.slow
@pytest.mark.usefixtures("vulkan")
def test_what_is_not_taken_runs_on_the_cpu(vulkan_library: Path, tmp_path: Path) -> None:
    """Heads too wide for the shaders: attention on the CPU between, and the same logits."""
    path = tmp_path / "wide.ingot"
    with pytest.MonkeyPatch.context() as patch:
        size = 272
        patch.setattr(small_program, "HEAD", size)
        patch.setattr(small_program, "WIDE", small_program.HEADS * size)
        patch.setattr(small_program, "NARROW", small_program.KV_HEADS * size)
        small_program.every_op(path, Dtype.Q8, 32)
    with Model(str(path)) as model, model.session(kv="f16") as session:
        expected = session.feed(TOKENS)
    with Model(str(path), backend=str(vulkan_library)) as model, model.session(kv="f16") as session:
        found = session.feed(TOKENS)
        assert session.executed("cpu") == 1
        assert session.executed(model.backend) == sum(model.taken()) == len(model.taken()) - 1
    np.testing.assert_allclose(found, expected, atol=1e-3)
