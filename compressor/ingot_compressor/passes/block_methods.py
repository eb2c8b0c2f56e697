# SPDX-License-Identifier: Apache-2.0
"""What can be done with one block: train its rounding, or solve for its codes by GPTQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InternalError
from ingot.format import Dtype, Opcode
from ingot.packing import Quantized, dequantize
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import Operation, Program, Tensor, Weight
from ingot_compressor.numerics.fake_quantize import FakeQuantized, Part
from ingot_compressor.numerics.gptq import GptqOptions, gptq
from ingot_compressor.numerics.hessian import HessianSum, damped
from ingot_compressor.passes.train_block import TrainSettings, train_block

__all__ = [
    "BlockMethod",
    "BlockResult",
    "SolvedCodes",
    "TrainedRounding",
    "run_block",
    "weight_of",
    "weight_values",
]

LEARNED = Part(rounding=True, scales=True)
# Of the mean diagonal: with few tokens, undamped descent fits their noise (4 % of KL on lantern).
DAMPING = 0.1


@dataclass(frozen=True, slots=True)
class BlockResult:
    """New codes by weight, and the mean square error of the block's output before and after."""

    weights: Mapping[str, Quantized]
    before: float
    after: float
    fallbacks: tuple[str, ...] = ()


class BlockMethod(Protocol):
    """A way to improve the codes of one block."""

    @property
    def name(self) -> str:
        """What finished blocks are kept under."""

    @property
    def batch(self) -> int:
        """Sequences that are run at a time."""

    @property
    def activations(self) -> bool:
        """Whether activations are rounded as in the runtime."""

    def steps(self, block: Program) -> int:
        """Return how many steps `improve` counts."""

    def improve(
        self,
        block: Program,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        start: Mapping[str, Quantized],
        store: TensorStore,
        progress: Callable[[int], None] | None,
    ) -> BlockResult:
        """Return better codes. Shapes: inputs, targets (s, t, width)."""


def weight_of(tensor: Tensor) -> NDArray[np.float32]:
    """Return a weight in full precision. Raises: InternalError if it has been quantized."""
    if not isinstance(tensor.source, Weight):
        raise InternalError(f"tensor '{tensor.name}' has no full-precision weight")
    return tensor.source.load()


def weight_values(weights: Mapping[str, Quantized]) -> dict[str, torch.Tensor]:
    """Return what quantized weights stand for."""
    return {name: torch.from_numpy(dequantize(quantized)) for name, quantized in weights.items()}


def run_block(
    block: Program,
    x: torch.Tensor,
    weights: Mapping[str, torch.Tensor] | None,
    store: TensorStore,
    batch: int,
    activations: bool,
    observe: Callable[[str, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Return a block's output for all sequences, `batch` of them at a time, without gradients."""
    with torch.no_grad():
        parts = [
            execute_block(
                block,
                x[first : first + batch],
                store=store,
                weights=weights,
                observe=observe,
                quantize_activations=activations,
            )
            for first in range(0, len(x), batch)
        ]
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class TrainedRounding:
    """Signed gradient descent on rounding and scales: see train_block."""

    settings: TrainSettings
    name: str = "trained"

    @property
    def batch(self) -> int:
        """Sequences that are run at a time."""
        return self.settings.batch

    @property
    def activations(self) -> bool:
        """Whether activations are rounded as in the runtime."""
        return self.settings.activations

    def steps(self, block: Program) -> int:
        """Return the iterations."""
        return self.settings.iterations

    def improve(
        self,
        block: Program,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        start: Mapping[str, Quantized],
        store: TensorStore,
        progress: Callable[[int], None] | None,
    ) -> BlockResult:
        """Train all weights of the block together."""
        weights = {
            name: FakeQuantized(
                torch.from_numpy(weight_of(block.tensors[name])), quantized, LEARNED
            )
            for name, quantized in start.items()
            if quantized.dtype is not Dtype.F16
        }
        result = train_block(block, inputs, targets, weights, store, self.settings, progress)
        stored = {name: weight.store() for name, weight in weights.items()}
        return BlockResult({**start, **stored}, result.before, result.after)


@dataclass(frozen=True, slots=True)
class SolvedCodes:
    """GPTQ on what flows into each linear operation once those before it are quantized.

    Source: Frantar et al. 2022 (arXiv:2210.17323), "true sequential" within the block.
    """

    options: GptqOptions = field(default_factory=GptqOptions)
    batch: int = 4
    activations: bool = True
    name: str = "gptq"

    def steps(self, block: Program) -> int:
        """Return the linear operations."""
        return sum(operation.opcode is Opcode.LINEAR for operation in block.operations)

    def improve(
        self,
        block: Program,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        start: Mapping[str, Quantized],
        store: TensorStore,
        progress: Callable[[int], None] | None,
    ) -> BlockResult:
        """Solve one linear operation after the other."""
        found: dict[str, Quantized] = {}
        fallbacks: list[str] = []
        linear = [op for op in block.operations if op.opcode is Opcode.LINEAR]
        before = self._error(block, inputs, targets, start, store)
        for done, operation in enumerate(linear):
            hessian = self._hessian(block, operation, inputs, found, store)
            for name in operation.linear().weights:
                result = gptq(weight_of(block.tensors[name]), hessian, start[name], self.options)
                found[name] = result.quantized
                if result.fallback:
                    fallbacks.append(name)
            if progress is not None:
                progress(done + 1)
        after = self._error(block, inputs, targets, found, store)
        return BlockResult(found, before, after, tuple(fallbacks))

    def _hessian(
        self,
        block: Program,
        operation: Operation,
        inputs: torch.Tensor,
        found: Mapping[str, Quantized],
        store: TensorStore,
    ) -> torch.Tensor:
        name = operation.linear().weights[0]
        total = HessianSum(block.tensors[name].shape[1])

        def observe(weight: str, x: torch.Tensor) -> None:
            if weight == name:
                total.add(x)

        values = weight_values(found)
        run_block(block, inputs, values, store, self.batch, self.activations, observe)
        return damped(total.mean(), DAMPING)

    def _error(
        self,
        block: Program,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: Mapping[str, Quantized],
        store: TensorStore,
    ) -> float:
        values = weight_values(weights)
        output = run_block(block, inputs, values, store, self.batch, self.activations)
        return float((output - targets).square().mean())
