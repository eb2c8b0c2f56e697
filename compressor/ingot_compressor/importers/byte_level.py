# SPDX-License-Identifier: Apache-2.0
"""Builds tokenizer.json from vocab.json and merges.txt, the byte-level BPE of GPT-2 and Qwen2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ingot.errors import IngotError

__all__ = ["build_tokenizer"]

# Qwen2's own splitting: single digits, at most one leading non-letter, runs of line breaks
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAMILIES = {"GPT2Tokenizer": "gpt2", "Qwen2Tokenizer": "qwen2", "Qwen3Tokenizer": "qwen2"}


def build_tokenizer(path: Path, settings: Mapping[str, Any], model_type: str) -> bytes:
    """Return the tokenizer.json of a folder that holds only vocab.json and merges.txt.

    Raises: IngotError if the files cannot be read or the family is unknown.
    """
    family = _family(settings, model_type)
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
    listed = settings.get("added_tokens_decoder") or {}
    for text_id in sorted(listed, key=int):
        entry = listed[text_id]
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
        if tokenizer.token_to_id(entry["content"]) != int(text_id):
            raise IngotError(
                f"{path}: added token {entry['content']!r} would get id "
                f"{tokenizer.token_to_id(entry['content'])}, tokenizer_config.json says {text_id}"
            )
    if not listed and tokenizer.token_to_id("<|endoftext|>") is not None:
        tokenizer.add_special_tokens(["<|endoftext|>"])
