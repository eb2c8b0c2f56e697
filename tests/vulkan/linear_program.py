# SPDX-License-Identifier: Apache-2.0
"""A program of linears of one format at odd shapes, and its check against the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ingot.container import Container
from ingot.format import (
    Dtype,
    Epilogue,
    Layout,
    LinearFlag,
    LinearParameters,
    Opcode,
    Rows,
    ScalarParameters,
)
from ingot.reference import check_operations
from ingot.reference.compare import OperationCheck
from tests.runtime.random_weights import make
from tests.runtime.small_program import ProgramBuilder
from tests.vulkan.backend_driver import BackendSession

VOCABULARY = 53
WIDE, KNOWN, GATED, NARROW = 5003, 4990, 1590, 32  # of wide_program; ids below KNOWN are sampled
ONE = LinearParameters(1, Epilogue.NONE)


class LinearProgram:
    """tokens, a table, then linears of every kind; `k` and `n` are the odd sizes."""

    def __init__(
        self, dtype: Dtype, group: int, layout: Layout, k: int, n: int, sparse: bool = False
    ) -> None:
        self.b = ProgramBuilder(chunk=32)
        self.dtype, self.group, self.layout = dtype, group, layout
        self.k, self.n, self.seed, self.sparse = k, n, 0, sparse
        self.dense = {"table"}  # whatever `sparse` says

    def weight(self, name: str, n: int, k: int) -> str:
        self.seed += 1
        sparse = self.sparse and name not in self.dense
        made = make(self.dtype, self.group, n, k, seed=self.seed, layout=self.layout, sparse=sparse)
        return self.b.weight(name, made)

    def vector(self, name: str, width: int) -> str:
        rng = np.random.default_rng(width)
        return self.b.constant(name, rng.normal(size=width).astype(np.float32))

    def linear(
        self, x: str, weight: str, out: str, width: int, parameters: LinearParameters = ONE
    ) -> str:
        return self.b.op(Opcode.LINEAR, (x, weight), (self.b.activation(out, width),), parameters)

    def three(self, x: str) -> None:
        widths = {"a": self.n, "b": 16, "c": 33}
        weights = tuple(self.weight(f"{name}.weight", n, self.k) for name, n in widths.items())
        biases = tuple(self.vector(f"{name}.bias", n) for name, n in widths.items())
        outs = tuple(self.b.activation(name, n) for name, n in widths.items())
        parameters = LinearParameters(3, Epilogue.NONE)
        self.b.op(Opcode.LINEAR, (x, *weights, *biases), outs, parameters, LinearFlag.BIAS)

    def write(self, path: Path) -> Path:
        self.b.tokens("ids")
        table = self.weight("table", VOCABULARY, self.k)
        x = self.b.op(Opcode.EMBED, ("ids", table), (self.b.activation("x", self.k),))
        self.three(x)
        for epilogue in (Epilogue.SILU_GATE, Epilogue.GELU_TANH_GATE):
            half = -(-self.n // 16) * 16
            gate = self.weight(f"gate{int(epilogue)}", 2 * half, self.n)
            out = f"gated{int(epilogue)}"
            self.linear("a", gate, out, self.n, LinearParameters(1, epilogue))
        back = (self.b.activation("back", self.k),)
        inputs = ("a", self.weight("back.weight", self.k, self.n), x)
        self.b.op(Opcode.LINEAR, inputs, back, ONE, LinearFlag.RESIDUAL)
        last = self.b.activation("last", self.k, Rows.SELECTED)
        self.b.op(Opcode.SELECT_LAST, ("back",), (last,))
        logits = self.b.activation("logits", VOCABULARY, Rows.SELECTED)
        self.b.op(Opcode.LINEAR, (last, table), (logits,), ONE)
        return self.b.write(path, "ids", logits, VOCABULARY)


def wide_program(path: Path) -> Path:
    """Write a table and a gate of many tiles; the last instruction copies `raw` to the logits."""
    b = ProgramBuilder(chunk=32)
    b.tokens("ids")
    table = b.weight("table", make(Dtype.F16, 0, WIDE, NARROW))
    gate = b.weight("gate", make(Dtype.Q8, 32, 2 * -(-GATED // 16) * 16, NARROW, seed=1))
    b.op(Opcode.EMBED, ("ids", table), (b.activation("x", NARROW),))
    gated = (b.activation("gated", GATED),)
    b.op(Opcode.LINEAR, ("x", gate), gated, LinearParameters(1, Epilogue.SILU_GATE))
    b.op(Opcode.SELECT_LAST, ("x",), (b.activation("last", NARROW, Rows.SELECTED),))
    raw = b.activation("raw", WIDE, Rows.SELECTED)
    b.op(Opcode.LINEAR, ("last", table), (raw,), ONE)
    logits = b.activation("logits", WIDE, Rows.SELECTED)
    b.op(Opcode.SCALE, (raw,), (logits,), ScalarParameters(1.0))
    return b.write(path, "ids", logits, KNOWN)


def check_session(
    container: Container, session: BackendSession, tokens: list[int], wanted: int
) -> list[OperationCheck]:
    """Run a pass and hold each op's results to the reference's bound on the pass's own inputs.

    Every activation of a built program has a place of its own, so that all can be read at the end.
    """
    session.run(tokens, wanted, keep=False)

    def read(_: int, tensor: int) -> np.ndarray:
        selected = container.tensors[tensor].rows == Rows.SELECTED
        return session.read(tensor, wanted if selected else len(tokens))

    return check_operations(container, tokens, read, wanted)


def worst(checks: list[OperationCheck]) -> OperationCheck:
    """Return the check that is nearest to its bound or farthest beyond."""
    return max(checks, key=lambda check: check.ratio)
