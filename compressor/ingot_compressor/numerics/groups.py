# SPDX-License-Identifier: Apache-2.0
"""Rows cut into groups that share a scale, and how much each element of them matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "column_importance",
    "element_importance",
    "for_row_blocks",
    "group_extremes",
    "round_to_half",
    "split_groups",
]

# A block of this many elements keeps the temporaries of a search in the second-level cache.
BLOCK_ELEMENTS = 1 << 16
# A column that calibration never saw still counts a little: its weights must not become anything.
LEAST_IMPORTANCE = 1e-4
# Below this no float16 scale can hold the group: it is stored as zeros.
TINY = 1e-12

Float = NDArray[np.float32]


def column_importance(importance: NDArray[np.floating] | None, k: int) -> Float:
    """Return importance scaled to mean 1 and kept away from zero; ones where there is none.

    Shapes: importance (k,) mean squares of the input columns, or None; result (k,) float32.
    Raises: ValueError if the shape differs or a value is negative or not finite.
    """
    if importance is None:
        return np.ones(k, np.float32)
    h = np.asarray(importance, np.float64)
    if h.shape != (k,):
        raise ValueError(f"importance has shape {h.shape}, the matrix has {k} columns")
    if not np.all(np.isfinite(h)) or bool((h < 0).any()):
        raise ValueError("importance must be finite and not negative")
    mean = float(h.mean())
    if mean <= 0.0:
        return np.ones(k, np.float32)
    return np.maximum(h / mean, LEAST_IMPORTANCE).astype(np.float32)


def element_importance(w: Float, h: Float) -> Float:
    """Return h_j * sqrt(sigma^2 + w^2) with sigma^2 the row's mean square.

    Shapes: w (n, k); h (k,); result (n, k) float32.
    Source: the weighting of llama.cpp's K-quants (importance matrix).
    """
    square = w * w
    sigma = square.mean(axis=1, keepdims=True)
    weights: Float = np.sqrt(square + sigma) * h
    return weights


def split_groups(x: Float, g: int) -> Float:
    """Return rows as groups, the last group of a row filled with zeros.

    Shapes: x (n, k); result (n * ceil(k / g), g).
    """
    n, k = x.shape
    missing = -k % g
    if missing:
        x = np.pad(x, ((0, 0), (0, missing)))
    return np.ascontiguousarray(x).reshape(n * ((k + missing) // g), g)


def group_extremes(w: Float) -> Float:
    """Return the element of largest magnitude of each group, with its sign; 0 for vanishing groups.

    Shapes: w (groups, g); result (groups,).
    """
    high, low = w.max(axis=1), w.min(axis=1)
    extreme = np.where(high >= -low, high, low)
    return np.where(np.abs(extreme) < TINY, np.float32(0), extreme)


def round_to_half(x: NDArray[np.floating]) -> Float:
    """Return float32 values as float16 stores them, saturated at its largest number."""
    half = np.clip(x, -65504.0, 65504.0).astype(np.float16)
    result: Float = half.astype(np.float32)
    return result


def _blocks(n: int, k: int) -> Iterator[slice]:
    rows = max(1, BLOCK_ELEMENTS // max(k, 1))
    for first in range(0, n, rows):
        yield slice(first, min(first + rows, n))


def for_row_blocks(n: int, k: int, encode: Callable[[slice], None], threads: int = 1) -> None:
    """Call encode for each block of rows; NumPy releases the interpreter lock: threads help."""
    if threads <= 1:
        for rows in _blocks(n, k):
            encode(rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(encode, _blocks(n, k)):
            pass
