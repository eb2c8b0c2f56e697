# SPDX-License-Identifier: Apache-2.0
"""What a version of a model consists of: sections and pieces by digest, and what it needs.

A piece never crosses the start of a section or of a stored tensor, so that a section or a tensor
that grows moves the others without changing their pieces. Within them pieces have 64 KiB.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ingot.container import Container
from ingot.errors import FormatError, InvalidArgumentError
from ingot.format import VERSION, Layout, Role, Section

__all__ = [
    "PIECE_BYTES",
    "Manifest",
    "Piece",
    "Requirements",
    "SectionDigest",
    "check_name",
    "make_manifest",
    "model_name",
]

PIECE_BYTES = 1 << 16
FORMAT = 1
_MOST_PIECES = 1 << 22
_MOST_BYTES = 1 << 44
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a file. Units: bytes; digest is SHA-256 in hex."""

    offset: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class SectionDigest:
    """A section as the file's own table has it. Units: bytes; digest is SHA-256 in hex."""

    kind: str
    offset: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a device must have. Units: bytes at `context` tokens, the file's plan."""

    format: tuple[int, int]
    target: str
    layouts: tuple[str, ...]
    context: int
    peak_bytes: int


@dataclass(frozen=True)
class Manifest:
    """One version of a model. `version` is the SHA-256 of the whole file.

    `sequence` orders signed versions: a store refuses one below the highest that it has had.
    """

    name: str
    version: str
    size: int
    sequence: int
    requirements: Requirements
    sections: tuple[SectionDigest, ...]
    pieces: tuple[Piece, ...] = field(repr=False)

    @cached_property
    def file_name(self) -> str:
        """The name of the file in a store."""
        return f"{self.version}.ingot"

    def to_bytes(self) -> bytes:
        """Return the one line of JSON that is signed, stored and sent."""
        needs = self.requirements
        values = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "size": self.size,
            "sequence": self.sequence,
            "requirements": {
                "format": list(needs.format),
                "target": needs.target,
                "layouts": list(needs.layouts),
                "context": needs.context,
                "peak_bytes": needs.peak_bytes,
            },
            "sections": [[s.kind, s.offset, s.size, s.digest] for s in self.sections],
            "pieces": [[piece.size, piece.digest] for piece in self.pieces],
        }
        return json.dumps(values, separators=(",", ":"), ensure_ascii=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what to_bytes wrote; the bytes may come from anybody.

        Raises: FormatError saying what is wrong.
        """
        try:
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise ValueError(f"it has format {values['format']!r}, expected {FORMAT}")
            manifest = _from_values(values)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"the manifest cannot be read: {error!r}") from None
        return manifest


def check_name(name: str) -> str:
    """Return a model's name if it can be one of a folder.

    Raises: InvalidArgumentError.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"'{name}' is no model name: up to 64 of a-z, 0-9, '.', '_' and '-', no leading sign"
        )
    return name


def model_name(path: Path) -> str:
    """Return the name that a file's model gets where the user gives none: that of the file."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.name.removesuffix(".ingot").lower()).strip("-._")
    return name[:64] or "model"


def make_manifest(path: Path, name: str, sequence: int | None = None) -> Manifest:
    """Read a whole file and describe it. `sequence` is by default the time in seconds.

    Raises: FormatError if the file breaks a rule or a digest; StorageError; InvalidArgumentError.
    Cost: reads the file three times.
    """
    check_name(name)
    with Container(path) as container:
        container.verify()
        data = container.data
        cuts = _cuts(container)
        pieces = tuple(_pieces(data, cuts))
        whole = hashlib.sha256()
        for start in range(0, len(data), _BLOCK):
            whole.update(data[start : start + _BLOCK])
        sections = tuple(
            SectionDigest(Section(s.kind).name.lower(), s.offset, s.size, s.sha256.hex())
            for s in container.sections
        )
        return Manifest(
            name=name,
            version=whole.hexdigest(),
            size=len(data),
            sequence=int(time.time()) if sequence is None else sequence,
            requirements=_requirements(container),
            sections=sections,
            pieces=pieces,
        )


def _cuts(container: Container) -> list[int]:
    """Return where pieces begin or end at least: sections, and tensors within the weights."""
    cuts = {0, container.size}
    for section in container.sections:
        cuts |= {section.offset, section.offset + section.size}
        if section.kind == Section.WEIGHTS:
            stored = (t for t in container.tensors if t.role in (Role.WEIGHT, Role.CONSTANT))
            cuts |= {section.offset + tensor.offset for tensor in stored}
    return sorted(cuts)


def _pieces(data: memoryview, cuts: list[int]) -> Iterator[Piece]:
    for start, end in pairwise(cuts):
        for offset in range(start, end, PIECE_BYTES):
            size = min(PIECE_BYTES, end - offset)
            digest = hashlib.sha256(data[offset : offset + size]).hexdigest()
            yield Piece(offset, size, digest)


def _requirements(container: Container) -> Requirements:
    meta = container.json(Section.META)
    target = meta.get("target", "") if isinstance(meta, dict) else ""
    layouts = {t.layout for t in container.tensors if t.role == Role.WEIGHT}
    largest = max(container.peaks, key=lambda peak: peak.context, default=None)
    return Requirements(
        format=(VERSION[0], VERSION[1]),
        target=target if isinstance(target, str) else "",
        layouts=tuple(sorted(Layout(layout).name.lower() for layout in layouts)),
        context=largest.context if largest else 0,
        peak_bytes=largest.peak_bytes if largest else container.size,
    )


def _from_values(values: dict[str, Any]) -> Manifest:
    needs = values["requirements"]
    if len(values["pieces"]) > _MOST_PIECES:
        raise ValueError(f"it has {len(values['pieces'])} pieces, at most {_MOST_PIECES}")
    size = _integer(values["size"], 1, _MOST_BYTES)
    pieces, offset = [], 0
    for length, digest in values["pieces"]:
        pieces.append(Piece(offset, _integer(length, 1, PIECE_BYTES), _digest(digest)))
        offset += length
    if offset != size:
        raise ValueError(f"its pieces have {offset} bytes, the file {size}")
    return Manifest(
        name=check_name(values["name"]),
        version=_digest(values["version"]),
        size=size,
        sequence=_integer(values["sequence"], 0, 1 << 62),
        requirements=Requirements(
            format=(_integer(needs["format"][0], 0, 1 << 16), _integer(needs["format"][1], 0, 99)),
            target=_text(needs["target"]),
            layouts=tuple(_text(layout) for layout in needs["layouts"]),
            context=_integer(needs["context"], 0, 1 << 32),
            peak_bytes=_integer(needs["peak_bytes"], 0, _MOST_BYTES),
        ),
        sections=tuple(_section(entry, size) for entry in values["sections"]),
        pieces=tuple(pieces),
    )


def _section(entry: list[Any], size: int) -> SectionDigest:
    kind, offset, length, digest = entry
    start = _integer(offset, 0, size)
    return SectionDigest(_text(kind), start, _integer(length, 0, size - start), _digest(digest))


def _integer(value: object, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{value!r} is not an integer from {lowest} to {highest}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError("a text is missing or too long")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("a digest is not 64 hex digits")
    return value
