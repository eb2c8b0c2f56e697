# SPDX-License-Identifier: Apache-2.0
"""Calibration text: what is read, how it is packed, what is said of it, what is gathered on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ingot.chat import ChatSettings
from ingot.errors import InvalidArgumentError, StorageError
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration import NO_STATISTICS, calibrate
from ingot_compressor.calibration_texts import (
    CalibrationOptions,
    Document,
    distance_warning,
    duplicate_share,
    pack_documents,
    rank_warning,
    read_documents,
    widest_input,
)
from ingot_compressor.evaluate import token_windows
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.passes.fuse import fuse
from tests.compressor.tiny_models import CASES, write_checkpoint

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SETTINGS = ChatSettings(chat_template=TEMPLATE)
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def jsonl(path: Path, *values: object) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values) + "\n", encoding="utf-8")
    return path


def test_plain_text_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One.\n\nTwo.\n", encoding="utf-8")
    assert read_documents(path) == (Document("One.\n\nTwo.\n", chat=False),)


def test_lines_are_texts_or_conversations(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "a\u2028b"}, {"messages": TALK, "id": 3})
    path.write_text(path.read_text(encoding="utf-8").replace("\\u2028", "\u2028"), "utf-8")
    assert read_documents(path, SETTINGS) == (
        Document("a\u2028b", chat=False),
        Document("<|user|>Hi<|end|><|assistant|>Hello<|end|>", chat=True),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", 'either "text"'),
        ('{"text": 3}', 'either "text"'),
        ('{"messages": []}', 'either "text"'),
        ('{"text": "a", "messages": [{"role": "user"}]}', 'either "text"'),
        ('{"messages": [3]}', '"role"'),
        ('{"messages": [{"content": "a"}]}', '"role"'),
    ],
)
def test_wrong_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + line, encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match=message):
        read_documents(path, SETTINGS)


def test_conversations_need_a_template_that_takes_them(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": TALK})
    for settings in (None, ChatSettings()):
        with pytest.raises(InvalidArgumentError, match="line 1: messages, but the model has no"):
            read_documents(path, settings)
    strict = ChatSettings(chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidArgumentError, match=r"line 1: .*roles must alternate"):
        read_documents(path, strict)
    tools = jsonl(tmp_path / "b.jsonl", {"messages": TALK, "tools": [{"name": "clock"}]})
    shown = ChatSettings(chat_template="{{ tools[0].name }}")
    assert read_documents(tools, shown)[0].content == "clock"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.txt"):
        read_documents(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        read_documents(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n", encoding="utf-8")
    for name in ("b.txt", "b.jsonl"):
        with pytest.raises(InvalidArgumentError, match="empty"):
            read_documents(tmp_path / name)


def test_windows_are_full_and_lose_nothing_but_the_end() -> None:
    documents = (Document("abcde", False), Document("fgh", True), Document("ij", False))
    packed = pack_documents(documents, letters, CalibrationOptions(9, 4), bos=1)
    assert [len(window) for window in packed.windows] == [4] * 4
    assert all(window[0] == 1 for window in packed.windows)
    joined = "".join(chr(i) for window in packed.windows for i in window[1:])
    assert joined == "abcde\n\nfghij"
    assert packed.tokens == 16
    without = pack_documents(documents, letters, CalibrationOptions(9, 4))
    assert "".join(chr(i) for window in without.windows for i in window) == "abcde\n\nfghij"


def test_a_begin_token_of_the_template_is_not_doubled() -> None:
    documents = (Document("^abc", True), Document("^de", True))
    packed = pack_documents(documents, letters, CalibrationOptions(9, 4), bos=ord("^"))
    shown = ["".join(map(chr, window)) for window in packed.windows]
    assert shown == ["^abc"]
    packed = pack_documents(documents, letters, CalibrationOptions(9, 3), bos=ord("^"))
    assert ["".join(map(chr, window)) for window in packed.windows] == ["^ab", "^c^", "^de"]


def test_chosen_windows_are_spread_over_the_text() -> None:
    text = "".join(chr(100 + i) for i in range(100))
    packed = pack_documents((Document(text, False),), letters, CalibrationOptions(3, 10))
    assert [int(window[0]) - 100 for window in packed.windows] == [0, 40, 90]
    assert not packed.warnings


def test_plain_text_is_windowed_as_for_a_measurement(repo_root: Path) -> None:
    folder = repo_root / "examples" / "models" / "lantern"
    imported = import_checkpoint(folder)
    chat = imported.chat
    tokenizer = Tokenizer(imported.tokenizer_json, chat["bos_token_id"], chat["add_bos"])
    path = repo_root / "examples" / "text" / "calibration.txt"
    bos = chat["bos_token_id"]
    packed = pack_documents(
        read_documents(path),
        lambda text: tokenizer.encode(text, begin=False),
        CalibrationOptions(10_000, 128),
        bos,
    )
    ids = tokenizer.encode(path.read_text(encoding="utf-8"), begin=False)
    expected = [window for window in token_windows(ids, 128, bos) if len(window) == 128]
    assert len(packed.windows) == len(expected) > 300
    assert all(map(np.array_equal, packed.windows, expected))
    assert rank_warning(packed.tokens, imported.program) is None


def test_too_little_text_is_said() -> None:
    packed = pack_documents((Document("abc", False),), letters, CalibrationOptions(2, 8))
    assert len(packed.windows) == 1 and len(packed.windows[0]) == 3
    assert "1 windows of 3 tokens, 2 of 8" in packed.warnings[0]
    with pytest.raises(InvalidArgumentError, match="1 tokens"):
        pack_documents((Document("a", False),), letters, CalibrationOptions(2, 8))
    for windows, length in ((0, 8), (1, 1)):
        with pytest.raises(InvalidArgumentError, match="at least"):
            CalibrationOptions(windows, length)


def test_repetitions_are_counted_and_said() -> None:
    assert duplicate_share(["a\nb\n\n a \n", "b\nc"]) == pytest.approx(2 / 5)
    assert duplicate_share(["\n", ""]) == 0
    lines = "\n".join(f"line {i}" for i in range(50))
    options = CalibrationOptions(1, 8)
    fine = pack_documents((Document(lines, False),), letters, options)
    assert not fine.warnings
    again = pack_documents((Document(lines, False), Document(lines, False)), letters, options)
    assert "50% of the calibration text's lines" in again.warnings[0]


def test_the_digest_knows_content_and_options() -> None:
    def digest(*texts: str, chat: bool = False, bos: int | None = None, length: int = 4) -> str:
        documents = tuple(Document(text, chat) for text in texts)
        return pack_documents(documents, letters, CalibrationOptions(2, length), bos).sha256

    same = digest("abcdefgh", "ij")
    assert same == digest("abcdefgh", "ij")
    others = [
        digest("abcdefg", "hij"),
        digest("abcdefghij"),
        digest("abcdefgh", "ik"),
        digest("abcdefgh", "ij", chat=True),
        digest("abcdefgh", "ij", bos=1),
        digest("abcdefgh", "ij", length=5),
    ]
    assert len({same, *others}) == 7 and len(same) == 64
    # what stands between documents cannot be part of one
    assert digest("x[false]y", "z") != digest("x", "y[false]z")


def test_fewer_tokens_than_columns_are_said(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CASES["llama"])
    program = import_checkpoint(tmp_path).program
    assert widest_input(program) == widest_input(fuse(program)) == 43
    assert rank_warning(43, program) is None
    assert "43 x 43" in str(rank_warning(42, program))
    # the rank itself: that many outer products
    x = np.random.default_rng(0).normal(size=(42, 43))
    assert np.linalg.matrix_rank(x.T @ x) == 42


def test_texts_far_apart_are_said() -> None:
    near, far = np.full(10, 3.0), np.full(20, 3.0 + np.log(2.1))
    assert distance_warning(near, near + np.log(1.9)) is None
    for pair in ((near, far), (far, near)):
        message = str(distance_warning(*pair))
        assert "20.1" in message and "42.2" in message
    assert distance_warning(near, far, most=3.0) is None


@pytest.mark.parametrize("fused", [True, False])
def test_statistics_are_those_of_numpy(fused: bool, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CASES["llama_tied_shared_heads"])
    program = import_checkpoint(tmp_path).program
    program = fuse(program) if fused else program
    # more windows than one batch takes
    generator = np.random.default_rng(0)
    windows = [generator.integers(0, 301, 60) for _ in range(150)]
    statistics = calibrate(program, windows, TensorStore())
    seen: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        for window in windows:
            execute(
                program,
                torch.from_numpy(window)[None],
                observe=lambda name, x: seen.setdefault(name, []).append(x[0].numpy()),
            )
    assert statistics.tokens == 9000
    tables = (statistics.mean_squares, statistics.mean_abs, statistics.max_abs)
    assert all(set(table) == set(seen) for table in tables)
    for name, parts in seen.items():
        x = np.concatenate(parts).astype(np.float64)
        assert x.shape[0] == 9000
        assert np.allclose(statistics.mean_squares[name], (x * x).mean(axis=0), rtol=1e-4), name
        assert np.allclose(statistics.mean_abs[name], np.abs(x).mean(axis=0), rtol=1e-4), name
        assert np.allclose(statistics.max_abs[name], np.abs(x).max(axis=0), rtol=1e-4), name
    assert NO_STATISTICS.max_abs == {} and NO_STATISTICS.mean_abs == {}
