# SPDX-License-Identifier: Apache-2.0
"""Checks of header, section table and digests; the order is that of the native reader."""

from __future__ import annotations

import hashlib

from ingot.container.crc32c import crc32c
from ingot.container.parts import REQUIRED_SECTIONS, check
from ingot.format import (
    MAGIC,
    MAX_SECTIONS,
    SECTION_ALIGNMENT,
    VERSION,
    WEIGHTS_ALIGNMENT,
    Header,
    Rule,
    Section,
    SectionRecord,
)

__all__ = ["check_digests", "check_header", "check_sections", "table_checksum"]

_KNOWN = frozenset(int(kind) for kind in Section) - {Section.PREFIX, Section.SIGNATURE}
_NAMES = {int(kind): kind.name.lower() for kind in Section}


def table_checksum(header: Header, table: bytes) -> int:
    """Return the CRC32C of a header (its own field as zero) and the section table."""
    raw = bytearray(header.pack())
    raw[40:44] = bytes(4)
    return crc32c(bytes(raw) + table)


def check_header(data: memoryview) -> Header:
    """Check the 64 bytes at the start and the checksum that covers them and the table."""
    size = len(data)
    check(size >= Header.SIZE, Rule.FILE_TOO_SMALL, f"file has {size} bytes, expected at least 64")
    header = Header.unpack(data)
    check(header.magic == MAGIC, Rule.MAGIC, "not an ingot file: the first eight bytes differ")
    version = (header.version_major, header.version_minor)
    check(
        version == VERSION,
        Rule.VERSION,
        f"format version {version[0]}.{version[1]}, this reader takes {VERSION[0]}.{VERSION[1]}; "
        "compress the model again with the `ingot compress` of this version",
    )
    check(
        header.file_size == size,
        Rule.FILE_SIZE,
        f"header says {header.file_size} bytes, the file has {size}: truncated or appended to",
    )
    count = header.section_count
    check(
        1 <= count <= MAX_SECTIONS,
        Rule.SECTION_COUNT,
        f"{count} sections, expected 1 to {MAX_SECTIONS}",
    )
    check(
        header.table_offset == Header.SIZE and Header.SIZE + SectionRecord.SIZE * count <= size,
        Rule.SECTION_TABLE,
        f"section table of {count} records at byte {header.table_offset} of {size}, expected at 64",
    )
    found = table_checksum(header, bytes(data[64 : 64 + SectionRecord.SIZE * count]))
    check(
        found == header.crc32c,
        Rule.HEADER_CHECKSUM,
        f"CRC32C of header and section table is {found:08x}, header says {header.crc32c:08x}",
    )
    check(not any(header.reserved), Rule.HEADER_RESERVED, "reserved bytes of the header are set")
    check(
        header.part_index == 0 and header.part_count == 1,
        Rule.PART,
        f"part {header.part_index} of {header.part_count}, expected part 0 of 1",
    )
    return header


def _check_alignment(index: int, record: SectionRecord) -> None:
    weights = record.kind == Section.WEIGHTS
    least = WEIGHTS_ALIGNMENT if weights else SECTION_ALIGNMENT
    value = record.alignment
    check(
        least <= value <= WEIGHTS_ALIGNMENT
        and value & (value - 1) == 0
        and record.offset % value == 0,
        Rule.SECTION_ALIGNMENT,
        f"section {index} ({_NAMES.get(record.kind, record.kind)}): alignment {value} at offset "
        f"{record.offset}, expected a power of two from {least} to {WEIGHTS_ALIGNMENT} "
        "that divides the offset",
    )


def _check_section(index: int, record: SectionRecord, earlier: set[int]) -> None:
    check(
        record.flags <= 1,
        Rule.SECTION_UNKNOWN,
        f"section {index}: flags {record.flags:#x}, only bit 0 is known",
    )
    check(
        record.kind in _KNOWN or record.flags == 0,
        Rule.SECTION_UNKNOWN,
        f"section {index}: kind {record.kind} is required by the file and unknown to this reader",
    )
    check(
        record.kind not in earlier,
        Rule.SECTION_DUPLICATE,
        f"section {index}: a second section of kind {record.kind}",
    )
    _check_alignment(index, record)


def check_sections(data: memoryview, header: Header) -> tuple[SectionRecord, ...]:
    """Check that the sections tile the file, each once, and that none is missing."""
    size = len(data)
    records: list[SectionRecord] = []
    kinds: set[int] = set()
    end = Header.SIZE + SectionRecord.SIZE * header.section_count
    for index in range(header.section_count):
        record = SectionRecord.unpack(data, Header.SIZE + SectionRecord.SIZE * index)
        _check_section(index, record, kinds)
        where = f"section {index}: bytes {record.offset} to {record.offset + record.size}"
        check(record.offset + record.size <= size, Rule.SECTION_RANGE, f"{where} of {size}")
        check(record.offset >= end, Rule.SECTION_OVERLAP, f"{where} start before byte {end}")
        check(
            record.offset - end < record.alignment,
            Rule.SECTION_GAP,
            f"{where} leave a gap after byte {end}",
        )
        end = record.offset + record.size
        kinds.add(record.kind)
        records.append(record)
    check(end == size, Rule.SECTION_GAP, f"{size - end} bytes follow the last section")
    for kind in REQUIRED_SECTIONS:
        check(kind in kinds, Rule.SECTION_MISSING, f"no section {kind.name.lower()}")
    return tuple(records)


def check_digests(
    data: memoryview, records: tuple[SectionRecord, ...], kinds: tuple[int, ...]
) -> None:
    """Check the SHA-256 of the sections of these kinds, in the order of the kinds."""
    by_kind = {record.kind: record for record in records}
    for kind in kinds:
        record = by_kind[kind]
        digest = hashlib.sha256(data[record.offset : record.offset + record.size]).digest()
        check(
            digest == record.sha256,
            Rule.SECTION_DIGEST,
            f"section {_NAMES.get(kind, kind)}: SHA-256 is {digest.hex()[:16]}..., "
            f"the table says {record.sha256.hex()[:16]}...: the file is damaged",
        )
