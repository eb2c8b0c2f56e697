# SPDX-License-Identifier: Apache-2.0
"""The NumPy executor against formulas written out element by element, and its session."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.container import Container
from ingot.errors import ContextFullError, InvalidArgumentError
from ingot.format import AttentionParameters, Dtype, Epilogue, RopeParameters, RopeStyle
from ingot.packing import Quantized, dequantize, pack, quantize_activations
from ingot.reference import (
    ReferenceSession,
    check_conformance,
    check_operations,
    conformance,
    elementwise,
    linear,
    linear_error_bound,
    prepare,
)
from ingot.reference import attention as attention_ops
from ingot.reference.bounds import operation_bounds
from ingot.reference.linear import embed, gate
from tests.runtime.small_program import VOCABULARY, every_op, random_weight

F32 = NDArray[np.float32]
FORMATS = [
    (Dtype.F16, 0),
    (Dtype.Q8, 32),
    (Dtype.Q4, 32),
    (Dtype.Q4, 64),
    (Dtype.Q4, 128),
    (Dtype.C4, 32),
]
TOKENS = [7, 3, 3, 49, 0, 12, 21]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def normal(rng: np.random.Generator, *shape: int) -> F32:
    return rng.normal(size=shape).astype(np.float32)


def kernel_linear(x: F32, weight: Quantized) -> F32:
    """Compute one output after the other in float32, in the order of linear.h.

    A fused multiply-add is a float64 sum of an exact product, rounded to float32.
    """
    values = dequantize(weight)
    codes, a_scale = quantize_activations(x)
    out = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    for i, r in np.ndindex(out.shape):
        acc = np.float32(0)
        if weight.dtype == Dtype.F16:
            for j in range(x.shape[1]):
                acc = np.float32(float(values[r, j]) * float(x[i, j]) + float(acc))
            out[i, r] = acc
            continue
        for g in range(a_scale.shape[1]):
            columns = range(32 * g, min(32 * g + 32, x.shape[1]))
            a = [int(codes[i, j]) for j in columns]
            w = [int(weight.codes[r, j]) for j in columns]
            if weight.dtype == Dtype.C4:
                dot = sum(int(weight.codebook[c]) * v for c, v in zip(w, a, strict=True))
                dot += int(weight.shifts[r, g]) * weight.delta * sum(a)
                term = float(np.float32(dot * int(weight.sub_scales[r, g]))) * float(a_scale[i, g])
            else:
                zero = 8 if weight.dtype == Dtype.Q4 else 0
                dot = sum((c - zero) * v for c, v in zip(w, a, strict=True))
                scale = np.float32(weight.scales[r, 32 * g // weight.group])
                term = dot * float(scale * a_scale[i, g])
            acc = np.float32(term + float(acc))
        factor = weight.row_scales[r] if weight.dtype == Dtype.C4 else 1.0
        out[i, r] = np.float32(acc * np.float32(factor))
    return out


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
@pytest.mark.parametrize("k", [1, 31, 96, 200])
def test_linear_within_the_bound(
    rng: np.random.Generator, dtype: Dtype, group: int, k: int
) -> None:
    weight = random_weight(rng, dtype, group, 5, k)
    x = normal(rng, 3, k)
    prepared = prepare(weight)
    expected, bound = linear(x, prepared), linear_error_bound(x, prepared)
    error = np.abs(kernel_linear(x, weight).astype(np.float64) - expected)
    assert (error <= bound).all()
    # The bound must be able to fail: far below the data, and exceeded by one changed code.
    assert bound.max() < 1e-4 * (np.abs(x).sum() * np.abs(dequantize(weight)).max())
    codes = weight.codes.copy()
    codes[2, k - 1] = 3 if codes[2, k - 1] != 3 else 12
    x[:, k - 1] = 1.0
    changed = replace(weight, codes=codes)
    if dtype == Dtype.C4 and weight.sub_scales[2, -1] == 0:
        pytest.fail("seed gives a sub-scale of 0: the changed code would change nothing")
    wrong = np.abs(kernel_linear(x, changed).astype(np.float64) - linear(x, prepared))
    assert (wrong[:, 2] > linear_error_bound(x, prepared)[:, 2]).all()


@pytest.mark.parametrize(("dtype", "group"), FORMATS[1:])
def test_linear_is_close_to_floating_point(
    rng: np.random.Generator, dtype: Dtype, group: int
) -> None:
    """Int8 activations cost half a step of 32 k each: far less than a misplaced scale would."""
    weight = random_weight(rng, dtype, group, 9, 160)
    x = normal(rng, 4, 160)
    exact = x.astype(np.float64) @ dequantize(weight).astype(np.float64).T
    _, a_scale = quantize_activations(x)
    half_step = np.repeat(a_scale, 32, axis=1) * 0.5001
    limit = half_step @ np.abs(dequantize(weight)).T
    assert (np.abs(linear(x, prepare(weight)) - exact) <= limit).all()


def test_gate_interleaves_tiles(rng: np.random.Generator) -> None:
    sums = normal(rng, 2, 64)
    for epilogue in (Epilogue.SILU_GATE, Epilogue.GELU_TANH_GATE):
        out = gate(sums, 20, epilogue)
        for i, r in np.ndindex(2, 20):
            tile, lane = divmod(r, 16)
            g = float(sums[i, 32 * tile + lane])
            up = float(sums[i, 32 * tile + 16 + lane])
            act = g / (1 + math.exp(-g))
            if epilogue == Epilogue.GELU_TANH_GATE:
                act = 0.5 * g * (1 + math.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
            assert out[i, r] == pytest.approx(act * up, rel=1e-6)


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_embed_takes_rows(rng: np.random.Generator, dtype: Dtype, group: int) -> None:
    table = random_weight(rng, dtype, group, 9, 70)
    rows = embed(np.array([8, 0, 8], np.int32), table)
    assert np.array_equal(rows, dequantize(table)[[8, 0, 8]])


def test_norms_by_slice(rng: np.random.Generator) -> None:
    x, weight, bias = normal(rng, 2, 12), normal(rng, 4), normal(rng, 4)
    rms = elementwise.rms_norm(x, weight, 1e-3)
    layer = elementwise.layer_norm(x, weight, bias, 1e-3)
    for i, s in np.ndindex(2, 3):
        part = [float(v) for v in x[i, 4 * s : 4 * s + 4]]
        mean = sum(part) / 4
        variance = sum((v - mean) ** 2 for v in part) / 4
        square = sum(v * v for v in part) / 4
        for j in range(4):
            w, at = float(weight[j]), 4 * s + j
            assert rms[i, at] == pytest.approx(part[j] / math.sqrt(square + 1e-3) * w, rel=1e-6)
            centred = (part[j] - mean) / math.sqrt(variance + 1e-3)
            assert layer[i, at] == pytest.approx(centred * w + float(bias[j]), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("style", list(RopeStyle))
def test_rope_rotates_pairs(rng: np.random.Generator, style: RopeStyle) -> None:
    x, angles = normal(rng, 3, 20), rng.uniform(0, 6, (9, 4))
    table = np.hstack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    out = attention_ops.rope(x, table, 5, RopeParameters(10, 8, style))
    expected = x.copy()
    for i, head, p in np.ndindex(3, 2, 4):
        pair = (p, p + 4) if style == RopeStyle.HALF_SPLIT else (2 * p, 2 * p + 1)
        a, b = (float(x[i, 10 * head + e]) for e in pair)
        c, s = math.cos(angles[5 + i, p]), math.sin(angles[5 + i, p])
        expected[i, 10 * head + pair[0]] = a * c - b * s
        expected[i, 10 * head + pair[1]] = b * c + a * s
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(out[:, [8, 9, 18, 19]], x[:, [8, 9, 18, 19]])


def test_attention_is_causal_and_grouped(rng: np.random.Generator) -> None:
    p = AttentionParameters(4, 2, 3, 0, 0.7, 0.0, 0)
    empty = np.zeros((2, 0, 3), np.float16)
    past = normal(rng, 2, 6), normal(rng, 2, 6)
    q, k, v = normal(rng, 3, 12), normal(rng, 3, 6), normal(rng, 3, 6)
    keys = attention_ops.append_state(attention_ops.append_state(empty, past[0]), k)
    kept = attention_ops.append_state(attention_ops.append_state(empty, past[1]), v)
    out = attention_ops.attention(q, keys, kept, p)
    rows_k = np.vstack([past[0], k]).astype(np.float16).astype(np.float64)
    rows_v = np.vstack([past[1], v]).astype(np.float16).astype(np.float64)
    for i, head in np.ndindex(3, 4):
        at = slice(3 * (head // 2), 3 * (head // 2) + 3)
        weights = [
            math.exp(0.7 * float(q[i, 3 * head : 3 * head + 3] @ rows_k[t, at]))
            for t in range(2 + i + 1)
        ]
        mix = sum(w * rows_v[t, at] for t, w in enumerate(weights)) / sum(weights)
        np.testing.assert_allclose(out[i, 3 * head : 3 * head + 3], mix, rtol=1e-5, atol=1e-6)


def test_activations_and_scalars() -> None:
    x = np.array([[-3.0, -0.5, 0.0, 0.5, 3.0]], np.float32)
    for kind, expected in (
        (1, [v / (1 + math.exp(-v)) for v in x[0].tolist()]),
        (3, [max(v, 0.0) for v in x[0].tolist()]),
    ):
        np.testing.assert_allclose(elementwise.activation(x, kind)[0], expected, rtol=1e-6)
    assert elementwise.activation(x, 2)[0, 4] == pytest.approx(2.9963627, rel=1e-6)
    assert elementwise.soft_cap(x, 2.0)[0, 4] == pytest.approx(2 * math.tanh(1.5), rel=1e-6)
    assert elementwise.scale(x, 3.0)[0, 1] == -1.5
    with pytest.raises(InvalidArgumentError, match="activation kind 9"):
        elementwise.activation(x, 9)


@pytest.fixture(scope="module", params=FORMATS, ids=lambda f: f"{f[0].name.lower()}-{f[1]}")
def container(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Container:
    path = tmp_path_factory.mktemp("every_op") / "model.ingot"
    return Container(every_op(path, *request.param))


def test_chunks_give_what_one_pass_gives(container: Container) -> None:
    whole = ReferenceSession(container)
    logits = whole.eval(TOKENS, len(TOKENS))
    assert logits.shape == (len(TOKENS), VOCABULARY)
    assert logits.dtype == np.float32
    parts = ReferenceSession(container)
    for begin, end in ((0, 1), (1, 4), (4, 7)):
        piece = parts.eval(TOKENS[begin:end], end - begin)
        # A matrix product's order of summation may depend on its size: float64 before rounding.
        np.testing.assert_allclose(piece, logits[begin:end], rtol=0, atol=1e-5)
    assert parts.position == whole.position == len(TOKENS)
    parts.reset()
    assert np.array_equal(parts.eval(TOKENS, 2), logits[-2:])


def test_trace_has_every_activation_and_feeds_nothing(container: Container) -> None:
    session = ReferenceSession(container)
    session.eval(TOKENS[:3])
    values = session.trace(TOKENS[3:6], 2)
    entry = container.entries["step"]
    outputs = [
        t for i in range(entry.first, entry.first + entry.count) for t in container.outputs(i)
    ]
    assert list(values) == outputs
    for tensor, value in values.items():
        record = container.tensors[tensor]
        assert value.shape == (3 if record.rows == 1 else 2, record.shape[1])
        assert value.dtype == np.float32
    assert session.position == 3
    assert np.array_equal(session.eval(TOKENS[3:6], 2), values[entry.output])


def test_eval_refuses(container: Container) -> None:
    session = ReferenceSession(container)
    for tokens, wanted, message in (
        ([], 0, "at least one"),
        ([1, VOCABULARY], 1, f"token id {VOCABULARY}, expected 0 to 49"),
        ([-1], 1, "token id -1"),
        ([1, 2], 3, "wanted is 3"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            session.eval(tokens, wanted)
    session.eval([1] * 60)
    with pytest.raises(ContextFullError, match="60 positions are used and 5 more"):
        session.eval([1] * 5)
    assert session.position == 60


def test_every_operation_has_a_bound(container: Container) -> None:
    """Bounds are finite, far below the data, and 0 only where an op rounds once or never."""
    session = ReferenceSession(container)
    ids = session.check_tokens(TOKENS, 3)
    values: dict[int, F32] = {}
    for index in range(len(container.instructions)):
        outputs = session.execute(index, values, ids, 3)
        for tensor, bound in operation_bounds(session, index, values, outputs).items():
            assert bound.shape == outputs[tensor].shape
            assert (bound >= 0).all()
            assert bound.max() < 1e-3 * np.abs(outputs[tensor]).max()
        values.update(outputs)


def test_operations_are_checked_one_by_one(container: Container) -> None:
    values = ReferenceSession(container).trace(TOKENS, 2)
    checks = check_operations(container, TOKENS, lambda _, tensor: values[tensor], 2)
    assert all(check.passed for check in checks)
    assert [check.tensor for check in checks] == [container.names[t] for t in values]
    broken = container.tensor_id("mixed")
    faulty = {**values, broken: values[broken] * np.float32(1.0001)}
    checks = check_operations(container, TOKENS, lambda _, tensor: faulty[tensor], 2)
    failed = [check.tensor for check in checks if not check.passed]
    # The op itself, and the one that reads it: the rest of the trace has the sound values.
    assert failed[0] == "mixed"
    assert "x.scaled" not in failed


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_conformance_catches_a_changed_constant(tmp_path: Path, dtype: Dtype, group: int) -> None:
    sound = Container(every_op(tmp_path / "sound.ingot", dtype, group))
    vectors = conformance(sound, [TOKENS, [5, 6]], top=8)
    assert [len(entry["top_ids"]) for entry in vectors["prompts"]] == [8, 8]
    assert 0 < vectors["tolerance"] < 1e-2
    assert not check_conformance(
        vectors, lambda tokens: ReferenceSession(sound).eval(tokens, len(tokens))
    )
    changed = Container(every_op(tmp_path / "changed.ingot", dtype, group, change=1.0))
    problems = check_conformance(
        vectors, lambda tokens: ReferenceSession(changed).eval(tokens, 1)[0]
    )
    assert problems
    assert "expected" in problems[0]


def test_conformance_catches_a_changed_weight_byte(tmp_path: Path) -> None:
    """Flip one scale's sign in the packed bytes: the vectors see it without any digest."""
    sound = Container(every_op(tmp_path / "sound.ingot", Dtype.C4, 32))
    vectors = conformance(sound, [TOKENS])
    session = ReferenceSession(sound)
    weight = session.weight(sound.tensor_id("down"))
    weight.row_scales[7] *= -1
    problems = check_conformance(vectors, lambda tokens: session.eval(tokens, 1))
    assert problems
    assert pack(weight).tobytes() != bytes(sound.tensor_bytes(sound.tensor_id("down")))


def test_conformance_refuses_what_checks_nothing(tmp_path: Path) -> None:
    sound = Container(every_op(tmp_path / "sound.ingot", Dtype.Q8, 32))
    with pytest.raises(InvalidArgumentError, match="0 prompts"):
        conformance(sound, [])
    vectors = conformance(sound, [[1, 2]], top=4)

    def evaluate(tokens: list[int]) -> F32:
        return ReferenceSession(sound).eval(tokens)

    assert "0 prompts" in check_conformance({**vectors, "prompts": []}, evaluate)[0]
    assert "not readable" in check_conformance({"prompts": []}, evaluate)[0]
    assert "not finite" in check_conformance(vectors, lambda _: np.full(50, np.nan, np.float32))[0]
    assert "there are 3 logits" in check_conformance(vectors, lambda _: np.zeros(3, np.float32))[0]

    def higher(tokens: list[int]) -> F32:
        logits = evaluate(tokens)
        logits[0, logits[0].argmin()] = 99.0
        return logits

    assert "unlisted logit is 99" in check_conformance(vectors, higher)[0]


def test_a_hundred_tokens_of_a_small_model_take_seconds(rng: np.random.Generator) -> None:
    """4096 x 256 is a tenth of lantern's multiplications per token."""
    weight = prepare(random_weight(rng, Dtype.C4, 32, 4096, 256))
    start = time.perf_counter()
    linear(normal(rng, 100, 256), weight)
    assert time.perf_counter() - start < 1.0
