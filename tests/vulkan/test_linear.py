# SPDX-License-Identifier: Apache-2.0
"""linear and embed in every format against the reference: odd shapes, one token to many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.container import Container
from ingot.format import Dtype, Layout
from tests.vulkan.backend_driver import Backend, BackendModel, BackendSession
from tests.vulkan.linear_program import VOCABULARY, LinearProgram, check_session, worst

SHAPES = [(200, 45), (40, 19), (330, 80)]  # (k, n)
TOKENS = (1, 2, 3, 8, 17)
FORMATS = [
    (Dtype.Q4, 64),
    (Dtype.C4, 32),
    *((dtype, 0) for dtype in (Dtype.F16, Dtype.T2)),
    *((dtype, 32) for dtype in (Dtype.Q8, Dtype.Q6, Dtype.C5, Dtype.C3, Dtype.C2)),
    *((Dtype.Q4, group) for group in (32, 128)),
    *((Dtype.Q4Z, group) for group in (32, 64, 128)),
]
FAST = FORMATS[:1]  # a driver on the CPU takes seconds to compile a format's shaders
# The layout of i8mm is in three formats.
CASES = [(dtype, group, Layout.T16) for dtype, group in FORMATS]
CASES += [(dtype, group, Layout.T16_K8) for dtype, group in FORMATS if dtype in (16, 19, 21)]


def tokens_of(count: int) -> list[int]:
    rng = np.random.default_rng(count)
    return [int(token) for token in rng.integers(0, VOCABULARY, count)]


@pytest.mark.parametrize(
    ("dtype", "group", "layout"),
    [
        pytest.param(
            *case, marks=[] if case[:2] in FAST and case[2] == Layout.T16 else [pytest.mark.slow]
        )
        for case in CASES
    ],
)
def test_format(vulkan: Backend, tmp_path: Path, dtype: Dtype, group: int, layout: Layout) -> None:
    for k, n in SHAPES:
        path = LinearProgram(dtype, group, layout, k, n).write(tmp_path / "linear.ingot")
        with (
            Container(path) as container,
            BackendModel(vulkan, container) as model,
            BackendSession(model, chunk=32, rows=8) as session,
        ):
            assert all(model.takes)
            for count in TOKENS:
                checks = check_session(container, session, tokens_of(count), min(count, 3))
                assert len(checks) >= 9
                assert worst(checks).passed, (k, n, count, worst(checks))


@pytest.mark.parametrize(
    ("dtype", "group"),
    [
        (Dtype.Q4, 64),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (Dtype.F16, 0),
                (Dtype.T2, 0),
                (Dtype.Q4, 128),
                (Dtype.Q4Z, 32),
                *((dtype, 32) for dtype in (Dtype.Q8, Dtype.Q6, Dtype.C5, Dtype.C4, Dtype.C3)),
            ]
        ),
    ],
)
def test_sparse_by_superblock(
    vulkan: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype, group: int
) -> None:
    """Half of the superblocks are not stored; in pieces as well."""
    for (k, n), most in zip(SHAPES, (1 << 27, 1 << 27, 64 << 10), strict=True):
        monkeypatch.setenv("INGOT_VULKAN_RANGE", str(most))
        program = LinearProgram(dtype, group, Layout.T16, k, n, sparse=True)
        path = program.write(tmp_path / "sparse.ingot")
        with (
            Container(path) as container,
            BackendModel(vulkan, container) as model,
            BackendSession(model, chunk=17, rows=3) as session,
        ):
            assert all(model.takes)
            for count in TOKENS:
                checks = check_session(container, session, tokens_of(count), min(count, 3))
                assert worst(checks).passed, (k, n, count, worst(checks))


def test_a_sparse_table_stays_on_the_cpu(vulkan: Backend, tmp_path: Path) -> None:
    program = LinearProgram(Dtype.Q4, 64, Layout.T16, 200, 45, sparse=True)
    program.dense = set()
    with (
        Container(program.write(tmp_path / "sparse.ingot")) as container,
        BackendModel(vulkan, container) as model,
    ):
        assert model.takes[0] == 0  # the embedding
        assert all(model.takes[1:])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [Dtype.Q8, Dtype.Q6, Dtype.C3, Dtype.T2])
def test_without_integer_dot_product(
    vulkan: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    """Plain integer arithmetic gives the same bits."""
    group = 0 if dtype == Dtype.T2 else 32
    path = LinearProgram(dtype, group, Layout.T16, 200, 45).write(tmp_path / "linear.ingot")
    results = []
    for without in ("0", "1"):
        monkeypatch.setenv("INGOT_VULKAN_NO_DOT", without)
        with (
            Container(path) as container,
            BackendModel(vulkan, container) as model,
            BackendSession(model, chunk=32, rows=8) as session,
        ):
            results.append([session.eval(tokens_of(count)) for count in TOKENS])
    for dot, plain in zip(*results, strict=True):
        np.testing.assert_array_equal(dot, plain)
