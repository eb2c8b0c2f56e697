# SPDX-License-Identifier: Apache-2.0
"""A byte-pair tokenizer with fewer tokens: declared text gets the same ones, all text still some.

Bytes and added tokens stay always, so that every text can be written; a text whose words were not
declared takes more tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from ingot.errors import InvalidArgumentError

__all__ = ["TrimmedTokenizer", "match_tokens", "trim_tokenizer"]

Merge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TrimmedTokenizer:
    """A tokenizer.json and which ids it came from.

    Shapes: kept (new ids,), rising: the old id of each new one.
    """

    json: bytes
    kept: NDArray[np.int64]

    def new_id(self, old: int) -> int | None:
        """Return the new id of an old one, None where it is gone."""
        index = int(np.searchsorted(self.kept, old))
        return index if index < len(self.kept) and self.kept[index] == old else None


def trim_tokenizer(data: bytes, texts: Sequence[str], also: Iterable[int] = ()) -> TrimmedTokenizer:
    """Keep the tokens of the texts, what they are merged from, all bytes and all added tokens.

    `also` keeps further ids. New ids are in the order of the old.

    Raises: InvalidArgumentError if it is no tokenizer of byte pairs that falls back to bytes, has
        an option that this does not know, or an id of `also` is none.
    """
    engine, document = _read(data)
    model = document["model"]
    vocabulary: dict[str, int] = model["vocab"]
    spelling = {index: token for token, index in vocabulary.items()}
    added = {int(entry["id"]) for entry in document.get("added_tokens") or []}
    ids = {int(index) for text in texts for index in _encode(engine, text)} | set(also)
    unknown = ids - spelling.keys() - added
    if unknown:
        raise InvalidArgumentError(f"the tokenizer has no id {min(unknown)}")
    merges = [_pair(merge) for merge in model["merges"]]
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    tokens = _byte_tokens(document) | {spelling[index] for index in ids - added}
    if isinstance(model.get("unk_token"), str):
        tokens.add(model["unk_token"])
    for token in tuple(tokens):
        tokens |= _ancestors(token, ranks)
    # added tokens are found as a whole, before anything is merged
    tokens |= {spelling[index] for index in added if index in spelling}
    tokens &= vocabulary.keys()
    kept = np.array(sorted({vocabulary[token] for token in tokens} | added), np.int64)
    trimmed = TrimmedTokenizer(_rewritten(document, tokens, merges, kept), kept)
    _check(trimmed, engine, texts)
    return trimmed


def match_tokens(data: bytes, trimmed: bytes) -> TrimmedTokenizer:
    """Return a trimmed tokenizer with the ids that its tokens have in the one it came from.

    Raises: InvalidArgumentError if it did not come from it.
    """
    old, new = _ids(data), _ids(trimmed)
    missing = [token for token in new if token not in old]
    if missing:
        raise InvalidArgumentError(
            f"the file has a token {missing[0]!r} that the checkpoint lacks: not the same model"
        )
    kept = np.array([old[token] for token in sorted(new, key=lambda one: new[one])], np.int64)
    if sorted(new.values()) != list(range(len(new))) or (np.diff(kept) <= 0).any():
        raise InvalidArgumentError(
            "the file's tokens are not in the checkpoint's order: not the same model"
        )
    return TrimmedTokenizer(trimmed, kept)


def _ids(data: bytes) -> dict[str, int]:
    """Return the id of every token by its spelling."""
    document = json.loads(data)
    added = {str(one["content"]): int(one["id"]) for one in document.get("added_tokens") or []}
    return {**document["model"]["vocab"], **added}


def _read(data: bytes) -> tuple[Any, dict[str, Any]]:
    try:
        engine = Tokenizer.from_str(data.decode("utf-8"))
        document = json.loads(engine.to_str())
    except Exception as error:  # the library raises plain Exception
        raise InvalidArgumentError(f"not a tokenizer.json: {error}") from error
    model = document["model"]
    if model.get("type") != "BPE":
        raise InvalidArgumentError(
            f"a tokenizer of type {model.get('type')} cannot be trimmed: expected BPE"
        )
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise InvalidArgumentError(f"a tokenizer with {option} cannot be trimmed")
    return engine, document


def _encode(engine: Any, text: str) -> list[int]:
    return [int(index) for index in engine.encode(text, add_special_tokens=False).ids]


def _pair(merge: str | Sequence[str]) -> Merge:
    """Return the two parts of a merge; older files write them as one text."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _byte_tokens(document: Mapping[str, Any]) -> set[str]:
    """Return the tokens that any text is written with for want of others.

    Of bytes as characters a tokenizer may lack some, such as those that no UTF-8 has.
    """
    model = document["model"]
    vocabulary: set[str] = set(model["vocab"])
    if model.get("byte_fallback"):
        tokens = {f"<0x{value:02X}>" for value in range(256)}
        missing = len(tokens - vocabulary)
        if missing:
            raise InvalidArgumentError(
                f"the tokenizer lacks {missing} of 256 bytes: trimmed, it could not write all text"
            )
        return tokens
    if not _cuts_bytes(document.get("pre_tokenizer")):
        raise InvalidArgumentError("a tokenizer that knows no bytes cannot be trimmed")
    return vocabulary & set(pre_tokenizers.ByteLevel.alphabet())


def _cuts_bytes(step: Mapping[str, Any] | None) -> bool:
    """Whether a pre-tokenizer, or one in its sequence, turns text into bytes."""
    if step is None:
        return False
    if step.get("type") == "Sequence":
        return any(_cuts_bytes(part) for part in step["pretokenizers"])
    return step.get("type") == "ByteLevel"


def _ancestors(token: str, ranks: Mapping[Merge, int]) -> set[str]:
    """Return every token that is made on the way from characters to this one.

    Merging the characters of a token alone makes what merging them in any text makes, because no
    merge across its ends happened there.
    """
    pieces = list(token)
    found = set(pieces)
    while True:
        candidates = [
            (ranks[pair], index) for index, pair in enumerate(pairwise(pieces)) if pair in ranks
        ]
        if not candidates:
            return found
        _, index = min(candidates)
        pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]
        found.add(pieces[index])


def _rewritten(
    document: Mapping[str, Any], tokens: set[str], merges: Sequence[Merge], kept: NDArray[np.int64]
) -> bytes:
    new = {int(old): index for index, old in enumerate(kept)}
    model = dict(document["model"])
    old = sorted(((index, token) for token, index in model["vocab"].items() if token in tokens))
    model["vocab"] = {token: new[index] for index, token in old}
    model["merges"] = [
        list(pair) for pair in merges if {*pair, "".join(pair)} <= model["vocab"].keys()
    ]
    added = [{**entry, "id": new[int(entry["id"])]} for entry in document["added_tokens"] or []]
    changed = {**document, "model": model, "added_tokens": added, "padding": None}
    changed["post_processor"] = _renumbered(document.get("post_processor"), new)
    return json.dumps(changed, ensure_ascii=False).encode("utf-8")


def _renumbered(processor: dict[str, Any] | None, new: Mapping[int, int]) -> dict[str, Any] | None:
    """Return a post-processor with new ids; all that it names are added tokens, and stay."""
    kind = None if processor is None else processor.get("type")
    if processor is None or kind == "ByteLevel":
        return processor
    if kind == "Sequence":
        return {**processor, "processors": [_renumbered(p, new) for p in processor["processors"]]}
    if kind == "TemplateProcessing":
        special = {
            name: {**entry, "ids": [_kept_id(index, new) for index in entry["ids"]]}
            for name, entry in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": special}
    raise InvalidArgumentError(f"a tokenizer with post-processor {kind} cannot be trimmed")


def _kept_id(old: int, new: Mapping[int, int]) -> int:
    if old not in new:
        raise InvalidArgumentError(f"the post-processor names id {old}, which is no added token")
    return new[old]


def _check(trimmed: TrimmedTokenizer, engine: Any, texts: Sequence[str]) -> None:
    """Compare the new tokenizer with the old one on every text.

    Raises: InvalidArgumentError where they differ.
    """
    try:
        rebuilt = Tokenizer.from_str(trimmed.json.decode("utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise InvalidArgumentError(f"the trimmed tokenizer cannot be read: {error}") from error
    for old, token in engine.get_added_tokens_decoder().items():
        if rebuilt.token_to_id(token.content) != trimmed.new_id(old):
            raise InvalidArgumentError(f"added token {token.content!r} would not keep its place")
    for text in texts:
        expected = np.asarray(_encode(engine, text), np.int64)
        ids = np.asarray(_encode(rebuilt, text), np.int64)
        if not np.array_equal(trimmed.kept[ids], expected):
            raise InvalidArgumentError("the trimmed tokenizer cuts the declared text otherwise")
