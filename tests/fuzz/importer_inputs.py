# SPDX-License-Identifier: Apache-2.0
"""What an input of the targets `checkpoint` and `texts` stands for, and what must hold for it.

An input is the files of a checkpoint, one per line, the last one the rest; an empty line is no
file. Whatever they say, the importer returns or raises IngotError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ingot.errors import IngotError
from ingot.tokenizer import Tokenizer
from ingot_compressor.importers import import_checkpoint, read_model
from ingot_compressor.importers.checkpoint import read_configuration
from ingot_compressor.importers.tokenizer_files import read_tokenizer_files
from ingot_compressor.ir import Weight
from tests.fuzz.tiny_checkpoint import TOKENIZER, VOCABULARY, configurations, weights_of

__all__ = ["CHECKS", "FILES", "SEEDS", "check", "split"]

FILES: Mapping[str, tuple[str, ...]] = {
    "checkpoint": ("config.json", "model.safetensors.index.json", "model.safetensors"),
    "texts": (
        *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("generation_config.json", "vocab.json", "chat_template.jinja", "merges.txt"),
    ),
}
TEXT = "a b\n<s>é\U0001f600"


def split(target: str, data: bytes) -> list[bytes]:
    """Return the files of an input."""
    count = len(FILES[target])
    parts = data.split(b"\n", count - 1)
    return parts + [b""] * (count - len(parts))


def check(target: str, folder: Path, data: bytes) -> bool:
    """Import what an input describes; return whether it was taken. Other errors pass through."""
    for name, content in zip(FILES[target], split(target, data), strict=True):
        (folder / name).unlink(missing_ok=True)
        if content:
            (folder / name).write_bytes(content)
    try:
        CHECKS[target](folder)
    except IngotError:
        return False
    return True


def _import_all(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(TOKENIZER)
    imported = import_checkpoint(folder)
    for tensor in imported.program.tensors.values():
        if isinstance(tensor.source, Weight):
            tensor.source.load()


def _read_texts(folder: Path) -> None:
    model_type, _ = read_model(read_configuration(folder))
    files = read_tokenizer_files(folder, model_type)
    json.dumps(dict(files.chat)).encode("utf-8")
    tokenizer = Tokenizer(files.json, files.chat["bos_token_id"], files.chat["add_bos"])
    tokenizer.decode(tokenizer.encode(TEXT))


CHECKS: Mapping[str, Callable[[Path], None]] = {"checkpoint": _import_all, "texts": _read_texts}


def _checkpoint_seeds() -> Iterator[bytes]:
    """Yield a valid input for each family and kind of rope."""
    for config in configurations():
        yield b"\n".join((json.dumps(config).encode(), b"", weights_of(config)))


def _text_seeds() -> Iterator[bytes]:
    """Yield valid inputs: a tokenizer.json, and the byte-level pair of files."""
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "add_bos_token": True,
        "tokenizer_class": "Qwen2Tokenizer",
        "chat_template": [{"name": "default", "template": "{{ messages }}"}],
        "added_tokens_decoder": {"5": {"content": "<x>", "special": True}},
    }
    generation = {"eos_token_id": [3, 1], "bos_token_id": 2}
    one, two, three = (json.dumps(value).encode() for value in (settings, generation, VOCABULARY))
    for config in configurations():
        text = json.dumps(config).encode()
        yield b"\n".join((text, TOKENIZER, one, b"", two, b"", b"", b""))
        yield b"\n".join((text, b"", one, one, b"", three, b"{{ x }}", b"#version: 0.2\n"))


SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "checkpoint": _checkpoint_seeds,
    "texts": _text_seeds,
}
