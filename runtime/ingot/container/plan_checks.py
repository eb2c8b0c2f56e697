# SPDX-License-Identifier: Apache-2.0
"""Checks of the sections required and plan, alone and against the program."""

from __future__ import annotations

from ingot.container.parts import Program, check, entry_name, refuse
from ingot.container.tensor_checks import WEIGHT_SCALES
from ingot.format import (
    MAX_CHUNK,
    MAX_CONTEXT,
    MAX_DIMENSION,
    MAX_REQUIRED,
    OPS,
    ROW_ALIGNMENT,
    Dtype,
    Layout,
    Opcode,
    PeakRecord,
    PlanHeader,
    RequiredHeader,
    RequiredRecord,
    Role,
    Rule,
    ScaleKind,
    TensorRecord,
)
from ingot.packing.sizes import WEIGHT_FORMATS, round_up

__all__ = [
    "check_plan",
    "check_plan_covers",
    "check_required",
    "check_required_covers",
    "scratch_bytes",
]

_ABSURD = 1 << 32  # bytes per token: more is no plan for any device


def check_required(section: memoryview) -> tuple[RequiredRecord, ...]:
    """Check the section and that this reader supports all that it lists."""
    size = len(section)
    check(size >= RequiredHeader.SIZE, Rule.REQUIRED_SIZE, f"section required has {size} bytes")
    header = RequiredHeader.unpack(section)
    check(
        header.count <= MAX_REQUIRED
        and RequiredHeader.SIZE + RequiredRecord.SIZE * header.count == size
        and not any(header.reserved),
        Rule.REQUIRED_SIZE,
        f"section required: {header.count} records do not add up to {size} bytes, or reserved set",
    )
    starts = range(RequiredHeader.SIZE, size, RequiredRecord.SIZE)
    records = tuple(RequiredRecord.unpack(section, start) for start in starts)
    check(
        not any(record.reserved for record in records),
        Rule.REQUIRED_SIZE,
        "section required: a reserved byte is set",
    )
    missing = [_requirement(record) for record in records if not _supported(record)]
    if missing:
        refuse(
            Rule.REQUIRED_UNSUPPORTED,
            f"this reader does not support: {'; '.join(missing)}; use a newer ingot",
        )
    return records


def _requirement(record: RequiredRecord) -> str:
    return (
        f"op {record.opcode} version {record.version} format {record.dtype} "
        f"scales {record.scale_kind} layout {record.layout}"
    )


def _supported(record: RequiredRecord) -> bool:
    spec = OPS.get(record.opcode)
    if spec is None or record.version != spec.version:
        return False
    if record.dtype == Dtype.NONE:
        return record.scale_kind == ScaleKind.NONE and record.layout == Layout.PLAIN
    return (
        spec.opcode in (Opcode.EMBED, Opcode.LINEAR)
        and WEIGHT_SCALES.get(record.dtype) == record.scale_kind
        and record.layout in WEIGHT_FORMATS[record.dtype].layouts
    )


def check_required_covers(
    required: tuple[RequiredRecord, ...], tensors: tuple[TensorRecord, ...], program: Program
) -> None:
    """Check that the section lists all that the program uses."""
    listed = set(required)
    for index, item in enumerate(program.instructions):
        weights = [tensors[i] for i in program.inputs(index) if tensors[i].role == Role.WEIGHT]
        uses = [(w.dtype, w.scale_kind, w.layout) for w in weights] or [(0, 0, 0)]
        for use in uses:
            record = RequiredRecord(item.opcode, item.version, *use)
            check(
                record in listed,
                Rule.REQUIRED_MISSING,
                f"instruction {index} uses {_requirement(record)}, which is not listed",
            )


def check_plan(section: memoryview) -> tuple[PlanHeader, tuple[PeakRecord, ...]]:
    """Check the section by itself and return the header and the peaks."""
    size = len(section)
    check(size >= PlanHeader.SIZE, Rule.PLAN_SIZE, f"section plan has {size} bytes")
    plan = PlanHeader.unpack(section)
    check(
        PlanHeader.SIZE + PeakRecord.SIZE * plan.peak_count == size and not any(plan.reserved),
        Rule.PLAN_SIZE,
        f"section plan: {plan.peak_count} peaks do not add up to {size} bytes, or reserved set",
    )
    check(
        1 <= plan.context <= MAX_CONTEXT
        and 1 <= plan.chunk <= min(MAX_CHUNK, plan.context)
        and 1 <= plan.vocabulary <= MAX_DIMENSION,
        Rule.PLAN_VALUE,
        f"plan: context {plan.context}, chunk {plan.chunk}, vocabulary {plan.vocabulary}; expected "
        f"context 1 to {MAX_CONTEXT}, chunk 1 to {MAX_CHUNK} and at most the context",
    )
    arenas = (
        plan.arena_bytes_per_token,
        plan.arena_bytes_per_selected,
        plan.scratch_bytes_per_token,
    )
    check(
        all(value <= _ABSURD and value % ROW_ALIGNMENT == 0 for value in arenas),
        Rule.PLAN_ARENA,
        f"plan: arena and scratch of {arenas} bytes, expected multiples of 64 up to {_ABSURD}",
    )
    check(
        plan.state_bytes_per_token <= _ABSURD,
        Rule.PLAN_STATE,
        f"plan: state of {plan.state_bytes_per_token} bytes per token, at most {_ABSURD}",
    )
    starts = range(PlanHeader.SIZE, size, PeakRecord.SIZE)
    peaks = tuple(PeakRecord.unpack(section, start) for start in starts)
    check(
        all(1 <= p.context <= plan.context and 1 <= p.chunk <= plan.chunk for p in peaks),
        Rule.PLAN_VALUE,
        "plan: a peak record beyond the plan's context or chunk, or of zero",
    )
    return plan, peaks


def scratch_bytes(k: int) -> int:
    """Return the scratch bytes per token of a linear over k: int8, and scale and sum per 32 k."""
    padded = round_up(k, 128)
    return round_up(padded + padded // 32 * 8, ROW_ALIGNMENT)


def check_plan_covers(
    plan: PlanHeader, tensors: tuple[TensorRecord, ...], program: Program
) -> None:
    """Check scratch, state and vocabulary against tensors and program."""
    for index, item in enumerate(program.instructions):
        first = tensors[program.inputs(index)[0]]
        if item.opcode == Opcode.LINEAR:
            need = scratch_bytes(first.shape[1])
            check(
                plan.scratch_bytes_per_token >= need,
                Rule.PLAN_ARENA,
                f"plan: scratch of {plan.scratch_bytes_per_token} bytes per token, "
                f"instruction {index} needs {need}",
            )
        if item.opcode == Opcode.EMBED:
            rows = tensors[program.inputs(index)[1]].shape[0]
            _check_vocabulary(plan, rows, f"the table of instruction {index}")
    total = sum(tensor.size for tensor in tensors if tensor.role == Role.STATE)
    check(
        plan.state_bytes_per_token == total,
        Rule.PLAN_STATE,
        f"plan: state of {plan.state_bytes_per_token} bytes per token, the tensors give {total}",
    )
    for entry in program.entries:
        if entry_name(entry) == "step":
            _check_vocabulary(plan, tensors[entry.output].shape[1], "the output of 'step'")


def _check_vocabulary(plan: PlanHeader, rows: int, what: str) -> None:
    check(
        plan.vocabulary <= rows,
        Rule.PLAN_VALUE,
        f"plan: vocabulary {plan.vocabulary}, {what} has {rows} rows",
    )
