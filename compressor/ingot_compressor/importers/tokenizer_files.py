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
from ingot_compressor.importers.checkpoint import is_text, read_json

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
    size = max(ids) + 1
    return TokenizerFiles(data, size, _chat(path, settings, tokenizer, size))


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


def _chat(
    path: Path, settings: Mapping[str, Any], tokenizer: Tokenizer, size: int
) -> dict[str, Any]:
    named = {**_optional(path / "special_tokens_map.json"), **settings}
    special = {key: text for key in SPECIAL if (text := _text(named.get(key))) is not None}
    generation = _optional(path / "generation_config.json")
    config = _optional(path / "config.json")
    bos = _bos_id(special, generation, config, tokenizer, size)
    return {
        "chat_template": _template(path, settings),
        "special_tokens": special,
        "bos_token_id": bos,
        "add_bos": _adds_bos(settings, tokenizer, bos),
        "eos_token_ids": _stop_ids(special, generation, config, tokenizer, size),
    }


def _text(value: Any) -> str | None:
    """Return a special token's text; older files hold an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return str(value) if value and is_text(value) else None


def _template(path: Path, settings: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except ValueError as error:
            raise IngotError(f"{file}: not UTF-8 ({error}); copy the file again") from error
    template = settings.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, Mapping)]
        template = next((e.get("template") for e in entries if e.get("name") == "default"), None)
    return str(template) if is_text(template) else None


def _bos_id(
    special: Mapping[str, str],
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    size: int,
) -> int | None:
    if "bos_token" in special:
        return tokenizer.token_to_id(special["bos_token"])
    value = generation.get("bos_token_id", config.get("bos_token_id"))
    return value if _is_id(value, size) else None


def _adds_bos(settings: Mapping[str, Any], tokenizer: Tokenizer, bos: int | None) -> bool:
    """Return what the settings say, else what the tokenizer's own template does."""
    if bos is None:
        return False
    said = settings.get("add_bos_token")
    if isinstance(said, bool):
        return said
    try:
        return bool(tokenizer.encode("a").ids[:1] == [bos])
    except Exception as error:  # the library raises plain Exception
        raise IngotError(f"the tokenizer cannot encode the letter a ({error})") from error


def _stop_ids(
    special: Mapping[str, str],
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    size: int,
) -> list[int]:
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    found = list(value) if isinstance(value, list) else [value]
    if "eos_token" in special:
        found.append(tokenizer.token_to_id(special["eos_token"]))
    return sorted({stop for stop in found if _is_id(stop, size)})


def _is_id(value: Any, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
