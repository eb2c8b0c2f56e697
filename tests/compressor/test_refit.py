# SPDX-License-Identifier: Apache-2.0
"""Refitted scales against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingot.format import Dtype
from ingot.packing import dequantize
from ingot_compressor.numerics.gptq import GptqOptions, gptq
from ingot_compressor.numerics.levels import levels_of
from ingot_compressor.numerics.refit import refit_scales
from tests.compressor.hessian_cases import FORMATS, error, hessian_of, start_of, weight


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_scales_that_are_off_are_found_again(dtype: Dtype, group: int) -> None:
    w, hessian = weight(16, 160), hessian_of(160)
    start = start_of(w, dtype, group, hessian)
    good = error(w, dequantize(start), hessian)
    for name in ("scales", "row_scales"):
        getattr(start, name)[:] *= 1.1
    bad = error(w, dequantize(start), hessian)
    levels, kind = levels_of(start), start.codes.dtype
    positions = torch.from_numpy(np.searchsorted(levels.codes, start.codes).T.astype(np.uint8))
    assert np.array_equal(levels.codes[positions.numpy().T].astype(kind), start.codes)
    aims = torch.from_numpy(w.T.copy())
    fitted, values = refit_scales(aims, levels, positions, hessian)
    found = error(w, values.numpy().T, hessian)
    assert found < 0.2 * bad + good and found < 0.9 * bad
    half = fitted.scale.half().float()
    assert dtype is Dtype.T2 or torch.equal(half, fitted.scale)
    assert torch.equal(fitted.multiplier, fitted.multiplier.round())
    again, same = refit_scales(aims, fitted, positions, hessian)
    assert error(w, same.numpy().T, hessian) <= found * (1 + 1e-6)
    assert torch.equal(fitted.offset, again.offset)


@pytest.mark.parametrize("dtype", [d for d, g in FORMATS if g in (0, 32)])
def test_refitted_scales_lower_the_error(dtype: Dtype) -> None:
    w, hessian = weight(16, 96), hessian_of(96)
    start = start_of(w, dtype, 32, hessian)
    plain = gptq(w, hessian, start, GptqOptions())
    fitted = gptq(w, hessian, start, GptqOptions(refit=True))
    assert fitted.error_after < plain.error_after


def test_group_scale_is_the_closed_form_in_half() -> None:
    """One group: s = c H w / c H c, the stored number nearest to it."""
    w, hessian = weight(6, 32), hessian_of(32)
    start = start_of(w, Dtype.Q4, 32, hessian)
    plain = gptq(w, hessian, start)
    fitted = gptq(w, hessian, start, GptqOptions(refit=True))
    c, h = plain.quantized.codes.astype(np.float64) - 8, hessian.double().numpy()
    want = np.einsum("ij,jk,ik->i", c, h, w) / np.einsum("ij,jk,ik->i", c, h, c)
    np.testing.assert_allclose(fitted.quantized.scales[:, 0], want, rtol=2**-10)


def test_row_scale_alone_is_the_closed_form() -> None:
    """t2 has nothing but a row scale: codes c give s = c H w / c H c."""
    w, hessian = weight(5, 40), hessian_of(40)
    start = start_of(w, Dtype.T2, 0, hessian)
    plain = gptq(w, hessian, start)
    fitted = gptq(w, hessian, start, GptqOptions(refit=True))
    c = plain.quantized.codes.astype(np.float64) - 1
    h = hessian.double().numpy()
    want = np.einsum("ij,jk,ik->i", c, h, w) / np.einsum("ij,jk,ik->i", c, h, c)
    np.testing.assert_allclose(fitted.quantized.row_scales, want, rtol=1e-4)
