# SPDX-License-Identifier: Apache-2.0
"""Second moments of what flows into a block's linear operations, within a bound on memory."""

from __future__ import annotations

from collections.abc import Iterator, Set

import torch

from ingot.format import Opcode
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import Operation, Program
from ingot_compressor.numerics.hessian import HessianSum, hessian_bytes, hessians_fit

__all__ = ["WORK_BYTES", "block_moments"]

# Per element while one matrix is used: itself, damped, inverted and a solution, all in float64.
WORK_BYTES = 40


def block_moments(
    block: Program, x: torch.Tensor, wanted: Set[str], most_bytes: int
) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """Yield the weights of each linear operation with E[x x^T] of its inputs.

    Operations are taken together while their matrices stay within `most_bytes` with what is needed
    to use one of them; each such part runs the block once. An operation whose own matrix does not
    fit is left out, as is one without a weight among the `wanted`.
    Shapes: x (s, t) or (s, t, width); results (k, k) float32.
    """
    for part in _parts(block, wanted, most_bytes):
        sums = _sums(block, x, part)
        for operation in part:
            names = tuple(name for name in operation.linear().weights if name in wanted)
            # of a sum of 2/n, as Hessians have it
            yield names, sums.pop(operation.linear().weights[0]).mean() / 2


def _parts(block: Program, wanted: Set[str], most_bytes: int) -> Iterator[tuple[Operation, ...]]:
    part: list[Operation] = []
    held, largest = 0, 0
    for operation in block.operations:
        if operation.opcode is not Opcode.LINEAR or not wanted & set(operation.linear().weights):
            continue
        k = _columns(block, operation)
        if not hessians_fit(k, 1, most_bytes, WORK_BYTES):
            continue
        least = hessian_bytes(max(k, largest), 0, WORK_BYTES) + hessian_bytes(k, 1, 0)
        if part and held + least > most_bytes:
            yield tuple(part)
            part, held, largest = [], 0, 0
        part.append(operation)
        held, largest = held + hessian_bytes(k, 1, 0), max(largest, k)
    if part:
        yield tuple(part)


def _columns(block: Program, operation: Operation) -> int:
    return block.tensors[operation.linear().weights[0]].shape[1]


def _sums(
    block: Program, x: torch.Tensor, operations: tuple[Operation, ...]
) -> dict[str, HessianSum]:
    sums = {one.linear().weights[0]: HessianSum(_columns(block, one)) for one in operations}

    def observe(name: str, seen: torch.Tensor) -> None:
        if name in sums:
            sums[name].add(seen)

    store = TensorStore()
    with torch.inference_mode():
        for window in x:
            execute_block(block, window[None], store=store, observe=observe)
    return sums
