# SPDX-License-Identifier: Apache-2.0
"""Tokenizer, chat template, special tokens and stop ids of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ingot.errors import IngotError
from ingot_compressor.importers.byte_level import build_tokenizer
from ingot_compressor.importers.checkpoint import read_json

__all__ = ["TokenizerFiles", "read_tokenizer_files"]

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What goes into the file's tokenizer and chat sections; `size` is the highest id plus one.

    `chat` has chat_template (string or null), special_tokens (name to text), bos_token_id (int or
    null), add_bos (whether a plain prompt starts with it), eos_token_ids (ids that end an answer).
    """

    json: bytes
    size: int
    chat: Mapping[str, Any]


def read_tokenizer_files(path: Path, model_type: str) -> TokenizerFiles:
    """Read what a checkpoint says about text.

    Raises: IngotError if there is no tokenizer, or only a sentencepiece one.
    """
    settings = _optional(path / "tokenizer_config.json")
    data = _tokenizer_json(path, settings, model_type)
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise IngotError(f"{path / 'tokenizer.json'}: not a tokenizer file ({error})") from error
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if not ids:
        raise IngotError(f"{path / 'tokenizer.json'}: the vocabulary is empty")
    return TokenizerFiles(data, max(ids) + 1, _chat(path, settings, tokenizer))


def _optional(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.exists() else {}
    if not isinstance(value, dict):
        raise IngotError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _tokenizer_json(path: Path, settings: Mapping[str, Any], model_type: str) -> bytes:
    if (path / "tokenizer.json").exists():
        return (path / "tokenizer.json").read_bytes()
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return build_tokenizer(path, settings, model_type)
    if (path / "tokenizer.model").exists():
        raise IngotError(
            f"{path}: only a sentencepiece tokenizer (tokenizer.model); save it as tokenizer.json "
            "first: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    raise IngotError(f"{path}: no tokenizer; expected tokenizer.json, or vocab.json and merges.txt")


def _chat(path: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    named = {**_optional(path / "special_tokens_map.json"), **settings}
    special = {key: text for key in SPECIAL if (text := _text(named.get(key))) is not None}
    generation = _optional(path / "generation_config.json")
    config = _optional(path / "config.json")
    bos = _bos_id(special, generation, config, tokenizer)
    return {
        "chat_template": _template(path, settings),
        "special_tokens": special,
        "bos_token_id": bos,
        "add_bos": _adds_bos(settings, tokenizer, bos),
        "eos_token_ids": _stop_ids(special, generation, config, tokenizer),
    }


def _text(value: Any) -> str | None:
    """Return a special token's text; older files hold an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _template(path: Path, settings: Mapping[str, Any]) -> str | None:
    if (path / "chat_template.jinja").exists():
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _bos_id(
    special: Mapping[str, str],
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
) -> int | None:
    if "bos_token" in special:
        return tokenizer.token_to_id(special["bos_token"])
    value = generation.get("bos_token_id", config.get("bos_token_id"))
    return value if isinstance(value, int) else None


def _adds_bos(settings: Mapping[str, Any], tokenizer: Tokenizer, bos: int | None) -> bool:
    """Return what the settings say, else what the tokenizer's own template does."""
    if bos is None:
        return False
    said = settings.get("add_bos_token")
    if isinstance(said, bool):
        return said
    return tokenizer.encode("a").ids[:1] == [bos]


def _stop_ids(
    special: Mapping[str, str],
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
) -> list[int]:
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    found = [value] if isinstance(value, int) else list(value or [])
    if "eos_token" in special:
        found.append(tokenizer.token_to_id(special["eos_token"]))
    return sorted({stop for stop in found if isinstance(stop, int) and stop >= 0})
