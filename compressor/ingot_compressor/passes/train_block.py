# SPDX-License-Identifier: Apache-2.0
"""Trains the rounding of one block so that its output comes close to the full-precision one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import Program
from ingot_compressor.numerics.fake_quantize import FakeQuantized
from ingot_compressor.numerics.sign_descent import SignDescent

__all__ = ["BlockTraining", "TrainSettings", "train_block"]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a block is trained: steps, sequences a step, and whether activations are rounded too.

    `outliers`: the share of the largest differences that the loss leaves out.
    """

    iterations: int = 200
    batch: int = 8
    outliers: float = 0.001
    activations: bool = True
    seed: int = 0

    @property
    def rate(self) -> float:
        """The first step's length, in gaps of the grid."""
        return 1.0 / self.iterations


@dataclass(frozen=True, slots=True)
class BlockTraining:
    """Mean square error of the block's output before and after, on all its inputs."""

    before: float
    after: float
    losses: tuple[float, ...]


def train_block(
    block: Program,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    weights: Mapping[str, FakeQuantized],
    store: TensorStore,
    settings: TrainSettings,
    progress: Callable[[int], None] | None = None,
) -> BlockTraining:
    """Train in place; the best values seen are kept, so that the result is never worse.

    Shapes: inputs (s, t, width) what the block gets from the quantized blocks before it; targets
    alike, what it gives in full precision on full-precision inputs.
    Source: SignRound (2309.05516) as in AutoRound: signed gradient descent with a linearly falling
    step on rounding and scales together, the loss that of the whole block.
    Cost: `iterations` times forward and backward of `batch` sequences.
    """
    parameters = [p for weight in weights.values() for p in weight.parameters().values()]
    descent = SignDescent(parameters, settings.rate, settings.iterations)
    generator = torch.Generator().manual_seed(settings.seed)
    before = block_error(block, inputs, targets, weights, store, settings)
    best, losses = before, []
    kept = [p.detach().clone() for p in parameters]
    every = max(1, settings.iterations // 10)
    for step in range(settings.iterations):
        picks = torch.randperm(len(inputs), generator=generator)[: settings.batch]
        output = _run(block, inputs[picks], weights, store, settings)
        loss = _loss(output, targets[picks], settings.outliers)
        descent.step(torch.autograd.grad(loss, parameters, allow_unused=True))
        for weight in weights.values():
            weight.keep_in_range()
        losses.append(float(loss.detach()))
        if (step + 1) % every == 0 or step + 1 == settings.iterations:
            error = block_error(block, inputs, targets, weights, store, settings)
            if error < best:
                best, kept = error, [p.detach().clone() for p in parameters]
        if progress is not None:
            progress(step + 1)
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return BlockTraining(before, best, tuple(losses))


def block_error(
    block: Program,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    weights: Mapping[str, FakeQuantized],
    store: TensorStore,
    settings: TrainSettings,
) -> float:
    """Return the mean square error of the block's output over all sequences."""
    total = 0.0
    with torch.no_grad():
        fixed = {name: weight.weight() for name, weight in weights.items()}
        for first in range(0, len(inputs), settings.batch):
            part = slice(first, first + settings.batch)
            output = execute_block(
                block,
                inputs[part],
                weights=fixed,
                store=store,
                quantize_activations=settings.activations,
            )
            total += float((output - targets[part]).square().sum())
    return total / targets.numel()


def _run(
    block: Program,
    inputs: torch.Tensor,
    weights: Mapping[str, FakeQuantized],
    store: TensorStore,
    settings: TrainSettings,
) -> torch.Tensor:
    return execute_block(
        block,
        inputs,
        weights={name: weight.weight() for name, weight in weights.items()},
        store=store,
        quantize_activations=settings.activations,
    )


def _loss(output: torch.Tensor, target: torch.Tensor, outliers: float) -> torch.Tensor:
    """Return the mean square without the largest differences, which a few tokens hold."""
    squares = (output - target).square().flatten()
    count = int(outliers * squares.numel())
    if count == 0:
        return squares.mean()
    limit = torch.topk(squares.detach(), count, sorted=False).values.min()
    return squares[squares.detach() < limit].mean()
