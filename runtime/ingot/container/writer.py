# SPDX-License-Identifier: Apache-2.0
"""Atomic writing: a file appears whole under its name, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ingot.container.header_checks import table_checksum
from ingot.container.parts import REQUIRED_SECTIONS
from ingot.container.reader import Container
from ingot.errors import FormatError, InvalidArgumentError, StorageError
from ingot.format import (
    MAGIC,
    SECTION_ALIGNMENT,
    VERSION,
    WEIGHTS_ALIGNMENT,
    Buffer,
    EntryRecord,
    Header,
    Instruction,
    PeakRecord,
    PlanHeader,
    ProgramHeader,
    RequiredHeader,
    RequiredRecord,
    Section,
    SectionRecord,
    TensorRecord,
    TensorsHeader,
)
from ingot.packing.sizes import round_up

__all__ = ["BLOB_SECTIONS", "Contents", "replace_sections", "write_container"]

BLOB_SECTIONS = frozenset(
    {Section.TOKENIZER, Section.CHAT, Section.META, Section.CERTIFICATE, Section.VECTORS}
)
_FILE_ORDER = (
    Section.TENSORS,
    Section.PROGRAM,
    Section.REQUIRED,
    Section.PLAN,
    Section.TOKENIZER,
    Section.CHAT,
    Section.META,
    Section.WEIGHTS,
    Section.CERTIFICATE,
    Section.VECTORS,
)
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a file is made of; the writer adds counts, names, padding and checksums.

    `tensors` carry their offsets; their ids, name_offset and name_size are set from `names`.
    `weights` yields (offset in the weights section, bytes) with ascending offsets.
    """

    tensors: Sequence[TensorRecord]
    names: Sequence[str]
    entries: Sequence[EntryRecord]
    instructions: Sequence[Instruction]
    operands: Sequence[int]
    parameters: bytes
    required: Sequence[RequiredRecord]
    plan: PlanHeader
    peaks: Sequence[PeakRecord]
    weights: Iterable[tuple[int, Buffer]]
    weights_size: int
    blobs: Mapping[Section, bytes]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One section to be written; `sha256` is None where the writer must compute it."""

    kind: int
    flags: int
    size: int
    alignment: int
    chunks: Iterable[Buffer]
    sha256: bytes | None = None


def write_container(path: str | Path, contents: Contents) -> None:
    """Write a file and read it back with all checks before it gets its name.

    Raises: FormatError if the contents break a rule; StorageError if the disk is full or cannot
    be written; InvalidArgumentError for a blob of another section or weights out of order.
    On any exception the destination is what it was and no temporary file is left.
    """
    _check_blobs(contents.blobs)
    sections = {
        Section.TENSORS: _tensors_section(contents),
        Section.PROGRAM: _program_section(contents),
        Section.REQUIRED: _required_section(contents),
        Section.PLAN: _plan_section(contents),
        **contents.blobs,
    }
    pieces = {int(kind): _blob_piece(kind, data) for kind, data in sections.items()}
    chunks = _weight_chunks(contents)
    pieces[Section.WEIGHTS] = _Piece(
        Section.WEIGHTS, 1, contents.weights_size, WEIGHTS_ALIGNMENT, chunks
    )
    _write_atomic(Path(path), lambda file: _write_pieces(file, _ordered(pieces)))


def replace_sections(
    source: str | Path, destination: str | Path, blobs: Mapping[Section, bytes]
) -> None:
    """Copy a file with some of its JSON sections added or replaced; may be the same path.

    Raises: as write_container.
    Cost: copies the whole file.
    """
    _check_blobs(blobs)
    with Container(source) as container:
        pieces = {record.kind: _copy_piece(container, record) for record in container.sections}
        pieces |= {int(kind): _blob_piece(kind, data) for kind, data in blobs.items()}
        _write_atomic(Path(destination), lambda file: _write_pieces(file, _ordered(pieces)))


def _check_blobs(blobs: Mapping[Section, bytes]) -> None:
    for kind in blobs:
        if kind not in BLOB_SECTIONS:
            raise InvalidArgumentError(f"section {kind!r} cannot be written as a blob")


def _blob_piece(kind: Section, data: bytes) -> _Piece:
    return _Piece(kind, int(kind in REQUIRED_SECTIONS), len(data), SECTION_ALIGNMENT, (data,))


def _copy_piece(container: Container, record: SectionRecord) -> _Piece:
    end = record.offset + record.size
    starts = range(record.offset, end, _BLOCK)
    chunks = (container.data[at : min(at + _BLOCK, end)] for at in starts)
    return _Piece(record.kind, record.flags, record.size, record.alignment, chunks, record.sha256)


def _ordered(pieces: Mapping[int, _Piece]) -> list[_Piece]:
    """Return the pieces in file order; unknown optional sections come last."""
    rest = [kind for kind in pieces if kind not in _FILE_ORDER]
    return [pieces[kind] for kind in (*_FILE_ORDER, *rest) if kind in pieces]


def _tensors_section(contents: Contents) -> bytes:
    if len(contents.names) != len(contents.tensors):
        raise InvalidArgumentError(
            f"{len(contents.tensors)} tensors, but {len(contents.names)} names"
        )
    records, names = bytearray(), bytearray()
    for index, (tensor, name) in enumerate(zip(contents.tensors, contents.names, strict=True)):
        raw = bytearray(tensor.pack())
        text = name.encode("utf-8")
        for at, value in ((0, index), (4, len(names)), (8, len(text))):
            raw[at : at + 4] = value.to_bytes(4, "little")
        records += raw
        names += text
    count = len(contents.tensors)
    names_offset = TensorsHeader.SIZE + TensorRecord.SIZE * count
    header = TensorsHeader(count, TensorRecord.SIZE, names_offset, len(names))
    return header.pack() + bytes(records) + bytes(names)


def _program_section(contents: Contents) -> bytes:
    header = ProgramHeader(
        len(contents.entries),
        len(contents.instructions),
        len(contents.operands),
        len(contents.parameters),
    )
    operands = b"".join(operand.to_bytes(4, "little") for operand in contents.operands)
    operands += bytes(-len(operands) % 8)
    entries = [entry.pack() for entry in contents.entries]
    instructions = [item.pack() for item in contents.instructions]
    return b"".join([header.pack(), *entries, *instructions, operands, contents.parameters])


def _required_section(contents: Contents) -> bytes:
    records = [record.pack() for record in contents.required]
    return b"".join([RequiredHeader(len(records)).pack(), *records])


def _plan_section(contents: Contents) -> bytes:
    raw = bytearray(contents.plan.pack())
    raw[12:16] = len(contents.peaks).to_bytes(4, "little")
    return b"".join([bytes(raw), *(peak.pack() for peak in contents.peaks)])


def _zeros(size: int) -> Iterator[bytes]:
    block = bytes(min(size, _BLOCK))
    for start in range(0, size, _BLOCK):
        yield block[: size - start]


def _weight_chunks(contents: Contents) -> Iterator[Buffer]:
    position = 0
    for offset, data in contents.weights:
        view = memoryview(data).cast("B")
        if offset < position or offset + len(view) > contents.weights_size:
            raise InvalidArgumentError(
                f"weight of {len(view)} bytes at {offset}: expected an offset from {position} and "
                f"an end within {contents.weights_size}"
            )
        yield from _zeros(offset - position)
        yield view
        position = offset + len(view)
    yield from _zeros(contents.weights_size - position)


def _write_pieces(file: BinaryIO, pieces: Sequence[_Piece]) -> None:
    start = Header.SIZE + SectionRecord.SIZE * len(pieces)
    file.write(bytes(start))
    position = start
    records: list[SectionRecord] = []
    for piece in pieces:
        offset = round_up(position, piece.alignment)
        for zeros in _zeros(offset - position):
            file.write(zeros)
        digest = _write_chunks(file, piece)
        records.append(
            SectionRecord(piece.kind, piece.flags, offset, piece.size, piece.alignment, digest)
        )
        position = offset + piece.size
    table = b"".join(record.pack() for record in records)
    header = Header(MAGIC, *VERSION, len(pieces), position, Header.SIZE, 0, 1, 0)
    checksum = table_checksum(header, table)
    raw = bytearray(header.pack())
    raw[40:44] = checksum.to_bytes(4, "little")
    file.seek(0)
    file.write(bytes(raw) + table)


def _write_chunks(file: BinaryIO, piece: _Piece) -> bytes:
    digest = hashlib.sha256()
    written = 0
    for chunk in piece.chunks:
        file.write(chunk)
        written += len(chunk)
        if piece.sha256 is None:
            digest.update(chunk)
    if written != piece.size:
        raise InvalidArgumentError(
            f"section {piece.kind}: {written} bytes written, {piece.size} promised"
        )
    return digest.digest() if piece.sha256 is None else piece.sha256


def _write_atomic(path: Path, write: Callable[[BinaryIO], None]) -> None:
    temporary = path.parent / f".ingot-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Container(temporary).close()
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except FormatError as error:
        temporary.unlink(missing_ok=True)
        raise FormatError(f"{path}: not written: {error}", error.rule, error.status) from None
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, StorageError):
            raise
        raise StorageError(_reason(path, error)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the rename last. The file's bytes are on disk; some systems cannot sync a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{path}: the disk is full; nothing was written. "
            f"Free space in {path.parent} or write to another disk"
        )
    return f"{path}: cannot write the file: {error.strerror or error}"
