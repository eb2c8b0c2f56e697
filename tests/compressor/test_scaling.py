# SPDX-License-Identifier: Apache-2.0
"""Rotations, channel scales and clips as functions of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot_compressor.numerics.rotation import (
    block_size,
    hadamard,
    make_rotation,
    rotate,
    tile_heads,
    unrotate,
)
from ingot_compressor.numerics.scaling import (
    activation_aware_scales,
    clip_groups,
    column_largest,
    group_grams,
    grouped_errors,
    relative_magnitudes,
    search_clips,
    smoothing_scales,
)


def test_smoothing_scales_are_the_formula_and_even_out() -> None:
    x, w = np.array([8.0, 0.5, 0.0, 2.0]), np.array([2.0, 2.0, 1.0, 0.0])
    s = smoothing_scales(x, w, 0.5)
    assert np.allclose(s, [2.0, 0.5, 1.0, 1.0])
    # at one half both sides have the same largest magnitude
    assert np.allclose((x / s)[:2], (w * s)[:2])
    assert np.allclose(smoothing_scales(x, w, 1.0)[:2], x[:2])
    with pytest.raises(ValueError, match="alpha"):
        smoothing_scales(x, w, 1.5)
    with pytest.raises(ValueError, match="channels"):
        smoothing_scales(x, w[:2])
    pair = [np.array([[1, -3], [2, 0]], np.float32), np.array([[-5, 1]], np.float32)]
    assert column_largest(pair).tolist() == [5, 3]


def test_activation_aware_scales_are_centred_and_follow_the_formula() -> None:
    x, w = np.array([1.0, 4.0, 0.25]), np.array([0.5, 0.25, 1.0])
    for ratio in (0.0, 0.3, 1.0):
        s = activation_aware_scales(x, w, ratio)
        raw = x**ratio / (w ** (1 - ratio) + 1e-4)
        assert np.allclose(s / s[0], raw / raw[0])
        assert np.isclose(s.max() * s.min(), 1)
    assert np.allclose(activation_aware_scales(x, w, 0.0, duo=False), 1)
    parts = np.array([[1, -2, 4, 8], [0, 0, 3, -3]], np.float32)
    assert np.allclose(relative_magnitudes([parts], 2), [0.25, 0.5, 0.75, 1])
    assert np.allclose(relative_magnitudes([parts, parts[:1]], 4), [1 / 12, 1 / 6, 2 / 3, 1])


def test_clip_search_is_the_brute_force_optimum_of_each_group() -> None:
    generator = np.random.default_rng(2)
    w = generator.standard_t(2, (3, 10)).astype(np.float32)
    x = generator.normal(size=(50, 10)).astype(np.float32) * generator.uniform(0.1, 3, 10)
    grams = group_grams(x.astype(np.float32), 4)

    def rounding(values: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = np.pad(values, ((0, 0), (0, 2))).reshape(3, 3, 4)
        scale = np.abs(parts).max(axis=2, keepdims=True) / 3
        return np.asarray((np.rint(parts / scale) * scale).reshape(3, 12)[:, :10], np.float32)

    limits = search_clips(w, grams, rounding)
    for row in range(3):
        for first in (0, 4, 8):
            part = w[row : row + 1, first : first + 4]
            inputs = x[:, first : first + 4]
            errors = {}
            for step in range(21):
                limit = np.abs(part).max() * (1 - 0.5 * step / 20)
                clipped = np.clip(part, -limit, limit)
                scale = np.abs(clipped).max() / 3
                tried = np.rint(clipped / scale) * scale
                errors[limit] = float(np.square(inputs @ (tried - part).T).mean())
            best = min(errors, key=lambda limit: errors[limit])
            assert np.isclose(limits[row, first // 4], best, rtol=1e-5)
    error = rounding(w) - w
    whole = np.stack([np.square(x[:, s] @ error[:, s].T).mean(axis=0) for s in _slices()], axis=1)
    assert np.allclose(grouped_errors(error, grams), whole)
    assert np.array_equal(clip_groups(w, limits, 4), np.clip(w, -_spread(limits), _spread(limits)))


def test_a_short_last_group_has_its_own_limit() -> None:
    w = np.full((1, 33), 5, np.float32)
    clipped = clip_groups(w, np.array([[2, 3]], np.float32), 32)
    assert clipped[0].tolist() == [2.0] * 32 + [3.0]


def _slices() -> list[slice]:
    return [slice(0, 4), slice(4, 8), slice(8, 10)]


def _spread(limits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.repeat(limits, 4, axis=1)[:, :10])


@pytest.mark.parametrize("width, most, block", [(40, 128, 8), (256, 128, 128), (43, 128, 1)])
def test_hadamard_is_the_sylvester_matrix_in_blocks(width: int, most: int, block: int) -> None:
    assert block_size(width, most) == block
    matrix = np.array([[(-1) ** ((i & j).bit_count()) for j in range(block)] for i in range(block)])
    expected = np.kron(np.eye(width // block), matrix / np.sqrt(block))
    assert np.allclose(hadamard(np.eye(width), block), expected)
    assert np.allclose(expected @ expected.T, np.eye(width))
    rotation = make_rotation(width, 3, most)
    x = np.random.default_rng(0).normal(size=(5, width)).astype(np.float32)
    assert np.allclose(rotate(x, rotation), (x * rotation.signs) @ expected, atol=1e-6)
    assert np.allclose(unrotate(rotate(x, rotation), rotation), x, atol=1e-6)
    assert np.array_equal(make_rotation(width, 3, most).signs, rotation.signs)
    assert not np.array_equal(make_rotation(width, 4, most).signs, rotation.signs)
    assert set(np.unique(rotation.signs)) == {-1.0, 1.0}


def test_rotations_refuse_blocks_that_do_not_fit() -> None:
    for block in (3, 16, 0):
        with pytest.raises(ValueError, match="power of two"):
            hadamard(np.ones((1, 24)), block)
    with pytest.raises(ValueError, match="positive"):
        block_size(0)
    heads = tile_heads(make_rotation(8, 1, 4), 2, 3)
    assert np.array_equal(heads.signs.reshape(2, 3, 4)[:, 0], heads.signs.reshape(2, 3, 4)[:, 2])
    assert len(heads.signs) == 24


def test_a_rotation_spreads_an_outlier_over_its_block() -> None:
    x = np.zeros((1, 256), np.float32)
    x[0, 7] = 128
    turned = rotate(x, make_rotation(256, 0))
    assert np.allclose(np.abs(turned[0, :128]), 128 / np.sqrt(128))
    assert not turned[0, 128:].any()
