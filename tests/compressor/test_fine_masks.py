# SPDX-License-Identifier: Apache-2.0
"""Masks of single weights: zeros where they say, less lost the more is known of the inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import dequantize
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.pruning import COMPUTED
from ingot_compressor.numerics.sparse_gpt import output_error
from ingot_compressor.passes.fine_masks import FinePattern, prune_elements

PATTERNS = {
    "unstructured": FinePattern(share=0.5),
    "2:4": FinePattern(kept=2, of=4),
    "4:8": FinePattern(kept=4, of=8),
}


def matrix(n: int = 32, k: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)


def hessian(k: int = 64) -> NDArray[np.float64]:
    """Return neighbours that go together, on columns that differ in size."""
    places = np.arange(k)
    size = np.exp(np.random.default_rng(1).normal(0, 0.7, k))
    return np.outer(size, size) * 0.9 ** np.abs(places[:, None] - places)


@pytest.mark.parametrize("dtype", [Dtype.Q4, Dtype.Q6, Dtype.Q8, Dtype.F16])
@pytest.mark.parametrize("name", PATTERNS)
def test_weights_that_go_are_zeros(name: str, dtype: Dtype) -> None:
    pattern = PATTERNS[name]
    quantized, mask = prune_elements(matrix(), Encoding(dtype), pattern, hessian())
    assert mask.mean() == 0.5 and not dequantize(quantized)[~mask].any()
    if dtype is not Dtype.F16:
        joint = replace(pattern, sweep=True)
        swept, gone = prune_elements(matrix(), Encoding(dtype), joint, hessian())
        assert gone.mean() == 0.5 and not dequantize(swept)[~gone].any()
    if pattern.kept:
        assert np.all(mask.reshape(-1, pattern.of).sum(axis=1) == pattern.kept)
    bits = pattern.bits(quantized)
    assert bits.status == COMPUTED
    each = {Dtype.Q4: 4.5, Dtype.Q6: 6.75, Dtype.Q8: 8.5, Dtype.F16: 16.0}[dtype]
    index = {"unstructured": 1.0, "2:4": 1.0, "4:8": 1.0}[name]
    assert bits.total == pytest.approx(0.5 * each + index, abs=0.15)


@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_known_of_the_inputs_helps(name: str) -> None:
    w, h, pattern = matrix(), hessian(), PATTERNS[name]
    shared = {"share": pattern.share, "kept": pattern.kept, "of": pattern.of}
    lost = []
    for how in (
        ("magnitude", False, False),
        ("wanda", False, False),
        ("wanda", True, False),
        ("hessian", True, False),
        ("hessian", True, True),
    ):
        tried = FinePattern(**shared, score=how[0], compensate=how[1], sweep=how[2])  # type: ignore[arg-type]
        quantized, _ = prune_elements(w, Encoding(Dtype.Q4), tried, h)
        lost.append(output_error(w, dequantize(quantized), h))
    magnitude, wanda, mended, seen, joint = lost
    assert wanda < 0.95 * magnitude and mended < 0.8 * wanda
    assert seen < 0.8 * wanda and joint < 0.98 * seen


def test_without_moments_mean_squares_or_magnitudes_decide() -> None:
    w, squares = matrix(), np.diagonal(hessian())
    pattern = PATTERNS["2:4"]
    _, by_squares = prune_elements(w, Encoding(Dtype.Q8), pattern, None, squares)
    _, by_size = prune_elements(w, Encoding(Dtype.Q8), pattern, None)
    scores = np.abs(w) * np.sqrt(squares)
    for mask, score in ((by_squares, scores), (by_size, np.abs(w))):
        kept = np.where(mask, score, np.inf).reshape(-1, 4).min(axis=1)
        assert np.all(kept >= np.where(mask, 0, score).reshape(-1, 4).max(axis=1))
    assert not np.array_equal(by_squares, by_size)


@pytest.mark.parametrize("dtype", [Dtype.C4, Dtype.C3, Dtype.Q4Z])
def test_formats_without_a_zero_are_refused(dtype: Dtype) -> None:
    name = dtype.name.lower()
    with pytest.raises(InvalidArgumentError, match=f"{name} has no zero in every group"):
        prune_elements(matrix(), Encoding(dtype), PATTERNS["2:4"], hessian())
    with pytest.raises(InvalidArgumentError, match="does not divide 66 columns"):
        prune_elements(matrix(16, 66), Encoding(Dtype.Q8), PATTERNS["2:4"], np.eye(66))


def test_nothing_taken_out_is_plain_quantization() -> None:
    w, h = matrix(), hessian()
    plain = quantize_matrix(w, Encoding(Dtype.Q4), np.diagonal(h))
    none = FinePattern(score="magnitude", compensate=False)
    found, mask = prune_elements(w, Encoding(Dtype.Q4), none, h)
    assert mask.all() and np.array_equal(dequantize(found), dequantize(plain))
