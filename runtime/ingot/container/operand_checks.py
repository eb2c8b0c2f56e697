# SPDX-License-Identifier: Apache-2.0
"""Checks of one instruction: counts, ids, roles, parameter values and shapes of its operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import cast

from ingot.container.parts import Program, check
from ingot.format import (
    OPS,
    TILE_ROWS,
    ActivationKind,
    ActivationParameters,
    AttentionParameters,
    Dtype,
    Epilogue,
    LinearFlag,
    LinearParameters,
    NormParameters,
    Opcode,
    PlanHeader,
    Role,
    RopeParameters,
    RopeStyle,
    Rows,
    Rule,
    ScalarParameters,
    TensorRecord,
)
from ingot.packing.sizes import round_up

__all__ = ["check_instruction"]

_MAX_HEAD = 1024
_MAX_HEADS = 65536
_MAX_WEIGHTS = 3
_TYPES: dict[str, tuple[Role, Dtype | None]] = {
    "w": (Role.WEIGHT, None),
    "c": (Role.CONSTANT, Dtype.F32),
    "a": (Role.ACTIVATION, Dtype.F32),
    "t": (Role.ACTIVATION, Dtype.I32),
    "s": (Role.STATE, Dtype.F16),
}


@dataclass(frozen=True, slots=True)
class _Call:
    """An instruction with its operands looked up."""

    where: str
    flags: int
    record: object
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    context: int

    def value(self, condition: bool, message: str) -> None:
        check(condition, Rule.PARAMETERS_VALUE, f"{self.where}: {message}")

    def shape(self, condition: bool, message: str) -> None:
        check(condition, Rule.OPERAND_SHAPE, f"{self.where}: {message}")

    def same_rows(self, rows: Rows | None = None) -> None:
        """All f32 activations have the same kind of rows, this one if it is given."""
        both = (*self.inputs, *self.outputs)
        kinds = {t.rows for t in both if t.role == Role.ACTIVATION and t.dtype == Dtype.F32}
        good = len(kinds) == 1 and (rows is None or kinds == {rows})
        self.shape(good, f"rows of kinds {sorted(kinds)}, expected one kind")


def check_instruction(
    index: int, program: Program, tensors: tuple[TensorRecord, ...], plan: PlanHeader
) -> None:
    """Check an instruction whose record has passed."""
    item = program.instructions[index]
    opcode = Opcode(item.opcode)
    where = f"instruction {index} ({opcode.name.lower()})"
    record = program.record(index)
    if isinstance(record, LinearParameters):
        _check_linear_parameters(where, item.flags, record)
        signature = _linear_signature(item.flags, record)
    else:
        signature = OPS[opcode].inputs, OPS[opcode].outputs
    check(
        (item.inputs, item.outputs) == (len(signature[0]), len(signature[1])),
        Rule.OPERAND_COUNT,
        f"{where}: {item.inputs} inputs and {item.outputs} outputs, "
        f"expected {len(signature[0])} and {len(signature[1])}",
    )
    ids = (*program.inputs(index), *program.outputs(index))
    for tensor_id in ids:
        check(
            tensor_id < len(tensors),
            Rule.OPERAND_ID,
            f"{where}: operand {tensor_id}, there are {len(tensors)} tensors",
        )
    for tensor_id, letter in zip(ids, "".join(signature), strict=True):
        _check_role(where, tensors[tensor_id], letter)
    operands = tuple(tensors[tensor_id] for tensor_id in ids)
    inputs, outputs = operands[: item.inputs], operands[item.inputs :]
    _CHECKS[opcode](_Call(where, item.flags, record, inputs, outputs, plan.context))


def _check_role(where: str, tensor: TensorRecord, letter: str) -> None:
    role, dtype = _TYPES[letter]
    check(
        tensor.role == role and dtype in (None, tensor.dtype),
        Rule.OPERAND_ROLE,
        f"{where}: tensor {tensor.id} has role {tensor.role} and dtype {tensor.dtype}, "
        f"needed is a {role.name.lower()} of dtype {'any' if dtype is None else dtype.name}",
    )


def _check_linear_parameters(where: str, flags: int, record: LinearParameters) -> None:
    check(
        1 <= record.weights <= _MAX_WEIGHTS
        and record.epilogue <= max(Epilogue)
        and (record.epilogue == Epilogue.NONE or record.weights == 1),
        Rule.PARAMETERS_VALUE,
        f"{where}: {record.weights} weights with epilogue {record.epilogue}",
    )
    residual = bool(flags & LinearFlag.RESIDUAL)
    check(
        not (residual and record.weights > 1) and not (flags and record.epilogue != Epilogue.NONE),
        Rule.OP_FLAGS,
        f"{where}: flags {flags:#x} with {record.weights} weights and epilogue {record.epilogue}",
    )


def _linear_signature(flags: int, record: LinearParameters) -> tuple[str, str]:
    count = record.weights
    bias = "c" * count if flags & LinearFlag.BIAS else ""
    residual = "a" if flags & LinearFlag.RESIDUAL else ""
    return "a" + "w" * count + bias + residual, "a" * count


def _width(tensor: TensorRecord) -> int:
    return tensor.shape[1]


def _is_vector(tensor: TensorRecord, size: int) -> bool:
    return tensor.rank == 1 and tensor.shape[0] == size


def _check_embed(call: _Call) -> None:
    call.same_rows(Rows.TOKENS)
    table, out = call.inputs[1], call.outputs[0]
    call.shape(_width(table) == _width(out), f"table of {_width(table)}, output of {_width(out)}")


def _check_norm(call: _Call) -> None:
    record = cast(NormParameters, call.record)
    call.value(0 < record.epsilon < inf, f"epsilon {record.epsilon}, expected a positive number")
    call.value(record.width >= 1, "width 0")
    _check_same_widths(call)
    width = _width(call.outputs[0])
    call.shape(width % record.width == 0, f"width {record.width} does not divide {width}")
    for constant in call.inputs[1:]:
        call.shape(
            _is_vector(constant, record.width),
            f"constant {constant.id} of shape {constant.shape}, expected {record.width} elements",
        )


def _check_linear(call: _Call) -> None:
    record = cast(LinearParameters, call.record)
    call.same_rows()
    count = record.weights
    x, weights = call.inputs[0], call.inputs[1 : 1 + count]
    for weight, out in zip(weights, call.outputs, strict=True):
        gated = 2 * round_up(_width(out), TILE_ROWS)
        n = _width(out) if record.epilogue == Epilogue.NONE else gated
        call.shape(
            weight.shape[:2] == (n, _width(x)),
            f"weight {weight.id} of shape {weight.shape[:2]}, expected {(n, _width(x))}",
        )
    if call.flags & LinearFlag.BIAS:
        for bias, out in zip(call.inputs[1 + count : 1 + 2 * count], call.outputs, strict=True):
            call.shape(
                _is_vector(bias, _width(out)),
                f"bias {bias.id} of shape {bias.shape}, expected {_width(out)} elements",
            )
    if call.flags & LinearFlag.RESIDUAL:
        residual, width = _width(call.inputs[-1]), _width(call.outputs[0])
        call.shape(residual == width, f"residual of width {residual}, output of {width}")


def _check_rope(call: _Call) -> None:
    record = cast(RopeParameters, call.record)
    head, rotary = record.head_size, record.rotary_size
    call.value(
        1 <= head <= _MAX_HEAD
        and 2 <= rotary <= head
        and rotary % 2 == 0
        and record.style <= max(RopeStyle)
        and record.reserved == 0,
        f"head size {head}, rotary size {rotary}, style {record.style}, reserved {record.reserved}",
    )
    call.same_rows(Rows.TOKENS)
    table = call.inputs[2]
    for before, after in zip(call.inputs[:2], call.outputs, strict=True):
        call.shape(
            _width(before) == _width(after) and _width(before) % head == 0,
            f"widths {_width(before)} and {_width(after)}, expected equal multiples of {head}",
        )
    call.shape(
        table.rank == 2 and table.shape[0] >= call.context and table.shape[1] == rotary,
        f"table of shape {table.shape}, expected at least ({call.context}, {rotary})",
    )


def _check_attention(call: _Call) -> None:
    record = cast(AttentionParameters, call.record)
    heads, kv_heads, head = record.heads, record.kv_heads, record.head_size
    call.value(
        1 <= heads <= _MAX_HEADS
        and kv_heads >= 1
        and heads % kv_heads == 0
        and 1 <= head <= _MAX_HEAD,
        f"{heads} heads (at most {_MAX_HEADS}), {kv_heads} kv heads of {head}; "
        "kv heads must divide heads",
    )
    call.value(0 < record.scale < inf, f"scale {record.scale}, expected a positive number")
    call.value(
        record.soft_cap == 0 and record.reserved == 0,
        "soft_cap and reserved must be 0 in version 0",
    )
    call.value(record.sinks == 0 or record.window != 0, f"{record.sinks} sinks without a window")
    call.same_rows(Rows.TOKENS)
    wide, narrow = heads * head, kv_heads * head
    q, k, v, k_state, v_state = call.inputs
    widths = (_width(q), _width(k), _width(v), _width(call.outputs[0]))
    call.shape(
        widths == (wide, narrow, narrow, wide),
        f"widths {widths}, expected {(wide, narrow, narrow, wide)}",
    )
    for state in (k_state, v_state):
        call.shape(
            state.shape[:3] == (kv_heads, 0, head),
            f"state {state.id} of shape {state.shape}, expected {(kv_heads, 0, head)}",
        )


def _check_activation(call: _Call) -> None:
    kind = cast(ActivationParameters, call.record).kind
    call.value(kind in tuple(ActivationKind), f"unknown kind {kind}")
    _check_same_widths(call)


def _check_scale(call: _Call) -> None:
    value = cast(ScalarParameters, call.record).value
    call.value(-inf < value < inf, f"factor {value}")
    _check_same_widths(call)


def _check_soft_cap(call: _Call) -> None:
    value = cast(ScalarParameters, call.record).value
    call.value(0 < value < inf, f"cap {value}, expected a positive number")
    _check_same_widths(call)


def _check_same_widths(call: _Call) -> None:
    """Elementwise ops: rows and width of all activations are the same."""
    call.same_rows()
    tensors = (*call.inputs, *call.outputs)
    widths = {_width(t) for t in tensors if t.role == Role.ACTIVATION}
    call.shape(len(widths) == 1, f"widths {sorted(widths)}, expected one")


def _check_select_last(call: _Call) -> None:
    x, out = call.inputs[0], call.outputs[0]
    call.shape(
        (x.rows, out.rows) == (Rows.TOKENS, Rows.SELECTED) and _width(x) == _width(out),
        f"rows {x.rows} to {out.rows}, widths {_width(x)} to {_width(out)}",
    )


_CHECKS: dict[Opcode, Callable[[_Call], None]] = {
    Opcode.EMBED: _check_embed,
    Opcode.RMS_NORM: _check_norm,
    Opcode.LAYER_NORM: _check_norm,
    Opcode.LINEAR: _check_linear,
    Opcode.ROPE: _check_rope,
    Opcode.ATTENTION: _check_attention,
    Opcode.ACTIVATION: _check_activation,
    Opcode.ADD: _check_same_widths,
    Opcode.MUL: _check_same_widths,
    Opcode.SCALE: _check_scale,
    Opcode.SOFT_CAP: _check_soft_cap,
    Opcode.SELECT_LAST: _check_select_last,
}
