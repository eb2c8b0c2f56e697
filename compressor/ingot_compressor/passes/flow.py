# SPDX-License-Identifier: Apache-2.0
"""Who makes and who reads each tensor of an unfused program, and where channels may be scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import (
    AttentionParameters,
    Epilogue,
    LinearFlag,
    LinearParameters,
    NormParameters,
    Opcode,
)
from ingot_compressor.ir import Operation, Program

__all__ = ["Flow", "Site", "check_unfused", "find_sites"]

NORMS = (Opcode.RMS_NORM, Opcode.LAYER_NORM)


@dataclass(frozen=True, slots=True)
class Flow:
    """The operations of a program by what they make and read."""

    program: Program
    maker: Mapping[str, Operation]
    readers: Mapping[str, tuple[Operation, ...]]

    @classmethod
    def of(cls, program: Program) -> Flow:
        """Return the flow of a program."""
        readers: dict[str, list[Operation]] = {}
        for operation in program.operations:
            for name in dict.fromkeys(operation.inputs):
                readers.setdefault(name, []).append(operation)
        return cls(
            program,
            {name: op for op in program.operations for name in op.outputs},
            {name: tuple(found) for name, found in readers.items()},
        )

    def linear_readers(self, name: str) -> tuple[Operation, ...]:
        """Return the linear operations over an activation; none if anything else reads it too."""
        readers = self.readers.get(name, ())
        linear = all(op.opcode is Opcode.LINEAR and op.linear().x == name for op in readers)
        return readers if linear and name != self.program.output else ()

    def weights_of(self, readers: tuple[Operation, ...]) -> tuple[str, ...]:
        """Return the weights of linear operations; none if one of them has another use."""
        names = tuple(name for op in readers for name in op.linear().weights)
        return names if all(self.once(name) for name in names) else ()

    def once(self, name: str) -> bool:
        """Whether a weight or constant is used in one place."""
        uses = [op.inputs.count(name) for op in self.readers.get(name, ())]
        return uses == [1]

    def own_linear(self, name: str) -> tuple[str, ...]:
        """Return weight and bias of the linear that makes an activation for one reader alone.

        Nothing if it is made or read otherwise, or the weight has another use.
        """
        maker, readers = self.maker.get(name), self.readers.get(name, ())
        alone = len(readers) == 1 and readers[0].inputs.count(name) == 1
        alone = alone and name != self.program.output
        if maker is None or maker.opcode is not Opcode.LINEAR or not alone:
            return ()
        operands, index = maker.linear(), maker.outputs.index(name)
        parts = (operands.weights[index], *operands.biases[index : index + 1])
        return parts if all(self.once(part) for part in parts) else ()

    def full_norm(self, operation: Operation) -> bool:
        """Whether an operation is a norm over whole rows, not over the slices of heads."""
        parameters = operation.parameters
        width = self.program.tensors[operation.outputs[0]].width
        is_norm = operation.opcode in NORMS
        return is_norm and isinstance(parameters, NormParameters) and parameters.width == width


@dataclass(frozen=True, slots=True)
class Site:
    """An activation whose channels may be divided by scales where its readers multiply by them.

    `weights` are those of all its readers. `divided` makes it: the constants of a norm, or weight
    and bias of the linear before. Behind an attention `heads` key-value heads each feed `shared`
    heads of `x`, which share their scales; elsewhere `heads` is 1 and `shared` 1.
    """

    x: str
    weights: tuple[str, ...]
    divided: tuple[str, ...]
    heads: int = 1
    shared: int = 1

    def columns(self, scales: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scale of each column of `weights` from those of the maker's channels.

        Shapes: (channels,) -> (channels * shared,).
        """
        return np.repeat(scales.reshape(self.heads, -1), self.shared, axis=0).ravel()

    def by_channel(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return statistics of columns with the `shared` ones of each channel apart.

        Shapes: (channels * shared,) -> (shared, channels).
        """
        parts = columns.reshape(self.heads, self.shared, -1)
        return parts.transpose(1, 0, 2).reshape(self.shared, -1)


def check_unfused(program: Program) -> None:
    """Refuse a program after `fuse`: a gate's weight holds two matrices there.

    Raises: InvalidArgumentError.
    """
    for operation in program.operations:
        parameters = operation.parameters
        gated = isinstance(parameters, LinearParameters) and parameters.epilogue != Epilogue.NONE
        if gated or (operation.opcode is Opcode.LINEAR and operation.flags & LinearFlag.RESIDUAL):
            raise InvalidArgumentError(
                f"'{operation.outputs[0]}' is made by a fused operation: transform before fuse"
            )


def find_sites(program: Program) -> tuple[Site, ...]:
    """Return where channels may be scaled, in the order of execution, from the flow of values.

    A norm feeds linears alone; a product has a factor that a linear makes for it alone; the values
    of an attention are made by a linear. No weight of a site has a second use, as a tied head has.
    Raises: InvalidArgumentError for a fused program.
    """
    check_unfused(program)
    flow = Flow.of(program)
    found = []
    for operation in program.operations:
        x = operation.outputs[0]
        weights = flow.weights_of(flow.linear_readers(x))
        divided = _divided(flow, operation) if weights else ()
        if divided:
            found.append(Site(x, weights, divided, *_sharing(operation)))
    return tuple(found)


def _divided(flow: Flow, operation: Operation) -> tuple[str, ...]:
    if flow.full_norm(operation):
        constants = operation.inputs[1:]
        return constants if all(flow.once(name) for name in constants) else ()
    if operation.opcode is Opcode.MUL:
        makers = (flow.own_linear(name) for name in operation.inputs)
        return next((found for found in makers if found), ())
    if operation.opcode is Opcode.ATTENTION:
        return flow.own_linear(operation.inputs[2])
    return ()


def _sharing(operation: Operation) -> tuple[int, int]:
    parameters = operation.parameters
    if isinstance(parameters, AttentionParameters):
        return parameters.kv_heads, parameters.heads // parameters.kv_heads
    return 1, 1
