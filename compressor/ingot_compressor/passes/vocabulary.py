# SPDX-License-Identifier: Apache-2.0
"""Takes tokens out of a model that declared text does not use: rows of embedding and head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Opcode
from ingot_compressor.importers import Imported
from ingot_compressor.importers.trimming import TrimmedTokenizer, trim_tokenizer
from ingot_compressor.ir import Program
from ingot_compressor.passes.structured import select_rows

__all__ = ["KeptTokens", "keep_tokens", "trim_vocabulary"]


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """What stayed of a vocabulary.

    Shapes: ids (tokens that stay,), rising: old ids by new. `rows` the table had, `weights` went.
    """

    ids: NDArray[np.int64]
    rows: int
    weights: int


def trim_vocabulary(
    imported: Imported, texts: Sequence[str], also: Iterable[int] = ()
) -> tuple[Imported, KeptTokens]:
    """Return the model with the tokens of the texts, all bytes and all added tokens alone.

    Logits of the tokens that stay are what they were, also where they need a softmax over fewer.
    Rows of the table beyond the tokenizer's ids go too. `also` keeps further ids.

    Raises: InvalidArgumentError if there is no text, the tokenizer cannot be trimmed or a table is
        quantized already.
    """
    if not any(texts):
        raise InvalidArgumentError("no text declares which tokens stay")
    old = imported.program
    trimmed = trim_tokenizer(imported.tokenizer_json, texts, also)
    result = keep_tokens(imported, trimmed)
    rows = old.tensors[old.embedding()].shape[0]
    gone = _table_weights(old) - _table_weights(result.program)
    return result, KeptTokens(trimmed.kept, rows, gone)


def keep_tokens(imported: Imported, trimmed: TrimmedTokenizer) -> Imported:
    """Return the model of a trimmed tokenizer's tokens.

    Raises: InvalidArgumentError if a token is beyond the table, or a table is quantized already.
    """
    old = imported.program
    rows = old.tensors[old.embedding()].shape[0]
    program = _with_rows(old, trimmed.kept)
    gone = _table_weights(old) - _table_weights(program)
    meta = {
        **imported.meta,
        "parameters": imported.meta["parameters"] - gone,
        "table_rows": len(trimmed.kept),
        "tokenizer_size": len(trimmed.kept),
        "trimmed_from": rows,
    }
    program = replace(program, meta=meta)
    chat = {**imported.chat, **_new_ids(imported, trimmed)}
    return Imported(program, trimmed.json, chat, meta)


def _with_rows(program: Program, kept: NDArray[np.int64]) -> Program:
    """Return the program with these rows of its table and head, and logits of that width."""
    last = max(i for i, op in enumerate(program.operations) if op.opcode is Opcode.LINEAR)
    head = program.operations[last].linear()
    if len(head.weights) != 1 or program.tensors[program.embedding()].shape[0] <= int(kept[-1]):
        raise InvalidArgumentError("the table has fewer rows than the tokenizer ids")
    names = {program.embedding(), *head.weights, *head.biases}
    indices = kept.astype(np.intp)
    changed = {name: select_rows(program.tensors[name], indices) for name in names}
    for operation in program.operations[last:]:
        for name in operation.outputs:
            logits = program.tensors[name]
            changed[name] = replace(logits, shape=(*logits.shape[:-1], len(kept)))
    return replace(program.with_tensors(changed), vocabulary=len(kept))


def _table_weights(program: Program) -> int:
    names = {program.embedding(), program.head()}
    return sum(int(np.prod(program.tensors[name].shape)) for name in names)


def _new_ids(imported: Imported, trimmed: TrimmedTokenizer) -> dict[str, object]:
    """Return the chat settings that hold ids."""
    bos = imported.chat["bos_token_id"]
    new_bos = None if bos is None else trimmed.new_id(bos)
    if bos is not None and new_bos is None:
        raise InvalidArgumentError(f"token {bos} begins a text but is no added token: keep it too")
    stops = [trimmed.new_id(old) for old in imported.chat["eos_token_ids"]]
    return {"bos_token_id": new_bos, "eos_token_ids": [new for new in stops if new is not None]}
