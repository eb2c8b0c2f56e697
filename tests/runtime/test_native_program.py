# SPDX-License-Identifier: Apache-2.0
"""Programs that no compressor writes but that a file may hold; the native library runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot import Model
from ingot._native import native
from ingot.container import Container
from ingot.errors import CancelledError, InvalidArgumentError
from ingot.format import Dtype, Epilogue, LinearFlag, LinearParameters, NormParameters, Opcode, Rows
from ingot.reference import ReferenceSession
from tests.runtime.small_program import ProgramBuilder, every_op, random_weight

F32 = NDArray[np.float32]
WIDTH, ROWS, FEW_ROWS = 48, 30, 10
ONE = LinearParameters(1, Epilogue.NONE)
NORM = NormParameters(1e-5, WIDTH)


class Chain(ProgramBuilder):
    """A program of rows of one width: a table, a norm, a square linear."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(5)
        self.tokens("ids")

    def embed(self, name: str, rows: int) -> str:
        table = self.square(f"{name}.table", rows)
        return self.op(Opcode.EMBED, ("ids", table), (self.activation(name, WIDTH),))

    def square(self, name: str, rows: int = WIDTH) -> str:
        return self.weight(name, random_weight(self.rng, Dtype.Q8, 32, rows, WIDTH))

    def last(self, x: str) -> str:
        return self.op(Opcode.SELECT_LAST, (x,), (self.activation("last", WIDTH, Rows.SELECTED),))

    def norm(self, x: str) -> str:
        weight = self.constant("norm", self.rng.normal(size=WIDTH).astype(np.float32))
        out = self.activation("normal", WIDTH, Rows.SELECTED)
        return self.op(Opcode.RMS_NORM, (x, weight), (out,), NORM)

    def linear(self, *inputs: str, flags: int = 0) -> str:
        out = self.activation("out", WIDTH, Rows.SELECTED)
        x, *residual = inputs
        return self.op(Opcode.LINEAR, (x, self.square("linear"), *residual), (out,), ONE, flags)


def logits(path: Path, tokens: list[int], rows: int) -> F32:
    with Model(path) as model, model.session(logits_rows=rows) as session:
        found: F32 = session.logits(tokens)
        return found[-rows:].copy()


def check_against_reference(path: Path) -> None:
    """A norm may be left to the linear that follows: with one row, and with several."""
    with Container(path) as container:
        expected = ReferenceSession(container).eval([3, 7], 2)[:, :ROWS]
    alone, both = logits(path, [3, 7], 1), logits(path, [3, 7], 2)
    assert np.abs(both - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.array_equal(alone[0], both[1])


def test_a_token_must_be_in_every_table(tmp_path: Path) -> None:
    b = Chain()
    x, y = b.embed("x", ROWS), b.embed("y", FEW_ROWS)
    both = b.op(Opcode.ADD, (x, y), (b.activation("both", WIDTH),))
    path = b.write(tmp_path / "m.ingot", "ids", b.last(both), FEW_ROWS)
    assert np.abs(logits(path, [FEW_ROWS - 1], 1)).max() > 0
    with pytest.raises(InvalidArgumentError, match=f"0 to {FEW_ROWS - 1}"):
        logits(path, [FEW_ROWS], 1)
    with Container(path) as container, pytest.raises(InvalidArgumentError):
        ReferenceSession(container).eval([FEW_ROWS], 1)


def test_a_norm_that_is_also_the_residual_is_written_out(tmp_path: Path) -> None:
    b = Chain()
    x = b.norm(b.last(b.embed("x", ROWS)))
    out = b.linear(x, x, flags=LinearFlag.RESIDUAL)
    check_against_reference(b.write(tmp_path / "m.ingot", "ids", out, ROWS))


def test_a_norm_that_is_the_result_is_written_out(tmp_path: Path) -> None:
    b = Chain()
    x = b.norm(b.last(b.embed("x", ROWS)))
    b.linear(x)
    check_against_reference(b.write(tmp_path / "m.ingot", "ids", x, ROWS))


def test_a_cancelled_trace_says_so(tmp_path: Path) -> None:
    path = every_op(tmp_path / "m.ingot", Dtype.Q8, 32)
    with Model(path) as model, model.session(threads=2) as session:
        # Session.cancel does nothing while none runs; the library remembers.
        native().lib.ingot_session_cancel(session._passes.handle)
        with pytest.raises(CancelledError):
            session.trace([1, 2, 3], 20)
        session.trace([1, 2, 3], 20)
