# SPDX-License-Identifier: Apache-2.0
"""A program cut where one activation alone passes on: what block-wise methods work through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ingot.format import Opcode, Role
from ingot_compressor.ir import Operation, Program

__all__ = ["split_blocks"]


def split_blocks(program: Program) -> tuple[Program, ...]:
    """Return programs that give the same result one after the other.

    Each takes the result of the one before as its input. The first embeds, the last has the head;
    those between have one attention each with all that follows it: the layers of the model, found
    from the flow of values and not from names.
    """
    starts = _starts(program)
    ends = [*starts[1:], len(program.operations)]
    blocks = []
    source = program.input
    for first, end in zip(starts, ends, strict=True):
        part = program.operations[first:end]
        result = program.output if end == len(program.operations) else part[-1].outputs[0]
        blocks.append(replace(program, operations=part, input=source, output=result))
        source = result
    return tuple(blocks)


def _starts(program: Program) -> list[int]:
    """Return where each block begins: at the embedding, each attention's part, and the head's."""
    cuts = [0, *_cuts(program)]
    ends = [*cuts[1:], len(program.operations)]
    parts = [program.operations[first:end] for first, end in zip(cuts, ends, strict=True)]
    starts = {0}
    starts |= {cut for cut, part in zip(cuts, parts, strict=True) if _has(part, Opcode.ATTENTION)}
    # what comes after the last linear operation of the body belongs to the head: its norm
    linear = [index for index, part in enumerate(parts) if _has(part, Opcode.LINEAR)]
    if len(linear) > 1:
        starts.add(ends[linear[-2]])
    return sorted(starts)


def _has(part: Sequence[Operation], opcode: Opcode) -> bool:
    return any(operation.opcode is opcode for operation in part)


def _cuts(program: Program) -> list[int]:
    """Return the operations before which one activation is alive, the last one made."""
    last: dict[str, int] = {}
    for index, operation in enumerate(program.operations):
        for name in operation.inputs:
            last[name] = index
    alive = {program.input}
    cuts = []
    for index, operation in enumerate(program.operations):
        alive |= {
            name for name in operation.outputs if program.tensors[name].role is Role.ACTIVATION
        }
        alive = {name for name in alive if last.get(name, -1) > index}
        if len(alive) == 1 and alive <= set(operation.outputs):
            cuts.append(index + 1)
    return [cut for cut in cuts if cut < len(program.operations)]
