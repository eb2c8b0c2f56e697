# SPDX-License-Identifier: Apache-2.0
"""Weights in training stay on the grid of their format, and gradients pass through the rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import dequantize, pack, unpack
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.fake_quantize import FakeQuantized, Part, round_through
from ingot_compressor.numerics.sign_descent import SignDescent

FORMATS = [
    Dtype.Q8,
    Dtype.Q6,
    Dtype.C5,
    Dtype.Q4,
    Dtype.Q4Z,
    Dtype.C4,
    Dtype.C3,
    Dtype.C2,
    Dtype.T2,
]
EVERYTHING = Part(rounding=True, scales=True, codebook=True, weights=True)


def matrix(seed: int, n: int = 21, k: int = 75) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_t(5, (n, k)).astype(np.float32))


def train(weight: FakeQuantized, target: torch.Tensor, steps: int, rate: float) -> None:
    parameters = list(weight.parameters().values())
    descent = SignDescent(parameters, rate, steps)
    for _ in range(steps):
        loss = (weight.weight() - target).square().sum()
        descent.step(torch.autograd.grad(loss, parameters, allow_unused=True))
        weight.keep_in_range()


@pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: d.name.lower())
def test_the_start_is_the_quantized_weight(dtype: Dtype) -> None:
    w = matrix(1)
    start = quantize_matrix(w.numpy(), Encoding(dtype))
    weight = FakeQuantized(w, start, EVERYTHING)
    values = weight.weight().detach().numpy()
    # ties between two codes may fall either way, so errors are compared and not codes
    assert np.abs(values - w.numpy()).max() <= np.abs(dequantize(start) - w.numpy()).max() + 1e-5
    np.testing.assert_allclose(dequantize(weight.store()), values, atol=1e-5)
    assert np.mean(weight.store().codes != start.codes) < 0.01


@pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: d.name.lower())
def test_what_was_trained_is_what_is_packed(dtype: Dtype) -> None:
    w, target = matrix(2), matrix(3)
    start = quantize_matrix(w.numpy(), Encoding(dtype))
    weight = FakeQuantized(w, start, EVERYTHING)
    train(weight, target, 20, 0.05)
    stored = weight.store()
    assert not np.array_equal(stored.codes, start.codes)
    book = stored.codebook
    again = unpack(pack(stored), dtype, stored.shape, stored.group, book, stored.delta)
    np.testing.assert_allclose(dequantize(again), weight.weight().detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: d.name.lower())
def test_training_begins_at_codes_that_are_not_the_nearest(dtype: Dtype) -> None:
    w = matrix(8)
    start = quantize_matrix(w.numpy(), Encoding(dtype))
    generator = np.random.default_rng(9)
    codes = start.codes.astype(int) + generator.integers(-2, 3, start.shape)
    codes = np.clip(codes, int(start.codes.min()), int(start.codes.max()))
    elsewhere = replace(start, codes=codes.astype(start.codes.dtype))
    weight = FakeQuantized(w, elsewhere, Part(rounding=True))
    np.testing.assert_allclose(weight.weight().detach().numpy(), dequantize(elsewhere), atol=1e-5)


def test_rounding_moves_to_a_neighbour_and_no_further() -> None:
    w = matrix(4)
    start = quantize_matrix(w.numpy(), Encoding(Dtype.Q4))
    weight = FakeQuantized(w, start, Part(rounding=True))
    train(weight, w + 10, 40, 0.05)
    moved = weight.store().codes.astype(int) - start.codes.astype(int)
    steps = np.repeat(np.sign(start.scales.astype(np.float32)), 32, axis=1)[:, :75] * moved
    assert steps.max() == 1 and steps.min() >= 0
    # every weight that had room above it went up when all of them were asked to
    above = np.where(steps == 0, dequantize(start) - w.numpy(), 0)
    top = np.where(np.repeat(start.scales.astype(np.float32), 32, axis=1)[:, :75] > 0, 15, 0)
    assert np.all((above >= -1e-6) | (start.codes == top))


def test_training_finds_the_scales_of_a_matrix_on_another_grid() -> None:
    codes = np.random.default_rng(5).integers(-7, 8, (8, 64))
    target = torch.from_numpy((codes * 0.125).astype(np.float32))
    start = quantize_matrix((target * 1.1).numpy(), Encoding(Dtype.Q4))
    weight = FakeQuantized(target, start, Part(scales=True))
    before = float((weight.weight().detach() - target).square().sum())
    train(weight, target, 100, 0.01)
    assert float((weight.weight().detach() - target).square().sum()) < 0.05 * before


def test_a_low_rank_movement_is_merged_before_the_rounding() -> None:
    w = matrix(10, 32, 64)
    column, row = torch.linspace(-1, 1, 32)[:, None], torch.linspace(1, -1, 64)
    target = w + 0.2 * column * row
    start = quantize_matrix(w.numpy(), Encoding(Dtype.Q6))
    weight = FakeQuantized(w, start, Part(low_rank=2))
    assert {k: tuple(v.shape) for k, v in weight.parameters().items()} == {
        "thin": (32, 2),
        "flat": (2, 64),
    }
    before = float((weight.weight().detach() - target).square().sum())
    train(weight, target, 200, 0.05)
    stored = dequantize(weight.store())
    assert float((torch.from_numpy(stored) - target).square().sum()) < 0.5 * before


@pytest.mark.parametrize("dtype", [Dtype.C4, Dtype.C3])
def test_training_beats_the_nearest_codes_on_correlated_inputs(dtype: Dtype) -> None:
    """The search weighs columns alone; training sees that neighbours make up for each other."""
    w = matrix(11, 32, 64)
    places = torch.arange(64.0)
    hessian = 0.95 ** (places[:, None] - places).abs()
    start = quantize_matrix(w.numpy(), Encoding(dtype), np.diagonal(hessian.numpy()))

    def lost(values: torch.Tensor) -> torch.Tensor:
        return ((values - w) @ hessian * (values - w)).sum()

    weight = FakeQuantized(w, start, Part(rounding=True, scales=True))
    parameters, steps = list(weight.parameters().values()), 100
    descent = SignDescent(parameters, 1 / steps, steps)
    for _ in range(steps):
        gradients = torch.autograd.grad(lost(weight.weight()), parameters)
        descent.step(gradients)
        weight.keep_in_range()
    after = float(lost(torch.from_numpy(dequantize(weight.store()))))
    assert after < 0.9 * float(lost(torch.from_numpy(dequantize(start))))


def test_training_finds_the_zero_points_of_a_matrix_on_another_grid() -> None:
    """The lower end of each range moves apart from the upper one: alpha and beta of AutoRound."""
    codes = np.random.default_rng(12).integers(0, 16, (8, 64))
    codes[:, ::32], codes[:, 1::32] = 0, 15
    target = torch.from_numpy(((codes - 7) * 0.125).astype(np.float32))
    narrow = quantize_matrix(target.clamp(min=-0.5).numpy(), Encoding(Dtype.Q4Z))
    assert narrow.zeros.max() < 7
    weight = FakeQuantized(target, narrow, Part(scales=True))
    before = float((weight.weight().detach() - target).square().sum())
    train(weight, target, 200, 0.01)
    stored = weight.store()
    assert np.all(stored.zeros == 7)
    assert float((torch.from_numpy(dequantize(stored)) - target).square().sum()) < 0.05 * before
    fixed = FakeQuantized(target, narrow, Part(scales=True, frozen=True))
    train(fixed, target, 20, 0.01)
    assert np.array_equal(fixed.store().zeros, narrow.zeros)


@pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: d.name.lower())
def test_frozen_codes_stay_and_scales_move(dtype: Dtype) -> None:
    w = matrix(13)
    start = quantize_matrix(w.numpy(), Encoding(dtype))
    generator = np.random.default_rng(14)
    codes = generator.permuted(start.codes, axis=1)  # codes that no rounding would give
    start = replace(start, codes=codes)
    target = torch.from_numpy(dequantize(start)) * 0.7
    weight = FakeQuantized(w, start, Part(scales=True, frozen=True))
    np.testing.assert_allclose(weight.weight().detach().numpy(), dequantize(start), atol=1e-5)
    train(weight, target, 100, 0.01)
    stored = weight.store()
    assert np.array_equal(stored.codes, codes)
    np.testing.assert_allclose(dequantize(stored), weight.weight().detach().numpy(), atol=1e-5)
    error = np.square(dequantize(stored) - target.numpy()).sum()
    assert error < 0.05 * np.square(dequantize(start) - target.numpy()).sum()


def test_frozen_codes_cannot_move() -> None:
    w = matrix(15)
    start = quantize_matrix(w.numpy(), Encoding(Dtype.Q4))
    with pytest.raises(InvalidArgumentError, match="frozen codes leave scales"):
        FakeQuantized(w, start, Part(rounding=True, frozen=True))


def test_absent_superblocks_stay_zero() -> None:
    w = matrix(6, 32, 256)
    start = quantize_matrix(w.numpy(), Encoding(Dtype.C4, sparsity=0.5))
    weight = FakeQuantized(w, start, EVERYTHING)
    train(weight, torch.ones_like(w), 5, 0.05)
    values = weight.weight().detach()
    assert np.array_equal(dequantize(weight.store()) == 0, values.numpy() == 0)
    assert float((values == 0).float().mean()) > 0.45


def test_rounding_has_gradient_one_and_float16_no_grid() -> None:
    x = torch.tensor([0.2, 1.7, -3.5], requires_grad=True)
    y = round_through(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [0.0, 2.0, -4.0] and gradient.tolist() == [1.0, 1.0, 1.0]
    w = matrix(7)
    with pytest.raises(InvalidArgumentError, match="f16 has no grid"):
        FakeQuantized(w, quantize_matrix(w.numpy(), Encoding(Dtype.F16)), EVERYTHING)


def test_sign_descent_falls_linearly_to_nothing() -> None:
    p = torch.zeros(2)
    descent = SignDescent([p], 1.0, 4)
    places = []
    for _ in range(4):
        descent.step([torch.tensor([5.0, -0.001])])
        places.append(p.tolist())
    assert places == [[-1.0, 1.0], [-1.75, 1.75], [-2.25, 2.25], [-2.5, 2.5]]
    resumed = torch.tensor([-1.75, 1.75])
    descent = SignDescent([resumed], 1.0, 4)
    descent.skip(2)
    for _ in range(2):
        descent.step([torch.tensor([5.0, -0.001])])
    assert resumed.tolist() == places[-1]
