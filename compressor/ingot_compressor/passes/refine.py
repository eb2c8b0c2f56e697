# SPDX-License-Identifier: Apache-2.0
"""Improves the codes of a quantized program block by block, each on what the last one gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InternalError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import Program, Tensor, Weight
from ingot_compressor.numerics.fake_quantize import FakeQuantized, Part
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.train_block import TrainSettings, train_block
from ingot_compressor.work import WorkFolder

__all__ = ["BlockReport", "block_weights", "refine_blocks", "weight_of"]

LEARNED = Part(rounding=True, scales=True)


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One block: its output's mean square error against full precision, before and after."""

    index: int
    weights: int
    before: float
    after: float


def weight_of(tensor: Tensor) -> NDArray[np.float32]:
    """Return a weight in full precision. Raises: InternalError if it has been quantized."""
    if not isinstance(tensor.source, Weight):
        raise InternalError(f"tensor '{tensor.name}' has no full-precision weight")
    return tensor.source.load()


def block_weights(block: Program) -> tuple[str, ...]:
    """Return the names of the weights that a block reads."""
    return tuple(tensor.name for tensor in block.weights())


def refine_blocks(
    program: Program,
    quantized: Mapping[str, Quantized],
    windows: Sequence[NDArray[np.int64]],
    settings: TrainSettings,
    store: TensorStore,
    progress: Callable[[int], None] | None = None,
    work: WorkFolder | None = None,
) -> tuple[dict[str, Quantized], tuple[BlockReport, ...]]:
    """Return better codes for every layer's weights, and what each block came to.

    A block is trained to give on the quantized model's activations what the original gives on its
    own, so that it also mends what the blocks before it lost. Embedding and head stay as they are.
    With `work`, finished blocks are read from there. `progress` counts steps over all blocks.
    Shapes: windows each (t,) int64, all of one length. Memory: the activations of all windows three
    times, and the weights of one block with their gradients.
    """
    blocks = split_blocks(program)
    stream = _Stream(blocks[0], torch.from_numpy(np.stack(windows)), quantized, store, settings)
    found, reports = dict(quantized), []
    for index, block in enumerate(blocks[1:-1]):
        names = [n for n in block_weights(block) if quantized[n].dtype is not Dtype.F16]
        targets = stream.targets(block)
        kept = work.load_weights(f"block-{index:03d}") if work is not None else None
        if kept is None:
            weights = {
                name: FakeQuantized(
                    torch.from_numpy(weight_of(program.tensors[name])), quantized[name], LEARNED
                )
                for name in names
            }
            done = _offset(progress, index * settings.iterations)
            result = train_block(block, stream.quantized, targets, weights, store, settings, done)
            kept = {name: weight.store() for name, weight in weights.items()}
            reports.append(BlockReport(index, len(names), result.before, result.after))
            if work is not None:
                work.save_weights(f"block-{index:03d}", kept)
        elif progress is not None:
            progress((index + 1) * settings.iterations)
        found.update(kept)
        stream.advance(block, targets, {name: found[name] for name in block_weights(block)})
    return found, tuple(reports)


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
        settings: TrainSettings,
    ) -> None:
        self._store, self._settings = store, settings
        tables = {name: quantized[name] for name in block_weights(embed)}
        with torch.no_grad():
            self.full = execute_block(embed, tokens, store=store)
            self.quantized = execute_block(embed, tokens, store=store, weights=_values(tables))

    def targets(self, block: Program) -> torch.Tensor:
        return self._run(block, self.full, None)

    def advance(
        self, block: Program, targets: torch.Tensor, weights: Mapping[str, Quantized]
    ) -> None:
        self.quantized = self._run(block, self.quantized, _values(weights))
        self.full = targets

    def _run(
        self, block: Program, x: torch.Tensor, weights: Mapping[str, torch.Tensor] | None
    ) -> torch.Tensor:
        step = self._settings.batch
        with torch.no_grad():
            parts = [
                execute_block(
                    block,
                    x[first : first + step],
                    store=self._store,
                    weights=weights,
                    quantize_activations=weights is not None and self._settings.activations,
                )
                for first in range(0, len(x), step)
            ]
        return torch.cat(parts)


def _values(weights: Mapping[str, Quantized]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(dequantize(quantized)) for name, quantized in weights.items()}
