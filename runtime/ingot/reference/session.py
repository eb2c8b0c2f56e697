# SPDX-License-Identifier: Apache-2.0
"""Executes a container's instruction list with the NumPy ops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ingot.container import Container
from ingot.errors import ContextFullError, InvalidArgumentError
from ingot.format import (
    ActivationParameters,
    AttentionParameters,
    Epilogue,
    LinearFlag,
    LinearParameters,
    NormParameters,
    Opcode,
    Parameters,
    RopeParameters,
    ScalarParameters,
)
from ingot.packing import Quantized, unpack_record
from ingot.reference import attention as attention_ops
from ingot.reference import elementwise, kv_formats
from ingot.reference import linear as linear_ops

__all__ = ["ReferenceSession"]

F32 = NDArray[np.float32]
Values = dict[int, F32]


class ReferenceSession:
    """Runs entry 'step' of a container; keeps keys and values between calls.

    Weights are unpacked at first use and kept. `position` counts the tokens fed so far.
    With `exact` activations and states keep float32: what the file's weights would give without
    int8 activations and rounded keys and values. `kv` is how those are kept: f16, which is what
    conformance means, kv8 or k8v4. The container must stay open meanwhile.
    """

    def __init__(self, container: Container, *, exact: bool = False, kv: str = "f16") -> None:
        self.container = container
        self._exact = exact
        self._kv = "exact" if exact else kv
        self._entry = container.entries["step"]
        self._weights: dict[int, Quantized] = {}
        self._prepared: dict[int, linear_ops.LinearWeight] = {}
        self._constants: Values = {}
        self._states: dict[int, attention_ops.State] = {}
        self.position = 0

    def reset(self) -> None:
        """Forget all positions."""
        self._states = {}
        self.position = 0

    def eval(self, tokens: Sequence[int], wanted: int = 1) -> F32:
        """Feed tokens and return the logits of the last `wanted` of them, (wanted, v) float32.

        Raises: InvalidArgumentError for no tokens, an id outside the table, or an impossible
        `wanted`; ContextFullError if they do not fit the plan's context. Nothing is fed then.
        """
        values = self._run(self.check_tokens(tokens, wanted), wanted)
        self.position += len(tokens)
        return values[self._entry.output]

    def trace(self, tokens: Sequence[int], wanted: int = 1) -> Values:
        """Return every activation that eval would compute, by tensor id; feeds nothing.

        Shapes: (m, width) or, after select_last, (wanted, width), float32.
        Raises: as eval.
        """
        states = dict(self._states)
        try:
            return self._run(self.check_tokens(tokens, wanted), wanted)
        finally:
            self._states = states

    def share_weights(self, other: ReferenceSession) -> None:
        """Use the weights that another session of the same container has unpacked."""
        self._weights, self._prepared = other._weights, other._prepared
        self._constants = other._constants

    def check_tokens(self, tokens: Sequence[int], wanted: int) -> NDArray[np.int32]:
        """Return the ids as int32.

        Raises: as eval.
        """
        ids = np.array(tokens, np.int64)
        rows = self._embedding_rows()
        if ids.ndim != 1 or ids.size == 0:
            raise InvalidArgumentError("no tokens to evaluate; expected at least one")
        if not 0 <= wanted <= ids.size:
            raise InvalidArgumentError(f"wanted is {wanted}, expected 0 to {ids.size} (the tokens)")
        outside = ids[(ids < 0) | (ids >= rows)]
        if outside.size:
            raise InvalidArgumentError(f"token id {int(outside[0])}, expected 0 to {rows - 1}")
        context = self.container.plan.context
        if self.position + ids.size > context:
            raise ContextFullError(
                f"{self.position} positions are used and {ids.size} more wanted; "
                f"the context holds {context}"
            )
        return ids.astype(np.int32)

    def _embedding_rows(self) -> int:
        tables = [
            self.container.tensors[self.container.inputs(index)[1]]
            for index in range(self._entry.first, self._entry.first + self._entry.count)
            if self.container.instructions[index].opcode == Opcode.EMBED
        ]
        if not tables:
            raise InvalidArgumentError("entry 'step' has no embed instruction")
        return min(table.shape[0] for table in tables)

    def _run(self, tokens: NDArray[np.int32], wanted: int) -> Values:
        values: Values = {}
        for index in range(self._entry.first, self._entry.first + self._entry.count):
            values.update(self.execute(index, values, tokens, wanted))
        return values

    def execute(self, index: int, values: Values, tokens: NDArray[np.int32], wanted: int) -> Values:
        """Run one instruction on given activations and return its outputs by tensor id.

        Attention appends to this session's state, so the instructions of a pass come in order.
        """
        opcode = self.container.instructions[index].opcode
        inputs, outputs = self.container.inputs(index), self.container.outputs(index)
        parameters = self.container.parameters(index)
        if opcode == Opcode.EMBED:
            return {outputs[0]: linear_ops.embed(tokens, self.weight(inputs[1]))}
        x = values[inputs[0]]
        if opcode == Opcode.LINEAR:
            return self._linear(index, x, values)
        if isinstance(parameters, RopeParameters):
            table = self.constant(inputs[2])
            return {
                out: attention_ops.rope(values[source], table, self.position, parameters)
                for source, out in zip(inputs[:2], outputs, strict=True)
            }
        if isinstance(parameters, AttentionParameters):
            return {outputs[0]: self._attention(inputs, values, parameters)}
        if opcode == Opcode.SELECT_LAST:
            return {outputs[0]: x[x.shape[0] - wanted :]}
        others = [self._any(i, values) for i in inputs[1:]]
        return {outputs[0]: _elementwise(opcode, x, others, parameters)}

    def state(self, tensor: int) -> attention_ops.State:
        """Return the positions of a state that are kept so far, (kv_heads, t, head_size)."""
        return self._states[tensor]

    def _attention(
        self, inputs: tuple[int, ...], values: Values, parameters: AttentionParameters
    ) -> F32:
        q, k, v, key_state, value_state = inputs
        shape = (parameters.kv_heads, 0, parameters.head_size)
        empty = np.zeros(shape, np.float16 if self._kv == "f16" else np.float32)
        for source, state in ((k, key_state), (v, value_state)):
            past = self._states.get(state, empty)
            rows = kv_formats.rounded(values[source], shape[2], self._kv, keys=source == k)
            self._states[state] = attention_ops.append_state(past, rows)
        keys, kept = self._states[key_state], self._states[value_state]
        return attention_ops.attention(values[q], keys, kept, parameters)

    def _linear(self, index: int, x: F32, values: Values) -> Values:
        inputs, outputs = self.container.inputs(index), self.container.outputs(index)
        parameters = self.container.parameters(index)
        if not isinstance(parameters, LinearParameters):
            raise InvalidArgumentError(f"instruction {index}: linear without its parameters")
        flags, count = self.container.instructions[index].flags, parameters.weights
        result: Values = {}
        for j, out in enumerate(outputs):
            y = linear_ops.linear(x, self.prepared(inputs[1 + j]))
            if flags & LinearFlag.BIAS:
                y = elementwise.add(y, self.constant(inputs[1 + count + j]))
            if parameters.epilogue != Epilogue.NONE:
                width = self.container.tensors[out].shape[1]
                y = linear_ops.gate(y, width, parameters.epilogue)
            if flags & LinearFlag.RESIDUAL:
                y = elementwise.add(y, values[inputs[-1]])
            result[out] = y
        return result

    def _any(self, tensor: int, values: Values) -> F32:
        return values[tensor] if tensor in values else self.constant(tensor)

    def constant(self, tensor: int) -> F32:
        """Return a constant in its shape."""
        if tensor not in self._constants:
            record = self.container.tensors[tensor]
            data = np.frombuffer(self.container.tensor_bytes(tensor), "<f4")
            self._constants[tensor] = data.reshape(record.shape[: record.rank]).copy()
        return self._constants[tensor]

    def weight(self, tensor: int) -> Quantized:
        """Return the codes and scales of a weight, unpacked once per session."""
        if tensor not in self._weights:
            self._weights[tensor] = unpack_record(self.container, tensor)
        return self._weights[tensor]

    def prepared(self, tensor: int) -> linear_ops.LinearWeight:
        """Return a weight as `linear` takes it, unpacked once per session."""
        if tensor not in self._prepared:
            self._prepared[tensor] = linear_ops.prepare(self.weight(tensor), self._exact)
        return self._prepared[tensor]


def _elementwise(opcode: int, x: F32, others: list[F32], parameters: Parameters | None) -> F32:
    """Run an op that has no state and no weight."""
    if isinstance(parameters, NormParameters):
        if opcode == Opcode.RMS_NORM:
            return elementwise.rms_norm(x, others[0], parameters.epsilon)
        return elementwise.layer_norm(x, others[0], others[1], parameters.epsilon)
    if isinstance(parameters, ActivationParameters):
        return elementwise.activation(x, parameters.kind)
    if isinstance(parameters, ScalarParameters):
        function = elementwise.scale if opcode == Opcode.SCALE else elementwise.soft_cap
        return function(x, parameters.value)
    if opcode == Opcode.ADD:
        return elementwise.add(x, others[0])
    if opcode == Opcode.MUL:
        return elementwise.mul(x, others[0])
    raise InvalidArgumentError(f"opcode {opcode} is not known to the reference")
