# SPDX-License-Identifier: Apache-2.0
"""Pruning with the input's second moments: what is left makes up for what is left out.

H = E[x x^T] of the inputs of a matrix, (k, k). The error of a replacement V of W is
tr((W - V) H (W - V)^T), the mean squared error of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot_compressor.numerics.pruning import Mask, check_n_of_m, keep_n_of_m, keep_share

__all__ = [
    "Chooser",
    "Rounding",
    "choose_given",
    "choose_n_of_m",
    "choose_share",
    "damped",
    "inverse_factor",
    "output_error",
    "refit",
    "refit_matrix",
    "sparse_gpt",
]

Array = NDArray[np.floating]
Double = NDArray[np.float64]
# First column, the block's weights as they are by now (n, b), their saliencies (n, b) -> mask.
Chooser: TypeAlias = Callable[[int, Double, Double], Mask]
# Column of the matrix, its values as they are by now (n,) -> the values that will be stored (n,).
Rounding: TypeAlias = Callable[[int, Double], Array]
DAMPING = 0.01


def damped(hessian: Array, damping: float = DAMPING) -> Double:
    """Return H + damping * mean(diag H) * I, with ones for columns that no input ever reached.

    Shapes: hessian (k, k), symmetric; result the same.
    Raises: InvalidArgumentError if it is not square and finite, or damping is negative.
    Source: Frantar and Alistarh 2023, SparseGPT (arXiv:2301.00774), section 3.
    """
    h = np.array(hessian, np.float64)
    if h.ndim != 2 or h.shape[0] != h.shape[1] or not np.isfinite(h).all():
        raise InvalidArgumentError(f"a Hessian is a finite square matrix, found {h.shape}")
    if damping < 0:
        raise InvalidArgumentError(f"damping is {damping:g}, expected 0 or more")
    diagonal = np.diagonal(h)
    mean = float(diagonal.mean())
    h[np.diag_indices_from(h)] += np.where(diagonal > 0, damping * mean, mean or 1.0)
    return h


def inverse_factor(hessian: Array, damping: float = DAMPING) -> Double:
    """Return the upper triangular U with U^T U the inverse of the damped Hessian.

    Row j of U, divided by U_jj, says how the columns after j make up for an error of column j
    once all before it are fixed.
    Raises: InvalidArgumentError if the damped Hessian is not positive definite.
    Cost: O(k^3).
    """
    try:
        lower = np.linalg.cholesky(damped(hessian, damping))
        half = np.linalg.solve(lower, np.eye(len(lower)))
        return np.ascontiguousarray(np.linalg.cholesky(half.T @ half).T)
    except np.linalg.LinAlgError as error:
        raise InvalidArgumentError(
            "the Hessian is not positive definite: give more text or more damping"
        ) from error


def sparse_gpt(
    w: Array,
    factor: Double,
    choose: Chooser,
    block: int = 128,
    rounding: Rounding | None = None,
) -> tuple[Double, Mask]:
    """Prune column by column and push each error into the columns to the right.

    `choose` gives the mask of every `block` columns when the sweep reaches them, so that it sees
    weights which already make up for what went before. With `rounding` the weights that stay are
    stored as it says, and its error is pushed on alike: pruning and quantization in one sweep.

    Shapes: w (n, k); factor (k, k) of `inverse_factor`; results (n, k), zero where the mask is
    False.
    Raises: InvalidArgumentError if the factor, block or a chosen mask does not fit.
    Source: Frantar and Alistarh 2023, SparseGPT (arXiv:2301.00774), algorithm 1 and section 3.5.
    Cost: O(n k^2).
    """
    n, k = w.shape
    if factor.shape != (k, k) or block < 1:
        raise InvalidArgumentError(
            f"factor {factor.shape} and block {block} for a matrix {w.shape}"
        )
    rest = np.array(w, np.float64)
    pruned, mask = np.zeros((n, k)), np.ones((n, k), np.bool_)
    for first in range(0, k, block):
        columns = slice(first, min(first + block, k))
        saliency = np.square(rest[:, columns] / np.diagonal(factor)[columns])
        chosen = choose(first, rest[:, columns], saliency)
        if chosen.shape != saliency.shape:
            raise InvalidArgumentError(f"a mask {chosen.shape} for columns {saliency.shape}")
        mask[:, columns] = chosen
        errors = _sweep(rest, pruned, mask, factor, columns, rounding)
        rest[:, columns.stop :] -= errors @ factor[columns, columns.stop :]
    return pruned, mask


def _sweep(
    rest: Double,
    pruned: Double,
    mask: Mask,
    factor: Double,
    columns: slice,
    rounding: Rounding | None,
) -> Double:
    """Fix the columns of one block; return their errors over U_jj, (n, block)."""
    errors = np.zeros((len(rest), columns.stop - columns.start))
    for j in range(columns.start, columns.stop):
        values = rest[:, j]
        stored: Array = values if rounding is None else rounding(j, values)
        pruned[:, j] = np.where(mask[:, j], stored, 0.0)
        error = (values - pruned[:, j]) / factor[j, j]
        errors[:, j - columns.start] = error
        rest[:, j : columns.stop] -= np.outer(error, factor[j, j : columns.stop])
    return errors


def choose_share(share: float) -> Chooser:
    """Return a chooser that drops a share of each block, whichever rows that hits."""
    return lambda first, weights, saliency: keep_share(saliency, share, by_row=False)


def choose_n_of_m(kept: int, of: int) -> Chooser:
    """Return a chooser of n:m; call the sweep with a block of `of` to see every update."""
    check_n_of_m(kept, of, of)
    return lambda first, weights, saliency: keep_n_of_m(saliency, kept, of)


def choose_given(mask: Mask) -> Chooser:
    """Return a chooser for a mask known before. Shapes: mask (n, k)."""
    return lambda first, weights, saliency: mask[:, first : first + weights.shape[1]]


def output_error(w: Array, replacement: Array, hessian: Array) -> float:
    """Return tr((W - V) H (W - V)^T). Shapes: w, replacement (n, k); hessian (k, k)."""
    e = np.asarray(w, np.float64) - replacement
    return float(np.einsum("ij,ij->", e @ hessian, e))


def refit(w: Array, mask: Mask, hessian: Array) -> Double:
    """Return the weights of least error that are zero outside of the mask.

    Rows with one mask share one solution: a mask of superblocks takes one for every 16 rows.

    Shapes: w, mask (n, k); hessian (k, k), damped; result (n, k).
    Raises: InvalidArgumentError if shapes do not fit or the Hessian is singular.
    Source: the normal equations, V_S = W_S + W_D H_DS H_SS^-1 for kept S and dropped D.
    Cost: O(k^3) for each distinct row of the mask.
    """
    n, k = w.shape
    if mask.shape != (n, k) or hessian.shape != (k, k):
        raise InvalidArgumentError(f"mask {mask.shape}, Hessian {hessian.shape} for {w.shape}")
    exact, h = np.asarray(w, np.float64), np.asarray(hessian, np.float64)
    fitted = np.zeros((n, k))
    masks, which = np.unique(mask, axis=0, return_inverse=True)
    for index, kept in enumerate(masks):
        rows = np.flatnonzero(which.ravel() == index)
        fitted[np.ix_(rows, kept)] = exact[np.ix_(rows, kept)] + _spread(exact[rows], kept, h)
    return fitted


def _spread(rows: Double, kept: Mask, h: Double) -> Double:
    """Return what the kept columns take over from the dropped ones, (rows, kept)."""
    if kept.all() or not kept.any():
        return np.zeros((len(rows), int(kept.sum())))
    return rows[:, ~kept] @ _taken_over(kept, h)


def refit_matrix(kept: Mask, hessian: Array) -> Double:
    """Return C with W C the refitted columns that stay, for every W over these inputs.

    Shapes: kept (k,); hessian (k, k), damped; result (k, kept columns).
    Raises: InvalidArgumentError if shapes do not fit or the Hessian is singular.
    Source: as for `refit`: rows of the kept are the identity, of the dropped H_DS H_SS^-1.
    Cost: O(k^3).
    """
    h = np.asarray(hessian, np.float64)
    if h.shape != (len(kept), len(kept)):
        raise InvalidArgumentError(f"Hessian {h.shape} for {len(kept)} columns")
    matrix = np.zeros((len(kept), int(kept.sum())), np.float64)
    matrix[kept] = np.eye(matrix.shape[1])
    if kept.any() and not kept.all():
        matrix[~kept] = _taken_over(kept, h)
    return matrix


def _taken_over(kept: Mask, h: Double) -> Double:
    """Return H_DS H_SS^-1, (dropped, kept)."""
    try:
        taken = np.linalg.solve(h[np.ix_(kept, kept)], h[np.ix_(kept, ~kept)]).T
    except np.linalg.LinAlgError as error:
        raise InvalidArgumentError("the Hessian is singular: damp it first") from error
    return np.asarray(taken, np.float64)
