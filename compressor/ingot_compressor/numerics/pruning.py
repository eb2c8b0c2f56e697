# SPDX-License-Identifier: Apache-2.0
"""Which weights to leave out, by pattern, and what each pattern costs to store.

Masks are True where a weight stays. Only masks of superblocks (16 rows x some k) have a stored form
(`Quantized.present`); what the finer patterns would take is computed, to compare with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import TILE_ROWS, Layout
from ingot.packing import Quantized, geometry, stored_bytes
from ingot.packing.sizes import list_bytes

__all__ = [
    "COMPUTED",
    "STORED",
    "Mask",
    "NetBits",
    "check_n_of_m",
    "check_share",
    "keep_n_of_m",
    "keep_share",
    "keep_superblocks",
    "magnitude_scores",
    "n_of_m_bits",
    "stored_bits",
    "superblock_mask",
    "superblock_power",
    "superblock_saliency",
    "superblock_width",
    "unstructured_bits",
    "wanda_scores",
    "with_superblocks",
]

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
STORED = "stored"
COMPUTED = "computed, not stored"


def magnitude_scores(w: Array) -> NDArray[np.float64]:
    """Return |w|. Shapes: w (n, k); result the same."""
    return np.abs(np.asarray(w, np.float64))


def wanda_scores(w: Array, mean_squares: Array) -> NDArray[np.float64]:
    """Return |w_ij| * sqrt(E[x_j^2]): what the output of a row loses with the weight alone.

    Shapes: w (n, k); mean_squares (k,) of the input columns; result (n, k).
    Raises: InvalidArgumentError if they are not k finite numbers from 0 on.
    Source: Sun et al. 2023, Wanda (arXiv:2306.11695), equation 1; its comparison group is a row.
    """
    h = np.asarray(mean_squares, np.float64)
    if h.shape != w.shape[1:]:
        raise InvalidArgumentError(f"mean squares {h.shape} for a matrix {w.shape}")
    if not np.isfinite(h).all() or bool((h < 0).any()):
        raise InvalidArgumentError("mean squares must be finite and not negative")
    return magnitude_scores(w) * np.sqrt(h)


def keep_share(scores: Array, share: float, by_row: bool = True) -> Mask:
    """Drop the share with the least scores, of each row or of the whole matrix.

    Shapes: scores (n, k); result the same. Of equal scores the first go.
    Raises: InvalidArgumentError for a share outside 0 to below 1.
    """
    check_share(share)
    groups = scores if by_row else scores.reshape(1, -1)
    mask = np.ones(groups.shape, np.bool_)
    order = np.argsort(groups, axis=1, kind="stable")
    np.put_along_axis(mask, order[:, : int(share * groups.shape[1])], False, axis=1)
    return mask.reshape(scores.shape)


def keep_n_of_m(scores: Array, kept: int, of: int) -> Mask:
    """Keep the `kept` highest scores of every `of` neighbours along k: 2:4, 4:8, ...

    Shapes: scores (n, k), k a multiple of `of`; result the same.
    Raises: InvalidArgumentError for another k or a pattern that keeps nothing.
    """
    n, k = scores.shape
    check_n_of_m(kept, of, k)
    order = np.argsort(scores.reshape(-1, of), axis=1, kind="stable")
    mask = np.ones(order.shape, np.bool_)
    np.put_along_axis(mask, order[:, : of - kept], False, axis=1)
    return mask.reshape(n, k)


def check_share(share: float) -> None:
    """Raises: InvalidArgumentError for a share outside 0 to below 1."""
    if not 0 <= share < 1:
        raise InvalidArgumentError(f"the share to drop is {share:g}, expected 0 to below 1")


def check_n_of_m(kept: int, of: int, k: int) -> None:
    """Raises: InvalidArgumentError for a pattern that keeps nothing or does not divide k."""
    if not 1 <= kept <= of:
        raise InvalidArgumentError(f"pattern {kept}:{of} keeps nothing, or more than there is")
    if k % of:
        raise InvalidArgumentError(f"pattern {kept}:{of} does not divide {k} columns")


# Superblocks


def superblock_width(dtype: int, group: int) -> int:
    """Return the k of one superblock of a format."""
    form = geometry(dtype, group)
    return form.group * form.groups_per_superblock


def superblock_power(scores: Array, width: int) -> NDArray[np.float64]:
    """Return the sum of squared scores of each superblock.

    With Wanda's scores that is the error its own rows see if inputs are uncorrelated.
    Shapes: scores (n, k); result (ceil(n / 16), ceil(k / width)).
    """
    blocks = _superblocks(np.square(np.asarray(scores, np.float64)), width)
    power: NDArray[np.float64] = blocks.sum(axis=(1, 3))
    return power


def superblock_saliency(w: Array, inverse: Array, width: int) -> NDArray[np.float64]:
    """Return the error of leaving out each superblock alone, all other weights refitted.

    That is the sum over its rows of w_B ([H^-1]_BB)^-1 w_B, in units of H.
    Shapes: w (n, k); inverse (k, k), the inverse of a damped H = E[x x^T]; result (tiles, blocks).
    Raises: InvalidArgumentError if the inverse does not fit.
    Source: Hassibi and Stork 1993, Optimal Brain Surgeon, for a block of weights at once.
    Cost: O(k width^2) once + O(n k width).
    """
    n, k = w.shape
    if inverse.shape != (k, k):
        raise InvalidArgumentError(f"an inverse Hessian {inverse.shape} for a matrix {w.shape}")
    rows = np.zeros((_tiles(n) * TILE_ROWS, -(-k // width)))
    for block, first in enumerate(range(0, k, width)):
        columns = slice(first, min(first + width, k))
        part = np.asarray(w[:, columns], np.float64)
        solved = np.linalg.solve(inverse[columns, columns].astype(np.float64), part.T)
        rows[:n, block] = np.einsum("ij,ji->i", part, solved)
    saliency: NDArray[np.float64] = rows.reshape(_tiles(n), TILE_ROWS, -1).sum(axis=1)
    return saliency


def keep_superblocks(power: Array, share: float, by_tile: bool = False) -> Mask:
    """Drop the share of superblocks with the least power, of the matrix or of each 16 rows.

    Shapes: power (tiles, blocks); result the same, as `Quantized.present`.
    """
    return keep_share(power, share, by_row=by_tile)


def superblock_mask(present: Mask, shape: tuple[int, int], width: int) -> Mask:
    """Return which elements lie in superblocks that stay. Shapes: result `shape`."""
    n, k = shape
    if present.shape != (_tiles(n), -(-k // width)):
        raise InvalidArgumentError(f"a mask {present.shape} of superblocks for a matrix {shape}")
    rows = np.repeat(present, TILE_ROWS, axis=0)[:n]
    mask: Mask = np.repeat(rows, width, axis=1)[:, :k]
    return mask


def with_superblocks(quantized: Quantized, present: Mask) -> Quantized:
    """Return the matrix without the superblocks that are not present; in T16, the sparse layout.

    Raises: InvalidArgumentError for a mask of another shape.
    """
    return replace(quantized, present=present, layout=Layout.T16)


def _tiles(n: int) -> int:
    return -(-n // TILE_ROWS)


def _superblocks(x: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return (n, k) as (tiles, 16, blocks, width), zeros where there is nothing."""
    n, k = x.shape
    blocks = -(-k // width)
    padded = np.zeros((_tiles(n) * TILE_ROWS, blocks * width))
    padded[:n, :k] = x
    return padded.reshape(_tiles(n), TILE_ROWS, blocks, width)


# What a pattern costs


@dataclass(frozen=True, slots=True)
class NetBits:
    """Bits per weight of the matrix, dropped ones counted: codes, scales and the index.

    `status`: whether files hold it, or the figure is arithmetic.
    """

    pattern: str
    codes: float
    scales: float
    index: float
    status: str

    @property
    def total(self) -> float:
        """Codes, scales and index together."""
        return self.codes + self.scales + self.index


def unstructured_bits(share: float, bits: float, scale_bits: float = 0.0) -> NetBits:
    """Return the cost of any mask as one bit a weight. `scale_bits` per weight that stays."""
    check_share(share)
    kept = 1 - share
    return NetBits(f"unstructured {share:.0%}", kept * bits, kept * scale_bits, 1.0, COMPUTED)


def n_of_m_bits(kept: int, of: int, bits: float, scale_bits: float = 0.0) -> NetBits:
    """Return the cost of n:m with the cheapest plain index: one bit a weight or a position each.

    2:4 has two positions of 2 bits in 4 weights, as GPUs read it: 1 bit a weight.
    """
    check_n_of_m(kept, of, of)
    positions = kept * math.ceil(math.log2(of)) if of > 1 else 0
    share = kept / of
    index = min(of, positions) / of
    return NetBits(f"{kept}:{of}", share * bits, share * scale_bits, index, COMPUTED)


def stored_bits(quantized: Quantized) -> NetBits:
    """Return what a matrix takes as stored; its list of superblocks is the index.

    Codes and scales lie together in a superblock and count as codes.
    """
    n, k = quantized.shape
    total = 8 * stored_bytes(quantized) / (n * k)
    if not quantized.present.size:
        return NetBits("dense", total, 0.0, 0.0, STORED)
    index = 8 * sum(list_bytes(int(row.sum())) for row in quantized.present) / (n * k)
    share = 1 - float(quantized.present.mean())
    return NetBits(f"superblocks {share:.0%}", total - index, 0.0, index, STORED)
