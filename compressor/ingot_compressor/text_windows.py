# SPDX-License-Identifier: Apache-2.0
"""Texts as windows of a model's tokens, as inference would see them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingot.chat import ChatSettings
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration import pick_windows
from ingot_compressor.calibration_texts import (
    CalibrationOptions,
    CalibrationSet,
    pack_documents,
    read_documents,
)
from ingot_compressor.evaluate import LONGEST_WINDOW, UNSCORED, compare_logits, token_windows
from ingot_compressor.execute import TensorStore
from ingot_compressor.importers import Imported
from ingot_compressor.ir import Program
from ingot_compressor.measure import reference_logits
from ingot_compressor.texts import BETWEEN_DOCUMENTS, Text

__all__ = [
    "evaluation_windows",
    "model_tokenizer",
    "pack_text",
    "read_calibration",
    "reference_losses",
]


def model_tokenizer(imported: Imported) -> Tokenizer:
    """Return the tokenizer of a model."""
    chat = imported.chat
    return Tokenizer(imported.tokenizer_json, chat["bos_token_id"], chat["add_bos"])


def read_calibration(path: Path, imported: Imported) -> Text:
    """Read a .txt or .jsonl file; messages go through the model's own chat template.

    Raises: StorageError or InvalidArgumentError as `read_documents`.
    """
    documents = read_documents(path, ChatSettings.from_json(imported.chat))
    content = BETWEEN_DOCUMENTS.join(document.content for document in documents)
    return Text(path.name, content, documents)


def evaluation_windows(
    text: Text, imported: Imported, context: int, tokens: int, length: int = LONGEST_WINDOW
) -> list[NDArray[np.int64]]:
    """Return windows of a text, spread evenly over it; none where nothing would be scored."""
    window = min(context, length)
    if window < UNSCORED + 2:
        return []
    ids = model_tokenizer(imported).encode(text.content, begin=False)
    return pick_windows(list(token_windows(ids, window, _begin(imported))), tokens)


def pack_text(
    text: Text, imported: Imported, context: int, tokens: int, length: int = LONGEST_WINDOW
) -> CalibrationSet | None:
    """Return windows of the documents of a text with their digest and what was noticed.

    None where the text or the context is too short to say anything.
    """
    window = min(context, length)
    tokenizer = model_tokenizer(imported)
    if window < UNSCORED + 2:
        return None
    if len(tokenizer.encode(text.content[: 64 * UNSCORED], begin=False)) < 2:
        return None
    options = CalibrationOptions(max(1, tokens // window), window)
    packed = pack_documents(
        text.documents,
        lambda content: tokenizer.encode(content, begin=False),
        options,
        _begin(imported),
    )
    return packed if len(packed.windows[0]) > UNSCORED else None


def _begin(imported: Imported) -> int | None:
    """Return the token that stands before every text, if one does."""
    bos: int | None = imported.chat["bos_token_id"] if imported.chat["add_bos"] else None
    return bos


def reference_losses(
    program: Program, windows: Sequence[NDArray[np.int64]], store: TensorStore
) -> NDArray[np.float64]:
    """Return what the full-precision model loses at each position that a measurement scores.

    Shapes: windows each (t,) int64; result (positions,). Units: nats.
    """
    logits = reference_logits(program, store)
    losses = []
    for window in windows:
        found = logits(window)[UNSCORED - 1 : -1]
        losses.append(compare_logits(found, found, window[UNSCORED:]).reference_loss)
    return np.concatenate(losses)
