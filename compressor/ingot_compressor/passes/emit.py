# SPDX-License-Identifier: Apache-2.0
"""Writes a program whose weights are quantized as an ingot file, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingot.container import Contents, write_container
from ingot.errors import IngotError, InternalError
from ingot.format import (
    OPS,
    TENSOR_ALIGNMENT,
    Dtype,
    EntryRecord,
    Epilogue,
    Instruction,
    Layout,
    LinearParameters,
    Opcode,
    PlanHeader,
    RequiredRecord,
    Role,
    Rows,
    ScaleKind,
    Section,
    Sparsity,
    StateKind,
    TensorRecord,
)
from ingot.packing import (
    WEIGHT_FORMATS,
    Quantized,
    pack,
    payload_bytes,
    round_up,
    stored_bytes,
)
from ingot_compressor.ir import Operation, Program, Tensor
from ingot_compressor.passes.fuse import drop_unused
from ingot_compressor.passes.plan import Plan, plan, row_bytes

__all__ = ["contents", "emit", "weight_bytes_per_token"]

CODEBOOK_SIZE = 32  # entries of a tensor record
MAX_RANK = 4


def emit(
    program: Program,
    path: Path,
    tokenizer: bytes,
    chat: Mapping[str, Any],
    meta: Mapping[str, Any],
    blobs: Mapping[Section, bytes] | None = None,
) -> None:
    """Write the file; it is complete or not there. `blobs` adds sections, or replaces JSON ones.

    Raises: IngotError naming a weight that is not quantized; StorageError if writing fails.
    """
    texts = {
        Section.TOKENIZER: tokenizer,
        Section.CHAT: _json(chat),
        Section.META: _json(meta),
        **(blobs or {}),
    }
    write_container(path, contents(program, texts))


def contents(program: Program, blobs: Mapping[Section, bytes]) -> Contents:
    """Return the sections of a program's file; weights are packed when they are drawn.

    Raises: IngotError naming a weight that is not quantized.
    """
    program = drop_unused(program)
    tensors = tuple(program.tensors.values())
    places = _places(tensors)
    memory = plan(program)
    ids = {tensor.name: index for index, tensor in enumerate(tensors)}
    instructions, operands, parameters = _instructions(program, ids)
    peaks = memory.peaks(places.size)
    return Contents(
        tensors=_records(program, tensors, places, memory),
        names=[tensor.name for tensor in tensors],
        entries=[_entry(program, ids)],
        instructions=instructions,
        operands=operands,
        parameters=parameters,
        required=_required(program),
        plan=PlanHeader(
            context=memory.context,
            chunk=memory.chunk,
            vocabulary=program.vocabulary,
            peak_count=len(peaks),
            arena_bytes_per_token=memory.arena_bytes_per_token,
            arena_bytes_per_selected=memory.arena_bytes_per_selected,
            scratch_bytes_per_token=memory.scratch_bytes_per_token,
            state_bytes_per_token=memory.state_bytes_per_token,
            weight_bytes_per_token=weight_bytes_per_token(program),
        ),
        peaks=peaks,
        weights=_stream(tensors, places),
        weights_size=places.size,
        blobs=dict(blobs),
    )


def weight_bytes_per_token(program: Program) -> int:
    """Return the bytes of codes and scales that one decoded token reads, padding excluded.

    Every weight of a linear counts, and one row of the token table.
    """
    total = 0
    for operation in program.operations:
        if operation.opcode is Opcode.EMBED:
            table = _quantized(program.tensors[operation.inputs[1]])
            total += payload_bytes(table.dtype, 1, table.shape[1], table.group)
        elif operation.opcode is Opcode.LINEAR:
            total += _linear_bytes(program, operation)
    return total


def _linear_bytes(program: Program, operation: Operation) -> int:
    gated = isinstance(operation.parameters, LinearParameters) and (
        operation.parameters.epilogue != Epilogue.NONE
    )
    total = 0
    for name, out in zip(operation.linear().weights, operation.outputs, strict=True):
        weight = _quantized(program.tensors[name])
        # a gate's own zero rows are padding too
        rows = 2 * program.tensors[out].width if gated else weight.shape[0]
        if weight.present.size:  # lists and padding included
            total += stored_bytes(weight)
            continue
        total += payload_bytes(weight.dtype, rows, weight.shape[1], weight.group)
    return total


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


def _quantized(tensor: Tensor) -> Quantized:
    if not isinstance(tensor.source, Quantized):
        raise IngotError(
            f"weight {tensor.name!r} is not quantized; run the quantize pass before writing"
        )
    return tensor.source


def _constant(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    if not isinstance(tensor.source, np.ndarray):
        raise InternalError(f"constant {tensor.name!r} has no values")
    return tensor.source


@dataclass(frozen=True, slots=True)
class _Places:
    """Where stored tensors lie in the weights section: (offset, size) by name."""

    by_name: Mapping[str, tuple[int, int]]
    size: int


def _places(tensors: Sequence[Tensor]) -> _Places:
    by_name: dict[str, tuple[int, int]] = {}
    end = 0
    for tensor in tensors:
        if tensor.role not in (Role.WEIGHT, Role.CONSTANT):
            continue
        start, size = round_up(end, TENSOR_ALIGNMENT), _stored_bytes(tensor)
        by_name[tensor.name] = (start, size)
        end = start + size
    return _Places(by_name, end)


def _stored_bytes(tensor: Tensor) -> int:
    if tensor.role is Role.CONSTANT:
        return _constant(tensor).size * 4
    return stored_bytes(_quantized(tensor))


def _stream(tensors: Sequence[Tensor], places: _Places) -> Iterator[tuple[int, memoryview]]:
    """Yield offset and bytes of each stored tensor, ascending."""
    for tensor in tensors:
        if tensor.role is Role.CONSTANT:
            values = np.ascontiguousarray(_constant(tensor), dtype="<f4")
            yield places.by_name[tensor.name][0], values.reshape(-1).view(np.uint8).data
        elif tensor.role is Role.WEIGHT:
            yield places.by_name[tensor.name][0], pack(_quantized(tensor)).reshape(-1).data


def _records(
    program: Program, tensors: Sequence[Tensor], places: _Places, memory: Plan
) -> list[TensorRecord]:
    return [
        _record(index, tensor, _extent(program, tensor, places, memory))
        for index, tensor in enumerate(tensors)
    ]


def _extent(program: Program, tensor: Tensor, places: _Places, memory: Plan) -> tuple[int, int]:
    if tensor.name in places.by_name:
        return places.by_name[tensor.name]
    if tensor.name == program.input:
        return 0, 4
    return memory.offsets.get(tensor.name, 0), row_bytes(tensor)


def _record(index: int, tensor: Tensor, extent: tuple[int, int]) -> TensorRecord:
    weight = _quantized(tensor) if tensor.role is Role.WEIGHT else None
    codebook = [0] * CODEBOOK_SIZE
    if weight is not None:
        codebook[: weight.codebook.size] = weight.codebook.tolist()
    return TensorRecord(
        id=index,
        name_offset=0,  # the writer places the names
        name_size=0,
        role=tensor.role,
        dtype=weight.dtype if weight else tensor.dtype,
        scale_kind=WEIGHT_FORMATS[weight.dtype].scale_kind if weight else ScaleKind.NONE,
        layout=weight.layout if weight else Layout.PLAIN,
        rank=len(tensor.shape),
        sparsity=Sparsity.SUPERBLOCK if weight and weight.present.size else Sparsity.DENSE,
        state_kind=StateKind.APPEND if tensor.role is Role.STATE else StateKind.NONE,
        rows=tensor.rows if tensor.role is Role.ACTIVATION else Rows.NONE,
        group=weight.group if weight else 0,
        shape=tensor.shape + (0,) * (MAX_RANK - len(tensor.shape)),
        offset=extent[0],
        size=extent[1],
        delta=weight.delta if weight else 0,
        codebook=tuple(codebook),
    )


def _instructions(
    program: Program, ids: Mapping[str, int]
) -> tuple[list[Instruction], list[int], bytes]:
    instructions: list[Instruction] = []
    operands: list[int] = []
    parameters = bytearray()
    for operation in program.operations:
        packed = operation.parameters.pack() if operation.parameters is not None else b""
        instructions.append(
            Instruction(
                opcode=operation.opcode,
                version=OPS[operation.opcode].version,
                flags=operation.flags,
                first_operand=len(operands),
                inputs=len(operation.inputs),
                outputs=len(operation.outputs),
                parameters_offset=len(parameters) if packed else 0,
                parameters_size=len(packed),
            )
        )
        operands += [ids[name] for name in operation.inputs + operation.outputs]
        parameters += packed
    return instructions, operands, bytes(parameters)


def _entry(program: Program, ids: Mapping[str, int]) -> EntryRecord:
    return EntryRecord(
        name=b"step".ljust(16, b"\0"),
        first=0,
        count=len(program.operations),
        input=ids[program.input],
        output=ids[program.output],
    )


def _required(program: Program) -> list[RequiredRecord]:
    """Return every operation that the file uses, once per weight format."""
    used: set[tuple[int, int, int, int]] = set()
    for operation in program.operations:
        tensors = [program.tensors[name] for name in operation.inputs]
        weights = [_quantized(one) for one in tensors if one.role is Role.WEIGHT]
        for w in weights:
            scale = WEIGHT_FORMATS[w.dtype].scale_kind
            used.add((operation.opcode, w.dtype, scale, w.layout))
        if not weights:
            used.add((operation.opcode, Dtype.NONE, ScaleKind.NONE, Layout.PLAIN))
    return [
        RequiredRecord(
            opcode=opcode,
            version=OPS[opcode].version,
            dtype=dtype,
            scale_kind=scale,
            layout=layout,
        )
        for opcode, dtype, scale, layout in sorted(used)
    ]
