# SPDX-License-Identifier: Apache-2.0
"""A libingot in Python whose model says what a test wrote down; real C data, no weights."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from ingot._native import Native
from ingot.chat import ChatSettings
from ingot.session import Session
from ingot.session_config import SessionConfig
from ingot.tokenizer import Tokenizer

CANCELLED, CONTEXT_FULL = 3, 4


def generator(root: Path) -> ModuleType:
    """Import native/generate_ffi.py."""
    spec = importlib.util.spec_from_file_location("generate_ffi", root / "native/generate_ffi.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def binding(root: Path, folder: Path) -> Any:
    """Generate the cffi module from ingot.h and return its ffi."""
    path = folder / "_ingot_ffi.py"
    if not path.exists():
        generator(root).write_module(root / "native/include/ingot.h", path)
    spec = importlib.util.spec_from_file_location("_ingot_ffi", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ffi


class FakeLibrary:
    """The functions of ingot.h that a session calls. The token after position p is script[p]."""

    INGOT_ERROR_CANCELLED = CANCELLED

    def __init__(self, ffi: Any, vocabulary: int, script: Sequence[int]) -> None:
        self.ffi = ffi
        self.width = vocabulary + 3  # surplus ids, made the likeliest of all
        self.script = list(script)
        self.fed: list[int] = []
        self.calls: list[int] = []
        self.cancelled = False
        self.entered = threading.Event()
        self.gate: threading.Event | None = None
        self.message = b""
        self.destroyed = 0
        self._row = np.zeros(self.width, np.float32)

    def ingot_last_error(self) -> Any:
        self._kept = self.ffi.new("char[]", self.message)
        return self._kept

    def ingot_last_rule(self) -> int:
        return 0

    def ingot_status_name(self, status: int) -> Any:
        return self.ingot_last_error()

    def ingot_session_create(self, model: Any, config: Any, out: Any) -> int:
        out[0] = self.ffi.cast("ingot_session *", 4096)
        return 0

    def ingot_session_destroy(self, session: Any) -> None:
        self.destroyed += 1

    def ingot_session_eval(self, session: Any, tokens: list[int], count: int, wanted: int) -> int:
        self.entered.set()
        if self.gate is not None:
            self.gate.wait(10)
        cancelled, self.cancelled = self.cancelled, False
        if cancelled:
            self.message = b"cancelled; some positions are fed"
            return CANCELLED
        self.calls.append(count)
        self.fed.extend(tokens)
        self._row[:] = -1.0
        self._row[-3:] = 50.0
        if len(self.fed) <= len(self.script):
            self._row[self.script[len(self.fed) - 1]] = 9.0
        return 0

    def ingot_session_step(self, session: Any, tokens: list[int], *arguments: Any) -> int:
        count, drafted, _, _, _, chosen, chosen_count = arguments
        sure = count - drafted
        status = self.ingot_session_eval(session, tokens[:sure], sure, 1)
        if status:
            return status
        found = [self._next()]
        for guess in tokens[sure:]:
            if found[-1] != guess:
                break
            self.fed.append(guess)
            found.append(self._next())
        chosen[0 : len(found)] = found
        chosen_count[0] = len(found)
        return 0

    def _next(self) -> int:
        return self.script[len(self.fed) - 1] if len(self.fed) <= len(self.script) else 0

    def ingot_session_logits(self, session: Any, row: int) -> Any:
        return self.ffi.cast("float *", self._row.ctypes.data)

    def ingot_session_position(self, session: Any) -> int:
        return len(self.fed)

    def ingot_session_truncate(self, session: Any, position: int) -> int:
        del self.fed[position:]
        return 0

    def ingot_session_cancel(self, session: Any) -> None:
        self.cancelled = True


def byte_tokenizer(text: bytes = b"") -> Tokenizer:
    """Return a tokenizer with one id per byte: ids 0 to 255 are bytes, 256 is <end>, 257 <s>."""
    from tokenizers import AddedToken, decoders, pre_tokenizers
    from tokenizers import Tokenizer as Engine
    from tokenizers.models import BPE

    letters = _byte_letters()
    engine = Engine(BPE({letter: byte for byte, letter in enumerate(letters)}, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken("<end>", special=True), AddedToken("<s>", special=True)])
    return Tokenizer(engine.to_str().encode())


def _byte_letters() -> list[str]:
    """Return the letter that byte-level BPE writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = [], 256
    for byte in range(256):
        if byte in plain:
            letters.append(chr(byte))
        else:
            letters.append(chr(extra))
            extra += 1
    return letters


class FakeModel:
    """What a Session asks of a Model."""

    def __init__(self, ffi: Any, script: Sequence[int], context: int, chunk: int) -> None:
        self.tokenizer = byte_tokenizer()
        vocabulary = len(self.tokenizer)
        self.library = FakeLibrary(ffi, vocabulary, script)
        self.native = Native(ffi, self.library, Path(sys.executable))
        self.handle = ffi.NULL
        self.chat = ChatSettings(eos_token_ids=(256,))
        self.draft = None
        self.backend = "cpu"
        self.info = SimpleNamespace(
            context=context,
            chunk=chunk,
            vocabulary=vocabulary,
            logits_width=vocabulary + 3,
            embedding_rows=vocabulary + 3,
            weight_bytes_per_token=1000,
        )

    def detokenizer(self) -> Any:
        return self.tokenizer.detokenizer()


def open_session(
    ffi: Any, answer: str, prompt_length: int, context: int = 64, chunk: int = 8
) -> tuple[Session, FakeLibrary]:
    """Return a session whose model answers a prompt of that length with this text."""
    script = [0] * (prompt_length - 1) + list(answer.encode()) + [256]
    model = FakeModel(ffi, script, context, chunk)
    session = Session(model, SessionConfig())  # type: ignore[arg-type]
    return session, model.library
