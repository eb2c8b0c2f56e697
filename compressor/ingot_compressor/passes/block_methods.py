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
from ingot_compressor.numerics.hessian import MOST_HESSIAN_BYTES, HessianSum, damped, hessians_fit
from ingot_compressor.passes.activation_store import ActivationStore
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
    """New codes by weight, and the mean square error of the block's output before and after.

    `fallbacks`: weights that gained nothing. `unsolved`: those whose Hessian does not fit in
    memory, which keep their codes too. `unguided`: those that fit without guidance alone.
    """

    weights: Mapping[str, Quantized]
    before: float
    after: float
    fallbacks: tuple[str, ...] = ()
    unsolved: tuple[str, ...] = ()
    unguided: tuple[str, ...] = ()


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
    room: ActivationStore | None = None,
) -> torch.Tensor:
    """Return a block's output for all sequences, `batch` of them at a time, without gradients."""
    result = None
    with torch.no_grad():
        for first in range(0, len(x), batch):
            part = execute_block(
                block,
                x[first : first + batch],
                store=store,
                weights=weights,
                observe=observe,
                quantize_activations=activations,
            )
            if result is None:
                result = (room or ActivationStore()).empty((len(x), *part.shape[1:]))
            result[first : first + batch] = part
    if result is None:
        raise InternalError("a block was run on no sequence")
    return result


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

    `guidance`: by weight, how much each token matters to groups of its rows (see `token_weights`);
    other weights take all tokens alike. The Hessians of an operation take at most `most_bytes`:
    where they would take more guidance goes first, then the codes stay as they are.
    Shapes: guidance (s, t, groups), of the sequences that are given to `improve`.
    Source: Frantar et al. 2022 (arXiv:2210.17323), "true sequential" within the block; guided by
    gradients: Kim et al. 2025 (arXiv:2505.07004).
    """

    options: GptqOptions = field(default_factory=GptqOptions)
    batch: int = 4
    activations: bool = True
    name: str = "gptq"
    guidance: Mapping[str, torch.Tensor] = field(default_factory=dict)
    most_bytes: int = MOST_HESSIAN_BYTES

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
        left: dict[str, list[str]] = {"unsolved": [], "unguided": []}
        linear = [op for op in block.operations if op.opcode is Opcode.LINEAR]
        before = self._error(block, inputs, targets, start, store)
        for done, operation in enumerate(linear):
            guided, fits = self._within_memory(block, operation)
            if not fits:
                left["unsolved"] += operation.linear().weights
                found |= {name: start[name] for name in operation.linear().weights}
            else:
                names = operation.linear().weights
                left["unguided"] += [n for n in names if n in self.guidance and n not in guided]
                hessians = self._hessians(block, operation, inputs, found, store, guided)
                for name in names:
                    weight = weight_of(block.tensors[name])
                    result = gptq(weight, hessians[name], start[name], self.options)
                    found[name] = result.quantized
                    fallbacks += [name] if result.fallback else []
            if progress is not None:
                progress(done + 1)
        after = self._error(block, inputs, targets, found, store)
        kept = {kind: tuple(names) for kind, names in left.items()}
        return BlockResult(found, before, after, tuple(fallbacks), **kept)

    def _within_memory(
        self, block: Program, operation: Operation
    ) -> tuple[Mapping[str, torch.Tensor], bool]:
        """Return the guidance that fits in memory, and whether a Hessian fits at all."""
        names = operation.linear().weights
        k = block.tensors[names[0]].shape[1]
        guided = {name: self.guidance[name] for name in names if name in self.guidance}
        count = sum(one.shape[-1] for one in guided.values()) + (len(guided) < len(names))
        if hessians_fit(k, count, self.most_bytes):
            return guided, True
        return {}, hessians_fit(k, 1, self.most_bytes)

    def _hessians(
        self,
        block: Program,
        operation: Operation,
        inputs: torch.Tensor,
        found: Mapping[str, Quantized],
        store: TensorStore,
        guided: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return the Hessian of each weight; those that nothing guides share one."""
        names = operation.linear().weights
        k = block.tensors[names[0]].shape[1]
        sums = {name: HessianSum(k, weights.shape[-1]) for name, weights in guided.items()}
        rest = next((name for name in names if name not in guided), None)
        if rest is not None:
            sums[rest] = HessianSum(k)
        seen = dict.fromkeys(sums, 0)

        def observe(weight: str, x: torch.Tensor) -> None:
            if weight in sums:
                first, seen[weight] = seen[weight], seen[weight] + len(x)
                given = guided[weight][first : seen[weight]] if weight in guided else None
                sums[weight].add(x, given)

        values = weight_values(found)
        run_block(block, inputs, values, store, self.batch, self.activations, observe)
        means = {name: damped(total.mean(), DAMPING) for name, total in sums.items()}
        return {name: means[name if name in guided else str(rest)] for name in names}

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
