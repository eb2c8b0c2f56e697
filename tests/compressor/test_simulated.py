# SPDX-License-Identifier: Apache-2.0
"""Grids without packing against PyTorch's casts, published levels, and brute force."""

from __future__ import annotations

import itertools
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot_compressor.numerics.half_quadratic import half_quadratic, shrink
from ingot_compressor.numerics.simulated import (
    NF4_LEVELS,
    PER_ROW,
    PER_TENSOR,
    dynamic_levels,
    nearest_level,
    round_asymmetric,
    round_fp8,
    round_half_quadratic,
    round_mxfp4,
    round_nf4,
    round_nvfp4,
    round_symmetric,
    simulated_grids,
)
from ingot_compressor.numerics.small_floats import nearest_e2m1, nearest_e4m3, power_below

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
Array = NDArray[np.float32]


def matrix(n: int = 6, k: int = 70, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    return (generator.standard_t(4, (n, k)) * 0.05).astype(np.float32)


def brute_force(x: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest level of each element, by looking at all of them."""
    return np.asarray(levels[np.abs(x[..., None] - levels).argmin(axis=-1)])


def test_e4m3_is_pytorch_s() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    every = every[torch.isfinite(every)].numpy().astype(np.float64)
    assert np.array_equal(nearest_e4m3(every), every)
    between = np.sort(every)
    ties = (between[1:] + between[:-1]) / 2
    spread = np.random.default_rng(0).uniform(-450, 450, 20000)
    small = np.random.default_rng(1).uniform(-0.05, 0.05, 20000)
    for x in (ties, spread, small):
        clipped = torch.from_numpy(x).clamp(-448, 448)
        expected = clipped.to(torch.float8_e4m3fn).to(torch.float64).numpy()
        assert np.array_equal(nearest_e4m3(x), expected)
    assert nearest_e4m3(np.array([1e9, -1e9])).tolist() == [448, -448]


def test_e2m1_is_the_nearest_of_its_table() -> None:
    levels = np.array([*(-x for x in E2M1[:0:-1]), *E2M1])
    x = np.random.default_rng(0).uniform(-8, 8, 10000)
    assert np.array_equal(nearest_e2m1(x), brute_force(x, levels))
    # halfway goes to the level whose fraction bit is 0
    halves = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    assert nearest_e2m1(halves).tolist() == [0, 1, 1, 2, 2, 4, 4]
    assert nearest_e2m1(-halves).tolist() == [0, -1, -1, -2, -2, -4, -4]


def test_powers_of_two() -> None:
    x = np.array([1.0, 0.999, 2.0, 3.99, 0.0, 2.0**-140])
    assert power_below(x).tolist() == [1, 0.5, 2, 2, 2.0**-127, 2.0**-127]


@pytest.mark.parametrize("group", [PER_TENSOR, PER_ROW, 32])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_symmetric_rounding_is_the_nearest_multiple(group: int, bits: int) -> None:
    w = matrix()
    found = round_symmetric(w, bits, group)
    top = 2 ** (bits - 1) - 1
    for part, got in pieces(w, found, group):
        largest = float(np.abs(part).max())
        step = np.float32(largest / top) if group == PER_TENSOR else np.float16(largest / top)
        levels = np.arange(-top, top + 1) * float(step)
        assert np.allclose(got, brute_force(part.astype(np.float64), levels), rtol=1e-6, atol=0)


@pytest.mark.parametrize("group", [PER_TENSOR, PER_ROW, 32])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_asymmetric_rounding_is_the_nearest_of_its_range(group: int, bits: int) -> None:
    w = matrix() + np.float32(0.03)
    found = round_asymmetric(w, bits, group)
    for part, got in pieces(w, found, group):
        low, high = min(float(part.min()), 0), max(float(part.max()), 0)
        step = (high - low) / (2**bits - 1)
        step = float(np.float32(step) if group == PER_TENSOR else np.float16(step))
        zero = round(-low / step)
        levels = (np.arange(2**bits) - zero) * step
        assert np.allclose(got, brute_force(part.astype(np.float64), levels), rtol=1e-6, atol=0)
        assert np.abs(got - part).max() <= 1.01 * step


def pieces(w: Array, found: Array, group: int) -> list[tuple[Array, Array]]:
    """Return pairs of what shares a scale, a short last group with the zeros it is filled with."""
    if group == PER_TENSOR:
        return [(w.ravel(), found.ravel())]
    if group == PER_ROW:
        return list(zip(w, found, strict=True))
    return [
        (w[row, first : first + group], found[row, first : first + group])
        for row, first in itertools.product(range(len(w)), range(0, w.shape[1], group))
    ]


def test_nf4_levels_are_the_normal_distribution_s() -> None:
    """The construction of QLoRA: 8 quantiles above zero, 7 below, zero exact, scaled to 1."""
    offset = 0.9677083
    inverse = NormalDist().inv_cdf
    above = [inverse(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-inverse(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*above, 0.0, *below])) / max(above)
    assert np.allclose(levels, NF4_LEVELS, atol=1e-6)


def test_dynamic_code_has_its_256_values() -> None:
    levels = dynamic_levels()
    assert len(np.unique(levels)) == 256
    assert levels.max() == 1 and np.isclose(levels.min(), -0.99296875)
    top = levels[(levels > 0.1) & (levels < 1)]
    assert len(top) == 64 and np.allclose(np.diff(top), 0.9 / 64)
    assert np.isclose(levels[levels > 0].min(), 0.55e-6)


def test_nf4_with_double_quantization_element_by_element() -> None:
    w = matrix(40, 640, 4)
    w[0, :64] = 0
    found = round_nf4(w)
    groups = [w[row, at : at + 64] for row in range(40) for at in range(0, 640, 64)]
    largest = np.array([np.abs(x).max() for x in groups], np.float64)
    mean = float(np.float32(largest.mean()))
    levels, code = np.array(NF4_LEVELS), dynamic_levels()
    for block in range(0, 400, 256):
        apart = largest[block : block + 256] - mean
        most = float(np.float32(np.abs(apart).max()))
        for index, difference in enumerate(apart, block):
            scale = float(code[np.abs(code - difference / most).argmin()]) * most + mean
            row, at = divmod(index, 10)
            got = found[row, 64 * at : 64 * at + 64]
            expected = brute_force(groups[index] / scale, levels) * scale
            assert np.allclose(got, expected, rtol=1e-5, atol=1e-9)
    assert not found[0, :64].any()


def test_nearest_level_is_brute_force() -> None:
    x = np.random.default_rng(0).normal(size=5000)
    for levels in (np.array(NF4_LEVELS), dynamic_levels()):
        assert np.array_equal(nearest_level(x, levels), brute_force(x, levels))


def test_fp8_rows_use_the_whole_range() -> None:
    w = matrix()
    w[2] = 0
    found = round_fp8(w)
    for row, got in zip(torch.from_numpy(w), found, strict=True):
        scale = (row.abs().max().double() / 448).float() if row.any() else torch.tensor(1.0)
        cast = (row.double() / scale.double()).to(torch.float8_e4m3fn).double() * scale.double()
        assert np.allclose(got, cast.numpy(), rtol=1e-6, atol=0)
    assert np.allclose(np.abs(found).max(axis=1), np.abs(w).max(axis=1), rtol=1e-6)


def test_nvfp4_element_by_element() -> None:
    w = matrix(6, 70, 3)
    w[1, 16:32] = 0
    found = round_nvfp4(w)
    levels = np.array([*(-x for x in E2M1[:0:-1]), *E2M1])
    whole = float(np.float32(float(np.abs(w).max()) / (448 * 6)))
    for part, got in pieces(w, found, 16):
        wanted = torch.tensor(float(np.abs(part).max()) / 6 / whole, dtype=torch.float64)
        scale = float(wanted.to(torch.float8_e4m3fn).double()) * whole
        expected = brute_force(part / scale, levels) * scale if scale else np.zeros(len(part))
        assert np.allclose(got, expected, rtol=1e-6, atol=0)


def test_mxfp4_element_by_element() -> None:
    w = matrix(6, 70, 3)
    w[1, 32:64] = 0
    found = round_mxfp4(w)
    levels = np.array([*(-x for x in E2M1[:0:-1]), *E2M1])
    saturated = 0
    for part, got in pieces(w, found, 32):
        largest = float(np.abs(part).max())
        scale = 2.0 ** (np.floor(np.log2(largest)) - 2) if largest else 1.0
        assert np.allclose(got, brute_force(part / scale, levels) * scale, rtol=1e-6, atol=0)
        saturated += largest > 6 * scale
    assert saturated > 0


def test_shrink_is_the_minimum_of_its_objective() -> None:
    """With power 1 it minimizes |e| + beta / 2 * (e - x)^2, by a scan of e."""
    e = np.linspace(-3, 3, 60001)
    for x in (-2.0, -0.04, 0.0, 0.3, 1.7):
        best = e[(np.abs(e) + 5.0 * (e - x) ** 2).argmin()]
        assert np.isclose(shrink(np.array(x), 10.0, 1.0), best, atol=1e-3)
    # a power below 1 pulls small values harder and large ones less
    assert shrink(np.array(0.1), 10.0, 0.7) < shrink(np.array(0.1), 10.0, 1.0) + 1e-12
    assert shrink(np.array(2.0), 10.0, 0.7) > shrink(np.array(2.0), 10.0, 1.0)


def plain_range(w: Array, bits: int) -> Array:
    """Round to the range of each group with a float16 step and zero point."""
    top = 2**bits - 1
    low, high = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    step = ((high - low) / top).astype(np.float16).astype(np.float64)
    zero = (-low / step).astype(np.float16).astype(np.float64)
    return ((np.clip(np.rint(w / step + zero), 0, top) - zero) * step).astype(np.float32)


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_half_quadratic_is_the_published_loop(bits: int, size: float) -> None:
    """One group at a time in plain Python, with the best zero point of its steps.

    The sparse part is empty for errors below 0.17, as those of small weights are.
    """
    w = matrix(40, 32, 8) * np.float32(size)
    top = 2**bits - 1
    found = half_quadratic(w, bits)
    for row, got in zip(w.astype(np.float64), found, strict=True):
        step = float(np.float16((row.max() - row.min()) / top))
        zero, beta, tried = -row.min() / step, 10.0, []
        for _ in range(21):
            kept = float(np.float16(zero))
            codes = np.array([min(max(round(x / step + kept), 0), top) for x in row])
            values = (codes - kept) * step
            error = row - values
            tried.append((float((np.abs(error) ** 0.7).sum()), values))
            sparse = np.array(
                [np.sign(x) * max(abs(x) - abs(x) ** -0.3 / beta, 0) if x else 0.0 for x in error]
            )
            zero = float((codes - (row - sparse) / step).mean())
            beta *= 1.01
        expected = min(tried, key=lambda pair: pair[0])[1]
        assert np.allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_half_quadratic_lowers_the_error_of_plain_rounding() -> None:
    w = matrix(500, 64, 5)
    errors = [
        (np.abs(found - w) ** 0.7).sum(axis=1)
        for found in (half_quadratic(w, 3), plain_range(w, 3))
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < 0.99 * errors[1].sum()
    even = half_quadratic(np.full((1, 32), 0.25, np.float32), 4)
    assert np.allclose(even, 0.25, rtol=1e-3)
    whole = round_half_quadratic(matrix(3, 70), 4, 32)
    assert whole.shape == (3, 70)
    assert np.array_equal(whole[:, :32], half_quadratic(matrix(3, 70)[:, :32].copy(), 4))


def test_grids_say_that_they_are_not_packed_and_what_they_store() -> None:
    grids = simulated_grids()
    assert {grid.label for grid in grids.values()} == {"not packed"}
    n, k = 512, 1024
    expected = {
        "int4_symmetric_g32": 4.5,
        "int4_asymmetric_g32": 4.625,
        "int8_symmetric_row": 8 + 16 / k,
        "int3_asymmetric_tensor": 3 + 35 / (n * k),
        "hqq4_g64": 4.5,
        "hqq3_g32": 4.0,
        "nf4_double": 4 + 8 / 64 + 32 / (64 * 256) + 32 / (n * k),
        "fp8_e4m3_row": 8 + 32 / k,
        "nvfp4": 4.5 + 32 / (n * k),
        "mxfp4": 4.25,
    }
    for name, bits in expected.items():
        assert np.isclose(grids[name].bits(n, k), bits), name
    # a last group that is not full costs its padding
    assert np.isclose(grids["mxfp4"].bits(1, 33), (64 * 4 + 16) / 33)
    w = matrix(8, 64)
    for name, grid in grids.items():
        found = grid.function(w)
        assert found.shape == w.shape and found.dtype == np.float32, name
        assert np.square(found - w).sum() < 0.5 * np.square(w).sum(), name
        assert len(np.unique(found[0])) <= 256, name
        assert not np.array_equal(found, w), name


def test_zeros_stay_zeros_and_grids_are_idempotent() -> None:
    w = matrix(4, 64)
    for name, grid in simulated_grids().items():
        assert not grid.function(np.zeros((3, 40), np.float32)).any(), name
        if "hqq" not in name and name != "nf4_double":
            once = grid.function(w)
            assert np.allclose(grid.function(once), once, rtol=2e-3, atol=1e-4), name
