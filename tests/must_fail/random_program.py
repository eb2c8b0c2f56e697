# SPDX-License-Identifier: Apache-2.0
"""Random programs over a small arena, and the liveness rule by its definition, in square time."""

from __future__ import annotations

import random
from dataclasses import replace

from ingot.format import (
    Dtype,
    Instruction,
    LinearFlag,
    LinearParameters,
    NormParameters,
    Opcode,
    Role,
    RopeParameters,
    Rows,
    ScalarParameters,
    TensorRecord,
)
from tests.must_fail.tiny_file import CONTEXT, HEAD, VOCABULARY, WIDTH, Builder

_SLOTS = 40  # of 64 bytes; an activation takes four
_ELEMENTWISE = {Opcode.ADD, Opcode.MUL, Opcode.SCALE, Opcode.RMS_NORM}


def random_program(noise: random.Random) -> Builder:
    """Return a program that is sound but for the places of its activations."""
    b = Builder()
    tokens = b.tokens()
    table = b.weight("table", Dtype.Q8, VOCABULARY, WIDTH)
    weight = b.weight("weight", Dtype.C4, WIDTH, WIDTH)
    norm, rope = b.constant("norm", WIDTH), b.constant("rope", CONTEXT, HEAD)
    first = b.activation("first", WIDTH)
    b.do(Opcode.EMBED, [tokens, table], [first])
    written = [first]
    for step in range(noise.randrange(2, 9)):
        count = 2 if noise.random() < 0.15 else 1
        outputs = [_output(b, noise, f"{step}.{k}", written) for k in range(count)]
        x, y = noise.choice(written[-3:]), noise.choice(written[-3:])
        if count == 2:
            b.do(Opcode.ROPE, [x, y, rope], outputs, RopeParameters(HEAD, HEAD, 0))
        else:
            _one_output(b, noise, (x, y, weight, norm), outputs)
        written += outputs
    last = b.activation("last", WIDTH, Rows.SELECTED)
    b.do(Opcode.SELECT_LAST, [written[-1]], [last])
    b.arena[Rows.TOKENS] = 64 * (_SLOTS + 4)
    return b


def _output(b: Builder, noise: random.Random, name: str, written: list[int]) -> int:
    """Place a new activation anywhere, or over an old one, or write an old one again."""
    choice = noise.random()
    if choice < 0.1:
        return noise.choice(written)
    index = b.activation(name, WIDTH)
    over = b.tensors[noise.choice(written)].offset
    offset = over if choice < 0.4 else 64 * noise.randrange(_SLOTS)
    b.tensors[index] = replace(b.tensors[index], offset=offset)
    return index


def _one_output(
    b: Builder, noise: random.Random, operands: tuple[int, int, int, int], outputs: list[int]
) -> None:
    x, y, weight, norm = operands
    kind = noise.randrange(6)
    if kind == 0:
        b.do(Opcode.LINEAR, [x, weight], outputs, LinearParameters(1, 0))
    elif kind == 1:
        record = LinearParameters(1, 0)
        b.do(Opcode.LINEAR, [x, weight, y], outputs, record, LinearFlag.RESIDUAL)
    elif kind == 2:
        b.do(Opcode.RMS_NORM, [x, norm], outputs, NormParameters(1e-5, WIDTH))
    elif kind == 3:
        b.do(Opcode.SCALE, [x], outputs, ScalarParameters(2.0))
    else:
        b.do(Opcode.ADD if kind == 4 else Opcode.MUL, [x, y], outputs)


def breaks_liveness(b: Builder) -> bool:
    """Say by the definition whether an activation is overwritten while it is needed."""
    for index, item in enumerate(b.instructions):
        inputs, outputs = _operands(b, item)
        for place, out in enumerate(outputs):
            others = [t.id for t in b.tensors if t.id != out and _live_after(b, t.id, index)]
            others += outputs[place + 1 :]
            if any(_overlap(b.tensors[out], b.tensors[other]) for other in others):
                return True
            for position, tensor in enumerate(inputs):
                same = b.tensors[tensor].offset == b.tensors[out].offset
                if _overlap(b.tensors[out], b.tensors[tensor]) and not (
                    same and _in_place(item, position, place)
                ):
                    return True
    return False


def _operands(b: Builder, item: Instruction) -> tuple[list[int], list[int]]:
    ids = b.operands[item.first_operand :][: item.inputs + item.outputs]
    return ids[: item.inputs], ids[item.inputs :]


def _live_after(b: Builder, tensor: int, index: int) -> bool:
    """Some later instruction reads it before any writes it again."""
    for item in b.instructions[index + 1 :]:
        inputs, outputs = _operands(b, item)
        if tensor in inputs:
            return True
        if tensor in outputs:
            return False
    return tensor == len(b.tensors) - 1


def _overlap(a: TensorRecord, b: TensorRecord) -> bool:
    arena = all(t.role == Role.ACTIVATION and t.dtype == Dtype.F32 for t in (a, b))
    slots = [set(range(t.offset // 64, (t.offset + t.size) // 64)) for t in (a, b)]
    return arena and a.rows == b.rows and bool(slots[0] & slots[1])


def _in_place(item: Instruction, position: int, place: int) -> bool:
    if item.opcode == Opcode.ROPE:
        return position == place
    if item.opcode == Opcode.LINEAR:
        return item.flags == LinearFlag.RESIDUAL and position == 2
    return item.opcode in _ELEMENTWISE


def wide_program(count: int) -> Builder:
    """Return a sound program in which `count` activations are live at once."""
    b = Builder()
    tokens = b.tokens()
    table = b.weight("table", Dtype.Q8, VOCABULARY, WIDTH)
    live = [b.activation("0", WIDTH)]
    b.do(Opcode.EMBED, [tokens, table], live)
    for index in range(1, count):
        live.append(b.activation(f"{index}", WIDTH))
        b.do(Opcode.ADD, [live[-2], live[-2]], [live[-1]])
    total = live[-1]
    for index in reversed(range(count - 1)):
        total = b.activation(f"sum {index}", WIDTH, over=total)
        b.do(Opcode.ADD, [total - 1, live[index]], [total])
    last = b.activation("last", WIDTH, Rows.SELECTED)
    b.do(Opcode.SELECT_LAST, [total], [last])
    return b
