# SPDX-License-Identifier: Apache-2.0
"""The model that a finished file is compared with, and whether its weights can be set beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot.container import Container
from ingot.format import Section
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.importers.trimming import match_tokens
from ingot_compressor.ir import Program
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.vocabulary import keep_tokens

__all__ = ["reference_program", "why_apart"]

PARTS = ("layers", "head_groups", "channels")


def reference_program(path: Path, source: Path, context: int) -> Program:
    """Return the checkpoint's program, fused; of the tokens that stayed if the file was trimmed.

    Which they are is read from the two tokenizers: a trimmed one spells its tokens as before.
    Raises: IngotError for a checkpoint that cannot be read; InvalidArgumentError if the file's
        tokens are not some of the checkpoint's.
    """
    imported = import_checkpoint(source, context)
    with Container(path) as container:
        removed = _meta(container).get("removed") or {}
        tokenizer = bytes(container.section(Section.TOKENIZER))
    if "vocabulary" in removed:
        imported = keep_tokens(imported, match_tokens(imported.tokenizer_json, tokenizer))
    return fuse(imported.program)


def why_apart(path: Path) -> str | None:
    """Say why no weight of a file can stand in for the checkpoint's, None where each can."""
    with Container(path) as container:
        meta = _meta(container)
    gone = [part.replace("_", " ") for part in PARTS if part in (meta.get("removed") or {})]
    turned = [str(one).replace("_", " ") for one in meta.get("transformed") or ()]
    reasons = []
    if gone:
        reasons.append(f"{' and '.join(gone)} were taken out of the model")
    if turned:
        reasons.append(f"its weights were transformed ({', '.join(turned)})")
    if not reasons:
        return None
    return (
        f"layers and weights are not set side by side: {' and '.join(reasons)} before it was"
        " quantized, so that none of them alone fits the checkpoint's; the whole file is compared"
    )


def _meta(container: Container) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(bytes(container.section(Section.META)) or b"{}")
    return found
