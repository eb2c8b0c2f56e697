# SPDX-License-Identifier: Apache-2.0
"""Improves the codes of a quantized program block by block, each on what the last one gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.packing import Quantized
from ingot_compressor.execute import TensorStore
from ingot_compressor.ir import Program
from ingot_compressor.json_values import annotated_value
from ingot_compressor.passes.block_methods import BlockMethod, BlockResult, run_block, weight_values
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.work import WorkFolder

__all__ = ["BlockReport", "refine_blocks"]


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One block: its output's mean square error against full precision, before and after.

    `fallbacks`: weights that kept what the search had found. `unsolved` kept it because their
    Hessian does not fit in memory; `unguided` were solved with all tokens alike for that.
    """

    index: int
    weights: int
    before: float
    after: float
    fallbacks: tuple[str, ...] = ()
    unsolved: tuple[str, ...] = ()
    unguided: tuple[str, ...] = ()


def refine_blocks(
    program: Program,
    quantized: Mapping[str, Quantized],
    windows: Sequence[NDArray[np.int64]],
    method: BlockMethod,
    store: TensorStore,
    progress: Callable[[int], None] | None = None,
    work: WorkFolder | None = None,
) -> tuple[dict[str, Quantized], tuple[BlockReport, ...]]:
    """Return better codes for every layer's weights, and what each block came to.

    A block is to give on the quantized model's activations what the original gives on its own, so
    that it also mends what the blocks before it lost. Embedding and head stay as they are. With
    `work`, finished blocks are read from there. `progress` counts the method's steps over all
    blocks.
    Shapes: windows each (t,) int64, all of one length. Memory: what the method takes for one block,
    and the activations of all windows three times, each in a file where it is large.
    """
    blocks = split_blocks(program)
    stream = _Stream(blocks[0], torch.from_numpy(np.stack(windows)), quantized, store, method)
    found, reports = dict(quantized), []
    for index, block in enumerate(blocks[1:-1]):
        names = tuple(tensor.name for tensor in block.weights())
        targets = stream.targets(block)
        part = f"{method.name}-{index:03d}"
        kept = None if work is None else _kept(work, part)
        if kept is None:
            start = {name: quantized[name] for name in names}
            done = _offset(progress, index * method.steps(block))
            result = method.improve(block, stream.quantized, targets, start, store, done)
            kept = dict(result.weights), _report(index, result)
            if work is not None:
                _keep(work, part, *kept)
        elif progress is not None:
            progress((index + 1) * method.steps(block))
        reports.append(kept[1])
        found.update(kept[0])
        stream.advance(block, targets, {name: found[name] for name in names})
    return found, tuple(reports)


def _keep(
    work: WorkFolder, part: str, weights: Mapping[str, Quantized], report: BlockReport
) -> None:
    """Keep a finished block; the weights come last, since with them it counts as finished."""
    work.save_facts(part, asdict(report))
    work.save_weights(part, weights)


def _kept(work: WorkFolder, part: str) -> tuple[dict[str, Quantized], BlockReport] | None:
    weights, facts = work.load_weights(part), work.load_facts(part)
    if weights is None or facts is None:
        return None
    report: BlockReport = annotated_value(BlockReport, facts)
    return weights, report


def _report(index: int, result: BlockResult) -> BlockReport:
    return BlockReport(
        index,
        len(result.weights),
        result.before,
        result.after,
        result.fallbacks,
        result.unsolved,
        result.unguided,
    )


def _offset(progress: Callable[[int], None] | None, before: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    call = progress
    return lambda step: call(before + step)


class _Stream:
    """What flows into the next block: in the original and in the quantized model."""

    def __init__(
        self,
        embed: Program,
        tokens: torch.Tensor,
        quantized: Mapping[str, Quantized],
        store: TensorStore,
        method: BlockMethod,
    ) -> None:
        self._store, self._method = store, method
        tables = {tensor.name: quantized[tensor.name] for tensor in embed.weights()}
        self.full = self._run(embed, tokens, None)
        self.quantized = self._run(embed, tokens, weight_values(tables))

    def targets(self, block: Program) -> torch.Tensor:
        return self._run(block, self.full, None)

    def advance(
        self, block: Program, targets: torch.Tensor, weights: Mapping[str, Quantized]
    ) -> None:
        self.quantized = self._run(block, self.quantized, weight_values(weights))
        self.full = targets

    def _run(
        self, block: Program, x: torch.Tensor, weights: Mapping[str, torch.Tensor] | None
    ) -> torch.Tensor:
        rounds = weights is not None and self._method.activations
        return run_block(block, x, weights, self._store, self._method.batch, rounds)
