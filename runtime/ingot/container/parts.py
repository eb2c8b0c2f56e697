# SPDX-License-Identifier: Apache-2.0
"""What a checked file consists of, and how a check refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from ingot.errors import FormatError
from ingot.format import (
    OPS,
    EntryRecord,
    Instruction,
    Parameters,
    PeakRecord,
    PlanHeader,
    RequiredRecord,
    Rule,
    Section,
    SectionRecord,
    TensorRecord,
)

__all__ = ["REQUIRED_SECTIONS", "Parts", "Program", "check", "entry_name", "refuse"]

REQUIRED_SECTIONS = (
    Section.TENSORS,
    Section.PROGRAM,
    Section.REQUIRED,
    Section.PLAN,
    Section.WEIGHTS,
)
_STATUS = {
    Rule.VERSION: 21,
    Rule.HEADER_CHECKSUM: 22,
    Rule.SECTION_DIGEST: 22,
    Rule.SECTION_UNKNOWN: 23,
    Rule.OPCODE: 23,
    Rule.OP_VERSION: 23,
    Rule.REQUIRED_UNSUPPORTED: 23,
}


def refuse(rule: Rule, message: str) -> NoReturn:
    """Raise FormatError with the rule and its native status."""
    raise FormatError(message, rule, _STATUS.get(rule, 20))


def check(condition: bool, rule: Rule, message: str) -> None:
    """Refuse the file unless the condition holds."""
    if not condition:
        refuse(rule, message)


def entry_name(entry: EntryRecord) -> str:
    """Return an entry's name without its zero padding."""
    return entry.name.rstrip(b"\0").decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class Program:
    """The program section: entries in file order, instructions, operands, parameter bytes."""

    entries: tuple[EntryRecord, ...]
    instructions: tuple[Instruction, ...]
    operands: tuple[int, ...]
    parameters: bytes

    def inputs(self, index: int) -> tuple[int, ...]:
        """Return the tensor ids that an instruction reads."""
        item = self.instructions[index]
        return self.operands[item.first_operand : item.first_operand + item.inputs]

    def outputs(self, index: int) -> tuple[int, ...]:
        """Return the tensor ids that an instruction writes."""
        item = self.instructions[index]
        start = item.first_operand + item.inputs
        return self.operands[start : start + item.outputs]

    def record(self, index: int) -> Parameters | None:
        """Return the parameters of an instruction of a known op, or None."""
        item = self.instructions[index]
        kind = OPS[item.opcode].parameters
        return None if kind is None else kind.unpack(self.parameters, item.parameters_offset)


@dataclass(frozen=True, slots=True)
class Parts:
    """A file that passed every check of `open`."""

    sections: tuple[SectionRecord, ...]
    section_of: Mapping[int, SectionRecord]
    tensors: tuple[TensorRecord, ...]
    names: tuple[str, ...]
    program: Program
    required: tuple[RequiredRecord, ...]
    plan: PlanHeader
    peaks: tuple[PeakRecord, ...]
