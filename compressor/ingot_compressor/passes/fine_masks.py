# SPDX-License-Identifier: Apache-2.0
"""Masks of single weights: any share, or n of m neighbours; stored dense, their bits computed.

No file of ours holds such a mask: weights that go are stored as zeros, which changes what a model
says but not what it takes. The bits that an index would leave are arithmetic and say so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.packing import WEIGHT_FORMATS, Quantized, stored_bytes, zero_code
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.groups import Float
from ingot_compressor.numerics.pruning import (
    Mask,
    NetBits,
    check_n_of_m,
    keep_n_of_m,
    keep_share,
    magnitude_scores,
    n_of_m_bits,
    unstructured_bits,
    wanda_scores,
)
from ingot_compressor.numerics.sparse_gpt import (
    choose_given,
    choose_n_of_m,
    choose_share,
    inverse_factor,
    sparse_gpt,
)
from ingot_compressor.numerics.stored_grid import StoredGrid

__all__ = ["FinePattern", "prune_elements"]

BLOCK = 128
Hessian = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FinePattern:
    """Which single weights go: a `share` of them, or with `kept` all but so many of every `of`.

    `score`: "magnitude", "wanda" (its groups are rows) or "hessian" (what SparseGPT sees). With
    `compensate` the weights that stay make up for the others; with `sweep` codes are chosen in the
    same sweep over the columns, so that errors of both kinds are pushed on together.
    """

    share: float = 0.0
    kept: int = 0
    of: int = 0
    score: str = "hessian"
    compensate: bool = True
    sweep: bool = False

    def bits(self, quantized: Quantized) -> NetBits:
        """Return the bits per weight that codes, scales and an index would take."""
        n, k = quantized.shape
        codes = float(WEIGHT_FORMATS[quantized.dtype].bits)
        scales = 8 * stored_bytes(quantized) / (n * k) - codes
        if self.kept:
            return n_of_m_bits(self.kept, self.of, codes, scales)
        return unstructured_bits(self.share, codes, scales)


def prune_elements(
    w: Float,
    encoding: Encoding,
    pattern: FinePattern,
    hessian: Hessian | None,
    importance: NDArray[np.floating] | None = None,
    threads: int = 1,
) -> tuple[Quantized, Mask]:
    """Return a matrix quantized with zeros where the pattern leaves weights out, and its mask.

    Without a Hessian nothing is made up for, and scores take `importance`, the mean squares of the
    inputs, or magnitudes alone.
    Shapes: w (n, k) float32; hessian (k, k) = E[x x^T]; importance (k,); mask (n, k).
    Raises: InvalidArgumentError for a format without an exact zero, or a pattern that does not fit.
    Source: magnitude; Wanda (arXiv:2306.11695); SparseGPT (arXiv:2301.00774), joint with rounding.
    """
    if pattern.kept:
        check_n_of_m(pattern.kept, pattern.of, w.shape[1])
    squares = importance if hessian is None else np.diagonal(hessian)
    dense = replace(encoding, sparsity=0.0)
    start = quantize_matrix(w, dense, squares, threads)
    _check_zero(start)
    if hessian is None:
        mask = _mask(w, pattern, squares)
        return _with_zeros(quantize_matrix(w * mask, dense, squares, threads), mask), mask
    if pattern.sweep:
        grid = StoredGrid(start)
        _, mask = _swept(w, pattern, hessian, grid)
        return _with_zeros(grid.result(), mask), mask
    if pattern.compensate:
        pruned, mask = _swept(w, pattern, hessian, None)
        w = pruned.astype(np.float32)
    else:
        mask = _mask(w, pattern, squares, hessian)
    return _with_zeros(quantize_matrix(w * mask, dense, squares, threads), mask), mask


def _check_zero(quantized: Quantized) -> None:
    if quantized.codebook.size or quantized.zeros.size:
        raise InvalidArgumentError(
            f"{quantized.dtype.name.lower()} has no zero in every group:"
            " for masks of single weights take f16, q8, q6 or q4"
        )


def _mask(
    w: Float,
    pattern: FinePattern,
    squares: NDArray[np.floating] | None,
    hessian: Hessian | None = None,
) -> Mask:
    if pattern.score == "magnitude" or squares is None:
        scores = magnitude_scores(w)
    elif pattern.score == "wanda" or hessian is None:
        scores = wanda_scores(w, squares)
    else:
        scores = np.square(w / np.diagonal(inverse_factor(hessian)))
    if pattern.kept:
        return keep_n_of_m(scores, pattern.kept, pattern.of)
    return keep_share(scores, pattern.share, by_row=pattern.score == "wanda")


def _swept(
    w: Float, pattern: FinePattern, hessian: Hessian, grid: StoredGrid | None
) -> tuple[NDArray[np.float64], Mask]:
    """Sweep over the columns; SparseGPT's own score is taken when the sweep reaches them."""
    factor, block = inverse_factor(hessian), BLOCK
    if pattern.score != "hessian":
        choose = choose_given(_mask(w, pattern, np.diagonal(hessian)))
    elif pattern.kept:
        choose, block = choose_n_of_m(pattern.kept, pattern.of), pattern.of
    else:
        choose = choose_share(pattern.share)
    return sparse_gpt(w, factor, choose, block, None if grid is None else grid.round)


def _with_zeros(quantized: Quantized, mask: Mask) -> Quantized:
    zero = quantized.codes.dtype.type(zero_code(quantized))
    return replace(quantized, codes=np.where(mask, quantized.codes, zero))
