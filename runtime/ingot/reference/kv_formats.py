# SPDX-License-Identifier: Apache-2.0
"""What the formats of keys and values make of them: f16, kv8, k8v4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError

__all__ = ["hadamard", "rounded"]

F32 = NDArray[np.float32]


def rounded(x: F32, head_size: int, kv: str, *, keys: bool) -> F32:
    """Return keys or values as a session of this format reads them back.

    f16 and exact leave the rounding to the state's type. kv8: int8 with one float16 scale per
    position and head. k8v4: keys so, but of the head turned by the Hadamard matrix (and here turned
    back); values of 4 bits.
    Shapes: x (m, heads * d); result the same, float32.
    Raises: InvalidArgumentError for an unknown format, or k8v4 and d that is no power of two.
    Source: Ashkboos et al. 2024 (arXiv:2404.00456), section 4 for the rotation.
    """
    if kv in ("f16", "exact"):
        return x
    if kv not in ("kv8", "k8v4"):
        raise InvalidArgumentError(f"kv is {kv!r}, expected f16, kv8 or k8v4")
    rows = x.reshape(-1, head_size)
    if kv == "k8v4" and keys:
        turn = hadamard(head_size)
        back: F32 = (_on_grid(rows @ turn, 127) @ turn / head_size).astype(np.float32)
        return back.reshape(x.shape)
    return _on_grid(rows, 7 if kv == "k8v4" else 127).reshape(x.shape)


def hadamard(order: int) -> F32:
    """Return the Hadamard matrix of a power of two, entries 1 and -1, (order, order)."""
    if order < 1 or order & (order - 1):
        raise InvalidArgumentError(f"a Hadamard matrix of order {order}: expected a power of two")
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _on_grid(rows: F32, limit: int) -> F32:
    """Round each row to multiples of its largest magnitude / limit, that step as float16."""
    step = (np.abs(rows).max(axis=1, keepdims=True) / limit).astype(np.float16).astype(np.float32)
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
    codes = np.clip(np.rint(rows * inverse), -limit, limit)
    result: F32 = (codes * step).astype(np.float32)
    return result
