# SPDX-License-Identifier: Apache-2.0
"""Faults of header, section table and truncation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ingot.format import Header, Rule, Section, SectionRecord
from tests.must_fail.fault import Fault, edit
from tests.must_fail.image import Image, Part, repaired_size

BIG = (1 << 64) - 64


def header_faults() -> Iterator[Fault]:
    yield Fault("empty", Rule.FILE_TOO_SMALL, lambda data: b"")
    yield Fault("short_header", Rule.FILE_TOO_SMALL, lambda data: data[:63])
    yield edit("magic", Rule.MAGIC, _header(magic=b"\x89INGOT\n\n"))
    yield edit("version_major", Rule.VERSION, _header(version_major=1))
    yield edit("version_minor", Rule.VERSION, _header(version_minor=2))
    yield edit("file_size_small", Rule.FILE_SIZE, _header(file_size=64))
    yield edit("file_size_huge", Rule.FILE_SIZE, _header(file_size=BIG))
    yield edit("no_sections", Rule.SECTION_COUNT, _header(section_count=0))
    yield edit("sections_65", Rule.SECTION_COUNT, _header(section_count=65))
    yield edit("sections_max", Rule.SECTION_COUNT, _header(section_count=0xFFFFFFFF))
    yield edit("table_offset", Rule.SECTION_TABLE, _header(table_offset=128))
    yield Fault("table_cut", Rule.SECTION_TABLE, lambda data: repaired_size(data[:100]))
    yield edit("header_crc", Rule.HEADER_CHECKSUM, _header(crc32c=0x12345678))
    yield Fault("table_byte", Rule.HEADER_CHECKSUM, lambda d: d[:70] + bytes([d[70] ^ 1]) + d[71:])
    yield edit("header_reserved", Rule.HEADER_RESERVED, _header(reserved=bytes(19) + b"\1"))
    yield edit("part_index", Rule.PART, _header(part_index=1))
    yield edit("part_count", Rule.PART, _header(part_count=2))


def _header(**fields: object) -> Callable[[Image], None]:
    return lambda image: image.header.update(fields)


def _override(kind: int, /, **fields: object) -> Callable[[Image], None]:
    return lambda image: image.part(kind).overrides.update(fields)


def _append(kind: int, flags: int, size: int = 8) -> Callable[[Image], None]:
    return lambda image: image.parts.append(Part(kind, flags, 64, bytearray(size)))


def _shift(kind: int, by: int) -> Callable[[Image], None]:
    """Move what the table says of a section, not the section."""

    def act(image: Image) -> None:
        data = image.to_bytes()
        index = image.parts.index(image.part(kind))
        record = SectionRecord.unpack(data, Header.SIZE + SectionRecord.SIZE * index)
        image.part(kind).overrides["offset"] = record.offset + by

    return act


def _drop(kind: int) -> Callable[[Image], None]:
    return lambda image: image.parts.remove(image.part(kind))


def section_faults() -> Iterator[Fault]:
    yield edit("unknown_required", Rule.SECTION_UNKNOWN, _append(77, 1))
    yield edit("kind_zero_required", Rule.SECTION_UNKNOWN, _append(0, 1))
    yield edit("prefix_required", Rule.SECTION_UNKNOWN, _append(Section.PREFIX, 1))
    yield edit("section_flags", Rule.SECTION_UNKNOWN, _override(Section.META, flags=2))
    yield edit("section_twice", Rule.SECTION_DUPLICATE, _append(Section.META, 0))
    yield edit("unknown_twice", Rule.SECTION_DUPLICATE, _append(77, 0), _append(77, 0))
    for kind in (Section.TENSORS, Section.PROGRAM, Section.REQUIRED, Section.PLAN, Section.WEIGHTS):
        name = kind.name.lower()
        yield edit(f"missing_{name}", Rule.SECTION_MISSING, _drop(kind))
        digest = bytes(32)
        if kind != Section.WEIGHTS:
            yield edit(f"digest_{name}", Rule.SECTION_DIGEST, _override(kind, sha256=digest))
    for value in (0, 32, 96, 1 << 17, 1 << 63):
        name = f"alignment_{value}"
        yield edit(name, Rule.SECTION_ALIGNMENT, _override(Section.META, alignment=value))
    yield edit("weights_alignment", Rule.SECTION_ALIGNMENT, _small_weights)
    yield edit("misaligned", Rule.SECTION_ALIGNMENT, _shift(Section.META, 8))
    yield edit("size_overflows", Rule.SECTION_RANGE, _override(Section.WEIGHTS, size=BIG))
    yield edit("size_beyond", Rule.SECTION_RANGE, _override(Section.WEIGHTS, size=1 << 30))
    yield edit("offset_overflows", Rule.SECTION_RANGE, _override(Section.META, offset=BIG))
    yield edit("overlap", Rule.SECTION_OVERLAP, _shift(Section.PROGRAM, -64))
    yield edit("in_table", Rule.SECTION_OVERLAP, _override(Section.TENSORS, offset=64))
    yield edit("gap", Rule.SECTION_GAP, _gap)
    appended = Rule.SECTION_GAP
    yield Fault("appended", appended, lambda data: repaired_size(data + bytes(64)))
    yield Fault("appended_unrepaired", Rule.FILE_SIZE, lambda data: data + bytes(64))


def _small_weights(image: Image) -> None:
    image.part(Section.WEIGHTS).alignment = 4096


def _gap(image: Image) -> None:
    """Leave bytes that no section counts before one that needs an alignment of 64."""
    part = image.part(Section.CHAT)
    part.data += bytes(256)
    part.overrides["size"] = 2


def truncation_faults(valid: bytes) -> Iterator[Fault]:
    """Cut at the start, the middle and the end of every section, size field repaired or not."""
    image = Image(valid)
    for index, part in enumerate(image.parts):
        record = SectionRecord.unpack(valid, Header.SIZE + SectionRecord.SIZE * index)
        for where, at in (("start", 0), ("middle", record.size // 2), ("end", record.size)):
            end = record.offset + at
            if end == len(valid):
                continue
            name = f"cut_{Section(part.kind).name.lower()}_{where}"
            yield Fault(name, Rule.FILE_SIZE, _cut(end))
            yield Fault(f"{name}_repaired", Rule.SECTION_RANGE, _cut_repaired(end))


def _cut(end: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:end]


def _cut_repaired(end: int) -> Callable[[bytes], bytes]:
    return lambda data: repaired_size(data[:end])
