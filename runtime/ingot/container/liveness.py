# SPDX-License-Identifier: Apache-2.0
"""No activation is read before it is written, or overwritten in the arena while it is needed.

The walk goes backwards over an entry. The activations that are live at one place never overlap
in a sound plan, so that a new one needs to be compared with its two neighbours only.
"""

from __future__ import annotations

from bisect import bisect_left

from ingot.container.parts import Program, check, entry_name, refuse
from ingot.format import (
    Dtype,
    EntryRecord,
    LinearFlag,
    Opcode,
    Role,
    Rule,
    TensorRecord,
)

__all__ = ["check_liveness"]

_IN_PLACE: dict[int, frozenset[tuple[int, int]]] = {
    Opcode.ROPE: frozenset({(0, 0), (1, 1)}),
    Opcode.ADD: frozenset({(0, 0), (1, 0)}),
    Opcode.MUL: frozenset({(0, 0), (1, 0)}),
    Opcode.SCALE: frozenset({(0, 0)}),
    Opcode.SOFT_CAP: frozenset({(0, 0)}),
    Opcode.ACTIVATION: frozenset({(0, 0)}),
    Opcode.RMS_NORM: frozenset({(0, 0)}),
    Opcode.LAYER_NORM: frozenset({(0, 0)}),
}


def check_liveness(program: Program, tensors: tuple[TensorRecord, ...]) -> None:
    """Check every entry by itself."""
    for entry in program.entries:
        _check_written(program, entry, tensors)
        _check_states(program, entry, tensors)
        _check_aliases(program, entry, tensors)


def _check_written(program: Program, entry: EntryRecord, tensors: tuple[TensorRecord, ...]) -> None:
    name = entry_name(entry)
    written = {entry.input}
    for index in range(entry.first, entry.first + entry.count):
        for tensor_id in program.inputs(index):
            check(
                tensors[tensor_id].role != Role.ACTIVATION or tensor_id in written,
                Rule.OPERAND_UNWRITTEN,
                f"entry '{name}': instruction {index} reads tensor {tensor_id}, not written yet",
            )
        written.update(program.outputs(index))
    check(
        entry.output in written,
        Rule.OPERAND_UNWRITTEN,
        f"entry '{name}': no instruction writes its output, tensor {entry.output}",
    )


def _check_states(program: Program, entry: EntryRecord, tensors: tuple[TensorRecord, ...]) -> None:
    """A state has one writer: two of them would append twice per token."""
    used: set[int] = set()
    for index in range(entry.first, entry.first + entry.count):
        for tensor_id in program.inputs(index):
            if tensors[tensor_id].role == Role.STATE:
                check(
                    tensor_id not in used,
                    Rule.OPERAND_ALIASED,
                    f"entry '{entry_name(entry)}': instruction {index} appends to state "
                    f"{tensor_id}, which another operand appends to",
                )
                used.add(tensor_id)


def _overlap(a: TensorRecord, b: TensorRecord) -> bool:
    return a.rows == b.rows and a.offset < b.offset + b.size and b.offset < a.offset + a.size


class _Live:
    """The live activations, none of which overlap, sorted by arena and offset."""

    def __init__(self) -> None:
        self._keys: list[tuple[int, int, int]] = []
        self._tensors: dict[int, TensorRecord] = {}

    @staticmethod
    def _key(tensor: TensorRecord) -> tuple[int, int, int]:
        return tensor.rows, tensor.offset, tensor.id

    def __contains__(self, tensor: TensorRecord) -> bool:
        return tensor.id in self._tensors

    def hit(self, tensor: TensorRecord) -> TensorRecord | None:
        """Return a live activation that this one overlaps."""
        at = bisect_left(self._keys, self._key(tensor))
        for key in self._keys[max(at - 1, 0) : at + 1]:
            if _overlap(self._tensors[key[2]], tensor):
                return self._tensors[key[2]]
        return None

    def add(self, tensor: TensorRecord) -> None:
        key = self._key(tensor)
        self._keys.insert(bisect_left(self._keys, key), key)
        self._tensors[tensor.id] = tensor

    def remove(self, tensor: TensorRecord) -> None:
        if tensor in self:
            del self._tensors[tensor.id]
            del self._keys[bisect_left(self._keys, self._key(tensor))]


def _check_aliases(program: Program, entry: EntryRecord, tensors: tuple[TensorRecord, ...]) -> None:
    live = _Live()
    live.add(tensors[entry.output])
    for index in reversed(range(entry.first, entry.first + entry.count)):
        where = f"entry '{entry_name(entry)}': instruction {index}"
        outputs = [tensors[i] for i in program.outputs(index)]
        for out in outputs:
            live.remove(out)
        for out in outputs:
            _refuse_hit(where, out, live.hit(out))
        _check_in_place(where, program, index, tensors)
        for tensor in (tensors[i] for i in program.inputs(index)):
            arena = tensor.role == Role.ACTIVATION and tensor.dtype == Dtype.F32
            if arena and tensor not in live:
                _refuse_hit(where, tensor, live.hit(tensor))
                live.add(tensor)


def _refuse_hit(where: str, tensor: TensorRecord, other: TensorRecord | None) -> None:
    if other is not None:
        refuse(
            Rule.OPERAND_ALIASED,
            f"{where}: tensor {tensor.id} lies over tensor {other.id}, which is needed later",
        )


def _check_in_place(
    where: str, program: Program, index: int, tensors: tuple[TensorRecord, ...]
) -> None:
    """Outputs overlap neither each other nor an input, but for elementwise ops in place."""
    item = program.instructions[index]
    inputs = [tensors[i] for i in program.inputs(index)]
    outputs = [tensors[i] for i in program.outputs(index)]
    allowed = _IN_PLACE.get(item.opcode, frozenset())
    if item.opcode == Opcode.LINEAR and item.flags & LinearFlag.RESIDUAL:
        allowed = frozenset({(len(inputs) - 1, 0)})
    for place, out in enumerate(outputs):
        for other in outputs[place + 1 :]:
            _refuse_hit(where, out, other if _overlap(out, other) else None)
        for position, tensor in enumerate(inputs):
            same = (position, place) in allowed and tensor.offset == out.offset
            if tensor.role == Role.ACTIVATION and tensor.dtype == Dtype.F32 and not same:
                _refuse_hit(where, out, tensor if _overlap(out, tensor) else None)
