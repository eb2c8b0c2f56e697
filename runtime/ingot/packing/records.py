# SPDX-License-Identifier: Apache-2.0
"""A weight as a file's tensor record describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.format import Dtype, Layout, Sparsity
from ingot.packing.quantized import Quantized
from ingot.packing.unpacking import unpack

if TYPE_CHECKING:
    from ingot.container import Container

__all__ = ["unpack_record"]


def unpack_record(container: Container, tensor: int) -> Quantized:
    """Return codes and scales of the weight with a tensor id, whatever its format and layout.

    Raises: InvalidArgumentError if its bytes do not fit its record.
    """
    record = container.tensors[tensor]
    return unpack(
        container.tensor_bytes(tensor),
        Dtype(record.dtype),
        (record.shape[0], record.shape[1]),
        record.group,
        record.codebook,
        record.delta,
        Layout(record.layout),
        record.sparsity == Sparsity.SUPERBLOCK,
    )
