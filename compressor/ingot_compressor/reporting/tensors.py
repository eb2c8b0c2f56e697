# SPDX-License-Identifier: Apache-2.0
"""Every stored weight of a file: its format, its bytes, its error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingot.container import Container
from ingot.packing import unpack_record
from ingot_compressor.ir import Program, Weight
from ingot_compressor.numerics import relative_error
from ingot_compressor.passes.quantize import true_rows

__all__ = ["TensorError", "tensor_errors"]


@dataclass(frozen=True, slots=True)
class TensorError:
    """One stored weight. Units: bytes; signal to noise in dB, infinite where nothing was lost.

    `bits_per_weight` counts scales and padding, a codebook (at most 33 bytes) apart.
    """

    name: str
    format: str
    stored_bytes: int
    bits_per_weight: float
    decibels: float


def tensor_errors(program: Program, path: Path) -> Iterator[TensorError]:
    """Compare each weight of a file with the checkpoint's, one in memory at a time."""
    rows = true_rows(program)
    with Container(path) as container:
        for tensor in program.weights():
            if not isinstance(tensor.source, Weight):
                continue
            number = container.tensor_id(tensor.name)
            quantized = unpack_record(container, number)
            error = relative_error(tensor.source.load(), quantized)
            n, k = tensor.shape
            size = container.tensors[number].size
            yield TensorError(
                tensor.name,
                quantized.dtype.name.lower(),
                size,
                8 * size / (rows.get(tensor.name, n) * k),
                -10 * math.log10(error) if error > 0 else math.inf,
            )
