# SPDX-License-Identifier: Apache-2.0
"""Keys and values: the CPU's bytes, and attention over them in every format, long contexts too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.format import AttentionParameters, Dtype, Opcode, Rows
from ingot.reference.attention import softmax, unseen
from ingot.reference.kv_formats import hadamard
from tests.cuda.backend_driver import BLOCK, F32, Session
from tests.cuda.conftest import Open
from tests.runtime.random_weights import make
from tests.runtime.small_program import ONE, ProgramBuilder

HEADS, KV_HEADS, VOCABULARY = 6, 2, 20
CONTEXT = 512


def attention_program(path: Path, d: int, window: int = 0, sinks: int = 0) -> Path:
    """One attention; its queries, keys and values are tables' rows, and a test writes them."""
    b = ProgramBuilder(context=CONTEXT, chunk=64)
    b.tokens("ids")
    widths = {"q": HEADS * d, "k": KV_HEADS * d, "v": KV_HEADS * d}
    for name, width in widths.items():
        table = b.weight(f"{name}.table", make(Dtype.Q8, 32, VOCABULARY, width))
        b.op(Opcode.EMBED, ("ids", table), (b.activation(name, width),))
    states = tuple(b.state(f"{name}.state", KV_HEADS, d) for name in ("k", "v"))
    parameters = AttentionParameters(HEADS, KV_HEADS, d, window, d**-0.5, 0.0, sinks)
    out = b.activation("mixed", HEADS * d)
    b.op(Opcode.ATTENTION, ("q", "k", "v", *states), (out,), parameters)
    last, logits = b.activation("last", HEADS * d, Rows.SELECTED), "logits"
    b.op(Opcode.SELECT_LAST, (out,), (last,))
    head = b.weight("head", make(Dtype.Q8, 32, VOCABULARY, HEADS * d))
    b.activation(logits, VOCABULARY, Rows.SELECTED)
    b.op(Opcode.LINEAR, (last, head), (logits,), ONE)
    return b.write(path, "ids", logits, VOCABULARY)


def quantized(row: F32, limit: int) -> tuple[NDArray[np.int8], np.float16]:
    """Codes and float16 scale of one head's row."""
    step = np.float16(np.abs(row).max() / np.float32(limit))
    inverse = np.float32(1) / np.float32(step) if step > 0 else np.float32(0)
    return np.clip(np.rint(row * inverse), -limit, limit).astype(np.int8), step


def padded(row: F32) -> F32:
    return np.pad(row, (0, -row.size % 16))


def turned(rows: F32) -> F32:
    """Rows times the Hadamard matrix, in float32 sums and differences of halves as kernels do."""
    rows = rows.copy()
    half = 1
    while half < rows.shape[1]:
        pairs = rows.reshape(len(rows), -1, 2, half)
        rows = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        rows = rows.reshape(len(pairs), -1)
        half *= 2
    return rows


def key_bytes(rows: F32, kv: str) -> bytes:
    """One head's keys of a block, rows (64, d): columns of 16 positions side by side."""
    d = rows.shape[1]
    if kv == "f16":
        halves = rows.astype(np.float16)
        return halves.reshape(4, 16, d).transpose(0, 2, 1).tobytes()
    kept = turned(rows) if kv == "k8v4" else rows
    pairs = [quantized(padded(row), 127) for row in kept]
    codes = np.stack([codes for codes, _ in pairs])
    columns = codes.reshape(4, 16, -1, 4).transpose(0, 2, 1, 3)
    return columns.tobytes() + np.array([step for _, step in pairs], np.float16).tobytes()


def value_bytes(rows: F32, kv: str) -> bytes:
    """One head's values of a block, rows (64, d)."""
    if kv == "f16":
        return np.stack([padded(row).astype(np.float16) for row in rows]).tobytes()
    pairs = [quantized(padded(row), 127 if kv == "kv8" else 7) for row in rows]
    codes = np.stack([codes for codes, _ in pairs])
    steps = np.array([step for _, step in pairs], np.float16).tobytes()
    if kv == "kv8":
        return codes.tobytes() + steps
    halves = codes.reshape(BLOCK, -1, 2, 8).astype(np.int32) + 8
    return (halves[:, :, 0] | halves[:, :, 1] << 4).astype(np.uint8).tobytes() + steps


def as_kept(rows: F32, kv: str, keys: bool) -> NDArray[np.float64]:
    """What a format makes of rows (t, d)."""
    if kv == "f16":
        return rows.astype(np.float16).astype(np.float64)
    turn = hadamard(rows.shape[1]) if keys and kv == "k8v4" else np.eye(rows.shape[1])
    limit = 7 if kv == "k8v4" and not keys else 127
    pairs = [quantized((row @ turn).astype(np.float32), limit) for row in rows]
    kept = np.stack([codes * np.float64(step) for codes, step in pairs])
    return np.asarray(kept @ turn.T / turn[0].dot(turn[0]))


def expected_attention(
    q: F32, keys: F32, values: F32, kv: str, window: int, sinks: int
) -> NDArray[np.float64]:
    """Shapes: q (m, heads, d); keys, values (t, kv_heads, d); int8 queries where keys are."""
    m, _, d = q.shape
    hidden = unseen(m, len(keys), window, sinks)
    out = np.empty(q.shape)
    for head in range(HEADS):
        own = head // (HEADS // KV_HEADS)
        rows = q[:, head]
        if kv != "f16":
            turn = hadamard(d) if kv == "k8v4" else np.eye(d)
            codes = turned(rows) if kv == "k8v4" else rows
            steps = np.abs(codes).max(axis=1, keepdims=True) / np.float32(127)
            rows = np.rint(codes * (1 / steps)) * steps @ turn.T / turn[0].dot(turn[0])
        scores = rows @ as_kept(keys[:, own], kv, True).T * d**-0.5
        scores[hidden] = -np.inf
        out[:, head] = softmax(scores) @ as_kept(values[:, own], kv, False)
    return out


def feed(session: Session, d: int, tokens: int, rng: np.random.Generator) -> tuple[F32, ...]:
    """Run the attention on random rows and return q, k, v and what came out."""
    container = session.model.container
    found = []
    for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        rows = rng.normal(size=(tokens, heads * d)).astype(np.float32)
        session.write(container.tensor_id(name), rows)
        found.append(rows.reshape(tokens, heads, d))
    session.run([0] * tokens, 0, first=3, count=1)
    session.position += tokens
    out = session.read(container.tensor_id("mixed"), tokens)
    return (*found, out.reshape(tokens, HEADS, d))


CASES = [
    ("f16", 10, 0, 0),
    ("f16", 64, 40, 3),
    ("kv8", 10, 0, 0),
    ("kv8", 80, 150, 4),
    ("k8v4", 16, 0, 0),
    ("k8v4", 64, 70, 0),
    ("kv8", 160, 0, 0),  # more than a warp of a prompt makes
]


def attention_errors(
    session: Session, d: int, window: int, sinks: int, passes: tuple[int, ...]
) -> tuple[float, float, F32, F32]:
    """Return the largest error, the largest median error of a pass, and all keys and values."""
    rng = np.random.default_rng(d)
    kv = session.kv
    keys, values = np.zeros((0, KV_HEADS, d), np.float32), np.zeros((0, KV_HEADS, d), np.float32)
    worst, median = 0.0, 0.0
    for tokens in passes:
        q, k, v, out = feed(session, d, tokens, rng)
        keys, values = np.concatenate([keys, k]), np.concatenate([values, v])
        errors = np.abs(out - expected_attention(q, keys, values, kv, window, sinks))
        worst = np.maximum(worst, errors.max())  # NaN stays NaN
        median = np.maximum(median, np.median(errors))
    return float(worst), float(median), keys, values


def small(worst: float, median: float, kv: str) -> bool:
    """float32 sums of up to 261 terms of about 1; a query's code may fall the other way."""
    return worst < (1e-5 if kv == "f16" else 2e-3) and median < 1e-6


@pytest.mark.parametrize(("kv", "d", "window", "sinks"), CASES)
def test_attention_and_its_bytes(
    open_session: Open, tmp_path: Path, kv: str, d: int, window: int, sinks: int
) -> None:
    path = attention_program(tmp_path / "x.ingot", d, window, sinks)
    session = open_session(path, kv=kv, capacity=CONTEXT, chunk=64)
    passes = (1, 5, 64, 64, 64, 60, 2, 1)  # over several blocks, spans and splits
    worst, median, keys, values = attention_errors(session, d, window, sinks, passes)
    assert small(worst, median, kv)
    for block in range(4):
        part = slice(BLOCK * block, BLOCK * (block + 1))
        kept = b"".join(
            key_bytes(keys[part, head], kv) + value_bytes(values[part, head], kv)
            for head in range(KV_HEADS)
        )
        assert session.state_read(block) == kept


@pytest.mark.parametrize("plant", ["18", "19", "20"])
def test_planted_faults_of_prompts_are_seen(
    open_session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    """18 the first rows twice, 19 half of each key, 20 weights of 10 bits."""
    monkeypatch.setenv("INGOT_PLANT", plant)
    session = open_session(attention_program(tmp_path / "x.ingot", 64), kv="kv8", capacity=64)
    worst, median, _, _ = attention_errors(session, 64, 0, 0, (20,))
    assert not small(worst, median, "kv8")


def test_state_moves_to_another_session(open_session: Open, tmp_path: Path) -> None:
    path = attention_program(tmp_path / "x.ingot", 32)
    first, second = (open_session(path, kv="kv8", capacity=128, chunk=64) for _ in range(2))
    feed(first, 32, 64, np.random.default_rng(1))
    feed(first, 32, 6, np.random.default_rng(2))
    for block in range(2):
        second.state_write(block, first.state_read(block))
    second.position = first.position
    outs = [feed(session, 32, 1, np.random.default_rng(3))[3] for session in (first, second)]
    assert outs[0].tobytes() == outs[1].tobytes()
    assert first.state_read(1) == second.state_read(1)
