# SPDX-License-Identifier: Apache-2.0
"""Leaves out superblocks layer by layer and lets the others make up for them, then quantizes.

Pruning comes first and rounding after it (arXiv:2405.20935 finds this order the better one). Each
block sees the inputs that the pruned and quantized ones before it give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.packing import Quantized
from ingot_compressor.calibration import Statistics
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import Program, Tensor, Weight
from ingot_compressor.numerics import Encoding, group_of, quantize_matrix
from ingot_compressor.numerics.groups import Float
from ingot_compressor.numerics.pruning import (
    Mask,
    check_share,
    keep_superblocks,
    magnitude_scores,
    superblock_mask,
    superblock_power,
    superblock_saliency,
    superblock_width,
    wanda_scores,
    with_superblocks,
)
from ingot_compressor.numerics.sparse_gpt import (
    choose_given,
    damped,
    inverse_factor,
    output_error,
    refit,
    sparse_gpt,
)
from ingot_compressor.numerics.stored_grid import StoredGrid
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.quantize import body_names, quantize_tensor

__all__ = ["SCORES", "PrunedWeight", "SuperblockChoice", "choose_superblocks", "prune_superblocks"]

SCORES = ("magnitude", "wanda", "hessian")
Hessian = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SuperblockChoice:
    """How superblocks are chosen: by which score, and whether the rest makes up for them.

    How many go is each encoding's `sparsity`. `by_tile`: that share goes from every 16 rows alike;
    else from the whole matrix. `sweep`: codes are chosen column by column, each error pushed into
    the columns to the right (SparseGPT); needs a format with scales by groups.
    """

    score: str = "hessian"
    compensate: bool = True
    by_tile: bool = False
    sweep: bool = False


@dataclass(frozen=True, slots=True)
class PrunedWeight:
    """What happened to one weight: superblocks dropped, and the error of its outputs.

    `error` is that of pruning alone, over the outputs' mean square.
    """

    name: str
    dropped: int
    of: int
    error: float


def choose_superblocks(
    w: Float, hessian: Hessian, encoding: Encoding, choice: SuperblockChoice
) -> tuple[Mask, Float]:
    """Return which superblocks of a format stay, and the weights with the others at zero.

    Shapes: w (n, k) float32; hessian (k, k) = E[x x^T]; results (tiles, blocks) and (n, k).
    Raises: InvalidArgumentError for an unknown score or a sparsity outside 0 to below 1.
    """
    check_share(encoding.sparsity)
    width = superblock_width(encoding.dtype, group_of(encoding.dtype, encoding.group))
    h = damped(hessian)
    if choice.score == "hessian":
        power = superblock_saliency(w, np.linalg.inv(h), width)
    elif choice.score == "wanda":
        power = superblock_power(wanda_scores(w, np.diagonal(hessian)), width)
    elif choice.score == "magnitude":
        power = superblock_power(magnitude_scores(w), width)
    else:
        raise InvalidArgumentError(f"score '{choice.score}', expected one of {', '.join(SCORES)}")
    # a short last superblock saves as much less as it is shorter
    power[:, -1] *= width / (w.shape[1] - width * (power.shape[1] - 1))
    present = keep_superblocks(power, encoding.sparsity, choice.by_tile)
    mask = superblock_mask(present, (w.shape[0], w.shape[1]), width)
    pruned = refit(w, mask, h) if choice.compensate else w * mask
    return present, pruned.astype(np.float32)


def prune_superblocks(
    program: Program,
    windows: Sequence[NDArray[np.int64]],
    encodings: Mapping[str, Encoding],
    choice: SuperblockChoice,
    hold: Callable[[Quantized], Quantized] = lambda quantized: quantized,
    progress: Callable[[Tensor], None] | None = None,
) -> tuple[Program, tuple[PrunedWeight, ...]]:
    """Return the program quantized, its body without the superblocks that each encoding spares.

    Layers differ: of a small model the first one bears far less than the others. Head and embedding
    are quantized whole. `hold` may move codes elsewhere, as in `quantize`.

    Shapes: windows each (t,), of one length.
    Raises: InvalidArgumentError without windows, for a choice or sparsity that is none, or naming a
        tensor.
    Cost: one solution of a (k, k) system for every 16 rows, if the rest is to compensate.
    """
    if not windows:
        raise InvalidArgumentError("pruning by score needs text: there is no window")
    body = set(body_names(program))
    changed: dict[str, Tensor] = {}
    records: list[PrunedWeight] = []
    x = torch.from_numpy(np.stack(windows))
    for block in split_blocks(program):
        hessians = _moments(block, x)
        for tensor in block.weights():
            # a table that is the head too waits for what flows into the head
            early = tensor.name == program.head() and tensor.name not in hessians
            if tensor.name in changed or early:
                continue
            encoding = encodings[tensor.name]
            if tensor.name in body:
                quantized, record = _prune(tensor, encoding, hessians[tensor.name], choice)
                records.append(record)
            else:
                quantized = _quantize_whole(tensor, encoding, hessians)
            quantized = hold(quantized)
            changed[tensor.name] = replace(tensor, dtype=quantized.dtype, source=quantized)
            if progress is not None:
                progress(tensor)
        if block.output != program.output:
            x = _run(block.with_tensors(changed), x)
    return program.with_tensors(changed), tuple(records)


def _quantize_whole(
    tensor: Tensor, encoding: Encoding, hessians: Mapping[str, Hessian]
) -> Quantized:
    seen = {name: np.diagonal(h).copy() for name, h in hessians.items()}
    return quantize_tensor(tensor, replace(encoding, sparsity=0.0), Statistics(seen, 1))


def _prune(
    tensor: Tensor, encoding: Encoding, hessian: Hessian, choice: SuperblockChoice
) -> tuple[Quantized, PrunedWeight]:
    if not isinstance(tensor.source, Weight):
        raise InvalidArgumentError(f"tensor '{tensor.name}' is already quantized")
    w = tensor.source.load()
    present, pruned = choose_superblocks(w, hessian, encoding, choice)
    try:
        dense = replace(encoding, sparsity=0.0)
        quantized = quantize_matrix(pruned, dense, np.diagonal(hessian))
        if choice.sweep:
            quantized = _swept(pruned, quantized, present, hessian)
    except ValueError as error:
        raise InvalidArgumentError(f"tensor '{tensor.source.name}': {error}") from error
    if encoding.sparsity > 0:
        quantized = with_superblocks(quantized, present)
    power = output_error(w, np.zeros_like(w), hessian)
    lost = output_error(w, pruned, hessian) / power if power > 0 else 0.0
    return quantized, PrunedWeight(tensor.name, int((~present).sum()), present.size, lost)


def _swept(pruned: Float, quantized: Quantized, present: Mask, hessian: Hessian) -> Quantized:
    """Choose the codes again in a sweep in which what is dropped stays at zero."""
    width = superblock_width(quantized.dtype, quantized.group)
    mask = superblock_mask(present, quantized.shape, width)
    grid = StoredGrid(quantized)
    sparse_gpt(pruned, inverse_factor(hessian), choose_given(mask), rounding=grid.round)
    return grid.result()


def _moments(block: Program, x: torch.Tensor) -> dict[str, Hessian]:
    """Return E[x x^T] of the inputs of each linear weight of a block, window by window."""
    sums: dict[str, torch.Tensor] = {}
    last: tuple[torch.Tensor, torch.Tensor] | None = None

    def observe(name: str, seen: torch.Tensor) -> None:
        nonlocal last
        # weights over one input come one after the other
        if last is None or last[0] is not seen:
            rows = seen.flatten(0, -2)
            last = (seen, (rows.T @ rows).double())
        sums[name] = sums[name] + last[1] if name in sums else last[1]

    store = TensorStore()
    with torch.inference_mode():
        for window in x:
            execute_block(block, window[None], store=store, observe=observe)
    count = x.shape[0] * x.shape[1]
    return {name: (total / count).numpy() for name, total in sums.items()}


def _run(block: Program, x: torch.Tensor) -> torch.Tensor:
    store = TensorStore()
    with torch.inference_mode():
        parts = [execute_block(block, window[None], store=store) for window in x]
    return torch.cat(parts)
