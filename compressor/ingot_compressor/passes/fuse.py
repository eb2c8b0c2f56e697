# SPDX-License-Identifier: Apache-2.0
"""Rewrites operations into the fused forms of `linear`: shared input, gate and residual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ingot.errors import InternalError
from ingot.format import (
    TILE_ROWS,
    ActivationKind,
    ActivationParameters,
    Epilogue,
    LinearFlag,
    LinearParameters,
    Opcode,
)
from ingot_compressor.ir import FloatArray, Operation, Program, Tensor, Weight

__all__ = ["fuse", "interleave_tiles"]

MOST_WEIGHTS = 3
EPILOGUES: Mapping[int, Epilogue] = {
    ActivationKind.SILU: Epilogue.SILU_GATE,
    ActivationKind.GELU_TANH: Epilogue.GELU_TANH_GATE,
}


def fuse(program: Program) -> Program:
    """Return the program with gates, residuals and shared inputs of `linear` fused.

    Matrices stay unread: a fused gate reads its two parts when it is loaded.
    """
    return drop_unused(fuse_shared_inputs(fuse_residuals(fuse_gates(program))))


def interleave_tiles(gate: FloatArray, up: FloatArray) -> FloatArray:
    """Return the rows of gate and up in turn, a tile of 16 each, zero rows at the end.

    Shapes: gate, up (n, k) float32; result (2 * round_up(n, 16), k).
    """
    n, k = gate.shape
    tiles = -(-n // TILE_ROWS)
    padded = np.zeros((2, tiles * TILE_ROWS, k), np.float32)
    padded[0, :n], padded[1, :n] = gate, up
    stacked = padded.reshape(2, tiles, TILE_ROWS, k).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(stacked).reshape(2 * tiles * TILE_ROWS, k)


def _load_interleaved(gate: Weight, up: Weight) -> FloatArray:
    return interleave_tiles(gate.load(), up.load())


@dataclass(frozen=True, slots=True)
class _Uses:
    """Who makes each tensor and how often it is read."""

    maker: Mapping[str, int]
    readers: Mapping[str, int]

    @classmethod
    def of(cls, program: Program) -> _Uses:
        maker = {name: i for i, op in enumerate(program.operations) for name in op.outputs}
        readers = Counter(name for op in program.operations for name in op.inputs)
        readers[program.output] += 1
        return cls(maker, readers)

    def sole_source(self, program: Program, name: str, opcode: Opcode) -> int | None:
        """Return the index of the operation that makes `name`, if nobody else reads it."""
        index = self.maker.get(name)
        if index is None or self.readers[name] != 1:
            return None
        return index if program.operations[index].opcode is opcode else None


def fuse_gates(program: Program) -> Program:
    """Rewrite act(linear(x, gate)) * linear(x, up) into one linear over an interleaved weight."""
    uses = _Uses.of(program)
    replaced: dict[int, Operation | None] = {}
    tensors: dict[str, Tensor] = {}
    for index, operation in enumerate(program.operations):
        parts = _gate_parts(program, uses, operation)
        if parts is None:
            continue
        weight, fused = _gated_linear(program, operation, parts)
        tensors[weight.name] = weight
        replaced.update({parts.gate: None, parts.act: None, parts.up: None, index: fused})
    return _rewritten(program.with_tensors(tensors), replaced)


@dataclass(frozen=True, slots=True)
class _GateParts:
    """Indices of the operations of one gate."""

    gate: int
    act: int
    up: int
    epilogue: Epilogue


def _gate_parts(program: Program, uses: _Uses, operation: Operation) -> _GateParts | None:
    if operation.opcode is not Opcode.MUL:
        return None
    act = uses.sole_source(program, operation.inputs[0], Opcode.ACTIVATION)
    up = uses.sole_source(program, operation.inputs[1], Opcode.LINEAR)
    if act is None or up is None:
        return None
    activation = program.operations[act]
    gate = uses.sole_source(program, activation.inputs[0], Opcode.LINEAR)
    if gate is None or not isinstance(activation.parameters, ActivationParameters):
        return None
    epilogue = EPILOGUES.get(activation.parameters.kind)
    plain = all(_is_plain(program.operations[index]) for index in (gate, up))
    same_input = program.operations[gate].inputs[0] == program.operations[up].inputs[0]
    if epilogue is None or not plain or not same_input:
        return None
    return _GateParts(gate, act, up, epilogue)


def _is_plain(operation: Operation) -> bool:
    return operation.flags == 0 and operation.parameters == LinearParameters(1, Epilogue.NONE)


def _gated_linear(
    program: Program, product: Operation, parts: _GateParts
) -> tuple[Tensor, Operation]:
    operands = [program.operations[index].linear() for index in (parts.gate, parts.up)]
    gate, up = (program.tensors[one.weights[0]] for one in operands)
    if not isinstance(gate.source, Weight) or not isinstance(up.source, Weight):
        raise InternalError(f"{gate.name}: fuse runs before quantization")
    n, k = gate.shape
    shape = (2 * TILE_ROWS * -(-n // TILE_ROWS), k)
    load = partial(_load_interleaved, gate.source, up.source)
    name = f"{gate.name}_{up.name.rsplit('.', 1)[-1]}"
    source = Weight(f"{gate.source.name} + {up.source.name}", shape, load)
    fused = Operation(
        Opcode.LINEAR,
        (operands[0].x, name),
        product.outputs,
        LinearParameters(weights=1, epilogue=parts.epilogue),
    )
    return replace(gate, name=name, shape=shape, source=source), fused


def fuse_residuals(program: Program) -> Program:
    """Rewrite linear(y, w) + x into a linear with residual x."""
    uses = _Uses.of(program)
    replaced: dict[int, Operation | None] = {}
    for index, operation in enumerate(program.operations):
        if operation.opcode is not Opcode.ADD:
            continue
        linear, residual = operation.inputs
        made = uses.sole_source(program, linear, Opcode.LINEAR)
        if made is None or made in replaced or not _takes_residual(program.operations[made]):
            continue
        source = program.operations[made]
        replaced[made] = None
        replaced[index] = replace(
            source,
            inputs=(*source.inputs, residual),
            outputs=operation.outputs,
            flags=source.flags | LinearFlag.RESIDUAL,
        )
    return _rewritten(program, replaced)


def _takes_residual(operation: Operation) -> bool:
    free = not operation.flags & LinearFlag.RESIDUAL
    return free and operation.parameters == LinearParameters(1, Epilogue.NONE)


def fuse_shared_inputs(program: Program) -> Program:
    """Join neighbouring linears over one input, at most three (q, k and v)."""
    operations: list[Operation] = []
    for operation in program.operations:
        if operations and _may_join(operations[-1], operation):
            operations[-1] = _joined(operations[-1], operation)
        else:
            operations.append(operation)
    return replace(program, operations=tuple(operations))


def _may_join(first: Operation, second: Operation) -> bool:
    if first.opcode is not Opcode.LINEAR or second.opcode is not Opcode.LINEAR:
        return False
    a, b = first.linear(), second.linear()
    plain = all(
        isinstance(op.parameters, LinearParameters)
        and op.parameters.epilogue == Epilogue.NONE
        and not op.flags & LinearFlag.RESIDUAL
        for op in (first, second)
    )
    few = len(a.weights) + len(b.weights) <= MOST_WEIGHTS
    return plain and few and a.x == b.x and bool(a.biases) == bool(b.biases)


def _joined(first: Operation, second: Operation) -> Operation:
    a, b = first.linear(), second.linear()
    return Operation(
        Opcode.LINEAR,
        (a.x, *a.weights, *b.weights, *a.biases, *b.biases),
        first.outputs + second.outputs,
        LinearParameters(weights=len(a.weights) + len(b.weights), epilogue=Epilogue.NONE),
        first.flags,
    )


def _rewritten(program: Program, replaced: Mapping[int, Operation | None]) -> Program:
    """Return the program with operations replaced by index, or dropped where None."""
    kept = (replaced.get(index, op) for index, op in enumerate(program.operations))
    return replace(program, operations=tuple(op for op in kept if op is not None))


def drop_unused(program: Program) -> Program:
    """Return the program without tensors that no operation names, in the order of first use."""
    used = [program.input]
    for operation in program.operations:
        used += operation.inputs + operation.outputs
    tensors = {name: program.tensors[name] for name in dict.fromkeys(used)}
    return replace(program, tensors=tensors)
