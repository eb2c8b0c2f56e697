# SPDX-License-Identifier: Apache-2.0
"""Ops that treat every element, or every slice of a row, by itself. float64 inside, float32 out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import ActivationKind

__all__ = [
    "activation",
    "add",
    "gelu_tanh",
    "layer_norm",
    "mul",
    "relu",
    "rms_norm",
    "scale",
    "silu",
    "soft_cap",
]

F32 = NDArray[np.float32]


def _slices(x: F32, width: int) -> NDArray[np.float64]:
    """View each row as slices of `width`: (m, slices, width), float64."""
    return x.astype(np.float64).reshape(x.shape[0], -1, width)


def rms_norm(x: F32, weight: F32, epsilon: float) -> F32:
    """Return x / sqrt(mean(x^2) + epsilon) * weight, for each slice of the weight's width.

    Shapes: x (m, s * w); weight (w,); result as x.
    Source: Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4.
    """
    slices = _slices(x, weight.size)
    mean_square = np.mean(slices**2, axis=2, keepdims=True)
    normal = slices / np.sqrt(mean_square + epsilon)
    return np.asarray((normal * weight).reshape(x.shape), np.float32)


def layer_norm(x: F32, weight: F32, bias: F32, epsilon: float) -> F32:
    """Return (x - mean) / sqrt(variance + epsilon) * weight + bias, for each slice.

    Shapes: x (m, s * w); weight and bias (w,); result as x. The variance divides by w.
    Source: Ba et al. 2016 (arXiv:1607.06450), section 3.
    """
    slices = _slices(x, weight.size)
    centred = slices - np.mean(slices, axis=2, keepdims=True)
    variance = np.mean(centred**2, axis=2, keepdims=True)
    normal = centred / np.sqrt(variance + epsilon)
    return np.asarray((normal * weight + bias).reshape(x.shape), np.float32)


def silu(x: F32) -> F32:
    """Return x / (1 + exp(-x))."""
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return (wide / (1.0 + np.exp(-wide))).astype(np.float32)


def gelu_tanh(x: F32) -> F32:
    """Return 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    wide = x.astype(np.float64)
    inner = np.sqrt(2.0 / np.pi) * (wide + 0.044715 * wide**3)
    return np.asarray(0.5 * wide * (1.0 + np.tanh(inner)), np.float32)


def relu(x: F32) -> F32:
    """Return max(x, 0)."""
    return np.maximum(x, np.float32(0))


def activation(x: F32, kind: int) -> F32:
    """Apply the function of that ActivationKind.

    Raises: InvalidArgumentError for a kind that this version does not have.
    """
    functions = {
        ActivationKind.SILU: silu,
        ActivationKind.GELU_TANH: gelu_tanh,
        ActivationKind.RELU: relu,
    }
    if kind not in functions:
        raise InvalidArgumentError(f"activation kind {kind}, expected one of {list(functions)}")
    return functions[ActivationKind(kind)](x)


def add(a: F32, b: F32) -> F32:
    """Return a + b."""
    return a + b


def mul(a: F32, b: F32) -> F32:
    """Return a * b."""
    return a * b


def scale(x: F32, factor: float) -> F32:
    """Return factor * x."""
    return x * np.float32(factor)


def soft_cap(x: F32, cap: float) -> F32:
    """Return cap * tanh(x / cap)."""
    wide = cap * np.tanh(x.astype(np.float64) / cap)
    return np.asarray(wide, np.float32)
