# SPDX-License-Identifier: Apache-2.0
"""Every op of version 0 against the reference, and keys and values against their bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.container import Container
from ingot.format import AttentionParameters, Dtype, Opcode, RopeStyle
from ingot.reference.attention import attention
from tests.runtime import small_program
from tests.runtime.small_program import every_op
from tests.vulkan.backend_driver import Backend, BackendModel, BackendSession, opcodes
from tests.vulkan.linear_program import check_session, worst
from tests.vulkan.state_oracle import block_bytes, quantized_attention

KV_HEADS = small_program.KV_HEADS
CHUNKS = (64, 64, 64, 64, 60, 1, 1, 3, 5, 17, 2, 64, 1, 8, 9)


@pytest.mark.parametrize(
    ("style", "window", "sinks"),
    [(RopeStyle.HALF_SPLIT, 0, 0), (RopeStyle.INTERLEAVED, 9, 2), (RopeStyle.HALF_SPLIT, 5, 0)],
)
def test_every_op(
    vulkan: Backend, tmp_path: Path, style: RopeStyle, window: int, sinks: int
) -> None:
    path = tmp_path / "ops.ingot"
    every_op(path, Dtype.Q8, 32, style=style, window=window, sinks=sinks)
    with (
        Container(path) as container,
        BackendModel(vulkan, container) as model,
        BackendSession(model, chunk=32, rows=8) as session,
    ):
        assert all(model.takes) and set(opcodes(container)) == set(Opcode)
        for count in (1, 2, 3, 8, 17):
            tokens = [(7 * i + count) % small_program.VOCABULARY for i in range(count)]
            checks = check_session(container, session, tokens, min(count, 3))
            assert worst(checks).passed, (count, worst(checks))


@pytest.mark.parametrize(
    ("kv", "size", "window", "sinks"),
    [
        ("kv8", 16, 0, 0),
        ("f16", 10, 70, 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("k8v4", 16, 0, 0),
                ("k8v4", 128, 70, 3),
                ("kv8", 10, 70, 3),
                ("f16", 256, 0, 0),
                ("kv8", 256, 300, 0),
                ("f16", 48, 0, 0),
            ]
        ),
    ],
)
def test_attention_over_a_long_context(
    vulkan: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kv: str,
    size: int,
    window: int,
    sinks: int,
) -> None:
    """Passes of many sizes; each row against NumPy over what was appended, each block's bytes."""
    for name, value in (
        ("HEAD", size),
        ("WIDE", small_program.HEADS * size),
        ("NARROW", KV_HEADS * size),
    ):
        monkeypatch.setattr(small_program, name, value)
    path = tmp_path / "long.ingot"
    every_op(path, Dtype.Q8, 32, context=640, window=window, sinks=sinks)
    rng = np.random.default_rng(size)
    with (
        Container(path) as container,
        BackendModel(vulkan, container) as model,
        BackendSession(model, capacity=640, chunk=64, rows=1, kv=kv) as session,
    ):
        index = container.entries["step"].first + opcodes(container).index(Opcode.ATTENTION)
        inputs, out = container.inputs(index), container.outputs(index)[0]
        parameters = container.parameters(index)
        assert isinstance(parameters, AttentionParameters)
        keys = values = np.zeros((0, KV_HEADS * size), np.float32)
        for count in CHUNKS:
            session.run([int(t) for t in rng.integers(0, small_program.VOCABULARY, count)])
            keys = np.vstack([keys, session.read(inputs[1], count)])
            values = np.vstack([values, session.read(inputs[2], count)])
            queries = session.read(inputs[0], count)
            expected, bound = expectation(queries, keys, values, parameters, kv)
            assert (np.abs(session.read(out, count) - expected) <= bound).all(), (count, len(keys))
        for block in range(len(keys) // 64):
            at = slice(64 * block, 64 * block + 64)
            assert session.state(block) == block_bytes(keys[at], values[at], KV_HEADS, kv)


def expectation(
    q: np.ndarray, keys: np.ndarray, values: np.ndarray, parameters: AttentionParameters, kv: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the result and its bound: a weight is off by its score's error, for each position."""
    unit = 2.0**-24
    if kv != "f16":
        expected, mean = quantized_attention(q, keys, values, parameters, kv)
        turning = 8 if kv == "k8v4" else 0  # its sums may round a query's code the other way
        return expected, (len(keys) + 64 + turning * 16384) * unit * mean

    def halves(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float16).reshape(len(x), KV_HEADS, -1).transpose(1, 0, 2)

    expected = attention(q, halves(keys), halves(values), parameters).astype(np.float64)
    mean = attention(q, halves(keys), np.abs(halves(values)), parameters)
    largest = np.abs(q).sum(axis=1, keepdims=True) * np.abs(keys).max() * parameters.scale
    return expected, (2 * parameters.head_size * largest + len(keys) + 64) * unit * mean


def test_state_goes_out_and_comes_back(vulkan: Backend, tmp_path: Path) -> None:
    path = every_op(tmp_path / "state.ingot", Dtype.Q8, 32)
    with Container(path) as container, BackendModel(vulkan, container) as model:
        with BackendSession(model, kv="kv8") as session:
            session.run([3, 1, 4, 1, 5, 9, 2, 6])
            kept, expected = session.state(0), session.eval([5])
        with BackendSession(model, kv="kv8") as session:
            session.set_state(0, kept)
            session.position = 8
            np.testing.assert_array_equal(session.eval([5]), expected)
            session.set_state(0, bytes(len(kept)))
            session.position = 8
            assert (session.eval([5]) != expected).any()


def test_ranges_of_instructions(vulkan: Backend, tmp_path: Path) -> None:
    """A program cut in two, the second half on values that were written, gives the same."""
    path = every_op(tmp_path / "ranges.ingot", Dtype.Q8, 32)
    with (
        Container(path) as container,
        BackendModel(vulkan, container) as model,
        BackendSession(model) as session,
    ):
        tokens, output = [3, 1, 4], container.entries["step"].output
        session.run(tokens, 2, keep=False)
        whole = session.read(output, 2)
        cut = opcodes(container).index(Opcode.LAYER_NORM)
        x = container.inputs(cut)[0]
        session.run(tokens, 2, count=cut, keep=False)
        kept = session.read(x, 3)
        session.run([7, 7, 7], 2, keep=False)
        session.write(x, kept)
        session.run(tokens, 2, first=cut, keep=False)
        np.testing.assert_array_equal(session.read(output, 2), whole)
        session.write(x, kept + 1)
        session.run(tokens, 2, first=cut, keep=False)
        assert (session.read(output, 2) != whole).any()
