# SPDX-License-Identifier: Apache-2.0
"""A file taken apart, so that one thing in it can be broken and all checksums repaired."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ingot.container.header_checks import table_checksum
from ingot.format import (
    OPS,
    EntryRecord,
    Header,
    Instruction,
    PlanHeader,
    ProgramHeader,
    RequiredHeader,
    RequiredRecord,
    Section,
    SectionRecord,
    TensorRecord,
    TensorsHeader,
)

Record = TypeVar("Record")


@dataclass
class Part:
    """A section; `overrides` replace fields of its record after the layout."""

    kind: int
    flags: int
    alignment: int
    data: bytearray
    overrides: dict[str, Any] = field(default_factory=dict)


class Image:
    """Sections and header overrides of one file."""

    def __init__(self, data: bytes) -> None:
        header = Header.unpack(data)
        self.header: dict[str, Any] = {}
        self.parts: list[Part] = []
        self.names: list[str] = []
        for index in range(header.section_count):
            r = SectionRecord.unpack(data, Header.SIZE + SectionRecord.SIZE * index)
            body = bytearray(data[r.offset : r.offset + r.size])
            self.parts.append(Part(r.kind, r.flags, r.alignment, body))
        self._read_names()

    def _read_names(self) -> None:
        data = self.part(Section.TENSORS).data
        header = TensorsHeader.unpack(data)
        for index in range(header.count):
            r = TensorRecord.unpack(data, TensorsHeader.SIZE + TensorRecord.SIZE * index)
            start = header.names_offset + r.name_offset
            self.names.append(data[start : start + r.name_size].decode())

    def part(self, kind: int) -> Part:
        return next(part for part in self.parts if part.kind == kind)

    def edit(self, kind: int, offset: int, record: type[Any], /, **fields: Any) -> None:
        """Replace fields of the record at a byte offset of a section."""
        data = self.part(kind).data
        raw = replace(record.unpack(data, offset), **fields).pack()
        data[offset : offset + len(raw)] = raw

    def head(self, kind: int, /, **fields: Any) -> None:
        """Replace fields of the header of a section."""
        heads: dict[int, type[Any]] = {
            Section.TENSORS: TensorsHeader,
            Section.PROGRAM: ProgramHeader,
            Section.REQUIRED: RequiredHeader,
            Section.PLAN: PlanHeader,
        }
        self.edit(kind, 0, heads[kind], **fields)

    def tensor(self, name: str, /, **fields: Any) -> None:
        at = TensorsHeader.SIZE + TensorRecord.SIZE * self.names.index(name)
        self.edit(Section.TENSORS, at, TensorRecord, **fields)

    def record(self, name: str) -> TensorRecord:
        at = TensorsHeader.SIZE + TensorRecord.SIZE * self.names.index(name)
        return TensorRecord.unpack(self.part(Section.TENSORS).data, at)

    @property
    def program(self) -> ProgramHeader:
        return ProgramHeader.unpack(self.part(Section.PROGRAM).data)

    def _starts(self) -> tuple[int, int, int]:
        """Return where instructions, operands and parameters start."""
        p = self.program
        instructions = ProgramHeader.SIZE + EntryRecord.SIZE * p.entry_count
        operands = instructions + Instruction.SIZE * p.instruction_count
        return instructions, operands, operands + (4 * p.operand_count + 7) // 8 * 8

    def entry(self, index: int, /, **fields: Any) -> None:
        at = ProgramHeader.SIZE + EntryRecord.SIZE * index
        self.edit(Section.PROGRAM, at, EntryRecord, **fields)

    def find(self, opcode: int, nth: int = 0) -> int:
        """Return the index of the nth instruction of an op."""
        count = self.program.instruction_count
        return [i for i in range(count) if self.instruction_at(i).opcode == opcode][nth]

    def instruction_at(self, index: int) -> Instruction:
        at = self._starts()[0] + Instruction.SIZE * index
        return Instruction.unpack(self.part(Section.PROGRAM).data, at)

    def instruction(self, index: int, /, **fields: Any) -> None:
        at = self._starts()[0] + Instruction.SIZE * index
        self.edit(Section.PROGRAM, at, Instruction, **fields)

    def operand(self, index: int, position: int, value: int | str) -> None:
        """Set an operand of an instruction: a tensor id, or a tensor by name."""
        number = self.names.index(value) if isinstance(value, str) else value
        first = self.instruction_at(index).first_operand
        at = self._starts()[1] + 4 * (first + position)
        struct.pack_into("<I", self.part(Section.PROGRAM).data, at, number)

    def parameters(self, index: int, /, **fields: Any) -> None:
        item = self.instruction_at(index)
        kind = OPS[item.opcode].parameters
        assert kind is not None
        at = self._starts()[2] + item.parameters_offset
        self.edit(Section.PROGRAM, at, kind, **fields)

    def required(self, index: int, /, **fields: Any) -> None:
        at = RequiredHeader.SIZE + RequiredRecord.SIZE * index
        self.edit(Section.REQUIRED, at, RequiredRecord, **fields)

    def to_bytes(self) -> bytes:
        """Lay the sections out and write all checksums; overrides come last."""
        position = Header.SIZE + SectionRecord.SIZE * len(self.parts)
        body = bytearray()
        start = position
        records = []
        for part in self.parts:
            offset = -(-position // part.alignment) * part.alignment
            body += bytes(offset - position) + part.data
            position = offset + len(part.data)
            digest = hashlib.sha256(part.data).digest()
            record = SectionRecord(
                part.kind, part.flags, offset, len(part.data), part.alignment, digest
            )
            records.append(replace(record, **part.overrides))
        table = b"".join(record.pack() for record in records)
        return seal(self.header, len(self.parts), table, start, bytes(body))


def seal(header: dict[str, Any], count: int, table: bytes, start: int, body: bytes) -> bytes:
    """Return a file with a right CRC32C, unless `header` overrides it."""
    from ingot.format import MAGIC, VERSION

    plain = Header(MAGIC, *VERSION, count, start + len(body), Header.SIZE, 0, 1, 0)
    record = replace(plain, **header)
    covered = table[: SectionRecord.SIZE * record.section_count]
    if "crc32c" not in header:
        record = replace(record, crc32c=table_checksum(record, covered))
    return record.pack() + table + body


def repaired_size(data: bytes) -> bytes:
    """Set file_size to what the file has, and the CRC32C; for truncated and appended files."""
    record = replace(Header.unpack(data), file_size=len(data))
    table = data[64 : 64 + SectionRecord.SIZE * record.section_count]
    record = replace(record, crc32c=table_checksum(record, table))
    return record.pack() + data[64:]
