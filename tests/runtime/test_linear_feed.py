# SPDX-License-Identifier: Apache-2.0
"""A gated linear hands many tokens to the next as int8 panels, with the bits of float rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot import Model
from ingot.container import Container
from ingot.format import Dtype, Epilogue, LinearFlag, LinearParameters, Opcode, Rows
from ingot.packing import round_up
from ingot.reference import ReferenceSession
from tests.runtime.small_program import ProgramBuilder, random_weight

F32 = NDArray[np.float32]
# A gate of 73 or more columns has room for the panels of nine tokens, where it would write floats.
WIDTH, ROWS, CHUNK = 80, 80, 40
PLAIN = LinearParameters(1, Epilogue.NONE)
TOKENS = [(7 * i + 3) % ROWS for i in range(CHUNK)]
FORMATS = [(Dtype.Q8, 32), (Dtype.Q4, 32), (Dtype.Q4, 128), (Dtype.C4, 32), (Dtype.F16, 0)]


class GatedPair(ProgramBuilder):
    """Two feed-forward blocks, of `inner` columns and of 200."""

    def __init__(self, dtype: Dtype, group: int) -> None:
        super().__init__(chunk=CHUNK)
        self.rng = np.random.default_rng(11)
        self.dtype, self.group = dtype, group
        self.tokens("ids")
        table = self.weight("table", random_weight(self.rng, Dtype.Q8, 32, ROWS, WIDTH))
        self.op(Opcode.EMBED, ("ids", table), (self.activation("x", WIDTH),))

    def linear(self, name: str, n: int, inputs: tuple[str, ...], k: int, flags: int = 0) -> str:
        weight = self.weight(
            f"{name}.weight", random_weight(self.rng, self.dtype, self.group, n, k)
        )
        out = self.activation(name, n)
        return self.op(Opcode.LINEAR, (inputs[0], weight, *inputs[1:]), (out,), PLAIN, flags)

    def gated(self, name: str, inner: int, x: str) -> str:
        rows = 2 * round_up(inner, 16)
        weight = self.weight(
            f"{name}.weight", random_weight(self.rng, self.dtype, self.group, rows, WIDTH)
        )
        parameters = LinearParameters(1, Epilogue.SILU_GATE)
        return self.op(Opcode.LINEAR, (x, weight), (self.activation(name, inner),), parameters)

    def finish(self, path: Path, x: str) -> Path:
        out = self.op(Opcode.SELECT_LAST, (x,), (self.activation("last", WIDTH, Rows.SELECTED),))
        return self.write(path, "ids", out, WIDTH)


def two_blocks(path: Path, dtype: Dtype, group: int, inner: int) -> Path:
    b = GatedPair(dtype, group)
    x = b.linear("first", WIDTH, (b.gated("gate", inner, "x"), "x"), inner, LinearFlag.RESIDUAL)
    y = b.linear("second", WIDTH, (b.gated("wide", 200, x),), 200)
    return b.finish(path, y)


def results(path: Path, tokens: list[int], chunk: int) -> list[F32]:
    """Return the results of passes of many lengths in one session, its buffers used again."""
    found = []
    with (
        Model(path, canary=False) as model,
        model.session(chunk=chunk, threads=2, logits_rows=chunk) as session,
    ):
        for count in (len(tokens), 9, 13, 16, 21):
            session.reset()
            found.append(np.array(session.logits(tokens[:count])))
    return found


@pytest.mark.parametrize("inner", [24, 72, 73, 128])
@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_panels_have_the_bits_of_rows(tmp_path: Path, dtype: Dtype, group: int, inner: int) -> None:
    path = two_blocks(tmp_path / "m.ingot", dtype, group, inner)
    few = results(path, TOKENS, 4)
    assert all(np.abs(row).max() > 0 for row in few)
    for chunk in (CHUNK, 9):
        many = results(path, TOKENS, chunk)
        assert all(np.array_equal(one, other) for one, other in zip(many, few, strict=True))


def test_a_gate_that_is_also_the_residual_is_written_out(tmp_path: Path) -> None:
    b = GatedPair(Dtype.Q8, 32)
    gate = b.gated("gate", WIDTH, "x")
    out = b.linear("out", WIDTH, (gate, gate), WIDTH, LinearFlag.RESIDUAL)
    check_against_reference(b.finish(tmp_path / "m.ingot", out))


def test_a_gate_with_two_readers_is_written_out(tmp_path: Path) -> None:
    b = GatedPair(Dtype.Q8, 32)
    gate = b.gated("gate", WIDTH, "x")
    first = b.linear("first", WIDTH, (gate,), WIDTH)
    out = b.op(Opcode.ADD, (first, gate), (b.activation("out", WIDTH),))
    check_against_reference(b.finish(tmp_path / "m.ingot", out))


def check_against_reference(path: Path) -> None:
    with Container(path) as container:
        expected = ReferenceSession(container).eval(TOKENS, CHUNK)
    found = results(path, TOKENS, CHUNK)[0]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
