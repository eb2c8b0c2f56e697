# SPDX-License-Identifier: Apache-2.0
"""Calibration text as windows of tokens: plain files, JSON lines and conversations.

A .txt file is one document. A line of a .jsonl file is {"text": "..."} or {"messages": [...]}; the
messages go through the model's own chat template. Documents follow each other in one stream of
tokens that is cut into windows of equal length, so that no position is padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.chat import ChatSettings, render
from ingot.errors import IngotError, InvalidArgumentError, StorageError
from ingot.format import Opcode
from ingot_compressor.calibration import pick_windows
from ingot_compressor.ir import Program

__all__ = [
    "CalibrationOptions",
    "CalibrationSet",
    "Document",
    "distance_warning",
    "duplicate_share",
    "pack_documents",
    "rank_warning",
    "read_documents",
    "widest_input",
]

MOST_DUPLICATES = 0.1
MOST_RATIO = 2.0
BETWEEN_TEXTS = "\n\n"

# Text -> token ids, special tokens by their text, nothing in front.
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Document:
    """A text as the model sees it; `chat` if a template made it."""

    content: str
    chat: bool


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """How much text is used: so many windows, spread over all of it, of so many tokens each."""

    windows: int = 128
    length: int = 512

    def __post_init__(self) -> None:
        if self.windows < 1 or self.length < 2:
            raise InvalidArgumentError(
                f"{self.windows} windows of {self.length} tokens: expected at least 1 of 2"
            )


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Windows of tokens, all of one length, and what was noticed while they were made.

    `sha256` is over documents (as rendered), BOS and options: equal sets have equal digests.
    Shapes: windows each (length,) int64.
    """

    windows: tuple[NDArray[np.int64], ...]
    sha256: str
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all windows."""
        return sum(len(window) for window in self.windows)


def read_documents(path: Path, settings: ChatSettings | None = None) -> tuple[Document, ...]:
    """Read a .txt or .jsonl file; `settings` hold the chat template for lines with messages.

    Raises: StorageError if it cannot be read; InvalidArgumentError naming file and line for what
        is no document, for messages without a template or that it refuses, and for an empty file.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path}: not UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        # not splitlines: JSON may hold other line separators as they are
        lines = enumerate(content.split("\n"), 1)
        documents = tuple(
            _document(f"{path}, line {number}", line, settings)
            for number, line in lines
            if line.strip()
        )
    else:
        documents = (Document(content, chat=False),)
    if not any(document.content.strip() for document in documents):
        raise InvalidArgumentError(f"{path}: the text is empty")
    return documents


def _document(place: str, line: str, settings: ChatSettings | None) -> Document:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InvalidArgumentError(f"{place}: not valid JSON: {error}") from error
    text = value.get("text") if isinstance(value, dict) else None
    messages = value.get("messages") if isinstance(value, dict) else None
    if isinstance(text, str) and messages is None:
        return Document(text, chat=False)
    if text is not None or not isinstance(messages, list) or not messages:
        raise InvalidArgumentError(
            f'{place}: expected an object with either "text" or a list "messages"'
        )
    if settings is None or settings.chat_template is None:
        raise InvalidArgumentError(f"{place}: messages, but the model has no chat template")
    return Document(_rendered(place, settings, messages, value.get("tools")), chat=True)


def _rendered(place: str, settings: ChatSettings, messages: list[Any], tools: Any) -> str:
    if not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        raise InvalidArgumentError(f'{place}: each message is an object with a "role"')
    try:
        return render(settings, messages, add_generation_prompt=False, tools=tools)
    except IngotError as error:
        raise InvalidArgumentError(f"{place}: {error}") from error


def pack_documents(
    documents: Sequence[Document],
    encode: Encode,
    options: CalibrationOptions,
    bos: int | None = None,
) -> CalibrationSet:
    """Return windows of the documents' tokens in a row.

    Each window begins with `bos` where inference does (None: it does not), but not twice where a
    template wrote it. A blank line stands between plain texts; conversations end as their template
    ends them. The end of the text that fills no window is left out, unless there is no other.

    Raises: InvalidArgumentError if there are not two tokens.
    """
    ids = np.fromiter(_stream(documents, encode), np.int64)
    windows = pick_windows(list(_cut(ids, options.length, bos)), options.windows * options.length)
    if not windows:
        raise InvalidArgumentError(f"the calibration text has {len(ids)} tokens: give a longer one")
    warnings = []
    if len(windows) < options.windows or len(windows[0]) < options.length:
        warnings.append(
            f"the calibration text fills {len(windows)} windows of {len(windows[0])} tokens,"
            f" {options.windows} of {options.length} were asked for"
        )
    share = duplicate_share(document.content for document in documents)
    if share > MOST_DUPLICATES:
        warnings.append(
            f"{share:.0%} of the calibration text's lines are repetitions of others:"
            " it says less than its length"
        )
    return CalibrationSet(tuple(windows), _digest(documents, options, bos), tuple(warnings))


def _stream(documents: Sequence[Document], encode: Encode) -> Iterator[int]:
    for index, document in enumerate(documents):
        followed = index + 1 < len(documents) and not document.chat
        yield from encode(document.content + BETWEEN_TEXTS if followed else document.content)


def _cut(ids: NDArray[np.int64], length: int, bos: int | None) -> Iterator[NDArray[np.int64]]:
    """Yield windows of `length`; a short last one only if it is the first."""
    at = 0
    while at < len(ids):
        start = np.array([] if bos is None or ids[at] == bos else [bos], np.int64)
        part = ids[at : at + length - len(start)]
        window = np.concatenate([start, part])
        if len(window) == length or (at == 0 and len(window) > 1):
            yield window
        at += len(part)


def _digest(documents: Sequence[Document], options: CalibrationOptions, bos: int | None) -> str:
    """Return the SHA-256 in hexadecimal; lengths go first so that no two lists read alike."""
    found = hashlib.sha256(
        json.dumps([options.windows, options.length, bos, len(documents)]).encode()
    )
    for document in documents:
        content = document.content.encode("utf-8")
        found.update(json.dumps([document.chat, len(content)]).encode())
        found.update(content)
    return found.hexdigest()


def duplicate_share(texts: Iterable[str]) -> float:
    """Return the share of lines that are equal to an earlier one, blank ones not counted.

    Lines are compared by a hash of 8 bytes, without the blanks at their ends.
    """
    seen: set[bytes] = set()
    total = 0
    for text in texts:
        for line in text.splitlines():
            if line.strip():
                total += 1
                seen.add(hashlib.blake2b(line.strip().encode(), digest_size=8).digest())
    return 1 - len(seen) / total if total else 0.0


def widest_input(program: Program) -> int:
    """Return the most input columns (k) of any linear operation."""
    return max(
        program.tensors[name].width
        for operation in program.operations
        if operation.opcode is Opcode.LINEAR
        for name in operation.linear().weights
    )


def rank_warning(tokens: int, program: Program) -> str | None:
    """Return what to say if there are fewer tokens than columns of the widest linear, else None.

    A sum of that many outer products has not the rank of the matrix: methods that invert it
    invent what they were not told.
    """
    k = widest_input(program)
    if tokens >= k:
        return None
    return (
        f"{tokens} calibration tokens cannot fill the {k} x {k} statistics of the widest linear"
        " layer: give more text"
    )


def distance_warning(
    calibration_losses: NDArray[np.float64],
    evaluation_losses: NDArray[np.float64],
    most: float = MOST_RATIO,
) -> str | None:
    """Return what to say if the full-precision model finds one text much harder, else None.

    The ratio of perplexities tells texts of another language or kind apart; texts that are
    equally hard may still differ.

    Shapes: losses (positions,). Units: nats, natural logarithm.
    """
    means = float(np.mean(calibration_losses)), float(np.mean(evaluation_losses))
    if max(means) - min(means) <= np.log(most):
        return None
    calibration, evaluation = np.exp(means)
    return (
        f"the calibration text has perplexity {calibration:.3g}, the evaluation text"
        f" {evaluation:.3g}: they are not of one kind"
    )
