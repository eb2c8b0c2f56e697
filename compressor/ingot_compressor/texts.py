# SPDX-License-Identifier: Apache-2.0
"""Texts to calibrate and evaluate on: plain files or JSON lines, named and hashed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import InvalidArgumentError, StorageError
from ingot_compressor.calibration_texts import Document

__all__ = ["BETWEEN_DOCUMENTS", "Text", "bundled_text", "read_text"]

BETWEEN_DOCUMENTS = "\n\n"


@dataclass(frozen=True, slots=True)
class Text:
    """A text, the name of its file and the SHA-256 of the UTF-8 of `content`.

    `documents` are what `content` is joined from, where a text was read as a list of them.
    """

    name: str
    content: str
    documents: tuple[Document, ...] = ()

    @property
    def sha256(self) -> str:
        """The digest in hexadecimal."""
        return hashlib.sha256(self.content.encode("utf-8")).hexdigest()


def read_text(path: Path) -> Text:
    """Read a .txt file whole, or the "text" of each line of a .jsonl file, joined by blank lines.

    Raises: StorageError if it cannot be read; InvalidArgumentError if it is empty or not what its
        name says.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path}: not UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        lines = content.splitlines()
        content = BETWEEN_DOCUMENTS.join(
            _line_text(path, number, line) for number, line in enumerate(lines, 1) if line.strip()
        )
    if not content.strip():
        raise InvalidArgumentError(f"{path}: the text is empty")
    return Text(path.name, content)


def _line_text(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InvalidArgumentError(f"{path}, line {number}: not valid JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise InvalidArgumentError(f'{path}, line {number}: expected an object with "text"')
    return str(value["text"])


def bundled_text(purpose: str) -> Path | None:
    """Return the bundled extract for a purpose, or None if this copy was built without it.

    `purpose` is "calibration" or "evaluation". It is package data when installed, and stands in
    examples/text in a source checkout.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "bundled_texts", package.parents[1] / "examples" / "text"):
        found = sorted(folder.glob(f"*{purpose}*.txt"))
        if found:
            return found[0]
    return None
