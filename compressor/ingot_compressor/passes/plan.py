# SPDX-License-Identifier: Apache-2.0
"""Plans the memory of a session: where each activation lies, and what a token costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ingot.format import ACTIVATION_GROUP, ROW_ALIGNMENT, LinearFlag, Opcode, PeakRecord, Role, Rows
from ingot.packing import round_up
from ingot_compressor.ir import Operation, Program, Tensor

__all__ = ["Plan", "plan", "row_bytes"]

SCRATCH_K = 128  # the int8 input of a linear is padded to this many k
STATE_ALIGNMENT = 64  # positions
FIRST_PEAK = 512  # positions of the first peak record, doubled from there

# (input, output) that an operation may keep in one place, as the format's validator has it
IN_PLACE: Mapping[Opcode, tuple[tuple[int, int], ...]] = {
    Opcode.ROPE: ((0, 0), (1, 1)),
    Opcode.ADD: ((0, 0), (1, 0)),
    Opcode.MUL: ((0, 0), (1, 0)),
    Opcode.SCALE: ((0, 0),),
    Opcode.SOFT_CAP: ((0, 0),),
    Opcode.ACTIVATION: ((0, 0),),
    Opcode.RMS_NORM: ((0, 0),),
    Opcode.LAYER_NORM: ((0, 0),),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes per row: offset of each activation, size of both arenas, scratch and state."""

    offsets: Mapping[str, int]
    arena_bytes_per_token: int
    arena_bytes_per_selected: int
    scratch_bytes_per_token: int
    state_bytes_per_token: int
    context: int
    chunk: int

    def peaks(self, weights_size: int) -> tuple[PeakRecord, ...]:
        """Return the planned resident bytes at context lengths up to the program's own."""
        lengths = []
        length = FIRST_PEAK
        while length < self.context:
            lengths.append(length)
            length *= 2
        return tuple(self._peak(weights_size, c) for c in (*lengths, self.context))

    def _peak(self, weights_size: int, context: int) -> PeakRecord:
        chunk = min(self.chunk, context)
        per_token = self.arena_bytes_per_token + self.scratch_bytes_per_token
        state = self.state_bytes_per_token * round_up(context, STATE_ALIGNMENT)
        total = weights_size + per_token * chunk + self.arena_bytes_per_selected + state
        return PeakRecord(context, chunk, total)


def row_bytes(tensor: Tensor) -> int:
    """Return the bytes that one row of an activation, or one token of a state, takes."""
    if tensor.role is Role.STATE:
        heads, _, size = tensor.shape
        return heads * size * 2
    return round_up(tensor.width * 4, ROW_ALIGNMENT)


def plan(program: Program) -> Plan:
    """Place every activation at the lowest offset that is free while it lives."""
    arenas = {rows: _Arena() for rows in (Rows.TOKENS, Rows.SELECTED)}
    last = _last_uses(program)
    for index, operation in enumerate(program.operations):
        for place, name in enumerate(operation.outputs):
            tensor = program.tensors[name]
            reused = _reusable(program, operation, place, last, index)
            arenas[tensor.rows].place(tensor, reused)
        for name in operation.inputs + operation.outputs:
            tensor = program.tensors[name]
            if _in_arena(program, tensor) and last[name] == index:
                arenas[tensor.rows].release(name)
    return Plan(
        offsets=arenas[Rows.TOKENS].offsets | arenas[Rows.SELECTED].offsets,
        arena_bytes_per_token=arenas[Rows.TOKENS].size,
        arena_bytes_per_selected=arenas[Rows.SELECTED].size,
        scratch_bytes_per_token=max(_scratches(program), default=0),
        state_bytes_per_token=sum(
            row_bytes(tensor) for tensor in program.tensors.values() if tensor.role is Role.STATE
        ),
        context=program.context,
        chunk=program.chunk,
    )


class _Arena:
    """Intervals of bytes per row that are taken at the moment."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}
        self.size = 0
        self._live: dict[str, tuple[int, int]] = {}

    def place(self, tensor: Tensor, reused: str | None) -> None:
        """Give an activation the place of `reused`, or the lowest gap that is wide enough."""
        size = row_bytes(tensor)
        start = self.offsets[reused] if reused is not None else self._gap(size)
        self.offsets[tensor.name] = start
        self._live[tensor.name] = (start, start + size)
        self.size = max(self.size, start + size)

    def release(self, name: str) -> None:
        """Free the place of an activation."""
        self._live.pop(name, None)

    def _gap(self, size: int) -> int:
        start = 0
        for begin, end in sorted(self._live.values()):
            if begin - start >= size:
                return start
            start = max(start, end)
        return start


def _in_arena(program: Program, tensor: Tensor) -> bool:
    return tensor.role is Role.ACTIVATION and tensor.name != program.input


def _last_uses(program: Program) -> dict[str, int]:
    """Return the operation after which each tensor is free; the logits never are."""
    last: dict[str, int] = {}
    for index, operation in enumerate(program.operations):
        last.update(dict.fromkeys(operation.inputs + operation.outputs, index))
    last[program.output] = len(program.operations)
    return last


def _reusable(
    program: Program, operation: Operation, place: int, last: Mapping[str, int], index: int
) -> str | None:
    """Return an input that ends here and whose place this output may take."""
    out = program.tensors[operation.outputs[place]]
    allowed = IN_PLACE.get(operation.opcode, ())
    if operation.opcode is Opcode.LINEAR and operation.flags & LinearFlag.RESIDUAL:
        allowed = ((len(operation.inputs) - 1, 0),)
    for source, target in allowed:
        tensor = program.tensors[operation.inputs[source]]
        same = tensor.rows is out.rows and row_bytes(tensor) == row_bytes(out)
        once = operation.inputs.count(tensor.name) == 1
        if target == place and same and once and last[tensor.name] == index:
            return tensor.name
    return None


def _scratches(program: Program) -> Iterator[int]:
    """Yield the bytes per token of each linear's int8 input, its scales and sums."""
    for operation in program.operations:
        if operation.opcode is Opcode.LINEAR:
            k = round_up(program.tensors[operation.inputs[0]].width, SCRATCH_K)
            yield round_up(k + k // ACTIVATION_GROUP * 8, ROW_ALIGNMENT)
