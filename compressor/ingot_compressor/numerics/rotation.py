# SPDX-License-Identifier: Apache-2.0
"""Random orthogonal rotations that cost a matrix nothing: blocks of Hadamard after random signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot_compressor.numerics.groups import Float

__all__ = [
    "Rotation",
    "block_size",
    "hadamard",
    "make_rotation",
    "rotate",
    "tile_heads",
    "unrotate",
]

MOST_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Rotation:
    """The matrix Q = diag(signs) blockdiag(H, ..., H), H the orthonormal Hadamard of `block`.

    Shapes: signs (k,) float32 of -1 and 1; `block` is a power of two that divides k.
    """

    signs: Float
    block: int


def block_size(width: int, most: int = MOST_BLOCK) -> int:
    """Return the largest power of two that divides `width`, at most `most`.

    Raises: ValueError for a width or limit below 1.
    """
    if width < 1 or most < 1:
        raise ValueError(f"width {width} and limit {most} must be positive")
    return min(width & -width, 1 << (most.bit_length() - 1))


def make_rotation(width: int, seed: int | tuple[int, ...], most: int = MOST_BLOCK) -> Rotation:
    """Return the rotation of a width: the same one for the same seed.

    Source: QuaRot (Ashkboos et al. 2024, arXiv:2404.00456), randomized Hadamard; blocks of 128 as
    in EXL3, so that any width has one.
    """
    bits = np.random.default_rng(seed).integers(0, 2, width)
    return Rotation((1 - 2 * bits).astype(np.float32), block_size(width, most))


def tile_heads(rotation: Rotation, heads: int, shared: int) -> Rotation:
    """Return the rotation of `heads * shared` heads whose keys and values serve `shared` in a row.

    Shapes: signs (heads * d,) -> (heads * shared * d,).
    """
    signs = np.repeat(rotation.signs.reshape(heads, -1), shared, axis=0)
    return Rotation(signs.ravel(), rotation.block)


def hadamard(x: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Multiply each `block` elements of the last axis by the orthonormal Hadamard matrix.

    It is its own inverse.
    Shapes: x (..., k), k a multiple of block; result alike.
    Raises: ValueError if block is no power of two or does not divide k.
    Cost: O(size * log2(block)).
    """
    k = x.shape[-1]
    if block < 1 or block & (block - 1) or k % block:
        raise ValueError(f"block {block} must be a power of two that divides {k}")
    y = x.reshape(-1, block)
    half = 1
    while half < block:
        pairs = y.reshape(len(y), -1, 2, half)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        y = np.stack([a + b, a - b], axis=2).reshape(len(y), block)
        half *= 2
    turned: NDArray[np.float64] = (y / np.sqrt(block)).reshape(x.shape)
    return turned


def rotate(x: Float, rotation: Rotation) -> Float:
    """Return x Q, computed in float64.

    Shapes: x (..., k) float32; result alike.
    """
    signed = x.astype(np.float64) * rotation.signs
    return hadamard(signed, rotation.block).astype(np.float32)


def unrotate(x: Float, rotation: Rotation) -> Float:
    """Return x Q^T, the inverse of `rotate`.

    Shapes: x (..., k) float32; result alike.
    """
    turned = hadamard(x.astype(np.float64), rotation.block)
    return (turned * rotation.signs).astype(np.float32)
