# SPDX-License-Identifier: Apache-2.0
"""Matrices of shapes that the driver does not have, emulated: the bits of dot products.

What the extension itself computes is held to them by `matrix_script.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingot.format import Dtype
from tests.vulkan.backend_driver import Backend, BackendError
from tests.vulkan.matrix_script import (
    FORMATS,
    MATRIX_ONLY,
    PLANTED_TOKENS,
    chain_of,
    results,
    same,
    settle,
)

USUAL = "16x16x32x32"  # rows, tokens, depth, lanes
SHAPES = [
    *("16x16x16x64", "16x16x16x32", "8x16x32x32", "8x16x32x16", "8x8x32x32", "8x8x32x8"),
    *("8x8x8x8", "16x8x32x32", "32x32x16x64", "32x8x16x16", "8x32x16x64"),
]
CASES = [(USUAL, Dtype.Q4, 64)]
SLOW = [(shape, Dtype.C4, 32) for shape in SHAPES]
SLOW += [(USUAL, dtype, group) for dtype, group in FORMATS if (USUAL, dtype, group) not in CASES]


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    yield
    settle({})


@pytest.mark.parametrize(
    ("shape", "dtype", "group"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_a_shape_gives_the_bits_of_dot_products(
    broken: Backend, tmp_path: Path, shape: str, dtype: Dtype, group: int
) -> None:
    path = chain_of(tmp_path / "chain.ingot", dtype, group)
    dots = results(broken, path, PLANTED_TOKENS, {"NO_MATRIX": "1"})
    assert same(dots, results(broken, path, PLANTED_TOKENS, {"EMULATE": shape}))
    fault = {"EMULATE": shape, "PLANT": str(MATRIX_ONLY)}
    assert not same(dots, results(broken, path, PLANTED_TOKENS, fault))


@pytest.mark.parametrize(
    "shape",
    ["32x32x32x32", "4x16x32x32", "16x64x32x32", "16x16x64x32", "16x16x32x24", "16x16x32", "x"],
)
def test_a_shape_that_does_not_fit_is_refused(broken: Backend, tmp_path: Path, shape: str) -> None:
    path = chain_of(tmp_path / "chain.ingot", Dtype.Q4, 64)
    with pytest.raises(BackendError, match=f"matrices of {shape} do not fit"):
        results(broken, path, PLANTED_TOKENS, {"EMULATE": shape})
