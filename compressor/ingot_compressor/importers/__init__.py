# SPDX-License-Identifier: Apache-2.0
"""From a Hugging Face checkpoint to a program. One module per `model_type`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot_compressor.importers import llama, qwen2, qwen3
from ingot_compressor.importers.checkpoint import Checkpoint, read_configuration
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import Decoder, expected_tensors, lower
from ingot_compressor.importers.tokenizer_files import read_tokenizer_files
from ingot_compressor.ir import Program

__all__ = ["Imported", "choose_context", "import_checkpoint", "read_model"]

ARCHITECTURES: Mapping[str, Callable[[Configuration], Decoder]] = {
    "llama": llama.read,
    "qwen2": qwen2.read,
    "qwen3": qwen3.read,
}
DEFAULT_CONTEXT = 4096
DEFAULT_CHUNK = 128
HEAD = "lm_head.weight"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Imported:
    """A checkpoint as a program, and the texts that go into the file beside it.

    `meta` has name, model_type, parameters, table_rows, tokenizer_size, trained_context, tied and
    warnings (sentences for people); `chat` as in TokenizerFiles.
    """

    program: Program
    tokenizer_json: bytes
    chat: dict[str, Any]
    meta: dict[str, Any]


def import_checkpoint(path: Path, context: int | None = None) -> Imported:
    """Read a checkpoint; matrices stay on disk until a pass asks for them.

    `context` is the most positions that the file will hold, by default the model's own or 4096.

    Raises: IngotError naming what is damaged, missing, does not fit or is not supported.
    """
    path = Path(path)
    config = read_configuration(path)
    model_type, decoder = read_model(config)
    context = choose_context(decoder, context)
    files = read_tokenizer_files(path, model_type)
    warnings = _compare_sizes(files.size, decoder.table_rows)
    checkpoint = Checkpoint(path)
    expected = expected_tensors(decoder)
    checkpoint.check(expected, lambda name: _ignorable(name, decoder))
    _check_tied_head(checkpoint, decoder)
    vocabulary = min(files.size, decoder.table_rows)
    meta = {
        "name": path.resolve().name,
        "model_type": model_type,
        "parameters": sum(int(np.prod(shape)) for shape in expected.values()),
        "table_rows": decoder.table_rows,
        "tokenizer_size": files.size,
        "trained_context": decoder.longest,
        "tied": decoder.tied,
        "warnings": warnings,
    }
    program = lower(decoder, checkpoint, context, DEFAULT_CHUNK, vocabulary, meta)
    return Imported(program, files.json, dict(files.chat), meta)


def read_model(config: Configuration) -> tuple[str, Decoder]:
    """Return the model type and the decoder that a configuration describes.

    Raises: IngotError for an architecture or option that is not supported.
    """
    model_type = _model_type(config)
    if model_type not in ARCHITECTURES:
        raise IngotError(
            f"config.json: model_type {model_type!r} is not supported; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    return model_type, ARCHITECTURES[model_type](config)


def _model_type(config: Configuration) -> str:
    """Return `model_type`, or what `architectures` says where there is none."""
    named = config.values.get("model_type")
    if isinstance(named, str):
        return named
    listed = config.values.get("architectures")
    if isinstance(listed, list) and listed:
        return str(listed[0]).removesuffix("ForCausalLM").lower()
    # a wrong guess cannot pass: the tensors of the checkpoint are compared with the model's
    _log.warning("config.json has neither model_type nor architectures; reading it as llama")
    return "llama"


def choose_context(decoder: Decoder, wanted: int | None) -> int:
    """Return the most positions of the file.

    Raises: IngotError if the model was not made for as many as wanted.
    """
    if wanted is None:
        return min(decoder.longest, DEFAULT_CONTEXT)
    if wanted < 1:
        raise IngotError(f"context {wanted} is not above 0")
    if wanted > decoder.longest and decoder.rope.kind != "dynamic":
        raise IngotError(
            f"context {wanted} is longer than the {decoder.longest} positions of the model"
        )
    return wanted


def _compare_sizes(tokenizer_size: int, table_rows: int) -> list[str]:
    if tokenizer_size > table_rows:
        raise IngotError(
            f"the tokenizer has {tokenizer_size} ids, the embedding only {table_rows} rows; "
            "tokenizer and checkpoint do not belong together"
        )
    if tokenizer_size == table_rows:
        return []
    message = (
        f"the embedding has {table_rows} rows, the tokenizer {tokenizer_size} ids; "
        "the surplus ids are never sampled"
    )
    _log.warning(message)
    return [message]


def _ignorable(name: str, decoder: Decoder) -> bool:
    """Say whether a tensor may be in the checkpoint though the program does not use it."""
    return name.endswith("rotary_emb.inv_freq") or (decoder.tied and name == HEAD)


def _check_tied_head(checkpoint: Checkpoint, decoder: Decoder) -> None:
    if not decoder.tied or HEAD not in checkpoint.shapes:
        return
    if not np.array_equal(checkpoint.array(HEAD), checkpoint.array("model.embed_tokens.weight")):
        raise IngotError(
            f"config.json ties the head to the embedding, but {HEAD} differs from it; "
            "set tie_word_embeddings to false if the head was trained by itself"
        )
