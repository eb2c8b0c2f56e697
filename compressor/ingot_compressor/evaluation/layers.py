# SPDX-License-Identifier: Apache-2.0
"""Where a file departs from its checkpoint: the result of every layer, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import dequantize, unpack_record
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import FloatArray, Program, Tensor, Weight
from ingot_compressor.passes.blocks import split_blocks

__all__ = ["LayerError", "compare_layers", "program_of_file"]


@dataclass(frozen=True, slots=True)
class LayerError:
    """One layer's result against the reference's. Units: signal to noise in dB.

    `decibels` and `cosine` (the mean over positions) are of the file run from its beginning,
    `own_decibels` of this layer alone, on the reference's input. Infinite where nothing was lost.
    """

    name: str
    decibels: float
    cosine: float
    own_decibels: float


def program_of_file(program: Program, path: Path) -> Program:
    """Return the checkpoint's program with the weights that a file holds, read when asked for.

    Raises: FormatError or InvalidArgumentError if the file is not of this program.
    """
    with Container(path) as container:
        changed = {
            tensor.name: _stored(path, container, tensor)
            for tensor in program.weights()
            if isinstance(tensor.source, Weight)
        }
    return program.with_tensors(changed)


def _stored(path: Path, container: Container, tensor: Tensor) -> Tensor:
    number = container.tensor_id(tensor.name)
    record = container.tensors[number]
    n, k = tensor.shape
    if tuple(record.shape[: record.rank]) != (n, k):
        raise InvalidArgumentError(
            f"{path.name}: '{tensor.name}' is {tuple(record.shape[: record.rank])}, the"
            f" checkpoint's {(n, k)}: not the same model"
        )

    def load() -> FloatArray:
        with Container(path) as file:
            return dequantize(unpack_record(file, number))

    return replace(tensor, dtype=Dtype(record.dtype), source=Weight(tensor.name, (n, k), load))


def compare_layers(
    reference: Program,
    candidate: Program,
    windows: Sequence[NDArray[np.int64]],
    progress: Callable[[int], None],
) -> list[LayerError]:
    """Run both programs layer by layer over windows of token ids.

    The candidate's inputs of linear operations are int8, as in the runtime. One layer's weights of
    each program are in memory at a time, and one activation per token and program.
    Shapes: windows each (t,) int64.
    """
    blocks = list(zip(split_blocks(reference), split_blocks(candidate), strict=True))
    exact = [torch.from_numpy(np.asarray(window))[None] for window in windows]
    near = list(exact)
    found = []
    for index, (block, own) in enumerate(blocks):
        found.append(_compare_block(_name(index, len(blocks)), block, own, exact, near))
        progress(index + 1)
    return found


def _name(index: int, count: int) -> str:
    if index == 0:
        return "embedding"
    return "head" if index == count - 1 else f"layer {index - 1}"


def _compare_block(
    name: str, block: Program, own: Program, exact: list[torch.Tensor], near: list[torch.Tensor]
) -> LayerError:
    """Replace the inputs of a block by its results, and measure these."""
    exact_store, near_store = TensorStore(), TensorStore()
    signal = noise = own_noise = cosines = 0.0
    positions = 0
    for index, (x, y) in enumerate(zip(exact, near, strict=True)):
        with torch.inference_mode():
            right = execute_block(block, x, store=exact_store)
            alone = execute_block(own, x, store=near_store, quantize_activations=True)
            wrong = execute_block(own, y, store=near_store, quantize_activations=True)
            signal += _power(right)
            noise += _power(right - wrong)
            own_noise += _power(right - alone)
            cosines += float(torch.cosine_similarity(right, wrong, dim=-1).double().sum())
        positions += right.shape[1]
        exact[index], near[index] = right, wrong
    cosine = cosines / positions
    return LayerError(name, _decibels(signal, noise), cosine, _decibels(signal, own_noise))


def _power(x: torch.Tensor) -> float:
    return float(x.double().square().sum())


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
