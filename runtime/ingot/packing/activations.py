# SPDX-License-Identifier: Apache-2.0
"""Activations as int8, one float32 scale per 32 k or per token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.format import ACTIVATION_GROUP
from ingot.packing.sizes import round_up

__all__ = ["quantize_activations", "quantize_tokens"]

_SMALLEST = np.float32(1e-30)


def quantize_activations(
    x: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes and scales: q = round_half_even(x * (127 / amax)), scale = amax / 127.

    Shapes: x (m, k) float32; q (m, k rounded up to 32), padding 0; scales (m, that / 32) float32.
    All arithmetic is float32, the reciprocal 127 / amax is taken once per group. A group whose
    amax is below 1e-30 gets scale 0 and codes 0. A group that holds an infinity or NaN gets a
    scale that is not finite and codes 0, so that its products are NaN.
    Source: native/kernels/quantize/quantize.h.
    """
    m, k = x.shape
    width = round_up(k, ACTIVATION_GROUP)
    groups = np.zeros((m, width // ACTIVATION_GROUP, ACTIVATION_GROUP), np.float32)
    groups.reshape(m, width)[:, :k] = x
    codes, scale = _quantize(groups)
    return codes.reshape(m, width), scale


def quantize_tokens(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the same with one group per token, as t2 takes them: q (m, k), scales (m, 1)."""
    codes, scale = _quantize(x[:, None, :])
    return codes[:, 0], scale


def _quantize(groups: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    amax = np.abs(groups).max(axis=2)
    usable = (amax >= _SMALLEST) & np.isfinite(amax)
    inverse = np.zeros_like(amax)
    np.divide(np.float32(127), amax, out=inverse, where=usable)
    scaled = np.zeros_like(groups)
    np.multiply(groups, inverse[:, :, None], out=scaled, where=usable[:, :, None])
    scale = np.where(amax < _SMALLEST, np.float32(0), amax / np.float32(127))
    return np.rint(scaled).astype(np.int8), scale
