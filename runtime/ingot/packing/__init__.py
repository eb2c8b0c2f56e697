# SPDX-License-Identifier: Apache-2.0
"""Weight formats in NumPy: sizes, codes and scales, layout T16, int8 activations."""

from __future__ import annotations

from ingot import _numpy_start as _numpy_start  # before anything here loads NumPy
from ingot.packing.activations import quantize_activations, quantize_tokens
from ingot.packing.quantized import (
    Quantized,
    dequantize,
    integers,
    stored_bytes,
    stored_elements,
    zero_code,
)
from ingot.packing.records import unpack_record
from ingot.packing.sizes import (
    WEIGHT_DTYPES,
    WEIGHT_FORMATS,
    T16Geometry,
    WeightFormat,
    geometry,
    packed_bytes,
    payload_bytes,
    round_up,
    superblock_count,
    tile_bytes,
)
from ingot.packing.t16 import pack
from ingot.packing.unpacking import sparse_lists, unpack

__all__ = [
    "WEIGHT_DTYPES",
    "WEIGHT_FORMATS",
    "Quantized",
    "T16Geometry",
    "WeightFormat",
    "dequantize",
    "geometry",
    "integers",
    "pack",
    "packed_bytes",
    "payload_bytes",
    "quantize_activations",
    "quantize_tokens",
    "round_up",
    "sparse_lists",
    "stored_bytes",
    "stored_elements",
    "superblock_count",
    "tile_bytes",
    "unpack",
    "unpack_record",
    "zero_code",
]
