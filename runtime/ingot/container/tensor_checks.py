# SPDX-License-Identifier: Apache-2.0
"""Checks of the tensors section; the order is that of the native reader."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ingot.container.parts import check, refuse
from ingot.errors import InvalidArgumentError
from ingot.format import (
    MAX_DIMENSION,
    MAX_RANK,
    MAX_TENSORS,
    ROW_ALIGNMENT,
    TENSOR_ALIGNMENT,
    Dtype,
    Layout,
    PlanHeader,
    Role,
    Rows,
    Rule,
    ScaleKind,
    Sparsity,
    StateKind,
    TensorRecord,
    TensorsHeader,
)
from ingot.packing.sizes import WEIGHT_FORMATS, packed_bytes, round_up
from ingot.packing.unpacking import sparse_lists

__all__ = ["WEIGHT_SCALES", "check_tensors"]

WEIGHT_SCALES = {dtype: known.scale_kind for dtype, known in WEIGHT_FORMATS.items()}
_DTYPES: dict[int, tuple[int, ...]] = {
    Role.WEIGHT: tuple(WEIGHT_SCALES),
    Role.CONSTANT: (Dtype.F32,),
    Role.ACTIVATION: (Dtype.F32, Dtype.I32),
    Role.STATE: (Dtype.F16,),
}


@dataclass(frozen=True, slots=True)
class _Space:
    """Where tensors may lie: the weights section, and the two arenas in bytes."""

    weights: memoryview
    tokens: int
    selected: int


def check_tensors(
    section: memoryview, weights: memoryview, plan: PlanHeader
) -> tuple[tuple[TensorRecord, ...], tuple[str, ...]]:
    """Check the section and return its records and names."""
    header = _check_tensors_header(section)
    names_at = header.names_offset
    space = _Space(weights, plan.arena_bytes_per_token, plan.arena_bytes_per_selected)
    records: list[TensorRecord] = []
    names: list[str] = []
    end = 0
    for index in range(header.count):
        record = TensorRecord.unpack(section, TensorsHeader.SIZE + TensorRecord.SIZE * index)
        where = f"tensor {index}"
        check(record.id == index, Rule.TENSOR_ID, f"{where}: its record says id {record.id}")
        name = _name(where, record, section[names_at:])
        where = f"tensor {index} '{name}'"
        _check_kind(where, record)
        _check_shape(where, record)
        _check_unused(where, record)
        end = _check_place(where, record, space, end)
        records.append(record)
        names.append(name)
    seen: set[str] = set()
    for name in names:
        check(name not in seen, Rule.TENSOR_NAME, f"two tensors are named '{name}'")
        seen.add(name)
    return tuple(records), tuple(names)


def _check_tensors_header(section: memoryview) -> TensorsHeader:
    size = len(section)
    check(size >= TensorsHeader.SIZE, Rule.TENSORS_SIZE, f"section tensors has {size} bytes")
    header = TensorsHeader.unpack(section)
    check(
        header.count <= MAX_TENSORS
        and header.record_size == TensorRecord.SIZE
        and header.names_offset == TensorsHeader.SIZE + TensorRecord.SIZE * header.count
        and header.names_offset + header.names_size == size,
        Rule.TENSORS_SIZE,
        f"section tensors: {header.count} records of {header.record_size} bytes and names at "
        f"{header.names_offset} of {header.names_size} bytes do not add up to {size}",
    )
    check(header.reserved == 0, Rule.TENSOR_RESERVED, "section tensors: reserved field is set")
    return header


def _name(where: str, record: TensorRecord, names: memoryview) -> str:
    start, size = record.name_offset, record.name_size
    check(
        1 <= size <= 255 and start + size <= len(names),
        Rule.TENSOR_NAME,
        f"{where}: name of {size} bytes at {start} of {len(names)}, expected 1 to 255 inside",
    )
    try:
        return bytes(names[start : start + size]).decode("utf-8")
    except UnicodeDecodeError:
        refuse(Rule.TENSOR_NAME, f"{where}: name is not UTF-8")


def _check_kind(where: str, record: TensorRecord) -> None:
    """Role, dtype, scales, layout, sparsity and rank fit each other."""
    role, dtype = record.role, record.dtype
    activation = role == Role.ACTIVATION
    rows = record.rows in (Rows.TOKENS, Rows.SELECTED) if activation else record.rows == Rows.NONE
    state = StateKind.APPEND if role == Role.STATE else StateKind.NONE
    check(
        role in _DTYPES and rows and record.state_kind == state,
        Rule.TENSOR_ROLE,
        f"{where}: role {role} with rows {record.rows} and state kind {record.state_kind}",
    )
    check(
        dtype in _DTYPES[role] and not (dtype == Dtype.I32 and record.rows != Rows.TOKENS),
        Rule.TENSOR_DTYPE,
        f"{where}: dtype {dtype} is unknown, reserved or not possible for role {role}",
    )
    weight = role == Role.WEIGHT
    scale = WEIGHT_SCALES[dtype] if weight else ScaleKind.NONE
    check(
        record.scale_kind == scale,
        Rule.TENSOR_SCALE_KIND,
        f"{where}: scale kind {record.scale_kind}, dtype {dtype} has {int(scale)}",
    )
    layouts = WEIGHT_FORMATS[dtype].layouts if weight else (Layout.PLAIN,)
    check(
        record.layout in layouts,
        Rule.TENSOR_LAYOUT,
        f"{where}: layout {record.layout}, expected one of {tuple(map(int, layouts))}",
    )
    check(
        record.sparsity <= (Sparsity.SUPERBLOCK if weight else Sparsity.DENSE),
        Rule.TENSOR_SPARSITY,
        f"{where}: sparsity {record.sparsity}, which role {role} does not have",
    )


def _check_shape(where: str, record: TensorRecord) -> None:
    role, rank = record.role, record.rank
    ranks: dict[int, tuple[int, ...]] = {
        Role.WEIGHT: (2,),
        Role.CONSTANT: tuple(range(1, MAX_RANK + 1)),
        Role.ACTIVATION: (1,) if record.dtype == Dtype.I32 else (2,),
        Role.STATE: (3,),
    }
    check(
        rank in ranks[role],
        Rule.TENSOR_RANK,
        f"{where}: rank {rank}, role {role} takes {ranks[role]}",
    )
    dynamic = {Role.ACTIVATION: 0, Role.STATE: 1}.get(Role(role))
    for axis, size in enumerate(record.shape):
        empty = axis >= rank or axis == dynamic
        check(
            size == 0 if empty else 1 <= size <= MAX_DIMENSION,
            Rule.TENSOR_SHAPE,
            f"{where}: dimension {axis} is {size}, expected "
            + ("0" if empty else f"1 to {MAX_DIMENSION}"),
        )
    groups = WEIGHT_FORMATS[record.dtype].groups if role == Role.WEIGHT else (0,)
    check(
        record.group in groups,
        Rule.TENSOR_GROUP,
        f"{where}: group {record.group}, expected one of {groups}",
    )


def _check_unused(where: str, record: TensorRecord) -> None:
    known = WEIGHT_FORMATS.get(record.dtype)
    entries = known.entries if known is not None else 0
    unused = record.codebook[entries:]
    limit = 127 if entries else 0
    check(
        not any(unused) and abs(record.delta) <= limit and not any(record.reserved),
        Rule.TENSOR_RESERVED,
        f"{where}: reserved or unused bytes are set, or delta {record.delta} is beyond {limit}",
    )
    placed = record.role != Role.STATE and record.dtype != Dtype.I32
    check(
        placed or record.offset == 0,
        Rule.TENSOR_RESERVED,
        f"{where}: offset {record.offset} of a tensor that has no place, expected 0",
    )


def _size(record: TensorRecord) -> int:
    """Return the bytes that shape and format give."""
    shape = record.shape
    if record.role == Role.WEIGHT:
        return packed_bytes(record.dtype, shape[0], shape[1], record.group)
    if record.role == Role.CONSTANT:
        return prod(shape[: record.rank]) * 4
    if record.role == Role.STATE:
        return shape[0] * shape[2] * 2
    return 4 if record.dtype == Dtype.I32 else round_up(shape[1] * 4, ROW_ALIGNMENT)


def _check_place(where: str, record: TensorRecord, space: _Space, end: int) -> int:
    """Check size and place; return where the stored tensors end so far."""
    expected = _size(record)
    sparse = record.sparsity == Sparsity.SUPERBLOCK
    check(
        (sparse or record.size == expected) and expected < 1 << 63,
        Rule.TENSOR_SIZE,
        f"{where}: size {record.size}, shape and format give {expected}",
    )
    stored = record.role in (Role.WEIGHT, Role.CONSTANT)
    if not stored and (record.role == Role.STATE or record.dtype == Dtype.I32):
        return end
    alignment = TENSOR_ALIGNMENT if stored else ROW_ALIGNMENT
    check(
        record.offset % alignment == 0,
        Rule.TENSOR_ALIGNMENT,
        f"{where}: offset {record.offset} is no multiple of {alignment}",
    )
    arena = space.tokens if record.rows == Rows.TOKENS else space.selected
    room = len(space.weights) if stored else arena
    check(
        record.offset + record.size <= room,
        Rule.TENSOR_RANGE,
        f"{where}: {record.size} bytes at {record.offset} end beyond {room}",
    )
    if not stored:
        return end
    check(
        record.offset >= end,
        Rule.TENSOR_OVERLAP,
        f"{where}: starts at {record.offset}, before byte {end} where the tensor before it ends",
    )
    if sparse:
        _check_superblocks(where, record, space.weights)
    return record.offset + record.size


def _check_superblocks(where: str, record: TensorRecord, weights: memoryview) -> None:
    """Read the lists of a sparse weight, which its size must be the sum of."""
    data = np.frombuffer(weights[record.offset : record.offset + record.size], np.uint8)
    shape = (record.shape[0], record.shape[1])
    try:
        sparse_lists(data, Dtype(record.dtype), shape, record.group)
    except InvalidArgumentError as error:
        refuse(Rule.TENSOR_SUPERBLOCKS, f"{where}: {error}")
