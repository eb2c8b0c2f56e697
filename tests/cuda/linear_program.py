# SPDX-License-Identifier: Apache-2.0
"""A program that reads a weight format in every way: tables, odd shapes, parts, epilogues."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ingot.format import Dtype, Epilogue, Layout, LinearFlag, LinearParameters, Opcode, Rows
from ingot.packing import WEIGHT_FORMATS, Quantized
from tests.runtime.random_weights import make
from tests.runtime.small_program import ProgramBuilder

__all__ = ["FORMATS", "linear_program"]

VOCABULARY = 37
FORMATS = [
    (Dtype.F16, 0),
    (Dtype.Q8, 32),
    (Dtype.Q6, 32),
    (Dtype.C5, 32),
    (Dtype.Q4, 32),
    (Dtype.Q4, 64),
    (Dtype.Q4, 128),
    (Dtype.Q4Z, 32),
    (Dtype.Q4Z, 128),
    (Dtype.C4, 32),
    (Dtype.C3, 32),
    (Dtype.C2, 32),
    (Dtype.T2, 0),
]


class _Cases:
    def __init__(self, dtype: Dtype, group: int, sparse: bool, layout: Layout) -> None:
        self.b = ProgramBuilder(chunk=32)
        self.dtype, self.group, self.sparse, self.layout = dtype, group, sparse, layout
        self.seed = 0

    def random(self, n: int, k: int, sparse: bool) -> Quantized:
        self.seed += 1
        return make(self.dtype, self.group, n, k, self.seed, self.layout, sparse)

    def weight(self, n: int, k: int) -> str:
        return self.b.weight(f"w{len(self.b.names)}", self.random(n, k, self.sparse))

    def vector(self, n: int) -> str:
        values = np.random.default_rng(n).normal(size=n).astype(np.float32)
        return self.b.constant(f"c{len(self.b.names)}", values)

    def linear(
        self,
        x: str,
        k: int,
        widths: tuple[int, ...],
        *,
        epilogue: int = Epilogue.NONE,
        bias: bool = False,
        residual: str = "",
    ) -> str:
        """Append a linear; its weights have the widths' rows, of a gate twice as many tiles."""
        rows = [2 * -(-n // 16) * 16 if epilogue else n for n in widths]
        weights = tuple(self.weight(n, k) for n in rows)
        biases = tuple(self.vector(n) for n in widths) if bias else ()
        outs = tuple(self.b.activation(f"y{len(self.b.names)}_{n}", n) for n in widths)
        last = (residual,) if residual else ()
        flags = LinearFlag.BIAS * bias | LinearFlag.RESIDUAL * bool(residual)
        parameters = LinearParameters(len(widths), epilogue)
        return self.b.op(Opcode.LINEAR, (x, *weights, *biases, *last), outs, parameters, flags)

    def of_width(self, k: int) -> None:
        """A table of rows of k, and linears that read them."""
        table = self.b.weight(f"t{k}", self.random(VOCABULARY, k, False))
        x = self.b.op(Opcode.EMBED, ("ids", table), (self.b.activation(f"x{k}", k),))
        self.linear(x, k, (150,))
        self.linear(x, k, (40, 16, 23), bias=True)
        gated = self.linear(x, k, (24,), epilogue=Epilogue.SILU_GATE)
        self.linear(gated, 24, (k,), residual=x)
        self.linear(x, k, (40,), epilogue=Epilogue.GELU_TANH_GATE)


def linear_program(
    path: Path, dtype: Dtype, group: int, sparse: bool = False, layout: Layout = Layout.T16
) -> Path:
    """Write the program: rows of 40 and of two superblocks and a part of one."""
    cases = _Cases(dtype, group, sparse, layout)
    cases.b.tokens("ids")
    known = WEIGHT_FORMATS[dtype]
    longest = (group or 32) * known.superblock * 2 + 40
    for k in (40, longest):
        cases.of_width(k)
    head = cases.b.weight("head", cases.random(VOCABULARY, 40, False))
    last = cases.b.activation("last", 40, Rows.SELECTED)
    logits = cases.b.activation("logits", VOCABULARY, Rows.SELECTED)
    cases.b.op(Opcode.SELECT_LAST, ("x40",), (last,))
    output = cases.b.op(Opcode.LINEAR, (last, head), (logits,), LinearParameters(1, Epilogue.NONE))
    return cases.b.write(path, "ids", output, VOCABULARY)
