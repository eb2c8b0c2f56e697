# SPDX-License-Identifier: Apache-2.0
"""Checks of the program section's structure; operands and liveness have their own modules."""

from __future__ import annotations

import struct

from ingot.container.operand_checks import check_instruction
from ingot.container.parts import Program, check, entry_name
from ingot.format import (
    MAX_ENTRIES,
    MAX_INSTRUCTIONS,
    MAX_OPERANDS,
    OPS,
    Dtype,
    EntryRecord,
    Instruction,
    LinearFlag,
    Opcode,
    PlanHeader,
    ProgramHeader,
    Role,
    Rows,
    Rule,
    TensorRecord,
)

__all__ = ["check_program"]


def check_program(
    section: memoryview, tensors: tuple[TensorRecord, ...], plan: PlanHeader
) -> Program:
    """Check the section's records, every instruction and the entries' operands."""
    program = _read(section)
    _check_entries(program)
    for index, item in enumerate(program.instructions):
        _check_record(index, item, program)
        check_instruction(index, program, tensors, plan)
    for entry in program.entries:
        _check_entry_operands(entry, tensors)
    return program


def _read(section: memoryview) -> Program:
    size = len(section)
    check(size >= ProgramHeader.SIZE, Rule.PROGRAM_SIZE, f"section program has {size} bytes")
    header = ProgramHeader.unpack(section)
    first = ProgramHeader.SIZE + EntryRecord.SIZE * header.entry_count
    operands = first + Instruction.SIZE * header.instruction_count
    parameters = operands + (4 * header.operand_count + 7) // 8 * 8
    check(
        header.entry_count <= MAX_ENTRIES
        and header.instruction_count <= MAX_INSTRUCTIONS
        and header.operand_count <= MAX_OPERANDS
        and parameters + header.parameters_size == size,
        Rule.PROGRAM_SIZE,
        f"section program: {header.entry_count} entries, {header.instruction_count} instructions, "
        f"{header.operand_count} operands and {header.parameters_size} bytes of parameters do not "
        f"add up to {size}",
    )
    operands_end = operands + 4 * header.operand_count
    check(
        not any(header.reserved) and not any(section[operands_end:parameters]),
        Rule.PROGRAM_RESERVED,
        "section program: reserved or padding bytes are set",
    )
    return Program(
        tuple(EntryRecord.unpack(section, at) for at in range(ProgramHeader.SIZE, first, 32)),
        tuple(Instruction.unpack(section, at) for at in range(first, operands, 64)),
        struct.unpack_from(f"<{header.operand_count}I", section, operands),
        bytes(section[parameters:]),
    )


def _check_entries(program: Program) -> None:
    names: set[str] = set()
    total = len(program.instructions)
    for index, entry in enumerate(program.entries):
        name = entry_name(entry)
        padded = name.encode("ascii", "replace").ljust(16, b"\0")
        good = bool(name) and padded == entry.name and all("!" <= c <= "~" for c in name)
        check(
            good and name not in names,
            Rule.ENTRY,
            f"entry {index}: name {entry.name!r} is not printable ASCII, zero padded, used once",
        )
        check(
            entry.count >= 1 and entry.first + entry.count <= total,
            Rule.ENTRY,
            f"entry '{name}': {entry.count} instructions from {entry.first} of {total}",
        )
        names.add(name)
    check("step" in names, Rule.ENTRY, "no entry 'step'")


def _check_record(index: int, item: Instruction, program: Program) -> None:
    where = f"instruction {index}"
    spec = OPS.get(item.opcode)
    check(spec is not None, Rule.OPCODE, f"{where}: unknown opcode {item.opcode}")
    spec = OPS[item.opcode]
    check(
        item.version == spec.version,
        Rule.OP_VERSION,
        f"{where}: {spec.opcode.name.lower()} version {item.version}, this reader has "
        f"{spec.version}; use a newer ingot",
    )
    known = LinearFlag.BIAS | LinearFlag.RESIDUAL if spec.opcode == Opcode.LINEAR else 0
    check(
        item.flags & ~known == 0,
        Rule.OP_FLAGS,
        f"{where}: flags {item.flags:#x}, the op has {known:#x}",
    )
    check(not any(item.reserved), Rule.PROGRAM_RESERVED, f"{where}: reserved bytes are set")
    last = item.first_operand + item.inputs + item.outputs
    check(
        last <= len(program.operands),
        Rule.OPERAND_RANGE,
        f"{where}: operands {item.first_operand} to {last} of {len(program.operands)}",
    )
    size = 0 if spec.parameters is None else spec.parameters.SIZE
    start, room = item.parameters_offset, len(program.parameters)
    check(
        item.parameters_size == size
        and start % 4 == 0
        and start + size <= room
        and (size > 0 or start == 0),
        Rule.PARAMETERS_RANGE,
        f"{where}: parameters of {item.parameters_size} bytes at {start} of {room}, "
        f"the op takes {size} bytes at a multiple of 4",
    )


def _check_entry_operands(entry: EntryRecord, tensors: tuple[TensorRecord, ...]) -> None:
    where = f"entry '{entry_name(entry)}'"
    for tensor_id, dtype, rows, what in (
        (entry.input, Dtype.I32, Rows.TOKENS, "input"),
        (entry.output, Dtype.F32, Rows.SELECTED, "output"),
    ):
        check(
            tensor_id < len(tensors)
            and tensors[tensor_id].role == Role.ACTIVATION
            and tensors[tensor_id].dtype == dtype
            and tensors[tensor_id].rows == rows,
            Rule.ENTRY_OPERAND,
            f"{where}: {what} {tensor_id} is no activation of dtype {dtype} with rows {rows}",
        )
