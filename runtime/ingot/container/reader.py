# SPDX-License-Identifier: Apache-2.0
"""The Python reader of the ingot file: the same rules as the native reader."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from ingot.container.header_checks import check_digests, check_header, check_sections
from ingot.container.liveness import check_liveness
from ingot.container.parts import Parts, check, entry_name
from ingot.container.plan_checks import (
    check_plan,
    check_plan_covers,
    check_required,
    check_required_covers,
)
from ingot.container.program_checks import check_program
from ingot.container.tensor_checks import check_tensors
from ingot.errors import FormatError, InvalidArgumentError, StateError, StorageError
from ingot.format import (
    EntryRecord,
    Header,
    Instruction,
    Parameters,
    PeakRecord,
    PlanHeader,
    RequiredRecord,
    Role,
    Rule,
    Section,
    SectionRecord,
    TensorRecord,
)

__all__ = ["Container", "validate"]

_SMALL = (Section.TENSORS, Section.PROGRAM, Section.REQUIRED, Section.PLAN)
_BLOCK = 1 << 20


def validate(data: memoryview) -> Parts:
    """Check a whole file in memory as `open` does and return its parts.

    Raises: FormatError with the rule that is broken first.
    """
    header = check_header(data)
    sections = check_sections(data, header)
    check_digests(data, sections, _SMALL)
    by_kind = {record.kind: record for record in sections}

    def bytes_of(kind: Section) -> memoryview:
        record = by_kind[kind]
        return data[record.offset : record.offset + record.size]

    required = check_required(bytes_of(Section.REQUIRED))
    plan, peaks = check_plan(bytes_of(Section.PLAN))
    weights = bytes_of(Section.WEIGHTS)
    tensors, names = check_tensors(bytes_of(Section.TENSORS), weights, plan)
    program = check_program(bytes_of(Section.PROGRAM), tensors, plan)
    check_liveness(program, tensors)
    check_required_covers(required, tensors, program)
    check_plan_covers(plan, tensors, program)
    return Parts(sections, by_kind, tensors, names, program, required, plan, peaks)


class Container:
    """An open ingot file, checked once when it is opened. A context manager.

    The memoryviews that it hands out stay valid after `close`; they keep the mapping alive.
    """

    def __init__(self, path: str | Path) -> None:
        """Map and check a file.

        Raises: FormatError if it breaks a rule; StorageError if it cannot be read.
        """
        self.path = Path(path)
        self._data: memoryview | None = _map(self.path)
        try:
            self._parts = validate(self._data)
        except FormatError as error:
            self.close()
            raise FormatError(f"{self.path}: {error}", error.rule, error.status) from None
        except BaseException:
            self.close()
            raise
        names = self._parts.names
        self._ids = {name: index for index, name in enumerate(names)}
        entries = {entry_name(entry): entry for entry in self._parts.program.entries}
        self._entries: Mapping[str, EntryRecord] = MappingProxyType(entries)

    def __enter__(self) -> Container:
        """Return the container itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let the mapping go; it ends with the last view of it."""
        self._data = None

    @property
    def data(self) -> memoryview:
        """The whole file."""
        if self._data is None:
            raise StateError(f"{self.path}: the container is closed")
        return self._data

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.data)

    @property
    def tensors(self) -> tuple[TensorRecord, ...]:
        """Tensor records; a tensor's id is its index."""
        return self._parts.tensors

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names by id."""
        return self._parts.names

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """All instructions; an entry runs a part of them."""
        return self._parts.program.instructions

    @property
    def entries(self) -> Mapping[str, EntryRecord]:
        """Entry points by name; 'step' is always there."""
        return self._entries

    @property
    def plan(self) -> PlanHeader:
        """The memory plan."""
        return self._parts.plan

    @property
    def peaks(self) -> tuple[PeakRecord, ...]:
        """Planned peak bytes at some context lengths."""
        return self._parts.peaks

    @property
    def required(self) -> tuple[RequiredRecord, ...]:
        """What a reader must support."""
        return self._parts.required

    @property
    def sections(self) -> tuple[SectionRecord, ...]:
        """Section records in file order."""
        return self._parts.sections

    def tensor_id(self, name: str) -> int:
        """Return the id of a tensor by name.

        Raises: InvalidArgumentError if there is none.
        """
        if name not in self._ids:
            raise InvalidArgumentError(f"{self.path}: no tensor '{name}'")
        return self._ids[name]

    def inputs(self, index: int) -> tuple[int, ...]:
        """Return the tensor ids that an instruction reads."""
        return self._parts.program.inputs(index)

    def outputs(self, index: int) -> tuple[int, ...]:
        """Return the tensor ids that an instruction writes."""
        return self._parts.program.outputs(index)

    def parameters(self, index: int) -> Parameters | None:
        """Return the parameters of an instruction, or None for an op without."""
        return self._parts.program.record(index)

    def section(self, kind: Section) -> memoryview:
        """Return the bytes of a section, empty if it is not there."""
        record = self._parts.section_of.get(kind)
        return self.data[:0] if record is None else _slice(self.data, record)

    def json(self, kind: Section) -> Any:
        """Return what a JSON section says, or None if it is not there.

        Raises: FormatError if it is not JSON.
        """
        if kind not in self._parts.section_of:
            return None
        try:
            return json.loads(bytes(self.section(kind)))
        except (ValueError, RecursionError) as error:
            text = f"{self.path}: section {kind.name.lower()} is not JSON: {error}"
            raise FormatError(text) from None

    def tensor_bytes(self, tensor: int) -> memoryview:
        """Return the stored bytes of a weight or constant.

        Raises: InvalidArgumentError for another id.
        """
        if not 0 <= tensor < len(self.tensors) or self.tensors[tensor].role > Role.CONSTANT:
            raise InvalidArgumentError(f"{self.path}: tensor {tensor} has no stored bytes")
        record = self.tensors[tensor]
        return self.section(Section.WEIGHTS)[record.offset : record.offset + record.size]

    def verify(self) -> None:
        """Check the digest of every section and that all padding is zero.

        Raises: FormatError with rule SECTION_DIGEST or PADDING.
        Cost: reads the whole file.
        """
        header = Header.unpack(self.data)
        check_sections(self.data, header)
        for record in self.sections:
            check_digests(self.data, (record,), (record.kind,))
        for start, end in self._gaps():
            for at in range(start, end, _BLOCK):
                zero = not any(self.data[at : min(at + _BLOCK, end)])
                text = f"{self.path}: padding between bytes {start} and {end} is not zero"
                check(zero, Rule.PADDING, text)

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the byte ranges between sections and between stored tensors."""
        end = Header.SIZE + SectionRecord.SIZE * len(self.sections)
        for record in self.sections:
            yield end, record.offset
            end = record.offset + record.size
        weights = self._parts.section_of[Section.WEIGHTS]
        end = weights.offset
        for tensor in self.tensors:
            if tensor.role in (Role.WEIGHT, Role.CONSTANT):
                yield end, weights.offset + tensor.offset
                end = weights.offset + tensor.offset + tensor.size
        yield end, weights.offset + weights.size


def _slice(data: memoryview, record: SectionRecord) -> memoryview:
    return data[record.offset : record.offset + record.size]


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{path}: cannot read the file: {reason}") from error
