# SPDX-License-Identifier: Apache-2.0
"""Leaves out superblocks layer by layer and lets the others make up for them, then quantizes.

Pruning comes first and rounding after it (arXiv:2405.20935 finds this order the better one). Each
block sees the inputs that the pruned and quantized ones before it give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.packing import Quantized, dequantize
from ingot_compressor.calibration import NO_STATISTICS, Statistics
from ingot_compressor.execute import TensorStore
from ingot_compressor.ir import Program, Tensor, Weight
from ingot_compressor.json_values import annotated_value
from ingot_compressor.numerics import Encoding, group_of, quantize_matrix
from ingot_compressor.numerics.groups import Float
from ingot_compressor.numerics.hessian import MOST_HESSIAN_BYTES
from ingot_compressor.numerics.pruning import (
    Mask,
    NetBits,
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
from ingot_compressor.passes.block_methods import run_block
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.fine_masks import FinePattern, prune_elements
from ingot_compressor.passes.moments import block_moments
from ingot_compressor.passes.quantize import body_names, quantize_tensor
from ingot_compressor.work import WorkFolder

__all__ = [
    "SCORES",
    "PruneWork",
    "PrunedWeight",
    "SuperblockChoice",
    "choose_superblocks",
    "prune_superblocks",
]

SCORES = ("magnitude", "wanda", "hessian")
Hessian = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SuperblockChoice:
    """How superblocks are chosen: by which score, and whether the rest makes up for them.

    How many go is each encoding's `sparsity`. `by_tile`: that share goes from every 16 rows alike;
    else from the whole matrix. `sweep`: codes are chosen column by column, each error pushed into
    the columns to the right (SparseGPT); needs a format with scales by groups. `fine`: single
    weights go instead, as that says.
    """

    score: str = "hessian"
    compensate: bool = True
    by_tile: bool = False
    sweep: bool = False
    fine: FinePattern | None = None


@dataclass(frozen=True, slots=True)
class PrunedWeight:
    """What happened to one weight: superblocks (or weights) dropped, and the error of its outputs.

    `error` is that of pruning, with a fine pattern of rounding too, over the outputs' mean square.
    `blind`: the second moments of its inputs did not fit in memory, so that nothing was made up for
    and the error is unknown. `computed` are the bits of a pattern that no file holds.
    """

    name: str
    dropped: int
    of: int
    error: float
    blind: bool = False
    computed: NetBits | None = None


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


@dataclass(frozen=True, slots=True)
class PruneWork:
    """What pruning may use: mean squares known before, threads, memory, and a folder of its parts.

    `hold` may move codes elsewhere, as in `quantize`. `most_bytes` bounds second moments.
    """

    statistics: Statistics = NO_STATISTICS
    threads: int = 1
    most_bytes: int = MOST_HESSIAN_BYTES
    hold: Callable[[Quantized], Quantized] = lambda quantized: quantized
    folder: WorkFolder | None = None


def prune_superblocks(
    program: Program,
    windows: Sequence[NDArray[np.int64]],
    encodings: Mapping[str, Encoding],
    choice: SuperblockChoice,
    work: PruneWork | None = None,
    progress: Callable[[Tensor], None] | None = None,
) -> tuple[Program, tuple[PrunedWeight, ...]]:
    """Return the program quantized, its body without the superblocks that each encoding spares.

    Layers differ: of a small model the first one bears far less than the others. Head and embedding
    are quantized whole. A weight whose inputs' moments do not fit in memory loses what its mean
    squares say. Finished blocks are kept in `work.folder` and read from there.

    Shapes: windows each (t,), of one length. Memory: moments as bounded, and the activations of all
    windows twice, each in a file where it is large.
    Raises: InvalidArgumentError without windows, for a choice or sparsity that is none, or naming a
        tensor.
    Cost: one solution of a (k, k) system for every 16 rows, if the rest is to compensate.
    """
    if not windows:
        raise InvalidArgumentError("pruning by score needs text: there is no window")
    pruning = _Pruning(program, encodings, choice, work or PruneWork())
    changed: dict[str, Tensor] = {}
    records: list[PrunedWeight] = []
    x = torch.from_numpy(np.stack(windows))
    for index, block in enumerate(split_blocks(program)):
        found, seen = pruning.block(index, block, x, changed.keys())
        records += seen
        for name, quantized in found.items():
            tensor, held = program.tensors[name], pruning.work.hold(quantized)
            changed[name] = replace(tensor, dtype=held.dtype, source=held)
            if progress is not None:
                progress(tensor)
        if block.output != program.output:
            x = run_block(block.with_tensors(changed), x, None, TensorStore(), 1, False)
    return program.with_tensors(changed), tuple(records)


@dataclass(frozen=True, slots=True)
class _Pruning:
    """One block after the other, from the inputs that it gets."""

    program: Program
    encodings: Mapping[str, Encoding]
    choice: SuperblockChoice
    work: PruneWork

    def block(
        self, index: int, block: Program, x: torch.Tensor, done: Set[str]
    ) -> tuple[dict[str, Quantized], list[PrunedWeight]]:
        """Return the codes of a block's weights and what went of them."""
        part, folder = f"pruned-{index:03d}", self.work.folder
        if folder is not None:
            weights, facts = folder.load_weights(part), folder.load_facts(part)
            if weights is not None and facts is not None:
                return weights, [annotated_value(PrunedWeight, one) for one in facts["records"]]
        found, records = self._quantized(block, x, done)
        if folder is not None:
            folder.save_facts(part, {"records": [asdict(one) for one in records]})
            folder.save_weights(part, found)
        return found, records

    def _quantized(
        self, block: Program, x: torch.Tensor, done: Set[str]
    ) -> tuple[dict[str, Quantized], list[PrunedWeight]]:
        body = set(body_names(self.program))
        tensors = {one.name: one for one in block.weights() if one.name not in done}
        found: dict[str, Quantized] = {}
        records: list[PrunedWeight] = []
        known = self.work.statistics.mean_squares.keys()
        wanted = {name for name in tensors if name in body or name not in known}
        for names, moments in block_moments(block, x, wanted, self.work.most_bytes):
            hessian = moments.double().numpy()
            for name in names:
                if name in body:
                    found[name], record = self._pruned(tensors[name], hessian)
                    records.append(record)
                else:
                    found[name] = self._whole(tensors[name], np.diagonal(hessian).copy())
        for name in sorted(tensors.keys() - found.keys()):
            if name in body:
                found[name], record = self._blind(tensors[name])
                records.append(record)
            elif name != self.program.head() or block.output == self.program.output:
                # a table that is the head too waits for what flows into the head
                found[name] = self._whole(tensors[name], self.work.statistics.importance(name))
        return found, records

    def _whole(self, tensor: Tensor, squares: NDArray[np.float64] | None) -> Quantized:
        seen = {} if squares is None else {tensor.name: squares}
        dense = replace(self.encodings[tensor.name], sparsity=0.0)
        return quantize_tensor(tensor, dense, Statistics(seen, 1), self.work.threads)

    def _pruned(self, tensor: Tensor, hessian: Hessian) -> tuple[Quantized, PrunedWeight]:
        w, encoding, choice = _matrix(tensor), self.encodings[tensor.name], self.choice
        with _named(tensor):
            if choice.fine is not None:
                return self._fine(tensor, choice.fine, hessian)
            present, pruned = choose_superblocks(w, hessian, encoding, choice)
            dense = replace(encoding, sparsity=0.0)
            squares = np.diagonal(hessian)
            quantized = quantize_matrix(pruned, dense, squares, self.work.threads)
            if choice.sweep:
                quantized = _swept(pruned, quantized, present, hessian)
        if encoding.sparsity > 0:
            quantized = with_superblocks(quantized, present)
        lost = _share_lost(w, pruned, hessian)
        return quantized, PrunedWeight(tensor.name, int((~present).sum()), present.size, lost)

    def _blind(self, tensor: Tensor) -> tuple[Quantized, PrunedWeight]:
        if self.choice.fine is not None:
            with _named(tensor):
                return self._fine(tensor, self.choice.fine, None)
        encoding, work = self.encodings[tensor.name], self.work
        quantized = quantize_tensor(tensor, encoding, work.statistics, work.threads)
        gone, of = int((~quantized.present.astype(bool)).sum()), quantized.present.size
        return quantized, PrunedWeight(tensor.name, gone, of, math.nan, blind=True)

    def _fine(
        self, tensor: Tensor, pattern: FinePattern, hessian: Hessian | None
    ) -> tuple[Quantized, PrunedWeight]:
        w, encoding = _matrix(tensor), self.encodings[tensor.name]
        squares = self.work.statistics.importance(tensor.name)
        threads = self.work.threads
        quantized, mask = prune_elements(w, encoding, pattern, hessian, squares, threads)
        lost = math.nan
        if hessian is not None:
            lost = _share_lost(w, dequantize(quantized), hessian)
        gone, bits = int((~mask).sum()), pattern.bits(quantized)
        return quantized, PrunedWeight(tensor.name, gone, mask.size, lost, hessian is None, bits)


def _matrix(tensor: Tensor) -> Float:
    if not isinstance(tensor.source, Weight):
        raise InvalidArgumentError(f"tensor '{tensor.name}' is already quantized")
    return tensor.source.load()


@contextmanager
def _named(tensor: Tensor) -> Iterator[None]:
    """Name the tensor in what is wrong with its values."""
    try:
        yield
    except ValueError as error:
        name = tensor.source.name if isinstance(tensor.source, Weight) else tensor.name
        raise InvalidArgumentError(f"tensor '{name}': {error}") from error


def _share_lost(w: Float, replacement: Float, hessian: Hessian) -> float:
    power = output_error(w, np.zeros_like(w), hessian)
    return output_error(w, replacement, hessian) / power if power > 0 else 0.0


def _swept(pruned: Float, quantized: Quantized, present: Mask, hessian: Hessian) -> Quantized:
    """Choose the codes again in a sweep in which what is dropped stays at zero."""
    width = superblock_width(quantized.dtype, quantized.group)
    mask = superblock_mask(present, quantized.shape, width)
    grid = StoredGrid(quantized)
    sparse_gpt(pruned, inverse_factor(hessian), choose_given(mask), rounding=grid.round)
    return grid.result()
