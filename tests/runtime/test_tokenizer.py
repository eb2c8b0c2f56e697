# SPDX-License-Identifier: Apache-2.0
"""Token ids against published vectors, and text that never holds half a character."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.errors import FormatError, InvalidArgumentError
from ingot.tokenizer import Tokenizer
from tests.runtime.fake_library import byte_tokenizer

FAMILIES = {"gpt-2": ("gpt2", "gpt2"), "qwen2": ("qwen2.5", "qwen2")}
HARD_TEXT = "naïve café — 東京 🦙🧑‍🚀 \n\t  ½ e\u0301 \u200d"


@pytest.fixture(scope="module")
def engines(shared_dir: Path) -> dict[str, Tokenizer]:
    """The tokenizers that the vectors are for, and one with byte fallback."""
    from ingot_compressor.importers.byte_level import build_tokenizer

    found = {"stories": Tokenizer((shared_dir / "models/stories260k/tokenizer.json").read_bytes())}
    for name, (folder, model_type) in FAMILIES.items():
        path = shared_dir / "tokenizers" / folder
        found[name] = Tokenizer(build_tokenizer(path, {}, model_type))
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_token_vectors(name: str, engines: dict[str, Tokenizer], shared_dir: Path) -> None:
    folder = shared_dir / "tokenizers/vectors"
    # One line feed belongs to the separator on each side; the last text ends with one too.
    texts = (folder / f"{name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]
    expected = [line.split() for line in (folder / f"{name}.out").read_text().splitlines()]
    assert len(texts) == len(expected) > 40
    tokenizer = engines[name]
    for text, ids in zip(texts, expected, strict=True):
        found = tokenizer.encode(text)
        assert found == [int(token) for token in ids], repr(text)
        assert tokenizer.decode(found) == text


def _pushed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push(token) for token in ids]
    return [*pieces, detokenizer.flush()]


def _oneshot(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer._engine.decode(ids, skip_special_tokens=True))


@settings(max_examples=150)
@given(st.text(max_size=20))
def test_text_comes_back_in_whole_characters(text: str) -> None:
    text = text + HARD_TEXT
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    pieces = _pushed(tokenizer, ids)
    assert "".join(pieces) == text == _oneshot(tokenizer, ids)
    if "\ufffd" not in text:
        # A piece comes exactly with the last byte of its character.
        ends = [bool(piece) for piece in pieces[:-1]]
        assert ends == [_ends(ids, index) for index in range(len(ids))]


def _ends(ids: list[int], index: int) -> bool:
    return index + 1 == len(ids) or ids[index + 1] & 0xC0 != 0x80


@settings(max_examples=300)
@given(st.lists(st.integers(0, 257), max_size=40))
def test_any_bytes_decode_as_in_one_go(ids: list[int]) -> None:
    tokenizer = byte_tokenizer()
    assert "".join(_pushed(tokenizer, ids)) == _oneshot(tokenizer, ids)


@pytest.mark.parametrize("name", ["gpt-2", "qwen2", "stories"])
def test_streamed_text_equals_one_go(name: str, engines: dict[str, Tokenizer]) -> None:
    tokenizer = engines[name]
    source = random.Random(5)
    letters = "abc déß東京🦙🧑‍🚀\n ½é'" + "Once upon a time"
    for _ in range(150):
        text = "".join(source.choice(letters) for _ in range(source.randrange(1, 60)))
        ids = tokenizer.encode(text)
        pieces = _pushed(tokenizer, ids)
        assert "".join(pieces) == _oneshot(tokenizer, ids)
        assert not any("\ufffd" in piece for piece in pieces)
    if name != "stories":  # byte fallback writes several U+FFFD for bytes that are no text
        for _ in range(100):
            ids = [source.randrange(len(tokenizer)) for _ in range(30)]
            assert "".join(_pushed(tokenizer, ids)) == _oneshot(tokenizer, ids)


def test_bytes_that_never_become_text_are_let_go() -> None:
    tokenizer = byte_tokenizer()
    pieces = _pushed(tokenizer, [0x80] * 200)
    assert max(len(piece) for piece in pieces) <= 64
    assert "".join(pieces) == "\ufffd" * 200


def test_the_beginning_token_is_the_files_policy(shared_dir: Path) -> None:
    data = (shared_dir / "models/stories260k/tokenizer.json").read_bytes()
    assert Tokenizer(data, 1, True).encode("") == [1]
    assert Tokenizer(data, 1, True).encode("Once", begin=False) == [403]
    assert Tokenizer(data, 1, False).encode("Once") == [403]
    # The post-processor of this tokenizer.json adds <s> by itself; it must not come twice.
    assert Tokenizer(data, 1, True).encode("Once") == [1, 403]


def test_the_files_truncation_and_padding_are_ignored() -> None:
    plain: dict[str, Any] = json.loads(byte_tokenizer()._engine.to_str())
    plain["truncation"] = {
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    assert len(Tokenizer(json.dumps(plain).encode()).encode("abcdef")) == 6


def test_bad_input_is_named() -> None:
    with pytest.raises(FormatError, match="tokenizer"):
        Tokenizer(b"{}")
    with pytest.raises(FormatError, match="tokenizer"):
        Tokenizer(b"\xff")
    tokenizer = byte_tokenizer()
    with pytest.raises(InvalidArgumentError, match="expected text, found int"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="Unicode"):
        tokenizer.encode("\ud800")
    assert tokenizer.token_id("<end>") == 256 and tokenizer.piece(256) == "<end>"
