# SPDX-License-Identifier: Apache-2.0
"""The native executor over every weight format: mixed in one linear, sparse, in both layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot import Model
from ingot.container import Container
from ingot.format import Dtype, Epilogue, Layout, LinearParameters, Opcode, Rows
from ingot.reference import ReferenceSession
from tests.runtime.random_weights import make
from tests.runtime.small_program import ProgramBuilder

ROWS, DEPTH, WIDTH = 40, 672, 40  # a short superblock in every format; tiles of which one is short
CASES = [
    (Dtype.F16, 0, Layout.T16),
    (Dtype.Q8, 32, Layout.T16_K8),
    (Dtype.Q6, 32, Layout.T16),
    (Dtype.C5, 32, Layout.T16),
    (Dtype.Q4, 64, Layout.T16),
    (Dtype.Q4, 32, Layout.T16_K8),
    (Dtype.Q4Z, 128, Layout.T16),
    (Dtype.C4, 32, Layout.T16),
    (Dtype.C4, 32, Layout.T16_K8),
    (Dtype.C3, 32, Layout.T16),
    (Dtype.C2, 32, Layout.T16),
    (Dtype.T2, 0, Layout.T16),
]


def write_program(path: Path, case: tuple[Dtype, int, Layout], sparse: bool) -> Path:
    """Write a sum of three linears in one instruction: this format, t2, this format."""
    b = ProgramBuilder()
    b.tokens("ids")
    table = b.weight("table", make(Dtype.Q8, 32, ROWS, DEPTH, 1))
    x = b.op(Opcode.EMBED, ("ids", table), (b.activation("x", DEPTH),))
    dtype, group, layout = case
    weights = [
        make(dtype, group, WIDTH, DEPTH, 2, layout, sparse),
        make(Dtype.T2, 0, WIDTH, DEPTH, 3, sparse=not sparse),
        make(dtype, group, WIDTH, DEPTH, 4, layout, sparse),
    ]
    names = [b.weight(f"w{i}", weight) for i, weight in enumerate(weights)]
    outputs = [b.activation(f"y{i}", WIDTH) for i in range(3)]
    b.op(Opcode.LINEAR, (x, *names), tuple(outputs), LinearParameters(3, Epilogue.NONE))
    part = b.op(Opcode.ADD, (outputs[0], outputs[1]), (b.activation("part", WIDTH),))
    whole = b.op(Opcode.ADD, (part, outputs[2]), (b.activation("whole", WIDTH),))
    last = b.op(Opcode.SELECT_LAST, (whole,), (b.activation("last", WIDTH, Rows.SELECTED),))
    return b.write(path, "ids", last, ROWS)


def logits(path: Path, tokens: list[int], threads: int) -> NDArray[np.float32]:
    with Model(path) as model, model.session(logits_rows=len(tokens), threads=threads) as session:
        found: NDArray[np.float32] = session.logits(tokens)
        return found.copy()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_formats_share_a_linear(
    case: tuple[Dtype, int, Layout], sparse: bool, tmp_path: Path
) -> None:
    path = write_program(tmp_path / "m.ingot", case, sparse)
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    many = logits(path, tokens, 2)
    assert np.array_equal(many, logits(path, tokens, 1))
    for i in (0, 5):
        assert np.array_equal(many[i], logits(path, tokens[i : i + 1], 2)[0])
    with Container(path) as container:
        expected = ReferenceSession(container).eval(tokens, len(tokens))
    assert np.abs(many - expected).max() <= 1e-5 * np.abs(expected).max()
