# SPDX-License-Identifier: Apache-2.0
"""How far a float32 kernel may be from the reference, per output of one instruction.

Each bound holds for the same inputs on both sides and counts the roundings of a kernel that sums
in 16 lanes and takes exp, tanh and 1/sqrt from functions that are right to a few units. `UNIT` is
2^-24, one rounding. An op without a rounding of its own has bound 0: it must agree to the bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.format import (
    ActivationKind,
    ActivationParameters,
    AttentionParameters,
    Epilogue,
    LinearFlag,
    LinearParameters,
    NormParameters,
    Opcode,
    RopeParameters,
    ScalarParameters,
)
from ingot.reference.attention import State, attention
from ingot.reference.elementwise import gelu_tanh, silu
from ingot.reference.linear import UNIT, gate_parts, linear, linear_error_bound
from ingot.reference.session import ReferenceSession

__all__ = ["operation_bounds"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_FUNCTION = 16 * UNIT  # exp, tanh, 1/sqrt and what is done with them
_SLOPE = 1.2  # most of |silu'| (1.0999) and |gelu_tanh'| (1.1290)
_TINY = 1e-36  # functions may flush results below the normal range


def operation_bounds(
    session: ReferenceSession, index: int, values: dict[int, F32], outputs: dict[int, F32]
) -> dict[int, F64]:
    """Return the bound of every output element of an instruction, by tensor id.

    `values` are the inputs, `outputs` what session.execute has just returned for them.
    """
    container = session.container
    opcode, inputs = container.instructions[index].opcode, container.inputs(index)
    parameters = container.parameters(index)
    if isinstance(parameters, LinearParameters):
        return _linear(session, index, values, outputs)
    if isinstance(parameters, RopeParameters):
        table = float(np.abs(session.constant(inputs[2])).max())
        return {
            out: _rope(values[source], table, parameters)
            for source, out in zip(inputs[:2], container.outputs(index), strict=True)
        }
    ((out, y),) = outputs.items()
    size = np.abs(y.astype(np.float64))
    if isinstance(parameters, AttentionParameters):
        keys, kept = session.state(inputs[3]), session.state(inputs[4])
        return {out: _attention(values[inputs[0]], keys, kept, parameters)}
    if isinstance(parameters, NormParameters):
        bias = session.constant(inputs[2]) if opcode == Opcode.LAYER_NORM else None
        return {out: _norm(values[inputs[0]], session.constant(inputs[1]), bias, parameters, size)}
    if isinstance(parameters, ActivationParameters):
        return {out: _activation(values[inputs[0]], parameters.kind, size)}
    if opcode == Opcode.SOFT_CAP and isinstance(parameters, ScalarParameters):
        # A kernel may take tanh from exp, where 1 cancels: the error is a part of the cap.
        return {out: np.full(y.shape, _FUNCTION * abs(parameters.value))}
    return {out: np.zeros(y.shape)}


def _rope(x: F32, table: float, parameters: RopeParameters) -> F64:
    """Two products and a difference: 3 roundings of at most 2 max|x| max|table| of the head."""
    heads = np.abs(x.astype(np.float64)).reshape(x.shape[0], -1, parameters.head_size)
    largest = heads.max(axis=2, keepdims=True)
    return np.broadcast_to(6 * UNIT * largest * max(table, 1.0), heads.shape).reshape(x.shape)


def _norm(x: F32, weight: F32, bias: F32 | None, parameters: NormParameters, size: F64) -> F64:
    """Return the error of the mean square, halved by the root, and (layer_norm) of the mean."""
    relative = (parameters.width / 16 + 6) * UNIT
    bound = (relative / 2 + _FUNCTION) * size
    if bias is None:
        return bound + _TINY
    slices = x.astype(np.float64).reshape(x.shape[0], -1, parameters.width)
    deviation = np.sqrt(slices.var(axis=2, keepdims=True) + parameters.epsilon)
    # The mean's error shifts every element, and once more through the variance.
    shift = 2 * relative * np.abs(slices).mean(axis=2, keepdims=True) / deviation
    added = shift * np.abs(weight) + (relative + _FUNCTION) * np.abs(bias)
    return np.asarray(bound + added.reshape(x.shape) + _TINY, np.float64)


def _attention(q: F32, keys: State, kept: State, parameters: AttentionParameters) -> F64:
    """Return the error of each weight, twice for the division, times the mean |v| it weighs."""
    m, total = q.shape[0], keys.shape[1]
    group = parameters.heads // parameters.kv_heads
    heads = np.abs(q.astype(np.float64)).reshape(m, parameters.heads, parameters.head_size)
    largest = np.empty((m, parameters.heads, 1))
    for j in range(parameters.heads):
        products = heads[:, j] @ np.abs(keys[j // group].astype(np.float64)).T
        largest[:, j, 0] = products.max(axis=1) * abs(parameters.scale)
    score = (parameters.head_size + 8) * UNIT * largest
    relative = 2 * (score + _FUNCTION) + (total + 16) * UNIT
    # A kernel's exp may stop at 1e-37 where it should go to 0.
    tiny = _TINY * (1.0 + total * float(np.abs(kept.astype(np.float64)).max()))
    mean = attention(q, keys, np.abs(kept), parameters).astype(np.float64)
    return np.asarray((relative * mean.reshape(heads.shape)).reshape(q.shape) + tiny, np.float64)


def _activation(x: F32, kind: int, size: F64) -> F64:
    if kind == ActivationKind.RELU:
        return np.zeros(x.shape)
    wide = np.abs(x.astype(np.float64))
    # A kernel's exp may stop at e^88: x / (1 + e^88) for what is smaller still.
    if kind == ActivationKind.SILU:
        return np.asarray(_FUNCTION * size + wide * 1e-38 + _TINY, np.float64)
    # 1 + tanh cancels for negative x: the error is that of 1, not of the difference.
    return np.asarray(_FUNCTION * wide + _TINY, np.float64)


def _linear(
    session: ReferenceSession, index: int, values: dict[int, F32], outputs: dict[int, F32]
) -> dict[int, F64]:
    container = session.container
    inputs, parameters = container.inputs(index), container.parameters(index)
    flags = container.instructions[index].flags
    epilogue = parameters.epilogue if isinstance(parameters, LinearParameters) else Epilogue.NONE
    bounds: dict[int, F64] = {}
    for weight, (out, y) in zip(inputs[1:], outputs.items(), strict=False):
        prepared = session.prepared(weight)
        bound = linear_error_bound(values[inputs[0]], prepared)
        if epilogue != Epilogue.NONE:
            sums = linear(values[inputs[0]], prepared)
            bound = _gate(sums, bound, y.shape[1], epilogue)
        added = bool(flags & LinearFlag.BIAS) + bool(flags & LinearFlag.RESIDUAL)
        # Each sum rounds once here and once there.
        bounds[out] = bound + 2 * added * UNIT * np.abs(y.astype(np.float64))
    return bounds


def _gate(sums: F32, bound: F64, n: int, epilogue: int) -> F64:
    """Carry the bounds of gate and up through act(gate) * up."""
    gates, ups = gate_parts(sums, n)
    gate_bound, up_bound = gate_parts(bound, n)
    silu_gate = epilogue == Epilogue.SILU_GATE
    acted = np.abs((silu(gates) if silu_gate else gelu_tanh(gates)).astype(np.float64))
    kind = ActivationKind.SILU if silu_gate else ActivationKind.GELU_TANH
    act_bound = _SLOPE * gate_bound + _activation(gates, kind, acted)
    wide = np.abs(ups.astype(np.float64))
    total = act_bound * wide + (acted + act_bound) * up_bound + 2 * UNIT * acted * wide
    return np.asarray(total + _TINY, np.float64)
