# SPDX-License-Identifier: Apache-2.0
"""Builds tokenizer.json from vocab.json and merges.txt, the byte-level BPE of GPT-2 and Qwen2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ingot.errors import IngotError
from ingot_compressor.importers.checkpoint import is_text, read_json

__all__ = ["build_tokenizer"]

# Qwen2's own splitting: single digits, at most one leading non-letter, runs of line breaks
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MOST_IDS = 1 << 22  # the library walks over all ids up to the highest when it writes a vocabulary
FAMILIES = {"GPT2Tokenizer": "gpt2", "Qwen2Tokenizer": "qwen2", "Qwen3Tokenizer": "qwen2"}


def build_tokenizer(path: Path, settings: Mapping[str, Any], model_type: str) -> bytes:
    """Return the tokenizer.json of a folder that holds only vocab.json and merges.txt.

    Raises: IngotError if the files cannot be read or the family is unknown.
    """
    family = _family(settings, model_type)
    _check_ids(path / "vocab.json")
    try:
        model = BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt"))
    except Exception as error:  # the library raises plain Exception
        raise IngotError(f"{path}: vocab.json or merges.txt cannot be read ({error})") from error
    tokenizer = Tokenizer(model)
    spaced = bool(settings.get("add_prefix_space", False))
    if family == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, settings, path)
    text: str = tokenizer.to_str()
    return text.encode("utf-8")


def _check_ids(path: Path) -> None:
    vocabulary = read_json(path)
    ids = list(vocabulary.values()) if isinstance(vocabulary, Mapping) else [None]
    bad = [value for value in ids if type(value) is not int or not 0 <= value < MOST_IDS]
    if bad:
        raise IngotError(
            f"{path}: {str(bad[0])[:40]!r} is no id; expected an object of tokens and whole "
            f"numbers below {MOST_IDS}"
        )


def _family(settings: Mapping[str, Any], model_type: str) -> str:
    named = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    if named in FAMILIES:
        return FAMILIES[named]
    if model_type in ("qwen2", "qwen3"):
        return "qwen2"
    if not named:
        return "gpt2"
    raise IngotError(
        f"tokenizer_config.json: tokenizer_class {named!r} without a tokenizer.json is not "
        f"supported; supported: {', '.join(FAMILIES)}. Save the tokenizer as tokenizer.json first"
    )


def _add_tokens(tokenizer: Tokenizer, settings: Mapping[str, Any], path: Path) -> None:
    """Add the tokens of the settings in the order of their ids, which must come out equal."""
    listed = _listed_tokens(settings, path)
    for token_id, entry in sorted(listed.items()):
        token = AddedToken(
            entry["content"],
            single_word=bool(entry.get("single_word", False)),
            lstrip=bool(entry.get("lstrip", False)),
            rstrip=bool(entry.get("rstrip", False)),
            normalized=bool(entry.get("normalized", False)),
            special=bool(entry.get("special", False)),
        )
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([token])
        if tokenizer.token_to_id(entry["content"]) != token_id:
            raise IngotError(
                f"{path}: added token {entry['content']!r} would get id "
                f"{tokenizer.token_to_id(entry['content'])}, tokenizer_config.json says {token_id}"
            )
    if not listed and tokenizer.token_to_id("<|endoftext|>") is not None:
        tokenizer.add_special_tokens(["<|endoftext|>"])


def _listed_tokens(settings: Mapping[str, Any], path: Path) -> dict[int, Mapping[str, Any]]:
    """Return the added tokens of the settings by id."""
    listed = settings.get("added_tokens_decoder") or {}
    entries = listed.items() if isinstance(listed, Mapping) else [("", listed)]
    found: dict[int, Mapping[str, Any]] = {}
    for text_id, entry in entries:
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not text_id.isdecimal() or len(text_id) > 10 or not is_text(content) or not content:
            raise IngotError(
                f"{path}: added_tokens_decoder of tokenizer_config.json has {text_id!r}: "
                f"{str(entry)[:80]!r}; expected an id and an object with content"
            )
        found[int(text_id)] = entry
    return found
