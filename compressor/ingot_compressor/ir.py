# SPDX-License-Identifier: Apache-2.0
"""The program as the compressor sees it: named tensors and a flat list of operations.

Everything is frozen; a pass returns a new program. Shapes follow the tensor records of the file:
activations (0, width), token ids (0,), states (kv_heads, 0, head_size), weights (n, k), with 0 for
what is only known at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InternalError
from ingot.format import Dtype, LinearFlag, LinearParameters, Opcode, Parameters, Role, Rows

if TYPE_CHECKING:
    from ingot.packing import Quantized

__all__ = ["FloatArray", "LinearOperands", "Operation", "Program", "Source", "Tensor", "Weight"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix that is read only when `load` is called.

    Shapes: load() -> (n, k) float32, equal to `shape`; each call reads anew.
    """

    name: str  # where it came from, for messages
    shape: tuple[int, int]
    load: Callable[[], FloatArray]


Source: TypeAlias = "Weight | FloatArray | Quantized | None"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a program.

    `source` is a Weight or a Quantized for role weight (dtype f32 until it is quantized), a float32
    array for role constant, None for activations and states.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    rows: Rows = Rows.NONE
    dtype: Dtype = Dtype.F32
    source: Source = None

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.shape[-1]


@dataclass(frozen=True, slots=True)
class LinearOperands:
    """The inputs of a linear operation by their parts."""

    x: str
    weights: tuple[str, ...]
    biases: tuple[str, ...]
    residual: str | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One instruction; the meaning of inputs and parameters is that of the opcode."""

    opcode: Opcode
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Parameters | None = None
    flags: int = 0

    def linear(self) -> LinearOperands:
        """Return the operands of a linear operation.

        Raises: InternalError for another opcode.
        """
        if self.opcode is not Opcode.LINEAR or not isinstance(self.parameters, LinearParameters):
            raise InternalError(f"{self.opcode.name.lower()} has no linear operands")
        count = self.parameters.weights
        biased = count if self.flags & LinearFlag.BIAS else 0
        rest = self.inputs[1 + count + biased :]
        return LinearOperands(
            x=self.inputs[0],
            weights=self.inputs[1 : 1 + count],
            biases=self.inputs[1 + count : 1 + count + biased],
            residual=rest[0] if self.flags & LinearFlag.RESIDUAL else None,
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A model: from `input` (token ids) through `operations` to `output` (logits)."""

    tensors: Mapping[str, Tensor]
    operations: tuple[Operation, ...]
    input: str
    output: str
    context: int  # most positions of a session
    chunk: int  # most tokens of one pass
    vocabulary: int  # ids that may be sampled
    meta: Mapping[str, Any]

    def weights(self) -> Iterator[Tensor]:
        """Yield each weight once, in the order of first use."""
        seen: set[str] = set()
        for operation in self.operations:
            for name in operation.inputs:
                tensor = self.tensors[name]
                if tensor.role is Role.WEIGHT and name not in seen:
                    seen.add(name)
                    yield tensor

    def embedding(self) -> str:
        """Return the name of the token table (also the head's where they are tied)."""
        return next(op.inputs[1] for op in self.operations if op.opcode is Opcode.EMBED)

    def head(self) -> str:
        """Return the name of the weight that gives the logits."""
        for operation in reversed(self.operations):
            if operation.opcode is Opcode.LINEAR:
                return operation.linear().weights[0]
        raise InternalError("the program has no linear operation")

    def with_tensors(self, changed: Mapping[str, Tensor]) -> Program:
        """Return the program with some tensors replaced by name."""
        return replace(self, tensors={**self.tensors, **changed})
